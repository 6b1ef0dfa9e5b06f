use candle_core::WithDType;
use num_traits::{AsPrimitive, Float};
use rayon::prelude::*;

use crate::{
    ops::batch::{self, prefetch},
    pages,
};

/// Batch rows a task handles.
const TASK: usize = 4096;
/// Rows between the request for one and its use: enough to hide the latency of memory.
const AHEAD: usize = 16;

/// `out[b] = weights[b] * table[indices[b]]`, computed in `A`. The indices have been checked.
pub(super) fn gather<T, A, O>(table: &[T], width: usize, indices: &[u32], weights: Option<&[O]>) -> Vec<O>
where
    T: WithDType + AsPrimitive<A>,
    A: Float + AsPrimitive<O>,
    O: WithDType + AsPrimitive<A>,
{
    // The usual widths are known to the compiler, so that a row is a few moves rather than a loop.
    match width {
        1 => rows::<T, A, O, 1>(table, indices, weights),
        2 => rows::<T, A, O, 2>(table, indices, weights),
        3 => rows::<T, A, O, 3>(table, indices, weights),
        4 => rows::<T, A, O, 4>(table, indices, weights),
        6 => rows::<T, A, O, 6>(table, indices, weights),
        8 => rows::<T, A, O, 8>(table, indices, weights),
        9 => rows::<T, A, O, 9>(table, indices, weights),
        _ => wide_rows(table, width, indices, weights),
    }
}

fn rows<T, A, O, const WIDTH: usize>(table: &[T], indices: &[u32], weights: Option<&[O]>) -> Vec<O>
where
    T: WithDType + AsPrimitive<A>,
    A: Float + AsPrimitive<O>,
    O: WithDType + AsPrimitive<A>,
{
    let (table, _) = table.as_chunks::<WIDTH>();
    match weights {
        None => collect_rows(table, indices, |_, row| row.map(|value| value.as_().as_())),
        Some(weights) => collect_rows(table, indices, |b, row| {
            let weight = weights[b].as_();
            row.map(|value| (weight * value.as_()).as_())
        }),
    }
}

fn collect_rows<T: Copy + Sync, O: Copy + Send, const WIDTH: usize>(
    table: &[[T; WIDTH]],
    indices: &[u32],
    row: impl Fn(usize, &[T; WIDTH]) -> [O; WIDTH] + Sync,
) -> Vec<O> {
    let mut rows = pages::with_capacity(indices.len());
    let tasks = rows.spare_capacity_mut()[..indices.len()].par_chunks_mut(TASK);
    tasks.enumerate().for_each(|(task, rows)| {
        let start = task * TASK;
        for (b, out) in (start..).zip(rows) {
            if let Some(&ahead) = indices.get(b + AHEAD) {
                let ahead = ahead as usize;
                prefetch(table, ahead);
                // Where the last element of a row is on another line than the first.
                prefetch(table.as_flattened(), ahead * WIDTH + WIDTH - 1);
            }
            out.write(row(b, &table[indices[b] as usize]));
        }
    });
    // SAFETY: the tasks cover the capacity up to this length, and each has written all of its rows.
    unsafe { rows.set_len(indices.len()) };
    rows.into_flattened()
}

fn wide_rows<T, A, O>(table: &[T], width: usize, indices: &[u32], weights: Option<&[O]>) -> Vec<O>
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
            if let Some(&ahead) = indices.get(b + AHEAD) {
                prefetch(table, ahead as usize * width);
            }
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
    batch: &batch::Ascending,
    weights: Option<&[T]>,
) -> Vec<T>
where
    T: WithDType + AsPrimitive<A>,
    A: Float + AsPrimitive<T>,
{
    let mut grad_table = vec![T::zero(); num_rows * width];
    let sorted = batch.indices();
    let tasks = batch::cut(sorted, 1);
    let starts: Vec<usize> = tasks.iter().map(|task| sorted[task.start] as usize * width).collect();
    let pieces = batch::split_at_starts(&mut grad_table, &starts);
    tasks.into_par_iter().zip(starts).zip(pieces).for_each(|((task, start), piece)| {
        // A row is summed in `A` and rounded once.
        let mut sum = vec![A::zero(); width];
        let mut at = task.start;
        for run in sorted[task].chunk_by(|a, b| a == b) {
            sum.fill(A::zero());
            for b in (at..at + run.len()).map(|at| batch.position(at)) {
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
