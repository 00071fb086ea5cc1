// rope bench: kernels against this machine's matrix products, in one process. Private to bench*.c.
#ifndef ROPE_TRAIN_BENCH_H
#define ROPE_TRAIN_BENCH_H

#include <jansson.h>

#include "train/config.h"

enum { BENCH_MAX_METHODS = 8, BENCH_MAX_LENGTHS = 24, BENCH_MAX_ROUNDS = 64, BENCH_SGEMM = 2048 };

typedef struct BenchOptions {
    size_t lengths[BENCH_MAX_LENGTHS];
    size_t length_count;
    const char *methods[BENCH_MAX_METHODS];
    size_t method_count;
    size_t rounds; // medians over as many
    size_t batch;  // of attention
    double limit;  // seconds that one forward and backward may take
} BenchOptions;

// Each measures, prints for people to standard error, and returns the document; NULL on failure.
json_t *bench_attention(const Config *config, const BenchOptions *options, Error *error);
json_t *bench_gemm(const BenchOptions *options, Error *error);
json_t *bench_step(const Config *config, const BenchOptions *options, Error *error);

static inline json_t *bench_number(double value) {
    return value - value == 0.0 ? json_real(value) : json_null(); // JSON has no NaN or infinity
}

#endif
