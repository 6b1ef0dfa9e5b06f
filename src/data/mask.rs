//! Masks: pictures that say which pixels of another count.

use std::io::{BufRead, BufReader, Seek};
use std::path::{Path, PathBuf};

use ::image::{DynamicImage, ImageFormat};

use super::Bitmap;
use super::capture::same_aspect;
use super::decode::decode;
use super::image::covered;
use crate::{Error, Result};

/// Compression that loses detail leaves traces around edges: in a JPEG file, what is brighter than half is set.
const LOSSY_THRESHOLD: u16 = u16::MAX / 2;

/// A mask's file, and what it means by a pixel that is not black.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum MaskFile {
    /// What is not black counts (nerfstudio, COLMAP).
    Keeps(PathBuf),
    /// What is not black does not count (instant-ngp's `dynamic_mask_*.png`).
    Hides(PathBuf),
}

impl MaskFile {
    /// The pixels that count of an image of size `to` (width, height), whose file has size `from`.
    ///
    /// A pixel of the result counts if every pixel of the mask that it covers does. The mask may have another size
    /// than the image's file, as masks do that were made before or after reducing, but not another aspect ratio.
    pub fn read(&self, from: [u32; 2], to: [u32; 2]) -> Result<Bitmap> {
        let (Self::Keeps(path) | Self::Hides(path)) = self;
        let file = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
        self.parse(path, BufReader::new(file), from, to)
    }

    pub fn parse(&self, path: &Path, file: impl BufRead + Seek, from: [u32; 2], to: [u32; 2]) -> Result<Bitmap> {
        let fits = |width, height| same_aspect(from.map(f64::from), [f64::from(width), f64::from(height)]);
        let (picture, format) = decode(path, file, &fits)?;
        let size = [picture.width(), picture.height()];
        if !fits(size[0], size[1]) {
            let expected = format!("a mask of the aspect ratio of the image's {}x{}", from[0], from[1]);
            return Err(Error::file(path, "size", expected, format!("{}x{}", size[0], size[1])));
        }
        let threshold = if format == ImageFormat::Jpeg { LOSSY_THRESHOLD } else { 0 };
        let keeps = matches!(self, Self::Keeps(_));
        let set = set_pixels(&picture, threshold);
        reduced(&|pixel| set(pixel) == keeps, size, to)
    }
}

/// Whether a pixel of `picture`, by flat index, has a colour beyond `threshold` (of 65535); alpha does not matter.
fn set_pixels(picture: &DynamicImage, threshold: u16) -> Box<dyn Fn(usize) -> bool + Sync + '_> {
    let channels = usize::from(picture.color().channel_count());
    let colors = if picture.color().has_color() { 3 } else { 1 };
    let bytes = picture.as_bytes();
    let narrow = (threshold / 257) as u8;
    if usize::from(picture.color().bytes_per_pixel()) == channels {
        return Box::new(move |pixel| bytes[pixel * channels..][..colors].iter().any(|&level| level > narrow));
    }
    Box::new(move |pixel| {
        let levels = bytes[2 * pixel * channels..][..2 * colors].chunks_exact(2);
        levels.into_iter().any(|level| u16::from_ne_bytes([level[0], level[1]]) > threshold)
    })
}

/// The set of pixels of size `to` that cover nothing but pixels of size `from` (width, height) for which `counts`.
pub(super) fn reduced(counts: &(dyn Fn(usize) -> bool + Sync), from: [u32; 2], to: [u32; 2]) -> Result<Bitmap> {
    let [from_width, from_height, width, height] = [from[0], from[1], to[0], to[1]].map(|side| side as usize);
    if width == 0 {
        return Bitmap::from_fn(0, |_| false);
    }
    Bitmap::from_fn(width * height, |pixel| {
        let columns = covered(pixel % width, from_width, width);
        covered(pixel / width, from_height, height)
            .all(|row| columns.clone().all(|column| counts(row * from_width + column)))
    })
}
