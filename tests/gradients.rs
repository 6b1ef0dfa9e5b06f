//! Is the backward pass right? Central differences in f64 for every differentiable input of `trace_rays`, with the
//! adjacency held fixed and nothing cut off; then scenes made to be nasty.

mod common;

use candle_core::{Device, Result, Tensor, Var};
use candle_radfoam::ops::{TraceSettings, trace_rays};
use common::{Random, Scene, exact, normalize};

/// A step of 1e-6 leaves an error of 1e-12 from curvature and of 1e-16 / 1e-6 from rounding, both far below the
/// tolerance, for functions whose values and derivatives are of the order of one.
const STEP: f64 = 1e-6;
const RELATIVE: f64 = 2e-5;

/// A loss that weighs every output of every ray differently.
fn loss(scene: &Scene, parameters: &[Tensor; 3], start_cells: &[u32], settings: &TraceSettings) -> Result<Tensor> {
    let [points, density, sh] = parameters;
    let traced = trace_rays(points, density, sh, &scene.inputs(start_cells)?, settings)?;
    let weights = |shape: &[usize], seed| {
        let mut random = Random::new(seed);
        let count = shape.iter().product();
        Tensor::from_vec((0..count).map(|_| random.uniform() + 0.5).collect::<Vec<_>>(), shape, &Device::Cpu)
    };
    let mut loss = (traced.rgb.sqr()? * weights(traced.rgb.dims(), 1)?)?.sum_all()?;
    loss = (loss + (&traced.opacity * weights(traced.opacity.dims(), 2)?)?.sum_all()?)?;
    if let Some(depth) = &traced.depth {
        loss = (loss + (depth * weights(depth.dims(), 3)?)?.sum_all()?)?;
    }
    Ok(loss)
}

/// Compares all gradients of `scene` with central differences; returns what disagrees.
///
/// Where the function has a corner (a ray's origin on a face, a colour that is clamped, a quantile that a face
/// crosses), central differences do not measure a derivative: there the gradient has to be one of the two one-sided
/// ones, or these have to differ grossly. The number of such entries is bounded, so that nothing hides behind it.
fn check(scene: &Scene, settings: &TraceSettings) -> Result<Vec<String>> {
    let start_cells = scene.start_cells();
    let base = scene.parameters()?;
    let vars = base.iter().map(Var::from_tensor).collect::<Result<Vec<_>>>()?;
    let tracked = [0, 1, 2].map(|i| vars[i].as_tensor().clone());
    let gradients = loss(scene, &tracked, &start_cells, settings)?.backward()?;
    let value = |which: usize, entry: usize, delta: f64| -> Result<f64> {
        let mut parameters = base.clone();
        let mut values = base[which].flatten_all()?.to_vec1::<f64>()?;
        values[entry] += delta;
        parameters[which] = Tensor::from_vec(values, base[which].dims(), &Device::Cpu)?;
        loss(scene, &parameters, &start_cells, settings)?.to_scalar::<f64>()
    };
    let center = value(0, 0, 0.0)?;
    let mut failures = Vec::new();
    let (mut checked, mut corners) = (0, 0);
    for (which, name) in ["points", "density", "sh"].into_iter().enumerate() {
        let gradient = gradients.get(&vars[which]).expect("a gradient").flatten_all()?.to_vec1::<f64>()?;
        let scale = gradient.iter().fold(0.0f64, |a, g| a.max(g.abs()));
        if scale == 0.0 {
            failures.push(format!("{}: the gradient of {name} is zero", scene.name));
        }
        // Every entry of a small parameter, every few of a large one.
        let stride = (gradient.len() / 250).max(1);
        for entry in (0..gradient.len()).step_by(stride) {
            // A density of zero has no left side.
            if which == 1 && scene.density[entry] < STEP {
                continue;
            }
            let (right, left) = (value(which, entry, STEP)?, value(which, entry, -STEP)?);
            let numerical = (right - left) / (2.0 * STEP);
            let tolerance = RELATIVE * (numerical.abs() + gradient[entry].abs()) + 1e-7 * scale.max(1.0);
            checked += 1;
            if (numerical - gradient[entry]).abs() <= tolerance {
                continue;
            }
            let sides = [(right - center) / STEP, (center - left) / STEP];
            let on_a_side = sides.iter().any(|side| (side - gradient[entry]).abs() <= 2.0 * tolerance);
            if on_a_side || (sides[0] - sides[1]).abs() > 100.0 * tolerance {
                corners += 1;
                continue;
            }
            failures.push(format!(
                "{}: {name}[{entry}]: {} by backward, {numerical} by differences, tolerance {tolerance:.1e}",
                scene.name, gradient[entry]
            ));
        }
    }
    if corners * 20 > checked {
        failures.push(format!("{}: {corners} of {checked} entries lie at corners", scene.name));
    }
    Ok(failures)
}

fn check_all(scenes: &[Scene], settings: &TraceSettings) -> Result<()> {
    let mut failures = Vec::new();
    for scene in scenes {
        failures.extend(check(scene, settings)?);
    }
    assert!(failures.is_empty(), "{} disagree:\n{}", failures.len(), failures.join("\n"));
    Ok(())
}

#[test]
fn random_scenes() -> Result<()> {
    check_all(
        &[
            Scene::random("degree 0", 30, 0, 20, 1),
            Scene::random("degree 1", 60, 1, 20, 2),
            Scene::random("degree 2", 40, 2, 10, 3),
            Scene::random("degree 3", 40, 3, 10, 4),
        ],
        &exact(),
    )
}

#[test]
fn opaque_and_empty_cells() -> Result<()> {
    let mut opaque = Scene::random("opaque", 50, 1, 20, 5);
    let mut mixed = Scene::random("opaque and empty", 80, 1, 20, 6);
    let mut fog = Scene::random("thin fog", 50, 1, 20, 7);
    let mut clamped = Scene::random("clamped colours", 50, 1, 20, 8);
    let real = |scene: &Scene| scene.points.len() - 8;
    for i in 0..real(&opaque) {
        opaque.density[i] *= 20.0;
    }
    for i in 0..real(&mixed) {
        mixed.density[i] *= [0.0, 30.0, 1.0][i % 3];
    }
    for i in 0..real(&fog) {
        fog.density[i] *= 1e-4;
    }
    for value in &mut clamped.sh {
        *value *= 6.0;
    }
    check_all(&[opaque, mixed, fog, clamped], &exact())
}

#[test]
fn nasty_geometry() -> Result<()> {
    let mut random = Random::new(11);
    let mut cloud = |n: usize, half: f64, center: [f64; 3]| -> Vec<[f32; 3]> {
        (0..n)
            .map(|_| {
                let p = random.within(half);
                [0, 1, 2].map(|axis| (center[axis] + p[axis]) as f32)
            })
            .collect()
    };
    // Tiny cells in a ball of 0.01 beside huge ones.
    let mut points = cloud(40, 0.01, [0.1, 0.0, 0.0]);
    points.extend(cloud(20, 1.5, [0.0; 3]));
    let mut sizes = Scene::new("tiny and huge cells", points, 1, 16, 12);
    for (i, direction) in sizes.directions.iter_mut().enumerate().take(8) {
        *direction = normalize([0, 1, 2].map(|axis| [0.1, 0.0, 0.0][axis] - sizes.origins[i][axis]));
    }

    // A lattice, pushed off its symmetry a little: rays nearly inside its faces.
    let mut lattice = Vec::new();
    for i in 0..64 {
        let jitter = cloud(1, 0.02, [0.0; 3])[0];
        lattice.push([0, 1, 2].map(|axis| 0.5 * (i / [1, 4, 16][axis] % 4) as f32 - 0.75 + jitter[axis]));
    }
    let mut grazing = Scene::new("grazing rays", lattice, 1, 16, 13);
    for (i, (origin, direction)) in grazing.origins.iter_mut().zip(&mut grazing.directions).enumerate() {
        let tilt = 1e-3 * (i as f64 - 7.5);
        *origin = [-2.0, 0.013 * i as f64 - 0.1, 0.007 * i as f64 - 0.05];
        *direction = normalize([1.0, tilt, -0.7 * tilt]);
    }

    // Origins on the face between two sites, and inside cells of density.
    let mut on_face = Scene::random("origin on a face", 60, 1, 16, 14);
    for ray in 0..on_face.origins.len() {
        let neighbor = on_face.adjacency.neighbors[on_face.adjacency.offsets[ray] as usize] as usize;
        on_face.origins[ray] = [0, 1, 2].map(|axis| 0.5 * (on_face.points[ray][axis] + on_face.points[neighbor][axis]));
    }
    check_all(&[sizes, grazing, on_face], &exact())
}

/// With a threshold the function that is differentiated is the truncated one: the gradients still agree.
#[test]
fn truncated_walks() -> Result<()> {
    let settings = TraceSettings { transmittance_threshold: 0.05, max_cells: 12, ..exact() };
    check_all(&[Scene::random("truncated", 120, 1, 20, 21)], &settings)
}

/// A limit on the cosine changes the gradient of points at grazed faces, and nothing else.
#[test]
fn grazing_limit_leaves_the_rest_alone() -> Result<()> {
    let scene = Scene::random("limit", 60, 1, 30, 31);
    let start_cells = scene.start_cells();
    let gradients = |settings: &TraceSettings| -> Result<Vec<Vec<f64>>> {
        let vars = scene.parameters()?.iter().map(Var::from_tensor).collect::<Result<Vec<_>>>()?;
        let tracked = [0, 1, 2].map(|i| vars[i].as_tensor().clone());
        let store = loss(&scene, &tracked, &start_cells, settings)?.backward()?;
        vars.iter().map(|v| store.get(v).expect("a gradient").flatten_all()?.to_vec1()).collect()
    };
    let (free, limited) = (gradients(&exact())?, gradients(&TraceSettings { grazing_cosine: 0.3, ..exact() })?);
    let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
    assert!(norm(&limited[0]) < norm(&free[0]), "the limit did not shorten the gradient of the points");
    assert!(free[1] == limited[1] && free[2] == limited[2], "the limit changed densities or colours");
    Ok(())
}
