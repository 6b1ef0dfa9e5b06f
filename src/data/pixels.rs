//! The pixels of the training views in one buffer, and rays with colours by flat index.

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::Bitmap;
use super::dataset::View;
use super::image::rgba;
use crate::camera::Camera;
use crate::{Error, Result};

/// Rays a task. Small enough to spread a batch of some thousand rays over the cores, large enough to hide the cost
/// of a task.
const CHUNK: usize = 1024;

/// The pixels of a set of views: 3 or 4 bytes each, and the cameras that turn them into rays.
///
/// A pixel is named by its flat index: those of the views before its own, plus `row * width + col`. Views may differ
/// in size.
///
/// ```
/// use candle_radfoam::camera::{Camera, Lens, Pose};
/// use candle_radfoam::data::{Image, Pixels, View};
///
/// # fn main() -> candle_radfoam::Result<()> {
/// let camera = Camera {
///     width: 3,
///     height: 2,
///     fx: 2.0,
///     fy: 2.0,
///     cx: 1.5,
///     cy: 1.0,
///     lens: Lens::Pinhole,
///     world_from_camera: Pose::IDENTITY,
/// };
/// let image = Image::new(3, 2, 3, vec![255; 18])?;
/// let pixels = Pixels::new(&[View::new("one", camera, image)])?;
/// assert_eq!(pixels.locate(4), Some((0, 1, 1)));
/// let batch = pixels.batch(&[0, 4])?;
/// assert_eq!(batch.rgba[1], [1.0; 4]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Pixels {
    data: Vec<u8>,
    channels: usize,
    /// Index of the first pixel of each view, and the number of pixels.
    offsets: Vec<u32>,
    cameras: Vec<Camera>,
    /// `None` where every pixel is in use.
    in_use: Option<Bitmap>,
}

/// Rays with the colours of their pixels.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    /// `[B]` camera positions.
    pub origins: Vec<[f32; 3]>,
    /// `[B]` unit directions.
    pub directions: Vec<[f32; 3]>,
    /// `[B]` premultiplied red, green, blue and alpha in `[0, 1]`; alpha is 1 where images have none.
    pub rgba: Vec<[f32; 4]>,
    /// `[B]` indices of the views.
    pub views: Vec<u32>,
}

/// A [`Batch`] as tensors of f32.
#[derive(Debug, Clone)]
pub struct BatchTensors {
    /// `[B, 3]` camera positions.
    pub origins: Tensor,
    /// `[B, 3]` unit directions.
    pub directions: Tensor,
    /// `[B, 4]` premultiplied red, green, blue and alpha.
    pub rgba: Tensor,
}

impl Pixels {
    /// Copies the pixels of `views` into one buffer, of 4 bytes a pixel if any of the images has alpha.
    ///
    /// # Errors
    ///
    /// If there are 2^32 - 1 pixels or more, no pixel (or none in use, see [`Pixels::in_use`]), or an image or a mask is
    /// not of its camera's size.
    pub fn new(views: &[View]) -> Result<Self> {
        let channels = if views.iter().any(|view| view.image.channels == 4) { 4 } else { 3 };
        let mut offsets = vec![0_u32];
        let mut total = 0_u64;
        for view in views {
            view.check_size()?;
            total += u64::from(view.camera.width) * u64::from(view.camera.height);
            // The last index stays free, for use as a mark.
            let end = u32::try_from(total).ok().filter(|&end| end < u32::MAX);
            let found = || Error::config("pixels", "fewer than 2^32 - 1", format!("{total} by {}", view.name));
            offsets.push(end.ok_or_else(found)?);
        }
        if total == 0 {
            return Err(Error::config("pixels", "at least one", "none"));
        }
        let mut data = Vec::with_capacity(total as usize * channels);
        for View { image, .. } in views {
            if image.channels == channels {
                data.extend_from_slice(&image.data);
            } else {
                data.extend(image.data.chunks_exact(3).flat_map(|rgb| [rgb[0], rgb[1], rgb[2], u8::MAX]));
            }
        }
        let cameras: Vec<Camera> = views.iter().map(|view| view.camera).collect();
        let of_views = views.par_iter().map(View::in_use).collect::<Result<Vec<_>>>()?;
        let in_use = |pixel: usize| {
            let view = offsets.partition_point(|&offset| offset as usize <= pixel) - 1;
            of_views[view].as_ref().is_none_or(|in_use| in_use.get(pixel - offsets[view] as usize))
        };
        let all = of_views.iter().all(Option::is_none);
        let in_use = (!all).then(|| Bitmap::from_fn(total as usize, in_use)).transpose()?;
        if in_use.as_ref().is_some_and(|in_use| in_use.count() == 0) {
            return Err(Error::config("pixels", "at least one in use", format!("none of {total}")));
        }
        Ok(Self { data, channels, offsets, cameras, in_use })
    }

    /// A copy on a CUDA device, where batches are made without the host.
    ///
    /// # Errors
    ///
    /// Where `device` is not a CUDA device, or refuses.
    #[cfg(feature = "cuda")]
    pub fn to_cuda(&self, device: &Device) -> Result<crate::ops::CudaPixels> {
        let widths: Vec<u32> = self.cameras.iter().map(|camera| camera.width).collect();
        let cameras: Vec<[f64; 30]> = self.cameras.iter().map(Camera::numbers).collect();
        Ok(crate::ops::CudaPixels::new(&self.offsets, &widths, &cameras, &self.data, self.channels, device)?)
    }

    /// The number of pixels.
    pub fn len(&self) -> usize {
        self.offsets.last().map_or(0, |&end| end as usize)
    }

    /// Whether there are no pixels; there always are.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Height and width of each view.
    pub fn shapes(&self) -> Vec<[u32; 2]> {
        self.cameras.iter().map(|camera| [camera.height, camera.width]).collect()
    }

    /// The camera of each view.
    pub fn cameras(&self) -> &[Camera] {
        &self.cameras
    }

    /// Bytes a pixel: 3, or 4 with alpha.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The pixels that can be trained on: those that masks let count, inside the valid field of their lens. `None`
    /// where that is all of them.
    pub fn in_use(&self) -> Option<&Bitmap> {
        self.in_use.as_ref()
    }

    /// View, column and row of the pixel `index`, or `None` beyond the last.
    pub fn locate(&self, index: u32) -> Option<(usize, u32, u32)> {
        ((index as usize) < self.len()).then(|| self.place(self.view_of(index), index))
    }

    fn view_of(&self, index: u32) -> usize {
        self.offsets.partition_point(|&offset| offset <= index) - 1
    }

    #[inline]
    fn place(&self, view: usize, index: u32) -> (usize, u32, u32) {
        let (pixel, width) = (index - self.offsets[view], self.cameras[view].width);
        (view, pixel % width, pixel / width)
    }

    /// The rays and colours of the pixels `indices`, in that order: fastest if it is increasing, the same in any.
    ///
    /// # Errors
    ///
    /// If an index is not below [`Pixels::len`], or its pixel is not in use (see [`Pixels::in_use`]).
    pub fn batch(&self, indices: &[u32]) -> Result<Batch> {
        if let Some(&most) = indices.iter().max()
            && most as usize >= self.len()
        {
            return Err(Error::config("indices", format!("below {}", self.len()), most.to_string()));
        }
        if let Some(in_use) = &self.in_use
            && let Some(index) = indices.par_iter().find_first(|&&index| !in_use.get(index as usize))
        {
            return Err(Error::config("indices", "pixels in use", index.to_string()));
        }
        let size = indices.len();
        let mut batch = Batch {
            origins: vec![[0.0; 3]; size],
            directions: vec![[0.0; 3]; size],
            rgba: vec![[0.0; 4]; size],
            views: vec![0; size],
        };
        let outputs = (
            batch.origins.par_chunks_mut(CHUNK),
            batch.directions.par_chunks_mut(CHUNK),
            batch.rgba.par_chunks_mut(CHUNK),
            batch.views.par_chunks_mut(CHUNK),
        );
        (indices.par_chunks(CHUNK), outputs).into_par_iter().for_each(
            |(indices, (origins, directions, colors, views))| {
                let mut view = 0;
                for (i, &index) in indices.iter().enumerate() {
                    if !(self.offsets[view]..self.offsets[view + 1]).contains(&index) {
                        view = self.view_of(index);
                    }
                    let (_, col, row) = self.place(view, index);
                    let camera = &self.cameras[view];
                    let at = index as usize * self.channels;
                    // Every pixel in use has a ray.
                    if let Some(ray) = camera.ray(col, row) {
                        (origins[i], directions[i]) = (ray.origin, ray.direction);
                    }
                    colors[i] = rgba(&self.data[at..at + self.channels]);
                    views[i] = view as u32;
                }
            },
        );
        Ok(batch)
    }
}

impl Batch {
    /// The number of rays.
    pub fn len(&self) -> usize {
        self.views.len()
    }

    /// Whether there are no rays.
    pub fn is_empty(&self) -> bool {
        self.views.is_empty()
    }

    /// The batch as tensors on `device`.
    ///
    /// # Errors
    ///
    /// If the device refuses.
    pub fn to_tensors(&self, device: &Device) -> Result<BatchTensors> {
        let size = self.len();
        Ok(BatchTensors {
            origins: Tensor::from_slice(self.origins.as_flattened(), (size, 3), device)?,
            directions: Tensor::from_slice(self.directions.as_flattened(), (size, 3), device)?,
            rgba: Tensor::from_slice(self.rgba.as_flattened(), (size, 4), device)?,
        })
    }
}
