//! Orders of points in which neighbours in space are neighbours in memory.
//!
//! The curve is Hilbert's (bit manipulation after Skilling, "Programming the Hilbert curve", AIP Conf. Proc. 707,
//! 2004). A plain grid over the bounding box would spend its cells on emptiness: sentinels and background lie tens to
//! thousands of times farther out than the scene. The grid is therefore logarithmic away from the middle of the
//! points, and every octave of distance gets the same share of it.

use crate::rng::{Rng, Stream};
use rayon::prelude::*;

/// Grid bits an axis: three axes and [`ROUND_BITS`] fill a 64-bit sort key.
const AXIS_BITS: u32 = 20;
const ROUND_BITS: u32 = 64 - 3 * AXIS_BITS;
/// Each round of a biased randomised insertion order holds 2^3 = 8 times the points of the round before.
const ROUND_SHRINK_BITS: u32 = 3;
/// Expected size of the first round: small enough that a walk across it is short without any order.
const FIRST_ROUND: usize = 512;
/// The insertion order is the same in every run: it changes the speed of a triangulation, never what is true of it.
const ORDER_SEED: u64 = 0;
/// The middle and the scale of the points are estimated from about this many of them.
const SAMPLE: usize = 4096;

/// The order of `points` (`[P, 3]`) along a Hilbert curve: entry `k` is the index of the `k`-th point.
///
/// Points in the same grid cell, and copies, come in the order of their indices. Points that are not finite are put
/// somewhere, deterministically.
///
/// ```
/// use candle_radfoam::geometry::hilbert_order;
///
/// let order = hilbert_order(&[[0.0, 0.0, 0.0], [9.0, 9.0, 9.0], [0.1, 0.0, 0.0], [9.0, 9.1, 9.0]]);
/// let rank = |i| order.iter().position(|&k| k == i).unwrap();
/// assert_eq!(rank(0).abs_diff(rank(2)), 1);
/// assert_eq!(rank(1).abs_diff(rank(3)), 1);
/// ```
pub fn hilbert_order(points: &[[f32; 3]]) -> Vec<u32> {
    hilbert_keys(points).into_iter().map(|(_, index)| index).collect()
}

/// The position on the Hilbert curve and the index of each of `points`, ascending.
pub(super) fn hilbert_keys(points: &[[f32; 3]]) -> Vec<(u64, u32)> {
    let grid = LogGrid::new(points);
    sorted_keys(points, &grid, |_, position| position)
}

/// A biased randomised insertion order of `points` (`[P, 3]`): entry `k` is the index of the `k`-th point to insert.
///
/// Random rounds, each eight times the one before, each along a Hilbert curve (Amenta, Choi & Rote, "Incremental
/// constructions con BRIO", SoCG 2003): random enough for the expected cost, local enough for the caches.
pub fn brio_order(points: &[[f32; 3]]) -> Vec<u32> {
    let grid = LogGrid::new(points);
    let rng = Rng::new(ORDER_SEED, Stream::Geometry, 0);
    let last_round = last_round(points.len());
    let keys = sorted_keys(points, &grid, |index, position| {
        u64::from(round_of(&rng, index, last_round)) << (3 * AXIS_BITS) | position
    });
    keys.into_iter().map(|(_, index)| index).collect()
}

/// The rounds of a biased randomised insertion of points that are in Hilbert order already: each ascending, together
/// all points but those in `done`.
pub(super) fn insertion_rounds(num_points: usize, done: &[u32]) -> Vec<Vec<u32>> {
    let rng = Rng::new(ORDER_SEED, Stream::Geometry, 0);
    let last_round = last_round(num_points);
    let round_of: Vec<u8> =
        (0..num_points as u32).into_par_iter().map(|index| round_of(&rng, index, last_round) as u8).collect();
    let mut rounds = vec![Vec::new(); last_round as usize + 1];
    for (index, round) in (0..).zip(round_of) {
        if !done.contains(&index) {
            rounds[usize::from(round)].push(index);
        }
    }
    rounds
}

/// So many rounds that the first has [`FIRST_ROUND`] points or a few times more.
fn last_round(num_points: usize) -> u32 {
    let octets = (num_points / FIRST_ROUND).checked_ilog2().unwrap_or(0) / ROUND_SHRINK_BITS;
    octets.min((1 << ROUND_BITS) - 1)
}

fn round_of(rng: &Rng, index: u32, last_round: u32) -> u32 {
    let earlier = rng.block(index)[0].leading_zeros() / ROUND_SHRINK_BITS;
    last_round.saturating_sub(earlier)
}

fn sorted_keys(points: &[[f32; 3]], grid: &LogGrid, key: impl Fn(u32, u64) -> u64 + Sync) -> Vec<(u64, u32)> {
    /// Points a thread takes in one go.
    const CHUNK: usize = 1 << 12;

    let mut keyed = vec![(0, 0); points.len()];
    keyed.par_chunks_mut(CHUNK).zip(points.par_chunks(CHUNK)).enumerate().for_each(|(chunk, (keyed, points))| {
        let mut positions = [0; CHUNK];
        grid.curve_positions(points, &mut positions);
        for ((index, position), keyed) in ((chunk * CHUNK) as u32..).zip(positions).zip(keyed) {
            *keyed = (key(index, position), index);
        }
    });
    // The index makes the entries distinct, so that an unstable parallel sort has one result.
    keyed.par_sort_unstable();
    keyed
}

/// A grid of 2^20 cells an axis, fine near the middle of the points, coarser with the distance.
struct LogGrid {
    center: [f64; 3],
    /// 1 / the distance within which the grid is even.
    inverse_scale: f64,
    /// Grid cells an octave.
    cells_per_octave: f64,
}

impl LogGrid {
    fn new(points: &[[f32; 3]]) -> Self {
        let sample = || points.iter().step_by(points.len().div_ceil(SAMPLE).max(1)).map(|p| p.map(f64::from));
        let center = [0, 1, 2].map(|axis| median(sample().map(|p| p[axis]).collect()));
        let farthest = |p: [f64; 3]| (0..3).map(|k| (p[k] - center[k]).abs()).fold(0.0, f64::max);
        let reach = points
            .par_iter()
            .map(|p| farthest(p.map(f64::from)))
            .filter(|distance| distance.is_finite())
            .reduce(|| 0.0, f64::max);
        // More than half of the points may coincide; the reach is then the only length left.
        let scale = [median(sample().map(farthest).collect()), reach]
            .into_iter()
            .find(|length| *length > 0.0 && length.is_finite())
            .unwrap_or(1.0);
        let inverse_scale = 1.0 / scale;
        let octaves = piecewise_log2(1.0 + reach * inverse_scale).max(f64::MIN_POSITIVE);
        Self { center, inverse_scale, cells_per_octave: f64::from((1u32 << (AXIS_BITS - 1)) - 1) / octaves }
    }

    /// The position of each point on the curve.
    fn curve_positions(&self, points: &[[f32; 3]], positions: &mut [u64]) {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            #[target_feature(enable = "avx2")]
            fn with_avx2(grid: &LogGrid, points: &[[f32; 3]], positions: &mut [u64]) {
                grid.curve_positions_here(points, positions);
            }
            // SAFETY: the processor has what the function was compiled for.
            return unsafe { with_avx2(self, points, positions) };
        }
        self.curve_positions_here(points, positions);
    }

    #[inline(always)]
    fn curve_positions_here(&self, points: &[[f32; 3]], positions: &mut [u64]) {
        const LANES: usize = 16;

        for (points, positions) in points.chunks(LANES).zip(positions.chunks_mut(LANES)) {
            let mut cells = [[0; LANES]; 3];
            for (k, point) in points.iter().enumerate() {
                let cell = self.cell(point);
                (0..3).for_each(|axis| cells[axis][k] = cell[axis]);
            }
            positions.copy_from_slice(&hilbert_indices(cells)[..positions.len()]);
        }
    }

    #[inline(always)]
    fn cell(&self, point: &[f32; 3]) -> [u32; 3] {
        const MIDDLE: f64 = (1u32 << (AXIS_BITS - 1)) as f64;
        const LAST: u32 = (1 << AXIS_BITS) - 1;
        [0, 1, 2].map(|k| {
            let x = (f64::from(point[k]) - self.center[k]) * self.inverse_scale;
            let octaves = piecewise_log2(1.0 + x.abs()).copysign(x);
            // The cast saturates, and sends NaN to 0.
            ((MIDDLE + octaves * self.cells_per_octave) as u32).min(LAST)
        })
    }
}

/// log2 with straight lines between the powers of two: exact there, monotone, and the same bits on every machine,
/// which is not promised of a library's logarithm.
fn piecewise_log2(x: f64) -> f64 {
    const MANTISSA_BITS: i32 = f64::MANTISSA_DIGITS as i32 - 1;
    (x.to_bits().wrapping_sub(1f64.to_bits()) as i64) as f64 / (1u64 << MANTISSA_BITS) as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let middle = values.len() / 2;
    let value = *values.select_nth_unstable_by(middle, f64::total_cmp).1;
    if value.is_finite() { value } else { 0.0 }
}

/// The positions on the Hilbert curve of grid cells, `3 * AXIS_BITS` bits each; cell `k` is `cells[axis][k]`. Several at
/// once, for the sake of SIMD.
#[inline(always)]
fn hilbert_indices<const N: usize>(mut cells: [[u32; N]; 3]) -> [u64; N] {
    // Skilling's "inverse undo": from the coarsest bit down, exchange or invert the finer bits of the axes.
    for bit in (1..AXIS_BITS).rev() {
        let finer = (1u32 << bit) - 1;
        for axis in 0..3 {
            for k in 0..N {
                // All ones where the bit is set: the branch would be a coin toss.
                let set = ((cells[axis][k] >> bit) & 1).wrapping_neg();
                let exchange = (cells[0][k] ^ cells[axis][k]) & finer & !set;
                cells[0][k] ^= exchange ^ (finer & set);
                cells[axis][k] ^= exchange;
            }
        }
    }
    // Gray encoding.
    for axis in 1..3 {
        for k in 0..N {
            cells[axis][k] ^= cells[axis - 1][k];
        }
    }
    let mut flips = [0; N];
    for bit in 1..AXIS_BITS {
        for k in 0..N {
            let set = ((cells[2][k] >> bit) & 1).wrapping_neg();
            flips[k] ^= ((1u32 << bit) - 1) & set;
        }
    }
    std::array::from_fn(|k| {
        let [x, y, z] = [0, 1, 2].map(|axis: usize| spread(cells[axis][k] ^ flips[k]));
        x << 2 | y << 1 | z
    })
}

/// The bits of `x` (at most 21), two zeros before each.
#[inline(always)]
fn spread(x: u32) -> u64 {
    let mut x = u64::from(x);
    x = (x | x << 32) & 0x001f_0000_0000_ffff;
    x = (x | x << 16) & 0x001f_0000_ff00_00ff;
    x = (x | x << 8) & 0x100f_00f0_0f00_f00f;
    x = (x | x << 4) & 0x10c3_0c30_c30c_30c3;
    (x | x << 2) & 0x1249_2492_4924_9249
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition of a Hilbert curve: a bijection whose consecutive cells share a face. The finest 3 bits of the
    /// curve through the first corner are a curve of their own.
    #[test]
    fn consecutive_cells_touch() {
        let side = 8u32;
        let mut cells: Vec<(u64, [u32; 3])> = (0..side.pow(3))
            .map(|i| [i % side, i / side % side, i / side.pow(2)])
            .map(|cell| (hilbert_indices(cell.map(|x| [x]))[0], cell))
            .collect();
        cells.sort_unstable();
        for pair in cells.windows(2) {
            let step: u32 = (0..3).map(|k| pair[0].1[k].abs_diff(pair[1].1[k])).sum();
            assert_eq!((step, pair[1].0 - pair[0].0), (1, 1), "from {:?} to {:?}", pair[0], pair[1]);
        }
    }

    #[test]
    fn orders_are_permutations() {
        let far = [[f32::MAX; 3], [f32::MIN; 3], [f32::NAN; 3], [f32::INFINITY, 0.0, 1e-45]];
        let mut points: Vec<[f32; 3]> = (0..5000).map(|i| [(i % 17) as f32, (i % 5) as f32, 0.0]).collect();
        points.extend(far);
        for set in [&points[..], &points[..1], &points[..0], &far, &[[1.0; 3]; 50]] {
            for mut order in [hilbert_order(set), brio_order(set)] {
                order.sort_unstable();
                assert!(order.into_iter().eq(0..set.len() as u32), "a set of {}", set.len());
            }
        }
    }

    /// Sentinels must not coarsen the order of the scene: the curve through the rest stays as short.
    #[test]
    fn outliers_cost_nothing() {
        let rng = Rng::new(1, Stream::Synthetic, 0);
        let mut points: Vec<[f32; 3]> = (0..20_000).map(|i| std::array::from_fn(|k| rng.uniform4(i)[k])).collect();
        let length = |points: &[[f32; 3]]| -> f64 {
            let order: Vec<u32> = hilbert_order(points).into_iter().filter(|&i| i < 20_000).collect();
            let at = |i: u32| points[i as usize].map(f64::from);
            let step = |a: [f64; 3], b: [f64; 3]| (0..3).map(|k| (a[k] - b[k]).powi(2)).sum::<f64>().sqrt();
            order.windows(2).map(|w| step(at(w[0]), at(w[1]))).sum()
        };
        let alone = length(&points);
        points.extend([[-1e7; 3], [1e7; 3], [1e7, -1e7, 3e6]]);
        assert!(length(&points) < 1.1 * alone, "{} against {alone}", length(&points));
    }
}
