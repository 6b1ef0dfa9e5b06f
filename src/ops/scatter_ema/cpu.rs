use candle_core::Result;
use num_traits::Float;
use rayon::prelude::*;

use super::{Duplicates, ScatterStats};
use crate::ops::batch::{self, prefetch};

/// Observations between the request for an entry and its use: enough to hide the latency of memory.
const AHEAD: usize = 32;

/// The update of an entry.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) struct Ema<T> {
    pub decay: T,
    /// Values above enter as this.
    pub cap: T,
    pub duplicates: Duplicates,
}

/// A part of a map.
pub(in crate::ops) trait Entries<T> {
    /// Asks for an entry that will be needed soon.
    fn prefetch(&self, at: usize);
    fn get(&self, at: usize) -> T;
    fn set(&mut self, at: usize, old: T, new: T);
}

impl<T: Copy> Entries<T> for &mut [T] {
    fn prefetch(&self, at: usize) {
        prefetch(self, at);
    }

    fn get(&self, at: usize) -> T {
        self[at]
    }

    fn set(&mut self, at: usize, _old: T, new: T) {
        self[at] = new;
    }
}

impl<T: Float> Ema<T> {
    /// Enters an ascending batch into the entries, the first of which has the index `start`.
    #[inline(always)]
    pub fn enter(&self, indices: &[u32], values: &[T], start: usize, entries: &mut impl Entries<T>) -> ScatterStats {
        let mut stats = ScatterStats::default();
        match self.duplicates {
            Duplicates::Sequential => {
                let rest = T::one() - self.decay;
                // Both outcomes are computed and one is chosen: whether an entry was visited cannot be foreseen, and a
                // wrong guess costs more than the whole update.
                for (k, (&index, &value)) in indices.iter().zip(values).enumerate() {
                    if let Some(&ahead) = indices.get(k + AHEAD) {
                        entries.prefetch(ahead as usize - start);
                    }
                    if let Some(value) = self.admit(value, &mut stats) {
                        let at = index as usize - start;
                        let old = entries.get(at);
                        let first = old.is_sign_negative();
                        stats.first_visits += usize::from(first);
                        let moved = self.decay * old + rest * value;
                        entries.set(at, old, if first { value } else { moved });
                    }
                }
            }
            Duplicates::Mean => {
                let mut rest = values.iter();
                for run in indices.chunk_by(|a, b| a == b) {
                    let (mut sum, mut count) = (0.0, 0);
                    for value in rest.by_ref().take(run.len()).filter_map(|&value| self.admit(value, &mut stats)) {
                        sum += value.to_f64().unwrap_or(f64::NAN);
                        count += 1;
                    }
                    if count > 0 {
                        let at = run[0] as usize - start;
                        let old = entries.get(at);
                        stats.first_visits += usize::from(old.is_sign_negative());
                        entries.set(at, old, self.mean(old, sum / f64::from(count), count));
                    }
                }
            }
        }
        stats.updated = values.len() - stats.skipped_non_finite;
        stats
    }

    /// What enters for `value`, counted; `None` where it must not enter.
    #[inline(always)]
    fn admit(self, value: T, stats: &mut ScatterStats) -> Option<T> {
        if value > T::zero() && value <= self.cap.min(T::max_value()) {
            return Some(value);
        }
        let (value, counted) = self.mend(value);
        *stats = *stats + counted;
        value
    }

    /// [`Ema::admit`] for the few others. By value, so that the loop's counters stay in registers.
    #[cold]
    fn mend(self, value: T) -> (Option<T>, ScatterStats) {
        let none = ScatterStats::default();
        if !value.is_finite() {
            return (None, ScatterStats { skipped_non_finite: 1, ..none });
        }
        if value > self.cap {
            return (Some(self.cap), ScatterStats { capped: 1, ..none });
        }
        // Zero also for -0.0, whose sign bit would mark the entry as unvisited.
        (Some(T::zero()), ScatterStats { negative: usize::from(value < T::zero()), ..none })
    }

    /// `decay^count * old + (1 - decay^count) * mean`, in f64 and rounded once.
    fn mean(&self, old: T, mean: f64, count: u32) -> T {
        let float = |x: T| x.to_f64().unwrap_or(f64::NAN);
        let kept = if old.is_sign_negative() { 0.0 } else { power(float(self.decay), count) };
        // Without the old value where nothing of it is kept: it may be the mark of an unvisited entry.
        let new = if kept == 0.0 { mean } else { kept * float(old) + (1.0 - kept) * mean };
        T::from(new).unwrap_or(T::nan())
    }
}

/// By squaring, so that the bits are those of multiplications alone, on every machine.
fn power(mut base: f64, mut exponent: u32) -> f64 {
    let mut power = 1.0;
    while exponent > 0 {
        if exponent % 2 == 1 {
            power *= base;
        }
        base *= base;
        exponent /= 2;
    }
    power
}

/// The batch, in ascending order of its indices and in parallel over entries.
pub(super) fn scatter_ema<T: Float + Send + Sync>(
    map: &mut [T],
    indices: &[u32],
    values: &[T],
    decay: T,
    duplicates: Duplicates,
) -> Result<ScatterStats> {
    let batch = batch::Ascending::new(indices, map.len())?;
    let values = batch.arrange(values);
    let indices = batch.indices();

    let ema = Ema { decay, cap: T::infinity(), duplicates };
    let tasks = batch::cut(indices, 1);
    let starts: Vec<usize> = tasks.iter().map(|task| indices[task.start] as usize).collect();
    let pieces = batch::split_at_starts(map, &starts);
    let stats = (tasks, starts, pieces)
        .into_par_iter()
        .map(|(task, start, mut piece)| ema.enter(&indices[task.clone()], &values[task], start, &mut piece));
    Ok(stats.sum())
}
