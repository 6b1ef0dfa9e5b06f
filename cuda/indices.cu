// Checks of a batch of indices, in one pass over it.
#include "common.cuh"

// One thread an index. The results are minima, hence the same whatever the order of the threads.
extern "C" __global__ void check_indices_u32(
    // inputs
    const u32 *__restrict__ indices,  // [B]
    u64 num_indices,                  // B, below 2^32
    u64 num_entries,                  // every index must be below this
    // outputs
    u32 *__restrict__ first           // [2], 0xffffffff before: where the first index out of range lies, and the
                                      // first one that is smaller than the one before it
) {
    const u64 b = global_thread();
    if (b >= num_indices) return;
    const u32 index = indices[b];
    if (index >= num_entries) atomicMin(&first[0], (u32)b);
    // Reading before the atomic, past the L1 cache, which would keep an old value, keeps a shuffled batch from queueing
    // on one address; the value read is only ever an upper bound of the minimum.
    if (b > 0 && index < indices[b - 1] && b < __ldcg(&first[1])) atomicMin(&first[1], (u32)b);
}
