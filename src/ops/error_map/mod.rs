//! The error map: one number an entry, and the integer sums a draw descends through, always updated together.

#[cfg(feature = "cuda")]
mod cuda;
mod draw;
mod lanes;
mod sums;
mod update;

use candle_core::{Device, Result, Tensor, bail};
use rayon::prelude::*;

use crate::pages::Pages;

use super::{
    batch,
    scatter_ema::{Duplicates, ScatterStats, check_decay},
    weighted_draw::{
        DrawSettings, Draws, HostDraws, Strata, check_draw,
        cpu::{BLOCK, GROUP, Masses, uniform_mass},
    },
};
#[cfg(feature = "cuda")]
pub(crate) use cuda::MapTotals;
#[cfg(feature = "cuda")]
pub use cuda::{CudaDraws, CudaErrorMap, CudaScatterStats};
use sums::{FULL_MASS, Leaf, MapMasses, Totals, block_mass};

/// Entries that a task writes when a map is made.
const PART: usize = 1 << 20;

/// How an [`ErrorMap`] follows the errors it is told.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ErrorMapSettings {
    /// The share of the old value that an update keeps, in `[0, 1]`.
    pub decay: f32,
    /// The largest error: larger ones enter as this, and are counted. The resolution of a draw is `cap / 2^22`.
    pub cap: f32,
    /// What happens where a batch has several errors for one entry.
    pub duplicates: Duplicates,
}

impl Default for ErrorMapSettings {
    /// Decay 0.8: an entry of a short run is visited a few times only, and must follow its error in those. Cap 1:
    /// colours lie in `[0, 1]`, and so do their residuals.
    fn default() -> Self {
        Self { decay: 0.8, cap: 1.0, duplicates: Duplicates::Sequential }
    }
}

/// A map of errors that can be drawn from in proportion to them, whatever its length below `2^32 - 1`.
///
/// Entry `i` with error `e_i` has the mass `q_i = trunc(e_i / cap * 2^22)`; a draw picks it with probability
/// `(q_i + c) / sum_j (q_j + c)`, where `c >= 1` spreads the uniform share. An entry that was never visited counts
/// with the mean mass of the visited ones, so that nothing is known about it is what the draw assumes: neither
/// starved nor preferred. Sums over 16 and 256 entries are integers, hence exact: after any number of updates they
/// equal those built anew. 4.3 bytes an entry; an update touches what it changes and nothing else, a draw costs
/// `N / 256` plus its batch.
///
/// The map lies on the host; with the feature `cuda`, `CudaErrorMap` is the same on a GPU.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_radfoam::ops::{ErrorMap, ErrorMapSettings};
///
/// # fn main() -> candle_core::Result<()> {
/// let mut map = ErrorMap::new(1000, ErrorMapSettings::default())?;
/// let draws = map.draw(64, 0.3, 7, 0)?;
/// let errors = Tensor::full(0.1f32, 64, &Device::Cpu)?;
/// let stats = map.update(&draws.indices, &errors)?;
/// assert_eq!(stats.updated, 64);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct ErrorMap {
    len: usize,
    /// The sign bit marks an unvisited entry. Padded to whole blocks by zeros.
    values: Pages<f32>,
    /// Packed sums over 16 entries.
    groups: Pages<u32>,
    /// Packed sums over 256 entries.
    blocks: Vec<u64>,
    settings: ErrorMapSettings,
}

impl ErrorMap {
    /// What an unvisited entry holds: the sign bit is the mark.
    pub(crate) const UNVISITED: f32 = -0.0;

    /// A map of `len` entries, none of them visited.
    ///
    /// # Errors
    ///
    /// Where `len` is 0 or not below `2^32 - 1`, a setting is out of its range, or memory is short.
    pub fn new(len: usize, settings: ErrorMapSettings) -> Result<Self> {
        Self::fill(len, settings, |_, values| values.fill(Self::UNVISITED))
    }

    /// The map that [`ErrorMap::to_tensor`] gave: `values` is `[N]` f32. Draws and updates go on with the same bits.
    ///
    /// # Errors
    ///
    /// As [`ErrorMap::new`], and where the tensor is of another kind or holds a value that is not finite.
    pub fn from_tensor(values: &Tensor, settings: ErrorMapSettings) -> Result<Self> {
        batch::check_vector::<f32>("error map", values, None)?;
        batch::on_host(values, |values| Self::from_slice(values, settings))
    }

    pub(crate) fn from_values(values: Vec<f32>, settings: ErrorMapSettings) -> Result<Self> {
        Self::from_slice(&values, settings)
    }

    fn from_slice(values: &[f32], settings: ErrorMapSettings) -> Result<Self> {
        if let Some(at) = values.par_iter().position_first(|value| !value.is_finite()) {
            bail!("tensor error map: expected finite values, found {} at {at}", values[at])
        }
        Self::fill(values.len(), settings, |start, part| part.copy_from_slice(&values[start..start + part.len()]))
    }

    /// A map whose values are written part by part, each from the given index on.
    fn fill(len: usize, settings: ErrorMapSettings, write: impl Fn(usize, &mut [f32]) + Sync) -> Result<Self> {
        check_draw(len, 0, 0.0)?;
        check_decay(f64::from(settings.decay))?;
        let leaf = Leaf::new(settings.cap);
        if !settings.cap.is_normal() || settings.cap < 0.0 || !leaf.scale.is_normal() {
            bail!("cap: expected a positive number from 1e-30 to 1e38, found {}", settings.cap)
        }
        let num_blocks = len.div_ceil(BLOCK);
        let mut values = Pages::zeroed(num_blocks * BLOCK)?;
        let mut groups = Pages::zeroed(num_blocks * (BLOCK / GROUP))?;
        let parts = values[..len].par_chunks_mut(PART).enumerate();
        parts.for_each(|(at, part)| write(at * PART, part));
        let blocks = sums::sums(&values, &mut groups, leaf);
        Ok(Self { len, values, groups, blocks, settings })
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Always false: a map has at least one entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The settings it was made with.
    pub fn settings(&self) -> ErrorMapSettings {
        self.settings
    }

    /// The whole state: `[N]` f32, the sign bit set where an entry was never visited. The sums follow from it.
    ///
    /// # Errors
    ///
    /// Where Candle cannot make the tensor.
    pub fn to_tensor(&self) -> Result<Tensor> {
        Tensor::from_slice(self.values(), self.len, &Device::Cpu)
    }

    /// The entries; the sign bit marks those that were never visited.
    pub fn values(&self) -> &[f32] {
        &self.values[..self.len]
    }

    /// The share of the entries that were visited, from the sums.
    pub fn visited_fraction(&self) -> f64 {
        1.0 - self.totals().unvisited as f64 / self.len() as f64
    }

    /// The mean of the visited entries as the draw sees them (each rounded down to `cap / 2^22`), from the sums;
    /// 0 where there are none.
    pub fn mean(&self) -> f64 {
        let Totals { visited_mass, unvisited } = self.totals();
        let visited = (self.len() as u64 - unvisited).max(1);
        self.error(visited_mass as f64 / visited as f64)
    }

    /// Bounds of the largest visited error, as the draw sees it, without a look at every entry: the largest one in the
    /// block of 256 entries whose sum is largest, and that block's sum (at most the cap). `N / 256 + 256` steps; the
    /// two agree where one entry stands out, or where errors reach the cap.
    pub fn max_error_bounds(&self) -> [f64; 2] {
        let largest = self.blocks.iter().enumerate().max_by_key(|(_, word)| block_mass(**word));
        let Some((block, &word)) = largest else { return [0.0; 2] };
        let leaf = Leaf::new(self.settings.cap);
        let visited = self.values[block * BLOCK..][..BLOCK].iter().filter(|value| value.is_sign_positive());
        let most = visited.map(|&value| leaf.word(value)).max().unwrap_or(0);
        [u64::from(most), block_mass(word).min(u64::from(FULL_MASS))].map(|mass| self.error(mass as f64))
    }

    /// The error of this mass.
    fn error(&self, mass: f64) -> f64 {
        mass * f64::from(self.settings.cap) / f64::from(FULL_MASS)
    }

    /// Moves `map[indices[k]]` towards `values[k]`, for every `k` in batch order: [`scatter_ema`](super::scatter_ema)
    /// with the map's decay and cap, the sums kept in step.
    ///
    /// - `indices`: `[B]` u32, in any order, duplicates allowed (ascending is fastest);
    /// - `values`: `[B]` f32.
    ///
    /// # Errors
    ///
    /// On a wrong shape or dtype and on an index outside the map. The map is then unchanged.
    pub fn update(&mut self, indices: &Tensor, values: &Tensor) -> Result<ScatterStats> {
        batch::check_vector::<u32>("indices", indices, None)?;
        batch::check_vector::<f32>("values", values, Some(indices.elem_count()))?;
        batch::on_host(indices, |indices| batch::on_host(values, |values| self.update_host(indices, values)))
    }

    pub(crate) fn update_host(&mut self, indices: &[u32], values: &[f32]) -> Result<ScatterStats> {
        if indices.len() != values.len() {
            bail!("tensor values: expected {} of them, one an index, found {}", indices.len(), values.len())
        }
        let batch = batch::Ascending::new(indices, self.len)?;
        let values = batch.arrange(values);
        let Self { values: entries, groups, blocks, settings, .. } = self;
        Ok(update::update(entries, groups, blocks, batch.indices(), &values, settings))
    }

    /// Draws `num` entries, ascending, each with the probability it had at this moment; see
    /// [`weighted_draw`](super::weighted_draw) for the method.
    ///
    /// - `settings`: the uniform fraction, the share drawn without regard to the map, in `[0, 0.99]`, or a
    ///   [`DrawSettings`]; every entry keeps at least one unit of mass, so that none is lost for ever even where the
    ///   fraction is 0;
    /// - `seed`, `step`: what the randomness is a function of, see [`crate::rng`].
    ///
    /// # Errors
    ///
    /// On a fraction out of range or `num` not below 2^32.
    pub fn draw(&self, num: usize, settings: impl Into<DrawSettings>, seed: u64, step: u64) -> Result<Draws> {
        Draws::from_host(self.draw_host(num, settings, seed, step)?)
    }

    pub(crate) fn draw_host(
        &self,
        num: usize,
        settings: impl Into<DrawSettings>,
        seed: u64,
        step: u64,
    ) -> Result<HostDraws> {
        let DrawSettings { uniform_fraction, jitter } = settings.into();
        check_draw(self.len, num, uniform_fraction)?;
        let strata = |total| Strata::with_jitter(jitter, num, total, seed, step);
        Ok(draw::draw(&self.masses(uniform_fraction), num, strata))
    }

    /// The probability with which [`ErrorMap::draw`] would now pick each entry: `[N]` f64, summing to 1.
    ///
    /// # Errors
    ///
    /// On a fraction out of range.
    pub fn pmf(&self, uniform_fraction: f64) -> Result<Tensor> {
        check_draw(self.len(), 0, uniform_fraction)?;
        let masses = self.masses(uniform_fraction);
        let total: u64 = (0..self.blocks.len()).map(|block| masses.block(block)).sum();
        let pmf: Vec<f64> =
            (0..self.len()).into_par_iter().map(|entry| masses.entry(entry) as f64 / total as f64).collect();
        Tensor::from_vec(pmf, self.len(), &Device::Cpu)
    }

    /// The probability with which [`ErrorMap::draw`] would now pick an entry.
    pub(crate) fn probability(&self, uniform_fraction: f64) -> impl Fn(u32) -> f64 + Sync + '_ {
        let (masses, Totals { visited_mass, unvisited }) = (self.masses(uniform_fraction), self.totals());
        let total = (visited_mass + unvisited * masses.prior + self.len as u64 * masses.uniform) as f64;
        move |entry| masses.entry(entry as usize) as f64 / total
    }

    fn totals(&self) -> Totals {
        sums::totals(&self.blocks)
    }

    fn masses(&self, uniform_fraction: f64) -> MapMasses<'_> {
        let Self { len, values, groups, blocks, .. } = self;
        let Totals { visited_mass, unvisited } = self.totals();
        let visited = self.len as u64 - unvisited;
        let prior = visited_mass / visited.max(1);
        let uniform = uniform_mass(visited_mass + unvisited * prior, self.len, uniform_fraction).max(1);
        MapMasses { len: *len, values, groups, blocks, leaf: Leaf::new(self.settings.cap), prior, uniform }
    }
}

#[cfg(test)]
mod tests;
