//! A foam as plain arrays, the way files of other programs hold it.

use crate::{Error, Result};
use std::path::Path;

/// The numbers of SH coefficients a channel of degrees 0 to 3.
pub(super) const COEFFICIENTS: [usize; 4] = [1, 4, 9, 16];

/// One density a cell.
#[derive(Debug, Clone, PartialEq)]
pub enum Density {
    /// `[P]`: the parameter, of which `softplus(x) = ln(1 + e^(10 x)) / 10` times a scale is the density.
    Raw(Vec<f32>),
    /// `[P]`: the density itself, 1 / unit of length, at least 0.
    Activated(Vec<f32>),
}

impl Density {
    /// The values, whichever they are.
    pub fn values(&self) -> &[f32] {
        match self {
            Self::Raw(values) | Self::Activated(values) => values,
        }
    }
}

/// A foam as plain arrays; [`crate::foam::Foam::to_scene`] and [`crate::foam::Foam::from_scene`] convert.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    /// `[P]`: the Voronoi sites.
    pub points: Vec<[f32; 3]>,
    /// `[P]`: their densities.
    pub density: Density,
    /// K, the SH coefficients a channel: 1, 4, 9 or 16.
    pub num_coefficients: usize,
    /// `[P, K, 3]`: SH coefficients of red, green and blue, in the order of [`crate::sh::basis`].
    pub sh: Vec<f32>,
    /// `[P + 1]`: the neighbours of cell `i` are `neighbors[offsets[i]..offsets[i + 1]]`.
    pub offsets: Vec<u32>,
    /// `[E]`: cell indices, below P.
    pub neighbors: Vec<u32>,
}

impl Scene {
    /// Checks that the arrays belong together: their lengths, finite values, no negative density, offsets that ascend
    /// from 0 to E, neighbours below P.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] for the first array of which that is not true.
    pub fn validate(&self) -> Result<()> {
        let num_cells = self.points.len();
        let wrong = |name: &str, expected: String, found: String| Err(Error::tensor(name, expected, found));
        let count = |name: &str, expected: usize, found: usize| {
            if expected == found { Ok(()) } else { wrong(name, format!("{expected} values"), found.to_string()) }
        };
        if num_cells == 0 {
            return wrong("points", "at least one".into(), "none".into());
        }
        if !COEFFICIENTS.contains(&self.num_coefficients) {
            return wrong("sh", "1, 4, 9 or 16 coefficients a channel".into(), self.num_coefficients.to_string());
        }
        count("density", num_cells, self.density.values().len())?;
        count("sh", num_cells * self.num_coefficients * 3, self.sh.len())?;
        count("offsets", num_cells + 1, self.offsets.len())?;
        let floats = [("points", self.points.as_flattened()), ("density", self.density.values()), ("sh", &self.sh)];
        for (name, values) in floats {
            if let Some(at) = values.iter().position(|x| !x.is_finite()) {
                return wrong(name, "finite values".into(), format!("{} at {at}", values[at]));
            }
        }
        if let Density::Activated(values) = &self.density
            && let Some(cell) = values.iter().position(|&x| x < 0.0)
        {
            return wrong("density", "at least 0".into(), format!("{} at cell {cell}", values[cell]));
        }
        let ends = [self.offsets.first(), self.offsets.last()].map(|end| end.map(|&end| end as usize));
        if ends != [Some(0), Some(self.neighbors.len())] {
            let expected = format!("from 0 to {}", self.neighbors.len());
            return wrong("offsets", expected, format!("from {:?} to {:?}", self.offsets.first(), self.offsets.last()));
        }
        if let Some(cell) = self.offsets.windows(2).position(|pair| pair[0] > pair[1]) {
            let found = format!("{} and then {} at cell {cell}", self.offsets[cell], self.offsets[cell + 1]);
            return wrong("offsets", "ascending".into(), found);
        }
        if let Some(edge) = self.neighbors.iter().position(|&cell| cell as usize >= num_cells) {
            return wrong("neighbors", format!("below {num_cells}"), format!("{} at {edge}", self.neighbors[edge]));
        }
        Ok(())
    }

    /// [`Scene::validate`], with errors that name the file.
    pub(super) fn validated(self, path: &Path) -> Result<Self> {
        match self.validate() {
            Err(Error::Tensor { name, expected, found }) => Err(Error::file(path, name, expected, found)),
            checked => checked.map(|()| self),
        }
    }
}
