// Matrix algebra as a textbook has it, in double, for matrices that fit on a screen. Row-major and packed.
#ifndef ROPE_TESTS_SUPPORT_MATRIX_H
#define ROPE_TESTS_SUPPORT_MATRIX_H

#include <math.h>
#include <stddef.h>

// out (rows, columns) = a (rows, inner) · b (inner, columns)
static inline void multiply(double *out, const double *a, const double *b, size_t rows, size_t inner, size_t columns) {
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < columns; j++) {
            double sum = 0.0;
            for (size_t p = 0; p < inner; p++) sum += a[i * inner + p] * b[p * columns + j];
            out[i * columns + j] = sum;
        }
}

// out (columns, rows) = aᵀ
static inline void transpose(double *out, const double *a, size_t rows, size_t columns) {
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < columns; j++) out[j * rows + i] = a[i * columns + j];
}

// out (ra·rb, ca·cb) = a ⊗ b
static inline void kronecker(double *out, const double *a, size_t ra, size_t ca, const double *b, size_t rb,
                             size_t cb) {
    for (size_t i = 0; i < ra * rb; i++)
        for (size_t j = 0; j < ca * cb; j++) out[i * ca * cb + j] = a[i / rb * ca + j / cb] * b[i % rb * cb + j % cb];
}

// U₁ ⊘ U₂ (Fact 3.9): row by row Kronecker products
static inline void row_kronecker(double *out, const double *a, size_t ca, const double *b, size_t cb, size_t rows) {
    for (size_t i = 0; i < rows; i++) kronecker(out + i * ca * cb, a + i * ca, 1, ca, b + i * cb, 1, cb);
}

// Largest |a - b| and |a|.
static inline double distance(const double *a, const double *b, size_t count) {
    double most = 0.0;
    for (size_t i = 0; i < count; i++) most = fmax(most, fabs(a[i] - b[i]));
    return most;
}

static inline double largest(const double *a, size_t count) {
    double most = 0.0;
    for (size_t i = 0; i < count; i++) most = fmax(most, fabs(a[i]));
    return most;
}

#endif
