//! The update of a map: the scatter-EMA, with the sums kept in step.

use rayon::prelude::*;

use super::{
    ErrorMapSettings,
    sums::{Leaf, growth},
};
use crate::ops::{
    batch::{self, prefetch},
    scatter_ema::{
        ScatterStats,
        cpu::{Ema, Entries},
    },
    weighted_draw::cpu::{BLOCK, GROUP},
};

/// Whole blocks of a map, which one task has to itself.
struct Piece<'a> {
    entries: &'a mut [f32],
    groups: &'a mut [u32],
    blocks: &'a mut [u64],
    leaf: Leaf,
}

impl Entries<f32> for Piece<'_> {
    #[inline(always)]
    fn prefetch(&self, at: usize) {
        prefetch(self.entries, at);
        prefetch(self.groups, at / GROUP);
    }

    #[inline(always)]
    fn get(&self, at: usize) -> f32 {
        self.entries[at]
    }

    #[inline(always)]
    fn set(&mut self, at: usize, old: f32, new: f32) {
        self.entries[at] = new;
        // Differences may be negative: modulo 2^32 and 2^64 the sums come out right all the same.
        let (group_growth, block_growth) = growth(self.leaf.word(old), self.leaf.word(new));
        let group = &mut self.groups[at / GROUP];
        *group = group.wrapping_add(group_growth);
        let block = &mut self.blocks[at / BLOCK];
        *block = block.wrapping_add(block_growth);
    }
}

/// Enters an ascending batch whose indices have been checked.
pub(super) fn update(
    entries: &mut [f32],
    groups: &mut [u32],
    blocks: &mut [u64],
    indices: &[u32],
    values: &[f32],
    settings: &ErrorMapSettings,
) -> ScatterStats {
    let ErrorMapSettings { decay, cap, duplicates } = *settings;
    let (ema, leaf) = (Ema { decay, cap, duplicates }, Leaf::new(cap));
    // No task shares a block with another, hence no sum either.
    let tasks = batch::cut(indices, BLOCK as u32);
    let first_blocks: Vec<usize> = tasks.iter().map(|task| indices[task.start] as usize / BLOCK).collect();
    let starts_in = |unit: usize| -> Vec<usize> { first_blocks.iter().map(|block| block * (BLOCK / unit)).collect() };
    let entries = batch::split_at_starts(entries, &starts_in(1));
    let groups = batch::split_at_starts(groups, &starts_in(GROUP));
    let blocks = batch::split_at_starts(blocks, &first_blocks);
    let pieces = (tasks, first_blocks, entries, groups, blocks).into_par_iter();
    let stats = pieces.map(|(task, first_block, entries, groups, blocks)| {
        let mut piece = Piece { entries, groups, blocks, leaf };
        ema.enter(&indices[task.clone()], &values[task], first_block * BLOCK, &mut piece)
    });
    stats.sum()
}
