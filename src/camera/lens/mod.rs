//! Lenses: from a direction in the camera's frame to normalised image coordinates, and back.

mod formula;
mod polynomial;

use std::f64::consts::{FRAC_PI_2, PI};

use serde::{Deserialize, Serialize};

use formula::{Formula, PERSPECTIVE_LIMIT};

/// How far beyond half a turn a longitude may be for rounding to have put it there.
const ANGLE_ROUNDING: f64 = 1e-9;

/// What a lens does to the directions of the camera's frame (+X right, +Y down, +Z forward).
///
/// A lens images a direction `(X, Y, Z)` at normalised coordinates `(x', y')`, and the camera those at the pixel
/// coordinates `(fx x' + cx, fy y' + cy)`. *Perspective* lenses begin with `x = X/Z`, `y = Y/Z` and see at most half of
/// all directions. *Fisheye* lenses begin with the angle `θ` from the optical axis, `0 <= θ < π`:
/// `(x, y) = θ (X, Y) / sqrt(X² + Y²)`; they may see more than 180 degrees. Below, `r² = x² + y²`, so `r` is `θ` for
/// a fisheye lens.
///
/// # Valid field
///
/// A distortion formula is a model of the lens only as far out as the image grows; beyond that it folds back, and one
/// pixel would belong to two directions. Every lens here has a valid field, and neither a ray nor a pixel is given
/// outside it. For the lenses with coefficients it is the disc of all `r` up to which
///
/// - the radial part (the image radius without tangential and thin-prism terms) has a slope by `r` of more than
///   `8 r sqrt(p1² + p2²) + 2 r sqrt(sx1² + sy1²)`, which is 0 for most lenses: the most that those terms can take off
///   it, so that the formula as a whole is one-to-one in the disc;
/// - the denominator, if there is one, is positive;
/// - `r < π` for a fisheye, `r <` 1024 (89.94 degrees) for a perspective lens.
///
/// Within it the formula is inverted to double precision by Newton's method.
///
/// ```
/// use candle_radfoam::camera::{Camera, Lens, Pose};
///
/// // An equidistant fisheye whose image circle of 200 degrees touches the upper and lower border.
/// let focal = 500.0 / 100_f64.to_radians();
/// let lens = Lens::fisheye([0.0; 4], [0.0; 2]);
/// let (width, height, cx, cy) = (1600, 1000, 800.0, 500.0);
/// let camera = Camera { width, height, fx: focal, fy: focal, cx, cy, lens, world_from_camera: Pose::IDENTITY };
/// let [x, _, z] = camera.direction(cx + 499.0, cy).unwrap();
/// assert!(x > 0.9 && z < 0.0);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Lens {
    /// Perspective without distortion: `x' = x`, `y' = y`. Its field is everything in front of the camera.
    #[default]
    Pinhole,
    /// OpenCV's radial and tangential model (`calib3d`, "Detailed Description"), perspective; COLMAP's `OPENCV`, and
    /// with zeros its `RADIAL` and `SIMPLE_RADIAL`:
    ///
    /// `x' = x (1 + k1 r² + k2 r⁴) + 2 p1 x y + p2 (r² + 2 x²)`,
    /// `y' = y (1 + k1 r² + k2 r⁴) + p1 (r² + 2 y²) + 2 p2 x y`.
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
    /// Brown's model with four radial coefficients, perspective; nerfstudio's `OPENCV` (`cameras/camera_utils.py`,
    /// `_compute_residual_and_jacobian`):
    ///
    /// [`Lens::OpenCv`] with the radial factor `1 + k1 r² + k2 r⁴ + k3 r⁶ + k4 r⁸`.
    Brown {
        /// Radial coefficient of `r²`.
        k1: f64,
        /// Radial coefficient of `r⁴`.
        k2: f64,
        /// Radial coefficient of `r⁶`.
        k3: f64,
        /// Radial coefficient of `r⁸`.
        k4: f64,
        /// First tangential coefficient.
        p1: f64,
        /// Second tangential coefficient.
        p2: f64,
    },
    /// OpenCV's rational model (`calib3d`), perspective; COLMAP's `FULL_OPENCV`, its order of parameters:
    ///
    /// [`Lens::OpenCv`] with the radial factor `(1 + k1 r² + k2 r⁴ + k3 r⁶) / (1 + k4 r² + k5 r⁴ + k6 r⁶)`.
    FullOpenCv {
        /// Coefficient of `r²` above the line.
        k1: f64,
        /// Coefficient of `r⁴` above the line.
        k2: f64,
        /// First tangential coefficient.
        p1: f64,
        /// Second tangential coefficient.
        p2: f64,
        /// Coefficient of `r⁶` above the line.
        k3: f64,
        /// Coefficient of `r²` below the line.
        k4: f64,
        /// Coefficient of `r⁴` below the line.
        k5: f64,
        /// Coefficient of `r⁶` below the line.
        k6: f64,
    },
    /// OpenCV's fisheye model (`calib3d`, "Fisheye camera model"; Kannala and Brandt); COLMAP's `OPENCV_FISHEYE`, and
    /// with zeros its `RADIAL_FISHEYE` and `SIMPLE_RADIAL_FISHEYE`:
    ///
    /// `x' = x (1 + k1 θ² + k2 θ⁴ + k3 θ⁶ + k4 θ⁸)`, `y'` likewise. All zero is the equidistant fisheye.
    Fisheye {
        /// Coefficient of `θ²`.
        k1: f64,
        /// Coefficient of `θ⁴`.
        k2: f64,
        /// Coefficient of `θ⁶`.
        k3: f64,
        /// Coefficient of `θ⁸`.
        k4: f64,
    },
    /// A fisheye with tangential and thin-prism terms; COLMAP's `THIN_PRISM_FISHEYE`, its order of parameters
    /// (`src/colmap/sensor/models.h`), and with `sx1 = sy1 = 0` nerfstudio's `OPENCV_FISHEYE`:
    ///
    /// `x' = x (1 + k1 θ² + k2 θ⁴ + k3 θ⁶ + k4 θ⁸) + 2 p1 x y + p2 (θ² + 2 x²) + sx1 θ²`,
    /// `y' = y (1 + k1 θ² + k2 θ⁴ + k3 θ⁶ + k4 θ⁸) + p1 (θ² + 2 y²) + 2 p2 x y + sy1 θ²`.
    ThinPrismFisheye {
        /// Coefficient of `θ²`.
        k1: f64,
        /// Coefficient of `θ⁴`.
        k2: f64,
        /// First tangential coefficient.
        p1: f64,
        /// Second tangential coefficient.
        p2: f64,
        /// Coefficient of `θ⁶`.
        k3: f64,
        /// Coefficient of `θ⁸`.
        k4: f64,
        /// Horizontal thin-prism coefficient.
        sx1: f64,
        /// Vertical thin-prism coefficient.
        sy1: f64,
    },
    /// Longitude and latitude: `x' = atan2(X, Z)`, `y' = asin(Y / |(X, Y, Z)|)` (down), both in radians.
    ///
    /// So `fx` and `fy` are pixels a radian: `width / (2 π)` and `height / π` for an image of the whole sphere, with
    /// `cx`, `cy` in its middle, where it looks forward. (nerfstudio's `EQUIRECTANGULAR` counts pixels per half turn:
    /// divide its focal lengths by π.) The field is `-π <= x' <= π`, `-π/2 <= y' <= π/2`, that is, every direction.
    Equirectangular,
}

impl Lens {
    /// The OpenCV lens with these coefficients; [`Lens::Pinhole`] when all are zero.
    pub fn open_cv(k1: f64, k2: f64, p1: f64, p2: f64) -> Self {
        Self::brown([k1, k2, 0.0, 0.0], [p1, p2])
    }

    /// The simplest perspective lens with radial coefficients `k1` to `k4` and tangential ones `p1`, `p2`:
    /// [`Lens::Pinhole`], [`Lens::OpenCv`] or [`Lens::Brown`].
    pub fn brown([k1, k2, k3, k4]: [f64; 4], [p1, p2]: [f64; 2]) -> Self {
        match [k1, k2, p1, p2, k3, k4] {
            [0.0, 0.0, 0.0, 0.0, 0.0, 0.0] => Self::Pinhole,
            [_, _, _, _, 0.0, 0.0] => Self::OpenCv { k1, k2, p1, p2 },
            _ => Self::Brown { k1, k2, k3, k4, p1, p2 },
        }
    }

    /// The simplest fisheye with radial coefficients `k1` to `k4` and tangential ones `p1`, `p2`: [`Lens::Fisheye`] or
    /// [`Lens::ThinPrismFisheye`].
    pub fn fisheye([k1, k2, k3, k4]: [f64; 4], [p1, p2]: [f64; 2]) -> Self {
        match [p1, p2] {
            [0.0, 0.0] => Self::Fisheye { k1, k2, k3, k4 },
            _ => Self::ThinPrismFisheye { k1, k2, p1, p2, k3, k4, sx1: 0.0, sy1: 0.0 },
        }
    }

    /// The coefficients by name.
    pub(super) fn coefficients(&self) -> Vec<(&'static str, f64)> {
        match *self {
            Self::Pinhole | Self::Equirectangular => Vec::new(),
            Self::OpenCv { k1, k2, p1, p2 } => vec![("k1", k1), ("k2", k2), ("p1", p1), ("p2", p2)],
            Self::Brown { k1, k2, k3, k4, p1, p2 } => {
                vec![("k1", k1), ("k2", k2), ("k3", k3), ("k4", k4), ("p1", p1), ("p2", p2)]
            }
            Self::FullOpenCv { k1, k2, p1, p2, k3, k4, k5, k6 } => {
                let radial = [("k1", k1), ("k2", k2), ("k3", k3), ("k4", k4), ("k5", k5), ("k6", k6)];
                [&radial[..], &[("p1", p1), ("p2", p2)]].concat()
            }
            Self::Fisheye { k1, k2, k3, k4 } => vec![("k1", k1), ("k2", k2), ("k3", k3), ("k4", k4)],
            Self::ThinPrismFisheye { k1, k2, p1, p2, k3, k4, sx1, sy1 } => {
                let radial = [("k1", k1), ("k2", k2), ("k3", k3), ("k4", k4)];
                [&radial[..], &[("p1", p1), ("p2", p2), ("sx1", sx1), ("sy1", sy1)]].concat()
            }
        }
    }

    /// The unit direction that is imaged at the normalised coordinates `at`, if one in the valid field is.
    #[inline]
    pub(super) fn direction(&self, at: [f64; 2]) -> Option<[f64; 3]> {
        match self.model() {
            Model::Pinhole => Some(perspective(at)),
            Model::OpenCv(formula) => formula.undistort(at).map(perspective),
            Model::Brown(formula) => formula.undistort(at).map(perspective),
            Model::Rational(formula) => formula.undistort(at).map(perspective),
            Model::Fisheye(formula) => formula.undistort(at).map(fisheye),
            Model::Equirectangular => {
                let [longitude, latitude] = at;
                if !(longitude.abs() <= PI + ANGLE_ROUNDING && latitude.abs() <= FRAC_PI_2 + ANGLE_ROUNDING) {
                    return None;
                }
                let ((sx, cx), (sy, cy)) = (longitude.sin_cos(), latitude.sin_cos());
                Some([sx * cy, sy, cx * cy])
            }
        }
    }

    /// The normalised coordinates at which a direction (of any length) is imaged, if it is in the valid field.
    pub(super) fn image(&self, [x, y, z]: [f64; 3]) -> Option<[f64; 2]> {
        let model = self.model();
        if matches!(model, Model::Fisheye(_) | Model::Equirectangular) {
            let across = x.hypot(y);
            let length = across.hypot(z);
            if !(length > 0.0 && length.is_finite()) {
                return None;
            }
            return match model {
                Model::Fisheye(formula) => {
                    // Along the axis itself the angle is 0, or π and outside the field: any finite scale will do.
                    let scale = if across > 0.0 { across.atan2(z) / across } else { 1.0 };
                    if across > 0.0 || z > 0.0 { formula.distort([x * scale, y * scale]) } else { None }
                }
                _ => Some([x.atan2(z), y.atan2(x.hypot(z))]),
            };
        }
        if z.is_nan() || z <= 0.0 {
            return None;
        }
        let at = [x / z, y / z];
        match model {
            Model::OpenCv(formula) => formula.distort(at),
            Model::Brown(formula) => formula.distort(at),
            Model::Rational(formula) => formula.distort(at),
            _ => Some(at),
        }
    }

    /// Radii in normalised coordinates: everything below the first is the image of a direction in the valid field,
    /// nothing from the second on is.
    pub(super) fn image_radii(&self) -> [f64; 2] {
        match self.model() {
            Model::Pinhole => [f64::INFINITY; 2],
            Model::OpenCv(formula) => formula.image_radii(),
            Model::Brown(formula) => formula.image_radii(),
            Model::Rational(formula) => formula.image_radii(),
            Model::Fisheye(formula) => formula.image_radii(),
            Model::Equirectangular => [FRAC_PI_2, f64::INFINITY],
        }
    }

    /// The kind of projection and the numbers of the formula, for a kernel.
    pub(super) fn numbers(&self) -> (f64, [f64; 13]) {
        match self.model() {
            Model::Pinhole => (0.0, [0.0; 13]),
            Model::OpenCv(formula) => (1.0, formula.numbers()),
            Model::Brown(formula) => (1.0, formula.numbers()),
            Model::Rational(formula) => (1.0, formula.numbers()),
            Model::Fisheye(formula) => (2.0, formula.numbers()),
            Model::Equirectangular => (3.0, [0.0; 13]),
        }
    }

    #[inline]
    fn model(&self) -> Model {
        let (limit, prism, denominator) = (PERSPECTIVE_LIMIT, [0.0; 2], []);
        match *self {
            Self::Pinhole => Model::Pinhole,
            Self::Equirectangular => Model::Equirectangular,
            Self::OpenCv { k1, k2, p1, p2 } => {
                let (numerator, tangential) = ([k1, k2], [p1, p2]);
                Model::OpenCv(Formula { numerator, denominator, tangential, prism, limit })
            }
            Self::Brown { k1, k2, k3, k4, p1, p2 } => {
                let (numerator, tangential) = ([k1, k2, k3, k4], [p1, p2]);
                Model::Brown(Formula { numerator, denominator, tangential, prism, limit })
            }
            Self::FullOpenCv { k1, k2, p1, p2, k3, k4, k5, k6 } => {
                let (numerator, denominator, tangential) = ([k1, k2, k3], [k4, k5, k6], [p1, p2]);
                Model::Rational(Formula { numerator, denominator, tangential, prism, limit })
            }
            Self::Fisheye { k1, k2, k3, k4 } => {
                let (numerator, tangential) = ([k1, k2, k3, k4], [0.0; 2]);
                Model::Fisheye(Formula { numerator, denominator, tangential, prism, limit: PI })
            }
            Self::ThinPrismFisheye { k1, k2, p1, p2, k3, k4, sx1, sy1 } => {
                let (numerator, tangential, prism) = ([k1, k2, k3, k4], [p1, p2], [sx1, sy1]);
                Model::Fisheye(Formula { numerator, denominator, tangential, prism, limit: PI })
            }
        }
    }
}

/// A lens as the projection and the formula that it is made of.
enum Model {
    Pinhole,
    OpenCv(Formula<2, 0>),
    Brown(Formula<4, 0>),
    Rational(Formula<3, 3>),
    Fisheye(Formula<4, 0>),
    Equirectangular,
}

/// The unit direction of `(X/Z, Y/Z)`.
#[inline]
fn perspective([x, y]: [f64; 2]) -> [f64; 3] {
    let scale = 1.0 / (x * x + y * y + 1.0).sqrt();
    [x * scale, y * scale, scale]
}

/// The unit direction of `θ (X, Y) / sqrt(X² + Y²)`.
#[inline]
fn fisheye([x, y]: [f64; 2]) -> [f64; 3] {
    let angle = (x * x + y * y).sqrt();
    let (sin, cos) = angle.sin_cos();
    let scale = if angle > 0.0 { sin / angle } else { 1.0 };
    [x * scale, y * scale, cos]
}
