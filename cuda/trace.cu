// Rays through a foam, and the gradients of what they see; src/ops/trace/ is the definition. One thread a ray.
//
// The forward pass has the CPU's bits but for the logarithm in a depth, which is within a few units in the last place
// of the CPU's: the walk itself is the same, ray by ray and cell by cell. Sums over rays are kept in fixed point: the same bits run
// to run, and nearer to the true sum than the CPU's in floats.
#include "fixed_point.cuh"
#include "sh.cuh"

// Lanes in which the CPU looks for the nearest face: of two that are equally near it takes the one in the lower lane.
#define LANES 8
// Contributions are weights in [0, 1]: those of 2^31 rays stay below the sign bit of the sum.
#define CONTRIBUTION_UNIT -32
// Outputs of a ray before its depths: rgb and opacity.
#define PACKED_HEAD 4
#define NOT_REACHED -1.0f

// What may be wrong with the inputs: for each the first place where it is, 0xffffffff where it is nowhere.
enum {
    BAD_OFFSET, BAD_NEIGHBOR, BAD_START, BAD_DENSITY, BAD_POINT, BAD_ORIGIN, BAD_DIRECTION, BAD_LENGTH, BAD_QUANTILE,
    // A cell with a neighbour so far away that the square of the distance is not finite.
    BAD_DISTANCE
};
#define NOWHERE 0xffffffffu
// How far a direction may be from unit length.
#define LENGTH_TOLERANCE 1e-3f

__device__ __forceinline__ bool finite3(const float *__restrict__ rows, u64 i) {
    return isfinite(rows[3 * i]) && isfinite(rows[3 * i + 1]) && isfinite(rows[3 * i + 2]);
}

// Checks everything that the other kernels rely on. As many threads as the longest of the arrays has rows.
extern "C" __global__ void trace_check_f32(
    // inputs
    const float *__restrict__ points,      // [P, 3]
    const float *__restrict__ density,     // [P]
    const u32 *__restrict__ offsets,       // [P + 1]
    const u32 *__restrict__ neighbors,     // [E]
    const float *__restrict__ origins,     // [R, 3]
    const float *__restrict__ directions,  // [R, 3]
    const u32 *__restrict__ start_cells,   // [R]
    const float *__restrict__ quantiles,   // [R, Q]; null: none
    u64 num_cells,                         // P
    u64 num_edges,                         // E
    u64 num_rays,                          // R
    u32 num_quantiles,                     // Q
    // outputs
    u32 *__restrict__ first                // [10], 0xffffffff before; see above
) {
    const u64 i = global_thread();
    if (i <= num_cells) {
        const u32 offset = offsets[i], before = i > 0 ? offsets[i - 1] : 0;
        if (offset < before || (i == 0 && offset != 0) || (i == num_cells && offset != num_edges))
            atomicMin(&first[BAD_OFFSET], (u32)i);
    }
    if (i < num_edges && neighbors[i] >= num_cells) atomicMin(&first[BAD_NEIGHBOR], (u32)i);
    if (i < num_cells) {
        if (!(density[i] >= 0.0f && isfinite(density[i]))) atomicMin(&first[BAD_DENSITY], (u32)i);
        if (!finite3(points, i)) atomicMin(&first[BAD_POINT], (u32)i);
    }
    if (i >= num_rays) return;
    if (start_cells[i] >= num_cells) atomicMin(&first[BAD_START], (u32)i);
    if (!finite3(origins, i)) atomicMin(&first[BAD_ORIGIN], (u32)i);
    const float x = directions[3 * i], y = directions[3 * i + 1], z = directions[3 * i + 2];
    if (!finite3(directions, i))
        atomicMin(&first[BAD_DIRECTION], (u32)i);
    else if (!(fabsf(sqrtf(x * x + y * y + z * z) - 1.0f) <= LENGTH_TOLERANCE))
        atomicMin(&first[BAD_LENGTH], (u32)i);
    for (u32 k = 0; k < num_quantiles; k++) {
        const float q = quantiles[i * num_quantiles + k];
        if (!(q > 0.0f && q < 1.0f) || (k > 0 && quantiles[i * num_quantiles + k - 1] < q))
            atomicMin(&first[BAD_QUANTILE], (u32)i);
    }
}

// Sites and faces as the walk reads them, one thread a cell.
extern "C" __global__ void trace_faces_f32(
    // inputs
    const float *__restrict__ points,  // [P, 3]
    const float *__restrict__ density, // [P]
    const u32 *__restrict__ offsets,   // [P + 1]
    const u32 *__restrict__ neighbors, // [E]
    u64 num_cells,                     // P
    // outputs
    float4 *__restrict__ sites,        // [P]: position, density
    float4 *__restrict__ faces,        // [E]: offset to the neighbour; the neighbour, by its bits
    u32 *__restrict__ first            // [10], as the check left it: nothing is written for a faulty adjacency
) {
    const u64 i = global_thread();
    if (i >= num_cells || first[BAD_OFFSET] != NOWHERE || first[BAD_NEIGHBOR] != NOWHERE) return;
    const float x = points[3 * i], y = points[3 * i + 1], z = points[3 * i + 2];
    sites[i] = make_float4(x, y, z, density[i]);
    for (u32 e = offsets[i]; e < offsets[i + 1]; e++) {
        const u64 j = neighbors[e];
        const float nx = points[3 * j] - x, ny = points[3 * j + 1] - y, nz = points[3 * j + 2] - z;
        if (!isfinite(nx * nx + ny * ny + nz * nz)) atomicMin(&first[BAD_DISTANCE], (u32)i);
        faces[e] = make_float4(nx, ny, nz, __uint_as_float((u32)j));
    }
}

struct Ray {
    float3 origin, direction;
};

__device__ __forceinline__ float3 triple(const float *__restrict__ rows, u64 i) {
    return {rows[3 * i], rows[3 * i + 1], rows[3 * i + 2]};
}

// The face by which a ray leaves a cell: its distance along the ray, and the cell behind it. False in a cell that is
// unbounded in that direction.
__device__ __forceinline__ bool exit_face(
    const float4 *__restrict__ faces, u32 first, u32 end, float4 site, const Ray &ray, float &t_exit, u32 &next
) {
    const float rx = ray.origin.x - site.x, ry = ray.origin.y - site.y, rz = ray.origin.z - site.z;
    const float3 d = ray.direction;
    float nearest = INFINITY;
    u32 nearest_lane = 0;
    for (u32 e = first; e < end; e++) {
        const float4 n = faces[e];
        const float mx = fmaf(0.5f, n.x, -rx), my = fmaf(0.5f, n.y, -ry), mz = fmaf(0.5f, n.z, -rz);
        const float along = fmaf(n.z, d.z, fmaf(n.y, d.y, n.x * d.x));
        const float t = fmaf(n.z, mz, fmaf(n.y, my, n.x * mx)) / along;
        const u32 lane = (e - first) % LANES;
        if (along > 0.0f && (t < nearest || (t == nearest && t < INFINITY && lane < nearest_lane))) {
            nearest = t;
            nearest_lane = lane;
            next = __float_as_uint(n.w);
        }
    }
    t_exit = nearest;
    return nearest < INFINITY;
}

// 1 - exp(-x) of an optical depth; Real::absorbed of the CPU, step by step.
__device__ __forceinline__ float absorbed(float optical_depth) {
    const float x = optical_depth > 80.0f ? -80.0f : -optical_depth;
    const float shifted = fmaf(x, 1.44269504f, 12582912.0f), n = shifted - 12582912.0f;
    const float r = fmaf(n, 2.1219444e-4f, fmaf(n, -0.693359375f, x));
    float series = fmaf(1.9875691e-4f, r, 1.3982e-3f);
    series = fmaf(series, r, 8.333452e-3f);
    series = fmaf(series, r, 4.1665796e-2f);
    series = fmaf(series, r, 1.6666666e-1f);
    series = fmaf(series, r, 0.5f);
    const float tail = fmaf(series * r, r, r);
    const float power = __uint_as_float((__float_as_uint(shifted) << 23) + __float_as_uint(1.0f));
    return (1.0f - power) - power * tail;
}

// max(0, 1/2 + sum_k Y_k sh_k) per channel.
__device__ __forceinline__ float3 color(const float *__restrict__ row, const float *basis, u32 num_coefficients) {
    // The two sums of the CPU.
    float3 even = {0.5f, 0.5f, 0.5f}, odd = {0.0f, 0.0f, 0.0f}, rgb = {0.0f, 0.0f, 0.0f};
#pragma unroll
    for (u32 k = 0; k < MAX_COEFFICIENTS; k++) {
        if (k >= num_coefficients) break;
        if (k + 1 == num_coefficients) {
            rgb.x = fmaf(basis[k], row[3 * k], even.x + odd.x);
            rgb.y = fmaf(basis[k], row[3 * k + 1], even.y + odd.y);
            rgb.z = fmaf(basis[k], row[3 * k + 2], even.z + odd.z);
        } else {
            float3 &sum = k % 2 == 0 ? even : odd;
            sum.x = fmaf(basis[k], row[3 * k], sum.x);
            sum.y = fmaf(basis[k], row[3 * k + 1], sum.y);
            sum.z = fmaf(basis[k], row[3 * k + 2], sum.z);
        }
    }
    // Not fmaxf, which would hide a NaN.
    return {rgb.x < 0.0f ? 0.0f : rgb.x, rgb.y < 0.0f ? 0.0f : rgb.y, rgb.z < 0.0f ? 0.0f : rgb.z};
}

extern "C" __global__ void __launch_bounds__(256, 3) trace_forward_f32(
    // inputs
    const float4 *__restrict__ sites,      // [P]
    const float4 *__restrict__ faces,      // [E]
    const u32 *__restrict__ offsets,       // [P + 1]
    const float *__restrict__ sh,          // [P, K, 3]
    const float *__restrict__ origins,     // [R, 3]
    const float *__restrict__ directions,  // [R, 3]
    const u32 *__restrict__ start_cells,   // [R]
    const float *__restrict__ quantiles,   // [R, Q]; null: none
    u64 num_rays,                          // R
    u32 num_coefficients,                  // K
    u32 num_quantiles,                     // Q
    float transmittance_threshold,
    float density_threshold,
    u32 max_cells,
    // outputs
    float *__restrict__ packed,            // [R, 4 + Q]: rgb, opacity, depths
    float *__restrict__ end_transmittance, // [R]
    float *__restrict__ reached_density,   // [R, Q]: of the cell in which a quantile is reached; 0 where none is
    u32 *__restrict__ cells_entered,       // [R]
    u64 *__restrict__ contribution,        // [P] fixed point, zero before: the sum over rays of the weight of each
                                           // cell; null: not wanted
    u32 *__restrict__ max_weights          // [P], zero before: the largest of them, by its bits; null: not wanted
) {
    const u64 i = global_thread();
    if (i >= num_rays) return;
    const Ray ray = {triple(origins, i), triple(directions, i)};
    float basis[MAX_COEFFICIENTS];
    sh_basis(ray.direction.x, ray.direction.y, ray.direction.z, num_coefficients, basis);
    float *out = packed + i * (PACKED_HEAD + num_quantiles);
    float3 rgb = {0.0f, 0.0f, 0.0f};
    float t = 0.0f, transmittance = 1.0f;
    u32 cell = start_cells[i], entered = 0, reached = 0, next = 0;
    do {
        entered++;
        const float4 site = sites[cell];
        float t_exit;
        if (!exit_face(faces, offsets[cell], offsets[(u64)cell + 1], site, ray, t_exit, next)) break;
        if (t_exit > t) {
            const float density = site.w;
            if (density > density_threshold) {
                const float alpha = absorbed(density * (t_exit - t));
                const float3 c = color(sh + (u64)cell * 3 * num_coefficients, basis, num_coefficients);
                const float weight = transmittance * alpha, before = transmittance;
                rgb.x += weight * c.x;
                rgb.y += weight * c.y;
                rgb.z += weight * c.z;
                transmittance = before * (1.0f - alpha);
                for (; reached < num_quantiles; reached++) {
                    const float q = quantiles[i * num_quantiles + reached];
                    if (!(transmittance <= q)) break;
                    out[PACKED_HEAD + reached] = t + logf(before / q) / density;
                    reached_density[i * num_quantiles + reached] = density;
                }
                if (contribution) add_fixed(&contribution[cell], weight, CONTRIBUTION_UNIT);
                // Most weights are below what others left. Bits of positive floats ascend with them.
                if (max_weights && weight > 0.0f && __ldcg(&max_weights[cell]) < __float_as_uint(weight))
                    atomicMax(&max_weights[cell], __float_as_uint(weight));
            }
            t = t_exit;
        }
        cell = next;
    } while (transmittance > transmittance_threshold && entered < max_cells);
    out[0] = rgb.x;
    out[1] = rgb.y;
    out[2] = rgb.z;
    out[3] = 1.0f - transmittance;
    for (; reached < num_quantiles; reached++) {
        out[PACKED_HEAD + reached] = NOT_REACHED;
        reached_density[i * num_quantiles + reached] = 0.0f;
    }
    end_transmittance[i] = transmittance;
    cells_entered[i] = entered;
}

// Contributions as floats, one thread a cell.
extern "C" __global__ void trace_contribution_f32(
    // inputs
    const u64 *__restrict__ sums,      // [P] fixed point
    u64 num_cells,                     // P
    // outputs
    float *__restrict__ contribution   // [P]
) {
    const u64 i = global_thread();
    if (i < num_cells) contribution[i] = fixed_value(sums[i], CONTRIBUTION_UNIT);
}

// The largest finite magnitude of the output gradients, by its bits: these ascend with it. One thread an element. What is
// not finite is flagged where it goes, and must not make the unit so large that the rest is lost in it.
extern "C" __global__ void trace_largest_f32(
    // inputs
    const float *__restrict__ grad, // [num]
    u64 num,
    // outputs
    u32 *__restrict__ largest       // [1], 0 before
) {
    const u64 i = global_thread();
    u32 bits = i < num ? __float_as_uint(grad[i]) & 0x7fffffffu : 0;
    if (bits >= 0x7f800000u) bits = 0;
    for (int offset = 16; offset > 0; offset /= 2) {
        const u32 other = __shfl_down_sync(WHOLE_WARP, bits, offset);
        if (other > bits) bits = other;
    }
    // Reading before the atomic, past the L1 cache, which would keep an old value, keeps warps from queueing on one
    // address; what is read is only ever a lower bound.
    if (threadIdx.x % 32 == 0 && bits > __ldcg(largest)) atomicMax(largest, bits);
}

// An exponent m with every output gradient below 2^m.
__device__ __forceinline__ int gradient_exponent(u32 largest) { return (int)(largest >> 23) - 126; }

// The unit in which SH gradients are summed: a ray adds at most 2 * 2^m to a coefficient, as no weight exceeds 1 and no
// basis function 2.
__device__ __forceinline__ int sh_unit(u32 largest, u64 num_rays) {
    int bits = 0;
    while (num_rays >> bits) bits++;
    return gradient_exponent(largest) + bits - 61;
}

// The unit in which the gradients of points and density are summed, which no setting bounds: 2^-62 of the largest
// output gradient, up to 2^40 times it.
__device__ __forceinline__ int wide_unit(u32 largest) { return gradient_exponent(largest) - 62; }

// What of a cell's gradient is not finite.
enum { POINT_NOT_FINITE = 1, DENSITY_NOT_FINITE = 2, SH_NOT_FINITE = 4 };

struct Sums {
    u64 *points;  // [P, 3, 2]
    u64 *density; // [P, 2]
    u64 *sh;      // [P, K, 3]
    u32 *flags;   // [P]
    int wide, narrow; // units
};

__device__ __forceinline__ void add_point(const Sums &sums, u64 cell, float x, float y, float z) {
    if (isfinite(x) && isfinite(y) && isfinite(z)) {
        add_wide(&sums.points[6 * cell], x, sums.wide);
        add_wide(&sums.points[6 * cell + 2], y, sums.wide);
        add_wide(&sums.points[6 * cell + 4], z, sums.wide);
    } else {
        atomicOr(&sums.flags[cell], (u32)POINT_NOT_FINITE);
    }
}

// The motion of the face between `cell` and `next`, which the ray meets at distance `t`: dt/da = (x - a) / dp and
// dt/db = (b - x) / dp for the sites a and b and dp = (b - a).d.
__device__ __forceinline__ void add_face(
    const Sums &sums, const float4 *__restrict__ sites, const Ray &ray, u32 cell, u32 next, float t, float grad_t,
    float grazing
) {
    if (grad_t == 0.0f) return;
    const float4 a = sites[cell], b = sites[next];
    const float nx = b.x - a.x, ny = b.y - a.y, nz = b.z - a.z;
    const float along = nx * ray.direction.x + ny * ray.direction.y + nz * ray.direction.z;
    const float limit = grazing * sqrtf(nx * nx + ny * ny + nz * nz);
    const float scale = grad_t / (along > limit ? along : limit);
    const float x = ray.origin.x + t * ray.direction.x, y = ray.origin.y + t * ray.direction.y,
                z = ray.origin.z + t * ray.direction.z;
    add_point(sums, cell, scale * (x - a.x), scale * (y - a.y), scale * (z - a.z));
    add_point(sums, next, scale * (b.x - x), scale * (b.y - y), scale * (b.z - z));
}

// Walks the rays again. The CPU goes back over recorded segments; here, where a ray has no room for them, what lies
// behind a cell is the ray's output less what lies in front of it and in it.
extern "C" __global__ void __launch_bounds__(256, 2) trace_backward_f32(
    // inputs
    const float4 *__restrict__ sites,            // [P]
    const float4 *__restrict__ faces,            // [E]
    const u32 *__restrict__ offsets,             // [P + 1]
    const float *__restrict__ sh,                // [P, K, 3]
    const float *__restrict__ origins,           // [R, 3]
    const float *__restrict__ directions,        // [R, 3]
    const u32 *__restrict__ start_cells,         // [R]
    const float *__restrict__ quantiles,         // [R, Q]; null: none
    u64 num_rays,                                // R
    u32 num_coefficients,                        // K
    u32 num_quantiles,                           // Q
    float transmittance_threshold,
    float density_threshold,
    float grazing_cosine,
    u32 max_cells,
    const float *__restrict__ packed,            // [R, 4 + Q], as the forward pass left it
    const float *__restrict__ end_transmittance, // [R]
    const float *__restrict__ reached_density,   // [R, Q]
    // grad of outputs
    const float *__restrict__ grad_packed,       // [R, 4 + Q]
    const u32 *__restrict__ largest,             // [1]: the largest magnitude in it
    // grad of inputs, zero before; fixed point, see trace_gradients_f32
    u64 *__restrict__ point_sums,                // [P, 3, 2]
    u64 *__restrict__ density_sums,              // [P, 2]
    u64 *__restrict__ sh_sums,                   // [P, K, 3]
    u32 *__restrict__ flags                      // [P]
) {
    const u64 i = global_thread();
    if (i >= num_rays) return;
    const Sums sums = {point_sums, density_sums, sh_sums, flags, wide_unit(*largest), sh_unit(*largest, num_rays)};
    const Ray ray = {triple(origins, i), triple(directions, i)};
    float basis[MAX_COEFFICIENTS];
    sh_basis(ray.direction.x, ray.direction.y, ray.direction.z, num_coefficients, basis);
    const float *out = packed + i * (PACKED_HEAD + num_quantiles);
    const float *grad = grad_packed + i * (PACKED_HEAD + num_quantiles);
    const float3 g = {grad[0], grad[1], grad[2]};
    // What lies behind the present cell: its colour times the transmittance in front of it.
    float3 seen = {0.0f, 0.0f, 0.0f};
    const float grad_end = end_transmittance[i] * grad[3];
    float t = 0.0f, transmittance = 1.0f;
    u32 cell = start_cells[i], entered = 0, reached = 0, next = 0;
    // Sum of grad / density over the quantiles reached further along.
    float pending = 0.0f;
    bool stale = true;
    // The last segment: its exit face moves its end and the beginning of the next one.
    bool any = false;
    u32 last_cell = 0, last_next = 0;
    float last_grad_length = 0.0f;
    do {
        entered++;
        const float4 site = sites[cell];
        float t_exit;
        if (!exit_face(faces, offsets[cell], offsets[(u64)cell + 1], site, ray, t_exit, next)) break;
        if (t_exit > t) {
            const float density = site.w;
            float grad_entry = 0.0f, grad_length = 0.0f;
            if (density > density_threshold) {
                const float length = t_exit - t, alpha = absorbed(density * length);
                const float *row = sh + (u64)cell * 3 * num_coefficients;
                const float3 c = color(row, basis, num_coefficients);
                const float weight = transmittance * alpha, before = transmittance;
                transmittance = before * (1.0f - alpha);
                float grad_density = 0.0f;
                for (; reached < num_quantiles; reached++, stale = true) {
                    const float q = quantiles[i * num_quantiles + reached];
                    if (!(transmittance <= q)) break;
                    const float grad_depth = grad[PACKED_HEAD + reached];
                    grad_entry += grad_depth;
                    grad_density -= grad_depth * logf(before / q) / (density * density);
                }
                if (stale) {
                    pending = 0.0f;
                    for (u32 k = num_quantiles; k > reached; k--) {
                        const float at = reached_density[i * num_quantiles + k - 1];
                        if (at > 0.0f) pending += grad[PACKED_HEAD + k - 1] / at;
                    }
                    stale = false;
                }
                seen.x += weight * c.x;
                seen.y += weight * c.y;
                seen.z += weight * c.z;
                float difference = (transmittance * c.x - (out[0] - seen.x)) * g.x;
                difference += (transmittance * c.y - (out[1] - seen.y)) * g.y;
                difference += (transmittance * c.z - (out[2] - seen.z)) * g.z;
                const float grad_optical = difference + grad_end - pending;
                grad_density += length * grad_optical;
                grad_length = density * grad_optical;
                if (isfinite(grad_density))
                    add_wide(&sums.density[2 * (u64)cell], grad_density, sums.wide);
                else
                    atomicOr(&flags[cell], (u32)DENSITY_NOT_FINITE);
                const float3 grad_rgb = {c.x > 0.0f ? weight * g.x : 0.0f, c.y > 0.0f ? weight * g.y : 0.0f,
                                         c.z > 0.0f ? weight * g.z : 0.0f};
                if (isfinite(grad_rgb.x) && isfinite(grad_rgb.y) && isfinite(grad_rgb.z)) {
                    u64 *sh_row = sums.sh + (u64)cell * 3 * num_coefficients;
#pragma unroll
                    for (u32 k = 0; k < MAX_COEFFICIENTS; k++) {
                        if (k >= num_coefficients) break;
                        add_fixed(&sh_row[3 * k], basis[k] * grad_rgb.x, sums.narrow);
                        add_fixed(&sh_row[3 * k + 1], basis[k] * grad_rgb.y, sums.narrow);
                        add_fixed(&sh_row[3 * k + 2], basis[k] * grad_rgb.z, sums.narrow);
                    }
                } else {
                    atomicOr(&flags[cell], (u32)SH_NOT_FINITE);
                }
            }
            // The face by which the ray came here, at t.
            if (any)
                add_face(sums, sites, ray, last_cell, last_next, t, last_grad_length + (grad_entry - grad_length),
                         grazing_cosine);
            any = true;
            last_cell = cell;
            last_next = next;
            last_grad_length = grad_length;
            t = t_exit;
        }
        cell = next;
    } while (transmittance > transmittance_threshold && entered < max_cells);
    if (any) add_face(sums, sites, ray, last_cell, last_next, t, last_grad_length, grazing_cosine);
}

// The sums of the backward pass as floats, one thread a cell; NaN where a part was not finite.
extern "C" __global__ void trace_gradients_f32(
    // inputs
    const u64 *__restrict__ point_sums,   // [P, 3, 2]
    const u64 *__restrict__ density_sums, // [P, 2]
    const u64 *__restrict__ sh_sums,      // [P, K, 3]
    const u32 *__restrict__ flags,        // [P]
    const u32 *__restrict__ largest,      // [1]
    u64 num_cells,                        // P
    u64 num_rays,                         // R
    u32 num_coefficients,                 // K
    // grad of inputs
    float *__restrict__ grad_points,      // [P, 3]
    float *__restrict__ grad_density,     // [P]
    float *__restrict__ grad_sh           // [P, K, 3]
) {
    const u64 i = global_thread();
    if (i >= num_cells) return;
    const u32 flag = flags[i];
    const int wide = wide_unit(*largest), narrow = sh_unit(*largest, num_rays);
    for (int axis = 0; axis < 3; axis++) {
        const float sum = wide_value(&point_sums[6 * i + 2 * axis], wide);
        grad_points[3 * i + axis] = flag & POINT_NOT_FINITE ? NAN : sum;
    }
    grad_density[i] = flag & DENSITY_NOT_FINITE ? NAN : wide_value(&density_sums[2 * i], wide);
    const u64 width = 3 * num_coefficients;
    for (u64 k = i * width; k < (i + 1) * width; k++)
        grad_sh[k] = flag & SH_NOT_FINITE ? NAN : fixed_value(sh_sums[k], narrow);
}
