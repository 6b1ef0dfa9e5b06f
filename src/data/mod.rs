//! (to come)
pub mod synthetic;
