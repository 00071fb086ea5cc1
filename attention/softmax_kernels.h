// Softmax over tiles of logits, forward with a running maximum and backward from the saved log-sum-exp. Logits are in
// base 2 (multiplied by log2 e), so that exponentials are powers of two.
//
// Masks: row r of a tile sees the columns c ≤ r + diagonal, and never one at `columns` or beyond. Rows are padded to a
// multiple of 16 columns; what is masked or padding becomes 0.
#ifndef ROPE_ATTENTION_SOFTMAX_KERNELS_H
#define ROPE_ATTENTION_SOFTMAX_KERNELS_H

#include "core/simd.h"

typedef struct SoftmaxKernels {
    // s (rows, columns): logits on entry, 2^(s - maximum) on return, 0 where masked. maximum, sum (rows): running
    // maximum and sum of the weights of each row; where the maximum rises, sum and the row of o (rows, o_size) are
    // scaled down first.
    void (*forward)(real *s, size_t ld, size_t rows, size_t columns, ptrdiff_t diagonal, real *maximum, real *sum,
                    real *o, size_t o_size);
    // s: logits on entry, weights P = 2^(s - lse) on return; ds: dP on entry, P·(dP - delta) on return.
    void (*backward)(real *s, real *ds, size_t ld, size_t rows, size_t columns, ptrdiff_t diagonal, const real *lse,
                     const real *delta);
    // delta (rows) = Σ_e d_o·o
    void (*delta)(real *delta, const real *d_o, const real *o, size_t stride, size_t rows, size_t size);
} SoftmaxKernels;

ISA_TABLE(SoftmaxKernels, softmax_kernels)

#endif
