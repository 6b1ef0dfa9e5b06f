//! Batches on a GPU: drawn, turned into rays and told their errors there.

use std::sync::Arc;
use std::time::Instant;

use candle_core::{Device, Tensor};

use super::{Loader, Next};
use crate::data::Pixels;
use crate::data::sampler::{DeviceDraw, Draw, Told};
use crate::ops::{CudaPixels, PixelRays};
use crate::{Error, Result};

/// What of a loader is on a device.
#[derive(Debug)]
pub(super) struct OnDevice {
    device: Device,
    pixels: CudaPixels,
    /// With a lag of 1, the draw of the next batch.
    next: Option<DeviceDraw>,
}

/// A batch on a device.
#[derive(Debug)]
pub(crate) struct DeviceBatch {
    pub draw: DeviceDraw,
    pub rays: PixelRays,
}

impl Loader {
    /// Moves pixels and error map to `device`: from here on only the functions of this file make batches.
    pub(crate) fn move_to(&mut self, device: &Device) -> Result<()> {
        self.flush()?;
        let pixels = self.pixels.to_cuda(device)?;
        self.sampler_mut()?.move_to(device)?;
        let next = match std::mem::replace(&mut self.next, Next::Open) {
            Next::Ready(prepared) => Some(self.sampler.upload_draw(&prepared.draw)?),
            Next::Failed(error) => return Err(error),
            Next::Open | Next::Under(_) => None,
        };
        self.device = Some(OnDevice { device: device.clone(), pixels, next });
        Ok(())
    }

    fn on_device(&mut self) -> Result<&mut OnDevice> {
        self.device.as_mut().ok_or_else(|| Error::config("loader", "on a device", "on the host"))
    }

    fn draw_on_device(&mut self) -> Result<DeviceDraw> {
        let started = Instant::now();
        let draw = self.sampler.prepare_on_device()?;
        self.sampler_mut()?.commit_on_device(&draw);
        self.seconds.draw += started.elapsed().as_secs_f64();
        Ok(draw)
    }

    /// As [`Loader::next_batch`], on the device.
    pub(crate) fn next_on_device(&mut self) -> Result<DeviceBatch> {
        let draw = match self.on_device()?.next.take() {
            Some(draw) => draw,
            None => self.draw_on_device()?,
        };
        let started = Instant::now();
        let rays = self.on_device()?.pixels.rays_of(&draw.rays)?;
        self.seconds.gather += started.elapsed().as_secs_f64();
        if self.sampler.config().lag == 1 {
            // The errors of the batch that is handed out are not known yet: the next draw does without them.
            let next = self.draw_on_device()?;
            self.on_device()?.next = Some(next);
        }
        Ok(DeviceBatch { draw, rays })
    }

    /// Enters the errors of a batch: `[B]` f32 on the device, raised to their power.
    pub(crate) fn enter_on_device(&mut self, batch: &DeviceBatch, errors: &Tensor, told: Told) -> Result<()> {
        let started = Instant::now();
        let mut next = self.on_device()?.next.take();
        let entered = self.sampler_mut()?.update_on_device(&batch.draw, errors, told, next.as_mut());
        self.on_device()?.next = next;
        self.seconds.update += started.elapsed().as_secs_f64();
        entered
    }

    /// As [`Loader::put_back`].
    pub(crate) fn put_back_on_device(&mut self, batch: DeviceBatch) -> Result<()> {
        match self.on_device()?.next.take() {
            Some(after) => {
                self.sampler_mut()?.put_back_on_device(&after)?;
                self.on_device()?.next = Some(batch.draw);
            }
            None => self.sampler_mut()?.put_back_on_device(&batch.draw)?,
        }
        Ok(())
    }

    /// The draw that waits, on the host.
    pub(super) fn pending_on_device(&self) -> Result<Option<Draw>> {
        self.device.as_ref().and_then(|on_device| on_device.next.as_ref()).map(DeviceDraw::read).transpose()
    }

    /// As [`Loader::set_pixels`], on the device if the loader is on one; whether it is.
    pub(super) fn set_pixels_on_device(&mut self, pixels: &Arc<Pixels>) -> Result<bool> {
        let Some(OnDevice { device, next, .. }) = self.device.take() else { return Ok(false) };
        if let Some(next) = next {
            self.sampler_mut()?.put_back_on_device(&next)?;
        }
        let sampler = self.sampler_mut()?;
        sampler.leave_device()?;
        sampler.resample_in_use(&pixels.shapes(), pixels.in_use())?;
        self.pixels = pixels.clone();
        self.move_to(&device)?;
        Ok(true)
    }
}
