//! Every op on a CUDA device against its body on the CPU. One program, so that it can be carried to a machine with a
//! GPU by itself (cuda/gpu-check.sh). Without a device the tests say that they skipped; with `REQUIRE_CUDA=1` they fail.
//!
//! `.ci/run` runs it on a driver that simulates the device (cuda/simulate_driver.cpp).

mod common;

#[path = "common/capture.rs"]
mod capture;
#[path = "gpu/strategies.rs"]
mod strategies;
#[path = "gpu/training.rs"]
mod training;

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_radfoam::camera::{Camera, Lens, Pose};
use candle_radfoam::data::{Image, Pixels, View};
use candle_radfoam::ops::{
    AdamSettings, CudaErrorMap, DrawSettings, Duplicates, ErrorMap, ErrorMapSettings, Jitter, ScatterSettings,
    TraceInputs, TraceSettings, Traced, adam_step, choose_device, scatter_ema, trace_rays, weighted_draw,
    weighted_gather, weighted_gather_drawn,
};
use candle_radfoam::rng::{Rng, Stream};
use common::Scene;

/// The device, or none where there is none and none is required.
fn device() -> Option<Device> {
    match Device::new_cuda(0) {
        Ok(device) => Some(device),
        Err(error) if std::env::var("REQUIRE_CUDA").is_ok_and(|required| required == "1") => {
            panic!("REQUIRE_CUDA=1, and there is no CUDA device: {error}")
        }
        Err(error) => {
            println!("skipped: no CUDA device ({error})");
            None
        }
    }
}

fn random(case: u64, num: usize) -> Vec<f32> {
    let rng = Rng::new(5, Stream::Synthetic, case);
    (0..num as u32).map(|k| rng.uniform(k)).collect()
}

/// Indices below `num_entries`: ascending, or as they are drawn.
fn indices(case: u64, num: usize, num_entries: u64, ascending: bool) -> Vec<u32> {
    let rng = Rng::new(6, Stream::Synthetic, case);
    let mut indices: Vec<u32> = (0..num as u32).map(|k| rng.below(k, num_entries) as u32).collect();
    if ascending {
        indices.sort_unstable();
    }
    indices
}

fn floats(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}

#[track_caller]
fn assert_same_bits(what: &str, found: &Tensor, expected: &Tensor) -> Result<()> {
    let bits = |tensor: &Tensor| -> Result<Vec<u32>> { Ok(floats(tensor)?.into_iter().map(f32::to_bits).collect()) };
    let (found, expected) = (bits(found)?, bits(expected)?);
    let at = found.iter().zip(&expected).position(|(a, b)| a != b);
    assert!(found.len() == expected.len() && at.is_none(), "{what}: other bits, first at {at:?}");
    Ok(())
}

#[test]
fn scatter_ema_has_the_bits_of_the_cpu() -> Result<()> {
    let Some(gpu) = device() else { return Ok(()) };
    for (case, num) in [1, 33, 5000].into_iter().enumerate() {
        for ascending in [true, false] {
            for duplicates in [Duplicates::Sequential, Duplicates::Mean] {
                let mut values = random(case as u64, num);
                for (value, bad) in values.iter_mut().step_by(3).zip([f32::NAN, -1.0, -0.0, f32::INFINITY].repeat(9)) {
                    *value = bad;
                }
                let indices = Tensor::new(indices(case as u64, num, 700, ascending), &Device::Cpu)?;
                let values = Tensor::new(values, &Device::Cpu)?;
                // A part of a larger tensor, some of it unvisited.
                let mut entries = random(9, 1000);
                entries.iter_mut().step_by(2).for_each(|entry| *entry = -0.0);
                let on_cpu = Tensor::new(entries.clone(), &Device::Cpu)?;
                let on_gpu = Tensor::new(entries, &gpu)?;
                let settings = ScatterSettings { decay: 0.8, duplicates };
                let expected = scatter_ema(&on_cpu.narrow(0, 100, 700)?, &indices, &values, settings)?;
                let (map, indices, values) =
                    (on_gpu.narrow(0, 100, 700)?, indices.to_device(&gpu)?, values.to_device(&gpu)?);
                let found = scatter_ema(&map, &indices, &values, settings)?;
                let what = format!("{num} values, ascending {ascending}, {duplicates:?}");
                assert_eq!(found, expected, "{what}");
                assert_same_bits(&what, &on_gpu, &on_cpu)?;
            }
        }
    }
    Ok(())
}

#[test]
fn nothing_is_written_for_an_index_outside() -> Result<()> {
    let Some(gpu) = device() else { return Ok(()) };
    let map = Tensor::new(&[1f32, 2.0], &gpu)?;
    let error = scatter_ema(&map, &Tensor::new(&[0u32, 2], &gpu)?, &Tensor::new(&[0f32, 0.0], &gpu)?, 0.5);
    let error = error.expect_err("an index outside").to_string();
    assert!(error.contains("below 2") && error.contains("found 2 at 1"), "{error}");
    assert_eq!(map.to_vec1::<f32>()?, [1.0, 2.0]);
    Ok(())
}

#[test]
fn weighted_gather_has_the_bits_of_the_cpu() -> Result<()> {
    let Some(gpu) = device() else { return Ok(()) };
    for (num, width, ascending) in [(1, 1, true), (300, 3, true), (300, 3, false), (65, 40, false)] {
        let table = Tensor::new(random(1, 50 * width), &Device::Cpu)?.reshape((50, width))?;
        let indices = Tensor::new(indices(2, num, 50, ascending), &Device::Cpu)?;
        let weights = Tensor::new(random(3, num), &Device::Cpu)?;
        let seed = Tensor::new(random(4, num * width), &Device::Cpu)?.reshape((num, width))?;
        let run = |device: &Device| -> Result<[Tensor; 3]> {
            let table = Var::from_tensor(&table.to_device(device)?)?;
            let weights = Var::from_tensor(&weights.to_device(device)?)?;
            let out = weighted_gather(&table, &indices.to_device(device)?, Some(&weights))?;
            let grads = (&out * seed.to_device(device)?)?.sum_all()?.backward()?;
            let of = |var: &Var| grads.get(var).cloned().ok_or(candle_core::Error::Msg("no gradient".into()));
            Ok([out, of(&table)?, of(&weights)?])
        };
        let (found, expected) = (run(&gpu)?, run(&Device::Cpu)?);
        for ((what, found), expected) in ["rows", "table", "weights"].iter().zip(&found).zip(&expected) {
            assert_same_bits(&format!("{what} of {num} x {width}, ascending {ascending}"), found, expected)?;
        }
    }
    Ok(())
}

/// At entries of a map, duplicates among them, without a look at the indices.
#[test]
fn gathers_what_a_map_drew() -> Result<()> {
    let Some(gpu) = device() else { return Ok(()) };
    let map = CudaErrorMap::new(&ErrorMap::new(50, ErrorMapSettings::default())?, &gpu)?;
    let drawn = map.draw(300, 0.5, 1, 2)?;
    let run = |gather: &dyn Fn(&Tensor, &Tensor) -> Result<Tensor>| -> Result<[Tensor; 3]> {
        let table =
            Var::from_tensor(&Tensor::new(random(1, 60 * 3), &Device::Cpu)?.reshape((60, 3))?.to_device(&gpu)?)?;
        let weights = Var::from_tensor(&Tensor::new(random(3, 300), &gpu)?)?;
        let seed = Tensor::new(random(4, 900), &Device::Cpu)?.reshape((300, 3))?.to_device(&gpu)?;
        let out = gather(&table, &weights)?;
        let grads = (&out * seed)?.sum_all()?.backward()?;
        let of = |var: &Var| grads.get(var).cloned().ok_or(candle_core::Error::Msg("no gradient".into()));
        Ok([out, of(&table)?, of(&weights)?])
    };
    let found = run(&|table, weights| weighted_gather_drawn(table, &drawn, Some(weights)))?;
    let expected = run(&|table, weights| weighted_gather(table, &drawn.draws().indices, Some(weights)))?;
    for ((what, found), expected) in ["rows", "table", "weights"].iter().zip(&found).zip(&expected) {
        assert_same_bits(what, found, expected)?;
    }
    let small = Tensor::zeros((49, 3), DType::F32, &gpu)?;
    let error = weighted_gather_drawn(&small, &drawn, None).expect_err("a table of fewer rows").to_string();
    assert!(error.contains("table") && error.contains("50") && error.contains("49"), "{error}");
    Ok(())
}

#[test]
fn adam_has_the_bits_of_the_cpu() -> Result<()> {
    let Some(gpu) = device() else { return Ok(()) };
    let run = |device: &Device| -> Result<[Tensor; 2]> {
        let param = Tensor::new(random(1, 999), device)?.reshape((333, 3))?;
        let moments = Tensor::zeros((2, 333, 3), DType::F32, device)?;
        for step in 1..5 {
            let grad = Tensor::new(random(step, 999), device)?.reshape((333, 3))?;
            adam_step(&param, &grad, &moments, &[0.1, 0.2, 0.3], step, &AdamSettings::default())?;
        }
        Ok([param, moments])
    };
    for (found, expected) in run(&gpu)?.iter().zip(&run(&Device::Cpu)?) {
        assert_same_bits("four steps", found, expected)?;
    }
    Ok(())
}

/// Draws and updates in turn, as a training loop makes them.
#[test]
fn error_map_has_the_bits_of_the_cpu() -> Result<()> {
    let Some(gpu) = device() else { return Ok(()) };
    for len in [1, 256, 1000, 300_000] {
        for jitter in [Jitter::Stratified, Jitter::Systematic] {
            let settings = ErrorMapSettings { duplicates: Duplicates::Mean, ..Default::default() };
            let mut on_cpu = ErrorMap::new(len, settings)?;
            let mut on_gpu = CudaErrorMap::new(&on_cpu, &gpu)?;
            for step in 0..4 {
                let draw_settings = DrawSettings { uniform_fraction: 0.25, jitter };
                let expected = on_cpu.draw(777, draw_settings, 3, step)?;
                let found = on_gpu.draw(777, draw_settings, 3, step)?;
                let (indices, what) = (found.draws().indices.to_vec1::<u32>()?, format!("{len} entries, step {step}"));
                assert_eq!(indices, expected.indices.to_vec1::<u32>()?, "{what}");
                assert_same_bits(&what, &found.draws().probability, &expected.probability)?;
                let errors = Tensor::new(random(step, 777), &Device::Cpu)?;
                let expected = on_cpu.update(&expected.indices, &errors)?;
                assert_eq!(on_gpu.update_drawn(&found, &errors.to_device(&gpu)?)?.read()?, expected, "{what}");
            }
            // Indices from elsewhere, in any order.
            let indices = Tensor::new(indices(8, 500, len as u64, false), &Device::Cpu)?;
            let errors = Tensor::new(random(8, 500), &Device::Cpu)?;
            let expected = on_cpu.update(&indices, &errors)?;
            let stats = on_gpu.update(&indices.to_device(&gpu)?, &errors.to_device(&gpu)?)?.read()?;
            assert_eq!(stats, expected, "{len} entries");
            assert_same_bits("the map", &on_gpu.to_host()?.to_tensor()?, &on_cpu.to_tensor()?)?;
        }
    }
    Ok(())
}

#[test]
fn weighted_draw_has_the_bits_of_the_cpu() -> Result<()> {
    let Some(gpu) = device() else { return Ok(()) };
    for (case, len) in [1, 300, 70_000].into_iter().enumerate() {
        let weights = Tensor::new(random(case as u64, len), &Device::Cpu)?;
        for (uniform_fraction, jitter) in [(0.0, Jitter::Stratified), (0.2, Jitter::Systematic)] {
            let settings = DrawSettings { uniform_fraction, jitter };
            for num in [0, 1, 777] {
                let expected = weighted_draw(&weights, num, settings, 3, 4)?;
                let found = weighted_draw(&weights.to_device(&gpu)?, num, settings, 3, 4)?;
                assert_eq!(found.indices.to_vec1::<u32>()?, expected.indices.to_vec1::<u32>()?, "{num} of {len}");
                assert_same_bits("probability", &found.probability, &expected.probability)?;
            }
        }
    }
    for (bad, told) in [(&[1f32, -2.0, f32::NAN][..], "found -2 at 1"), (&[0.0, -0.0], "only zeros")] {
        let error =
            weighted_draw(&Tensor::new(bad, &gpu)?, 5, 0.0, 3, 4).expect_err("weights that are none").to_string();
        assert!(error.contains("weights") && error.contains(told), "{error}");
    }
    Ok(())
}

#[test]
fn a_gpu_that_works_is_chosen() {
    let Some(gpu) = device() else { return };
    for name in [None, Some("cuda"), Some("cuda:0")] {
        let choice = choose_device(name).expect("the device of the other tests");
        assert_eq!(choice.device.location(), gpu.location());
    }
    assert!(choose_device(Some("cpu")).expect("the CPU").device.is_cpu());
    for name in ["gpu", "cuda:x", "cuda:7", "cpu:0"] {
        let error = choose_device(Some(name)).expect_err(name).to_string();
        assert!(error.contains("device"), "{error}");
    }
}

/// Of a pinhole and a lens with distortion, drawn by a map and named one by one.
#[test]
fn pixel_rays_have_the_bits_of_the_cpu() -> anyhow::Result<()> {
    let Some(gpu) = device() else { return Ok(()) };
    let views: Vec<View> = [Lens::Pinhole, Lens::OpenCv { k1: -0.1, k2: 0.01, p1: 1e-3, p2: -2e-3 }]
        .into_iter()
        .enumerate()
        .map(|(i, lens)| {
            let (width, height) = (31 + i as u32, 20);
            let (fx, fy, cx, cy, world_from_camera) = (40.0, 41.0, 15.0, 10.5, Pose::IDENTITY);
            let camera = Camera { width, height, fx, fy, cx, cy, lens, world_from_camera };
            let levels = (0..width * height * 3).map(|k| (k * 7 % 251) as u8).collect();
            View::new("view", camera, Image::new(width, height, 3, levels).expect("an image"))
        })
        .collect();
    let pixels = Pixels::new(&views)?;
    assert!(pixels.in_use().is_none());
    let on_gpu = pixels.to_cuda(&gpu)?;
    let map = CudaErrorMap::new(&ErrorMap::new(pixels.len(), ErrorMapSettings::default())?, &gpu)?;
    let drawn = map.draw(100, 0.5, 1, 2)?;
    let all = Tensor::arange(0, pixels.len() as u32, &gpu)?;
    for (rays, indices) in
        [(on_gpu.rays_drawn(&drawn)?, drawn.draws().indices.clone()), (on_gpu.rays(&all)?, all.clone())]
    {
        let expected = pixels.batch(&indices.to_vec1::<u32>()?)?;
        assert_eq!(rays.views.to_vec1::<u32>()?, expected.views);
        let expected = expected.to_tensors(&Device::Cpu)?;
        assert_same_bits("origins", &rays.origins, &expected.origins)?;
        assert_same_bits("directions", &rays.directions, &expected.directions)?;
        assert_same_bits("colours", &rays.rgba, &expected.rgba)?;
    }
    let on_host = on_gpu.rays(&all.to_device(&Device::Cpu)?).expect_err("indices on the host").to_string();
    assert!(on_host.contains("Cuda") && on_host.contains("Cpu"), "{on_host}");
    let beyond = Tensor::new(&[0u32, pixels.len() as u32], &gpu)?;
    assert!(on_gpu.rays(&beyond).is_err());
    Ok(())
}

/// Nothing to do, for every op: a GPU has no memory for nothing, hence the parts of tensors that are not empty.
#[test]
fn empty_batches_are_no_errors() -> Result<()> {
    let Some(gpu) = device() else { return Ok(()) };
    // Made on the host: filling with ones would be a kernel of Candle, which the simulated device has not.
    let ones = |len: usize, dtype| Tensor::ones(len, dtype, &Device::Cpu)?.to_device(&gpu);
    let none = |dtype| ones(1, dtype)?.narrow(0, 0, 0);
    let (no_indices, no_values) = (none(DType::U32)?, none(DType::F32)?);

    let map = ones(9, DType::F32)?;
    let settings = ScatterSettings { decay: 0.8, duplicates: Duplicates::Mean };
    assert_eq!(scatter_ema(&map, &no_indices, &no_values, settings)?, Default::default());

    let table = ones(27, DType::F32)?.reshape((9, 3))?;
    assert_eq!(weighted_gather(&table, &no_indices, Some(&no_values))?.dims(), [0, 3]);
    let narrow = weighted_gather(&none(DType::F32)?.reshape((9, 0))?, &ones(2, DType::U32)?, None)?;
    assert_eq!(narrow.dims(), [2, 0]);

    let mut map = CudaErrorMap::new(&ErrorMap::new(300, ErrorMapSettings::default())?, &gpu)?;
    let drawn = map.draw(0, 0.5, 1, 2)?;
    assert_eq!(drawn.draws().indices.to_vec1::<u32>()?, [0; 0]);
    assert_eq!(drawn.draws().probability.to_vec1::<f32>()?, [0.0; 0]);
    assert_eq!(map.update_drawn(&drawn, &no_values)?.read()?, Default::default());
    assert_eq!(map.update(&no_indices, &no_values)?.read()?, Default::default());
    let on_host = Tensor::ones(0, DType::F32, &Device::Cpu)?;
    let error = map.update(&no_indices, &on_host).expect_err("values on the host").to_string();
    assert!(error.contains("values") && error.contains("Cuda") && error.contains("Cpu"), "{error}");

    let lens = Lens::Pinhole;
    let (width, height, world_from_camera) = (20, 15, Pose::IDENTITY);
    let camera = Camera { width, height, fx: 9.0, fy: 9.0, cx: 9.0, cy: 9.0, lens, world_from_camera };
    let image = Image::new(width, height, 3, vec![9; 900]).expect("an image");
    let pixels =
        Pixels::new(&[View::new("view", camera, image)]).and_then(|pixels| pixels.to_cuda(&gpu)).expect("pixels");
    for rays in [pixels.rays_drawn(&drawn)?, pixels.rays(&no_indices)?] {
        let shapes = [rays.origins.dims(), rays.directions.dims(), rays.rgba.dims()];
        assert_eq!(shapes, [[0, 3], [0, 3], [0, 4]]);
        assert_eq!(rays.views.dims(), [0]);
    }

    let scene = Scene::random("no rays", 50, 1, 1, 60);
    let on = |tensor: &Tensor| tensor.to_dtype(DType::F32)?.to_device(&gpu);
    let [points, density, sh] = scene.parameters()?;
    let inputs = scene.inputs(&scene.start_cells())?;
    let inputs = TraceInputs {
        origins: on(&inputs.origins)?.narrow(0, 0, 0)?,
        directions: on(&inputs.directions)?.narrow(0, 0, 0)?,
        start_cells: no_indices,
        offsets: inputs.offsets.to_device(&gpu)?,
        neighbors: inputs.neighbors.to_device(&gpu)?,
        quantiles: None,
    };
    let traced = trace_rays(&on(&points)?, &on(&density)?, &on(&sh)?, &inputs, &TraceSettings::default())?;
    assert_eq!(traced.rgb.dims(), [0, 3]);
    assert_eq!(traced.cells_entered.to_vec1::<u32>()?, [0; 0]);
    assert_eq!(floats(&traced.contribution)?, vec![0.0; scene.points.len()]);
    Ok(())
}

struct Pass {
    traced: Traced,
    grads: [Tensor; 3],
}

/// The scene in f32 on `device`, forward and backward from the given output gradients.
fn trace(scene: &Scene, settings: &TraceSettings, seeds: &[Tensor; 3], device: &Device) -> Result<Pass> {
    let f32_on = |tensor: &Tensor| tensor.to_dtype(DType::F32)?.to_device(device);
    let [points, density, sh] = scene.parameters()?;
    let vars =
        [Var::from_tensor(&f32_on(&points)?)?, Var::from_tensor(&f32_on(&density)?)?, Var::from_tensor(&f32_on(&sh)?)?];
    let inputs = scene.inputs(&scene.start_cells())?;
    let inputs = TraceInputs {
        origins: f32_on(&inputs.origins)?,
        directions: f32_on(&inputs.directions)?,
        start_cells: inputs.start_cells.to_device(device)?,
        offsets: inputs.offsets.to_device(device)?,
        neighbors: inputs.neighbors.to_device(device)?,
        quantiles: inputs.quantiles.as_ref().map(f32_on).transpose()?,
    };
    let traced = trace_rays(&vars[0], &vars[1], &vars[2], &inputs, settings)?;
    let seeds = [seeds[0].to_device(device)?, seeds[1].to_device(device)?, seeds[2].to_device(device)?];
    let depth = traced.depth.as_ref().expect("the scene has quantiles");
    let terms = [(&traced.rgb * &seeds[0])?, (&traced.opacity * &seeds[1])?, (depth * &seeds[2])?];
    let loss = ((terms[0].sum_all()? + terms[1].sum_all()?)? + terms[2].sum_all()?)?;
    let grads = loss.backward()?;
    let of = |var: &Var| grads.get(var).cloned().ok_or(candle_core::Error::Msg("no gradient".into()));
    let grads = [of(&vars[0])?, of(&vars[1])?, of(&vars[2])?];
    Ok(Pass { traced, grads })
}

fn seeds(num_rays: usize, num_quantiles: usize) -> Result<[Tensor; 3]> {
    let d = &Device::Cpu;
    Ok([
        Tensor::new(random(20, 3 * num_rays), d)?.reshape((num_rays, 3))?,
        Tensor::new(random(21, num_rays), d)?,
        Tensor::new(random(22, num_quantiles * num_rays), d)?.reshape((num_rays, num_quantiles))?,
    ])
}

/// The largest difference of two tensors, and the largest magnitude of the second.
fn off(found: &Tensor, expected: &Tensor) -> Result<[f32; 2]> {
    let (found, expected) = (floats(found)?, floats(expected)?);
    assert_eq!(found.len(), expected.len());
    Ok(found.iter().zip(&expected).fold([0.0; 2], |[off, most], (a, b)| {
        let difference = if (a - b).is_nan() { f32::INFINITY } else { (a - b).abs() };
        [off.max(difference), most.max(b.abs())]
    }))
}

#[test]
fn trace_sees_what_the_cpu_sees() -> Result<()> {
    /// Of rgb and opacity: a hundred cells, each with an exp that is 2 units in the last place off (1.2e-7).
    const FORWARD: f32 = 3e-5;
    /// Of the largest gradient of its kind: the same, and the difference of colours that the kernel takes.
    const BACKWARD: f32 = 1e-4;
    let Some(gpu) = device() else { return Ok(()) };
    for degree in 0..4 {
        let mut scene = Scene::random("random", 400, degree, 300, 30 + degree as u64);
        if degree == 3 {
            // So thin that some quantiles are not reached.
            scene.density.iter_mut().for_each(|density| *density *= 0.05);
        }
        // Nothing is cut off by a threshold, on one side of which rounding could put a ray.
        let settings = TraceSettings { transmittance_threshold: 0.0, ..TraceSettings::default() };
        let seeds = seeds(scene.origins.len(), scene.quantiles.len())?;
        let (found, expected) =
            (trace(&scene, &settings, &seeds, &gpu)?, trace(&scene, &settings, &seeds, &Device::Cpu)?);
        let (cells, expected_cells) = (&found.traced.cells_entered, &expected.traced.cells_entered);
        assert_eq!(cells.to_vec1::<u32>()?, expected_cells.to_vec1::<u32>()?, "degree {degree}: cells");
        for (what, found, expected) in [
            ("rgb", &found.traced.rgb, &expected.traced.rgb),
            ("opacity", &found.traced.opacity, &expected.traced.opacity),
            ("contribution", &found.traced.contribution, &expected.traced.contribution),
        ] {
            let [off, most] = off(found, expected)?;
            assert!(off <= FORWARD * most.max(1.0), "degree {degree}: {what} off by {off:e}");
        }
        let depths = |traced: &Traced| floats(traced.depth.as_ref().expect("depths of the quantiles"));
        let (depth, expected_depth) = (depths(&found.traced)?, depths(&expected.traced)?);
        let reached = expected_depth.iter().filter(|depth| **depth >= 0.0).count();
        let is_all = reached == expected_depth.len();
        assert!(reached > 0 && is_all == (degree < 3), "degree {degree}: {reached} quantiles are reached");
        for (i, (a, b)) in depth.iter().zip(&expected_depth).enumerate() {
            // Transmittances have the CPU's bits, so that the same quantiles are reached; a depth holds a logarithm.
            let fits = (a - b).abs() <= FORWARD * b.abs().max(1.0) && (*a < 0.0) == (*b < 0.0);
            assert!(fits, "degree {degree}: depth {i} is {a}, expected {b}");
        }
        assert_eq!(depth.len(), expected_depth.len());
        for ((what, found), expected) in ["points", "density", "sh"].iter().zip(&found.grads).zip(&expected.grads) {
            let [off, most] = off(found, expected)?;
            assert!(off <= BACKWARD * most, "degree {degree}: gradient of {what} off by {off:e} of {most:e}");
        }
    }
    Ok(())
}

#[test]
fn trace_has_the_same_bits_each_time() -> Result<()> {
    let Some(gpu) = device() else { return Ok(()) };
    let scene = Scene::random("random", 300, 1, 500, 40);
    let seeds = seeds(500, scene.quantiles.len())?;
    let run = || trace(&scene, &TraceSettings::default(), &seeds, &gpu);
    let first = run()?;
    for _ in 0..3 {
        let again = run()?;
        assert_same_bits("rgb", &again.traced.rgb, &first.traced.rgb)?;
        assert_same_bits("contribution", &again.traced.contribution, &first.traced.contribution)?;
        for (again, first) in again.grads.iter().zip(&first.grads) {
            assert_same_bits("gradients", again, first)?;
        }
    }
    Ok(())
}

#[test]
fn trace_refuses_what_the_cpu_refuses() -> Result<()> {
    let Some(gpu) = device() else { return Ok(()) };
    type Break = fn(&mut Scene);
    let breaks: [(&str, Break); 5] = [
        ("density", |scene| scene.density[3] = -1.0),
        ("points", |scene| scene.points[3][1] = f64::NAN),
        ("neighbors", |scene| scene.adjacency.neighbors[9] = 1 << 30),
        ("directions", |scene| scene.directions[2] = [0.0, 0.0, 2.0]),
        ("quantiles", |scene| scene.quantiles = vec![0.2, 0.3]),
    ];
    for (name, break_it) in breaks {
        let mut scene = Scene::random("random", 50, 0, 20, 50);
        let start_cells = scene.start_cells();
        break_it(&mut scene);
        let [points, density, sh] = scene.parameters()?;
        let inputs = scene.inputs(&start_cells)?;
        for device in [&gpu, &Device::Cpu] {
            let on = |tensor: &Tensor| tensor.to_dtype(DType::F32)?.to_device(device);
            let inputs = TraceInputs {
                origins: on(&inputs.origins)?,
                directions: on(&inputs.directions)?,
                start_cells: inputs.start_cells.to_device(device)?,
                offsets: inputs.offsets.to_device(device)?,
                neighbors: inputs.neighbors.to_device(device)?,
                quantiles: inputs.quantiles.as_ref().map(on).transpose()?,
            };
            let result = trace_rays(&on(&points)?, &on(&density)?, &on(&sh)?, &inputs, &TraceSettings::default());
            let error = result.expect_err(name).to_string();
            assert!(error.contains(name), "{name} on {device:?}: {error}");
        }
    }
    Ok(())
}
