//! PLY files: the header, and the values after it.

use super::describe;
use crate::{Error, Result};
use std::path::Path;

/// The type of a scalar.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scalar {
    I8,
    U8,
    I16,
    U16,
    I32,
    U32,
    F32,
    F64,
}

impl Scalar {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "char" | "int8" => Self::I8,
            "uchar" | "uint8" => Self::U8,
            "short" | "int16" => Self::I16,
            "ushort" | "uint16" => Self::U16,
            "int" | "int32" => Self::I32,
            "uint" | "uint32" => Self::U32,
            "float" | "float32" => Self::F32,
            "double" | "float64" => Self::F64,
            _ => return None,
        })
    }

    fn size(self) -> usize {
        match self {
            Self::I8 | Self::U8 => 1,
            Self::I16 | Self::U16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    /// The value of the first `size` bytes of `little`, which are in little-endian order.
    fn value(self, little: [u8; 8]) -> f64 {
        let [a, b, c, d, ..] = little;
        match self {
            Self::I8 => f64::from(a as i8),
            Self::U8 => f64::from(a),
            Self::I16 => f64::from(i16::from_le_bytes([a, b])),
            Self::U16 => f64::from(u16::from_le_bytes([a, b])),
            Self::I32 => f64::from(i32::from_le_bytes([a, b, c, d])),
            Self::U32 => f64::from(u32::from_le_bytes([a, b, c, d])),
            Self::F32 => f64::from(f32::from_le_bytes([a, b, c, d])),
            Self::F64 => f64::from_le_bytes(little),
        }
    }

    /// The 8-bit level that `value` stands for: integers span their range, floating-point colours `[0, 1]`.
    pub(super) fn level(self, value: f64) -> u8 {
        let white = match self {
            Self::U8 => return value as u8,
            Self::I8 => f64::from(i8::MAX),
            Self::I16 => f64::from(i16::MAX),
            Self::U16 => f64::from(u16::MAX),
            Self::I32 => f64::from(i32::MAX),
            Self::U32 => f64::from(u32::MAX),
            Self::F32 | Self::F64 => 1.0,
        };
        (value / white * 255.0).round().clamp(0.0, 255.0) as u8
    }
}

#[derive(Debug)]
pub(super) struct Property {
    pub(super) name: String,
    pub(super) scalar: Scalar,
    /// The type of the length, if the property is a list.
    pub(super) length: Option<Scalar>,
}

#[derive(Debug)]
pub(super) struct Element {
    pub(super) name: String,
    pub(super) count: u64,
    pub(super) properties: Vec<Property>,
}

impl Element {
    /// Bytes of one binary row, if that is the same for all rows.
    fn fixed_size(&self) -> Option<usize> {
        self.properties.iter().map(|p| p.length.is_none().then_some(p.scalar.size())).sum()
    }

    /// The fewest bytes that one row can take.
    pub(super) fn least_size(&self, encoding: Encoding) -> u64 {
        let sizes = self.properties.iter().map(|p| match encoding {
            // A digit, and a separator that only the last value of the file may lack.
            Encoding::Ascii => 2,
            _ => p.length.unwrap_or(p.scalar).size() as u64,
        });
        sizes.sum()
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Encoding {
    Ascii,
    Little,
    Big,
}

/// The bytes after the header, read value by value.
pub(super) struct Body<'a> {
    pub(super) path: &'a Path,
    pub(super) encoding: Encoding,
    pub(super) bytes: &'a [u8],
}

impl Body<'_> {
    fn value(&mut self, element: &str, row: u64, property: &str, scalar: Scalar) -> Result<f64> {
        let wrong = |expected: &str, found: String| {
            Error::file(self.path, format!("{element} {row}, property {property}"), expected, found)
        };
        if self.encoding == Encoding::Ascii {
            let word_end = |bytes: &[u8]| bytes.iter().position(u8::is_ascii_whitespace).unwrap_or(bytes.len());
            let rest = self.bytes.trim_ascii_start();
            let (word, rest) = rest.split_at(word_end(rest));
            if word.is_empty() {
                return Err(wrong("a number", "the end of the file".into()));
            }
            let number = std::str::from_utf8(word).ok().and_then(|word| word.parse().ok());
            let number = number.ok_or_else(|| wrong("a number", format!("\"{}\"", word.escape_ascii())))?;
            self.bytes = rest;
            return Ok(number);
        }
        let size = scalar.size();
        let Some((head, rest)) = self.bytes.split_at_checked(size) else {
            return Err(wrong(&format!("{size} bytes"), format!("the end of the file, {} bytes on", self.bytes.len())));
        };
        let mut little = [0; 8];
        little[..size].copy_from_slice(head);
        if self.encoding == Encoding::Big {
            little[..size].reverse();
        }
        self.bytes = rest;
        Ok(scalar.value(little))
    }

    /// Reads one row; `store` gets the place of each scalar property and its value.
    pub(super) fn row(&mut self, element: &Element, row: u64, mut store: impl FnMut(usize, f64)) -> Result<()> {
        for (place, property) in element.properties.iter().enumerate() {
            let Some(length) = property.length else {
                store(place, self.value(&element.name, row, &property.name, property.scalar)?);
                continue;
            };
            // Each item takes at least a byte, so a length that lies ends at the end of the file.
            for _ in 0..self.value(&element.name, row, &property.name, length)? as u64 {
                self.value(&element.name, row, &property.name, property.scalar)?;
            }
        }
        Ok(())
    }

    /// The number of rows of `element`, if the bytes that are left can hold them.
    pub(super) fn require_rows(&self, element: &Element) -> Result<usize> {
        // One more byte for the separator that may be missing at the end of an ASCII file. Rows without properties
        // take none, and are none.
        let least = element.least_size(self.encoding);
        let most = (self.bytes.len() as u64 + 1).checked_div(least).unwrap_or(0);
        if element.count > most {
            let found = format!("{} bytes, enough for {most}", self.bytes.len());
            return Err(Error::file(
                self.path,
                format!("element {}", element.name),
                format!("{} rows", element.count),
                found,
            ));
        }
        Ok(element.count as usize)
    }

    /// Passes over a whole element.
    pub(super) fn skip(&mut self, element: &Element) -> Result<()> {
        match element.fixed_size() {
            Some(0) => Ok(()),
            Some(size) if self.encoding != Encoding::Ascii => {
                let end = usize::try_from(element.count).ok().and_then(|count| count.checked_mul(size));
                self.bytes = end.and_then(|end| self.bytes.get(end..)).ok_or_else(|| {
                    let expected = format!("{} rows of {size} bytes", element.count);
                    let found = format!("{} bytes", self.bytes.len());
                    Error::file(self.path, format!("element {}", element.name), expected, found)
                })?;
                Ok(())
            }
            _ => (0..element.count).try_for_each(|row| self.row(element, row, |_, _| ())),
        }
    }
}

/// Splits `bytes` into what the header says and the body.
pub(super) fn parse_header<'a>(path: &Path, bytes: &'a [u8]) -> Result<(Encoding, Vec<Element>, &'a [u8])> {
    let mut rest = bytes;
    let mut number = 0;
    let mut next_line = || -> Result<String> {
        number += 1;
        let end = rest.iter().position(|&b| b == b'\n');
        let end =
            end.ok_or_else(|| Error::file(path, format!("header line {number}"), "end_header", describe(bytes)))?;
        let line = String::from_utf8_lossy(&rest[..end]).trim().to_string();
        rest = &rest[end + 1..];
        Ok(line)
    };
    if !bytes.starts_with(b"ply") || next_line()? != "ply" {
        return Err(Error::file(path, "header", "a PLY file (\"ply\")", describe(bytes)));
    }
    let mut encoding = None;
    let mut elements: Vec<Element> = Vec::new();
    loop {
        let line = next_line()?;
        let wrong = |expected: &str| Err(Error::file(path, "header", expected, format!("\"{line}\"")));
        match line.split_ascii_whitespace().collect::<Vec<_>>()[..] {
            [] | ["comment" | "obj_info", ..] => {}
            ["format", name, "1.0"] => {
                encoding = Some(match name {
                    "ascii" => Encoding::Ascii,
                    "binary_little_endian" => Encoding::Little,
                    "binary_big_endian" => Encoding::Big,
                    _ => return wrong("ascii, binary_little_endian or binary_big_endian"),
                });
            }
            ["element", name, count] => {
                let Ok(count) = count.parse() else { return wrong("element NAME COUNT") };
                elements.push(Element { name: name.into(), count, properties: Vec::new() });
            }
            ["property", ref kind @ .., name] => {
                let (scalar, length) = match *kind {
                    [scalar] => (Scalar::parse(scalar), Ok(None)),
                    ["list", length, scalar] => (Scalar::parse(scalar), Scalar::parse(length).map(Some).ok_or(())),
                    _ => (None, Ok(None)),
                };
                let (Some(scalar), Ok(length), Some(element)) = (scalar, length, elements.last_mut()) else {
                    return wrong("a property of a known type, after its element");
                };
                element.properties.push(Property { name: name.into(), scalar, length });
            }
            ["end_header"] => break,
            _ => return wrong("format, element, property, comment or end_header"),
        }
    }
    let encoding = encoding.ok_or_else(|| Error::file(path, "header", "a line \"format NAME 1.0\"", "none"))?;
    Ok((encoding, elements, rest))
}
