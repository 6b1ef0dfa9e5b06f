//! Shows an error map: a picture of every view, a sheet of them, and how errors are spread.
//!
//! ```text
//! cargo run --release --example error_map -- runs/fox --out fox-errors
//! ```

mod support;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use candle_core::Device;
use candle_radfoam::checkpoint::Checkpoint;
use candle_radfoam::data::{Sampler, SamplerHeader};
use candle_radfoam::train::migrate_header;
use clap::Parser;
use support::checkpoint::{CHECKPOINT, ERROR_MAP};
use support::{picture, plot};

/// What a checkpoint's tensors of the sampler begin with; in a file of its own they begin with nothing.
const PREFIX: &str = "sampler.";
/// Pictures are enlarged up to about this width in pixels.
const WIDTH: u32 = 640;
/// Bins of the histogram.
const BINS: usize = 100;

#[derive(Debug, Parser)]
struct Args {
    /// An error map as `train` saves it, a checkpoint, or the folder of a run.
    path: PathBuf,
    /// Folder for the pictures.
    #[arg(long)]
    out: PathBuf,
    /// Pictures in a row of the sheet.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..))]
    columns: u32,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let file = |name: &str| args.path.join(name);
    let path = match args.path.is_dir() {
        true if file(ERROR_MAP).exists() => file(ERROR_MAP),
        true => file(CHECKPOINT),
        false => args.path.clone(),
    };
    let mut checkpoint = Checkpoint::load(&path, &Device::Cpu)?;
    migrate_header(&path, &mut checkpoint.header)?;
    let header: SamplerHeader = checkpoint.field(&path, "sampler")?;
    ensure!(header.config.strategy.keeps_map(), "{}: a run that kept no error map", path.display());
    let tensors = checkpoint.tensors.iter().map(|(name, tensor)| {
        let name = name.strip_prefix(PREFIX).unwrap_or(name);
        (name.to_string(), tensor.clone())
    });
    let sampler = Sampler::from_state(&tensors.collect(), header).with_context(|| path.display().to_string())?;

    let num_views = sampler.shapes().len();
    let maps = (0..num_views).map(|view| Ok(sampler.map_image(view)?.to_vec2::<f32>()?)).collect::<Result<Vec<_>>>()?;
    let errors = || maps.iter().flatten().flatten().copied().filter(|e| e.is_finite());
    let most = picture::most_error(errors());
    let mut pictures = Vec::new();
    for (view, map) in maps.iter().enumerate() {
        let (width, height) = (map.first().map_or(0, Vec::len) as u32, map.len() as u32);
        let small = picture::error_map(&map.concat(), width, height, most)?;
        let factor = sampler.config().map_patch().min((WIDTH / width.max(1)).max(1));
        let large = picture::enlarged(&small, factor);
        picture::save(&args.out.join(format!("view_{view:04}.png")), &large)?;
        pictures.push(large);
    }
    picture::save(&args.out.join("sheet.png"), &picture::sheet(&pictures, args.columns as usize)?)?;

    let mut counts = [0u32; BINS];
    for error in errors() {
        let bin = if most > 0.0 { (error / most * BINS as f32) as usize } else { 0 };
        counts[bin.min(BINS - 1)] += 1;
    }
    // Two points a bin, so that the curve is one of steps; the last holds all that is above.
    let side = |bin: usize| f64::from(most) * bin as f64 / BINS as f64;
    let points =
        counts.iter().enumerate().flat_map(|(bin, &count)| [bin, bin + 1].map(|b| (side(b), f64::from(count))));
    let histogram = plot::Series { name: "entries".into(), points: points.collect() };
    plot::plot_curves(&args.out.join("histogram.svg"), "Error map", "error", "entries", &[histogram], false)?;

    let stats = sampler.stats();
    println!(
        "{num_views} views, {:.1} % of the entries visited, mean error {:.4}, {most:.4} is the brightest shade",
        100.0 * stats.visited_fraction,
        stats.mean_error,
    );
    println!("pictures in {}", args.out.display());
    Ok(())
}
