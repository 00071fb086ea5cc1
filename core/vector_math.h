// exp for whole vectors, inlined into the loops that need it. Included by *_kernels.c files only.
//
// float: x = n·ln 2 + r with ln 2 in two parts (Cody and Waite), then 1 + r + r²·q(r) with q of degree 4, fitted by
// Remez's exchange for the least relative error on |r| <= 0.3468, its coefficients rounded to float one after another
// and the rest fitted again: 3.2e-9, a twentieth of an ULP, before rounding. Error below 1.02 ULP on [-87.3, 88.7]
// (tests/test_vector.c sweeps every 61st float; over all of them it was 1.013 with fused multiply-add, 0.989 without);
// 0 below -87.3 (no subnormals), +Inf above 88.7; NaN stays NaN.
// double: libm's exp lane by lane (the double build exists for gradient checks, not for speed).
#ifndef ROPE_CORE_VECTOR_MATH_H
#define ROPE_CORE_VECTOR_MATH_H

#include "core/simd.h"

#ifdef ROPE_DOUBLE
static inline Vector vector_exp(Vector x) {
    double lane[LANES];
    memcpy(lane, &x, sizeof x);
    for (size_t i = 0; i < LANES; i++) lane[i] = exp(lane[i]);
    memcpy(&x, lane, sizeof x);
    return x;
}
#else
static inline Vector vector_exp(Vector x) {
    const Vector magic = vector_set(12582912.0f); // 1.5·2^23: adding and subtracting it rounds to an integer
    Vector kept = vector_select(x < vector_set(-87.3f), vector_set(-87.3f), x); // NaN compares false and passes through
    kept = vector_select(kept > vector_set(88.7f), vector_set(88.7f), kept);
    Vector shifted = kept * vector_set(1.44269504088896341f) + magic;
    Vector n = shifted - magic;
    Vector r = kept - n * vector_set(0.693145751953125f); // ln 2 to 15 bits: times n it is exact
    r = r - n * vector_set(1.42860677e-6f);               // the rest of ln 2
    Vector p = vector_set(1.38368085e-3f);
    p = p * r + vector_set(8.36914219e-3f);
    p = p * r + vector_set(4.16681059e-2f);
    p = p * r + vector_set(1.66665167e-1f);
    p = p * r + vector_set(4.99999940e-1f);
    p = p * (r * r) + r + vector_set(1.0f);
    // 2^n through the exponent field; n = 128 (x near 88.7) would overflow the field, so scale in two halves
    VectorInt integer = (VectorInt)shifted - (VectorInt)magic;
    VectorInt half = integer >> 1;
    Vector scale_a = (Vector)((half + 127) << 23);
    Vector scale_b = (Vector)((integer - half + 127) << 23);
    Vector y = p * scale_a * scale_b;
    y = vector_select(x < vector_set(-87.3f), vector_set(0.0f), y);
    return vector_select(x > vector_set(88.7f), vector_set(INFINITY), y);
}
#endif

#endif
