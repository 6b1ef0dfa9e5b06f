//! What `train` can be told, by flags and by a file.

use crate::support::checkpoint::parse_size;
use anyhow::{Context, Result, bail};
use candle_radfoam::data::{LoadOptions, Resize, Strategy, TestViews};
use candle_radfoam::train::{Background, Preset, TrainConfig};
use clap::{Parser, ValueEnum};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The share of the error map that `--sampling top-k` draws from.
const TOP_K_POOL: f64 = 0.1;

/// Trains a radiance foam and leaves a folder with checkpoint, pictures, plots and result.json.
///
/// Ctrl-C (or SIGTERM) saves and leaves, with the exit status 130 (or 143); a second one leaves at once.
#[derive(Debug, Parser)]
pub struct Args {
    /// Folder of the capture (Blender, instant-ngp, nerfstudio or COLMAP); without one, a synthetic capture is made.
    /// With --resume: where the run's capture is now.
    pub capture: Option<PathBuf>,
    /// Folder for the results [default: runs/NAME, with a number if that is taken].
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// What the run is for: fast (20 s: is the capture sound?), default (60 s), best (900 s) or reference (the schedule
    /// of the reference implementation, for comparison: days on a CPU). What --config, --set and flags say comes on top.
    #[arg(long, conflicts_with = "resume")]
    pub preset: Option<Preset>,
    /// Steps to plan the run for.
    #[arg(long)]
    pub steps: Option<u64>,
    /// Stop after this step, as if interrupted: the schedules stay those of the whole run.
    #[arg(long)]
    pub stop_after: Option<u64>,
    /// Seconds of training to plan the run for [default: those of --preset, unless --steps is given].
    #[arg(long)]
    pub time_limit: Option<f64>,
    /// Rays a step.
    #[arg(long)]
    pub rays_per_batch: Option<usize>,
    /// Cells to grow to [default: what --config or --set says, or --preset reference; else by the seconds planned for
    /// and the threads, or 40000 without a time limit].
    #[arg(long)]
    pub max_cells: Option<usize>,
    /// Degree of the spherical harmonics of a cell's colour, 0 to 3.
    #[arg(long)]
    pub sh_degree: Option<usize>,
    /// Reduce the images by this factor.
    #[arg(long, conflicts_with = "size", value_parser = clap::value_parser!(u32).range(1..))]
    pub downsample: Option<u32>,
    /// Reduce the images to WIDTHxHEIGHT.
    #[arg(long, value_parser = parse_size)]
    pub size: Option<(u32, u32)>,
    /// Views held out: every:N[:OFFSET] by name, or NAME,.. [default: the capture's own split, else every 8th].
    #[arg(long)]
    pub test_views: Option<TestViews>,
    /// How rays are drawn.
    #[arg(long)]
    pub sampling: Option<Sampling>,
    /// What is behind the scene: white, black or random [default: white for images with alpha, else random].
    #[arg(long)]
    pub background: Option<Background>,
    /// Score test views every so many steps [default: eight times in all].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub eval_every: Option<u64>,
    /// Say in the end where the time of a step went.
    #[arg(long)]
    pub profile: bool,
    /// Seed of everything random.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Threads [default: one a core].
    #[arg(long)]
    pub threads: Option<usize>,
    /// cpu, cuda or cuda:N [default: the first GPU if there is one that works, else the CPU].
    #[arg(long)]
    pub device: Option<String>,
    /// Settings as a run leaves them in config.toml, or some of them; --set and flags take precedence.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// A setting by its name in config.toml (without `train.`), as optim.points.initial=1e-3; flags of its own take
    /// precedence.
    #[arg(long = "set", value_name = "KEY=VALUE", conflicts_with = "resume")]
    pub settings: Vec<String>,
    /// Go on with the run in this folder, with the settings that it was begun with.
    #[arg(long, conflicts_with = "out")]
    pub resume: Option<PathBuf>,
    /// With --resume: change a setting, by its name in config.toml (without `train.`), as optim.points.initial=1e-3. Of
    /// those under way may change: steps, time_limit, trace, topology, refine, loss.opacity_weight,
    /// loss.quantile_weight, prior, rates (optim.points, optim.density, optim.color, optim.sh_factor), and of the sampler
    /// batch_size, uniform_fraction, decay, error_cap, importance_exponent, importance_ramp_steps, on_failure, lag.
    #[arg(long = "override", value_name = "KEY=VALUE", requires = "resume")]
    pub overrides: Vec<String>,
    /// Checkpoints to keep: the last one and those before it.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    pub keep: u32,
    /// Seconds of training between checkpoints; 0 for one after each step.
    #[arg(long, default_value_t = 120.0, value_parser = parse_seconds)]
    pub checkpoint_every: f64,
    /// Where a value that is not finite stops the run, take the steps since the last checkpoint again, and say in which
    /// step, tensor and place it first was.
    #[arg(long)]
    pub debug_nonfinite: bool,
    /// Begin even if there does not seem to be enough memory.
    #[arg(long)]
    pub any_memory: bool,
    /// Plain lines instead of a progress bar.
    #[arg(long)]
    pub quiet: bool,
}

fn parse_seconds(text: &str) -> Result<f64> {
    match text.parse() {
        Ok(seconds) if seconds >= 0.0 => Ok(seconds),
        _ => bail!("expected a number of seconds, at least 0"),
    }
}

/// How rays are drawn; --config knows the settings of each.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Sampling {
    /// Uniformly, without an error map.
    None,
    /// Uniformly, with an error map kept for looking at.
    Uniform,
    /// Each ray once before any comes again.
    Epoch,
    /// In proportion to the error map.
    ErrorWeighted,
    /// Evenly from the tenth of the error map with the largest errors.
    TopK,
    /// Seven tenths in proportion to the error map, the rest evenly.
    Mixed,
    /// Uniformly or by error, as the errors suggest.
    Adaptive,
}

/// What config.toml holds: where the pixels came from, and how they were trained on.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// What the settings were before any of them was changed.
    pub preset: Preset,
    /// Absolute; none for the synthetic capture.
    pub capture: Option<PathBuf>,
    pub resize: String,
    pub test_views: String,
    pub train: TrainConfig,
}

/// The settings that say how long a run is.
const PLAN: [&str; 2] = ["steps", "time_limit"];

impl RunConfig {
    /// The settings of a preset.
    pub fn of(preset: Preset) -> Self {
        Self { preset, train: TrainConfig::preset(preset), ..Self::default() }
    }

    /// What the file at `path` says, on top of `preset`, or else of the preset that it names.
    pub fn read(path: &Path, preset: Option<Preset>) -> Result<(Self, Said)> {
        let context = || format!("reading {}", path.display());
        let text = std::fs::read_to_string(path).with_context(context)?;
        // What is wrong with it is said best where it stands.
        let named = toml::from_str::<Named>(&text).with_context(context)?.preset;
        let file: toml::Table = toml::from_str(&text).with_context(context)?;
        let train = file.get("train").and_then(toml::Value::as_table);
        let mut base = Self::of(preset.or(named).unwrap_or_default());
        let said = Said {
            plan: PLAN.iter().any(|key| train.is_some_and(|train| train.contains_key(*key))),
            cells: train.and_then(|train| train.get("refine")?.get("max_cells")).is_some(),
        };
        if said.plan {
            (base.train.steps, base.train.time_limit) = (None, None);
        }
        let mut table = toml::Table::try_from(&base).with_context(context)?;
        merge(&mut table, &file);
        let mut config: Self = table.try_into().with_context(context)?;
        config.preset = base.preset;
        Ok((config, said))
    }
}

/// Whether somebody has said what would else be planned.
#[derive(Debug, Clone, Copy, Default)]
pub struct Said {
    /// How long the run is.
    pub plan: bool,
    /// How many cells to grow to.
    pub cells: bool,
}

/// The preset that a file names.
#[derive(Debug, Deserialize)]
struct Named {
    preset: Option<Preset>,
}

/// Puts what `said` has into `table`, part by part.
fn merge(table: &mut toml::Table, said: &toml::Table) {
    for (key, value) in said {
        match (table.get_mut(key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            _ => drop(table.insert(key.clone(), value.clone())),
        }
    }
}

/// The settings of a new run: the preset's, with what `--config`, `--set` and flags say, each on top of those before;
/// how its capture is loaded; and what `--config` alone said, if it was there.
pub fn settings(args: &Args) -> Result<(RunConfig, LoadOptions, Option<RunConfig>)> {
    let (mut config, said) = match &args.config {
        Some(path) => RunConfig::read(path, args.preset)?,
        None => (RunConfig::of(args.preset.unwrap_or_default()), Said::default()),
    };
    let file = args.config.is_some().then(|| config.clone());
    let sets = |key: &str| args.settings.iter().any(|text| text.split('=').next().is_some_and(|k| k.trim() == key));
    if PLAN.into_iter().any(sets) {
        (config.train.steps, config.train.time_limit) = (None, None);
    }
    config.train = config.train.with_settings(&args.settings)?;
    let says_cells = said.cells || args.max_cells.is_some() || sets("refine.max_cells") || !config.preset.plans_cells();
    let options = apply_flags(args, &mut config)?;
    if let (false, Some(seconds)) = (says_cells, config.train.time_limit) {
        let threads = rayon::current_num_threads() as f64;
        config.train.refine.max_cells = TrainConfig::cells_for(seconds * threads);
    }
    (config.resize, config.test_views) = (options.resize.to_string(), options.test_views.to_string());
    Ok((config, options, file))
}

/// Puts the flags into the configuration.
pub fn apply_flags(args: &Args, config: &mut RunConfig) -> Result<LoadOptions> {
    let train = &mut config.train;
    if args.steps.is_some() || args.time_limit.is_some() {
        (train.steps, train.time_limit) = (args.steps, args.time_limit);
    }
    if let Some(rays) = args.rays_per_batch {
        train.sampler.batch_size = rays;
    }
    if let Some(max_cells) = args.max_cells {
        train.refine.max_cells = max_cells;
    }
    if let Some(degree) = args.sh_degree {
        train.sh_degree = degree;
    }
    if let Some(sampling) = args.sampling {
        train.sampler.strategy = match sampling {
            Sampling::None => Strategy::None,
            Sampling::Uniform => Strategy::Uniform,
            Sampling::Epoch => Strategy::Epoch,
            Sampling::ErrorWeighted => Strategy::ErrorWeighted,
            Sampling::TopK => Strategy::TopK { pool: TOP_K_POOL },
            Sampling::Mixed => Strategy::Mixed { error_fraction: Strategy::DEFAULT_ERROR_FRACTION },
            Sampling::Adaptive => Strategy::Adaptive,
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
        (_, Some((width, height)), _) => Resize::Size { width, height },
        (.., Some(text)) => text.parse()?,
        _ => Resize::default(),
    };
    let test_views = match (&args.test_views, parse(&config.test_views)) {
        (Some(views), _) => views.clone(),
        (None, Some(text)) => text.parse()?,
        _ => TestViews::default(),
    };
    Ok(LoadOptions { resize, test_views })
}
