// Random numbers by index; src/rng.rs is the definition.
#pragma once
#include "common.cuh"

#define ROUNDS 10

// What the numbers are for: those of Stream.
enum { STREAM_DRAW = 0, STREAM_PIXEL = 1, STREAM_BACKGROUND = 4, STREAM_QUANTILE = 5, STREAM_SHUFFLE = 8, STREAM_MIXTURE = 9 };

struct Block {
    u32 words[4];
};

// Philox 4x32-10.
__device__ __forceinline__ Block philox(u64 seed, u32 index, u32 stream, u64 step) {
    u32 k0 = (u32)seed, k1 = (u32)(seed >> 32);
    u32 c0 = index, c1 = stream, c2 = (u32)step, c3 = (u32)(step >> 32);
    for (int round = 0; round < ROUNDS; round++) {
        const u64 a = (u64)0xD2511F53u * c0, b = (u64)0xCD9E8D57u * c2;
        c0 = (u32)(b >> 32) ^ c1 ^ k0;
        c2 = (u32)(a >> 32) ^ c3 ^ k1;
        c1 = (u32)b;
        c3 = (u32)a;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

__device__ __forceinline__ u64 bits64(const Block &block) { return block.words[0] | (u64)block.words[1] << 32; }

// A number in [0, 1), a multiple of 2^-24.
__device__ __forceinline__ float unit(u32 word) { return (float)(word >> 8) * (1.0f / 16777216.0f); }
