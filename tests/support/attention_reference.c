// Attention problems for tests (attention_reference.h).
#include "tests/support/attention_reference.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/random.h"
#include "tests/support/check.h"

AttentionPlan *attention_plan_new(const char *method, const AttentionSettings *settings) {
    Error error = {0};
    AttentionPlan *plan = attention_create(attention_method_find(method), settings, &error);
    if (!plan) fail_msg("%s: %s", method, error.message);
    return plan;
}

static double far_value(const void *context, double x) { return polynomial_value(context, x); }
static double far_slope(const void *context, double x) { return polynomial_derivative(context, x); }

ReferenceFar reference_polynomial(const Polynomial *polynomial) {
    return (ReferenceFar){far_value, far_slope, polynomial};
}

// (rows) rows of `size` normal numbers each, `stride` apart, NaN between.
static real *draw(size_t rows, size_t size, size_t stride, double deviation, uint64_t seed, uint64_t step) {
    real *values = guarded_new(rows * stride);
    const Random random = {seed, RANDOM_TEST, step};
    for (size_t t = 0; t < rows; t++)
        for (size_t a = 0; a < size; a++)
            values[t * stride + a] = (real)(deviation * random_normal(random, t * size + a));
    return values;
}

AttentionProblem attention_problem_new(const AttentionSettings *settings, size_t gap, double deviation, uint64_t seed) {
    const size_t rows = settings->batch * settings->tokens, q = settings->heads * settings->qk_size;
    const size_t k = settings->kv_heads * settings->qk_size, v = settings->kv_heads * settings->v_size;
    const size_t o = settings->heads * settings->v_size;
    AttentionProblem problem = {.settings = *settings,
                                .q_stride = q + gap,
                                .k_stride = k + gap,
                                .v_stride = v + gap,
                                .o_stride = o + gap,
                                .before = (real)NAN};
    problem.q_count = rows * problem.q_stride;
    problem.k_count = rows * problem.k_stride;
    problem.v_count = rows * problem.v_stride;
    problem.o_count = rows * problem.o_stride;
    problem.q = draw(rows, q, problem.q_stride, deviation, seed, 1);
    problem.k = draw(rows, k, problem.k_stride, deviation, seed, 2);
    problem.v = draw(rows, v, problem.v_stride, 1.0, seed, 3);
    problem.d_o = draw(rows, o, problem.o_stride, 1.0, seed, 4);
    problem.o = guarded_new(problem.o_count);
    problem.dq = guarded_new(problem.q_count);
    problem.dk = guarded_new(problem.k_count);
    problem.dv = guarded_new(problem.v_count);
    return problem;
}

void attention_problem_free(AttentionProblem *problem) {
    real *const buffers[] = {problem->q, problem->k,  problem->v,  problem->d_o,
                             problem->o, problem->dq, problem->dk, problem->dv};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        if (buffers[i]) guarded_free(buffers[i]);
    *problem = (AttentionProblem){0};
}

static void forget(real *values, size_t count, real value) {
    for (size_t i = 0; i < count; i++) values[i] = value;
}

void attention_problem_run(AttentionProblem *problem, const AttentionPlan *plan, const bool *active,
                           AttentionReport *report) {
    const AttentionNeeds needs = attention_needs(plan);
    real *saved = guarded_new((needs.saved_bytes + sizeof(real) - 1) / sizeof(real) + 1);
    real *scratch = guarded_new((needs.scratch_bytes + sizeof(real) - 1) / sizeof(real) + 1);
    forget(problem->o, problem->o_count, problem->before);
    forget(problem->dq, problem->q_count, problem->before);
    forget(problem->dk, problem->k_count, problem->before);
    forget(problem->dv, problem->v_count, problem->before);
    const AttentionForward forward = {.o = problem->o,
                                      .q = problem->q,
                                      .k = problem->k,
                                      .v = problem->v,
                                      .o_stride = problem->o_stride,
                                      .q_stride = problem->q_stride,
                                      .k_stride = problem->k_stride,
                                      .v_stride = problem->v_stride,
                                      .active = active,
                                      .report = report,
                                      .saved = saved,
                                      .scratch = scratch};
    attention_forward(plan, &forward);
    if (problem->d_o) {
        const AttentionBackward backward =
            attention_backward_after(&forward, problem->d_o, problem->dq, problem->dk, problem->dv);
        forget(scratch, needs.scratch_bytes / sizeof(real), (real)NAN); // nothing may survive there
        attention_backward(plan, &backward);
    }
    guarded_free(saved);
    guarded_free(scratch);
    real *const outputs[] = {problem->o, problem->dq, problem->dk, problem->dv};
    for (size_t i = 0; i < 4; i++) guarded_check(outputs[i]);
}

AttentionSolution attention_solve(const AttentionProblem *problem, bool near_far, const ReferenceFar *far) {
    const AttentionSettings *s = &problem->settings;
    const size_t rows = s->batch * s->tokens, D = s->qk_size, E = s->v_size, group = s->heads / s->kv_heads;
    AttentionSolution solution = {
        calloc(rows * s->heads * E, sizeof(double)), calloc(rows * s->heads * D, sizeof(double)),
        calloc(rows * s->kv_heads * D, sizeof(double)), calloc(rows * s->kv_heads * E, sizeof(double))};
    Error error = {0};
    AttentionReference *reference = reference_create(s, near_far, far, &error);
    if (!reference) fail_msg("%s", error.message);
    for (size_t b = 0; b < s->batch; b++)
        for (size_t h = 0; h < s->heads; h++) {
            const size_t g = h / group, at = b * s->tokens;
            reference_load(reference, h, problem->q + at * problem->q_stride + h * D, problem->q_stride,
                           problem->k + at * problem->k_stride + g * D, problem->k_stride,
                           problem->v + at * problem->v_stride + g * E, problem->v_stride);
            for (size_t i = 0; i < s->tokens; i++) {
                reference_row(reference, i, solution.o + ((at + i) * s->heads + h) * E);
                if (problem->d_o)
                    reference_row_backward(reference, i, problem->d_o + (at + i) * problem->o_stride + h * E);
            }
            reference_gradients(reference, solution.dq + (at * s->heads + h) * D, s->heads * D,
                                solution.dk + (at * s->kv_heads + g) * D, s->kv_heads * D,
                                solution.dv + (at * s->kv_heads + g) * E, s->kv_heads * E);
        }
    reference_destroy(reference);
    return solution;
}

void attention_solution_free(AttentionSolution *solution) {
    free(solution->o);
    free(solution->dq);
    free(solution->dk);
    free(solution->dv);
    *solution = (AttentionSolution){0};
}

// Packs the rows that hold values, and checks that the gaps between them were left alone.
static double compare(const char *what, const char *detail, const real *actual, size_t rows, size_t size, size_t stride,
                      const double *expected, double absolute, double relative) {
    real *packed = malloc(rows * size * sizeof(real));
    for (size_t t = 0; t < rows; t++) {
        memcpy(packed + t * size, actual + t * stride, size * sizeof(real));
        for (size_t a = size; a < stride; a++)
            if (!isnan(actual[t * stride + a])) fail_msg("%s: the gap after row %zu was written", what, t);
    }
    bool wrong = false;
    for (size_t i = 0; i < rows * size; i++)
        wrong = wrong || !(fabs((double)packed[i] - expected[i]) <= absolute + relative * fabs(expected[i]));
    if (wrong) print_message("%s: %s\n", what, detail); // check_close fails the test and knows no detail
    const double error = check_close(what, packed, expected, rows * size, absolute, relative);
    free(packed);
    return error;
}

static double largest(const double *values, size_t count) {
    double most = 0.0;
    for (size_t i = 0; i < count; i++) most = fmax(most, fabs(values[i]));
    return most;
}

double attention_compare(const char *what, const char *detail, const AttentionProblem *problem,
                         const AttentionSolution *solution, double absolute, double relative) {
    const AttentionSettings *s = &problem->settings;
    const size_t rows = s->batch * s->tokens, q = s->heads * s->qk_size, k = s->kv_heads * s->qk_size;
    const size_t v = s->kv_heads * s->v_size, o = s->heads * s->v_size;
    char name[256];
    snprintf(name, sizeof name, "%s: o", what);
    const double error = compare(name, detail, problem->o, rows, o, problem->o_stride, solution->o, absolute, relative);
    if (!problem->d_o) return error;
    const struct {
        const char *name;
        const real *actual;
        size_t size, stride;
        const double *expected;
    } gradients[] = {
        {"dq", problem->dq, q, problem->q_stride, solution->dq},
        {"dk", problem->dk, k, problem->k_stride, solution->dk},
        {"dv", problem->dv, v, problem->v_stride, solution->dv},
    };
    for (size_t i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "%s: %s", what, gradients[i].name);
        const double scale = 1.0 + largest(gradients[i].expected, rows * gradients[i].size);
        compare(name, detail, gradients[i].actual, rows, gradients[i].size, gradients[i].stride, gradients[i].expected,
                absolute * scale, relative);
    }
    return error;
}
