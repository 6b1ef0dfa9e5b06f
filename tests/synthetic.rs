//! Is a synthetic capture what it says: the same bytes for any number of threads, whole, with true depth and alpha?

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use candle_radfoam::Error;
use candle_radfoam::data::synthetic::{SyntheticOptions, is_capture_of, write_capture};
use serde_json::Value;

fn small() -> SyntheticOptions {
    SyntheticOptions { size: 48, train_views: 5, test_views: 3, samples: 3, seed: 4 }
}

fn quiet(_: usize, _: usize) {}

fn write_with_threads(dir: &Path, options: &SyntheticOptions, threads: usize) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
    pool.install(|| write_capture(dir, options, &quiet)).expect("a capture");
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for folder in [dir.to_path_buf(), dir.join("train"), dir.join("test")] {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_file() {
                let name = path.strip_prefix(dir).expect("a path inside").display().to_string();
                found.insert(name, fs::read(&path).expect("a file"));
            }
        }
    }
    found
}

fn transforms(dir: &Path, split: &str) -> Value {
    serde_json::from_slice(&fs::read(dir.join(format!("transforms_{split}.json"))).expect("a file")).expect("JSON")
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

/// The shape and the values of an `.npy` file, read as its specification says.
fn read_npy(path: &Path) -> (String, Vec<f32>) {
    let bytes = fs::read(path).expect("a file");
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00", "the magic of NumPy");
    let header = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert_eq!((10 + header) % 64, 0, "NumPy aligns its data to 64 bytes");
    let text = String::from_utf8(bytes[10..10 + header].to_vec()).expect("text");
    assert!(text.ends_with('\n'), "the header ends its line");
    let values = bytes[10 + header..].as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    (text.trim_end().to_string(), values)
}

#[test]
fn same_bytes_for_any_number_of_threads() {
    let (one, three) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    write_with_threads(one.path(), &small(), 1);
    write_with_threads(three.path(), &small(), 3);
    let (one, three) = (files(one.path()), files(three.path()));
    assert_eq!(one.keys().collect::<Vec<_>>(), three.keys().collect::<Vec<_>>());
    assert_eq!(one.len(), 2 * (5 + 3) + 2, "a picture and a depth a view, two transforms, nothing left over");
    let different: Vec<_> = one.keys().filter(|k| one[*k] != three[*k]).collect();
    assert!(different.is_empty(), "different: {different:?}");
}

#[test]
fn the_seed_matters() {
    let (a, b) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    write_capture(a.path(), &small(), &quiet).expect("a capture");
    write_capture(b.path(), &SyntheticOptions { seed: 5, ..small() }, &quiet).expect("a capture");
    assert_ne!(files(a.path())["train/r_0.png"], files(b.path())["train/r_0.png"]);
}

#[test]
fn it_is_recognised_only_when_whole_and_the_same() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    assert!(!is_capture_of(dir, &small()), "an empty folder");
    write_capture(dir, &small(), &quiet).expect("a capture");
    assert!(is_capture_of(dir, &small()), "just written");
    for other in [
        SyntheticOptions { size: 49, ..small() },
        SyntheticOptions { seed: 5, ..small() },
        SyntheticOptions { test_views: 4, ..small() },
    ] {
        assert!(!is_capture_of(dir, &other), "taken for {other:?}");
    }
    for name in ["train/r_4.png", "test/r_0_depth.npy", "transforms_test.json"] {
        let kept = fs::read(dir.join(name)).expect("a file");
        fs::remove_file(dir.join(name)).expect("a file to remove");
        assert!(!is_capture_of(dir, &small()), "{name} is missing");
        fs::write(dir.join(name), kept).expect("the file back");
    }
    assert!(is_capture_of(dir, &small()), "all back");
    let fewer = SyntheticOptions { train_views: 4, ..small() };
    write_capture(dir, &fewer, &quiet).expect("written again, over its own kind");
    assert!(is_capture_of(dir, &fewer) && !is_capture_of(dir, &small()));
}

#[test]
fn a_capture_of_someone_else_is_left_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let theirs = dir.path().join("transforms_test.json");
    fs::write(&theirs, "{\"frames\": []}").expect("a file");
    let error = write_capture(dir.path(), &small(), &quiet).expect_err("must refuse");
    assert!(error.to_string().contains("transforms_test.json"), "{error}");
    assert_eq!(fs::read_to_string(&theirs).expect("still there"), "{\"frames\": []}");
}

#[test]
fn options_out_of_range_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    for options in [
        SyntheticOptions { size: 0, ..small() },
        SyntheticOptions { size: 10_000, ..small() },
        SyntheticOptions { train_views: 0, ..small() },
        SyntheticOptions { samples: 0, ..small() },
        SyntheticOptions { samples: 17, ..small() },
    ] {
        let error = write_capture(dir.path(), &options, &quiet).expect_err("out of range");
        assert!(matches!(error, Error::Config { .. }), "{options:?}: {error}");
    }
}

/// The cameras are rigid and look at the scene, and the depth is that of the table where the table is seen: its
/// top is the plane z = 0, and that is a closed form of the picture's geometry alone.
#[test]
fn cameras_and_depth_are_true() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    let options = small();
    write_capture(dir, &options, &quiet).expect("a capture");
    let size = f64::from(options.size);
    let mut failures = Vec::new();
    let (mut on_table, mut partial) = (0, 0);
    for split in ["train", "test"] {
        let json = transforms(dir, split);
        let focal = 0.5 * size / (0.5 * number(&json["camera_angle_x"])).tan();
        for frame in json["frames"].as_array().expect("frames") {
            let name = frame["file_path"].as_str().expect("a path");
            let m: Vec<Vec<f64>> = frame["transform_matrix"]
                .as_array()
                .expect("a matrix")
                .iter()
                .map(|row| row.as_array().expect("a row").iter().map(number).collect())
                .collect();
            for (a, b) in [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)] {
                let dot: f64 = (0..3).map(|row| m[row][a] * m[row][b]).sum();
                if (dot - f64::from(a == b)).abs() > 1e-12 {
                    failures.push(format!("{name}: columns {a} and {b} have product {dot}"));
                }
            }
            let depth_path = dir.join(frame["depth_file_path"].as_str().expect("a path"));
            let (header, depth) = read_npy(&depth_path);
            assert_eq!(header, "{'descr': '<f4', 'fortran_order': False, 'shape': (48, 48), }");
            let picture = image::open(dir.join(format!("{name}.png"))).expect("a picture");
            assert_eq!(picture.color(), image::ColorType::Rgba8, "{name}");
            let picture = picture.to_rgba8();
            assert_eq!(depth.len(), picture.pixels().len(), "{name}: a depth for each pixel");
            let centre = depth[depth.len() / 2 + 24];
            if !(2.5..4.6).contains(&centre) {
                failures.push(format!("{name}: the middle is {centre} away"));
            }
            for ((x, y, pixel), &t) in picture.enumerate_pixels().zip(&depth) {
                let c = [(f64::from(x) + 0.5 - 0.5 * size) / focal, (0.5 * size - f64::from(y) - 0.5) / focal, -1.0];
                let length = c.iter().map(|v| v * v).sum::<f64>().sqrt();
                let world =
                    |row: usize| m[row][3] + f64::from(t) / length * (0..3).map(|k| m[row][k] * c[k]).sum::<f64>();
                let p = [world(0), world(1), world(2)];
                if t > 0.0 && (p[0].hypot(p[1]) > 1.3001 || p[2] < -0.1401 || p[2] > 1.2) {
                    failures.push(format!("{name} ({x}, {y}): depth {t} leads out of the scene, to {p:?}"));
                }
                if t > 0.0 && p[2].abs() < 1e-6 {
                    on_table += 1;
                }
                if t > 0.0 && pixel[3] == 0 {
                    failures.push(format!("{name} ({x}, {y}): depth {t} in a transparent pixel"));
                }
                partial += usize::from(t == 0.0 && (60..250).contains(&pixel[3]));
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    // f32 depth of about 4 leaves 2e-7 in the height: a good part of all pixels lies on the table's plane.
    assert!(on_table > 2500, "only {on_table} pixels lie on the table");
    // The glass before the empty background, which has no depth: more than an antialiased outline.
    assert!(partial > 100, "only {partial} translucent pixels");
}

#[test]
fn progress_counts_every_view_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let seen = std::sync::Mutex::new(Vec::new());
    let note = |done, of| seen.lock().expect("a lock").push((done, of));
    write_capture(dir.path(), &small(), &note).expect("a capture");
    let mut seen = seen.into_inner().expect("a lock");
    seen.sort_unstable();
    assert_eq!(seen, (1..=8).map(|done| (done, 8)).collect::<Vec<_>>());
}
