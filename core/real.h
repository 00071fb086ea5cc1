// The one floating-point type of the numerics. core, attention, model and optim are compiled twice from the same
// sources: with float for users, and with double (-DROPE_DOUBLE) for gradient checks by finite differences.
#ifndef ROPE_CORE_REAL_H
#define ROPE_CORE_REAL_H

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#ifdef ROPE_DOUBLE
typedef double real;
#define REAL_EPSILON DBL_EPSILON
#define REAL_NORMAL_MIN DBL_MIN
#define REAL_NAME "float64"
#else
typedef float real;
#define REAL_EPSILON FLT_EPSILON
#define REAL_NORMAL_MIN FLT_MIN // what is smaller has fewer digits, and then none
#define REAL_NAME "float32"
#endif

// 0, but NaN for NaN and ±Inf. Added where an infinity would otherwise turn into a harmless number without a trace
// (exp(-Inf) = 0, min(Inf, B) = B), so that it reaches loss or gradient, where the trainer looks for it.
static inline real real_zero_if_finite(real x) { return x - x; }

// Makes the first of `size` numbers NaN if one of them is not finite: a row of q or k that overflowed when it was scaled or
// rotated would have a logit of -Inf somewhere, which counts as a pair that is not seen.
static inline void real_mark_overflow(real *row, size_t size) {
    int broken = 0; // as wide as the numbers, for the compiler's sake
    for (size_t i = 0; i < size; i++) broken |= !(row[i] - row[i] == 0);
    if (broken) row[0] = (real)NAN;
}

// The larger of the two, and NaN if one is: a maximum over many numbers that was NaN once stays so. A comparison alone
// forgets it at the next number, for every comparison with NaN is false.
static inline double larger_or_nan(double most, double value) { return value > most || value != value ? value : most; }

#endif
