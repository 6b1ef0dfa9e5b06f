//! Does a run go on where it stopped, and is a broken file refused for what is wrong with it?

#[path = "common/capture.rs"]
mod capture;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_radfoam::checkpoint::{Checkpoint, write_atomically};
use candle_radfoam::train::{FORMAT_VERSION, ResolutionStage, TrainConfig, Trainer};
use candle_radfoam::{Error, Result};
use capture::{config, dataset, fingerprint, on_threads, trainer};
use serde_json::{Value, json};

fn load(path: &Path) -> Result<Checkpoint> {
    Checkpoint::load(path, &Device::Cpu)
}

fn resume(path: &Path) -> Result<Trainer> {
    Trainer::resume(path, dataset(), &Device::Cpu)
}

/// A run that triangulates often, refines at two fifths and after, and changes its resolution at three fifths.
fn eventful(steps: u64) -> TrainConfig {
    let mut config = config(steps);
    config.resolution = vec![ResolutionStage { until: 0.6, factor: 2 }, ResolutionStage { until: 1.0, factor: 1 }];
    (config.topology.check_every, config.topology.moved_limit, config.topology.moved_share) = (5, 0.03, 0.01);
    config
}

#[test]
fn a_resumed_run_has_the_bits_of_an_uninterrupted_one() -> Result<()> {
    const STEPS: u64 = 60;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("half.safetensors");
    let (mut refined, mut rebuilt, mut second_half) = ([0; 2], [0; 2], Vec::new());
    let whole = on_threads(1, || -> Result<_> {
        let mut trainer = trainer(eventful(STEPS))?;
        for step in 0..STEPS {
            if step == STEPS / 2 {
                trainer.save(&path, Value::Null)?;
            }
            let stats = trainer.step()?;
            let half = usize::from(step >= STEPS / 2);
            refined[half] += u32::from(stats.refined.is_some());
            rebuilt[half] += u32::from(stats.rebuilt);
            if half == 1 {
                second_half.push(stats);
            }
        }
        fingerprint(&trainer)
    })?;
    let in_each = |events: [u32; 2]| events.iter().all(|&count| count > 0);
    assert!(in_each(refined) && in_each(rebuilt), "in each half: {refined:?} refined, {rebuilt:?} triangulated");
    for threads in [2, 3] {
        let resumed = on_threads(threads, || -> Result<_> {
            let mut trainer = resume(&path)?;
            for stats in &second_half {
                assert_eq!(&trainer.step()?, stats, "{threads} threads");
            }
            assert!(trainer.is_finished());
            fingerprint(&trainer)
        })?;
        assert_eq!(resumed.1, whole.1, "{threads} threads: header");
        for (name, bits) in &whole.0 {
            assert!(resumed.0.get(name) == Some(bits), "{threads} threads: {name}");
        }
        assert_eq!(resumed.0.len(), whole.0.len());
    }
    Ok(())
}

#[test]
fn a_checkpoint_in_memory_stays_as_it_was() -> Result<()> {
    let mut trainer = trainer(config(20))?;
    for _ in 0..12 {
        trainer.step()?;
    }
    let checkpoint = trainer.checkpoint(Value::Null)?;
    let before = fingerprint(&trainer)?.0;
    trainer.step()?;
    let after = fingerprint(&trainer)?.0;
    for (name, tensor) in &checkpoint.tensors {
        assert!(capture::bits(tensor) == before[name], "{name} of the checkpoint has changed");
        if !matches!(name.as_str(), "foam.offsets" | "foam.neighbors" | "foam.built_at") {
            assert!(before[name] != after[name], "{name} has not changed in the run");
        }
    }
    Ok(())
}

#[test]
fn same_content_same_bytes() -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name);
    let mut trainer = trainer(config(20))?;
    for _ in 0..3 {
        trainer.step()?;
    }
    let extra = json!({ "capture": "somewhere", "b": 1, "a": [2.5, "x"] });
    trainer.save(file("one"), extra.clone())?;
    trainer.save(file("two"), extra.clone())?;
    load(&file("one"))?.save(file("three"))?;
    resume(&file("one"))?.save(file("four"), extra.clone())?;
    let one = fs::read(file("one")).expect("a file");
    for other in ["two", "three", "four"] {
        assert!(one == fs::read(file(other)).expect("a file"), "{other} differs");
    }
    assert_eq!(load(&file("one"))?.header["run"], extra);
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 4, "nothing but the four files");
    Ok(())
}

/// A broken checkpoint and what the error about it must say.
struct Broken {
    what: String,
    must_say: Vec<String>,
    checkpoint: Checkpoint,
}

/// One after the other, everything that can be missing or wrong in a whole file.
fn broken_checkpoints(good: &Checkpoint) -> Result<Vec<Broken>> {
    let mut all = Vec::new();
    let mut add = |what: String, must_say: &[&str], checkpoint: Checkpoint| {
        all.push(Broken { what, must_say: must_say.iter().map(|s| s.to_string()).collect(), checkpoint });
    };
    for (name, tensor) in &good.tensors {
        // The part of a checkpoint that checks a tensor knows it by this name.
        let short = name.strip_prefix("sampler.").unwrap_or(name);
        let mut checkpoint = good.clone();
        checkpoint.tensors.remove(name);
        add(format!("{name} is missing"), &[short], checkpoint);

        let mut replace = |what: &str, tensor: Tensor| {
            let mut checkpoint = good.clone();
            checkpoint.tensors.insert(name.clone(), tensor);
            add(format!("{name} {what}"), &[], checkpoint);
        };
        replace(
            "has one row less",
            tensor.narrow(tensor.rank().min(2) - 1, 0, tensor.dims()[tensor.rank().min(2) - 1] - 1)?.copy()?,
        );
        replace("is of f64", tensor.to_dtype(DType::F64)?);
        replace("is a scalar", Tensor::new(1f32, &Device::Cpu)?);
        let len = tensor.elem_count();
        if tensor.dtype() == DType::F32 {
            for bad in [f32::NAN, f32::INFINITY] {
                let mut values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
                values[len / 2] = bad;
                replace(&format!("holds {bad}"), Tensor::from_vec(values, tensor.shape(), &Device::Cpu)?);
            }
        } else {
            let mut values: Vec<u32> = tensor.flatten_all()?.to_vec1()?;
            values[len / 2] = u32::MAX;
            replace("points nowhere", Tensor::from_vec(values, tensor.shape(), &Device::Cpu)?);
        }
    }
    for key in ["format_version", "config", "progress", "density_scale", "normalization", "sampler", "cameras"] {
        for (what, value) in [("is missing", None), ("is of another type", Some(json!("a word")))] {
            // Those of the first version have none.
            if key == "cameras" && value.is_none() {
                continue;
            }
            let mut checkpoint = good.clone();
            let header = checkpoint.header.as_object_mut().expect("an object");
            match value {
                Some(value) => header.insert(key.into(), value),
                None => header.remove(key),
            };
            add(format!("header.{key} {what}"), &[&format!("header.{key}")], checkpoint);
        }
    }
    let mut set = |pointer: &str, value: Value, must_say: &[&str]| {
        let mut checkpoint = good.clone();
        let what = format!("{pointer} is {value}");
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
        checkpoint.header.pointer_mut(parent).expect("a parent")[key] = value;
        add(what, must_say, checkpoint);
    };
    let newer = FORMAT_VERSION + 1;
    set("/format_version", json!(newer), &["header.format_version", &FORMAT_VERSION.to_string(), &newer.to_string()]);
    set("/density_scale", json!(-1.0), &["density_scale"]);
    set("/normalization/scale", json!(123.0), &["header.normalization", "123"]);
    set("/config/sh_degree", json!(9), &["sh_degree", "9"]);
    set("/config/no_such_setting", json!(1), &["no_such_setting"]);
    set("/config/trace/max_cells", json!(0), &["trace.max_cells"]);
    set("/config/init/num_cells", json!(0), &["init.num_cells"]);
    set("/config/optim/adam/beta1", json!(1.0), &["optim.adam.beta1"]);
    set("/cameras/3/fx", json!(123.0), &["header.cameras[3]", "123"]);
    set("/cameras", json!([]), &["header.cameras", "24 training views"]);
    set("/metrics", json!(1), &["header.metrics"]);
    set("/extent", json!(123.0), &["header.extent", "123"]);
    set("/progress/resolution", json!(0), &["header.progress.resolution"]);
    set("/progress/progress", json!(1.5), &["header.progress.progress", "1.5"]);
    set("/progress/resolution", json!(2), &["header.sampler"]);
    // As many rays and entries as the capture has, but in images of another shape.
    set("/sampler/patches/shapes", json!([[16, 64]; 24].to_vec()), &["header.sampler", "[32, 32]", "[16, 64]"]);
    set("/progress/step", json!(-3), &["header.progress"]);
    Ok(all)
}

/// Writes what [`Checkpoint::save`] would refuse to.
fn write_unchecked(checkpoint: &Checkpoint, path: &Path) {
    let metadata = HashMap::from([("candle_radfoam".to_string(), checkpoint.header.to_string())]);
    let bytes = safetensors::serialize(&checkpoint.tensors, Some(metadata)).expect("bytes");
    fs::write(path, bytes).expect("a file");
}

#[test]
fn broken_files_are_refused_by_name() -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("broken.safetensors");
    let mut trainer = trainer(config(40))?;
    for _ in 0..12 {
        trainer.step()?;
    }
    let good = trainer.checkpoint(Value::Null)?;
    let mut failures = Vec::new();
    for Broken { what, must_say, checkpoint } in broken_checkpoints(&good)? {
        write_unchecked(&checkpoint, &path);
        let finite = |t: &Tensor| {
            t.dtype() != DType::F32 || capture::bits(t).iter().all(|&b| f32::from_bits(b as u32).is_finite())
        };
        if let Some((name, _)) = checkpoint.tensors.iter().find(|(_, tensor)| !finite(tensor)) {
            match checkpoint.save(folder.path().join("refused")) {
                Err(Error::File { field, .. }) if field == *name => {}
                other => failures.push(format!("{what}: saved: {other:?}")),
            }
        }
        match resume(&path) {
            Ok(_) => failures.push(format!("{what}: taken")),
            Err(error) => {
                let said = error.to_string();
                println!("{what}: {said}");
                if let Some(missing) = must_say.iter().find(|text| !said.contains(*text)) {
                    failures.push(format!("{what}: no word of {missing}: {said}"));
                }
                if !matches!(&error, Error::File { path: named, .. } if *named == path) {
                    failures.push(format!("{what}: {error:?}"));
                }
            }
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    assert!(!folder.path().join("refused").exists());
    Ok(())
}

#[test]
fn files_that_are_cut_off_or_none_are_refused() -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cut.safetensors");
    trainer(config(20))?.save(&path, Value::Null)?;
    let whole = fs::read(&path).expect("a file");
    let header = 8 + u64::from_le_bytes(*whole.first_chunk().expect("8 bytes")) as usize;
    assert!(header < whole.len() / 2);

    let mut files: Vec<(String, Vec<u8>)> = [0, 1, 7, 8, 9, header / 2, header - 1, header, header + 1]
        .into_iter()
        .chain([whole.len() / 2, whole.len() - 4, whole.len() - 1])
        .map(|len| (format!("cut off at {len} of {}", whole.len()), whole[..len].to_vec()))
        .collect();
    files.push(("one byte too long".into(), whole.iter().copied().chain([0]).collect()));
    files.push(("a PNG".into(), b"\x89PNG\r\n\x1a\n and so on".to_vec()));
    files.push(("a huge header".into(), [&u64::MAX.to_le_bytes()[..], &whole[8..]].concat()));
    let foreign = safetensors::serialize([("x", &Tensor::zeros(3, DType::F32, &Device::Cpu)?)], None);
    files.push(("safetensors of something else".into(), foreign.expect("bytes")));

    let mut failures = Vec::new();
    for (what, bytes) in files {
        fs::write(&path, bytes).expect("a file");
        match resume(&path) {
            Err(Error::File { path: named, .. }) if named == path => {}
            other => failures.push(format!("{what}: {:?}", other.map(|_| "taken"))),
        }
    }
    match resume(&folder.path().join("absent")) {
        Err(Error::Io { path: named, .. }) if named.ends_with("absent") => {}
        other => failures.push(format!("no file: {:?}", other.map(|_| "taken"))),
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    Ok(())
}

#[test]
fn a_failed_write_leaves_the_old_file() -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("kept.safetensors");
    write_atomically(&path, b"old")?;
    write_atomically(&path, b"new")?;
    assert_eq!(fs::read(&path).expect("a file"), b"new");

    // A folder in its place stops the rename for every user; permissions would not stop root.
    let taken = folder.path().join("taken");
    fs::create_dir(&taken).expect("a folder");
    fs::write(taken.join("in the way"), b"").expect("a file");
    for result in [write_atomically(&taken, b"newer"), trainer(config(2))?.save(&taken, Value::Null)] {
        match result {
            Err(Error::Io { path: named, .. }) => assert_eq!(named, taken),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 2, "nothing under way was left behind");
    assert_eq!(fs::read(&path).expect("a file"), b"new");
    assert!(matches!(write_atomically(folder.path().join("no/such/folder"), b""), Err(Error::Io { .. })));
    Ok(())
}
