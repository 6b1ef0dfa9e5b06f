//! A sampler whose map is on a GPU: draws and updates stay there, the counters on the host.

use candle_core::{Device, Tensor};

use super::draw::{Draw, DrawHeader};
use super::rays::Method;
use super::{Sampler, SamplerConfig, SamplerHeader, Strategy};
use crate::ops::{CudaErrorMap, CudaPatches, CudaRays, ErrorMap, MapTotals, moved};
use crate::{Error, Result};

/// What of a sampler is on a device.
#[derive(Debug)]
pub(super) struct OnDevice {
    device: Device,
    map: Option<CudaErrorMap>,
    cap: f32,
    patches: CudaPatches,
    /// As of the last step.
    totals: MapTotals,
}

impl OnDevice {
    pub fn read_map(&self) -> Result<Option<ErrorMap>> {
        Ok(self.map.as_ref().map(CudaErrorMap::to_host).transpose()?)
    }

    /// The mean error of a visited entry, and the share of the entries that were visited, where there is a map.
    pub fn map_summary(&self) -> Option<(f64, f64)> {
        let len = self.map.as_ref()?.len();
        Some((self.totals.mean(len, self.cap), self.totals.visited_fraction(len)))
    }
}

/// The rays of one step, on a device.
#[derive(Debug)]
pub(crate) struct DeviceDraw {
    pub rays: CudaRays,
    pub(super) header: DrawHeader,
    weighted: bool,
    /// Whether its entries are those of a map.
    has_map: bool,
}

impl DeviceDraw {
    /// See [`Draw::importance_exponent`].
    pub fn importance_exponent(&self) -> f32 {
        self.header.importance_exponent
    }

    /// The number of rays that were drawn from.
    pub fn num_rays(&self) -> u32 {
        self.header.num_rays
    }

    /// A copy on the host. Reads the draw back.
    pub fn read(&self) -> Result<Draw> {
        let CudaRays { indices, probability, entries, .. } = &self.rays;
        let host = |tensor: &Tensor| moved(tensor, &Device::Cpu);
        Ok(Draw {
            indices: host(indices)?.to_vec1()?,
            probability: host(probability)?.to_vec1()?,
            entries: if self.has_map { host(&entries.draws().indices)?.to_vec1()? } else { Vec::new() },
            densities: Vec::new(),
            header: self.header,
        })
    }
}

/// What a step says of its errors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Told {
    /// The largest after the power, at most the cap.
    pub max_error: f32,
    pub capped: u64,
    /// The sums of the weights `w = 1 / (N p)` and of their squares.
    pub weights: [f64; 2],
    /// The map as the draw saw it, where it was drawn from.
    pub totals: Option<MapTotals>,
}

impl Sampler {
    /// Moves the map to `device`: from here on only the functions of this file draw and update.
    pub(in crate::data) fn move_to(&mut self, device: &Device) -> Result<()> {
        self.check_supported()?;
        let patches = &self.header.patches;
        let on_device = CudaPatches::new(
            &patches.views(),
            patches.num_pixels() as usize,
            patches.num_entries(),
            patches.ray_order(),
            device,
        )?;
        let map = self.host_map()?;
        let totals = map.as_deref().map_or(MapTotals::default(), MapTotals::of);
        let map = map.as_deref().map(|map| CudaErrorMap::new(map, device)).transpose()?;
        let cap = self.header.config.error_cap;
        self.device = Some(OnDevice { device: device.clone(), map, cap, patches: on_device, totals });
        self.map = None;
        Ok(())
    }

    /// Moves the map back to the host.
    pub(in crate::data) fn leave_device(&mut self) -> Result<()> {
        if let Some(on_device) = &self.device {
            self.map = on_device.read_map()?;
            self.device = None;
        }
        Ok(())
    }

    /// Refuses settings that there are no kernels for.
    fn check_supported(&self) -> Result<()> {
        let SamplerHeader { config, patches, .. } = &self.header;
        let share = match config.strategy {
            Strategy::None | Strategy::Uniform => return Ok(()),
            Strategy::ErrorWeighted | Strategy::Spatial { .. } => config.uniform_fraction,
            Strategy::Mixed { error_fraction } => 1.0 - error_fraction,
            other @ (Strategy::Epoch | Strategy::TopK { .. } | Strategy::Adaptive) => {
                let expected = "none, uniform, error-weighted, spatial or mixed on a CUDA device";
                return Err(Error::config("sampler.strategy", expected, format!("{other:?}")));
            }
        };
        // Whether there is any error to be in proportion to is known to the device alone.
        if share <= 0.0 {
            return Err(Error::config("sampler.uniform_fraction", "above 0 on a CUDA device", share.to_string()));
        }
        if patches.shares().is_some() {
            let expected = "1 on a CUDA device where pixels are left out (masks, lenses)";
            return Err(Error::config("sampler.patch", expected, config.map_patch().to_string()));
        }
        Ok(())
    }

    fn on_device(&self) -> Result<&OnDevice> {
        self.device.as_ref().ok_or_else(|| Error::config("sampler", "on a device", "on the host"))
    }

    /// Draws the rays of the next step without moving on to it.
    pub(in crate::data) fn prepare_on_device(&self) -> Result<DeviceDraw> {
        let OnDevice { map, patches: tables, .. } = self.on_device()?;
        let SamplerHeader { config, patches, counters, generation, .. } = &self.header;
        let SamplerConfig { batch_size, seed, .. } = *config;
        let (rays, weighted) = match (self.method(), map) {
            (Method::Weighted(share), Some(map)) => {
                let draws = map.draw(batch_size, share, seed, counters.step)?;
                (tables.rays_of(draws, seed, counters.step)?, true)
            }
            _ => (tables.evenly(batch_size, patches.num_rays(), seed, counters.step)?, false),
        };
        let mut after = *counters;
        after.step += 1;
        after.weighted_steps += u64::from(weighted);
        let header = DrawHeader {
            num_rays: patches.num_rays(),
            generation: *generation,
            importance_exponent: config.exponent_at(counters.step),
            before: *counters,
            after,
        };
        Ok(DeviceDraw { rays, header, weighted, has_map: map.is_some() })
    }

    pub(in crate::data) fn commit_on_device(&mut self, draw: &DeviceDraw) {
        self.header.counters = draw.header.after;
    }

    /// See [`Sampler::put_back`].
    pub(in crate::data) fn put_back_on_device(&mut self, draw: &DeviceDraw) -> Result<()> {
        self.put_back_header(&draw.header)
    }

    /// A draw that was made on the host, as one on the device.
    pub(in crate::data) fn upload_draw(&self, draw: &Draw) -> Result<DeviceDraw> {
        let OnDevice { device, patches, map, .. } = self.on_device()?;
        let upload = |tensor: Tensor| moved(&tensor, device);
        let (indices, probability) = (upload(draw.indices()?)?, upload(draw.probability()?)?);
        let entries = match map {
            Some(_) => upload(Tensor::from_slice(&draw.entries, draw.entries.len(), &Device::Cpu)?)?,
            None => indices.clone(),
        };
        let weighted = draw.header.after.weighted_steps > draw.header.before.weighted_steps;
        let rays = CudaRays::known(indices, probability, entries, patches);
        Ok(DeviceDraw { rays, header: draw.header, weighted, has_map: map.is_some() })
    }

    /// Enters the errors of a draw's rays, `[B]` f32 on the device, raised to their power; `after` is the draw that
    /// waits, if one does.
    pub(in crate::data) fn update_on_device(
        &mut self,
        draw: &DeviceDraw,
        errors: &Tensor,
        told: Told,
        after: Option<&mut DeviceDraw>,
    ) -> Result<()> {
        self.check_due(&draw.header)?;
        let Some(on_device) = &mut self.device else {
            return Err(Error::config("sampler", "on a device", "on the host"));
        };
        if let Some(map) = &mut on_device.map {
            map.update_drawn(&draw.rays.entries, errors)?;
            self.header.max_error = told.max_error;
            self.header.capped += told.capped;
        }
        on_device.totals = told.totals.unwrap_or(on_device.totals);
        self.header.next_update = draw.header.before.step + 1;
        let [sum, squares] = told.weights;
        let size = errors.elem_count() as f64;
        let effective = if draw.weighted { sum * sum / (size * squares) } else { 1.0 };
        self.header.counters.effective_sample_size = effective;
        if let Some(after) = after {
            after.header.before.effective_sample_size = effective;
            after.header.after.effective_sample_size = effective;
        }
        Ok(())
    }
}
