//! Loading a capture: layout, poses, images, split, start cloud, normalisation.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::normalization::{Normalization, extent};
use super::{Image, colmap, transforms};
use crate::camera::{Camera, Lens, Pose};
use crate::exchange::PointCloud;
use crate::{Error, Result};

/// Every how manieth view is held out when a capture has no split of its own, as Mip-NeRF 360 does it.
const HELD_OUT: usize = 8;
/// How much the aspect ratio of an image may differ from the one of its camera. Rounding the size of a reduced image
/// stays far below it, a rotated image does not.
const ASPECT_TOLERANCE: f64 = 0.05;

/// An image with its camera, in normalised units.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// The name of the image in the capture.
    pub name: String,
    /// The camera, at the image's size.
    pub camera: Camera,
    /// The image.
    pub image: Image,
}

/// A view of the capture that could not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The name of the image in the capture.
    pub name: String,
    /// Why it was left out.
    pub reason: String,
}

/// A capture in memory, in normalised units.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// What the capture was recognised as.
    pub layout: String,
    /// The views to train on, sorted by name.
    pub train: Vec<View>,
    /// The views held out, sorted by name.
    pub test: Vec<View>,
    /// Points of the scene, from structure from motion.
    pub point_cloud: Option<PointCloud>,
    /// From the capture's world to the units of everything else here.
    pub normalization: Normalization,
    /// Half the size of the region of interest around the origin: the median distance of the points, or without
    /// points the half-width that the cameras see at the origin.
    pub extent: f64,
    /// The views that are not here, sorted by name.
    pub skipped: Vec<Skipped>,
    /// Whether any image has transparent pixels.
    pub has_alpha: bool,
}

/// The size at which images are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Resize {
    /// As in the files.
    #[default]
    None,
    /// Both sides divided by a factor, rounded.
    Downsample(u32),
    /// Every image at this size, not larger than in its file.
    Size {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
}

impl Resize {
    /// The size for an image of `width` x `height` pixels.
    ///
    /// # Errors
    ///
    /// If the setting has a zero in it, or asks for a size beyond the file's.
    pub fn size(self, width: u32, height: u32) -> Result<(u32, u32)> {
        match self {
            Self::None => Ok((width, height)),
            Self::Downsample(0) => Err(Error::config("resize", "a factor of at least 1", "0")),
            Self::Downsample(factor) => Ok((divide(width, factor), divide(height, factor))),
            Self::Size { width: w, height: h } if (1..=width).contains(&w) && (1..=height).contains(&h) => Ok((w, h)),
            Self::Size { width: w, height: h } => {
                let expected = format!("a size from 1x1 to the file's {width}x{height}");
                Err(Error::config("resize", expected, format!("{w}x{h}")))
            }
        }
    }
}

/// `length / factor`, rounded, at least one pixel.
fn divide(length: u32, factor: u32) -> u32 {
    let rounded = (u64::from(length) + u64::from(factor / 2)) / u64::from(factor);
    (rounded as u32).max(1)
}

impl FromStr for Resize {
    type Err = Error;

    /// `none`, a factor (`4`) or a size (`640x480`).
    fn from_str(text: &str) -> Result<Self> {
        let parsed = match text.split_once('x') {
            _ if text == "none" => Some(Self::None),
            Some((w, h)) => w.parse().ok().zip(h.parse().ok()).map(|(width, height)| Self::Size { width, height }),
            None => text.parse().ok().map(Self::Downsample),
        };
        let positive = parsed
            .filter(|resize| !matches!(resize, Self::Downsample(0)))
            .filter(|resize| !matches!(resize, Self::Size { width, height } if *width == 0 || *height == 0));
        positive.ok_or_else(|| Error::config("resize", "none, a factor or WIDTHxHEIGHT", format!("\"{text}\"")))
    }
}

impl fmt::Display for Resize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Downsample(factor) => write!(f, "{factor}"),
            Self::Size { width, height } => write!(f, "{width}x{height}"),
        }
    }
}

/// Which views are held out for testing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum TestViews {
    /// The capture's own split; if it has none, every 8th view by name, the first included.
    #[default]
    Default,
    /// Every `n`th of all views by name, beginning with the one of index `offset < n`.
    Every {
        /// One of how many is held out.
        n: usize,
        /// Index of the first that is.
        offset: usize,
    },
    /// The views of these names, with or without folder and ending.
    Names(Vec<String>),
}

impl FromStr for TestViews {
    type Err = Error;

    /// `default`, `every:N[:OFFSET]` or `NAME,NAME,...`.
    fn from_str(text: &str) -> Result<Self> {
        let refuse = |found: &str| {
            let expected = "default, every:N[:OFFSET] with OFFSET < N, or NAME,NAME,...";
            Error::config("test_views", expected, format!("\"{found}\""))
        };
        if text == "default" {
            return Ok(Self::Default);
        }
        if let Some(every) = text.strip_prefix("every:") {
            let (n, offset) = every.split_once(':').unwrap_or((every, "0"));
            let (n, offset) = n.parse().ok().zip(offset.parse().ok()).ok_or_else(|| refuse(text))?;
            return if offset < n { Ok(Self::Every { n, offset }) } else { Err(refuse(text)) };
        }
        let names: Vec<String> = text.split(',').map(|name| name.trim().to_string()).collect();
        if names.iter().any(String::is_empty) {
            return Err(refuse(text));
        }
        Ok(Self::Names(names))
    }
}

impl fmt::Display for TestViews {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Every { n, offset } => write!(f, "every:{n}:{offset}"),
            Self::Names(names) => f.write_str(&names.join(",")),
        }
    }
}

/// What to load of a capture, and how.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LoadOptions {
    /// The size at which images are kept. Default: as in the files.
    pub resize: Resize,
    /// Which views are held out. Default: the capture's own split, or every 8th.
    pub test_views: TestViews,
}

/// A focal length as a file gives it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Focal {
    /// In pixels, along x and y.
    Pixels([f64; 2]),
    /// As full angles of view in radians, along x and perhaps y.
    Angles(f64, Option<f64>),
}

/// Intrinsics as a file gives them: perhaps without a size, perhaps for another size than the image's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Intrinsics {
    pub size: Option<[f64; 2]>,
    pub focal: Focal,
    pub center: Option<[f64; 2]>,
    pub lens: Lens,
}

impl Intrinsics {
    /// The camera of an image whose file has `width` x `height` pixels.
    fn camera(&self, pose: Pose, width: u32, height: u32) -> Result<Camera> {
        let [w, h] = self.size.unwrap_or([f64::from(width), f64::from(height)]);
        let (sx, sy) = (f64::from(width) / w, f64::from(height) / h);
        let stretch = (sx / sy - 1.0).abs();
        if stretch.is_nan() || stretch > ASPECT_TOLERANCE {
            let expected = format!("the aspect ratio of the camera's {w}x{h}");
            return Err(Error::config("image size", expected, format!("{width}x{height}")));
        }
        let [fx, fy] = match self.focal {
            Focal::Pixels(focal) => focal,
            Focal::Angles(x, y) => {
                let focal = |angle: f64, side: f64| 0.5 * side / (0.5 * angle).tan();
                let fx = focal(x, w);
                [fx, y.map_or(fx, |angle| focal(angle, h))]
            }
        };
        let [cx, cy] = self.center.unwrap_or([0.5 * w, 0.5 * h]);
        let (fx, fy, cx, cy) = (fx * sx, fy * sy, cx * sx, cy * sy);
        let camera = Camera { width, height, fx, fy, cx, cy, lens: self.lens, world_from_camera: pose };
        camera.check()?;
        Ok(camera)
    }
}

/// A view as a capture lists it, its image not yet read.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    pub name: String,
    pub file: PathBuf,
    /// The file that says which pixels count.
    #[expect(dead_code, reason = "named by the formats, not read yet")]
    pub mask: Option<PathBuf>,
    pub intrinsics: Intrinsics,
    pub pose: Pose,
}

impl Listed {
    pub fn load(&self, resize: Resize) -> Result<View> {
        let mut camera = None;
        let image = Image::open(&self.file, |width, height| {
            let (w, h) = resize.size(width, height)?;
            camera = Some(self.intrinsics.camera(self.pose, width, height)?.resized(w, h));
            Ok((w, h))
        })?;
        let camera = camera.ok_or_else(|| Error::file(&self.file, "pixels", "an image", "none"))?;
        Ok(View { name: self.name.clone(), camera, image })
    }

    /// The camera at the size that its capture gives, reduced by `resize`; or, where the capture gives angles of view
    /// and no size, at `default_size` (width, height).
    pub fn camera_without_image(&self, resize: Resize, default_size: Option<(u32, u32)>) -> Result<Camera> {
        let pixels = |side: f64| (side >= 1.0 && side <= f64::from(u32::MAX)).then_some(side.round() as u32);
        if let Some((width, height)) = self.intrinsics.size.and_then(|[w, h]| pixels(w).zip(pixels(h))) {
            let (w, h) = resize.size(width, height)?;
            return Ok(self.intrinsics.camera(self.pose, width, height)?.resized(w, h));
        }
        match (self.intrinsics.focal, default_size) {
            (Focal::Angles(..), Some((width, height))) => self.intrinsics.camera(self.pose, width, height),
            _ => Err(Error::config("w, h", "the size of an image that is not there", "none")),
        }
    }
}

/// A capture as its files describe it, its images not yet read.
#[derive(Debug, Clone, Default)]
pub(super) struct Capture {
    pub layout: String,
    pub listed: Vec<Listed>,
    pub cloud: Option<PointCloud>,
    /// The names of the views of its own test split.
    pub test: Option<BTreeSet<String>>,
    pub skipped: Vec<Skipped>,
}

/// Recognises the layout in `path`. A COLMAP model comes first, as it has poses and points; its split is the one of
/// a `transforms_test.json` beside it, if there is one.
pub(super) fn recognise(path: &Path) -> Result<Capture> {
    if path.is_file() {
        return transforms::read_single(path);
    }
    if !path.is_dir() {
        return Err(Error::io(path, std::io::Error::from(std::io::ErrorKind::NotFound)));
    }
    let described = path.join("transforms_train.json").is_file() || path.join("transforms.json").is_file();
    let model = match colmap::find(path) {
        // A text model is no obstacle where there are other files to read.
        Err(_) if described => None,
        model => model?,
    };
    if let Some(folder) = model {
        let mut capture = colmap::read(path, folder)?;
        if let Some(names) = transforms::test_names(path)? {
            let last = |name: &str| name.rsplit('/').next().unwrap_or(name).to_string();
            let own = capture.listed.iter().map(|view| view.name.clone()).filter(|name| names.contains(&last(name)));
            let own: BTreeSet<_> = own.collect();
            if !own.is_empty() {
                capture.test = Some(own);
                capture.layout += " and transforms_test.json";
            }
        }
        return Ok(capture);
    }
    transforms::read(path)?.ok_or_else(|| {
        let expected = "transforms_train.json, transforms.json or a COLMAP model (sparse/0/cameras.bin)";
        Error::file(path, "capture", expected, "none of them")
    })
}

/// Loads the capture in the folder `path`, or the one that the file `path` (a `transforms.json`) describes.
///
/// Recognised are Blender's `transforms_{train,test,val}.json`, the `transforms.json` of instant-ngp and nerfstudio,
/// and COLMAP's binary models. Views whose image is missing or broken are left out and listed in
/// [`Dataset::skipped`]. Images are decoded on all cores; the result does not depend on how many there are.
/// Masks and depth images that a capture may list are not read.
///
/// ```no_run
/// use candle_radfoam::data::{LoadOptions, Resize, load};
///
/// # fn main() -> candle_radfoam::Result<()> {
/// let options = LoadOptions { resize: Resize::Downsample(4), test_views: "every:8".parse()? };
/// let dataset = load("path/to/capture", &options)?;
/// println!("{}: {} + {} views", dataset.layout, dataset.train.len(), dataset.test.len());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// If no layout is recognised, a file that describes the capture is broken, a camera model is not supported, the
/// test views are not there, or no view is left to train on.
pub fn load(path: impl AsRef<Path>, options: &LoadOptions) -> Result<Dataset> {
    load_with_progress(path, options, &|_, _| {})
}

/// Like [`load`], calling `progress(done, total)` after each image, from any thread.
///
/// # Errors
///
/// As [`load`].
pub fn load_with_progress(
    path: impl AsRef<Path>,
    options: &LoadOptions,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Dataset> {
    let path = path.as_ref();
    // A setting that no image can satisfy is an error of its own, not a reason to leave every view out.
    options.resize.size(u32::MAX, u32::MAX)?;
    let Capture { layout, listed, cloud, test, mut skipped } = recognise(path)?;
    let num_listed = listed.len() + skipped.len();
    let (mut present, missing): (Vec<_>, Vec<_>) = listed.into_iter().partition(|view| view.file.is_file());
    let absent = |view: Listed| Skipped { reason: format!("no such file: {}", view.file.display()), name: view.name };
    skipped.extend(missing.into_iter().map(absent));
    present.sort_by(|a, b| a.name.cmp(&b.name));
    let names: Vec<&str> = present.iter().map(|view| view.name.as_str()).collect();
    let held_out = held_out(&names, &options.test_views, test.as_ref())?;

    let done = AtomicUsize::new(0);
    let loaded: Vec<Result<View>> = present
        .par_iter()
        .map(|view| {
            let loaded = view.load(options.resize);
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, present.len());
            loaded
        })
        .collect();
    let (mut train, mut test) = (Vec::new(), Vec::new());
    for ((loaded, view), held_out) in loaded.into_iter().zip(&present).zip(held_out) {
        match loaded {
            Ok(view) if held_out => test.push(view),
            Ok(view) => train.push(view),
            Err(error) => skipped.push(Skipped { name: view.name.clone(), reason: error.to_string() }),
        }
    }
    skipped.sort_by(|a, b| a.name.cmp(&b.name));
    if train.is_empty() {
        let first = skipped.first().map(|first| format!("; {}: {}", first.name, first.reason)).unwrap_or_default();
        let found = format!("none of {num_listed} ({} held out, {} unusable{first})", test.len(), skipped.len());
        return Err(Error::file(path, "views", "at least one to train on", found));
    }
    let mut dataset = Dataset::new(layout, train, test, cloud)?;
    dataset.skipped = skipped;
    Ok(dataset)
}

/// For each of the sorted `names`, whether it is held out.
fn held_out(names: &[&str], test_views: &TestViews, own: Option<&BTreeSet<String>>) -> Result<Vec<bool>> {
    let every = |n: usize, offset: usize| (0..names.len()).map(|i| i % n == offset).collect();
    match (test_views, own) {
        (TestViews::Default, Some(own)) => Ok(names.iter().map(|&name| own.contains(name)).collect()),
        // A single view is for training.
        (TestViews::Default, None) if names.len() == 1 => Ok(vec![false]),
        (TestViews::Default, None) => Ok(every(HELD_OUT, 0)),
        (&TestViews::Every { n, offset }, _) if offset < n => Ok(every(n, offset)),
        (TestViews::Every { n, offset }, _) => {
            Err(Error::config("test_views", format!("an offset below {n}"), offset.to_string()))
        }
        (TestViews::Names(wanted), _) => {
            let mut held_out = vec![false; names.len()];
            for wanted in wanted {
                let exact = names.iter().position(|name| name == wanted);
                let alike = || (0..names.len()).filter(|&i| same_view(names[i], wanted)).collect();
                match exact.map_or_else(alike, |i| vec![i])[..] {
                    [one] => held_out[one] = true,
                    ref found => {
                        let found = found.iter().map(|&i| names[i]).collect::<Vec<_>>().join(", ");
                        let found = if found.is_empty() { "none".to_string() } else { found };
                        return Err(Error::config("test_views", format!("one view named {wanted}"), found));
                    }
                }
            }
            Ok(held_out)
        }
    }
}

/// Whether `wanted` is the last part of `name`, with or without its ending.
fn same_view(name: &str, wanted: &str) -> bool {
    let last = name.rsplit('/').next().unwrap_or(name);
    last == wanted || last.rsplit_once('.').is_some_and(|(stem, _)| stem == wanted)
}

impl Dataset {
    /// A dataset of views and points in one world of any units, which this normalises.
    ///
    /// # Errors
    ///
    /// If there is no view to train on, or a camera is broken or not of its image's size.
    pub fn new(
        layout: impl Into<String>,
        mut train: Vec<View>,
        mut test: Vec<View>,
        point_cloud: Option<PointCloud>,
    ) -> Result<Self> {
        if train.is_empty() {
            return Err(Error::config("train views", "at least one", "none"));
        }
        for View { name, camera, image } in train.iter().chain(&test) {
            camera.check()?;
            if (camera.width, camera.height) != (image.width, image.height) {
                let expected = format!("an image of {}x{}", camera.width, camera.height);
                return Err(Error::config(name, expected, format!("{}x{}", image.width, image.height)));
            }
        }
        let mut point_cloud = point_cloud.filter(|cloud| !cloud.points.is_empty());
        let cameras: Vec<Camera> = train.iter().chain(&test).map(|view| view.camera).collect();
        let points = point_cloud.as_ref().map_or(&[][..], |cloud| &cloud.points);
        let normalization = Normalization::of(&cameras, points);
        for view in train.iter_mut().chain(&mut test) {
            view.camera = normalization.apply_camera(&view.camera);
        }
        for point in point_cloud.iter_mut().flat_map(|cloud| &mut cloud.points) {
            *point = normalization.apply(*point);
        }
        Ok(Self {
            layout: layout.into(),
            extent: extent(&train, point_cloud.as_ref()),
            has_alpha: train.iter().chain(&test).any(|view| view.image.channels == 4),
            train,
            test,
            point_cloud,
            normalization,
            skipped: Vec::new(),
        })
    }

    /// The dataset with both sides of every image divided by `factor`, for a schedule of resolutions.
    ///
    /// Only the reduced images take new memory; poses, points and units stay the same.
    ///
    /// # Errors
    ///
    /// If `factor` is 0.
    pub fn resized(&self, factor: u32) -> Result<Self> {
        let resize = Resize::Downsample(factor);
        let reduce = |views: &[View]| -> Result<Vec<View>> {
            let reduced = views.par_iter().map(|View { name, camera, image }| {
                let (width, height) = resize.size(image.width, image.height)?;
                let image = if factor == 1 { image.clone() } else { image.reduced(width, height) };
                Ok(View { name: name.clone(), camera: camera.resized(width, height), image })
            });
            reduced.collect()
        };
        Ok(Self {
            train: reduce(&self.train)?,
            test: reduce(&self.test)?,
            layout: self.layout.clone(),
            point_cloud: self.point_cloud.clone(),
            skipped: self.skipped.clone(),
            ..*self
        })
    }
}
