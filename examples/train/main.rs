//! Trains a radiance foam on a capture, or on a synthetic one made on the spot, and leaves a folder to look at.
//!
//! ```text
//! cargo run --release --example train
//! cargo run --release --example train -- path/to/capture --time-limit 120
//! ```
//!
//! Exit status: 0 when all is done, 1 after an error, 2 for flags that are none; 130 after Ctrl-C and 143 after SIGTERM,
//! when a checkpoint has been saved to go on from with `--resume`. A second signal leaves at once, without one.

mod args;
mod capture;
mod clock;
mod interrupt;
mod replay;
mod report;
mod resume;
mod saver;
#[path = "../support/mod.rs"]
mod support;

use anyhow::{Context, Result, bail};
use args::{Args, RunConfig};
use candle_core::{Device, DeviceLocation};
use candle_radfoam::Error;
use candle_radfoam::checkpoint::{Checkpoint, Kept};
use candle_radfoam::ops::{DeviceChoice, choose_device};
use candle_radfoam::train::{Evaluation, FORMAT_VERSION, StepStats, TrainConfig, Trainer, migrate_header};
use capture::{bar, check_memory, load, run_folder, synthetic_capture};
use clap::Parser;
use clock::{Clock, Look};
use indicatif::ProgressBar;
use interrupt::Interrupts;
use saver::{Saver, newest_whole};
use serde_json::{Map, Value, json};
use std::path::Path;
use support::checkpoint::{CHECKPOINT, CLOCK, CONFIG, ERROR_MAP, METRICS, RunHeader};
use support::folder::{JsonLines, RunFolder, write_json, write_text};
use support::memory;

/// Looks at the test views before the end, evenly over the run; each costs time that is not counted.
const LOOKS: u32 = 8;
/// Pixels rendered at most for such a look; the last one renders every test view.
const LOOK_PIXELS: u64 = 1_500_000;
/// Seconds between plain progress lines.
const LINE_EVERY: f64 = 5.0;
/// Seconds between two looks at how much memory is taken.
const MEMORY_EVERY: f64 = 1.0;

/// A look at the memory of this process.
#[derive(Debug, Clone, Copy)]
struct Memory {
    seconds: f64,
    bytes: u64,
    files: usize,
}

/// How training ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// As planned, or where it was told to stop.
    Over,
    /// By a signal, with the exit status that says so.
    Interrupted(i32),
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(threads) = args.threads {
        if threads == 0 {
            bail!("--threads: expected at least 1, found 0");
        }
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    }
    let device = device(args.device.as_deref())?;
    let mut run = match &args.resume {
        Some(folder) => Run::resume(&args, folder, &device)?,
        None => Run::begin(&args, &device)?,
    };
    let end = run.train(&args).map_err(|error| run.explain(error, args.debug_nonfinite))?;
    if args.profile {
        print!("{}", run.trainer.profile());
    }
    if let End::Interrupted(status) = end {
        run.save()?;
        let (step, folder) = (run.trainer.step_count(), run.folder.path().display());
        println!("interrupted: saved after {step} steps; go on with --resume {folder}");
        std::process::exit(status);
    }
    run.finish()
}

/// The device that was asked for, or the best there is; says which and why.
fn device(name: Option<&str>) -> Result<Device> {
    let DeviceChoice { device, reason } = choose_device(name)?;
    let told = match device.location() {
        DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        _ => "cpu".to_string(),
    };
    println!("device: {told} ({reason})");
    Ok(device)
}

/// CPU time of this process, user and system, in seconds, where the system tells.
fn cpu_seconds() -> Option<f64> {
    #[cfg(unix)]
    {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Some(time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9)
    }
    #[cfg(not(unix))]
    None
}

/// A run under way: the trainer, its folder, and what has been shown of it.
struct Run {
    trainer: Trainer,
    folder: RunFolder,
    saver: Saver,
    interrupts: Interrupts,
    header: RunHeader,
    metrics: JsonLines,
    losses: Vec<(f64, f64)>,
    memory: Vec<Memory>,
    curve: Vec<Look>,
    bar: Option<ProgressBar>,
    /// Seconds of training before the run was resumed, where the trainer does not count them itself.
    seconds_before: f64,
    /// Process CPU time at the start of the training that counts, less what was spent on looks.
    cpu_origin: Option<f64>,
}

impl Run {
    fn begin(args: &Args, device: &Device) -> Result<Self> {
        let (mut config, options, file) = args::settings(args)?;
        if let Some(capture) = args.capture.as_ref().or(config.capture.as_ref()) {
            let absolute = std::fs::canonicalize(capture).with_context(|| capture.display().to_string())?;
            config.capture = Some(absolute);
        }
        // What is wrong with the settings should show before any work is done, or a folder made.
        config.train.validate()?;
        let folder = run_folder(args.out.as_deref(), config.capture.as_deref())?;
        let capture = match &config.capture {
            Some(capture) => capture.clone(),
            None => synthetic_capture(&folder, args.quiet)?,
        };
        let dataset = load(&capture, &options, args.quiet)?;
        check_memory(&config.train, &dataset, args.any_memory)?;
        let cpu_origin = cpu_seconds();
        let trainer = Trainer::new(dataset, config.train.clone(), device)?;
        config.train = trainer.config().clone();
        write_text(&folder.file(CONFIG)?, &toml::to_string(&config)?)?;
        let mut header = RunHeader::new(std::fs::canonicalize(&capture)?, &options, config.preset);
        if let Some(file) = file {
            header.overruled = resume::overruled(file, &config, trainer.dataset())?;
        }
        let metrics = JsonLines::create(&folder.file(METRICS)?)?;
        Ok(Self {
            trainer,
            saver: Saver::new(Kept::new(folder.file(CHECKPOINT)?, args.keep as usize)?, folder.file(ERROR_MAP)?),
            // Until here there is nothing to save, and a signal ends the program as it always does.
            interrupts: Interrupts::listen()?,
            header,
            metrics,
            losses: Vec::new(),
            memory: Vec::new(),
            curve: Vec::new(),
            bar: bar(args.quiet),
            folder,
            seconds_before: 0.0,
            cpu_origin,
        })
    }

    fn resume(args: &Args, folder: &Path, device: &Device) -> Result<Self> {
        let folder = std::fs::canonicalize(folder).with_context(|| folder.display().to_string())?;
        let folder = RunFolder::open(folder)?;
        let kept = Kept::new(folder.file(CHECKPOINT)?, args.keep as usize)?;
        let path = newest_whole(&kept)?;
        let mut checkpoint = Checkpoint { header: Checkpoint::load_header(&path)?, tensors: Default::default() };
        // The settings of an earlier version had other names and defaults, in the run's config.toml as well.
        let is_old = checkpoint.header["format_version"] != FORMAT_VERSION;
        migrate_header(&path, &mut checkpoint.header)?;
        let mut header: RunHeader = checkpoint.field(&path, "run")?;
        let saved: TrainConfig = checkpoint.field(&path, "config")?;
        let config = resume::settings(args, folder.path(), &header, &saved, is_old)?;
        let changed = config != saved;
        if let Some(moved) = &args.capture {
            header.capture = Some(std::fs::canonicalize(moved).with_context(|| moved.display().to_string())?);
        }
        let Some(capture) = &header.capture else {
            bail!("{} does not say which capture it was trained on; name it before --resume", path.display());
        };
        let dataset = load(capture, &header.options()?, args.quiet).with_context(|| {
            format!("the capture of the run, {}; if it has moved, name its place before --resume", capture.display())
        })?;
        check_memory(&config, &dataset, args.any_memory)?;
        let options = header.options()?;
        let trainer = Trainer::resume_with(&path, dataset, config, device)?;
        if path != kept.newest() {
            kept.restore(&path)?;
        }
        let step = trainer.step_count();
        let (mut losses, mut memory) = (Vec::new(), Vec::new());
        let metrics = JsonLines::resume(&folder.file(METRICS)?, |line| {
            let before = line["step"].as_u64().filter(|&s| s < step);
            losses.extend(before.zip(line["loss"].as_f64()).map(|(s, loss)| (s as f64, loss)));
            let looked = || {
                let files = line["open_files"].as_u64()? as usize;
                Some(Memory { seconds: line["seconds"].as_f64()?, bytes: line["memory_bytes"].as_u64()?, files })
            };
            memory.extend(before.and_then(|_| looked()));
            before.is_some()
        })?;
        let Clock { step: clock_step, seconds, cpu_seconds: cpu_before, mut curve } = Clock::read(&folder);
        // The seconds of a run that is planned by time are in the checkpoint.
        let seconds_before = match saved.time_limit {
            _ if clock_step == step => (seconds - trainer.seconds()).max(0.0),
            Some(_) => 0.0,
            None => seconds,
        };
        curve.retain(|look| look.step <= step);
        println!("resuming at step {step}");
        let mut run = Self {
            seconds_before,
            cpu_origin: cpu_seconds().map(|now| now - cpu_before.unwrap_or(0.0)),
            bar: bar(args.quiet),
            interrupts: Interrupts::listen()?,
            saver: Saver::new(kept, folder.file(ERROR_MAP)?),
            trainer,
            header,
            metrics,
            losses,
            memory,
            curve,
            folder,
        };
        if changed || is_old {
            // Before the checkpoint: where this is the last that is done, the same command again does the rest.
            let config = RunConfig {
                preset: run.header.preset,
                capture: run.header.capture.clone(),
                resize: options.resize.to_string(),
                test_views: options.test_views.to_string(),
                train: run.trainer.config().clone(),
            };
            write_text(&run.folder.file(CONFIG)?, &toml::to_string(&config)?)?;
        }
        if changed {
            run.save()?;
        }
        Ok(run)
    }

    /// Seconds of training, those before a resume included.
    fn seconds(&self) -> f64 {
        self.seconds_before + self.trainer.seconds()
    }

    /// CPU seconds of training; looks do not count.
    fn cpu_seconds(&self) -> Option<f64> {
        Some(cpu_seconds()? - self.cpu_origin?)
    }

    fn train(&mut self, args: &Args) -> Result<End> {
        let Args { stop_after, eval_every, checkpoint_every, .. } = *args;
        let mut next_look = (self.trainer.progress() * f64::from(LOOKS)).floor() as u32 + 1;
        let mut next_line = self.seconds() + LINE_EVERY;
        let mut next_checkpoint = self.seconds() + checkpoint_every;
        let mut loss = f64::NAN;
        let mut told = None;
        let mut is_told = false;
        let mut end = End::Over;
        while !self.trainer.is_finished() && stop_after.is_none_or(|stop| self.trainer.step_count() < stop) {
            let stats = self.trainer.step()?;
            // Over about the last twenty steps.
            loss = if loss.is_nan() { stats.loss } else { loss + 0.05 * (stats.loss - loss) };
            if let Err(error) = self.record(&stats)
                && !std::mem::replace(&mut is_told, true)
            {
                println!("warning: step {}: {error:#}; steps may be missing there", stats.step);
            }
            if told.is_none() {
                told = self.trainer.sampler().stats().failure;
                if let Some(failure) = told {
                    println!("warning: step {}: rays are drawn uniformly where {failure}", stats.step);
                }
            }
            self.show(&stats, loss, &mut next_line);
            let over = self.trainer.is_finished();
            let due = match eval_every {
                Some(every) => self.trainer.step_count().is_multiple_of(every),
                None => self.trainer.progress() * f64::from(LOOKS) >= f64::from(next_look),
            };
            if !over && due {
                next_look += 1;
                self.look()?;
            }
            if let Some(status) = self.interrupts.status() {
                end = End::Interrupted(status);
                break;
            }
            // A slow disk delays the next one, and not the training; but for one after each step.
            let due = self.seconds() >= next_checkpoint && (checkpoint_every == 0.0 || self.saver.is_free());
            if !over && due {
                next_checkpoint = self.seconds() + checkpoint_every;
                let begun = self.begin_save();
                self.warn_if_not_saved(begun)?;
            }
        }
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let written = self.saver.finish();
        self.warn_if_not_saved(written)?;
        self.trainer.check_state()?;
        Ok(end)
    }

    /// A checkpoint that could not be written is no reason to end, if it is not for what is in it: there may be room for
    /// the next.
    fn warn_if_not_saved(&self, saved: Result<()>) -> Result<()> {
        if let Err(error) = saved {
            self.trainer.check_state()?;
            println!("warning: not saved: {error:#}; the checkpoint before is the last one still");
        }
        Ok(())
    }

    /// An error that ended the training, with what can be done about it.
    fn explain(&mut self, error: anyhow::Error, debug: bool) -> anyhow::Error {
        // From here on nothing is saved that has not been begun.
        self.interrupts.leave_at_once();
        let debug = debug && self.interrupts.status().is_none();
        // What is being written is good; if it cannot be, the one before it is the last.
        let _ = self.saver.finish();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if !matches!(error.downcast_ref(), Some(Error::NonFinite { .. })) {
            return error;
        }
        let good = newest_whole(&self.saver.kept).ok();
        let step = good.as_ref().and_then(|path| {
            let mut header = Checkpoint::load_header(path).ok()?;
            migrate_header(path, &mut header).ok()?;
            header["step"].as_u64()
        });
        let told = match (&good, step) {
            (Some(path), Some(step)) => format!("the last good checkpoint is {} (step {step})", path.display()),
            _ => "no checkpoint had been written".into(),
        };
        let advice =
            match debug.then(|| replay::replay(&self.trainer, good.as_deref(), &self.folder, self.seconds_before)) {
                None => "--debug-nonfinite with the same settings says where it began".to_string(),
                Some(Ok(first)) => format!("it began in {first}"),
                Some(Err(error)) => format!("{error:#}"),
            };
        anyhow::anyhow!("{error}\n{told}\n{advice}")
    }

    fn record(&mut self, stats: &StepStats) -> Result<()> {
        self.losses.push((stats.step as f64, stats.loss));
        let mut line = json!({
            "step": stats.step,
            "seconds": self.seconds(),
            "loss": stats.loss,
            "squared_error": stats.squared_error,
            "rays": self.trainer.num_rays(),
            "cells": stats.num_cells,
            "cells_per_ray": stats.cells_entered as f64 / stats.num_rays as f64,
            "rebuilt": stats.rebuilt,
            "refined": stats.refined,
        });
        if let (Some(look), Some(line)) = (self.look_at_memory(), line.as_object_mut()) {
            line.extend(look);
        }
        self.metrics.write(&line)
    }

    /// What the system says of this process, now and then.
    fn look_at_memory(&mut self) -> Option<Map<String, Value>> {
        let seconds = self.seconds();
        if self.memory.last().is_some_and(|last| seconds < last.seconds + MEMORY_EVERY) {
            return None;
        }
        let (bytes, files) = (memory::resident()?, memory::open_files()?);
        self.memory.push(Memory { seconds, bytes, files });
        Some([("memory_bytes".into(), bytes.into()), ("open_files".into(), files.into())].into_iter().collect())
    }

    fn show(&self, stats: &StepStats, loss: f64, next_line: &mut f64) {
        let trainer = &self.trainer;
        let (seconds, progress) = (self.seconds(), trainer.progress());
        let rays_per_second = trainer.num_rays() as f64 / seconds;
        let psnr = self.curve.last().map_or("-".into(), |look| format!("{:.2}", look.psnr_db));
        let left = seconds * (1.0 - progress) / progress.max(1e-9);
        let line = format!(
            "step {} | {:.0} krays/s | loss {loss:.5} | test {psnr} dB | {} cells | {left:.0} s left",
            stats.step + 1,
            rays_per_second / 1e3,
            stats.num_cells,
        );
        match &self.bar {
            Some(bar) => {
                bar.set_position((progress * 1000.0) as u64);
                bar.set_message(line);
            }
            None if seconds >= *next_line => {
                *next_line = seconds + LINE_EVERY;
                println!("{line}");
            }
            None => {}
        }
    }

    /// One of how many test views is looked at.
    fn look_stride(&self) -> usize {
        let test = &self.trainer.dataset().test;
        let pixels: u64 = test.iter().map(|v| u64::from(v.camera.width) * u64::from(v.camera.height)).sum();
        pixels.div_ceil(LOOK_PIXELS).max(1) as usize
    }

    /// Scores some test views; neither clock counts it.
    fn look(&mut self) -> Result<()> {
        let cpu = self.cpu_seconds();
        let views: Vec<_> = self.trainer.dataset().test.iter().step_by(self.look_stride()).cloned().collect();
        if views.is_empty() {
            return Ok(());
        }
        let config = self.trainer.config();
        let background = self.trainer.background().evaluation();
        let evaluation = candle_radfoam::train::evaluate_views(
            self.trainer.foam(),
            &views,
            background,
            &config.trace,
            |_, _, _| Ok(()),
        )?;
        self.push_look(cpu, &evaluation);
        self.cpu_origin = cpu_seconds().zip(cpu).map(|(now, cpu)| now - cpu);
        Ok(())
    }

    fn push_look(&mut self, cpu_seconds: Option<f64>, evaluation: &Evaluation) {
        let step = self.trainer.step_count();
        // A run that is resumed at its end has been looked at there.
        self.curve.retain(|look| look.step < step);
        self.curve.push(Look {
            seconds: self.seconds(),
            cpu_seconds,
            step,
            rays: self.trainer.num_rays(),
            views: evaluation.views.len(),
            psnr_db: evaluation.psnr_db,
        });
    }

    /// Saves everything, and waits until it is on the disk.
    fn save(&mut self) -> Result<()> {
        self.begin_save()?;
        self.saver.finish()
    }

    /// Saves everything while the training goes on.
    fn begin_save(&mut self) -> Result<()> {
        let (path, clock) = (self.folder.file(CLOCK)?, self.clock(self.cpu_seconds()));
        let Self { saver, trainer, header, .. } = self;
        saver.begin(|| {
            let (checkpoint, map) = trainer.checkpoint_and_error_map(serde_json::to_value(&*header)?)?;
            Ok((checkpoint, map, move || write_json(&path, &clock)))
        })
    }

    fn clock(&self, cpu_seconds: Option<f64>) -> Clock {
        let (step, seconds, curve) = (self.trainer.step_count(), self.seconds(), self.curve.clone());
        Clock { step, seconds, cpu_seconds, curve }
    }
}
