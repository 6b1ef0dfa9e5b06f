//! Scores a trained foam on views that it was not trained on.
//!
//! ```text
//! cargo run --release --example evaluate -- runs/fox --baselines --out runs/fox/test
//! ```

mod support;

use std::path::PathBuf;

use anyhow::{Result, bail};
use candle_radfoam::data::{Dataset, Image, View};
use candle_radfoam::train::{Background, Evaluation, ViewScore};
use clap::Parser;
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
        Some(dataset) => baselines(&dataset, &views, background)?,
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

/// What needs no model: a foam that does not beat these has learned nothing.
fn baselines(dataset: &Dataset, views: &[PosedView], background: [f32; 3]) -> Result<Vec<(&'static str, Evaluation)>> {
    let mean = mean_color(&dataset.train, background)?;
    let (mut by_mean, mut by_nearest) = (Vec::new(), Vec::new());
    for view in views.iter().filter_map(|posed| posed.view.as_ref()) {
        let (width, height) = (view.image.width, view.image.height);
        by_mean.extend(ViewScore::of(view, flat(&vec![mean; (width * height) as usize]), background)?);
        let nearest =
            dataset.train.iter().min_by(|a, b| distance(a, &view.camera).total_cmp(&distance(b, &view.camera)));
        if let Some(nearest) = nearest {
            let guess = Image::resized(nearest.image.clone(), width, height)?.over(background);
            by_nearest.extend(ViewScore::of(view, flat(&guess), background)?);
        }
    }
    Ok(vec![
        ("mean colour of the training images", Evaluation::of(by_mean)),
        ("nearest training image", Evaluation::of(by_nearest)),
    ])
}

/// Of the pixels in use: what masks hide and what has no ray is scored nowhere.
fn mean_color(views: &[View], background: [f32; 3]) -> Result<[f32; 3]> {
    let (mut sum, mut count) = ([0.0; 3], 0.0);
    for view in views {
        let in_use = view.in_use()?;
        for (pixel, color) in view.image.over(background).into_iter().enumerate() {
            if in_use.as_ref().is_none_or(|in_use| in_use.get(pixel)) {
                sum = [0, 1, 2].map(|c| sum[c] + f64::from(color[c]));
                count += 1.0;
            }
        }
    }
    Ok(sum.map(|s| (s / count) as f32))
}

/// How far a training view is from a camera: squared distance of the positions (of which the farthest is 1 from the
/// origin) plus that of the viewing directions.
fn distance(view: &View, camera: &candle_radfoam::camera::Camera) -> f64 {
    let squared = |a: [f64; 3], b: [f64; 3]| (0..3).map(|i| (a[i] - b[i]).powi(2)).sum::<f64>();
    let (a, b) = (&view.camera.world_from_camera, &camera.world_from_camera);
    squared(a.position, b.position) + squared(a.forward(), b.forward())
}
