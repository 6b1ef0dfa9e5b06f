//! Training on a CUDA device: the steps of the CPU by the same names, everything that is large on the device.
//!
//! What crosses over in a step is listed in cuda/README.md: one report of some hundred bytes, learning rates, and when
//! they are due the points, for the adjacency, which is found on the host.

use std::time::Instant;

use candle_core::{Device, Tensor};

use super::cells::position_f32;
use super::profile::Lap;
use super::{Adam, NonFinite, StepStats, Trainer};
use crate::data::{DeviceBatch, Told};
use crate::foam::{RefineStatistics, SOFTPLUS_BETA};
use crate::ops::fused::{Faces, Workspace};
use crate::ops::{CudaFoam, CudaPass, CudaPlaces, CudaStatistics, StepReport, copied, moved};
use crate::{Error, Result};

/// What the steps need on a device.
#[derive(Debug)]
pub(super) struct OnDevice {
    device: Device,
    foam: CudaFoam,
    /// The arrays of [`Trainer::statistics`], whose steps are counted on the host.
    statistics: CudaStatistics,
}

/// The names of the tensors that a step looks at, in the order of its report; the loss comes between the two rows.
const PARAMETERS: [&str; 3] = ["points", "raw_density", "sh"];
const GRADIENTS: [&str; 3] = ["grad_points", "grad_raw_density", "grad_sh"];

impl Trainer {
    /// Moves everything that a step needs to `device`, if that is not the CPU.
    pub(super) fn move_to(&mut self, device: &Device) -> Result<()> {
        if device.is_cpu() {
            return Ok(());
        }
        self.loader.move_to(device)?;
        let (moments, count) = self.optimizer.state()?;
        let moments = moments.into_iter().map(|(name, tensor)| Ok((name, moved(&tensor, device)?)));
        let moments = moments.collect::<Result<_>>()?;
        self.foam = self.foam.to_device(device)?;
        self.optimizer = Adam::for_named(&self.foam.named_vars(), self.config.optim.adam.clone())?;
        self.optimizer.restore(&moments, count)?;
        let statistics = std::mem::take(&mut self.statistics);
        self.device = Some(OnDevice {
            device: device.clone(),
            foam: self.cells_on(device)?,
            statistics: CudaStatistics::new(&statistics.gradient, &statistics.max_weight, device)?,
        });
        self.statistics.steps = statistics.steps;
        // Those are of the CPU.
        (self.faces, self.workspace) = (Faces::new(&[0], &[]), Workspace::default());
        Ok(())
    }

    /// The cells of the present adjacency, on `device`.
    fn cells_on(&self, device: &Device) -> Result<CudaFoam> {
        let topology = self.foam.topology();
        let adjacency = topology.adjacency();
        let cameras: Vec<[f32; 3]> = self.loader.pixels().cameras().iter().map(position_f32).collect();
        let num_cells = self.foam.num_cells();
        Ok(CudaFoam::new(&adjacency.offsets, &adjacency.neighbors, topology.built_at(), num_cells, &cameras, device)?)
    }

    /// Uploads the adjacency, which has changed, and begins new statistics if there is another number of cells.
    pub(super) fn upload_cells(&mut self) -> Result<()> {
        let Some(device) = self.device.as_ref().map(|on_device| on_device.device.clone()) else { return Ok(()) };
        let foam = self.cells_on(&device)?;
        // A refinement has left new ones on the host.
        let statistics = match &self.statistics.gradient[..] {
            [] => None,
            gradient => Some(CudaStatistics::new(gradient, &self.statistics.max_weight, &device)?),
        };
        self.statistics = RefineStatistics { steps: self.statistics.steps, ..RefineStatistics::default() };
        if let Some(on_device) = &mut self.device {
            on_device.foam = foam;
            if let Some(statistics) = statistics {
                on_device.statistics = statistics;
            }
        }
        Ok(())
    }

    /// Reads the statistics back for a refinement.
    pub(super) fn read_statistics(&mut self) -> Result<()> {
        if let Some(statistics) = self.statistics_on_device()? {
            self.statistics = statistics;
        }
        Ok(())
    }

    /// A copy of the statistics, where they are on a device.
    pub(super) fn statistics_on_device(&self) -> Result<Option<RefineStatistics>> {
        let Some(on_device) = &self.device else { return Ok(None) };
        let [gradient, max_weight] = on_device.statistics.read()?;
        Ok(Some(RefineStatistics { gradient, max_weight, steps: self.statistics.steps }))
    }

    /// See [`Trainer::step`].
    pub(super) fn step_on_device(&mut self) -> Result<StepStats> {
        let started = Instant::now();
        let before = copied();
        let mut lap = Lap::new(started);
        self.follow_resolution()?;
        let refined = self.refine_if_due()?;
        lap.end(&mut self.profile.topology);
        let batch = self.loader.next_on_device()?;
        // The loader has its own clocks.
        lap.skip();
        let (stats, errors, told) = match self.step_with(&batch, refined, &mut lap) {
            Ok(done) => done,
            Err(error) => {
                // Why the step failed matters more than that its rays could not be put back.
                let _ = self.loader.put_back_on_device(batch);
                return Err(error);
            }
        };
        self.loader.enter_on_device(&batch, &errors, told)?;
        lap.skip();
        let rebuilt = self.maintain_if_due()?;
        lap.end(&mut self.profile.topology);
        let after = copied();
        self.profile.bytes_to_device += after.to_device - before.to_device;
        self.profile.bytes_to_host += after.to_host - before.to_host;
        Ok(self.end_step(started, StepStats { rebuilt, ..stats }))
    }

    /// Traces a batch, takes its loss back and updates the parameters; what it did, the errors of the rays raised to
    /// their power, and what is to be known of them. Where it fails no parameter has changed.
    fn step_with(
        &mut self,
        batch: &DeviceBatch,
        refined: Option<(usize, usize)>,
        lap: &mut Lap,
    ) -> Result<(StepStats, Tensor, Told)> {
        let (progress, settings) = (self.progress, self.loss_settings());
        let num_rays = batch.rays.views.elem_count();
        let sampler = self.loader.sampler().config();
        let prior = &self.config.prior;
        let (views, places) = self.free_space_samples();
        let pass = CudaPass {
            rays: &batch.rays,
            trace: &self.config.trace,
            loss: &settings,
            with_quantiles: self.config.loss.quantile_weight != 0.0,
            probability: &batch.draw.rays.probability,
            num_drawn_from: batch.draw.num_rays(),
            importance_exponent: batch.draw.importance_exponent(),
            error_power: sampler.error_power,
            error_cap: sampler.error_cap,
            of_density: prior.density_gradient(&self.foam),
            places: CudaPlaces { views: &views, places: &places, gradient: self.free_space_gradient() },
        };
        let smoothing = prior.smooth_gradient(&self.foam, self.step);
        let Some(on_device) = &mut self.device else {
            return Err(Error::config("trainer", "on a device", "on the host"));
        };
        let mut report = StepReport::new(&on_device.device)?;
        report.set_map(&batch.draw.rays.entries)?;
        let (points, raw_density, sh) = (self.foam.points(), self.foam.raw_density(), self.foam.sh());
        let scale = self.foam.density_scale() as f32;
        on_device.foam.refresh(points, raw_density, scale, SOFTPLUS_BETA as f32)?;
        let (mut gradients, loss) = on_device.foam.pass(sh, &pass, &mut report)?;
        if smoothing > 0.0 {
            gradients.sh = on_device.foam.smoothed(sh, gradients.sh, smoothing)?;
        }
        let looked_at = [points.as_tensor(), raw_density, sh, &gradients.points, &gradients.raw_density, &gradients.sh];
        for (number, tensor) in looked_at.into_iter().enumerate() {
            report.look_at(number, tensor)?;
        }
        lap.end(&mut self.profile.other);
        // The one place in a step where the host waits.
        let totals = report.read()?;
        lap.end(&mut self.profile.trace);

        let non_finite = |[count, first]: [u64; 2]| {
            (count > 0).then_some(NonFinite { count: count as usize, first: first as usize })
        };
        let (of_parameters, of_gradients) = totals.non_finite.split_at(PARAMETERS.len());
        let looked_at = PARAMETERS.iter().zip(of_parameters).chain([(&"loss", &totals.loss.non_finite)]);
        for (name, found) in looked_at.chain(GRADIENTS.iter().zip(of_gradients)) {
            self.require_finite(name, non_finite(*found))?;
        }
        if let Some(on_device) = &mut self.device {
            on_device.statistics.add(&gradients)?;
        }
        self.statistics.steps += 1;
        lap.end(&mut self.profile.other);
        self.set_rates(progress)?;
        self.optimizer.update(&[
            ("points", &gradients.points),
            ("raw_density", &gradients.raw_density),
            ("sh", &gradients.sh),
        ])?;
        lap.end(&mut self.profile.optimizer);

        let loss_of_all = totals.loss;
        let stats = StepStats {
            step: self.step,
            progress,
            loss: loss_of_all.loss / num_rays as f64,
            squared_error: loss_of_all.squared_error / num_rays as f64,
            num_rays,
            cells_entered: loss_of_all.cells_entered,
            num_cells: self.foam.num_cells(),
            rebuilt: false,
            refined,
        };
        let told = Told {
            max_error: loss_of_all.max_error,
            capped: loss_of_all.capped,
            weights: loss_of_all.weights,
            totals: totals.map,
        };
        Ok((stats, loss.errors, told))
    }
}
