//! Where a camera stands, and the conventions that say so.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How far `RᵀR` may be from the identity, per entry, for a matrix to count as a rotation that was rounded.
/// Six decimal digits, the fewest that capture tools print, stay well below it; a scaled matrix does not.
const ROTATION_TOLERANCE: f64 = 1e-3;
/// How far a quaternion's length may be from 1. COLMAP writes them normalised, in double precision.
const QUATERNION_TOLERANCE: f64 = 1e-2;

/// How far the last row may be from `[0, 0, 0, 1]`: what arithmetic in single precision leaves.
const LAST_ROW_TOLERANCE: f64 = 1e-6;

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
    /// Like [`Pose::new`], and if the last row is not `[0, 0, 0, 1]` (within 1e-6).
    pub fn from_opengl(matrix: &[[f64; 4]; 4]) -> Result<Self> {
        let off = matrix[3].iter().zip([0.0, 0.0, 0.0, 1.0]).map(|(a, b)| (a - b).abs());
        // Not a number is not within it either.
        if !off.into_iter().all(|off| off <= LAST_ROW_TOLERANCE) {
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
