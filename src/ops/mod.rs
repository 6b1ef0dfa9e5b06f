//! Candle custom ops: each folder holds one op, its API and checks in `mod.rs` and its definition in `cpu.rs`.
//!
//! Signatures hold tensors and plain settings only: no camera, data set or model.

pub mod adam;
pub mod trace;

pub use adam::{AdamSettings, adam_step};
pub use trace::{RayGradient, Real, TraceInputs, TraceSettings, Traced, trace_rays};
pub(crate) use adam::zero_moments;
pub(crate) use trace::fused;
