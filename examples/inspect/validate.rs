//! What must be true of a checkpoint.

use candle_radfoam::checkpoint::Checkpoint;
use candle_radfoam::data::{Sampler, SamplerHeader};
use candle_radfoam::foam::Foam;
use candle_radfoam::geometry::{Adjacency, NUM_SENTINELS};
use candle_radfoam::train::migrate_header;
use serde::Serialize;
use serde_json::Value;

use super::contents::{Contents, Row, for_each};

/// How far the product of a rotation with its transpose may be from the identity: rounding, and no more.
const ROTATION_ERROR: f64 = 1e-6;

/// A check, and what was found if it failed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub failed: Option<String>,
}

/// All checks that apply to a file: those of values to any, those of a foam to a file that has one.
pub fn validate(contents: &Contents) -> anyhow::Result<Vec<Check>> {
    let table = contents.table()?;
    let Some(header) = &contents.header else {
        let missing = "expected a header of this crate, found none".to_string();
        return Ok(vec![check("header", Err(missing)), check("finite", finite(&table))]);
    };
    let mut present = header.clone();
    let version = migrate_header(&contents.path, &mut present).map_err(|error| error.to_string());
    let header = &present;
    let mut checks = vec![check("header", version), check("finite", finite(&table))];
    let has = |name: &str| table.iter().any(|row| row.name == name);
    if table.iter().any(|row| row.name.starts_with("foam.")) {
        checks.push(check("shapes", shapes(&table)));
        checks.push(check("transform", transform(&header["normalization"])));
        match adjacency(contents) {
            Err(missing) => checks.push(check("adjacency", Err(missing))),
            Ok((adjacency, sites)) => {
                let offsets = offsets(&adjacency);
                let sound = offsets.is_ok();
                checks.push(check("offsets", offsets));
                // Rows that are none cannot be looked at.
                if sound {
                    let range = range(&adjacency);
                    let within = range.is_ok();
                    checks.push(check("neighbours in range", range));
                    checks.push(check("neighbours ascending", ascending(&adjacency)));
                    if within {
                        checks.push(check("neighbours symmetric", symmetric(&adjacency, &sites)));
                    }
                }
            }
        }
        checks.push(check("foam", foam(contents, header)));
    }
    if !header["sampler"].is_null() {
        let prefix = if has("error_map") { "" } else { "sampler." };
        checks.push(check("error map", error_map(contents, header, prefix)));
    }
    Ok(checks)
}

fn check(name: &'static str, found: Result<(), String>) -> Check {
    Check { name, failed: found.err() }
}

fn finite(table: &[Row]) -> Result<(), String> {
    match table.iter().find(|row| row.nan + row.infinite > 0) {
        Some(row) => {
            Err(format!("{}: expected finite values, found {} NaN, {} infinite", row.name, row.nan, row.infinite))
        }
        None => Ok(()),
    }
}

/// That every tensor has a row for each cell.
fn shapes(table: &[Row]) -> Result<(), String> {
    let find = |name: &str| table.iter().find(|row| row.name == name);
    let num_cells = match find("foam.points").map(|row| &row.shape[..]) {
        Some(&[num_cells, 3]) => num_cells,
        other => return Err(format!("foam.points: expected [P, 3], found {other:?}")),
    };
    let expect = |name: &str, required: bool, fits: &dyn Fn(&[usize]) -> bool, expected: String| match find(name) {
        Some(row) if fits(&row.shape) => Ok(()),
        None if !required => Ok(()),
        row => Err(format!("{name}: expected {expected}, found {:?}", row.map(|row| &row.shape))),
    };
    let exactly = |name: &str, required: bool, shape: &[usize]| {
        expect(name, required, &|found| found == shape, format!("{shape:?}"))
    };
    exactly("foam.raw_density", true, &[num_cells])?;
    let is_sh = |shape: &[usize]| matches!(shape, &[p, 1 | 4 | 9 | 16, 3] if p == num_cells);
    expect("foam.sh", true, &is_sh, format!("[{num_cells}, 1 | 4 | 9 | 16, 3]"))?;
    exactly("foam.offsets", true, &[num_cells + NUM_SENTINELS + 1])?;
    match find("foam.sentinels") {
        Some(_) => exactly("foam.sentinels", true, &[NUM_SENTINELS, 3])?,
        None => exactly("foam.built_at", true, &[num_cells + NUM_SENTINELS, 3])?,
    }
    exactly("foam.sh_scale", false, &[num_cells, 2])?;
    exactly("refine.gradient", false, &[num_cells])?;
    exactly("refine.max_weight", false, &[num_cells])?;
    for parameter in ["points", "raw_density", "sh"] {
        let values = |name: &str| find(name).map_or(0, |row| row.shape.iter().product::<usize>());
        // Adam has two moments of each value.
        let (of, moments) = (values(&format!("foam.{parameter}")), format!("optim.{parameter}"));
        let fits = |shape: &[usize]| shape.iter().product::<usize>() == 2 * of;
        expect(&moments, false, &fits, format!("{} values", 2 * of))?;
    }
    Ok(())
}

/// That the transform keeps shapes: a positive scale, a finite centre, and if there is a rotation, one that is.
fn transform(normalization: &Value) -> Result<(), String> {
    let scale = normalization["scale"].as_f64().unwrap_or(f64::NAN);
    if !(scale > 0.0 && scale.is_finite()) {
        return Err(format!("normalization.scale: expected a positive number, found {}", normalization["scale"]));
    }
    let vector = |value: &Value| -> Option<[f64; 3]> {
        let numbers: Vec<f64> = value.as_array()?.iter().filter_map(Value::as_f64).collect();
        numbers.try_into().ok()
    };
    if vector(&normalization["center"]).is_none() {
        return Err(format!("normalization.center: expected three numbers, found {}", normalization["center"]));
    }
    let rotation = &normalization["rotation"];
    if rotation.is_null() {
        return Ok(());
    }
    let rows: Option<Vec<[f64; 3]>> = rotation.as_array().map(|rows| rows.iter().filter_map(vector).collect());
    let Some(&[a, b, c]) = rows.as_deref() else {
        return Err(format!("normalization.rotation: expected three rows of three numbers, found {rotation}"));
    };
    let dot = |a: [f64; 3], b: [f64; 3]| (0..3).map(|i| a[i] * b[i]).sum::<f64>();
    let cross = [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
    let errors =
        [dot(a, a) - 1.0, dot(b, b) - 1.0, dot(c, c) - 1.0, dot(a, b), dot(b, c), dot(a, c), dot(cross, c) - 1.0];
    match errors.iter().all(|error| error.abs() <= ROTATION_ERROR) {
        true => Ok(()),
        false => Err(format!("normalization.rotation: expected a rotation, found {rotation}")),
    }
}

/// The adjacency as it is in the file, and the sites that it was built at.
fn adjacency(contents: &Contents) -> Result<(Adjacency, Vec<[f64; 3]>), String> {
    let tensors = contents.tensors().map_err(|error| error.to_string())?;
    let values = |name: &str| {
        let tensor = tensors.get(name).ok_or_else(|| format!("{name}: expected a tensor, found none"))?;
        let mut values = Vec::new();
        for_each(tensor, |value| values.push(value));
        Ok::<_, String>(values)
    };
    let indices = |name: &str| {
        let whole = |&value: &f64| value.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&value);
        let values = values(name)?;
        match values.iter().find(|value| !whole(value)) {
            Some(value) => Err(format!("{name}: expected indices of 32 bits, found {value}")),
            None => Ok(values.into_iter().map(|value| value as u32).collect::<Vec<u32>>()),
        }
    };
    let sites = match tensors.contains_key("foam.sentinels") {
        true => [values("foam.points")?, values("foam.sentinels")?].concat(),
        false => values("foam.built_at")?,
    };
    let adjacency = Adjacency { offsets: indices("foam.offsets")?, neighbors: indices("foam.neighbors")? };
    Ok((adjacency, sites.as_chunks().0.to_vec()))
}

fn offsets(adjacency: &Adjacency) -> Result<(), String> {
    let Adjacency { offsets, neighbors } = adjacency;
    let ends = (offsets.first().copied(), offsets.last().map(|&end| end as usize));
    if ends != (Some(0), Some(neighbors.len())) {
        return Err(format!(
            "foam.offsets: expected from 0 to {}, found from {:?} to {:?}",
            neighbors.len(),
            ends.0,
            ends.1
        ));
    }
    match offsets.windows(2).position(|pair| pair[0] > pair[1]) {
        Some(cell) => {
            let (start, end) = (offsets[cell], offsets[cell + 1]);
            Err(format!("foam.offsets: expected ascending, found {start} and then {end} at cell {cell}"))
        }
        None => Ok(()),
    }
}

fn range(adjacency: &Adjacency) -> Result<(), String> {
    let num_sites = adjacency.num_points();
    match adjacency.neighbors.iter().position(|&j| j as usize >= num_sites) {
        Some(at) => {
            Err(format!("foam.neighbors: expected below {num_sites}, found {} at {at}", adjacency.neighbors[at]))
        }
        None => Ok(()),
    }
}

fn ascending(adjacency: &Adjacency) -> Result<(), String> {
    for cell in 0..adjacency.num_points() as u32 {
        let row = adjacency.neighbors_of(cell);
        if row.windows(2).any(|pair| pair[0] >= pair[1]) || row.contains(&cell) {
            return Err(format!(
                "foam.neighbors: expected ascending and without the cell itself, found {row:?} at cell {cell}"
            ));
        }
    }
    Ok(())
}

/// That every neighbour has the cell as its neighbour, or the cell that this one is a copy of.
fn symmetric(adjacency: &Adjacency, sites: &[[f64; 3]]) -> Result<(), String> {
    for cell in 0..adjacency.num_points() as u32 {
        for &neighbor in adjacency.neighbors_of(cell) {
            let back = adjacency.neighbors_of(neighbor);
            let site = |cell: u32| sites.get(cell as usize);
            let is_copy = || back.iter().any(|&other| site(other).is_some() && site(other) == site(cell));
            if back.binary_search(&cell).is_err() && !is_copy() {
                return Err(format!(
                    "foam.neighbors: {neighbor} is a neighbour of {cell}, which is none of {neighbor}"
                ));
            }
        }
    }
    Ok(())
}

fn foam(contents: &Contents, header: &Value) -> Result<(), String> {
    let tensors = contents.candle_tensors("").map_err(|error| error.to_string())?;
    let checkpoint = Checkpoint { tensors, header: header.clone() };
    Foam::from_checkpoint(&checkpoint, &contents.path).map(|_| ()).map_err(|error| error.to_string())
}

fn error_map(contents: &Contents, header: &Value, prefix: &str) -> Result<(), String> {
    let sampler: SamplerHeader =
        serde_json::from_value(header["sampler"].clone()).map_err(|error| error.to_string())?;
    let tensors = contents.candle_tensors(prefix).map_err(|error| error.to_string())?;
    Sampler::from_state(&tensors, sampler).map(|_| ()).map_err(|error| error.to_string())
}
