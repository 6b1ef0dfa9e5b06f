//! The launches of `cuda/trace.cu`.

use candle_core::{
    CudaDevice, CudaStorage, Result, Shape, Tensor,
    backend::BackendStorage,
    bail,
    cuda_backend::cudarc::driver::{CudaSlice, CudaView, PushKernelArg},
};

use super::{TraceRays, TraceSettings, cpu::PACKED_HEAD};
use crate::ops::launch::{self, NONE, Operand, launched};

/// What the inputs may have wrong, in the order in which `trace_check_f32` tells it, and what was expected.
const MISTAKES: [[&str; 2]; 10] = [
    ["offsets", "ascending from 0 to the number of neighbors"],
    ["neighbors", "below the number of cells"],
    ["start_cells", "below the number of cells"],
    ["density", "finite and at least 0"],
    ["points", "finite values"],
    ["origins", "finite values"],
    ["directions", "finite values"],
    ["directions", "unit length"],
    ["quantiles", "descending in (0, 1)"],
    ["points", "neighbours whose squared distance is finite"],
];

/// What the forward pass leaves for the backward pass.
pub(super) struct Saved {
    cells: Cells,
    ends: Ends,
}

/// Cells as a walk reads them.
#[derive(Debug)]
pub(crate) struct Cells {
    /// `[P, 4]`.
    pub sites: CudaSlice<f32>,
    /// `[E, 4]`.
    pub faces: CudaSlice<f32>,
}

/// How rays ended.
#[derive(Debug)]
pub(crate) struct Ends {
    /// `[R]`.
    end_transmittance: CudaSlice<f32>,
    /// `[R, Q]`.
    reached_density: CudaSlice<f32>,
}

/// What a forward pass gives.
pub(crate) struct Seen {
    /// `[R, 4 + Q]`.
    pub packed: CudaSlice<f32>,
    /// `[R]`.
    pub cells_entered: CudaSlice<u32>,
    pub ends: Ends,
}

/// The gradients of points, density and SH coefficients.
pub(crate) struct Gradients {
    /// `[P, 3]`.
    pub points: CudaSlice<f32>,
    /// `[P]`.
    pub density: CudaSlice<f32>,
    /// `[P, K, 3]`.
    pub sh: CudaSlice<f32>,
}

/// What both passes read, all of it checked.
pub(crate) struct Walk<'a> {
    pub cells: &'a Cells,
    /// `[P + 1]`.
    pub offsets: &'a CudaView<'a, u32>,
    /// `[P, K, 3]`; of empty cells it is not read.
    pub sh: &'a CudaView<'a, f32>,
    /// `[R, 3]`.
    pub origins: &'a CudaView<'a, f32>,
    /// `[R, 3]`.
    pub directions: &'a CudaView<'a, f32>,
    /// `[R]`.
    pub start_cells: &'a CudaView<'a, u32>,
    /// `[R, Q]`.
    pub quantiles: Option<&'a CudaView<'a, f32>>,
    pub numbers: Numbers,
}

/// Sizes and settings as the kernels take them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Numbers {
    pub num_cells: u64,
    pub num_edges: u64,
    pub num_rays: u64,
    pub num_coefficients: u32,
    pub num_quantiles: u32,
    pub transmittance_threshold: f32,
    pub density_threshold: f32,
    pub grazing_cosine: f32,
    pub max_cells: u32,
}

impl Numbers {
    /// Without any cell or ray yet.
    pub(crate) fn of(settings: &TraceSettings) -> Self {
        Self {
            num_cells: 0,
            num_edges: 0,
            num_rays: 0,
            num_coefficients: 0,
            num_quantiles: 0,
            transmittance_threshold: settings.transmittance_threshold as f32,
            density_threshold: settings.density_threshold as f32,
            grazing_cosine: settings.grazing_cosine as f32,
            max_cells: settings.max_cells,
        }
    }

    fn new(op: &TraceRays) -> Result<Self> {
        let inputs = &op.inputs;
        Ok(Self {
            num_cells: inputs.offsets.elem_count().saturating_sub(1) as u64,
            num_edges: u64::from(launch::count_u32("neighbors", inputs.neighbors.elem_count())?),
            num_rays: u64::from(launch::count_u32("rays", inputs.start_cells.elem_count())?),
            num_coefficients: op.num_coefficients as u32,
            num_quantiles: launch::count_u32("quantiles", op.num_quantiles)?,
            ..Self::of(&op.settings)
        })
    }

    fn num_outputs(&self) -> usize {
        self.num_rays as usize * (PACKED_HEAD + self.num_quantiles as usize)
    }
}

/// Calls `$body` with the rays and the adjacency, which Candle did not hand over, as views named like the fields.
macro_rules! with_inputs {
    ($op:expr, |$origins:ident, $directions:ident, $start_cells:ident, $quantiles:ident, $offsets:ident, $neighbors:ident| $body:block) => {{
        let inputs = &$op.inputs;
        let contiguous = |tensor: &Tensor| tensor.contiguous();
        let ($origins, $directions) = (contiguous(&inputs.origins)?, contiguous(&inputs.directions)?);
        let ($start_cells, $offsets) = (contiguous(&inputs.start_cells)?, contiguous(&inputs.offsets)?);
        let $neighbors = contiguous(&inputs.neighbors)?;
        let $quantiles = inputs.quantiles.as_ref().filter(|_| $op.num_quantiles > 0).map(contiguous).transpose()?;
        let ($origins, $directions) = ($origins.storage_and_layout(), $directions.storage_and_layout());
        let ($start_cells, $offsets) = ($start_cells.storage_and_layout(), $offsets.storage_and_layout());
        let $neighbors = $neighbors.storage_and_layout();
        let $quantiles = $quantiles.as_ref().map(|tensor| tensor.storage_and_layout());
        let $origins = launch::view::<f32>("origins", launch::operand("origins", &$origins.0, $origins.1)?)?;
        let $directions =
            launch::view::<f32>("directions", launch::operand("directions", &$directions.0, $directions.1)?)?;
        let $start_cells =
            launch::view::<u32>("start_cells", launch::operand("start_cells", &$start_cells.0, $start_cells.1)?)?;
        let $offsets = launch::view::<u32>("offsets", launch::operand("offsets", &$offsets.0, $offsets.1)?)?;
        let $neighbors = launch::view::<u32>("neighbors", launch::operand("neighbors", &$neighbors.0, $neighbors.1)?)?;
        let $quantiles: Option<CudaView<f32>> = match &$quantiles {
            Some((storage, layout)) => Some(launch::view("quantiles", launch::operand("quantiles", storage, layout)?)?),
            None => None,
        };
        $body
    }};
}

pub(super) fn forward(op: &TraceRays, points: Operand, density: Operand, sh: Operand) -> Result<(CudaStorage, Shape)> {
    launch::check_f32("trace_rays", points.0)?;
    let device = points.0.device().clone();
    let numbers = Numbers::new(op)?;
    let (num_rays, num_cells) = (numbers.num_rays as usize, numbers.num_cells as usize);
    let shape = Shape::from((num_rays, PACKED_HEAD + op.num_quantiles));
    if num_rays == 0 {
        let side = (
            launch::tensor(launch::zeros::<f32>(&device, num_cells)?, num_cells, &device),
            launch::tensor(launch::zeros::<u32>(&device, 0)?, 0, &device),
        );
        let _ = op.side.set(side);
        return Ok((CudaStorage::wrap_cuda_slice(launch::zeros::<f32>(&device, 0)?, device), shape));
    }
    if numbers.num_edges == 0 {
        bail!("trace_rays: neighbors: expected at least one on a CUDA device, found none")
    }
    let (points, density) = (launch::view::<f32>("points", points)?, launch::view::<f32>("density", density)?);
    let sh = launch::view::<f32>("sh", sh)?;
    with_inputs!(op, |origins, directions, start_cells, quantiles, offsets, neighbors| {
        let Numbers { num_cells: cells, num_edges, num_rays: rays, num_quantiles, .. } = numbers;

        let mut first = launch::upload(&device, &[NONE; MISTAKES.len()])?;
        let kernel = launch::kernel(&device, &launch::TRACE, "trace_check_f32")?;
        let mut args = kernel.args();
        args.arg(&points).arg(&density).arg(&offsets).arg(&neighbors).arg(&origins).arg(&directions).arg(&start_cells);
        launch::optional(&mut args, quantiles.as_ref());
        args.arg(&cells).arg(&num_edges).arg(&rays).arg(&num_quantiles).arg(&mut first);
        let most = (num_cells + 1).max(num_edges as usize).max(num_rays);
        // SAFETY: the arguments are those of the kernel, which reads arrays of the given sizes, each checked against
        // the tensors' shapes, and writes ten words.
        launched(unsafe { args.launch(launch::threads(most)?) })?;

        // SAFETY: the kernel below writes all of both before anything reads them, or tells a mistake.
        let mut laid_out =
            unsafe { Cells { sites: device.alloc(4 * num_cells)?, faces: device.alloc(4 * num_edges as usize)? } };
        lay_out(&device, &points, &density, &offsets, &neighbors, &mut laid_out, &mut first)?;
        let first = launch::read_back(&device, &first)?;
        for ([name, expected], at) in MISTAKES.into_iter().zip(first) {
            if at != NONE {
                bail!("trace_rays: {name}: expected {expected}, found otherwise in row {at}")
            }
        }

        let mut sums = device.alloc_zeros::<u64>(num_cells)?;
        let walk = Walk {
            cells: &laid_out,
            offsets: &offsets,
            sh: &sh,
            origins: &origins,
            directions: &directions,
            start_cells: &start_cells,
            quantiles: quantiles.as_ref(),
            numbers,
        };
        let Seen { packed, cells_entered, ends } = walk.forward(&device, Some(&mut sums), None)?;

        // SAFETY: the kernel below writes all of it before anything reads it.
        let mut contribution = unsafe { device.alloc::<f32>(num_cells)? };
        let kernel = launch::kernel(&device, &launch::TRACE, "trace_contribution_f32")?;
        let mut args = kernel.args();
        args.arg(&sums).arg(&cells).arg(&mut contribution);
        // SAFETY: the arguments are those of the kernel, which reads and writes `num_cells` elements.
        launched(unsafe { args.launch(launch::threads(num_cells)?) })?;

        let side = (launch::tensor(contribution, num_cells, &device), launch::tensor(cells_entered, num_rays, &device));
        if op.side.set(side).is_err() || op.saved.set(Saved { cells: laid_out, ends }).is_err() {
            bail!("trace_rays: the forward pass of one call ran twice");
        }
        Ok((CudaStorage::wrap_cuda_slice(packed, device), shape))
    })
}

/// Lays out cells for a walk. Nothing is written where `first`, the ten words of a check, tells a faulty adjacency; a
/// neighbour too far away is told there.
pub(crate) fn lay_out(
    device: &CudaDevice,
    points: &CudaView<f32>,
    density: &CudaView<f32>,
    offsets: &CudaView<u32>,
    neighbors: &CudaView<u32>,
    cells: &mut Cells,
    first: &mut CudaSlice<u32>,
) -> Result<()> {
    let num_cells = density.len();
    let sizes = [points.len(), offsets.len(), cells.sites.len(), cells.faces.len(), first.len()];
    if sizes != [3 * num_cells, num_cells + 1, 4 * num_cells, 4 * neighbors.len(), MISTAKES.len()] {
        bail!("trace: expected arrays for {num_cells} cells and {} neighbours, found {sizes:?}", neighbors.len())
    }
    let num = num_cells as u64;
    let kernel = launch::kernel(device, &launch::TRACE, "trace_faces_f32")?;
    let mut args = kernel.args();
    args.arg(points).arg(density).arg(offsets).arg(neighbors).arg(&num);
    args.arg(&mut cells.sites).arg(&mut cells.faces).arg(first);
    // SAFETY: the arguments are those of the kernel, of the sizes checked above. With an adjacency that was found sound
    // it reads points of the foam and writes every site and face.
    launched(unsafe { args.launch(launch::threads(num_cells)?) })
}

impl Walk<'_> {
    /// Walks the rays. `contribution` (`[P]`, zeros, fixed point) takes the sum over the rays of the weight of each
    /// cell, `max_weights` (`[P]`, zeros) the bits of the largest.
    pub(crate) fn forward(
        &self,
        device: &CudaDevice,
        contribution: Option<&mut CudaSlice<u64>>,
        max_weights: Option<&mut CudaSlice<u32>>,
    ) -> Result<Seen> {
        let Self { cells, offsets, sh, origins, directions, start_cells, quantiles, numbers } = self;
        let num_rays = numbers.num_rays as usize;
        // SAFETY: the kernel below writes all of these before anything reads them.
        let (mut packed, mut end_transmittance, mut cells_entered, mut reached_density) = unsafe {
            (
                device.alloc::<f32>(numbers.num_outputs())?,
                device.alloc::<f32>(num_rays)?,
                device.alloc::<u32>(num_rays)?,
                // One more, so that there is something to point to where there are no quantiles.
                device.alloc::<f32>(num_rays * numbers.num_quantiles as usize + 1)?,
            )
        };
        let kernel = launch::kernel(device, &launch::TRACE, "trace_forward_f32")?;
        let mut args = kernel.args();
        args.arg(&cells.sites).arg(&cells.faces).arg(*offsets).arg(*sh).arg(*origins).arg(*directions);
        args.arg(*start_cells);
        launch::optional(&mut args, *quantiles);
        args.arg(&numbers.num_rays).arg(&numbers.num_coefficients).arg(&numbers.num_quantiles);
        args.arg(&numbers.transmittance_threshold).arg(&numbers.density_threshold).arg(&numbers.max_cells);
        args.arg(&mut packed).arg(&mut end_transmittance).arg(&mut reached_density).arg(&mut cells_entered);
        launch::optional_mut(&mut args, contribution);
        launch::optional_mut(&mut args, max_weights);
        // SAFETY: the arguments are those of the kernel. Cells, faces and rays have been checked; each ray writes its
        // own outputs, and sums by atomics at cells of the foam.
        launched(unsafe { args.launch(launch::threads(num_rays)?) })?;
        Ok(Seen { packed, cells_entered, ends: Ends { end_transmittance, reached_density } })
    }

    /// Takes the gradient `grad` of the outputs `packed` back to the first `num_rows` cells.
    pub(crate) fn backward(
        &self,
        device: &CudaDevice,
        packed: &CudaView<f32>,
        ends: &Ends,
        grad: &CudaView<f32>,
        num_rows: usize,
    ) -> Result<Gradients> {
        let Self { cells, offsets, sh, origins, directions, start_cells, quantiles, numbers } = self;
        let (num_cells, num_rays) = (numbers.num_cells as usize, numbers.num_rays as usize);
        let width = 3 * numbers.num_coefficients as usize;
        let num_outputs = grad.len() as u64;
        let mut largest = device.alloc_zeros::<u32>(1)?;
        let kernel = launch::kernel(device, &launch::TRACE, "trace_largest_f32")?;
        let mut args = kernel.args();
        args.arg(grad).arg(&num_outputs).arg(&mut largest);
        // SAFETY: the arguments are those of the kernel, which reads `num_outputs` gradients and writes one word.
        launched(unsafe { args.launch(launch::threads(grad.len())?) })?;

        let mut point_sums = device.alloc_zeros::<u64>(6 * num_cells)?;
        let mut density_sums = device.alloc_zeros::<u64>(2 * num_cells)?;
        let mut sh_sums = device.alloc_zeros::<u64>(width * num_cells)?;
        let mut flags = device.alloc_zeros::<u32>(num_cells)?;
        let kernel = launch::kernel(device, &launch::TRACE, "trace_backward_f32")?;
        let mut args = kernel.args();
        args.arg(&cells.sites).arg(&cells.faces).arg(*offsets).arg(*sh).arg(*origins).arg(*directions);
        args.arg(*start_cells);
        launch::optional(&mut args, *quantiles);
        args.arg(&numbers.num_rays).arg(&numbers.num_coefficients).arg(&numbers.num_quantiles);
        args.arg(&numbers.transmittance_threshold).arg(&numbers.density_threshold).arg(&numbers.grazing_cosine);
        args.arg(&numbers.max_cells);
        args.arg(packed).arg(&ends.end_transmittance).arg(&ends.reached_density).arg(grad).arg(&largest);
        args.arg(&mut point_sums).arg(&mut density_sums).arg(&mut sh_sums).arg(&mut flags);
        // SAFETY: the arguments are those of the kernel, which reads what the forward pass checked and wrote, and sums
        // by atomics at cells of the foam.
        launched(unsafe { args.launch(launch::threads(num_rays)?) })?;

        // SAFETY: the kernel below writes all of these before anything reads them.
        let mut gradients = unsafe {
            Gradients {
                points: device.alloc(3 * num_rows)?,
                density: device.alloc(num_rows)?,
                sh: device.alloc(width * num_rows)?,
            }
        };
        let num = num_rows as u64;
        let kernel = launch::kernel(device, &launch::TRACE, "trace_gradients_f32")?;
        let mut args = kernel.args();
        args.arg(&point_sums).arg(&density_sums).arg(&sh_sums).arg(&flags).arg(&largest);
        args.arg(&num).arg(&numbers.num_rays).arg(&numbers.num_coefficients);
        args.arg(&mut gradients.points).arg(&mut gradients.density).arg(&mut gradients.sh);
        // SAFETY: the arguments are those of the kernel, which reads the sums of `num_rows` cells and writes as many
        // gradients.
        launched(unsafe { args.launch(launch::threads(num_rows)?) })?;
        Ok(gradients)
    }
}

/// The gradients with respect to points, density and SH coefficients.
pub(super) fn backward(op: &TraceRays, sh: &Tensor, packed: &Tensor, grad: &Tensor) -> Result<[Tensor; 3]> {
    let device: CudaDevice = sh.device().as_cuda_device()?.clone();
    let numbers = Numbers::new(op)?;
    let num_cells = numbers.num_cells as usize;
    let num_sh = sh.elem_count();
    let sh_shape = sh.shape().clone();
    let Some(saved) = op.saved.get() else {
        // Only where there are no rays.
        return Ok([
            launch::tensor(launch::zeros::<f32>(&device, 3 * num_cells)?, (num_cells, 3), &device),
            launch::tensor(launch::zeros::<f32>(&device, num_cells)?, num_cells, &device),
            launch::tensor(launch::zeros::<f32>(&device, num_sh)?, sh_shape, &device),
        ]);
    };
    let (sh, packed, grad) = (sh.contiguous()?, packed.contiguous()?, grad.contiguous()?);
    let (sh, packed, grad) = (sh.storage_and_layout(), packed.storage_and_layout(), grad.storage_and_layout());
    let sh = launch::view::<f32>("sh", launch::operand("sh", &sh.0, sh.1)?)?;
    let packed = launch::view::<f32>("packed", launch::operand("packed", &packed.0, packed.1)?)?;
    let grad = launch::view::<f32>("grad", launch::operand("grad", &grad.0, grad.1)?)?;
    with_inputs!(op, |origins, directions, start_cells, quantiles, offsets, _neighbors| {
        let walk = Walk {
            cells: &saved.cells,
            offsets: &offsets,
            sh: &sh,
            origins: &origins,
            directions: &directions,
            start_cells: &start_cells,
            quantiles: quantiles.as_ref(),
            numbers,
        };
        let Gradients { points, density, sh } = walk.backward(&device, &packed, &saved.ends, &grad, num_cells)?;
        Ok([
            launch::tensor(points, (num_cells, 3), &device),
            launch::tensor(density, num_cells, &device),
            launch::tensor(sh, sh_shape, &device),
        ])
    })
}
