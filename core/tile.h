// The small matrix product under every attention method: C (m,n) = or += A (m,k) · B (k,n), for operands that sit in
// the first or second cache level, without packing. B and C have unit stride along n; A has any two strides, so that
// A or its transpose is read in place by broadcasts.
#ifndef ROPE_CORE_TILE_H
#define ROPE_CORE_TILE_H

#include <stdbool.h>

#include "core/simd.h"

typedef struct TileKernels {
    // c[i*ldc + j] (+)= Σ_p a[i*a_row + p*a_column] · b[p*ldb + j]. Any m, n, k ≥ 0 (k = 0 with accumulate = false
    // zeroes C). Nothing outside the (m,n) block of C is written; nothing outside A and B is read. Fastest for n a
    // multiple of 16; sums over p run in order, so the result does not depend on how m and n are cut.
    void (*multiply)(real *c, size_t ldc, const real *a, size_t a_row, size_t a_column, const real *b, size_t ldb,
                     size_t m, size_t n, size_t k, bool accumulate);
    // out (columns, rows) = in (rows, columns)ᵀ
    void (*transpose)(real *out, size_t ld_out, const real *in, size_t ld_in, size_t rows, size_t columns);
} TileKernels;

ISA_TABLE(TileKernels, tile_kernels)

#endif
