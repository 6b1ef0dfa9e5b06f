//! A capture made on the spot: an analytic scene, ray-traced from all sides and written as a Blender-style capture.
//!
//! A table with a tiled top carries a marble ball in a brass cage (thin parts), a ring of beads, a lacquered ball
//! (shiny), a striped ring, a small tree and a pane of glass (translucent). All shapes have a formula, so the
//! depth beside each picture is exact to f32. The folder holds, for each split (`train`, `test`):
//!
//! | file | content |
//! |---|---|
//! | `transforms_<split>.json` | `camera_angle_x`, `w`, `h`, and for each frame `file_path`, `depth_file_path`, `transform_matrix` (4x4 world-from-camera; +X right, +Y up, camera looks along -Z) |
//! | `<split>/r_<i>.png` | 8-bit RGBA, straight alpha, transparent background |
//! | `<split>/r_<i>_depth.npy` | f32 `[H, W]`: distance along the ray through the pixel's centre to the first opaque surface, in world units; 0 where there is none (glass is not opaque) |
//!
//! Surfaces are composited as display-referred (sRGB-encoded) values, as radiance fields composite.
//!
//! ```
//! use candle_radfoam::data::synthetic::{SyntheticOptions, is_capture_of, write_capture};
//!
//! let options = SyntheticOptions { size: 16, train_views: 2, test_views: 1, ..Default::default() };
//! let dir = std::env::temp_dir().join(format!("synthetic-doc-{}", std::process::id()));
//! if !is_capture_of(&dir, &options) {
//!     write_capture(&dir, &options, &|done, of| println!("{done} of {of} views"))?;
//! }
//! assert!(is_capture_of(&dir, &options));
//! # std::fs::remove_dir_all(&dir).ok();
//! # Ok::<(), candle_radfoam::Error>(())
//! ```

mod scene;
mod shapes;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use image::{ImageFormat, Rgba, RgbaImage};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::scene::{Scene, Seen};
use self::shapes::{Ray, Vec3};
use crate::checkpoint::write_atomically;
use crate::rng::{Rng, Stream};
use crate::{Error, Result};

/// Counts changes of the scene and of the files, so that a capture of an older version is not taken for a new one.
const VERSION: u32 = 1;
/// The key of the JSON files that says what made them.
const MADE_BY: &str = "candle_radfoam_synthetic";
const SPLITS: [&str; 2] = ["train", "test"];

/// Horizontal field of view: that of the synthetic captures everyone compares on, within a degree.
const CAMERA_ANGLE_X: f64 = 0.7;
/// From here the table just fills a picture of that angle.
const CAMERA_DISTANCE: f64 = 4.2;
/// The cameras' distances differ by at most this share, so that no two see the scene at the same scale.
const DISTANCE_SPREAD: f64 = 0.06;
/// The cameras' heights, as sines of the elevation: from ten degrees, where the tiles are still wider than a pixel
/// or two, to almost overhead.
const ELEVATION_SINES: (f64, f64) = (0.17, 0.97);
/// The golden angle: consecutive views of a spiral never line up.
const GOLDEN_ANGLE: f64 = 2.399_963_229_728_653;
/// Corners of a pixel on one surface that differ by less (of 1, in any channel) need no further samples: what lies
/// between them is close to linear, and the mean of the corners is the mean of the pixel.
const FLAT: f64 = 10.0 / 255.0;

/// How large, how many, how fine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SyntheticOptions {
    /// Width and height of each picture in pixels, 8 to 8192.
    pub size: u32,
    /// Number of training views, at least 1.
    pub train_views: u32,
    /// Number of test views, at least 1; they look from between the training views.
    pub test_views: u32,
    /// Samples along each side of a pixel, 1 to 16; their square is taken where the pixel is not flat.
    pub samples: u32,
    /// Decides the textures and where the spiral of cameras begins.
    pub seed: u64,
}

impl Default for SyntheticOptions {
    fn default() -> Self {
        Self { size: 160, train_views: 80, test_views: 16, samples: 4, seed: 0 }
    }
}

impl SyntheticOptions {
    fn check(&self) -> Result<()> {
        let ranges = [
            ("size", self.size, 8, 8192),
            ("train_views", self.train_views, 1, 100_000),
            ("test_views", self.test_views, 1, 100_000),
            ("samples", self.samples, 1, 16),
        ];
        match ranges.into_iter().find(|(_, value, low, high)| !(low..=high).contains(&value)) {
            None => Ok(()),
            Some((field, value, low, high)) => {
                Err(Error::config(format!("synthetic.{field}"), format!("{low} to {high}"), value.to_string()))
            }
        }
    }

    fn views(&self, split: &str) -> u32 {
        if split == "train" { self.train_views } else { self.test_views }
    }

    /// What the JSON files carry to be recognised by.
    fn mark(&self) -> Value {
        json!({ "version": VERSION, "options": self })
    }
}

/// Makes a capture in `dir`, which is created if need be.
///
/// `progress` is called after each view, from any thread, with the number of views that are done and of all views.
/// The same options give the same bytes whatever the number of threads. The `transforms_*.json` come last, so that
/// a folder without both is not a capture.
///
/// # Errors
///
/// [`Error::Config`] for options out of range, [`Error::File`] if `dir` holds a capture that was not made by this
/// function (it is left alone), [`Error::Io`] if a file cannot be written.
pub fn write_capture(dir: &Path, options: &SyntheticOptions, progress: &(dyn Fn(usize, usize) + Sync)) -> Result<()> {
    options.check()?;
    for split in SPLITS {
        let path = transforms_path(dir, split);
        if path.exists() {
            if read_mark(&path).is_none() {
                return Err(Error::file(path, MADE_BY, "a synthetic capture, or an empty folder", "another capture"));
            }
            fs::remove_file(&path).map_err(|e| Error::io(&path, e))?;
        }
        let folder = dir.join(split);
        fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
    }

    let scene = Scene::new(options.seed);
    let views: Vec<_> = SPLITS.iter().flat_map(|&split| (0..options.views(split)).map(move |i| (split, i))).collect();
    let done = AtomicUsize::new(0);
    views.par_iter().try_for_each(|&(split, i)| {
        let view = View::new(options, split, i);
        let (picture, depth) = view.render(&scene, options);
        let mut png = std::io::Cursor::new(Vec::new());
        let path = dir.join(file_name(split, i, "png"));
        picture
            .write_to(&mut png, ImageFormat::Png)
            .map_err(|e| Error::file(&path, "PNG", "to be encoded", e.to_string()))?;
        write_atomically(&path, png.get_ref())?;
        write_atomically(dir.join(file_name(split, i, "npy")), &npy(&depth, options.size))?;
        progress(done.fetch_add(1, Ordering::Relaxed) + 1, views.len());
        Ok::<(), Error>(())
    })?;

    for split in SPLITS {
        let frames: Vec<_> = (0..options.views(split))
            .map(|i| {
                json!({
                    "file_path": format!("./{split}/r_{i}"),
                    "depth_file_path": format!("./{}", file_name(split, i, "npy")),
                    "transform_matrix": View::new(options, split, i).world_from_camera(),
                })
            })
            .collect();
        let transforms = json!({
            "camera_angle_x": CAMERA_ANGLE_X,
            "w": options.size,
            "h": options.size,
            "depth": "f32 distance along the ray of the pixel's centre to the first opaque surface, world units; 0: none",
            MADE_BY: options.mark(),
            "frames": frames,
        });
        write_atomically(transforms_path(dir, split), format!("{transforms:#}\n").as_bytes())?;
    }
    Ok(())
}

/// Whether `dir` holds a complete capture that [`write_capture`] made with these very options, so that it can be
/// used again.
pub fn is_capture_of(dir: &Path, options: &SyntheticOptions) -> bool {
    SPLITS.iter().all(|&split| {
        let mark = read_mark(&transforms_path(dir, split));
        mark == Some(options.mark())
            && (0..options.views(split))
                .all(|i| ["png", "npy"].iter().all(|kind| dir.join(file_name(split, i, kind)).is_file()))
    })
}

fn file_name(split: &str, i: u32, kind: &str) -> String {
    let between = if kind == "npy" { "_depth" } else { "" };
    format!("{split}/r_{i}{between}.{kind}")
}

fn transforms_path(dir: &Path, split: &str) -> std::path::PathBuf {
    dir.join(format!("transforms_{split}.json"))
}

fn read_mark(path: &Path) -> Option<Value> {
    let mut json: Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    json.get_mut(MADE_BY).map(Value::take)
}

/// `depth` as a NumPy file, f32 `[size, size]`.
fn npy(depth: &[f32], size: u32) -> Vec<u8> {
    const MAGIC: &[u8] = b"\x93NUMPY\x01\x00";
    /// The header of every picture up to 8192 pixels fits; the format asks for a multiple of 64 in all.
    const HEADER: usize = 128 - MAGIC.len() - 2;
    let dict = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({size}, {size}), }}");
    let mut bytes = MAGIC.to_vec();
    bytes.extend((HEADER as u16).to_le_bytes());
    bytes.extend(format!("{dict:<width$}\n", width = HEADER - 1).bytes());
    bytes.extend(depth.iter().flat_map(|d| d.to_le_bytes()));
    bytes
}

/// A camera of the capture.
struct View {
    position: Vec3,
    right: Vec3,
    up: Vec3,
    back: Vec3,
}

impl View {
    /// View `i` of a split: a Fibonacci spiral over the upper hemisphere, the test views on a spiral of their own.
    fn new(options: &SyntheticOptions, split: &str, i: u32) -> Self {
        let [start, test_start, ..] = Rng::new(options.seed, Stream::Synthetic, 1).uniform4(0).map(f64::from);
        let start = std::f64::consts::TAU * if split == "train" { start } else { start + test_start };
        // The half puts the views in the middle of bands of equal area.
        let share = (f64::from(i) + 0.5) / f64::from(options.views(split));
        let sine = ELEVATION_SINES.0 + (ELEVATION_SINES.1 - ELEVATION_SINES.0) * share;
        let angle = start + GOLDEN_ANGLE * f64::from(i);
        let cosine = (1.0 - sine * sine).sqrt();
        let back = Vec3(cosine * angle.cos(), cosine * angle.sin(), sine);
        let wander = Rng::new(options.seed, Stream::Synthetic, 2).uniform4(i);
        let stretch = f64::from(if split == "train" { wander[0] } else { wander[1] }) * 2.0 - 1.0;
        let position = Scene::CENTRE + back * (CAMERA_DISTANCE * (1.0 + DISTANCE_SPREAD * stretch));
        let right = Vec3(0.0, 0.0, 1.0).cross(back).unit();
        Self { position, right, up: back.cross(right), back }
    }

    fn world_from_camera(&self) -> [[f64; 4]; 4] {
        let (r, u, b, p) = (self.right, self.up, self.back, self.position);
        [[r.0, u.0, b.0, p.0], [r.1, u.1, b.1, p.1], [r.2, u.2, b.2, p.2], [0.0, 0.0, 0.0, 1.0]]
    }

    /// The ray through (`x`, `y`), in pixels from the upper left corner of the picture.
    fn ray(&self, x: f64, y: f64, size: u32) -> Ray {
        let size = f64::from(size);
        let focal = 0.5 * size / (0.5 * CAMERA_ANGLE_X).tan();
        let (x, y) = ((x - 0.5 * size) / focal, (0.5 * size - y) / focal);
        Ray { origin: self.position, direction: (self.right * x + self.up * y - self.back).unit() }
    }

    fn render(&self, scene: &Scene, options: &SyntheticOptions) -> (RgbaImage, Vec<f32>) {
        let size = options.size;
        let mut depth = Vec::with_capacity((size as usize).pow(2));
        let mut picture = RgbaImage::new(size, size);
        for (x, y, pixel) in picture.enumerate_pixels_mut() {
            let (x, y) = (f64::from(x), f64::from(y));
            *pixel = self.pixel(scene, x, y, options);
            depth.push(scene.depth(&self.ray(x + 0.5, y + 0.5, size)).unwrap_or(0.0) as f32);
        }
        (picture, depth)
    }

    /// The mean over the pixel whose upper left corner is (`x`, `y`): over its four outer samples where they
    /// agree, over all of them elsewhere.
    fn pixel(&self, scene: &Scene, x: f64, y: f64, options: &SyntheticOptions) -> Rgba<u8> {
        let n = options.samples;
        let look = |i: u32, j: u32| {
            let inside = |k: u32| (f64::from(k) + 0.5) / f64::from(n);
            scene.look(&self.ray(x + inside(i), y + inside(j), options.size))
        };
        let last = n - 1;
        let outer = [look(0, 0), look(last, 0), look(0, last), look(last, last)];
        if n <= 2 || are_alike(&outer) {
            return mean(&outer);
        }
        let all: Vec<_> = (0..n * n).map(|k| look(k % n, k / n)).collect();
        mean(&all)
    }
}

fn are_alike(seen: &[Seen; 4]) -> bool {
    let [first, rest @ ..] = seen;
    rest.iter().all(|s| {
        let off = s.rgb - first.rgb;
        s.surface == first.surface
            && [off.0, off.1, off.2, s.alpha - first.alpha].iter().all(|channel| channel.abs() < FLAT)
    })
}

/// The mean as 8-bit colour with straight alpha.
fn mean(seen: &[Seen]) -> Rgba<u8> {
    let zero = (Vec3(0.0, 0.0, 0.0), 0.0);
    let (rgb, alpha) = seen.iter().fold(zero, |(rgb, alpha), s| (rgb + s.rgb, alpha + s.alpha));
    if alpha == 0.0 {
        return Rgba([0; 4]);
    }
    let byte = |x: f64| (255.0 * x).round().clamp(0.0, 255.0) as u8;
    let alpha_mean = alpha / seen.len() as f64;
    Rgba([byte(rgb.0 / alpha), byte(rgb.1 / alpha), byte(rgb.2 / alpha), byte(alpha_mean)])
}
