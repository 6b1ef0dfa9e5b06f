//! The radiance foam: its parameters, its cells' adjacency, how it starts, how it is refined and rendered.

mod compact;
mod init;
mod refine;
mod render;
mod scene;
mod state;
mod topology;

pub use crate::geometry::NUM_SENTINELS;
pub use compact::ShPrecision;
pub use init::{InitConfig, InitialCells, initial_cells};
pub use refine::{RefineConfig, RefineStatistics, RowMap};
pub use render::{Renderer, Rendering};
pub use topology::Topology;

use crate::ops::{self, TraceInputs, TraceSettings, Traced};
use crate::{Error, Result};
use candle_core::{DType, Device, Storage, Tensor, Var, WithDType};
use rayon::prelude::*;

/// The steepness of the softplus that makes a density of a raw density. At 10 a raw density of 1 is a density of 1
/// and one of -1 is 5e-6 (times the scale); the reference implementation's value.
pub(crate) const SOFTPLUS_BETA: f64 = 10.0;

/// How far the sentinels stand, in scene units. The cameras lie in the unit ball.
const SENTINEL_RADIUS: f32 = 300.0;

/// A radiance foam: the parameters as Candle variables, and the adjacency of their cells.
///
/// | parameter | shape | meaning |
/// |---|---|---|
/// | `points` | `[P, 3]` f32 | Voronoi sites, scene units |
/// | `raw_density` | `[P]` f32 | `density = density_scale * softplus(raw)`, `softplus(x) = ln(1 + e^(10 x)) / 10` |
/// | `sh` | `[P, K, 3]` f32 | coefficients of [`crate::sh::basis`] for red, green and blue |
///
/// Usable without the trainer, the Candle way: [`Foam::trace`] gives tensors, a loss made of Candle's ops goes
/// through `backward()`, any [`candle_nn::Optimizer`] steps [`Foam::vars`], and [`Foam::maintain`] follows the points.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_radfoam::{foam::{Foam, InitConfig, initial_cells}, ops::TraceSettings};
///
/// # fn main() -> candle_radfoam::Result<()> {
/// let config = InitConfig { num_cells: 300, ..InitConfig::default() };
/// let foam = Foam::new(initial_cells(&config, 0.4, None, &[], 0)?, 1, 30.0, &Device::Cpu)?;
/// let origins = Tensor::new(&[[0f32, 0., -1.]], &Device::Cpu)?;
/// let directions = Tensor::new(&[[0f32, 0., 1.]], &Device::Cpu)?;
/// let traced = foam.trace(&origins, &directions, None, &TraceSettings::default())?;
/// let gradients = traced.rgb.sum_all()?.backward()?;
/// assert!(gradients.get(foam.points()).is_some());
/// # Ok(())
/// # }
/// ```
///
/// Not `Clone`: a cloned [`Var`] is the same variable. [`Foam::deep_clone`] copies.
#[derive(Debug)]
pub struct Foam {
    points: Var,
    raw_density: Var,
    sh: Var,
    density_scale: f64,
    topology: Topology,
}

impl Foam {
    /// A foam of the given cells, with SH colours of degree `sh_degree` (0 to 3) and densities in units of
    /// `density_scale` per scene unit.
    ///
    /// # Errors
    ///
    /// No cells; arrays of different lengths; a degree above 3; points that are not finite.
    pub fn new(cells: InitialCells, sh_degree: usize, density_scale: f64, device: &Device) -> Result<Self> {
        let num_cells = cells.points.len();
        if num_cells == 0 || cells.raw_density.len() != num_cells || cells.colors.len() != num_cells {
            return Err(Error::tensor(
                "foam.points",
                "at least one cell, and a density and a colour for each",
                format!("{num_cells} points, {} densities, {} colours", cells.raw_density.len(), cells.colors.len()),
            ));
        }
        if sh_degree > crate::sh::MAX_DEGREE {
            return Err(Error::config("sh_degree", "0 to 3", sh_degree.to_string()));
        }
        let num_coefficients = crate::sh::num_coefficients(sh_degree);
        let mut sh = vec![0f32; num_cells * num_coefficients * 3];
        for (row, color) in sh.chunks_exact_mut(num_coefficients * 3).zip(&cells.colors) {
            for (coefficient, channel) in row.iter_mut().zip(color) {
                *coefficient = (channel - 0.5) / crate::sh::Y0 as f32;
            }
        }
        Self::from_parts(
            Tensor::from_vec(cells.points.concat(), (num_cells, 3), device)?,
            Tensor::from_vec(cells.raw_density, num_cells, device)?,
            Tensor::from_vec(sh, (num_cells, num_coefficients, 3), device)?,
            density_scale,
            Topology::build(&cells.points, SENTINEL_RADIUS)?,
        )
    }

    /// A foam with copies of parameters that exist already, with the topology that belongs to them.
    ///
    /// # Errors
    ///
    /// Shapes that do not match one another or the topology; values that are not finite.
    pub fn from_parts(
        points: Tensor,
        raw_density: Tensor,
        sh: Tensor,
        density_scale: f64,
        topology: Topology,
    ) -> Result<Self> {
        let num_cells = topology.num_cells();
        let wrong = |name: &str, expected: String, found: &Tensor| {
            Err(Error::tensor(name, expected, format!("{:?} {:?}", found.dtype(), found.dims())))
        };
        if points.dims() != [num_cells, 3] || points.dtype() != DType::F32 {
            return wrong("foam.points", format!("F32 [{num_cells}, 3]"), &points);
        }
        if raw_density.dims() != [num_cells] || raw_density.dtype() != DType::F32 {
            return wrong("foam.raw_density", format!("F32 [{num_cells}]"), &raw_density);
        }
        match sh.dims() {
            &[p, k, 3] if p == num_cells && crate::sh::degree_of(k).is_some() && sh.dtype() == DType::F32 => {}
            _ => return wrong("foam.sh", format!("F32 [{num_cells}, 1 | 4 | 9 | 16, 3]"), &sh),
        }
        for (name, tensor) in [("foam.points", &points), ("foam.raw_density", &raw_density), ("foam.sh", &sh)] {
            let bad = tensor.flatten_all()?.to_vec1::<f32>()?.iter().filter(|x| !x.is_finite()).count();
            if bad > 0 {
                return Err(Error::tensor(name, "finite values", format!("{bad} that are not")));
            }
        }
        if !(density_scale > 0.0 && density_scale.is_finite()) {
            return Err(Error::config("density_scale", "positive", density_scale.to_string()));
        }
        Ok(Self {
            // Detached, since `Var::from_tensor` copies any tensor but a variable, which it would alias.
            points: Var::from_tensor(&points.detach())?,
            raw_density: Var::from_tensor(&raw_density.detach())?,
            sh: Var::from_tensor(&sh.detach())?,
            density_scale,
            topology,
        })
    }

    /// A foam with the same values in variables of its own.
    ///
    /// # Errors
    ///
    /// Those of Candle.
    pub fn deep_clone(&self) -> Result<Self> {
        Ok(Self {
            points: Var::from_tensor(&self.points.detach())?,
            raw_density: Var::from_tensor(&self.raw_density.detach())?,
            sh: Var::from_tensor(&self.sh.detach())?,
            density_scale: self.density_scale,
            topology: self.topology.clone(),
        })
    }

    /// As [`Foam::deep_clone`], on `device`.
    ///
    /// # Errors
    ///
    /// Those of Candle, as of a device without memory for it.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        let on_device = |var: &Var| -> Result<Var> { Ok(Var::from_tensor(&ops::moved(&var.detach(), device)?)?) };
        Ok(Self {
            points: on_device(&self.points)?,
            raw_density: on_device(&self.raw_density)?,
            sh: on_device(&self.sh)?,
            density_scale: self.density_scale,
            topology: self.topology.clone(),
        })
    }

    /// The number of cells, sentinels apart.
    pub fn num_cells(&self) -> usize {
        self.topology.num_cells()
    }

    /// K, the number of SH coefficients of a channel.
    pub fn num_coefficients(&self) -> usize {
        self.sh.dims()[1]
    }

    /// `[P, 3]`, the sites.
    pub fn points(&self) -> &Var {
        &self.points
    }

    /// `[P]`, densities before activation.
    pub fn raw_density(&self) -> &Var {
        &self.raw_density
    }

    /// `[P, K, 3]`, colour coefficients.
    pub fn sh(&self) -> &Var {
        &self.sh
    }

    /// Density, in 1 / scene unit, of a softplus of 1.
    pub fn density_scale(&self) -> f64 {
        self.density_scale
    }

    /// The adjacency of the cells.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// All parameters, by name.
    pub fn named_vars(&self) -> [(&'static str, &Var); 3] {
        [("points", &self.points), ("raw_density", &self.raw_density), ("sh", &self.sh)]
    }

    /// All parameters, as an optimiser of Candle takes them.
    pub fn vars(&self) -> Vec<Var> {
        self.named_vars().into_iter().map(|(_, var)| var.clone()).collect()
    }

    /// `[P]`: `density_scale * ln(1 + e^(10 raw)) / 10`, part of the graph.
    ///
    /// # Errors
    ///
    /// Those of Candle.
    pub fn density(&self) -> Result<Tensor> {
        // ln(1 + e^z) = max(z, 0) + ln(1 + e^-|z|) does not overflow.
        let z = (self.raw_density.as_tensor() * SOFTPLUS_BETA)?;
        let e = z.abs()?.neg()?.exp()?;
        let sum = (&e + 1.0)?;
        // What rounding took from the sum: a density near zero would be little else than its error.
        let lost = (e - (&sum - 1.0)?)?.detach();
        let softplus = (z.relu()? + (sum.log()? + lost.div(&sum)?)?)?;
        Ok((softplus * (self.density_scale / SOFTPLUS_BETA))?)
    }

    /// Traces rays as part of Candle's graph; see [`ops::trace_rays`].
    ///
    /// - `origins`, `directions`: `[R, 3]` f32, scene units, directions of unit length;
    /// - `quantiles`: `[R, Q]` transmittances at which depth is wanted.
    ///
    /// # Errors
    ///
    /// Origins of another shape or dtype; those of [`ops::trace_rays`].
    pub fn trace(
        &self,
        origins: &Tensor,
        directions: &Tensor,
        quantiles: Option<&Tensor>,
        settings: &TraceSettings,
    ) -> Result<Traced> {
        let device = self.points.device();
        let sites = self.sites()?;
        let num_rays = match origins.dims() {
            &[num_rays, 3] if origins.dtype() == DType::F32 => num_rays,
            dims => return Err(Error::tensor("origins", "F32 [R, 3]", format!("{:?} {dims:?}", origins.dtype()))),
        };
        let mut hint = 0;
        let start_cells: Vec<u32> = origins
            .flatten_all()?
            .to_vec1::<f32>()?
            .as_chunks::<3>()
            .0
            .iter()
            .map(|&origin| {
                hint = self.topology.cell_at(&sites, origin, hint);
                hint
            })
            .collect();
        let adjacency = self.topology.adjacency();
        let inputs = TraceInputs {
            origins: origins.clone(),
            directions: directions.clone(),
            start_cells: Tensor::from_vec(start_cells, num_rays, device)?,
            offsets: Tensor::from_slice(&adjacency.offsets, adjacency.offsets.len(), device)?,
            neighbors: Tensor::from_slice(&adjacency.neighbors, adjacency.neighbors.len(), device)?,
            quantiles: quantiles.cloned(),
        };
        let sentinels = Tensor::from_slice(self.topology.sentinels().as_flattened(), (NUM_SENTINELS, 3), device)?;
        let points = Tensor::cat(&[self.points.as_tensor(), &sentinels], 0)?;
        let density = self.density()?.pad_with_zeros(0, 0, NUM_SENTINELS)?;
        let sh = self.sh.pad_with_zeros(0, 0, NUM_SENTINELS)?;
        let mut traced = ops::trace_rays(&points, &density, &sh, &inputs, settings)?;
        traced.contribution = traced.contribution.narrow(0, 0, self.num_cells())?;
        Ok(traced)
    }

    /// Brings the adjacency up to date if more than `share` of the points have moved by more than `limit` times the distance to
    /// their nearest neighbour since the last triangulation. Returns whether it did.
    ///
    /// # Errors
    ///
    /// Points that are not finite or have left the sentinels.
    pub fn maintain(&mut self, limit: f32, share: f32) -> Result<bool> {
        let points = self.points_host()?;
        if self.topology.moved_share(&points, limit) <= share {
            return Ok(false);
        }
        self.topology.follow(&points, SENTINEL_RADIUS)?;
        Ok(true)
    }

    /// The points on the host.
    ///
    /// # Errors
    ///
    /// Those of Candle.
    pub fn points_host(&self) -> Result<Vec<[f32; 3]>> {
        with_values(&self.points, |values: &[f32]| values.as_chunks::<3>().0.to_vec())
    }

    /// The points where they are now, with the sentinels behind them.
    pub(crate) fn sites(&self) -> Result<Vec<[f32; 3]>> {
        let mut sites = self.points_host()?;
        sites.extend(self.topology.sentinels());
        Ok(sites)
    }

    /// The activated densities and their derivatives by the raw ones, on the host: the values of [`Foam::density`] to a
    /// few units in the last place, as the trainer takes them.
    ///
    /// # Errors
    ///
    /// Those of Candle.
    pub fn density_host(&self) -> Result<(Vec<f32>, Vec<f32>)> {
        /// Cells that one thread looks at, at a time.
        const CHUNK: usize = 4096;
        let (scale, beta) = (self.density_scale as f32, SOFTPLUS_BETA as f32);
        with_values(&self.raw_density, |raw: &[f32]| {
            let (mut density, mut derivative) = (vec![0.0; raw.len()], vec![0.0; raw.len()]);
            let parts = (density.par_chunks_mut(CHUNK), derivative.par_chunks_mut(CHUNK), raw.par_chunks(CHUNK));
            parts.into_par_iter().for_each(|(density, derivative, raw)| {
                for ((density, derivative), &raw) in density.iter_mut().zip(derivative).zip(raw) {
                    let z = beta * raw;
                    let e = exp_of_negative(-z.abs());
                    *density = scale * (z.max(0.0) + ln_1p_of_share(e)) / beta;
                    *derivative = scale * (if z > 0.0 { 1.0 } else { e } / (1.0 + e));
                }
            });
            (density, derivative)
        })
    }
}

/// `e^x` of an x of at most 0, without a call or a branch, so that a loop over it is vector code. Cephes' polynomial;
/// within 2 epsilon, down to 1e-38, which stands for all that is less.
#[inline(always)]
fn exp_of_negative(x: f32) -> f32 {
    /// Beyond it the power of two would leave the normal floats.
    const LEAST: f32 = -87.0;
    /// 1.5 * 2^23: a float of this size has no digits after the point, so that adding it rounds.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts, the first of few digits.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    const SERIES: [f32; 6] = [1.987_569_1e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_6e-1, 0.5];
    let x = if x < LEAST { LEAST } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN_2[0]) - n * LN_2[1];
    let series = SERIES[1..].iter().fold(SERIES[0], |sum, &term| sum * r + term);
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1f32.to_bits()));
    power * (1.0 + (r + r * r * series))
}

/// `ln(1 + e)` of an e in [0, 1], likewise: `2 artanh(s)` with `s = e / (2 + e)`, of which eight terms are enough for
/// an s of at most 1/3. Small ones keep their relative precision.
#[inline(always)]
fn ln_1p_of_share(e: f32) -> f32 {
    let s = e / (2.0 + e);
    let square = s * s;
    let series = [13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0].iter().fold(1.0 / 15.0, |sum, &k: &f32| sum * square + 1.0 / k);
    2.0 * s * series
}

/// Gives `read` the values of a contiguous tensor: without a copy on the CPU, read back from a device.
pub(crate) fn with_values<T: WithDType, R>(tensor: &Tensor, read: impl FnOnce(&[T]) -> R) -> Result<R> {
    if tensor.device().is_cuda() {
        return with_values(&ops::moved(tensor, &Device::Cpu)?, read);
    }
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(storage), Some((start, end))) => Ok(read(&storage.as_slice::<T>()?[start..end])),
        _ => Err(Error::tensor("parameter", "a contiguous tensor on the CPU", format!("{:?}", tensor.device()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softplus_without_calls_is_that_of_double_precision() {
        let (mut worst_exp, mut worst_ln) = (0f64, 0f64);
        for i in 0..1_000_000u32 {
            let x = -87.0 * (f64::from(i) / 1e6) as f32;
            let e = exp_of_negative(x);
            worst_exp = worst_exp.max((f64::from(e) / f64::from(x).exp() - 1.0).abs());
            worst_ln = worst_ln.max((f64::from(ln_1p_of_share(e)) / f64::from(e).ln_1p() - 1.0).abs());
        }
        let epsilon = f64::from(f32::EPSILON);
        assert!(worst_exp < 2.0 * epsilon && worst_ln < 2.0 * epsilon, "{worst_exp} {worst_ln}");
        assert_eq!((exp_of_negative(0.0), ln_1p_of_share(0.0)), (1.0, 0.0));
        assert!(exp_of_negative(f32::NEG_INFINITY) < 2e-38 && exp_of_negative(f32::NAN).is_nan());
    }
}
