// Rotation of rows, lag tables over tiles of logits, and kernels W_t given as tables (attention/position.h). All are
// one pass over their operands.
#include "attention/position_kernels.h"

static void rotate(real *out, size_t out_stride, const real *in, size_t in_stride, const real *cosine, const real *sine,
                   size_t half, size_t count, real scale, real direction) {
    const Vector scales = vector_set(scale), turns = vector_set(scale * direction);
    for (size_t t = 0; t < count; t++) {
        const real *first = in + t * in_stride, *second = first + half, *c = cosine + t * half, *n = sine + t * half;
        real *low = out + t * out_stride, *high = low + half;
        size_t p = 0;
        for (; p + LANES <= half; p += LANES) {
            const Vector a = vector_load(first + p), b = vector_load(second + p);
            const Vector cosines = vector_load(c + p) * scales, sines = vector_load(n + p) * turns;
            vector_store(low + p, a * cosines - b * sines);
            vector_store(high + p, b * cosines + a * sines);
        }
        for (; p < half; p++) {
            const real a = first[p], b = second[p], cosines = c[p] * scale, sines = n[p] * (scale * direction);
            low[p] = a * cosines - b * sines;
            high[p] = b * cosines + a * sines;
        }
    }
}

static void apply_lags(real *s, size_t ld, size_t rows, size_t columns, const real *factor, const real *bias,
                       real slope) {
    const Vector slopes = vector_set(slope);
    for (size_t r = 0; r < rows; r++) {
        real *row = s + r * ld;
        for (size_t c = 0; c < columns; c += LANES) {
            Vector x = vector_load(row + c);
            if (factor) x *= vector_load(factor + c - r);
            if (bias) x += slopes * vector_load(bias + c - r);
            vector_store(row + c, x);
        }
    }
}

static void table_logits(real *s, size_t ld, const real *q, size_t q_stride, const real *kt, const real *w, size_t rows,
                         size_t columns) {
    for (size_t r = 0; r < rows; r++) {
        const Vector left = vector_set(q[r * q_stride]);
        for (size_t c = 0; c < columns; c += LANES) {
            const Vector x = vector_load(s + r * ld + c);
            vector_store(s + r * ld + c, x + left * vector_load(w + c - r) * vector_load(kt + c));
        }
    }
}

static void table_gradients(real *dq, size_t dq_stride, real *dkt, const real *ds, size_t ld, const real *q,
                            size_t q_stride, const real *kt, const real *w, size_t rows, size_t columns) {
    for (size_t r = 0; r < rows; r++) {
        const Vector left = vector_set(q[r * q_stride]);
        Vector sum = {0};
        for (size_t c = 0; c < columns; c += LANES) {
            const Vector gradient = vector_load(ds + r * ld + c) * vector_load(w + c - r);
            sum += gradient * vector_load(kt + c);
            vector_store(dkt + c, vector_load(dkt + c) + gradient * left);
        }
        dq[r * dq_stride] += vector_sum(sum);
    }
}

const PositionKernels ISA_NAME(position_kernels) = {rotate, apply_lags, table_logits, table_gradients};
