//! COLMAP's binary reconstructions: `cameras.bin`, `images.bin`, `points3D.bin`
//! (layout: `src/colmap/scene/reconstruction_io_binary.cc`; models: `src/colmap/sensor/models.h`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::capture::{Capture, Focal, Format, Intrinsics, Listed};
use crate::camera::{Lens, Pose};
use crate::exchange::PointCloud;
use crate::{Error, Result};

/// Names of COLMAP's camera models, by their id.
const MODELS: [&str; 12] = [
    "SIMPLE_PINHOLE",
    "PINHOLE",
    "SIMPLE_RADIAL",
    "RADIAL",
    "OPENCV",
    "OPENCV_FISHEYE",
    "FULL_OPENCV",
    "FOV",
    "SIMPLE_RADIAL_FISHEYE",
    "RADIAL_FISHEYE",
    "THIN_PRISM_FISHEYE",
    "RAD_TAN_THIN_PRISM_FISHEYE",
];
const SUPPORTED: &str = "SIMPLE_PINHOLE, PINHOLE, SIMPLE_RADIAL, RADIAL or OPENCV";

/// Where a reconstruction may lie in a capture, the usual place first.
const FOLDERS: [&str; 3] = ["sparse/0", "sparse", "."];

/// The folder of `root` that holds a reconstruction.
///
/// # Errors
///
/// If the only one is a text model, which is not read.
pub(super) fn find(root: &Path) -> Result<Option<&'static str>> {
    let holds = |file: &str| FOLDERS.into_iter().find(|folder| root.join(folder).join(file).is_file());
    match (holds("cameras.bin"), holds("cameras.txt")) {
        (None, Some(folder)) => Err(Error::file(
            root.join(folder),
            "model",
            "cameras.bin, images.bin, points3D.bin (`colmap model_converter --output_type BIN` writes them)",
            "cameras.txt",
        )),
        (binary, _) => Ok(binary),
    }
}

/// Reads the reconstruction in `root`/`folder`; images are looked for in `root`/images, then in `root`.
pub(super) fn read(root: &Path, folder: &str) -> Result<Capture> {
    let model = root.join(folder);
    let cameras = read_cameras(&model.join("cameras.bin"))?;
    let listed = read_images(&model.join("images.bin"), root, &cameras)?;
    let points = model.join("points3D.bin");
    let cloud = if points.is_file() { Some(read_points(&points)?) } else { None };
    let layout = format!("COLMAP ({folder}, {} camera{})", cameras.len(), if cameras.len() == 1 { "" } else { "s" });
    Ok(Capture { format: Format::Colmap, layout, listed, cloud, ..Capture::default() })
}

/// A file's bytes, read field by field.
struct Fields<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    record: String,
}

impl<'a> Fields<'a> {
    fn take(&mut self, size: usize, field: &str) -> Result<&'a [u8]> {
        let Some((head, rest)) = self.bytes.split_at_checked(size) else {
            let found = format!("the end of the file, {} bytes on", self.bytes.len());
            return Err(Error::file(self.path, format!("{}{field}", self.record), format!("{size} bytes"), found));
        };
        self.bytes = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self, field: &str) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N, field)?);
        Ok(bytes)
    }

    fn u32(&mut self, field: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    fn u64(&mut self, field: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    /// A finite number.
    fn f64(&mut self, field: &str) -> Result<f64> {
        let value = f64::from_le_bytes(self.array(field)?);
        if value.is_finite() {
            return Ok(value);
        }
        Err(Error::file(self.path, format!("{}{field}", self.record), "a finite number", value.to_string()))
    }

    fn f64s<const N: usize>(&mut self, field: &str) -> Result<[f64; N]> {
        let mut values = [0.0; N];
        for value in &mut values {
            *value = self.f64(field)?;
        }
        Ok(values)
    }

    /// The number of records of at least `least` bytes that follow, checked against the bytes that are there.
    fn count(&mut self, field: &str, least: usize) -> Result<usize> {
        let count = self.u64(field)?;
        let most = self.bytes.len() / least;
        usize::try_from(count).ok().filter(|&count| count <= most).ok_or_else(|| {
            let expected = format!("at most {most}, for the {} bytes that follow", self.bytes.len());
            Error::file(self.path, format!("{}{field}", self.record), expected, count.to_string())
        })
    }

    /// Passes over `count` rows of `size` bytes each.
    fn skip(&mut self, count: usize, size: usize, field: &str) -> Result<()> {
        self.take(count * size, field).map(drop)
    }
}

fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Error::io(path, e))
}

fn read_cameras(path: &Path) -> Result<BTreeMap<u32, Intrinsics>> {
    let bytes = read_bytes(path)?;
    let mut fields = Fields { path, bytes: &bytes, record: String::new() };
    // An id, a model and a size: what a camera has before its parameters.
    let count = fields.count("number of cameras", 4 + 4 + 8 + 8)?;
    let mut cameras = BTreeMap::new();
    for _ in 0..count {
        fields.record = "camera: ".into();
        let id = fields.u32("id")?;
        fields.record = format!("camera {id}: ");
        let model = fields.u32("model")?;
        let size = [fields.u64("width")? as f64, fields.u64("height")? as f64];
        let refuse = |found: String| Err(Error::file(path, format!("camera {id}: model"), SUPPORTED, found));
        let Some(&name) = MODELS.get(model as usize) else { return refuse(format!("number {model}")) };
        let (focal, center, lens) = match name {
            "SIMPLE_PINHOLE" => {
                let [f, cx, cy] = fields.f64s("parameters")?;
                ([f, f], [cx, cy], Lens::Pinhole)
            }
            "PINHOLE" => {
                let [fx, fy, cx, cy] = fields.f64s("parameters")?;
                ([fx, fy], [cx, cy], Lens::Pinhole)
            }
            "SIMPLE_RADIAL" => {
                let [f, cx, cy, k1] = fields.f64s("parameters")?;
                ([f, f], [cx, cy], Lens::open_cv(k1, 0.0, 0.0, 0.0))
            }
            "RADIAL" => {
                let [f, cx, cy, k1, k2] = fields.f64s("parameters")?;
                ([f, f], [cx, cy], Lens::open_cv(k1, k2, 0.0, 0.0))
            }
            "OPENCV" => {
                let [fx, fy, cx, cy, k1, k2, p1, p2] = fields.f64s("parameters")?;
                ([fx, fy], [cx, cy], Lens::open_cv(k1, k2, p1, p2))
            }
            _ => return refuse(name.into()),
        };
        let focal = Focal::Pixels(focal);
        cameras.insert(id, Intrinsics { size: Some(size), focal, center: Some(center), lens });
    }
    Ok(cameras)
}

fn read_images(path: &Path, root: &Path, cameras: &BTreeMap<u32, Intrinsics>) -> Result<Vec<Listed>> {
    let bytes = read_bytes(path)?;
    let mut fields = Fields { path, bytes: &bytes, record: String::new() };
    // An id, a pose, a camera, an empty name's end and a number of observations.
    let count = fields.count("number of images", 4 + 7 * 8 + 4 + 1 + 8)?;
    let mut listed = Vec::with_capacity(count);
    for _ in 0..count {
        fields.record = "image: ".into();
        let id = fields.u32("id")?;
        fields.record = format!("image {id}: ");
        let quaternion = fields.f64s("quaternion")?;
        let translation = fields.f64s("translation")?;
        let camera = fields.u32("camera id")?;
        let end = fields.bytes.iter().position(|&b| b == 0).unwrap_or(fields.bytes.len());
        let name = String::from_utf8_lossy(fields.take(end, "name")?).into_owned();
        fields.take(1, "end of the name")?;
        // Position (two doubles) and 3D point of each observation.
        let observations = fields.count("number of observations", 8 + 8 + 8)?;
        fields.skip(observations, 8 + 8 + 8, "observations")?;
        let Some(&intrinsics) = cameras.get(&camera) else {
            let expected = format!("one of the {} cameras of cameras.bin", cameras.len());
            return Err(Error::file(path, format!("image {id}: camera id"), expected, camera.to_string()));
        };
        let pose = Pose::from_colmap(quaternion, translation);
        let pose = pose.map_err(|e| Error::file(path, format!("image {id}: pose"), "a rigid pose", e.to_string()))?;
        let places: [PathBuf; 2] = [root.join("images").join(&name), root.join(&name)];
        let file = places.iter().find(|place| place.is_file()).unwrap_or(&places[0]).clone();
        listed.push(Listed { name, file, mask: None, intrinsics, pose });
    }
    Ok(listed)
}

fn read_points(path: &Path) -> Result<PointCloud> {
    let bytes = read_bytes(path)?;
    let mut fields = Fields { path, bytes: &bytes, record: String::new() };
    // An id, a position, a colour, an error and the length of a track.
    let count = fields.count("number of points", 8 + 3 * 8 + 3 + 8 + 8)?;
    let mut points = Vec::with_capacity(count);
    let mut colors = Vec::with_capacity(count);
    for _ in 0..count {
        fields.record = "point: ".into();
        let id = fields.u64("id")?;
        fields.record = format!("point {id}: ");
        points.push(fields.f64s("position")?);
        colors.push(fields.array("colour")?);
        fields.take(8, "error")?;
        // Image and observation of each element.
        let track = fields.count("length of the track", 4 + 4)?;
        fields.skip(track, 4 + 4, "track")?;
    }
    Ok(PointCloud { points, colors: Some(colors) })
}
