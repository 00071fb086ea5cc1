// Method lowrank in single precision: against double, causality, threads, long sequences, and certificates that no
// input may break. LOWRANK_CASES sets how many certified heads are tried (default 100000; `make soak` raises it).
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attention/lowrank.h"
#include "core/random.h"
#include "core/threads.h"
#include "tests/support/attention_reference.h"
#include "tests/support/check.h"

static AttentionSettings base_settings(void) {
    AttentionSettings s = attention_defaults();
    s.batch = 1, s.tokens = 150, s.heads = 2, s.kv_heads = 1, s.qk_size = 16, s.v_size = 16;
    s.far_size = 0, s.degree = 2, s.logit_bound = 1, s.near = 5;
    return s;
}

static void test_against_double(void **state) {
    (void)state;
    const struct {
        size_t qk, v, far, degree, near, tokens;
        double bound;
    } cases[] = {
        {16, 64, 0, 2, 32, 300, 1}, {64, 64, 8, 4, 32, 300, 4}, {8, 8, 0, 6, 0, 131, 2},    {32, 20, 4, 8, 7, 77, 2},
        {16, 16, 0, 4, 16, 65, 4},  {4, 4, 2, 3, 1, 1, 1},      {12, 32, 6, 1, 64, 200, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        AttentionSettings s = base_settings();
        s.qk_size = cases[i].qk, s.v_size = cases[i].v, s.far_size = cases[i].far, s.degree = cases[i].degree;
        s.near = cases[i].near, s.tokens = cases[i].tokens, s.logit_bound = cases[i].bound;
        AttentionProblem problem = attention_problem_new(&s, 5, 1.5, 100 + i);
        AttentionPlan *plan = attention_plan_new("lowrank", &s);
        const ReferenceFar far = reference_polynomial(&((const LowrankPlan *)plan)->polynomial);
        attention_problem_run(&problem, plan, NULL, NULL);
        AttentionSolution solution = attention_solve(&problem, true, &far);
        char detail[64];
        snprintf(detail, sizeof detail, "case %zu", i);
        attention_compare("single against double", detail, &problem, &solution, 2e-5, 2e-5);
        attention_solution_free(&solution);
        attention_problem_free(&problem);
        attention_destroy(plan);
    }
}

// Near weights of e^-800 beside a polynomial far field: nothing but the far field is left of the last token.
static void test_low_near_logits(void **state) {
    (void)state;
    AttentionSettings s = base_settings();
    s.tokens = 12, s.qk_size = s.v_size = 4, s.near = 2, s.bound = BOUND_BALL;
    AttentionProblem problem = attention_problem_new(&s, 0, 1.0, 7);
    for (size_t a = 0; a < 4; a++) { // a rotation by one token leaves both logits below -800
        for (size_t h = 0; h < 2; h++) problem.q[11 * problem.q_stride + h * 4 + a] = 30;
        problem.k[11 * problem.k_stride + a] = problem.k[10 * problem.k_stride + a] = -30;
    }
    AttentionPlan *plan = attention_plan_new("lowrank", &s);
    const ReferenceFar far = reference_polynomial(&((const LowrankPlan *)plan)->polynomial);
    attention_problem_run(&problem, plan, NULL, NULL);
    AttentionSolution solution = attention_solve(&problem, true, &far);
    attention_compare("far weights alone", "near logits below -800", &problem, &solution, 2e-5, 2e-5);
    attention_solution_free(&solution);
    attention_problem_free(&problem);
    attention_destroy(plan);
}

// Changing token t changes no output before t, bit for bit.
static void test_causality(void **state) {
    (void)state;
    for (size_t i = 0; i < 12; i++) {
        AttentionSettings s = base_settings();
        s.tokens = 203, s.near = i % 3 * 9, s.kv_heads = i % 2 + 1;
        AttentionProblem problem = attention_problem_new(&s, 0, 1.0, 200 + i);
        AttentionPlan *plan = attention_plan_new("lowrank", &s);
        attention_problem_run(&problem, plan, NULL, NULL);
        real *before = malloc(problem.o_count * sizeof(real));
        memcpy(before, problem.o, problem.o_count * sizeof(real));
        const size_t t = random_below((Random){1, RANDOM_TEST, 0}, i, s.tokens - 1);
        problem.q[t * problem.q_stride] += 1, problem.k[t * problem.k_stride + 3] -= 2,
            problem.v[t * problem.v_stride] += 5;
        attention_problem_run(&problem, plan, NULL, NULL);
        check_same_bits("outputs before the change", before, problem.o, t * problem.o_stride * sizeof(real));
        assert_memory_not_equal(before, problem.o, problem.o_count * sizeof(real));
        free(before);
        attention_problem_free(&problem);
        attention_destroy(plan);
    }
    check_count("causal changes", 12);
}

static void test_threads(void **state) {
    (void)state;
    const struct { size_t heads, kv_heads, batch; } groups[] = {{1, 1, 1}, {2, 1, 1}, {8, 4, 2}, {3, 3, 1}};
    for (size_t i = 0; i < 4; i++) {
        AttentionSettings s = base_settings();
        s.tokens = 700, s.heads = groups[i].heads, s.kv_heads = groups[i].kv_heads, s.batch = groups[i].batch;
        AttentionProblem problem = attention_problem_new(&s, 0, 1.0, 300 + i);
        real *kept[4] = {0};
        const size_t counts[] = {problem.o_count, problem.q_count, problem.k_count, problem.v_count};
        for (size_t threads = 4; threads > 0; threads--) {
            threads_set(threads);
            AttentionPlan *plan = attention_plan_new("lowrank", &s);
            double bound[16];
            AttentionReport report = {.dk_bound = bound}; // certificates must not disturb the gradients
            attention_problem_run(&problem, plan, NULL, threads % 2 ? &report : NULL);
            real *const outputs[] = {problem.o, problem.dq, problem.dk, problem.dv};
            for (size_t n = 0; n < 4; n++) {
                if (!kept[n]) {
                    kept[n] = malloc(counts[n] * sizeof(real));
                    memcpy(kept[n], outputs[n], counts[n] * sizeof(real));
                }
                check_same_bits("threads", kept[n], outputs[n], counts[n] * sizeof(real));
            }
            attention_destroy(plan);
        }
        for (size_t n = 0; n < 4; n++) free(kept[n]);
        attention_problem_free(&problem);
    }
    threads_set(0);
    check_count("thread counts compared", 16);
}

// The chunk is a tuning knob: results agree to rounding.
static void test_chunks(void **state) {
    (void)state;
    AttentionSettings s = base_settings();
    AttentionProblem problem = attention_problem_new(&s, 0, 1.0, 400);
    double *expected = NULL;
    const size_t chunks[] = {16, 1, 7, 32, 150};
    for (size_t i = 0; i < 5; i++) {
        s.chunk = chunks[i];
        AttentionPlan *plan = attention_plan_new("lowrank", &s);
        attention_problem_run(&problem, plan, NULL, NULL);
        if (!expected) expected = calloc(problem.k_count, sizeof(double));
        for (size_t n = 0; i == 0 && n < problem.k_count; n++) expected[n] = (double)problem.dk[n];
        check_close("dk over chunk sizes", problem.dk, expected, problem.k_count, 1e-4, 1e-4);
        attention_destroy(plan);
    }
    free(expected);
    attention_problem_free(&problem);
}

// 65536 tokens: rows sampled over the whole length against double; states accumulate over all of them.
static void test_long(void **state) {
    (void)state;
    AttentionSettings s = base_settings();
    s.tokens = 65536, s.heads = s.kv_heads = 1, s.qk_size = 8, s.v_size = 8, s.near = 32;
    AttentionProblem problem = attention_problem_new(&s, 0, 1.0, 500);
    for (size_t n = 0; n < problem.v_count; n++) problem.v[n] += 1; // sums that grow with T
    AttentionPlan *plan = attention_plan_new("lowrank", &s);
    attention_problem_run(&problem, plan, NULL, NULL);
    const ReferenceFar far = reference_polynomial(&((const LowrankPlan *)plan)->polynomial);
    Error error = {0};
    AttentionReference *reference = reference_create(&s, true, &far, &error);
    if (!reference) fail_msg("%s", error.message);
    reference_load(reference, 0, problem.q, problem.q_stride, problem.k, problem.k_stride, problem.v, problem.v_stride);
    double worst = 0;
    for (size_t i = 0; i < 64; i++) {
        double expected[8];
        const size_t row = s.tokens - 1 - i * 1021;
        reference_row(reference, row, expected);
        worst = fmax(worst, check_close("T = 65536", problem.o + row * problem.o_stride, expected, 8, 2e-5, 0));
    }
    printf("T = 65536: largest error of o %.2e\n", worst);
    reference_destroy(reference);
    attention_problem_free(&problem);
    attention_destroy(plan);
}

// ---- certificates --------------------------------------------------------------------------------------------------

enum { HEADS = 8, TOKENS = 20, MOST_RATIOS = 1 << 20 };

typedef struct Trial {
    AttentionSettings settings;
    AttentionPlan *plan;
    AttentionReference *reference;
    real *input[4], *output[4]; // q, k, v, do and dq, dk, dv, o: (T, HEADS, size)
    size_t size[4];             // per head
    void *saved, *scratch;
} Trial;

typedef enum Quantity { OUTPUT, DQ, DK, DV, QUANTITIES } Quantity;
static const char *const quantity_names[] = {"o", "dq", "dk", "dv"};
static double *ratios[QUANTITIES];
static size_t ratio_count[QUANTITIES];

static Trial trial_new(const AttentionSettings *settings) {
    Trial trial = {.settings = *settings,
                   .plan = attention_plan_new("lowrank", settings),
                   .size = {settings->qk_size, settings->qk_size, settings->v_size, settings->v_size}};
    AttentionSettings exact = *settings;
    exact.far = FAR_EXACT;
    Error error = {0};
    trial.reference = reference_create(&exact, true, NULL, &error);
    if (!trial.reference) fail_msg("%s", error.message);
    for (size_t n = 0; n < 4; n++) {
        trial.input[n] = guarded_new(TOKENS * HEADS * trial.size[n]);
        trial.output[n] = guarded_new(TOKENS * HEADS * trial.size[n]);
    }
    const AttentionNeeds needs = attention_needs(trial.plan);
    trial.saved = guarded_new(needs.saved_bytes / sizeof(real) + 1);
    trial.scratch = guarded_new(needs.scratch_bytes / sizeof(real) + 1);
    return trial;
}

static void trial_free(Trial *trial) {
    for (size_t n = 0; n < 4; n++) guarded_free(trial->input[n]), guarded_free(trial->output[n]);
    guarded_free(trial->saved);
    guarded_free(trial->scratch);
    reference_destroy(trial->reference);
    attention_destroy(trial->plan);
}

static double largest_difference(const real *actual, const double *expected, size_t size) {
    double most = 0;
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t a = 0; a < size; a++) {
            const double error = fabs((double)actual[t * HEADS * size + a] - expected[t * size + a]);
            most = larger_or_nan(most, error);
        }
    return most;
}

// Runs all heads, checks every certificate, and returns each head's largest ratio of measured to certified.
static void trial_run(Trial *trial, const char *family, double *largest_ratio) {
    const size_t D = trial->settings.qk_size, E = trial->settings.v_size;
    double bound[QUANTITIES][HEADS], fell_back[HEADS];
    AttentionReport report = {.fell_back = fell_back,
                              .output_bound = bound[OUTPUT],
                              .dq_bound = bound[DQ],
                              .dk_bound = bound[DK],
                              .dv_bound = bound[DV]};
    const AttentionForward forward = {.o = trial->output[3],
                                      .q = trial->input[0],
                                      .k = trial->input[1],
                                      .v = trial->input[2],
                                      .o_stride = HEADS * E,
                                      .q_stride = HEADS * D,
                                      .k_stride = HEADS * D,
                                      .v_stride = HEADS * E,
                                      .report = &report,
                                      .saved = trial->saved,
                                      .scratch = trial->scratch};
    const AttentionBackward backward =
        attention_backward_after(&forward, trial->input[3], trial->output[0], trial->output[1], trial->output[2]);
    attention_forward(trial->plan, &forward);
    attention_backward(trial->plan, &backward);
    for (size_t h = 0; h < HEADS; h++) {
        static double o[TOKENS * 64], dq[TOKENS * 64], dk[TOKENS * 64], dv[TOKENS * 64];
        memset(dq, 0, sizeof dq), memset(dk, 0, sizeof dk), memset(dv, 0, sizeof dv);
        reference_load(trial->reference, h, trial->input[0] + h * D, HEADS * D, trial->input[1] + h * D, HEADS * D,
                       trial->input[2] + h * E, HEADS * E);
        for (size_t t = 0; t < TOKENS; t++) {
            reference_row(trial->reference, t, o + t * E);
            reference_row_backward(trial->reference, t, trial->input[3] + t * HEADS * E + h * E);
        }
        reference_gradients(trial->reference, dq, D, dk, D, dv, E);
        const double error[QUANTITIES] = {
            largest_difference(trial->output[3] + h * E, o, E), largest_difference(trial->output[0] + h * D, dq, D),
            largest_difference(trial->output[1] + h * D, dk, D), largest_difference(trial->output[2] + h * E, dv, E)};
        largest_ratio[h] = 0;
        if (fell_back[h] != 0) continue; // exact: no certificate
        for (size_t n = 0; n < QUANTITIES; n++) {
            if (!(error[n] <= bound[n][h]))
                fail_msg("%s, degree %zu, bound %g, near %zu: %s errs by %.6g, certified %.6g", family,
                         trial->settings.degree, trial->settings.logit_bound, trial->settings.near, quantity_names[n],
                         error[n], bound[n][h]);
            const double ratio = error[n] / bound[n][h];
            largest_ratio[h] = fmax(largest_ratio[h], ratio);
            if (ratio_count[n] < MOST_RATIOS) ratios[n][ratio_count[n]++] = ratio;
        }
    }
}

static void fill(Trial *trial, uint64_t seed, int family) {
    for (size_t n = 0; n < 4; n++) {
        const size_t size = trial->size[n];
        for (size_t h = 0; h < HEADS; h++) {
            const Random random = {seed * HEADS + h, RANDOM_TEST, n};
            const double scale = exp(2 * random_normal(random, 1 << 20)) + 0.05;
            const size_t clusters = 1 + random_below(random, 1 << 21, 4);
            for (size_t t = 0; t < TOKENS; t++) {
                const size_t of = random_below(random, (1 << 22) + t, clusters);
                for (size_t a = 0; a < size; a++) {
                    double value = scale * random_normal(random, t * size + a);
                    if (family == 1) { // clusters of queries and keys that agree or oppose, values of one cluster alike
                        const Random shared = {seed * HEADS + h, RANDOM_TEST, n < 2 ? 10 : n + 10};
                        const double sign = n == 1 && of % 2 ? -1 : 1;
                        value = sign * 3 * random_normal(shared, (n < 2 ? 0 : of) * size + a) + 0.02 * value;
                    }
                    trial->input[n][(t * HEADS + h) * size + a] = (real)value;
                }
            }
        }
    }
}

// Mutates every head's inputs and keeps what brings the measured error nearer to the certificate.
static size_t climb(Trial *trial, uint64_t seed, size_t steps) {
    double best[HEADS], now[HEADS];
    real *kept[4];
    trial_run(trial, "climb", best);
    for (size_t n = 0; n < 4; n++) {
        kept[n] = malloc(TOKENS * HEADS * trial->size[n] * sizeof(real));
        memcpy(kept[n], trial->input[n], TOKENS * HEADS * trial->size[n] * sizeof(real));
    }
    for (size_t step = 0; step < steps; step++) {
        for (size_t n = 0; n < 4; n++)
            for (size_t h = 0; h < HEADS; h++) {
                const Random random = {seed * HEADS + h, RANDOM_TEST, 100 + n * steps + step};
                const size_t t = random_below(random, 0, TOKENS);
                for (size_t a = 0; a < trial->size[n]; a++)
                    trial->input[n][(t * HEADS + h) * trial->size[n] + a] += (real)(0.7 * random_normal(random, 1 + a));
            }
        trial_run(trial, "climb", now);
        for (size_t h = 0; h < HEADS; h++) {
            const bool better = now[h] > best[h];
            if (better) best[h] = now[h];
            for (size_t n = 0; n < 4; n++)
                for (size_t t = 0; t < TOKENS; t++) {
                    const size_t at = (t * HEADS + h) * trial->size[n], bytes = trial->size[n] * sizeof(real);
                    if (better)
                        memcpy(kept[n] + at, trial->input[n] + at, bytes);
                    else
                        memcpy(trial->input[n] + at, kept[n] + at, bytes);
                }
        }
    }
    for (size_t n = 0; n < 4; n++) free(kept[n]);
    return (steps + 1) * HEADS;
}

static int compare_doubles(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void test_certificates(void **state) {
    (void)state;
    const struct {
        size_t qk, far, degree, near;
        double limit;
        AttentionBound bound;
        AttentionNearBound near_bound;
    } cases[] = {
        {4, 0, 2, 0, 1, BOUND_BALL, 0},   {4, 0, 2, 4, 1, BOUND_BALL, 1},   {4, 0, 4, 3, 2, BOUND_BALL, 0},
        {8, 4, 4, 5, 4, BOUND_BALL, 0},   {6, 0, 1, 2, 0.5, BOUND_CLIP, 1}, {4, 2, 6, 0, 3, BOUND_BALL, 0},
        {4, 0, 3, 0, 0.5, BOUND_CLIP, 1}, {4, 0, 6, 1, 1, BOUND_BALL, 0},   {8, 4, 4, 16, 1, BOUND_BALL, 1},
        {4, 0, 8, 2, 2, BOUND_BALL, 1},
    };
    const char *text = getenv("LOWRANK_CASES");
    const size_t wanted = text ? strtoul(text, NULL, 10) : 100000, kinds = sizeof cases / sizeof *cases;
    for (size_t n = 0; n < QUANTITIES; n++) ratios[n] = malloc(MOST_RATIOS * sizeof(double)), ratio_count[n] = 0;
    threads_set(1); // the problems are tiny
    size_t done = 0;
    for (size_t i = 0; i < kinds; i++) {
        AttentionSettings s = base_settings();
        s.tokens = TOKENS, s.heads = s.kv_heads = HEADS, s.qk_size = cases[i].qk, s.v_size = 3 + i % 3;
        s.far_size = cases[i].far, s.degree = cases[i].degree, s.near = cases[i].near, s.logit_bound = cases[i].limit;
        s.entry_bound = 0.5, s.bound = cases[i].bound, s.near_bound = cases[i].near_bound, s.chunk = i % 2 ? 5 : 0;
        if (i % 5 == 3) s.kernel = "rope-decay", s.kernel_decay = 0.95;
        Trial trial = trial_new(&s);
        double ratio[HEADS];
        size_t here = 0;
        for (uint64_t seed = 0; here < wanted / kinds; seed++) {
            fill(&trial, seed * kinds + i, (int)(seed % 2));
            if (seed % 8 < 6) {
                trial_run(&trial, seed % 2 ? "clusters" : "random", ratio);
                here += HEADS;
            } else {
                here += climb(&trial, seed, 12);
            }
        }
        done += here;
        trial_free(&trial);
    }
    threads_set(0);
    check_count("certified heads", done);
    for (size_t n = 0; n < QUANTITIES; n++) {
        qsort(ratios[n], ratio_count[n], sizeof(double), compare_doubles);
        printf("certificate of %s: measured/certified median %.3g, largest %.3g\n", quantity_names[n],
               ratios[n][ratio_count[n] / 2], ratios[n][ratio_count[n] - 1]);
        assert_true(ratios[n][ratio_count[n] / 2] > 1e-3); // not vacuous
        free(ratios[n]);
    }
}

// The worst case that the derivation in certificate.c allows: keys at both ends of the interval, where P' errs most,
// with opposite values and balanced weights, so that every |do·(v_j - o)| is as large as their bound. A certificate that
// dropped a factor of two would not hold here.
static void test_certificates_at_worst(void **state) {
    (void)state;
    AttentionSettings s = base_settings();
    s.tokens = TOKENS, s.heads = s.kv_heads = HEADS, s.qk_size = 2, s.v_size = 1, s.near = 0, s.bound = BOUND_BALL;
    s.rope_theta = 1e9, s.logit_scale = 1;
    for (size_t n = 0; n < QUANTITIES; n++) ratios[n] = malloc(MOST_RATIOS * sizeof(double)), ratio_count[n] = 0;
    for (size_t i = 0; i < 6; i++) {
        s.degree = i < 3 ? 2 : 4, s.logit_bound = 0.25 * (double)(i + 1);
        Trial trial = trial_new(&s);
        const size_t above = (size_t)lround(TOKENS / (1 + exp(2 * s.logit_bound)));
        for (size_t t = 0; t < TOKENS; t++)
            for (size_t h = 0; h < HEADS; h++) {
                const real sign = t < above + h % 2 ? 1 : -1;
                const real radius = (real)sqrt(0.9999 * s.logit_bound); // within the ball
                for (size_t a = 0; a < 2; a++) { // the pair turns by a radian per token: unturned here
                    const real turned = (real)(a == 0 ? cos((double)t) : -sin((double)t)) * radius;
                    trial.input[0][(t * HEADS + h) * 2 + a] = turned;
                    trial.input[1][(t * HEADS + h) * 2 + a] = turned * sign;
                }
                trial.input[2][t * HEADS + h] = sign;
                trial.input[3][t * HEADS + h] = t == TOKENS - 1; // earlier tokens have seen one end only
            }
        double ratio[HEADS];
        trial_run(&trial, "worst", ratio);
        trial_free(&trial);
    }
    for (size_t n = 0; n < QUANTITIES; n++) {
        qsort(ratios[n], ratio_count[n], sizeof(double), compare_doubles);
        printf("worst case of %s: measured/certified up to %.3g\n", quantity_names[n], ratios[n][ratio_count[n] - 1]);
        assert_true(n == OUTPUT || ratios[n][ratio_count[n] - 1] > 0.5); // what makes half of them too little
        free(ratios[n]);
    }
    check_count("worst cases", ratio_count[DQ]);
}

// far = exact and fallbacks carry no bound, power knows none.
static void test_certificate_edges(void **state) {
    (void)state;
    for (int i = 0; i < 3; i++) {
        AttentionSettings s = base_settings();
        s.far = i == 0 ? FAR_EXACT : FAR_POLYNOMIAL;
        s.polynomial = i == 1 ? POLYNOMIAL_POWER : POLYNOMIAL_MINIMAX;
        s.bound = i == 2 ? BOUND_NONE : BOUND_BALL;
        AttentionProblem problem = attention_problem_new(&s, 0, 3.0, 600);
        AttentionPlan *plan = attention_plan_new("lowrank", &s);
        double bound[4][2], fell_back[2];
        AttentionReport report = {.output_bound = bound[0],
                                  .dq_bound = bound[1],
                                  .dk_bound = bound[2],
                                  .dv_bound = bound[3],
                                  .fell_back = fell_back};
        attention_problem_run(&problem, plan, NULL, &report);
        for (size_t n = 0; n < 4; n++)
            for (size_t h = 0; h < 2; h++) assert_true(i == 1 ? isinf(bound[n][h]) : bound[n][h] == 0);
        assert_true(fell_back[0] == (i == 2));
        for (size_t n = 0; n < problem.k_count; n++) assert_true(isfinite(problem.dk[n]));
        attention_problem_free(&problem);
        attention_destroy(plan);
    }
    check_count("certificate edges", 3);
}

static void test_refusals(void **state) {
    (void)state;
    for (int i = 0; i < 6; i++) {
        AttentionSettings s = base_settings();
        switch (i) {
        case 0: s.qk_size = 64, s.degree = 8; break; // too many features
        case 1: s.kernel = "alibi"; break;
        case 2: s.far_size = 5; break;
        case 3: s.causal = false; break;
        case 4: s.far = FAR_NONE, s.near = 0; break;
        default: s.degree = 0; break;
        }
        Error error = {0};
        assert_null(attention_create(&attention_lowrank, &s, &error));
        assert_int_equal(error.kind, ERROR_USER);
        if (i == 0) assert_non_null(strstr(error.message, "features"));
    }
    check_count("refusals", 6);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_against_double),
    cmocka_unit_test(test_low_near_logits),
    cmocka_unit_test(test_causality),
    cmocka_unit_test(test_threads),
    cmocka_unit_test(test_chunks),
    cmocka_unit_test(test_long),
    cmocka_unit_test(test_certificates),
    cmocka_unit_test(test_certificates_at_worst),
    cmocka_unit_test(test_certificate_edges),
    cmocka_unit_test(test_refusals),
};
TEST_MAIN(tests)
