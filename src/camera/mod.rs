//! Cameras: intrinsics, lens, pose; pixel to ray and back.
//!
//! The camera frame is OpenCV's: +X right, +Y down, +Z forward. Pixel coordinates are continuous, with `(0, 0)` at
//! the upper left corner of the image, so the centre of pixel (column, row) lies at `(column + 0.5, row + 0.5)`.
//!
//! ```
//! use candle_radfoam::camera::{Camera, Lens, Pose};
//!
//! let camera = Camera {
//!     width: 640,
//!     height: 480,
//!     fx: 500.0,
//!     fy: 500.0,
//!     cx: 320.0,
//!     cy: 240.0,
//!     lens: Lens::OpenCv { k1: -0.1, k2: 0.01, p1: 1e-3, p2: 0.0 },
//!     world_from_camera: Pose::IDENTITY,
//! };
//! let ray = camera.ray(10, 20).unwrap();
//! let point = ray.direction.map(|d| f64::from(d) * 3.0);
//! let [x, y] = camera.project(point).unwrap();
//! assert!((x - 10.5).abs() < 1e-3 && (y - 20.5).abs() < 1e-3);
//! ```

use serde::{Deserialize, Serialize};

mod lens;
mod pose;

pub use lens::Lens;
pub use pose::Pose;

use crate::{Error, Result};

/// A ray in the world's frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ray {
    /// Where it starts: the camera's position.
    pub origin: [f32; 3],
    /// Its direction, of unit length.
    pub direction: [f32; 3],
}

/// A camera: intrinsics in pixels, a lens, and a pose.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Camera {
    /// Width of the image in pixels.
    pub width: u32,
    /// Height of the image in pixels.
    pub height: u32,
    /// Horizontal focal length in pixels.
    pub fx: f64,
    /// Vertical focal length in pixels.
    pub fy: f64,
    /// Horizontal coordinate of the principal point in pixels; the middle of the image is `width / 2`.
    pub cx: f64,
    /// Vertical coordinate of the principal point in pixels.
    pub cy: f64,
    /// What the lens does to the pinhole image.
    pub lens: Lens,
    /// Where the camera stands.
    pub world_from_camera: Pose,
}

impl Camera {
    /// Checks that the intrinsics can be those of a camera.
    ///
    /// # Errors
    ///
    /// If the image has no pixels, a focal length is not positive, or a number is not finite.
    pub fn check(&self) -> Result<()> {
        if self.width == 0 || self.height == 0 {
            let found = format!("{}x{}", self.width, self.height);
            return Err(Error::config("camera size", "at least one pixel", found));
        }
        for (name, focal) in [("fx", self.fx), ("fy", self.fy)] {
            if !(focal.is_finite() && focal > 0.0) {
                return Err(Error::config(name, "a positive focal length in pixels", focal.to_string()));
            }
        }
        for (name, value) in [("cx", self.cx), ("cy", self.cy)].into_iter().chain(self.lens.coefficients()) {
            if !value.is_finite() {
                return Err(Error::config(name, "a finite number", value.to_string()));
            }
        }
        Ok(())
    }

    /// The direction, in the camera's frame and of unit length, that is imaged at the pixel coordinate `(x, y)`.
    ///
    /// `None` where nothing in the lens's valid field is imaged there (see [`Lens`]).
    #[inline]
    pub fn direction(&self, x: f64, y: f64) -> Option<[f64; 3]> {
        self.lens.direction([(x - self.cx) / self.fx, (y - self.cy) / self.fy])
    }

    /// The camera as the row of 30 numbers from which a kernel makes rays (`cuda/pixel_rays.cu`): `fx fy cx cy`, the
    /// rotation by rows, the position, the kind of projection (0 pinhole, 1 other perspective lenses, 2 fisheye,
    /// 3 equirectangular), and the formula of the lens: four coefficients above the line, three below it, two
    /// tangential and two prism ones, the radius of the valid field and the one in the image at which it ends.
    ///
    /// ```
    /// # use candle_radfoam::camera::{Camera, Lens, Pose};
    /// # let camera = Camera {
    /// #     width: 8, height: 6, fx: 9.0, fy: 9.0, cx: 4.0, cy: 3.0, lens: Lens::Pinhole,
    /// #     world_from_camera: Pose::IDENTITY,
    /// # };
    /// assert_eq!(camera.numbers()[..5], [9.0, 9.0, 4.0, 3.0, 1.0]);
    /// ```
    pub fn numbers(&self) -> [f64; 30] {
        let mut numbers = [0.0; 30];
        numbers[..4].copy_from_slice(&[self.fx, self.fy, self.cx, self.cy]);
        numbers[4..13].copy_from_slice(self.world_from_camera.rotation.as_flattened());
        numbers[13..16].copy_from_slice(&self.world_from_camera.position);
        let (projection, formula) = self.lens.numbers();
        numbers[16] = projection;
        numbers[17..].copy_from_slice(&formula);
        numbers
    }

    /// The ray through the centre of pixel (`col`, `row`), or `None` where the lens model has none.
    #[inline]
    pub fn ray(&self, col: u32, row: u32) -> Option<Ray> {
        let direction = self.direction(f64::from(col) + 0.5, f64::from(row) + 0.5)?;
        Some(Ray {
            origin: self.world_from_camera.position.map(|v| v as f32),
            direction: self.world_from_camera.rotate(direction).map(|v| v as f32),
        })
    }

    /// The pixel coordinate of a point of the world, which may lie outside the image.
    ///
    /// `None` for a point outside the lens's valid field (see [`Lens`]): for all but fisheye and equirectangular
    /// lenses, every point that is not in front of the camera.
    pub fn project(&self, world: [f64; 3]) -> Option<[f64; 2]> {
        let [x, y] = self.lens.image(self.world_from_camera.camera_from_world(world))?;
        Some([self.fx * x + self.cx, self.fy * y + self.cy])
    }

    /// The same camera with an image of `width` x `height` pixels that shows the same field of view.
    pub fn resized(&self, width: u32, height: u32) -> Self {
        let (sx, sy) =
            (f64::from(width) / f64::from(self.width.max(1)), f64::from(height) / f64::from(self.height.max(1)));
        Self { width, height, fx: self.fx * sx, fy: self.fy * sy, cx: self.cx * sx, cy: self.cy * sy, ..*self }
    }

    /// The `row * width + col` of the pixels that have no ray because they lie outside the lens's valid field, in
    /// increasing order.
    ///
    /// All but the few pixels at the very edge of the field are told apart by their distance from the principal point.
    pub fn pixels_without_ray(&self) -> Vec<u32> {
        let (right, bottom) = (self.width.saturating_sub(1), self.height.saturating_sub(1));
        let place = |col: u32, row: u32| {
            [(f64::from(col) + 0.5 - self.cx) / self.fx, (f64::from(row) + 0.5 - self.cy) / self.fy]
        };
        let squared = |[x, y]: [f64; 2]| x * x + y * y;
        let corners = [[0, 0], [right, 0], [0, bottom], [right, bottom]].map(|[col, row]| place(col, row));
        let [inner, outer] = self.lens.image_radii().map(|radius| radius * radius);
        // What is imaged is a disc or a rectangle, so an image whose corners are inside it is inside as a whole.
        let rectangle = self.lens == Lens::Equirectangular;
        if corners.iter().all(|&at| squared(at) < inner || (rectangle && self.lens.direction(at).is_some())) {
            return Vec::new();
        }
        let pixels = (0..self.height).flat_map(|row| (0..self.width).map(move |col| place(col, row)));
        let without = |&(_, at): &(u32, [f64; 2])| match squared(at) {
            near if near < inner => false,
            near if near < outer => self.lens.direction(at).is_none(),
            _ => true,
        };
        (0..).zip(pixels).filter(without).map(|(index, _)| index).collect()
    }
}
