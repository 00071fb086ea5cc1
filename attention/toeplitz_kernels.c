// Loops over tokens and frequencies (attention/toeplitz_kernels.h). Each reads its operands once and is bound by memory.
#include "attention/toeplitz_kernels.h"

#include "core/vector_math.h"

static void multiply(real *out, const real *a, const real *b, size_t count) {
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) vector_store(out + i, vector_load(a + i) * vector_load(b + i));
    for (; i < count; i++) out[i] = a[i] * b[i];
}

static void multiply_add(real *out, const real *a, const real *b, size_t count) {
    size_t i = 0;
    for (; i + LANES <= count; i += LANES)
        vector_store(out + i, vector_load(out + i) + vector_load(a + i) * vector_load(b + i));
    for (; i < count; i++) out[i] += a[i] * b[i];
}

// Orders of lanes for complex products: real parts twice, imaginary parts twice, parts swapped.
#if VECTOR_BYTES == 16 && defined(ROPE_DOUBLE)
#define SHUFFLE_EVEN 0, 0
#define SHUFFLE_ODD 1, 1
#define SHUFFLE_SWAP 1, 0
#define SIGNS -1, 1
#elif (VECTOR_BYTES == 16) || (VECTOR_BYTES == 32 && defined(ROPE_DOUBLE))
#define SHUFFLE_EVEN 0, 0, 2, 2
#define SHUFFLE_ODD 1, 1, 3, 3
#define SHUFFLE_SWAP 1, 0, 3, 2
#define SIGNS -1, 1, -1, 1
#elif (VECTOR_BYTES == 32) || defined(ROPE_DOUBLE)
#define SHUFFLE_EVEN 0, 0, 2, 2, 4, 4, 6, 6
#define SHUFFLE_ODD 1, 1, 3, 3, 5, 5, 7, 7
#define SHUFFLE_SWAP 1, 0, 3, 2, 5, 4, 7, 6
#define SIGNS -1, 1, -1, 1, -1, 1, -1, 1
#else
#define SHUFFLE_EVEN 0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10, 12, 12, 14, 14
#define SHUFFLE_ODD 1, 1, 3, 3, 5, 5, 7, 7, 9, 9, 11, 11, 13, 13, 15, 15
#define SHUFFLE_SWAP 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14
#define SIGNS -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1
#endif
#define SHUFFLE_(v, ...) __builtin_shufflevector(v, v, __VA_ARGS__)
#define SHUFFLE(v, lanes) SHUFFLE_(v, lanes)

static void mix(real *out, const real *kernel, const real *in, real scale, size_t reals, bool conjugate,
                bool accumulate) {
    const Vector scales = vector_set(scale);
    const Vector signs = (Vector){SIGNS} * (conjugate ? -scales : scales);
    for (size_t i = 0; i < reals; i += LANES) {
        const Vector k = vector_load(kernel + i), x = vector_load(in + i);
        Vector sum = accumulate ? vector_load(out + i) : (Vector){0};
        sum += scales * SHUFFLE(k, SHUFFLE_EVEN) * x;
        sum += signs * SHUFFLE(k, SHUFFLE_ODD) * SHUFFLE(x, SHUFFLE_SWAP);
        vector_store(out + i, sum);
    }
}

static real exponentials(real *out, const real *x, real shift, size_t count) {
    const Vector shifts = vector_set(shift);
    Vector sums = {0};
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        const Vector y = vector_exp(vector_load(x + i) - shifts);
        vector_store(out + i, y);
        sums += y;
    }
    real sum = vector_sum(sums);
    if (i < count) { // a partly filled vector goes through the same exp, so that its value does not depend on its place
        real lanes[LANES] = {0};
        memcpy(lanes, x + i, (count - i) * sizeof(real));
        vector_store(lanes, vector_exp(vector_load(lanes) - shifts));
        memcpy(out + i, lanes, (count - i) * sizeof(real));
        for (size_t j = 0; i + j < count; j++) sum += lanes[j];
    }
    return sum;
}

// NaN stays where it was seen, in its lane and then over all of them (larger_or_nan, core/real.h): a row of NaN is not
// a row without keys.
static real largest(const real *x, size_t count) {
    Vector most = vector_set(-INFINITY);
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        const Vector value = vector_load(x + i);
        most = vector_select((value > most) | (value != value), value, most);
    }
    real lane[LANES], all = -INFINITY;
    vector_store(lane, most);
    for (size_t n = 0; n < LANES; n++) all = (real)larger_or_nan(all, lane[n]);
    for (; i < count; i++) all = (real)larger_or_nan(all, x[i]);
    return all;
}

const ToeplitzKernels ISA_NAME(toeplitz_kernels) = {
    .multiply = multiply,
    .multiply_add = multiply_add,
    .mix = mix,
    .exponentials = exponentials,
    .largest = largest,
};
