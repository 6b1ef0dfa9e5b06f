// Rows of a table by index, scaled; src/ops/weighted_gather/cpu.rs is the definition.
//
// In the first two kernels threadIdx.y is a row of the block and threadIdx.x strides over its columns, so that a row
// is read and written in one piece.
#include "common.cuh"

__device__ __forceinline__ u64 batch_row() { return (u64)blockIdx.x * blockDim.y + threadIdx.y; }

// out[b, c] = weights[b] * table[indices[b], c]
extern "C" __global__ void weighted_gather_f32(
    // inputs
    const float *__restrict__ table,   // [N, C]
    const u32 *__restrict__ indices,   // [B] below N
    const float *__restrict__ weights, // [B]; null: ones
    u64 num_rows,                      // B
    u32 width,                         // C
    // outputs
    float *__restrict__ out            // [B, C]
) {
    const u64 b = batch_row();
    if (b >= num_rows) return;
    const float *row = table + (u64)indices[b] * width;
    const float weight = weights ? weights[b] : 1.0f;
    for (u32 c = threadIdx.x; c < width; c += blockDim.x) out[b * width + c] = mul(weight, row[c]);
}

// grad_table[i, c] = sum of weights[b] * grad_out[b, c] over the b with indices[b] = i, in batch order: the first of
// each run of equal indices walks the run. Bits of the CPU body, no atomics.
extern "C" __global__ void weighted_gather_grad_table_f32(
    // inputs
    const u32 *__restrict__ indices,   // [B] ascending, below N
    const u32 *__restrict__ order,     // [B] the position in the batch of each index; null: its own position
    const float *__restrict__ weights, // [B] in batch order; null: ones
    u64 num_rows,                      // B
    u32 width,                         // C
    // grad of outputs
    const float *__restrict__ grad_out, // [B, C] in batch order
    // grad of inputs
    float *__restrict__ grad_table     // [N, C], zero before
) {
    const u64 first = batch_row();
    if (first >= num_rows) return;
    const u32 index = indices[first];
    if (first > 0 && indices[first - 1] == index) return;
    for (u32 c = threadIdx.x; c < width; c += blockDim.x) {
        float sum = 0.0f;
        for (u64 k = first; k < num_rows && indices[k] == index; k++) {
            const u64 b = order ? order[k] : k;
            const float weight = weights ? weights[b] : 1.0f;
            sum = add(sum, mul(weight, grad_out[b * width + c]));
        }
        grad_table[(u64)index * width + c] = sum;
    }
}

// grad_weights[b] = grad_out[b] . table[indices[b]], one thread a row: the columns are added from the first to the
// last, as on the CPU.
extern "C" __global__ void weighted_gather_grad_weights_f32(
    // inputs
    const float *__restrict__ table,    // [N, C]
    const u32 *__restrict__ indices,    // [B] below N
    u64 num_rows,                       // B
    u32 width,                          // C
    // grad of outputs
    const float *__restrict__ grad_out, // [B, C]
    // grad of inputs
    float *__restrict__ grad_weights    // [B]
) {
    const u64 b = global_thread();
    if (b >= num_rows) return;
    const float *row = table + (u64)indices[b] * width;
    float sum = 0.0f;
    for (u32 c = 0; c < width; c++) sum = add(sum, mul(grad_out[b * width + c], row[c]));
    grad_weights[b] = sum;
}
