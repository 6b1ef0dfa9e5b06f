//! 8-bit images with premultiplied alpha, decoded from files and reduced by area.

use std::path::Path;

use ::image::DynamicImage;

use super::decode::decode;
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

    /// Reads a PNG, JPEG, WebP or TIFF file, whatever its name's ending: grey or colour, 8 or 16 bits, with or without
    /// (straight) alpha.
    ///
    /// `size` gives the size to store from the size in the file. The reduction averages premultiplied colours over
    /// the area of each new pixel, from the file's full precision, and rounds to 8 bits once. An orientation in the
    /// file's EXIF data is not applied: it is the camera that says whether it should be, and there is none here.
    ///
    /// A damaged file is refused where its format lets damage be seen: PNG has checksums, in TIFF and WebP the
    /// compressed data must fit. JPEG has neither; its codes are counted, and a few bits that turned into others as
    /// many and as long go unseen.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or is not an image that can be decoded, or `size` refuses.
    pub fn open(path: impl AsRef<Path>, size: impl FnOnce(u32, u32) -> Result<(u32, u32)>) -> Result<Self> {
        Self::open_upright(path.as_ref(), &|_, _| true, size)
    }

    /// Like [`Image::open`], turned as the EXIF data says if only that makes the size one that `fits`.
    pub(super) fn open_upright(
        path: &Path,
        fits: &dyn Fn(u32, u32) -> bool,
        size: impl FnOnce(u32, u32) -> Result<(u32, u32)>,
    ) -> Result<Self> {
        let file = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
        let (picture, _) = decode(path, std::io::BufReader::new(file), fits)?;
        let from = (picture.width(), picture.height());
        let to = size(from.0, from.1)?;
        if to.0 == 0 || to.1 == 0 {
            return Err(Error::config("image size", "at least one pixel", format!("{}x{}", to.0, to.1)));
        }
        match picture {
            DynamicImage::ImageRgb8(pixels) => Self::new(from.0, from.1, 3, pixels.into_raw())?.resized(to.0, to.1),
            DynamicImage::ImageRgba8(pixels) => Ok(from_levels::<4, _>(pixels.as_raw(), from, to)),
            DynamicImage::ImageLuma8(pixels) => Ok(from_levels::<1, _>(pixels.as_raw(), from, to)),
            DynamicImage::ImageLumaA8(pixels) => Ok(from_levels::<2, _>(pixels.as_raw(), from, to)),
            DynamicImage::ImageRgb16(pixels) => Ok(from_levels::<3, _>(pixels.as_raw(), from, to)),
            DynamicImage::ImageRgba16(pixels) => Ok(from_levels::<4, _>(pixels.as_raw(), from, to)),
            DynamicImage::ImageLuma16(pixels) => Ok(from_levels::<1, _>(pixels.as_raw(), from, to)),
            DynamicImage::ImageLumaA16(pixels) => Ok(from_levels::<2, _>(pixels.as_raw(), from, to)),
            other => {
                let found = format!("{:?}", other.color());
                Err(Error::file(path, "pixels", "8 or 16 bits a channel", found))
            }
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
        let (from, to) = ((self.width, self.height), (width, height));
        match self.channels {
            3 => area::<3>(from, to, |row, out| widen(&self.data, row, out)),
            _ => area::<4>(from, to, |row, out| widen(&self.data, row, out)),
        }
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

/// A level of 8 or 16 bits.
trait Level: Copy {
    /// On the scale of 16 bits.
    fn wide(self) -> f32;
    /// On the scale of 8 bits.
    fn narrow(self) -> f32 {
        self.wide() / WIDE_LEVEL
    }
    fn is_most(self) -> bool;
}

impl Level for u8 {
    fn wide(self) -> f32 {
        f32::from(self) * WIDE_LEVEL
    }
    fn narrow(self) -> f32 {
        f32::from(self)
    }
    fn is_most(self) -> bool {
        self == Self::MAX
    }
}

impl Level for u16 {
    fn wide(self) -> f32 {
        f32::from(self)
    }
    fn is_most(self) -> bool {
        self == Self::MAX
    }
}

/// The image of size `to` of `levels` of size `from`, with `N` channels: grey or RGB, the last alpha if `N` is even.
/// An alpha channel that says nothing is dropped. Nothing is copied at full size.
fn from_levels<const N: usize, L: Level>(levels: &[L], from: (u32, u32), to: (u32, u32)) -> Image {
    let (pixels, _) = levels.as_chunks::<N>();
    // Where a grey pixel has its one level, a coloured one has three.
    let color = if N < 3 { [0, 0, 0] } else { [0, 1, 2] };
    if N % 2 == 1 || pixels.iter().all(|pixel| pixel[N - 1].is_most()) {
        return map_area(pixels, from, to, |pixel| color.map(|channel| pixel[channel].narrow()));
    }
    map_area(pixels, from, to, |pixel| {
        let alpha = pixel[N - 1].narrow();
        let [red, green, blue] = if pixel[N - 1].is_most() {
            // Nearly every pixel is opaque or empty, and this takes no division.
            color.map(|channel| pixel[channel].narrow())
        } else if alpha == 0.0 {
            [0.0; 3]
        } else {
            let share = alpha / f32::from(u16::MAX);
            color.map(|channel| pixel[channel].wide() * share)
        };
        [red, green, blue, alpha]
    })
}

/// The image of size `to` of `pixels` of size `from`, each of which `levels` turns into levels of 0 to 255.
fn map_area<P, const C: usize>(
    pixels: &[P],
    from: (u32, u32),
    to: (u32, u32),
    levels: impl Fn(&P) -> [f32; C],
) -> Image {
    if from == to {
        let data: Vec<_> = pixels.iter().map(|pixel| levels(pixel).map(rounded)).collect();
        return Image { width: to.0, height: to.1, channels: C, data: data.into_flattened() };
    }
    let width = from.0 as usize;
    area(from, to, |row, out| {
        out.iter_mut().zip(&pixels[row * width..]).for_each(|(out, pixel)| *out = levels(pixel));
    })
}

/// Row `row` of an image's levels.
fn widen<const C: usize>(data: &[u8], row: usize, out: &mut [[f32; C]]) {
    let row = &data[row * out.len() * C..];
    out.as_flattened_mut().iter_mut().zip(row).for_each(|(out, &level)| *out = f32::from(level));
}

/// The nearest of the 256 levels.
fn rounded(level: f32) -> u8 {
    // `as` saturates: rounding errors beyond 255 do no harm.
    (level + 0.5) as u8
}

/// The pixels of `from` that pixel `at` of `to` covers, in whole or in part.
pub(super) fn covered(at: usize, from: usize, to: usize) -> std::ops::Range<usize> {
    at * from / to..((at + 1) * from).div_ceil(to)
}

/// Pixels `first..first + weights.len()` of `from` that pixel `at` of `to` covers, with the share of each.
fn coverage(at: usize, from: usize, to: usize) -> (usize, Vec<f32>) {
    // In units of 1 / to of an old pixel, everything is an integer.
    let (low, high) = (at * from, (at + 1) * from);
    let share = |i: usize| ((i + 1) * to).min(high) - (i * to).max(low);
    let covered = covered(at, from, to);
    (covered.start, covered.map(|i| share(i) as f32 / from as f32).collect())
}

/// The image of size `to` whose pixels are the means, over their areas, of the image of size `from` whose rows
/// `read(row, levels)` gives, on the scale of 0 to 255.
fn area<const C: usize>(from: (u32, u32), to: (u32, u32), read: impl Fn(usize, &mut [[f32; C]])) -> Image {
    let [width, height, new_width, new_height] = [from.0, from.1, to.0, to.1].map(|v| v as usize);
    let columns: Vec<_> = (0..new_width).map(|col| coverage(col, width, new_width)).collect();
    let mut data = Vec::with_capacity(new_width * new_height);
    let (mut levels, mut mean) = (vec![[0.0; C]; width], vec![[0.0; C]; width]);
    for row in 0..new_height {
        let (first, weights) = coverage(row, height, new_height);
        mean.fill([0.0; C]);
        for (i, weight) in weights.into_iter().enumerate() {
            read(first + i, &mut levels);
            let pairs = mean.as_flattened_mut().iter_mut().zip(levels.as_flattened());
            pairs.for_each(|(mean, level)| *mean += weight * level);
        }
        data.extend(columns.iter().map(|(first, weights)| {
            let mut pixel = [0.0; C];
            for (weight, levels) in weights.iter().zip(&mean[*first..]) {
                pixel.iter_mut().zip(levels).for_each(|(pixel, level)| *pixel += weight * level);
            }
            pixel.map(rounded)
        }));
    }
    Image { width: to.0, height: to.1, channels: C, data: data.into_flattened() }
}
