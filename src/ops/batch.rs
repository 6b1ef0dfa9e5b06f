//! What the ops on a batch of indices share: contiguous views, bounds, ascending order, and cuts for threads.
//!
//! Determinism rests on one rule: a batch in ascending order is only ever cut between two different entries, so
//! each entry is read and written by one thread, in batch order, however many threads there are. No atomics.

use std::{borrow::Cow, ops::Range};

use candle_core::{CpuStorage, Layout, Result, Tensor, WithDType, bail};
use rayon::prelude::*;

/// Batch elements a task handles: enough to pay for its start, few enough to balance the threads.
const TASK: usize = 8192;

/// The elements that `layout` selects, in place.
pub(crate) fn range(name: &str, layout: &Layout) -> Result<Range<usize>> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(start..end),
        None => bail!(
            "tensor {name}: expected a contiguous tensor, found shape {:?} with strides {:?}",
            layout.dims(),
            layout.stride()
        ),
    }
}

/// The elements of a contiguous tensor of type `T`.
pub(crate) fn view<'a, T: WithDType>(name: &str, storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    Ok(&storage.as_slice::<T>()?[range(name, layout)?])
}

/// Checks that `tensor` is a vector of type `T`, and of length `len` where one is given.
pub(crate) fn check_vector<T: WithDType>(name: &str, tensor: &Tensor, len: Option<usize>) -> Result<()> {
    let (dims, dtype) = (tensor.dims(), tensor.dtype());
    let len_matches = dims.len() == 1 && len.is_none_or(|len| dims[0] == len);
    if !len_matches || dtype != T::DTYPE {
        let expected = len.map_or("N".to_string(), |len| len.to_string());
        bail!("tensor {name}: expected {:?} [{expected}], found {dtype:?} {dims:?}", T::DTYPE)
    }
    Ok(())
}

/// Checks that every index names one of `num_entries` entries, and that positions in the batch fit in 32 bits.
pub(crate) fn check_indices(indices: &[u32], num_entries: usize) -> Result<()> {
    if u32::try_from(indices.len()).is_err() {
        bail!("tensor indices: expected fewer than 2^32 of them, found {}", indices.len())
    }
    match indices.par_iter().position_first(|&index| index as usize >= num_entries) {
        Some(at) => bail!("tensor indices: expected values below {num_entries}, found {} at {at}", indices[at]),
        None => Ok(()),
    }
}

/// The positions of a batch in stable ascending order of their index, or `None` where it ascends already.
pub(crate) fn ascending_order(indices: &[u32]) -> Option<Vec<u32>> {
    if indices.is_sorted() {
        return None;
    }
    // (index, position) pairs are all different, so that an unstable sort of them is a stable sort of the indices.
    let mut keys: Vec<u64> =
        indices.par_iter().enumerate().map(|(at, &index)| u64::from(index) << 32 | at as u64).collect();
    keys.par_sort_unstable();
    Some(keys.into_par_iter().map(|key| key as u32).collect())
}

/// `values` in the given order of positions.
pub(crate) fn reorder<'a, T: Copy + Send + Sync>(values: &'a [T], order: Option<&[u32]>) -> Cow<'a, [T]> {
    match order {
        None => Cow::Borrowed(values),
        Some(order) => Cow::Owned(order.par_iter().map(|&at| values[at as usize]).collect()),
    }
}

/// Cuts an ascending batch into tasks, none of which shares a block of `block` entries with another.
pub(crate) fn cut(indices: &[u32], block: u32) -> Vec<Range<usize>> {
    let mut tasks = Vec::with_capacity(indices.len() / TASK + 1);
    let mut start = 0;
    while start < indices.len() {
        let mut end = (start + TASK).min(indices.len());
        let last = indices[end - 1] / block;
        end += indices[end..].partition_point(|&index| index / block == last);
        tasks.push(start..end);
        start = end;
    }
    tasks
}

/// Splits `slice` at ascending `starts` into pieces; the last one reaches to the end, what lies before the first is
/// left out.
pub(crate) fn split_at_starts<'a, T>(slice: &'a mut [T], starts: &[usize]) -> Vec<&'a mut [T]> {
    let mut rest = slice;
    let mut pieces = Vec::with_capacity(starts.len());
    for &start in starts.iter().rev() {
        let (head, piece) = rest.split_at_mut(start);
        pieces.push(piece);
        rest = head;
    }
    pieces.reverse();
    pieces
}
