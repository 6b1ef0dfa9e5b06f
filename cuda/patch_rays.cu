// Rays of entries of an error map; src/data/patches.rs and src/data/sampler/rays.rs are the definition, and have the
// same bits.
#include "philox.cuh"

// A row of the table of views.
enum { FIRST_PIXEL, FIRST_PATCH, HEIGHT, WIDTH, ROWS, COLUMNS, VIEW };

struct Patch {
    u32 y, x, height, width;
};

// Where part `part` of `parts` nearly equal parts of `size` starts, and the part that holds `at`.
__device__ __forceinline__ u32 part_start(u32 part, u32 parts, u32 size) { return (u32)((u64)part * size / parts); }
__device__ __forceinline__ u32 part_of(u32 at, u32 parts, u32 size) {
    return (u32)((((u64)at + 1) * parts - 1) / size);
}

__device__ __forceinline__ Patch patch_at(const u32 *view, u32 row, u32 column) {
    const u32 y = part_start(row, view[ROWS], view[HEIGHT]), x = part_start(column, view[COLUMNS], view[WIDTH]);
    return {y, x, part_start(row + 1, view[ROWS], view[HEIGHT]) - y,
            part_start(column + 1, view[COLUMNS], view[WIDTH]) - x};
}

__device__ __forceinline__ u32 pixel_in_patch(const u32 *view, const Patch &patch, u32 at) {
    return view[FIRST_PIXEL] + (patch.y + at / patch.width) * view[WIDTH] + patch.x + at % patch.width;
}

// The last row of a table, of which `column` ascends from 0, that is no more than `value`.
__device__ __forceinline__ u32 last_below(const u32 *table, u32 num_rows, u32 stride, u32 column, u32 value) {
    u32 row = 0, beyond = num_rows;
    while (beyond - row > 1) {
        const u32 middle = row + (beyond - row) / 2;
        if (table[(u64)middle * stride + column] <= value)
            row = middle;
        else
            beyond = middle;
    }
    return row;
}

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
    u32 place = (u32)__umul64hi(stratum * k + within, num_rays);
    probability[k] = each;
    if (ray_order) {
        rays[k] = ray_order[place];
        entries[k] = first_rays ? last_below(first_rays, num_entries, 1, 0, place) : place;
        return;
    }
    const u32 *view = views + VIEW * (u64)last_below(views, num_views, VIEW, FIRST_PIXEL, place);
    place -= view[FIRST_PIXEL];
    // A row of patches holds whole rows of pixels, and inside it a patch holds whole columns of that height.
    const u32 row = part_of(place / view[WIDTH], view[ROWS], view[HEIGHT]);
    const Patch first = patch_at(view, row, 0);
    place -= first.y * view[WIDTH];
    const u32 column = part_of(place / first.height, view[COLUMNS], view[WIDTH]);
    const Patch patch = patch_at(view, row, column);
    rays[k] = pixel_in_patch(view, patch, place - patch.x * patch.height);
    entries[k] = view[FIRST_PATCH] + row * view[COLUMNS] + column;
}
