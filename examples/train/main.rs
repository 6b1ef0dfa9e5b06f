//! Trains a radiance foam on a capture, or on a synthetic one made on the spot, and leaves a folder to look at.
//!
//! ```text
//! cargo run --release --example train
//! cargo run --release --example train -- path/to/capture --time-limit 120
//! ```

mod args;
mod capture;
#[path = "../support/mod.rs"]
mod support;

use anyhow::{Context, Result, bail};
use args::{Args, RunConfig, apply};
use candle_core::Device;
use candle_radfoam::data::Strategy;
use candle_radfoam::train::{Evaluation, StepStats, Trainer, ViewScore};
use capture::{bar, load, run_folder, synthetic_capture};
use clap::Parser;
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::Path;
use std::time::Instant;
use support::checkpoint::{CHECKPOINT, CLOCK, CONFIG, ERROR_MAP, METRICS, RESULT, RunHeader, file_stems};
use support::folder::{JsonLines, RunFolder, write_json, write_text};
use support::{picture, plot};

/// Looks at the test views before the end, evenly over the run; each costs time that is not counted.
const LOOKS: u32 = 8;
/// Pixels rendered at most for such a look; the last one renders every test view.
const LOOK_PIXELS: u64 = 1_500_000;
/// Seconds between plain progress lines, and between checkpoints.
const LINE_EVERY: f64 = 5.0;
const CHECKPOINT_EVERY: f64 = 120.0;
/// Test views of which pictures are kept, and how many of them are on the sheet of them.
const PICTURES: usize = 16;
const SHEET: usize = 4;
/// Error maps are enlarged for their picture up to about this width in pixels.
const MAP_WIDTH: u32 = 640;
/// What the clocks said at a checkpoint; beside it, for no two runs agree on them.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Clock {
    step: u64,
    seconds: f64,
    cpu_seconds: Option<f64>,
    curve: Vec<Look>,
}

impl Clock {
    /// The clock in a run's folder; at zero if it was lost, which hurts no result but the times.
    fn read(folder: &RunFolder) -> Result<Self> {
        let path = folder.file(CLOCK)?;
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))
    }
}

/// A point of the curve in result.json.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Look {
    seconds: f64,
    cpu_seconds: Option<f64>,
    step: u64,
    rays: u64,
    /// Test views that were scored: the same ones for every point of a run.
    views: usize,
    psnr_db: f64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(threads) = args.threads {
        if threads == 0 {
            bail!("--threads: expected at least 1, found 0");
        }
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    }
    let device = device(&args.device)?;
    let mut run = match &args.resume {
        Some(folder) => Run::resume(&args, folder, &device)?,
        None => Run::begin(&args, &device)?,
    };
    run.train(args.stop_after, args.eval_every)?;
    if args.profile {
        print!("{}", run.trainer.profile());
    }
    run.finish()
}

fn device(name: &str) -> Result<Device> {
    match name.split_once(':') {
        None if name == "cpu" => Ok(Device::Cpu),
        Some(("cuda", ordinal)) => {
            let ordinal = ordinal.parse().with_context(|| format!("--device: expected cuda:N, found {name}"))?;
            Device::new_cuda(ordinal).with_context(|| format!("--device {name}"))
        }
        _ => bail!("--device: expected cpu or cuda:N, found {name}"),
    }
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
    header: RunHeader,
    metrics: JsonLines,
    losses: Vec<(f64, f64)>,
    curve: Vec<Look>,
    bar: Option<ProgressBar>,
    /// Seconds of training before the run was resumed, where the trainer does not count them itself.
    seconds_before: f64,
    /// Process CPU time at the start of the training that counts, less what was spent on looks.
    cpu_origin: Option<f64>,
}

impl Run {
    fn begin(args: &Args, device: &Device) -> Result<Self> {
        let mut config: RunConfig = match &args.config {
            Some(path) => {
                let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
                toml::from_str(&text).with_context(|| format!("reading {}", path.display()))?
            }
            None => RunConfig::default(),
        };
        let options = apply(args, &mut config)?;
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
        let cpu_origin = cpu_seconds();
        let trainer = Trainer::new(dataset, config.train.clone(), device)?;
        config.train = trainer.config().clone();
        write_text(&folder.file(CONFIG)?, &toml::to_string(&config)?)?;
        let header = RunHeader::new(std::fs::canonicalize(&capture)?, &options);
        let metrics = JsonLines::create(&folder.file(METRICS)?)?;
        Ok(Self {
            trainer,
            header,
            metrics,
            losses: Vec::new(),
            curve: Vec::new(),
            bar: bar(args.quiet),
            folder,
            seconds_before: 0.0,
            cpu_origin,
        })
    }

    fn resume(args: &Args, folder: &Path, device: &Device) -> Result<Self> {
        let folder = std::fs::canonicalize(folder).with_context(|| folder.display().to_string())?;
        let path = folder.join(CHECKPOINT);
        let checkpoint = candle_radfoam::checkpoint::Checkpoint::load(&path, device)?;
        let mut header: RunHeader = checkpoint.field(&path, "run")?;
        if let Some(moved) = &args.capture {
            header.capture = Some(std::fs::canonicalize(moved).with_context(|| moved.display().to_string())?);
        }
        let Some(capture) = &header.capture else {
            bail!("{} does not say which capture it was trained on; name it before --resume", path.display());
        };
        let dataset = load(capture, &header.options()?, args.quiet).with_context(|| {
            format!("the capture of the run, {}; if it has moved, name its place before --resume", capture.display())
        })?;
        let trainer = Trainer::resume(&path, dataset, device)?;
        let folder = RunFolder::open(folder);
        let step = trainer.step_count();
        let mut losses = Vec::new();
        let metrics = JsonLines::resume(&folder.file(METRICS)?, |line| {
            let before = line["step"].as_u64().filter(|&s| s < step);
            losses.extend(before.zip(line["loss"].as_f64()).map(|(s, loss)| (s as f64, loss)));
            before.is_some()
        })?;
        let Clock { seconds, cpu_seconds: cpu_before, mut curve, .. } = Clock::read(&folder)?;
        curve.retain(|look| look.step <= step);
        println!("resuming at step {step}");
        Ok(Self {
            // A run that is planned by time has its seconds in the checkpoint.
            seconds_before: if trainer.config().time_limit.is_some() { 0.0 } else { seconds },
            cpu_origin: cpu_seconds().map(|now| now - cpu_before.unwrap_or(0.0)),
            bar: bar(args.quiet),
            trainer,
            header,
            metrics,
            losses,
            curve,
            folder,
        })
    }

    /// Seconds of training, those before a resume included.
    fn seconds(&self) -> f64 {
        self.seconds_before + self.trainer.seconds()
    }

    /// CPU seconds of training; looks do not count.
    fn cpu_seconds(&self) -> Option<f64> {
        Some(cpu_seconds()? - self.cpu_origin?)
    }

    fn train(&mut self, stop_after: Option<u64>, eval_every: Option<u64>) -> Result<()> {
        let mut next_look = (self.trainer.progress() * f64::from(LOOKS)).floor() as u32 + 1;
        let mut next_line = self.seconds() + LINE_EVERY;
        let mut next_checkpoint = self.seconds() + CHECKPOINT_EVERY;
        let mut loss = f64::NAN;
        let mut told = None;
        while !self.trainer.is_finished() && stop_after.is_none_or(|stop| self.trainer.step_count() < stop) {
            let stats = self.trainer.step()?;
            // Over about the last twenty steps.
            loss = if loss.is_nan() { stats.loss } else { loss + 0.05 * (stats.loss - loss) };
            self.record(&stats)?;
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
            if !over && self.seconds() >= next_checkpoint {
                next_checkpoint = self.seconds() + CHECKPOINT_EVERY;
                self.save()?;
            }
        }
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.trainer.check_parameters()?;
        Ok(())
    }

    fn record(&mut self, stats: &StepStats) -> Result<()> {
        self.losses.push((stats.step as f64, stats.loss));
        self.metrics.write(&json!({
            "step": stats.step,
            "seconds": self.seconds(),
            "loss": stats.loss,
            "squared_error": stats.squared_error,
            "rays": self.trainer.num_rays(),
            "cells": stats.num_cells,
            "cells_per_ray": stats.cells_entered as f64 / stats.num_rays as f64,
            "rebuilt": stats.rebuilt,
            "refined": stats.refined,
        }))
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

    fn save(&self) -> Result<()> {
        self.trainer.save(self.folder.file(CHECKPOINT)?, serde_json::to_value(&self.header)?)?;
        self.trainer.save_error_map(self.folder.file(ERROR_MAP)?)?;
        self.save_clock(self.cpu_seconds())
    }

    fn save_clock(&self, cpu_seconds: Option<f64>) -> Result<()> {
        let (step, seconds, curve) = (self.trainer.step_count(), self.seconds(), self.curve.clone());
        write_json(&self.folder.file(CLOCK)?, &Clock { step, seconds, cpu_seconds, curve })
    }

    fn finish(mut self) -> Result<()> {
        let cpu = self.cpu_seconds();
        self.save()?;
        let started = Instant::now();
        // The scores are worth more than the pictures: they are written even if one of these fails.
        let (evaluation, pictures) = self.evaluate()?;
        let render_seconds = started.elapsed().as_secs_f64();
        if let Some(evaluation) = &evaluation {
            // Of the views that were looked at on the way, so that the curve is one of the same views.
            let views: Vec<ViewScore> = evaluation.views.iter().step_by(self.look_stride()).cloned().collect();
            self.push_look(cpu, &Evaluation::of(views));
        }
        self.save_clock(cpu)?;
        self.write_result(cpu, evaluation.as_ref())?;
        pictures?;
        self.draw_plots()?;
        self.draw_error_map()?;
        println!("results in {} (test views rendered in {render_seconds:.1} s)", self.folder.path().display());
        let scores = evaluation.map_or("no views".into(), |Evaluation { psnr_db, ssim, views, .. }| {
            format!("PSNR {psnr_db:.2} dB, SSIM {ssim:.3} over {} views", views.len())
        });
        println!(
            "test: {scores}, {:.0} s, {} rays, {} cells",
            self.seconds(),
            self.trainer.num_rays(),
            self.trainer.foam().num_cells(),
        );
        Ok(())
    }

    /// Scores all test views, if there are any, and saves pictures of the first of them.
    fn evaluate(&self) -> Result<(Option<Evaluation>, Result<()>)> {
        let (trainer, folder) = (&self.trainer, &self.folder);
        let test = &trainer.dataset().test;
        if test.is_empty() {
            return Ok((None, Ok(())));
        }
        let names: Vec<&str> = test.iter().map(|view| view.name.as_str()).collect();
        let stems = file_stems(&names);
        let background = trainer.background().evaluation();
        let mut sheet = Vec::new();
        let mut pictures = Ok(());
        let evaluation = trainer.evaluate(|i, view, rendering| {
            let mut save = || -> Result<()> {
                let (stem, width, height) = (&stems[i], rendering.width, rendering.height);
                let truth = view.image.over(background);
                let picture = picture::comparison(rendering.rgb.as_flattened(), truth.as_flattened(), width, height)?;
                picture::save(&folder.file(&format!("test/{stem}.png"))?, &picture)?;
                let depth = picture::depth(&rendering.depth, width, height)?;
                picture::save(&folder.file(&format!("test/{stem}_depth.png"))?, &depth)?;
                if sheet.len() < SHEET {
                    sheet.push(picture);
                    picture::save(&folder.file("test.png")?, &picture::sheet(&sheet, 1)?)?;
                }
                Ok(())
            };
            if i < PICTURES && pictures.is_ok() {
                pictures = save();
            }
            Ok(())
        })?;
        Ok((Some(evaluation), pictures))
    }

    fn write_result(&self, cpu_seconds: Option<f64>, evaluation: Option<&Evaluation>) -> Result<()> {
        let trainer = &self.trainer;
        write_json(
            &self.folder.file(RESULT)?,
            &json!({
                "psnr_db": evaluation.map(|e| e.psnr_db),
                "ssim": evaluation.map(|e| e.ssim),
                "views": evaluation.map_or(0, |e| e.views.len()),
                "seconds": self.seconds(),
                "cpu_seconds": cpu_seconds,
                "steps": trainer.step_count(),
                "rays": trainer.num_rays(),
                "cells": trainer.foam().num_cells(),
                "sampling": trainer.config().sampler.strategy,
                "curve": self.curve,
                "per_view": evaluation.map_or(&[][..], |e| &e.views),
            }),
        )
    }

    fn draw_plots(&self) -> Result<()> {
        if !self.losses.is_empty() {
            let losses = plot::Series { name: "training loss".into(), points: self.losses.clone() };
            plot::plot_curves(&self.folder.file("loss.svg")?, "Loss", "step", "mean loss of a batch", &[losses], true)?;
        }
        if self.curve.is_empty() {
            return Ok(());
        }
        let points = self.curve.iter().map(|look| (look.seconds, look.psnr_db)).collect();
        let psnr = plot::Series { name: "test views".into(), points };
        plot::plot_curves(&self.folder.file("psnr.svg")?, "PSNR", "seconds of training", "dB", &[psnr], false)
    }

    fn draw_error_map(&self) -> Result<()> {
        let sampler = self.trainer.sampler();
        if sampler.config().strategy == Strategy::None {
            return Ok(());
        }
        let maps = (0..self.trainer.dataset().train.len().min(PICTURES))
            .map(|view| Ok(sampler.map_image(view)?.to_vec2::<f32>()?))
            .collect::<Result<Vec<_>>>()?;
        let most = picture::most_error(maps.iter().flatten().flatten().copied());
        let picture = |map: &Vec<Vec<f32>>| {
            let (width, height) = (map.first().map_or(0, Vec::len) as u32, map.len() as u32);
            let picture = picture::error_map(&map.concat(), width, height, most)?;
            // An entry as large as the patch of pixels that it stands for, if there is room for that.
            let factor = sampler.config().map_patch().min((MAP_WIDTH / width.max(1)).max(1));
            Ok(picture::enlarged(&picture, factor))
        };
        let pictures = maps.iter().map(picture).collect::<Result<Vec<_>>>()?;
        picture::save(&self.folder.file("error_map.png")?, &picture::sheet(&pictures, 4)?)
    }
}
