//! Captures: posed photographs as cameras, 8-bit images and a start cloud, in normalised units; and the rays that
//! training draws from them.
//!
//! [`load`] recognises the layout of a folder (Blender, instant-ngp, nerfstudio, COLMAP) and gives a [`Dataset`];
//! [`Pixels`] turns its training views into rays with colours, by flat index. A [`Sampler`] says which of them to train
//! on; a [`Loader`] does both for a plain `for` loop.

pub mod dataset;
pub mod image;
pub mod normalization;
pub mod pixels;
pub mod synthetic;

mod bitmap;
mod cameras;
mod colmap;
mod loader;
mod patches;
mod sampler;
mod transforms;

pub use bitmap::Bitmap;
pub use cameras::{ListedView, list_views};
pub use dataset::{Dataset, LoadOptions, Resize, Skipped, TestViews, View, load, load_with_progress};
pub use image::Image;
pub use loader::{LoadedBatch, Loader, LoaderHeader, LoaderSeconds};
pub use normalization::Normalization;
pub use pixels::{Batch, BatchTensors, Pixels};
pub use sampler::{
    Draw, DrawHeader, Failure, OnFailure, Sampler, SamplerConfig, SamplerHeader, SamplerStats, Strategy,
};
