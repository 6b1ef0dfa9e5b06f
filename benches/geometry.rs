//! What a triangulation, its neighbours and their repair cost: CPU seconds, bytes a point at the peak, wall time.
//!
//! `cargo bench --bench geometry` prints a table. In the environment:
//!
//! - `RADFOAM_BENCH_POINTS`: numbers of points, with commas between them (default 100000,1000000);
//! - `RADFOAM_BENCH_SETS`: which sets (default uniform,clustered,scene);
//! - `RADFOAM_BENCH_THREADS`: how many threads (default 1, where CPU time and wall time ought to agree);
//! - `RADFOAM_BENCH_RUNS`: how many runs, of which the median is printed (default 3);
//! - `RADFOAM_BENCH_WRITE`: a folder to write the points to, and nothing else is done. `geometry_cgal.sh` uses it.

use candle_radfoam::geometry::{
    Adjacency, Delaunay, NUM_SENTINELS, hilbert_order, nearest_cell, nearest_neighbor_distances, sentinels,
};
use candle_radfoam::rng::{Rng, Stream};
use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

type Points = Vec<[f32; 3]>;

/// Counts the bytes that are allocated, and the most that ever were.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

impl Counting {
    fn grow(size: usize) {
        let now = ALLOCATED.fetch_add(size, Relaxed) + size;
        PEAK.fetch_max(now, Relaxed);
    }
}

// SAFETY: every call goes to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::grow(layout.size());
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATED.fetch_sub(layout.size(), Relaxed);
        Self::grow(size);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// The point sets, sentinels included, in the order in which a foam keeps its cells.
fn set(name: &str, n: u32) -> Points {
    let rng = Rng::new(1, Stream::Synthetic, 0);
    let shell = |i: u32, noise: f32| rng.direction(i).map(|u| u * (1.0 + noise * rng.normal4(i + n)[0]));
    let blob = |i: u32, size: f32| {
        let (center, [x, y, z, _]) = (rng.direction(i % 50), rng.normal4(i));
        [center[0] + size * x, center[1] + size * y, center[2] + size * z]
    };
    let spread = |i: u32| (i % 50) as f32 / 50.0;
    let clustered = |i: u32| if i.is_multiple_of(2) { shell(i, 0.005) } else { blob(i, 0.01 * 30f32.powf(spread(i))) };
    let scene = |i: u32| {
        let [u, v, w, _] = rng.uniform4(i + 2 * n);
        match i % 10 {
            0..4 => shell(i, 0.002),
            4..6 => [4.0 * u - 2.0, 4.0 * v - 2.0, -0.7 + 0.002 * w],
            6..8 => blob(i, 0.003 * 100f32.powf(spread(i))),
            _ => rng.direction(i).map(|c| c * 3.0 * 333f32.powf(u)),
        }
    };
    let uniform = |i: u32| {
        let [x, y, z, _] = rng.uniform4(i);
        [x, y, z]
    };
    let (points, radius): (Points, f32) = match name {
        "uniform" => ((0..n).map(uniform).collect(), 8.0),
        "clustered" => ((0..n).map(clustered).collect(), 8.0),
        _ => ((0..n).map(scene).collect(), 4000.0),
    };
    let mut points: Points = hilbert_order(&points).into_iter().map(|i| points[i as usize]).collect();
    points.extend(sentinels([0.0; 3], radius));
    points
}

/// The sum over the edges of a mixed (lower index, higher index): the same as in cgal_delaunay.cpp.
fn edge_hash(adjacency: &Adjacency) -> (usize, u64) {
    let mix = |x: u64| {
        let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    };
    let (mut num_edges, mut hash) = (0, 0u64);
    for i in 0..adjacency.num_points() as u32 {
        for &j in adjacency.neighbors_of(i).iter().filter(|&&j| j > i) {
            num_edges += 1;
            hash = hash.wrapping_add(mix(u64::from(i) << 32 | u64::from(j)));
        }
    }
    (num_edges, hash)
}

/// One line of the table: median CPU and wall seconds, and the bytes above what was there before.
struct Stage {
    name: &'static str,
    cpu: Vec<f64>,
    wall: Vec<f64>,
    peak: usize,
}

struct Table {
    stages: Vec<Stage>,
}

impl Table {
    fn time<T>(&mut self, name: &'static str, work: impl FnOnce() -> T) -> T {
        let before = ALLOCATED.load(Relaxed);
        PEAK.store(before, Relaxed);
        let (cpu, wall) = (cpu_seconds(), Instant::now());
        let result = work();
        let (cpu, wall) = (cpu_seconds() - cpu, wall.elapsed().as_secs_f64());
        let peak = PEAK.load(Relaxed) - before;
        let at = self.stages.iter().position(|stage| stage.name == name).unwrap_or_else(|| {
            self.stages.push(Stage { name, cpu: vec![], wall: vec![], peak: 0 });
            self.stages.len() - 1
        });
        self.stages[at].cpu.push(cpu);
        self.stages[at].wall.push(wall);
        self.stages[at].peak = self.stages[at].peak.max(peak);
        result
    }

    fn print(mut self, set: &str, n: usize) {
        let median = |values: &mut Vec<f64>| {
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        for stage in &mut self.stages {
            let (cpu, wall) = (median(&mut stage.cpu), median(&mut stage.wall));
            let bytes = stage.peak as f64 / n as f64;
            println!("{set:10} {n:8} {:16} {cpu:8.3} {wall:8.3} {bytes:8.0}", stage.name);
        }
    }
}

/// Every point but the sentinels moved by a Gaussian of `share` times the distance to its nearest neighbour.
fn moved(points: &Points, adjacency: &Adjacency, share: f32) -> Points {
    let spacing = nearest_neighbor_distances(points, adjacency);
    let rng = Rng::new(2, Stream::Synthetic, 0);
    let mut moved = points.clone();
    for (i, point) in moved[..points.len() - NUM_SENTINELS].iter_mut().enumerate() {
        let step = rng.normal4(i as u32);
        for k in 0..3 {
            point[k] += share * spacing[i] * step[k];
        }
    }
    moved
}

fn measure(name: &str, n: u32, runs: usize) {
    let points = set(name, n);
    let mut table = Table { stages: vec![] };
    let (mut hash, mut notes) = ((0, 0), BTreeMap::new());
    for _ in 0..runs {
        table.time("hilbert_order", || hilbert_order(&points));
        let adjacency = table.time("build + csr", || Adjacency::build(&points)).expect("the set has a triangulation");
        hash = edge_hash(&adjacency);
        let delaunay = table.time("build", || Delaunay::new(&points)).expect("the set has a triangulation");
        table.time("csr", || Adjacency::from_delaunay(&delaunay)).expect("so few points fit");
        table.time("certify", || delaunay.certify()).expect("the triangulation is Delaunay");
        for (stage, share) in [("follow 0.1 %", 0.001), ("follow 1 %", 0.01)] {
            let moved = moved(&points, &adjacency, share);
            let mut delaunay = delaunay.clone();
            let repair = table.time(stage, || delaunay.follow(&moved)).expect("the points stay where they can be");
            notes.insert(stage, format!("{repair:?}"));
        }
        for (stage, share) in [("follow + csr .1%", 0.001), ("follow + csr 1 %", 0.01)] {
            let moved = moved(&points, &adjacency, share);
            let (mut delaunay, mut adjacency) = (delaunay.clone(), adjacency.clone());
            table
                .time(stage, || delaunay.follow_with(&moved, &mut adjacency))
                .expect("the points stay where they can be");
        }
        // 3 of 23 points left out at first: 15 % of those that are there come in.
        let (late, early): (Vec<_>, Vec<_>) = (0..points.len()).partition(|&i| i < n as usize && i % 23 < 3);
        let pick = |chosen: Vec<usize>| chosen.into_iter().map(|i| points[i]).collect::<Points>();
        let (late, mut grown) = (pick(late), Delaunay::new(&pick(early)).expect("the set has a triangulation"));
        let repair = table.time("insert 15 %", || grown.insert(&late)).expect("so few points fit");
        notes.insert("insert 15 %", format!("{repair:?}"));
        drop(grown);
        // Each from the other end of the curve: walks through the whole set.
        table.time("nearest_cell/100", || {
            let find = |i: u32| nearest_cell(&points, &adjacency, points[i as usize].map(|x| x * 1.001), n - 1 - i);
            (0..n).step_by(100).map(|i| u64::from(find(i))).sum::<u64>()
        });
    }
    table.print(name, points.len());
    for (stage, note) in notes {
        println!("{name:10} {:8} {stage:16} {note}", points.len());
    }
    println!("{name:10} {:8} edges {} {:016x}", points.len(), hash.0, hash.1);
}

fn main() {
    let sizes = std::env::var("RADFOAM_BENCH_POINTS").unwrap_or_else(|_| "100000,1000000".into());
    let sizes: Vec<u32> = sizes.split(',').filter_map(|n| n.trim().parse().ok()).collect();
    let names = std::env::var("RADFOAM_BENCH_SETS").unwrap_or_else(|_| "uniform,clustered,scene".into());
    let names: Vec<&str> = names.split(',').map(str::trim).collect();
    if let Ok(folder) = std::env::var("RADFOAM_BENCH_WRITE") {
        for (n, name) in sizes.iter().flat_map(|n| names.iter().map(move |name| (n, *name))) {
            let bytes: Vec<u8> = set(name, *n).into_iter().flatten().flat_map(f32::to_le_bytes).collect();
            std::fs::write(format!("{folder}/{name}_{n}.f32"), bytes).expect("the folder can be written to");
        }
        return;
    }
    let threads = number("RADFOAM_BENCH_THREADS", 1);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads can be started");
    println!("set          points stage             CPU s   wall s bytes/pt   ({threads} threads)");
    pool.install(|| {
        for (n, name) in sizes.iter().flat_map(|n| names.iter().map(move |name| (n, *name))) {
            measure(name, *n, number("RADFOAM_BENCH_RUNS", 3));
        }
    });
}
