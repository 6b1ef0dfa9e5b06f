//! Captures of LLFF (Mildenhall et al., "Local Light Field Fusion", 2019): `poses_bounds.npy` and a folder of images
//! (layout: `llff/poses/pose_utils.py` of <https://github.com/Fyusion/LLFF>).

use std::ffi::OsString;
use std::path::Path;

use super::capture::{Capture, Focal, Format, Intrinsics, Listed};
use super::dataset::Skipped;
use super::npy;
use crate::camera::{Lens, Pose};
use crate::{Error, Result};

const FILE: &str = "poses_bounds.npy";
/// A row of 17: a 3x5 matrix and two depths.
const COLUMNS: usize = 17;
/// Endings of the files that count as images of a folder; others (lists, thumbnails' databases) may lie there too.
const ENDINGS: [&str; 6] = ["png", "jpg", "jpeg", "webp", "tif", "tiff"];

/// What `root`/poses_bounds.npy describes, or `None` if there is none.
pub(super) fn read(root: &Path) -> Result<Option<Capture>> {
    let path = root.join(FILE);
    path.is_file().then(|| read_file(&path)).transpose()
}

/// Reads the poses in `path`, for the images in `images` beside it, or if there is no such folder, in the `images_N`
/// that is reduced least.
///
/// Rows belong to the images in the order of their names.
pub(super) fn read_file(path: &Path) -> Result<Capture> {
    let root = path.parent().unwrap_or(Path::new("."));
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let rows = parse(path, &bytes)?;
    let (folder, names) = images(root)?;
    if names.len() != rows.len() {
        let expected = format!("{} images, one for each row of {}", rows.len(), path.display());
        return Err(Error::file(root.join(&folder), "number of images", expected, names.len().to_string()));
    }
    let layout = format!("LLFF ({folder})");
    let mut capture = Capture { format: Format::Llff, layout, ..Capture::default() };
    for (file, row) in names.into_iter().zip(&rows) {
        let name = format!("{folder}/{}", file.to_string_lossy());
        match view(row) {
            Ok((intrinsics, pose, landmark)) => {
                let file = root.join(&folder).join(file);
                capture.landmarks.push(landmark);
                capture.listed.push(Listed { name, file, mask: None, intrinsics, pose });
            }
            Err(error) => capture.skipped.push(Skipped { name, reason: error.to_string() }),
        }
    }
    Ok(capture)
}

/// The rows of the file `path`, whose bytes are `bytes`.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<[f64; COLUMNS]>> {
    let array = npy::parse(path, bytes)?;
    if !matches!(array.shape[..], [rows, COLUMNS] if rows > 0) {
        return Err(Error::file(path, "shape", "[views, 17]", format!("{:?}", array.shape)));
    }
    let row = |values: &[f64]| std::array::from_fn(|i| values[i]);
    Ok(array.values.chunks_exact(COLUMNS).map(row).collect())
}

/// The camera, the pose and a point of the scene that a row gives.
///
/// The 3x5 matrix (rows first) has the camera's down, right and back axes in the world, its position, and height, width
/// and focal length in pixels; the last two numbers are the depths between which the camera sees its points.
pub(super) fn view(row: &[f64; COLUMNS]) -> Result<(Intrinsics, Pose, [f64; 3])> {
    let entry = |i: usize, j: usize| row[5 * i + j];
    let rotation = [0, 1, 2].map(|i| [entry(i, 1), entry(i, 0), -entry(i, 2)]);
    let pose = Pose::new(rotation, [0, 1, 2].map(|i| entry(i, 3)))?;
    let [height, width, focal] = [0, 1, 2].map(|i| entry(i, 4));
    for (name, value) in [("height", height), ("width", width), ("focal length", focal)] {
        if !(value.is_finite() && value > 0.0) {
            return Err(Error::config(name, "a positive number of pixels", value.to_string()));
        }
    }
    let (near, far) = (row[15], row[16]);
    if !(near > 0.0 && far >= near && far.is_finite()) {
        return Err(Error::config("bounds", "depths 0 < near <= far", format!("{near}, {far}")));
    }
    // In the middle by disparity, as a far background says little about where the subject is.
    let depth = 2.0 / (1.0 / near + 1.0 / far);
    let (position, forward) = (pose.position, pose.forward());
    let landmark = [0, 1, 2].map(|i| position[i] + depth * forward[i]);
    let (size, focal) = (Some([width, height]), Focal::Pixels([focal, focal]));
    Ok((Intrinsics { size, focal, center: [None; 2], lens: Lens::Pinhole }, pose, landmark))
}

/// The folder of images in `root`, and the names of the images in it, sorted.
fn images(root: &Path) -> Result<(String, Vec<OsString>)> {
    let names = |folder: &Path| -> Result<Vec<OsString>> {
        let entries = std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))?;
        let names = entries.map(|entry| entry.map(|entry| entry.file_name()));
        let mut names = names.collect::<std::io::Result<Vec<_>>>().map_err(|e| Error::io(folder, e))?;
        names.sort();
        Ok(names)
    };
    let folder = if root.join("images").is_dir() {
        "images".to_string()
    } else {
        let factor = |name: &OsString| name.to_str()?.strip_prefix("images_")?.parse::<u32>().ok();
        let reduced = names(root)?.into_iter().filter(|name| root.join(name).is_dir());
        let least = reduced.filter_map(|name| factor(&name)).min();
        let least = least.ok_or_else(|| Error::file(root, "images", "a folder images or images_N", "neither"))?;
        format!("images_{least}")
    };
    let is_image = |name: &OsString| {
        let ending = Path::new(name).extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
        ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str()))
    };
    let path = root.join(&folder);
    Ok((folder, names(&path)?.into_iter().filter(is_image).collect()))
}
