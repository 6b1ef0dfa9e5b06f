//! Trains a radiance foam on a capture, or on a synthetic one made on the spot, and leaves a folder to look at.
//!
//! ```text
//! cargo run --release --example train
//! cargo run --release --example train -- path/to/capture --time-limit 120
//! ```

mod support;

use anyhow::{Context, Result, bail};
use candle_core::Device;
use candle_radfoam::data::synthetic::{SyntheticOptions, is_capture_of, write_capture};
use candle_radfoam::data::{Dataset, LoadOptions, Resize, Strategy, TestViews, load_with_progress};
use candle_radfoam::train::{Background, StepStats, TrainConfig, Trainer};
use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use support::folder::{Existing, JsonLines, RunFolder, write_json, write_text};
use support::{picture, plot};

/// Training seconds of a run for which neither steps nor a time limit is given.
const DEFAULT_SECONDS: f64 = 60.0;
/// Looks at the test views before the end, evenly over the run; each costs time that is not counted.
const LOOKS: u32 = 8;
/// Pixels rendered at most for such a look; the last one renders every test view.
const LOOK_PIXELS: u64 = 1_500_000;
/// Seconds between plain progress lines, and between checkpoints.
const LINE_EVERY: f64 = 5.0;
const CHECKPOINT_EVERY: f64 = 120.0;
/// Test views of which pictures are kept.
const PICTURES: usize = 16;

/// Trains a radiance foam and leaves a folder with checkpoint, pictures, plots and result.json.
#[derive(Debug, Parser)]
struct Args {
    /// Folder of the capture (Blender, instant-ngp, nerfstudio or COLMAP); without one, a synthetic capture is made.
    capture: Option<PathBuf>,
    /// Folder for the results [default: runs/NAME, with a number if that is taken].
    #[arg(long)]
    out: Option<PathBuf>,
    /// Steps to plan the run for.
    #[arg(long)]
    steps: Option<u64>,
    /// Stop after this step, as if interrupted: the schedules stay those of the whole run.
    #[arg(long)]
    stop_after: Option<u64>,
    /// Seconds of training to plan the run for [default: 60, unless --steps is given].
    #[arg(long)]
    time_limit: Option<f64>,
    /// Rays a step.
    #[arg(long)]
    rays_per_batch: Option<usize>,
    /// Cells to grow to [default: by the time that the run is planned for].
    #[arg(long)]
    max_cells: Option<usize>,
    /// Degree of the spherical harmonics of a cell's colour, 0 to 3.
    #[arg(long)]
    sh_degree: Option<usize>,
    /// Reduce the images by this factor.
    #[arg(long, conflicts_with = "size")]
    downsample: Option<u32>,
    /// Reduce the images to WIDTHxHEIGHT.
    #[arg(long)]
    size: Option<Resize>,
    /// Views held out: every:N[:OFFSET] by name, or NAME,.. [default: the capture's own split, else every 8th].
    #[arg(long)]
    test_views: Option<TestViews>,
    /// How rays are drawn.
    #[arg(long)]
    sampling: Option<Sampling>,
    /// What is behind the scene: white, black or random [default: white for images with alpha, else random].
    #[arg(long)]
    background: Option<Background>,
    /// Seed of everything random.
    #[arg(long)]
    seed: Option<u64>,
    /// Threads [default: one a core].
    #[arg(long)]
    threads: Option<usize>,
    /// cpu, or cuda:N.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Settings as a run leaves them in config.toml; flags take precedence.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Go on with the run in this folder.
    #[arg(long, conflicts_with_all = ["config", "capture"])]
    resume: Option<PathBuf>,
    /// Plain lines instead of a progress bar.
    #[arg(long)]
    quiet: bool,
}

/// How rays are drawn.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Sampling {
    /// Uniformly, without an error map.
    None,
    /// Uniformly, with an error map kept for looking at.
    Uniform,
    /// In proportion to the error map.
    ErrorWeighted,
}

/// What config.toml holds: where the pixels came from, and how they were trained on.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RunConfig {
    /// Absolute; none for the synthetic capture.
    capture: Option<PathBuf>,
    resize: String,
    test_views: String,
    train: TrainConfig,
}

/// What a checkpoint says of its run, for the programs that read it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct RunHeader {
    capture: PathBuf,
    resize: String,
    test_views: String,
    cpu_seconds: f64,
    curve: Vec<Look>,
}

/// A point of the curve in result.json.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Look {
    seconds: f64,
    cpu_seconds: f64,
    step: u64,
    rays: u64,
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
    run.train(args.stop_after)?;
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

/// CPU time of this process, user and system, in seconds.
fn cpu_seconds() -> f64 {
    #[cfg(unix)]
    {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
    }
    #[cfg(not(unix))]
    f64::NAN
}

/// A run under way: the trainer, its folder, and what has been shown of it.
struct Run {
    trainer: Trainer,
    folder: RunFolder,
    header: RunHeader,
    metrics: JsonLines,
    losses: Vec<(f64, f64)>,
    bar: Option<ProgressBar>,
    /// Process CPU time at the start of the training that counts, less what was spent on looks.
    cpu_origin: f64,
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
        let folder = run_folder(args, config.capture.as_deref())?;
        let capture = match &config.capture {
            Some(capture) => capture.clone(),
            None => synthetic_capture(&folder)?,
        };
        let dataset = load(&capture, &options, args.quiet)?;
        describe(&dataset);
        let cpu_origin = cpu_seconds();
        let trainer = Trainer::new(dataset, config.train.clone(), device)?;
        config.train = trainer.config().clone();
        write_text(&folder.file("config.toml")?, &toml::to_string(&config)?)?;
        let header = RunHeader {
            capture: std::fs::canonicalize(&capture)?,
            resize: options.resize.to_string(),
            test_views: options.test_views.to_string(),
            cpu_seconds: 0.0,
            curve: Vec::new(),
        };
        let metrics = JsonLines::create(&folder.file("metrics.jsonl")?)?;
        Ok(Self { trainer, header, metrics, losses: Vec::new(), bar: bar(args.quiet), folder, cpu_origin })
    }

    fn resume(args: &Args, folder: &Path, device: &Device) -> Result<Self> {
        let path = folder.join("checkpoint.safetensors");
        let checkpoint = candle_radfoam::checkpoint::Checkpoint::load(&path, device)?;
        let header: RunHeader = checkpoint.field(&path, "run")?;
        let options = LoadOptions { resize: header.resize.parse()?, test_views: header.test_views.parse()? };
        let dataset = load(&header.capture, &options, args.quiet)?;
        describe(&dataset);
        let trainer = Trainer::resume(&path, dataset, device)?;
        let (root, name) = split(folder)?;
        let folder = RunFolder::create(root, name, Existing::Resume)?;
        let step = trainer.step_count();
        let before = |line: &serde_json::Value| line["step"].as_u64().is_some_and(|s| s < step);
        let metrics = JsonLines::resume(&folder.file("metrics.jsonl")?, before)?;
        println!("resuming at step {step}");
        let cpu_origin = cpu_seconds() - header.cpu_seconds;
        Ok(Self { trainer, header, metrics, losses: Vec::new(), bar: bar(args.quiet), folder, cpu_origin })
    }

    fn cpu_seconds(&self) -> f64 {
        cpu_seconds() - self.cpu_origin
    }

    fn train(&mut self, stop_after: Option<u64>) -> Result<()> {
        let mut next_look = (self.trainer.progress() * f64::from(LOOKS)).floor() as u32 + 1;
        let mut next_line = self.trainer.seconds() + LINE_EVERY;
        let mut next_checkpoint = self.trainer.seconds() + CHECKPOINT_EVERY;
        let mut loss = f64::NAN;
        while !self.trainer.is_finished() && stop_after.is_none_or(|stop| self.trainer.step_count() < stop) {
            let stats = self.trainer.step()?;
            // Over about the last twenty steps.
            loss = if loss.is_nan() { stats.loss } else { loss + 0.05 * (stats.loss - loss) };
            self.record(&stats)?;
            self.show(&stats, loss, &mut next_line);
            let over = self.trainer.is_finished();
            if !over && self.trainer.progress() * f64::from(LOOKS) >= f64::from(next_look) {
                next_look += 1;
                self.look()?;
            }
            if !over && self.trainer.seconds() >= next_checkpoint {
                next_checkpoint = self.trainer.seconds() + CHECKPOINT_EVERY;
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
            "seconds": self.trainer.seconds(),
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
        let (seconds, progress) = (trainer.seconds(), trainer.progress());
        let rays_per_second = trainer.num_rays() as f64 / seconds;
        let psnr = self.header.curve.last().map_or("-".into(), |look| format!("{:.2}", look.psnr_db));
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

    /// Scores some test views; neither clock counts it.
    fn look(&mut self) -> Result<()> {
        let cpu = self.cpu_seconds();
        let test = &self.trainer.dataset().test;
        let pixels: u64 = test.iter().map(|v| u64::from(v.camera.width) * u64::from(v.camera.height)).sum();
        let stride = pixels.div_ceil(LOOK_PIXELS).max(1) as usize;
        let views: Vec<_> = test.iter().step_by(stride).cloned().collect();
        let config = self.trainer.config();
        let background = self.trainer.background().evaluation();
        let evaluation = candle_radfoam::train::evaluate_views(
            self.trainer.foam(),
            &views,
            background,
            &config.trace,
            |_, _, _| Ok(()),
        )?;
        self.push_look(cpu, evaluation.psnr_db);
        self.cpu_origin = cpu_seconds() - cpu;
        Ok(())
    }

    fn push_look(&mut self, cpu_seconds: f64, psnr_db: f64) {
        self.header.curve.push(Look {
            seconds: self.trainer.seconds(),
            cpu_seconds,
            step: self.trainer.step_count(),
            rays: self.trainer.num_rays(),
            psnr_db,
        });
    }

    fn save(&mut self) -> Result<()> {
        self.header.cpu_seconds = self.cpu_seconds();
        self.trainer.save(self.folder.file("checkpoint.safetensors")?, serde_json::to_value(&self.header)?)?;
        self.trainer.save_error_map(self.folder.file("error_map.safetensors")?)?;
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        let cpu = self.cpu_seconds();
        self.save()?;
        let folder = &self.folder;
        let mut failure = None;
        let background = self.trainer.background().evaluation();
        let mut sheet = Vec::new();
        let started = Instant::now();
        let evaluation = self.trainer.evaluate(|i, view, rendering| {
            let mut save = || -> Result<()> {
                if i >= PICTURES {
                    return Ok(());
                }
                let (width, height) = (rendering.width, rendering.height);
                let name =
                    Path::new(&view.name).file_stem().map_or("view".into(), |s| s.to_string_lossy().into_owned());
                let truth = view.image.over(background);
                let picture = picture::comparison(rendering.rgb.as_flattened(), truth.as_flattened(), width, height)?;
                picture::save(&folder.file(&format!("test/{name}.png"))?, &picture)?;
                let depth = picture::depth(&rendering.depth, width, height)?;
                picture::save(&folder.file(&format!("test/{name}_depth.png"))?, &depth)?;
                sheet.push(picture);
                Ok(())
            };
            if failure.is_none() {
                failure = save().err();
            }
            Ok(())
        })?;
        if let Some(failure) = failure {
            return Err(failure);
        }
        if !sheet.is_empty() {
            picture::save(&folder.file("test.png")?, &picture::sheet(&sheet[..sheet.len().min(4)], 1)?)?;
        }
        let render_seconds = started.elapsed().as_secs_f64();
        self.push_look(cpu, evaluation.psnr_db);
        self.draw_plots()?;
        self.draw_error_map()?;
        let (trainer, folder) = (&self.trainer, &self.folder);
        let strategy = serde_json::to_value(trainer.config().sampler.strategy)?;
        write_json(
            &folder.file("result.json")?,
            &json!({
                "psnr_db": evaluation.psnr_db,
                "ssim": evaluation.ssim,
                "views": evaluation.views.len(),
                "seconds": trainer.seconds(),
                "cpu_seconds": cpu,
                "steps": trainer.step_count(),
                "rays": trainer.num_rays(),
                "cells": trainer.foam().num_cells(),
                "sampling": strategy,
                "curve": self.header.curve,
                "per_view": evaluation.views,
            }),
        )?;
        println!("results in {} (test views rendered in {render_seconds:.1} s)", folder.path().display());
        println!(
            "test: PSNR {:.2} dB, SSIM {:.3} over {} views, {:.0} s, {} rays, {} cells",
            evaluation.psnr_db,
            evaluation.ssim,
            evaluation.views.len(),
            trainer.seconds(),
            trainer.num_rays(),
            trainer.foam().num_cells(),
        );
        Ok(())
    }

    fn draw_plots(&self) -> Result<()> {
        if !self.losses.is_empty() {
            let losses = plot::Series { name: "training loss".into(), points: self.losses.clone() };
            plot::plot_curves(&self.folder.file("loss.svg")?, "Loss", "step", "mean loss of a batch", &[losses], true)?;
        }
        let points = self.header.curve.iter().map(|look| (look.seconds, look.psnr_db)).collect();
        let psnr = plot::Series { name: "test views".into(), points };
        plot::plot_curves(&self.folder.file("psnr.svg")?, "PSNR", "seconds of training", "dB", &[psnr], false)
    }

    fn draw_error_map(&self) -> Result<()> {
        let sampler = self.trainer.sampler();
        if sampler.config().strategy == Strategy::None {
            return Ok(());
        }
        let mut maps = Vec::new();
        for view in 0..self.trainer.dataset().train.len().min(PICTURES) {
            let map = sampler.map_image(view)?;
            let (height, width) = map.dims2()?;
            maps.push(picture::error_map(&map.flatten_all()?.to_vec1::<f32>()?, width as u32, height as u32)?);
        }
        picture::save(&self.folder.file("error_map.png")?, &picture::sheet(&maps, 4)?)
    }
}

/// Puts the flags into the configuration, and fills in what neither says.
fn apply(args: &Args, config: &mut RunConfig) -> Result<LoadOptions> {
    let train = &mut config.train;
    if args.steps.is_some() || args.time_limit.is_some() {
        (train.steps, train.time_limit) = (args.steps, args.time_limit);
    } else if train.steps.is_none() && train.time_limit.is_none() {
        train.time_limit = Some(DEFAULT_SECONDS);
    }
    if let Some(rays) = args.rays_per_batch {
        train.sampler.batch_size = rays;
    }
    if let Some(max_cells) = args.max_cells {
        train.refine.max_cells = max_cells;
    } else if args.config.is_none()
        && let Some(seconds) = train.time_limit
    {
        let threads = rayon::current_num_threads() as f64;
        train.refine.max_cells = TrainConfig::cells_for(seconds * threads);
    }
    if let Some(degree) = args.sh_degree {
        train.sh_degree = degree;
    }
    if let Some(sampling) = args.sampling {
        train.sampler.strategy = match sampling {
            Sampling::None => Strategy::None,
            Sampling::Uniform => Strategy::Uniform,
            Sampling::ErrorWeighted => Strategy::ErrorWeighted,
        };
    }
    if let Some(background) = args.background {
        train.background = Some(background);
    }
    if let Some(seed) = args.seed {
        train.seed = seed;
    }
    let parse = |text: &str| if text.is_empty() { None } else { Some(text.to_string()) };
    let resize = match (args.downsample, args.size, parse(&config.resize)) {
        (Some(factor), ..) => Resize::Downsample(factor),
        (_, Some(size), _) => size,
        (.., Some(text)) => text.parse()?,
        _ => Resize::default(),
    };
    let test_views = match (&args.test_views, parse(&config.test_views)) {
        (Some(views), _) => views.clone(),
        (None, Some(text)) => text.parse()?,
        _ => TestViews::default(),
    };
    (config.resize, config.test_views) = (resize.to_string(), test_views.to_string());
    Ok(LoadOptions { resize, test_views })
}

fn split(path: &Path) -> Result<(&Path, &str)> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.with_context(|| format!("--out: expected a folder's name, found {}", path.display()))?;
    Ok((path.parent().unwrap_or(Path::new("")), name))
}

/// `--out`, or a folder under runs named after the capture.
fn run_folder(args: &Args, capture: Option<&Path>) -> Result<RunFolder> {
    match &args.out {
        Some(out) => {
            let (root, name) = split(out)?;
            RunFolder::create(root, name, Existing::Refuse)
        }
        None => {
            let name = capture.and_then(|c| c.file_name()).map_or("synthetic".into(), |n| n.to_string_lossy());
            RunFolder::create(Path::new("runs"), name.trim_start_matches('.'), Existing::Number)
        }
    }
}

/// The synthetic capture beside the run, made if it is not there yet.
fn synthetic_capture(folder: &RunFolder) -> Result<PathBuf> {
    let options = SyntheticOptions::default();
    let path = folder.path().parent().unwrap_or(Path::new("")).join("synthetic-capture");
    if is_capture_of(&path, &options) {
        println!("synthetic capture in {}", path.display());
        return Ok(path);
    }
    println!("no capture given: making a synthetic one in {}", path.display());
    let bar = counting_bar("views");
    write_capture(&path, &options, &|done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    Ok(path)
}

fn load(capture: &Path, options: &LoadOptions, quiet: bool) -> Result<Dataset> {
    let bar = if quiet { ProgressBar::hidden() } else { counting_bar("images") };
    let dataset = load_with_progress(capture, options, &|done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    Ok(dataset)
}

fn describe(dataset: &Dataset) {
    let size = dataset.train.first().map_or((0, 0), |view| (view.camera.width, view.camera.height));
    println!(
        "{}: {} training views, {} test views, {}x{}{}{}",
        dataset.layout,
        dataset.train.len(),
        dataset.test.len(),
        size.0,
        size.1,
        if dataset.has_alpha { ", alpha" } else { "" },
        dataset.point_cloud.as_ref().map_or(String::new(), |cloud| format!(", {} points", cloud.points.len())),
    );
    for skipped in &dataset.skipped {
        println!("skipped {}: {}", skipped.name, skipped.reason);
    }
}

fn counting_bar(what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(&format!("{{bar:40}} {{pos}}/{{len}} {what}"));
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// The progress bar of the training; none where nobody would see it move.
fn bar(quiet: bool) -> Option<ProgressBar> {
    if quiet || !std::io::stderr().is_terminal() {
        return None;
    }
    let style = ProgressStyle::with_template("{bar:30} {percent}% {msg}");
    let bar = ProgressBar::new(1000).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(200));
    Some(bar)
}
