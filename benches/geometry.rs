//! How long a triangulation, its neighbours and the lookups in it take, in points a second.

use candle_radfoam::geometry::{Adjacency, Delaunay, hilbert_order, nearest_cell, sentinels};
use candle_radfoam::rng::{Rng, Stream};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

/// `RADFOAM_BENCH_POINTS` chooses another number.
const NUM_POINTS: u32 = 100_000;

fn num_points() -> u32 {
    std::env::var("RADFOAM_BENCH_POINTS").ok().and_then(|n| n.parse().ok()).unwrap_or(NUM_POINTS)
}

fn sets(n: u32) -> Vec<(&'static str, Vec<[f32; 3]>)> {
    let rng = Rng::new(1, Stream::Synthetic, 0);
    let shell = |i: u32, noise: f32| rng.direction(i).map(|u| u * (1.0 + noise * rng.normal4(i + n)[0]));
    let blob = |i: u32, size: f32| {
        let (center, [x, y, z, _]) = (rng.direction(i % 50), rng.normal4(i));
        [center[0] + size * x, center[1] + size * y, center[2] + size * z]
    };
    let spread = |i: u32| (i % 50) as f32 / 50.0;
    let clustered = |i: u32| if i.is_multiple_of(2) { shell(i, 0.005) } else { blob(i, 0.01 * 30f32.powf(spread(i))) };
    let scene = |i: u32| {
        let [u, v, w, _] = rng.uniform4(i + 2 * n);
        match i % 10 {
            0..4 => shell(i, 0.002),
            4..6 => [4.0 * u - 2.0, 4.0 * v - 2.0, -0.7 + 0.002 * w],
            6..8 => blob(i, 0.003 * 100f32.powf(spread(i))),
            _ => rng.direction(i).map(|c| c * 3.0 * 333f32.powf(u)),
        }
    };
    let uniform = |i: u32| {
        let [x, y, z, _] = rng.uniform4(i);
        [x, y, z]
    };
    [
        ("uniform", (0..n).map(uniform).collect::<Vec<_>>()),
        ("clustered", (0..n).map(clustered).collect()),
        ("scene", (0..n).map(scene).collect()),
    ]
    .into_iter()
    .map(|(name, mut points)| {
        points.extend(sentinels([0.0; 3], if name == "scene" { 4000.0 } else { 8.0 }));
        (name, points)
    })
    .collect()
}

fn geometry(criterion: &mut Criterion) {
    let n = num_points();
    let mut group = criterion.benchmark_group("geometry");
    group.sample_size(10);
    for (name, points) in sets(n) {
        // As a foam keeps its cells.
        let points: Vec<[f32; 3]> = hilbert_order(&points).into_iter().map(|i| points[i as usize]).collect();
        let delaunay = Delaunay::new(&points).expect("the benchmark's points have a triangulation");
        let adjacency = Adjacency::from_delaunay(&delaunay).expect("so few points fit");
        group.throughput(Throughput::Elements(n.into()));
        group.bench_function(BenchmarkId::new("hilbert_order", name), |b| b.iter(|| hilbert_order(black_box(&points))));
        group.bench_function(BenchmarkId::new("delaunay", name), |b| b.iter(|| Delaunay::new(black_box(&points))));
        group.bench_function(BenchmarkId::new("adjacency", name), |b| {
            b.iter(|| Adjacency::from_delaunay(black_box(&delaunay)));
        });
        group.bench_function(BenchmarkId::new("certify", name), |b| b.iter(|| black_box(&delaunay).certify()));
        // Each from the other end of the curve: walks through the whole set.
        let walks: Vec<_> = (0..n).step_by(100).map(|i| (points[i as usize].map(|x| x * 1.001), n - 1 - i)).collect();
        group.throughput(Throughput::Elements(walks.len() as u64));
        group.bench_function(BenchmarkId::new("nearest_cell", name), |b| {
            let find = |&(query, hint)| u64::from(nearest_cell(&points, &adjacency, query, hint));
            b.iter(|| walks.iter().map(find).sum::<u64>());
        });
    }
    group.finish();
}

criterion_group!(benches, geometry);
criterion_main!(benches);
