// Number formats of weight files: their exact conversion to real, and rounding to those that are written.
#ifndef ROPE_MODEL_DTYPE_H
#define ROPE_MODEL_DTYPE_H

#include <stddef.h>

#include "core/files.h"
#include "core/real.h"

typedef struct Dtype {
    const char *name; // as in safetensors: "F32", "BF16", …
    size_t bytes;     // of one number
    // out (count) = in (count·bytes, little-endian, unaligned). NULL: a format that no weight of ours comes in. Exact
    // where real holds the value: subnormals, infinities and NaN stay what they are; else rounded to nearest.
    void (*convert)(real *out, const unsigned char *in, size_t count);
    // The other way: rounded to nearest, ties to even. NULL: a format that is not written.
    void (*store)(unsigned char *out, const real *in, size_t count);
    double limit; // magnitudes from here on have no finite number in the format (written ones)
} Dtype;

const Dtype *dtype_find(const char *name); // NULL if unknown
float float_from_half(uint16_t bits);
float float_from_bfloat(uint16_t bits);
uint16_t bfloat_from_float(float value); // nearest, ties to even; NaN stays one

// The bytes of numbers (count) in a format that is written, piece by piece: to the writer, where a failure stays;
// without one into *running, a crc32.
void dtype_pass(const Dtype *dtype, const real *numbers, size_t count, FileWriter *writer, uint32_t *running);

#endif
