//! Are damaged JPEG files refused, and whole ones never?

use std::path::Path;

use candle_radfoam::data::Image;

/// A photograph's worth of detail, as this crate's decoder reads it back from its own encoder: one scan, no restarts.
fn baseline() -> Vec<u8> {
    let mut bytes = Vec::new();
    let level = |a: u32, b: u32| (127.0 + 120.0 * (f64::from(a * b) / 300.0).sin()) as u8;
    let picture = image::RgbImage::from_fn(200, 150, |x, y| image::Rgb([level(x, y), level(x, 9), level(5, y)]));
    picture.write_to(&mut std::io::Cursor::new(&mut bytes), image::ImageFormat::Jpeg).unwrap();
    bytes
}

/// By libjpeg-turbo: 70x50 pixels, colour at half the size; in ten scans of the default script, with bits that follow.
const PROGRESSIVE: &[u8] = include_bytes!("jpeg/progressive.jpg");
/// The same in one scan, with a restart marker after each two units.
const RESTARTS: &[u8] = include_bytes!("jpeg/restarts.jpg");

/// What `Image::open` says of a file.
fn said(bytes: &[u8]) -> Result<Image, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jpg");
    std::fs::write(&path, bytes).unwrap();
    Image::open(&path, |w, h| Ok((w, h))).map_err(|error| error.to_string())
}

/// Where the data of the first scan begin.
fn data_start(bytes: &[u8]) -> usize {
    let scan = bytes.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap();
    scan + 2 + usize::from(bytes[scan + 3])
}

/// Where marker `marker` is, from the last on.
fn places(bytes: &[u8], marker: u8) -> Vec<usize> {
    (0..bytes.len() - 1).rev().filter(|&i| bytes[i..i + 2] == [0xff, marker]).collect()
}

#[test]
fn whole_files_load() {
    let baseline = baseline();
    for whole in [&baseline[..], PROGRESSIVE, RESTARTS] {
        let image = said(whole).unwrap();
        let mut fine: Vec<(&str, Vec<u8>)> = vec![
            ("something after the end", [whole, b"trailer \xff\xd8\xff\xd9"].concat()),
            ("zeros after the end", [whole, &[0; 3000]].concat()),
        ];
        let end = places(whole, 0xd9)[0];
        let inserted = |at: usize, bytes: &[u8]| [&whole[..at], bytes, &whole[at..]].concat();
        fine.push(("fill before a marker", inserted(end, &[0xff; 5])));
        fine.push(("two bytes too many", inserted(end, &[7; 2])));
        fine.push(("zeros up to the end of a block", inserted(end, &[0; 100])));
        fine.push(("a comment", inserted(2, b"\xff\xfe\x00\x06\xff\xd9\xff\xda")));
        for (what, bytes) in fine {
            assert_eq!(said(&bytes).as_ref(), Ok(&image), "{what}");
        }
    }
}

#[test]
fn damaged_files_are_refused() {
    let baseline = baseline();
    let mut failures = Vec::new();
    let mut check = |what: &str, bytes: &[u8], must_say: &str| match said(bytes) {
        Ok(_) => failures.push(format!("{what}: taken")),
        Err(error) if !error.contains(must_say) || !error.contains("pixels") => {
            failures.push(format!("{what}: no word of {must_say:?}: {error}"));
        }
        Err(_) => {}
    };
    for (name, whole) in [("baseline", &baseline[..]), ("progressive", PROGRESSIVE), ("restarts", RESTARTS)] {
        let start = data_start(whole);
        let end = places(whole, 0xd9)[0];
        let middle = start + (end - start) / 2;
        let inserted = |at: usize, bytes: &[u8]| [&whole[..at], bytes, &whole[at..]].concat();
        check(&format!("{name}: no end"), &whole[..end], "the end of the file");
        check(&format!("{name}: the end too soon"), &inserted(middle, b"\xff\xd9"), "");
        check(&format!("{name}: a hole"), &[&whole[..middle], &whole[middle + 100..]].concat(), "unit");
        check(&format!("{name}: a piece twice"), &inserted(middle, &whole[middle - 100..middle]), "unit");
        check(&format!("{name}: foreign data at the end"), &inserted(end, &[0x55; 40]), "bytes after the last");
        let mut ones = whole.to_vec();
        ones[middle..middle + 40].iter_mut().enumerate().for_each(|(i, byte)| *byte = [0xff, 0][i % 2]);
        check(&format!("{name}: ones"), &ones, "unit");
    }
    // Two restart markers in each other's place, and one that is gone.
    let (first, second) = (places(RESTARTS, 0xd1)[0], places(RESTARTS, 0xd2)[0]);
    let mut swapped = RESTARTS.to_vec();
    (swapped[first + 1], swapped[second + 1]) = (0xd2, 0xd1);
    check("swapped restart markers", &swapped, "not restart marker");
    check("no restart marker", &[&RESTARTS[..first], &RESTARTS[first + 2..]].concat(), "too many");
    let (first, second) = (first.min(second), first.max(second));
    check("no data between two restart markers", &[&RESTARTS[..first], &RESTARTS[second..]].concat(), "restart");
    // Scans that are gone: of the colours, which no other has; whether one of more bits is, nobody can tell.
    let scans = places(PROGRESSIVE, 0xda);
    let first = scans[scans.len() - 1];
    let next = places(PROGRESSIVE, 0xc4).into_iter().rev().find(|&at| at > first).unwrap();
    check("no first scan", &[&PROGRESSIVE[..first], &PROGRESSIVE[next..]].concat(), "no scan of component");
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

/// Noise in place of 64 bytes, anywhere in the data: some of it has as many codes as what it is put in place of.
#[test]
fn noise_is_found() {
    let baseline = baseline();
    let mut state = 1_u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    for (name, whole) in [("baseline", &baseline[..]), ("progressive", PROGRESSIVE), ("restarts", RESTARTS)] {
        let places: Vec<_> = (data_start(whole)..whole.len() - 66).step_by(37).collect();
        let is_found = |&&at: &&usize| {
            let mut bytes = whole.to_vec();
            bytes[at..at + 64].fill_with(&mut noise);
            said(&bytes).is_err()
        };
        let found = places.iter().filter(is_found).count();
        println!("{name}: {found} of {}", places.len());
        assert!(5 * found >= 4 * places.len(), "{name}: {found} of {}", places.len());
    }
}

/// The captures beside the checkout.
#[test]
fn photographs_load() {
    let root = std::env::var_os("RADFOAM_DATA").map(std::path::PathBuf::from);
    let root = root.unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data").into());
    let folders = ["fox/images", "loader-fixtures/maupertuis-txt/images", "loader-fixtures/sceaux-images_4"];
    for folder in folders.map(|folder| root.join(folder)) {
        let Ok(files) = std::fs::read_dir(&folder) else {
            println!("skipped: no {}", folder.display());
            continue;
        };
        let open = |path: &Path| Image::open(path, |_, _| Ok((8, 8))).err().map(|error| error.to_string());
        for path in files.map(|file| file.unwrap().path()).filter(|path| path.extension().is_some()).take(12) {
            assert_eq!(open(&path), None);
        }
    }
}
