//! Scores a trained foam on views that it was not trained on.
//!
//! ```text
//! cargo run --release --example evaluate -- runs/fox --baselines --out runs/fox/test
//! ```

mod support;

use std::path::PathBuf;

use anyhow::{Result, bail};
use candle_radfoam::train::{Background, Evaluation, ViewScore};
use clap::Parser;
use support::baseline::baselines;
use support::checkpoint::{PosedView, Trained, file_stems, flat};
use support::picture;

/// Scores a trained foam: PSNR (joint over the channels) and SSIM of 8-bit renders.
#[derive(Debug, Parser)]
struct Args {
    /// A run's folder or a checkpoint.
    run: PathBuf,
    /// The capture, if it is not where it was in training.
    #[arg(long)]
    capture: Option<PathBuf>,
    /// Another transforms.json of the same world whose views are rendered, and scored where there are images.
    #[arg(long)]
    views: Option<PathBuf>,
    /// Also score two trivial answers: the mean colour of the training images, and the nearest training image.
    #[arg(long)]
    baselines: bool,
    /// white or black; that of training unless given.
    #[arg(long)]
    background: Option<Background>,
    /// Writes render, truth and their difference side by side, a PNG a view; only the render where there is no truth.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Prints the scores as JSON instead of a table.
    #[arg(long)]
    json: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let trained = Trained::load(&args.run)?;
    let background = args.background.unwrap_or(trained.background()).evaluation();
    // Views of another file can do without the capture, unless something is to be had from its training views.
    let dataset = match trained.dataset(args.capture.as_deref()) {
        Err(error) if args.views.is_none() || args.baselines => return Err(error),
        dataset => dataset.ok(),
    };
    let views: Vec<PosedView> = match (&args.views, &dataset) {
        (Some(path), _) => {
            let size = dataset.as_ref().map(|dataset| (dataset.train[0].image.width, dataset.train[0].image.height));
            let (views, skipped) = trained.listed(path, size)?;
            skipped.iter().for_each(|view| eprintln!("left out {}: {}", view.name, view.reason));
            views
        }
        (None, Some(dataset)) => dataset.test.iter().cloned().map(PosedView::from).collect(),
        (None, None) => Vec::new(),
    };
    if views.is_empty() {
        bail!("the capture has no test views; --views names others");
    }

    let names: Vec<&str> = views.iter().map(|view| view.name.as_str()).collect();
    let stems = file_stems(&names);
    let renderer = trained.foam.renderer()?;
    let (mut scores, mut skipped) = (Vec::new(), Vec::new());
    for (view, stem) in views.iter().zip(&stems) {
        let rendering = renderer.render(&view.camera, background, &trained.config.trace)?;
        let (width, height) = (rendering.width, rendering.height);
        if let Some(view) = &view.view {
            match ViewScore::of(view, flat(&rendering.rgb), background)? {
                Some(score) => scores.push(score),
                None => skipped.push(view.name.clone()),
            }
        }
        if let Some(folder) = &args.out {
            let picture = match &view.view {
                Some(view) => {
                    picture::comparison(flat(&rendering.rgb), flat(&view.image.over(background)), width, height)?
                }
                None => picture::from_rgb(flat(&rendering.rgb), width, height)?,
            };
            picture::save(&folder.join(format!("{stem}.png")), &picture)?;
            let depth = picture::depth(&rendering.depth, width, height)?;
            picture::save(&folder.join(format!("{stem}_depth.png")), &depth)?;
        }
    }
    if scores.is_empty() {
        if args.json {
            println!("{}", serde_json::json!({ "test": null, "baselines": {} }));
            return Ok(());
        }
        println!("{} views rendered, none of them with an image that could be compared with", views.len());
        return Ok(());
    }
    let evaluation = Evaluation { skipped, ..Evaluation::of(scores) };
    let baselines = match dataset.filter(|_| args.baselines) {
        Some(dataset) => baselines(&dataset.train, &views, background)?,
        None => Vec::new(),
    };
    if args.json {
        let baselines: serde_json::Map<String, serde_json::Value> = baselines
            .iter()
            .map(|(name, e)| Ok((name.to_string(), serde_json::to_value(e)?)))
            .collect::<Result<_>>()?;
        println!(
            "{}",
            serde_json::to_string_pretty(&serde_json::json!({ "test": evaluation, "baselines": baselines }))?
        );
        return Ok(());
    }
    print_table(&evaluation);
    for (name, baseline) in &baselines {
        println!("{name}: PSNR {:.2} dB, SSIM {:.3}", baseline.psnr_db, baseline.ssim);
    }
    let (psnr, ssim, count) = (evaluation.psnr_db, evaluation.ssim, evaluation.views.len());
    println!("test: PSNR {psnr:.2} dB, SSIM {ssim:.3} over {count} views");
    if !evaluation.skipped.is_empty() {
        println!("not scored, with too few pixels in use: {}", evaluation.skipped.join(", "));
    }
    Ok(())
}

fn print_table(evaluation: &Evaluation) {
    let width = evaluation.views.iter().map(|view| view.name.chars().count()).max().unwrap_or(0).max("view".len());
    println!("{:width$}  PSNR dB   SSIM", "view");
    for ViewScore { name, psnr_db, ssim } in &evaluation.views {
        println!("{name:width$}  {psnr_db:7.2}  {ssim:.3}");
    }
}
