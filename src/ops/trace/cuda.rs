//! The launches of `cuda/trace.cu`.

use candle_core::{
    CudaDevice, CudaStorage, Result, Shape, Tensor,
    backend::BackendStorage,
    bail,
    cuda_backend::cudarc::driver::{CudaSlice, CudaView, PushKernelArg},
};

use super::{TraceRays, cpu::PACKED_HEAD};
use crate::ops::launch::{self, NONE, Operand, launched};

/// What the inputs may have wrong, in the order in which `trace_check_f32` tells it, and what was expected.
const MISTAKES: [[&str; 2]; 9] = [
    ["offsets", "ascending from 0 to the number of neighbors"],
    ["neighbors", "below the number of cells"],
    ["start_cells", "below the number of cells"],
    ["density", "finite and at least 0"],
    ["points", "finite values"],
    ["origins", "finite values"],
    ["directions", "finite values"],
    ["directions", "unit length"],
    ["quantiles", "descending in (0, 1)"],
];

/// What the forward pass leaves for the backward pass.
pub(super) struct Saved {
    /// `[P, 4]`.
    sites: CudaSlice<f32>,
    /// `[E, 4]`.
    faces: CudaSlice<f32>,
    /// `[R]`.
    end_transmittance: CudaSlice<f32>,
    /// `[R, Q]`.
    reached_density: CudaSlice<f32>,
}

/// The settings as the kernels take them.
struct Numbers {
    num_cells: u64,
    num_edges: u64,
    num_rays: u64,
    num_coefficients: u32,
    num_quantiles: u32,
    transmittance_threshold: f32,
    density_threshold: f32,
    grazing_cosine: f32,
}

impl Numbers {
    fn new(op: &TraceRays) -> Result<Self> {
        let inputs = &op.inputs;
        Ok(Self {
            num_cells: inputs.offsets.elem_count().saturating_sub(1) as u64,
            num_edges: u64::from(launch::count_u32("neighbors", inputs.neighbors.elem_count())?),
            num_rays: u64::from(launch::count_u32("rays", inputs.start_cells.elem_count())?),
            num_coefficients: op.num_coefficients as u32,
            num_quantiles: launch::count_u32("quantiles", op.num_quantiles)?,
            transmittance_threshold: op.settings.transmittance_threshold as f32,
            density_threshold: op.settings.density_threshold as f32,
            grazing_cosine: op.settings.grazing_cosine as f32,
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
        let Numbers { num_cells: cells, num_edges, num_rays: rays, num_coefficients, num_quantiles, .. } = numbers;

        let mut first = device.clone_htod(&[NONE; MISTAKES.len()])?;
        let kernel = launch::kernel(&device, &launch::TRACE, "trace_check_f32")?;
        let mut args = kernel.args();
        args.arg(&points).arg(&density).arg(&offsets).arg(&neighbors).arg(&origins).arg(&directions).arg(&start_cells);
        launch::optional(&mut args, quantiles.as_ref());
        args.arg(&cells).arg(&num_edges).arg(&rays).arg(&num_quantiles).arg(&mut first);
        let most = (num_cells + 1).max(num_edges as usize).max(num_rays);
        // SAFETY: the arguments are those of the kernel, which reads arrays of the given sizes, each checked against
        // the tensors' shapes, and writes nine words.
        launched(unsafe { args.launch(launch::threads(most)?) })?;
        let first = device.clone_dtoh(&first)?;
        for ([name, expected], at) in MISTAKES.into_iter().zip(first) {
            if at != NONE {
                bail!("trace_rays: {name}: expected {expected}, found otherwise in row {at}")
            }
        }

        // SAFETY: the kernel below writes all of both before anything reads them.
        let (mut sites, mut faces) =
            unsafe { (device.alloc::<f32>(4 * num_cells)?, device.alloc::<f32>(4 * num_edges as usize)?) };
        let mut overflow = device.clone_htod(&[NONE])?;
        let kernel = launch::kernel(&device, &launch::TRACE, "trace_faces_f32")?;
        let mut args = kernel.args();
        args.arg(&points).arg(&density).arg(&offsets).arg(&neighbors).arg(&cells);
        args.arg(&mut sites).arg(&mut faces).arg(&mut overflow);
        // SAFETY: the arguments are those of the kernel. The adjacency has been checked: it reads points of the foam
        // and writes `num_cells` sites and `num_edges` faces.
        launched(unsafe { args.launch(launch::threads(num_cells)?) })?;
        let overflow = device.clone_dtoh(&overflow)?[0];
        if overflow != NONE {
            bail!(
                "trace_rays: points: expected neighbours whose squared distance is finite, found others at cell \
                 {overflow}"
            )
        }

        // SAFETY: the kernels below write all of these before anything reads them.
        let (mut packed, mut end_transmittance, mut cells_entered, mut reached_density, mut contribution) = unsafe {
            (
                device.alloc::<f32>(numbers.num_outputs())?,
                device.alloc::<f32>(num_rays)?,
                device.alloc::<u32>(num_rays)?,
                // One more, so that there is something to point to where there are no quantiles.
                device.alloc::<f32>(num_rays * op.num_quantiles + 1)?,
                device.alloc::<f32>(num_cells)?,
            )
        };
        let mut sums = device.alloc_zeros::<u64>(num_cells)?;
        let kernel = launch::kernel(&device, &launch::TRACE, "trace_forward_f32")?;
        let mut args = kernel.args();
        args.arg(&sites).arg(&faces).arg(&offsets).arg(&sh).arg(&origins).arg(&directions).arg(&start_cells);
        launch::optional(&mut args, quantiles.as_ref());
        args.arg(&rays).arg(&num_coefficients).arg(&num_quantiles).arg(&numbers.transmittance_threshold);
        args.arg(&numbers.density_threshold).arg(&op.settings.max_cells);
        args.arg(&mut packed).arg(&mut end_transmittance).arg(&mut reached_density).arg(&mut cells_entered);
        args.arg(&mut sums);
        // SAFETY: the arguments are those of the kernel. Cells, faces and rays have been checked; each ray writes its
        // own outputs, and sums by atomics at cells of the foam.
        launched(unsafe { args.launch(launch::threads(num_rays)?) })?;

        let kernel = launch::kernel(&device, &launch::TRACE, "trace_contribution_f32")?;
        let mut args = kernel.args();
        args.arg(&sums).arg(&cells).arg(&mut contribution);
        // SAFETY: the arguments are those of the kernel, which reads and writes `num_cells` elements.
        launched(unsafe { args.launch(launch::threads(num_cells)?) })?;

        let side = (launch::tensor(contribution, num_cells, &device), launch::tensor(cells_entered, num_rays, &device));
        let saved = Saved { sites, faces, end_transmittance, reached_density };
        if op.side.set(side).is_err() || op.saved.set(saved).is_err() {
            bail!("trace_rays: the forward pass of one call ran twice");
        }
        Ok((CudaStorage::wrap_cuda_slice(packed, device), shape))
    })
}

/// The gradients with respect to points, density and SH coefficients.
pub(super) fn backward(op: &TraceRays, sh: &Tensor, packed: &Tensor, grad: &Tensor) -> Result<[Tensor; 3]> {
    let device: CudaDevice = sh.device().as_cuda_device()?.clone();
    let numbers = Numbers::new(op)?;
    let (num_rays, num_cells) = (numbers.num_rays as usize, numbers.num_cells as usize);
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
        let Numbers { num_cells: cells, num_rays: rays, num_coefficients, num_quantiles, .. } = numbers;
        let num_outputs = grad.len() as u64;
        let mut largest = device.alloc_zeros::<u32>(1)?;
        let kernel = launch::kernel(&device, &launch::TRACE, "trace_largest_f32")?;
        let mut args = kernel.args();
        args.arg(&grad).arg(&num_outputs).arg(&mut largest);
        // SAFETY: the arguments are those of the kernel, which reads `num_outputs` gradients and writes one word.
        launched(unsafe { args.launch(launch::threads(grad.len())?) })?;

        let mut point_sums = device.alloc_zeros::<u64>(6 * num_cells)?;
        let mut density_sums = device.alloc_zeros::<u64>(2 * num_cells)?;
        let mut sh_sums = device.alloc_zeros::<u64>(num_sh)?;
        let mut flags = device.alloc_zeros::<u32>(num_cells)?;
        let Saved { sites, faces, end_transmittance, reached_density } = saved;
        let kernel = launch::kernel(&device, &launch::TRACE, "trace_backward_f32")?;
        let mut args = kernel.args();
        args.arg(sites).arg(faces).arg(&offsets).arg(&sh).arg(&origins).arg(&directions).arg(&start_cells);
        launch::optional(&mut args, quantiles.as_ref());
        args.arg(&rays).arg(&num_coefficients).arg(&num_quantiles).arg(&numbers.transmittance_threshold);
        args.arg(&numbers.density_threshold).arg(&numbers.grazing_cosine).arg(&op.settings.max_cells);
        args.arg(&packed).arg(end_transmittance).arg(reached_density).arg(&grad).arg(&largest);
        args.arg(&mut point_sums).arg(&mut density_sums).arg(&mut sh_sums).arg(&mut flags);
        // SAFETY: the arguments are those of the kernel, which reads what the forward pass checked and wrote, and sums
        // by atomics at cells of the foam.
        launched(unsafe { args.launch(launch::threads(num_rays)?) })?;

        // SAFETY: the kernel below writes all of these before anything reads them.
        let (mut grad_points, mut grad_density, mut grad_sh) = unsafe {
            (device.alloc::<f32>(3 * num_cells)?, device.alloc::<f32>(num_cells)?, device.alloc::<f32>(num_sh)?)
        };
        let kernel = launch::kernel(&device, &launch::TRACE, "trace_gradients_f32")?;
        let mut args = kernel.args();
        args.arg(&point_sums).arg(&density_sums).arg(&sh_sums).arg(&flags).arg(&largest);
        args.arg(&cells).arg(&rays).arg(&num_coefficients);
        args.arg(&mut grad_points).arg(&mut grad_density).arg(&mut grad_sh);
        // SAFETY: the arguments are those of the kernel, which reads the sums of `num_cells` cells and writes as many
        // gradients.
        launched(unsafe { args.launch(launch::threads(num_cells)?) })?;
        Ok([
            launch::tensor(grad_points, (num_cells, 3), &device),
            launch::tensor(grad_density, num_cells, &device),
            launch::tensor(grad_sh, sh_shape, &device),
        ])
    })
}
