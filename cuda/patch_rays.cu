// Rays of entries of an error map; src/data/patches.rs and src/data/sampler/rays.rs are the definition, and have the
// same bits.
#include "patches.cuh"
#include "philox.cuh"

// A ray of each entry that was drawn, and its probability; one thread a draw.
extern "C" __global__ void patch_rays_f32(
    // inputs
    const u32 *__restrict__ entries,             // [B] below the number of entries
    const float *__restrict__ entry_probability, // [B]
    const u32 *__restrict__ views,               // [V, 6]
    const u32 *__restrict__ ray_order,           // [N]: the rays, entry by entry; null: every pixel is one
    const u32 *__restrict__ first_rays,          // [E + 1]: where in it an entry begins; null: each is one ray
    u64 num_draws,                               // B
    u32 num_views,                               // V
    u64 seed,
    u64 step,
    // outputs
    u32 *__restrict__ rays,                      // [B]
    float *__restrict__ probability              // [B]
) {
    const u64 k = global_thread();
    if (k >= num_draws) return;
    const u32 entry = entries[k];
    u32 count, first = 0;
    Patch patch = {};
    const u32 *view = nullptr;
    if (!ray_order) {
        view = views + VIEW * (u64)last_below(views, num_views, VIEW, FIRST_PATCH, entry);
        const u32 within = entry - view[FIRST_PATCH];
        patch = patch_at(view, within / view[COLUMNS], within % view[COLUMNS]);
        count = patch.height * patch.width;
    } else if (first_rays) {
        first = first_rays[entry];
        count = first_rays[(u64)entry + 1] - first;
    } else {
        first = entry;
        count = 1;
    }
    const u32 at = (u32)__umul64hi(bits64(philox(seed, (u32)k, STREAM_PIXEL, step)), count);
    rays[k] = ray_order ? ray_order[(u64)first + at] : pixel_in_patch(view, patch, at);
    probability[k] = (float)((double)entry_probability[k] / (double)count);
}

// Rays with equal probability, one in each of B equal strata of all rays, entry by entry; one thread a draw.
extern "C" __global__ void even_rays_f32(
    // inputs
    const u32 *__restrict__ views,      // [V, 6]
    const u32 *__restrict__ ray_order,  // [N]: the rays, entry by entry; null: every pixel is one
    const u32 *__restrict__ first_rays, // [E + 1]: where in it an entry begins; null: each is one ray
    u64 num_draws,                      // B
    u32 num_views,                      // V
    u32 num_entries,                    // E
    u64 num_rays,                       // N
    u64 stratum,                        // length of a stratum when the whole is 2^64
    float each,                         // the probability of a ray
    u64 seed,
    u64 step,
    // outputs
    u32 *__restrict__ rays,             // [B]
    u32 *__restrict__ entries,          // [B] ascending
    float *__restrict__ probability     // [B]
) {
    const u64 k = global_thread();
    if (k >= num_draws) return;
    const u64 within = __umul64hi(bits64(philox(seed, (u32)k, STREAM_DRAW, step)), stratum);
    const u32 place = (u32)__umul64hi(stratum * k + within, num_rays);
    const PlacedRay found = ray_at(views, ray_order, first_rays, num_views, num_entries, place);
    rays[k] = found.ray;
    entries[k] = found.entry;
    probability[k] = each;
}

// The rays at places where all rays are counted entry by entry; one thread a place.
extern "C" __global__ void place_rays_f32(
    // inputs
    const u32 *__restrict__ places,     // [B] ascending, below the number of rays
    const u32 *__restrict__ views,      // [V, 6]
    const u32 *__restrict__ ray_order,  // [N]: the rays, entry by entry; null: every pixel is one
    const u32 *__restrict__ first_rays, // [E + 1]: where in it an entry begins; null: each is one ray
    u64 num_places,                     // B
    u32 num_views,                      // V
    u32 num_entries,                    // E
    float each,                         // the probability of a ray
    // outputs
    u32 *__restrict__ rays,             // [B]
    u32 *__restrict__ entries,          // [B] ascending
    float *__restrict__ probability     // [B]
) {
    const u64 k = global_thread();
    if (k >= num_places) return;
    const PlacedRay found = ray_at(views, ray_order, first_rays, num_views, num_entries, places[k]);
    rays[k] = found.ray;
    entries[k] = found.entry;
    probability[k] = each;
}
