//! How good a foam is on views that it was not trained on.

use super::metrics;
use crate::data::View;
use crate::foam::{Foam, Rendering};
use crate::ops::TraceSettings;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// The PSNR in dB that a picture without any error counts as: infinity has no mean, and no number in JSON. One
/// value in 150,000 that is off by one of 255 levels scores about as much.
pub const MAX_PSNR_DB: f64 = 100.0;

/// The score of one view.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ViewScore {
    /// The view's name in the capture.
    pub name: String,
    /// See [`metrics::psnr_db`]; at most [`MAX_PSNR_DB`] in an [`Evaluation`].
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
    /// The means of some scores, PSNR above [`MAX_PSNR_DB`] cut to it; zero views give NaN, which is why
    /// [`evaluate_views`] refuses them.
    pub fn of(mut views: Vec<ViewScore>) -> Self {
        for view in &mut views {
            view.psnr_db = view.psnr_db.min(MAX_PSNR_DB);
        }
        let mean = |value: fn(&ViewScore) -> f64| views.iter().map(value).sum::<f64>() / views.len() as f64;
        Self { psnr_db: mean(|v| v.psnr_db), ssim: mean(|v| v.ssim), views }
    }
}

/// Renders `views` over `background` and scores them; `on_view` is given the index, the view and the rendering of
/// each.
///
/// # Errors
///
/// No views at all; those of rendering, of the metrics (an image too small for SSIM) and of `on_view`.
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
    if views.is_empty() {
        return Err(Error::config("views", "at least one view to evaluate", "none"));
    }
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
