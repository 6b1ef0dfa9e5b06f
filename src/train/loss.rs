//! The loss of a batch, as the settings have it.

use super::{Background, Trainer};
use crate::data::Batch;
use crate::ops::ray_loss::{Backdrop, RayLoss, RayLossSettings, quantile_pair};

impl From<Background> for Backdrop {
    fn from(background: Background) -> Self {
        match background {
            Background::White => Self::Color([1.0; 3]),
            Background::Black => Self::Color([0.0; 3]),
            Background::Random => Self::Random,
        }
    }
}

impl Trainer {
    /// What the loss of a ray is made of in the present step.
    pub(super) fn loss_settings(&self) -> RayLossSettings {
        let config = &self.config.loss;
        RayLossSettings {
            backdrop: self.background().into(),
            seed: self.config.seed,
            step: self.step,
            opacity_weight: if self.dataset.has_alpha { config.opacity_weight } else { 0.0 },
            quantile_weight: config.quantile_weight * (2.0 * self.progress).min(1.0) as f32,
        }
    }

    /// The loss of the rays of a batch.
    pub(super) fn ray_loss<'a>(&self, batch: &'a Batch, importance: Option<&'a [f32]>) -> RayLoss<'a> {
        RayLoss { settings: self.loss_settings(), rgba: &batch.rgba, importance }
    }

    /// Two random transmittance quantiles a ray, descending, if the loss asks for them.
    pub(super) fn quantiles(&self, num_rays: usize) -> (Vec<f32>, usize) {
        if self.config.loss.quantile_weight == 0.0 {
            return (Vec::new(), 0);
        }
        let pair = |ray: usize| quantile_pair(self.config.seed, self.step, ray);
        ((0..num_rays).flat_map(pair).collect(), 2)
    }
}
