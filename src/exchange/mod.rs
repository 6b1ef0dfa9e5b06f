//! Files of other programs: point clouds, and the reference implementation's scenes.
//!
//! | file | here | what it holds |
//! |---|---|---|
//! | point cloud (`.ply`) | [`read_point_cloud`], [`write_point_cloud`] | positions and 8-bit colours; any viewer opens it |
//! | `scene.ply` | [`read_scene_ply`], [`write_scene_ply`] | a foam with activated densities |
//! | `model.pt` | [`read_model_pt`] | a foam with raw densities |
//!
//! PLY is read as ASCII and binary (either byte order), with properties of any type and order; further properties,
//! elements and lists are skipped. A header is never believed further than the bytes that are there: a file that
//! announces more than it holds is refused before anything of that size is allocated.
//!
//! ```
//! use candle_radfoam::exchange::{PointCloud, read_point_cloud, write_point_cloud};
//!
//! # fn main() -> candle_radfoam::Result<()> {
//! let path = std::env::temp_dir().join(format!("cloud-{}.ply", std::process::id()));
//! let cloud = PointCloud { points: vec![[0.0, 1.0, 2.0]], colors: Some(vec![[255, 0, 10]]), tracks: None };
//! write_point_cloud(&path, &cloud)?;
//! assert_eq!(read_point_cloud(&path)?, cloud);
//! # std::fs::remove_file(path).ok();
//! # Ok(())
//! # }
//! ```

#[cfg(fuzzing)]
pub mod fuzzing;
mod model_pt;
mod ply;
mod point_cloud;
mod scene;
mod scene_ply;

pub use model_pt::read_model_pt;
#[cfg(fuzzing)]
pub(crate) use point_cloud::parse_point_cloud;
pub use point_cloud::{PointCloud, read_point_cloud, write_point_cloud};
pub use scene::{Density, Scene};
pub use scene_ply::{ConstantColor, read_scene_ply, write_scene_ply};

/// The first bytes of what Git leaves in place of a file that is kept in LFS and was not fetched.
const LFS_POINTER: &[u8] = b"version https://git-lfs";

/// Whether `bytes` are what Git leaves in place of a file that was not fetched.
pub(crate) fn is_lfs_pointer(bytes: &[u8]) -> bool {
    bytes.starts_with(LFS_POINTER)
}

/// What `bytes` are, in words, when they are not what was hoped for: a Git LFS pointer, nothing, or their beginning.
pub(crate) fn describe(bytes: &[u8]) -> String {
    if is_lfs_pointer(bytes) {
        "a Git LFS pointer (the file itself was not fetched: `git lfs pull`)".into()
    } else if bytes.is_empty() {
        "an empty file".into()
    } else {
        format!("a file that begins with \"{}\"", bytes[..bytes.len().min(16)].escape_ascii())
    }
}
