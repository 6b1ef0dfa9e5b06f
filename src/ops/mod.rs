//! The ops: tensors and plain settings in, tensors out. They know no camera, dataset or model.

mod batch;
mod error_map;
mod scatter_ema;
mod weighted_draw;
mod weighted_gather;

pub use error_map::{ErrorMap, ErrorMapSettings};
pub use scatter_ema::{ScatterStats, scatter_ema};
pub use weighted_draw::{Draws, weighted_draw};
pub(crate) use weighted_draw::{HostDraws, MAX_UNIFORM_FRACTION, Strata};
pub use weighted_gather::weighted_gather;
