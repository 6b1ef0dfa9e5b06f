//! Can Python read what this crate writes, without this crate?

#[path = "common/capture.rs"]
mod capture;

use std::fs;
use std::path::Path;
use std::process::Command;

use candle_core::{DType, Device};
use candle_radfoam::camera::Camera;
use candle_radfoam::checkpoint::Checkpoint;
use candle_radfoam::data::{Bitmap, Image, View};
use candle_radfoam::train::Trainer;
use serde_json::{Value, json};

type Result<T = ()> = anyhow::Result<T>;

/// A run of one step, which visits no more than two thirds of the map.
fn trained() -> Result<Trainer> {
    let mut trainer = capture::trainer(capture::config(40))?;
    trainer.step()?;
    Ok(trainer)
}

/// What Python is given to compare with: the type, shape and some values of each tensor, by hand.
fn facts(checkpoint: &Checkpoint) -> Result<Value> {
    let mut facts = serde_json::Map::new();
    for (name, tensor) in &checkpoint.tensors {
        let flat = tensor.flatten_all()?;
        let len = flat.elem_count();
        let (dtype, values): (_, Vec<f64>) = match tensor.dtype() {
            DType::F32 => ("float32", flat.to_vec1::<f32>()?.into_iter().map(f64::from).collect()),
            DType::U32 => ("uint32", flat.to_vec1::<u32>()?.into_iter().map(f64::from).collect()),
            other => anyhow::bail!("{name} is of {other:?}"),
        };
        let at: Vec<usize> = (0..len).step_by(len.div_ceil(50).max(1)).collect();
        let chosen: Vec<f64> = at.iter().map(|&i| values[i]).collect();
        let negative = values.iter().filter(|value| value.is_sign_negative()).count();
        facts.insert(
            name.clone(),
            json!({ "dtype": dtype, "shape": tensor.dims(), "at": at, "values": chosen, "negative": negative }),
        );
    }
    Ok(Value::Object(facts))
}

const SCRIPT: &str = r#"
import json, sys
import numpy
from safetensors import safe_open

checkpoint, facts = sys.argv[1:]
with open(facts) as file:
    facts = json.load(file)
with safe_open(checkpoint, framework="numpy") as file:
    assert sorted(file.keys()) == sorted(facts["tensors"]), file.keys()
    header = json.loads(file.metadata()["candle_radfoam"])
    assert header == facts["header"], "another header"
    for name, fact in facts["tensors"].items():
        tensor = file.get_tensor(name)
        assert str(tensor.dtype) == fact["dtype"], (name, tensor.dtype)
        assert list(tensor.shape) == fact["shape"], (name, tensor.shape)
        flat = tensor.reshape(-1)
        assert [float(flat[at]) for at in fact["at"]] == fact["values"], name
        assert int(numpy.signbit(flat).sum()) == fact["negative"], name
    if "sampler.error_map" in facts["tensors"]:
        unvisited = numpy.signbit(file.get_tensor("sampler.error_map"))
        assert 0 < unvisited.sum() < unvisited.size, unvisited.sum()
        assert len(unvisited) == facts["entries"], len(unvisited)
print("read", len(facts["tensors"]), "tensors")
"#;

/// The interpreter named by `RADFOAM_PYTHON`, or `python3`; it must have numpy and safetensors.
fn python() -> Option<String> {
    let python = std::env::var("RADFOAM_PYTHON").unwrap_or_else(|_| "python3".into());
    let has = Command::new(&python).args(["-c", "import numpy, safetensors"]).output();
    let has = has.is_ok_and(|output| output.status.success());
    if !has {
        println!("skipped: {python} has no numpy and safetensors; RADFOAM_PYTHON names another");
    }
    has.then_some(python)
}

/// Runs `script` on `file` and what is known of it; what it says.
fn run_python(python: &str, script: &str, file: &Path, facts: &Value) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let (program, told) = (folder.path().join("read.py"), folder.path().join("facts.json"));
    fs::write(&program, script)?;
    fs::write(&told, facts.to_string())?;
    let output = Command::new(python).arg(&program).arg(file).arg(&told).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    Ok(said)
}

#[test]
fn python_reads_the_same() -> Result {
    let Some(python) = python() else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let trainer = trained()?;
    let path = folder.path().join("run.safetensors");
    trainer.save(&path, json!({ "capture": "somewhere" }))?;
    let checkpoint = Checkpoint::load(&path, &Device::Cpu)?;
    let entries = checkpoint.tensors["sampler.error_map"].elem_count();
    let told = json!({ "tensors": facts(&checkpoint)?, "header": checkpoint.header, "entries": entries });
    let said = run_python(&python, SCRIPT, &path, &told)?;
    assert!(said.contains(&format!("read {} tensors", checkpoint.tensors.len())), "{said}");
    Ok(())
}

/// The error map by its documentation alone: an image of each view, from the flat map.
const MAP_SCRIPT: &str = r#"
import json, sys
import numpy
from safetensors import safe_open

path, facts = sys.argv[1:]
with open(facts) as file:
    facts = json.load(file)
with safe_open(path, framework="numpy") as file:
    header = json.loads(file.metadata()["candle_radfoam"])
    flat = file.get_tensor("error_map")
    patch_of_entry = file.get_tensor("patch_of_entry") if "patch_of_entry" in file.keys() else numpy.arange(len(flat))
assert header["format_version"] == facts["version"] and header["step"] == facts["step"]
assert flat.dtype == numpy.float32 and flat.ndim == 1 and len(patch_of_entry) == len(flat)
assert patch_of_entry.dtype.kind in "ui" and (numpy.diff(patch_of_entry.astype(numpy.int64)) > 0).all()
side, end, first_patch, visited = header["sampler"]["patches"]["patch"], 0, 0, 0
assert len(header["views"]) == len(facts["views"])
for view, fact in zip(header["views"], facts["views"]):
    assert [view["name"], view["height"], view["width"]] == fact["is"], view
    rows, columns = -(-view["height"] // side), -(-view["width"] // side)
    assert (rows, columns) == (view["rows"], view["columns"]), view
    assert view["offset"] == end, view
    end += view["entries"]
    entries = flat[view["offset"]:end]
    image = numpy.full(rows * columns, numpy.nan)
    image[patch_of_entry[view["offset"]:end] - first_patch] = numpy.where(numpy.signbit(entries), -1.0, entries)
    first_patch += rows * columns
    found = [None if numpy.isnan(x) else float(x) for x in image]
    assert found == fact["image"], (view, found, fact["image"])
    visited += int((~numpy.signbit(entries)).sum())
assert end == len(flat) and 0 < visited < len(flat), (end, visited)
print("read", visited, "visited entries of", len(flat))
"#;

#[test]
fn python_reads_the_error_map() -> Result {
    let Some(python) = python() else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("error_map.safetensors");
    for masked in [false, true] {
        let mut dataset = capture::dataset();
        // Views of several sizes, of which one is no multiple of a patch.
        dataset.train[2] = cut(&dataset.train[2], 30, 27)?;
        if masked {
            let corner = |pixel: usize| pixel % 32 > 13 || pixel / 32 > 9;
            dataset.train[1].mask = Some(Bitmap::from_fn(32 * 32, corner)?);
        }
        let mut trainer = Trainer::new(dataset, capture::config(40), &Device::Cpu)?;
        trainer.step()?;
        assert!(trainer.save_error_map(&path)?);
        // Another way to the same: the pictures of the sampler, and which entries were visited.
        let sampler = trainer.sampler();
        let map = sampler.state()?.0["error_map"].to_vec1::<f32>()?;
        let mut entries = map.iter();
        let (mut views, mut partial) = (Vec::new(), 0);
        for (i, view) in trainer.dataset().train.iter().enumerate() {
            let image = sampler.map_image(i)?.flatten_all()?.to_vec1::<f32>()?;
            let mut expected = Vec::new();
            for shown in image {
                // A picture has NaN where there is no entry, and errors without the share of pixels left.
                if shown.is_nan() {
                    expected.push(None);
                    continue;
                }
                let entry = *entries.next().expect("an entry");
                partial += usize::from(entry.is_sign_positive() && entry != shown);
                expected.push(Some(if entry.is_sign_negative() { -1.0 } else { f64::from(entry) }));
            }
            views.push(json!({ "is": [view.name, view.image.height, view.image.width], "image": expected }));
        }
        assert!(entries.next().is_none() && (partial > 0) == masked, "{partial} of patches with pixels left out");
        let said = run_python(&python, MAP_SCRIPT, &path, &json!({ "version": 2, "step": 1, "views": views }))?;
        assert!(said.contains(&format!("of {}", map.len())), "{said}");
    }
    Ok(())
}

/// The upper left part of a view.
fn cut(view: &View, width: u32, height: u32) -> Result<View> {
    let (channels, from) = (view.image.channels, view.image.width as usize);
    let row = |y: usize| &view.image.data[y * from * channels..][..width as usize * channels];
    let data = (0..height as usize).flat_map(|y| row(y).to_vec()).collect();
    let camera = Camera { width, height, ..view.camera };
    Ok(View::new(view.name.clone(), camera, Image::new(width, height, channels, data)?))
}
