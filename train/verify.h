// rope verify: the papers' own problems on synthetic instances, exact and fast. Private to verify*.c.
//
//     ARAttC    (Definition 3.1)          O = D⁻¹AV,  A_ij = exp(Q_i W_{i-j} K_jᵀ / d),  ‖Q‖∞, ‖K‖∞, ‖V‖∞ ≤ B
//     ARAttLGC  (Definitions 3.2, 3.3)    Loss = ½‖D⁻¹A A₃Y - E‖², its gradient in X, where Q = A₁X₁, K = A₂X₂, V = A₃Y
//
// The gradient is reported for X₁ and X₂ (d×d each): what dLoss/dX ∈ R^{d⁴} becomes by the chain rule, and what anyone
// trains with. tests/double_papers.c holds the full one against the same formulas.
#ifndef ROPE_TRAIN_VERIFY_H
#define ROPE_TRAIN_VERIFY_H

#include "attention/attention.h"
#include "core/arena.h"
#include "train/config.h"

typedef struct Instance {
    size_t n, d;
    double bound;                                              // B
    double kernel_norm;                                        // ‖W_t‖ of the kernel: instance_set_kernel
    double logit_bound;                                        // Λ of this instance: ‖W‖·max‖q‖·max‖k‖/d
    double longest_query, longest_key, value_range, range_sum; // over columns: largest range, sum of ranges
    Arena arena;
    real *a1, *a2, *e; // (n, d)
    real *q, *k, *v;   // (n, d): A₁X₁, A₂X₂, A₃Y
    real *o, *d_o, *dq, *dk, *dv;
} Instance;

// What one method makes of an instance.
typedef struct Answer {
    real *o; // (n, d)
    double loss;
    real *gradient;                                              // (2, d, d): dX₁, dX₂
    double seconds;                                              // forward and backward of attention, median
    double output_certified, gradient_certified, loss_certified; // 0 for exact
    bool fell_back;
} Answer;

// Random, a function of n, d, B and seed. Entries of Q, K, V reach B and do not exceed it. ERROR_MEMORY.
bool instance_create(Instance *instance, size_t n, size_t d, double bound, uint64_t seed, Error *error);
void instance_destroy(Instance *instance);
// Takes the norm of the kernel, which is 1 before, into Λ. ERROR_USER when it is a table that does not fit.
bool instance_set_kernel(Instance *instance, const Config *config, bool causal, Error *error);
// The attention problem of this instance: one head, s = 1/d, entries clipped at B (which changes none), Λ as measured.
AttentionSettings instance_settings(const Instance *instance, const Config *config, bool causal, size_t degree);
// Runs forward, loss, backward `rounds` times. ERROR_USER when the method refuses, with its reason.
bool instance_solve(const Instance *instance, const AttentionMethod *method, const AttentionSettings *settings,
                    size_t rounds, Answer *answer, Error *error);
void answer_destroy(Answer *answer);

#endif
