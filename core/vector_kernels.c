// Elementary functions over whole arrays (see vector_kernels.h).
#include "core/vector_kernels.h"

#include "core/vector_math.h"

static void exp_array(real *out, const real *in, size_t count) {
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) vector_store(out + i, vector_exp(vector_load(in + i)));
    if (i == count) return;
    real last[LANES] = {0}; // a partial vector is padded, so that an element's bits do not depend on its place
    memcpy(last, in + i, (count - i) * sizeof(real));
    vector_store(last, vector_exp(vector_load(last)));
    memcpy(out + i, last, (count - i) * sizeof(real));
}

const VectorKernels ISA_NAME(vector_kernels) = {.exp = exp_array};
