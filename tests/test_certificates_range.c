// Certificates of lowrank and toeplitz where products leave the range of single precision though what is asked for does not:
// numbers that underflow before they meet something large, rows that overflow before they meet something small, biases
// whose exponentials do.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tests/support/certified.h"
#include "tests/support/check.h"
#include "tests/support/table_file.h"

static AttentionSettings small_settings(size_t tokens, size_t qk_size, double scale) {
    AttentionSettings s = attention_defaults();
    s.batch = 1, s.tokens = tokens, s.heads = s.kv_heads = 1, s.qk_size = qk_size, s.v_size = 1, s.far_size = 0;
    s.bound = BOUND_NONE, s.logit_bound = 4, s.degree = 4, s.near = tokens, s.logit_scale = scale;
    return s;
}

static Certified verify(const char *method, const char *what, AttentionProblem *problem) {
    AttentionPlan *plan = attention_plan_new(method, &problem->settings);
    const Certified certified = certified_verify("out of range", what, problem, plan);
    attention_destroy(plan);
    return certified;
}

// ---- underflow -----------------------------------------------------------------------------------------------------

// Rows of q and k of these sizes, v = ±v, do = do or |do| of random numbers.
typedef struct Tiny {
    size_t tokens, qk_size, near, degree;
    double scale, q, k, v, d_o, table, limit; // table: W = that on the diagonal (0: rope); limit: Λ
} Tiny;

static void check_tiny(const char *method, const char *what, const Tiny *tiny) {
    AttentionSettings s = small_settings(tiny->tokens, tiny->qk_size, tiny->scale);
    s.near = tiny->near, s.degree = tiny->degree, s.logit_bound = tiny->limit;
    if (tiny->table > 0) s.kernel = table_file_write_constant(s.qk_size, s.tokens, false, tiny->table, NULL);
    AttentionProblem problem = attention_problem_new(&s, 0, 1, 3);
    for (size_t n = 0; n < problem.q_count; n++) problem.q[n] *= (real)tiny->q;
    for (size_t n = 0; n < problem.k_count; n++) problem.k[n] *= (real)tiny->k;
    for (size_t n = 0; n < problem.v_count; n++) problem.v[n] = (real)(n % 3 ? -tiny->v : tiny->v);
    for (size_t n = 0; n < problem.o_count; n++) problem.d_o[n] = (real)(fabs((double)problem.d_o[n]) * tiny->d_o);
    char label[128];
    snprintf(label, sizeof label, "%s: %s, s %g, q %g, k %g, v %g, do %g, W %g", method, what, tiny->scale, tiny->q,
             tiny->k, tiny->v, tiny->d_o, tiny->table);
    const Certified certified = verify(method, label, &problem);
    assert_true(certified.fell_back[0] == 0);
    attention_problem_free(&problem);
}

static void test_underflow(void **state) {
    (void)state;
    static const struct {
        const char *what;
        Tiny tiny;
    } cases[] = {
        {"Σ ds·k before s", {2, 2, 2, 4, 1e30, 5e-16, 5e-16, 1, 1e-28, 0, 4}},
        {"Σ ds·k before s", {2, 2, 2, 4, 1e20, 5e-11, 5e-11, 1, 1e-31, 0, 4}},
        {"Σ ds·k before s", {2, 2, 2, 4, 1e38, 5e-20, 5e-20, 1, 1e-22, 0, 4}},
        {"ds·W before k and s", {2, 2, 2, 4, 1e36, 0.3, 0.3, 1, 1e-7, 1e-36, 4}},
        {"ds·W before k and s", {2, 2, 2, 4, 1e30, 0.3, 0.3, 1, 1e-13, 1e-30, 4}},
        {"ds·W before k and s", {2, 2, 2, 4, 0.7, 1e14, 1e14, 1, 1e-14, 1e-30, 4}},
        {"v before do", {4, 2, 4, 6, 1, 0.3, 0.3, 1e-43, 1e35, 0, 0.5}},
        {"v before do", {4, 2, 0, 6, 1, 0.3, 0.3, 1e-41, 1e33, 0, 0.5}},
        {"v before do", {4, 2, 0, 6, 1, 0.3, 0.3, 1e-42, 1e34, 0, 0.5}},
        {"k·v before q", {200, 2, 2, 1, 1, 1.5e13, 1.5e-17, 1e-30, 1, 0, 0.02}},
        {"k·v before q", {8, 2, 2, 2, 1, 7e15, 1.5e-18, 1e-11, 1, 0, 0.3}},
        {"k·do before q", {8, 2, 2, 4, 1, 1e7, 1e-9, 1, 1e-24, 0, 0.3}},
        {"q·do before k", {8, 2, 2, 4, 1, 1e-10, 1e8, 1, 1e-24, 0, 0.3}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (cases[i].tiny.table == 0) check_tiny("lowrank", cases[i].what, &cases[i].tiny);
        check_tiny("toeplitz", cases[i].what, &cases[i].tiny);
    }
}

// Rows far outside a ball of large radius: a gradient over their length would be below the smallest number.
static void test_long_rows(void **state) {
    (void)state;
    static const double scales[] = {2e-28, 1e-26, 1e-30};
    for (size_t i = 0; i < 3; i++)
        for (size_t m = 0; m < 2; m++)
            for (size_t near = 0; near <= 8; near += 8) {
                AttentionSettings s = small_settings(40, 4, scales[i]);
                s.bound = BOUND_BALL, s.near_bound = NEAR_BOUND_SAME, s.near = near, s.degree = 6, s.logit_bound = 0.5;
                AttentionProblem problem = attention_problem_new(&s, 0, 1 / sqrt(scales[i]), 3);
                for (size_t n = 0; n < problem.v_count; n++) problem.v[n] *= (real)1e-17;
                char label[64];
                snprintf(label, sizeof label, "rows longer than the ball, s %g, near %zu", scales[i], near);
                verify(m ? "toeplitz" : "lowrank", label, &problem);
                attention_problem_free(&problem);
            }
}

// s·q is about half of the smallest number that there is, before it meets keys that are nearly the largest: what a logit
// loses grows with the products that it is a sum of.
static void test_lost_logits(void **state) {
    (void)state;
    static const struct {
        const char *method;
        size_t size;
        double scale, table; // of a dense table; 0: rope
    } cases[] = {{"lowrank", 1024, 1.2e-38, 0}, {"lowrank", 1024, 1e-20, 0}, {"toeplitz", 1024, 1.2e-38, 0},
                 {"toeplitz", 64, 1.2e-38, 1},  {"toeplitz", 64, 1, 1e-10}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const size_t size = cases[i].size;
        AttentionSettings s = small_settings(2, size, cases[i].scale);
        s.chunk = 1, s.rope_theta = 1e30, s.degree = 1, s.logit_bound = 0.5;
        if (cases[i].table > 0) s.kernel = table_file_write_constant(size, 2, true, cases[i].table, NULL);
        AttentionProblem problem = attention_problem_new(&s, 0, 0, 3);
        const double unit = cases[i].table > 0 ? cases[i].scale * cases[i].table : cases[i].scale;
        for (size_t a = 0; a < size; a++) {
            const bool turns = cases[i].table == 0 && a % (size / 2) == 0; // the one pair that is rotated
            problem.q[size + a] = (real)(a % (size / 2) ? 0.72e-45 / unit : 0);
            problem.k[a] = (real)(turns ? 0 : 2e38), problem.k[size + a] = (real)(turns ? 0 : -2e38);
        }
        problem.v[0] = 1, problem.v[1] = -1, problem.d_o[0] = problem.d_o[1] = 1;
        char label[64];
        snprintf(label, sizeof label, "%s, %zu products, s %g", cases[i].method, size, cases[i].scale);
        const Certified certified = verify(cases[i].method, label, &problem);
        assert_true(certified.error[OUTPUT][0] > 2e-5); // they are lost
        attention_problem_free(&problem);
    }
}

// ---- overflow ------------------------------------------------------------------------------------------------------

// A query or key that overflows when it is scaled or rotated makes its outputs NaN, which are certified to nothing. As an
// infinity it would give a logit of -Inf here, and a pair of ordinary weight would not count.
static void test_overflow(void **state) {
    (void)state;
    static const struct {
        const char *methods[4];
        double scale, q, k, table;
    } cases[] = {{{"exact", "lowrank"}, 1, 3e-40, -2.9e38, 0},
                 {{"exact", "lowrank"}, 1e-20, 3e-20, -2.9e38, 0},
                 {{"exact", "lowrank", "toeplitz"}, 1e30, 1e9, -2e-40, 0},
                 {{"exact", "toeplitz"}, 1e38, 5, -1e-3, 1e-36}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (size_t m = 0; cases[i].methods[m]; m++)
            for (size_t near = 0; near <= 2; near++) { // 0: all of the far field, whose rows are others; 1: the other key
                AttentionSettings s = small_settings(2, 2, cases[i].scale);
                s.near = near, s.far = near ? FAR_POLYNOMIAL : FAR_EXACT;
                if (cases[i].table > 0) s.kernel = table_file_write_constant(2, 2, false, cases[i].table, NULL);
                AttentionProblem problem = attention_problem_new(&s, 0, 0, 3);
                for (size_t a = 0; a < 2; a++) problem.q[2 + a] = (real)cases[i].q, problem.k[2 + a] = (real)cases[i].k;
                problem.v[0] = 1, problem.v[1] = -1, problem.d_o[0] = problem.d_o[1] = 1;
                AttentionPlan *plan = attention_plan_new(cases[i].methods[m], &s);
                const Certified certified = certified_run(&problem, plan);
                char label[96];
                snprintf(label, sizeof label, "%s, s %g, q %g, k %g, near %zu", cases[i].methods[m], cases[i].scale,
                         cases[i].q, cases[i].k, near);
                // The weight of the second token's own key is about 1/2, so its output is far from 1.
                if (!(isnan((double)problem.o[1]) || fabs((double)problem.o[1]) < 0.6))
                    fail_msg("%s: the output is %g, certified to %g", label, (double)problem.o[1], certified.bound[OUTPUT][0]);
                if (m > 0) certified_check_known(label, &problem, &certified);
                check_count("rows that overflow", 1);
                attention_problem_free(&problem);
                attention_destroy(plan);
            }
}

// A head that falls back, with logits so low that e^{-L} is infinite, beside one that does not: its keys' gradients have a
// bound all the same.
static void test_low_logits(void **state) {
    (void)state;
    for (size_t m = 0; m < 2; m++) {
        AttentionSettings s = small_settings(40, 4, 1);
        s.heads = 2, s.near = 4, s.logit_bound = 1;
        AttentionProblem problem = attention_problem_new(&s, 0, 0.1, 3);
        for (size_t t = 0; t < s.tokens; t++)
            for (size_t a = 0; a < 4; a++) {
                problem.k[t * 4 + a] = (real)(a % 2 ? 0.5 : 0); // the slow pair, which hardly turns
                problem.q[t * 8 + 4 + a] = (real)(a % 2 ? -400 : 0);
            }
        AttentionPlan *plan = attention_plan_new(m ? "toeplitz" : "lowrank", &s);
        const Certified certified = certified_verify("out of range", "a head of low logits", &problem, plan);
        assert_true(certified.fell_back[0] == 0 && certified.fell_back[1] > 0);
        assert_true(certified.bound[DK][0] < 1e5 && certified.bound[DV][0] < 1e3);
        attention_problem_free(&problem);
        attention_destroy(plan);
    }
}

// ---- biases --------------------------------------------------------------------------------------------------------

// A bias that all lags have changes nothing, certificates least: the transforms' rounding is in the measure of sums that
// it is taken from.
static void test_common_bias(void **state) {
    (void)state;
    static const double biases[] = {0, -300, -700, -740, -800, -1000, 300, 800};
    Certified usual = {0};
    for (size_t i = 0; i < sizeof biases / sizeof biases[0]; i++) {
        double bias[1000];
        AttentionSettings s = small_settings(1000, 1, 1);
        for (size_t t = 0; t < s.tokens; t++) bias[t] = biases[i];
        s.near = 0, s.degree = 10, s.kernel = table_file_write_constant(1, s.tokens, false, 1, bias);
        AttentionProblem problem = attention_problem_new(&s, 0, 0, 3);
        for (size_t t = 0; t < s.tokens; t++) {
            problem.q[t] = (real)1.98, problem.k[t] = (real)-1.98;
            problem.v[t] = t % 2 ? -1 : 1;
        }
        char label[32];
        snprintf(label, sizeof label, "a bias of %g", biases[i]);
        const Certified certified = verify("toeplitz", label, &problem);
        if (i == 0) usual = certified;
        for (size_t n = 0; n < QUANTITIES; n++) // but for the roundings of the bias itself
            if (!(fabs(certified.bound[n][0] / usual.bound[n][0] - 1) < 0.1))
                fail_msg("%s: %s is certified to %g instead of %g", label, quantity_names[n], certified.bound[n][0],
                         usual.bound[n][0]);
        attention_problem_free(&problem);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_underflow),
    cmocka_unit_test(test_long_rows),
    cmocka_unit_test(test_lost_logits),
    cmocka_unit_test(test_overflow),
    cmocka_unit_test(test_low_logits),
    cmocka_unit_test(test_common_bias),
};
TEST_MAIN(tests)
