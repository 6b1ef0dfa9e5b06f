//! Which rays to train on next: a persistent sampler over the pixels of all views.
//!
//! The sampler owns its step, its error map and its seed. A draw is a pure function of (seed, step, map), so a
//! resumed run draws what the uninterrupted one would have drawn. [`Sampler::update`] takes the [`Draw`] by value:
//! errors cannot be paired with the rays of another step, nor entered twice.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::patches::Patches;
use crate::{
    Error, Result,
    ops::{ErrorMap, ErrorMapSettings, HostDraws, MAX_UNIFORM_FRACTION, ScatterStats, Strata},
    rng::{Rng, Stream},
};

/// The name of the error map among the tensors of [`Sampler::state`].
const MAP_TENSOR: &str = "error_map";

/// How rays are chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Uniformly over all rays; no map is kept, updates do nothing.
    None,
    /// Uniformly over all rays; the map is kept up to date all the same, for pictures and for comparison.
    Uniform,
    /// In proportion to the error map, with a uniform share.
    #[default]
    ErrorWeighted,
}

/// The settings of a [`Sampler`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplerConfig {
    /// How rays are chosen.
    pub strategy: Strategy,
    /// Rays a draw, at least 1. It may exceed the number of rays there are.
    pub batch_size: usize,
    /// What all randomness is a function of, together with the step.
    pub seed: u64,
    /// Draws that are uniform before the map is used, so that it has something to say.
    pub warmup_steps: u64,
    /// The share drawn evenly over the map's entries, in `[0, 0.99]`. It bounds how stale an entry can get, and the
    /// importance weights: they stay below its inverse (times the small difference in patch sizes).
    pub uniform_fraction: f64,
    /// The share of an entry's old value that an update keeps, in `[0, 1]`.
    pub decay: f32,
    /// The side in pixels of the patch that one map entry stands for; 1 is an entry a ray. On a short budget a map
    /// with an entry for every ray cannot even be visited once.
    pub patch: u32,
    /// Errors enter the map raised to this power, which must be positive. For squared errors 0.5 gives `|residual|`,
    /// to which the draw of least gradient variance is proportional (Katharopoulos and Fleuret, "Not All Samples Are
    /// Created Equal", ICML 2018).
    pub error_power: f32,
    /// The largest value that enters the map (after the power); larger ones are cut to it and counted.
    pub error_cap: f32,
}

impl Default for SamplerConfig {
    fn default() -> Self {
        let map = ErrorMapSettings::default();
        Self {
            strategy: Strategy::default(),
            batch_size: 8192,
            seed: 0,
            warmup_steps: 0,
            uniform_fraction: 0.3,
            decay: map.decay,
            patch: 8,
            error_power: 0.5,
            error_cap: map.cap,
        }
    }
}

impl SamplerConfig {
    /// Checks every setting against its range.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for the first one outside it.
    pub fn validate(&self) -> Result<()> {
        let check = |valid: bool, field: &str, expected: &str, found: String| {
            if valid { Ok(()) } else { Err(Error::config(field, expected, found)) }
        };
        let batch_fits = self.batch_size >= 1 && u32::try_from(self.batch_size).is_ok();
        check(batch_fits, "batch_size", "1 to 2^32 - 1", self.batch_size.to_string())?;
        let fraction = self.uniform_fraction;
        check(
            (0.0..=MAX_UNIFORM_FRACTION).contains(&fraction),
            "uniform_fraction",
            &format!("[0, {MAX_UNIFORM_FRACTION}]"),
            fraction.to_string(),
        )?;
        check((0.0..=1.0).contains(&self.decay), "decay", "[0, 1]", self.decay.to_string())?;
        check(self.patch >= 1, "patch", "a side of at least 1 pixel", self.patch.to_string())?;
        let power = self.error_power;
        check(power.is_finite() && power > 0.0, "error_power", "a positive number", power.to_string())?;
        let cap = self.error_cap;
        check(cap.is_normal() && cap > 0.0, "error_cap", "a positive number", cap.to_string())
    }

    fn map_settings(&self) -> ErrorMapSettings {
        ErrorMapSettings { decay: self.decay, cap: self.error_cap, ..Default::default() }
    }
}

/// The rays of one step, and what an update needs to know about them.
#[derive(Debug)]
pub struct Draw {
    indices: Vec<u32>,
    probability: Vec<f32>,
    /// The map entry of each ray, ascending; empty where there is no map.
    entries: Vec<u32>,
    num_rays: u32,
    step: u64,
    generation: u32,
}

impl Draw {
    /// `[B]` u32, the rays: `index = first ray of the view + row * width + column`, views in order. They are grouped
    /// by map entry, entries ascending (with `patch` 1 that is ascending order of the rays).
    ///
    /// # Errors
    ///
    /// Where Candle cannot make the tensor.
    pub fn indices(&self) -> Result<Tensor> {
        Ok(Tensor::from_slice(&self.indices, self.len(), &Device::Cpu)?)
    }

    /// `[B]` f32, the probability with which one draw picked each ray, at the time of drawing.
    ///
    /// # Errors
    ///
    /// Where Candle cannot make the tensor.
    pub fn probability(&self) -> Result<Tensor> {
        Ok(Tensor::from_slice(&self.probability, self.len(), &Device::Cpu)?)
    }

    /// [`Draw::indices`] on the host.
    pub fn indices_slice(&self) -> &[u32] {
        &self.indices
    }

    /// [`Draw::probability`] on the host.
    pub fn probability_slice(&self) -> &[f32] {
        &self.probability
    }

    /// The number of rays.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether there are no rays; never so for a draw of a [`Sampler`].
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// The step that this was drawn for.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// `[B]` f32, the weights `(1 / (N p))^beta` of the rays' losses: with `beta` 1 the mean loss of the batch is an
    /// unbiased estimate of the mean over all `N` rays, with 0 hard rays count for more.
    ///
    /// # Errors
    ///
    /// Where Candle cannot make the tensor.
    pub fn importance(&self, beta: f32) -> Result<Tensor> {
        Ok(Tensor::from_vec(self.importance_vec(beta), self.len(), &Device::Cpu)?)
    }

    /// [`Draw::importance`] on the host.
    pub fn importance_vec(&self, beta: f32) -> Vec<f32> {
        let num_rays = f64::from(self.num_rays);
        self.probability.iter().map(|&p| (1.0 / (num_rays * f64::from(p))).powf(f64::from(beta)) as f32).collect()
    }
}

/// What a sampler has done so far, cheap enough to ask at every step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplerStats {
    /// Draws made.
    pub step: u64,
    /// The share of those that followed the map.
    pub weighted_share: f64,
    /// The mean over the visited entries of `error^error_power`; 0 without a map.
    pub mean_error: f64,
    /// The share of the entries that were visited; 0 without a map.
    pub visited_fraction: f64,
    /// Errors that were NaN or infinite and did not enter the map.
    pub skipped_non_finite: u64,
    /// Errors that were negative and entered as 0.
    pub negative: u64,
    /// Errors that entered as the cap.
    pub capped: u64,
}

/// Everything of a sampler but its map, ready for a checkpoint's JSON header.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SamplerHeader {
    /// The settings; may be changed between [`Sampler::state`] and [`Sampler::from_state`], but for `patch`.
    pub config: SamplerConfig,
    patches: Patches,
    step: u64,
    next_update: u64,
    generation: u32,
    weighted_steps: u64,
    skipped_non_finite: u64,
    negative: u64,
    capped: u64,
}

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
    map: Option<ErrorMap>,
}

impl Sampler {
    /// A sampler over views of the given `[height, width]` in pixels.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] on a setting out of range, on no view or an empty one, on `2^32 - 1` rays or more.
    pub fn new(shapes: &[[u32; 2]], config: SamplerConfig) -> Result<Self> {
        config.validate()?;
        let patches = Patches::new(shapes, config.patch)?;
        let map = match config.strategy {
            Strategy::None => None,
            Strategy::Uniform | Strategy::ErrorWeighted => {
                Some(ErrorMap::new(patches.num_entries(), config.map_settings())?)
            }
        };
        let header = SamplerHeader {
            config,
            patches,
            step: 0,
            next_update: 0,
            generation: 0,
            weighted_steps: 0,
            skipped_non_finite: 0,
            negative: 0,
            capped: 0,
        };
        Ok(Self { header, map })
    }

    /// The settings.
    pub fn config(&self) -> &SamplerConfig {
        &self.header.config
    }

    /// The number of draws made so far, which is the step of the next one.
    pub fn step(&self) -> u64 {
        self.header.step
    }

    /// The number of rays there are.
    pub fn num_rays(&self) -> u32 {
        self.header.patches.num_rays()
    }

    /// The `[height, width]` of each view in pixels.
    pub(crate) fn shapes(&self) -> Vec<[u32; 2]> {
        self.header.patches.shapes()
    }

    /// Draws the rays of the next step.
    ///
    /// # Errors
    ///
    /// Where the op that draws refuses.
    pub fn draw(&mut self) -> Result<Draw> {
        let header = &self.header;
        let SamplerConfig { strategy, warmup_steps, .. } = header.config;
        let weighted = strategy == Strategy::ErrorWeighted && header.step >= warmup_steps;
        let draw = match &self.map {
            Some(map) if weighted => self.draw_weighted(map)?,
            _ => self.draw_uniform(),
        };
        self.header.step += 1;
        self.header.weighted_steps += u64::from(weighted);
        Ok(draw)
    }

    /// Every ray with the same probability, stratified over the rays in the order of their entries.
    fn draw_uniform(&self) -> Draw {
        let SamplerHeader { config, patches, step, .. } = &self.header;
        let num_rays = patches.num_rays();
        let strata = Strata::new(config.batch_size, u64::from(num_rays), config.seed, *step);
        let rays = (0..config.batch_size as u32).into_par_iter();
        let (indices, mut entries): (Vec<_>, Vec<_>) =
            rays.map(|k| patches.ray_in_entry_order(strata.point(k) as u32)).unzip();
        if self.map.is_none() {
            entries = Vec::new();
        }
        let probability = vec![(1.0 / f64::from(num_rays)) as f32; indices.len()];
        self.finish(indices, probability, entries)
    }

    /// An entry in proportion to the map, and one of its pixels uniformly.
    fn draw_weighted(&self, map: &ErrorMap) -> Result<Draw> {
        let SamplerHeader { config, patches, step, .. } = &self.header;
        let HostDraws { indices: entries, mut probability } =
            map.draw_host(config.batch_size, config.uniform_fraction, config.seed, *step)?;
        let rng = Rng::new(config.seed, Stream::Pixel, *step);
        let indices = entries
            .par_iter()
            .zip(&mut probability)
            .enumerate()
            .map(|(k, (&entry, p))| {
                let (grid, patch) = patches.patch_of_entry(entry);
                let area = u64::from(patch.height) * u64::from(patch.width);
                *p = (f64::from(*p) / area as f64) as f32;
                Patches::ray_in_patch(grid, patch, rng.below(k as u32, area) as u32)
            })
            .collect();
        Ok(self.finish(indices, probability, entries))
    }

    fn finish(&self, indices: Vec<u32>, probability: Vec<f32>, entries: Vec<u32>) -> Draw {
        let SamplerHeader { patches, step, generation, .. } = &self.header;
        Draw { indices, probability, entries, num_rays: patches.num_rays(), step: *step, generation: *generation }
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
        let header = &mut self.header;
        if errors.dims() != [draw.len()] || errors.dtype() != DType::F32 {
            let found = format!("{:?} {:?}", errors.dtype(), errors.dims());
            return Err(Error::tensor("errors", format!("F32 [{}]", draw.len()), found));
        }
        if !(header.next_update..header.step).contains(&draw.step) {
            let expected = format!("a draw of steps {}..{}", header.next_update, header.step);
            return Err(Error::config("draw", expected, format!("one of step {}", draw.step)));
        }
        if draw.generation != header.generation || draw.num_rays != header.patches.num_rays() {
            return Err(Error::config("draw", "one of the present resolution", "one of another resolution"));
        }
        let Some(map) = &mut self.map else {
            header.next_update = draw.step + 1;
            return Ok(ScatterStats::default());
        };
        let power = header.config.error_power;
        let values: Vec<f32> = errors.to_vec1()?.into_par_iter().map(|error| raise(error, power)).collect();
        let stats = map.update_host(&draw.entries, &values)?;
        header.next_update = draw.step + 1;
        header.skipped_non_finite += stats.skipped_non_finite as u64;
        header.negative += stats.negative as u64;
        header.capped += stats.capped as u64;
        Ok(stats)
    }

    /// Carries the map over to views of other sizes (the same views, in the same order); draws made before can no
    /// longer be entered. Entries that nothing visited stay unvisited.
    ///
    /// # Errors
    ///
    /// As [`Sampler::new`], and where the number of views differs.
    pub fn resample(&mut self, shapes: &[[u32; 2]]) -> Result<()> {
        let header = &mut self.header;
        if shapes.len() != header.patches.num_views() {
            let expected = format!("the same {} views", header.patches.num_views());
            return Err(Error::config("shapes", expected, format!("{} views", shapes.len())));
        }
        let patches = Patches::new(shapes, header.config.patch)?;
        if let Some(map) = &mut self.map {
            let values = patches.resample(&header.patches, map.values(), ErrorMap::UNVISITED);
            *map = ErrorMap::from_values(values, map.settings())?;
        }
        header.patches = patches;
        header.generation += 1;
        Ok(())
    }

    /// The map of one view, for pictures: `[rows, columns]` f32 of `error^error_power`; an unvisited entry shows the
    /// mean of the visited ones, which is what a draw takes it for. All zeros without a map.
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
        let Some(map) = &self.map else {
            return Ok(Tensor::zeros(size, DType::F32, &Device::Cpu)?);
        };
        let mean = map.mean() as f32;
        let values = &map.values()[grid.entries()];
        let image = values.iter().map(|&e| if e.is_sign_negative() { mean } else { e }).collect();
        Ok(Tensor::from_vec(image, size, &Device::Cpu)?)
    }

    /// What it has done so far.
    pub fn stats(&self) -> SamplerStats {
        let header = &self.header;
        SamplerStats {
            step: header.step,
            weighted_share: header.weighted_steps as f64 / header.step.max(1) as f64,
            mean_error: self.map.as_ref().map_or(0.0, ErrorMap::mean),
            visited_fraction: self.map.as_ref().map_or(0.0, ErrorMap::visited_fraction),
            skipped_non_finite: header.skipped_non_finite,
            negative: header.negative,
            capped: header.capped,
        }
    }

    /// Everything the next draw depends on: named tensors (the map, where there is one) and a header.
    ///
    /// # Errors
    ///
    /// Where Candle cannot make the tensor.
    pub fn state(&self) -> Result<(BTreeMap<String, Tensor>, SamplerHeader)> {
        let mut tensors = BTreeMap::new();
        if let Some(map) = &self.map {
            tensors.insert(MAP_TENSOR.to_string(), map.to_tensor()?);
        }
        Ok((tensors, self.header.clone()))
    }

    /// The sampler that [`Sampler::state`] was asked of. It goes on with the same bits.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] where the map is missing or of another length, [`Error::Config`] on a setting out of range.
    pub fn from_state(tensors: &BTreeMap<String, Tensor>, header: SamplerHeader) -> Result<Self> {
        header.config.validate()?;
        let patches = Patches::new(&header.patches.shapes(), header.config.patch)?;
        if header.config.strategy == Strategy::None {
            return Ok(Self { header: SamplerHeader { patches, ..header }, map: None });
        }
        let expected = format!("F32 [{}]", patches.num_entries());
        let Some(values) = tensors.get(MAP_TENSOR) else {
            return Err(Error::tensor(MAP_TENSOR, expected, "no such tensor"));
        };
        if values.dims() != [patches.num_entries()] || values.dtype() != DType::F32 {
            return Err(Error::tensor(MAP_TENSOR, expected, format!("{:?} {:?}", values.dtype(), values.dims())));
        }
        let map = ErrorMap::from_tensor(values, header.config.map_settings())?;
        Ok(Self { header: SamplerHeader { patches, ..header }, map: Some(map) })
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
