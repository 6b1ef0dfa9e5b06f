//! The sampling ops on a problem without rays: a small network learns a picture, pixel by pixel, and the error map says
//! which pixels to look at next.
//!
//! ```text
//! cargo run --release --example ops [-- path/to/photograph.jpg]
//! ```
//!
//! It begins with a tour of the ops, and leaves the curves of PSNR against samples and the learned pictures in a folder.

mod support;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::{Device, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use candle_radfoam::ops::{ErrorMap, ErrorMapSettings, scatter_ema, weighted_draw, weighted_gather};
use candle_radfoam::rng::{Rng, Stream};
use clap::Parser;
use support::{picture, plot};

/// Pixels a step, and looks at the whole picture in all.
const BATCH: usize = 2048;
const LOOKS: u64 = 20;
/// The longer side of the picture; a photograph is reduced to it.
const SIDE: u32 = 192;
/// Sines and cosines of as many random waves, with this many periods across the picture (Tancik et al., "Fourier
/// Features Let Networks Learn High Frequency Functions", NeurIPS 2020), and the width of the hidden layers.
const WAVES: usize = 64;
const PERIODS: f32 = 8.0;
const WIDTH: usize = 64;
/// The share of the draws that is even, and the seed of everything random.
const UNIFORM: f64 = 0.3;
const SEED: u64 = 7;

#[derive(Debug, Parser)]
struct Args {
    /// A photograph to learn; without one, a picture is made.
    photograph: Option<PathBuf>,
    /// Folder for the results.
    #[arg(long, default_value = "runs/ops")]
    out: PathBuf,
    /// Steps of each of the three runs.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let device = Device::Cpu;
    tour(&device)?;

    println!("\nA picture, learned from {BATCH} pixels a step");
    let truth = Picture::new(args.photograph.as_deref(), &device)?;
    let (mut curves, mut pictures) = (Vec::new(), vec![truth.show(&truth.colors)?]);
    // An exponent of 0 leaves hard pixels their extra weight; with 1 the mean loss is that of all pixels again.
    for (name, exponent) in
        [("uniform", None), ("error-weighted", Some(0.0)), ("error-weighted, with weights", Some(1.0))]
    {
        let (points, learned) = learn(&truth, exponent, args.steps, &device)?;
        println!("  {name}: {:.2} dB after {} samples", points[points.len() - 1].1, args.steps * BATCH as u64);
        curves.push(plot::Series { name: name.into(), points });
        pictures.push(truth.show(&learned)?);
    }
    let plotted = args.out.join("psnr.svg");
    plot::plot_curves(&plotted, "PSNR against samples", "samples", "dB", &curves, false)?;
    picture::save(&args.out.join("pictures.png"), &picture::sheet(&pictures, 2)?)?;
    println!("the curves are in {}, truth and pictures beside them", plotted.display());
    Ok(())
}

/// The colours of all pixels, and what the network is told about where they are.
struct Picture {
    width: u32,
    height: u32,
    /// `[N, 3]`, in `[0, 1]`.
    colors: Tensor,
    /// `[N, 2 WAVES]`.
    features: Tensor,
}

impl Picture {
    fn new(photograph: Option<&Path>, device: &Device) -> Result<Self> {
        let image = match photograph {
            Some(path) => image::open(path)
                .with_context(|| format!("reading {}", path.display()))?
                .resize(SIDE, SIDE, image::imageops::FilterType::Triangle)
                .to_rgb8(),
            None => image::RgbImage::from_fn(SIDE, SIDE, made_up),
        };
        let (width, height) = image.dimensions();
        let colors: Vec<f32> = image.as_raw().iter().map(|&c| f32::from(c) / 255.0).collect();
        let rng = Rng::new(SEED, Stream::Init, 0);
        let waves: Vec<[f32; 2]> = (0..WAVES as u32)
            .map(|wave| {
                let [x, y, ..] = rng.normal4(wave);
                [x, y].map(|f| std::f32::consts::TAU * PERIODS * f)
            })
            .collect();
        let feature = |at: u32| {
            let (x, y) = ((at % width) as f32 / SIDE as f32, (at / width) as f32 / SIDE as f32);
            waves.iter().flat_map(move |[a, b]| {
                let (sin, cos) = (a * x + b * y).sin_cos();
                [sin, cos]
            })
        };
        let num_pixels = (width * height) as usize;
        let features: Vec<f32> = (0..width * height).flat_map(feature).collect();
        Ok(Self {
            width,
            height,
            colors: Tensor::from_vec(colors, (num_pixels, 3), device)?,
            features: Tensor::from_vec(features, (num_pixels, 2 * WAVES), device)?,
        })
    }

    fn len(&self) -> usize {
        (self.width * self.height) as usize
    }

    fn show(&self, colors: &Tensor) -> Result<image::RgbImage> {
        picture::from_rgb(&colors.flatten_all()?.to_vec1::<f32>()?, self.width, self.height)
    }
}

/// Smooth nearly everywhere, with detail in a few places: a chequered disc and fine stripes.
fn made_up(x: u32, y: u32) -> image::Rgb<u8> {
    let [u, v] = [x, y].map(|c| c as f32 / SIDE as f32);
    let (du, dv) = (u - 0.65, v - 0.35);
    let shade = |c: f32| (255.0 * c.clamp(0.0, 1.0)) as u8;
    if du * du + dv * dv < 0.04 {
        let dark = (x / 6 + y / 6).is_multiple_of(2);
        return if dark { image::Rgb([20, 30, 60]) } else { image::Rgb([250, 220, 120]) };
    }
    if (0.1..0.35).contains(&u) && (0.6..0.9).contains(&v) {
        return if ((x + y) / 4).is_multiple_of(2) { image::Rgb([200, 40, 40]) } else { image::Rgb([240, 240, 240]) };
    }
    image::Rgb([shade(0.3 + 0.4 * u), shade(0.5 + 0.2 * (3.0 * v).sin()), shade(0.9 - 0.5 * v)])
}

/// Two hidden layers.
struct Network {
    layers: Vec<(Var, Var)>,
}

impl Network {
    fn new(device: &Device) -> Result<Self> {
        let sizes = [2 * WAVES, WIDTH, WIDTH, 3];
        let layer = |(k, pair): (usize, &[usize])| {
            let rng = Rng::new(SEED, Stream::Init, 1 + k as u64);
            let scale = (2.0 / pair[0] as f32).sqrt();
            let weights: Vec<f32> = (0..(pair[0] * pair[1]) as u32).map(|at| scale * rng.normal4(at)[0]).collect();
            Ok((
                Var::from_vec(weights, (pair[0], pair[1]), device)?,
                Var::from_vec(vec![0f32; pair[1]], pair[1], device)?,
            ))
        };
        Ok(Self { layers: sizes.windows(2).enumerate().map(layer).collect::<Result<_>>()? })
    }

    fn variables(&self) -> Vec<Var> {
        self.layers.iter().flat_map(|(weights, bias)| [weights.clone(), bias.clone()]).collect()
    }

    fn forward(&self, features: &Tensor) -> candle_core::Result<Tensor> {
        let mut x = features.clone();
        for (k, (weights, bias)) in self.layers.iter().enumerate() {
            x = x.matmul(weights)?.broadcast_add(bias)?;
            x = if k + 1 < self.layers.len() { x.relu()? } else { candle_nn::ops::sigmoid(&x)? };
        }
        Ok(x)
    }
}

/// Learns the picture: `(samples, PSNR in dB)` on the way, and the picture as learned. With an exponent pixels are
/// drawn by error and their losses weighted by `(1 / (N p))^exponent`; without one they are drawn evenly.
fn learn(truth: &Picture, exponent: Option<f64>, steps: u64, device: &Device) -> Result<(Vec<(f64, f64)>, Tensor)> {
    let network = Network::new(device)?;
    let params = ParamsAdamW { lr: 5e-3, weight_decay: 0.0, ..Default::default() };
    let mut optimizer = AdamW::new(network.variables(), params)?;
    // A map that nobody tells anything is drawn from evenly.
    let mut map = ErrorMap::new(truth.len(), ErrorMapSettings::default())?;
    let mut points = Vec::new();
    for step in 0..=steps {
        if step % steps.div_ceil(LOOKS) == 0 || step == steps {
            let error = (network.forward(&truth.features)? - &truth.colors)?.sqr()?.mean_all()?.to_scalar::<f32>()?;
            points.push(((step * BATCH as u64) as f64, -10.0 * f64::from(error).log10()));
        }
        let draws = map.draw(BATCH, UNIFORM, SEED, step)?;
        let features = weighted_gather(&truth.features, &draws.indices, None)?;
        let colors = weighted_gather(&truth.colors, &draws.indices, None)?;
        let squared = (network.forward(&features)? - colors)?.sqr()?.mean(1)?;
        let loss = match exponent {
            Some(exponent) if exponent > 0.0 => {
                let weights = (draws.probability * truth.len() as f64)?.powf(-exponent)?;
                (&squared * weights)?.mean_all()?
            }
            _ => squared.mean_all()?,
        };
        optimizer.backward_step(&loss)?;
        if exponent.is_some() {
            // The absolute error, to which the draw of least variance is proportional.
            map.update(&draws.indices, &squared.detach().sqrt()?)?;
        }
    }
    Ok((points, network.forward(&truth.features)?))
}

/// What goes into the ops, and what comes out.
fn tour(device: &Device) -> Result<()> {
    println!("scatter_ema: map[i] <- decay * map[i] + (1 - decay) * value, in place and in batch order");
    let map = Tensor::new(&[0.8f32, 0.8, -0.0, -0.0], device)?;
    let indices = Tensor::new(&[0u32, 0, 2, 3], device)?;
    let values = Tensor::new(&[0.0f32, 0.0, 0.5, f32::NAN], device)?;
    println!("  before  {:?}   (a negative sign marks what was never visited)", map.to_vec1::<f32>()?);
    let stats = scatter_ema(&map, &indices, &values, 0.5)?;
    println!("  after   {:?}   {stats:?}", map.to_vec1::<f32>()?);

    println!("\nweighted_draw: ascending indices, each with its probability");
    let weights = Tensor::new(&[4.0f32, 0.0, 1.0, 3.0], device)?;
    for uniform_fraction in [0.0, 0.5] {
        let draws = weighted_draw(&weights, 8, uniform_fraction, 7, 0)?;
        println!("  uniform fraction {uniform_fraction}: {:?}", draws.indices.to_vec1::<u32>()?);
        println!("    probability {:?}", draws.probability.to_vec1::<f32>()?);
    }

    println!("\nErrorMap: draw, look, tell it the errors, draw again");
    let mut map = ErrorMap::new(1000, ErrorMapSettings::default())?;
    for step in 0..5 {
        let draws = map.draw(500, 0.3, 7, step)?;
        let indices = draws.indices.to_vec1::<u32>()?;
        let hot = |i: u32| i < 100;
        let errors: Vec<f32> = indices.iter().map(|&i| if hot(i) { 0.5 } else { 0.02 }).collect();
        map.update(&draws.indices, &Tensor::new(errors, device)?)?;
        let num_hot = indices.iter().filter(|&&i| hot(i)).count();
        println!(
            "  step {step}: {num_hot} of 500 draws among the 100 entries with a high error; {:.0} % visited",
            100.0 * map.visited_fraction()
        );
    }

    println!("\nweighted_gather: rows by index, times a weight; gradients reach the table and the weights");
    let table = Var::new(&[[1.0f32, 2.0], [3.0, 4.0]], device)?;
    let indices = Tensor::new(&[0u32, 1, 1], device)?;
    let weights = Var::new(&[1.0f32, 0.5, 2.0], device)?;
    let rows = weighted_gather(&table, &indices, Some(&weights))?;
    let grads = rows.sum_all()?.backward()?;
    println!("  rows          {:?}", rows.to_vec2::<f32>()?);
    if let (Some(grad_table), Some(grad_weights)) = (grads.get(&table), grads.get(&weights)) {
        println!("  grad_table    {:?}", grad_table.to_vec2::<f32>()?);
        println!("  grad_weights  {:?}", grad_weights.to_vec1::<f32>()?);
    }
    Ok(())
}
