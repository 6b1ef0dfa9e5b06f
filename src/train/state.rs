//! Saving a training run and going on with it.

use super::cells::{built_cells, new_faces};
use super::free_space::FreeSpace;
use super::migrate::{FORMAT_VERSION, migrate_header};
use super::{Adam, Profile, TrainConfig, Trainer, check_device, training_pixels};
use crate::camera::Camera;
use crate::checkpoint::{Checkpoint, in_file};
use crate::data::{Dataset, Loader, LoaderHeader, Normalization, Sampler, Strategy};
use crate::foam::{Foam, RefineStatistics};
use crate::ops::{fused, moved};
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

/// A training view as the header has it: enough to render from where the images were taken, without them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct NamedCamera {
    name: String,
    #[serde(flatten)]
    camera: Camera,
}

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
        for (name, tensor) in moments {
            tensors.insert(format!("optim.{name}"), moved(&tensor, &Device::Cpu)?);
        }
        let (sampler, LoaderHeader { sampler: sampler_header, pending }) = self.loader.state()?;
        tensors.extend(sampler.into_iter().map(|(name, tensor)| (format!("sampler.{name}"), tensor)));
        let statistics = self.statistics()?;
        for (name, values) in [("gradient", &statistics.gradient), ("max_weight", &statistics.max_weight)] {
            tensors.insert(format!("refine.{name}"), Tensor::from_slice(values, values.len(), &Device::Cpu)?);
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
            "step": self.step,
            "seed": self.config.seed,
            "config": self.config,
            "progress": progress,
            "metrics": self.metrics,
            "density_scale": self.foam.density_scale(),
            "extent": self.dataset.extent,
            "normalization": self.dataset.normalization,
            "cameras": cameras(&self.dataset),
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

    /// [`Trainer::checkpoint`] and [`Trainer::error_map_file`] of the same moment. They share their tensors: together
    /// they take no more memory than the checkpoint alone.
    ///
    /// # Errors
    ///
    /// Those of Candle.
    pub fn checkpoint_and_error_map(&self, extra: Value) -> Result<(Checkpoint, Option<Checkpoint>)> {
        let checkpoint = self.checkpoint(extra)?;
        let tensors = with_prefix(&checkpoint, "sampler.");
        let map = self.error_map_of(|| Ok((tensors, checkpoint.header["sampler"].clone())))?;
        Ok((checkpoint, map))
    }

    /// Writes [`Trainer::error_map_file`], whole or not at all. Returns whether there is a map.
    ///
    /// # Errors
    ///
    /// Those of writing.
    pub fn save_error_map(&self, path: impl AsRef<Path>) -> Result<bool> {
        let file = self.error_map_file()?;
        file.as_ref().map_or(Ok(()), |file| file.save(path))?;
        Ok(file.is_some())
    }

    /// The error map on its own, for whoever wants to look at it: one flat tensor `error_map` of f32, an entry a
    /// patch of pixels, whose sign bit is set where the patch was never visited. `None` where no map is kept.
    ///
    /// The header has `format_version`, `step`, `sampler` (settings; the side of a patch in pixels is
    /// `sampler.patches.patch`), and for each training view in `views` its `name` and the image's `width` and `height`,
    /// `rows` and `columns` of patches, and where its entries are: `entries` of them from `offset` on, row by row. An
    /// entry is the moving mean of `error^error_power`.
    ///
    /// Where pixels are left out (masks, lenses), a patch without any other has no entry; the tensor `patch_of_entry`
    /// (u32, ascending) then gives the patch of each entry, counted row by row through all views. With patches of more
    /// than one pixel an entry is then also multiplied by the share of the patch's pixels that are left.
    ///
    /// # Errors
    ///
    /// Those of Candle.
    pub fn error_map_file(&self) -> Result<Option<Checkpoint>> {
        self.error_map_of(|| {
            let (tensors, header) = self.loader.sampler().state()?;
            Ok((tensors, serde_json::to_value(header).map_err(candle_core::Error::wrap)?))
        })
    }

    /// The file of the error map from the state of the sampler: tensors, of which there may be more, and header.
    fn error_map_of(
        &self,
        state: impl FnOnce() -> Result<(BTreeMap<String, Tensor>, Value)>,
    ) -> Result<Option<Checkpoint>> {
        let sampler = self.loader.sampler();
        if sampler.config().strategy == Strategy::None {
            return Ok(None);
        }
        let (mut tensors, header) = state()?;
        tensors.retain(|name, _| Sampler::is_state(name));
        if let Some(patches) = sampler.patch_of_entry() {
            let len = patches.len();
            tensors.insert("patch_of_entry".into(), Tensor::from_vec(patches, len, &Device::Cpu)?);
        }
        let layouts = sampler.view_layouts();
        let names = self.dataset.train.iter().map(|view| &view.name);
        let views: Vec<_> = names.zip(&layouts).map(|(name, layout)| NamedLayout { name, layout }).collect();
        let header = serde_json::json!({
            "format_version": FORMAT_VERSION,
            "crate_version": env!("CARGO_PKG_VERSION"),
            "step": self.step,
            "sampler": header,
            "views": views,
        });
        Ok(Some(Checkpoint { tensors, header }))
    }

    /// The statistics for refinement, read back where they are on a device.
    pub(super) fn statistics(&self) -> Result<Cow<'_, RefineStatistics>> {
        #[cfg(feature = "cuda")]
        if let Some(statistics) = self.statistics_on_device()? {
            return Ok(Cow::Owned(statistics));
        }
        Ok(Cow::Borrowed(&self.statistics))
    }

    /// Goes on with a saved run, with the bits that the uninterrupted run would have had on the same device. A run may
    /// be begun on one device and gone on with on another.
    ///
    /// `dataset` is the capture that the run was begun with; all settings are those of the checkpoint, which may be of
    /// any version up to [`FORMAT_VERSION`].
    ///
    /// # Errors
    ///
    /// A file that is none, of a newer format version, or incomplete; a capture that was normalised differently or has
    /// other cameras or images of other sizes; a device that the trainer has no kernels for.
    pub fn resume(path: impl AsRef<Path>, dataset: Dataset, device: &Device) -> Result<Self> {
        Self::resume_from(path.as_ref(), dataset, None, device)
    }

    /// As [`Trainer::resume`], with settings of which some may differ from those of the checkpoint: those that have no
    /// [`refusal`](super::refusal). A plan that has changed moves the place in the schedules; a time limit that is
    /// new counts from here.
    ///
    /// # Errors
    ///
    /// Those of [`Trainer::resume`]; [`Error::Config`] with all differences, if there is one that may not be.
    pub fn resume_with(path: impl AsRef<Path>, dataset: Dataset, config: TrainConfig, device: &Device) -> Result<Self> {
        Self::resume_from(path.as_ref(), dataset, Some(config), device)
    }

    fn resume_from(path: &Path, dataset: Dataset, asked: Option<TrainConfig>, device: &Device) -> Result<Self> {
        check_device(device)?;
        let mut checkpoint = Checkpoint::load(path, &Device::Cpu)?;
        migrate_header(path, &mut checkpoint.header)?;
        let saved: TrainConfig = checkpoint.field(path, "config")?;
        let changes = asked.as_ref().map_or(Ok(Vec::new()), |asked| saved.changes(asked))?;
        if changes.iter().any(|change| change.refused.is_some()) {
            let told: Vec<String> = changes.iter().map(ToString::to_string).collect();
            return Err(Error::config("resume", "the settings of the run", told.join("; ")));
        }
        let of_sampler = changes.iter().any(|change| change.key.starts_with("sampler."));
        let sampler = checkpoint.header.get_mut("sampler").and_then(Value::as_object_mut);
        if let (true, Some(asked), Some(sampler)) = (of_sampler, &asked, sampler) {
            let settings = serde_json::to_value(&asked.sampler).map_err(candle_core::Error::wrap)?;
            sampler.insert("config".into(), settings);
        }
        let config = asked.unwrap_or(saved);
        let mut trainer = Self::restore(path, &checkpoint, dataset, config).map_err(|error| in_file(path, error))?;
        trainer.move_to(device)?;
        if changes.iter().any(|change| matches!(&*change.key, "steps" | "time_limit")) {
            trainer.progress = trainer.progress_now();
        }
        Ok(trainer)
    }

    fn restore(path: &Path, checkpoint: &Checkpoint, dataset: Dataset, config: TrainConfig) -> Result<Self> {
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
        let found: Option<Vec<NamedCamera>> = checkpoint.field(path, "cameras")?;
        if let Some(found) = found {
            same_cameras(path, &cameras(&dataset), &found)?;
        }
        let progress: Progress = checkpoint.field(path, "progress")?;
        progress.validate()?;
        let foam = Foam::from_checkpoint(checkpoint, path)?;
        let mut optimizer = Adam::for_named(&foam.named_vars(), config.optim.adam.clone())?;
        optimizer.restore(&with_prefix(checkpoint, "optim."), progress.optimizer_count)?;
        let pending = checkpoint.header.get("pending_draw").map(|_| checkpoint.field(path, "pending_draw"));
        let header = LoaderHeader { sampler: checkpoint.field(path, "sampler")?, pending: pending.transpose()? };
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
            built_cells: built_cells(&foam, &dataset),
            free_space: FreeSpace::new(&dataset, config.prior.free_space > 0.0),
            workspace: fused::Workspace::default(),
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
            metrics: checkpoint.field(path, "metrics")?,
            profile: Profile::default(),
            #[cfg(feature = "cuda")]
            device: None,
        })
    }
}

/// A view of the error map's file.
#[derive(Debug, Serialize)]
struct NamedLayout<'a> {
    name: &'a str,
    #[serde(flatten)]
    layout: &'a crate::data::ViewLayout,
}

fn cameras(dataset: &Dataset) -> Vec<NamedCamera> {
    dataset.train.iter().map(|view| NamedCamera { name: view.name.clone(), camera: view.camera }).collect()
}

/// Refuses a capture whose training views are others than those of the run.
fn same_cameras(path: &Path, expected: &[NamedCamera], found: &[NamedCamera]) -> Result<()> {
    if expected.len() != found.len() {
        let expected = format!("the {} training views of the capture", expected.len());
        return Err(Error::file(path, "header.cameras", expected, found.len().to_string()));
    }
    match expected.iter().zip(found).position(|(a, b)| a.camera != b.camera) {
        Some(view) => {
            let expected = format!("that of the capture's {}, {:?}", expected[view].name, expected[view].camera);
            let NamedCamera { name, camera } = &found[view];
            Err(Error::file(path, format!("header.cameras[{view}]"), expected, format!("{name}, {camera:?}")))
        }
        None => Ok(()),
    }
}

fn with_prefix(checkpoint: &Checkpoint, prefix: &str) -> BTreeMap<String, Tensor> {
    let tensors = checkpoint.tensors.iter();
    tensors.filter_map(|(name, t)| Some((name.strip_prefix(prefix)?.to_string(), t.clone()))).collect()
}
