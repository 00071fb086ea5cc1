// Certificates of method lowrank where they are easily wrong: heads of one group that go different ways, numbers whose
// squares single precision cannot hold, sums over many heads, numbers that are not finite, entries at the very bound.
// What random inputs say about them is in test_lowrank.c.
#include <math.h>
#include <stdio.h>

#include "core/random.h"
#include "tests/support/certified.h"
#include "tests/support/check.h"

static AttentionSettings base_settings(void) {
    AttentionSettings s = attention_defaults();
    s.batch = 1, s.tokens = 60, s.heads = s.kv_heads = 1, s.qk_size = s.v_size = 8, s.far_size = 0, s.degree = 6;
    s.logit_bound = 1, s.near = 4;
    return s;
}

// Method lowrank errs by no more than it certifies; the first head has the polynomial's far field.
static Certified check_case(AttentionProblem *problem, const char *tally, double parameter) {
    char name[32];
    snprintf(name, sizeof name, "%g", parameter);
    AttentionPlan *plan = attention_plan_new("lowrank", &problem->settings);
    const Certified certified = certified_verify(tally, name, problem, plan);
    assert_true(certified.fell_back[0] == 0);
    attention_destroy(plan);
    return certified;
}

// Certificates alone.
static Certified run(AttentionProblem *problem) {
    AttentionPlan *plan = attention_plan_new("lowrank", &problem->settings);
    const Certified certified = certified_run(problem, plan);
    attention_destroy(plan);
    return certified;
}

static double normal(uint64_t seed, size_t n) { return random_normal((Random){seed, RANDOM_TEST, 0}, n); }

// ---- heads of a group ----------------------------------------------------------------------------------------------

// One head of a group falls back and weighs nothing but far keys: its rounding, of logits in the hundreds, is in dk and
// dv, which have certificates because of the other head.
static void test_one_head_falls_back(void **state) {
    (void)state;
    const double lengths[] = {60, 300, 1000};
    for (size_t i = 0; i < 3; i++) {
        AttentionSettings s = base_settings();
        s.tokens = 200, s.heads = 2, s.near = 8, s.bound = BOUND_NONE, s.chunk = 16;
        AttentionProblem problem = attention_problem_new(&s, 0, 0.02, 1);
        const size_t last = s.tokens - 1;
        for (size_t t = 0; t < s.tokens; t++)
            for (size_t a = 0; a < 8; a++) {
                problem.q[t * 16 + 8 + a] = 0;
                problem.d_o[t * 16 + a] *= (real)1e-3, problem.d_o[t * 16 + 8 + a] *= t == last ? 1000 : 0;
            }
        for (size_t t = 2; t < 10; t++) { // these keys agree in the slowest pair, which the last query looks along
            problem.k[t * 8 + 3] = (real)(3 + 1e-4 * normal(2, t));
            problem.k[t * 8 + 7] = (real)(0.3 * normal(3, t));
        }
        problem.q[last * 16 + 11] = (real)lengths[i], problem.q[last * 16 + 15] = (real)(0.1 * lengths[i]);
        const Certified certified = check_case(&problem, "a head falls back", lengths[i]);
        assert_true(certified.fell_back[1] == 1);
        assert_true(certified.bound[DV][0] < 100); // not vacuous: dv is near 1000
        attention_problem_free(&problem);
    }
}

// ---- the range of numbers ------------------------------------------------------------------------------------------

// Certificates grow with v and with do, however small or large these are: squares of numbers below 1e-23 or above 1e19
// are 0 or infinite in single precision. Values that alternate make do·o small, so that nothing but norms tells.
static void test_scales(void **state) {
    (void)state;
    const double scales[][2] = {{1, 1},     {1e-21, 1}, {1e-23, 1}, {1e-30, 1e10}, {1, 1e-23},
                                {1e3, 1e-25}, {1e-12, 1e-12}, {1e20, 1}, {1e27, 1},   {1, 1e20}};
    AttentionSettings s = base_settings();
    s.logit_bound = 0.25, s.near_bound = NEAR_BOUND_SAME;
    double usual[QUANTITIES] = {0};
    for (size_t i = 0; i < sizeof scales / sizeof *scales; i++) {
        const double v = scales[i][0], d_o = scales[i][1], scale[QUANTITIES] = {v, v * d_o, v * d_o, d_o};
        AttentionProblem problem = attention_problem_new(&s, 0, 1, 4);
        for (size_t t = 0; t < s.tokens; t++)
            for (size_t e = 0; e < s.v_size; e++) {
                problem.v[t * s.v_size + e] = (real)((t / 2 + e) % 2 ? v : -v);
                problem.d_o[t * s.v_size + e] *= (real)(t < s.tokens - 2 ? 0 : d_o);
            }
        const Certified certified = check_case(&problem, "scales of v and do", (double)i);
        for (size_t n = 0; n < QUANTITIES; n++) {
            const double bound = certified.bound[n][0] / scale[n];
            if (i == 0) usual[n] = bound;
            if (!(fabs(bound / usual[n] - 1) < 1e-3))
                fail_msg("v %g, do %g: %s is certified to %.6g times its scale, not %.6g", v, d_o, quantity_names[n],
                         bound, usual[n]);
        }
        attention_problem_free(&problem);
    }
}

// One large do, added first, and after it from every token and head one that single precision drops beside it: dv of
// the first key lacks all of them, and that as often as heads share it. Weights are 1/(i+1), undone by do. Far: the
// large one is of the last chunk, where the reverse sweep begins; near: of the first token.
static void test_sums_over_heads(void **state) {
    (void)state;
    const double dropped = 0.9 * pow(2, -24);
    for (int i = 0; i < 4; i++) {
        AttentionSettings s = base_settings();
        const bool far = i % 2 == 0;
        s.heads = i < 2 ? 8 : 32, s.qk_size = 2, s.v_size = 1, s.degree = 2, s.logit_bound = 1e-3, s.chunk = 8;
        s.tokens = far ? 2048 : 256, s.near = far ? 0 : 128, s.batch = 4; // alike: one segment each, so one sum
        AttentionProblem problem = attention_problem_new(&s, 0, 0, 5);
        const size_t large = far ? s.tokens - s.chunk : 0, end = far ? s.tokens : s.near;
        double truth = 0;
        for (size_t row = 0; row < s.batch * s.tokens; row++)
            for (size_t h = 0; h < s.heads; h++) {
                const size_t t = row % s.tokens;
                const double share = t >= end ? 0 : t == large && h == 0 ? 1.0005 : dropped;
                problem.d_o[row * s.heads + h] = (real)((double)(t + 1) * share);
                if (row == t) truth += (double)problem.d_o[row * s.heads + h] / (double)(t + 1);
            }
        const Certified certified = run(&problem);
        const double error = fabs((double)problem.dv[0] - truth);
        assert_true(i < 2 || error > 1e-4); // they are dropped
        if (!(error <= certified.bound[DV][0]))
            fail_msg("%s sums over %zu heads: dv errs by %.6g, certified %.6g", far ? "far" : "near", s.heads, error,
                     certified.bound[DV][0]);
        check_count("sums over heads", 1);
        attention_problem_free(&problem);
    }
}

// Results below the smallest normal number, which rounding relative to their size does not describe.
static void test_underflow(void **state) {
    (void)state;
    const double scales[][2] = {{1e-25, 1e-25}, {2e-30, 1e-10}, {1e-38, 1}, {1, 1e-38}, {1e-42, 1}, {1, 1e-42}};
    for (size_t i = 0; i < sizeof scales / sizeof *scales; i++)
        for (size_t near = 0; near < 10; near += 5) {
            AttentionSettings s = base_settings();
            s.logit_bound = 0.05, s.near = near, s.chunk = 4;
            AttentionProblem problem = attention_problem_new(&s, 0, 1, 30 + i);
            for (size_t n = 0; n < problem.v_count; n++) problem.v[n] *= (real)scales[i][0];
            for (size_t n = 0; n < problem.o_count; n++) problem.d_o[n] *= (real)scales[i][1];
            check_case(&problem, "underflow", (double)i);
            attention_problem_free(&problem);
        }
}

// ---- numbers that are not finite -----------------------------------------------------------------------------------

// NaN or an infinity anywhere in the inputs. In the second setting head 1 falls back, in the third the far field is
// exact for all, in the fourth there is none.
static void test_not_finite(void **state) {
    (void)state;
    const real bad[] = {(real)NAN, (real)INFINITY, -(real)INFINITY};
    size_t broken = 0;
    for (size_t i = 0; i < 4; i++)
        for (size_t near = 0; near < 10; near += 5)
            for (size_t input = 0; input < 4; input++)
                for (size_t n = 0; n < 6; n++) {
                    AttentionSettings s = base_settings();
                    s.heads = 2, s.tokens = 45, s.v_size = 5, s.degree = 2, s.chunk = 16, s.near = near + (i == 3);
                    s.far = i == 2 ? FAR_EXACT : i == 3 ? FAR_NONE : FAR_POLYNOMIAL, s.far_size = near ? 4 : 0;
                    if (i == 1) s.bound = BOUND_NONE;
                    AttentionProblem problem = attention_problem_new(&s, 0, i == 1 ? 0.2 : 1, 6 + n);
                    for (size_t t = 0; i == 1 && t < s.tokens; t++)
                        for (size_t a = 0; a < s.qk_size; a++) problem.q[t * 16 + 8 + a] *= 40;
                    real *const inputs[] = {problem.q, problem.k, problem.v, problem.d_o};
                    const size_t counts[] = {problem.q_count, problem.k_count, problem.v_count, problem.o_count};
                    const Random random = {7, RANDOM_TEST, input};
                    inputs[input][n < 3 ? random_below(random, n, counts[input]) : counts[input] - n] = bad[n % 3];
                    const Certified certified = run(&problem);
                    char what[64];
                    snprintf(what, sizeof what, "setting %zu, near %zu, %g in %c", i, s.near, (double)bad[n % 3],
                             "qkvd"[input]);
                    broken += certified_check_known(what, &problem, &certified);
                    attention_problem_free(&problem);
                }
    assert_true(broken > 500);
}

// Values that are 0, whose range is no bound where none is known; sums, products and ranges beyond single precision.
static void test_extremes(void **state) {
    (void)state;
    const struct {
        double v, d_o, limit;
        PolynomialKind kind;
        bool known;
    } cases[] = {{0, 1, 1, POLYNOMIAL_MINIMAX, true},    {0, 1, 1, POLYNOMIAL_POWER, false},
                 {0, 1, 6, POLYNOMIAL_TAYLOR, false},    {0, 0, 1, POLYNOMIAL_POWER, false},
                 {1e27, 1e12, 1, POLYNOMIAL_MINIMAX, false}, {2e37, 1, 1, POLYNOMIAL_MINIMAX, false},
                 {2e38, 1e-30, 1, POLYNOMIAL_MINIMAX, false}, {1, 3e37, 1, POLYNOMIAL_MINIMAX, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        AttentionSettings s = base_settings();
        s.degree = 2, s.logit_bound = cases[i].limit, s.polynomial = cases[i].kind;
        AttentionProblem problem = attention_problem_new(&s, 0, 5, 8);
        for (size_t n = 0; n < problem.v_count; n++) {
            problem.v[n] = (real)(problem.v[n] < 0 ? -cases[i].v : cases[i].v);
            problem.d_o[n] *= (real)cases[i].d_o;
        }
        const Certified certified = run(&problem);
        char what[64];
        snprintf(what, sizeof what, "v %g, do %g, %d", cases[i].v, cases[i].d_o, cases[i].kind);
        certified_check_known(what, &problem, &certified);
        for (size_t n = OUTPUT; cases[i].known && n < DV; n++) assert_true(certified.bound[n][0] < 1e-30);
        attention_problem_free(&problem);
    }
}

// ---- at the very bound ---------------------------------------------------------------------------------------------

static real beside(real x, int steps) { // steps numbers further from 0
    return steps == 0 ? x : beside(nextafterf(x, steps > 0 ? INFINITY : 0), steps > 0 ? steps - 1 : steps + 1);
}

static void check_at_bound(const AttentionSettings *s, AttentionProblem *problem, const char *what) {
    static const char *const methods[] = {"exact", "lowrank", "toeplitz"};
    for (size_t m = 0; m < 3; m++) {
        problem->settings = *s;
        if (m == 0) problem->settings.near = s->tokens; // all of it exp, which the reference takes as its near field
        AttentionPlan *plan = attention_plan_new(methods[m], &problem->settings);
        Certified certified = certified_measure(problem, plan);
        attention_destroy(plan);
        for (size_t n = 0; m == 0 && n < QUANTITIES; n++) certified.bound[n][0] = 1e-3; // exact certifies nothing
        char name[48];
        snprintf(name, sizeof name, "%s, %g", methods[m], (double)problem->q[0]);
        assert_true(certified.fell_back[0] == 0);
        certified_check(what, name, s, &certified);
    }
}

// The gradient jumps where clipping begins: entries of B rounded to single precision, which may be above B, one number
// above and one below.
static void test_entries_at_bound(void **state) {
    (void)state;
    const double bounds[] = {0.5, 0.8, 0.3, 1.1};
    for (size_t i = 0; i < 4; i++)
        for (int step = -1; step <= 1; step++) {
            AttentionSettings s = base_settings();
            s.bound = BOUND_CLIP, s.near_bound = NEAR_BOUND_SAME, s.entry_bound = bounds[i], s.logit_bound = 50;
            s.logit_scale = 0.2, s.degree = 3, s.qk_size = 4;
            AttentionProblem problem = attention_problem_new(&s, 0, 1, 9 + i);
            const real entry = beside((real)bounds[i], step);
            for (size_t n = 0; n < problem.q_count; n++) {
                problem.q[n] = problem.q[n] < 0 ? -entry : entry;
                problem.k[n] = problem.k[n] < 0 ? -entry : entry;
            }
            check_at_bound(&s, &problem, "entries at the bound");
            attention_problem_free(&problem);
        }
}

// The same with rows at the ball's radius, which is a few units of rounding below 1.
static void test_rows_at_radius(void **state) {
    (void)state;
    for (int step = -11; step <= 1; step++) {
        AttentionSettings s = base_settings();
        s.near_bound = NEAR_BOUND_SAME, s.logit_scale = 1, s.qk_size = 4, s.degree = 3;
        AttentionProblem problem = attention_problem_new(&s, 0, 0, 20);
        const real length = beside(1, step);
        for (size_t t = 0; t < s.tokens; t++) {
            problem.q[t * 4 + random_below((Random){21, RANDOM_TEST, 0}, t, 4)] = length;
            problem.k[t * 4 + random_below((Random){22, RANDOM_TEST, 0}, t, 4)] = length;
        }
        check_at_bound(&s, &problem, "rows at the radius");
        attention_problem_free(&problem);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_entries_at_bound),
    cmocka_unit_test(test_rows_at_radius),
    cmocka_unit_test(test_not_finite),
    cmocka_unit_test(test_extremes),
    cmocka_unit_test(test_one_head_falls_back),
    cmocka_unit_test(test_sums_over_heads),
    cmocka_unit_test(test_scales),
    cmocka_unit_test(test_underflow),
};
TEST_MAIN(tests)
