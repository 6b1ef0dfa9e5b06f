//! Can checkpoints of every format that was ever written be read, and run on?
//!
//! `tests/checkpoints` has one of each, made by the code of that time after 25 of 40 steps on three synthetic views of
//! 12 x 12 pixels: `version-1-first` when checkpoints first were what they are, `version-1-last` by the last code that
//! wrote version 1.

#[path = "common/capture.rs"]
mod capture;

use std::path::{Path, PathBuf};

use candle_core::Device;
use candle_radfoam::Result;
use candle_radfoam::checkpoint::Checkpoint;
use candle_radfoam::data::{Dataset, Image};
use candle_radfoam::train::{FORMAT_VERSION, Trainer, migrate_header};
use serde_json::{Value, json};

const FILES: [(&str, u32); 3] = [("version-1-first", 1), ("version-1-last", 1), ("version-2", 2)];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/checkpoints").join(name).with_extension("safetensors")
}

/// A capture with the units of the checkpoint's and images of its sizes. What cameras and pictures it has decides
/// about the next step only.
fn dataset(header: &Value) -> Dataset {
    let mut dataset = capture::dataset();
    dataset.normalization = serde_json::from_value(header["normalization"].clone()).expect("a normalisation");
    dataset.extent = header["extent"].as_f64().expect("an extent");
    dataset.train.truncate(3);
    for (i, view) in dataset.train.iter_mut().enumerate() {
        let channels = view.image.channels;
        (view.camera.width, view.camera.height) = (12, 12);
        view.image = Image::new(12, 12, channels, vec![200; 12 * 12 * channels]).expect("an image");
        if let Some(camera) = header["cameras"].get(i) {
            view.camera = serde_json::from_value(camera.clone()).expect("a camera");
            view.name = camera["name"].as_str().expect("a name").into();
        }
    }
    dataset
}

#[test]
fn every_version_is_read_and_goes_on() -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, version) in FILES {
        let path = fixture(name);
        let old = Checkpoint::load(&path, &Device::Cpu)?;
        assert_eq!(old.header["format_version"], version, "{name}");
        let dataset = dataset(&old.header);
        let mut trainer = Trainer::resume(&path, dataset.clone(), &Device::Cpu)?;
        assert_eq!(trainer.step_count(), 25, "{name}");
        let again = trainer.checkpoint(old.header["run"].clone())?;
        assert_eq!(again.header["format_version"], FORMAT_VERSION, "{name}");
        assert_eq!(again.header["step"], 25, "{name}");
        assert_eq!(again.header["seed"], 5, "{name}");
        for (tensor, values) in &old.tensors {
            assert_eq!(capture::bits(values), capture::bits(&again.tensors[tensor]), "{name}: {tensor}");
        }
        assert_eq!(old.tensors.len(), again.tensors.len(), "{name}");
        for key in ["progress", "extent", "normalization", "density_scale", "run"] {
            assert_eq!(old.header[key], again.header[key], "{name}: {key}");
        }
        assert_eq!(trainer.config().prior.free_space, 0.0, "{name}: there was no such prior");
        // Converted, it goes on as the old one does.
        let converted = folder.path().join(name);
        again.save(&converted)?;
        let mut other = Trainer::resume(&converted, dataset, &Device::Cpu)?;
        while !trainer.is_finished() {
            assert_eq!(trainer.step()?, other.step()?, "{name}");
        }
        assert_eq!(capture::fingerprint(&trainer)?, capture::fingerprint(&other)?, "{name}");
    }
    Ok(())
}

/// The present format must not change without a new version: this one's bytes are those of its fixture.
#[test]
fn the_present_version_is_written_as_it_was() -> Result<()> {
    let path = fixture("version-2");
    assert!(FILES.contains(&("version-2", FORMAT_VERSION)), "a new version needs a fixture");
    let old = Checkpoint::load(&path, &Device::Cpu)?;
    let again = Trainer::resume(&path, dataset(&old.header), &Device::Cpu)?.checkpoint(old.header["run"].clone())?;
    let keys = |header: &Value| header.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&again.header), keys(&old.header));
    for key in keys(&old.header) {
        // Settings may come and go; each has a default.
        if !matches!(&*key, "config" | "sampler" | "crate_version") {
            assert_eq!(again.header[&key], old.header[&key], "{key}");
        }
    }
    Ok(())
}

#[test]
fn versions_that_are_none_are_refused() {
    let mut failures = Vec::new();
    let newer = FORMAT_VERSION + 1;
    for version in [json!(0), json!(newer), json!(u64::MAX), json!(-1), json!(1.5), json!("2"), Value::Null, json!([1])]
    {
        let mut header = json!({ "format_version": version, "progress": { "step": 3 } });
        let before = header.clone();
        match migrate_header("some.safetensors", &mut header) {
            Err(error) => {
                let said = error.to_string();
                if !["some.safetensors", "header.format_version", "1 to", &version.to_string()]
                    .iter()
                    .all(|word| said.contains(word))
                    || header != before
                {
                    failures.push(format!("{version}: {said}"));
                }
            }
            Ok(()) => failures.push(format!("{version}: taken")),
        }
    }
    for mut header in [Value::Null, json!([]), json!("2")] {
        if migrate_header("some.safetensors", &mut header).is_ok() {
            failures.push(format!("{header}: taken"));
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

#[test]
fn the_exponent_moves_from_the_loss_to_the_sampler() -> Result<()> {
    let config = |own: Option<f64>| match own {
        Some(own) => json!({ "importance_exponent": own }),
        None => json!({ "strategy": "error_weighted" }),
    };
    for (of_loss, own, expected) in
        [(0.5, None, json!(0.5)), (0.5, Some(0.5), json!(0.5)), (0.0, Some(0.7), json!(0.7))]
    {
        let mut header = json!({
            "format_version": 1, "config": { "loss": { "importance_exponent": of_loss }, "sampler": config(own), "seed": 8 },
            "sampler": { "config": config(own) },
        });
        migrate_header("old", &mut header)?;
        assert_eq!(header["sampler"]["config"]["importance_exponent"], expected);
        assert_eq!(header["config"]["sampler"]["importance_exponent"], expected);
        assert_eq!((&header["seed"], &header["step"], &header["metrics"]), (&json!(8), &Value::Null, &Value::Null));
    }
    Ok(())
}
