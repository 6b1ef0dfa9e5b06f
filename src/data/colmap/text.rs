//! The text files: `src/colmap/scene/reconstruction_io_text.cc`.
//!
//! One line a camera and a point, two lines an image: its pose, and its observations, which may be none. Empty lines
//! and lines that begin with `#` are passed over wherever a record may begin.

use std::path::Path;
use std::str::FromStr;

use super::{Cameras, Image, Point, image, insert, intrinsics, model, unsupported};
use crate::{Error, Result};

/// How much of a word an error quotes.
const QUOTED: usize = 40;

fn quote(word: &[u8]) -> String {
    let dots = if word.len() > QUOTED { ".." } else { "" };
    format!("\"{}{dots}\"", word[..word.len().min(QUOTED)].escape_ascii())
}

/// The lines of a file, without the blanks at their ends, and the number of the last one read.
struct Lines<'a> {
    rest: &'a [u8],
    number: usize,
}

impl<'a> Lines<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        // Some editors of Windows begin a text with the byte-order mark.
        Self { rest: bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes), number: 0 }
    }

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        let end = self.rest.iter().position(|&b| b == b'\n').unwrap_or(self.rest.len());
        let line = self.rest[..end].trim_ascii();
        self.rest = self.rest.get(end + 1..).unwrap_or_default();
        self.number += 1;
        Some(line)
    }

    /// The next line that begins a record.
    fn next_record<'p>(&mut self, path: &'p Path, kind: &'p str) -> Option<Words<'p, 'a>> {
        loop {
            let rest = self.next()?;
            if !(rest.is_empty() || rest.starts_with(b"#")) {
                return Some(Words { path, rest, line: self.number, record: kind.into() });
            }
        }
    }
}

/// The words of a line, read one by one.
struct Words<'p, 'a> {
    path: &'p Path,
    rest: &'a [u8],
    line: usize,
    record: String,
}

impl<'a> Words<'_, 'a> {
    fn error(&self, field: &str, expected: &str, found: String) -> Error {
        Error::file(self.path, format!("line {}, {}: {field}", self.line, self.record), expected, found)
    }

    /// The next word, empty at the end of the line.
    fn word(&mut self) -> &'a [u8] {
        let end = self.rest.iter().position(u8::is_ascii_whitespace).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest.trim_ascii_start();
        word
    }

    fn parse<T: FromStr>(&mut self, field: &str, expected: &str) -> Result<T> {
        let word = self.word();
        let value = std::str::from_utf8(word).ok().and_then(|word| word.parse().ok());
        value.ok_or_else(|| {
            let found = if word.is_empty() { "the end of the line".into() } else { quote(word) };
            self.error(field, expected, found)
        })
    }

    fn integer<T: FromStr>(&mut self, field: &str) -> Result<T> {
        self.parse(field, "a whole number of at least 0")
    }

    /// A finite number.
    fn f64(&mut self, field: &str) -> Result<f64> {
        let value: f64 = self.parse(field, "a finite number")?;
        if value.is_finite() { Ok(value) } else { Err(self.error(field, "a finite number", value.to_string())) }
    }

    fn f64s<const N: usize>(&mut self, field: &str) -> Result<[f64; N]> {
        let mut values = [0.0; N];
        for value in &mut values {
            *value = self.f64(field)?;
        }
        Ok(values)
    }
}

/// The cameras in the `bytes` of `cameras.txt`.
pub(in crate::data) fn cameras(path: &Path, bytes: &[u8]) -> Result<Cameras> {
    let (mut lines, mut cameras) = (Lines::new(bytes), Cameras::new());
    while let Some(mut words) = lines.next_record(path, "camera") {
        let id = words.integer("id")?;
        words.record = format!("camera {id}");
        let name = words.word();
        let model = std::str::from_utf8(name).ok().and_then(model);
        let model = model.ok_or_else(|| unsupported(path, id, &quote(name)))?;
        let size = [words.integer("width")?, words.integer("height")?];
        let mut parameters = Vec::new();
        // One more than there should be is enough to say that there are too many.
        while !words.rest.is_empty() && parameters.len() <= model.1 {
            parameters.push(words.f64("parameters")?);
        }
        insert(path, &mut cameras, id, intrinsics(path, id, model, size, &parameters)?)?;
    }
    Ok(cameras)
}

/// The images in the `bytes` of `images.txt`. A name is what follows the camera's id, spaces included.
pub(in crate::data) fn images(path: &Path, bytes: &[u8]) -> Result<Vec<Image>> {
    let (mut lines, mut images) = (Lines::new(bytes), Vec::new());
    while let Some(mut words) = lines.next_record(path, "image") {
        let id = words.integer("id")?;
        words.record = format!("image {id}");
        let quaternion = words.f64s("quaternion")?;
        let translation = words.f64s("translation")?;
        let camera = words.integer("camera id")?;
        images.push(image(path, id, quaternion, translation, camera, words.rest)?);
        // The observations are of no use here, but a file without their lines would lose every second image.
        words.rest = lines.next().unwrap_or_default();
        words.line = lines.number;
        let expected = "X Y POINT3D_ID of each in the line after the image's, which may be empty";
        while !words.rest.is_empty() {
            words.parse::<f64>("observations", expected)?;
            words.parse::<f64>("observations", expected)?;
            // -1 for none, which some tools write as the largest of 64 bits.
            words.parse::<i128>("observations", expected)?;
        }
    }
    Ok(images)
}

/// The points in the `bytes` of `points3D.txt`.
pub(in crate::data) fn points(path: &Path, bytes: &[u8]) -> Result<Vec<Point>> {
    let (mut lines, mut points) = (Lines::new(bytes), Vec::new());
    while let Some(mut words) = lines.next_record(path, "point") {
        let id = words.integer("id")?;
        words.record = format!("point {id}");
        let position = words.f64s("position")?;
        let mut color = [0; 3];
        for level in &mut color {
            *level = words.parse("colour", "a level from 0 to 255")?;
        }
        words.parse::<f64>("error", "a number")?;
        let mut length = 0_u32;
        while !words.rest.is_empty() {
            words.integer::<u32>("track, IMAGE_ID")?;
            words.integer::<u32>("track, POINT2D_IDX")?;
            length = length.saturating_add(1);
        }
        points.push((id, position, color, length));
    }
    Ok(points)
}
