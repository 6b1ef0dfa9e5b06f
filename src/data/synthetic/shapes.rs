//! Rays against analytic shapes, in f64 so that the depth written beside a picture is exact in f32.

use std::ops::{Add, Mul, Neg, Sub};

/// A 3-vector.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Vec3(pub f64, pub f64, pub f64);

impl Vec3 {
    pub fn dot(self, o: Self) -> f64 {
        self.0 * o.0 + self.1 * o.1 + self.2 * o.2
    }

    pub fn cross(self, o: Self) -> Self {
        Self(self.1 * o.2 - self.2 * o.1, self.2 * o.0 - self.0 * o.2, self.0 * o.1 - self.1 * o.0)
    }

    pub fn norm(self) -> f64 {
        self.dot(self).sqrt()
    }

    pub fn unit(self) -> Self {
        self * (1.0 / self.norm())
    }

    /// Component by component.
    pub fn times(self, o: Self) -> Self {
        Self(self.0 * o.0, self.1 * o.1, self.2 * o.2)
    }

    /// From `self` (at 0) to `o` (at 1).
    pub fn mix(self, o: Self, t: f64) -> Self {
        self + (o - self) * t
    }
}

impl Add for Vec3 {
    type Output = Self;
    fn add(self, o: Self) -> Self {
        Self(self.0 + o.0, self.1 + o.1, self.2 + o.2)
    }
}

impl Sub for Vec3 {
    type Output = Self;
    fn sub(self, o: Self) -> Self {
        Self(self.0 - o.0, self.1 - o.1, self.2 - o.2)
    }
}

impl Mul<f64> for Vec3 {
    type Output = Self;
    fn mul(self, k: f64) -> Self {
        Self(self.0 * k, self.1 * k, self.2 * k)
    }
}

impl Neg for Vec3 {
    type Output = Self;
    fn neg(self) -> Self {
        self * -1.0
    }
}

/// 0 below `from`, 1 above `to`, a smooth cubic between.
pub(super) fn smoothstep(from: f64, to: f64, x: f64) -> f64 {
    let t = ((x - from) / (to - from)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// A half-line: origin and unit direction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ray {
    pub origin: Vec3,
    pub direction: Vec3,
}

impl Ray {
    pub fn at(&self, t: f64) -> Vec3 {
        self.origin + self.direction * t
    }

    /// The two distances at which the line meets a sphere.
    pub fn sphere(&self, centre: Vec3, radius: f64) -> Option<(f64, f64)> {
        let to_centre = centre - self.origin;
        let middle = to_centre.dot(self.direction);
        // The distance from the axis, not b^2 - c: that difference cancels for small spheres far away.
        let off = to_centre - self.direction * middle;
        let half = radius * radius - off.dot(off);
        (half >= 0.0).then(|| (middle - half.sqrt(), middle + half.sqrt()))
    }
}

/// An opaque shape.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape {
    /// A ball.
    Sphere { centre: Vec3, radius: f64 },
    /// All points within `radius` of the segment from `a` to `b`.
    Capsule { a: Vec3, b: Vec3, radius: f64 },
    /// A ring of radius `major` around the unit vector `axis`, with a round section of radius `minor`.
    Torus { centre: Vec3, axis: Vec3, major: f64, minor: f64 },
    /// An upright cylinder with flat ends, from z = `bottom` to z = `top`.
    Drum { radius: f64, bottom: f64, top: f64 },
}

/// Below this distance the march along a ray has arrived at the torus: a hundredth of what f32 depth resolves.
const TORUS_ARRIVED: f64 = 1e-9;
/// A ray that grazes the torus takes many small steps; after these it is taken as a miss.
const TORUS_STEPS: usize = 256;
/// Samples of the torus along a shadow ray; the error they leave is a thousandth of its section.
const TORUS_SHADOW_SAMPLES: usize = 24;

impl Shape {
    /// A sphere that holds the shape.
    pub fn bounds(&self) -> (Vec3, f64) {
        match *self {
            Self::Sphere { centre, radius } => (centre, radius),
            Self::Capsule { a, b, radius } => (a.mix(b, 0.5), 0.5 * (b - a).norm() + radius),
            Self::Torus { centre, major, minor, .. } => (centre, major + minor),
            Self::Drum { radius, bottom, top } => {
                (Vec3(0.0, 0.0, 0.5 * (bottom + top)), radius.hypot(0.5 * (top - bottom)))
            }
        }
    }

    /// Distance from `p` to the surface, negative inside (for the drum: a lower bound of its magnitude inside).
    pub fn distance(&self, p: Vec3) -> f64 {
        match *self {
            Self::Sphere { centre, radius } => (p - centre).norm() - radius,
            Self::Capsule { a, b, radius } => (p - nearest_on_segment(a, b, p)).norm() - radius,
            Self::Torus { centre, axis, major, minor } => {
                let q = p - centre;
                let height = q.dot(axis);
                let around = (q - axis * height).norm();
                (around - major).hypot(height) - minor
            }
            Self::Drum { radius, bottom, top } => {
                let side = p.0.hypot(p.1) - radius;
                let end = (p.2 - top).max(bottom - p.2);
                side.max(end).min(0.0) + side.max(0.0).hypot(end.max(0.0))
            }
        }
    }

    /// The distance along `ray` at which it enters the shape; `None` for a miss or an origin inside.
    pub fn hit(&self, ray: &Ray) -> Option<f64> {
        match *self {
            Self::Sphere { centre, radius } => ray.sphere(centre, radius).map(|(near, _)| near).filter(|&t| t > 0.0),
            Self::Capsule { a, b, radius } => hit_capsule(ray, a, b, radius),
            Self::Torus { centre, major, minor, .. } => {
                let (near, far) = ray.sphere(centre, major + minor)?;
                let mut t = near.max(0.0);
                for _ in 0..TORUS_STEPS {
                    let clear = self.distance(ray.at(t));
                    if clear < TORUS_ARRIVED {
                        return (t > 0.0).then_some(t);
                    }
                    t += clear;
                    if t > far {
                        return None;
                    }
                }
                None
            }
            Self::Drum { radius, bottom, top } => hit_drum(ray, radius, bottom, top),
        }
    }

    /// The outward unit normal at a point of the surface.
    pub fn normal(&self, p: Vec3) -> Vec3 {
        match *self {
            Self::Sphere { centre, .. } => (p - centre).unit(),
            Self::Capsule { a, b, .. } => (p - nearest_on_segment(a, b, p)).unit(),
            Self::Torus { centre, axis, major, .. } => {
                let q = p - centre;
                let flat = q - axis * q.dot(axis);
                (q - flat * (major / flat.norm())).unit()
            }
            Self::Drum { radius, bottom, top } => {
                let side = p.0.hypot(p.1) - radius;
                match (p.2 - top, bottom - p.2) {
                    (above, below) if above > side && above > below => Vec3(0.0, 0.0, 1.0),
                    (_, below) if below > side => Vec3(0.0, 0.0, -1.0),
                    _ => Vec3(p.0, p.1, 0.0).unit(),
                }
            }
        }
    }

    /// The share of a round light that the shape covers, seen from the ray's origin in the ray's direction.
    /// `spread` is the tangent of the light's angular radius.
    ///
    /// Smooth and without noise: the light is covered as the ray passes the surface by -1 to 1 light radii.
    pub fn cover(&self, ray: &Ray, spread: f64) -> f64 {
        let pass = |t: f64, clear: f64| if t > 0.0 { clear / (spread * t) } else { f64::INFINITY };
        let passed = match *self {
            Self::Sphere { centre, radius } => {
                let t = (centre - ray.origin).dot(ray.direction);
                pass(t, (ray.at(t) - centre).norm() - radius)
            }
            Self::Capsule { a, b, radius } => {
                let (t, on_segment) = nearest_to_segment(ray, a, b);
                pass(t, (ray.at(t) - on_segment).norm() - radius)
            }
            Self::Torus { centre, major, minor, .. } => {
                let reach = major + minor;
                let middle = (centre - ray.origin).dot(ray.direction);
                let (near, far) = ((middle - reach).max(0.0), middle + reach);
                let step = (far - near) / TORUS_SHADOW_SAMPLES as f64;
                (0..TORUS_SHADOW_SAMPLES)
                    .map(|i| near + (i as f64 + 0.5) * step)
                    .map(|t| pass(t, self.distance(ray.at(t))))
                    .fold(f64::INFINITY, f64::min)
            }
            // Everything stands on the drum, so it comes between nothing and the light.
            Self::Drum { .. } => f64::INFINITY,
        };
        smoothstep(1.0, -1.0, passed)
    }
}

fn nearest_on_segment(a: Vec3, b: Vec3, p: Vec3) -> Vec3 {
    let along = b - a;
    a + along * ((p - a).dot(along) / along.dot(along)).clamp(0.0, 1.0)
}

/// Where `ray` comes nearest to the segment: the distance along the ray, and the point of the segment.
fn nearest_to_segment(ray: &Ray, a: Vec3, b: Vec3) -> (f64, Vec3) {
    let (along, from_a) = (b - a, ray.origin - a);
    let (length2, lean) = (along.dot(along), along.dot(ray.direction));
    let (d, e) = (from_a.dot(ray.direction), from_a.dot(along));
    let parallel = length2 - lean * lean;
    let share = if parallel > 1e-12 * length2 { ((e - lean * d) / parallel).clamp(0.0, 1.0) } else { 0.0 };
    let on_segment = a + along * share;
    ((on_segment - ray.origin).dot(ray.direction), on_segment)
}

fn hit_capsule(ray: &Ray, a: Vec3, b: Vec3, radius: f64) -> Option<f64> {
    let along = b - a;
    let length = along.norm();
    let axis = along * (1.0 / length);
    let from_a = ray.origin - a;
    // The side: the ray seen along the axis is a ray in the plane, and the side is a circle there.
    let across = ray.direction - axis * ray.direction.dot(axis);
    let start = from_a - axis * from_a.dot(axis);
    let (qa, qb, qc) = (across.dot(across), across.dot(start), start.dot(start) - radius * radius);
    let side = qb * qb - qa * qc;
    if side < 0.0 {
        return None;
    }
    let on_side = (qa > 1e-12).then(|| (-qb - side.sqrt()) / qa).filter(|&t| {
        let height = (from_a + ray.direction * t).dot(axis);
        t > 0.0 && (0.0..=length).contains(&height)
    });
    on_side.or_else(|| {
        let ball = |centre| ray.sphere(centre, radius).map(|(near, _)| near).filter(|&t| t > 0.0);
        [ball(a), ball(b)].into_iter().flatten().reduce(f64::min)
    })
}

fn hit_drum(ray: &Ray, radius: f64, bottom: f64, top: f64) -> Option<f64> {
    let (o, d) = (ray.origin, ray.direction);
    let end = if d.2 < 0.0 { top } else { bottom };
    let on_end = (end - o.2) / d.2;
    if on_end > 0.0 && on_end.is_finite() {
        let p = ray.at(on_end);
        if p.0.hypot(p.1) <= radius {
            return Some(on_end);
        }
    }
    let (qa, qb, qc) = (d.0 * d.0 + d.1 * d.1, o.0 * d.0 + o.1 * d.1, o.0 * o.0 + o.1 * o.1 - radius * radius);
    let half = qb * qb - qa * qc;
    let t = (-qb - half.max(0.0).sqrt()) / qa;
    (half >= 0.0 && t > 0.0 && (bottom..=top).contains(&ray.at(t).2)).then_some(t)
}

/// A pane of absorbing glass: a box standing upright, turned about z.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pane {
    pub centre: Vec3,
    /// Half its width, thickness and height.
    pub half: Vec3,
    /// Cosine and sine of the turn about z.
    pub turn: (f64, f64),
}

impl Pane {
    /// The distances at which `ray` enters and leaves, both positive.
    pub fn span(&self, ray: &Ray) -> Option<(f64, f64)> {
        let (cos, sin) = self.turn;
        let local = |v: Vec3| Vec3(cos * v.0 + sin * v.1, cos * v.1 - sin * v.0, v.2);
        let (o, d) = (local(ray.origin - self.centre), local(ray.direction));
        let (mut near, mut far) = (0.0f64, f64::INFINITY);
        for (o, d, half) in [(o.0, d.0, self.half.0), (o.1, d.1, self.half.1), (o.2, d.2, self.half.2)] {
            if d == 0.0 {
                if o.abs() > half {
                    return None;
                }
                continue;
            }
            let (t0, t1) = ((-half - o) / d, (half - o) / d);
            near = near.max(t0.min(t1));
            far = far.min(t0.max(t1));
        }
        (near < far).then_some((near, far))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Rng, Stream};

    /// Every hit lies on the surface, nothing of the shape lies before it, and a miss meets nothing: by marching
    /// the distance function, which knows nothing of the closed forms.
    #[test]
    fn hits_agree_with_the_distance() {
        let axis = Vec3(0.3, -0.5, 0.8).unit();
        let shapes = [
            Shape::Sphere { centre: Vec3(0.1, 0.2, -0.1), radius: 0.4 },
            Shape::Capsule { a: Vec3(-0.5, 0.1, 0.0), b: Vec3(0.3, 0.4, 0.5), radius: 0.15 },
            Shape::Torus { centre: Vec3(0.0, 0.1, 0.1), axis, major: 0.5, minor: 0.15 },
            Shape::Drum { radius: 0.7, bottom: -0.2, top: 0.1 },
        ];
        let rng = Rng::new(1, Stream::Synthetic, 99);
        let mut failures = Vec::new();
        for (s, shape) in shapes.iter().enumerate() {
            let mut hits = 0;
            for i in 0..4000 {
                let vec = |v: [f32; 3]| Vec3(v[0].into(), v[1].into(), v[2].into());
                let origin = vec(rng.direction(2 * i)) * 3.0;
                let ray = Ray { origin, direction: (vec(rng.direction(2 * i + 1)) * 0.9 - origin).unit() };
                let hit = shape.hit(&ray);
                let (mut t, mut nearest) = (0.0, f64::INFINITY);
                while t < hit.unwrap_or(6.0) - 1e-3 {
                    let clear = shape.distance(ray.at(t));
                    nearest = nearest.min(clear);
                    t += clear.max(1e-3);
                }
                if nearest < -1e-6 {
                    failures.push(format!("shape {s} ray {i}: passed through by {nearest}"));
                }
                let Some(t) = hit else { continue };
                hits += 1;
                let (p, n) = (ray.at(t), shape.normal(ray.at(t)));
                if shape.distance(p).abs() > 1e-8 {
                    failures.push(format!("shape {s} ray {i}: hit lies {} off", shape.distance(p)));
                }
                let slope = (shape.distance(p + n * 1e-4) - shape.distance(p)) / 1e-4;
                if (slope - 1.0).abs() > 1e-3 || n.dot(ray.direction) > 1e-4 {
                    failures.push(format!("shape {s} ray {i}: normal {n:?}, slope {slope}"));
                }
            }
            assert!(hits > 100, "shape {s}: only {hits} rays hit");
        }
        assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    }
}
