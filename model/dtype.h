// Number formats of weight files, and their exact conversion to real.
#ifndef ROPE_MODEL_DTYPE_H
#define ROPE_MODEL_DTYPE_H

#include <stddef.h>

#include "core/real.h"

typedef struct Dtype {
    const char *name; // as in safetensors: "F32", "BF16", …
    size_t bytes;     // of one number
    // out (count) = in (count·bytes, little-endian, unaligned). NULL: a format that no weight of ours comes in. Exact
    // where real holds the value: subnormals, infinities and NaN stay what they are; else rounded to nearest.
    void (*convert)(real *out, const unsigned char *in, size_t count);
} Dtype;

const Dtype *dtype_find(const char *name); // NULL if unknown
float float_from_half(uint16_t bits);
float float_from_bfloat(uint16_t bits);

#endif
