// Method lowrank in double precision: equal to a plain T×T evaluation of the same polynomial, forward and backward, over
// a grid of shapes and settings; and its gradient against central differences of its own forward.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attention/lowrank.h"
#include "core/random.h"
#include "core/threads.h"
#include "tests/support/attention_reference.h"
#include "tests/support/check.h"

static void describe(const AttentionSettings *s, char *text, size_t size) {
    snprintf(text, size, "B%zu T%zu H%zu G%zu D%zu E%zu g%zu C%zu near%zu/%d bound%d far%d/%zu P%d", s->batch,
             s->tokens, s->heads, s->kv_heads, s->qk_size, s->v_size, s->degree, s->chunk, s->near, s->near_bound,
             s->bound, s->far, s->far_size, s->polynomial);
}

// Runs one case and compares outputs and gradients with the reference.
static void check_case(const AttentionSettings *settings, double deviation, uint64_t seed) {
    char text[200];
    describe(settings, text, sizeof text);
    AttentionProblem problem = attention_problem_new(settings, 3, deviation, seed);
    AttentionPlan *plan = attention_plan_new("lowrank", settings);
    const LowrankPlan *lowrank = (const LowrankPlan *)plan;
    const ReferenceFar far = reference_polynomial(&lowrank->polynomial);
    double fell_back[64] = {0};
    AttentionReport report = {.fell_back = fell_back};
    attention_problem_run(&problem, plan, NULL, &report);
    for (size_t h = 0; h < settings->heads; h++)
        if (fell_back[h] != 0) fail_msg("%s: head %zu fell back", text, h);
    AttentionSolution solution = attention_solve(&problem, true, &far);
    attention_compare("against T×T evaluation", text, &problem, &solution, 1e-9, 1e-9);
    attention_solution_free(&solution);
    attention_problem_free(&problem);
    attention_destroy(plan);
}

static AttentionSettings base_settings(void) {
    AttentionSettings s = attention_defaults();
    s.batch = 1, s.tokens = 37, s.heads = 2, s.kv_heads = 1, s.qk_size = 8, s.v_size = 8;
    s.far_size = 0, s.degree = 2, s.logit_bound = 1, s.near = 5, s.chunk = 8;
    return s;
}

static void test_shapes(void **state) {
    (void)state;
    const size_t tokens[] = {1, 2, 7, 37, 64, 97}, nears[] = {0, 1, 5, 16, 200}, chunks[] = {0, 1, 5, 16, 33};
    uint64_t seed = 1;
    for (size_t t = 0; t < 6; t++)
        for (size_t n = 0; n < 5; n++)
            for (size_t c = 0; c < 5; c++) {
                AttentionSettings s = base_settings();
                s.tokens = tokens[t], s.near = nears[n], s.chunk = chunks[c];
                check_case(&s, 1.0, seed++);
            }
}

static void test_sizes(void **state) {
    (void)state;
    const struct {
        size_t qk, v, far, degree;
    } sizes[] = {
        {4, 4, 0, 1},   {4, 5, 0, 8},  {8, 16, 4, 4},  {8, 3, 2, 6},   {12, 64, 6, 3}, {16, 1, 0, 2},
        {16, 16, 8, 4}, {32, 8, 8, 5}, {64, 64, 8, 4}, {64, 17, 0, 1}, {6, 33, 0, 10}, {2, 2, 0, 7},
        {6, 5, 10, 3}, // far_size above D: all
    };
    const struct { size_t batch, heads, kv_heads; } groups[] = {{1, 1, 1}, {2, 4, 2}, {1, 6, 2}, {3, 3, 3}};
    uint64_t seed = 1000;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (size_t j = 0; j < 4; j++) {
            AttentionSettings s = base_settings();
            s.tokens = 53, s.near = 7;
            s.qk_size = sizes[i].qk, s.v_size = sizes[i].v, s.far_size = sizes[i].far, s.degree = sizes[i].degree;
            s.batch = groups[j].batch, s.heads = groups[j].heads, s.kv_heads = groups[j].kv_heads;
            check_case(&s, 1.0, seed++);
        }
}

static void test_settings(void **state) {
    (void)state;
    uint64_t seed = 2000;
    for (int bound = BOUND_NONE; bound <= BOUND_BALL; bound++)
        for (int near_bound = NEAR_BOUND_NONE; near_bound <= NEAR_BOUND_SAME; near_bound++)
            for (int far = FAR_POLYNOMIAL; far <= FAR_NONE; far++)
                for (int kind = POLYNOMIAL_MINIMAX; kind <= POLYNOMIAL_POWER; kind++)
                    for (int some = 0; some < 2; some++) {
                        AttentionSettings s = base_settings();
                        s.bound = bound, s.near_bound = near_bound, s.far = far, s.polynomial = kind;
                        s.far_size = some ? 4 : 0, s.degree = 4, s.logit_bound = 2, s.entry_bound = 0.8;
                        s.batch = 2, s.heads = 4, s.kv_heads = 2;
                        // without a bound the inputs must be small enough not to fall back
                        check_case(&s, bound == BOUND_NONE ? 0.3 : 1.5, seed++);
                    }
}

// (1 + x/g)^g needs no interval: the largest Λ of the configuration is no obstacle, bound or not.
static void test_power(void **state) {
    (void)state;
    for (int bound = BOUND_NONE; bound <= BOUND_BALL; bound++) {
        AttentionSettings s = base_settings();
        s.bound = bound, s.polynomial = POLYNOMIAL_POWER, s.logit_bound = 80, s.entry_bound = 8;
        check_case(&s, 1.5, 2900 + bound);
    }
}

// Large unbounded logits nearby, and few tokens in the denominator.
static void test_sharp_near_field(void **state) {
    (void)state;
    for (uint64_t seed = 3000; seed < 3010; seed++) {
        AttentionSettings s = base_settings();
        s.tokens = 70, s.near = 9;
        check_case(&s, seed % 2 ? 6.0 : 20.0, seed);
    }
}

// Long enough for several segments.
static void test_segments(void **state) {
    (void)state;
    for (uint64_t seed = 4000; seed < 4008; seed++) {
        AttentionSettings s = base_settings();
        s.tokens = 517, s.heads = seed % 2 ? 1 : 2, s.chunk = 8, s.near = seed % 4 == 3 ? 150 : 12;
        s.far = seed % 8 == 5 ? FAR_EXACT : FAR_POLYNOMIAL;
        check_case(&s, 1.0, seed);
        AttentionPlan *plan = attention_plan_new("lowrank", &s);
        assert_true(((const LowrankPlan *)plan)->segments >= 2);
        attention_destroy(plan);
    }
}

// rope-decay: the state ages over tokens, chunks and segments, the pairs by the table.
static void test_decay(void **state) {
    (void)state;
    const size_t tokens[] = {1, 7, 64, 97}, nears[] = {0, 5, 16, 200}, chunks[] = {0, 1, 16};
    const double decays[] = {1, 0.99, 0.8, 1e-3};
    uint64_t seed = 4500;
    for (size_t t = 0; t < 4; t++)
        for (size_t n = 0; n < 4; n++)
            for (size_t c = 0; c < 3; c++) {
                AttentionSettings s = base_settings();
                s.kernel = "rope-decay", s.kernel_decay = decays[seed % 4];
                s.tokens = tokens[t], s.near = nears[n], s.chunk = chunks[c], s.degree = 1 + seed % 5;
                s.batch = 2, s.heads = 4, s.kv_heads = 2;
                check_case(&s, 1.0, seed++);
            }
    for (size_t i = 0; i < 8; i++) { // segments, exact far fields, bounds
        AttentionSettings s = base_settings();
        s.kernel = "rope-decay", s.kernel_decay = i % 2 ? 0.999 : 0.95;
        s.tokens = 517, s.heads = s.kv_heads, s.chunk = 8, s.near = i % 4 == 3 ? 150 : 12, s.degree = 3;
        s.far = i == 5 ? FAR_EXACT : FAR_POLYNOMIAL, s.far_size = i % 3 ? 4 : 0;
        s.bound = i % 2 ? BOUND_BALL : BOUND_CLIP, s.near_bound = i % 3 == 2 ? NEAR_BOUND_SAME : NEAR_BOUND_NONE;
        s.entry_bound = 0.5;
        check_case(&s, 1.0, seed++);
    }
}

// A head outside the interval must give exactly what far = exact gives.
static void test_fallback(void **state) {
    (void)state;
    for (uint64_t seed = 5000; seed < 5006; seed++) {
        AttentionSettings s = base_settings();
        s.batch = 2, s.heads = 4, s.kv_heads = 2, s.bound = BOUND_NONE, s.tokens = seed % 2 ? 90 : 300;
        AttentionProblem problem = attention_problem_new(&s, 1, 0.2, seed);
        for (size_t t = 0; t < s.tokens; t++) // head 1 of the second batch row is too large
            for (size_t a = 0; a < s.qk_size; a++) problem.q[(s.tokens + t) * problem.q_stride + s.qk_size + a] *= 40;
        AttentionPlan *plan = attention_plan_new("lowrank", &s);
        double fell_back[4];
        AttentionReport report = {.fell_back = fell_back};
        attention_problem_run(&problem, plan, NULL, &report);
        for (size_t h = 0; h < 4; h++) assert_true(fell_back[h] == (h == 1));
        // the reference knows no mixture: solve both ways and take the heads that ran so
        const ReferenceFar far = reference_polynomial(&((const LowrankPlan *)plan)->polynomial);
        AttentionSolution mixed = attention_solve(&problem, true, &far);
        problem.settings.far = FAR_EXACT;
        AttentionSolution exact = attention_solve(&problem, true, NULL);
        for (size_t t = s.tokens; t < 2 * s.tokens; t++)
            memcpy(mixed.o + (t * 4 + 1) * s.v_size, exact.o + (t * 4 + 1) * s.v_size, s.v_size * sizeof(double));
        real *gradient = problem.d_o;
        problem.d_o = NULL; // gradients of a group mix heads: finite differences check those
        attention_compare("fallback", "mixed heads", &problem, &mixed, 1e-9, 1e-9);
        problem.d_o = gradient;
        attention_solution_free(&mixed);
        attention_solution_free(&exact);
        attention_problem_free(&problem);
        attention_destroy(plan);
    }
}

static double loss(AttentionProblem *problem, const AttentionPlan *plan) {
    const AttentionSettings *s = &problem->settings;
    real *d_o = problem->d_o;
    problem->d_o = NULL;
    attention_problem_run(problem, plan, NULL, NULL);
    problem->d_o = d_o;
    double sum = 0;
    for (size_t t = 0; t < s->batch * s->tokens; t++)
        for (size_t e = 0; e < s->heads * s->v_size; e++)
            sum += problem->o[t * problem->o_stride + e] * d_o[t * problem->o_stride + e];
    return sum;
}

// Central differences of the method's own forward, at random entries of q, k and v.
static void check_differences(const AttentionSettings *settings, double deviation, double enlarge, uint64_t seed) {
    AttentionProblem problem = attention_problem_new(settings, 0, deviation, seed);
    for (size_t t = 0; t < settings->tokens; t++) // head 0 may be pushed out of the interval
        for (size_t a = 0; a < settings->qk_size; a++) problem.q[t * problem.q_stride + a] *= enlarge;
    AttentionPlan *plan = attention_plan_new("lowrank", settings);
    attention_problem_run(&problem, plan, NULL, NULL);
    struct {
        real *input;
        const real *output;
        size_t count;
        double *gradient;
    } tensors[] = {{problem.q, problem.dq, problem.q_count, NULL},
                   {problem.k, problem.dk, problem.k_count, NULL},
                   {problem.v, problem.dv, problem.v_count, NULL}};
    for (size_t n = 0; n < 3; n++) { // the runs below forget the outputs
        tensors[n].gradient = malloc(tensors[n].count * sizeof(double));
        memcpy(tensors[n].gradient, tensors[n].output, tensors[n].count * sizeof(double));
    }
    size_t cases = 0;
    for (size_t n = 0; n < 3; n++) {
        const double *gradient = tensors[n].gradient;
        for (size_t i = 0; i < 12; i++, cases++) {
            const size_t at = random_below((Random){seed, RANDOM_TEST, n}, i, tensors[n].count);
            const real kept = tensors[n].input[at];
            const double step = 1e-5;
            tensors[n].input[at] = kept + step;
            const double above = loss(&problem, plan);
            tensors[n].input[at] = kept - step;
            const double below = loss(&problem, plan);
            tensors[n].input[at] = kept;
            const double difference = (above - below) / (2 * step);
            if (!(fabs(difference - gradient[at]) <= 1e-7 + 1e-6 * fabs(difference)))
                fail_msg("seed %lu tensor %zu entry %zu: gradient %.10g, difference %.10g", (unsigned long)seed, n, at,
                         gradient[at], difference);
        }
        free(tensors[n].gradient);
    }
    check_count("finite differences", cases);
    attention_problem_free(&problem);
    attention_destroy(plan);
}

static void test_differences(void **state) {
    (void)state;
    AttentionSettings s = base_settings();
    s.batch = 1, s.heads = 4, s.kv_heads = 2, s.tokens = 45;
    check_differences(&s, 1.0, 1, 6000);
    s.near_bound = NEAR_BOUND_SAME;
    check_differences(&s, 2.0, 1, 6001);
    s.bound = BOUND_CLIP, s.far_size = 4, s.degree = 4;
    check_differences(&s, 1.0, 1, 6002);
    s.bound = BOUND_NONE, s.near_bound = NEAR_BOUND_NONE;
    check_differences(&s, 0.2, 1, 6003);
    check_differences(&s, 0.2, 40, 6004); // head 0 falls back, its group mate does not
    s.polynomial = POLYNOMIAL_POWER, s.near = 0;
    check_differences(&s, 1.0, 1, 6005);
    s.tokens = 300, s.chunk = 8, s.polynomial = POLYNOMIAL_MINIMAX, s.near = 11; // segments
    check_differences(&s, 0.2, 40, 6006);
    s.kernel = "rope-decay", s.kernel_decay = 0.97;
    check_differences(&s, 0.2, 40, 6007);
}

// Every token decoded equals forward.
static void test_decode(void **state) {
    (void)state;
    uint64_t seed = 7000;
    for (int bound = BOUND_NONE; bound <= BOUND_BALL; bound++)
        for (int far = FAR_POLYNOMIAL; far <= FAR_NONE; far++)
            for (size_t near = 0; near < 30; near += 7) {
                if (far == FAR_NONE && near == 0) continue;
                AttentionSettings s = base_settings();
                s.heads = 6, s.kv_heads = 2, s.logit_bound = 2, s.bound = bound, s.far = far, s.near = near,
                s.far_size = 4;
                if (seed % 2) s.kernel = "rope-decay", s.kernel_decay = 0.9;
                AttentionProblem problem = attention_problem_new(&s, 0, bound == BOUND_NONE ? 0.15 : 1.5, seed++);
                AttentionPlan *plan = attention_plan_new("lowrank", &s);
                attention_problem_run(&problem, plan, NULL, NULL);
                const AttentionNeeds needs = attention_needs(plan);
                real *memory = guarded_new(needs.decode_bytes / sizeof(real) + 1);
                real *scratch = guarded_new(needs.scratch_bytes / sizeof(real) + 1);
                real *o = guarded_new(s.heads * s.v_size);
                attention_decode_begin(plan, memory);
                for (size_t t = 0; t < s.tokens; t++) {
                    double expected[64];
                    attention_decode(plan, memory, o, problem.q + t * problem.q_stride,
                                     problem.k + t * problem.k_stride, problem.v + t * problem.v_stride, t, scratch);
                    for (size_t e = 0; e < s.heads * s.v_size; e++) expected[e] = problem.o[t * problem.o_stride + e];
                    check_close("decode against forward", o, expected, s.heads * s.v_size, 1e-10, 1e-10);
                }
                guarded_free(memory);
                guarded_free(scratch);
                guarded_free(o);
                attention_problem_free(&problem);
                attention_destroy(plan);
            }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_shapes),           cmocka_unit_test(test_sizes),       cmocka_unit_test(test_settings),
    cmocka_unit_test(test_power),
    cmocka_unit_test(test_sharp_near_field), cmocka_unit_test(test_segments),    cmocka_unit_test(test_decay),
    cmocka_unit_test(test_fallback),         cmocka_unit_test(test_differences), cmocka_unit_test(test_decode),
};
TEST_MAIN(tests)
