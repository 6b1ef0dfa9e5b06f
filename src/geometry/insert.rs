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

use super::mesh::{FREE, MAX_CELLS, Mesh};
use super::predicates::Site;
use super::worker::{BLOCK, End, Everything, Part, Shared, Shop, UNSEEN, Worker};
use crate::{Error, Result, pages};
use rayon::prelude::*;
use std::sync::atomic::AtomicUsize;

/// Typical: 6.7 tetrahedra a point, and a few percent that are free for a moment.
const CELLS_PER_SITE: usize = 7;
/// Fewer points than this a worker are not worth the border between the workers.
const MIN_POINTS_PER_WORKER: usize = 2048;

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
            numbers: pages::zeros(sites.len() + 1),
            next: AtomicUsize::new(num_cells),
            workers: vec![Worker::new(start, free)],
        };
        builder.resize((num_cells + CELLS_PER_SITE * num_more + BLOCK).min(MAX_CELLS.max(num_cells)));
        builder
    }

    fn resize(&mut self, num_cells: usize) {
        let more = num_cells.saturating_sub(self.mesh.vertices.len());
        self.mesh.reserve(more);
        let more = num_cells - self.marks.len();
        pages::reserve(&mut self.marks, more);
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

    /// A cell of each of some vertices; `None` if one of them is no vertex.
    pub fn cells_of(&mut self, vertices: &[u32]) -> Option<Vec<u32>> {
        let (shop, workers) = self.shop();
        vertices.iter().map(|&vertex| workers[0].cell_of(&shop, vertex)).collect()
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
