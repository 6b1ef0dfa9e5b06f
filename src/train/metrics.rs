//! How near a render comes to a photograph: PSNR and SSIM.
//!
//! A render is clamped to `[0, 1]` and rounded to 8 bits before it is compared, as if it had been saved and read
//! back: published numbers are measured on files. The truth is taken as it is.
//!
//! ```
//! use candle_radfoam::train::metrics::{psnr_db, ssim};
//!
//! let truth = vec![100u8; 16 * 16 * 3];
//! let image = vec![102.0 / 255.0; 16 * 16 * 3];
//! assert!((psnr_db(&image, &truth)? - 42.1102).abs() < 1e-4);
//! assert!(ssim(&image, &truth, 16, 16)? > 0.999);
//! # Ok::<(), candle_radfoam::Error>(())
//! ```

use rayon::prelude::*;

use crate::data::Bitmap;
use crate::{Error, Result};

const CHANNELS: usize = 3;

/// Side of the window, its Gaussian's standard deviation, and the two constants of Wang et al. 2004.
const WINDOW: usize = 11;
const SIGMA: f64 = 1.5;
const K1: f64 = 0.01;
const K2: f64 = 0.03;
/// Of x, y, x^2, y^2 and x y.
const MOMENTS: usize = 5;

mod sealed {
    pub trait Sealed {}
    impl Sealed for u8 {}
    impl Sealed for f32 {}
}

/// A channel of a true picture: `f32` in `[0, 1]`, or `u8` in `0..=255`.
pub trait Level: sealed::Sealed + Copy + Sync {
    /// The value on the scale from 0 to 1.
    fn level(self) -> f64;
}

impl Level for f32 {
    fn level(self) -> f64 {
        f64::from(self)
    }
}

impl Level for u8 {
    fn level(self) -> f64 {
        f64::from(self) / 255.0
    }
}

/// Peak signal-to-noise ratio in dB of the joint mean squared error over all pixels and channels:
/// `-10 log10(mean((image - truth)^2))`.
///
/// `image` is the render and `truth` the photograph, both RGB interleaved, `[H, W, 3]`. Identical pictures have
/// `f64::INFINITY`; a mean over views or a JSON file has to cap it.
///
/// # Errors
///
/// [`Error::Tensor`] if the lengths differ, are 0 or no multiple of 3, or a value is not finite.
pub fn psnr_db<L: Level>(image: &[f32], truth: &[L]) -> Result<f64> {
    let squares = channel_squares(image, truth)?;
    Ok(decibels(squares.iter().sum::<f64>() / image.len() as f64))
}

/// [`psnr_db`] over the pixels in use alone, by `row * width + column`; what the others hold does not matter, if it is
/// finite. `None` where no pixel is in use.
///
/// # Errors
///
/// As [`psnr_db`], and if there is not one bit a pixel.
pub fn psnr_in_use_db<L: Level>(image: &[f32], truth: &[L], in_use: &Bitmap) -> Result<Option<f64>> {
    check(image, truth)?;
    check_in_use(image, in_use)?;
    let pixels = image.chunks_exact(CHANNELS).zip(truth.chunks_exact(CHANNELS)).enumerate();
    let square = |(image, truth): (&[f32], &[L])| -> f64 {
        image.iter().zip(truth).map(|(&x, &y)| (as_saved(x) - y.level()).powi(2)).sum()
    };
    let sum: f64 = pixels.filter(|&(pixel, _)| in_use.get(pixel)).map(|(_, values)| square(values)).sum();
    let count = in_use.count() as usize * CHANNELS;
    Ok((count > 0).then(|| decibels(sum / count as f64)))
}

/// The mean of the three channels' PSNRs in dB: how the reference implementation of radiant foams measures, for
/// comparison with its numbers. Never below [`psnr_db`], because the logarithm is concave.
///
/// Arguments and errors as in [`psnr_db`]; infinite as soon as one channel is identical.
///
/// # Errors
///
/// As [`psnr_db`].
pub fn psnr_per_channel_db<L: Level>(image: &[f32], truth: &[L]) -> Result<f64> {
    let pixels = (image.len() / CHANNELS) as f64;
    let squares = channel_squares(image, truth)?;
    Ok(squares.iter().map(|square| decibels(square / pixels)).sum::<f64>() / CHANNELS as f64)
}

/// Structural similarity (Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment", IEEE TIP 2004): the mean
/// over channels and over all whole windows of
/// `(2 mx my + C1)(2 sxy + C2) / ((mx^2 + my^2 + C1)(sx^2 + sy^2 + C2))`.
///
/// The window is a normalised 11x11 Gaussian of sigma 1.5; `C1 = 0.01^2`, `C2 = 0.03^2` (data range 1); variances
/// are those of the window, without the sample correction. The same as scikit-image's `structural_similarity` with
/// `gaussian_weights=True, use_sample_covariance=False, data_range=1`.
///
/// `image` is the render and `truth` the photograph, both RGB interleaved, `[height, width, 3]`. Identical pictures
/// have exactly 1.
///
/// # Errors
///
/// [`Error::Tensor`] if a side is less than 11 pixels, a length is not `3 width height`, or a value is not finite.
pub fn ssim<L: Level>(image: &[f32], truth: &[L], width: usize, height: usize) -> Result<f64> {
    check_windows(image, width, height)?;
    check(image, truth)?;
    let x: Vec<f64> = image.par_iter().map(|&v| as_saved(v)).collect();
    let y: Vec<f64> = truth.par_iter().map(|&v| v.level()).collect();
    let weights = gaussian();
    let rows = height - WINDOW + 1;
    let row_sums: Vec<f64> =
        (0..rows).into_par_iter().map(|row| row_similarity(&x, &y, width * CHANNELS, row, &weights)).collect();
    Ok(row_sums.iter().sum::<f64>() / (rows * (width - WINDOW + 1) * CHANNELS) as f64)
}

/// [`ssim`] of the pixels in use, by `row * width + column`: the mean over the windows, inside the picture as a whole,
/// whose middle is in use. `None` where there are none.
///
/// A window sees only its pixels in use: the Gaussian is taken over these and normalised again. So what the others hold
/// does not matter, if it is finite, and where all are in use this is [`ssim`], up to rounding.
///
/// # Errors
///
/// As [`ssim`], and if there is not one bit a pixel.
pub fn ssim_in_use<L: Level>(
    image: &[f32],
    truth: &[L],
    width: usize,
    height: usize,
    in_use: &Bitmap,
) -> Result<Option<f64>> {
    check_windows(image, width, height)?;
    check(image, truth)?;
    check_in_use(image, in_use)?;
    let used: Vec<f64> = (0..image.len()).map(|i| f64::from(u8::from(in_use.get(i / CHANNELS)))).collect();
    let x: Vec<f64> = image.par_iter().zip(&used).map(|(&v, used)| used * as_saved(v)).collect();
    let y: Vec<f64> = truth.par_iter().zip(&used).map(|(&v, used)| used * v.level()).collect();
    let (weights, stride) = (gaussian(), width * CHANNELS);
    let rows = 0..=height - WINDOW;
    let rows = rows.into_par_iter().map(|row| {
        let moments = window_means([&x, &y], stride, row, &weights);
        let [shares, ..] = window_means([&used, &[]], stride, row, &weights);
        let middles = &used[(row + WINDOW / 2) * stride + WINDOW / 2 * CHANNELS..];
        let middles = (0..shares.len()).filter(|&j| middles[j] > 0.0);
        middles.fold((0.0, 0), |(sum, count), j| {
            (sum + similarity(moments.each_ref().map(|means| means[j] / shares[j])), count + 1)
        })
    });
    let rows: Vec<(f64, usize)> = rows.collect();
    let (sum, count) = rows.iter().fold((0.0, 0), |(sum, count), row| (sum + row.0, count + row.1));
    Ok((count > 0).then(|| sum / count as f64))
}

/// Sum of the similarities of the windows whose upper edge is `row`; `stride` values lie in a row.
fn row_similarity(x: &[f64], y: &[f64], stride: usize, row: usize, weights: &[f64; WINDOW]) -> f64 {
    let moments = window_means([x, y], stride, row, weights);
    (0..moments[0].len()).map(|j| similarity(moments.each_ref().map(|means| means[j]))).sum()
}

/// Means of x, y, x^2, y^2 and x y over the windows whose upper edge is `row`; of x alone if there is no y.
///
/// The windows are separable: first down the columns, for x, y and their products at once, then along the row.
fn window_means([x, y]: [&[f64]; 2], stride: usize, row: usize, weights: &[f64; WINDOW]) -> [Vec<f64>; MOMENTS] {
    let alone = y.is_empty();
    let mut down: [Vec<f64>; MOMENTS] =
        std::array::from_fn(|moment| if alone && moment > 0 { Vec::new() } else { vec![0.0; stride] });
    for (i, &weight) in weights.iter().enumerate() {
        let here = (row + i) * stride..(row + i + 1) * stride;
        if alone {
            down[0].iter_mut().zip(&x[here]).for_each(|(sum, x)| *sum += weight * x);
            continue;
        }
        let (x, y) = (&x[here.clone()], &y[here]);
        let [mx, my, xx, yy, xy] = down.each_mut().map(|sum| &mut sum[..stride]);
        for j in 0..stride {
            let (wx, wy) = (weight * x[j], weight * y[j]);
            mx[j] += wx;
            my[j] += wy;
            xx[j] += wx * x[j];
            yy[j] += wy * y[j];
            xy[j] += wx * y[j];
        }
    }
    // One value at a time would be a sum of eleven far apart; row by row, the additions of neighbours are vectors.
    let windows = stride - (WINDOW - 1) * CHANNELS;
    let along = |down: &Vec<f64>| {
        let mut sums = vec![0.0; if down.is_empty() { 0 } else { windows }];
        for (i, &weight) in weights.iter().enumerate().filter(|_| !down.is_empty()) {
            sums.iter_mut().zip(&down[i * CHANNELS..]).for_each(|(sum, value)| *sum += weight * value);
        }
        sums
    };
    down.each_ref().map(along)
}

/// The similarity of a window from its means of x, y, x^2, y^2 and x y.
#[inline]
fn similarity([mx, my, xx, yy, xy]: [f64; MOMENTS]) -> f64 {
    const C1: f64 = K1 * K1;
    const C2: f64 = K2 * K2;
    let (vx, vy, vxy) = (xx - mx * mx, yy - my * my, xy - mx * my);
    (2.0 * mx * my + C1) * (2.0 * vxy + C2) / ((mx * mx + my * my + C1) * (vx + vy + C2))
}

fn gaussian() -> [f64; WINDOW] {
    let centre = (WINDOW / 2) as f64;
    let weights: [f64; WINDOW] = std::array::from_fn(|i| (-0.5 * ((i as f64 - centre) / SIGMA).powi(2)).exp());
    let sum: f64 = weights.iter().sum();
    weights.map(|w| w / sum)
}

/// What is read back after saving `value` in 8 bits.
fn as_saved(value: f32) -> f64 {
    (f64::from(value.clamp(0.0, 1.0)) * 255.0).round() / 255.0
}

fn decibels(mean_square: f64) -> f64 {
    if mean_square == 0.0 { f64::INFINITY } else { -10.0 * mean_square.log10() }
}

/// The squared error summed over the pixels, for each channel.
fn channel_squares<L: Level>(image: &[f32], truth: &[L]) -> Result<[f64; CHANNELS]> {
    check(image, truth)?;
    let mut squares = [0.0; CHANNELS];
    for (i, (&x, &y)) in image.iter().zip(truth).enumerate() {
        squares[i % CHANNELS] += (as_saved(x) - y.level()).powi(2);
    }
    Ok(squares)
}

fn check_in_use(image: &[f32], in_use: &Bitmap) -> Result<()> {
    if in_use.len() == image.len() / CHANNELS {
        return Ok(());
    }
    let expected = format!("{} pixels, as the image has", image.len() / CHANNELS);
    Err(Error::tensor("in_use", expected, in_use.len().to_string()))
}

fn check_windows(image: &[f32], width: usize, height: usize) -> Result<()> {
    if width < WINDOW || height < WINDOW {
        let found = format!("{width}x{height}");
        return Err(Error::tensor("image", format!("at least {WINDOW}x{WINDOW} pixels for SSIM"), found));
    }
    if width.checked_mul(height).and_then(|n| n.checked_mul(CHANNELS)) != Some(image.len()) {
        let expected = format!("3 channels of {width}x{height} pixels");
        return Err(Error::tensor("image", expected, format!("{} values", image.len())));
    }
    Ok(())
}

fn check<L: Level>(image: &[f32], truth: &[L]) -> Result<()> {
    if image.is_empty() || !image.len().is_multiple_of(CHANNELS) {
        return Err(Error::tensor("image", "RGB pixels", format!("{} values", image.len())));
    }
    if truth.len() != image.len() {
        let found = format!("{} values", truth.len());
        return Err(Error::tensor("truth", format!("{} values, as the image has", image.len()), found));
    }
    let finite = |name: &str, bad: usize| match bad {
        0 => Ok(()),
        _ => Err(Error::tensor(name, "finite values", format!("{bad} that are not finite"))),
    };
    finite("image", image.iter().filter(|v| !v.is_finite()).count())?;
    finite("truth", truth.iter().filter(|v| !v.level().is_finite()).count())
}
