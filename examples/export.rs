//! Writes a trained foam for other programs: as the reference implementation's scene, as a point cloud, or as a small
//! file for rendering only. Reads their scenes too.
//!
//! ```text
//! cargo run --release --example export -- runs/fox --format inference --sh u8 --out fox.safetensors
//! cargo run --release --example export -- runs/fox --format scene-ply --out fox.ply
//! cargo run --release --example export -- model.pt --format inference --out model.safetensors
//! ```

mod support;

use std::f64::consts::TAU;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::Device;
use candle_radfoam::camera::{Camera, Lens, Pose};
use candle_radfoam::checkpoint::Checkpoint;
use candle_radfoam::data::{Normalization, View};
use candle_radfoam::exchange::{
    ConstantColor, PointCloud, read_model_pt, read_scene_ply, write_point_cloud, write_scene_ply,
};
use candle_radfoam::foam::{Foam, Renderer, ShPrecision};
use candle_radfoam::train::{FORMAT_VERSION, TrainConfig, metrics::psnr_db, migrate_header};
use clap::{Parser, ValueEnum};
use serde_json::{Value, json};
use support::checkpoint::{CHECKPOINT, Trained, flat};

/// Cameras around a foam whose capture is not there, and their pixels a side.
const AROUND: usize = 8;
const AROUND_SIZE: u32 = 200;
/// The density of a scene of the reference implementation whose softplus is 1.
const REFERENCE_SCALE: f64 = 1.0;

/// Writes a foam for other programs, and says what was lost on the way.
#[derive(Debug, Parser)]
struct Args {
    /// A run's folder, a checkpoint, or a scene.ply or model.pt of the reference implementation.
    run: PathBuf,
    /// The file to write.
    #[arg(long)]
    out: PathBuf,
    /// What to write.
    #[arg(long, value_enum)]
    format: Format,
    /// How an inference file holds colours: f16, bf16 or u8.
    #[arg(long, default_value = "f16")]
    sh: ShPrecision,
    /// A scene.ply holds the constant colours as floats too, which loses nothing.
    #[arg(long)]
    float_dc: bool,
    /// A point cloud has the cells with at least this density, in 1 / scene unit.
    #[arg(long, default_value_t = 5.0)]
    least_density: f32,
    /// The capture, if it is not where it was in training.
    #[arg(long)]
    capture: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum Format {
    /// The reference implementation's scene.ply, in scene units.
    ScenePly,
    /// Points and colours for any viewer, in the capture's world.
    PointsPly,
    /// A checkpoint for rendering only, with colours in fewer bits.
    Inference,
}

/// A foam to write, with what a checkpoint's header says of it.
struct Source {
    foam: Foam,
    header: Value,
    config: TrainConfig,
    normalization: Normalization,
    trained: Option<Trained>,
}

impl Source {
    fn open(path: &Path) -> Result<Self> {
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
        let scene = match ending.as_deref() {
            Some("ply") => read_scene_ply(path)?,
            Some("pt" | "pth") => read_model_pt(path)?,
            _ => return Self::trained(path),
        };
        let (config, normalization) = (TrainConfig::default(), Normalization::IDENTITY);
        let header = json!({
            "format_version": FORMAT_VERSION, "crate_version": env!("CARGO_PKG_VERSION"), "config": config,
            "density_scale": REFERENCE_SCALE, "normalization": normalization,
        });
        let foam = Foam::from_scene(&scene, REFERENCE_SCALE, &Device::Cpu)?;
        Ok(Self { foam, header, config, normalization, trained: None })
    }

    fn trained(path: &Path) -> Result<Self> {
        let path = if path.is_dir() { path.join(CHECKPOINT) } else { path.to_path_buf() };
        let trained = Trained::load(&path)?;
        let mut header = Checkpoint::load_header(&path)?;
        migrate_header(&path, &mut header)?;
        // What only a run that goes on needs.
        for key in ["progress", "sampler", "pending_draw"] {
            header.as_object_mut().context("a header that is no object")?.remove(key);
        }
        let foam = trained.foam.deep_clone()?;
        let (config, normalization) = (trained.config.clone(), trained.normalization);
        Ok(Self { foam, header, config, normalization, trained: Some(trained) })
    }

    /// The capture's test views, where it can be had.
    fn test_views(&self, capture: Option<&Path>) -> Vec<View> {
        let dataset = self.trained.as_ref().map(|trained| trained.dataset(capture));
        dataset.and_then(Result::ok).map(|dataset| dataset.test).unwrap_or_default()
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let source = Source::open(&args.run)?;
    let foam = &source.foam;
    let again = match args.format {
        Format::PointsPly => {
            let mut cloud = foam.point_cloud(args.least_density)?;
            cloud.points.iter_mut().for_each(|point| *point = source.normalization.invert(*point));
            write_point_cloud(&args.out, &cloud)?;
            let PointCloud { points, .. } = &cloud;
            println!("{} of {} cells", points.len(), foam.num_cells());
            None
        }
        Format::ScenePly => {
            let constant = if args.float_dc { ConstantColor::Float } else { ConstantColor::Bytes };
            write_scene_ply(&args.out, &foam.to_scene()?, constant)?;
            Some(Foam::from_scene(&read_scene_ply(&args.out)?, foam.density_scale(), &Device::Cpu)?)
        }
        Format::Inference => {
            let mut header = source.header.clone();
            header["sh"] = json!(args.sh.to_string());
            Checkpoint { tensors: foam.compact_state(args.sh)?, header }.save(&args.out)?;
            let checkpoint = Checkpoint::load(&args.out, &Device::Cpu)?;
            Some(Foam::from_checkpoint(&checkpoint, &args.out)?)
        }
    };
    let bytes = |path: &Path| std::fs::metadata(path).map(|data| data.len());
    let from = if args.run.is_dir() { args.run.join(CHECKPOINT) } else { args.run.clone() };
    println!("{}: {} bytes, from {}", args.out.display(), bytes(&args.out)?, bytes(&from)?);
    match again {
        Some(again) => compare(&source, &again, args.capture.as_deref()),
        None => Ok(()),
    }
}

/// Prints what pictures of the foam lose by its way through the file.
fn compare(source: &Source, again: &Foam, capture: Option<&Path>) -> Result<()> {
    let background = source.trained.as_ref().map_or([1.0; 3], |trained| trained.background().evaluation());
    let (before, after) = (source.foam.renderer()?, again.renderer()?);
    // Pictures have 8 bits: what is compared with has them too.
    let levels = |rgb: &[f32]| rgb.iter().map(|v| (v.clamp(0.0, 1.0) * 255.0).round() / 255.0).collect::<Vec<f32>>();
    let render = |renderer: &Renderer, camera: &Camera| -> Result<Vec<f32>> {
        Ok(levels(flat(&renderer.render(camera, background, &source.config.trace)?.rgb)))
    };
    let views = source.test_views(capture);
    if views.is_empty() {
        let mut lowest = f64::INFINITY;
        for camera in around()? {
            lowest = lowest.min(psnr_db(&render(&after, &camera)?, &render(&before, &camera)?)?);
        }
        println!(
            "no test views at hand; from {AROUND} cameras around it: PSNR {lowest:.2} dB at least to the foam before"
        );
        return Ok(());
    }
    let (mut of_before, mut of_after, mut between) = (0.0, 0.0, f64::INFINITY);
    for view in &views {
        let (a, b) = (render(&before, &view.camera)?, render(&after, &view.camera)?);
        let truth = view.image.over(background);
        of_before += psnr_db(&a, flat(&truth))? / views.len() as f64;
        of_after += psnr_db(&b, flat(&truth))? / views.len() as f64;
        between = between.min(psnr_db(&b, &a)?);
    }
    println!(
        "test: PSNR {of_before:.3} dB before, {of_after:.3} dB after, a loss of {:.3} dB over {} views; {between:.2} dB \
         at least from one to the other",
        of_before - of_after,
        views.len()
    );
    Ok(())
}

/// Cameras on a circle around the origin, where the cameras of a normalised capture stand.
fn around() -> Result<Vec<Camera>> {
    let (size, focal) = (f64::from(AROUND_SIZE), f64::from(AROUND_SIZE));
    (0..AROUND)
        .map(|i| {
            let (sin, cos) = (TAU * i as f64 / AROUND as f64).sin_cos();
            // Columns are the camera's axes: right, down, forward.
            let rotation = [[-sin, 0.0, -cos], [cos, 0.0, -sin], [0.0, -1.0, 0.0]];
            let world_from_camera = Pose::new(rotation, [cos, sin, 0.0])?;
            Ok(Camera {
                width: AROUND_SIZE,
                height: AROUND_SIZE,
                fx: focal,
                fy: focal,
                cx: 0.5 * size,
                cy: 0.5 * size,
                lens: Lens::Pinhole,
                world_from_camera,
            })
        })
        .collect()
}
