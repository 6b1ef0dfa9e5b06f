//! Are `transforms.json` of every tool and LLFF's `poses_bounds.npy` read as their tools mean them?

#[path = "common/folders.rs"]
mod folders;

use std::f64::consts::{PI, TAU};
use std::fs;
use std::path::Path;

use candle_radfoam::camera::Lens;
use candle_radfoam::data::{Format, LoadOptions, Normalization, Pixels, Resize, list_views, load, recognise};
use candle_radfoam::exchange::{PointCloud, write_point_cloud};
use folders::{names, norm, options, orbit, simple, write_capture, write_png};
use serde_json::{Value, json};

/// The first camera of a capture with these entries at the top, or in each frame; or the error.
fn first_camera(entries: &Value, in_frames: bool) -> Result<candle_radfoam::camera::Camera, String> {
    let folder = tempfile::tempdir().unwrap();
    write_capture(folder.path(), 2, 1.0, 0.0, if in_frames { json!({}) } else { entries.clone() });
    if in_frames {
        edit(folder.path(), |file| {
            for frame in file["frames"].as_array_mut().unwrap() {
                frame.as_object_mut().unwrap().extend(entries.as_object().unwrap().clone());
            }
        });
    }
    let loaded = load(folder.path(), &LoadOptions::default()).map_err(|e| e.to_string());
    loaded.map(|dataset| dataset.train[0].camera)
}

/// Changes the transforms.json in `folder`.
fn edit(folder: &Path, change: impl FnOnce(&mut Value)) {
    let path = folder.join("transforms.json");
    let mut file: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut file);
    fs::write(path, file.to_string()).unwrap();
}

#[test]
fn intrinsics_at_the_top_or_in_each_frame() {
    let brown = |k1, k2, k3, k4, p1, p2| Lens::brown([k1, k2, k3, k4], [p1, p2]);
    let half = 4.0 / 0.5_f64.tan();
    let cases = [
        // Entries; then fx, fy, cx, cy and the lens.
        (json!({ "camera_angle_x": 1.0 }), [half, half, 4.0, 3.0], Lens::Pinhole),
        (
            json!({ "camera_angle_x": 1.0, "camera_angle_y": 0.5 }),
            [half, 3.0 / 0.25_f64.tan(), 4.0, 3.0],
            Lens::Pinhole,
        ),
        // For a size that is twice the file's.
        (json!({ "fl_x": 14.0, "cx": 9.0, "cy": 6.0, "w": 16, "h": 12 }), [7.0, 7.0, 4.5, 3.0], Lens::Pinhole),
        (json!({ "fl_x": 7.0, "fl_y": 6.0, "cx": 4.5, "cy": 2.5 }), [7.0, 6.0, 4.5, 2.5], Lens::Pinhole),
        (json!({ "fl_x": 7.0, "cx": 4.5 }), [7.0, 7.0, 4.5, 3.0], Lens::Pinhole),
        (json!({ "fl_x": 7.0, "cy": 2.5 }), [7.0, 7.0, 4.0, 2.5], Lens::Pinhole),
        (json!({ "fl_y": 6.0 }), [6.0, 6.0, 4.0, 3.0], Lens::Pinhole),
        (
            json!({ "fl_x": 7.0, "camera_model": "OPENCV", "k1": 0.1, "k2": 0.02, "p1": 0.003, "p2": 0.004 }),
            [7.0, 7.0, 4.0, 3.0],
            Lens::OpenCv { k1: 0.1, k2: 0.02, p1: 0.003, p2: 0.004 },
        ),
        (
            json!({ "fl_x": 7.0, "k1": 0.1, "k2": 0.02, "k3": 0.005, "k4": 0.006, "p1": 0.003, "p2": 0.004 }),
            [7.0, 7.0, 4.0, 3.0],
            brown(0.1, 0.02, 0.005, 0.006, 0.003, 0.004),
        ),
        // The list goes before the single ones.
        (
            json!({ "fl_x": 7.0, "k1": 9.0, "distortion_params": [0.1, 0.02, 0.005, 0.006, 0.003, 0.004] }),
            [7.0, 7.0, 4.0, 3.0],
            brown(0.1, 0.02, 0.005, 0.006, 0.003, 0.004),
        ),
        (
            json!({ "fl_x": 7.0, "camera_model": "OPENCV_FISHEYE", "k1": 0.1, "k2": 0.02, "k3": 0.005, "k4": 0.006 }),
            [7.0, 7.0, 4.0, 3.0],
            Lens::Fisheye { k1: 0.1, k2: 0.02, k3: 0.005, k4: 0.006 },
        ),
        // Without coefficients a fisheye is still one.
        (
            json!({ "fl_x": 7.0, "is_fisheye": true }),
            [7.0, 7.0, 4.0, 3.0],
            Lens::Fisheye { k1: 0.0, k2: 0.0, k3: 0.0, k4: 0.0 },
        ),
        // A model without distortion has none, whatever else is written.
        (json!({ "fl_x": 7.0, "camera_model": "pinhole", "k1": 0.1 }), [7.0, 7.0, 4.0, 3.0], Lens::Pinhole),
        // nerfstudio: focal lengths are pixels a half turn, and an image of the whole sphere has fl = height.
        (
            json!({ "camera_model": "EQUIRECTANGULAR", "fl_x": 6.0, "fl_y": 6.0 }),
            [6.0 / PI, 6.0 / PI, 4.0, 3.0],
            Lens::Equirectangular,
        ),
        (json!({ "camera_model": "EQUIRECTANGULAR" }), [8.0 / TAU, 6.0 / PI, 4.0, 3.0], Lens::Equirectangular),
        // What a frame says of its shutter or its depth is not looked at.
        (
            json!({ "fl_x": 7.0, "rolling_shutter": [0, 0, 0, 1], "depth_file_path": "no/such.png" }),
            [7.0, 7.0, 4.0, 3.0],
            Lens::Pinhole,
        ),
    ];
    let mut failures = Vec::new();
    for (entries, numbers, lens) in &cases {
        for in_frames in [false, true] {
            match first_camera(entries, in_frames) {
                Ok(c) => {
                    let off = [c.fx, c.fy, c.cx, c.cy].into_iter().zip(numbers).map(|(a, b)| (a - b).abs());
                    if off.fold(0.0, f64::max) > 1e-12 || c.lens != *lens {
                        failures.push(format!("{entries} {in_frames}: {c:?}"));
                    }
                }
                Err(error) => failures.push(format!("{entries} {in_frames}: {error}")),
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
    // What a frame says goes before what the file says.
    let folder = tempfile::tempdir().unwrap();
    write_capture(folder.path(), 2, 1.0, 0.0, simple(7.0));
    edit(folder.path(), |file| file["frames"][1]["fl_x"] = json!(5.0));
    assert_eq!(load(folder.path(), &LoadOptions::default()).unwrap().train[0].camera.fx, 5.0);
    // And nothing of the file's focal lengths is added to it. What single precision leaves in the last row is no harm.
    edit(folder.path(), |file| {
        file["fl_y"] = json!(6.0);
        let frame = file["frames"][1].as_object_mut().unwrap();
        frame.remove("fl_x");
        frame.insert("camera_angle_x".into(), json!(1.0));
        frame["transform_matrix"][3] = json!([1e-8, 0.0, -1e-8, 1.0000001]);
    });
    let camera = load(folder.path(), &LoadOptions::default()).unwrap().train[0].camera;
    assert!((camera.fx - half).abs() < 1e-12 && camera.fy == camera.fx, "{camera:?}");
}

#[test]
fn intrinsics_that_are_none() {
    let cases = [
        (json!({ "fl_x": 7.0, "w": 6, "h": 8 }), "aspect"),
        (json!({ "fl_x": 7.0, "w": 0, "h": 0 }), "w, h"),
        (json!({ "fl_x": 7.0, "w": -8, "h": 6 }), "w, h"),
        (json!({ "fl_x": 7.0, "w": 1e300, "h": 1e300 }), "w, h"),
        (json!({ "fl_x": -7.0 }), "fx"),
        (json!({ "fl_x": 0 }), "fx"),
        (json!({ "fl_x": 7.0, "fl_y": 700.0 }), "fl_y"),
        (json!({ "camera_angle_x": 0.0 }), "camera_angle_x"),
        (json!({ "camera_angle_x": 3.2 }), "camera_angle_x"),
        (json!({ "camera_angle_x": 1.0, "camera_angle_y": -1.0 }), "camera_angle_y"),
        (json!({ "fl_x": 7.0, "camera_model": "FISHEYE624" }), "FISHEYE624"),
        (json!({ "fl_x": 7.0, "camera_model": "ORTHOPHOTO" }), "ORTHOPHOTO"),
        (json!({ "fl_x": 7.0, "camera_model": "" }), "camera_model"),
        (json!({ "w": 8, "h": 6 }), "camera_angle_x"),
        (json!({ "fl_x": 7.0, "is_fisheye": true, "camera_model": "KANNALA" }), "KANNALA"),
        (json!({ "fl_x": 7.0, "is_fisheye": true, "camera_model": "PINHOLE" }), "is_fisheye"),
        (json!({ "fl_x": 7.0, "is_fisheye": true, "camera_model": "EQUIRECTANGULAR" }), "is_fisheye"),
        (json!({ "fl_x": 7.0, "distortion_params": [0.1, 0.2] }), "distortion_params"),
    ];
    let mut failures = Vec::new();
    for (entries, expected) in cases {
        for in_frames in [false, true] {
            match first_camera(&entries, in_frames) {
                Ok(camera) => failures.push(format!("{entries}: {camera:?}")),
                Err(error) if !error.contains(expected) => failures.push(format!("{entries}: {error}")),
                Err(_) => {}
            }
        }
    }
    let lenses = ["ftheta_p0", "latlong", "equirectangular", "orthographic"];
    for lens in [&lenses[..], &["white_transparent", "black_transparent", "fisheye_crop_radius"]].concat() {
        let mut entries = simple(7.0);
        entries[lens] = json!(true);
        match first_camera(&entries, false) {
            Err(error) if error.contains(lens) => {}
            other => failures.push(format!("{lens}: {other:?}")),
        }
        entries[lens] = json!(false);
        failures.extend(first_camera(&entries, false).err());
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn blender_splits() {
    let folder = tempfile::tempdir().unwrap();
    let frame = |name: &str, angle: f64| {
        write_png(&folder.path().join(format!("{name}.png")), 8, 6);
        json!({ "file_path": format!("./{name}"), "transform_matrix": orbit(angle, [0.0; 3], 1.0, 0.0) })
    };
    let write = |split: &str, frames: &[Value]| {
        let file = json!({ "camera_angle_x": 0.7, "frames": frames });
        fs::write(folder.path().join(format!("transforms_{split}.json")), file.to_string()).unwrap();
    };
    write("train", &[frame("a", 0.0), frame("b", 1.0)]);
    let load = || load(folder.path(), &LoadOptions::default()).unwrap();
    // A single list has no split: every 8th is held out.
    assert_eq!((names(&load().train), names(&load().test)), (vec!["b"], vec!["a"]));
    write("val", &[frame("c", 2.0)]);
    assert_eq!((names(&load().train), names(&load().test)), (vec!["a", "b"], vec!["c"]));
    // With both, val is left out.
    write("test", &[frame("d", 3.0), frame("e", 4.0)]);
    assert_eq!((names(&load().train), names(&load().test)), (vec!["a", "b"], vec!["d", "e"]));
    let found = recognise(folder.path()).unwrap();
    assert_eq!((found.format, found.num_views, found.has_split), (Format::Transforms, 4, true));
    assert_eq!((found.layout, found.num_points), (load().layout, 0));
    // One of the files by itself.
    let (views, skipped) = list_views(folder.path().join("transforms_val.json"), Resize::None, None).unwrap();
    assert_eq!((views.len(), views[0].name.as_str(), skipped.len()), (1, "c", 0));
}

#[test]
fn splits_of_nerfstudio() {
    let folder = tempfile::tempdir().unwrap();
    let write = |lists: &Value| {
        let mut file = simple(7.0);
        file.as_object_mut().unwrap().extend(lists.as_object().unwrap().clone());
        write_capture(folder.path(), 4, 1.0, 0.0, file);
        load(folder.path(), &LoadOptions::default()).map_err(|e| e.to_string())
    };
    let [a, b, c, d] = ["00.png", "01.png", "02.png", "03.png"];
    // Lists; then what is trained on, held out, and left out.
    let cases = [
        (json!({ "train_filenames": [a, "./01.png"], "test_filenames": [c] }), vec![a, b], vec![c], vec![d]),
        (json!({ "train_filenames": [a], "val_filenames": [b], "test_filenames": [c] }), vec![a], vec![c], vec![b, d]),
        (json!({ "test_filenames": [a], "val_filenames": [b] }), vec![c, d], vec![a], vec![b]),
        (json!({ "val_filenames": [b], "test_filenames": [] }), vec![a, c, d], vec![b], vec![]),
        // No list is held out: every 8th of the list is.
        (json!({ "train_filenames": [b, c] }), vec![c], vec![b], vec![a, d]),
    ];
    for (lists, train, test, skipped) in cases {
        let dataset = write(&lists).unwrap();
        let left_out: Vec<&str> = dataset.skipped.iter().map(|skipped| skipped.name.as_str()).collect();
        assert_eq!((names(&dataset.train), names(&dataset.test), left_out), (train, test, skipped), "{lists}");
    }
    for field in ["train_filenames", "val_filenames", "test_filenames"] {
        let error = write(&json!({ field: [a, "no.png"] })).unwrap_err();
        assert!(["transforms.json", field, "no.png"].iter().all(|part| error.contains(part)), "{error}");
    }
}

/// nerfstudio writes poses and points after its transform, which says how to go back.
#[test]
fn applied_transforms() {
    // A turn that nerfstudio applies to COLMAP's world, a shift, and a scale after both.
    let rows = [[0.0, 1.0, 0.0, 2.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, -1.0, -1.0]];
    let scale = 0.5;
    let forward = |p: [f64; 3]| rows.map(|r| scale * (r[0] * p[0] + r[1] * p[1] + r[2] * p[2] + r[3]));
    let original: Vec<[f64; 3]> = (0..20).map(|i| [f64::from(i), f64::from(i * i % 7), f64::from(i % 3)]).collect();
    let folder = tempfile::tempdir().unwrap();
    let mut file = simple(7.0);
    (file["applied_transform"], file["applied_scale"]) = (json!(rows), json!(scale));
    file["ply_file_path"] = json!("./clouds/sparse_pc.ply");
    write_capture(folder.path(), 9, 1.0, 0.0, file);
    fs::create_dir(folder.path().join("clouds")).unwrap();
    let points: Vec<_> = original.iter().map(|&p| forward(p)).collect();
    let cloud = PointCloud { points: points.clone(), ..PointCloud::default() };
    write_point_cloud(folder.path().join("clouds/sparse_pc.ply"), &cloud).unwrap();

    let dataset = load(folder.path(), &LoadOptions::default()).unwrap();
    let off = |a: [f64; 3], b: [f64; 3]| norm([0, 1, 2].map(|i| a[i] - b[i]));
    let found = &dataset.point_cloud.as_ref().unwrap().points;
    // The points are in the world of the poses as the file has them, and the way back is through the transform.
    for ((&found, &written), &original) in found.iter().zip(&points).zip(&original) {
        assert!(off(dataset.normalization.invert(found), written) < 1e-12);
        assert!(off(dataset.original_position(found), original) < 1e-12);
    }
    let matrix = orbit(0.7, [0.5, -0.25, 1.0], 1.0, 0.0);
    let camera = dataset.normalization.invert_camera(&dataset.train[0].camera);
    assert!(off(camera.world_from_camera.position, [0, 1, 2].map(|i| matrix[i][3])) < 1e-12);
    // Without one, the capture's world is the original.
    edit(folder.path(), |file| {
        file.as_object_mut().unwrap().remove("applied_transform");
        file.as_object_mut().unwrap().remove("applied_scale");
    });
    let plain = load(folder.path(), &LoadOptions::default()).unwrap();
    assert_eq!(plain.applied_transform, None);
    assert_eq!(plain.original_position([0.5; 3]), plain.normalization.invert([0.5; 3]));
    for broken in [json!([[1, 0, 0, 0]]), json!([[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]), json!([])] {
        edit(folder.path(), |file| file["applied_transform"] = broken.clone());
        let error = load(folder.path(), &LoadOptions::default()).unwrap_err().to_string();
        assert!(error.contains("applied_transform") && error.contains("transforms.json"), "{error}");
    }
}

#[test]
fn files_that_are_not_where_they_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("images")).unwrap();
    // As listed, and where the file is.
    let cases = [
        ("./a", "a.png"),
        ("b.jpg", "b.png"),
        ("/home/other/capture/images/c.png", "images/c.png"),
        ("images\\d.png", "images/d.png"),
        ("e.tar", "e.tar.webp"),
        ("with space äöü.png", "with space äöü.png"),
        ("deep/er/f.PNG", "f.png"),
    ];
    let mut frames = Vec::new();
    for (i, (listed, file)) in cases.iter().enumerate() {
        let path = folder.path().join(file);
        let picture = image::RgbImage::from_pixel(8, 6, image::Rgb([i as u8, 0, 0]));
        picture.save_with_format(path, image::ImageFormat::Png).unwrap();
        frames.push(json!({ "file_path": listed, "transform_matrix": orbit(i as f64, [0.0; 3], 1.0, 0.0)[..3] }));
    }
    let file = json!({ "fl_x": 7.0, "frames": frames });
    // With a mark of the byte order in front.
    fs::write(folder.path().join("transforms.json"), format!("\u{feff}{file}")).unwrap();
    let options = LoadOptions { test_views: "every:100:99".parse().unwrap(), ..LoadOptions::default() };
    let dataset = load(folder.path(), &options).unwrap();
    assert!(dataset.skipped.is_empty(), "{:?}", dataset.skipped);
    let mut found: Vec<u8> = dataset.train.iter().map(|view| view.image.data[0]).collect();
    found.sort_unstable();
    assert_eq!(found, [0, 1, 2, 3, 4, 5, 6]);
}

#[test]
fn masks_of_both_senses() {
    let folder = tempfile::tempdir().unwrap();
    write_capture(folder.path(), 4, 1.0, 0.0, simple(7.0));
    edit(folder.path(), |file| {
        for (frame, mask) in [(1, "masks/one.png"), (3, "masks/all.png")] {
            file["frames"][frame]["mask_path"] = json!(mask);
        }
    });
    fs::create_dir(folder.path().join("masks")).unwrap();
    // Black hides in nerfstudio's masks, anything else keeps; in instant-ngp's it is the other way round.
    let left_two = |x: u32, on: u8, off: u8| image::Luma([if x < 2 { on } else { off }]);
    let save = |name: &str, on: u8, off: u8| {
        image::GrayImage::from_fn(8, 6, |x, _| left_two(x, on, off)).save(folder.path().join(name)).unwrap();
    };
    save("masks/one.png", 0, 1);
    save("masks/all.png", 255, 255);
    save("dynamic_mask_02.png", 1, 0);
    let dataset = load(folder.path(), &LoadOptions::default()).unwrap();
    assert_eq!(names(&dataset.train), ["01.png", "02.png", "03.png"]);
    for view in &dataset.train[..2] {
        let mask = view.mask.as_ref().unwrap();
        assert!((0..48).all(|pixel| mask.get(pixel) == (pixel % 8 >= 2)), "{}", view.name);
    }
    assert!(dataset.train[2].mask.is_none() && dataset.test[0].mask.is_none());
    assert_eq!((dataset.num_masked, dataset.num_outside_lens), (24, 0));
    // A mask has other endings too, and may be listed with the path of another machine, or not at all.
    for (listed, masked) in [("masks/one", true), ("masks/one.jpg", true), ("/other/one.png", true), ("", false)] {
        edit(folder.path(), |file| file["frames"][1]["mask_path"] = json!(listed));
        let again = load(folder.path(), &LoadOptions::default()).unwrap();
        assert!(again.skipped.is_empty() && again.train[0].mask.is_some() == masked, "{listed}: {:?}", again.skipped);
    }
    edit(folder.path(), |file| file["frames"][1]["mask_path"] = json!("masks/one.png"));
    let pixels = Pixels::new(&dataset.train).unwrap();
    assert_eq!(pixels.in_use().unwrap().count(), 2 * 36 + 48);
    assert!(pixels.batch(&[0]).is_err() && pixels.batch(&[2, 50, 96]).is_ok());

    // Reduced to 5x4: columns 0 and 1 of the new cover the first two of the old.
    let small = load(folder.path(), &options(Resize::Size { width: 5, height: 4 })).unwrap();
    let again = dataset.resized(2).unwrap();
    for (dataset, width, hidden) in [(&small, 5, 2), (&again, 4, 1)] {
        let mask = dataset.train[0].mask.as_ref().unwrap();
        assert!((0..mask.len()).all(|pixel| mask.get(pixel) == (pixel % width >= hidden)), "{mask:?}");
        assert_eq!(dataset.num_masked as usize, 2 * hidden * mask.len() / width);
    }
}

// -------------------------------------------------------------------------------------------------------- LLFF

/// A file of rows of 17, of `descr` (f4 or f8, little-endian), rows first or columns first.
fn npy(rows: &[[f64; 17]], descr: &str, fortran: bool) -> Vec<u8> {
    let order = if fortran { "True" } else { "False" };
    let shape = format!("({}, 17)", rows.len());
    let header = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n");
    let mut bytes = [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes()].concat();
    let mut put = |value: f64| match descr {
        "<f4" => bytes.extend((value as f32).to_le_bytes()),
        _ => bytes.extend(value.to_le_bytes()),
    };
    if fortran {
        (0..17).for_each(|column| rows.iter().for_each(|row| put(row[column])));
    } else {
        rows.iter().flatten().for_each(|&value| put(value));
    }
    bytes
}

/// A camera at `position` that looks along +X of the world with +Z up, its picture 16x12, its bounds 2 and 10.
fn row(position: [f64; 3]) -> [f64; 17] {
    let (down, right, back) = ([0.0, 0.0, -1.0], [0.0, -1.0, 0.0], [-1.0, 0.0, 0.0]);
    let hwf = [12.0, 16.0, 20.0];
    let mut row = [0.0; 17];
    for i in 0..3 {
        row[5 * i..5 * i + 5].copy_from_slice(&[down[i], right[i], back[i], position[i], hwf[i]]);
    }
    (row[15], row[16]) = (2.0, 10.0);
    row
}

#[test]
fn llff() {
    let rows: Vec<_> = (0..5).map(|i| row([0.0, f64::from(i), 0.5 * f64::from(i % 2)])).collect();
    for (descr, fortran) in [("<f8", false), ("<f8", true), ("<f4", false), ("<f4", true)] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("poses_bounds.npy"), npy(&rows, descr, fortran)).unwrap();
        for factor in [4, 2] {
            fs::create_dir(folder.path().join(format!("images_{factor}"))).unwrap();
        }
        // In the order of their names, beside a file that is none.
        for name in ["image003.png", "image000.png", "image002.png", "image004.png", "image001.png"] {
            write_png(&folder.path().join("images_2").join(name), 8, 6);
        }
        fs::write(folder.path().join("images_2/list.txt"), "image000.png").unwrap();
        let found = recognise(folder.path()).unwrap();
        assert_eq!((found.format, found.num_views, found.has_split), (Format::Llff, 5, false));
        let dataset = load(folder.path(), &LoadOptions::default()).unwrap();
        assert_eq!((names(&dataset.test), dataset.layout.as_str()), (vec!["images_2/image000.png"], "LLFF (images_2)"));
        for (i, view) in dataset.train.iter().enumerate() {
            let camera = dataset.normalization.invert_camera(&view.camera);
            assert_eq!((camera.width, camera.height, camera.fx, camera.cx, camera.cy), (8, 6, 10.0, 4.0, 3.0));
            let pose = camera.world_from_camera;
            assert_eq!(pose.forward(), [1.0, 0.0, 0.0]);
            assert_eq!(pose.rotate([0.0, 1.0, 0.0]), [0.0, 0.0, -1.0]);
            assert!(norm([0, 1, 2].map(|j| pose.position[j] - rows[i + 1][5 * j + 3])) < 1e-6, "{pose:?}");
        }
        // The bounds say how far away the scene is: 2 / (1/2 + 1/10) ahead.
        assert!((dataset.normalization.center[0] - 10.0 / 3.0).abs() < 1e-6, "{:?}", dataset.normalization);
        // `images` goes before its reduced copies, and has to have as many.
        fs::create_dir(folder.path().join("images")).unwrap();
        write_png(&folder.path().join("images/0.png"), 16, 12);
        let error = load(folder.path(), &LoadOptions::default()).unwrap_err().to_string();
        assert!(
            error.contains("5 images") && error.contains("found 1") && error.contains("poses_bounds.npy"),
            "{error}"
        );
        let error = load(folder.path().join("poses_bounds.npy"), &LoadOptions::default()).unwrap_err().to_string();
        assert!(error.contains("5 images"), "{error}");
    }
}

#[test]
fn llff_rows_that_are_none() {
    let with = |at: usize, value: f64| {
        let mut row = row([0.0; 3]);
        row[at] = value;
        row
    };
    let cases = [
        (with(0, f64::NAN), "rotation"),
        (with(3, f64::INFINITY), "position"),
        (with(1, 5.0), "rotation"),
        (with(4, 0.0), "height"),
        (with(14, -1.0), "focal length"),
        (with(14, f64::NAN), "focal length"),
        (with(15, 0.0), "bounds"),
        (with(16, 1.0), "bounds"),
    ];
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("images")).unwrap();
    let mut rows = vec![row([1.0; 3])];
    rows.extend(cases.map(|(row, _)| row));
    fs::write(folder.path().join("poses_bounds.npy"), npy(&rows, "<f8", false)).unwrap();
    for i in 0..rows.len() {
        write_png(&folder.path().join(format!("images/{i}.png")), 16, 12);
    }
    let dataset = load(folder.path(), &LoadOptions::default()).unwrap();
    assert_eq!((dataset.train.len(), dataset.skipped.len()), (1, cases.len()));
    for (skipped, (_, expected)) in dataset.skipped.iter().zip(cases) {
        assert!(skipped.reason.contains(expected), "{expected}: {skipped:?}");
    }
    for (bytes, expected) in [(npy(&[], "<f8", false), "[views, 17]"), (b"nothing".to_vec(), "npy")] {
        fs::write(folder.path().join("poses_bounds.npy"), bytes).unwrap();
        let error = load(folder.path(), &LoadOptions::default()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    fs::remove_dir_all(folder.path().join("images")).unwrap();
    fs::write(folder.path().join("poses_bounds.npy"), npy(&rows, "<f8", false)).unwrap();
    let error = recognise(folder.path()).unwrap_err().to_string();
    assert!(error.contains("images_N"), "{error}");
    assert_eq!(Normalization::of(&[], &[]), Normalization::IDENTITY);
}
