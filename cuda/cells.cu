// What training keeps an eye on in every cell: statistics for refinement, and values that are not finite.
#include "common.cuh"

// Adds a step to the statistics of each cell, one thread a cell; RefineStatistics::add (src/foam/refine.rs) is the
// definition, and has the same bits.
extern "C" __global__ void refine_statistics_f32(
    // inputs
    const float *__restrict__ grad_points, // [P, 3]
    const u32 *__restrict__ weights,       // [P]: the largest weight of each cell in this step, by its bits
    u64 num_cells,                         // P
    // outputs
    float *__restrict__ gradient,          // [P], added to
    float *__restrict__ max_weight         // [P], raised
) {
    const u64 i = global_thread();
    if (i >= num_cells) return;
    const float x = grad_points[3 * i], y = grad_points[3 * i + 1], z = grad_points[3 * i + 2];
    gradient[i] += __fsqrt_rn(x * x + y * y + z * z);
    max_weight[i] = fmaxf(max_weight[i], __uint_as_float(weights[i]));
}

// How many of a list of cells each cell is.
extern "C" __global__ void count_cells_u32(
    // inputs
    const u32 *__restrict__ cells, // [num] below P
    u64 num,
    // outputs
    u32 *__restrict__ counts       // [P], 0 before
) {
    const u64 i = global_thread();
    if (i < num) atomicAdd(&counts[cells[i]], 1u);
}

// How many values are not finite, and where the first of them is. Any number of threads: each looks at every so many-th
// value.
extern "C" __global__ void non_finite_f32(
    // inputs
    const float *__restrict__ values, // [num]
    u64 num,
    // outputs
    u64 *__restrict__ found           // [2], 0 and all bits before: their number, and the place of the first
) {
    u64 count = 0, first = ~(u64)0;
    const u64 stride = (u64)gridDim.x * blockDim.x;
    for (u64 i = global_thread(); i < num; i += stride) {
        if (isfinite(values[i])) continue;
        if (count == 0) first = i;
        count++;
    }
    // As good as never.
    if (count > 0) {
        atomicAdd(&found[0], count);
        atomicMin(&found[1], first);
    }
}
