// What tells an adaptive sampler which uniform share would do best; src/data/sampler/adaptive.rs and rays.rs are the
// definition, and have the same bits.
#include "map_words.cuh"
#include "patches.cuh"

#define NUM_RUNGS 3
// Rays of a task, and lanes that add them up: see adaptive.rs.
#define TASK 1024
#define ADD_LANES 256
// Sums: of weights, of weights times squared errors, and of each rung the same.
#define NUM_SUMS (2 + 2 * NUM_RUNGS)
#define LEAST_DENSITY 1e-6

// N times the probability that the map alone gives the rays of entries; 1 while it says nothing. One thread an entry.
extern "C" __global__ void entry_densities_f32(
    // inputs
    const u32 *__restrict__ entries,    // [B]
    const float *__restrict__ values,   // [E] of the map
    const u64 *__restrict__ rule,       // [5] of the map
    const u32 *__restrict__ views,      // [V, 6]
    const u32 *__restrict__ ray_order,  // [N]: the rays, entry by entry; null: every pixel is one
    const u32 *__restrict__ first_rays, // [E + 1]: where in it an entry begins; null: each is one ray
    u64 num_draws,                      // B
    u32 num_views,                      // V
    u64 num_entries,                    // E
    double num_rays,                    // N
    double cap,
    // outputs
    float *__restrict__ densities       // [B]
) {
    const u64 k = global_thread();
    if (k >= num_draws) return;
    const u32 entry = entries[k];
    const double mean = mean_of(rule, num_entries, cap);
    if (mean == 0.0) {
        densities[k] = 1.0f;
        return;
    }
    const double scale = num_rays / (mean * (double)num_entries);
    const double value = signbit(values[entry]) ? mean : (double)values[entry];
    densities[k] = (float)(scale * value / (double)num_rays_of(views, num_views, ray_order, first_rays, entry));
}

// The sums over each task of rays: blocks of ADD_LANES.
extern "C" __global__ void adaptive_sums_f64(
    // inputs
    const float *__restrict__ errors,      // [B], after the power
    const float *__restrict__ probability, // [B]
    const float *__restrict__ densities,   // [B]
    u64 num_draws,                         // B
    double num_rays,                       // N
    double share_0,                        // the uniform share of each rung
    double share_1,
    double share_2,
    // outputs
    double *__restrict__ partial           // [tasks, 8]
) {
    __shared__ double lanes[NUM_SUMS][ADD_LANES];
    const double shares[NUM_RUNGS] = {share_0, share_1, share_2};
    double own[NUM_SUMS] = {};
    for (u64 in_task = threadIdx.x; in_task < TASK; in_task += ADD_LANES) {
        const u64 k = (u64)blockIdx.x * TASK + in_task;
        if (k >= num_draws || !isfinite(errors[k])) continue;
        const double error = errors[k] > 0.0f ? (double)errors[k] : 0.0, density = (double)densities[k];
        const double weight = 1.0 / (num_rays * (double)probability[k]);
        own[0] += weight;
        own[1] += weight * error * error;
        for (int rung = 0; rung < NUM_RUNGS; rung++) {
            const double of_rung = (1.0 - shares[rung]) * density + shares[rung];
            const double other = weight / (of_rung > LEAST_DENSITY ? of_rung : LEAST_DENSITY);
            own[2 + rung] += other;
            own[2 + NUM_RUNGS + rung] += other * error * error;
        }
    }
    for (int sum = 0; sum < NUM_SUMS; sum++) lanes[sum][threadIdx.x] = own[sum];
    for (u32 half = ADD_LANES / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half)
            for (int sum = 0; sum < NUM_SUMS; sum++) lanes[sum][threadIdx.x] += lanes[sum][threadIdx.x + half];
    }
    if (threadIdx.x == 0)
        for (int sum = 0; sum < NUM_SUMS; sum++) partial[NUM_SUMS * (u64)blockIdx.x + sum] = lanes[sum][0];
}

// The sums over all tasks, in their order; one thread a sum.
extern "C" __global__ void adaptive_total_f64(
    // inputs
    const double *__restrict__ partial, // [tasks, 8]
    u64 num_tasks,
    // outputs
    double *__restrict__ total          // [8]
) {
    const u64 sum = global_thread();
    if (sum >= NUM_SUMS) return;
    double all = 0.0;
    for (u64 task = 0; task < num_tasks; task++) all += partial[NUM_SUMS * task + sum];
    total[sum] = all;
}
