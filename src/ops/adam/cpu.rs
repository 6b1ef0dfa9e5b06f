//! The CPU body of Adam.

use super::{AdamSettings, Real};
use rayon::prelude::*;

/// Elements a task: large enough to pay for a task, small enough for the caches.
const CHUNK: usize = 1 << 15;

pub(super) fn update_moments<T: Real>(first: &mut [T], second: &mut [T], grad: &[T], settings: &AdamSettings) {
    let (b1, b2) = (T::of(settings.beta1), T::of(settings.beta2));
    let (c1, c2) = (T::of(1.0 - settings.beta1), T::of(1.0 - settings.beta2));
    let tiny = T::min_positive_value();
    (first.par_chunks_mut(CHUNK), second.par_chunks_mut(CHUNK), grad.par_chunks(CHUNK)).into_par_iter().for_each(
        |(first, second, grad)| {
            for ((m, v), &g) in first.iter_mut().zip(second).zip(grad) {
                let (next_m, next_v) = (b1 * *m + c1 * g, b2 * *v + c2 * g * g);
                // Subnormal numbers, to which the moments of an unseen cell decay, cost a hundred cycles each.
                *m = if next_m.abs() < tiny { T::zero() } else { next_m };
                *v = if next_v < tiny { T::zero() } else { next_v };
            }
        },
    );
}

pub(super) fn apply_moments<T: Real>(param: &mut [T], first: &[T], second: &[T], rates: &[T], second_scale: T, eps: T) {
    let chunk = (CHUNK / rates.len()).max(1) * rates.len();
    (param.par_chunks_mut(chunk), first.par_chunks(chunk), second.par_chunks(chunk)).into_par_iter().for_each(
        |(param, first, second)| {
            let rows = param.chunks_mut(rates.len()).zip(first.chunks(rates.len())).zip(second.chunks(rates.len()));
            for ((param, first), second) in rows {
                for (((p, &m), &v), &rate) in param.iter_mut().zip(first).zip(second).zip(rates) {
                    *p -= rate * m / (v.sqrt() * second_scale + eps);
                }
            }
        },
    );
}
