//! Does `inspect` say what is in a file, and can others read what this crate writes?

#[path = "common/capture.rs"]
mod capture;
#[path = "../examples/inspect/contents.rs"]
#[allow(dead_code, reason = "the program uses all of it")]
mod contents;
#[path = "../examples/inspect/difference.rs"]
mod difference;
#[path = "../examples/inspect/statistics.rs"]
mod statistics;
#[path = "../examples/inspect/validate.rs"]
mod validate;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_radfoam::checkpoint::Checkpoint;
use candle_radfoam::foam::{Foam, ShPrecision, Topology};
use candle_radfoam::geometry::{Adjacency, nearest_brute, sentinels};
use candle_radfoam::rng::{Rng, Stream};
use candle_radfoam::train::Trainer;
use contents::{Contents, leaves};
use difference::Difference;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use statistics::{Cells, ErrorMap, Position, Quantiles, cell_volume};
use validate::validate;

type Result<T = ()> = anyhow::Result<T>;

/// A run of a few steps.
fn trained(steps: usize) -> Result<Trainer> {
    let mut trainer = capture::trainer(capture::config(40))?;
    for _ in 0..steps {
        trainer.step()?;
    }
    Ok(trainer)
}

fn written(folder: &Path, name: &str, checkpoint: &Checkpoint) -> Result<Contents> {
    let path = folder.join(name);
    // As it is: `Checkpoint::save` would refuse some.
    let metadata = HashMap::from([("candle_radfoam".to_string(), checkpoint.header.to_string())]);
    fs::write(&path, safetensors::serialize(&checkpoint.tensors, Some(metadata))?)?;
    Contents::read(&path)
}

#[test]
fn the_table_is_that_of_any_file() -> Result {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("foreign.safetensors");
    let floats: Vec<u8> = [1f32, f32::NAN, -3.0, f32::INFINITY].iter().flat_map(|x| x.to_le_bytes()).collect();
    let wide: Vec<u8> = [u64::MAX, 1].iter().flat_map(|x| x.to_le_bytes()).collect();
    let half: Vec<u8> =
        [half::f16::from_f32(0.5), half::f16::from_f32(1.5)].iter().flat_map(|x| x.to_le_bytes()).collect();
    let tensors = [
        ("floats", TensorView::new(Dtype::F32, vec![2, 2], &floats)?),
        ("wide", TensorView::new(Dtype::U64, vec![2], &wide)?),
        ("half", TensorView::new(Dtype::F16, vec![2, 1], &half)?),
        ("eight", TensorView::new(Dtype::F8_E4M3, vec![3], &[1, 2, 3])?),
        ("truth", TensorView::new(Dtype::BOOL, vec![3], &[0, 1, 1])?),
        ("nothing", TensorView::new(Dtype::F64, vec![0, 5], &[])?),
    ];
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    fs::write(&path, safetensors::serialize(tensors, Some(metadata))?)?;
    let contents = Contents::read(&path)?;
    let table = contents.table()?;
    let told: Vec<_> = table
        .iter()
        .map(|row| {
            (
                row.name.as_str(),
                row.dtype.as_str(),
                &row.shape[..],
                row.bytes,
                row.min,
                row.mean,
                row.max,
                row.nan,
                row.infinite,
            )
        })
        .collect();
    let most = u64::MAX as f64;
    let expected: [(_, _, &[usize], _, _, _, _, _, _); 6] = [
        ("eight", "F8_E4M3", &[3], 3, None, None, None, 0, 0),
        ("floats", "F32", &[2, 2], 16, Some(-3.0), Some(-1.0), Some(1.0), 1, 1),
        ("half", "F16", &[2, 1], 4, Some(0.5), Some(1.0), Some(1.5), 0, 0),
        ("nothing", "F64", &[0, 5], 0, None, None, None, 0, 0),
        ("truth", "BOOL", &[3], 3, Some(0.0), Some(2.0 / 3.0), Some(1.0), 0, 0),
        ("wide", "U64", &[2], 16, Some(1.0), Some(0.5 * (most + 1.0)), Some(most), 0, 0),
    ];
    assert_eq!(told, expected);
    assert!(contents.header.is_none() && contents.metadata["format"] == "pt");
    assert!(ErrorMap::of(&contents)?.is_none());
    let failed: Vec<_> = validate(&contents)?.into_iter().filter(|check| check.failed.is_some()).collect();
    assert_eq!(failed.iter().map(|check| check.name).collect::<Vec<_>>(), ["header", "finite"]);

    fs::write(&path, b"no such file")?;
    let error = Contents::read(&path).expect_err("no safetensors file");
    assert!(format!("{error:#}").contains("foreign.safetensors"), "{error:#}");
    Ok(())
}

#[test]
fn a_checkpoint_is_described() -> Result {
    let folder = tempfile::tempdir()?;
    // One step visits no more than two thirds of the map.
    let trainer = trained(1)?;
    let contents = written(folder.path(), "run.safetensors", &trainer.checkpoint(Value::Null)?)?;
    let header = contents.header.as_ref().expect("a header");
    let position = Position::of(header).expect("a run's position");
    assert_eq!((position.step, position.num_rays), (1, Some(trainer.num_rays())));
    assert_eq!(position.progress, trainer.progress());
    let optim = &trainer.config().optim;
    let expected = [("color", optim.color), ("density", optim.density), ("points", optim.points)];
    let expected: BTreeMap<String, f64> =
        expected.into_iter().map(|(name, rate)| (name.to_string(), rate.at(trainer.progress()))).collect();
    assert_eq!(position.learning_rates, expected);

    let cells = Cells::of(&contents)?;
    let foam = trainer.foam();
    assert_eq!((cells.num_cells, cells.num_volumes), (foam.num_cells(), foam.num_cells()));
    assert_eq!(cells.num_coefficients, foam.num_coefficients());
    assert_eq!(cells.volume_histogram.values().sum::<u64>(), foam.num_cells() as u64);
    let density: Vec<f64> = foam.density()?.to_vec1::<f32>()?.into_iter().map(f64::from).collect();
    assert_eq!(cells.density, Quantiles::of(density));
    let neighbors = cells.neighbors.expect("neighbours");
    assert!(neighbors.min >= 4.0 && (12.0..18.0).contains(&neighbors.mean), "{neighbors:?}");

    let map = ErrorMap::of(&contents)?.expect("an error map");
    let values: Vec<f32> = trainer.checkpoint(Value::Null)?.tensors["sampler.error_map"].to_vec1()?;
    let visited = values.iter().filter(|error| error.is_sign_positive()).count();
    assert_eq!((map.num_entries, map.visited), (values.len(), visited));
    assert!(map.visited > 0 && map.visited < map.num_entries, "{} of {}", map.visited, map.num_entries);
    assert!(map.errors.expect("errors").min >= 0.0);

    // The error map's own file is one of this crate's, too.
    let path = folder.path().join("error_map.safetensors");
    trainer.save_error_map(&path)?;
    let alone = Contents::read(&path)?;
    assert_eq!(ErrorMap::of(&alone)?.expect("an error map").visited, visited);
    for check in validate(&alone)? {
        assert_eq!(check.failed, None, "{}", check.name);
    }
    Ok(())
}

#[test]
fn quantiles_are_those_of_the_definition() {
    assert_eq!(Quantiles::of(Vec::new()), None);
    let q = Quantiles::of((0..=100).rev().map(f64::from).collect()).expect("quantiles");
    assert_eq!((q.min, q.p05, q.p25, q.median), (0.0, 5.0, 25.0, 50.0));
    assert_eq!((q.p75, q.p95, q.max, q.mean), (75.0, 95.0, 100.0, 50.0));
}

#[test]
fn volumes_are_those_of_the_cells() -> Result {
    // A cube, with a neighbour twice and one whose plane touches a corner.
    let axes =
        [[2.0, 0.0, 0.0], [-2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, -2.0, 0.0], [0.0, 0.0, 2.0], [0.0, 0.0, -2.0]];
    let site = [5.0, 1.0, -3.0];
    let mut neighbors: Vec<[f64; 3]> = axes.iter().map(|axis| [0, 1, 2].map(|i| site[i] + axis[i])).collect();
    neighbors.push([site[0] + 2.0, site[1] + 2.0, site[2] + 2.0]);
    let volume = cell_volume(site, &neighbors, 10.0);
    assert!((volume - 8.0).abs() < 1e-9, "{volume}");

    // Against counting: which site is nearest to random points of a cube.
    const NUM_SITES: u32 = 400;
    let rng = Rng::new(3, Stream::Synthetic, 1);
    let mut points: Vec<[f32; 3]> = (0..NUM_SITES).map(|i| [0, 1, 2].map(|k| 2.0 * rng.uniform4(i)[k] - 1.0)).collect();
    points.extend(sentinels([0.0; 3], 20.0));
    let adjacency = Adjacency::build(&points)?;
    let sites: Vec<[f64; 3]> = points.iter().map(|p| p.map(f64::from)).collect();
    const SAMPLES: u32 = 200_000;
    const HALF: f32 = 1.0;
    let mut counts = vec![0u32; points.len()];
    let sample = Rng::new(4, Stream::Synthetic, 2);
    for i in 0..SAMPLES {
        let at = [0, 1, 2].map(|k| HALF * (2.0 * sample.uniform4(i)[k] - 1.0));
        counts[nearest_brute(&points, at) as usize] += 1;
    }
    let box_volume = f64::from(2.0 * HALF).powi(3);
    let (mut compared, mut failures) = (0, Vec::new());
    for (cell, &count) in counts.iter().enumerate().take(NUM_SITES as usize) {
        let list: Vec<[f64; 3]> = adjacency.neighbors_of(cell as u32).iter().map(|&j| sites[j as usize]).collect();
        let volume = cell_volume(sites[cell], &list, 20.0);
        // Cells well within the cube: all of their neighbours are.
        if !list.iter().all(|p| p.iter().all(|x| x.abs() < 0.85 * f64::from(HALF))) {
            continue;
        }
        compared += 1;
        let counted = box_volume * f64::from(count) / f64::from(SAMPLES);
        let deviation = counted / f64::from(count.max(1)).sqrt();
        if (volume - counted).abs() > 5.0 * deviation {
            failures.push(format!("cell {cell}: {volume}, counted {counted} +- {deviation}"));
        }
    }
    assert!(failures.is_empty() && compared > 20, "{compared} cells\n{}", failures.join("\n"));
    Ok(())
}

#[test]
fn the_checks_pass_and_bite() -> Result {
    let folder = tempfile::tempdir()?;
    let trainer = trained(12)?;
    let good = trainer.checkpoint(Value::Null)?;
    for check in validate(&written(folder.path(), "good", &good)?)? {
        assert_eq!(check.failed, None, "{}", check.name);
    }
    for precision in [ShPrecision::F16, ShPrecision::U8] {
        let mut header = good.header.clone();
        header.as_object_mut().expect("an object").remove("sampler");
        let compact = Checkpoint { tensors: trainer.foam().compact_state(precision)?, header };
        for check in validate(&written(folder.path(), "compact", &compact)?)? {
            assert_eq!(check.failed, None, "{precision}: {}", check.name);
        }
    }

    let offsets: Vec<u32> = good.tensors["foam.offsets"].to_vec1()?;
    let neighbors: Vec<u32> = good.tensors["foam.neighbors"].to_vec1()?;
    let indices = |values: &[u32]| Tensor::from_slice(values, values.len(), &Device::Cpu);
    let with = |name: &str, tensor: candle_core::Result<Tensor>| -> Result<Checkpoint> {
        let mut broken = good.clone();
        broken.tensors.insert(name.into(), tensor?);
        Ok(broken)
    };
    let header = |pointer: &str, value: Value| {
        let mut broken = good.clone();
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
        broken.header.pointer_mut(parent).expect("a parent")[key] = value;
        broken
    };
    let changed = |values: &[u32], change: &dyn Fn(&mut Vec<u32>)| {
        let mut values = values.to_vec();
        change(&mut values);
        indices(&values)
    };
    let nan = |name: &str| {
        let tensor = &good.tensors[name];
        let mut values = tensor.flatten_all()?.to_vec1::<f32>()?;
        values[3] = f32::NAN;
        Tensor::from_vec(values, tensor.shape(), &Device::Cpu)
    };
    let rows = |name: &str| {
        let tensor = &good.tensors[name];
        tensor.narrow(0, 0, tensor.dims()[0] - 1)?.copy()
    };
    // A neighbour for another that has not this one: only the symmetry is broken.
    let one_way = changed(&neighbors, &|list| {
        let row = offsets[7] as usize..offsets[8] as usize;
        let free = (0..).find(|j| *j != 7 && !list[row.clone()].contains(j)).expect("another cell");
        list[row.start] = free;
        list[row].sort_unstable();
    });
    let broken = [
        ("header", header("/format_version", json!(99)), "99"),
        ("finite", with("optim.sh", nan("optim.sh"))?, "optim.sh"),
        ("shapes", with("foam.points", rows("foam.points"))?, "foam."),
        ("shapes", with("foam.raw_density", rows("foam.raw_density"))?, "foam.raw_density"),
        ("shapes", with("foam.sh", Tensor::zeros((3, 4, 3), DType::F32, &Device::Cpu))?, "foam.sh"),
        ("shapes", with("foam.built_at", rows("foam.built_at"))?, "foam.built_at"),
        ("shapes", with("optim.points", rows("optim.points"))?, "optim.points"),
        ("shapes", with("refine.gradient", rows("refine.gradient"))?, "refine.gradient"),
        ("transform", header("/normalization/scale", json!(-1.0)), "scale"),
        ("transform", header("/normalization/center", json!([0.0, 1.0])), "center"),
        ("transform", header("/normalization/rotation", json!([[1, 0, 0], [0, 1, 0], [0, 0, -1]])), "rotation"),
        ("transform", header("/normalization/rotation", json!([[1, 0, 0], [0, 2, 0], [0, 0, 1]])), "rotation"),
        ("offsets", with("foam.offsets", changed(&offsets, &|list| list.swap(4, 5)))?, "ascending"),
        ("offsets", with("foam.offsets", changed(&offsets, &|list| list[0] = 2))?, "from 0"),
        ("neighbours in range", with("foam.neighbors", changed(&neighbors, &|list| list[9] = 1 << 20))?, "1048576"),
        ("neighbours ascending", with("foam.neighbors", changed(&neighbors, &|list| list.swap(0, 1)))?, "at cell 0"),
        ("neighbours symmetric", with("foam.neighbors", one_way)?, "neighbour of"),
        ("adjacency", with("foam.neighbors", Tensor::zeros(5, DType::F32, &Device::Cpu).and_then(|t| t - 1.0))?, "-1"),
        ("foam", header("/density_scale", json!(0)), "density_scale"),
        ("error map", with("sampler.error_map", rows("sampler.error_map"))?, "error_map"),
        ("error map", header("/sampler", json!({ "config": 1 })), ""),
    ];
    let mut failures = Vec::new();
    for (name, checkpoint, word) in broken {
        let checks = validate(&written(folder.path(), "broken", &checkpoint)?)?;
        let found = checks.iter().find(|check| check.name == name).and_then(|check| check.failed.clone());
        match found {
            Some(found) if found.contains(word) => {}
            found => failures.push(format!("{name} ({word}): {found:?}")),
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    Ok(())
}

/// Copies have the neighbours of their original and are nobody's; that is as it should be.
#[test]
fn coincident_cells_are_sound() -> Result {
    let folder = tempfile::tempdir()?;
    let mut points: Vec<[f32; 3]> =
        (0..40).map(|i| [(i % 7) as f32, (i % 5) as f32, i as f32].map(|x| 0.01 * x)).collect();
    points.extend_from_within(3..6);
    let n = points.len();
    let foam = Foam::from_parts(
        Tensor::from_slice(points.as_flattened(), (n, 3), &Device::Cpu)?,
        Tensor::zeros(n, DType::F32, &Device::Cpu)?,
        Tensor::zeros((n, 1, 3), DType::F32, &Device::Cpu)?,
        1.0,
        Topology::build(&points, 300.0)?,
    )?;
    let header =
        json!({ "format_version": 1, "density_scale": 1.0, "normalization": { "scale": 1.0, "center": [0, 0, 0] } });
    for check in validate(&written(folder.path(), "copies", &Checkpoint { tensors: foam.state()?, header })?)? {
        assert_eq!(check.failed, None, "{}", check.name);
    }
    Ok(())
}

#[test]
fn differences_are_found_and_measured() -> Result {
    let folder = tempfile::tempdir()?;
    let vector = |values: &[f32]| Tensor::from_slice(values, values.len(), &Device::Cpu);
    let one = Checkpoint {
        tensors: BTreeMap::from([
            ("same".into(), vector(&[1.0, f32::NAN])?),
            ("moved".into(), vector(&[1.0, 10.0, -4.0, 0.0])?),
            ("grown".into(), vector(&[1.0])?),
            ("lost".into(), vector(&[1.0])?),
            ("broken".into(), vector(&[1.0, 2.0])?),
        ]),
        header: json!({ "step": 1, "config": { "a": 1, "b": [1, 2] }, "old": true }),
    };
    let other = Checkpoint {
        tensors: BTreeMap::from([
            ("same".into(), vector(&[1.0, f32::NAN])?),
            ("moved".into(), vector(&[1.5, 10.0, -5.0, -0.0])?),
            ("grown".into(), vector(&[1.0, 2.0])?),
            ("new".into(), vector(&[1.0])?),
            ("broken".into(), vector(&[f32::NAN, 2.5])?),
        ]),
        header: json!({ "step": 2, "config": { "a": 1, "b": [1, 3] } }),
    };
    let (a, b) = (written(folder.path(), "a", &one)?, written(folder.path(), "b", &other)?);
    let difference = Difference::of(&a, &b)?;
    assert_eq!(
        (&difference.only_in_a[..], &difference.only_in_b[..]),
        (&["lost".to_string()][..], &["new".to_string()][..])
    );
    assert_eq!(difference.changed.keys().collect::<Vec<_>>(), ["broken", "grown", "moved"]);
    let moved = &difference.changed["moved"];
    assert_eq!((moved.count, moved.absolute, moved.relative), (3, 1.0, 0.5 / 1.5));
    assert_eq!(difference.changed["grown"].kinds, Some(["F32 [1]".to_string(), "F32 [2]".to_string()]));
    let broken = &difference.changed["broken"];
    assert!(broken.count == 2 && broken.absolute.is_nan() && broken.relative.is_nan());
    let fields: Vec<_> =
        difference.header.iter().map(|(name, [a, b])| (name.as_str(), a.as_deref(), b.as_deref())).collect();
    let expected =
        [("config.b", Some("[1,2]"), Some("[1,3]")), ("old", Some("true"), None), ("step", Some("1"), Some("2"))];
    assert_eq!(fields, expected);
    assert!(!difference.is_none() && Difference::of(&a, &a)?.is_none());
    assert_eq!(leaves(&json!({ "a": [1, 2, 3] }), 2)["a"], "[3 items]");
    Ok(())
}
