//! What is no longer right in a triangulation whose points have moved.

use super::mesh::{FREE, INFINITE, Mesh, is_infinite, linked, prefetch};
use super::predicates::{
    INSPHERE_BOUND, SMALLEST_SQUARE, Site, UNIT_ROUNDOFF, difference, lanes, minus, orient3d, plus, times,
};
use rayon::prelude::*;

/// Cells a thread looks at in one go.
const CHUNK: usize = 1 << 14;

/// The neighbours of a cell are asked for so many cells ahead: half of a scan's time would be the wait for them. Any
/// distance between 8 and 64 is as good.
const AHEAD: usize = 24;

/// What a scan finds.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// Tetrahedra that are not positively oriented, ascending.
    pub inverted: Vec<u32>,
    /// Facets (cell, place) of which one side's sphere holds the apex of the other side, ascending; each once.
    pub facets: Vec<(u32, u8)>,
    /// Cells that are not in use, ascending.
    pub free: Vec<u32>,
}

/// Looks at all cells and facets.
pub(super) fn scan(mesh: &Mesh, sites: &[Site]) -> Faults {
    let num_cells = mesh.vertices.len();
    let chunks: Vec<Faults> = (0..num_cells.div_ceil(CHUNK))
        .into_par_iter()
        .map(|chunk| {
            let cells = chunk * CHUNK..((chunk + 1) * CHUNK).min(num_cells);
            #[cfg(target_arch = "x86_64")]
            if std::arch::is_x86_feature_detected!("avx2") {
                // SAFETY: the processor has what the function was compiled for.
                return unsafe { scan_avx2(mesh, sites, cells) };
            }
            scan_here(mesh, sites, cells)
        })
        .collect();
    let mut all = Faults::default();
    for chunk in chunks {
        all.inverted.extend(chunk.inverted);
        all.facets.extend(chunk.facets);
        all.free.extend(chunk.free);
    }
    all
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn scan_avx2(mesh: &Mesh, sites: &[Site], cells: std::ops::Range<usize>) -> Faults {
    scan_here(mesh, sites, cells)
}

#[inline(always)]
fn scan_here(mesh: &Mesh, sites: &[Site], cells: std::ops::Range<usize>) -> Faults {
    let mut faults = Faults::default();
    for cell in cells {
        if let Some(ahead) = mesh.links.get(cell + AHEAD) {
            for &link in ahead {
                prefetch(mesh.vertices.as_flattened(), link as usize);
            }
        }
        let vertices = mesh.vertices[cell];
        if vertices == FREE {
            faults.free.push(cell as u32);
            continue;
        }
        if is_infinite(&vertices) {
            for facet in 0..4 {
                if is_bad(mesh, sites, cell, facet) {
                    faults.facets.push((cell as u32, facet as u8));
                }
            }
            continue;
        }
        let at = |v: u32| &sites[v as usize];
        let sphere = Sphere::new(at(vertices[0]), at(vertices[1]), at(vertices[2]), at(vertices[3]));
        let links = mesh.links[cell];
        let apex = |link: u32| mesh.vertices.as_flattened()[link as usize];
        let apexes = [apex(links[0]), apex(links[1]), apex(links[2]), apex(links[3])];
        // Nearly always all is well, and that is found out without a branch: the first vertex stands in for the infinite
        // one, and leaves it open.
        let finite = |v: u32| sites.get(v as usize).unwrap_or(at(vertices[0]));
        if sphere.is_clear_of(finite(apexes[0]), finite(apexes[1]), finite(apexes[2]), finite(apexes[3])) {
            continue;
        }
        let is_positive = sphere.is_positive().unwrap_or_else(|| {
            let [a, b, c, d] = vertices.map(|v| &sites[v as usize]);
            orient3d(a, b, c, d) > 0.0
        });
        if !is_positive {
            faults.inverted.push(cell as u32);
            continue;
        }
        for facet in 0..4 {
            // From the other side, the same.
            if linked(links[facet]).0 < cell || apexes[facet] == INFINITE {
                continue;
            }
            let site = &sites[apexes[facet] as usize];
            if sphere.holds(site).unwrap_or_else(|| mesh.in_conflict(sites, cell, site)) {
                faults.facets.push((cell as u32, facet as u8));
            }
        }
    }
    faults
}

/// Whether a facet is not locally Delaunay. True of both sides of a facet or of none, where both are positive.
pub(super) fn is_bad(mesh: &Mesh, sites: &[Site], cell: usize, facet: usize) -> bool {
    let (beyond, mirror) = linked(mesh.links[cell][facet]);
    let apex = mesh.vertices[beyond][mirror];
    apex != INFINITE && mesh.in_conflict(sites, cell, &sites[apex as usize])
}

/// The sphere of a tetrahedron, for several points to be tried against: with the first vertex for the origin, `p` is on
/// it where `volume |p|² = normal · p`.
///
/// The determinants are those of the module `predicates` in another order: from the first vertex, which a `p` comes to
/// in place of the tested point, and with the minors gathered before the point is known. A monomial again passes
/// through at most 17 operations (sphere) and 8 (volume), so that the bounds are the same: `78.6u R⁵` for the first,
/// `8 * 2/√3 u R³ < 9.3u R³` for the second.
struct Sphere {
    origin: Site,
    normal: [f64; 3],
    /// Negative for a tetrahedron that is positively oriented.
    volume: f64,
    /// The longest edge at the first vertex, squared.
    square: f64,
}

const VOLUME_BOUND: f64 = 10.0 * UNIT_ROUNDOFF;

impl Sphere {
    #[inline(always)]
    fn new(origin: &Site, a: &Site, b: &Site, c: &Site) -> Self {
        let from = origin.wide();
        let (a, b, c) = (difference(&a.wide(), &from), difference(&b.wide(), &from), difference(&c.wide(), &from));
        let (a2, b2, c2) = (dot(a, a), dot(b, b), dot(c, c));
        let (ab, bc, ca) = (cross(a, b), cross(b, c), cross(c, a));
        let along = |k: usize| a2 * bc[k] + b2 * ca[k] + c2 * ab[k];
        let larger = |x: f64, y: f64| if x > y { x } else { y };
        Self {
            origin: *origin,
            normal: [along(0), along(1), along(2)],
            volume: dot(a, bc),
            square: larger(a2, larger(b2, c2)),
        }
    }

    /// Whether the tetrahedron is positively oriented and no site is inside the sphere, beyond doubt.
    #[inline(always)]
    fn is_clear_of(&self, a: &Site, b: &Site, c: &Site, d: &Site) -> bool {
        let all = |x: f64| [x; 4];
        let from = &self.origin;
        let (x, y, z) = (lanes::<0>(a, b, c, d, from), lanes::<1>(a, b, c, d, from), lanes::<2>(a, b, c, d, from));
        let p2 = plus(plus(times(x, x), times(y, y)), times(z, z));
        let (nx, ny, nz) = (all(self.normal[0]), all(self.normal[1]), all(self.normal[2]));
        let det = minus(times(all(self.volume), p2), plus(plus(times(nx, x), times(ny, y)), times(nz, z)));
        let larger = |p2: f64| if p2 > self.square { p2 } else { self.square };
        let square = [larger(p2[0]), larger(p2[1]), larger(p2[2]), larger(p2[3])];
        let fourth = times(square, square);
        let bound = times(times(fourth, times(square, all(INSPHERE_BOUND * INSPHERE_BOUND))), fourth);
        let margin = minus(times(det, det), plus(bound, all(SMALLEST_SQUARE)));
        let is_outside = |k: usize| (margin[k] > 0.0) & (det[k] < 0.0);
        is_outside(0) & is_outside(1) & is_outside(2) & is_outside(3) & (self.is_positive() == Some(true))
    }

    /// `None` where rounding might decide.
    #[inline(always)]
    fn is_positive(&self) -> Option<bool> {
        let square = self.square;
        let bound = square * square * (square * (VOLUME_BOUND * VOLUME_BOUND));
        (self.volume * self.volume > bound + SMALLEST_SQUARE).then_some(self.volume < 0.0)
    }

    /// `None` where rounding might decide.
    #[inline(always)]
    fn holds(&self, site: &Site) -> Option<bool> {
        let p = difference(&site.wide(), &self.origin.wide());
        let p2 = dot(p, p);
        let det = self.volume * p2 - dot(self.normal, p);
        let square = if p2 > self.square { p2 } else { self.square };
        let bound = square * square * (square * (INSPHERE_BOUND * INSPHERE_BOUND)) * (square * square);
        (det * det > bound + SMALLEST_SQUARE).then_some(det > 0.0)
    }
}

#[inline(always)]
fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

#[inline(always)]
fn cross(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}
