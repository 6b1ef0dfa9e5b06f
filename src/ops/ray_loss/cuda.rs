//! The launches of `cuda/ray_loss.cu`.

use candle_core::{
    CudaDevice, Result, Tensor, bail,
    cuda_backend::cudarc::driver::{CudaSlice, CudaViewMut, PushKernelArg},
};

use super::{Backdrop, RayLossSettings};
use crate::ops::{
    fused::PACKED_HEAD,
    launch::{self, launched},
};

/// What the loss of a batch is taken of, on the device.
pub(crate) struct RayLossInputs<'a> {
    /// `[R, 4 + Q]`, as the trace left it.
    pub packed: &'a CudaSlice<f32>,
    /// `[R]`.
    pub cells_entered: &'a CudaSlice<u32>,
    /// `[R, 4]`.
    pub rgba: &'a Tensor,
    /// `[R]`, with which each ray was drawn of `num_drawn_from`.
    pub probability: &'a Tensor,
    pub num_drawn_from: u32,
    /// Of the weights `(1 / (N p))^b`; where it is 0 they are 1.
    pub importance_exponent: f32,
    /// Errors are told raised to this power.
    pub error_power: f32,
    pub error_cap: f32,
}

/// What the loss says of each ray.
pub(crate) struct CudaLoss {
    /// `[R, 4 + Q]`: the gradient of the mean loss by the outputs.
    pub grad_packed: CudaSlice<f32>,
    /// `[R]`: the squared errors, after the power.
    pub errors: Tensor,
}

/// What is known of all rays of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct LossTotals {
    /// The sum of the losses.
    pub loss: f64,
    /// The sum of the squared errors, before the power.
    pub squared_error: f64,
    /// The sums of `w = 1 / (N p)` and of its squares.
    pub weights: [f64; 2],
    pub cells_entered: u64,
    /// Losses that are not finite, and the first of them.
    pub non_finite: [u64; 2],
    /// The largest finite error, after the power and at most the cap.
    pub max_error: f32,
    /// Errors above the cap.
    pub capped: u64,
}

impl LossTotals {
    pub const NUM_WORDS: usize = 9;

    pub fn from_words(words: [u64; Self::NUM_WORDS]) -> Self {
        let [loss, squared_error, weight, squared_weight, cells_entered, non_finite, first, max_error, capped] = words;
        Self {
            loss: f64::from_bits(loss),
            squared_error: f64::from_bits(squared_error),
            weights: [f64::from_bits(weight), f64::from_bits(squared_weight)],
            cells_entered,
            non_finite: [non_finite, first],
            max_error: f32::from_bits(max_error as u32),
            capped,
        }
    }
}

/// Two random transmittance quantiles a ray, `[R, 2]`.
pub(crate) fn quantiles(device: &CudaDevice, num_rays: usize, seed: u64, step: u64) -> Result<CudaSlice<f32>> {
    // SAFETY: the kernel below writes all of it before anything reads it.
    let mut quantiles = unsafe { device.alloc::<f32>(2 * num_rays)? };
    let num = num_rays as u64;
    let kernel = launch::kernel(device, &launch::RAY_LOSS, "ray_quantiles_f32")?;
    let mut args = kernel.args();
    args.arg(&num).arg(&seed).arg(&step).arg(&mut quantiles);
    // SAFETY: the arguments are those of the kernel, which writes two numbers a ray.
    launched(unsafe { args.launch(launch::threads(num_rays)?) })?;
    Ok(quantiles)
}

/// The loss of a batch that is not empty; its totals go to `totals`, [`LossTotals::NUM_WORDS`] words.
pub(crate) fn ray_loss(
    device: &CudaDevice,
    inputs: &RayLossInputs,
    settings: &RayLossSettings,
    totals: &mut CudaViewMut<u64>,
) -> Result<CudaLoss> {
    let num_rays = inputs.cells_entered.len();
    let width = inputs.packed.len() / num_rays.max(1);
    if width < PACKED_HEAD || inputs.packed.len() != num_rays * width || totals.len() != LossTotals::NUM_WORDS {
        bail!("ray_loss: expected outputs and totals of {num_rays} rays, found {} values", inputs.packed.len())
    }
    if inputs.rgba.dims() != [num_rays, 4] || inputs.probability.dims() != [num_rays] {
        bail!("ray_loss: rgba: expected [{num_rays}, 4], found {:?}", inputs.rgba.shape())
    }
    let (rgba, probability) = (inputs.rgba.storage_and_layout(), inputs.probability.storage_and_layout());
    let rgba = launch::view::<f32>("rgba", launch::operand("rgba", &rgba.0, rgba.1)?)?;
    let probability =
        launch::view::<f32>("probability", launch::operand("probability", &probability.0, probability.1)?)?;
    let blocks = launch::threads(num_rays)?;
    let num_blocks = blocks.grid_dim.0 as u64;
    // SAFETY: the kernels below write all of these before anything reads them.
    let (mut grad_packed, mut errors, mut partial) = unsafe {
        (
            device.alloc::<f32>(inputs.packed.len())?,
            device.alloc::<f32>(num_rays)?,
            device.alloc::<u64>(num_blocks as usize * LossTotals::NUM_WORDS)?,
        )
    };
    let (random, [red, green, blue]) = match settings.backdrop {
        Backdrop::Random => (1u32, [0.0; 3]),
        Backdrop::Color(color) => (0, color),
    };
    let (rays, num_quantiles) = (num_rays as u64, (width - PACKED_HEAD) as u32);
    let (num_drawn_from, exponent) = (f64::from(inputs.num_drawn_from), f64::from(inputs.importance_exponent));
    let kernel = launch::kernel(device, &launch::RAY_LOSS, "ray_loss_f32")?;
    let mut args = kernel.args();
    args.arg(inputs.packed).arg(&rgba).arg(&probability).arg(inputs.cells_entered).arg(&rays).arg(&num_quantiles);
    args.arg(&random).arg(&red).arg(&green).arg(&blue).arg(&settings.seed).arg(&settings.step);
    args.arg(&settings.opacity_weight).arg(&settings.quantile_weight).arg(&num_drawn_from).arg(&exponent);
    args.arg(&inputs.error_power).arg(&inputs.error_cap);
    args.arg(&mut grad_packed).arg(&mut errors).arg(&mut partial);
    // SAFETY: the arguments are those of the kernel, which reads and writes a row of each array a ray, of the sizes
    // that were checked above, and nine words a block.
    launched(unsafe { args.launch(blocks) })?;

    let kernel = launch::kernel(device, &launch::RAY_LOSS, "ray_loss_total")?;
    let mut args = kernel.args();
    args.arg(&partial).arg(&num_blocks).arg(totals);
    // SAFETY: the arguments are those of the kernel, one block, which reads nine words a block and writes nine.
    launched(unsafe { args.launch(launch::threads(1)?) })?;
    Ok(CudaLoss { grad_packed, errors: launch::tensor(errors, num_rays, device) })
}
