//! Named tensors and one JSON header, as a safetensors file.
//!
//! The header is one string of JSON under one key, so that the same content always gives the same bytes. A file is
//! written beside its name, flushed to the disk and renamed: whoever reads the name finds the old file or the new
//! one, whole. [`Kept`] keeps some of the older ones, too.

mod kept;
mod replace;

pub use kept::Kept;
pub use replace::write_atomically;

use crate::{Error, Result};
use bytemuck::Pod;
use candle_core::{CpuStorage, DType, Device, Shape, Storage, Tensor, WithDType};
use half::{bf16, f16};
use num_traits::Float;
use rayon::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

/// The metadata key of the header.
const HEADER_KEY: &str = "candle_radfoam";

/// A safetensors file begins with the length of its JSON header, as a u64.
const LENGTH_BYTES: u64 = 8;

/// The longest JSON header that the safetensors crate accepts.
const LONGEST_HEADER: u64 = 100_000_000;

/// Bytes read before their values are checked: they are then still in the cache.
const READ_CHUNK: usize = 1 << 20;

/// Values that one thread checks at a time.
const CHECK_CHUNK: usize = 1 << 16;

/// What a file holds.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// The tensors by name.
    pub tensors: BTreeMap<String, Tensor>,
    /// The JSON header.
    pub header: Value,
}

impl Checkpoint {
    /// Writes the file, whole or not at all. Tensors in host memory are not copied on the way.
    ///
    /// # Errors
    ///
    /// A folder that cannot be written, a full disk, a tensor that cannot be read, a tensor with a value that is not
    /// finite, which could not be loaded again.
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
        self.write(path.as_ref(), || Ok(()))
    }

    /// As [`Checkpoint::save`]; calls `last` once all is on the disk, before the old file goes.
    fn write(&self, path: &Path, last: impl FnOnce() -> std::io::Result<()>) -> Result<()> {
        let metadata = HashMap::from([(HEADER_KEY.to_string(), self.header.to_string())]);
        let mut tensors = Vec::with_capacity(self.tensors.len());
        for (name, tensor) in &self.tensors {
            let dtype = Dtype::from(tensor.dtype());
            tensors.push((name, dtype, tensor.to_device(&Device::Cpu)?.contiguous()?));
        }
        // The order of the safetensors crate: the widest values first, so that all of them are aligned.
        tensors.sort_by(|(a, wide, _), (b, other, _)| other.cmp(wide).then(a.cmp(b)));
        let mut end = 0;
        let mut infos = Vec::with_capacity(tensors.len());
        for (name, dtype, tensor) in &tensors {
            require_finite(path, name, tensor)?;
            let start = end;
            end += with_bytes(tensor, <[u8]>::len)?;
            let shape = tensor.dims().to_vec();
            infos.push(((*name).clone(), TensorInfo { dtype: *dtype, shape, data_offsets: (start, end) }));
        }
        let unfit = |error: String| Error::file(path, "tensors", "tensors that safetensors can hold", error);
        let metadata = Metadata::new(Some(metadata), infos).map_err(|error| unfit(error.to_string()))?;
        let mut head = serde_json::to_vec(&metadata).map_err(|error| unfit(error.to_string()))?;
        head.resize(head.len().next_multiple_of(LENGTH_BYTES as usize), b' ');
        if head.len() as u64 > LONGEST_HEADER {
            let expected = format!("at most {LONGEST_HEADER} bytes");
            return Err(Error::file(path, "header", expected, format!("{} bytes", head.len())));
        }
        let content = |file: &mut File| {
            file.write_all(&(head.len() as u64).to_le_bytes())?;
            file.write_all(&head)?;
            for (_, _, tensor) in &tensors {
                with_bytes(tensor, |bytes| file.write_all(bytes)).map_err(std::io::Error::other)??;
            }
            Ok(())
        };
        replace::replace_file(path, content, last)
    }

    /// Reads a file. Nothing is allocated for more than the file holds, whatever its header says.
    ///
    /// # Errors
    ///
    /// A file that is missing, cut off, not safetensors, or without a header of this crate; a tensor with a value that
    /// is not finite, or of a type that Candle has not.
    pub fn load(path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        let path = path.as_ref();
        let mut file = File::open(path).map_err(|source| Error::io(path, source))?;
        let len = file.metadata().map_err(|source| Error::io(path, source))?.len();
        Self::read(path, &mut file, len, device)
    }

    /// Reads the header of a file and none of its tensors.
    ///
    /// # Errors
    ///
    /// As [`Checkpoint::load`], but for what is wrong with values.
    pub fn load_header(path: impl AsRef<Path>) -> Result<Value> {
        let path = path.as_ref();
        let mut file = File::open(path).map_err(|source| Error::io(path, source))?;
        let len = file.metadata().map_err(|source| Error::io(path, source))?.len();
        header_of(path, &read_metadata(path, &mut file, len)?)
    }

    /// Reads the `len` bytes of `file`; errors name `path`.
    fn read(path: &Path, file: &mut impl Read, len: u64, device: &Device) -> Result<Self> {
        let metadata = read_metadata(path, file, len)?;
        let header = header_of(path, &metadata)?;
        let mut tensors = BTreeMap::new();
        // In the order of their bytes.
        for name in metadata.offset_keys() {
            let Some(info) = metadata.info(&name) else { continue };
            let tensor = read_tensor(path, &name, info, file)?.to_device(device)?;
            tensors.insert(name, tensor);
        }
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

/// A checkpoint as a function of bytes, for `tests/fuzz`; there is no such function in an ordinary build.
#[cfg(fuzzing)]
pub fn fuzz(mut bytes: &[u8]) {
    let len = bytes.len() as u64;
    if let Ok(checkpoint) = Checkpoint::read(Path::new("fuzzed"), &mut bytes, len, &Device::Cpu) {
        assert!(bytes.is_empty() && checkpoint.tensors.values().all(|t| t.elem_count() as u64 <= len));
    }
}

/// The JSON header of a safetensors file of `len` bytes, checked against itself and against `len`.
fn read_metadata(path: &Path, file: &mut impl Read, len: u64) -> Result<Metadata> {
    let io = |source| Error::io(path, source);
    let mut length = [0; LENGTH_BYTES as usize];
    if len < LENGTH_BYTES {
        return Err(Error::file(path, "header", "a safetensors file", format!("{len} bytes")));
    }
    file.read_exact(&mut length).map_err(io)?;
    let length = u64::from_le_bytes(length);
    let most = (len - LENGTH_BYTES).min(LONGEST_HEADER);
    if length > most {
        let expected = format!("a safetensors header of at most {most} bytes");
        return Err(Error::file(path, "header", expected, format!("{length} bytes announced")));
    }
    let mut head = vec![0; length as usize];
    file.read_exact(&mut head).map_err(io)?;
    let metadata: Metadata = serde_json::from_slice(&head).map_err(|error| {
        Error::file(path, "header", "the names, types, shapes and places of tensors", error.to_string())
    })?;
    let (expected, found) = (metadata.data_len() as u64, len - LENGTH_BYTES - length);
    if expected != found {
        return Err(Error::file(path, "tensors", format!("{expected} bytes"), format!("{found} bytes")));
    }
    Ok(metadata)
}

/// The header of this crate among a file's metadata.
fn header_of(path: &Path, metadata: &Metadata) -> Result<Value> {
    let text = metadata.metadata().as_ref().and_then(|entries| entries.get(HEADER_KEY));
    let Some(text) = text else {
        return Err(Error::file(path, "metadata", format!("the key {HEADER_KEY}"), "none"));
    };
    serde_json::from_str(text).map_err(|error| Error::file(path, HEADER_KEY, "valid JSON", error.to_string()))
}

/// Reads the tensor that comes next in `file`.
fn read_tensor(path: &Path, name: &str, info: &TensorInfo, file: &mut impl Read) -> Result<Tensor> {
    match info.dtype {
        Dtype::U8 => read_values::<u8>(path, name, info, file, |_| true),
        Dtype::I16 => read_values::<i16>(path, name, info, file, |_| true),
        Dtype::I32 => read_values::<i32>(path, name, info, file, |_| true),
        Dtype::U32 => read_values::<u32>(path, name, info, file, |_| true),
        Dtype::I64 => read_values::<i64>(path, name, info, file, |_| true),
        Dtype::F16 => read_values::<f16>(path, name, info, file, |x| x.is_finite()),
        Dtype::BF16 => read_values::<bf16>(path, name, info, file, |x| x.is_finite()),
        Dtype::F32 => read_values::<f32>(path, name, info, file, |x| x.is_finite()),
        Dtype::F64 => read_values::<f64>(path, name, info, file, |x| x.is_finite()),
        other => Err(Error::file(path, name, "a type that Candle has", format!("{other:?}"))),
    }
}

/// Reads straight into the tensor's own memory, and counts the values that are not `fine` while they are in the cache.
fn read_values<T: Pod + WithDType>(
    path: &Path,
    name: &str,
    info: &TensorInfo,
    file: &mut impl Read,
    fine: impl Fn(T) -> bool,
) -> Result<Tensor> {
    // The product was checked against the offsets, and these against the length of the file.
    let mut values = vec![T::zeroed(); info.shape.iter().product()];
    let mut bad = 0;
    for chunk in values.chunks_mut(READ_CHUNK / size_of::<T>()) {
        // Little-endian in the file, as on every system that Candle runs on.
        file.read_exact(bytemuck::cast_slice_mut(chunk)).map_err(|source| Error::io(path, source))?;
        bad += chunk.iter().filter(|&&value| !fine(value)).count();
    }
    if bad > 0 {
        return Err(Error::file(path, name, "finite values", format!("{bad} that are not")));
    }
    Ok(Tensor::from_vec(values, Shape::from(&info.shape[..]), &Device::Cpu)?)
}

/// Gives `read` the bytes of a tensor that is contiguous in host memory.
fn with_bytes<R>(tensor: &Tensor, read: impl FnOnce(&[u8]) -> R) -> candle_core::Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    let (Storage::Cpu(storage), Some((start, end))) = (&*storage, layout.contiguous_offsets()) else {
        candle_core::bail!("expected a contiguous tensor in host memory, found {:?}", tensor.device());
    };
    Ok(match storage {
        CpuStorage::U8(values) => read(&values[start..end]),
        CpuStorage::I16(values) => read(bytemuck::cast_slice(&values[start..end])),
        CpuStorage::I32(values) => read(bytemuck::cast_slice(&values[start..end])),
        CpuStorage::U32(values) => read(bytemuck::cast_slice(&values[start..end])),
        CpuStorage::I64(values) => read(bytemuck::cast_slice(&values[start..end])),
        CpuStorage::F16(values) => read(bytemuck::cast_slice(&values[start..end])),
        CpuStorage::BF16(values) => read(bytemuck::cast_slice(&values[start..end])),
        CpuStorage::F32(values) => read(bytemuck::cast_slice(&values[start..end])),
        CpuStorage::F64(values) => read(bytemuck::cast_slice(&values[start..end])),
        _ => candle_core::bail!("expected a type that checkpoints hold, found {:?}", tensor.dtype()),
    })
}

/// Refuses a tensor in host memory with a value that is not finite; the error names `path` and the tensor.
fn require_finite(path: &Path, name: &str, tensor: &Tensor) -> Result<()> {
    fn bad<T: Pod + Float + Sync>(bytes: &[u8]) -> usize {
        let values: &[T] = bytemuck::cast_slice(bytes);
        values.par_chunks(CHECK_CHUNK).map(|chunk| chunk.iter().filter(|x| !x.is_finite()).count()).sum()
    }
    let bad = with_bytes(tensor, |bytes| match tensor.dtype() {
        DType::F16 => bad::<f16>(bytes),
        DType::BF16 => bad::<bf16>(bytes),
        DType::F32 => bad::<f32>(bytes),
        DType::F64 => bad::<f64>(bytes),
        _ => 0,
    })?;
    if bad > 0 {
        return Err(Error::file(path, name, "finite values", format!("{bad} that are not")));
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
