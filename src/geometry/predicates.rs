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
//! than five such factors. (For the same reason `robust`, which assumes this, is exact here.) A computed sum of
//! monomials, each of which has passed through at most `k` operations, is off by at most `γ_k S`,
//! `γ_k = ku / (1 - ku)`, where `S` is the sum of their absolute values (Higham, "Accuracy and stability of numerical
//! algorithms", chapter 3).
//!
//! * [`orient3d`]: let `X`, `Y`, `Z` be the largest absolute difference on each axis. 6 monomials of at most `XYZ`; 3
//!   differences, 1 product, 1 difference, 1 product and 2 sums: `k = 8`, a bound of `48u XYZ`.
//! * [`insphere`]: let `R` be the length of the longest difference. The absolute monomials of a 3x3 minor sum up to the
//!   permanent of the absolute values, at most `2/√3 R³` for rows no longer than `R` (Carlen, Lieb & Loss, "An inequality
//!   of Hadamard type for permanents", 2006); there are four minors, each times a squared length. 2 differences, 1
//!   product, 1 difference, 2 operations for the third factor and 2 sums make a minor, 5 the squared length (2 for the
//!   factors, 1 product, 2 sums), then 1 product and 3 sums: `k = 17`, a bound of `78.6u R⁵`. It is compared squared,
//!   which spares the root: `det² > (80u)² (R²)⁵`.
//!
//! The bounds themselves are computed from rounded numbers, in at most 16 operations that may each lower them by
//! `1 - u`; together with the second order of `γ_k` that adds less than `100 u` *relative* to the bound, for which the
//! constants are rounded up. `(R²)⁵` may leave the range of f64: above it is infinite and decides nothing, below
//! `2^-1000` the comparison is not trusted.
//!
//! The derivation counts roundings, so that fused multiply-add must not be introduced here (Rust never contracts on
//! its own account).
//!
//! # Ties
//!
//! [`in_sphere`] leaves no point on a sphere: the squared lengths that lift the points to a paraboloid are thought to
//! be larger by infinitesimals, the larger the later a point comes in the lexicographic order of the coordinates
//! (Devillers & Teillaud, "Perturbations for Delaunay and weighted Delaunay 3D triangulations", 2011). So a set of points
//! has *one* triangulation, whatever the order in which it was made, and no tetrahedron of it is flat. It is the rule of
//! CGAL's `Delaunay_triangulation_3`.

use robust::Coord3D;
use std::cmp::Ordering;

/// A point, padded to 16 bytes: four are transposed with whole loads.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(16))]
pub(super) struct Site {
    pub position: [f32; 3],
    padding: f32,
}

impl Site {
    /// Without negative zeros, which equal the positive ones and would sort apart from them.
    pub fn new(position: [f32; 3]) -> Self {
        Self { position: position.map(|x| x + 0.0), padding: 0.0 }
    }

    #[inline(always)]
    pub fn wide(&self) -> [f64; 3] {
        let [x, y, z] = self.position;
        [f64::from(x), f64::from(y), f64::from(z)]
    }

    pub fn lexicographic(&self, other: &Self) -> Ordering {
        let by = |axis: usize| self.position[axis].total_cmp(&other.position[axis]);
        by(0).then_with(|| by(1)).then_with(|| by(2))
    }
}

pub(super) const UNIT_ROUNDOFF: f64 = f64::EPSILON / 2.0;
const ORIENT3D_BOUND: f64 = 49.0 * UNIT_ROUNDOFF;
pub(super) const INSPHERE_BOUND: f64 = 80.0 * UNIT_ROUNDOFF;
/// 2^-1000; see the module.
pub(super) const SMALLEST_SQUARE: f64 = f64::from_bits((1023 - 1000) << 52);

/// Positive where `d` sees `a`, `b`, `c` counter-clockwise from the other side ("below" their plane), negative where it
/// sees them from this side, and zero where the four points are coplanar. Only the sign means anything.
#[inline(always)]
pub(super) fn orient3d(a: &Site, b: &Site, c: &Site, d: &Site) -> f64 {
    let origin = d.wide();
    let [ax, ay, az] = difference(&a.wide(), &origin);
    let [bx, by, bz] = difference(&b.wide(), &origin);
    let [cx, cy, cz] = difference(&c.wide(), &origin);
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
pub(super) fn insphere(a: &Site, b: &Site, c: &Site, d: &Site, e: &Site) -> f64 {
    // One lane for each of a, b, c, d; `next` is the lane after, and after the last comes the first.
    let (x, y, z) = (lanes::<0>(a, b, c, d, e), lanes::<1>(a, b, c, d, e), lanes::<2>(a, b, c, d, e));
    let (x1, y1, z1) = (next(x), next(y), next(z));
    let (x2, y2, z2) = (next(x1), next(y1), next(z1));
    // Minors of the x and y columns of a lane and the next, and of a lane and the one after.
    let near = minus(times(x, y1), times(x1, y));
    let far = minus(times(x, y2), times(x2, y));
    let minor = plus(minus(times(z, next(near)), times(z1, far)), times(z2, near));
    let square = plus(plus(times(x, x), times(y, y)), times(z, z));
    // abc belongs to d, bcd to a, ...
    let [abc, bcd, cda, dab] = times(minor, next(next(next(square))));
    let det = (abc - bcd) + (cda - dab);
    let largest = larger(larger(square[0], square[1]), larger(square[2], square[3]));
    let bound = largest * largest * (largest * (INSPHERE_BOUND * INSPHERE_BOUND)) * (largest * largest);
    if det * det > bound + SMALLEST_SQUARE { det } else { insphere_exact(a, b, c, d, e) }
}

/// Whether `e` lies inside the sphere through `a`, `b`, `c`, `d`, for `orient3d(a, b, c, d) > 0` and five different
/// points; ties are broken as the module says.
#[inline(always)]
pub(super) fn in_sphere(a: &Site, b: &Site, c: &Site, d: &Site, e: &Site) -> bool {
    let side = insphere(a, b, c, d, e);
    if side != 0.0 { side > 0.0 } else { tie_is_inside([a, b, c, d], e) }
}

/// The sign of the leading term of the perturbed determinant: the lift of the lexicographically last point counts
/// for infinitely more than that of the last but one.
#[cold]
#[inline(never)]
fn tie_is_inside(corners: [&Site; 4], point: &Site) -> bool {
    let mut places = [0, 1, 2, 3, 4];
    let at = |place: usize| corners.get(place).copied().unwrap_or(point);
    places.sort_unstable_by(|&i, &j| at(j).lexicographic(at(i)));
    // Two are enough: were both coefficients zero, all five points would be coplanar.
    for place in &places[..2] {
        let mut others = corners;
        match others.get_mut(*place) {
            // Raised itself, the point leaves the sphere.
            None => return false,
            Some(corner) => *corner = point,
        }
        let [a, b, c, d] = others;
        let coefficient = orient3d(a, b, c, d);
        if coefficient != 0.0 {
            return coefficient > 0.0;
        }
    }
    false
}

/// Whether the three points lie on one line.
pub(super) fn collinear(a: &Site, b: &Site, c: &Site) -> bool {
    // They do if they do in each of the three coordinate planes.
    [(0, 1), (1, 2), (2, 0)].into_iter().all(|(x, y)| {
        let [a, b, c] = [a, b, c].map(|p| robust::Coord { x: p.wide()[x], y: p.wide()[y] });
        robust::orient2d(a, b, c) == 0.0
    })
}

#[cold]
#[inline(never)]
fn orient3d_exact(a: &Site, b: &Site, c: &Site, d: &Site) -> f64 {
    robust::orient3d(coord(a), coord(b), coord(c), coord(d))
}

#[cold]
#[inline(never)]
fn insphere_exact(a: &Site, b: &Site, c: &Site, d: &Site, e: &Site) -> f64 {
    robust::insphere(coord(a), coord(b), coord(c), coord(d), coord(e))
}

fn coord(site: &Site) -> Coord3D<f64> {
    let [x, y, z] = site.wide();
    Coord3D { x, y, z }
}

// On the hot path arrays are spelt out: what `array::map` calls is not always compiled into its caller, and then not for
// the caller's registers.

/// Four numbers that the compiler keeps in one register where there are such registers.
pub(super) type Lanes = [f64; 4];

/// Where four sites are on an axis, seen from a fifth.
#[inline(always)]
pub(super) fn lanes<const AXIS: usize>(a: &Site, b: &Site, c: &Site, d: &Site, from: &Site) -> Lanes {
    let all = [a.position[AXIS], b.position[AXIS], c.position[AXIS], d.position[AXIS]];
    let wide = [f64::from(all[0]), f64::from(all[1]), f64::from(all[2]), f64::from(all[3])];
    minus(wide, [f64::from(from.position[AXIS]); 4])
}

#[inline(always)]
fn next([a, b, c, d]: Lanes) -> Lanes {
    [b, c, d, a]
}

#[inline(always)]
pub(super) fn plus(a: Lanes, b: Lanes) -> Lanes {
    [a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]]
}

#[inline(always)]
pub(super) fn minus(a: Lanes, b: Lanes) -> Lanes {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2], a[3] - b[3]]
}

#[inline(always)]
pub(super) fn times(a: Lanes, b: Lanes) -> Lanes {
    [a[0] * b[0], a[1] * b[1], a[2] * b[2], a[3] * b[3]]
}

#[inline(always)]
pub(super) fn difference(a: &[f64; 3], b: &[f64; 3]) -> [f64; 3] {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Rng, Stream};

    fn site(position: [f32; 3]) -> Site {
        Site::new(position)
    }

    #[test]
    fn signs() {
        let [origin, x, y, z] = [[0.0; 3], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]].map(site);
        assert!(orient3d(&x, &y, &z, &origin) > 0.0);
        assert!(orient3d(&y, &x, &z, &origin) < 0.0);
        assert_eq!(orient3d(&x, &y, &site([0.25, 0.75, 0.0]), &origin), 0.0);
        let inside = |e: [f32; 3]| insphere(&x, &y, &z, &origin, &site(e));
        assert!(inside([0.5; 3]) > 0.0);
        assert!(inside([1.0, 1.0, 1.0 + 1e-6]) < 0.0);
        assert_eq!(inside([1.0; 3]), 0.0);
        assert_eq!(inside([0.0; 3]), 0.0);
        assert!(collinear(&x, &y, &site([2.0, -1.0, 0.0])));
        assert!(!collinear(&x, &y, &site([2.0, -1.0, 1e-30])));
    }

    /// Near-degenerate points, from far below to far above 1: the filter never contradicts exact arithmetic.
    #[test]
    fn filters_agree_with_exact_arithmetic() {
        let rng = Rng::new(2, Stream::Synthetic, 0);
        for i in 0..50_000u32 {
            // Few values an axis make many exact ties; the nudge of the last point makes near ties.
            let scale = [1.0f32, 1e-38, 1e-43, 1e30, 0.1][i as usize % 5];
            let steps = [2.0f32, 5.0, 1e7][i as usize % 3];
            let mut p: [[f32; 3]; 5] = std::array::from_fn(|k| {
                let [x, y, z, _] = rng.uniform4(i * 5 + k as u32).map(|r| (r * steps).floor() * scale);
                [x, y, z]
            });
            if i % 2 == 0 {
                p[4][0] *= 1.0 + f32::EPSILON;
            }
            let [a, b, c, d, e] = &p.map(site);
            let sign = |x: f64| if x == 0.0 { 0.0 } else { x.signum() };
            assert_eq!(sign(orient3d(a, b, c, e)), sign(orient3d_exact(a, b, c, e)), "{p:?}");
            assert_eq!(sign(insphere(a, b, c, d, e)), sign(insphere_exact(a, b, c, d, e)), "{p:?}");
        }
    }

    /// A flip exchanges the two tetrahedra of a facet: of the two spheres both or neither must hold the other's apex,
    /// ties included, and turning a tetrahedron around must change nothing.
    #[test]
    fn ties_are_consistent() {
        let rng = Rng::new(3, Stream::Synthetic, 0);
        let mut ties = 0;
        for i in 0..50_000u32 {
            let p: [[f32; 3]; 5] = std::array::from_fn(|k| {
                let [x, y, z, _] = rng.uniform4(i * 5 + k as u32).map(|r| (r * 3.0).floor());
                [x, y, z]
            });
            let [a, b, c, d, e] = &p.map(site);
            if orient3d(a, b, c, d) <= 0.0 || orient3d(a, c, b, e) <= 0.0 {
                continue;
            }
            ties += usize::from(insphere(a, b, c, d, e) == 0.0);
            let inside = in_sphere(a, b, c, d, e);
            assert_eq!(inside, in_sphere(a, c, b, e, d), "{p:?}");
            assert_eq!(inside, in_sphere(b, c, a, d, e), "{p:?}");
            assert_eq!(inside, in_sphere(d, c, b, a, e), "{p:?}");
        }
        assert!(ties > 500, "{ties} ties prove little");
    }
}
