// Method auto: takes lowrank where its certificate is within the tolerance, exact where not, head by head; what it gives
// is softmax within the tolerance; the choice follows the costs.
#include <malloc.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "attention/attention.h"
#include "tests/support/attention_reference.h"
#include "tests/support/check.h"

static AttentionSettings base_settings(void) {
    AttentionSettings s = attention_defaults();
    s.batch = 2, s.tokens = 300, s.heads = 4, s.kv_heads = 2, s.qk_size = 8, s.v_size = 16;
    s.bound = BOUND_NONE, s.near = 16, s.degree = 4, s.logit_bound = 4, s.tolerance = 1e-2;
    s.cost_exact = 1, s.cost_lowrank = 1e-3;
    return s;
}

static void scale_head(AttentionProblem *problem, size_t head, real factor) {
    const AttentionSettings *s = &problem->settings;
    for (size_t t = 0; t < s->batch * s->tokens; t++)
        for (size_t a = 0; a < s->qk_size; a++) problem->q[t * problem->q_stride + head * s->qk_size + a] *= factor;
}

static void test_softmax_within_tolerance(void **state) {
    (void)state;
    const double deviations[] = {0.05, 0.2, 0.35, 0.6, 3};
    size_t fast = 0, slow = 0;
    for (size_t i = 0; i < 5; i++) {
        AttentionSettings s = base_settings();
        AttentionProblem problem = attention_problem_new(&s, 2, deviations[i], 10 + i);
        scale_head(&problem, 3, 20); // the second key/value head must be exact
        AttentionPlan *plan = attention_plan_new("auto", &s);
        double used[4];
        AttentionReport report = {.method_used = used};
        attention_problem_run(&problem, plan, NULL, &report);
        AttentionSolution solution = attention_solve(&problem, false, NULL);
        for (size_t h = 0; h < 4; h++) {
            const char *name = attention_method_name(attention_method_at((size_t)used[h]));
            const bool lowrank = strcmp(name, "lowrank") == 0;
            assert_true(lowrank || strcmp(name, "exact") == 0);
            lowrank ? fast++ : slow++;
            assert_true(used[h] == used[h / 2 * 2]);
            if (h >= 2 && deviations[i] > 0.1) assert_false(lowrank);
        }
        attention_compare("softmax within the tolerance", "auto", &problem, &solution, 8 * s.tolerance, 0);
        attention_solution_free(&solution);
        attention_problem_free(&problem);
        attention_destroy(plan);
    }
    assert_true(fast > 3 && slow > 3); // both ways were taken
    check_count("heads on lowrank", fast);
    check_count("heads on exact", slow);
}

// Where q and k are bounded, the polynomial may be for less than the bound guarantees, and the function is still softmax
// of what the bound leaves: here it shortens q, while k is so small that logits stay far below Λ. The last key/value head
// has logits of about Λ, where nothing but exact is within the tolerance.
static void test_bounded(void **state) {
    (void)state;
    for (AttentionBound bound = BOUND_CLIP; bound <= BOUND_BALL; bound++) {
        AttentionSettings s = base_settings();
        s.bound = bound, s.entry_bound = 1, s.tolerance = 1e-4;
        AttentionProblem problem = attention_problem_new(&s, 0, 3, 40 + bound);
        for (size_t t = 0; t < s.batch * s.tokens; t++)
            for (size_t a = 0; a < s.qk_size; a++) problem.k[t * problem.k_stride + a] *= (real)0.025;
        AttentionPlan *plan = attention_plan_new("auto", &s);
        double used[4], clipped[4], measured[4];
        AttentionReport report = {.method_used = used, .clipped = clipped, .logit_bound = measured};
        attention_problem_run(&problem, plan, NULL, &report);
        for (size_t h = 0; h < 4; h++) {
            assert_string_equal(attention_method_name(attention_method_at((size_t)used[h])), h < 2 ? "lowrank" : "exact");
            assert_true(clipped[h] > 0.2);
            assert_true(h < 2 ? measured[h] > 0.2 && measured[h] < 0.5 : measured[h] > 2);
        }
        AttentionSolution solution = attention_solve(&problem, false, NULL);
        attention_compare("softmax of bounded logits", "auto", &problem, &solution, 8 * s.tolerance, 0);
        attention_solution_free(&solution);
        attention_problem_free(&problem);
        attention_destroy(plan);
    }
}

// Where lowrank costs more, or nothing is within the tolerance, auto is exact to the bit.
static void test_exact(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        AttentionSettings s = base_settings();
        if (i == 0)
            s.cost_lowrank = 1e3;
        else
            s.tolerance = 1e-14;
        AttentionProblem problem = attention_problem_new(&s, 0, 0.1, 20);
        AttentionProblem other = attention_problem_new(&s, 0, 0.1, 20);
        AttentionPlan *plan = attention_plan_new("auto", &s), *exact = attention_plan_new("exact", &s);
        attention_problem_run(&problem, plan, NULL, NULL);
        attention_problem_run(&other, exact, NULL, NULL);
        check_same_bits("auto against exact: o", problem.o, other.o, problem.o_count * sizeof(real));
        check_same_bits("auto against exact: dk", problem.dk, other.dk, problem.k_count * sizeof(real));
        char text[300];
        attention_explain(plan, text, sizeof text);
        assert_non_null(strstr(text, "no polynomial is cheaper"));
        attention_problem_free(&problem);
        attention_problem_free(&other);
        attention_destroy(plan);
        attention_destroy(exact);
    }
}

// Every candidate costs more than the one before it and reaches further: what does not can never be the choice. All read
// one set of position tables, so what the plan holds hardly grows with their number.
static void test_candidates(void **state) {
    (void)state;
    AttentionSettings s = base_settings();
    s.tokens = 1 << 16, s.qk_size = 32;
    const struct mallinfo2 before = mallinfo2();
    AttentionPlan *exact = attention_plan_new("exact", &s), *plan = attention_plan_new("auto", &s);
    const struct mallinfo2 after = mallinfo2();
    const double exact_bytes = (double)attention_needs(exact).plan_bytes;
    const double bytes = (double)attention_needs(plan).plan_bytes;
    char text[1000];
    attention_explain(plan, text, sizeof text);
    size_t candidates = 0;
    double cost = 0, reach = 0;
    for (const char *at = text; (at = strstr(at, "; degree ")); candidates++) {
        double next_cost, next_reach;
        assert_int_equal(sscanf(at, "; degree %*d %lf s for |logit| <= %lf", &next_cost, &next_reach), 2);
        if (!(next_cost > cost && next_reach > reach)) fail_msg("a candidate that is never chosen: %s", text);
        cost = next_cost, reach = next_reach, at++;
    }
    assert_true(candidates > 1);
    check_count("candidates in order", candidates);
    assert_true(bytes < 1.5 * exact_bytes);
    if (!CHECK_SANITIZER) { // its own malloc says nothing
        const double held = (double)(after.uordblks + after.hblkhd) - (double)(before.uordblks + before.hblkhd);
        assert_true(held < exact_bytes + 1.5 * exact_bytes);
    }
    attention_destroy(plan);
    attention_destroy(exact);
}

// Costs are measured when none are given, and the explanation fits whatever room there is.
static void test_calibration(void **state) {
    (void)state;
    AttentionSettings s = base_settings();
    s.cost_exact = s.cost_lowrank = 0;
    AttentionPlan *plan = attention_plan_new("auto", &s);
    assert_true(attention_plan_settings(plan)->cost_exact > 0 && attention_plan_settings(plan)->cost_lowrank > 0);
    char text[64];
    for (size_t size = 1; size <= sizeof text; size++) {
        memset(text, 'x', sizeof text);
        attention_explain(plan, text, size);
        assert_true(memchr(text, '\0', size) != NULL);
    }
    check_count("explanations", sizeof text);
    attention_destroy(plan);
}

// Reports name the method that ran, for the fixed methods as well.
static void test_method_is_named(void **state) {
    (void)state;
    for (size_t m = 0; m < attention_method_count(); m++) {
        const char *name = attention_method_name(attention_method_at(m));
        if (strcmp(name, "auto") == 0) continue;
        AttentionSettings s = base_settings();
        s.tokens = 40, s.degree = 2, s.logit_bound = 2, s.bound = BOUND_BALL;
        AttentionProblem problem = attention_problem_new(&s, 0, 0.1, 30);
        AttentionPlan *plan = attention_plan_new(name, &s);
        double used[4] = {-1, -1, -1, -1};
        attention_problem_run(&problem, plan, NULL, &(AttentionReport){.method_used = used});
        for (size_t h = 0; h < 4; h++) assert_true(used[h] == (double)m);
        check_count("named methods", 1);
        attention_problem_free(&problem);
        attention_destroy(plan);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_method_is_named),
    cmocka_unit_test(test_softmax_within_tolerance),
    cmocka_unit_test(test_bounded),
    cmocka_unit_test(test_exact),
    cmocka_unit_test(test_candidates),
    cmocka_unit_test(test_calibration),
};
TEST_MAIN(tests)
