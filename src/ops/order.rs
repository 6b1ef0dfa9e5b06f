//! A stable sort of a batch by index: radix sort from the lowest digit up, in parallel.
//!
//! The batch is cut into parts. For each digit, every part counts its keys, the counts of all parts are summed in the
//! order (digit, part), and every part moves its keys to the places that are then its own. Where a key goes does not
//! depend on the threads.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rayon::prelude::*;

/// Bits a pass sorts by, at most: the counts of a part then fit the first-level cache.
const DIGIT_BITS: u32 = 11;
/// Keys a part has, at least: many times the number of counts.
const PART: usize = 1 << 15;

/// The indices in ascending order, and the position in the batch of each; equal ones in batch order.
pub(super) fn sort(indices: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let part = indices.len().div_ceil(rayon::current_num_threads()).max(PART);
    let largest = |part: &[u32]| part.iter().fold(0, |max, &index| max.max(index));
    let max = indices.par_chunks(part).map(largest).max().unwrap_or(0);
    let bits = u32::BITS - max.leading_zeros();
    let num_passes = bits.div_ceil(DIGIT_BITS);
    // Digits of the same length: three of 9 bits rather than 11, 11 and 5.
    let digit_bits = bits.div_ceil(num_passes.max(1));

    let key = |(at, &index): (usize, &u32)| AtomicU64::new(u64::from(index) << 32 | at as u64);
    // Atomic words, relaxed, are plain ones that may be written from several threads.
    let mut keys: Vec<AtomicU64> = indices.par_iter().enumerate().map(key).collect();
    let mut moved: Vec<AtomicU64> = Vec::new();
    for pass in 0..num_passes {
        moved.resize_with(keys.len(), AtomicU64::default);
        move_by_digit(&keys, &moved, part, 32 + pass * digit_bits, digit_bits);
        std::mem::swap(&mut keys, &mut moved);
    }
    drop(moved);
    let high = keys.par_iter().map(|key| (key.load(Relaxed) >> 32) as u32).collect();
    (high, keys.par_iter().map(|key| key.load(Relaxed) as u32).collect())
}

/// Moves the keys into the order of one digit, those with the same digit in the order they had.
fn move_by_digit(keys: &[AtomicU64], moved: &[AtomicU64], part: usize, shift: u32, bits: u32) {
    let digit = |key: u64| (key >> shift) as usize & ((1 << bits) - 1);
    let count = |part: &[AtomicU64]| {
        let mut counts = vec![0u32; 1 << bits];
        for key in part {
            counts[digit(key.load(Relaxed))] += 1;
        }
        counts
    };
    let mut places: Vec<Vec<u32>> = keys.par_chunks(part).map(count).collect();
    let mut next = 0;
    for digit in 0..1 << bits {
        for part in &mut places {
            next += std::mem::replace(&mut part[digit], next);
        }
    }
    keys.par_chunks(part).zip(places).for_each(|(part, mut places)| {
        for key in part {
            let key = key.load(Relaxed);
            let place = &mut places[digit(key)];
            moved[*place as usize].store(key, Relaxed);
            *place += 1;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Rng, Stream};

    #[test]
    fn it_is_the_stable_sort() {
        for (num, bound) in [(0, 1), (1, 1), (2, 1 << 32), (1000, 1), (1000, 7), (70_000, 2048), (200_000, 1 << 32)] {
            let rng = Rng::new(4, Stream::Init, num);
            let mut indices: Vec<u32> = (0..num as u32).map(|k| rng.below(k, bound) as u32).collect();
            if let Some(first) = indices.first_mut() {
                *first = (bound - 1) as u32;
            }
            let mut expected: Vec<(u32, u32)> = indices.iter().copied().zip(0..).collect();
            expected.sort();
            for threads in [1, 2, 3, 8] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let (sorted, order) = pool.install(|| sort(&indices));
                let found: Vec<(u32, u32)> = sorted.into_iter().zip(order).collect();
                assert!(found == expected, "{num} indices below {bound} on {threads} threads");
            }
        }
    }
}
