// Batches of which a part is drawn by error and the rest evenly; src/data/sampler/rays.rs is the definition, and has the same
// bits.
#include "map_words.cuh"
#include "patches.cuh"

// How many of an ascending table are below `value`; with `or_equal` no more than it.
__device__ __forceinline__ u64 count_before(const u32 *__restrict__ table, u64 len, u32 value, bool or_equal) {
    u64 low = 0, beyond = len;
    while (low < beyond) {
        const u64 middle = low + (beyond - low) / 2;
        if (table[middle] < value || (or_equal && table[middle] == value))
            low = middle + 1;
        else
            beyond = middle;
    }
    return low;
}

// Merges two lists of rays by their entries, those by error first where these are equal, and gives each ray the
// probability that both parts together have for it; one thread a ray.
extern "C" __global__ void mixed_draw_f32(
    // inputs
    const u32 *__restrict__ error_entries, // [A] ascending
    const u32 *__restrict__ error_rays,    // [A]
    const u32 *__restrict__ even_entries,  // [B] ascending
    const u32 *__restrict__ even_rays,     // [B]
    u64 num_error,                         // A
    u64 num_even,                          // B
    const u32 *__restrict__ views,         // [V, 6]
    const u32 *__restrict__ ray_order,     // [N]: the rays, entry by entry; null: every pixel is one
    const u32 *__restrict__ first_rays,    // [E + 1]: where in it an entry begins; null: each is one ray
    u32 num_views,                         // V
    const float *__restrict__ values,      // [E] of the map
    const u64 *__restrict__ rule,          // [5] of the map
    float scale,                           // mass of a unit of error
    const u32 *__restrict__ pool,          // [K] ascending: drawn alike from these entries; null: by their masses
    u64 pool_size,                         // K
    double error_share,                    // the share that is drawn by error
    double even_probability,               // what the evenly drawn part gives every ray
    // outputs
    u32 *__restrict__ rays,                // [A + B]
    u32 *__restrict__ entries,             // [A + B] ascending
    float *__restrict__ probability        // [A + B]
) {
    const u64 k = global_thread();
    if (k >= num_error + num_even) return;
    u32 entry, ray;
    u64 at;
    if (k < num_error) {
        entry = error_entries[k];
        ray = error_rays[k];
        at = k + count_before(even_entries, num_even, entry, false);
    } else {
        entry = even_entries[k - num_error];
        ray = even_rays[k - num_error];
        at = k - num_error + count_before(error_entries, num_error, entry, true);
    }
    double of_entry;
    if (pool) {
        const u64 place = count_before(pool, pool_size, entry, false);
        of_entry = place < pool_size && pool[place] == entry ? 1.0 / (double)pool_size : 0.0;
    } else {
        const u32 word = entry_word(values[entry], scale);
        const u64 mass = mass_of(word) + (word >> GROUP_COUNT_SHIFT) * rule[RULE_PRIOR] + rule[RULE_UNIFORM];
        of_entry = (double)mass / (double)rule[RULE_TOTAL];
    }
    const double by_error = of_entry / (double)num_rays_of(views, num_views, ray_order, first_rays, entry);
    rays[at] = ray;
    entries[at] = entry;
    probability[at] = (float)(error_share * by_error + even_probability);
}

// Errors as a map holds them whose entries have few rays and many: at most the cap, times the share of a whole patch that an
// entry has in rays. One thread an error.
extern "C" __global__ void share_errors_f32(
    // inputs
    const float *__restrict__ errors,   // [B]
    const u32 *__restrict__ entries,    // [B]
    const u32 *__restrict__ first_rays, // [E + 1]: where the rays of an entry begin
    u64 num_errors,                     // B
    float cap,
    float whole,                        // pixels of a whole patch
    // outputs
    float *__restrict__ shared          // [B]
) {
    const u64 k = global_thread();
    if (k >= num_errors) return;
    const float error = errors[k];
    const u32 entry = entries[k];
    const float share = (float)(first_rays[(u64)entry + 1] - first_rays[entry]) / whole;
    shared[k] = isfinite(error) ? mul(error < cap ? error : cap, share) : error;
}
