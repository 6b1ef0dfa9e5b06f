//! Adam over named parameters, with rates that follow a schedule and moments that follow the cells.

use crate::foam::RowMap;
use crate::ops::{AdamSettings, adam_step, zero_moments};
use crate::{Error, Result};
use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A learning rate that decays exponentially: `initial * (last / initial)^progress`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// At progress 0.
    pub initial: f64,
    /// At progress 1.
    #[serde(rename = "final")]
    pub last: f64,
}

impl Rate {
    /// The rate at `progress` in [0, 1].
    pub fn at(&self, progress: f64) -> f64 {
        if self.initial == 0.0 { 0.0 } else { self.initial * (self.last / self.initial).powf(progress) }
    }
}

/// Learning rates by parameter group, and the constants of Adam.
///
/// The defaults are higher than the reference implementation's (colours by twenty times, densities by two): those are
/// for 20,000 steps of a million rays, these for some thousand steps of some ten thousand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimConfig {
    /// Of the points, in extents of the scene.
    pub points: Rate,
    /// Of the raw densities.
    pub density: Rate,
    /// Of the constant SH coefficients.
    pub color: Rate,
    /// Of the other SH coefficients, as a multiple of that.
    pub sh_factor: f64,
    /// The constants of Adam.
    pub adam: AdamSettings,
}

impl Default for OptimConfig {
    fn default() -> Self {
        Self {
            points: Rate { initial: 2e-3, last: 1e-4 },
            density: Rate { initial: 0.2, last: 0.02 },
            color: Rate { initial: 0.1, last: 0.01 },
            sh_factor: 0.2,
            adam: AdamSettings::default(),
        }
    }
}

impl OptimConfig {
    /// Checks every setting.
    ///
    /// # Errors
    ///
    /// The first setting that is out of its range.
    pub fn validate(&self) -> Result<()> {
        for (field, rate) in [("points", self.points), ("density", self.density), ("color", self.color)] {
            let ok = |x: f64| x >= 0.0 && x.is_finite();
            if !ok(rate.initial) || !ok(rate.last) || (rate.initial > 0.0) != (rate.last > 0.0) {
                let found = format!("{} to {}", rate.initial, rate.last);
                return Err(Error::config(format!("optim.{field}"), "both positive, or both 0", found));
            }
        }
        if !(self.sh_factor >= 0.0 && self.sh_factor.is_finite()) {
            return Err(Error::config("optim.sh_factor", "at least 0", self.sh_factor.to_string()));
        }
        self.adam.validate().map_err(|error| match error {
            Error::Config { field, expected, found } => Error::config(format!("optim.{field}"), expected, found),
            other => other,
        })
    }
}

/// A parameter, its moments and its learning rates.
#[derive(Debug)]
struct Group {
    name: String,
    var: Var,
    /// `[2, ..]`.
    moments: Tensor,
    /// Repeated along the flattened parameter.
    rates: Vec<f64>,
}

/// Adam with its state in the open: by name, so that it can be saved, and by row, so that cells can come and go.
///
/// Also an optimiser of Candle's ([`candle_nn::Optimizer`]), for loops of one's own. Not `Clone`: two copies would
/// update the same variables.
#[derive(Debug)]
pub struct Adam {
    groups: Vec<Group>,
    settings: AdamSettings,
    count: u64,
}

impl Adam {
    /// Adam for the named parameters, with a rate of 0 until [`Adam::set_rates`].
    ///
    /// # Errors
    ///
    /// A parameter that is neither f32 nor f64; a setting out of its range.
    pub fn for_named(vars: &[(&str, &Var)], settings: AdamSettings) -> Result<Self> {
        settings.validate()?;
        let groups = vars
            .iter()
            .map(|(name, var)| {
                let moments = zero_moments(var)?;
                Ok(Group { name: (*name).to_string(), var: (*var).clone(), moments, rates: vec![0.0] })
            })
            .collect::<Result<_>>()?;
        Ok(Self { groups, settings, count: 0 })
    }

    fn group(&mut self, name: &str) -> Result<&mut Group> {
        let known: Vec<String> = self.groups.iter().map(|group| group.name.clone()).collect();
        self.groups
            .iter_mut()
            .find(|group| group.name == name)
            .ok_or_else(|| Error::tensor(name, format!("one of {known:?}"), "no such parameter"))
    }

    /// Sets the rates of a parameter: one for all of it, or one per column of its rows.
    ///
    /// # Errors
    ///
    /// No parameter of that name.
    pub fn set_rates(&mut self, name: &str, rates: Vec<f64>) -> Result<()> {
        self.group(name)?.rates = rates;
        Ok(())
    }

    /// The number of updates so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// One update from the gradients, named as the parameters; a parameter without a gradient stays as it is.
    ///
    /// # Errors
    ///
    /// Those of [`adam_step`]: a gradient of another shape, dtype or device.
    pub fn update(&mut self, grads: &[(&str, &Tensor)]) -> Result<()> {
        self.count += 1;
        for group in &self.groups {
            if let Some((_, grad)) = grads.iter().find(|(name, _)| *name == group.name) {
                adam_step(&group.var, grad, &group.moments, &group.rates, self.count, &self.settings)?;
            }
        }
        Ok(())
    }

    /// Follows a refinement: the parameter `name` is now `var`, whose rows come from the old ones by `map`. The
    /// moments of kept rows are kept, those of new rows start at zero.
    ///
    /// # Errors
    ///
    /// No parameter of that name; a `var` that has not one row for each of `map`, or rows of another shape; a map from
    /// rows that the old parameter did not have. Nothing has changed then.
    pub fn follow(&mut self, name: &str, var: &Var, map: &RowMap) -> Result<()> {
        let group = self.group(name)?;
        let moments = map.apply(&group.moments, 1, true)?;
        if &moments.dims()[1..] != var.dims() {
            return Err(Error::tensor(name, format!("{:?}", &moments.dims()[1..]), format!("{:?}", var.dims())));
        }
        group.moments = moments;
        group.var = var.clone();
        Ok(())
    }

    /// Copies of the moments by parameter name (updates happen in place), and the number of updates.
    ///
    /// # Errors
    ///
    /// Those of Candle.
    pub fn state(&self) -> Result<(BTreeMap<String, Tensor>, u64)> {
        let copy = |group: &Group| Ok((group.name.clone(), group.moments.copy()?));
        Ok((self.groups.iter().map(copy).collect::<Result<_>>()?, self.count))
    }

    /// Takes over a [`Adam::state`].
    ///
    /// # Errors
    ///
    /// Moments that are missing or of another shape.
    pub fn restore(&mut self, moments: &BTreeMap<String, Tensor>, count: u64) -> Result<()> {
        for group in &mut self.groups {
            let expected = format!("{:?} {:?}", group.moments.dtype(), group.moments.dims());
            match moments.get(&group.name) {
                Some(tensor) if tensor.dims() == group.moments.dims() && tensor.dtype() == group.moments.dtype() => {
                    group.moments = tensor.copy()?;
                }
                Some(tensor) => {
                    return Err(Error::tensor(
                        format!("optim.{}", group.name),
                        expected,
                        format!("{:?} {:?}", tensor.dtype(), tensor.dims()),
                    ));
                }
                None => return Err(Error::tensor(format!("optim.{}", group.name), expected, "no such tensor")),
            }
        }
        self.count = count;
        Ok(())
    }
}

/// The learning rate and constants of [`Adam`] as Candle's optimiser.
#[derive(Debug, Clone)]
pub struct AdamConfig {
    /// One rate for all parameters.
    pub learning_rate: f64,
    /// The constants.
    pub settings: AdamSettings,
}

impl candle_nn::Optimizer for Adam {
    type Config = AdamConfig;

    fn new(vars: Vec<Var>, config: AdamConfig) -> candle_core::Result<Self> {
        config.settings.validate().map_err(candle_core::Error::wrap)?;
        let groups = vars
            .into_iter()
            .enumerate()
            .map(|(i, var)| {
                let moments = zero_moments(&var)?;
                Ok(Group { name: i.to_string(), var, moments, rates: vec![config.learning_rate] })
            })
            .collect::<candle_core::Result<_>>()?;
        Ok(Self { groups, settings: config.settings, count: 0 })
    }

    fn step(&mut self, grads: &GradStore) -> candle_core::Result<()> {
        self.count += 1;
        for group in &self.groups {
            if let Some(grad) = grads.get(&group.var) {
                adam_step(&group.var, grad, &group.moments, &group.rates, self.count, &self.settings)?;
            }
        }
        Ok(())
    }

    fn learning_rate(&self) -> f64 {
        self.groups.first().and_then(|group| group.rates.first()).copied().unwrap_or(0.0)
    }

    fn set_learning_rate(&mut self, rate: f64) {
        for group in &mut self.groups {
            group.rates = vec![rate];
        }
    }
}
