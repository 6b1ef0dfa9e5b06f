//! The error map: its sums, its updates, draws from it.

use candle_radfoam::ops::{DrawSettings, ErrorMap, ErrorMapSettings, Jitter, weighted_draw};
use candle_radfoam::rng::{Rng, Stream};

use crate::kernels::{self, Launch, ORDERS, launches};
use crate::rows::{DUPLICATES, arranged, batches, nasty};
use crate::{Failures, bits, rng, tensor};

const BLOCK: usize = 256;
const SCAN_THREADS: usize = 1024;

/// An error map as it lies on a device.
#[derive(Clone)]
pub struct Device {
    len: usize,
    pub values: Vec<f32>,
    groups: Vec<u32>,
    blocks: Vec<u64>,
    pub scale: f32,
}

impl Device {
    pub fn new(values: &[f32], cap: f32, launch: impl Fn(usize) -> Launch) -> Self {
        let len = values.len();
        let mut values = values.to_vec();
        values.resize(len.next_multiple_of(BLOCK), 0.0);
        let (mut groups, mut blocks) = (vec![7; values.len() / 16], vec![7; values.len() / BLOCK]);
        let scale = (1 << 22) as f32 / cap;
        let num = groups.len();
        kernels::error_map_sums_f32(&launch(num), &values, num as u64, scale, &mut groups, &mut blocks);
        Self { len, values, groups, blocks, scale }
    }

    /// What the map sums to, and the rule of a draw without a uniform share.
    pub fn rule(&self, order: u32) -> [u64; 5] {
        let num_tiles = self.blocks.len().div_ceil(SCAN_THREADS);
        let scan = |blocks: usize| Launch { grid: [blocks as u32, 1, 1], block: [SCAN_THREADS as u32, 1, 1], order };
        let (mut tiles, mut rule) = (vec![7; 2 * num_tiles], [7; 5]);
        kernels::error_map_tiles(&scan(num_tiles), &self.blocks, self.blocks.len() as u64, &mut tiles);
        kernels::error_map_rule(&scan(1), num_tiles as u64, self.len as u64, 0.0, &mut tiles, &mut rule);
        rule
    }

    pub fn draw(&self, num: usize, settings: DrawSettings, seed: u64, step: u64, order: u32) -> (Vec<u32>, Vec<f32>) {
        let (num_blocks, num_entries) = (self.blocks.len(), self.len as u64);
        let num_tiles = num_blocks.div_ceil(SCAN_THREADS);
        let scan = |blocks: usize| Launch { grid: [blocks as u32, 1, 1], block: [SCAN_THREADS as u32, 1, 1], order };
        let (mut tiles, mut rule, mut ends) = (vec![7; 2 * num_tiles], [7; 5], vec![7; num_blocks]);
        kernels::error_map_tiles(&scan(num_tiles), &self.blocks, num_blocks as u64, &mut tiles);
        let fraction = settings.uniform_fraction;
        kernels::error_map_rule(
            &scan(1),
            num_tiles as u64,
            num_entries,
            fraction / (1.0 - fraction),
            &mut tiles,
            &mut rule,
        );
        kernels::error_map_ends(
            &scan(num_tiles),
            &self.blocks,
            &tiles,
            &rule,
            num_blocks as u64,
            num_entries,
            &mut ends,
        );
        let systematic = settings.jitter == Jitter::Systematic;
        let start = Rng::new(seed, Stream::Draw, 0).bits64(0);
        let place = start.wrapping_add(step.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let (mut indices, mut probability) = (vec![u32::MAX; num], vec![f32::NAN; num]);
        let launch = Launch { grid: [num.div_ceil(BLOCK) as u32, 1, 1], block: [BLOCK as u32, 1, 1], order };
        kernels::error_map_draw_f32(
            &launch,
            &self.values,
            &self.groups,
            &ends,
            &rule,
            num_blocks as u64,
            self.scale,
            num as u64,
            u64::MAX / num as u64,
            u32::from(systematic),
            place,
            seed,
            step,
            &mut indices,
            &mut probability,
        );
        (indices, probability)
    }
}

/// Maps of `len` entries, by name.
fn maps(len: usize) -> Vec<(&'static str, Vec<f32>)> {
    let rng = rng(len);
    let uniform: Vec<f32> = (0..len as u32).map(|k| rng.uniform(k)).collect();
    let mixed = uniform
        .iter()
        .map(|&u| {
            if u < 0.3 {
                -0.0
            } else if u < 0.4 {
                0.0
            } else {
                2.0 * (u - 0.4)
            }
        })
        .collect();
    let mut one = vec![0.0; len];
    one[len / 2] = 1.0;
    vec![("mixed", mixed), ("unvisited", vec![-0.0; len]), ("zeros", vec![0.0; len]), ("one", one), ("even", uniform)]
}

#[test]
fn draws_have_the_bits_of_the_cpu() {
    let mut failures = Failures::default();
    // The last has more than one tile of blocks.
    for len in [1, 15, 16, 17, 255, 256, 257, 5000, BLOCK * SCAN_THREADS + 300] {
        for (name, values) in maps(len) {
            let large = len > 5000;
            let settings = ErrorMapSettings { cap: 0.9, ..Default::default() };
            let map = ErrorMap::from_tensor(&tensor(&values), settings).unwrap();
            for (case, fraction) in [0.0, 0.3, 0.99].into_iter().enumerate() {
                for jitter in [Jitter::Stratified, Jitter::Systematic] {
                    let draw_settings = DrawSettings { uniform_fraction: fraction, jitter };
                    let num = [1000, 33, 1][case];
                    let (seed, step) = (0x0123_4567_89ab_cdef, 3 + (u64::from(u32::MAX) << 3));
                    let expected = map.draw(num, draw_settings, seed, step).unwrap();
                    let indices = expected.indices.to_vec1::<u32>().unwrap();
                    let probability = expected.probability.to_vec1::<f32>().unwrap();
                    for order in if large || case > 0 { &ORDERS[2..3] } else { &ORDERS[..] } {
                        let launch = |num: usize| launches(num).nth(2 + (*order as usize).min(2)).unwrap();
                        let device = Device::new(&values, settings.cap, launch);
                        let found = device.draw(num, draw_settings, seed, step, *order);
                        let what = format!("{len} {name}, {draw_settings:?}, order {order}");
                        failures.equal(format!("{what}: indices"), &found.0, &indices);
                        failures.equal(format!("{what}: probability"), &bits(&found.1), &bits(&probability));
                    }
                }
            }
        }
    }
}

/// On a plain vector of weights.
#[test]
fn weighted_draws_have_the_bits_of_the_cpu() {
    let mut failures = Failures::default();
    for len in [1, 15, 16, 17, 255, 257, 5000, BLOCK * SCAN_THREADS + 300] {
        let rng = rng(len);
        let uniform: Vec<f32> = (0..len as u32).map(|k| rng.uniform(k)).collect();
        let sparse: Vec<f32> = uniform.iter().map(|&u| if u < 0.9 { 0.0 } else { 1e-3 * u }).collect();
        let wide: Vec<f32> = uniform.iter().map(|&u| (60.0 * u - 50.0).exp()).collect();
        for (name, weights) in [("even", uniform), ("sparse", sparse), ("wide", wide), ("zeros", vec![-0.0; len])] {
            for (case, fraction) in [0.0, 0.3, 0.99].into_iter().enumerate() {
                let jitter = [Jitter::Stratified, Jitter::Systematic][(len + case) % 2];
                let (num, seed, step) = ([1000, 33, 700][case], 0x0123_4567_89ab_cdef, 3);
                let settings = DrawSettings { uniform_fraction: fraction, jitter };
                // Nothing to be in proportion to is refused before anything is drawn.
                let Ok(expected) = weighted_draw(&tensor(&weights), num, settings, seed, step) else {
                    assert!(weights.iter().all(|&w| w == 0.0) && fraction == 0.0);
                    continue;
                };
                for order in if len > 5000 { &ORDERS[2..3] } else { &ORDERS[..] } {
                    let launch = |num: usize| launches(num).nth(2 + (*order as usize).min(2)).unwrap();
                    let order = *order;
                    let scan = |blocks: usize| Launch {
                        grid: [blocks as u32, 1, 1],
                        block: [SCAN_THREADS as u32, 1, 1],
                        order,
                    };
                    let entries = len as u64;
                    let mut found = [u32::MAX, 0];
                    kernels::weighted_draw_check_f32(&launch(len), &weights, entries, &mut found);
                    let max = weights.iter().fold(0.0f32, |max, &w| max.max(w));
                    let what = format!("{len} {name}, {settings:?}, order {order}");
                    failures.equal(format!("{what}: check"), &found, &[u32::MAX, max.to_bits()]);
                    let bits_of_max = (56 - len.next_power_of_two().ilog2()).min(40);
                    let scale = if max > 0.0 { 2f64.powi(bits_of_max as i32) / f64::from(max) } else { 0.0 };
                    let num_blocks = len.div_ceil(BLOCK);
                    let (num_groups, num_tiles) = (16 * num_blocks, num_blocks.div_ceil(SCAN_THREADS));
                    let (mut groups, mut blocks) = (vec![7; num_groups], vec![7; num_blocks]);
                    let (mut tiles, mut rule, mut ends) = (vec![7; num_tiles], [7; 2], vec![7; num_blocks]);
                    kernels::weighted_draw_sums_f32(
                        &launch(num_groups),
                        &weights,
                        entries,
                        num_groups as u64,
                        scale,
                        &mut groups,
                        &mut blocks,
                    );
                    kernels::weighted_draw_tiles(&scan(num_tiles), &blocks, num_blocks as u64, &mut tiles);
                    let ratio = fraction / (1.0 - fraction);
                    kernels::weighted_draw_rule(&scan(1), num_tiles as u64, entries, ratio, &mut tiles, &mut rule);
                    kernels::weighted_draw_ends(
                        &scan(num_tiles),
                        &blocks,
                        &tiles,
                        &rule,
                        num_blocks as u64,
                        entries,
                        &mut ends,
                    );
                    let start = Rng::new(seed, Stream::Draw, 0).bits64(0);
                    let place = start.wrapping_add(step.wrapping_mul(0x9E37_79B9_7F4A_7C15));
                    let (mut indices, mut probability) = (vec![u32::MAX; num], vec![f32::NAN; num]);
                    kernels::weighted_draw_f32(
                        &launch(num),
                        &weights,
                        &groups,
                        &ends,
                        &rule,
                        entries,
                        num_blocks as u64,
                        scale,
                        num as u64,
                        u64::MAX / num as u64,
                        u32::from(jitter == Jitter::Systematic),
                        place,
                        seed,
                        step,
                        &mut indices,
                        &mut probability,
                    );
                    failures.equal(format!("{what}: indices"), &indices, &expected.indices.to_vec1::<u32>().unwrap());
                    let expected = expected.probability.to_vec1::<f32>().unwrap();
                    failures.equal(format!("{what}: probability"), &bits(&probability), &bits(&expected));
                }
            }
        }
        let mut bad = vec![0.5; len];
        for (at, value) in [(len - 1, -1.0), (len / 2, f32::NAN)] {
            bad[at] = value;
            let mut found = [u32::MAX, 0];
            kernels::weighted_draw_check_f32(&launches(len).nth(4).unwrap(), &bad, len as u64, &mut found);
            failures.equal(format!("{len}: the first that is none"), &found[..1], &[at as u32]);
        }
    }
}

/// The rule over more tiles than one block scans at a time, as a map of more than 2^28 entries has.
#[test]
fn rule_of_many_tiles() {
    let mut failures = Failures::default();
    for num_tiles in [1usize, 1023, 1024, 1025, 2500] {
        let rng = rng(num_tiles);
        let sums: Vec<[u64; 2]> =
            (0..num_tiles as u32).map(|k| [rng.below(k, 1 << 40), rng.below(k + 9, 1 << 18)]).collect();
        let num_entries = (num_tiles as u64) << 18;
        let before: Vec<u64> = sums
            .iter()
            .scan([0, 0], |total, [mass, unvisited]| {
                let before = *total;
                *total = [before[0] + mass, before[1] + unvisited];
                Some(before)
            })
            .flatten()
            .collect();
        let mass: u64 = sums.iter().map(|sum| sum[0]).sum();
        let unvisited: u64 = sums.iter().map(|sum| sum[1]).sum();
        let prior = mass / (num_entries - unvisited);
        let sum = mass + unvisited * prior;
        let uniform = (0.25 * sum as f64 / num_entries as f64).ceil() as u64;
        for order in ORDERS {
            let launch = Launch { grid: [1; 3], block: [SCAN_THREADS as u32, 1, 1], order };
            let (mut tiles, mut rule) = (sums.as_flattened().to_vec(), [0; 5]);
            kernels::error_map_rule(&launch, num_tiles as u64, num_entries, 0.25, &mut tiles, &mut rule);
            let what = format!("{num_tiles} tiles, order {order}");
            failures.equal(&what, &tiles, &before);
            failures.equal(&what, &rule, &[prior, uniform, sum + num_entries * uniform, mass, unvisited]);
        }
    }
}

#[test]
fn updates_have_the_bits_of_the_cpu_and_keep_the_sums() {
    let mut failures = Failures::default();
    for (case, len) in [1, 17, 300, 2000].into_iter().enumerate() {
        for duplicates in DUPLICATES {
            for order in 0..6 {
                let settings = ErrorMapSettings { decay: 0.7, cap: 2.5, duplicates };
                let values = &maps(len)[0].1;
                let mut map = ErrorMap::from_tensor(&tensor(values), settings).unwrap();
                let of_order = |num: usize| launches(num).nth(order).unwrap();
                let mut device = Device::new(values, settings.cap, |num| launches(num).nth(2).unwrap());
                for (step, num) in [1, 40, 257, 1000].into_iter().enumerate() {
                    for (name, indices) in batches(num, len, 10 * case + step) {
                        let errors = nasty(num, 10 * case + step);
                        let stats = map.update(&tensor(&indices), &tensor(&errors)).unwrap();
                        let (sorted, positions) = arranged(&indices);
                        let positions = (!indices.is_sorted()).then_some(&positions[..]);
                        let mut counts = [0; 5];
                        let mean = u32::from(duplicates == DUPLICATES[1]);
                        let Device { values, groups, blocks, scale, .. } = &mut device;
                        kernels::error_map_update_f32(
                            &of_order(num),
                            &sorted,
                            positions,
                            &errors,
                            num as u64,
                            settings.decay,
                            1.0 - settings.decay,
                            settings.cap,
                            mean,
                            *scale,
                            values,
                            groups,
                            blocks,
                            &mut counts,
                        );
                        let what = format!("{len} entries, {num} {name}, {duplicates:?}, {:?}", of_order(num));
                        failures.equal(&what, &bits(&device.values[..len]), &bits(map.values()));
                        let expected =
                            [stats.updated, stats.first_visits, stats.skipped_non_finite, stats.negative, stats.capped];
                        failures.equal(format!("{what}: counts"), &counts.map(|count| count as usize), &expected);
                        let anew = Device::new(map.values(), settings.cap, |num| launches(num).nth(2).unwrap());
                        failures.equal(format!("{what}: groups"), &device.groups, &anew.groups);
                        failures.equal(format!("{what}: blocks"), &device.blocks, &anew.blocks);
                    }
                }
            }
        }
    }
}
