//! The faces of every cell, laid out for the walk.

use super::Real;
use super::walk::prefetch;
use rayon::prelude::*;

/// Faces handled together: eight f32 fill an AVX2 register.
pub const LANES: usize = 8;

/// Eight faces, in f32 two cache lines.
///
/// With the offset `n = p_j - p_i` to the neighbour, a ray `o + t d` meets the face at
/// `t = (|n|^2 / 2 - n.(o - p_i)) / (n.d)`. The square is computed again at every visit, since a walk waits for memory
/// rather than for arithmetic. Unused lanes have `n = 0`, which no ray meets.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub struct Block<T> {
    /// `[nx, ny, nz]`, a lane each face.
    pub offsets: [[T; LANES]; 3],
    /// The cell behind each face.
    pub neighbors: [u32; LANES],
}

/// Position and density of a cell: what the walk needs of it at every step, in one load.
pub type Site<T> = [T; 4];

/// The faces of all cells: which cells they lead to, and where they are now.
///
/// The structure follows the adjacency and changes when that is rebuilt; the offsets follow the points and change
/// with every step of the optimiser ([`Faces::refresh`]).
#[derive(Debug, Clone)]
pub struct Faces<T> {
    /// `[P + 1]`: the blocks of cell `i` are `first_blocks[i]..first_blocks[i + 1]`.
    pub first_blocks: Vec<u32>,
    pub blocks: Vec<Block<T>>,
    /// `[P]`, sentinels included.
    pub sites: Vec<Site<T>>,
}

impl<T: Real> Faces<T> {
    /// Lays out the adjacency (`offsets` `[P + 1]`, `neighbors` `[E]`, both checked by the caller).
    pub fn new(offsets: &[u32], neighbors: &[u32]) -> Self {
        let num_cells = offsets.len() - 1;
        let num_blocks = |pair: &[u32]| (pair[1] - pair[0]).div_ceil(LANES as u32);
        let mut first_blocks = Vec::with_capacity(offsets.len());
        first_blocks.push(0);
        let mut blocks = Vec::with_capacity(offsets.windows(2).map(num_blocks).sum::<u32>() as usize);
        for (cell, pair) in offsets.windows(2).enumerate() {
            for chunk in neighbors[pair[0] as usize..pair[1] as usize].chunks(LANES) {
                // The cell itself in the unused lanes: its offset is zero.
                let mut lanes = [cell as u32; LANES];
                lanes[..chunk.len()].copy_from_slice(chunk);
                blocks.push(Block { offsets: [[T::zero(); LANES]; 3], neighbors: lanes });
            }
            first_blocks.push(blocks.len() as u32);
        }
        Self { first_blocks, blocks, sites: vec![[T::zero(); 4]; num_cells] }
    }

    /// The blocks of a cell.
    #[inline(always)]
    pub fn blocks(&self, cell: usize) -> &[Block<T>] {
        &self.blocks[self.first_blocks[cell] as usize..self.first_blocks[cell + 1] as usize]
    }

    /// Asks for the blocks of a cell: for as many as most cells have, whatever their number, since to branch on it
    /// would be to wait for it.
    #[inline(always)]
    pub fn prefetch_blocks(&self, cell: usize) {
        const LINES: usize = 5;
        let first = self.blocks.as_ptr().wrapping_add(self.first_blocks[cell] as usize).cast::<[u8; 64]>();
        for line in 0..LINES {
            prefetch(first.wrapping_add(line));
        }
    }

    /// Moves sites and faces to where the points are: `points` is `[3 P']` and `density` `[P']`, and the cells
    /// beyond `P'` (sentinels) stand at `sentinels` with zero density.
    pub fn refresh(&mut self, points: &[T], density: &[T], sentinels: &[[T; 3]]) {
        let num_real = density.len();
        self.sites.par_iter_mut().enumerate().with_min_len(4096).for_each(|(i, site)| {
            *site = if i < num_real {
                [points[3 * i], points[3 * i + 1], points[3 * i + 2], density[i]]
            } else {
                let [x, y, z] = sentinels[i - num_real];
                [x, y, z, T::zero()]
            };
        });
        let (sites, first_blocks) = (&self.sites, &self.first_blocks);
        const CELLS_PER_TASK: usize = 1024;
        let mut tasks = Vec::with_capacity(sites.len() / CELLS_PER_TASK + 1);
        let mut rest = &mut self.blocks[..];
        for first in (0..sites.len()).step_by(CELLS_PER_TASK) {
            let last = (first + CELLS_PER_TASK).min(sites.len());
            let (blocks, tail) = rest.split_at_mut((first_blocks[last] - first_blocks[first]) as usize);
            tasks.push((first..last, blocks));
            rest = tail;
        }
        tasks.into_par_iter().for_each(|(cells, blocks)| {
            let mut blocks = blocks.iter_mut();
            for i in cells {
                let site = sites[i];
                for block in blocks.by_ref().take((first_blocks[i + 1] - first_blocks[i]) as usize) {
                    for (lane, &j) in block.neighbors.iter().enumerate() {
                        let other = sites[j as usize];
                        for axis in 0..3 {
                            block.offsets[axis][lane] = other[axis] - site[axis];
                        }
                    }
                }
            }
        });
    }

    /// The first cell with a neighbour so far away that the square of the distance is not finite: where they meet
    /// cannot be told.
    pub fn first_overflow(&self) -> Option<usize> {
        let overflows = |block: &Block<T>| (0..LANES).any(|lane| !square(block, lane).is_finite());
        let block = self.blocks.par_iter().with_min_len(4096).position_first(overflows)?;
        Some(self.first_blocks.partition_point(|&first| first as usize <= block) - 1)
    }

    /// The face by which a ray with direction `d` leaves `cell`, given `r = origin - site`: its distance along the
    /// ray and the cell behind it. `None` in a cell that is unbounded in that direction.
    ///
    /// Every lane keeps its own nearest face, then the lanes are compared in order, so that this and
    /// [`exit_avx2`] choose the same face when two are equally near.
    #[inline(always)]
    pub fn exit(&self, cell: usize, r: [T; 3], d: [T; 3]) -> Option<(T, u32)> {
        let blocks = self.blocks(cell);
        let mut nearest = [T::infinity(); LANES];
        let mut nearest_block = [0; LANES];
        for (b, block) in blocks.iter().enumerate() {
            let [nx, ny, nz] = &block.offsets;
            for lane in 0..LANES {
                let along = nx[lane] * d[0] + ny[lane] * d[1] + nz[lane] * d[2];
                let h = T::half() * square(block, lane);
                let t = (h - (nx[lane] * r[0] + ny[lane] * r[1] + nz[lane] * r[2])) / along;
                if along > T::zero() && t < nearest[lane] {
                    (nearest[lane], nearest_block[lane]) = (t, b);
                }
            }
        }
        let best = (1..LANES).fold(0, |best, lane| if nearest[lane] < nearest[best] { lane } else { best });
        let found = nearest[best] < T::infinity();
        found.then(|| (nearest[best], blocks[nearest_block[best]].neighbors[best]))
    }
}

/// The squared distance to the neighbour in `lane`.
#[inline(always)]
fn square<T: Real>(block: &Block<T>, lane: usize) -> T {
    let [x, y, z] = block.offsets.map(|axis| axis[lane]);
    x * x + y * y + z * z
}

/// [`Faces::exit`] for f32, eight faces at a time: the same operations in the same order, and so the same bits.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
pub(crate) fn exit_avx2(faces: &Faces<f32>, cell: usize, r: [f32; 3], d: [f32; 3]) -> Option<(f32, u32)> {
    use std::arch::x86_64::*;
    let blocks = faces.blocks(cell);
    let (dx, dy, dz) = (_mm256_set1_ps(d[0]), _mm256_set1_ps(d[1]), _mm256_set1_ps(d[2]));
    let (rx, ry, rz) = (_mm256_set1_ps(r[0]), _mm256_set1_ps(r[1]), _mm256_set1_ps(r[2]));
    let infinity = _mm256_set1_ps(f32::INFINITY);
    let mut nearest = infinity;
    let mut nearest_block = _mm256_setzero_si256();
    let mut number = _mm256_setzero_si256();
    let half = _mm256_set1_ps(0.5);
    for block in blocks {
        // SAFETY: each row of offsets is eight f32.
        let [nx, ny, nz] = [0, 1, 2].map(|axis| unsafe { _mm256_loadu_ps(block.offsets[axis].as_ptr()) });
        let dot = |x, y, z| {
            let xy = _mm256_add_ps(_mm256_mul_ps(nx, x), _mm256_mul_ps(ny, y));
            _mm256_add_ps(xy, _mm256_mul_ps(nz, z))
        };
        let along = dot(dx, dy, dz);
        let h = _mm256_mul_ps(half, dot(nx, ny, nz));
        let t = _mm256_div_ps(_mm256_sub_ps(h, dot(rx, ry, rz)), along);
        let ahead = _mm256_cmp_ps::<_CMP_GT_OQ>(along, _mm256_setzero_ps());
        let better = _mm256_and_ps(ahead, _mm256_cmp_ps::<_CMP_LT_OQ>(t, nearest));
        nearest = _mm256_blendv_ps(nearest, t, better);
        nearest_block = _mm256_blendv_epi8(nearest_block, number, _mm256_castps_si256(better));
        number = _mm256_add_epi32(number, _mm256_set1_epi32(1));
    }
    let half = _mm256_min_ps(nearest, _mm256_permute2f128_ps::<1>(nearest, nearest));
    let quarter = _mm256_min_ps(half, _mm256_shuffle_ps::<0x4E>(half, half));
    let least = _mm256_min_ps(quarter, _mm256_shuffle_ps::<0xB1>(quarter, quarter));
    let t = _mm256_cvtss_f32(least);
    if t >= f32::INFINITY {
        return None;
    }
    let lane = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(nearest, least)).trailing_zeros() as usize % LANES;
    let mut numbers = [0i32; LANES];
    // SAFETY: the array holds eight i32.
    unsafe { _mm256_storeu_si256(numbers.as_mut_ptr().cast(), nearest_block) };
    Some((t, blocks[numbers[lane] as usize].neighbors[lane]))
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use crate::rng::{Rng, Stream};

    /// One cell with `num_faces` faces, on a coarse lattice (where faces tie) or anywhere.
    fn cell(rng: &Rng, num_faces: usize, lattice: bool) -> Faces<f32> {
        let coordinate = |u: f32| if lattice { (5.0 * u).floor() - 2.0 } else { 4.0 * u - 2.0 };
        let points: Vec<f32> =
            (0..=num_faces as u32).flat_map(|i| rng.uniform4(i).map(coordinate)[..3].to_vec()).collect();
        let mut offsets = vec![num_faces as u32; num_faces + 2];
        offsets[0] = 0;
        let neighbors: Vec<u32> = (1..=num_faces as u32).collect();
        let mut faces = Faces::new(&offsets, &neighbors);
        faces.refresh(&points, &vec![0.0; num_faces + 1], &[]);
        faces
    }

    #[test]
    fn vector_and_scalar_code_leave_by_the_same_face() {
        if !std::arch::is_x86_feature_detected!("avx2") {
            return;
        }
        let (mut met, mut unbounded, mut failures) = (0, 0, Vec::new());
        for trial in 0..4000 {
            let (num_faces, lattice) = (1 + trial % 40, trial % 3 > 0);
            let rng = Rng::new(3, Stream::Synthetic, trial as u64);
            let faces = cell(&rng, num_faces, lattice);
            let site = faces.sites[0];
            let d = match rng.direction(1000) {
                // Along an axis, where faces of a lattice tie.
                [x, ..] if trial % 3 == 2 => [x.signum(), 0.0, 0.0],
                d => d,
            };
            let o = rng.uniform4(1001).map(|u| if lattice { (4.0 * u).floor() / 2.0 } else { u });
            let r = [o[0] - site[0], o[1] - site[1], o[2] - site[2]];
            let scalar = faces.exit(0, r, d);
            // SAFETY: the CPU has been found to support AVX2.
            let vector = unsafe { exit_avx2(&faces, 0, r, d) };
            let bits = |exit: Option<(f32, u32)>| exit.map(|(t, next)| (t.to_bits(), next));
            if bits(scalar) != bits(vector) {
                failures.push(format!("trial {trial}, {num_faces} faces: {scalar:?} and {vector:?}"));
            }
            met += usize::from(scalar.is_some());
            unbounded += usize::from(scalar.is_none());
        }
        assert!(failures.is_empty(), "{}", failures.join("\n"));
        assert!(met > 1000 && unbounded > 20, "{met} exits, {unbounded} unbounded");
    }
}
