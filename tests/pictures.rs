//! Do the examples' pictures, plots and run folders hold what they were given?

#[path = "../examples/support/mod.rs"]
mod support;

use std::fs;

use candle_radfoam::camera::{Camera, Lens, Pose};
use candle_radfoam::data::{Bitmap, Image, View};
use image::Rgb;
use serde_json::json;
use support::baseline::{baselines, mean_color};
use support::checkpoint::{PosedView, file_stems, parse_size};
use support::folder::{Existing, JsonLines, RunFolder, write_json, write_text};
use support::picture::{comparison, depth, enlarged, error_map, from_rgb, most_error, save, sheet};
use support::plot::{Series, plot_curves};

#[test]
fn a_comparison_has_three_panels_and_a_gap() {
    let render = [0.0, 0.5, 1.0].repeat(4);
    let truth = [0.1, 0.5, 0.9].repeat(4);
    let picture = comparison(&render, &truth, 2, 2).expect("a picture");
    assert_eq!(picture.dimensions(), (2 + 4 + 2 + 4 + 2, 2));
    let expected = [(0, [0, 128, 255]), (3, [255, 255, 255]), (6, [26, 128, 230]), (12, [128, 0, 127])];
    for (x, colour) in expected {
        let Rgb(found) = *picture.get_pixel(x, 1);
        // The difference of 1 and 0.9 in f32 lies a rounding below a half.
        let off = found.iter().zip(colour).map(|(a, b)| a.abs_diff(b)).max();
        assert!(off <= Some(1), "x = {x}: found {found:?}, expected {colour:?}");
    }
}

#[test]
fn a_map_ignores_stray_values_and_marks_missing_ones() {
    let mut far = vec![2.0f32; 100];
    for (i, d) in far.iter_mut().enumerate() {
        *d += i as f32 * 0.01;
    }
    far[50] = 1e9;
    let clean = depth(&far, 10, 10).expect("a picture");
    let near_end = clean.get_pixel(0, 0);
    let middle = clean.get_pixel(9, 4);
    assert_ne!(near_end, middle, "one stray value flattened the map");
    let grey = depth(&[0.0, f32::NAN, f32::INFINITY, 1.0], 4, 1).expect("a picture");
    assert_eq!(grey.get_pixel(0, 0), grey.get_pixel(1, 0));
    assert_eq!(grey.get_pixel(0, 0), grey.get_pixel(2, 0));
    assert_ne!(grey.get_pixel(0, 0), grey.get_pixel(3, 0));

    let error = error_map(&[-1.0, 0.0, 0.5, 1.0], 4, 1, 1.0).expect("a picture");
    let light = |x| error.get_pixel(x, 0).0.iter().map(|&v| u32::from(v)).sum::<u32>();
    assert!(light(1) < light(2) && light(2) < light(3), "brighter where the error is larger");
    assert_eq!(error.get_pixel(0, 0), grey.get_pixel(0, 0), "not seen yet");
    error_map(&[0.0; 4], 2, 2, 0.0).expect("a map without any error");
    error_map(&[-1.0; 4], 2, 2, 0.0).expect("a map that saw nothing");
}

#[test]
fn error_maps_share_a_scale_and_can_be_enlarged() {
    let maps = [[0.1f32, 0.2], [0.4, -1.0]];
    let most = most_error(maps.iter().flatten().copied());
    assert_eq!(most, 0.4, "the largest error of all maps, without what was not seen yet");
    assert_eq!(most_error([f32::NAN, -0.0].into_iter()), 0.0, "no error at all");
    let [first, second] = maps.map(|map| error_map(&map, 2, 1, most).expect("a picture"));
    assert_ne!(first.get_pixel(1, 0), second.get_pixel(0, 0), "each map has a scale of its own");
    let large = enlarged(&first, 3);
    assert_eq!(large.dimensions(), (6, 3));
    for (x, y) in [(0, 0), (2, 2), (3, 0), (5, 2)] {
        assert_eq!(large.get_pixel(x, y), first.get_pixel(x / 3, 0), "({x}, {y})");
    }
}

#[test]
fn views_have_files_of_their_own() {
    assert_eq!(file_stems(&["test/a.png", "test/b.png"]), ["a", "b"]);
    assert_eq!(file_stems(&["left/a.png", "right/a.png"]), ["0000_left_a.png", "0001_right_a.png"]);
}

#[test]
fn a_size_is_width_x_height() {
    assert_eq!(parse_size("640x480").expect("a size"), (640, 480));
    for text in ["4", "none", "640", "0x3", "640x", "x", ""] {
        assert!(parse_size(text).is_err(), "{text:?}");
    }
}

#[test]
fn wrong_sizes_are_refused() {
    assert!(from_rgb(&[0.0; 11], 2, 2).is_err());
    assert!(from_rgb(&[0.0; 13], 2, 2).is_err());
    assert!(comparison(&[0.0; 12], &[0.0; 9], 2, 2).is_err());
    assert!(depth(&[0.0; 5], 2, 2).is_err());
    assert!(sheet(&[], 3).is_err());
}

#[test]
fn a_saved_sheet_reads_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let one = |level: f32| from_rgb(&[level; 12], 2, 2).expect("a picture");
    let picture = sheet(&[one(0.0), one(0.2), one(0.4)], 2).expect("a sheet");
    assert_eq!(picture.dimensions(), (8, 8));
    let path = dir.path().join("a/b.png");
    save(&path, &picture).expect("saved");
    assert_eq!(image::open(&path).expect("a picture").to_rgb8(), picture);
    assert_eq!(fs::read_dir(dir.path().join("a")).expect("a folder").count(), 1, "nothing is left beside it");
}

#[test]
fn curves_become_svg_with_their_names() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("loss.svg");
    let falling = |rate: f64| (0..200).map(|i| (f64::from(i) * 10.0, 0.3 * (-rate * f64::from(i)).exp())).collect();
    let mut series = vec![
        Series { name: "train".into(), points: falling(0.02) },
        Series { name: "test & more".into(), points: falling(0.015) },
    ];
    series[0].points.push((f64::NAN, 1.0));
    series[0].points.push((5.0, f64::INFINITY));
    series[0].points.push((5.0, 0.0));
    for log_y in [true, false] {
        plot_curves(&path, "Loss", "step", "loss", &series, log_y).expect("a plot");
        let svg = fs::read_to_string(&path).expect("text");
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for text in ["Loss", "step", "train", "test &amp; more", "polyline"] {
            assert!(svg.contains(text), "log {log_y}: no {text:?}");
        }
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "a point that cannot be drawn was drawn");
    }
    let one = [Series { name: "one".into(), points: vec![(3.0, 3.0)] }];
    plot_curves(&path, "t", "x", "y", &one, false).expect("one point");
    plot_curves(&path, "t", "x", "y", &one, true).expect("one point");
    let none = [Series { name: "none".into(), points: vec![(0.0, -1.0)] }];
    assert!(plot_curves(&path, "t", "x", "y", &none, true).is_err());
}

#[test]
fn a_taken_folder_is_refused_resumed_or_numbered() {
    let root = tempfile::tempdir().expect("a folder");
    let create = |existing| RunFolder::create(root.path(), "run", existing);
    let first = create(Existing::Refuse).expect("a new folder");
    let in_use = create(Existing::Refuse).expect_err("held").to_string();
    assert!(in_use.contains("in use"), "{in_use}");
    drop(first);
    let first = create(Existing::Refuse).expect("still empty");
    write_text(&first.file("log/notes.txt").expect("a path"), "hello").expect("written");
    assert_eq!(fs::read_to_string(first.path().join("log/notes.txt")).expect("text"), "hello\n");
    let error = create(Existing::Refuse).expect_err("taken");
    assert!(error.to_string().contains("resume"), "{error}");
    let in_use = RunFolder::open(first.path().into()).expect_err("in use").to_string();
    assert!(in_use.contains("in use") && in_use.contains(&std::process::id().to_string()), "{in_use}");
    let path = first.path().to_path_buf();
    drop(first);
    assert_eq!(RunFolder::open(path.clone()).expect("free again").path(), path);
    assert_eq!(create(Existing::Number).expect("numbered").path(), root.path().join("run-2"));
    for name in ["", "a/b", "..", "."] {
        assert!(RunFolder::create(root.path(), name, Existing::Number).is_err(), "{name:?}");
    }
}

#[test]
fn lines_survive_a_crash_and_a_step_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("log.jsonl");
    let mut lines = JsonLines::create(&path).expect("a file");
    for step in 0..5 {
        lines.write(&json!({ "step": step })).expect("a line");
    }
    drop(lines);
    // A killed run leaves half a line.
    let whole = fs::read_to_string(&path).expect("text");
    // So does a disk that lost some, in the middle.
    let damaged = whole.replace("{\"step\":1}", "{\"step\":1}\n{\"st\0\0\0");
    fs::write(&path, format!("{damaged}{{\"step\": 5, \"lo")).expect("half a line");
    let mut lines = JsonLines::resume(&path, |line| line["step"].as_u64() < Some(3)).expect("resumed");
    lines.write(&json!({ "step": 3 })).expect("a line");
    let expected: String = (0..4).map(|step| format!("{{\"step\":{step}}}\n")).collect();
    assert_eq!(fs::read_to_string(&path).expect("text"), expected);
    JsonLines::create(&path).expect("begun again");
    assert_eq!(fs::read_to_string(&path).expect("text"), "");

    write_json(&dir.path().join("a.json"), &json!({ "a": 1 })).expect("written");
    assert_eq!(fs::read_to_string(dir.path().join("a.json")).expect("text"), "{\n  \"a\": 1\n}\n");
}

/// A view of `side` x `side` pixels from (`x`, 0, 0), all of them of one premultiplied colour.
fn plain(name: &str, x: f64, side: u32, pixel: &[u8]) -> View {
    let (size, center) = (f64::from(side), 0.5 * f64::from(side));
    let world_from_camera = Pose { position: [x, 0.0, 0.0], ..Pose::IDENTITY };
    let (lens, cx, cy) = (Lens::Pinhole, center, center);
    let camera = Camera { width: side, height: side, fx: size, fy: size, cx, cy, lens, world_from_camera };
    let data = pixel.repeat((side * side) as usize);
    View::new(name, camera, Image::new(side, side, pixel.len(), data).expect("an image"))
}

/// Pixels count once each, whichever view they are of; over the background; and only where they are in use.
#[test]
fn the_mean_colour_is_of_the_pixels_in_use() {
    let close = |found: [f32; 3], expected: [f64; 3]| {
        let off = found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b / 255.0).abs()).fold(0.0, f64::max);
        assert!(off < 1e-6, "{found:?}, expected {expected:?} / 255");
    };
    // 4 pixels and 16.
    let views = [plain("small", 0.0, 2, &[255, 0, 50]), plain("large", 1.0, 4, &[0, 100, 50])];
    close(mean_color(&views, [0.0; 3]).expect("a colour"), [51.0, 80.0, 50.0]);
    // Half covered, premultiplied: the background is what shows through.
    let glass = [plain("glass", 0.0, 2, &[102, 51, 0, 102])];
    close(mean_color(&glass, [0.0; 3]).expect("a colour"), [102.0, 51.0, 0.0]);
    close(mean_color(&glass, [1.0, 1.0, 0.0]).expect("a colour"), [255.0, 204.0, 0.0]);
    // A mask that leaves one pixel of a view's 16.
    let mut masked = views;
    masked[1].mask = Some(Bitmap::from_fn(16, |pixel| pixel == 5).expect("a mask"));
    close(mean_color(&masked, [0.0; 3]).expect("a colour"), [204.0, 20.0, 50.0]);
    // A lens that sees a part of the picture only: the rest is not black, it is nothing.
    let mut fisheye = [plain("fisheye", 0.0, 40, &[9, 9, 9])];
    fisheye[0].camera.lens = Lens::fisheye([0.0; 4], [0.0; 2]);
    (fisheye[0].camera.fx, fisheye[0].camera.fy) = (4.0, 4.0);
    let out_of_sight = fisheye[0].camera.pixels_without_ray();
    assert!(!out_of_sight.is_empty() && out_of_sight.len() < 1600);
    out_of_sight.iter().for_each(|&pixel| fisheye[0].image.data[3 * pixel as usize..][..3].fill(255));
    close(mean_color(&fisheye, [1.0; 3]).expect("a colour"), [9.0; 3]);
    masked.iter_mut().for_each(|view| view.mask = Bitmap::from_fn(view.image.data.len() / 3, |_| false).ok());
    assert!(mean_color(&masked, [0.0; 3]).is_err(), "the mean of nothing");
}

/// The mean colour is as far off as it is by hand; of the nearest view, a copy is perfect.
#[test]
fn baselines_score_what_they_say() {
    let train = [plain("far", 0.0, 16, &[0, 0, 0]), plain("near", 1.0, 16, &[100, 100, 100])];
    let test = vec![PosedView::from(plain("test", 0.9, 16, &[100, 100, 100]))];
    let scores = baselines(&train, &test, [1.0; 3]).expect("scores");
    let expected = 20.0 * (255.0_f64 / 50.0).log10();
    assert!((scores[0].1.psnr_db - expected).abs() < 1e-4, "{} dB, expected {expected}", scores[0].1.psnr_db);
    assert!(scores[1].1.psnr_db > 90.0 && scores[1].1.ssim > 0.999, "{:?}", scores[1]);
}
