// Method toeplitz where numbers end: inputs that are NaN.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attention/method.h"
#include "attention/toeplitz.h"
#include "attention/toeplitz_kernels.h"
#include "tests/support/attention_reference.h"
#include "tests/support/check.h"

static AttentionSettings base_settings(size_t tokens, size_t size) {
    AttentionSettings settings = attention_defaults();
    settings.batch = 1;
    settings.tokens = tokens;
    settings.heads = 2;
    settings.kv_heads = 1;
    settings.qk_size = size;
    settings.v_size = 4;
    settings.far_size = 0;
    settings.near = 8;
    settings.degree = 2;
    settings.logit_bound = 1.0;
    return settings;
}

// A maximum is NaN wherever one of its numbers is, whatever comes after it, and of nothing it is -Inf.
static void test_largest(void **state) {
    (void)state;
    const ToeplitzKernels *const tables[] = {&toeplitz_kernels_portable, &toeplitz_kernels_avx2,
                                             &toeplitz_kernels_avx512};
    real x[67];
    for (size_t isa = 0; isa <= (size_t)cpu_isa(); isa++)
        for (size_t count = 0; count <= 67; count++)
            for (size_t bad = 0; bad <= count; bad++) { // bad = count: none of them
                for (size_t i = 0; i < count; i++) x[i] = (real)(i * 29 % 67) - 30;
                double most = -INFINITY;
                for (size_t i = 0; i < count; i++) most = fmax(most, (double)x[i]);
                if (bad < count) x[bad] = (real)NAN;
                const real largest = tables[isa]->largest(x, count);
                if (bad < count ? !isnan((double)largest) : (double)largest != most)
                    fail_msg("largest of %zu numbers with NaN at %zu: %g", count, bad, (double)largest);
                check_count("maxima", 1);
            }
}

// A NaN in q, k or v of a token reaches that token's output, also where a tile of pairs holds nothing but NaN: a token
// whose near field is within one tile, in dimensions that only the near field sees, and one that is alone in its tile.
static void test_nan_is_kept(void **state) {
    (void)state;
    const size_t tokens[] = {0, 3, 63, 64, 100, 128};
    for (size_t far_size = 0; far_size <= 4; far_size += 4) {
        AttentionSettings settings = base_settings(129, 8);
        settings.far_size = far_size;
        AttentionPlan *plan = attention_plan_new("toeplitz", &settings);
        AttentionProblem problem = attention_problem_new(&settings, 0, 1.0, 5);
        for (size_t n = 0; n < sizeof tokens / sizeof *tokens; n++)
            for (size_t a = 0; a < 20; a++) { // dimensions of q, k and v
                const size_t t = tokens[n];
                real *x = a < 8    ? &problem.q[t * problem.q_stride + a]
                          : a < 16 ? &problem.k[t * problem.k_stride + a - 8]
                                   : &problem.v[t * problem.v_stride + a - 16];
                const real kept = *x;
                *x = (real)NAN;
                real *d_o = problem.d_o;
                problem.d_o = NULL; // forward only
                attention_problem_run(&problem, plan, NULL, NULL);
                problem.d_o = d_o;
                *x = kept;
                const size_t column = a < 16 ? 0 : a - 16;
                if (!isnan((double)problem.o[t * problem.o_stride + column]))
                    fail_msg("far_size %zu: NaN in input %zu of token %zu gives an output of %g", far_size, a, t,
                             (double)problem.o[t * problem.o_stride + column]);
                check_count("outputs of NaN", 1);
            }
        attention_problem_free(&problem);
        attention_destroy(plan);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_largest),
    cmocka_unit_test(test_nan_is_kept),
};
TEST_MAIN(tests)
