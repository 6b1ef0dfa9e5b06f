//! Rays through a radiance foam: emission and absorption along the cells that each ray crosses.
//!
//! A ray enters its start cell at `t = 0` and leaves each cell `i` by the nearest of its faces, the bisector planes
//! to its neighbours. With density `s_i`, length inside `d_i` and colour `c_i(direction)`:
//!
//! ```text
//! alpha_i = 1 - exp(-s_i d_i)      T_i = prod_{j<i} (1 - alpha_j)      w_i = T_i alpha_i
//! rgb     = sum_i w_i c_i          opacity = 1 - T_end                 c_i = max(0, 1/2 + sum_k Y_k sh_ik)
//! depth_q = t_i + ln(T_i / q) / s_i   in the cell where the transmittance falls to q;   -1 if it never does
//! ```
//!
//! The background is not part of the op: `rgb + (1 - opacity) * background` composites over one.
//! A walk ends in an unbounded cell (which stays empty), below the transmittance threshold, or after `max_cells`.
//! It cannot loop, since every cell has a larger projection on the ray than the one before.
//!
//! Source: Govindarajan et al., "Radiant Foam: Real-Time Differentiable Ray Tracing", ICCV 2025, arXiv 2502.01157.
//!
//! **Differentiable** with respect to points, density and SH coefficients, through rgb, opacity and depth, including
//! the motion of every face that a ray crosses. **Not differentiable**: with respect to the rays (origins,
//! directions) and the quantiles; through `contribution` and `cells_entered`; and with respect to which cells are
//! neighbours (the adjacency is an input, and the outputs are continuous where it changes).

mod cpu;
#[cfg(feature = "cuda")]
pub(in crate::ops) mod cuda;
mod faces;
mod grad;
mod real;
mod walk;

pub use grad::RayGradient;
pub use real::Real;

use super::batch;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, DType, Error, Layout, Result, Shape, Storage, Tensor, bail, op::BackpropOp};
use cpu::PACKED_HEAD;
use faces::Faces;
use std::sync::{Arc, OnceLock};
use walk::{Rays, Scene};

/// How far rays are followed, and what counts as empty.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TraceSettings {
    /// A ray ends when its transmittance is no more than this. The reference implementation trains with 0.001.
    pub transmittance_threshold: f64,
    /// A cell whose density is no more than this is empty: it adds nothing and its density and colour get no
    /// gradient. At least 0. The reference implementation uses 1e-6.
    pub density_threshold: f64,
    /// The most cells that a ray enters; a bound on time, which a sound foam does not meet.
    pub max_cells: u32,
    /// The gradient of a face takes the cosine between ray and face normal to be at least this; 0 is exact. The
    /// exact gradient of a face that is merely grazed is unbounded, and one such ray can throw a point out of the
    /// scene.
    pub grazing_cosine: f64,
}

impl Default for TraceSettings {
    fn default() -> Self {
        Self { transmittance_threshold: 1e-3, density_threshold: 1e-6, max_cells: 4096, grazing_cosine: 0.0 }
    }
}

impl TraceSettings {
    /// Checks every setting.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Config`] for the first setting that is out of its range.
    pub fn validate(&self) -> crate::Result<()> {
        for (field, value, most) in [
            ("trace.transmittance_threshold", self.transmittance_threshold, 1.0),
            ("trace.density_threshold", self.density_threshold, f64::INFINITY),
            ("trace.grazing_cosine", self.grazing_cosine, 1.0),
        ] {
            if !(value >= 0.0 && value < most) {
                return Err(crate::Error::config(field, format!("in [0, {most})"), value.to_string()));
            }
        }
        if self.max_cells == 0 {
            return Err(crate::Error::config("trace.max_cells", "at least 1", "0"));
        }
        Ok(())
    }
}

/// The inputs of [`trace_rays`] that are not differentiated.
#[derive(Debug, Clone)]
pub struct TraceInputs {
    /// `[R, 3]`, the dtype of the points, scene units.
    pub origins: Tensor,
    /// `[R, 3]`, unit length (to 1e-3).
    pub directions: Tensor,
    /// `[R]` u32: the cell that holds each origin ([`crate::geometry::nearest_cell`]).
    pub start_cells: Tensor,
    /// `[P + 1]` u32: the neighbours of cell `i` are `neighbors[offsets[i]..offsets[i + 1]]`.
    pub offsets: Tensor,
    /// `[E]` u32, the Delaunay neighbours.
    pub neighbors: Tensor,
    /// `[R, Q]` or none: transmittances in (0, 1), descending along each row, at which depth is wanted.
    pub quantiles: Option<Tensor>,
}

/// What the rays saw.
#[derive(Debug, Clone)]
pub struct Traced {
    /// `[R, 3]`, without background. Differentiable.
    pub rgb: Tensor,
    /// `[R]`, one minus the transmittance at the end. Differentiable.
    pub opacity: Tensor,
    /// `[R, Q]`, distance along the ray at each quantile, -1 where it is not reached. Differentiable.
    pub depth: Option<Tensor>,
    /// `[P]`: the sum over the rays of the weight `w` of each cell. Not differentiable.
    pub contribution: Tensor,
    /// `[R]` u32: how many cells each ray entered. Not differentiable.
    pub cells_entered: Tensor,
}

/// Traces rays through a foam; see the [module](self) for the formulas.
///
/// - `points`: `[P, 3]` f32 or f64, the Voronoi sites, scene units;
/// - `density`: `[P]`, at least 0, in 1 / scene unit;
/// - `sh`: `[P, K, 3]`, K = 1, 4, 9 or 16 coefficients of [`crate::sh::basis`] for red, green and blue.
///
/// The backward pass walks the rays again rather than keep their segments, so that memory does not grow with the
/// number of cells a ray crosses. It runs on four threads at most, since it adds gradients up in four accumulators
/// whatever the number of threads, which makes its result the same for any; the forward pass, which sums contributions
/// in the same way, too.
///
/// # Errors
///
/// A wrong shape or dtype, or a tensor on another device than the points; a start cell or neighbour outside `0..P`;
/// offsets that do not ascend; a quantile outside (0, 1) or out of order; a negative density; a point, density, origin
/// or direction that is not finite; a direction that is not of unit length; neighbours so far apart that the square of
/// their distance overflows. On CUDA f32 only.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_radfoam::ops::{TraceInputs, TraceSettings, trace_rays};
///
/// # fn main() -> candle_core::Result<()> {
/// // Three cells in a row; the ray crosses the middle one from x = 0.5 to x = 1.5.
/// let d = &Device::Cpu;
/// let points = Tensor::new(&[[0f64, 0., 0.], [1., 0., 0.], [2., 0., 0.]], d)?;
/// let density = Tensor::new(&[0f64, 2., 0.], d)?;
/// let inputs = TraceInputs {
///     origins: Tensor::new(&[[0f64, 0., 0.]], d)?,
///     directions: Tensor::new(&[[1f64, 0., 0.]], d)?,
///     start_cells: Tensor::new(&[0u32], d)?,
///     offsets: Tensor::new(&[0u32, 1, 3, 4], d)?,
///     neighbors: Tensor::new(&[1u32, 0, 2, 1], d)?,
///     quantiles: None,
/// };
/// let sh = Tensor::zeros((3, 1, 3), candle_core::DType::F64, d)?; // mid-grey
/// let traced = trace_rays(&points, &density, &sh, &inputs, &TraceSettings::default())?;
/// let opacity = 1.0 - (-2.0f64 * 1.0).exp();
/// assert!((traced.opacity.to_vec1::<f64>()?[0] - opacity).abs() < 1e-12);
/// assert!((traced.rgb.to_vec2::<f64>()?[0][1] - 0.5 * opacity).abs() < 1e-12);
/// # Ok(())
/// # }
/// ```
pub fn trace_rays(
    points: &Tensor,
    density: &Tensor,
    sh: &Tensor,
    inputs: &TraceInputs,
    settings: &TraceSettings,
) -> Result<Traced> {
    settings.validate().map_err(Error::wrap)?;
    let num_cells = match points.dims() {
        &[num_cells, 3] if matches!(points.dtype(), DType::F32 | DType::F64) => num_cells,
        dims => bail!("trace_rays: points: expected F32 or F64 [P, 3], found {:?} {dims:?}", points.dtype()),
    };
    if density.dims() != [num_cells] {
        bail!("trace_rays: density: expected [{num_cells}], found {:?}", density.shape());
    }
    let num_coefficients = match sh.dims() {
        &[p, k, 3] if p == num_cells && crate::sh::degree_of(k).is_some() => k,
        _ => bail!("trace_rays: sh: expected [{num_cells}, 1 | 4 | 9 | 16, 3], found {:?}", sh.shape()),
    };
    batch::check_vector::<u32>("start_cells", &inputs.start_cells, None)?;
    batch::check_vector::<u32>("offsets", &inputs.offsets, Some(num_cells + 1))?;
    batch::check_vector::<u32>("neighbors", &inputs.neighbors, None)?;
    let num_rays = inputs.start_cells.elem_count();
    for (name, tensor) in [("origins", &inputs.origins), ("directions", &inputs.directions)] {
        if tensor.dims() != [num_rays, 3] {
            bail!("trace_rays: {name}: expected [{num_rays}, 3], found {:?}", tensor.shape());
        }
    }
    let num_quantiles = match &inputs.quantiles {
        Some(quantiles) => match quantiles.dims() {
            &[r, q] if r == num_rays => q,
            _ => bail!("trace_rays: quantiles: expected [{num_rays}, Q], found {:?}", quantiles.shape()),
        },
        None => 0,
    };
    let floats = [("density", density), ("sh", sh), ("origins", &inputs.origins), ("directions", &inputs.directions)];
    let floats = || floats.into_iter().chain(inputs.quantiles.as_ref().map(|q| ("quantiles", q)));
    for (name, tensor) in floats() {
        if tensor.dtype() != points.dtype() {
            bail!("trace_rays: {name}: expected dtype {:?} of the points, found {:?}", points.dtype(), tensor.dtype());
        }
    }
    let indices =
        [("start_cells", &inputs.start_cells), ("offsets", &inputs.offsets), ("neighbors", &inputs.neighbors)];
    for (name, tensor) in floats().chain(indices) {
        if !tensor.device().same_device(points.device()) {
            let (expected, found) = (points.device(), tensor.device());
            bail!("trace_rays: {name}: expected the device of the points, {expected:?}, found {found:?}");
        }
    }
    let side = SideOutputs::default();
    let op = TraceRays {
        inputs: inputs.clone(),
        settings: settings.clone(),
        num_coefficients,
        num_quantiles,
        side: side.clone(),
        #[cfg(feature = "cuda")]
        saved: OnceLock::new(),
    };
    let packed = points.contiguous()?.apply_op3(&density.contiguous()?, &sh.contiguous()?, op)?;
    let Some((contribution, cells_entered)) = side.get().cloned() else {
        bail!("trace_rays: the forward pass left no statistics")
    };
    Ok(Traced {
        rgb: packed.narrow(1, 0, 3)?,
        opacity: packed.narrow(1, 3, 1)?.squeeze(1)?,
        depth: if num_quantiles > 0 { Some(packed.narrow(1, PACKED_HEAD, num_quantiles)?) } else { None },
        contribution,
        cells_entered,
    })
}

/// The outputs that carry no gradient, handed past Candle's one tensor per op.
type SideOutputs = Arc<OnceLock<(Tensor, Tensor)>>;

struct TraceRays {
    inputs: TraceInputs,
    settings: TraceSettings,
    num_coefficients: usize,
    num_quantiles: usize,
    side: SideOutputs,
    /// What the forward pass leaves on the device for the backward pass.
    #[cfg(feature = "cuda")]
    saved: OnceLock<cuda::Saved>,
}

/// The inputs as the bodies read them, checked: copies on the host, and the faces where the points are now.
struct Host<T> {
    origins: Vec<T>,
    directions: Vec<T>,
    start_cells: Vec<u32>,
    quantiles: Vec<T>,
    faces: Faces<T>,
}

impl TraceRays {
    fn host<T: Real>(&self, points: &[T], density: &[T]) -> Result<Host<T>> {
        let num_cells = density.len();
        let flat = |t: &Tensor| t.flatten_all()?.to_vec1::<T>();
        let offsets = self.inputs.offsets.to_vec1::<u32>()?;
        let neighbors = self.inputs.neighbors.to_vec1::<u32>()?;
        let start_cells = self.inputs.start_cells.to_vec1::<u32>()?;
        check_adjacency(&offsets, &neighbors)?;
        if let Some(ray) = start_cells.iter().position(|&c| c as usize >= num_cells) {
            bail!("trace_rays: start_cells: expected below {num_cells}, found {} at ray {ray}", start_cells[ray]);
        }
        if let Some(i) = density.iter().position(|&d| !(d >= T::zero() && d < T::infinity())) {
            bail!("trace_rays: density: expected finite and at least 0, found {} at cell {i}", density[i]);
        }
        let (origins, directions) = (flat(&self.inputs.origins)?, flat(&self.inputs.directions)?);
        for (name, values) in [("points", points), ("origins", &origins), ("directions", &directions)] {
            if let Some(i) = values.iter().position(|x| !x.is_finite()) {
                bail!("trace_rays: {name}: expected finite values, found {} in row {}", values[i], i / 3);
            }
        }
        check_unit_length(&directions)?;
        let quantiles = self.inputs.quantiles.as_ref().map_or(Ok(Vec::new()), flat)?;
        for row in quantiles.chunks(self.num_quantiles.max(1)) {
            let inside = row.iter().all(|&q| q > T::zero() && q < T::one());
            if !inside || row.windows(2).any(|pair| pair[0] < pair[1]) {
                bail!("trace_rays: quantiles: expected descending in (0, 1), found {row:?}");
            }
        }
        let mut faces = Faces::new(&offsets, &neighbors);
        faces.refresh(points, density, &[]);
        if let Some(cell) = faces.first_overflow() {
            bail!(
                "trace_rays: points: expected neighbours whose squared distance is finite, found others at cell {cell}"
            );
        }
        Ok(Host { origins, directions, start_cells, quantiles, faces })
    }

    fn scene<'a, T: Real>(&self, host: &'a Host<T>, sh: &'a [T]) -> (Scene<'a, T>, Rays<'a, T>) {
        (
            Scene { faces: &host.faces, sh, num_coefficients: self.num_coefficients },
            Rays {
                origins: &host.origins,
                directions: &host.directions,
                start_cells: &host.start_cells,
                quantiles: &host.quantiles,
                num_quantiles: self.num_quantiles,
            },
        )
    }

    fn forward<T: Real>(&self, points: &[T], density: &[T], sh: &[T]) -> Result<(CpuStorage, Shape)> {
        let host = self.host(points, density)?;
        let (scene, rays) = self.scene(&host, sh);
        let outputs = cpu::forward(&scene, &rays, &self.settings, true);
        let (num_rays, width) = (rays.len(), PACKED_HEAD + self.num_quantiles);
        let tensor = |storage, len: usize| Tensor::from_storage(Storage::Cpu(storage), len, BackpropOp::none(), false);
        let contribution: Vec<T> = outputs.weights;
        let side = (
            tensor(T::to_cpu_storage_owned(contribution), density.len()),
            tensor(CpuStorage::U32(outputs.cells_entered), num_rays),
        );
        if self.side.set(side).is_err() {
            bail!("trace_rays: the forward pass of one call ran twice");
        }
        Ok((T::to_cpu_storage_owned(outputs.packed), Shape::from((num_rays, width))))
    }

    fn backward<T: Real>(&self, points: &Tensor, density: &Tensor, sh: &Tensor, grad: &Tensor) -> Result<[Tensor; 3]> {
        let flat = |t: &Tensor| t.flatten_all()?.to_vec1::<T>();
        let (points_host, density_host, sh_host) = (flat(points)?, flat(density)?, flat(sh)?);
        let grad = flat(&grad.contiguous()?)?;
        let host = self.host(&points_host, &density_host)?;
        let (scene, rays) = self.scene(&host, &sh_host);
        let width = PACKED_HEAD + self.num_quantiles;
        let mut workspace = cpu::Workspace::default();
        let num_cells = density_host.len();
        let (_, gradients) =
            cpu::forward_backward(&scene, &rays, &self.settings, num_cells, &mut workspace, |ray, _| {
                let row = &grad[ray * width..(ray + 1) * width];
                RayGradient {
                    rgb: [row[0], row[1], row[2]],
                    opacity: row[3],
                    depth: &row[PACKED_HEAD..],
                    depth_scale: T::one(),
                }
            });
        let device = points.device();
        Ok([
            Tensor::from_vec(gradients.points, points.shape(), device)?,
            Tensor::from_vec(gradients.density, density.shape(), device)?,
            Tensor::from_vec(gradients.sh, sh.shape(), device)?,
        ])
    }
}

/// Checks that directions (`[R, 3]`) have unit length.
fn check_unit_length<T: Real>(directions: &[T]) -> Result<()> {
    /// Rounding leaves far less; a direction that was not normalised at all is off by more.
    const TOLERANCE: f64 = 1e-3;
    let length = |d: &[T; 3]| (d[0] * d[0] + d[1] * d[1] + d[2] * d[2]).sqrt();
    let (rows, _) = directions.as_chunks::<3>();
    let is_off = |d: &[T; 3]| (length(d) - T::one()).abs() > T::of(TOLERANCE);
    if let Some(ray) = rows.iter().position(is_off) {
        bail!("trace_rays: directions: expected unit length, found {} at ray {ray}", length(&rows[ray]));
    }
    Ok(())
}

/// Checks that a CSR adjacency can be walked.
pub(crate) fn check_adjacency(offsets: &[u32], neighbors: &[u32]) -> Result<()> {
    let num_cells = offsets.len().saturating_sub(1);
    let ascending = offsets.windows(2).all(|pair| pair[0] <= pair[1]);
    if offsets.first() != Some(&0) || offsets.last().map(|&e| e as usize) != Some(neighbors.len()) || !ascending {
        bail!("trace_rays: offsets: expected ascending from 0 to {}, found otherwise", neighbors.len());
    }
    if let Some(e) = neighbors.iter().position(|&j| j as usize >= num_cells) {
        bail!("trace_rays: neighbors: expected below {num_cells}, found {} at edge {e}", neighbors[e]);
    }
    Ok(())
}

impl CustomOp3 for TraceRays {
    fn name(&self) -> &'static str {
        "trace-rays"
    }

    fn cpu_fwd(
        &self,
        points: &CpuStorage,
        points_layout: &Layout,
        density: &CpuStorage,
        density_layout: &Layout,
        sh: &CpuStorage,
        sh_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        match points {
            CpuStorage::F32(_) => self.forward::<f32>(
                batch::view("points", points, points_layout)?,
                batch::view("density", density, density_layout)?,
                batch::view("sh", sh, sh_layout)?,
            ),
            CpuStorage::F64(_) => self.forward::<f64>(
                batch::view("points", points, points_layout)?,
                batch::view("density", density, density_layout)?,
                batch::view("sh", sh, sh_layout)?,
            ),
            other => bail!("trace_rays: points: expected f32 or f64, found {:?}", other.dtype()),
        }
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        points: &candle_core::CudaStorage,
        points_layout: &Layout,
        density: &candle_core::CudaStorage,
        density_layout: &Layout,
        sh: &candle_core::CudaStorage,
        sh_layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        cuda::forward(self, (points, points_layout), (density, density_layout), (sh, sh_layout))
    }

    fn bwd(
        &self,
        points: &Tensor,
        density: &Tensor,
        sh: &Tensor,
        packed: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        #[cfg(feature = "cuda")]
        if points.device().is_cuda() {
            let [points, density, sh] = cuda::backward(self, sh, packed, grad)?;
            return Ok((Some(points), Some(density), Some(sh)));
        }
        let _ = packed;
        let [points, density, sh] = match points.dtype() {
            DType::F64 => self.backward::<f64>(points, density, sh, grad)?,
            _ => self.backward::<f32>(points, density, sh, grad)?,
        };
        Ok((Some(points), Some(density), Some(sh)))
    }
}

/// The pieces of the op for callers that take the gradient of their loss ray by ray, as the trainer does: the
/// segments of a ray are then used while they are in cache, and the rays walked once instead of twice.
pub mod fused {
    pub(crate) use super::check_adjacency;
    pub use super::cpu::{Gradients, Outputs, PACKED_HEAD, Workspace, forward, forward_backward};
    pub use super::faces::Faces;
    pub use super::walk::{Rays, Scene};
}
