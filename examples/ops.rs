//! A tour of the sampling ops: what goes in, what comes out.
//!
//! ```text
//! cargo run --release --example ops
//! ```

use candle_core::{Device, Result, Tensor, Var};
use candle_radfoam::ops::{ErrorMap, ErrorMapSettings, scatter_ema, weighted_draw, weighted_gather};

fn main() -> Result<()> {
    let device = Device::Cpu;

    println!("scatter_ema: map[i] <- decay * map[i] + (1 - decay) * value, in place and in batch order");
    let map = Tensor::new(&[0.8f32, 0.8, -0.0, -0.0], &device)?;
    let indices = Tensor::new(&[0u32, 0, 2, 3], &device)?;
    let values = Tensor::new(&[0.0f32, 0.0, 0.5, f32::NAN], &device)?;
    println!("  before  {:?}   (a negative sign marks what was never visited)", map.to_vec1::<f32>()?);
    let stats = scatter_ema(&map, &indices, &values, 0.5)?;
    println!("  after   {:?}   {stats:?}", map.to_vec1::<f32>()?);

    println!("\nweighted_draw: ascending indices, each with its probability");
    let weights = Tensor::new(&[4.0f32, 0.0, 1.0, 3.0], &device)?;
    for uniform_fraction in [0.0, 0.5] {
        let draws = weighted_draw(&weights, 8, uniform_fraction, 7, 0)?;
        println!("  uniform fraction {uniform_fraction}: {:?}", draws.indices.to_vec1::<u32>()?);
        println!("    probability {:?}", draws.probability.to_vec1::<f32>()?);
    }

    println!("\nErrorMap: draw, look, tell it the errors, draw again");
    let mut map = ErrorMap::new(1000, ErrorMapSettings::default())?;
    for step in 0..5 {
        let draws = map.draw(500, 0.3, 7, step)?;
        let indices = draws.indices.to_vec1::<u32>()?;
        let hot = |i: u32| i < 100;
        let errors: Vec<f32> = indices.iter().map(|&i| if hot(i) { 0.5 } else { 0.02 }).collect();
        map.update(&draws.indices, &Tensor::new(errors, &device)?)?;
        let num_hot = indices.iter().filter(|&&i| hot(i)).count();
        println!(
            "  step {step}: {num_hot} of 500 draws among the 100 entries with a high error; {:.0} % visited",
            100.0 * map.visited_fraction()
        );
    }

    println!("\nweighted_gather: rows by index, times a weight; gradients reach the table and the weights");
    let table = Var::new(&[[1.0f32, 2.0], [3.0, 4.0]], &device)?;
    let indices = Tensor::new(&[0u32, 1, 1], &device)?;
    let weights = Var::new(&[1.0f32, 0.5, 2.0], &device)?;
    let rows = weighted_gather(&table, &indices, Some(&weights))?;
    let grads = rows.sum_all()?.backward()?;
    println!("  rows          {:?}", rows.to_vec2::<f32>()?);
    if let (Some(grad_table), Some(grad_weights)) = (grads.get(&table), grads.get(&weights)) {
        println!("  grad_table    {:?}", grad_table.to_vec2::<f32>()?);
        println!("  grad_weights  {:?}", grad_weights.to_vec1::<f32>()?);
    }
    Ok(())
}
