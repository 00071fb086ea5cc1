// What this machine can do: the yardsticks that benchmarks and `rope doctor` hold everything else against.
#include <cblas.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "core/blas.h"
#include "core/clock.h"

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// Median seconds of `repeats` runs of work(data, size), after one that warms caches, threads and OpenBLAS's buffers.
static double median_seconds(void (*work)(real *data, size_t size), real *data, size_t size, size_t repeats) {
    double *seconds = malloc(repeats * sizeof *seconds);
    if (!seconds) return 0.0;
    work(data, size);
    for (size_t i = 0; i < repeats; i++) {
        double start = clock_seconds();
        work(data, size);
        seconds[i] = clock_seconds() - start;
    }
    qsort(seconds, repeats, sizeof *seconds, compare_doubles);
    double median = 0.5 * (seconds[(repeats - 1) / 2] + seconds[repeats / 2]);
    free(seconds);
    return median;
}

// Runs work over three size x size matrices that hold small numbers; 0 if there is no memory for them.
static double product_rate(void (*work)(real *data, size_t size), size_t size, size_t repeats) {
    REQUIRE(size >= 1 && size <= 32768 && repeats >= 1);
    Arena arena;
    size_t count = 3 * size * size;
    if (!arena_create(&arena, "benchmark matrices", count * sizeof(real), NULL)) return 0.0;
    real *data = arena_take(&arena, 1, count * sizeof(real));
    for (size_t i = 0; i < count; i++) data[i] = (real)(i % 17) - 8;
    double seconds = median_seconds(work, data, size, repeats);
    arena_destroy(&arena);
    return seconds > 0.0 ? 2e-9 * (double)size * (double)size * (double)size / seconds : 0.0;
}

static void our_product(real *data, size_t size) {
    size_t area = size * size;
    gemm_parallel(false, false, size, size, size, 1, data, size, data + area, size, 0, data + 2 * area, size);
}

static void library_product(real *data, size_t size) {
    size_t area = size * size;
    int n = (int)size;
#ifdef ROPE_DOUBLE
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n, n, n, 1, data, n, data + area, n, 0, data + 2 * area, n);
#else
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n, n, n, 1, data, n, data + area, n, 0, data + 2 * area, n);
#endif
}

double blas_rate(size_t size, size_t repeats) { return product_rate(our_product, size, repeats); }

double blas_library_rate(size_t size, size_t repeats) { return product_rate(library_product, size, repeats); }

enum { COPY_PIECE = 1 << 18 }; // reals per piece

static void copy_half(real *data, size_t count) {
    size_t half = count / 2;
#pragma omp parallel for schedule(static)
    for (size_t start = 0; start < half; start += COPY_PIECE)
        memcpy(data + half + start, data + start,
               sizeof(real) * (half - start < COPY_PIECE ? half - start : COPY_PIECE));
}

double copy_rate(size_t bytes, size_t repeats) {
    REQUIRE(repeats >= 1);
    size_t count = 2 * (bytes / sizeof(real)), total;
    Arena arena;
    if (count == 0 || !size_multiply(count, sizeof(real), &total)) return 0.0;
    if (!arena_create(&arena, "benchmark copy", total, NULL)) return 0.0;
    double seconds = median_seconds(copy_half, arena_take(&arena, 1, total), count, repeats);
    arena_destroy(&arena);
    return seconds > 0.0 ? (double)total / seconds : 0.0;
}
