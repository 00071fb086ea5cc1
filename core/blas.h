// Matrix products. All matrices are row-major. op(X) is X or its transpose.
#ifndef ROPE_CORE_BLAS_H
#define ROPE_CORE_BLAS_H

#include <stdbool.h>

#include "core/real.h"

// C (m,n) = alpha · op(A) (m,k) · op(B) (k,n) + beta · C, by OpenBLAS on the calling thread only. With beta = 0, C may
// hold anything. lda, ldb, ldc: elements from one stored row to the next.
void gemm(bool transpose_a, bool transpose_b, size_t m, size_t n, size_t k, real alpha, const real *a, size_t lda,
          const real *b, size_t ldb, real beta, real *c, size_t ldc);

// The same over all threads: C is cut into tiles by its shape alone, each one gemm() on one thread, so the bits do not
// depend on the number of threads. Call it outside parallel regions.
void gemm_parallel(bool transpose_a, bool transpose_b, size_t m, size_t n, size_t k, real alpha, const real *a,
                   size_t lda, const real *b, size_t ldb, real beta, real *c, size_t ldc);

// Measured rate of gemm_parallel for size³ products in GFLOP/s: median of `repeats` runs. This and the two below return
// 0 when there is no memory for the measurement.
double blas_rate(size_t size, size_t repeats);
// The same for OpenBLAS's own threading (cblas_sgemm), the yardstick of all "share of the sgemm rate" figures.
double blas_library_rate(size_t size, size_t repeats);
// Bytes per second of a large copy over all threads (read + write counted), median of `repeats`.
double copy_rate(size_t bytes, size_t repeats);

#endif
