//! The entries with the largest errors, exactly, in three passes over the map.

use rayon::prelude::*;

/// Entries a task looks at: enough to pay for its histogram.
const TASK: usize = 1 << 18;
/// Bits of an error that one pass tells apart.
const BITS: u32 = 16;

/// The `count` entries with the largest keys, in ascending order; of equal keys the lower entries first. `count` is
/// from 1 to `num_entries`.
///
/// Two histograms, of the upper and of the lower half of the bits, find the smallest key that belongs; sums of
/// integers, hence the same whatever the number of threads.
pub(super) fn largest(num_entries: usize, count: usize, key: impl Fn(u32) -> u32 + Sync) -> Vec<u32> {
    let tasks: Vec<_> =
        (0..num_entries).step_by(TASK).map(|start| start as u32..(start + TASK).min(num_entries) as u32).collect();
    let histogram = |part: &(dyn Fn(u32) -> Option<u32> + Sync)| -> Vec<u64> {
        let empty = || vec![0u64; 1 << BITS];
        let add = |mut counts: Vec<u64>, task: &std::ops::Range<u32>| {
            task.clone().filter_map(|entry| part(key(entry))).for_each(|bin| counts[bin as usize] += 1);
            counts
        };
        let join = |mut a: Vec<u64>, b: Vec<u64>| {
            a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
            a
        };
        tasks.par_iter().fold(empty, add).reduce(empty, join)
    };
    /// The highest bin such that it and those above hold `count`, and what is left of `count` for it.
    fn bin_of(histogram: &[u64], count: u64) -> (u32, u64) {
        let mut left = count;
        for (bin, &held) in histogram.iter().enumerate().rev() {
            if left <= held {
                return (bin as u32, left);
            }
            left -= held;
        }
        (0, left)
    }
    let (upper, left) = bin_of(&histogram(&|key| Some(key >> BITS)), count as u64);
    let low = |key: u32| (key >> BITS == upper).then_some(key & ((1 << BITS) - 1));
    let (lower, ties) = bin_of(&histogram(&low), left);
    let threshold = upper << BITS | lower;

    let found: Vec<Vec<u32>> = tasks
        .par_iter()
        .map(|task| {
            let mut ties = ties;
            task.clone()
                .filter(|&entry| match key(entry).cmp(&threshold) {
                    std::cmp::Ordering::Less => false,
                    std::cmp::Ordering::Greater => true,
                    // No task can keep more of them than there is room for in all.
                    std::cmp::Ordering::Equal => {
                        let kept = ties > 0;
                        ties = ties.saturating_sub(1);
                        kept
                    }
                })
                .collect()
        })
        .collect();
    let mut ties = ties;
    let mut entries = Vec::with_capacity(count);
    for entry in found.into_iter().flatten() {
        if key(entry) > threshold {
            entries.push(entry);
        } else if ties > 0 {
            ties -= 1;
            entries.push(entry);
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Rng, Stream};

    #[test]
    fn the_same_as_sorting() {
        let rng = Rng::new(1, Stream::Init, 0);
        let sizes = [1, 2, 1000, TASK - 1, TASK, 2 * TASK + 3];
        for len in sizes {
            // Many ties, some, hardly any; all the same.
            for kinds in [1u64, 3, 1000, 1 << 31] {
                let keys: Vec<u32> =
                    (0..len as u32).map(|i| (rng.below(i, kinds) as f32 / kinds as f32).to_bits()).collect();
                let mut sorted: Vec<u32> = (0..len as u32).collect();
                sorted.sort_by_key(|&i| (std::cmp::Reverse(keys[i as usize]), i));
                for count in [1, len.div_ceil(10), len.div_ceil(2), len] {
                    let mut expected = sorted[..count].to_vec();
                    expected.sort_unstable();
                    let found = largest(len, count, |i| keys[i as usize]);
                    assert!(found == expected, "{count} of {len} with {kinds} kinds of keys");
                }
            }
        }
    }
}
