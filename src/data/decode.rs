//! Files of pictures: what is decoded, how much memory it may take, and which way is up.

use std::io::Cursor;
use std::path::Path;

use ::image::metadata::Orientation;
use ::image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};

use crate::exchange::describe;
use crate::{Error, Result};

const FORMATS: [ImageFormat; 4] = [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Tiff];
const EXPECTED: &str = "a PNG, JPEG, WebP or TIFF image";

/// No compression in use here makes a photograph smaller than this: Deflate reaches 1032 to 1, JPEG's runs of empty
/// blocks the same order. A header that claims more is not that of the file it begins.
const MOST_COMPRESSED: u64 = 1100;
/// What any file may take: masks of a single colour are smaller than what [`MOST_COMPRESSED`] foresees.
const LEAST_ALLOWED: u64 = 64 << 20;
/// More than any camera takes: 16384 x 16384 pixels of 4 channels of 16 bits.
const MOST_ALLOWED: u64 = 2 << 30;

/// The picture in `bytes`, which are those of the file `path`, and the format of the file, whatever its ending.
///
/// It is turned as its EXIF data says if that makes its size one that `fits(width, height)`, and the size in the file
/// is none. Memory is taken for at most [`MOST_COMPRESSED`] bytes a byte of the file (or [`LEAST_ALLOWED`]).
pub(super) fn decode(
    path: &Path,
    bytes: &[u8],
    fits: &dyn Fn(u32, u32) -> bool,
) -> Result<(DynamicImage, ImageFormat)> {
    let refuse = |field: &str, found: String| Error::file(path, field, EXPECTED, found);
    let mut reader = ImageReader::new(Cursor::new(bytes));
    reader = reader.with_guessed_format().map_err(|e| Error::io(path, e))?;
    let format = match reader.format() {
        Some(format) if FORMATS.contains(&format) => format,
        Some(other) => return Err(refuse("header", format!("{other:?}"))),
        None => return Err(refuse("header", describe(bytes))),
    };
    let most = (bytes.len() as u64).saturating_mul(MOST_COMPRESSED).clamp(LEAST_ALLOWED, MOST_ALLOWED);
    let mut limits = ::image::Limits::no_limits();
    limits.max_alloc = Some(most);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|e| refuse("header", e.to_string()))?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(Error::file(path, "size", "at least one pixel", format!("{width}x{height}")));
    }
    if decoder.total_bytes() > most {
        let found = format!("{width}x{height} in a file of {} bytes", bytes.len());
        return Err(Error::file(path, "size", format!("an image of at most {most} bytes"), found));
    }
    let turned = if !fits(width, height) && fits(height, width) { decoder.orientation().ok() } else { None };
    if format == ImageFormat::Jpeg && !is_whole_jpeg(bytes) {
        return Err(Error::file(path, "pixels", "JPEG's end-of-image marker", "the end of the file before it"));
    }
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|e| refuse("pixels", e.to_string()))?;
    if let Some(
        orientation @ (Orientation::Rotate90
        | Orientation::Rotate270
        | Orientation::Rotate90FlipH
        | Orientation::Rotate270FlipH),
    ) = turned
    {
        picture.apply_orientation(orientation);
    }
    let color = picture.color();
    if color.bytes_per_pixel() > 2 * color.channel_count() {
        return Err(Error::file(path, "pixels", "8 or 16 bits a channel", format!("{color:?}")));
    }
    Ok((picture, format))
}

/// Whether a JPEG file goes on to its end-of-image marker. The decoder does not ask: it fills with grey what is missing
/// (ITU-T T.81, B.1.1: markers, and segments that say how long they are).
fn is_whole_jpeg(bytes: &[u8]) -> bool {
    /// No marker after 0xff: a byte of data, the restart markers within it, and fill bytes.
    const NONE: [u8; 10] = [0x00, 0xd0, 0xd1, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xff];
    const START: u8 = 0xd8;
    const END: u8 = 0xd9;
    const TEMPORARY: u8 = 0x01;
    let mut rest = bytes;
    while let Some(at) = rest.windows(2).position(|pair| pair[0] == 0xff && !NONE.contains(&pair[1])) {
        let marker = rest[at + 1];
        rest = &rest[at + 2..];
        match (marker, rest) {
            (END, _) => return true,
            (START | TEMPORARY, _) => {}
            // A length counts itself. Skipping segments skips the thumbnails in them, which have ends of their own.
            (_, &[high, low, ..]) => rest = rest.get(usize::from(u16::from_be_bytes([high, low]))..).unwrap_or(&[]),
            _ => return false,
        }
    }
    false
}
