//! Settings for what a run is for.

use super::{OptimConfig, PriorConfig, Rate, TrainConfig};
use crate::data::{SamplerConfig, Strategy};
use crate::foam::{InitConfig, RefineConfig};
use crate::ops::{AdamSettings, TraceSettings};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// What a run is for. Each but the last is planned for a time on a CPU, and leaves it to whoever knows the number of
/// threads to plan the cells for it ([`TrainConfig::cells_for`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// 20 seconds: does the capture load, are the cameras where they should be, is the subject in the middle?
    Fast,
    /// A minute: something to look at, and what every comparison in the README begins with.
    #[default]
    Default,
    /// A quarter of an hour, for pictures to keep. Some photographs gain little over [`Preset::Default`]: they begin to be
    /// learned by heart.
    Best,
    /// The schedule of the reference implementation (Govindarajan et al., "Radiant Foam", ICCV 2025), for comparison:
    /// 20,000 steps of a million rays drawn evenly, days on a CPU. Steps, rays, SH degree, rates and their ends, Adam,
    /// weights of the loss, and when and how far cells grow are its own; lengths are in extents of the scene where its
    /// are absolute, rates decay exponentially where its follow a cosine, and no group of parameters is warmed up or
    /// frozen.
    Reference,
}

impl Preset {
    /// All of them, the quickest first.
    pub const ALL: [Self; 4] = [Self::Fast, Self::Default, Self::Best, Self::Reference];

    /// Its name, as it is parsed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Default => "default",
            Self::Best => "best",
            Self::Reference => "reference",
        }
    }

    /// Whether `refine.max_cells` is to be planned for the time of the run; the reference has a number of its own.
    pub fn plans_cells(self) -> bool {
        self != Self::Reference
    }
}

impl std::fmt::Display for Preset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Preset {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|preset| preset.name() == text);
        found.ok_or_else(|| Error::config("preset", "fast, default, best or reference", text))
    }
}

impl TrainConfig {
    /// The settings of a preset, which pass [`TrainConfig::validate`] as they are.
    ///
    /// ```
    /// use candle_radfoam::train::{Preset, TrainConfig};
    ///
    /// let config = TrainConfig { seed: 7, ..TrainConfig::preset(Preset::Best) };
    /// assert_eq!(config.time_limit, Some(900.0));
    /// assert_eq!(TrainConfig::preset(Preset::Reference).steps, Some(20_000));
    /// ```
    pub fn preset(preset: Preset) -> Self {
        let timed = |seconds: f64| Self { time_limit: Some(seconds), ..Self::default() };
        match preset {
            Preset::Fast => timed(20.0),
            Preset::Default => timed(60.0),
            Preset::Best => timed(900.0),
            Preset::Reference => reference(),
        }
    }
}

/// The reference implementation's `configs/mipnerf360_indoor.yaml` and what its code has built in.
fn reference() -> TrainConfig {
    let defaults = TrainConfig::default();
    TrainConfig {
        steps: Some(20_000),
        sh_degree: 3,
        density_scale: 1.0,
        init: InitConfig {
            num_cells: 131_072,
            // The reference's cloud cells have densities drawn from [0, 1).
            cloud_raw_density: 0.5,
            outer_raw_density: -0.5,
            camera_clearance: 0.0,
            ..defaults.init
        },
        sampler: SamplerConfig { strategy: Strategy::None, batch_size: 1_000_000, ..defaults.sampler },
        trace: TraceSettings::default(),
        // Its smooth L1 is half the squared error on colours in [0, 1], which halves the weight of that against these.
        loss: super::LossConfig { opacity_weight: 2.0, quantile_weight: 2e-4, ..defaults.loss },
        optim: OptimConfig {
            points: Rate { initial: 2e-4, last: 5e-6 },
            density: Rate { initial: 0.1, last: 0.01 },
            color: Rate { initial: 5e-3, last: 5e-4 },
            sh_factor: 0.1,
            adam: AdamSettings { beta1: 0.9, beta2: 0.999, eps: 1e-15 },
        },
        refine: RefineConfig {
            // From step 2,000 to 11,000, by a factor of 1.15 a round from 131,072 cells.
            rounds: 20,
            from: 0.1,
            until: 0.55,
            max_cells: 2_097_152,
            prune_weight: 0.01,
            offset: 0.25,
            jitter: 0.1,
        },
        // It has none.
        prior: PriorConfig { density: 0.0, smooth_color: 0.0, free_space: 0.0, ..defaults.prior },
        ..defaults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid_and_found_by_name() -> Result<()> {
        for preset in Preset::ALL {
            TrainConfig::preset(preset).validate()?;
            assert_eq!(preset.name().parse::<Preset>()?, preset);
            assert_eq!(serde_json::json!(preset), preset.name());
        }
        assert_eq!(Preset::ALL.map(Preset::plans_cells), [true, true, true, false]);
        assert_eq!(TrainConfig::preset(Preset::Reference).prior.free_space, 0.0);
        let refused = "slow".parse::<Preset>().expect_err("no preset").to_string();
        assert!(refused.contains("fast, default, best or reference") && refused.contains("slow"), "{refused}");
        Ok(())
    }

    /// Only the plan differs where a preset is for a time.
    #[test]
    fn the_settings_of_the_timed_presets_are_the_defaults() {
        for preset in [Preset::Fast, Preset::Default, Preset::Best] {
            let config = TrainConfig { time_limit: None, ..TrainConfig::preset(preset) };
            assert_eq!(config, TrainConfig::default(), "{preset}");
        }
    }
}
