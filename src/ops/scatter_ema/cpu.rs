use candle_core::Result;
use num_traits::Float;
use rayon::prelude::*;

use super::ScatterStats;
use crate::ops::batch;

/// The update of one entry.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) struct Ema<T> {
    pub decay: T,
    /// Values above enter as this.
    pub cap: T,
}

impl<T: Float> Ema<T> {
    /// The entry after it was `old` and `value` was observed; `None` where `value` must not enter.
    pub fn observe(&self, old: T, value: T, stats: &mut ScatterStats) -> Option<T> {
        if !value.is_finite() {
            stats.skipped_non_finite += 1;
            return None;
        }
        stats.updated += 1;
        let value = if value > self.cap {
            stats.capped += 1;
            self.cap
        } else if value > T::zero() {
            value
        } else {
            stats.negative += usize::from(value < T::zero());
            // Also for -0.0, whose sign bit would mark the entry as unvisited.
            T::zero()
        };
        if old.is_sign_negative() {
            stats.first_visits += 1;
            return Some(value);
        }
        Some(self.decay * old + (T::one() - self.decay) * value)
    }
}

/// The sequential loop over the batch, run in parallel over entries.
pub(super) fn scatter_ema<T: Float + Send + Sync>(
    map: &mut [T],
    indices: &[u32],
    values: &[T],
    decay: T,
) -> Result<ScatterStats> {
    batch::check_indices(indices, map.len())?;
    let order = batch::ascending_order(indices);
    let indices = batch::reorder(indices, order.as_deref());
    let values = batch::reorder(values, order.as_deref());

    let ema = Ema { decay, cap: T::infinity() };
    let tasks = batch::cut(&indices, 1);
    let starts: Vec<usize> = tasks.iter().map(|task| indices[task.start] as usize).collect();
    let pieces = batch::split_at_starts(map, &starts);
    let stats = tasks.into_par_iter().zip(starts).zip(pieces).map(|((task, start), piece)| {
        let mut stats = ScatterStats::default();
        for (&index, &value) in indices[task.clone()].iter().zip(&values[task]) {
            let entry = &mut piece[index as usize - start];
            if let Some(new) = ema.observe(*entry, value, &mut stats) {
                *entry = new;
            }
        }
        stats
    });
    Ok(stats.sum())
}
