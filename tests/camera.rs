//! Does a pixel become the right ray, and a ray the right pixel?

use candle_radfoam::camera::{Camera, Lens, Pose};

/// The lens of a phone: radial and tangential, both signs.
const PHONE: Lens = Lens::OpenCv { k1: 0.0578421, k2: -0.0805099, p1: -0.000980296, p2: 0.00015575 };

fn phone(lens: Lens) -> Camera {
    let pose = Pose::from_colmap([0.5, -0.5, 0.5, 0.5], [1.0, -2.0, 3.0]).unwrap();
    let (fx, fy, cx, cy) = (1375.52, 1374.49, 554.558, 965.268);
    Camera { width: 1080, height: 1920, fx, fy, cx, cy, lens, world_from_camera: pose }
}

/// The published formula, written down once more.
fn open_cv(x: f64, y: f64, lens: Lens) -> [f64; 2] {
    let Lens::OpenCv { k1, k2, p1, p2 } = lens else { return [x, y] };
    let r2 = x.powi(2) + y.powi(2);
    let radial = 1.0 + k1 * r2 + k2 * r2.powi(2);
    [
        x * radial + 2.0 * p1 * x * y + p2 * (r2 + 2.0 * x.powi(2)),
        y * radial + p1 * (r2 + 2.0 * y.powi(2)) + 2.0 * p2 * x * y,
    ]
}

#[test]
fn pinhole_rays_have_a_closed_form() {
    let mut camera = phone(Lens::Pinhole);
    camera.world_from_camera = Pose::IDENTITY;
    let ray = camera.ray(100, 200).unwrap();
    let (x, y) = ((100.5 - camera.cx) / camera.fx, (200.5 - camera.cy) / camera.fy);
    let norm = (x * x + y * y + 1.0).sqrt();
    for (found, expected) in ray.direction.iter().zip([x / norm, y / norm, 1.0 / norm]) {
        assert!((f64::from(*found) - expected).abs() < 1e-7, "{ray:?}");
    }
    assert_eq!(ray.origin, [0.0; 3]);
    // Right of the centre is +X, below it +Y.
    let ray = camera.ray(1079, 1919).unwrap();
    assert!(ray.direction.iter().all(|&v| v > 0.0));
}

#[test]
fn every_pixel_of_a_phone_comes_back() {
    let lenses = [
        Lens::Pinhole,
        PHONE,
        Lens::OpenCv { k1: -0.25, k2: 0.08, p1: 0.002, p2: -0.003 },
        Lens::OpenCv { k1: 0.3, k2: 0.4, p1: -0.01, p2: 0.01 },
    ];
    for lens in lenses {
        let camera = phone(lens);
        let (mut worst, mut worst_ray) = (0.0_f64, 0.0_f64);
        for row in (0..camera.height).step_by(7) {
            for col in (0..camera.width).step_by(3) {
                let (x, y) = (f64::from(col) + 0.5, f64::from(row) + 0.5);
                let [u, v, w] = camera.direction(x, y).unwrap();
                let [dx, dy] = open_cv(u / w, v / w, lens);
                worst = worst.max((camera.fx * dx + camera.cx - x).hypot(camera.fy * dy + camera.cy - y));
                let ray = camera.ray(col, row).unwrap();
                let point = [0, 1, 2].map(|i| f64::from(ray.origin[i]) + 2.5 * f64::from(ray.direction[i]));
                let [px, py] = camera.project(point).unwrap();
                worst_ray = worst_ray.max((px - x).hypot(py - y));
            }
        }
        // Double precision all the way; through an f32 ray, 2^-24 of the direction times 2000 px of focal length.
        assert!(worst < 1e-9, "{lens:?}: {worst} px");
        assert!(worst_ray < 1e-3, "{lens:?}: {worst_ray} px");
        assert!(camera.pixels_without_ray().is_empty());
    }
}

#[test]
fn beyond_the_fold_of_a_lens_there_is_no_ray() {
    // r (1 - 0.4 r²) grows until r = sqrt(1 / 1.2) = 0.9129, where it is 0.6086.
    let lens = Lens::OpenCv { k1: -0.4, k2: 0.0, p1: 0.0, p2: 0.0 };
    let camera = Camera {
        width: 160,
        height: 160,
        fx: 100.0,
        fy: 100.0,
        cx: 80.0,
        cy: 80.0,
        lens,
        world_from_camera: Pose::IDENTITY,
    };
    let fold = 0.608_580_619_450_184_6 * 100.0;
    let mut without = Vec::new();
    for row in 0..160_u32 {
        for col in 0..160_u32 {
            let radius = (f64::from(col) + 0.5 - 80.0).hypot(f64::from(row) + 0.5 - 80.0);
            assert_eq!(camera.ray(col, row).is_some(), radius < fold, "radius {radius}");
            if radius >= fold {
                without.push(row * 160 + col);
            }
        }
    }
    assert_eq!(camera.pixels_without_ray(), without);
    // Close to the fold the inverse is still exact, and what lies beyond is not imaged.
    let [x, _, z] = camera.direction(80.0 + fold - 1e-6, 80.0).unwrap();
    assert!((x / z - 0.9129).abs() < 1e-3);
    assert!(camera.project([0.95, 0.0, 1.0]).is_none());
    assert!(camera.project([0.9, 0.0, 1.0]).is_some());
    assert!(camera.project([0.0, 0.0, -1.0]).is_none());
    assert!(camera.direction(f64::NAN, 1.0).is_none());

    // With both coefficients, of either sign: the fold is where the radius first stops growing.
    for (k1, k2) in [(-0.3, 0.02), (-0.2, -0.1), (0.3, -0.3), (-0.5, 0.1)] {
        let camera = Camera { lens: Lens::OpenCv { k1, k2, p1: 0.0, p2: 0.0 }, ..camera };
        let imaged = |r: f64| r * (1.0 + k1 * r * r + k2 * r.powi(4));
        let step = 1e-5;
        let fold = (1..).map(|i| f64::from(i) * step).find(|&r| imaged(r + step) < imaged(r)).unwrap();
        assert!(camera.project([fold + 1e-3, 0.0, 1.0]).is_none(), "{k1} {k2}: beyond {fold}");
        for r in [0.1 * fold, 0.5 * fold, 0.9 * fold, fold - 1e-3] {
            let [x, _, z] = camera.direction(80.0 + 100.0 * imaged(r), 80.0).unwrap();
            assert!((x / z - r).abs() < 1e-9, "{k1} {k2}: {r} came back as {}", x / z);
        }
        assert!(camera.direction(80.0 + 100.0 * imaged(fold) + 0.01, 80.0).is_none(), "{k1} {k2}");
    }
}

#[test]
fn conventions_change_in_one_place() {
    // Blender: a camera at the origin with an identity matrix looks along -Z with +Y up.
    let identity = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]];
    let pose = Pose::from_opengl(&identity).unwrap();
    assert_eq!(pose.forward(), [0.0, 0.0, -1.0]);
    assert_eq!(pose.rotate([0.0, 1.0, 0.0]), [0.0, -1.0, 0.0]);
    assert_eq!(pose.rotate([1.0, 0.0, 0.0]), [1.0, 0.0, 0.0]);

    // COLMAP: a quarter turn about Z takes the world's X to the camera's Y.
    let half = std::f64::consts::FRAC_1_SQRT_2;
    let pose = Pose::from_colmap([half, 0.0, 0.0, half], [1.0, 2.0, 3.0]).unwrap();
    let camera = pose.camera_from_world([1.0, 0.0, 0.0]);
    for (found, expected) in camera.iter().zip([1.0, 3.0, 3.0]) {
        assert!((found - expected).abs() < 1e-12, "{camera:?}");
    }
}

#[test]
fn only_rotations_are_poses() {
    let turned = |scale: f64, flip: f64, noise: f64| {
        let (s, c) = 0.3_f64.sin_cos();
        [
            [scale * c, -scale * s + noise, 0.0, 1.0],
            [scale * s, scale * c, 0.0, 2.0],
            [0.0, noise, flip * scale, 3.0],
            [0.0, 0.0, 0.0, 1.0],
        ]
    };
    let rounded = Pose::from_opengl(&turned(1.0, 1.0, 2e-4)).unwrap();
    for i in 0..3 {
        for j in 0..3 {
            let product: f64 = (0..3).map(|k| rounded.rotation[k][i] * rounded.rotation[k][j]).sum();
            assert!((product - f64::from(u8::from(i == j))).abs() < 1e-14, "column {i} times {j}: {product}");
        }
    }
    let mut sheared = turned(1.0, 1.0, 0.0);
    sheared[3] = [0.0, 0.0, 0.1, 1.0];
    let cases = [
        ("scaled", turned(1.1, 1.0, 0.0)),
        ("reflected", turned(1.0, -1.0, 0.0)),
        ("sheared", turned(1.0, 1.0, 0.1)),
        ("nan", turned(f64::NAN, 1.0, 0.0)),
        ("zero", turned(0.0, 1.0, 0.0)),
        ("projective", sheared),
    ];
    let accepted: Vec<_> = cases.iter().filter(|(_, matrix)| Pose::from_opengl(matrix).is_ok()).collect();
    assert!(accepted.is_empty(), "{accepted:?}");
    assert!(Pose::from_colmap([0.0; 4], [0.0; 3]).is_err());
    assert!(Pose::from_colmap([f64::NAN, 0.0, 0.0, 0.0], [0.0; 3]).is_err());
    assert!(Pose::from_colmap([1.0, 0.0, 0.0, 0.0], [f64::INFINITY, 0.0, 0.0]).is_err());
}

#[test]
fn a_resized_camera_sees_the_same() {
    let camera = phone(PHONE);
    let small = camera.resized(270, 480);
    let [a, b] = [camera.direction(400.0, 800.0).unwrap(), small.direction(100.0, 200.0).unwrap()];
    assert!((0..3).all(|i| (a[i] - b[i]).abs() < 1e-14));
    let json = serde_json::to_string(&camera).unwrap();
    assert_eq!(serde_json::from_str::<Camera>(&json).unwrap(), camera);
}

#[test]
fn broken_intrinsics_are_named() {
    let good = phone(PHONE);
    good.check().unwrap();
    let cases = [
        ("fx", Camera { fx: 0.0, ..good }),
        ("fy", Camera { fy: f64::NAN, ..good }),
        ("cx", Camera { cx: f64::INFINITY, ..good }),
        ("k2", Camera { lens: Lens::OpenCv { k1: 0.0, k2: f64::NAN, p1: 0.0, p2: 0.0 }, ..good }),
        ("size", Camera { width: 0, ..good }),
    ];
    for (name, camera) in cases {
        let error = camera.check().unwrap_err().to_string();
        assert!(error.contains(name), "{name}: {error}");
    }
}
