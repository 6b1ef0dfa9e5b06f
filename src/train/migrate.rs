//! Headers of earlier format versions, made those of the present one.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::{Error, Result};

/// The version of the checkpoint format that this crate writes.
///
/// | version | what it is |
/// |---|---|
/// | 1 | the first; early ones spell strategies `error_weighted`, and have settings of the loss for the sampler's |
/// | 2 | `step`, `seed`, `metrics` and `cameras` of their own in the header; `views` in that of an error map |
pub const FORMAT_VERSION: u32 = 2;

/// The oldest version that is read.
const OLDEST_VERSION: u32 = 1;

/// A step from one version to the next.
type Migration = fn(&mut Map<String, Value>);

/// The first leads from [`OLDEST_VERSION`] to the next, and the last one to [`FORMAT_VERSION`].
const MIGRATIONS: [Migration; (FORMAT_VERSION - OLDEST_VERSION) as usize] = [from_version_1];

/// Makes the header of any version that this crate ever wrote (of a checkpoint, an exported foam or an error map) one
/// of [`FORMAT_VERSION`]. Tensors are the same in all of them. Errors name `path`.
///
/// # Errors
///
/// [`Error::File`] for a version that is newer than this crate, or none.
///
/// ```
/// use candle_radfoam::train::{FORMAT_VERSION, migrate_header};
///
/// # fn main() -> candle_radfoam::Result<()> {
/// let mut header = serde_json::json!({ "format_version": 1, "progress": { "step": 7 } });
/// migrate_header("old.safetensors", &mut header)?;
/// assert_eq!((&header["format_version"], &header["step"]), (&FORMAT_VERSION.into(), &7.into()));
/// # Ok(())
/// # }
/// ```
pub fn migrate_header(path: impl AsRef<Path>, header: &mut Value) -> Result<()> {
    let found = header["format_version"].clone();
    let version = found.as_u64().and_then(|version| u32::try_from(version).ok());
    let known = version.filter(|version| (OLDEST_VERSION..=FORMAT_VERSION).contains(version));
    let (Some(version), Some(fields)) = (known, header.as_object_mut()) else {
        let newer = if version > Some(FORMAT_VERSION) { " of a newer version of this crate" } else { "" };
        let expected = format!("{OLDEST_VERSION} to {FORMAT_VERSION}");
        return Err(Error::file(path, "header.format_version", expected, format!("{found}{newer}")));
    };
    for migration in &MIGRATIONS[(version - OLDEST_VERSION) as usize..] {
        migration(fields);
    }
    keep_defaults(fields);
    fields.insert("format_version".into(), json!(FORMAT_VERSION));
    Ok(())
}

/// Writes down settings that are younger than the file, where their defaults are not what held without them.
fn keep_defaults(header: &mut Map<String, Value>) {
    if let Some(config) = header.get_mut("config").and_then(Value::as_object_mut)
        && let Some(prior) = config.entry("prior").or_insert_with(|| json!({})).as_object_mut()
    {
        prior.entry("free_space").or_insert(json!(0.0));
    }
}

fn from_version_1(header: &mut Map<String, Value>) {
    let get = |header: &Map<String, Value>, part: &str, key: &str| header.get(part).and_then(|v| v.get(key)).cloned();
    for (key, part, of_part) in [("step", "progress", "step"), ("seed", "config", "seed")] {
        if let Some(value) = get(header, part, of_part) {
            header.entry(key).or_insert(value);
        }
    }
    // Nobody wrote these down.
    for key in ["metrics", "cameras"] {
        header.entry(key).or_insert(Value::Null);
    }
    let exponent = get(header, "config", "loss").and_then(|loss| loss["importance_exponent"].as_f64());
    for [part, of_part] in [["sampler", "config"], ["config", "sampler"]] {
        let settings = header.get_mut(part).and_then(|part| part.get_mut(of_part)).and_then(Value::as_object_mut);
        let Some(settings) = settings else { continue };
        // The first strategies had names of another spelling.
        if let Some(strategy) = settings.get("strategy").and_then(Value::as_str).map(|name| name.replace('_', "-")) {
            settings.insert("strategy".into(), json!(strategy));
        }
        // Samplers had no exponent of their own: the loss's held.
        if let Some(exponent) = exponent.filter(|&exponent| exponent != 0.0) {
            settings.insert("importance_exponent".into(), json!(exponent));
        }
    }
    // The sampler had the seed of the run, and the settings did not say so.
    let used = get(header, "sampler", "config");
    let config = header.get_mut("config").and_then(Value::as_object_mut);
    if let (Some(used), Some(config)) = (used, config) {
        config.insert("sampler".into(), used);
    }
}
