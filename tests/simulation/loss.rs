//! The loss of rays.

use candle_radfoam::ops::ray_loss::{Backdrop, RayLoss, RayLossSettings};
use candle_radfoam::rng::{Rng, Stream};

use crate::kernels::{self, Launch, ORDERS};
use crate::rows::nasty;
use crate::{Failures, bits, rng};

/// Threads of a block, and words of the totals.
const THREADS: usize = 256;
const TOTALS: usize = 9;

struct Case {
    num_rays: usize,
    num_quantiles: usize,
    backdrop: Backdrop,
    exponent: f32,
    power: f32,
    nasty: bool,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (i, num_rays) in [1, 31, 256, 257, 5000].into_iter().enumerate() {
        for nasty in [false, true] {
            let backdrop = if i % 2 == 0 { Backdrop::Random } else { Backdrop::Color([1.0, 0.25, 0.0]) };
            let (exponent, power) = ([0.0, 1.0, 0.7][i % 3], [0.5, 1.0, 0.8][i % 3]);
            cases.push(Case { num_rays, num_quantiles: [2, 0][i % 2], backdrop, exponent, power, nasty });
        }
    }
    cases
}

#[test]
fn losses_and_gradients_have_the_bits_of_the_cpu() {
    let mut failures = Failures::default();
    const NUM_DRAWN_FROM: f64 = 9000.0;
    const CAP: f32 = 0.6;
    for (number, case) in cases().into_iter().enumerate() {
        let Case { num_rays, num_quantiles, backdrop, exponent, power, nasty: is_nasty } = case;
        let width = 4 + num_quantiles;
        let random = |case: usize, num: usize| -> Vec<f32> { (0..num as u32).map(|k| rng(case).uniform(k)).collect() };
        let mut packed = random(number, num_rays * width);
        if is_nasty {
            packed = nasty(num_rays * width, number);
        }
        for row in packed.chunks_mut(width).step_by(3) {
            // A quantile that is not reached.
            row[4..].fill(-1.0);
        }
        let rgba: Vec<[f32; 4]> = random(number + 50, 4 * num_rays).as_chunks().0.to_vec();
        let probability: Vec<f32> = random(number + 90, num_rays).iter().map(|u| (0.2 + u) / 5000.0).collect();
        let cells_entered: Vec<u32> = (0..num_rays as u32).map(|k| 3 + k % 70).collect();
        let weights: Vec<f64> = probability.iter().map(|&p| 1.0 / (NUM_DRAWN_FROM * f64::from(p))).collect();
        let importance: Vec<f32> = weights.iter().map(|w| w.powf(f64::from(exponent)) as f32).collect();
        let (seed, step) = (0x0123_4567_89ab_cdef, (7 << 32) + 5);
        let settings = RayLossSettings { backdrop, seed, step, opacity_weight: 0.1, quantile_weight: 0.02 };
        let importance = (exponent != 0.0).then_some(&importance[..]);
        let loss = RayLoss { settings, rgba: &rgba, importance };
        let rows = || packed.chunks(width).enumerate();
        let (losses, squared): (Vec<f64>, Vec<f32>) = rows().map(|(ray, out)| loss.value(ray, out)).unzip();
        let gradient: Vec<f32> = rows()
            .flat_map(|(ray, out)| {
                let g = loss.gradient(ray, out);
                let mut row = vec![g.rgb[0], g.rgb[1], g.rgb[2], g.opacity];
                row.extend((0..num_quantiles).map(|q| g.depth.get(q).map_or(0.0, |d| d * g.depth_scale)));
                row
            })
            .collect();
        let raised: Vec<f32> = squared.iter().map(|&e| if e > 0.0 { e.powf(power) } else { e }).collect();
        let finite = || raised.iter().copied().filter(|e| e.is_finite());
        let not_finite = || losses.iter().enumerate().filter(|(_, loss)| !loss.is_finite());
        let counts = [
            cells_entered.iter().map(|&n| u64::from(n)).sum(),
            not_finite().count() as u64,
            not_finite().next().map_or(u64::MAX, |(ray, _)| ray as u64),
            u64::from(finite().fold(0.0, |most, e| e.min(CAP).max(most)).to_bits()),
            finite().filter(|&e| e > CAP).count() as u64,
        ];
        let sums = [
            losses.iter().sum::<f64>(),
            squared.iter().map(|&e| f64::from(e)).sum(),
            weights.iter().sum(),
            weights.iter().map(|w| w * w).sum(),
        ];
        let mut first: Option<Vec<u64>> = None;
        for order in ORDERS {
            let blocks = num_rays.div_ceil(THREADS);
            let launch = |blocks: usize| Launch { grid: [blocks as u32, 1, 1], block: [THREADS as u32, 1, 1], order };
            let (mut grad, mut errors) = (vec![f32::NAN; num_rays * width], vec![f32::NAN; num_rays]);
            let (mut partial, mut totals) = (vec![7; blocks * TOTALS], vec![7; TOTALS]);
            let (is_random, [red, green, blue]) = match backdrop {
                Backdrop::Random => (1, [f32::NAN; 3]),
                Backdrop::Color(color) => (0, color),
            };
            kernels::ray_loss_f32(
                &launch(blocks),
                &packed,
                rgba.as_flattened(),
                &probability,
                &cells_entered,
                num_rays as u64,
                num_quantiles as u32,
                is_random,
                red,
                green,
                blue,
                seed,
                step,
                settings.opacity_weight,
                settings.quantile_weight,
                NUM_DRAWN_FROM,
                f64::from(exponent),
                power,
                CAP,
                &mut grad,
                &mut errors,
                &mut partial,
            );
            kernels::ray_loss_total(&launch(1), &partial, blocks as u64, &mut totals);
            let what = format!("case {number}, {num_rays} rays, order {order}");
            failures.equal(format!("{what}: gradient"), &bits(&grad), &bits(&gradient));
            failures.equal(format!("{what}: errors"), &bits(&errors), &bits(&raised));
            failures.equal(format!("{what}: counts"), &totals[4..], &counts);
            for (found, expected) in totals[..4].iter().map(|&word| f64::from_bits(word)).zip(sums) {
                let same = found == expected || found.is_nan() && expected.is_nan();
                if !same && (found / expected - 1.0).abs() > 1e-13 {
                    failures.0.push(format!("{what}: a sum of {found}, expected {expected}"));
                }
            }
            let first = first.get_or_insert_with(|| totals.clone());
            let by_bits = |totals: &[u64]| -> Vec<u64> {
                let nan = |&word: &u64| if f64::from_bits(word).is_nan() { f64::NAN.to_bits() } else { word };
                totals[..4].iter().map(nan).collect()
            };
            failures.equal(format!("{what}: by order"), &by_bits(&totals), &by_bits(first));
        }
    }
}

#[test]
fn quantiles_are_those_of_the_cpu() {
    let mut failures = Failures::default();
    let (seed, step, num) = (5u64, 1u64 << 40, 300usize);
    let rng = Rng::new(seed, Stream::Quantile, step);
    let expected: Vec<f32> = (0..num as u32)
        .flat_map(|ray| {
            let [a, b, ..] = rng.uniform4(ray).map(|u| u.clamp(1e-3, 1.0 - 1e-3));
            [a.max(b), a.min(b)]
        })
        .collect();
    for launch in kernels::launches(num) {
        let mut found = vec![f32::NAN; 2 * num];
        kernels::ray_quantiles_f32(&launch, num as u64, seed, step, &mut found);
        failures.equal(format!("{launch:?}"), &bits(&found), &bits(&expected));
    }
}
