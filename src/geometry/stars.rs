//! The cells at each point of a triangulation, and the neighbours that they give it.
//!
//! Each edge is found once, at its end of the lower index: half of the work, and the lists that are sorted are half as
//! long. The other half of the neighbours is a transposition.

use super::mesh::{FREE, INFINITE, Mesh, is_infinite};
use crate::pages;
use rayon::prelude::*;

/// Chunks a thread: enough to balance the load.
const CHUNKS_PER_THREAD: usize = 4;
/// Each chunk clears a mark for every point, which must not outweigh the chunk.
const MIN_CHUNK: usize = 4096;

/// The cells in which each point is not the one of the highest index, as compressed rows; a part for each thread, which
/// sees all cells and keeps its own. Points are named by the caller's indices.
pub(super) struct Stars<'a> {
    mesh: &'a Mesh,
    indices: &'a [u32],
    num_points: usize,
    part_size: usize,
    parts: Vec<Part>,
}

struct Part {
    degrees: Vec<u32>,
    starts: Vec<u32>,
    cells: Vec<u32>,
}

/// The neighbours of a higher index of each point, ascending.
pub(super) struct HigherNeighbors(Vec<Rows>);

#[derive(Default)]
struct Rows {
    first: u32,
    ends: Vec<u32>,
    neighbors: Vec<u32>,
}

impl<'a> Stars<'a> {
    /// - `indices`: the index of each vertex, below `num_points`.
    pub fn new(mesh: &'a Mesh, indices: &'a [u32], num_points: usize) -> Self {
        let part_size = num_points.div_ceil(rayon::current_num_threads()).max(1);
        let firsts: Vec<usize> = (0..num_points).step_by(part_size).collect();
        let part = |first: usize| Part::new(mesh, indices, first as u32, part_size.min(num_points - first));
        let parts = firsts.into_par_iter().map(part).collect();
        Self { mesh, indices, num_points, part_size, parts }
    }

    /// How many neighbours a point has, of which one is known to be in the triangulation; 0 of others.
    pub fn degree(&self, point: u32) -> u32 {
        self.parts[point as usize / self.part_size].degrees[point as usize % self.part_size]
    }

    fn cells(&self, point: usize) -> &[u32] {
        let (part, at) = (&self.parts[point / self.part_size], point % self.part_size);
        &part.cells[part.starts[at] as usize..part.starts[at + 1] as usize]
    }

    pub fn higher_neighbors(&self) -> HigherNeighbors {
        let chunk_size = self.num_points.div_ceil(CHUNKS_PER_THREAD * rayon::current_num_threads()).max(MIN_CHUNK);
        let firsts: Vec<usize> = (0..self.num_points).step_by(chunk_size).collect();
        let rows = |first: usize| self.rows(first..(first + chunk_size).min(self.num_points));
        HigherNeighbors(firsts.into_par_iter().map(rows).collect())
    }

    fn rows(&self, points: std::ops::Range<usize>) -> Rows {
        let num_neighbors: u32 = points.clone().map(|point| self.degree(point as u32)).sum();
        let mut rows = Rows {
            first: points.start as u32,
            ends: Vec::with_capacity(points.len()),
            // About half of the neighbours.
            neighbors: Vec::with_capacity(num_neighbors as usize / 9 * 5),
        };
        let mut seen_by = vec![u32::MAX; self.num_points];
        let mut found = Vec::new();
        for point in points {
            let cells = self.cells(point);
            found.resize(found.len().max(4 * cells.len() + 1), 0);
            let (reader, mut num_found) = (point as u32, 0);
            for &cell in cells {
                for vertex in self.mesh.vertices[cell as usize] {
                    // Index 0 is never a higher one.
                    let neighbor = self.indices.get(vertex as usize).copied().unwrap_or(0);
                    // Written in any case, and kept or not: a branch would be a coin toss.
                    found[num_found] = neighbor;
                    let seen_by = &mut seen_by[neighbor as usize];
                    num_found += usize::from((neighbor > reader) & (*seen_by != reader));
                    *seen_by = reader;
                }
            }
            let found = &mut found[..num_found];
            found.sort_unstable();
            rows.neighbors.extend_from_slice(found);
            rows.ends.push(rows.neighbors.len() as u32);
        }
        rows
    }
}

impl HigherNeighbors {
    /// Each point and its neighbours of a higher index, ascending.
    pub fn lists(&self) -> impl Iterator<Item = (u32, &[u32])> {
        self.0.iter().flat_map(|rows| {
            let mut start = 0;
            (rows.first..).zip(&rows.ends).map(move |(point, &end)| {
                let list = &rows.neighbors[start as usize..end as usize];
                start = end;
                (point, list)
            })
        })
    }
}

impl Part {
    fn new(mesh: &Mesh, indices: &[u32], first: u32, num_points: usize) -> Self {
        // Counted two places ahead: the filling below moves each start by one place, to where it belongs.
        let mut starts = vec![0u32; num_points + 2];
        let mut degrees = vec![0u32; num_points];
        let mut on_hull = vec![false; num_points];
        let index = |v: u32| indices.get(v as usize).copied().unwrap_or(INFINITE);
        // Points of other parts, the infinite one among them, come out beyond the last.
        let in_part = |point: u32| (point.wrapping_sub(first) as usize).min(num_points);
        let highest = |points: &[u32; 4]| points[0].max(points[1]).max(points[2].max(points[3]));
        for vertices in mesh.vertices.iter().filter(|vertices| **vertices != FREE) {
            let points = vertices.map(index);
            let highest = highest(&points);
            for point in points {
                let at = in_part(point);
                if at < num_points {
                    degrees[at] += 1;
                    starts[at + 2] += u32::from(point != highest);
                    if is_infinite(vertices) {
                        on_hull[at] = true;
                    }
                }
            }
        }
        for i in 2..starts.len() {
            starts[i] += starts[i - 1];
        }
        let mut cells = pages::zeros(starts[num_points + 1] as usize);
        for (cell, vertices) in (0..).zip(&mesh.vertices).filter(|(_, vertices)| **vertices != FREE) {
            let points = vertices.map(index);
            let highest = highest(&points);
            for at in points.into_iter().filter(|&point| point != highest).map(in_part) {
                if at < num_points {
                    let next = &mut starts[at + 1];
                    cells[*next as usize] = cell;
                    *next += 1;
                }
            }
        }
        starts.pop();
        // The triangles that the cells at a point have opposite to it are a sphere: T of them have T / 2 + 2 corners,
        // of which one may be the infinite one.
        for (degree, on_hull) in degrees.iter_mut().zip(on_hull).filter(|(degree, _)| **degree > 0) {
            *degree = *degree / 2 + 2 - u32::from(on_hull);
        }
        Self { degrees, starts, cells }
    }
}
