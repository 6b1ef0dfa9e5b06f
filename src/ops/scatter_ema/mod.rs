//! The update of an error map: an exponential moving average (EMA), scattered.
//!
//! For each element of the batch, in batch order, duplicates included:
//!
//! `map[i] <- decay * map[i] + (1 - decay) * value`
//!
//! A plain `map[indices] = ...` keeps only one arbitrary write of each duplicate; here every observation counts, and
//! the result has the same bits as the sequential loop for any number of threads. The sign bit marks an entry that
//! was never visited: its first observation replaces it, whatever its magnitude. Not differentiable.
//!
//! [`Duplicates::Mean`] enters the mean of an entry's values instead, in one step that weighs as much.

pub(super) mod cpu;
#[cfg(feature = "cuda")]
pub(super) mod cuda;

use std::{iter::Sum, ops::Add, sync::OnceLock};

use candle_core::{CpuStorage, DType, InplaceOp3, Layout, Result, Tensor, bail};

use super::batch;

/// What happens where a batch has several values for one entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Duplicates {
    /// They enter one after the other, in batch order: the loop over the batch.
    #[default]
    Sequential,
    /// Their mean enters once, with the weight that all of them have in the loop:
    /// `map[i] <- decay^m * map[i] + (1 - decay^m) * mean(v)` for `m` values. Whatever their order, but for rounding in
    /// f64. The first visit of an entry takes the mean of its values.
    Mean,
}

/// How [`scatter_ema`] enters values. A plain number is the decay, with the default for the rest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScatterSettings {
    /// The share of the old value that is kept, in `[0, 1]`.
    pub decay: f64,
    /// What happens where a batch has several values for one entry.
    pub duplicates: Duplicates,
}

impl From<f64> for ScatterSettings {
    fn from(decay: f64) -> Self {
        Self { decay, duplicates: Duplicates::default() }
    }
}

/// What a scatter-EMA did with the values it was given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScatterStats {
    /// Values that entered the map.
    pub updated: usize,
    /// How many of those were the first observation of their entry.
    pub first_visits: usize,
    /// Values that were NaN or infinite and left the map as it was.
    pub skipped_non_finite: usize,
    /// Negative values, which entered as 0.
    pub negative: usize,
    /// Values above the cap of an [`ErrorMap`](super::ErrorMap), which entered as the cap; 0 where there is none.
    pub capped: usize,
}

impl Add for ScatterStats {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            updated: self.updated + other.updated,
            first_visits: self.first_visits + other.first_visits,
            skipped_non_finite: self.skipped_non_finite + other.skipped_non_finite,
            negative: self.negative + other.negative,
            capped: self.capped + other.capped,
        }
    }
}

impl Sum for ScatterStats {
    fn sum<I: Iterator<Item = Self>>(stats: I) -> Self {
        stats.fold(Self::default(), Add::add)
    }
}

/// Moves `map[indices[k]]` towards `values[k]`, for every `k` in batch order and in place.
///
/// `map[i] <- decay * map[i] + (1 - decay) * v`, with the arithmetic of the map's dtype; an entry whose sign bit is
/// set (-0.0 included) takes its first value as it is. NaN and infinite values are skipped and counted, negative
/// ones enter as 0 and are counted. Entries are taken as they are: one that is NaN or infinite already (no update makes
/// one) does not become finite, unless its sign bit is set; [`ErrorMap`](super::ErrorMap) refuses such a map.
///
/// - `map`: `[N]` f32 or f64 (f32 on CUDA), contiguous (a contiguous part of a larger tensor, as `narrow` gives, is
///   updated where it lies);
/// - `indices`: `[B]` u32, in any order, duplicates allowed (ascending is fastest; on CUDA others are sorted on the
///   host);
/// - `values`: `[B]` of the map's dtype;
/// - `settings`: the decay, in `[0, 1]`, or a [`ScatterSettings`].
///
/// # Errors
///
/// On a wrong shape, dtype, device, layout or decay, on arguments that share the map's memory, and on an index outside
/// the map. The map is then unchanged.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_radfoam::ops::scatter_ema;
///
/// # fn main() -> candle_core::Result<()> {
/// let map = Tensor::new(&[1.0f32, -0.0, 0.5], &Device::Cpu)?; // the second entry was never visited
/// let indices = Tensor::new(&[0u32, 1, 1, 2], &Device::Cpu)?;
/// let errors = Tensor::new(&[0.0f32, 1.0, 0.0, f32::NAN], &Device::Cpu)?;
/// let stats = scatter_ema(&map, &indices, &errors, 0.5)?;
/// assert_eq!(map.to_vec1::<f32>()?, [0.5, 0.5, 0.5]);
/// assert_eq!(stats.skipped_non_finite, 1);
/// # Ok(())
/// # }
/// ```
pub fn scatter_ema(
    map: &Tensor,
    indices: &Tensor,
    values: &Tensor,
    settings: impl Into<ScatterSettings>,
) -> Result<ScatterStats> {
    let settings = settings.into();
    check_decay(settings.decay)?;
    batch::check_vector::<u32>("indices", indices, None)?;
    let num_values = Some(indices.elem_count());
    match map.dtype() {
        DType::F64 => {
            batch::check_vector::<f64>("map", map, None)?;
            batch::check_vector::<f64>("values", values, num_values)?;
        }
        _ => {
            batch::check_vector::<f32>("map", map, None)?;
            batch::check_vector::<f32>("values", values, num_values)?;
        }
    }
    for (name, tensor) in [("indices", indices), ("values", values)] {
        batch::check_device(name, tensor, ("map", map))?;
        batch::check_apart(name, tensor, ("map", map))?;
    }
    let op = ScatterEma { settings, stats: OnceLock::new() };
    map.inplace_op3(indices, values, &op)?;
    Ok(op.stats.get().copied().unwrap_or_default())
}

pub(super) fn check_decay(decay: f64) -> Result<()> {
    if !(0.0..=1.0).contains(&decay) {
        bail!("decay: expected a number in [0, 1], found {decay}")
    }
    Ok(())
}

struct ScatterEma {
    settings: ScatterSettings,
    /// An in-place op returns nothing; the counts come out here.
    stats: OnceLock<ScatterStats>,
}

impl InplaceOp3 for ScatterEma {
    fn name(&self) -> &'static str {
        "scatter-ema"
    }

    fn cpu_fwd(
        &self,
        map: &mut CpuStorage,
        map_layout: &Layout,
        indices: &CpuStorage,
        indices_layout: &Layout,
        values: &CpuStorage,
        values_layout: &Layout,
    ) -> Result<()> {
        let ScatterSettings { decay, duplicates } = self.settings;
        let range = batch::range("map", map_layout)?;
        let indices = batch::view::<u32>("indices", indices, indices_layout)?;
        let stats = match map {
            CpuStorage::F32(map) => {
                let values = batch::view("values", values, values_layout)?;
                cpu::scatter_ema(&mut map[range], indices, values, decay as f32, duplicates)?
            }
            CpuStorage::F64(map) => {
                let values = batch::view("values", values, values_layout)?;
                cpu::scatter_ema(&mut map[range], indices, values, decay, duplicates)?
            }
            _ => bail!("tensor map: expected dtype F32 or F64"),
        };
        let _ = self.stats.set(stats);
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        map: &mut candle_core::CudaStorage,
        map_layout: &Layout,
        indices: &candle_core::CudaStorage,
        indices_layout: &Layout,
        values: &candle_core::CudaStorage,
        values_layout: &Layout,
    ) -> Result<()> {
        let ScatterSettings { decay, duplicates } = self.settings;
        let (indices, values) = ((indices, indices_layout), (values, values_layout));
        let stats = cuda::scatter_ema(map, map_layout, indices, values, decay as f32, duplicates)?;
        let _ = self.stats.set(stats);
        Ok(())
    }
}
