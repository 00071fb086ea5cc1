// Softmax of tiles (attention/softmax_kernels.h): one pass for the maximum, one for exponentials and their sum.
#include "attention/softmax_kernels.h"

#ifdef ROPE_DOUBLE
static inline Vector vector_exp2(Vector x) {
    for (size_t i = 0; i < LANES; i++) x[i] = exp2(x[i]);
    return x;
}
#else
// 2^x for x ≤ 1: error below 2 ULP (tests/test_attention.c), 0 below -126.5, NaN stays NaN. x = n + r with |r| ≤ 1/2, and
// a degree-6 polynomial for 2^r made for the least largest relative error (2.6e-9) with the constant term 1.
static inline Vector vector_exp2(Vector x) {
    const Vector magic = vector_set(12582912.0f); // 1.5·2^23: adding and subtracting it rounds to an integer
    const Vector kept = vector_select(x < vector_set(-127.0f), vector_set(-127.0f), x);
    const Vector shifted = kept + magic;
    const Vector r = kept - (shifted - magic);
    Vector p = vector_set(1.5595484804e-4f);
    p = p * r + vector_set(1.34069505558e-3f);
    p = p * r + vector_set(9.61768929496e-3f);
    p = p * r + vector_set(5.55030970633e-2f);
    p = p * r + vector_set(2.40226528093e-1f);
    p = p * r + vector_set(6.93147215404e-1f);
    p = p * r + vector_set(1.0f);
    // 2^n through the exponent field, which shifted carries in its low bits; n = -127 gives 0
    return p * (Vector)(((VectorInt)shifted + 127) << 23);
}
#endif

// Columns of a row that its mask lets through.
static inline size_t visible_columns(size_t row, size_t columns, ptrdiff_t diagonal) {
    const ptrdiff_t visible = (ptrdiff_t)row + diagonal + 1;
    return visible <= 0 ? 0 : (size_t)visible < columns ? (size_t)visible : columns;
}

static inline size_t pad(size_t columns) { return (columns + 15) / 16 * 16; }

// Masks the rest of a padded row: 2^-inf is 0.
static inline void mask_row(real *row, size_t visible, size_t columns) {
    for (size_t c = visible; c < columns; c++) row[c] = -INFINITY;
}

static void scale_row(real *o, size_t size, real scale) {
    for (size_t e = 0; e < size; e++) o[e] *= scale;
}

enum { WAYS = LANES < 16 ? 2 : 1 }; // vectors per step, so that two chains of operations run side by side

// The largest of a padded row and `least`.
static inline real row_maximum(const real *row, size_t columns, real least) {
    Vector largest[2] = {vector_set(least), vector_set(least)};
    for (size_t c = 0; c < columns; c += WAYS * LANES)
        for (size_t w = 0; w < WAYS; w++) // NaN loses every comparison here and shows in the exponentials
            largest[w] = vector_max(vector_load(row + c + w * LANES), largest[w]);
    return vector_largest(vector_max(largest[1], largest[0]));
}

// row = 2^(row - top); returns its sum.
static inline real row_weights(real *row, size_t columns, real top) {
    const Vector tops = vector_set(top);
    Vector total[2] = {{0}, {0}};
    for (size_t c = 0; c < columns; c += WAYS * LANES)
        for (size_t w = 0; w < WAYS; w++) {
            const Vector weight = vector_exp2(vector_load(row + c + w * LANES) - tops);
            total[w] += weight;
            vector_store(row + c + w * LANES, weight);
        }
    return vector_sum(total[0] + total[1]);
}

static void forward(real *s, size_t ld, size_t rows, size_t columns, ptrdiff_t diagonal, real *maximum, real *sum,
                    real *o, size_t o_size) {
    const size_t padded = pad(columns);
    for (size_t r = 0; r < rows; r++) {
        real *row = s + r * ld;
        const size_t visible = visible_columns(r, columns, diagonal);
        if (visible == 0) {
            memset(row, 0, padded * sizeof(real));
            continue;
        }
        mask_row(row, visible, padded);
        const real top = row_maximum(row, padded, maximum[r]);
        if (top > maximum[r]) {
            const Vector fall = vector_exp2(vector_set(maximum[r] - top));
            sum[r] *= fall[0];
            scale_row(o + r * o_size, o_size, fall[0]);
            maximum[r] = top;
        }
        sum[r] += row_weights(row, padded, top);
    }
}

static void backward(real *s, real *ds, size_t ld, size_t rows, size_t columns, ptrdiff_t diagonal, const real *lse,
                     const real *delta) {
    const size_t padded = pad(columns);
    for (size_t r = 0; r < rows; r++) {
        real *row = s + r * ld, *gradient = ds + r * ld;
        mask_row(row, visible_columns(r, columns, diagonal), padded);
        const Vector norm = vector_set(lse[r]); // +Inf would make all weights 0
        const Vector inner = vector_set(delta[r] + real_zero_if_finite(lse[r]));
        for (size_t c = 0; c < padded; c += LANES) {
            const Vector weight = vector_exp2(vector_load(row + c) - norm);
            vector_store(row + c, weight);
            vector_store(gradient + c, weight * (vector_load(gradient + c) - inner));
        }
    }
}

static void delta(real *delta, const real *d_o, const real *o, size_t stride, size_t rows, size_t size) {
    for (size_t r = 0; r < rows; r++) {
        const real *a = d_o + r * stride, *b = o + r * stride;
        Vector sum = {0};
        size_t e = 0;
        for (; e + LANES <= size; e += LANES) sum += vector_load(a + e) * vector_load(b + e);
        real total = vector_sum(sum);
        for (; e < size; e++) total += a[e] * b[e];
        delta[r] = total;
    }
}

const SoftmaxKernels ISA_NAME(softmax_kernels) = {forward, backward, delta};
