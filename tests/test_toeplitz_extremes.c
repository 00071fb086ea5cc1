// Method toeplitz where numbers end: inputs that are NaN, groups of which one head leaves the polynomial's interval,
// certificates that are not known, tables without zeros or of zeros alone, biases like masks.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attention/method.h"
#include "attention/position_kernels.h"
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

// The largest |actual - expected| of head h among `heads`, columns of `size` each, packed rows.
static double distance(const real *actual, const double *expected, size_t tokens, size_t heads, size_t h, size_t size) {
    double most = 0.0;
    for (size_t t = 0; t < tokens; t++)
        for (size_t e = 0; e < size; e++) {
            const size_t at = (t * heads + h) * size + e;
            most = larger_or_nan(most, fabs((double)actual[at] - expected[at]));
        }
    return most;
}

// Certificates of output, dq, dk, dv and the fallbacks of two heads.
typedef struct Numbers {
    double output[2], dq[2], dk[2], dv[2], fell_back[2], measured[2];
} Numbers;

static AttentionReport report_into(Numbers *n) {
    return (AttentionReport){.output_bound = n->output,
                             .dq_bound = n->dq,
                             .dk_bound = n->dk,
                             .dv_bound = n->dv,
                             .fell_back = n->fell_back,
                             .logit_bound = n->measured};
}

// Runs the problem and fails where an error against the true exp is above its certificate. Heads that fell back have
// none of their own, but dk and dv are those of all heads together.
static void certify(AttentionProblem *problem, const AttentionPlan *plan, const char *label, Numbers *n) {
    const AttentionSettings *s = &problem->settings;
    AttentionReport report = report_into(n);
    attention_problem_run(problem, plan, NULL, &report);
    const AttentionFar far = s->far;
    problem->settings.far = FAR_EXACT;
    AttentionSolution solution = attention_solve(problem, true, NULL);
    problem->settings.far = far;
    for (size_t h = 0; h < s->heads; h++) {
        const bool fell_back = n->fell_back[h] > 0.0, all = n->fell_back[0] > 0.0 && n->fell_back[s->heads - 1] > 0.0;
        const struct {
            const char *what;
            double error, bound;
            bool counts;
        } parts[] = {
            {"o", distance(problem->o, solution.o, s->tokens, s->heads, h, s->v_size), n->output[h], !fell_back},
            {"dq", distance(problem->dq, solution.dq, s->tokens, s->heads, h, s->qk_size), n->dq[h], !fell_back},
            {"dk", distance(problem->dk, solution.dk, s->tokens, 1, 0, s->qk_size), n->dk[h], !all},
            {"dv", distance(problem->dv, solution.dv, s->tokens, 1, 0, s->v_size), n->dv[h], !all},
        };
        for (size_t p = 0; p < 4; p++)
            if (parts[p].counts && !(parts[p].error <= parts[p].bound))
                fail_msg("%s: error of %s in head %zu is %g, certified %g", label, parts[p].what, h, parts[p].error,
                         parts[p].bound);
        check_count("certificates", 4);
    }
    attention_solution_free(&solution);
}

// The same of a new plan and problem.
static Numbers certify_random(const AttentionSettings *settings, double deviation, uint64_t seed, const char *label) {
    AttentionPlan *plan = attention_plan_new("toeplitz", settings);
    AttentionProblem problem = attention_problem_new(settings, 0, deviation, seed);
    Numbers numbers;
    certify(&problem, plan, label, &numbers);
    attention_problem_free(&problem);
    attention_destroy(plan);
    return numbers;
}

// One head's queries leave the interval, the other's do not: dk and dv are sums over both, and what is certified must
// hold for the sums: rounding of the one head outweighs all that the other's polynomial is off by.
static void test_mixed_group(void **state) {
    (void)state;
    const double scales[] = {1, 100, 1000};
    for (size_t n = 0; n < 6; n++) {
        const size_t near = n / 3 ? 8 : 0;
        AttentionSettings settings = base_settings(200, 8);
        settings.near = near;
        settings.degree = 3;
        settings.bound = BOUND_NONE;
        AttentionPlan *plan = attention_plan_new("toeplitz", &settings);
        AttentionProblem problem = attention_problem_new(&settings, 0, 1.0, n);
        for (size_t i = 0; i < problem.q_count; i++) problem.q[i] *= (real)(i / 8 % 2 ? scales[n % 3] : 0.2);
        for (size_t i = 0; i < problem.k_count; i++) problem.k[i] *= (real)0.3;
        for (size_t i = 0; i < problem.o_count; i++) problem.d_o[i] *= (real)(i / 4 % 2 ? 1e3 : 1e-3);
        Numbers numbers;
        char label[64];
        snprintf(label, sizeof label, "queries times %g, near %zu", scales[n % 3], near);
        certify(&problem, plan, label, &numbers);
        assert_true(numbers.fell_back[0] == 0.0 && numbers.fell_back[1] == 1.0);
        assert_true(isfinite(numbers.dk[0]) && isfinite(numbers.dv[0]));
        attention_problem_free(&problem);
        attention_destroy(plan);
    }
}

// Where every head of a group falls back, nothing of the polynomial is left: the bits are those of far = exact.
static void test_all_fall_back(void **state) {
    (void)state;
    AttentionSettings settings = base_settings(200, 8);
    settings.bound = BOUND_NONE;
    AttentionProblem problems[2];
    for (size_t n = 0; n < 2; n++) {
        settings.far = n ? FAR_EXACT : FAR_POLYNOMIAL;
        AttentionPlan *plan = attention_plan_new("toeplitz", &settings);
        problems[n] = attention_problem_new(&settings, 0, 3.0, 1);
        Numbers numbers;
        AttentionReport report = report_into(&numbers);
        attention_problem_run(&problems[n], plan, NULL, &report);
        for (size_t h = 0; h < 2; h++) {
            assert_true(numbers.fell_back[h] == (n ? 0.0 : 1.0));
            assert_true(numbers.output[h] + numbers.dq[h] + numbers.dk[h] + numbers.dv[h] == 0.0);
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

// What a certificate must be: a number or +Inf, and +Inf where a number that it speaks of is not finite.
static void check_bound(const char *label, const char *what, double bound, const real *rows, size_t tokens,
                        size_t heads, size_t h, size_t size) {
    bool finite = true;
    for (size_t t = 0; t < tokens; t++)
        for (size_t e = 0; e < size; e++) finite = finite && isfinite((double)rows[(t * heads + h) * size + e]);
    if (isnan(bound) || !(bound >= 0.0) || (!finite && isfinite(bound)))
        fail_msg("%s: %s of head %zu is %sfinite, certified %g", label, what, h, finite ? "" : "not ", bound);
    check_count("certificates of the unknown", 1);
}

// Polynomials of which nothing is known, values of 0, near logits that round to nothing, inputs that are not finite.
static void test_unknown(void **state) {
    (void)state;
    static const char *const inputs[] = {"nothing", "q", "k", "v", "d_o"};
    const double scales[] = {1, 30, 1000};
    for (size_t n = 0; n < 2 * 3 * 3 * 5 * 2; n++) {
        const size_t near = n % 2 ? 4 : 0, kind = n / 2 % 3, scale = n / 6 % 3, input = n / 18 % 5, zero = n / 90;
        AttentionSettings settings = base_settings(40, 8);
        settings.near = near;
        settings.polynomial = kind == 1 ? POLYNOMIAL_POWER : POLYNOMIAL_MINIMAX;
        settings.logit_bound = kind == 2 ? 6.0 : 1.0;
        AttentionPlan *plan = attention_plan_new("toeplitz", &settings);
        AttentionProblem problem = attention_problem_new(&settings, 0, scales[scale], n);
        if (zero) memset(problem.v, 0, problem.v_count * sizeof *problem.v);
        real *const bad[] = {NULL, &problem.q[10 * 16 + 1], &problem.k[10 * 8 + 1], &problem.v[10 * 4 + 1],
                             &problem.d_o[10 * 8 + 1]};
        if (bad[input]) *bad[input] = (real)NAN;
        Numbers numbers;
        AttentionReport report = report_into(&numbers);
        attention_problem_run(&problem, plan, NULL, &report);
        char label[120];
        snprintf(label, sizeof label, "kind %zu, near %zu, scale %g%s, NaN in %s", kind, near, scales[scale],
                 zero ? ", v = 0" : "", inputs[input]);
        for (size_t h = 0; h < 2; h++) {
            check_bound(label, "o", numbers.output[h], problem.o, 40, 2, h, 4);
            check_bound(label, "dq", numbers.dq[h], problem.dq, 40, 2, h, 8);
            check_bound(label, "dk", numbers.dk[h], problem.dk, 40, 1, 0, 8);
            check_bound(label, "dv", numbers.dv[h], problem.dv, 40, 1, 0, 4);
        }
        attention_problem_free(&problem);
        attention_destroy(plan);
    }
}

// A table of D×D entries `weight` at all lags 0 … T-1, and a bias where one is given. The path is valid until the next
// call.
static const char *write_table(size_t size, size_t tokens, bool dense, double weight, const double *bias) {
    static const char *directory;
    static char path[512];
    if (!directory) directory = temporary_directory();
    snprintf(path, sizeof path, "%s/table", directory);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    const size_t entries = dense ? size * size : size;
    fprintf(file, "rope-table 1\nsize %zu\nlags 0 %zu\n%s", size, tokens - 1, bias ? "bias\n" : "");
    for (size_t e = 0; e < entries; e++)
        fprintf(file, "%s %zu:%zu%s", e % 64 ? "" : "support", dense ? e / size : e, dense ? e % size : e,
                e % 64 == 63 || e + 1 == entries ? "\n" : "");
    fprintf(file, "data\n");
    for (size_t t = 0; t < tokens; t++) {
        fprintf(file, "%zu", t);
        for (size_t e = 0; e < entries; e++) fprintf(file, " %.17g", weight);
        if (bias) fprintf(file, " %.17g", bias[t]);
        fprintf(file, "\n");
    }
    fprintf(file, "end\n");
    assert_int_equal(fclose(file), 0);
    return path;
}

// Numbers that are not finite where no gradient shows them: behind entries that are clipped, and in dimensions that the
// far field does not see.
static void test_unknown_behind_finite(void **state) {
    (void)state;
    for (size_t n = 0; n < 2 * 2 * 3; n++) {
        const size_t kind = n % 2, near = n / 2 % 2 * 2;
        AttentionSettings settings = base_settings(3, 4);
        settings.near = near;
        settings.bound = BOUND_CLIP;
        settings.entry_bound = 0.3;
        settings.logit_bound = 0.0;
        if (kind == 0) settings.kernel = write_table(4, 3, false, 0.9, NULL);
        if (kind == 1) settings.far_size = 2, settings.polynomial = POLYNOMIAL_POWER;
        AttentionPlan *plan = attention_plan_new("toeplitz", &settings);
        AttentionProblem problem = attention_problem_new(&settings, 0, 100.0, n);
        real *const at = kind == 0 ? &problem.v[4 * (n / 4)] : &problem.q[8 * (n / 4)]; // dimension 0 is a fast one
        *at = (real)NAN;
        Numbers numbers;
        AttentionReport report = report_into(&numbers);
        attention_problem_run(&problem, plan, NULL, &report);
        char label[64];
        snprintf(label, sizeof label, "NaN of kind %zu in token %zu, near %zu", kind, n / 4, near);
        for (size_t h = 0; h < 2; h++) {
            check_bound(label, "o", numbers.output[h], problem.o, 3, 2, h, 4);
            check_bound(label, "dq", numbers.dq[h], problem.dq, 3, 2, h, 4);
            check_bound(label, "dk", numbers.dk[h], problem.dk, 3, 1, 0, 4);
            check_bound(label, "dv", numbers.dv[h], problem.dv, 3, 1, 0, 4);
        }
        attention_problem_free(&problem);
        attention_destroy(plan);
    }
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
    AttentionSettings settings = base_settings(16, SIZE);
    settings.heads = 1;
    settings.v_size = 1;
    settings.logit_scale = 1.0;
    settings.degree = 1;
    settings.logit_bound = 0.01;
    settings.bound = BOUND_BALL;
    settings.near_bound = NEAR_BOUND_NONE;
    settings.kernel = write_table(SIZE, settings.tokens, true, 1.0 / SIZE, NULL);
    AttentionPlan *plan = attention_plan_new("toeplitz", &settings);
    AttentionProblem problem = attention_problem_new(&settings, 0, 1.0, 1);
    const real a = (real)sqrt((double)LOGIT / SIZE), keys[] = {worst_key(SIZE, a, a, 1), worst_key(SIZE, a, a, -1)};
    for (size_t i = 0; i < problem.q_count; i++) problem.q[i] = a;
    for (size_t i = 0; i < problem.k_count; i++) problem.k[i] = keys[i / SIZE % 2];
    for (size_t t = 0; t < settings.tokens; t++) {
        problem.v[t] = t % 2 ? 1 : -1;
        problem.d_o[t] = 1;
    }
    Numbers numbers;
    certify(&problem, plan, "a dense table", &numbers);
    assert_true(numbers.fell_back[0] == 0.0 && numbers.output[0] < 1.0);
    attention_problem_free(&problem);
    attention_destroy(plan);
}

// Entries of W whose 16th power is no number of double precision, and queries and keys long enough for logits of 10
// from them: the head falls back, for its logits are measured.
static void test_tiny_table(void **state) {
    (void)state;
    AttentionSettings settings = base_settings(40, 2);
    settings.logit_scale = 1.0;
    settings.bound = BOUND_NONE;
    settings.kernel = write_table(2, settings.tokens, true, 5e-22, NULL); // of norm 1e-21
    AttentionPlan *plan = attention_plan_new("toeplitz", &settings);
    AttentionProblem problem = attention_problem_new(&settings, 0, 5e10, 3);
    Numbers numbers;
    certify(&problem, plan, "a table of 1e-21", &numbers);
    double query = 0.0, key = 0.0;
    for (size_t t = 0; t < settings.tokens; t++) {
        query = fmax(query, hypot((double)problem.q[4 * t], (double)problem.q[4 * t + 1]));
        key = fmax(key, hypot((double)problem.k[2 * t], (double)problem.k[2 * t + 1]));
    }
    assert_true(numbers.fell_back[0] == 1.0 && fabs(numbers.measured[0] / (1e-21 * query * key) - 1.0) < 1e-6);
    attention_problem_free(&problem);
    attention_destroy(plan);
}

// The ball is around q and k, and what W makes of them is within the interval whatever its norm: none falls back, and
// a table so small that no polynomial is good enough for it has that of a larger one.
static void test_norm_of_table(void **state) {
    (void)state;
    const double norms[] = {1e-21, 1e-3, 0.5, 1, 1.5, 2};
    for (size_t n = 0; n < 2 * 6; n++) {
        AttentionSettings settings = base_settings(40, 2);
        settings.degree = 6;
        settings.bound = n / 6 ? BOUND_CLIP : BOUND_BALL;
        if (n / 6) settings.logit_bound = 0.0;
        settings.near_bound = NEAR_BOUND_SAME;
        settings.kernel = write_table(2, settings.tokens, true, norms[n % 6] / 2.0, NULL);
        char label[64];
        snprintf(label, sizeof label, "a table of norm %g, bound %zu", norms[n % 6], n / 6);
        const Numbers numbers = certify_random(&settings, 3.0, n, label);
        if (numbers.fell_back[0] + numbers.fell_back[1] > 0.0)
            fail_msg("%s: fell back with logits of %g", label, numbers.measured[0]);
        assert_true(numbers.output[0] < 0.5);
    }
}

// A table of zeros leaves its bias alone; entries that are clipped guarantee logits of 0 then.
static void test_zero_table(void **state) {
    (void)state;
    double bias[40];
    for (size_t t = 0; t < 40; t++) bias[t] = -0.1 * (double)t;
    for (size_t n = 0; n < 6; n++) {
        AttentionSettings settings = base_settings(40, 2);
        settings.bound = n % 3 == 0 ? BOUND_CLIP : n % 3 == 1 ? BOUND_BALL : BOUND_NONE;
        if (n == 3) settings.logit_bound = 0.0; // clip: as entries guarantee
        settings.kernel = write_table(2, settings.tokens, false, 0.0, bias);
        const Numbers numbers = certify_random(&settings, 1.0, n, "a table of zeros");
        assert_true(numbers.fell_back[0] == 0.0 && numbers.measured[0] == 0.0 && numbers.output[0] < 0.5);
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
        AttentionSettings settings = base_settings(200, 2);
        settings.near = near;
        settings.degree = 4;
        settings.logit_bound = 0.5;
        settings.kernel = write_table(2, settings.tokens, false, 0.9, bias);
        if (near == 0 && first == 160 && bias[0] < -10.0) {
            Error error = {0};
            AttentionPlan *plan = attention_create(&attention_toeplitz, &settings, &error);
            if (plan || error.kind != ERROR_USER || !strstr(error.message, "attention.near = 160,"))
                fail_msg("a bias of %g at 160 lags: expected a refusal, got '%s'", bias[0],
                         plan ? "a plan" : error.message);
            check_count("refusals", 1);
            continue;
        }
        const Numbers numbers = certify_random(&settings, 1.0, n, "low biases");
        assert_true(numbers.fell_back[0] == 0.0 && numbers.output[0] < 0.1);
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
        AttentionSettings settings = base_settings(TOKENS, 2);
        char text[512];
        settings.near = n ? 8 : 0;
        settings.degree = 10;
        settings.bound = BOUND_BALL;
        settings.logit_bound = 8.0;
        settings.kernel = write_table(2, settings.tokens, false, 1.0, bias);
        AttentionPlan *plan = attention_plan_new("toeplitz", &settings);
        attention_explain(plan, text, sizeof text);
        assert_null(strstr(text, "one by one"));
        AttentionProblem problem = attention_problem_new(&settings, 0, 0.3, n);
        Numbers numbers;
        certify(&problem, plan, "falling biases", &numbers);
        assert_true(numbers.fell_back[0] == 0.0 && numbers.output[0] < 1.0);
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
        AttentionSettings settings = base_settings(TOKENS, 1);
        settings.near = near;
        settings.degree = kind == 0 ? 8 : 2;
        settings.polynomial = kind == 2 ? POLYNOMIAL_POWER : POLYNOMIAL_MINIMAX;
        settings.logit_scale = settings.entry_bound = 1.0;
        settings.bound = BOUND_CLIP;
        settings.kernel = write_table(1, settings.tokens, false, 1.0, bias);
        AttentionPlan *plan = attention_plan_new("toeplitz", &settings);
        char text[512];
        attention_explain(plan, text, sizeof text);
        if (masks[n / 6 % 3] < -20 && !strstr(text, " tokens below the rest meet their far keys one by one"))
            fail_msg("%s", text);
        AttentionProblem problem = attention_problem_new(&settings, 0, 1.0, n);
        for (size_t i = 0; i < problem.q_count; i++) problem.q[i] = (real)sqrt(-logits[n % 6]);
        for (size_t i = 0; i < problem.k_count; i++) problem.k[i] = (real)-sqrt(-logits[n % 6]);
        Numbers numbers;
        char label[96];
        snprintf(label, sizeof label, "self logit %g, mask %g, near %zu, kind %zu", logits[n % 6], masks[n / 6 % 3],
                 near, kind);
        certify(&problem, plan, label, &numbers);
        assert_true(numbers.fell_back[0] == 0.0);
        assert_true(kind == 2 || (numbers.output[0] < (kind ? 1.0 : 0.1) && isfinite(numbers.dk[0])));
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
    const bool high[] = {t<10 - tokens, t> tokens - 10, t > 0, t<0, t> 0 || t == 1 - tokens};
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
        AttentionSettings settings = base_settings(TOKENS, 2);
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
        Numbers numbers;
        certify(&problem, plan, "low biases without a mask", &numbers);
        assert_true(numbers.fell_back[0] == 0.0 && numbers.output[0] < 0.1);
        compare_polynomial(&problem, plan, "low biases without a mask");
        attention_problem_free(&problem);
        attention_destroy(plan);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_largest),
    cmocka_unit_test(test_nan_is_kept),
    cmocka_unit_test(test_mixed_group),
    cmocka_unit_test(test_all_fall_back),
    cmocka_unit_test(test_unknown),
    cmocka_unit_test(test_unknown_behind_finite),
    cmocka_unit_test(test_dense_table),
    cmocka_unit_test(test_tiny_table),
    cmocka_unit_test(test_norm_of_table),
    cmocka_unit_test(test_zero_table),
    cmocka_unit_test(test_low_biases),
    cmocka_unit_test(test_falling_biases),
    cmocka_unit_test(test_masked_far),
    cmocka_unit_test(test_low_biases_without_mask),
};
TEST_MAIN(tests)
