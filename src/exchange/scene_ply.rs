//! The reference implementation's `scene.ply`.

use super::ply::{Body, Element, parse_header};
use super::scene::{COEFFICIENTS, Density, Scene};
use crate::{Error, Result};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// `Y_0` as the format has it: a constant coefficient `dc` is the colour `1/2 + Y_0 dc`.
const Y0: f32 = 0.282_094_8;

/// How a `scene.ply` holds the constant SH coefficient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ConstantColor {
    /// As the reference implementation does: a colour in 8 bits, and what is outside of `[0, 1]` cut off.
    #[default]
    Bytes,
    /// And, behind everything else, as three floats that lose nothing: `color_dc_0` to `color_dc_2`. Readers that do
    /// not know them pass over them.
    Float,
}

/// Reads a `scene.ply`, as [`write_scene_ply`] or the reference implementation writes it. Densities are activated.
///
/// The constant coefficients come from `color_dc_0` to `color_dc_2` where they are there, else from the 8-bit colour.
///
/// # Errors
///
/// A file that cannot be read, is not a PLY file, is shorter than its header says, or lacks a property; arrays that
/// do not pass [`Scene::validate`].
pub fn read_scene_ply(path: impl AsRef<Path>) -> Result<Scene> {
    let path = path.as_ref();
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    parse(path, &bytes)
}

/// Where the properties of a vertex are.
struct Places {
    xyz: [usize; 3],
    density: usize,
    /// Of the end of its list of neighbours.
    end: usize,
    dc: Dc,
    /// Three a coefficient, from the second coefficient on.
    sh: Vec<usize>,
}

enum Dc {
    Bytes([usize; 3]),
    Float([usize; 3]),
}

impl Places {
    fn find(path: &Path, vertex: &Element) -> Result<Self> {
        let find = |name: &str| vertex.properties.iter().position(|p| p.name == name && p.length.is_none());
        let require = |name: &str| {
            find(name).ok_or_else(|| Error::file(path, "element vertex", format!("a property {name}"), "none"))
        };
        let dc = match ["color_dc_0", "color_dc_1", "color_dc_2"].map(find) {
            [Some(r), Some(g), Some(b)] => Dc::Float([r, g, b]),
            _ => Dc::Bytes([require("red")?, require("green")?, require("blue")?]),
        };
        let sh: Vec<usize> = (0..vertex.properties.len()).map_while(|i| find(&format!("color_sh_{i}"))).collect();
        if !COEFFICIENTS.contains(&(sh.len() / 3 + 1)) || !sh.len().is_multiple_of(3) {
            let found = format!("{} of them", sh.len());
            return Err(Error::file(path, "properties color_sh_*", "0, 9, 24 or 45 from color_sh_0 on", found));
        }
        Ok(Self {
            xyz: [require("x")?, require("y")?, require("z")?],
            density: require("density")?,
            end: require("adjacency_offset")?,
            dc,
            sh,
        })
    }
}

pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Scene> {
    let (encoding, elements, rest) = parse_header(path, bytes)?;
    let mut body = Body { path, encoding, bytes: rest };
    let mut scene: Option<Scene> = None;
    let mut adjacency = false;
    for element in &elements {
        match element.name.as_str() {
            "vertex" if scene.is_none() => scene = Some(vertices(&mut body, element)?),
            "adjacency" if !adjacency && scene.is_some() => {
                adjacency = true;
                let neighbors = neighbors(&mut body, element)?;
                scene = scene.map(|scene| Scene { neighbors, ..scene });
            }
            _ => body.skip(element)?,
        }
    }
    match scene {
        Some(scene) if adjacency => scene.validated(path),
        Some(_) => Err(Error::file(path, "header", "an element \"adjacency\" after the vertices", "none")),
        None => Err(Error::file(path, "header", "an element \"vertex\"", "none")),
    }
}

/// The vertices as a scene without neighbours.
fn vertices(body: &mut Body, vertex: &Element) -> Result<Scene> {
    let path = body.path;
    let places = Places::find(path, vertex)?;
    let num_cells = body.require_rows(vertex)?;
    let level = |place: usize, value: f64| f32::from(vertex.properties[place].scalar.level(value)) / 255.0;
    let num_coefficients = places.sh.len() / 3 + 1;
    let mut points = Vec::with_capacity(num_cells);
    let mut density = Vec::with_capacity(num_cells);
    let mut sh = Vec::with_capacity(num_cells * num_coefficients * 3);
    let mut offsets = Vec::with_capacity(num_cells + 1);
    offsets.push(0);
    let mut values = vec![0.0; vertex.properties.len()];
    for row in 0..vertex.count {
        body.row(vertex, row, |place, value| values[place] = value)?;
        points.push(places.xyz.map(|place| values[place] as f32));
        density.push(values[places.density] as f32);
        match places.dc {
            Dc::Bytes(rgb) => sh.extend(rgb.map(|place| (level(place, values[place]) - 0.5) / Y0)),
            Dc::Float(dc) => sh.extend(dc.map(|place| values[place] as f32)),
        }
        sh.extend(places.sh.iter().map(|&place| values[place] as f32));
        offsets.push(index(path, "adjacency_offset", row, values[places.end])?);
    }
    Ok(Scene { points, density: Density::Activated(density), num_coefficients, sh, offsets, neighbors: Vec::new() })
}

fn neighbors(body: &mut Body, element: &Element) -> Result<Vec<u32>> {
    let path = body.path;
    let place = element.properties.iter().position(|p| p.name == "adjacency" && p.length.is_none());
    let place = place.ok_or_else(|| Error::file(path, "element adjacency", "a property adjacency", "none"))?;
    let mut neighbors = Vec::with_capacity(body.require_rows(element)?);
    let mut value = 0.0;
    for row in 0..element.count {
        body.row(element, row, |at, found| value = if at == place { found } else { value })?;
        neighbors.push(index(path, "adjacency", row, value)?);
    }
    Ok(neighbors)
}

/// A whole number that fits an index, from a property of any type.
fn index(path: &Path, name: &str, row: u64, value: f64) -> Result<u32> {
    if value.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&value) {
        return Ok(value as u32);
    }
    Err(Error::file(path, format!("{name} of row {row}"), "a whole number of 32 bits", value.to_string()))
}

/// Writes `scene` as the reference implementation does: binary little-endian, colours in 8 bits unless `constant`
/// says otherwise, densities activated.
///
/// ```
/// use candle_radfoam::exchange::{ConstantColor, Density, Scene, read_scene_ply, write_scene_ply};
///
/// # fn main() -> candle_radfoam::Result<()> {
/// let path = std::env::temp_dir().join(format!("scene-{}.ply", std::process::id()));
/// let scene = Scene {
///     points: vec![[0.0; 3], [1.0, 0.0, 0.0]],
///     density: Density::Activated(vec![0.5, 2.0]),
///     num_coefficients: 1,
///     sh: vec![0.1, 0.2, 0.3, -4.0, 5.0, 6.0],
///     offsets: vec![0, 1, 2],
///     neighbors: vec![1, 0],
/// };
/// write_scene_ply(&path, &scene, ConstantColor::Float)?;
/// assert_eq!(read_scene_ply(&path)?, scene);
/// # std::fs::remove_file(path).ok();
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// A scene that does not pass [`Scene::validate`], or with raw densities; a file that cannot be written.
pub fn write_scene_ply(path: impl AsRef<Path>, scene: &Scene, constant: ConstantColor) -> Result<()> {
    let path = path.as_ref();
    scene.validate()?;
    let Density::Activated(density) = &scene.density else {
        return Err(Error::tensor("density", "activated densities", "raw ones"));
    };
    let file = File::create(path).map_err(|e| Error::io(path, e))?;
    let write = |mut file: BufWriter<File>| {
        file.write_all(header(scene, constant).as_bytes())?;
        let stride = scene.num_coefficients * 3;
        let rows = scene.points.iter().zip(density).zip(&scene.offsets[1..]).zip(scene.sh.chunks_exact(stride));
        for (((point, density), end), sh) in rows {
            let (dc, rest) = sh.split_at(3);
            let rgb = [0, 1, 2].map(|c| (255.0 * (0.5 + Y0 * dc[c])).round().clamp(0.0, 255.0) as u8);
            file.write_all(bytemuck::bytes_of(&point.map(f32::to_le_bytes)))?;
            file.write_all(&rgb)?;
            file.write_all(&density.to_le_bytes())?;
            file.write_all(&end.to_le_bytes())?;
            let last = if constant == ConstantColor::Float { dc } else { &[] };
            rest.iter().chain(last).try_for_each(|value| file.write_all(&value.to_le_bytes()))?;
        }
        scene.neighbors.iter().try_for_each(|neighbor| file.write_all(&neighbor.to_le_bytes()))?;
        file.flush()
    };
    write(BufWriter::new(file)).map_err(|e| Error::io(path, e))
}

fn header(scene: &Scene, constant: ConstantColor) -> String {
    let mut header = format!("ply\nformat binary_little_endian 1.0\nelement vertex {}\n", scene.points.len());
    let mut properties = |kind: &str, names: &[&str]| {
        names.iter().for_each(|name| header += &format!("property {kind} {name}\n"));
    };
    properties("float", &["x", "y", "z"]);
    properties("uchar", &["red", "green", "blue"]);
    properties("float", &["density"]);
    properties("uint", &["adjacency_offset"]);
    for i in 0..3 * (scene.num_coefficients - 1) {
        properties("float", &[&format!("color_sh_{i}")]);
    }
    if constant == ConstantColor::Float {
        properties("float", &["color_dc_0", "color_dc_1", "color_dc_2"]);
    }
    header + &format!("element adjacency {}\nproperty uint adjacency\nend_header\n", scene.neighbors.len())
}
