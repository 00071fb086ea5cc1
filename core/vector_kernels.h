// Elementary functions over whole arrays, for callers that are not kernels themselves; and the way by which the tests
// reach vector_math.h in every instruction set.
#ifndef ROPE_CORE_VECTOR_KERNELS_H
#define ROPE_CORE_VECTOR_KERNELS_H

#include "core/simd.h"

typedef struct VectorKernels {
    // out (count) = exp(in), accuracy and range as in vector_math.h; out may be in.
    void (*exp)(real *out, const real *in, size_t count);
} VectorKernels;

ISA_TABLE(VectorKernels, vector_kernels)

#endif
