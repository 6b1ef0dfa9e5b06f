// Densities of cells and what goes back through them; src/foam/mod.rs and src/train/prior.rs are the definition.
#include "common.cuh"

// See `exp_of_negative` of src/foam/mod.rs.
__device__ __forceinline__ float exp_of_negative(float x) {
    x = x < -87.0f ? -87.0f : x;
    const float shifted = x * 1.44269504088896340736f + 12582912.0f, n = shifted - 12582912.0f;
    const float r = (x - n * 0.6933594f) - n * -2.1219444e-4f;
    float series = 1.9875691e-4f;
    series = series * r + 1.3982e-3f;
    series = series * r + 8.333452e-3f;
    series = series * r + 4.1665796e-2f;
    series = series * r + 1.6666666e-1f;
    series = series * r + 0.5f;
    const float power = __uint_as_float((__float_as_uint(shifted) << 23) + __float_as_uint(1.0f));
    return power * (1.0f + (r + r * r * series));
}

// See `ln_1p_of_share` there.
__device__ __forceinline__ float ln_1p_of_share(float e) {
    const float s = e / (2.0f + e), square = s * s;
    float series = 1.0f / 15.0f;
    series = series * square + 1.0f / 13.0f;
    series = series * square + 1.0f / 11.0f;
    series = series * square + 1.0f / 9.0f;
    series = series * square + 1.0f / 7.0f;
    series = series * square + 1.0f / 5.0f;
    series = series * square + 1.0f / 3.0f;
    series = series * square + 1.0f;
    return 2.0f * s * series;
}

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
    const float z = beta * raw[i], e = exp_of_negative(-fabsf(z));
    derivative[i] = scale * ((z > 0.0f ? 1.0f : e) / (1.0f + e));
    density[i] = scale * (fmaxf(z, 0.0f) + ln_1p_of_share(e)) / beta;
}

// Gradients of densities become those of raw ones, with the prior's on top; one thread a cell.
extern "C" __global__ void density_grad_f32(
    // inputs
    const float *__restrict__ derivative, // [P']
    u64 num_real,                         // P'
    float prior,                          // gradient that the prior adds to that of every density
    const u32 *__restrict__ counts,       // [P], or null
    float of_place,                       // what it adds for each of `counts`
    // grad of outputs, grad of inputs
    float *__restrict__ grad              // [P'] in place
) {
    const u64 i = global_thread();
    if (i >= num_real) return;
    float g = grad[i] * derivative[i];
    if (counts) prior += of_place * (float)counts[i];
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
