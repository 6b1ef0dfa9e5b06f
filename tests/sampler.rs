//! Does the sampler draw what it says, learn where the error is, and go on where it stopped?

use candle_core::{DType, Device, Tensor};
use candle_radfoam::{
    Result,
    data::{Draw, Sampler, SamplerConfig, Strategy},
};

const SHAPES: [[u32; 2]; 3] = [[30, 41], [1, 1], [16, 24]];
const NUM_RAYS: usize = 30 * 41 + 1 + 16 * 24;

fn config(strategy: Strategy, patch: u32) -> SamplerConfig {
    SamplerConfig { strategy, patch, batch_size: 1000, seed: 4, ..Default::default() }
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
    for strategy in [Strategy::None, Strategy::Uniform, Strategy::ErrorWeighted] {
        let config = SamplerConfig { warmup_steps: 3, ..config(strategy, 4) };
        let mut whole = Sampler::new(&SHAPES, config.clone())?;
        let mut first = Sampler::new(&SHAPES, config)?;
        run(&mut whole, 7)?;
        run(&mut first, 7)?;
        let (tensors, header) = first.state()?;
        let json = serde_json::to_string(&header).unwrap();
        let mut resumed = Sampler::from_state(&tensors, serde_json::from_str(&json).unwrap())?;
        assert_eq!(resumed.step(), 7);
        assert!(run(&mut whole, 10)? == run(&mut resumed, 10)?, "{strategy:?}: the resumed run drew otherwise");
        assert_eq!(whole.stats(), resumed.stats());
    }
    Ok(())
}

#[test]
fn strategies_have_the_names_of_the_flag() {
    for (strategy, name) in
        [(Strategy::None, "none"), (Strategy::Uniform, "uniform"), (Strategy::ErrorWeighted, "error-weighted")]
    {
        assert_eq!(serde_json::to_value(strategy).unwrap(), name);
        assert_eq!(serde_json::from_value::<Strategy>(name.into()).unwrap(), strategy);
    }
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
