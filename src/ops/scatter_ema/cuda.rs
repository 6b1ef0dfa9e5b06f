//! The launch of `cuda/scatter_ema.cu`.

use candle_core::{
    CudaStorage, Error, Layout, Result, backend::BackendStorage, cuda_backend::cudarc::driver::PushKernelArg,
};

use super::{Duplicates, ScatterStats};
use crate::ops::launch::{self, Ascending, Operand};

/// What the kernels count: updated, first visits, skipped, negative, capped.
pub(in crate::ops) const NUM_COUNTS: usize = 5;

impl ScatterStats {
    /// The counts of a kernel.
    pub(in crate::ops) fn from_counts(counts: &[u32]) -> Self {
        let count = |at: usize| counts.get(at).map_or(0, |&count| count as usize);
        Self {
            updated: count(0),
            first_visits: count(1),
            skipped_non_finite: count(2),
            negative: count(3),
            capped: count(4),
        }
    }
}

pub(super) fn scatter_ema(
    map: &mut CudaStorage,
    map_layout: &Layout,
    indices: Operand,
    values: Operand,
    decay: f32,
    duplicates: Duplicates,
) -> Result<ScatterStats> {
    launch::check_f32("scatter_ema", map)?;
    let num_values = values.1.shape().elem_count();
    if num_values == 0 {
        return Ok(ScatterStats::default());
    }
    let device = map.device().clone();
    let num_entries = map_layout.shape().elem_count();
    let batch = Ascending::new(&device, launch::view("indices", indices)?, num_entries)?;
    let (indices, order, values) = (batch.indices(), batch.order(), launch::view::<f32>("values", values)?);
    let mut map = launch::view_mut::<f32>("map", map, map_layout)?;
    let mut counts = device.alloc_zeros::<u32>(NUM_COUNTS)?;

    let (num, gain, mean) = (num_values as u64, 1.0 - decay, u32::from(duplicates == Duplicates::Mean));
    let kernel = launch::kernel(&device, &launch::SCATTER_EMA, "scatter_ema_f32")?;
    let mut args = kernel.args();
    args.arg(&indices);
    launch::optional(&mut args, order.as_ref());
    args.arg(&values).arg(&num).arg(&decay).arg(&gain).arg(&mean).arg(&mut map).arg(&mut counts);
    // SAFETY: the arguments are those of the kernel. It reads `num` indices, positions and values, writes the map at
    // indices that have been checked, each from one thread, and the counts.
    unsafe { args.launch(launch::threads(num_values)?) }.map_err(Error::wrap)?;

    Ok(ScatterStats::from_counts(&launch::read_back(&device, &counts)?))
}
