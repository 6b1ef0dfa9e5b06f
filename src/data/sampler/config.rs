//! What a sampler can be told.

use serde::{Deserialize, Serialize};

use crate::{
    Error, Result,
    ops::{ErrorMapSettings, MAX_UNIFORM_FRACTION},
};

/// How rays are chosen.
///
/// Let `N` be the number of rays (pixels in use), `E` that of the map's entries, `a` the number of rays of an entry
/// (1 where the patch is one pixel), `e` its error (the mean of the visited entries where it was never visited) and
/// `u` the uniform share, [`SamplerConfig::uniform_fraction`]. A ray is drawn with the probability
///
/// | strategy | probability of a ray | map |
/// |---|---|---|
/// | `None`, `Uniform` | `1 / N`, with replacement, one in each of `B` equal strata | no, yes |
/// | `Epoch` | `1 / N`, without replacement: each ray once before any comes again | yes |
/// | `ErrorWeighted`, `Spatial` | `((1 - u) e / sum(e) + u / E) / a` | yes |
/// | `TopK` | `(1 - u) / (K a)` in the pool, and `u / N` everywhere | yes |
/// | `Mixed` | that of `ErrorWeighted` with `u = 1 - error_fraction` | yes |
/// | `Adaptive` | that of `ErrorWeighted` with the `u` of its rung, see [`Strategy::Adaptive`] | yes |
///
/// Where pixels are left out, patches differ in size; error-weighted draws are then
/// `(1 - u) e / sum(a e) + u / N`, so that a patch with few rays left does not have each of them drawn more often. Until
/// its first visit such a patch counts as much as the mean patch does, however few its rays are.
///
/// In TOML a strategy is its name, or a table with its setting: `strategy = "error-weighted"`,
/// `strategy = { spatial = { patch = 16 } }`, `strategy = { top-k = { pool = 0.2 } }`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Strategy {
    /// Uniformly over all rays; no map is kept, updates do nothing.
    None,
    /// Uniformly over all rays; the map is kept up to date all the same, for pictures and for comparison.
    Uniform,
    /// Each ray once an epoch, in an order that is shuffled anew for every epoch; a batch may begin in one epoch and
    /// end in the next. The order is a keyed permutation that is computed, not stored.
    Epoch,
    /// In proportion to the error map, with a uniform share. An entry stands for a patch of
    /// [`SamplerConfig::patch`] pixels a side; with 1 every ray has its own.
    #[default]
    ErrorWeighted,
    /// [`Strategy::ErrorWeighted`] with a patch of its own, whatever [`SamplerConfig::patch`] says: an entry in
    /// proportion to the map, then a pixel of its patch uniformly.
    Spatial {
        /// The side in pixels of a patch.
        patch: u32,
    },
    /// Uniformly over the `K = ceil(pool * E)` entries with the largest errors, with a uniform share over all rays;
    /// without such a share (`uniform_fraction = 0`) an entry of the pool has probability `1 / K` and no other is
    /// ever looked at again. Of equal errors the one with the lower index counts as larger, and an entry that was
    /// never visited counts with the mean. The pool is selected anew, exactly, for every draw: three passes over the
    /// map in parallel, 12 bytes read an entry.
    TopK {
        /// The share of the entries that are in the pool, in `(0, 1]`.
        pool: f64,
    },
    /// A fixed part of the draws by error, the rest evenly.
    Mixed {
        /// The part drawn by error, in `[0.01, 1]`.
        #[serde(default = "default_error_fraction")]
        error_fraction: f64,
    },
    /// Uniform, half by error, or error-weighted, whichever the errors themselves say would do best.
    ///
    /// For a ray with error `r` (after the power) that a rung with uniform share `u` would draw with probability
    /// `p_u`, let `w_u = 1 / (N p_u)`. Estimates over the batches seen so far, each counting 0.95 times as much as the
    /// one after it, give of every rung
    ///
    /// - the gain `G_u = mean(r^2) / mean(w_u r^2)`: by how much it lowers the second moment of the importance-weighted
    ///   error, for which that of the gradient stands (Katharopoulos and Fleuret, "Not All Samples Are Created Equal",
    ///   ICML 2018); a map that knows nothing about the errors of the next batch has a gain below 1;
    /// - the effective sample size `S_u = 1 / mean(w_u)`, a share of the batch.
    ///
    /// The rungs are `u = 1` (gain 1), `u = (1 + u_min) / 2` and `u = u_min = uniform_fraction`. It starts uniformly.
    /// After every 32 updates the rung with the largest gain among those with `S_u >= 0.25` is taken, if its gain is
    /// 1.05 times that of the present one, or the present one's `S_u` has fallen below 0.25.
    Adaptive,
}

fn default_error_fraction() -> f64 {
    Strategy::DEFAULT_ERROR_FRACTION
}

impl Strategy {
    /// The usual part of [`Strategy::Mixed`] that is drawn by error.
    pub const DEFAULT_ERROR_FRACTION: f64 = 0.7;

    /// Whether an error map is kept.
    pub fn keeps_map(self) -> bool {
        self != Self::None
    }
}

/// What to do where a strategy cannot be followed; see [`Failure`](super::Failure) for when that is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// Return an error.
    #[default]
    Error,
    /// Draw uniformly, keep the reason in [`SamplerStats`](super::SamplerStats) and count it.
    Uniform,
}

/// The settings of a [`Sampler`](super::Sampler).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplerConfig {
    /// How rays are chosen.
    pub strategy: Strategy,
    /// Rays a draw, at least 1. It may exceed the number of rays there are.
    pub batch_size: usize,
    /// What all randomness is a function of, together with the step.
    pub seed: u64,
    /// Draws that are uniform before the map is used, so that it has something to say.
    pub warmup_steps: u64,
    /// The share drawn evenly, in `[0, 0.99]`. It bounds how stale an entry can get, and the importance weights: they
    /// stay below its inverse (times the small difference in patch sizes).
    pub uniform_fraction: f64,
    /// The share of an entry's old value that an update keeps, in `[0, 1]`.
    pub decay: f32,
    /// The side in pixels of the patch that one map entry stands for; 1 is an entry a ray. On a short budget a map
    /// with an entry for every ray cannot even be visited once. [`Strategy::Spatial`] brings its own.
    pub patch: u32,
    /// Errors enter the map raised to this power, which must be positive. For squared errors 0.5 gives `|residual|`,
    /// to which the draw of least gradient variance is proportional (Katharopoulos and Fleuret, "Not All Samples Are
    /// Created Equal", ICML 2018).
    pub error_power: f32,
    /// The largest value that enters the map (after the power); larger ones are cut to it and counted.
    pub error_cap: f32,
    /// Exponent `b` of [`Draw::weights`](super::Draw::weights), at least 0: at 1 the mean of a batch's weighted losses
    /// is an unbiased estimate of the mean over all rays, at 0 (the default) hard rays count for more.
    pub importance_exponent: f32,
    /// Draws over which the exponent grows linearly from 0 to its value; 0 for the whole of it from the start.
    pub importance_ramp_steps: u64,
    /// What to do where the strategy cannot be followed.
    pub on_failure: OnFailure,
    /// For a [`Loader`](crate::data::Loader), 0 or 1: draw `k` uses the map as it was after update `k - 1 - lag`. With
    /// 1 the next batch can be prepared while a step runs.
    pub lag: u32,
}

impl Default for SamplerConfig {
    fn default() -> Self {
        let map = ErrorMapSettings::default();
        Self {
            strategy: Strategy::default(),
            batch_size: 8192,
            seed: 0,
            warmup_steps: 50,
            uniform_fraction: 0.15,
            decay: map.decay,
            patch: 8,
            error_power: 0.5,
            error_cap: map.cap,
            importance_exponent: 0.0,
            importance_ramp_steps: 0,
            on_failure: OnFailure::default(),
            lag: 0,
        }
    }
}

impl SamplerConfig {
    /// Checks every setting against its range.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for the first one outside it.
    pub fn validate(&self) -> Result<()> {
        let check = |valid: bool, field: &str, expected: &str, found: String| {
            if valid { Ok(()) } else { Err(Error::config(field, expected, found)) }
        };
        let batch_fits = self.batch_size >= 1 && u32::try_from(self.batch_size).is_ok();
        check(batch_fits, "batch_size", "1 to 2^32 - 1", self.batch_size.to_string())?;
        let fraction = self.uniform_fraction;
        check(
            (0.0..=MAX_UNIFORM_FRACTION).contains(&fraction),
            "uniform_fraction",
            &format!("[0, {MAX_UNIFORM_FRACTION}]"),
            fraction.to_string(),
        )?;
        match self.strategy {
            Strategy::TopK { pool } => check(pool > 0.0 && pool <= 1.0, "pool", "(0, 1]", pool.to_string())?,
            Strategy::Mixed { error_fraction } => {
                let least = 1.0 - MAX_UNIFORM_FRACTION;
                // 1 - 0.99 is a little above 0.01, which is to be allowed all the same.
                let valid = error_fraction <= 1.0 && error_fraction >= least - f64::EPSILON;
                check(valid, "error_fraction", "[0.01, 1]", error_fraction.to_string())?;
            }
            _ => {}
        }
        check((0.0..=1.0).contains(&self.decay), "decay", "[0, 1]", self.decay.to_string())?;
        check(self.map_patch() >= 1, "patch", "a side of at least 1 pixel", self.map_patch().to_string())?;
        let power = self.error_power;
        check(power.is_finite() && power > 0.0, "error_power", "a positive number", power.to_string())?;
        let cap = self.error_cap;
        check(cap.is_normal() && cap > 0.0, "error_cap", "a positive number", cap.to_string())?;
        let exponent = self.importance_exponent;
        check(exponent.is_finite() && exponent >= 0.0, "importance_exponent", "at least 0", exponent.to_string())?;
        check(self.lag <= 1, "lag", "0 or 1", self.lag.to_string())
    }

    /// The side of the patch that an entry of the map stands for.
    pub fn map_patch(&self) -> u32 {
        match self.strategy {
            Strategy::Spatial { patch } => patch,
            _ => self.patch,
        }
    }

    pub(super) fn map_settings(&self) -> ErrorMapSettings {
        ErrorMapSettings { decay: self.decay, cap: self.error_cap, ..Default::default() }
    }

    /// The exponent of the importance weights at `step`.
    pub(super) fn exponent_at(&self, step: u64) -> f32 {
        if step >= self.importance_ramp_steps {
            return self.importance_exponent;
        }
        self.importance_exponent * (step as f64 / self.importance_ramp_steps as f64) as f32
    }
}
