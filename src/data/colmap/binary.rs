//! The binary files, little-endian: `src/colmap/scene/reconstruction_io_binary.cc`.

use std::path::Path;

use super::{Cameras, Image, MODELS, Point, image, insert, intrinsics, model, unsupported};
use crate::{Error, Result};

/// Position (two doubles) and 3D point of an observation.
const OBSERVATION: usize = 8 + 8 + 8;
/// Image and observation of an element of a track.
const TRACK_ELEMENT: usize = 4 + 4;

/// A file's bytes, read field by field.
struct Fields<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    record: String,
}

impl<'a> Fields<'a> {
    fn new(path: &'a Path, bytes: &'a [u8]) -> Self {
        Self { path, bytes, record: String::new() }
    }

    fn take(&mut self, size: usize, field: &str) -> Result<&'a [u8]> {
        let Some((head, rest)) = self.bytes.split_at_checked(size) else {
            let found = format!("the end of the file, {} bytes on", self.bytes.len());
            return Err(Error::file(self.path, format!("{}{field}", self.record), format!("{size} bytes"), found));
        };
        self.bytes = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self, field: &str) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N, field)?);
        Ok(bytes)
    }

    fn u32(&mut self, field: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    fn u64(&mut self, field: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    /// A finite number.
    fn f64(&mut self, field: &str) -> Result<f64> {
        let value = f64::from_le_bytes(self.array(field)?);
        if value.is_finite() {
            return Ok(value);
        }
        Err(Error::file(self.path, format!("{}{field}", self.record), "a finite number", value.to_string()))
    }

    fn f64s<const N: usize>(&mut self, field: &str) -> Result<[f64; N]> {
        let mut values = [0.0; N];
        for value in &mut values {
            *value = self.f64(field)?;
        }
        Ok(values)
    }

    /// The number of records of at least `least` bytes that follow, checked against the bytes that are there.
    fn count(&mut self, field: &str, least: usize) -> Result<usize> {
        let count = self.u64(field)?;
        let most = self.bytes.len() / least;
        usize::try_from(count).ok().filter(|&count| count <= most).ok_or_else(|| {
            let expected = format!("at most {most}, for the {} bytes that follow", self.bytes.len());
            Error::file(self.path, format!("{}{field}", self.record), expected, count.to_string())
        })
    }

    /// That nothing follows the `count` records: one too few in the count would lose the last without a word.
    fn end(self, count: usize, records: &str) -> Result<()> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        let found = format!("{} more bytes", self.bytes.len());
        Err(Error::file(self.path, format!("number of {records}"), format!("the end of the file after {count}"), found))
    }
}

/// The cameras in the `bytes` of `cameras.bin`.
pub(in crate::data) fn cameras(path: &Path, bytes: &[u8]) -> Result<Cameras> {
    let mut fields = Fields::new(path, bytes);
    // An id, a model and a size: what a camera has before its parameters.
    let count = fields.count("number of cameras", 4 + 4 + 8 + 8)?;
    let mut cameras = Cameras::new();
    for _ in 0..count {
        fields.record = "camera: ".into();
        let id = fields.u32("id")?;
        fields.record = format!("camera {id}: ");
        let number = fields.u32("model")?;
        let size = [fields.u64("width")?, fields.u64("height")?];
        let name = MODELS.get(number as usize);
        let name = name.ok_or_else(|| unsupported(path, id, &format!("number {number}")))?;
        let model = model(name).ok_or_else(|| unsupported(path, id, name))?;
        let parameters = (0..model.1).map(|_| fields.f64("parameters")).collect::<Result<Vec<_>>>()?;
        insert(path, &mut cameras, id, intrinsics(path, id, model, size, &parameters)?)?;
    }
    fields.end(count, "cameras")?;
    Ok(cameras)
}

/// The images in the `bytes` of `images.bin`.
pub(in crate::data) fn images(path: &Path, bytes: &[u8]) -> Result<Vec<Image>> {
    let mut fields = Fields::new(path, bytes);
    // An id, a pose, a camera, an empty name's end and a number of observations.
    let count = fields.count("number of images", 4 + 7 * 8 + 4 + 1 + 8)?;
    let mut images = Vec::with_capacity(count);
    for _ in 0..count {
        fields.record = "image: ".into();
        let id = fields.u32("id")?;
        fields.record = format!("image {id}: ");
        let quaternion = fields.f64s("quaternion")?;
        let translation = fields.f64s("translation")?;
        let camera = fields.u32("camera id")?;
        let end = fields.bytes.iter().position(|&b| b == 0).unwrap_or(fields.bytes.len());
        let name = fields.take(end, "name")?;
        fields.take(1, "end of the name")?;
        let observations = fields.count("number of observations", OBSERVATION)?;
        fields.take(observations * OBSERVATION, "observations")?;
        images.push(image(path, id, quaternion, translation, camera, name)?);
    }
    fields.end(count, "images")?;
    Ok(images)
}

/// The points in the `bytes` of `points3D.bin`.
pub(in crate::data) fn points(path: &Path, bytes: &[u8]) -> Result<Vec<Point>> {
    let mut fields = Fields::new(path, bytes);
    // An id, a position, a colour, an error and the length of a track.
    let count = fields.count("number of points", 8 + 3 * 8 + 3 + 8 + 8)?;
    let mut points = Vec::with_capacity(count);
    for _ in 0..count {
        fields.record = "point: ".into();
        let id = fields.u64("id")?;
        fields.record = format!("point {id}: ");
        let (position, color) = (fields.f64s("position")?, fields.array("colour")?);
        fields.take(8, "error")?;
        let length = fields.count("length of the track", TRACK_ELEMENT)?;
        fields.take(length * TRACK_ELEMENT, "track")?;
        points.push((id, position, color, u32::try_from(length).unwrap_or(u32::MAX)));
    }
    fields.end(count, "points")?;
    Ok(points)
}
