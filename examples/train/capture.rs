//! Where pixels come from and results go: the run's folder, the capture, and the bars that show their progress.

use crate::support::folder::{Existing, RunFolder};
use crate::support::memory;
use anyhow::{Context, Result, bail, ensure};
use candle_radfoam::data::synthetic::{SyntheticOptions, is_capture_of, write_capture};
use candle_radfoam::data::{Dataset, LoadOptions, load_with_progress};
use candle_radfoam::train::{MemoryEstimate, TrainConfig};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// SSIM looks through a window of this side in pixels.
const SMALLEST_IMAGE: u32 = 11;

/// The folder that holds `path`, and its name there.
fn split(path: &Path) -> Result<(&Path, &str)> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.with_context(|| format!("--out: expected a folder's name, found {}", path.display()))?;
    Ok((path.parent().unwrap_or(Path::new("")), name))
}

/// `--out`, or a folder under runs named after the capture.
pub fn run_folder(out: Option<&Path>, capture: Option<&Path>) -> Result<RunFolder> {
    match out {
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
pub fn synthetic_capture(folder: &RunFolder, quiet: bool) -> Result<PathBuf> {
    let options = SyntheticOptions::default();
    let path = folder.path().parent().unwrap_or(Path::new("")).join("synthetic-capture");
    if is_capture_of(&path, &options) {
        println!("synthetic capture in {}", path.display());
        return Ok(path);
    }
    println!("no capture given: making a synthetic one in {}", path.display());
    let bar = counting_bar("views", quiet);
    write_capture(&path, &options, &|done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    Ok(path)
}

/// Loads the capture, says what is in it, and stops where it could not be scored in the end.
pub fn load(capture: &Path, options: &LoadOptions, quiet: bool) -> Result<Dataset> {
    let bar = counting_bar("images", quiet);
    let dataset = load_with_progress(capture, options, &|done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    describe(&dataset);
    for view in &dataset.test {
        let (width, height) = (view.camera.width, view.camera.height);
        ensure!(
            width.min(height) >= SMALLEST_IMAGE,
            "test view {} has {width}x{height} pixels, and SSIM needs {SMALLEST_IMAGE} a side",
            view.name
        );
    }
    if dataset.test.is_empty() {
        println!("warning: no test views, so nothing will be scored");
    }
    Ok(dataset)
}

/// Says how much memory the run will take, and stops where that is more than there is.
pub fn check_memory(config: &TrainConfig, dataset: &Dataset, any_memory: bool) -> Result<()> {
    let estimate = MemoryEstimate::of(config, dataset);
    println!("memory: about {estimate}");
    let Some(available) = memory::available() else { return Ok(()) };
    let advice = estimate.advice(available, config);
    if advice.is_empty() || any_memory {
        return Ok(());
    }
    let [needed, available] = [estimate.to_come(), available].map(|bytes| bytes.div_ceil(1_000_000));
    let advice = advice.join(", or ");
    bail!("about {needed} MB more are needed and {available} MB are available: {advice}; or --any-memory to try it")
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
    for (count, what) in
        [(dataset.num_masked, "masked"), (dataset.num_outside_lens, "outside the valid field of their lens")]
    {
        if count > 0 {
            println!("{count} pixels left out: {what}");
        }
    }
    for skipped in &dataset.skipped {
        println!("skipped {}: {}", skipped.name, skipped.reason);
    }
}

fn counting_bar(what: &str, quiet: bool) -> ProgressBar {
    if !shows_bars(quiet) {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(&format!("{{bar:40}} {{pos}}/{{len}} {what}"));
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Whether somebody would see a bar move; a log of the output has plain lines.
fn shows_bars(quiet: bool) -> bool {
    !quiet && std::io::stdout().is_terminal() && std::io::stderr().is_terminal()
}

/// The progress bar of the training.
pub fn bar(quiet: bool) -> Option<ProgressBar> {
    if !shows_bars(quiet) {
        return None;
    }
    let style = ProgressStyle::with_template("{bar:30} {percent}% {msg}");
    let bar = ProgressBar::new(1000).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(200));
    Some(bar)
}
