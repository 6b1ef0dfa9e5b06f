//! Loading a capture: poses, images, masks, split, start cloud, normalisation.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::capture::{Capture, Listed, read};
use super::mask::reduced;
use super::normalization::{Normalization, extent};
use super::options::{LoadOptions, Resize, held_out};
use super::{Bitmap, Image};
use crate::camera::Camera;
use crate::exchange::PointCloud;
use crate::{Error, Result};

/// An image with its camera, in normalised units.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// The name of the image in the capture.
    pub name: String,
    /// The camera, at the image's size.
    pub camera: Camera,
    /// The image.
    pub image: Image,
    /// The pixels that its mask lets count, by `row * width + column`; `None` where all do.
    pub mask: Option<Bitmap>,
}

impl View {
    /// A view without a mask.
    pub fn new(name: impl Into<String>, camera: Camera, image: Image) -> Self {
        Self { name: name.into(), camera, image, mask: None }
    }

    /// The pixels that can be trained on and scored, by `row * width + column`: those that the mask lets count and
    /// that have a ray, being inside the valid field of the lens. `None` where that is all of them.
    ///
    /// # Errors
    ///
    /// If the mask or the image is not of the camera's size, or the image has 2^32 pixels or more.
    pub fn in_use(&self) -> Result<Option<Bitmap>> {
        self.check_size()?;
        let without_ray = self.camera.pixels_without_ray();
        if without_ray.is_empty() {
            return Ok(self.mask.clone());
        }
        let masked = |pixel: usize| self.mask.as_ref().is_some_and(|mask| !mask.get(pixel));
        let in_use = |pixel: usize| !masked(pixel) && without_ray.binary_search(&(pixel as u32)).is_err();
        Bitmap::from_fn(self.num_pixels(), in_use).map(Some)
    }

    fn num_pixels(&self) -> usize {
        self.camera.width as usize * self.camera.height as usize
    }

    /// That camera, image and mask are of one size.
    pub(super) fn check_size(&self) -> Result<()> {
        let (camera, image) = (&self.camera, &self.image);
        let bytes = self.num_pixels().checked_mul(image.channels);
        if (camera.width, camera.height, bytes) != (image.width, image.height, Some(image.data.len())) {
            let expected = format!("an image of {}x{}", camera.width, camera.height);
            let found = format!("{}x{} in {} bytes", image.width, image.height, image.data.len());
            return Err(Error::config(&self.name, expected, found));
        }
        match &self.mask {
            Some(mask) if mask.len() != self.num_pixels() => {
                let expected = format!("a mask of {} pixels", self.num_pixels());
                Err(Error::config(&self.name, expected, mask.len().to_string()))
            }
            _ => Ok(()),
        }
    }
}

/// A view of the capture that could not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The name of the image in the capture.
    pub name: String,
    /// Why it was left out.
    pub reason: String,
}

/// A capture in memory, in normalised units.
///
/// For a model of one's own, [`Pixels`](super::Pixels) gives the rays and the colours of the training views, and a
/// plain loop does the rest. Errors (of a draw from pixels that are not in use, say) come back to it by `?`.
///
/// ```
/// use candle_radfoam::camera::{Camera, Lens, Pose};
/// use candle_radfoam::data::{Dataset, Image, Pixels, View};
///
/// // A model with three parameters: the mean colour. A field would look at the rays as well.
/// struct Model([f32; 3]);
/// impl Model {
///     fn render(&self, _origin: [f32; 3], _direction: [f32; 3]) -> [f32; 3] {
///         self.0
///     }
/// }
///
/// # fn main() -> candle_radfoam::Result<()> {
/// # let camera = Camera {
/// #     width: 4, height: 4, fx: 4.0, fy: 4.0, cx: 2.0, cy: 2.0,
/// #     lens: Lens::Pinhole, world_from_camera: Pose::IDENTITY,
/// # };
/// # let view = View::new("one", camera, Image::new(4, 4, 3, vec![51; 48])?);
/// # let dataset = Dataset::new("made here", vec![view], vec![], None)?;
/// // let dataset = load("path/to/capture", &LoadOptions::default())?;
/// let pixels = Pixels::new(&dataset.train)?;
/// let counts = |&pixel: &u32| pixels.in_use().is_none_or(|in_use| in_use.get(pixel as usize));
/// let in_use: Vec<u32> = (0..pixels.len() as u32).filter(counts).collect();
/// let mut model = Model([0.5; 3]);
/// for indices in in_use.chunks(8).cycle().take(200) {
///     let batch = pixels.batch(indices)?;
///     for ((&origin, &direction), &[r, g, b, _alpha]) in batch.origins.iter().zip(&batch.directions).zip(&batch.rgba) {
///         let rgb = model.render(origin, direction);
///         for (parameter, (seen, rendered)) in model.0.iter_mut().zip([r, g, b].into_iter().zip(rgb)) {
///             *parameter += 0.05 * (seen - rendered);
///         }
///     }
/// }
/// assert!((model.0[0] - 0.2).abs() < 1e-3);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// What the capture was recognised as.
    pub layout: String,
    /// The views to train on, sorted by name.
    pub train: Vec<View>,
    /// The views held out, sorted by name.
    pub test: Vec<View>,
    /// Points of the scene, from structure from motion.
    pub point_cloud: Option<PointCloud>,
    /// From the capture's world to the units of everything else here.
    pub normalization: Normalization,
    /// Half the size of the region of interest around the origin: the median distance of the points, or without
    /// points the half-width that the cameras see at the origin.
    pub extent: f64,
    /// The views that are not here, sorted by name.
    pub skipped: Vec<Skipped>,
    /// Whether any image has transparent pixels.
    pub has_alpha: bool,
    /// The pixels, of all views, that masks hide. They are neither trained on nor scored.
    pub num_masked: u64,
    /// The pixels, of all views and beside those that masks hide, that have no ray because they lie outside the valid
    /// field of their lens. They are neither trained on nor scored.
    pub num_outside_lens: u64,
    /// What the tool that wrote the capture did to the world of its reconstruction before it wrote poses and points:
    /// rows of `[A | t]` in `world = A * original + t`. `None` if it does not say that it did anything.
    ///
    /// Poses and points are in the same world as written; this is for the way back, see
    /// [`Dataset::original_position`].
    pub applied_transform: Option<[[f64; 4]; 3]>,
}

/// Loads the capture in the folder `path`, or the one that the file `path` (a `transforms.json` or
/// `poses_bounds.npy`) describes.
///
/// What is recognised, see [`recognise`](super::recognise) and [`Format`](super::Format). Images are decoded on all
/// cores, each core holding one at a time, at most twice; the result does not depend on how many cores there are. Two
/// decoders take more: that of a progressive JPEG holds 16 bits a coefficient, and that of a lossy WebP with alpha
/// the alpha four times over.
/// What a capture lists and what cannot be used is left out by name, with the reason, in [`Dataset::skipped`]: images
/// that are missing, broken, or of another shape than their camera; masks likewise, as training on what a mask should
/// have hidden would go unnoticed; views of a name or a file that was listed before.
///
/// Of the parts of a `transforms_{train,test,val}.json`, and of nerfstudio's lists (`train_filenames`, and so on), test
/// is held out and val is left out; without test, val is held out. Poses are those of the files: what a tool says that it applied to them is in
/// [`Dataset::applied_transform`]. Pixels are taken as they are stored, except that an image whose size in the file
/// contradicts its camera's is turned as its EXIF data says if that mends it. Depth images that a capture may list are
/// neither read nor looked for, and shutters are taken to open for an instant.
///
/// ```no_run
/// use candle_radfoam::data::{LoadOptions, Resize, load};
///
/// # fn main() -> candle_radfoam::Result<()> {
/// let options = LoadOptions { resize: Resize::Downsample(4), test_views: "every:8".parse()? };
/// let dataset = load("path/to/capture", &options)?;
/// println!("{}: {} + {} views", dataset.layout, dataset.train.len(), dataset.test.len());
/// for skipped in &dataset.skipped {
///     println!("left out {}: {}", skipped.name, skipped.reason);
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// If no format is recognised, a file that describes the capture is broken, a camera model is not supported, the
/// test views are not there, or no view is left to train on.
pub fn load(path: impl AsRef<Path>, options: &LoadOptions) -> Result<Dataset> {
    load_with_progress(path, options, &|_, _| {})
}

/// Like [`load`], calling `progress(done, total)` after each image, from any thread.
///
/// # Errors
///
/// As [`load`].
pub fn load_with_progress(
    path: impl AsRef<Path>,
    options: &LoadOptions,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Dataset> {
    let path = path.as_ref();
    // A setting that no image can satisfy is an error of its own, not a reason to leave every view out.
    options.resize.size(u32::MAX, u32::MAX)?;
    let Capture { format: _, layout, listed, cloud, landmarks, test, applied_transform, mut skipped } = read(path)?;
    let num_listed = listed.len() + skipped.len();
    let (mut present, missing): (Vec<_>, Vec<_>) = listed.into_iter().partition(|view| view.file.is_file());
    let absent = |view: Listed| Skipped { reason: format!("no such file: {}", view.file.display()), name: view.name };
    skipped.extend(missing.into_iter().map(absent));
    present.sort_by(|a, b| a.name.cmp(&b.name));
    let names: Vec<&str> = present.iter().map(|view| view.name.as_str()).collect();
    let held_out = held_out(&names, &options.test_views, test.as_ref())?;

    let done = AtomicUsize::new(0);
    let loaded: Vec<Result<View>> = present
        .par_iter()
        .map(|view| {
            let loaded = view.load(options.resize);
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, present.len());
            loaded
        })
        .collect();
    let (mut train, mut test) = (Vec::new(), Vec::new());
    for ((loaded, view), held_out) in loaded.into_iter().zip(&present).zip(held_out) {
        match loaded {
            Ok(view) if held_out => test.push(view),
            Ok(view) => train.push(view),
            Err(error) => skipped.push(Skipped { name: view.name.clone(), reason: error.to_string() }),
        }
    }
    skipped.sort_by(|a, b| a.name.cmp(&b.name));
    if train.is_empty() {
        let first = skipped.first().map(|first| format!("; {}: {}", first.name, first.reason)).unwrap_or_default();
        let found = format!("none of {num_listed} ({} held out, {} unusable{first})", test.len(), skipped.len());
        return Err(Error::file(path, "views", "at least one to train on", found));
    }
    let dataset = Dataset::with_landmarks(layout, train, test, cloud, &landmarks)?;
    Ok(Dataset { skipped, applied_transform, ..dataset })
}

impl Dataset {
    /// A dataset of views and points in one world of any units, which this normalises.
    ///
    /// # Errors
    ///
    /// If there is no view to train on, or a camera is broken or not of its image's size.
    pub fn new(
        layout: impl Into<String>,
        train: Vec<View>,
        test: Vec<View>,
        point_cloud: Option<PointCloud>,
    ) -> Result<Self> {
        Self::with_landmarks(layout, train, test, point_cloud, &[])
    }

    /// [`Dataset::new`], where `landmarks` stand in for the points in finding the centre if there are none.
    fn with_landmarks(
        layout: impl Into<String>,
        mut train: Vec<View>,
        mut test: Vec<View>,
        point_cloud: Option<PointCloud>,
        landmarks: &[[f64; 3]],
    ) -> Result<Self> {
        if train.is_empty() {
            return Err(Error::config("train views", "at least one", "none"));
        }
        for view in train.iter().chain(&test) {
            view.camera.check()?;
            view.check_size()?;
        }
        let mut point_cloud = point_cloud.filter(|cloud| !cloud.points.is_empty());
        let cameras: Vec<Camera> = train.iter().chain(&test).map(|view| view.camera).collect();
        let points = point_cloud.as_ref().map_or(landmarks, |cloud| &cloud.points);
        let normalization = Normalization::of(&cameras, points);
        for view in train.iter_mut().chain(&mut test) {
            view.camera = normalization.apply_camera(&view.camera);
        }
        for point in point_cloud.iter_mut().flat_map(|cloud| &mut cloud.points) {
            *point = normalization.apply(*point);
        }
        let [num_masked, num_outside_lens] = unused_pixels(&train, &test)?;
        Ok(Self {
            layout: layout.into(),
            extent: extent(&train, point_cloud.as_ref()),
            has_alpha: train.iter().chain(&test).any(|view| view.image.channels == 4),
            num_masked,
            num_outside_lens,
            applied_transform: None,
            train,
            test,
            point_cloud,
            normalization,
            skipped: Vec::new(),
        })
    }

    /// The dataset with both sides of every image divided by `factor`, for a schedule of resolutions.
    ///
    /// Only the reduced images take new memory; poses, points and units stay the same.
    ///
    /// # Errors
    ///
    /// If `factor` is 0.
    pub fn resized(&self, factor: u32) -> Result<Self> {
        let resize = Resize::Downsample(factor);
        let reduce = |views: &[View]| -> Result<Vec<View>> {
            let reduced = views.par_iter().map(|view| {
                let from = [view.image.width, view.image.height];
                let (width, height) = resize.size(from[0], from[1])?;
                if factor == 1 {
                    return Ok(view.clone());
                }
                let mask = view.mask.as_ref();
                let mask = mask.map(|mask| reduced(&|pixel| mask.get(pixel), from, [width, height])).transpose()?;
                let (camera, image) = (view.camera.resized(width, height), view.image.reduced(width, height));
                Ok(View { name: view.name.clone(), camera, image, mask })
            });
            reduced.collect()
        };
        let (train, test) = (reduce(&self.train)?, reduce(&self.test)?);
        let [num_masked, num_outside_lens] = unused_pixels(&train, &test)?;
        Ok(Self {
            train,
            test,
            num_masked,
            num_outside_lens,
            layout: self.layout.clone(),
            point_cloud: self.point_cloud.clone(),
            skipped: self.skipped.clone(),
            ..*self
        })
    }
    /// A position in normalised units, in the world of the reconstruction that the capture was made from: the way back
    /// through [`Dataset::normalization`] and [`Dataset::applied_transform`].
    pub fn original_position(&self, normalized: [f64; 3]) -> [f64; 3] {
        let world = self.normalization.invert(normalized);
        match self.applied_transform {
            Some(transform) => invert_affine(&transform, world),
            None => world,
        }
    }
}

/// `A⁻¹ (world - t)` for rows `[A | t]`, by Cramer's rule.
fn invert_affine(rows: &[[f64; 4]; 3], world: [f64; 3]) -> [f64; 3] {
    let column = |j: usize| rows.map(|row| row[j]);
    let offset = [0, 1, 2].map(|i| world[i] - rows[i][3]);
    let det = |a: [f64; 3], b: [f64; 3], c: [f64; 3]| {
        a[0] * (b[1] * c[2] - b[2] * c[1]) - a[1] * (b[0] * c[2] - b[2] * c[0]) + a[2] * (b[0] * c[1] - b[1] * c[0])
    };
    let [a, b, c] = [0, 1, 2].map(column);
    [det(offset, b, c), det(a, offset, c), det(a, b, offset)].map(|d| d / det(a, b, c))
}

/// The pixels that masks hide, and those without a ray beside them.
fn unused_pixels(train: &[View], test: &[View]) -> Result<[u64; 2]> {
    let unused = train.par_iter().chain(test).map(|view| {
        let used = view.in_use()?.map_or(view.num_pixels(), |in_use| in_use.count() as usize);
        let unmasked = view.mask.as_ref().map_or(view.num_pixels(), |mask| mask.count() as usize);
        Ok([view.num_pixels() - unmasked, unmasked - used].map(|count| count as u64))
    });
    unused.try_reduce(|| [0; 2], |a, b| Ok([a[0] + b[0], a[1] + b[1]]))
}
