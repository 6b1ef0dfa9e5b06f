//! The rays of one step.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, WithDType};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::stats::Counters;
use crate::{Error, Result};

/// Rays a task sums the weights of.
const TASK: usize = 8192;

/// The rays of one step, and what an update needs to know about them.
#[derive(Debug)]
pub struct Draw {
    pub(super) indices: Vec<u32>,
    pub(super) probability: Vec<f32>,
    /// The map entry of each ray, ascending; empty where there is no map.
    pub(super) entries: Vec<u32>,
    /// `N` times the probability that the map alone gives each ray; empty where nobody asks.
    pub(super) densities: Vec<f32>,
    pub(super) header: DrawHeader,
}

/// The scalars of a [`Draw`], ready for a checkpoint's JSON header.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DrawHeader {
    pub(super) num_rays: u32,
    pub(super) generation: u32,
    pub(super) importance_exponent: f32,
    /// The sampler's counters when it was drawn, and after.
    pub(super) before: Counters,
    pub(super) after: Counters,
}

impl Draw {
    /// `[B]` u32, the rays: `index = first pixel of the view + row * width + column`, views in order. They are grouped
    /// by map entry, entries ascending (where an entry is a ray that is ascending order of the rays).
    ///
    /// # Errors
    ///
    /// Where Candle cannot make the tensor.
    pub fn indices(&self) -> Result<Tensor> {
        Ok(Tensor::from_slice(&self.indices, self.len(), &Device::Cpu)?)
    }

    /// `[B]` f32, the probability with which one draw picked each ray, at the time of drawing.
    ///
    /// # Errors
    ///
    /// Where Candle cannot make the tensor.
    pub fn probability(&self) -> Result<Tensor> {
        Ok(Tensor::from_slice(&self.probability, self.len(), &Device::Cpu)?)
    }

    /// [`Draw::indices`] on the host.
    pub fn indices_slice(&self) -> &[u32] {
        &self.indices
    }

    /// [`Draw::probability`] on the host.
    pub fn probability_slice(&self) -> &[f32] {
        &self.probability
    }

    /// The number of rays.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether there are no rays; never so for a draw of a [`Sampler`](super::Sampler).
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// The step that this was drawn for.
    pub fn step(&self) -> u64 {
        self.header.before.step
    }

    /// `[B]` f32, the weights `(1 / (N p))^b` of the rays' losses, with the exponent that the sampler's settings have
    /// for this step.
    ///
    /// # Errors
    ///
    /// Where Candle cannot make the tensor.
    pub fn weights(&self) -> Result<Tensor> {
        self.importance(self.importance_exponent())
    }

    /// Whether `next` is the draw that the same sampler made after this one.
    pub(in crate::data) fn is_just_before(&self, next: &Self) -> bool {
        self.header.after == next.header.before && self.header.generation == next.header.generation
    }

    /// The exponent of [`Draw::weights`]; where it is 0 they are all 1.
    pub fn importance_exponent(&self) -> f32 {
        self.header.importance_exponent
    }

    /// `[B]` f32, the weights `(1 / (N p))^beta` of the rays' losses: with `beta` 1 the mean loss of the batch is an
    /// unbiased estimate of the mean over all `N` rays, with 0 hard rays count for more.
    ///
    /// # Errors
    ///
    /// Where Candle cannot make the tensor.
    pub fn importance(&self, beta: f32) -> Result<Tensor> {
        Ok(Tensor::from_vec(self.importance_vec(beta), self.len(), &Device::Cpu)?)
    }

    /// [`Draw::importance`] on the host.
    pub fn importance_vec(&self, beta: f32) -> Vec<f32> {
        self.inverse_densities().map(|w| w.powf(f64::from(beta)) as f32).collect()
    }

    /// `1 / (N p)` of each ray.
    pub(super) fn inverse_densities(&self) -> impl IndexedParallelIterator<Item = f64> {
        let num_rays = f64::from(self.header.num_rays);
        self.probability.par_iter().map(move |&p| 1.0 / (num_rays * f64::from(p)))
    }

    /// `(sum w)^2 / (B sum w^2)`, added up in tasks of a fixed size and in order.
    pub(super) fn effective_sample_size(&self) -> f64 {
        let num_rays = f64::from(self.header.num_rays);
        let sums_of = |probability: &[f32]| {
            let weights = probability.iter().map(|&p| 1.0 / (num_rays * f64::from(p)));
            weights.fold((0.0, 0.0), |(sum, squares), w| (sum + w, squares + w * w))
        };
        let parts: Vec<(f64, f64)> = self.probability.par_chunks(TASK).map(sums_of).collect();
        let (sum, squares) = parts.into_iter().fold((0.0, 0.0), |(a, b), (sum, squares)| (a + sum, b + squares));
        sum * sum / (self.len() as f64 * squares)
    }

    /// Everything of this draw: named tensors, and a header.
    ///
    /// # Errors
    ///
    /// Where Candle cannot make a tensor.
    pub fn state(&self) -> Result<(BTreeMap<String, Tensor>, DrawHeader)> {
        let mut tensors = BTreeMap::from([
            ("indices".to_string(), self.indices()?),
            ("probability".to_string(), self.probability()?),
        ]);
        if !self.entries.is_empty() {
            tensors.insert("entries".into(), Tensor::from_slice(&self.entries, self.entries.len(), &Device::Cpu)?);
        }
        if !self.densities.is_empty() {
            let densities = Tensor::from_slice(&self.densities, self.densities.len(), &Device::Cpu)?;
            tensors.insert("densities".into(), densities);
        }
        Ok((tensors, self.header))
    }

    /// The draw that [`Draw::state`] was asked of.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] where a tensor is missing or of another kind or length.
    pub fn from_state(tensors: &BTreeMap<String, Tensor>, header: DrawHeader) -> Result<Self> {
        let Some(indices) = tensors.get("indices") else {
            return Err(Error::tensor("indices", "U32 [B]", "no such tensor"));
        };
        let len = indices.elem_count();
        Ok(Self {
            indices: vector("indices", Some(indices), len)?,
            probability: vector("probability", tensors.get("probability"), len)?,
            entries: tensors.get("entries").map_or(Ok(Vec::new()), |t| vector("entries", Some(t), len))?,
            densities: tensors.get("densities").map_or(Ok(Vec::new()), |t| vector("densities", Some(t), len))?,
            header,
        })
    }
}

/// The values of a vector of `len`.
pub(super) fn vector<T: WithDType>(name: &str, tensor: Option<&Tensor>, len: usize) -> Result<Vec<T>> {
    let expected = || format!("{:?} [{len}]", T::DTYPE);
    let Some(tensor) = tensor else {
        return Err(Error::tensor(name, expected(), "no such tensor"));
    };
    if tensor.dims() != [len] || tensor.dtype() != T::DTYPE {
        return Err(Error::tensor(name, expected(), format!("{:?} {:?}", tensor.dtype(), tensor.dims())));
    }
    Ok(tensor.to_vec1()?)
}

/// Checks that there is one finite or other f32 a ray.
pub(in crate::data) fn check_errors(errors: &Tensor, len: usize) -> Result<()> {
    if errors.dims() != [len] || errors.dtype() != DType::F32 {
        let found = format!("{:?} {:?}", errors.dtype(), errors.dims());
        return Err(Error::tensor("errors", format!("F32 [{len}]"), found));
    }
    Ok(())
}
