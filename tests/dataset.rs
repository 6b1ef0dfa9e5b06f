//! Does the library hold outside a capture's folder: datasets made by hand, settings, cameras without images?

#[path = "common/folders.rs"]
mod folders;

use std::fs;

use candle_radfoam::data::{
    Bitmap, Dataset, Format, LoadOptions, Loader, Normalization, Pixels, Resize, SamplerConfig, TestViews, list_views,
    load,
};
use folders::{camera, orbit, view, write_capture};
use serde_json::json;

fn some_view(name: &str, x: f64) -> candle_radfoam::data::View {
    view(name, camera(8, 6, [x, 0.0, 0.0]), 3)
}

#[test]
fn datasets_that_cannot_be_are_refused() {
    let said = |train: Vec<_>, test: Vec<_>| Dataset::new("by hand", train, test, None).map_err(|e| e.to_string());
    assert!(said(vec![some_view("a", 0.0)], vec![some_view("b", 1.0)]).is_ok());
    let error = said(vec![], vec![some_view("b", 1.0)]).unwrap_err();
    assert!(error.contains("train views"), "{error}");
    for (what, spoil) in [
        ("7x6", (|view| view.camera.width = 7) as fn(&mut candle_radfoam::data::View)),
        ("143 bytes", |view| view.image.data.truncate(143)),
        ("48 pixels", |view| view.mask = Bitmap::from_fn(47, |_| true).ok()),
        ("fx", |view| view.camera.fx = f64::NAN),
    ] {
        for held_out in [false, true] {
            let (mut broken, good) = (some_view("broken", 1.0), some_view("good", 0.0));
            spoil(&mut broken);
            let (train, test) = if held_out { (vec![good], vec![broken]) } else { (vec![good, broken], vec![]) };
            let error = said(train, test).unwrap_err();
            assert!(error.contains(what), "{what}: {error}");
        }
    }
}

#[test]
fn settings_are_written_as_they_are_read() {
    for text in ["default", "every:8:0", "every:5:4", "a,b c,ü.png"] {
        let parsed: TestViews = text.parse().unwrap();
        assert_eq!(parsed.to_string(), text);
    }
    for text in ["none", "4", "640x480"] {
        assert_eq!(text.parse::<Resize>().unwrap().to_string(), text);
    }
    let formats = [Format::Colmap, Format::Transforms, Format::Llff].map(|format| format.to_string());
    assert_eq!(formats, ["COLMAP", "transforms.json", "LLFF"]);
    assert_eq!(Normalization::default(), Normalization::IDENTITY);

    // What the parser would not give is refused all the same.
    let folder = tempfile::tempdir().unwrap();
    write_capture(folder.path(), 3, 1.0, 0.0, json!({ "camera_angle_x": 0.8 }));
    for (n, offset) in [(0, 0), (3, 3), (2, usize::MAX)] {
        let options = LoadOptions { test_views: TestViews::Every { n, offset }, ..LoadOptions::default() };
        let error = load(folder.path(), &options).unwrap_err().to_string();
        assert!(error.contains("test_views"), "{error}");
    }
}

/// Cameras of images that are not there have the size that the file gives, or one that they are given.
#[test]
fn cameras_without_images() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("views.json");
    let listed = |top: serde_json::Value, size| {
        let mut file = top;
        file["frames"] = json!([{ "file_path": "nowhere", "transform_matrix": orbit(0.3, [0.0; 3], 1.0, 0.0) }]);
        fs::write(&path, file.to_string()).unwrap();
        list_views(&path, Resize::Downsample(2), size).map(|(views, _)| views[0].camera).map_err(|e| e.to_string())
    };
    let shape = |camera: candle_radfoam::camera::Camera| (camera.width, camera.height, camera.fx.round() as i64);
    let angle = 2.0 * 0.5_f64.atan();
    // The file's size is reduced; a size that is given is not.
    let given = Some((100, 50));
    assert_eq!(listed(json!({ "fl_x": 60, "w": 80, "h": 40 }), given).map(shape), Ok((40, 20, 30)));
    assert_eq!(listed(json!({ "camera_angle_x": angle, "w": 80, "h": 40 }), None).map(shape), Ok((40, 20, 40)));
    assert_eq!(listed(json!({ "camera_angle_x": angle }), given).map(shape), Ok((100, 50, 100)));
    assert_eq!(listed(json!({ "camera_model": "EQUIRECTANGULAR" }), given).map(shape), Ok((100, 50, 16)));
    // Pixels of a picture of unknown size say nothing about one of another.
    for (top, size) in [(json!({ "fl_x": 60 }), given), (json!({ "camera_angle_x": angle }), None)] {
        let error = listed(top, size).unwrap_err();
        assert!(error.contains("w, h") && error.contains("nowhere"), "{error}");
    }
}

/// A scale without a transform is one, too, and leads back.
#[test]
fn an_applied_scale_alone_is_undone() {
    let folder = tempfile::tempdir().unwrap();
    write_capture(folder.path(), 3, 1.0, 0.0, json!({ "camera_angle_x": 0.8, "applied_scale": 0.25 }));
    let dataset = load(folder.path(), &LoadOptions::default()).unwrap();
    let world = dataset.normalization.invert([0.1, 0.2, -0.3]);
    let original = dataset.original_position([0.1, 0.2, -0.3]);
    for axis in 0..3 {
        assert!((original[axis] - world[axis] / 0.25).abs() < 1e-9, "{original:?}, {world:?}");
    }
}

#[test]
fn a_loader_says_where_its_time_went() {
    let pixels = Pixels::new(&[some_view("a", 0.0)]).unwrap();
    let mut loader = Loader::new(pixels, SamplerConfig { batch_size: 16, ..SamplerConfig::default() }).unwrap();
    loader.next_batch().unwrap();
    loader.flush().unwrap();
    let seconds = loader.seconds();
    assert!(seconds.draw > 0.0 && seconds.gather > 0.0 && seconds.wait >= 0.0 && seconds.update >= 0.0, "{seconds:?}");
}
