// Rows of monomials from rows of monomials (attention/features.h), tokens along the vector lanes. Building costs
// R·lanes products of three, undoing it twice that: 1/(2E) of the matrix products that follow.
#include "attention/features.h"

enum { BLOCK = 4 }; // vectors of lanes kept in registers while the rows go by

// All rows of one block of lanes: a run is too short for a call.
static inline __attribute__((always_inline)) void build_block(const Features *features, const real *ratio, real *phi,
                                                              const real *x, size_t lanes, const size_t vectors) {
    UNROLL
    for (size_t v = 0; v < vectors; v++) vector_store(phi + v * LANES, vector_set(ratio[0]));
    for (const FeatureRun *run = features->run, *end = run + features->run_count; run < end; run++) {
        Vector variable[BLOCK];
        UNROLL
        for (size_t v = 0; v < vectors; v++) variable[v] = vector_load(x + run->variable * lanes + v * LANES);
        const real *parent = phi + run->parent * lanes;
        real *out = phi + run->row * lanes;
        for (size_t r = run->row; r < run->row + run->count; r++, out += lanes, parent += lanes) {
            const Vector factor = vector_set(ratio[r]);
            UNROLL
            for (size_t v = 0; v < vectors; v++)
                vector_store(out + v * LANES, vector_load(parent + v * LANES) * (factor * variable[v]));
        }
    }
}

static void build(const Features *features, const real *ratio, real *phi, const real *x, size_t lanes) {
    size_t lane = 0;
    for (; lane + BLOCK * LANES <= lanes; lane += BLOCK * LANES)
        build_block(features, ratio, phi + lane, x + lane, lanes, BLOCK);
    for (; lane < lanes; lane += LANES) build_block(features, ratio, phi + lane, x + lane, lanes, 1);
}

static inline __attribute__((always_inline)) void backward_block(const Features *features, const real *ratio, real *dx,
                                                                 real *d_phi, const real *phi, const real *x,
                                                                 size_t lanes, const size_t vectors) {
    for (size_t n = features->run_count; n-- > 0;) { // a degree is complete before it is passed on to the one below
        const FeatureRun *run = &features->run[n];
        const size_t at = run->variable * lanes;
        Vector variable[BLOCK], sum[BLOCK];
        UNROLL
        for (size_t v = 0; v < vectors; v++) {
            variable[v] = vector_load(x + at + v * LANES);
            sum[v] = vector_load(dx + at + v * LANES);
        }
        const real *d_out = d_phi + run->row * lanes, *parent = phi + run->parent * lanes;
        real *d_parent = d_phi + run->parent * lanes;
        for (size_t r = run->row; r < run->row + run->count; r++) {
            const Vector factor = vector_set(ratio[r]);
            UNROLL
            for (size_t v = 0; v < vectors; v++) {
                Vector d = factor * vector_load(d_out + v * LANES);
                sum[v] += d * vector_load(parent + v * LANES);
                vector_store(d_parent + v * LANES, vector_load(d_parent + v * LANES) + d * variable[v]);
            }
            d_out += lanes, parent += lanes, d_parent += lanes;
        }
        UNROLL
        for (size_t v = 0; v < vectors; v++) vector_store(dx + at + v * LANES, sum[v]);
    }
}

static void build_backward(const Features *features, const real *ratio, real *dx, real *d_phi, const real *phi,
                           const real *x, size_t lanes) {
    size_t lane = 0;
    for (; lane + BLOCK * LANES <= lanes; lane += BLOCK * LANES)
        backward_block(features, ratio, dx + lane, d_phi + lane, phi + lane, x + lane, lanes, BLOCK);
    for (; lane < lanes; lane += LANES)
        backward_block(features, ratio, dx + lane, d_phi + lane, phi + lane, x + lane, lanes, 1);
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

static inline __attribute__((always_inline)) void dots_block(real *out, size_t stride, const real *phi,
                                                             const real *weight, size_t rows, size_t lanes,
                                                             const size_t vectors) {
    Vector factor[BLOCK];
    UNROLL
    for (size_t v = 0; v < vectors; v++) factor[v] = vector_load(weight + v * LANES);
    for (size_t r = 0; r < rows; r++, phi += lanes) {
        Vector sum = {0};
        UNROLL
        for (size_t v = 0; v < vectors; v++) sum += vector_load(phi + v * LANES) * factor[v];
        out[r * stride] += vector_sum(sum);
    }
}

static void row_dots(real *out, size_t stride, const real *phi, const real *weight, size_t rows, size_t lanes) {
    size_t lane = 0;
    for (; lane + BLOCK * LANES <= lanes; lane += BLOCK * LANES)
        dots_block(out, stride, phi + lane, weight + lane, rows, lanes, BLOCK);
    for (; lane < lanes; lane += LANES) dots_block(out, stride, phi + lane, weight + lane, rows, lanes, 1);
}

const FeatureKernels ISA_NAME(feature_kernels) = {build, build_backward, combine, row_dots};
