//! The two signs a Delaunay triangulation is made of, exact for every finite f32 input.
//!
//! Each is first evaluated in f64 beside a bound of its rounding error; only a value inside the bound goes on to the
//! adaptive exact arithmetic of the crate `robust` (Shewchuk, "Adaptive precision floating-point arithmetic and fast
//! robust geometric predicates", 1997).
//!
//! # The bounds
//!
//! Let `u = 2^-53`. Every f64 operation below returns its exact result times `1 + δ`, `|δ| <= u`: nothing underflows or
//! overflows, since a nonzero difference of two f32 is at least `2^-149` and at most `2^129`, and no product has more
//! than five such factors. (For the same reason `robust`, which assumes this, is exact here.) A computed sum of `m`
//! monomials, each of which has passed through `k` operations, is off by at most `m γ_k M`, `γ_k = ku / (1 - ku)`,
//! where `M` bounds the absolute value of every monomial (Higham, "Accuracy and stability of numerical algorithms",
//! chapter 3). Let `X`, `Y`, `Z` be the largest absolute difference on each axis.
//!
//! * [`orient3d`]: 6 monomials, `M = XYZ`; 3 differences, 1 product, 1 difference, 1 product and 2 sums: `k = 8`.
//! * [`insphere`]: 24 monomials times a squared length, at most `L`, so `M = LXYZ`; 5 operations for the squared
//!   length (2 for the factors, 1 product, 2 sums), 8 for the minor as above, 1 product and 2 sums: `k = 16`.
//!
//! That is `48u` and `384u` to first order. `M` itself is computed from rounded differences, in at most 12 operations
//! that may each lower it by `1 - u`; together with the second order of `γ_k` that adds less than `100 u` *relative*
//! to the bound, for which the constants are rounded up by one whole `u`.
//!
//! The derivation counts roundings, so that fused multiply-add must not be introduced here (Rust never contracts on
//! its own account).

use robust::Coord3D;

/// A point: f32 coordinates, widened.
pub(super) type Point = [f64; 3];

const UNIT_ROUNDOFF: f64 = f64::EPSILON / 2.0;
const ORIENT3D_BOUND: f64 = 49.0 * UNIT_ROUNDOFF;
const INSPHERE_BOUND: f64 = 385.0 * UNIT_ROUNDOFF;

/// Positive where `d` sees `a`, `b`, `c` counter-clockwise from the other side ("below" their plane), negative where it
/// sees them from this side, and zero where the four points are coplanar. Only the sign means anything.
#[inline(always)]
pub(super) fn orient3d(a: &Point, b: &Point, c: &Point, d: &Point) -> f64 {
    let (a_d, b_d, c_d) = (difference(a, d), difference(b, d), difference(c, d));
    let ([ax, ay, az], [bx, by, bz], [cx, cy, cz]) = (a_d, b_d, c_d);
    let det = az * (bx * cy - by * cx) + bz * (cx * ay - cy * ax) + cz * (ax * by - ay * bx);
    let magnitude = largest3(ax, bx, cx) * largest3(ay, by, cy) * largest3(az, bz, cz);
    if det.abs() > ORIENT3D_BOUND * magnitude {
        det
    } else if magnitude == 0.0 {
        // All four agree on an axis.
        0.0
    } else {
        orient3d_exact(a, b, c, d)
    }
}

/// Positive where `e` lies inside the sphere through `a`, `b`, `c`, `d`, negative where it lies outside, and zero where
/// it lies on it, for `orient3d(a, b, c, d) > 0`. Only the sign means anything.
#[inline(always)]
pub(super) fn insphere(a: &Point, b: &Point, c: &Point, d: &Point, e: &Point) -> f64 {
    let (a_e, b_e, c_e, d_e) = (difference(a, e), difference(b, e), difference(c, e), difference(d, e));
    let ([ax, ay, az], [bx, by, bz], [cx, cy, cz], [dx, dy, dz]) = (a_e, b_e, c_e, d_e);
    // Minors of the x and y columns, then of x, y and z.
    let (ab, bc, cd) = (ax * by - bx * ay, bx * cy - cx * by, cx * dy - dx * cy);
    let (da, ac, bd) = (dx * ay - ax * dy, ax * cy - cx * ay, bx * dy - dx * by);
    let (abc, bcd) = (az * bc - bz * ac + cz * ab, bz * cd - cz * bd + dz * bc);
    let (cda, dab) = (cz * da + dz * ac + az * cd, dz * ab + az * bd + bz * da);
    let square = |[x, y, z]: Point| x * x + y * y + z * z;
    let (a2, b2, c2, d2) = (square(a_e), square(b_e), square(c_e), square(d_e));
    let det = (d2 * abc - c2 * dab) + (b2 * cda - a2 * bcd);
    let magnitude = largest4(ax, bx, cx, dx) * largest4(ay, by, cy, dy) * largest4(az, bz, cz, dz);
    if det.abs() > INSPHERE_BOUND * (magnitude * largest4(a2, b2, c2, d2)) {
        det
    } else {
        insphere_exact(a, b, c, d, e)
    }
}

/// Whether the three points lie on one line.
pub(super) fn collinear(a: &Point, b: &Point, c: &Point) -> bool {
    // They do if they do in each of the three coordinate planes.
    [(0, 1), (1, 2), (2, 0)].into_iter().all(|(x, y)| {
        let [a, b, c] = [a, b, c].map(|p| robust::Coord { x: p[x], y: p[y] });
        robust::orient2d(a, b, c) == 0.0
    })
}

#[cold]
#[inline(never)]
fn orient3d_exact(a: &Point, b: &Point, c: &Point, d: &Point) -> f64 {
    robust::orient3d(coord(a), coord(b), coord(c), coord(d))
}

#[cold]
#[inline(never)]
fn insphere_exact(a: &Point, b: &Point, c: &Point, d: &Point, e: &Point) -> f64 {
    robust::insphere(coord(a), coord(b), coord(c), coord(d), coord(e))
}

fn coord(&[x, y, z]: &Point) -> Coord3D<f64> {
    Coord3D { x, y, z }
}

#[inline(always)]
fn difference(a: &Point, b: &Point) -> Point {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

/// The larger one. `f64::max` also sorts out NaN, which costs instructions and cannot occur here.
#[inline(always)]
fn larger(a: f64, b: f64) -> f64 {
    if a > b { a } else { b }
}

#[inline(always)]
fn largest3(a: f64, b: f64, c: f64) -> f64 {
    larger(larger(a.abs(), b.abs()), c.abs())
}

#[inline(always)]
fn largest4(a: f64, b: f64, c: f64, d: f64) -> f64 {
    larger(larger(a.abs(), b.abs()), larger(c.abs(), d.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Rng, Stream};

    const ORIGIN: Point = [0.0; 3];
    const X: Point = [1.0, 0.0, 0.0];
    const Y: Point = [0.0, 1.0, 0.0];
    const Z: Point = [0.0, 0.0, 1.0];

    #[test]
    fn signs() {
        assert!(orient3d(&X, &Y, &Z, &ORIGIN) > 0.0);
        assert!(orient3d(&Y, &X, &Z, &ORIGIN) < 0.0);
        assert_eq!(orient3d(&X, &Y, &[0.25, 0.75, 0.0], &ORIGIN), 0.0);
        let inside = |e: Point| insphere(&X, &Y, &Z, &ORIGIN, &e);
        assert!(inside([0.5; 3]) > 0.0);
        assert!(inside([1.0, 1.0, 1.0 + 1e-7]) < 0.0);
        assert_eq!(inside([1.0; 3]), 0.0);
        assert_eq!(inside(ORIGIN), 0.0);
        assert!(collinear(&X, &Y, &[2.0, -1.0, 0.0]));
        assert!(!collinear(&X, &Y, &[2.0, -1.0, 1e-30]));
    }

    /// Near-degenerate points, from far below to far above 1: the filter never contradicts exact arithmetic.
    #[test]
    fn filters_agree_with_exact_arithmetic() {
        let rng = Rng::new(2, Stream::Synthetic, 0);
        for i in 0..50_000u32 {
            // Few values an axis make many exact ties; the nudge of the last point makes near ties.
            let scale = [1.0f32, 1e-38, 1e-43, 1e30, 0.1][i as usize % 5];
            let steps = [2.0f32, 5.0, 1e7][i as usize % 3];
            let mut p: [Point; 5] = std::array::from_fn(|k| {
                let [x, y, z, _] = rng.uniform4(i * 5 + k as u32).map(|r| (r * steps).floor() * scale);
                [x, y, z].map(f64::from)
            });
            if i % 2 == 0 {
                p[4][0] = f64::from((p[4][0] as f32) * (1.0 + f32::EPSILON));
            }
            let [a, b, c, d, e] = &p;
            let sign = |x: f64| if x == 0.0 { 0.0 } else { x.signum() };
            assert_eq!(sign(orient3d(a, b, c, e)), sign(orient3d_exact(a, b, c, e)), "{p:?}");
            assert_eq!(sign(insphere(a, b, c, d, e)), sign(insphere_exact(a, b, c, d, e)), "{p:?}");
        }
    }
}
