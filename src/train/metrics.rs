//! placeholder until merge
use crate::Result;
#[allow(missing_docs)]
pub fn psnr_db(render: &[f32], truth: &[f32]) -> Result<f64> {
    let q = |x: f32| (x.clamp(0.0, 1.0) * 255.0).round() / 255.0;
    let mse = render.iter().zip(truth).map(|(a, b)| f64::from(q(*a) - b).powi(2)).sum::<f64>() / render.len() as f64;
    Ok(-10.0 * mse.log10())
}
#[allow(missing_docs)]
pub fn ssim(_: &[f32], _: &[f32], _: usize, _: usize) -> Result<f64> {
    Ok(0.0)
}
