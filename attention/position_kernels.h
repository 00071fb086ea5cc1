// Inner loops of the position kernels, compiled per instruction set. Column counts of tiles are multiples of 16.
#ifndef ROPE_ATTENTION_POSITION_KERNELS_H
#define ROPE_ATTENTION_POSITION_KERNELS_H

#include "core/simd.h"

typedef struct PositionKernels {
    // out (count, 2·half) = scale · [x1·c - x2·d·n, x2·c + x1·d·n] with c, n (count, half) the cosines and sines of each
    // row and d = direction, +1 to rotate, -1 to rotate back. out may be in.
    void (*rotate)(real *out, size_t out_stride, const real *in, size_t in_stride, const real *cosine, const real *sine,
                   size_t half, size_t count, real scale, real direction);
    // s (rows, columns) = s·factor + slope·bias. Row r reads factor - r and bias - r (attention/position.h: reversed
    // tables over lags); either may be NULL.
    void (*apply_lags)(real *s, size_t ld, size_t rows, size_t columns, const real *factor, const real *bias,
                       real slope);
    // s (rows, columns) += q[r][a] · w[c - r] · kt[b][c], for one entry (a, b) of a table kernel.
    void (*table_logits)(real *s, size_t ld, const real *q, size_t q_stride, const real *kt, const real *w, size_t rows,
                         size_t columns);
    // The gradients of table_logits: dq[r][a] += Σ_c ds·w·kt, dkt[b][c] += Σ_r ds·w·q.
    void (*table_gradients)(real *dq, size_t dq_stride, real *dkt, const real *ds, size_t ld, const real *q,
                            size_t q_stride, const real *kt, const real *w, size_t rows, size_t columns);
} PositionKernels;

ISA_TABLE(PositionKernels, position_kernels)

#endif
