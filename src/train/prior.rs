//! What is likely of cells that few rays see.

use super::Trainer;
use crate::foam::{Foam, with_values};
use crate::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// What is added to the loss of the rays, `P` being the number of cells:
/// `free_space extent mean_x density(x) + density / P sum_i softplus(raw_i) + smooth_color / P sum_i |sh_i - m_i|^2`,
/// with `x` in the space around and before the cameras, `extent` that of the capture, `softplus` as in
/// [`crate::foam::Foam`], and `m_i` the mean of the SH coefficients of the neighbours of cell `i`, taken as a constant.
///
/// Where many rays see a cell they decide. Where few do, cells take whatever density and colour explains the noise of
/// those rays, and hide the scene from a camera that stands beside or within them: on snowmiku single test views fall by
/// ten decibels. There these terms decide: what nobody needs is empty, and what few see looks as its surroundings do.
///
/// The first one is for cells around the cameras. A few training rays see them, each from its own side, and paint veils
/// on them that stand in the way of every other camera. But whoever took the pictures was there, so that space is empty:
/// around each camera, between it and those beside it, and before it for half of the way to the nearest points of the
/// cloud that it sees. With the default weight, at equal steps (2000, through 40,000 cells, the sizes of the README, seeds
/// 0 and 1) snowmiku goes from 26.53 and 27.94 to 28.54 and 28.16 dB and its worst view from 16.5 to 19.9, the fox from
/// 29.15 and 29.16 to 29.44 and 29.63, the chair at 100x100 (1000 steps, 20,000 cells) from 33.93 and 34.02 to 33.94
/// and 33.92. A third of the weight helps less (0.9 and 0.1 dB on average); ten times as much costs half a decibel, on
/// snowmiku at half the size. (These runs weighed each camera's places by how far it sees; now all places weigh the same.)
/// 1024 places a step are looked at.
///
/// The others are off by default. With `density` 0.002 and `smooth_color` 0.003 before black, photographs reduced to a quarter gain at
/// equal steps (snowmiku 27.03 and 27.78 -> 28.09 and 28.04 dB, fox 28.73 and 29.92 -> 29.48 and 29.54; seeds 0 and 1);
/// at the size of the README and equal time (75 s on one thread, seed 0) the fox goes from 28.61 dB and SSIM 0.881 to
/// 29.12 and 0.864, snowmiku from 27.81 and 0.885 to 26.97 and 0.867. At 0.01 and more, well-covered views lose.
///
/// The third term is taken every fourth step with four times its weight, since it visits all neighbours.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PriorConfig {
    /// Weight of the density; 0 for none.
    pub density: f32,
    /// Weight of the distance of a cell's colour to those of its neighbours; 0 for none.
    pub smooth_color: f32,
    /// Weight of the density of the space that is known to be empty, around and before the cameras; 0 for none.
    pub free_space: f32,
    /// How far that space reaches before a camera, in distances to where its scene begins: to the nearest points of the
    /// cloud that it sees, or without a cloud to the region of interest. Around the camera it reaches 0.7 times as far.
    pub free_reach: f32,
}

impl Default for PriorConfig {
    fn default() -> Self {
        Self { density: 0.0, smooth_color: 0.0, free_space: 0.01, free_reach: 0.5 }
    }
}

/// Steps from one smoothing to the next.
const SMOOTH_EVERY: u64 = 4;

impl PriorConfig {
    /// The gradient that the prior adds to that of every density.
    pub(super) fn density_gradient(&self, foam: &Foam) -> f32 {
        let each = 1.0 / foam.num_cells() as f32;
        self.density * each / foam.density_scale() as f32
    }

    /// The weight of a cell's distance from its neighbours in the gradient of `step`; 0 where that is not due.
    pub(super) fn smooth_gradient(&self, foam: &Foam, step: u64) -> f32 {
        let each = 1.0 / foam.num_cells() as f32;
        if step.is_multiple_of(SMOOTH_EVERY) { 2.0 * SMOOTH_EVERY as f32 * self.smooth_color * each } else { 0.0 }
    }
}

impl PriorConfig {
    /// Checks every setting.
    ///
    /// # Errors
    ///
    /// The first setting that is out of its range.
    pub fn validate(&self) -> Result<()> {
        let weights = [
            ("prior.density", self.density),
            ("prior.smooth_color", self.smooth_color),
            ("prior.free_space", self.free_space),
        ];
        for (field, weight) in weights {
            if !(weight >= 0.0 && weight.is_finite()) {
                return Err(Error::config(field, "at least 0", weight.to_string()));
            }
        }
        if !(self.free_reach > 0.0 && self.free_reach <= 1.0) {
            return Err(Error::config("prior.free_reach", "above 0, at most 1", self.free_reach.to_string()));
        }
        Ok(())
    }
}

impl Trainer {
    /// Adds the gradients of the prior to those of raw densities `[P]` and SH coefficients `[P K 3]`; `derivative` is
    /// that of the densities by the raw ones.
    pub(super) fn add_prior(&self, grad_raw: &mut [f32], grad_sh: &mut [f32], derivative: &[f32]) -> Result<()> {
        let prior = &self.config.prior;
        let of_density = prior.density_gradient(&self.foam);
        let (counts, of_place) = (self.free_space_counts(), self.free_space_gradient());
        if !counts.is_empty() {
            let cells = grad_raw.par_iter_mut().zip(derivative).zip(&counts).with_min_len(4096);
            cells.for_each(|((g, d), &count)| {
                let gradient = of_density + of_place * count as f32;
                if gradient > 0.0 {
                    *g += gradient * d;
                }
            });
        } else if of_density > 0.0 {
            grad_raw.par_iter_mut().zip(derivative).with_min_len(4096).for_each(|(g, d)| *g += of_density * d);
        }
        let smoothing = prior.smooth_gradient(&self.foam, self.step);
        if smoothing > 0.0 {
            add_smoothing(&self.foam, smoothing, grad_sh)?;
        }
        Ok(())
    }
}

/// Adds `weight (sh_i - m_i)` to the gradient of each cell.
fn add_smoothing(foam: &Foam, weight: f32, grad_sh: &mut [f32]) -> Result<()> {
    /// Of degree 3.
    const MOST_VALUES: usize = 48;
    let (topology, width) = (foam.topology(), 3 * foam.num_coefficients());
    with_values(foam.sh(), |sh: &[f32]| {
        grad_sh.par_chunks_mut(width).enumerate().with_min_len(1024).for_each(|(cell, gradient)| {
            let (mut sum, mut count) = ([0f32; MOST_VALUES], 0f32);
            for neighbor in topology.neighbors(cell) {
                for (sum, value) in sum.iter_mut().zip(&sh[neighbor * width..][..width]) {
                    *sum += value;
                }
                count += 1.0;
            }
            // A cell between sentinels only has nothing to be like.
            if count > 0.0 {
                for ((gradient, sum), value) in gradient.iter_mut().zip(&sum).zip(&sh[cell * width..]) {
                    *gradient += weight * (value - sum / count);
                }
            }
        });
    })
}
