//! The parsers of this crate as functions of bytes, for `tests/fuzz`; there is no such module in an ordinary build.

use std::io::Cursor;
use std::path::Path;

use super::colmap::{binary, text};
use super::decode::decode;
use super::mask::MaskFile;
use super::{llff, transforms};
use crate::exchange;

/// What a message names when there is no file.
fn path() -> &'static Path {
    Path::new("fuzzed")
}

/// `cameras.bin`
pub fn colmap_cameras_bin(bytes: &[u8]) -> bool {
    binary::cameras(path(), bytes).is_ok()
}

/// `images.bin`
pub fn colmap_images_bin(bytes: &[u8]) -> bool {
    binary::images(path(), bytes).is_ok()
}

/// `points3D.bin`
pub fn colmap_points_bin(bytes: &[u8]) -> bool {
    binary::points(path(), bytes).is_ok()
}

/// `cameras.txt`
pub fn colmap_cameras_txt(bytes: &[u8]) -> bool {
    text::cameras(path(), bytes).is_ok()
}

/// `images.txt`
pub fn colmap_images_txt(bytes: &[u8]) -> bool {
    text::images(path(), bytes).is_ok()
}

/// `points3D.txt`
pub fn colmap_points_txt(bytes: &[u8]) -> bool {
    text::points(path(), bytes).is_ok()
}

/// A point cloud in a PLY file.
pub fn ply(bytes: &[u8]) -> bool {
    exchange::parse_point_cloud(path(), bytes).is_ok()
}

/// `transforms.json`, with the views that it lists.
pub fn transforms_json(bytes: &[u8]) -> bool {
    transforms::listed(Path::new("/nowhere"), path(), bytes).is_ok()
}

/// `poses_bounds.npy`, with the views that its rows give.
pub fn poses_bounds_npy(bytes: &[u8]) -> bool {
    llff::parse(path(), bytes).is_ok_and(|rows| rows.iter().all(|row| llff::view(row).is_ok()))
}

/// A picture with its EXIF data, turned wherever that may be.
pub fn picture(bytes: &[u8]) -> bool {
    decode(path(), Cursor::new(bytes), &|width, height| width < height).is_ok()
}

/// A mask of a picture of 64x48 pixels, reduced to 20x15.
pub fn mask(bytes: &[u8]) -> bool {
    let mask = MaskFile::Keeps(path().to_path_buf()).parse(path(), Cursor::new(bytes), [64, 48], [20, 15]);
    mask.is_ok_and(|mask| mask.len() == 300)
}
