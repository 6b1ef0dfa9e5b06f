//! (to come)
pub mod metrics;
