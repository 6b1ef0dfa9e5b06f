//! A small reconstruction, and how it is written.

use std::fs;
use std::path::Path;

use candle_radfoam::data::{ListedView, Resize, Skipped, list_views};

/// Name, id and number of parameters of every model that is read.
pub const MODELS: [(&str, u32, usize); 10] = [
    ("SIMPLE_PINHOLE", 0, 3),
    ("PINHOLE", 1, 4),
    ("SIMPLE_RADIAL", 2, 4),
    ("RADIAL", 3, 5),
    ("OPENCV", 4, 8),
    ("OPENCV_FISHEYE", 5, 8),
    ("FULL_OPENCV", 6, 12),
    ("SIMPLE_RADIAL_FISHEYE", 8, 4),
    ("RADIAL_FISHEYE", 9, 5),
    ("THIN_PRISM_FISHEYE", 10, 12),
];

/// Id, quaternion and translation, camera, name, number of observations.
pub type Image = (u32, [f64; 7], u32, Vec<u8>, usize);

/// A reconstruction to be written.
#[derive(Clone)]
pub struct Model {
    /// Id, index in [`MODELS`], width, height, parameters.
    pub cameras: Vec<(u32, usize, u64, u64, Vec<f64>)>,
    pub images: Vec<Image>,
    /// Id, position, colour, length of the track.
    pub points: Vec<(u64, [f64; 3], [u8; 3], usize)>,
}

pub const POSE: [f64; 7] = [1.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0];

impl Model {
    /// Two cameras, two images, two points.
    pub fn small() -> Self {
        let turned = [0.5, -0.5, 0.5, 0.5, 0.25, 0.125, -1.5];
        Self {
            cameras: vec![(3, 1, 8, 6, vec![7.0, 6.0, 4.0, 3.0]), (4, 2, 16, 12, vec![14.0, 8.0, 6.0, 0.1])],
            images: vec![(1, POSE, 3, b"a.png".to_vec(), 2), (2, turned, 4, b"b.png".to_vec(), 0)],
            points: vec![(9, [1.0, 2.0, 30.0], [1, 2, 3], 2), (12, [-1.5, 0.25, 8.0], [255, 0, 9], 0)],
        }
    }

    pub fn binary(&self) -> [Vec<u8>; 3] {
        let mut cameras = (self.cameras.len() as u64).to_le_bytes().to_vec();
        for (id, model, width, height, parameters) in &self.cameras {
            cameras.extend([id.to_le_bytes(), MODELS[*model].1.to_le_bytes()].concat());
            cameras.extend([width.to_le_bytes(), height.to_le_bytes()].concat());
            cameras.extend(parameters.iter().flat_map(|p| p.to_le_bytes()));
        }
        let mut images = (self.images.len() as u64).to_le_bytes().to_vec();
        for (id, pose, camera, name, observations) in &self.images {
            images.extend(id.to_le_bytes());
            images.extend(pose.iter().flat_map(|v| v.to_le_bytes()));
            images.extend(camera.to_le_bytes());
            images.extend(name);
            images.push(0);
            images.extend((*observations as u64).to_le_bytes());
            images.extend(vec![0; 24 * observations]);
        }
        let mut points = (self.points.len() as u64).to_le_bytes().to_vec();
        for (id, position, color, track) in &self.points {
            points.extend(id.to_le_bytes());
            points.extend(position.iter().flat_map(|v| v.to_le_bytes()));
            points.extend(color);
            points.extend(0.5_f64.to_le_bytes());
            points.extend((*track as u64).to_le_bytes());
            points.extend(vec![0; 8 * track]);
        }
        [cameras, images, points]
    }

    pub fn text(&self) -> [Vec<u8>; 3] {
        let words = |values: &[f64]| values.iter().map(|v| format!(" {v:?}")).collect::<String>();
        let mut cameras = b"# Camera list with one line of data per camera:\n".to_vec();
        for (id, model, width, height, parameters) in &self.cameras {
            let line = format!("{id} {} {width} {height}{}\n", MODELS[*model].0, words(parameters));
            cameras.extend(line.as_bytes());
        }
        let mut images = b"# Image list with two lines of data per image:\n".to_vec();
        for (id, pose, camera, name, observations) in &self.images {
            images.extend(format!("{id}{} {camera} ", words(pose)).as_bytes());
            images.extend(name);
            images.extend(format!("\n{}\n", vec!["1.5 2.5 -1"; *observations].join(" ")).as_bytes());
        }
        let mut points = b"# 3D point list with one line of data per point:\n".to_vec();
        for (id, position, [r, g, b], track) in &self.points {
            let track = " 1 0".repeat(*track);
            points.extend(format!("{id}{} {r} {g} {b} 0.5{track}\n", words(position)).as_bytes());
        }
        [cameras, images, points]
    }
}

pub const NAMES: [&str; 3] = ["cameras", "images", "points3D"];

pub fn write(folder: &Path, ending: &str, files: &[Vec<u8>; 3]) {
    fs::create_dir_all(folder).unwrap();
    for (name, bytes) in NAMES.iter().zip(files) {
        fs::write(folder.join(format!("{name}.{ending}")), bytes).unwrap();
    }
}

pub fn write_image(path: &Path, width: u32, height: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    image::RgbImage::from_pixel(width, height, image::Rgb([9, 8, 7])).save(path).unwrap();
}

pub type Views = (Vec<ListedView>, Vec<Skipped>);

pub fn views(folder: &Path) -> candle_radfoam::Result<Views> {
    list_views(folder, Resize::None, None)
}

/// The cameras of a reconstruction without images.
pub fn read(ending: &str, files: &[Vec<u8>; 3]) -> candle_radfoam::Result<Views> {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("sparse/0"), ending, files);
    views(folder.path())
}

pub fn close(a: [f64; 3], b: [f64; 3], tolerance: f64) -> bool {
    (0..3).all(|i| (a[i] - b[i]).abs() <= tolerance)
}
