//! Are COLMAP's reconstructions read as what they are, of every camera model and in both kinds of files; and are broken
//! ones refused with a message that says what to mend?

mod broken;
mod known;
mod model;

use std::fs;
use std::path::Path;

use candle_radfoam::camera::Lens;
use candle_radfoam::data::{Format, LoadOptions, load, recognise};

use model::{MODELS, Model, POSE, close, read, views, write, write_image};

#[test]
fn every_camera_model_in_both_kinds() {
    let lens = |index: usize, k: [f64; 8]| match MODELS[index].0 {
        "SIMPLE_PINHOLE" | "PINHOLE" => Lens::Pinhole,
        "SIMPLE_RADIAL" => Lens::OpenCv { k1: k[0], k2: 0.0, p1: 0.0, p2: 0.0 },
        "RADIAL" => Lens::OpenCv { k1: k[0], k2: k[1], p1: 0.0, p2: 0.0 },
        "OPENCV" => Lens::OpenCv { k1: k[0], k2: k[1], p1: k[2], p2: k[3] },
        "SIMPLE_RADIAL_FISHEYE" => Lens::Fisheye { k1: k[0], k2: 0.0, k3: 0.0, k4: 0.0 },
        "RADIAL_FISHEYE" => Lens::Fisheye { k1: k[0], k2: k[1], k3: 0.0, k4: 0.0 },
        "OPENCV_FISHEYE" => Lens::Fisheye { k1: k[0], k2: k[1], k3: k[2], k4: k[3] },
        "FULL_OPENCV" => {
            let [k1, k2, p1, p2, k3, k4, k5, k6] = k;
            Lens::FullOpenCv { k1, k2, p1, p2, k3, k4, k5, k6 }
        }
        _ => {
            let [k1, k2, p1, p2, k3, k4, sx1, sy1] = k;
            Lens::ThinPrismFisheye { k1, k2, p1, p2, k3, k4, sx1, sy1 }
        }
    };
    let k = [0.11, -0.02, 0.003, -0.004, 0.05, 0.06, -0.007, 0.008];
    for (index, &(name, _, count)) in MODELS.iter().enumerate() {
        let two = matches!(name, "PINHOLE" | "OPENCV" | "OPENCV_FISHEYE" | "FULL_OPENCV" | "THIN_PRISM_FISHEYE");
        let mut parameters = if two { vec![7.0, 6.0, 4.0, 3.0] } else { vec![7.0, 4.0, 3.0] };
        parameters.extend(&k[..count - parameters.len()]);
        let mut model = Model::small();
        model.cameras[0] = (3, index, 8, 6, parameters);
        let [binary, text] = [read("bin", &model.binary()).unwrap(), read("txt", &model.text()).unwrap()];
        assert_eq!(binary, text, "{name}");
        let camera = binary.0[0].camera;
        let fy = if two { 6.0 } else { 7.0 };
        assert_eq!((camera.width, camera.height, camera.fx, camera.fy), (8, 6, 7.0, fy), "{name}");
        assert_eq!((camera.cx, camera.cy, camera.lens), (4.0, 3.0, lens(index, k)), "{name}");
        assert_eq!(camera.world_from_camera.position, [-1.0, -2.0, -3.0]);
        assert_eq!((binary.0[1].camera.width, binary.0[1].camera.fx), (16, 14.0), "{name}");
    }
}

#[test]
fn places_and_kinds() {
    let small = Model::small();
    let mut other = small.clone();
    other.cameras[0].4[0] = 99.0;
    let focal = |folder: &Path| views(folder).unwrap().0[0].camera.fx;
    for place in ["sparse/0", "sparse", "."] {
        for (ending, files) in [("bin", small.binary()), ("txt", small.text())] {
            let folder = tempfile::tempdir().unwrap();
            write(&folder.path().join(place), ending, &files);
            // The first place counts, whatever else there is.
            if place == "sparse/0" {
                write(&folder.path().join("sparse"), "bin", &other.binary());
            }
            // Newer versions' files beside.
            for name in ["rigs", "frames"] {
                fs::write(folder.path().join(place).join(format!("{name}.{ending}")), "anything").unwrap();
            }
            assert_eq!(focal(folder.path()), 7.0, "{place} {ending}");
        }
    }
    // The binary files are the exact ones; but only if they are all there.
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "txt", &other.text());
    write(folder.path(), "bin", &small.binary());
    assert_eq!(focal(folder.path()), 7.0);
    fs::remove_file(folder.path().join("images.bin")).unwrap();
    assert_eq!(focal(folder.path()), 99.0);
    fs::remove_file(folder.path().join("images.txt")).unwrap();
    let error = views(folder.path()).unwrap_err().to_string();
    assert!(error.contains("images.bin"), "{error}");
}

/// Cameras alone are no capture where there is another one: a whole reconstruction, or other files.
#[test]
fn cameras_alone_beside_a_capture() {
    let folder = tempfile::tempdir().unwrap();
    let small = Model::small();
    let mut other = small.clone();
    other.cameras[0].4[0] = 99.0;
    fs::create_dir_all(folder.path().join("sparse/0")).unwrap();
    fs::write(folder.path().join("sparse/0/cameras.bin"), &other.binary()[0]).unwrap();
    assert!(recognise(folder.path()).unwrap_err().to_string().contains("images.bin"));
    for name in ["transforms.json", "transforms_train.json"] {
        let path = folder.path().join(name);
        fs::write(&path, r#"{"fl_x": 7, "w": 8, "h": 6, "frames": []}"#).unwrap();
        assert_eq!(recognise(folder.path()).unwrap().format, Format::Transforms, "{name}");
        fs::remove_file(path).unwrap();
    }
    write(folder.path(), "txt", &small.text());
    fs::write(folder.path().join("transforms.json"), r#"{"frames": []}"#).unwrap();
    assert_eq!(views(folder.path()).unwrap().0[0].camera.fx, 7.0);
}

#[test]
fn models_that_are_not_read_are_refused_by_name() {
    let names = ["SIMPLE_DIVISION", "DIVISION", "SIMPLE_FISHEYE", "FISHEYE", "EUCM", "EQUIRECTANGULAR"];
    for (id, name) in (12_u32..).zip(names) {
        let mut files = Model::small().binary();
        files[0][12..16].copy_from_slice(&id.to_le_bytes());
        let error = read("bin", &files).unwrap_err().to_string();
        assert!(error.contains("camera 3: model") && error.ends_with(&format!("found {name}")), "{error}");
    }
}

/// Views of another file's split are those of the whole name, or of a last part that only one has.
#[test]
fn splits_of_folders_with_the_same_names() {
    let mut model = Model::small();
    let names = ["left/a.png", "right/a.png", "left/b.png"];
    model.images = names.into_iter().zip(1..).map(|(name, id)| (id, POSE, 3, name.as_bytes().to_vec(), 0)).collect();
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("sparse/0"), "bin", &model.binary());
    for (_, _, _, name, _) in &model.images {
        write_image(&folder.path().join("images").join(String::from_utf8_lossy(name).as_ref()), 8, 6);
    }
    let cases = [
        ("left/a.png", Some("left/a.png")),
        ("./images/right/a.png", Some("right/a.png")),
        ("elsewhere/b.png", Some("left/b.png")),
        ("a.png", None),
        ("elsewhere/a.png", None),
    ];
    for (listed, expected) in cases {
        let split = format!(r#"{{"frames": [{{"file_path": "{listed}"}}]}}"#);
        fs::write(folder.path().join("transforms_test.json"), split).unwrap();
        assert_eq!(recognise(folder.path()).unwrap().has_split, expected.is_some(), "{listed}");
        let dataset = load(folder.path(), &LoadOptions::default()).unwrap();
        if let Some(expected) = expected {
            let found: Vec<_> = dataset.test.iter().map(|view| view.name.as_str()).collect();
            assert_eq!(found, [expected], "{listed}");
        }
    }
}

#[test]
fn an_image_is_not_its_own_mask() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("photos/a.png");
    let mut model = Model::small();
    model.images.truncate(1);
    model.images[0].3 = path.to_string_lossy().into_owned().into_bytes();
    write(&folder.path().join("sparse/0"), "bin", &model.binary());
    write_image(&path, 8, 6);
    image::RgbImage::new(8, 6).save(&path).unwrap();
    let masked = || load(folder.path(), &LoadOptions::default()).unwrap().num_masked;
    assert_eq!(masked(), 0);
    // Its mask is where masks are.
    fs::create_dir(folder.path().join("masks")).unwrap();
    image::GrayImage::from_fn(8, 6, |x, _| image::Luma([u8::from(x > 0)]))
        .save(folder.path().join("masks/a.png"))
        .unwrap();
    assert_eq!(masked(), 6);
}

#[test]
fn text_of_every_hand() {
    let [cameras, images, points] = Model::small().text();
    let expected = read("txt", &Model::small().text()).unwrap();
    let edit =
        |file: &Vec<u8>, from: &str, to: &str| String::from_utf8(file.clone()).unwrap().replace(from, to).into_bytes();
    let cut = |file: &Vec<u8>| file[..file.len() - 1].to_vec();
    let cases = [
        ("lines of Windows", [edit(&cameras, "\n", "\r\n"), edit(&images, "\n", "\r\n"), edit(&points, "\n", "\r\n")]),
        ("no last line end", [cut(&cameras), cut(&images), cut(&points)]),
        ("no last line at all", [cameras.clone(), cut(&cut(&images)), points.clone()]),
        (
            "comments between",
            [
                edit(&cameras, "4 SIMPLE", "\n# four\n\n  4 SIMPLE"),
                edit(&images, "2 0.5", "\n#\n2 0.5"),
                points.clone(),
            ],
        ),
        ("tabs and blanks", [edit(&cameras, " ", "\t "), edit(&images, " ", "  "), edit(&points, "\n", " \t\n")]),
        ("a byte-order mark", [[b"\xef\xbb\xbf", &cameras[..]].concat(), images.clone(), points.clone()]),
        ("no points", [cameras.clone(), images.clone(), b"# none\n".to_vec()]),
        ("numbers of another hand", [edit(&cameras, "7.0", "+7e0"), edit(&images, "1.0 0.0", "1 -0"), points.clone()]),
    ];
    let failures: Vec<_> = cases
        .iter()
        .filter_map(|(name, files)| match read("txt", files) {
            Ok(found) if found == expected => None,
            other => Some(format!("{name}: {other:?}")),
        })
        .collect();
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn images_where_they_are() {
    let mut model = Model::small();
    model.cameras[0] = (3, 1, 80, 60, vec![70.0, 60.0, 40.0, 30.0]);
    model.cameras[1] = (4, 2, 160, 120, vec![140.0, 80.0, 60.0, 0.1]);
    model.images[0].3 = b"left eye/a b.png".to_vec();
    model.images[1].3 = "droite/\u{e9}t\u{e9}.png".as_bytes().to_vec();
    for (ending, files) in [("bin", model.binary()), ("txt", model.text())] {
        for (images, factor) in [("images", 1), ("images_2", 2), ("images_4", 4), (".", 1)] {
            let folder = tempfile::tempdir().unwrap();
            write(&folder.path().join("sparse/0"), ending, &files);
            write_image(&folder.path().join(images).join("left eye/a b.png"), 80 / factor, 60 / factor);
            write_image(&folder.path().join(images).join("droite/\u{e9}t\u{e9}.png"), 160 / factor, 120 / factor);
            // A smaller copy changes nothing.
            if images == "images" {
                write_image(&folder.path().join("images_8/left eye/a b.png"), 1, 1);
            }
            let (views, skipped) = views(folder.path()).unwrap();
            assert!(skipped.is_empty(), "{skipped:?}");
            let scale = f64::from(factor);
            let found: Vec<_> =
                views.iter().map(|view| (view.name.as_str(), view.camera.width, view.camera.fx)).collect();
            let expected = [
                ("droite/\u{e9}t\u{e9}.png", 160 / factor, 140.0 / scale),
                ("left eye/a b.png", 80 / factor, 70.0 / scale),
            ];
            assert_eq!(found, expected, "{images}");
            assert!(views.iter().all(|view| view.image.is_some()), "{images}");
            let dataset = load(folder.path(), &LoadOptions::default()).unwrap();
            let text = if ending == "txt" { ", text" } else { "" };
            let smaller = if factor == 1 { String::new() } else { format!(", {images}") };
            assert_eq!(dataset.layout, format!("COLMAP (sparse/0, 2 cameras{text}{smaller})"));
        }
    }
}

#[test]
fn a_start_cloud_with_colours_and_tracks() {
    let clouds = [("bin", Model::small().binary()), ("txt", Model::small().text())].map(|(ending, files)| {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("sparse"), ending, &files);
        write_image(&folder.path().join("images/a.png"), 8, 6);
        let dataset = load(folder.path(), &LoadOptions::default()).unwrap();
        assert_eq!(dataset.skipped.len(), 1);
        let cloud = dataset.point_cloud.unwrap();
        assert!(close(dataset.normalization.invert(cloud.points[1]), [-1.5, 0.25, 8.0], 1e-12));
        cloud
    });
    assert_eq!(clouds[0], clouds[1]);
    assert_eq!(clouds[0].colors, Some(vec![[1, 2, 3], [255, 0, 9]]));
    assert_eq!(clouds[0].tracks, Some(vec![2, 0]));
}

#[test]
fn the_second_of_a_name_is_left_out() {
    let mut model = Model::small();
    model.images.push((7, POSE, 3, b"a.png".to_vec(), 0));
    for (ending, files) in [("bin", model.binary()), ("txt", model.text())] {
        let (views, skipped) = read(ending, &files).unwrap();
        assert_eq!(views.len(), 2);
        assert_eq!(skipped[0].name, "a.png");
        assert_eq!(skipped[0].reason, "image 7 has the name of image 1");
    }
}

#[cfg(unix)]
#[test]
fn names_that_are_not_utf_8() {
    use std::os::unix::ffi::OsStrExt;
    let latin = b"\xe9t\xe9.png";
    let mut model = Model::small();
    model.images[0].3 = latin.to_vec();
    model.images[1].3 = b"\xe8t\xe8.png".to_vec();
    for (ending, files) in [("bin", model.binary()), ("txt", model.text())] {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), ending, &files);
        write_image(&folder.path().join("images/plain.png"), 8, 6);
        let path = folder.path().join("images").join(std::ffi::OsStr::from_bytes(latin));
        if fs::rename(folder.path().join("images/plain.png"), &path).is_err() {
            println!("skipped: the file system has no such names");
            return;
        }
        let (views, skipped) = views(folder.path()).unwrap();
        let found: Vec<_> = views.iter().map(|view| (view.name.as_str(), view.image.is_some())).collect();
        assert_eq!(found, [(r"\xe8t\xe8.png", false), (r"\xe9t\xe9.png", true)], "{skipped:?}");
    }
}
