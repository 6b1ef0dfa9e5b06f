//! Flips: a Delaunay triangulation made again from one whose points have moved a little.
//!
//! A facet that is not locally Delaunay is exchanged for the edge between its two apexes (2 cells become 3), or an edge
//! with three cells around it for the facet between them (3 become 2) (Joe, "Three-dimensional triangulations from local
//! transformations", 1989). Each flip lowers the triangulation on the lifting paraboloid, ties included, so that they
//! come to an end; it need not be a Delaunay triangulation in space, though it is after small moves.

use super::mesh::{FREE, Mesh, is_infinite, link, linked, prefetch};
use super::predicates::{Site, orient3d};
use super::scan::is_bad;

/// A mesh being flipped.
pub(super) struct Flipper<'a> {
    pub mesh: &'a mut Mesh,
    pub sites: &'a [Site],
    /// Cells that are not in use.
    pub free: Vec<u32>,
    pub num_flips: usize,
    /// The edge that each flip made or took away, as vertices.
    pub edges: Vec<(u32, u32)>,
}

/// The cells of the facets in the queue are asked for so many facets ahead, what is behind them half as many ahead.
const AHEAD: usize = 16;

impl Flipper<'_> {
    /// Flips until no facet can be. Returns whether all those are Delaunay that were in the queue or came up on the way.
    pub fn flip_all(&mut self, mut queue: Vec<(u32, u8)>) -> bool {
        let mut stuck = Vec::new();
        loop {
            let num_flips = self.num_flips;
            while let Some((cell, facet)) = queue.pop() {
                let (at, facet) = (cell as usize, usize::from(facet));
                self.prefetch(&queue);
                if self.mesh.is_free(at) || !is_bad(self.mesh, self.sites, at, facet) {
                    continue;
                }
                match self.flip(cell, facet) {
                    Some(outer) => queue.extend(outer),
                    None => stuck.push((cell, facet as u8)),
                }
            }
            stuck.retain(|&(cell, facet)| {
                !self.mesh.is_free(cell as usize) && is_bad(self.mesh, self.sites, cell as usize, facet.into())
            });
            if stuck.is_empty() || self.num_flips == num_flips {
                return stuck.is_empty();
            }
            queue.append(&mut stuck);
        }
    }

    #[inline(always)]
    fn prefetch(&self, queue: &[(u32, u8)]) {
        let Some(last) = queue.len().checked_sub(AHEAD) else { return };
        let cell = queue[last].0 as usize;
        prefetch(&self.mesh.links, cell);
        prefetch(&self.mesh.vertices, cell);
        let (cell, facet) = queue[last + AHEAD / 2];
        prefetch(&self.mesh.vertices, linked(self.mesh.links[cell as usize][usize::from(facet)]).0);
    }

    fn is_positive(&self, vertices: [u32; 4]) -> bool {
        let [a, b, c, d] = vertices.map(|v| &self.sites[v as usize]);
        orient3d(a, b, c, d) > 0.0
    }

    /// Flips a facet, if it can be. Returns the facets around the cells made; those between them are Delaunay. The hull
    /// is left alone.
    fn flip(&mut self, near: u32, facet: usize) -> Option<[(u32, u8); 6]> {
        let (far, mirror) = linked(self.mesh.links[near as usize][facet]);
        let (vertices, far_vertices) = (self.mesh.vertices[near as usize], self.mesh.vertices[far]);
        if is_infinite(&vertices) || is_infinite(&far_vertices) {
            return None;
        }
        let apex = far_vertices[mirror];
        // The near cell with a corner of the facet replaced by the far apex: the cells of the one flip, and two of
        // them those of the other.
        let with_apex = |place: usize| {
            let mut vertices = vertices;
            vertices[place] = apex;
            vertices
        };
        let corners: [usize; 3] = std::array::from_fn(|k| (facet + 1 + k) & 3);
        let mut reflex = corners.into_iter().filter(|&place| !self.is_positive(with_apex(place)));
        match (reflex.next(), reflex.next()) {
            (None, _) => Some(self.two_to_three(near, far as u32, facet, corners, with_apex)),
            (Some(place), None) => self.three_to_two(near, far as u32, facet, place, with_apex),
            _ => None,
        }
    }

    fn two_to_three(
        &mut self,
        near: u32,
        far: u32,
        facet: usize,
        corners: [usize; 3],
        with_apex: impl Fn(usize) -> [u32; 4],
    ) -> [(u32, u8); 6] {
        let vertices = self.mesh.vertices[near as usize];
        let near_links = corners.map(|place| self.mesh.links[near as usize][place]);
        let far_links = corners.map(|place| self.mesh.links[far as usize][self.place(far, vertices[place])]);
        let cells = [near, far, self.take()];
        for (k, &place) in corners.iter().enumerate() {
            self.mesh.vertices[cells[k] as usize] = with_apex(place);
        }
        for (k, &place) in corners.iter().enumerate() {
            self.join(link(cells[k], place), near_links[k]);
            self.join(link(cells[k], facet), far_links[k]);
            for l in 0..k {
                self.join(link(cells[k], corners[l]), link(cells[l], place));
            }
        }
        self.num_flips += 1;
        // Between what was before the facet and what was behind it, which is now in all three.
        self.edges.push((vertices[facet], with_apex(corners[0])[corners[0]]));
        let outer = |k: usize, place: usize| (cells[k], place as u8);
        let [a, b, c] = corners;
        [outer(0, a), outer(0, facet), outer(1, b), outer(1, facet), outer(2, c), outer(2, facet)]
    }

    /// Takes the edge of the facet opposite to `place` away, if it has but three cells.
    fn three_to_two(
        &mut self,
        near: u32,
        far: u32,
        facet: usize,
        place: usize,
        with_apex: impl Fn(usize) -> [u32; 4],
    ) -> Option<[(u32, u8); 6]> {
        let vertices = self.mesh.vertices[near as usize];
        let third = self.mesh.links[near as usize][place] >> 2;
        if self.mesh.links[far as usize][self.place(far, vertices[place])] >> 2 != third {
            return None;
        }
        let mut ends = (0..4).filter(|&end| end != facet && end != place);
        let (x, y) = (ends.next()?, ends.next()?);
        let near_links = self.mesh.links[near as usize];
        let outside =
            |this: &Self, cell: u32, end: usize| this.mesh.links[cell as usize][this.place(cell, vertices[end])];
        let (third_x, third_y) = (outside(self, third, x), outside(self, third, y));
        let (far_x, far_y) = (outside(self, far, x), outside(self, far, y));
        self.mesh.vertices[near as usize] = with_apex(y);
        self.mesh.vertices[far as usize] = with_apex(x);
        self.mesh.vertices[third as usize] = FREE;
        self.free.push(third);
        self.join(link(near, y), near_links[y]);
        self.join(link(far, x), near_links[x]);
        self.join(link(near, x), link(far, y));
        self.join(link(near, place), third_y);
        self.join(link(far, place), third_x);
        self.join(link(near, facet), far_y);
        self.join(link(far, facet), far_x);
        self.num_flips += 1;
        self.edges.push((vertices[x], vertices[y]));
        let outer = |cell: u32, place: usize| (cell, place as u8);
        Some([
            outer(near, y),
            outer(near, place),
            outer(near, facet),
            outer(far, x),
            outer(far, place),
            outer(far, facet),
        ])
    }

    fn place(&self, cell: u32, vertex: u32) -> usize {
        self.mesh.vertices[cell as usize].iter().position(|&v| v == vertex).unwrap_or_default()
    }

    fn join(&mut self, a: u32, b: u32) {
        self.mesh.join(a, b);
    }

    fn take(&mut self) -> u32 {
        self.mesh.take(&mut self.free)
    }
}
