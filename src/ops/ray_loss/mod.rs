//! The loss of rays, and its gradient by what the rays saw.
//!
//! With `C = rgb + (1 - opacity) background` what a ray shows, `C*` what it should show over the same background, `A*`
//! the alpha there and `d_a <= d_b` its depths at two transmittance quantiles, the loss of a ray is
//!
//! ```text
//! weight (|C - C*|^2 / 3 + opacity_weight (opacity - A*)^2 + quantile_weight (d_b - d_a))
//! ```
//!
//! and that of a batch the mean over its rays; the last term counts where both quantiles are reached.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

pub use cpu::RayLoss;
#[cfg(feature = "cuda")]
pub(super) use cuda::{CudaLoss, LossTotals, RayLossInputs, quantiles, ray_loss};

use crate::rng::{Rng, Stream};

/// What stands behind rays.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Backdrop {
    /// One colour, red, green and blue in `[0, 1]`.
    Color([f32; 3]),
    /// A colour of its own for each ray and step.
    Random,
}

impl Backdrop {
    /// The colour behind ray `index` of `step`.
    pub fn color(self, seed: u64, step: u64, index: usize) -> [f32; 3] {
        match self {
            Self::Color(color) => color,
            Self::Random => {
                let [r, g, b, _] = Rng::new(seed, Stream::Background, step).uniform4(index as u32);
                [r, g, b]
            }
        }
    }
}

/// What the loss of a ray is made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RayLossSettings {
    /// What stands behind the rays.
    pub backdrop: Backdrop,
    /// What a random backdrop is a function of, with the step.
    pub seed: u64,
    /// See `seed`.
    pub step: u64,
    /// Weight of the squared difference of opacities; 0 where images have no alpha.
    pub opacity_weight: f32,
    /// Weight of the distance between the depths at two quantiles.
    pub quantile_weight: f32,
}

/// Keeps quantiles strictly inside (0, 1).
const MARGIN: f32 = 1e-3;

/// Two random transmittance quantiles of ray `index`, descending.
pub(crate) fn quantile_pair(seed: u64, step: u64, index: usize) -> [f32; 2] {
    let rng = Rng::new(seed, Stream::Quantile, step);
    let [a, b, ..] = rng.uniform4(index as u32).map(|u| u.clamp(MARGIN, 1.0 - MARGIN));
    [a.max(b), a.min(b)]
}
