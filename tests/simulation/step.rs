//! What a training step does with cells: where rays start, densities, statistics, values that are not finite.

use candle_core::{Device, Tensor};
use candle_radfoam::foam::{Foam, Topology};
use candle_radfoam::geometry::{Adjacency, Delaunay, nearest_cell};

use crate::kernels::{self, launches};
use crate::rows::nasty;
use crate::{Failures, SIZES, bits, rng, tensor};

/// Points with their exact adjacency: anywhere, on a lattice (where queries are as near to many), with copies.
fn point_sets() -> Vec<(&'static str, Vec<[f32; 3]>, Adjacency)> {
    let random: Vec<[f32; 3]> = (0..400).map(|i| rng(1).uniform4(i)[..3].try_into().unwrap()).collect();
    let lattice: Vec<[f32; 3]> = (0..6 * 6 * 6).map(|i| [i % 6, i / 6 % 6, i / 36].map(|x| x as f32 / 5.0)).collect();
    let mut copies = random[..200].to_vec();
    copies.extend_from_slice(&random[50..80]);
    [("random", random), ("lattice", lattice), ("copies", copies)]
        .into_iter()
        .map(|(name, mut points)| {
            points.extend(candle_radfoam::geometry::sentinels([0.5; 3], 20.0));
            let adjacency = Adjacency::from_delaunay(&Delaunay::new(&points).unwrap()).unwrap();
            (name, points, adjacency)
        })
        .collect()
}

#[test]
fn start_cells_are_those_of_the_cpu() {
    let mut failures = Failures::default();
    for (name, points, Adjacency { offsets, neighbors }) in point_sets() {
        let adjacency = Adjacency { offsets: offsets.clone(), neighbors: neighbors.clone() };
        let mut queries: Vec<[f32; 3]> = (0..200).map(|i| rng(2).uniform4(i)[..3].try_into().unwrap()).collect();
        // Middles of cubes, squares and edges of the lattice, and places of points.
        queries.extend((0..125).map(|i| [i % 5, i / 5 % 5, i / 25].map(|x| (x as f32 + 0.5) / 5.0)));
        queries.extend((0..50).map(|i| [i % 5, i / 5 % 5, i / 25].map(|x| x as f32 / 5.0 + 0.1)));
        queries.extend_from_slice(&points[..60]);
        queries.extend([[f32::NAN; 3], [9.0, -9.0, 3.0]]);
        let num = queries.len();
        let hints: Vec<u32> = (0..num as u32).map(|i| rng(3).below(i, points.len() as u64 + 5) as u32).collect();
        let expected: Vec<u32> = queries
            .iter()
            .zip(&hints)
            .map(|(&query, &hint)| {
                let hint = if (hint as usize) < points.len() { hint } else { 0 };
                nearest_cell(&points, &adjacency, query, hint)
            })
            .collect();
        for launch in launches(num) {
            let mut cells = vec![u32::MAX; num];
            kernels::start_cells_f32(
                &launch,
                points.as_flattened(),
                &offsets,
                &neighbors,
                queries.as_flattened(),
                &hints,
                points.len() as u64,
                num as u64,
                &mut cells,
            );
            failures.equal(format!("{name}, {launch:?}"), &cells, &expected);
            let views: Vec<u32> = (0..1000).map(|i| rng(4).below(i, num as u64) as u32).collect();
            let of_rays: Vec<u32> = views.iter().map(|&view| expected[view as usize]).collect();
            let launch = launches(1000).nth(2).unwrap();
            let mut found = vec![u32::MAX; 1000];
            kernels::start_cells_of_rays(&launch, &views, &cells, 1000, &mut found);
            failures.equal(format!("{name}: of rays"), &found, &of_rays);
        }
    }
}

#[test]
fn densities_and_what_goes_back_through_them() {
    let mut failures = Failures::default();
    const NUM: usize = 300;
    const SENTINELS: usize = 8;
    let points: Vec<[f32; 3]> = (0..NUM as u32).map(|i| rng(1).uniform4(i)[..3].try_into().unwrap()).collect();
    let raw: Vec<f32> = (0..NUM as u32).map(|k| 8.0 * rng(2).uniform(k) - 5.0).collect();
    let sh: Vec<f32> = (0..12 * NUM as u32).map(|k| rng(3).uniform(k) - 0.5).collect();
    let topology = Topology::build(&points, 300.0).unwrap();
    let Adjacency { offsets, neighbors } = topology.adjacency().clone();
    let scale = 30.0;
    let d = &Device::Cpu;
    let foam = Foam::from_parts(
        Tensor::from_slice(points.as_flattened(), (NUM, 3), d).unwrap(),
        tensor(&raw),
        Tensor::from_slice(&sh, (NUM, 4, 3), d).unwrap(),
        f64::from(scale),
        topology.clone(),
    )
    .unwrap();
    let (expected, slope) = foam.density_host().unwrap();
    for launch in launches(NUM + SENTINELS) {
        let (mut found, mut derivative) = (vec![f32::NAN; NUM + SENTINELS], vec![f32::NAN; NUM]);
        let num_cells = (NUM + SENTINELS) as u64;
        kernels::density_f32(&launch, &raw, NUM as u64, num_cells, scale, 10.0, &mut found, &mut derivative);
        failures.equal(format!("{launch:?}: densities"), &bits(&found[..NUM]), &bits(&expected));
        failures.equal(format!("{launch:?}: derivatives"), &bits(&derivative), &bits(&slope));
        failures.equal(format!("{launch:?}: sentinels"), &found[NUM..], &[0.0; SENTINELS]);

        let cells: Vec<u32> = (0..200).map(|i| rng(5).below(i, 40) as u32).collect();
        let mut counts = vec![0u32; NUM];
        kernels::count_cells_u32(&launch, &cells, cells.len() as u64, &mut counts);
        let expected: Vec<u32> =
            (0..NUM as u32).map(|cell| cells.iter().filter(|&&other| other == cell).count() as u32).collect();
        failures.equal(format!("{launch:?}: counts"), &counts, &expected);

        for (prior, of_place) in [(0.0, 0.0), (0.3, 0.0), (0.0, 0.1), (0.3, 0.1)] {
            let grad = nasty(NUM, 9);
            let expected: Vec<f32> = grad
                .iter()
                .zip(&derivative)
                .zip(&counts)
                .map(|((g, d), &count)| {
                    let prior = prior + of_place * count as f32;
                    if prior > 0.0 { g * d + prior * d } else { g * d }
                })
                .collect();
            let mut found = grad.clone();
            kernels::density_grad_f32(
                &launch,
                &derivative,
                NUM as u64,
                prior,
                (of_place > 0.0).then_some(&counts[..]),
                of_place,
                &mut found,
            );
            failures.equal(format!("{launch:?}: gradient"), &bits(&found), &bits(&expected));
        }
    }
    let grad: Vec<f32> = (0..12 * NUM as u32).map(|k| rng(4).uniform(k)).collect();
    let mut expected = grad.clone();
    for cell in 0..NUM {
        let around: Vec<usize> = topology.neighbors(cell).collect();
        for column in 0..12 {
            let sum = around.iter().fold(0.0, |sum, j| sum + sh[12 * j + column]);
            expected[12 * cell + column] += 0.7 * (sh[12 * cell + column] - sum / around.len() as f32);
        }
    }
    for launch in launches(12 * NUM) {
        let mut found = grad.clone();
        kernels::smooth_color_f32(&launch, &sh, &offsets, &neighbors, NUM as u64, 12, 0.7, &mut found);
        failures.equal(format!("{launch:?}: smoothed"), &bits(&found), &bits(&expected));
    }
}

#[test]
fn statistics_and_values_that_are_not_finite() {
    let mut failures = Failures::default();
    for (case, num) in SIZES.into_iter().enumerate() {
        let positive = |case: usize| -> Vec<f32> { (0..num as u32).map(|k| rng(case).uniform(k)).collect() };
        let (grad, weights, before) = (nasty(3 * num, case), positive(case), positive(case + 30));
        let gradient: Vec<f32> = grad
            .as_chunks::<3>()
            .0
            .iter()
            .zip(&before)
            .map(|(g, before)| before + (g[0] * g[0] + g[1] * g[1] + g[2] * g[2]).sqrt())
            .collect();
        let most: Vec<f32> = weights.iter().zip(before.iter().rev()).map(|(a, b)| a.max(*b)).collect();
        let not_finite: Vec<usize> = (0..3 * num).filter(|&i| !grad[i].is_finite()).collect();
        let found_here = [not_finite.len() as u64, not_finite.first().map_or(u64::MAX, |&first| first as u64)];
        for launch in launches(num) {
            let (mut found, mut max_weight) = (before.clone(), before.iter().rev().copied().collect::<Vec<_>>());
            let weight_bits: Vec<u32> = weights.iter().map(|w| w.to_bits()).collect();
            kernels::refine_statistics_f32(&launch, &grad, &weight_bits, num as u64, &mut found, &mut max_weight);
            failures.equal(format!("{num} cells, {launch:?}: gradient"), &bits(&found), &bits(&gradient));
            failures.equal(format!("{num} cells, {launch:?}: weight"), &bits(&max_weight), &bits(&most));
            let mut words = [0, u64::MAX];
            kernels::non_finite_f32(&launch, &grad, 3 * num as u64, &mut words);
            failures.equal(format!("{num} cells, {launch:?}: not finite"), &words, &found_here);
        }
    }
}
