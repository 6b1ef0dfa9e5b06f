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
pub(crate) struct Scene<'a, T> {
    pub faces: &'a Faces<T>,
    /// `[P, K, 3]`; cells without density may have no row.
    pub sh: &'a [T],
    /// K.
    pub num_coefficients: usize,
}

/// The SH basis at a ray's direction, each value three times, for red, green and blue: the coefficients of a cell lie
/// in this order.
pub(crate) type Basis<T> = [T; 3 * sh::MAX_COEFFICIENTS];

/// The rays to be traced.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rays<'a, T> {
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
    pub fn len(&self) -> usize {
        self.start_cells.len()
    }

    pub fn quantiles(&self, ray: usize) -> &[T] {
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
            basis: [T::zero(); 3 * sh::MAX_COEFFICIENTS],
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
        let basis = sh::basis(self.direction, num_coefficients);
        for (triple, y) in self.basis.chunks_exact_mut(3).zip(&basis[..num_coefficients]) {
            triple.fill(*y);
        }
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
/// is the number of SH values of a cell, 3 K; `AVX2` may be set only where the CPU has it.
#[inline(always)]
pub(crate) fn walk<T: Real, const WIDTH: usize, const RECORD: bool, const AVX2: bool>(
    scene: &Scene<'_, T>,
    rays: &Rays<'_, T>,
    settings: &TraceSettings,
    mut rays_in_turn: Range<usize>,
    walkers: &mut [Walker<T>],
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
            let walker = &mut walkers[i];
            if step::<T, WIDTH, RECORD, AVX2>(scene, rays, settings, walker) {
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

/// Takes a ray through the cell that it is in; whether it goes on.
#[inline(always)]
fn step<T: Real, const WIDTH: usize, const RECORD: bool, const AVX2: bool>(
    scene: &Scene<'_, T>,
    rays: &Rays<'_, T>,
    settings: &TraceSettings,
    walker: &mut Walker<T>,
) -> bool {
    let faces = scene.faces;
    let cell = walker.cell as usize;
    let site = faces.sites[cell];
    let r = [walker.origin[0] - site[0], walker.origin[1] - site[1], walker.origin[2] - site[2]];
    walker.cells_entered += 1;
    let exit = if AVX2 {
        // SAFETY: AVX2 is set only where the CPU has it.
        unsafe { T::exit_avx2(faces, cell, r, walker.direction) }
    } else {
        faces.exit(cell, r, walker.direction)
    };
    let Some((t_exit, next)) = exit else { return false };
    prefetch(&faces.sites[next as usize]);
    faces.prefetch_blocks(next as usize);
    if let Some(row) = scene.sh.get(next as usize * WIDTH) {
        prefetch(row);
    }
    if t_exit > walker.t {
        let density = site[3];
        let transmittance = walker.transmittance;
        let reached = walker.reached as u32;
        let (mut alpha, mut rgb) = (T::zero(), [T::zero(); 3]);
        if density > T::of(settings.density_threshold) {
            let length = t_exit - walker.t;
            alpha = T::one() - (-density * length).exp();
            rgb = color::<T, WIDTH>(&scene.sh[cell * WIDTH..(cell + 1) * WIDTH], &walker.basis);
            let weight = transmittance * alpha;
            for (sum, channel) in walker.rgb.iter_mut().zip(rgb) {
                *sum += weight * channel;
            }
            walker.transmittance = transmittance * (T::one() - alpha);
            let quantiles = rays.quantiles(walker.ray);
            while walker.reached < quantiles.len() && walker.transmittance <= quantiles[walker.reached] {
                let q = quantiles[walker.reached];
                walker.depth[walker.reached] = walker.t + (transmittance / q).ln() / density;
                walker.reached += 1;
            }
        }
        if RECORD {
            walker.segments.push(Segment {
                cell: walker.cell,
                next,
                t_near: walker.t,
                t_far: t_exit,
                alpha,
                transmittance,
                rgb,
                reached,
            });
        }
        walker.t = t_exit;
    }
    walker.cell = next;
    walker.transmittance > T::of(settings.transmittance_threshold) && walker.cells_entered < settings.max_cells
}

/// `max(0, 1/2 + sum_k Y_k sh_k)` per channel.
#[inline(always)]
fn color<T: Real, const WIDTH: usize>(sh: &[T], basis: &Basis<T>) -> [T; 3] {
    // The products first, in arrays of a known length: these the compiler turns into vector instructions.
    let mut products = [T::zero(); WIDTH];
    for ((product, coefficient), y) in products.iter_mut().zip(sh).zip(basis) {
        *product = *coefficient * *y;
    }
    let mut rgb = [T::half(); 3];
    for triple in products.chunks_exact(3) {
        rgb[0] += triple[0];
        rgb[1] += triple[1];
        rgb[2] += triple[2];
    }
    // Not `max`, which would hide a NaN.
    rgb.map(|channel| if channel < T::zero() { T::zero() } else { channel })
}

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
