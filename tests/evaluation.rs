//! Are pixels that do not count left out of the scores?

#[path = "common/capture.rs"]
mod capture;

use candle_radfoam::data::Bitmap;
use candle_radfoam::ops::TraceSettings;
use candle_radfoam::train::evaluate_views;
use candle_radfoam::train::metrics::{psnr_db, psnr_in_use_db, ssim, ssim_in_use};

const SIDE: usize = 24;

fn pictures() -> (Vec<f32>, Vec<u8>) {
    let truth: Vec<u8> = (0..SIDE * SIDE * 3).map(|i| (i * i * 7 % 256) as u8).collect();
    let image = truth.iter().enumerate().map(|(i, &v)| ((usize::from(v) + i * 31 % 41) % 256) as f32 / 255.0);
    (image.collect(), truth)
}

fn mask(in_use: impl Fn(usize, usize) -> bool + Sync) -> Bitmap {
    Bitmap::from_fn(SIDE * SIDE, |pixel| in_use(pixel % SIDE, pixel / SIDE)).expect("a bitmap")
}

#[test]
fn where_all_pixels_count_nothing_changes() {
    let (image, truth) = pictures();
    let all = mask(|_, _| true);
    let psnr = psnr_in_use_db(&image, &truth, &all).expect("PSNR").expect("a score");
    assert!((psnr - psnr_db(&image, &truth).expect("PSNR")).abs() < 1e-12);
    let found = ssim_in_use(&image, &truth, SIDE, SIDE, &all).expect("SSIM").expect("a score");
    assert!((found - ssim(&image, &truth, SIDE, SIDE).expect("SSIM")).abs() < 1e-12);
}

/// The definition, window by window: a Gaussian over the pixels in use, normalised there.
#[test]
fn ssim_is_taken_over_what_is_in_use() {
    let (image, truth) = pictures();
    let used = mask(|x, y| x * 5 % 7 != 2 && x + y > 14);
    let weight = |i: usize| (-0.5 * ((i as f64 - 5.0) / 1.5).powi(2)).exp();
    let (mut sum, mut count) = (0.0, 0);
    for (row, col) in (0..=SIDE - 11).flat_map(|row| (0..=SIDE - 11).map(move |col| (row, col))) {
        if !used.get((row + 5) * SIDE + col + 5) {
            continue;
        }
        for channel in 0..3 {
            let mut window = Vec::new();
            for (i, j) in (0..11).flat_map(|i| (0..11).map(move |j| (i, j))) {
                let pixel = (row + i) * SIDE + col + j;
                if used.get(pixel) {
                    let at = 3 * pixel + channel;
                    let x = (f64::from(image[at]) * 255.0).round() / 255.0;
                    window.push((weight(i) * weight(j), x, f64::from(truth[at]) / 255.0));
                }
            }
            let total: f64 = window.iter().map(|w| w.0).sum();
            let mean = |f: &dyn Fn(f64, f64) -> f64| window.iter().map(|&(w, x, y)| w * f(x, y)).sum::<f64>() / total;
            let (mx, my) = (mean(&|x, _| x), mean(&|_, y| y));
            let (vx, vy) = (mean(&|x, _| (x - mx).powi(2)), mean(&|_, y| (y - my).powi(2)));
            let vxy = mean(&|x, y| (x - mx) * (y - my));
            let (c1, c2) = (1e-4, 9e-4);
            sum += (2.0 * mx * my + c1) * (2.0 * vxy + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2));
            count += 1;
        }
    }
    let found = ssim_in_use(&image, &truth, SIDE, SIDE, &used).expect("SSIM").expect("a score");
    assert!((found - sum / f64::from(count)).abs() < 1e-9, "{found}, expected {}", sum / f64::from(count));
}

#[test]
fn what_is_not_in_use_does_not_matter() {
    let (image, truth) = pictures();
    let used = mask(|x, y| x < 15 || y % 4 == 0);
    let mut spoiled = image.clone();
    for (pixel, values) in spoiled.chunks_exact_mut(3).enumerate().filter(|(pixel, _)| !used.get(*pixel)) {
        values.fill((pixel % 2) as f32);
    }
    assert_ne!(image, spoiled);
    assert_eq!(
        psnr_in_use_db(&image, &truth, &used).expect("PSNR"),
        psnr_in_use_db(&spoiled, &truth, &used).expect("PSNR")
    );
    assert_eq!(
        ssim_in_use(&image, &truth, SIDE, SIDE, &used).expect("SSIM"),
        ssim_in_use(&spoiled, &truth, SIDE, SIDE, &used).expect("SSIM")
    );
    // One pixel that counts: its own error.
    let one = mask(|x, y| (x, y) == (9, 10));
    let at = 3 * (10 * SIDE + 9);
    let square = |i: usize| (f64::from(image[at + i]) - f64::from(truth[at + i]) / 255.0).powi(2);
    let expected = -10.0 * ((0..3).map(square).sum::<f64>() / 3.0).log10();
    let found = psnr_in_use_db(&image, &truth, &one).expect("PSNR").expect("a score");
    assert!((found - expected).abs() < 1e-4, "{found}, expected {expected}");
    // None, or none in the middle of a window.
    assert_eq!(psnr_in_use_db(&image, &truth, &mask(|_, _| false)).expect("PSNR"), None);
    assert_eq!(ssim_in_use(&image, &truth, SIDE, SIDE, &mask(|x, _| x < 5)).expect("SSIM"), None);
    let few = Bitmap::from_fn(7, |_| true).expect("a bitmap");
    assert!(psnr_in_use_db(&image, &truth, &few).is_err());
    assert!(ssim_in_use(&image, &truth, SIDE, SIDE, &few).is_err());
    let threads = |threads| {
        capture::on_threads(threads, || ssim_in_use(&image, &truth, SIDE, SIDE, &used)).expect("SSIM").map(f64::to_bits)
    };
    assert_eq!(threads(1), threads(3));
}

#[test]
fn masked_views_are_scored_by_what_is_left() {
    let trainer = capture::trainer(capture::config(1)).expect("a trainer");
    let score =
        |views: &[_]| evaluate_views(trainer.foam(), views, [1.0; 3], &TraceSettings::default(), |_, _, _| Ok(()));
    let mut views = capture::dataset().test[..3].to_vec();
    let pixels = 32 * 32;
    let whole = score(&views).expect("scores");
    assert!(whole.skipped.is_empty());
    // Spoiled below the mask, so only what is above may count.
    views[1].mask = Some(Bitmap::from_fn(pixels, |pixel| pixel < pixels / 2).expect("a bitmap"));
    let masked = score(&views).expect("scores");
    assert_eq!((&masked.views[0], masked.views[1] == whole.views[1]), (&whole.views[0], false));
    let half = views[1].image.data.len() / 2;
    views[1].image.data[half..].fill(7);
    views[2].mask = Some(Bitmap::from_fn(pixels, |_| false).expect("a bitmap"));
    let spoiled = score(&views).expect("scores");
    assert_eq!(spoiled.views[..], masked.views[..2]);
    assert_eq!(spoiled.skipped, [views[2].name.clone()]);
    assert!((spoiled.psnr_db - 0.5 * (masked.views[0].psnr_db + masked.views[1].psnr_db)).abs() < 1e-12);
    let error = score(&views[2..]).expect_err("nothing to score").to_string();
    assert!(error.contains(&views[2].name), "{error}");
}
