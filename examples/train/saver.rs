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
    under_way: Option<JoinHandle<(Result<()>, f64)>>,
    /// What it has cost so far.
    pub costs: Costs,
}

/// What saving costs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Costs {
    /// How often something was saved.
    pub count: u32,
    /// Seconds that the training waited: in all, and the longest.
    pub waited: f64,
    pub longest: f64,
    /// CPU seconds beside the training.
    pub beside: f64,
}

impl Saver {
    pub fn new(kept: Kept, error_map: PathBuf) -> Self {
        Self { kept, error_map, under_way: None, costs: Costs::default() }
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
        let write = move || (write(), cpu_seconds_of_thread());
        self.under_way = Some(std::thread::Builder::new().name("saver".into()).spawn(write)?);
        let waited = started.elapsed().as_secs_f64();
        self.costs.count += 1;
        self.costs.waited += waited;
        self.costs.longest = self.costs.longest.max(waited);
        earlier
    }

    /// Whether nothing is being written, so that the next would not wait for it.
    pub fn is_free(&self) -> bool {
        self.under_way.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits until all is written.
    pub fn finish(&mut self) -> Result<()> {
        let Some(thread) = self.under_way.take() else { return Ok(()) };
        let (written, seconds) = thread.join().map_err(|_| anyhow!("the thread that saves has panicked"))?;
        self.costs.beside += seconds;
        written
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        // An error has ended the run already; what was begun is still worth having.
        let _ = self.finish();
    }
}

/// CPU seconds of this thread; 0 where the system does not tell.
fn cpu_seconds_of_thread() -> f64 {
    #[cfg(unix)]
    {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
    }
    #[cfg(not(unix))]
    0.0
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
