//! A triangulation that follows its points: moved, added, removed.
//!
//! The result is the triangulation that would be built from the points anew, ties included, since there is only one.
//! Where repair is not possible or does not pay, that is what is done.

use super::adjacency::Adjacency;
use super::delaunay::{Delaunay, check_finite};
use super::flips::Flipper;
use super::insert::Builder;
use super::mesh::{FREE, INFINITE, is_infinite};
use super::order::hilbert_order;
use super::predicates::{Site, orient3d};
use super::scan::scan;
use crate::{Error, Result};
use rayon::prelude::*;

/// Flips cost as much as a new triangulation where more than this share of the facets is wrong.
const MAX_BAD_FACETS: f64 = 0.06;
/// Taking a vertex out costs several insertions.
const MAX_REMOVED: f64 = 0.02;

/// How a triangulation came to its points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// By local changes.
    Repaired {
        /// Exchanges of a facet for an edge or of an edge for a facet.
        num_flips: usize,
        /// Points that moved so far that a tetrahedron turned inside out: taken out and put back.
        num_reinserted: usize,
    },
    /// From nothing: too much was wrong.
    Rebuilt,
}

/// Which neighbours a repair changed, by the numbers of the vertices.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// An edge for each time that it was made or taken away.
    pub edges: Vec<(u32, u32)>,
    /// The vertices put in, of whose edges `edges` has none, and a cell of each.
    pub inserted: Vec<(u32, u32)>,
}

impl Delaunay {
    /// Follows its points to `points` (`[P, 3]`), in the same order.
    ///
    /// For small moves several times as fast as [`Delaunay::new`], with the same result, however the points moved: all
    /// facets are looked at, those that are not locally Delaunay are flipped away, and points in whose surroundings a
    /// tetrahedron turned inside out are taken out before and put back afterwards. Large moves lead to a triangulation
    /// anew. In debug builds the result is certified.
    ///
    /// ```
    /// use candle_radfoam::geometry::{Delaunay, sentinels};
    ///
    /// let mut points: Vec<[f32; 3]> = (0..50).map(|i| [0.1, 0.37, 0.73].map(|x| (x * i as f32).fract())).collect();
    /// points.extend(sentinels([0.5; 3], 4.0));
    /// let mut delaunay = Delaunay::new(&points)?;
    /// points[7][0] += 0.01;
    /// delaunay.follow(&points)?;
    /// assert_eq!(delaunay.tetrahedra(), Delaunay::new(&points)?.tetrahedra());
    /// # Ok::<(), candle_radfoam::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Geometry`] if there are not as many points as before or one is not finite, which changes nothing; as
    /// [`Delaunay::new`], after which the triangulation is not to be used.
    pub fn follow(&mut self, points: &[[f32; 3]]) -> Result<Repair> {
        Ok(self.follow_changes(points)?.map_or(Repair::Rebuilt, |(repair, _)| repair))
    }

    /// As [`Delaunay::follow`], and `adjacency`, which is that of the triangulation so far, becomes that of the result.
    ///
    /// After a repair only the lists that changed are made anew. In debug builds all of them are, and compared.
    ///
    /// # Errors
    ///
    /// As [`Delaunay::follow`] and [`Adjacency::from_delaunay`]; `adjacency` is then as it was.
    pub fn follow_with(&mut self, points: &[[f32; 3]], adjacency: &mut Adjacency) -> Result<Repair> {
        let changes = self.follow_changes(points)?;
        if adjacency.has_lists(points.len())
            && let Some((repair, changes)) = changes
        {
            let stars = self.stars_around(&changes.inserted);
            adjacency.change(&self.sites.indices, &changes.edges, stars)?;
            if cfg!(debug_assertions) && *adjacency != Adjacency::from_delaunay(self)? {
                return Err(Error::Geometry("the neighbours that changed are not those that a repair names".into()));
            }
            return Ok(repair);
        }
        *adjacency = Adjacency::from_delaunay(self)?;
        Ok(changes.map_or(Repair::Rebuilt, |(repair, _)| repair))
    }

    /// The repair and which neighbours it changed; `None` for a triangulation anew.
    fn follow_changes(&mut self, points: &[[f32; 3]]) -> Result<Option<(Repair, Changes)>> {
        if points.len() != self.num_points() {
            return Err(Error::Geometry(format!("expected {} points, found {}", self.num_points(), points.len())));
        }
        check_finite(points, 0)?;
        // A copy may have left its original; what is not a copy is told apart below.
        if self.sites.copies.is_empty()
            && let Some(repaired) = self.try_follow(points)?
        {
            self.check()?;
            return Ok(Some(repaired));
        }
        *self = Self::new(points)?;
        Ok(None)
    }

    /// `None`, and a mesh in disorder, if that leads nowhere.
    fn try_follow(&mut self, points: &[[f32; 3]]) -> Result<Option<(Repair, Changes)>> {
        let sites: Vec<Site> = self.sites.indices.iter().map(|&index| Site::new(points[index as usize])).collect();
        let faults = scan(&self.mesh, &sites);
        let num_cells = self.mesh.vertices.len() as f64;
        // Two facets a cell.
        if faults.facets.len() as f64 > MAX_BAD_FACETS * 2.0 * num_cells {
            return Ok(None);
        }
        let (mut free, mut queue) = (faults.free, faults.facets);
        // A flip adds a cell at most. Growing by doubling would be far too much.
        self.mesh.reserve(queue.len());
        let mut edges = Vec::new();
        let inverted = faults.inverted;
        let Some(mut removed) = self.remove_inverted(&sites, inverted, &mut free, &mut queue, &mut edges)? else {
            return Ok(None);
        };
        let mut flipper = Flipper { mesh: &mut self.mesh, sites: &sites, free, num_flips: 0, edges };
        if !flipper.flip_all(queue) {
            return Ok(None);
        }
        let Flipper { free, num_flips, edges, .. } = flipper;
        self.sites.sites = sites;
        removed.sort_unstable();
        let mut inserted = Vec::new();
        if !removed.is_empty() {
            let mut builder = self.builder(free, removed.len());
            let cells = if builder.insert(&removed)? { builder.cells_of(&removed) } else { None };
            builder.finish();
            let Some(cells) = cells else { return Ok(None) };
            inserted = removed.into_iter().zip(cells).collect();
        }
        let repair = Repair::Repaired { num_flips, num_reinserted: inserted.len() };
        Ok(Some((repair, Changes { edges, inserted })))
    }

    /// The neighbours of vertices, given a cell of each, and those of their neighbours: all vertices whose neighbours an
    /// insertion of the given ones may have changed, ascending.
    fn stars_around(&self, vertices: &[(u32, u32)]) -> Vec<(u32, Vec<u32>)> {
        let around = vertices.par_iter().flat_map_iter(|&(vertex, cell)| {
            self.star(vertex, cell).into_iter().flat_map(|cell| self.mesh.vertices[cell as usize].map(|v| (v, cell)))
        });
        let mut known: Vec<(u32, u32)> = around.filter(|(v, _)| *v != INFINITE).collect();
        known.par_sort_unstable();
        known.dedup_by_key(|(v, _)| *v);
        let neighbors = |&(vertex, cell): &(u32, u32)| {
            let cells = self.star(vertex, cell);
            let mut around: Vec<u32> = cells.iter().flat_map(|&cell| self.mesh.vertices[cell as usize]).collect();
            around.sort_unstable();
            around.dedup();
            around.retain(|&v| v != vertex && v != INFINITE);
            (vertex, around)
        };
        known.par_iter().map(neighbors).collect()
    }

    /// The cells at a vertex, of which one is given.
    fn star(&self, vertex: u32, cell: u32) -> Vec<u32> {
        /// From here on looking through the list takes longer than a mark for each cell there is. A sentinel has
        /// thousands of cells.
        const MANY: usize = 128;
        let (mut star, mut seen) = (vec![cell], Vec::new());
        let mut next = 0;
        while let Some(&cell) = star.get(next) {
            next += 1;
            for facet in (0..4).filter(|&facet| self.mesh.vertices[cell as usize][facet] != vertex) {
                let beyond = self.mesh.links[cell as usize][facet] >> 2;
                if star.len() == MANY && seen.is_empty() {
                    seen = vec![false; self.mesh.vertices.len()];
                    star.iter().for_each(|&cell| seen[cell as usize] = true);
                }
                let is_known = match seen.get_mut(beyond as usize) {
                    Some(is_known) => std::mem::replace(is_known, true),
                    None => star.contains(&beyond),
                };
                if !is_known {
                    star.push(beyond);
                }
            }
        }
        star
    }

    /// Takes vertices out, where the triangulation was Delaunay, until no tetrahedron is inverted where it is going to be.
    fn remove_inverted(
        &mut self,
        sites: &[Site],
        mut inverted: Vec<u32>,
        free: &mut Vec<u32>,
        queue: &mut Vec<(u32, u8)>,
        edges: &mut Vec<(u32, u32)>,
    ) -> Result<Option<Vec<u32>>> {
        let max_removed = (MAX_REMOVED * sites.len() as f64) as usize;
        let mut removed = Vec::new();
        while let Some(cell) = inverted.pop() {
            let vertices = self.mesh.vertices[cell as usize];
            if is_infinite(&vertices) {
                continue;
            }
            let [a, b, c, d] = vertices.map(|v| &sites[v as usize]);
            if orient3d(a, b, c, d) > 0.0 {
                continue;
            }
            // The one that moved farthest is the likeliest to be the reason.
            let moved = |v: u32| {
                let (from, to) = (self.sites.sites[v as usize].position, sites[v as usize].position);
                (0..3).map(|k| (to[k] - from[k]).powi(2)).sum::<f32>()
            };
            let mut order = vertices;
            order.sort_unstable_by(|&v, &w| moved(w).total_cmp(&moved(v)).then(v.cmp(&w)));
            let mut made = None;
            for vertex in order {
                made = self.mesh.remove(&self.sites.sites, vertex, cell, free)?;
                if made.is_some() {
                    removed.push(vertex);
                    break;
                }
            }
            let Some(made) = made.filter(|_| removed.len() <= max_removed) else { return Ok(None) };
            queue.extend(made.cells.iter().flat_map(|&cell| (0..4).map(move |facet| (cell, facet))));
            inverted.extend(made.cells);
            edges.extend(made.edges);
        }
        Ok(Some(removed))
    }

    fn free_cells(&self) -> Vec<u32> {
        (0..).zip(&self.mesh.vertices).filter(|(_, vertices)| **vertices == FREE).map(|(cell, _)| cell).collect()
    }

    /// Makes ready to insert so many sites.
    fn builder(&mut self, free: Vec<u32>, num_more: usize) -> Builder<'_> {
        let start = self.mesh.vertices.iter().position(|vertices| *vertices != FREE).unwrap_or_default();
        Builder::new(&self.sites.sites, &mut self.mesh, start as u32, free, num_more)
    }

    /// Adds `points` (`[N, 3]`) behind those that are there: the first has the index [`Delaunay::num_points`].
    ///
    /// # Errors
    ///
    /// [`Error::Geometry`] if a point is not finite, which changes nothing; as [`Delaunay::new`], after which the
    /// triangulation is not to be used.
    pub fn insert(&mut self, points: &[[f32; 3]]) -> Result<Repair> {
        let num_points = self.num_points();
        check_finite(points, num_points)?;
        let mut all = self.positions();
        all.extend(points);
        if points.len() < num_points && u32::try_from(all.len()).is_ok() {
            let first = self.sites.sites.len() as u32;
            for k in hilbert_order(points) {
                self.sites.sites.push(Site::new(points[k as usize]));
                self.sites.indices.push(num_points as u32 + k);
            }
            let vertices: Vec<u32> = (first..self.sites.sites.len() as u32).collect();
            let free = self.free_cells();
            let mut builder = self.builder(free, vertices.len());
            let is_done = builder.insert(&vertices)?;
            builder.finish();
            if is_done {
                self.check()?;
                return Ok(Repair::Repaired { num_flips: 0, num_reinserted: points.len() });
            }
        }
        *self = Self::new(&all)?;
        Ok(Repair::Rebuilt)
    }

    /// Removes the points of the given indices; the others close up, in their order. An index that is no point's, or is
    /// there twice, counts for nothing.
    ///
    /// # Errors
    ///
    /// As [`Delaunay::new`] of those that are left, after which the triangulation is not to be used.
    pub fn remove(&mut self, indices: &[u32]) -> Result<Repair> {
        let mut is_kept = vec![true; self.num_points()];
        for &index in indices {
            if let Some(is_kept) = is_kept.get_mut(index as usize) {
                *is_kept = false;
            }
        }
        let num_removed = is_kept.iter().filter(|&&is_kept| !is_kept).count();
        let mut kept = self.positions();
        let mut keep = is_kept.iter();
        kept.retain(|_| keep.next().copied().unwrap_or(true));
        if self.sites.copies.is_empty()
            && num_removed as f64 <= MAX_REMOVED * is_kept.len() as f64
            && self.try_remove(&is_kept)?
        {
            self.check()?;
            return Ok(Repair::Repaired { num_flips: 0, num_reinserted: 0 });
        }
        *self = Self::new(&kept)?;
        Ok(Repair::Rebuilt)
    }

    fn try_remove(&mut self, is_kept: &[bool]) -> Result<bool> {
        let mut cell_of = vec![0u32; self.sites.sites.len()];
        for (cell, vertices) in (0..).zip(&self.mesh.vertices) {
            for &v in vertices.iter().filter(|&&v| v != INFINITE) {
                cell_of[v as usize] = cell;
            }
        }
        let mut free = self.free_cells();
        let mut renumbered = vec![INFINITE; self.sites.sites.len()];
        let mut next = 0;
        for vertex in 0..self.sites.sites.len() as u32 {
            if is_kept[self.sites.indices[vertex as usize] as usize] {
                renumbered[vertex as usize] = next;
                next += 1;
                continue;
            }
            let cell = cell_of[vertex as usize];
            let Some(made) = self.mesh.remove(&self.sites.sites, vertex, cell, &mut free)? else { return Ok(false) };
            for &cell in &made.cells {
                for v in self.mesh.vertices[cell as usize] {
                    cell_of[v as usize] = cell;
                }
            }
        }
        for vertices in &mut self.mesh.vertices {
            *vertices = vertices.map(|v| renumbered.get(v as usize).copied().unwrap_or(INFINITE));
        }
        let mut place = 0u32;
        let places: Vec<u32> = is_kept
            .iter()
            .map(|&is_kept| {
                place += u32::from(is_kept);
                place.wrapping_sub(1)
            })
            .collect();
        let stays = |v: usize| renumbered[v] != INFINITE;
        let sites = &mut self.sites;
        let kept: Vec<(Site, u32)> = (0..sites.sites.len())
            .filter(|&v| stays(v))
            .map(|v| (sites.sites[v], places[sites.indices[v] as usize]))
            .collect();
        (sites.sites, sites.indices) = kept.into_iter().unzip();
        Ok(true)
    }

    /// Where the points are.
    fn positions(&self) -> Vec<[f32; 3]> {
        let mut positions = vec![[0.0; 3]; self.num_points()];
        for (site, &index) in self.sites.sites.iter().zip(&self.sites.indices) {
            positions[index as usize] = site.position;
        }
        for &(copy, original) in &self.sites.copies {
            positions[copy as usize] = positions[original as usize];
        }
        positions
    }

    /// The certificate, in debug builds.
    fn check(&self) -> Result<()> {
        if cfg!(debug_assertions) {
            self.certify()?;
        }
        Ok(())
    }
}
