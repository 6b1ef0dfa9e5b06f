// Patches of pixels, on which the entries of an error map stand; src/data/patches.rs is the definition.
#pragma once
#include "common.cuh"

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

// The number of rays of an entry.
__device__ __forceinline__ u32 num_rays_of(
    const u32 *__restrict__ views, u32 num_views, const u32 *__restrict__ ray_order,
    const u32 *__restrict__ first_rays, u32 entry
) {
    if (first_rays) return first_rays[(u64)entry + 1] - first_rays[entry];
    if (ray_order) return 1;
    const u32 *view = views + VIEW * (u64)last_below(views, num_views, VIEW, FIRST_PATCH, entry);
    const u32 within = entry - view[FIRST_PATCH];
    const Patch patch = patch_at(view, within / view[COLUMNS], within % view[COLUMNS]);
    return patch.height * patch.width;
}

struct PlacedRay {
    u32 ray, entry;
};

// The ray at a place, and its entry, when all rays are counted entry by entry.
__device__ __forceinline__ PlacedRay ray_at(
    const u32 *__restrict__ views, const u32 *__restrict__ ray_order, const u32 *__restrict__ first_rays,
    u32 num_views, u32 num_entries, u32 place
) {
    if (ray_order) return {ray_order[place], first_rays ? last_below(first_rays, num_entries, 1, 0, place) : place};
    const u32 *view = views + VIEW * (u64)last_below(views, num_views, VIEW, FIRST_PIXEL, place);
    place -= view[FIRST_PIXEL];
    // A row of patches holds whole rows of pixels, and inside it a patch holds whole columns of that height.
    const u32 row = part_of(place / view[WIDTH], view[ROWS], view[HEIGHT]);
    const Patch first = patch_at(view, row, 0);
    place -= first.y * view[WIDTH];
    const u32 column = part_of(place / first.height, view[COLUMNS], view[WIDTH]);
    const Patch patch = patch_at(view, row, column);
    return {pixel_in_patch(view, patch, place - patch.x * patch.height), view[FIRST_PATCH] + row * view[COLUMNS] + column};
}
