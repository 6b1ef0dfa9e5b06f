//! The different places among the points, in the order in which the triangulation numbers them.

use super::order::hilbert_keys;
use super::predicates::{Site, collinear, orient3d};

/// Points without copies, along the Hilbert curve: vertex `v` of a triangulation is `sites[v]`.
#[derive(Debug, Clone, Default)]
pub(super) struct Sites {
    pub sites: Vec<Site>,
    /// The caller's index of each site: the lowest of the points that are there.
    pub indices: Vec<u32>,
    /// (copy, original), ascending, by the caller's indices.
    pub copies: Vec<(u32, u32)>,
}

impl Sites {
    pub fn new(points: &[[f32; 3]]) -> Self {
        let mut keys = hilbert_keys(points);
        let site = |index: u32| Site::new(points[index as usize]);
        // Copies have the same position on the curve, but so may points that only are close.
        for run in keys.chunk_by_mut(|a, b| a.0 == b.0).filter(|run| run.len() > 1) {
            run.sort_unstable_by(|a, b| site(a.1).lexicographic(&site(b.1)).then(a.1.cmp(&b.1)));
        }
        let mut unique =
            Self { sites: Vec::with_capacity(keys.len()), indices: Vec::with_capacity(keys.len()), copies: vec![] };
        for (_, index) in keys {
            let here = site(index);
            match (unique.sites.last(), unique.indices.last()) {
                (Some(last), Some(&original)) if *last == here => unique.copies.push((index, original)),
                _ => {
                    unique.sites.push(here);
                    unique.indices.push(index);
                }
            }
        }
        unique.copies.sort_unstable();
        unique
    }

    /// Four sites in general position, positively oriented; `None` if all lie in one plane.
    pub fn simplex(&self) -> Option<[u32; 4]> {
        let sites = &self.sites;
        let from = |start: usize, test: &dyn Fn(&Site) -> bool| (start..sites.len()).find(|&i| test(&sites[i]));
        let a = sites.first()?;
        let i = 1;
        let j = from(2, &|p| !collinear(a, &sites[i], p))?;
        let k = from(j + 1, &|p| orient3d(a, &sites[i], &sites[j], p) != 0.0)?;
        let positive = orient3d(a, &sites[i], &sites[j], &sites[k]) > 0.0;
        let [i, j, k] = [i, j, k].map(|i| i as u32);
        Some(if positive { [0, i, j, k] } else { [i, 0, j, k] })
    }

    /// The farthest sites towards each of the eight octants, ascending. Inserted first, they leave little to do for the
    /// hull, where an insertion changes many cells.
    pub fn corners(&self) -> Vec<u32> {
        let mut farthest = [(f64::NEG_INFINITY, 0); 8];
        for (v, site) in (0..).zip(&self.sites) {
            let [x, y, z] = site.position.map(f64::from);
            let along = [x + y + z, x + y - z, x - y + z, x - y - z];
            for (octant, along) in along.into_iter().chain(along.map(|x| -x)).enumerate() {
                if along > farthest[octant].0 {
                    farthest[octant] = (along, v);
                }
            }
        }
        let mut corners = farthest.map(|(_, v)| v).to_vec();
        corners.sort_unstable();
        corners.dedup();
        corners
    }
}
