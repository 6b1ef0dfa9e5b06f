//! Training a foam on a capture: the one room that knows both.
//!
//! [`Trainer::step`] computes and returns; it neither prints nor writes. Whoever calls it draws the progress bar.

mod cells;
mod config;
#[cfg(feature = "cuda")]
mod device;
mod evaluate;
mod finite;
mod free_space;
mod loss;
mod memory;
pub mod metrics;
mod migrate;
mod optim;
mod overrides;
mod preset;
mod prior;
mod profile;
mod state;

pub use config::{Background, LossConfig, ResolutionStage, TopologyConfig, TrainConfig};
pub use evaluate::{Evaluation, MAX_PSNR_DB, ViewScore, evaluate_views};
pub use finite::NonFinite;
pub use memory::MemoryEstimate;
pub use migrate::{FORMAT_VERSION, migrate_header};
pub use optim::{Adam, AdamConfig, OptimConfig, Rate};
pub use overrides::{SettingChange, refusal};
pub use preset::Preset;
pub use prior::PriorConfig;
pub use profile::Profile;

use crate::data::{Dataset, LoadedBatch, Loader, Pixels, Sampler};
use crate::foam::{Foam, RefineStatistics, initial_cells, with_values};
use crate::ops::fused::{self, Faces, PACKED_HEAD, Rays, Scene, Workspace};
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use cells::{built_cells, new_faces, position_f32};
use free_space::FreeSpace;
use profile::Lap;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Trains a foam on a capture.
///
/// ```no_run
/// use candle_core::Device;
/// use candle_radfoam::data::{LoadOptions, load};
/// use candle_radfoam::train::{TrainConfig, Trainer};
///
/// # fn main() -> candle_radfoam::Result<()> {
/// let dataset = load("path/to/capture", &LoadOptions::default())?;
/// let mut trainer = Trainer::new(dataset, TrainConfig { steps: Some(2000), ..Default::default() }, &Device::Cpu)?;
/// while !trainer.is_finished() {
///     trainer.step()?;
/// }
/// println!("{:.2} dB", trainer.evaluate(|_, _, _| Ok(()))?.psnr_db);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Trainer {
    config: TrainConfig,
    dataset: Dataset,
    /// The training pixels at the present stage of the resolution schedule, and which of them are drawn.
    loader: Loader,
    resolution: u32,
    foam: Foam,
    /// Laid out for the present topology.
    faces: Faces<f32>,
    /// `[V]`: the cell that held the camera of each training view when the cells were triangulated: a hint that a
    /// resumed training has too, so that it finds the same cells.
    built_cells: Vec<u32>,
    free_space: FreeSpace,
    workspace: Workspace<f32>,
    optimizer: Adam,
    statistics: RefineStatistics,
    refine_round: u32,
    num_initial_cells: usize,
    step: u64,
    num_rays: u64,
    /// Where the schedules stand, 0 to 1.
    progress: f64,
    /// Wall time of all steps so far.
    seconds: f64,
    /// Of the last step.
    metrics: Option<BatchMetrics>,
    profile: Profile,
    /// Where the trainer is on a device: what the steps need there.
    #[cfg(feature = "cuda")]
    device: Option<device::OnDevice>,
}

/// How well the last batch was explained; for those who read checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct BatchMetrics {
    loss: f64,
    squared_error: f64,
}

/// What one step did.
#[derive(Debug, Clone, PartialEq)]
pub struct StepStats {
    /// The step, from 0.
    pub step: u64,
    /// Where the schedules stood, 0 to 1.
    pub progress: f64,
    /// The mean loss of the batch.
    pub loss: f64,
    /// The mean squared error of the batch's colours. With a sampler that prefers hard rays it lies above that of
    /// whole images.
    pub squared_error: f64,
    /// Rays traced in this step.
    pub num_rays: usize,
    /// Cells that these rays entered.
    pub cells_entered: u64,
    /// Cells of the foam.
    pub num_cells: usize,
    /// Whether the cells were triangulated anew because the points had moved.
    pub rebuilt: bool,
    /// Cells removed and added, if this step began with a refinement.
    pub refined: Option<(usize, usize)>,
}

impl Trainer {
    /// Prepares training on `dataset`: initial cells (from its point cloud if it has one; no more than
    /// `refine.max_cells`), sampler, optimiser. The sampler's seed is that of `config`.
    ///
    /// # Errors
    ///
    /// A setting out of range; a dataset without training views; a device that is neither the CPU nor one of CUDA.
    pub fn new(dataset: Dataset, config: TrainConfig, device: &Device) -> Result<Self> {
        let started = Instant::now();
        config.validate()?;
        check_device(device)?;
        let has_cloud = dataset.point_cloud.as_ref().is_some_and(|cloud| !cloud.points.is_empty());
        // So that `config` and checkpoints say what was used.
        let config = config.filled_in(dataset.has_alpha, has_cloud);
        let resolution = config.resolution_at(0.0);
        let pixels = training_pixels(&dataset, resolution)?;
        let loader = Loader::new(pixels, config.sampler.clone())?;
        let cloud = dataset.point_cloud.as_ref().map(|cloud| {
            let points: Vec<[f32; 3]> = cloud.points.iter().map(|p| p.map(|x| x as f32)).collect();
            let colors: Option<Vec<[f32; 3]>> = cloud
                .colors
                .as_ref()
                .map(|colors| colors.iter().map(|color| color.map(|c| f32::from(c) / 255.0)).collect());
            (points, colors)
        });
        let cloud = cloud.as_ref().map(|(points, colors)| (&points[..], colors.as_deref()));
        let cameras: Vec<[f32; 3]> = dataset.train.iter().map(|view| position_f32(&view.camera)).collect();
        let cells = initial_cells(&config.init, dataset.extent as f32, cloud, &cameras, config.seed)?;
        let foam = Foam::new(cells, config.sh_degree, config.density_scale / dataset.extent, &Device::Cpu)?;
        let optimizer = Adam::for_named(&foam.named_vars(), config.optim.adam.clone())?;
        let num_initial_cells = foam.num_cells();
        let mut trainer = Self {
            faces: new_faces(&foam),
            built_cells: built_cells(&foam, &dataset),
            free_space: FreeSpace::new(&dataset, config.prior.free_space > 0.0),
            workspace: Workspace::default(),
            statistics: RefineStatistics::new(num_initial_cells),
            config,
            dataset,
            loader,
            resolution,
            foam,
            optimizer,
            refine_round: 0,
            num_initial_cells,
            step: 0,
            num_rays: 0,
            progress: 0.0,
            seconds: 0.0,
            metrics: None,
            profile: Profile::default(),
            #[cfg(feature = "cuda")]
            device: None,
        };
        trainer.move_to(device)?;
        trainer.seconds = started.elapsed().as_secs_f64();
        Ok(trainer)
    }

    /// The foam as it is now.
    pub fn foam(&self) -> &Foam {
        &self.foam
    }

    /// The capture.
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// The settings.
    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// What is behind the foam.
    pub fn background(&self) -> Background {
        self.config.background.unwrap_or(Background::White)
    }

    /// The sampler, for its statistics and its error map.
    pub fn sampler(&self) -> &Sampler {
        self.loader.sampler()
    }

    /// Steps taken.
    pub fn step_count(&self) -> u64 {
        self.step
    }

    /// Rays traced in training.
    pub fn num_rays(&self) -> u64 {
        self.num_rays
    }

    /// Wall time of preparation and steps, in seconds; evaluation and loading do not count.
    pub fn seconds(&self) -> f64 {
        self.seconds
    }

    /// Where the time of the steps of this process went; those before a resume do not count.
    pub fn profile(&self) -> Profile {
        let mut loader = self.loader.seconds();
        if self.config.sampler.lag == 1 {
            // Beside the step they cost it what it waits for.
            (loader.draw, loader.gather) = (0.0, 0.0);
        }
        Profile { draw: loader.draw, gather: loader.gather, wait: loader.wait, update: loader.update, ..self.profile }
    }

    /// Where the schedules stand, 0 to 1.
    pub fn progress(&self) -> f64 {
        self.progress
    }

    /// Whether the planned steps or seconds are over.
    pub fn is_finished(&self) -> bool {
        self.progress >= 1.0
    }

    /// One step: draw rays, trace them, take the loss back, update the parameters, the error map and, when they are
    /// due, the cells.
    ///
    /// # Errors
    ///
    /// [`Error::NonFinite`] if a parameter, loss or gradient is not finite, before anything is updated from it; the
    /// sampler is then as it was before the step. Those of the parts.
    pub fn step(&mut self) -> Result<StepStats> {
        #[cfg(feature = "cuda")]
        if self.device.is_some() {
            return self.step_on_device();
        }
        let started = Instant::now();
        // A walk takes NaN for empty or for black, so that the loss would not tell.
        self.check_parameters()?;
        let mut lap = Lap::new(started);
        lap.end(&mut self.profile.other);
        self.follow_resolution()?;
        let refined = self.refine_if_due()?;
        lap.end(&mut self.profile.topology);
        let batch = self.loader.next_batch()?;
        // The loader has its own clocks.
        lap.skip();
        let (stats, errors) = match self.step_on(&batch, refined, &mut lap) {
            Ok(done) => done,
            Err(error) => {
                // Why the step failed matters more than that its rays could not be put back.
                let _ = self.loader.put_back(batch);
                return Err(error);
            }
        };
        let num_rays = errors.len();
        batch.report(&Tensor::from_vec(errors, num_rays, self.foam.points().device())?)?;
        self.loader.flush()?;
        lap.skip();

        let rebuilt = self.maintain_if_due()?;
        lap.end(&mut self.profile.topology);
        Ok(self.end_step(started, StepStats { rebuilt, ..stats }))
    }

    /// Follows the points with the cells' adjacency if that is due; whether it changed.
    fn maintain_if_due(&mut self) -> Result<bool> {
        let topology = &self.config.topology;
        let due = (self.step + 1).is_multiple_of(topology.check_every);
        let rebuilt = due && self.foam.maintain(topology.moved_limit, topology.moved_share)?;
        if rebuilt {
            self.lay_out_cells()?;
        }
        Ok(rebuilt)
    }

    /// Counts a step that is done.
    fn end_step(&mut self, started: Instant, stats: StepStats) -> StepStats {
        self.profile.steps += 1;
        self.step += 1;
        self.num_rays += stats.num_rays as u64;
        self.seconds += started.elapsed().as_secs_f64();
        self.progress = self.progress_now();
        self.metrics = Some(BatchMetrics { loss: stats.loss, squared_error: stats.squared_error });
        stats
    }

    /// Lays out the cells for the present adjacency, where they are traced.
    fn lay_out_cells(&mut self) -> Result<()> {
        #[cfg(feature = "cuda")]
        if self.device.is_some() {
            return self.upload_cells();
        }
        self.built_cells = built_cells(&self.foam, &self.dataset);
        self.faces = new_faces(&self.foam);
        Ok(())
    }

    /// Where the schedules stand after the steps and seconds so far.
    fn progress_now(&self) -> f64 {
        let by_steps = self.config.steps.map_or(0.0, |steps| self.step as f64 / steps as f64);
        let by_time = self.config.time_limit.map_or(0.0, |limit| self.seconds / limit);
        by_steps.max(by_time).min(1.0)
    }

    /// Sets the wall time of all steps so far, and with a time limit where the schedules stand: to repeat the steps of
    /// another run, which took other times.
    pub fn set_seconds(&mut self, seconds: f64) {
        self.seconds = seconds;
        self.progress = self.progress_now();
    }

    /// Traces a batch, takes its loss back and updates the parameters; what it did, and the squared error of each ray.
    /// Where it fails no parameter has changed.
    fn step_on(
        &mut self,
        loaded: &LoadedBatch,
        refined: Option<(usize, usize)>,
        lap: &mut Lap,
    ) -> Result<(StepStats, Vec<f32>)> {
        let (draw, batch, progress) = (loaded.draw(), loaded.rays(), self.progress);
        let importance = match draw.importance_exponent() {
            0.0 => None,
            exponent => Some(draw.importance_vec(exponent)),
        };
        lap.end(&mut self.profile.other);
        let derivative = self.foam.refresh(&mut self.faces)?;
        lap.end(&mut self.profile.faces);
        let start_cells = self.start_cells(batch);
        let (quantiles, num_quantiles) = self.quantiles(batch.len());
        let rays = Rays {
            origins: batch.origins.as_flattened(),
            directions: batch.directions.as_flattened(),
            start_cells: &start_cells,
            quantiles: &quantiles,
            num_quantiles,
        };
        lap.end(&mut self.profile.other);
        let loss = self.ray_loss(batch, importance.as_deref());
        let (outputs, mut gradients) = with_values(self.foam.sh(), |sh: &[f32]| {
            let scene = Scene { faces: &self.faces, sh, num_coefficients: self.foam.num_coefficients() };
            let (num_cells, workspace) = (self.foam.num_cells(), &mut self.workspace);
            fused::forward_backward(&scene, &rays, &self.config.trace, num_cells, workspace, |ray, out| {
                loss.gradient(ray, out)
            })
        })?;

        let width = PACKED_HEAD + num_quantiles;
        let (losses, errors): (Vec<f64>, Vec<f32>) =
            outputs.packed.par_chunks_exact(width).enumerate().map(|(ray, out)| loss.value(ray, out)).unzip();
        lap.end(&mut self.profile.trace);
        self.require_finite("loss", NonFinite::of(&losses))?;
        let mut grad_raw = gradients.density;
        grad_raw.par_iter_mut().zip(&derivative).for_each(|(g, d)| *g *= d);
        self.add_prior(&mut grad_raw, &mut gradients.sh, &derivative)?;
        self.require_finite("grad_points", NonFinite::of(&gradients.points))?;
        self.require_finite("grad_raw_density", NonFinite::of(&grad_raw))?;
        self.require_finite("grad_sh", NonFinite::of(&gradients.sh))?;
        self.statistics.add(&gradients.points, &outputs.weights);
        lap.end(&mut self.profile.other);

        let device = self.foam.points().device().clone();
        let num_cells = self.foam.num_cells();
        self.set_rates(progress)?;
        self.optimizer.update(&[
            ("points", &Tensor::from_vec(gradients.points, (num_cells, 3), &device)?),
            ("raw_density", &Tensor::from_vec(grad_raw, num_cells, &device)?),
            ("sh", &Tensor::from_vec(gradients.sh, self.foam.sh().shape(), &device)?),
        ])?;
        lap.end(&mut self.profile.optimizer);
        let num_rays = errors.len();
        let stats = StepStats {
            step: self.step,
            progress,
            loss: losses.iter().sum::<f64>() / num_rays as f64,
            squared_error: errors.iter().map(|&e| f64::from(e)).sum::<f64>() / num_rays as f64,
            num_rays,
            cells_entered: outputs.cells_entered.iter().map(|&n| u64::from(n)).sum(),
            num_cells,
            rebuilt: false,
            refined,
        };
        Ok((stats, errors))
    }

    /// Scores the foam on the test views. `on_view` is given the index, the view and the rendering of each, as for
    /// saving pictures.
    ///
    /// # Errors
    ///
    /// Those of [`evaluate_views`], as for a capture without test views.
    pub fn evaluate<F>(&self, on_view: F) -> Result<Evaluation>
    where
        F: FnMut(usize, &crate::data::View, &crate::foam::Rendering) -> Result<()>,
    {
        let background = self.background().evaluation();
        evaluate_views(&self.foam, &self.dataset.test, background, &self.config.trace, on_view)
    }

    fn set_rates(&mut self, progress: f64) -> Result<()> {
        let optim = &self.config.optim;
        let color = optim.color.at(progress);
        let mut columns = vec![color * optim.sh_factor; 3 * self.foam.num_coefficients()];
        columns[..3].fill(color);
        let (points, density) = (optim.points.at(progress) * self.dataset.extent, optim.density.at(progress));
        self.optimizer.set_rates("points", vec![points])?;
        self.optimizer.set_rates("raw_density", vec![density])?;
        self.optimizer.set_rates("sh", columns)
    }

    /// Moves on to the stage of the resolution schedule that is due; the error map is carried over.
    fn follow_resolution(&mut self) -> Result<()> {
        let factor = self.config.resolution_at(self.progress);
        if factor != self.resolution {
            self.loader.set_pixels(training_pixels(&self.dataset, factor)?)?;
            self.resolution = factor;
        }
        Ok(())
    }

    /// Refines the cells if a round is due; never before every cell has had a chance to be seen.
    fn refine_if_due(&mut self) -> Result<Option<(usize, usize)>> {
        /// Steps to gather statistics over before a round.
        const MIN_STEPS: u64 = 20;
        let refine = &self.config.refine;
        if self.refine_round >= refine.rounds_at(self.progress) || self.statistics.steps < MIN_STEPS {
            return Ok(None);
        }
        self.refine_round += 1;
        #[cfg(feature = "cuda")]
        self.read_statistics()?;
        let refine = &self.config.refine;
        let target = refine.target(self.refine_round, self.num_initial_cells);
        // Of another size from here on: not to be kept beside two foams.
        self.workspace = Workspace::default();
        let map = self.foam.refine(&self.statistics, refine, target, self.config.seed, self.step)?;
        for (name, var) in self.foam.named_vars() {
            self.optimizer.follow(name, var, &map)?;
        }
        self.statistics = RefineStatistics::new(self.foam.num_cells());
        self.lay_out_cells()?;
        Ok(Some((map.num_pruned, map.is_new.iter().filter(|&&new| new).count())))
    }
}

/// Refuses a device that the trainer has no kernels for.
fn check_device(device: &Device) -> Result<()> {
    if device.is_cpu() || device.is_cuda() {
        return Ok(());
    }
    Err(Error::config("device", "cpu or cuda:N", format!("{:?}", device.location())))
}

#[cfg(not(feature = "cuda"))]
impl Trainer {
    /// Nothing to do: without the feature `cuda` there is no device but the CPU.
    fn move_to(&mut self, _: &Device) -> Result<()> {
        Ok(())
    }
}

/// The training views of a dataset, reduced by `factor`, as a store of pixels.
fn training_pixels(dataset: &Dataset, factor: u32) -> Result<Pixels> {
    if factor == 1 { Pixels::new(&dataset.train) } else { Pixels::new(&dataset.resized(factor)?.train) }
}
