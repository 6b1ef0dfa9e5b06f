//! What the numbers of a checkpoint say: where its run stands, what its cells are like, what its error map has seen.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use candle_radfoam::checkpoint::Checkpoint;
use candle_radfoam::foam::Foam;
use candle_radfoam::train::Rate;
use serde::Serialize;
use serde_json::Value;

use super::contents::{Contents, for_each};

/// Cells whose volume is computed: about a second's work. Of more, every n-th.
const MOST_VOLUMES: usize = 100_000;

/// The values at fixed shares of all, in order.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Quantiles {
    pub min: f64,
    pub p05: f64,
    pub p25: f64,
    pub median: f64,
    pub p75: f64,
    pub p95: f64,
    pub max: f64,
    pub mean: f64,
}

impl Quantiles {
    /// None of nothing.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_unstable_by(f64::total_cmp);
        let last = values.len().checked_sub(1)?;
        let at = |share: f64| values[(share * last as f64).round() as usize];
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        Some(Self {
            min: at(0.0),
            p05: at(0.05),
            p25: at(0.25),
            median: at(0.5),
            p75: at(0.75),
            p95: at(0.95),
            max: at(1.0),
            mean,
        })
    }
}

/// Where a run stands in its schedules.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Position {
    pub step: u64,
    /// 0 to 1.
    pub progress: f64,
    pub num_rays: Option<u64>,
    /// By parameter group; of points in extents of the scene.
    pub learning_rates: BTreeMap<String, f64>,
}

impl Position {
    /// None for a header without a run's progress.
    pub fn of(header: &Value) -> Option<Self> {
        let at = &header["progress"];
        let progress = at["progress"].as_f64()?;
        let groups = header["config"]["optim"].as_object().into_iter().flatten();
        // Whatever has an initial and a final rate is a group.
        let rate = |value: &Value| serde_json::from_value::<Rate>(value.clone()).ok();
        let rates = groups.filter_map(|(name, value)| Some((name.clone(), rate(value)?.at(progress))));
        Some(Self {
            step: at["step"].as_u64()?,
            progress,
            num_rays: at["num_rays"].as_u64(),
            learning_rates: rates.collect(),
        })
    }
}

/// What the cells are like.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cells {
    pub num_cells: usize,
    /// SH coefficients a channel.
    pub num_coefficients: usize,
    /// Neighbours a cell, sentinels among them.
    pub neighbors: Option<Quantiles>,
    /// 1 / scene unit.
    pub density: Option<Quantiles>,
    /// Cubic scene units.
    pub volume: Option<Quantiles>,
    /// How many volumes have a given power of ten: of 0.01 to 0.1 it is -2.
    pub volume_histogram: BTreeMap<i32, u64>,
    /// Cells of which the volume was computed: all, or every n-th.
    pub num_volumes: usize,
}

impl Cells {
    pub fn of(contents: &Contents) -> Result<Self> {
        let header = contents.header.clone().context("no header of this crate")?;
        let checkpoint = Checkpoint { tensors: contents.candle_tensors("")?, header };
        let foam = Foam::from_checkpoint(&checkpoint, &contents.path)?;
        let adjacency = foam.topology().adjacency();
        let num_cells = foam.num_cells();
        let degrees = adjacency.offsets.windows(2).take(num_cells).map(|pair| f64::from(pair[1] - pair[0]));
        let density = foam.density()?.to_vec1::<f32>()?;
        let sites: Vec<[f64; 3]> = foam.topology().built_at().iter().map(|p| p.map(f64::from)).collect();
        let extent = sites.as_flattened().iter().fold(0f64, |most, x| most.max(x.abs()));
        let stride = num_cells.div_ceil(MOST_VOLUMES).max(1);
        let volumes: Vec<f64> = (0..num_cells)
            .step_by(stride)
            .map(|cell| {
                let neighbors = adjacency.neighbors_of(cell as u32).iter().map(|&j| sites[j as usize]);
                cell_volume(sites[cell], &neighbors.collect::<Vec<_>>(), extent)
            })
            .collect();
        let mut volume_histogram = BTreeMap::new();
        for volume in volumes.iter().filter(|&&volume| volume > 0.0) {
            *volume_histogram.entry(volume.log10().floor() as i32).or_default() += 1;
        }
        Ok(Self {
            num_cells,
            num_coefficients: foam.num_coefficients(),
            neighbors: Quantiles::of(degrees.collect()),
            density: Quantiles::of(density.into_iter().map(f64::from).collect()),
            num_volumes: volumes.len(),
            volume: Quantiles::of(volumes),
            volume_histogram,
        })
    }
}

/// The volume of the points nearer to `site` than to any of `neighbors`, all within about `extent` of the origin.
///
/// A third of height times area, over the faces: the face towards a neighbour is a large square in the plane between
/// the two, cut by the planes towards all the others.
pub fn cell_volume(site: [f64; 3], neighbors: &[[f64; 3]], extent: f64) -> f64 {
    /// Corners of cells lie farther out than sites.
    const MARGIN: f64 = 10.0;
    let normals: Vec<[f64; 3]> = neighbors.iter().map(|&q| sub(q, site)).collect();
    // Inside: dot(x, normal) <= half of the normal's square, x relative to the site.
    let limit = |normal: [f64; 3]| 0.5 * dot(normal, normal);
    let face = |&normal: &[f64; 3]| {
        let length = dot(normal, normal).sqrt();
        if length == 0.0 {
            return 0.0;
        }
        // Any direction that is not the normal's begins a basis of the plane.
        let axis = if normal[0].abs() < 0.6 * length { [1.0, 0.0, 0.0] } else { [0.0, 1.0, 0.0] };
        let u = cross(normal, axis);
        let u = scale(u, MARGIN * extent / dot(u, u).sqrt());
        let v = scale(cross(normal, u), 1.0 / length);
        let middle = scale(normal, 0.5);
        let corner = |a: f64, b: f64| add(middle, add(scale(u, a), scale(v, b)));
        let mut polygon = vec![corner(-1.0, -1.0), corner(1.0, -1.0), corner(1.0, 1.0), corner(-1.0, 1.0)];
        for &other in normals.iter().filter(|&&other| other != normal) {
            polygon = cut(&polygon, other, limit(other));
        }
        let first = polygon.first().copied().unwrap_or_default();
        let twice = polygon.windows(2).map(|pair| cross(sub(pair[0], first), sub(pair[1], first)));
        let twice = twice.fold([0.0; 3], add);
        0.5 * dot(twice, twice).sqrt() * 0.5 * length / 3.0
    };
    normals.iter().map(face).sum()
}

/// The part of a convex polygon in which `dot(x, normal) <= limit`.
fn cut(polygon: &[[f64; 3]], normal: [f64; 3], limit: f64) -> Vec<[f64; 3]> {
    let mut kept = Vec::with_capacity(polygon.len() + 1);
    let beyond = |x: [f64; 3]| dot(x, normal) - limit;
    for (i, &b) in polygon.iter().enumerate() {
        let a = polygon[(i + polygon.len() - 1) % polygon.len()];
        let (from, to) = (beyond(a), beyond(b));
        if (from <= 0.0) != (to <= 0.0) {
            kept.push(add(a, scale(sub(b, a), from / (from - to))));
        }
        if to <= 0.0 {
            kept.push(b);
        }
    }
    kept
}

fn add(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [0, 1, 2].map(|i| a[i] + b[i])
}

fn sub(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [0, 1, 2].map(|i| a[i] - b[i])
}

fn scale(a: [f64; 3], by: f64) -> [f64; 3] {
    a.map(|x| x * by)
}

fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    (0..3).map(|i| a[i] * b[i]).sum()
}

fn cross(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

/// What an error map has seen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ErrorMap {
    pub num_entries: usize,
    pub visited: usize,
    pub visited_share: f64,
    /// Of the visited ones.
    pub errors: Option<Quantiles>,
}

impl ErrorMap {
    /// The map of a checkpoint or of a file of its own; none where there is none.
    pub fn of(contents: &Contents) -> Result<Option<Self>> {
        let tensors = contents.tensors()?;
        let Some(map) = tensors.get("sampler.error_map").or_else(|| tensors.get("error_map")) else {
            return Ok(None);
        };
        let (mut visited, mut num_entries) = (Vec::new(), 0);
        for_each(map, |error| {
            num_entries += 1;
            if error.is_sign_positive() {
                visited.push(error);
            }
        });
        Ok(Some(Self {
            num_entries,
            visited: visited.len(),
            visited_share: visited.len() as f64 / (num_entries.max(1)) as f64,
            errors: Quantiles::of(visited),
        }))
    }
}
