//! The Delaunay triangulation of points in space, by insertion.
//!
//! Points come one by one in a biased randomised order ([`brio_order`](super::brio_order)); the module `insert` has the
//! method. Vertices are numbered along the Hilbert curve, and so are the tetrahedra afterwards.
//!
//! # Degenerate input
//!
//! Cospherical points have several Delaunay triangulations. Which one is taken is decided by the coordinates alone
//! (see the module `predicates`): the triangulation does not depend on the order of insertion, on the number of
//! threads, or on whether it was built or repaired.

use super::insert::Builder;
use super::mesh::{EVEN, INFINITE, MAX_CELLS, Mesh, is_infinite};
use super::order::insertion_rounds;
use super::predicates::Site;
use super::sites::Sites;
use crate::{Error, Result};
use rayon::prelude::*;

/// The Delaunay triangulation of a set of points.
///
/// Copies of a point are kept out of it; [`Delaunay::copies`] lists them.
#[derive(Debug, Clone)]
pub struct Delaunay {
    pub(super) sites: Sites,
    pub(super) mesh: Mesh,
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
    /// Exact: every sphere through a tetrahedron is empty, whatever the points. On all threads of the current pool, and
    /// the same for any number of them.
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
        check_finite(points, 0)?;
        if points.len() > MAX_CELLS {
            return Err(Error::Geometry(format!("expected at most {MAX_CELLS} points, found {}", points.len())));
        }
        let sites = Sites::new(points);
        let simplex = sites.simplex().ok_or_else(|| {
            Error::Geometry(format!("all {} points lie in one plane; at least 4 must not", points.len()))
        })?;
        let mut mesh = Mesh::simplex(simplex);
        let mut first = sites.corners();
        first.retain(|v| !simplex.contains(v));
        let mut done = simplex.to_vec();
        done.extend(&first);
        let rounds = insertion_rounds(sites.sites.len(), &done);
        let mut builder = Builder::new(&sites.sites, &mut mesh, 4, Vec::new(), sites.sites.len());
        for round in [first].into_iter().chain(rounds) {
            // Sites have no copies.
            builder.insert(&round)?;
        }
        builder.finish();
        mesh.sort(sites.sites.len());
        Ok(Self { sites, mesh })
    }

    /// How many points there are, copies included.
    pub fn num_points(&self) -> usize {
        self.sites.indices.len() + self.sites.copies.len()
    }

    /// The copies, each as (copy, original), ascending. The original is the coincident point of the lowest index.
    pub fn copies(&self) -> &[(u32, u32)] {
        &self.sites.copies
    }

    /// The tetrahedra, each as the indices of four points, positively oriented, the lowest first; ascending.
    pub fn tetrahedra(&self) -> Vec<[u32; 4]> {
        let finite = self.mesh.vertices.par_iter().filter(|vertices| !is_infinite(vertices));
        let mut tetrahedra: Vec<[u32; 4]> = finite
            .map(|vertices| {
                let indices = vertices.map(|v| self.sites.indices[v as usize]);
                let place = |rank: usize| {
                    let mut places = [0, 1, 2, 3];
                    places.sort_unstable_by_key(|&place| indices[place]);
                    places[rank]
                };
                let (low, next) = (place(0), place(1));
                let (a, b) = EVEN[low][next];
                [low, next, a, b].map(|place| indices[place])
            })
            .collect();
        tetrahedra.par_sort_unstable();
        tetrahedra
    }

    /// Proves that this is the Delaunay triangulation of all its points, in time linear in their number.
    ///
    /// Every tetrahedron is positively oriented, every facet is shared by exactly two cells, no facet has the opposite
    /// vertex of one cell inside the sphere of the other, the hull is convex, and each point is a vertex or a
    /// coincident copy. Locally Delaunay facets make a Delaunay triangulation (Delaunay's lemma).
    ///
    /// # Errors
    ///
    /// [`Error::Geometry`] with the first thing that is wrong.
    pub fn certify(&self) -> Result<Certificate> {
        let name = |v: u32| match self.sites.indices.get(v as usize) {
            Some(index) => index.to_string(),
            None => "infinity".into(),
        };
        let (sites, indices): (&[Site], _) = (&self.sites.sites, &self.sites.indices);
        let cells = 0..self.mesh.vertices.len();
        if let Some(fault) = cells.into_par_iter().find_map_first(|cell| self.mesh.fault_of(sites, cell, name)) {
            return Err(Error::Geometry(fault));
        }
        let mut used = vec![false; sites.len()];
        let (mut num_tetrahedra, mut num_hull_facets) = (0, 0);
        for (cell, vertices) in self.mesh.vertices.iter().enumerate() {
            if self.mesh.is_free(cell) {
                continue;
            }
            match is_infinite(vertices) {
                true => num_hull_facets += 1,
                false => num_tetrahedra += 1,
            }
            for &v in vertices.iter().filter(|&&v| v != INFINITE) {
                used[v as usize] = true;
            }
        }
        if let Some(v) = used.iter().position(|used| !used) {
            return Err(Error::Geometry(format!("point {} is in no tetrahedron", indices[v])));
        }
        let mut seen = vec![false; self.num_points()];
        let copies = self.sites.copies.iter().map(|(copy, _)| copy);
        for &index in indices.iter().chain(copies) {
            match seen.get_mut(index as usize) {
                Some(seen) if !*seen => *seen = true,
                _ => return Err(Error::Geometry(format!("point {index} is there twice"))),
            }
        }
        Ok(Certificate { num_tetrahedra, num_hull_facets, num_vertices: sites.len() })
    }
}

pub(super) fn check_finite(points: &[[f32; 3]], first: usize) -> Result<()> {
    match points.iter().position(|p| p.iter().any(|x| !x.is_finite())) {
        Some(i) => Err(Error::Geometry(format!("point {} is not finite: {:?}", first + i, points[i]))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::mesh::{link, linked};
    use super::*;
    use crate::rng::{Rng, Stream};

    fn example() -> Delaunay {
        let rng = Rng::new(1, Stream::Synthetic, 0);
        let mut points: Vec<[f32; 3]> = (0..100).map(|i| rng.direction(i).map(|x| x * rng.uniform(i + 100))).collect();
        points.push(points[7]);
        Delaunay::new(&points).unwrap()
    }

    fn moved(delaunay: &mut Delaunay, vertex: usize, move_it: impl Fn(f32) -> f32) {
        delaunay.sites.sites[vertex] = Site::new(delaunay.sites.sites[vertex].position.map(move_it));
    }

    /// A certificate that could not be refused would prove nothing.
    #[test]
    fn faults_are_found() {
        type Damage = fn(&mut Delaunay);
        let damages: [(&str, Damage); 9] = [
            ("positively oriented", |d| {
                let index = d.mesh.vertices.iter().position(|v| !is_infinite(v)).unwrap();
                d.mesh.vertices[index].swap(0, 1);
                d.mesh.links[index].swap(0, 1);
                for facet in 0..2 {
                    let (beyond, mirror) = linked(d.mesh.links[index][facet]);
                    d.mesh.links[beyond][mirror] = link(index as u32, facet);
                }
            }),
            ("linked both ways", |d| d.mesh.links[3].swap(1, 2)),
            ("share no facet", |d| {
                let vertices = d.mesh.vertices.iter_mut().find(|v| is_infinite(v)).unwrap();
                vertices[0] = (vertices[0] + 1) % 100;
            }),
            ("not the last", |d| d.mesh.vertices[5][1] = INFINITE),
            // A point moved a little: some sphere is no longer empty, though no tetrahedron is turned inside out.
            ("holds point", |d| {
                let square = |v: usize| d.sites.sites[v].position.iter().map(|x| x * x).sum::<f32>();
                let inner = (0..100).min_by(|&v, &w| square(v).total_cmp(&square(w))).unwrap();
                moved(d, inner, |x| x + 5e-3);
            }),
            ("is there twice", |d| d.sites.copies[0].0 = (d.sites.copies[0].0 + 1) % 100),
            ("is there twice", |d| d.sites.indices[3] = d.sites.indices[4]),
            ("in no tetrahedron", |d| d.sites.sites.push(Site::new([0.0; 3]))),
            // A hull that is not convex.
            ("", |d| {
                let hull = d.mesh.vertices.iter().find(|v| is_infinite(v)).map(|v| v[0]);
                moved(d, hull.unwrap() as usize, |x| 0.9 * x);
            }),
        ];
        assert!(example().certify().is_ok());
        let mut failures = Vec::new();
        for (expected, damage) in damages {
            let mut delaunay = example();
            damage(&mut delaunay);
            delaunay.sites.indices.resize(delaunay.sites.sites.len(), 0);
            let message = delaunay.certify().map_err(|error| error.to_string());
            if !message.as_ref().is_err_and(|m| m.contains(expected)) {
                failures.push(format!("expected {expected:?}: {message:?}"));
            }
        }
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }

    #[test]
    fn the_lowest_index_is_the_original() {
        let points: Vec<[f32; 3]> = (0..4000).map(|i| [i % 5, i / 5 % 5, i / 25 % 5].map(|x| x as f32)).collect();
        let delaunay = Delaunay::new(&points).unwrap();
        assert_eq!(delaunay.copies(), (125..4000).map(|i| (i, i % 125)).collect::<Vec<_>>());
        assert_eq!(delaunay.certify().unwrap().num_vertices, 125);
    }
}
