// What method `toeplitz` tells about itself beyond the common interface: `rope bench attention` and `rope verify` print
// it. Private to the attention folder and these two.
#ifndef ROPE_ATTENTION_TOEPLITZ_H
#define ROPE_ATTENTION_TOEPLITZ_H

#include "attention/attention.h"

typedef struct ToeplitzCounts {
    size_t support; // |S| that the far field sees
    size_t terms;   // monomials over S of degree ≤ g: the rescaled Toeplitz matrices of Lemma C.2
    size_t pairs;   // of them with different (q-monomial, k-monomial)
    size_t kernels; // different Toeplitz matrices among these, up to a factor: cached spectra per length
    size_t query_monomials, key_monomials;
    size_t components;         // groups of monomials that no pair connects
    size_t rungs;              // transform lengths (toeplitz_plan.h)
    size_t longest;            // the longest of them
    double forward_transforms; // real transforms of one call, all lengths counted alike
    double backward_transforms;
    double forward_flops; // 2.5 N log2 N for each of them
    double backward_flops;
    size_t spectra_bytes;
} ToeplitzCounts;

// False, and zeros, if the plan is not one of toeplitz.
bool toeplitz_counts(const AttentionPlan *plan, ToeplitzCounts *counts);
// Λ that the plan's polynomial is made for, ‖W_t‖ of a table included; 0 if it has none.
double toeplitz_interval(const AttentionPlan *plan);
// ‖W_t‖₂ ≤ *norm for all lags of the settings' position kernel: 1, or of a table at most D^(1/16) times the largest.
// ERROR_USER, ERROR_MEMORY where the table cannot be read.
bool toeplitz_kernel_norm(const AttentionSettings *settings, double *norm, Error *error);
// Seconds that the transforms of one forward (or backward) call take by themselves, on as many threads as the method
// would use: each length timed in a loop over data that stays in the cache, times its count. Median of `repeats`.
double toeplitz_bare_seconds(const AttentionPlan *plan, bool backward, size_t repeats);

#endif
