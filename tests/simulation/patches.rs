//! Rays of the entries of an error map.

use candle_core::{Device, Tensor};
use candle_radfoam::data::{Bitmap, Sampler, SamplerConfig, Strategy};
use candle_radfoam::ops::{ErrorMap, ErrorMapSettings};

use crate::kernels::{self, launches};
use crate::{Failures, bits, rng};

pub const SHAPES: [[u32; 2]; 4] = [[9, 17], [1, 1], [8, 40], [33, 5]];
pub const BATCH: usize = 777;

/// What the kernels are given of patches, by brute force.
pub struct Tables {
    pub views: Vec<u32>,
    pub num_entries: usize,
    /// Entry by entry, where not every pixel is a ray.
    pub ray_order: Option<Vec<u32>>,
    pub first_rays: Option<Vec<u32>>,
    pub num_rays: usize,
}

impl Tables {
    pub fn new(patch: u32, in_use: Option<&Bitmap>) -> Self {
        let (mut views, mut ray_order, mut first_rays) = (Vec::new(), Vec::new(), vec![0]);
        let (mut first_pixel, mut first_patch) = (0, 0);
        for [height, width] in SHAPES {
            let (rows, columns) = (height.div_ceil(patch), width.div_ceil(patch));
            views.extend([first_pixel, first_patch, height, width, rows, columns]);
            let part = |at: u32, parts: u32, size: u32| at * size / parts;
            for row in 0..rows {
                for column in 0..columns {
                    let before = ray_order.len();
                    for y in part(row, rows, height)..part(row + 1, rows, height) {
                        for x in part(column, columns, width)..part(column + 1, columns, width) {
                            let pixel = first_pixel + y * width + x;
                            if in_use.is_none_or(|in_use| in_use.get(pixel as usize)) {
                                ray_order.push(pixel);
                            }
                        }
                    }
                    if ray_order.len() > before {
                        first_rays.push(ray_order.len() as u32);
                    }
                }
            }
            (first_pixel, first_patch) = (first_pixel + height * width, first_patch + rows * columns);
        }
        Self {
            views,
            num_entries: first_rays.len() - 1,
            num_rays: ray_order.len(),
            ray_order: in_use.is_some().then_some(ray_order),
            first_rays: (in_use.is_some() && patch > 1).then_some(first_rays),
        }
    }
}

pub fn bitmaps() -> [Option<Bitmap>; 2] {
    let len = SHAPES.iter().map(|[height, width]| (height * width) as usize).sum();
    [None, Some(Bitmap::from_fn(len, |pixel| pixel > 9 && pixel / 20 % 3 != 0).unwrap())]
}

pub fn vector<T: candle_core::WithDType>(tensor: &Tensor) -> Vec<T> {
    tensor.to_vec1().unwrap()
}

#[test]
fn even_rays_have_the_bits_of_the_sampler() {
    let mut failures = Failures::default();
    for in_use in bitmaps() {
        for patch in [1, 2, 5, 64] {
            let tables = Tables::new(patch, in_use.as_ref());
            let config = SamplerConfig {
                strategy: Strategy::Uniform,
                batch_size: BATCH,
                patch,
                seed: 0x0123_4567_89ab_cdef,
                ..SamplerConfig::default()
            };
            let mut sampler = Sampler::with_in_use(&SHAPES, in_use.as_ref(), config.clone()).unwrap();
            for step in 0..2 {
                let expected = sampler.draw().unwrap().state().unwrap().0;
                for launch in launches(BATCH) {
                    let (mut rays, mut entries) = (vec![u32::MAX; BATCH], vec![u32::MAX; BATCH]);
                    let mut probability = vec![f32::NAN; BATCH];
                    kernels::even_rays_f32(
                        &launch,
                        &tables.views,
                        tables.ray_order.as_deref(),
                        tables.first_rays.as_deref(),
                        BATCH as u64,
                        SHAPES.len() as u32,
                        tables.num_entries as u32,
                        tables.num_rays as u64,
                        u64::MAX / BATCH as u64,
                        (1.0 / tables.num_rays as f64) as f32,
                        config.seed,
                        step,
                        &mut rays,
                        &mut entries,
                        &mut probability,
                    );
                    let what = format!("patch {patch}, masked {}, step {step}, {launch:?}", in_use.is_some());
                    failures.equal(format!("{what}: rays"), &rays, &vector::<u32>(&expected["indices"]));
                    failures.equal(format!("{what}: entries"), &entries, &vector::<u32>(&expected["entries"]));
                    let expected = bits(&vector(&expected["probability"]));
                    failures.equal(format!("{what}: probability"), &bits(&probability), &expected);
                }
            }
        }
    }
}

#[test]
fn rays_of_entries_have_the_bits_of_the_sampler() {
    let mut failures = Failures::default();
    for in_use in bitmaps() {
        // Where pixels are left out of larger patches the sampler draws otherwise.
        for patch in if in_use.is_some() { vec![1] } else { vec![1, 2, 5, 64] } {
            let tables = Tables::new(patch, in_use.as_ref());
            let config = SamplerConfig {
                strategy: Strategy::ErrorWeighted,
                batch_size: BATCH,
                patch,
                seed: 77,
                warmup_steps: 0,
                ..SamplerConfig::default()
            };
            let mut sampler = Sampler::with_in_use(&SHAPES, in_use.as_ref(), config.clone()).unwrap();
            for step in 0..3 {
                let settings = ErrorMapSettings { decay: config.decay, cap: config.error_cap, ..Default::default() };
                let map = ErrorMap::from_tensor(&sampler.state().unwrap().0["error_map"], settings).unwrap();
                let drawn = map.draw(BATCH, config.uniform_fraction, config.seed, step).unwrap();
                let expected = sampler.draw().unwrap();
                for launch in launches(BATCH) {
                    let (mut rays, mut probability) = (vec![u32::MAX; BATCH], vec![f32::NAN; BATCH]);
                    kernels::patch_rays_f32(
                        &launch,
                        &vector::<u32>(&drawn.indices),
                        &vector::<f32>(&drawn.probability),
                        &tables.views,
                        tables.ray_order.as_deref(),
                        tables.first_rays.as_deref(),
                        BATCH as u64,
                        SHAPES.len() as u32,
                        config.seed,
                        step,
                        &mut rays,
                        &mut probability,
                    );
                    let what = format!("patch {patch}, masked {}, step {step}, {launch:?}", in_use.is_some());
                    failures.equal(format!("{what}: rays"), &rays, expected.indices_slice());
                    let expected = bits(expected.probability_slice());
                    failures.equal(format!("{what}: probability"), &bits(&probability), &expected);
                }
                let errors: Vec<f32> = (0..BATCH as u32).map(|k| rng(step as usize).uniform(k)).collect();
                sampler.update(expected, &Tensor::from_vec(errors, BATCH, &Device::Cpu).unwrap()).unwrap();
            }
        }
    }
}

/// Entries of several rays of which some are left out: every ray of an entry is as probable, and none other comes.
#[test]
fn rays_of_masked_patches_are_those_of_their_entries() {
    let mut failures = Failures::default();
    let in_use = &bitmaps()[1];
    let tables = Tables::new(5, in_use.as_ref());
    let (order, first) = (tables.ray_order.as_ref().unwrap(), tables.first_rays.as_ref().unwrap());
    let entries: Vec<u32> = (0..tables.num_entries as u32).flat_map(|entry| [entry; 40]).collect();
    let num = entries.len();
    for launch in launches(num) {
        let (mut rays, mut probability) = (vec![u32::MAX; num], vec![f32::NAN; num]);
        kernels::patch_rays_f32(
            &launch,
            &entries,
            &vec![0.5; num],
            &tables.views,
            Some(&order[..]),
            Some(&first[..]),
            num as u64,
            SHAPES.len() as u32,
            3,
            4,
            &mut rays,
            &mut probability,
        );
        let mut seen = vec![0; order.len()];
        for ((&entry, ray), p) in entries.iter().zip(&rays).zip(&probability) {
            let own = first[entry as usize] as usize..first[entry as usize + 1] as usize;
            match order[own.clone()].iter().position(|of_entry| of_entry == ray) {
                Some(at) => seen[own.start + at] += 1,
                None => failures.0.push(format!("{launch:?}: ray {ray} of entry {entry}")),
            }
            failures.equal("probability", &[*p], &[0.5 / own.len() as f32]);
        }
        let missed = seen.iter().filter(|&&count| count == 0).count();
        if missed > order.len() / 4 {
            failures.0.push(format!("{launch:?}: {missed} rays of {} never drawn", order.len()));
        }
    }
}
