//! How fast is the walk, forwards and back, and how far from what memory and arithmetic allow?
//!
//! `cargo bench --bench trace` trains a foam on a synthetic capture and prints cells and rays a second: of an image of
//! 800 x 800, whose rays lie side by side, and of random rays of the training views. In the environment:
//!
//! - `RADFOAM_BENCH_CAPTURE`: a capture instead of the synthetic one;
//! - `RADFOAM_BENCH_CHECKPOINT`: a foam trained on it, instead of training one here;
//! - `RADFOAM_BENCH_CELLS`: the number of cells to train (default 50000);
//! - `RADFOAM_BENCH_THREADS`: numbers of threads, with commas between them (default 1,2).
//!
//! The floors: the bytes of the cells that are crossed, at the rate at which the same threads copy; and the same walk
//! through a foam so small that it stays in the nearest cache, which leaves its arithmetic.

use std::hint::black_box;
use std::path::PathBuf;
use std::time::Instant;

use candle_core::Device;
use candle_radfoam::camera::{Camera, Ray};
use candle_radfoam::checkpoint::Checkpoint;
use candle_radfoam::data::synthetic::{SyntheticOptions, write_capture};
use candle_radfoam::data::{Dataset, LoadOptions, load};
use candle_radfoam::foam::{Foam, InitConfig, initial_cells};
use candle_radfoam::ops::RayGradient;
use candle_radfoam::ops::TraceSettings;
use candle_radfoam::ops::fused::{self, Faces, Rays, Scene, Workspace};
use candle_radfoam::rng::{Rng, Stream};
use candle_radfoam::train::{TrainConfig, Trainer};
use rayon::prelude::*;

type Error = Box<dyn std::error::Error>;

const IMAGE_SIZE: u32 = 800;
const BATCH: u64 = 65_536;
const REPEATS: usize = 9;
/// Few enough for the nearest cache.
const SMALL_FOAM: usize = 40;

/// A foam as the walk reads it.
struct Walk {
    faces: Faces<f32>,
    sh: Vec<f32>,
    num_coefficients: usize,
    num_real: usize,
}

impl Walk {
    /// With spherical harmonics of `degree`: those of the foam as far as it has them, and small ones beyond.
    fn new(foam: &Foam, degree: usize) -> candle_radfoam::Result<Self> {
        let adjacency = foam.topology().adjacency();
        let mut faces = Faces::new(&adjacency.offsets, &adjacency.neighbors);
        let points: Vec<f32> = foam.points().flatten_all()?.to_vec1()?;
        let density: Vec<f32> = foam.density()?.to_vec1()?;
        faces.refresh(&points, &density, foam.topology().sentinels());
        let (has, wants) = (foam.num_coefficients(), (degree + 1) * (degree + 1));
        let given: Vec<f32> = foam.sh().flatten_all()?.to_vec1()?;
        let mut sh = vec![0.01; foam.num_cells() * wants * 3];
        for (row, given) in sh.chunks_exact_mut(3 * wants).zip(given.chunks_exact(3 * has)) {
            let common = row.len().min(given.len());
            row[..common].copy_from_slice(&given[..common]);
        }
        Ok(Self { faces, sh, num_coefficients: wants, num_real: foam.num_cells() })
    }

    fn scene(&self) -> Scene<'_, f32> {
        Scene { faces: &self.faces, sh: &self.sh, num_coefficients: self.num_coefficients }
    }
}

/// Rays as the walk reads them.
struct RayBuffers {
    origins: Vec<f32>,
    directions: Vec<f32>,
    start_cells: Vec<u32>,
}

impl RayBuffers {
    fn new(foam: &Foam, rays: impl Iterator<Item = Ray>) -> candle_radfoam::Result<Self> {
        let mut sites = foam.points_host()?;
        sites.extend_from_slice(foam.topology().sentinels());
        let mut all = Self { origins: Vec::new(), directions: Vec::new(), start_cells: Vec::new() };
        let mut last = ([f32::NAN; 3], 0);
        for ray in rays {
            if ray.origin != last.0 {
                last = (ray.origin, foam.topology().cell_at(&sites, ray.origin, last.1));
            }
            all.origins.extend(ray.origin);
            all.directions.extend(ray.direction);
            all.start_cells.push(last.1);
        }
        Ok(all)
    }

    fn rays(&self) -> Rays<'_, f32> {
        Rays {
            origins: &self.origins,
            directions: &self.directions,
            start_cells: &self.start_cells,
            quantiles: &[],
            num_quantiles: 0,
        }
    }
}

/// Random pixels of random training views, as uniform sampling draws them.
fn random_rays(dataset: &Dataset) -> impl Iterator<Item = Ray> {
    let rng = Rng::new(1, Stream::Synthetic, 0);
    (0..BATCH as u32).filter_map(move |i| {
        let [view, x, y, _] = rng.uniform4(i);
        let camera = &dataset.train[(view * dataset.train.len() as f32) as usize].camera;
        camera.ray((x * camera.width as f32) as u32, (y * camera.height as f32) as u32)
    })
}

fn image_rays(camera: &Camera) -> impl Iterator<Item = Ray> {
    (0..IMAGE_SIZE * IMAGE_SIZE).filter_map(|i| camera.ray(i % IMAGE_SIZE, i / IMAGE_SIZE))
}

/// The median of the seconds that `run` takes, and the cells that it crosses.
fn median(mut run: impl FnMut() -> u64) -> (f64, u64) {
    let cells = run();
    let mut seconds: Vec<f64> = (0..REPEATS)
        .map(|_| {
            let started = Instant::now();
            black_box(run());
            started.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_unstable_by(f64::total_cmp);
    (seconds[REPEATS / 2], cells)
}

fn count(cells: &[u32]) -> u64 {
    cells.iter().map(|&n| u64::from(n)).sum()
}

fn forward(walk: &Walk, rays: &RayBuffers, settings: &TraceSettings) -> (f64, u64) {
    median(|| count(&fused::forward(&walk.scene(), &rays.rays(), settings, false).cells_entered))
}

fn forward_backward(walk: &Walk, rays: &RayBuffers, settings: &TraceSettings) -> (f64, u64) {
    let mut workspace = Workspace::default();
    median(|| {
        let gradient = |_: usize, out: &[f32]| RayGradient {
            rgb: [out[0], out[1], out[2]],
            opacity: out[3],
            depth: &[],
            depth_scale: 0.0,
        };
        let (scene, rays) = (walk.scene(), rays.rays());
        let (outputs, gradients) =
            fused::forward_backward(&scene, &rays, settings, walk.num_real, &mut workspace, gradient);
        black_box(&gradients);
        count(&outputs.cells_entered)
    })
}

/// Bytes a second that all threads together read, and as many that they write, when they copy.
fn copy_rate() -> f64 {
    const BYTES: usize = 200_000_000;
    const PART: usize = 4_000_000;
    let from = vec![1u8; BYTES];
    let mut to = vec![0u8; BYTES];
    let (seconds, _) = median(|| {
        let parts = to.par_chunks_mut(PART).zip(black_box(&from).par_chunks(PART));
        parts.for_each(|(to, from)| to.copy_from_slice(from));
        0
    });
    2.0 * BYTES as f64 / seconds
}

fn measure(foam: &Foam, small: &Foam, dataset: &Dataset, settings: &TraceSettings) -> Result<(), Error> {
    let camera = dataset.test.first().unwrap_or(&dataset.train[0]).camera.resized(IMAGE_SIZE, IMAGE_SIZE);
    let image = RayBuffers::new(foam, image_rays(&camera))?;
    let random = RayBuffers::new(foam, random_rays(dataset))?;
    let in_cache = RayBuffers::new(small, random_rays(dataset))?;
    let print = |name: &str, rays: &RayBuffers, (seconds, cells): (f64, u64)| {
        let num_rays = rays.start_cells.len() as f64;
        println!(
            "  {name:<44}{:7.1} M cells a second {:9.0} rays a second {:6.1} cells a ray",
            1e-6 * cells as f64 / seconds,
            num_rays / seconds,
            cells as f64 / num_rays
        );
        cells as f64 / seconds
    };
    for degree in [0, 1, 3] {
        let (walk, small) = (Walk::new(foam, degree)?, Walk::new(small, degree)?);
        print(&format!("degree {degree}, image, forward"), &image, forward(&walk, &image, settings));
        let alone = print(&format!("degree {degree}, random, forward"), &random, forward(&walk, &random, settings));
        let both = forward_backward(&walk, &random, settings);
        let both = print(&format!("degree {degree}, random, forward and backward"), &random, both);
        println!("  {:<44}{:7.2} times forward", "  backward takes", alone / both - 1.0);
        print(&format!("degree {degree}, in cache, forward"), &in_cache, forward(&small, &in_cache, settings));
        let both = forward_backward(&small, &in_cache, settings);
        print(&format!("degree {degree}, in cache, forward and backward"), &in_cache, both);
    }
    let walk = Walk::new(foam, 0)?;
    let bytes = walk.faces.bytes() as f64 / walk.num_real as f64;
    let rate = copy_rate();
    println!(
        "  {bytes:.0} bytes a cell without its colour: {:.1} M cells at {:.1} GB/s",
        1e-6 * rate / bytes,
        1e-9 * rate
    );
    Ok(())
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn main() -> Result<(), Error> {
    let folder = tempfile::tempdir()?;
    let capture = match variable("RADFOAM_BENCH_CAPTURE") {
        Some(capture) => PathBuf::from(capture),
        None => {
            write_capture(folder.path(), &SyntheticOptions::default(), &|_, _| {})?;
            folder.path().to_path_buf()
        }
    };
    let dataset = load(capture, &LoadOptions::default())?;
    let config = TrainConfig::default();
    let settings = config.trace.clone();
    let foam = match variable("RADFOAM_BENCH_CHECKPOINT") {
        Some(path) => {
            let path = PathBuf::from(path);
            Foam::from_checkpoint(&Checkpoint::load(&path, &Device::Cpu)?, &path)?
        }
        None => {
            let mut config = TrainConfig { steps: Some(600), ..config };
            config.refine.max_cells = variable("RADFOAM_BENCH_CELLS").map_or(Ok(50_000), |n| n.parse())?;
            let mut trainer = Trainer::new(dataset.clone(), config, &Device::Cpu)?;
            while !trainer.is_finished() {
                trainer.step()?;
            }
            trainer.foam().deep_clone()?
        }
    };
    let init = InitConfig { num_cells: SMALL_FOAM, ..InitConfig::default() };
    let small = Foam::new(initial_cells(&init, 0.4, None, &[], 0)?, 1, 2.0, &Device::Cpu)?;
    let edges = foam.topology().adjacency().neighbors.len();
    println!(
        "{} cells of {:.1} faces, rays end at a transmittance of {}",
        foam.num_cells(),
        edges as f64 / foam.num_cells() as f64,
        settings.transmittance_threshold
    );
    for threads in variable("RADFOAM_BENCH_THREADS").unwrap_or("1,2".into()).split(',') {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.trim().parse()?).build()?;
        println!("{threads} threads");
        pool.install(|| measure(&foam, &small, &dataset, &settings).map_err(|e| e.to_string()))?;
    }
    Ok(())
}
