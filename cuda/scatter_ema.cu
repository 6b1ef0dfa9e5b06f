// The update of an error map; src/ops/scatter_ema/cpu.rs is the definition.
#include "common.cuh"

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
    // outputs
    float *__restrict__ map,          // [N] in place; the sign bit marks entries that were never visited
    u32 *__restrict__ counts          // [4], zero before: updated, first visits, skipped (not finite), negative
) {
    const u64 b = global_thread();
    u32 updated = 0, first_visits = 0, skipped = 0, negative = 0;
    if (b < num_values && (b == 0 || indices[b] != indices[b - 1])) {
        const u32 index = indices[b];
        float entry = map[index];
        for (u64 k = b; k < num_values && indices[k] == index; k++) {
            float value = values[order ? order[k] : k];
            if (!isfinite(value)) {
                skipped++;
                continue;
            }
            updated++;
            negative += value < 0.0f;
            // Also for -0.0, whose sign bit would mark the entry as unvisited.
            if (!(value > 0.0f)) value = 0.0f;
            if (signbit(entry)) {
                first_visits++;
                entry = value;
            } else {
                entry = add(mul(decay, entry), mul(gain, value));
            }
        }
        map[index] = entry;
    }
    // No thread has returned: every lane of the warp takes part in the sums. Sums of integers have no order.
    updated = warp_sum(updated);
    first_visits = warp_sum(first_visits);
    skipped = warp_sum(skipped);
    negative = warp_sum(negative);
    if (threadIdx.x % 32 == 0) {
        if (updated) atomicAdd(&counts[0], updated);
        if (first_visits) atomicAdd(&counts[1], first_visits);
        if (skipped) atomicAdd(&counts[2], skipped);
        if (negative) atomicAdd(&counts[3], negative);
    }
}
