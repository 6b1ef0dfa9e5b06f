// Sums of floats that are the same in any order: as integers, in units of a power of two.
#pragma once
#include "common.cuh"

// A finite float as (-1)^negative * mantissa * 2^exponent.
struct Parts {
    u32 mantissa;
    int exponent;
    bool negative;
};

__device__ __forceinline__ Parts parts_of(float value) {
    const u32 bits = __float_as_uint(value), exponent = bits >> 23 & 0xff, fraction = bits & 0x7fffff;
    // Subnormal numbers have the exponent of the smallest normal ones, and no leading one.
    return {exponent ? fraction | 0x800000 : fraction, (int)(exponent ? exponent : 1) - 150, bits >> 31 != 0};
}

// mantissa * 2^shift for a shift below zero, rounded.
__device__ __forceinline__ u64 shifted_down(u32 mantissa, int shift) {
    return shift < -31 ? 0 : ((u64)mantissa + (1u << (-shift - 1))) >> -shift;
}

// The float nearest to sum * 2^unit, for a sum below 2^63.
__device__ __forceinline__ float scaled(bool negative, double sum, int unit) {
    return (float)ldexp(negative ? -sum : sum, unit);
}

// Adds a finite value to a sum of 64 bits in units of 2^unit. The caller chooses a unit so large that no sum reaches
// 2^63.
__device__ __forceinline__ void add_fixed(u64 *sum, float value, int unit) {
    const Parts parts = parts_of(value);
    const int shift = parts.exponent - unit;
    // A value that the unit is too small for is cut; it cannot be where the caller keeps its promise.
    const u64 units = shift >= 0 ? (u64)parts.mantissa << (shift < 39 ? shift : 39) : shifted_down(parts.mantissa, shift);
    if (units) atomicAdd(sum, parts.negative ? 0 - units : units);
}

__device__ __forceinline__ float fixed_value(u64 sum, int unit) {
    const bool negative = sum >> 63;
    return scaled(negative, (double)(negative ? 0 - sum : sum), unit);
}

// The largest number of units that is added to a wide sum at a time, as a shift of the mantissa: 2^(24 + 79), so that
// 2^24 of them do not overflow.
#define MOST_WIDE_SHIFT 79

// Adds a finite value to a sum of 128 bits (the lower half first), in units of 2^unit. What exceeds the range enters as
// its end.
__device__ __forceinline__ void add_wide(u64 *sum, float value, int unit) {
    const Parts parts = parts_of(value);
    int shift = parts.exponent - unit;
    if (shift > MOST_WIDE_SHIFT) shift = MOST_WIDE_SHIFT;
    u64 low, high;
    if (shift < 0) {
        low = shifted_down(parts.mantissa, shift);
        high = 0;
    } else if (shift < 64) {
        low = (u64)parts.mantissa << shift;
        high = shift > 40 ? (u64)parts.mantissa >> (64 - shift) : 0;
    } else {
        low = 0;
        high = (u64)parts.mantissa << (shift - 64);
    }
    if (parts.negative) {
        low = 0 - low;
        high = ~high + (low == 0);
    }
    if (low) {
        const u64 before = atomicAdd(&sum[0], low);
        high += before + low < low;
    }
    if (high) atomicAdd(&sum[1], high);
}

__device__ __forceinline__ float wide_value(const u64 *sum, int unit) {
    u64 low = sum[0], high = sum[1];
    const bool negative = high >> 63;
    if (negative) {
        low = 0 - low;
        high = ~high + (low == 0);
    }
    return scaled(negative, (double)high * 18446744073709551616.0 + (double)low, unit);
}
