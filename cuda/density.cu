// Densities of cells and what goes back through them; src/foam/mod.rs and src/train/prior.rs are the definition. The
// exponential and the logarithm are the GPU's own, within 2 units in the last place of the CPU's.
#include "common.cuh"

// The activated densities and their derivatives by the raw ones, one thread a cell. Cells beyond the raw densities
// (sentinels) are empty.
extern "C" __global__ void density_f32(
    // inputs
    const float *__restrict__ raw,  // [P']
    u64 num_real,                   // P'
    u64 num_cells,                  // P
    float scale,                    // density of a softplus of 1
    float beta,                     // steepness of the softplus
    // outputs
    float *__restrict__ density,    // [P]
    float *__restrict__ derivative  // [P']
) {
    const u64 i = global_thread();
    if (i >= num_cells) return;
    if (i >= num_real) {
        density[i] = 0.0f;
        return;
    }
    const float z = beta * raw[i], e = expf(-fabsf(z));
    derivative[i] = scale * (z > 0.0f ? 1.0f / (1.0f + e) : e / (1.0f + e));
    density[i] = scale * (fmaxf(z, 0.0f) + log1pf(e)) / beta;
}

// Gradients of densities become those of raw ones, with the prior's on top; one thread a cell.
extern "C" __global__ void density_grad_f32(
    // inputs
    const float *__restrict__ derivative, // [P']
    u64 num_real,                         // P'
    float prior,                          // gradient that the prior adds to that of a density
    // grad of outputs, grad of inputs
    float *__restrict__ grad              // [P'] in place
) {
    const u64 i = global_thread();
    if (i >= num_real) return;
    float g = grad[i] * derivative[i];
    if (prior > 0.0f) g += prior * derivative[i];
    grad[i] = g;
}

// Adds the gradient of the distance of a cell's colour to the mean of its neighbours', one thread a coefficient.
extern "C" __global__ void smooth_color_f32(
    // inputs
    const float *__restrict__ sh,      // [P', C]
    const u32 *__restrict__ offsets,   // [P + 1]
    const u32 *__restrict__ neighbors, // [E] below P
    u64 num_real,                      // P': cells from there on (sentinels) have no colour
    u32 width,                         // C
    float weight,
    // grad of inputs
    float *__restrict__ grad           // [P', C], added to
) {
    const u64 i = global_thread();
    if (i >= num_real * width) return;
    const u64 cell = i / width, column = i % width;
    float sum = 0.0f, count = 0.0f;
    for (u32 e = offsets[cell]; e < offsets[cell + 1]; e++) {
        const u64 j = neighbors[e];
        if (j >= num_real) continue;
        sum += sh[j * width + column];
        count += 1.0f;
    }
    if (count > 0.0f) grad[i] += weight * (sh[i] - sum / count);
}
