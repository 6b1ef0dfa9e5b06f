//! Weighted draws: stratified, in ascending order, with the probability of each.
//!
//! Entry `i` is drawn with probability `p_i = (1 - u) w_i / sum(w) + u / N`, where `u` is the uniform fraction. The
//! weights become integers, so that no sum ever rounds and there is no limit on the number of entries below
//! `2^32 - 1`; the unit interval of the total is cut into `num` equal strata and one point is drawn in each
//! (stratified resampling; Douc, Cappé, Moulines, "Comparison of resampling schemes for particle filtering", 2005:
//! its variance is never above that of independent draws). Points ascend, so the draws do, and duplicates are
//! neighbours. Entry `i` is drawn `floor(num p_i) - 1` to `ceil(num p_i) + 1` times. Not differentiable.

pub(super) mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod points;

use candle_core::{Device, Result, Storage, Tensor, bail};

use super::batch;
pub(crate) use cpu::HostDraws;
pub use points::Jitter;
pub(crate) use points::Strata;

/// Above this the uniform share is all there is to see, and its integer mass could overflow the total.
pub(crate) const MAX_UNIFORM_FRACTION: f64 = 0.99;

/// How a draw spreads its points. A plain number is the uniform fraction, with the default for the rest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DrawSettings {
    /// The share drawn without regard to the weights, in `[0, 0.99]`.
    pub uniform_fraction: f64,
    /// How the points lie in their strata.
    pub jitter: Jitter,
}

impl From<f64> for DrawSettings {
    fn from(uniform_fraction: f64) -> Self {
        Self { uniform_fraction, jitter: Jitter::default() }
    }
}

/// Draws and the probability that each had.
#[derive(Debug, Clone)]
pub struct Draws {
    /// `[B]` u32, ascending, with duplicates.
    pub indices: Tensor,
    /// `[B]` f32, the probability with which one draw picks this index, at the time of drawing.
    pub probability: Tensor,
}

impl Draws {
    /// [`effective_sample_size`] of the weights `1 / (N p)` that make a mean over the draws one over all entries.
    ///
    /// # Errors
    ///
    /// Where the probabilities are not on the host, as no draw leaves them.
    pub fn effective_sample_size(&self) -> Result<f64> {
        batch::on_host(&self.probability, |p: &[f32]| Ok(effective_size(p.iter().map(|&p| 1.0 / f64::from(p)))))
    }

    pub(super) fn from_host(draws: HostDraws) -> Result<Self> {
        let len = draws.indices.len();
        Ok(Self {
            indices: Tensor::from_vec(draws.indices, len, &Device::Cpu)?,
            probability: Tensor::from_vec(draws.probability, len, &Device::Cpu)?,
        })
    }
}

/// Draws `num` indices with probability `(1 - uniform_fraction) * weights[i] / sum(weights) + uniform_fraction / N`.
///
/// - `weights`: `[N]` f32, contiguous, finite, not negative, with `N < 2^32 - 1`; they need not sum to one. They are
///   rounded down to a fixed point relative to the largest (24 bits or more: 36 bits up to 2^20 entries);
/// - `num`: how many to draw;
/// - `settings`: the uniform fraction, the share drawn without regard to the weights, in `[0, 0.99]`; or a
///   [`DrawSettings`];
/// - `seed`, `step`: what the randomness is a function of, see [`crate::rng`].
///
/// The draws are on the device of the weights, with the same bits on either.
///
/// # Errors
///
/// On a wrong shape, dtype, device or layout, on weights that are negative or not finite, on a fraction out of
/// range, and on weights that are all zero while nothing is drawn uniformly.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_radfoam::ops::weighted_draw;
///
/// # fn main() -> candle_core::Result<()> {
/// let weights = Tensor::new(&[3.0f32, 0.0, 1.0], &Device::Cpu)?;
/// let draws = weighted_draw(&weights, 4, 0.0, 7, 0)?;
/// assert_eq!(draws.indices.to_vec1::<u32>()?, [0, 0, 0, 2]);
/// assert_eq!(draws.probability.to_vec1::<f32>()?, [0.75, 0.75, 0.75, 0.25]);
/// # Ok(())
/// # }
/// ```
pub fn weighted_draw(
    weights: &Tensor,
    num: usize,
    settings: impl Into<DrawSettings>,
    seed: u64,
    step: u64,
) -> Result<Draws> {
    let settings = settings.into();
    let DrawSettings { uniform_fraction, jitter } = settings;
    batch::check_vector::<f32>("weights", weights, None)?;
    check_draw(weights.elem_count(), num, uniform_fraction)?;
    let (storage, layout) = weights.storage_and_layout();
    #[cfg(feature = "cuda")]
    if let Storage::Cuda(storage) = &*storage {
        return cuda::draw(storage, layout, num, settings, seed, step);
    }
    let Storage::Cpu(storage) = &*storage else {
        bail!(
            "tensor weights: expected a tensor on the CPU or a CUDA device, found one on {:?}",
            weights.device().location()
        )
    };
    let masses = cpu::WeightMasses::new(batch::view("weights", storage, layout)?, uniform_fraction)?;
    Draws::from_host(cpu::draw(&masses, num, |total| Strata::with_jitter(jitter, num, total, seed, step)))
}

/// How many equally weighted samples a mean with these weights is worth: `(sum w)^2 / sum w^2` (Kish, "Survey
/// Sampling", 1965), from 1 to `B`; 0 where all are zero or there are none.
///
/// - `weights`: `[B]` f32, their common scale does not matter.
///
/// # Errors
///
/// On a wrong shape or dtype.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_radfoam::ops::effective_sample_size;
///
/// # fn main() -> candle_core::Result<()> {
/// let weights = Tensor::new(&[2.0f32, 2.0, 2.0, 0.0], &Device::Cpu)?;
/// assert_eq!(effective_sample_size(&weights)?, 3.0);
/// # Ok(())
/// # }
/// ```
pub fn effective_sample_size(weights: &Tensor) -> Result<f64> {
    batch::check_vector::<f32>("weights", weights, None)?;
    batch::on_host(weights, |weights: &[f32]| Ok(effective_size(weights.iter().map(|&w| f64::from(w)))))
}

/// See [`effective_sample_size`].
pub(crate) fn effective_size(weights: impl Iterator<Item = f64>) -> f64 {
    let (sum, squares) = weights.fold((0.0, 0.0), |(sum, squares), w| (sum + w, squares + w * w));
    if squares == 0.0 { 0.0 } else { sum * sum / squares }
}

/// Checks the numbers that every kind of draw is given.
pub(super) fn check_draw(num_entries: usize, num: usize, uniform_fraction: f64) -> Result<()> {
    if num_entries == 0 || num_entries >= u32::MAX as usize {
        bail!("weighted draw: expected 1 to 2^32 - 2 entries, found {num_entries}")
    }
    if u32::try_from(num).is_err() {
        bail!("weighted draw: expected a batch below 2^32, found {num}")
    }
    if !(0.0..=MAX_UNIFORM_FRACTION).contains(&uniform_fraction) {
        bail!("uniform_fraction: expected a number in [0, {MAX_UNIFORM_FRACTION}], found {uniform_fraction}")
    }
    Ok(())
}
