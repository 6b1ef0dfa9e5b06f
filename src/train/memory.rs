//! How much memory a run will take.

use std::fmt;

use super::TrainConfig;
use crate::data::{Dataset, Strategy};

/// Copies of the values of a cell: parameter, gradient and two moments, and what gradients are summed in; and while a checkpoint is written and cells are
/// refined, more of all but the gradient. Measured.
const COPIES: u64 = 12;
/// Bytes of a cell besides: its neighbours, faces and part of the triangulation. Measured.
const BYTES_PER_CELL: u64 = 700;
/// Bytes of a ray of a batch: the ray, its colours, its draw, what is kept of its way. Measured.
const BYTES_PER_RAY: u64 = 95;
/// Bytes of an entry of the error map: its value, its part of the sums, and a copy in a checkpoint, which its own file
/// shares. Measured.
const BYTES_PER_ENTRY: u64 = 9;

/// What a run takes at its largest, in bytes, beyond the program itself and the file cache.
///
/// It is the sum of what grows: pixels (the views are held once more, as a store to draw from), cells up to
/// `refine.max_cells`, the rays of a batch (twice with a lag), and the error map. The estimate is meant to be within a
/// third of the truth for runs of more than some ten megabytes.
///
/// ```
/// use candle_radfoam::data::{LoadOptions, load, synthetic};
/// use candle_radfoam::train::{MemoryEstimate, TrainConfig};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let folder = tempfile::tempdir()?;
/// let options = synthetic::SyntheticOptions { size: 16, train_views: 4, test_views: 1, ..Default::default() };
/// synthetic::write_capture(folder.path(), &options, &|_, _| {})?;
/// let dataset = load(folder.path(), &LoadOptions::default())?;
/// let estimate = MemoryEstimate::of(&TrainConfig::default(), &dataset);
/// assert!(estimate.cells > estimate.images);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// Of the images of all views, which are there once the capture is loaded.
    pub images: u64,
    /// Of the training pixels as a store.
    pub pixels: u64,
    /// Of the cells, optimiser and a checkpoint under way included.
    pub cells: u64,
    /// Of the batches.
    pub rays: u64,
    /// Of the error map.
    pub error_map: u64,
}

impl MemoryEstimate {
    /// The estimate for a run with `config` on `dataset`.
    pub fn of(config: &TrainConfig, dataset: &Dataset) -> Self {
        let bytes = |views: &[crate::data::View]| views.iter().map(|view| view.image.data.len() as u64).sum::<u64>();
        // Settings may be any numbers: what is too large for a sum is too large for the machine, too.
        let coefficients = (config.sh_degree as u64).saturating_add(1).saturating_pow(2);
        let values = coefficients.saturating_mul(3).saturating_add(3 + 1);
        let cells = config.refine.max_cells as u64;
        let in_flight = if config.sampler.lag > 0 { 2 } else { 1 };
        let patch = config.sampler.map_patch();
        let patches = |view: &crate::data::View| {
            u64::from(view.camera.width.div_ceil(patch)) * u64::from(view.camera.height.div_ceil(patch))
        };
        let entries: u64 = match config.sampler.strategy {
            Strategy::None => 0,
            _ => dataset.train.iter().map(patches).fold(0, u64::saturating_add),
        };
        Self {
            images: bytes(&dataset.train) + bytes(&dataset.test),
            pixels: bytes(&dataset.train),
            cells: cells.saturating_mul(values.saturating_mul(4 * COPIES).saturating_add(BYTES_PER_CELL)),
            rays: (config.sampler.batch_size as u64).saturating_mul(BYTES_PER_RAY * in_flight),
            error_map: entries.saturating_mul(BYTES_PER_ENTRY),
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.to_come().saturating_add(self.images)
    }

    /// What is not there yet when the capture is loaded.
    pub fn to_come(&self) -> u64 {
        [self.cells, self.rays, self.error_map].into_iter().fold(self.pixels, u64::saturating_add)
    }

    /// What to change so that `available` bytes may do for what is to come, the largest part first; empty where they do.
    pub fn advice(&self, available: u64, config: &TrainConfig) -> Vec<String> {
        let needed = self.to_come();
        if needed <= available {
            return Vec::new();
        }
        // A share of each part that would do if the other parts stay.
        let left_for = |part: u64| (available.saturating_sub(needed - part)) as f64 / part.max(1) as f64;
        let mut parts = [
            (self.cells, "cells", config.refine.max_cells),
            (self.rays, "rays", config.sampler.batch_size),
            (self.pixels.saturating_add(self.error_map), "pixels", 0),
        ];
        parts.sort_by_key(|&(bytes, ..)| std::cmp::Reverse(bytes));
        let advice = parts.into_iter().filter(|&(bytes, ..)| bytes > needed / 10).map(|(bytes, name, count)| {
            let share = left_for(bytes);
            // Of what is beyond counting there is no share.
            let most = if bytes < u64::MAX { (count as f64 * share) as usize } else { 0 };
            match name {
                "pixels" if share > 0.0 => format!("--downsample {} or more", share.recip().sqrt().ceil()),
                "pixels" => "--downsample".to_string(),
                "cells" if most > 0 => format!("--max-cells {most} or fewer"),
                "cells" => "fewer --max-cells".to_string(),
                _ if most > 0 => format!("--rays-per-batch {most} or fewer"),
                _ => "fewer --rays-per-batch".to_string(),
            }
        });
        advice.collect()
    }
}

/// The parts in megabytes.
impl fmt::Display for MemoryEstimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabytes = |bytes: u64| bytes.div_ceil(1_000_000);
        write!(
            f,
            "{} MB: images {}, pixels {}, cells {}, rays {}, error map {}",
            megabytes(self.total()),
            megabytes(self.images),
            megabytes(self.pixels),
            megabytes(self.cells),
            megabytes(self.rays),
            megabytes(self.error_map)
        )
    }
}
