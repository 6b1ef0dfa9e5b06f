//! What the examples share: pictures, plots and run folders.

// Each example is a program of its own, compiles all of this, and uses a part.
#![allow(dead_code)]

pub mod baseline;
pub mod checkpoint;
pub mod folder;
pub mod memory;
pub mod picture;
pub mod plot;
