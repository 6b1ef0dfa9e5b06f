//! A foam on a GPU as a training step needs it: its cells laid out for the walk, what their densities are, where rays
//! start, and what is kept of every step. The launches of `cuda/start_cells.cu`, `cuda/density.cu` and `cuda/cells.cu`.

use candle_core::{
    CudaDevice, Device, Result, Tensor, bail,
    cuda_backend::cudarc::driver::{CudaSlice, CudaView, CudaViewMut, PushKernelArg},
};

use super::{
    MapTotals, PixelRays, TraceSettings,
    launch::{self, NONE, launched},
    ray_loss::{CudaLoss, LossTotals, RayLossInputs, RayLossSettings, quantiles, ray_loss},
    trace::cuda::{Cells, Gradients, Numbers, Walk, lay_out},
};

/// Words of a check of the inputs of a trace.
const NUM_MISTAKES: usize = 10;

/// The cells of a foam on a device, sentinels included, which are the last of them.
#[derive(Debug)]
pub(crate) struct CudaFoam {
    device: CudaDevice,
    num_real: usize,
    /// `[P + 1]`.
    offsets: CudaSlice<u32>,
    /// `[E]`.
    neighbors: CudaSlice<u32>,
    /// `[P, 3]`.
    points: CudaSlice<f32>,
    /// `[P]`.
    density: CudaSlice<f32>,
    /// `[P']`: of the densities of real cells by the raw ones.
    derivative: CudaSlice<f32>,
    cells: Cells,
    /// All unset: the adjacency is known to be sound.
    mistakes: CudaSlice<u32>,
    /// `[V, 3]`: where rays start.
    cameras: CudaSlice<f32>,
    /// `[V]`: the cells that held them when the cells were triangulated. Not those of the last step: with an adjacency
    /// that is not exact a descent may end elsewhere from elsewhere, and a resumed run must find what this one does.
    hints: CudaSlice<u32>,
}

/// What the rays of a batch say of the parameters.
pub(crate) struct CudaGradients {
    /// `[P', 3]`.
    pub points: Tensor,
    /// `[P']`: of the raw densities.
    pub raw_density: Tensor,
    /// `[P', K, 3]`.
    pub sh: Tensor,
    /// `[P]`: the largest weight of each cell in a colour, by its bits.
    max_weights: CudaSlice<u32>,
}

/// What a batch is traced and judged by.
pub(crate) struct CudaPass<'a> {
    pub rays: &'a PixelRays,
    pub trace: &'a TraceSettings,
    pub loss: &'a RayLossSettings,
    /// Whether depths at two quantiles are wanted.
    pub with_quantiles: bool,
    pub probability: &'a Tensor,
    pub num_drawn_from: u32,
    pub importance_exponent: f32,
    pub error_power: f32,
    pub error_cap: f32,
    /// What is added to the gradient of every density.
    pub of_density: f32,
    pub places: CudaPlaces<'a>,
}

/// Places, the number of a camera near each, and what each adds to the gradient of the density of its cell.
#[derive(Debug)]
pub struct CudaPlaces<'a> {
    pub views: &'a [u32],
    pub places: &'a [[f32; 3]],
    pub gradient: f32,
}

impl CudaFoam {
    /// - `offsets`, `neighbors`: the adjacency, which is sound;
    /// - `built_at`: `[P, 3]` where the cells were triangulated, sentinels included, of which `num_real` come first;
    /// - `cameras`: `[V, 3]` where rays start.
    pub fn new(
        offsets: &[u32],
        neighbors: &[u32],
        built_at: &[[f32; 3]],
        num_real: usize,
        cameras: &[[f32; 3]],
        device: &Device,
    ) -> Result<Self> {
        let num_cells = built_at.len();
        if offsets.len() != num_cells + 1 || num_real > num_cells || num_real == 0 || cameras.is_empty() {
            bail!("foam: expected {num_real} of {num_cells} cells, found {} offsets", offsets.len())
        }
        launch::count_u32("neighbors", neighbors.len())?;
        let device = device.as_cuda_device()?.clone();
        launch::keep_memory(&device)?;
        let mut foam = Self {
            offsets: launch::upload(&device, offsets)?,
            neighbors: launch::upload(&device, neighbors)?,
            points: launch::upload(&device, built_at.as_flattened())?,
            density: device.alloc_zeros(num_cells)?,
            derivative: device.alloc_zeros(num_real)?,
            cells: Cells { sites: device.alloc_zeros(4 * num_cells)?, faces: device.alloc_zeros(4 * neighbors.len())? },
            mistakes: launch::upload(&device, &[NONE; NUM_MISTAKES])?,
            cameras: launch::upload(&device, cameras.as_flattened())?,
            hints: device.alloc_zeros(cameras.len())?,
            num_real,
            device,
        };
        foam.hints = foam.cells_of_cameras()?;
        Ok(foam)
    }

    /// The cells in which the cameras are.
    fn cells_of_cameras(&self) -> Result<CudaSlice<u32>> {
        self.cells_at(&self.cameras, &self.hints)
    }

    /// The cells in which `queries` `[Q, 3]` are, searched for from the cells `hints` `[Q]`.
    fn cells_at(&self, queries: &CudaSlice<f32>, hints: &CudaSlice<u32>) -> Result<CudaSlice<u32>> {
        let mut cells = self.device.alloc_zeros::<u32>(hints.len())?;
        let (num_cells, num_queries) = (self.density.len() as u64, hints.len() as u64);
        let kernel = launch::kernel(&self.device, &launch::START_CELLS, "start_cells_f32")?;
        let mut args = kernel.args();
        args.arg(&self.points).arg(&self.offsets).arg(&self.neighbors).arg(queries).arg(hints);
        args.arg(&num_cells).arg(&num_queries).arg(&mut cells);
        // SAFETY: the arguments are those of the kernel, which goes over the adjacency and writes a cell a query.
        launched(unsafe { args.launch(launch::threads(hints.len())?) })?;
        Ok(cells)
    }

    /// How many of the places each cell holds; `None` where there are no places.
    fn count_places(&self, places: &CudaPlaces) -> Result<Option<CudaSlice<u32>>> {
        if places.places.is_empty() {
            return Ok(None);
        }
        let views = launch::upload(&self.device, places.views)?;
        let queries = launch::upload(&self.device, places.places.as_flattened())?;
        let cells = self.cells_at(&queries, &self.of_views(&views.as_view(), &self.hints)?)?;
        let mut counts = self.device.alloc_zeros::<u32>(self.density.len())?;
        let num = cells.len() as u64;
        let kernel = launch::kernel(&self.device, &launch::CELLS, "count_cells_u32")?;
        let mut args = kernel.args();
        args.arg(&cells).arg(&num).arg(&mut counts);
        // SAFETY: the arguments are those of the kernel, which adds 1 at cells of the foam.
        launched(unsafe { args.launch(launch::threads(cells.len())?) })?;
        Ok(Some(counts))
    }

    /// The cell in which each ray of the views (`[R]` u32) starts.
    fn start_cells(&self, views: &Tensor) -> Result<CudaSlice<u32>> {
        let (storage, layout) = views.storage_and_layout();
        let views = launch::view::<u32>("views", launch::operand("views", &storage, layout)?)?;
        self.of_views(&views, &self.cells_of_cameras()?)
    }

    /// The cell of each view's camera.
    fn of_views(&self, views: &CudaView<u32>, cells: &CudaSlice<u32>) -> Result<CudaSlice<u32>> {
        let mut start_cells = self.device.alloc_zeros::<u32>(views.len())?;
        let (num_rays, blocks) = (views.len() as u64, launch::threads(views.len())?);
        let kernel = launch::kernel(&self.device, &launch::START_CELLS, "start_cells_of_rays")?;
        let mut args = kernel.args();
        args.arg(views).arg(cells).arg(&num_rays).arg(&mut start_cells);
        // SAFETY: the arguments are those of the kernel, which reads the cell of each ray's view and writes it.
        launched(unsafe { args.launch(blocks) })?;
        Ok(start_cells)
    }

    /// Moves the cells to where the parameters are: `points` `[P', 3]`, `raw_density` `[P']`, which becomes
    /// `scale * softplus(beta * raw) / beta`.
    pub fn refresh(&mut self, points: &Tensor, raw_density: &Tensor, scale: f32, beta: f32) -> Result<()> {
        let (num_real, num_cells) = (self.num_real as u64, self.density.len() as u64);
        let blocks = launch::threads(self.density.len())?;
        if points.dims() != [self.num_real, 3] || raw_density.dims() != [self.num_real] {
            bail!("foam: points: expected [{}, 3], found {:?}", self.num_real, points.shape())
        }
        let (points, raw) = (points.storage_and_layout(), raw_density.storage_and_layout());
        let points = launch::view::<f32>("points", launch::operand("points", &points.0, points.1)?)?;
        let raw = launch::view::<f32>("raw_density", launch::operand("raw_density", &raw.0, raw.1)?)?;
        self.device.memcpy_dtod(&points, &mut self.points.slice_mut(..3 * self.num_real))?;

        let kernel = launch::kernel(&self.device, &launch::DENSITY, "density_f32")?;
        let mut args = kernel.args();
        args.arg(&raw).arg(&num_real).arg(&num_cells).arg(&scale).arg(&beta);
        args.arg(&mut self.density).arg(&mut self.derivative);
        // SAFETY: the arguments are those of the kernel, which reads a raw density a real cell, and writes a density a
        // cell and a derivative a real one.
        launched(unsafe { args.launch(blocks) })?;
        let (points, density) = (self.points.as_view(), self.density.as_view());
        let (offsets, neighbors) = (self.offsets.as_view(), self.neighbors.as_view());
        lay_out(&self.device, &points, &density, &offsets, &neighbors, &mut self.cells, &mut self.mistakes)
    }

    /// Traces a batch that is not empty and takes its loss back. The totals of the loss go into the report.
    pub fn pass(&self, sh: &Tensor, pass: &CudaPass, report: &mut StepReport) -> Result<(CudaGradients, CudaLoss)> {
        let device = &self.device;
        let CudaPass { rays, loss: settings, .. } = pass;
        let num_rays = rays.views.elem_count();
        let start_cells = self.start_cells(&rays.views)?;
        let num_quantiles = if pass.with_quantiles { 2 } else { 0 };
        let quantiles = match pass.with_quantiles {
            true => Some(quantiles(device, num_rays, settings.seed, settings.step)?),
            false => None,
        };
        let sh_shape = sh.shape().clone();
        let &[num_real, num_coefficients, 3] = sh_shape.dims() else {
            bail!("foam: sh: expected [P, K, 3], found {sh_shape:?}")
        };
        let (origins, directions) = (rays.origins.storage_and_layout(), rays.directions.storage_and_layout());
        let (sh_storage, sh_layout) = sh.storage_and_layout();
        let sh = launch::view::<f32>("sh", launch::operand("sh", &sh_storage, sh_layout)?)?;
        let origins = launch::view::<f32>("origins", launch::operand("origins", &origins.0, origins.1)?)?;
        let directions =
            launch::view::<f32>("directions", launch::operand("directions", &directions.0, directions.1)?)?;
        let (offsets, starts) = (self.offsets.as_view(), start_cells.as_view());
        let quantiles = quantiles.as_ref().map(CudaSlice::as_view);
        let walk = Walk {
            cells: &self.cells,
            offsets: &offsets,
            sh: &sh,
            origins: &origins,
            directions: &directions,
            start_cells: &starts,
            quantiles: quantiles.as_ref(),
            numbers: Numbers {
                num_cells: self.density.len() as u64,
                num_edges: self.neighbors.len() as u64,
                num_rays: u64::from(launch::count_u32("rays", num_rays)?),
                num_coefficients: num_coefficients as u32,
                num_quantiles,
                ..Numbers::of(pass.trace)
            },
        };
        let mut max_weights = device.alloc_zeros::<u32>(self.density.len())?;
        let seen = walk.forward(device, None, Some(&mut max_weights))?;
        let inputs = RayLossInputs {
            packed: &seen.packed,
            cells_entered: &seen.cells_entered,
            rgba: &rays.rgba,
            probability: pass.probability,
            num_drawn_from: pass.num_drawn_from,
            importance_exponent: pass.importance_exponent,
            error_power: pass.error_power,
            error_cap: pass.error_cap,
        };
        let loss = ray_loss(device, &inputs, settings, &mut report.totals())?;
        let grad = loss.grad_packed.as_view();
        let Gradients { points, mut density, sh } =
            walk.backward(device, &seen.packed.as_view(), &seen.ends, &grad, num_real)?;

        let counts = self.count_places(&pass.places)?;
        let counts = counts.as_ref().map(CudaSlice::as_view);
        let num = num_real as u64;
        let kernel = launch::kernel(device, &launch::DENSITY, "density_grad_f32")?;
        let mut args = kernel.args();
        args.arg(&self.derivative).arg(&num).arg(&pass.of_density);
        launch::optional(&mut args, counts.as_ref());
        args.arg(&pass.places.gradient).arg(&mut density);
        // SAFETY: the arguments are those of the kernel, which reads and writes a number a real cell.
        launched(unsafe { args.launch(launch::threads(num_real)?) })?;
        let gradients = CudaGradients {
            points: launch::tensor(points, (num_real, 3), device),
            raw_density: launch::tensor(density, num_real, device),
            sh: launch::tensor(sh, sh_shape, device),
            max_weights,
        };
        Ok((gradients, loss))
    }

    /// The gradient `grad_sh` with `weight (sh_i - m_i)` added, `m_i` being the mean over the neighbours of a cell.
    pub fn smoothed(&self, sh: &Tensor, grad_sh: Tensor, weight: f32) -> Result<Tensor> {
        let shape = grad_sh.shape().clone();
        let (num_real, width) = (self.num_real as u64, (shape.elem_count() / self.num_real) as u32);
        let mut smoothed = {
            let (storage, layout) = grad_sh.storage_and_layout();
            let grad = launch::view::<f32>("grad", launch::operand("grad", &storage, layout)?)?;
            let mut copy = self.device.alloc_zeros::<f32>(grad.len())?;
            self.device.memcpy_dtod(&grad, &mut copy)?;
            copy
        };
        let (storage, layout) = sh.storage_and_layout();
        let sh = launch::view::<f32>("sh", launch::operand("sh", &storage, layout)?)?;
        if sh.len() != smoothed.len() {
            bail!("foam: sh: expected {} values, found {}", smoothed.len(), sh.len())
        }
        let kernel = launch::kernel(&self.device, &launch::DENSITY, "smooth_color_f32")?;
        let mut args = kernel.args();
        args.arg(&sh).arg(&self.offsets).arg(&self.neighbors).arg(&num_real).arg(&width).arg(&weight);
        args.arg(&mut smoothed);
        // SAFETY: the arguments are those of the kernel, which reads the colours of neighbours and writes each value
        // from one thread.
        launched(unsafe { args.launch(launch::threads(sh.len())?) })?;
        Ok(launch::tensor(smoothed, shape, &self.device))
    }
}

/// Statistics of the cells for a refinement, on a device.
#[derive(Debug)]
pub(crate) struct CudaStatistics {
    device: CudaDevice,
    gradient: CudaSlice<f32>,
    max_weight: CudaSlice<f32>,
}

impl CudaStatistics {
    /// Both `[P']`.
    pub fn new(gradient: &[f32], max_weight: &[f32], device: &Device) -> Result<Self> {
        let device = device.as_cuda_device()?.clone();
        let (gradient, max_weight) = (launch::upload(&device, gradient)?, launch::upload(&device, max_weight)?);
        Ok(Self { device, gradient, max_weight })
    }

    /// Adds a step.
    pub fn add(&mut self, gradients: &CudaGradients) -> Result<()> {
        let (storage, layout) = gradients.points.storage_and_layout();
        let points = launch::view::<f32>("points", launch::operand("points", &storage, layout)?)?;
        if points.len() != 3 * self.gradient.len() || gradients.max_weights.len() < self.gradient.len() {
            bail!("statistics: expected gradients of {} cells, found {} values", self.gradient.len(), points.len())
        }
        let num_cells = self.gradient.len() as u64;
        let kernel = launch::kernel(&self.device, &launch::CELLS, "refine_statistics_f32")?;
        let mut args = kernel.args();
        args.arg(&points).arg(&gradients.max_weights).arg(&num_cells);
        args.arg(&mut self.gradient).arg(&mut self.max_weight);
        // SAFETY: the arguments are those of the kernel, which reads and writes a row a cell.
        launched(unsafe { args.launch(launch::threads(num_cells as usize)?) })
    }

    /// Gradient and largest weight of each cell. Reads both back.
    pub fn read(&self) -> Result<[Vec<f32>; 2]> {
        Ok([launch::read_back(&self.device, &self.gradient)?, launch::read_back(&self.device, &self.max_weight)?])
    }
}

/// What the host is told of a step, gathered on the device and read at once.
#[derive(Debug)]
pub(crate) struct StepReport {
    device: CudaDevice,
    words: CudaSlice<u64>,
    /// Whether the error map's totals are among them.
    has_map: bool,
}

/// A [`StepReport`] on the host.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct StepTotals {
    pub loss: LossTotals,
    /// Of each tensor that was looked at: the number of values that are not finite, and the first of them.
    pub non_finite: [[u64; 2]; StepReport::NUM_TENSORS],
    /// Of the error map, as the draw saw it.
    pub map: Option<MapTotals>,
}

impl StepReport {
    /// Tensors that are looked at for values that are not finite: three parameters and their gradients.
    pub const NUM_TENSORS: usize = 6;
    const TENSORS: usize = LossTotals::NUM_WORDS;
    const MAP: usize = Self::TENSORS + 2 * Self::NUM_TENSORS;
    const NUM_WORDS: usize = Self::MAP + MapTotals::NUM_WORDS;

    /// With nothing in it yet.
    pub fn new(device: &Device) -> Result<Self> {
        let device = device.as_cuda_device()?.clone();
        let mut words = [0; Self::NUM_WORDS];
        for tensor in 0..Self::NUM_TENSORS {
            words[Self::TENSORS + 2 * tensor + 1] = u64::MAX;
        }
        Ok(Self { words: launch::upload(&device, &words)?, device, has_map: false })
    }

    fn totals(&mut self) -> CudaViewMut<'_, u64> {
        self.words.slice_mut(..LossTotals::NUM_WORDS)
    }

    /// Looks at all values of `tensor`, the `number`-th.
    pub fn look_at(&mut self, number: usize, tensor: &Tensor) -> Result<()> {
        /// Values that a thread looks at, while there are more than fill the device.
        const VALUES_PER_THREAD: usize = 16;
        let (storage, layout) = tensor.storage_and_layout();
        let values = launch::view::<f32>("values", launch::operand("values", &storage, layout)?)?;
        let num = values.len() as u64;
        let at = Self::TENSORS + 2 * number;
        let mut found = self.words.slice_mut(at..at + 2);
        let kernel = launch::kernel(&self.device, &launch::CELLS, "non_finite_f32")?;
        let mut args = kernel.args();
        args.arg(&values).arg(&num).arg(&mut found);
        // SAFETY: the arguments are those of the kernel, which reads `num` values and writes two words.
        launched(unsafe { args.launch(launch::threads(values.len().div_ceil(VALUES_PER_THREAD))?) })
    }

    /// Takes in what a draw says of the error map.
    pub fn set_map(&mut self, draws: &super::CudaDraws) -> Result<()> {
        if let Some(totals) = draws.totals() {
            self.device.memcpy_dtod(&totals, &mut self.words.slice_mut(Self::MAP..))?;
            self.has_map = true;
        }
        Ok(())
    }

    /// Looks at some values of which one is not finite, to see whether the device does.
    pub fn try_out(mut self, device: &Device) -> Result<()> {
        let values = Tensor::from_slice(&[0.0, 1.0, f32::NAN, 2.0], 4, device)?;
        self.look_at(0, &values)?;
        match self.read()?.non_finite[0] {
            [1, 2] => Ok(()),
            found => bail!("expected [1, 2] of a kernel, found {found:?}"),
        }
    }

    /// Waits for the device and reads it.
    pub fn read(self) -> Result<StepTotals> {
        let words = launch::read_back(&self.device, &self.words)?;
        let at = |place: usize| words.get(place).copied().unwrap_or(0);
        Ok(StepTotals {
            loss: LossTotals::from_words(std::array::from_fn(at)),
            non_finite: std::array::from_fn(|i| [at(Self::TENSORS + 2 * i), at(Self::TENSORS + 2 * i + 1)]),
            map: self.has_map.then(|| MapTotals::from_words([at(Self::MAP), at(Self::MAP + 1)])),
        })
    }
}
