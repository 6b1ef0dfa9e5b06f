//! The numbers that the ops compute with.

use candle_core::{CpuStorage, WithDType};

use super::faces::Faces;
#[cfg(target_arch = "x86_64")]
use super::faces::exit_avx2;

/// f32 or f64: the CPU bodies of the differentiable ops are generic over both, so that gradients can be checked in
/// double precision.
pub trait Real: WithDType + num_traits::Float + num_traits::NumAssign + Default + std::fmt::Debug {
    /// The nearest value to a double.
    fn of(value: f64) -> Self;

    /// One half.
    fn half() -> Self;

    /// The values of a CPU storage of this type, mutable; `None` for another type.
    fn cpu_slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]>;

    /// The exit face of a cell, by the vector code of this type if it has any.
    ///
    /// # Safety
    ///
    /// The CPU supports AVX2.
    #[doc(hidden)]
    #[inline(always)]
    unsafe fn exit_avx2(faces: &Faces<Self>, cell: usize, r: [Self; 3], d: [Self; 3]) -> Option<(Self, u32)> {
        faces.exit(cell, r, d)
    }
}

impl Real for f32 {
    #[inline(always)]
    fn of(value: f64) -> Self {
        value as f32
    }

    #[inline(always)]
    fn half() -> Self {
        0.5
    }

    fn cpu_slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        if let CpuStorage::F32(values) = storage { Some(values) } else { None }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn exit_avx2(faces: &Faces<f32>, cell: usize, r: [f32; 3], d: [f32; 3]) -> Option<(f32, u32)> {
        // SAFETY: the caller has seen to it that the CPU supports AVX2.
        unsafe { exit_avx2(faces, cell, r, d) }
    }
}

impl Real for f64 {
    #[inline(always)]
    fn of(value: f64) -> Self {
        value
    }

    #[inline(always)]
    fn half() -> Self {
        0.5
    }

    fn cpu_slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        if let CpuStorage::F64(values) = storage { Some(values) } else { None }
    }
}
