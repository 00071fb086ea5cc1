// Method toeplitz where numbers end: inputs that are NaN, groups of which one head leaves the polynomial's interval,
// certificates that are not known, scales whose powers are no numbers of single precision. What tables do to it is in
// test_toeplitz_tables.c.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "attention/position_kernels.h"
#include "attention/toeplitz_kernels.h"
#include "tests/support/certified.h"
#include "tests/support/check.h"
#include "tests/support/table_file.h"

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
        AttentionSettings settings = certified_settings(129, 8);
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

// One head's queries leave the interval, the other's do not: dk and dv are sums over both, and what is certified must
// hold for the sums: rounding of the one head outweighs all that the other's polynomial is off by.
static void test_mixed_group(void **state) {
    (void)state;
    const double scales[] = {1, 100, 1000};
    for (size_t n = 0; n < 6; n++) {
        const size_t near = n / 3 ? 8 : 0;
        AttentionSettings settings = certified_settings(200, 8);
        settings.near = near;
        settings.degree = 3;
        settings.bound = BOUND_NONE;
        AttentionPlan *plan = attention_plan_new("toeplitz", &settings);
        AttentionProblem problem = attention_problem_new(&settings, 0, 1.0, n);
        for (size_t i = 0; i < problem.q_count; i++) problem.q[i] *= (real)(i / 8 % 2 ? scales[n % 3] : 0.2);
        for (size_t i = 0; i < problem.k_count; i++) problem.k[i] *= (real)0.3;
        for (size_t i = 0; i < problem.o_count; i++) problem.d_o[i] *= (real)(i / 4 % 2 ? 1e3 : 1e-3);
        char label[64];
        snprintf(label, sizeof label, "queries times %g, near %zu", scales[n % 3], near);
        const Certified certified = certified_verify("certificates", label, &problem, plan);
        assert_true(certified.fell_back[0] == 0.0 && certified.fell_back[1] == 1.0);
        assert_true(isfinite(certified.bound[DK][0]) && isfinite(certified.bound[DV][0]));
        attention_problem_free(&problem);
        attention_destroy(plan);
    }
}

// Where every head of a group falls back, nothing of the polynomial is left: the bits are those of far = exact.
static void test_all_fall_back(void **state) {
    (void)state;
    AttentionSettings settings = certified_settings(200, 8);
    settings.bound = BOUND_NONE;
    AttentionProblem problems[2];
    for (size_t n = 0; n < 2; n++) {
        settings.far = n ? FAR_EXACT : FAR_POLYNOMIAL;
        AttentionPlan *plan = attention_plan_new("toeplitz", &settings);
        problems[n] = attention_problem_new(&settings, 0, 3.0, 1);
        const Certified certified = certified_run(&problems[n], plan);
        for (size_t h = 0; h < 2; h++) {
            assert_true(certified.fell_back[h] == (n ? 0.0 : 1.0));
            assert_true(certified.bound[OUTPUT][h] + certified.bound[DQ][h] + certified.bound[DK][h] +
                            certified.bound[DV][h] ==
                        0.0);
        }
        attention_destroy(plan);
    }
    const AttentionProblem *a = &problems[0], *b = &problems[1];
    check_same_bits("a group that falls back", a->o, b->o, a->o_count * sizeof(real));
    check_same_bits("a group that falls back", a->dq, b->dq, a->q_count * sizeof(real));
    check_same_bits("a group that falls back", a->dk, b->dk, a->k_count * sizeof(real));
    check_same_bits("a group that falls back", a->dv, b->dv, a->v_count * sizeof(real));
    for (size_t n = 0; n < 2; n++) attention_problem_free(&problems[n]);
}

// Polynomials of which nothing is known, values of 0, near logits that round to nothing, inputs that are not finite.
static void test_unknown(void **state) {
    (void)state;
    static const char *const inputs[] = {"nothing", "q", "k", "v", "d_o"};
    const double scales[] = {1, 30, 1000};
    for (size_t n = 0; n < 2 * 3 * 3 * 5 * 2; n++) {
        const size_t near = n % 2 ? 4 : 0, kind = n / 2 % 3, scale = n / 6 % 3, input = n / 18 % 5, zero = n / 90;
        AttentionSettings settings = certified_settings(40, 8);
        settings.near = near;
        settings.polynomial = kind == 1 ? POLYNOMIAL_POWER : POLYNOMIAL_MINIMAX;
        settings.logit_bound = kind == 2 ? 6.0 : 1.0;
        AttentionPlan *plan = attention_plan_new("toeplitz", &settings);
        AttentionProblem problem = attention_problem_new(&settings, 0, scales[scale], n);
        if (zero) memset(problem.v, 0, problem.v_count * sizeof *problem.v);
        real *const bad[] = {NULL, &problem.q[10 * 16 + 1], &problem.k[10 * 8 + 1], &problem.v[10 * 4 + 1],
                             &problem.d_o[10 * 8 + 1]};
        if (bad[input]) *bad[input] = (real)NAN;
        const Certified certified = certified_run(&problem, plan);
        char label[120];
        snprintf(label, sizeof label, "kind %zu, near %zu, scale %g%s, NaN in %s", kind, near, scales[scale],
                 zero ? ", v = 0" : "", inputs[input]);
        certified_check_known(label, &problem, &certified);
        attention_problem_free(&problem);
        attention_destroy(plan);
    }
}

// Numbers that are not finite where no gradient shows them: behind entries that are clipped, and in dimensions that the
// far field does not see.
static void test_unknown_behind_finite(void **state) {
    (void)state;
    for (size_t n = 0; n < 2 * 2 * 3; n++) {
        const size_t kind = n % 2, near = n / 2 % 2 * 2;
        AttentionSettings settings = certified_settings(3, 4);
        settings.near = near;
        settings.bound = BOUND_CLIP;
        settings.entry_bound = 0.3;
        settings.logit_bound = 0.0;
        if (kind == 0) settings.kernel = table_file_write_constant(4, 3, false, 0.9, NULL);
        if (kind == 1) settings.far_size = 2, settings.polynomial = POLYNOMIAL_POWER;
        AttentionPlan *plan = attention_plan_new("toeplitz", &settings);
        AttentionProblem problem = attention_problem_new(&settings, 0, 100.0, n);
        real *const at = kind == 0 ? &problem.v[4 * (n / 4)] : &problem.q[8 * (n / 4)]; // dimension 0 is a fast one
        *at = (real)NAN;
        const Certified certified = certified_run(&problem, plan);
        char label[64];
        snprintf(label, sizeof label, "NaN of kind %zu in token %zu, near %zu", kind, n / 4, near);
        certified_check_known(label, &problem, &certified);
        attention_problem_free(&problem);
        attention_destroy(plan);
    }
}

// For logits of ordinary size from a scale s (or a W) and long or short q and k.
static AttentionSettings scaled_settings(size_t degree, double logit_bound, double logit_scale) {
    AttentionSettings settings = certified_settings(60, 2);
    settings.heads = 1;
    settings.bound = BOUND_BALL;
    settings.degree = degree;
    settings.logit_bound = logit_bound;
    settings.logit_scale = logit_scale;
    return settings;
}

// s^t leaves the range of single precision where (s·q·k)^t does not: no term of the polynomial may be lost for it.
static void test_powers_of_scale(void **state) {
    (void)state;
    const struct {
        size_t degree;
        double logit_bound, scale;
    } cases[] = {{10, 4, 1},   {10, 4, 1e-4}, {10, 4, 3e-5}, {10, 4, 1e-6}, {8, 4, 1e-6},
                 {6, 2, 3e-9}, {2, 1, 1e-30}, {6, 2, 2e-38}, {10, 4, 1e5},  {6, 2, 1e30}};
    for (size_t n = 0; n < sizeof cases / sizeof *cases; n++) {
        const AttentionSettings settings = scaled_settings(cases[n].degree, cases[n].logit_bound, cases[n].scale);
        AttentionPlan *plan = attention_plan_new("toeplitz", &settings);
        AttentionProblem problem = attention_problem_new(&settings, 0, sqrt(8.0 / cases[n].scale), 1);
        char label[64];
        snprintf(label, sizeof label, "degree %zu, scale %g", cases[n].degree, cases[n].scale);
        const Certified certified = certified_verify("certificates", label, &problem, plan);
        assert_true(certified.fell_back[0] == 0.0 && certified.bound[OUTPUT][0] < 0.5);
        attention_problem_free(&problem);
        attention_destroy(plan);
    }
}

// A power of 4 that goes from s, or from W, into q and k changes no bit of anything but its own power of 2 in dq and dk.
static void test_scale_moves(void **state) {
    (void)state;
    const int exponents[] = {0, -3, -10, -25, 12};
    AttentionProblem first = {0}; // of the exponent 0
    for (size_t n = 0; n < 3 * 2 * 5; n++) {
        const int exponent = exponents[n % 5];
        const double four = ldexp(1.0, 2 * exponent), two = ldexp(1.0, exponent);
        const bool rotates = n / 10 == 0, of_table = n / 10 == 1; // of_table: the power is in W, whose entries end at 1
        if (of_table && exponent > 0) continue;
        AttentionSettings settings = scaled_settings(8, 4.0, of_table ? 0.5 : 0.5 * four);
        settings.bound = BOUND_NONE;
        settings.far = n / 5 % 2 ? FAR_EXACT : FAR_POLYNOMIAL;
        if (!rotates) settings.kernel = table_file_write_scaled("scaled", 2, 60, true, of_table ? four : 1.0);
        AttentionPlan *plan = attention_plan_new("toeplitz", &settings);
        AttentionProblem problem = attention_problem_new(&settings, 0, 0.7, 3);
        for (size_t i = 0; i < problem.q_count; i++) problem.q[i] /= (real)two;
        for (size_t i = 0; i < problem.k_count; i++) problem.k[i] /= (real)two;
        const Certified certified = certified_run(&problem, plan);
        assert_true(certified.fell_back[0] == 0.0);
        for (size_t i = 0; i < problem.q_count; i++) problem.dq[i] /= (real)two;
        for (size_t i = 0; i < problem.k_count; i++) problem.dk[i] /= (real)two;
        if (exponent == 0) {
            if (n > 0) attention_problem_free(&first);
            first = problem;
        } else {
            check_same_bits("scales", first.o, problem.o, problem.o_count * sizeof(real));
            check_same_bits("scales", first.dq, problem.dq, problem.q_count * sizeof(real));
            check_same_bits("scales", first.dk, problem.dk, problem.k_count * sizeof(real));
            check_same_bits("scales", first.dv, problem.dv, problem.v_count * sizeof(real));
            attention_problem_free(&problem);
        }
        attention_destroy(plan);
    }
    attention_problem_free(&first);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_largest),         cmocka_unit_test(test_nan_is_kept),
    cmocka_unit_test(test_mixed_group),     cmocka_unit_test(test_all_fall_back),
    cmocka_unit_test(test_unknown),         cmocka_unit_test(test_unknown_behind_finite),
    cmocka_unit_test(test_powers_of_scale), cmocka_unit_test(test_scale_moves),
};
TEST_MAIN(tests)
