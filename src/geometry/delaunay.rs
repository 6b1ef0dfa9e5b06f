//! The Delaunay triangulation of points in space, by insertion.
//!
//! Points come one by one in a biased randomised order ([`brio_order`]). A point is located by a walk from the
//! tetrahedron made last; the tetrahedra whose circumscribed sphere holds it are removed, and the cavity is filled with
//! the tetrahedra between its boundary and the point (Bowyer, Watson, 1981). A vertex at infinity closes the hull: every
//! facet has a tetrahedron on both sides and the outside is no special case of the topology.
//!
//! # Degenerate input
//!
//! A tetrahedron is removed only if the point is *strictly* inside its sphere, decided exactly. That alone keeps the
//! triangulation valid, without symbolic perturbation: were the point coplanar with a boundary facet of its cavity, it
//! would lie strictly inside the circle of that facet, hence inside every sphere through the circle, hence the
//! tetrahedron beyond the facet would have been removed too. On cospherical points the result is one of several
//! Delaunay triangulations; which one depends on the insertion order, and they differ in Voronoi faces without area.

use super::order::brio_order;
use super::predicates::{Point, collinear, insphere, orient3d};
use crate::{Error, Result};
use rayon::prelude::*;

/// The vertex at infinity.
const INFINITE: u32 = u32::MAX;
/// A link is `4 * cell + facet`, so that a cell must be below 2^30. The last one is left out: then four incidences a
/// cell can be counted in a u32.
const MAX_CELLS: usize = (1 << 30) - 1;

/// A tetrahedron, or, with [`INFINITE`] among its vertices, the outside of a hull facet.
#[derive(Debug, Clone, Copy)]
struct Cell {
    /// Positively oriented: `orient3d(v0, v1, v2, v3) > 0`, or the limit of it.
    vertices: [u32; 4],
    /// Behind the facet opposite to each vertex: `4 * cell + the facet of that cell`.
    links: [u32; 4],
}

impl Cell {
    const FREE: Self = Self { vertices: [INFINITE; 4], links: [0; 4] };

    fn is_free(&self) -> bool {
        self.vertices == [INFINITE; 4]
    }

    /// The place of the infinite vertex; `None` in a tetrahedron.
    #[inline(always)]
    fn infinite_slot(&self) -> Option<usize> {
        self.vertices.iter().position(|&v| v == INFINITE)
    }
}

fn link(cell: usize, facet: usize) -> u32 {
    (4 * cell + facet) as u32
}

/// The cell and the facet that a link names.
#[inline(always)]
fn linked(link: u32) -> (usize, usize) {
    ((link >> 2) as usize, (link & 3) as usize)
}

/// The Delaunay triangulation of a set of points.
///
/// Copies of a point are kept out of it; [`Delaunay::copies`] lists them.
#[derive(Debug)]
pub struct Delaunay {
    /// In insertion order, in which neighbours in space are near in memory.
    points: Vec<Point>,
    /// The caller's index of each of `points`.
    indices: Vec<u32>,
    cells: Vec<Cell>,
    copies: Vec<(u32, u32)>,
}

/// What [`Delaunay::certify`] has gone through and found right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Certificate {
    /// Tetrahedra, all positively oriented.
    pub num_tetrahedra: usize,
    /// Triangles of the convex hull, all convex towards each other.
    pub num_hull_facets: usize,
    /// Points that are vertices; all others are copies of one.
    pub num_vertices: usize,
}

impl Delaunay {
    /// Triangulates `points` (`[P, 3]`).
    ///
    /// Deterministic and exact: every sphere through a tetrahedron is empty, whatever the points. A few microseconds a
    /// point, on one core.
    ///
    /// ```
    /// use candle_radfoam::geometry::Delaunay;
    ///
    /// let cube: Vec<[f32; 3]> = (0..8).map(|i| [0, 1, 2].map(|axis| (i >> axis & 1) as f32)).collect();
    /// let delaunay = Delaunay::new(&cube)?;
    /// assert_eq!(delaunay.certify()?.num_vertices, 8);
    /// # Ok::<(), candle_radfoam::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Geometry`] if a coordinate is not finite (the first such point is named), if all points lie in one
    /// plane (with [`sentinels`](super::sentinels) they never do), or if there are too many for 32-bit indices.
    pub fn new(points: &[[f32; 3]]) -> Result<Self> {
        if let Some(i) = points.iter().position(|p| p.iter().any(|x| !x.is_finite())) {
            return Err(Error::Geometry(format!("point {i} is not finite: {:?}", points[i])));
        }
        if points.len() > MAX_CELLS {
            return Err(Error::Geometry(format!("expected at most {MAX_CELLS} points, found {}", points.len())));
        }
        let mut indices = brio_order(points);
        let points: Vec<Point> = indices.iter().map(|&i| points[i as usize].map(f64::from)).collect();
        let simplex = first_simplex(&points).ok_or_else(|| {
            Error::Geometry(format!("all {} points lie in one plane; at least 4 must not", points.len()))
        })?;
        let mut builder = Builder::new(points, simplex);
        let mut copies = Vec::new();
        for vertex in 0..builder.points.len() as u32 {
            if simplex.contains(&vertex) {
                continue;
            }
            if let Some(twin) = builder.insert(vertex)? {
                // Of coincident points the one of the lowest index is the original, whichever came first.
                if indices[vertex as usize] < indices[twin as usize] {
                    indices.swap(vertex as usize, twin as usize);
                }
                copies.push((vertex, twin));
            }
        }
        // Only now: a twin may have been given a lower index after it was found.
        let mut copies: Vec<(u32, u32)> =
            copies.into_iter().map(|(copy, original)| (indices[copy as usize], indices[original as usize])).collect();
        copies.sort_unstable();
        Ok(Self { points: builder.points, indices, cells: builder.cells, copies })
    }

    /// How many points there are, copies included.
    pub fn num_points(&self) -> usize {
        self.points.len()
    }

    /// The copies, each as (copy, original), ascending. The original is the coincident point of the lowest index.
    pub fn copies(&self) -> &[(u32, u32)] {
        &self.copies
    }

    /// The tetrahedra, each as the indices of four points, positively oriented.
    pub fn tetrahedra(&self) -> Vec<[u32; 4]> {
        self.cells
            .par_iter()
            .filter(|cell| cell.infinite_slot().is_none())
            .map(|cell| cell.vertices.map(|v| self.indices[v as usize]))
            .collect()
    }

    /// Proves that this is a Delaunay triangulation of all its points, in time linear in their number.
    ///
    /// Every tetrahedron is positively oriented, every facet is shared by exactly two cells, no facet has the opposite
    /// vertex of one cell inside the sphere of the other, the hull is convex, and each point is a vertex or a
    /// coincident copy. Locally Delaunay facets make a Delaunay triangulation (Delaunay's lemma).
    ///
    /// # Errors
    ///
    /// [`Error::Geometry`] with the first thing that is wrong.
    pub fn certify(&self) -> Result<Certificate> {
        let fault = (0..self.cells.len()).into_par_iter().find_map_first(|cell| self.fault_of(cell));
        if let Some(fault) = fault {
            return Err(Error::Geometry(fault));
        }
        let mut used = vec![false; self.points.len()];
        let (mut num_tetrahedra, mut num_hull_facets) = (0, 0);
        for cell in self.cells.iter().filter(|cell| !cell.is_free()) {
            match cell.infinite_slot() {
                Some(_) => num_hull_facets += 1,
                None => num_tetrahedra += 1,
            }
            for &v in cell.vertices.iter().filter(|&&v| v != INFINITE) {
                used[v as usize] = true;
            }
        }
        let mut vertex_of = vec![0u32; self.points.len()];
        for (vertex, &index) in self.indices.iter().enumerate() {
            vertex_of[index as usize] = vertex as u32;
        }
        for &(copy, original) in &self.copies {
            let [copied, vertex] = [copy, original].map(|index| vertex_of[index as usize] as usize);
            if used[copied] || !used[vertex] || self.points[copied] != self.points[vertex] {
                return Err(Error::Geometry(format!("point {copy} is no copy of point {original}")));
            }
        }
        let num_vertices = used.iter().filter(|&&used| used).count();
        if num_vertices + self.copies.len() != self.points.len() {
            let message = format!("{num_vertices} vertices and {} copies", self.copies.len());
            return Err(Error::Geometry(format!("{message} do not make {} points", self.points.len())));
        }
        Ok(Certificate { num_tetrahedra, num_hull_facets, num_vertices })
    }

    fn fault_of(&self, index: usize) -> Option<String> {
        let cell = &self.cells[index];
        if cell.is_free() {
            return None;
        }
        let name = |cell: &Cell| format!("{:?}", cell.vertices.map(|v| self.indices.get(v as usize)));
        if cell.infinite_slot().is_none() {
            let [a, b, c, d] = cell.vertices.map(|v| &self.points[v as usize]);
            if orient3d(a, b, c, d) <= 0.0 {
                return Some(format!("tetrahedron {} is not positively oriented", name(cell)));
            }
        }
        for facet in 0..4 {
            let (beyond, mirror) = linked(cell.links[facet]);
            let Some(neighbor) = self.cells.get(beyond).filter(|n| n.links[mirror] == link(index, facet)) else {
                return Some(format!("facet {facet} of {} is not linked both ways", name(cell)));
            };
            let corners = |cell: &Cell, opposite: usize| {
                let mut corners = cell.vertices;
                corners.swap(opposite, 3);
                corners[..3].sort_unstable();
                [corners[0], corners[1], corners[2]]
            };
            if corners(cell, facet) != corners(neighbor, mirror) {
                return Some(format!("cells {} and {} are linked but share no facet", name(cell), name(neighbor)));
            }
            let apex = neighbor.vertices[mirror];
            if apex != INFINITE && in_conflict(&self.cells, &self.points, index, &self.points[apex as usize]) {
                return Some(format!("the sphere of {} holds point {}", name(cell), self.indices[apex as usize]));
            }
        }
        None
    }
}

/// The first four points in general position, positively oriented.
fn first_simplex(points: &[Point]) -> Option<[u32; 4]> {
    let from = |start: usize, test: &dyn Fn(&Point) -> bool| (start..points.len()).find(|&i| test(&points[i]));
    let a = points.first()?;
    let i = from(1, &|p| p != a)?;
    let j = from(i + 1, &|p| !collinear(a, &points[i], p))?;
    let k = from(j + 1, &|p| orient3d(a, &points[i], &points[j], p) != 0.0)?;
    let [i, j, k] = [i, j, k].map(|i| i as u32);
    let positive = orient3d(a, &points[i as usize], &points[j as usize], &points[k as usize]) > 0.0;
    Some(if positive { [0, i, j, k] } else { [i, 0, j, k] })
}

/// Whether `point` lies strictly inside the sphere of a cell.
///
/// The sphere of an infinite cell is the open half-space beyond its hull facet, and in the plane of the facet the open
/// disc of its circle: the limit of a sphere whose fourth point goes to infinity.
#[inline(always)]
fn in_conflict(cells: &[Cell], points: &[Point], index: usize, point: &Point) -> bool {
    let sphere_holds = |cell: &Cell| {
        let [a, b, c, d] = cell.vertices.map(|v| &points[v as usize]);
        insphere(a, b, c, d, point) > 0.0
    };
    let cell = &cells[index];
    let Some(slot) = cell.infinite_slot() else {
        return sphere_holds(cell);
    };
    let [a, b, c, d] = cell.vertices.map(|v| if v == INFINITE { point } else { &points[v as usize] });
    let side = orient3d(a, b, c, d);
    // The sphere of the tetrahedron inside the hull meets the plane of the facet in the circle of the facet.
    if side != 0.0 { side > 0.0 } else { sphere_holds(&cells[linked(cell.links[slot]).0]) }
}

/// A facet between a removed cell and one that stays.
#[derive(Debug, Clone, Copy)]
struct BoundaryFacet {
    /// The removed cell with the new point in the place of the vertex opposite to the facet: the cell to make.
    vertices: [u32; 4],
    /// The place of the new point.
    facet: u32,
    /// The link to the cell that stays.
    outside: u32,
}

/// A growing triangulation, and the buffers that insertions share.
struct Builder {
    points: Vec<Point>,
    cells: Vec<Cell>,
    /// For each cell the stamp of the insertion that last looked at it: `stamp` = stays, `stamp + 1` = removed.
    marks: Vec<u32>,
    stamp: u32,
    free: Vec<u32>,
    /// The cell made last, where the next walk starts.
    last: usize,
    walk_state: u32,
    stack: Vec<u32>,
    removed: Vec<u32>,
    boundary: Vec<BoundaryFacet>,
    edges: EdgeTable,
}

impl Builder {
    fn new(points: Vec<Point>, simplex: [u32; 4]) -> Self {
        // Typical: 6.7 tetrahedra a point.
        const CELLS_PER_POINT: usize = 7;
        let capacity = (points.len() * CELLS_PER_POINT).min(MAX_CELLS);
        let mut cells = Vec::with_capacity(capacity);
        // The simplex and its four outsides are the five cells of the boundary of a 4-simplex: cell x lacks corner x,
        // and its facet opposite to corner y is shared with cell y.
        let corners = [simplex[0], simplex[1], simplex[2], simplex[3], INFINITE];
        // Taking `INFINITE` for a vertex turns the cell around; exchanging two of the others turns it back.
        let turned = |slot: usize| {
            let mut vertices = simplex;
            vertices[slot] = INFINITE;
            vertices.swap((slot + 1) & 3, (slot + 2) & 3);
            vertices
        };
        let vertices: [[u32; 4]; 5] = std::array::from_fn(|x| if x < 4 { turned(x) } else { simplex });
        let slot = |x: usize, corner: u32| vertices[x].iter().position(|&v| v == corner).unwrap_or_default();
        for x in 0..5 {
            let links = vertices[x].map(|corner| {
                let y = corners.iter().position(|&c| c == corner).unwrap_or_default();
                link(y, slot(y, corners[x]))
            });
            cells.push(Cell { vertices: vertices[x], links });
        }
        let mut marks = Vec::with_capacity(capacity);
        marks.resize(cells.len(), 0);
        Self {
            points,
            cells,
            marks,
            stamp: 0,
            free: Vec::new(),
            last: 4,
            walk_state: 1,
            stack: Vec::new(),
            removed: Vec::new(),
            boundary: Vec::new(),
            edges: EdgeTable::default(),
        }
    }

    /// Inserts a point, or returns the vertex that it coincides with.
    fn insert(&mut self, vertex: u32) -> Result<Option<u32>> {
        let point = self.points[vertex as usize];
        let start = self.locate(&point);
        if !in_conflict(&self.cells, &self.points, start, &point) {
            // The point lies in the closed tetrahedron and not inside its sphere: only corners do.
            self.last = start;
            let twin = self.cells[start].vertices.into_iter().find(|&v| self.points.get(v as usize) == Some(&point));
            return match twin {
                Some(twin) => Ok(Some(twin)),
                None => Err(Error::Geometry(format!("the walk to {point:?} ended in a cell that does not hold it"))),
            };
        }
        self.carve(start, vertex, &point);
        self.fill()?;
        Ok(None)
    }

    /// The tetrahedron that holds `point`, or an infinite cell whose hull facet it lies beyond.
    ///
    /// A walk that leaves through any facet that has the point on its far side. It ends on a Delaunay triangulation
    /// (Devillers, Pion & Teillaud, "Walking in a triangulation", 2002); the random first facet is for cospherical
    /// points, between whose tetrahedra a fixed order might circle.
    #[inline(always)]
    fn locate(&mut self, point: &Point) -> usize {
        let mut at = self.last;
        if let Some(slot) = self.cells[at].infinite_slot() {
            at = linked(self.cells[at].links[slot]).0;
        }
        let mut entered = 4;
        'walk: loop {
            let cell = &self.cells[at];
            if cell.infinite_slot().is_some() {
                return at;
            }
            let corners = cell.vertices.map(|v| &self.points[v as usize]);
            self.walk_state = xorshift(self.walk_state);
            for turn in 0..4 {
                let facet = (self.walk_state as usize + turn) & 3;
                if facet == entered {
                    continue;
                }
                let mut corners = corners;
                corners[facet] = point;
                let [a, b, c, d] = corners;
                if orient3d(a, b, c, d) < 0.0 {
                    (at, entered) = linked(cell.links[facet]);
                    continue 'walk;
                }
            }
            return at;
        }
    }

    /// Collects the cells whose sphere holds the point, and the facets around them.
    #[inline(always)]
    fn carve(&mut self, start: usize, vertex: u32, point: &Point) {
        self.stamp += 2;
        let (stays, removed) = (self.stamp, self.stamp + 1);
        self.removed.clear();
        self.boundary.clear();
        self.marks[start] = removed;
        self.stack.push(start as u32);
        while let Some(index) = self.stack.pop() {
            self.removed.push(index);
            let Cell { vertices, links } = self.cells[index as usize];
            for facet in 0..4 {
                let neighbor = linked(links[facet]).0;
                if self.marks[neighbor] == removed {
                    continue;
                }
                if self.marks[neighbor] != stays {
                    if in_conflict(&self.cells, &self.points, neighbor, point) {
                        self.marks[neighbor] = removed;
                        self.stack.push(neighbor as u32);
                        continue;
                    }
                    self.marks[neighbor] = stays;
                }
                let mut vertices = vertices;
                vertices[facet] = vertex;
                self.boundary.push(BoundaryFacet { vertices, facet: facet as u32, outside: links[facet] });
            }
        }
    }

    /// Replaces the removed cells by one for each boundary facet.
    #[inline(always)]
    fn fill(&mut self) -> Result<()> {
        /// The two other places of a cell, for two places.
        const OTHERS: [[(usize, usize); 4]; 4] = [
            [(0, 0), (2, 3), (1, 3), (1, 2)],
            [(2, 3), (0, 0), (0, 3), (0, 2)],
            [(1, 3), (0, 3), (0, 0), (0, 1)],
            [(1, 2), (0, 2), (0, 1), (0, 0)],
        ];
        self.edges.start(self.boundary.len());
        for (k, &BoundaryFacet { vertices, facet, outside }) in self.boundary.iter().enumerate() {
            let facet = facet as usize;
            let index = match self.removed.get(k).copied().or_else(|| self.free.pop()) {
                Some(index) => index as usize,
                None if self.cells.len() < MAX_CELLS => {
                    self.cells.push(Cell::FREE);
                    self.marks.push(0);
                    self.cells.len() - 1
                }
                None => return Err(Error::Geometry(format!("more than {MAX_CELLS} tetrahedra"))),
            };
            let (beyond, mirror) = linked(outside);
            self.cells[beyond].links[mirror] = link(index, facet);
            let mut links = [outside; 4];
            for place in 0..4 {
                if place == facet {
                    continue;
                }
                // Two new cells share the facet of the new point and an edge of the boundary.
                let (a, b) = OTHERS[facet][place];
                let me = link(index, place);
                if let Some(other) = self.edges.pair(vertices[a], vertices[b], me) {
                    links[place] = other;
                    let (cell, facet) = linked(other);
                    self.cells[cell].links[facet] = me;
                }
            }
            self.cells[index] = Cell { vertices, links };
            self.marks[index] = 0;
            self.last = index;
        }
        for &index in self.removed.iter().skip(self.boundary.len()) {
            self.cells[index as usize] = Cell::FREE;
            self.free.push(index);
        }
        Ok(())
    }
}

fn xorshift(mut x: u32) -> u32 {
    x ^= x << 13;
    x ^= x >> 17;
    x ^ x << 5
}

/// Finds the two cells at each edge of a cavity's boundary: a hash table that a new stamp empties.
#[derive(Default)]
struct EdgeTable {
    slots: Vec<EdgeSlot>,
    mask: usize,
    stamp: u32,
}

#[derive(Clone, Copy, Default)]
struct EdgeSlot {
    edge: u64,
    link: u32,
    stamp: u32,
}

impl EdgeTable {
    /// Slots a boundary facet; it has 1.5 edges, so that the table is at most three eighths full.
    const SLOTS_PER_FACET: usize = 4;

    fn start(&mut self, num_facets: usize) {
        let num_slots = (num_facets * Self::SLOTS_PER_FACET).next_power_of_two();
        if self.slots.len() < num_slots {
            self.slots = vec![EdgeSlot::default(); num_slots];
            self.stamp = 0;
        }
        // Only as many slots as needed, which then stay in the nearest cache.
        self.mask = num_slots - 1;
        self.stamp += 1;
    }

    /// The link that was given for the same edge before; else keeps `link` for it.
    #[inline(always)]
    fn pair(&mut self, a: u32, b: u32, link: u32) -> Option<u32> {
        let edge = u64::from(a.min(b)) << 32 | u64::from(a.max(b));
        // Fibonacci hashing; the high half of the product depends on all bits of the edge.
        const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;
        let mut slot = ((edge ^ edge >> 29).wrapping_mul(MULTIPLIER) >> 32) as usize & self.mask;
        loop {
            let found = &mut self.slots[slot];
            if found.stamp != self.stamp {
                *found = EdgeSlot { edge, link, stamp: self.stamp };
                return None;
            }
            if found.edge == edge {
                return Some(found.link);
            }
            slot = (slot + 1) & self.mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Rng, Stream};

    fn example() -> Delaunay {
        let rng = Rng::new(1, Stream::Synthetic, 0);
        let mut points: Vec<[f32; 3]> = (0..100).map(|i| rng.direction(i).map(|x| x * rng.uniform(i + 100))).collect();
        points.push(points[7]);
        Delaunay::new(&points).unwrap()
    }

    /// A certificate that could not be refused would prove nothing.
    #[test]
    fn faults_are_found() {
        type Damage = fn(&mut Delaunay);
        let damages: [(&str, Damage); 8] = [
            ("positively oriented", |d| {
                let index = d.cells.iter().position(|cell| cell.infinite_slot().is_none()).unwrap();
                d.cells[index].vertices.swap(0, 1);
                d.cells[index].links.swap(0, 1);
                for facet in 0..2 {
                    let (beyond, mirror) = linked(d.cells[index].links[facet]);
                    d.cells[beyond].links[mirror] = link(index, facet);
                }
            }),
            ("linked both ways", |d| {
                let cell = d.cells.iter_mut().find(|cell| !cell.is_free()).unwrap();
                cell.links.swap(1, 2);
            }),
            ("share no facet", |d| {
                let cell = d.cells.iter_mut().find(|cell| cell.infinite_slot().is_some_and(|slot| slot != 0)).unwrap();
                cell.vertices[0] = (cell.vertices[0] + 1) % 100;
            }),
            // A point moved a little: some sphere is no longer empty, though no tetrahedron is turned inside out.
            ("holds point", |d| {
                let inner = (0..100).min_by_key(|&v| (d.points[v].map(|x| x * x).iter().sum::<f64>() * 1e9) as u64);
                d.points[inner.unwrap()][0] += 1e-2;
            }),
            ("no copy", |d| d.copies[0].1 = (d.copies[0].1 + 1) % 100),
            ("no copy", |d| d.copies[0] = (1, 2)),
            ("do not make", |d| d.copies.clear()),
            // A hull that is not convex.
            ("", |d| {
                let hull =
                    d.cells.iter().find_map(|cell| cell.infinite_slot().map(|slot| cell.vertices[(slot + 1) % 4]));
                d.points[hull.unwrap() as usize] = d.points[hull.unwrap() as usize].map(|x| 0.9 * x);
            }),
        ];
        assert!(example().certify().is_ok());
        for (expected, damage) in damages {
            let mut delaunay = example();
            damage(&mut delaunay);
            let message = delaunay.certify().map_err(|error| error.to_string());
            assert!(message.as_ref().is_err_and(|m| m.contains(expected)), "expected {expected:?}: {message:?}");
        }
    }

    #[test]
    fn the_lowest_index_is_the_original() {
        let points: Vec<[f32; 3]> = (0..4000).map(|i| [i % 5, i / 5 % 5, i / 25 % 5].map(|x| x as f32)).collect();
        let delaunay = Delaunay::new(&points).unwrap();
        assert_eq!(delaunay.copies(), (125..4000).map(|i| (i, i % 125)).collect::<Vec<_>>());
        assert_eq!(delaunay.certify().unwrap().num_vertices, 125);
    }
}
