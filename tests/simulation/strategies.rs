//! Draws by the strategies that take several kernels, one after the other as they are launched, against the sampler.

use candle_core::{Device, Tensor};
use candle_radfoam::data::{Bitmap, Sampler, SamplerConfig, Strategy};
use candle_radfoam::ops::{DrawSettings, Jitter};
use candle_radfoam::rng::{Rng, Stream};
use serde_json::Value;

use crate::kernels::{self, Launch, ORDERS};
use crate::patches::{BATCH, SHAPES, Tables, bitmaps, vector};
use crate::sampler::Device as MapOnDevice;
use crate::{Failures, bits, rng};

const BLOCK: usize = 256;
const SCAN_THREADS: usize = 1024;
const SEED: u64 = 0x0123_4567_89ab_cdef;

fn threads(num: usize, order: u32) -> Launch {
    Launch { grid: [num.div_ceil(BLOCK).max(1) as u32, 1, 1], block: [BLOCK as u32, 1, 1], order }
}

fn scan(num: usize, order: u32) -> Launch {
    Launch { grid: [num as u32, 1, 1], block: [SCAN_THREADS as u32, 1, 1], order }
}

/// Rays, their entries and probabilities.
#[derive(Debug, Clone)]
struct Rays(Vec<u32>, Vec<u32>, Vec<f32>);

fn sorted(mut keys: Vec<u32>, order: u32) -> Vec<u32> {
    let num = keys.len();
    kernels::sort_blocks_u32(&scan(num.div_ceil(SCAN_THREADS), order), num as u64, &mut keys);
    let mut run = SCAN_THREADS;
    while run < num {
        let mut merged = vec![u32::MAX; num];
        kernels::merge_runs_u32(&threads(num, order), &keys, num as u64, run as u64, &mut merged);
        keys = merged;
        run *= 2;
    }
    keys
}

fn at_places(tables: &Tables, places: &[u32], order: u32) -> Rays {
    let num = places.len();
    let (mut rays, mut entries, mut probability) = (vec![u32::MAX; num], vec![u32::MAX; num], vec![f32::NAN; num]);
    kernels::place_rays_f32(
        &threads(num, order),
        places,
        &tables.views,
        tables.ray_order.as_deref(),
        tables.first_rays.as_deref(),
        num as u64,
        SHAPES.len() as u32,
        tables.num_entries as u32,
        (1.0 / tables.num_rays as f64) as f32,
        &mut rays,
        &mut entries,
        &mut probability,
    );
    Rays(rays, entries, probability)
}

fn of_epoch(tables: &Tables, position: u64, order: u32) -> Rays {
    let left = (tables.num_rays as u64).isqrt().max(2);
    let right = (tables.num_rays as u64).div_ceil(left).max(2);
    let mut places = vec![u32::MAX; BATCH];
    let all = tables.num_rays as u64;
    kernels::epoch_places_u32(&threads(BATCH, order), BATCH as u64, all, left, right, position, SEED, &mut places);
    at_places(tables, &sorted(places, order), order)
}

/// Pixels of a whole patch, and the mean of what entries have of one, where errors are stored times their shares.
fn whole(tables: &Tables, patch: u32) -> (f32, f64) {
    let whole = (patch * patch) as f32;
    let mean = tables.num_rays as f64 / (f64::from(whole) * tables.num_entries as f64);
    (whole, if tables.first_rays.is_some() { mean } else { 1.0 })
}

/// The pool, and one of its entries in each of `num` strata.
fn from_pool(
    map: &MapOnDevice,
    tables: &Tables,
    patch: u32,
    size: usize,
    num: usize,
    step: u64,
    order: u32,
) -> [Vec<u32>; 2] {
    let (len, rule, shares) = (tables.num_entries, map.rule(order), tables.first_rays.as_deref());
    let ((whole, mean_share), cap) = (whole(tables, patch), 1.0);
    let (mut counts, mut found) = (vec![0; 256], [0, size as u64]);
    for shift in [24, 16, 8, 0] {
        let launch = Launch { grid: [len.div_ceil(4096) as u32, 1, 1], block: [BLOCK as u32, 1, 1], order };
        kernels::top_k_count_f32(
            &launch,
            &map.values,
            shares,
            &rule,
            &found,
            len as u64,
            cap,
            mean_share,
            whole,
            shift,
            &mut counts,
        );
        kernels::top_k_digit(&threads(1, order), shift, &mut counts, &mut found);
    }
    let num_tiles = len.div_ceil(SCAN_THREADS);
    let (mut tiles, mut pool) = (vec![7; 2 * num_tiles], vec![u32::MAX; size]);
    let launch = scan(num_tiles, order);
    kernels::top_k_tiles_f32(
        &launch,
        &map.values,
        shares,
        &rule,
        &found,
        len as u64,
        cap,
        mean_share,
        whole,
        &mut tiles,
    );
    kernels::top_k_before(&scan(1, order), num_tiles as u64, &mut tiles);
    kernels::top_k_pool_f32(
        &launch,
        &map.values,
        shares,
        &rule,
        &found,
        &tiles,
        len as u64,
        cap,
        mean_share,
        whole,
        &mut pool,
    );
    let mut entries = vec![u32::MAX; num];
    let stratum = u64::MAX / (num as u64).max(1);
    kernels::top_k_draw_u32(&threads(num, order), &pool, size as u64, num as u64, stratum, SEED, step, &mut entries);
    [pool, entries]
}

/// A ray of each of the entries and `num_even` of all rays, merged.
fn mixed(
    map: &MapOnDevice,
    tables: &Tables,
    drawn: &[u32],
    pool: Option<&[u32]>,
    (num_even, share): (usize, f64),
    step: u64,
    order: u32,
) -> Rays {
    let mut places = vec![u32::MAX; num_even];
    let all = tables.num_rays as u64;
    kernels::mixture_places_u32(&threads(num_even, order), num_even as u64, all, SEED, step, &mut places);
    let even = at_places(tables, &places, order);
    let (mut of_entries, mut unknown) = (vec![u32::MAX; drawn.len()], vec![0.0; drawn.len()]);
    kernels::patch_rays_f32(
        &threads(drawn.len(), order),
        drawn,
        &unknown.clone(),
        &tables.views,
        tables.ray_order.as_deref(),
        tables.first_rays.as_deref(),
        drawn.len() as u64,
        SHAPES.len() as u32,
        SEED,
        step,
        &mut of_entries,
        &mut unknown,
    );
    let num = drawn.len() + num_even;
    let (mut rays, mut entries, mut probability) = (vec![u32::MAX; num], vec![u32::MAX; num], vec![f32::NAN; num]);
    kernels::mixed_draw_f32(
        &threads(num, order),
        drawn,
        &of_entries,
        &even.1,
        &even.0,
        drawn.len() as u64,
        num_even as u64,
        &tables.views,
        tables.ray_order.as_deref(),
        tables.first_rays.as_deref(),
        SHAPES.len() as u32,
        &map.values,
        &map.rule(order),
        map.scale,
        pool,
        pool.map_or(0, <[u32]>::len) as u64,
        1.0 - share,
        share / tables.num_rays as f64,
        &mut rays,
        &mut entries,
        &mut probability,
    );
    Rays(rays, entries, probability)
}

fn num_even(share: f64, step: u64) -> usize {
    let dither = f64::from(Rng::new(SEED, Stream::Mixture, step).uniform(u32::MAX));
    ((share * BATCH as f64 + dither) as usize).min(BATCH)
}

/// The batch of this strategy, by the kernels; none where another test has it.
fn by_kernels(config: &SamplerConfig, map: &MapOnDevice, tables: &Tables, step: u64, order: u32) -> Option<Rays> {
    let share = config.uniform_fraction;
    let num_even = num_even(share, step);
    match config.strategy {
        Strategy::Epoch => Some(of_epoch(tables, step * BATCH as u64, order)),
        Strategy::TopK { pool } => {
            let size = ((pool * tables.num_entries as f64).ceil() as usize).clamp(1, tables.num_entries);
            let [pool, drawn] = from_pool(map, tables, config.patch, size, BATCH - num_even, step, order);
            Some(mixed(map, tables, &drawn, Some(&pool), (num_even, share), step, order))
        }
        Strategy::ErrorWeighted if tables.first_rays.is_some() => {
            let settings = DrawSettings { uniform_fraction: 0.0, jitter: Jitter::Stratified };
            let drawn = map.draw(BATCH - num_even, settings, SEED, step, order).0;
            Some(mixed(map, tables, &drawn, None, (num_even, share), step, order))
        }
        _ => None,
    }
}

/// Of every strategy, with and without masks and a uniform share, over updates whose errors the kernels share out.
#[test]
fn batches_have_the_bits_of_the_sampler() {
    let mut failures = Failures::default();
    let mut compared = 0;
    for strategy in [Strategy::Epoch, Strategy::TopK { pool: 0.15 }, Strategy::ErrorWeighted] {
        for in_use in bitmaps() {
            for (patch, uniform_fraction) in [(1, 0.2), (2, 0.0), (5, 0.3), (64, 0.9)] {
                let config = SamplerConfig {
                    strategy,
                    batch_size: BATCH,
                    patch,
                    uniform_fraction,
                    seed: SEED,
                    warmup_steps: 0,
                    ..SamplerConfig::default()
                };
                compared += compare(&config, in_use.as_ref(), &mut failures);
            }
        }
    }
    assert_eq!(compared, 3 * 4 * (8 + 8 + 3), "batches compared");
}

fn compare(config: &SamplerConfig, in_use: Option<&Bitmap>, failures: &mut Failures) -> usize {
    let tables = Tables::new(config.patch, in_use);
    let mut sampler = Sampler::with_in_use(&SHAPES, in_use, config.clone()).unwrap();
    let mut compared = 0;
    for step in 0..3 {
        let values = vector::<f32>(&sampler.state().unwrap().0["error_map"]);
        let draw = sampler.draw().unwrap();
        let expected = draw.state().unwrap().0;
        let errors: Vec<f32> = (0..BATCH as u32).map(|k| (1.3 * rng(step as usize).uniform(k)).powi(2)).collect();
        for order in ORDERS {
            let launch = |num| threads(num, order);
            let map = MapOnDevice::new(&values, config.error_cap, launch);
            let Some(found) = by_kernels(config, &map, &tables, step, order) else { continue };
            let what = format!("{config:?}, masked {}, step {step}, order {order}", in_use.is_some());
            failures.equal(format!("{what}: rays"), &found.0, &vector::<u32>(&expected["indices"]));
            failures.equal(format!("{what}: entries"), &found.1, &vector::<u32>(&expected["entries"]));
            let probability = bits(&vector(&expected["probability"]));
            failures.equal(format!("{what}: probability"), &bits(&found.2), &probability);
            compared += 1;
        }
        sampler.update(draw, &Tensor::from_vec(errors, BATCH, &Device::Cpu).unwrap()).unwrap();
    }
    compared
}

#[test]
fn sorting_is_sorting() {
    let mut failures = Failures::default();
    for num in [1usize, 2, 1023, 1024, 1025, 2048, 2049, 5000] {
        for bound in [1, 7, 1 << 32] {
            let keys: Vec<u32> = (0..num as u32).map(|k| rng(num).below(k, bound) as u32).collect();
            let mut expected = keys.clone();
            expected.sort_unstable();
            for order in ORDERS {
                let found = sorted(keys.clone(), order);
                failures.equal(format!("{num} keys below {bound}, order {order}"), &found, &expected);
            }
        }
    }
}

/// Errors of masked patches, nasty ones included, as [`Sampler::update`] stores them.
#[test]
fn errors_are_shared_out() {
    let mut failures = Failures::default();
    let first = [0, 1, 5, 30, 31, 55];
    let entries: Vec<u32> = (0..BATCH as u32).map(|k| k * 5 / BATCH as u32).collect();
    let nasty = [f32::NAN, f32::INFINITY, -1.0, -0.0, 0.0, 1.5, 1e-40];
    let error = |k: u32| if k % 9 < 7 { nasty[k as usize % 9] } else { rng(3).uniform(k) };
    let errors: Vec<f32> = (0..BATCH as u32).map(error).collect();
    let expected: Vec<f32> = errors
        .iter()
        .zip(&entries)
        .map(|(&error, &entry)| {
            let share = (first[entry as usize + 1] - first[entry as usize]) as f32 / 25.0;
            if error.is_finite() { error.min(1.2) * share } else { error }
        })
        .collect();
    for order in ORDERS {
        let mut found = vec![7.0; BATCH];
        kernels::share_errors_f32(
            &threads(BATCH, order),
            &errors,
            &entries,
            &first,
            BATCH as u64,
            1.2,
            25.0,
            &mut found,
        );
        failures.equal(format!("order {order}"), &bits(&found), &bits(&expected));
    }
}

/// Densities of a batch, and what is learned from it, as the sampler's header says.
#[test]
fn an_adaptive_sampler_learns_the_same() {
    const ADDED: usize = 2500;
    let mut failures = Failures::default();
    for in_use in bitmaps() {
        for patch in [1, 5] {
            let tables = Tables::new(patch, in_use.as_ref());
            let config = SamplerConfig {
                strategy: Strategy::Adaptive,
                batch_size: ADDED,
                patch,
                seed: SEED,
                warmup_steps: 0,
                ..SamplerConfig::default()
            };
            let least = config.uniform_fraction;
            let mut sampler = Sampler::with_in_use(&SHAPES, in_use.as_ref(), config.clone()).unwrap();
            let sums_of = |sampler: &Sampler| -> Vec<f64> {
                let header = serde_json::to_value(sampler.state().unwrap().1).unwrap();
                let sums = &header["adaptive"]["sums"];
                let list = |name: &str| sums[name].as_array().unwrap().iter().map(number).collect::<Vec<_>>();
                let number = |name: &str| number(&sums[name]);
                [vec![number("one"), number("square")], list("weight"), list("weighted_square")].concat()
            };
            for step in 0..3usize {
                let values = vector::<f32>(&sampler.state().unwrap().0["error_map"]);
                let before = sums_of(&sampler);
                let draw = sampler.draw().unwrap();
                let drawn = draw.state().unwrap().0;
                let (entries, probability) = (vector::<u32>(&drawn["entries"]), vector::<f32>(&drawn["probability"]));
                let mut errors: Vec<f32> = (0..ADDED as u32).map(|k| rng(step).uniform(k).powi(4)).collect();
                errors[77] = f32::NAN;
                errors[78] = -3.0;
                sampler.update(draw, &Tensor::new(&errors[..], &Device::Cpu).unwrap()).unwrap();
                let after = sums_of(&sampler);
                let raised: Vec<f32> = errors.iter().map(|&e| if e > 0.0 { e.sqrt() } else { e }).collect();
                for order in ORDERS {
                    let what = format!("patch {patch}, masked {}, step {step}, order {order}", in_use.is_some());
                    let map = MapOnDevice::new(&values, config.error_cap, |num| threads(num, order));
                    let mut densities = vec![f32::NAN; ADDED];
                    kernels::entry_densities_f32(
                        &threads(ADDED, order),
                        &entries,
                        &map.values,
                        &map.rule(order),
                        &tables.views,
                        tables.ray_order.as_deref(),
                        tables.first_rays.as_deref(),
                        ADDED as u64,
                        SHAPES.len() as u32,
                        tables.num_entries as u64,
                        tables.num_rays as f64,
                        f64::from(config.error_cap),
                        &mut densities,
                    );
                    let expected = bits(&vector(&drawn["densities"]));
                    failures.equal(format!("{what}: densities"), &bits(&densities), &expected);
                    let num_tasks = ADDED.div_ceil(1024);
                    let (mut partial, mut total) = (vec![7.0; 8 * num_tasks], vec![7.0; 8]);
                    let launch = Launch { grid: [num_tasks as u32, 1, 1], block: [BLOCK as u32, 1, 1], order };
                    kernels::adaptive_sums_f64(
                        &launch,
                        &raised,
                        &probability,
                        &densities,
                        ADDED as u64,
                        tables.num_rays as f64,
                        1.0,
                        (1.0 + least) / 2.0,
                        least,
                        &mut partial,
                    );
                    kernels::adaptive_total_f64(&threads(8, order), &partial, num_tasks as u64, &mut total);
                    let learned: Vec<f64> =
                        before.iter().zip(&total).map(|(before, sum)| before * 0.95 + sum).collect();
                    failures.equal(format!("{what}: sums"), &learned, &after);
                }
            }
        }
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}
