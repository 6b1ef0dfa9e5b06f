//! A trained foam from a run's folder or file, and the views to look at it from.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use candle_core::Device;
use candle_radfoam::camera::Camera;
use candle_radfoam::checkpoint::Checkpoint;
use candle_radfoam::data::{
    Dataset, Image, LoadOptions, Normalization, Resize, Skipped, TestViews, View, list_views, load,
};
use candle_radfoam::foam::{Foam, Rendering};
use candle_radfoam::train::{Background, FORMAT_VERSION, TrainConfig};
use serde::Deserialize;

/// The name of the checkpoint in a run's folder.
const FILE_NAME: &str = "checkpoint.safetensors";

/// What `train` leaves in the header for those who come after it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RunHeader {
    capture: Option<PathBuf>,
    resize: Option<String>,
    test_views: Option<String>,
}

/// A camera in the foam's units, and its image if there is one.
#[derive(Debug)]
pub struct PosedView {
    pub name: String,
    pub camera: Camera,
    pub image: Option<Image>,
}

impl From<View> for PosedView {
    fn from(View { name, camera, image }: View) -> Self {
        Self { name, camera, image: Some(image) }
    }
}

/// A trained foam, and where it came from.
#[derive(Debug)]
pub struct Trained {
    pub foam: Foam,
    pub config: TrainConfig,
    pub path: PathBuf,
    normalization: Normalization,
    capture: Option<PathBuf>,
    resize: Resize,
    test_views: TestViews,
}

impl Trained {
    /// Reads a checkpoint, or the one in a run's folder.
    pub fn load(path: &Path) -> Result<Self> {
        let path = if path.is_dir() { path.join(FILE_NAME) } else { path.to_path_buf() };
        let checkpoint = Checkpoint::load(&path, &Device::Cpu)?;
        let version: u32 = checkpoint.field(&path, "format_version")?;
        ensure!(
            version == FORMAT_VERSION,
            "{}: format version {version}, and this program reads {FORMAT_VERSION}",
            path.display()
        );
        let run: Option<RunHeader> = checkpoint.field(&path, "run")?;
        let run = run.unwrap_or_default();
        Ok(Self {
            foam: Foam::from_checkpoint(&checkpoint, &path)?,
            config: checkpoint.field(&path, "config")?,
            normalization: checkpoint.field(&path, "normalization")?,
            capture: run.capture,
            resize: run.resize.map_or(Ok(Resize::default()), |text| text.parse())?,
            test_views: run.test_views.map_or(Ok(TestViews::default()), |text| text.parse())?,
            path,
        })
    }

    /// What was behind the foam in training.
    pub fn background(&self) -> Background {
        self.config.background.unwrap_or(Background::White)
    }

    /// The capture that the foam was trained on, or the one in `other`, in the foam's units.
    pub fn dataset(&self, other: Option<&Path>) -> Result<Dataset> {
        let Some(path) = other.or(self.capture.as_deref()) else {
            bail!("{} does not say which capture it was trained on; name it with --capture", self.path.display());
        };
        let options = LoadOptions { resize: self.resize, test_views: self.test_views.clone() };
        let hint = || "the capture of the run cannot be read; if it has moved, name its place with --capture";
        let loaded = load(path, &options);
        let mut dataset = if other.is_none() { loaded.with_context(hint)? } else { loaded? };
        // The same capture has the same units. One with other cameras (or fewer) of the same world has its own.
        let own = dataset.normalization;
        if own != self.normalization {
            for view in dataset.train.iter_mut().chain(&mut dataset.test) {
                view.camera = self.normalization.apply_camera(&own.invert_camera(&view.camera));
            }
            dataset.normalization = self.normalization;
        }
        Ok(dataset)
    }

    /// The cameras of another file of transforms (or capture) of the same world; `size` is for those that have neither
    /// size nor image.
    pub fn listed(&self, path: &Path, size: Option<(u32, u32)>) -> Result<(Vec<PosedView>, Vec<Skipped>)> {
        let (views, skipped) = list_views(path, self.resize, size)?;
        let posed = views.into_iter().map(|view| PosedView {
            name: view.name,
            camera: self.normalization.apply_camera(&view.camera),
            image: view.image,
        });
        Ok((posed.collect(), skipped))
    }
}

/// Colours of a rendering or an image, interleaved.
pub fn flat(rgb: &[[f32; 3]]) -> &[f32] {
    rgb.as_flattened()
}

/// Median depths of a rendering, 0 where there is none.
pub fn depth(rendering: &Rendering) -> Vec<f32> {
    rendering.depth.iter().map(|&depth| depth.max(0.0)).collect()
}

/// A file's name for the view `name`: its folders and ending are no part of it, unless two views would share it.
pub fn file_stems(names: &[&str]) -> Vec<String> {
    let stem = |name: &str| Path::new(name).file_stem().map_or(name.to_string(), |s| s.to_string_lossy().into_owned());
    let mut stems: Vec<String> = names.iter().map(|name| stem(name)).collect();
    let mut sorted = stems.clone();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.len() < stems.len() {
        stems =
            names.iter().enumerate().map(|(i, name)| format!("{i:04}_{}", name.replace(['/', '\\'], "_"))).collect();
    }
    stems
}
