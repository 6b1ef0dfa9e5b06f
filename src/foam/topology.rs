//! Which cells are neighbours, and when that has to be found out anew.

use crate::geometry::{Adjacency, Delaunay, NUM_SENTINELS, nearest_cell, nearest_neighbor_distances, sentinels};
use crate::{Error, Result};
use rayon::prelude::*;

/// The Delaunay adjacency of a foam's points and of its eight sentinels, which are its last cells.
///
/// Sentinels stand far around the scene, have no density and are never trained: no real cell is unbounded, and
/// degenerate input is ordinary. An adjacency stays good while its points move by less than a few percent of the
/// distance to their nearest neighbours, and errs little up to half of it; [`Topology::moved_share`] measures that.
#[derive(Debug, Clone)]
pub struct Topology {
    adjacency: Adjacency,
    /// What the next adjacency is repaired from. Not saved: without it the next is built, and is the same.
    delaunay: Option<Delaunay>,
    sentinels: [[f32; 3]; NUM_SENTINELS],
    /// The points, sentinels included, at which the adjacency was built.
    built_at: Vec<[f32; 3]>,
    /// Distance of each of them to its nearest neighbour.
    spacing: Vec<f32>,
}

impl Topology {
    /// Triangulates `points` (scene units) within sentinels at `sentinel_radius` around the origin.
    ///
    /// # Errors
    ///
    /// A non-finite point, or one that lies outside the sentinels.
    pub fn build(points: &[[f32; 3]], sentinel_radius: f32) -> Result<Self> {
        check_within(points, sentinel_radius)?;
        let sentinels = sentinels([0.0; 3], sentinel_radius);
        let built_at: Vec<[f32; 3]> = points.iter().copied().chain(sentinels).collect();
        let delaunay = Delaunay::new(&built_at)?;
        if cfg!(debug_assertions) {
            delaunay.certify()?;
        }
        let adjacency = Adjacency::from_delaunay(&delaunay)?;
        let spacing = nearest_neighbor_distances(&built_at, &adjacency);
        Ok(Self { adjacency, delaunay: Some(delaunay), sentinels, built_at, spacing })
    }

    /// Follows the cells to `points` (`[P, 3]`, scene units), by repair where that pays. The result is that of
    /// [`Topology::build`], bit for bit.
    ///
    /// # Errors
    ///
    /// As [`Topology::build`].
    pub fn follow(&mut self, points: &[[f32; 3]], sentinel_radius: f32) -> Result<()> {
        check_within(points, sentinel_radius)?;
        let sentinels = sentinels([0.0; 3], sentinel_radius);
        let Some(mut delaunay) = self.delaunay.take().filter(|d| d.num_points() == points.len() + NUM_SENTINELS) else {
            *self = Self::build(points, sentinel_radius)?;
            return Ok(());
        };
        let built_at: Vec<[f32; 3]> = points.iter().copied().chain(sentinels).collect();
        delaunay.follow_with(&built_at, &mut self.adjacency)?;
        self.spacing = nearest_neighbor_distances(&built_at, &self.adjacency);
        (self.delaunay, self.sentinels, self.built_at) = (Some(delaunay), sentinels, built_at);
        Ok(())
    }

    /// A topology as it was saved: `offsets`, `neighbors` and the points it was built at, sentinels included.
    ///
    /// # Errors
    ///
    /// Offsets and neighbours that do not describe those points.
    pub fn from_parts(offsets: Vec<u32>, neighbors: Vec<u32>, built_at: Vec<[f32; 3]>) -> Result<Self> {
        if built_at.len() < NUM_SENTINELS {
            let expected = format!("at least the {NUM_SENTINELS} sentinels");
            return Err(Error::tensor("foam.built_at", expected, format!("{} points", built_at.len())));
        }
        if offsets.len() != built_at.len() + 1 {
            return Err(Error::tensor(
                "foam.offsets",
                format!("[{}], one more than the points", built_at.len() + 1),
                format!("[{}]", offsets.len()),
            ));
        }
        crate::ops::fused::check_adjacency(&offsets, &neighbors).map_err(|error| {
            let expected = format!("the neighbours of {} cells", built_at.len());
            Error::tensor("foam.neighbors", expected, error.to_string())
        })?;
        let mut sentinels = [[0.0; 3]; NUM_SENTINELS];
        sentinels.copy_from_slice(&built_at[built_at.len() - NUM_SENTINELS..]);
        let adjacency = Adjacency { offsets, neighbors };
        let spacing = nearest_neighbor_distances(&built_at, &adjacency);
        Ok(Self { adjacency, delaunay: None, sentinels, built_at, spacing })
    }

    /// The adjacency, sentinels included.
    pub fn adjacency(&self) -> &Adjacency {
        &self.adjacency
    }

    /// Where the sentinels stand.
    pub fn sentinels(&self) -> &[[f32; 3]; NUM_SENTINELS] {
        &self.sentinels
    }

    /// The points, sentinels included, at which the adjacency was built.
    pub fn built_at(&self) -> &[[f32; 3]] {
        &self.built_at
    }

    /// The number of real cells.
    pub fn num_cells(&self) -> usize {
        self.built_at.len() - NUM_SENTINELS
    }

    /// The share of `points` that have moved by more than `limit` times the distance to their nearest neighbour
    /// since the adjacency was built: 1, all of them, if `points` (`[P, 3]`) are not one for each real cell.
    pub fn moved_share(&self, points: &[[f32; 3]], limit: f32) -> f32 {
        if points.len() != self.num_cells() {
            return 1.0;
        }
        let moved: usize = (points, &self.built_at[..points.len()], &self.spacing[..points.len()])
            .into_par_iter()
            .with_min_len(4096)
            // A NaN has moved: the triangulation will name it.
            .map(|(p, q, spacing)| {
                let moved = squared_distance(*p, *q);
                usize::from(moved.is_nan() || moved > (limit * spacing).powi(2))
            })
            .sum();
        moved as f32 / points.len().max(1) as f32
    }

    /// The cell that holds `query`, found by descent from `hint`; `sites` (`[P, N]`, position in the first three) are
    /// the points where they are now, sentinels included.
    pub fn cell_at<const N: usize>(&self, sites: &[[f32; N]], query: [f32; 3], hint: u32) -> u32 {
        let hint = if (hint as usize) < sites.len() { hint } else { 0 };
        nearest_cell(sites, &self.adjacency, query, hint)
    }

    /// The real neighbours of a cell; none for an index that is no cell's.
    pub fn neighbors(&self, cell: usize) -> impl Iterator<Item = usize> + '_ {
        let neighbors = u32::try_from(cell).map_or(&[][..], |cell| self.adjacency.neighbors_of(cell));
        let num_cells = self.num_cells();
        neighbors.iter().map(|&j| j as usize).filter(move |&j| j < num_cells)
    }
}

fn check_within(points: &[[f32; 3]], sentinel_radius: f32) -> Result<()> {
    match points.iter().position(|p| p.iter().any(|x| x.is_nan() || x.abs() >= sentinel_radius)) {
        None => Ok(()),
        Some(i) => Err(Error::tensor(
            "foam.points",
            format!("coordinates within the sentinels at {sentinel_radius}"),
            format!("{:?} at cell {i}", points[i]),
        )),
    }
}

pub(crate) fn squared_distance(p: [f32; 3], q: [f32; 3]) -> f32 {
    (0..3).map(|axis| (p[axis] - q[axis]).powi(2)).sum()
}
