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

use crate::{Error, Result};

/// Newton's method stops after a step shorter than this, in normalised image coordinates. Convergence is quadratic:
/// what is left after such a step is of the order of its square, far below 1e-10.
const NEWTON_STEP: f64 = 1e-8;
/// Real lenses converge in 3 to 5 steps; one that takes more than this has no solution there.
const NEWTON_ITERATIONS: usize = 30;
/// How far `RᵀR` may be from the identity, per entry, for a matrix to count as a rotation that was rounded.
/// Six decimal digits, the fewest that capture tools print, stay well below it; a scaled matrix does not.
const ROTATION_TOLERANCE: f64 = 1e-3;
/// How far a quaternion's length may be from 1. COLMAP writes them normalised, in double precision.
const QUATERNION_TOLERANCE: f64 = 1e-2;

/// How a lens bends the pinhole image.
///
/// In normalised image coordinates `x = X/Z`, `y = Y/Z`, `r² = x² + y²`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Lens {
    /// No distortion.
    #[default]
    Pinhole,
    /// OpenCV's radial and tangential model (`calib3d`, "Detailed Description"):
    ///
    /// `x' = x (1 + k1 r² + k2 r⁴) + 2 p1 x y + p2 (r² + 2 x²)`,
    /// `y' = y (1 + k1 r² + k2 r⁴) + p1 (r² + 2 y²) + 2 p2 x y`.
    ///
    /// It is a model of the lens only as far as `r (1 + k1 r² + k2 r⁴)` grows with `r`: beyond that the image folds
    /// back, and no ray is given there.
    OpenCv {
        /// Radial coefficient of `r²`.
        k1: f64,
        /// Radial coefficient of `r⁴`.
        k2: f64,
        /// First tangential coefficient.
        p1: f64,
        /// Second tangential coefficient.
        p2: f64,
    },
}

impl Lens {
    /// The OpenCV lens with these coefficients; [`Lens::Pinhole`] when all are zero.
    pub fn open_cv(k1: f64, k2: f64, p1: f64, p2: f64) -> Self {
        if [k1, k2, p1, p2].iter().all(|&k| k == 0.0) { Self::Pinhole } else { Self::OpenCv { k1, k2, p1, p2 } }
    }

    /// Where the lens images the normalised coordinate `(x, y)`, or `None` outside its valid field.
    fn distort(&self, [x, y]: [f64; 2]) -> Option<[f64; 2]> {
        match *self {
            Self::Pinhole => Some([x, y]),
            Self::OpenCv { k1, k2, p1, p2 } => {
                let r2 = x * x + y * y;
                (r2 < squared_field(k1, k2)).then(|| open_cv([x, y], [k1, k2, p1, p2]).0)
            }
        }
    }

    /// The normalised coordinate that the lens images at `(x, y)`: Newton's method on the published formula.
    /// `None` if it does not converge or the result lies outside the valid field.
    fn undistort(&self, target: [f64; 2]) -> Option<[f64; 2]> {
        let Self::OpenCv { k1, k2, p1, p2 } = *self else { return Some(target) };
        let field = squared_field(k1, k2);
        let [mut x, mut y] = target;
        let r2 = x * x + y * y;
        if r2 >= field {
            let inside = 0.5 * (field / r2).sqrt();
            (x, y) = (x * inside, y * inside);
        }
        for _ in 0..NEWTON_ITERATIONS {
            let ([dx, dy], [xx, xy, yy]) = open_cv([x, y], [k1, k2, p1, p2]);
            let (ex, ey) = (dx - target[0], dy - target[1]);
            let det = xx * yy - xy * xy;
            // A determinant that is not positive means that the image has folded.
            if det.is_nan() || det <= 0.0 {
                return None;
            }
            let (sx, sy) = ((yy * ex - xy * ey) / det, (xx * ey - xy * ex) / det);
            (x, y) = (x - sx, y - sy);
            if sx * sx + sy * sy < NEWTON_STEP * NEWTON_STEP {
                return (x * x + y * y < field).then_some([x, y]);
            }
        }
        None
    }
}

/// The OpenCV formula at `(x, y)` and its (symmetric) Jacobian `[dx'/dx, dx'/dy = dy'/dx, dy'/dy]`.
#[inline]
fn open_cv([x, y]: [f64; 2], [k1, k2, p1, p2]: [f64; 4]) -> ([f64; 2], [f64; 3]) {
    let r2 = x * x + y * y;
    let radial = 1.0 + r2 * (k1 + r2 * k2);
    let slope = 2.0 * (k1 + 2.0 * k2 * r2);
    let distorted = [
        x * radial + 2.0 * p1 * x * y + p2 * (r2 + 2.0 * x * x),
        y * radial + p1 * (r2 + 2.0 * y * y) + 2.0 * p2 * x * y,
    ];
    let jacobian = [
        radial + slope * x * x + 2.0 * p1 * y + 6.0 * p2 * x,
        slope * x * y + 2.0 * p1 * x + 2.0 * p2 * y,
        radial + slope * y * y + 6.0 * p1 * y + 2.0 * p2 * x,
    ];
    (distorted, jacobian)
}

/// The first `u = r²` at which `r (1 + k1 u + k2 u²)` stops growing: the smallest positive root of
/// `1 + 3 k1 u + 5 k2 u²`, infinite if there is none.
#[inline]
fn squared_field(k1: f64, k2: f64) -> f64 {
    let discriminant = 9.0 * k1 * k1 - 20.0 * k2;
    if discriminant < 0.0 {
        return f64::INFINITY;
    }
    // Written with the coefficients in the denominator, so that k2 = 0 needs no case of its own.
    let root = 2.0 / (-3.0 * k1 + discriminant.sqrt());
    if root > 0.0 { root } else { f64::INFINITY }
}

/// A rigid pose: `world = rotation * camera + position`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Pose {
    /// The rows of the rotation from the camera's frame to the world's. Its columns are the camera's axes (right,
    /// down, forward) in the world.
    pub rotation: [[f64; 3]; 3],
    /// The camera's position in the world.
    pub position: [f64; 3],
}

impl Pose {
    /// The camera at the world's origin, its axes along the world's.
    pub const IDENTITY: Self =
        Self { rotation: [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], position: [0.0; 3] };

    /// The pose of a `rotation` (rows) and a `position`, the rotation made exactly orthonormal.
    ///
    /// # Errors
    ///
    /// If a number is not finite, or the matrix is not a rotation: `RᵀR` off the identity by more than 1e-3 in an
    /// entry, or a reflection.
    pub fn new(rotation: [[f64; 3]; 3], position: [f64; 3]) -> Result<Self> {
        let refuse = |found: String| Err(Error::config("world_from_camera", "a rotation and a position", found));
        if !rotation.iter().flatten().chain(&position).all(|v| v.is_finite()) {
            return refuse(format!("rotation {rotation:?}, position {position:?}"));
        }
        let off = (0..3).flat_map(|i| (0..3).map(move |j| (i, j))).fold(0.0, |worst: f64, (i, j)| {
            let product: f64 = rotation.iter().map(|row| row[i] * row[j]).sum();
            worst.max((product - f64::from(u8::from(i == j))).abs())
        });
        if off > ROTATION_TOLERANCE {
            return refuse(format!("a matrix with |RᵀR - I| = {off:.3e}"));
        }
        if det(&rotation) < 0.0 {
            return refuse("a reflection (determinant -1)".into());
        }
        Ok(Self { rotation: nearest_rotation(rotation), position })
    }

    /// The pose of a `world_from_camera` matrix in the OpenGL (Blender, NeRF) convention.
    ///
    /// There the camera looks along -Z with +Y up; here it looks along +Z with +Y down. Both have +X to the right,
    /// so the change is `matrix * diag(1, -1, -1, 1)`: the second and third columns change sign, the world stays.
    ///
    /// # Errors
    ///
    /// Like [`Pose::new`], and if the last row is not `[0, 0, 0, 1]`.
    pub fn from_opengl(matrix: &[[f64; 4]; 4]) -> Result<Self> {
        if matrix[3] != [0.0, 0.0, 0.0, 1.0] {
            let found = format!("{:?}", matrix[3]);
            return Err(Error::config("world_from_camera", "the last row [0, 0, 0, 1]", found));
        }
        let rows = [matrix[0], matrix[1], matrix[2]];
        Self::new(rows.map(|[x, y, z, _]| [x, -y, -z]), rows.map(|row| row[3]))
    }

    /// The pose of a COLMAP image: `camera = R(quaternion) * world + translation`, `quaternion` as `[w, x, y, z]`.
    ///
    /// COLMAP's camera frame is the one of this crate, only the direction of the transform is the opposite.
    ///
    /// # Errors
    ///
    /// If a number is not finite or the quaternion's length is off 1 by more than 1e-2.
    pub fn from_colmap(quaternion: [f64; 4], translation: [f64; 3]) -> Result<Self> {
        let norm = quaternion.iter().map(|q| q * q).sum::<f64>().sqrt();
        if norm.is_nan() || (norm - 1.0).abs() > QUATERNION_TOLERANCE {
            return Err(Error::config("quaternion", "length 1", format!("{quaternion:?}, of length {norm}")));
        }
        let [w, x, y, z] = quaternion.map(|q| q / norm);
        // The rows of Rᵀ, that is, the columns of the quaternion's matrix.
        let rotation = [
            [1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y + w * z), 2.0 * (x * z - w * y)],
            [2.0 * (x * y - w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z + w * x)],
            [2.0 * (x * z + w * y), 2.0 * (y * z - w * x), 1.0 - 2.0 * (x * x + y * y)],
        ];
        let position = rotation.map(|row| -dot(row, translation));
        Self::new(rotation, position)
    }

    /// The camera's optical axis (+Z) in the world, of unit length.
    pub fn forward(&self) -> [f64; 3] {
        self.rotation.map(|row| row[2])
    }

    /// A direction of the camera's frame, in the world.
    #[inline]
    pub fn rotate(&self, direction: [f64; 3]) -> [f64; 3] {
        self.rotation.map(|row| dot(row, direction))
    }

    /// A point of the world, in the camera's frame.
    pub fn camera_from_world(&self, point: [f64; 3]) -> [f64; 3] {
        let offset = [0, 1, 2].map(|i| point[i] - self.position[i]);
        [0, 1, 2].map(|j| (0..3).map(|i| self.rotation[i][j] * offset[i]).sum())
    }
}

#[inline]
fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

fn cross(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

fn det(m: &[[f64; 3]; 3]) -> f64 {
    dot(m[0], cross(m[1], m[2]))
}

/// The rotation nearest to `m` (its polar factor), by `m <- (m + m⁻ᵀ) / 2`. From within [`ROTATION_TOLERANCE`]
/// the error squares each time: three rounds reach double precision.
fn nearest_rotation(mut m: [[f64; 3]; 3]) -> [[f64; 3]; 3] {
    for _ in 0..3 {
        let scale = 1.0 / det(&m);
        let inverse_transpose = [cross(m[1], m[2]), cross(m[2], m[0]), cross(m[0], m[1])];
        for (row, other) in m.iter_mut().zip(&inverse_transpose) {
            for (a, b) in row.iter_mut().zip(other) {
                *a = 0.5 * (*a + scale * b);
            }
        }
    }
    m
}

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
        let lens = match self.lens {
            Lens::Pinhole => [0.0; 4],
            Lens::OpenCv { k1, k2, p1, p2 } => [k1, k2, p1, p2],
        };
        let names = ["cx", "cy", "k1", "k2", "p1", "p2"];
        for (name, value) in names.iter().zip([self.cx, self.cy].iter().chain(&lens)) {
            if !value.is_finite() {
                return Err(Error::config(*name, "a finite number", value.to_string()));
            }
        }
        Ok(())
    }

    /// The direction, in the camera's frame and of unit length, that is imaged at the pixel coordinate `(x, y)`.
    ///
    /// `None` where the lens model is not invertible: outside its valid field.
    pub fn direction(&self, x: f64, y: f64) -> Option<[f64; 3]> {
        let [u, v] = self.lens.undistort([(x - self.cx) / self.fx, (y - self.cy) / self.fy])?;
        let scale = 1.0 / (u * u + v * v + 1.0).sqrt();
        Some([u * scale, v * scale, scale])
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
    /// `None` for a point that is not in front of the camera or is outside the lens model's valid field.
    pub fn project(&self, world: [f64; 3]) -> Option<[f64; 2]> {
        let [x, y, z] = self.world_from_camera.camera_from_world(world);
        if z.is_nan() || z <= 0.0 {
            return None;
        }
        let [x, y] = self.lens.distort([x / z, y / z])?;
        Some([self.fx * x + self.cx, self.fy * y + self.cy])
    }

    /// The same camera with an image of `width` x `height` pixels that shows the same field of view.
    pub fn resized(&self, width: u32, height: u32) -> Self {
        let (sx, sy) =
            (f64::from(width) / f64::from(self.width.max(1)), f64::from(height) / f64::from(self.height.max(1)));
        Self { width, height, fx: self.fx * sx, fy: self.fy * sy, cx: self.cx * sx, cy: self.cy * sy, ..*self }
    }

    /// The `row * width + col` of the pixels that have no ray because they lie outside the lens model's valid field,
    /// in increasing order.
    ///
    /// The valid field is a disc in normalised coordinates, so an image whose border is inside it is inside as a
    /// whole, and only if it is not is every pixel looked at.
    pub fn pixels_without_ray(&self) -> Vec<u32> {
        if self.border_has_rays() {
            return Vec::new();
        }
        let pixels = (0..self.height).flat_map(|row| (0..self.width).map(move |col| (col, row)));
        (0..).zip(pixels).filter(|&(_, (col, row))| self.ray(col, row).is_none()).map(|(index, _)| index).collect()
    }

    fn border_has_rays(&self) -> bool {
        let (right, bottom) = (self.width.saturating_sub(1), self.height.saturating_sub(1));
        self.lens == Lens::Pinhole
            || ((0..self.width).all(|col| self.ray(col, 0).is_some() && self.ray(col, bottom).is_some())
                && (0..self.height).all(|row| self.ray(0, row).is_some() && self.ray(right, row).is_some()))
    }
}
