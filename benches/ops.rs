//! Update, draw and gather, each beside the plain way to do it.
//!
//! Throughput is in elements of the batch. `RADFOAM_BENCH_ENTRIES` sets the number of map entries (default one
//! million).

use std::{hint::black_box, time::Duration};

use candle_core::{Device, Tensor, WithDType};
use candle_radfoam::{
    data::{Sampler, SamplerConfig},
    ops::{ErrorMap, ErrorMapSettings, scatter_ema, weighted_draw, weighted_gather},
    rng::{Rng, Stream},
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const DEFAULT_ENTRIES: usize = 1_000_000;
const BATCHES: [usize; 2] = [65_536, 842_400];
const UNIFORM_FRACTION: f64 = 0.3;
const DECAY: f32 = 0.8;

fn num_entries() -> usize {
    std::env::var("RADFOAM_BENCH_ENTRIES").ok().and_then(|n| n.parse().ok()).unwrap_or(DEFAULT_ENTRIES)
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

fn update(c: &mut Criterion) {
    let len = num_entries();
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
                for (&i, &v) in unsorted.iter().zip(&values) {
                    let entry = &mut plain[i as usize];
                    *entry = DECAY * *entry + (1.0 - DECAY) * v;
                }
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
        let mut map = ErrorMap::from_tensor(&tensor(&errors(len)), ErrorMapSettings::default()).unwrap();
        group.bench_function(id("ErrorMap, ascending"), |b| {
            b.iter(|| map.update(&sorted_tensor, &value_tensor).unwrap());
        });
    }
}

fn draw(c: &mut Criterion) {
    let len = num_entries();
    let mut group = c.benchmark_group("draw");
    let weights = errors(len);
    let weight_tensor = tensor(&weights);
    let map = ErrorMap::from_tensor(&weight_tensor, ErrorMapSettings::default()).unwrap();
    for num in BATCHES {
        let id = |name: &str| BenchmarkId::new(name, format!("{len}/{num}"));
        group.throughput(Throughput::Elements(num as u64));
        let rng = Rng::new(2, Stream::Draw, 0);
        group.bench_function(id("f64 running sum and binary search"), |b| {
            b.iter(|| {
                let mut sum = 0.0;
                let ends: Vec<f64> = weights
                    .iter()
                    .map(|&w| {
                        sum += f64::from(w);
                        sum
                    })
                    .collect();
                let find = |k: u32| ends.partition_point(|&end| end <= f64::from(rng.uniform(k)) * sum) as u32;
                (0..num as u32).map(find).collect::<Vec<u32>>()
            });
        });
        group.bench_function(id("weighted_draw"), |b| {
            b.iter(|| weighted_draw(&weight_tensor, num, UNIFORM_FRACTION, 2, 0).unwrap());
        });
        group.bench_function(id("ErrorMap"), |b| b.iter(|| map.draw(num, UNIFORM_FRACTION, 2, 0).unwrap()));
    }
}

fn gather(c: &mut Criterion) {
    const WIDTH: usize = 9;
    let len = num_entries();
    let mut group = c.benchmark_group("gather");
    let table = tensor(&errors(len * WIDTH)).reshape((len, WIDTH)).unwrap();
    for num in BATCHES {
        let id = |name: &str| BenchmarkId::new(name, format!("{len}x{WIDTH}/{num}"));
        group.throughput(Throughput::Elements(num as u64));
        let (index, weights) = (tensor(&indices(len, num)), tensor(&errors(num)));
        let column = weights.unsqueeze(1).unwrap();
        group.bench_function(id("index_select and broadcast_mul"), |b| {
            b.iter(|| table.index_select(&index, 0).unwrap().broadcast_mul(&column).unwrap());
        });
        group.bench_function(id("weighted_gather"), |b| {
            b.iter(|| weighted_gather(&table, &index, Some(&weights)).unwrap());
        });
    }
}

/// A whole step of the sampler: draw and update.
fn sampler(c: &mut Criterion) {
    let side = (num_entries() as f64).sqrt() as u32;
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
    targets = update, draw, gather, sampler
}
criterion_main!(benches);
