// The cells in which rays start; src/geometry/nearest.rs is the definition, and has the same bits.
#include "common.cuh"

// Sites that are equally near to a query, to the last bit, of which the lowest is taken. Eight are so in the middle of
// a cube; of more than these, the lowest of the first.
#define MOST_EQUAL 64

__device__ __forceinline__ double squared_distance(
    const float *__restrict__ points, u64 i, const float *__restrict__ query
) {
    const double x = (double)points[3 * i] - query[0], y = (double)points[3 * i + 1] - query[1];
    const double z = (double)points[3 * i + 2] - query[2];
    return x * x + y * y + z * z;
}

// The point that `cell` is a copy of, or `cell` itself. A copy is missing from its neighbours' lists.
__device__ u32 original_of(
    const float *__restrict__ points, const u32 *__restrict__ offsets, const u32 *__restrict__ neighbors, u32 cell
) {
    if (offsets[cell] == offsets[(u64)cell + 1]) return cell;
    const u64 around = neighbors[offsets[cell]];
    for (u32 e = offsets[around]; e < offsets[around + 1]; e++)
        if (neighbors[e] == cell) return cell;
    const float *own = points + 3 * (u64)cell;
    for (u32 e = offsets[around]; e < offsets[around + 1]; e++) {
        const float *other = points + 3 * (u64)neighbors[e];
        if (other[0] == own[0] && other[1] == own[1] && other[2] == own[2]) return neighbors[e];
    }
    return cell;
}

// The lowest index among the cells that are as near as `cell` is.
__device__ __noinline__ u32 lowest_equal(
    const float *__restrict__ points, const u32 *__restrict__ offsets, const u32 *__restrict__ neighbors,
    const float *__restrict__ query, u32 cell
) {
    const double distance = squared_distance(points, cell, query);
    u32 equals[MOST_EQUAL] = {cell}, num = 1, lowest = cell;
    for (u32 next = 0; next < num; next++) {
        const u64 at = equals[next];
        for (u32 e = offsets[at]; e < offsets[at + 1]; e++) {
            const u32 other = neighbors[e];
            bool is_new = squared_distance(points, other, query) == distance;
            for (u32 i = 0; is_new && i < num; i++) is_new = equals[i] != other;
            if (!is_new) continue;
            if (other < lowest) lowest = other;
            if (num < MOST_EQUAL) equals[num++] = other;
        }
    }
    return lowest;
}

// The cell that holds each query, by descent from its hint; one thread a query.
extern "C" __global__ void start_cells_f32(
    // inputs
    const float *__restrict__ points,  // [P, 3]
    const u32 *__restrict__ offsets,   // [P + 1]
    const u32 *__restrict__ neighbors, // [E] below P
    const float *__restrict__ queries, // [V, 3]
    const u32 *__restrict__ hints,     // [V]; one that is no cell counts as 0
    u64 num_cells,                     // P
    u64 num_queries,                   // V
    // outputs
    u32 *__restrict__ cells            // [V]
) {
    const u64 i = global_thread();
    if (i >= num_queries) return;
    const float query[3] = {queries[3 * i], queries[3 * i + 1], queries[3 * i + 2]};
    u32 cell = original_of(points, offsets, neighbors, hints[i] < num_cells ? hints[i] : 0);
    double distance = squared_distance(points, cell, query);
    for (;;) {
        u32 nearest = cell;
        double shortest = distance;
        bool ties = false;
        for (u32 e = offsets[cell]; e < offsets[(u64)cell + 1]; e++) {
            const double candidate = squared_distance(points, neighbors[e], query);
            if (candidate < shortest) {
                nearest = neighbors[e];
                shortest = candidate;
                ties = false;
            } else if (candidate == shortest) {
                ties = true;
            }
        }
        if (nearest == cell) {
            cells[i] = ties ? lowest_equal(points, offsets, neighbors, query, cell) : cell;
            return;
        }
        cell = nearest;
        distance = shortest;
    }
}

// The start cell of each ray, which is that of its view; one thread a ray.
extern "C" __global__ void start_cells_of_rays(
    // inputs
    const u32 *__restrict__ views, // [R] below V
    const u32 *__restrict__ cells, // [V]
    u64 num_rays,                  // R
    // outputs
    u32 *__restrict__ start_cells  // [R]
) {
    const u64 i = global_thread();
    if (i < num_rays) start_cells[i] = cells[views[i]];
}
