//! Does each preset train, and say in a checkpoint what it was?

#[path = "common/capture.rs"]
mod capture;

use candle_core::Device;
use candle_radfoam::Result;
use candle_radfoam::train::{Preset, TrainConfig, Trainer};
use capture::dataset;
use serde_json::Value;

/// What makes the runs small, and nothing else: cells, rays and steps.
const SMALL: [&str; 7] = [
    "time_limit=null",
    "steps=6",
    "init.num_cells=300",
    "init.num_outer_cells=30",
    "sampler.batch_size=512",
    "sampler.warmup_steps=2",
    "refine.max_cells=600",
];

#[test]
fn each_preset_trains() -> Result<()> {
    let mut failures = Vec::new();
    for preset in Preset::ALL {
        let config = TrainConfig::preset(preset).with_settings(&SMALL)?;
        let mut trainer = Trainer::new(dataset(), config, &Device::Cpu)?;
        let first = trainer.step()?.loss;
        let mut last = first;
        while !trainer.is_finished() {
            last = trainer.step()?.loss;
        }
        if !(last.is_finite() && last < first) {
            failures.push(format!("{preset}: the loss goes from {first} to {last}"));
        }
        let header = trainer.checkpoint(Value::Null)?.header;
        let of_preset = TrainConfig::preset(preset);
        for (name, found, expected) in [
            ("sh_degree", &header["config"]["sh_degree"], Value::from(of_preset.sh_degree)),
            ("rounds", &header["config"]["refine"]["rounds"], Value::from(of_preset.refine.rounds)),
            ("max_cells", &header["config"]["refine"]["max_cells"], Value::from(600)),
        ] {
            if *found != expected {
                failures.push(format!("{preset}: {name} is {found} in the checkpoint, not {expected}"));
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
    Ok(())
}

#[test]
fn settings_of_a_run_yet_to_begin_may_all_change() -> Result<()> {
    let config = TrainConfig::default().with_settings(&["sh_degree = 3", "background=black", "steps=9"])?;
    assert_eq!((config.sh_degree, config.steps), (3, Some(9)));
    let mut failures = Vec::new();
    for (setting, expected) in [
        ("sh_degree", "key=value"),
        ("sh_degre=2", "sh_degree"),
        ("sh_degree=many", "values that the settings can have"),
        ("optim=0", "one of"),
    ] {
        match TrainConfig::default().with_settings(&[setting]) {
            Ok(_) => failures.push(format!("{setting} is taken")),
            Err(error) if error.to_string().contains(expected) => {}
            Err(error) => failures.push(format!("{setting}: {error}, without \"{expected}\"")),
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
    Ok(())
}
