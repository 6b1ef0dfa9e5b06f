//! Are PSNR and SSIM what their formulas say, and what others compute?

use candle_radfoam::Error;
use candle_radfoam::train::metrics::{psnr_db, psnr_per_channel_db, ssim};

const WIDTH: usize = 37;
const HEIGHT: usize = 29;

/// A pair of 8-bit pictures of integer formulas, so that any language can make the same: (image, truth).
fn pair(image: impl Fn(usize, usize, usize, usize) -> usize) -> (Vec<f32>, Vec<u8>) {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for y in 0..HEIGHT {
        for x in 0..WIDTH {
            for c in 0..3 {
                let truth = (x * x * 7 + y * 13 * (c + 1) + x * y * 3 + c * 50) % 256;
                a.push(image(truth, x, y, c) as f32 / 255.0);
                b.push(truth as u8);
            }
        }
    }
    (a, b)
}

/// The truth and a little of something else.
fn near() -> (Vec<f32>, Vec<u8>) {
    pair(|truth, x, y, c| (truth + (x * 31 + y * 17 + c * 7) % 41).clamp(20, 275) - 20)
}

/// The truth and much of something else.
fn far() -> (Vec<f32>, Vec<u8>) {
    pair(|truth, x, y, c| (3 * truth + 2 * ((x * 31 + y * 17 + c * 7) % 256)) / 5)
}

/// Made by scikit-image 0.26.0 and NumPy, from the integer formulas above:
///
/// ```python
/// y, x, c = np.meshgrid(np.arange(29), np.arange(37), np.arange(3), indexing="ij")
/// truth = (x*x*7 + y*13*(c+1) + x*y*3 + c*50) % 256
/// near = np.clip(truth + (x*31 + y*17 + c*7) % 41 - 20, 0, 255)
/// far = (3*truth + 2*((x*31 + y*17 + c*7) % 256)) // 5
/// structural_similarity(image / 255, truth / 255, gaussian_weights=True, sigma=1.5, win_size=11,
///                       use_sample_covariance=False, data_range=1, channel_axis=-1)
/// square = ((image - truth) / 255)**2
/// -10 * np.log10(square.mean()), np.mean(-10 * np.log10(square.mean((0, 1))))
/// ```
#[test]
fn agrees_with_scikit_image() {
    let golden = [
        ("near", near(), 0.987_565_325_813_583_4, 26.861_860_421_264_563, 26.862_252_171_149_39),
        ("far", far(), 0.794_146_358_145_096_4, 15.750_978_990_637_512, 15.751_589_157_040_2),
    ];
    for (name, (image, truth), similarity, joint, per_channel) in golden {
        let found = [
            ssim(&image, &truth, WIDTH, HEIGHT).expect("SSIM"),
            psnr_db(&image, &truth).expect("PSNR"),
            psnr_per_channel_db(&image, &truth).expect("PSNR"),
        ];
        for (found, expected) in found.into_iter().zip([similarity, joint, per_channel]) {
            // Both compute in f64; only the order of the sums differs.
            assert!((found - expected).abs() < 1e-10, "{name}: found {found}, expected {expected}");
        }
    }
}

#[test]
fn the_kinds_of_truth_agree() {
    let (image, truth) = far();
    let as_f32: Vec<f32> = truth.iter().map(|&v| f32::from(v) / 255.0).collect();
    let (a, b) = (psnr_db(&image, &truth).expect("PSNR"), psnr_db(&image, &as_f32).expect("PSNR"));
    assert!((a - b).abs() < 1e-5, "{a} from u8, {b} from f32");
    let similarity = |found: candle_radfoam::Result<f64>| found.expect("SSIM");
    let (a, b) = (similarity(ssim(&image, &truth, WIDTH, HEIGHT)), similarity(ssim(&image, &as_f32, WIDTH, HEIGHT)));
    assert!((a - b).abs() < 1e-6, "{a} from u8, {b} from f32");
}

#[test]
fn a_constant_offset_has_a_known_psnr() {
    for offset in [1u8, 5, 51] {
        let truth = vec![100u8; 300];
        let image = vec![f32::from(100 + offset) / 255.0; 300];
        let expected = 20.0 * (255.0 / f64::from(offset)).log10();
        for found in [psnr_db(&image, &truth), psnr_per_channel_db(&image, &truth)] {
            let found = found.expect("PSNR");
            assert!((found - expected).abs() < 1e-9, "offset {offset}: {found}, expected {expected}");
        }
    }
}

/// Errors of 1/10 in one channel and 1/100 in the others: 20, 40 and 40 dB, but a joint error of 0.0102 / 3.
#[test]
fn the_two_definitions_of_psnr_differ() {
    let image = [0.0f32; 3 * 8];
    let truth: Vec<f32> = [0.1, 0.01, 0.01].repeat(8);
    let joint = psnr_db(&image, &truth).expect("PSNR");
    let per_channel = psnr_per_channel_db(&image, &truth).expect("PSNR");
    assert!((joint + 10.0 * (0.0102f64 / 3.0).log10()).abs() < 1e-5, "joint {joint}");
    assert!((per_channel - 100.0 / 3.0).abs() < 1e-5, "per channel {per_channel}");
}

#[test]
fn a_render_is_clamped_and_rounded_first() {
    let truth: Vec<u8> = [0u8, 255, 128].repeat(121);
    // Out of range, and less than half a level off.
    let image: Vec<f32> = [-0.7, 1.6, 128.4 / 255.0].repeat(121);
    assert_eq!(psnr_db(&image, &truth).expect("PSNR"), f64::INFINITY);
    assert_eq!(psnr_per_channel_db(&image, &truth).expect("PSNR"), f64::INFINITY);
    assert_eq!(ssim(&image, &truth, 11, 11).expect("SSIM"), 1.0);
}

#[test]
fn identical_pictures_are_perfectly_similar() {
    let (image, _) = far();
    let truth: Vec<u8> = image.iter().map(|v| (v * 255.0).round() as u8).collect();
    assert_eq!(ssim(&image, &truth, WIDTH, HEIGHT).expect("SSIM"), 1.0);
}

/// Two flat pictures have no variance, so only the first factor is left: (2ab + C1) / (a^2 + b^2 + C1).
#[test]
fn flat_pictures_follow_the_formula() {
    for (a, b) in [(0u8, 255u8), (51, 102), (200, 204)] {
        let image = vec![f32::from(a) / 255.0; 3 * 13 * 12];
        let truth = vec![b; 3 * 13 * 12];
        let (x, y) = (f64::from(a) / 255.0, f64::from(b) / 255.0);
        let expected = (2.0 * x * y + 1e-4) / (x * x + y * y + 1e-4);
        let found = ssim(&image, &truth, 13, 12).expect("SSIM");
        assert!((found - expected).abs() < 1e-9, "{a} and {b}: {found}, expected {expected}");
    }
}

#[test]
fn same_bits_for_any_number_of_threads() {
    let (image, truth) = far();
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
        pool.install(|| ssim(&image, &truth, WIDTH, HEIGHT)).expect("SSIM").to_bits()
    };
    assert_eq!(with(1), with(3));
}

#[test]
fn bad_input_is_refused() {
    let pixels = |n: usize| vec![0.5f32; n];
    let mut not_a_number = pixels(363);
    not_a_number[7] = f32::NAN;
    let cases = [
        ("different lengths", psnr_db(&pixels(6), &pixels(9))),
        ("nothing", psnr_per_channel_db(&[], &pixels(0))),
        ("no whole pixel", psnr_db(&pixels(4), &pixels(4))),
        ("NaN in the image", psnr_db(&not_a_number, &pixels(363))),
        ("NaN in the truth", psnr_per_channel_db(&pixels(363), &not_a_number)),
        ("too small for the window", ssim(&pixels(330), &pixels(330), 11, 10)),
        ("another size", ssim(&pixels(363), &pixels(363), 11, 12)),
        ("a size that overflows", ssim(&pixels(363), &pixels(363), usize::MAX, 12)),
        ("another truth", ssim(&pixels(363), &pixels(366), 11, 11)),
        ("NaN under the window", ssim(&not_a_number, &pixels(363), 11, 11)),
    ];
    for (name, found) in cases {
        assert!(matches!(found, Err(Error::Tensor { .. })), "{name}: {found:?}");
    }
}
