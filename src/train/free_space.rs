//! The space around cameras and before them, which is empty: whoever took the pictures was there.

use super::Trainer;
use super::cells::position_f32;
use crate::camera::Camera;
use crate::data::Dataset;
use crate::rng::{Rng, Stream};
use rayon::prelude::*;

/// Places that a step looks at. How many cells hold them is what a step costs; Adam does not mind how many there are.
const NUM_SAMPLES: u32 = 1024;
/// Cameras between which places lie, for each camera: itself and those beside it.
const NUM_BESIDE: usize = 4;
/// Points of a cloud that a camera has to see for their distances to count.
const MIN_POINTS: usize = 20;
/// Of the points that a camera sees, the share that may be nearer than where its scene begins: wrong matches.
const STRAY: f64 = 0.02;
/// Points of a cloud that are looked at, at most.
const MAX_POINTS: usize = 20_000;
/// How far places lie around a camera, in lengths of the free space before it. A test view may be the end of a path, as
/// far from the last training camera as that one from the last but one.
const AROUND: f32 = 0.7;

/// The training cameras, by the space before them.
#[derive(Debug, Default)]
pub(super) struct FreeSpace {
    /// The distance at which the scene begins, in the order of the views.
    begin: Vec<f32>,
    /// Those beside each camera, itself among them; none where nothing is known to be free.
    beside: Vec<Vec<u32>>,
}

impl FreeSpace {
    /// Measures the space before each training camera, if `is_used`.
    pub(super) fn new(dataset: &Dataset, is_used: bool) -> Self {
        if !is_used {
            return Self::default();
        }
        let cloud = dataset.point_cloud.as_ref().map_or(&[][..], |cloud| &cloud.points);
        let cameras: Vec<&Camera> = dataset.train.iter().map(|view| &view.camera).collect();
        let begin: Vec<f32> = cameras.par_iter().map(|camera| begin_of_scene(camera, cloud, dataset.extent)).collect();
        let beside = |i: usize| {
            let away = |j: usize| {
                distance(&cameras[i].world_from_camera.position, &cameras[j].world_from_camera.position) as f32
            };
            // Further off something might stand between them.
            let is_near = |&(away, j): &(f32, usize)| away <= 0.5 * begin[i].min(begin[j]);
            let mut near: Vec<_> = (0..cameras.len()).map(|j| (away(j), j)).filter(is_near).collect();
            near.sort_by(|(a, i), (b, j)| a.total_cmp(b).then(i.cmp(j)));
            near.into_iter().filter(|_| begin[i] > 0.0).map(|(_, j)| j as u32).take(NUM_BESIDE).collect()
        };
        Self { beside: (0..cameras.len()).into_par_iter().map(beside).collect(), begin }
    }

    /// Places of the free space, that reaches `reach` of the way to the scene, and a view near each.
    pub(super) fn samples(&self, dataset: &Dataset, seed: u64, step: u64, reach: f32) -> (Vec<u32>, Vec<[f32; 3]>) {
        if self.begin.is_empty() {
            return Default::default();
        }
        let rng = Rng::new(seed, Stream::FreeSpace, step);
        (0..NUM_SAMPLES).filter_map(|index| self.sample(dataset, &rng, index, reach)).unzip()
    }

    fn sample(&self, dataset: &Dataset, rng: &Rng, index: u32, reach: f32) -> Option<(u32, [f32; 3])> {
        let [which, other, along, depth] = rng.uniform4(3 * index);
        let [col, row, wide, _] = rng.uniform4(3 * index + 1);
        let pick = |u: f32, num: usize| ((u * num as f32) as usize).min(num.saturating_sub(1));
        let i = pick(which, self.begin.len());
        let beside = &self.beside[i];
        let j = *beside.get(pick(other, beside.len()))? as usize;
        let length = reach * self.begin[i].min(self.begin[j]);
        let around = rng.direction(3 * index + 2).map(|x| AROUND * length * wide.cbrt() * x);
        let ray = |view: usize| {
            let camera = &dataset.train[view].camera;
            let [x, y] = [(col, camera.width), (row, camera.height)].map(|(u, size)| f64::from(u) * f64::from(size));
            let direction = camera.world_from_camera.rotate(camera.direction(x, y)?).map(|x| x as f32);
            Some((position_f32(camera), direction))
        };
        let ((from, d), (to, e)) = (ray(i)?, ray(j)?);
        let between = |a: f32, b: f32| a + along * (b - a);
        let place = |k: usize| between(from[k], to[k]) + around[k] + depth * length * between(d[k], e[k]);
        Some((i as u32, [0, 1, 2].map(place)))
    }
}

/// The distance from a camera to the nearest of the points that it sees; if it sees none, to the region of interest.
fn begin_of_scene(camera: &Camera, cloud: &[[f64; 3]], extent: f64) -> f32 {
    let position = camera.world_from_camera.position;
    let is_seen = |point: &&[f64; 3]| {
        let [width, height] = [camera.width, camera.height].map(f64::from);
        camera.project(**point).is_some_and(|[x, y]| (0.0..width).contains(&x) && (0.0..height).contains(&y))
    };
    let few = cloud.iter().step_by(cloud.len().div_ceil(MAX_POINTS).max(1));
    let mut distances: Vec<f64> = few.filter(is_seen).map(|point| distance(point, &position)).collect();
    if distances.len() < MIN_POINTS {
        return (distance(&[0.0; 3], &position) - extent).max(0.0) as f32;
    }
    let stray = (distances.len() as f64 * STRAY) as usize;
    *distances.select_nth_unstable_by(stray, f64::total_cmp).1 as f32
}

fn distance(p: &[f64; 3], q: &[f64; 3]) -> f64 {
    (0..3).map(|k| (p[k] - q[k]).powi(2)).sum::<f64>().sqrt()
}

impl Trainer {
    /// How many places of the free space each cell holds in this step; none if that is not asked for.
    pub(super) fn free_space_counts(&self) -> Vec<u32> {
        let (views, places) = self.free_space_samples();
        if places.is_empty() {
            return Vec::new();
        }
        let cell_of = |(&view, &place): (&u32, &[f32; 3])| {
            self.foam.topology().cell_at(&self.faces.sites, place, self.built_cells[view as usize])
        };
        let cells: Vec<u32> = views.par_iter().zip(&places).with_min_len(64).map(cell_of).collect();
        let mut counts = vec![0; self.foam.num_cells()];
        for cell in cells {
            // Sentinels are empty as they are.
            if let Some(count) = counts.get_mut(cell as usize) {
                *count += 1;
            }
        }
        counts
    }

    /// The places of this step.
    pub(super) fn free_space_samples(&self) -> (Vec<u32>, Vec<[f32; 3]>) {
        self.free_space.samples(&self.dataset, self.config.seed, self.step, self.config.prior.free_reach)
    }

    /// What each place adds to the gradient of the density of its cell.
    pub(super) fn free_space_gradient(&self) -> f32 {
        self.config.prior.free_space * self.dataset.extent as f32 / NUM_SAMPLES as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::camera::{Lens, Pose};
    use crate::data::{Image, View};
    use crate::exchange::PointCloud;

    /// Cameras in a row at `x`, half a unit apart, that look along z at points three units away.
    fn dataset(points: Vec<[f64; 3]>) -> Dataset {
        let view = |i: usize| {
            let pose = Pose::new(Pose::IDENTITY.rotation, [0.5 * i as f64, 0.0, -5.0]).expect("a pose");
            let camera = Camera {
                width: 8,
                height: 8,
                fx: 8.0,
                fy: 8.0,
                cx: 4.0,
                cy: 4.0,
                lens: Lens::Pinhole,
                world_from_camera: pose,
            };
            View {
                name: format!("{i}"),
                camera,
                image: Image::new(8, 8, 3, vec![0; 192]).expect("an image"),
                mask: None,
            }
        };
        Dataset {
            layout: String::new(),
            train: (0..6).map(view).collect(),
            test: Vec::new(),
            point_cloud: Some(PointCloud { points, ..PointCloud::default() }),
            normalization: Default::default(),
            extent: 1.5,
            skipped: Vec::new(),
            has_alpha: false,
            num_masked: 0,
            num_outside_lens: 0,
            applied_transform: None,
        }
    }

    /// A wall at z = -2, and a wrong match right before the cameras.
    fn wall() -> Vec<[f64; 3]> {
        let on_wall = |i: usize| [(i % 40) as f64 / 8.0 - 1.0, (i / 40) as f64 / 8.0 - 1.0, -2.0];
        let mut points: Vec<[f64; 3]> = (0..640).map(on_wall).collect();
        points.push([1.0, 0.0, -4.9]);
        points
    }

    #[test]
    fn the_scene_begins_at_the_nearest_points_that_are_seen() {
        let begin = FreeSpace::new(&dataset(wall()), true).begin;
        assert!(begin.iter().all(|&begin| (3.0..3.1).contains(&begin)), "{begin:?}");
        // Without points, at the region of interest, a ball of 1.5 around the origin.
        let begin = FreeSpace::new(&dataset(Vec::new()), true).begin;
        assert!((begin[0] - 3.5).abs() < 1e-6, "{begin:?}");
    }

    #[test]
    fn samples_lie_around_and_before_the_cameras() {
        let dataset = dataset(wall());
        let space = FreeSpace::new(&dataset, true);
        let (views, places) = space.samples(&dataset, 3, 11, 0.5);
        assert_eq!((views.len(), places.len()), (1024, 1024));
        assert_eq!((views, places.clone()), space.samples(&dataset, 3, 11, 0.5));
        assert_ne!(places, space.samples(&dataset, 3, 12, 0.5).1);
        assert_ne!(places, space.samples(&dataset, 4, 11, 0.5).1);
        // Half of the way to the wall, and 0.7 times that around.
        for place in &places {
            let ahead = place[2] + 5.0;
            assert!((-1.09..=1.55 + 1.09).contains(&ahead), "{place:?}");
        }
        assert!(places.iter().any(|place| place[2] < -5.5) && places.iter().any(|place| place[0] < -0.5));
        assert_eq!(space.beside[2], [2, 1, 3, 0]);
        let mean = |of: &dyn Fn(&[f32; 3]) -> f32| places.iter().map(of).sum::<f32>() / places.len() as f32;
        assert!((mean(&|place| place[2] + 5.0) - 0.72).abs() < 0.06, "{}", mean(&|place| place[2] + 5.0));
        assert!((mean(&|place| place[0]) - 1.25).abs() < 0.1, "{}", mean(&|place| place[0]));
    }

    #[test]
    fn nothing_is_free_where_the_scene_begins_at_the_cameras() {
        let mut dataset = dataset(Vec::new());
        dataset.extent = 100.0;
        assert!(FreeSpace::new(&dataset, true).samples(&dataset, 0, 0, 0.5).1.is_empty());
        dataset.extent = 1.0;
        assert!(FreeSpace::new(&dataset, false).samples(&dataset, 0, 0, 0.5).1.is_empty());
    }
}
