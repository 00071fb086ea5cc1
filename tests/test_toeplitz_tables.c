// Method toeplitz with position tables: dense ones, of tiny entries, of zeros alone, of any norm, and with biases as low
// as masks.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attention/method.h"
#include "attention/position_kernels.h"
#include "attention/toeplitz.h"
#include "tests/support/certified.h"
#include "tests/support/check.h"
#include "tests/support/table_file.h"

// Runs a random problem, which must err by no more than it certifies.
static Certified certify_random(const AttentionSettings *settings, double deviation, uint64_t seed, const char *label) {
    AttentionPlan *plan = attention_plan_new("toeplitz", settings);
    AttentionProblem problem = attention_problem_new(settings, 0, deviation, seed);
    const Certified certified = certified_verify("certificates", label, &problem, plan);
    attention_problem_free(&problem);
    attention_destroy(plan);
    return certified;
}

// The entry b of a key (b, b, …) near `about` whose logit with a query (a, a, …) under W = 1/D is rounded the most,
// upwards or downwards, by the kernel that forward uses.
static real worst_key(size_t size, real a, real about, double direction) {
    enum { CANDIDATES = 64, ROUNDS = 60 };
    real weight[CANDIDATES], key[CANDIDATES], logit[CANDIDATES], worst = about;
    for (size_t c = 0; c < CANDIDATES; c++) weight[c] = 1 / (real)size;
    double most = 0.0;
    for (size_t n = 0; n < ROUNDS; n++) {
        for (size_t c = 0; c < CANDIDATES; c++) key[c] = about * (1 - (real)1e-6 * (real)(n * CANDIDATES + c));
        memset(logit, 0, sizeof logit);
        for (size_t e = 0; e < size * size; e++)
            position_kernels()->table_logits(logit, CANDIDATES, &a, 1, key, weight, 1, CANDIDATES);
        for (size_t c = 0; c < CANDIDATES; c++) {
            const double error = direction * ((double)logit[c] - (double)a * (double)key[c] * (double)size);
            if (error <= most) continue;
            most = error;
            worst = key[c];
        }
    }
    return worst;
}

// Logits of a dense table are sums of D² terms of one sign, whose roundings add up.
static void test_dense_table(void **state) {
    (void)state;
    enum { SIZE = 64, LOGIT = 50 };
    AttentionSettings settings = certified_settings(16, SIZE);
    settings.heads = 1;
    settings.v_size = 1;
    settings.logit_scale = 1.0;
    settings.degree = 1;
    settings.logit_bound = 0.01;
    settings.bound = BOUND_BALL;
    settings.near_bound = NEAR_BOUND_NONE;
    settings.kernel = table_file_write_constant(SIZE, settings.tokens, true, 1.0 / SIZE, NULL);
    AttentionPlan *plan = attention_plan_new("toeplitz", &settings);
    AttentionProblem problem = attention_problem_new(&settings, 0, 1.0, 1);
    const real a = (real)sqrt((double)LOGIT / SIZE), keys[] = {worst_key(SIZE, a, a, 1), worst_key(SIZE, a, a, -1)};
    for (size_t i = 0; i < problem.q_count; i++) problem.q[i] = a;
    for (size_t i = 0; i < problem.k_count; i++) problem.k[i] = keys[i / SIZE % 2];
    for (size_t t = 0; t < settings.tokens; t++) {
        problem.v[t] = t % 2 ? 1 : -1;
        problem.d_o[t] = 1;
    }
    const Certified certified = certified_verify("certificates", "a dense table", &problem, plan);
    assert_true(certified.fell_back[0] == 0.0 && certified.bound[OUTPUT][0] < 1.0);
    attention_problem_free(&problem);
    attention_destroy(plan);
}

// Entries of W whose 16th power is no number of double precision, and queries and keys long enough for logits of 10
// from them: the head falls back, for its logits are measured.
static void test_tiny_table(void **state) {
    (void)state;
    AttentionSettings settings = certified_settings(40, 2);
    settings.logit_scale = 1.0;
    settings.bound = BOUND_NONE;
    settings.kernel = table_file_write_constant(2, settings.tokens, true, 5e-22, NULL); // of norm 1e-21
    AttentionPlan *plan = attention_plan_new("toeplitz", &settings);
    AttentionProblem problem = attention_problem_new(&settings, 0, 5e10, 3);
    const Certified certified = certified_verify("certificates", "a table of 1e-21", &problem, plan);
    double query = 0.0, key = 0.0;
    for (size_t t = 0; t < settings.tokens; t++) {
        query = fmax(query, hypot((double)problem.q[4 * t], (double)problem.q[4 * t + 1]));
        key = fmax(key, hypot((double)problem.k[2 * t], (double)problem.k[2 * t + 1]));
    }
    assert_true(certified.fell_back[0] == 1.0 && fabs(certified.logit_bound[0] / (1e-21 * query * key) - 1.0) < 1e-6);
    check_count("logits measured", 1);
    attention_problem_free(&problem);
    attention_destroy(plan);
}

// The ball is around q and k, and what W makes of them is within the interval whatever its norm: none falls back, and
// a table so small that no polynomial is good enough for it has that of a larger one.
static void test_norm_of_table(void **state) {
    (void)state;
    const double norms[] = {1e-21, 1e-3, 0.5, 1, 1.5, 2};
    for (size_t n = 0; n < 2 * 6; n++) {
        AttentionSettings settings = certified_settings(40, 2);
        settings.degree = 6;
        settings.bound = n / 6 ? BOUND_CLIP : BOUND_BALL;
        if (n / 6) settings.logit_bound = 0.0;
        settings.near_bound = NEAR_BOUND_SAME;
        settings.kernel = table_file_write_constant(2, settings.tokens, true, norms[n % 6] / 2.0, NULL);
        char label[64];
        snprintf(label, sizeof label, "a table of norm %g, bound %zu", norms[n % 6], n / 6);
        const Certified certified = certify_random(&settings, 3.0, n, label);
        if (certified.fell_back[0] + certified.fell_back[1] > 0.0)
            fail_msg("%s: fell back with logits of %g", label, certified.logit_bound[0]);
        assert_true(certified.bound[OUTPUT][0] < 0.5);
    }
}

// A table of zeros leaves its bias alone; entries that are clipped guarantee logits of 0 then.
static void test_zero_table(void **state) {
    (void)state;
    double bias[40];
    for (size_t t = 0; t < 40; t++) bias[t] = -0.1 * (double)t;
    for (size_t n = 0; n < 6; n++) {
        AttentionSettings settings = certified_settings(40, 2);
        settings.bound = n % 3 == 0 ? BOUND_CLIP : n % 3 == 1 ? BOUND_BALL : BOUND_NONE;
        if (n == 3) settings.logit_bound = 0.0; // clip: as entries guarantee
        settings.kernel = table_file_write_constant(2, settings.tokens, false, 0.0, bias);
        const Certified certified = certify_random(&settings, 1.0, n, "a table of zeros");
        assert_true(certified.fell_back[0] == 0.0 && certified.logit_bound[0] == 0.0 &&
                    certified.bound[OUTPUT][0] < 0.5);
    }
}

// The lags that the first tokens see are as good as masked, by biases far below those of later lags: their sums would
// be less than what rounding leaves of the others', and they meet their keys one by one. Where they are most of the
// tokens that is refused, with a near field that does the same.
static void test_low_biases(void **state) {
    (void)state;
    const double low[] = {-1, -5, -12, -20, -50, -1000};
    for (size_t n = 0; n < 2 * 3 * 6; n++) {
        const size_t lags[] = {1, 3, 160}, first = lags[n % 3], near = n / 3 % 2 ? first : 0; // lags of the low bias
        double bias[200] = {0};
        for (size_t t = 0; t < first; t++) bias[t] = low[n / 6];
        AttentionSettings settings = certified_settings(200, 2);
        settings.near = near;
        settings.degree = 4;
        settings.logit_bound = 0.5;
        settings.kernel = table_file_write_constant(2, settings.tokens, false, 0.9, bias);
        if (near == 0 && first == 160 && bias[0] < -10.0) {
            Error error = {0};
            AttentionPlan *plan = attention_create(&attention_toeplitz, &settings, &error);
            if (plan || error.kind != ERROR_USER || !strstr(error.message, "attention.near = 160,"))
                fail_msg("a bias of %g at 160 lags: expected a refusal, got '%s'", bias[0],
                         plan ? "a plan" : error.message);
            check_count("refusals", 1);
            continue;
        }
        const Certified certified = certify_random(&settings, 1.0, n, "low biases");
        assert_true(certified.fell_back[0] == 0.0 && certified.bound[OUTPUT][0] < 0.1);
    }
}

// Biases that fall fast, and logits so large that the worst rounding is of the size of a sum: but every token sees the
// largest bias, so sums are of that size, and certificates say what they are worth. Near ones may carry nearly all.
static void test_falling_biases(void **state) {
    (void)state;
    enum { TOKENS = 2048 };
    static double bias[TOKENS];
    for (size_t t = 0; t < TOKENS; t++) bias[t] = fmax(-2.0 * (double)t, -900.0);
    for (size_t n = 0; n < 2; n++) {
        AttentionSettings settings = certified_settings(TOKENS, 2);
        char text[512];
        settings.near = n ? 8 : 0;
        settings.degree = 10;
        settings.bound = BOUND_BALL;
        settings.logit_bound = 8.0;
        settings.kernel = table_file_write_constant(2, settings.tokens, false, 1.0, bias);
        AttentionPlan *plan = attention_plan_new("toeplitz", &settings);
        attention_explain(plan, text, sizeof text);
        assert_null(strstr(text, "one by one"));
        AttentionProblem problem = attention_problem_new(&settings, 0, 0.3, n);
        const Certified certified = certified_verify("certificates", "falling biases", &problem, plan);
        assert_true(certified.fell_back[0] == 0.0 && certified.bound[OUTPUT][0] < 1.0);
        attention_problem_free(&problem);
        attention_destroy(plan);
    }
}

// A run against the same polynomial.
static void compare_polynomial(const AttentionProblem *problem, const AttentionPlan *plan, const char *label) {
    const AttentionSettings *s = &problem->settings;
    static Polynomial polynomial;
    Error error = {0};
    assert_true(polynomial_create(&polynomial, s->polynomial, s->degree, toeplitz_interval(plan), &error));
    const ReferenceFar far = reference_polynomial(&polynomial);
    AttentionSolution solution = attention_solve(problem, true, &far);
    attention_compare("biases like masks", label, problem, &solution, 1e-4, 1e-4);
    attention_solution_free(&solution);
}

static void compare_decode(const AttentionProblem *problem, const AttentionPlan *plan) {
    const AttentionSettings *s = &problem->settings;
    const AttentionNeeds needs = attention_needs(plan);
    const size_t size = s->heads * s->v_size;
    real *memory = guarded_new(needs.decode_bytes / sizeof(real) + 1);
    real *scratch = guarded_new(needs.scratch_bytes / sizeof(real) + 1), *o = guarded_new(size);
    double *expected = malloc(size * sizeof *expected);
    attention_decode_begin(plan, memory);
    for (size_t t = 0; t < s->tokens; t++) {
        attention_decode(plan, memory, o, problem->q + t * problem->q_stride, problem->k + t * problem->k_stride,
                         problem->v + t * problem->v_stride, t, scratch);
        for (size_t e = 0; e < size; e++) expected[e] = (double)problem->o[t * problem->o_stride + e];
        check_close("decoding biases like masks", o, expected, size, 1e-4, 0.0);
    }
    free(expected);
    guarded_free(memory);
    guarded_free(scratch);
    guarded_free(o);
}

// Tokens 0 … 9 see their own key, of a logit that nothing bounds from below unless it is far too, and far ones under a
// bias that is a mask, or less than one. What they see must come from no later token, and be what decoding sees.
static void test_masked_far(void **state) {
    (void)state;
    enum { TOKENS = 132, FIRST = 10 };
    const double logits[] = {-1, -4, -9, -12, -16, -60}, masks[] = {-1000, -30, -14};
    for (size_t n = 0; n < 6 * 3 * 2 * 3; n++) {
        const size_t near = n / 18 % 2 ? 0 : 1, kind = n / 36; // degree 8, degree 2, power
        double bias[TOKENS] = {0};
        for (size_t t = near; t < FIRST; t++) bias[t] = masks[n / 6 % 3];
        AttentionSettings settings = certified_settings(TOKENS, 1);
        settings.near = near;
        settings.degree = kind == 0 ? 8 : 2;
        settings.polynomial = kind == 2 ? POLYNOMIAL_POWER : POLYNOMIAL_MINIMAX;
        settings.logit_scale = settings.entry_bound = 1.0;
        settings.bound = BOUND_CLIP;
        settings.kernel = table_file_write_constant(1, settings.tokens, false, 1.0, bias);
        AttentionPlan *plan = attention_plan_new("toeplitz", &settings);
        char text[512];
        attention_explain(plan, text, sizeof text);
        if (masks[n / 6 % 3] < -20 && !strstr(text, " tokens below the rest meet their far keys one by one"))
            fail_msg("%s", text);
        AttentionProblem problem = attention_problem_new(&settings, 0, 1.0, n);
        for (size_t i = 0; i < problem.q_count; i++) problem.q[i] = (real)sqrt(-logits[n % 6]);
        for (size_t i = 0; i < problem.k_count; i++) problem.k[i] = (real)-sqrt(-logits[n % 6]);
        char label[96];
        snprintf(label, sizeof label, "self logit %g, mask %g, near %zu, kind %zu", logits[n % 6], masks[n / 6 % 3],
                 near, kind);
        const Certified certified = certified_verify("certificates", label, &problem, plan);
        assert_true(certified.fell_back[0] == 0.0);
        assert_true(kind == 2 || (certified.bound[OUTPUT][0] < (kind ? 1.0 : 0.1) && isfinite(certified.bound[DK][0])));
        compare_polynomial(&problem, plan, label);
        compare_decode(&problem, plan);
        real before[FIRST * 8];
        memcpy(before, problem.o, sizeof before);
        for (size_t i = FIRST * problem.v_stride; i < problem.v_count; i++) problem.v[i] *= 1000;
        attention_problem_run(&problem, plan, NULL, NULL);
        check_same_bits("tokens that see no later one", problem.o, before, sizeof before);
        attention_problem_free(&problem);
        attention_destroy(plan);
    }
}

// The bias of a lag without a mask: the largest at lags that the last tokens, the first, all but the first, or all but
// the last do not see, and at lags of both signs, one of which every token sees.
static int two_sided_bias(size_t n, int t, int tokens) {
    const bool high[] = {10 - tokens > t, t > tokens - 10, t > 0, 0 > t, t > 0 || t == 1 - tokens};
    return high[n] ? 0 : -30;
}

// Refused where most tokens do not see the largest bias; where one token does not, it meets its keys one by one.
static void test_low_biases_without_mask(void **state) {
    (void)state;
    enum { TOKENS = 150 };
    char path[512];
    snprintf(path, sizeof path, "%s/both", temporary_directory());
    for (size_t n = 0; n < 5; n++) {
        FILE *file = fopen(path, "w");
        assert_non_null(file);
        fprintf(file, "rope-table 1\nsize 2\nlags %d %d\nsupport 0:0 1:1\nbias\ndata\n", 1 - TOKENS, TOKENS - 1);
        for (int t = 1 - TOKENS; t < TOKENS; t++) fprintf(file, "%d 1 1 %d\n", t, two_sided_bias(n, t, TOKENS));
        fprintf(file, "end\n");
        assert_int_equal(fclose(file), 0);
        AttentionSettings settings = certified_settings(TOKENS, 2);
        settings.causal = false;
        settings.near = 0;
        settings.kernel = path;
        settings.degree = 8;
        Error error = {0};
        AttentionPlan *plan = attention_create(&attention_toeplitz, &settings, &error);
        if (n >= 2 ? plan == NULL : plan || error.kind != ERROR_USER || !strstr(error.message, "attention.near"))
            fail_msg("case %zu: '%s'", n, plan ? "a plan" : error.message);
        if (n < 2) check_count("refusals", 1);
        error_clear(&error);
        if (!plan) continue;
        AttentionProblem problem = attention_problem_new(&settings, 0, 1.0, n);
        const Certified certified = certified_verify("certificates", "low biases without a mask", &problem, plan);
        assert_true(certified.fell_back[0] == 0.0 && certified.bound[OUTPUT][0] < 0.1);
        compare_polynomial(&problem, plan, "low biases without a mask");
        attention_problem_free(&problem);
        attention_destroy(plan);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_dense_table),   cmocka_unit_test(test_tiny_table),
    cmocka_unit_test(test_norm_of_table), cmocka_unit_test(test_zero_table),
    cmocka_unit_test(test_low_biases),    cmocka_unit_test(test_falling_biases),
    cmocka_unit_test(test_masked_far),    cmocka_unit_test(test_low_biases_without_mask),
};
TEST_MAIN(tests)
