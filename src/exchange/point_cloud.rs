//! Points and their colours as PLY.

use super::ply::{Body, parse_header};
use crate::{Error, Result};
use std::io::Write;
use std::path::Path;

/// Points with or without a colour each.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PointCloud {
    /// Positions in the world's frame.
    pub points: Vec<[f64; 3]>,
    /// One RGB colour a point, sRGB-encoded.
    pub colors: Option<Vec<[u8; 3]>>,
    /// In how many images each point was observed, where structure from motion says so. Not part of PLY files.
    pub tracks: Option<Vec<u32>>,
}

/// Reads the `vertex` element of a PLY file: `x`, `y`, `z`, and `red`, `green`, `blue` if all three are there.
///
/// Integer colours span the range of their type, floating-point ones `[0, 1]`.
///
/// # Errors
///
/// If the file cannot be read, is not a PLY file, has no `vertex` element with a position, is shorter than its
/// header says, or holds a position that is not finite.
pub fn read_point_cloud(path: impl AsRef<Path>) -> Result<PointCloud> {
    let path = path.as_ref();
    parse_point_cloud(path, &std::fs::read(path).map_err(|e| Error::io(path, e))?)
}

/// The point cloud in the `bytes` of the file `path`.
pub(crate) fn parse_point_cloud(path: &Path, bytes: &[u8]) -> Result<PointCloud> {
    let (encoding, elements, rest) = parse_header(path, bytes)?;
    let mut body = Body { path, encoding, bytes: rest };
    let at = elements.iter().position(|element| element.name == "vertex");
    let at = at.ok_or_else(|| Error::file(path, "header", "an element \"vertex\"", "none"))?;
    for element in &elements[..at] {
        body.skip(element)?;
    }
    let vertex = &elements[at];
    let find = |name: &str| vertex.properties.iter().position(|p| p.name == name && p.length.is_none());
    let mut xyz = [0; 3];
    for (place, name) in xyz.iter_mut().zip(["x", "y", "z"]) {
        *place = find(name).ok_or_else(|| Error::file(path, "element vertex", format!("a property {name}"), "none"))?;
    }
    let rgb = match ["red", "green", "blue"].map(find) {
        [Some(r), Some(g), Some(b)] => Some([r, g, b]),
        _ => None,
    };
    let num_points = body.require_rows(vertex)?;
    let mut points = Vec::with_capacity(num_points);
    let mut colors = rgb.map(|_| Vec::with_capacity(num_points));
    let mut values = vec![0.0; vertex.properties.len()];
    for row in 0..vertex.count {
        body.row(vertex, row, |place, value| values[place] = value)?;
        let point = xyz.map(|place| values[place]);
        if !point.iter().all(|v| v.is_finite()) {
            return Err(Error::file(path, format!("vertex {row}"), "a finite position", format!("{point:?}")));
        }
        points.push(point);
        if let (Some(colors), Some(rgb)) = (&mut colors, rgb) {
            colors.push(rgb.map(|place| vertex.properties[place].scalar.level(values[place])));
        }
    }
    Ok(PointCloud { points, colors, tracks: None })
}

/// Writes `cloud` as a binary PLY file, positions in double precision.
///
/// # Errors
///
/// If there is not one colour a point, or the file cannot be written.
pub fn write_point_cloud(path: impl AsRef<Path>, cloud: &PointCloud) -> Result<()> {
    let path = path.as_ref();
    let PointCloud { points, colors, .. } = cloud;
    if let Some(colors) = colors
        && colors.len() != points.len()
    {
        let expected = format!("one a point ({})", points.len());
        return Err(Error::config("colors", expected, colors.len().to_string()));
    }
    let mut bytes = Vec::new();
    let mut header = format!("ply\nformat binary_little_endian 1.0\nelement vertex {}\n", points.len());
    for name in ["x", "y", "z"] {
        header += &format!("property double {name}\n");
    }
    for name in ["red", "green", "blue"].iter().filter(|_| colors.is_some()) {
        header += &format!("property uchar {name}\n");
    }
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(b"end_header\n");
    for (row, point) in points.iter().enumerate() {
        bytes.extend(point.iter().flat_map(|v| v.to_le_bytes()));
        bytes.extend(colors.iter().flat_map(|colors| colors[row]));
    }
    let mut file = std::fs::File::create(path).map_err(|e| Error::io(path, e))?;
    file.write_all(&bytes).map_err(|e| Error::io(path, e))
}
