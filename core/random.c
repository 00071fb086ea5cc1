// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers, as easy as 1, 2, 3; SC 2011), from Random123.
// One block of 128 bits per draw: the counter holds index and step, the key holds seed and stream. So no two draws of
// one run share a block, and which numbers a thread draws changes nothing.
#include "core/random.h"

#include <math.h>

#include <Random123/philox.h>

#include "core/error.h"

typedef struct Block {
    uint64_t low, high; // words 0-1 and 2-3
} Block;

static Block block_at(Random random, uint64_t index) {
    // An odd constant spreads the streams over the key space; stream 0 is plain Philox with the seed as its key.
    uint64_t key_bits = random.seed ^ (uint64_t)random.stream * 0x9E3779B97F4A7C15u;
    philox4x32_ctr_t counter = {
        {(uint32_t)index, (uint32_t)(index >> 32), (uint32_t)random.step, (uint32_t)(random.step >> 32)}};
    philox4x32_key_t key = {{(uint32_t)key_bits, (uint32_t)(key_bits >> 32)}};
    philox4x32_ctr_t out = philox4x32_R(10, counter, key);
    return (Block){out.v[0] | (uint64_t)out.v[1] << 32, out.v[2] | (uint64_t)out.v[3] << 32};
}

static double unit_interval(uint64_t bits) { return (double)(bits >> 11) * 0x1p-53; }

uint32_t random_bits(Random random, uint64_t index) { return (uint32_t)block_at(random, index).low; }

double random_uniform(Random random, uint64_t index) { return unit_interval(block_at(random, index).low); }

double random_normal(Random random, uint64_t index) {
    Block block = block_at(random, index);
    double radius = sqrt(-2.0 * log(1.0 - unit_interval(block.low))); // 1 - u lies in (0, 1]: the logarithm is finite
    return radius * cos(2.0 * M_PI * unit_interval(block.high));
}

uint64_t random_below(Random random, uint64_t index, uint64_t bound) {
    REQUIRE(bound >= 1);
    // The high half of bits·bound (Lemire's multiplication): no division, and each value is hit 2^64/bound times ± 1.
    return (uint64_t)(((unsigned __int128)block_at(random, index).low * bound) >> 64);
}

void random_fill_normal(real *out, size_t count, double deviation, Random random) {
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < count; i++) out[i] = (real)(deviation * random_normal(random, i));
}

void random_fill_uniform(real *out, size_t count, double low, double high, Random random) {
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < count; i++) out[i] = (real)(low + (high - low) * random_uniform(random, i));
}

enum { FEISTEL_ROUNDS = 8 };

uint64_t random_permute(Random random, uint64_t position, uint64_t count) {
    REQUIRE(position < count);
    unsigned half = 1; // bits in each half of the network: the smallest domain 4^half that holds count
    while (half < 32 && (UINT64_C(1) << (2 * half)) < count) half++;
    uint64_t mask = (UINT64_C(1) << half) - 1, value = position;
    // A Feistel network permutes [0, 4^half). Walking its cycle until it is back below count permutes [0, count), in
    // fewer than four steps on average.
    do {
        uint64_t left = value >> half, right = value & mask;
        for (uint64_t round = 0; round < FEISTEL_ROUNDS; round++) {
            uint64_t mixed = left ^ (random_bits(random, round << 32 | right) & mask);
            left = right;
            right = mixed;
        }
        value = left << half | right;
    } while (value >= count);
    return value;
}
