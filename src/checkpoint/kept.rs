//! The checkpoints of a run: the newest, and some of those before it.

use std::cmp::Reverse;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::Checkpoint;
use super::replace::{folder_of, replace_file};
use crate::{Error, Result};
use serde_json::Value;

/// Digits of a step in a file's name: names are in the order of their steps up to a hundred million.
const DIGITS: usize = 8;

/// The checkpoints of a run in one folder. The newest always has the same name; those before it have their step (the
/// header's `step`) in theirs, as `checkpoint-00000120.safetensors` beside `checkpoint.safetensors`.
///
/// At every moment the newest is there and whole, whatever happens to the process or the machine: the older name is a
/// second link to the present file (or a copy, on a file system without links), made before the new one takes its place.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_radfoam::checkpoint::{Checkpoint, Kept};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let folder = tempfile::tempdir()?;
/// let kept = Kept::new(folder.path().join("checkpoint.safetensors"), 2)?;
/// for step in 1..=5 {
///     let tensors = [("x".to_string(), Tensor::new(step as f32, &Device::Cpu)?)].into();
///     kept.save(&Checkpoint { tensors, header: serde_json::json!({ "step": step }) })?;
/// }
/// let steps: Result<Vec<_>, _> = kept.all().iter().map(Checkpoint::load_header).collect();
/// assert_eq!(steps?.iter().map(|header| header["step"].as_u64()).collect::<Vec<_>>(), [Some(5), Some(4)]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Kept {
    newest: PathBuf,
    keep: usize,
}

impl Kept {
    /// The newest checkpoint is `newest`; with those before it there are `keep` of them, at least 1.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] where none would be kept.
    pub fn new(newest: impl Into<PathBuf>, keep: usize) -> Result<Self> {
        if keep == 0 {
            return Err(Error::config("keep", "at least 1 checkpoint", "0"));
        }
        Ok(Self { newest: newest.into(), keep })
    }

    /// The file of the newest one.
    pub fn newest(&self) -> &Path {
        &self.newest
    }

    /// All that are there, the newest first.
    pub fn all(&self) -> Vec<PathBuf> {
        let mut older = self.older();
        older.sort_unstable_by_key(|&(step, _)| Reverse(step));
        let newest = self.newest.exists().then(|| self.newest.clone());
        newest.into_iter().chain(older.into_iter().map(|(_, path)| path)).collect()
    }

    /// Writes the newest one, and removes those of the older ones that are too many.
    ///
    /// # Errors
    ///
    /// Those of [`Checkpoint::save`]; the one before it is then the newest still.
    pub fn save(&self, checkpoint: &Checkpoint) -> Result<()> {
        let next = step_of(&checkpoint.header);
        checkpoint.write(&self.newest, || {
            if self.keep > 1 {
                self.keep_present(next)?;
            }
            // Before the new one takes its place, so that not one is left over however often saves are killed.
            self.remove_too_many(next);
            Ok(())
        })
    }

    /// Makes `good`, an older one, the newest, where the newest has been damaged: the next [`Kept::save`] would keep that
    /// one otherwise, and remove a good one. The older one stays.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, a folder that cannot be written, a full disk; nothing has changed then.
    pub fn restore(&self, good: impl AsRef<Path>) -> Result<()> {
        copy(good.as_ref(), &self.newest)
    }

    /// Gives the present checkpoint the name that it has as an older one.
    fn keep_present(&self, next: Option<u64>) -> io::Result<()> {
        // What cannot be read is not worth keeping, and the same step again is no older one.
        let present = Checkpoint::load_header(&self.newest).ok().and_then(|header| step_of(&header));
        let Some(step) = present.filter(|_| present != next) else { return Ok(()) };
        let older = self.of_step(step);
        if older.exists() {
            // The same file, if a save was killed after this; of another course, if a run was taken up from before it.
            fs::remove_file(&older)?;
        }
        // Some file systems have no links: a copy then, so that the newest is there all the time. Where there is no room
        // for one either, the older name is there alone for a moment; `all` finds it.
        fs::hard_link(&self.newest, &older)
            .or_else(|_| copy(&self.newest, &older).map_err(io::Error::other))
            .or_else(|_| fs::rename(&self.newest, &older))
    }

    fn remove_too_many(&self, next: Option<u64>) {
        let mut older = self.older();
        // Those of later steps are from a course that was left: they go first.
        older.sort_unstable_by_key(|&(step, _)| (next.is_none_or(|next| step < next), step));
        let too_many = (older.len() + 1).saturating_sub(self.keep);
        for (_, path) in older.into_iter().take(too_many) {
            // One too many does no harm but to the space, and the next save tries again.
            let _ = fs::remove_file(path);
        }
    }

    /// The name as an older one, in two parts about the step.
    fn name(&self) -> (String, String) {
        let part = |part: Option<&std::ffi::OsStr>| part.map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
        let ending = part(self.newest.extension());
        let ending = if ending.is_empty() { ending } else { format!(".{ending}") };
        (format!("{}-", part(self.newest.file_stem())), ending)
    }

    fn of_step(&self, step: u64) -> PathBuf {
        let (stem, ending) = self.name();
        self.newest.with_file_name(format!("{stem}{step:0DIGITS$}{ending}"))
    }

    /// The older ones with their steps, in no order.
    fn older(&self) -> Vec<(u64, PathBuf)> {
        let (stem, ending) = self.name();
        let Ok(entries) = fs::read_dir(folder_of(&self.newest)) else { return Vec::new() };
        let step = |path: &Path| {
            let name = path.file_name()?.to_str()?;
            let digits = name.strip_prefix(&stem)?.strip_suffix(&ending)?;
            let is_step = digits.len() >= DIGITS && digits.bytes().all(|b| b.is_ascii_digit());
            if is_step { digits.parse().ok() } else { None }
        };
        entries.flatten().filter_map(|entry| Some((step(&entry.path())?, entry.path()))).collect()
    }
}

/// Copies a file, whole or not at all.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut file = File::open(from).map_err(|source| Error::io(from, source))?;
    replace_file(to, |part| io::copy(&mut file, part).map(drop), || Ok(()))
}

/// The step of a header; version 1 of the format has it among the progress alone.
fn step_of(header: &Value) -> Option<u64> {
    header["step"].as_u64().or_else(|| header["progress"]["step"].as_u64())
}
