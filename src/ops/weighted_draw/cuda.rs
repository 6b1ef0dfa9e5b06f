//! The launches of `cuda/weighted_draw.cu`.

use candle_core::{
    CudaDevice, CudaStorage, Layout, Result, backend::BackendStorage, cuda_backend::cudarc::driver::PushKernelArg,
};

use super::{
    DrawSettings, Draws, Strata,
    cpu::{BLOCK, GROUP, WeightMasses},
};
use crate::ops::launch::{self, NONE, SCAN_THREADS, launched};

/// As the body on the CPU, with its bits; 8 bytes are read back, since weights that are none are refused.
pub(super) fn draw(
    weights: &CudaStorage,
    layout: &Layout,
    num: usize,
    settings: DrawSettings,
    seed: u64,
    step: u64,
) -> Result<Draws> {
    let DrawSettings { uniform_fraction, jitter } = settings;
    let device: CudaDevice = weights.device().clone();
    let weights = launch::view::<f32>("weights", (weights, layout))?;
    let num_entries = weights.len();
    let entries = num_entries as u64;
    let mut found = launch::upload(&device, &[NONE, 0])?;
    let kernel = launch::kernel(&device, &launch::WEIGHTED_DRAW, "weighted_draw_check_f32")?;
    let mut args = kernel.args();
    args.arg(&weights).arg(&entries).arg(&mut found);
    // SAFETY: the arguments are those of the kernel, which reads `entries` weights and writes two words.
    launched(unsafe { args.launch(launch::threads(num_entries)?) })?;
    let found = launch::read_back(&device, &found)?;
    if found[0] != NONE {
        let at = found[0] as usize;
        let weight = launch::read_back(&device, &weights.slice(at..=at))?;
        return Err(WeightMasses::refusal(weight[0], at));
    }
    let scale = WeightMasses::scale(num_entries, f32::from_bits(found[1]), uniform_fraction)?;
    if num == 0 {
        let (indices, probability) = (launch::zeros(&device, 0)?, launch::zeros(&device, 0)?);
        return Ok(Draws {
            indices: launch::tensor::<u32>(indices, 0, &device),
            probability: launch::tensor::<f32>(probability, 0, &device),
        });
    }

    let num_blocks = num_entries.div_ceil(BLOCK);
    let (num_groups, num_tiles) = (num_blocks * (BLOCK / GROUP), num_blocks.div_ceil(SCAN_THREADS));
    // SAFETY: the kernels below write all of these before anything reads them.
    let (mut groups, mut blocks, mut tiles, mut rule, mut ends) = unsafe {
        (
            device.alloc::<u64>(num_groups)?,
            device.alloc::<u64>(num_blocks)?,
            device.alloc::<u64>(num_tiles)?,
            device.alloc::<u64>(2)?,
            device.alloc::<u64>(num_blocks)?,
        )
    };
    let (groups_u64, blocks_u64, tiles_u64) = (num_groups as u64, num_blocks as u64, num_tiles as u64);
    let kernel = launch::kernel(&device, &launch::WEIGHTED_DRAW, "weighted_draw_sums_f32")?;
    let mut args = kernel.args();
    args.arg(&weights).arg(&entries).arg(&groups_u64).arg(&scale).arg(&mut groups).arg(&mut blocks);
    // SAFETY: the arguments are those of the kernel, which reads `entries` weights and writes each sum.
    launched(unsafe { args.launch(launch::threads(num_groups)?) })?;

    let kernel = launch::kernel(&device, &launch::WEIGHTED_DRAW, "weighted_draw_tiles")?;
    let mut args = kernel.args();
    args.arg(&blocks).arg(&blocks_u64).arg(&mut tiles);
    // SAFETY: the arguments are those of the kernel, which reads a word a block and writes one a tile.
    launched(unsafe { args.launch(launch::scans(num_tiles)?) })?;

    let uniform_ratio = uniform_fraction / (1.0 - uniform_fraction);
    let kernel = launch::kernel(&device, &launch::WEIGHTED_DRAW, "weighted_draw_rule")?;
    let mut args = kernel.args();
    args.arg(&tiles_u64).arg(&entries).arg(&uniform_ratio).arg(&mut tiles).arg(&mut rule);
    // SAFETY: the arguments are those of the kernel, one block, which goes over the tiles and writes two words.
    launched(unsafe { args.launch(launch::scans(1)?) })?;

    let kernel = launch::kernel(&device, &launch::WEIGHTED_DRAW, "weighted_draw_ends")?;
    let mut args = kernel.args();
    args.arg(&blocks).arg(&tiles).arg(&rule).arg(&blocks_u64).arg(&entries).arg(&mut ends);
    // SAFETY: the arguments are those of the kernel, which writes a word a block.
    launched(unsafe { args.launch(launch::scans(num_tiles)?) })?;

    // SAFETY: the kernel below writes all of both before anything reads them.
    let (mut indices, mut probability) = unsafe { (device.alloc::<u32>(num)?, device.alloc::<f32>(num)?) };
    // The total is the device's to know.
    let (stratum, place) = Strata::with_jitter(jitter, num, 0, seed, step).parts();
    let (systematic, place) = (u32::from(place.is_some()), place.unwrap_or(0));
    let num_draws = num as u64;
    let kernel = launch::kernel(&device, &launch::WEIGHTED_DRAW, "weighted_draw_f32")?;
    let mut args = kernel.args();
    args.arg(&weights).arg(&groups).arg(&ends).arg(&rule).arg(&entries).arg(&blocks_u64).arg(&scale);
    args.arg(&num_draws).arg(&stratum).arg(&systematic).arg(&place).arg(&seed).arg(&step);
    args.arg(&mut indices).arg(&mut probability);
    // SAFETY: the arguments are those of the kernel. It looks up blocks, groups and weights, and writes `num` draws,
    // each from one thread.
    launched(unsafe { args.launch(launch::threads(num)?) })?;
    Ok(Draws { indices: launch::tensor(indices, num, &device), probability: launch::tensor(probability, num, &device) })
}
