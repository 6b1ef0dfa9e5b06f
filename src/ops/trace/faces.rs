//! The faces of every cell, laid out for the walk.

use super::Real;
use super::walk::prefetch;
use crate::pages;
use rayon::prelude::*;

/// Faces handled together: eight f32 fill an AVX2 register.
pub const LANES: usize = 8;

/// Eight faces, in f32 two cache lines.
///
/// With the offset `n = p_j - p_i` to the neighbour, a ray `o + t d` meets the face at
/// `t = n.(n / 2 - (o - p_i)) / (n.d)`: the way to the middle between the two points, along their difference. Unused
/// lanes have `n = 0`, which no ray meets.
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
    /// Eight faces each, cell by cell.
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
        let mut blocks = pages::with_capacity(offsets.windows(2).map(num_blocks).sum::<u32>() as usize);
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

    /// Bytes of everything that a walk reads of the cells, their colours aside.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.first_blocks[..]) + size_of_val(&self.blocks[..]) + size_of_val(&self.sites[..])
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
                    // A whole row before it is written: what is written could else be what is read.
                    let others = block.neighbors.map(|j| sites[j as usize]);
                    block.offsets = [0, 1, 2].map(|axis| others.map(|other| other[axis] - site[axis]));
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
    /// `exit_avx2` choose the same face when two are equally near.
    #[inline(always)]
    pub fn exit(&self, cell: usize, r: [T; 3], d: [T; 3]) -> Option<(T, u32)> {
        let mut nearest = [T::infinity(); LANES];
        let mut behind = [0; LANES];
        for block in self.blocks(cell) {
            let [nx, ny, nz] = &block.offsets;
            for lane in 0..LANES {
                let n = [nx[lane], ny[lane], nz[lane]];
                let mut to_middle = [T::zero(); 3];
                for axis in 0..3 {
                    to_middle[axis] = T::half().mul_add(n[axis], -r[axis]);
                }
                let along = dot(n, d);
                let t = dot(n, to_middle) / along;
                if along > T::zero() && t < nearest[lane] {
                    (nearest[lane], behind[lane]) = (t, block.neighbors[lane]);
                }
            }
        }
        let best = (1..LANES).fold(0, |best, lane| if nearest[lane] < nearest[best] { lane } else { best });
        (nearest[best] < T::infinity()).then_some((nearest[best], behind[best]))
    }
}

#[inline(always)]
fn dot<T: Real>(a: [T; 3], b: [T; 3]) -> T {
    a[2].mul_add(b[2], a[1].mul_add(b[1], a[0] * b[0]))
}

/// The squared distance to the neighbour in `lane`.
fn square<T: Real>(block: &Block<T>, lane: usize) -> T {
    let [x, y, z] = &block.offsets;
    x[lane] * x[lane] + y[lane] * y[lane] + z[lane] * z[lane]
}

/// [`Faces::exit`] for f32, eight faces at a time: the same operations in the same order, and so the same bits.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[inline]
pub(crate) fn exit_avx2(faces: &Faces<f32>, cell: usize, r: [f32; 3], d: [f32; 3]) -> Option<(f32, u32)> {
    use std::arch::x86_64::*;
    let (dx, dy, dz) = (_mm256_set1_ps(d[0]), _mm256_set1_ps(d[1]), _mm256_set1_ps(d[2]));
    let (rx, ry, rz) = (_mm256_set1_ps(r[0]), _mm256_set1_ps(r[1]), _mm256_set1_ps(r[2]));
    let half = _mm256_set1_ps(0.5);
    let mut nearest = _mm256_set1_ps(f32::INFINITY);
    let mut behind = _mm256_setzero_si256();
    for block in faces.blocks(cell) {
        // SAFETY: each row of offsets is eight f32, and the neighbours are eight u32.
        let (nx, ny, nz, neighbors) = unsafe {
            (
                _mm256_loadu_ps(block.offsets[0].as_ptr()),
                _mm256_loadu_ps(block.offsets[1].as_ptr()),
                _mm256_loadu_ps(block.offsets[2].as_ptr()),
                _mm256_loadu_si256(block.neighbors.as_ptr().cast()),
            )
        };
        let dot = |x, y, z| _mm256_fmadd_ps(nz, z, _mm256_fmadd_ps(ny, y, _mm256_mul_ps(nx, x)));
        let along = dot(dx, dy, dz);
        let middle = |n, r| _mm256_fmsub_ps(half, n, r);
        let t = _mm256_div_ps(dot(middle(nx, rx), middle(ny, ry), middle(nz, rz)), along);
        let ahead = _mm256_cmp_ps::<_CMP_GT_OQ>(along, _mm256_setzero_ps());
        let better = _mm256_and_ps(ahead, _mm256_cmp_ps::<_CMP_LT_OQ>(t, nearest));
        nearest = _mm256_blendv_ps(nearest, t, better);
        behind = _mm256_blendv_epi8(behind, neighbors, _mm256_castps_si256(better));
    }
    let half = _mm256_min_ps(nearest, _mm256_permute2f128_ps::<1>(nearest, nearest));
    let quarter = _mm256_min_ps(half, _mm256_shuffle_ps::<0x4E>(half, half));
    let least = _mm256_min_ps(quarter, _mm256_shuffle_ps::<0xB1>(quarter, quarter));
    if _mm256_cvtss_f32(least) >= f32::INFINITY {
        return None;
    }
    let lane = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(nearest, least)).trailing_zeros();
    let lane = _mm256_set1_epi32(lane as i32);
    // Of the lane, since the least of zeros may have the other sign.
    let t = _mm256_cvtss_f32(_mm256_permutevar8x32_ps(nearest, lane));
    Some((t, _mm256_extract_epi32::<0>(_mm256_permutevar8x32_epi32(behind, lane)) as u32))
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
        if !std::arch::is_x86_feature_detected!("avx2") || !std::arch::is_x86_feature_detected!("fma") {
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
            // SAFETY: the CPU has been found to support both.
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
