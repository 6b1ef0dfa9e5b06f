//! The launch of `cuda/adam.cu`.

use std::cell::RefCell;

use candle_core::{
    CpuStorage, CudaStorage, Error, InplaceOp1, Layout, Result, backend::BackendStorage, bail,
    cuda_backend::cudarc::driver::PushKernelArg,
};

use super::Step;
use crate::ops::launch::{self, Operand};

pub(super) struct OnMoments<'a> {
    pub step: &'a Step<'a>,
    pub param: RefCell<(&'a mut CudaStorage, &'a Layout)>,
    pub grad: Operand<'a>,
}

impl InplaceOp1 for OnMoments<'_> {
    fn name(&self) -> &'static str {
        "adam-moments"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> Result<()> {
        bail!("adam_step: moments: expected the device of the parameter, CUDA, found the CPU")
    }

    fn cuda_fwd(&self, moments: &mut CudaStorage, layout: &Layout) -> Result<()> {
        launch::check_f32("adam_step", moments)?;
        let num_elements = self.grad.1.shape().elem_count();
        if num_elements == 0 {
            return Ok(());
        }
        let device = moments.device().clone();
        let grad = launch::view::<f32>("grad", self.grad)?;
        let mut param = self.param.borrow_mut();
        let (param, param_layout) = &mut *param;
        let mut param = launch::view_mut::<f32>("param", param, param_layout)?;
        let mut moments = launch::view_mut::<f32>("moments", moments, layout)?;
        if moments.len() != 2 * num_elements {
            bail!("tensor moments: expected {} elements, found {}", 2 * num_elements, moments.len())
        }

        let Step { settings, rates, second_scale, .. } = self.step;
        let rates: Vec<f32> = rates.iter().map(|&rate| rate as f32).collect();
        let rates = launch::upload(&device, &rates)?;
        let (num, num_rates) = (num_elements as u64, launch::count_u32("rates", rates.len())?);
        let (beta1, beta2) = (settings.beta1 as f32, settings.beta2 as f32);
        let (gain1, gain2) = ((1.0 - settings.beta1) as f32, (1.0 - settings.beta2) as f32);
        let (second_scale, eps) = (*second_scale as f32, settings.eps as f32);
        let kernel = launch::kernel(&device, &launch::ADAM, "adam_step_f32")?;
        let mut args = kernel.args();
        args.arg(&grad).arg(&rates).arg(&num).arg(&num_rates).arg(&beta1).arg(&beta2).arg(&gain1).arg(&gain2);
        args.arg(&second_scale).arg(&eps).arg(&mut moments).arg(&mut param);
        // SAFETY: the arguments are those of the kernel, which reads `num` gradients and `num_rates` rates, and reads
        // and writes `2 * num` moments and `num` parameters, each from one thread.
        unsafe { args.launch(launch::threads(num_elements)?) }.map_err(Error::wrap)?;
        Ok(())
    }
}
