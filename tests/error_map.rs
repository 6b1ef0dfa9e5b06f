//! Is the sampling right? The scatter-EMA against its loop, draws against the probability they come with.

use candle_core::{DType, Device, Result, Tensor, WithDType};
use candle_radfoam::{
    ops::{
        DrawSettings, Draws, Duplicates, ErrorMap, ErrorMapSettings, Jitter, ScatterSettings, scatter_ema,
        weighted_draw,
    },
    rng::{Rng, Stream},
};

/// Sizes around the borders of groups (16), blocks (256) and tasks.
const SIZES: [usize; 6] = [1, 17, 255, 256, 300, 10_007];

fn on_threads<R: Send>(num: usize, f: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(num).build().unwrap().install(f)
}

fn tensor<T: WithDType>(values: &[T]) -> Tensor {
    Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap()
}

/// A part of a larger tensor with gaps between its elements.
fn strided(len: usize) -> Tensor {
    Tensor::ones((len, 2), DType::F32, &Device::Cpu).unwrap().narrow(1, 0, 1).unwrap().squeeze(1).unwrap()
}

/// Random indices below `len`, every other batch crowded on a few entries so that duplicates are many.
fn random_batch(len: usize, num: u32, step: u64) -> (Vec<u32>, Vec<f32>) {
    let rng = Rng::new(5, Stream::Init, step);
    let spread = if step.is_multiple_of(2) { len } else { len.min(7) };
    let indices = (0..num).map(|k| rng.below(k, spread as u64) as u32).collect();
    (indices, (0..num).map(|k| rng.uniform4(k)[3]).collect())
}

fn unpack(draws: &Draws) -> (Vec<u32>, Vec<f32>) {
    (draws.indices.to_vec1().unwrap(), draws.probability.to_vec1().unwrap())
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn assert_refusals(refusals: Vec<(&str, Result<()>, &str)>) {
    let mut wrong = Vec::new();
    for (what, result, says) in refusals {
        match result {
            Ok(()) => wrong.push(format!("{what}: accepted")),
            Err(error) if !error.to_string().contains(says) => wrong.push(format!("{what}: {error}")),
            Err(_) => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn scatter_ema_is_the_sequential_loop() -> Result<()> {
    for len in SIZES {
        for step in 0..4 {
            let (mut indices, values) = random_batch(len, 3 * len as u32 + 20_000, step);
            if step >= 2 {
                indices.sort_unstable();
            }
            // A third of the entries unvisited.
            let start: Vec<f32> = (0..len).map(|i| if i % 3 == 0 { -0.25 } else { i as f32 / len as f32 }).collect();
            let (decay, rest) = (0.9f32, 1.0 - 0.9f32);
            let mut expected = start.clone();
            let mut expected64: Vec<f64> = start.iter().map(|&v| f64::from(v)).collect();
            for (&i, &v) in indices.iter().zip(&values) {
                let entry = &mut expected[i as usize];
                *entry = if *entry < 0.0 { v } else { decay * *entry + rest * v };
                let (entry, v) = (&mut expected64[i as usize], f64::from(v));
                *entry = if *entry < 0.0 { v } else { 0.9 * *entry + (1.0 - 0.9) * v };
            }
            for threads in [1, 2, 5] {
                let map = tensor(&start);
                let stats = on_threads(threads, || scatter_ema(&map, &tensor(&indices), &tensor(&values), 0.9))?;
                let map = map.to_vec1::<f32>()?;
                assert_eq!(bits(&map), bits(&expected), "{len} entries, step {step}, {threads} threads");
                assert_eq!(stats.updated, values.len());
                let first_visits = start.iter().zip(&map).filter(|(old, new)| **old < 0.0 && **new >= 0.0).count();
                assert_eq!(stats.first_visits, first_visits);
            }
            let map64 = tensor(&start).to_dtype(DType::F64)?;
            scatter_ema(&map64, &tensor(&indices), &tensor(&values).to_dtype(DType::F64)?, 0.9)?;
            assert_eq!(map64.to_vec1::<f64>()?, expected64, "{len} entries in f64, step {step}");
        }
    }
    Ok(())
}

/// Against the closed form, in f64, whatever the order of the batch.
#[test]
fn the_mean_of_duplicates_enters_once() -> Result<()> {
    let settings = ScatterSettings { decay: 0.9, duplicates: Duplicates::Mean };
    for len in SIZES {
        let (indices, values) = random_batch(len, 3 * len as u32 + 20_000, 0);
        let start: Vec<f32> = (0..len).map(|i| if i % 3 == 0 { -0.0 } else { i as f32 / len as f32 }).collect();
        let mut sums = vec![(0.0f64, 0); len];
        for (&i, &v) in indices.iter().zip(&values) {
            sums[i as usize].0 += f64::from(v);
            sums[i as usize].1 += 1;
        }
        let expected = start.iter().zip(&sums).map(|(&old, &(sum, count))| match (count, old.is_sign_negative()) {
            (0, _) => f64::from(old),
            (_, true) => sum / f64::from(count),
            _ => {
                let kept = 0.9f64.powi(count);
                kept * f64::from(old) + (1.0 - kept) * sum / f64::from(count)
            }
        });
        let expected: Vec<f64> = expected.collect();
        let mut reversed = (indices.clone(), values.clone());
        reversed.0.reverse();
        reversed.1.reverse();
        for (order, (indices, values)) in [("given", (indices, values)), ("reversed", reversed)] {
            let mut bits_on_one = Vec::new();
            for threads in [1, 3] {
                let map = tensor(&start);
                on_threads(threads, || scatter_ema(&map, &tensor(&indices), &tensor(&values), settings))?;
                let map = map.to_vec1::<f32>()?;
                for (i, (&found, &expected)) in map.iter().zip(&expected).enumerate() {
                    // The decay is the same f64 in both; what is left is the last rounding, to f32.
                    assert!((f64::from(found) - expected).abs() <= 1e-7, "{i} of {len}, {order}: {found}, {expected}");
                }
                if threads == 1 { bits_on_one = bits(&map) } else { assert_eq!(bits(&map), bits_on_one) }
            }
        }
    }
    // A single value is the ordinary step, a skipped one no value at all, and decay 0 keeps nothing.
    let map = tensor(&[0.5f32, 0.5, -0.0]);
    let values = tensor(&[1.0f32, f32::NAN, f32::NAN]);
    let stats = scatter_ema(&map, &tensor(&[0u32, 1, 2]), &values, settings)?;
    assert_eq!((stats.updated, stats.skipped_non_finite, stats.first_visits), (1, 2, 0));
    assert_eq!(bits(&map.to_vec1()?), bits(&[0.55, 0.5, -0.0]));
    scatter_ema(&map, &tensor(&[1u32, 1]), &tensor(&[0.25f32, 0.75]), ScatterSettings { decay: 0.0, ..settings })?;
    assert_eq!(map.to_vec1::<f32>()?[1], 0.5);
    Ok(())
}

/// One draw for every whole share of the total that an entry has, and at most one more.
#[test]
fn systematic_counts_are_the_expected_ones_rounded() -> Result<()> {
    for len in SIZES {
        let map = uneven_map(len);
        let pmf = map.pmf(0.2)?.to_vec1::<f64>()?;
        let settings = DrawSettings { uniform_fraction: 0.2, jitter: Jitter::Systematic };
        let num = 3 * len;
        let mut means = vec![0.0; len];
        for step in 0..50 {
            let (indices, p) = unpack(&map.draw(num, settings, 17, step)?);
            assert!(indices.is_sorted());
            let mut counts = vec![0.0; len];
            for (&i, p) in indices.iter().zip(p) {
                counts[i as usize] += 1.0;
                assert_eq!(p, pmf[i as usize] as f32);
            }
            for (i, (&count, &p)) in counts.iter().zip(&pmf).enumerate() {
                let off: f64 = count - num as f64 * p;
                assert!(off.abs() < 1.0 + 1e-9, "{i} of {len}, step {step}: {count}, expected {}", num as f64 * p);
                means[i] += off / 50.0;
            }
        }
        // The places of 50 steps fill the stratum evenly: the mean count is off by a few of a fiftieth.
        assert!(means.iter().all(|off| off.abs() < 0.1), "{len} entries: {means:?}");
    }
    Ok(())
}

#[test]
fn the_effective_size_of_a_draw_is_that_of_its_weights() -> Result<()> {
    let draws = ErrorMap::new(100, ErrorMapSettings::default())?.draw(64, 0.3, 1, 0)?;
    assert!((draws.effective_sample_size()? - 64.0).abs() < 1e-9);
    let draws = weighted_draw(&tensor(&[3.0f32, 1.0]), 400, 0.0, 1, 0)?;
    // 300 draws of weight 1 / 0.75 and 100 of weight 1 / 0.25, up to one at the border.
    let expected = (300.0f64 / 0.75 + 100.0 / 0.25).powi(2) / (300.0 / 0.75f64.powi(2) + 100.0 / 0.25f64.powi(2));
    assert!((draws.effective_sample_size()? - expected).abs() < 2.0, "{}", draws.effective_sample_size()?);
    Ok(())
}

#[test]
fn scatter_ema_keeps_bad_values_out_and_counts_them() -> Result<()> {
    let map = tensor(&[0.5f32, 0.5, 0.5, -0.0, -3.0, -0.0]);
    let indices = tensor(&[0u32, 0, 1, 2, 2, 3, 4, 5]);
    let values = tensor(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -4.0, 1.0, -0.0, 7.0, f32::NAN]);
    let stats = scatter_ema(&map, &indices, &values, 0.5)?;
    let map = map.to_vec1::<f32>()?;
    assert_eq!(map, [0.5, 0.5, 0.625, 0.0, 7.0, 0.0]);
    let signs: Vec<bool> = map.iter().map(|v| v.is_sign_negative()).collect();
    assert_eq!(signs, [false, false, false, false, false, true], "a visited zero is positive, the skipped one is not");
    assert_eq!((stats.updated, stats.skipped_non_finite, stats.negative, stats.first_visits), (4, 4, 1, 2));
    Ok(())
}

#[test]
fn scatter_ema_works_on_the_storage_of_a_part() -> Result<()> {
    let whole = tensor(&[1.0f32; 8]);
    scatter_ema(&whole.narrow(0, 2, 3)?, &tensor(&[0u32, 2]), &tensor(&[0.0f32, 0.0]), 0.25)?;
    let expected = [1.0, 1.0, 0.25, 1.0, 0.25, 1.0, 1.0, 1.0];
    assert_eq!(whole.to_vec1::<f32>()?, expected);
    let stats = scatter_ema(&whole, &tensor::<u32>(&[]), &tensor::<f32>(&[]), 0.25)?;
    assert_eq!((stats.updated, whole.to_vec1::<f32>()?), (0, expected.to_vec()));
    Ok(())
}

#[test]
fn scatter_ema_refuses_before_it_writes() -> Result<()> {
    let map = tensor(&[1.0f32, 1.0]);
    let (indices, values) = (tensor(&[0u32, 1]), tensor(&[0.0f32, 0.0]));
    let scatter =
        |map: &Tensor, indices: &Tensor, values: &Tensor, decay| scatter_ema(map, indices, values, decay).map(|_| ());
    assert_refusals(vec![
        ("index", scatter(&map, &tensor(&[0u32, 2]), &values, 0.5), "below 2"),
        ("length", scatter(&map, &indices, &tensor(&[0.0f32]), 0.5), "[2]"),
        ("dtype", scatter(&map, &indices, &tensor(&[0.0f64, 0.0]), 0.5), "F32"),
        ("index dtype", scatter(&map, &tensor(&[0i64, 1]), &values, 0.5), "U32"),
        ("decay", scatter(&map, &indices, &values, 1.5), "decay"),
        ("NaN decay", scatter(&map, &indices, &values, f64::NAN), "decay"),
        ("layout", scatter(&strided(2), &indices, &values, 0.5), "contiguous"),
    ]);
    assert_eq!(map.to_vec1::<f32>()?, [1.0, 1.0]);
    Ok(())
}

/// The same values as an independent implementation gives (Python's unlimited integers, Philox written out anew, a
/// linear search for the first running sum beyond the point).
#[test]
fn draws_are_stable_for_a_seed() -> Result<()> {
    let weights: Vec<f32> = (0..300).map(|i| (i * 7 % 11) as f32).collect();
    let (indices, p) = unpack(&weighted_draw(&tensor(&weights), 8, 0.25, (5 << 32) | 42, 3)?);
    assert_eq!(indices, [15, 48, 79, 123, 158, 213, 227, 277]);
    let (high, low) = (0.003_843_366_8, 0.002_338_35);
    assert_eq!(p, [high, high, low, low, high, high, 0.003_341_694_5, low]);

    let values: Vec<f32> = (0..300).map(|i| if i < 200 { (i % 8) as f32 / 8.0 } else { -0.0 }).collect();
    let map = ErrorMap::from_tensor(&tensor(&values), ErrorMapSettings::default())?;
    let (indices, p) = unpack(&map.draw(8, 0.3, 9, 1)?);
    assert_eq!(indices, [23, 52, 83, 115, 171, 213, 256, 282]);
    let (three, mean) = (0.003, 0.003_333_333_3);
    assert_eq!(p, [0.005_666_665_7, 0.003_666_666_5, three, three, three, mean, mean, mean]);
    Ok(())
}

/// A map of uneven errors with some zeros and some unvisited entries.
fn uneven_map(len: usize) -> ErrorMap {
    let rng = Rng::new(1, Stream::Init, 0);
    let value = |i: u32| match i % 5 {
        0 if len > 1 => 0.0,
        1 => -0.0,
        _ => rng.uniform(i).powi(4),
    };
    let values: Vec<f32> = (0..len as u32).map(value).collect();
    ErrorMap::from_tensor(&tensor(&values), ErrorMapSettings::default()).unwrap()
}

#[test]
fn probability_is_the_pmf_and_sums_to_one() -> Result<()> {
    for len in SIZES {
        let map = uneven_map(len);
        for fraction in [0.0, 0.3, 0.99] {
            let pmf = map.pmf(fraction)?.to_vec1::<f64>()?;
            let sum: f64 = pmf.iter().sum();
            assert!((sum - 1.0).abs() < 1e-9, "{len} entries, fraction {fraction}: sum {sum}");

            // The definition, in plain f64. Each mass, the prior and the uniform share are rounded by up to one unit
            // of 2^-22 of the cap, hence the total by three a entry.
            let visited: Vec<f64> =
                map.values().iter().filter(|v| v.is_sign_positive()).map(|&v| f64::from(v)).collect();
            let mean = visited.iter().sum::<f64>() / visited.len() as f64;
            let error = |v: f32| if v.is_sign_negative() { mean } else { f64::from(v) };
            let total: f64 = map.values().iter().map(|&v| error(v)).sum();
            let unit = 1.0 / f64::from(1 << 22) / (total / (1.0 - fraction));
            for (i, (&p, &v)) in pmf.iter().zip(map.values()).enumerate() {
                let expected = (1.0 - fraction) * error(v) / total + fraction / len as f64;
                let tolerance = 3.0 * unit * (1.0 + len as f64 * expected);
                assert!((p - expected).abs() < tolerance, "{i} of {len}: {p}, expected {expected} +- {tolerance}");
            }
            let (indices, probability) = unpack(&map.draw(1000, fraction, 3, 1)?);
            assert!(indices.is_sorted());
            for (&i, &p) in indices.iter().zip(&probability) {
                assert_eq!(p, pmf[i as usize] as f32, "entry {i} of {len}, fraction {fraction}");
            }
        }
    }
    Ok(())
}

/// Counts of every entry over `steps` draws of `num`.
fn counts(map: &ErrorMap, num: usize, fraction: f64, steps: u64) -> Result<Vec<f64>> {
    let mut counts = vec![0.0; map.len()];
    for step in 0..steps {
        for i in unpack(&map.draw(num, fraction, 17, step)?).0 {
            counts[i as usize] += 1.0;
        }
    }
    Ok(counts)
}

#[test]
fn stratified_counts_are_within_their_bounds() -> Result<()> {
    for len in SIZES {
        let map = uneven_map(len);
        let num = 12 * len;
        let pmf = map.pmf(0.2)?.to_vec1::<f64>()?;
        let once = counts(&map, num, 0.2, 1)?;
        for (i, (&count, &p)) in once.iter().zip(&pmf).enumerate() {
            // Only the two strata at its ends are shared with other entries.
            assert!((count - num as f64 * p).abs() <= 2.0, "{i} of {len}: {count} draws, expected {}", num as f64 * p);
        }
        assert_eq!(once.iter().sum::<f64>(), num as f64);
    }
    Ok(())
}

#[test]
fn counts_follow_the_probability() -> Result<()> {
    let map = uneven_map(10_007);
    let pmf = map.pmf(0.2)?.to_vec1::<f64>()?;
    for (num, steps) in [(500, 2000), (40_000, 50)] {
        let counts = counts(&map, num, 0.2, steps)?;
        let expected = |p: f64| p * (num as u64 * steps) as f64;
        let chi_squared: f64 = counts.iter().zip(&pmf).map(|(c, &p)| (c - expected(p)).powi(2) / expected(p)).sum();
        // Stratified draws vary less than independent ones, whose statistic has this mean and deviation.
        let freedom = (map.len() - 1) as f64;
        assert!(chi_squared < freedom + 5.0 * (2.0 * freedom).sqrt(), "{num} a step: {chi_squared} for {freedom}");
        // And each entry by itself: its count varies no more than a Poisson number.
        for (i, (&count, &p)) in counts.iter().zip(&pmf).enumerate() {
            let deviation = (count - expected(p)).abs() / expected(p).sqrt();
            assert!(deviation < 6.0, "entry {i}: {count} draws, expected {}", expected(p));
        }
    }
    Ok(())
}

#[test]
fn entries_without_error_come_through_the_uniform_share_alone() -> Result<()> {
    let values: Vec<f32> = (0..1000).map(|i| if i % 10 == 0 { 1.0 } else { 0.0 }).collect();
    let map = ErrorMap::from_tensor(&tensor(&values), ErrorMapSettings::default())?;
    let (num, steps) = (1000, 100);
    for fraction in [0.0, 0.1, 0.5] {
        let counts = counts(&map, num, fraction, steps)?;
        let zeros: f64 = counts.iter().enumerate().filter(|(i, _)| i % 10 != 0).map(|(_, c)| c).sum();
        let expected = fraction * 0.9 * (num as u64 * steps) as f64;
        // Six deviations of a number that varies less than a binomial one; without a share, one unit of mass is left.
        let tolerance = 6.0 * expected.sqrt() + 2.0;
        assert!((zeros - expected).abs() <= tolerance, "fraction {fraction}: {zeros}, expected {expected}");
    }
    // Plain weights without a uniform share: never.
    let (indices, _) = unpack(&weighted_draw(&tensor(&values), 5000, 0.0, 1, 1)?);
    assert!(indices.iter().all(|i| i % 10 == 0));
    Ok(())
}

#[test]
fn maps_that_know_nothing_are_uniform() -> Result<()> {
    for len in SIZES {
        let zeros = tensor(&vec![0.0f32; len]);
        let untouched = ErrorMap::new(len, ErrorMapSettings::default())?;
        let zero = ErrorMap::from_tensor(&zeros, ErrorMapSettings::default())?;
        for map in [untouched, zero] {
            for fraction in [0.0, 0.3] {
                assert_eq!(map.pmf(fraction)?.to_vec1::<f64>()?, vec![1.0 / len as f64; len]);
            }
        }
        let (_, probability) = unpack(&weighted_draw(&zeros, 10, 0.5, 1, 1)?);
        assert_eq!(probability, [(1.0 / len as f64) as f32; 10]);
    }
    Ok(())
}

#[test]
fn an_unvisited_entry_counts_as_the_mean() -> Result<()> {
    let mut map = ErrorMap::new(4, ErrorMapSettings::default())?;
    map.update(&tensor(&[0u32, 1]), &tensor(&[0.25f32, 0.75]))?;
    let pmf = map.pmf(0.0)?.to_vec1::<f64>()?;
    for (p, expected) in pmf.iter().zip([0.125, 0.375, 0.25, 0.25]) {
        assert!((p - expected).abs() < 1e-6, "{pmf:?}");
    }
    assert_eq!((map.mean(), map.visited_fraction()), (0.5, 0.5));
    Ok(())
}

#[test]
fn the_map_follows_the_op_and_caps() -> Result<()> {
    for len in SIZES {
        let settings = ErrorMapSettings { decay: 0.9, cap: 0.5, ..Default::default() };
        let plain = tensor(&vec![-0.0f32; len]);
        let mut map = ErrorMap::new(len, settings)?;
        for step in 0..5 {
            let (indices, values) = random_batch(len, 20_000, step);
            let capped: Vec<f32> = values.iter().map(|v| v.min(0.5)).collect();
            scatter_ema(&plain, &tensor(&indices), &tensor(&capped), f64::from(settings.decay))?;
            let stats = on_threads(1 + step as usize, || map.update(&tensor(&indices), &tensor(&values)))?;
            assert_eq!(stats.capped, values.iter().filter(|&&v| v > 0.5).count());
        }
        assert_eq!(bits(map.values()), bits(&plain.to_vec1()?), "{len} entries");
    }
    Ok(())
}

/// Draws and updates; what was drawn, bit for bit.
fn run(map: &mut ErrorMap, steps: std::ops::Range<u64>) -> Result<Vec<(Vec<u32>, Vec<u32>)>> {
    let mut drawn = Vec::new();
    for step in steps {
        let draws = map.draw(20_000, 0.3, 23, step)?;
        let (indices, p) = unpack(&draws);
        let noise = Rng::new(1, Stream::Init, step);
        let errors: Vec<f32> = (0..).zip(&indices).map(|(k, &i)| (i % 100) as f32 * 0.01 * noise.uniform(k)).collect();
        map.update(&draws.indices, &tensor(&errors))?;
        drawn.push((indices, bits(&p)));
    }
    Ok(drawn)
}

#[test]
fn the_state_continues_with_the_same_bits_on_any_number_of_threads() -> Result<()> {
    let mut whole = ErrorMap::new(10_007, ErrorMapSettings::default())?;
    let expected = on_threads(1, || run(&mut whole, 0..20))?;
    let mut first = ErrorMap::new(10_007, ErrorMapSettings::default())?;
    let mut found = on_threads(2, || run(&mut first, 0..9))?;
    let mut resumed = ErrorMap::from_tensor(&first.to_tensor()?, first.settings())?;
    found.extend(on_threads(5, || run(&mut resumed, 9..20))?);
    assert!(expected == found, "the resumed run drew otherwise");
    assert_eq!(bits(whole.values()), bits(resumed.values()));
    Ok(())
}

/// `torch.multinomial` refuses more than 2^24 categories, and just below gives the second half nothing: its running
/// sum is in f32.
#[test]
fn more_than_two_to_the_24_entries() -> Result<()> {
    let (len, half) = ((1 << 24) + 1, 1 << 23);
    let values: Vec<f32> = (0..len).map(|i| if i < half { 1.0 } else { 0.5 }).collect();
    let num = 30_000;
    let weights = tensor(&values);
    let plain = unpack(&weighted_draw(&weights, num, 0.0, 1, 0)?);
    let mut map = ErrorMap::from_tensor(&weights, ErrorMapSettings::default())?;
    for (indices, _) in [plain, unpack(&map.draw(num, 0.0, 1, 0)?)] {
        let second = indices.iter().filter(|&&i| i as usize >= half).count();
        assert!(second.abs_diff(num / 3) <= 2, "{second} of {num} in the second half");
        // And evenly within a half, up to the stratum at its middle.
        let quarter = indices.iter().filter(|&&i| (i as usize) < half / 2).count();
        assert!(quarter.abs_diff(num / 3) <= 2, "{quarter} of {num} in the first quarter");
    }
    let last = len as u32 - 1;
    map.update(&tensor(&[last]), &tensor(&[0.0f32]))?;
    assert_eq!(map.values()[last as usize], ErrorMapSettings::default().decay * 0.5);
    Ok(())
}

#[test]
fn large_and_tiny_weights() -> Result<()> {
    for scale in [f32::MIN_POSITIVE, 1e-20, 1.0, 1e30] {
        let (indices, p) = unpack(&weighted_draw(&tensor(&[scale, 3.0 * scale]), 8, 0.0, 1, 0)?);
        // The border lies a rounding below two strata of eight.
        assert!(indices.iter().filter(|&&i| i == 0).count().abs_diff(2) <= 1, "scale {scale}: {indices:?}");
        assert!((p[0] - 0.25).abs() < 1e-6 && (p[7] - 0.75).abs() < 1e-6, "scale {scale}: {p:?}");
    }
    assert_eq!(weighted_draw(&tensor(&[1.0f32]), 0, 0.0, 1, 0)?.indices.dims(), [0]);
    Ok(())
}

#[test]
fn what_cannot_be_drawn_from_is_refused() {
    let draw = |weights: &Tensor, fraction| weighted_draw(weights, 4, fraction, 0, 0).map(|_| ());
    let map = |len, decay, cap| ErrorMap::new(len, ErrorMapSettings { decay, cap, ..Default::default() }).map(|_| ());
    let nan_map = ErrorMap::from_tensor(&tensor(&[f32::NAN]), ErrorMapSettings::default()).map(|_| ());
    assert_refusals(vec![
        ("NaN weight", draw(&tensor(&[1.0, f32::NAN]), 0.1), "at 1"),
        ("infinite weight", draw(&tensor(&[f32::INFINITY]), 0.1), "at 0"),
        ("negative weight", draw(&tensor(&[0.0f32, 2.0, -1.0]), 0.1), "at 2"),
        ("all zero", draw(&tensor(&[0.0f32, 0.0]), 0.0), "only zeros"),
        ("no weight", draw(&tensor::<f32>(&[]), 0.1), "entries"),
        ("dtype", draw(&tensor(&[1.0f64]), 0.1), "F32"),
        ("fraction", draw(&tensor(&[1.0f32]), 1.0), "uniform_fraction"),
        ("NaN fraction", draw(&tensor(&[1.0f32]), f64::NAN), "uniform_fraction"),
        ("strided", draw(&strided(4), 0.1), "contiguous"),
        ("decay", map(4, -0.1, 1.0), "decay"),
        ("cap", map(4, 0.5, 0.0), "cap"),
        ("NaN cap", map(4, 0.5, f32::NAN), "cap"),
        ("cap too small to divide by", map(4, 0.5, 1e-35), "cap"),
        ("empty map", map(0, 0.5, 1.0), "entries"),
        ("NaN map", nan_map, "finite"),
    ]);
}
