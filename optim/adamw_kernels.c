// The inner loop of AdamW (formula in adamw.c): every array is read and written once, and nothing else is stored. It is
// left to the compiler to vectorise: elementwise, without a reduction, and -fno-math-errno makes sqrt an instruction.

#include <math.h>

#include "optim/adamw_kernels.h"

static inline real square_root(real x) { return sizeof(real) == 4 ? (real)sqrtf((float)x) : (real)sqrt((double)x); }

static void update(real *restrict p, real *restrict m, real *restrict v, const real *restrict g, size_t count,
                   const AdamwCoefficients *coefficients) {
    const AdamwCoefficients c = *coefficients;
    for (size_t i = 0; i < count; i++) {
        real gradient = g[i] * c.gradient_scale;
        real first = c.beta1 * m[i] + c.rest1 * gradient;
        real second = c.beta2 * v[i] + c.rest2 * (gradient * gradient);
        m[i] = first;
        v[i] = second;
        p[i] = c.keep * p[i] - c.step_size * first / (square_root(second) * c.root_scale + c.epsilon);
    }
}

const AdamwKernels ISA_NAME(adamw_kernels) = {update};
