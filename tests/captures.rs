//! Are captures read as what they are: poses, images, splits, points, units?

#[path = "common/folders.rs"]
mod folders;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_radfoam::camera::{Camera, Lens};
use candle_radfoam::data::{Dataset, LoadOptions, Resize, TestViews, View, load, load_with_progress};
use candle_radfoam::exchange::{PointCloud, write_point_cloud};
use folders::{camera, names, norm, options, reach, shared, simple, view, write_capture, write_png};

// ---------------------------------------------------------------------------------------------- real captures

#[test]
fn blender_captures() {
    for (name, side, train, test) in [("tiny-chair", 100, 100, 25), ("chair-400", 400, 100, 200)] {
        let Some(path) = shared(name) else { continue };
        let resize = if side == 400 { Resize::Downsample(8) } else { Resize::None };
        let dataset = load(path, &options(resize)).unwrap();
        println!("{name}: {}, extent {}, {:?}", dataset.layout, dataset.extent, dataset.normalization);
        assert_eq!((dataset.train.len(), dataset.test.len(), dataset.skipped.len()), (train, test, 0));
        assert!(dataset.has_alpha && dataset.point_cloud.is_none());
        let view = &dataset.train[0];
        let side = if side == 400 { 50 } else { side };
        assert_eq!((view.image.width, view.image.height, view.image.channels), (side, side, 4));
        assert_eq!((view.camera.width, view.camera.height), (side, side));
        let focal = 0.5 * f64::from(side) / (0.5 * 0.691_111_207_008_361_8_f64).tan();
        assert!((view.camera.fx - focal).abs() < 1e-9 && (view.camera.fy - focal).abs() < 1e-9);
        assert!((reach(&dataset) - 1.0).abs() < 1e-12);
        assert!((dataset.extent - 0.36).abs() < 0.01, "{}", dataset.extent);
        // The cameras of this scene stand on a sphere of radius 4.03 around its origin.
        assert!((1.0 / dataset.normalization.scale - 4.03).abs() < 0.05, "{:?}", dataset.normalization);
        assert!(norm(dataset.normalization.center) < 0.05, "{:?}", dataset.normalization);
    }
}

#[test]
fn fox() {
    let Some(path) = shared("fox") else { return };
    let dataset = load(&path, &options(Resize::Downsample(8))).unwrap();
    assert_eq!((dataset.train.len(), dataset.test.len(), dataset.skipped.len()), (43, 7, 17));
    assert!(dataset.skipped[0].reason.contains("no such file"), "{:?}", dataset.skipped[0]);
    assert_eq!(dataset.test[0].name, "images/0001.jpg");
    let cloud = dataset.point_cloud.as_ref().unwrap();
    assert_eq!((cloud.points.len(), cloud.colors.as_ref().unwrap().len()), (9319, 9319));
    let camera = &dataset.train[0].camera;
    assert_eq!((camera.width, camera.height), (135, 240));
    assert!((camera.fx - 1375.52 / 8.0).abs() < 1e-9 && (camera.cy - 965.268 / 8.0).abs() < 1e-9);
    assert!(matches!(camera.lens, Lens::OpenCv { k1, .. } if (k1 - 0.0578421).abs() < 1e-12));
    println!("fox: {}, extent {}, {:?}", dataset.layout, dataset.extent, dataset.normalization);
    assert!((reach(&dataset) - 1.0).abs() < 1e-12);
    assert!((0.05..2.0).contains(&dataset.extent), "{}", dataset.extent);
    // Points from structure from motion lie where several cameras see them.
    let seen = cloud.points.iter().filter(|&&point| {
        let inside = |view: &&View| {
            let pixel = view.camera.project(point);
            pixel.is_some_and(|[x, y]| (0.0..135.0).contains(&x) && (0.0..240.0).contains(&y))
        };
        dataset.train.iter().filter(inside).count() >= 3
    });
    let seen = seen.count();
    assert!(seen > 9000, "{seen} of 9319 points are seen by three views");
}

#[test]
fn every_pixel_of_the_fox_comes_back() {
    let Some(path) = shared("fox") else { return };
    let dataset = load(&path, &LoadOptions { test_views: "0001".parse().unwrap(), ..options(Resize::None) }).unwrap();
    assert_eq!(names(&dataset.test), ["images/0001.jpg"]);
    let camera = &dataset.test[0].camera;
    let mut worst = 0.0_f64;
    for row in 0..camera.height {
        for col in 0..camera.width {
            let (x, y) = (f64::from(col) + 0.5, f64::from(row) + 0.5);
            let pose = &camera.world_from_camera;
            let direction = pose.rotate(camera.direction(x, y).unwrap());
            let [px, py] = camera.project([0, 1, 2].map(|i| pose.position[i] + direction[i])).unwrap();
            worst = worst.max((px - x).hypot(py - y));
        }
    }
    assert!(worst < 1e-4, "{worst} px");
}

/// Observations `(image name, pixel, index of the point)` of a COLMAP model, read without the crate.
fn observations(model: &Path) -> Vec<(String, [f64; 2], usize)> {
    let u64_at = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let f64_at = |bytes: &[u8], at: usize| f64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let bytes = fs::read(model.join("points3D.bin")).unwrap();
    let (mut at, mut index_of) = (8, BTreeMap::new());
    for index in 0..u64_at(&bytes, 0) as usize {
        index_of.insert(u64_at(&bytes, at), index);
        at += 51 + 8 * u64_at(&bytes, at + 43) as usize;
    }
    // Points are read in the order of their ids, which need not be the file's.
    index_of.values_mut().enumerate().for_each(|(index, place)| *place = index);
    let bytes = fs::read(model.join("images.bin")).unwrap();
    let (mut at, mut found) = (8, Vec::new());
    for _ in 0..u64_at(&bytes, 0) {
        at += 64;
        let end = at + bytes[at..].iter().position(|&b| b == 0).unwrap();
        let name = String::from_utf8(bytes[at..end].to_vec()).unwrap();
        at = end + 1;
        let count = u64_at(&bytes, at) as usize;
        at += 8;
        for _ in 0..count {
            if let Some(&index) = index_of.get(&u64_at(&bytes, at + 16)) {
                found.push((name.clone(), [f64_at(&bytes, at), f64_at(&bytes, at + 8)], index));
            }
            at += 24;
        }
    }
    assert_eq!(at, bytes.len());
    found
}

#[test]
fn colmap_capture() {
    let Some(path) = shared("snowmiku") else { return };
    let dataset = load(&path, &LoadOptions::default()).unwrap();
    println!("snowmiku: {}, extent {}, {:?}", dataset.layout, dataset.extent, dataset.normalization);
    assert_eq!((dataset.train.len(), dataset.test.len(), dataset.skipped.len()), (84, 13, 0));
    assert!(!dataset.has_alpha);
    let cloud = dataset.point_cloud.as_ref().unwrap();
    assert_eq!((cloud.points.len(), cloud.colors.as_ref().unwrap().len()), (13049, 13049));
    assert!((0.05..1.0).contains(&dataset.extent), "{}", dataset.extent);

    // The listed split is every 8th by name, whoever says so.
    let every = LoadOptions { resize: Resize::Downsample(31), test_views: "every:8".parse().unwrap() };
    let again = load(&path, &every).unwrap();
    assert_eq!(names(&again.test), names(&dataset.test));

    // Points project to where the features were found.
    let views: BTreeMap<_, _> =
        dataset.train.iter().chain(&dataset.test).map(|view| (view.name.as_str(), &view.camera)).collect();
    let mut errors = Vec::new();
    for (name, [x, y], index) in observations(&path.join("sparse/0")) {
        let [px, py] = views[name.as_str()].project(cloud.points[index]).unwrap();
        errors.push((px - x).hypot(py - y));
    }
    errors.sort_by(f64::total_cmp);
    let median = errors[errors.len() / 2];
    println!("{} observations, median {median} px", errors.len());
    assert!(errors.len() > 10_000 && median < 1.0, "median {median} px");
}

#[test]
fn colmap_and_json_agree() {
    let Some(path) = shared("snowmiku") else { return };
    let small = |path: PathBuf| {
        load(path, &LoadOptions { resize: Resize::Downsample(31), test_views: "every:100".parse().unwrap() })
    };
    let colmap = small(path.clone()).unwrap();
    let json = small(path.join("transforms_train.json")).unwrap();
    // The two worlds are similar, so normalised relative distances agree; the rotation is free.
    let cameras: BTreeMap<_, _> = colmap.train.iter().map(|v| (v.name.clone(), &v.camera)).collect();
    let pairs: Vec<_> =
        json.train.iter().filter_map(|v| Some((&v.camera, *cameras.get(v.name.rsplit('/').next()?)?))).collect();
    assert!(pairs.len() > 80);
    let baseline = |a: &Camera, b: &Camera| {
        let (a, b) = (a.world_from_camera.position, b.world_from_camera.position);
        norm([0, 1, 2].map(|i| a[i] - b[i]))
    };
    let ratios: Vec<_> = pairs[1..].iter().map(|(j, c)| baseline(j, pairs[0].0) / baseline(c, pairs[0].1)).collect();
    let (least, most) = ratios.iter().fold((f64::MAX, 0.0_f64), |(l, m), &r| (l.min(r), m.max(r)));
    assert!(most / least - 1.0 < 1e-6, "{least} .. {most}");
    assert!((pairs[0].0.fx - pairs[0].1.fx).abs() < 1e-9);
}

#[test]
fn a_radial_lens_of_colmap_fits_its_observations() {
    let Some(root) = shared("loader-fixtures") else { return };
    // A model and its images (reduced by 4) lie in different folders: bring them together.
    let folder = tempfile::tempdir().unwrap();
    for (from, to) in [("sceaux-colmap-bin", "sparse"), ("sceaux-images_4", "images")] {
        fs::create_dir(folder.path().join(to)).unwrap();
        for file in fs::read_dir(root.join(from)).unwrap().map(|file| file.unwrap()) {
            fs::copy(file.path(), folder.path().join(to).join(file.file_name())).unwrap();
        }
    }
    let dataset = load(folder.path(), &LoadOptions::default()).unwrap();
    assert_eq!((dataset.train.len(), dataset.test.len()), (9, 2));
    println!("sceaux: {}, extent {}", dataset.layout, dataset.extent);
    let views: BTreeMap<_, _> =
        dataset.train.iter().chain(&dataset.test).map(|view| (view.name.as_str(), &view.camera)).collect();
    let cloud = dataset.point_cloud.as_ref().unwrap();
    let mut errors: Vec<_> = observations(&folder.path().join("sparse"))
        .into_iter()
        .map(|(name, [x, y], index)| {
            let camera = views[name.as_str()];
            assert_eq!((camera.width, camera.height), (708, 532));
            let [px, py] = camera.project(cloud.points[index]).unwrap();
            (px - x / 4.0).hypot(py - y / 4.0)
        })
        .collect();
    errors.sort_by(f64::total_cmp);
    assert!(errors[errors.len() / 2] < 0.3, "median {} px", errors[errors.len() / 2]);
}

// ------------------------------------------------------------------------------------------ captures made here

#[test]
fn a_capture_without_split() {
    let folder = tempfile::tempdir().unwrap();
    write_capture(folder.path(), 10, 1.0, 0.0, simple(7.0));
    fs::write(folder.path().join("03.png"), b"version https://git-lfs.github.com/spec/v1\n").unwrap();
    fs::write(folder.path().join("04.png"), b"").unwrap();
    let whole = fs::read(folder.path().join("05.png")).unwrap();
    fs::write(folder.path().join("05.png"), &whole[..whole.len() / 2]).unwrap();
    fs::remove_file(folder.path().join("06.png")).unwrap();
    let (calls, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let progress = |done, total| {
        assert_eq!(total, 9);
        calls.fetch_add(1, Ordering::Relaxed);
        most.fetch_max(done, Ordering::Relaxed);
    };
    let dataset = load_with_progress(folder.path(), &LoadOptions::default(), &progress).unwrap();
    assert_eq!((calls.into_inner(), most.into_inner()), (9, 9));
    assert_eq!(names(&dataset.test), ["00.png", "09.png"]);
    assert_eq!(names(&dataset.train), ["01.png", "02.png", "07.png", "08.png"]);
    let skipped: Vec<_> = dataset.skipped.iter().map(|skipped| skipped.name.as_str()).collect();
    assert_eq!(skipped, ["03.png", "04.png", "05.png", "06.png"]);
    for (skipped, reason) in dataset.skipped.iter().zip(["Git LFS", "empty file", "pixels", "no such file"]) {
        assert!(skipped.reason.contains(reason), "{skipped:?}");
    }
    // All optical axes meet in the target.
    let target = dataset.normalization.apply([0.5, -0.25, 1.0]);
    assert!(norm(target) < 1e-12 && (reach(&dataset) - 1.0).abs() < 1e-12);
    assert_eq!(dataset.normalization.invert(dataset.normalization.apply([1.0, 2.0, 3.0])), [1.0, 2.0, 3.0]);

    // Nothing usable is an error that says why.
    for i in 0..10 {
        fs::write(folder.path().join(format!("{i:02}.png")), b"nothing").unwrap();
    }
    let error = load(folder.path(), &LoadOptions::default()).unwrap_err().to_string();
    assert!(error.contains("00.png") && error.contains("nothing"), "{error}");
}

#[test]
fn splits() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = simple(7.0);
    file["test_filenames"] = serde_json::json!(["./02.png", "04.png"]);
    write_capture(folder.path(), 6, 1.0, 0.0, file);
    let test = |text: &str| {
        let options = LoadOptions { test_views: text.parse()?, ..LoadOptions::default() };
        load(folder.path(), &options).map(|dataset| names(&dataset.test).join(" "))
    };
    let cases = [
        ("default", "02.png 04.png"),
        ("every:3", "00.png 03.png"),
        ("every:3:2", "02.png 05.png"),
        ("01,03.png", "01.png 03.png"),
    ];
    for (text, expected) in cases {
        assert_eq!(test(text).unwrap(), expected, "{text}");
    }
    for text in ["every:0", "every:3:3", "every:x", "every:", "", "01,,02", "99", "every:1"] {
        assert!(test(text).is_err(), "{text} was accepted");
    }
    assert_eq!("every:8:1".parse::<TestViews>().unwrap(), TestViews::Every { n: 8, offset: 1 });
    assert_eq!("640x480".parse::<Resize>().unwrap(), Resize::Size { width: 640, height: 480 });
    assert_eq!("4".parse::<Resize>().unwrap(), Resize::Downsample(4));
    for text in ["0", "0x4", "4x", "x", "-1", "4x4x4", "99999999999x1"] {
        assert!(text.parse::<Resize>().is_err(), "{text} was accepted");
    }
    let zero = options(Resize::Downsample(0));
    assert!(load(folder.path(), &zero).is_err());
    let error = load(folder.path(), &options(Resize::Size { width: 9, height: 6 })).unwrap_err().to_string();
    assert!(error.contains("8x6"), "{error}");
}

/// Views of an object, of a scene in front of the cameras, and of a scene all around them; a turn may be added.
fn views_of(kind: &str, scale: f64, shift: f64) -> (Vec<View>, Vec<[f64; 3]>) {
    let place = |p: [f64; 3]| p.map(|v| scale * v + shift);
    let mut views = Vec::new();
    for i in 0..24 {
        let angle = 0.7 * f64::from(i);
        let (s, c) = angle.sin_cos();
        let mut camera = camera(8, 6, [0.0; 3]);
        let pose = &mut camera.world_from_camera;
        let (rotation, position) = match kind {
            // On a circle, looking in and down.
            "object" => {
                ([[-s, -0.6 * c, -0.8 * c], [c, -0.6 * s, -0.8 * s], [0.0, -0.8, 0.6]], [3.0 * c, 3.0 * s, -2.2])
            }
            // On a wall, looking ahead.
            "forward" => {
                let (row, col) = (f64::from(i / 6), f64::from(i % 6));
                ([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], [0.3 * col, 0.2 * row, 0.05 * s])
            }
            // On a small circle, looking out.
            _ => ([[-s, 0.0, c], [c, 0.0, s], [0.0, -1.0, 0.0]], [0.5 * c, 0.4 * s, 0.1 * c]),
        };
        (pose.rotation, pose.position) = (rotation, place(position));
        views.push(view("v", camera, 3));
    }
    let point = |i: i32| [0.1 * f64::from(i % 7) - 0.3, 0.2 * f64::from(i % 5) - 0.4, 2.0 + 0.05 * f64::from(i)];
    (views, (0..40).map(|i| place(point(i))).collect())
}

/// A capture of other units at another place is the same capture.
///
/// Positions lose 2^-53 of the largest coordinate (1e5, 100 units of the capture) in being written down: 1e-14 of a
/// unit. The centre is the solution of a 3x3 system whose determinant is at least 0.01, which may cost two or three
/// digits; 1e-10 leaves one more, and is far below what f32 rays resolve.
#[test]
fn normalised_units_do_not_depend_on_the_world() {
    const TOLERANCE: f64 = 1e-10;
    let close = |a: [f64; 3], b: [f64; 3]| (0..3).all(|i| (a[i] - b[i]).abs() < TOLERANCE);
    for kind in ["object", "forward", "360"] {
        for with_points in [false, true] {
            let normalised = |scale, shift| {
                let (views, points) = views_of(kind, scale, shift);
                let cloud = with_points.then(|| PointCloud { points, ..PointCloud::default() });
                Dataset::new("", views, vec![], cloud).unwrap()
            };
            let plain = normalised(1.0, 0.0);
            assert!((reach(&plain) - 1.0).abs() < 1e-12 && plain.extent > 0.01 && plain.extent < 10.0, "{kind}");
            for (scale, shift) in [(1000.0, 1e5), (1e-3, -7.0 * 1e-3), (1.0, 100.0), (1e6, 0.0)] {
                let moved = normalised(scale, shift);
                let name = format!("{kind}, points {with_points}, times {scale} plus {shift}");
                for (a, b) in plain.train.iter().zip(&moved.train) {
                    let (a, b) = (a.camera.world_from_camera, b.camera.world_from_camera);
                    assert!(close(a.position, b.position) && a.rotation == b.rotation, "{name}: {a:?} {b:?}");
                }
                assert!((plain.extent - moved.extent).abs() < TOLERANCE, "{name}");
                if let (Some(a), Some(b)) = (&plain.point_cloud, &moved.point_cloud) {
                    assert!(a.points.iter().zip(&b.points).all(|(&a, &b)| close(a, b)), "{name}");
                }
            }
        }
    }
    // The same through files.
    let [plain, moved] = [(1.0, 0.0), (1000.0, 1e5)].map(|(scale, shift)| {
        let folder = tempfile::tempdir().unwrap();
        write_capture(folder.path(), 9, scale, shift, simple(7.0));
        let (_, points) = views_of("object", scale, shift);
        let cloud = PointCloud { points, ..PointCloud::default() };
        write_point_cloud(folder.path().join("points3D.ply"), &cloud).unwrap();
        load(folder.path(), &LoadOptions::default()).unwrap()
    });
    for (a, b) in plain.train.iter().zip(&moved.train) {
        assert!(close(a.camera.world_from_camera.position, b.camera.world_from_camera.position));
    }
}

#[test]
fn forward_facing_captures_have_a_centre_too() {
    let views = |scale: f64| -> Vec<View> {
        let at = [[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, -0.5, 0.0]];
        at.iter().map(|p| view("v", camera(4, 4, p.map(|v| v * scale + 7.0)), 3)).collect()
    };
    // With points: at their median depth in front of the mean camera.
    let points = (1..=9).map(|z| [7.0 + 0.1, 7.0, 7.0 + f64::from(z)]).collect();
    let dataset =
        Dataset::new("", views(1.0), vec![], Some(PointCloud { points, colors: None, tracks: None })).unwrap();
    assert_eq!(dataset.normalization.center, [7.0, 7.0, 12.0]);
    // Without: four baselines ahead, at any scale.
    for scale in [1.0, 500.0] {
        let dataset = Dataset::new("", views(scale), vec![], None).unwrap();
        let depth = dataset.normalization.center[2] - 7.0;
        assert!((depth - 4.0 * scale).abs() < 1e-9 * scale, "{depth} at scale {scale}");
        assert!((reach(&dataset) - 1.0).abs() < 1e-12);
    }
    // A single camera, and a panorama from one place.
    let one = Dataset::new("", vec![view("v", camera(4, 4, [3.0; 3]), 3)], vec![], None).unwrap();
    assert!((reach(&one) - 1.0).abs() < 1e-12);
    let around = (0..8).map(|i| {
        let mut camera = camera(4, 4, [3.0; 3]);
        let (s, c) = (f64::from(i) * 0.7).sin_cos();
        camera.world_from_camera.rotation = [[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]];
        view("v", camera, 3)
    });
    let points = vec![[3.0, 3.0, 8.0]; 5];
    let dataset =
        Dataset::new("", around.collect(), vec![], Some(PointCloud { points, colors: None, tracks: None })).unwrap();
    assert!((dataset.normalization.scale - 0.2).abs() < 1e-9 && (dataset.extent - 1.0).abs() < 1e-9);
}

// ------------------------------------------------------------------------------------------------------ COLMAP

/// The three files of a COLMAP model with one image at the origin.
fn colmap(model: u32, parameters: &[f64]) -> [Vec<u8>; 3] {
    let mut cameras = 1_u64.to_le_bytes().to_vec();
    cameras.extend([3_u32.to_le_bytes(), model.to_le_bytes()].concat());
    cameras.extend([8_u64.to_le_bytes(), 6_u64.to_le_bytes()].concat());
    cameras.extend(parameters.iter().flat_map(|p| p.to_le_bytes()));
    let mut images = 1_u64.to_le_bytes().to_vec();
    images.extend(1_u32.to_le_bytes());
    images.extend([1.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0_f64].iter().flat_map(|v| v.to_le_bytes()));
    images.extend(3_u32.to_le_bytes());
    images.extend(b"a.png\0");
    images.extend(1_u64.to_le_bytes());
    images.extend([0; 24]);
    let mut points = 1_u64.to_le_bytes().to_vec();
    points.extend(9_u64.to_le_bytes());
    points.extend([1.0, 2.0, 30.0_f64].iter().flat_map(|v| v.to_le_bytes()));
    points.extend([1, 2, 3]);
    points.extend(0.5_f64.to_le_bytes());
    points.extend(1_u64.to_le_bytes());
    points.extend([0; 8]);
    [cameras, images, points]
}

fn write_colmap(folder: &Path, files: &[Vec<u8>; 3]) {
    fs::create_dir_all(folder.join("images")).unwrap();
    fs::create_dir_all(folder.join("sparse/0")).unwrap();
    write_png(&folder.join("images/a.png"), 8, 6);
    for (name, bytes) in ["cameras.bin", "images.bin", "points3D.bin"].iter().zip(files) {
        fs::write(folder.join("sparse/0").join(name), bytes).unwrap();
    }
}

fn load_colmap(files: &[Vec<u8>; 3]) -> candle_radfoam::Result<Dataset> {
    let folder = tempfile::tempdir().unwrap();
    write_colmap(folder.path(), files);
    load(folder.path(), &LoadOptions::default())
}

#[test]
fn a_split_that_names_no_view_of_the_model_is_not_one() {
    let folder = tempfile::tempdir().unwrap();
    write_colmap(folder.path(), &colmap(1, &[7.0, 6.0, 4.0, 3.0]));
    let identity = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]];
    let split = serde_json::json!({ "frames": [{ "file_path": "other.png", "transform_matrix": identity }] });
    fs::write(folder.path().join("transforms_test.json"), split.to_string()).unwrap();
    let dataset = load(folder.path(), &LoadOptions::default()).unwrap();
    assert!(!dataset.layout.contains("transforms_test.json"), "{}", dataset.layout);
    assert_eq!((dataset.train.len(), dataset.test.len()), (1, 0));
}

#[test]
fn colmap_camera_models() {
    let lens = |k1, k2, p1, p2| Lens::OpenCv { k1, k2, p1, p2 };
    let cases: [(u32, &[f64], [f64; 4], Lens); 5] = [
        (0, &[7.0, 4.0, 3.0], [7.0, 7.0, 4.0, 3.0], Lens::Pinhole),
        (1, &[7.0, 6.0, 4.0, 3.0], [7.0, 6.0, 4.0, 3.0], Lens::Pinhole),
        (2, &[7.0, 4.0, 3.0, 0.1], [7.0, 7.0, 4.0, 3.0], lens(0.1, 0.0, 0.0, 0.0)),
        (3, &[7.0, 4.0, 3.0, 0.1, 0.2], [7.0, 7.0, 4.0, 3.0], lens(0.1, 0.2, 0.0, 0.0)),
        (4, &[7.0, 6.0, 4.0, 3.0, 0.1, 0.2, 0.01, 0.02], [7.0, 6.0, 4.0, 3.0], lens(0.1, 0.2, 0.01, 0.02)),
    ];
    for (model, parameters, [fx, fy, cx, cy], lens) in cases {
        let dataset = load_colmap(&colmap(model, parameters)).unwrap();
        let camera = dataset.train[0].camera;
        assert_eq!((camera.fx, camera.fy, camera.cx, camera.cy, camera.lens), (fx, fy, cx, cy, lens), "model {model}");
        assert_eq!(dataset.normalization.invert_camera(&camera).world_from_camera.position, [-1.0, -2.0, -3.0]);
        let cloud = dataset.point_cloud.unwrap();
        assert_eq!(cloud.colors, Some(vec![[1, 2, 3]]));
    }
    for (model, name) in [(7, "FOV"), (11, "RAD_TAN_THIN_PRISM_FISHEYE"), (99, "99")] {
        let error = load_colmap(&colmap(model, &[1.0; 16])).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn hostile_colmap_files() {
    let good = colmap(1, &[7.0, 6.0, 4.0, 3.0]);
    load_colmap(&good).unwrap();
    for file in 0..3 {
        for length in 0..good[file].len() {
            let mut files = good.clone();
            files[file].truncate(length);
            assert!(load_colmap(&files).is_err(), "file {file} cut to {length} bytes was accepted");
        }
        let mut files = good.clone();
        files[file][..8].copy_from_slice(&(1_u64 << 60).to_le_bytes());
        let error = load_colmap(&files).unwrap_err().to_string();
        assert!(error.contains("1152921504606846976"), "{error}");
    }
    // Lengths of observations and tracks, a camera that is not there, a pose that is none.
    let with = |file: usize, at: usize, bytes: &[u8]| {
        let mut files = good.clone();
        files[file][at..at + bytes.len()].copy_from_slice(bytes);
        load_colmap(&files).unwrap_err().to_string()
    };
    let huge = u64::MAX.to_le_bytes();
    assert!(with(1, 78, &huge).contains("observations"));
    assert!(with(2, 8 + 43, &huge).contains("track"));
    assert!(with(1, 68, &7_u32.to_le_bytes()).contains("camera id"));
    assert!(with(1, 12, &0_f64.to_le_bytes()).contains("pose"));
    assert!(with(2, 16, &f64::NAN.to_le_bytes()).contains("finite"));
    assert!(with(0, 32, &f64::NAN.to_le_bytes()).contains("finite"));
}
