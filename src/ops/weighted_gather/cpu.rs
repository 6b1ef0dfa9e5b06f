use candle_core::WithDType;
use num_traits::{AsPrimitive, Float};
use rayon::prelude::*;

use crate::ops::batch;

/// Batch rows a task handles.
const TASK: usize = 4096;

/// `out[b] = weights[b] * table[indices[b]]`, computed in `A`. The indices have been checked.
pub(super) fn gather<T, A, O>(table: &[T], width: usize, indices: &[u32], weights: Option<&[O]>) -> Vec<O>
where
    T: WithDType + AsPrimitive<A>,
    A: Float + AsPrimitive<O>,
    O: WithDType + AsPrimitive<A>,
{
    let mut out = vec![O::zero(); indices.len() * width];
    if out.is_empty() {
        return out;
    }
    out.par_chunks_mut(TASK * width).enumerate().for_each(|(task, out)| {
        for (b, out) in (task * TASK..).zip(out.chunks_exact_mut(width)) {
            let weight = weights.map_or(A::one(), |weights| weights[b].as_());
            for (out, value) in out.iter_mut().zip(row(table, width, indices[b])) {
                *out = (weight * value.as_()).as_();
            }
        }
    });
    out
}

/// `grad_table[i] = sum of weights[b] * grad[b]` over the `b` with `indices[b] = i`, each in batch order.
pub(super) fn grad_table<T, A>(
    grad: &[T],
    num_rows: usize,
    width: usize,
    indices: &[u32],
    weights: Option<&[T]>,
) -> Vec<T>
where
    T: WithDType + AsPrimitive<A>,
    A: Float + AsPrimitive<T>,
{
    let mut grad_table = vec![T::zero(); num_rows * width];
    let order = batch::ascending_order(indices);
    let sorted = batch::reorder(indices, order.as_deref());
    let position = |at: usize| order.as_ref().map_or(at, |order| order[at] as usize);

    let tasks = batch::cut(&sorted, 1);
    let starts: Vec<usize> = tasks.iter().map(|task| sorted[task.start] as usize * width).collect();
    let pieces = batch::split_at_starts(&mut grad_table, &starts);
    tasks.into_par_iter().zip(starts).zip(pieces).for_each(|((task, start), piece)| {
        // A row is summed in `A` and rounded once.
        let mut sum = vec![A::zero(); width];
        let mut at = task.start;
        for run in sorted[task].chunk_by(|a, b| a == b) {
            sum.fill(A::zero());
            for b in (at..at + run.len()).map(position) {
                let weight = weights.map_or(A::one(), |weights| weights[b].as_());
                for (sum, value) in sum.iter_mut().zip(row(grad, width, b as u32)) {
                    *sum = *sum + weight * value.as_();
                }
            }
            let first = run[0] as usize * width - start;
            for (out, sum) in piece[first..first + width].iter_mut().zip(&sum) {
                *out = sum.as_();
            }
            at += run.len();
        }
    });
    grad_table
}

/// `grad_weights[b] = grad[b] . table[indices[b]]`.
pub(super) fn grad_weights<T, A, O>(grad: &[O], table: &[T], width: usize, indices: &[u32]) -> Vec<O>
where
    T: WithDType + AsPrimitive<A>,
    A: Float + AsPrimitive<O> + Send + Sync,
    O: WithDType + AsPrimitive<A>,
{
    let dot = |(b, &index): (usize, &u32)| {
        let products = row(grad, width, b as u32).iter().zip(row(table, width, index));
        products.fold(A::zero(), |sum, (g, value)| sum + g.as_() * value.as_()).as_()
    };
    indices.par_iter().enumerate().map(dot).collect()
}

fn row<T>(table: &[T], width: usize, index: u32) -> &[T] {
    &table[index as usize * width..][..width]
}
