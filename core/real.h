// The one floating-point type of the numerics. core, attention, model and optim are compiled twice from the same
// sources: with float for users, and with double (-DROPE_DOUBLE) for gradient checks by finite differences.
#ifndef ROPE_CORE_REAL_H
#define ROPE_CORE_REAL_H

#include <float.h>
#include <stddef.h>
#include <stdint.h>

#ifdef ROPE_DOUBLE
typedef double real;
#define REAL_EPSILON DBL_EPSILON
#define REAL_NAME "float64"
#else
typedef float real;
#define REAL_EPSILON FLT_EPSILON
#define REAL_NAME "float32"
#endif

#endif
