// One step of Adam in two passes; src/ops/adam/cpu.rs is the definition, and gives the same bits.
#include "common.cuh"

// The smallest normal float: smaller moments are flushed to zero, as on the CPU.
#define TINY 1.17549435e-38f

// m <- b1 m + (1 - b1) g, v <- b2 v + (1 - b2) g^2; one thread an element.
extern "C" __global__ void adam_moments_f32(
    // inputs
    const float *__restrict__ grad, // [E]
    u64 num_elements,               // E
    float beta1,
    float beta2,
    float gain1,                    // 1 - beta1
    float gain2,                    // 1 - beta2
    // outputs
    float *__restrict__ moments     // [2, E] in place: first, then second
) {
    const u64 i = global_thread();
    if (i >= num_elements) return;
    const float g = grad[i];
    float *first = moments, *second = moments + num_elements;
    const float m = add(mul(beta1, first[i]), mul(gain1, g));
    const float v = add(mul(beta2, second[i]), mul(mul(gain2, g), g));
    first[i] = fabsf(m) < TINY ? 0.0f : m;
    second[i] = v < TINY ? 0.0f : v;
}

// p <- p - rate m / (sqrt(v) second_scale + eps); one thread an element.
extern "C" __global__ void adam_apply_f32(
    // inputs
    const float *__restrict__ moments, // [2, E]
    const float *__restrict__ rates,   // [num_rates], repeated along the parameter; bias correction included
    u64 num_elements,                  // E
    u32 num_rates,
    float second_scale,                // bias correction of sqrt(v)
    float eps,
    // outputs
    float *__restrict__ param          // [E] in place
) {
    const u64 i = global_thread();
    if (i >= num_elements) return;
    const float rate = rates[i % num_rates];
    const float spread = add(mul(__fsqrt_rn(moments[num_elements + i]), second_scale), eps);
    param[i] = __fsub_rn(param[i], __fdiv_rn(mul(rate, moments[i]), spread));
}
