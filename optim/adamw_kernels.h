// The inner loop of AdamW (formula in adamw.c).
#ifndef ROPE_OPTIM_ADAMW_KERNELS_H
#define ROPE_OPTIM_ADAMW_KERNELS_H

#include "core/simd.h"

typedef struct AdamwCoefficients {
    real gradient_scale;
    real beta1, rest1, beta2, rest2; // rest = 1 − β, rounded once from double
    real keep;                       // 1 − lr·wd, or 1
    real step_size;                  // lr / (1 − β₁ᵗ)
    real root_scale;                 // 1 / √(1 − β₂ᵗ)
    real epsilon;
} AdamwCoefficients;

typedef struct AdamwKernels {
    // p, m, v (count) updated in place from g (count); no two of them overlap
    void (*update)(real *p, real *m, real *v, const real *g, size_t count, const AdamwCoefficients *c);
} AdamwKernels;

ISA_TABLE(AdamwKernels, adamw_kernels)

#endif
