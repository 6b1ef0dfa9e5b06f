//! Memory for large tables that are read here and there: on huge pages where the system has them.
//!
//! A page table entry for every 4 KiB does not fit the caches of address translation: a map of 10^8 entries has
//! 10^5 pages, or two hundred huge ones. Reading at random is four times as fast on those.

use std::{
    fmt,
    ops::{Deref, DerefMut},
};

use bytemuck::Pod;
use candle_core::{Error, Result};
use memmap2::MmapMut;

/// The size of a huge page on x86-64 and most others; below it the advice is of no use.
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

impl<T: Pod> Clone for Pages<T> {
    /// # Panics
    ///
    /// Where memory is short, as everything that is cloned.
    fn clone(&self) -> Self {
        match Self::zeroed(self.len()) {
            Ok(mut copy) => {
                copy.copy_from_slice(self);
                copy
            }
            Err(_) => std::alloc::handle_alloc_error(std::alloc::Layout::for_value::<[T]>(self)),
        }
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

impl<T: Pod + fmt::Debug> fmt::Debug for Pages<T> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Pages").field("len", &self.len()).finish_non_exhaustive()
    }
}
