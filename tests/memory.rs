//! Does loading take the memory that it says: the result, and at most two decoded images a core?

#[path = "common/allocator.rs"]
mod allocator;
#[path = "common/folders.rs"]
mod folders;

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;

use allocator::{MOST, NOW};
use candle_radfoam::data::{Image, LoadOptions, Resize, load};
use folders::{options, orbit};
use serde_json::json;

/// The result of `work`, and the bytes that it held at most beyond those held before it.
fn peak<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = NOW.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let result = work();
    (result, MOST.load(Ordering::Relaxed) - before)
}

fn write(folder: &Path, num_views: u32, ending: &str, [width, height]: [u32; 2], alpha: bool) {
    let level = |x: u32, y: u32, i: u32| ((x * x / 97 + y * y / 53 + 40 * i) % 256) as u8;
    let frames: Vec<_> = (0..num_views)
        .map(|i| {
            let name = format!("{i:02}.{ending}");
            let path = folder.join(&name);
            let rgb = |x, y| [level(x, y, i), level(y, x, i), level(x + y, y, i)];
            if alpha {
                let pixel = |x, y| image::Rgba([rgb(x, y)[0], rgb(x, y)[1], rgb(x, y)[2], level(x, x, 1)]);
                image::RgbaImage::from_fn(width, height, pixel).save(path).unwrap();
            } else {
                image::RgbImage::from_fn(width, height, |x, y| image::Rgb(rgb(x, y))).save(path).unwrap();
            }
            json!({ "file_path": name, "transform_matrix": orbit(f64::from(i), [0.0; 3], 1.0, 0.0) })
        })
        .collect();
    fs::write(folder.join("transforms.json"), json!({ "fl_x": 900, "frames": frames }).to_string()).unwrap();
}

#[test]
fn memory() {
    const SLACK: usize = 1 << 20;
    let threads = 2;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let size = [1200, 900];
    for (ending, alpha) in [
        ("jpg", false),
        ("png", false),
        ("png", true),
        ("webp", false),
        ("webp", true),
        ("tiff", false),
        ("tiff", true),
    ] {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), 6, ending, size, alpha);
        let decoded = size[0] as usize * size[1] as usize * if alpha { 4 } else { 3 };
        for resize in [Resize::None, Resize::Downsample(2)] {
            let (dataset, most) = peak(|| pool.install(|| load(folder.path(), &options(resize)).unwrap()));
            let result: usize = dataset.train.iter().chain(&dataset.test).map(|view| view.image.data.len()).sum();
            let beyond = most - result;
            println!(
                "{ending}, alpha {alpha}, {resize}: {:.2} decoded images a core",
                beyond as f64 / (threads * decoded) as f64
            );
            assert!(beyond <= 2 * threads * decoded, "{ending}, alpha {alpha}, {resize}: {beyond} bytes");
        }
    }

    // What a file claims takes no memory before it is there.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.png");
    image::GrayImage::new(8, 6).save(&path).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    for side in [40_000_u32, i32::MAX as u32] {
        bytes[16..20].copy_from_slice(&side.to_be_bytes());
        bytes[20..24].copy_from_slice(&side.to_be_bytes());
        // The checksum of the header, kind and data.
        let mut crc = !0_u32;
        for &byte in &bytes[12..29] {
            crc ^= u32::from(byte);
            (0..8).for_each(|_| crc = if crc & 1 == 1 { 0xedb8_8320 ^ (crc >> 1) } else { crc >> 1 });
        }
        bytes[29..33].copy_from_slice(&(!crc).to_be_bytes());
        fs::write(&path, &bytes).unwrap();
        let (opened, most) = peak(|| Image::open(&path, |w, h| Ok((w, h))).map_err(|e| e.to_string()));
        assert!(opened.is_err() && most < SLACK, "{side}: {most} bytes, {opened:?}");
    }
    // Neither do the values of a tag, here those of the photometric interpretation.
    let path = folder.path().join("a.tif");
    image::GrayImage::new(8, 6).save(&path).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let one = [6, 1, 3, 0, 1, 0, 0, 0];
    let at = bytes.windows(8).position(|entry| entry == one).expect("the tag") + 4;
    for count in [7_569_409_u32, 1000] {
        bytes[at..at + 4].copy_from_slice(&count.to_le_bytes());
        fs::write(&path, &bytes).unwrap();
        let (opened, most) = peak(|| Image::open(&path, |w, h| Ok((w, h))).map_err(|e| e.to_string()));
        let is_told = opened.as_ref().is_err_and(|error| error.contains("tag 262"));
        assert!(is_told && most < SLACK, "{count}: {most} bytes, {opened:?}");
    }
    let header = "{'descr': '<f8', 'fortran_order': True, 'shape': (1152921504606846976, 17), }";
    let npy = [b"\x93NUMPY\x01\0", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), &[0; 17 * 8]].concat();
    fs::write(folder.path().join("poses_bounds.npy"), npy).unwrap();
    let deep = format!("{{\"frames\": {}", "[".repeat(100_000));
    for text in [deep, format!("{{\"other\": \"{}", "x".repeat(100_000))] {
        fs::write(folder.path().join("transforms.json"), text).unwrap();
        for name in ["transforms.json", "poses_bounds.npy"] {
            let (loaded, most) =
                peak(|| load(folder.path().join(name), &LoadOptions::default()).map_err(|e| e.to_string()));
            assert!(loaded.is_err() && most < SLACK, "{name}: {most} bytes, {:?}", loaded.map(|d| d.layout));
        }
    }
}
