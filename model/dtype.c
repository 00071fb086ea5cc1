// Number formats of weight files. IEEE 754 half precision has 1 + 5 + 10 bits, bfloat16 is the upper half of a float,
// so each value of both is a float, subnormals included.

#include "model/dtype.h"

#include <math.h>
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

uint16_t bfloat_from_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (isnan(value)) return (uint16_t)(bits >> 16 | 0x40); // the bits that are kept may all be zero: infinity
    // Half a step less one, and one more if the kept part is odd: a tie carries into odd numbers only.
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

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

#define DEFINE_STORE(name, stored, put)                                                                                \
    static void name(unsigned char *out, const real *in, size_t count) {                                              \
        for (size_t i = 0; i < count; i++) {                                                                           \
            stored value = (put);                                                                                      \
            memcpy(out + i * sizeof value, &value, sizeof value);                                                      \
        }                                                                                                              \
    }
DEFINE_STORE(store_f32, float, (float)in[i])
DEFINE_STORE(store_bf16, uint16_t, bfloat_from_float((float)in[i]))
#undef DEFINE_STORE

static const Dtype dtypes[] = {
    {"F32", 4, convert_f32, store_f32, 0x1.ffffffp127},
    {"BF16", 2, convert_bf16, store_bf16, 0x1.ffp127},
    {"F16", 2, convert_f16, NULL, 0},
    {"F64", 8, convert_f64, NULL, 0},
    {"BOOL", 1, NULL, NULL, 0},
    {"U8", 1, NULL, NULL, 0},
    {"I8", 1, NULL, NULL, 0},
    {"F8_E5M2", 1, NULL, NULL, 0},
    {"F8_E4M3", 1, NULL, NULL, 0},
    {"U16", 2, NULL, NULL, 0},
    {"I16", 2, NULL, NULL, 0},
    {"U32", 4, NULL, NULL, 0},
    {"I32", 4, NULL, NULL, 0},
    {"U64", 8, NULL, NULL, 0},
    {"I64", 8, NULL, NULL, 0},
};

const Dtype *dtype_find(const char *name) {
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (strcmp(dtypes[i].name, name) == 0) return &dtypes[i];
    return NULL;
}

void dtype_pass(const Dtype *dtype, const real *numbers, size_t count, FileWriter *writer, uint32_t *running) {
    enum { PIECE = 1 << 16 }; // bytes in hand at a time, on the stack
    unsigned char buffer[PIECE];
    // In single precision F32 is the memory itself.
    const bool as_it_is = dtype->store == store_f32 && sizeof(real) == sizeof(float);
    const size_t most = PIECE / dtype->bytes;
    for (size_t done = 0; done < count; done += most) {
        size_t piece = count - done < most ? count - done : most;
        const void *bytes = as_it_is ? (const void *)(numbers + done) : buffer;
        if (!as_it_is) dtype->store(buffer, numbers + done, piece);
        if (writer)
            file_writer_write(writer, bytes, piece * dtype->bytes);
        else
            *running = checksum(*running, bytes, piece * dtype->bytes);
    }
}
