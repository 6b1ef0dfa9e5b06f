// The error map and its integer sums; src/ops/error_map/ is the definition. Every kernel here has its bits: the sums
// are integers, which have no order.
#include "ema.cuh"
#include "map_words.cuh"
#include "philox.cuh"

// A word of the lower levels as one of the block level.
__device__ __forceinline__ u64 widen(u32 word) {
    return mass_of(word) | (u64)(word >> GROUP_COUNT_SHIFT) << BLOCK_COUNT_SHIFT;
}

// The sums over all groups and blocks, one thread a group.
extern "C" __global__ void error_map_sums_f32(
    // inputs
    const float *__restrict__ values, // [G * 16], padded by zeros to whole blocks
    u64 num_groups,                   // G, a multiple of 16
    float scale,                      // mass of a unit of error
    // outputs
    u32 *__restrict__ groups,         // [G]
    u64 *__restrict__ blocks          // [G / 16]
) {
    const u64 g = global_thread();
    u32 word = 0;
    if (g < num_groups) {
        const float4 *line = (const float4 *)(values + g * GROUP);
        for (int i = 0; i < GROUP / 4; i++) {
            const float4 four = line[i];
            word += entry_word(four.x, scale) + entry_word(four.y, scale);
            word += entry_word(four.z, scale) + entry_word(four.w, scale);
        }
        groups[g] = word;
    }
    // The sixteen groups of a block are neighbouring lanes.
    u64 sum = widen(word);
    for (int bits = 1; bits < GROUPS; bits *= 2) sum += __shfl_xor_sync(WHOLE_WARP, sum, bits);
    if (g < num_groups && g % GROUPS == 0) blocks[g / GROUPS] = sum;
}

// The scatter-EMA with the sums kept in step; threads as in scatter_ema_f32.
extern "C" __global__ void error_map_update_f32(
    // inputs
    const u32 *__restrict__ indices,  // [B] ascending, below N
    const u32 *__restrict__ order,    // [B] the position in `values` of each index; null: its own position
    const float *__restrict__ values, // [B]
    u64 num_values,                   // B, below 2^32
    float decay,
    float gain,                       // 1 - decay
    float cap,
    u32 mean,                         // whether the mean of a run enters, once
    float scale,                      // mass of a unit of error
    // outputs
    float *__restrict__ map,          // [N] in place; the sign bit marks entries that were never visited
    u32 *__restrict__ groups,         // [N / 16] in place
    u64 *__restrict__ blocks,         // [N / 256] in place
    u32 *__restrict__ counts          // [5], zero before: updated, first visits, skipped (not finite), negative, capped
) {
    const u64 b = global_thread();
    const Ema ema = {decay, gain, cap, mean};
    Counts own = {};
    if (b < num_values && (b == 0 || indices[b] != indices[b - 1])) {
        const u32 index = indices[b];
        const float before = map[index];
        const float after = enter_run(indices, order, values, num_values, b, before, ema, own);
        map[index] = after;
        // Differences may be negative: modulo 2^32 and 2^64 the sums come out right all the same.
        const u32 from = entry_word(before, scale), to = entry_word(after, scale);
        if (from != to) {
            atomicAdd(&groups[index / GROUP], to - from);
            atomicAdd(&blocks[index / BLOCK], widen(to) - widen(from));
        }
    }
    add_counts(own, counts);
}

// What the blocks of each tile of SCAN_THREADS sum to, one thread a block.
extern "C" __global__ void error_map_tiles(
    // inputs
    const u64 *__restrict__ blocks, // [num_blocks]
    u64 num_blocks,
    // outputs
    u64 *__restrict__ tiles         // [num_tiles, 2]: mass of the visited entries, number of the others
) {
    const u64 b = global_thread();
    const u64 word = b < num_blocks ? blocks[b] : 0;
    const u64 mass = block_scan((u32)word), unvisited = block_scan(word >> BLOCK_COUNT_SHIFT);
    if (threadIdx.x == SCAN_THREADS - 1) {
        tiles[2 * (u64)blockIdx.x] = mass;
        tiles[2 * (u64)blockIdx.x + 1] = unvisited;
    }
}

// What the tiles before each sum to, and what follows from the whole: one block of SCAN_THREADS.
extern "C" __global__ void __launch_bounds__(SCAN_THREADS) error_map_rule(
    // inputs
    u64 num_tiles,
    u64 num_entries,        // N
    double uniform_ratio,   // uniform share to weighted share
    // outputs
    u64 *__restrict__ tiles, // [num_tiles, 2] in place: sums become sums before
    u64 *__restrict__ rule   // [5]: mass of an unvisited entry, mass that every entry gets on top, total; of the map
                             // the mass of the visited entries, and the number of the others
) {
    const Pair sums = scan_tiles(tiles, num_tiles);
    if (threadIdx.x == 0) {
        const u64 mass = sums.first, unvisited = sums.second;
        const u64 visited = num_entries - unvisited;
        const u64 prior = mass / (visited > 0 ? visited : 1);
        const u64 sum = mass + unvisited * prior;
        const u64 uniform = (u64)ceil(uniform_ratio * (double)sum / (double)num_entries);
        rule[0] = prior;
        rule[1] = uniform > 0 ? uniform : 1;
        rule[2] = sum + num_entries * rule[1];
        rule[3] = mass;
        rule[4] = unvisited;
    }
}

// The masses of all blocks up to and including each, one thread a block.
extern "C" __global__ void error_map_ends(
    // inputs
    const u64 *__restrict__ blocks, // [num_blocks]
    const u64 *__restrict__ tiles,  // [num_tiles, 2]: sums before
    const u64 *__restrict__ rule,   // [5]
    u64 num_blocks,
    u64 num_entries,                // N
    // outputs
    u64 *__restrict__ ends          // [num_blocks]
) {
    const u64 b = global_thread();
    const u64 word = b < num_blocks ? blocks[b] : 0;
    const u64 mass = tiles[2 * (u64)blockIdx.x] + block_scan((u32)word);
    const u64 unvisited = tiles[2 * (u64)blockIdx.x + 1] + block_scan(word >> BLOCK_COUNT_SHIFT);
    if (b >= num_blocks) return;
    const u64 entries = (b + 1) * BLOCK < num_entries ? (b + 1) * BLOCK : num_entries;
    ends[b] = mass + unvisited * rule[0] + entries * rule[1];
}

// One thread a draw: its point, and the block, group and entry in which that lies.
extern "C" __global__ void error_map_draw_f32(
    // inputs
    const float *__restrict__ values, // [N], padded to whole blocks
    const u32 *__restrict__ groups,   // [N / 16]
    const u64 *__restrict__ ends,     // [num_blocks]
    const u64 *__restrict__ rule,     // [5]
    u64 num_blocks,
    float scale,                      // mass of a unit of error
    u64 num_draws,                    // below 2^32
    u64 stratum,                      // length of a stratum when the whole is 2^64
    u32 systematic,                   // whether all points lie at the same place of their stratum
    u64 place,                        // that place
    u64 seed,
    u64 step,
    // outputs
    u32 *__restrict__ indices,        // [num_draws] ascending
    float *__restrict__ probability   // [num_draws]
) {
    const u64 k = global_thread();
    if (k >= num_draws) return;
    const u64 prior = rule[0], uniform = rule[1], total = rule[2];
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

    // In the last of the sixteen it must be if it is in none before. Padding lies behind every point.
    u64 group = block * GROUPS;
    for (int i = 0; i < GROUPS - 1; i++) {
        const u32 word = groups[group];
        const u64 mass = mass_of(word) + (word >> GROUP_COUNT_SHIFT) * prior + GROUP * uniform;
        if (point < mass) break;
        point -= mass;
        group++;
    }
    u64 entry = group * GROUP, mass = 0;
    for (int i = 0; i < GROUP; i++) {
        const u32 word = entry_word(values[entry], scale);
        mass = mass_of(word) + (word >> GROUP_COUNT_SHIFT) * prior + uniform;
        if (point < mass || i == GROUP - 1) break;
        point -= mass;
        entry++;
    }
    indices[k] = (u32)entry;
    probability[k] = (float)((double)mass / (double)total);
}
