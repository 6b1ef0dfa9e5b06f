//! A foam as the plain arrays that files of other programs hold, and back.

use super::{Foam, NUM_SENTINELS, SENTINEL_RADIUS, SOFTPLUS_BETA, Topology, with_values};
use crate::exchange::{Density, PointCloud, Scene};
use crate::geometry::sentinels;
use crate::{Error, Result, sh};
use candle_core::{Device, Tensor};

/// The raw density of an empty cell: `e^-80 / 10` of the scale. A density of 0 has no raw density, and everything as
/// thin as this is passed over in a trace.
const EMPTY: f32 = -8.0;

/// How far sentinels stand around a foam from elsewhere, in distances of its farthest point from the origin; the least
/// that [`sentinels`] advises.
const SENTINEL_EXTENTS: f32 = 4.0;

impl Foam {
    /// The foam as plain arrays, densities activated, in scene units.
    ///
    /// The eight sentinels are its last cells, of density 0: whoever reads the arrays finds every cell of the foam
    /// bounded, as it is here, and unbounded cells that are empty.
    ///
    /// # Errors
    ///
    /// Those of Candle.
    pub fn to_scene(&self) -> Result<Scene> {
        let (mut density, _) = self.density_host()?;
        density.resize(density.len() + NUM_SENTINELS, 0.0);
        let mut sh = with_values(self.sh(), |values: &[f32]| values.to_vec())?;
        sh.resize(sh.len() + NUM_SENTINELS * self.num_coefficients() * 3, 0.0);
        let adjacency = self.topology().adjacency();
        Ok(Scene {
            points: self.sites()?,
            density: Density::Activated(density),
            num_coefficients: self.num_coefficients(),
            sh,
            offsets: adjacency.offsets.clone(),
            neighbors: adjacency.neighbors.clone(),
        })
    }

    /// The foam of plain arrays. `density_scale` is that of the foam to be made; with [`Density::Raw`], the one that
    /// the raw densities are for: 1 for a `model.pt` of the reference implementation.
    ///
    /// If the last eight cells are sentinels, as [`Foam::to_scene`] leaves them, they become sentinels again, and the
    /// adjacency is taken as it is. Other scenes have unbounded cells, which this crate does not know: they are closed
    /// by sentinels, triangulated anew, and cells that reach the sentinels are emptied, since the reference
    /// implementation shades no cell in which a ray ends.
    ///
    /// # Errors
    ///
    /// A scene that does not pass [`Scene::validate`]; a scale that is not positive.
    pub fn from_scene(scene: &Scene, density_scale: f64, device: &Device) -> Result<Self> {
        scene.validate()?;
        if !(density_scale > 0.0 && density_scale.is_finite()) {
            return Err(Error::config("density_scale", "positive", density_scale.to_string()));
        }
        let mut raw: Vec<f32> = match &scene.density {
            Density::Raw(values) => values.clone(),
            Density::Activated(values) => values.iter().map(|&density| deactivated(density, density_scale)).collect(),
        };
        let (num_cells, topology) = match closed(scene) {
            Some(num_cells) => {
                let (offsets, neighbors) = (scene.offsets.clone(), scene.neighbors.clone());
                (num_cells, Topology::from_parts(offsets, neighbors, scene.points.clone())?)
            }
            None => {
                let farthest = scene.points.as_flattened().iter().fold(0f32, |most, x| most.max(x.abs()));
                let radius = SENTINEL_RADIUS.max(SENTINEL_EXTENTS * farthest);
                let topology = Topology::build(&scene.points, radius)?;
                let first_sentinel = scene.points.len() as u32;
                for (cell, raw) in raw.iter_mut().enumerate() {
                    if topology.adjacency().neighbors_of(cell as u32).last() >= Some(&first_sentinel) {
                        *raw = EMPTY;
                    }
                }
                (scene.points.len(), topology)
            }
        };
        let (points, k) = (&scene.points[..num_cells], scene.num_coefficients);
        Self::from_parts(
            Tensor::from_slice(points.as_flattened(), (num_cells, 3), device)?,
            Tensor::from_slice(&raw[..num_cells], num_cells, device)?,
            Tensor::from_slice(&scene.sh[..num_cells * k * 3], (num_cells, k, 3), device)?,
            density_scale,
            topology,
        )
    }

    /// The sites of cells with a density of at least `least` (1 / scene unit), in scene units, and their base colour:
    /// the mean over all directions, in 8 bits.
    ///
    /// # Errors
    ///
    /// Those of Candle.
    pub fn point_cloud(&self, least: f32) -> Result<PointCloud> {
        let (density, _) = self.density_host()?;
        let stride = self.num_coefficients() * 3;
        let color =
            |row: &[f32]| [0, 1, 2].map(|c| (255.0 * (0.5 + sh::Y0 as f32 * row[c])).round().clamp(0.0, 255.0) as u8);
        let dense = |cell: &usize| density[*cell] >= least;
        let cells: Vec<usize> = (0..self.num_cells()).filter(dense).collect();
        let points = self.points_host()?;
        let colors = with_values(self.sh(), |sh: &[f32]| {
            cells.iter().map(|&cell| color(&sh[cell * stride..])).collect::<Vec<_>>()
        })?;
        let points = cells.iter().map(|&cell| points[cell].map(f64::from)).collect();
        Ok(PointCloud { points, colors: Some(colors), tracks: None })
    }
}

/// The raw density of which `density` is the activation.
fn deactivated(density: f32, scale: f64) -> f32 {
    let z = SOFTPLUS_BETA * f64::from(density) / scale;
    // ln(e^z - 1) = z + ln(1 - e^-z) does not overflow.
    let raw = (z + (-(-z).exp_m1()).ln()) / SOFTPLUS_BETA;
    (raw as f32).max(EMPTY)
}

/// The number of cells before the sentinels, if the last cells of `scene` are sentinels.
fn closed(scene: &Scene) -> Option<usize> {
    let num_cells = scene.points.len().checked_sub(NUM_SENTINELS)?;
    let last = &scene.points[num_cells..];
    // The first corner of the cube is not moved outward.
    let empty = match &scene.density {
        Density::Raw(values) => values[num_cells..].iter().all(|&raw| raw <= EMPTY),
        Density::Activated(values) => values[num_cells..].iter().all(|&density| density == 0.0),
    };
    (num_cells > 0 && empty && *last == sentinels([0.0; 3], -last[0][0])).then_some(num_cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the activation as its definition has it, in f64.
    #[test]
    fn deactivation_is_the_inverse_of_the_activation() {
        for scale in [1.0, 30.0, 0.01] {
            for density in [1e-9f32, 1e-6, 1e-3, 0.07, 1.0, 50.0, 3e4, 1e20] {
                let raw = f64::from(deactivated(density, scale));
                let z = SOFTPLUS_BETA * raw;
                let again = scale * (z.max(0.0) + (-z.abs()).exp().ln_1p()) / SOFTPLUS_BETA;
                // The raw density is rounded to f32, and stands in an exponent ten times as large.
                let error = (again / f64::from(density) - 1.0).abs();
                assert!(error < 1e-5, "{density} at {scale}: {raw} gives {again}");
            }
            assert_eq!(deactivated(0.0, scale), EMPTY);
        }
    }
}
