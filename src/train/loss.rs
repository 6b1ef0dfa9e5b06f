//! The loss of a ray, and what it says about the ray's outputs.

use super::{Background, Trainer};
use crate::data::Batch;
use crate::ops::RayGradient;
use crate::ops::fused::PACKED_HEAD;

/// The loss of each ray of a batch, and its gradient by the ray's outputs.
pub(super) struct RayLoss<'a> {
    background: Background,
    seed: u64,
    step: u64,
    batch: &'a Batch,
    importance: Option<&'a [f32]>,
    opacity_weight: f32,
    quantile_weight: f32,
}

impl<'a> RayLoss<'a> {
    pub fn new(trainer: &Trainer, batch: &'a Batch, importance: Option<&'a [f32]>) -> Self {
        let config = &trainer.config.loss;
        Self {
            background: trainer.background(),
            seed: trainer.config.seed,
            step: trainer.step,
            batch,
            importance,
            opacity_weight: if trainer.dataset.has_alpha { config.opacity_weight } else { 0.0 },
            quantile_weight: config.quantile_weight * (2.0 * trainer.progress).min(1.0) as f32,
        }
    }

    /// Background, colour difference and opacity difference of a ray with outputs `[rgb, opacity, ..]`.
    fn residual(&self, ray: usize, out: &[f32]) -> ([f32; 3], [f32; 3], f32) {
        let background = self.background.color(self.seed, self.step, ray);
        let [r, g, b, alpha] = self.batch.rgba[ray];
        let color = [0, 1, 2]
            .map(|c| (out[c] + (1.0 - out[3]) * background[c]) - ([r, g, b][c] + (1.0 - alpha) * background[c]));
        (background, color, out[3] - alpha)
    }

    fn weight(&self, ray: usize) -> f32 {
        self.importance.map_or(1.0, |w| w[ray])
    }

    /// The loss of a ray, and the squared error of its colour (mean over the channels), which drives the error map.
    pub fn value(&self, ray: usize, out: &[f32]) -> (f64, f32) {
        let (_, color, opacity) = self.residual(ray, out);
        let squared = (color[0] * color[0] + color[1] * color[1] + color[2] * color[2]) / 3.0;
        let mut loss = squared + self.opacity_weight * opacity * opacity;
        if let [.., near, far] = out[PACKED_HEAD..]
            && far >= 0.0
        {
            loss += self.quantile_weight * (far - near).abs();
        }
        (f64::from(self.weight(ray) * loss), squared)
    }

    pub fn gradient(&self, ray: usize, out: &[f32]) -> RayGradient<'static, f32> {
        /// Gradients of the depths by the sign of their difference; quantiles descend, so depths ascend.
        static SPREAD: [f32; 2] = [-1.0, 1.0];
        let (background, color, opacity) = self.residual(ray, out);
        let scale = self.weight(ray) / self.batch.len() as f32;
        let rgb = color.map(|c| scale * 2.0 / 3.0 * c);
        let behind: f32 = (0..3).map(|c| rgb[c] * background[c]).sum();
        RayGradient {
            rgb,
            opacity: scale * 2.0 * self.opacity_weight * opacity - behind,
            depth: match out[PACKED_HEAD..] {
                [_, far] if far >= 0.0 => &SPREAD,
                _ => &[],
            },
            depth_scale: scale * self.quantile_weight,
        }
    }
}
