// Sum of squares in double.
#ifndef ROPE_OPTIM_NORM_KERNELS_H
#define ROPE_OPTIM_NORM_KERNELS_H

#include "core/simd.h"

typedef struct NormKernels {
    // Σ x², NaN or infinite if any x is. Sixteen running sums in a fixed order on every instruction set; in single
    // precision the squares are exact in double, so the bits are the same on every CPU.
    double (*sum_of_squares)(const real *x, size_t count);
} NormKernels;

ISA_TABLE(NormKernels, norm_kernels)

#endif
