//! How long a checkpoint takes to save and to load, and how long its bytes alone take.

use std::collections::BTreeMap;
use std::fs;
use std::hint::black_box;
use std::io::{Read, Write};

use candle_core::{DType, Device, Result, Tensor};
use candle_radfoam::checkpoint::Checkpoint;
use candle_radfoam::foam::Foam;
use candle_radfoam::geometry::{NUM_SENTINELS, sentinels};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use serde_json::json;

/// `RADFOAM_BENCH_CELLS` chooses another number.
const NUM_CELLS: usize = 1_000_000;
/// Half of the neighbours of a cell; Voronoi cells have 15.5 on average.
const REACH: usize = 8;
/// Entries of the error map: a hundred images of a megapixel in patches of 4 x 4.
const NUM_ENTRIES: usize = 6_250_000;

/// A checkpoint of as many bytes as that of a run, with cells in a ring.
fn checkpoint(num_cells: usize, num_coefficients: usize) -> Result<Checkpoint> {
    let device = &Device::Cpu;
    let num_sites = num_cells + NUM_SENTINELS;
    let mut points: Vec<[f32; 3]> = (0..num_cells)
        .map(|i| {
            let (sin, cos) = (i as f32 / num_cells as f32 * std::f32::consts::TAU).sin_cos();
            [sin, cos, 0.0]
        })
        .collect();
    let cells = Tensor::from_slice(points.as_flattened(), (num_cells, 3), device)?;
    points.extend(sentinels([0.0; 3], 300.0));
    let ring = |i: usize| (1..=REACH).flat_map(move |k| [(i + k) % num_sites, (i + num_sites - k) % num_sites]);
    let neighbors: Vec<u32> = (0..num_sites).flat_map(ring).map(|j| j as u32).collect();
    let offsets: Vec<u32> = (0..=num_sites).map(|i| (2 * REACH * i) as u32).collect();
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, device);
    let tensors = BTreeMap::from([
        ("foam.points".to_string(), cells),
        ("foam.raw_density".into(), zeros(&[num_cells])?),
        ("foam.sh".into(), zeros(&[num_cells, num_coefficients, 3])?),
        ("foam.built_at".into(), Tensor::from_slice(points.as_flattened(), (num_sites, 3), device)?),
        ("foam.neighbors".into(), Tensor::from_vec(neighbors, 2 * REACH * num_sites, device)?),
        ("foam.offsets".into(), Tensor::from_vec(offsets, num_sites + 1, device)?),
        ("optim.points".into(), zeros(&[2, num_cells, 3])?),
        ("optim.raw_density".into(), zeros(&[2, num_cells])?),
        ("optim.sh".into(), zeros(&[2, num_cells, num_coefficients, 3])?),
        ("refine.gradient".into(), zeros(&[num_cells])?),
        ("refine.max_weight".into(), zeros(&[num_cells])?),
        ("sampler.error_map".into(), zeros(&[NUM_ENTRIES])?),
    ]);
    Ok(Checkpoint { tensors, header: json!({ "density_scale": 1.0 }) })
}

fn files(criterion: &mut Criterion) {
    let num_cells = std::env::var("RADFOAM_BENCH_CELLS").ok().and_then(|n| n.parse().ok()).unwrap_or(NUM_CELLS);
    let folder = tempfile::tempdir().expect("a folder");
    let (path, other) = (folder.path().join("checkpoint.safetensors"), folder.path().join("bytes"));
    for degree in [1, 3] {
        let checkpoint = checkpoint(num_cells, (degree + 1) * (degree + 1)).expect("a checkpoint");
        checkpoint.save(&path).expect("saved");
        let bytes = fs::read(&path).expect("its bytes");
        let mut group = criterion.benchmark_group(format!("{num_cells} cells of degree {degree}"));
        group.sample_size(10).throughput(Throughput::Bytes(bytes.len() as u64));
        let id = |what: &str| BenchmarkId::from_parameter(what);
        // The floor: the same bytes from the page cache into fresh memory, and into memory that is there.
        group.bench_function(id("read"), |bencher| bencher.iter(|| black_box(fs::read(&path).expect("bytes").len())));
        let mut room = vec![1u8; bytes.len()];
        group.bench_function(id("read again"), |bencher| {
            bencher.iter(|| fs::File::open(&path).and_then(|mut file| file.read_exact(&mut room)).expect("bytes"));
        });
        group.bench_function(id("load"), |bencher| {
            bencher.iter(|| black_box(Checkpoint::load(&path, &Device::Cpu).expect("loaded").tensors.len()));
        });
        group.bench_function(id("load and foam"), |bencher| {
            bencher.iter(|| {
                let checkpoint = Checkpoint::load(&path, &Device::Cpu).expect("loaded");
                black_box(Foam::from_checkpoint(&checkpoint, &path).expect("a foam").num_cells())
            });
        });
        group.bench_function(id("write"), |bencher| {
            bencher.iter(|| {
                let mut file = fs::File::create(&other).expect("a file");
                file.write_all(&bytes).and_then(|()| file.sync_all()).expect("written");
            });
        });
        group.bench_function(id("save"), |bencher| bencher.iter(|| checkpoint.save(&path).expect("saved")));
        group.finish();
    }
}

criterion_group!(benches, files);
criterion_main!(benches);
