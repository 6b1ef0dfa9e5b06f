//! Does every lens invert its published formula, and only where the formula can be inverted?

use std::f64::consts::PI;

use candle_radfoam::camera::{Camera, Lens, Pose};

/// Numbers in `[0, 1)` from a counter (SplitMix64).
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Symmetric about 0.
    fn within(&mut self, most: f64) -> f64 {
        (2.0 * self.unit() - 1.0) * most
    }
}

/// Normalised image coordinates of a direction, as OpenCV (`calib3d`, "Detailed Description" and "Fisheye camera
/// model") and COLMAP (`src/colmap/sensor/models.h`) publish them; `bent` leaves out the tangential and prism terms
/// when it is 0.
fn published(lens: Lens, [x, y, z]: [f64; 3], bent: f64) -> [f64; 2] {
    let (x1, y1) = (x / z, y / z);
    let tangential = |x: f64, y: f64, p1: f64, p2: f64| {
        let r2 = x.powi(2) + y.powi(2);
        let du = 2.0 * p1 * x * y + p2 * (r2 + 2.0 * x.powi(2));
        [bent * du, bent * (p1 * (r2 + 2.0 * y.powi(2)) + 2.0 * p2 * x * y)]
    };
    let r = x1.hypot(y1);
    // COLMAP: theta = atan(r), (uu, vv) = theta (u, v) / r; atan2 is the same in front, and goes on behind.
    let theta = f64::atan2(x.hypot(y), z);
    let across = x.hypot(y).max(1e-300);
    let (uu, vv) = (theta * x / across, theta * y / across);
    let even = |r: f64, k: [f64; 4]| 1.0 + k[0] * r.powi(2) + k[1] * r.powi(4) + k[2] * r.powi(6) + k[3] * r.powi(8);
    match lens {
        Lens::Pinhole => [x1, y1],
        Lens::OpenCv { k1, k2, p1, p2 } => {
            let (d, [dx, dy]) = (even(r, [k1, k2, 0.0, 0.0]), tangential(x1, y1, p1, p2));
            [x1 * d + dx, y1 * d + dy]
        }
        Lens::Brown { k1, k2, k3, k4, p1, p2 } => {
            let (d, [dx, dy]) = (even(r, [k1, k2, k3, k4]), tangential(x1, y1, p1, p2));
            [x1 * d + dx, y1 * d + dy]
        }
        Lens::FullOpenCv { k1, k2, p1, p2, k3, k4, k5, k6 } => {
            let d = even(r, [k1, k2, k3, 0.0]) / even(r, [k4, k5, k6, 0.0]);
            let [dx, dy] = tangential(x1, y1, p1, p2);
            [x1 * d + dx, y1 * d + dy]
        }
        Lens::Fisheye { k1, k2, k3, k4 } => {
            let theta_d = theta * even(theta, [k1, k2, k3, k4]);
            [theta_d * x / across, theta_d * y / across]
        }
        Lens::ThinPrismFisheye { k1, k2, p1, p2, k3, k4, sx1, sy1 } => {
            let (d, [du, dv]) = (even(theta, [k1, k2, k3, k4]), tangential(uu, vv, p1, p2));
            let r2 = uu.powi(2) + vv.powi(2);
            [uu * d + du + bent * sx1 * r2, vv * d + dv + bent * sy1 * r2]
        }
        Lens::Equirectangular => {
            let latitude = (y / (x * x + y * y + z * z).sqrt()).asin();
            [x.atan2(z), latitude]
        }
        _ => unreachable!("a lens without a published formula: {lens:?}"),
    }
}

fn camera(width: u32, height: u32, focal: f64, lens: Lens) -> Camera {
    let (cx, cy) = (0.5 * f64::from(width) + 3.3, 0.5 * f64::from(height) - 1.7);
    let world_from_camera = Pose::from_colmap([0.5, -0.5, 0.5, 0.5], [1.0, -2.0, 3.0]).unwrap();
    Camera { width, height, fx: focal, fy: 1.01 * focal, cx, cy, lens, world_from_camera }
}

fn sphere(width: u32) -> Camera {
    let height = width / 2;
    let (w, h) = (f64::from(width), f64::from(height));
    let (fx, fy, cx, cy) = (w / (2.0 * PI), h / PI, 0.5 * w, 0.5 * h);
    let world_from_camera = Pose::from_colmap([0.5, 0.5, 0.5, 0.5], [0.0; 3]).unwrap();
    Camera { width, height, fx, fy, cx, cy, lens: Lens::Equirectangular, world_from_camera }
}

/// Strong lenses of every model, with a name, and whether every pixel should have a ray.
fn strong() -> Vec<(&'static str, Camera, bool)> {
    let open_cv = |k1, k2, p1, p2| Lens::OpenCv { k1, k2, p1, p2 };
    let prism = |k: [f64; 4], p: [f64; 2], s: [f64; 2]| {
        let ([k1, k2, k3, k4], [p1, p2], [sx1, sy1]) = (k, p, s);
        Lens::ThinPrismFisheye { k1, k2, p1, p2, k3, k4, sx1, sy1 }
    };
    let rational =
        |[k1, k2, k3, k4, k5, k6]: [f64; 6], [p1, p2]: [f64; 2]| Lens::FullOpenCv { k1, k2, p1, p2, k3, k4, k5, k6 };
    let equidistant = Lens::fisheye([0.0; 4], [0.0; 2]);
    vec![
        ("pinhole", camera(640, 480, 300.0, Lens::Pinhole), true),
        ("phone", camera(1080, 1920, 1375.0, open_cv(0.0578421, -0.0805099, -0.000980296, 0.00015575)), true),
        ("action camera, barrel", camera(1920, 1080, 900.0, open_cv(-0.25, 0.08, 0.002, -0.003)), true),
        ("pincushion", camera(1920, 1080, 900.0, open_cv(0.3, 0.4, -0.01, 0.01)), true),
        ("folds in the frame", camera(640, 480, 300.0, open_cv(-0.4, 0.05, 0.001, 0.0)), false),
        ("decentred", camera(640, 480, 300.0, open_cv(-0.3, 0.1, 0.02, -0.03)), false),
        ("four radial", camera(1280, 720, 700.0, Lens::brown([-0.3, 0.12, -0.03, 0.004], [1e-3, -2e-3])), true),
        (
            "depth camera, rational",
            camera(1280, 720, 612.0, rational([0.53, -2.62, 1.51, 0.41, -2.45, 1.44], [6e-4, -1.3e-4])),
            false,
        ),
        ("rational, wide", camera(1280, 960, 400.0, rational([5.9, 4.1, 0.3, 6.2, 6.0, 1.2], [2e-4, 1e-4])), true),
        (
            "rational, pole in the frame",
            camera(640, 480, 300.0, rational([0.0, 0.0, 0.0, -0.8, 0.0, 0.0], [0.0; 2])),
            true,
        ),
        ("equidistant, 250 degrees in the frame", camera(1000, 1000, 229.0, equidistant), true),
        ("equidistant, all around", camera(1000, 800, 100.0, equidistant), false),
        (
            "action camera, fisheye",
            camera(1600, 1200, 560.0, Lens::fisheye([0.037, -0.012, 0.006, -0.0014], [0.0; 2])),
            true,
        ),
        ("fisheye that folds", camera(1600, 1200, 300.0, Lens::fisheye([-0.05, -0.01, 0.0, -0.001], [0.0; 2])), false),
        (
            "fisheye, tangential",
            camera(1600, 1200, 520.0, Lens::fisheye([0.05, 0.01, -0.02, 0.004], [2e-3, -1e-3])),
            true,
        ),
        (
            "thin prism",
            camera(1500, 1000, 850.0, prism([0.21, 0.2, -0.17, 0.75], [1.5e-4, -6e-4], [-1e-3, 2e-3])),
            true,
        ),
        (
            "thin prism, strong",
            camera(1500, 1000, 420.0, prism([-0.06, 0.01, 0.0, 0.0], [0.01, 0.02], [0.03, -0.02])),
            false,
        ),
        ("whole sphere", sphere(1024), true),
    ]
}

/// Coefficients such as calibrations find them, the lower orders stronger.
fn random_lens(kind: usize, random: &mut Random) -> Lens {
    let k1 = random.within(0.35);
    let k2 = random.within(0.15);
    let k3 = random.within(0.05);
    let k4 = random.within(0.02);
    let (p1, p2) = (random.within(5e-3), random.within(5e-3));
    let (sx1, sy1) = (random.within(5e-3), random.within(5e-3));
    match kind {
        0 => Lens::OpenCv { k1, k2: 0.0, p1: 0.0, p2: 0.0 },
        1 => Lens::OpenCv { k1, k2, p1, p2 },
        2 => Lens::Brown { k1, k2, k3, k4, p1, p2 },
        3 => {
            let (k4, k5, k6) = (k1 + random.within(0.3), k2 + random.within(0.1), k3 + random.within(0.03));
            Lens::FullOpenCv { k1, k2, p1, p2, k3, k4, k5, k6 }
        }
        4 => Lens::Fisheye { k1: 0.3 * k1, k2: 0.2 * k2, k3: 0.2 * k3, k4: 0.2 * k4 },
        _ => {
            let (k1, k2, k3, k4) = (0.3 * k1, 0.2 * k2, 0.2 * k3, 0.2 * k4);
            Lens::ThinPrismFisheye { k1, k2, p1, p2, k3, k4, sx1, sy1 }
        }
    }
}

fn cameras() -> Vec<(String, Camera)> {
    let mut random = Random(1);
    let mut cameras: Vec<_> = strong().into_iter().map(|(name, camera, _)| (name.to_string(), camera)).collect();
    for index in 0..120 {
        let focal = 160.0 + 500.0 * random.unit();
        cameras.push((format!("random {index}"), camera(640, 480, focal, random_lens(index % 6, &mut random))));
    }
    cameras
}

/// The radius (`tan` of the angle off the axis, or for a fisheye the angle) and azimuth as a direction.
fn at(lens: Lens, r: f64, azimuth: f64) -> [f64; 3] {
    let (s, c) = azimuth.sin_cos();
    match lens {
        Lens::Fisheye { .. } | Lens::ThinPrismFisheye { .. } => [r.sin() * c, r.sin() * s, r.cos()],
        _ => [r * c, r * s, 1.0],
    }
}

fn image(lens: Lens, direction: [f64; 3]) -> Option<[f64; 2]> {
    let camera = Camera { fx: 1.0, fy: 1.0, cx: 0.0, cy: 0.0, world_from_camera: Pose::IDENTITY, ..sphere(4) };
    Camera { lens, ..camera }.project(direction)
}

#[test]
fn every_pixel_comes_back_through_the_published_formula() {
    let (mut failures, mut worst_of_all) = (Vec::new(), 0.0_f64);
    for (name, camera) in cameras() {
        let (mut worst, mut worst_project, mut length, mut without) = (0.0_f64, 0.0_f64, 0.0_f64, 0);
        for row in (0..camera.height).step_by(7) {
            for col in (0..camera.width).step_by(3) {
                let (x, y) = (f64::from(col) + 0.5, f64::from(row) + 0.5);
                let Some(direction) = camera.direction(x, y) else {
                    without += 1;
                    continue;
                };
                let [u, v] = published(camera.lens, direction, 1.0);
                worst = worst.max((camera.fx * u + camera.cx - x).hypot(camera.fy * v + camera.cy - y));
                let world = camera.world_from_camera.rotate(direction.map(|v| 3.7 * v));
                let world = [0, 1, 2].map(|i| world[i] + camera.world_from_camera.position[i]);
                let [px, py] = camera.project(world).unwrap_or([f64::NAN; 2]);
                worst_project = worst_project.max((px - x).hypot(py - y));
                if px.is_nan() {
                    worst_project = f64::INFINITY;
                }
                length = length.max((direction.iter().map(|v| v * v).sum::<f64>() - 1.0).abs());
            }
        }
        worst_of_all = worst_of_all.max(worst).max(worst_project);
        if worst > 1e-9 || worst_project > 1e-9 || length > 1e-14 {
            failures.push(format!("{name}: {worst:e} px, {worst_project:e} px, length off by {length:e}"));
        }
        if let Some((_, _, true)) = strong().iter().find(|(other, ..)| *other == name)
            && without > 0
        {
            failures.push(format!("{name}: {without} pixels without a ray"));
        }
    }
    println!("worst of {} cameras: {worst_of_all:e} px", cameras().len());
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn every_direction_of_the_field_comes_back() {
    let (mut failures, mut random, mut tried) = (Vec::new(), Random(2), 0);
    for (name, camera) in cameras() {
        let mut worst = 0.0_f64;
        for _ in 0..2000 {
            // Uniform in the ball: every direction, and for a perspective lens half of them have no image.
            let direction = [random.within(1.0), random.within(1.0), random.within(1.0)];
            let length = direction.iter().map(|v| v * v).sum::<f64>().sqrt();
            let Some([u, v]) = image(camera.lens, direction) else { continue };
            // Far beyond any image the coordinates themselves have fewer digits than 1e-9 px.
            if u.hypot(v) > 20.0 {
                continue;
            }
            tried += 1;
            let back = Camera { world_from_camera: Pose::IDENTITY, ..camera };
            let back = back.direction(camera.fx * u + camera.cx, camera.fy * v + camera.cy);
            // What the difference of the directions is in pixels, by the published formula.
            let off = back.map_or(f64::INFINITY, |back| {
                let angle = (0..3).map(|i| (back[i] - direction[i] / length).powi(2)).sum::<f64>().sqrt();
                let [x, y] = published(camera.lens, back, 1.0);
                // Near a fold or a pole the image says little about the direction: there the pixel counts.
                (camera.fx * angle).min((camera.fx * (x - u)).hypot(camera.fy * (y - v)))
            });
            worst = worst.max(off);
        }
        if worst > 1e-9 {
            failures.push(format!("{name}: {worst:e} px ({:?})", camera.lens));
        }
    }
    println!("{tried} directions");
    assert!(failures.is_empty(), "{failures:#?}");
}

/// The radius up to which `image` gives a pixel, by bisection; it must not come back once it has ended.
fn end_of_field(lens: Lens, azimuth: f64, most: f64) -> f64 {
    let inside = |r: f64| image(lens, at(lens, r, azimuth)).is_some();
    let samples: Vec<f64> = (1..=4000).map(|i| most * f64::from(i) / 4000.0).collect();
    let first = samples.partition_point(|&r| inside(r));
    assert!(samples[first..].iter().all(|&r| !inside(r)), "{lens:?} comes back beyond its field");
    if first == samples.len() {
        return most;
    }
    let (mut low, mut high) = (if first == 0 { 0.0 } else { samples[first - 1] }, most * (first + 1) as f64 / 4000.0);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if inside(middle) { low = middle } else { high = middle }
    }
    low
}

#[test]
fn the_field_ends_where_the_image_stops_growing() {
    let (mut failures, mut folded) = (Vec::new(), 0);
    for (name, camera) in cameras() {
        let lens = camera.lens;
        let (most, straight) = match lens {
            Lens::Pinhole | Lens::Equirectangular => continue,
            Lens::OpenCv { p1, p2, .. } | Lens::Brown { p1, p2, .. } | Lens::FullOpenCv { p1, p2, .. } => {
                (6.0, p1 == 0.0 && p2 == 0.0)
            }
            Lens::ThinPrismFisheye { .. } => (PI, false),
            _ => (PI, true),
        };
        // The first radius at which the radial part does not grow, without a derivative.
        let radius = |r: f64| {
            let [x, y] = published(lens, at(lens, r, 0.3), 0.0);
            x * 0.3_f64.cos() + y * 0.3_f64.sin()
        };
        let step = most / 60_000.0;
        let fold = (1..60_000).map(|i| f64::from(i) * step).find(|&r| radius(r) <= radius(r - step));
        let fold = fold.map_or(most, |r| r - 0.5 * step);
        folded += usize::from(fold < most);
        let ends: Vec<f64> = (0..5).map(|i| end_of_field(lens, f64::from(i), most)).collect();
        let spread = ends.iter().fold(0.0_f64, |worst, end| worst.max((end - ends[0]).abs()));
        // A disc that ends at the fold, or before it by what the tangential and prism terms may take off the slope.
        let right = if straight { (ends[0] - fold).abs() < 2.0 * step } else { ends[0] < fold + 2.0 * step };
        if spread > 1e-6 || !right || ends[0] < 0.3 {
            failures.push(format!("{name}: field {ends:?}, fold at {fold} ({lens:?})"));
        }
    }
    assert!(folded > 30, "{folded}");
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn in_the_field_the_image_is_one_to_one() {
    // Strict monotonicity, (f(a) - f(b)) . (a - b) > 0 for all pairs, which no folded map has.
    let (mut failures, mut random) = (Vec::new(), Random(3));
    for (name, camera) in cameras() {
        let lens = camera.lens;
        if matches!(lens, Lens::Pinhole | Lens::Equirectangular) {
            continue;
        }
        let most = if matches!(lens, Lens::Fisheye { .. } | Lens::ThinPrismFisheye { .. }) { PI } else { 6.0 };
        let end = end_of_field(lens, 1.0, most);
        for pair in 0..2000 {
            let reach = if pair % 2 == 0 { 1.0 } else { 1e-3 };
            let (r, azimuth) = (end * random.unit().sqrt(), random.within(PI));
            let a = [r * azimuth.cos(), r * azimuth.sin()];
            let b = [a[0] + random.within(reach * end), a[1] + random.within(reach * end)];
            if b[0].hypot(b[1]) >= end {
                continue;
            }
            let to = |v: [f64; 2]| published(lens, at(lens, v[0].hypot(v[1]), v[1].atan2(v[0])), 1.0);
            let (fa, fb) = (to(a), to(b));
            let product = (fa[0] - fb[0]) * (a[0] - b[0]) + (fa[1] - fb[1]) * (a[1] - b[1]);
            if product <= 0.0 {
                failures.push(format!("{name}: {a:?} and {b:?} give {product:e} ({lens:?})"));
                break;
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn pixels_without_a_ray_are_listed() {
    let mut failures = Vec::new();
    let (mut some, mut none) = (0, 0);
    for (name, camera) in cameras() {
        let camera = camera.resized(160, 120);
        let without: Vec<u32> = (0..160 * 120).filter(|index| camera.ray(index % 160, index / 160).is_none()).collect();
        if camera.pixels_without_ray() != without {
            failures.push(format!("{name}: {} instead of {}", camera.pixels_without_ray().len(), without.len()));
        }
        some += usize::from(!without.is_empty());
        none += usize::from(without.is_empty());
        // A pixel has no ray only if no direction of the field comes to lie on it.
        let mut random = Random(4);
        for _ in 0..3000 {
            let direction = [random.within(1.0), random.within(1.0), random.within(1.0)];
            let Some([u, v]) = image(camera.lens, direction) else { continue };
            let (x, y) = (camera.fx * u + camera.cx, camera.fy * v + camera.cy);
            // No image is larger; a formula of degree 9 goes on to 1e18 px, where nothing can be solved for.
            if x.hypot(y) < 1e6 && camera.direction(x, y).is_none() {
                failures.push(format!("{name}: {direction:?} is imaged at ({x}, {y}), which has no ray"));
                break;
            }
        }
    }
    assert!(some > 20 && none > 20, "{some} with, {none} without");
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn a_valid_circle_inside_the_frame() {
    // An equidistant fisheye of 360 degrees: the circle of radius 100 π, and nothing beside it.
    let camera =
        Camera { cx: 500.0, cy: 400.0, fy: 100.0, ..camera(1000, 800, 100.0, Lens::fisheye([0.0; 4], [0.0; 2])) };
    let outside = |index: &u32| {
        let (x, y) = (f64::from(index % 1000) + 0.5, f64::from(index / 1000) + 0.5);
        (x - 500.0).hypot(y - 400.0) >= 100.0 * PI
    };
    assert_eq!(camera.pixels_without_ray(), (0..800_000).filter(outside).collect::<Vec<_>>());
    // Ahead, at a right angle, behind; straight behind has no single pixel, and the centre itself no direction.
    let camera = Camera { world_from_camera: Pose::IDENTITY, ..camera };
    let right = |angle: f64| camera.project([angle.sin(), 0.0, angle.cos()]);
    for angle in [0.0, 1e-9, 0.5, 0.5 * PI, 2.0, 3.1] {
        let [x, y] = right(angle).unwrap();
        assert!((x - 500.0 - 100.0 * angle).abs() < 1e-9 && (y - 400.0).abs() < 1e-9, "{angle}: {x} {y}");
    }
    for point in [[0.0, 0.0, -1.0], [0.0; 3], [f64::NAN, 0.0, 1.0], [f64::INFINITY, 0.0, 1.0]] {
        assert_eq!(camera.project(point), None, "{point:?}");
    }
}

#[test]
fn the_whole_sphere() {
    let camera = Camera { world_from_camera: Pose::IDENTITY, ..sphere(1000) };
    assert!(camera.pixels_without_ray().is_empty());
    // Ahead, right, left, down, up; the seam is straight behind.
    let cases = [
        ([0.0, 0.0, 1.0], [500.0, 250.0]),
        ([1.0, 0.0, 0.0], [750.0, 250.0]),
        ([-1.0, 0.0, 0.0], [250.0, 250.0]),
        ([0.0, 1.0, 0.0], [500.0, 500.0]),
        ([0.0, -1.0, 0.0], [500.0, 0.0]),
        ([1e-12, 0.0, -1.0], [1000.0, 250.0]),
        ([-1e-12, 0.0, -1.0], [0.0, 250.0]),
    ];
    for (direction, [x, y]) in cases {
        let [px, py] = camera.project(direction).unwrap();
        assert!((px - x).hypot(py - y) < 1e-9, "{direction:?}: {px} {py}");
        let back = camera.direction(x, y).unwrap();
        assert!((0..3).all(|i| (back[i] - direction[i]).abs() < 1e-9), "{x} {y}: {back:?}");
    }
    for (x, y) in [(1001.0, 250.0), (-1.0, 250.0), (500.0, 501.0), (500.0, -1.0), (f64::NAN, 0.0)] {
        assert_eq!(camera.direction(x, y), None, "{x} {y}");
    }
    // A panorama that leaves room beside the sphere.
    let wide = Camera { width: 1010, ..camera };
    assert_eq!(wide.pixels_without_ray().len(), 10 * 500);
}

#[test]
fn the_simplest_lens_that_says_the_same() {
    let (p, none) = ([1e-3, 0.0], [0.0; 2]);
    let tangential =
        Lens::ThinPrismFisheye { k1: 0.1, k2: 0.0, p1: 1e-3, p2: 0.0, k3: 0.0, k4: 0.0, sx1: 0.0, sy1: 0.0 };
    let cases = [
        (Lens::brown([0.0; 4], none), Lens::Pinhole),
        (Lens::brown([0.1, 0.0, 0.0, 0.0], none), Lens::OpenCv { k1: 0.1, k2: 0.0, p1: 0.0, p2: 0.0 }),
        (Lens::brown([0.0, 0.0, 0.2, 0.0], p), Lens::Brown { k1: 0.0, k2: 0.0, k3: 0.2, k4: 0.0, p1: 1e-3, p2: 0.0 }),
        (Lens::fisheye([0.0; 4], none), Lens::Fisheye { k1: 0.0, k2: 0.0, k3: 0.0, k4: 0.0 }),
        (Lens::fisheye([0.1, 0.0, 0.0, 0.0], p), tangential),
    ];
    for (found, expected) in cases {
        assert_eq!(found, expected);
    }
    // Models that contain one another agree where they do.
    let mut random = Random(5);
    for _ in 0..500 {
        let direction = [random.within(0.6), random.within(0.6), 1.0];
        let brown = Lens::Brown { k1: -0.2, k2: 0.05, k3: 0.01, k4: 0.0, p1: 1e-3, p2: 2e-3 };
        let rational = Lens::FullOpenCv { k1: -0.2, k2: 0.05, p1: 1e-3, p2: 2e-3, k3: 0.01, k4: 0.0, k5: 0.0, k6: 0.0 };
        let (Some(a), Some(b)) = (image(brown, direction), image(rational, direction)) else { panic!("{direction:?}") };
        assert!((a[0] - b[0]).hypot(a[1] - b[1]) < 1e-14, "{a:?} {b:?}");
    }
}

#[test]
fn hopeless_lenses_give_nothing_and_end() {
    // Formulas that fold at once, that overflow, and numbers that are none.
    let lenses = [
        Lens::OpenCv { k1: -1e12, k2: 0.0, p1: 0.0, p2: 0.0 },
        Lens::OpenCv { k1: 1e300, k2: -1e300, p1: 1e300, p2: 0.0 },
        Lens::OpenCv { k1: f64::NAN, k2: 0.0, p1: 0.0, p2: 0.0 },
        Lens::Brown { k1: 0.0, k2: 0.0, k3: 0.0, k4: -1e-3, p1: 0.3, p2: 0.3 },
        Lens::FullOpenCv { k1: 1.0, k2: 1.0, p1: 1.0, p2: 1.0, k3: 1.0, k4: -1e9, k5: f64::INFINITY, k6: 1.0 },
        Lens::Fisheye { k1: -10.0, k2: 100.0, k3: -1e3, k4: 1e4 },
        Lens::ThinPrismFisheye { k1: 0.0, k2: 0.0, p1: 0.0, p2: 0.0, k3: 0.0, k4: 0.0, sx1: 10.0, sy1: f64::NAN },
    ];
    for lens in lenses {
        let camera = camera(64, 48, 30.0, lens);
        let without = camera.pixels_without_ray();
        for row in 0..48 {
            for col in 0..64 {
                let ray = camera.ray(col, row);
                assert!(ray.is_none_or(|ray| ray.direction.iter().all(|v| v.is_finite())), "{lens:?}: {ray:?}");
                assert_eq!(ray.is_none(), without.binary_search(&(row * 64 + col)).is_ok(), "{lens:?}");
            }
        }
    }
}
