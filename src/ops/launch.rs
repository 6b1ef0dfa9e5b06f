//! What the CUDA bodies share: kernels by name, contiguous views, launch sizes, and batches in ascending order.
//!
//! Every launch goes to the device's stream, and on one host thread runs after what made its inputs and before what
//! reads its outputs. The stream of a device of `Device::new_cuda` is the default stream of whichever thread calls:
//! all work on such a device, drops of tensors included, belongs on one host thread. Where several share a device, it
//! must be one of `Device::new_cuda_with_stream`, whose stream is the same for all. Counts are passed as u64, pointers
//! that may be absent as [`optional`].

use std::sync::Arc;

use candle_core::{
    CudaDevice, CudaStorage, DType, Layout, Result, Shape, Storage, Tensor,
    backend::{BackendDevice, BackendStorage},
    bail,
    cuda_backend::{
        CudaDType,
        cudarc::driver::{
            CudaFunction, CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr, DeviceRepr, DriverError, LaunchArgs,
            LaunchConfig, PushKernelArg, ValidAsZeroBits, result, sys::CUmemPool_attribute,
        },
    },
    op::BackpropOp,
};

use super::{
    batch, order,
    transfer::{count_read_back, count_upload},
};

/// A compiled file of kernels.
#[derive(Debug)]
pub(crate) struct Module {
    /// The key under which the device keeps it.
    name: &'static str,
    ptx: &'static str,
}

include!(concat!(env!("OUT_DIR"), "/ptx.rs"));

/// Threads a block: enough warps to hide the latency of memory; only scans need more to work together.
const BLOCK: u32 = 256;
/// Threads of a block that scans; SCAN_THREADS of `cuda/common.cuh`.
pub(crate) const SCAN_THREADS: usize = 1024;
/// Threads along the columns of a row: a warp at most.
const MAX_COLUMNS: u32 = 32;
/// What a minimum over positions is before any position is seen.
pub(crate) const NONE: u32 = u32::MAX;

/// A storage on a device and the layout of the tensor in it.
pub(crate) type Operand<'a> = (&'a CudaStorage, &'a Layout);

/// A kernel that is ready to be launched. (Candle has a type for this, which it does not export.)
pub(crate) struct Kernel {
    function: CudaFunction,
    stream: Arc<CudaStream>,
}

impl Kernel {
    /// Arguments to be filled in, in the kernel's order.
    pub(crate) fn args(&self) -> LaunchArgs<'_> {
        self.stream.launch_builder(&self.function)
    }
}

/// The kernel `name` of `module`, which is loaded when a kernel of it is first asked for.
pub(crate) fn kernel(device: &CudaDevice, module: &Module, name: &str) -> Result<Kernel> {
    let function = device.get_or_load_custom_func(name, module.name, module.ptx)?.into_cuda_function();
    Ok(Kernel { function, stream: device.cuda_stream() })
}

/// A copy on the device; of one element where there are none, since a GPU has no memory for nothing.
pub(crate) fn upload<T: DeviceRepr + ValidAsZeroBits + 'static>(
    device: &CudaDevice,
    values: &[T],
) -> Result<CudaSlice<T>> {
    count_upload::<T>(values.len());
    if values.is_empty() { zeros(device, 0) } else { device.clone_htod(values) }
}

/// A copy on the host, for which it waits.
pub(crate) fn read_back<T: DeviceRepr>(device: &CudaDevice, values: &impl DevicePtr<T>) -> Result<Vec<T>> {
    count_read_back::<T>(values.len());
    device.clone_dtoh(values)
}

/// Lets the driver keep the memory that tensors give back, for those that come: otherwise it is unmapped whenever the
/// host waits for the device, and mapped anew in the next step. For the whole process; a device without a pool has
/// nothing to keep.
pub(crate) fn keep_memory(device: &CudaDevice) -> Result<()> {
    let stream = device.cuda_stream();
    let context = stream.context();
    if !context.has_async_alloc() {
        return Ok(());
    }
    let mut threshold = u64::MAX;
    let kept = result::device::get(context.ordinal() as i32).and_then(|ordinal| {
        // SAFETY: the device is one that `get` has returned; the attribute is a number of 64 bits, which is copied.
        unsafe {
            let pool = result::device::get_default_mem_pool(ordinal)?;
            let attribute = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            result::mem_pool::set_attribute(pool, attribute, (&raw mut threshold).cast())
        }
    });
    launched(kept)
}

/// Refuses what has a body on the CPU only.
pub(crate) fn check_f32(op: &str, storage: &CudaStorage) -> Result<()> {
    match storage.dtype() {
        DType::F32 => Ok(()),
        dtype => bail!("no CUDA kernel yet for {op} of {dtype:?}: expected F32, or tensors on the CPU"),
    }
}

/// The elements of a contiguous tensor that is not empty.
pub(crate) fn view<'a, T: CudaDType + DeviceRepr>(name: &str, operand: Operand<'a>) -> Result<CudaView<'a, T>> {
    let (storage, layout) = operand;
    let range = batch::range(name, layout)?;
    match storage.as_cuda_slice::<T>()?.try_slice(range) {
        Some(view) => Ok(view),
        None => bail!("tensor {name}: its layout reaches beyond its storage"),
    }
}

/// The elements of a contiguous tensor that is not empty, to be written.
pub(crate) fn view_mut<'a, T: CudaDType + DeviceRepr>(
    name: &str,
    storage: &'a mut CudaStorage,
    layout: &Layout,
) -> Result<CudaViewMut<'a, T>> {
    let range = batch::range(name, layout)?;
    match storage.as_cuda_slice_mut::<T>()?.try_slice_mut(range) {
        Some(view) => Ok(view),
        None => bail!("tensor {name}: its layout reaches beyond its storage"),
    }
}

/// Checks that `tensor` lies on the GPU of `owner`, which is on `device`.
pub(crate) fn check_device(name: &str, tensor: &Tensor, owner: &str, device: &CudaDevice) -> Result<()> {
    let (expected, found) = (device.location(), tensor.device().location());
    if found != expected {
        bail!("tensor {name}: expected the device of {owner}, {expected:?}, found {found:?}")
    }
    Ok(())
}

/// The storage of a tensor that an op was not handed by Candle: `read` is its `storage_and_layout`.
pub(crate) fn operand<'a>(name: &str, storage: &'a Storage, layout: &'a Layout) -> Result<Operand<'a>> {
    match storage {
        Storage::Cuda(storage) => Ok((storage, layout)),
        _ => bail!("tensor {name}: expected a tensor on a CUDA device"),
    }
}

/// Memory for `num` zeros, and for one where there are none: a GPU has no memory for nothing, and says so by an error.
pub(crate) fn zeros<T: DeviceRepr + ValidAsZeroBits>(device: &CudaDevice, num: usize) -> Result<CudaSlice<T>> {
    device.alloc_zeros(num.max(1))
}

/// A tensor without a past of what a kernel wrote.
pub(crate) fn tensor<T: CudaDType>(slice: CudaSlice<T>, shape: impl Into<Shape>, device: &CudaDevice) -> Tensor {
    let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(slice, device.clone()));
    Tensor::from_storage(storage, shape, BackpropOp::none(), false)
}

/// An error of the driver as one of Candle's.
pub(crate) fn launched<T>(result: std::result::Result<T, DriverError>) -> Result<()> {
    result.map(|_| ()).map_err(candle_core::Error::wrap)
}

/// Passes `view`, or a null pointer where there is none.
pub(crate) fn optional<'a, 'b: 'a, T>(args: &mut LaunchArgs<'a>, view: Option<&'b CudaView<'b, T>>) {
    const NULL: &u64 = &0;
    match view {
        Some(view) => args.arg(view),
        None => args.arg(NULL),
    };
}

/// Passes `slice` to be written, or a null pointer where there is none.
pub(crate) fn optional_mut<'a, 'b: 'a, T>(args: &mut LaunchArgs<'a>, slice: Option<&'b mut CudaSlice<T>>) {
    const NULL: &u64 = &0;
    match slice {
        Some(slice) => args.arg(slice),
        None => args.arg(NULL),
    };
}

/// One thread an element.
pub(crate) fn threads(num_elements: usize) -> Result<LaunchConfig> {
    grid(num_elements.div_ceil(BLOCK as usize), (BLOCK, 1, 1))
}

/// Blocks of as many threads as [`threads`] has.
pub(crate) fn blocks(num_blocks: usize) -> Result<LaunchConfig> {
    grid(num_blocks, (BLOCK, 1, 1))
}

/// Blocks of [`SCAN_THREADS`].
pub(crate) fn scans(num_blocks: usize) -> Result<LaunchConfig> {
    grid(num_blocks, (SCAN_THREADS as u32, 1, 1))
}

/// Threads along x over the `width` columns of a row, rows along y.
pub(crate) fn rows(num_rows: usize, width: usize) -> Result<LaunchConfig> {
    let columns = width.next_power_of_two().min(MAX_COLUMNS as usize) as u32;
    let rows = BLOCK / columns;
    grid(num_rows.div_ceil(rows as usize), (columns, rows, 1))
}

fn grid(num_blocks: usize, block_dim: (u32, u32, u32)) -> Result<LaunchConfig> {
    match i32::try_from(num_blocks) {
        Ok(num_blocks) if num_blocks > 0 => {
            Ok(LaunchConfig { grid_dim: (num_blocks as u32, 1, 1), block_dim, shared_mem_bytes: 0 })
        }
        _ => bail!("CUDA launch: expected 1 to 2^31 - 1 blocks, found {num_blocks}"),
    }
}

/// A count as a kernel takes it.
pub(crate) fn count_u32(name: &str, count: usize) -> Result<u32> {
    match u32::try_from(count) {
        Ok(count) => Ok(count),
        Err(_) => bail!("{name}: expected fewer than 2^32 for a CUDA kernel, found {count}"),
    }
}

/// Checks that every index is below `num_entries`, and says whether they ascend. Reads eight bytes back: nothing may
/// be written for a batch that is refused.
pub(crate) fn check_indices(device: &CudaDevice, indices: &CudaView<u32>, num_entries: usize) -> Result<bool> {
    count_u32("tensor indices", indices.len())?;
    let mut first = upload(device, &[NONE; 2])?;
    let (num_indices, num_entries) = (indices.len() as u64, num_entries as u64);
    let kernel = kernel(device, &INDICES, "check_indices_u32")?;
    let mut args = kernel.args();
    args.arg(indices).arg(&num_indices).arg(&num_entries).arg(&mut first);
    // SAFETY: the arguments are those of the kernel, which reads `num_indices` indices and writes two words.
    unsafe { args.launch(threads(indices.len())?) }.map_err(candle_core::Error::wrap)?;
    let first = read_back(device, &first)?;
    if first[0] != NONE {
        let at = first[0] as usize;
        let found = read_back(device, &indices.slice(at..=at))?;
        bail!("tensor indices: expected values below {num_entries}, found {} at {at}", found[0])
    }
    Ok(first[1] == NONE)
}

/// A batch of indices in ascending order.
pub(crate) enum Ascending<'a> {
    /// As it came.
    Given(CudaView<'a, u32>),
    /// Sorted, with the position in the batch of each.
    Sorted(CudaSlice<u32>, CudaSlice<u32>),
}

impl<'a> Ascending<'a> {
    /// Checks the indices and sorts them where they do not ascend: on the host, at the cost of two copies. Batches
    /// that the sampler draws ascend.
    pub(crate) fn new(device: &CudaDevice, indices: CudaView<'a, u32>, num_entries: usize) -> Result<Self> {
        if check_indices(device, &indices, num_entries)? {
            return Ok(Self::Given(indices));
        }
        let host = read_back(device, &indices)?;
        let (sorted, order) = order::sort(&host);
        Ok(Self::Sorted(upload(device, &sorted)?, upload(device, &order)?))
    }

    /// The ascending indices.
    pub(crate) fn indices(&self) -> CudaView<'_, u32> {
        match self {
            Self::Given(indices) => indices.slice(..),
            Self::Sorted(indices, _) => indices.as_view(),
        }
    }

    /// Where in the batch each of them stood; none where the batch ascends.
    pub(crate) fn order(&self) -> Option<CudaView<'_, u32>> {
        match self {
            Self::Given(_) => None,
            Self::Sorted(_, order) => Some(order.as_view()),
        }
    }
}
