//! A folder for each run, and files that are there whole or not at all.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_radfoam::checkpoint::write_atomically;
use serde::Serialize;
use serde_json::Value;

/// What to do when the run's folder is there already and not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Stop: another run's results are in it.
    Refuse,
    /// Take the first free one of `name-2`, `name-3`, ...
    Number,
}

/// The file in a run's folder that is locked while a process writes there. It stays; what counts is the lock, which
/// the system takes away with the process, however that ends.
const LOCK: &str = "run.lock";

/// The folder of one run, held by this process.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// Held, not used. None on a file system without locks.
    _lock: Option<File>,
}

impl RunFolder {
    /// Makes `root/name`.
    pub fn create(root: &Path, name: &str, existing: Existing) -> Result<Self> {
        if name.is_empty() || name.contains(['/', '\\']) || name.starts_with('.') {
            bail!("a run's name is one folder's name, and {name:?} is not");
        }
        let mut path = root.join(name);
        let mut number = 1;
        loop {
            if !is_taken(&path) {
                fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
                match lock(&path) {
                    // Another process may have taken it since.
                    Err(_) if existing == Existing::Number => {}
                    // Its run may have ended since, too.
                    lock if !is_taken(&path) => return Ok(Self { _lock: lock?, path }),
                    _ => {}
                }
            }
            if existing == Existing::Refuse {
                bail!("{} holds a run already; choose another name, or resume it", path.display());
            }
            number += 1;
            path = root.join(format!("{name}-{number}"));
        }
    }

    /// The folder of a run to go on with, which no other process may be at.
    pub fn open(path: PathBuf) -> Result<Self> {
        Ok(Self { _lock: lock(&path)?, path })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file in the folder; folders on the way are made.
    pub fn file(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        make_parent(&path)?;
        Ok(path)
    }
}

/// Whether there is anything in the folder but its lock.
fn is_taken(path: &Path) -> bool {
    match fs::read_dir(path) {
        Ok(mut entries) => entries.any(|entry| !entry.is_ok_and(|entry| entry.file_name() == LOCK)),
        Err(_) => path.exists(),
    }
}

fn lock(folder: &Path) -> Result<Option<File>> {
    let path = folder.join(LOCK);
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = open.with_context(|| format!("opening {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {
            // For whoever is refused.
            file.set_len(0)
                .and_then(|()| write!(file, "{}", std::process::id()))
                .with_context(|| format!("writing {}", path.display()))?;
            Ok(Some(file))
        }
        Err(TryLockError::WouldBlock) => {
            let mut process = String::new();
            let _ = file.read_to_string(&mut process);
            bail!("{} is in use by another process ({})", folder.display(), process.trim());
        }
        Err(TryLockError::Error(error)) => {
            eprintln!("warning: {} cannot be locked ({error}); let no other process use it", path.display());
            Ok(None)
        }
    }
}

fn make_parent(path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) => fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display())),
        None => Ok(()),
    }
}

/// Writes a file whole or not at all; folders on the way are made.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    make_parent(path)?;
    Ok(write_atomically(path, bytes)?)
}

/// Writes text, with a line end after it.
pub fn write_text(path: &Path, text: &str) -> Result<()> {
    write_atomic(path, format!("{}\n", text.trim_end()).as_bytes())
}

/// Writes indented JSON.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).with_context(|| format!("writing {}", path.display()))?;
    write_text(path, &text)
}

/// A file with one JSON value a line, readable while the run goes on.
#[derive(Debug)]
pub struct JsonLines {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines.
    len: u64,
}

impl JsonLines {
    /// Begins an empty file; what was there is gone.
    pub fn create(path: &Path) -> Result<Self> {
        write_atomic(path, b"")?;
        Self::open(path)
    }

    /// Goes on with a file, after the lines for which `keep` holds (for instance: the steps before the checkpoint).
    /// A last line that a killed run left half written is dropped, and so is, with a warning, any other that is no JSON.
    pub fn resume(path: &Path, mut keep: impl FnMut(&Value) -> bool) -> Result<Self> {
        let mut kept = String::new();
        if path.exists() {
            let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
            // A write cut off inside a character is a half line like any other.
            let text = String::from_utf8_lossy(&bytes);
            let mut unreadable = Vec::new();
            for (i, line) in text.split_inclusive('\n').enumerate() {
                let Some(whole) = line.strip_suffix('\n') else { break };
                match serde_json::from_str(whole) {
                    Ok(value) if keep(&value) => kept.push_str(line),
                    Ok(_) => {}
                    Err(error) => unreadable.push((i + 1, error)),
                }
            }
            if let Some((line, error)) = unreadable.first() {
                let count = unreadable.len();
                eprintln!("warning: {}: {count} lines dropped, the first line {line}: {error}", path.display());
            }
        }
        write_atomic(path, kept.as_bytes())?;
        Self::open(path)
    }

    fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().append(true).open(path).with_context(|| format!("opening {}", path.display()))?;
        let len = file.metadata().with_context(|| format!("reading {}", path.display()))?.len();
        Ok(Self { path: path.to_path_buf(), file, len })
    }

    /// Appends a line. One that cannot be written leaves no half of it for the next to go on.
    pub fn write(&mut self, value: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_string(value).with_context(|| format!("writing {}", self.path.display()))?;
        line.push('\n');
        // One unbuffered write: the line is in the file when this returns.
        if let Err(error) = self.file.write_all(line.as_bytes()) {
            // If not even this can be done, a later look at the file drops the line.
            let _ = self.file.set_len(self.len);
            return Err(error).with_context(|| format!("writing {}", self.path.display()));
        }
        self.len += line.len() as u64;
        Ok(())
    }
}
