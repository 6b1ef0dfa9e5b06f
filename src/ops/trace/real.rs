//! The numbers that the ops compute with.

use candle_core::{CpuStorage, WithDType};

use super::faces::Faces;
#[cfg(target_arch = "x86_64")]
use super::faces::exit_avx2;

/// f32 or f64: the CPU bodies of the differentiable ops are generic over both, so that gradients can be checked in
/// double precision.
pub trait Real:
    WithDType + num_traits::Float + num_traits::NumAssign + bytemuck::Pod + Default + std::fmt::Debug
{
    /// The nearest value to a double.
    fn of(value: f64) -> Self;

    /// One half.
    fn half() -> Self;

    /// `1 - exp(-x)` of an optical depth x, at least 0: the share of light that is absorbed. Small ones keep their
    /// relative precision.
    fn absorbed(optical_depth: Self) -> Self;

    /// The values of a CPU storage of this type, mutable; `None` for another type.
    fn cpu_slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]>;

    /// The exit face of a cell, by the vector code of this type if it has any.
    ///
    /// # Safety
    ///
    /// The CPU supports AVX2 and FMA.
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

    /// Cephes' polynomial of `exp` without its table or branches, so that it can be inlined where a call would spill
    /// all vector registers; and the same bits on any machine. Within 2 epsilon.
    #[inline(always)]
    fn absorbed(optical_depth: f32) -> f32 {
        /// Beyond it nothing is left in f32. Not `min`, which would hide a NaN.
        const ALL: f32 = 80.0;
        /// 1.5 * 2^23: a float of this size has no digits after the point, so that adding it rounds.
        const ROUND: f32 = 12_582_912.0;
        /// ln 2 in two parts, the first of few digits.
        const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
        const SERIES: [f32; 6] = [1.987_569_1e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_6e-1, 0.5];
        let x = if optical_depth > ALL { -ALL } else { -optical_depth };
        // x = n ln 2 + r with |r| <= ln 2 / 2, and e^x - 1 = (2^n - 1) + 2^n (e^r - 1).
        let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
        let n = shifted - ROUND;
        let r = n.mul_add(-LN_2[1], n.mul_add(-LN_2[0], x));
        let series = SERIES[1..].iter().fold(SERIES[0], |sum, &term| sum.mul_add(r, term));
        let tail = (series * r).mul_add(r, r);
        let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1f32.to_bits()));
        (1.0 - power) - power * tail
    }

    fn cpu_slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        if let CpuStorage::F32(values) = storage { Some(values) } else { None }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn exit_avx2(faces: &Faces<f32>, cell: usize, r: [f32; 3], d: [f32; 3]) -> Option<(f32, u32)> {
        // SAFETY: the caller has seen to it that the CPU supports AVX2 and FMA.
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

    #[inline(always)]
    fn absorbed(optical_depth: f64) -> f64 {
        -(-optical_depth).exp_m1()
    }

    fn cpu_slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        if let CpuStorage::F64(values) = storage { Some(values) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absorption_is_that_of_the_exponential() {
        let mut worst = 0.0f64;
        for i in 0..2_000_000u32 {
            // From 1e-30 to 2e3, a step of about 4e-5 each.
            let x = 10f64.powf(-30.0 + 33.3 * f64::from(i) / 2e6) as f32;
            let exact = -(-f64::from(x)).exp_m1();
            worst = worst.max((f64::from(f32::absorbed(x)) / exact - 1.0).abs() / f64::from(f32::EPSILON));
        }
        assert!(worst < 2.0, "{worst} units");
        assert_eq!((f32::absorbed(0.0), f32::absorbed(f32::INFINITY)), (0.0, 1.0));
        assert!(f32::absorbed(f32::NAN).is_nan() && f64::absorbed(f64::NAN).is_nan());
    }
}
