//! Where the time of a step goes.

use std::fmt;
use std::time::Instant;

/// Wall time of the parts of all steps so far, in seconds. On a CUDA device it is that of the host, which gives orders
/// and waits once a step: what it waits for counts as tracing, whatever it is.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Profile {
    /// Steps counted.
    pub steps: u64,
    /// Drawing rays. With a lag of 1 on another thread, beside the rest.
    pub draw: f64,
    /// Gathering their pixels and making rays of them; likewise.
    pub gather: f64,
    /// Waiting for a batch that is prepared on another thread.
    pub wait: f64,
    /// Moving the faces of all cells to where their points are now.
    pub faces: f64,
    /// Tracing the rays and taking the loss back.
    pub trace: f64,
    /// Updating the parameters.
    pub optimizer: f64,
    /// Entering errors into the error map.
    pub update: f64,
    /// Triangulating, refining, changing the resolution.
    pub topology: f64,
    /// Checks, statistics, start cells.
    pub other: f64,
    /// Bytes copied from the host to a device; not those of setting out, nor of checkpoints.
    pub bytes_to_device: u64,
    /// Bytes copied back.
    pub bytes_to_host: u64,
}

impl Profile {
    /// Each part with its name.
    pub fn parts(&self) -> [(&'static str, f64); 9] {
        [
            ("draw", self.draw),
            ("gather", self.gather),
            ("wait", self.wait),
            ("faces", self.faces),
            ("trace and backward", self.trace),
            ("optimiser", self.optimizer),
            ("sampler update", self.update),
            ("topology", self.topology),
            ("other", self.other),
        ]
    }
}

/// A line a part: milliseconds a step, and the share of all.
impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total: f64 = self.parts().iter().map(|(_, seconds)| seconds).sum();
        for (name, seconds) in self.parts() {
            let (each, share) =
                (1e3 * seconds / self.steps.max(1) as f64, 100.0 * seconds / total.max(f64::MIN_POSITIVE));
            writeln!(f, "{name:<20}{each:9.3} ms a step {share:5.1} %")?;
        }
        if self.bytes_to_device > 0 {
            let [up, down] = [self.bytes_to_device, self.bytes_to_host].map(|bytes| bytes / self.steps.max(1));
            writeln!(f, "{:<20}{up:9} bytes a step to the device, {down} back", "copied")?;
        }
        Ok(())
    }
}

/// A clock that is read between parts.
#[derive(Debug)]
pub(super) struct Lap(Instant);

impl Lap {
    pub fn new(started: Instant) -> Self {
        Self(started)
    }

    /// Adds the time since the last reading to `part`.
    pub fn end(&mut self, part: &mut f64) {
        let now = Instant::now();
        *part += (now - self.0).as_secs_f64();
        self.0 = now;
    }

    /// Reads the clock for a part that is counted elsewhere.
    pub fn skip(&mut self) {
        self.0 = Instant::now();
    }
}
