//! Which rays to train on next: a persistent sampler over the pixels of all views.
//!
//! The sampler owns its step, its error map and its seed. A draw is a pure function of (seed, step, map), so a
//! resumed run draws what the uninterrupted one would have drawn. [`Sampler::update`] takes the [`Draw`] by value:
//! errors cannot be paired with the rays of another step, nor entered twice.
//!
//! How rays are chosen, and with what probability, is said at [`Strategy`].

mod adaptive;
mod config;
#[cfg(feature = "cuda")]
mod device;
mod draw;
mod epoch;
mod rays;
mod state;
mod stats;
mod top_k;

pub use config::{OnFailure, SamplerConfig, Strategy};
pub use draw::{Draw, DrawHeader};
pub use state::{SamplerHeader, ViewLayout};
pub use stats::{Failure, SamplerStats};

#[cfg(feature = "cuda")]
pub(super) use device::DeviceDraw;
#[cfg(feature = "cuda")]
pub(crate) use device::Told;
pub(super) use draw::check_errors;

use std::borrow::Cow;

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use self::adaptive::Adaptive;
use self::stats::Counters;
use super::Bitmap;
use super::patches::Patches;
use crate::{
    Error, Result,
    ops::{ErrorMap, ScatterStats},
};

/// Draws rays, step after step, and learns where the error is.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_radfoam::data::{Sampler, SamplerConfig};
///
/// # fn main() -> candle_radfoam::Result<()> {
/// let config = SamplerConfig { batch_size: 256, ..Default::default() };
/// let mut sampler = Sampler::new(&[[48, 64], [48, 64]], config)?; // two views of 48 rows and 64 columns
/// for _ in 0..10 {
///     let draw = sampler.draw()?;
///     let errors = Tensor::full(0.01f32, draw.len(), &Device::Cpu)?; // squared error of each ray
///     sampler.update(draw, &errors)?;
/// }
/// assert_eq!(sampler.stats().step, 10);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Sampler {
    header: SamplerHeader,
    /// None where no map is kept, or it is on a device.
    map: Option<ErrorMap>,
    #[cfg(feature = "cuda")]
    device: Option<device::OnDevice>,
}

impl Sampler {
    /// A sampler over views of the given `[height, width]` in pixels, all of which are in use.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] on a setting out of range, on no view or an empty one, on `2^32 - 1` rays or more.
    pub fn new(shapes: &[[u32; 2]], config: SamplerConfig) -> Result<Self> {
        Self::with_in_use(shapes, None, config)
    }

    /// A sampler over the pixels `in_use` of views of the given `[height, width]`; over all of them where that is not
    /// given. The others are never drawn, are no part of any probability, and take no room in the map.
    ///
    /// # Errors
    ///
    /// As [`Sampler::new`], and where `in_use` has another number of pixels than the views, or none in use.
    pub fn with_in_use(shapes: &[[u32; 2]], in_use: Option<&Bitmap>, config: SamplerConfig) -> Result<Self> {
        config.validate()?;
        let patches = Patches::new(shapes, config.map_patch(), in_use)?;
        let keeps_map = config.strategy.keeps_map();
        let map = keeps_map.then(|| ErrorMap::new(patches.num_entries(), config.map_settings())).transpose()?;
        let header = SamplerHeader {
            config,
            patches,
            counters: Counters::default(),
            next_update: 0,
            generation: 0,
            skipped_non_finite: 0,
            negative: 0,
            capped: 0,
            max_error: 0.0,
            adaptive: Adaptive::default(),
        };
        Ok(Self::from_parts(header, map))
    }

    fn from_parts(header: SamplerHeader, map: Option<ErrorMap>) -> Self {
        Self {
            header,
            map,
            #[cfg(feature = "cuda")]
            device: None,
        }
    }

    /// The map, wherever it is: one that is on a device is read back.
    fn host_map(&self) -> Result<Option<Cow<'_, ErrorMap>>> {
        #[cfg(feature = "cuda")]
        if let Some(on_device) = &self.device {
            return Ok(on_device.read_map()?.map(Cow::Owned));
        }
        Ok(self.map.as_ref().map(Cow::Borrowed))
    }

    /// The mean error of a visited ray, and the share of entries that were visited; of a map on a device, as of the
    /// last step.
    fn map_summary(&self) -> (f64, f64) {
        #[cfg(feature = "cuda")]
        if let Some((mean, visited)) = self.device.as_ref().and_then(|on_device| on_device.map_summary()) {
            return (mean / self.header.patches.mean_share(), visited);
        }
        self.map.as_ref().map_or((0.0, 0.0), |map| (self.mean_error(map), map.visited_fraction()))
    }

    /// The settings.
    pub fn config(&self) -> &SamplerConfig {
        &self.header.config
    }

    /// The number of draws made so far, which is the step of the next one.
    pub fn step(&self) -> u64 {
        self.header.counters.step
    }

    /// The number of rays there are: of pixels in use.
    pub fn num_rays(&self) -> u32 {
        self.header.patches.num_rays()
    }

    /// The `[height, width]` of each view in pixels.
    pub fn shapes(&self) -> Vec<[u32; 2]> {
        self.header.patches.shapes()
    }

    /// The pixels in use, or `None` where that is all of them.
    pub fn in_use(&self) -> Option<&Bitmap> {
        self.header.patches.in_use()
    }

    /// Draws the rays of the next step.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] where the strategy cannot be followed (see [`Failure`]) and
    /// [`SamplerConfig::on_failure`] does not say otherwise. The sampler is then as it was.
    pub fn draw(&mut self) -> Result<Draw> {
        let draw = self.prepare()?;
        self.commit(&draw);
        Ok(draw)
    }

    /// Moves on past a draw that [`Sampler::prepare`] made.
    pub(super) fn commit(&mut self, draw: &Draw) {
        self.header.counters = draw.header.after;
    }

    /// Takes back the last draw, so that the next one is the same again: for a step that failed.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] where it is not the last draw of this sampler. Nothing is changed then.
    pub fn put_back(&mut self, draw: Draw) -> Result<()> {
        self.put_back_header(&draw.header)
    }

    fn put_back_header(&mut self, draw: &DrawHeader) -> Result<()> {
        let header = &mut self.header;
        let is_last = draw.after == header.counters && draw.generation == header.generation;
        if !is_last || draw.before.step < header.next_update {
            let expected = format!("the draw of step {}, not entered yet", header.counters.step.saturating_sub(1));
            return Err(Error::config("draw", expected, format!("one of step {}", draw.before.step)));
        }
        header.counters = draw.before;
        Ok(())
    }

    /// Tells a draw that has waited of a map that had to be begun anew meanwhile.
    pub(super) fn tell_pending(&self, draw: &mut Draw) {
        let Counters { fallbacks, failure, .. } = self.header.counters;
        if failure == Some(Failure::UnusableMap) && fallbacks == draw.header.after.fallbacks + 1 {
            draw.header.before.fall_back(Failure::UnusableMap);
            draw.header.after.fall_back(Failure::UnusableMap);
        }
    }

    /// Checks that a draw from a checkpoint is the last one of this sampler, and names rays and entries that there are.
    pub(super) fn check_pending(&self, draw: &Draw) -> Result<()> {
        let header = &self.header;
        let num_entries = self.map.as_ref().map_or(0, ErrorMap::len);
        let is_probability = |p: &f32| *p > 0.0 && *p <= 1.0;
        let valid = draw.header.after == header.counters
            && draw.header.generation == header.generation
            && draw.header.num_rays == header.patches.num_rays()
            && draw.probability.iter().all(is_probability)
            && draw.entries.len() == self.map.as_ref().map_or(0, |_| draw.len())
            && draw.entries.iter().all(|&entry| (entry as usize) < num_entries)
            && draw.densities.iter().all(|density| density.is_finite());
        if valid { Ok(()) } else { Err(Error::tensor("pending", "the last draw of the sampler", "another one")) }
    }

    /// Enters the errors of a draw's rays into the map: `errors` is `[B]` f32, one a ray, in the draw's order.
    ///
    /// Draws are updated in the order in which they were made, each at most once; some may be left out, and a few
    /// may be under way at the same time.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] where `errors` has another length or dtype; [`Error::Config`] where the draw is of another
    /// sampler, from before a change of resolution, or older than one already entered. Nothing is updated then.
    pub fn update(&mut self, draw: Draw, errors: &Tensor) -> Result<ScatterStats> {
        check_errors(errors, draw.len())?;
        self.check_due(&draw.header)?;
        let header = &mut self.header;
        let Some(map) = &mut self.map else {
            let skipped_non_finite = errors.to_vec1::<f32>()?.iter().filter(|error| !error.is_finite()).count();
            header.next_update = draw.step() + 1;
            header.skipped_non_finite += skipped_non_finite as u64;
            return Ok(ScatterStats { skipped_non_finite, ..ScatterStats::default() });
        };
        let SamplerConfig { error_power, error_cap, uniform_fraction, .. } = header.config;
        let mut values: Vec<f32> =
            errors.to_vec1()?.into_par_iter().map(|error: f32| raise(error, error_power)).collect();
        let max_error =
            values.par_iter().filter(|v| v.is_finite()).map(|v| v.clamp(0.0, error_cap)).reduce(|| 0.0, f32::max);
        if !draw.densities.is_empty() {
            let weights: Vec<f64> = draw.inverse_densities().collect();
            header.adaptive.observe(uniform_fraction, &weights, &draw.densities, &values);
        }
        let mut capped = 0;
        if let Some(share) = header.patches.shares() {
            // The cap is one of errors, not of errors times shares.
            capped = values.iter().filter(|v| v.is_finite() && **v > error_cap).count();
            let pairs = values.par_iter_mut().zip(&draw.entries);
            pairs.filter(|(value, _)| value.is_finite()).for_each(|(value, &entry)| {
                *value = value.min(error_cap) * share(entry);
            });
        }
        let mut stats = map.update_host(&draw.entries, &values)?;
        stats.capped += capped;
        header.next_update = draw.step() + 1;
        header.max_error = max_error;
        header.skipped_non_finite += stats.skipped_non_finite as u64;
        header.negative += stats.negative as u64;
        header.capped += stats.capped as u64;
        Ok(stats)
    }

    /// Checks that the errors of a draw may be entered now.
    fn check_due(&self, draw: &DrawHeader) -> Result<()> {
        let (header, step) = (&self.header, draw.before.step);
        if !(header.next_update..header.counters.step).contains(&step) {
            let expected = format!("a draw of steps {}..{}", header.next_update, header.counters.step);
            return Err(Error::config("draw", expected, format!("one of step {step}")));
        }
        if draw.generation != header.generation || draw.num_rays != header.patches.num_rays() {
            return Err(Error::config("draw", "one of the present resolution", "one of another resolution"));
        }
        Ok(())
    }

    /// Carries the map over to views of other sizes (the same views, in the same order), all of whose pixels are in
    /// use; draws made before can no longer be entered. Entries that nothing visited stay unvisited.
    ///
    /// # Errors
    ///
    /// As [`Sampler::new`], and where the number of views differs.
    pub fn resample(&mut self, shapes: &[[u32; 2]]) -> Result<()> {
        self.resample_in_use(shapes, None)
    }

    /// [`Sampler::resample`] to views of which the pixels `in_use` are.
    ///
    /// # Errors
    ///
    /// As [`Sampler::with_in_use`], and where the number of views differs.
    pub fn resample_in_use(&mut self, shapes: &[[u32; 2]], in_use: Option<&Bitmap>) -> Result<()> {
        let header = &mut self.header;
        if shapes.len() != header.patches.num_views() {
            let expected = format!("the same {} views", header.patches.num_views());
            return Err(Error::config("shapes", expected, format!("{} views", shapes.len())));
        }
        let patches = Patches::new(shapes, header.config.map_patch(), in_use)?;
        if let Some(map) = &mut self.map {
            let errors = errors_of(map, &header.patches);
            let mut values = patches.resample(&header.patches, &errors, ErrorMap::UNVISITED);
            if let Some(share) = patches.shares() {
                values.par_iter_mut().enumerate().for_each(|(entry, value)| *value *= share(entry as u32));
            }
            *map = ErrorMap::from_values(values, map.settings())?;
        }
        let [old, new] = [&header.patches, &patches].map(|patches| u64::from(patches.num_rays()));
        if old != new {
            // Places in the order of the old rays mean nothing among the new ones: a new epoch begins.
            header.counters.epoch_position = header.counters.epoch_position.div_ceil(old) * new;
        }
        header.patches = patches;
        header.generation += 1;
        Ok(())
    }

    /// The map of one view, for pictures: `[rows, columns]` f32 of `error^error_power`; an unvisited entry shows the
    /// mean of the visited ones, which is what a draw takes it for, and a patch without a pixel in use NaN. All zeros
    /// without a map.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] where there is no such view.
    pub fn map_image(&self, view: usize) -> Result<Tensor> {
        let patches = &self.header.patches;
        let Some(grid) = patches.grid(view) else {
            return Err(Error::config("view", format!("below {}", patches.num_views()), view.to_string()));
        };
        let size = (grid.rows as usize, grid.columns as usize);
        let Some(map) = self.host_map()? else {
            return Ok(Tensor::zeros(size, DType::F32, &Device::Cpu)?);
        };
        let (mean, share) = (self.mean_error(&map) as f32, patches.shares());
        let error = |entry: u32| {
            let value = map.values()[entry as usize];
            if value.is_sign_negative() { mean } else { share.as_ref().map_or(value, |share| value / share(entry)) }
        };
        let image = grid.patches().map(|patch| patches.entry_of_patch(patch).map_or(f32::NAN, error)).collect();
        Ok(Tensor::from_vec(image, size, &Device::Cpu)?)
    }

    /// What it has done so far.
    pub fn stats(&self) -> SamplerStats {
        let SamplerHeader { counters, skipped_non_finite, negative, capped, max_error, .. } = self.header;
        let (mean_error, visited_fraction) = self.map_summary();
        SamplerStats {
            step: counters.step,
            weighted_share: counters.weighted_steps as f64 / counters.step.max(1) as f64,
            uniform_share: self.uniform_share(),
            effective_sample_size: counters.effective_sample_size,
            mean_error,
            max_error: f64::from(max_error),
            visited_fraction,
            skipped_non_finite,
            negative,
            capped,
            fallbacks: counters.fallbacks,
            failure: counters.failure,
        }
    }

    /// The mean error of a visited entry; where entries hold errors times shares, that of a ray.
    fn mean_error(&self, map: &ErrorMap) -> f64 {
        map.mean() / self.header.patches.mean_share()
    }
}

/// The errors of a map's entries, without the shares that they are stored with; the sign bit marks unvisited ones.
fn errors_of<'a>(map: &'a ErrorMap, patches: &Patches) -> Cow<'a, [f32]> {
    match patches.shares() {
        None => map.values().into(),
        Some(share) => {
            (0..map.len()).into_par_iter().map(|e| map.values()[e] / share(e as u32)).collect::<Vec<_>>().into()
        }
    }
}

/// `error^power`, where NaN stays NaN and a negative error negative, for the map to count them.
fn raise(error: f32, power: f32) -> f32 {
    if error.is_nan() || error <= 0.0 {
        return error;
    }
    // The two usual powers have the same bits on every machine; `powf` need not.
    match power {
        1.0 => error,
        0.5 => error.sqrt(),
        _ => error.powf(power),
    }
}
