use candle_core::{Error, Result, bail};
use rayon::prelude::*;

use super::points::Strata;

/// Entries a group, and a block, holds: the two levels above the entries that a draw descends through.
pub(in crate::ops) const GROUP: usize = 16;
/// See [`GROUP`].
pub(in crate::ops) const BLOCK: usize = 256;

/// Draws a task handles.
const TASK: usize = 4096;

/// The integer masses a draw is proportional to; each level sums the one below exactly.
pub(in crate::ops) trait Masses: Sync {
    /// The number of entries.
    fn len(&self) -> usize;
    /// The mass of one entry.
    fn entry(&self, entry: usize) -> u64;
    /// The sum over the entries of one block.
    fn block(&self, block: usize) -> u64;
    /// The sum over the entries of one group.
    fn group(&self, group: usize) -> u64 {
        (group * GROUP..self.len().min((group + 1) * GROUP)).map(|entry| self.entry(entry)).sum()
    }
}

/// How many entries lie in `block`, the last of which may be short.
pub(in crate::ops) fn block_len(num_entries: usize, block: usize) -> usize {
    BLOCK.min(num_entries - block * BLOCK)
}

/// The constant that every one of `num_entries` entries gets on top of its own mass (`sum` in all), so that
/// `uniform_fraction` of the total is spread evenly.
pub(in crate::ops) fn uniform_mass(sum: u64, num_entries: usize, uniform_fraction: f64) -> u64 {
    (uniform_fraction / (1.0 - uniform_fraction) * sum as f64 / num_entries as f64).ceil() as u64
}

/// Draws on the host.
#[derive(Debug, Default)]
pub(crate) struct HostDraws {
    pub indices: Vec<u32>,
    pub probability: Vec<f32>,
}

/// Draws an entry for each of the `num` points that `strata` puts into the total of the masses, which must lie in
/// `1..2^63`.
pub(in crate::ops) fn draw(masses: &impl Masses, num: usize, strata: impl FnOnce(u64) -> Strata) -> HostDraws {
    let block_ends = block_ends(masses);
    let total = block_ends.last().copied().unwrap_or(0);
    let strata = strata(total);
    let mut draws = HostDraws { indices: vec![0; num], probability: vec![0.0; num] };
    let tasks = draws.indices.par_chunks_mut(TASK).zip(draws.probability.par_chunks_mut(TASK));
    tasks.enumerate().for_each(|(task, (indices, probability))| {
        let first = (task * TASK) as u32;
        let mut cursor = Cursor::at(masses, &block_ends, strata.point(first));
        for (k, (index, p)) in (first..).zip(indices.iter_mut().zip(probability)) {
            cursor.advance(strata.point(k));
            *index = cursor.entry as u32;
            *p = probability_of(cursor.entry_mass, total);
        }
    });
    draws
}

/// The probability of an entry of this mass.
#[inline(always)]
pub(in crate::ops) fn probability_of(mass: u64, total: u64) -> f32 {
    (mass as f64 / total as f64) as f32
}

/// The masses of all blocks up to and including each.
pub(in crate::ops) fn block_ends(masses: &impl Masses) -> Vec<u64> {
    let mut ends: Vec<u64> =
        (0..masses.len().div_ceil(BLOCK)).into_par_iter().map(|block| masses.block(block)).collect();
    let mut sum = 0;
    for end in &mut ends {
        sum += *end;
        *end = sum;
    }
    ends
}

/// A place in the running sum of the masses, which only moves forward.
struct Cursor<'a, M> {
    masses: &'a M,
    block_ends: &'a [u64],
    block: usize,
    group: usize,
    group_end: u64,
    entry: usize,
    entry_mass: u64,
    entry_end: u64,
}

impl<'a, M: Masses> Cursor<'a, M> {
    /// The start of the block in which `point` lies.
    fn at(masses: &'a M, block_ends: &'a [u64], point: u64) -> Self {
        let block = block_ends.partition_point(|&end| end <= point);
        let mut cursor =
            Self { masses, block_ends, block, group: 0, group_end: 0, entry: 0, entry_mass: 0, entry_end: 0 };
        let start = if block == 0 { 0 } else { block_ends[block - 1] };
        cursor.enter_group(block * (BLOCK / GROUP), start);
        cursor
    }

    fn enter_group(&mut self, group: usize, start: u64) {
        self.group = group;
        self.group_end = start + self.masses.group(group);
        self.enter_entry(group * GROUP, start);
    }

    fn enter_entry(&mut self, entry: usize, start: u64) {
        self.entry = entry;
        self.entry_mass = self.masses.entry(entry);
        self.entry_end = start + self.entry_mass;
    }

    /// Moves to the entry that holds `point`, which must not lie before the current one. Entries, groups and blocks
    /// without mass are passed over, since their end does not lie beyond their start.
    fn advance(&mut self, point: u64) {
        if point >= self.block_ends[self.block] {
            while point >= self.block_ends[self.block] {
                self.block += 1;
            }
            self.enter_group(self.block * (BLOCK / GROUP), self.block_ends[self.block - 1]);
        }
        while point >= self.group_end {
            self.enter_group(self.group + 1, self.group_end);
        }
        while point >= self.entry_end {
            self.enter_entry(self.entry + 1, self.entry_end);
        }
    }
}

/// A plain vector of weights as masses.
pub(super) struct WeightMasses<'a> {
    weights: &'a [f32],
    scale: f64,
    uniform: u64,
    /// The weights alone, a block each.
    blocks: Vec<u64>,
}

impl<'a> WeightMasses<'a> {
    /// The largest weight gets `2^(56 - log2 N)`, and at most 2^40: sums stay below 2^56, and with 99 % of uniform
    /// share on top below 2^63.
    const SUM_BITS: u32 = 56;
    const MAX_BITS: u32 = 40;

    /// The mass of a unit of weight, where `max` is the largest of `len`.
    pub fn scale(len: usize, max: f32, uniform_fraction: f64) -> Result<f64> {
        if max == 0.0 && uniform_fraction == 0.0 {
            bail!("tensor weights: expected a positive weight where uniform_fraction is 0, found only zeros")
        }
        let bits = (Self::SUM_BITS - len.next_power_of_two().ilog2()).min(Self::MAX_BITS);
        Ok(if max > 0.0 { 2f64.powi(bits as i32) / f64::from(max) } else { 0.0 })
    }

    /// Why a weight is none.
    pub fn refusal(weight: f32, at: usize) -> Error {
        Error::Msg(format!("tensor weights: expected finite values that are not negative, found {weight} at {at}"))
    }

    pub fn new(weights: &'a [f32], uniform_fraction: f64) -> Result<Self> {
        let valid = |w: &f32| w.is_finite() && *w >= 0.0;
        if let Some(at) = weights.par_iter().position_first(|w| !valid(w)) {
            return Err(Self::refusal(weights[at], at));
        }
        let max = weights.par_iter().copied().reduce(|| 0.0, f32::max);
        let scale = Self::scale(weights.len(), max, uniform_fraction)?;
        let mut masses = Self { weights, scale, uniform: 0, blocks: Vec::new() };
        masses.blocks = (0..weights.len().div_ceil(BLOCK))
            .into_par_iter()
            .map(|block| {
                let start = block * BLOCK;
                (start..start + block_len(weights.len(), block)).map(|entry| masses.entry(entry)).sum()
            })
            .collect();
        if uniform_fraction > 0.0 {
            let sum = masses.blocks.iter().sum();
            masses.uniform = uniform_mass(sum, weights.len(), uniform_fraction).max(1);
        }
        Ok(masses)
    }
}

impl Masses for WeightMasses<'_> {
    fn len(&self) -> usize {
        self.weights.len()
    }

    fn entry(&self, entry: usize) -> u64 {
        (f64::from(self.weights[entry]) * self.scale) as u64 + self.uniform
    }

    fn block(&self, block: usize) -> u64 {
        self.blocks[block] + self.uniform * block_len(self.weights.len(), block) as u64
    }
}
