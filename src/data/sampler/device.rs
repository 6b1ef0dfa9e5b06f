//! A sampler whose map is on a GPU: draws and updates stay there, the counters on the host.

use candle_core::{Device, Tensor};

use super::adaptive::shares;
use super::draw::{Draw, DrawHeader};
use super::epoch::Permutation;
use super::rays::{Method, pool_size};
use super::{Sampler, SamplerConfig, SamplerHeader, Strategy};
use crate::ops::{CudaErrorMap, CudaPatches, CudaRays, ErrorMap, MapTotals, PoolRule, moved};
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

    /// The mean of the map as it is now, and the share of its entries that were visited. Reads 16 bytes back.
    pub fn read_summary(&self) -> Result<Option<(f64, f64)>> {
        let Some(map) = &self.map else { return Ok(None) };
        let totals = map.totals()?;
        Ok(Some((totals.mean(map.len(), self.cap), totals.visited_fraction(map.len()))))
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
    /// See [`Draw`]: on the device; none where nobody asks.
    densities: Option<Tensor>,
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
            densities: self.densities.as_ref().map_or(Ok(Vec::new()), |densities| host(densities)?.to_vec1())?,
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

    fn on_device(&self) -> Result<&OnDevice> {
        self.device.as_ref().ok_or_else(|| Error::config("sampler", "on a device", "on the host"))
    }

    /// Draws the rays of the next step without moving on to it.
    pub(in crate::data) fn prepare_on_device(&self) -> Result<DeviceDraw> {
        let OnDevice { map, patches: tables, .. } = self.on_device()?;
        let SamplerHeader { config, patches, counters, generation, .. } = &self.header;
        let SamplerConfig { batch_size, seed, uniform_fraction, .. } = *config;
        let (num_rays, step) = (patches.num_rays(), counters.step);
        let (method, after) = self.followed()?;
        let rays = match (method, map) {
            (Method::Weighted(share), Some(map)) if patches.shares().is_none() => {
                tables.rays_of(map.draw(batch_size, share, seed, step)?, seed, step)?
            }
            (Method::Weighted(share), Some(map)) => {
                let (num_even, rule) = (self.num_even(share), map.rule()?);
                let draws = map.draw(batch_size - num_even, 0.0, seed, step)?;
                tables.mixed(draws, (map, &rule), None, (num_even, num_rays, share), seed, step)?
            }
            (Method::TopK(pool), Some(map)) => {
                let (num_even, rule) = (self.num_even(uniform_fraction), map.rule()?);
                let size = pool_size(pool, map.len());
                let pool = PoolRule { size, whole: patches.whole(), mean_share: patches.mean_share() };
                let pool = tables.pool(map, &rule, pool)?;
                let draws = tables.draw_pool(&pool, batch_size - num_even, seed, step)?;
                tables.mixed(draws, (map, &rule), Some(&pool), (num_even, num_rays, uniform_fraction), seed, step)?
            }
            (Method::Epoch, _) => {
                let halves = Permutation::new(num_rays, seed, 0).halves();
                tables.of_epoch(batch_size, num_rays, halves, seed, counters.epoch_position)?
            }
            _ => tables.evenly(batch_size, num_rays, seed, step)?,
        };
        let densities = match map {
            Some(map) if config.strategy == Strategy::Adaptive => {
                Some(tables.densities(map, &*map.rule()?, &rays.entries, num_rays)?)
            }
            _ => None,
        };
        let header = DrawHeader {
            num_rays: patches.num_rays(),
            generation: *generation,
            importance_exponent: config.exponent_at(counters.step),
            before: *counters,
            after,
        };
        Ok(DeviceDraw { rays, header, weighted: method.is_weighted(), has_map: map.is_some(), densities })
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
        let densities = match &draw.densities[..] {
            [] => None,
            densities => Some(upload(Tensor::from_slice(densities, densities.len(), &Device::Cpu)?)?),
        };
        Ok(DeviceDraw { rays, header: draw.header, weighted, has_map: map.is_some(), densities })
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
            let SamplerHeader { config, patches, adaptive, .. } = &mut self.header;
            let tables = &on_device.patches;
            if let Some(densities) = &draw.densities {
                let (num_rays, shares) = (draw.num_rays(), shares(config.uniform_fraction));
                adaptive.learn_sums(tables.adaptive_sums(&draw.rays, densities, errors, num_rays, shares)?);
            }
            let shared = tables.shared(errors, &draw.rays.entries, config.error_cap, patches.whole())?;
            map.update_drawn(&draw.rays.entries, shared.as_ref().unwrap_or(errors))?;
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
