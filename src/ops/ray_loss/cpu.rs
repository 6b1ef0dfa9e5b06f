//! The CPU body of the loss: its definition.

use super::RayLossSettings;
use crate::ops::RayGradient;
use crate::ops::fused::PACKED_HEAD;

/// The loss of each ray of a batch, and its gradient by the ray's outputs.
///
/// ```
/// use candle_radfoam::ops::ray_loss::{Backdrop, RayLoss, RayLossSettings};
///
/// let settings = RayLossSettings {
///     backdrop: Backdrop::Color([1.0; 3]), seed: 0, step: 0, opacity_weight: 0.0, quantile_weight: 0.0,
/// };
/// let loss = RayLoss { settings, rgba: &[[0.5, 0.5, 0.5, 1.0]], importance: None };
/// // A ray that saw nothing shows the background.
/// assert_eq!(loss.value(0, &[0.0, 0.0, 0.0, 0.0]), (0.25, 0.25));
/// ```
#[derive(Debug, Clone, Copy)]
pub struct RayLoss<'a> {
    /// What it is made of.
    pub settings: RayLossSettings,
    /// `[R]`: premultiplied red, green, blue and alpha that the rays should see.
    pub rgba: &'a [[f32; 4]],
    /// `[R]`: the weight of each ray; none where all are 1.
    pub importance: Option<&'a [f32]>,
}

impl RayLoss<'_> {
    /// Background, colour difference and opacity difference of a ray with outputs `[rgb, opacity, ..]`.
    fn residual(&self, ray: usize, out: &[f32]) -> ([f32; 3], [f32; 3], f32) {
        let background = self.settings.backdrop.color(self.settings.seed, self.settings.step, ray);
        let [r, g, b, alpha] = self.rgba[ray];
        let color = [0, 1, 2]
            .map(|c| (out[c] + (1.0 - out[3]) * background[c]) - ([r, g, b][c] + (1.0 - alpha) * background[c]));
        (background, color, out[3] - alpha)
    }

    fn weight(&self, ray: usize) -> f32 {
        self.importance.map_or(1.0, |w| w[ray])
    }

    /// The loss of a ray with outputs `[rgb, opacity, depths..]`, and the squared error of its colour (mean over the
    /// channels), which drives the error map.
    pub fn value(&self, ray: usize, out: &[f32]) -> (f64, f32) {
        let (_, color, opacity) = self.residual(ray, out);
        let squared = (color[0] * color[0] + color[1] * color[1] + color[2] * color[2]) / 3.0;
        let mut loss = squared + self.settings.opacity_weight * opacity * opacity;
        if let [.., near, far] = out[PACKED_HEAD..]
            && far >= 0.0
        {
            loss += self.settings.quantile_weight * (far - near).abs();
        }
        (f64::from(self.weight(ray) * loss), squared)
    }

    /// The gradient of the mean loss of the batch by the outputs of a ray.
    pub fn gradient(&self, ray: usize, out: &[f32]) -> RayGradient<'static, f32> {
        /// Gradients of the depths by the sign of their difference; quantiles descend, so depths ascend.
        static SPREAD: [f32; 2] = [-1.0, 1.0];
        let (background, color, opacity) = self.residual(ray, out);
        let scale = self.weight(ray) / self.rgba.len() as f32;
        let rgb = color.map(|c| scale * 2.0 / 3.0 * c);
        let behind: f32 = (0..3).map(|c| rgb[c] * background[c]).sum();
        RayGradient {
            rgb,
            opacity: scale * 2.0 * self.settings.opacity_weight * opacity - behind,
            depth: match out[PACKED_HEAD..] {
                [_, far] if far >= 0.0 => &SPREAD,
                _ => &[],
            },
            depth_scale: scale * self.settings.quantile_weight,
        }
    }
}
