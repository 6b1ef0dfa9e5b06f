//! (to come)

mod patches;
mod sampler;

pub use sampler::{Draw, Sampler, SamplerConfig, SamplerHeader, SamplerStats, Strategy};
