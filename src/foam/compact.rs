//! A foam in few bytes, for rendering only.

use super::{Foam, with_values};
use crate::checkpoint::Checkpoint;
use crate::{Error, Result};
use candle_core::{DType, Tensor};
use half::f16;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// The largest step of a signed byte, so that zero and both signs of a value have one.
const LEVELS: f32 = 127.0;

/// The byte that stands for zero.
const ZERO_LEVEL: f32 = 128.0;

/// How the colours of a compact foam are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShPrecision {
    /// Half precision: eleven bits.
    F16,
    /// The upper half of an f32: eight bits, of any size.
    Bf16,
    /// A byte each, in units of the cell's largest coefficient: one unit for the constant ones, one for the others.
    U8,
}

impl FromStr for ShPrecision {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "f16" => Ok(Self::F16),
            "bf16" => Ok(Self::Bf16),
            "u8" => Ok(Self::U8),
            _ => Err(Error::config("sh", "f16, bf16 or u8", text)),
        }
    }
}

impl fmt::Display for ShPrecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::U8 => "u8",
        })
    }
}

impl Foam {
    /// What rendering needs, by tensor name, under `foam.`: as [`Foam::state`], with `sh` in `precision` and without
    /// the points of the last triangulation. [`Foam::from_checkpoint`] reads it; no run can go on from it.
    ///
    /// | tensor | type and shape |
    /// |---|---|
    /// | `foam.points`, `foam.raw_density` | f32 `[P, 3]`, `[P]` |
    /// | `foam.sh` | f16, bf16 or u8 `[P, K, 3]` |
    /// | `foam.sh_scale` | with u8 only: f16 `[P, 2]`; the coefficient is `(byte - 128) / 127` times the first for the constant one, the second for all others |
    /// | `foam.offsets`, `foam.neighbors` | u32 `[P + 9]`, `[E]` |
    /// | `foam.sentinels` | f32 `[8, 3]` |
    ///
    /// # Errors
    ///
    /// A coefficient that the precision cannot hold.
    pub fn compact_state(&self, precision: ShPrecision) -> Result<BTreeMap<String, Tensor>> {
        let mut tensors = self.state()?;
        tensors.remove("foam.built_at");
        let (device, sentinels) = (self.points().device(), self.topology().sentinels());
        let sentinels = Tensor::from_slice(sentinels.as_flattened(), (sentinels.len(), 3), device)?;
        tensors.insert("foam.sentinels".into(), sentinels);
        let (num_cells, k) = (self.num_cells(), self.num_coefficients());
        let sh = match precision {
            ShPrecision::F16 => self.sh().to_dtype(DType::F16)?,
            ShPrecision::Bf16 => self.sh().to_dtype(DType::BF16)?,
            ShPrecision::U8 => {
                let (bytes, scales) = with_values(self.sh(), |sh: &[f32]| quantised(sh, k))?;
                tensors.insert("foam.sh_scale".into(), Tensor::from_vec(scales, (num_cells, 2), device)?);
                Tensor::from_vec(bytes, (num_cells, k, 3), device)?
            }
        };
        tensors.insert("foam.sh".into(), sh);
        for name in ["foam.sh", "foam.sh_scale"] {
            let Some(tensor) = tensors.get(name).filter(|tensor| tensor.dtype() != DType::U8) else { continue };
            let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
            if values.iter().any(|value| !value.is_finite()) {
                let largest = with_values(self.sh(), |sh: &[f32]| sh.iter().fold(0f32, |most, x| most.max(x.abs())))?;
                return Err(Error::tensor(name, format!("values that {precision} can hold"), largest.to_string()));
            }
        }
        Ok(tensors)
    }
}

/// The coefficients of cells in bytes, and two scales a cell.
fn quantised(sh: &[f32], num_coefficients: usize) -> (Vec<u8>, Vec<f16>) {
    let mut bytes = Vec::with_capacity(sh.len());
    let mut scales = Vec::with_capacity(2 * sh.len() / (3 * num_coefficients));
    for cell in sh.chunks_exact(3 * num_coefficients) {
        let (constant, others) = cell.split_at(3);
        for part in [constant, others] {
            let most = part.iter().fold(0f32, |most, x| most.max(x.abs()));
            let mut scale = f16::from_f32(most);
            if scale.to_f32() < most {
                scale = f16::from_bits(scale.to_bits() + 1);
            }
            let step = LEVELS / scale.to_f32().max(f32::MIN_POSITIVE);
            bytes.extend(part.iter().map(|value| (value * step).round() as i32 as f32 + ZERO_LEVEL).map(|x| x as u8));
            scales.push(scale);
        }
    }
    (bytes, scales)
}

/// `foam.sh` in f32, from whatever precision it was saved in.
pub(super) fn decoded_sh(checkpoint: &Checkpoint, path: &Path) -> Result<Tensor> {
    let sh = checkpoint.tensor(path, "foam.sh")?;
    match sh.dtype() {
        DType::F16 | DType::BF16 => Ok(sh.to_dtype(DType::F32)?),
        DType::U8 => {
            let scales = checkpoint.values::<f16>(path, "foam.sh_scale")?;
            let bytes = checkpoint.values::<u8>(path, "foam.sh")?;
            let num_cells = scales.len() / 2;
            let stride = bytes.len().checked_div(num_cells).unwrap_or(0);
            if sh.dims().first() != Some(&num_cells) || scales.len() % 2 != 0 || stride < 3 {
                let expected = format!("two for each cell of {:?}", sh.dims());
                return Err(Error::file(path, "foam.sh_scale", expected, format!("{} values", scales.len())));
            }
            let values = bytes.chunks_exact(stride).zip(scales.as_chunks::<2>().0).flat_map(|(cell, scales)| {
                let scales = scales.map(|scale| scale.to_f32() / LEVELS);
                let decode =
                    move |(i, &byte): (usize, &u8)| (f32::from(byte) - ZERO_LEVEL) * scales[usize::from(i >= 3)];
                cell.iter().enumerate().map(decode)
            });
            Ok(Tensor::from_vec(values.collect::<Vec<f32>>(), sh.shape(), sh.device())?)
        }
        _ => Ok(sh.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_errs_by_half_a_step_at_most() {
        let k = 4;
        let sh: Vec<f32> =
            (0..3 * k * 50).map(|i| ((i * 7919 % 1009) as f32 - 500.0) * 0.003 * (i % 5) as f32).collect();
        let (bytes, scales) = quantised(&sh, k);
        for (i, (&value, &byte)) in sh.iter().zip(&bytes).enumerate() {
            let cell = i / (3 * k);
            let part = usize::from(i % (3 * k) >= 3);
            let scale = scales[2 * cell + part].to_f32();
            let again = (f32::from(byte) - ZERO_LEVEL) * scale / LEVELS;
            assert!((again - value).abs() <= 0.5001 * scale / LEVELS, "{value} became {again}, scale {scale}");
        }
        assert_eq!(quantised(&[0.0; 3], 1).0, [128; 3], "nothing stays nothing");
    }
}
