// exp over whole arrays, in every instruction set that this CPU has, against the double of libm.
#include <math.h>
#include <string.h>

#include "core/vector_kernels.h"
#include "tests/support/check.h"

// The kernel tables that this CPU can run.
static size_t exp_tables(const VectorKernels *tables[ISA_COUNT]) {
    size_t count = 0;
    tables[count++] = &vector_kernels_portable;
    if (cpu_isa() >= ISA_AVX2) tables[count++] = &vector_kernels_avx2;
    if (cpu_isa() >= ISA_AVX512) tables[count++] = &vector_kernels_avx512;
    return count;
}

static double error_in_ulp(float value, double exact) {
    int exponent;
    frexp(exact, &exponent);
    return fabs(value - exact) / ldexp(1.0, exponent - 24 > -149 ? exponent - 24 : -149);
}

static void test_exp_error(void **state) {
    (void)state;
    enum { BATCH = 4096 };
    const uint64_t stride = 61 * check_share();
    static float in[BATCH], out[BATCH];
    const VectorKernels *tables[ISA_COUNT];
    size_t count = exp_tables(tables), compared = 0;
    for (size_t table = 0; table < count; table++) {
        for (int sign = 0; sign < 2; sign++) {
            float end = sign ? -87.3f : 88.7f;
            uint32_t first = sign ? 0x80000000u : 0, last;
            memcpy(&last, &end, sizeof last);
            for (uint64_t start = first; start <= last; start += BATCH * stride) {
                for (size_t i = 0; i < BATCH; i++) {
                    uint64_t bits = start + i * stride;
                    uint32_t kept = (uint32_t)(bits < last ? bits : last);
                    memcpy(&in[i], &kept, sizeof kept);
                }
                tables[table]->exp(out, in, BATCH);
                for (size_t i = 0; i < BATCH; i++)
                    if (!(error_in_ulp(out[i], exp((double)in[i])) < 1.02))
                        fail_msg("table %zu: exp(%.9g) = %.9g, not %.9g", table, in[i], out[i], exp((double)in[i]));
                compared += BATCH;
            }
        }
    }
    check_count("exp", compared);
}

static void test_exp_edges(void **state) {
    (void)state;
    const float in[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 1e30f, -1e30f, 88.8f, -87.4f, 1e-40f, -1e-40f};
    const float expected[] = {1, 1, INFINITY, 0, NAN, INFINITY, 0, INFINITY, 0, 1, 1};
    enum { COUNT = sizeof in / sizeof *in };
    const VectorKernels *tables[ISA_COUNT];
    size_t count = exp_tables(tables), cases = 0;
    for (size_t table = 0; table < count; table++) {
        for (size_t length = 0; length <= COUNT; length++) { // whole and partial vectors
            real *out = guarded_new(length);
            tables[table]->exp(out, in, length);
            for (size_t i = 0; i < length; i++, cases++)
                assert_true(isnan(expected[i]) ? isnan(out[i]) : out[i] == expected[i]);
            guarded_free(out);
        }
    }
    check_count("exp edges", cases);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_exp_error),
    cmocka_unit_test(test_exp_edges),
};

TEST_MAIN(tests)
