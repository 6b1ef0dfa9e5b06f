//! Broken reconstructions: refused by name, or read as far as they are right.

use std::fs;

use candle_radfoam::data::{LoadOptions, load};

use super::model::{Model, NAMES, read, views, write};

/// What is done to the three good files.
type Harm = Box<dyn Fn(&mut [Vec<u8>; 3])>;

/// Overwrites `bytes` at `at` in a file.
fn put(file: usize, at: usize, bytes: impl AsRef<[u8]> + 'static) -> Harm {
    Box::new(move |files| files[file][at..at + bytes.as_ref().len()].copy_from_slice(bytes.as_ref()))
}

fn replace(file: usize, from: &'static str, to: &'static str) -> Harm {
    Box::new(move |files| {
        let text = String::from_utf8(files[file].clone()).unwrap();
        assert!(text.contains(from), "{from} is not in {text}");
        files[file] = text.replacen(from, to, 1).into_bytes();
    })
}

fn whole(file: usize, bytes: impl AsRef<[u8]> + 'static) -> Harm {
    Box::new(move |files| files[file] = bytes.as_ref().to_vec())
}

const LFS: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 123\n";

/// What is wrong, the harm, and what the message must say: file, field, expected, found.
type Case = (&'static str, Harm, [&'static str; 4]);

fn broken_binary() -> Vec<Case> {
    // Where the first records of `Model::small` begin, and fields in them.
    let (camera, pose, point) = (8, 8 + 4, 8 + 8);
    let second_camera = camera + 24 + 4 * 8;
    let huge = (1_u64 << 60).to_le_bytes();
    let count = "1152921504606846976";
    let nan = f64::NAN.to_le_bytes();
    vec![
        ("cameras without end", put(0, 0, huge), ["cameras.bin", "number of cameras", "at most 4,", count]),
        ("images without end", put(1, 0, huge), ["images.bin", "number of images", "at most", count]),
        ("points without end", put(2, 0, huge), ["points3D.bin", "number of points", "at most 2,", count]),
        (
            "observations without end",
            put(1, 78, huge),
            ["images.bin", "image 1: number of observations", "at most", count],
        ),
        (
            "a track without end",
            put(2, 8 + 43, huge),
            ["points3D.bin", "point 9: length of the track", "at most", count],
        ),
        ("all ones", put(2, 0, [255; 8]), ["points3D.bin", "number of points", "at most", "18446744073709551615"]),
        ("one camera too many", put(0, 0, [3]), ["cameras.bin", "camera: id", "4 bytes", "the end of the file"]),
        (
            "one camera too few",
            put(0, 0, [1]),
            ["cameras.bin", "number of cameras", "end of the file after 1", "56 more bytes"],
        ),
        (
            "one image too few",
            put(1, 0, [1]),
            ["images.bin", "number of images", "end of the file after 1", "78 more bytes"],
        ),
        (
            "one point too few",
            put(2, 0, [1]),
            ["points3D.bin", "number of points", "end of the file after 1", "51 more bytes"],
        ),
        (
            "a new model",
            put(0, camera + 4, [99]),
            ["cameras.bin", "camera 3: model", "PINHOLE, SIMPLE_RADIAL", "number 99"],
        ),
        (
            "no model",
            put(0, camera + 4, [255; 4]),
            ["cameras.bin", "camera 3: model", "OPENCV_FISHEYE", "number 4294967295"],
        ),
        ("FOV", put(0, camera + 4, [7]), ["cameras.bin", "camera 3: model", "THIN_PRISM_FISHEYE", "found FOV"]),
        (
            "another fisheye",
            put(0, camera + 4, [11]),
            ["cameras.bin", "camera 3: model", "FULL_OPENCV", "RAD_TAN_THIN_PRISM_FISHEYE"],
        ),
        ("no width", put(0, camera + 8, [0; 8]), ["cameras.bin", "camera 3: camera size", "at least one pixel", "0x6"]),
        (
            "no height",
            put(0, camera + 16, [0; 8]),
            ["cameras.bin", "camera 3: camera size", "at least one pixel", "8x0"],
        ),
        ("endless width", put(0, camera + 8, huge), ["cameras.bin", "camera 3: size", "at most 4294967295", count]),
        (
            "no focal length",
            put(0, camera + 24, [0; 8]),
            ["cameras.bin", "camera 3: fx", "positive focal length", "found 0"],
        ),
        (
            "a negative one",
            put(0, camera + 32, (-5.0_f64).to_le_bytes()),
            ["cameras.bin", "camera 3: fy", "positive", "-5"],
        ),
        ("NaN parameter", put(0, camera + 40, nan), ["cameras.bin", "camera 3: parameters", "a finite number", "NaN"]),
        (
            "endless distortion",
            put(0, second_camera + 48, f64::INFINITY.to_le_bytes()),
            ["cameras.bin", "camera 4: parameters", "a finite number", "inf"],
        ),
        (
            "two cameras of an id",
            put(0, second_camera, [3]),
            ["cameras.bin", "camera 3: id", "one camera of it", "second"],
        ),
        ("no rotation", put(1, pose, [0; 8]), ["images.bin", "image 1: pose", "length 1", "of length 0"]),
        (
            "a long quaternion",
            put(1, pose, 2_f64.to_le_bytes()),
            ["images.bin", "image 1: pose", "length 1", "of length 2"],
        ),
        ("NaN rotation", put(1, pose, nan), ["images.bin", "image 1: quaternion", "a finite number", "NaN"]),
        (
            "endless place",
            put(1, pose + 32, f64::NEG_INFINITY.to_le_bytes()),
            ["images.bin", "image 1: translation", "a finite number", "-inf"],
        ),
        (
            "an unknown camera",
            put(1, pose + 56, [77]),
            ["images.bin", "image 1: camera id", "one of the 2 cameras", "77"],
        ),
        ("a name that ends at once", put(1, pose + 60, [0]), ["images.bin", "image 1: n", "at most", "found"]),
        (
            "a name without end",
            Box::new(|files| {
                let end = files[1].len() - 9;
                files[1].truncate(end);
            }),
            ["images.bin", "image 2: end of the name", "1 bytes", "end of the file"],
        ),
        ("NaN point", put(2, point, nan), ["points3D.bin", "point 9: position", "a finite number", "NaN"]),
        ("not fetched cameras", whole(0, LFS), ["cameras.bin", "contents", "COLMAP", "Git LFS pointer"]),
        ("not fetched images", whole(1, LFS), ["images.bin", "contents", "COLMAP", "Git LFS pointer"]),
        ("not fetched points", whole(2, LFS), ["points3D.bin", "contents", "COLMAP", "Git LFS pointer"]),
        ("empty", whole(0, []), ["cameras.bin", "number of cameras", "8 bytes", "end of the file, 0 bytes on"]),
        ("no images", whole(1, [0; 8]), ["", "views", "at least one", "none"]),
        (
            "text in a binary file",
            whole(2, "# 3D point list with one line of data per point:\n"),
            ["points3D.bin", "number of points", "at most 0", "found"],
        ),
    ]
}

fn broken_text() -> Vec<Case> {
    vec![
        (
            "an id in words",
            replace(0, "3 PINHOLE", "three PINHOLE"),
            ["cameras.txt", "line 2, camera: id", "a whole number", "\"three\""],
        ),
        (
            "a negative id",
            replace(0, "3 PINHOLE", "-1 PINHOLE"),
            ["cameras.txt", "line 2, camera: id", "at least 0", "\"-1\""],
        ),
        (
            "an unknown model",
            replace(0, "PINHOLE", "SPHERE"),
            ["cameras.txt", "camera 3: model", "SIMPLE_RADIAL_FISHEYE", "\"SPHERE\""],
        ),
        ("FOV", replace(0, "SIMPLE_RADIAL", "FOV"), ["cameras.txt", "camera 4: model", "OPENCV", "\"FOV\""]),
        (
            "a model alone",
            whole(0, "3 PINHOLE\n"),
            ["cameras.txt", "line 1, camera 3: width", "a whole number", "the end of the line"],
        ),
        ("an id alone", whole(0, "3\n"), ["cameras.txt", "camera 3: model", "PINHOLE", "\"\""]),
        ("half a pixel", replace(0, "8 6", "8.5 6"), ["cameras.txt", "camera 3: width", "a whole number", "\"8.5\""]),
        ("no height", replace(0, "8 6", "8 0"), ["cameras.txt", "camera 3: camera size", "at least one pixel", "8x0"]),
        (
            "endless width",
            replace(0, "8 6", "1152921504606846976 6"),
            ["cameras.txt", "camera 3: size", "4294967295", "1152921504606846976x6"],
        ),
        (
            "a parameter too few",
            replace(0, "7.0 6.0 4.0 3.0", "7.0 6.0 4.0"),
            ["cameras.txt", "camera 3: parameters", "4 for PINHOLE", "found 3"],
        ),
        (
            "a parameter too many",
            replace(0, "7.0 6.0 4.0 3.0", "7.0 6.0 4.0 3.0 2.0"),
            ["cameras.txt", "camera 3: parameters", "4 for PINHOLE", "found 5"],
        ),
        (
            "no parameters",
            replace(0, " 7.0 6.0 4.0 3.0", ""),
            ["cameras.txt", "camera 3: parameters", "4 for PINHOLE", "found 0"],
        ),
        (
            "a word for a number",
            replace(0, "7.0 6.0", "7.0 f"),
            ["cameras.txt", "line 2, camera 3: parameters", "a finite number", "\"f\""],
        ),
        ("no focal length", replace(0, "7.0 6.0", "0 6.0"), ["cameras.txt", "camera 3: fx", "positive", "found 0"]),
        (
            "NaN parameter",
            replace(0, "7.0 6.0", "nan 6.0"),
            ["cameras.txt", "camera 3: parameters", "a finite number", "NaN"],
        ),
        (
            "two cameras of an id",
            replace(0, "4 SIMPLE", "3 SIMPLE"),
            ["cameras.txt", "camera 3: id", "one camera of it", "second"],
        ),
        (
            "no rotation",
            replace(1, "1.0 0.0 0.0 0.0", "0 0 0 0"),
            ["images.txt", "image 1: pose", "length 1", "of length 0"],
        ),
        (
            "an endless place",
            replace(1, "2.0 3.0", "inf 3.0"),
            ["images.txt", "line 2, image 1: translation", "a finite number", "inf"],
        ),
        (
            "a line that ends early",
            whole(1, "1 1 0 0 0 1\n\n"),
            ["images.txt", "line 1, image 1: translation", "a finite number", "the end of the line"],
        ),
        (
            "no camera",
            whole(1, "1 1 0 0 0 1 2 3\n\n"),
            ["images.txt", "line 1, image 1: camera id", "a whole number", "the end of the line"],
        ),
        ("no name", replace(1, "3 a.png", "3"), ["images.txt", "image 1: name", "the name of a file", "none"]),
        (
            "an unknown camera",
            replace(1, "3 a.png", "77 a.png"),
            ["images.txt", "image 1: camera id", "one of the 2 cameras", "77"],
        ),
        (
            "no lines of observations",
            whole(1, "1 1 0 0 0 1 2 3 3 a.png\n2 1 0 0 0 1 2 3 3 b.png\n"),
            ["images.txt", "line 2, image 1: observations", "X Y POINT3D_ID", "\"b.png\""],
        ),
        (
            "half an observation",
            replace(1, "1.5 2.5 -1 1.5 2.5 -1", "1.5 2.5 -1 1.5"),
            ["images.txt", "line 3, image 1: observations", "may be empty", "the end of the line"],
        ),
        (
            "a colour beyond white",
            replace(2, " 1 2 3 ", " 1 256 3 "),
            ["points3D.txt", "line 2, point 9: colour", "0 to 255", "\"256\""],
        ),
        (
            "NaN point",
            replace(2, "1.0 2.0", "1.0 NaN"),
            ["points3D.txt", "point 9: position", "a finite number", "NaN"],
        ),
        (
            "no error",
            whole(2, "9 1 2 3 1 2 3\n"),
            ["points3D.txt", "line 1, point 9: error", "a number", "the end of the line"],
        ),
        (
            "half a track",
            replace(2, "1 0 1 0", "1 0 1"),
            ["points3D.txt", "line 2, point 9: track, POINT2D_IDX", "a whole number", "the end of the line"],
        ),
        ("not fetched", whole(1, LFS), ["images.txt", "contents", "COLMAP", "Git LFS pointer"]),
        (
            "bytes that are no text",
            whole(2, [0, 159, 146, 150, 10]),
            ["points3D.txt", "line 1, point: id", "a whole number", "\\x9f"],
        ),
        (
            "a line without end",
            whole(2, vec![b'7'; 3 << 20]),
            ["points3D.txt", "line 1, point: id", "a whole number", "\"7777777"],
        ),
        ("no views", whole(1, "# none\n"), ["", "views", "at least one", "none"]),
    ]
}

#[test]
fn broken_files_are_refused_by_name() {
    let (mut failures, mut count) = (Vec::new(), 0);
    for (ending, files, cases) in
        [("bin", Model::small().binary(), broken_binary()), ("txt", Model::small().text(), broken_text())]
    {
        read(ending, &files).unwrap();
        for (what, harm, parts) in cases {
            count += 1;
            let mut files = files.clone();
            harm(&mut files);
            match read(ending, &files) {
                Ok((views, _)) => failures.push(format!("{ending}, {what}: {} views", views.len())),
                Err(error) => {
                    let error = error.to_string();
                    if !parts.iter().all(|part| error.contains(part)) || error.len() > 1000 {
                        failures.push(format!("{ending}, {what}: {error}"));
                    }
                }
            }
        }
    }
    println!("{count} broken files");
    assert!(failures.is_empty(), "{failures:#?}");
}

#[cfg(unix)]
#[test]
fn what_is_no_file_is_refused_by_name() {
    use std::os::unix::fs::symlink;
    let mut failures = Vec::new();
    for (ending, files) in [("bin", Model::small().binary()), ("txt", Model::small().text())] {
        for name in NAMES {
            for kind in ["a folder", "a link to itself", "a link to nothing"] {
                let folder = tempfile::tempdir().unwrap();
                let sparse = folder.path().join("sparse/0");
                write(&sparse, ending, &files);
                let path = sparse.join(format!("{name}.{ending}"));
                fs::remove_file(&path).unwrap();
                match kind {
                    "a folder" => fs::create_dir(&path).unwrap(),
                    "a link to itself" => symlink(&path, &path).unwrap(),
                    _ => symlink(folder.path().join("nowhere"), &path).unwrap(),
                }
                match views(folder.path()) {
                    Err(error) if error.to_string().contains(&format!("{name}.{ending}: ")) => {}
                    other => failures.push(format!("{name}.{ending} as {kind}: {other:?}")),
                }
            }
        }
        // Folders that hold themselves, and images that are links in a circle, end as images that are not there.
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("sparse/0"), ending, &files);
        symlink(folder.path(), folder.path().join("images")).unwrap();
        symlink(folder.path().join("a.png"), folder.path().join("b.png")).unwrap();
        symlink(folder.path().join("b.png"), folder.path().join("a.png")).unwrap();
        let found = views(folder.path()).unwrap().0;
        assert!(found.len() == 2 && found.iter().all(|view| view.image.is_none()));
        let error = load(folder.path(), &LoadOptions::default()).unwrap_err().to_string();
        assert!(error.contains("no such file") && error.contains("a.png"), "{error}");
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn a_model_cut_at_each_byte() {
    let mut model = Model::small();
    model.images[0].3 = "a b \u{e9}.png".as_bytes().to_vec();
    let whole = model.binary();
    for file in 0..3 {
        for length in 0..whole[file].len() {
            let mut files = whole.clone();
            files[file].truncate(length);
            let error = read("bin", &files).expect_err("a cut binary file").to_string();
            assert!(error.contains(&format!("{}.bin: ", NAMES[file])), "cut to {length}: {error}");
        }
    }
    // A text may end between any two words: what is there is read, or refused by name.
    let whole = model.text();
    let (mut read_still, mut refused) = (0, 0);
    for file in 0..3 {
        for length in 0..whole[file].len() {
            let mut files = whole.clone();
            files[file].truncate(length);
            match read("txt", &files) {
                Ok((views, _)) => {
                    read_still += 1;
                    assert!(!views.is_empty() && views.iter().all(|view| view.camera.check().is_ok()));
                }
                Err(error) => {
                    refused += 1;
                    let error = error.to_string();
                    let named = NAMES.iter().any(|name| error.contains(&format!("{name}.txt: ")));
                    assert!(named || error.contains("views: "), "cut to {length}: {error}");
                }
            }
        }
    }
    println!("text cut at each byte: {read_still} read, {refused} refused");
}

#[test]
fn harmed_files_are_read_or_refused() {
    // Bytes flipped, put in, taken out and doubled, by a counter: nothing may panic, hang or give a broken camera.
    let mut state = 1_u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 33) as usize) % below.max(1)
    };
    let (mut read_still, mut refused) = (0, 0);
    for (ending, whole) in [("bin", Model::small().binary()), ("txt", Model::small().text())] {
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..1000 {
            let mut files = whole.clone();
            for _ in 0..1 + random(3) {
                let file = random(3);
                let at = random(files[file].len());
                match random(4) {
                    0 => files[file][at] ^= 1 << random(8),
                    1 => files[file].insert(at, b" \n#-.0e\x00\xff"[random(9)]),
                    2 => drop(files[file].remove(at)),
                    _ => {
                        let again = files[file][at..].to_vec();
                        files[file].extend(again);
                    }
                }
            }
            fs::remove_dir_all(folder.path().join("sparse")).ok();
            write(&folder.path().join("sparse"), ending, &files);
            match views(folder.path()) {
                Ok((views, _)) => {
                    read_still += 1;
                    for view in views {
                        view.camera.check().unwrap();
                        let ray = view.camera.ray(0, 0);
                        assert!(ray.is_none_or(|ray| ray.direction.iter().all(|v| v.is_finite())), "{view:?}");
                    }
                }
                Err(_) => refused += 1,
            }
        }
    }
    println!("{read_still} read, {refused} refused");
    assert!(read_still > 100 && refused > 1000);
}
