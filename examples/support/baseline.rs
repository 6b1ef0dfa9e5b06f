//! What needs no model, to compare one with.

use anyhow::{Result, bail};
use candle_radfoam::camera::Camera;
use candle_radfoam::data::{Image, View};
use candle_radfoam::train::{Evaluation, ViewScore};

use super::checkpoint::{PosedView, flat};

/// The scores of the mean colour and of the nearest training image: a foam that does not beat these has learned nothing.
pub fn baselines(train: &[View], views: &[PosedView], background: [f32; 3]) -> Result<Vec<(&'static str, Evaluation)>> {
    let mean = mean_color(train, background)?;
    let (mut by_mean, mut by_nearest) = (Vec::new(), Vec::new());
    for view in views.iter().filter_map(|posed| posed.view.as_ref()) {
        let (width, height) = (view.image.width, view.image.height);
        by_mean.extend(ViewScore::of(view, flat(&vec![mean; (width * height) as usize]), background)?);
        let nearest = train.iter().min_by(|a, b| distance(a, &view.camera).total_cmp(&distance(b, &view.camera)));
        if let Some(nearest) = nearest {
            let guess = Image::resized(nearest.image.clone(), width, height)?.over(background);
            by_nearest.extend(ViewScore::of(view, flat(&guess), background)?);
        }
    }
    Ok(vec![
        ("mean colour of the training images", Evaluation::of(by_mean)),
        ("nearest training image", Evaluation::of(by_nearest)),
    ])
}

/// The mean colour, over `background`, of the pixels in use: what masks hide and what has no ray is scored nowhere.
pub fn mean_color(views: &[View], background: [f32; 3]) -> Result<[f32; 3]> {
    let (mut sum, mut count) = ([0.0; 3], 0.0);
    for view in views {
        let in_use = view.in_use()?;
        for (pixel, color) in view.image.over(background).into_iter().enumerate() {
            if in_use.as_ref().is_none_or(|in_use| in_use.get(pixel)) {
                sum = [0, 1, 2].map(|c| sum[c] + f64::from(color[c]));
                count += 1.0;
            }
        }
    }
    if count == 0.0 {
        bail!("no pixel of the training images is in use");
    }
    Ok(sum.map(|s| (s / count) as f32))
}

/// How far a training view is from a camera: squared distance of the positions (of which the farthest is 1 from the
/// origin) plus that of the viewing directions.
fn distance(view: &View, camera: &Camera) -> f64 {
    let squared = |a: [f64; 3], b: [f64; 3]| (0..3).map(|i| (a[i] - b[i]).powi(2)).sum::<f64>();
    let (a, b) = (&view.camera.world_from_camera, &camera.world_from_camera);
    squared(a.position, b.position) + squared(a.forward(), b.forward())
}
