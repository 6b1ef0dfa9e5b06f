//! Draws from an error map, many points at a time. The reference is the cursor of
//! [`weighted_draw`](crate::ops::weighted_draw), which has the same bits.

#[cfg(target_arch = "x86_64")]
use super::lanes::{Avx512, Sse2};
use super::{
    lanes::{LANES, Rule, Scalar, Sums},
    sums::MapMasses,
};
use crate::ops::{
    batch::prefetch,
    weighted_draw::{
        HostDraws, Strata,
        cpu::{self, block_ends},
    },
};
use rayon::prelude::*;

/// Draws a task handles.
const TASK: usize = 8192;

/// Points under way at a time: enough to hide the latency of memory, few enough for their lines to stay in the
/// first-level cache.
const FLIGHT: usize = 64;

/// Up to this many entries a draw, walking over every group is cheaper than finding the group of every point.
const DENSE: usize = 8;

/// Draws for the strata from the given one on: indices and probabilities.
pub(super) type Body = fn(&Lines, u32, &mut [u32], &mut [f32]);

/// What this processor can run, the fastest first. All have the same bits.
pub(super) fn bodies() -> Vec<(&'static str, Body)> {
    let mut bodies: Vec<(&'static str, Body)> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") && std::arch::is_x86_feature_detected!("avx512dq") {
            // SAFETY: the processor has been seen to support it.
            bodies.push(("AVX-512", |lines, first, indices, p| unsafe { lines.draw_avx512(first, indices, p) }));
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has been seen to support it.
            bodies.push(("AVX2", |lines, first, indices, p| unsafe { lines.draw_avx2(first, indices, p) }));
        }
        bodies.push(("SSE2", |lines, first, indices, p| lines.draw_by::<Sse2>(first, indices, p)));
    }
    bodies.push(("scalar", |lines, first, indices, p| lines.draw_by::<Scalar>(first, indices, p)));
    bodies
}

/// As [`cpu::draw`].
pub(super) fn draw(masses: &MapMasses, num: usize, strata: impl FnOnce(u64) -> Strata) -> HostDraws {
    draw_by(bodies()[0].1, masses, num, strata)
}

pub(super) fn draw_by(body: Body, masses: &MapMasses, num: usize, strata: impl FnOnce(u64) -> Strata) -> HostDraws {
    let Some(rule) = masses.rule() else {
        // Only where a large uniform share meets large errors: masses beyond what the vector code can add.
        return cpu::draw(masses, num, strata);
    };
    let ends = block_ends(masses);
    let total = ends.last().copied().unwrap_or(0);
    let (groups, _) = masses.groups.as_chunks();
    let (entries, _) = masses.values.as_chunks();
    let dense = masses.len < DENSE.saturating_mul(num);
    let lines = Lines { entries, groups, ends: &ends, rule, total, strata: strata(total), dense };
    let mut draws = HostDraws { indices: vec![0; num], probability: vec![0.0; num] };
    let tasks = draws.indices.par_chunks_mut(TASK).zip(draws.probability.par_chunks_mut(TASK));
    tasks.enumerate().for_each(|(task, (indices, p))| body(&lines, (task * TASK) as u32, indices, p));
    draws
}

/// A map as lines of sixteen, and the points to be found in it.
pub(super) struct Lines<'a> {
    entries: &'a [[f32; LANES]],
    /// The sums of the groups, a line a block.
    groups: &'a [[u32; LANES]],
    /// The masses of all blocks up to and including each.
    ends: &'a [u64],
    rule: Rule,
    total: u64,
    strata: Strata,
    dense: bool,
}

impl Lines<'_> {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512dq")]
    fn draw_avx512(&self, first: u32, indices: &mut [u32], probability: &mut [f32]) {
        self.draw_by::<Avx512>(first, indices, probability);
    }

    /// The code of SSE2, but for the random numbers, which are computed more at a time.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn draw_avx2(&self, first: u32, indices: &mut [u32], probability: &mut [f32]) {
        self.draw_by::<Sse2>(first, indices, probability);
    }

    #[inline(always)]
    fn draw_by<S: Sums>(&self, first: u32, indices: &mut [u32], probability: &mut [f32]) {
        if self.dense {
            self.walk::<S>(first, indices, probability);
        } else {
            self.descend::<S>(first, indices, probability);
        }
    }

    /// The block in which the points from stratum `first` on begin, and where it begins.
    fn start(&self, first: u32) -> (usize, u64) {
        let point = self.strata.point(first);
        let block = self.ends.partition_point(|&end| end <= point);
        (block, if block == 0 { 0 } else { self.ends[block - 1] })
    }

    /// Finds every point by itself: block, group, entry. A phase for each level, so that the lines of the next one
    /// are on their way while the others of the flight are found.
    #[inline(always)]
    fn descend<S: Sums>(&self, mut first: u32, indices: &mut [u32], probability: &mut [f32]) {
        let (mut block, mut start) = self.start(first);
        let mut end = self.ends[block];
        let (mut points, mut offsets, mut places) = ([0; FLIGHT], [0; FLIGHT], [0; FLIGHT]);
        for (indices, probability) in indices.chunks_mut(FLIGHT).zip(probability.chunks_mut(FLIGHT)) {
            let num = indices.len();
            let (points, offsets, places) = (&mut points[..num], &mut offsets[..num], &mut places[..num]);
            self.strata.fill(first, points);
            for ((&point, offset), place) in points.iter().zip(offsets.iter_mut()).zip(places.iter_mut()) {
                while point >= end {
                    block += 1;
                    (start, end) = (end, self.ends[block]);
                }
                (*offset, *place) = ((point - start) as u32, block as u32);
                prefetch(self.groups, block);
            }
            for (offset, place) in offsets.iter_mut().zip(places.iter_mut()) {
                let sums = S::of_groups(&self.groups[*place as usize], &self.rule);
                let lane = sums.find(*offset);
                *offset -= sums.before()[lane];
                *place = *place * LANES as u32 + lane as u32;
                prefetch(self.entries, *place as usize);
            }
            for ((offset, &group), index) in offsets.iter_mut().zip(places.iter()).zip(indices) {
                let sums = S::of_entries(&self.entries[group as usize], &self.rule);
                let lane = sums.find(*offset);
                *index = group * LANES as u32 + lane as u32;
                *offset = sums.before()[lane + 1] - sums.before()[lane];
            }
            for (&mut mass, p) in offsets.iter_mut().zip(probability) {
                *p = cpu::probability_of(u64::from(mass), self.total);
            }
            first = first.wrapping_add(num as u32);
        }
    }

    /// Goes over the groups from the first point to the last.
    #[inline(always)]
    fn walk<S: Sums>(&self, mut first: u32, indices: &mut [u32], probability: &mut [f32]) {
        let (block, mut start) = self.start(first);
        let mut group = block * LANES;
        let mut sums = S::of_entries(&self.entries[group], &self.rule);
        let mut end = start + u64::from(sums.before()[LANES]);
        let (mut points, mut masses) = ([0; FLIGHT], [0; FLIGHT]);
        for (indices, probability) in indices.chunks_mut(FLIGHT).zip(probability.chunks_mut(FLIGHT)) {
            let num = indices.len();
            let (points, masses) = (&mut points[..num], &mut masses[..num]);
            self.strata.fill(first, points);
            for ((&point, mass), index) in points.iter().zip(masses.iter_mut()).zip(indices) {
                while point >= end {
                    group += 1;
                    sums = S::of_entries(&self.entries[group], &self.rule);
                    start = end;
                    end += u64::from(sums.before()[LANES]);
                }
                let lane = sums.find((point - start) as u32);
                *index = (group * LANES + lane) as u32;
                *mass = sums.before()[lane + 1] - sums.before()[lane];
            }
            for (&mut mass, p) in masses.iter_mut().zip(probability) {
                *p = cpu::probability_of(u64::from(mass), self.total);
            }
            first = first.wrapping_add(num as u32);
        }
    }
}
