//! Pixels in a GPU's memory as rays with colours: the launch of `cuda/pixel_rays.cu`. On the host
//! [`crate::data::Pixels`] does the same, and is the definition.

use candle_core::{
    CudaDevice, Device, Result, Tensor, bail,
    cuda_backend::cudarc::driver::{CudaSlice, CudaView, PushKernelArg},
};

use super::{
    CudaDraws, CudaRays, batch,
    launch::{self, launched},
};

/// Numbers of a camera's row.
const ROW: usize = 30;

/// The pixels of a set of views on a CUDA device, and their cameras. For host threads, see [`CudaErrorMap`].
///
/// [`CudaErrorMap`]: super::CudaErrorMap
#[derive(Debug)]
pub struct CudaPixels {
    device: CudaDevice,
    /// `[V + 1]`.
    offsets: CudaSlice<u32>,
    /// `[V]`.
    widths: CudaSlice<u32>,
    /// `[V, 30]`.
    cameras: CudaSlice<f64>,
    /// `[pixels, channels]`.
    levels: CudaSlice<u8>,
    num_pixels: usize,
    num_channels: u32,
}

/// Rays with the colours of their pixels, as tensors on the device.
#[derive(Debug, Clone)]
pub struct PixelRays {
    /// `[B, 3]` f32, camera positions.
    pub origins: Tensor,
    /// `[B, 3]` f32, of unit length.
    pub directions: Tensor,
    /// `[B, 4]` f32, premultiplied red, green, blue and alpha in `[0, 1]`; alpha is 1 where images have none.
    pub rgba: Tensor,
    /// `[B]` u32, indices of the views.
    pub views: Tensor,
}

impl CudaPixels {
    /// - `offsets`: `[V + 1]` ascending, the first pixel of each view and the number of pixels;
    /// - `widths`: `[V]`, of the images;
    /// - `cameras`: the row of each ([`crate::camera::Camera::numbers`]);
    /// - `levels`: `[pixels, channels]`, of 3 or 4 channels.
    ///
    /// # Errors
    ///
    /// Where lengths do not fit, `device` is not a CUDA device, or refuses.
    pub fn new(
        offsets: &[u32],
        widths: &[u32],
        cameras: &[[f64; ROW]],
        levels: &[u8],
        num_channels: usize,
        device: &Device,
    ) -> Result<Self> {
        let num_pixels = offsets.last().map_or(0, |&end| end as usize);
        let ascends = offsets.first() == Some(&0) && offsets.is_sorted() && !widths.contains(&0);
        if !ascends || widths.is_empty() || offsets.len() != widths.len() + 1 || cameras.len() != widths.len() {
            bail!(
                "pixels: expected ascending offsets, one more than views, found {} for {} views of {} cameras",
                offsets.len(),
                widths.len(),
                cameras.len()
            )
        }
        if !matches!(num_channels, 3 | 4) || num_pixels == 0 || levels.len() != num_pixels * num_channels {
            bail!("pixels: expected {num_pixels} of 3 or 4 channels, found {} bytes, {num_channels}", levels.len())
        }
        let device = device.as_cuda_device()?.clone();
        Ok(Self {
            offsets: launch::upload(&device, offsets)?,
            widths: launch::upload(&device, widths)?,
            cameras: launch::upload(&device, cameras.as_flattened())?,
            levels: launch::upload(&device, levels)?,
            num_pixels,
            num_channels: num_channels as u32,
            device,
        })
    }

    /// The number of pixels.
    pub fn len(&self) -> usize {
        self.num_pixels
    }

    /// Whether there are no pixels; there always are.
    pub fn is_empty(&self) -> bool {
        self.num_pixels == 0
    }

    /// The rays and colours of pixels that were drawn from a map with one entry a pixel: nothing is read back. A pixel
    /// without a ray (outside the valid field of its lens) gets zeros.
    ///
    /// # Errors
    ///
    /// On draws from a map of another length or on another device, and those of the device.
    pub fn rays_drawn(&self, draws: &CudaDraws) -> Result<PixelRays> {
        if draws.map_len() != self.num_pixels {
            bail!("draws: expected those from a map of {} entries, found {}", self.num_pixels, draws.map_len())
        }
        let indices = &draws.draws().indices;
        launch::check_device("indices", indices, "the pixels", &self.device)?;
        if indices.elem_count() == 0 {
            return self.no_rays();
        }
        let (storage, layout) = indices.storage_and_layout();
        self.launch(&launch::view("indices", launch::operand("indices", &storage, layout)?)?)
    }

    /// The rays and colours of pixels that were drawn by entries: nothing is read back.
    pub(crate) fn rays_of(&self, rays: &CudaRays) -> Result<PixelRays> {
        if rays.num_pixels() != self.num_pixels {
            bail!("rays: expected those of {} pixels, found {}", self.num_pixels, rays.num_pixels())
        }
        launch::check_device("rays", &rays.indices, "the pixels", &self.device)?;
        let (storage, layout) = rays.indices.storage_and_layout();
        self.launch(&launch::view("rays", launch::operand("rays", &storage, layout)?)?)
    }

    /// The rays and colours of the pixels `indices` (`[B]` u32, on the device). Eight bytes are read back, since an
    /// index beyond the last pixel is refused.
    ///
    /// # Errors
    ///
    /// On a wrong dtype, shape or device, an index beyond the last pixel, and those of the device.
    pub fn rays(&self, indices: &Tensor) -> Result<PixelRays> {
        batch::check_vector::<u32>("indices", indices, None)?;
        launch::check_device("indices", indices, "the pixels", &self.device)?;
        if indices.elem_count() == 0 {
            return self.no_rays();
        }
        let indices = indices.contiguous()?;
        let (storage, layout) = indices.storage_and_layout();
        let indices = launch::view("indices", launch::operand("indices", &storage, layout)?)?;
        launch::check_indices(&self.device, &indices, self.num_pixels)?;
        self.launch(&indices)
    }

    fn no_rays(&self) -> Result<PixelRays> {
        let device = &self.device;
        let rows = |width: usize| -> Result<Tensor> {
            Ok(launch::tensor(launch::zeros::<f32>(device, 0)?, (0, width), device))
        };
        let views = launch::tensor(launch::zeros::<u32>(device, 0)?, 0, device);
        Ok(PixelRays { origins: rows(3)?, directions: rows(3)?, rgba: rows(4)?, views })
    }

    fn launch(&self, indices: &CudaView<u32>) -> Result<PixelRays> {
        let (device, num) = (&self.device, indices.len());
        // SAFETY: the kernel below writes all of these before anything reads them.
        let (mut origins, mut directions, mut rgba, mut views) = unsafe {
            (
                device.alloc::<f32>(3 * num)?,
                device.alloc::<f32>(3 * num)?,
                device.alloc::<f32>(4 * num)?,
                device.alloc::<u32>(num)?,
            )
        };
        let (num_indices, num_views) = (num as u64, launch::count_u32("views", self.widths.len())?);
        let kernel = launch::kernel(device, &launch::PIXEL_RAYS, "pixel_rays_f32")?;
        let mut args = kernel.args();
        args.arg(indices).arg(&self.offsets).arg(&self.widths).arg(&self.cameras).arg(&self.levels);
        args.arg(&num_indices).arg(&num_views).arg(&self.num_channels);
        args.arg(&mut origins).arg(&mut directions).arg(&mut rgba).arg(&mut views);
        // SAFETY: the arguments are those of the kernel. The indices are known to be those of pixels, whose offsets,
        // widths, cameras and levels were checked to fit; each output is written from one thread.
        launched(unsafe { args.launch(launch::threads(num)?) })?;
        Ok(PixelRays {
            origins: launch::tensor(origins, (num, 3), device),
            directions: launch::tensor(directions, (num, 3), device),
            rgba: launch::tensor(rgba, (num, 4), device),
            views: launch::tensor(views, num, device),
        })
    }
}
