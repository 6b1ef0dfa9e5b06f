//! Are captures read as what they are: poses, images, splits, points, units; and are broken ones refused?

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::Device;
use candle_radfoam::camera::{Camera, Lens, Pose};
use candle_radfoam::data::{Dataset, Image, LoadOptions, Pixels, Resize, TestViews, View, load, load_with_progress};
use candle_radfoam::exchange::{PointCloud, read_point_cloud, write_point_cloud};

/// A folder of captures that are not part of the crate, if it is there.
fn shared(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("RADFOAM_DATA").map(PathBuf::from);
    let root = root.unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data").into());
    let path = root.join(name);
    if !path.exists() {
        println!("skipped: no {name} in {}", root.display());
    }
    path.exists().then_some(path)
}

fn options(resize: Resize) -> LoadOptions {
    LoadOptions { resize, ..LoadOptions::default() }
}

fn names(views: &[View]) -> Vec<&str> {
    views.iter().map(|view| view.name.as_str()).collect()
}

fn norm(v: [f64; 3]) -> f64 {
    v.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// The farthest camera's distance from the origin, which normalisation makes 1.
fn reach(dataset: &Dataset) -> f64 {
    let views = dataset.train.iter().chain(&dataset.test);
    views.map(|view| norm(view.camera.world_from_camera.position)).fold(0.0, f64::max)
}

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
    for _ in 0..u64_at(&bytes, 0) {
        index_of.insert(u64_at(&bytes, at), 0);
        at += 51 + 8 * u64_at(&bytes, at + 43) as usize;
    }
    // Points are loaded in the order of their ids.
    for (rank, index) in index_of.values_mut().enumerate() {
        *index = rank;
    }
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
fn fixtures_of_other_tools() {
    let Some(root) = shared("loader-fixtures") else { return };
    let load = |name: &str| load(root.join(name), &LoadOptions::default());

    // Intrinsics in the frames only, a start cloud, one image of several.
    let brush = load("json/brush").unwrap();
    println!("brush: {} views, {:?}", brush.train.len(), brush.skipped);
    assert_eq!(brush.train[0].camera.fx, 50.0);

    let cases = [
        ("json/trex-bad", "fl_y"),
        ("json/fruit", "no such file"),
        ("json/cattoy", "no such file"),
        ("food-txt", "no such file"),
        ("statue-bin+txt", "no such file"),
        ("opencv-50", "no such file"),
        ("sceaux-colmap-bin", "no such file"),
        ("cattoy-78cams", "images.bin"),
        ("ply", "none of them"),
    ];
    let mut failures = Vec::new();
    for (name, expected) in cases {
        match load(name) {
            Ok(dataset) => failures.push(format!("{name}: loaded {} views", dataset.train.len())),
            Err(error) if !error.to_string().contains(expected) => failures.push(format!("{name}: {error}")),
            Err(_) => {}
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");

    assert_eq!(read_point_cloud(root.join("ply/points3D.ply")).unwrap().points.len(), 25784);
    let error = read_point_cloud(root.join("ply/lfs-pointer.ply")).unwrap_err().to_string();
    assert!(error.contains("Git LFS"), "{error}");
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

/// Straight-alpha test image: a gradient with a transparent column.
fn write_png(path: &Path, width: u32, height: u32) {
    let pixel = |x, y| image::Rgba([(10 * x) as u8, (20 * y) as u8, 200, if x == 0 { 0 } else { 255 }]);
    image::RgbaImage::from_fn(width, height, pixel).save(path).unwrap();
}

/// An OpenGL `world_from_camera` matrix on a circle, looking at `target`, in a world scaled and shifted.
fn orbit(angle: f64, target: [f64; 3], scale: f64, shift: f64) -> [[f64; 4]; 4] {
    let (s, c) = angle.sin_cos();
    let back = [c * 0.8, s * 0.8, 0.6];
    let right = [-s, c, 0.0];
    let up = [-c * 0.6, -s * 0.6, 0.8];
    let radius = 3.0 + 0.5 * c;
    let mut matrix = [[0.0, 0.0, 0.0, 0.0]; 4];
    for i in 0..3 {
        matrix[i] = [right[i], up[i], back[i], scale * (target[i] + radius * back[i]) + shift];
    }
    matrix[3] = [0.0, 0.0, 0.0, 1.0];
    matrix
}

/// Writes a capture of `num_views` images named 00.png, 01.png, ...
fn write_capture(folder: &Path, num_views: usize, scale: f64, shift: f64, entries: serde_json::Value) {
    let frames: Vec<_> = (0..num_views)
        .map(|i| {
            let name = format!("{i:02}.png");
            write_png(&folder.join(&name), 8, 6);
            let matrix = orbit(i as f64 * 0.7, [0.5, -0.25, 1.0], scale, shift);
            serde_json::json!({ "file_path": name, "transform_matrix": matrix })
        })
        .collect();
    let mut file = entries;
    file["frames"] = frames.into();
    fs::write(folder.join("transforms.json"), file.to_string()).unwrap();
}

fn simple(focal: f64) -> serde_json::Value {
    serde_json::json!({ "fl_x": focal, "w": 8, "h": 6 })
}

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

#[test]
fn normalised_units_do_not_depend_on_the_world() {
    for with_points in [false, true] {
        let [plain, moved] = [(1.0, 0.0), (1000.0, 1e5)].map(|(scale, shift)| {
            let folder = tempfile::tempdir().unwrap();
            write_capture(folder.path(), 9, scale, shift, simple(7.0));
            if with_points {
                let point = |i: i32| [0.1 * f64::from(i % 7), 0.2 * f64::from(i % 5), 0.05 * f64::from(i)];
                let points = (0..40).map(|i| point(i).map(|v| scale * v + shift)).collect();
                let cloud = PointCloud { points, colors: None, tracks: None };
                write_point_cloud(folder.path().join("points3D.ply"), &cloud).unwrap();
            }
            load(folder.path(), &LoadOptions::default()).unwrap()
        });
        let close = |a: [f64; 3], b: [f64; 3]| (0..3).all(|i| (a[i] - b[i]).abs() < 1e-7);
        for (a, b) in plain.train.iter().zip(&moved.train) {
            let (a, b) = (a.camera.world_from_camera, b.camera.world_from_camera);
            assert!(close(a.position, b.position), "{a:?} {b:?}");
        }
        assert!((plain.extent - moved.extent).abs() < 1e-7);
        assert_eq!(plain.point_cloud.is_some(), with_points);
        if let (Some(a), Some(b)) = (&plain.point_cloud, &moved.point_cloud) {
            assert!(a.points.iter().zip(&b.points).all(|(&a, &b)| close(a, b)));
        }
    }
}

fn view(name: &str, camera: Camera, channels: usize) -> View {
    let size = camera.width as usize * camera.height as usize * channels;
    let data = (0..size).map(|i| (i * 7 % 256) as u8).collect();
    View { name: name.into(), camera, image: Image::new(camera.width, camera.height, channels, data).unwrap() }
}

fn camera(width: u32, height: u32, position: [f64; 3]) -> Camera {
    let (w, h) = (f64::from(width), f64::from(height));
    let world_from_camera = Pose { position, ..Pose::IDENTITY };
    Camera { width, height, fx: w, fy: w, cx: 0.5 * w, cy: 0.5 * h, lens: Lens::Pinhole, world_from_camera }
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

#[test]
fn sizes_and_models_in_transforms() {
    let cases = [
        // (entries, what is expected of the first camera, or part of the error)
        (serde_json::json!({ "camera_angle_x": 1.0 }), Ok((4.0 / 0.5_f64.tan(), 4.0))),
        (serde_json::json!({ "fl_x": 14.0, "cx": 9.0, "cy": 6.0, "w": 16, "h": 12 }), Ok((7.0, 4.5))),
        (serde_json::json!({ "fl_x": 7.0, "w": 6, "h": 8 }), Err("aspect")),
        (serde_json::json!({ "fl_x": 7.0, "w": 0, "h": 0 }), Err("aspect")),
        (serde_json::json!({ "fl_x": -7.0 }), Err("fx")),
        (serde_json::json!({ "fl_x": 7.0, "fl_y": 700.0 }), Err("fl_y")),
        (serde_json::json!({ "fl_x": 7.0, "camera_model": "OPENCV_FISHEYE" }), Err("OPENCV_FISHEYE")),
        (serde_json::json!({ "fl_x": 7.0, "is_fisheye": true }), Err("is_fisheye")),
        (serde_json::json!({ "fl_x": 7.0, "k3": 0.1 }), Err("k3")),
        (serde_json::json!({ "w": 8, "h": 6 }), Err("camera_angle_x")),
    ];
    for (entries, expected) in cases {
        let folder = tempfile::tempdir().unwrap();
        write_capture(folder.path(), 2, 1.0, 0.0, entries.clone());
        match (load(folder.path(), &LoadOptions::default()), expected) {
            (Ok(dataset), Ok((fx, cx))) => {
                let camera = &dataset.train[0].camera;
                assert!((camera.fx - fx).abs() < 1e-12 && camera.fy == camera.fx, "{entries}: {camera:?}");
                assert!((camera.cx - cx).abs() < 1e-12, "{entries}: {camera:?}");
            }
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{entries}: {error}"),
            (found, expected) => panic!("{entries}: expected {expected:?}, found {found:?}"),
        }
    }
    for text in ["", "{", "[]", "{\"frames\": 3}", "{\"frames\": []}", "{\"fl_x\": 1, \"frames\": [{}]}"] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("transforms.json"), text).unwrap();
        assert!(load(folder.path(), &LoadOptions::default()).is_err(), "{text} was accepted");
    }
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

// --------------------------------------------------------------------------------------------------- PLY files

fn read_ply(bytes: &[u8]) -> candle_radfoam::Result<PointCloud> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cloud.ply");
    fs::write(&path, bytes).unwrap();
    read_point_cloud(&path)
}

const MIXED_HEADER: &str = "comment made up\nobj_info nothing\nelement face 2\nproperty list uchar int vertex_indices\n\
    property float area\nelement vertex 2\nproperty uchar blue\nproperty double z\nproperty list ushort float extra\n\
    property short x\nproperty float y\nproperty ushort red\nproperty float green\nelement edge 5\nproperty int a\n\
    end_header\n";

/// The rows that [`MIXED_HEADER`] announces, without the edges, in either byte order.
fn mixed_rows(little: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    macro_rules! put {
        ($($value:expr),*) => { $( bytes.extend(if little { $value.to_le_bytes() } else { $value.to_be_bytes() }); )* };
    }
    put!(3_u8, 0_i32, 1_i32, 2_i32, 0.5_f32, 0_u8, 0.25_f32);
    put!(7_u8, 3.5_f64, 2_u16, 1.0_f32, 2.0_f32, -1_i16, 2.25_f32, 65535_u16, 1.0_f32);
    put!(9_u8, -4.0_f64, 0_u16, 300_i16, 0.125_f32, 0_u16, 0.5_f32);
    bytes
}

#[test]
fn ply_of_every_kind() {
    let expected = PointCloud {
        points: vec![[-1.0, 2.25, 3.5], [300.0, 0.125, -4.0]],
        colors: Some(vec![[255, 255, 7], [0, 128, 9]]),
        tracks: None,
    };
    let edges = [0; 20];
    for (name, little) in [("binary_little_endian", true), ("binary_big_endian", false)] {
        let header = format!("ply\nformat {name} 1.0\n{MIXED_HEADER}");
        let bytes = [header.as_bytes(), &mixed_rows(little), &edges].concat();
        assert_eq!(read_ply(&bytes).unwrap(), expected, "{name}");
        for length in 0..bytes.len() - edges.len() {
            assert!(read_ply(&bytes[..length]).is_err(), "{name} cut to {length} bytes was accepted");
        }
    }
    let rows = "3 0 1 2 0.5\n0 0.25\n7 3.5 2 1 2 -1 2.25 65535 1\n9 -4e0 0 300 .125 0 0.5\n1\n2\n3\n4\n5";
    let text = format!("ply\r\nformat ascii 1.0\r\n{MIXED_HEADER}{rows}");
    assert_eq!(read_ply(text.as_bytes()).unwrap(), expected);

    let without = "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\n\
        end_header\n1 2 3";
    let plain = PointCloud { points: vec![[1.0, 2.0, 3.0]], colors: None, tracks: None };
    assert_eq!(read_ply(without.as_bytes()).unwrap(), plain);
    let folder = tempfile::tempdir().unwrap();
    for cloud in [plain, expected, PointCloud::default()] {
        write_point_cloud(folder.path().join("cloud.ply"), &cloud).unwrap();
        assert_eq!(read_point_cloud(folder.path().join("cloud.ply")).unwrap(), cloud);
    }
    let uneven = PointCloud { points: vec![[0.0; 3]], colors: Some(vec![]), tracks: None };
    assert!(write_point_cloud(folder.path().join("cloud.ply"), &uneven).is_err());
}

#[test]
fn hostile_ply_files() {
    let xyz = "property float x\nproperty float y\nproperty float z\n";
    let huge = 1_u64 << 60;
    let cases = [
        ("empty", String::new(), "empty"),
        ("another format", "solid cube".into(), "solid cube"),
        ("LFS", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n".into(), "Git LFS"),
        ("no end", format!("ply\nformat ascii 1.0\nelement vertex 1\n{xyz}"), "end_header"),
        ("no format", format!("ply\nelement vertex 0\n{xyz}end_header\n"), "format"),
        ("format 2", format!("ply\nformat ascii 2.0\nelement vertex 0\n{xyz}end_header\n"), "ascii 2.0"),
        ("type", "ply\nformat ascii 1.0\nelement vertex 1\nproperty half x\nend_header\n".into(), "half"),
        ("no element", "ply\nformat ascii 1.0\nproperty float x\nend_header\n".into(), "element"),
        ("no vertex", "ply\nformat ascii 1.0\nelement face 0\nend_header\n".into(), "vertex"),
        (
            "no z",
            "ply\nformat ascii 1.0\nelement vertex 0\nproperty float x\nproperty float y\nend_header\n".into(),
            "z",
        ),
        ("count", format!("ply\nformat ascii 1.0\nelement vertex -1\n{xyz}end_header\n"), "-1"),
        (
            "2^60 vertices",
            format!("ply\nformat binary_little_endian 1.0\nelement vertex {huge}\n{xyz}end_header\n"),
            "rows",
        ),
        ("2^60 in text", format!("ply\nformat ascii 1.0\nelement vertex {huge}\n{xyz}end_header\n1 2 3\n"), "rows"),
        (
            "2^60 faces",
            format!(
                "ply\nformat binary_big_endian 1.0\nelement face {huge}\nproperty double a\nelement vertex 1\n{xyz}end_header\n"
            ),
            "face",
        ),
        (
            "2^60 lists",
            format!(
                "ply\nformat ascii 1.0\nelement face {huge}\nproperty list int int a\nelement vertex 1\n{xyz}end_header\n1 2 3\n"
            ),
            "face",
        ),
        (
            "short",
            format!("ply\nformat ascii 1.0\nelement vertex 2\n{xyz}end_header\n1.25 2.50 3.75 4.25 5.5"),
            "property z",
        ),
        ("letters", format!("ply\nformat ascii 1.0\nelement vertex 1\n{xyz}end_header\n1 two 3\n"), "two"),
        ("nan", format!("ply\nformat ascii 1.0\nelement vertex 1\n{xyz}end_header\n1 nan 3\n"), "finite"),
    ];
    let mut failures = Vec::new();
    for (name, text, expected) in cases {
        match read_ply(text.as_bytes()) {
            Ok(cloud) => failures.push(format!("{name}: read {} points", cloud.points.len())),
            Err(error) if !error.to_string().contains(expected) => failures.push(format!("{name}: {error}")),
            Err(_) => {}
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

// ------------------------------------------------------------------------------------------------------ images

#[test]
fn images_of_every_kind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image.png");
    let open = |width, height| Image::open(&path, |_, _| Ok((width, height))).unwrap();

    // Two by one: red with half alpha, opaque blue. Averages are of premultiplied colours.
    image::RgbaImage::from_raw(2, 1, vec![255, 0, 0, 128, 0, 0, 255, 255]).unwrap().save(&path).unwrap();
    assert_eq!(open(2, 1).data, [128, 0, 0, 128, 0, 0, 255, 255]);
    assert_eq!(open(1, 1).data, [64, 0, 128, 192]);
    assert_eq!(open(1, 1).over([0.0, 1.0, 0.0])[0], [64.0 / 255.0, 1.0 - 192.0 / 255.0, 128.0 / 255.0]);
    assert_eq!(open(2, 1).pixel(1, 0), Some([0.0, 0.0, 1.0, 1.0]));
    assert_eq!(open(2, 1).pixel(2, 0), None);

    // Alpha that says nothing is dropped; 16 bits are averaged before they are rounded; grey becomes RGB.
    image::RgbaImage::from_raw(1, 1, vec![1, 2, 3, 255]).unwrap().save(&path).unwrap();
    assert_eq!((open(1, 1).channels, open(1, 1).data), (3, vec![1, 2, 3]));
    type Rgb16 = image::ImageBuffer<image::Rgb<u16>, Vec<u16>>;
    Rgb16::from_raw(2, 1, vec![257, 0, 65535, 514, 100, 65535]).unwrap().save(&path).unwrap();
    assert_eq!(open(2, 1).data, [1, 0, 255, 2, 0, 255]);
    Rgb16::from_raw(2, 1, vec![380, 0, 0, 380, 0, 0]).unwrap().save(&path).unwrap();
    assert_eq!(open(1, 1).data, [1, 0, 0]);
    image::GrayImage::from_raw(2, 1, vec![9, 200]).unwrap().save(&path).unwrap();
    assert_eq!(open(2, 1).data, [9, 9, 9, 200, 200, 200]);
    image::GrayAlphaImage::from_raw(1, 1, vec![200, 51]).unwrap().save(&path).unwrap();
    assert_eq!(open(1, 1).data, [40, 40, 40, 51]);
}

#[test]
fn areas_are_exact() {
    // 3 columns to 2: the middle one is shared in halves.
    let image = Image::new(3, 1, 3, [[30, 0, 0], [90, 3, 0], [210, 0, 255]].concat()).unwrap();
    assert_eq!(image.clone().resized(2, 1).unwrap().data, [50, 1, 0, 170, 1, 170]);
    assert_eq!(image.clone().resized(3, 1).unwrap(), image);
    assert!(image.clone().resized(0, 1).is_err());
    let white = Image::new(7, 5, 4, vec![255; 140]).unwrap();
    for (width, height) in [(3, 2), (1, 1), (7, 1), (6, 4)] {
        assert!(white.clone().resized(width, height).unwrap().data.iter().all(|&v| v == 255), "{width}x{height}");
    }
    assert!(Image::new(2, 2, 3, vec![0; 11]).is_err() && Image::new(2, 2, 2, vec![0; 8]).is_err());
}

// ------------------------------------------------------------------------------------------------------ pixels

#[test]
fn flat_indices() {
    let views = [view("a", camera(5, 3, [1.0, 0.0, 0.0]), 3), view("b", camera(2, 4, [0.0, 2.0, 0.0]), 4)];
    let pixels = Pixels::new(&views).unwrap();
    assert_eq!((pixels.len(), pixels.channels()), (23, 4));
    assert_eq!(pixels.shapes(), [[3, 5], [4, 2]]);
    let cases = [(0, (0, 0, 0)), (4, (0, 4, 0)), (5, (0, 0, 1)), (14, (0, 4, 2)), (15, (1, 0, 0)), (22, (1, 1, 3))];
    for (index, place) in cases {
        assert_eq!(pixels.locate(index), Some(place), "{index}");
    }
    assert_eq!(pixels.locate(23), None);
    assert!(pixels.batch(&[0, 23]).is_err() && Pixels::new(&[]).is_err());
    assert!(pixels.batch(&[]).unwrap().is_empty());

    // Sorted, reversed and repeated indices give the same rows, over several tasks.
    let many: Vec<u32> = (0..6000).map(|i| i * 7 % 23).collect();
    let batch = pixels.batch(&many).unwrap();
    assert!(batch.weights.is_none());
    for (i, &index) in many.iter().enumerate() {
        let (view, col, row) = pixels.locate(index).unwrap();
        let ray = views[view].camera.ray(col, row).unwrap();
        assert_eq!((batch.origins[i], batch.directions[i]), (ray.origin, ray.direction));
        assert_eq!((Some(batch.rgba[i]), batch.views[i]), (views[view].image.pixel(col, row), view as u32));
    }
    let mut sorted = many.clone();
    sorted.sort_unstable();
    let rows = |batch: &candle_radfoam::data::Batch| -> Vec<_> {
        let mut rows: Vec<_> =
            (0..batch.len()).map(|i| format!("{:?}{:?}", batch.directions[i], batch.rgba[i])).collect();
        rows.sort();
        rows
    };
    assert_eq!(rows(&batch), rows(&pixels.batch(&sorted).unwrap()));

    let tensors = batch.to_tensors(&Device::Cpu).unwrap();
    assert_eq!(tensors.origins.dims(), [6000, 3]);
    assert_eq!(tensors.rgba.to_vec2::<f32>().unwrap()[17], batch.rgba[17]);
    assert_eq!(tensors.directions.to_vec2::<f32>().unwrap()[5999], batch.directions[5999]);
}

#[test]
fn pixels_without_a_ray_do_not_count() {
    let mut wide = camera(16, 16, [0.0; 3]);
    (wide.fx, wide.fy) = (10.0, 10.0);
    wide.lens = Lens::OpenCv { k1: -0.4, k2: 0.0, p1: 0.0, p2: 0.0 };
    let pixels = Pixels::new(&[view("a", camera(3, 3, [0.0; 3]), 3), view("b", wide, 3)]).unwrap();
    let without = pixels.without_ray();
    assert!(without.len() > 100 && without[0] == 9, "{without:?}");
    let all: Vec<u32> = (0..pixels.len() as u32).collect();
    let batch = pixels.batch(&all).unwrap();
    let weights = batch.weights.as_ref().unwrap();
    for &index in &all {
        assert_eq!(weights[index as usize] == 0.0, without.contains(&index));
    }
    assert!(batch.directions.iter().flatten().all(|v| v.is_finite()));
    assert_eq!(batch.to_tensors(&Device::Cpu).unwrap().weights.unwrap().dims(), [9 + 256]);
}

#[test]
fn lower_resolutions() {
    let views = vec![view("a", camera(8, 6, [1.0, 0.0, 0.0]), 3), view("b", camera(9, 7, [0.0, 2.0, 0.0]), 3)];
    let dataset = Dataset::new("made up", views, vec![view("t", camera(8, 6, [0.0; 3]), 3)], None).unwrap();
    let half = dataset.resized(2).unwrap();
    assert_eq!(Pixels::new(&half.train).unwrap().shapes(), [[3, 4], [4, 5]]);
    assert_eq!((half.extent, half.normalization), (dataset.extent, dataset.normalization));
    assert_eq!(half.test[0].camera.fx, 4.0);
    assert_eq!(half.train[0].camera.world_from_camera, dataset.train[0].camera.world_from_camera);
    assert_eq!(dataset.resized(1).unwrap(), dataset);
    assert_eq!(dataset.resized(1000).unwrap().train[0].image.data.len(), 3);
    assert!(dataset.resized(0).is_err());
}
