//! The error map on a GPU: the launches of `cuda/error_map.cu`.

use std::sync::Arc;

use candle_core::{
    CudaDevice, Device, Result, Tensor, bail,
    cuda_backend::cudarc::driver::{CudaSlice, CudaView, PushKernelArg},
};

use super::{
    ErrorMap, ErrorMapSettings,
    sums::{FULL_MASS, Leaf, Totals},
};
use crate::ops::{
    batch,
    launch::{self, Ascending, SCAN_THREADS, launched},
    scatter_ema::{Duplicates, ScatterStats, cuda::NUM_COUNTS},
    weighted_draw::{
        DrawSettings, Draws, Strata, check_draw,
        cpu::{BLOCK, GROUP},
    },
};

/// Words of the rule of a draw: the mass of an unvisited entry, what every entry gets on top, the total; and of the map
/// the mass of the visited entries and the number of the others.
const NUM_RULE_WORDS: usize = 5;

/// An [`ErrorMap`] in a GPU's memory, with the same bits: drawn from and updated there, nothing read back.
///
/// On a device of `Device::new_cuda`, whose stream is that of the calling thread, all work and all drops belong on one
/// host thread; several threads need a device of `Device::new_cuda_with_stream`.
#[derive(Debug)]
pub struct CudaErrorMap {
    device: CudaDevice,
    len: usize,
    /// Padded to whole blocks, as all that follows.
    values: CudaSlice<f32>,
    groups: CudaSlice<u32>,
    blocks: CudaSlice<u64>,
    settings: ErrorMapSettings,
}

/// Draws from a [`CudaErrorMap`].
#[derive(Debug, Clone)]
pub struct CudaDraws {
    draws: Draws,
    /// The number of entries of the map, which the indices are below.
    len: usize,
    /// What the map summed to when they were drawn: see [`NUM_RULE_WORDS`]. None where nothing was.
    rule: Option<Arc<CudaSlice<u64>>>,
}

impl CudaDraws {
    /// The draws, on the device.
    pub fn draws(&self) -> &Draws {
        &self.draws
    }

    /// The number of entries of the map: every index is below it.
    pub fn map_len(&self) -> usize {
        self.len
    }

    /// Entries, ascending and below `len`, that were drawn otherwise than by a map.
    pub(crate) fn known(indices: Tensor, probability: Tensor, len: usize) -> Self {
        Self { draws: Draws { indices, probability }, len, rule: None }
    }

    /// The same, where a map was asked for what it sums to.
    pub(crate) fn with_rule(self, rule: &Arc<CudaSlice<u64>>) -> Self {
        Self { rule: Some(rule.clone()), ..self }
    }

    /// The words that tell [`MapTotals`], on the device; none where no map was asked.
    pub(crate) fn totals(&self) -> Option<CudaView<'_, u64>> {
        self.rule.as_ref().map(|rule| rule.slice(NUM_RULE_WORDS - MapTotals::NUM_WORDS..))
    }
}

/// What an error map sums to.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct MapTotals {
    visited_mass: u64,
    unvisited: u64,
}

impl MapTotals {
    pub const NUM_WORDS: usize = 2;

    pub fn from_words([visited_mass, unvisited]: [u64; Self::NUM_WORDS]) -> Self {
        Self { visited_mass, unvisited }
    }

    pub fn of(map: &ErrorMap) -> Self {
        let Totals { visited_mass, unvisited } = map.totals();
        Self { visited_mass, unvisited }
    }

    /// See [`ErrorMap::mean`]: of a map of `len` entries with this cap.
    pub fn mean(self, len: usize, cap: f32) -> f64 {
        let visited = (len as u64).saturating_sub(self.unvisited).max(1);
        self.visited_mass as f64 / visited as f64 * f64::from(cap) / f64::from(FULL_MASS)
    }

    /// See [`ErrorMap::visited_fraction`].
    pub fn visited_fraction(self, len: usize) -> f64 {
        1.0 - self.unvisited as f64 / len.max(1) as f64
    }
}

/// What an update of a [`CudaErrorMap`] did: on the device until it is asked for.
#[derive(Debug)]
pub struct CudaScatterStats {
    device: CudaDevice,
    counts: CudaSlice<u32>,
}

impl CudaScatterStats {
    /// Waits for the device and reads the counts, 20 bytes.
    ///
    /// # Errors
    ///
    /// Those of the device.
    pub fn read(&self) -> Result<ScatterStats> {
        Ok(ScatterStats::from_counts(&launch::read_back(&self.device, &self.counts)?))
    }
}

impl CudaErrorMap {
    /// A copy of `map` on `device`.
    ///
    /// # Errors
    ///
    /// Where `device` is not a CUDA device, or refuses.
    pub fn new(map: &ErrorMap, device: &Device) -> Result<Self> {
        let device = device.as_cuda_device()?.clone();
        let values = launch::upload(&device, &map.values[..])?;
        let num_groups = values.len() / GROUP;
        // SAFETY: the kernel below writes all of both before anything reads them.
        let (mut groups, mut blocks) =
            unsafe { (device.alloc::<u32>(num_groups)?, device.alloc::<u64>(values.len() / BLOCK)?) };
        let (num, scale) = (num_groups as u64, Leaf::new(map.settings.cap).scale);
        let kernel = launch::kernel(&device, &launch::ERROR_MAP, "error_map_sums_f32")?;
        let mut args = kernel.args();
        args.arg(&values).arg(&num).arg(&scale).arg(&mut groups).arg(&mut blocks);
        // SAFETY: the arguments are those of the kernel, which reads sixteen values a group and writes each sum.
        launched(unsafe { args.launch(launch::threads(num_groups)?) })?;
        Ok(Self { device, len: map.len, values, groups, blocks, settings: map.settings })
    }

    /// A copy on the host. Reads the whole map back.
    ///
    /// # Errors
    ///
    /// Those of the device.
    pub fn to_host(&self) -> Result<ErrorMap> {
        let values = launch::read_back(&self.device, &self.values.slice(..self.len))?;
        ErrorMap::from_values(values, self.settings)
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Always false: a map has at least one entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// As [`ErrorMap::draw`], with the same bits, on the device.
    ///
    /// # Errors
    ///
    /// As [`ErrorMap::draw`], and those of the device.
    pub fn draw(&self, num: usize, settings: impl Into<DrawSettings>, seed: u64, step: u64) -> Result<CudaDraws> {
        let DrawSettings { uniform_fraction, jitter } = settings.into();
        check_draw(self.len, num, uniform_fraction)?;
        let device = &self.device;
        if num == 0 {
            let (indices, probability) = (launch::zeros(device, 0)?, launch::zeros(device, 0)?);
            return Ok(self.drawn(num, indices, probability, None));
        }
        let (tiles, rule) = self.tiles_and_rule(uniform_fraction)?;
        let num_blocks = self.blocks.len();
        // SAFETY: the kernel below writes all of it before anything reads it.
        let mut ends = unsafe { device.alloc::<u64>(num_blocks)? };
        let (blocks, entries, num_tiles) = (num_blocks as u64, self.len as u64, num_blocks.div_ceil(SCAN_THREADS));

        let kernel = launch::kernel(device, &launch::ERROR_MAP, "error_map_ends")?;
        let mut args = kernel.args();
        args.arg(&self.blocks).arg(&tiles).arg(&rule).arg(&blocks).arg(&entries).arg(&mut ends);
        // SAFETY: the arguments are those of the kernel, which writes `blocks` words.
        launched(unsafe { args.launch(launch::scans(num_tiles)?) })?;

        // SAFETY: the kernel below writes all of both before anything reads them.
        let (mut indices, mut probability) = unsafe { (device.alloc::<u32>(num)?, device.alloc::<f32>(num)?) };
        // The total is the device's to know.
        let (stratum, place) = Strata::with_jitter(jitter, num, 0, seed, step).parts();
        let (systematic, place) = (u32::from(place.is_some()), place.unwrap_or(0));
        let (num_draws, scale) = (num as u64, Leaf::new(self.settings.cap).scale);
        let kernel = launch::kernel(device, &launch::ERROR_MAP, "error_map_draw_f32")?;
        let mut args = kernel.args();
        args.arg(&self.values).arg(&self.groups).arg(&ends).arg(&rule).arg(&blocks).arg(&scale).arg(&num_draws);
        args.arg(&stratum).arg(&systematic).arg(&place).arg(&seed).arg(&step);
        args.arg(&mut indices).arg(&mut probability);
        // SAFETY: the arguments are those of the kernel. It looks up blocks, groups and entries of the map, and writes
        // `num` draws, each from one thread.
        launched(unsafe { args.launch(launch::threads(num)?) })?;
        Ok(self.drawn(num, indices, probability, Some(Arc::new(rule))))
    }

    /// What the tiles of blocks before each sum to, and the words of the rule of a draw.
    fn tiles_and_rule(&self, uniform_fraction: f64) -> Result<(CudaSlice<u64>, CudaSlice<u64>)> {
        let device = &self.device;
        let num_tiles = self.blocks.len().div_ceil(SCAN_THREADS);
        // SAFETY: the kernels below write all of both before anything reads them.
        let (mut tiles, mut rule) =
            unsafe { (device.alloc::<u64>(2 * num_tiles)?, device.alloc::<u64>(NUM_RULE_WORDS)?) };
        let (blocks, entries, tiles_u64) = (self.blocks.len() as u64, self.len as u64, num_tiles as u64);
        let kernel = launch::kernel(device, &launch::ERROR_MAP, "error_map_tiles")?;
        let mut args = kernel.args();
        args.arg(&self.blocks).arg(&blocks).arg(&mut tiles);
        // SAFETY: the arguments are those of the kernel, which reads `blocks` words and writes two a tile.
        launched(unsafe { args.launch(launch::scans(num_tiles)?) })?;

        let uniform_ratio = uniform_fraction / (1.0 - uniform_fraction);
        let kernel = launch::kernel(device, &launch::ERROR_MAP, "error_map_rule")?;
        let mut args = kernel.args();
        args.arg(&tiles_u64).arg(&entries).arg(&uniform_ratio).arg(&mut tiles).arg(&mut rule);
        // SAFETY: the arguments are those of the kernel, one block, which goes over the tiles and writes five words.
        launched(unsafe { args.launch(launch::scans(1)?) })?;
        Ok((tiles, rule))
    }

    /// What the map sums to, on the device, for kernels that ask; the rule is that of a draw without a uniform share.
    pub(crate) fn rule(&self) -> Result<Arc<CudaSlice<u64>>> {
        Ok(Arc::new(self.tiles_and_rule(0.0)?.1))
    }

    /// What the map sums to. Reads 16 bytes back.
    pub(crate) fn totals(&self) -> Result<MapTotals> {
        let rule = self.tiles_and_rule(0.0)?.1;
        let words = launch::read_back(&self.device, &rule.slice(NUM_RULE_WORDS - MapTotals::NUM_WORDS..))?;
        Ok(MapTotals::from_words([words[0], words[1]]))
    }

    /// The entries, padded to whole blocks; the sign bit marks unvisited ones.
    pub(crate) fn values(&self) -> &CudaSlice<f32> {
        &self.values
    }

    /// The mass of a unit of error.
    pub(crate) fn scale(&self) -> f32 {
        Leaf::new(self.settings.cap).scale
    }

    /// The largest error.
    pub(crate) fn cap(&self) -> f32 {
        self.settings.cap
    }

    fn drawn(
        &self,
        num: usize,
        indices: CudaSlice<u32>,
        probability: CudaSlice<f32>,
        rule: Option<Arc<CudaSlice<u64>>>,
    ) -> CudaDraws {
        let indices = launch::tensor(indices, num, &self.device);
        let probability = launch::tensor(probability, num, &self.device);
        CudaDraws { draws: Draws { indices, probability }, len: self.len, rule }
    }

    /// As [`ErrorMap::update`] at the indices that were drawn, which are known to ascend and to lie in the map: nothing
    /// is read back.
    ///
    /// - `values`: `[B]` f32, on the map's device.
    ///
    /// # Errors
    ///
    /// On a wrong shape or dtype, on draws from a map of another length, and those of the device.
    pub fn update_drawn(&mut self, draws: &CudaDraws, values: &Tensor) -> Result<CudaScatterStats> {
        if draws.len != self.len {
            bail!("draws: expected those from a map of {} entries, found those from one of {}", self.len, draws.len)
        }
        let indices = &draws.draws.indices;
        self.check(indices, values)?;
        if indices.elem_count() == 0 {
            return self.no_stats();
        }
        let (storage, layout) = indices.storage_and_layout();
        let indices = launch::view("indices", launch::operand("indices", &storage, layout)?)?;
        self.enter(&indices, None, values)
    }

    /// As [`ErrorMap::update`], at any indices. Eight bytes are read back, since nothing may be written for indices
    /// that are refused; indices that do not ascend are sorted on the host.
    ///
    /// - `indices`: `[B]` u32, on the map's device;
    /// - `values`: `[B]` f32, on the map's device.
    ///
    /// # Errors
    ///
    /// As [`ErrorMap::update`], and those of the device.
    pub fn update(&mut self, indices: &Tensor, values: &Tensor) -> Result<CudaScatterStats> {
        self.check(indices, values)?;
        if indices.elem_count() == 0 {
            return self.no_stats();
        }
        let indices = indices.contiguous()?;
        let (storage, layout) = indices.storage_and_layout();
        let indices = launch::view("indices", launch::operand("indices", &storage, layout)?)?;
        let batch = Ascending::new(&self.device, indices, self.len)?;
        self.enter(&batch.indices(), batch.order().as_ref(), values)
    }

    fn check(&self, indices: &Tensor, values: &Tensor) -> Result<()> {
        batch::check_vector::<u32>("indices", indices, None)?;
        batch::check_vector::<f32>("values", values, Some(indices.elem_count()))?;
        launch::check_device("indices", indices, "the map", &self.device)?;
        launch::check_device("values", values, "the map", &self.device)
    }

    fn no_stats(&self) -> Result<CudaScatterStats> {
        Ok(CudaScatterStats { device: self.device.clone(), counts: self.device.alloc_zeros(NUM_COUNTS)? })
    }

    /// Enters a batch whose indices ascend and lie in the map.
    fn enter(
        &mut self,
        indices: &CudaView<u32>,
        order: Option<&CudaView<u32>>,
        values: &Tensor,
    ) -> Result<CudaScatterStats> {
        let values = values.contiguous()?;
        let (storage, layout) = values.storage_and_layout();
        let values = launch::view::<f32>("values", launch::operand("values", &storage, layout)?)?;
        let ErrorMapSettings { decay, cap, duplicates } = self.settings;
        let (num, gain, mean) = (values.len() as u64, 1.0 - decay, u32::from(duplicates == Duplicates::Mean));
        let scale = Leaf::new(cap).scale;
        let mut stats = self.no_stats()?;
        let kernel = launch::kernel(&self.device, &launch::ERROR_MAP, "error_map_update_f32")?;
        let mut args = kernel.args();
        args.arg(indices);
        launch::optional(&mut args, order);
        args.arg(&values).arg(&num).arg(&decay).arg(&gain).arg(&cap).arg(&mean).arg(&scale);
        args.arg(&mut self.values).arg(&mut self.groups).arg(&mut self.blocks).arg(&mut stats.counts);
        // SAFETY: the arguments are those of the kernel. It reads `num` indices, positions and values, and writes the
        // map at indices that are known to lie in it, each entry from one thread, and the sums by atomics.
        launched(unsafe { args.launch(launch::threads(values.len())?) })?;
        Ok(stats)
    }
}
