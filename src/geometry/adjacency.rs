//! Which cells share a face, as compressed rows.

use super::delaunay::Delaunay;
use super::stars::Stars;
use crate::{Error, Result, pages};
use rayon::prelude::*;
use std::ops::Range;

/// How many sentinels close a scene.
pub const NUM_SENTINELS: usize = 8;

/// Chunks a thread: enough to balance the load.
const CHUNKS_PER_THREAD: usize = 4;

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
        let (num_points, indices) = (delaunay.num_points(), &delaunay.sites.indices);
        let stars = Stars::new(&delaunay.mesh, indices, num_points);
        let mut offsets = Vec::with_capacity(num_points + 1);
        let mut copies = delaunay.copies().iter().peekable();
        let mut end = 0u64;
        offsets.push(0);
        for list in 0..num_points as u32 {
            let original = copies.next_if(|(copy, _)| *copy == list).map_or(list, |&(_, original)| original);
            end += u64::from(stars.degree(original));
            offsets.push(end as u32);
        }
        check_size(end)?;
        let higher = stars.higher_neighbors();
        drop(stars);
        let mut neighbors = pages::zeros(end as usize);
        let chunk_size = num_points.div_ceil(rayon::current_num_threads()).max(1);
        // From the lowest list to the highest, so that each gets its lower neighbours in order, then its higher ones.
        chunks(&offsets, &mut neighbors, chunk_size).into_par_iter().for_each(|(lists, rows)| {
            let (first, start) = (lists.start, offsets[lists.start]);
            let mut next: Vec<u32> = offsets[lists].iter().map(|offset| offset - start).collect();
            for (list, higher) in higher.lists() {
                for neighbor in higher {
                    if let Some(next) = next.get_mut((*neighbor as usize).wrapping_sub(first)) {
                        rows[*next as usize] = list;
                        *next += 1;
                    }
                }
                if let Some(next) = next.get((list as usize).wrapping_sub(first)) {
                    rows[*next as usize..][..higher.len()].copy_from_slice(higher);
                }
            }
        });
        for &(copy, original) in delaunay.copies() {
            let start = offsets[copy as usize] as usize;
            let original = offsets[original as usize] as usize..offsets[original as usize + 1] as usize;
            neighbors.copy_within(original, start);
        }
        Ok(Self { offsets, neighbors })
    }

    /// Becomes what a repair made of it, in which there is a vertex for each point; `indices` are the vertices' indices.
    ///
    /// - `edges`: an edge for each time that it was made or taken away, as vertices;
    /// - `stars`: vertices with all their neighbours, which come instead of those edges.
    pub(super) fn change(&mut self, indices: &[u32], edges: &[(u32, u32)], stars: Vec<(u32, Vec<u32>)>) -> Result<()> {
        let num_points = self.num_points();
        let index = |v: u32| indices[v as usize];
        let mut is_known = vec![false; num_points];
        for (vertex, _) in &stars {
            is_known[index(*vertex) as usize] = true;
        }
        let known = stars.into_par_iter().map(|(vertex, mut neighbors)| {
            neighbors.iter_mut().for_each(|v| *v = index(*v));
            neighbors.sort_unstable();
            (index(vertex), neighbors)
        });
        let mut changed: Vec<(u32, Vec<u32>)> = known.collect();
        // What came to each other list or went from it, as (list, neighbour), ascending.
        let ends = edges.iter().flat_map(|&(v, w)| [(index(v), index(w)), (index(w), index(v))]);
        let mut toggles: Vec<(u32, u32)> = ends.filter(|&(list, _)| !is_known[list as usize]).collect();
        toggles.par_sort_unstable();
        let lists: Vec<_> = toggles.chunk_by(|a, b| a.0 == b.0).collect();
        changed.par_extend(
            lists.par_iter().map(|toggles| (toggles[0].0, toggled(self.neighbors_of(toggles[0].0), toggles))),
        );
        changed.par_sort_unstable_by_key(|&(list, _)| list);

        let mut offsets = Vec::with_capacity(num_points + 1);
        let (mut end, mut next) = (0u64, changed.iter().peekable());
        offsets.push(0);
        for list in 0..num_points as u32 {
            let degree = match next.next_if(|(changed, _)| *changed == list) {
                Some((_, neighbors)) => neighbors.len(),
                None => self.neighbors_of(list).len(),
            };
            end += degree as u64;
            offsets.push(end as u32);
        }
        check_size(end)?;
        let mut neighbors = vec![0; end as usize];
        let chunk_size = num_points.div_ceil(CHUNKS_PER_THREAD * rayon::current_num_threads()).max(1);
        chunks(&offsets, &mut neighbors, chunk_size).into_par_iter().for_each(|(lists, mut rows)| {
            let mut put = |values: &[u32]| {
                let (here, others) = std::mem::take(&mut rows).split_at_mut(values.len());
                here.copy_from_slice(values);
                rows = others;
            };
            let old = |from: usize, to: usize| &self.neighbors[self.offsets[from] as usize..self.offsets[to] as usize];
            let at = |list: usize| changed.partition_point(|&(changed, _)| (changed as usize) < list);
            let mut done = lists.start;
            for (list, neighbors) in &changed[at(lists.start)..at(lists.end)] {
                put(old(done, *list as usize));
                put(neighbors);
                done = *list as usize + 1;
            }
            put(old(done, lists.end));
        });
        (self.offsets, self.neighbors) = (offsets, neighbors);
        Ok(())
    }

    /// Whether the offsets delimit lists, of which there are so many, one behind the other.
    pub(super) fn has_lists(&self, num_lists: usize) -> bool {
        self.offsets.len() == num_lists + 1
            && self.offsets.first() == Some(&0)
            && self.offsets.is_sorted()
            && self.offsets.last().is_some_and(|&end| end as usize == self.neighbors.len())
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

fn check_size(num_neighbors: u64) -> Result<()> {
    match u32::try_from(num_neighbors) {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::Geometry(format!("expected fewer than 2^32 neighbours, found {num_neighbors}"))),
    }
}

/// Lists, so many at a time, and the room for them.
fn chunks<'a>(offsets: &[u32], mut room: &'a mut [u32], size: usize) -> Vec<(Range<usize>, &'a mut [u32])> {
    let num_lists = offsets.len() - 1;
    let starts = (0..num_lists).step_by(size);
    let chunk = |start: usize| {
        let lists = start..(start + size).min(num_lists);
        let (rows, others) = std::mem::take(&mut room).split_at_mut((offsets[lists.end] - offsets[start]) as usize);
        room = others;
        (lists, rows)
    };
    starts.map(chunk).collect()
}

/// A list with the neighbours taken out that are in it and put in that are not; of `toggles` (list, neighbour), what is
/// there twice is there and back.
fn toggled(old: &[u32], toggles: &[(u32, u32)]) -> Vec<u32> {
    let mut new = Vec::with_capacity(old.len() + toggles.len());
    let mut old = old.iter().copied().peekable();
    for same in toggles.chunk_by(|a, b| a == b).filter(|same| same.len() % 2 == 1) {
        let neighbor = same[0].1;
        new.extend(std::iter::from_fn(|| old.next_if(|&other| other < neighbor)));
        if old.next_if_eq(&neighbor).is_none() {
            new.push(neighbor);
        }
    }
    new.extend(old);
    new
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
