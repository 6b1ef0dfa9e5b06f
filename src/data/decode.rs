//! Files of pictures: what is decoded, how much memory it may take, and which way is up.

use std::io::{BufRead, BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::Path;

use ::image::metadata::Orientation;
use ::image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};

use super::{jpeg, tiff};
use crate::exchange::describe;
use crate::{Error, Result};

const EXPECTED: &str = "a PNG, JPEG, WebP or TIFF image";

/// What a file's kind is known by, or what it is instead.
const START_BYTES: u64 = 64;

/// No compression in use here makes a photograph smaller than this: Deflate reaches 1032 to 1, JPEG's runs of empty
/// blocks the same order. A header that claims more is not that of the file it begins.
const MOST_COMPRESSED: u64 = 1100;
/// What any file may take: masks of a single colour are smaller than what [`MOST_COMPRESSED`] foresees.
const LEAST_ALLOWED: u64 = 64 << 20;
/// More than any camera takes: 16384 x 16384 pixels of 4 channels of 16 bits.
const MOST_ALLOWED: u64 = 2 << 30;

/// The picture in `file`, which is that of `path`, and the format of the file, whatever its ending.
///
/// It is turned as its EXIF data says if that makes its size one that `fits(width, height)`, and the size in the file
/// is none. Memory is taken for at most [`MOST_COMPRESSED`] bytes a byte of the file (or [`LEAST_ALLOWED`]): the
/// picture, and beside it
/// - PNG: some rows;
/// - JPEG: the file, twice; if it is progressive, 16 bits a coefficient besides;
/// - TIFF: a copy of the picture;
/// - WebP: half a picture if it is lossy; if it has alpha besides, its decoder's one and two thirds of a picture; if it
///   is lossless without alpha, a third.
pub(super) fn decode(
    path: &Path,
    mut file: impl BufRead + Seek,
    fits: &dyn Fn(u32, u32) -> bool,
) -> Result<(DynamicImage, ImageFormat)> {
    let io = |source| Error::io(path, source);
    let len = file.seek(SeekFrom::End(0)).map_err(io)?;
    file.rewind().map_err(io)?;
    let mut start = Vec::new();
    file.by_ref().take(START_BYTES).read_to_end(&mut start).map_err(io)?;
    file.rewind().map_err(io)?;
    let refuse = |found: String| Err(Error::file(path, "header", EXPECTED, found));
    let format = match ::image::guess_format(&start) {
        Ok(format @ (ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP | ImageFormat::Tiff)) => format,
        Ok(other) => return refuse(format!("{other:?}")),
        Err(_) => return refuse(describe(&start)),
    };
    let picture = match format {
        ImageFormat::Jpeg => {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map_err(io)?;
            let reader = ImageReader::with_format(Cursor::new(&bytes), format);
            pixels(path, len, reader, fits, || jpeg::damage(&bytes))?
        }
        ImageFormat::WebP => {
            let alpha = unused_alpha(&mut file).map_err(io)?;
            let file = BufReader::new(WithBit { file, at: 0, bit: alpha });
            let mut picture = pixels(path, len, ImageReader::with_format(file, format), fits, || None)?;
            if let (Some(_), DynamicImage::ImageRgba8(rgba)) = (alpha, &mut picture) {
                rgba.pixels_mut().for_each(|pixel| pixel.0[3] = u8::MAX);
            }
            picture
        }
        ImageFormat::Tiff => {
            if let Some((tag, values)) = tiff::false_claim(&mut file, len) {
                let found = format!("{values} of them in a file of {len} bytes");
                return Err(Error::file(path, format!("tag {tag}"), "values that are in the file", found));
            }
            file.rewind().map_err(io)?;
            pixels(path, len, ImageReader::with_format(file, format), fits, || None)?
        }
        _ => pixels(path, len, ImageReader::with_format(file, format), fits, || None)?,
    };
    Ok((picture, format))
}

/// The picture that `reader` has in a file of `len` bytes, if its size is one to believe and there is no `damage`.
fn pixels<R: BufRead + Seek>(
    path: &Path,
    len: u64,
    mut reader: ImageReader<R>,
    fits: &dyn Fn(u32, u32) -> bool,
    damage: impl FnOnce() -> Option<String>,
) -> Result<DynamicImage> {
    let refuse = |field: &str, found: String| Error::file(path, field, EXPECTED, found);
    let most = len.saturating_mul(MOST_COMPRESSED).clamp(LEAST_ALLOWED, MOST_ALLOWED);
    let mut limits = ::image::Limits::no_limits();
    limits.max_alloc = Some(most);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|e| refuse("header", e.to_string()))?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(Error::file(path, "size", "at least one pixel", format!("{width}x{height}")));
    }
    if decoder.total_bytes() > most {
        let found = format!("{width}x{height} in a file of {len} bytes");
        return Err(Error::file(path, "size", format!("an image of at most {most} bytes"), found));
    }
    if let Some(found) = damage() {
        return Err(Error::file(path, "pixels", "the data of a whole image", found));
    }
    let turned = if !fits(width, height) && fits(height, width) { decoder.orientation().ok() } else { None };
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
    Ok(picture)
}

/// Where a WebP file says that it has alpha, as (offset, bit), if it is lossless and does not.
///
/// Lossless data have four channels in any case. The decoder drops the fourth by way of a copy of the picture; told
/// that it counts, it makes none.
fn unused_alpha(file: &mut (impl BufRead + Seek)) -> std::io::Result<Option<(u64, u8)>> {
    const ALPHA: u8 = 0x10;
    const ANIMATION: u8 = 0x02;
    // RIFF, a length and WEBP; then chunks of a name, a length and that many bytes, padded to even.
    const FIRST: u64 = 12;
    let mut head = Vec::new();
    file.by_ref().take(FIRST + 13).read_to_end(&mut head)?;
    let bit = match head.get(12..16) {
        // A signature, 14 bits each for the sides, the bit for alpha.
        Some(b"VP8L") => Some((FIRST + 12, 0)),
        // Flags, and the sizes; what they are of is in a chunk of its own.
        Some(b"VP8X") => Some((FIRST + 8, ANIMATION)),
        _ => None,
    };
    let mut lossless = head.get(12..16) == Some(b"VP8L");
    let mut at = FIRST;
    while bit.is_some() && !lossless {
        let mut chunk = [0; 8];
        file.seek(SeekFrom::Start(at))?;
        if file.read_exact(&mut chunk).is_err() || &chunk[..4] == b"VP8 " {
            break;
        }
        lossless = &chunk[..4] == b"VP8L";
        let length = u32::from_le_bytes([chunk[4], chunk[5], chunk[6], chunk[7]]);
        at += 8 + u64::from(length).next_multiple_of(2);
    }
    file.rewind()?;
    let flags = |at: u64| head.get(at as usize).copied().unwrap_or(u8::MAX);
    Ok(bit.filter(|&(at, others)| lossless && flags(at) & (ALPHA | others) == 0).map(|(at, _)| (at, ALPHA)))
}

/// A file with one bit set that is not.
struct WithBit<R> {
    file: R,
    at: u64,
    /// The offset of the byte, and the bit.
    bit: Option<(u64, u8)>,
}

impl<R: Read> Read for WithBit<R> {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        let count = self.file.read(to)?;
        if let Some((offset, bit)) = self.bit
            && let Some(byte) = offset.checked_sub(self.at).and_then(|i| to[..count].get_mut(i as usize))
        {
            *byte |= bit;
        }
        self.at += count as u64;
        Ok(count)
    }
}

impl<R: Seek> Seek for WithBit<R> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.at = self.file.seek(to)?;
        Ok(self.at)
    }
}
