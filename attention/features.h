// Symmetric monomials: P(q·k) as a dot product of R = C(F+g, g) features (fast RoPE attention, the polynomial method).
//
//     P(q·k) = Σ_t c_t (q·k)^t = Σ_α c_t·t!/α! · q^α · k^α        over monomials α of degree t = |α| ≤ g
//
// Matrices of features are (R, lanes): one row per monomial, tokens along the lanes, so that one row is the elementwise
// product of a row of one degree less and a row of q or k, without index tables. Ordered by degree, then by the last
// variable: the monomials of degree t whose last variable is i are x_i times the first C(t-1+i, i) of degree t-1.
// The factor c_t·t!/α! rides on the query side, as a ratio between a row and its parent.
#ifndef ROPE_ATTENTION_FEATURES_H
#define ROPE_ATTENTION_FEATURES_H

#include "attention/polynomial.h"
#include "core/simd.h"

typedef struct FeatureRun {
    size_t row, parent, count, variable; // rows row … row+count-1 = rows parent … times x_variable
} FeatureRun;

typedef struct Features {
    size_t size, degree; // F, g
    size_t count;        // R
    size_t run_count;    // g·F
    FeatureRun *run;     // in order of rows
    real *query_ratio;   // (R) row = ratio · parent · x; element 0 is c_0, the constant row
    real *key_ratio;     // (R) all 1
    size_t *degree_start; // (g+2) first row of each degree; the last is R
} Features;

// R = C(size+degree, degree); false when it does not fit in size_t.
bool features_count(size_t size, size_t degree, size_t *count);
// ERROR_USER when a coefficient is zero (the ratios need them), ERROR_MEMORY. count must fit (features_count).
bool features_create(Features *features, size_t size, const Polynomial *polynomial, Error *error);
void features_destroy(Features *features);

typedef struct FeatureKernels {
    // phi (R, lanes) = monomials of x (size, lanes) with ratios `ratio` (one of the two above). lanes: a multiple of
    // LANES.
    void (*build)(const Features *features, const real *ratio, real *phi, const real *x, size_t lanes);
    // dx (size, lanes) += transpose of the derivative; d_phi is used up. phi, x, ratio as of build.
    void (*backward)(const Features *features, const real *ratio, real *dx, real *d_phi, const real *phi,
                     const real *x, size_t lanes);
    // out (lanes) = Σ_r weight[r·stride]·phi[r]
    void (*combine)(real *out, const real *weight, size_t stride, const real *phi, size_t rows, size_t lanes);
    // out[r·stride] += Σ_lane weight[lane]·phi[r][lane]
    void (*row_dots)(real *out, size_t stride, const real *phi, const real *weight, size_t rows, size_t lanes);
} FeatureKernels;

ISA_TABLE(FeatureKernels, feature_kernels)

#endif
