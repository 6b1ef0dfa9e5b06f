//! Files that are there whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, Result};

/// How the name of a file under way ends.
const PART: &str = ".part";

/// Writes `bytes` to `path` so that a reader, or a crash at any moment, finds the old file or the new one.
///
/// They go into a file of another name in the same folder first, which is flushed to the disk and renamed. What a
/// writer that was killed left behind of such a file, the next one removes.
///
/// # Errors
///
/// A folder that cannot be written, a full disk. The old file is then still there.
pub fn write_atomically(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    replace_file(path.as_ref(), |file| file.write_all(bytes), || Ok(()))
}

/// As [`write_atomically`], for content that need not be in memory all at once. `last` is called when the new content is
/// on the disk and the old one still in its place.
pub(super) fn replace_file(
    path: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
    last: impl FnOnce() -> io::Result<()>,
) -> Result<()> {
    let replace = || {
        let mut part = Part::create(path)?;
        write(&mut part.file)?;
        part.file.sync_all()?;
        last()?;
        fs::rename(&part.path, path)?;
        // The rename itself is on the disk once the folder is.
        sync_folder(folder_of(path))
    };
    replace().map_err(|source| Error::io(path, source))
}

/// A file under way, removed if it does not become what it should. Locked as long as its writer lives, so that others
/// can tell it from one that was left behind.
struct Part {
    path: PathBuf,
    file: File,
}

impl Part {
    fn create(target: &Path) -> io::Result<Self> {
        /// Others of this process may write the same file at the same time.
        static COUNT: AtomicU64 = AtomicU64::new(0);
        /// Each time another writer must have taken the file for one left behind, between its making and its lock.
        const TRIES: usize = 100;
        remove_left_behind(target);
        for _ in 0..TRIES {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let mut name = target.file_name().unwrap_or_default().to_os_string();
            name.push(format!(".{}-{count}{PART}", std::process::id()));
            let path = target.with_file_name(name);
            let file = match File::create_new(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                file => file?,
            };
            // Where a file system has no locks, nobody removes the file either.
            if file.lock().is_err() || path.exists() {
                return Ok(Self { path, file });
            }
        }
        Err(io::Error::other(format!("no name beside it was free in {TRIES} tries")))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Renamed, it is no longer there; otherwise it is of no use, and that it cannot be removed changes nothing.
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes the files under way of writers that are no more. What cannot be removed does no harm but to the space.
fn remove_left_behind(target: &Path) {
    let Some(name) = target.file_name().and_then(|name| name.to_str()) else { return };
    let Ok(entries) = fs::read_dir(folder_of(target)) else { return };
    for entry in entries.flatten() {
        let found = entry.file_name();
        let middle = found.to_str().and_then(|found| found.strip_prefix(name)?.strip_prefix('.')?.strip_suffix(PART));
        let is_part = middle.is_some_and(|middle| middle.bytes().all(|b| b.is_ascii_digit() || b == b'-'));
        if is_part
            && let Ok(file) = File::open(entry.path())
            && file.try_lock().is_ok()
        {
            // Still locked: a writer that is about to lock what it has just made must find it gone.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The folder that holds `path`.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Flushes the names in a folder to the disk, where the system can.
fn sync_folder(folder: &Path) -> io::Result<()> {
    // A folder that may be written but not read cannot be opened, and on some systems none can.
    let Ok(folder) = File::open(folder) else { return Ok(()) };
    match folder.sync_all() {
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        Err(error) if cfg!(unix) => Err(error),
        _ => Ok(()),
    }
}
