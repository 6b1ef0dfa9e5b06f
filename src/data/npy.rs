//! Arrays in NumPy's `.npy` format (`numpy/lib/format.py`), as far as captures use it: floats of 4 or 8 bytes.

use std::path::Path;

use crate::exchange::describe;
use crate::{Error, Result};

const MAGIC: &[u8] = b"\x93NUMPY";
/// Headers are some hundred bytes; this is what NumPy itself is willing to read.
const MOST_HEADER: usize = 10_000;

/// An array of floats in C order.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Array {
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

/// Reads the array in `bytes`, which are those of the file `path`: no more and no fewer than its header announces.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Array> {
    let refuse = |field: &str, expected: &str, found: String| Error::file(path, field, expected, found);
    let Some(([major, _minor], rest)) = bytes.strip_prefix(MAGIC).and_then(|rest| rest.split_first_chunk()) else {
        return Err(refuse("header", "a .npy file", describe(bytes)));
    };
    let length = match major {
        1 => rest.split_first_chunk().map(|(length, rest)| (usize::from(u16::from_le_bytes(*length)), rest)),
        2 | 3 => rest.split_first_chunk().map(|(length, rest)| (u32::from_le_bytes(*length) as usize, rest)),
        _ => return Err(refuse("version", "1, 2 or 3", major.to_string())),
    };
    let header =
        length.filter(|&(length, _)| length <= MOST_HEADER).and_then(|(length, rest)| rest.split_at_checked(length));
    let Some((header, data)) = header else {
        return Err(refuse(
            "header length",
            "the length of a header that is there",
            format!("{:?}", length.map(|l| l.0)),
        ));
    };
    let header = String::from_utf8_lossy(header);
    let broken = || refuse("header", "descr, fortran_order and shape", format!("\"{}\"", header.trim()));
    let Header { descr, fortran, shape } = Header::parse(&header).ok_or_else(broken)?;
    let (size, read): (usize, fn(&[u8]) -> f64) = match descr {
        "<f4" => (4, |b| f64::from(b.try_into().map_or(f32::NAN, f32::from_le_bytes))),
        ">f4" => (4, |b| f64::from(b.try_into().map_or(f32::NAN, f32::from_be_bytes))),
        "<f8" => (8, |b| b.try_into().map_or(f64::NAN, f64::from_le_bytes)),
        ">f8" => (8, |b| b.try_into().map_or(f64::NAN, f64::from_be_bytes)),
        other => return Err(refuse("descr", "<f4, <f8, >f4 or >f8", format!("\"{other}\""))),
    };
    let count = shape.iter().try_fold(1_usize, |count, &side| count.checked_mul(side));
    if count.and_then(|count| count.checked_mul(size)) != Some(data.len()) {
        let expected = format!("{size} bytes for each of {shape:?} values");
        return Err(refuse("data", &expected, format!("{} bytes", data.len())));
    }
    let mut values: Vec<f64> = data.chunks_exact(size).map(read).collect();
    if fortran {
        values = c_order(&values, &shape);
    }
    Ok(Array { shape, values })
}

/// Values in Fortran order (the first index runs fastest) in C order (the last does).
fn c_order(values: &[f64], shape: &[usize]) -> Vec<f64> {
    let place = |mut index: usize| {
        let (mut place, mut stride) = (0, values.len());
        // From the last axis, whose stride is the longest.
        for &side in shape.iter().rev() {
            stride /= side;
            place += index % side * stride;
            index /= side;
        }
        place
    };
    (0..values.len()).map(|index| values[place(index)]).collect()
}

/// What the header's dictionary, a Python literal, says.
struct Header<'a> {
    descr: &'a str,
    fortran: bool,
    shape: Vec<usize>,
}

impl<'a> Header<'a> {
    /// Takes the three entries in any order, each once, and nothing else.
    fn parse(text: &'a str) -> Option<Self> {
        let mut rest = text.trim().strip_prefix('{')?.strip_suffix('}')?.trim();
        let (mut descr, mut fortran, mut shape) = (None, None, None);
        while !rest.is_empty() {
            let (key, value) = quoted(rest)?;
            let value = value.trim_start().strip_prefix(':')?.trim_start();
            let after = match key {
                "descr" if descr.is_none() => {
                    let (text, after) = quoted(value)?;
                    descr = Some(text);
                    after
                }
                "fortran_order" if fortran.is_none() => {
                    let after = value.strip_prefix("True").or_else(|| value.strip_prefix("False"))?;
                    fortran = Some(value.starts_with('T'));
                    after
                }
                "shape" if shape.is_none() => {
                    let (inside, after) = value.strip_prefix('(')?.split_once(')')?;
                    let inside = inside.trim();
                    let sides = inside.strip_suffix(',').unwrap_or(inside).split(',');
                    // Python 2 wrote long integers with an L.
                    let sides = sides.map(|side| side.trim().trim_end_matches('L').parse().ok());
                    shape = Some(if inside.is_empty() { Vec::new() } else { sides.collect::<Option<_>>()? });
                    after
                }
                _ => return None,
            };
            let after = after.trim_start();
            rest = if after.is_empty() { after } else { after.strip_prefix(',')?.trim_start() };
        }
        Some(Self { descr: descr?, fortran: fortran?, shape: shape? })
    }
}

/// The text between the quotes that `text` begins with, and what follows them.
fn quoted(text: &str) -> Option<(&str, &str)> {
    text.strip_prefix('\'')?.split_once('\'').or_else(|| text.strip_prefix('"')?.split_once('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(version: u8, header: &str, data: &[u8]) -> Vec<u8> {
        let length = header.len() as u32;
        let length = if version == 1 { length.to_le_bytes()[..2].to_vec() } else { length.to_le_bytes().to_vec() };
        [MAGIC, &[version, 0], &length, header.as_bytes(), data].concat()
    }

    #[test]
    fn every_kind_of_array_is_read() {
        let expected = Array { shape: vec![2, 3], values: vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0] };
        let c: [f64; 6] = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0];
        let fortran: [f64; 6] = [0.0, 3.0, 1.0, 4.0, 2.0, 5.0];
        for version in 1..=3 {
            for (order, values) in [("False", c), ("True", fortran)] {
                let kinds: [(&str, Vec<u8>); 4] = [
                    ("<f8", values.iter().flat_map(|v| v.to_le_bytes()).collect()),
                    (">f8", values.iter().flat_map(|v| v.to_be_bytes()).collect()),
                    ("<f4", values.iter().flat_map(|&v| (v as f32).to_le_bytes()).collect()),
                    (">f4", values.iter().flat_map(|&v| (v as f32).to_be_bytes()).collect()),
                ];
                for (descr, data) in kinds {
                    let header = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': (2, 3), }}   \n");
                    let array = parse(Path::new("a.npy"), &file(version, &header, &data)).unwrap();
                    assert_eq!(array, expected, "version {version} {descr} {order}");
                }
            }
        }
        let three: Vec<f64> = (0..24).map(f64::from).collect();
        // Index (i, j, k) of a 2x3x4 array lies at i + 2 j + 6 k in Fortran order.
        let stored: Vec<f64> = (0..24).map(|at| f64::from(at % 2 * 12 + at / 2 % 3 * 4 + at / 6)).collect();
        assert_eq!(c_order(&stored, &[2, 3, 4]), three);
    }

    #[test]
    fn what_is_no_array_is_refused() {
        let good = "{'descr': '<f8', 'fortran_order': False, 'shape': (1, 2), }";
        let data = [0; 16];
        assert!(parse(Path::new("a.npy"), &file(1, good, &data)).is_ok());
        let whole = file(1, good, &data);
        for length in 0..whole.len() {
            assert!(parse(Path::new("a.npy"), &whole[..length]).is_err(), "cut to {length} bytes");
        }
        let cases = [
            (file(4, good, &data), "version"),
            (file(1, &good.replace("(1, 2)", "(1, 3)"), &data), "16 bytes"),
            (file(1, &good.replace("(1, 2)", "(4611686018427387904, 4)"), &data), "16 bytes"),
            (file(1, &good.replace("(1, 2)", "(0, 2)"), &data), "16 bytes"),
            (file(1, &good.replace("(1, 2)", "(-1, -2)"), &data), "shape"),
            (file(1, &good.replace("(1, 2)", "(99999999999999999999999,)"), &data), "shape"),
            (file(1, &good.replace("<f8", "|O"), &data), "|O"),
            (file(1, &good.replace("<f8", "<i8"), &data), "<i8"),
            (file(1, &good.replace("False", "Maybe"), &data), "Maybe"),
            (file(1, &good.replace("'shape': (1, 2), ", ""), &data), "shape"),
            (file(1, &good.replace("'shape'", "'descr'"), &data), "descr"),
            (file(1, &good.replace("'shape'", "'more'"), &data), "more"),
            (file(1, "", &data), "descr"),
            (file(2, &" ".repeat(20_000), &data), "header length"),
            (b"version https://git-lfs.github.com/spec/v1\n".to_vec(), "Git LFS"),
        ];
        for (bytes, expected) in cases {
            let error = parse(Path::new("a.npy"), &bytes).unwrap_err().to_string();
            assert!(error.contains(expected) && error.starts_with("a.npy"), "{expected}: {error}");
        }
    }
}
