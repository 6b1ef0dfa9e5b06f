//! The scene's own units: where a capture's origin goes, and how long one unit is.

use serde::{Deserialize, Serialize};

use super::dataset::View;
use crate::camera::Camera;
use crate::exchange::PointCloud;

/// Below this determinant of the mean of `I - d dᵀ` over the optical axes `d` the axes are too parallel to say where
/// they meet. For nearly parallel axes it is the variance of their angle: 0.01 is a spread of 6 degrees, beyond the
/// few degrees by which hand-held cameras point off their subject.
const PARALLEL_AXES: f64 = 0.01;
/// Where cameras with parallel axes are taken to look when there is no point cloud, in units of the distance of the
/// farthest camera from their mean: forward-facing captures are taken from several baselines away.
const FORWARD_DISTANCE: f64 = 4.0;
/// Cameras that are closer together than this fraction of the distance of the points do not give the scene's scale
/// (a panorama from one tripod): the points do.
const SAME_PLACE: f64 = 1e-6;

/// The similarity from a capture's world to normalised units: `normalised = (world - center) * scale`.
///
/// The centre is the point that the cameras look at, and the farthest camera is at distance 1 from it, so every
/// length in the crate means the same for every capture, whatever the units and origin of its world.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Normalization {
    /// The point of the capture's world that becomes the origin.
    pub center: [f64; 3],
    /// Normalised units a unit of the capture's world.
    pub scale: f64,
}

impl Default for Normalization {
    fn default() -> Self {
        Self::IDENTITY
    }
}

impl Normalization {
    /// A world that is normalised already.
    pub const IDENTITY: Self = Self { center: [0.0; 3], scale: 1.0 };

    /// The normalisation of a capture with these cameras and points.
    ///
    /// The centre is the point nearest to all optical axes in the least-squares sense. Where the axes are nearly
    /// parallel (forward-facing captures) that point is not determined, and the centre lies on the mean axis
    /// instead, from the mean camera at the median depth of the points, or without points at four times the
    /// distance of the farthest camera from the mean. If all cameras stand at the centre (a panorama), the median
    /// distance of the points becomes 1.
    pub fn of(cameras: &[Camera], points: &[[f64; 3]]) -> Self {
        if cameras.is_empty() {
            return Self::IDENTITY;
        }
        let poses: Vec<_> = cameras.iter().map(|camera| camera.world_from_camera).collect();
        let mean = |vectors: &mut dyn Iterator<Item = [f64; 3]>| {
            let sum = vectors.fold([0.0; 3], |sum, v| [0, 1, 2].map(|i| sum[i] + v[i]));
            sum.map(|v| v / cameras.len() as f64)
        };
        // Relative to the first camera, so that a far-off origin costs no digits.
        let first = poses[0].position;
        let mean_offset = mean(&mut poses.iter().map(|pose| sub(pose.position, first)));
        let middle = add(first, mean_offset);

        let mut matrix = [[0.0; 3]; 3];
        let mut right = [0.0; 3];
        for pose in &poses {
            let (axis, offset) = (pose.forward(), sub(sub(pose.position, first), mean_offset));
            let along = dot(axis, offset);
            for i in 0..3 {
                right[i] += (offset[i] - axis[i] * along) / poses.len() as f64;
                for j in 0..3 {
                    matrix[i][j] += (f64::from(u8::from(i == j)) - axis[i] * axis[j]) / poses.len() as f64;
                }
            }
        }
        let det = dot(matrix[0], cross(matrix[1], matrix[2]));
        let from_middle = if det > PARALLEL_AXES {
            // The inverse of a symmetric matrix: its adjugate by its determinant.
            let adjugate = [cross(matrix[1], matrix[2]), cross(matrix[2], matrix[0]), cross(matrix[0], matrix[1])];
            adjugate.map(|row| dot(row, right) / det)
        } else {
            let axis = mean(&mut poses.iter().map(|pose| pose.forward()));
            let length = dot(axis, axis).sqrt();
            // Axes that are parallel but point in opposite ways have no mean direction; then the mean camera serves.
            let axis = if length > 0.5 { axis.map(|v| v / length) } else { [0.0; 3] };
            let radius = farthest(&poses.iter().map(|pose| pose.position).collect::<Vec<_>>(), middle);
            let depth = median(points.iter().map(|&point| dot(sub(point, middle), axis)));
            let without_points = FORWARD_DISTANCE * if radius > 0.0 { radius } else { 1.0 };
            axis.map(|v| v * depth.filter(|&depth| depth > 0.0).unwrap_or(without_points))
        };
        let center = add(middle, from_middle);
        let radius = farthest(&poses.iter().map(|pose| pose.position).collect::<Vec<_>>(), center);
        let reach = median(points.iter().map(|&point| distance(point, center))).unwrap_or(0.0);
        let length = if radius > SAME_PLACE * reach { radius } else { reach };
        let scale = if length > 0.0 && length.is_finite() { 1.0 / length } else { 1.0 };
        Self { center, scale }
    }

    /// A point of the capture's world in normalised units.
    pub fn apply(&self, world: [f64; 3]) -> [f64; 3] {
        sub(world, self.center).map(|v| v * self.scale)
    }

    /// A point in normalised units in the capture's world.
    pub fn invert(&self, normalized: [f64; 3]) -> [f64; 3] {
        add(normalized.map(|v| v / self.scale), self.center)
    }

    /// A camera of the capture's world in normalised units.
    pub fn apply_camera(&self, camera: &Camera) -> Camera {
        let mut camera = *camera;
        camera.world_from_camera.position = self.apply(camera.world_from_camera.position);
        camera
    }

    /// A camera in normalised units in the capture's world.
    pub fn invert_camera(&self, camera: &Camera) -> Camera {
        let mut camera = *camera;
        camera.world_from_camera.position = self.invert(camera.world_from_camera.position);
        camera
    }
}

/// Half the size of the region of interest around the origin, in the units of `views` and `cloud`.
///
/// With points it is their median distance from the origin; without, the median over the views of the distance to
/// the origin times the tangent of half the smaller field of view: what a camera that looks there sees of it.
pub(super) fn extent(views: &[View], cloud: Option<&PointCloud>) -> f64 {
    let points = cloud.map_or(&[][..], |cloud| &cloud.points);
    let seen = |view: &View| {
        let camera = &view.camera;
        let half = (0.5 * f64::from(camera.width) / camera.fx).min(0.5 * f64::from(camera.height) / camera.fy);
        distance(camera.world_from_camera.position, [0.0; 3]) * half
    };
    let extent = median(points.iter().map(|&point| distance(point, [0.0; 3])));
    extent.or_else(|| median(views.iter().map(seen))).filter(|&extent| extent > 0.0).unwrap_or(1.0)
}

fn add(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [0, 1, 2].map(|i| a[i] + b[i])
}

fn sub(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [0, 1, 2].map(|i| a[i] - b[i])
}

fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

fn cross(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

fn distance(a: [f64; 3], b: [f64; 3]) -> f64 {
    let offset = sub(a, b);
    dot(offset, offset).sqrt()
}

fn farthest(positions: &[[f64; 3]], from: [f64; 3]) -> f64 {
    positions.iter().map(|&position| distance(position, from)).fold(0.0, f64::max)
}

/// The upper median, `None` of nothing.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    let middle = values.len() / 2;
    (!values.is_empty()).then(|| *values.select_nth_unstable_by(middle, f64::total_cmp).1)
}
