// Rows of monomials from rows of monomials (attention/features.h), tokens along the vector lanes.
#include "attention/features.h"

enum { BLOCK = 4 }; // vectors of lanes kept in registers while the rows go by

static inline __attribute__((always_inline)) void run_block(real *out, const real *parent, const real *x,
                                                            const real *ratio, size_t count, size_t lanes,
                                                            const size_t vectors) {
    Vector variable[BLOCK];
    UNROLL
    for (size_t v = 0; v < vectors; v++) variable[v] = vector_load(x + v * LANES);
    for (size_t r = 0; r < count; r++, out += lanes, parent += lanes) {
        Vector factor = vector_set(ratio[r]);
        UNROLL
        for (size_t v = 0; v < vectors; v++)
            vector_store(out + v * LANES, vector_load(parent + v * LANES) * (factor * variable[v]));
    }
}

static void run(real *out, const real *parent, const real *x, const real *ratio, size_t count, size_t lanes) {
    size_t lane = 0;
    for (; lane + BLOCK * LANES <= lanes; lane += BLOCK * LANES)
        run_block(out + lane, parent + lane, x + lane, ratio, count, lanes, BLOCK);
    for (; lane < lanes; lane += LANES) run_block(out + lane, parent + lane, x + lane, ratio, count, lanes, 1);
}

static inline __attribute__((always_inline)) void backward_block(real *dx, real *d_parent, const real *d_out,
                                                                 const real *parent, const real *x, const real *ratio,
                                                                 size_t count, size_t lanes, const size_t vectors) {
    Vector variable[BLOCK], sum[BLOCK];
    UNROLL
    for (size_t v = 0; v < vectors; v++) {
        variable[v] = vector_load(x + v * LANES);
        sum[v] = vector_load(dx + v * LANES);
    }
    for (size_t r = 0; r < count; r++, d_out += lanes, parent += lanes, d_parent += lanes) {
        Vector factor = vector_set(ratio[r]);
        UNROLL
        for (size_t v = 0; v < vectors; v++) {
            Vector d = factor * vector_load(d_out + v * LANES);
            sum[v] += d * vector_load(parent + v * LANES);
            vector_store(d_parent + v * LANES, vector_load(d_parent + v * LANES) + d * variable[v]);
        }
    }
    UNROLL
    for (size_t v = 0; v < vectors; v++) vector_store(dx + v * LANES, sum[v]);
}

static void run_backward(real *dx, real *d_parent, const real *d_out, const real *parent, const real *x,
                         const real *ratio, size_t count, size_t lanes) {
    size_t lane = 0;
    for (; lane + BLOCK * LANES <= lanes; lane += BLOCK * LANES)
        backward_block(dx + lane, d_parent + lane, d_out + lane, parent + lane, x + lane, ratio, count, lanes, BLOCK);
    for (; lane < lanes; lane += LANES)
        backward_block(dx + lane, d_parent + lane, d_out + lane, parent + lane, x + lane, ratio, count, lanes, 1);
}

static inline __attribute__((always_inline)) void combine_block(real *out, const real *weight, size_t stride,
                                                                const real *phi, size_t rows, size_t lanes,
                                                                const size_t vectors) {
    Vector even[BLOCK] = {0}, odd[BLOCK] = {0}; // two chains a vector
    size_t r = 0;
    for (; r + 2 <= rows; r += 2, phi += 2 * lanes) {
        const Vector first = vector_set(weight[r * stride]), second = vector_set(weight[(r + 1) * stride]);
        UNROLL
        for (size_t v = 0; v < vectors; v++) {
            even[v] += first * vector_load(phi + v * LANES);
            odd[v] += second * vector_load(phi + lanes + v * LANES);
        }
    }
    UNROLL
    for (size_t v = 0; v < vectors; v++) {
        if (r < rows) even[v] += vector_set(weight[r * stride]) * vector_load(phi + v * LANES);
        vector_store(out + v * LANES, even[v] + odd[v]);
    }
}

static void combine(real *out, const real *weight, size_t stride, const real *phi, size_t rows, size_t lanes) {
    size_t lane = 0;
    for (; lane + BLOCK * LANES <= lanes; lane += BLOCK * LANES)
        combine_block(out + lane, weight, stride, phi + lane, rows, lanes, BLOCK);
    for (; lane < lanes; lane += LANES) combine_block(out + lane, weight, stride, phi + lane, rows, lanes, 1);
}

static void row_dots(real *out, size_t stride, const real *phi, const real *weight, size_t rows, size_t lanes) {
    for (size_t r = 0; r < rows; r++, phi += lanes) {
        Vector sum = {0};
        for (size_t lane = 0; lane < lanes; lane += LANES) sum += vector_load(phi + lane) * vector_load(weight + lane);
        out[r * stride] += vector_sum(sum);
    }
}

const FeatureKernels ISA_NAME(feature_kernels) = {run, run_backward, combine, row_dots};
