// What the kernels share. Only device code lies in these files: Rust launches it (src/ops/*/cuda.rs), and tests run it
// on the CPU (simulate.h).
//
// They are compiled with --fmad=false: each operation rounds on its own, as the CPU bodies' do, and + - * / and sqrt
// have the CPU's bits.
#pragma once

typedef unsigned int u32;
typedef unsigned long long u64;

#define WHOLE_WARP 0xffffffffu

// Element counts are 64 bits wide: a map or table may hold 2^32 of them and more.
__device__ __forceinline__ u64 global_thread() { return (u64)blockIdx.x * blockDim.x + threadIdx.x; }

__device__ __forceinline__ float mul(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ float add(float a, float b) { return __fadd_rn(a, b); }

// The sum over a warp, in lane 0. Every lane must call it.
__device__ __forceinline__ u32 warp_sum(u32 value) {
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_down_sync(WHOLE_WARP, value, offset);
    return value;
}

// The sum over the lanes of a warp up to and including the own. Every lane must call it.
__device__ __forceinline__ u64 warp_scan(u64 value) {
    for (u32 offset = 1; offset < 32; offset *= 2) {
        const u64 before = __shfl_up_sync(WHOLE_WARP, value, offset);
        if (threadIdx.x % 32 >= offset) value += before;
    }
    return value;
}

// Threads of a block that scans.
#define SCAN_THREADS 1024

// The sum over the threads of a block of SCAN_THREADS up to and including the own. Every thread must call it.
__device__ __forceinline__ u64 block_scan(u64 value) {
    __shared__ u64 warp_ends[SCAN_THREADS / 32];
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    value = warp_scan(value);
    // Of an earlier scan every thread has read by now.
    __syncthreads();
    if (lane == 31) warp_ends[warp] = value;
    __syncthreads();
    if (warp == 0) warp_ends[lane] = warp_scan(warp_ends[lane]);
    __syncthreads();
    return warp == 0 ? value : value + warp_ends[warp - 1];
}

struct Pair {
    u64 first, second;
};

// Pairs of a tile each become the sums over the tiles before, and the sums over all are returned. For one block of
// SCAN_THREADS, every thread of which must call it.
__device__ __forceinline__ Pair scan_tiles(u64 *__restrict__ tiles, u64 num_tiles) {
    u64 first = 0, second = 0;
    __shared__ u64 sums[2];
    for (u64 start = 0; start < num_tiles; start += SCAN_THREADS) {
        const u64 tile = start + threadIdx.x;
        const u64 own_first = tile < num_tiles ? tiles[2 * tile] : 0;
        const u64 own_second = tile < num_tiles ? tiles[2 * tile + 1] : 0;
        const u64 first_end = first + block_scan(own_first), second_end = second + block_scan(own_second);
        if (tile < num_tiles) {
            tiles[2 * tile] = first_end - own_first;
            tiles[2 * tile + 1] = second_end - own_second;
        }
        if (threadIdx.x == SCAN_THREADS - 1) {
            sums[0] = first_end;
            sums[1] = second_end;
        }
        __syncthreads();
        first = sums[0];
        second = sums[1];
        __syncthreads();
    }
    return {first, second};
}
