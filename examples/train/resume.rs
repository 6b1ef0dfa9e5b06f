//! What a run that is taken up again has to agree with: the settings that it was begun with.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_radfoam::data::Dataset;
use candle_radfoam::foam::InitConfig;
use candle_radfoam::train::TrainConfig;
use serde_json::Value;

use super::args::{Args, RunConfig, apply_flags};
use crate::support::checkpoint::{CONFIG, RunHeader};

/// What `file`, the file that a run is begun with, says where `--set` or flags say otherwise: so that these need not be
/// said again with the file when the run is taken up.
pub fn overruled(file: RunConfig, config: &RunConfig, dataset: &Dataset) -> Result<BTreeMap<String, Value>> {
    let train = file.train.filled_in(dataset.has_alpha, dataset.point_cloud.is_some());
    let changes = config.train.changes(&train)?.into_iter().map(|change| (change.key, change.asked));
    let loaded = [("resize", file.resize, &config.resize), ("test_views", file.test_views, &config.test_views)];
    let loaded = loaded.into_iter().filter(|(_, asked, saved)| !asked.is_empty() && asked != *saved);
    Ok(changes.chain(loaded.map(|(key, asked, _)| (key.to_string(), asked.into()))).collect())
}

/// The settings to go on with: those of the run, with what `--override` says. Whatever else is said of them, by flags,
/// `--config` or the run's own config.toml, must be the same; of the second, not what flags overruled when the run was
/// begun, as long as the file still says that. The last is not looked at where `is_old`, for it was
/// written with the settings of another version.
pub fn settings(
    args: &Args,
    folder: &Path,
    header: &RunHeader,
    saved: &TrainConfig,
    is_old: bool,
) -> Result<TrainConfig> {
    let config = saved.with_overrides(&args.overrides)?;
    let own = folder.join(CONFIG);
    let mut differences = Vec::new();
    if own.exists() && !is_old {
        // It has what the run was begun with, unless somebody changed it.
        let (asked, _) = RunConfig::read(&own, None)?;
        let edited = saved.changes(&asked.train)?;
        let is_edited = |key: &str| edited.iter().any(|change| change.key == key);
        compare(&own.display().to_string(), &asked, &config, header, |key, _| is_edited(key), &mut differences)?;
    }
    if let Some(path) = &args.config {
        // What the file does not say was the preset's when the run was begun, and is still.
        let (mut asked, said) = RunConfig::read(path, Some(header.preset))?;
        if !said.plan {
            (asked.train.steps, asked.train.time_limit) = (None, None);
        }
        if !said.cells {
            asked.train.refine.max_cells = config.refine.max_cells;
        }
        flags(args, &mut asked)?;
        fill_in(&mut asked.train, &config, saved);
        let is_new = |key: &str, value: &Value| header.overruled.get(key) != Some(value);
        compare(&path.display().to_string(), &asked, &config, header, is_new, &mut differences)?;
    }
    let mut asked = RunConfig { train: config.clone(), ..RunConfig::default() };
    flags(args, &mut asked)?;
    compare("flags", &asked, &config, header, |_, _| true, &mut differences)?;
    if !differences.is_empty() {
        bail!("the settings are not those of the run in {}:\n  {}", folder.display(), differences.join("\n  "));
    }
    Ok(config)
}

/// Puts the flags into what is asked for; of the capture, nothing that they do not say.
fn flags(args: &Args, asked: &mut RunConfig) -> Result<()> {
    let options = apply_flags(args, asked)?;
    if args.downsample.is_some() || args.size.is_some() {
        asked.resize = options.resize.to_string();
    }
    if args.test_views.is_some() {
        asked.test_views = options.test_views.to_string();
    }
    Ok(())
}

/// What a run fills in by itself is nothing that was asked for.
fn fill_in(asked: &mut TrainConfig, config: &TrainConfig, saved: &TrainConfig) {
    if asked.steps.is_none() && asked.time_limit.is_none() {
        (asked.steps, asked.time_limit) = (config.steps, config.time_limit);
    }
    asked.background = asked.background.or(saved.background);
    if asked.init == InitConfig::default() {
        asked.init = saved.init.clone();
    }
    // Whether the capture has a point cloud is not known here; it decides about these cells alone.
    let filled = [false, true].map(|has_cloud| asked.clone().filled_in(false, has_cloud));
    *asked = if filled[1].init == saved.init { filled[1].clone() } else { filled[0].clone() };
}

fn compare(
    source: &str,
    asked: &RunConfig,
    config: &TrainConfig,
    header: &RunHeader,
    counts: impl Fn(&str, &Value) -> bool,
    differences: &mut Vec<String>,
) -> Result<()> {
    let changes = config.changes(&asked.train).with_context(|| source.to_string())?;
    let changes = changes.into_iter().filter(|change| counts(&change.key, &change.asked));
    differences.extend(changes.map(|change| format!("{source}: {change}")));
    for (key, asked, saved) in
        [("resize", &asked.resize, &header.resize), ("test_views", &asked.test_views, &header.test_views)]
    {
        let counts = |saved: &&String| !asked.is_empty() && *saved != asked && counts(key, &asked.as_str().into());
        if let Some(saved) = saved.as_ref().filter(counts) {
            let reason = "it cannot change: the error map is of these pixels";
            differences.push(format!("{source}: {key}: {saved:?} in the run, {asked:?} now ({reason})"));
        }
    }
    Ok(())
}
