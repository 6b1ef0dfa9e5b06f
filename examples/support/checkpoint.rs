//! A trained foam from a run's folder or file, and the views to look at it from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::Device;
use candle_radfoam::camera::Camera;
use candle_radfoam::checkpoint::Checkpoint;
use candle_radfoam::data::{
    Dataset, ListedView, LoadOptions, Normalization, Resize, Skipped, TestViews, View, list_views, load,
};
use candle_radfoam::foam::Foam;
use candle_radfoam::train::{Background, Preset, TrainConfig, migrate_header};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The files in a run's folder.
pub const CHECKPOINT: &str = "checkpoint.safetensors";
pub const ERROR_MAP: &str = "error_map.safetensors";
pub const CLOCK: &str = "clock.json";
pub const CONFIG: &str = "config.toml";
pub const METRICS: &str = "metrics.jsonl";
pub const NON_FINITE: &str = "non_finite.json";
pub const RESULT: &str = "result.json";

/// What `train` leaves in the header for those who come after it. Nothing that a clock has a say in: the same run
/// gives the same bytes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RunHeader {
    pub capture: Option<PathBuf>,
    pub resize: Option<String>,
    pub test_views: Option<String>,
    /// What the settings were before any of them was changed.
    pub preset: Preset,
    /// What the file named by `--config` said where `--set` or flags said otherwise, by the names of the settings.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub overruled: BTreeMap<String, Value>,
}

impl RunHeader {
    pub fn new(capture: PathBuf, options: &LoadOptions, preset: Preset) -> Self {
        let (resize, test_views) = (options.resize.to_string(), options.test_views.to_string());
        let overruled = BTreeMap::new();
        Self { capture: Some(capture), resize: Some(resize), test_views: Some(test_views), preset, overruled }
    }

    /// How the capture was loaded.
    pub fn options(&self) -> Result<LoadOptions> {
        let resize = self.resize.as_ref().map_or(Ok(Resize::default()), |text| text.parse())?;
        let test_views = self.test_views.as_ref().map_or(Ok(TestViews::default()), |text| text.parse())?;
        Ok(LoadOptions { resize, test_views })
    }
}

/// A camera in the foam's units, and the view with its image if there is one.
#[derive(Debug)]
pub struct PosedView {
    pub name: String,
    pub camera: Camera,
    pub view: Option<View>,
}

impl From<View> for PosedView {
    fn from(view: View) -> Self {
        Self { name: view.name.clone(), camera: view.camera, view: Some(view) }
    }
}

/// A trained foam, and where it came from.
#[derive(Debug)]
pub struct Trained {
    pub foam: Foam,
    pub config: TrainConfig,
    pub path: PathBuf,
    pub normalization: Normalization,
    capture: Option<PathBuf>,
    options: LoadOptions,
}

impl Trained {
    /// Reads a checkpoint, or the one in a run's folder.
    pub fn load(path: &Path) -> Result<Self> {
        let path = if path.is_dir() { path.join(CHECKPOINT) } else { path.to_path_buf() };
        let mut checkpoint = Checkpoint::load(&path, &Device::Cpu)?;
        migrate_header(&path, &mut checkpoint.header)?;
        let run: Option<RunHeader> = checkpoint.field(&path, "run")?;
        let run = run.unwrap_or_default();
        Ok(Self {
            foam: Foam::from_checkpoint(&checkpoint, &path)?,
            config: checkpoint.field(&path, "config")?,
            normalization: checkpoint.field(&path, "normalization")?,
            options: run.options()?,
            capture: run.capture,
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
        let hint = || "the capture of the run cannot be read; if it has moved, name its place with --capture";
        let loaded = load(path, &self.options);
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
        let (views, skipped) = list_views(path, self.options.resize, size)?;
        let posed = views.into_iter().map(|ListedView { name, camera, image, mask }| {
            let camera = self.normalization.apply_camera(&camera);
            let view = image.map(|image| View { name: name.clone(), camera, image, mask });
            PosedView { name, camera, view }
        });
        Ok((posed.collect(), skipped))
    }
}

/// Colours of a rendering or an image, interleaved.
pub fn flat(rgb: &[[f32; 3]]) -> &[f32] {
    rgb.as_flattened()
}

/// Reads a size such as `640x480`, and nothing else that [`Resize`] knows.
pub fn parse_size(text: &str) -> Result<(u32, u32)> {
    match text.parse() {
        Ok(Resize::Size { width, height }) => Ok((width, height)),
        _ => bail!("expected WIDTHxHEIGHT in pixels, as 640x480"),
    }
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
