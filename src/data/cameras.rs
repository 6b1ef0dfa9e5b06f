//! The cameras that a capture lists, with or without images: to look where nobody has photographed.

use std::path::Path;

use rayon::prelude::*;

use super::capture::{Listed, read};
use super::{Bitmap, Image, Resize, Skipped};
use crate::camera::Camera;
use crate::{Error, Result};

/// A camera of a capture, and its image if there is one.
#[derive(Debug, Clone, PartialEq)]
pub struct ListedView {
    /// The name of the image in the capture.
    pub name: String,
    /// The camera, at the image's size, in the units of the capture's world.
    pub camera: Camera,
    /// The image; `None` if there is no such file.
    pub image: Option<Image>,
    /// The pixels of the image that count, see [`super::View::mask`].
    pub mask: Option<Bitmap>,
}

/// Reads the cameras of the capture in the folder `path`, or of the file `path` (a `transforms.json`), sorted by name;
/// and those that could not be used. Nothing is normalised: [`super::Normalization::apply_camera`] is for that.
///
/// A camera without an image has the size that the file gives it, reduced as `resize` says, or where the file gives
/// angles of view and no size, `default_size` (width, height).
///
/// # Errors
///
/// If no layout is recognised, a file that describes the capture is broken, or no camera can be used.
///
/// ```no_run
/// use candle_radfoam::data::{Resize, list_views};
///
/// # fn main() -> candle_radfoam::Result<()> {
/// let (views, skipped) = list_views("path/to/transforms.json", Resize::None, Some((640, 480)))?;
/// println!("{} cameras, {} left out", views.len(), skipped.len());
/// # Ok(())
/// # }
/// ```
pub fn list_views(
    path: impl AsRef<Path>,
    resize: Resize,
    default_size: Option<(u32, u32)>,
) -> Result<(Vec<ListedView>, Vec<Skipped>)> {
    let path = path.as_ref();
    let capture = read(path)?;
    let (mut views, mut skipped) = (Vec::new(), capture.skipped);
    let look = |listed: &Listed| -> Result<_> {
        if listed.file.is_file() {
            return listed.load(resize).map(|view| (view.camera, Some(view.image), view.mask));
        }
        listed.camera_without_image(resize, default_size).map(|camera| (camera, None, None))
    };
    let looked: Vec<_> = capture.listed.par_iter().map(look).collect();
    for (listed, view) in capture.listed.into_iter().zip(looked) {
        match view {
            Ok((camera, image, mask)) => views.push(ListedView { name: listed.name, camera, image, mask }),
            Err(error) => skipped.push(Skipped { name: listed.name, reason: error.to_string() }),
        }
    }
    if views.is_empty() {
        let first = skipped.first().map_or(String::new(), |first| format!(" ({}: {})", first.name, first.reason));
        return Err(Error::file(path, "views", "at least one camera", format!("none{first}")));
    }
    views.sort_by(|a, b| a.name.cmp(&b.name));
    skipped.sort_by(|a, b| a.name.cmp(&b.name));
    Ok((views, skipped))
}
