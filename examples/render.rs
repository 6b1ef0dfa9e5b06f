//! Renders a trained foam: its test views, an orbit, or the cameras of a transforms.json.
//!
//! ```text
//! cargo run --release --example render -- runs/fox --views orbit --frames 120 --depth --out orbit
//! cargo run --release --example render -- runs/fox --views orbit --frames 24 --sheet 6 --out looks
//! ```
//!
//! What floats in the air shows in an orbit as nowhere else, above all in one that is not among the cameras
//! (`--distance 0.7`, `--raise 20`): training looks away from it. The frames of an orbit are numbered, for those who make
//! a film of them: `ffmpeg -framerate 30 -i orbit/orbit_%04d.png orbit.mp4`.

mod support;

use std::f64::consts::TAU;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use candle_radfoam::camera::{Camera, Lens, Pose};
use candle_radfoam::data::View;
use candle_radfoam::train::Background;
use clap::Parser;
use support::checkpoint::{Trained, file_stems, flat, parse_size};
use support::picture;

/// Writes PNGs of a trained foam.
#[derive(Debug, Parser)]
struct Args {
    /// A run's folder or a checkpoint.
    run: PathBuf,
    /// test, orbit, or a transforms.json with cameras of the capture's world.
    #[arg(long, default_value = "test")]
    views: String,
    /// The capture, if it is not where it was in training.
    #[arg(long)]
    capture: Option<PathBuf>,
    /// Frames of an orbit.
    #[arg(long, default_value = "60")]
    frames: NonZeroUsize,
    /// The distance of an orbit from the origin, as a multiple of the cameras' mean distance.
    #[arg(long, default_value_t = 1.0, value_parser = parse_distance)]
    distance: f64,
    /// Degrees by which an orbit is raised above the cameras' mean height, seen from the origin; negative to lower it.
    #[arg(long, default_value_t = 0.0, allow_hyphen_values = true, value_parser = parse_degrees)]
    raise: f64,
    /// Also writes sheet.png: all pictures side by side, in so many columns.
    #[arg(long)]
    sheet: Option<NonZeroUsize>,
    /// The size of the pictures, as 640x480, with the vertical field of view of the cameras; their size unless given.
    #[arg(long, value_parser = parse_size)]
    size: Option<(u32, u32)>,
    /// white or black; that of training unless given.
    #[arg(long)]
    background: Option<Background>,
    /// Also writes the median depth: near in warm, far in cold colours.
    #[arg(long)]
    depth: bool,
    /// The folder for the pictures.
    #[arg(long)]
    out: PathBuf,
}

fn parse_distance(text: &str) -> Result<f64> {
    match text.parse() {
        Ok(distance) if distance > 0.0 && f64::is_finite(distance) => Ok(distance),
        _ => bail!("expected a positive multiple"),
    }
}

fn parse_degrees(text: &str) -> Result<f64> {
    match text.parse() {
        Ok(degrees) if f64::is_finite(degrees) => Ok(degrees),
        _ => bail!("expected degrees"),
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let size = args.size;
    let trained = Trained::load(&args.run)?;
    let (names, mut cameras): (Vec<String>, Vec<Camera>) = match args.views.as_str() {
        "test" => {
            let test = trained.dataset(args.capture.as_deref())?.test;
            test.into_iter().map(|view| (view.name, view.camera)).unzip()
        }
        "orbit" => {
            let train = trained.dataset(args.capture.as_deref())?.train;
            let cameras = orbit(&train, args.frames.get(), args.distance, args.raise)?;
            cameras.into_iter().enumerate().map(|(i, camera)| (format!("orbit_{i:04}"), camera)).unzip()
        }
        path => {
            let size = size.or_else(|| {
                let train = trained.dataset(args.capture.as_deref()).ok()?.train;
                train.first().map(|view| (view.image.width, view.image.height))
            });
            let (views, skipped) = trained.listed(path.as_ref(), size).context("--views is test, orbit or a file")?;
            skipped.iter().for_each(|view| eprintln!("left out {}: {}", view.name, view.reason));
            views.into_iter().map(|view| (view.name, view.camera)).unzip()
        }
    };
    ensure!(!cameras.is_empty(), "the capture has no test views; --views orbit needs none");
    if let Some((width, height)) = size {
        cameras.iter_mut().for_each(|camera| *camera = framed(camera, width, height));
    }

    let background = args.background.unwrap_or(trained.background()).evaluation();
    let renderer = trained.foam.renderer()?;
    let mut pictures = Vec::new();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for (camera, stem) in cameras.iter().zip(file_stems(&names)) {
        let rendering = renderer.render(camera, background, &trained.config.trace)?;
        let (width, height) = (rendering.width, rendering.height);
        let rgb = picture::from_rgb(flat(&rendering.rgb), width, height)?;
        picture::save(&args.out.join(format!("{stem}.png")), &rgb)?;
        if args.depth {
            let depth = picture::depth(&rendering.depth, width, height)?;
            picture::save(&args.out.join(format!("{stem}_depth.png")), &depth)?;
        }
        if args.sheet.is_some() {
            pictures.push(rgb);
        }
    }
    if let Some(columns) = args.sheet {
        picture::save(&args.out.join("sheet.png"), &picture::sheet(&pictures, columns.get())?)?;
    }
    println!("{} views in {}", cameras.len(), args.out.display());
    Ok(())
}

/// The camera with a picture of another size that shows as much from top to bottom, without stretching it.
fn framed(camera: &Camera, width: u32, height: u32) -> Camera {
    let scale = f64::from(height) / f64::from(camera.height);
    let center = |c: f64, old: u32, new: u32| (c - 0.5 * f64::from(old)) * scale + 0.5 * f64::from(new);
    Camera {
        fx: camera.fx * scale,
        fy: camera.fy * scale,
        cx: center(camera.cx, camera.width, width),
        cy: center(camera.cy, camera.height, height),
        width,
        height,
        ..*camera
    }
}

/// The highest that an orbit is raised to: from straight above there is no horizon to turn by.
const HIGHEST: f64 = 85.0;

/// Cameras on a circle around the origin that look at it, `distance` times as far away as the training cameras are in
/// the mean and `raise` degrees higher up, with the intrinsics of the first of them.
fn orbit(train: &[View], frames: usize, distance: f64, raise: f64) -> Result<Vec<Camera>> {
    let first = train.first().context("the capture has no training views")?.camera;
    let poses = || train.iter().map(|view| &view.camera.world_from_camera);
    // The camera's y axis points down.
    let up = poses().map(|pose| pose.rotation.map(|row| -row[1])).fold([0.0; 3], add);
    let up = unit(up).context("the cameras have no common up")?;
    let count = train.len() as f64;
    let radius = poses().map(|pose| dot(pose.position, pose.position).sqrt()).sum::<f64>() / count;
    let height = poses().map(|pose| dot(pose.position, up)).sum::<f64>() / count;
    // A mean of heights is never above the mean distance, but for its rounding.
    let elevation = (height / radius).clamp(-1.0, 1.0).asin().to_degrees() + raise;
    let (sin, cos) = elevation.clamp(-HIGHEST, HIGHEST).to_radians().sin_cos();
    let (height, around) = (distance * radius * sin, distance * radius * cos);

    // The orbit begins next to the first camera.
    let outward = sub(first.world_from_camera.position, scale(up, dot(first.world_from_camera.position, up)));
    let any = if up[0].abs() < 0.7 { [1.0, 0.0, 0.0] } else { [0.0, 1.0, 0.0] };
    let east = unit(outward).or_else(|| unit(cross(up, any))).context("an orbit needs a direction to begin in")?;
    let north = cross(up, east);
    (0..frames)
        .map(|frame| {
            let (sin, cos) = (TAU * frame as f64 / frames as f64).sin_cos();
            let level = scale(add(scale(east, cos), scale(north, sin)), around);
            let position = add(level, scale(up, height));
            let forward = unit(scale(position, -1.0)).context("the cameras stand at the origin")?;
            let right = unit(cross(forward, up)).context("the orbit looks straight down")?;
            let down = cross(forward, right);
            // Columns are the camera's axes.
            let rotation = [0, 1, 2].map(|i| [right[i], down[i], forward[i]]);
            let world_from_camera = Pose::new(rotation, position)?;
            Ok(Camera { lens: Lens::Pinhole, world_from_camera, ..first })
        })
        .collect()
}

fn add(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [0, 1, 2].map(|i| a[i] + b[i])
}

fn sub(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [0, 1, 2].map(|i| a[i] - b[i])
}

fn scale(a: [f64; 3], by: f64) -> [f64; 3] {
    a.map(|v| v * by)
}

fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    (0..3).map(|i| a[i] * b[i]).sum()
}

fn cross(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

fn unit(a: [f64; 3]) -> Option<[f64; 3]> {
    let length = dot(a, a).sqrt();
    (length > 1e-9).then(|| scale(a, 1.0 / length))
}
