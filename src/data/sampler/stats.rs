//! What a sampler counts.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a strategy could not be followed; see [`OnFailure`](super::OnFailure).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Failure {
    /// All errors of the map are 0 (below `cap / 2^22`, as fine as a draw sees) and nothing is drawn evenly: there is nothing to be in proportion to.
    ZeroMap,
    /// The map to go on with was missing, of another kind or length, or held values that are not finite. With
    /// [`OnFailure::Uniform`](super::OnFailure::Uniform) a new one is begun, of which nothing is known.
    UnusableMap,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ZeroMap => "all errors of the map are 0, and uniform_fraction is 0",
            Self::UnusableMap => "the error map to go on with could not be used",
        })
    }
}

/// What a draw moves on, and taking it back moves back.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Counters {
    pub step: u64,
    pub weighted_steps: u64,
    /// Where in the epochs the next draw begins.
    #[serde(default)]
    pub epoch_position: u64,
    #[serde(default = "whole")]
    pub effective_sample_size: f64,
    #[serde(default)]
    pub fallbacks: u64,
    #[serde(default)]
    pub failure: Option<Failure>,
}

/// Before anything was drawn.
fn whole() -> f64 {
    1.0
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            step: 0,
            weighted_steps: 0,
            epoch_position: 0,
            effective_sample_size: whole(),
            fallbacks: 0,
            failure: None,
        }
    }
}

impl Counters {
    pub fn fall_back(&mut self, failure: Failure) {
        self.fallbacks += 1;
        self.failure = Some(failure);
    }
}

/// What a sampler has done so far, cheap enough to ask at every step: nothing here passes over the rays.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplerStats {
    /// Draws made.
    pub step: u64,
    /// The share of those that followed the map.
    pub weighted_share: f64,
    /// The share of the next draw that is made without regard to the map.
    pub uniform_share: f64,
    /// Effective sample size of the last draw (on a device, of the last one whose errors were entered), a share of the
    /// batch: `(sum w)^2 / (B sum w^2)` of the weights
    /// `w = 1 / (N p)`; 1 where all rays were equally probable.
    pub effective_sample_size: f64,
    /// The mean over the visited entries of `error^error_power`; 0 without a map.
    pub mean_error: f64,
    /// The largest `error^error_power` of the last update, at most the cap; 0 without a map.
    pub max_error: f64,
    /// The share of the entries that were visited; 0 without a map.
    pub visited_fraction: f64,
    /// Errors that were NaN or infinite and did not enter the map.
    pub skipped_non_finite: u64,
    /// Errors that were negative and entered as 0.
    pub negative: u64,
    /// Errors that entered as the cap.
    pub capped: u64,
    /// How often the strategy could not be followed, and was not.
    pub fallbacks: u64,
    /// Why that was so the last time.
    pub failure: Option<Failure>,
}
