//! The backward pass of one ray, over its recorded segments from the last to the first.

use super::walk::{Scene, Walker, prefetch};
use super::{Real, TraceSettings};

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

/// Gradient rows `[x, y, z, density, sh..]` of every cell, one cache line each at degree 1.
#[derive(Debug, Clone)]
pub(crate) struct GradientRows<T> {
    pub rows: Vec<T>,
    pub stride: usize,
    /// Sum and maximum over the rays of the weight `w = T alpha` with which each cell entered a colour.
    pub weights: Vec<[T; 2]>,
}

/// Values before the SH coefficients of a row.
pub(crate) const HEAD: usize = 4;

impl<T: Real> GradientRows<T> {
    pub fn new(num_cells: usize, num_coefficients: usize) -> Self {
        // A multiple of 16 floats keeps rows on cache lines; degree 0 fits into half a line.
        let used = HEAD + 3 * num_coefficients;
        let stride = if used <= 8 { 8 } else { used.next_multiple_of(16) };
        Self { rows: vec![T::zero(); num_cells * stride], stride, weights: vec![[T::zero(); 2]; num_cells] }
    }
}

/// Segments between asking for a cell's gradient row and adding to it.
const LOOK_AHEAD: usize = 4;

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
    let mut behind = [T::zero(); 3];
    let mut rest = T::one();
    // Gradient of the face distance shared by this segment's exit and the next segment's entry.
    let mut grad_exit_as_entry = T::zero();
    // Sum of grad / density over the quantiles reached further along.
    let mut pending = T::zero();
    let mut quantile = walker.reached.min(grad.depth.len());
    for (i, segment) in walker.segments.iter().enumerate().rev() {
        let cell = segment.cell as usize;
        if i >= LOOK_AHEAD {
            let ahead = walker.segments[i - LOOK_AHEAD].cell as usize;
            prefetch(&out.rows[ahead * stride]);
            prefetch(&out.weights[ahead]);
        }
        let site = sites[cell];
        let (alpha, transmittance) = (segment.alpha, segment.transmittance);
        let length = segment.t_far - segment.t_near;
        let mut grad_entry = T::zero();
        let mut grad_length = T::zero();
        if site[3] > min_density {
            let density = site[3];
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
            grad_optical += (T::one() - alpha) * transmittance * (difference + rest * grad.opacity);
            grad_density += length * grad_optical;
            grad_length = density * grad_optical;
            for channel in 0..3 {
                behind[channel] = alpha * segment.rgb[channel] + (T::one() - alpha) * behind[channel];
            }
            rest *= T::one() - alpha;
            let row = &mut out.rows[cell * stride..(cell + 1) * stride];
            row[3] += grad_density;
            let mut grad_rgb = [T::zero(); 3];
            for channel in 0..3 {
                if segment.rgb[channel] > T::zero() {
                    grad_rgb[channel] = weight * grad.rgb[channel];
                }
            }
            let mut channels = [T::zero(); WIDTH];
            for triple in channels.chunks_exact_mut(3) {
                triple.copy_from_slice(&grad_rgb);
            }
            for ((coefficient, y), g) in row[HEAD..HEAD + WIDTH].iter_mut().zip(&walker.basis).zip(&channels) {
                *coefficient += *y * *g;
            }
            let [sum, max] = &mut out.weights[cell];
            *sum += weight;
            *max = if weight > *max { weight } else { *max };
        }
        // The exit face moves this segment's end and the next one's beginning.
        let grad_t = grad_length + grad_exit_as_entry;
        grad_exit_as_entry = grad_entry - grad_length;
        if grad_t != T::zero() {
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
                out.rows[cell * stride + axis] += scale * (x - site[axis]);
                out.rows[segment.next as usize * stride + axis] += scale * (other[axis] - x);
            }
        }
    }
}
