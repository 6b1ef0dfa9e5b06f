// The scatter-EMA; src/ops/scatter_ema/cpu.rs is the definition.
#include "ema.cuh"

// One thread an observation, in ascending order of index. The first of each run of equal indices walks the run, so
// that the map gets the bits of the sequential loop, without atomics on it.
extern "C" __global__ void scatter_ema_f32(
    // inputs
    const u32 *__restrict__ indices,  // [B] ascending, below N
    const u32 *__restrict__ order,    // [B] the position in `values` of each index; null: its own position
    const float *__restrict__ values, // [B]
    u64 num_values,                   // B, below 2^32
    float decay,
    float gain,                       // 1 - decay
    u32 mean,                         // whether the mean of a run enters, once
    // outputs
    float *__restrict__ map,          // [N] in place; the sign bit marks entries that were never visited
    u32 *__restrict__ counts          // [5], zero before: updated, first visits, skipped (not finite), negative, 0
) {
    const u64 b = global_thread();
    const Ema ema = {decay, gain, INFINITY, mean};
    Counts own = {};
    if (b < num_values && (b == 0 || indices[b] != indices[b - 1])) {
        const u32 index = indices[b];
        map[index] = enter_run(indices, order, values, num_values, b, map[index], ema, own);
    }
    add_counts(own, counts);
}
