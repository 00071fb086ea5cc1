// The loops of the toeplitz method that run over tokens or frequencies, compiled per instruction set.
#ifndef ROPE_ATTENTION_TOEPLITZ_KERNELS_H
#define ROPE_ATTENTION_TOEPLITZ_KERNELS_H

#include <stdbool.h>

#include "core/simd.h"

typedef struct ToeplitzKernels {
    void (*multiply)(real *out, const real *a, const real *b, size_t count);     // out = a·b
    void (*multiply_add)(real *out, const real *a, const real *b, size_t count); // out += a·b
    // out = or += scale · kernel · in, complex numbers as (real, imaginary) in turn; `reals` counts both, a multiple of
    // LANES. conjugate: of the kernel, which transposes the Toeplitz matrix.
    void (*mix)(real *out, const real *kernel, const real *in, real scale, size_t reals, bool conjugate,
                bool accumulate);
    real (*exponentials)(real *out, const real *x, real shift, size_t count); // out = exp(x - shift); their sum
    real (*largest)(const real *x, size_t count);                             // max, NaN if one is; -Inf if count is 0
} ToeplitzKernels;

ISA_TABLE(ToeplitzKernels, toeplitz_kernels)

#endif
