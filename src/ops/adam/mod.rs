//! One step of Adam on one parameter, in place and without temporaries.
//!
//! ```text
//! m <- b1 m + (1 - b1) g        v <- b2 v + (1 - b2) g^2
//! p <- p - rate * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)
//! ```
//!
//! Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, arXiv 1412.6980. Candle's own AdamW keeps
//! its moments private, so that they can be neither saved nor follow cells that are added and removed, and makes
//! about fifteen temporaries of the parameter's size a step.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use super::{Real, batch};
use candle_core::{CpuStorage, DType, Error, InplaceOp1, InplaceOp2, Layout, Result, Tensor, bail};
use std::cell::RefCell;

/// The constants of Adam.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamSettings {
    /// Decay of the first moment, in [0, 1).
    pub beta1: f64,
    /// Decay of the second moment, in [0, 1).
    pub beta2: f64,
    /// Keeps the quotient finite where no gradient ever came. Tiny, since a cell's gradients are tiny.
    pub eps: f64,
}

impl Default for AdamSettings {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.99, eps: 1e-15 }
    }
}

impl AdamSettings {
    /// Checks every setting.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Config`] for the first setting that is out of its range.
    pub fn validate(&self) -> crate::Result<()> {
        for (field, beta) in [("adam.beta1", self.beta1), ("adam.beta2", self.beta2)] {
            if !(0.0..1.0).contains(&beta) {
                return Err(crate::Error::config(field, "in [0, 1)", beta.to_string()));
            }
        }
        if !(self.eps > 0.0 && self.eps.is_finite()) {
            return Err(crate::Error::config("adam.eps", "positive", self.eps.to_string()));
        }
        Ok(())
    }
}

/// Updates `moments` from `grad` and `param` from `moments`, both in place.
///
/// - `param`: f32 or f64 (f32 on CUDA), any shape, contiguous;
/// - `grad`: the shape and dtype of `param`;
/// - `moments`: `[2, ..]` with the shape of `param` behind the 2, its dtype, contiguous: first and second moment, zero
///   at the start;
/// - `rates`: learning rates, repeated along the flattened parameter: one for all, or one per column of its rows;
/// - `count`: how many updates there have been, this one included (from 1), for the bias correction.
///
/// Not differentiable: an optimiser is not part of a graph.
///
/// # Errors
///
/// A shape, dtype, device or layout that does not fit; a number of rates that does not divide the size of the
/// parameter, or a rate that is not finite; a count of 0; a setting out of its range. Nothing has been written then.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use candle_radfoam::ops::{AdamSettings, adam_step};
///
/// # fn main() -> candle_core::Result<()> {
/// let param = Var::new(&[1f32, 2.], &Device::Cpu)?;
/// let moments = Tensor::zeros((2, 2), candle_core::DType::F32, &Device::Cpu)?;
/// let grad = Tensor::new(&[3f32, -1e-6], &Device::Cpu)?;
/// adam_step(&param, &grad, &moments, &[0.1], 1, &AdamSettings::default())?;
/// // The first step has the size of the rate, whatever the size of the gradient.
/// let moved = param.to_vec1::<f32>()?;
/// assert!((moved[0] - 0.9).abs() < 1e-6 && (moved[1] - 2.1).abs() < 1e-6);
/// # Ok(())
/// # }
/// ```
pub fn adam_step(
    param: &Tensor,
    grad: &Tensor,
    moments: &Tensor,
    rates: &[f64],
    count: u64,
    settings: &AdamSettings,
) -> Result<()> {
    settings.validate().map_err(Error::wrap)?;
    if !matches!(param.dtype(), DType::F32 | DType::F64) {
        bail!("adam_step: param: expected f32 or f64, found {:?}", param.dtype());
    }
    for (name, tensor) in [("grad", grad), ("moments", moments)] {
        if tensor.dtype() != param.dtype() {
            bail!("adam_step: {name}: expected {:?} as the parameter, found {:?}", param.dtype(), tensor.dtype());
        }
        if !tensor.device().same_device(param.device()) {
            let (expected, found) = (param.device(), tensor.device());
            bail!("adam_step: {name}: expected the device of the parameter, {expected:?}, found {found:?}");
        }
    }
    batch::check_apart("grad", grad, ("param", param))?;
    batch::check_apart("grad", grad, ("moments", moments))?;
    batch::check_apart("moments", moments, ("param", param))?;
    batch::range("param", param.layout())?;
    batch::range("moments", moments.layout())?;
    if grad.shape() != param.shape() {
        bail!("adam_step: grad: expected {:?}, found {:?}", param.shape(), grad.shape());
    }
    if moments.dims().first() != Some(&2) || &moments.dims()[1..] != param.dims() {
        bail!("adam_step: moments: expected 2 x {:?}, found {:?}", param.shape(), moments.shape());
    }
    if rates.is_empty() || !param.elem_count().is_multiple_of(rates.len()) {
        bail!("adam_step: rates: expected a divisor of {} elements, found {}", param.elem_count(), rates.len());
    }
    if let Some(rate) = rates.iter().find(|rate| !rate.is_finite()) {
        bail!("adam_step: rates: expected finite rates, found {rate}");
    }
    if count == 0 {
        bail!("adam_step: count: expected at least 1, found 0");
    }
    // The largest exponent is far beyond where either correction has become 1.
    let exponent = count.min(i32::MAX as u64) as i32;
    let step = Step {
        moments,
        rates: rates.iter().map(|rate| rate / (1.0 - settings.beta1.powi(exponent))).collect(),
        second_scale: 1.0 / (1.0 - settings.beta2.powi(exponent)).sqrt(),
        settings,
    };
    param.inplace_op2(&grad.contiguous()?, &step)
}

/// On parameter and gradient. Candle hands out one tensor to be written, so that the moments are asked for from within.
struct Step<'a> {
    moments: &'a Tensor,
    /// Divided by the correction of the first moment.
    rates: Vec<f64>,
    /// One by the correction of the second moment's root.
    second_scale: f64,
    settings: &'a AdamSettings,
}

impl Step<'_> {
    fn run<T: Real>(&self, param: &mut CpuStorage, l1: &Layout, grad: &CpuStorage, l2: &Layout) -> Result<()> {
        let param = RefCell::new(view_mut::<T>("param", param, l1)?);
        self.moments.inplace_op1(&OnMoments { step: self, param, grad: batch::view::<T>("grad", grad, l2)? })
    }
}

impl InplaceOp2 for Step<'_> {
    fn name(&self) -> &'static str {
        "adam"
    }

    fn cpu_fwd(&self, param: &mut CpuStorage, l1: &Layout, grad: &CpuStorage, l2: &Layout) -> Result<()> {
        match param {
            CpuStorage::F64(_) => self.run::<f64>(param, l1, grad, l2),
            _ => self.run::<f32>(param, l1, grad, l2),
        }
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        param: &mut candle_core::CudaStorage,
        l1: &Layout,
        grad: &candle_core::CudaStorage,
        l2: &Layout,
    ) -> Result<()> {
        self.moments.inplace_op1(&cuda::OnMoments { step: self, param: RefCell::new((param, l1)), grad: (grad, l2) })
    }
}

struct OnMoments<'a, T> {
    step: &'a Step<'a>,
    param: RefCell<&'a mut [T]>,
    grad: &'a [T],
}

impl<T: Real> InplaceOp1 for OnMoments<'_, T> {
    fn name(&self) -> &'static str {
        "adam-moments"
    }

    fn cpu_fwd(&self, moments: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (first, second) = view_mut::<T>("moments", moments, layout)?.split_at_mut(self.grad.len());
        let rates: Vec<T> = self.step.rates.iter().map(|&rate| T::of(rate)).collect();
        let second_scale = T::of(self.step.second_scale);
        let step = cpu::Step { rates: &rates, second_scale, settings: self.step.settings };
        cpu::step(&mut self.param.borrow_mut(), first, second, self.grad, &step);
        Ok(())
    }
}

/// The elements of a contiguous tensor of type `T`, to be written.
fn view_mut<'a, T: Real>(name: &str, storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [T]> {
    let range = batch::range(name, layout)?;
    match T::cpu_slice_mut(storage) {
        Some(values) => Ok(&mut values[range]),
        None => bail!("adam_step: {name}: expected {:?}", T::DTYPE),
    }
}

/// The shape of the moments of a parameter, `[2, ..]`.
pub(crate) fn zero_moments(param: &Tensor) -> Result<Tensor> {
    let shape: Vec<usize> = std::iter::once(2).chain(param.dims().iter().copied()).collect();
    let dtype = match param.dtype() {
        dtype @ (DType::F32 | DType::F64) => dtype,
        other => bail!("adam: param: expected f32 or f64, found {other:?}"),
    };
    Tensor::zeros(shape, dtype, param.device())
}
