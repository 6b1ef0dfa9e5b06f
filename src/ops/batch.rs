//! What the ops on a batch of indices share: contiguous views, bounds, ascending order, and cuts for threads.
//!
//! Determinism rests on one rule: a batch in ascending order is only ever cut between two different entries, so
//! each entry is read and written by one thread, in batch order, however many threads there are. No atomics.

use std::{borrow::Cow, ops::Range, sync::OnceLock};

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, WithDType, bail};
use rayon::prelude::*;

use super::order;

/// Batch elements that a task handles: enough to pay for its start, few enough to balance the threads.
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

/// Checks that `tensor` is on the device of `other`.
pub(crate) fn check_device(name: &str, tensor: &Tensor, other: (&str, &Tensor)) -> Result<()> {
    if !tensor.device().same_device(other.1.device()) {
        let (expected, found) = (other.1.device().location(), tensor.device().location());
        bail!("tensor {name}: expected the device of {}, {expected:?}, found {found:?}", other.0)
    }
    Ok(())
}

/// Checks that `tensor`, which is read, does not share the memory of `written`: Candle would wait for ever for one to
/// be released before it locks the other.
pub(crate) fn check_apart(name: &str, tensor: &Tensor, written: (&str, &Tensor)) -> Result<()> {
    let address = |tensor: &Tensor| std::ptr::from_ref(&*tensor.storage_and_layout().0);
    if address(tensor) == address(written.1) {
        bail!("tensor {name}: expected memory of its own, found that of {}, which is written", written.0)
    }
    Ok(())
}

/// Calls `body` with the elements of a vector: where they lie if they are contiguous on the host, else a copy.
pub(crate) fn on_host<T: WithDType, R>(tensor: &Tensor, body: impl FnOnce(&[T]) -> Result<R>) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(storage), Some((start, end))) => body(&storage.as_slice::<T>()?[start..end]),
        _ => body(&tensor.to_vec1()?),
    }
}

/// Checks that every index names one of `num_entries` entries, and that positions in the batch fit in 32 bits.
pub(crate) fn check_indices(indices: &[u32], num_entries: usize) -> Result<()> {
    if u32::try_from(indices.len()).is_err() {
        bail!("tensor indices: expected fewer than 2^32 of them, found {}", indices.len())
    }
    if !indices.par_chunks(TASK).all(|part| (largest(part) as usize) < num_entries) {
        let at = indices.iter().position(|&index| index as usize >= num_entries).unwrap_or(0);
        bail!("tensor indices: expected values below {num_entries}, found {} at {at}", indices[at])
    }
    Ok(())
}

/// A batch of indices in ascending order, equal ones in the order they came in.
#[derive(Debug)]
pub(crate) struct Ascending<'a> {
    indices: Cow<'a, [u32]>,
    /// The position in the batch of each; none where it ascended already.
    order: Option<Cow<'a, [u32]>>,
}

impl<'a> Ascending<'a> {
    /// Checks the indices as [`check_indices`], and sorts them where they do not ascend.
    pub fn new(indices: &'a [u32], num_entries: usize) -> Result<Self> {
        if !ascends(indices) {
            check_indices(indices, num_entries)?;
            let (sorted, order) = order::sort(indices);
            return Ok(Self { indices: Cow::Owned(sorted), order: Some(Cow::Owned(order)) });
        }
        if u32::try_from(indices.len()).is_err() || indices.last().is_some_and(|&last| last as usize >= num_entries) {
            check_indices(indices, num_entries)?;
        }
        Ok(Self { indices: Cow::Borrowed(indices), order: None })
    }

    pub fn indices(&self) -> &[u32] {
        &self.indices
    }

    /// The position in the batch of the index at `at`.
    pub fn position(&self, at: usize) -> usize {
        self.order.as_ref().map_or(at, |order| order[at] as usize)
    }

    /// What came with the batch, in the order of the indices.
    pub fn arrange<'v, T: Copy + Send + Sync>(&self, values: &'v [T]) -> Cow<'v, [T]> {
        match &self.order {
            None => Cow::Borrowed(values),
            Some(order) => Cow::Owned(order.par_iter().map(|&at| values[at as usize]).collect()),
        }
    }
}

/// What several ops on one batch of indices find out once, the first of them for all.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    max: OnceLock<u32>,
    /// The batch sorted and its order; none where it ascends as it is.
    sorted: OnceLock<Option<(Vec<u32>, Vec<u32>)>>,
}

impl Shared {
    /// As [`check_indices`]. Each time with the same `indices`.
    pub fn check(&self, indices: &[u32], num_entries: usize) -> Result<()> {
        let max = *self.max.get_or_init(|| largest(indices));
        if !indices.is_empty() && max as usize >= num_entries || u32::try_from(indices.len()).is_err() {
            check_indices(indices, num_entries)?;
        }
        Ok(())
    }

    /// The batch in ascending order. Each time with the same `indices`, which have been checked.
    pub fn ascending<'a>(&'a self, indices: &'a [u32]) -> Ascending<'a> {
        let sorted = match self.sorted.get() {
            Some(sorted) => sorted,
            // Computed before it is stored: a lock held during parallel work could meet itself on the same thread.
            None => {
                let sorted = (!ascends(indices)).then(|| order::sort(indices));
                self.sorted.get_or_init(|| sorted)
            }
        };
        match sorted {
            None => Ascending { indices: Cow::Borrowed(indices), order: None },
            Some((sorted, order)) => Ascending { indices: Cow::Borrowed(sorted), order: Some(Cow::Borrowed(order)) },
        }
    }
}

/// Whether no index is smaller than the one before. A task is looked at as a whole, which vector code does.
fn ascends(indices: &[u32]) -> bool {
    let next = indices.get(1..).unwrap_or_default();
    let ascends = |(a, b): (&[u32], &[u32])| a.iter().zip(b).fold(true, |all, (a, b)| all & (a <= b));
    indices[..next.len()].par_chunks(TASK).zip(next.par_chunks(TASK)).all(ascends)
}

fn largest(indices: &[u32]) -> u32 {
    // Batches that a sampler drew ascend.
    match indices.last() {
        Some(&last) if ascends(indices) => last,
        _ => indices.iter().fold(0, |max, &index| max.max(index)),
    }
}

/// Asks for the cache line of an element that will be needed soon; `at` may lie beyond the end.
#[inline(always)]
pub(crate) fn prefetch<T>(slice: &[T], at: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint, which neither reads nor faults whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(slice.as_ptr().wrapping_add(at).cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (slice, at);
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
