//! Trains a radiance foam.
use candle_core::Device;
use candle_radfoam::data::{LoadOptions, Resize, load};
use candle_radfoam::train::{TrainConfig, Trainer};

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let get = |k: &str| args.iter().position(|a| a == k).and_then(|i| args.get(i + 1)).cloned();
    let mut config = TrainConfig::default();
    if let Some(path) = get("--config") {
        config = toml::from_str(&std::fs::read_to_string(path)?)?;
    }
    config.time_limit = get("--time-limit").map(|t| t.parse()).transpose()?;
    config.steps = get("--steps").map(|t| t.parse()).transpose()?;
    if let Some(b) = get("--background") {
        config.background = b.parse()?;
    }
    if let Some(b) = get("--seed") {
        config.seed = b.parse()?;
    }
    if let Some(n) = get("--threads") {
        rayon::ThreadPoolBuilder::new().num_threads(n.parse()?).build_global()?;
    }
    let mut options = LoadOptions::default();
    if let Some(d) = get("--downsample") {
        options.resize = Resize::Downsample(d.parse()?);
    }
    let t = std::time::Instant::now();
    let dataset = load(&args[1], &options)?;
    let mut dataset = dataset;
    if let Some(k) = get("--test-stride") {
        let k: usize = k.parse()?;
        dataset.test = dataset.test.into_iter().step_by(k).collect();
    }
    println!(
        "{}: {} train {} test, extent {:.3}, alpha {}, loaded in {:.1} s",
        dataset.layout,
        dataset.train.len(),
        dataset.test.len(),
        dataset.extent,
        dataset.has_alpha,
        t.elapsed().as_secs_f64()
    );
    let mut trainer = Trainer::new(dataset, config, &Device::Cpu)?;
    let mut next = 0.0;
    let (mut cells, mut rebuilds) = (0u64, 0);
    while !trainer.is_finished() {
        let s = trainer.step()?;
        cells += s.cells_entered;
        rebuilds += u32::from(s.rebuilt);
        if trainer.progress() >= next {
            next += 0.1;
            println!(
                "step {} t {:.1} mse-psnr {:.2} P {} rays/s {:.0} cells/ray {:.1} rebuilds {rebuilds}",
                s.step,
                trainer.seconds(),
                -10.0 * s.squared_error.log10(),
                s.num_cells,
                trainer.num_rays() as f64 / trainer.seconds(),
                s.cells_entered as f64 / s.num_rays as f64
            );
        }
    }
    println!("Mcells/s {:.2}", cells as f64 / trainer.seconds() / 1e6);
    let e = trainer.evaluate(|_, _, _| Ok(()))?;
    println!(
        "test: PSNR {:.2} dB, SSIM {:.3} over {} views, {:.1} s, {} rays, {} cells",
        e.psnr_db,
        e.ssim,
        e.views.len(),
        trainer.seconds(),
        trainer.num_rays(),
        trainer.foam().num_cells()
    );
    Ok(())
}
