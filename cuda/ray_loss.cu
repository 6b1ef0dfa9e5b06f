// The loss of rays; src/ops/ray_loss/cpu.rs is the definition. Bits of the CPU for each ray, but for an importance
// weight, whose power is the GPU's own. Sums over rays are in f64 and in a fixed order.
#include "philox.cuh"

#define PACKED_HEAD 4
// Threads of a block of both kernels: it decides the order of the sums.
#define LOSS_THREADS 256
#define LOSS_WARPS (LOSS_THREADS / 32)
// Keeps quantiles strictly inside (0, 1).
#define MARGIN 1e-3f

// What is known of many rays.
enum {
    // Sums of f64: losses, squared errors, inverse densities 1 / (N p) and their squares.
    LOSS, SQUARED_ERROR, WEIGHT, SQUARED_WEIGHT,
    // Cells entered; losses that are not finite, and the first of them (all bits where there is none).
    ENTERED, NON_FINITE, FIRST_NON_FINITE,
    // The largest error that is finite, after the power and at most the cap, by its bits; how many were above the cap.
    MAX_ERROR, CAPPED,
    TOTALS
};

struct Totals {
    double sums[4];
    u64 entered, non_finite, first, max_error, capped;
};

__device__ __forceinline__ Totals none() { return {{0.0, 0.0, 0.0, 0.0}, 0, 0, ~(u64)0, 0, 0}; }

__device__ __forceinline__ void merge(Totals &to, const Totals &from) {
    for (int i = 0; i < 4; i++) to.sums[i] += from.sums[i];
    to.entered += from.entered;
    to.non_finite += from.non_finite;
    to.first = from.first < to.first ? from.first : to.first;
    to.max_error = from.max_error > to.max_error ? from.max_error : to.max_error;
    to.capped += from.capped;
}

__device__ __forceinline__ Totals from_lane_below(const Totals &own, int offset) {
    Totals other;
    for (int i = 0; i < 4; i++) other.sums[i] = __shfl_down_sync(WHOLE_WARP, own.sums[i], offset);
    other.entered = __shfl_down_sync(WHOLE_WARP, own.entered, offset);
    other.non_finite = __shfl_down_sync(WHOLE_WARP, own.non_finite, offset);
    other.first = __shfl_down_sync(WHOLE_WARP, own.first, offset);
    other.max_error = __shfl_down_sync(WHOLE_WARP, own.max_error, offset);
    other.capped = __shfl_down_sync(WHOLE_WARP, own.capped, offset);
    return other;
}

__device__ __forceinline__ void write_totals(const Totals &totals, u64 *__restrict__ words) {
    for (int i = 0; i < 4; i++) words[i] = (u64)__double_as_longlong(totals.sums[i]);
    words[ENTERED] = totals.entered;
    words[NON_FINITE] = totals.non_finite;
    words[FIRST_NON_FINITE] = totals.first;
    words[MAX_ERROR] = totals.max_error;
    words[CAPPED] = totals.capped;
}

__device__ __forceinline__ Totals read_totals(const u64 *__restrict__ words) {
    Totals totals;
    for (int i = 0; i < 4; i++) totals.sums[i] = __longlong_as_double((long long)words[i]);
    totals.entered = words[ENTERED];
    totals.non_finite = words[NON_FINITE];
    totals.first = words[FIRST_NON_FINITE];
    totals.max_error = words[MAX_ERROR];
    totals.capped = words[CAPPED];
    return totals;
}

// The totals over a block of LOSS_THREADS, written by its first thread. Every thread must call it.
__device__ __forceinline__ void write_block(Totals own, u64 *__restrict__ words) {
    __shared__ u64 of_warps[LOSS_WARPS][TOTALS];
    for (int offset = 16; offset > 0; offset /= 2) merge(own, from_lane_below(own, offset));
    if (threadIdx.x % 32 == 0) write_totals(own, of_warps[threadIdx.x / 32]);
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int warp = 1; warp < LOSS_WARPS; warp++) merge(own, read_totals(of_warps[warp]));
    write_totals(own, words);
}

// error^power, where NaN stays NaN and a negative error negative.
__device__ __forceinline__ float raised(float error, float power) {
    if (!(error > 0.0f) || power == 1.0f) return error;
    return power == 0.5f ? __fsqrt_rn(error) : powf(error, power);
}

// Loss, gradient by the outputs and error of each ray, one thread a ray.
extern "C" __global__ void __launch_bounds__(LOSS_THREADS) ray_loss_f32(
    // inputs
    const float *__restrict__ packed,       // [R, 4 + Q]: rgb, opacity, depths
    const float *__restrict__ rgba,         // [R, 4] premultiplied
    const float *__restrict__ probability,  // [R] with which a ray was drawn
    const u32 *__restrict__ cells_entered,  // [R]
    u64 num_rays,                           // R
    u32 num_quantiles,                      // Q
    u32 random_background,                  // whether each ray has a background of its own
    float red,                              // the background otherwise
    float green,
    float blue,
    u64 seed,
    u64 step,
    float opacity_weight,
    float quantile_weight,
    double num_drawn_from,                  // N
    double importance_exponent,             // of the weights (1 / (N p))^b; 0: they are 1
    float error_power,
    float error_cap,
    // outputs
    float *__restrict__ grad_packed,        // [R, 4 + Q]
    float *__restrict__ errors,             // [R], after the power
    u64 *__restrict__ partial               // [blocks, 9]
) {
    const u64 i = global_thread();
    Totals own = none();
    if (i < num_rays) {
        const float *out = packed + i * (PACKED_HEAD + num_quantiles), *truth = rgba + 4 * i;
        float *grad = grad_packed + i * (PACKED_HEAD + num_quantiles);
        float background[3] = {red, green, blue};
        if (random_background) {
            const Block block = philox(seed, (u32)i, STREAM_BACKGROUND, step);
            for (int c = 0; c < 3; c++) background[c] = unit(block.words[c]);
        }
        const double inverse = 1.0 / (num_drawn_from * (double)probability[i]);
        const float weight = importance_exponent == 0.0 ? 1.0f : (float)pow(inverse, importance_exponent);
        const float through = 1.0f - out[3], true_through = 1.0f - truth[3], opacity = out[3] - truth[3];
        float color[3];
        for (int c = 0; c < 3; c++)
            color[c] = (out[c] + through * background[c]) - (truth[c] + true_through * background[c]);
        const float squared = (color[0] * color[0] + color[1] * color[1] + color[2] * color[2]) / 3.0f;
        float loss = squared + opacity_weight * opacity * opacity;
        const bool reached = num_quantiles >= 2 && out[PACKED_HEAD + num_quantiles - 1] >= 0.0f;
        if (reached) {
            const float *last = out + PACKED_HEAD + num_quantiles - 2;
            loss += quantile_weight * fabsf(last[1] - last[0]);
        }
        loss = weight * loss;

        const float scale = weight / (float)num_rays;
        float behind = 0.0f;
        for (int c = 0; c < 3; c++) {
            grad[c] = scale * 2.0f / 3.0f * color[c];
            behind = c == 0 ? grad[c] * background[c] : behind + grad[c] * background[c];
        }
        grad[3] = scale * 2.0f * opacity_weight * opacity - behind;
        for (u32 q = 0; q < num_quantiles; q++) grad[PACKED_HEAD + q] = 0.0f;
        // Quantiles descend, so depths ascend.
        if (reached && num_quantiles == 2) {
            grad[PACKED_HEAD] = -(scale * quantile_weight);
            grad[PACKED_HEAD + 1] = scale * quantile_weight;
        }

        const float error = raised(squared, error_power);
        errors[i] = error;
        own = {{(double)loss, (double)squared, inverse, inverse * inverse},
               cells_entered[i], !isfinite(loss), isfinite(loss) ? ~(u64)0 : i, 0, 0};
        if (isfinite(error)) {
            own.max_error = __float_as_uint(error < error_cap ? error : error_cap);
            own.capped = error > error_cap;
        }
    }
    write_block(own, partial + TOTALS * (u64)blockIdx.x);
}

// The totals over all blocks: one block of LOSS_THREADS.
extern "C" __global__ void __launch_bounds__(LOSS_THREADS) ray_loss_total(
    // inputs
    const u64 *__restrict__ partial, // [blocks, 9]
    u64 num_blocks,
    // outputs
    u64 *__restrict__ totals         // [9]
) {
    Totals own = none();
    for (u64 block = threadIdx.x; block < num_blocks; block += LOSS_THREADS)
        merge(own, read_totals(partial + TOTALS * block));
    write_block(own, totals);
}

// Two transmittance quantiles a ray, descending; one thread a ray.
extern "C" __global__ void ray_quantiles_f32(
    // inputs
    u64 num_rays,                 // R
    u64 seed,
    u64 step,
    // outputs
    float *__restrict__ quantiles // [R, 2]
) {
    const u64 i = global_thread();
    if (i >= num_rays) return;
    const Block block = philox(seed, (u32)i, STREAM_QUANTILE, step);
    float q[2];
    for (int k = 0; k < 2; k++) q[k] = fminf(fmaxf(unit(block.words[k]), MARGIN), 1.0f - MARGIN);
    quantiles[2 * i] = fmaxf(q[0], q[1]);
    quantiles[2 * i + 1] = fminf(q[0], q[1]);
}
