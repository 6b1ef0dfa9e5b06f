//! Rows of a table by index, each scaled by a weight; differentiable in the table and in the weights.
//!
//! `out[b, c] = weights[b] * table[indices[b], c]`, hence
//! `grad_table[i, c] = sum over b with indices[b] = i of weights[b] * grad_out[b, c]` and
//! `grad_weights[b] = sum_c grad_out[b, c] * table[indices[b], c]`.
//!
//! The gradient of the table adds up each row in batch order, in parallel over rows: same bits for any number of
//! threads, no atomics.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use std::sync::Arc;

use candle_core::{
    CpuStorage, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Tensor, WithDType, backend::BackendStorage, bail,
};

use super::batch::{self, Shared};

/// Gathers `table[indices[b]]`, times `weights[b]` where weights are given: `[B, C]`.
///
/// - `table`: `[N, C]` f32, f64, f16, bf16 or u8 (f32 on CUDA), contiguous; u8 rows come out as f32, in `0..=255`;
/// - `indices`: `[B]` u32, contiguous, in any order, duplicates allowed (ascending is fastest);
/// - `weights`: `[B]` of the result's dtype, contiguous.
///
/// The result has the table's dtype (f32 for u8); f16 and bf16 are computed in f32 and rounded once. Gradients reach
/// the table (unless it is u8) and the weights.
///
/// # Errors
///
/// On a wrong shape, dtype, device or layout, and on an index outside the table.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use candle_radfoam::ops::weighted_gather;
///
/// # fn main() -> candle_core::Result<()> {
/// let table = Var::new(&[[1.0f32, 2.0], [3.0, 4.0]], &Device::Cpu)?;
/// let indices = Tensor::new(&[0u32, 1, 1], &Device::Cpu)?;
/// let weights = Tensor::new(&[1.0f32, 0.5, 2.0], &Device::Cpu)?;
/// let rows = weighted_gather(&table, &indices, Some(&weights))?;
/// assert_eq!(rows.to_vec2::<f32>()?, [[1.0, 2.0], [1.5, 2.0], [6.0, 8.0]]);
/// let grads = rows.sum_all()?.backward()?;
/// let grad_table = grads.get(&table).unwrap();
/// assert_eq!(grad_table.to_vec2::<f32>()?, [[1.0, 1.0], [2.5, 2.5]]);
/// # Ok(())
/// # }
/// ```
pub fn weighted_gather(table: &Tensor, indices: &Tensor, weights: Option<&Tensor>) -> Result<Tensor> {
    gather("table", table, indices, weights, &Arc::default(), false)
}

/// [`weighted_gather`] from each of several tables, which may differ in dtype, width and number of rows. The indices
/// are checked once for all, and where they do not ascend sorted once for the gradients of all.
///
/// - `tables`: as there; where weights are given, all results must have the weights' dtype;
/// - `indices`, `weights`: as there.
///
/// Gives `[B, C]` for each table, in order. The gradient of the weights is the sum over the tables.
///
/// # Errors
///
/// As [`weighted_gather`]; the message names the table by its place.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use candle_radfoam::ops::weighted_gather_many;
///
/// # fn main() -> candle_core::Result<()> {
/// let rays = Tensor::new(&[[0.0f32, 1.0], [2.0, 3.0]], &Device::Cpu)?;
/// let colors = Tensor::new(&[[10u8], [20]], &Device::Cpu)?;
/// let rows = weighted_gather_many(&[&rays, &colors], &Tensor::new(&[1u32, 1, 0], &Device::Cpu)?, None)?;
/// assert_eq!(rows[0].to_vec2::<f32>()?, [[2.0, 3.0], [2.0, 3.0], [0.0, 1.0]]);
/// assert_eq!(rows[1].to_vec2::<f32>()?, [[20.0], [20.0], [10.0]]);
/// # Ok(())
/// # }
/// ```
pub fn weighted_gather_many(tables: &[&Tensor], indices: &Tensor, weights: Option<&Tensor>) -> Result<Vec<Tensor>> {
    let shared = Arc::default();
    let named = tables.iter().enumerate();
    named.map(|(k, table)| gather(&format!("tables[{k}]"), table, indices, weights, &shared, false)).collect()
}

/// [`weighted_gather`] at the entries that a map on a GPU drew, which are known to ascend and to lie in the table: neither
/// it nor its backward reads anything back, or waits for the device.
///
/// - `table`: `[N, C]` f32 on the map's device, with no fewer rows than the map has entries.
///
/// # Errors
///
/// As [`weighted_gather`], and where the table has fewer rows.
#[cfg(feature = "cuda")]
pub fn weighted_gather_drawn(table: &Tensor, draws: &super::CudaDraws, weights: Option<&Tensor>) -> Result<Tensor> {
    if table.rank() == 2 && table.dim(0)? < draws.map_len() {
        bail!("tensor table: expected at least {} rows, those of the map, found {}", draws.map_len(), table.dim(0)?)
    }
    gather("table", table, &draws.draws().indices, weights, &Arc::default(), true)
}

fn gather(
    name: &str,
    table: &Tensor,
    indices: &Tensor,
    weights: Option<&Tensor>,
    shared: &Arc<Shared>,
    drawn: bool,
) -> Result<Tensor> {
    if table.rank() != 2 {
        bail!("tensor {name}: expected shape [N, C], found {:?}", table.dims())
    }
    let Some(dtype) = result_dtype(table.dtype()) else {
        bail!("tensor {name}: expected dtype F32, F64, F16, BF16 or U8, found {:?}", table.dtype())
    };
    batch::range(name, table.layout())?;
    batch::check_vector::<u32>("indices", indices, None)?;
    batch::check_device("indices", indices, (name, table))?;
    let op = Gather { shared: shared.clone(), drawn };
    let Some(weights) = weights else {
        return table.apply_op2(indices, op);
    };
    if weights.dims() != indices.dims() || weights.dtype() != dtype {
        bail!(
            "tensor weights: expected {dtype:?} {:?}, found {:?} {:?}",
            indices.dims(),
            weights.dtype(),
            weights.dims()
        )
    }
    batch::check_device("weights", weights, (name, table))?;
    table.apply_op3(indices, weights, op)
}

fn result_dtype(table: DType) -> Option<DType> {
    match table {
        DType::F32 | DType::F64 | DType::F16 | DType::BF16 => Some(table),
        DType::U8 => Some(DType::F32),
        _ => None,
    }
}

/// A storage and the layout of the tensor in it.
type Operand<'a> = (&'a CpuStorage, &'a Layout);

fn operand<'a, T: WithDType>(name: &str, (storage, layout): Operand<'a>) -> Result<&'a [T]> {
    batch::view(name, storage, layout)
}

fn optional<'a, T: WithDType>(name: &str, tensor: Option<Operand<'a>>) -> Result<Option<&'a [T]>> {
    tensor.map(|tensor| operand(name, tensor)).transpose()
}

struct Gather {
    shared: Arc<Shared>,
    /// Whether the indices are those of a map on a GPU, whose bounds and order are known.
    drawn: bool,
}

impl Gather {
    fn forward(&self, table: Operand, indices: Operand, weights: Option<Operand>) -> Result<(CpuStorage, Shape)> {
        let indices = operand::<u32>("indices", indices)?;
        let (rows, width) = table.1.shape().dims2()?;
        self.shared.check(indices, rows)?;
        // Table, accumulator and result type of one dtype.
        macro_rules! gather {
            ($table:ty, $acc:ty, $out:ty) => {{
                let (table, weights) = (operand::<$table>("table", table)?, optional("weights", weights)?);
                <$out>::to_cpu_storage_owned(cpu::gather::<$table, $acc, $out>(table, width, indices, weights))
            }};
        }
        let rows = match table.0.dtype() {
            DType::F32 => gather!(f32, f32, f32),
            DType::F64 => gather!(f64, f64, f64),
            DType::F16 => gather!(half::f16, f32, half::f16),
            DType::BF16 => gather!(half::bf16, f32, half::bf16),
            DType::U8 => gather!(u8, f32, f32),
            dtype => bail!("weighted gather: no body for dtype {dtype:?}"),
        };
        Ok((rows, (indices.len(), width).into()))
    }

    fn grad_table(
        &self,
        table: &Tensor,
        indices: &Tensor,
        weights: Option<&Tensor>,
        grad: &Tensor,
    ) -> Result<Option<Tensor>> {
        if table.dtype().is_int() {
            return Ok(None);
        }
        let (op, grad) =
            (GradTable { rows: table.dim(0)?, shared: self.shared.clone(), drawn: self.drawn }, grad.contiguous()?);
        Ok(Some(match weights {
            // The gradient of a gradient is not defined here: these need no graph.
            None => grad.apply_op2_no_bwd(indices, &op)?,
            Some(weights) => grad.apply_op3_no_bwd(indices, weights, &op)?,
        }))
    }
}

impl CustomOp2 for Gather {
    fn name(&self) -> &'static str {
        "weighted-gather"
    }

    fn cpu_fwd(&self, t: &CpuStorage, tl: &Layout, i: &CpuStorage, il: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward((t, tl), (i, il), None)
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        t: &candle_core::CudaStorage,
        tl: &Layout,
        i: &candle_core::CudaStorage,
        il: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        cuda::gather((t, tl), (i, il), None, self.drawn)
    }

    fn bwd(
        &self,
        table: &Tensor,
        indices: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((self.grad_table(table, indices, None, grad)?, None))
    }
}

impl CustomOp3 for Gather {
    fn name(&self) -> &'static str {
        "weighted-gather"
    }

    fn cpu_fwd(
        &self,
        t: &CpuStorage,
        tl: &Layout,
        i: &CpuStorage,
        il: &Layout,
        w: &CpuStorage,
        wl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward((t, tl), (i, il), Some((w, wl)))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        t: &candle_core::CudaStorage,
        tl: &Layout,
        i: &candle_core::CudaStorage,
        il: &Layout,
        w: &candle_core::CudaStorage,
        wl: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        cuda::gather((t, tl), (i, il), Some((w, wl)), self.drawn)
    }

    fn bwd(
        &self,
        table: &Tensor,
        indices: &Tensor,
        weights: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad_table = self.grad_table(table, indices, Some(weights), grad)?;
        // As above: no graph for the gradient of a gradient.
        let grad_weights = grad.contiguous()?.apply_op3_no_bwd(table, indices, &GradWeights { drawn: self.drawn })?;
        Ok((grad_table, None, Some(grad_weights)))
    }
}

/// `grad_table` from the gradient of the rows, the indices and the weights.
struct GradTable {
    rows: usize,
    shared: Arc<Shared>,
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "only a GPU is asked"))]
    drawn: bool,
}

impl GradTable {
    fn forward(&self, grad: Operand, indices: Operand, weights: Option<Operand>) -> Result<(CpuStorage, Shape)> {
        let indices = self.shared.ascending(operand("indices", indices)?);
        let (_, width) = grad.1.shape().dims2()?;
        macro_rules! grad_table {
            ($t:ty, $acc:ty) => {{
                let (grad, weights) = (operand::<$t>("grad_rows", grad)?, optional("weights", weights)?);
                let grad_table = cpu::grad_table::<$t, $acc>(grad, self.rows, width, &indices, weights);
                <$t>::to_cpu_storage_owned(grad_table)
            }};
        }
        let grad_table = match grad.0.dtype() {
            DType::F32 => grad_table!(f32, f32),
            DType::F64 => grad_table!(f64, f64),
            DType::F16 => grad_table!(half::f16, f32),
            DType::BF16 => grad_table!(half::bf16, f32),
            dtype => bail!("weighted gather: no backward for dtype {dtype:?}"),
        };
        Ok((grad_table, (self.rows, width).into()))
    }
}

impl CustomOp2 for GradTable {
    fn name(&self) -> &'static str {
        "weighted-gather-grad-table"
    }

    fn cpu_fwd(&self, g: &CpuStorage, gl: &Layout, i: &CpuStorage, il: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward((g, gl), (i, il), None)
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        g: &candle_core::CudaStorage,
        gl: &Layout,
        i: &candle_core::CudaStorage,
        il: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        cuda::grad_table((g, gl), (i, il), None, self.rows, self.drawn)
    }
}

impl CustomOp3 for GradTable {
    fn name(&self) -> &'static str {
        "weighted-gather-grad-table"
    }

    fn cpu_fwd(
        &self,
        g: &CpuStorage,
        gl: &Layout,
        i: &CpuStorage,
        il: &Layout,
        w: &CpuStorage,
        wl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward((g, gl), (i, il), Some((w, wl)))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        g: &candle_core::CudaStorage,
        gl: &Layout,
        i: &candle_core::CudaStorage,
        il: &Layout,
        w: &candle_core::CudaStorage,
        wl: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        cuda::grad_table((g, gl), (i, il), Some((w, wl)), self.rows, self.drawn)
    }
}

/// `grad_weights` from the gradient of the rows, the table and the indices.
struct GradWeights {
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "only a GPU is asked"))]
    drawn: bool,
}

impl CustomOp3 for GradWeights {
    fn name(&self) -> &'static str {
        "weighted-gather-grad-weights"
    }

    fn cpu_fwd(
        &self,
        g: &CpuStorage,
        gl: &Layout,
        t: &CpuStorage,
        tl: &Layout,
        i: &CpuStorage,
        il: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let indices = operand::<u32>("indices", (i, il))?;
        let (_, width) = gl.shape().dims2()?;
        macro_rules! grad_weights {
            ($table:ty, $acc:ty, $out:ty) => {{
                let (grad, table) = (operand::<$out>("grad_rows", (g, gl))?, operand::<$table>("table", (t, tl))?);
                let grad_weights = cpu::grad_weights::<$table, $acc, $out>(grad, table, width, indices);
                <$out>::to_cpu_storage_owned(grad_weights)
            }};
        }
        let grad_weights = match t.dtype() {
            DType::F32 => grad_weights!(f32, f32, f32),
            DType::F64 => grad_weights!(f64, f64, f64),
            DType::F16 => grad_weights!(half::f16, f32, half::f16),
            DType::BF16 => grad_weights!(half::bf16, f32, half::bf16),
            DType::U8 => grad_weights!(u8, f32, f32),
            dtype => bail!("weighted gather: no backward for dtype {dtype:?}"),
        };
        Ok((grad_weights, indices.len().into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        g: &candle_core::CudaStorage,
        gl: &Layout,
        t: &candle_core::CudaStorage,
        tl: &Layout,
        i: &candle_core::CudaStorage,
        il: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        cuda::grad_weights((g, gl), (t, tl), (i, il), self.drawn)
    }
}
