//! Captures in folders, written for a test or found beside the crate.
#![allow(dead_code, reason = "each test file uses a part")]

use std::fs;
use std::path::{Path, PathBuf};

use candle_radfoam::camera::{Camera, Lens, Pose};
use candle_radfoam::data::{Dataset, Image, LoadOptions, Resize, View};

/// A folder of captures that are not part of the crate, if it is there.
pub fn shared(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("RADFOAM_DATA").map(PathBuf::from);
    let root = root.unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data").into());
    let path = root.join(name);
    if !path.exists() {
        println!("skipped: no {name} in {}", root.display());
    }
    path.exists().then_some(path)
}

pub fn options(resize: Resize) -> LoadOptions {
    LoadOptions { resize, ..LoadOptions::default() }
}

pub fn names(views: &[View]) -> Vec<&str> {
    views.iter().map(|view| view.name.as_str()).collect()
}

pub fn norm(v: [f64; 3]) -> f64 {
    v.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// The farthest camera's distance from the origin, which normalisation makes 1.
pub fn reach(dataset: &Dataset) -> f64 {
    let views = dataset.train.iter().chain(&dataset.test);
    views.map(|view| norm(view.camera.world_from_camera.position)).fold(0.0, f64::max)
}

/// Straight-alpha test image: a gradient with a transparent column.
pub fn write_png(path: &Path, width: u32, height: u32) {
    let pixel = |x, y| image::Rgba([(10 * x) as u8, (20 * y) as u8, 200, if x == 0 { 0 } else { 255 }]);
    image::RgbaImage::from_fn(width, height, pixel).save(path).unwrap();
}

/// An OpenGL `world_from_camera` matrix on a circle, looking at `target`, in a world scaled and shifted.
pub fn orbit(angle: f64, target: [f64; 3], scale: f64, shift: f64) -> [[f64; 4]; 4] {
    let (s, c) = angle.sin_cos();
    let back = [c * 0.8, s * 0.8, 0.6];
    let right = [-s, c, 0.0];
    let up = [-c * 0.6, -s * 0.6, 0.8];
    let radius = 3.0 + 0.5 * c;
    let mut matrix = [[0.0, 0.0, 0.0, 0.0]; 4];
    for i in 0..3 {
        matrix[i] = [right[i], up[i], back[i], scale * (target[i] + radius * back[i]) + shift];
    }
    matrix[3] = [0.0, 0.0, 0.0, 1.0];
    matrix
}

/// Writes a capture of `num_views` images named 00.png, 01.png, ...
pub fn write_capture(folder: &Path, num_views: usize, scale: f64, shift: f64, entries: serde_json::Value) {
    let frames: Vec<_> = (0..num_views)
        .map(|i| {
            let name = format!("{i:02}.png");
            write_png(&folder.join(&name), 8, 6);
            let matrix = orbit(i as f64 * 0.7, [0.5, -0.25, 1.0], scale, shift);
            serde_json::json!({ "file_path": name, "transform_matrix": matrix })
        })
        .collect();
    let mut file = entries;
    file["frames"] = frames.into();
    fs::write(folder.join("transforms.json"), file.to_string()).unwrap();
}

pub fn simple(focal: f64) -> serde_json::Value {
    serde_json::json!({ "fl_x": focal, "w": 8, "h": 6 })
}

pub fn view(name: &str, camera: Camera, channels: usize) -> View {
    let size = camera.width as usize * camera.height as usize * channels;
    let data = (0..size).map(|i| (i * 7 % 256) as u8).collect();
    View::new(name, camera, Image::new(camera.width, camera.height, channels, data).unwrap())
}

pub fn camera(width: u32, height: u32, position: [f64; 3]) -> Camera {
    let (w, h) = (f64::from(width), f64::from(height));
    let world_from_camera = Pose { position, ..Pose::IDENTITY };
    Camera { width, height, fx: w, fy: w, cx: 0.5 * w, cy: 0.5 * h, lens: Lens::Pinhole, world_from_camera }
}
