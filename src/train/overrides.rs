//! Which settings of a run may change where it is taken up again.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::TrainConfig;
use crate::{Error, Result};

/// Settings that may change, by the beginning of their names. From the step on at which the run is taken up they hold
/// as if they had always been so.
const MAY_CHANGE: [&str; 20] = [
    "steps",
    "time_limit",
    "trace",
    "topology",
    "refine",
    "loss.opacity_weight",
    "loss.quantile_weight",
    "prior",
    "optim.points",
    "optim.density",
    "optim.color",
    "optim.sh_factor",
    "sampler.batch_size",
    "sampler.uniform_fraction",
    "sampler.decay",
    "sampler.error_cap",
    "sampler.importance_exponent",
    "sampler.importance_ramp_steps",
    "sampler.on_failure",
    "sampler.lag",
];

/// Why others may not, by the beginning of their names.
const MAY_NOT: [(&str, &str); 11] = [
    ("seed", "everything random so far followed from it"),
    ("sh_degree", "colours and their moments have its shape"),
    ("density_scale", "the densities are in its unit"),
    ("background", "the foam was trained in front of it"),
    ("init", "the cells have been made"),
    ("optim.adam", "the moments were gathered with it"),
    ("loss.importance_exponent", "sampler.importance_exponent takes its place in a run under way"),
    ("sampler.seed", "everything random so far followed from it"),
    ("sampler.warmup_steps", "the draws so far followed from it"),
    ("sampler", "the error map was gathered with it"),
    ("resolution", "the pixels and the error map are at one of its stages"),
];

/// A setting in which a configuration differs from that of a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct SettingChange {
    /// Its name, with the names of the parts that it is in before it: `optim.points.initial`.
    pub key: String,
    /// What the run was begun with; null where there was none.
    pub saved: Value,
    /// What is asked for.
    pub asked: Value,
    /// Why it may not change, if it may not.
    pub refused: Option<&'static str>,
}

impl fmt::Display for SettingChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, saved, asked, refused } = self;
        write!(f, "{key}: {saved} in the run, {asked} now")?;
        match refused {
            Some(reason) => write!(f, " (it cannot change: {reason})"),
            None => write!(f, " (--override {key}={asked} would change it)"),
        }
    }
}

/// Why the setting `key` may not change in a run under way; `None` where it may.
///
/// What may: the plan (`steps`, `time_limit`), the rates, the weights of loss and `prior`, when cells are triangulated,
/// removed and added (`topology`, `refine`), how far rays are followed (`trace`), and of the sampler `batch_size`,
/// `uniform_fraction`, `decay`, `error_cap`, `importance_exponent`, `importance_ramp_steps`, `on_failure` and `lag`.
pub fn refusal(key: &str) -> Option<&'static str> {
    let below = |part: &str| key.strip_prefix(part).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    if MAY_CHANGE.into_iter().any(below) {
        return None;
    }
    let reason = MAY_NOT.into_iter().find(|(part, _)| below(part)).map(|(_, reason)| reason);
    Some(reason.unwrap_or("the run so far followed from it"))
}

impl TrainConfig {
    /// The settings in which `asked` differs from this one, by name.
    ///
    /// # Errors
    ///
    /// Where the settings cannot be told as JSON.
    pub fn changes(&self, asked: &Self) -> Result<Vec<SettingChange>> {
        let (saved, asked) = (leaves(&to_json(self)?), leaves(&to_json(asked)?));
        let keys: std::collections::BTreeSet<&String> = saved.keys().chain(asked.keys()).collect();
        let value = |of: &BTreeMap<String, Value>, key: &str| of.get(key).cloned().unwrap_or(Value::Null);
        let changes = keys.into_iter().map(|key| SettingChange {
            key: key.clone(),
            saved: value(&saved, key),
            asked: value(&asked, key),
            refused: refusal(key),
        });
        Ok(changes.filter(|change| change.saved != change.asked).collect())
    }

    /// This configuration with `key=value` for each of the `assignments`: the name of a setting as in
    /// [`SettingChange::key`], and its value as in JSON; a word need not be in quotes, and `null` is for none.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for what is no assignment, a setting that there is not, one that may not change (with the
    /// reason), or a value that it cannot have.
    ///
    /// ```
    /// use candle_radfoam::train::TrainConfig;
    ///
    /// # fn main() -> candle_radfoam::Result<()> {
    /// let config = TrainConfig { steps: Some(60), ..TrainConfig::default() };
    /// assert_eq!(config.with_overrides(&["steps=80"])?.steps, Some(80));
    /// let refused = config.with_overrides(&["sh_degree=2"]).unwrap_err().to_string();
    /// assert!(refused.contains("colours and their moments have its shape"), "{refused}");
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_overrides<S: AsRef<str>>(&self, assignments: &[S]) -> Result<Self> {
        let config = self.assigned("override", assignments, refusal)?;
        config.validate()?;
        Ok(config)
    }

    /// This configuration with `key=value` for each of the `assignments`, written as in
    /// [`TrainConfig::with_overrides`], for a run that is yet to begin: any setting may change. Not validated, since a
    /// plan may be added later.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for what is no assignment, a setting that there is not, or a value that it cannot have.
    ///
    /// ```
    /// use candle_radfoam::train::TrainConfig;
    ///
    /// # fn main() -> candle_radfoam::Result<()> {
    /// let config = TrainConfig::default().with_settings(&["sh_degree=2", "background=black"])?;
    /// assert_eq!(config.sh_degree, 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_settings<S: AsRef<str>>(&self, assignments: &[S]) -> Result<Self> {
        self.assigned("set", assignments, |_| None)
    }

    /// The assignments of `what`, but for those that are `refused` with a reason.
    fn assigned<S: AsRef<str>>(
        &self,
        what: &str,
        assignments: &[S],
        refused: impl Fn(&str) -> Option<&'static str>,
    ) -> Result<Self> {
        let mut config = to_json(self)?;
        for assignment in assignments.iter().map(AsRef::as_ref) {
            let Some((key, value)) = assignment.split_once('=') else {
                return Err(Error::config(what, "key=value", assignment));
            };
            let (key, value) = (key.trim(), value.trim());
            let pointer = format!("/{}", key.replace('.', "/"));
            let Some(place) = config.pointer_mut(&pointer).filter(|place| !place.is_object()) else {
                let known: Vec<String> = leaves(&config).into_keys().filter(|key| refused(key).is_none()).collect();
                return Err(Error::config(what, format!("one of {}", known.join(", ")), key));
            };
            let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
            if let Some(reason) = refused(key).filter(|_| *place != value) {
                let expected = format!("{place}, as the run was begun with ({reason})");
                return Err(Error::config(key, expected, value.to_string()));
            }
            *place = value;
        }
        serde_json::from_value(config)
            .map_err(|error| Error::config(what, "values that the settings can have", error.to_string()))
    }
}

fn to_json(config: &TrainConfig) -> Result<Value> {
    serde_json::to_value(config).map_err(|error| Error::config("config", "what JSON can hold", error.to_string()))
}

/// The values of a tree of settings by their path; a list is one value.
fn leaves(value: &Value) -> BTreeMap<String, Value> {
    fn walk(path: &str, value: &Value, out: &mut BTreeMap<String, Value>) {
        match value.as_object() {
            Some(parts) => parts.iter().for_each(|(key, value)| {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                walk(&path, value, out);
            }),
            None => drop(out.insert(path.to_string(), value.clone())),
        }
    }
    let mut out = BTreeMap::new();
    walk("", value, &mut out);
    out
}
