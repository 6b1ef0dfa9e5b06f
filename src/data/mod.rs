//! Captures: posed photographs as cameras, 8-bit images and a start cloud, in normalised units; and the rays that
//! training draws from them.
//!
//! [`load`] recognises the format of a folder (COLMAP, `transforms.json` of many tools, LLFF) and gives a [`Dataset`];
//! [`Pixels`] turns its training views into rays with colours, by flat index. A [`Sampler`] says which of them to train
//! on; a [`Loader`] does both for a plain `for` loop.

pub mod dataset;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
pub mod image;
pub mod normalization;
pub mod pixels;
pub mod synthetic;

mod bitmap;
mod cameras;
mod capture;
mod colmap;
mod decode;
mod jpeg;
mod llff;
mod loader;
mod mask;
mod npy;
mod options;
mod patches;
mod sampler;
mod tiff;
mod transforms;

pub use bitmap::Bitmap;
pub use cameras::{ListedView, list_views};
pub use capture::{Format, Recognised, recognise};
pub use dataset::{Dataset, Skipped, View, load, load_with_progress};
pub use image::Image;
#[cfg(feature = "cuda")]
pub(crate) use loader::DeviceBatch;
pub use loader::{LoadedBatch, Loader, LoaderHeader, LoaderSeconds};
pub use normalization::Normalization;
pub use options::{LoadOptions, Resize, TestViews};
pub use pixels::{Batch, BatchTensors, Pixels};
#[cfg(feature = "cuda")]
pub(crate) use sampler::Told;
pub use sampler::{
    Draw, DrawHeader, Failure, OnFailure, Sampler, SamplerConfig, SamplerHeader, SamplerStats, Strategy, ViewLayout,
};
