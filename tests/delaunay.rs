//! Is the triangulation Delaunay, are the neighbours those of the Voronoi diagram, and does it survive any input?

use candle_radfoam::Error;
use candle_radfoam::geometry::{
    Adjacency, Delaunay, Repair, hilbert_order, nearest_brute, nearest_cell, nearest_neighbor_distances, sentinels,
};
use candle_radfoam::rng::{Rng, Stream};
use std::collections::BTreeSet;

type Points = Vec<[f32; 3]>;

const SENTINEL_RADIUS: f32 = 8.0;

fn random(seed: u64) -> Rng {
    Rng::new(seed, Stream::Synthetic, 0)
}

fn uniform(n: u32, seed: u64) -> Points {
    let rng = random(seed);
    (0..n).map(|i| rng.uniform4(i)).map(|[x, y, z, _]| [x, y, z]).collect()
}

/// Half of the points on a noisy sphere, half in blobs of very different sizes.
fn clustered(n: u32, seed: u64) -> Points {
    let rng = random(seed);
    let blob = |i: u32| (random(seed + 1).direction(i % 50), 0.01 * 30f32.powf((i % 50) as f32 / 50.0));
    (0..n)
        .map(|i| {
            let [x, y, z, w] = rng.normal4(i);
            let direction = rng.direction(i + n);
            let (center, size) = blob(i);
            if i % 2 == 0 {
                direction.map(|u| u * (1.0 + 0.005 * w))
            } else {
                [center[0] + size * x, center[1] + size * y, center[2] + size * z]
            }
        })
        .collect()
}

/// As in a capture: a surface, a ground plane, blobs, and 20 % background at 3 to 1000 times the scene.
fn scene(n: u32, seed: u64) -> Points {
    let rng = random(seed);
    (0..n)
        .map(|i| {
            let ([x, y, z, w], [u, v, ..]) = (rng.normal4(i), rng.uniform4(i + n));
            let direction = rng.direction(i + 2 * n);
            match i % 10 {
                0..4 => [direction[0], 0.5 * direction[1], 0.7 * direction[2]].map(|c| c * (1.0 + 0.002 * w)),
                4..6 => [4.0 * u - 2.0, 4.0 * v - 2.0, -0.7 + 0.002 * z],
                6..8 => {
                    let (center, size) = (random(seed + 1).direction(i % 30), 0.003 + 0.01 * (i % 30) as f32);
                    [center[0] + size * x, center[1] + size * y, center[2] + size * z]
                }
                _ => direction.map(|c| c * 3.0 * 333f32.powf(u)),
            }
        })
        .collect()
}

fn grid(side: u32, spacing: f32) -> Points {
    let at = |i: u32| i as f32 * spacing;
    (0..side.pow(3)).map(|i| [at(i % side), at(i / side % side), at(i / side.pow(2))]).collect()
}

fn with_copies(mut points: Points, fraction: f32, seed: u64) -> Points {
    let (rng, n) = (random(seed), points.len() as u64);
    for i in 0..points.len() {
        if rng.uniform(i as u32) < fraction {
            points[i] = points[rng.below(i as u32 + n as u32, n) as usize];
        }
    }
    points
}

/// Points exactly on a sphere around the origin: all signs and orders of integers with the same sum of squares.
fn cospherical() -> Points {
    let (range, square) = (-29..=29i32, 29i32.pow(2));
    let mut points = Points::new();
    for x in range.clone() {
        for y in range.clone() {
            points
                .extend(range.clone().filter(|z| x * x + y * y + z * z == square).map(|z| [x, y, z].map(|c| c as f32)));
        }
    }
    points
}

/// Small sets that have a triangulation of their own.
fn solid_sets() -> Vec<(&'static str, Points)> {
    let mut half_plane = uniform(150, 4);
    half_plane.iter_mut().step_by(2).for_each(|p| p[2] = 0.5);
    vec![
        ("uniform", uniform(200, 1)),
        ("uniform, another", uniform(57, 11)),
        ("clustered", clustered(200, 2)),
        ("far background", scene(200, 3)),
        ("grid", grid(5, 1.0)),
        ("grid of tenths", grid(5, 0.1)),
        ("copies", with_copies(uniform(200, 5), 0.3, 6)),
        ("grid with copies", with_copies(grid(6, 0.1), 0.3, 7)),
        ("half in a plane", half_plane),
        ("on a sphere", (0..200).map(|i| random(8).direction(i)).collect()),
        ("exactly on a sphere", cospherical()),
        ("exactly on a sphere, and its centre", [cospherical(), vec![[0.0; 3]]].concat()),
        ("four points", vec![[0.0; 3], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
        ("tiny", uniform(100, 9).into_iter().map(|p| p.map(|x| x * 1e-40)).collect()),
        ("huge", uniform(100, 10).into_iter().map(|p| p.map(|x| x * 1e38)).collect()),
    ]
}

/// Small sets in a plane or less.
fn flat_sets() -> Vec<(&'static str, Points)> {
    let line = |t: f32| [0.25 * t, 0.5 * t, -t];
    vec![
        ("nothing", vec![]),
        ("one point", vec![[0.5; 3]]),
        ("three points", uniform(3, 1)),
        ("all equal", vec![[0.25; 3]; 200]),
        ("collinear", (0..200).map(|i| line(i as f32 / 256.0)).collect()),
        ("coplanar", uniform(200, 2).into_iter().map(|[x, y, _]| [x, y, 0.375]).collect()),
        ("coplanar grid", (0..196).map(|i| [(i % 14) as f32, (i / 14) as f32, 2.0]).collect()),
        ("coplanar, slanted", (0..200).map(|i| [(i % 14) as f32, (i / 14) as f32, (i % 14 + i / 14) as f32]).collect()),
    ]
}

fn closed(mut points: Points) -> Points {
    let reach = points.iter().flatten().fold(1.0f32, |reach, x| reach.max(x.abs()));
    points.extend(sentinels([0.0; 3], SENTINEL_RADIUS * reach.min(1e36)));
    points
}

/// All sets, flat ones only with sentinels; "huge" has no room for them.
fn small_sets() -> Vec<(String, Points)> {
    let bare = solid_sets().into_iter().map(|(name, points)| (name.to_string(), points));
    let sets = solid_sets().into_iter().chain(flat_sets()).filter(|(name, _)| *name != "huge");
    bare.chain(sets.map(|(name, points)| (format!("{name}, with sentinels"), closed(points)))).collect()
}

fn report(failures: Vec<String>) {
    assert!(failures.is_empty(), "{} failure(s):\n{}", failures.len(), failures.join("\n"));
}

/// Edges `(i, j)`, `i < j`, of which the face between the Voronoi cells has an area, by clipping the bisector of every
/// pair by all others; faces smaller than `tolerance` (relative to the square of the pair's distance) are left out.
fn voronoi_faces(points: &Points, tolerance: f64) -> BTreeSet<(u32, u32)> {
    let points: Vec<[f64; 3]> = points.iter().map(|p| p.map(f64::from)).collect();
    let dot = |a: [f64; 3], b: [f64; 3]| a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
    let minus = |a: [f64; 3], b: [f64; 3]| [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
    let cross =
        |a: [f64; 3], b: [f64; 3]| [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
    let mut faces = BTreeSet::new();
    for i in 0..points.len() {
        for j in i + 1..points.len() {
            // In units of the distance between the two, the first at the origin.
            let length = dot(minus(points[j], points[i]), minus(points[j], points[i])).sqrt();
            if length == 0.0 {
                continue;
            }
            let local = |k: usize| minus(points[k], points[i]).map(|x| x / length);
            let normal = local(j);
            let axis = if normal[0].abs() < 0.6 { [1.0, 0.0, 0.0] } else { [0.0, 1.0, 0.0] };
            let u = cross(normal, axis);
            let u = u.map(|x| x / dot(u, u).sqrt());
            let v = cross(normal, u);
            // The bisector is normal / 2 + s u + t v.
            const FAR: f64 = 1e4;
            let mut polygon = vec![[-FAR, -FAR], [FAR, -FAR], [FAR, FAR], [-FAR, FAR]];
            for k in (0..points.len()).filter(|&k| k != i && k != j) {
                let q = local(k);
                if dot(q, q) == 0.0 || q == normal {
                    continue;
                }
                // |x|^2 <= |x - q|^2 on the bisector.
                let slack = |[s, t]: [f64; 2]| (dot(q, q) - dot(normal, q)) / 2.0 - s * dot(u, q) - t * dot(v, q);
                let mut clipped = Vec::with_capacity(polygon.len() + 1);
                for (n, &a) in polygon.iter().enumerate() {
                    let b = polygon[(n + 1) % polygon.len()];
                    let (at_a, at_b) = (slack(a), slack(b));
                    if at_a >= 0.0 {
                        clipped.push(a);
                    }
                    if (at_a > 0.0 && at_b < 0.0) || (at_a < 0.0 && at_b > 0.0) {
                        let f = at_a / (at_a - at_b);
                        clipped.push([a[0] + f * (b[0] - a[0]), a[1] + f * (b[1] - a[1])]);
                    }
                }
                polygon = clipped;
                if polygon.len() < 3 {
                    break;
                }
            }
            let area: f64 = (1..polygon.len().saturating_sub(1))
                .map(|n| {
                    let [a, b, c] = [polygon[0], polygon[n], polygon[n + 1]];
                    (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
                })
                .sum::<f64>()
                / 2.0;
            if area.abs() > tolerance {
                faces.insert((i as u32, j as u32));
            }
        }
    }
    faces
}

fn edges(adjacency: &Adjacency) -> BTreeSet<(u32, u32)> {
    let cells = 0..adjacency.num_points() as u32;
    cells.flat_map(|i| adjacency.neighbors_of(i).iter().map(move |&j| (i, j))).collect()
}

/// The lowest index at each point's place.
fn originals(points: &Points) -> Vec<u32> {
    points.iter().map(|p| points.iter().position(|q| q == p).unwrap() as u32).collect()
}

#[test]
fn certificate_and_spheres_by_brute_force() {
    let mut failures = Vec::new();
    for (name, points) in small_sets() {
        let delaunay = Delaunay::new(&points).unwrap_or_else(|error| panic!("{name}: {error}"));
        let coord = |i: u32| {
            let [x, y, z] = points[i as usize].map(f64::from);
            robust::Coord3D { x, y, z }
        };
        match delaunay.certify() {
            Err(error) => failures.push(format!("{name}: {error}")),
            Ok(certificate) => {
                let distinct = originals(&points).iter().collect::<BTreeSet<_>>().len();
                if certificate.num_vertices != distinct {
                    failures.push(format!("{name}: {certificate:?}, but {distinct} distinct points"));
                }
            }
        }
        for t in delaunay.tetrahedra() {
            let [a, b, c, d] = t.map(coord);
            let inside = (0..points.len() as u32).find(|&q| robust::insphere(a, b, c, d, coord(q)) > 0.0);
            if robust::orient3d(a, b, c, d) <= 0.0 || inside.is_some() {
                failures.push(format!("{name}: tetrahedron {t:?} holds {inside:?}"));
            }
        }
    }
    report(failures);
}

#[test]
fn every_face_with_area_is_there() {
    /// Well above the rounding of the clipping, relative to the pair's distance.
    const TOLERANCE: f64 = 1e-7;
    let mut failures = Vec::new();
    for (name, points) in small_sets() {
        let found = edges(&Adjacency::build(&points).unwrap());
        let originals = originals(&points);
        let original = |i: u32| originals[i as usize];
        for (i, j) in voronoi_faces(&points, TOLERANCE) {
            if original(i) == i && original(j) == j && !found.contains(&(i, j)) {
                failures.push(format!("{name}: the face between {i} and {j} is missing"));
            }
        }
    }
    report(failures);
}

/// In general position the neighbours are those and no others. Faces with a sentinel may lie beyond the clipping.
#[test]
fn no_face_too_many() {
    let mut failures = Vec::new();
    for (name, points) in [("uniform", uniform(200, 1)), ("clustered", clustered(200, 2)), ("scene", scene(200, 3))] {
        let n = points.len() as u32;
        let points = closed(points);
        let found = edges(&Adjacency::build(&points).unwrap());
        let faces = voronoi_faces(&points, 0.0);
        for &(i, j) in found.iter().filter(|&&(i, j)| i < j && j < n) {
            if !faces.contains(&(i, j)) {
                failures.push(format!("{name}: there is no face between {i} and {j}"));
            }
        }
    }
    report(failures);
}

#[test]
fn rows_are_symmetric_and_copies_follow_their_original() {
    let mut failures = Vec::new();
    let mut sets = small_sets();
    sets.push(("5000 with copies".into(), closed(with_copies(clustered(5000, 12), 0.3, 13))));
    for (name, points) in sets {
        let n = points.len();
        let adjacency = Adjacency::build(&points).unwrap();
        let originals = originals(&points);
        assert_eq!((adjacency.offsets.len(), adjacency.offsets[0]), (n + 1, 0), "{name}");
        assert_eq!(adjacency.offsets[n] as usize, adjacency.neighbors.len(), "{name}");
        assert!(adjacency.offsets.is_sorted(), "{name}");
        for i in 0..n as u32 {
            let row = adjacency.neighbors_of(i);
            let original = originals[i as usize];
            if row.len() < 3 || !row.windows(2).all(|w| w[0] < w[1]) || row[row.len() - 1] as usize >= n {
                failures.push(format!("{name}: the row of {i} is {row:?}"));
            } else if row != adjacency.neighbors_of(original) {
                failures.push(format!("{name}: {i} has other neighbours than its original {original}"));
            }
            for &j in row {
                if originals[j as usize] != j || j == i || points[j as usize] == points[i as usize] {
                    failures.push(format!("{name}: {i} lists {j}, a copy"));
                } else if adjacency.neighbors_of(j).binary_search(&original).is_err() {
                    failures.push(format!("{name}: {j} does not list {original} back"));
                }
            }
        }
    }
    report(failures);
}

#[test]
fn large_sets_are_certified() {
    let sets = [
        ("uniform", uniform(20_000, 1)),
        ("clustered", clustered(20_000, 2)),
        ("scene", scene(20_000, 3)),
        ("grid", grid(18, 0.1)),
        ("copies", with_copies(scene(20_000, 4), 0.3, 5)),
        ("plane", uniform(5000, 6).into_iter().map(|[x, y, _]| [x, y, 0.3]).collect()),
    ];
    for (name, points) in sets {
        let certificate = Delaunay::new(&closed(points)).and_then(|delaunay| delaunay.certify());
        // Every edge of a convex polyhedron of triangles: 2 V - 4 of them, V = 8.
        assert_eq!(certificate.as_ref().map(|c| c.num_hull_facets).ok(), Some(12), "{name}: {certificate:?}");
    }
}

#[test]
fn what_cannot_be_triangulated_is_an_error() {
    for (name, points) in flat_sets() {
        let error = Delaunay::new(&points).err();
        assert!(matches!(error, Some(Error::Geometry(_))), "{name}: {error:?}");
    }
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut points = uniform(100, 1);
        points[70][0] = bad;
        points[31][2] = bad;
        let message = Adjacency::build(&points).unwrap_err().to_string();
        assert!(message.contains("point 31 "), "{message}");
    }
}

#[test]
fn nearest_cell_agrees_with_looking_at_all() {
    let mut failures = Vec::new();
    for (name, points) in [
        ("uniform", uniform(3000, 1)),
        ("clustered", clustered(3000, 2)),
        ("scene", scene(3000, 3)),
        ("grid", grid(12, 0.125)),
        ("copies", with_copies(grid(12, 0.125), 0.3, 4)),
        ("all equal", vec![[0.25; 3]; 50]),
    ] {
        let points = closed(points);
        let n = points.len() as u64;
        let adjacency = Adjacency::build(&points).unwrap();
        let rng = random(20);
        for i in 0..2000u32 {
            let [x, y, z, w] = rng.uniform4(2 * i);
            let query = match i % 3 {
                0 => [x, y, z].map(|c| 4.0 * c - 2.0),
                // Near a point, and on the lines halfway between grid points: ties.
                1 => points[rng.below(2 * i + 1, n) as usize].map(|c| c * (1.0 + 0.01 * (w - 0.5))),
                _ => [x, y, z].map(|c| (16.0 * c).floor() / 16.0),
            };
            let hint = rng.below(2 * i + 1, n) as u32;
            let (found, expected) = (nearest_cell(&points, &adjacency, query, hint), nearest_brute(&points, query));
            if found != expected {
                failures.push(format!("{name}: {query:?} from {hint}: {found}, expected {expected}"));
            }
        }
    }
    report(failures);
}

#[test]
fn nearest_cell_takes_odd_arguments() {
    let points = closed(uniform(100, 1));
    let adjacency = Adjacency::build(&points).unwrap();
    assert_eq!(nearest_cell(&points, &adjacency, points[17], u32::MAX), 17);
    assert_eq!(nearest_cell(&points, &adjacency, [f32::NAN; 3], 5), 5);
    assert_eq!(nearest_cell(&points[..50], &adjacency, points[17], 0), 17);
    assert_eq!(nearest_cell::<3>(&[], &adjacency, [0.0; 3], 0), 0);
    assert!(adjacency.neighbors_of(u32::MAX).is_empty());
    assert!(adjacency.neighbors_of(108).is_empty());
}

#[test]
fn nearest_neighbor_distances_are_right() {
    let points = closed(with_copies(clustered(1500, 1), 0.3, 2));
    let found = nearest_neighbor_distances(&points, &Adjacency::build(&points).unwrap());
    for (i, p) in points.iter().enumerate() {
        let distance = |q: &[f32; 3]| (0..3).map(|k| (f64::from(p[k]) - f64::from(q[k])).powi(2)).sum::<f64>();
        let expected = points.iter().map(distance).filter(|&d| d > 0.0).fold(f64::INFINITY, f64::min).sqrt();
        assert!((f64::from(found[i]) - expected).abs() <= 1e-6 * expected, "{i}: {}, expected {expected}", found[i]);
    }
}

/// A triangulation depends on the places of the points alone, ties included: not on the order in which they come, and
/// not on the number of threads. The grid is all ties; the larger sets are large enough to be built in parts.
#[test]
fn one_set_has_one_triangulation() {
    let mut failures = Vec::new();
    for (name, points) in [
        ("scene with copies", closed(with_copies(scene(60_000, 1), 0.1, 2))),
        ("grid", grid(20, 0.1)),
        ("plane", closed(uniform(10_000, 6).into_iter().map(|[x, y, _]| [x, y, 0.3]).collect())),
    ] {
        let on = |num_threads, points: &Points| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(num_threads).build().unwrap();
            pool.install(|| {
                let delaunay = Delaunay::new(points).unwrap();
                (hilbert_order(points), delaunay.tetrahedra(), Adjacency::from_delaunay(&delaunay).unwrap())
            })
        };
        let expected = on(1, &points);
        for num_threads in [2, 3, 8] {
            if on(num_threads, &points) != expected {
                failures.push(format!("{name}: {num_threads} threads give something else"));
            }
        }
        // Backwards, so that point i is n - 1 - i; of copies another one is then the original.
        let n = points.len() as u32;
        let backwards: Points = points.iter().rev().copied().collect();
        let adjacency = on(2, &backwards).2;
        let place = |i: u32| points[i as usize].map(f32::to_bits);
        for i in 0..n {
            let rows = [(i, &expected.2, false), (n - 1 - i, &adjacency, true)];
            let [here, there] = rows.map(|(cell, adjacency, turned)| {
                let neighbors = adjacency.neighbors_of(cell).iter();
                neighbors.map(|&j| place(if turned { n - 1 - j } else { j })).collect::<BTreeSet<_>>()
            });
            if here != there {
                failures.push(format!("{name}: {i} has other neighbours in another order"));
            }
        }
    }
    report(failures);
}

/// Every point but the sentinels moved by a Gaussian of `share` times the distance to its nearest neighbour.
fn moved(points: &Points, share: f32, seed: u64) -> Points {
    let spacing = nearest_neighbor_distances(points, &Adjacency::build(points).unwrap());
    let (rng, n) = (random(seed), points.len() - 8);
    let mut moved = points.clone();
    for (i, point) in moved[..n].iter_mut().enumerate() {
        let step = rng.normal4(i as u32);
        for k in 0..3 {
            point[k] += share * spacing[i] * step[k];
        }
    }
    moved
}

/// The repaired triangulation is the rebuilt one, tetrahedron for tetrahedron, on and on.
#[test]
fn repair_ends_where_a_rebuild_does() {
    let mut failures = Vec::new();
    let mut num_repaired = 0;
    let sets = [
        ("uniform", uniform(20_000, 1)),
        ("clustered", clustered(20_000, 2)),
        ("scene", scene(20_000, 3)),
        // All ties to begin with, and few of them left afterwards.
        ("grid", grid(16, 0.1)),
        ("copies", with_copies(scene(2000, 4), 0.3, 5)),
    ];
    for (name, points) in sets {
        let mut points = closed(points);
        let mut delaunay = Delaunay::new(&points).unwrap();
        let mut adjacency = Adjacency::from_delaunay(&delaunay).unwrap();
        for (step, share) in [0.0, 0.001, 0.01, 0.01, 0.1, 0.001].into_iter().enumerate() {
            points = moved(&points, share, 10 + step as u64);
            let repair = delaunay.follow_with(&points, &mut adjacency).unwrap();
            num_repaired += usize::from(repair != Repair::Rebuilt);
            let expected = Delaunay::new(&points).unwrap();
            if let Err(error) = delaunay.certify() {
                failures.push(format!("{name} by {share}: {repair:?}: {error}"));
            }
            if delaunay.tetrahedra() != expected.tetrahedra() {
                failures.push(format!("{name} by {share}: {repair:?}: not what a rebuild gives"));
            }
            if adjacency != Adjacency::from_delaunay(&expected).unwrap() {
                failures.push(format!("{name} by {share}: {repair:?}: not the neighbours that a rebuild gives"));
            }
            if step < 4 && name != "grid" && name != "copies" && repair == Repair::Rebuilt {
                failures.push(format!("{name} by {share}: rebuilt"));
            }
        }
    }
    assert!(num_repaired > 12, "only {num_repaired} repairs");
    report(failures);
}

#[test]
fn points_can_be_added_and_removed() {
    let mut failures = Vec::new();
    let mut repairs = Vec::new();
    for (name, points) in [
        ("uniform", closed(uniform(5000, 1))),
        ("scene", closed(scene(5000, 2))),
        ("grid", closed(grid(12, 0.1))),
        ("open grid", grid(12, 0.1)),
        ("copies", closed(with_copies(uniform(1000, 3), 0.3, 4))),
    ] {
        let rng = random(30);
        let n = points.len();
        let mut delaunay = Delaunay::new(&points).unwrap();
        let removed: Vec<u32> = (0..n as u32 - 8).filter(|&i| rng.uniform(i) < 0.01).collect();
        repairs.push((name, delaunay.remove(&removed).unwrap()));
        let mut left: Points = points.clone();
        let mut index = 0;
        left.retain(|_| {
            index += 1;
            !removed.contains(&(index - 1))
        });
        // Among them places that are taken, and one that comes twice.
        for added in [uniform(500, 31), vec![[0.5, 0.25, 0.125]; 2], left[..3].to_vec()] {
            let expected = Delaunay::new(&left).unwrap();
            if delaunay.tetrahedra() != expected.tetrahedra() || delaunay.copies() != expected.copies() {
                failures.push(format!("{name}: {} points: not what a rebuild gives", left.len()));
            }
            if let Err(error) = delaunay.certify() {
                failures.push(format!("{name}: {} points: {error}", left.len()));
            }
            repairs.push((name, delaunay.insert(&added).unwrap()));
            left.extend(added);
        }
        assert_eq!(delaunay.tetrahedra(), Delaunay::new(&left).unwrap().tetrahedra(), "{name}");
    }
    let num_repaired = repairs.iter().filter(|(_, repair)| *repair != Repair::Rebuilt).count();
    assert!(num_repaired >= 7, "{repairs:?}");
    report(failures);
}

#[test]
fn repair_takes_odd_arguments() {
    let points = closed(uniform(100, 1));
    let mut delaunay = Delaunay::new(&points).unwrap();
    let before = delaunay.tetrahedra();
    assert!(delaunay.follow(&points[..50]).is_err());
    let mut bad = points.clone();
    bad[9][1] = f32::NAN;
    assert!(delaunay.follow(&bad).unwrap_err().to_string().contains("point 9 "));
    assert!(delaunay.insert(&[[f32::INFINITY; 3]]).unwrap_err().to_string().contains("point 108 "));
    delaunay.remove(&[5000, u32::MAX]).unwrap();
    delaunay.insert(&[]).unwrap();
    assert_eq!(delaunay.tetrahedra(), before);
    // Two points become one, and part again. Neighbours that are no lists of these points are made anew.
    let mut together = points.clone();
    together[3] = together[4];
    let mut adjacency = Adjacency { offsets: vec![0; 109], neighbors: vec![7] };
    delaunay.follow_with(&together, &mut adjacency).unwrap();
    assert_eq!(delaunay.copies(), [(4, 3)]);
    assert_eq!(adjacency, Adjacency::build(&together).unwrap());
    delaunay.follow_with(&points, &mut adjacency).unwrap();
    assert_eq!(delaunay.tetrahedra(), before);
    assert_eq!(adjacency, Adjacency::build(&points).unwrap());
}
