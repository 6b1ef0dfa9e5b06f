//! Loading a capture beside the bare decoder on the same files: `cargo bench --bench loading`.
//!
//! Elements are pixels of the files, so Melem/s are megapixels a second, on all cores.

use std::path::{Path, PathBuf};
use std::time::Duration;

use candle_radfoam::data::{LoadOptions, Resize, load};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use image::ImageReader;
use rayon::prelude::*;
use serde_json::json;

const SIZE: [u32; 2] = [1600, 1200];
const NUM_VIEWS: u32 = 8;

/// A capture of pictures with gradients, edges and some noise, as photographs have them.
fn write(folder: &Path, ending: &str) {
    let noise =
        |x: u32, y: u32| (x.wrapping_mul(0x9e37_79b1) ^ y.wrapping_mul(0x85eb_ca77)).wrapping_mul(0xc2b2_ae35) >> 28;
    let frames: Vec<_> = (0..NUM_VIEWS)
        .map(|i| {
            let pixel = |x: u32, y: u32| {
                let edge = if (x / 150 + y / 130 + i).is_multiple_of(3) { 60 } else { 0 };
                let level = |a: u32| ((a / 12 + edge + noise(x, y)) % 256) as u8;
                image::Rgb([level(x), level(y), level(x + y)])
            };
            let name = format!("{i}.{ending}");
            image::RgbImage::from_fn(SIZE[0], SIZE[1], pixel).save(folder.join(&name)).expect("a picture");
            let matrix =
                [[1.0, 0.0, 0.0, f64::from(i)], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]];
            json!({ "file_path": name, "transform_matrix": matrix })
        })
        .collect();
    let file = json!({ "fl_x": 1500, "frames": frames });
    std::fs::write(folder.join("transforms.json"), file.to_string()).expect("a file");
}

/// Files of pictures in `folder`, and below it.
fn pictures(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut found: Vec<_> = entries
        .flat_map(|path| if path.is_dir() { pictures(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|ending| ending == "png" || ending == "jpg"))
        .collect();
    found.sort();
    found
}

fn compare(c: &mut Criterion, name: &str, capture: &Path, files: &[PathBuf]) {
    let size = |path: &PathBuf| image::image_dimensions(path).expect("a picture");
    let num_pixels: u64 = files.iter().map(size).map(|(w, h)| u64::from(w) * u64::from(h)).sum();
    let mut group = c.benchmark_group(format!("loading/{name}"));
    group.throughput(Throughput::Elements(num_pixels)).sample_size(10).measurement_time(Duration::from_secs(4));
    group.bench_function("bare decoder", |b| {
        b.iter(|| {
            let decode = |path: &PathBuf| ImageReader::open(path).expect("a file").decode().expect("a picture").width();
            files.par_iter().map(decode).max()
        });
    });
    for resize in [Resize::None, Resize::Downsample(2), Resize::Downsample(8)] {
        let options = LoadOptions { resize, ..LoadOptions::default() };
        group.bench_function(format!("load, resize {resize}"), |b| {
            b.iter(|| load(capture, &options).expect("a capture"))
        });
    }
    group.finish();
}

fn loading(c: &mut Criterion) {
    for ending in ["jpg", "png"] {
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path(), ending);
        compare(c, ending, folder.path(), &pictures(folder.path()));
    }
    let root = std::env::var_os("RADFOAM_DATA").map(PathBuf::from);
    let root = root.unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data").into());
    // Of the chair, what is loaded: train and test, not val.
    for (name, folders) in [("fox", &["images"][..]), ("chair-400", &["train", "test"])] {
        let capture = root.join(name);
        if capture.is_dir() {
            let files: Vec<_> = folders.iter().flat_map(|folder| pictures(&capture.join(folder))).collect();
            compare(c, name, &capture, &files);
        }
    }
}

criterion_group!(benches, loading);
criterion_main!(benches);
