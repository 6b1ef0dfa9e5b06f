//! The cell that holds a point, and how far apart neighbouring sites are.

use super::adjacency::Adjacency;
use rayon::prelude::*;

/// The cell that holds `query` (world frame): the index of the nearest of `points` (`[P, N]`, position in the first three),
/// the lowest of equals.
///
/// Goes from `hint` to the nearest neighbour for as long as that is nearer than the present site. With exact adjacency
/// that ends in the right cell: while another site is nearer, the segment to the query leaves the present cell
/// through a face, and the site beyond the face is nearer. A good hint (the answer for a point close by) makes it a
/// few steps. Distances are compared in f64.
///
/// With an `adjacency` of another number of points all points are looked at; a neighbour that is no point is passed
/// over. A query that is not finite is in the cell of the hint. A hint that is out of range is taken for the last
/// point; without any point the answer is 0.
pub fn nearest_cell<const N: usize>(points: &[[f32; N]], adjacency: &Adjacency, query: [f32; 3], hint: u32) -> u32 {
    if adjacency.num_points() != points.len() || points.is_empty() {
        return nearest_brute(points, query);
    }
    let mut cell = original_of(points, adjacency, hint.min(points.len() as u32 - 1));
    let mut distance = squared_distance(points[cell as usize], query);
    loop {
        let (mut nearest, mut shortest, mut ties) = (cell, distance, false);
        for &neighbor in adjacency.neighbors_of(cell) {
            let Some(&point) = points.get(neighbor as usize) else { continue };
            let candidate = squared_distance(point, query);
            if candidate < shortest {
                (nearest, shortest, ties) = (neighbor, candidate, false);
            } else if candidate == shortest {
                ties = true;
            }
        }
        if nearest == cell {
            return if ties { lowest_equal(points, adjacency, query, cell) } else { cell };
        }
        (cell, distance) = (nearest, shortest);
    }
}

/// The lowest index among the sites that are as near to `query` as `cell` is. They are connected: their simplices
/// triangulate a polytope.
#[cold]
fn lowest_equal<const N: usize>(points: &[[f32; N]], adjacency: &Adjacency, query: [f32; 3], cell: u32) -> u32 {
    let distance = squared_distance(points[cell as usize], query);
    let mut equals = vec![cell];
    let mut next = 0;
    while let Some(&at) = equals.get(next) {
        for &neighbor in adjacency.neighbors_of(at) {
            let is_equal = points.get(neighbor as usize).is_some_and(|&p| squared_distance(p, query) == distance);
            if is_equal && !equals.contains(&neighbor) {
                equals.push(neighbor);
            }
        }
        next += 1;
    }
    equals.into_iter().min().unwrap_or(cell)
}

/// The point that `cell` is a copy of, or `cell` itself. A copy is missing from its neighbours' lists.
fn original_of<const N: usize>(points: &[[f32; N]], adjacency: &Adjacency, cell: u32) -> u32 {
    let Some(&neighbor) = adjacency.neighbors_of(cell).first() else {
        return cell;
    };
    let around = adjacency.neighbors_of(neighbor);
    if around.binary_search(&cell).is_ok() {
        return cell;
    }
    around.iter().copied().find(|&k| position(points, k) == position(points, cell)).unwrap_or(cell)
}

fn position<const N: usize>(points: &[[f32; N]], cell: u32) -> Option<&[f32]> {
    points.get(cell as usize).map(|point| &point[..3])
}

/// The index of the nearest of `points` (`[P, N]`) to `query`, the lowest of equals, by looking at all of them: what
/// [`nearest_cell`] is tested against, and the way to a first hint. 0 without any point.
pub fn nearest_brute<const N: usize>(points: &[[f32; N]], query: [f32; 3]) -> u32 {
    let mut nearest = (f64::INFINITY, 0);
    for (i, &point) in points.iter().enumerate() {
        let distance = squared_distance(point, query);
        if distance < nearest.0 {
            nearest = (distance, i as u32);
        }
    }
    nearest.1
}

/// The distance from each of `points` (`[P, 3]`) to the nearest other one, copies left out: `[P]`, scene units, > 0.
///
/// The nearest other point is a Delaunay neighbour, so that only neighbours are looked at. Infinite where `adjacency`
/// has no neighbour to look at.
pub fn nearest_neighbor_distances(points: &[[f32; 3]], adjacency: &Adjacency) -> Vec<f32> {
    points
        .par_iter()
        .enumerate()
        .map(|(i, &point)| {
            adjacency
                .neighbors_of(i as u32)
                .iter()
                .filter_map(|&neighbor| points.get(neighbor as usize))
                .map(|&neighbor| squared_distance(neighbor, point))
                .filter(|&distance| distance > 0.0)
                .fold(f64::INFINITY, f64::min)
                .sqrt() as f32
        })
        .collect()
}

fn squared_distance<const N: usize>(a: [f32; N], b: [f32; 3]) -> f64 {
    const { assert!(N >= 3, "a position has three coordinates") };
    let square = |k: usize| (f64::from(a[k]) - f64::from(b[k])).powi(2);
    square(0) + square(1) + square(2)
}
