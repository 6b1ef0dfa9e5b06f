//! A sampler as tensors and a header, and back.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::adaptive::Adaptive;
use super::draw::vector;
use super::stats::Counters;
use super::{Failure, OnFailure, Sampler, SamplerConfig};
use crate::data::Bitmap;
use crate::data::patches::{Grid, Patches};
use crate::ops::ErrorMap;
use crate::{Error, Result};

/// More than any run counts, and little enough to go on counting from.
const MOST_COUNTED: u64 = 1 << 48;
/// The names of the tensors of [`Sampler::state`].
const MAP_TENSOR: &str = "error_map";
const IN_USE_TENSOR: &str = "in_use";

/// Everything of a sampler but its map, ready for a checkpoint's JSON header.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SamplerHeader {
    /// The settings; may be changed between [`Sampler::state`] and [`Sampler::from_state`], but for the patch.
    pub config: SamplerConfig,
    pub(super) patches: Patches,
    #[serde(flatten)]
    pub(super) counters: Counters,
    pub(super) next_update: u64,
    pub(super) generation: u32,
    pub(super) skipped_non_finite: u64,
    pub(super) negative: u64,
    pub(super) capped: u64,
    #[serde(default)]
    pub(super) max_error: f32,
    #[serde(default)]
    pub(super) adaptive: Adaptive,
}

/// How the entries of a view lie in the flat map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewLayout {
    /// Height of the image in pixels.
    pub height: u32,
    /// Width of the image in pixels.
    pub width: u32,
    /// Patches from top to bottom: `height / patch`, rounded up. Patch `row` covers the pixels from
    /// `row * height / rows`, rounded down, to where the next one begins.
    pub rows: u32,
    /// Patches from left to right, likewise.
    pub columns: u32,
    /// The first entry of this view.
    pub offset: u32,
    /// How many it has: `rows * columns`, but where patches have no pixel in use; see [`Sampler::patch_of_entry`].
    pub entries: u32,
}

impl Sampler {
    /// How the entries of each view lie in the flat map, row by row; for those who read a saved one.
    pub fn view_layouts(&self) -> Vec<ViewLayout> {
        let patches = &self.header.patches;
        let mut offset = 0;
        let layout = |grid: &Grid| {
            let entries = grid.patches().filter(|&patch| patches.entry_of_patch(patch).is_some()).count() as u32;
            let Grid { height, width, rows, columns, .. } = *grid;
            let layout = ViewLayout { height, width, rows, columns, offset, entries };
            offset += entries;
            layout
        };
        (0..patches.num_views()).filter_map(|view| patches.grid(view)).map(layout).collect()
    }

    /// Where some pixels are not in use, the patch of each entry, ascending, counted row by row through all views: not
    /// every patch has one then.
    pub fn patch_of_entry(&self) -> Option<Vec<u32>> {
        let patches = &self.header.patches;
        patches.in_use()?;
        let all = (0..patches.num_views()).filter_map(|view| patches.grid(view)).flat_map(Grid::patches);
        Some(all.filter(|&patch| patches.entry_of_patch(patch).is_some()).collect())
    }

    /// Everything the next draw depends on: named tensors (the map, where there is one; which pixels are in use, where
    /// that is not all of them) and a header.
    ///
    /// # Errors
    ///
    /// Where Candle cannot make the tensor.
    pub fn state(&self) -> Result<(BTreeMap<String, Tensor>, SamplerHeader)> {
        let mut tensors = BTreeMap::new();
        if let Some(map) = self.host_map()? {
            tensors.insert(MAP_TENSOR.to_string(), map.to_tensor()?);
        }
        if let Some(in_use) = self.header.patches.in_use() {
            tensors.insert(IN_USE_TENSOR.to_string(), bits_of(in_use)?);
        }
        Ok((tensors, self.header.clone()))
    }

    /// Whether [`Sampler::state`] may have a tensor of this name.
    pub(crate) fn is_state(name: &str) -> bool {
        [MAP_TENSOR, IN_USE_TENSOR].contains(&name)
    }

    /// The sampler that [`Sampler::state`] was asked of. It goes on with the same bits.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] on a setting out of range; [`Error::Tensor`] where the map is missing or of another kind or
    /// length, [`Error::Candle`] where it is not finite. With [`OnFailure::Uniform`] a map that cannot be used is no
    /// error: a new one is begun, and that is counted.
    pub fn from_state(tensors: &BTreeMap<String, Tensor>, header: SamplerHeader) -> Result<Self> {
        header.config.validate()?;
        let shapes = header.patches.shapes();
        let in_use = match tensors.get(IN_USE_TENSOR) {
            Some(bits) => {
                let num_pixels = shapes.iter().map(|&[height, width]| height as usize * width as usize).sum();
                Some(in_use_of(bits, num_pixels)?)
            }
            None => None,
        };
        let patches = Patches::new(&shapes, header.config.map_patch(), in_use.as_ref())?;
        let mut header = SamplerHeader { patches, ..header };
        let Counters { step, epoch_position, fallbacks, .. } = header.counters;
        for (field, value) in [("step", step), ("epoch_position", epoch_position), ("fallbacks", fallbacks)] {
            if value > MOST_COUNTED {
                return Err(Error::config(format!("sampler.{field}"), "at most 2^48", value.to_string()));
            }
        }
        if !header.config.strategy.keeps_map() {
            return Ok(Self::from_parts(header, None));
        }
        let (len, settings) = (header.patches.num_entries(), header.config.map_settings());
        let map = vector(MAP_TENSOR, tensors.get(MAP_TENSOR), len)
            .and_then(|values| Ok(ErrorMap::from_values(values, settings)?));
        let map = match map {
            Err(_) if header.config.on_failure == OnFailure::Uniform => {
                header.counters.fall_back(Failure::UnusableMap);
                ErrorMap::new(len, settings)?
            }
            map => map?,
        };
        Ok(Self::from_parts(header, Some(map)))
    }
}

/// 32 pixels a word, the first of them lowest.
fn bits_of(in_use: &Bitmap) -> Result<Tensor> {
    let word = |word: usize| (0..32).fold(0u32, |bits, bit| bits | u32::from(in_use.get(32 * word + bit)) << bit);
    let words: Vec<u32> = (0..in_use.len().div_ceil(32)).map(word).collect();
    let len = words.len();
    Ok(Tensor::from_vec(words, len, &Device::Cpu)?)
}

fn in_use_of(bits: &Tensor, num_pixels: usize) -> Result<Bitmap> {
    let words: Vec<u32> = vector(IN_USE_TENSOR, Some(bits), num_pixels.div_ceil(32))?;
    let in_use = Bitmap::from_fn(num_pixels, |pixel| words[pixel / 32] >> (pixel % 32) & 1 == 1)?;
    if bits_of(&in_use)?.to_vec1::<u32>()? != words {
        return Err(Error::tensor(IN_USE_TENSOR, "no bit beyond the last pixel", "some"));
    }
    Ok(in_use)
}
