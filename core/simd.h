// Vectors of `real`, as wide as the instruction set that the including file is compiled for. A file named
// *_kernels.c is compiled once per instruction set (Makefile, KERNEL_ISAS): portable (SSE2), avx2, avx512, with
// ROPE_ISA set accordingly; it exports one table of functions named with ISA_NAME(), and the caller picks the table
// with ISA_SELECT(). GCC vector extensions keep one source for all of them.
#ifndef ROPE_CORE_SIMD_H
#define ROPE_CORE_SIMD_H

#include <math.h>
#include <string.h>

#include "core/cpu.h"
#include "core/real.h"

#define ISA_PASTE_(name, suffix) name##_##suffix
#define ISA_PASTE(name, suffix) ISA_PASTE_(name, suffix)
#if defined(ROPE_ISA)
#define ISA_NAME(name) ISA_PASTE(name, ROPE_ISA)
#endif

// Declares the three tables of `type` and a static inline accessor `name()` that picks the one for this CPU.
#define ISA_TABLE(type, name)                                                                                          \
    extern const type name##_portable, name##_avx2, name##_avx512;                                                     \
    static inline const type *name(void) {                                                                             \
        switch (cpu_isa()) {                                                                                           \
        case ISA_AVX512: return &name##_avx512;                                                                        \
        case ISA_AVX2: return &name##_avx2;                                                                            \
        default: return &name##_portable;                                                                              \
        }                                                                                                              \
    }

// ROPE_WIDE: AVX-512's width on a CPU without it, so that its loops and tails can be tested there (make wide).
#if defined(__AVX512F__) || defined(ROPE_WIDE)
#define VECTOR_BYTES 64
#elif defined(__AVX2__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

enum { LANES = VECTOR_BYTES / sizeof(real) };
typedef real Vector __attribute__((vector_size(VECTOR_BYTES)));
#ifdef ROPE_DOUBLE
typedef int64_t VectorInt __attribute__((vector_size(VECTOR_BYTES)));
#else
typedef int32_t VectorInt __attribute__((vector_size(VECTOR_BYTES)));
#endif

// In front of a loop with constant bounds: unroll it whole, so that arrays of vectors become registers.
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

static inline Vector vector_load(const real *p) {
    Vector v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline void vector_store(real *p, Vector v) { memcpy(p, &v, sizeof v); }
static inline Vector vector_set(real x) { return x - (Vector){0}; }
// mask lanes are -1 (true) or 0, as vector comparisons give them
static inline Vector vector_select(VectorInt mask, Vector a, Vector b) {
    return (Vector)((mask & (VectorInt)a) | (~mask & (VectorInt)b));
}
static inline Vector vector_max(Vector a, Vector b) { return vector_select(a > b, a, b); }
static inline Vector vector_min(Vector a, Vector b) { return vector_select(a < b, a, b); }
// Sum of the lanes as a fixed tree (halves), so that it is the same for every caller.
static inline real vector_sum(Vector v) {
    real lane[LANES];
    memcpy(lane, &v, sizeof v);
    for (size_t width = LANES / 2; width > 0; width /= 2)
        for (size_t i = 0; i < width; i++) lane[i] += lane[i + width];
    return lane[0];
}
static inline real vector_largest(Vector v) {
    real lane[LANES], m;
    memcpy(lane, &v, sizeof v);
    m = lane[0];
    for (size_t i = 1; i < LANES; i++) m = lane[i] > m ? lane[i] : m;
    return m;
}

#endif
