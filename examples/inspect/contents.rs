//! A safetensors file, whoever wrote it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::{DType, Device};
use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::Serialize;
use serde_json::Value;

/// The metadata key under which this crate keeps its header.
const HEADER_KEY: &str = "candle_radfoam";

/// The bytes of a file, and what they say about themselves.
#[derive(Debug)]
pub struct Contents {
    pub path: PathBuf,
    bytes: Vec<u8>,
    /// The header of this crate, if the file has one.
    pub header: Option<Value>,
    /// All other metadata.
    pub metadata: BTreeMap<String, String>,
}

/// A line of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    pub name: String,
    pub dtype: String,
    pub shape: Vec<usize>,
    pub bytes: usize,
    /// Of the values that are finite; none where there are none, or the type is not known here.
    pub min: Option<f64>,
    pub mean: Option<f64>,
    pub max: Option<f64>,
    pub nan: u64,
    pub infinite: u64,
}

impl Contents {
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        let (_, metadata) = SafeTensors::read_metadata(&bytes)
            .with_context(|| format!("{}: not a whole safetensors file", path.display()))?;
        let metadata = metadata.metadata().iter().flatten();
        let mut metadata: BTreeMap<String, String> = metadata.map(|(k, v)| (k.clone(), v.clone())).collect();
        let header = match metadata.remove(HEADER_KEY) {
            Some(text) => Some(
                serde_json::from_str(&text).with_context(|| format!("{}: {HEADER_KEY}: no JSON", path.display()))?,
            ),
            None => None,
        };
        Ok(Self { path: path.to_path_buf(), bytes, header, metadata })
    }

    /// The tensors by name.
    pub fn tensors(&self) -> Result<BTreeMap<String, TensorView<'_>>> {
        Ok(SafeTensors::deserialize(&self.bytes)?.tensors().into_iter().collect())
    }

    pub fn table(&self) -> Result<Vec<Row>> {
        Ok(self.tensors()?.iter().map(|(name, tensor)| row(name, tensor)).collect())
    }

    /// The tensors whose names begin with `prefix`, without it, for Candle; those of types that it has not are left out.
    pub fn candle_tensors(&self, prefix: &str) -> Result<BTreeMap<String, candle_core::Tensor>> {
        let mut tensors = BTreeMap::new();
        for (name, view) in self.tensors()? {
            let Some(name) = name.strip_prefix(prefix) else { continue };
            let Ok(dtype) = DType::try_from(view.dtype()) else { continue };
            let tensor = candle_core::Tensor::from_raw_buffer(view.data(), dtype, view.shape(), &Device::Cpu)?;
            tensors.insert(name.to_string(), tensor);
        }
        Ok(tensors)
    }
}

/// Gives `take` every value of a tensor; false if its type is not known here.
pub fn for_each(tensor: &TensorView, mut take: impl FnMut(f64)) -> bool {
    macro_rules! values {
        ($type:ty, $to_f64:expr) => {
            tensor.data().as_chunks().0.iter().for_each(|&bytes| take($to_f64(<$type>::from_le_bytes(bytes))))
        };
    }
    match tensor.dtype() {
        Dtype::BOOL | Dtype::U8 => values!(u8, f64::from),
        Dtype::I8 => values!(i8, f64::from),
        Dtype::I16 => values!(i16, f64::from),
        Dtype::U16 => values!(u16, f64::from),
        Dtype::I32 => values!(i32, f64::from),
        Dtype::U32 => values!(u32, f64::from),
        Dtype::I64 => values!(i64, |x| x as f64),
        Dtype::U64 => values!(u64, |x| x as f64),
        Dtype::F16 => values!(f16, f16::to_f64),
        Dtype::BF16 => values!(bf16, bf16::to_f64),
        Dtype::F32 => values!(f32, f64::from),
        Dtype::F64 => values!(f64, f64::from),
        _ => return false,
    }
    true
}

fn row(name: &str, tensor: &TensorView) -> Row {
    let (mut min, mut max, mut sum, mut finite) = (f64::INFINITY, f64::NEG_INFINITY, 0.0, 0u64);
    let (mut nan, mut infinite) = (0, 0);
    for_each(tensor, |value| {
        if value.is_finite() {
            min = min.min(value);
            max = max.max(value);
            sum += value;
            finite += 1;
        } else if value.is_nan() {
            nan += 1;
        } else {
            infinite += 1;
        }
    });
    let known = |value: f64| (finite > 0).then_some(value);
    Row {
        name: name.to_string(),
        dtype: format!("{:?}", tensor.dtype()),
        shape: tensor.shape().to_vec(),
        bytes: tensor.data().len(),
        min: known(min),
        mean: known(sum / finite as f64),
        max: known(max),
        nan,
        infinite,
    }
}

/// The leaves of a JSON value by their path, as `config.optim.points.initial`. Arrays longer than `longest` are told
/// by their length, and are one leaf.
pub fn leaves(value: &Value, longest: usize) -> BTreeMap<String, String> {
    fn walk(path: &str, value: &Value, longest: usize, out: &mut BTreeMap<String, String>) {
        let below = |key: &str| if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
        match value {
            Value::Object(entries) => entries.iter().for_each(|(key, value)| walk(&below(key), value, longest, out)),
            Value::Array(items) if items.len() > longest => {
                out.insert(path.to_string(), format!("[{} items]", items.len()));
            }
            leaf => {
                out.insert(path.to_string(), leaf.to_string());
            }
        }
    }
    let mut out = BTreeMap::new();
    walk("", value, longest, &mut out);
    out
}
