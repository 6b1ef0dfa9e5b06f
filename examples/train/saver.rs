//! Saving beside the training: a step waits for the copies of the tensors, and a thread writes them.

use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Result, anyhow, bail};
use candle_core::Device;
use candle_radfoam::checkpoint::{Checkpoint, Kept};

/// Writes a run's checkpoints, one at a time.
#[derive(Debug)]
pub struct Saver {
    pub kept: Kept,
    error_map: PathBuf,
    under_way: Option<JoinHandle<Result<()>>>,
    /// How often it saved, and the seconds that the training waited for it.
    pub count: u32,
    pub held: f64,
}

impl Saver {
    pub fn new(kept: Kept, error_map: PathBuf) -> Self {
        Self { kept, error_map, under_way: None, count: 0, held: 0.0 }
    }

    /// Begins to write what `copy` makes of the present state: a checkpoint, its error map if it has one, and something
    /// more after these. Waits for the writing before this one, and fails if that failed, with this one begun all the
    /// same.
    pub fn begin<F>(&mut self, copy: impl FnOnce() -> Result<(Checkpoint, Option<Checkpoint>, F)>) -> Result<()>
    where
        F: FnOnce() -> Result<()> + Send + 'static,
    {
        let started = Instant::now();
        let earlier = self.finish();
        let (checkpoint, map, then) = copy()?;
        let (kept, path) = (self.kept.clone(), self.error_map.clone());
        let write = move || {
            kept.save(&checkpoint)?;
            if let Some(map) = map {
                map.save(path)?;
            }
            then()
        };
        self.under_way = Some(std::thread::Builder::new().name("saver".into()).spawn(write)?);
        self.count += 1;
        self.held += started.elapsed().as_secs_f64();
        earlier
    }

    /// Waits until all is written.
    pub fn finish(&mut self) -> Result<()> {
        match self.under_way.take() {
            Some(thread) => thread.join().map_err(|_| anyhow!("the thread that saves has panicked"))?,
            None => Ok(()),
        }
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        // An error has ended the run already; what was begun is still worth having.
        let _ = self.finish();
    }
}

/// The newest checkpoint that can be read. That is the last one, unless a disk has lost some of it.
pub fn newest_whole(kept: &Kept) -> Result<PathBuf> {
    let mut first = None;
    for path in kept.all() {
        match Checkpoint::load(&path, &Device::Cpu) {
            Ok(_) => return Ok(path),
            Err(error) => {
                eprintln!("warning: {error}");
                first.get_or_insert(error);
            }
        }
    }
    match first {
        Some(error) => Err(error.into()),
        None => bail!("{}: there is no checkpoint", kept.newest().display()),
    }
}
