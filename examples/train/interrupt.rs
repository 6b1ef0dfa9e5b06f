//! Ctrl-C, and SIGTERM: the first asks for a checkpoint and an end, the second ends at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// Exit status of a program that a signal ended, less the signal: 130 after Ctrl-C, 143 after SIGTERM.
pub const STATUS: i32 = 128;

/// What signals have asked for.
#[derive(Debug, Clone)]
pub struct Interrupts {
    signal: Arc<AtomicUsize>,
    at_once: Arc<AtomicBool>,
}

impl Interrupts {
    /// From now on a first signal is only remembered.
    pub fn listen() -> Result<Self> {
        let interrupts = Self { signal: Arc::default(), at_once: Arc::default() };
        for signal in [SIGINT, SIGTERM] {
            // In the order in which they act: the first signal finds the program not yet told to end at once.
            flag::register_conditional_shutdown(signal, STATUS + signal, interrupts.at_once.clone())
                .and_then(|_| flag::register(signal, interrupts.at_once.clone()))
                .and_then(|_| flag::register_usize(signal, interrupts.signal.clone(), signal as usize))
                .context("listening to signals")?;
        }
        Ok(interrupts)
    }

    /// The exit status that was asked for, if one was.
    pub fn status(&self) -> Option<i32> {
        match self.signal.load(Ordering::Relaxed) {
            0 => None,
            signal => Some(STATUS + signal as i32),
        }
    }

    /// There is nothing left to save: a signal ends the program at once.
    pub fn leave_at_once(&self) {
        self.at_once.store(true, Ordering::Relaxed);
    }
}
