//! How good a foam is on views that it was not trained on.

use super::metrics;
use crate::Result;
use crate::data::View;
use crate::foam::{Foam, Rendering};
use crate::ops::TraceSettings;
use serde::{Deserialize, Serialize};

/// The score of one view.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ViewScore {
    /// The view's name in the capture.
    pub name: String,
    /// See [`metrics::psnr_db`].
    pub psnr_db: f64,
    /// See [`metrics::ssim`].
    pub ssim: f64,
}

/// The scores of a set of views.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The mean over the views.
    pub psnr_db: f64,
    /// The mean over the views.
    pub ssim: f64,
    /// The score of each.
    pub views: Vec<ViewScore>,
}

impl Evaluation {
    /// The means of some scores; zero views give NaN.
    pub fn of(views: Vec<ViewScore>) -> Self {
        let mean = |value: fn(&ViewScore) -> f64| views.iter().map(value).sum::<f64>() / views.len() as f64;
        Self { psnr_db: mean(|v| v.psnr_db), ssim: mean(|v| v.ssim), views }
    }
}

/// Renders `views` over `background` and scores them; `on_view` is given the index, the view and the rendering of
/// each.
///
/// # Errors
///
/// Those of rendering, of the metrics (an image too small for SSIM) and of `on_view`.
pub fn evaluate_views<F>(
    foam: &Foam,
    views: &[View],
    background: [f32; 3],
    settings: &TraceSettings,
    mut on_view: F,
) -> Result<Evaluation>
where
    F: FnMut(usize, &View, &Rendering) -> Result<()>,
{
    let renderer = foam.renderer()?;
    let mut scores = Vec::with_capacity(views.len());
    for (i, view) in views.iter().enumerate() {
        let rendering = renderer.render(&view.camera, background, settings)?;
        let truth = view.image.over(background);
        let (width, height) = (view.camera.width as usize, view.camera.height as usize);
        scores.push(ViewScore {
            name: view.name.clone(),
            psnr_db: metrics::psnr_db(rendering.rgb.as_flattened(), truth.as_flattened())?,
            ssim: metrics::ssim(rendering.rgb.as_flattened(), truth.as_flattened(), width, height)?,
        });
        on_view(i, view, &rendering)?;
    }
    Ok(Evaluation::of(scores))
}
