//! Insertion of points into a Delaunay triangulation, by one worker or by several at once.
//!
//! A point is located by a walk from the tetrahedron made last; the cells whose sphere holds it are removed, and the
//! cavity is filled with the tetrahedra between its boundary and the point (Bowyer, Watson, 1981).
//!
//! # Several workers
//!
//! Every worker owns a set of vertices and changes only cells all of whose vertices it owns; a point for which that is
//! not enough is put off, and comes in later, with other owners or by one worker alone (after Marot, Pellerin & Remacle,
//! "One machine, one minute, three billion tetrahedra", 2019). So two workers never touch the same memory: a worker
//! goes from cells of its own through their facets only, hence reads and marks only cells with three vertices of its
//! own, which no other worker removes; it writes only the link through such a facet, which no other worker has. The
//! triangulation does not depend on the order of insertion (see the module `predicates`), hence not on the number of
//! workers or on their pace.

use super::mesh::{EVEN, FREE, MAX_CELLS, Mesh, in_conflict, is_infinite, link, linked};
use super::predicates::{Site, orient3d};
use crate::{Error, Result};
use rayon::prelude::*;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Typical: 6.7 tetrahedra a point, and a few percent that are free for a moment.
const CELLS_PER_SITE: usize = 7;
/// A worker takes so many new cells at a time.
const BLOCK: usize = 1024;
/// Fewer points than this a worker are not worth the border between the workers.
const MIN_POINTS_PER_WORKER: usize = 2048;

/// A slice of which each worker touches only entries that no other worker touches.
struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: a `Shared` is a mutable slice whose entries are divided among threads, as `get` and `set` demand.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T: Copy> Shared<'a, T> {
    fn new(slice: &'a mut [T]) -> Self {
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
struct Shop<'a> {
    sites: &'a [Site],
    vertices: Shared<'a, [u32; 4]>,
    /// Entry `4 * cell + facet`: two workers may hold links of the same cell.
    links: Shared<'a, u32>,
    /// What the insertion at hand knows of each cell; [`UNSEEN`] between insertions.
    marks: Shared<'a, u8>,
    /// For each vertex, the infinite one last, its number on the boundary of a cavity; means something only there.
    numbers: Shared<'a, u16>,
    /// The first cell that no worker has taken yet.
    next: &'a AtomicUsize,
}

const UNSEEN: u8 = 0;
const STAYS: u8 = 1;
const REMOVED: u8 = 2;

/// Which vertices belong to a worker.
trait Owner: Copy {
    fn owns(self, vertex: u32) -> bool;
}

/// The owner of everything: a worker alone.
#[derive(Clone, Copy)]
struct Everything;

impl Owner for Everything {
    #[inline(always)]
    fn owns(self, _: u32) -> bool {
        true
    }
}

/// The owner of the vertices that have its number in a table.
#[derive(Clone, Copy)]
struct Part<'a> {
    owners: &'a [u8],
    number: u8,
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
enum End {
    Done,
    Full,
    Coincides,
}

/// Cells to make, and the buffers that insertions share.
#[derive(Debug, Default)]
struct Worker {
    /// A cell of its own, the one made last, where the next walk starts.
    last: u32,
    free: Vec<u32>,
    stack: Vec<u32>,
    removed: Vec<u32>,
    boundary: Vec<BoundaryFacet>,
    /// The vertices on the boundary of the cavity, by their numbers.
    rim: Vec<u32>,
    /// Entry `a * stride + b`: the facet of the new cell on the edge from `a` to `b`.
    edges: Vec<u32>,
}

impl Worker {
    /// Inserts points until there are no cells left. Returns how many of them it has dealt with, and those put off.
    fn insert_all<O: Owner>(&mut self, shop: &Shop, owner: O, vertices: &[u32]) -> (usize, Vec<u32>, End) {
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

/// A mesh that points are being inserted into.
#[derive(Debug)]
pub(super) struct Builder<'a> {
    sites: &'a [Site],
    mesh: &'a mut Mesh,
    marks: Vec<u8>,
    numbers: Vec<u16>,
    next: AtomicUsize,
    /// The first one also works alone.
    workers: Vec<Worker>,
}

impl<'a> Builder<'a> {
    /// Goes on with a triangulation of some of `sites`, of which the cells `free` are not in use, `start` is, and
    /// `num_more` vertices are to come.
    pub fn new(sites: &'a [Site], mesh: &'a mut Mesh, start: u32, free: Vec<u32>, num_more: usize) -> Self {
        let num_cells = mesh.vertices.len();
        let mut builder = Self {
            sites,
            mesh,
            marks: Vec::new(),
            numbers: vec![0; sites.len() + 1],
            next: AtomicUsize::new(num_cells),
            workers: vec![Worker { last: start, free, ..Worker::default() }],
        };
        builder.resize((num_cells + CELLS_PER_SITE * num_more + BLOCK).min(MAX_CELLS.max(num_cells)));
        builder
    }

    fn resize(&mut self, num_cells: usize) {
        self.mesh.reserve(num_cells.saturating_sub(self.mesh.vertices.len()));
        self.mesh.vertices.resize(num_cells, FREE);
        self.mesh.links.resize(num_cells, [0; 4]);
        self.marks.resize(num_cells, UNSEEN);
    }

    fn shop(&mut self) -> (Shop<'_>, &mut [Worker]) {
        let shop = Shop {
            sites: self.sites,
            vertices: Shared::new(&mut self.mesh.vertices),
            links: Shared::new(self.mesh.links.as_flattened_mut()),
            marks: Shared::new(&mut self.marks),
            numbers: Shared::new(&mut self.numbers),
            next: &self.next,
        };
        (shop, &mut self.workers)
    }

    /// Inserts sites, given by their numbers, ascending; none may be a vertex yet. Returns whether it did: not where two
    /// of the sites coincide.
    pub fn insert(&mut self, vertices: &[u32]) -> Result<bool> {
        /// The owners of each pass: ranges along the curve, which begins with a cut across the first axis, then slabs
        /// across the last axes, so that what lies at a border once is inside the next time.
        const PASSES: [Option<usize>; 3] = [None, Some(2), Some(1)];

        let mut pending = vertices.to_vec();
        for axis in PASSES {
            let num_parts = rayon::current_num_threads().min(pending.len() / MIN_POINTS_PER_WORKER).min(u8::MAX.into());
            if num_parts > 1 {
                pending = self.insert_in_parts(&pending, num_parts, axis);
            }
        }
        let mut rest = &pending[..];
        loop {
            let (shop, workers) = self.shop();
            let (count, _, end) = workers[0].insert_all(&shop, Everything, rest);
            rest = &rest[count..];
            match end {
                End::Done => return Ok(true),
                End::Coincides => return Ok(false),
                End::Full => {}
            }
            let num_cells = self.mesh.vertices.len();
            if num_cells >= MAX_CELLS {
                return Err(Error::Geometry(format!("more than {MAX_CELLS} tetrahedra")));
            }
            self.resize((num_cells + num_cells / 4 + 2 * BLOCK).min(MAX_CELLS));
        }
    }

    /// Inserts what can be inserted in parts, one for each worker. Returns what was put off.
    fn insert_in_parts(&mut self, pending: &[u32], num_parts: usize, axis: Option<usize>) -> Vec<u32> {
        let sites = self.sites;
        // As many points for each worker.
        let place = |v: u32| axis.map_or(v as f32, |axis| sites[v as usize].position[axis]);
        let mut places: Vec<f32> = pending.iter().map(|&v| place(v)).collect();
        places.sort_unstable_by(f32::total_cmp);
        let borders: Vec<f32> = (1..num_parts).map(|k| places[k * places.len() / num_parts]).collect();
        drop(places);
        let number = |v: u32| borders.partition_point(|&border| border <= place(v)) as u8;
        let owners: Vec<u8> = (0..sites.len() as u32).into_par_iter().with_min_len(1 << 14).map(number).collect();
        let mut parts: Vec<Vec<u32>> = vec![Vec::with_capacity(pending.len() / num_parts + 1); num_parts];
        for &vertex in pending {
            parts[usize::from(owners[vertex as usize])].push(vertex);
        }

        self.workers.resize_with(num_parts.max(self.workers.len()), Worker::default);
        let (shop, workers) = self.shop();
        let owned = |number: usize| Part { owners: &owners, number: number as u8 };
        let has_start: Vec<bool> = (0..num_parts)
            .map(|number| match workers[0].start_in(&shop, owned(number), &parts[number]) {
                // The first worker walks for all of them: its own start comes last.
                Some(start) => {
                    workers[number].last = start;
                    true
                }
                None => false,
            })
            .collect();
        let mut put_off: Vec<u32> = workers
            .par_iter_mut()
            .zip(&parts)
            .zip(&has_start)
            .enumerate()
            .map(|(number, ((worker, part), &has_start))| {
                if !has_start {
                    return part.clone();
                }
                // What stopped one worker will stop the last one, which works alone.
                let (count, mut put_off, _) = worker.insert_all(&shop, owned(number), part);
                put_off.extend(&part[count..]);
                put_off
            })
            .flatten()
            .collect();
        // A cell of a worker's own is still there; any other may be gone.
        if let Some(number) = has_start.iter().position(|&has_start| has_start) {
            workers[0].last = workers[number].last;
        }
        put_off.par_sort_unstable();
        put_off
    }

    /// Marks the cells that are not in use.
    pub fn finish(self) {
        for worker in &self.workers {
            for &cell in &worker.free {
                self.mesh.vertices[cell as usize] = FREE;
            }
        }
    }
}

impl Worker {
    /// A cell all of whose vertices are the owner's, near one of the points.
    fn start_in<O: Owner>(&self, shop: &Shop, owner: O, part: &[u32]) -> Option<u32> {
        const TRIES: usize = 64;
        part.iter().step_by(part.len().div_ceil(TRIES).max(1)).find_map(|&vertex| {
            let cell = self.locate(shop, Everything, &shop.sites[vertex as usize])?;
            // SAFETY: in bounds, and no worker is at work yet.
            let vertices = unsafe { shop.vertices.get(cell) };
            vertices.iter().all(|&v| owner.owns(v)).then_some(cell as u32)
        })
    }
}
