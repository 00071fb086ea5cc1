// Number formats of weight files. IEEE 754 half precision has 1 + 5 + 10 bits, bfloat16 is the upper half of a float,
// so each value of both is a float, subnormals included.

#include "model/dtype.h"

#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "weight files are little-endian and read as they are");

static float float_from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

float float_from_half(uint16_t bits) {
    uint32_t sign = (uint32_t)(bits & 0x8000) << 16, exponent = (bits >> 10) & 31, fraction = bits & 1023;
    if (exponent == 31) return float_from_bits(sign | 0x7f800000 | fraction << 13); // Inf, and NaN with its payload
    if (exponent > 0) return float_from_bits(sign | (exponent + 127 - 15) << 23 | fraction << 13);
    float tiny = (float)fraction * 0x1p-24f; // subnormal or zero, exact
    return sign ? -tiny : tiny;
}

float float_from_bfloat(uint16_t bits) { return float_from_bits((uint32_t)bits << 16); }

// One loop per format: `get` turns the bits of one number into a value.
#define DEFINE_CONVERT(name, stored, get)                                                                              \
    static void name(real *out, const unsigned char *in, size_t count) {                                              \
        for (size_t i = 0; i < count; i++) {                                                                           \
            stored value;                                                                                              \
            memcpy(&value, in + i * sizeof value, sizeof value);                                                       \
            out[i] = (real)(get);                                                                                      \
        }                                                                                                              \
    }
DEFINE_CONVERT(convert_f64, double, value)
DEFINE_CONVERT(convert_f32, float, value)
DEFINE_CONVERT(convert_f16, uint16_t, float_from_half(value))
DEFINE_CONVERT(convert_bf16, uint16_t, float_from_bfloat(value))
#undef DEFINE_CONVERT

static const Dtype dtypes[] = {
    {"F32", 4, convert_f32}, {"F16", 2, convert_f16}, {"BF16", 2, convert_bf16}, {"F64", 8, convert_f64},
    {"BOOL", 1, NULL},       {"U8", 1, NULL},         {"I8", 1, NULL},           {"F8_E5M2", 1, NULL},
    {"F8_E4M3", 1, NULL},    {"U16", 2, NULL},        {"I16", 2, NULL},          {"U32", 4, NULL},
    {"I32", 4, NULL},        {"U64", 8, NULL},        {"I64", 8, NULL},
};

const Dtype *dtype_find(const char *name) {
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (strcmp(dtypes[i].name, name) == 0) return &dtypes[i];
    return NULL;
}
