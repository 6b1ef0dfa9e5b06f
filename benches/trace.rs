//! How fast are rays? Forward, and forward with backward, through a foam of 50,000 cells, in rays and cells a second.
//!
//! The floor: a cell's faces are two to three blocks of 128 bytes with 32 bytes of neighbours, about 400 bytes a cell.
//! Were they read from memory at 18 GB/s a core, that would allow 45 million cells a second; a bandwidth assumed from
//! a similar machine, not measured by this bench, and caches may exceed it.

use candle_core::{Device, Tensor};
use candle_radfoam::foam::{Foam, InitConfig, initial_cells};
use candle_radfoam::ops::TraceSettings;
use candle_radfoam::rng::{Rng, Stream};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const NUM_RAYS: usize = 16_384;

fn rays() -> candle_core::Result<(Tensor, Tensor)> {
    let rng = Rng::new(1, Stream::Synthetic, 0);
    let (mut origins, mut directions) = (Vec::new(), Vec::new());
    for ray in 0..NUM_RAYS as u32 {
        let from = rng.direction(2 * ray);
        let to = rng.uniform4(2 * ray + 1).map(|u| 0.6 * (u - 0.5));
        let d = [0, 1, 2].map(|axis| to[axis] - from[axis]);
        let length = d.iter().map(|x| x * x).sum::<f32>().sqrt();
        origins.extend(from);
        directions.extend(d.map(|x| x / length));
    }
    let shape = (NUM_RAYS, 3);
    Ok((Tensor::from_vec(origins, shape, &Device::Cpu)?, Tensor::from_vec(directions, shape, &Device::Cpu)?))
}

fn trace(criterion: &mut Criterion) {
    let config = InitConfig { num_cells: 50_000, ..InitConfig::default() };
    let foam = initial_cells(&config, 0.4, None, &[], 0)
        .and_then(|cells| Foam::new(cells, 1, 2.0, &Device::Cpu))
        .expect("a foam of random cells");
    let (origins, directions) = rays().expect("rays");
    let settings = TraceSettings::default();
    let run = || foam.trace(&origins, &directions, None, &settings).expect("traced");
    let cells: u32 = run().cells_entered.to_vec1::<u32>().expect("counts").iter().sum();
    let mut group = criterion.benchmark_group("trace/cpu");
    group.sample_size(20);
    for (unit, count) in [("rays", NUM_RAYS as u64), ("cells", u64::from(cells))] {
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("forward, {unit}"), |b| b.iter(run));
        group.bench_function(format!("forward and backward, {unit}"), |b| {
            b.iter(|| run().rgb.sum_all().and_then(|loss| loss.backward()).expect("gradients"));
        });
    }
    group.finish();
}

criterion_group!(benches, trace);
criterion_main!(benches);
