//! Sixteen masses at a time: a group's entries, or a block's groups. Each fills a cache line.
//!
//! [`Scalar`] is the definition; the others have the same bits. All arithmetic is on integers below 2^31, so that
//! signed vector comparisons are right.

use super::sums::{FULL_MASS, GROUP_COUNT_SHIFT};
use crate::ops::weighted_draw::cpu::GROUP;

/// Lanes of a line.
pub(super) const LANES: usize = GROUP;

/// The largest uniform mass with which the sum of a block stays below 2^31.
pub(super) const MAX_UNIFORM: u64 = FULL_MASS as u64 - 1;

/// What turns a word or a value into a mass at the moment of a draw.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rule {
    /// Mass of a unit of error.
    pub scale: f32,
    /// Mass of an entry that was never visited, at most [`FULL_MASS`].
    pub prior: u32,
    /// Mass that every entry gets on top, at most [`MAX_UNIFORM`].
    pub uniform: u32,
}

/// The running sums of sixteen masses.
pub(super) trait Sums: Sized {
    /// Of the groups of a block, by their packed words.
    fn of_groups(words: &[u32; LANES], rule: &Rule) -> Self;
    /// Of the entries of a group.
    fn of_entries(values: &[f32; LANES], rule: &Rule) -> Self;
    /// The lane in which `point` lies: how many sums are no larger, the last not counted.
    fn find(&self, point: u32) -> usize;
    /// The sums before each lane, and at last the sum of all.
    fn before(&self) -> &[u32; LANES + 1];
}

/// One lane after the other.
pub(super) struct Scalar([u32; LANES + 1]);

impl Scalar {
    fn of(mass: impl Fn(usize) -> u32) -> Self {
        let mut before = [0; LANES + 1];
        for lane in 0..LANES {
            before[lane + 1] = before[lane] + mass(lane);
        }
        Self(before)
    }
}

impl Sums for Scalar {
    fn of_groups(words: &[u32; LANES], rule: &Rule) -> Self {
        const MASS: u32 = (1 << GROUP_COUNT_SHIFT) - 1;
        let uniform = rule.uniform * LANES as u32;
        Self::of(|lane| (words[lane] & MASS) + (words[lane] >> GROUP_COUNT_SHIFT) * rule.prior + uniform)
    }

    fn of_entries(values: &[f32; LANES], rule: &Rule) -> Self {
        let mass = |value: f32| {
            if value.is_sign_negative() { rule.prior } else { ((value * rule.scale) as u32).min(FULL_MASS) }
        };
        Self::of(|lane| mass(values[lane]) + rule.uniform)
    }

    fn find(&self, point: u32) -> usize {
        self.0[1..LANES].iter().filter(|&&sum| sum <= point).count()
    }

    fn before(&self) -> &[u32; LANES + 1] {
        &self.0
    }
}

/// Four vectors of four lanes, with what every x86-64 processor has.
#[cfg(target_arch = "x86_64")]
pub(super) use sse2::Sse2;

#[cfg(target_arch = "x86_64")]
mod sse2 {
    use std::arch::x86_64::*;

    use super::*;

    // SAFETY of every block below: x86-64 has SSE2, and none of these reads or writes memory.

    pub(in super::super) struct Sse2 {
        sums: [__m128i; 4],
        before: [u32; LANES + 1],
    }

    impl Sse2 {
        #[inline(always)]
        fn of(mut sums: [__m128i; 4]) -> Self {
            // SAFETY: see above.
            unsafe {
                for v in &mut sums {
                    *v = _mm_add_epi32(*v, _mm_slli_si128::<4>(*v));
                    *v = _mm_add_epi32(*v, _mm_slli_si128::<8>(*v));
                }
                const LAST: i32 = 0xff;
                sums[1] = _mm_add_epi32(sums[1], _mm_shuffle_epi32::<LAST>(sums[0]));
                sums[3] = _mm_add_epi32(sums[3], _mm_shuffle_epi32::<LAST>(sums[2]));
                let half = _mm_shuffle_epi32::<LAST>(sums[1]);
                sums[2] = _mm_add_epi32(sums[2], half);
                sums[3] = _mm_add_epi32(sums[3], half);

                let mut before = [0; LANES + 1];
                let words: [u32; LANES] = bytemuck::cast(sums);
                before[1..].copy_from_slice(&words);
                Self { sums, before }
            }
        }
    }

    impl Sums for Sse2 {
        #[inline(always)]
        fn of_groups(words: &[u32; LANES], rule: &Rule) -> Self {
            // SAFETY: see above.
            unsafe {
                let words: [__m128i; 4] = bytemuck::cast(*words);
                let mask = _mm_set1_epi32((1 << GROUP_COUNT_SHIFT) - 1);
                let uniform = _mm_set1_epi32((rule.uniform * LANES as u32) as i32);
                // SSE2 multiplies 16-bit halves only, but adds up two products: count * prior is count * (prior mod
                // 2^PART) + (count * 2^PART) * (prior / 2^PART), where all four factors fit.
                const PART: i32 = 10;
                let prior = _mm_set1_epi32((rule.prior & ((1 << PART) - 1) | rule.prior >> PART << 16) as i32);
                Self::of(words.map(|word| {
                    let count = _mm_srli_epi32::<{ GROUP_COUNT_SHIFT as i32 }>(word);
                    let count = _mm_or_si128(count, _mm_slli_epi32::<{ 16 + PART }>(count));
                    _mm_add_epi32(_mm_add_epi32(_mm_and_si128(word, mask), uniform), _mm_madd_epi16(count, prior))
                }))
            }
        }

        #[inline(always)]
        fn of_entries(values: &[f32; LANES], rule: &Rule) -> Self {
            // SAFETY: see above.
            unsafe {
                let values: [__m128; 4] = bytemuck::cast(*values);
                let (scale, full) = (_mm_set1_ps(rule.scale), _mm_set1_ps(FULL_MASS as f32));
                let uniform = _mm_set1_epi32(rule.uniform as i32);
                let unvisited = _mm_set1_epi32((rule.uniform + rule.prior) as i32);
                Self::of(values.map(|value| {
                    let visited = _mm_cvttps_epi32(_mm_min_ps(_mm_mul_ps(value, scale), full));
                    let sign = _mm_srai_epi32::<31>(_mm_castps_si128(value));
                    let visited = _mm_andnot_si128(sign, _mm_add_epi32(visited, uniform));
                    _mm_or_si128(visited, _mm_and_si128(sign, unvisited))
                }))
            }
        }

        #[inline(always)]
        fn find(&self, point: u32) -> usize {
            // SAFETY: see above.
            unsafe {
                let point = _mm_set1_epi32(point as i32);
                let beyond = self.sums.map(|v| _mm_cmpgt_epi32(v, point));
                let halves = (_mm_packs_epi32(beyond[0], beyond[1]), _mm_packs_epi32(beyond[2], beyond[3]));
                let beyond = _mm_movemask_epi8(_mm_packs_epi16(halves.0, halves.1)) as u32;
                // The last lane is the answer where no other is.
                const LAST: u32 = 1 << (LANES - 1);
                (beyond | LAST).trailing_zeros() as usize
            }
        }

        #[inline(always)]
        fn before(&self) -> &[u32; LANES + 1] {
            &self.before
        }
    }
}

/// One vector of sixteen lanes.
#[cfg(target_arch = "x86_64")]
pub(super) use avx512::Avx512;

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::*;

    // SAFETY of every block below: who makes such sums has seen that the processor supports AVX-512 F and DQ; loads and
    // stores are of whole arrays of sixteen lanes.

    pub(in super::super) struct Avx512 {
        sums: __m512i,
        before: [u32; LANES + 1],
    }

    impl Avx512 {
        #[inline(always)]
        fn of(mut sums: __m512i) -> Self {
            let mut before = [0; LANES + 1];
            // SAFETY: see above.
            unsafe {
                let zero = _mm512_setzero_si512();
                sums = _mm512_add_epi32(sums, _mm512_alignr_epi32::<15>(sums, zero));
                sums = _mm512_add_epi32(sums, _mm512_alignr_epi32::<14>(sums, zero));
                sums = _mm512_add_epi32(sums, _mm512_alignr_epi32::<12>(sums, zero));
                sums = _mm512_add_epi32(sums, _mm512_alignr_epi32::<8>(sums, zero));
                _mm512_storeu_si512(before[1..].as_mut_ptr().cast(), sums);
            }
            Self { sums, before }
        }
    }

    impl Sums for Avx512 {
        #[inline(always)]
        fn of_groups(words: &[u32; LANES], rule: &Rule) -> Self {
            // SAFETY: see above.
            unsafe {
                let words = _mm512_loadu_si512(words.as_ptr().cast());
                let mask = _mm512_set1_epi32((1 << GROUP_COUNT_SHIFT) - 1);
                let uniform = _mm512_set1_epi32((rule.uniform * LANES as u32) as i32);
                let count = _mm512_srli_epi32::<GROUP_COUNT_SHIFT>(words);
                let unvisited = _mm512_mullo_epi32(count, _mm512_set1_epi32(rule.prior as i32));
                let visited = _mm512_and_si512(words, mask);
                Self::of(_mm512_add_epi32(_mm512_add_epi32(visited, uniform), unvisited))
            }
        }

        #[inline(always)]
        fn of_entries(values: &[f32; LANES], rule: &Rule) -> Self {
            // SAFETY: see above.
            unsafe {
                let values = _mm512_loadu_ps(values.as_ptr());
                let full = _mm512_set1_ps(FULL_MASS as f32);
                let visited =
                    _mm512_cvttps_epi32(_mm512_min_ps(_mm512_mul_ps(values, _mm512_set1_ps(rule.scale)), full));
                let unvisited = _mm512_movepi32_mask(_mm512_castps_si512(values));
                let masses = _mm512_mask_mov_epi32(visited, unvisited, _mm512_set1_epi32(rule.prior as i32));
                Self::of(_mm512_add_epi32(masses, _mm512_set1_epi32(rule.uniform as i32)))
            }
        }

        #[inline(always)]
        fn find(&self, point: u32) -> usize {
            // SAFETY: see above.
            let beyond = unsafe { _mm512_cmpgt_epi32_mask(self.sums, _mm512_set1_epi32(point as i32)) };
            // The last lane is the answer where no other is.
            const LAST: u16 = 1 << (LANES - 1);
            (beyond | LAST).trailing_zeros() as usize
        }

        #[inline(always)]
        fn before(&self) -> &[u32; LANES + 1] {
            &self.before
        }
    }
}
