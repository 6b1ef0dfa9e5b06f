//! How good a foam is on views that it was not trained on.

use super::metrics;
use crate::data::View;
use crate::foam::{Foam, Rendering};
use crate::ops::TraceSettings;
use crate::{Error, Result};
use candle_core::Device;
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

impl ViewScore {
    /// The score of `rgb` (`[height * width * 3]`, in `[0, 1]`) as a picture of `view` over `background`; `None` if too
    /// few pixels are in use, see [`evaluate_views`].
    ///
    /// # Errors
    ///
    /// Another number of values than the view has; an image too small for SSIM.
    pub fn of(view: &View, rgb: &[f32], background: [f32; 3]) -> Result<Option<Self>> {
        let truth = view.image.over(background);
        let (truth, width, height) = (truth.as_flattened(), view.camera.width as usize, view.camera.height as usize);
        let score = match view.in_use()? {
            None => Some((metrics::psnr_db(rgb, truth)?, metrics::ssim(rgb, truth, width, height)?)),
            Some(in_use) => metrics::psnr_in_use_db(rgb, truth, &in_use)?
                .zip(metrics::ssim_in_use(rgb, truth, width, height, &in_use)?),
        };
        Ok(score.map(|(psnr_db, ssim)| Self { name: view.name.clone(), psnr_db, ssim }))
    }
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
    /// The names of the views that have too few pixels in use to be scored; they count in no mean.
    #[serde(default)]
    pub skipped: Vec<String>,
}

impl Evaluation {
    /// The means of some scores, PSNR above [`MAX_PSNR_DB`] cut to it; zero views give NaN, which is why
    /// [`evaluate_views`] refuses them.
    pub fn of(mut views: Vec<ViewScore>) -> Self {
        for view in &mut views {
            view.psnr_db = view.psnr_db.min(MAX_PSNR_DB);
        }
        let mean = |value: fn(&ViewScore) -> f64| views.iter().map(value).sum::<f64>() / views.len() as f64;
        Self { psnr_db: mean(|v| v.psnr_db), ssim: mean(|v| v.ssim), views, skipped: Vec::new() }
    }
}

/// Renders `views` over `background` and scores them; `on_view` is given the index, the view and the rendering of
/// each.
///
/// Pixels that are not in use ([`View::in_use`]: masked, or outside the field of the lens) are not scored, see
/// [`metrics::psnr_in_use_db`] and [`metrics::ssim_in_use`]. A view in which none is, or none in the middle of a window
/// of SSIM, is rendered and named in [`Evaluation::skipped`].
///
/// # Errors
///
/// No views at all, or none that can be scored; those of rendering, of the metrics (an image too small for SSIM) and of
/// `on_view`.
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
    // Of a foam on a device a copy: it is rendered on the host.
    let on_host = if foam.points().device().is_cpu() { None } else { Some(foam.to_device(&Device::Cpu)?) };
    let renderer = on_host.as_ref().unwrap_or(foam).renderer()?;
    let (mut scores, mut skipped) = (Vec::with_capacity(views.len()), Vec::new());
    for (i, view) in views.iter().enumerate() {
        let rendering = renderer.render(&view.camera, background, settings)?;
        match ViewScore::of(view, rendering.rgb.as_flattened(), background)? {
            Some(score) => scores.push(score),
            None => skipped.push(view.name.clone()),
        }
        on_view(i, view, &rendering)?;
    }
    if scores.is_empty() {
        return Err(Error::config("views", "at least one with pixels in use", skipped.join(", ")));
    }
    Ok(Evaluation { skipped, ..Evaluation::of(scores) })
}
