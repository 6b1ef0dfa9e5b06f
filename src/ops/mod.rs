//! Candle custom ops: each folder holds one op, its API and checks in `mod.rs` and its definition in `cpu.rs`.
//!
//! Signatures hold tensors and plain settings only: no camera, data set or model.

pub mod adam;
mod batch;
#[cfg(feature = "cuda")]
mod cuda_foam;
mod device_choice;
mod error_map;
#[cfg(feature = "cuda")]
mod launch;
#[cfg(feature = "cuda")]
mod mixed_rays;
mod order;
#[cfg(feature = "cuda")]
mod patch_rays;
#[cfg(feature = "cuda")]
mod pixel_rays;
pub mod ray_loss;
mod scatter_ema;
pub mod trace;
mod transfer;
mod weighted_draw;
mod weighted_gather;

pub use crate::pages::move_to_huge_pages;
pub use adam::{AdamSettings, adam_step};
pub use device_choice::{DeviceChoice, choose_device};
#[cfg(feature = "cuda")]
pub use error_map::{CudaDraws, CudaErrorMap, CudaScatterStats};
pub use error_map::{ErrorMap, ErrorMapSettings};
#[cfg(feature = "cuda")]
pub use pixel_rays::{CudaPixels, PixelRays};
pub use scatter_ema::{Duplicates, ScatterSettings, ScatterStats, scatter_ema};
pub use trace::{RayGradient, Real, TraceInputs, TraceSettings, Traced, trace_rays};
pub use weighted_draw::{DrawSettings, Draws, Jitter, effective_sample_size, weighted_draw};
#[cfg(feature = "cuda")]
pub use weighted_gather::weighted_gather_drawn;
pub use weighted_gather::{weighted_gather, weighted_gather_many};

pub(crate) use adam::zero_moments;
#[doc(hidden)]
pub use trace::fused;
pub(crate) use transfer::moved;
pub(crate) use weighted_draw::{HostDraws, MAX_UNIFORM_FRACTION, Strata};
#[cfg(feature = "cuda")]
pub(crate) use {
    cuda_foam::{CudaFoam, CudaPass, CudaPlaces, CudaStatistics, StepReport},
    error_map::MapTotals,
    mixed_rays::PoolRule,
    patch_rays::{CudaPatches, CudaRays},
    transfer::copied,
};
