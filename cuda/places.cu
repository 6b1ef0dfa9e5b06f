// Places of rays, where all rays are counted entry by entry, and their order; src/data/sampler/epoch.rs and rays.rs are the
// definition, and have the same bits.
#include "philox.cuh"

// See epoch.rs.
#define PERMUTATION_ROUNDS 6
#define ROUND_SHIFT 20

__device__ __forceinline__ u64 below(u64 seed, u32 index, u64 epoch, u64 bound) {
    return __umul64hi(bits64(philox(seed, index, STREAM_SHUFFLE, epoch)), bound);
}

// Where the permutations of the epochs, one after the other, send the numbers from `position` on; one thread a number.
extern "C" __global__ void epoch_places_u32(
    // inputs
    u64 num_places,           // B
    u64 num_rays,             // N, below 2^32
    u64 left_size,            // of the halves of the network
    u64 right_size,
    u64 position,             // below 2^63
    u64 seed,
    // outputs
    u32 *__restrict__ places  // [B] below N
) {
    const u64 k = global_thread();
    if (k >= num_places) return;
    const u64 epoch = (position + k) / num_rays;
    u64 at = (position + k) % num_rays;
    do {
        u64 left = at % left_size, right = at / left_size;
        for (u32 round = 0; round < PERMUTATION_ROUNDS; round += 2) {
            left = (left + below(seed, (u32)right | round << ROUND_SHIFT, epoch, left_size)) % left_size;
            right = (right + below(seed, (u32)left | (round + 1) << ROUND_SHIFT, epoch, right_size)) % right_size;
        }
        at = right * left_size + left;
    } while (at >= num_rays);
    places[k] = (u32)at;
}

// A random place in each of B equal strata of all rays: the evenly drawn part of a batch; one thread a place.
extern "C" __global__ void mixture_places_u32(
    // inputs
    u64 num_places,           // B, below 2^32
    u64 num_rays,             // N, below 2^32
    u64 seed,
    u64 step,
    // outputs
    u32 *__restrict__ places  // [B] ascending, below N
) {
    const u64 k = global_thread();
    if (k >= num_places) return;
    const u32 within = philox(seed, (u32)k, STREAM_MIXTURE, step).words[0];
    // (k + within / 2^32) N / B, rounded down: k N is whole, so that rounding twice is rounding once.
    places[k] = (u32)((k * num_rays + (within * num_rays >> 32)) / num_places);
}

// Sorts each run of SCAN_THREADS keys, in blocks of as many threads. A bitonic network: no two keys are told apart, so that
// no order of equal ones is lost.
extern "C" __global__ void __launch_bounds__(SCAN_THREADS) sort_blocks_u32(
    // inputs
    u64 num_keys,
    // outputs
    u32 *__restrict__ keys // [num_keys] in place
) {
    __shared__ u32 run[SCAN_THREADS];
    const u64 i = global_thread();
    run[threadIdx.x] = i < num_keys ? keys[i] : 0xffffffffu;
    __syncthreads();
    for (u32 size = 2; size <= SCAN_THREADS; size *= 2) {
        for (u32 stride = size / 2; stride > 0; stride /= 2) {
            const u32 a = threadIdx.x, b = a ^ stride;
            if (b > a) {
                const u32 low = run[a], high = run[b];
                if ((low > high) == ((a & size) == 0)) {
                    run[a] = high;
                    run[b] = low;
                }
            }
            __syncthreads();
        }
    }
    if (i < num_keys) keys[i] = run[threadIdx.x];
}

// Merges ascending runs, two by two; one thread a key, which looks up how many of the other run come before it.
extern "C" __global__ void merge_runs_u32(
    // inputs
    const u32 *__restrict__ keys, // [num_keys], runs of `run` each
    u64 num_keys,
    u64 run,
    // outputs
    u32 *__restrict__ merged      // [num_keys], runs of twice as many
) {
    const u64 i = global_thread();
    if (i >= num_keys) return;
    const u64 own = i / run, other = (own ^ 1) * run;
    const bool is_second = own % 2 == 1;
    const u32 key = keys[i];
    u64 low = other < num_keys ? other : num_keys;
    u64 beyond = other + run < num_keys ? other + run : num_keys;
    const u64 first = low;
    // Of equal keys those of the first run come first.
    while (low < beyond) {
        const u64 middle = low + (beyond - low) / 2;
        if (keys[middle] < key || (is_second && keys[middle] == key))
            low = middle + 1;
        else
            beyond = middle;
    }
    merged[own / 2 * 2 * run + (i - own * run) + (low - first)] = key;
}
