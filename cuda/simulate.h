// What stands in for CUDA where the kernels are compiled as C++ and run on the CPU (feature `simulate`; included ahead
// of each .cu file). Only what the kernels use: threads, barriers, warps, atomics, intrinsics.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __restrict__ __restrict
// Of the block that is running: they run one after another. The section can be filled with nonsense between them.
#define __shared__ static __attribute__((section("simulated_shared")))

struct SimulatedIndex { unsigned x, y, z; };
struct alignas(16) float4 { float x, y, z, w; };
struct float3 { float x, y, z; };
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

extern "C" {
extern SimulatedIndex simulated_thread, simulated_block, simulated_block_size, simulated_grid_size;

// Lets the other threads of the block run until all of them are at this line.
void simulated_barrier(int line);
// The same among the 32 threads of a warp: gives a word away, and takes those of all lanes.
const uint64_t *simulated_exchange(uint64_t word, int line);
// May let other threads run first, where the order of threads is shuffled.
void simulated_pause();
// A mistake of the kernel: tells it and ends the program.
[[noreturn]] void simulated_failure(const char *what, int line);
}

#define threadIdx simulated_thread
#define blockIdx simulated_block
#define blockDim simulated_block_size
#define gridDim simulated_grid_size

#define __syncthreads() simulated_barrier(__LINE__)

static inline unsigned simulated_lane() {
    const unsigned rank = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    return rank % 32;
}

// The words of lanes that do not exist or have ended are nonsense, as on a GPU.
template <class T> static inline T simulated_shuffle(unsigned mask, T value, unsigned lane, int line) {
    static_assert(sizeof(T) <= 8, "a word of a warp holds 64 bits");
    if (mask != 0xffffffffu) simulated_failure("a mask of part of a warp", line);
    uint64_t word = 0;
    memcpy(&word, &value, sizeof value);
    const uint64_t *words = simulated_exchange(word, line);
    memcpy(&value, &words[lane < 32 ? lane : simulated_lane()], sizeof value);
    return value;
}

#define __shfl_sync(mask, value, lane) simulated_shuffle(mask, value, (lane) % 32, __LINE__)
#define __shfl_down_sync(mask, value, offset) simulated_shuffle(mask, value, simulated_lane() + (offset), __LINE__)
// Below lane 0 the difference wraps round to a lane that does not exist, which gives the thread its own value.
#define __shfl_up_sync(mask, value, offset) simulated_shuffle(mask, value, simulated_lane() - (offset), __LINE__)
#define __shfl_xor_sync(mask, value, bits) simulated_shuffle(mask, value, simulated_lane() ^ (bits), __LINE__)

template <class T> static inline T atomicAdd(T *at, T value) {
    simulated_pause();
    const T old = *at;
    *at = old + value;
    return old;
}
template <class T> static inline T atomicMin(T *at, T value) {
    simulated_pause();
    const T old = *at;
    if (value < old) *at = value;
    return old;
}
template <class T> static inline T atomicMax(T *at, T value) {
    simulated_pause();
    const T old = *at;
    if (value > old) *at = value;
    return old;
}
template <class T> static inline T atomicOr(T *at, T value) {
    simulated_pause();
    const T old = *at;
    *at = old | value;
    return old;
}

// A load that sees what atomics have written.
template <class T> static inline T __ldcg(const T *at) {
    simulated_pause();
    return *at;
}

static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline uint64_t __umul64hi(uint64_t a, uint64_t b) { return (uint64_t)((unsigned __int128)a * b >> 64); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
static inline unsigned __float_as_uint(float value) { unsigned bits; memcpy(&bits, &value, 4); return bits; }
static inline float __uint_as_float(unsigned bits) { float value; memcpy(&value, &bits, 4); return value; }
static inline long long __double_as_longlong(double value) { long long bits; memcpy(&bits, &value, 8); return bits; }
static inline double __longlong_as_double(long long bits) { double value; memcpy(&value, &bits, 8); return value; }
static inline int __clz(int value) { return value ? __builtin_clz((unsigned)value) : 32; }
using std::isfinite;
using std::signbit;
