//! The trainer on a device against the trainer on the CPU.

use candle_core::{Device, Tensor};
use candle_radfoam::data::{SamplerConfig, Strategy};
use candle_radfoam::foam::Foam;
use candle_radfoam::train::{
    Background, LossConfig, PriorConfig, ResolutionStage, StepStats, TopologyConfig, TrainConfig, Trainer,
};
use candle_radfoam::{Error, Result};
use serde_json::Value;

use crate::capture::{config, dataset, fingerprint};
use crate::device;

fn on(device: &Device, config: &TrainConfig) -> Result<Trainer> {
    Trainer::new(dataset(), config.clone(), device)
}

fn steps(trainer: &mut Trainer, num: usize) -> Result<Vec<StepStats>> {
    (0..num).map(|_| trainer.step()).collect()
}

/// A short run with everything that a step may do: depths, prior, importance weights, random backgrounds.
fn all_of_it() -> TrainConfig {
    let sampler = SamplerConfig {
        batch_size: 700,
        warmup_steps: 2,
        patch: 3,
        strategy: Strategy::Mixed { error_fraction: 0.6 },
        importance_exponent: 0.7,
        lag: 1,
        ..SamplerConfig::default()
    };
    TrainConfig {
        sampler,
        background: Some(Background::Random),
        loss: LossConfig { quantile_weight: 1e-2, ..LossConfig::default() },
        prior: PriorConfig { density: 1e-3, smooth_color: 1e-3, ..PriorConfig::default() },
        topology: TopologyConfig { check_every: 3, moved_limit: 0.1, moved_share: 0.05 },
        ..config(40)
    }
}

fn with_strategy(strategy: Strategy, patch: u32) -> TrainConfig {
    let config = config(40);
    TrainConfig { sampler: SamplerConfig { strategy, patch, warmup_steps: 1, ..config.sampler }, ..config }
}

fn configs() -> [(&'static str, TrainConfig); 5] {
    [
        ("as they come", config(40)),
        ("everything", all_of_it()),
        ("uniform", with_strategy(Strategy::Uniform, 1)),
        ("an entry a ray", with_strategy(Strategy::ErrorWeighted, 1)),
        ("no map", with_strategy(Strategy::None, 4)),
    ]
}

fn flat(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.flatten_all()?.to_vec1()?)
}

/// What the first step leaves in the moments is a tenth of the gradients.
#[test]
fn the_first_step_has_the_loss_and_the_gradients_of_the_cpu() -> Result<()> {
    /// Of the largest of their kind: what a trace may be off by (cuda/README.md).
    const GRADIENT: f32 = 1e-4;
    let Some(gpu) = device() else { return Ok(()) };
    for (name, config) in configs() {
        let (mut found, mut expected) = (on(&gpu, &config)?, on(&Device::Cpu, &config)?);
        let (a, b) = (found.step()?, expected.step()?);
        assert_eq!((a.num_rays, a.cells_entered), (b.num_rays, b.cells_entered), "{name}");
        assert!((a.loss / b.loss - 1.0).abs() < 1e-6, "{name}: loss {} and {}", a.loss, b.loss);
        let (found, expected) = (found.checkpoint(Value::Null)?.tensors, expected.checkpoint(Value::Null)?.tensors);
        for tensor in ["optim.points", "optim.raw_density", "optim.sh", "refine.gradient", "refine.max_weight"] {
            let (a, b) = (flat(&found[tensor])?, flat(&expected[tensor])?);
            let (a, b) =
                if tensor.starts_with("optim") { (&a[..a.len() / 2], &b[..b.len() / 2]) } else { (&a[..], &b[..]) };
            let most = b.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            let off = a.iter().zip(b).fold(0.0f32, |off, (a, b)| off.max((a - b).abs()));
            println!("{name}: {tensor} off by {:.1e} of the largest", off / most);
            assert!(a.len() == b.len() && most > 0.0 && off <= GRADIENT * most, "{name}: {tensor} off by {off:e}");
        }
    }
    Ok(())
}

/// With an `eps` that gradients are not large against: with the usual one a parameter whose gradient is rounding error
/// moves by its whole rate in either direction, and the runs part within some steps, as two orders of the same sums do.
#[test]
fn trains_as_the_cpu_does() -> Result<()> {
    const EPS: f64 = 1e-3;
    /// Of the loss of each step; and of what the CPU moved the farthest parameter of a kind.
    const TOLERANCE: f64 = 5e-4;
    let Some(gpu) = device() else { return Ok(()) };
    let mut failures = Vec::new();
    for (name, mut config) in configs() {
        config.optim.adam.eps = EPS;
        let (mut found, mut expected) = (on(&gpu, &config)?, on(&Device::Cpu, &config)?);
        let start = expected.foam().deep_clone()?;
        let num = 12;
        for (a, b) in steps(&mut found, num)?.into_iter().zip(steps(&mut expected, num)?) {
            let off = (a.loss / b.loss - 1.0).abs().max((a.squared_error / b.squared_error - 1.0).abs());
            let cells = (a.cells_entered as f64 / b.cells_entered as f64 - 1.0).abs();
            println!("{name}, step {}: loss {:.6}, off by {off:.1e}, cells by {cells:.1e}", b.step, b.loss);
            if off > TOLERANCE || cells > TOLERANCE || a.num_rays != b.num_rays || a.rebuilt != b.rebuilt {
                failures.push(format!("{name}: {a:?}, expected {b:?}"));
            }
        }
        let [a, b] = [found.sampler().stats(), expected.sampler().stats()];
        for (what, a, b) in [
            ("effective sample size", a.effective_sample_size, b.effective_sample_size),
            ("weighted share", a.weighted_share, b.weighted_share),
            ("largest error", a.max_error, b.max_error),
            ("capped", a.capped as f64, b.capped as f64),
        ] {
            // With a lag, a device has measured the last batch and the CPU the one after.
            let is_of_another = what == "effective sample size" && config.sampler.lag > 0;
            if !is_of_another && (a - b).abs() > 1e-2 * b.abs() {
                failures.push(format!("{name}: {what} {a}, expected {b}"));
            }
        }
        let of = |foam: &Foam| foam.to_device(&Device::Cpu);
        let (found, expected) = (of(found.foam())?, of(expected.foam())?);
        for (((what, a), (_, b)), (_, from)) in
            found.named_vars().into_iter().zip(expected.named_vars()).zip(start.named_vars())
        {
            let (a, b, from) = (flat(a)?, flat(b)?, flat(from)?);
            let most = b.iter().zip(&from).fold(0.0f32, |most, (b, from)| most.max((b - from).abs()));
            let off = a.iter().zip(&b).fold(0.0f32, |off, (a, b)| off.max((a - b).abs()));
            println!("{name}: {what} off by {:.1e} of what they moved", off / most);
            if a.len() != b.len() || f64::from(off) > TOLERANCE * f64::from(most) || most == 0.0 {
                failures.push(format!("{name}: {what} off by {off:e}, moved by {most:e}"));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

/// Through a change of resolution and refinements, and over an interruption.
#[test]
fn a_run_on_the_device_repeats_to_the_bit() -> Result<()> {
    let Some(gpu) = device() else { return Ok(()) };
    let folder = tempfile::tempdir().map_err(|error| Error::io("a folder", error))?;
    for (name, lag) in [("no lag", 0), ("lag", 1)] {
        let config = config(30);
        let config = TrainConfig {
            sampler: SamplerConfig { lag, ..config.sampler },
            resolution: vec![ResolutionStage { until: 0.5, factor: 2 }, ResolutionStage { until: 1.0, factor: 1 }],
            topology: TopologyConfig { check_every: 4, moved_limit: 0.05, moved_share: 0.01 },
            ..config
        };
        let mut once = on(&gpu, &config)?;
        let told = steps(&mut once, 30)?;
        assert!(told.iter().any(|stats| stats.rebuilt) && told.iter().any(|stats| stats.refined.is_some()), "{name}");
        let mut again = on(&gpu, &config)?;
        steps(&mut again, 26)?;
        let path = folder.path().join(name);
        again.save(&path, Value::Null)?;
        let mut resumed = Trainer::resume(&path, dataset(), &gpu)?;
        steps(&mut again, 4)?;
        steps(&mut resumed, 4)?;
        let expected = fingerprint(&once)?;
        for (what, trainer) in [("again", again), ("resumed", resumed)] {
            let found = fingerprint(&trainer)?;
            for (tensor, bits) in &expected.0 {
                assert!(found.0.get(tensor) == Some(bits), "{name}, {what}: {tensor} has other bits");
            }
            assert_eq!(found.1, expected.1, "{name}, {what}");
        }
        let score = once.evaluate(|_, _, _| Ok(()))?.psnr_db;
        assert!(score > 10.0, "{name}: {score} dB");
    }
    Ok(())
}

/// A checkpoint of either device is one of the other.
#[test]
fn runs_change_their_device() -> Result<()> {
    let Some(gpu) = device() else { return Ok(()) };
    let folder = tempfile::tempdir().map_err(|error| Error::io("a folder", error))?;
    for lag in [0, 1] {
        for (from, to) in [(&gpu, &Device::Cpu), (&Device::Cpu, &gpu)] {
            let config = config(60);
            let config = TrainConfig { sampler: SamplerConfig { lag, ..config.sampler }, ..config };
            let mut trainer = on(from, &config)?;
            steps(&mut trainer, 27)?;
            let path = folder.path().join("checkpoint");
            trainer.save(&path, Value::Null)?;
            let mut moved = Trainer::resume(&path, dataset(), to)?;
            // The same state, to the bit, and the next rays are drawn from it.
            let (before, after) = (fingerprint(&trainer)?, fingerprint(&moved)?);
            for (tensor, bits) in &before.0 {
                assert!(after.0.get(tensor) == Some(bits), "lag {lag}: {tensor} has other bits");
            }
            assert_eq!(before.1, after.1);
            let (expected, found) = (trainer.step()?, moved.step()?);
            let off = (found.loss / expected.loss - 1.0).abs();
            println!("lag {lag}: loss off by {off:.1e}");
            assert!(off < 1e-5 && found.refined == expected.refined, "{found:?}, expected {expected:?}");
        }
    }
    Ok(())
}

/// What crosses over in a step is the same few bytes, however many rays and cells there are.
#[test]
fn a_step_copies_what_is_listed() -> Result<()> {
    let Some(gpu) = device() else { return Ok(()) };
    let usual = config(1000).sampler;
    let with = |strategy, uniform_fraction| SamplerConfig { strategy, uniform_fraction, ..usual.clone() };
    for (name, sampler, more) in [
        ("by error", usual.clone(), [0, 0]),
        ("nothing evenly", with(Strategy::ErrorWeighted, 0.0), [0, 16]),
        ("top-k", with(Strategy::TopK { pool: 0.2 }, 0.1), [16, 0]),
        ("adaptive", with(Strategy::Adaptive, 0.1), [0, 64]),
        ("epoch", with(Strategy::Epoch, 0.1), [0, 0]),
    ] {
        let mut copied = Vec::new();
        for batch_size in [500, 2000] {
            let config = TrainConfig { sampler: SamplerConfig { batch_size, ..sampler.clone() }, ..config(1000) };
            let mut trainer = on(&gpu, &config)?;
            steps(&mut trainer, 12)?;
            let before = trainer.profile();
            steps(&mut trainer, 5)?;
            let after = trainer.profile();
            copied.push([after.bytes_to_device - before.bytes_to_device, after.bytes_to_host - before.bytes_to_host]);
            assert!(trainer.profile().to_string().contains("bytes a step"), "{}", trainer.profile());
        }
        println!("{name}: bytes to and from the device in five steps: {:?}", copied[0]);
        assert_eq!(copied[0], copied[1], "{name}");
        // 23 words of a report each way; learning rates of a cell's values; 1024 places of the prior, and a view for each.
        let expected = [5 * (23 * 8 + 14 * 4 + 1024 * 16 + more[0]), 5 * (23 * 8 + more[1])];
        assert_eq!(copied[0], expected, "{name}");
    }
    Ok(())
}

/// A loss that is not finite stops the step before anything is updated from it.
#[test]
fn nothing_is_updated_from_what_is_not_finite() -> Result<()> {
    let Some(gpu) = device() else { return Ok(()) };
    for lag in [0, 1] {
        let config = config(40);
        let config = TrainConfig { sampler: SamplerConfig { lag, ..config.sampler }, ..config };
        let mut trainer = on(&gpu, &config)?;
        steps(&mut trainer, 3)?;
        let sh = trainer.foam().sh().clone();
        let good = sh.copy()?;
        let mut values = sh.flatten_all()?.to_vec1::<f32>()?;
        values[70] = f32::NAN;
        values[90] = f32::INFINITY;
        sh.set(&Tensor::from_vec(values, sh.shape(), &gpu)?)?;
        let before = fingerprint(&trainer)?;
        for _ in 0..2 {
            match trainer.step() {
                Err(Error::NonFinite { tensor, count, first, step }) => {
                    assert_eq!((&*tensor, count, first, step), ("sh", 2, 70, 3));
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(fingerprint(&trainer)? == before, "lag {lag}: the step has left something behind");
        sh.set(&good)?;
        trainer.step()?;
    }
    Ok(())
}
