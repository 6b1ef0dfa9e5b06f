//! The error map: one number an entry, and the integer sums a draw descends through, always updated together.

use candle_core::{Device, Result, Tensor, bail};
use rayon::prelude::*;

use super::{
    batch,
    scatter_ema::{ScatterStats, check_decay, cpu::Ema},
    weighted_draw::{
        Draws, HostDraws, check_draw,
        cpu::{self, BLOCK, GROUP, Masses, block_len, uniform_mass},
    },
};

/// An entry at the cap has this mass: fine enough for errors of a thousandth of the cap (0.02 % off), small enough
/// that the sum of a group leaves room for its count of unvisited entries in 32 bits.
const FULL_MASS: u32 = 1 << 22;
/// A group's word: the mass of its visited entries below this bit (16 * 2^22 = 2^26 fits), the number of unvisited
/// ones from it on (at most 16, five bits).
const GROUP_COUNT_SHIFT: u32 = 27;
/// A block's word is laid out alike, with more room.
const BLOCK_COUNT_SHIFT: u32 = 32;

/// How an [`ErrorMap`] follows the errors it is told.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ErrorMapSettings {
    /// The share of the old value that an update keeps, in `[0, 1]`.
    pub decay: f32,
    /// The largest error: larger ones enter as this, and are counted. The resolution of a draw is `cap / 2^22`.
    pub cap: f32,
}

impl Default for ErrorMapSettings {
    /// Decay 0.8: an entry of a short run is visited a few times only, and must follow its error in those. Cap 1:
    /// colours lie in `[0, 1]`, and so do their residuals.
    fn default() -> Self {
        Self { decay: 0.8, cap: 1.0 }
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
/// The map lies on the host.
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
    /// The sign bit marks an unvisited entry.
    values: Vec<f32>,
    /// Packed sums over 16 entries.
    groups: Vec<u32>,
    /// Packed sums over 256 entries.
    blocks: Vec<u64>,
    settings: ErrorMapSettings,
}

/// What a whole map sums to.
#[derive(Debug, Clone, Copy)]
struct Totals {
    visited_mass: u64,
    unvisited: u64,
}

impl ErrorMap {
    /// What an unvisited entry holds: the sign bit is the mark.
    pub(crate) const UNVISITED: f32 = -0.0;

    /// A map of `len` entries, none of them visited.
    ///
    /// # Errors
    ///
    /// Where `len` is 0 or not below `2^32 - 1`, or a setting is out of its range.
    pub fn new(len: usize, settings: ErrorMapSettings) -> Result<Self> {
        Self::from_values(vec![Self::UNVISITED; len], settings)
    }

    /// The map that [`ErrorMap::to_tensor`] gave: `values` is `[N]` f32. Draws and updates go on with the same bits.
    ///
    /// # Errors
    ///
    /// As [`ErrorMap::new`], and where the tensor is of another kind or holds a value that is not finite.
    pub fn from_tensor(values: &Tensor, settings: ErrorMapSettings) -> Result<Self> {
        batch::check_vector::<f32>("error map", values, None)?;
        Self::from_values(values.to_vec1()?, settings)
    }

    pub(crate) fn from_values(values: Vec<f32>, settings: ErrorMapSettings) -> Result<Self> {
        check_draw(values.len(), 0, 0.0)?;
        check_decay(f64::from(settings.decay))?;
        if !settings.cap.is_normal() || settings.cap < 0.0 {
            bail!("cap: expected a positive number, found {}", settings.cap)
        }
        if let Some(at) = values.par_iter().position_first(|value| !value.is_finite()) {
            bail!("tensor error map: expected finite values, found {} at {at}", values[at])
        }
        let leaf = Leaf::new(settings.cap);
        let groups: Vec<u32> =
            values.par_chunks(GROUP).map(|group| group.iter().map(|&value| leaf.word(value)).sum()).collect();
        let blocks =
            groups.par_chunks(BLOCK / GROUP).map(|block| block.iter().map(|&word| widen(word)).sum()).collect();
        Ok(Self { values, groups, blocks, settings })
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Always false: a map has at least one entry.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
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
        Tensor::from_slice(&self.values, self.values.len(), &Device::Cpu)
    }

    /// The entries; the sign bit marks those that were never visited.
    pub fn values(&self) -> &[f32] {
        &self.values
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
        visited_mass as f64 / visited as f64 * f64::from(self.settings.cap) / f64::from(FULL_MASS)
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
        self.update_host(&indices.to_vec1()?, &values.to_vec1()?)
    }

    pub(crate) fn update_host(&mut self, indices: &[u32], values: &[f32]) -> Result<ScatterStats> {
        if indices.len() != values.len() {
            bail!("tensor values: expected {} of them, one an index, found {}", indices.len(), values.len())
        }
        batch::check_indices(indices, self.len())?;
        let order = batch::ascending_order(indices);
        let indices = batch::reorder(indices, order.as_deref());
        let values = batch::reorder(values, order.as_deref());

        let ErrorMapSettings { decay, cap } = self.settings;
        let (ema, leaf) = (Ema { decay, cap }, Leaf::new(cap));
        // No task shares a block with another, hence no sum either.
        let tasks = batch::cut(&indices, BLOCK as u32);
        let starts_in = |unit: usize| -> Vec<usize> {
            tasks.iter().map(|task| indices[task.start] as usize / BLOCK * (BLOCK / unit)).collect()
        };
        let starts = starts_in(1);
        let entries = batch::split_at_starts(&mut self.values, &starts);
        let groups = batch::split_at_starts(&mut self.groups, &starts_in(GROUP));
        let blocks = batch::split_at_starts(&mut self.blocks, &starts_in(BLOCK));
        let pieces = tasks.par_iter().zip(starts).zip(entries).zip(groups).zip(blocks);
        let stats = pieces.map(|((((task, start), entries), groups), blocks)| {
            let mut stats = ScatterStats::default();
            for (&index, &value) in indices[task.clone()].iter().zip(&values[task.clone()]) {
                let at = index as usize - start;
                let old = entries[at];
                if let Some(new) = ema.observe(old, value, &mut stats) {
                    entries[at] = new;
                    let (old, new) = (leaf.word(old), leaf.word(new));
                    // Differences may be negative: modulo 2^32 and 2^64 the sums come out right all the same.
                    let group = &mut groups[at / GROUP];
                    *group = group.wrapping_add(new.wrapping_sub(old));
                    let block = &mut blocks[at / BLOCK];
                    *block = block.wrapping_add(widen(new).wrapping_sub(widen(old)));
                }
            }
            stats
        });
        Ok(stats.sum())
    }

    /// Draws `num` entries, ascending, each with the probability it had at this moment; see
    /// [`weighted_draw`](super::weighted_draw) for the method.
    ///
    /// - `uniform_fraction`: the share drawn without regard to the map, in `[0, 0.99]`; every entry keeps at least
    ///   one unit of mass, so that none is lost for ever even where this is 0;
    /// - `seed`, `step`: what the randomness is a function of, see [`crate::rng`].
    ///
    /// # Errors
    ///
    /// On a fraction out of range or `num` not below 2^32.
    pub fn draw(&self, num: usize, uniform_fraction: f64, seed: u64, step: u64) -> Result<Draws> {
        Draws::from_host(self.draw_host(num, uniform_fraction, seed, step)?)
    }

    pub(crate) fn draw_host(&self, num: usize, uniform_fraction: f64, seed: u64, step: u64) -> Result<HostDraws> {
        check_draw(self.len(), num, uniform_fraction)?;
        Ok(cpu::draw(&self.masses(uniform_fraction), num, seed, step))
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

    fn totals(&self) -> Totals {
        // Block by block, not as packed words: over many blocks the mass would run into the counts.
        let zero = Totals { visited_mass: 0, unvisited: 0 };
        self.blocks.iter().fold(zero, |sum, &word| Totals {
            visited_mass: sum.visited_mass + block_mass(word),
            unvisited: sum.unvisited + (word >> BLOCK_COUNT_SHIFT),
        })
    }

    fn masses(&self, uniform_fraction: f64) -> MapMasses<'_> {
        let Totals { visited_mass, unvisited } = self.totals();
        let visited = self.len() as u64 - unvisited;
        let prior = visited_mass / visited.max(1);
        let uniform = uniform_mass(visited_mass + unvisited * prior, self.len(), uniform_fraction).max(1);
        MapMasses { map: self, leaf: Leaf::new(self.settings.cap), prior, uniform }
    }
}

/// An entry as a word that adds up: its mass, or one in the count of unvisited entries.
#[derive(Debug, Clone, Copy)]
struct Leaf {
    scale: f32,
}

impl Leaf {
    fn new(cap: f32) -> Self {
        Self { scale: FULL_MASS as f32 / cap }
    }

    fn word(self, value: f32) -> u32 {
        if value.is_sign_negative() {
            return 1 << GROUP_COUNT_SHIFT;
        }
        ((value * self.scale) as u32).min(FULL_MASS)
    }
}

/// A word of the lower levels as one of the block level.
fn widen(word: u32) -> u64 {
    let mass = word & ((1 << GROUP_COUNT_SHIFT) - 1);
    u64::from(mass) | u64::from(word >> GROUP_COUNT_SHIFT) << BLOCK_COUNT_SHIFT
}

fn block_mass(word: u64) -> u64 {
    word & ((1 << BLOCK_COUNT_SHIFT) - 1)
}

/// The map at the moment of a draw: what stands for an unvisited entry, and what every entry gets on top.
struct MapMasses<'a> {
    map: &'a ErrorMap,
    leaf: Leaf,
    prior: u64,
    uniform: u64,
}

impl MapMasses<'_> {
    fn mass(&self, word: u64, num_entries: usize) -> u64 {
        block_mass(word) + (word >> BLOCK_COUNT_SHIFT) * self.prior + num_entries as u64 * self.uniform
    }
}

impl Masses for MapMasses<'_> {
    fn len(&self) -> usize {
        self.map.len()
    }

    fn entry(&self, entry: usize) -> u64 {
        self.mass(widen(self.leaf.word(self.map.values[entry])), 1)
    }

    fn group(&self, group: usize) -> u64 {
        self.mass(widen(self.map.groups[group]), GROUP.min(self.len() - group * GROUP))
    }

    fn block(&self, block: usize) -> u64 {
        self.mass(self.map.blocks[block], block_len(self.len(), block))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Rng, Stream};

    /// Sizes around the borders of groups, blocks and tasks.
    const SIZES: [usize; 6] = [1, 17, 255, 256, 300, 10_007];

    #[test]
    fn sums_equal_a_rebuild_after_many_updates() {
        for len in SIZES {
            let mut map = ErrorMap::new(len, ErrorMapSettings::default()).unwrap();
            for step in 0..300 {
                let rng = Rng::new(11, Stream::Init, step);
                let batch = 1 + rng.below(u32::MAX, 2 * len as u64) as u32;
                let mut indices: Vec<u32> = (0..batch).map(|k| rng.below(k, len as u64) as u32).collect();
                if step % 2 == 0 {
                    indices.sort_unstable();
                }
                // From -0.25 to 2.25, so that negative and capped values occur, and now and then a NaN.
                let value = |k: u32| if k % 97 == 13 { f32::NAN } else { 2.5 * rng.uniform4(k)[3] - 0.25 };
                let values: Vec<f32> = (0..batch).map(value).collect();
                map.update_host(&indices, &values).unwrap();
            }
            let rebuilt = ErrorMap::from_values(map.values.clone(), map.settings).unwrap();
            assert_eq!(map.groups, rebuilt.groups, "groups of {len} entries");
            assert_eq!(map.blocks, rebuilt.blocks, "blocks of {len} entries");
            assert!(map.visited_fraction() > 0.5, "the updates reached {} of {len}", map.visited_fraction());
        }
    }

    #[test]
    fn full_groups_and_counts_do_not_run_into_each_other() {
        let full = ErrorMap::from_values(vec![1.0; BLOCK], ErrorMapSettings::default()).unwrap();
        assert_eq!(full.blocks, [u64::from(FULL_MASS) * BLOCK as u64]);
        assert_eq!(full.visited_fraction(), 1.0);
        let none = ErrorMap::new(BLOCK, ErrorMapSettings::default()).unwrap();
        assert_eq!(none.blocks, [(BLOCK as u64) << BLOCK_COUNT_SHIFT]);
        assert_eq!((none.visited_fraction(), none.mean()), (0.0, 0.0));
    }
}
