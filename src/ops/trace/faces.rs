//! The faces of every cell, laid out for the walk.

use super::Real;
use rayon::prelude::*;

/// Faces handled together: eight f32 fill an AVX2 register.
pub const LANES: usize = 8;

/// `[nx, ny, nz, h]` of eight faces: the offset `n = p_j - p_i` to the neighbour and `h = |n|^2 / 2`.
///
/// A ray `o + t d` meets the face at `t = (h - n.(o - p_i)) / (n.d)`. Unused lanes have `n = 0`, which no ray meets.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub struct Planes<T>(pub [[T; LANES]; 4]);

/// Position and density of a cell: what the walk needs of it at every step, in one load.
pub type Site<T> = [T; 4];

/// The faces of all cells: which cells they lead to, and where they are now.
///
/// The structure follows the adjacency and changes when that is rebuilt; the planes follow the points and change
/// with every step of the optimiser ([`Faces::refresh`]).
#[derive(Debug, Clone)]
pub struct Faces<T> {
    /// `[P + 1]`: the blocks of cell `i` are `blocks[i]..blocks[i + 1]`.
    pub blocks: Vec<u32>,
    /// The cell behind each face, by block and lane.
    pub neighbors: Vec<[u32; LANES]>,
    pub planes: Vec<Planes<T>>,
    /// `[P]`, sentinels included.
    pub sites: Vec<Site<T>>,
}

impl<T: Real> Faces<T> {
    /// Lays out the adjacency (`offsets` `[P + 1]`, `neighbors` `[E]`, both checked by the caller).
    pub fn new(offsets: &[u32], neighbors: &[u32]) -> Self {
        let num_cells = offsets.len() - 1;
        let mut blocks = Vec::with_capacity(offsets.len());
        blocks.push(0);
        let mut num_blocks = 0;
        for pair in offsets.windows(2) {
            num_blocks += (pair[1] - pair[0]).div_ceil(LANES as u32);
            blocks.push(num_blocks);
        }
        let mut laid_out = vec![[0; LANES]; num_blocks as usize];
        for (cell, pair) in offsets.windows(2).enumerate() {
            let list = &neighbors[pair[0] as usize..pair[1] as usize];
            for (block, chunk) in laid_out[blocks[cell] as usize..].iter_mut().zip(list.chunks(LANES)) {
                // The cell itself in the unused lanes: its offset is zero.
                *block = [cell as u32; LANES];
                block[..chunk.len()].copy_from_slice(chunk);
            }
        }
        let planes = vec![Planes([[T::zero(); LANES]; 4]); laid_out.len()];
        Self { blocks, neighbors: laid_out, planes, sites: vec![[T::zero(); 4]; num_cells] }
    }

    /// Moves sites and planes to where the points are: `points` is `[3 P']` and `density` `[P']`, and the cells
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
        let (sites, blocks, neighbors) = (&self.sites, &self.blocks, &self.neighbors);
        const CELLS_PER_TASK: usize = 1024;
        let mut tasks = Vec::with_capacity(sites.len() / CELLS_PER_TASK + 1);
        let mut rest = &mut self.planes[..];
        for first in (0..sites.len()).step_by(CELLS_PER_TASK) {
            let last = (first + CELLS_PER_TASK).min(sites.len());
            let (planes, tail) = rest.split_at_mut((blocks[last] - blocks[first]) as usize);
            tasks.push((first..last, planes));
            rest = tail;
        }
        tasks.into_par_iter().for_each(|(cells, planes)| {
            let first_block = blocks[cells.start] as usize;
            for i in cells {
                let site = sites[i];
                for b in blocks[i] as usize..blocks[i + 1] as usize {
                    let plane = &mut planes[b - first_block].0;
                    for (lane, &j) in neighbors[b].iter().enumerate() {
                        let other = sites[j as usize];
                        let n = [other[0] - site[0], other[1] - site[1], other[2] - site[2]];
                        [plane[0][lane], plane[1][lane], plane[2][lane]] = n;
                        plane[3][lane] = T::half() * (n[0] * n[0] + n[1] * n[1] + n[2] * n[2]);
                    }
                }
            }
        });
    }

    /// The first cell with a face whose `h` is not finite: of neighbours too far apart to be told where they meet.
    pub fn first_overflow(&self) -> Option<usize> {
        let overflows = |planes: &Planes<T>| planes.0[3].iter().any(|h| !h.is_finite());
        let block = self.planes.par_iter().with_min_len(4096).position_first(overflows)?;
        Some(self.blocks.partition_point(|&first| first as usize <= block) - 1)
    }

    /// The face by which a ray with direction `d` leaves `cell`, given `r = origin - site`: its distance along the
    /// ray and the cell behind it. `None` in a cell that is unbounded in that direction.
    ///
    /// Every lane keeps its own nearest face, then the lanes are compared in order, so that this and
    /// [`exit_avx2`] choose the same face when two are equally near.
    #[inline(always)]
    pub fn exit(&self, cell: usize, r: [T; 3], d: [T; 3]) -> Option<(T, u32)> {
        let range = self.blocks[cell] as usize..self.blocks[cell + 1] as usize;
        let mut nearest = [T::infinity(); LANES];
        let mut nearest_block = [0; LANES];
        for (b, Planes([nx, ny, nz, h])) in self.planes[range.clone()].iter().enumerate() {
            for lane in 0..LANES {
                let along = nx[lane] * d[0] + ny[lane] * d[1] + nz[lane] * d[2];
                let t = (h[lane] - (nx[lane] * r[0] + ny[lane] * r[1] + nz[lane] * r[2])) / along;
                if along > T::zero() && t < nearest[lane] {
                    (nearest[lane], nearest_block[lane]) = (t, b);
                }
            }
        }
        let best = (1..LANES).fold(0, |best, lane| if nearest[lane] < nearest[best] { lane } else { best });
        let found = nearest[best] < T::infinity();
        found.then(|| (nearest[best], self.neighbors[range.start + nearest_block[best]][best]))
    }
}

/// [`Faces::exit`] for f32, eight faces at a time: the same operations in the same order, and so the same bits.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
pub(crate) fn exit_avx2(faces: &Faces<f32>, cell: usize, r: [f32; 3], d: [f32; 3]) -> Option<(f32, u32)> {
    use std::arch::x86_64::*;
    let range = faces.blocks[cell] as usize..faces.blocks[cell + 1] as usize;
    let (dx, dy, dz) = (_mm256_set1_ps(d[0]), _mm256_set1_ps(d[1]), _mm256_set1_ps(d[2]));
    let (rx, ry, rz) = (_mm256_set1_ps(r[0]), _mm256_set1_ps(r[1]), _mm256_set1_ps(r[2]));
    let infinity = _mm256_set1_ps(f32::INFINITY);
    let mut nearest = infinity;
    let mut nearest_block = _mm256_setzero_si256();
    let mut block = _mm256_setzero_si256();
    for Planes(plane) in &faces.planes[range.clone()] {
        // SAFETY: each row of a plane is eight f32.
        let [nx, ny, nz, h] = [0, 1, 2, 3].map(|row| unsafe { _mm256_loadu_ps(plane[row].as_ptr()) });
        let dot = |x, y, z| {
            let xy = _mm256_add_ps(_mm256_mul_ps(nx, x), _mm256_mul_ps(ny, y));
            _mm256_add_ps(xy, _mm256_mul_ps(nz, z))
        };
        let along = dot(dx, dy, dz);
        let t = _mm256_div_ps(_mm256_sub_ps(h, dot(rx, ry, rz)), along);
        let ahead = _mm256_cmp_ps::<_CMP_GT_OQ>(along, _mm256_setzero_ps());
        let better = _mm256_and_ps(ahead, _mm256_cmp_ps::<_CMP_LT_OQ>(t, nearest));
        nearest = _mm256_blendv_ps(nearest, t, better);
        nearest_block = _mm256_blendv_epi8(nearest_block, block, _mm256_castps_si256(better));
        block = _mm256_add_epi32(block, _mm256_set1_epi32(1));
    }
    let half = _mm256_min_ps(nearest, _mm256_permute2f128_ps::<1>(nearest, nearest));
    let quarter = _mm256_min_ps(half, _mm256_shuffle_ps::<0x4E>(half, half));
    let least = _mm256_min_ps(quarter, _mm256_shuffle_ps::<0xB1>(quarter, quarter));
    let t = _mm256_cvtss_f32(least);
    if t >= f32::INFINITY {
        return None;
    }
    let lane = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(nearest, least)).trailing_zeros() as usize % LANES;
    let mut blocks = [0i32; LANES];
    // SAFETY: the array holds eight i32.
    unsafe { _mm256_storeu_si256(blocks.as_mut_ptr().cast(), nearest_block) };
    Some((t, faces.neighbors[range.start + blocks[lane] as usize][lane]))
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
