//! A run that met a value that is not finite, once more from its last checkpoint: which tensor had the first?

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_core::Device;
use candle_radfoam::Error;
use candle_radfoam::train::Trainer;
use serde_json::{Value, json};

use crate::support::checkpoint::{METRICS, NON_FINITE};
use crate::support::folder::{RunFolder, write_json};

/// Takes the steps after the checkpoint again (or all, without one), looking at everything after each, and writes what
/// it finds. The error that says what that was. `seconds_before` are those that the metrics count beyond the trainer's.
pub fn replay(failed: &Trainer, checkpoint: Option<&Path>, folder: &RunFolder, seconds_before: f64) -> Result<Error> {
    let (dataset, config) = (failed.dataset().clone(), failed.config().clone());
    let is_timed = config.time_limit.is_some();
    let mut trainer = match checkpoint {
        Some(path) => Trainer::resume_with(path, dataset, config, &Device::Cpu)?,
        None => Trainer::new(dataset, config, &Device::Cpu)?,
    };
    let (from, last) = (trainer.step_count(), failed.step_count());
    let seconds = seconds_of_steps(&folder.file(METRICS)?)?;
    println!("replaying steps {from} to {last}");
    let found = trainer.find_non_finite(last, |trainer| {
        // Where the schedules stood, in a run that is planned by time.
        if let (true, Some(&seconds)) = (is_timed, seconds.get(&(trainer.step_count() - 1))) {
            trainer.set_seconds(seconds - seconds_before);
        }
    })?;
    let Some(error) = found else { bail!("nothing that is not finite came up again in steps {from} to {last}") };
    if let Error::NonFinite { tensor, count, first, step } = &error {
        write_json(
            &folder.file(NON_FINITE)?,
            &json!({ "step": step, "tensor": tensor, "index": first, "count": count, "replayed_from": from }),
        )?;
    }
    Ok(error)
}

/// When each step ended, as the run's metrics have it.
fn seconds_of_steps(path: &Path) -> Result<BTreeMap<u64, f64>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    Ok(lines.filter_map(|line| Some((line["step"].as_u64()?, line["seconds"].as_f64()?))).collect())
}
