//! A training loop of one's own: the foam, the pixels and the sampler of this crate; a loss of Candle's ops; Candle's
//! AdamW. On a capture, or without one on a synthetic one.
//!
//! ```text
//! cargo run --release --example custom_loop [-- path/to/capture]
//! ```

use std::path::PathBuf;

use anyhow::{Result, ensure};
use candle_core::Device;
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use candle_radfoam::data::synthetic::{SyntheticOptions, write_capture};
use candle_radfoam::data::{LoadOptions, Pixels, Sampler, SamplerConfig, load};
use candle_radfoam::foam::{Foam, InitConfig, initial_cells};
use candle_radfoam::ops::TraceSettings;

const STEPS: usize = 200;
/// Steps that a printed loss is the mean of.
const WINDOW: usize = 20;

fn main() -> Result<()> {
    let device = Device::Cpu;
    let made = tempfile::tempdir()?;
    let capture = match std::env::args_os().nth(1) {
        Some(path) => PathBuf::from(path),
        None => {
            let small = SyntheticOptions { size: 64, train_views: 24, test_views: 2, ..Default::default() };
            write_capture(made.path(), &small, &|_, _| {})?;
            made.path().to_path_buf()
        }
    };
    let dataset = load(capture, &LoadOptions::default())?;
    let pixels = Pixels::new(&dataset.train)?;
    let config = SamplerConfig { batch_size: 2048, warmup_steps: 20, ..Default::default() };
    let mut sampler = Sampler::with_in_use(&pixels.shapes(), pixels.in_use(), config)?;

    let init = InitConfig { num_cells: 2000, num_outer_cells: 100, ..Default::default() };
    let cameras: Vec<[f32; 3]> =
        pixels.cameras().iter().map(|camera| camera.world_from_camera.position.map(|x| x as f32)).collect();
    let cells = initial_cells(&init, dataset.extent as f32, None, &cameras, 0)?;
    let mut foam = Foam::new(cells, 1, 13.0 / dataset.extent, &device)?;
    let settings = TraceSettings { grazing_cosine: 0.05, ..Default::default() };
    let params = |lr| ParamsAdamW { lr, weight_decay: 0.0, ..Default::default() };
    // Positions are lengths, and take smaller steps than densities and colours.
    let mut points_optimizer = AdamW::new(vec![foam.points().clone()], params(1e-3 * dataset.extent))?;
    let mut optimizer = AdamW::new(vec![foam.raw_density().clone(), foam.sh().clone()], params(0.03))?;

    let mut losses = Vec::new();
    for step in 1..=STEPS {
        let draw = sampler.draw()?;
        let batch = pixels.batch(draw.indices_slice())?.to_tensors(&device)?;
        let traced = foam.trace(&batch.origins, &batch.directions, None, &settings)?;

        // Black behind the foam and behind the image: both are premultiplied, so nothing has to be added.
        let difference = (traced.rgb - batch.rgba.narrow(1, 0, 3)?)?;
        // Charbonnier's loss: a mean absolute error that is smooth at 0.
        let color = ((difference.sqr()? + 1e-6)?.sqrt()?).mean(1)?;
        let opacity = (traced.opacity - batch.rgba.narrow(1, 3, 1)?.squeeze(1)?)?.sqr()?;
        // Hard rays are drawn more often; the weights make the mean that of all rays again.
        let loss = ((color + (opacity * 0.1)?)? * draw.importance(1.0)?)?.mean_all()?;

        let grads = loss.backward()?;
        points_optimizer.step(&grads)?;
        optimizer.step(&grads)?;
        sampler.update(draw, &difference.detach().sqr()?.mean(1)?)?;
        if step % 10 == 0 {
            foam.maintain(0.6, 0.1)?;
        }

        losses.push(loss.to_scalar::<f32>()?);
        if step % WINDOW == 0 {
            println!("step {step:4}: loss {:.4}", mean(&losses[step - WINDOW..]));
        }
    }
    let (first, last) = (mean(&losses[..WINDOW]), mean(&losses[STEPS - WINDOW..]));
    ensure!(last < 0.7 * first, "the loss fell from {first} to {last} only");
    Ok(())
}

fn mean(losses: &[f32]) -> f32 {
    losses.iter().sum::<f32>() / losses.len() as f32
}
