//! Where a training step spends its time, and how far its walk is from what memory allows.
//!
//! `cargo bench --bench train_step` trains on a synthetic capture until the foam has all of its cells, and prints the parts
//! of the steps after that. In the environment:
//!
//! - `RADFOAM_BENCH_CELLS`: numbers of cells, with commas between them (default 40000,100000);
//! - `RADFOAM_BENCH_THREADS`: numbers of threads, likewise (default 1,2);
//! - `RADFOAM_BENCH_CAPTURE`: a capture to train on instead.

use std::hint::black_box;
use std::path::PathBuf;
use std::time::Instant;

use candle_core::Device;
use candle_radfoam::data::synthetic::{SyntheticOptions, write_capture};
use candle_radfoam::data::{Dataset, LoadOptions, load};
use candle_radfoam::train::{TrainConfig, Trainer};
use rayon::prelude::*;

const STEPS: u64 = 600;
/// From here on there are all cells (the last round of refinement is at 0.6 of the steps) and they are settled.
const MEASURED_FROM: u64 = 480;
/// Bytes of eight faces: three coordinates and a neighbour each, in f32 and u32.
const BLOCK_BYTES: f64 = 128.0;
const FACES_A_BLOCK: usize = 8;
/// Position and density, and where the blocks begin and end.
const SITE_BYTES: f64 = 16.0 + 8.0;
const COPY_BYTES: usize = 200_000_000;
const COPY_PART: usize = 4_000_000;

fn list(variable: &str, default: &str) -> Vec<usize> {
    let list = std::env::var(variable).unwrap_or(default.to_string());
    list.split(',').map(|part| part.trim().parse().unwrap_or_else(|e| panic!("{variable}: {part}: {e}"))).collect()
}

/// Bytes a second that all threads together read, and as many that they write, when they copy.
fn copy_rate() -> f64 {
    let from = vec![1u8; COPY_BYTES];
    let mut to = vec![0u8; COPY_BYTES];
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let started = Instant::now();
        let parts = to.par_chunks_mut(COPY_PART).zip(black_box(&from).par_chunks(COPY_PART));
        parts.for_each(|(to, from)| to.copy_from_slice(from));
        black_box(&to);
        best = best.min(started.elapsed().as_secs_f64());
    }
    2.0 * COPY_BYTES as f64 / best
}

fn measure(dataset: Dataset, max_cells: usize, threads: usize) -> candle_radfoam::Result<()> {
    let mut config = TrainConfig { steps: Some(STEPS), ..TrainConfig::default() };
    config.refine.max_cells = max_cells;
    let mut trainer = Trainer::new(dataset, config, &Device::Cpu)?;
    while trainer.step_count() < MEASURED_FROM {
        trainer.step()?;
    }
    let before = trainer.profile();
    let (mut rays, mut cells) = (0, 0);
    let started = Instant::now();
    while !trainer.is_finished() {
        let stats = trainer.step()?;
        (rays, cells) = (rays + stats.num_rays as u64, cells + stats.cells_entered);
    }
    let seconds = started.elapsed().as_secs_f64();

    let steps = (STEPS - MEASURED_FROM) as f64;
    let foam = trainer.foam();
    let faces: Vec<usize> = (0..foam.num_cells()).map(|cell| foam.topology().neighbors(cell).count()).collect();
    let mean = |of: &dyn Fn(usize) -> f64| faces.iter().map(|&n| of(n)).sum::<f64>() / faces.len() as f64;
    let (rays, cells) = (rays as f64, cells as f64);
    println!(
        "{} cells of {:.1} faces, {threads} threads: {:.0} rays a step through {:.1} cells each",
        foam.num_cells(),
        mean(&|n| n as f64),
        rays / steps,
        cells / rays
    );
    let parts = trainer.profile().parts().into_iter().zip(before.parts());
    let parts: Vec<_> = parts.map(|((name, after), (_, before))| (name, after - before)).collect();
    for (name, spent) in &parts {
        println!("  {name:<20}{:9.3} ms a step {:5.1} %", 1e3 * spent / steps, 100.0 * spent / seconds);
    }
    println!("  {:<20}{:9.3} ms a step {:8.0} rays a second", "step", 1e3 * seconds / steps, rays / seconds);
    let trace = parts.iter().find(|(name, _)| name.starts_with("trace")).map_or(f64::NAN, |(_, spent)| *spent);
    let bytes = mean(&|n| n.div_ceil(FACES_A_BLOCK) as f64 * BLOCK_BYTES) + SITE_BYTES;
    let (rate, floor) = (cells / trace, copy_rate() / bytes);
    println!(
        "  walk and backward: {:.1} M cells a second; {bytes:.0} bytes a cell at {:.1} GB/s would be {:.1} M ({:.2} of it)\n",
        1e-6 * rate,
        1e-9 * floor * bytes,
        1e-6 * floor,
        rate / floor
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let capture = match std::env::var_os("RADFOAM_BENCH_CAPTURE") {
        Some(capture) => PathBuf::from(capture),
        None => {
            write_capture(folder.path(), &SyntheticOptions::default(), &|_, _| {})?;
            folder.path().to_path_buf()
        }
    };
    let dataset = load(capture, &LoadOptions::default())?;
    for cells in list("RADFOAM_BENCH_CELLS", "40000,100000") {
        for threads in list("RADFOAM_BENCH_THREADS", "1,2") {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
            pool.install(|| measure(dataset.clone(), cells, threads))?;
        }
    }
    Ok(())
}
