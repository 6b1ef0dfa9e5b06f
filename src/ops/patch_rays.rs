//! Rays of the entries of an error map, on a GPU: the launches of `cuda/patch_rays.cu`. On the host the sampler
//! ([`crate::data::Sampler`]) does the same, and is the definition.

use candle_core::{
    CudaDevice, Device, Result, Tensor, bail,
    cuda_backend::cudarc::driver::{CudaSlice, CudaView, PushKernelArg},
};

use super::{
    CudaDraws,
    launch::{self, launched},
    weighted_draw::{Jitter, Strata},
};

/// Numbers of a view's row: first pixel, first patch, height, width, rows and columns of patches.
pub(crate) const VIEW: usize = 6;

/// The patches of all views and the rays in each, on a device.
#[derive(Debug)]
pub(crate) struct CudaPatches {
    pub(super) device: CudaDevice,
    /// `[V, 6]`.
    pub(super) views: CudaSlice<u32>,
    pub(super) num_views: u32,
    /// `[N]`: the rays, entry by entry; none where every pixel is one.
    pub(super) ray_order: Option<CudaSlice<u32>>,
    /// `[E + 1]`: where in it each entry begins; none where each is one ray.
    pub(super) first_rays: Option<CudaSlice<u32>>,
    pub(super) num_entries: usize,
    pub(super) num_pixels: usize,
}

/// Rays that were drawn, on a device.
#[derive(Debug, Clone)]
pub(crate) struct CudaRays {
    /// `[B]` u32, the pixels.
    pub indices: Tensor,
    /// `[B]` f32, with which a draw picks each.
    pub probability: Tensor,
    /// The entry of each, ascending, with the probability that a draw picks it.
    pub entries: CudaDraws,
    /// The number of pixels, which the indices are below.
    pub(super) num_pixels: usize,
}

impl CudaRays {
    /// Rays that are known to be those of entries, as from a checkpoint that was checked.
    pub fn known(indices: Tensor, probability: Tensor, entries: Tensor, patches: &CudaPatches) -> Self {
        let entries = CudaDraws::known(entries, probability.clone(), patches.num_entries);
        Self { indices, probability, entries, num_pixels: patches.num_pixels }
    }

    pub fn num_pixels(&self) -> usize {
        self.num_pixels
    }
}

impl CudaPatches {
    /// - `views`: `[V, 6]`, ascending;
    /// - `num_pixels`, `num_entries`: of all views;
    /// - `in_use`: where not every pixel is a ray, these entry by entry, and where each entry begins (`[E + 1]`; empty
    ///   where each is one ray).
    pub fn new(
        views: &[[u32; VIEW]],
        num_pixels: usize,
        num_entries: usize,
        in_use: Option<(Vec<u32>, &[u32])>,
        device: &Device,
    ) -> Result<Self> {
        let device = device.as_cuda_device()?.clone();
        let ends = in_use.as_ref().map(|(_, first_rays)| first_rays.len());
        if views.is_empty() || num_entries == 0 || !matches!(ends, None | Some(0)) && ends != Some(num_entries + 1) {
            bail!("patches: expected views and entries, found {} and {num_entries}", views.len())
        }
        let (ray_order, first_rays) = match &in_use {
            None => (None, None),
            Some((rays, [])) => (Some(launch::upload(&device, rays)?), None),
            Some((rays, first)) => (Some(launch::upload(&device, rays)?), Some(launch::upload(&device, first)?)),
        };
        Ok(Self {
            views: launch::upload(&device, views.as_flattened())?,
            num_views: launch::count_u32("views", views.len())?,
            ray_order,
            first_rays,
            num_entries,
            num_pixels,
            device,
        })
    }

    /// One ray of each entry that was drawn; [`crate::rng::Stream::Pixel`] says which.
    pub fn rays_of(&self, draws: CudaDraws, seed: u64, step: u64) -> Result<CudaRays> {
        if draws.map_len() != self.num_entries {
            bail!("draws: expected those from a map of {} entries, found {}", self.num_entries, draws.map_len())
        }
        let device = &self.device;
        let num = draws.draws().indices.elem_count();
        let (mut rays, mut probability) = (launch::zeros::<u32>(device, num)?, launch::zeros::<f32>(device, num)?);
        {
            let (entries, of_entries) = (&draws.draws().indices, &draws.draws().probability);
            let (entries, of_entries) = (entries.storage_and_layout(), of_entries.storage_and_layout());
            let entries = launch::view::<u32>("entries", launch::operand("entries", &entries.0, entries.1)?)?;
            let of_entries =
                launch::view::<f32>("probability", launch::operand("probability", &of_entries.0, of_entries.1)?)?;
            let (order, first) = self.in_use();
            let num_draws = num as u64;
            let kernel = launch::kernel(device, &launch::PATCH_RAYS, "patch_rays_f32")?;
            let mut args = kernel.args();
            args.arg(&entries).arg(&of_entries).arg(&self.views);
            launch::optional(&mut args, order.as_ref());
            launch::optional(&mut args, first.as_ref());
            args.arg(&num_draws).arg(&self.num_views).arg(&seed).arg(&step).arg(&mut rays).arg(&mut probability);
            // SAFETY: the arguments are those of the kernel. Entries were drawn from a map of as many as the patches
            // have; each draw writes its own ray and probability.
            launched(unsafe { args.launch(launch::threads(num)?) })?;
        }
        Ok(CudaRays {
            indices: launch::tensor(rays, num, device),
            probability: launch::tensor(probability, num, device),
            entries: draws,
            num_pixels: self.num_pixels,
        })
    }

    /// `num` of the `num_rays` rays, each with the same probability.
    pub fn evenly(&self, num: usize, num_rays: u32, seed: u64, step: u64) -> Result<CudaRays> {
        let device = &self.device;
        let (mut rays, mut entries) = (launch::zeros::<u32>(device, num)?, launch::zeros::<u32>(device, num)?);
        let mut probability = launch::zeros::<f32>(device, num)?;
        let (stratum, _) = Strata::with_jitter(Jitter::Stratified, num, 0, seed, step).parts();
        let (num_draws, all, each) = (num as u64, u64::from(num_rays), (1.0 / f64::from(num_rays)) as f32);
        let num_entries = launch::count_u32("entries", self.num_entries)?;
        {
            let (order, first) = self.in_use();
            let kernel = launch::kernel(device, &launch::PATCH_RAYS, "even_rays_f32")?;
            let mut args = kernel.args();
            args.arg(&self.views);
            launch::optional(&mut args, order.as_ref());
            launch::optional(&mut args, first.as_ref());
            args.arg(&num_draws).arg(&self.num_views).arg(&num_entries).arg(&all).arg(&stratum).arg(&each);
            args.arg(&seed).arg(&step).arg(&mut rays).arg(&mut entries).arg(&mut probability);
            // SAFETY: the arguments are those of the kernel. Places lie below the number of rays; each draw writes its
            // own ray, entry and probability.
            launched(unsafe { args.launch(launch::threads(num)?) })?;
        }
        let probability = launch::tensor(probability, num, device);
        let entries = launch::tensor(entries, num, device);
        Ok(CudaRays::known(launch::tensor(rays, num, device), probability, entries, self))
    }

    pub(super) fn in_use(&self) -> (Option<CudaView<'_, u32>>, Option<CudaView<'_, u32>>) {
        (self.ray_order.as_ref().map(CudaSlice::as_view), self.first_rays.as_ref().map(CudaSlice::as_view))
    }
}
