//! The CPU body of the trace: the definition of the op.
//!
//! Rays are cut into tiles of [`TILE`], and the tiles are dealt to [`ACCUMULATORS`] lanes, whatever the number of
//! threads. A lane adds the gradients of its tiles in order into rows of its own, and the lanes are summed in order: no
//! atomics, and the same bits on any number of threads. Only rows that were written to are summed and cleared. Memory
//! beyond inputs and outputs: [`ACCUMULATORS`] rows a cell, and the segments of [`GROUP`] rays a lane, whatever the
//! number of rays.

use super::grad::{GradientRows, HEAD, RayGradient, WORD, backward_ray};
use super::walk::{GROUP, Rays, Scene, Walker, walk};
use super::{Real, TraceSettings};
use crate::pages;
use rayon::prelude::*;

/// Rays in a tile: many times those that walk at once, since at its end fewer and fewer take turns; few enough that
/// dealing tiles to lanes balances the load.
const TILE: usize = 32 * GROUP;

/// Gradient accumulators, and so the most threads that a backward pass can use. Each costs a row per cell, and those it
/// writes to are summed and cleared; a constant, since it decides the order of the sums.
const ACCUMULATORS: usize = 4;

/// Values before the depths in a ray's row of the packed outputs: rgb and opacity.
pub const PACKED_HEAD: usize = 4;

/// What the rays saw.
#[derive(Debug)]
pub struct Outputs<T> {
    /// `[R, PACKED_HEAD + Q]`: rgb, opacity, depth of each quantile.
    pub packed: Vec<T>,
    /// `[R]`: the cells that each ray entered.
    pub cells_entered: Vec<u32>,
    /// Over the rays, the sum of the weight of each cell (forward; `[P]`, sentinels included) or its maximum (with
    /// backward; of real cells).
    pub weights: Vec<T>,
}

/// Gradients of the loss with respect to the parameters; a row for each real cell.
#[derive(Debug)]
pub struct Gradients<T> {
    /// `[P, 3]`.
    pub points: Vec<T>,
    /// `[P]`.
    pub density: Vec<T>,
    /// `[P, K, 3]`.
    pub sh: Vec<T>,
}

/// Defines a function on tiles once for each number of SH values (3 K) and both with and without AVX2 and FMA, as two
/// constants `WIDTH` and `AVX2` for its body, and a front that takes the one that fits. Rust contracts a product and a
/// sum into one rounding where `mul_add` says so and nowhere else, so that all builds compute the same bits.
macro_rules! multiversion {
    (
        $(#[$doc:meta])*
        fn $name:ident[$($generics:tt)*][$($given:tt)*]($scene:ident: $scene_ty:ty, $($arg:ident: $ty:ty,)*) $body:block
    ) => {
        $(#[$doc])*
        fn $name<$($generics)*>($scene: $scene_ty, $($arg: $ty,)*) {
            #[inline(always)]
            fn body<$($generics)*, const WIDTH: usize, const AVX2: bool>($scene: $scene_ty, $($arg: $ty,)*) $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn with_avx2<$($generics)*, const WIDTH: usize>($scene: $scene_ty, $($arg: $ty,)*) {
                body::<$($given)*, WIDTH, true>($scene, $($arg),*)
            }

            fn front<$($generics)*, const WIDTH: usize>($scene: $scene_ty, $($arg: $ty,)*) {
                #[cfg(target_arch = "x86_64")]
                if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                    // SAFETY: the CPU has just been found to support both.
                    return unsafe { with_avx2::<$($given)*, WIDTH>($scene, $($arg),*) };
                }
                body::<$($given)*, WIDTH, false>($scene, $($arg),*)
            }

            match $scene.num_coefficients {
                1 => front::<$($given)*, 3>($scene, $($arg),*),
                4 => front::<$($given)*, 12>($scene, $($arg),*),
                9 => front::<$($given)*, 27>($scene, $($arg),*),
                _ => front::<$($given)*, 48>($scene, $($arg),*),
            }
        }
    };
}

struct Tile<'a, T> {
    first: usize,
    packed: &'a mut [T],
    cells_entered: &'a mut [u32],
}

/// Deals tiles to lanes: tile `i` goes to lane `i % ACCUMULATORS`, since neighbouring tiles cost about the same.
fn deal<'a, T>(packed: &'a mut [T], cells_entered: &'a mut [u32], width: usize) -> Vec<Vec<Tile<'a, T>>> {
    let mut lanes: Vec<Vec<_>> = (0..ACCUMULATORS).map(|_| Vec::new()).collect();
    for (i, (packed, cells_entered)) in packed.chunks_mut(TILE * width).zip(cells_entered.chunks_mut(TILE)).enumerate()
    {
        lanes[i % ACCUMULATORS].push(Tile { first: i * TILE, packed, cells_entered });
    }
    lanes
}

/// Traces the rays. Without `with_weights` the weights stay empty, and nothing is kept per cell.
pub fn forward<T: Real>(
    scene: &Scene<'_, T>,
    rays: &Rays<'_, T>,
    settings: &TraceSettings,
    with_weights: bool,
) -> Outputs<T> {
    let width = PACKED_HEAD + rays.num_quantiles;
    let mut packed = vec![T::zero(); rays.len() * width];
    let mut cells_entered = vec![0; rays.len()];
    if with_weights {
        let lanes: Vec<Vec<T>> = deal(&mut packed, &mut cells_entered, width)
            .into_par_iter()
            .map(|tiles| {
                let mut weights = vec![T::zero(); scene.faces.sites.len()];
                let mut walkers = vec![Walker::new(rays.num_quantiles); GROUP];
                for tile in tiles {
                    forward_tile::<T, true>(scene, rays, settings, &mut walkers, tile, &mut weights);
                }
                weights
            })
            .collect();
        let mut weights = vec![T::zero(); scene.faces.sites.len()];
        for lane in &lanes {
            add(&mut weights, lane);
        }
        return Outputs { packed, cells_entered, weights };
    }
    packed.par_chunks_mut(TILE * width).zip(cells_entered.par_chunks_mut(TILE)).enumerate().for_each_init(
        || vec![Walker::new(rays.num_quantiles); GROUP],
        |walkers, (i, (packed, cells_entered))| {
            let tile = Tile { first: i * TILE, packed, cells_entered };
            forward_tile::<T, false>(scene, rays, settings, walkers, tile, &mut []);
        },
    );
    Outputs { packed, cells_entered, weights: Vec::new() }
}

multiversion! {
    /// Walks a tile; with `WEIGHTS` it adds the weights of its cells to `weights`.
    fn forward_tile[T: Real, const WEIGHTS: bool][T, WEIGHTS](
        scene: &Scene<'_, T>,
        rays: &Rays<'_, T>,
        settings: &TraceSettings,
        walkers: &mut [Walker<T>],
        tile: Tile<'_, T>,
        weights: &mut [T],
    ) {
        let Tile { first, packed, cells_entered } = tile;
        let turns = first..first + cells_entered.len();
        walk::<T, WIDTH, WEIGHTS, AVX2>(scene, rays, settings, turns, walkers, |_| {}, |walker| {
            write_outputs(walker, first, packed, cells_entered);
            if WEIGHTS {
                for segment in &walker.segments {
                    weights[segment.cell as usize] += segment.transmittance * segment.alpha;
                }
            }
        });
    }
}

/// Writes a ray's outputs, in a tile that begins with ray `first`; gives back its row of packed ones.
fn write_outputs<'a, T: Real>(
    walker: &Walker<T>,
    first: usize,
    packed: &'a mut [T],
    cells_entered: &mut [u32],
) -> &'a [T] {
    let (at, width) = (walker.ray - first, PACKED_HEAD + walker.depth.len());
    let out = &mut packed[at * width..(at + 1) * width];
    out[..3].copy_from_slice(&walker.rgb);
    out[3] = T::one() - walker.transmittance;
    out[PACKED_HEAD..].copy_from_slice(&walker.depth);
    cells_entered[at] = walker.cells_entered;
    out
}

/// The accumulators of [`forward_backward`], kept from call to call: to take new memory from the system at each step of
/// a training would cost as much as the walk.
#[derive(Debug, Default)]
pub struct Workspace<T> {
    /// All zero between two calls.
    lanes: Vec<GradientRows<T>>,
}

impl<T: Real> Workspace<T> {
    /// Takes the lanes out: should a loss panic they are lost, rather than left with what it wrote.
    fn take(&mut self, num: usize, num_cells: usize, num_coefficients: usize) -> Vec<GradientRows<T>> {
        let mut lanes = std::mem::take(&mut self.lanes);
        lanes.retain(|rows| rows.fits(num_cells, num_coefficients));
        lanes.resize_with(num, || GradientRows::new(num_cells, num_coefficients));
        lanes
    }
}

/// Traces the rays and, while the segments of a group are still in cache, takes the gradient of its loss back
/// through them. `loss_gradient` is given a ray's index and its row of the packed outputs.
pub fn forward_backward<'g, T: Real, F>(
    scene: &Scene<'_, T>,
    rays: &Rays<'_, T>,
    settings: &TraceSettings,
    num_real: usize,
    workspace: &mut Workspace<T>,
    loss_gradient: F,
) -> (Outputs<T>, Gradients<T>)
where
    F: Fn(usize, &[T]) -> RayGradient<'g, T> + Sync,
{
    let width = PACKED_HEAD + rays.num_quantiles;
    let mut packed = vec![T::zero(); rays.len() * width];
    let mut cells_entered = vec![0; rays.len()];
    let dealt = deal(&mut packed, &mut cells_entered, width);
    let mut lanes = workspace.take(dealt.len(), num_real, scene.num_coefficients);
    dealt.into_par_iter().zip(&mut lanes).for_each(|(tiles, rows)| {
        let mut walkers = vec![Walker::new(rays.num_quantiles); GROUP];
        for tile in tiles {
            backward_tile(scene, rays, settings, &loss_gradient, &mut walkers, tile, rows);
        }
    });
    let (gradients, weights) = sum_lanes(&mut lanes, num_real, scene.num_coefficients);
    workspace.lanes = lanes;
    (Outputs { packed, cells_entered, weights }, gradients)
}

multiversion! {
    /// Walks a tile and takes its gradients back into `rows`.
    fn backward_tile['g, T: Real, F: Fn(usize, &[T]) -> RayGradient<'g, T>][T, F](
        scene: &Scene<'_, T>,
        rays: &Rays<'_, T>,
        settings: &TraceSettings,
        loss_gradient: &F,
        walkers: &mut [Walker<T>],
        tile: Tile<'_, T>,
        rows: &mut GradientRows<T>,
    ) {
        let Tile { first, packed, cells_entered } = tile;
        let turns = first..first + cells_entered.len();
        let (to, weights, stride) = (rows.rows.as_ptr(), rows.max_weights.as_ptr(), rows.stride);
        let ahead = |cell| GradientRows::prefetch::<WIDTH>(to, weights, stride, cell);
        walk::<T, WIDTH, true, AVX2>(scene, rays, settings, turns, walkers, ahead, |walker| {
            let grad = loss_gradient(walker.ray, write_outputs(walker, first, packed, cells_entered));
            backward_ray::<T, WIDTH>(scene, settings, rays.quantiles(walker.ray), walker, &grad, rows);
        });
    }
}

/// Sums the lanes in order, cell by cell on all threads, into one array per parameter, and clears what was written.
fn sum_lanes<T: Real>(
    lanes: &mut [GradientRows<T>],
    num_real: usize,
    num_coefficients: usize,
) -> (Gradients<T>, Vec<T>) {
    const WORDS_PER_TASK: usize = 16;
    const CELLS_PER_TASK: usize = WORDS_PER_TASK * WORD;
    let (stride, num_sh) = (lanes[0].stride, 3 * num_coefficients);
    let mut gradients = Gradients {
        points: pages::zeros(3 * num_real),
        density: pages::zeros(num_real),
        sh: pages::zeros(num_sh * num_real),
    };
    let mut weights = pages::zeros(num_real);
    // A task for every stretch of cells, with the part of each lane that belongs to it.
    let num_tasks = num_real.div_ceil(CELLS_PER_TASK);
    let mut parts: Vec<Vec<_>> = (0..num_tasks).map(|_| Vec::with_capacity(lanes.len())).collect();
    for lane in lanes {
        let chunks = lane
            .rows
            .chunks_mut(stride * CELLS_PER_TASK)
            .zip(lane.max_weights.chunks_mut(CELLS_PER_TASK))
            .zip(lane.written.chunks_mut(WORDS_PER_TASK));
        for (part, chunk) in parts.iter_mut().zip(chunks) {
            part.push(chunk);
        }
    }
    (
        gradients.points.par_chunks_mut(3 * CELLS_PER_TASK),
        gradients.density.par_chunks_mut(CELLS_PER_TASK),
        gradients.sh.par_chunks_mut(num_sh * CELLS_PER_TASK),
        weights.par_chunks_mut(CELLS_PER_TASK),
        parts,
    )
        .into_par_iter()
        .for_each(|(points, density, sh, weights, part)| {
            for ((rows, max_weights), written) in part {
                for (word, bits) in written.iter_mut().enumerate() {
                    while *bits != 0 {
                        let i = word * WORD + bits.trailing_zeros() as usize;
                        *bits &= *bits - 1;
                        let row = &mut rows[i * stride..i * stride + HEAD + num_sh];
                        add(&mut points[3 * i..3 * i + 3], row);
                        density[i] += row[3];
                        add(&mut sh[num_sh * i..num_sh * (i + 1)], &row[HEAD..]);
                        weights[i] = if max_weights[i] > weights[i] { max_weights[i] } else { weights[i] };
                        row.fill(T::zero());
                        max_weights[i] = T::zero();
                    }
                }
            }
        });
    (gradients, weights)
}

fn add<T: Real>(to: &mut [T], from: &[T]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += *from;
    }
}
