//! Values that are not finite: which tensor has the first of them.

use num_traits::Float;
use rayon::prelude::*;

use super::Trainer;
use crate::foam::with_values;
use crate::{Error, Result};

/// Values that one thread looks at, at a time.
const CHUNK: usize = 1 << 14;

/// The values of a tensor that are not finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NonFinite {
    /// How many there are.
    pub count: usize,
    /// Where the first of them is, counted row by row.
    pub first: usize,
}

impl NonFinite {
    /// Those among `values`, if there are any.
    pub fn of<T: Float + Sync>(values: &[T]) -> Option<Self> {
        // No branch on a value: vector code looks at many at once.
        let all_finite = |part: &[T]| part.iter().fold(true, |all, x| all & x.is_finite());
        if values.par_chunks(CHUNK).all(all_finite) {
            return None;
        }
        let first = values.iter().position(|x| !x.is_finite())?;
        let count = values.iter().filter(|x| !x.is_finite()).count();
        Some(Self { count, first })
    }
}

impl Trainer {
    pub(super) fn require_finite(&self, tensor: &str, found: Option<NonFinite>) -> Result<()> {
        let Some(NonFinite { count, first }) = found else { return Ok(()) };
        Err(Error::NonFinite { tensor: tensor.into(), count, first, step: self.step })
    }

    /// Checks that every value of every parameter is finite.
    ///
    /// # Errors
    ///
    /// [`Error::NonFinite`] for the first parameter that has any.
    pub fn check_parameters(&self) -> Result<()> {
        for (name, var) in self.foam.named_vars() {
            self.require_finite(name, with_values(var, NonFinite::of::<f32>)?)?;
        }
        Ok(())
    }

    /// As [`Trainer::check_parameters`], and of everything else that the next step starts from: moments, statistics of
    /// the cells, error map. Moments can be infinite some steps before a parameter is; a checkpoint holds neither.
    ///
    /// # Errors
    ///
    /// [`Error::NonFinite`] for the first tensor that has any.
    pub fn check_state(&self) -> Result<()> {
        self.check_parameters()?;
        for (name, tensor) in self.optimizer.state()?.0 {
            self.require_finite(&format!("optim.{name}"), with_values(&tensor, NonFinite::of::<f32>)?)?;
        }
        let statistics = self.statistics()?;
        self.require_finite("refine.gradient", NonFinite::of(&statistics.gradient))?;
        self.require_finite("refine.max_weight", NonFinite::of(&statistics.max_weight))?;
        match self.sampler().state()?.0.get("error_map") {
            Some(map) => self.require_finite("sampler.error_map", with_values(map, NonFinite::of::<f32>)?),
            None => Ok(()),
        }
    }

    /// Takes steps up to `last`, looking at everything after each: the first tensor that is not finite, as the error
    /// that says so, or `None`. After each step `between` is called, as for [`Trainer::set_seconds`].
    ///
    /// # Errors
    ///
    /// Those of [`Trainer::step`] that are about something else.
    pub fn find_non_finite(&mut self, last: u64, mut between: impl FnMut(&mut Self)) -> Result<Option<Error>> {
        while self.step <= last {
            match self.check_state().and_then(|()| self.step()) {
                Err(error @ Error::NonFinite { .. }) => return Ok(Some(error)),
                Err(error) => return Err(error),
                Ok(_) => between(self),
            }
        }
        Ok(None)
    }
}
