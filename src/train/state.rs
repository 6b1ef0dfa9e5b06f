//! Saving a training run and going on with it.

use super::{Adam, Profile, TrainConfig, Trainer, new_faces, non_finite, require_cpu, training_pixels};
use crate::checkpoint::{Checkpoint, in_file};
use crate::data::{Dataset, Loader, LoaderHeader, Normalization, Strategy};
use crate::foam::{Foam, RefineStatistics, with_values};
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// The version of the checkpoint format that this crate writes.
pub const FORMAT_VERSION: u32 = 1;

/// The scalars of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Progress {
    step: u64,
    num_rays: u64,
    progress: f64,
    /// Seconds planned for are part of the schedule of a run with a time limit, and only then written.
    seconds: Option<f64>,
    resolution: u32,
    refine_round: u32,
    num_initial_cells: usize,
    statistics_steps: u64,
    optimizer_count: u64,
}

impl Progress {
    fn validate(&self) -> Result<()> {
        if self.resolution == 0 {
            return Err(Error::config("header.progress.resolution", "at least 1", "0"));
        }
        if !(0.0..=1.0).contains(&self.progress) {
            return Err(Error::config("header.progress.progress", "0 to 1", self.progress.to_string()));
        }
        Ok(())
    }
}

impl Trainer {
    /// Everything that the next step needs, as named tensors and a header. `extra` goes into the header under `run`,
    /// for what the caller wants to find again.
    ///
    /// # Errors
    ///
    /// Those of Candle.
    pub fn checkpoint(&self, extra: Value) -> Result<Checkpoint> {
        let mut tensors = self.foam.state()?;
        let (moments, optimizer_count) = self.optimizer.state()?;
        tensors.extend(moments.into_iter().map(|(name, tensor)| (format!("optim.{name}"), tensor)));
        let (sampler, LoaderHeader { sampler: sampler_header, pending }) = self.loader.state()?;
        tensors.extend(sampler.into_iter().map(|(name, tensor)| (format!("sampler.{name}"), tensor)));
        let device = self.foam.points().device();
        for (name, values) in [("gradient", &self.statistics.gradient), ("max_weight", &self.statistics.max_weight)] {
            tensors.insert(format!("refine.{name}"), Tensor::from_slice(values, values.len(), device)?);
        }
        let progress = Progress {
            step: self.step,
            num_rays: self.num_rays,
            progress: self.progress,
            seconds: self.config.time_limit.map(|_| self.seconds),
            resolution: self.resolution,
            refine_round: self.refine_round,
            num_initial_cells: self.num_initial_cells,
            statistics_steps: self.statistics.steps,
            optimizer_count,
        };
        let mut header = serde_json::json!({
            "format_version": FORMAT_VERSION,
            "crate_version": env!("CARGO_PKG_VERSION"),
            "config": self.config,
            "progress": progress,
            "density_scale": self.foam.density_scale(),
            "extent": self.dataset.extent,
            "normalization": self.dataset.normalization,
            "sampler": sampler_header,
            "run": extra,
        });
        // Only where there is one: with a lag of 0 no draw waits.
        if let Some(pending) = pending {
            header["pending_draw"] = serde_json::to_value(pending).map_err(candle_core::Error::wrap)?;
        }
        Ok(Checkpoint { tensors, header })
    }

    /// Writes [`Trainer::checkpoint`] to `path`, whole or not at all.
    ///
    /// # Errors
    ///
    /// Those of writing.
    pub fn save(&self, path: impl AsRef<Path>, extra: Value) -> Result<()> {
        self.checkpoint(extra)?.save(path)
    }

    /// Writes the error map on its own: a flat f32 map (an unvisited entry has its sign bit set), and in the header
    /// the sampler's settings and how entries lie in the views. Returns whether there is a map.
    ///
    /// # Errors
    ///
    /// Those of writing.
    pub fn save_error_map(&self, path: impl AsRef<Path>) -> Result<bool> {
        let (tensors, header) = self.loader.sampler().state()?;
        if self.loader.sampler().config().strategy == Strategy::None {
            return Ok(false);
        }
        let header = serde_json::json!({ "format_version": FORMAT_VERSION, "step": self.step, "sampler": header });
        Checkpoint { tensors, header }.save(path)?;
        Ok(true)
    }

    /// Goes on with a saved run: on the CPU, with the bits that the uninterrupted run would have had.
    ///
    /// `dataset` is the capture that the run was begun with; all settings are those of the checkpoint.
    ///
    /// # Errors
    ///
    /// A file that is none, of another format version, or incomplete; a capture that was normalised differently or has
    /// images of other sizes; a device other than the CPU.
    pub fn resume(path: impl AsRef<Path>, dataset: Dataset, device: &Device) -> Result<Self> {
        let path = path.as_ref();
        require_cpu(device)?;
        let checkpoint = Checkpoint::load(path, device)?;
        Self::restore(path, &checkpoint, dataset).map_err(|error| in_file(path, error))
    }

    fn restore(path: &Path, checkpoint: &Checkpoint, dataset: Dataset) -> Result<Self> {
        let version: u32 = checkpoint.field(path, "format_version")?;
        if version != FORMAT_VERSION {
            return Err(Error::file(path, "header.format_version", FORMAT_VERSION.to_string(), version.to_string()));
        }
        let config: TrainConfig = checkpoint.field(path, "config")?;
        config.validate()?;
        let normalization: Normalization = checkpoint.field(path, "normalization")?;
        if normalization != dataset.normalization {
            let expected = format!("that of the capture, {:?}", dataset.normalization);
            return Err(Error::file(path, "header.normalization", expected, format!("{normalization:?}")));
        }
        let extent: f64 = checkpoint.field(path, "extent")?;
        if extent != dataset.extent {
            let expected = format!("that of the capture, {}", dataset.extent);
            return Err(Error::file(path, "header.extent", expected, extent.to_string()));
        }
        let progress: Progress = checkpoint.field(path, "progress")?;
        progress.validate()?;
        let foam = Foam::from_checkpoint(checkpoint, path)?;
        let mut optimizer = Adam::for_named(&foam.named_vars(), config.optim.adam.clone())?;
        optimizer.restore(&with_prefix(checkpoint, "optim."), progress.optimizer_count)?;
        let pending = checkpoint.header.get("pending_draw").map(|_| checkpoint.field(path, "pending_draw"));
        let mut header = LoaderHeader { sampler: checkpoint.field(path, "sampler")?, pending: pending.transpose()? };
        // Checkpoints from before samplers had an exponent of their own hold the loss's alone.
        if config.loss.importance_exponent != 0.0 {
            header.sampler.config.importance_exponent = config.loss.importance_exponent;
        }
        let pixels = training_pixels(&dataset, progress.resolution)?;
        let loader = Loader::from_state(&with_prefix(checkpoint, "sampler."), header, pixels)?;
        let statistics = RefineStatistics {
            gradient: checkpoint.values(path, "refine.gradient")?,
            max_weight: checkpoint.values(path, "refine.max_weight")?,
            steps: progress.statistics_steps,
        };
        if statistics.gradient.len() != foam.num_cells() || statistics.max_weight.len() != foam.num_cells() {
            let found = format!("{} and {}", statistics.gradient.len(), statistics.max_weight.len());
            return Err(Error::file(path, "refine", format!("{} cells", foam.num_cells()), found));
        }
        Ok(Self {
            faces: new_faces(&foam),
            config,
            dataset,
            loader,
            resolution: progress.resolution,
            foam,
            optimizer,
            statistics,
            refine_round: progress.refine_round,
            num_initial_cells: progress.num_initial_cells,
            step: progress.step,
            num_rays: progress.num_rays,
            progress: progress.progress,
            seconds: progress.seconds.unwrap_or(0.0),
            profile: Profile::default(),
        })
    }

    /// Checks that every value of every parameter is finite.
    ///
    /// # Errors
    ///
    /// [`Error::NonFinite`] for the first parameter that has any.
    pub fn check_parameters(&self) -> Result<()> {
        for (name, var) in self.foam.named_vars() {
            let count = with_values(var, non_finite)?;
            self.require_finite(name, count)?;
        }
        Ok(())
    }
}

fn with_prefix(checkpoint: &Checkpoint, prefix: &str) -> BTreeMap<String, Tensor> {
    let tensors = checkpoint.tensors.iter();
    tensors.filter_map(|(name, t)| Some((name.strip_prefix(prefix)?.to_string(), t.clone()))).collect()
}
