//! Is the forward pass right? Closed forms, and brute force that knows nothing of the walk.

mod common;

use candle_core::{DType, Device, Result, Tensor};
use candle_radfoam::ops::{TraceInputs, TraceSettings, trace_rays};
use candle_radfoam::sh;
use common::{Scene, exact};

/// Sites on the x axis, at 0, 1, .. : cell `i` reaches from i - 0.5 to i + 0.5.
fn row_of_cells(density: &[f64], colors: &[[f64; 3]]) -> Result<(Tensor, Tensor, Tensor, TraceInputs)> {
    let (d, n) = (&Device::Cpu, density.len());
    let points: Vec<f64> = (0..n).flat_map(|i| [i as f64, 0.0, 0.0]).collect();
    let sh: Vec<f64> = colors.iter().flatten().map(|c| (c - 0.5) / sh::Y0).collect();
    let (mut offsets, mut neighbors) = (vec![0u32], Vec::new());
    for i in 0..n as u32 {
        neighbors.extend((i > 0).then(|| i - 1));
        neighbors.extend((i + 1 < n as u32).then_some(i + 1));
        offsets.push(neighbors.len() as u32);
    }
    let inputs = TraceInputs {
        origins: Tensor::new(&[[0f64, 0.0, 0.0]], d)?,
        directions: Tensor::new(&[[1f64, 0.0, 0.0]], d)?,
        start_cells: Tensor::new(&[0u32], d)?,
        offsets: Tensor::from_vec(offsets, n + 1, d)?,
        neighbors: Tensor::from_vec(neighbors.clone(), neighbors.len(), d)?,
        quantiles: Some(Tensor::new(&[[0.9f64, 0.5, 1e-6]], d)?),
    };
    Ok((Tensor::from_vec(points, (n, 3), d)?, Tensor::new(density, d)?, Tensor::from_vec(sh, (n, 1, 3), d)?, inputs))
}

#[test]
fn two_cells_in_closed_form() -> Result<()> {
    let (a, b) = ([0.9, 0.2, 0.4], [0.1, 0.7, 0.3]);
    let (points, density, sh, inputs) = row_of_cells(&[0.0, 0.7, 2.0, 0.0], &[[0.0; 3], a, b, [1.0; 3]])?;
    let traced = trace_rays(&points, &density, &sh, &inputs, &exact())?;
    let (t1, t2) = ((-0.7f64).exp(), (-2.0f64).exp());
    let rgb = traced.rgb.to_vec2::<f64>()?;
    for c in 0..3 {
        let expected = (1.0 - t1) * a[c] + t1 * (1.0 - t2) * b[c];
        assert!((rgb[0][c] - expected).abs() < 1e-14, "channel {c}: {} for {expected}", rgb[0][c]);
    }
    assert!((traced.opacity.to_vec1::<f64>()?[0] - (1.0 - t1 * t2)).abs() < 1e-14);
    let depth = traced.depth.expect("asked for").to_vec2::<f64>()?;
    // 0.9 is reached in the first cell, 0.5 is just not (e^-0.7 = 0.4966 is), 1e-6 never is.
    assert!((depth[0][0] - (0.5 - 0.9f64.ln() / 0.7)).abs() < 1e-14, "{depth:?}");
    assert!((depth[0][1] - (0.5 - 0.5f64.ln() / 0.7)).abs() < 1e-14, "{depth:?}");
    assert_eq!(depth[0][2], -1.0);
    let contribution = traced.contribution.to_vec1::<f64>()?;
    let expected = [0.0, 1.0 - t1, t1 * (1.0 - t2), 0.0];
    assert!(contribution.iter().zip(expected).all(|(x, y)| (x - y).abs() < 1e-14), "{contribution:?}");
    assert_eq!(traced.cells_entered.to_vec1::<u32>()?, [4]);
    Ok(())
}

/// Below zero a colour is black, above one it is not clamped; an empty foam shows nothing.
#[test]
fn clamps_and_empty_cells() -> Result<()> {
    let (points, density, sh, inputs) = row_of_cells(&[0.0, 50.0, 0.0], &[[0.0; 3], [-3.0, 2.0, 0.25], [0.0; 3]])?;
    let rgb = trace_rays(&points, &density, &sh, &inputs, &exact())?.rgb.to_vec2::<f64>()?;
    assert!(rgb[0][0] == 0.0 && (rgb[0][1] - 2.0).abs() < 1e-12, "{rgb:?}");
    let empty = trace_rays(&points, &density.zeros_like()?, &sh, &inputs, &exact())?;
    assert_eq!(empty.opacity.to_vec1::<f64>()?, [0.0]);
    assert_eq!(empty.rgb.to_vec2::<f64>()?, [[0.0; 3]]);
    Ok(())
}

#[test]
fn walk_ends_where_it_is_told_to() -> Result<()> {
    let (points, density, sh, inputs) = row_of_cells(&[1.0; 30], &[[0.5; 3]; 30])?;
    let ends = |settings| -> Result<u32> {
        Ok(trace_rays(&points, &density, &sh, &inputs, &settings)?.cells_entered.to_vec1::<u32>()?[0])
    };
    // Transmittance e^-(n - 0.5) after n cells falls below 1e-3 in the eighth.
    assert_eq!(ends(TraceSettings { transmittance_threshold: 1e-3, ..exact() })?, 8);
    assert_eq!(ends(TraceSettings { max_cells: 5, ..exact() })?, 5);
    assert_eq!(ends(exact())?, 30);
    Ok(())
}

/// The transmittance after a number of steps that need not be whole.
fn at_depth(transmittances: &[f64], steps: f64) -> f64 {
    let k = (steps as usize).min(transmittances.len() - 2);
    let (near, far) = (transmittances[k], transmittances[k + 1]);
    near + (far - near) * (steps - k as f64)
}

/// The nearest site at many t, composited by small steps: no faces, no neighbours, no walk.
#[test]
fn agrees_with_brute_force() -> Result<()> {
    const STEPS: usize = 60_000;
    /// Beyond the sentinels, whose cells bound the outermost real ones.
    const FAR: f64 = 40.0;
    let scenes = [
        Scene::random("few", 20, 0, 12, 1),
        Scene::random("many", 400, 1, 12, 2),
        Scene::random("degree 3", 100, 3, 12, 3),
    ];
    let mut failures = Vec::new();
    for scene in scenes {
        let traced = scene.trace(&exact())?;
        let (rgb, opacity) = (traced.rgb.to_vec2::<f64>()?, traced.opacity.to_vec1::<f64>()?);
        let depth = traced.depth.expect("asked for").to_vec2::<f64>()?;
        for ray in 0..scene.origins.len() {
            let basis = sh::basis(scene.directions[ray], scene.num_coefficients);
            let (mut transmittance, mut color) = (1.0f64, [0.0; 3]);
            let mut transmittances = vec![1.0];
            let step = FAR / STEPS as f64;
            for k in 0..STEPS {
                let t = (k as f64 + 0.5) * step;
                let x = [0, 1, 2].map(|axis| scene.origins[ray][axis] + t * scene.directions[ray][axis]);
                let distance = |p: &[f64; 3]| (0..3).map(|axis| (p[axis] - x[axis]).powi(2)).sum::<f64>();
                let (cell, _) = scene
                    .points
                    .iter()
                    .enumerate()
                    .min_by(|a, b| distance(a.1).total_cmp(&distance(b.1)))
                    .expect("points");
                let alpha = 1.0 - (-scene.density[cell] * step).exp();
                let row = &scene.sh[cell * 3 * scene.num_coefficients..][..3 * scene.num_coefficients];
                for c in 0..3 {
                    let sum: f64 = (0..scene.num_coefficients).map(|m| basis[m] * row[3 * m + c]).sum();
                    color[c] += transmittance * alpha * (0.5 + sum).max(0.0);
                }
                transmittance *= 1.0 - alpha;
                transmittances.push(transmittance);
            }
            // The brute force misplaces each face by up to half a step, and there are fewer than 100 on a ray; the
            // errors have either sign and mostly cancel.
            let tolerance = 5.0 * step;
            for c in 0..3 {
                if (color[c] - rgb[ray][c]).abs() > tolerance {
                    failures.push(format!("{} ray {ray} rgb[{c}]: {} for {}", scene.name, rgb[ray][c], color[c]));
                }
            }
            if (1.0 - transmittance - opacity[ray]).abs() > tolerance {
                failures.push(format!(
                    "{} ray {ray} opacity: {} for {}",
                    scene.name,
                    opacity[ray],
                    1.0 - transmittance
                ));
            }
            for (&found, &q) in depth[ray].iter().zip(&scene.quantiles) {
                // Not depth against depth: where little is absorbed, a depth is far less certain than what is left
                // of the light there.
                let left = if found < 0.0 { transmittance } else { at_depth(&transmittances, found / step) };
                let agrees = if found < 0.0 { left > q - tolerance } else { (left - q).abs() < tolerance };
                if !agrees {
                    failures.push(format!("{} ray {ray} depth {found} of {q}: {left} is left there", scene.name));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

/// f32, through its vector code, agrees with f64 up to rounding; and any number of threads gives the same bits.
#[test]
fn precision_and_threads() -> Result<()> {
    let scene = Scene::random("threads", 500, 1, 1000, 7);
    let double = scene.trace(&exact())?.rgb.flatten_all()?.to_vec1::<f64>()?;
    let single = |threads: usize| -> Result<(Vec<f32>, Vec<Vec<f32>>)> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("pool");
        pool.install(|| {
            let vars: Vec<candle_core::Var> = scene
                .parameters()?
                .iter()
                .map(|t| candle_core::Var::from_tensor(&t.to_dtype(DType::F32)?))
                .collect::<Result<_>>()?;
            let mut inputs = scene.inputs(&scene.start_cells())?;
            inputs.origins = inputs.origins.to_dtype(DType::F32)?;
            inputs.directions = inputs.directions.to_dtype(DType::F32)?;
            inputs.quantiles = None;
            let traced = trace_rays(&vars[0], &vars[1], &vars[2], &inputs, &exact())?;
            let gradients = (traced.rgb.sqr()?.sum_all()? + traced.opacity.sum_all()?)?.backward()?;
            let gradients = vars
                .iter()
                .map(|v| gradients.get(v).expect("a gradient").flatten_all()?.to_vec1())
                .collect::<Result<_>>()?;
            Ok((traced.rgb.flatten_all()?.to_vec1()?, gradients))
        })
    };
    let (one, grad_one) = single(1)?;
    let worst = one.iter().zip(&double).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
    // About 30 cells a ray, each with a face distance good to a few 1e-6 of the scene.
    assert!(worst < 1e-4, "f32 differs from f64 by {worst}");
    for threads in [2, 5] {
        let (many, grad_many) = single(threads)?;
        assert!(one == many, "rgb differs between 1 and {threads} threads");
        assert!(grad_one == grad_many, "gradients differ between 1 and {threads} threads");
    }
    Ok(())
}

#[test]
fn bad_input_is_refused_by_name() -> Result<()> {
    let (points, density, sh, inputs) = row_of_cells(&[0.0, 1.0, 0.0], &[[0.5; 3]; 3])?;
    let d = &Device::Cpu;
    let settings = TraceSettings::default();
    let mut cases: Vec<(&str, candle_core::Result<_>)> = vec![
        ("points", trace_rays(&points.narrow(1, 0, 2)?, &density, &sh, &inputs, &settings)),
        ("density", trace_rays(&points, &density.narrow(0, 0, 2)?, &sh, &inputs, &settings)),
        ("density", trace_rays(&points, &Tensor::new(&[0.0, -1.0, 0.0], d)?, &sh, &inputs, &settings)),
        ("density", trace_rays(&points, &Tensor::new(&[0.0, f64::NAN, 0.0], d)?, &sh, &inputs, &settings)),
        ("density", trace_rays(&points, &density.to_dtype(DType::F32)?, &sh, &inputs, &settings)),
        ("sh", trace_rays(&points, &density, &Tensor::zeros((3, 2, 3), DType::F64, d)?, &inputs, &settings)),
    ];
    let changed = |change: &dyn Fn(&mut TraceInputs)| {
        let mut inputs = inputs.clone();
        change(&mut inputs);
        trace_rays(&points, &density, &sh, &inputs, &settings)
    };
    let u32s = |values: &[u32]| Tensor::from_slice(values, values.len(), d).expect("tensor");
    cases.push(("start_cells", changed(&|i| i.start_cells = u32s(&[3]))));
    cases.push(("neighbors", changed(&|i| i.neighbors = u32s(&[1, 0, 9, 1]))));
    cases.push(("offsets", changed(&|i| i.offsets = u32s(&[0, 3, 1, 4]))));
    cases.push(("offsets", changed(&|i| i.offsets = u32s(&[0, 4]))));
    cases.push(("quantiles", changed(&|i| i.quantiles = Some(Tensor::new(&[[0.2f64, 0.8]], d).expect("tensor")))));
    let nan = Tensor::new(&[[0.0, f64::NAN, 0.0]], d)?;
    cases.push(("directions", changed(&|i| i.directions = nan.clone())));
    let long = Tensor::new(&[[1.01, 0.0, 0.0]], d)?;
    cases.push(("directions: expected unit length, found 1.01 at ray 0", changed(&|i| i.directions = long.clone())));
    cases.push(("start_cells", changed(&|i| i.start_cells = Tensor::new(&[[0u32]], d).expect("tensor"))));
    cases.push(("start_cells", changed(&|i| i.start_cells = Tensor::new(&[0i64], d).expect("tensor"))));
    cases.push(("offsets", changed(&|i| i.offsets = i.offsets.to_dtype(DType::I64).expect("tensor"))));
    cases.push(("neighbors", changed(&|i| i.neighbors = i.neighbors.unsqueeze(0).expect("tensor"))));
    cases.push(("points", trace_rays(&points.flatten_all()?, &density, &sh, &inputs, &settings)));
    cases.push(("points", trace_rays(&points.to_dtype(DType::U32)?, &density, &sh, &inputs, &settings)));
    cases.push(("points", trace_rays(&(&points * 1e200)?, &density, &sh, &inputs, &settings)));
    cases.push(("max_cells", trace_rays(&points, &density, &sh, &inputs, &TraceSettings { max_cells: 0, ..exact() })));
    cases.push(("origins", changed(&|i| i.origins = Tensor::zeros((2, 3), DType::F64, d).expect("tensor"))));
    for (name, result) in cases {
        match result {
            Ok(_) => panic!("bad {name} was accepted"),
            Err(error) => assert!(error.to_string().contains(name), "{name} is not named in: {error}"),
        }
    }
    Ok(())
}

/// What one batch leaves in the accumulators must not be seen by the next: not of a batch whose gradients are NaN, nor
/// after the cells have become fewer.
#[test]
fn a_workspace_is_as_good_as_new() {
    use candle_radfoam::ops::RayGradient;
    use candle_radfoam::ops::fused::{Faces, Rays, Scene, Workspace, forward_backward};

    // Cells in a row, the last a sentinel without a gradient; more rays than one tile a lane.
    let run = |num_real: u32, factor: f32, workspace: &mut Workspace<f32>| {
        const NUM_RAYS: usize = 5_000;
        let num_sites = num_real + 1;
        let neighbors: Vec<Vec<u32>> = (0..num_sites)
            .map(|i| [i.wrapping_sub(1), i + 1].into_iter().filter(|&j| j < num_sites).collect())
            .collect();
        let mut offsets = vec![0];
        offsets.extend(neighbors.iter().scan(0, |sum, list| {
            *sum += list.len() as u32;
            Some(*sum)
        }));
        let mut faces = Faces::new(&offsets, &neighbors.concat());
        let points: Vec<f32> = (0..num_real).flat_map(|i| [i as f32, 0.1 * (i % 3) as f32, 0.0]).collect();
        faces.refresh(&points, &vec![0.3; num_real as usize], &[[num_real as f32, 0.0, 0.0]]);
        let origins: Vec<f32> = (0..NUM_RAYS).flat_map(|ray| [-0.2, 1e-5 * ray as f32, 0.01]).collect();
        let rays = Rays {
            origins: &origins,
            directions: &[1.0, 0.0, 0.0].repeat(NUM_RAYS),
            start_cells: &[0; NUM_RAYS],
            quantiles: &[],
            num_quantiles: 0,
        };
        let sh: Vec<f32> = (0..3 * num_real).map(|i| 0.1 * (i % 5) as f32).collect();
        let scene = Scene { faces: &faces, sh: &sh, num_coefficients: 1 };
        let loss = |_: usize, out: &[f32]| RayGradient {
            rgb: [factor * out[0], factor, -factor],
            opacity: factor,
            depth: &[],
            depth_scale: 0.0,
        };
        let (outputs, gradients) = forward_backward(&scene, &rays, &exact(), num_real as usize, workspace, loss);
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let all = [&gradients.points, &gradients.density, &gradients.sh, &outputs.weights].map(|v| bits(v));
        assert!(all.iter().all(|values| values.iter().any(|&x| x != 0)));
        all
    };
    let mut used = Workspace::default();
    for (num_real, factor) in [(300, 1.0), (300, 1.0), (300, f32::NAN), (300, 0.5), (64, 1.0), (300, 1.0)] {
        let again = run(num_real, factor, &mut used);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("pool");
        let fresh = pool.install(|| run(num_real, factor, &mut Workspace::default()));
        assert!(again == fresh, "{num_real} cells, factor {factor}");
    }
}
