//! The ops on a CUDA device: medians by CUDA events, and what each moves against the bandwidth of a copy in the same
//! run. `--small` makes it quick. Prints one table; cuda/gpu-check.sh runs it.

use anyhow::{Context, Result};
use candle_core::cuda_backend::cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT;
use candle_core::{CudaDevice, DType, Device, Tensor, Var};
use candle_radfoam::data::synthetic::{SyntheticOptions, write_capture};
use candle_radfoam::data::{LoadOptions, SamplerConfig, load};
use candle_radfoam::foam::{InitConfig, RefineConfig};
use candle_radfoam::geometry::{Adjacency, nearest_cell, sentinels};
use candle_radfoam::ops::{
    AdamSettings, CudaErrorMap, ErrorMap, ErrorMapSettings, TraceInputs, TraceSettings, adam_step, trace_rays,
    weighted_gather,
};
use candle_radfoam::rng::{Rng, Stream};
use candle_radfoam::train::{TrainConfig, Trainer};
use std::time::Instant;

const WARM_UP: usize = 3;
const RUNS: usize = 21;

struct Bench {
    device: Device,
    cuda: CudaDevice,
    /// Bytes a millisecond of a copy, read and write counted.
    bandwidth: f64,
}

impl Bench {
    /// The median time of `body`, in milliseconds.
    fn time(&self, mut body: impl FnMut() -> Result<()>) -> Result<f64> {
        let stream = self.cuda.cuda_stream();
        let mut times = Vec::with_capacity(RUNS);
        for run in 0..WARM_UP + RUNS {
            let start = stream.record_event(Some(CU_EVENT_DEFAULT))?;
            body()?;
            let end = stream.record_event(Some(CU_EVENT_DEFAULT))?;
            let elapsed = start.elapsed_ms(&end)?;
            if run >= WARM_UP {
                times.push(f64::from(elapsed));
            }
        }
        times.sort_by(f64::total_cmp);
        Ok(times[RUNS / 2])
    }

    /// Times `body` and prints its row; `num_bytes` is the least that it can move.
    fn row(&self, name: &str, num_bytes: f64, body: impl FnMut() -> Result<()>) -> Result<f64> {
        let time = self.time(body)?;
        let floor = num_bytes / self.bandwidth;
        println!("| {name} | {time:.3} | {:.1} | {floor:.3} | {:.0} % |", num_bytes / 1e6, 100.0 * floor / time);
        Ok(time)
    }
}

fn main() -> Result<()> {
    let small = std::env::args().any(|argument| argument == "--small");
    let device = Device::new_cuda(0).context("no CUDA device")?;
    let cuda = device.as_cuda_device()?.clone();
    let mut bench = Bench { device: device.clone(), cuda: cuda.clone(), bandwidth: 1.0 };
    let num_copied = if small { 1 << 10 } else { 1 << 29 };
    let from = cuda.alloc_zeros::<u8>(num_copied)?;
    let mut to = cuda.alloc_zeros::<u8>(num_copied)?;
    let time = bench.time(|| Ok(cuda.memcpy_dtod(&from, &mut to)?))?;
    bench.bandwidth = 2.0 * num_copied as f64 / time;
    println!("{}: a copy moves {:.0} GB/s\n", cuda.cuda_stream().context().name()?, bench.bandwidth / 1e6);
    println!("| op | ms | MB at least | ms at that bandwidth | share |\n|---|---|---|---|---|");
    sampler(&bench, small)?;
    trace(&bench, small)?;
    training(&device, small)
}

/// Steps of a training on a synthetic capture: where the host's time goes, and what is copied.
fn training(device: &Device, small: bool) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let options = SyntheticOptions { size: if small { 16 } else { 200 }, ..SyntheticOptions::default() };
    write_capture(folder.path(), &options, &|_, _| {})?;
    let dataset = load(folder.path(), &LoadOptions::default())?;
    let (num_steps, rays, cells) = if small { (25, 500, 300) } else { (300, 1 << 20, 300_000) };
    let config = TrainConfig {
        steps: Some(num_steps),
        init: InitConfig { num_cells: cells, ..InitConfig::default() },
        refine: RefineConfig { rounds: 0, max_cells: 2 * cells, ..RefineConfig::default() },
        sampler: SamplerConfig { batch_size: rays, ..SamplerConfig::default() },
        ..TrainConfig::default()
    };
    let mut trainer = Trainer::new(dataset, config, device)?;
    let (mut entered, mut seconds) = (0, 0.0);
    while !trainer.is_finished() {
        let started = Instant::now();
        let stats = trainer.step()?;
        // The first steps compile, and fill the pool of memory.
        if stats.step >= num_steps / 2 {
            entered += stats.cells_entered;
            seconds += started.elapsed().as_secs_f64();
        }
    }
    let steps = (num_steps - num_steps / 2) as f64;
    println!(
        "\n{rays} rays a step, {cells} cells: {:.3} ms a step, {:.2} G cells a second",
        1e3 * seconds / steps,
        1e-9 * entered as f64 / seconds
    );
    print!("{}", trainer.profile());
    Ok(())
}

/// What a step needs of the sampler, with 1e8 entries and 1e6 draws.
fn sampler(bench: &Bench, small: bool) -> Result<()> {
    const LINE: f64 = 64.0;
    let (len, num) = if small { (10_000, 100) } else { (100_000_000, 1_000_000) };
    let mut map = CudaErrorMap::new(&ErrorMap::new(len, ErrorMapSettings::default())?, &bench.device)?;
    let errors = Tensor::rand(0f32, 1.0, num, &bench.device)?;
    let (entries, draws) = (len as f64, num as f64);
    // The sums of blocks twice and their ends; a line of groups, a line of entries and eight bytes a draw.
    let mut step = 0;
    let drawn = map.draw(num, 0.3, 1, 0)?;
    let mut total = bench.row("draw", entries / 256.0 * 24.0 + draws * (2.0 * LINE + 8.0), || {
        step += 1;
        map.draw(num, 0.3, 1, step)?;
        Ok(())
    })?;
    // A sector each of entry, group and block, read and written; index and error.
    total += bench.row("scatter-EMA with sums", draws * (6.0 * 32.0 + 8.0), || {
        map.update_drawn(&drawn, &errors)?;
        Ok(())
    })?;
    let table = Tensor::zeros((len, 1), DType::F32, &bench.device)?;
    total += bench.row("gather, one column", draws * (32.0 + 8.0), || {
        weighted_gather(&table, &drawn.draws().indices, None)?;
        Ok(())
    })?;
    println!("| the three | {total:.3} | | | |");
    let (param, grad) = (table.flatten_all()?, Tensor::zeros(len, DType::F32, &bench.device)?);
    let moments = Tensor::zeros((2, len), DType::F32, &bench.device)?;
    bench.row("Adam", entries * 4.0 * 8.0, || {
        Ok(adam_step(&param, &grad, &moments, &[0.1], 1, &AdamSettings::default())?)
    })?;
    Ok(())
}

/// Rays through a foam of as many cells, forward and backward, colours of degree 1.
fn trace(bench: &Bench, small: bool) -> Result<()> {
    let num = if small { 500 } else { 1_000_000 };
    let rng = Rng::new(1, Stream::Init, 0);
    let mut points: Vec<[f32; 3]> = (0..num)
        .map(|i| {
            let [x, y, z, _] = rng.uniform4(i);
            [x, y, z].map(|u| 2.0 * u - 1.0)
        })
        .collect();
    points.extend(sentinels([0.0; 3], 20.0));
    let adjacency = Adjacency::build(&points)?;
    let num_cells = points.len();
    let mut density = vec![2.0f32; num as usize];
    density.resize(num_cells, 0.0);
    // One camera, as in a picture: neighbouring rays are neighbours.
    let origin = [0.0, 0.0, -2.5];
    let start = nearest_cell(&points, &adjacency, origin, 0);
    let side = f64::from(num).sqrt() as usize;
    let directions: Vec<[f32; 3]> = (0..side * side)
        .map(|i| {
            let at = |k: usize| (k as f32 + 0.5) / side as f32 - 0.5;
            let (x, y) = (at(i % side), at(i / side));
            let length = (x * x + y * y + 1.0).sqrt();
            [x / length, y / length, 1.0 / length]
        })
        .collect();
    let (d, num_rays) = (&bench.device, directions.len());
    let inputs = TraceInputs {
        origins: Tensor::new(&origin, d)?.unsqueeze(0)?.broadcast_as((num_rays, 3))?.contiguous()?,
        directions: Tensor::from_slice(directions.as_flattened(), (num_rays, 3), d)?,
        start_cells: Tensor::full(start, num_rays, d)?,
        offsets: Tensor::from_slice(&adjacency.offsets, num_cells + 1, d)?,
        neighbors: Tensor::from_slice(&adjacency.neighbors, adjacency.neighbors.len(), d)?,
        quantiles: None,
    };
    let points = Var::from_slice(points.as_flattened(), (num_cells, 3), d)?;
    let density = Var::from_slice(&density, num_cells, d)?;
    let sh = Var::zeros((num_cells, 4, 3), DType::F32, d)?;
    let settings = TraceSettings::default();
    let run = || trace_rays(&points, &density, &sh, &inputs, &settings);
    let entered: Vec<u32> = run()?.cells_entered.to_vec1()?;
    let cells: f64 = entered.iter().map(|&cells| f64::from(cells)).sum();
    // Of each cell that a ray enters a site, its faces of sixteen bytes, and twelve coefficients: caches may spare most.
    let faces = adjacency.neighbors.len() as f64 / num_cells as f64;
    let num_bytes = cells * (16.0 + 16.0 * faces + 48.0);
    let forward = bench.row("trace, checks and forward", num_bytes, || {
        run()?;
        Ok(())
    })?;
    println!("| cells a ray {:.0}; G cells a second | {:.2} | | | |", cells / num_rays as f64, cells / forward / 1e6);
    let both = bench.row("forward and backward, with Candle's graph", 2.0 * num_bytes, || {
        run()?.rgb.sum_all()?.backward()?;
        Ok(())
    })?;
    println!("| backward to forward | {:.2} | | | |", (both - forward) / forward);
    Ok(())
}
