//! Where a draw looks: one point in each of equal parts of the total mass.

use crate::rng::{Rng, Stream};

/// 2^64 divided by the golden ratio. Multiples of it fill the circle as evenly as any sequence can, however many
/// there are (Steinhaus' three-gap theorem).
const GOLDEN_TURN: u64 = 0x9E37_79B9_7F4A_7C15;

/// How the points of a draw lie in their strata, the `num` equal parts of the total.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Jitter {
    /// Each at a random place of its own: variance never above that of independent draws, whatever the order of the
    /// entries (Douc, Cappé, Moulines 2005; Gerber, Chopin, Whiteley, "Negative association, ordering and convergence
    /// of resampling methods", 2019).
    #[default]
    Stratified,
    /// All at the same place of their stratum, which moves on by the golden ratio from step to step, so that the
    /// points of successive steps interleave. Every entry is drawn `floor(num p)` or `ceil(num p)` times; where
    /// errors are periodic in the order of the entries (rows of an image), draws may alias with them.
    Systematic,
}

/// Points in `0..total`, one in each of `num` equal parts, ascending, in integers alone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Strata {
    /// The length of a stratum when the whole is 2^64.
    stratum: u64,
    total: u64,
    places: Places,
}

/// The place of a point in its stratum, as a fraction of 2^64.
#[derive(Debug, Clone, Copy)]
enum Places {
    Random(Rng),
    Same(u64),
}

impl Strata {
    /// Stratified points.
    pub fn new(num: usize, total: u64, seed: u64, step: u64) -> Self {
        Self::with_jitter(Jitter::Stratified, num, total, seed, step)
    }

    pub fn with_jitter(jitter: Jitter, num: usize, total: u64, seed: u64, step: u64) -> Self {
        let places = match jitter {
            Jitter::Stratified => Places::Random(Rng::new(seed, Stream::Draw, step)),
            Jitter::Systematic => {
                let start = Rng::new(seed, Stream::Draw, 0).bits64(0);
                Places::Same(start.wrapping_add(step.wrapping_mul(GOLDEN_TURN)))
            }
        };
        Self { stratum: u64::MAX / (num as u64).max(1), total, places }
    }

    /// What a kernel needs to find the points: the length of a stratum when the whole is 2^64, and the place of all
    /// points in their stratum where it is the same.
    #[cfg(feature = "cuda")]
    pub fn parts(&self) -> (u64, Option<u64>) {
        match self.places {
            Places::Random(_) => (self.stratum, None),
            Places::Same(place) => (self.stratum, Some(place)),
        }
    }

    /// The point of stratum `k`.
    pub fn point(&self, k: u32) -> u64 {
        let place = match self.places {
            Places::Random(rng) => rng.bits64(k),
            Places::Same(place) => place,
        };
        self.at(u64::from(k), place)
    }

    /// The points of stratum `first` and those after it.
    #[inline(always)]
    pub fn fill(&self, first: u32, points: &mut [u64]) {
        match self.places {
            Places::Random(rng) => rng.fill_bits64(first, points),
            Places::Same(place) => points.fill(place),
        }
        for (k, point) in points.iter_mut().enumerate() {
            *point = self.at(u64::from(first) + k as u64, *point);
        }
    }

    #[inline(always)]
    fn at(&self, k: u64, place: u64) -> u64 {
        multiply_high(self.stratum * k + multiply_high(place, self.stratum), self.total)
    }
}

#[inline(always)]
fn multiply_high(a: u64, b: u64) -> u64 {
    ((u128::from(a) * u128::from(b)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const JITTERS: [Jitter; 2] = [Jitter::Stratified, Jitter::Systematic];

    /// Each point lies in its stratum, up to the last of 2^32 - 1 strata and totals up to 2^63.
    #[test]
    fn points_lie_in_their_strata_at_the_limits() {
        for num in [1, 2, 3, 842_400, u32::MAX as usize] {
            for total in [1, num as u64, (1 << 55) + 12_345, (1 << 63) - 1] {
                for jitter in JITTERS {
                    let strata = Strata::with_jitter(jitter, num, total, 7, 3);
                    let ends = [0, 1, 2, num / 2, num.saturating_sub(3), num.saturating_sub(2), num - 1]
                        .map(|k| k.min(num - 1) as u32);
                    for k in ends {
                        let point = strata.point(k);
                        let (start, end) = (u128::from(k) * u128::from(total), u128::from(k + 1) * u128::from(total));
                        let (point, num) = (u128::from(point), num as u128);
                        assert!(point < u128::from(total), "{jitter:?} {k} of {num}: {point} of {total}");
                        // Strata are rounded down by less than one in 2^64 each: 2^32 of them by less than one unit
                        // in 2^32 of a stratum, and the point itself by less than one.
                        let slack = 1 + (start >> 63) / num;
                        assert!(
                            (point + slack) * num >= start,
                            "{jitter:?} {k} of {num}: {point}, from {start} / {num}"
                        );
                        assert!(point * num <= end, "{jitter:?} {k} of {num}: {point}, to {end} / {num}");
                    }
                }
            }
        }
    }

    #[test]
    fn many_points_at_a_time_are_the_same_points() {
        for (num, first) in [(100, 0), (100, 37), (u32::MAX as usize, u32::MAX - 50)] {
            for jitter in JITTERS {
                let strata = Strata::with_jitter(jitter, num, 1 << 62, 7, 3);
                let mut points = [0; 50];
                strata.fill(first, &mut points);
                let expected: Vec<u64> = (first..first + 50).map(|k| strata.point(k)).collect();
                assert_eq!(points[..], expected, "{jitter:?}, from {first} of {num}");
                assert!(points.is_sorted(), "{jitter:?}, from {first} of {num}");
            }
        }
    }

    /// After any number of steps, the places seen so far leave no gap of more than three times the even one.
    #[test]
    fn systematic_points_of_successive_steps_interleave() {
        let mut places: Vec<u64> = Vec::new();
        for step in 0..200 {
            places.push(Strata::with_jitter(Jitter::Systematic, 1, 1 << 63, 9, step).point(0));
            places.sort_unstable();
            let wrap = places[0] + (1 << 63) - places[places.len() - 1];
            let gap = places.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0).max(wrap);
            assert!(gap / 3 <= (1 << 63) / places.len() as u64, "step {step}: a gap of {gap}");
        }
    }
}
