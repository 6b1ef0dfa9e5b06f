//! Pruning cells that nobody sees, and adding cells where the gradient asks for them.

use super::topology::squared_distance;
use super::{Foam, Topology};
use crate::ops::moved;
use crate::rng::{Rng, Stream};
use crate::{Error, Result};
use candle_core::{Device, Tensor, Var};
use rayon::prelude::*;

/// How cells are removed and added.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RefineConfig {
    /// The number of rounds.
    pub rounds: u32,
    /// Progress (0 to 1) at which the first round comes.
    pub from: f64,
    /// Progress at which the last round has come.
    pub until: f64,
    /// The number of cells to grow to, geometrically over the rounds.
    pub max_cells: usize,
    /// A cell is removed if no ray since the last round gave it, or any neighbour of it, this weight in a colour.
    pub prune_weight: f32,
    /// A new cell stands this share of the way from its parent to the parent's farthest neighbour.
    pub offset: f32,
    /// Length of a random displacement of it, as a share of that offset.
    pub jitter: f32,
}

impl Default for RefineConfig {
    fn default() -> Self {
        Self {
            rounds: 12,
            from: 0.08,
            until: 0.6,
            max_cells: 40_000,
            prune_weight: 0.01,
            // The reference implementation's 0.25 and 0.1.
            offset: 0.25,
            jitter: 0.1,
        }
    }
}

impl RefineConfig {
    /// The number of rounds that should have come at `progress`.
    pub fn rounds_at(&self, progress: f64) -> u32 {
        if progress < self.from || self.rounds == 0 {
            return 0;
        }
        let width = ((self.until - self.from) / f64::from(self.rounds)).max(f64::MIN_POSITIVE);
        (((progress - self.from) / width) as u32).saturating_add(1).min(self.rounds)
    }

    /// The number of cells to have after `round` (from 1), having started with `num_initial`.
    pub fn target(&self, round: u32, num_initial: usize) -> usize {
        let growth = self.max_cells as f64 / num_initial.max(1) as f64;
        (num_initial as f64 * growth.powf(f64::from(round) / f64::from(self.rounds.max(1)))).round() as usize
    }
}

/// What training saw of each cell since the last round.
#[derive(Debug, Clone, Default)]
pub struct RefineStatistics {
    /// `[P]`: the sum over the steps of the norm of the gradient of the cell's position.
    pub gradient: Vec<f32>,
    /// `[P]`: the largest weight that the cell had in a colour.
    pub max_weight: Vec<f32>,
    /// The number of steps seen.
    pub steps: u64,
}

impl RefineStatistics {
    /// Nothing seen yet of `num_cells` cells.
    pub fn new(num_cells: usize) -> Self {
        Self { gradient: vec![0.0; num_cells], max_weight: vec![0.0; num_cells], steps: 0 }
    }

    /// Adds a step: the gradient of the points `[3 P]`, and the largest weight of each cell.
    pub(crate) fn add(&mut self, grad_points: &[f32], weights: &[f32]) {
        (self.gradient.par_iter_mut(), self.max_weight.par_iter_mut(), grad_points.par_chunks(3), weights)
            .into_par_iter()
            .with_min_len(4096)
            .for_each(|(gradient, max_weight, g, &weight)| {
                *gradient += (g[0] * g[0] + g[1] * g[1] + g[2] * g[2]).sqrt();
                *max_weight = max_weight.max(weight);
            });
        self.steps += 1;
    }
}

/// Where the rows of a refined foam come from, for whoever keeps a row per cell (an optimiser's moments).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowMap {
    /// `[P']`: the old row of each new row: itself for a kept cell, its parent for a new one.
    pub source: Vec<u32>,
    /// `[P']`: whether the row is new.
    pub is_new: Vec<bool>,
    /// How many cells were removed.
    pub num_pruned: usize,
}

impl RowMap {
    /// `values` by new row; new cells get zeros with `zero_new`, else their parent's row.
    ///
    /// - `values`: `[.., P, ..]` of floats, with the rows along `dim`.
    ///
    /// # Errors
    ///
    /// Those of Candle, as for a source that is no row of `values`.
    pub fn apply(&self, values: &Tensor, dim: usize, zero_new: bool) -> Result<Tensor> {
        let device = values.device();
        if !device.is_cpu() {
            // Rare, and gone through on the host as all of a refinement is.
            return Ok(moved(&self.apply(&moved(values, &Device::Cpu)?, dim, zero_new)?, device)?);
        }
        let index = Tensor::from_slice(&self.source, self.source.len(), device)?;
        let rows = values.contiguous()?.index_select(&index, dim)?;
        if !zero_new {
            return Ok(rows);
        }
        let keep: Vec<f32> = self.is_new.iter().map(|&new| if new { 0.0 } else { 1.0 }).collect();
        let mut shape = vec![1; rows.rank()];
        shape[dim] = keep.len();
        let keep = Tensor::from_vec(keep, shape, values.device())?.to_dtype(values.dtype())?;
        Ok(rows.broadcast_mul(&keep)?)
    }
}

impl Foam {
    /// Removes the cells that nobody sees, adds cells up to `target` and triangulates anew, in Hilbert order.
    ///
    /// The parents of new cells are drawn without replacement with probability in proportion to gradient times cell
    /// radius; position as in [`RefineConfig`], density and colour from the parent, which stays where it is.
    /// Without replacement by exponential keys: Efraimidis and Spirakis, "Weighted random sampling with a
    /// reservoir", Information Processing Letters 97, 2006.
    ///
    /// Anew, since changing the triangulation would take longer. In 50 s of the chair on one thread, from 10,500 to 40,000
    /// cells, 1 to 75 % of the cells went in each of the twelve rounds and 13 to 79 % came, and the others had moved
    /// since the last triangulation: following them was a triangulation already in nine rounds, removing cells in
    /// eleven (it pays up to a few percent), and following, removing and inserting together took longer than one
    /// triangulation in all twelve, which took 0.8 s together, lists of neighbours included. So the order of the cells,
    /// too, is that of a new foam: along the Hilbert curve, which rays are quickest in.
    ///
    /// # Errors
    ///
    /// Statistics of another number of cells; those of Candle.
    pub fn refine(
        &mut self,
        statistics: &RefineStatistics,
        config: &RefineConfig,
        target: usize,
        seed: u64,
        step: u64,
    ) -> Result<RowMap> {
        let num_cells = self.num_cells();
        for (name, values) in [("refine.gradient", &statistics.gradient), ("refine.max_weight", &statistics.max_weight)]
        {
            if values.len() != num_cells {
                return Err(Error::tensor(name, format!("[{num_cells}]"), format!("[{}]", values.len())));
            }
        }
        let points = self.points_host()?;
        let unseen = |i: usize| statistics.max_weight[i] < config.prune_weight;
        let kept: Vec<u32> = (0..num_cells as u32)
            .into_par_iter()
            .filter(|&i| !(unseen(i as usize) && self.topology.neighbors(i as usize).all(unseen)))
            .collect();
        // A foam of which nobody sees anything is not made better by removing all of it.
        let kept = if kept.is_empty() { (0..num_cells as u32).collect() } else { kept };
        let num_new = target.saturating_sub(kept.len()).min(kept.len());
        let rng = Rng::new(seed, Stream::Refine, step);
        let mut keys: Vec<(f32, u32, u32)> = kept
            .par_iter()
            .filter_map(|&i| {
                let (radius, farthest) = self.size_of(&points, i as usize)?;
                let score = statistics.gradient[i as usize] * radius;
                let exponential = -(1.0 - rng.uniform(2 * i)).ln();
                (score > 0.0).then_some((exponential / score, i, farthest))
            })
            .collect();
        let num_new = num_new.min(keys.len());
        keys.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        keys.truncate(num_new);

        let mut rows: Vec<([f32; 3], u32, bool)> = kept.iter().map(|&i| (points[i as usize], i, false)).collect();
        for (_, parent, farthest) in keys {
            let (from, to) = (points[parent as usize], points[farthest as usize]);
            let length = config.offset * squared_distance(from, to).sqrt();
            let direction = rng.direction(2 * parent + 1);
            let point = [0, 1, 2].map(|axis| {
                from[axis] + config.offset * (to[axis] - from[axis]) + config.jitter * length * direction[axis]
            });
            rows.push((point, parent, true));
        }
        let positions: Vec<[f32; 3]> = rows.iter().map(|row| row.0).collect();
        let order = crate::geometry::hilbert_order(&positions);
        let map = RowMap {
            source: order.iter().map(|&k| rows[k as usize].1).collect(),
            is_new: order.iter().map(|&k| rows[k as usize].2).collect(),
            num_pruned: num_cells - kept.len(),
        };
        let positions: Vec<[f32; 3]> = order.iter().map(|&k| positions[k as usize]).collect();
        self.topology = Topology::build(&positions, super::SENTINEL_RADIUS)?;
        let device = self.points.device().clone();
        self.points = Var::from_vec(positions.concat(), (map.source.len(), 3), &device)?;
        self.raw_density = Var::from_tensor(&map.apply(&self.raw_density, 0, false)?)?;
        self.sh = Var::from_tensor(&map.apply(&self.sh, 0, false)?)?;
        Ok(map)
    }

    /// Radius of a cell (half the mean distance to its real neighbours), and its farthest neighbour.
    fn size_of(&self, points: &[[f32; 3]], cell: usize) -> Option<(f32, u32)> {
        let (mut sum, mut count, mut farthest) = (0.0, 0, (0.0, None));
        for j in self.topology.neighbors(cell) {
            let distance = squared_distance(points[cell], points[j]).sqrt();
            sum += distance;
            count += 1;
            if distance > farthest.0 {
                farthest = (distance, Some(j as u32));
            }
        }
        farthest.1.map(|j| (0.5 * sum / count as f32, j))
    }
}
