//! The backward pass of one ray, over its recorded segments from the last to the first.

use super::walk::{CACHE_LINE, Scene, Walker, prefetch};
use super::{Real, TraceSettings};
use crate::pages::Pages;

/// Gradient of the loss with respect to the outputs of one ray.
#[derive(Debug, Clone, Copy)]
pub struct RayGradient<'a, T> {
    /// With respect to rgb.
    pub rgb: [T; 3],
    /// With respect to opacity.
    pub opacity: T,
    /// With respect to the depth of each quantile, up to a factor; may be empty.
    pub depth: &'a [T],
    /// That factor.
    pub depth_scale: T,
}

/// Gradient rows `[x, y, z, density, sh..]` of every real cell, one cache line each at degree 1.
#[derive(Debug)]
pub(crate) struct GradientRows<T> {
    pub rows: Pages<T>,
    pub stride: usize,
    /// The largest weight `w = T alpha` with which each cell entered a colour.
    pub max_weights: Vec<T>,
    /// A bit a cell: whether its row or weight was written to. Those that were not are zero.
    pub written: Vec<u64>,
}

/// Values before the SH coefficients of a row.
pub(crate) const HEAD: usize = 4;

/// Cells that a word of [`GradientRows::written`] tells of.
pub(crate) const WORD: usize = u64::BITS as usize;

impl<T: Real> GradientRows<T> {
    pub fn new(num_cells: usize, num_coefficients: usize) -> Self {
        let stride = row_stride(num_coefficients);
        Self {
            rows: Pages::zeros(num_cells * stride),
            stride,
            max_weights: vec![T::zero(); num_cells],
            written: vec![0; num_cells.div_ceil(WORD)],
        }
    }

    /// Whether this has a row for each of `num_cells` cells.
    pub fn fits(&self, num_cells: usize, num_coefficients: usize) -> bool {
        self.max_weights.len() == num_cells && self.stride == row_stride(num_coefficients)
    }

    /// Asks for what the backward pass will add to, well before it does.
    #[inline(always)]
    pub fn prefetch<const WIDTH: usize>(rows: *const T, max_weights: *const T, stride: usize, cell: usize) {
        let row = rows.wrapping_add(cell * stride).cast::<[u8; CACHE_LINE]>();
        for line in 0..((HEAD + WIDTH) * size_of::<T>()).div_ceil(CACHE_LINE) {
            prefetch(row.wrapping_add(line));
        }
        prefetch(max_weights.wrapping_add(cell));
    }

    /// Adds to position and density of a cell. Sentinels have no row.
    #[inline(always)]
    fn add_head(&mut self, cell: usize, head: [T; HEAD]) {
        let Some(row) = self.rows.get_mut(cell * self.stride..cell * self.stride + HEAD) else { return };
        for (sum, value) in row.iter_mut().zip(head) {
            *sum += value;
        }
        self.written[cell / WORD] |= 1 << (cell % WORD);
    }
}

/// Values from row to row: a multiple of 16 floats keeps rows on cache lines, and degree 0 fits into half a line.
fn row_stride(num_coefficients: usize) -> usize {
    let used = HEAD + 3 * num_coefficients;
    if used <= 8 { 8 } else { used.next_multiple_of(16) }
}

/// Adds the gradient of one ray to `out`.
///
/// With `w_k = T_k alpha_k`, `B_k` the colour behind cell k as seen from its exit, and `R_k` the transmittance from
/// there to the end:
///
/// - `dL/dc_k = w_k g`, zero in clamped channels;
/// - `dL/dalpha_k = T_k ((c_k - B_k).g + R_k g_opacity)`, and `dalpha/dx = 1 - alpha` for the optical depth
///   `x = density * length`;
/// - a quantile reached in cell k at `t_k + ln(T_k / q) / density_k` moves with `t_k`, with `density_k`, and by
///   `-1 / density_k` with the optical depth of every cell in front;
/// - the face between sites a and b is met at `t = ((a + b)/2 - o).(b - a) / ((b - a).d)`, so with the point
///   `x = o + t d` and `dp = (b - a).d`: `dt/da = (x - a)/dp` and `dt/db = (b - x)/dp`.
#[inline(always)]
pub(crate) fn backward_ray<T: Real, const WIDTH: usize>(
    scene: &Scene<'_, T>,
    settings: &TraceSettings,
    quantiles: &[T],
    walker: &Walker<T>,
    grad: &RayGradient<'_, T>,
    out: &mut GradientRows<T>,
) {
    let sites = &scene.faces.sites;
    let min_density = T::of(settings.density_threshold);
    let grazing = T::of(settings.grazing_cosine);
    let stride = out.stride;
    // dL/dsh of a cell is its weight times this.
    let mut grad_sh = [T::zero(); WIDTH];
    for (triple, y) in grad_sh.chunks_exact_mut(3).zip(&walker.basis) {
        for channel in 0..3 {
            triple[channel] = *y * grad.rgb[channel];
        }
    }
    let mut behind = [T::zero(); 3];
    let mut rest = T::one();
    // Gradient of the face distance shared by this segment's exit and the next segment's entry.
    let mut grad_exit_as_entry = T::zero();
    // Sum of grad / density over the quantiles reached further along.
    let mut pending = T::zero();
    let mut quantile = walker.reached.min(grad.depth.len());
    // Position and density of the cell behind this segment, until its entry face has been added.
    let (mut open_cell, mut open) = (u32::MAX, [T::zero(); HEAD]);
    for segment in walker.segments.iter().rev() {
        let cell = segment.cell as usize;
        let site = sites[cell];
        let (alpha, transmittance) = (segment.alpha, segment.transmittance);
        let length = segment.t_far - segment.t_near;
        let mut head = [T::zero(); HEAD];
        let mut grad_entry = T::zero();
        let mut grad_length = T::zero();
        let density = segment.density;
        let is_dense = density > min_density;
        if is_dense {
            let weight = transmittance * alpha;
            let mut grad_density = T::zero();
            let mut grad_optical = -pending;
            while quantile > segment.reached as usize {
                quantile -= 1;
                let g = grad.depth_scale * grad.depth[quantile];
                grad_entry += g;
                grad_density -= g * (transmittance / quantiles[quantile]).ln() / (density * density);
                pending += g / density;
            }
            let mut difference = T::zero();
            for channel in 0..3 {
                difference += (segment.rgb[channel] - behind[channel]) * grad.rgb[channel];
            }
            let through = T::one() - alpha;
            grad_optical += through * transmittance * (difference + rest * grad.opacity);
            head[3] = grad_density + length * grad_optical;
            grad_length = density * grad_optical;
            for channel in 0..3 {
                behind[channel] = alpha * segment.rgb[channel] + through * behind[channel];
            }
            rest *= through;
            let row = &mut out.rows[cell * stride + HEAD..cell * stride + HEAD + WIDTH];
            if segment.rgb.iter().all(|&channel| channel > T::zero()) {
                for (sum, g) in row.iter_mut().zip(&grad_sh) {
                    *sum = weight.mul_add(*g, *sum);
                }
            } else {
                for channel in (0..3).filter(|&channel| segment.rgb[channel] > T::zero()) {
                    for (sum, g) in row[channel..].iter_mut().zip(&grad_sh[channel..]).step_by(3) {
                        *sum = weight.mul_add(*g, *sum);
                    }
                }
            }
            let max = &mut out.max_weights[cell];
            *max = if weight > *max { weight } else { *max };
        }
        // The exit face moves this segment's end and the next one's beginning.
        let grad_t = grad_length + grad_exit_as_entry;
        grad_exit_as_entry = grad_entry - grad_length;
        let moves = grad_t != T::zero();
        let mut other_head = [T::zero(); HEAD];
        if moves {
            let other = sites[segment.next as usize];
            let (mut along, mut square) = (T::zero(), T::zero());
            for axis in 0..3 {
                let n = other[axis] - site[axis];
                along += n * walker.direction[axis];
                square += n * n;
            }
            let limit = grazing * square.sqrt();
            let scale = grad_t / if along > limit { along } else { limit };
            for axis in 0..3 {
                let x = walker.origin[axis] + segment.t_far * walker.direction[axis];
                head[axis] = scale * (x - site[axis]);
                other_head[axis] = scale * (other[axis] - x);
            }
        }
        if open_cell == segment.next {
            for (sum, value) in open.iter_mut().zip(other_head) {
                *sum += value;
            }
        } else if moves {
            out.add_head(segment.next as usize, other_head);
        }
        if open_cell != u32::MAX {
            out.add_head(open_cell as usize, open);
        }
        (open_cell, open) = if is_dense || moves { (segment.cell, head) } else { (u32::MAX, head) };
    }
    if open_cell != u32::MAX {
        out.add_head(open_cell as usize, open);
    }
}
