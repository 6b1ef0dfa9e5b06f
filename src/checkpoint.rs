//! Named tensors and one JSON header, as a safetensors file.
//!
//! The header is one string of JSON under one key, so that the same content always gives the same bytes. A file is
//! written beside its name, flushed to the disk and renamed: whoever reads the name finds the old file or the new
//! one, whole.

use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The metadata key of the header.
const HEADER_KEY: &str = "candle_radfoam";

/// What a file holds.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// The tensors by name.
    pub tensors: BTreeMap<String, Tensor>,
    /// The JSON header.
    pub header: Value,
}

impl Checkpoint {
    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    ///
    /// A folder that cannot be written, a full disk, a tensor that cannot be read, an f32 tensor with a value that is
    /// not finite, which could not be loaded again.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use candle_radfoam::checkpoint::Checkpoint;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let folder = tempfile::tempdir()?;
    /// let path = folder.path().join("one.safetensors");
    /// let tensors = [("x".to_string(), Tensor::new(&[1f32, 2.], &Device::Cpu)?)].into();
    /// Checkpoint { tensors, header: serde_json::json!({ "step": 3 }) }.save(&path)?;
    /// assert_eq!(Checkpoint::load(&path, &Device::Cpu)?.header["step"], 3);
    /// # Ok(())
    /// # }
    /// ```
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        require_finite(path, &self.tensors)?;
        let metadata = HashMap::from([(HEADER_KEY.to_string(), self.header.to_string())]);
        let tensors = self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
        let bytes = safetensors::serialize(tensors, Some(metadata))
            .map_err(|error| Error::file(path, "tensors", "tensors that safetensors can hold", error.to_string()))?;
        write_atomically(path, &bytes)
    }

    /// Reads a file.
    ///
    /// # Errors
    ///
    /// A file that is missing, cut off, not safetensors, or without a header of this crate; an f32 tensor with a value
    /// that is not finite.
    pub fn load(path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        let path = path.as_ref();
        let bytes = fs::read(path).map_err(|source| Error::io(path, source))?;
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes)
            .map_err(|error| Error::file(path, "header", "a safetensors file", error.to_string()))?;
        let text = metadata.metadata().as_ref().and_then(|entries| entries.get(HEADER_KEY));
        let Some(text) = text else {
            return Err(Error::file(path, "metadata", format!("the key {HEADER_KEY}"), "none"));
        };
        let header = serde_json::from_str(text)
            .map_err(|error| Error::file(path, HEADER_KEY, "valid JSON", error.to_string()))?;
        let tensors = candle_core::safetensors::load_buffer(&bytes, device)
            .map_err(|error| Error::file(path, "tensors", "whole tensors of known types", error.to_string()))?;
        let tensors: BTreeMap<String, Tensor> = tensors.into_iter().collect();
        require_finite(path, &tensors)?;
        Ok(Self { tensors, header })
    }

    /// The part of the header under `key`.
    ///
    /// # Errors
    ///
    /// No such key, or something else under it than a `T`; the error names `path`.
    pub fn field<T: serde::de::DeserializeOwned>(&self, path: &Path, key: &str) -> Result<T> {
        let value = self.header.get(key).cloned().unwrap_or(Value::Null);
        serde_json::from_value(value)
            .map_err(|error| Error::file(path, format!("header.{key}"), std::any::type_name::<T>(), error.to_string()))
    }

    /// A tensor by name.
    ///
    /// # Errors
    ///
    /// No such tensor; the error names `path`.
    pub fn tensor(&self, path: &Path, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).ok_or_else(|| Error::file(path, name, "a tensor", "none of that name"))
    }

    /// The values of a tensor by name, flattened.
    ///
    /// # Errors
    ///
    /// No such tensor, or one of another dtype than `T`; the error names `path`.
    pub fn values<T: candle_core::WithDType>(&self, path: &Path, name: &str) -> Result<Vec<T>> {
        let tensor = self.tensor(path, name)?;
        let found = || format!("{:?} {:?}", tensor.dtype(), tensor.dims());
        let values = tensor.flatten_all().and_then(|t| t.to_vec1::<T>());
        values.map_err(|_| Error::file(path, name, format!("{:?}", T::DTYPE), found()))
    }
}

/// Refuses an f32 tensor with a value that is not finite; the error names `path` and the tensor.
fn require_finite(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    for (name, tensor) in tensors.iter().filter(|(_, tensor)| tensor.dtype() == DType::F32) {
        let bad = tensor.flatten_all()?.to_vec1::<f32>()?.iter().filter(|x| !x.is_finite()).count();
        if bad > 0 {
            return Err(Error::file(path, name, "finite values", format!("{bad} that are not")));
        }
    }
    Ok(())
}

/// An error about a tensor or a setting, told as one about the file that holds it.
pub(crate) fn in_file(path: &Path, error: Error) -> Error {
    match error {
        Error::Tensor { name, expected, found } => Error::file(path, name, expected, found),
        Error::Config { field, expected, found } => Error::file(path, field, expected, found),
        other => other,
    }
}

/// Writes `bytes` to `path` so that a reader, or a crash at any moment, finds the old file or the new one.
///
/// # Errors
///
/// A folder that cannot be written, a full disk. The old file is then still there.
pub fn write_atomically(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let path = path.as_ref();
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.part", std::process::id()));
    let part: PathBuf = path.with_file_name(name);
    let written = File::create(&part)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&part, path));
    if let Err(source) = written {
        // The part is of no use; that it cannot be removed either changes nothing about the error.
        let _ = fs::remove_file(&part);
        return Err(Error::io(path, source));
    }
    // The rename itself is on the disk once the folder is. Not every system can flush a folder.
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty())
        && let Ok(folder) = File::open(folder)
    {
        let _ = folder.sync_all();
    }
    Ok(())
}
