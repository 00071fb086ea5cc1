#include "tests/support/certified.h"

#include <math.h>

#include "tests/support/check.h"

const char *const quantity_names[QUANTITIES] = {"o", "dq", "dk", "dv"};

// One result of a run: (T, heads, size).
typedef struct Rows {
    const real *values;
    size_t heads, size;
} Rows;

static Rows rows_of(const AttentionProblem *problem, Quantity quantity) {
    const AttentionSettings *s = &problem->settings;
    const Rows rows[QUANTITIES] = {{problem->o, s->heads, s->v_size},
                                   {problem->dq, s->heads, s->qk_size},
                                   {problem->dk, s->kv_heads, s->qk_size},
                                   {problem->dv, s->kv_heads, s->v_size}};
    return rows[quantity];
}

// Where query head h of `heads` has its row of token t.
static size_t row_at(Rows rows, size_t heads, size_t t, size_t h) {
    return (t * rows.heads + h / (heads / rows.heads)) * rows.size;
}

AttentionSettings certified_settings(size_t tokens, size_t qk_size) {
    AttentionSettings settings = attention_defaults();
    settings.batch = 1;
    settings.tokens = tokens;
    settings.heads = 2;
    settings.kv_heads = 1;
    settings.qk_size = qk_size;
    settings.v_size = 4;
    settings.far_size = 0;
    settings.near = 8;
    settings.degree = 2;
    settings.logit_bound = 1.0;
    return settings;
}

Certified certified_run(AttentionProblem *problem, const AttentionPlan *plan) {
    assert_true(problem->settings.heads <= CERTIFIED_HEADS);
    Certified certified = {0};
    AttentionReport report = {.output_bound = certified.bound[OUTPUT],
                              .dq_bound = certified.bound[DQ],
                              .dk_bound = certified.bound[DK],
                              .dv_bound = certified.bound[DV],
                              .fell_back = certified.fell_back,
                              .logit_bound = certified.logit_bound};
    attention_problem_run(problem, plan, NULL, &report);
    return certified;
}

Certified certified_measure(AttentionProblem *problem, const AttentionPlan *plan) {
    Certified certified = certified_run(problem, plan);
    AttentionSettings *s = &problem->settings;
    const AttentionFar far = s->far;
    s->far = FAR_EXACT;
    AttentionSolution solution = attention_solve(problem, true, NULL);
    s->far = far;
    const double *const expected[QUANTITIES] = {solution.o, solution.dq, solution.dk, solution.dv};
    for (Quantity n = OUTPUT; n < QUANTITIES; n++) {
        const Rows rows = rows_of(problem, n);
        for (size_t h = 0; h < s->heads; h++)
            for (size_t t = 0; t < s->tokens; t++)
                for (size_t a = 0; a < rows.size; a++) {
                    const size_t at = row_at(rows, s->heads, t, h) + a;
                    const double error = fabs((double)rows.values[at] - expected[n][at]);
                    certified.error[n][h] = larger_or_nan(certified.error[n][h], error);
                }
    }
    attention_solution_free(&solution);
    return certified;
}

// Whether all heads that share the keys of head h fell back.
static bool group_fell_back(const AttentionSettings *settings, const Certified *certified, size_t h) {
    const size_t group = settings->heads / settings->kv_heads, first = h / group * group;
    bool all = true;
    for (size_t other = first; other < first + group; other++) all = all && certified->fell_back[other] > 0.0;
    return all;
}

void certified_check(const char *tally, const char *case_name, const AttentionSettings *settings,
                     const Certified *certified) {
    for (size_t h = 0; h < settings->heads; h++) {
        if (group_fell_back(settings, certified, h)) continue;
        for (Quantity n = certified->fell_back[h] > 0.0 ? DK : OUTPUT; n < QUANTITIES; n++) {
            if (!(certified->error[n][h] <= certified->bound[n][h]))
                fail_msg("%s, %s: %s of head %zu errs by %.6g, certified %.6g", tally, case_name, quantity_names[n], h,
                         certified->error[n][h], certified->bound[n][h]);
            check_count(tally, 1);
        }
    }
}

Certified certified_verify(const char *tally, const char *case_name, AttentionProblem *problem,
                           const AttentionPlan *plan) {
    const Certified certified = certified_measure(problem, plan);
    certified_check(tally, case_name, &problem->settings, &certified);
    return certified;
}

size_t certified_check_known(const char *case_name, const AttentionProblem *problem, const Certified *certified) {
    const AttentionSettings *s = &problem->settings;
    size_t broken = 0;
    for (Quantity n = OUTPUT; n < QUANTITIES; n++) {
        const Rows rows = rows_of(problem, n);
        for (size_t h = 0; h < s->heads; h++) {
            bool finite = true;
            for (size_t t = 0; t < s->tokens; t++)
                for (size_t a = 0; a < rows.size; a++)
                    finite = finite && isfinite((double)rows.values[row_at(rows, s->heads, t, h) + a]);
            const double bound = certified->bound[n][h];
            if (!(bound >= 0.0) || (!finite && isfinite(bound)))
                fail_msg("%s: %s of head %zu is %sfinite, and certified to %g", case_name, quantity_names[n], h,
                         finite ? "" : "not ", bound);
            broken += !finite;
            check_count("certificates of what may be unknown", 1);
        }
    }
    return broken;
}
