// Sum of squares in double, as sixteen interleaved running sums that are added up by a fixed tree.

#include "optim/norm_kernels.h"

enum { SUMS = 16 };

static double sum_of_squares(const real *x, size_t count) {
    double sums[SUMS] = {0};
    size_t whole = count - count % SUMS;
    for (size_t i = 0; i < whole; i += SUMS)
        for (size_t j = 0; j < SUMS; j++) sums[j] += (double)x[i + j] * (double)x[i + j];
    for (size_t j = 0; j < count - whole; j++) sums[j] += (double)x[whole + j] * (double)x[whole + j];
    for (size_t width = SUMS / 2; width > 0; width /= 2)
        for (size_t j = 0; j < width; j++) sums[j] += sums[j + width];
    return sums[0];
}

const NormKernels ISA_NAME(norm_kernels) = {sum_of_squares};
