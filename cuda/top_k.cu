// The entries of a map with the largest errors, exactly; src/data/sampler/top_k.rs and rays.rs are the definition. Sums of
// integers, which have no order.
#include "map_words.cuh"
#include "philox.cuh"

// Values of a digit of a key, and entries that a block counts.
#define DIGITS 256
#define COUNT_THREADS 256
#define COUNT_TILE 4096
// What has been found of the smallest key that belongs: the digits so far, and how many entries are left for it.
enum { FOUND_KEY, FOUND_LEFT };

// An entry's error, by its bits, which ascend with it; one that was never visited counts with the mean.
__device__ __forceinline__ u32 error_key(
    const float *__restrict__ values, const u32 *__restrict__ first_rays, float whole, float mean, u64 entry
) {
    const float value = values[entry];
    if (signbit(value)) return __float_as_uint(mean);
    if (!first_rays) return __float_as_uint(value);
    return __float_as_uint(value / ((float)(first_rays[entry + 1] - first_rays[entry]) / whole));
}

// Counts the entries whose key begins with the digits that were found, by the next digit.
extern "C" __global__ void top_k_count_f32(
    // inputs
    const float *__restrict__ values,   // [E]
    const u32 *__restrict__ first_rays, // [E + 1]: where the rays of an entry begin; null: errors are of rays as they are
    const u64 *__restrict__ rule,       // [5] of the map
    const u64 *__restrict__ found,      // [2]
    u64 num_entries,                    // E
    double cap,
    double mean_share,                  // of the entries of a whole patch
    float whole,                        // pixels of a whole patch
    u32 shift,                          // where in a key the digit is
    // outputs
    u32 *__restrict__ counts            // [256], zero before
) {
    __shared__ u32 own[DIGITS];
    for (u32 digit = threadIdx.x; digit < DIGITS; digit += blockDim.x) own[digit] = 0;
    __syncthreads();
    const float mean = (float)(mean_of(rule, num_entries, cap) / mean_share);
    const u64 start = (u64)blockIdx.x * COUNT_TILE;
    for (u64 entry = start + threadIdx.x; entry < start + COUNT_TILE && entry < num_entries; entry += blockDim.x) {
        const u64 key = error_key(values, first_rays, whole, mean, entry);
        if (key >> (shift + 8) == found[FOUND_KEY] >> (shift + 8)) atomicAdd(&own[key >> shift & (DIGITS - 1)], 1u);
    }
    __syncthreads();
    for (u32 digit = threadIdx.x; digit < DIGITS; digit += blockDim.x)
        if (own[digit] > 0) atomicAdd(&counts[digit], own[digit]);
}

// The highest digit such that it and those above hold the entries that are left: one block of COUNT_THREADS.
extern "C" __global__ void top_k_digit(
    // inputs
    u32 shift,
    // outputs
    u32 *__restrict__ counts, // [256] in place: zero again
    u64 *__restrict__ found   // [2] in place
) {
    if (threadIdx.x == 0) {
        u64 left = found[FOUND_LEFT];
        u32 digit = DIGITS - 1;
        while (digit > 0 && counts[digit] < left) left -= counts[digit--];
        found[FOUND_KEY] |= (u64)digit << shift;
        found[FOUND_LEFT] = left;
    }
    __syncthreads();
    for (u32 digit = threadIdx.x; digit < DIGITS; digit += blockDim.x) counts[digit] = 0;
}

// How many entries of each tile of SCAN_THREADS have a larger key, and how many that one; one thread an entry.
extern "C" __global__ void top_k_tiles_f32(
    // inputs
    const float *__restrict__ values,   // [E]
    const u32 *__restrict__ first_rays, // [E + 1]; null: errors are of rays as they are
    const u64 *__restrict__ rule,       // [5] of the map
    const u64 *__restrict__ found,      // [2]
    u64 num_entries,                    // E
    double cap,
    double mean_share,
    float whole,
    // outputs
    u64 *__restrict__ tiles             // [num_tiles, 2]
) {
    const u64 entry = global_thread();
    const float mean = (float)(mean_of(rule, num_entries, cap) / mean_share);
    const u64 key = entry < num_entries ? error_key(values, first_rays, whole, mean, entry) : 0;
    const u64 larger = block_scan(entry < num_entries && key > found[FOUND_KEY]);
    const u64 equal = block_scan(entry < num_entries && key == found[FOUND_KEY]);
    if (threadIdx.x == SCAN_THREADS - 1) {
        tiles[2 * (u64)blockIdx.x] = larger;
        tiles[2 * (u64)blockIdx.x + 1] = equal;
    }
}

// What the tiles before each sum to: one block of SCAN_THREADS.
extern "C" __global__ void __launch_bounds__(SCAN_THREADS) top_k_before(
    // inputs
    u64 num_tiles,
    // outputs
    u64 *__restrict__ tiles // [num_tiles, 2] in place
) {
    scan_tiles(tiles, num_tiles);
}

// The pool: entries with a larger key, and as many with that key as are left for it, those of lower index; one thread an
// entry.
extern "C" __global__ void top_k_pool_f32(
    // inputs
    const float *__restrict__ values,   // [E]
    const u32 *__restrict__ first_rays, // [E + 1]; null: errors are of rays as they are
    const u64 *__restrict__ rule,       // [5] of the map
    const u64 *__restrict__ found,      // [2]
    const u64 *__restrict__ tiles,      // [num_tiles, 2]: sums before
    u64 num_entries,                    // E
    double cap,
    double mean_share,
    float whole,
    // outputs
    u32 *__restrict__ pool              // [K] ascending
) {
    const u64 entry = global_thread();
    const float mean = (float)(mean_of(rule, num_entries, cap) / mean_share);
    const u64 key = entry < num_entries ? error_key(values, first_rays, whole, mean, entry) : 0;
    const bool larger = entry < num_entries && key > found[FOUND_KEY];
    const bool equal = entry < num_entries && key == found[FOUND_KEY];
    const u64 larger_before = tiles[2 * (u64)blockIdx.x] + block_scan(larger) - larger;
    const u64 equal_before = tiles[2 * (u64)blockIdx.x + 1] + block_scan(equal) - equal;
    const u64 left = found[FOUND_LEFT];
    if (larger || (equal && equal_before < left))
        pool[larger_before + (equal_before < left ? equal_before : left)] = (u32)entry;
}

// Entries of the pool, one in each of B equal strata of it; one thread a draw.
extern "C" __global__ void top_k_draw_u32(
    // inputs
    const u32 *__restrict__ pool, // [K] ascending
    u64 pool_size,                // K
    u64 num_draws,                // B
    u64 stratum,                  // length of a stratum when the whole is 2^64
    u64 seed,
    u64 step,
    // outputs
    u32 *__restrict__ entries     // [B] ascending
) {
    const u64 k = global_thread();
    if (k >= num_draws) return;
    const u64 within = __umul64hi(bits64(philox(seed, (u32)k, STREAM_DRAW, step)), stratum);
    entries[k] = pool[__umul64hi(stratum * k + within, pool_size)];
}
