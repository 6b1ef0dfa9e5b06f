//! The integer sums over a map: what an entry weighs, and how groups and blocks add up.

use rayon::prelude::*;

use super::lanes::{MAX_UNIFORM, Rule};
use crate::{
    ops::weighted_draw::cpu::{BLOCK, GROUP, Masses, block_len},
    pages::Pages,
};

/// An entry at the cap has this mass: fine enough for errors of a thousandth of the cap (0.02 % off), small enough
/// that the sum of a group leaves room for its count of unvisited entries in 32 bits.
pub(super) const FULL_MASS: u32 = 1 << 22;
/// A group's word: the mass of its visited entries below this bit (16 * 2^22 = 2^26 fits), the number of unvisited
/// ones from it on (at most 16, five bits).
pub(super) const GROUP_COUNT_SHIFT: u32 = 27;
/// A block's word is laid out alike, with more room.
pub(super) const BLOCK_COUNT_SHIFT: u32 = 32;

/// An entry as a word that adds up: its mass, or one in the count of unvisited entries.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leaf {
    pub scale: f32,
}

impl Leaf {
    pub fn new(cap: f32) -> Self {
        Self { scale: FULL_MASS as f32 / cap }
    }

    #[inline(always)]
    pub fn word(self, value: f32) -> u32 {
        let mass = value.abs() * self.scale;
        // The minimum first: then the conversion needs no check of its range.
        let mass = if mass < FULL_MASS as f32 { mass } else { FULL_MASS as f32 };
        // SAFETY: neither factor is negative, so that this is a number in 0..=2^22.
        let mass = unsafe { mass.to_int_unchecked::<i32>() as u32 };
        // Chosen last, without a branch: which entries were visited follows no pattern.
        if value.is_sign_negative() { 1 << GROUP_COUNT_SHIFT } else { mass }
    }
}

/// A word of the lower levels as one of the block level.
#[inline(always)]
pub(super) fn widen(word: u32) -> u64 {
    let mass = word & ((1 << GROUP_COUNT_SHIFT) - 1);
    u64::from(mass) | u64::from(word >> GROUP_COUNT_SHIFT) << BLOCK_COUNT_SHIFT
}

/// What the words of groups and blocks grow by, modulo their size, when an entry of word `old` is visited and gets the
/// mass `new`. As the difference of the widened words: [`widen`] is linear.
#[inline(always)]
pub(super) fn growth(old: u32, new: u32) -> (u32, u64) {
    const WIDENING: u64 = (1 << BLOCK_COUNT_SHIFT) - (1 << GROUP_COUNT_SHIFT);
    let unvisited = u64::from(old >> GROUP_COUNT_SHIFT);
    let block = u64::from(new).wrapping_sub(u64::from(old)).wrapping_sub(unvisited * WIDENING);
    (new.wrapping_sub(old), block)
}

pub(super) fn block_mass(word: u64) -> u64 {
    word & ((1 << BLOCK_COUNT_SHIFT) - 1)
}

/// What a whole map sums to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub visited_mass: u64,
    pub unvisited: u64,
}

/// The sums over all groups and all blocks of `values`, which are padded to whole blocks by zeros.
pub(super) fn sums(values: &[f32], groups: &mut [u32], leaf: Leaf) -> Vec<u64> {
    let blocks =
        values.par_chunks_exact(BLOCK).zip(groups.par_chunks_exact_mut(BLOCK / GROUP)).map(|(block, groups)| {
            let mut sum = 0;
            for (group, word) in block.chunks_exact(GROUP).zip(groups) {
                *word = group.iter().map(|&value| leaf.word(value)).sum();
                sum += widen(*word);
            }
            sum
        });
    blocks.with_min_len(BLOCK).collect()
}

/// The sum of all blocks. Not of packed words: over many blocks the mass would run into the counts.
pub(super) fn totals(blocks: &[u64]) -> Totals {
    blocks.iter().fold(Totals::default(), |sum, &word| Totals {
        visited_mass: sum.visited_mass + block_mass(word),
        unvisited: sum.unvisited + (word >> BLOCK_COUNT_SHIFT),
    })
}

/// The map at the moment of a draw: what stands for an unvisited entry, and what every entry gets on top.
pub(super) struct MapMasses<'a> {
    pub len: usize,
    /// Padded to whole blocks.
    pub values: &'a Pages<f32>,
    pub groups: &'a Pages<u32>,
    pub blocks: &'a [u64],
    pub leaf: Leaf,
    pub prior: u64,
    pub uniform: u64,
}

impl MapMasses<'_> {
    /// What the vector code needs, where it can do it.
    pub fn rule(&self) -> Option<Rule> {
        let Self { leaf, prior, uniform, .. } = *self;
        (uniform <= MAX_UNIFORM).then_some(Rule { scale: leaf.scale, prior: prior as u32, uniform: uniform as u32 })
    }

    fn mass(&self, word: u64, num_entries: usize) -> u64 {
        block_mass(word) + (word >> BLOCK_COUNT_SHIFT) * self.prior + num_entries as u64 * self.uniform
    }
}

impl Masses for MapMasses<'_> {
    fn len(&self) -> usize {
        self.len
    }

    fn entry(&self, entry: usize) -> u64 {
        self.mass(widen(self.leaf.word(self.values[entry])), 1)
    }

    fn group(&self, group: usize) -> u64 {
        self.mass(widen(self.groups[group]), GROUP.min(self.len - group * GROUP))
    }

    fn block(&self, block: usize) -> u64 {
        self.mass(self.blocks[block], block_len(self.len, block))
    }
}
