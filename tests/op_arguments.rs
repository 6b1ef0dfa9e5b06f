//! What every public op does with arguments of another dtype, rank, length or layout: the right result, or an error
//! that names what was expected and what was found. Nothing is broadcast, nothing is cut short.

mod common;

use candle_core::{DType, Device, Result, Tensor, Var, WithDType};
use candle_radfoam::ops::{
    AdamSettings, DrawSettings, Duplicates, ErrorMap, ErrorMapSettings, Jitter, ScatterSettings, TraceInputs,
    adam_step, effective_sample_size, scatter_ema, trace_rays, weighted_draw, weighted_gather, weighted_gather_many,
};

fn tensor<T: WithDType>(values: &[T]) -> Tensor {
    Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap()
}

/// The values of a tensor in other layouts: all the same to whoever reads it.
fn layouts(plain: &Tensor) -> Vec<(&'static str, Tensor)> {
    let other = plain.ones_like().unwrap();
    let above_and_below = Tensor::cat(&[&other, plain, &other], 0).unwrap();
    let offset = above_and_below.narrow(0, plain.dims()[0], plain.dims()[0]).unwrap();
    let last = plain.rank();
    let interleaved = Tensor::stack(&[&other, plain], last).unwrap();
    let strided = interleaved.narrow(last, 1, 1).unwrap().squeeze(last).unwrap();
    let mut all = vec![("plain", plain.clone()), ("offset", offset), ("strided", strided)];
    if plain.rank() > 1 {
        let transposed = plain.transpose(0, 1).unwrap().contiguous().unwrap().transpose(0, 1).unwrap();
        all.push(("transposed", transposed));
    }
    all
}

/// Tensors that are wrong where `plain` is right.
fn wrong(plain: &Tensor) -> Vec<(String, Tensor)> {
    let d = &Device::Cpu;
    let len = plain.dims()[0];
    let others = [DType::U8, DType::U32, DType::I64, DType::F16, DType::F32, DType::F64];
    let dtypes = others.into_iter().filter(|dtype| *dtype != plain.dtype());
    let mut all: Vec<(String, Tensor)> =
        dtypes.map(|dtype| (format!("{dtype:?}"), plain.to_dtype(dtype).unwrap())).collect();
    let mut dims = plain.dims().to_vec();
    let mut push = |what: &str, dims: &[usize]| {
        all.push((what.to_string(), Tensor::zeros(dims, plain.dtype(), d).unwrap()));
    };
    push("a scalar", &[]);
    if len != 1 {
        dims[0] = 1;
        push("length 1", &dims);
    }
    dims[0] = len + 1;
    push("one more", &dims);
    dims[0] = len - 1;
    push("one less", &dims);
    dims[0] = len;
    dims.push(1);
    push("an axis of one more", &dims);
    dims.pop();
    dims.insert(0, 1);
    push("an axis of one before", &dims);
    all
}

type Run<'a> = dyn Fn(&Tensor) -> Result<Vec<f64>> + 'a;

/// One argument of an op: its name in messages, a right value, and what follows from another one.
struct Argument<'a> {
    op: &'a str,
    name: &'a str,
    right: Tensor,
    /// Another that must fit to it, which an error may name instead.
    partner: &'a str,
    /// What the op gives, as numbers.
    run: Box<Run<'a>>,
    /// Of [`wrong`]: what this argument may be after all.
    allowed: &'a [&'a str],
    /// Whether other layouts may be refused.
    contiguous_only: bool,
}

fn numbers(tensor: &Tensor) -> Result<Vec<f64>> {
    tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

fn check(arguments: Vec<Argument>) {
    let mut problems = Vec::new();
    for Argument { op, name, right, partner, run, allowed, contiguous_only } in arguments {
        let expected = match run(&right) {
            Ok(expected) => expected,
            Err(error) => {
                problems.push(format!("{op}, {name}: refused what is right: {error}"));
                continue;
            }
        };
        for (layout, view) in layouts(&right) {
            match run(&view) {
                Ok(found) if found == expected => {}
                Ok(found) => problems.push(format!("{op}, {name}, {layout}: {found:?}, expected {expected:?}")),
                Err(error) => {
                    let text = error.to_string();
                    // One of a few is a contiguous view by any layout.
                    if !contiguous_only || view.is_contiguous() || !text.contains("contiguous") || !text.contains(name)
                    {
                        problems.push(format!("{op}, {name}, {layout}: {error}"));
                    }
                }
            }
        }
        for (what, other) in wrong(&right).into_iter().filter(|(what, _)| !allowed.contains(&what.as_str())) {
            match run(&other) {
                Ok(_) => problems.push(format!("{op}, {name}: {what} accepted")),
                Err(error) => {
                    let text = error.to_string();
                    let named = text.contains(name) || (!partner.is_empty() && text.contains(partner));
                    if !named || !text.contains("expected") || !text.contains("found") {
                        problems.push(format!("{op}, {name}: {what}: says {text}"));
                    }
                }
            }
        }
    }
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}

fn argument<'a>(
    op: &'a str,
    name: &'a str,
    right: &Tensor,
    run: impl Fn(&Tensor) -> Result<Vec<f64>> + 'a,
) -> Argument<'a> {
    Argument { op, name, right: right.clone(), partner: "", run: Box::new(run), allowed: &[], contiguous_only: false }
}

impl<'a> Argument<'a> {
    fn but(self, allowed: &'a [&'a str]) -> Self {
        Self { allowed, ..self }
    }

    fn with(self, partner: &'a str) -> Self {
        Self { partner, ..self }
    }

    fn contiguous(self) -> Self {
        Self { contiguous_only: true, ..self }
    }
}

#[test]
fn scatter_ema_arguments() {
    let map = [0.5f32, -0.0, 0.25, 1.0, 0.75];
    let (indices, values) = (tensor(&[4u32, 1, 4]), tensor(&[1.0f32, 0.5, 0.25]));
    let run = |map: &Tensor, indices: &Tensor, values: &Tensor, duplicates| {
        let map = map.copy()?;
        let mut found = numbers(&map)?;
        scatter_ema(&map, indices, values, ScatterSettings { decay: 0.5, duplicates })?;
        found.extend(numbers(&map)?);
        Ok(found)
    };
    for duplicates in [Duplicates::Sequential, Duplicates::Mean] {
        let plain = tensor(&map);
        check(vec![
            argument("scatter_ema", "indices", &indices, |t| run(&plain, t, &values, duplicates))
                .with("values")
                .contiguous(),
            argument("scatter_ema", "values", &values, |t| run(&plain, &indices, t, duplicates)).contiguous(),
            // Written where it lies: a copy would hide what the op does with its layout.
            argument("scatter_ema", "map", &plain, |t| {
                scatter_ema(t, &indices, &values, ScatterSettings { decay: 1.0, duplicates })?;
                numbers(&t.narrow(0, 0, 1)?)
            })
            .but(&["one more", "F64", "length 1", "one less"])
            .contiguous(),
        ]);
        for (map, says) in [(tensor(&[1.0f64; 5]), "values"), (tensor(&[1.0f32; 4]), "indices")] {
            let error = run(&map, &indices, &values, duplicates).unwrap_err().to_string();
            assert!(error.contains(says) && error.contains("expected"), "{error}");
        }
    }
}

#[test]
fn scatter_ema_refuses_to_read_what_it_writes() -> Result<()> {
    let map = tensor(&[0.5f32, 0.25, 0.75, 1.0]);
    let (head, tail) = (map.narrow(0, 0, 2)?, map.narrow(0, 2, 2)?);
    for (map, values) in [(&map, &map), (&head, &tail), (&head, &head)] {
        let indices = Tensor::arange(0, map.elem_count() as u32, &Device::Cpu)?;
        let error = scatter_ema(map, &indices, values, 0.5).unwrap_err().to_string();
        assert!(error.contains("values") && error.contains("map"), "{error}");
    }
    Ok(())
}

#[test]
fn weighted_draw_arguments() {
    let weights = tensor(&[0.5f32, 0.0, 0.25, 1.0]);
    for jitter in [Jitter::Stratified, Jitter::Systematic] {
        let run = move |weights: &Tensor| {
            let draws = weighted_draw(weights, 5, DrawSettings { uniform_fraction: 0.25, jitter }, 7, 1)?;
            assert_eq!((draws.indices.dims(), draws.probability.dims()), (&[5][..], &[5][..]));
            Ok([numbers(&draws.indices)?, numbers(&draws.probability)?].concat())
        };
        check(vec![
            argument("weighted_draw", "weights", &weights, run).but(&["length 1", "one more", "one less"]).contiguous(),
        ]);
    }
    check(vec![
        argument("effective_sample_size", "weights", &weights, |t| Ok(vec![effective_sample_size(t)?]))
            .but(&["length 1", "one more", "one less"]),
    ]);
}

#[test]
fn weighted_gather_arguments() {
    let table = Tensor::arange(0f32, 12.0, &Device::Cpu).unwrap().reshape((4, 3)).unwrap();
    let indices = tensor(&[3u32, 1, 3, 2, 0]);
    let weights = tensor(&[1.0f32, 0.5, 2.0, 0.25, 4.0]);
    let one = |table: &Tensor, indices: &Tensor, weights: Option<&Tensor>| {
        let rows = weighted_gather(table, indices, weights)?;
        assert_eq!(rows.dims(), [indices.dims()[0], table.dims()[1]]);
        numbers(&rows)
    };
    let many = |table: &Tensor, indices: &Tensor| {
        let rows = weighted_gather_many(&[&weights.reshape((5, 1))?, table], indices, None)?;
        Ok([numbers(&rows[0])?, numbers(&rows[1])?].concat())
    };
    // Each is right by itself, without weights that must go with it.
    const TABLES: &[&str] = &["U8", "F16", "F64", "one more"];
    const BATCHES: &[&str] = &["length 1", "one more", "one less"];
    check(vec![
        argument("weighted_gather", "table", &table, |t| one(t, &indices, None))
            .with("indices")
            .but(TABLES)
            .contiguous(),
        argument("weighted_gather", "table", &table, |t| one(t, &indices, Some(&weights)))
            .with("indices")
            .but(TABLES)
            .contiguous(),
        argument("weighted_gather", "indices", &indices, |t| one(&table, t, None)).but(BATCHES).contiguous(),
        argument("weighted_gather", "weights", &weights, |t| one(&table, &indices, Some(t))).contiguous(),
        argument("weighted_gather_many", "tables[1]", &table, |t| many(t, &indices))
            .with("indices")
            .but(TABLES)
            .contiguous(),
        argument("weighted_gather_many", "indices", &indices, |t| many(&table, t)).but(BATCHES).contiguous(),
    ]);
    // The weights must have the dtype of the rows.
    for dtype in [DType::F16, DType::F64] {
        let error = one(&table.to_dtype(dtype).unwrap(), &indices, Some(&weights)).unwrap_err().to_string();
        assert!(error.contains("weights") && error.contains("F32"), "{error}");
    }
}

#[test]
fn error_map_arguments() {
    let values = tensor(&[0.5f32, -0.0, 0.25, 1.0]);
    let (indices, errors) = (tensor(&[3u32, 1, 3]), tensor(&[1.0f32, 0.5, 0.25]));
    let update = |indices: &Tensor, errors: &Tensor| {
        let mut map = ErrorMap::from_tensor(&values, ErrorMapSettings::default())?;
        map.update(indices, errors)?;
        numbers(&map.to_tensor()?)
    };
    let from = |values: &Tensor| numbers(&ErrorMap::from_tensor(values, ErrorMapSettings::default())?.to_tensor()?);
    check(vec![
        argument("ErrorMap::from_tensor", "error map", &values, from).but(&["length 1", "one more", "one less"]),
        argument("ErrorMap::update", "indices", &indices, |t| update(t, &errors)).with("values"),
        argument("ErrorMap::update", "values", &errors, |t| update(&indices, t)),
    ]);
}

#[test]
fn adam_arguments() {
    let grad = Tensor::arange(0f32, 6.0, &Device::Cpu).unwrap().reshape((3, 2)).unwrap();
    let settings = AdamSettings::default();
    let run = |param: &Tensor, grad: &Tensor, moments: &Tensor| {
        adam_step(param, grad, moments, &[0.1, 0.2], 1, &settings)?;
        Ok([numbers(param)?, numbers(moments)?].concat())
    };
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    // Memory of its own for each run: both are written.
    let written = |tensor: &Tensor| if tensor.is_contiguous() { tensor.copy() } else { Ok(tensor.clone()) };
    check(vec![
        argument("adam_step", "grad", &grad, |t| run(&zeros(&[3, 2]), t, &zeros(&[2, 3, 2]))),
        argument("adam_step", "param", &zeros(&[3, 2]), |t| run(&written(t)?, &grad, &zeros(&[2, 3, 2])))
            .with("grad")
            .contiguous(),
        argument("adam_step", "moments", &zeros(&[2, 3, 2]), |t| run(&zeros(&[3, 2]), &grad, &written(t)?))
            .contiguous(),
    ]);
    let param = zeros(&[2]);
    for (grad, moments) in [(&param, &zeros(&[2, 2])), (&zeros(&[2]), &param.reshape((1, 2)).unwrap())] {
        assert!(adam_step(&param, grad, moments, &[0.1], 1, &settings).is_err(), "memory of the parameter accepted");
    }
}

#[test]
fn trace_arguments() -> Result<()> {
    let scene = common::Scene::random("arguments", 40, 1, 5, 3);
    let ([points, density, sh], inputs) = (scene.parameters()?, scene.inputs(&scene.start_cells())?);
    let settings = common::exact();
    let run = |points: &Tensor, density: &Tensor, sh: &Tensor, inputs: &TraceInputs| {
        let traced = trace_rays(points, density, sh, inputs, &settings)?;
        let parts = [Some(&traced.rgb), Some(&traced.opacity), traced.depth.as_ref(), Some(&traced.contribution)];
        parts.into_iter().flatten().map(numbers).collect::<Result<Vec<_>>>().map(|parts| parts.concat())
    };
    let with = |set: fn(&mut TraceInputs, Tensor)| {
        let (points, density, sh, inputs) = (&points, &density, &sh, &inputs);
        move |t: &Tensor| {
            let mut inputs = inputs.clone();
            set(&mut inputs, t.clone());
            run(points, density, sh, &inputs)
        }
    };
    let quantiles = inputs.quantiles.clone().unwrap();
    check(vec![
        argument("trace_rays", "points", &points, |t| run(t, &density, &sh, &inputs)).with("density"),
        argument("trace_rays", "density", &density, |t| run(&points, t, &sh, &inputs)),
        argument("trace_rays", "sh", &sh, |t| run(&points, &density, t, &inputs)),
        argument("trace_rays", "origins", &inputs.origins, with(|inputs, t| inputs.origins = t)),
        argument("trace_rays", "directions", &inputs.directions, with(|inputs, t| inputs.directions = t)),
        argument("trace_rays", "start_cells", &inputs.start_cells, with(|inputs, t| inputs.start_cells = t))
            .with("origins"),
        argument("trace_rays", "offsets", &inputs.offsets, with(|inputs, t| inputs.offsets = t)),
        argument("trace_rays", "neighbors", &inputs.neighbors, with(|inputs, t| inputs.neighbors = t)).with("offsets"),
        argument("trace_rays", "quantiles", &quantiles, with(|inputs, t| inputs.quantiles = Some(t))),
    ]);
    Ok(())
}

#[test]
fn empty_batches_change_nothing_and_empty_tables_have_no_rows() -> Result<()> {
    let (no_index, no_value) = (tensor::<u32>(&[]), tensor::<f32>(&[]));
    let map = tensor(&[0.5f32, 0.25]);
    assert_eq!(scatter_ema(&map, &no_index, &no_value, 0.5)?.updated, 0);
    assert_eq!(map.to_vec1::<f32>()?, [0.5, 0.25]);
    assert_eq!(scatter_ema(&no_value, &no_index, &no_value.copy()?, 0.5)?.updated, 0);
    let mut errors = ErrorMap::from_tensor(&map, ErrorMapSettings::default())?;
    assert_eq!(errors.update(&no_index, &no_value)?.updated, 0);
    let draws = errors.draw(0, 0.5, 1, 1)?;
    assert_eq!((draws.indices.dims(), draws.effective_sample_size()?), (&[0][..], 0.0));
    assert_eq!(weighted_draw(&map, 0, 0.5, 1, 1)?.probability.dims(), [0]);

    for width in [0, 1, 3, 5] {
        for rows in [0, 4] {
            let table = Var::ones((rows, width), DType::F32, &Device::Cpu)?;
            let weights = Var::from_tensor(&no_value)?;
            let found = weighted_gather(&table, &no_index, Some(&weights))?;
            assert_eq!(found.dims(), [0, width]);
            let grads = found.sum_all()?.backward()?;
            assert_eq!(grads.get(&table).expect("a gradient").sum_all()?.to_scalar::<f32>()?, 0.0);
        }
        let empty = Tensor::ones((0, width), DType::F32, &Device::Cpu)?;
        let error = weighted_gather(&empty, &tensor(&[0u32]), None).unwrap_err().to_string();
        assert!(error.contains("indices") && error.contains("below 0"), "{error}");
    }
    assert!(weighted_gather_many(&[], &no_index, None)?.is_empty());
    let error = scatter_ema(&no_value, &tensor(&[0u32]), &tensor(&[0.5f32]), 0.5).unwrap_err().to_string();
    assert!(error.contains("below 0"), "{error}");
    assert!(weighted_draw(&no_value, 1, 0.5, 1, 1).is_err());
    Ok(())
}
