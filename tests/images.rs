//! Are images, masks and pixels what their files say?

#[path = "common/folders.rs"]
mod folders;

use std::fs;
use std::path::Path;

use candle_core::Device;
use candle_radfoam::camera::Lens;
use candle_radfoam::data::{Bitmap, Dataset, Image, LoadOptions, Pixels, load};
use folders::{camera, simple, view, write_capture};
use image::ImageFormat;

// ------------------------------------------------------------------------------------------------------ images

#[test]
fn images_of_every_kind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image.png");
    let open = |width, height| Image::open(&path, |_, _| Ok((width, height))).unwrap();

    // Two by one: red with half alpha, opaque blue. Averages are of premultiplied colours.
    image::RgbaImage::from_raw(2, 1, vec![255, 0, 0, 128, 0, 0, 255, 255]).unwrap().save(&path).unwrap();
    assert_eq!(open(2, 1).data, [128, 0, 0, 128, 0, 0, 255, 255]);
    assert_eq!(open(1, 1).data, [64, 0, 128, 192]);
    assert_eq!(open(1, 1).over([0.0, 1.0, 0.0])[0], [64.0 / 255.0, 1.0 - 192.0 / 255.0, 128.0 / 255.0]);
    assert_eq!(open(2, 1).pixel(1, 0), Some([0.0, 0.0, 1.0, 1.0]));
    assert_eq!(open(2, 1).pixel(2, 0), None);

    // Alpha that says nothing is dropped; 16 bits are averaged before they are rounded; grey becomes RGB.
    image::RgbaImage::from_raw(1, 1, vec![1, 2, 3, 255]).unwrap().save(&path).unwrap();
    assert_eq!((open(1, 1).channels, open(1, 1).data), (3, vec![1, 2, 3]));
    type Rgb16 = image::ImageBuffer<image::Rgb<u16>, Vec<u16>>;
    Rgb16::from_raw(2, 1, vec![257, 0, 65535, 514, 100, 65535]).unwrap().save(&path).unwrap();
    assert_eq!(open(2, 1).data, [1, 0, 255, 2, 0, 255]);
    Rgb16::from_raw(2, 1, vec![380, 0, 0, 380, 0, 0]).unwrap().save(&path).unwrap();
    assert_eq!(open(1, 1).data, [1, 0, 0]);
    image::GrayImage::from_raw(2, 1, vec![9, 200]).unwrap().save(&path).unwrap();
    assert_eq!(open(2, 1).data, [9, 9, 9, 200, 200, 200]);
    image::GrayAlphaImage::from_raw(1, 1, vec![200, 51]).unwrap().save(&path).unwrap();
    assert_eq!(open(1, 1).data, [40, 40, 40, 51]);
}

/// Every format, of whatever ending.
#[test]
fn formats() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image.jpg");
    let open = || Image::open(&path, |w, h| Ok((w, h)));
    let rgb = image::RgbImage::from_fn(40, 30, |x, y| image::Rgb([(5 * x) as u8, (7 * y) as u8, 90]));
    let rgba = image::RgbaImage::from_fn(40, 30, |x, y| image::Rgba([(5 * x) as u8, 7, 90, (8 * y) as u8]));
    let premultiplied: Vec<u8> = rgba
        .pixels()
        .flat_map(|p| {
            [0, 1, 2, 3].map(|i| if i == 3 { p[3] } else { ((u16::from(p[i]) * u16::from(p[3]) + 127) / 255) as u8 })
        })
        .collect();
    for format in [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Tiff] {
        rgb.save_with_format(&path, format).unwrap();
        let image = open().unwrap();
        assert_eq!((image.width, image.height, image.channels), (40, 30, 3), "{format:?}");
        assert_eq!(image.data, rgb.as_raw().as_slice(), "{format:?}");
        rgba.save_with_format(&path, format).unwrap();
        assert_eq!(open().unwrap().data, premultiplied, "{format:?}");
    }
    rgb.save_with_format(&path, ImageFormat::Jpeg).unwrap();
    let worst = open().unwrap().data.iter().zip(rgb.as_raw()).map(|(&a, &b)| a.abs_diff(b)).max();
    assert!(worst.unwrap() < 20, "{worst:?}");
    type Grey16 = image::ImageBuffer<image::Luma<u16>, Vec<u16>>;
    for format in [ImageFormat::Png, ImageFormat::Tiff] {
        Grey16::from_raw(2, 1, vec![257, 65535]).unwrap().save_with_format(&path, format).unwrap();
        assert_eq!(open().unwrap().data, [1, 1, 1, 255, 255, 255], "{format:?}");
    }
    let float = image::Rgb32FImage::from_pixel(2, 1, image::Rgb([0.5; 3]));
    float.save_with_format(&path, ImageFormat::Tiff).unwrap();
    let error = open().unwrap_err().to_string();
    assert!(error.contains("8 or 16 bits"), "{error}");
}

/// Writes a grey ramp as a JPEG file whose EXIF data have `orientation`.
fn write_turned(path: &Path, width: u32, height: u32, orientation: u16) {
    let mut jpeg = Vec::new();
    let ramp = image::GrayImage::from_fn(width, height, |x, _| image::Luma([(x * 255 / (width - 1)) as u8]));
    ramp.write_to(&mut std::io::Cursor::new(&mut jpeg), ImageFormat::Jpeg).unwrap();
    // One entry: tag 0x0112, a single short.
    let [low, high] = orientation.to_le_bytes();
    let entry = [0x12, 1, 3, 0, 1, 0, 0, 0, low, high, 0, 0];
    let tiff = [b"II*\0\x08\0\0\0\x01\0", &entry[..], &[0; 4]].concat();
    let segment = [b"Exif\0\0", &tiff[..]].concat();
    let length = (segment.len() as u16 + 2).to_be_bytes();
    let marker = [&[0xff, 0xe1], &length[..], &segment].concat();
    fs::write(path, [&jpeg[..2], &marker, &jpeg[2..]].concat()).unwrap();
}

/// The camera's size says whether the poses are for the pixels as stored or as turned.
#[test]
fn orientation_is_applied_where_the_camera_needs_it() {
    // Stored 32x24, dark on the left. Orientation, the camera's size, and the size and the darkest corner expected.
    let cases = [
        (6, Some([24, 32]), Some(([24, 32], "top"))),
        (8, Some([24, 32]), Some(([24, 32], "bottom"))),
        // The same aspect at another size.
        (6, Some([240, 320]), Some(([24, 32], "top"))),
        // The stored size fits: as stored, whatever the EXIF data say.
        (6, Some([32, 24]), Some(([32, 24], "left"))),
        (3, Some([32, 24]), Some(([32, 24], "left"))),
        // Nothing to go by: as stored.
        (6, None, Some(([32, 24], "left"))),
        // Not mended by any turn, or not by the one that the file has.
        (6, Some([24, 24]), None),
        (1, Some([24, 32]), None),
        (3, Some([24, 32]), None),
    ];
    for (orientation, size, expected) in cases {
        let folder = tempfile::tempdir().unwrap();
        let mut entries = serde_json::json!({ "camera_angle_x": 0.8 });
        if let Some([w, h]) = size {
            (entries["w"], entries["h"]) = (w.into(), h.into());
        }
        write_capture(folder.path(), 1, 1.0, 0.0, entries);
        write_turned(&folder.path().join("00.png"), 32, 24, orientation);
        let loaded = load(folder.path(), &LoadOptions::default());
        let found = loaded.as_ref().ok().map(|dataset| {
            let Image { width, height, .. } = dataset.train[0].image;
            let dark = |col, row| dataset.train[0].image.pixel(col, row).unwrap()[0] < 0.4;
            let dark = [dark(0, 0), dark(width - 1, 0), dark(0, height - 1), dark(width - 1, height - 1)];
            let side = match dark {
                [true, true, false, false] => "top",
                [false, false, true, true] => "bottom",
                [true, false, true, false] => "left",
                _ => "elsewhere",
            };
            ([width, height], side)
        });
        assert_eq!(found, expected, "{orientation} {size:?}: {:?}", loaded.err().map(|e| e.to_string()));
    }
}

#[test]
fn masks_of_other_sizes_and_formats() {
    let folder = tempfile::tempdir().unwrap();
    write_capture(folder.path(), 1, 1.0, 0.0, simple(7.0));
    let text = fs::read_to_string(folder.path().join("transforms.json")).unwrap();
    let text = text.replacen("{\"file_path\"", "{\"mask_path\":\"mask.png\",\"file_path\"", 1);
    fs::write(folder.path().join("transforms.json"), text).unwrap();
    let path = folder.path().join("mask.png");
    let hidden = || -> Result<Vec<usize>, String> {
        let dataset = load(folder.path(), &LoadOptions::default()).map_err(|e| e.to_string())?;
        let mask = dataset.train[0].mask.clone();
        Ok(mask.map_or(Vec::new(), |mask| (0..mask.len()).filter(|&pixel| !mask.get(pixel)).collect()))
    };
    // Twice the image's 8x6: one black pixel hides the one that covers it.
    let mut large = image::GrayImage::from_pixel(16, 12, image::Luma([255]));
    large.put_pixel(5, 2, image::Luma([0]));
    large.save(&path).unwrap();
    assert_eq!(hidden().unwrap(), [8 + 2]);
    // Half of it: one black pixel hides four.
    let mut small = image::GrayImage::from_pixel(4, 3, image::Luma([1]));
    small.put_pixel(3, 0, image::Luma([0]));
    small.save(&path).unwrap();
    assert_eq!(hidden().unwrap(), [6, 7, 14, 15]);
    // Any colour counts, blue too; alpha does not.
    let blue =
        image::RgbaImage::from_fn(8, 6, |x, _| image::Rgba([0, 0, u8::from(x > 0), if x > 4 { 0 } else { 255 }]));
    blue.save(&path).unwrap();
    assert_eq!(hidden().unwrap(), [0, 8, 16, 24, 32, 40]);
    let deep = image::ImageBuffer::<image::Luma<u16>, _>::from_fn(8, 6, |x, _| image::Luma([u16::from(x > 0)]));
    deep.save(&path).unwrap();
    assert_eq!(hidden().unwrap(), [0, 8, 16, 24, 32, 40]);
    // What compression leaves of black is black.
    let jpeg = image::GrayImage::from_fn(8, 6, |x, _| image::Luma([if x > 3 { 240 } else { 9 }]));
    jpeg.save_with_format(&path, ImageFormat::Jpeg).unwrap();
    assert_eq!(hidden().unwrap().len(), 24);
    // Nothing left, a shape that is none of the image's, no mask at all.
    image::GrayImage::new(8, 6).save(&path).unwrap();
    assert_eq!(hidden().unwrap().len(), 48);
    let dataset = load(folder.path(), &LoadOptions::default()).unwrap();
    let error = Pixels::new(&dataset.train).unwrap_err().to_string();
    assert!(error.contains("none of 48"), "{error}");
    image::GrayImage::new(6, 8).save(&path).unwrap();
    let error = hidden().unwrap_err();
    assert!(error.contains("aspect") && error.contains("mask.png") && error.contains("6x8"), "{error}");
    fs::remove_file(&path).unwrap();
    let error = hidden().unwrap_err();
    assert!(error.contains("mask.png"), "{error}");
    // A mask in a view that was put together by hand has to fit as well.
    let mut views = vec![view("a", camera(4, 3, [0.0; 3]), 3)];
    views[0].mask = Some(Bitmap::from_fn(11, |_| true).unwrap());
    assert!(Pixels::new(&views).is_err() && Dataset::new("", views, vec![], None).is_err());
}

#[test]
fn masks_and_lenses_decide_together() {
    let mut wide = camera(16, 16, [0.0; 3]);
    (wide.fx, wide.fy) = (10.0, 10.0);
    wide.lens = Lens::OpenCv { k1: -0.4, k2: 0.0, p1: 0.0, p2: 0.0 };
    let mut one = view("a", wide, 3);
    let outside = 256 - u64::from(one.in_use().unwrap().unwrap().count());
    // The left half is masked, and half of what has no ray lies there, as the lens is symmetric.
    one.mask = Some(Bitmap::from_fn(256, |pixel| pixel % 16 >= 8).unwrap());
    let in_use = one.in_use().unwrap().unwrap();
    assert!((0..256).all(
        |pixel| in_use.get(pixel) == (pixel % 16 >= 8 && wide.ray(pixel as u32 % 16, pixel as u32 / 16).is_some())
    ));
    let dataset = Dataset::new("", vec![one], vec![view("b", wide, 3)], None).unwrap();
    assert!(outside > 0);
    assert_eq!((dataset.num_masked, dataset.num_outside_lens), (128, outside / 2 + outside));
}

#[test]
fn areas_are_exact() {
    // 3 columns to 2: the middle one is shared in halves.
    let image = Image::new(3, 1, 3, [[30, 0, 0], [90, 3, 0], [210, 0, 255]].concat()).unwrap();
    assert_eq!(image.clone().resized(2, 1).unwrap().data, [50, 1, 0, 170, 1, 170]);
    assert_eq!(image.clone().resized(3, 1).unwrap(), image);
    assert!(image.clone().resized(0, 1).is_err());
    let white = Image::new(7, 5, 4, vec![255; 140]).unwrap();
    for (width, height) in [(3, 2), (1, 1), (7, 1), (6, 4)] {
        assert!(white.clone().resized(width, height).unwrap().data.iter().all(|&v| v == 255), "{width}x{height}");
    }
    assert!(Image::new(2, 2, 3, vec![0; 11]).is_err() && Image::new(2, 2, 2, vec![0; 8]).is_err());
}

// ------------------------------------------------------------------------------------------------------ pixels

#[test]
fn flat_indices() {
    let views = [view("a", camera(5, 3, [1.0, 0.0, 0.0]), 3), view("b", camera(2, 4, [0.0, 2.0, 0.0]), 4)];
    let pixels = Pixels::new(&views).unwrap();
    assert_eq!((pixels.len(), pixels.channels()), (23, 4));
    assert_eq!(pixels.shapes(), [[3, 5], [4, 2]]);
    let cases = [(0, (0, 0, 0)), (4, (0, 4, 0)), (5, (0, 0, 1)), (14, (0, 4, 2)), (15, (1, 0, 0)), (22, (1, 1, 3))];
    for (index, place) in cases {
        assert_eq!(pixels.locate(index), Some(place), "{index}");
    }
    assert_eq!(pixels.locate(23), None);
    assert!(pixels.batch(&[0, 23]).is_err() && Pixels::new(&[]).is_err());
    assert!(pixels.batch(&[]).unwrap().is_empty());

    // Sorted, reversed and repeated indices give the same rows, over several tasks.
    let many: Vec<u32> = (0..6000).map(|i| i * 7 % 23).collect();
    let batch = pixels.batch(&many).unwrap();
    assert!(pixels.in_use().is_none());
    for (i, &index) in many.iter().enumerate() {
        let (view, col, row) = pixels.locate(index).unwrap();
        let ray = views[view].camera.ray(col, row).unwrap();
        assert_eq!((batch.origins[i], batch.directions[i]), (ray.origin, ray.direction));
        assert_eq!((Some(batch.rgba[i]), batch.views[i]), (views[view].image.pixel(col, row), view as u32));
    }
    let mut sorted = many.clone();
    sorted.sort_unstable();
    let rows = |batch: &candle_radfoam::data::Batch| -> Vec<_> {
        let mut rows: Vec<_> =
            (0..batch.len()).map(|i| format!("{:?}{:?}", batch.directions[i], batch.rgba[i])).collect();
        rows.sort();
        rows
    };
    assert_eq!(rows(&batch), rows(&pixels.batch(&sorted).unwrap()));

    let tensors = batch.to_tensors(&Device::Cpu).unwrap();
    assert_eq!(tensors.origins.dims(), [6000, 3]);
    assert_eq!(tensors.rgba.to_vec2::<f32>().unwrap()[17], batch.rgba[17]);
    assert_eq!(tensors.directions.to_vec2::<f32>().unwrap()[5999], batch.directions[5999]);
}

#[test]
fn pixels_without_a_ray_are_not_in_use() {
    let mut wide = camera(16, 16, [0.0; 3]);
    (wide.fx, wide.fy) = (10.0, 10.0);
    wide.lens = Lens::OpenCv { k1: -0.4, k2: 0.0, p1: 0.0, p2: 0.0 };
    let pixels = Pixels::new(&[view("a", camera(3, 3, [0.0; 3]), 3), view("b", wide, 3)]).unwrap();
    let in_use = pixels.in_use().unwrap();
    assert!((9..165).contains(&in_use.count()), "{}", in_use.count());
    assert!((0..9).all(|pixel| in_use.get(pixel)) && !in_use.get(9));
    for pixel in 0..pixels.len() {
        assert_eq!(pixels.batch(&[pixel as u32]).is_ok(), in_use.get(pixel), "{pixel}");
    }
    let error = pixels.batch(&[0, 9, 10]).unwrap_err().to_string();
    assert!(error.contains("in use") && error.contains('9'), "{error}");
}

#[test]
fn lower_resolutions() {
    let views = vec![view("a", camera(8, 6, [1.0, 0.0, 0.0]), 3), view("b", camera(9, 7, [0.0, 2.0, 0.0]), 3)];
    let dataset = Dataset::new("made up", views, vec![view("t", camera(8, 6, [0.0; 3]), 3)], None).unwrap();
    let half = dataset.resized(2).unwrap();
    assert_eq!(Pixels::new(&half.train).unwrap().shapes(), [[3, 4], [4, 5]]);
    assert_eq!((half.extent, half.normalization), (dataset.extent, dataset.normalization));
    assert_eq!(half.test[0].camera.fx, 4.0);
    assert_eq!(half.train[0].camera.world_from_camera, dataset.train[0].camera.world_from_camera);
    assert_eq!(dataset.resized(1).unwrap(), dataset);
    assert_eq!(dataset.resized(1000).unwrap().train[0].image.data.len(), 3);
    assert!(dataset.resized(0).is_err());
}

// ------------------------------------------------------------------------------------------------------ WebP

/// A WebP file of chunks.
fn riff(chunks: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
    let mut body = b"WEBP".to_vec();
    for (name, data) in chunks {
        body.extend([&name[..], &(data.len() as u32).to_le_bytes(), data].concat());
        body.resize(body.len().next_multiple_of(2), 0);
    }
    [b"RIFF", &(body.len() as u32).to_le_bytes()[..], &body].concat()
}

/// Lossless data hold a fourth channel whether or not it counts; the file says, at one of two places.
#[test]
fn lossless_webp_has_the_alpha_that_its_header_says() {
    const ALPHA: u8 = 0x10;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.webp");
    let open = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        Image::open(&path, |w, h| Ok((w, h)))
    };
    let pixel = |x, y| image::Rgba([(20 * x) as u8, (40 * y) as u8, 90, (30 * x + 5) as u8]);
    let rgba = image::RgbaImage::from_fn(8, 6, pixel);
    let mut with = Vec::new();
    rgba.write_to(&mut std::io::Cursor::new(&mut with), ImageFormat::WebP).unwrap();
    assert_eq!((&with[12..16], with[24] & ALPHA), (&b"VP8L"[..], ALPHA));
    let mut without = with.clone();
    without[24] &= !ALPHA;
    let [transparent, opaque] = [&with, &without].map(|bytes| open(bytes).unwrap());
    let straight: Vec<u8> = rgba.pixels().flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect();
    assert_eq!((transparent.channels, opaque.channels), (4, 3));
    assert_eq!(opaque.data, straight);
    let premultiplied = |i: usize| (f64::from(straight[i]) * f64::from(rgba.as_raw()[i / 3 * 4 + 3]) / 255.0).round();
    (0..straight.len()).for_each(|i| assert_eq!(f64::from(transparent.data[i / 3 * 4 + i % 3]), premultiplied(i)));

    // The extended format has flags and a size first, and other chunks before and after.
    let extended = |flags: u8, simple: &[u8]| {
        let header = [flags, 0, 0, 0, 7, 0, 0, 5, 0, 0];
        let data = &simple[20..][..u32::from_le_bytes(simple[16..20].try_into().unwrap()) as usize];
        riff(&[(b"VP8X", &header), (b"ODD ", b"odd"), (b"VP8L", data), (b"XMP ", b"<x/>")])
    };
    const XMP: u8 = 0x04;
    for (flags, simple, expected) in
        [(XMP, &without, &opaque), (XMP, &with, &opaque), (XMP | ALPHA, &with, &transparent)]
    {
        assert_eq!(open(&extended(flags, simple)).as_ref().ok(), Some(expected), "flags {flags:x}");
    }
    // Without a picture, of another size than its picture, or animated without a frame.
    let header = [0, 0, 0, 0, 7, 0, 0, 5, 0, 0];
    let mut wide = extended(0, &without);
    wide[24] = 8;
    for bytes in [riff(&[(b"VP8X", &header)]), riff(&[]), wide, extended(2, &without), b"RIFF\x04\0\0\0WEBP".to_vec()] {
        let error = open(&bytes).unwrap_err().to_string();
        assert!(error.contains("a.webp"), "{error}");
    }
}

#[test]
fn wide_levels_with_alpha() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.png");
    let open = || Image::open(&path, |w, h| Ok((w, h))).unwrap();
    type Rgba16 = image::ImageBuffer<image::Rgba<u16>, Vec<u16>>;
    type GreyAlpha16 = image::ImageBuffer<image::LumaA<u16>, Vec<u16>>;
    for format in [ImageFormat::Png, ImageFormat::Tiff] {
        let half = vec![65535, 0, 25700, 32768, 514, 257, 0, 65535];
        Rgba16::from_raw(2, 1, half).unwrap().save_with_format(&path, format).unwrap();
        assert_eq!(open().data, [128, 0, 50, 128, 2, 1, 0, 255], "{format:?}");
        let opaque = vec![65535, 0, 25700, 65535];
        Rgba16::from_raw(1, 1, opaque).unwrap().save_with_format(&path, format).unwrap();
        assert_eq!((open().channels, open().data), (3, vec![255, 0, 100]), "{format:?}");
    }
    GreyAlpha16::from_raw(2, 1, vec![51400, 32768, 51400, 0]).unwrap().save(&path).unwrap();
    assert_eq!(open().data, [100, 100, 100, 128, 0, 0, 0, 0]);
}
