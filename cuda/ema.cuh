// The update of an entry; src/ops/scatter_ema/cpu.rs is the definition.
#pragma once
#include "common.cuh"

struct Ema {
    float decay;
    float gain; // 1 - decay
    float cap;  // values above enter as this; infinity where there is none
    u32 mean;   // whether the mean of a run enters, once
};

struct Counts {
    u32 updated, first_visits, skipped, negative, capped;
};

// By squaring, as the CPU.
__device__ __forceinline__ double power(double base, u32 exponent) {
    double power = 1.0;
    while (exponent > 0) {
        if (exponent % 2 == 1) power *= base;
        base *= base;
        exponent /= 2;
    }
    return power;
}

// What `entry`, that of index `indices[b]`, becomes by the run of equal indices that begins at `b`.
__device__ __forceinline__ float enter_run(
    const u32 *__restrict__ indices,  // [B] ascending
    const u32 *__restrict__ order,    // [B] the position in `values` of each index; null: its own position
    const float *__restrict__ values, // [B]
    u64 num_values,                   // B
    u64 b,
    float entry,
    const Ema &ema,
    Counts &counts
) {
    const u32 index = indices[b];
    double sum = 0.0;
    u32 num = 0;
    for (u64 k = b; k < num_values && indices[k] == index; k++) {
        float value = values[order ? order[k] : k];
        if (!isfinite(value)) {
            counts.skipped++;
            continue;
        }
        counts.updated++;
        counts.negative += value < 0.0f;
        // Also for -0.0, whose sign bit would mark the entry as unvisited.
        if (!(value > 0.0f)) value = 0.0f;
        if (value > ema.cap) {
            value = ema.cap;
            counts.capped++;
        }
        if (ema.mean) {
            sum += value;
            num++;
        } else if (signbit(entry)) {
            counts.first_visits++;
            entry = value;
        } else {
            entry = add(mul(ema.decay, entry), mul(ema.gain, value));
        }
    }
    if (num > 0) {
        const double mean = sum / num, kept = signbit(entry) ? 0.0 : power(ema.decay, num);
        counts.first_visits += signbit(entry) != 0;
        // Without the old value where nothing of it is kept: it may be the mark of an unvisited entry.
        entry = (float)(kept == 0.0 ? mean : kept * entry + (1.0 - kept) * mean);
    }
    return entry;
}

// Adds the counts of a block to `total`: updated, first visits, skipped (not finite), negative, capped. Every thread
// must call it. Sums of integers have no order.
__device__ __forceinline__ void add_counts(Counts counts, u32 *__restrict__ total) {
    __shared__ u32 of_block[5];
    if (threadIdx.x < 5) of_block[threadIdx.x] = 0;
    __syncthreads();
    const u32 sums[5] = {warp_sum(counts.updated), warp_sum(counts.first_visits), warp_sum(counts.skipped),
                         warp_sum(counts.negative), warp_sum(counts.capped)};
    if (threadIdx.x % 32 == 0)
        for (int i = 0; i < 5; i++)
            if (sums[i]) atomicAdd(&of_block[i], sums[i]);
    __syncthreads();
    if (threadIdx.x < 5 && of_block[threadIdx.x]) atomicAdd(&total[threadIdx.x], of_block[threadIdx.x]);
}
