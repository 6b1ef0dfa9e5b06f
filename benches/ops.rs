//! Update, draw, gather and the three together, each beside the plain ways to do it.
//!
//! Throughput is in elements of the batch. `RADFOAM_BENCH_ENTRIES` lists the numbers of map entries, with commas
//! (default 842400; the README's table has 842400,10000000,100000000, which takes 10 GB). For one thread set
//! `RAYON_NUM_THREADS=1`.

use std::{hint::black_box, time::Duration};

use candle_core::{Device, Tensor, WithDType};
use candle_radfoam::{
    data::{Sampler, SamplerConfig},
    ops::{
        DrawSettings, Duplicates, ErrorMap, ErrorMapSettings, Jitter, ScatterSettings, move_to_huge_pages, scatter_ema,
        weighted_draw, weighted_gather, weighted_gather_many,
    },
    rng::{Rng, Stream},
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rand::{SeedableRng, distr::Distribution, rngs::SmallRng};
use rand_distr::weighted::{WeightedAliasIndex, WeightedTreeIndex};

const DEFAULT_ENTRIES: &str = "842400";
const BATCHES: [usize; 2] = [65_536, 842_400];
const UNIFORM_FRACTION: f64 = 0.3;
const DECAY: f32 = 0.8;
/// The unit of a weight where weights are integers, as in the map.
const UNIT: f32 = 4_194_304.0;
/// A ray's origin and direction, and its colour.
const WIDTHS: [usize; 2] = [6, 3];

fn sizes() -> Vec<usize> {
    let sizes = std::env::var("RADFOAM_BENCH_ENTRIES").unwrap_or(DEFAULT_ENTRIES.to_string());
    sizes.split(',').map(|size| size.trim().parse().expect("RADFOAM_BENCH_ENTRIES: numbers with commas")).collect()
}

fn tensor<T: WithDType>(values: &[T]) -> Tensor {
    Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap()
}

/// Errors in `(0, 1)` with a long tail.
fn errors(len: usize) -> Vec<f32> {
    let rng = Rng::new(0, Stream::Init, 0);
    (0..len as u32).map(|i| (rng.normal4(i)[0] - 3.0).exp().min(1.0)).collect()
}

fn indices(len: usize, num: usize) -> Vec<u32> {
    let rng = Rng::new(1, Stream::Init, 0);
    (0..num as u32).map(|k| rng.below(k, len as u64) as u32).collect()
}

fn table(len: usize, width: usize) -> Tensor {
    let table = tensor(&errors(len * width)).reshape((len, width)).unwrap();
    move_to_huge_pages(&table);
    table
}

/// As an update must do it: the loop of the definition.
fn update_sequentially(map: &mut [f32], indices: &[u32], values: &[f32]) {
    for (&i, &v) in indices.iter().zip(values) {
        let entry = &mut map[i as usize];
        *entry = DECAY * *entry + (1.0 - DECAY) * v;
    }
}

/// Stratified points found in a running sum of doubles, which is built anew.
fn search_running_sum(weights: &[f32], num: usize, rng: Rng) -> Vec<u32> {
    let mut sum = 0.0;
    let add = |&w: &f32| {
        sum += f64::from(w);
        sum
    };
    let ends: Vec<f64> = weights.iter().map(add).collect();
    let point = |k: u32| (f64::from(k) + f64::from(rng.uniform(k))) / num as f64 * sum;
    (0..num as u32).map(|k| ends.partition_point(|&end| end <= point(k)) as u32).collect()
}

/// Stratified points found on one way over all weights.
fn scan(weights: &[f32], num: usize, rng: Rng) -> Vec<u32> {
    let mut parts = [0.0; 8];
    for chunk in weights.chunks(parts.len()) {
        for (part, &w) in parts.iter_mut().zip(chunk) {
            *part += f64::from(w);
        }
    }
    let step = parts.iter().sum::<f64>() / num as f64;
    let (mut at, mut end) = (0, f64::from(weights[0]));
    let find = |k: u32| {
        let point = (f64::from(k) + f64::from(rng.uniform(k))) * step;
        while end <= point && at + 1 < weights.len() {
            at += 1;
            end += f64::from(weights[at]);
        }
        at as u32
    };
    (0..num as u32).map(find).collect()
}

fn update(c: &mut Criterion) {
    for len in sizes() {
        update_of(c, len);
    }
}

fn update_of(c: &mut Criterion, len: usize) {
    let mut group = c.benchmark_group("update");
    for num in BATCHES {
        let id = |name: &str| BenchmarkId::new(name, format!("{len}/{num}"));
        group.throughput(Throughput::Elements(num as u64));
        let (unsorted, values) = (indices(len, num), errors(num));
        let mut sorted = unsorted.clone();
        sorted.sort_unstable();
        let (unsorted_tensor, sorted_tensor, value_tensor) = (tensor(&unsorted), tensor(&sorted), tensor(&values));

        let mut plain = errors(len);
        group.bench_function(id("sequential loop"), |b| {
            b.iter(|| {
                update_sequentially(&mut plain, &unsorted, &values);
                black_box(plain[0])
            });
        });
        let map = tensor(&errors(len));
        group.bench_function(id("scatter_ema"), |b| {
            b.iter(|| scatter_ema(&map, &unsorted_tensor, &value_tensor, f64::from(DECAY)).unwrap());
        });
        group.bench_function(id("scatter_ema, ascending"), |b| {
            b.iter(|| scatter_ema(&map, &sorted_tensor, &value_tensor, f64::from(DECAY)).unwrap());
        });
        let mean = ScatterSettings { decay: f64::from(DECAY), duplicates: Duplicates::Mean };
        group.bench_function(id("scatter_ema, ascending, mean"), |b| {
            b.iter(|| scatter_ema(&map, &sorted_tensor, &value_tensor, mean).unwrap());
        });
        let mut map = ErrorMap::from_tensor(&tensor(&errors(len)), ErrorMapSettings::default()).unwrap();
        group.bench_function(id("ErrorMap"), |b| b.iter(|| map.update(&unsorted_tensor, &value_tensor).unwrap()));
        group.bench_function(id("ErrorMap, ascending"), |b| {
            b.iter(|| map.update(&sorted_tensor, &value_tensor).unwrap());
        });
    }
}

fn draw(c: &mut Criterion) {
    for len in sizes() {
        draw_of(c, len);
    }
}

fn draw_of(c: &mut Criterion, len: usize) {
    let mut group = c.benchmark_group("draw");
    let weights = errors(len);
    let weight_tensor = tensor(&weights);
    let map = ErrorMap::from_tensor(&weight_tensor, ErrorMapSettings::default()).unwrap();
    let tree = WeightedTreeIndex::new(weights.iter().map(|w| (w * UNIT) as u64)).unwrap();
    for num in BATCHES {
        let id = |name: &str| BenchmarkId::new(name, format!("{len}/{num}"));
        group.throughput(Throughput::Elements(num as u64));
        let (rng, mut random) = (Rng::new(2, Stream::Draw, 0), SmallRng::seed_from_u64(2));
        group.bench_function(id("f64 running sum and binary search"), |b| {
            b.iter(|| search_running_sum(&weights, num, rng));
        });
        group.bench_function(id("linear scan"), |b| b.iter(|| scan(&weights, num, rng)));
        group.bench_function(id("rand's WeightedAliasIndex, built anew"), |b| {
            b.iter(|| {
                let alias = WeightedAliasIndex::new(weights.clone()).unwrap();
                (0..num).map(|_| alias.sample(&mut random) as u32).collect::<Vec<u32>>()
            });
        });
        group.bench_function(id("rand's WeightedTreeIndex"), |b| {
            b.iter(|| (0..num).map(|_| tree.sample(&mut random) as u32).collect::<Vec<u32>>());
        });
        group.bench_function(id("weighted_draw"), |b| {
            b.iter(|| weighted_draw(&weight_tensor, num, UNIFORM_FRACTION, 2, 0).unwrap());
        });
        group.bench_function(id("ErrorMap"), |b| b.iter(|| map.draw(num, UNIFORM_FRACTION, 2, 0).unwrap()));
        let systematic = DrawSettings { uniform_fraction: UNIFORM_FRACTION, jitter: Jitter::Systematic };
        group.bench_function(id("ErrorMap, systematic"), |b| b.iter(|| map.draw(num, systematic, 2, 0).unwrap()));
    }
}

fn gather(c: &mut Criterion) {
    for len in sizes() {
        gather_of(c, len);
    }
}

fn gather_of(c: &mut Criterion, len: usize) {
    let mut group = c.benchmark_group("gather");
    let tables = WIDTHS.map(|width| table(len, width));
    for num in BATCHES {
        let id = |name: &str| BenchmarkId::new(name, format!("{len}/{num}"));
        group.throughput(Throughput::Elements(num as u64));
        let unsorted = indices(len, num);
        let mut sorted = unsorted.clone();
        sorted.sort_unstable();
        let weights = tensor(&errors(num));
        let column = weights.unsqueeze(1).unwrap();
        for (order, index) in [("", tensor(&unsorted)), (", ascending", tensor(&sorted))] {
            group.bench_function(id(&format!("index_select{order}")), |b| {
                b.iter(|| [0, 1].map(|k| tables[k].index_select(&index, 0).unwrap()));
            });
            group.bench_function(id(&format!("weighted_gather_many{order}")), |b| {
                b.iter(|| weighted_gather_many(&[&tables[0], &tables[1]], &index, None).unwrap());
            });
            group.bench_function(id(&format!("index_select and broadcast_mul{order}")), |b| {
                b.iter(|| tables[0].index_select(&index, 0).unwrap().broadcast_mul(&column).unwrap());
            });
            group.bench_function(id(&format!("weighted_gather{order}")), |b| {
                b.iter(|| weighted_gather(&tables[0], &index, Some(&weights)).unwrap());
            });
        }
    }
}

/// Draw, gather a ray and its colour for each, update: once by the ops, once by the best plain way.
fn step(c: &mut Criterion) {
    for len in sizes() {
        step_of(c, len);
    }
}

fn step_of(c: &mut Criterion, len: usize) {
    let mut group = c.benchmark_group("step");
    let tables = WIDTHS.map(|width| table(len, width));
    for num in BATCHES {
        let id = |name: &str| BenchmarkId::new(name, format!("{len}/{num}"));
        group.throughput(Throughput::Elements(num as u64));
        let values = errors(num);
        let value_tensor = tensor(&values);
        let mut map = ErrorMap::from_tensor(&tensor(&errors(len)), ErrorMapSettings::default()).unwrap();
        let mut step = 0;
        group.bench_function(id("ErrorMap and weighted_gather_many"), |b| {
            b.iter(|| {
                step += 1;
                let draws = map.draw(num, UNIFORM_FRACTION, 2, step).unwrap();
                let rows = weighted_gather_many(&[&tables[0], &tables[1]], &draws.indices, None).unwrap();
                map.update(&draws.indices, &value_tensor).unwrap();
                rows
            });
        });
        let mut plain = errors(len);
        group.bench_function(id("f64 running sum, index_select, sequential loop"), |b| {
            b.iter(|| {
                step += 1;
                let indices = search_running_sum(&plain, num, Rng::new(2, Stream::Draw, step));
                let index = tensor(&indices);
                let rows = [0, 1].map(|k| tables[k].index_select(&index, 0).unwrap());
                update_sequentially(&mut plain, &indices, &values);
                rows
            });
        });
    }
}

/// A step of the sampler: draw and update.
fn sampler(c: &mut Criterion) {
    let side = (sizes()[0] as f64).sqrt() as u32;
    let mut group = c.benchmark_group("sampler step");
    for num in BATCHES {
        group.throughput(Throughput::Elements(num as u64));
        let values = tensor(&errors(num));
        for patch in [1, 8] {
            let config = SamplerConfig { batch_size: num, patch, ..Default::default() };
            let mut sampler = Sampler::new(&[[side, side]], config).unwrap();
            group.bench_function(BenchmarkId::new(format!("patch {patch}"), num), |b| {
                b.iter(|| {
                    let draw = sampler.draw().unwrap();
                    sampler.update(draw, &values).unwrap()
                });
            });
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).measurement_time(Duration::from_secs(2));
    targets = update, draw, gather, step, sampler
}
criterion_main!(benches);
