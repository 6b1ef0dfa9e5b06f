//! Which cells share a face, as compressed rows.

use super::delaunay::Delaunay;
use crate::{Error, Result};
use rayon::prelude::*;

/// How many sentinels close a scene.
pub const NUM_SENTINELS: usize = 8;

/// The Voronoi neighbours of every cell.
///
/// Each list is ascending and has no repetition, and a cell is never its own neighbour. The lists are symmetric, but
/// for copies: of coincident points the one of the lowest index has the cell; every other one has the same list as
/// that one, and is in nobody's list. So a walk that starts in a copy goes on as from its original, and no walk ever
/// enters a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adjacency {
    /// `[P + 1]`: the neighbours of cell `i` are `neighbors[offsets[i]..offsets[i + 1]]`.
    pub offsets: Vec<u32>,
    /// `[E]`: cell indices, below `P`.
    pub neighbors: Vec<u32>,
}

impl Adjacency {
    /// The neighbours of the Voronoi cells of `points` (`[P, 3]`), exact.
    ///
    /// Where points are cospherical, as on a grid, some neighbours share a face without area; no face with area is
    /// missing, ever.
    ///
    /// # Errors
    ///
    /// As [`Delaunay::new`]; callers append [`sentinels`], after which only a coordinate that is not finite is an error.
    pub fn build(points: &[[f32; 3]]) -> Result<Self> {
        Self::from_delaunay(&Delaunay::new(points)?)
    }

    /// The neighbours in a triangulation. Parallel over points; the same for any number of threads.
    ///
    /// # Errors
    ///
    /// [`Error::Geometry`] if the lists need more than 2^32 entries together.
    pub fn from_delaunay(delaunay: &Delaunay) -> Result<Self> {
        /// Chunks a thread: enough to balance the load.
        const CHUNKS_PER_THREAD: usize = 4;
        /// Each chunk clears a mark for every point, which must not outweigh the chunk.
        const MIN_CHUNK: usize = 4096;

        let num_points = delaunay.num_points();
        let tetrahedra = delaunay.tetrahedra();
        let (starts, incident) = incident_tetrahedra(num_points, &tetrahedra);
        let mut originals: Vec<u32> = (0..num_points as u32).collect();
        for &(copy, original) in delaunay.copies() {
            originals[copy as usize] = original;
        }

        let chunk_size = num_points.div_ceil(CHUNKS_PER_THREAD * rayon::current_num_threads()).max(MIN_CHUNK);
        let chunks: Vec<(Vec<u32>, Vec<u32>)> = originals
            .par_chunks(chunk_size)
            .enumerate()
            .map(|(chunk, sites)| {
                // Typical: 15.5 neighbours a point.
                let mut neighbors = Vec::with_capacity(sites.len() * 16);
                let mut degrees = Vec::with_capacity(sites.len());
                let mut seen_by = vec![u32::MAX; num_points];
                for (i, &site) in sites.iter().enumerate() {
                    let reader = (chunk * chunk_size + i) as u32;
                    let first = neighbors.len();
                    seen_by[site as usize] = reader;
                    for &tetrahedron in &incident[starts[site as usize] as usize..starts[site as usize + 1] as usize] {
                        for vertex in tetrahedra[tetrahedron as usize] {
                            if seen_by[vertex as usize] != reader {
                                seen_by[vertex as usize] = reader;
                                neighbors.push(vertex);
                            }
                        }
                    }
                    neighbors[first..].sort_unstable();
                    degrees.push((neighbors.len() - first) as u32);
                }
                (degrees, neighbors)
            })
            .collect();

        let num_neighbors: usize = chunks.iter().map(|(_, neighbors)| neighbors.len()).sum();
        if u32::try_from(num_neighbors).is_err() {
            return Err(Error::Geometry(format!("expected fewer than 2^32 neighbours, found {num_neighbors}")));
        }
        let mut offsets = Vec::with_capacity(num_points + 1);
        let mut neighbors = Vec::with_capacity(num_neighbors);
        let mut end = 0;
        offsets.push(end);
        for (degrees, chunk) in chunks {
            offsets.extend(degrees.into_iter().map(|degree| {
                end += degree;
                end
            }));
            neighbors.extend(chunk);
        }
        Ok(Self { offsets, neighbors })
    }

    /// How many cells there are.
    pub fn num_points(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// The neighbours of a cell, ascending; empty for an index that is no cell's.
    pub fn neighbors_of(&self, cell: u32) -> &[u32] {
        let cell = cell as usize;
        match self.offsets.get(cell..cell.saturating_add(2)) {
            Some(&[start, end]) => self.neighbors.get(start as usize..end as usize).unwrap_or_default(),
            _ => &[],
        }
    }
}

/// The tetrahedra at each point as compressed rows.
fn incident_tetrahedra(num_points: usize, tetrahedra: &[[u32; 4]]) -> (Vec<u32>, Vec<u32>) {
    // Counted two places ahead: the filling below moves each start by one place, to where it belongs.
    let mut starts = vec![0u32; num_points + 2];
    for &vertex in tetrahedra.iter().flatten() {
        starts[vertex as usize + 2] += 1;
    }
    for i in 2..starts.len() {
        starts[i] += starts[i - 1];
    }
    let mut incident = vec![0; 4 * tetrahedra.len()];
    for (tetrahedron, vertices) in tetrahedra.iter().enumerate() {
        for &vertex in vertices {
            let next = &mut starts[vertex as usize + 1];
            incident[*next as usize] = tetrahedron as u32;
            *next += 1;
        }
    }
    starts.pop();
    (starts, incident)
}

/// Eight points around the cube of half side `radius` at `center`, for callers to append as their last 8 points.
///
/// With them no cell inside is unbounded, the points are never all in one plane, and the hull stays when the others
/// move. They are the corners of the cube, each coordinate moved outward by its own 0 to 5 % of `radius`, so that no
/// four are coplanar and no five cospherical; the cube lies inside their hull. Choose `radius` at least four times the
/// extent of everything else, cameras included.
pub fn sentinels(center: [f32; 3], radius: f32) -> [[f32; 3]; NUM_SENTINELS] {
    const SPREAD: f32 = 0.05;
    /// Multiples of the golden ratio are spread evenly over [0, 1) and far from simple fractions.
    const GOLDEN: f32 = 0.618_034;
    std::array::from_fn(|corner| {
        std::array::from_fn(|axis| {
            let outward = 1.0 + SPREAD * (GOLDEN * (3 * corner + axis) as f32).fract();
            let sign = if corner >> axis & 1 == 0 { -1.0 } else { 1.0 };
            center[axis] + sign * outward * radius
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::predicates::{insphere, orient3d};
    use super::*;

    #[test]
    fn sentinels_are_in_general_position() {
        let radius = 10.0;
        for center in [[0.0; 3], [3.0, -100.0, 0.1]] {
            let points = sentinels(center, radius).map(|p| p.map(f64::from));
            for (corner, point) in points.iter().enumerate() {
                for axis in 0..3 {
                    let offset = point[axis] - f64::from(center[axis]);
                    assert_eq!(offset > 0.0, corner >> axis & 1 == 1, "corner {corner} is in another octant");
                    assert!(offset.abs() >= 0.9999 * f64::from(radius), "corner {corner} cuts the cube");
                }
            }
            let chosen = |subset: u32, size: u32| {
                (subset.count_ones() == size)
                    .then(|| (0..NUM_SENTINELS).filter(|i| subset >> i & 1 == 1).collect::<Vec<_>>())
            };
            // Well away from degenerate, not just off it: relative to the cube's own determinants.
            let (volume, lift) = (f64::from(radius).powi(3), f64::from(radius).powi(5));
            for subset in 0..1u32 << NUM_SENTINELS {
                if let Some(s) = chosen(subset, 4) {
                    let det = orient3d(&points[s[0]], &points[s[1]], &points[s[2]], &points[s[3]]);
                    assert!(det.abs() > 1e-4 * volume, "{s:?} are coplanar: {det}");
                }
                if let Some(s) = chosen(subset, 5) {
                    let det = insphere(&points[s[0]], &points[s[1]], &points[s[2]], &points[s[3]], &points[s[4]]);
                    assert!(det.abs() > 1e-4 * lift, "{s:?} are cospherical: {det}");
                }
            }
        }
    }
}
