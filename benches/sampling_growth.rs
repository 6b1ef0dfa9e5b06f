//! How the cost of a step grows with the map and with the batch, beside what copying the bytes it must touch costs.
//!
//! ```text
//! RAYON_NUM_THREADS=1 cargo bench --bench sampling_growth
//! ```
//!
//! `RADFOAM_BENCH_ENTRIES` and `RADFOAM_BENCH_BATCHES` list sizes, with commas; rows are gathered up to
//! `RADFOAM_BENCH_GATHER` entries (36 bytes each; default 10^8). `RADFOAM_BENCH_JSON` names a file for the numbers, which
//! `sampling_baselines.py` reads. Times are medians: wall, and CPU of the process (user and system).

use std::{hint::black_box, time::Instant};

use candle_core::{Device, Tensor};
use candle_radfoam::{
    ops::{ErrorMap, ErrorMapSettings, move_to_huge_pages, weighted_gather_many},
    rng::{Rng, Stream},
};
use rayon::prelude::*;
use rustix::time::{ClockId, clock_gettime};

const ENTRIES: &str = "842400,10000000";
const BATCHES: &str = "65536,262144,842400,2000000";
const GATHER: &str = "100000000";
const UNIFORM_FRACTION: f64 = 0.3;
/// Repeats that count; one more goes before.
const REPEATS: usize = 9;
/// What memory moves at a time.
const LINE: f64 = 64.0;
const COPY_BYTES: usize = 400_000_000;
/// What a thread copies at a time.
const COPY_PART: usize = 4_000_000;

fn sizes(variable: &str, default: &str) -> Vec<usize> {
    let list = std::env::var(variable).unwrap_or(default.to_string());
    list.split(',').map(|size| size.trim().parse().unwrap_or_else(|e| panic!("{variable}: {size}: {e}"))).collect()
}

/// Milliseconds of wall time and of the process.
#[derive(Clone, Copy, Default)]
struct Cost {
    wall: f64,
    cpu: f64,
}

fn now() -> Cost {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let cpu = cpu.tv_sec as f64 * 1e3 + cpu.tv_nsec as f64 * 1e-6;
    Cost { wall: START.with(|start| start.elapsed().as_secs_f64() * 1e3), cpu }
}

thread_local!(static START: Instant = Instant::now());

fn measure<T>(costs: &mut Vec<Cost>, work: impl FnOnce() -> T) -> T {
    let before = now();
    let result = black_box(work());
    let after = now();
    costs.push(Cost { wall: after.wall - before.wall, cpu: after.cpu - before.cpu });
    result
}

/// The medians, the first repeat left out.
fn median(costs: &[Cost]) -> Cost {
    let of = |part: fn(&Cost) -> f64| {
        let mut parts: Vec<f64> = costs[1..].iter().map(part).collect();
        parts.sort_by(f64::total_cmp);
        parts[parts.len() / 2]
    };
    Cost { wall: of(|cost| cost.wall), cpu: of(|cost| cost.cpu) }
}

/// Bytes read and written a millisecond when memory is copied.
fn copy_rate() -> f64 {
    let from = vec![1u8; COPY_BYTES];
    let mut to = vec![0u8; COPY_BYTES];
    let mut costs = Vec::new();
    for _ in 0..=REPEATS {
        measure(&mut costs, || {
            let parts = to.par_chunks_mut(COPY_PART).zip(black_box(&from).par_chunks(COPY_PART));
            parts.for_each(|(to, from)| to.copy_from_slice(from));
        });
        // Else nobody would read the copy, and it would not be made.
        black_box(&to);
    }
    2.0 * COPY_BYTES as f64 / median(&costs).wall
}

/// Bytes that a step must move: the lines that `num` draws meet of the map, of the sums of its groups and of the
/// tables, the sums of all blocks, and what goes in and out in order.
fn bytes_moved(indices: &[u32], num_blocks: usize, gathers: bool) -> f64 {
    // Distinct lines that rows of `bytes` touch, in ascending order.
    let lines = |bytes: u64| {
        let mut next = 0;
        let mut count = 0;
        for &index in indices {
            let (first, last) = (u64::from(index) * bytes / 64, (u64::from(index + 1) * bytes - 1) / 64);
            count += (last + 1).saturating_sub(first.max(next));
            next = last + 1;
        }
        count as f64 * LINE
    };
    let num = indices.len() as f64;
    let entries = lines(4);
    let mut group_lines: Vec<u32> = indices.iter().map(|index| index / 256).collect();
    group_lines.dedup();
    let groups = group_lines.len() as f64 * LINE;
    // Draw: entries and groups read, running sums read and written, indices and probabilities written.
    let draw = entries + groups + 3.0 * 8.0 * num_blocks as f64 + 8.0 * num;
    // Update: entries and groups read and written, indices and values read.
    let update = 2.0 * (entries + groups) + 8.0 * num;
    let gather = if gathers { lines(24) + lines(12) + 36.0 * num + 4.0 * num } else { 0.0 };
    draw + update + gather
}

/// Errors in `(0, 1)` with a long tail.
fn errors(len: usize) -> Tensor {
    let rng = Rng::new(0, Stream::Init, 0);
    let values: Vec<f32> = (0..len as u32).map(|i| (rng.normal4(i)[0] - 3.0).exp().min(1.0)).collect();
    Tensor::from_vec(values, len, &Device::Cpu).unwrap()
}

fn table(len: usize, width: usize) -> Tensor {
    let values: Vec<f32> = (0..len * width).map(|i| i as f32).collect();
    let table = Tensor::from_vec(values, (len, width), &Device::Cpu).unwrap();
    move_to_huge_pages(&table);
    table
}

fn main() {
    // Cargo passes flags of its own to every bench.
    let rate = copy_rate();
    println!("copying: {:.1} GB/s read and written, {} threads for the ops", rate / 1e6, rayon::current_num_threads());
    let names = ["draw", "gather", "update", "step"];
    println!(
        "{:>11} {:>9} | {}  | ns a ray |  MB moved |   floor | of it",
        "entries",
        "batch",
        names.map(|n| format!("{n:>8} ms (cpu)")).join(" ")
    );
    let mut rows = Vec::new();
    let most_gathered = sizes("RADFOAM_BENCH_GATHER", GATHER)[0];
    for len in sizes("RADFOAM_BENCH_ENTRIES", ENTRIES) {
        let mut map = ErrorMap::from_tensor(&errors(len), ErrorMapSettings::default()).unwrap();
        let gathers = len <= most_gathered;
        let tables = if gathers { vec![table(len, 6), table(len, 3)] } else { Vec::new() };
        let tables: Vec<&Tensor> = tables.iter().collect();
        for num in sizes("RADFOAM_BENCH_BATCHES", BATCHES) {
            let values = errors(num);
            let mut costs = [const { Vec::new() }; 4];
            let mut moved = 0.0;
            for step in 0..=REPEATS as u64 {
                let [draw, gather, update, whole] = &mut costs;
                let draws = measure(whole, || {
                    let draws = measure(draw, || map.draw(num, UNIFORM_FRACTION, 1, step).unwrap());
                    let rows = measure(gather, || weighted_gather_many(&tables, &draws.indices, None).unwrap());
                    measure(update, || map.update(&draws.indices, &values).unwrap());
                    (draws, rows)
                });
                if step == 0 {
                    moved = bytes_moved(&draws.0.indices.to_vec1().unwrap(), len.div_ceil(256), gathers);
                }
            }
            let costs = costs.map(|costs| median(&costs));
            let cells = costs.map(|cost| format!("{:8.2} ({:7.2})", cost.wall, cost.cpu)).join(" ");
            let (step, floor) = (costs[3].wall, moved / rate);
            println!(
                "{len:>11} {num:>9} | {cells} | {:8.2} | {:9.1} | {floor:7.2} | {:5.2}",
                step * 1e6 / num as f64,
                moved / 1e6,
                step / floor
            );
            let parts: Vec<String> = names
                .iter()
                .zip(costs)
                .map(|(name, cost)| format!("\"{name}\": {:.4}, \"{name}_cpu\": {:.4}", cost.wall, cost.cpu))
                .collect();
            rows.push(format!("  {{\"entries\": {len}, \"batch\": {num}, {}}}", parts.join(", ")));
        }
    }
    if let Ok(path) = std::env::var("RADFOAM_BENCH_JSON") {
        std::fs::write(&path, format!("[\n{}\n]\n", rows.join(",\n"))).unwrap_or_else(|e| panic!("{path}: {e}"));
    }
}
