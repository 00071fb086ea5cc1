// Counter-based random numbers (Random123's Philox4x32-10): every draw is a pure function of (seed, stream, step,
// index), never of threads, order or earlier draws, so that any run can be resumed or repeated exactly.
#ifndef ROPE_CORE_RANDOM_H
#define ROPE_CORE_RANDOM_H

#include <stddef.h>
#include <stdint.h>

#include "core/real.h"

typedef enum RandomStream {
    RANDOM_INIT = 1,   // weight initialisation; step = the tensor's layer and role
    RANDOM_SHUFFLE,    // order of the data; step = epoch
    RANDOM_SAMPLE,     // tokens drawn in `rope sample`; step = position
    RANDOM_TASK,       // synthetic tasks; step = example
    RANDOM_BENCH,      // inputs of benchmarks and of `rope verify`
    RANDOM_TEST = 7,   // 6 is free
} RandomStream;

typedef struct Random {
    uint64_t seed;
    uint32_t stream; // a RandomStream
    uint64_t step;
} Random;

uint32_t random_bits(Random random, uint64_t index);                  // 32 uniform bits
double random_uniform(Random random, uint64_t index);                 // [0, 1), 53 bits
double random_normal(Random random, uint64_t index);                  // mean 0, variance 1 (Box-Muller)
uint64_t random_below(Random random, uint64_t index, uint64_t bound); // uniform in [0, bound), bound >= 1, unbiased to 2^-64·bound
void random_fill_normal(real *out, size_t count, double deviation, Random random);
void random_fill_uniform(real *out, size_t count, double low, double high, Random random);
// The element that a random permutation of [0, count) has at `position`: a Feistel network with cycle walking, O(1)
// memory, so that shuffling a corpus needs no table.
uint64_t random_permute(Random random, uint64_t position, uint64_t count);

#endif
