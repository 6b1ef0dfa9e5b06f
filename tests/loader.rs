//! Do batches reach a plain loop, and errors the map, at the lag that was asked for?

#[path = "common/capture.rs"]
mod capture;
#[path = "common/strategies.rs"]
mod strategies;

use candle_core::{DType, Device, Tensor};
use candle_radfoam::Result;
use candle_radfoam::camera::{Camera, Lens, Pose};
use candle_radfoam::data::{
    Draw, Image, LoadedBatch, Loader, OnFailure, Pixels, Sampler, SamplerConfig, Strategy, View,
};
use candle_radfoam::train::TrainConfig;
use capture::{bits, dataset, fingerprint, on_threads, trainer};
use serde_json::Value;
use strategies::STRATEGIES;

/// Two views of the given size, and a lens whose field ends inside the first of them where `cut` says so.
fn pixels(size: u32, cut: bool) -> Pixels {
    let camera = |lens| {
        let (center, focal) = (f64::from(size) / 2.0, f64::from(size));
        let world_from_camera = Pose::IDENTITY;
        Camera { width: size, height: size, fx: focal, fy: focal, cx: center, cy: center, lens, world_from_camera }
    };
    let image = || Image::new(size, size, 3, vec![100; 3 * (size * size) as usize]).unwrap();
    // The image folds back 0.38 focal lengths from its centre: beyond it no ray leads to a pixel.
    let folding = Lens::open_cv(-1.0, 0.0, 0.0, 0.0);
    let first = if cut { folding } else { Lens::Pinhole };
    let view = |name: &str, lens| View::new(name, camera(lens), image());
    Pixels::new(&[view("first", first), view("second", Lens::Pinhole)]).unwrap()
}

fn config(strategy: Strategy, lag: u32) -> SamplerConfig {
    SamplerConfig { strategy, lag, batch_size: 300, patch: 4, seed: 3, warmup_steps: 2, ..Default::default() }
}

fn errors(draw: &Draw) -> Tensor {
    let step = draw.step() as f32;
    let error = |&ray: &u32| (ray % 31) as f32 * 1e-2 + step * 1e-4;
    let errors: Vec<f32> = draw.indices_slice().iter().map(error).collect();
    Tensor::new(errors, &Device::Cpu).unwrap()
}

/// What was drawn, to the bit.
type Drawn = (Vec<u32>, Vec<u32>);

fn drawn(batch: &LoadedBatch) -> Drawn {
    let draw = batch.draw();
    (draw.indices_slice().to_vec(), draw.probability_slice().iter().map(|p| p.to_bits()).collect())
}

fn run(loader: &mut Loader, steps: usize) -> Result<Vec<Drawn>> {
    let mut all = Vec::new();
    for batch in loader.by_ref().take(steps) {
        let batch = batch?;
        assert_eq!(batch.rays().len(), 300);
        all.push(drawn(&batch));
        let errors = errors(batch.draw());
        batch.report(&errors)?;
    }
    Ok(all)
}

/// Draw `k` uses the map after update `k - 1 - lag`, spelled out with a sampler alone.
#[test]
fn the_lag_is_what_it_says() -> Result<()> {
    for strategy in STRATEGIES {
        for lag in [0, 1] {
            let pixels = pixels(20, false);
            let mut sampler = Sampler::new(&pixels.shapes(), config(strategy, lag))?;
            let mut expected = Vec::new();
            let mut ahead = None;
            for _ in 0..12 {
                let draw = ahead.take().map_or_else(|| sampler.draw(), Ok)?;
                if lag == 1 {
                    ahead = Some(sampler.draw()?);
                }
                let p: Vec<u32> = draw.probability_slice().iter().map(|p| p.to_bits()).collect();
                expected.push((draw.indices_slice().to_vec(), p));
                let errors = errors(&draw);
                sampler.update(draw, &errors)?;
            }
            let mut loader = Loader::new(pixels, config(strategy, lag))?;
            assert!(run(&mut loader, 12)? == expected, "{strategy:?}, lag {lag}");
        }
    }
    Ok(())
}

#[test]
fn threads_and_a_thread_ahead_change_no_bit() -> Result<()> {
    for strategy in STRATEGIES {
        let mut outcomes = Vec::new();
        for (threads, threaded) in [(1, false), (1, true), (3, true)] {
            outcomes.push(on_threads(threads, || -> Result<_> {
                let mut loader = Loader::new(pixels(20, true), config(strategy, 1))?;
                loader.set_threaded(threaded);
                Ok((run(&mut loader, 40)?, loader.stats()?))
            })?);
        }
        assert!(outcomes.windows(2).all(|pair| pair[0] == pair[1]), "{strategy:?}");
    }
    Ok(())
}

#[test]
fn a_resumed_loader_goes_on_with_the_same_bits() -> Result<()> {
    for strategy in STRATEGIES {
        for lag in [0, 1] {
            let mut whole = Loader::new(pixels(20, true), config(strategy, lag))?;
            run(&mut whole, 40)?;
            whole.flush()?;
            let (tensors, header) = whole.state()?;
            assert_eq!(header.pending.is_some(), lag == 1);
            let json = serde_json::to_string(&header).unwrap();
            let header = serde_json::from_str(&json).unwrap();
            let mut resumed = Loader::from_state(&tensors, header, pixels(20, true))?;
            assert!(run(&mut whole, 40)? == run(&mut resumed, 40)?, "{strategy:?}, lag {lag}");
            assert_eq!(whole.stats()?, resumed.stats()?, "{strategy:?}, lag {lag}");
        }
    }
    Ok(())
}

#[test]
fn a_batch_that_is_put_back_comes_again() -> Result<()> {
    for strategy in STRATEGIES {
        for lag in [0, 1] {
            let mut loader = Loader::new(pixels(20, false), config(strategy, lag))?;
            run(&mut loader, 5)?;
            loader.flush()?;
            let before = loader.state()?;
            let batch = loader.next_batch()?;
            let first = drawn(&batch);
            loader.put_back(batch)?;
            let after = loader.state()?;
            assert_eq!(before.1, after.1, "{strategy:?}, lag {lag}");
            for (name, tensor) in &before.0 {
                assert!(bits(tensor) == bits(&after.0[name]), "{strategy:?}, lag {lag}: {name}");
            }
            assert!(run(&mut loader, 1)?[0] == first, "{strategy:?}, lag {lag}");
        }
    }
    Ok(())
}

#[test]
fn only_the_last_batch_is_put_back() -> Result<()> {
    for lag in [0, 1] {
        let mut loader = Loader::new(pixels(20, false), config(Strategy::ErrorWeighted, lag))?;
        let mut other =
            Loader::new(pixels(20, false), SamplerConfig { seed: 4, ..config(Strategy::ErrorWeighted, lag) })?;
        run(&mut other, 3)?;
        let (first, second) = (loader.next_batch()?, loader.next_batch()?);
        let expected = drawn(&second);
        for wrong in [first, other.next_batch()?] {
            let message = loader.put_back(wrong).expect_err("another batch").to_string();
            assert!(message.contains("step"), "lag {lag}: {message}");
        }
        loader.put_back(second)?;
        assert!(drawn(&loader.next_batch()?) == expected, "lag {lag}");
    }
    Ok(())
}

/// A batch that cannot be drawn is the business of whoever asks for it, not of the one before.
#[test]
fn a_batch_that_cannot_be_drawn_is_told_when_it_is_asked_for() -> Result<()> {
    let config = SamplerConfig { uniform_fraction: 0.0, warmup_steps: 0, ..config(Strategy::ErrorWeighted, 1) };
    let all = [true, false].map(|threaded| {
        let mut loader = Loader::new(pixels(8, false), config.clone())?;
        loader.set_threaded(threaded);
        let mut told = Vec::new();
        for step in 0..8 {
            match loader.next_batch() {
                // No error anywhere, until there is one.
                Ok(batch) if step < 4 => {
                    let zeros = Tensor::zeros(300, DType::F32, &Device::Cpu)?;
                    told.push(format!("{:?}", drawn(&batch)));
                    batch.report(&zeros)?;
                }
                Ok(batch) => {
                    told.push(format!("{:?}", drawn(&batch)));
                    let errors = errors(batch.draw());
                    batch.report(&errors)?;
                }
                Err(error) => told.push(error.to_string()),
            }
            loader.flush()?;
        }
        Ok(told)
    });
    let [threaded, alone] = all.map(|told: Result<Vec<String>>| told.unwrap());
    assert_eq!(threaded, alone);
    assert!(threaded.iter().any(|told| told.contains("all errors of the map are 0")), "{threaded:?}");
    Ok(())
}

/// A draw that waits goes on with a map that had to be begun anew.
#[test]
fn a_broken_map_is_no_obstacle_where_that_was_said() -> Result<()> {
    let config = SamplerConfig { on_failure: OnFailure::Uniform, ..config(Strategy::ErrorWeighted, 1) };
    let mut loader = Loader::new(pixels(20, false), config)?;
    run(&mut loader, 5)?;
    loader.flush()?;
    let (mut tensors, header) = loader.state()?;
    tensors.remove("error_map");
    let mut anew = Loader::from_state(&tensors, header, pixels(20, false))?;
    assert_eq!(anew.stats()?.fallbacks, 1);
    assert!(drawn(&anew.next_batch()?) == drawn(&loader.next_batch()?), "the draw that waited");
    anew.set_pixels(pixels(10, false))?;
    run(&mut anew, 3)?;
    assert_eq!(anew.stats()?.fallbacks, 1);
    Ok(())
}

#[test]
fn wrong_reports_are_refused() -> Result<()> {
    let mut loader = Loader::new(pixels(8, false), config(Strategy::ErrorWeighted, 0))?;
    let zeros = |len: usize| Tensor::zeros(len, DType::F32, &Device::Cpu).unwrap();
    assert!(loader.next_batch()?.report(&zeros(299)).is_err(), "one is missing");
    assert!(loader.next_batch()?.report(&zeros(300).to_dtype(DType::F64)?).is_err(), "f64");
    let (first, second) = (loader.next_batch()?, loader.next_batch()?);
    second.report(&zeros(300))?;
    first.report(&zeros(300))?;
    assert!(loader.next_batch().is_err(), "the first is older than the second");
    let batch = loader.next_batch()?;
    batch.report(&zeros(300))?;
    loader.flush()
}

#[test]
fn pixels_without_a_ray_are_left_out() -> Result<()> {
    let pixels = pixels(20, true);
    let in_use = pixels.in_use().expect("some are not").clone();
    assert!(in_use.count() < 800 && in_use.count() > 400, "{}", in_use.count());
    for strategy in STRATEGIES {
        let mut loader = Loader::new(pixels.clone(), config(strategy, 0))?;
        assert_eq!(loader.sampler().num_rays(), in_use.count());
        for (rays, _) in run(&mut loader, 30)? {
            assert!(rays.iter().all(|&ray| in_use.get(ray as usize)), "{strategy:?}");
        }
        let mut state = loader.state()?;
        assert!(Loader::from_state(&state.0, state.1.clone(), self::pixels(20, false)).is_err(), "other pixels");
        state.0.remove("in_use");
        assert!(
            Loader::from_state(&state.0, state.1, pixels.clone()).is_err(),
            "{strategy:?}: a map of another length"
        );
    }
    Ok(())
}

#[test]
fn a_trainer_with_a_lag_stops_and_goes_on() -> Result<()> {
    let with_lag = || {
        let sampler = SamplerConfig { lag: 1, ..capture::config(30).sampler };
        TrainConfig { sampler, ..capture::config(30) }
    };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("half.safetensors");
    let mut whole = trainer(with_lag())?;
    while !whole.is_finished() {
        if whole.step_count() == 15 {
            whole.save(&path, Value::Null)?;
        }
        whole.step()?;
    }
    let mut resumed = candle_radfoam::train::Trainer::resume(&path, dataset(), &Device::Cpu)?;
    while !resumed.is_finished() {
        resumed.step()?;
    }
    assert!(fingerprint(&whole)? == fingerprint(&resumed)?);
    let mut without = trainer(capture::config(30))?;
    while !without.is_finished() {
        without.step()?;
    }
    assert!(fingerprint(&whole)?.0["foam.points"] != fingerprint(&without)?.0["foam.points"], "the lag has no effect");
    Ok(())
}
