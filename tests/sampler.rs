//! Does the sampler draw what it says, learn where the error is, and go on where it stopped?

#[path = "common/strategies.rs"]
mod strategies;

use candle_core::{DType, Device, Tensor};
use candle_radfoam::{
    Result,
    data::{Bitmap, Draw, Failure, OnFailure, Sampler, SamplerConfig, Strategy},
};
use strategies::STRATEGIES;

const SHAPES: [[u32; 2]; 3] = [[30, 41], [1, 1], [16, 24]];
const NUM_RAYS: usize = 30 * 41 + 1 + 16 * 24;

fn config(strategy: Strategy, patch: u32) -> SamplerConfig {
    let (warmup_steps, uniform_fraction) = (0, 0.3);
    SamplerConfig { strategy, patch, batch_size: 1000, seed: 4, warmup_steps, uniform_fraction, ..Default::default() }
}

fn tensor(values: &[f32]) -> Tensor {
    Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap()
}

/// The errors of a draw's rays by a function of the ray.
fn errors(draw: &Draw, error: impl Fn(u32) -> f32) -> Tensor {
    tensor(&draw.indices_slice().iter().map(|&ray| error(ray)).collect::<Vec<_>>())
}

/// Draws and updates; what was drawn, bit for bit.
fn run(sampler: &mut Sampler, steps: usize) -> Result<Vec<(Vec<u32>, Vec<u32>)>> {
    let mut drawn = Vec::new();
    for step in 0..steps {
        let draw = sampler.draw()?;
        let p = draw.probability_slice().iter().map(|p| p.to_bits()).collect();
        drawn.push((draw.indices_slice().to_vec(), p));
        let errors = errors(&draw, |ray| (ray % 97) as f32 * 1e-3 + step as f32 * 1e-4);
        sampler.update(draw, &errors)?;
    }
    Ok(drawn)
}

#[test]
fn uniform_draws_are_uniform_over_rays_whatever_the_patch() -> Result<()> {
    for strategy in [Strategy::None, Strategy::Uniform] {
        for patch in [1, 5, 8, 100] {
            let mut sampler = Sampler::new(&SHAPES, config(strategy, patch))?;
            assert_eq!(sampler.num_rays() as usize, NUM_RAYS);
            let mut counts = vec![0.0; NUM_RAYS];
            let steps = 400;
            for _ in 0..steps {
                let draw = sampler.draw()?;
                for (&ray, &p) in draw.indices_slice().iter().zip(draw.probability_slice()) {
                    counts[ray as usize] += 1.0;
                    assert_eq!(p, (1.0 / NUM_RAYS as f64) as f32);
                }
                assert!(draw.importance_vec(1.0).iter().all(|w| (w - 1.0).abs() < 1e-6));
                if patch == 1 {
                    assert!(draw.indices_slice().is_sorted());
                }
                let errors = errors(&draw, |ray| ray as f32);
                sampler.update(draw, &errors)?;
            }
            let expected = (steps * 1000) as f64 / NUM_RAYS as f64;
            for (ray, count) in counts.iter().enumerate() {
                // Six deviations of a Poisson number, which varies more.
                assert!((count - expected).abs() < 6.0 * expected.sqrt(), "ray {ray}: {count}, expected {expected}");
            }
            let visited = if strategy == Strategy::None { 0.0 } else { 1.0 };
            assert_eq!(sampler.stats().visited_fraction, visited);
            assert_eq!(sampler.stats().weighted_share, 0.0);
            assert_eq!(sampler.state()?.0.len(), visited as usize);
        }
    }
    Ok(())
}

/// Hot pixels of squared error 0.25 among cold ones of 0.0025: residuals 0.5 and 0.05, that is ten to one.
#[test]
fn planted_errors_are_drawn_in_proportion() -> Result<()> {
    let is_hot = |ray: u32| ray % 10 == 3;
    let error = |ray: u32| if is_hot(ray) { 0.25 } else { 0.0025 };
    let num_hot = (0..NUM_RAYS as u32).filter(|&ray| is_hot(ray)).count() as f64;
    for uniform_fraction in [0.0, 0.3] {
        let mut sampler =
            Sampler::new(&SHAPES, SamplerConfig { uniform_fraction, ..config(Strategy::ErrorWeighted, 1) })?;
        let (mut hot, mut total) = (0.0, 0.0);
        for step in 0..300 {
            let draw = sampler.draw()?;
            if step >= 100 {
                hot += draw.indices_slice().iter().filter(|&&ray| is_hot(ray)).count() as f64;
                total += draw.len() as f64;
                // The mean of a batch's weighted errors estimates the mean over all rays.
                let weights = draw.importance_vec(1.0);
                let mean: f32 =
                    draw.indices_slice().iter().zip(&weights).map(|(&ray, w)| w * error(ray)).sum::<f32>() / 1000.0;
                let expected = (num_hot * 0.25 + (NUM_RAYS as f64 - num_hot) * 0.0025) as f32 / NUM_RAYS as f32;
                assert!((mean / expected - 1.0).abs() < 0.25, "step {step}: mean {mean}, expected {expected}");
            }
            let errors = errors(&draw, error);
            sampler.update(draw, &errors)?;
        }
        assert_eq!(sampler.stats().visited_fraction, 1.0);
        let (n, cold) = (NUM_RAYS as f64, NUM_RAYS as f64 - num_hot);
        let expected =
            (1.0 - uniform_fraction) * 0.5 * num_hot / (0.5 * num_hot + 0.05 * cold) + uniform_fraction * num_hot / n;
        // Four deviations of a binomial share, which varies more.
        let tolerance = 4.0 * (expected * (1.0 - expected) / total).sqrt();
        assert!((hot / total - expected).abs() < tolerance, "{} hot, expected {expected}", hot / total);
    }
    Ok(())
}

#[test]
fn patches_share_an_entry_and_rays_split_its_probability() -> Result<()> {
    let mut sampler = Sampler::new(&[[64, 64]], config(Strategy::ErrorWeighted, 8))?;
    // A hot square of 16 pixels at the top left.
    let is_hot = |ray: u32| ray / 64 < 16 && ray % 64 < 16;
    let (mut counts, mut expected) = (vec![0.0; 64 * 64], vec![0.0; 64 * 64]);
    for step in 0..500 {
        let draw = sampler.draw()?;
        if step >= 100 {
            for (&ray, &p) in draw.indices_slice().iter().zip(draw.probability_slice()) {
                counts[ray as usize] += 1.0;
                // All errors are constant and all entries visited, so p is that of every step.
                expected[ray as usize] = f64::from(p) * 400.0 * 1000.0;
            }
        }
        let entries: Vec<u32> = draw.indices_slice().iter().map(|ray| ray / 64 / 8 * 8 + ray % 64 / 8).collect();
        assert!(entries.is_sorted(), "rays are grouped by entry");
        let errors = errors(&draw, |ray| if is_hot(ray) { 0.25 } else { 0.01 });
        sampler.update(draw, &errors)?;
    }
    let image = sampler.map_image(0)?.to_vec2::<f32>()?;
    for (row, values) in image.iter().enumerate() {
        for (column, value) in values.iter().enumerate() {
            let expected = if row < 2 && column < 2 { 0.5 } else { 0.1 };
            assert!((value - expected).abs() < 1e-5, "entry ({row}, {column}): {value}, expected {expected}");
        }
    }
    let chi_squared: f64 = counts.iter().zip(&expected).map(|(c, e): (&f64, &f64)| (c - e).powi(2) / e).sum();
    // Inside a patch pixels are independent: at most the mean and deviation of the multinomial's statistic.
    let freedom = 64.0 * 64.0 - 1.0;
    assert!(chi_squared < freedom + 5.0 * f64::sqrt(2.0 * freedom), "chi squared {chi_squared} for {freedom}");
    let sum: f64 = expected.iter().sum::<f64>() / (400.0 * 1000.0);
    assert!((sum - 1.0).abs() < 1e-4, "the probabilities of all rays sum to {sum}");
    Ok(())
}

/// The live step must reach the test for warm-up.
#[test]
fn warm_up_ends_at_its_step() -> Result<()> {
    let mut sampler = Sampler::new(&SHAPES, SamplerConfig { warmup_steps: 5, ..config(Strategy::ErrorWeighted, 4) })?;
    for step in 0..10 {
        let draw = sampler.draw()?;
        let uniform = draw.probability_slice().iter().all(|&p| p == (1.0 / NUM_RAYS as f64) as f32);
        assert_eq!((draw.step(), uniform), (step, step < 5));
        let errors = errors(&draw, |ray| ray as f32 / NUM_RAYS as f32);
        sampler.update(draw, &errors)?;
    }
    assert_eq!(sampler.stats().weighted_share, 0.5);
    Ok(())
}

#[test]
fn a_resumed_sampler_draws_the_same_bits() -> Result<()> {
    let in_use = some_in_use();
    for (strategy, in_use) in STRATEGIES.into_iter().flat_map(|s| [(s, None), (s, Some(&in_use))]) {
        let config = SamplerConfig { warmup_steps: 3, ..config(strategy, 4) };
        let mut whole = Sampler::with_in_use(&SHAPES, in_use, config.clone())?;
        let mut first = Sampler::with_in_use(&SHAPES, in_use, config)?;
        run(&mut whole, 67)?;
        run(&mut first, 67)?;
        let (tensors, header) = first.state()?;
        let json = serde_json::to_string(&header).unwrap();
        let mut resumed = Sampler::from_state(&tensors, serde_json::from_str(&json).unwrap())?;
        assert_eq!(resumed.step(), 67);
        assert!(run(&mut whole, 10)? == run(&mut resumed, 10)?, "{strategy:?}: the resumed run drew otherwise");
        assert_eq!(whole.stats(), resumed.stats());
    }
    Ok(())
}

#[test]
fn strategies_have_the_names_of_the_flag() {
    for (strategy, name) in [
        (Strategy::None, r#""none""#),
        (Strategy::Uniform, r#""uniform""#),
        (Strategy::Epoch, r#""epoch""#),
        (Strategy::ErrorWeighted, r#""error-weighted""#),
        (Strategy::Spatial { patch: 2 }, r#"{"spatial":{"patch":2}}"#),
        (Strategy::TopK { pool: 0.5 }, r#"{"top-k":{"pool":0.5}}"#),
        (Strategy::Mixed { error_fraction: 0.7 }, r#"{"mixed":{"error_fraction":0.7}}"#),
        (Strategy::Adaptive, r#""adaptive""#),
    ] {
        assert_eq!(serde_json::to_string(&strategy).unwrap(), name);
        assert_eq!(serde_json::from_str::<Strategy>(name).unwrap(), strategy);
        let config = SamplerConfig { strategy, ..Default::default() };
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<SamplerConfig>(&text).unwrap(), config, "{text}");
    }
    let read = |text: &str| toml::from_str::<SamplerConfig>(text);
    assert_eq!(read("strategy = { mixed = {} }").unwrap().strategy, Strategy::Mixed { error_fraction: 0.7 });
    // As it was written before there were any others.
    let old = read("strategy = \"error-weighted\"\npatch = 8\nerror_power = 0.5").unwrap();
    assert_eq!((old.strategy, old.map_patch()), (Strategy::ErrorWeighted, 8));
    assert!(read("strategy = { spatial = { pool = 0.5 } }").is_err());
    assert!(read("strategies = \"uniform\"").is_err());
}

#[test]
fn seeds_and_steps_differ() -> Result<()> {
    let draw = |seed| Sampler::new(&SHAPES, SamplerConfig { seed, ..config(Strategy::ErrorWeighted, 8) })?.draw();
    assert_ne!(draw(1)?.indices_slice(), draw(2)?.indices_slice());
    assert_eq!(draw(1)?.indices_slice(), draw(1)?.indices_slice());
    let mut sampler = Sampler::new(&SHAPES, config(Strategy::Uniform, 8))?;
    assert_ne!(sampler.draw()?.indices_slice(), sampler.draw()?.indices_slice());
    Ok(())
}

#[test]
fn the_map_survives_a_change_of_resolution() -> Result<()> {
    let mut sampler = Sampler::new(&[[32, 32], [16, 8]], config(Strategy::ErrorWeighted, 4))?;
    for _ in 0..30 {
        let draw = sampler.draw()?;
        // The left half of the first view is hot.
        let errors = errors(&draw, |ray| if ray < 1024 && ray % 32 < 16 { 0.25 } else { 0.01 });
        sampler.update(draw, &errors)?;
    }
    let before = sampler.map_image(0)?;
    let stale = sampler.draw()?;
    sampler.resample(&[[64, 64], [32, 16]])?;
    let up = sampler.map_image(0)?;
    assert_eq!(up.dims(), [16, 16]);
    let repeated = before.unsqueeze(1)?.unsqueeze(3)?.broadcast_as((8, 2, 8, 2))?.reshape((16, 16))?;
    assert_eq!(up.to_vec2::<f32>()?, repeated.to_vec2::<f32>()?, "doubling repeats each entry");
    let len = stale.len();
    assert!(sampler.update(stale, &tensor(&vec![0.0; len])).is_err(), "its entries are no longer those of the map");

    sampler.resample(&[[16, 16], [8, 4]])?;
    let down = sampler.map_image(0)?.to_vec2::<f32>()?;
    assert_eq!((down.len(), down[0].len()), (4, 4));
    assert!(down.iter().all(|row| row[..2].iter().all(|&v| v > 0.3) && row[2..].iter().all(|&v| v < 0.2)), "{down:?}");
    assert!(sampler.resample(&[[16, 16]]).is_err(), "one view is missing");
    run(&mut sampler, 2)?;
    Ok(())
}

#[test]
fn bad_errors_are_counted_and_stay_out() -> Result<()> {
    let mut sampler = Sampler::new(&SHAPES, config(Strategy::ErrorWeighted, 8))?;
    let draw = sampler.draw()?;
    let mut errors = vec![0.04f32; 1000];
    (errors[0], errors[1], errors[2], errors[3]) = (f32::NAN, f32::INFINITY, -1.0, 9.0);
    let stats = sampler.update(draw, &tensor(&errors))?;
    assert_eq!((stats.skipped_non_finite, stats.negative, stats.capped, stats.updated), (2, 1, 1, 998));
    let totals = sampler.stats();
    assert_eq!((totals.skipped_non_finite, totals.negative, totals.capped), (2, 1, 1));
    assert!(totals.mean_error > 0.1 && totals.mean_error < 0.3, "{totals:?}");
    Ok(())
}

#[test]
fn updates_are_in_order_and_of_the_right_length() -> Result<()> {
    let zeros = |len: usize| tensor(&vec![0.0; len]);
    for strategy in [Strategy::None, Strategy::ErrorWeighted] {
        let mut sampler = Sampler::new(&SHAPES, config(strategy, 8))?;
        let (first, second, third) = (sampler.draw()?, sampler.draw()?, sampler.draw()?);
        sampler.update(second, &zeros(1000))?;
        assert!(sampler.update(first, &zeros(1000)).is_err(), "older than the last update");
        assert!(sampler.update(third, &zeros(999)).is_err(), "one error is missing");
        let fourth = sampler.draw()?;
        assert!(sampler.update(fourth, &zeros(1000).to_dtype(DType::F64)?).is_err(), "f64");
        let mut other = Sampler::new(&SHAPES, config(strategy, 8))?;
        let ahead = sampler.draw()?;
        assert!(other.update(ahead, &zeros(1000)).is_err(), "a draw that this sampler has not made");
    }
    Ok(())
}

#[test]
fn any_batch_size_works() -> Result<()> {
    for batch_size in [1, 17, 10_007, 1_048_576] {
        for strategy in [Strategy::Uniform, Strategy::ErrorWeighted] {
            let mut sampler = Sampler::new(&SHAPES, SamplerConfig { batch_size, ..config(strategy, 8) })?;
            for _ in 0..2 {
                let draw = sampler.draw()?;
                assert_eq!((draw.indices()?.dims1()?, draw.probability()?.dims1()?), (batch_size, batch_size));
                assert!(draw.indices_slice().iter().all(|&ray| (ray as usize) < NUM_RAYS));
                let errors = errors(&draw, |ray| ray as f32 * 1e-4);
                sampler.update(draw, &errors)?;
            }
        }
    }
    Ok(())
}

#[test]
fn settings_out_of_range_are_refused() {
    let default = SamplerConfig::default;
    let cases = [
        ("batch_size", SamplerConfig { batch_size: 0, ..default() }),
        ("uniform_fraction", SamplerConfig { uniform_fraction: 1.0, ..default() }),
        ("uniform_fraction", SamplerConfig { uniform_fraction: f64::NAN, ..default() }),
        ("decay", SamplerConfig { decay: -0.5, ..default() }),
        ("patch", SamplerConfig { patch: 0, ..default() }),
        ("patch", SamplerConfig { strategy: Strategy::Spatial { patch: 0 }, ..default() }),
        ("pool", SamplerConfig { strategy: Strategy::TopK { pool: 0.0 }, ..default() }),
        ("pool", SamplerConfig { strategy: Strategy::TopK { pool: f64::NAN }, ..default() }),
        ("error_fraction", SamplerConfig { strategy: Strategy::Mixed { error_fraction: 0.0 }, ..default() }),
        ("error_fraction", SamplerConfig { strategy: Strategy::Mixed { error_fraction: 1.1 }, ..default() }),
        ("importance_exponent", SamplerConfig { importance_exponent: -1.0, ..default() }),
        ("lag", SamplerConfig { lag: 2, ..default() }),
        ("error_power", SamplerConfig { error_power: 0.0, ..default() }),
        ("error_cap", SamplerConfig { error_cap: f32::INFINITY, ..default() }),
    ];
    for (field, config) in cases {
        let message = Sampler::new(&SHAPES, config).expect_err(field).to_string();
        assert!(message.contains(field), "{field}: {message}");
    }
    for shapes in [&[][..], &[[0, 5]], &[[u32::MAX, 1]], &[[65_536, 65_535], [1, 65_535]]] {
        let message = Sampler::new(shapes, default()).expect_err("shapes").to_string();
        assert!(message.contains("shapes"), "{shapes:?}: {message}");
    }
    let (tensors, header) = Sampler::new(&SHAPES, default()).unwrap().state().unwrap();
    assert!(Sampler::from_state(&Default::default(), header.clone()).is_err(), "no map");
    let mut other = header;
    other.config.patch = 1;
    assert!(Sampler::from_state(&tensors, other).is_err(), "a map of another patch size");
}

/// About half of the pixels: patches that are whole, parts and empty; the second view has none.
fn some_in_use() -> Bitmap {
    let first = 30 * 41;
    let in_use = |pixel: usize| if pixel < first { pixel % 41 / 6 % 2 != 1 } else { pixel > first && pixel % 3 < 1 };
    Bitmap::from_fn(NUM_RAYS, in_use).unwrap()
}

/// The probability of every ray, spelled out from the map.
fn expected_pmf(sampler: &Sampler, in_use: Option<&Bitmap>) -> Vec<f64> {
    let (config, patch) = (sampler.config(), sampler.config().map_patch());
    let mut rays = Vec::new();
    let mut first = 0;
    for (view, &[height, width]) in SHAPES.iter().enumerate() {
        let image = sampler.map_image(view).unwrap().to_vec2::<f32>().unwrap();
        let (rows, columns) = (height.div_ceil(patch), width.div_ceil(patch));
        // Part k of n nearly equal parts of a side begins at floor(k * side / n).
        let part = |at: u32, parts: u32, side: u32| (0..parts).rfind(|k| k * side / parts <= at).unwrap();
        for pixel in 0..height * width {
            let (row, column) = (part(pixel / width, rows, height), part(pixel % width, columns, width));
            if in_use.is_none_or(|in_use| in_use.get((first + pixel) as usize)) {
                let entry = (view, row, column);
                rays.push((first + pixel, entry, f64::from(image[row as usize][column as usize])));
            }
        }
        first += height * width;
    }
    let mut areas = std::collections::BTreeMap::new();
    for (_, entry, error) in &rays {
        areas.entry(*entry).or_insert((0.0, *error)).0 += 1.0;
    }
    let (n, num_entries) = (rays.len() as f64, areas.len() as f64);
    let masked = in_use.is_some() && patch > 1;
    let weigh = |(area, error): &(f64, f64)| if masked { area * error } else { *error };
    let total: f64 = areas.values().map(weigh).sum();
    let by_error = |u: f64, entry| {
        let (area, _) = areas[entry];
        let even = if masked { u / n } else { u / num_entries / area };
        (1.0 - u) * weigh(&areas[entry]) / total / area + even
    };
    let u = config.uniform_fraction;
    let mut pool: Vec<_> = areas.iter().collect();
    pool.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
    let mut pmf = vec![0.0; NUM_RAYS];
    for (ray, entry, error) in &rays {
        pmf[*ray as usize] = match config.strategy {
            Strategy::None | Strategy::Uniform | Strategy::Epoch => 1.0 / n,
            Strategy::ErrorWeighted | Strategy::Spatial { .. } => by_error(u, entry),
            Strategy::Mixed { error_fraction } => by_error(1.0 - error_fraction, entry),
            Strategy::Adaptive => match sampler.stats().uniform_share {
                1.0 => 1.0 / n,
                share => by_error(share, entry),
            },
            Strategy::TopK { pool: share } => {
                let size = (share * num_entries).ceil();
                let inside = *error >= pool[size as usize - 1].1.1;
                u / n + if inside { (1.0 - u) / size / areas[entry].0 } else { 0.0 }
            }
        };
    }
    pmf
}

/// Every strategy, with and without pixels left out: what it says is what it draws.
#[test]
fn probabilities_are_those_of_the_docs_and_of_the_draws() -> Result<()> {
    let (half, mut failures) = (some_in_use(), Vec::new());
    for (strategy, in_use, patch) in
        STRATEGIES.into_iter().flat_map(|s| [(s, None, 1), (s, None, 5), (s, Some(&half), 1), (s, Some(&half), 5)])
    {
        let config = SamplerConfig { decay: 0.0, ..config(strategy, patch) };
        let mut sampler = Sampler::with_in_use(&SHAPES, in_use, config)?;
        // Every ray has another error (1619 is a prime above their number), and an entry that of its last one.
        let error = |ray: u32| ((ray * 7919 % 1619) as f32 + 1.0) / 1620.0;
        for _ in 0..if strategy == Strategy::Adaptive { 96 } else { 20 } {
            let draw = sampler.draw()?;
            let errors = errors(&draw, error);
            sampler.update(draw, &errors)?;
        }
        let case = format!("{strategy:?}, patch {patch}, {} in use", sampler.num_rays());
        let pmf = expected_pmf(&sampler, in_use);
        let sum: f64 = pmf.iter().sum();
        if (sum - 1.0).abs() > 1e-6 {
            failures.push(format!("{case}: the spelled out probabilities sum to {sum}"));
        }
        let (mut counts, draws) = (vec![0.0; NUM_RAYS], 400);
        // Draws alone, so that the map stays as it is.
        for _ in 0..draws {
            let draw = sampler.draw()?;
            for (&ray, &p) in draw.indices_slice().iter().zip(draw.probability_slice()) {
                counts[ray as usize] += 1.0;
                // Masses are of 22 bits, and the mean is of those.
                if (f64::from(p) / pmf[ray as usize] - 1.0).abs() > 1e-3 {
                    failures.push(format!("{case}: ray {ray} has {p}, expected {}", pmf[ray as usize]));
                }
            }
        }
        let all = draws as f64 * 1000.0;
        let bins = pmf.iter().zip(&counts).filter(|(p, _)| **p > 0.0);
        let freedom = bins.clone().count() as f64 - 1.0;
        let chi_squared: f64 = bins.map(|(p, count)| (count - all * p).powi(2) / (all * p)).sum();
        // Stratified draws spread less than independent ones.
        if chi_squared > freedom + 5.0 * (2.0 * freedom).sqrt() {
            failures.push(format!("{case}: chi-squared {chi_squared:.0} of {freedom}"));
        }
        if pmf.iter().zip(&counts).any(|(p, count)| *p == 0.0 && *count > 0.0) {
            failures.push(format!("{case}: a ray of probability 0 was drawn"));
        }
    }
    failures.truncate(20);
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    Ok(())
}

/// An entry without error keeps a unit of mass: seldom drawn, and then with the probability that it had.
#[test]
fn what_is_drawn_has_a_probability() -> Result<()> {
    let half = some_in_use();
    for in_use in [None, Some(&half)] {
        let config = SamplerConfig { uniform_fraction: 0.0, decay: 0.0, ..config(Strategy::ErrorWeighted, 5) };
        let mut sampler = Sampler::with_in_use(&SHAPES, in_use, config)?;
        // Half of the patches have no error, the others one of a few units of mass.
        let error = |ray: u32| if ray % 41 < 20 { 0.0 } else { 1e-11 };
        let mut num_zeros = 0;
        for _ in 0..200 {
            let draw = sampler.draw()?;
            assert!(draw.probability_slice().iter().all(|&p| p > 0.0), "in use: {}", in_use.is_some());
            num_zeros += draw.indices_slice().iter().filter(|&&ray| error(ray) == 0.0).count();
            let ess = sampler.stats().effective_sample_size;
            assert!(ess > 0.0 && ess <= 1.0 + 1e-9, "{ess}");
            let weights = draw.importance_vec(1.0);
            let mean = weights.iter().map(|&w| f64::from(w)).sum::<f64>() / weights.len() as f64;
            assert!((mean - 1.0).abs() < 0.5, "the weights of a batch have a mean of about 1, and not of {mean}");
            let errors = errors(&draw, error);
            sampler.update(draw, &errors)?;
        }
        assert!(num_zeros > 1000, "{num_zeros}: or this tests nothing");
    }
    Ok(())
}

/// Another resolution begins another epoch: what was half gone through among the old rays is not among the new ones.
#[test]
fn an_epoch_begins_anew_with_the_resolution() -> Result<()> {
    let mut sampler = Sampler::new(&[[10, 10]], SamplerConfig { batch_size: 150, ..config(Strategy::Epoch, 4) })?;
    sampler.draw()?;
    sampler.resample(&[[20, 15]])?;
    let mut drawn = [sampler.draw()?, sampler.draw()?].map(|draw| draw.indices_slice().to_vec()).concat();
    drawn.sort_unstable();
    assert!(drawn.iter().copied().eq(0..300));
    Ok(())
}

#[test]
fn an_epoch_is_every_ray_once() -> Result<()> {
    let half = some_in_use();
    for (in_use, batch_size) in [(None, 100), (None, 2000), (Some(&half), 77), (Some(&half), 1)] {
        let config = SamplerConfig { batch_size, ..config(Strategy::Epoch, 4) };
        let mut sampler = Sampler::with_in_use(&SHAPES, in_use, config)?;
        let num_rays = sampler.num_rays() as usize;
        let (mut counts, mut drawn) = (vec![0usize; NUM_RAYS], 0);
        for _ in 0..(3 * num_rays).div_ceil(batch_size) {
            let draw = sampler.draw()?;
            draw.indices_slice().iter().for_each(|&ray| counts[ray as usize] += 1);
            drawn += draw.len();
            let is_ray = |ray: usize| in_use.is_none_or(|in_use| in_use.get(ray));
            let (whole, rest) = (drawn / num_rays, drawn % num_rays);
            for (ray, &count) in counts.iter().enumerate().filter(|(ray, _)| is_ray(*ray)) {
                assert!(count == whole || (rest > 0 && count == whole + 1), "ray {ray}: {count} of {drawn} draws");
            }
        }
        let none = counts.iter().filter(|&&count| count == 0).count();
        assert_eq!(none, NUM_RAYS - num_rays);
    }
    Ok(())
}

#[test]
fn ties_of_a_pool_go_to_the_first() -> Result<()> {
    let strategy = Strategy::TopK { pool: 0.25 };
    let mut sampler =
        Sampler::new(&[[10, 10]], SamplerConfig { uniform_fraction: 0.0, decay: 0.0, ..config(strategy, 1) })?;
    let draw = sampler.draw()?;
    assert!(draw.indices_slice().iter().all(|&ray| ray < 25), "nothing was visited: all count alike");
    assert!(draw.probability_slice().iter().all(|&p| p == 1.0 / 25.0));
    sampler.update(draw, &tensor(&[0.25; 1000]))?;
    // Those that were never visited count with the mean, which is that of the others.
    assert!(sampler.draw()?.indices_slice().iter().all(|&ray| ray < 25));
    Ok(())
}

#[test]
fn weights_are_bounded_and_ramp_up() -> Result<()> {
    for strategy in [Strategy::ErrorWeighted, Strategy::TopK { pool: 0.1 }, Strategy::Mixed { error_fraction: 0.8 }] {
        let config = SamplerConfig {
            uniform_fraction: 0.2,
            importance_exponent: 1.0,
            importance_ramp_steps: 10,
            ..config(strategy, 1)
        };
        let mut sampler = Sampler::new(&SHAPES, config)?;
        for step in 0..30 {
            let draw = sampler.draw()?;
            let exponent = if step < 10 { step as f32 / 10.0 } else { 1.0 };
            assert!((draw.importance_exponent() - exponent).abs() < 1e-6, "step {step}");
            let weights = draw.weights()?.to_vec1::<f32>()?;
            assert!(weights.iter().all(|&w| w > 0.0 && w <= 5.0 * 1.001), "{strategy:?}");
            let stats = sampler.stats();
            let w = draw.importance_vec(1.0);
            let (sum, squares) = w.iter().fold((0.0, 0.0), |(a, b), &w| (a + f64::from(w), b + f64::from(w).powi(2)));
            let expected = sum * sum / (1000.0 * squares);
            assert!((stats.effective_sample_size - expected).abs() < 1e-5, "{strategy:?}, step {step}: {stats:?}");
            let errors = errors(&draw, |ray| if ray % 50 == 0 { 0.25 } else { 1e-6 });
            sampler.update(draw, &errors)?;
        }
        assert_eq!(sampler.stats().max_error, 0.5);
    }
    Ok(())
}

#[test]
fn failures_are_said_or_counted() -> Result<()> {
    let zeros = |draw: &Draw| tensor(&vec![0.0; draw.len()]);
    for strategy in [Strategy::ErrorWeighted, Strategy::TopK { pool: 0.3 }, Strategy::Mixed { error_fraction: 1.0 }] {
        let config = |on_failure| SamplerConfig { uniform_fraction: 0.0, on_failure, ..config(strategy, 4) };
        let mut strict = Sampler::new(&SHAPES, config(OnFailure::Error))?;
        let draw = strict.draw()?;
        let errors = zeros(&draw);
        strict.update(draw, &errors)?;
        let message = strict.draw().expect_err("a map of zeros").to_string();
        assert!(message.contains("all errors of the map are 0"), "{message}");
        assert_eq!((strict.step(), strict.stats().fallbacks), (1, 0));

        let mut lenient = Sampler::new(&SHAPES, config(OnFailure::Uniform))?;
        let draw = lenient.draw()?;
        lenient.update(draw, &errors)?;
        for fallbacks in 1..4 {
            let draw = lenient.draw()?;
            assert!(draw.probability_slice().iter().all(|&p| p == (1.0 / NUM_RAYS as f64) as f32));
            let stats = lenient.stats();
            assert_eq!((stats.fallbacks, stats.failure), (fallbacks, Some(Failure::ZeroMap)), "{strategy:?}");
        }
        // With an error to be in proportion to it is back.
        let draw = lenient.draw()?;
        let errors = self::errors(&draw, |_| 0.01);
        lenient.update(draw, &errors)?;
        lenient.draw()?;
        assert_eq!(lenient.stats().fallbacks, 4);

        // Maps that cannot be gone on with.
        let (tensors, header) = lenient.state()?;
        let map = tensors["error_map"].to_vec1::<f32>()?;
        let with = |map: Option<Vec<f32>>| {
            let mut tensors = tensors.clone();
            tensors.remove("error_map");
            tensors.extend(map.map(|map| ("error_map".to_string(), tensor(&map))));
            tensors
        };
        let poisoned = |value: f32| Some(map.iter().skip(1).copied().chain([value]).collect());
        for broken in [None, poisoned(f32::NAN), poisoned(f32::INFINITY), Some(map[1..].to_vec())] {
            let mut strict = header.clone();
            strict.config.on_failure = OnFailure::Error;
            assert!(Sampler::from_state(&with(broken.clone()), strict).is_err());
            let mut anew = Sampler::from_state(&with(broken), header.clone())?;
            let stats = anew.stats();
            assert_eq!((stats.fallbacks, stats.failure), (5, Some(Failure::UnusableMap)));
            assert_eq!(stats.visited_fraction, 0.0);
            anew.draw()?;
        }
    }
    // With a uniform share a map of zeros is followed: evenly, as the formula says.
    let mut sampler = Sampler::new(&SHAPES, config(Strategy::ErrorWeighted, 4))?;
    let draw = sampler.draw()?;
    let errors = zeros(&draw);
    sampler.update(draw, &errors)?;
    sampler.draw()?;
    assert_eq!(sampler.stats().fallbacks, 0);
    Ok(())
}

#[test]
fn one_ray_and_none() -> Result<()> {
    let single = Bitmap::from_fn(NUM_RAYS, |pixel| pixel == 700)?;
    let none = Bitmap::from_fn(NUM_RAYS, |_| false)?;
    let short = Bitmap::from_fn(NUM_RAYS - 1, |_| true)?;
    for strategy in STRATEGIES {
        let mut sampler = Sampler::with_in_use(&SHAPES, Some(&single), config(strategy, 8))?;
        for _ in 0..5 {
            let draw = sampler.draw()?;
            assert!(draw.indices_slice().iter().all(|&ray| ray == 700), "{strategy:?}");
            assert!(draw.probability_slice().iter().all(|&p| (p - 1.0).abs() < 1e-6), "{strategy:?}");
            let errors = errors(&draw, |_| 0.04);
            sampler.update(draw, &errors)?;
        }
        for bad in [&none, &short] {
            let message = Sampler::with_in_use(&SHAPES, Some(bad), config(strategy, 8)).expect_err("none").to_string();
            assert!(message.contains("in_use"), "{message}");
        }
    }
    Ok(())
}

#[test]
fn the_map_is_carried_over_with_pixels_left_out() -> Result<()> {
    let shapes = [[32, 32]];
    // A disc, at any resolution.
    let disc = |side: usize| {
        let inside = |pixel: usize| {
            let [x, y] = [pixel % side, pixel / side].map(|c| (c as f64 + 0.5) / side as f64 - 0.5);
            x * x + y * y < 0.2
        };
        Bitmap::from_fn(side * side, inside).unwrap()
    };
    let mut sampler = Sampler::with_in_use(&shapes, Some(&disc(32)), config(Strategy::ErrorWeighted, 4))?;
    for _ in 0..60 {
        let draw = sampler.draw()?;
        let errors = errors(&draw, |ray| if ray % 32 < 16 { 0.25 } else { 0.01 });
        sampler.update(draw, &errors)?;
    }
    assert!((sampler.stats().mean_error - 0.3).abs() < 0.01, "{:?}", sampler.stats());
    sampler.resample_in_use(&[[64, 64]], Some(&disc(64)))?;
    let image = sampler.map_image(0)?.to_vec2::<f32>()?;
    let (mut wrong, mut right) = (Vec::new(), 0);
    for (row, values) in image.iter().enumerate() {
        for (column, &error) in values.iter().enumerate().filter(|(_, error)| !error.is_nan()) {
            let expected = if column < 8 { 0.5 } else { 0.1 };
            if (error - expected).abs() < 1e-4 { right += 1 } else { wrong.push((row, column, error)) }
        }
    }
    // A patch at the rim may lie in one that had no pixel in use: nothing is known of it, and it shows the mean.
    assert!(right > 150 && wrong.iter().all(|(.., e)| (e - 0.3).abs() < 0.02), "{right} right, wrong {wrong:?}");
    assert!(image[0][0].is_nan() && !image[8][8].is_nan());
    let draw = sampler.draw()?;
    let in_use = disc(64);
    assert!(draw.indices_slice().iter().all(|&ray| in_use.get(ray as usize)));
    Ok(())
}
