//! The launches of `cuda/weighted_gather.cu`.

use candle_core::{
    CudaStorage, Error, Result, Shape, backend::BackendStorage, cuda_backend::cudarc::driver::PushKernelArg,
};

use crate::ops::launch::{self, Ascending, Operand};

/// `out[b] = weights[b] * table[indices[b]]`. Here and below, `drawn` indices are known to ascend and to be those of rows.
pub(super) fn gather(
    table: Operand,
    indices: Operand,
    weights: Option<Operand>,
    drawn: bool,
) -> Result<(CudaStorage, Shape)> {
    launch::check_f32("weighted_gather", table.0)?;
    let device = table.0.device().clone();
    let (num_entries, width) = table.1.shape().dims2()?;
    let num_rows = indices.1.shape().elem_count();
    let shape = Shape::from((num_rows, width));
    if num_rows == 0 {
        return Ok((CudaStorage::wrap_cuda_slice(launch::zeros::<f32>(&device, 0)?, device), shape));
    }
    let indices = launch::view::<u32>("indices", indices)?;
    if !drawn {
        launch::check_indices(&device, &indices, num_entries)?;
    }
    if width == 0 {
        return Ok((CudaStorage::wrap_cuda_slice(launch::zeros::<f32>(&device, 0)?, device), shape));
    }
    let table = launch::view::<f32>("table", table)?;
    let weights = weights.map(|weights| launch::view::<f32>("weights", weights)).transpose()?;
    // SAFETY: every element is written below before anything reads it.
    let mut out = unsafe { device.alloc::<f32>(shape.elem_count()) }?;

    let (num, columns) = (num_rows as u64, launch::count_u32("width of table", width)?);
    let kernel = launch::kernel(&device, &launch::WEIGHTED_GATHER, "weighted_gather_f32")?;
    let mut args = kernel.args();
    args.arg(&table).arg(&indices);
    launch::optional(&mut args, weights.as_ref());
    args.arg(&num).arg(&columns).arg(&mut out);
    // SAFETY: the arguments are those of the kernel. It reads `num` indices and weights, and rows of the table at
    // indices that have been checked or were drawn from a map of no more entries; it writes each of the `num * columns` outputs from one thread.
    unsafe { args.launch(launch::rows(num_rows, width)?) }.map_err(Error::wrap)?;
    Ok((CudaStorage::wrap_cuda_slice(out, device), shape))
}

/// `grad_table[i] = sum of weights[b] * grad[b]` over the `b` with `indices[b] = i`.
pub(super) fn grad_table(
    grad: Operand,
    indices: Operand,
    weights: Option<Operand>,
    num_entries: usize,
    drawn: bool,
) -> Result<(CudaStorage, Shape)> {
    launch::check_f32("the gradient of weighted_gather", grad.0)?;
    let device = grad.0.device().clone();
    let (num_rows, width) = grad.1.shape().dims2()?;
    let shape = Shape::from((num_entries, width));
    let mut grad_table = launch::zeros::<f32>(&device, shape.elem_count())?;
    if num_rows * width == 0 {
        return Ok((CudaStorage::wrap_cuda_slice(grad_table, device), shape));
    }
    let indices = launch::view("indices", indices)?;
    let batch = if drawn { Ascending::Given(indices) } else { Ascending::new(&device, indices, num_entries)? };
    let (indices, order) = (batch.indices(), batch.order());
    let grad = launch::view::<f32>("grad_rows", grad)?;
    let weights = weights.map(|weights| launch::view::<f32>("weights", weights)).transpose()?;

    let (num, columns) = (num_rows as u64, launch::count_u32("width of table", width)?);
    let kernel = launch::kernel(&device, &launch::WEIGHTED_GATHER, "weighted_gather_grad_table_f32")?;
    let mut args = kernel.args();
    args.arg(&indices);
    launch::optional(&mut args, order.as_ref());
    launch::optional(&mut args, weights.as_ref());
    args.arg(&num).arg(&columns).arg(&grad).arg(&mut grad_table);
    // SAFETY: the arguments are those of the kernel. It reads `num` indices, positions, weights and rows of the
    // gradient, and writes rows at indices that have been checked, each element from one thread.
    unsafe { args.launch(launch::rows(num_rows, width)?) }.map_err(Error::wrap)?;
    Ok((CudaStorage::wrap_cuda_slice(grad_table, device), shape))
}

/// `grad_weights[b] = grad[b] . table[indices[b]]`.
pub(super) fn grad_weights(
    grad: Operand,
    table: Operand,
    indices: Operand,
    drawn: bool,
) -> Result<(CudaStorage, Shape)> {
    launch::check_f32("the gradient of weighted_gather", table.0)?;
    let device = grad.0.device().clone();
    let (num_rows, width) = grad.1.shape().dims2()?;
    let (num_entries, _) = table.1.shape().dims2()?;
    let mut grad_weights = launch::zeros::<f32>(&device, num_rows)?;
    if num_rows * width == 0 {
        return Ok((CudaStorage::wrap_cuda_slice(grad_weights, device), num_rows.into()));
    }
    let (grad, table) = (launch::view::<f32>("grad_rows", grad)?, launch::view::<f32>("table", table)?);
    let indices = launch::view::<u32>("indices", indices)?;
    if !drawn {
        launch::check_indices(&device, &indices, num_entries)?;
    }

    let (num, columns) = (num_rows as u64, launch::count_u32("width of table", width)?);
    let kernel = launch::kernel(&device, &launch::WEIGHTED_GATHER, "weighted_gather_grad_weights_f32")?;
    let mut args = kernel.args();
    args.arg(&table).arg(&indices).arg(&num).arg(&columns).arg(&grad).arg(&mut grad_weights);
    // SAFETY: the arguments are those of the kernel. It reads `num` indices and rows of the gradient, rows of the
    // table at indices that have been checked, and writes one number a thread.
    unsafe { args.launch(launch::threads(num_rows)?) }.map_err(Error::wrap)?;
    Ok((CudaStorage::wrap_cuda_slice(grad_weights, device), num_rows.into()))
}
