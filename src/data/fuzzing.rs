//! The parsers of this crate as functions of bytes, for `tests/fuzz`; there is no such module in an ordinary build.

use std::path::Path;

use super::colmap::{binary, text};
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
