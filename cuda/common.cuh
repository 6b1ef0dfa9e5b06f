// What the kernels share. Only device code lies in these files: Rust launches it (src/ops/*/cuda.rs).
#pragma once

typedef unsigned int u32;
typedef unsigned long long u64;

// Element counts are 64 bits wide: a map or table may hold 2^32 of them and more.
__device__ __forceinline__ u64 global_thread() { return (u64)blockIdx.x * blockDim.x + threadIdx.x; }

// Each operation rounds on its own, as the CPU body's do: a fused multiply-add would give other bits.
__device__ __forceinline__ float mul(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ float add(float a, float b) { return __fadd_rn(a, b); }

// The sum over a warp, in lane 0. Every lane must call it.
__device__ __forceinline__ u32 warp_sum(u32 value) {
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_down_sync(0xffffffffu, value, offset);
    return value;
}
