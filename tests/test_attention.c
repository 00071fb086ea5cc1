// Every attention method in the registry against the double reference and against itself: values and gradients over a
// grid of shapes, kernels and bounds; causality; threads; decoding; masks. A method declares by its
// create() what it supports: what it refuses is counted, not tested. Built in single and (double_attention.c) in double
// precision; finite differences need the latter.
//
// Methods that approximate run where their polynomial is good to 1e-6 (Λ = 0.25, degree 4, everything bounded), so that
// one reference, true softmax of bounded logits, serves them all.

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "attention/method.h"
#include "core/threads.h"
#include "tests/support/attention_reference.h"
#include "tests/support/check.h"
#include "tests/support/table_file.h"

typedef struct Shape {
    size_t batch, tokens, heads, kv_heads, qk_size, v_size;
} Shape;

static AttentionSettings make_settings(Shape shape) {
    AttentionSettings s = attention_defaults();
    s.batch = shape.batch;
    s.tokens = shape.tokens;
    s.heads = shape.heads;
    s.kv_heads = shape.kv_heads;
    s.qk_size = shape.qk_size;
    s.v_size = shape.v_size;
    s.bound = BOUND_BALL;
    s.logit_bound = 0.25;
    s.near_bound = NEAR_BOUND_SAME;
    s.far_size = 0;
    s.degree = 4;
    s.near = 3;
    s.kernel_decay = 0.9;
    s.kernel_window = 7;
    s.tolerance = 1e-4;
    s.cost_exact = s.cost_lowrank = 1e-2; // auto: no measurements in tests
    return s;
}

static bool is_auto(const AttentionMethod *method) { return strcmp(attention_method_name(method), "auto") == 0; }
static bool is_exact(const AttentionMethod *method) { return strcmp(attention_method_name(method), "exact") == 0; }

// NULL, counted, if the method refuses.
static AttentionPlan *try_create(const AttentionMethod *method, const AttentionSettings *settings) {
    Error error = {0};
    AttentionPlan *plan = attention_create(method, settings, &error);
    if (plan) return plan;
    assert_true(error.kind == ERROR_USER && strlen(error.message) > 10);
    char what[96];
    snprintf(what, sizeof what, "%s: settings refused", attention_method_name(method));
    check_count(what, 1);
    return NULL;
}

static const Shape shapes[] = {
    {1, 1, 1, 1, 2, 1},   {1, 2, 1, 1, 4, 3},  {2, 5, 2, 1, 6, 5},    {1, 17, 4, 2, 8, 16},   {1, 63, 2, 2, 16, 8},
    {1, 64, 1, 1, 8, 17}, {1, 65, 3, 3, 4, 7}, {2, 130, 4, 1, 8, 20}, {1, 257, 1, 1, 12, 64}, {1, 49, 1, 1, 64, 33},
};
static const char *const kernels[] = {"rope", "rope-decay", "rope-window", "alibi", "table"};
static const char *const bound_names[] = {"none", "clip", "ball"};

enum { MOST_FLOPS = 20000000 }; // of approximate methods, which have tests of their own

static void compare_method(const AttentionMethod *method, AttentionProblem *problem, const AttentionSolution *solution,
                           const char *kernel) {
    const AttentionSettings *settings = &problem->settings;
    AttentionPlan *plan = try_create(method, settings);
    if (!plan) return;
    char what[96], detail[256];
    snprintf(what, sizeof what, "%s %s", attention_method_name(method), kernel);
    snprintf(detail, sizeof detail, "B=%zu T=%zu H=%zu G=%zu D=%zu E=%zu bound %s causal %d", settings->batch,
             settings->tokens, settings->heads, settings->kv_heads, settings->qk_size, settings->v_size,
             bound_names[settings->bound], settings->causal);
    if (!is_exact(method) && attention_needs(plan).forward_flops > MOST_FLOPS) {
        check_count("approximate methods too long for this test", 1);
    } else {
        double fell_back[8] = {0};
        AttentionReport report = {.fell_back = fell_back};
        attention_problem_run(problem, plan, NULL, &report);
        // a bound guarantees the interval, and a fallback to the true exp would say nothing of the polynomial
        for (size_t h = 0; settings->bound != BOUND_NONE && h < settings->heads; h++)
            if (fell_back[h] != 0.0) fail_msg("%s, %s: head %zu fell back", what, detail, h);
        // in double, the reference's own rounding counts as much
        const double exact = (sizeof(real) == 8 ? 1000.0 : 100.0) * REAL_EPSILON;
        const double tolerance = is_exact(method) ? exact : is_auto(method) ? 10.0 * settings->tolerance : 2e-5;
        attention_compare(what, detail, problem, solution, tolerance, tolerance);
    }
    attention_destroy(plan);
}

// All methods against one solution.
static void compare_case(const AttentionSettings *settings, const char *kernel, size_t index) {
    AttentionProblem problem = attention_problem_new(settings, index % 3, 1.5, 100 + index);
    AttentionSolution solution = attention_solve(&problem, false, NULL);
    for (size_t m = 0; m < attention_method_count(); m++) {
        const AttentionMethod *method = attention_method_at(m);
        // without a bound nothing keeps their logits small; with many dimensions they are slow to plan
        if (!is_exact(method) && (settings->bound == BOUND_NONE || settings->qk_size > 8)) continue;
        compare_method(method, &problem, &solution, kernel);
    }
    attention_solution_free(&solution);
    attention_problem_free(&problem);
}

static void test_against_reference(void **state) {
    (void)state;
    threads_set(1); // from here on: forks cost more than they bring to small problems, and test_threads looks at them
    size_t index = 0, tried = 0;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (size_t kernel = 0; kernel < 5; kernel++)
            for (size_t bound = 0; bound < 3; bound++)
                for (size_t causal = 0; causal < 2; causal++) {
                    AttentionSettings s = make_settings(shapes[i]);
                    s.bound = (AttentionBound)bound;
                    s.entry_bound = sqrt(s.logit_bound / sqrt((double)s.qk_size));
                    s.causal = causal;
                    if (bound == BOUND_CLIP && kernel == 4)
                        s.logit_bound = 0.0; // as it guarantees, with the table's norm
                    if (kernel == 4 && (s.tokens > 70 || s.qk_size > 16)) continue;
                    s.kernel = kernel == 4 ? table_file_write("table.txt", s.qk_size, s.tokens, true) : kernels[kernel];
                    if (index % check_share() == 0) compare_case(&s, kernels[kernel], index), tried++;
                    index++;
                }
    check_count("grid cases", tried);
}

// A table whose path, as given, begins like the name of a rotation is the table that it is, of odd sizes too.
static void test_path_like_a_name(void **state) {
    (void)state;
    char before[1024];
    assert_non_null(getcwd(before, sizeof before));
    for (size_t size = 3; size <= 4; size++) {
        AttentionSettings s = make_settings((Shape){1, 20, 2, 1, size, 5});
        s.bound = BOUND_NONE;
        s.kernel = table_file_write("rope-decay.txt", size, 20, true);
        char directory[1024];
        snprintf(directory, sizeof directory, "%s", s.kernel);
        *strrchr(directory, '/') = '\0';
        assert_int_equal(chdir(directory), 0);
        for (int name = 0; name < 2; name++) { // the reference is given the whole path, then the name alone
            AttentionProblem problem = attention_problem_new(&s, 0, 1.0, 7);
            AttentionSolution solution = attention_solve(&problem, false, NULL);
            s.kernel = "rope-decay.txt";
            AttentionPlan *plan = attention_plan_new("exact", &s);
            attention_problem_run(&problem, plan, NULL, NULL);
            const double tolerance = (sizeof(real) == 8 ? 1000.0 : 100.0) * REAL_EPSILON;
            attention_compare("table with a name like rope", name ? "name" : "path", &problem, &solution, tolerance,
                              tolerance);
            attention_solution_free(&solution);
            attention_problem_free(&problem);
            attention_destroy(plan);
        }
        assert_int_equal(chdir(before), 0);
    }
}

// Long enough for several segments, blocks and tiles; grouped heads.
static void test_long(void **state) {
    (void)state;
    threads_set(0);
    AttentionSettings s = make_settings((Shape){1, 600, 2, 1, 4, 16});
    compare_case(&s, "rope", 7);
    s.bound = BOUND_NONE;
    compare_case(&s, "rope", 8);
    s.causal = false;
    compare_case(&s, "rope", 9);
    threads_set(1);
}

// Changing the last tokens never changes an output before them: bit for bit, or to rounding where transforms mix tokens.
static void test_causality(void **state) {
    (void)state;
    for (size_t m = 0; m < attention_method_count(); m++)
        for (size_t kernel = 0; kernel < 4; kernel++) {
            const AttentionMethod *method = attention_method_at(m);
            AttentionSettings s = make_settings((Shape){1, 131, 2, 1, 4, 5});
            s.kernel = kernels[kernel];
            AttentionPlan *plan = try_create(method, &s);
            if (!plan) continue;
            const bool mixes = strcmp(attention_method_name(method), "toeplitz") == 0;
            AttentionProblem problem = attention_problem_new(&s, 0, 1.0, 5);
            attention_problem_run(&problem, plan, NULL, NULL);
            real *before = malloc(problem.o_count * sizeof(real));
            memcpy(before, problem.o, problem.o_count * sizeof(real));
            const size_t changes[] = {1, 3, 60, 64, 100, 130};
            for (size_t c = 0; c < sizeof changes / sizeof *changes; c++) {
                for (size_t a = 0; a < problem.k_stride; a++) problem.k[changes[c] * problem.k_stride + a] += 3;
                for (size_t a = 0; a < problem.v_stride; a++) problem.v[changes[c] * problem.v_stride + a] -= 50;
                for (size_t a = 0; a < problem.q_stride; a++) problem.q[changes[c] * problem.q_stride + a] *= 7;
                attention_problem_run(&problem, plan, NULL, NULL);
                const size_t kept = changes[c] * problem.o_stride;
                for (size_t e = 0; mixes && e < kept; e++)
                    assert_true(fabs((double)(problem.o[e] - before[e])) < 1e5 * REAL_EPSILON);
                if (mixes)
                    check_count("toeplitz causality, to rounding", kept);
                else
                    check_same_bits("causality", problem.o, before, kept * sizeof(real));
                assert_true(memcmp(problem.o + kept, before + kept, problem.o_stride * sizeof(real)) != 0);
                memcpy(before, problem.o, problem.o_count * sizeof(real));
            }
            free(before);
            attention_problem_free(&problem);
            attention_destroy(plan);
        }
}

static void copy_outputs(const AttentionProblem *problem, real *out) {
    memcpy(out, problem->o, problem->o_count * sizeof(real));
    memcpy(out += problem->o_count, problem->dq, problem->q_count * sizeof(real));
    memcpy(out += problem->q_count, problem->dk, problem->k_count * sizeof(real));
    memcpy(out + problem->k_count, problem->dv, problem->v_count * sizeof(real));
}

static void test_threads(void **state) {
    (void)state;
    const Shape tested[] = {{1, 1100, 1, 1, 8, 16}, {3, 70, 4, 2, 4, 6}};
    for (size_t m = 0; m < attention_method_count(); m++)
        for (size_t i = 0; i < 2; i++) {
            const AttentionSettings s = make_settings(tested[i]);
            AttentionProblem problem = attention_problem_new(&s, 0, 1.0, 9);
            const size_t count = problem.o_count + problem.q_count + problem.k_count + problem.v_count;
            real *one = malloc(count * sizeof(real)), *many = malloc(count * sizeof(real));
            for (size_t threads = 1; threads <= 8; threads += threads < 4 ? 1 : 4) {
                threads_set(threads);
                AttentionPlan *plan = try_create(attention_method_at(m), &s);
                if (!plan) break;
                if (threads > 1) threads_set(threads == 4 ? 8 : threads); // more threads than at create must do, too
                attention_problem_run(&problem, plan, NULL, NULL);
                copy_outputs(&problem, threads == 1 ? one : many);
                if (threads > 1) check_same_bits("1 to 8 threads", one, many, count * sizeof(real));
                attention_destroy(plan);
            }
            threads_set(1);
            free(one);
            free(many);
            attention_problem_free(&problem);
        }
}

static void test_decode(void **state) {
    (void)state;
    for (size_t m = 0; m < attention_method_count(); m++)
        for (size_t kernel = 0; kernel < 5; kernel++) {
            AttentionSettings s = make_settings((Shape){1, 150, 4, 2, 6, 9});
            s.kernel = kernel == 4 ? table_file_write("table.txt", 6, 150, true) : kernels[kernel];
            AttentionPlan *plan = try_create(attention_method_at(m), &s);
            if (!plan) continue;
            AttentionProblem problem = attention_problem_new(&s, 0, 1.0, 11);
            attention_problem_run(&problem, plan, NULL, NULL);
            const AttentionNeeds needs = attention_needs(plan);
            real *memory = guarded_new(needs.decode_bytes / sizeof(real) + 1);
            real *scratch = guarded_new(needs.scratch_bytes / sizeof(real) + 1), *o = guarded_new(4 * 9);
            attention_decode_begin(plan, memory);
            for (size_t t = 0; t < s.tokens; t++) {
                attention_decode(plan, memory, o, problem.q + t * problem.q_stride, problem.k + t * problem.k_stride,
                                 problem.v + t * problem.v_stride, t, scratch);
                double expected[4 * 9];
                for (size_t e = 0; e < 4 * 9; e++) expected[e] = problem.o[t * problem.o_stride + e];
                char what[96];
                snprintf(what, sizeof what, "%s decode", attention_method_name(attention_method_at(m)));
                const double tolerance = is_exact(attention_method_at(m))  ? 40.0 * REAL_EPSILON
                                         : is_auto(attention_method_at(m)) ? 10.0 * s.tolerance
                                                                           : 2e-5;
                check_close(what, o, expected, 4 * 9, tolerance, 0.0);
            }
            guarded_free(memory);
            guarded_free(scratch);
            guarded_free(o);
            attention_problem_free(&problem);
            attention_destroy(plan);
        }
}

// Heads that are not active keep what they hold; the others get the bits of a full run. Reports of active heads only.
static void test_active(void **state) {
    (void)state;
    for (size_t m = 0; m < attention_method_count(); m++) {
        const AttentionSettings s = make_settings((Shape){2, 70, 4, 2, 4, 6});
        AttentionPlan *plan = try_create(attention_method_at(m), &s);
        if (!plan) continue;
        AttentionProblem full = attention_problem_new(&s, 1, 1.0, 13), half = attention_problem_new(&s, 1, 1.0, 13);
        const bool active[] = {false, true};
        attention_problem_run(&full, plan, NULL, NULL);
        half.before = 1234; // not NaN, which heads that run on scratch nobody filled would write
        attention_problem_run(&half, plan, active, NULL);
        const struct {
            const real *full, *half;
            size_t stride, size, used;
        } pairs[] = {
            {full.o, half.o, full.o_stride, 2 * 6, 4 * 6},
            {full.dq, half.dq, full.q_stride, 2 * 4, 4 * 4},
            {full.dk, half.dk, full.k_stride, 4, 2 * 4},
            {full.dv, half.dv, full.v_stride, 6, 2 * 6},
        };
        for (size_t i = 0; i < 4; i++)
            for (size_t t = 0; t < 2 * 70; t++) {
                const real *kept = pairs[i].half + t * pairs[i].stride;
                for (size_t a = 0; a < pairs[i].size; a++) assert_true(kept[a] == 1234);
                check_same_bits("active heads", kept + pairs[i].size,
                                pairs[i].full + t * pairs[i].stride + pairs[i].size,
                                (pairs[i].used - pairs[i].size) * sizeof(real));
            }
        attention_problem_free(&full);
        attention_problem_free(&half);
        attention_destroy(plan);
    }
}

// Logits of ±1e4 and more: finite, and still softmax.
static void test_large_logits(void **state) {
    (void)state;
    AttentionSettings s = make_settings((Shape){1, 100, 1, 1, 16, 8});
    s.bound = BOUND_NONE;
    AttentionPlan *plan = try_create(attention_method_find("exact"), &s);
    AttentionProblem problem = attention_problem_new(&s, 0, 100.0, 17);
    attention_problem_run(&problem, plan, NULL, NULL);
    AttentionSolution solution = attention_solve(&problem, false, NULL);
    attention_compare("logits of 1e4", "", &problem, &solution, 1e6 * REAL_EPSILON, 1e6 * REAL_EPSILON);
    attention_solution_free(&solution);
    attention_problem_free(&problem);
    attention_destroy(plan);
}

// A NaN in one query or key must show in the outputs that saw it, and a NaN gradient in the gradients; the measured bound
// of the logits must not forget it for the finite rows behind it.
static void test_nan_shows(void **state) {
    (void)state;
    enum { TOKENS = 80, ROWS = 2 * TOKENS };
    for (size_t m = 0; m < attention_method_count(); m++) {
        const AttentionSettings s = make_settings((Shape){2, TOKENS, 1, 1, 4, 3});
        AttentionPlan *plan = try_create(attention_method_at(m), &s);
        if (!plan) continue;
        for (size_t cases = 0; cases < 4 * ROWS; cases++) {
            const size_t which = cases % 4, row = cases / 4;
            AttentionProblem problem = attention_problem_new(&s, 0, 1.0, 19);
            real *const inputs[] = {problem.q, problem.k, problem.v, problem.d_o};
            inputs[which][row * (which < 2 ? 4 : 3)] = (real)NAN;
            double logit_bound = 0;
            attention_problem_run(&problem, plan, NULL, &(AttentionReport){.logit_bound = &logit_bound});
            bool shows = false;
            for (size_t i = 0; i < problem.o_count; i++) shows = shows || isnan(problem.o[i]);
            for (size_t i = 0; i < problem.q_count; i++) shows = shows || isnan(problem.dq[i]);
            for (size_t i = 0; i < problem.v_count; i++) shows = shows || isnan(problem.dv[i]);
            assert_true(shows);
            if (isnan(logit_bound) != (which < 2))
                fail_msg("%s: the bound is %g with a NaN in input %zu, row %zu",
                         attention_method_name(attention_method_at(m)), logit_bound, which, row);
            check_count("NaN shows", 1);
            attention_problem_free(&problem);
        }
        attention_destroy(plan);
    }
}

static void test_report(void **state) {
    (void)state;
    AttentionSettings s = make_settings((Shape){1, 40, 2, 1, 4, 3});
    s.bound = BOUND_CLIP;
    s.entry_bound = 1.0;
    AttentionPlan *plan = try_create(attention_method_find("exact"), &s);
    AttentionProblem problem = attention_problem_new(&s, 0, 1.0, 23);
    double values[8][2];
    memset(values, 0xff, sizeof values);
    AttentionReport report = {values[0], values[1], values[2], values[3], values[4], values[5], values[6], values[7]};
    attention_problem_run(&problem, plan, NULL, &report);
    for (size_t h = 0; h < 2; h++) {
        size_t clipped = 0;
        double longest[2] = {0.0, 0.0};
        for (size_t t = 0; t < 40; t++) {
            double square[2] = {0.0, 0.0};
            for (size_t a = 0; a < 4; a++) {
                const double pair[2] = {problem.q[t * problem.q_stride + h * 4 + a],
                                        problem.k[t * problem.k_stride + a]};
                for (size_t i = 0; i < 2; i++) {
                    clipped += fabs(pair[i]) > 1.0;
                    square[i] += fmin(1.0, fabs(pair[i])) * fmin(1.0, fabs(pair[i]));
                }
            }
            for (size_t i = 0; i < 2; i++) longest[i] = fmax(longest[i], sqrt(square[i]));
        }
        assert_true(clipped > 0);
        assert_float_equal(report.logit_bound[h], 0.5 * longest[0] * longest[1], 1e-5);
        assert_float_equal(report.clipped[h], (double)clipped / 320.0, 1e-12);
        for (size_t i = 1; i < 5; i++) assert_true(values[i][h] == 0.0); // certificates
        assert_true(report.fell_back[h] == 0.0);
        assert_ptr_equal(attention_method_at((size_t)report.method_used[h]), attention_method_find("exact"));
        check_count("reports", 1);
    }
    attention_problem_free(&problem);
    attention_destroy(plan);
}

#ifdef ROPE_DOUBLE
// Σ d_o·o as the forward computes it.
static double objective(AttentionProblem *problem, const AttentionPlan *plan) {
    real *const d_o = problem->d_o;
    problem->d_o = NULL; // forward only
    attention_problem_run(problem, plan, NULL, NULL);
    problem->d_o = d_o;
    double sum = 0.0;
    for (size_t i = 0; i < problem->o_count; i++) sum += d_o[i] * problem->o[i];
    return sum;
}

static void differentiate(AttentionProblem *problem, const AttentionPlan *plan, const char *what) {
    real *const inputs[] = {problem->q, problem->k, problem->v}, *const outputs[] = {problem->dq, problem->dk,
                                                                                     problem->dv};
    const size_t counts[] = {problem->q_count, problem->k_count, problem->v_count};
    for (size_t i = 0; i < 3; i++) {
        real *gradient = malloc(counts[i] * sizeof(real));
        double *numeric = malloc(counts[i] * sizeof(double));
        attention_problem_run(problem, plan, NULL, NULL);
        memcpy(gradient, outputs[i], counts[i] * sizeof(real));
        for (size_t a = 0; a < counts[i]; a++) {
            const real x = inputs[i][a], h = 6e-6 * fmax(1.0, fabs(x));
            inputs[i][a] = x + h;
            const double above = objective(problem, plan);
            inputs[i][a] = x - h;
            numeric[a] = (above - objective(problem, plan)) / (2.0 * h);
            inputs[i][a] = x;
        }
        check_close(what, gradient, numeric, counts[i], 1e-8, 1e-6);
        free(gradient);
        free(numeric);
    }
}

static void test_finite_differences(void **state) {
    (void)state;
    const Shape tested[] = {{1, 1, 1, 1, 2, 2}, {1, 9, 2, 1, 4, 3}, {2, 7, 2, 2, 2, 1}, {1, 67, 1, 1, 2, 2}};
    for (size_t m = 0; m < attention_method_count(); m++)
        for (size_t i = 0; i < 4; i++)
            for (size_t kernel = 0; kernel < 5; kernel++)
                for (size_t bound = 0; bound < 3; bound++) {
                    AttentionSettings s = make_settings(tested[i]);
                    s.kernel = kernel == 4 ? table_file_write("table.txt", s.qk_size, s.tokens, true) : kernels[kernel];
                    s.bound = (AttentionBound)bound;
                    s.logit_bound = 1.0;
                    s.entry_bound = sqrt(1.0 / sqrt((double)s.qk_size));
                    if (s.tokens > 60 && (kernel > 0 || bound != 2)) continue; // one long case for each method
                    AttentionPlan *plan = try_create(attention_method_at(m), &s);
                    if (!plan) continue;
                    AttentionProblem problem = attention_problem_new(&s, 0, 1.0, 31 + i);
                    char what[96];
                    snprintf(what, sizeof what, "%s finite differences", attention_method_name(attention_method_at(m)));
                    differentiate(&problem, plan, what);
                    attention_problem_free(&problem);
                    attention_destroy(plan);
                }
}
#else
// T = 65536 (or the share of it) in single precision against double, on sampled rows, the last one included.
static void test_sampled_rows(void **state) {
    (void)state;
    enum { SAMPLES = 24 };
    const size_t tokens = 65536 / check_share();
    const AttentionSettings s = {.batch = 1,
                                 .tokens = tokens,
                                 .heads = 1,
                                 .kv_heads = 1,
                                 .qk_size = 8,
                                 .v_size = 16,
                                 .causal = true,
                                 .kernel = "rope",
                                 .rope_theta = 10000.0};
    AttentionPlan *plan = try_create(attention_method_find("exact"), &s);
    AttentionProblem problem = attention_problem_new(&s, 0, 1.5, 3);
    guarded_free(problem.d_o);
    problem.d_o = NULL; // forward only: T² is long enough
    attention_problem_run(&problem, plan, NULL, NULL);
    AttentionReference *reference = reference_create(&s, false, NULL, NULL);
    reference_load(reference, 0, problem.q, problem.q_stride, problem.k, problem.k_stride, problem.v, problem.v_stride);
    for (size_t sample = 0; sample < SAMPLES; sample++) {
        const size_t i = tokens - 1 - sample * (tokens / SAMPLES);
        double expected[16];
        reference_row(reference, i, expected);
        check_close("rows of a long context", problem.o + i * problem.o_stride, expected, 16, 40.0 * REAL_EPSILON, 0.0);
    }
    reference_destroy(reference);
    attention_problem_free(&problem);
    attention_destroy(plan);
}

#endif

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_against_reference),
    cmocka_unit_test(test_path_like_a_name),
    cmocka_unit_test(test_long),
    cmocka_unit_test(test_causality),
    cmocka_unit_test(test_threads),
    cmocka_unit_test(test_decode),
    cmocka_unit_test(test_active),
    cmocka_unit_test(test_large_logits),
    cmocka_unit_test(test_nan_shows),
    cmocka_unit_test(test_report),
#ifdef ROPE_DOUBLE
    cmocka_unit_test(test_finite_differences),
#else
    cmocka_unit_test(test_sampled_rows),
#endif
};

TEST_MAIN(tests)
