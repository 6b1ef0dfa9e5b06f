//! Removal of a vertex from a Delaunay triangulation.
//!
//! The hole that a vertex leaves is filled with cells of the triangulation of the vertices around it. They fit, because
//! ties are broken by the coordinates alone: a cell inside the hole is one of the triangulation without the vertex.

use super::insert::Builder;
use super::mesh::{EVEN, FREE, Mesh, is_infinite, link, linked};
use super::predicates::Site;
use super::sites::Sites;
use crate::Result;

/// The corners of a facet of a cell as its apex sees them, the lowest first: no other facet has the same.
fn oriented(vertices: &[u32; 4], facet: usize) -> [u32; 3] {
    let first = (facet + 1) & 3;
    let (second, third) = EVEN[facet][first];
    let [a, b, c] = [first, second, third].map(|place| vertices[place]);
    if a < b && a < c {
        [a, b, c]
    } else if b < c {
        [b, c, a]
    } else {
        [c, a, b]
    }
}

impl Mesh {
    /// Removes a vertex, given a cell of its. Returns the cells made; `None`, and nothing is changed, for a vertex of the
    /// hull.
    pub fn remove(&mut self, sites: &[Site], vertex: u32, cell: u32, free: &mut Vec<u32>) -> Result<Option<Vec<u32>>> {
        let mut star = vec![cell];
        let mut hole = Vec::new();
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
                    hole.push((oriented(&vertices, facet), outside));
                } else if !star.contains(&(outside >> 2)) {
                    star.push(outside >> 2);
                }
            }
        }
        let mut around: Vec<u32> = hole.iter().flat_map(|(corners, _)| *corners).collect();
        around.sort_unstable();
        around.dedup();
        let patch_sites = Sites { sites: around.iter().map(|&v| sites[v as usize]).collect(), ..Sites::default() };
        let Some(simplex) = patch_sites.simplex() else { return Ok(None) };
        let mut patch = Mesh::simplex(simplex);
        let rest: Vec<u32> = (0..around.len() as u32).filter(|v| !simplex.contains(v)).collect();
        let mut builder = Builder::new(&patch_sites.sites, &mut patch, 4, Vec::new(), around.len());
        builder.insert(&rest)?;
        builder.finish();

        hole.sort_unstable();
        // In the numbers of the mesh, whose order is the same as that in the patch.
        for vertices in patch.vertices.iter_mut().filter(|v| **v != FREE) {
            *vertices = vertices.map(|v| around.get(v as usize).copied().unwrap_or(v));
        }
        let behind = |corners: [u32; 3]| {
            let at = hole.binary_search_by_key(&corners, |&(corners, _)| corners).ok()?;
            Some(hole[at].1)
        };
        // From the hole's first facet inwards.
        let start = patch.vertices.iter().position(|vertices| {
            *vertices != FREE && !is_infinite(vertices) && (0..4).any(|f| behind(oriented(vertices, f)).is_some())
        });
        let Some(start) = start else { return Ok(None) };
        let mut filling = vec![start as u32];
        let (mut next, mut num_met) = (0, 0);
        while let Some(&cell) = filling.get(next) {
            next += 1;
            let vertices = patch.vertices[cell as usize];
            if is_infinite(&vertices) {
                return Ok(None);
            }
            for facet in 0..4 {
                let beyond = patch.links[cell as usize][facet] >> 2;
                if behind(oriented(&vertices, facet)).is_some() {
                    num_met += 1;
                } else if !filling.contains(&beyond) {
                    filling.push(beyond);
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
        for (&from, &to) in filling.iter().zip(&made) {
            let vertices = patch.vertices[from as usize];
            self.vertices[to as usize] = vertices;
            for facet in 0..4 {
                if let Some(outside) = behind(oriented(&vertices, facet)) {
                    self.join(link(to, facet), outside);
                } else {
                    let (beyond, mirror) = linked(patch.links[from as usize][facet]);
                    let at = filling.iter().position(|&cell| cell as usize == beyond).unwrap_or_default();
                    self.links[to as usize][facet] = link(made[at], mirror);
                }
            }
        }
        Ok(Some(made))
    }
}
