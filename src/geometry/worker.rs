//! One worker that inserts points, see the module `insert`: locate, carve, fill.

use super::mesh::{EVEN, in_conflict, is_infinite, link, linked};
use super::predicates::{Site, orient3d};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A worker takes so many new cells at a time.
pub(super) const BLOCK: usize = 1024;

/// A slice of which each worker touches only entries that no other worker touches.
pub(super) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: a `Shared` is a mutable slice whose entries are divided among threads, as `get` and `set` demand.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T: Copy> Shared<'a, T> {
    pub fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// # Safety
    ///
    /// `index` is in bounds, and no other thread writes the entry meanwhile.
    #[inline(always)]
    unsafe fn get(&self, index: usize) -> T {
        debug_assert!(index < self.len, "{index} of {}", self.len);
        // SAFETY: in bounds and not being written, as demanded.
        unsafe { *self.start.add(index) }
    }

    /// # Safety
    ///
    /// `index` is in bounds, and no other thread reads or writes the entry meanwhile.
    #[inline(always)]
    unsafe fn set(&self, index: usize, value: T) {
        debug_assert!(index < self.len, "{index} of {}", self.len);
        // SAFETY: in bounds and not being used, as demanded.
        unsafe { *self.start.add(index) = value }
    }
}

/// What all workers share while points come in.
pub(super) struct Shop<'a> {
    pub sites: &'a [Site],
    pub vertices: Shared<'a, [u32; 4]>,
    /// Entry `4 * cell + facet`: two workers may hold links of the same cell.
    pub links: Shared<'a, u32>,
    /// What the insertion at hand knows of each cell; [`UNSEEN`] between insertions.
    pub marks: Shared<'a, u8>,
    /// For each vertex, the infinite one last, its number on the boundary of a cavity; means something only there.
    pub numbers: Shared<'a, u16>,
    /// The first cell that no worker has taken yet.
    pub next: &'a AtomicUsize,
}

pub(super) const UNSEEN: u8 = 0;
const STAYS: u8 = 1;
const REMOVED: u8 = 2;

/// Which vertices belong to a worker.
pub(super) trait Owner: Copy {
    fn owns(self, vertex: u32) -> bool;
}

/// The owner of everything: a worker alone.
#[derive(Clone, Copy)]
pub(super) struct Everything;

impl Owner for Everything {
    #[inline(always)]
    fn owns(self, _: u32) -> bool {
        true
    }
}

/// The owner of the vertices that have its number in a table.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub owners: &'a [u8],
    pub number: u8,
}

impl Owner for Part<'_> {
    #[inline(always)]
    fn owns(self, vertex: u32) -> bool {
        // Nobody owns the infinite vertex.
        self.owners.get(vertex as usize) == Some(&self.number)
    }
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
    /// The cell to make.
    cell: u32,
    /// The number of each vertex on the boundary.
    numbers: [u16; 4],
}

enum Outcome {
    Inserted,
    /// It would take cells that belong to others.
    PutOff,
    /// There are no cells left.
    Full,
    /// A vertex is there already.
    Coincides,
}

/// Why a worker came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Done,
    Full,
    Coincides,
}

/// Cells to make, and the buffers that insertions share.
#[derive(Debug, Default)]
pub(super) struct Worker {
    /// A cell of its own, the one made last, where the next walk starts.
    pub last: u32,
    pub free: Vec<u32>,
    stack: Vec<u32>,
    removed: Vec<u32>,
    boundary: Vec<BoundaryFacet>,
    /// The vertices on the boundary of the cavity, by their numbers.
    rim: Vec<u32>,
    /// Entry `a * stride + b`: the facet of the new cell on the edge from `a` to `b`.
    edges: Vec<u32>,
}

impl Worker {
    /// A worker whose first walk starts in a cell, and who has cells to begin with.
    pub fn new(start: u32, free: Vec<u32>) -> Self {
        Self { last: start, free, ..Self::default() }
    }

    /// Inserts points until there are no cells left. Returns how many of them it has dealt with, and those put off.
    pub fn insert_all<O: Owner>(&mut self, shop: &Shop, owner: O, vertices: &[u32]) -> (usize, Vec<u32>, End) {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has what the function was compiled for.
            return unsafe { self.insert_all_avx2(shop, owner, vertices) };
        }
        self.insert_all_here(shop, owner, vertices)
    }

    /// Four lanes a register. No sign that is decided depends on it.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn insert_all_avx2<O: Owner>(&mut self, shop: &Shop, owner: O, vertices: &[u32]) -> (usize, Vec<u32>, End) {
        self.insert_all_here(shop, owner, vertices)
    }

    #[inline(always)]
    fn insert_all_here<O: Owner>(&mut self, shop: &Shop, owner: O, vertices: &[u32]) -> (usize, Vec<u32>, End) {
        let mut put_off = Vec::new();
        for (count, &vertex) in vertices.iter().enumerate() {
            match self.insert(shop, owner, vertex) {
                Outcome::Inserted => {}
                Outcome::PutOff => put_off.push(vertex),
                Outcome::Full => return (count, put_off, End::Full),
                Outcome::Coincides => return (count, put_off, End::Coincides),
            }
        }
        (vertices.len(), put_off, End::Done)
    }

    #[inline(always)]
    fn insert<O: Owner>(&mut self, shop: &Shop, owner: O, vertex: u32) -> Outcome {
        let site = shop.sites[vertex as usize];
        let Some(start) = self.locate(shop, owner, &site) else { return Outcome::PutOff };
        // SAFETY: the walk ended in this cell, having read it.
        let around = unsafe { shop.vertices.get(start) };
        if around.iter().any(|&v| shop.sites.get(v as usize) == Some(&site)) {
            return Outcome::Coincides;
        }
        let is_own = self.carve(shop, owner, start, vertex, &site);
        let is_enough = is_own && self.take_cells(shop);
        // SAFETY: these cells were marked by this worker, hence are its own to mark.
        unsafe {
            for &cell in &self.removed {
                shop.marks.set(cell as usize, UNSEEN);
            }
            for facet in &self.boundary {
                shop.marks.set((facet.outside >> 2) as usize, UNSEEN);
            }
        }
        if is_enough {
            self.fill(shop);
            Outcome::Inserted
        } else if is_own {
            Outcome::Full
        } else {
            Outcome::PutOff
        }
    }

    /// The cell that holds `site`, or an infinite cell whose hull facet it lies beyond; `None` if the way there leads
    /// through cells that are not its own.
    ///
    /// A walk that leaves through any facet that has the point on its far side. It ends on a Delaunay triangulation
    /// (Devillers, Pion & Teillaud, "Walking in a triangulation", 2002), which this one is, as ties are broken.
    #[inline(always)]
    fn locate<O: Owner>(&self, shop: &Shop, owner: O, site: &Site) -> Option<usize> {
        let mut at = self.last as usize;
        let mut entered = 4;
        // SAFETY: cells come from links, which name cells; `at` is the worker's own, hence also its links.
        unsafe {
            if is_infinite(&shop.vertices.get(at)) {
                // Not entered through that facet: the point may well lie beyond it.
                at = linked(shop.links.get(4 * at + 3)).0;
            }
            'walk: loop {
                let vertices = shop.vertices.get(at);
                if is_infinite(&vertices) {
                    return Some(at);
                }
                let at_corner = |place: usize| &shop.sites[vertices[place] as usize];
                let corners = [at_corner(0), at_corner(1), at_corner(2), at_corner(3)];
                for facet in 0..4 {
                    if facet == entered {
                        continue;
                    }
                    let mut corners = corners;
                    corners[facet] = site;
                    let [a, b, c, d] = corners;
                    if orient3d(a, b, c, d) < 0.0 {
                        (at, entered) = linked(shop.links.get(4 * at + facet));
                        if !owner.owns(shop.vertices.get(at)[entered]) {
                            return None;
                        }
                        continue 'walk;
                    }
                }
                return Some(at);
            }
        }
    }

    /// Collects the cells whose sphere holds the point, and the facets around them. Returns whether all are its own.
    #[inline(always)]
    fn carve<O: Owner>(&mut self, shop: &Shop, owner: O, start: usize, vertex: u32, site: &Site) -> bool {
        self.removed.clear();
        self.boundary.clear();
        self.stack.clear();
        self.stack.push(start as u32);
        // SAFETY: cells come from links, which name cells. All on the stack are the worker's own; so are the links of
        // those, and the marks and vertices of the cells behind, which have three vertices of its own.
        unsafe {
            shop.marks.set(start, REMOVED);
            while let Some(index) = self.stack.pop() {
                self.removed.push(index);
                let vertices = shop.vertices.get(index as usize);
                for facet in 0..4 {
                    let outside = shop.links.get(4 * index as usize + facet);
                    let (beyond, mirror) = linked(outside);
                    match shop.marks.get(beyond) {
                        REMOVED => continue,
                        UNSEEN => {
                            let around = shop.vertices.get(beyond);
                            let inner = || shop.vertices.get((shop.links.get(4 * beyond + 3) >> 2) as usize);
                            if in_conflict(shop.sites, &around, site, inner) {
                                if !owner.owns(around[mirror]) {
                                    self.removed.append(&mut self.stack);
                                    return false;
                                }
                                shop.marks.set(beyond, REMOVED);
                                self.stack.push(beyond as u32);
                                continue;
                            }
                            shop.marks.set(beyond, STAYS);
                        }
                        _ => {}
                    }
                    let mut vertices = vertices;
                    vertices[facet] = vertex;
                    self.boundary.push(BoundaryFacet {
                        vertices,
                        facet: facet as u32,
                        outside,
                        cell: 0,
                        numbers: [0; 4],
                    });
                }
            }
        }
        true
    }

    /// Makes sure of a cell for each boundary facet beyond those that are removed.
    #[inline(always)]
    fn take_cells(&mut self, shop: &Shop) -> bool {
        let num_more = self.boundary.len().saturating_sub(self.removed.len());
        while self.free.len() < num_more {
            let start = shop.next.fetch_add(BLOCK, Ordering::Relaxed);
            if start + BLOCK > shop.vertices.len {
                return false;
            }
            self.free.extend((start as u32..(start + BLOCK) as u32).rev());
        }
        true
    }

    /// Replaces the removed cells by one for each boundary facet.
    #[inline(always)]
    fn fill(&mut self, shop: &Shop) {
        /// Rows of the table, if that is enough: it stays in the nearest cache.
        const MIN_STRIDE: usize = 32;
        /// A table for more vertices would be sparse and large; so many have never been seen but on spheres.
        const MAX_STRIDE: usize = 1024;

        // A closed surface of F triangles has F / 2 + 2 vertices.
        let num_rim = self.boundary.len() / 2 + 2;
        if num_rim > MAX_STRIDE {
            return self.fill_large(shop);
        }
        let stride = num_rim.next_power_of_two().max(MIN_STRIDE);
        if self.edges.len() < stride * stride {
            self.edges.resize(stride * stride, 0);
        }
        self.rim.clear();
        for (k, facet) in self.boundary.iter_mut().enumerate() {
            let place = facet.facet as usize;
            facet.cell = match self.removed.get(k) {
                Some(&cell) => cell,
                None => self.free.pop().unwrap_or_default(),
            };
            for q in (0..4).filter(|&q| q != place) {
                let vertex = facet.vertices[q];
                // The infinite vertex has the last entry.
                let at = (vertex as usize).min(shop.numbers.len - 1);
                // SAFETY: in bounds, and the vertex is the worker's own.
                unsafe {
                    let number = shop.numbers.get(at);
                    if self.rim.get(usize::from(number)) == Some(&vertex) {
                        facet.numbers[q] = number;
                    } else {
                        facet.numbers[q] = self.rim.len() as u16;
                        shop.numbers.set(at, self.rim.len() as u16);
                        self.rim.push(vertex);
                    }
                }
            }
            for q in (0..4).filter(|&q| q != place) {
                let (a, b) = EVEN[place][q];
                let edge = usize::from(facet.numbers[a]) * stride + usize::from(facet.numbers[b]);
                self.edges[edge] = link(facet.cell, q);
            }
        }
        for facet in &self.boundary {
            let place = facet.facet as usize;
            let mut links = [facet.outside; 4];
            for q in (0..4).filter(|&q| q != place) {
                // Two new cells share the facet of the new point and an edge of the boundary, which they see from
                // opposite sides.
                let (a, b) = EVEN[place][q];
                links[q] = self.edges[usize::from(facet.numbers[b]) * stride + usize::from(facet.numbers[a])];
            }
            self.make(shop, facet, links);
        }
        self.finish();
    }

    /// As [`Worker::fill`], with the edges sorted rather than in a table.
    #[cold]
    #[inline(never)]
    fn fill_large(&mut self, shop: &Shop) {
        let mut edges = Vec::with_capacity(3 * self.boundary.len());
        for (k, facet) in self.boundary.iter_mut().enumerate() {
            facet.cell = match self.removed.get(k) {
                Some(&cell) => cell,
                None => self.free.pop().unwrap_or_default(),
            };
            let place = facet.facet as usize;
            for q in (0..4).filter(|&q| q != place) {
                let (a, b) = EVEN[place][q];
                edges.push((facet.vertices[a], facet.vertices[b], link(facet.cell, q)));
            }
        }
        edges.sort_unstable();
        for facet in &self.boundary {
            let place = facet.facet as usize;
            let mut links = [facet.outside; 4];
            for q in (0..4).filter(|&q| q != place) {
                let (a, b) = EVEN[place][q];
                let edge = (facet.vertices[b], facet.vertices[a], 0);
                links[q] = edges[edges.partition_point(|other| *other < edge)].2;
            }
            self.make(shop, facet, links);
        }
        self.finish();
    }

    #[inline(always)]
    fn make(&self, shop: &Shop, facet: &BoundaryFacet, links: [u32; 4]) {
        let cell = facet.cell as usize;
        // SAFETY: the cell was removed or taken by this worker, and the facet outside has three vertices of its own.
        unsafe {
            shop.vertices.set(cell, facet.vertices);
            for (place, link) in links.into_iter().enumerate() {
                shop.links.set(4 * cell + place, link);
            }
            shop.links.set(facet.outside as usize, link(facet.cell, facet.facet as usize));
        }
    }

    #[inline(always)]
    fn finish(&mut self) {
        if let Some(facet) = self.boundary.last() {
            self.last = facet.cell;
        }
        self.free.extend(self.removed.iter().skip(self.boundary.len()));
    }
}

impl Worker {
    /// A cell of a vertex, where the next walk starts.
    pub fn cell_of(&mut self, shop: &Shop, vertex: u32) -> Option<u32> {
        let cell = self.locate(shop, Everything, &shop.sites[vertex as usize])?;
        // SAFETY: the walk ended in this cell, having read it.
        let vertices = unsafe { shop.vertices.get(cell) };
        self.last = cell as u32;
        vertices.contains(&vertex).then_some(cell as u32)
    }

    /// A cell all of whose vertices are the owner's, near one of the points.
    pub fn start_in<O: Owner>(&self, shop: &Shop, owner: O, part: &[u32]) -> Option<u32> {
        const TRIES: usize = 64;
        part.iter().step_by(part.len().div_ceil(TRIES).max(1)).find_map(|&vertex| {
            let cell = self.locate(shop, Everything, &shop.sites[vertex as usize])?;
            // SAFETY: in bounds, and no worker is at work yet.
            let vertices = unsafe { shop.vertices.get(cell) };
            vertices.iter().all(|&v| owner.owns(v)).then_some(cell as u32)
        })
    }
}
