//! The launch of `cuda/scatter_ema.cu`.

use candle_core::{
    CudaStorage, Error, Layout, Result, backend::BackendStorage, cuda_backend::cudarc::driver::PushKernelArg,
};

use super::ScatterStats;
use crate::ops::launch::{self, Ascending, Operand};

/// What the kernel counts: updated, first visits, skipped, negative.
const NUM_COUNTS: usize = 4;

pub(super) fn scatter_ema(
    map: &mut CudaStorage,
    map_layout: &Layout,
    indices: Operand,
    values: Operand,
    decay: f32,
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

    let (num, gain) = (num_values as u64, 1.0 - decay);
    let kernel = launch::kernel(&device, &launch::SCATTER_EMA, "scatter_ema_f32")?;
    let mut args = kernel.args();
    args.arg(&indices);
    launch::optional(&mut args, order.as_ref());
    args.arg(&values).arg(&num).arg(&decay).arg(&gain).arg(&mut map).arg(&mut counts);
    // SAFETY: the arguments are those of the kernel. It reads `num` indices, positions and values, writes the map at
    // indices that have been checked, each from one thread, and four counts.
    unsafe { args.launch(launch::threads(num_values)?) }.map_err(Error::wrap)?;

    let counts = device.clone_dtoh(&counts)?;
    let count = |at: usize| counts[at] as usize;
    Ok(ScatterStats {
        updated: count(0),
        first_visits: count(1),
        skipped_non_finite: count(2),
        negative: count(3),
        capped: 0,
    })
}
