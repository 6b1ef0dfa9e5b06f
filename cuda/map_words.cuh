// What the entries of an error map weigh; src/ops/error_map/sums.rs is the definition.
#pragma once
#include "common.cuh"

// An entry at the cap has this mass.
#define FULL_MASS 4194304.0f
// The words of groups and blocks: masses of visited entries below this bit, the number of unvisited ones from it on.
#define GROUP_COUNT_SHIFT 27
#define BLOCK_COUNT_SHIFT 32
// Entries of a group, groups of a block.
#define GROUP 16
#define GROUPS 16
#define BLOCK (GROUP * GROUPS)

// An entry as a word that adds up.
__device__ __forceinline__ u32 entry_word(float value, float scale) {
    if (signbit(value)) return 1u << GROUP_COUNT_SHIFT;
    const float mass = mul(value, scale);
    return (u32)(mass < FULL_MASS ? mass : FULL_MASS);
}

__device__ __forceinline__ u64 mass_of(u32 word) { return word & ((1u << GROUP_COUNT_SHIFT) - 1); }

// What a map sums to, as error_map_rule leaves it: mass of an unvisited entry, mass that every entry gets on top, total;
// the mass of the visited entries, and the number of the others.
enum { RULE_PRIOR, RULE_UNIFORM, RULE_TOTAL, RULE_VISITED_MASS, RULE_UNVISITED };

// The mean of the visited entries of a map, as a draw sees them; 0 where there are none.
__device__ __forceinline__ double mean_of(const u64 *__restrict__ rule, u64 num_entries, double cap) {
    const u64 visited = num_entries - rule[RULE_UNVISITED];
    return (double)rule[RULE_VISITED_MASS] / (double)(visited > 0 ? visited : 1) * cap / (double)FULL_MASS;
}
