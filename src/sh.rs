//! Real spherical harmonics up to degree 3, with the signs and order of 3D Gaussian splatting and PlenOctrees.
//!
//! A cell's colour in direction `d` is `max(0, 1/2 + sum_k Y_k(d) sh_k)` per channel; the basis below is `Y_k`.
//! Source: Ramamoorthi and Hanrahan, "An Efficient Representation for Irradiance Environment Maps", SIGGRAPH 2001;
//! sign convention of Yu et al., "PlenOctrees", ICCV 2021.

use num_traits::Float;

/// The highest supported degree.
pub const MAX_DEGREE: usize = 3;

/// The number of coefficients of the highest degree.
pub const MAX_COEFFICIENTS: usize = num_coefficients(MAX_DEGREE);

/// `Y_0`, the constant: a coefficient of `(colour - 1/2) / Y0` gives that colour in every direction.
pub const Y0: f64 = 0.282_094_791_773_878_14;

const Y1: f64 = 0.488_602_511_902_919_9;
const Y2: [f64; 3] = [1.092_548_430_592_079_2, 0.315_391_565_252_520_05, 0.546_274_215_296_039_6];
const Y3: [f64; 5] = [
    0.590_043_589_926_643_5,
    2.890_611_442_640_554,
    0.457_045_799_464_465_8,
    0.373_176_332_590_115_4,
    1.445_305_721_320_277,
];

/// The number of coefficients, `(degree + 1)^2`.
pub const fn num_coefficients(degree: usize) -> usize {
    (degree + 1) * (degree + 1)
}

/// The degree that has `num` coefficients, if there is one up to [`MAX_DEGREE`].
pub fn degree_of(num: usize) -> Option<usize> {
    (0..=MAX_DEGREE).find(|&degree| num_coefficients(degree) == num)
}

/// The basis functions at a unit direction: `[Y_0, .., Y_{num-1}]`, zero beyond `num` (1, 4, 9 or 16).
///
/// ```
/// use candle_radfoam::sh;
///
/// let y = sh::basis([0.0f64, 0.0, 1.0], 4);
/// assert_eq!(y[0], sh::Y0);
/// assert!((y[2] - 0.4886025119).abs() < 1e-9);
/// assert_eq!(y[4..], [0.0; 12]);
/// ```
#[inline(always)]
pub fn basis<T: Float>([x, y, z]: [T; 3], num: usize) -> [T; MAX_COEFFICIENTS] {
    let c = |value: f64| T::from(value).unwrap_or_else(T::nan);
    let mut out = [T::zero(); MAX_COEFFICIENTS];
    out[0] = c(Y0);
    if num >= 4 {
        out[1] = -c(Y1) * y;
        out[2] = c(Y1) * z;
        out[3] = -c(Y1) * x;
    }
    if num >= 9 {
        let (xx, yy, zz) = (x * x, y * y, z * z);
        out[4] = c(Y2[0]) * x * y;
        out[5] = -c(Y2[0]) * y * z;
        out[6] = c(Y2[1]) * (zz + zz - xx - yy);
        out[7] = -c(Y2[0]) * x * z;
        out[8] = c(Y2[2]) * (xx - yy);
        if num >= 16 {
            let four = c(4.0);
            let three = c(3.0);
            out[9] = -c(Y3[0]) * y * (three * xx - yy);
            out[10] = c(Y3[1]) * x * y * z;
            out[11] = -c(Y3[2]) * y * (four * zz - xx - yy);
            out[12] = c(Y3[3]) * z * (zz + zz - three * xx - three * yy);
            out[13] = -c(Y3[2]) * x * (four * zz - xx - yy);
            out[14] = c(Y3[4]) * z * (xx - yy);
            out[15] = -c(Y3[0]) * x * (xx - three * yy);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The integral of `Y_i Y_j` over the sphere is the identity: wrong constants or signs of a term show up here.
    #[test]
    fn orthonormal() {
        let (rings, sectors) = (400, 400);
        let mut gram = [[0.0f64; MAX_COEFFICIENTS]; MAX_COEFFICIENTS];
        for i in 0..rings {
            let z = -1.0 + (f64::from(i) + 0.5) * 2.0 / f64::from(rings);
            let r = (1.0 - z * z).sqrt();
            for j in 0..sectors {
                let angle = std::f64::consts::TAU * (f64::from(j) + 0.5) / f64::from(sectors);
                let y = basis([r * angle.cos(), r * angle.sin(), z], MAX_COEFFICIENTS);
                let area = 2.0 * std::f64::consts::TAU / f64::from(rings * sectors);
                for a in 0..MAX_COEFFICIENTS {
                    for b in 0..MAX_COEFFICIENTS {
                        gram[a][b] += area * y[a] * y[b];
                    }
                }
            }
        }
        for (a, row) in gram.iter().enumerate() {
            for (b, &value) in row.iter().enumerate() {
                // Midpoint rule on 400 rings: the error for Y12 squared is 84 / 24 (2 / 400)^2 = 9e-5.
                assert!((value - f64::from(u8::from(a == b))).abs() < 2e-4, "<Y{a}, Y{b}> = {value}");
            }
        }
    }

    #[test]
    fn degrees() {
        assert_eq!([0, 1, 4, 9, 16, 25].map(degree_of), [None, Some(0), Some(1), Some(2), Some(3), None]);
    }
}
