//! Is what is broken refused, or left out by name, with an error that says what and where; and never more than that?

#[path = "common/folders.rs"]
mod folders;

use std::fs;
use std::path::{Path, PathBuf};

use candle_radfoam::data::{Image, LoadOptions, list_views, load, recognise};
use folders::{names, orbit, shared, simple, write_capture, write_png};
use serde_json::{Value, json};

/// What is done to a capture of three good views (00.png, 01.png, 02.png), and what comes of it.
struct Case {
    name: &'static str,
    spoil: Box<dyn Fn(&Path)>,
    /// Parts of the error; or, if the capture still loads, of the reason for which 01.png is left out.
    expected: &'static [&'static str],
    loads: bool,
}

fn whole(name: &'static str, expected: &'static [&'static str], spoil: impl Fn(&Path) + 'static) -> Case {
    Case { name, spoil: Box::new(spoil), expected, loads: false }
}

fn one(name: &'static str, expected: &'static [&'static str], spoil: impl Fn(&Path) + 'static) -> Case {
    Case { name, spoil: Box::new(spoil), expected, loads: true }
}

/// Changes the transforms.json in `folder`.
fn edit(folder: &Path, change: impl FnOnce(&mut Value)) {
    let path = folder.join("transforms.json");
    let mut file: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut file);
    fs::write(path, file.to_string()).unwrap();
}

/// Puts `bytes` in place of transforms.json.
fn text(name: &'static str, expected: &'static [&'static str], bytes: impl Into<Vec<u8>>) -> Case {
    let bytes = bytes.into();
    whole(name, expected, move |folder| fs::write(folder.join("transforms.json"), &bytes).unwrap())
}

/// Puts `bytes` in place of the image 01.png.
fn picture(name: &'static str, expected: &'static [&'static str], bytes: impl Into<Vec<u8>>) -> Case {
    let bytes = bytes.into();
    one(name, expected, move |folder| fs::write(folder.join("01.png"), &bytes).unwrap())
}

/// Sets an entry of the second frame.
fn frame(name: &'static str, expected: &'static [&'static str], field: &'static str, value: Value) -> Case {
    one(name, expected, move |folder| edit(folder, |file| file["frames"][1][field] = value.clone()))
}

/// Sets an entry at the top, or in the second frame, that JSON's types do not allow.
fn wrong_type(name: &'static str, pointer: &'static str, value: Value) -> Case {
    whole(name, &["transforms.json", "line 1"], move |folder| {
        edit(folder, |file| match file.pointer_mut(pointer) {
            Some(place) => *place = value.clone(),
            None => file[&pointer[1..]] = value.clone(),
        });
    })
}

/// A PNG file that claims a size, with no pixels to speak of.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let mut crc_table = [0_u32; 256];
    for (n, entry) in crc_table.iter_mut().enumerate() {
        *entry = (0..8).fold(n as u32, |c, _| if c & 1 == 1 { 0xedb8_8320 ^ (c >> 1) } else { c >> 1 });
    }
    let chunk = |kind: &[u8; 4], data: &[u8]| {
        let body = [&kind[..], data].concat();
        let crc = !body.iter().fold(!0_u32, |c, &b| crc_table[((c ^ u32::from(b)) & 255) as usize] ^ (c >> 8));
        [&(data.len() as u32).to_be_bytes()[..], &body, &crc.to_be_bytes()].concat()
    };
    let ihdr = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    [b"\x89PNG\r\n\x1a\n".to_vec(), chunk(b"IHDR", &ihdr), chunk(b"IDAT", &[0x78, 0x9c, 3, 0]), chunk(b"IEND", &[])]
        .concat()
}

fn encoded(format: image::ImageFormat) -> Vec<u8> {
    let mut bytes = Vec::new();
    let picture = image::RgbImage::from_fn(8, 6, |x, y| image::Rgb([(31 * x) as u8, (40 * y) as u8, 9]));
    picture.write_to(&mut std::io::Cursor::new(&mut bytes), format).unwrap();
    bytes
}

/// A photograph of 200x150 pixels whose EXIF data begin with a whole JPEG.
fn jpeg_with_thumbnail() -> Vec<u8> {
    let mut bytes = Vec::new();
    let picture = image::RgbImage::from_fn(200, 150, |x, y| image::Rgb([x as u8, y as u8, (x * y) as u8]));
    picture.write_to(&mut std::io::Cursor::new(&mut bytes), image::ImageFormat::Jpeg).unwrap();
    let segment = [b"Exif\0\0", &encoded(image::ImageFormat::Jpeg)[..]].concat();
    let length = (segment.len() as u16 + 2).to_be_bytes();
    [&bytes[..2], &[0xff, 0xe1], &length, &segment, &bytes[2..]].concat()
}

fn half(bytes: Vec<u8>) -> Vec<u8> {
    bytes[..bytes.len() / 2].to_vec()
}

const LFS: &[u8] = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";

fn matrix(change: impl FnOnce(&mut [[f64; 4]; 4])) -> Value {
    let mut matrix = orbit(0.7, [0.5, -0.25, 1.0], 1.0, 0.0);
    change(&mut matrix);
    json!(matrix)
}

fn cases() -> Vec<Case> {
    use image::ImageFormat::{Jpeg, Png, Tiff, WebP};
    let cut: fn(&'static str, Vec<u8>) -> Case = |name, bytes| picture(name, &["01.png", "pixels"], half(bytes));
    let pose = "transform_matrix";
    vec![
        // Images.
        cut("a PNG cut in half", encoded(Png)),
        picture("a JPEG cut in its header", &["01.png"], encoded(Jpeg)[..40].to_vec()),
        picture("a JPEG cut in half", &["01.png", "pixels", "the end of the file"], half(jpeg_with_thumbnail())),
        picture("a WebP cut in half", &["01.png"], half(encoded(WebP))),
        picture("a TIFF cut in half", &["01.png"], half(encoded(Tiff))),
        picture("an empty image", &["01.png", "empty file"], ""),
        picture("an LFS pointer as image", &["01.png", "Git LFS"], LFS),
        picture("a text as image", &["01.png", "I am no image"], "I am no image"),
        picture("a GIF", &["01.png", "PNG, JPEG, WebP or TIFF", "Gif"], *b"GIF89a\x08\0\x06\0\0\0\0;"),
        picture("a BMP", &["01.png", "Bmp"], [&b"BM"[..], &[0; 60]].concat()),
        picture("a header of 2^31 x 2^31 pixels", &["01.png"], png_header(1 << 31, 1 << 31)),
        picture("a header of (2^31 - 1)^2 pixels", &["01.png"], png_header(i32::MAX as u32, i32::MAX as u32)),
        picture("a header of 60000 x 45000 pixels", &["01.png", "60000x45000", "bytes"], png_header(60000, 45000)),
        picture("a header of 0 x 0 pixels", &["01.png"], png_header(0, 0)),
        picture("an image of another aspect", &["aspect", "100x2"], {
            let mut bytes = Vec::new();
            let picture = image::GrayImage::new(100, 2);
            picture.write_to(&mut std::io::Cursor::new(&mut bytes), Png).unwrap();
            bytes
        }),
        one("no image", &["no such file", "01.png"], |folder| fs::remove_file(folder.join("01.png")).unwrap()),
        one("a folder in place of an image", &["no such file", "01.png"], |folder| {
            fs::remove_file(folder.join("01.png")).unwrap();
            fs::create_dir(folder.join("01.png")).unwrap();
        }),
        one("an image that is a link to itself", &["no such file", "01.png"], |folder| {
            fs::remove_file(folder.join("01.png")).unwrap();
            link(&folder.join("01.png"), &folder.join("01.png"));
        }),
        // Masks.
        frame("a mask that is not there", &["nowhere.png"], "mask_path", json!("nowhere.png")),
        frame("a mask that is no image", &["transforms.json", "PNG"], "mask_path", json!("transforms.json")),
        // The photograph of the same name is no mask, nor is one that is listed as both.
        one("a missing mask of the image's name", &["masks", "01.png"], |folder| {
            fs::create_dir(folder.join("images")).unwrap();
            fs::rename(folder.join("01.png"), folder.join("images/01.png")).unwrap();
            edit(folder, |file| file["frames"][1]["mask_path"] = json!("masks/01.png"));
        }),
        frame("a mask that is the image", &["mask_path", "01.png"], "mask_path", json!("./01.png")),
        one("a mask of another aspect", &["mask.png", "aspect", "6x8"], |folder| {
            write_png(&folder.join("mask.png"), 6, 8);
            edit(folder, |file| file["frames"][1]["mask_path"] = json!("mask.png"));
        }),
        one("a broken dynamic mask", &["dynamic_mask_01.png"], |folder| {
            fs::write(folder.join("dynamic_mask_01.png"), half(encoded(Png))).unwrap();
        }),
        // Poses.
        frame("a scaled rotation", &["rotation"], pose, matrix(|m| (0..3).for_each(|i| m[i][0] *= 2.0))),
        frame("a reflection", &["reflection"], pose, matrix(|m| (0..3).for_each(|i| m[i][0] *= -1.0))),
        frame("a sheared rotation", &["rotation"], pose, matrix(|m| m[0][1] += 0.3)),
        frame("a zero matrix", &["last row"], pose, json!(([[0.0; 4]; 4]))),
        frame("a zero rotation", &["rotation"], pose, json!(([[0.0; 4]; 3]))),
        frame("a projective last row", &["last row"], pose, matrix(|m| m[3] = [0.0, 0.0, 0.1, 1.0])),
        frame("a last row that is off by 1e-5", &["last row"], pose, matrix(|m| m[3][3] += 1e-5)),
        frame("no pose", &["transform_matrix", "0 rows"], pose, Value::Null),
        frame("two rows", &["transform_matrix", "2 rows"], pose, json!(([[1.0, 0.0, 0.0, 0.0]; 2]))),
        frame("five rows", &["transform_matrix", "5 rows"], pose, json!(([[1.0, 0.0, 0.0, 0.0]; 5]))),
        // Intrinsics of a frame.
        frame("a focal length of 0", &["fx"], "fl_x", json!(0)),
        frame("a negative focal length", &["fx"], "fl_x", json!(-7)),
        frame("an unknown model", &["camera_model", "KANNALA"], "camera_model", json!("kannala")),
        frame("a width of 0", &["w, h"], "w", json!(0)),
        frame("a size of another aspect", &["aspect"], "w", json!(3)),
        one("no focal length where the others have one", &["fl_x", "neither"], |folder| {
            edit(folder, |file| {
                file.as_object_mut().unwrap().remove("fl_x");
                (file["frames"][0]["fl_x"], file["frames"][2]["fl_x"]) = (json!(7), json!(7));
            });
        }),
        one("a file that is there twice", &["its file is that of 01"], |folder| {
            edit(folder, |file| file["frames"][0]["file_path"] = json!("01"));
        }),
        one("a name that is there twice", &["listed before"], |folder| {
            edit(folder, |file| {
                let again = file["frames"][1].clone();
                file["frames"].as_array_mut().unwrap().push(again);
            });
        }),
        // The file.
        text("an empty file", &["transforms.json", "empty file"], ""),
        text("an LFS pointer as transforms", &["transforms.json", "Git LFS"], LFS),
        text("half a file", &["transforms.json", "EOF"], r#"{"fl_x": 7, "frames": [{"file_path": "#),
        text("not UTF-8", &["transforms.json"], *b"{\"fl_x\": 7, \"frames\": [{\"file_path\": \"\xff\"}]}"),
        text("a list", &["transforms.json"], "[]"),
        text("no frames", &["transforms.json", "frames"], r#"{"fl_x": 7}"#),
        text("no frame", &["at least one", "none of 0"], r#"{"fl_x": 7, "frames": []}"#),
        text("a frame without a file", &["file_path"], r#"{"fl_x": 7, "frames": [{}]}"#),
        text("NaN", &["line 1"], r#"{"fl_x": NaN, "frames": []}"#),
        text(
            "Infinity in a pose",
            &["line 1"],
            r#"{"fl_x": 1, "frames": [{"file_path": "a", "transform_matrix": [[Infinity,0,0,0]]}]}"#,
        ),
        text("1e999", &["out of range"], r#"{"fl_x": 1e999, "frames": []}"#),
        text("100000 deep lists", &["recursion limit"], format!("{{\"other\": {}", "[".repeat(100_000))),
        text("100000 deep objects", &["recursion limit"], format!("{{\"other\": {}", "{\"a\":".repeat(100_000))),
        wrong_type("frames that are a number", "/frames", json!(3)),
        wrong_type("a frame that is a string", "/frames/1", json!("01.png")),
        wrong_type("a file path that is a number", "/frames/1/file_path", json!(1)),
        wrong_type("a matrix of strings", "/frames/1/transform_matrix/0/0", json!("1.0")),
        wrong_type("a row of five", "/frames/1/transform_matrix/0", json!([1, 0, 0, 0, 0])),
        wrong_type("a focal length that is a list", "/fl_x", json!([7.0])),
        wrong_type("a fisheye that is a number", "/is_fisheye", json!(1)),
        wrong_type("a split that is a string", "/test_filenames", json!("00.png")),
        whole("a transform that cannot be undone", &["transforms.json", "applied_transform"], |folder| {
            edit(folder, |file| file["applied_transform"] = json!(([[0.0; 4]; 3])));
        }),
        // The start cloud.
        whole("a cloud that is not there", &["nowhere.ply"], |folder| {
            edit(folder, |file| file["ply_file_path"] = json!("nowhere.ply"));
        }),
        whole("an LFS pointer as cloud", &["points3D.ply", "Git LFS"], |folder| {
            fs::write(folder.join("points3D.ply"), LFS).unwrap();
        }),
        whole("a cloud with a lying count", &["points3D.ply", "rows"], |folder| {
            let header = "ply\nformat binary_little_endian 1.0\nelement vertex 1152921504606846976\n";
            let rest = "property float x\nproperty float y\nproperty float z\nend_header\n";
            fs::write(folder.join("points3D.ply"), format!("{header}{rest}")).unwrap();
        }),
        // The folder.
        whole("an empty folder", &["none of them", "poses_bounds.npy"], |folder| {
            fs::remove_file(folder.join("transforms.json")).unwrap();
        }),
        whole("a folder in place of the file", &["none of them"], |folder| {
            fs::remove_file(folder.join("transforms.json")).unwrap();
            fs::create_dir(folder.join("transforms.json")).unwrap();
        }),
        whole("a file that is a link to itself", &["none of them"], |folder| {
            fs::remove_file(folder.join("transforms.json")).unwrap();
            link(&folder.join("transforms.json"), &folder.join("transforms.json"));
        }),
        whole("no image that can be used", &["00.png", "nothing"], |folder| {
            for i in 0..3 {
                fs::write(folder.join(format!("{i:02}.png")), "nothing").unwrap();
            }
        }),
    ]
}

#[cfg(unix)]
fn link(to: &Path, at: &Path) {
    std::os::unix::fs::symlink(to, at).unwrap();
}

#[cfg(not(unix))]
fn link(_: &Path, _: &Path) {}

#[test]
fn what_is_broken_is_named() {
    let cases = cases();
    println!("{} cases", cases.len());
    let mut failures = Vec::new();
    for Case { name, spoil, expected, loads } in &cases {
        let folder = tempfile::tempdir().unwrap();
        write_capture(folder.path(), 3, 1.0, 0.0, simple(7.0));
        spoil(folder.path());
        let options = LoadOptions { test_views: "every:100:99".parse().unwrap(), ..LoadOptions::default() };
        let said = match load(folder.path(), &options) {
            Err(error) if !loads => error.to_string(),
            Ok(dataset) if *loads => {
                let [skipped] = &dataset.skipped[..] else {
                    failures.push(format!("{name}: {:?}", dataset.skipped));
                    continue;
                };
                let left = if *name == "a name that is there twice" { 3 } else { 2 };
                if skipped.name != "01.png" || dataset.train.len() != left {
                    failures.push(format!("{name}: {:?} and {skipped:?}", names(&dataset.train)));
                }
                skipped.reason.clone()
            }
            other => {
                failures.push(format!("{name}: {:?}", other.map(|dataset| (dataset.train.len(), dataset.skipped))));
                continue;
            }
        };
        if let Some(missing) = expected.iter().find(|part| !said.contains(**part)) {
            failures.push(format!("{name}: no \"{missing}\" in \"{said}\""));
        }
    }
    assert!(failures.is_empty(), "{} of {}: {failures:#?}", failures.len(), cases.len());
    assert!(cases.len() >= 60);
}

#[test]
fn paths_that_lead_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("nowhere");
    for path in [nowhere.clone(), folder.path().join("transforms.json"), PathBuf::new()] {
        assert!(load(&path, &LoadOptions::default()).is_err() && recognise(&path).is_err(), "{}", path.display());
        assert!(list_views(&path, Default::default(), None).is_err(), "{}", path.display());
    }
    link(&nowhere, &nowhere);
    let error = recognise(&nowhere).unwrap_err().to_string();
    assert!(error.contains("nowhere"), "{error}");
    // A folder in which a link leads back to it.
    link(folder.path(), &folder.path().join("images"));
    assert!(recognise(folder.path()).unwrap_err().to_string().contains("none of them"));
    assert!(Image::open(folder.path(), |w, h| Ok((w, h))).is_err());
    let png = folder.path().join("a.png");
    write_png(&png, 8, 6);
    for size in [(0, 6), (8, 0)] {
        let error = Image::open(&png, |_, _| Ok(size)).unwrap_err().to_string();
        assert!(error.contains("at least one pixel"), "{error}");
    }
}

/// Every byte of a picture changed in turn, and every length that it may be cut to: an image or an error, no panic.
#[test]
fn changed_pictures_do_not_panic() {
    use image::ImageFormat::{Jpeg, Png, Tiff, WebP};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    for format in [Png, Jpeg, WebP, Tiff] {
        let good = encoded(format);
        for at in 0..good.len() {
            let mut changed = good.clone();
            changed[at] ^= 0x55;
            for bytes in [&changed[..], &good[..at]] {
                fs::write(&path, bytes).unwrap();
                let _ = Image::open(&path, |_, _| Ok((4, 3)));
            }
        }
    }
}

/// A JPEG is whole if its own end is there, whatever thumbnail it has and whatever follows.
#[test]
fn whole_jpegs_load() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    let whole = jpeg_with_thumbnail();
    let mut padded = whole.clone();
    padded.extend([0; 100]);
    for bytes in [&whole, &padded] {
        fs::write(&path, bytes).unwrap();
        Image::open(&path, |w, h| Ok((w, h))).unwrap();
    }
    fs::write(&path, &whole[..whole.len() - 2]).unwrap();
    assert!(Image::open(&path, |w, h| Ok((w, h))).unwrap_err().to_string().contains("the end of the file"));
}

/// The same of the files that describe a capture.
#[test]
fn changed_descriptions_do_not_panic() {
    let folder = tempfile::tempdir().unwrap();
    write_capture(folder.path(), 1, 1.0, 0.0, simple(7.0));
    edit(folder.path(), |file| {
        file["applied_transform"] = json!([[0.0, 1.0, 0.0, 2.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, -1.0, -1.0]]);
        (file["camera_model"], file["k1"]) = (json!("OPENCV_FISHEYE"), json!(0.1));
    });
    fs::create_dir(folder.path().join("images")).unwrap();
    write_png(&folder.path().join("images/a.png"), 8, 6);
    let header = "{'descr': '<f8', 'fortran_order': False, 'shape': (1, 17), }\n";
    let row = [0., 1., 0., 5., 6., 1., 0., 0., 6., 8., 0., 0., -1., 7., 7., 1., 9_f64];
    let values: Vec<u8> = row.iter().flat_map(|v| v.to_le_bytes()).collect();
    let npy = [b"\x93NUMPY\x01\0", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), &values].concat();
    let json = fs::read(folder.path().join("transforms.json")).unwrap();
    for (name, good) in [("transforms.json", json), ("poses_bounds.npy", npy)] {
        let path = folder.path().join(name);
        let put = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            list_views(&path, Default::default(), None).is_ok()
        };
        assert!(put(&good), "{name}");
        for at in 0..good.len() {
            assert!(!put(&good[..at]), "{name} cut to {at} bytes was accepted");
            for change in [0x01, 0x10, 0x55, 0xff] {
                let mut changed = good.clone();
                changed[at] ^= change;
                put(&changed);
            }
        }
    }
}

#[test]
fn fixtures_that_are_not_captures() {
    let Some(root) = shared("loader-fixtures") else { return };
    for (name, expected) in [("ply", "none of them"), ("gsplat", "none of them"), ("ply/3dgs-cameras.json", "frames")] {
        let error = recognise(root.join(name)).unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
}
