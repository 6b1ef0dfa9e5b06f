//! The walk of rays from cell to cell, several at a time.

use super::faces::Faces;
use super::{Real, TraceSettings};
use crate::sh;
use std::ops::Range;

/// Rays that take turns, a cell each. One ray alone waits for memory at every cell; while sixteen take turns, the next
/// cell of each is on its way to the cache.
pub(crate) const GROUP: usize = 16;

/// The depth of a quantile that the ray does not reach.
pub(crate) const NOT_REACHED: f64 = -1.0;

/// The foam as the walk sees it.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'a, T> {
    /// Where the cells are and what they lead to.
    pub faces: &'a Faces<T>,
    /// `[P, K, 3]`; cells without density may have no row.
    pub sh: &'a [T],
    /// K.
    pub num_coefficients: usize,
}

/// The SH basis at a ray's direction.
pub(crate) type Basis<T> = [T; sh::MAX_COEFFICIENTS];

/// The rays to be traced.
#[derive(Debug, Clone, Copy)]
pub struct Rays<'a, T> {
    /// `[R, 3]`.
    pub origins: &'a [T],
    /// `[R, 3]`, unit length.
    pub directions: &'a [T],
    /// `[R]`.
    pub start_cells: &'a [u32],
    /// `[R, Q]`, each row descending.
    pub quantiles: &'a [T],
    /// Q.
    pub num_quantiles: usize,
}

impl<T: Real> Rays<'_, T> {
    pub(crate) fn len(&self) -> usize {
        self.start_cells.len()
    }

    pub(crate) fn quantiles(&self, ray: usize) -> &[T] {
        &self.quantiles[ray * self.num_quantiles..(ray + 1) * self.num_quantiles]
    }
}

/// The stretch of a ray inside one cell.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment<T> {
    pub cell: u32,
    /// The cell behind the exit face.
    pub next: u32,
    pub t_near: T,
    pub t_far: T,
    /// Of the cell.
    pub density: T,
    /// `1 - exp(-density (t_far - t_near))`.
    pub alpha: T,
    /// Transmittance at `t_near`.
    pub transmittance: T,
    /// After the clamp; a channel at zero has no gradient.
    pub rgb: [T; 3],
    /// Quantiles reached before this cell.
    pub reached: u32,
}

/// One ray on its way.
#[derive(Debug, Clone)]
pub(crate) struct Walker<T> {
    pub origin: [T; 3],
    pub direction: [T; 3],
    pub basis: Basis<T>,
    pub cell: u32,
    pub t: T,
    pub transmittance: T,
    pub rgb: [T; 3],
    pub cells_entered: u32,
    pub segments: Vec<Segment<T>>,
    /// Distance of each quantile reached so far, [`NOT_REACHED`] for the others.
    pub depth: Vec<T>,
    pub reached: usize,
    /// The ray's index.
    pub ray: usize,
}

impl<T: Real> Walker<T> {
    pub fn new(num_quantiles: usize) -> Self {
        Self {
            origin: [T::zero(); 3],
            direction: [T::zero(); 3],
            basis: [T::zero(); sh::MAX_COEFFICIENTS],
            cell: 0,
            t: T::zero(),
            transmittance: T::one(),
            rgb: [T::zero(); 3],
            cells_entered: 0,
            segments: Vec::new(),
            depth: vec![T::of(NOT_REACHED); num_quantiles],
            reached: 0,
            ray: 0,
        }
    }

    fn start(&mut self, rays: &Rays<'_, T>, ray: usize, num_coefficients: usize) {
        self.origin = triple(rays.origins, ray);
        self.direction = triple(rays.directions, ray);
        self.basis = sh::basis(self.direction, num_coefficients);
        self.cell = rays.start_cells[ray];
        self.t = T::zero();
        self.transmittance = T::one();
        self.rgb = [T::zero(); 3];
        self.cells_entered = 0;
        self.segments.clear();
        self.depth.fill(T::of(NOT_REACHED));
        self.reached = 0;
        self.ray = ray;
    }
}

pub(crate) fn triple<T: Copy>(values: &[T], row: usize) -> [T; 3] {
    [values[3 * row], values[3 * row + 1], values[3 * row + 2]]
}

/// Walks `rays_in_turn` to their ends, [`GROUP`] at a time: `finish` is given each as it ends, and the next takes its
/// place. With `RECORD` each leaves its segments behind, empty cells included, since their faces carry gradient. `WIDTH`
/// is the number of SH values of a cell, 3 K; `AVX2` may be set only where the CPU has it, and FMA. `ahead` is told of
/// each cell before the ray enters it.
#[inline(always)]
pub(crate) fn walk<T: Real, const WIDTH: usize, const RECORD: bool, const AVX2: bool>(
    scene: &Scene<'_, T>,
    rays: &Rays<'_, T>,
    settings: &TraceSettings,
    mut rays_in_turn: Range<usize>,
    walkers: &mut [Walker<T>],
    ahead: impl Fn(usize),
    mut finish: impl FnMut(&Walker<T>),
) {
    let mut live = 0;
    for ray in rays_in_turn.by_ref().take(walkers.len()) {
        walkers[live].start(rays, ray, scene.num_coefficients);
        live += 1;
    }
    while live > 0 {
        let mut i = 0;
        while i < live {
            // Half a round ahead: where a cell's faces lie is itself read from memory, and by now it has come.
            let later = i + live / 2;
            let later = if later < live { later } else { later - live };
            scene.faces.prefetch_blocks(walkers[later].cell as usize);
            let walker = &mut walkers[i];
            if walker.step::<WIDTH, RECORD, AVX2>(scene, rays, settings, &ahead) {
                i += 1;
                continue;
            }
            finish(walker);
            if let Some(ray) = rays_in_turn.next() {
                walker.start(rays, ray, scene.num_coefficients);
                i += 1;
            } else {
                live -= 1;
                walkers.swap(i, live);
            }
        }
    }
}

impl<T: Real> Walker<T> {
    /// Takes the ray through the cell that it is in; whether it goes on.
    #[inline(always)]
    fn step<const WIDTH: usize, const RECORD: bool, const AVX2: bool>(
        &mut self,
        scene: &Scene<'_, T>,
        rays: &Rays<'_, T>,
        settings: &TraceSettings,
        ahead: &impl Fn(usize),
    ) -> bool {
        let faces = scene.faces;
        let cell = self.cell as usize;
        let site = faces.sites[cell];
        let r = [self.origin[0] - site[0], self.origin[1] - site[1], self.origin[2] - site[2]];
        self.cells_entered += 1;
        let exit = if AVX2 {
            // SAFETY: AVX2 is set only where the CPU has it and FMA.
            unsafe { T::exit_avx2(faces, cell, r, self.direction) }
        } else {
            faces.exit(cell, r, self.direction)
        };
        let Some((t_exit, next)) = exit else { return false };
        prefetch(&faces.sites[next as usize]);
        prefetch(&faces.first_blocks[next as usize]);
        let colors = scene.sh.as_ptr().wrapping_add(next as usize * WIDTH);
        for line in 0..(WIDTH * size_of::<T>()).div_ceil(CACHE_LINE) {
            prefetch(colors.cast::<[u8; CACHE_LINE]>().wrapping_add(line));
        }
        // Rows begin anywhere in a line.
        prefetch(colors.wrapping_add(WIDTH - 1));
        ahead(next as usize);
        if t_exit > self.t {
            let density = site[3];
            let transmittance = self.transmittance;
            let reached = self.reached as u32;
            let (mut alpha, mut rgb) = (T::zero(), [T::zero(); 3]);
            if density > T::of(settings.density_threshold) {
                alpha = T::absorbed(density * (t_exit - self.t));
                rgb = color::<T, WIDTH>(&scene.sh[cell * WIDTH..(cell + 1) * WIDTH], &self.basis);
                let weight = transmittance * alpha;
                for (sum, channel) in self.rgb.iter_mut().zip(rgb) {
                    *sum += weight * channel;
                }
                self.transmittance = transmittance * (T::one() - alpha);
                let quantiles = rays.quantiles(self.ray);
                while self.reached < quantiles.len() && self.transmittance <= quantiles[self.reached] {
                    let q = quantiles[self.reached];
                    self.depth[self.reached] = self.t + (transmittance / q).ln() / density;
                    self.reached += 1;
                }
            }
            if RECORD {
                self.segments.push(Segment {
                    cell: self.cell,
                    next,
                    t_near: self.t,
                    t_far: t_exit,
                    density,
                    alpha,
                    transmittance,
                    rgb,
                    reached,
                });
            }
            self.t = t_exit;
        }
        self.cell = next;
        self.transmittance > T::of(settings.transmittance_threshold) && self.cells_entered < settings.max_cells
    }
}

/// `max(0, 1/2 + sum_k Y_k sh_k)` per channel.
#[inline(always)]
fn color<T: Real, const WIDTH: usize>(sh: &[T], basis: &Basis<T>) -> [T; 3] {
    let num = WIDTH / 3;
    // Four values at a time, which fill a vector: the last is the next coefficient's, and of no use. Two sums, since one
    // would wait for itself.
    let mut sums = [[T::half(), T::half(), T::half(), T::zero()], [T::zero(); 4]];
    for k in 0..num - 1 {
        for (sum, value) in sums[k % 2].iter_mut().zip(&sh[3 * k..3 * k + 4]) {
            *sum = basis[k].mul_add(*value, *sum);
        }
    }
    let (last, y) = (&sh[WIDTH - 3..WIDTH], basis[num - 1]);
    let mut rgb = [T::zero(); 3];
    for c in 0..3 {
        let channel = y.mul_add(last[c], sums[0][c] + sums[1][c]);
        // Not `max`, which would hide a NaN.
        rgb[c] = if channel < T::zero() { T::zero() } else { channel };
    }
    rgb
}

/// What memory is fetched in.
pub(crate) const CACHE_LINE: usize = 64;

/// Asks for a cache line ahead of its use; does nothing where there is no such instruction.
#[inline(always)]
pub(crate) fn prefetch<T>(item: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint that neither faults nor changes anything, whatever the address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(item.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = item;
}
