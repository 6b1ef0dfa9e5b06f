//! Every way to draw rays on a device, against the CPU.

use candle_core::Device;
use candle_radfoam::data::{Bitmap, Dataset, OnFailure, SamplerConfig, Strategy};
use candle_radfoam::train::{TrainConfig, Trainer};
use candle_radfoam::{Error, Result};
use serde_json::Value;

use crate::capture::{bits, config, dataset};
use crate::device;

/// The capture, with masks that leave some patches whole, some in part and some empty.
fn masked() -> Dataset {
    let mut dataset = dataset();
    for (number, view) in dataset.train.iter_mut().enumerate() {
        let (width, len) = (view.camera.width as usize, (view.camera.width * view.camera.height) as usize);
        let counts = |pixel: usize| pixel % width > 5 + number % 3 && !(pixel / width + pixel).is_multiple_of(5);
        view.mask = Some(Bitmap::from_fn(len, |pixel| pixel / width > 20 || counts(pixel)).expect("a mask"));
    }
    dataset
}

/// Strategies with their patches, uniform shares and capture; none of them uniform from the start.
fn cases() -> Vec<(String, Dataset, TrainConfig)> {
    let strategies = [
        Strategy::Epoch,
        Strategy::TopK { pool: 0.1 },
        Strategy::Adaptive,
        Strategy::ErrorWeighted,
        Strategy::Spatial { patch: 2 },
        Strategy::Mixed { error_fraction: 0.7 },
    ];
    let mut cases = Vec::new();
    for strategy in strategies {
        for (what, dataset) in [("whole", dataset()), ("masked", masked())] {
            for patch in [1, 4] {
                for uniform_fraction in [0.0, 0.15] {
                    let config = config(60);
                    let sampler = SamplerConfig {
                        strategy,
                        patch,
                        uniform_fraction,
                        batch_size: 1500,
                        warmup_steps: 1,
                        lag: 1,
                        ..config.sampler
                    };
                    let name = format!("{strategy:?}, {what}, patch {patch}, {uniform_fraction} evenly");
                    cases.push((name, dataset.clone(), TrainConfig { sampler, ..config }));
                }
            }
        }
    }
    cases
}

/// With a lag of one step, the rays that wait after a step were drawn from the map of the checkpoint before it: rays,
/// entries, probabilities and densities are the same on either device.
#[test]
fn draws_have_the_bits_of_the_cpu() -> Result<()> {
    let Some(gpu) = device() else { return Ok(()) };
    let folder = tempfile::tempdir().map_err(|error| Error::io("a folder", error))?;
    let path = folder.path().join("checkpoint");
    let mut failures = Vec::new();
    for (name, dataset, config) in cases() {
        let mut trainer = Trainer::new(dataset.clone(), config, &Device::Cpu)?;
        for _ in 0..7 {
            trainer.step()?;
        }
        trainer.save(&path, Value::Null)?;
        let waiting = |device: &Device| -> Result<Vec<(String, Vec<u64>)>> {
            let mut trainer = Trainer::resume(&path, dataset.clone(), device)?;
            trainer.step()?;
            let tensors = trainer.checkpoint(Value::Null)?.tensors;
            let pending = tensors.iter().filter(|(name, _)| name.contains("pending."));
            Ok(pending.map(|(name, tensor)| (name.clone(), bits(tensor))).collect())
        };
        let (found, expected) = (waiting(&gpu)?, waiting(&Device::Cpu)?);
        let num = if matches!(trainer.config().sampler.strategy, Strategy::Adaptive) { 4 } else { 3 };
        assert_eq!(expected.len(), num, "{name}: {:?}", expected.iter().map(|(name, _)| name).collect::<Vec<_>>());
        if found != expected {
            let pairs = found.iter().zip(&expected);
            let differs = pairs.filter(|(a, b)| a != b).map(|((what, _), _)| what);
            failures.push(format!("{name}: {:?}", differs.collect::<Vec<_>>()));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

/// Losses, what the sampler counts, and the map, over enough steps for an adaptive sampler to decide.
#[test]
fn trains_as_the_cpu_does_by_any_strategy() -> Result<()> {
    /// Of the loss of a step: runs part as in `trains_as_the_cpu_does`.
    const TOLERANCE: f64 = 2e-3;
    let Some(gpu) = device() else { return Ok(()) };
    let mut failures = Vec::new();
    for (name, dataset, mut config) in cases().into_iter().filter(|(_, _, config)| config.sampler.patch > 1) {
        config.sampler.lag = 0;
        config.optim.adam.eps = 1e-3;
        config.refine.rounds = 0;
        let is_adaptive = config.sampler.strategy == Strategy::Adaptive;
        let mut found = Trainer::new(dataset.clone(), config.clone(), &gpu)?;
        let mut expected = Trainer::new(dataset, config, &Device::Cpu)?;
        // The first decision falls after 32 updates.
        for _ in 0..if is_adaptive { 33 } else { 10 } {
            let (a, b) = (found.step()?, expected.step()?);
            if (a.loss / b.loss - 1.0).abs() > TOLERANCE || a.num_rays != b.num_rays {
                failures.push(format!("{name}: {a:?}, expected {b:?}"));
                break;
            }
        }
        let [a, b] = [found.sampler().stats(), expected.sampler().stats()];
        for (what, a, b) in [
            ("uniform share", a.uniform_share, b.uniform_share),
            ("weighted share", a.weighted_share, b.weighted_share),
            ("effective sample size", a.effective_sample_size, b.effective_sample_size),
            ("largest error", a.max_error, b.max_error),
            ("capped", a.capped as f64, b.capped as f64),
        ] {
            if (a - b).abs() > 1e-2 * b.abs() {
                failures.push(format!("{name}: {what} {a}, expected {b}"));
            }
        }
        let [a, b] = [found.sampler().state()?, expected.sampler().state()?];
        let [map, of_cpu] = [a.0["error_map"].to_vec1::<f32>()?, b.0["error_map"].to_vec1::<f32>()?];
        let off = map
            .iter()
            .zip(&of_cpu)
            .filter(|(a, b)| (*a - *b).abs() > 0.02 || a.is_sign_negative() != b.is_sign_negative());
        let (num_off, num) = (off.count(), of_cpu.len());
        if map.len() != num || num_off > num / 100 {
            failures.push(format!("{name}: {num_off} of {num} entries of the map are off"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

/// A map that has nothing to be in proportion to, as the CPU finds it: errors below what a draw can see.
#[test]
fn an_empty_map_is_a_failure_where_nothing_is_drawn_evenly() -> Result<()> {
    let Some(gpu) = device() else { return Ok(()) };
    for strategy in [Strategy::ErrorWeighted, Strategy::TopK { pool: 0.3 }] {
        for on_failure in [OnFailure::Error, OnFailure::Uniform] {
            let run = |device: &Device| -> Result<(Vec<bool>, u64, f64)> {
                let config = config(40);
                let sampler = SamplerConfig {
                    strategy,
                    on_failure,
                    uniform_fraction: 0.0,
                    error_cap: 1e30,
                    warmup_steps: 2,
                    ..config.sampler
                };
                let mut trainer = Trainer::new(dataset(), TrainConfig { sampler, ..config }, device)?;
                let steps = (0..4).map(|_| match trainer.step() {
                    Ok(_) => Ok(true),
                    Err(Error::Config { field, .. }) if field == "sampler.strategy" => Ok(false),
                    Err(error) => Err(error),
                });
                let steps = steps.collect::<Result<_>>()?;
                let stats = trainer.sampler().stats();
                Ok((steps, stats.fallbacks, stats.weighted_share))
            };
            let (found, expected) = (run(&gpu)?, run(&Device::Cpu)?);
            assert_eq!(found, expected, "{strategy:?}, {on_failure:?}");
            assert_eq!(expected.0[3], on_failure == OnFailure::Uniform, "{strategy:?}, {on_failure:?}");
        }
    }
    Ok(())
}
