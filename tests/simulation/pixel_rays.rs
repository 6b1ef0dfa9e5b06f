//! Rays and colours of pixels.

use candle_radfoam::camera::{Camera, Lens, Pose};
use candle_radfoam::data::{Image, Pixels, View};

use crate::kernels::{self, launches};
use crate::{Failures, bits, rng};

/// Lenses of every kind: mild ones, and some whose field ends within the image.
fn lenses() -> [Lens; 11] {
    [
        Lens::Pinhole,
        Lens::OpenCv { k1: -0.1, k2: 0.01, p1: 1e-3, p2: -2e-3 },
        Lens::OpenCv { k1: -0.3, k2: 0.0, p1: 0.0, p2: 0.0 },
        Lens::OpenCv { k1: 0.4, k2: 0.3, p1: 0.0, p2: 1e-4 },
        Lens::Brown { k1: -0.2, k2: 0.05, k3: -0.01, k4: 1e-3, p1: 1e-4, p2: 2e-4 },
        Lens::FullOpenCv { k1: 0.2, k2: -0.01, p1: 1e-4, p2: 1e-4, k3: 0.0, k4: 0.3, k5: 0.01, k6: 1e-3 },
        Lens::FullOpenCv { k1: 0.1, k2: 0.0, p1: 0.0, p2: 0.0, k3: 0.0, k4: -0.4, k5: 0.0, k6: 0.0 },
        Lens::Fisheye { k1: 0.02, k2: -0.01, k3: 1e-3, k4: 0.0 },
        Lens::Fisheye { k1: -0.1, k2: 0.0, k3: 0.0, k4: 0.0 },
        Lens::ThinPrismFisheye { k1: 0.01, k2: 0.0, p1: 1e-3, p2: 0.0, k3: 0.0, k4: 0.0, sx1: 1e-3, sy1: -1e-3 },
        Lens::Equirectangular,
    ]
}

fn views(channels: usize) -> Vec<View> {
    let lenses = lenses().into_iter().enumerate();
    lenses
        .map(|(i, lens)| {
            let (width, height) = (17 + i as u32, 13);
            let focal = if lens == Lens::Equirectangular { f64::from(width) / 6.3 } else { 9.0 };
            let (sin, cos) = (0.3 * i as f64).sin_cos();
            let rotation = [[cos, 0.0, sin], [0.0, 1.0, 0.0], [-sin, 0.0, cos]];
            let camera = Camera {
                width,
                height,
                fx: focal,
                fy: 1.01 * focal,
                cx: f64::from(width) / 2.0 + 0.3,
                cy: 6.4,
                lens,
                world_from_camera: Pose::new(rotation, [0.1, -0.2, 0.3 * i as f64]).unwrap(),
            };
            let num = width as usize * height as usize * channels;
            let levels: Vec<u8> = (0..num as u32).map(|k| rng(i).below(k, 256) as u8).collect();
            View::new("view", camera, Image::new(width, height, channels, levels).unwrap())
        })
        .collect()
}

/// Of equal libraries for sine and cosine, as here, all rays have the bits of the CPU.
#[test]
fn rays_and_colours_have_the_bits_of_the_cpu() {
    let mut failures = Failures::default();
    for channels in [3, 4] {
        let views = views(channels);
        let pixels = Pixels::new(&views).unwrap();
        let in_use = |index: &u32| pixels.in_use().is_none_or(|in_use| in_use.get(*index as usize));
        let indices: Vec<u32> = (0..pixels.len() as u32).filter(in_use).collect();
        assert!(indices.len() < pixels.len(), "some lens has a field that ends within the image");
        let expected = pixels.batch(&indices).unwrap();
        let mut offsets = vec![0];
        for camera in pixels.cameras() {
            offsets.push(offsets[offsets.len() - 1] + camera.width * camera.height);
        }
        let widths: Vec<u32> = pixels.cameras().iter().map(|camera| camera.width).collect();
        let cameras: Vec<f64> = pixels.cameras().iter().flat_map(Camera::numbers).collect();
        let levels: Vec<u8> = views.iter().flat_map(|view| view.image.data.clone()).collect();
        let num = indices.len();
        for launch in launches(num) {
            let (mut origins, mut directions) = (vec![f32::NAN; 3 * num], vec![f32::NAN; 3 * num]);
            let (mut rgba, mut found_views) = (vec![f32::NAN; 4 * num], vec![u32::MAX; num]);
            kernels::pixel_rays_f32(
                &launch,
                &indices,
                &offsets,
                &widths,
                &cameras,
                &levels,
                num as u64,
                widths.len() as u32,
                channels as u32,
                &mut origins,
                &mut directions,
                &mut rgba,
                &mut found_views,
            );
            let what = format!("{channels} channels, {launch:?}");
            failures.equal(format!("{what}: origins"), &bits(&origins), &bits(expected.origins.as_flattened()));
            let lens = |at: usize| views[expected.views[at / 3] as usize].camera.lens;
            let directions_expected = expected.directions.as_flattened();
            if let Some(at) = directions.iter().zip(directions_expected).position(|(a, b)| a.to_bits() != b.to_bits()) {
                let (found, expected) = (directions[at], directions_expected[at]);
                failures.0.push(format!("{what}: direction {found} of {:?}, expected {expected}", lens(at)));
            }
            failures.equal(format!("{what}: colours"), &bits(&rgba), &bits(expected.rgba.as_flattened()));
            failures.equal(format!("{what}: views"), &found_views, &expected.views);
        }
    }
}
