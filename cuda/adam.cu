// One step of Adam; src/ops/adam/cpu.rs is the definition, and gives the same bits.
#include "common.cuh"

// The smallest normal float: smaller moments are flushed to zero, as on the CPU.
#define TINY 1.17549435e-38f

// m <- b1 m + (1 - b1) g, v <- b2 v + (1 - b2) g^2, p <- p - rate m / (sqrt(v) second_scale + eps); one thread an
// element.
extern "C" __global__ void adam_step_f32(
    // inputs
    const float *__restrict__ grad,  // [E]
    const float *__restrict__ rates, // [num_rates], repeated along the parameter; bias correction included
    u64 num_elements,                // E
    u32 num_rates,
    float beta1,
    float beta2,
    float gain1,                     // 1 - beta1
    float gain2,                     // 1 - beta2
    float second_scale,              // bias correction of sqrt(v)
    float eps,
    // outputs
    float *__restrict__ moments,     // [2, E] in place: first, then second
    float *__restrict__ param        // [E] in place
) {
    const u64 i = global_thread();
    if (i >= num_elements) return;
    const float g = grad[i];
    float *first = moments, *second = moments + num_elements;
    const float next_m = add(mul(beta1, first[i]), mul(gain1, g));
    const float next_v = add(mul(beta2, second[i]), mul(mul(gain2, g), g));
    const float m = fabsf(next_m) < TINY ? 0.0f : next_m;
    const float v = next_v < TINY ? 0.0f : next_v;
    first[i] = m;
    second[i] = v;
    const float spread = add(mul(__fsqrt_rn(v), second_scale), eps);
    param[i] = __fsub_rn(param[i], __fdiv_rn(mul(rates[i % num_rates], m), spread));
}
