//! Which cells share a face, as compressed rows.

use super::delaunay::Delaunay;
use super::mesh::{FREE, INFINITE, is_infinite};
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

        let (num_points, indices) = (delaunay.num_points(), &delaunay.sites.indices);
        let stars = Stars::new(&delaunay.mesh.vertices, indices.len());
        let mut vertex_of = vec![0; num_points];
        for (vertex, &index) in (0..).zip(indices) {
            vertex_of[index as usize] = vertex;
        }
        for &(copy, original) in delaunay.copies() {
            vertex_of[copy as usize] = vertex_of[original as usize];
        }
        let mut offsets = Vec::with_capacity(num_points + 1);
        let mut end = 0u64;
        offsets.push(0);
        for &vertex in &vertex_of {
            end += u64::from(stars.degree(vertex));
            offsets.push(end as u32);
        }
        if u32::try_from(end).is_err() {
            return Err(Error::Geometry(format!("expected fewer than 2^32 neighbours, found {end}")));
        }

        let mut neighbors = vec![0; end as usize];
        let chunk_size = num_points.div_ceil(CHUNKS_PER_THREAD * rayon::current_num_threads()).max(MIN_CHUNK);
        let mut rest = &mut neighbors[..];
        let mut chunks = Vec::new();
        for (chunk, vertices) in vertex_of.chunks(chunk_size).enumerate() {
            let first = chunk * chunk_size;
            let size = (offsets[first + vertices.len()] - offsets[first]) as usize;
            let (rows, others) = std::mem::take(&mut rest).split_at_mut(size);
            chunks.push((vertices, rows));
            rest = others;
        }
        chunks.into_par_iter().for_each(|(vertices, mut rows)| {
            let mut seen_by = vec![u32::MAX; indices.len()];
            for (reader, &vertex) in (0..).zip(vertices) {
                let (row, others) = std::mem::take(&mut rows).split_at_mut(stars.degree(vertex) as usize);
                rows = others;
                seen_by[vertex as usize] = reader;
                let mut degree = 0;
                for &cell in stars.cells(vertex) {
                    for neighbor in delaunay.mesh.vertices[cell as usize] {
                        if neighbor != INFINITE && seen_by[neighbor as usize] != reader {
                            seen_by[neighbor as usize] = reader;
                            row[degree] = indices[neighbor as usize];
                            degree += 1;
                        }
                    }
                }
                row.sort_unstable();
            }
        });
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

/// The cells at each vertex, as compressed rows; a part for each thread, which sees all cells and keeps its own.
struct Stars {
    part_size: usize,
    parts: Vec<StarsPart>,
}

struct StarsPart {
    starts: Vec<u32>,
    cells: Vec<u32>,
    on_hull: Vec<bool>,
}

impl Stars {
    fn new(cells: &[[u32; 4]], num_vertices: usize) -> Self {
        let part_size = num_vertices.div_ceil(rayon::current_num_threads()).max(1);
        let firsts: Vec<usize> = (0..num_vertices).step_by(part_size).collect();
        let part = |first: usize| StarsPart::new(cells, first as u32, part_size.min(num_vertices - first));
        Self { part_size, parts: firsts.into_par_iter().map(part).collect() }
    }

    #[inline(always)]
    fn part(&self, vertex: u32) -> (&StarsPart, usize) {
        (&self.parts[vertex as usize / self.part_size], vertex as usize % self.part_size)
    }

    /// The triangles that the cells at a vertex have opposite to it are a sphere: T of them have T / 2 + 2 corners,
    /// of which one may be the infinite one.
    fn degree(&self, vertex: u32) -> u32 {
        let (part, at) = self.part(vertex);
        (part.starts[at + 1] - part.starts[at]) / 2 + 2 - u32::from(part.on_hull[at])
    }

    fn cells(&self, vertex: u32) -> &[u32] {
        let (part, at) = self.part(vertex);
        &part.cells[part.starts[at] as usize..part.starts[at + 1] as usize]
    }
}

impl StarsPart {
    fn new(cells: &[[u32; 4]], first: u32, num_vertices: usize) -> Self {
        // Counted two places ahead: the filling below moves each start by one place, to where it belongs.
        let mut starts = vec![0u32; num_vertices + 2];
        let mut on_hull = vec![false; num_vertices];
        // Vertices of other parts, the infinite one among them, come out beyond the last.
        let in_part = |vertex: u32| (vertex.wrapping_sub(first) as usize).min(num_vertices);
        for vertices in cells.iter().filter(|vertices| **vertices != FREE) {
            for at in vertices.map(in_part).into_iter().filter(|&at| at < num_vertices) {
                starts[at + 2] += 1;
                on_hull[at] |= is_infinite(vertices);
            }
        }
        for i in 2..starts.len() {
            starts[i] += starts[i - 1];
        }
        let mut incident = vec![0; starts[num_vertices + 1] as usize];
        for (cell, vertices) in (0..).zip(cells).filter(|(_, vertices)| **vertices != FREE) {
            for at in vertices.map(in_part).into_iter().filter(|&at| at < num_vertices) {
                let next = &mut starts[at + 1];
                incident[*next as usize] = cell;
                *next += 1;
            }
        }
        starts.pop();
        Self { starts, cells: incident, on_hull }
    }
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
    use super::super::predicates::{Site, insphere, orient3d};
    use super::*;

    #[test]
    fn sentinels_are_in_general_position() {
        let radius = 10.0;
        for center in [[0.0; 3], [3.0, -100.0, 0.1]] {
            let positions = sentinels(center, radius);
            let points = positions.map(Site::new);
            for (corner, point) in positions.map(|p| p.map(f64::from)).iter().enumerate() {
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
