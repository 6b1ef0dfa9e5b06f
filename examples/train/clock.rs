//! What the clocks of a run said, and how it did by then.

use serde::{Deserialize, Serialize};

use crate::support::checkpoint::CLOCK;
use crate::support::folder::RunFolder;

/// What the clocks said at a checkpoint; beside it, for no two runs agree on them.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Clock {
    pub step: u64,
    pub seconds: f64,
    pub cpu_seconds: Option<f64>,
    pub curve: Vec<Look>,
}

impl Clock {
    /// The clock in a run's folder; at zero if it was lost, which hurts no result but the times.
    pub fn read(folder: &RunFolder) -> Self {
        let path = folder.path().join(CLOCK);
        if !path.exists() {
            return Self::default();
        }
        let clock = std::fs::read_to_string(&path).map_err(anyhow::Error::from);
        clock.and_then(|text| Ok(serde_json::from_str(&text)?)).unwrap_or_else(|error| {
            eprintln!("warning: {}: {error}; its times are lost", path.display());
            Self::default()
        })
    }
}

/// A point of the curve in result.json.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Look {
    pub seconds: f64,
    pub cpu_seconds: Option<f64>,
    pub step: u64,
    pub rays: u64,
    /// Test views that were scored: the same ones for every point of a run.
    pub views: usize,
    pub psnr_db: f64,
}
