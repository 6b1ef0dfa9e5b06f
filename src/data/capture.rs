//! What a folder was recognised as, and the views that its files list: the part of loading before any image is read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use super::dataset::{Skipped, View};
use super::mask::MaskFile;
use super::options::Resize;
use super::{Image, colmap, llff, transforms};
use crate::camera::{Camera, Lens, Pose};
use crate::exchange::PointCloud;
use crate::{Error, Result};

/// How much the aspect ratio of an image may differ from the one of its camera. Rounding the size of a reduced image
/// stays far below it, a rotated image does not.
const ASPECT_TOLERANCE: f64 = 0.05;

/// A format of captures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Format {
    /// A reconstruction by COLMAP: `sparse/0/cameras.bin` and its neighbours.
    Colmap,
    /// `transforms.json`, or `transforms_{train,test,val}.json`: Blender (NeRF-synthetic), instant-ngp, nerfstudio,
    /// and what Polycam and Record3D export for them.
    #[default]
    Transforms,
    /// `poses_bounds.npy`, beside a folder of images in the order of its rows.
    Llff,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Colmap => "COLMAP",
            Self::Transforms => "transforms.json",
            Self::Llff => "LLFF",
        })
    }
}

/// What a folder was recognised as, its images not looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recognised {
    /// The format of the files that describe the capture.
    pub format: Format,
    /// The files, in words; [`super::Dataset::layout`] once it is loaded.
    pub layout: String,
    /// The number of views that the files list and that could be loaded if their images are there.
    pub num_views: usize,
    /// The number of points of the start cloud, 0 without one.
    pub num_points: usize,
    /// Whether the capture has a test split of its own.
    pub has_split: bool,
    /// Views that are listed with a camera or a pose that cannot be one.
    pub skipped: Vec<Skipped>,
}

/// Says what the capture in the folder `path` is, or the one that the file `path` describes, without reading images.
///
/// Looked for are, in this order, a COLMAP model (it has poses and points), `transforms_train.json`,
/// `transforms.json`, and `poses_bounds.npy`.
///
/// ```no_run
/// # fn main() -> candle_radfoam::Result<()> {
/// let recognised = candle_radfoam::data::recognise("path/to/capture")?;
/// println!("{}: {}, {} views", recognised.format, recognised.layout, recognised.num_views);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// If no format is recognised, or a file that describes the capture is broken.
pub fn recognise(path: impl AsRef<Path>) -> Result<Recognised> {
    let Capture { format, layout, listed, cloud, test, skipped, .. } = read(path.as_ref())?;
    let num_points = cloud.map_or(0, |cloud| cloud.points.len());
    Ok(Recognised { format, layout, num_views: listed.len(), num_points, has_split: test.is_some(), skipped })
}

/// A capture as its files describe it, its images not yet read.
#[derive(Debug, Clone, Default)]
pub(super) struct Capture {
    pub format: Format,
    pub layout: String,
    pub listed: Vec<Listed>,
    pub cloud: Option<PointCloud>,
    /// Points that say how far away the scene is where there is no cloud; nothing to start from.
    pub landmarks: Vec<[f64; 3]>,
    /// The names of the views of its own test split.
    pub test: Option<BTreeSet<String>>,
    /// See [`super::Dataset::applied_transform`].
    pub applied_transform: Option<[[f64; 4]; 3]>,
    pub skipped: Vec<Skipped>,
}

/// Reads what describes the capture in `path`. The split of a COLMAP model is the one of a `transforms_test.json`
/// beside it, if there is one.
pub(super) fn read(path: &Path) -> Result<Capture> {
    let found = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
    let mut capture = if found.is_dir() {
        read_folder(path)?
    } else if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("npy")) {
        llff::read_file(path)?
    } else {
        transforms::read_single(path)?
    };
    // A view is known by its name: to the split, to whoever asks for it, and to its scores.
    let mut names = BTreeSet::new();
    let (first, again): (Vec<_>, Vec<_>) = capture.listed.into_iter().partition(|view| names.insert(view.name.clone()));
    capture.listed = first;
    let reason = "a view of this name is listed before it";
    capture.skipped.extend(again.into_iter().map(|view| Skipped { name: view.name, reason: reason.into() }));
    // Of one picture with two poses, one is wrong; and it must not be trained on and held out.
    let mut files: BTreeMap<PathBuf, String> = BTreeMap::new();
    for view in std::mem::take(&mut capture.listed) {
        let file = view.file.canonicalize().ok().filter(|file| file.is_file());
        match file.as_ref().and_then(|file| files.get(file)) {
            Some(first) => {
                let reason = format!("its file is that of {first}");
                capture.skipped.push(Skipped { name: view.name, reason });
            }
            None => {
                files.extend(file.map(|file| (file, view.name.clone())));
                capture.listed.push(view);
            }
        }
    }
    Ok(capture)
}

fn read_folder(path: &Path) -> Result<Capture> {
    if let Some(folder) = colmap::find(path)? {
        let mut capture = colmap::read(path, folder)?;
        if let Some(names) = transforms::test_names(path)? {
            let listed: Vec<&str> = capture.listed.iter().map(|view| view.name.as_str()).collect();
            let own: BTreeSet<_> = names.iter().filter_map(|name| named(&listed, name)).collect();
            if !own.is_empty() {
                capture.test = Some(own);
                capture.layout += " and transforms_test.json";
            }
        }
        return Ok(capture);
    }
    if let Some(capture) = transforms::read(path)? {
        return Ok(capture);
    }
    llff::read(path)?.ok_or_else(|| {
        let expected = "a COLMAP model (sparse/0/cameras.bin or .txt), transforms_train.json, transforms.json or \
            poses_bounds.npy";
        Error::file(path, "capture", expected, "none of them")
    })
}

/// The view of a reconstruction that another file calls `name`: the one of that name, which may lie below a folder that
/// the reconstruction leaves out (`images/`); or else the only one whose last part is the same.
fn named(listed: &[&str], name: &str) -> Option<String> {
    let last = |name: &str| name.rsplit('/').next().unwrap_or_default().to_string();
    let ends = |view: &&&str| name.strip_suffix(**view).is_some_and(|rest| rest.is_empty() || rest.ends_with('/'));
    let whole = listed.iter().filter(ends).max_by_key(|view| view.len());
    let mut alike = listed.iter().filter(|view| last(view) == last(name));
    let only = alike.next().filter(|_| alike.next().is_none());
    whole.or(only).map(|view| view.to_string())
}

/// A focal length as a file gives it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Focal {
    /// In pixels, along x and y; a pixel at the axis is `1 / focal` radians wide.
    Pixels([f64; 2]),
    /// As full angles of view in radians, along x and perhaps y.
    Angles(f64, Option<f64>),
    /// The image shows the whole sphere, in longitude and latitude.
    Sphere,
}

/// Intrinsics as a file gives them: perhaps without a size, perhaps for another size than the image's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Intrinsics {
    pub size: Option<[f64; 2]>,
    pub focal: Focal,
    /// Along x and y, in pixels; the middle where a file does not say.
    pub center: [Option<f64>; 2],
    pub lens: Lens,
}

impl Intrinsics {
    /// Whether an image of `width` x `height` pixels can be one of this camera's, reduced or not.
    pub fn fits(&self, width: u32, height: u32) -> bool {
        self.size.is_none_or(|[w, h]| same_aspect([w, h], [f64::from(width), f64::from(height)]))
    }

    /// The camera of an image whose file has `width` x `height` pixels.
    pub fn camera(&self, pose: Pose, width: u32, height: u32) -> Result<Camera> {
        let [w, h] = self.size.unwrap_or([f64::from(width), f64::from(height)]);
        if !self.fits(width, height) {
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
            Focal::Sphere => [w / std::f64::consts::TAU, h / std::f64::consts::PI],
        };
        let [cx, cy] = [self.center[0].unwrap_or(0.5 * w), self.center[1].unwrap_or(0.5 * h)];
        let (sx, sy) = (f64::from(width) / w, f64::from(height) / h);
        let (fx, fy, cx, cy) = (fx * sx, fy * sy, cx * sx, cy * sy);
        let camera = Camera { width, height, fx, fy, cx, cy, lens: self.lens, world_from_camera: pose };
        camera.check()?;
        Ok(camera)
    }
}

/// Whether two sizes (width, height) are those of one picture, up to rounding; no size without pixels is.
pub(super) fn same_aspect(a: [f64; 2], b: [f64; 2]) -> bool {
    // Not a number, and thus false, for sizes of 0.
    (b[0] / a[0] / (b[1] / a[1]) - 1.0).abs() <= ASPECT_TOLERANCE
}

/// Whether two paths lead to one file.
pub(super) fn same_file(a: &Path, b: &Path) -> bool {
    a == b || a.canonicalize().ok().zip(b.canonicalize().ok()).is_some_and(|(a, b)| a == b)
}

/// A view as a capture lists it, its image not yet read.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    pub name: String,
    pub file: PathBuf,
    /// The file that says which pixels count.
    pub mask: Option<MaskFile>,
    pub intrinsics: Intrinsics,
    pub pose: Pose,
}

impl Listed {
    /// Reads the image and its mask, and makes the camera for their size.
    ///
    /// The image is turned upright as its EXIF data says only where the size in the file contradicts the camera's and
    /// the turned size does not: most tools read the pixels as they are stored, some turn them, and which it was shows
    /// in the camera's size alone.
    pub fn load(&self, resize: Resize) -> Result<View> {
        let mut found = None;
        let fits = |width, height| self.intrinsics.fits(width, height);
        let image = Image::open_upright(&self.file, &fits, |width, height| {
            let (w, h) = resize.size(width, height)?;
            found = Some((self.intrinsics.camera(self.pose, width, height)?.resized(w, h), [width, height]));
            Ok((w, h))
        })?;
        let (camera, size) = found.ok_or_else(|| Error::file(&self.file, "pixels", "an image", "none"))?;
        let mask = self.mask.as_ref().map(|mask| mask.read(size, [camera.width, camera.height])).transpose()?;
        // A mask that hides nothing says nothing.
        let mask = mask.filter(|mask| (mask.count() as usize) < mask.len());
        Ok(View { name: self.name.clone(), camera, image, mask })
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
            (Focal::Angles(..) | Focal::Sphere, Some((width, height))) => {
                self.intrinsics.camera(self.pose, width, height)
            }
            _ => Err(Error::config("w, h", "the size of an image that is not there", "none")),
        }
    }
}
