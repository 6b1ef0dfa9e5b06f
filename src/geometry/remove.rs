//! Removal of a vertex from a Delaunay triangulation.
//!
//! The hole that a vertex leaves is filled with cells of the triangulation of the vertices around it. They fit, because
//! ties are broken by the coordinates alone: a cell inside the hole is one of the triangulation without the vertex.

use super::insert::Builder;
use super::mesh::{EVEN, FREE, Mesh, is_infinite, link, linked};
use super::predicates::Site;
use super::sites::Sites;
use crate::Result;

/// Bits of a number of a vertex around a hole: three fit into a key.
const NUMBER_BITS: u32 = 21;
/// No cell, no link.
const NONE: u32 = u32::MAX;

/// The corners of a facet of a cell as its apex sees them, the lowest first, in one number: no other facet has the same.
#[inline(always)]
fn key(vertices: &[u32; 4], facet: usize) -> u64 {
    let first = (facet + 1) & 3;
    let (second, third) = EVEN[facet][first];
    let [a, b, c] = [first, second, third].map(|place| u64::from(vertices[place]));
    let [a, b, c] = if a < b && a < c {
        [a, b, c]
    } else if b < c {
        [b, c, a]
    } else {
        [c, a, b]
    };
    a << (2 * NUMBER_BITS) | b << NUMBER_BITS | c
}

/// What was made of the surroundings of a removed vertex.
pub(super) struct Filled {
    /// The cells made.
    pub cells: Vec<u32>,
    /// The edges that are no more and those that have come, as vertices.
    pub edges: Vec<(u32, u32)>,
}

impl Mesh {
    /// Removes a vertex, given a cell of its. `None`, and nothing is changed, for a vertex of the hull.
    pub fn remove(&mut self, sites: &[Site], vertex: u32, cell: u32, free: &mut Vec<u32>) -> Result<Option<Filled>> {
        let mut star = vec![cell];
        // The facets around: their cell, the facet opposite to the vertex.
        let mut hull = Vec::new();
        let mut next = 0;
        while let Some(&cell) = star.get(next) {
            next += 1;
            let vertices = self.vertices[cell as usize];
            if is_infinite(&vertices) {
                return Ok(None);
            }
            for facet in 0..4 {
                let outside = self.links[cell as usize][facet];
                if vertices[facet] == vertex {
                    hull.push((vertices, facet, outside));
                } else if !star.contains(&(outside >> 2)) {
                    star.push(outside >> 2);
                }
            }
        }
        let mut around: Vec<u32> = hull.iter().flat_map(|(vertices, ..)| *vertices).filter(|&v| v != vertex).collect();
        around.sort_unstable();
        around.dedup();
        if around.len() >> NUMBER_BITS != 0 {
            return Ok(None);
        }
        // In the order of the numbers of the mesh.
        let number = |v: u32| around.binary_search(&v).map_or(NONE, |number| number as u32);
        let mut hole: Vec<(u64, u32)> =
            hull.iter().map(|(vertices, facet, outside)| (key(&vertices.map(number), *facet), *outside)).collect();
        hole.sort_unstable();
        let patch_sites = Sites { sites: around.iter().map(|&v| sites[v as usize]).collect(), ..Sites::default() };
        let Some(simplex) = patch_sites.simplex() else { return Ok(None) };
        let mut patch = Mesh::simplex(simplex);
        let rest: Vec<u32> = (0..around.len() as u32).filter(|v| !simplex.contains(v)).collect();
        let mut builder = Builder::new(&patch_sites.sites, &mut patch, 4, Vec::new(), around.len());
        builder.insert(&rest)?;
        builder.finish();

        let behind = |vertices: &[u32; 4]| -> [u32; 4] {
            std::array::from_fn(|facet| {
                let key = key(vertices, facet);
                hole.binary_search_by_key(&key, |&(key, _)| key).map_or(NONE, |at| hole[at].1)
            })
        };
        // From a facet of the hole inwards: the cells of the patch, and what is behind their facets outside the hole.
        let mut filling: Vec<(u32, [u32; 4])> = Vec::with_capacity(2 * around.len());
        let mut place_of = vec![NONE; patch.vertices.len()];
        let start = patch.vertices.iter().position(|vertices| {
            *vertices != FREE && !is_infinite(vertices) && behind(vertices).iter().any(|&outside| outside != NONE)
        });
        let Some(start) = start else { return Ok(None) };
        let mut visit = |cell: u32, filling: &mut Vec<(u32, [u32; 4])>| {
            let place = &mut place_of[cell as usize];
            if *place == NONE {
                *place = filling.len() as u32;
                filling.push((cell, behind(&patch.vertices[cell as usize])));
            }
        };
        visit(start as u32, &mut filling);
        let (mut next, mut num_met) = (0, 0);
        while let Some(&(cell, outside)) = filling.get(next) {
            next += 1;
            if is_infinite(&patch.vertices[cell as usize]) {
                return Ok(None);
            }
            for facet in 0..4 {
                if outside[facet] != NONE {
                    num_met += 1;
                } else {
                    visit(patch.links[cell as usize][facet] >> 2, &mut filling);
                }
            }
        }
        if num_met != hole.len() {
            return Ok(None);
        }

        for &cell in &star {
            self.vertices[cell as usize] = FREE;
        }
        free.extend(&star);
        let made: Vec<u32> = filling.iter().map(|_| self.take(free)).collect();
        for (&(from, outside), &to) in filling.iter().zip(&made) {
            self.vertices[to as usize] = patch.vertices[from as usize].map(|v| around[v as usize]);
            for facet in 0..4 {
                if outside[facet] != NONE {
                    self.join(link(to, facet), outside[facet]);
                } else {
                    let (beyond, mirror) = linked(patch.links[from as usize][facet]);
                    self.links[to as usize][facet] = link(made[place_of[beyond] as usize], mirror);
                }
            }
        }

        // The edges of the cells in the hole, but for those of the hole itself.
        let edge = |v: u32, w: u32| (v.min(w), v.max(w));
        let mut rim: Vec<(u32, u32)> = Vec::with_capacity(3 * hull.len());
        for (vertices, facet, _) in &hull {
            let corners: [u32; 3] = std::array::from_fn(|k| vertices[(facet + 1 + k) & 3]);
            rim.extend((0..3).map(|k| edge(corners[k], corners[(k + 1) % 3])));
        }
        rim.sort_unstable();
        let mut edges: Vec<(u32, u32)> = Vec::with_capacity(6 * made.len() + around.len());
        for &cell in &made {
            let [a, b, c, d] = self.vertices[cell as usize];
            edges.extend([edge(a, b), edge(a, c), edge(a, d), edge(b, c), edge(b, d), edge(c, d)]);
        }
        edges.sort_unstable();
        edges.dedup();
        edges.retain(|edge| rim.binary_search(edge).is_err());
        edges.extend(around.iter().map(|&v| edge(v, vertex)));
        Ok(Some(Filled { cells: made, edges }))
    }
}
