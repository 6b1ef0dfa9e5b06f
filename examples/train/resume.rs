//! What a run that is taken up again has to agree with: the settings that it was begun with.

use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_radfoam::foam::InitConfig;
use candle_radfoam::train::TrainConfig;

use super::args::{Args, RunConfig, apply_flags};
use crate::support::checkpoint::{CONFIG, RunHeader};

/// The settings to go on with: those of the run, with what `--override` says. Whatever else is said of them, by flags,
/// `--config` or the run's own config.toml, must be the same.
pub fn settings(args: &Args, folder: &Path, header: &RunHeader, saved: &TrainConfig) -> Result<TrainConfig> {
    let config = saved.with_overrides(&args.overrides)?;
    let own = folder.join(CONFIG);
    let mut differences = Vec::new();
    if own.exists() {
        // It has what the run was begun with, unless somebody changed it.
        let asked = RunConfig::read(&own)?;
        let edited = saved.changes(&asked.train)?;
        let is_edited = |key: &str| edited.iter().any(|change| change.key == key);
        compare(&own.display().to_string(), &asked, &config, header, is_edited, &mut differences)?;
    }
    if let Some(path) = &args.config {
        let mut asked = RunConfig::read(path)?;
        // What a run fills in by itself is nothing that was asked for.
        let train = &mut asked.train;
        train.background = train.background.or(saved.background);
        train.sampler.seed = train.seed;
        if train.init == InitConfig::default() {
            train.init = saved.init.clone();
        }
        compare(&path.display().to_string(), &asked, &config, header, |_| true, &mut differences)?;
    }
    let mut asked = RunConfig { train: config.clone(), ..RunConfig::default() };
    let options = apply_flags(args, &mut asked)?;
    if args.downsample.is_some() || args.size.is_some() {
        asked.resize = options.resize.to_string();
    }
    if args.test_views.is_some() {
        asked.test_views = options.test_views.to_string();
    }
    compare("flags", &asked, &config, header, |_| true, &mut differences)?;
    if !differences.is_empty() {
        bail!("the settings are not those of the run in {}:\n  {}", folder.display(), differences.join("\n  "));
    }
    Ok(config)
}

fn compare(
    source: &str,
    asked: &RunConfig,
    config: &TrainConfig,
    header: &RunHeader,
    counts: impl Fn(&str) -> bool,
    differences: &mut Vec<String>,
) -> Result<()> {
    let changes = config.changes(&asked.train).with_context(|| source.to_string())?;
    differences
        .extend(changes.into_iter().filter(|change| counts(&change.key)).map(|change| format!("{source}: {change}")));
    for (key, asked, saved) in
        [("resize", &asked.resize, &header.resize), ("test_views", &asked.test_views, &header.test_views)]
    {
        if let Some(saved) = saved.as_ref().filter(|saved| !asked.is_empty() && *saved != asked) {
            let reason = "it cannot change: the error map is of these pixels";
            differences.push(format!("{source}: {key}: {saved:?} in the run, {asked:?} now ({reason})"));
        }
    }
    Ok(())
}
