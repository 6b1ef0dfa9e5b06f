//! The first root of a polynomial, certified: where the slope of a distortion formula first vanishes.

/// The most coefficients that a formula needs: the slope of the rational model with tangential terms has degree 13.
pub(super) const MOST: usize = 14;
/// Halvings after which a polynomial that has neither been shown to be positive nor to cross zero is taken to touch it:
/// the interval is then shorter than the rounding of its ends.
const MOST_HALVINGS: u32 = 48;

/// `sum(coefficients[i] * x^i)`.
#[inline]
fn value(coefficients: &[f64], x: f64) -> f64 {
    coefficients.iter().rev().fold(0.0, |sum, c| sum * x + c)
}

/// The smallest root of `sum(coefficients[i] * x^i)` in `(0, end]`, or `None` if the polynomial is positive there.
/// It is 0 if the polynomial is not positive at 0 or a coefficient is not finite.
#[inline]
pub(super) fn first_root(coefficients: &[f64], end: f64) -> Option<f64> {
    // The negative terms alone only fall, so where their sum with the constant is positive, so is everything before.
    let floor = coefficients[1..].iter().rev().fold(0.0, |sum, c| (sum + c.min(0.0)) * end);
    if coefficients[0] + floor > 0.0 && coefficients.iter().all(|c| c.is_finite()) {
        return None;
    }
    search(coefficients, end)
}

/// Looks at one octave after the other, each with coefficients of its own scale.
#[cold]
fn search(coefficients: &[f64], end: f64) -> Option<f64> {
    if !coefficients.iter().all(|c| c.is_finite()) || coefficients[0] <= 0.0 || end.is_nan() {
        return Some(0.0);
    }
    let (mut from, mut to) = (0.0, end.min(1.0));
    while from < end {
        let root = descend(coefficients, bernstein(coefficients, from, to), [from, to], 0);
        if root.is_some() {
            return root;
        }
        (from, to) = (to, (2.0 * to).min(end));
    }
    None
}

/// Coefficients in the Bernstein basis of `[from, to]`: the polynomial lies in their convex hull, has no more roots
/// than they have changes of sign, and its values at the ends are the first and the last.
fn bernstein(coefficients: &[f64], from: f64, to: f64) -> [f64; MOST] {
    let n = coefficients.len();
    let mut b = [0.0; MOST];
    b[..n].copy_from_slice(coefficients);
    // Taylor shift to `from`, by repeated synthetic division.
    for end in 0..n {
        for i in (end..n - 1).rev() {
            b[i] += from * b[i + 1];
        }
    }
    let (mut scale, mut binomial) = (1.0, 1.0);
    for (i, b) in b[..n].iter_mut().enumerate() {
        *b *= scale / binomial;
        scale *= to - from;
        binomial *= (n - 1 - i) as f64 / (i + 1) as f64;
    }
    for start in 1..n {
        for i in (start..n).rev() {
            b[i] += b[i - 1];
        }
    }
    b
}

fn descend(coefficients: &[f64], mut right: [f64; MOST], [from, to]: [f64; 2], halvings: u32) -> Option<f64> {
    let n = coefficients.len();
    let b = &mut right[..n];
    if b.iter().all(|&b| b > 0.0) {
        return None;
    }
    if b[0] <= 0.0 || halvings == MOST_HALVINGS {
        return Some(from);
    }
    if b[n - 1] < 0.0 && b.windows(2).filter(|pair| (pair[0] > 0.0) != (pair[1] > 0.0)).count() == 1 {
        return Some(single_root(coefficients, [from, to]));
    }
    // De Casteljau's halving: the left half's coefficients come out one by one, the right half's stay behind.
    let mut left = [0.0; MOST];
    for (i, left) in left[..n].iter_mut().enumerate() {
        *left = b[0];
        for j in 0..n - 1 - i {
            b[j] = 0.5 * (b[j] + b[j + 1]);
        }
    }
    let middle = 0.5 * (from + to);
    descend(coefficients, left, [from, middle], halvings + 1)
        .or_else(|| descend(coefficients, right, [middle, to], halvings + 1))
}

/// The only root between a positive and a negative end, by Newton's method kept in the bracket.
fn single_root(coefficients: &[f64], [mut low, mut high]: [f64; 2]) -> f64 {
    let mut x = 0.5 * (low + high);
    while low < x && x < high {
        let at = value(coefficients, x);
        if at > 0.0 {
            low = x
        } else {
            high = x
        }
        let slope = (1..coefficients.len()).rev().fold(0.0, |sum, i| sum * x + i as f64 * coefficients[i]);
        let newton = x - at / slope;
        if (newton - x).abs() <= f64::EPSILON * x {
            return newton.clamp(low, high);
        }
        x = if low < newton && newton < high { newton } else { 0.5 * (low + high) };
    }
    low
}

#[cfg(test)]
mod tests {
    use super::first_root;

    /// Coefficients of the polynomial with these roots, positive at 0.
    fn with_roots(roots: &[f64]) -> Vec<f64> {
        roots.iter().fold(vec![1.0], |polynomial, root| {
            let mut product = vec![0.0; polynomial.len() + 1];
            for (i, c) in polynomial.iter().enumerate() {
                product[i] += c;
                product[i + 1] -= c / root;
            }
            product
        })
    }

    #[test]
    fn the_first_of_many_roots() {
        let cases: [(&[f64], f64, Option<f64>); 9] = [
            (&[3.0, 0.5, 2.0], 10.0, Some(0.5)),
            (&[3.0, 0.5, 2.0], 0.49, None),
            (&[3.0, 0.5, 2.0], 0.5000001, Some(0.5)),
            (&[700.0, -1.0], 1024.0, Some(700.0)),
            (&[-1.0, -2.0, -0.3], 1024.0, None),
            (&[0.7, 0.7001], 3.0, Some(0.7)),
            (&[1.1, 1.2, 1.3, 1.4, 1.5, 1.6], 9.0, Some(1.1)),
            (&[2.0, 4.0], 2.0, Some(2.0)),
            (&[1e-3, 1e3], 1024.0, Some(1e-3)),
        ];
        for (roots, end, expected) in cases {
            let found = first_root(&with_roots(roots), end);
            let agrees = match (found, expected) {
                (Some(a), Some(b)) => (a - b).abs() < 1e-9 * b,
                (a, b) => a == b,
            };
            assert!(agrees, "{roots:?} up to {end}: {found:?}");
        }
        // No real root, close to the axis and on it.
        assert_eq!(first_root(&[1.0 + 1e-9, -2.0, 1.0], 5.0), None);
        assert!((first_root(&[1.0, -2.0, 1.0], 5.0).unwrap() - 1.0).abs() < 1e-6);
        assert_eq!(first_root(&[f64::NAN, 1.0], 5.0), Some(0.0));
        assert_eq!(first_root(&[0.0, 1.0], 5.0), Some(0.0));
    }
}
