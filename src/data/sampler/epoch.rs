//! Each ray once an epoch, in an order that is computed rather than stored.

use crate::rng::{Rng, Stream};

/// Rounds of the permutation. Three make a pseudorandom permutation of a pseudorandom function (Luby and Rackoff,
/// 1988); twice as many leave no trace of the halves in domains of a few rays.
const ROUNDS: u32 = 6;
/// The number of a round lies above the half that the round function is given, which is below 2^17.
const ROUND_SHIFT: u32 = 20;

/// A keyed permutation of `0..len`, of no size in memory: a generalised Feistel network on `left * right >= len`
/// numbers, walked along its cycle until it is below `len` (Black and Rogaway, "Ciphers with Arbitrary Finite
/// Domains", CT-RSA 2002). `left * right` exceeds `len` by less than its root, so that walks hardly ever occur.
#[derive(Debug, Clone, Copy)]
pub(super) struct Permutation {
    len: u32,
    left: u64,
    right: u64,
    rng: Rng,
}

impl Permutation {
    /// The permutation of epoch `epoch`; `len` is at least 1.
    pub fn new(len: u32, seed: u64, epoch: u64) -> Self {
        // With a half of one number alone the network would only rotate.
        let left = u64::from(len).isqrt().max(2);
        let right = u64::from(len).div_ceil(left).max(2);
        Self { len, left, right, rng: Rng::new(seed, Stream::Shuffle, epoch) }
    }

    /// The sizes of the halves of the network.
    #[cfg(feature = "cuda")]
    pub fn halves(&self) -> [u64; 2] {
        [self.left, self.right]
    }

    /// Where `at`, below the length, goes.
    pub fn get(&self, at: u32) -> u32 {
        let mut at = self.network(u64::from(at));
        while at >= u64::from(self.len) {
            at = self.network(at);
        }
        at as u32
    }

    fn network(&self, at: u64) -> u64 {
        let (mut left, mut right) = (at % self.left, at / self.left);
        for round in (0..ROUNDS).step_by(2) {
            left = (left + self.rng.below(right as u32 | round << ROUND_SHIFT, self.left)) % self.left;
            right = (right + self.rng.below(left as u32 | (round + 1) << ROUND_SHIFT, self.right)) % self.right;
        }
        right * self.left + left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_reached_once() {
        for len in [1, 2, 3, 4, 5, 7, 16, 17, 100, 257, 1000, 65_537] {
            for epoch in 0..5 {
                let permutation = Permutation::new(len, 9, epoch);
                let mut seen = vec![false; len as usize];
                for at in 0..len {
                    let to = permutation.get(at);
                    assert!(!std::mem::replace(&mut seen[to as usize], true), "{to} twice of {len}");
                }
            }
        }
        let largest = Permutation::new(u32::MAX - 1, 9, 0);
        assert!((0..1000).all(|at| largest.get(u32::MAX - 2 - at) < u32::MAX - 1));
    }

    /// Chi-squared of where the first and the last number go, and of neighbours, over many epochs.
    #[test]
    fn orders_are_evenly_spread() {
        for len in [2u32, 3, 8, 50] {
            let epochs = 400 * len;
            let (mut first, mut last, mut step) =
                (vec![0.0; len as usize], vec![0.0; len as usize], vec![0.0; len as usize]);
            for epoch in 0..epochs {
                let permutation = Permutation::new(len, 3, u64::from(epoch));
                first[permutation.get(0) as usize] += 1.0;
                last[permutation.get(len - 1) as usize] += 1.0;
                step[((permutation.get(1) + len - permutation.get(0)) % len) as usize] += 1.0;
            }
            let chi_squared = |counts: &[f64], bins: u32| -> f64 {
                let expected = f64::from(epochs) / f64::from(bins);
                counts.iter().map(|count| (count - expected).powi(2) / expected).sum()
            };
            let freedom = f64::from(len - 1);
            let limit = freedom + 5.0 * (2.0 * freedom).sqrt();
            assert!(chi_squared(&first, len) < limit && chi_squared(&last, len) < limit, "{len}: {first:?}, {last:?}");
            assert_eq!(step[0], 0.0);
            assert!(chi_squared(&step[1..], len - 1) < limit, "{len}: differences {step:?}");
        }
    }
}
