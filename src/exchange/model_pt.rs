//! The reference implementation's `model.pt`: a zip archive with a pickle and one file of values a tensor.
//!
//! The pickle goes through Candle's reader ([`candle_core::pickle::Stack`]), which builds data and calls nothing. It
//! goes through it one instruction at a time: what a hostile pickle could do to that reader (nest until the stack is
//! full, copy until memory is, announce strings that are not there) is refused before it is done, and so is every
//! name but those that saved tensors need.

use super::describe;
use super::scene::{Density, Scene};
use crate::{Error, Result};
use candle_core::pickle::{Object, OpCode, Stack};
use half::{bf16, f16};
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;
use zip::ZipArchive;

/// The longest pickle that is read, in bytes: those of models have about a thousand.
const LONGEST_PICKLE: u64 = 1 << 14;

/// The deepest nesting: a tensor within the model's dictionary has six levels.
const DEEPEST: usize = 16;

/// The largest object that may be put aside to be used again: in saved tensors, names and classes.
const LARGEST_SHARED: usize = 64;

/// The names that saved tensors need. Anything else would be code that the file wants to run.
const NAMES: [(&str, &[&str]); 3] = [
    ("collections", &["OrderedDict"]),
    ("torch._utils", &["_rebuild_tensor_v2", "_rebuild_parameter"]),
    ("torch", &["FloatStorage", "DoubleStorage", "HalfStorage", "BFloat16Storage", "IntStorage", "LongStorage"]),
];

/// Reads a `model.pt` of the reference implementation: `xyz`, `density` (raw), `color_dc`, `color_sh`, `adjacency`
/// and `adjacency_offsets`. Nothing in it is run.
///
/// # Errors
///
/// A file that is not a zip archive as `torch.save` writes it, or is cut off; a pickle that names anything but tensors;
/// a tensor that is missing, of another type or shape, or not contiguous; arrays that do not pass [`Scene::validate`].
pub fn read_model_pt(path: impl AsRef<Path>) -> Result<Scene> {
    let path = path.as_ref();
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    read(path, BufReader::new(file))
}

pub(super) fn read(path: &Path, mut file: impl Read + Seek) -> Result<Scene> {
    let io = |e| Error::io(path, e);
    let len = file.seek(std::io::SeekFrom::End(0)).map_err(io)?;
    file.rewind().map_err(io)?;
    let mut start = Vec::new();
    file.by_ref().take(16).read_to_end(&mut start).map_err(io)?;
    file.rewind().map_err(io)?;
    let archive = ZipArchive::new(file).map_err(|error| {
        Error::file(path, "archive", "a zip archive as torch.save writes it", format!("{error}; {}", describe(&start)))
    })?;
    let mut model = Model::open(path, archive, len)?;

    let (shape, points) = model.floats("xyz")?;
    let num_cells = match shape[..] {
        [num_cells, 3] => num_cells,
        _ => return Err(Error::file(path, "xyz", "the shape [N, 3]", format!("{shape:?}"))),
    };
    let expect = |name: &str, expected: &[&[usize]], shape: &[usize]| match expected.contains(&shape) {
        true => Ok(()),
        false => Err(Error::file(path, name, format!("the shape {:?}", expected[0]), format!("{shape:?}"))),
    };
    let (shape, density) = model.floats("density")?;
    expect("density", &[&[num_cells, 1], &[num_cells]], &shape)?;
    let (shape, dc) = model.floats("color_dc")?;
    expect("color_dc", &[&[num_cells, 3]], &shape)?;
    let (shape, rest) = model.floats("color_sh")?;
    let columns = [45, 24, 9, 0];
    expect("color_sh", &columns.each_ref().map(|c| [num_cells, *c]).each_ref().map(|s| &s[..]), &shape)?;
    let columns = shape[1];
    let sh = (0..num_cells)
        .flat_map(|cell| dc[3 * cell..][..3].iter().chain(&rest[columns * cell..][..columns]))
        .copied()
        .collect();
    let scene = Scene {
        points: points.as_chunks::<3>().0.to_vec(),
        density: Density::Raw(density),
        num_coefficients: columns / 3 + 1,
        sh,
        offsets: model.indices("adjacency_offsets")?,
        neighbors: model.indices("adjacency")?,
    };
    scene.validated(path)
}

/// The entries of a saved dictionary.
struct Model<'a, R> {
    path: &'a Path,
    archive: ZipArchive<R>,
    /// Bytes of the file: no entry is larger.
    len: u64,
    /// The folder inside the archive, with a slash.
    folder: String,
    entries: Vec<(Object, Object)>,
}

/// A tensor as the pickle describes it.
struct Saved {
    storage: String,
    /// The file of its values.
    key: String,
    /// Values before the first one.
    offset: u64,
    shape: Vec<usize>,
}

impl<'a, R: Read + Seek> Model<'a, R> {
    fn open(path: &'a Path, mut archive: ZipArchive<R>, len: u64) -> Result<Self> {
        let unreadable =
            |error: zip::result::ZipError| Error::file(path, "archive", "readable names", error.to_string());
        let names = archive.file_names().map(|name| name.map(|name| name.into_owned()));
        let names: Vec<String> = names.collect::<std::result::Result<_, _>>().map_err(unreadable)?;
        let folder = names.iter().find_map(|name| name.strip_suffix("data.pkl"));
        let Some(folder) = folder.filter(|folder| folder.is_empty() || folder.ends_with('/')).map(str::to_string)
        else {
            return Err(Error::file(path, "archive", "a file data.pkl", format!("{} others", names.len())));
        };
        let byteorder = format!("{folder}byteorder");
        if names.contains(&byteorder) {
            let order = bytes(path, &mut archive, &byteorder, LONGEST_PICKLE)?;
            if order != b"little" {
                return Err(Error::file(path, byteorder, "little", order.escape_ascii().to_string()));
            }
        }
        let pickle = format!("{folder}data.pkl");
        let entries = match unpickle(path, &bytes(path, &mut archive, &pickle, LONGEST_PICKLE)?)? {
            Object::Dict(entries) => entries,
            _ => return Err(Error::file(path, pickle, "a dictionary of tensors", "something else")),
        };
        Ok(Self { path, archive, len, folder, entries })
    }

    /// The shape of a tensor and its bytes, in values of a type of `types` (name of the storage, bytes a value).
    fn raw(&mut self, name: &str, types: &[(&'static str, usize)]) -> Result<(Vec<usize>, &'static str, Vec<u8>)> {
        let wrong = |expected: &str, found: String| Error::file(self.path, name, expected, found);
        let is_named = |key: &Object| matches!(key, Object::Unicode(text) if text == name);
        let value = self.entries.iter().find(|(key, _)| is_named(key)).map(|(_, value)| value);
        let value = value.ok_or_else(|| wrong("a tensor", "none of that name".into()))?;
        let saved = Saved::parse(value).ok_or_else(|| wrong("a contiguous tensor", "something else".into()))?;
        let Some(&(storage, size)) = types.iter().find(|(storage, _)| *storage == saved.storage) else {
            let names: Vec<&str> = types.iter().map(|(storage, _)| *storage).collect();
            return Err(wrong(&names.join(" or "), saved.storage));
        };
        let count = saved.shape.iter().try_fold(size as u64, |count, &dim| count.checked_mul(dim as u64));
        let range = count.and_then(|count| {
            let start = saved.offset.checked_mul(size as u64)?;
            Some((start, start.checked_add(count)?))
        });
        let (start, end) = match range {
            Some((start, end)) if end <= self.len => (start as usize, end as usize),
            _ => {
                let found = format!("the shape {:?} at {}", saved.shape, saved.offset);
                return Err(wrong(&format!("less than the {} bytes of the file", self.len), found));
            }
        };
        let entry = format!("{}data/{}", self.folder, saved.key);
        let mut bytes = bytes(self.path, &mut self.archive, &entry, self.len)?;
        if bytes.len() < end {
            return Err(Error::file(self.path, name, format!("{end} bytes"), format!("{} in {entry}", bytes.len())));
        }
        bytes.truncate(end);
        bytes.drain(..start);
        Ok((saved.shape, storage, bytes))
    }

    fn floats(&mut self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        let types = [("FloatStorage", 4), ("HalfStorage", 2), ("BFloat16Storage", 2), ("DoubleStorage", 8)];
        let (shape, storage, bytes) = self.raw(name, &types)?;
        let values = match storage {
            "FloatStorage" => bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
            "HalfStorage" => bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
            "BFloat16Storage" => bytes.as_chunks().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32()).collect(),
            _ => bytes.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b) as f32).collect(),
        };
        Ok((shape, values))
    }

    fn indices(&mut self, name: &str) -> Result<Vec<u32>> {
        let (shape, storage, bytes) = self.raw(name, &[("LongStorage", 8), ("IntStorage", 4)])?;
        if shape.len() != 1 {
            return Err(Error::file(self.path, name, "one dimension", format!("the shape {shape:?}")));
        }
        let wide: Vec<i64> = match storage {
            "LongStorage" => bytes.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b)).collect(),
            _ => bytes.as_chunks().0.iter().map(|&b| i64::from(i32::from_le_bytes(b))).collect(),
        };
        let narrow = |(at, &value): (usize, &i64)| {
            u32::try_from(value)
                .map_err(|_| Error::file(self.path, name, "indices of 32 bits", format!("{value} at {at}")))
        };
        wide.iter().enumerate().map(narrow).collect()
    }
}

impl Saved {
    /// What a pickled tensor says, if it is one and contiguous.
    fn parse(object: &Object) -> Option<Self> {
        let Object::Reduce { callable, args } = object else { return None };
        let (Object::Class { class_name, .. }, Object::Tuple(args)) = (&**callable, &**args) else { return None };
        match (class_name.as_str(), &args[..]) {
            ("_rebuild_parameter", [inner, ..]) => Self::parse(inner),
            ("_rebuild_tensor_v2", [Object::PersistentLoad(storage), offset, size, stride, ..]) => {
                let Object::Tuple(storage) = &**storage else { return None };
                let [_, Object::Class { class_name, .. }, Object::Unicode(key), ..] = &storage[..] else { return None };
                let shape = sizes(size)?;
                let strides = sizes(stride)?;
                let mut step = 1;
                let rows = shape.iter().zip(&strides).rev();
                let contiguous = rows.fold(shape.len() == strides.len(), |so_far, (&dim, &stride)| {
                    let fits = dim <= 1 || stride == step;
                    step *= dim.max(1);
                    so_far && fits
                });
                let offset = whole(offset)? as u64;
                let saved = Self { storage: class_name.clone(), key: key.clone(), offset, shape };
                (contiguous || saved.shape.contains(&0)).then_some(saved)
            }
            _ => None,
        }
    }
}

fn sizes(object: &Object) -> Option<Vec<usize>> {
    let Object::Tuple(sizes) = object else { return None };
    let sizes: Vec<usize> = sizes.iter().map(whole).collect::<Option<_>>()?;
    // So that products of sizes can be formed.
    sizes.iter().try_fold(1usize, |product, &size| product.checked_mul(size.max(1)))?;
    Some(sizes)
}

fn whole(object: &Object) -> Option<usize> {
    match object {
        Object::Int(value) => usize::try_from(*value).ok(),
        Object::Long(value) => usize::try_from(*value).ok(),
        _ => None,
    }
}

/// The bytes of a stored file of the archive, `most` at most; its checksum is checked.
fn bytes<R: Read + Seek>(path: &Path, archive: &mut ZipArchive<R>, name: &str, most: u64) -> Result<Vec<u8>> {
    let entry = archive.by_name(name);
    let mut entry = entry.map_err(|e| Error::file(path, name, "a stored file of the archive", e.to_string()))?;
    if entry.size() > most {
        return Err(Error::file(path, name, format!("at most {most} bytes"), format!("{} bytes", entry.size())));
    }
    let mut bytes = Vec::with_capacity(entry.size() as usize);
    entry
        .by_ref()
        .take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Error::file(path, name, "a whole file of the archive", e.to_string()))?;
    if bytes.len() as u64 != entry.size() {
        return Err(Error::file(path, name, format!("{} bytes", entry.size()), format!("{} bytes", bytes.len())));
    }
    Ok(bytes)
}

/// Builds what a pickle describes, within limits.
pub(super) fn unpickle(path: &Path, bytes: &[u8]) -> Result<Object> {
    let mut rest = bytes;
    let mut stack = Stack::empty();
    loop {
        let at = bytes.len() - rest.len();
        let wrong = |expected: &str, found: String| Error::file(path, format!("data.pkl at {at}"), expected, found);
        let op = rest.first().map(|&code| OpCode::try_from(code));
        let op = match op {
            None => return Err(wrong("the end of the pickle", "the end of the file".into())),
            Some(Err(code)) => return Err(wrong("an instruction that saved tensors need", format!("{code:#04x}"))),
            Some(Ok(op)) => op,
        };
        match (&op, rest[1..].first_chunk(), rest.get(1)) {
            (OpCode::BinUnicode, Some(&length), _) if u32::from_le_bytes(length) as usize > rest.len() => {
                return Err(wrong("a string", format!("{} bytes announced", u32::from_le_bytes(length))));
            }
            (OpCode::Long1, _, Some(&length)) if length > 8 => {
                return Err(wrong("a number of 64 bits", format!("one of {length} bytes")));
            }
            (OpCode::BinPut | OpCode::LongBinPut, ..)
                if stack.stack().last().is_some_and(|top| size(top) > LARGEST_SHARED) =>
            {
                return Err(wrong("names and classes", "something larger that is to be copied".into()));
            }
            _ => {}
        }
        let stop = stack.read(&mut rest).map_err(|error| wrong("the pickle of saved tensors", error.to_string()))?;
        match stack.stack().last() {
            Some(Object::Class { module_name, class_name }) => {
                let known = |(module, names): &(&str, &[&str])| module == module_name && names.contains(&&**class_name);
                if !NAMES.iter().any(known) {
                    return Err(wrong("saved tensors and nothing to run", format!("{module_name}.{class_name}")));
                }
            }
            Some(top) if !shallow(top, DEEPEST) => return Err(wrong("at most 16 levels", "more".into())),
            _ => {}
        }
        if stop {
            return stack.finalize().map_err(|error| wrong("a value", error.to_string()));
        }
    }
}

/// The objects directly inside of another.
fn parts(object: &Object) -> Vec<&Object> {
    match object {
        Object::Tuple(parts) | Object::List(parts) => parts.iter().collect(),
        Object::Dict(entries) => entries.iter().flat_map(|(key, value)| [key, value]).collect(),
        Object::Reduce { callable, args } | Object::Build { callable, args } => vec![callable, args],
        Object::PersistentLoad(inner) => vec![inner],
        _ => Vec::new(),
    }
}

fn shallow(object: &Object, levels: usize) -> bool {
    levels > 0 && parts(object).into_iter().all(|part| shallow(part, levels - 1))
}

/// How much there is to copy, in objects of some 64 bytes.
fn size(object: &Object) -> usize {
    let text = match object {
        Object::Unicode(text) => text.len(),
        Object::Class { module_name, class_name } => module_name.len() + class_name.len(),
        _ => 0,
    };
    1 + text / 64 + parts(object).into_iter().map(size).sum::<usize>()
}
