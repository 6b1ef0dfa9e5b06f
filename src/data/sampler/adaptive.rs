//! Which uniform share would do best, estimated from the errors of the draws made with any.
//!
//! The rule is that of [`Strategy::Adaptive`](super::Strategy::Adaptive).

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// What an estimate keeps of itself at an update: it looks back over about twenty.
const MEMORY: f64 = 0.95;
/// Updates between two decisions: more than the memory, so that a decision sees mostly what followed the last.
const DECIDE_EVERY: u64 = 32;
/// Rungs whose effective sample size is below this share of the batch are out of the question: a few rays would
/// decide over the step.
const LEAST_SAMPLE_SIZE: f64 = 0.25;
/// By how much another rung's gain must exceed that of the present one, so that noise alone does not switch.
const BETTER: f64 = 1.05;
/// A ray's density is not taken for less: without a uniform share one of error 0 has none.
const LEAST_DENSITY: f64 = 1e-6;
/// Rays a task sums up, and in how many lanes: a kernel adds up in the same order (cuda/adaptive.cu).
const TASK: usize = 1024;
const LANES: usize = 256;
const NUM_RUNGS: usize = 3;

/// What is known of the rungs, and which one is taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Adaptive {
    rung: usize,
    updates: u64,
    sums: Sums,
}

/// Weighted by `1 / (N p)` of the draw that was made, so that they estimate means over all rays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Sums {
    one: f64,
    square: f64,
    weight: [f64; NUM_RUNGS],
    weighted_square: [f64; NUM_RUNGS],
}

impl Sums {
    fn plus(self, other: Self) -> Self {
        let sum = |a: [f64; NUM_RUNGS], b: [f64; NUM_RUNGS]| std::array::from_fn(|rung| a[rung] + b[rung]);
        Self {
            one: self.one + other.one,
            square: self.square + other.square,
            weight: sum(self.weight, other.weight),
            weighted_square: sum(self.weighted_square, other.weighted_square),
        }
    }

    fn times(self, factor: f64) -> Self {
        Self {
            one: self.one * factor,
            square: self.square * factor,
            weight: self.weight.map(|x| x * factor),
            weighted_square: self.weighted_square.map(|x| x * factor),
        }
    }
}

/// The uniform share of each rung.
pub(super) fn shares(least: f64) -> [f64; NUM_RUNGS] {
    [1.0, (1.0 + least) / 2.0, least]
}

impl Adaptive {
    /// The uniform share of the next draw, where `least` is that of the last rung.
    pub fn uniform_share(&self, least: f64) -> f64 {
        shares(least)[self.rung.min(NUM_RUNGS - 1)]
    }

    /// Learns from a batch: of each ray the weight `1 / (N p)`, `N` times the probability that the map alone gives
    /// it, and its error. Rays with an error that is not finite are left out.
    pub fn observe(&mut self, least: f64, weights: &[f64], densities: &[f32], errors: &[f32]) {
        let shares = shares(least);
        let of_ray = |ray: usize| {
            if !errors[ray].is_finite() {
                return Sums::default();
            }
            let (weight, density) = (weights[ray], f64::from(densities[ray]));
            let error = f64::from(errors[ray].max(0.0));
            let others = shares.map(|share| weight / ((1.0 - share) * density + share).max(LEAST_DENSITY));
            Sums {
                one: weight,
                square: weight * error * error,
                weight: others,
                weighted_square: others.map(|other| other * error * error),
            }
        };
        let sums_of = |from: usize| {
            let mut lanes = [Sums::default(); LANES];
            for ray in from..errors.len().min(from + TASK) {
                let lane = &mut lanes[(ray - from) % LANES];
                *lane = lane.plus(of_ray(ray));
            }
            let mut half = LANES / 2;
            while half > 0 {
                let (low, high) = lanes.split_at_mut(half);
                low.iter_mut().zip(high).for_each(|(low, high)| *low = low.plus(*high));
                half /= 2;
            }
            lanes[0]
        };
        // In tasks of a fixed size, added up in order: the same bits for any number of threads.
        let parts: Vec<Sums> = (0..errors.len().div_ceil(TASK)).into_par_iter().map(|t| sums_of(t * TASK)).collect();
        self.learn(parts.into_iter().fold(Sums::default(), Sums::plus));
    }

    /// What [`Adaptive::observe`] sums up, as a kernel gives it.
    #[cfg(feature = "cuda")]
    pub fn learn_sums(&mut self, sums: [f64; 2 + 2 * NUM_RUNGS]) {
        self.learn(Sums {
            one: sums[0],
            square: sums[1],
            weight: std::array::from_fn(|rung| sums[2 + rung]),
            weighted_square: std::array::from_fn(|rung| sums[2 + NUM_RUNGS + rung]),
        });
    }

    fn learn(&mut self, batch: Sums) {
        self.sums = self.sums.times(MEMORY).plus(batch);
        self.updates += 1;
        if self.updates.is_multiple_of(DECIDE_EVERY) {
            self.decide();
        }
    }

    fn decide(&mut self) {
        let Sums { one, square, weight, weighted_square } = self.sums;
        // Without any error there is nothing to gain, and the ratios are none.
        if one <= 0.0 || square <= 0.0 {
            self.rung = 0;
            return;
        }
        let gain = |rung: usize| square / weighted_square[rung];
        let is_open = |rung: usize| one / weight[rung] >= LEAST_SAMPLE_SIZE;
        let mut best = 0;
        for rung in 1..NUM_RUNGS {
            if is_open(rung) && gain(rung) > gain(best) {
                best = rung;
            }
        }
        if !is_open(self.rung) || gain(best) > BETTER * gain(self.rung) {
            self.rung = best;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Errors that the map foretells, that it has nothing to do with, and that it foretells the wrong way round.
    #[test]
    fn follows_the_map_where_it_pays() {
        let densities: Vec<f32> = (0..20_000).map(|i| if i % 10 == 0 { 5.5 } else { 0.5 }).collect();
        let weights = vec![1.0; densities.len()];
        let told: Vec<f32> = densities.iter().map(|d| 0.1 * d).collect();
        let unrelated: Vec<f32> = (0..20_000).map(|i| if i / 10 % 10 == 0 { 0.55 } else { 0.05 }).collect();
        let mut adaptive = Adaptive::default();
        let mut run = |errors: &[f32]| {
            for _ in 0..4 * DECIDE_EVERY {
                adaptive.observe(0.2, &weights, &densities, errors);
            }
            adaptive.uniform_share(0.2)
        };
        assert_eq!(run(&told), 0.2);
        assert_eq!(run(&unrelated), 1.0);
        assert_eq!(run(&told), 0.2);
        assert_eq!(run(&vec![0.0; 20_000]), 0.2, "no error says nothing");
        assert_eq!(run(&vec![f32::NAN; 20_000]), 0.2, "nothing was learned");
    }

    /// A map that puts all on a few rays would be followed by a few rays alone.
    #[test]
    fn a_small_sample_size_is_out_of_the_question() {
        let densities: Vec<f32> = (0..10_000).map(|i| if i % 100 == 0 { 99.01 } else { 0.01 }).collect();
        let errors: Vec<f32> = densities.iter().map(|d| 0.01 * d).collect();
        let mut adaptive = Adaptive::default();
        for _ in 0..DECIDE_EVERY {
            adaptive.observe(0.01, &vec![1.0; 10_000], &densities, &errors);
        }
        // The sample size of the last rung is about 1 / 50.
        assert_eq!(adaptive.uniform_share(0.01), (1.0 + 0.01) / 2.0);
    }
}
