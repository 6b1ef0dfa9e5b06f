//! The launches of `cuda/adam.cu`.

use candle_core::{
    CudaStorage, Error, Layout, Result, backend::BackendStorage, bail, cuda_backend::cudarc::driver::PushKernelArg,
};

use super::{AdamSettings, ApplyMoments};
use crate::ops::launch::{self, Operand};

pub(super) fn update_moments(
    moments: &mut CudaStorage,
    layout: &Layout,
    grad: Operand,
    settings: &AdamSettings,
) -> Result<()> {
    launch::check_f32("adam_step", moments)?;
    let num_elements = grad.1.shape().elem_count();
    if num_elements == 0 {
        return Ok(());
    }
    let device = moments.device().clone();
    let grad = launch::view::<f32>("grad", grad)?;
    let mut moments = launch::view_mut::<f32>("moments", moments, layout)?;
    if moments.len() != 2 * num_elements {
        bail!("tensor moments: expected {} elements, found {}", 2 * num_elements, moments.len())
    }

    let num = num_elements as u64;
    let (beta1, beta2) = (settings.beta1 as f32, settings.beta2 as f32);
    let (gain1, gain2) = ((1.0 - settings.beta1) as f32, (1.0 - settings.beta2) as f32);
    let kernel = launch::kernel(&device, &launch::ADAM, "adam_moments_f32")?;
    let mut args = kernel.args();
    args.arg(&grad).arg(&num).arg(&beta1).arg(&beta2).arg(&gain1).arg(&gain2).arg(&mut moments);
    // SAFETY: the arguments are those of the kernel, which reads `num` gradients and writes as many of each moment,
    // each from one thread.
    unsafe { args.launch(launch::threads(num_elements)?) }.map_err(Error::wrap)?;
    Ok(())
}

pub(super) fn apply_moments(
    param: &mut CudaStorage,
    layout: &Layout,
    moments: Operand,
    apply: &ApplyMoments,
) -> Result<()> {
    launch::check_f32("adam_step", param)?;
    let num_elements = layout.shape().elem_count();
    if num_elements == 0 {
        return Ok(());
    }
    let device = param.device().clone();
    let moments = launch::view::<f32>("moments", moments)?;
    if moments.len() != 2 * num_elements {
        bail!("tensor moments: expected {} elements, found {}", 2 * num_elements, moments.len())
    }
    let rates: Vec<f32> = apply.rates.iter().map(|&rate| rate as f32).collect();
    let rates = launch::upload(&device, &rates)?;
    let mut param = launch::view_mut::<f32>("param", param, layout)?;

    let (num, num_rates) = (num_elements as u64, launch::count_u32("rates", rates.len())?);
    let (second_scale, eps) = ((1.0 / apply.second_correction) as f32, apply.eps as f32);
    let kernel = launch::kernel(&device, &launch::ADAM, "adam_apply_f32")?;
    let mut args = kernel.args();
    args.arg(&moments).arg(&rates).arg(&num).arg(&num_rates).arg(&second_scale).arg(&eps).arg(&mut param);
    // SAFETY: the arguments are those of the kernel, which reads `2 * num` moments and `num_rates` rates, and writes
    // `num` parameters, each from one thread.
    unsafe { args.launch(launch::threads(num_elements)?) }.map_err(Error::wrap)?;
    Ok(())
}
