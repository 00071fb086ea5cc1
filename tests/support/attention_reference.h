// One attention problem with its inputs and outputs in guarded, strided buffers, and its double-precision solution by
// attention/reference.h over all batch rows and heads.
#ifndef ROPE_TESTS_SUPPORT_ATTENTION_REFERENCE_H
#define ROPE_TESTS_SUPPORT_ATTENTION_REFERENCE_H

#include "attention/attention.h"
#include "attention/polynomial.h"
#include "attention/reference.h"

// A plan of the named method; settings that it refuses fail the running test.
AttentionPlan *attention_plan_new(const char *method, const AttentionSettings *settings);
// P and P' for the reference; the polynomial (NULL where the far field is none) is borrowed.
ReferenceFar reference_polynomial(const Polynomial *polynomial);

typedef struct AttentionProblem {
    AttentionSettings settings;
    size_t q_stride, k_stride, v_stride, o_stride;
    size_t q_count, k_count, v_count, o_count; // elements of each buffer, gaps included
    real *q, *k, *v, *d_o;                     // inputs; NaN in the gaps between tokens
    real *o, *dq, *dk, *dv;                    // outputs of attention_problem_run; the gaps must stay NaN
    real before;                               // what the outputs hold before a run: NaN unless changed
} AttentionProblem;

// Normal q and k of the given deviation, normal v and d_o of deviation 1, all functions of seed. `gap` extra elements
// after each token's row.
AttentionProblem attention_problem_new(const AttentionSettings *settings, size_t gap, double deviation, uint64_t seed);
void attention_problem_free(AttentionProblem *problem);
// Forward and (unless d_o is NULL) backward, with fresh saved and scratch memory full of NaN and guarded. Outputs are
// NaN before. active, report: as in AttentionForward.
void attention_problem_run(AttentionProblem *problem, const AttentionPlan *plan, const bool *active,
                           AttentionReport *report);

// The solution, packed: o (B,T,H,E), dq (B,T,H,D), dk (B,T,G,D), dv (B,T,G,E). Gradients may be NULL together.
typedef struct AttentionSolution {
    double *o, *dq, *dk, *dv;
} AttentionSolution;
AttentionSolution attention_solve(const AttentionProblem *problem, bool near_far, const ReferenceFar *far);
void attention_solution_free(AttentionSolution *solution);
// Compares the outputs of a run with the solution: |error| ≤ absolute + relative·|expected| for o; for the gradients
// the absolute part is multiplied by 1 + their largest magnitude. `what` names the tally, `detail` the case if it fails.
// Returns the largest error of o.
double attention_compare(const char *what, const char *detail, const AttentionProblem *problem,
                         const AttentionSolution *solution, double absolute, double relative);

#endif
