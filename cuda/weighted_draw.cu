// Draws in proportion to a vector of weights; src/ops/weighted_draw/cpu.rs is the definition. Every kernel here has its
// bits: weights become integers, whose sums have no order.
#include "philox.cuh"

// Entries of a group, groups of a block; those of an error map.
#define DRAW_GROUP 16
#define DRAW_GROUPS 16
#define DRAW_BLOCK (DRAW_GROUP * DRAW_GROUPS)

// The first weight that is negative or not finite, and the bits of the largest, which ascend with it; one thread a weight.
extern "C" __global__ void weighted_draw_check_f32(
    // inputs
    const float *__restrict__ weights, // [N]
    u64 num_entries,                   // N
    // outputs
    u32 *__restrict__ found            // [2], 0xffffffff and 0 before
) {
    const u64 i = global_thread();
    const float weight = i < num_entries ? weights[i] : 0.0f;
    const bool is_valid = isfinite(weight) && weight >= 0.0f;
    if (!is_valid) atomicMin(&found[0], (u32)i);
    // -0.0 is a zero.
    u32 bits = is_valid && weight > 0.0f ? __float_as_uint(weight) : 0;
    for (int offset = 16; offset > 0; offset /= 2) {
        const u32 other = __shfl_down_sync(WHOLE_WARP, bits, offset);
        bits = other > bits ? other : bits;
    }
    if (threadIdx.x % 32 == 0 && bits > 0) atomicMax(&found[1], bits);
}

__device__ __forceinline__ u64 weight_mass(const float *__restrict__ weights, u64 num_entries, u64 entry, double scale) {
    return entry < num_entries ? (u64)((double)weights[entry] * scale) : 0;
}

// The masses of all groups and blocks, one thread a group.
extern "C" __global__ void weighted_draw_sums_f32(
    // inputs
    const float *__restrict__ weights, // [N]
    u64 num_entries,                   // N
    u64 num_groups,                    // G, a multiple of 16
    double scale,                      // mass of a unit of weight
    // outputs
    u64 *__restrict__ groups,          // [G]
    u64 *__restrict__ blocks           // [G / 16]
) {
    const u64 g = global_thread();
    u64 mass = 0;
    for (int i = 0; g < num_groups && i < DRAW_GROUP; i++)
        mass += weight_mass(weights, num_entries, g * DRAW_GROUP + i, scale);
    if (g < num_groups) groups[g] = mass;
    // The sixteen groups of a block are neighbouring lanes.
    for (int bits = 1; bits < DRAW_GROUPS; bits *= 2) mass += __shfl_xor_sync(WHOLE_WARP, mass, bits);
    if (g < num_groups && g % DRAW_GROUPS == 0) blocks[g / DRAW_GROUPS] = mass;
}

// What the blocks of each tile of SCAN_THREADS sum to, one thread a block.
extern "C" __global__ void __launch_bounds__(SCAN_THREADS) weighted_draw_tiles(
    // inputs
    const u64 *__restrict__ blocks, // [num_blocks]
    u64 num_blocks,
    // outputs
    u64 *__restrict__ tiles         // [num_tiles]
) {
    const u64 b = global_thread();
    const u64 mass = block_scan(b < num_blocks ? blocks[b] : 0);
    if (threadIdx.x == SCAN_THREADS - 1) tiles[blockIdx.x] = mass;
}

// What the tiles before each sum to, and what follows from the whole: one block of SCAN_THREADS.
extern "C" __global__ void __launch_bounds__(SCAN_THREADS) weighted_draw_rule(
    // inputs
    u64 num_tiles,
    u64 num_entries,         // N
    double uniform_ratio,    // uniform share to weighted share
    // outputs
    u64 *__restrict__ tiles, // [num_tiles] in place: sums become sums before
    u64 *__restrict__ rule   // [2]: mass that every entry gets on top, total
) {
    u64 sum = 0;
    __shared__ u64 end;
    for (u64 first = 0; first < num_tiles; first += SCAN_THREADS) {
        const u64 tile = first + threadIdx.x;
        const u64 own = tile < num_tiles ? tiles[tile] : 0;
        const u64 own_end = sum + block_scan(own);
        if (tile < num_tiles) tiles[tile] = own_end - own;
        if (threadIdx.x == SCAN_THREADS - 1) end = own_end;
        __syncthreads();
        sum = end;
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        const u64 uniform = (u64)ceil(uniform_ratio * (double)sum / (double)num_entries);
        rule[0] = uniform_ratio > 0.0 && uniform == 0 ? 1 : uniform;
        rule[1] = sum + num_entries * rule[0];
    }
}

// The masses of all blocks up to and including each, one thread a block.
extern "C" __global__ void __launch_bounds__(SCAN_THREADS) weighted_draw_ends(
    // inputs
    const u64 *__restrict__ blocks, // [num_blocks]
    const u64 *__restrict__ tiles,  // [num_tiles]: sums before
    const u64 *__restrict__ rule,   // [2]
    u64 num_blocks,
    u64 num_entries,                // N
    // outputs
    u64 *__restrict__ ends          // [num_blocks]
) {
    const u64 b = global_thread();
    const u64 mass = tiles[blockIdx.x] + block_scan(b < num_blocks ? blocks[b] : 0);
    if (b >= num_blocks) return;
    const u64 entries = (b + 1) * DRAW_BLOCK < num_entries ? (b + 1) * DRAW_BLOCK : num_entries;
    ends[b] = mass + entries * rule[0];
}

// One thread a draw: its point, and the block, group and entry in which that lies.
extern "C" __global__ void weighted_draw_f32(
    // inputs
    const float *__restrict__ weights, // [N]
    const u64 *__restrict__ groups,    // [G]
    const u64 *__restrict__ ends,      // [num_blocks]
    const u64 *__restrict__ rule,      // [2]
    u64 num_entries,                   // N
    u64 num_blocks,
    double scale,                      // mass of a unit of weight
    u64 num_draws,                     // below 2^32
    u64 stratum,                       // length of a stratum when the whole is 2^64
    u32 systematic,                    // whether all points lie at the same place of their stratum
    u64 place,                         // that place
    u64 seed,
    u64 step,
    // outputs
    u32 *__restrict__ indices,         // [num_draws] ascending
    float *__restrict__ probability    // [num_draws]
) {
    const u64 k = global_thread();
    if (k >= num_draws) return;
    const u64 uniform = rule[0], total = rule[1];
    if (!systematic) place = bits64(philox(seed, (u32)k, STREAM_DRAW, step));
    u64 point = __umul64hi(stratum * k + __umul64hi(place, stratum), total);

    // The first block that ends beyond the point.
    u64 block = 0, beyond = num_blocks - 1;
    while (block < beyond) {
        const u64 middle = (block + beyond) / 2;
        if (ends[middle] <= point)
            block = middle + 1;
        else
            beyond = middle;
    }
    if (block > 0) point -= ends[block - 1];

    // The point lies in one of the sixteen: sums are exact. What is beyond the last entry has no mass.
    u64 group = block * DRAW_GROUPS;
    for (int i = 0; i < DRAW_GROUPS - 1; i++, group++) {
        const u64 first = group * DRAW_GROUP;
        const u64 left = first < num_entries ? num_entries - first : 0;
        const u64 mass = groups[group] + (left < DRAW_GROUP ? left : DRAW_GROUP) * uniform;
        if (point < mass) break;
        point -= mass;
    }
    u64 entry = group * DRAW_GROUP, mass = 0;
    for (int i = 0; i < DRAW_GROUP; i++) {
        mass = weight_mass(weights, num_entries, entry, scale) + uniform;
        if (point < mass || i == DRAW_GROUP - 1 || entry + 1 >= num_entries) break;
        point -= mass;
        entry++;
    }
    indices[k] = (u32)entry;
    probability[k] = (float)((double)mass / (double)total);
}
