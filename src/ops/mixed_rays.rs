//! Batches that are drawn by several rules at once, and what they are judged by, on a GPU: the launches of
//! `cuda/places.cu`, `cuda/mixed_draw.cu`, `cuda/top_k.cu` and `cuda/adaptive.cu`. On the host the sampler
//! ([`crate::data::Sampler`]) does the same, and is the definition.

use std::sync::Arc;

use candle_core::{
    Result, Tensor,
    cuda_backend::cudarc::driver::{CudaSlice, CudaView, PushKernelArg},
};

use super::{
    CudaDraws, CudaErrorMap,
    launch::{self, SCAN_THREADS, launched},
    patch_rays::{CudaPatches, CudaRays},
    weighted_draw::{Jitter, Strata},
};

/// Numbers that an adaptive sampler learns from: see `cuda/adaptive.cu`.
const NUM_ADAPTIVE_SUMS: usize = 8;
/// TASK of `cuda/adaptive.cu`.
const TASK: usize = 1024;
/// COUNT_TILE of `cuda/top_k.cu`.
const COUNT_TILE: usize = 4096;
/// Digits of a key in `cuda/top_k.cu`: values of each, and where they are, the highest first.
const DIGITS: usize = 256;
const SHIFTS: [u32; 4] = [24, 16, 8, 0];

/// Which entries are in a pool.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PoolRule {
    /// How many.
    pub size: usize,
    /// Pixels of a whole patch.
    pub whole: f32,
    /// The mean of what entries have of a whole patch; 1 where errors are not stored times their shares.
    pub mean_share: f64,
}

impl CudaPatches {
    /// The rays from `position` on, where all epochs follow one another, in the order of their entries. Of the network
    /// that shuffles an epoch `halves` are the sizes.
    pub fn of_epoch(&self, num: usize, num_rays: u32, halves: [u64; 2], seed: u64, position: u64) -> Result<CudaRays> {
        let device = &self.device;
        let mut places = launch::zeros::<u32>(device, num)?;
        let (num_places, all, [left, right]) = (num as u64, u64::from(num_rays), halves);
        let kernel = launch::kernel(device, &launch::PLACES, "epoch_places_u32")?;
        let mut args = kernel.args();
        args.arg(&num_places).arg(&all).arg(&left).arg(&right).arg(&position).arg(&seed).arg(&mut places);
        // SAFETY: the arguments are those of the kernel, which writes `num` places.
        launched(unsafe { args.launch(launch::threads(num)?) })?;
        self.at_places(&self.sorted(places, num)?, num, num_rays)
    }

    /// The keys in ascending order.
    fn sorted(&self, mut keys: CudaSlice<u32>, num: usize) -> Result<CudaSlice<u32>> {
        let device = &self.device;
        let num_keys = num as u64;
        let kernel = launch::kernel(device, &launch::PLACES, "sort_blocks_u32")?;
        let mut args = kernel.args();
        args.arg(&num_keys).arg(&mut keys);
        // SAFETY: the arguments are those of the kernel, which reads and writes `num` keys.
        launched(unsafe { args.launch(launch::scans(num.div_ceil(SCAN_THREADS))?) })?;
        let mut merged = launch::zeros::<u32>(device, num)?;
        let mut run = SCAN_THREADS;
        while run < num {
            let run_u64 = run as u64;
            let kernel = launch::kernel(device, &launch::PLACES, "merge_runs_u32")?;
            let mut args = kernel.args();
            args.arg(&keys).arg(&num_keys).arg(&run_u64).arg(&mut merged);
            // SAFETY: the arguments are those of the kernel, which reads `num` keys and writes as many.
            launched(unsafe { args.launch(launch::threads(num)?) })?;
            std::mem::swap(&mut keys, &mut merged);
            run *= 2;
        }
        Ok(keys)
    }

    /// The rays at ascending places, where all rays are counted entry by entry.
    fn at_places(&self, places: &CudaSlice<u32>, num: usize, num_rays: u32) -> Result<CudaRays> {
        let device = &self.device;
        let (mut rays, mut entries) = (launch::zeros::<u32>(device, num)?, launch::zeros::<u32>(device, num)?);
        let mut probability = launch::zeros::<f32>(device, num)?;
        let (num_places, each) = (num as u64, (1.0 / f64::from(num_rays)) as f32);
        let num_entries = launch::count_u32("entries", self.num_entries)?;
        if num > 0 {
            let (order, first) = self.in_use();
            let kernel = launch::kernel(device, &launch::PATCH_RAYS, "place_rays_f32")?;
            let mut args = kernel.args();
            args.arg(places).arg(&self.views);
            launch::optional(&mut args, order.as_ref());
            launch::optional(&mut args, first.as_ref());
            args.arg(&num_places).arg(&self.num_views).arg(&num_entries).arg(&each);
            args.arg(&mut rays).arg(&mut entries).arg(&mut probability);
            // SAFETY: the arguments are those of the kernel. Places lie below the number of rays; each thread writes its
            // own ray, entry and probability.
            launched(unsafe { args.launch(launch::threads(num)?) })?;
        }
        let probability = launch::tensor(probability, num, device);
        let entries = launch::tensor(entries, num, device);
        Ok(CudaRays::known(launch::tensor(rays, num, device), probability, entries, self))
    }

    /// One ray of each entry that was drawn, and `num_even` of all `num_rays`, merged by entry. The entries were drawn
    /// from `pool` where there is one, else by `map`, whose rule is `rule`; `even_share` is the share of rays that are
    /// drawn evenly in the mean over steps.
    pub fn mixed(
        &self,
        draws: CudaDraws,
        (map, rule): (&CudaErrorMap, &Arc<CudaSlice<u64>>),
        pool: Option<&CudaSlice<u32>>,
        (num_even, num_rays, even_share): (usize, u32, f64),
        seed: u64,
        step: u64,
    ) -> Result<CudaRays> {
        let device = &self.device;
        let mut places = launch::zeros::<u32>(device, num_even)?;
        let (num_places, all) = (num_even as u64, u64::from(num_rays));
        if num_even > 0 {
            let kernel = launch::kernel(device, &launch::PLACES, "mixture_places_u32")?;
            let mut args = kernel.args();
            args.arg(&num_places).arg(&all).arg(&seed).arg(&step).arg(&mut places);
            // SAFETY: the arguments are those of the kernel, which writes `num_even` places.
            launched(unsafe { args.launch(launch::threads(num_even)?) })?;
        }
        let even = self.at_places(&places, num_even, num_rays)?;
        let num_error = draws.draws().indices.elem_count();
        // The kernel finds the probabilities that are to be known.
        let by_error = if num_error > 0 { self.rays_of(draws, seed, step)? } else { even.clone() };
        let num = num_error + num_even;
        let (mut rays, mut entries) = (launch::zeros::<u32>(device, num)?, launch::zeros::<u32>(device, num)?);
        let mut probability = launch::zeros::<f32>(device, num)?;
        {
            let read =
                [&by_error.entries.draws().indices, &by_error.indices, &even.entries.draws().indices, &even.indices];
            let read = read.map(|tensor| (tensor.storage_and_layout(), tensor.elem_count()));
            let mut views = Vec::with_capacity(read.len());
            for ((storage, layout), _) in read.iter().filter(|(_, len)| *len > 0) {
                views.push(launch::view::<u32>("rays", launch::operand("rays", storage, layout)?)?);
            }
            // Where nothing is drawn evenly these two are not read.
            let [error_entries, error_rays, even_entries, even_rays] = match &views[..] {
                [a, b, c, d] => [a, b, c, d],
                [a, b, ..] => [a, b, a, b],
                _ => candle_core::bail!("rays: expected some, found none"),
            };
            let (num_error, num_even) = (num_error as u64, num_even as u64);
            let (error_share, even_probability) = (1.0 - even_share, even_share / f64::from(num_rays));
            let (scale, pool_size) = (map.scale(), pool.map_or(0, CudaSlice::len) as u64);
            let pool = pool.map(CudaSlice::as_view);
            let (order, first) = self.in_use();
            let kernel = launch::kernel(device, &launch::MIXED_DRAW, "mixed_draw_f32")?;
            let mut args = kernel.args();
            args.arg(error_entries).arg(error_rays).arg(even_entries).arg(even_rays).arg(&num_error).arg(&num_even);
            args.arg(&self.views);
            launch::optional(&mut args, order.as_ref());
            launch::optional(&mut args, first.as_ref());
            args.arg(&self.num_views).arg(map.values()).arg(&**rule).arg(&scale);
            launch::optional(&mut args, pool.as_ref());
            args.arg(&pool_size).arg(&error_share).arg(&even_probability);
            args.arg(&mut rays).arg(&mut entries).arg(&mut probability);
            // SAFETY: the arguments are those of the kernel. Entries are those of the map and of the patches; the places
            // of both lists, merged, are all different and below their number together.
            launched(unsafe { args.launch(launch::threads(num)?) })?;
        }
        let probability = launch::tensor(probability, num, device);
        let entries = launch::tensor(entries, num, device);
        let rays = CudaRays::known(launch::tensor(rays, num, device), probability, entries, self);
        Ok(CudaRays { entries: rays.entries.with_rule(rule), ..rays })
    }

    /// Where errors are stored times the shares of patches, where the rays of an entry begin.
    fn shares(&self) -> Option<CudaView<'_, u32>> {
        self.first_rays.as_ref().map(CudaSlice::as_view)
    }

    /// The entries with the largest errors, ascending.
    pub fn pool(&self, map: &CudaErrorMap, rule: &CudaSlice<u64>, pool: PoolRule) -> Result<CudaSlice<u32>> {
        let device = &self.device;
        let PoolRule { size, whole, mean_share } = pool;
        let (len, cap) = (map.len() as u64, f64::from(map.cap()));
        let mut found = launch::upload(device, &[0, size as u64])?;
        let mut counts = launch::zeros::<u32>(device, DIGITS)?;
        let shares = self.shares();
        for shift in SHIFTS {
            let kernel = launch::kernel(device, &launch::TOP_K, "top_k_count_f32")?;
            let mut args = kernel.args();
            args.arg(map.values());
            launch::optional(&mut args, shares.as_ref());
            args.arg(rule).arg(&found).arg(&len).arg(&cap).arg(&mean_share).arg(&whole).arg(&shift).arg(&mut counts);
            // SAFETY: the arguments are those of the kernel, of which each block counts COUNT_TILE entries of the map.
            launched(unsafe { args.launch(launch::blocks(map.len().div_ceil(COUNT_TILE))?) })?;
            let kernel = launch::kernel(device, &launch::TOP_K, "top_k_digit")?;
            let mut args = kernel.args();
            args.arg(&shift).arg(&mut counts).arg(&mut found);
            // SAFETY: the arguments are those of the kernel, one block, which writes the counts and two words.
            launched(unsafe { args.launch(launch::blocks(1)?) })?;
        }
        let num_tiles = map.len().div_ceil(SCAN_THREADS);
        let mut tiles = launch::zeros::<u64>(device, 2 * num_tiles)?;
        let kernel = launch::kernel(device, &launch::TOP_K, "top_k_tiles_f32")?;
        let mut args = kernel.args();
        args.arg(map.values());
        launch::optional(&mut args, shares.as_ref());
        args.arg(rule).arg(&found).arg(&len).arg(&cap).arg(&mean_share).arg(&whole).arg(&mut tiles);
        // SAFETY: the arguments are those of the kernel, which reads the map and writes two words a tile.
        launched(unsafe { args.launch(launch::scans(num_tiles)?) })?;
        let tiles_u64 = num_tiles as u64;
        let kernel = launch::kernel(device, &launch::TOP_K, "top_k_before")?;
        let mut args = kernel.args();
        args.arg(&tiles_u64).arg(&mut tiles);
        // SAFETY: the arguments are those of the kernel, one block, which goes over the tiles.
        launched(unsafe { args.launch(launch::scans(1)?) })?;
        let mut entries = launch::zeros::<u32>(device, size)?;
        let kernel = launch::kernel(device, &launch::TOP_K, "top_k_pool_f32")?;
        let mut args = kernel.args();
        args.arg(map.values());
        launch::optional(&mut args, shares.as_ref());
        args.arg(rule).arg(&found).arg(&tiles).arg(&len).arg(&cap).arg(&mean_share).arg(&whole).arg(&mut entries);
        // SAFETY: the arguments are those of the kernel. Of the larger entries and those of the key that was found as many
        // have a place as the pool has, each its own.
        launched(unsafe { args.launch(launch::scans(num_tiles)?) })?;
        Ok(entries)
    }

    /// `num` entries of a pool, each as probable.
    pub fn draw_pool(&self, pool: &CudaSlice<u32>, num: usize, seed: u64, step: u64) -> Result<CudaDraws> {
        let device = &self.device;
        let mut entries = launch::zeros::<u32>(device, num)?;
        if num > 0 {
            let (stratum, _) = Strata::with_jitter(Jitter::Stratified, num, 0, seed, step).parts();
            let (pool_size, num_draws) = (pool.len() as u64, num as u64);
            let kernel = launch::kernel(device, &launch::TOP_K, "top_k_draw_u32")?;
            let mut args = kernel.args();
            args.arg(pool).arg(&pool_size).arg(&num_draws).arg(&stratum).arg(&seed).arg(&step).arg(&mut entries);
            // SAFETY: the arguments are those of the kernel, which reads the pool and writes `num` entries.
            launched(unsafe { args.launch(launch::threads(num)?) })?;
        }
        // What the pool and the evenly drawn part give together is found when they are merged.
        let unknown = launch::tensor(launch::zeros::<f32>(device, num)?, num, device);
        Ok(CudaDraws::known(launch::tensor(entries, num, device), unknown, self.num_entries))
    }

    /// `[B]` f32 on the device: errors (`[B]`) as a map holds them whose entries have few rays and many; see
    /// `share_errors_f32`. None where the map holds them as they are.
    pub fn shared(&self, errors: &Tensor, draws: &CudaDraws, cap: f32, whole: f32) -> Result<Option<Tensor>> {
        let Some(first) = self.shares() else { return Ok(None) };
        let device = &self.device;
        let num = errors.elem_count();
        let mut shared = launch::zeros::<f32>(device, num)?;
        {
            let (read, entries) = (errors.storage_and_layout(), draws.draws().indices.storage_and_layout());
            let read = launch::view::<f32>("errors", launch::operand("errors", &read.0, read.1)?)?;
            let entries = launch::view::<u32>("entries", launch::operand("entries", &entries.0, entries.1)?)?;
            if read.len() != entries.len() {
                candle_core::bail!("errors: expected {}, one a draw, found {}", entries.len(), read.len())
            }
            let num_errors = num as u64;
            let kernel = launch::kernel(device, &launch::MIXED_DRAW, "share_errors_f32")?;
            let mut args = kernel.args();
            args.arg(&read).arg(&entries).arg(&first).arg(&num_errors).arg(&cap).arg(&whole).arg(&mut shared);
            // SAFETY: the arguments are those of the kernel. Entries are those of the patches; each thread writes its own.
            launched(unsafe { args.launch(launch::threads(num)?) })?;
        }
        Ok(Some(launch::tensor(shared, num, device)))
    }

    /// `[B]` f32 on the device: `num_rays` times the probability that the map alone gives the ray of each entry.
    pub fn densities(
        &self,
        map: &CudaErrorMap,
        rule: &CudaSlice<u64>,
        draws: &CudaDraws,
        num_rays: u32,
    ) -> Result<Tensor> {
        let device = &self.device;
        let num = draws.draws().indices.elem_count();
        let mut densities = launch::zeros::<f32>(device, num)?;
        {
            let entries = draws.draws().indices.storage_and_layout();
            let entries = launch::view::<u32>("entries", launch::operand("entries", &entries.0, entries.1)?)?;
            let (num_draws, len, num_rays) = (num as u64, map.len() as u64, f64::from(num_rays));
            let cap = f64::from(map.cap());
            let (order, first) = self.in_use();
            let kernel = launch::kernel(device, &launch::ADAPTIVE, "entry_densities_f32")?;
            let mut args = kernel.args();
            args.arg(&entries).arg(map.values()).arg(rule).arg(&self.views);
            launch::optional(&mut args, order.as_ref());
            launch::optional(&mut args, first.as_ref());
            args.arg(&num_draws).arg(&self.num_views).arg(&len).arg(&num_rays).arg(&cap).arg(&mut densities);
            // SAFETY: the arguments are those of the kernel. Entries are those of the map and of the patches.
            launched(unsafe { args.launch(launch::threads(num)?) })?;
        }
        Ok(launch::tensor(densities, num, device))
    }

    /// What an adaptive sampler learns from a batch whose rungs have these uniform shares. Reads 64 bytes back.
    pub fn adaptive_sums(
        &self,
        rays: &CudaRays,
        densities: &Tensor,
        errors: &Tensor,
        num_rays: u32,
        shares: [f64; 3],
    ) -> Result<[f64; NUM_ADAPTIVE_SUMS]> {
        let device = &self.device;
        let num = errors.elem_count();
        let num_tasks = num.div_ceil(TASK);
        let mut partial = launch::zeros::<f64>(device, NUM_ADAPTIVE_SUMS * num_tasks)?;
        let mut total = launch::zeros::<f64>(device, NUM_ADAPTIVE_SUMS)?;
        let read = [errors, &rays.probability, densities].map(|tensor| tensor.storage_and_layout());
        let mut views = Vec::with_capacity(read.len());
        for (storage, layout) in &read {
            views.push(launch::view::<f32>("errors", launch::operand("errors", storage, layout)?)?);
            if views[views.len() - 1].len() != num {
                candle_core::bail!("errors: expected as many as rays")
            }
        }
        let (num_draws, num_tasks_u64, num_rays) = (num as u64, num_tasks as u64, f64::from(num_rays));
        let [all, half, least] = shares;
        let kernel = launch::kernel(device, &launch::ADAPTIVE, "adaptive_sums_f64")?;
        let mut args = kernel.args();
        for view in &views {
            args.arg(view);
        }
        args.arg(&num_draws).arg(&num_rays).arg(&all).arg(&half).arg(&least).arg(&mut partial);
        // SAFETY: the arguments are those of the kernel, of which each block reads TASK rays and writes eight sums.
        launched(unsafe { args.launch(launch::blocks(num_tasks)?) })?;
        let kernel = launch::kernel(device, &launch::ADAPTIVE, "adaptive_total_f64")?;
        let mut args = kernel.args();
        args.arg(&partial).arg(&num_tasks_u64).arg(&mut total);
        // SAFETY: the arguments are those of the kernel, which reads the sums of all tasks and writes eight.
        launched(unsafe { args.launch(launch::threads(NUM_ADAPTIVE_SUMS)?) })?;
        let total = launch::read_back(device, &total)?;
        Ok(std::array::from_fn(|sum| total[sum]))
    }
}
