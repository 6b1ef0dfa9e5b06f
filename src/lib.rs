//! Radiance foams for [Candle](candle_core): a differentiable Voronoi ray tracer, and ray sampling by error.
//!
//! A **radiance foam** is a Voronoi diagram of 3D points; every cell has one density and one view-dependent
//! colour, and a ray is followed from cell to cell (Govindarajan et al., "Radiant Foam", ICCV 2025,
//! arXiv 2502.01157). Training spends its rays where the error is: an **error map** keeps one number a training
//! ray (or a patch of them), a scatter-EMA updates it every step, and a persistent sampler draws from it.
//!
//! Three ways in, each usable without the next:
//!
//! 1. the ops alone ([`ops`]): [`ops::scatter_ema`], [`ops::weighted_draw`], [`ops::weighted_gather`],
//!    [`ops::trace_rays`];
//! 2. the data module ([`data`]): captures, a persistent sampler, batches;
//! 3. the trainer ([`train`]), and `cargo run --release --example train -- path/to/capture`.
//!
//! # Conventions
//!
//! | matter | convention |
//! |---|---|
//! | camera frame | +X right, +Y down, +Z forward (OpenCV); pixel centres at +0.5 |
//! | rays | origin and unit direction in the world frame, so `t` is a distance in scene units |
//! | scene units | the capture is normalised on loading: the cameras lie in the unit ball around the point they look at |
//! | colours | display-referred (sRGB-encoded) values in `[0, 1]`; pixels are kept as u8 with premultiplied alpha |
//! | randomness | a pure function of (seed, stream, step, index), see [`rng`] |
//! | determinism | on the CPU the same seed gives the same bits, whatever the number of threads |

pub mod camera;
pub mod checkpoint;
pub mod data;
mod error;
pub mod exchange;
pub mod foam;
pub mod geometry;
pub mod ops;
mod pages;
pub mod rng;
pub mod sh;
pub mod train;

pub use error::{Error, Result};

/// The README's code runs as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
