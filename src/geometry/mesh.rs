//! Tetrahedra and their neighbours in memory, and what must be true of them.
//!
//! A vertex at infinity closes the hull: every facet has a cell on both sides and the outside is no special case of the
//! topology. It is always the last vertex of its cell.

use super::predicates::{Site, in_sphere, orient3d};
use crate::pages;
use rayon::prelude::*;

/// The vertex at infinity.
pub(super) const INFINITE: u32 = u32::MAX;
/// The vertices of a cell that is not in use.
pub(super) const FREE: [u32; 4] = [INFINITE; 4];
/// A link is `4 * cell + facet`, so that a cell must be below 2^30. The last one is left out: then four incidences a
/// cell can be counted in a u32.
pub(super) const MAX_CELLS: usize = (1 << 30) - 1;

/// `EVEN[i][j]` are the places that make of `i, j` an even permutation of `0..4`: a cell `(v0, v1, v2, v3)` has the
/// same orientation as `(v_i, v_j, v_a, v_b)`.
pub(super) const EVEN: [[(usize, usize); 4]; 4] = [
    [(0, 0), (2, 3), (3, 1), (1, 2)],
    [(3, 2), (0, 0), (0, 3), (2, 0)],
    [(1, 3), (3, 0), (0, 0), (0, 1)],
    [(2, 1), (0, 2), (1, 0), (0, 0)],
];

#[inline(always)]
pub(super) fn link(cell: u32, facet: usize) -> u32 {
    4 * cell + facet as u32
}

/// The cell and the facet that a link names.
#[inline(always)]
pub(super) fn linked(link: u32) -> (usize, usize) {
    ((link >> 2) as usize, (link & 3) as usize)
}

#[inline(always)]
pub(super) fn is_infinite(vertices: &[u32; 4]) -> bool {
    vertices[3] == INFINITE
}

/// Asks for the memory of an entry that will be wanted soon.
#[inline(always)]
pub(super) fn prefetch<T>(entries: &[T], index: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(entry) = entries.get(index) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 processor has the instruction, and it changes nothing that a program can see.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(entry).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (entries, index);
}

/// The cells of a triangulation.
#[derive(Debug, Clone, Default)]
pub(super) struct Mesh {
    /// Positively oriented: `orient3d(v0, v1, v2, v3) > 0`, or the limit of it. [`FREE`] if not in use.
    pub vertices: Vec<[u32; 4]>,
    /// Behind the facet opposite to each vertex: `4 * cell + the facet of that cell`.
    pub links: Vec<[u32; 4]>,
}

impl Mesh {
    /// A tetrahedron (the last cell) and its four outsides.
    pub fn simplex(simplex: [u32; 4]) -> Self {
        // The five cells of the boundary of a 4-simplex: cell x lacks corner x, and its facet opposite to corner y is
        // shared with cell y. Taking `INFINITE` for a vertex turns a cell around.
        let corners = [simplex[0], simplex[1], simplex[2], simplex[3], INFINITE];
        let outside = |x: usize| {
            let y = (x + 1) & 3;
            let (a, b) = EVEN[x][y];
            [simplex[y], simplex[a], simplex[b], INFINITE]
        };
        let vertices: Vec<[u32; 4]> = (0..5).map(|x| if x < 4 { outside(x) } else { simplex }).collect();
        let place = |vertices: &[u32], corner: u32| vertices.iter().position(|&v| v == corner).unwrap_or_default();
        let links = (0..5)
            .map(|x| {
                vertices[x].map(|corner| {
                    let y = place(&corners, corner);
                    link(y as u32, place(&vertices[y], corners[x]))
                })
            })
            .collect();
        Self { vertices, links }
    }

    pub fn is_free(&self, cell: usize) -> bool {
        self.vertices[cell] == FREE
    }

    /// Whether a site lies inside the sphere of a cell.
    #[inline(always)]
    pub fn in_conflict(&self, sites: &[Site], cell: usize, site: &Site) -> bool {
        in_conflict(sites, &self.vertices[cell], site, || self.vertices[linked(self.links[cell][3]).0])
    }

    /// Makes two facets each other's neighbour.
    pub fn join(&mut self, a: u32, b: u32) {
        let ((cell, facet), (other, mirror)) = (linked(a), linked(b));
        self.links[cell][facet] = b;
        self.links[other][mirror] = a;
    }

    /// Makes room for so many cells more, and no more than that.
    pub fn reserve(&mut self, num_cells: usize) {
        pages::reserve(&mut self.vertices, num_cells);
        pages::reserve(&mut self.links, num_cells);
    }

    /// A cell to make something of.
    pub fn take(&mut self, free: &mut Vec<u32>) -> u32 {
        free.pop().unwrap_or_else(|| {
            self.vertices.push(FREE);
            self.links.push([0; 4]);
            (self.vertices.len() - 1) as u32
        })
    }

    /// What is wrong with a cell, if anything; vertices are named by `name`.
    pub fn fault_of(&self, sites: &[Site], cell: usize, name: impl Fn(u32) -> String) -> Option<String> {
        let vertices = self.vertices[cell];
        if vertices == FREE {
            return None;
        }
        let names = |cell: usize| format!("[{}]", self.vertices[cell].map(&name).join(", "));
        if vertices[..3].contains(&INFINITE) {
            return Some(format!("the infinite vertex is not the last one of {}", names(cell)));
        }
        if !is_infinite(&vertices) {
            let [a, b, c, d] = vertices.map(|v| &sites[v as usize]);
            if orient3d(a, b, c, d) <= 0.0 {
                return Some(format!("tetrahedron {} is not positively oriented", names(cell)));
            }
        }
        for facet in 0..4 {
            let (beyond, mirror) = linked(self.links[cell][facet]);
            if self.links.get(beyond).is_none_or(|links| links[mirror] != link(cell as u32, facet)) {
                return Some(format!("facet {facet} of {} is not linked both ways", names(cell)));
            }
            let corners = |cell: usize, opposite: usize| {
                let mut corners = self.vertices[cell];
                corners.swap(opposite, 3);
                corners[..3].sort_unstable();
                [corners[0], corners[1], corners[2]]
            };
            if corners(cell, facet) != corners(beyond, mirror) {
                return Some(format!("cells {} and {} are linked but share no facet", names(cell), names(beyond)));
            }
            let apex = self.vertices[beyond][mirror];
            if apex != INFINITE && self.in_conflict(sites, cell, &sites[apex as usize]) {
                return Some(format!("the sphere of {} holds point {}", names(cell), name(apex)));
            }
        }
        None
    }

    /// Sorts the cells by their lowest vertices and drops those that are not in use. Sites are numbered along the Hilbert
    /// curve: cells near in space become near in memory.
    pub fn sort(&mut self, num_sites: usize) {
        let lowest = |vertices: &[u32; 4]| vertices[0].min(vertices[1]).min(vertices[2].min(vertices[3]));
        let keys: Vec<u32> = self.vertices.par_iter().map(lowest).collect();
        // Counted two places ahead: the filling below moves each start by one place, to where it belongs.
        let mut starts = vec![0u32; num_sites + 2];
        for &key in keys.iter().filter(|&&key| key != INFINITE) {
            starts[key as usize + 2] += 1;
        }
        for i in 2..starts.len() {
            starts[i] += starts[i - 1];
        }
        let mut order = pages::zeros::<u32>(starts[num_sites + 1] as usize);
        // From here on the keys are the places.
        let mut places = keys;
        for (cell, place) in (0..).zip(&mut places).filter(|(_, key)| **key != INFINITE) {
            let next = &mut starts[*place as usize + 1];
            order[*next as usize] = cell;
            *place = *next;
            *next += 1;
        }
        // One after the other, so that the old and the new are never both there as a whole.
        self.vertices = order.par_iter().map(|&cell| self.vertices[cell as usize]).collect();
        let moved = |old: u32| {
            let (cell, facet) = linked(old);
            link(places[cell], facet)
        };
        self.links = order.par_iter().map(|&cell| self.links[cell as usize].map(moved)).collect();
    }
}

/// Whether a site lies inside the sphere of a cell; `inner` are the vertices of the cell behind the last facet.
///
/// The sphere of an infinite cell is the open half-space beyond its hull facet, and in the plane of the facet the disc of
/// its circle: the limit of a sphere whose fourth point goes to infinity.
#[inline(always)]
pub(super) fn in_conflict(sites: &[Site], vertices: &[u32; 4], site: &Site, inner: impl FnOnce() -> [u32; 4]) -> bool {
    let at = |v: u32| &sites[v as usize];
    let &[a, b, c, d] = vertices;
    if d != INFINITE {
        return in_sphere(at(a), at(b), at(c), at(d), site);
    }
    let side = orient3d(at(a), at(b), at(c), site);
    if side != 0.0 {
        return side > 0.0;
    }
    // The sphere of the tetrahedron inside the hull meets the plane of the facet in the circle of the facet.
    let [a, b, c, d] = inner();
    d != INFINITE && in_sphere(at(a), at(b), at(c), at(d), site)
}
