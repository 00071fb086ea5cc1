// Method toeplitz in double precision: against the reference that evaluates the same polynomial pair by pair, over
// kernels, shapes, degrees and masks; and its gradients against finite differences of its own forward.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attention/method.h"
#include "attention/polynomial.h"
#include "attention/toeplitz.h"
#include "core/random.h"
#include "tests/support/attention_reference.h"
#include "tests/support/check.h"
#include "tests/support/table_file.h"

static AttentionSettings small_settings(const char *kernel, size_t tokens, size_t size) {
    AttentionSettings settings = attention_defaults();
    settings.batch = 2;
    settings.tokens = tokens;
    settings.heads = 2;
    settings.kv_heads = 1;
    settings.qk_size = size;
    settings.v_size = 3;
    settings.kernel = kernel;
    settings.rope_theta = 50.0;
    settings.kernel_decay = 0.97;
    settings.kernel_window = 9;
    settings.logit_bound = 2.0;
    settings.far_size = 0;
    settings.near = 0;
    settings.degree = 2;
    return settings;
}

// Fits take tens of milliseconds: each one is made once.
static const Polynomial *polynomial_of(const AttentionSettings *settings, double interval) {
    enum { MOST = 64 };
    static Polynomial cache[MOST];
    static size_t used;
    for (size_t i = 0; i < used; i++)
        if (cache[i].degree == settings->degree && cache[i].interval == interval) return &cache[i];
    assert_true(used < MOST);
    Error error = {0};
    if (!polynomial_create(&cache[used], settings->polynomial, settings->degree, interval, &error))
        fail_msg("%s", error.message);
    return &cache[used++];
}

static double compare(const char *what, const AttentionSettings *settings, double deviation, double tolerance) {
    AttentionPlan *plan = attention_plan_new("toeplitz", settings);
    const ReferenceFar far =
        reference_polynomial(settings->far == FAR_POLYNOMIAL ? polynomial_of(settings, toeplitz_interval(plan)) : NULL);
    AttentionProblem problem = attention_problem_new(settings, 3, deviation, 7);
    attention_problem_run(&problem, plan, NULL, NULL);
    AttentionSolution solution = attention_solve(&problem, true, &far);
    char detail[200];
    snprintf(detail, sizeof detail, "%s T=%zu D=%zu g=%zu near=%zu causal=%d", settings->kernel, settings->tokens,
             settings->qk_size, settings->degree, settings->near, settings->causal);
    double error_size = attention_compare(what, detail, &problem, &solution, tolerance, tolerance);
    attention_solution_free(&solution);
    attention_problem_free(&problem);
    attention_destroy(plan);
    return error_size;
}

static void test_kernels(void **state) {
    (void)state;
    const char *kernels[] = {"rope", "rope-decay", "rope-window", "alibi", "table"};
    const size_t tokens[] = {1, 2, 33, 129};
    double worst = 0.0;
    for (size_t k = 0; k < 5; k++)
        for (size_t t = 0; t < 4; t++)
            for (size_t size = 2; size <= 6; size += 2)
                for (size_t degree = 1; degree <= 4; degree++)
                    for (size_t causal = 0; causal < 2; causal++) {
                        if (size == 6 && (degree > 2 || t % 2 == 0)) continue; // the largest cases once
                        if (t < 2 && degree % 2) continue;                     // and few of the tiny ones
                        AttentionSettings settings = small_settings(kernels[k], tokens[t], size);
                        char name[32];
                        snprintf(name, sizeof name, "table%zu_%zu", size, tokens[t]);
                        if (k == 4) settings.kernel = table_file_write(name, size, tokens[t], true);
                        settings.degree = degree;
                        settings.causal = causal;
                        settings.logit_bound = k == 4 ? 4.0 : 2.0; // ‖W‖ of the table is up to 1.8
                        settings.bound = k == 4 ? BOUND_CLIP : BOUND_BALL;
                        settings.entry_bound = 0.8;
                        if (k == 4) settings.logit_scale = 0.3;
                        worst = fmax(worst, compare("toeplitz, reference", &settings, 1.0, 1e-11));
                    }
    printf("largest error of o: %.2g\n", worst);
}

static void test_near(void **state) {
    (void)state;
    const char *kernels[] = {"rope", "rope-decay", "rope-window", "alibi"};
    for (size_t k = 0; k < 4; k++)
        for (size_t near = 1; near <= 70; near = near * 7 + 3)
            for (size_t same = 0; same < 2; same++)
                for (size_t far = 0; far < 3; far++)
                    for (size_t far_size = 0; far_size <= (k < 3 ? 2 : 0); far_size += 2) {
                        AttentionSettings settings = small_settings(kernels[k], 131, 4);
                        settings.near = near;
                        settings.near_bound = same ? NEAR_BOUND_SAME : NEAR_BOUND_NONE;
                        settings.far = (AttentionFar)far;
                        settings.far_size = far_size;
                        compare("near field, reference", &settings, 2.0, 1e-11);
                    }
}

// Bounds of all kinds, and a head whose logits leave the interval: it must run the true exp.
static void test_fallback(void **state) {
    (void)state;
    AttentionSettings settings = small_settings("rope", 75, 4);
    settings.bound = BOUND_CLIP;
    settings.entry_bound = 0.5;
    compare("clip, reference", &settings, 1.0, 1e-11);
    settings.bound = BOUND_NONE;
    AttentionReport report = {.fell_back = (double[2]){0}, .logit_bound = (double[2]){0}};
    for (size_t near = 0; near <= 8; near += 8) {
        settings.near = near;
        AttentionPlan *plan = attention_plan_new("toeplitz", &settings);
        AttentionProblem problem = attention_problem_new(&settings, 0, 3.0, 5);
        attention_problem_run(&problem, plan, NULL, &report);
        assert_true(report.fell_back[0] == 2.0 && report.fell_back[1] == 2.0 && report.logit_bound[0] > 2.0);
        problem.settings.far = FAR_EXACT;
        AttentionSolution solution = attention_solve(&problem, true, NULL);
        attention_compare("fallback, reference", "", &problem, &solution, 1e-11, 1e-11);
        attention_solution_free(&solution);
        attention_problem_free(&problem);
        attention_destroy(plan);
    }
}

// Σ d_o·o of the method itself.
static double objective(AttentionProblem *problem, const AttentionPlan *plan) {
    real *d_o = problem->d_o;
    problem->d_o = NULL; // forward only
    attention_problem_run(problem, plan, NULL, NULL);
    problem->d_o = d_o;
    double sum = 0.0;
    const AttentionSettings *s = &problem->settings;
    for (size_t t = 0; t < s->batch * s->tokens; t++)
        for (size_t e = 0; e < s->heads * s->v_size; e++)
            sum += d_o[t * problem->o_stride + e] * problem->o[t * problem->o_stride + e];
    return sum;
}

static void check_differences(const char *what, AttentionProblem *problem, const AttentionPlan *plan, real *x,
                              const real *gradient, size_t stride, size_t width) {
    const AttentionSettings *s = &problem->settings;
    const Random random = {11, RANDOM_TEST, 0};
    for (size_t n = 0; n < 24; n++) {
        size_t at = random_below(random, 2 * n, s->batch * s->tokens) * stride + random_below(random, 2 * n + 1, width);
        const double h = 1e-5, kept = x[at];
        x[at] = kept + h;
        double high = objective(problem, plan);
        x[at] = kept - h;
        double low = objective(problem, plan);
        x[at] = kept;
        double expected = (high - low) / (2 * h);
        check_close(what, &gradient[at], &expected, 1, 1e-8, 1e-7);
    }
}

static void test_differences(void **state) {
    (void)state;
    const char *kernels[] = {"rope", "rope-decay", "rope-window", "alibi", "table"};
    for (size_t k = 0; k < 5; k++)
        for (size_t near = 0; near <= 5; near += 5) {
            AttentionSettings settings = small_settings(kernels[k], 41, 4);
            settings.near = near;
            settings.degree = 3;
            if (k == 4) settings.kernel = table_file_write("differences", 4, 41, true);
            if (k == 4) settings.bound = BOUND_NONE;
            if (k == 4) settings.polynomial = POLYNOMIAL_POWER, settings.degree = 2;
            AttentionPlan *plan = attention_plan_new("toeplitz", &settings);
            AttentionProblem problem = attention_problem_new(&settings, 0, 1.0, 3);
            attention_problem_run(&problem, plan, NULL, NULL);
            // the forward runs below overwrite o only
            size_t q = problem.q_count, kv = problem.k_count, v = problem.v_count;
            real *dq = malloc(q * sizeof(real)), *dk = malloc(kv * sizeof(real)), *dv = malloc(v * sizeof(real));
            memcpy(dq, problem.dq, q * sizeof(real));
            memcpy(dk, problem.dk, kv * sizeof(real));
            memcpy(dv, problem.dv, v * sizeof(real));
            check_differences("dq, finite differences", &problem, plan, problem.q, dq, problem.q_stride, 8);
            check_differences("dk, finite differences", &problem, plan, problem.k, dk, problem.k_stride, 4);
            check_differences("dv, finite differences", &problem, plan, problem.v, dv, problem.v_stride, 3);
            free(dq), free(dk), free(dv);
            attention_problem_free(&problem);
            attention_destroy(plan);
        }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_kernels),
    cmocka_unit_test(test_near),
    cmocka_unit_test(test_fallback),
    cmocka_unit_test(test_differences),
};
TEST_MAIN(tests)
