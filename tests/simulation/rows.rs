//! Indices, the scatter-EMA, gathers, Adam.

use candle_core::{Device, Tensor, Var};
use candle_radfoam::ops::{AdamSettings, Duplicates, ScatterSettings, adam_step, scatter_ema, weighted_gather};

use crate::kernels::{self, Launch, ORDERS, launches};
use crate::{Failures, SIZES, bits, rng, tensor};

pub const DUPLICATES: [Duplicates; 2] = [Duplicates::Sequential, Duplicates::Mean];
const NONE: u32 = u32::MAX;

/// Batches of `num` indices below `num_entries`, by name; ascending ones first.
pub fn batches(num: usize, num_entries: usize, case: usize) -> Vec<(&'static str, Vec<u32>)> {
    let rng = rng(case);
    let drawn: Vec<u32> = (0..num as u32).map(|k| rng.below(k, num_entries as u64) as u32).collect();
    let few: Vec<u32> = drawn.iter().map(|index| index % num_entries.min(3) as u32).collect();
    let sorted = |mut indices: Vec<u32>| {
        indices.sort_unstable();
        indices
    };
    vec![
        ("sorted", sorted(drawn.clone())),
        ("few entries", sorted(few)),
        ("one entry", vec![num_entries as u32 - 1; num]),
        ("shuffled", drawn),
    ]
}

/// Ordinary values with the worst in between.
pub fn nasty(num: usize, case: usize) -> Vec<f32> {
    let rng = rng(1000 + case);
    let special = [0.0, -0.0, -1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-40, f32::MAX, 3.0];
    (0..num as u32)
        .map(|k| if rng.below(k, 3) == 0 { special[rng.below(k + 7, 9) as usize] } else { rng.uniform(k) })
        .collect()
}

/// The stable sort of a batch, with the position of each.
pub fn arranged(indices: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let mut order: Vec<u32> = (0..indices.len() as u32).collect();
    order.sort_by_key(|&at| indices[at as usize]);
    (order.iter().map(|&at| indices[at as usize]).collect(), order)
}

#[test]
fn check_indices() {
    let mut failures = Failures::default();
    for num in SIZES {
        for (name, indices) in batches(num, 500, num) {
            for num_entries in [500, 400, 1] {
                let first = |found: Option<usize>| found.map_or(NONE, |at| at as u32);
                let expected = [
                    first(indices.iter().position(|&index| index >= num_entries)),
                    first((1..num).find(|&at| indices[at] < indices[at - 1])),
                ];
                for launch in launches(num) {
                    let mut found = [NONE; 2];
                    kernels::check_indices_u32(&launch, &indices, num as u64, u64::from(num_entries), &mut found);
                    failures.equal(format!("{num} {name} below {num_entries}, {launch:?}"), &found, &expected);
                }
            }
        }
    }
}

#[test]
fn scatter_ema_has_the_bits_of_the_cpu() {
    let mut failures = Failures::default();
    for (case, num) in SIZES.into_iter().enumerate() {
        for (name, indices) in batches(num, 300, case) {
            let values = nasty(num, case);
            let mut before: Vec<f32> = (0..300).map(|k| rng(case).uniform(k)).collect();
            before.iter_mut().step_by(3).for_each(|entry| *entry = -0.0);
            before[299] = -2.5;
            // Decays in turn, each at three of the sizes.
            let decay = [0.8f32, 0.0, 1.0][case % 3];
            for duplicates in DUPLICATES {
                let map = tensor(&before);
                let settings = ScatterSettings { decay: f64::from(decay), duplicates };
                let stats = scatter_ema(&map, &tensor(&indices), &tensor(&values), settings).unwrap();
                let expected = map.to_vec1::<f32>().unwrap();
                let counts = [stats.updated, stats.first_visits, stats.skipped_non_finite, stats.negative, 0];
                let (sorted, order) = arranged(&indices);
                let orders = if indices.is_sorted() { vec![None, Some(&order[..])] } else { vec![Some(&order[..])] };
                for launch in launches(num) {
                    for order in &orders {
                        let (mut map, mut found) = (before.clone(), [0; 5]);
                        let (num, gain, mean) = (num as u64, 1.0 - decay, u32::from(duplicates == Duplicates::Mean));
                        kernels::scatter_ema_f32(
                            &launch, &sorted, *order, &values, num, decay, gain, mean, &mut map, &mut found,
                        );
                        let what = format!("{num} {name}, decay {decay}, {duplicates:?}, {launch:?}");
                        failures.equal(&what, &bits(&map), &bits(&expected));
                        failures.equal(format!("{what}: counts"), &found.map(|count| count as usize), &counts);
                    }
                }
            }
        }
    }
}

#[test]
fn weighted_gather_and_its_gradients_have_the_bits_of_the_cpu() {
    let mut failures = Failures::default();
    const NUM_ENTRIES: usize = 40;
    for (case, (num, width)) in [(1, 1), (33, 3), (257, 4), (100, 33), (1000, 5), (64, 70)].into_iter().enumerate() {
        let table = nasty(NUM_ENTRIES * width, case);
        let grad = nasty(num * width, case + 50);
        let weights = nasty(num, case + 90);
        for (name, indices) in batches(num, NUM_ENTRIES, case) {
            for weights in [None, Some(&weights)] {
                let shape = (NUM_ENTRIES, width);
                let table_var = Var::from_slice(&table, shape, &Device::Cpu).unwrap();
                let weights_var = weights.map(|weights| Var::from_tensor(&tensor(weights)).unwrap());
                let out =
                    weighted_gather(&table_var, &tensor(&indices), weights_var.as_ref().map(Var::as_tensor)).unwrap();
                // The gradient of this sum with respect to `out` is `grad`, but for zeros times infinities.
                let finite: Vec<f32> = grad.iter().map(|&g| if g.is_finite() { g } else { 0.5 }).collect();
                let grad_tensor = Tensor::from_slice(&finite, (num, width), &Device::Cpu).unwrap();
                let grads = (&out * &grad_tensor).unwrap().sum_all().unwrap().backward().unwrap();
                let flat = |t: &Tensor| bits(&t.flatten_all().unwrap().to_vec1().unwrap());
                let expected_table = flat(grads.get(&table_var).unwrap());
                let expected_weights = weights_var.as_ref().map(|weights| flat(grads.get(weights).unwrap()));
                let (sorted, order) = arranged(&indices);
                let pointer = weights.map(Vec::as_slice);
                let columns = width.next_power_of_two().min(32) as u32;
                for threads in [64, 256] {
                    for thread_order in ORDERS {
                        let rows = (threads / columns).max(1);
                        let grid = [(num as u32).div_ceil(rows), 1, 1];
                        let launch = Launch { grid, block: [columns, rows, 1], order: thread_order };
                        let what = format!("{num} x {width} {name}, weights {}, {launch:?}", weights.is_some());
                        let (rows, columns) = (num as u64, width as u32);

                        let mut found = vec![f32::NAN; num * width];
                        kernels::weighted_gather_f32(&launch, &table, &indices, pointer, rows, columns, &mut found);
                        failures.equal(format!("{what}: rows"), &bits(&found), &flat(&out));

                        let mut found = vec![0.0; NUM_ENTRIES * width];
                        kernels::weighted_gather_grad_table_f32(
                            &launch,
                            &sorted,
                            Some(&order[..]),
                            pointer,
                            rows,
                            columns,
                            &finite,
                            &mut found,
                        );
                        failures.equal(format!("{what}: gradient of the table"), &bits(&found), &expected_table);
                    }
                }
                let Some(expected) = expected_weights else { continue };
                for launch in launches(num) {
                    let mut found = vec![f32::NAN; num];
                    let (rows, columns) = (num as u64, width as u32);
                    kernels::weighted_gather_grad_weights_f32(
                        &launch, &table, &indices, rows, columns, &finite, &mut found,
                    );
                    let what = format!("{num} x {width} {name}, {launch:?}: gradient of the weights");
                    failures.equal(what, &bits(&found), &expected);
                }
            }
        }
    }
}

#[test]
fn adam_has_the_bits_of_the_cpu() {
    let mut failures = Failures::default();
    let settings = AdamSettings::default();
    for (case, num) in SIZES.into_iter().enumerate() {
        for num_rates in [1, num] {
            let mut param = nasty(num, case);
            param.iter_mut().filter(|p| !p.is_finite()).for_each(|p| *p = 1.0);
            let rates: Vec<f64> = (0..num_rates).map(|k| 1e-3 * (k + 1) as f64).collect();
            let start = tensor(&param);
            let moments_tensor = Tensor::zeros((2, num), candle_core::DType::F32, &Device::Cpu).unwrap();
            let mut moments = vec![0.0; 2 * num];
            for step in 1..4u64 {
                let grad = nasty(num, case + 17 * step as usize);
                adam_step(&start, &tensor(&grad), &moments_tensor, &rates, step, &settings).unwrap();
                let (beta1, beta2) = (settings.beta1, settings.beta2);
                let corrected: Vec<f32> =
                    rates.iter().map(|rate| (rate / (1.0 - beta1.powi(step as i32))) as f32).collect();
                let second_scale = (1.0 / (1.0 - beta2.powi(step as i32)).sqrt()) as f32;
                let (betas, gains) = ([beta1 as f32, beta2 as f32], [(1.0 - beta1) as f32, (1.0 - beta2) as f32]);
                for (k, launch) in launches(num).enumerate() {
                    let (mut moved, mut next) = (param.clone(), moments.clone());
                    kernels::adam_step_f32(
                        &launch,
                        &grad,
                        &corrected,
                        num as u64,
                        num_rates as u32,
                        betas[0],
                        betas[1],
                        gains[0],
                        gains[1],
                        second_scale,
                        1e-15,
                        &mut next,
                        &mut moved,
                    );
                    let what = format!("{num} elements, {num_rates} rates, step {step}, {launch:?}");
                    let expected = start.to_vec1::<f32>().unwrap();
                    failures.equal(&what, &bits(&moved), &bits(&expected));
                    let expected = moments_tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                    failures.equal(format!("{what}: moments"), &bits(&next), &bits(&expected));
                    if k == 5 {
                        (param, moments) = (moved, next);
                    }
                }
            }
        }
    }
}
