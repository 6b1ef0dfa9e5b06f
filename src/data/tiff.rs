//! What the first folder of a TIFF file claims, before its decoder takes memory for it.

use std::io::{Read, Seek, SeekFrom};

/// The first tag with more values than a file of `len` bytes can hold, and how many; `None` where there is none, or no
/// folder to be found, of which the decoder says more.
pub(super) fn false_claim(file: &mut (impl Read + Seek), len: u64) -> Option<(u64, u64)> {
    let mut start = [0; 16];
    file.rewind().ok()?;
    file.read_exact(&mut start[..8]).ok()?;
    let is_little = match &start[..2] {
        b"II" => true,
        b"MM" => false,
        _ => return None,
    };
    let number = |bytes: &[u8]| {
        let push = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        if is_little { bytes.iter().rev().fold(0, push) } else { bytes.iter().fold(0, push) }
    };
    // The version: 42 with offsets of 4 bytes, 43 with such of 8 ("BigTIFF").
    let is_big = number(&start[2..4]) == 43;
    let (offset, width) = if is_big {
        file.read_exact(&mut start[8..]).ok()?;
        (number(&start[8..16]), 8)
    } else {
        (number(&start[4..8]), 4)
    };
    file.seek(SeekFrom::Start(offset)).ok()?;
    let mut count = [0; 8];
    let count = &mut count[..if is_big { 8 } else { 2 }];
    file.read_exact(count).ok()?;
    for _ in 0..number(count) {
        // Tag and type of 2 bytes each, the number of values, and the values or where they are.
        let mut entry = [0; 20];
        let entry = &mut entry[..4 + 2 * width];
        file.read_exact(entry).ok()?;
        let (tag, kind, values) = (number(&entry[..2]), number(&entry[2..4]), number(&entry[4..4 + width]));
        if values.saturating_mul(size_of_type(kind)) > len {
            return Some((tag, values));
        }
    }
    None
}

/// Bytes of a value of a type by its number in the specification; of one that is not there, 1.
fn size_of_type(kind: u64) -> u64 {
    match kind {
        3 | 8 => 2,
        4 | 9 | 11 | 13 => 4,
        5 | 10 | 12 | 16 | 17 | 18 => 8,
        _ => 1,
    }
}
