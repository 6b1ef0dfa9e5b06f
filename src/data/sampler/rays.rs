//! How each strategy draws.

use rayon::prelude::*;

use super::draw::DrawHeader;
use super::epoch::Permutation;
use super::stats::Counters;
use super::{Draw, Failure, OnFailure, Sampler, SamplerHeader, Strategy, top_k};
use crate::ops::{ErrorMap, HostDraws, MAX_UNIFORM_FRACTION, Strata};
use crate::rng::{Rng, Stream};
use crate::{Error, Result};

/// How one batch is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Method {
    Uniform,
    Epoch,
    /// In proportion to the map, with this uniform share.
    Weighted(f64),
    /// From the pool of this share of the entries.
    TopK(f64),
}

impl Method {
    /// Whether it follows the map.
    pub fn is_weighted(self) -> bool {
        matches!(self, Self::Weighted(_) | Self::TopK(_))
    }
}

/// Rays with their probabilities, grouped by entry.
#[derive(Default)]
struct Chosen {
    rays: Vec<u32>,
    entries: Vec<u32>,
    probability: Vec<f32>,
}

impl Sampler {
    /// What the strategy asks for at present.
    pub(super) fn method(&self) -> Method {
        let SamplerHeader { config, counters, adaptive, .. } = &self.header;
        let warm = counters.step >= config.warmup_steps;
        match config.strategy {
            Strategy::Epoch => Method::Epoch,
            Strategy::ErrorWeighted | Strategy::Spatial { .. } if warm => Method::Weighted(config.uniform_fraction),
            Strategy::Mixed { error_fraction } if warm => {
                Method::Weighted((1.0 - error_fraction).clamp(0.0, MAX_UNIFORM_FRACTION))
            }
            Strategy::TopK { pool } if warm => Method::TopK(pool),
            Strategy::Adaptive if warm => match adaptive.uniform_share(config.uniform_fraction) {
                1.0 => Method::Uniform,
                share => Method::Weighted(share.min(MAX_UNIFORM_FRACTION)),
            },
            _ => Method::Uniform,
        }
    }

    /// The share of the next draw that is made without regard to the map.
    pub(super) fn uniform_share(&self) -> f64 {
        match self.method() {
            Method::Uniform | Method::Epoch => 1.0,
            Method::Weighted(share) => share,
            Method::TopK(_) => self.header.config.uniform_fraction,
        }
    }

    /// Why `method` cannot be followed, if so.
    fn failure(&self, method: Method) -> Result<Option<Failure>> {
        let needs_errors = match method {
            Method::Uniform | Method::Epoch => false,
            Method::Weighted(share) => share == 0.0,
            Method::TopK(_) => self.header.config.uniform_fraction == 0.0,
        };
        let told = if needs_errors { self.mean_and_visited()? } else { None };
        // While nothing was visited all entries count alike, and that is as the strategy says.
        Ok(told.filter(|&(mean, visited)| mean == 0.0 && visited > 0.0).map(|_| Failure::ZeroMap))
    }

    /// The mean of the map as it is now, and the share of its entries that were visited.
    fn mean_and_visited(&self) -> Result<Option<(f64, f64)>> {
        #[cfg(feature = "cuda")]
        if let Some(on_device) = &self.device {
            return on_device.read_summary();
        }
        Ok(self.map.as_ref().map(|map| (map.mean(), map.visited_fraction())))
    }

    /// How the next batch is drawn, and the counters with what is told of it.
    pub(super) fn followed(&self) -> Result<(Method, Counters)> {
        let SamplerHeader { config, counters, .. } = &self.header;
        let mut after = *counters;
        let mut method = self.method();
        if let Some(failure) = self.failure(method)? {
            if config.on_failure == OnFailure::Error {
                return Err(Error::config("sampler.strategy", "one that can be followed", failure.to_string()));
            }
            after.fall_back(failure);
            method = Method::Uniform;
        }
        after.step += 1;
        after.weighted_steps += u64::from(method.is_weighted());
        if method == Method::Epoch {
            after.epoch_position += config.batch_size as u64;
        }
        Ok((method, after))
    }

    /// Draws the rays of the next step without moving on to it.
    pub(in crate::data) fn prepare(&self) -> Result<Draw> {
        let SamplerHeader { config, patches, counters, generation, .. } = &self.header;
        let (method, after) = self.followed()?;
        let chosen = match (method, &self.map) {
            (Method::Epoch, _) => self.next_of_epoch(counters.epoch_position),
            (Method::Weighted(share), Some(map)) if patches.shares().is_none() => self.by_error(map, share)?,
            (Method::Weighted(share), Some(map)) => self.by_error_and_evenly(map, share)?,
            (Method::TopK(pool), Some(map)) => self.by_pool(map, pool),
            _ => self.evenly(),
        };
        let weighted = method.is_weighted();
        let Chosen { rays: indices, mut entries, probability } = chosen;
        let densities = match &self.map {
            Some(map) if config.strategy == Strategy::Adaptive => self.densities(map, &entries),
            _ => Vec::new(),
        };
        if self.map.is_none() {
            entries = Vec::new();
        }
        let header = DrawHeader {
            num_rays: patches.num_rays(),
            generation: *generation,
            importance_exponent: config.exponent_at(counters.step),
            before: *counters,
            after,
        };
        let mut draw = Draw { indices, probability, entries, densities, header };
        draw.header.after.effective_sample_size = if weighted { draw.effective_sample_size() } else { 1.0 };
        Ok(draw)
    }

    /// Every ray with the same probability, stratified over the rays in the order of their entries.
    fn evenly(&self) -> Chosen {
        let SamplerHeader { config, patches, counters, .. } = &self.header;
        let strata = Strata::new(config.batch_size, u64::from(patches.num_rays()), config.seed, counters.step);
        let places = (0..config.batch_size as u32).into_par_iter().map(|k| strata.point(k) as u32);
        self.at_places(places)
    }

    /// Equally probable rays, at ascending places in the order of their entries.
    fn at_places(&self, places: impl IndexedParallelIterator<Item = u32>) -> Chosen {
        let patches = &self.header.patches;
        let (rays, entries): (Vec<_>, Vec<_>) = places.map(|place| patches.ray_in_entry_order(place)).unzip();
        let probability = vec![(1.0 / f64::from(patches.num_rays())) as f32; rays.len()];
        Chosen { rays, entries, probability }
    }

    /// The rays from `position` on, where all epochs follow one another.
    fn next_of_epoch(&self, position: u64) -> Chosen {
        let SamplerHeader { config, patches, .. } = &self.header;
        let num_rays = patches.num_rays();
        let place = |k: u64| {
            let (epoch, at) = ((position + k) / u64::from(num_rays), (position + k) % u64::from(num_rays));
            Permutation::new(num_rays, config.seed, epoch).get(at as u32)
        };
        let mut places: Vec<u32> = (0..config.batch_size).into_par_iter().map(|k| place(k as u64)).collect();
        // Neighbours share cache lines, cells and map entries.
        places.par_sort_unstable();
        self.at_places(places.into_par_iter())
    }

    /// An entry in proportion to the map, and one of its pixels uniformly.
    fn by_error(&self, map: &ErrorMap, uniform_share: f64) -> Result<Chosen> {
        let SamplerHeader { config, counters, .. } = &self.header;
        let HostDraws { indices: entries, mut probability } =
            map.draw_host(config.batch_size, uniform_share, config.seed, counters.step)?;
        let (rays, counts) = self.rays_of(&entries);
        probability.par_iter_mut().zip(counts).for_each(|(p, count)| *p = (f64::from(*p) / f64::from(count)) as f32);
        Ok(Chosen { rays, entries, probability })
    }

    /// One of the rays of each entry, and how many it has.
    fn rays_of(&self, entries: &[u32]) -> (Vec<u32>, Vec<u32>) {
        let SamplerHeader { config, patches, counters, .. } = &self.header;
        let rng = Rng::new(config.seed, Stream::Pixel, counters.step);
        let pick = |(k, &entry): (usize, &u32)| patches.ray_of_entry(entry, |count| rng.below(k as u32, count));
        entries.par_iter().enumerate().map(pick).unzip()
    }

    /// [`Sampler::by_error`] where entries have few rays and many: the uniform share is spread over the rays, not over
    /// the entries.
    fn by_error_and_evenly(&self, map: &ErrorMap, uniform_share: f64) -> Result<Chosen> {
        let SamplerHeader { config, counters, .. } = &self.header;
        let num_even = self.num_even(uniform_share);
        let by_error = map.draw_host(config.batch_size - num_even, 0.0, config.seed, counters.step)?.indices;
        Ok(self.mixed(&by_error, num_even, uniform_share, map.probability(0.0)))
    }

    fn by_pool(&self, map: &ErrorMap, pool: f64) -> Chosen {
        let SamplerHeader { config, patches, counters, .. } = &self.header;
        let size = pool_size(pool, map.len());
        let (mean, share) = (self.mean_error(map) as f32, patches.shares());
        let error = |entry: u32| {
            let value = map.values()[entry as usize];
            if value.is_sign_negative() { mean } else { share.as_ref().map_or(value, |share| value / share(entry)) }
        };
        // Errors are not negative, so that their bits are in their order.
        let pool = top_k::largest(map.len(), size, |entry| error(entry).to_bits());
        let num_even = self.num_even(config.uniform_fraction);
        let strata = Strata::new(config.batch_size - num_even, size as u64, config.seed, counters.step);
        let num_by_error = (config.batch_size - num_even) as u32;
        let drawn: Vec<u32> = (0..num_by_error).into_par_iter().map(|k| pool[strata.point(k) as usize]).collect();
        let of_entry = |entry: u32| if pool.binary_search(&entry).is_ok() { 1.0 / size as f64 } else { 0.0 };
        self.mixed(&drawn, num_even, config.uniform_fraction, of_entry)
    }

    /// How many rays of the batch are drawn evenly: `share` of them in the mean over steps, whole ones in each.
    pub(super) fn num_even(&self, share: f64) -> usize {
        let SamplerHeader { config, counters, .. } = &self.header;
        let dither = f64::from(Rng::new(config.seed, Stream::Mixture, counters.step).uniform(u32::MAX));
        ((share * config.batch_size as f64 + dither) as usize).min(config.batch_size)
    }

    /// One ray of each of the entries, and `num_even` of all rays, merged; `of_entry` is the probability that the
    /// former gives an entry.
    fn mixed(&self, entries: &[u32], num_even: usize, even_share: f64, of_entry: impl Fn(u32) -> f64 + Sync) -> Chosen {
        let SamplerHeader { config, patches, counters, .. } = &self.header;
        let num_rays = patches.num_rays();
        let by_error = self.rays_of(entries).0;
        let rng = Rng::new(config.seed, Stream::Mixture, counters.step);
        let place = |k: u64| {
            // A random place in each of `num_even` equal strata.
            let position = u128::from(k << 32 | u64::from(rng.block(k as u32)[0])) * u128::from(num_rays);
            ((position / num_even as u128) >> 32) as u32
        };
        let Chosen { rays: evenly, entries: even_entries, .. } =
            self.at_places((0..num_even).into_par_iter().map(|k| place(k as u64)));
        let mut chosen = Chosen::default();
        let mut even = even_entries.iter().zip(evenly).peekable();
        for (&entry, ray) in entries.iter().zip(by_error) {
            while let Some((&other, ray)) = even.next_if(|(other, _)| **other < entry) {
                chosen.entries.push(other);
                chosen.rays.push(ray);
            }
            chosen.entries.push(entry);
            chosen.rays.push(ray);
        }
        for (&entry, ray) in even {
            chosen.entries.push(entry);
            chosen.rays.push(ray);
        }
        let probability = |&entry: &u32| {
            let by_error = of_entry(entry) / f64::from(patches.num_rays_of(entry));
            ((1.0 - even_share) * by_error + even_share / f64::from(num_rays)) as f32
        };
        chosen.probability = chosen.entries.par_iter().map(probability).collect();
        chosen
    }

    /// `N` times the probability that the map alone gives the rays of `entries`; 1 while it says nothing.
    fn densities(&self, map: &ErrorMap, entries: &[u32]) -> Vec<f32> {
        let patches = &self.header.patches;
        let mean = map.mean();
        let scale = f64::from(patches.num_rays()) / (mean * map.len() as f64);
        let density = |&entry: &u32| {
            if mean == 0.0 {
                return 1.0;
            }
            (scale * value_of(map, entry, mean) / f64::from(patches.num_rays_of(entry))) as f32
        };
        entries.par_iter().map(density).collect()
    }
}

/// How many of `len` entries a share of them is.
pub(super) fn pool_size(pool: f64, len: usize) -> usize {
    ((pool * len as f64).ceil() as usize).clamp(1, len)
}

/// What an entry holds; the mean where it was never visited.
fn value_of(map: &ErrorMap, entry: u32, mean: f64) -> f64 {
    let value = map.values()[entry as usize];
    if value.is_sign_negative() { mean } else { f64::from(value) }
}
