//! 8-bit images with premultiplied alpha, decoded from PNG and JPEG files and reduced by area.

use std::path::Path;

use ::image::{DynamicImage, ImageReader};

use crate::exchange::describe;
use crate::{Error, Result};

/// An image of 8-bit sRGB-encoded levels, rows from the top.
///
/// With 4 channels, red, green and blue are premultiplied by alpha; an image whose pixels are all opaque has 3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Bytes a pixel: 3 (RGB) or 4 (premultiplied RGB, alpha).
    pub channels: usize,
    /// `height * width * channels` levels.
    pub data: Vec<u8>,
}

impl Image {
    /// An image of `data`, whose colours must be premultiplied if there are 4 `channels`.
    ///
    /// # Errors
    ///
    /// If `channels` is neither 3 nor 4 or `data` has not `width * height * channels` bytes.
    pub fn new(width: u32, height: u32, channels: usize, data: Vec<u8>) -> Result<Self> {
        if !matches!(channels, 3 | 4) {
            return Err(Error::config("image channels", "3 or 4", channels.to_string()));
        }
        if data.len() != width as usize * height as usize * channels || data.is_empty() {
            let expected = format!("{width}x{height}x{channels} bytes, not none");
            return Err(Error::config("image data", expected, data.len().to_string()));
        }
        Ok(Self { width, height, channels, data })
    }

    /// Reads a PNG or JPEG file: grey or colour, 8 or 16 bits, with or without (straight) alpha.
    ///
    /// `size` gives the size to store from the size in the file. The reduction averages premultiplied colours over
    /// the area of each new pixel, from the file's full precision, and rounds to 8 bits once. An orientation in the
    /// file's EXIF data is not applied: poses refer to the pixels as they are stored.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or is not an image that can be decoded, or `size` refuses.
    pub fn open(path: impl AsRef<Path>, size: impl FnOnce(u32, u32) -> Result<(u32, u32)>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        let reader = ImageReader::new(std::io::Cursor::new(&bytes));
        let reader = reader.with_guessed_format().map_err(|e| Error::io(path, e))?;
        if reader.format().is_none() {
            return Err(Error::file(path, "header", "a PNG or JPEG image", describe(&bytes)));
        }
        let decoded = reader.decode();
        let decoded = decoded.map_err(|e| Error::file(path, "pixels", "a PNG or JPEG image", e.to_string()))?;
        let (width, height) = (decoded.width(), decoded.height());
        let new = size(width, height)?;
        let from = (width, height);
        let decoded = if decoded.color().has_alpha() { opaque_to_rgb(decoded) } else { decoded };
        match decoded {
            deep if deep.color().has_alpha() => {
                let levels = deep.into_rgba16().into_raw();
                Ok(area(from, new, 4, |row, out| {
                    let row = levels[row * out.len()..].chunks_exact(4);
                    for (out, pixel) in out.chunks_exact_mut(4).zip(row) {
                        let alpha = f32::from(pixel[3]) / WIDE_LEVEL;
                        out[3] = alpha;
                        for (out, &level) in out.iter_mut().zip(&pixel[..3]) {
                            *out = f32::from(level) * (alpha / f32::from(u16::MAX));
                        }
                    }
                }))
            }
            DynamicImage::ImageLuma16(_) | DynamicImage::ImageRgb16(_) => {
                let levels = decoded.into_rgb16().into_raw();
                Ok(area(from, new, 3, |row, out| {
                    let row = &levels[row * out.len()..];
                    out.iter_mut().zip(row).for_each(|(out, &level)| *out = f32::from(level) / WIDE_LEVEL);
                }))
            }
            narrow => Self::new(width, height, 3, narrow.into_rgb8().into_raw())?.resized(new.0, new.1),
        }
    }

    /// The image at another size: each new pixel is the mean over the area that it covers.
    ///
    /// # Errors
    ///
    /// If the new size has no pixels.
    pub fn resized(self, width: u32, height: u32) -> Result<Self> {
        if width == 0 || height == 0 {
            return Err(Error::config("image size", "at least one pixel", format!("{width}x{height}")));
        }
        if (width, height) == (self.width, self.height) {
            return Ok(self);
        }
        Ok(self.reduced(width, height))
    }

    /// [`Image::resized`] by reference, for a size that has pixels.
    pub(crate) fn reduced(&self, width: u32, height: u32) -> Self {
        area((self.width, self.height), (width, height), self.channels, |row, out| {
            let row = &self.data[row * out.len()..];
            out.iter_mut().zip(row).for_each(|(out, &level)| *out = f32::from(level));
        })
    }

    /// Pixel (`col`, `row`) as premultiplied red, green, blue and alpha in `[0, 1]`, or `None` outside the image.
    pub fn pixel(&self, col: u32, row: u32) -> Option<[f32; 4]> {
        let inside = col < self.width && row < self.height;
        let at = (row as usize * self.width as usize + col as usize) * self.channels;
        inside.then(|| self.data.get(at..at + self.channels)).flatten().map(rgba)
    }

    /// The image over a `background`: `rgb + (1 - alpha) * background`, `[height * width]` colours in `[0, 1]`.
    pub fn over(&self, background: [f32; 3]) -> Vec<[f32; 3]> {
        let pixels = self.data.chunks_exact(self.channels).map(rgba);
        pixels.map(|[r, g, b, a]| [0, 1, 2].map(|i| [r, g, b][i] + (1.0 - a) * background[i])).collect()
    }
}

/// 16-bit levels a level of 8 bits: 65535 / 255.
const WIDE_LEVEL: f32 = 257.0;

/// Levels of 3 or 4 channels as premultiplied red, green, blue and alpha in `[0, 1]`.
#[inline]
pub(crate) fn rgba(levels: &[u8]) -> [f32; 4] {
    let unit = |level: u8| f32::from(level) / 255.0;
    match *levels {
        [r, g, b, a] => [unit(r), unit(g), unit(b), unit(a)],
        [r, g, b] => [unit(r), unit(g), unit(b), 1.0],
        _ => [0.0; 4],
    }
}

/// Drops an alpha channel that says nothing.
fn opaque_to_rgb(image: DynamicImage) -> DynamicImage {
    match image {
        DynamicImage::ImageRgba8(ref pixels) if pixels.pixels().all(|p| p[3] == u8::MAX) => {
            DynamicImage::ImageRgb8(image.into_rgb8())
        }
        DynamicImage::ImageLumaA8(ref pixels) if pixels.pixels().all(|p| p[1] == u8::MAX) => {
            DynamicImage::ImageRgb8(image.into_rgb8())
        }
        DynamicImage::ImageRgba16(ref pixels) if pixels.pixels().all(|p| p[3] == u16::MAX) => {
            DynamicImage::ImageRgb16(image.into_rgb16())
        }
        DynamicImage::ImageLumaA16(ref pixels) if pixels.pixels().all(|p| p[1] == u16::MAX) => {
            DynamicImage::ImageRgb16(image.into_rgb16())
        }
        other => other,
    }
}

/// Pixels `first..first + weights.len()` of `from` that pixel `at` of `to` covers, with the share of each.
fn coverage(at: usize, from: usize, to: usize) -> (usize, Vec<f32>) {
    // In units of 1 / to of an old pixel, everything is an integer.
    let (low, high) = (at * from, (at + 1) * from);
    let first = low / to;
    let share = |i: usize| ((i + 1) * to).min(high) - (i * to).max(low);
    (first, (first..high.div_ceil(to)).map(|i| share(i) as f32 / from as f32).collect())
}

/// The image of size `to` whose pixels are the means, over their areas, of the image of size `from` whose rows
/// `read(row, levels)` gives, on the scale of 0 to 255.
fn area(from: (u32, u32), to: (u32, u32), channels: usize, read: impl Fn(usize, &mut [f32])) -> Image {
    let [width, height, new_width, new_height] = [from.0, from.1, to.0, to.1].map(|v| v as usize);
    let columns: Vec<_> = (0..new_width).map(|col| coverage(col, width, new_width)).collect();
    let mut data = Vec::with_capacity(new_width * new_height * channels);
    let (mut levels, mut mean) = (vec![0.0; width * channels], vec![0.0; width * channels]);
    for row in 0..new_height {
        let (first, weights) = coverage(row, height, new_height);
        mean.fill(0.0);
        for (i, weight) in weights.into_iter().enumerate() {
            read(first + i, &mut levels);
            mean.iter_mut().zip(&levels).for_each(|(mean, level)| *mean += weight * level);
        }
        for (first, weights) in &columns {
            let mut pixel = [0.0; 4];
            for (weight, levels) in weights.iter().zip(mean[first * channels..].chunks_exact(channels)) {
                pixel.iter_mut().zip(levels).for_each(|(pixel, level)| *pixel += weight * level);
            }
            // `as` saturates: rounding errors beyond 255 do no harm.
            data.extend(pixel[..channels].iter().map(|level| level.round() as u8));
        }
    }
    Image { width: to.0, height: to.1, channels, data }
}
