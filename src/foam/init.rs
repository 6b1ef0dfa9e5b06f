//! The cells that a foam starts with.

use super::topology::squared_distance;
use crate::rng::{Rng, Stream};
use crate::{Error, Result};

/// No cell starts farther out than this, in scene units (the cameras lie in the unit ball): well within the sentinels.
const FARTHEST: f32 = 100.0;

/// How a foam starts. Lengths are relative to the extent of the scene, so that they hold for any capture.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InitConfig {
    /// Cells spread at random: over a box around the origin if there is no point cloud, else over shells around it.
    pub num_cells: usize,
    /// Half the edge of that box, in extents.
    pub box_half: f32,
    /// Cells drawn from the point cloud, if there is one.
    pub num_cloud_cells: usize,
    /// Standard deviation of a cloud cell's position around the point it was drawn from, per axis, in extents.
    pub cloud_jitter: f32,
    /// Raw density of the cloud's cells.
    pub cloud_raw_density: f32,
    /// Raw density of the cells spread at random.
    pub raw_density: f32,
    /// Nearly empty cells over the cameras' volume, so that the space between cameras and scene is not one huge cell.
    pub num_outer_cells: usize,
    /// Raw density of those, and of the random cells near a camera.
    pub outer_raw_density: f32,
    /// A random cell starts nearly empty if it is nearer to a camera than this share of the camera's distance to the
    /// origin: fog there is seen by few cameras. Its effect has not been separated from the spread between seeds.
    pub camera_clearance: f32,
    /// Median radius of the shells around a cloud, in extents.
    pub shell_radius: f32,
    /// Spread of the shells' radius, as a standard deviation of its binary logarithm.
    pub shell_octaves: f32,
}

impl Default for InitConfig {
    fn default() -> Self {
        Self {
            num_cells: 10_000,
            box_half: 1.0,
            num_cloud_cells: 9_000,
            cloud_jitter: 0.01,
            cloud_raw_density: 0.5,
            raw_density: 0.0,
            num_outer_cells: 500,
            outer_raw_density: -0.5,
            camera_clearance: 0.3,
            shell_radius: 1.5,
            shell_octaves: 2.0,
        }
    }
}

impl InitConfig {
    /// Checks every setting.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for the first setting that is out of its range.
    pub fn validate(&self) -> Result<()> {
        if self.num_cells == 0 {
            return Err(Error::config("init.num_cells", "at least 1", "0"));
        }
        for (field, length) in [
            ("init.box_half", self.box_half),
            ("init.cloud_jitter", self.cloud_jitter),
            ("init.camera_clearance", self.camera_clearance),
            ("init.shell_radius", self.shell_radius),
            ("init.shell_octaves", self.shell_octaves),
        ] {
            if !(length >= 0.0 && length.is_finite()) {
                return Err(Error::config(field, "at least 0", length.to_string()));
            }
        }
        for (field, raw_density) in [
            ("init.cloud_raw_density", self.cloud_raw_density),
            ("init.raw_density", self.raw_density),
            ("init.outer_raw_density", self.outer_raw_density),
        ] {
            if !raw_density.is_finite() {
                return Err(Error::config(field, "finite", raw_density.to_string()));
            }
        }
        Ok(())
    }

    /// The same kinds of cells in the same proportions, but no more than `max_cells` (at least 1) in all.
    pub(crate) fn capped(&self, max_cells: usize, has_cloud: bool) -> Self {
        let others = if has_cloud { self.num_cloud_cells } else { self.num_outer_cells };
        let total = self.num_cells.saturating_add(others);
        if total <= max_cells {
            return self.clone();
        }
        // In u128 since the product of two counts may not fit into a usize.
        let scaled = |count: usize| (count as u128 * max_cells as u128 / total as u128) as usize;
        Self {
            num_cells: scaled(self.num_cells).max(1),
            num_cloud_cells: if has_cloud { scaled(self.num_cloud_cells) } else { self.num_cloud_cells },
            num_outer_cells: if has_cloud { self.num_outer_cells } else { scaled(self.num_outer_cells) },
            ..self.clone()
        }
    }
}

/// Positions (scene units), raw densities and colours (in [0, 1]) of cells, in step.
#[derive(Debug, Clone, Default)]
pub struct InitialCells {
    /// The sites.
    pub points: Vec<[f32; 3]>,
    /// Densities before activation.
    pub raw_density: Vec<f32>,
    /// The colour of each cell in every direction.
    pub colors: Vec<[f32; 3]>,
}

impl InitialCells {
    fn push(&mut self, point: [f32; 3], raw_density: f32, color: [f32; 3]) {
        let length = (point.iter().map(|x| x * x).sum::<f32>()).sqrt();
        let scale = if length > FARTHEST { FARTHEST / length } else { 1.0 };
        self.points.push(point.map(|x| x * scale));
        self.raw_density.push(raw_density);
        self.colors.push(color);
    }

    /// Keeps the cells of `order`, in that order.
    pub(crate) fn reorder(&mut self, order: &[u32]) {
        fn pick<T: Copy>(values: &mut Vec<T>, order: &[u32]) {
            *values = order.iter().map(|&i| values[i as usize]).collect();
        }
        pick(&mut self.points, order);
        pick(&mut self.raw_density, order);
        pick(&mut self.colors, order);
    }
}

/// The points and colours (in [0, 1], or none) of a structure-from-motion cloud, in scene units.
pub type Cloud<'a> = (&'a [[f32; 3]], Option<&'a [[f32; 3]]>);

/// Cells at random places, in Hilbert order: drawn from `cloud` and from shells around it if there is one, else from
/// a box around the origin. `extent` is half the size of the region of interest, `cameras` are the positions of the
/// training cameras, both in scene units.
///
/// # Errors
///
/// A setting or extent out of range; a cloud with another number of colours than points.
pub fn initial_cells(
    config: &InitConfig,
    extent: f32,
    cloud: Option<Cloud<'_>>,
    cameras: &[[f32; 3]],
    seed: u64,
) -> Result<InitialCells> {
    if !(extent > 0.0 && extent.is_finite()) {
        return Err(Error::config("extent", "positive", extent.to_string()));
    }
    config.validate()?;
    if let Some((points, Some(colors))) = cloud
        && colors.len() != points.len()
    {
        let expected = format!("a colour for each of {} points", points.len());
        return Err(Error::tensor("cloud.colors", expected, format!("{} colours", colors.len())));
    }
    let rng = Rng::new(seed, Stream::Init, 0);
    let mut index = 0u32;
    let mut next = || {
        index += 1;
        index
    };
    const GREY: [f32; 3] = [0.5; 3];
    let density_at = |point: [f32; 3]| {
        let near = cameras.iter().any(|&camera| {
            let clearance = config.camera_clearance * config.camera_clearance * squared_distance(camera, [0.0; 3]);
            squared_distance(point, camera) < clearance
        });
        if near { config.outer_raw_density } else { config.raw_density }
    };
    let mut cells = InitialCells::default();
    if let Some((points, colors)) = cloud.filter(|(points, _)| !points.is_empty()) {
        for _ in 0..config.num_cloud_cells {
            let from = rng.below(next(), points.len() as u64) as usize;
            let jitter = rng.normal4(next());
            let point = [0, 1, 2].map(|axis| points[from][axis] + config.cloud_jitter * extent * jitter[axis]);
            cells.push(point, config.cloud_raw_density, colors.map_or(GREY, |colors| colors[from]));
        }
        for _ in 0..config.num_cells {
            let direction = rng.direction(next());
            let octave = config.shell_octaves * rng.normal4(next())[0].abs();
            // The cube root spreads the cells of a shell evenly over the ball inside it.
            let radius = config.shell_radius * extent * octave.exp2() * rng.uniform(next()).cbrt();
            let point = direction.map(|x| x * radius);
            cells.push(point, density_at(point), GREY);
        }
    } else {
        for _ in 0..config.num_cells {
            let u = rng.uniform4(next());
            let point = [0, 1, 2].map(|axis| config.box_half * extent * (2.0 * u[axis] - 1.0));
            cells.push(point, density_at(point), GREY);
        }
        for _ in 0..config.num_outer_cells {
            let n = rng.normal4(next());
            // A standard deviation of one camera distance covers the cameras' volume.
            cells.push([n[0], n[1], n[2]], config.outer_raw_density, GREY);
        }
    }
    let order = crate::geometry::hilbert_order(&cells.points);
    cells.reorder(&order);
    Ok(cells)
}
