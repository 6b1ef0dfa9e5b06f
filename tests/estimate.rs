//! Does a run take the memory that is foretold for it?

#[path = "common/allocator.rs"]
mod allocator;
#[path = "common/capture.rs"]
mod capture;

use std::sync::atomic::Ordering;

use allocator::{MOST, NOW};
use candle_core::Device;
use candle_radfoam::Result;
use candle_radfoam::data::Image;
use candle_radfoam::foam::InitConfig;
use candle_radfoam::train::{MemoryEstimate, TrainConfig, Trainer};
use serde_json::Value;

/// Bytes that a run of a few steps with a checkpoint holds at most beyond the capture, and what was foretold.
fn measured(config: TrainConfig, side: u32) -> Result<(usize, MemoryEstimate)> {
    let mut dataset = capture::dataset();
    for view in &mut dataset.train {
        let scale = f64::from(side) / f64::from(view.camera.width);
        let camera = &mut view.camera;
        (camera.width, camera.height) = (side, side);
        for length in [&mut camera.fx, &mut camera.fy, &mut camera.cx, &mut camera.cy] {
            *length *= scale;
        }
        let channels = view.image.channels;
        view.image = Image::new(side, side, channels, vec![128; side as usize * side as usize * channels])?;
    }
    let estimate = MemoryEstimate::of(&config, &dataset);
    let before = NOW.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let mut trainer = Trainer::new(dataset, config, &Device::Cpu)?;
    for _ in 0..29 {
        trainer.step()?;
    }
    // Written beside the training.
    let saved = trainer.checkpoint_and_error_map(Value::Null)?;
    trainer.step()?;
    drop(saved);
    Ok((MOST.load(Ordering::Relaxed) - before, estimate))
}

#[test]
fn a_run_takes_what_is_foretold() -> Result<()> {
    let patch_1 = |mut config: TrainConfig| {
        config.sampler.patch = 1;
        config
    };
    let config = |num_cells: usize, sh_degree, batch_size| {
        let mut config = capture::config(30);
        config.init = InitConfig { num_cells, num_outer_cells: num_cells / 10, ..InitConfig::default() };
        (config.refine.max_cells, config.refine.rounds, config.refine.from) = (2 * num_cells, 1, 0.7);
        (config.sh_degree, config.sampler.batch_size) = (sh_degree, batch_size);
        // The triangulation is repaired, and kept for that.
        (config.topology.check_every, config.topology.moved_limit, config.topology.moved_share) = (5, 0.03, 0.01);
        config
    };
    let mut failures = Vec::new();
    for (case, config, side) in [
        ("cells of degree 1", config(15_000, 1, 1024), 32),
        ("cells of degree 3", config(10_000, 3, 1024), 32),
        ("rays", config(1000, 1, 200_000), 32),
        ("pixels", config(500, 1, 1024), 800),
        ("an error map of every pixel", patch_1(config(500, 1, 1024)), 800),
        ("of each some", config(8000, 2, 30_000), 200),
    ] {
        // The rows that gradients are summed in are mapped, which the allocator does not see: four of each cell.
        let row = (4 + 3 * (config.sh_degree + 1).pow(2)).next_multiple_of(16);
        let mapped = 4 * row * size_of::<f32>() * config.refine.max_cells;
        // And so are the entries of the error map, and the sums of 16 of them.
        let patches =
            (side as usize).div_ceil(config.sampler.map_patch() as usize).pow(2) * capture::dataset().train.len();
        let mapped = mapped + patches * size_of::<f32>() * 17 / 16;
        let (most, estimate) = measured(config, side)?;
        let most = most + mapped;
        let share = estimate.to_come() as f64 / most as f64;
        println!("{case}: {:.1} MB, {share:.2} of it foretold ({estimate})", most as f64 / 1e6);
        if !(0.75..=1.33).contains(&share) {
            failures.push(format!("{case}: {most} bytes, {share:.2} of it foretold: {estimate}"));
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    Ok(())
}

#[test]
fn advice_names_what_takes_the_most() {
    let config = TrainConfig { steps: Some(10), ..TrainConfig::default() };
    let megabytes = |n: u64| n * 1_000_000;
    let estimate = MemoryEstimate {
        images: megabytes(500),
        pixels: megabytes(500),
        cells: megabytes(1000),
        rays: megabytes(20),
        error_map: 0,
    };
    assert_eq!((estimate.total(), estimate.to_come()), (megabytes(2020), megabytes(1520)));
    assert!(estimate.advice(megabytes(1520), &config).is_empty());
    // 500 MB less: half of the cells, or a few of the pixels.
    let advice = estimate.advice(megabytes(1020), &config);
    assert_eq!(advice.len(), 2, "{advice:?}");
    assert_eq!(advice[0], format!("--max-cells {} or fewer", config.refine.max_cells / 2));
    assert!(advice[1].starts_with("--downsample"), "{advice:?}");
    let rays = MemoryEstimate { images: 0, pixels: 0, cells: megabytes(1), rays: megabytes(100), error_map: 0 };
    let advice = rays.advice(megabytes(51), &config);
    assert_eq!(advice, [format!("--rays-per-batch {} or fewer", config.sampler.batch_size / 2)]);
    let told = estimate.to_string();
    assert!(told.contains("2020 MB") && told.contains("cells 1000"), "{told}");
}

/// What nobody has is no reason to panic, nor to give up: the advice is then without a number.
#[test]
fn settings_of_any_size_have_an_estimate() {
    let dataset = capture::dataset();
    let mut failures = Vec::new();
    for (max_cells, batch_size, sh_degree, words) in [
        (usize::MAX, 1024, 1, "fewer --max-cells"),
        (1000, usize::MAX, 1, "fewer --rays-per-batch"),
        (usize::MAX / 2000, usize::MAX / 200, 1, "fewer --max-cells"),
        (1000, 1024, usize::MAX, "fewer --max-cells"),
    ] {
        let mut config = capture::config(30);
        (config.refine.max_cells, config.sampler.batch_size) = (max_cells, batch_size);
        (config.sh_degree, config.sampler.lag) = (sh_degree, 1);
        let estimate = MemoryEstimate::of(&config, &dataset);
        let advice = estimate.advice(1 << 33, &config);
        if estimate.total() < u64::MAX / 2 || !advice.iter().any(|advice| advice == words) {
            failures.push(format!("{max_cells} cells, {batch_size} rays: {estimate}, {advice:?}"));
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}
