//! Captures: posed photographs as cameras, 8-bit images and a start cloud, in normalised units; and the rays that
//! training draws from them.
//!
//! [`load`] recognises the layout of a folder (Blender, instant-ngp, nerfstudio, COLMAP) and gives a [`Dataset`];
//! [`Pixels`] turns its training views into rays with colours, by flat index.

pub mod dataset;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
pub mod image;
pub mod normalization;
pub mod pixels;
pub mod synthetic;

mod cameras;
mod colmap;
mod patches;
mod sampler;
mod transforms;

pub use cameras::{ListedView, list_views};
pub use dataset::{Dataset, LoadOptions, Resize, Skipped, TestViews, View, load, load_with_progress};
pub use image::Image;
pub use normalization::Normalization;
pub use pixels::{Batch, BatchTensors, Pixels};
pub use sampler::{Draw, Sampler, SamplerConfig, SamplerHeader, SamplerStats, Strategy};
