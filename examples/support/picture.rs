//! Renders, depth and error as pictures.

use std::io::Cursor;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use image::{ImageFormat, Rgb, RgbImage, imageops};

use super::folder::write_atomic;

/// Between the panels of a picture, in pixels.
const GAP: u32 = 4;
const GAP_COLOUR: Rgb<u8> = Rgb([255, 255, 255]);
/// Where a map has no value: nothing was hit, or nothing was seen yet.
const NO_VALUE: Rgb<u8> = Rgb([70, 70, 74]);
/// Errors are mostly below a tenth: shown five times as bright, they can be seen.
const ERROR_GAIN: f32 = 5.0;
/// The share of values left out at an end of a range, so that a few stray ones do not flatten all others.
const STRAY: f64 = 0.02;

/// An RGB render `[height, width, 3]` in `[0, 1]`, clamped and rounded to 8 bits.
pub fn from_rgb(rgb: &[f32], width: u32, height: u32) -> Result<RgbImage> {
    let bytes = rgb.iter().map(|v| (v.clamp(0.0, 1.0) * 255.0).round() as u8).collect();
    let found = rgb.len();
    RgbImage::from_raw(width, height, bytes)
        .filter(|_| found == 3 * width as usize * height as usize)
        .with_context(|| format!("{found} values do not make an RGB picture of {width}x{height}"))
}

/// The render, the truth, and five times their absolute difference, side by side.
pub fn comparison(render: &[f32], truth: &[f32], width: u32, height: u32) -> Result<RgbImage> {
    ensure!(render.len() == truth.len(), "render of {} values, truth of {}", render.len(), truth.len());
    let difference: Vec<f32> = render.iter().zip(truth).map(|(a, b)| ERROR_GAIN * (a - b).abs()).collect();
    let panel = |rgb: &[f32]| from_rgb(rgb, width, height);
    sheet(&[panel(render)?, panel(truth)?, panel(&difference)?], 3)
}

/// A depth map `[height, width]`, near in warm and far in cold colours; grey where it is 0, negative or not finite.
pub fn depth(depth: &[f32], width: u32, height: u32) -> Result<RgbImage> {
    let hit = |d: f32| d.is_finite() && d > 0.0;
    let (near, far) = range(depth.iter().copied().filter(|&d| hit(d)));
    coloured(depth, width, height, |d| hit(d).then(|| colorous::TURBO.eval_continuous(1.0 - share(d, near, far))))
}

/// An error map `[height, width]`, from dark (none) to bright (`most` and above); grey where it is negative (not seen
/// yet) or not finite.
pub fn error_map(error: &[f32], width: u32, height: u32, most: f32) -> Result<RgbImage> {
    coloured(error, width, height, |e| is_error(e).then(|| colorous::INFERNO.eval_continuous(share(e, 0.0, most))))
}

/// The largest error but for stray ones, for maps that are to be compared.
pub fn most_error(error: impl Iterator<Item = f32>) -> f32 {
    range(error.filter(|&e| is_error(e))).1
}

fn is_error(e: f32) -> bool {
    e.is_finite() && e.is_sign_positive()
}

/// Each pixel as a square of `factor` pixels a side.
pub fn enlarged(picture: &RgbImage, factor: u32) -> RgbImage {
    let (width, height) = (picture.width() * factor, picture.height() * factor);
    imageops::resize(picture, width, height, imageops::FilterType::Nearest)
}

/// Pictures in rows of `columns`, each in the middle of its place.
pub fn sheet(pictures: &[RgbImage], columns: usize) -> Result<RgbImage> {
    ensure!(!pictures.is_empty() && columns > 0, "a sheet of {} pictures in {columns} columns", pictures.len());
    let columns = columns.min(pictures.len());
    let rows = pictures.len().div_ceil(columns);
    let (wide, high) = pictures.iter().fold((0, 0), |(w, h), p| (p.width().max(w), p.height().max(h)));
    let side = |count: usize, one: u32| count as u32 * (one + GAP) - GAP;
    let mut sheet = RgbImage::from_pixel(side(columns, wide), side(rows, high), GAP_COLOUR);
    for (i, picture) in pictures.iter().enumerate() {
        let x = (i % columns) as u32 * (wide + GAP) + (wide - picture.width()) / 2;
        let y = (i / columns) as u32 * (high + GAP) + (high - picture.height()) / 2;
        imageops::replace(&mut sheet, picture, x.into(), y.into());
    }
    Ok(sheet)
}

/// Writes a PNG, whole or not at all.
pub fn save(path: &Path, picture: &RgbImage) -> Result<()> {
    let mut png = Cursor::new(Vec::new());
    picture.write_to(&mut png, ImageFormat::Png).with_context(|| format!("encoding {}", path.display()))?;
    write_atomic(path, png.get_ref())
}

fn coloured(
    values: &[f32],
    width: u32,
    height: u32,
    colour: impl Fn(f32) -> Option<colorous::Color>,
) -> Result<RgbImage> {
    let expected = width as usize * height as usize;
    ensure!(values.len() == expected, "{} values do not make a map of {width}x{height}", values.len());
    Ok(RgbImage::from_fn(width, height, |x, y| {
        let value = values[y as usize * width as usize + x as usize];
        colour(value).map_or(NO_VALUE, |c| Rgb([c.r, c.g, c.b]))
    }))
}

/// The ends of the values without the stray ones; (0, 0) when there are none.
fn range(values: impl Iterator<Item = f32>) -> (f32, f32) {
    let mut sorted: Vec<f32> = values.collect();
    sorted.sort_unstable_by(f32::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return (0.0, 0.0) };
    let at = |share: f64| sorted[(share * last as f64).round() as usize];
    (at(STRAY), at(1.0 - STRAY))
}

/// Where `value` lies between `from` (0) and `to` (1); when they coincide: in the middle, or
/// for an empty range at 0, whether it is above.
fn share(value: f32, from: f32, to: f32) -> f64 {
    if to > from {
        f64::from(((value - from) / (to - from)).clamp(0.0, 1.0))
    } else if to == 0.0 {
        f64::from(u8::from(value > 0.0))
    } else {
        0.5
    }
}
