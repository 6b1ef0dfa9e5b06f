//! Distortion by a radial function with tangential and thin-prism terms, and its inverse.

use super::polynomial::{MOST, first_root};

/// Newton's method stops after a step shorter than this, relative to the radius or 1. Convergence is quadratic: what is
/// left after such a step is of the order of its square, far below 1e-10.
const NEWTON_STEP: f64 = 1e-8;
/// Real lenses converge in 3 to 5 steps from the distorted position; one that takes more is left to the damped method.
const FAST_STEPS: usize = 10;
/// At the edge of the field Newton's method only halves the distance; this many halvings end below the rounding.
const DAMPED_STEPS: usize = 100;
/// The shortest fraction of a step that is tried before the target is said to have no solution.
const LEAST_FRACTION: f64 = 1e-12;
/// Where a perspective formula ends at the latest: 89.94 degrees off the axis, beyond every image.
pub(super) const PERSPECTIVE_LIMIT: f64 = 1024.0;
/// How much, relative to the radius, the edge of the field in the image is blurred by rounding at the very most.
const EDGE_BLUR: f64 = 1e-6;

/// `f(v) = v N(u) / D(u) + (p2, p1) u + 2 (p2 x + p1 y) v + (sx1, sy1) u` for `v = (x, y)`, `u = |v|²`,
/// `N = 1 + numerator[0] u + numerator[1] u² + ..`, and `D` likewise.
///
/// The *field* is the disc of those radii `r` up to which `D > 0` and the slope of the radial part `g(r) = r N / D`
/// exceeds `m r` with `m = 8 |(p1, p2)| + 2 |(sx1, sy1)|`. There the symmetric part of the Jacobian is positive
/// definite: in the frame along and across `v`, with the components `(a, b)` of `(p2, p1)` and `(c, d)` of
/// `(sx1, sy1)`, it is `[[g' + 6 a r + 2 c r, (2 b + d) r], [.., N / D + 2 a r]]`, and `N / D`, the mean slope,
/// exceeds `m r / 2`. A map with that property on a convex set is one-to-one.
#[derive(Debug)]
pub(super) struct Formula<const K: usize, const Q: usize> {
    pub numerator: [f64; K],
    pub denominator: [f64; Q],
    /// `(p1, p2)`.
    pub tangential: [f64; 2],
    /// `(sx1, sy1)`.
    pub prism: [f64; 2],
    /// Where the field ends at the latest.
    pub limit: f64,
}

/// `1 + c[0] u + c[1] u² + ..` and its derivative.
#[inline]
fn one_plus<const N: usize>(c: &[f64; N], u: f64) -> [f64; 2] {
    let (mut value, mut slope) = (0.0, 0.0);
    for c in c.iter().rev() {
        slope = slope * u + value;
        value = value * u + c;
    }
    [value * u + 1.0, slope * u + value]
}

#[inline]
fn norm([x, y]: [f64; 2]) -> f64 {
    (x * x + y * y).sqrt()
}

impl<const K: usize, const Q: usize> Formula<K, Q> {
    /// `N / D` and its derivative by `u`.
    #[inline]
    fn radial(&self, u: f64) -> [f64; 2] {
        let [n, dn] = one_plus(&self.numerator, u);
        if Q == 0 {
            return [n, dn];
        }
        let [d, dd] = one_plus(&self.denominator, u);
        [n / d, (dn - n / d * dd) / d]
    }

    /// `f(v)` and its Jacobian, by rows.
    #[inline]
    fn evaluate(&self, [x, y]: [f64; 2]) -> ([f64; 2], [[f64; 2]; 2]) {
        let u = x * x + y * y;
        let [radial, slope] = self.radial(u);
        let ([py, px], [sx, sy]) = (self.tangential, self.prism);
        let along = px * x + py * y;
        let scale = radial + 2.0 * along;
        let across = 2.0 * (slope * x * y + px * y + py * x);
        (
            [scale * x + (px + sx) * u, scale * y + (py + sy) * u],
            [
                [scale + 2.0 * x * (slope * x + 2.0 * px + sx), across + 2.0 * sx * y],
                [across + 2.0 * sy * x, scale + 2.0 * y * (slope * y + 2.0 * py + sy)],
            ],
        )
    }

    /// `m` of the field.
    #[inline]
    fn margin(&self) -> f64 {
        8.0 * norm(self.tangential) + 2.0 * norm(self.prism)
    }

    /// The first radius, not beyond `end`, at which the field ends.
    #[inline]
    fn first_end(&self, end: f64) -> Option<f64> {
        // Coefficients of N and D by powers of u, of (g' - m r) D² by powers of r.
        let n = |i: usize| if i == 0 { 1.0 } else { self.numerator[i - 1] };
        let d = |j: usize| if j == 0 { 1.0 } else { self.denominator[j - 1] };
        let mut slope = [0.0; MOST];
        for i in 0..=K {
            for j in 0..=Q {
                slope[2 * (i + j)] += (1.0 + 2.0 * i as f64 - 2.0 * j as f64) * n(i) * d(j);
            }
        }
        let margin = self.margin();
        for i in 0..=Q {
            for j in 0..=Q {
                slope[2 * (i + j) + 1] -= margin * d(i) * d(j);
            }
        }
        let degree = (2 * (K + Q)).max(4 * Q + 1);
        let fold = first_root(&slope[..=degree], end);
        if Q == 0 {
            return fold;
        }
        let mut pole = [0.0; MOST];
        for j in 0..=Q {
            pole[j] = d(j);
        }
        let pole = first_root(&pole[..=Q], end * end).map(f64::sqrt);
        fold.into_iter().chain(pole).reduce(f64::min)
    }

    /// Whether `v` lies in the field.
    #[inline]
    fn within(&self, [x, y]: [f64; 2]) -> bool {
        let u = x * x + y * y;
        if u.is_nan() || u >= self.limit * self.limit {
            return false;
        }
        if Q == 0 {
            // Nearly always enough: the slope without its positive terms, which only falls, against a bound of `m r`.
            let falling = |(i, k): (usize, &f64)| (i as f64 + 1.5) * (k - k.abs());
            let floor = self.numerator.iter().enumerate().map(falling).rev().fold(0.0, |sum, k| (sum + k) * u);
            let [p, s] = [self.tangential, self.prism].map(|[x, y]| x.abs() + y.abs());
            if 1.0 + floor > (4.0 * p + s) * (1.0 + u) {
                return true;
            }
        }
        self.first_end(u.sqrt()).is_none()
    }

    /// The radius of the field.
    fn field(&self) -> f64 {
        self.first_end(self.limit).unwrap_or(self.limit)
    }

    /// Radii in the image: below the first everything is the image of a place in a field of radius `field`, from the
    /// second on nothing is.
    fn image_radii_of(&self, field: f64) -> [f64; 2] {
        let u = field * field;
        let edge = field * self.radial(u)[0];
        let bent = (3.0 * norm(self.tangential) + norm(self.prism)) * u;
        let [inner, outer] = [(edge - bent) * (1.0 - EDGE_BLUR), (edge + bent) * (1.0 + EDGE_BLUR)];
        // At a pole the radius is infinite or has lost all digits.
        if outer.is_finite() && inner.is_finite() && edge >= 0.0 { [inner, outer] } else { [0.0, f64::INFINITY] }
    }

    /// Radii in the image: below the first everything is the image of a place in the field, from the second on
    /// nothing is. Without tangential and prism terms they differ by no more than the rounding.
    pub fn image_radii(&self) -> [f64; 2] {
        self.image_radii_of(self.field())
    }

    /// The formula as numbers, for a kernel: numerator, denominator, tangential and prism coefficients, the radius of
    /// the field and the one in the image from which on nothing is imaged. Coefficients that it lacks are zero.
    pub fn numbers(&self) -> [f64; 13] {
        let (field, mut numbers) = (self.field(), [0.0; 13]);
        numbers[..K].copy_from_slice(&self.numerator);
        numbers[4..4 + Q].copy_from_slice(&self.denominator);
        numbers[7..9].copy_from_slice(&self.tangential);
        numbers[9..11].copy_from_slice(&self.prism);
        numbers[11..].copy_from_slice(&[field, self.image_radii_of(field)[1]]);
        numbers
    }

    /// Where `v` is imaged, if it lies in the field.
    #[inline]
    pub fn distort(&self, v: [f64; 2]) -> Option<[f64; 2]> {
        self.within(v).then(|| self.evaluate(v).0)
    }

    /// The place in the field that is imaged at `target`.
    #[inline]
    pub fn undistort(&self, target: [f64; 2]) -> Option<[f64; 2]> {
        // The formula is one-to-one in the field, so a solution in it is the solution, however it was found.
        let mut v = target;
        for _ in 0..FAST_STEPS {
            let [x, y] = v;
            let (step, _) = self.newton(v, target);
            v = [x + step[0], y + step[1]];
            if converged(step, v) {
                if self.within(v) {
                    return Some(v);
                }
                break;
            }
        }
        self.undistort_damped(target)
    }

    /// Newton's step at `v`, and the squared residual there.
    #[inline]
    fn newton(&self, v: [f64; 2], target: [f64; 2]) -> ([f64; 2], f64) {
        let ([fx, fy], [[a, b], [c, d]]) = self.evaluate(v);
        let [ex, ey] = [target[0] - fx, target[1] - fy];
        let inverse = 1.0 / (a * d - b * c);
        ([inverse * (d * ex - b * ey), inverse * (a * ey - c * ex)], ex * ex + ey * ey)
    }

    /// Newton's method from the axis, every step shortened until it stays in the field and brings the image nearer.
    #[cold]
    fn undistort_damped(&self, target: [f64; 2]) -> Option<[f64; 2]> {
        let field = self.field();
        let distance = norm(target);
        if distance.is_nan() || distance >= self.image_radii_of(field)[1] {
            return None;
        }
        let mut v = [0.0; 2];
        for _ in 0..DAMPED_STEPS {
            let (step, squared) = self.newton(v, target);
            let shortened = |t: f64| [v[0] + t * step[0], v[1] + t * step[1]];
            if converged(step, v) {
                let v = shortened(1.0);
                return (norm(v) < field).then_some(v);
            }
            // Along the step the residual falls by the fraction taken; half of that is asked for.
            let falls = |&t: &f64| {
                let v = shortened(t);
                norm(v) < field && self.newton(v, target).1 <= (1.0 - 0.5 * t) * squared
            };
            let halves = std::iter::successors(Some(1.0), |t| Some(0.5 * t));
            v = shortened(halves.take_while(|&t| t > LEAST_FRACTION).find(falls)?);
        }
        None
    }
}

#[inline]
fn converged([sx, sy]: [f64; 2], [x, y]: [f64; 2]) -> bool {
    sx * sx + sy * sy < NEWTON_STEP * NEWTON_STEP * (1.0 + x * x + y * y)
}
