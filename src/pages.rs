//! Memory for large tables that are read here and there: on huge pages where the system has them.
//!
//! A page table entry for every 4 KiB does not fit the caches of address translation: a map of 10^8 entries has
//! 10^5 pages, or two hundred huge ones. Reading at random is four times as fast on those.

use std::{
    fmt,
    ops::{Deref, DerefMut},
};

use bytemuck::Pod;
use candle_core::{CpuStorage, Error, Result, Storage, Tensor, WithDType};
use memmap2::MmapMut;

/// The size of a huge page on x86-64 and most others; below it advice is of no use.
#[cfg(target_os = "linux")]
const HUGE_PAGE: usize = 1 << 21;

/// A fixed number of elements, zero at first, that begin on a page and hence on a cache line.
pub(crate) struct Pages<T> {
    bytes: MmapMut,
    kind: std::marker::PhantomData<T>,
}

impl<T: Pod> Pages<T> {
    /// `len` zeros, where `len` is not 0.
    pub fn zeroed(len: usize) -> Result<Self> {
        let bytes = MmapMut::map_anon(len * size_of::<T>()).map_err(Error::wrap)?;
        // Advice that is not taken costs speed only.
        #[cfg(target_os = "linux")]
        if bytes.len() >= HUGE_PAGE {
            let _ = bytes.advise(memmap2::Advice::HugePage);
        }
        Ok(Self { bytes, kind: std::marker::PhantomData })
    }
}

impl<T: Pod> Pages<T> {
    /// As [`Pages::zeroed`], at least one; where memory is short the process ends, as with any vector.
    pub fn zeros(len: usize) -> Self {
        let len = len.max(1);
        Self::zeroed(len).unwrap_or_else(|_| {
            let layout = std::alloc::Layout::array::<T>(len);
            std::alloc::handle_alloc_error(layout.unwrap_or(std::alloc::Layout::new::<T>()))
        })
    }
}

impl<T: Pod> Clone for Pages<T> {
    /// # Panics
    ///
    /// Where memory is short, as everything that is cloned.
    fn clone(&self) -> Self {
        let mut copy = Self::zeros(self.len());
        copy.copy_from_slice(self);
        copy
    }
}

impl<T: Pod> Deref for Pages<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        bytemuck::cast_slice(&self.bytes)
    }
}

impl<T: Pod> DerefMut for Pages<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(&mut self.bytes)
    }
}

impl<T> fmt::Debug for Pages<T> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Pages").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

/// Moves a large tensor on the CPU to huge pages, where it lies: for tables that [`weighted_gather`](crate::ops::weighted_gather)
/// reads here and there, step after step. Gives whether the system did it; Linux 6.1 and later can. The values do not
/// change, and nothing else does but the time that reading takes.
///
/// - `tensor`: f32, f64, f16, bf16 or u8, of any shape.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_radfoam::ops::move_to_huge_pages;
///
/// # fn main() -> candle_core::Result<()> {
/// let table = Tensor::ones((1_000_000, 3), DType::F32, &Device::Cpu)?;
/// let moved = move_to_huge_pages(&table);
/// # Ok(())
/// # }
/// ```
pub fn move_to_huge_pages(tensor: &Tensor) -> bool {
    let (storage, _) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { return false };
    match storage {
        CpuStorage::F32(values) => collapse(values),
        CpuStorage::F64(values) => collapse(values),
        CpuStorage::F16(values) => collapse(values),
        CpuStorage::BF16(values) => collapse(values),
        CpuStorage::U8(values) => collapse(values),
        _ => false,
    }
}

/// An empty vector with room for `len` elements, on huge pages where it is large: a step that writes new tensors of tens
/// of megabytes spends more time on the faults of small pages than on what it writes.
pub(crate) fn with_capacity<T>(len: usize) -> Vec<T> {
    let room = Vec::with_capacity(len);
    advise(&room);
    room
}

/// Makes room for `more` elements and no more than that, likewise.
pub(crate) fn reserve<T>(values: &mut Vec<T>, more: usize) {
    values.reserve_exact(more);
    advise(values);
}

/// `len` zeros, likewise, which the system writes where and when they are first touched.
pub(crate) fn zeros<T: Pod>(len: usize) -> Vec<T> {
    let zeros = vec![T::zeroed(); len];
    advise(&zeros);
    zeros
}

#[cfg(target_os = "linux")]
fn advise<T>(room: &Vec<T>) {
    let (start, bytes) = (room.as_ptr() as usize, room.capacity() * size_of::<T>());
    if bytes >= 2 * HUGE_PAGE {
        let (first, end) = (start.next_multiple_of(HUGE_PAGE), (start + bytes) / HUGE_PAGE * HUGE_PAGE);
        // SAFETY: the range lies within memory that the vector owns, and this advice leaves its contents as they are.
        unsafe { libc::madvise(first as *mut libc::c_void, end - first, libc::MADV_HUGEPAGE) };
    }
}

#[cfg(not(target_os = "linux"))]
fn advise<T>(_room: &Vec<T>) {}

/// Asks for huge pages in place of those that lie wholly within `values`.
#[cfg(target_os = "linux")]
fn collapse<T: WithDType>(values: &[T]) -> bool {
    let start = values.as_ptr() as usize;
    let (first, end) = (start.next_multiple_of(HUGE_PAGE), (start + size_of_val(values)) / HUGE_PAGE * HUGE_PAGE);
    // SAFETY: the range lies within memory that is borrowed, and this advice leaves its contents as they are.
    first < end && unsafe { libc::madvise(first as *mut libc::c_void, end - first, libc::MADV_COLLAPSE) } == 0
}

#[cfg(not(target_os = "linux"))]
fn collapse<T: WithDType>(_values: &[T]) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn pages_begin_at_zero_and_copies_are_apart() {
        let mut pages = Pages::<u32>::zeroed(1000).unwrap();
        assert_eq!(pages[..], [0; 1000]);
        pages[999] = 7;
        let copy = pages.clone();
        pages[999] = 8;
        assert_eq!((copy[999], copy.len(), copy.as_ptr() as usize % 64), (7, 1000, 0));
    }

    #[test]
    fn huge_pages_keep_the_values() -> Result<()> {
        for len in [0, 1, 3_000_001] {
            let values: Vec<f32> = (0..len).map(|i| i as f32).collect();
            let tensor = Tensor::from_slice(&values, len, &Device::Cpu)?;
            move_to_huge_pages(&tensor);
            assert_eq!(tensor.to_vec1::<f32>()?, values);
        }
        Ok(())
    }
}
