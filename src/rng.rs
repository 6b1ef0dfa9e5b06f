//! Counter-based random numbers: a pure function of (seed, stream, step, index).
//!
//! Philox 4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011). There is no state to
//! save or to share between threads: a resumed run draws what the uninterrupted one would have drawn, and a kernel
//! computes the number of its own index.
//!
//! ```
//! use candle_radfoam::rng::{Rng, Stream};
//!
//! let rng = Rng::new(7, Stream::Init, 0);
//! assert_eq!(rng.uniform(3), Rng::new(7, Stream::Init, 0).uniform(3));
//! assert!((0.0..1.0).contains(&rng.uniform(4)));
//! ```

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// The block function: ten rounds of Philox 4x32 on `counter` under `key`.
pub fn philox(mut key: [u32; 2], mut counter: [u32; 4]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let a = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let b = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// What the numbers are for; each purpose has its own stream, so that no two consumers ever share a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Stream {
    /// Which entries of the error map, or which rays, are drawn.
    Draw = 0,
    /// Which pixel of a drawn patch.
    Pixel = 1,
    /// Initial points, densities and colours.
    Init = 2,
    /// Parents and offsets of new cells.
    Refine = 3,
    /// Random backgrounds.
    Background = 4,
    /// Transmittance quantiles of the depth term.
    Quantile = 5,
    /// Synthetic captures.
    Synthetic = 6,
    /// Insertion order of a triangulation.
    Geometry = 7,
    /// The order of the rays in an epoch.
    Shuffle = 8,
    /// The evenly drawn part of a batch, and its size.
    Mixture = 9,
    /// Samples of the space that cameras passed through.
    FreeSpace = 10,
}

/// The numbers of one (seed, stream, step).
#[derive(Debug, Clone, Copy)]
pub struct Rng {
    key: [u32; 2],
    stream: u32,
    step: u64,
}

impl Rng {
    /// The numbers of `stream` at `step` under `seed`.
    pub fn new(seed: u64, stream: Stream, step: u64) -> Self {
        Self { key: [seed as u32, (seed >> 32) as u32], stream: stream as u32, step }
    }

    /// Four independent 32-bit numbers for `index`.
    pub fn block(&self, index: u32) -> [u32; 4] {
        philox(self.key, [index, self.stream, self.step as u32, (self.step >> 32) as u32])
    }

    /// 64 random bits for `index`.
    pub fn bits64(&self, index: u32) -> u64 {
        let [a, b, ..] = self.block(index);
        u64::from(a) | u64::from(b) << 32
    }

    /// [`Rng::bits64`] of `first` and the indices after it, modulo 2^32: the same bits, several at a time.
    #[inline(always)]
    pub fn fill_bits64(&self, first: u32, bits: &mut [u64]) {
        for (index, bits) in bits.iter_mut().enumerate() {
            *bits = philox_bits64(self.key, u64::from(first.wrapping_add(index as u32)), self.stream, self.step);
        }
    }

    /// A number in `0..bound` for `index`, by multiply-shift on 64 bits (bias below `bound / 2^64`).
    pub fn below(&self, index: u32, bound: u64) -> u64 {
        ((u128::from(self.bits64(index)) * u128::from(bound)) >> 64) as u64
    }

    /// A number in `[0, 1)` for `index`, a multiple of 2^-24.
    pub fn uniform(&self, index: u32) -> f32 {
        unit(self.block(index)[0])
    }

    /// Four numbers in `[0, 1)` for `index`.
    pub fn uniform4(&self, index: u32) -> [f32; 4] {
        self.block(index).map(unit)
    }

    /// Four standard normal numbers for `index` (Box-Muller).
    pub fn normal4(&self, index: u32) -> [f32; 4] {
        let [a, b, c, d] = self.block(index);
        // 1 - u lies in (0, 1], so that the logarithm is finite.
        let radius = |x: u32| (-2.0 * (1.0 - unit(x)).ln()).sqrt();
        let angle = |x: u32| std::f32::consts::TAU * unit(x);
        let ((sin_b, cos_b), (sin_d, cos_d)) = (angle(b).sin_cos(), angle(d).sin_cos());
        [radius(a) * cos_b, radius(a) * sin_b, radius(c) * cos_d, radius(c) * sin_d]
    }

    /// A direction drawn uniformly from the unit sphere for `index`.
    pub fn direction(&self, index: u32) -> [f32; 3] {
        let [u, v, ..] = self.uniform4(index);
        let (z, angle) = (1.0 - 2.0 * u, std::f32::consts::TAU * v);
        let r = (1.0 - z * z).max(0.0).sqrt();
        [r * angle.cos(), r * angle.sin(), z]
    }
}

/// The first two words of [`philox`], computed in 64-bit words whose upper halves do not count: compilers turn a loop
/// over this into vector code, because vector units multiply the lower halves of 64-bit lanes.
#[inline(always)]
fn philox_bits64(mut key: [u32; 2], index: u64, stream: u32, step: u64) -> u64 {
    const LOW: u64 = u32::MAX as u64;
    let [m0, m1] = MULTIPLIERS.map(u64::from);
    let mut counter = [index, u64::from(stream), step & LOW, step >> 32];
    for _ in 0..ROUNDS {
        let a = m0 * (counter[0] & LOW);
        let b = m1 * (counter[2] & LOW);
        counter = [(b >> 32) ^ counter[1] ^ u64::from(key[0]), b, (a >> 32) ^ counter[3] ^ u64::from(key[1]), a];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    (counter[0] & LOW) | counter[1] << 32
}

fn unit(x: u32) -> f32 {
    const SCALE: f32 = 1.0 / 16_777_216.0;
    (x >> 8) as f32 * SCALE
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the Random123 distribution (kat_vectors, philox4x32 10).
    #[test]
    fn known_answers() {
        assert_eq!(philox([0; 2], [0; 4]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 2], [u32::MAX; 4]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox([0xa409_3822, 0x299f_31d0], [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn many_at_a_time_are_the_same_bits() {
        for (seed, step) in [(0, 0), (u64::MAX, u64::MAX), (0x1234_5678_9abc_def0, 0xfedc_ba98_7654_3210)] {
            for stream in [Stream::Draw, Stream::Geometry] {
                let rng = Rng::new(seed, stream, step);
                for first in [0, 77, u32::MAX - 20] {
                    let mut bits = [0; 37];
                    rng.fill_bits64(first, &mut bits);
                    let expected: Vec<u64> = (0..37).map(|k| rng.bits64(first.wrapping_add(k))).collect();
                    assert_eq!(bits[..], expected, "seed {seed}, step {step}, from {first}");
                }
            }
        }
    }

    #[test]
    fn moments() {
        let rng = Rng::new(3, Stream::Init, 5);
        let n = 100_000u32;
        let (mut mean, mut square) = (0.0f64, 0.0f64);
        for i in 0..n {
            for x in rng.normal4(i) {
                assert!(x.is_finite(), "normal {x} at {i}");
                mean += f64::from(x);
                square += f64::from(x).powi(2);
            }
        }
        let count = 4.0 * f64::from(n);
        // Standard errors of the mean and of the mean square: 1/sqrt(count) and sqrt(2/count).
        assert!((mean / count).abs() < 5.0 / count.sqrt(), "mean {}", mean / count);
        assert!((square / count - 1.0).abs() < 5.0 * (2.0 / count).sqrt(), "variance {}", square / count);
    }
}
