//! How a kernel is launched here: a function for each, which `cuda/simulate.rs` writes.

use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

/// Threads to launch, and in which order they run.
#[derive(Debug, Clone, Copy)]
pub struct Launch {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// 0: ascending; 1: descending; others: blocks and threads shuffled by this number.
    pub order: u32,
}

/// The orders that every kernel is run in.
pub const ORDERS: [u32; 4] = [0, 1, 7, 1234];

/// One thread an element, in blocks of several sizes and in every order; the last is the size that is launched on a
/// GPU.
pub fn launches(num: usize) -> impl Iterator<Item = Launch> {
    [(32, 0), (96, 7), (256, 0), (256, 1), (256, 7), (256, 1234)].into_iter().map(move |(block, order)| Launch {
        grid: [(num as u32).div_ceil(block), 1, 1],
        block: [block, 1, 1],
        order,
    })
}

/// A pointer that a kernel reads from.
pub trait Pointer<T> {
    fn pointer(self) -> *const T;
}

impl<T> Pointer<T> for &[T] {
    fn pointer(self) -> *const T {
        self.as_ptr()
    }
}

impl<T> Pointer<T> for &Vec<T> {
    fn pointer(self) -> *const T {
        self.as_ptr()
    }
}

impl<T, const N: usize> Pointer<T> for &[T; N] {
    fn pointer(self) -> *const T {
        self.as_ptr()
    }
}

/// None: null.
impl<T> Pointer<T> for Option<&[T]> {
    fn pointer(self) -> *const T {
        self.map_or(std::ptr::null(), <[T]>::as_ptr)
    }
}

/// A pointer that a kernel writes to.
pub trait PointerMut<T> {
    fn pointer_mut(self) -> *mut T;
}

impl<T> PointerMut<T> for &mut [T] {
    fn pointer_mut(self) -> *mut T {
        self.as_mut_ptr()
    }
}

impl<T> PointerMut<T> for &mut Vec<T> {
    fn pointer_mut(self) -> *mut T {
        self.as_mut_ptr()
    }
}

impl<T, const N: usize> PointerMut<T> for &mut [T; N] {
    fn pointer_mut(self) -> *mut T {
        self.as_mut_ptr()
    }
}

/// None: null.
impl<T> PointerMut<T> for Option<&mut [T]> {
    fn pointer_mut(self) -> *mut T {
        self.map_or(std::ptr::null_mut(), <[T]>::as_mut_ptr)
    }
}

impl Launch {
    fn run(&self, kernel: impl Fn()) {
        unsafe extern "C" {
            fn simulated_launch(
                grid: *const u32,
                block: *const u32,
                order: u32,
                kernel: extern "C" fn(*const c_void),
                data: *const c_void,
            );
        }
        extern "C" fn call<F: Fn()>(data: *const c_void) {
            // SAFETY: `data` is the kernel below, which outlives the launch.
            unsafe { (*data.cast::<F>())() }
        }
        fn caller<F: Fn()>(_: &F) -> extern "C" fn(*const c_void) {
            call::<F>
        }
        static RUNNING: Mutex<()> = Mutex::new(());
        let _running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let data = std::ptr::from_ref(&kernel).cast();
        // SAFETY: sizes are three numbers each; one launch at a time, by the lock.
        unsafe { simulated_launch(self.grid.as_ptr(), self.block.as_ptr(), self.order, caller(&kernel), data) }
    }
}

// A slice that is too short is found by the address sanitizer, not by these functions.
include!(concat!(env!("OUT_DIR"), "/simulated.rs"));
