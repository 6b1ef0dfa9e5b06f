//! Rays through a foam, forward and backward.

use candle_core::{DType, Device, Tensor, Var};
use candle_radfoam::ops::fused::{self, Faces, Rays};
use candle_radfoam::ops::{RayGradient, TraceInputs, TraceSettings, trace_rays};

use crate::common::{Scene, exact};
use crate::kernels::{self, Launch, launches};
use crate::{Failures, bits};

const NONE: u32 = u32::MAX;
/// Kinds of mistakes that a check tells.
const NUM_MISTAKES: usize = 10;

/// A scene in f32, and what the kernels make of it.
struct Foam {
    name: String,
    points: Vec<f32>,
    density: Vec<f32>,
    sh: Vec<f32>,
    num_coefficients: usize,
    offsets: Vec<u32>,
    neighbors: Vec<u32>,
    origins: Vec<f32>,
    directions: Vec<f32>,
    start_cells: Vec<u32>,
    quantiles: Vec<f32>,
    num_quantiles: usize,
    settings: TraceSettings,
}

struct Seen {
    packed: Vec<f32>,
    end_transmittance: Vec<f32>,
    reached_density: Vec<f32>,
    cells_entered: Vec<u32>,
    contribution: Vec<f32>,
    max_weights: Vec<u32>,
}

struct Gradients {
    points: Vec<f32>,
    density: Vec<f32>,
    sh: Vec<f32>,
}

impl Gradients {
    fn parts(&self) -> [(&'static str, &[f32]); 3] {
        [("points", &self.points), ("density", &self.density), ("sh", &self.sh)]
    }
}

impl Foam {
    fn new(scene: &Scene, settings: TraceSettings) -> Self {
        let narrow = |values: &[f64]| -> Vec<f32> { values.iter().map(|&v| v as f32).collect() };
        let num_quantiles = scene.quantiles.len();
        let num_rays = scene.origins.len();
        Self {
            name: scene.name.clone(),
            points: narrow(scene.points.as_flattened()),
            density: narrow(&scene.density),
            sh: narrow(&scene.sh),
            num_coefficients: scene.num_coefficients,
            offsets: scene.adjacency.offsets.clone(),
            neighbors: scene.adjacency.neighbors.clone(),
            origins: narrow(scene.origins.as_flattened()),
            directions: narrow(scene.directions.as_flattened()),
            start_cells: scene.start_cells(),
            quantiles: narrow(&scene.quantiles).repeat(num_rays),
            num_quantiles,
            settings,
        }
    }

    fn num_cells(&self) -> usize {
        self.density.len()
    }

    fn num_rays(&self) -> usize {
        self.start_cells.len()
    }

    fn width(&self) -> usize {
        4 + self.num_quantiles
    }

    fn quantiles(&self) -> Option<&[f32]> {
        (self.num_quantiles > 0).then_some(&self.quantiles[..])
    }

    fn faces(&self, launch: impl Fn(usize) -> Launch) -> (Vec<[f32; 4]>, Vec<[f32; 4]>) {
        let num = self.num_cells();
        let (mut sites, mut faces) = (vec![[f32::NAN; 4]; num], vec![[f32::NAN; 4]; self.neighbors.len()]);
        let mut first = [NONE; NUM_MISTAKES];
        kernels::trace_faces_f32(
            &launch(num),
            &self.points,
            &self.density,
            &self.offsets,
            &self.neighbors,
            num as u64,
            &mut sites,
            &mut faces,
            &mut first,
        );
        assert_eq!(first, [NONE; NUM_MISTAKES]);
        (sites, faces)
    }

    fn forward(&self, launch: impl Fn(usize) -> Launch) -> Seen {
        let (num_rays, num_cells) = (self.num_rays(), self.num_cells());
        let (sites, faces) = self.faces(&launch);
        let mut sums = vec![0; num_cells];
        let mut seen = Seen {
            packed: vec![f32::NAN; num_rays * self.width()],
            end_transmittance: vec![f32::NAN; num_rays],
            reached_density: vec![f32::NAN; num_rays * self.num_quantiles],
            cells_entered: vec![NONE; num_rays],
            contribution: vec![f32::NAN; num_cells],
            max_weights: vec![0; num_cells],
        };
        let Seen { packed, end_transmittance, reached_density, cells_entered, contribution, max_weights } = &mut seen;
        kernels::trace_forward_f32(
            &launch(num_rays),
            &sites,
            &faces,
            &self.offsets,
            &self.sh,
            &self.origins,
            &self.directions,
            &self.start_cells,
            self.quantiles(),
            num_rays as u64,
            self.num_coefficients as u32,
            self.num_quantiles as u32,
            self.settings.transmittance_threshold as f32,
            self.settings.density_threshold as f32,
            self.settings.max_cells,
            packed,
            end_transmittance,
            reached_density,
            cells_entered,
            Some(&mut sums[..]),
            Some(&mut max_weights[..]),
        );
        kernels::trace_contribution_f32(&launch(num_cells), &sums, num_cells as u64, contribution);
        seen
    }

    fn backward(&self, seen: &Seen, grad: &[f32], launch: impl Fn(usize) -> Launch) -> Gradients {
        let (num_rays, num_cells, num_sh) = (self.num_rays(), self.num_cells(), self.sh.len());
        let (sites, faces) = self.faces(&launch);
        let mut largest = [0];
        kernels::trace_largest_f32(&launch(grad.len()), grad, grad.len() as u64, &mut largest);
        let (mut points, mut density, mut sh) = (vec![0; 6 * num_cells], vec![0; 2 * num_cells], vec![0; num_sh]);
        let mut flags = vec![0; num_cells];
        kernels::trace_backward_f32(
            &launch(num_rays),
            &sites,
            &faces,
            &self.offsets,
            &self.sh,
            &self.origins,
            &self.directions,
            &self.start_cells,
            self.quantiles(),
            num_rays as u64,
            self.num_coefficients as u32,
            self.num_quantiles as u32,
            self.settings.transmittance_threshold as f32,
            self.settings.density_threshold as f32,
            self.settings.grazing_cosine as f32,
            self.settings.max_cells,
            &seen.packed,
            &seen.end_transmittance,
            &seen.reached_density,
            grad,
            &largest,
            &mut points,
            &mut density,
            &mut sh,
            &mut flags,
        );
        let mut gradients = Gradients {
            points: vec![f32::MAX; 3 * num_cells],
            density: vec![f32::MAX; num_cells],
            sh: vec![f32::MAX; num_sh],
        };
        kernels::trace_gradients_f32(
            &launch(num_cells),
            &points,
            &density,
            &sh,
            &flags,
            &largest,
            num_cells as u64,
            num_rays as u64,
            self.num_coefficients as u32,
            &mut gradients.points,
            &mut gradients.density,
            &mut gradients.sh,
        );
        gradients
    }

    /// What the op has on the CPU, in f32 or f64: outputs, and gradients of `sum(grad * outputs)`.
    fn on_cpu(&self, grad: &[f32], dtype: DType) -> (Seen, Gradients) {
        let d = &Device::Cpu;
        let (num_rays, num_cells, q) = (self.num_rays(), self.num_cells(), self.num_quantiles);
        let float =
            |values: &[f32], shape: &[usize]| Tensor::from_slice(values, shape, d).unwrap().to_dtype(dtype).unwrap();
        let inputs = TraceInputs {
            origins: float(&self.origins, &[num_rays, 3]),
            directions: float(&self.directions, &[num_rays, 3]),
            start_cells: crate::tensor(&self.start_cells),
            offsets: crate::tensor(&self.offsets),
            neighbors: crate::tensor(&self.neighbors),
            quantiles: (q > 0).then(|| float(&self.quantiles, &[num_rays, q])),
        };
        let var = |values: &[f32], shape: &[usize]| Var::from_tensor(&float(values, shape)).unwrap();
        let points = var(&self.points, &[num_cells, 3]);
        let density = var(&self.density, &[num_cells]);
        let sh = var(&self.sh, &[num_cells, self.num_coefficients, 3]);
        let traced = trace_rays(&points, &density, &sh, &inputs, &self.settings).unwrap();
        let flat =
            |t: &Tensor| -> Vec<f32> { t.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap() };
        let mut parts = vec![traced.rgb.clone(), traced.opacity.unsqueeze(1).unwrap()];
        parts.extend(traced.depth.clone());
        let packed = Tensor::cat(&parts, 1).unwrap();
        let loss = (&packed * float(grad, &[num_rays, self.width()])).unwrap().sum_all().unwrap();
        let grads = loss.backward().unwrap();
        let of = |var: &Var| flat(grads.get(var).unwrap());
        let seen = Seen {
            packed: flat(&packed),
            end_transmittance: Vec::new(),
            reached_density: Vec::new(),
            cells_entered: traced.cells_entered.to_vec1().unwrap(),
            contribution: flat(&traced.contribution),
            max_weights: Vec::new(),
        };
        (seen, Gradients { points: of(&points), density: of(&density), sh: of(&sh) })
    }

    /// Output gradients around zero, of magnitude `scale`.
    fn grad(&self, scale: f32) -> Vec<f32> {
        let rng = crate::rng(77);
        (0..(self.num_rays() * self.width()) as u32).map(|k| scale * (2.0 * rng.uniform(k) - 1.0)).collect()
    }
}

/// Foams of every degree, of few and of many cells, on a lattice where faces tie, cut short, seen from inside.
fn foams() -> Vec<Foam> {
    let mut foams: Vec<Foam> = (0..4)
        .map(|degree| {
            let scene = Scene::random(&format!("degree {degree}"), 200 + degree, degree, 257, degree as u64);
            Foam::new(&scene, TraceSettings::default())
        })
        .collect();
    let lattice = (0..125).map(|i| [i % 5, i / 5 % 5, i / 25].map(|x| 0.5 * x as f32 - 1.0)).collect();
    let mut scene = Scene::new("lattice", lattice, 1, 100, 5);
    // Along the axes and through the corners of cells.
    for (i, (origin, direction)) in scene.origins.iter_mut().zip(&mut scene.directions).enumerate().take(50) {
        *origin = [-2.5, 0.25 * (i % 7) as f64 - 0.75, 0.25 * (i / 7) as f64 - 0.75];
        *direction = [1.0, 0.0, 0.0];
    }
    foams.push(Foam::new(&scene, exact()));
    let mut scene = Scene::random("from inside, without quantiles", 60, 1, 33, 6);
    scene.quantiles.clear();
    scene.origins.iter_mut().for_each(|origin| *origin = origin.map(|x| 0.2 * x));
    foams.push(Foam::new(&scene, TraceSettings { grazing_cosine: 0.1, ..exact() }));
    let mut scene = Scene::random("one ray, opaque", 30, 2, 1, 7);
    scene.density.iter_mut().for_each(|density| *density *= 100.0);
    foams.push(Foam::new(&scene, TraceSettings::default()));
    let mut scene = Scene::random("empty", 30, 0, 40, 8);
    scene.density.fill(0.0);
    foams.push(Foam::new(&scene, TraceSettings::default()));
    let scene = Scene::random("cut short", 300, 1, 64, 9);
    foams.push(Foam::new(&scene, TraceSettings { max_cells: 5, ..TraceSettings::default() }));
    foams
}

/// Of equal libraries for exp and log, as here, the forward pass has the bits of the CPU.
#[test]
fn forward_has_the_bits_of_the_cpu() {
    let mut failures = Failures::default();
    for foam in foams() {
        let (expected, _) = foam.on_cpu(&foam.grad(1.0), DType::F32);
        for order in 0..6 {
            let seen = foam.forward(|num| launches(num).nth(order).unwrap());
            let what = format!("{}, order {order}", foam.name);
            failures.equal(format!("{what}: outputs"), &bits(&seen.packed), &bits(&expected.packed));
            failures.equal(format!("{what}: cells"), &seen.cells_entered, &expected.cells_entered);
            // The CPU rounds its sum in f32 at every ray; here each ray is rounded to 2^-32.
            let tolerance = foam.num_rays() as f32 * f32::EPSILON;
            for (cell, (found, expected)) in seen.contribution.iter().zip(&expected.contribution).enumerate() {
                if (found - expected).abs() > tolerance * expected + 1e-9 * foam.num_rays() as f32 {
                    failures.0.push(format!("{what}: contribution of cell {cell} {found}, expected {expected}"));
                }
            }
        }
    }
}

/// What the trainer's pass on the CPU keeps of every cell.
#[test]
fn largest_weights_have_the_bits_of_the_cpu() {
    let mut failures = Failures::default();
    for foam in foams() {
        let num_cells = foam.num_cells();
        let mut faces = Faces::new(&foam.offsets, &foam.neighbors);
        faces.refresh(&foam.points, &foam.density, &[]);
        let scene = fused::Scene { faces: &faces, sh: &foam.sh, num_coefficients: foam.num_coefficients };
        let rays = Rays {
            origins: &foam.origins,
            directions: &foam.directions,
            start_cells: &foam.start_cells,
            quantiles: &foam.quantiles,
            num_quantiles: foam.num_quantiles,
        };
        let none = |_: usize, _: &[f32]| RayGradient { rgb: [0.0; 3], opacity: 0.0, depth: &[], depth_scale: 0.0 };
        let mut workspace = fused::Workspace::default();
        let (outputs, _) = fused::forward_backward(&scene, &rays, &foam.settings, num_cells, &mut workspace, none);
        for order in 0..6 {
            let seen = foam.forward(|num| launches(num).nth(order).unwrap());
            failures.equal(format!("{}, order {order}", foam.name), &seen.max_weights, &bits(&outputs.weights));
        }
    }
}

/// The same bits in every order of threads, and no farther from the gradient in f64 than what an f32 pass may be.
#[test]
fn backward_is_deterministic_and_right() {
    /// Of the largest gradient of its kind. What is behind a cell is a difference of two colours of about 1, each
    /// rounded to 6e-8 some hundred times; the CPU's own f32 pass is off by as much.
    const TOLERANCE: f32 = 2e-5;
    let mut failures = Failures::default();
    for foam in foams() {
        for scale in [1.0, 1e-30, 1e25] {
            let grad = foam.grad(scale);
            let (_, exact) = foam.on_cpu(&grad, DType::F64);
            let (_, on_cpu) = foam.on_cpu(&grad, DType::F32);
            let mut first: Option<Gradients> = None;
            for order in if scale == 1.0 { 0..6 } else { 0..1 } {
                let launch = |num: usize| launches(num).nth(order).unwrap();
                let found = foam.backward(&foam.forward(launch), &grad, launch);
                let what = format!("{}, scale {scale}, order {order}", foam.name);
                if let Some(first) = &first {
                    for ((part, found), (_, first)) in found.parts().into_iter().zip(first.parts()) {
                        failures.equal(format!("{what}: {part} by order"), &bits(found), &bits(first));
                    }
                    continue;
                }
                for (i, (part, found)) in found.parts().into_iter().enumerate() {
                    let (expected, on_cpu) = (exact.parts()[i].1, on_cpu.parts()[i].1);
                    let most = expected.iter().fold(0.0f32, |most, g| most.max(g.abs()));
                    let off = |values: &[f32]| {
                        values.iter().zip(expected).fold(0.0f32, |off, (a, b)| {
                            let difference = (a - b).abs();
                            if difference.is_nan() { f32::INFINITY } else { off.max(difference) }
                        }) / most.max(f32::MIN_POSITIVE)
                    };
                    println!("{what}: {part} off by {:.1e}, the CPU in f32 by {:.1e}", off(found), off(on_cpu));
                    if off(found) > TOLERANCE.max(4.0 * off(on_cpu)) {
                        failures.0.push(format!("{what}: {part} off by {:.1e} of {most:.1e}", off(found)));
                    }
                }
                first = Some(found);
            }
        }
    }
}

/// What is not finite in a gradient is so on either side, in the same cells, and takes nothing from the others.
#[test]
fn nothing_that_is_not_finite_is_swallowed() {
    /// Of the largest finite gradient of its kind, between two passes in f32.
    const TOLERANCE: f32 = 1e-4;
    let mut failures = Failures::default();
    for foam in foams().into_iter().take(5) {
        for bad in [f32::NAN, f32::INFINITY] {
            for output in 0..foam.width() {
                let mut grad = foam.grad(1.0);
                grad[output + foam.width() * (foam.num_rays() / 2)] = bad;
                let (_, expected) = foam.on_cpu(&grad, DType::F32);
                let launch = |num: usize| launches(num).nth(3).unwrap();
                let found = foam.backward(&foam.forward(launch), &grad, launch);
                let what = format!("{}, {bad} in output {output}", foam.name);
                for (i, (part, found)) in found.parts().into_iter().enumerate() {
                    let (row, expected) = (found.len() / foam.num_cells(), expected.parts()[i].1);
                    // A part of a cell as a whole.
                    let bad = |values: &[f32]| -> Vec<bool> {
                        values.chunks(row).map(|row| row.iter().any(|g| !g.is_finite())).collect()
                    };
                    failures.equal(format!("{what}: {part}"), &bad(found), &bad(expected));
                    let rows = found.chunks(row).zip(expected.chunks(row)).zip(bad(expected));
                    let finite = rows.filter(|(_, bad)| !bad).flat_map(|((a, b), _)| a.iter().zip(b));
                    let (off, most) = finite
                        .fold((0.0f32, 0.0f32), |(off, most), (a, b)| (off.max((a - b).abs()), most.max(b.abs())));
                    if off > TOLERANCE * most || most == 0.0 {
                        failures.0.push(format!("{what}: {part} of other cells off by {off:.1e} of {most:.1e}"));
                    }
                }
            }
        }
    }
}

/// Breaks one of the inputs.
type Break = fn(&mut Foam);

#[test]
fn checks_find_the_first_of_each_mistake() {
    let breaks: [(usize, u32, Break); 15] = [
        (0, 0, |foam| foam.offsets[0] = 1),
        (0, 7, |foam| foam.offsets[7] = 0),
        (0, 208, |foam| *foam.offsets.last_mut().unwrap() += 1),
        (1, 40, |foam| foam.neighbors[40] = foam.density.len() as u32),
        (2, 256, |foam| foam.start_cells[256] = foam.density.len() as u32),
        (3, 3, |foam| foam.density[3] = -1e-9),
        (3, 207, |foam| foam.density[207] = f32::INFINITY),
        (4, 33, |foam| foam.points[100] = f32::NAN),
        (5, 1, |foam| foam.origins[5] = f32::INFINITY),
        (6, 2, |foam| foam.directions[6] = f32::NAN),
        (7, 31, |foam| foam.directions[93..96].iter_mut().for_each(|x| *x *= 1.002)),
        (8, 9, |foam| foam.quantiles[18] = 1.0),
        (8, 9, |foam| foam.quantiles[18] = 0.3),
        (8, 10, |foam| foam.quantiles[20] = f32::NAN),
        (NUM_MISTAKES, 0, |_| ()),
    ];
    let mut failures = Failures::default();
    for (case, (what, at, break_it)) in breaks.into_iter().enumerate() {
        let mut foam = Foam::new(&Scene::random("", 200, 0, 257, 1), TraceSettings::default());
        break_it(&mut foam);
        let mut expected = [NONE; NUM_MISTAKES];
        if let Some(first) = expected.get_mut(what) {
            *first = at;
        }
        let (num_cells, num_edges, num_rays) = (foam.num_cells(), foam.neighbors.len(), foam.num_rays());
        for launch in launches((num_cells + 1).max(num_edges).max(num_rays)) {
            let mut first = [NONE; NUM_MISTAKES];
            kernels::trace_check_f32(
                &launch,
                &foam.points,
                &foam.density,
                &foam.offsets,
                &foam.neighbors,
                &foam.origins,
                &foam.directions,
                &foam.start_cells,
                foam.quantiles(),
                num_cells as u64,
                num_edges as u64,
                num_rays as u64,
                foam.num_quantiles as u32,
                &mut first,
            );
            // An offset too small is the end of a descent and makes the next one no ascent: the first counts.
            failures.equal(format!("case {case}, {launch:?}"), &first, &expected);
        }
    }
}
