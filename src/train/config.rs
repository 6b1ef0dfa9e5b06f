//! Everything that decides how a foam is trained.

use super::{PriorConfig, optim::OptimConfig};
use crate::data::SamplerConfig;
use crate::foam::{InitConfig, RefineConfig};
use crate::ops::TraceSettings;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// How a foam is trained; the default is for minutes on a CPU. Lengths are in extents of the scene, rates per step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Steps to train for; the schedules run over them. With a time limit too, whichever comes first.
    pub steps: Option<u64>,
    /// Seconds of training to plan for; the schedules run over them. Evaluation and loading do not count. A run that
    /// is planned by time does not repeat bit for bit, since no two take the same steps in the same time.
    pub time_limit: Option<f64>,
    /// Seed of everything random.
    pub seed: u64,
    /// Degree of the spherical harmonics, 0 to 3.
    pub sh_degree: usize,
    /// Density of a raw density of 1, in 1 / extent of the scene.
    pub density_scale: f64,
    /// What is behind the foam; not given, white for images with alpha. For those without it is random: where nothing
    /// is known to be behind the scene, only what is opaque can look right, and floating fog cannot. Black does as well:
    /// in 75 s on one thread, seed 0 and 40,000 cells, fox 28.89 dB (random 28.61), snowmiku 27.55 (27.81).
    pub background: Option<Background>,
    /// The cells to start with.
    pub init: InitConfig,
    /// Which rays are drawn.
    pub sampler: SamplerConfig,
    /// How far rays are followed.
    pub trace: TraceSettings,
    /// What is minimised.
    pub loss: LossConfig,
    /// What is likely of cells that few rays see.
    pub prior: PriorConfig,
    /// Learning rates and the constants of Adam.
    pub optim: OptimConfig,
    /// When the cells are triangulated anew.
    pub topology: TopologyConfig,
    /// How cells are removed and added.
    pub refine: RefineConfig,
    /// The resolution that is trained on, by progress. In order; the last entry holds to the end, and none at all is
    /// the full resolution throughout.
    pub resolution: Vec<ResolutionStage>,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            steps: None,
            time_limit: None,
            seed: 0,
            sh_degree: 1,
            density_scale: 20.0,
            background: None,
            init: InitConfig::default(),
            sampler: SamplerConfig::default(),
            trace: TraceSettings { transmittance_threshold: 0.01, grazing_cosine: 0.1, ..TraceSettings::default() },
            loss: LossConfig::default(),
            prior: PriorConfig::default(),
            optim: OptimConfig::default(),
            topology: TopologyConfig::default(),
            refine: RefineConfig::default(),
            resolution: Vec::new(),
        }
    }
}

/// What is behind the foam, in training and where it is evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Background {
    /// White, always.
    White,
    /// Black, always.
    Black,
    /// A colour of its own for each training ray, so that only what is opaque can look right; white in evaluation.
    Random,
}

impl Background {
    /// The colour behind test images.
    pub fn evaluation(self) -> [f32; 3] {
        match self {
            Self::White | Self::Random => [1.0; 3],
            Self::Black => [0.0; 3],
        }
    }
}

impl std::str::FromStr for Background {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "white" => Ok(Self::White),
            "black" => Ok(Self::Black),
            "random" => Ok(Self::Random),
            _ => Err(Error::config("background", "white, black or random", text)),
        }
    }
}

/// What is minimised: the mean over the rays of
/// `weight * (|C - C*|^2 / 3 + opacity_weight (A - A*)^2 + quantile_weight |d_a - d_b|)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossConfig {
    /// Weight of the squared difference between opacity and the image's alpha. An image without alpha does not say
    /// what is opaque, and has no such term.
    pub opacity_weight: f32,
    /// Weight of the distance between the depths at two random transmittance quantiles, which gathers density at
    /// surfaces; ramps up linearly over the first half of training. The reference implementation's is 1e-4.
    pub quantile_weight: f32,
    /// Exponent b of the weight `(1 / (N p))^b` of a ray that was drawn with probability p of N. At 1 the loss is an
    /// unbiased estimate of the mean over all rays; at 0 hard rays count for more. Where it is not 0 it takes the place
    /// of `sampler.importance_exponent`, which has a ramp besides.
    pub importance_exponent: f32,
}

impl Default for LossConfig {
    fn default() -> Self {
        Self { opacity_weight: 0.1, quantile_weight: 0.0, importance_exponent: 0.0 }
    }
}

/// When the cells are triangulated anew.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TopologyConfig {
    /// Steps between two looks at how far the points have moved.
    pub check_every: u64,
    /// A point has moved if it is farther from where it was triangulated than this times the distance to its nearest
    /// neighbour.
    pub moved_limit: f32,
    /// The share of moved points beyond which the cells are triangulated anew.
    pub moved_share: f32,
}

impl Default for TopologyConfig {
    fn default() -> Self {
        Self { check_every: 10, moved_limit: 0.6, moved_share: 0.1 }
    }
}

/// A stage of the resolution schedule.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResolutionStage {
    /// Progress (0 to 1) at which the stage ends.
    pub until: f64,
    /// Images are reduced by this factor.
    pub factor: u32,
}

impl TrainConfig {
    /// Checks every setting.
    ///
    /// # Errors
    ///
    /// The first setting that is out of its range.
    pub fn validate(&self) -> Result<()> {
        let check = |ok: bool, field: &str, expected: &str, found: String| {
            if ok { Ok(()) } else { Err(Error::config(field, expected, found)) }
        };
        let positive = |x: f64| x > 0.0 && x.is_finite();
        let share = |x: f64| (0.0..=1.0).contains(&x);
        check(self.steps.is_some() || self.time_limit.is_some(), "steps", "steps or a time limit", "neither".into())?;
        check(self.steps != Some(0), "steps", "at least 1", "0".into())?;
        check(
            self.time_limit.is_none_or(positive),
            "time_limit",
            "positive seconds",
            format!("{:?}", self.time_limit),
        )?;
        check(self.sh_degree <= crate::sh::MAX_DEGREE, "sh_degree", "0 to 3", self.sh_degree.to_string())?;
        check(positive(self.density_scale), "density_scale", "positive", self.density_scale.to_string())?;
        self.sampler.validate()?;
        self.init.validate()?;
        self.optim.validate()?;
        self.prior.validate()?;
        check(self.refine.max_cells > 0, "refine.max_cells", "at least 1", "0".into())?;
        for (field, value) in [
            ("loss.opacity_weight", self.loss.opacity_weight),
            ("loss.quantile_weight", self.loss.quantile_weight),
            ("loss.importance_exponent", self.loss.importance_exponent),
            ("topology.moved_limit", self.topology.moved_limit),
            ("topology.moved_share", self.topology.moved_share),
            ("refine.prune_weight", self.refine.prune_weight),
            ("refine.offset", self.refine.offset),
            ("refine.jitter", self.refine.jitter),
        ] {
            check(value >= 0.0 && value.is_finite(), field, "at least 0", value.to_string())?;
        }
        check(self.topology.check_every > 0, "topology.check_every", "at least 1", "0".into())?;
        let range = share(self.refine.from) && share(self.refine.until) && self.refine.from <= self.refine.until;
        check(
            range,
            "refine.from",
            "0 to 1, before refine.until",
            format!("{}..{}", self.refine.from, self.refine.until),
        )?;
        self.trace.validate()?;
        for stage in &self.resolution {
            check(stage.factor >= 1, "resolution.factor", "at least 1", stage.factor.to_string())?;
            check(share(stage.until), "resolution.until", "0 to 1", stage.until.to_string())?;
        }
        let ascending = self.resolution.windows(2).all(|pair| pair[0].until < pair[1].until);
        check(ascending, "resolution.until", "ascending", "out of order".into())
    }

    /// What the settings stand for in a run that begins with them on a capture whose images have alpha (`has_alpha`) and
    /// which has a point cloud (`has_cloud`): the background, initial cells no more than `refine.max_cells`, the
    /// sampler's seed that of the run, and its `importance_exponent` that of the loss where that is not 0.
    ///
    /// ```
    /// use candle_radfoam::train::{Background, TrainConfig};
    ///
    /// let config = TrainConfig { seed: 3, ..TrainConfig::default() }.filled_in(true, false);
    /// assert_eq!((config.background, config.sampler.seed), (Some(Background::White), 3));
    /// ```
    pub fn filled_in(mut self, has_alpha: bool, has_cloud: bool) -> Self {
        let backdrop = if has_alpha { Background::White } else { Background::Random };
        self.background = self.background.or(Some(backdrop));
        self.init = self.init.capped(self.refine.max_cells, has_cloud);
        self.sampler.seed = self.seed;
        if self.loss.importance_exponent != 0.0 {
            self.sampler.importance_exponent = self.loss.importance_exponent;
        }
        self
    }

    /// The number of cells to grow to in a run planned for `cpu_seconds` of CPU time (seconds times threads): more
    /// cells show more, and cost rays. The optimum is flat: on the chair of the README, 60,000 and 90,000 cells score
    /// within 0.1 dB of each other at 75 CPU seconds.
    pub fn cells_for(cpu_seconds: f64) -> usize {
        const CELLS_AT_ONE_SECOND: f64 = 8_000.0;
        let cells = CELLS_AT_ONE_SECOND * cpu_seconds.max(1.0).sqrt();
        (cells as usize).clamp(10_000, 400_000)
    }

    /// The factor by which images are reduced at `progress`.
    pub fn resolution_at(&self, progress: f64) -> u32 {
        let stage = self.resolution.iter().find(|stage| progress < stage.until).or(self.resolution.last());
        stage.map_or(1, |stage| stage.factor)
    }
}
