//! The CPU body of Adam.

use super::{AdamSettings, Real};
use rayon::prelude::*;

/// Elements a task: large enough to pay for a task, small enough for the caches.
const CHUNK: usize = 1 << 15;

/// What a step takes of its settings.
pub(super) struct Step<'a, T> {
    /// Divided by the correction of the first moment.
    pub rates: &'a [T],
    /// One by the correction of the second moment's root.
    pub second_scale: T,
    pub settings: &'a AdamSettings,
}

/// Moments and parameter in one pass: the memory is what this waits for.
pub(super) fn step<T: Real>(param: &mut [T], first: &mut [T], second: &mut [T], grad: &[T], step: &Step<'_, T>) {
    let (b1, b2) = (T::of(step.settings.beta1), T::of(step.settings.beta2));
    let (c1, c2) = (T::of(1.0 - step.settings.beta1), T::of(1.0 - step.settings.beta2));
    let (tiny, eps) = (T::min_positive_value(), T::of(step.settings.eps));
    let num_rates = step.rates.len();
    let chunk = (CHUNK / num_rates).max(1) * num_rates;
    let parts = (
        param.par_chunks_mut(chunk),
        first.par_chunks_mut(chunk),
        second.par_chunks_mut(chunk),
        grad.par_chunks(chunk),
    );
    parts.into_par_iter().for_each_init(
        // Repeated along a chunk, so that one loop without a counter goes over it.
        || step.rates.iter().copied().cycle().take(chunk).collect::<Vec<T>>(),
        |rates, (param, first, second, grad)| {
            for ((((p, m), v), &g), &rate) in param.iter_mut().zip(first).zip(second).zip(grad).zip(rates.iter()) {
                let (next_m, next_v) = (b1 * *m + c1 * g, b2 * *v + c2 * g * g);
                // Subnormal numbers, to which the moments of an unseen cell decay, cost a hundred cycles each.
                *m = if next_m.abs() < tiny { T::zero() } else { next_m };
                *v = if next_v < tiny { T::zero() } else { next_v };
                *p -= rate * *m / (v.sqrt() * step.second_scale + eps);
            }
        },
    );
}
