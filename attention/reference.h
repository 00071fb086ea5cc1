// Slow, obvious attention of one head in double precision, row by row, forward and backward: what tests, `rope bench`
// and `rope verify` compare with. Shares no code with the methods: rotations are evaluated by lag, as Definition 1.1
// writes them, and bounds from their formulas. Only the numbers B and r are the methods' own (bound_make): at the very
// bound, where the gradient jumps, the last bit of them decides.
//
// Two functions can be asked for:
//   plain (near_far = false)  bounded q and k in all logits, weight exp(x): method `exact`;
//   near and far              |i - j| < near: exp of the logit of unbounded q, k (near_bound = none) or bounded
//                             ones (same); other j: the far field of bounded q, k, of which only the far_size
//                             dimensions of lowest frequency count (0 or ≥ D: all), with weight exp(x) (far = exact),
//                             P(x) (polynomial) or 0 (none): methods `lowrank` and `toeplitz`.
// Cost: T·D per row and 2T·D doubles for the rotations.
#ifndef ROPE_ATTENTION_REFERENCE_H
#define ROPE_ATTENTION_REFERENCE_H

#include "attention/attention.h"

// P and P' of far = polynomial.
typedef struct ReferenceFar {
    double (*value)(const void *context, double x);
    double (*slope)(const void *context, double x);
    const void *context;
} ReferenceFar;

typedef struct AttentionReference AttentionReference;

// settings as for attention_create; `far` may be NULL unless near_far and far = polynomial. ERROR_USER, ERROR_MEMORY.
AttentionReference *reference_create(const AttentionSettings *settings, bool near_far, const ReferenceFar *far,
                                     Error *error);
void reference_destroy(AttentionReference *reference);
// Loads query head `head` of one batch row: q (T,D), k (T,D), v (T,E) at the head's first element of the first token.
void reference_load(AttentionReference *reference, size_t head, const real *q, size_t q_stride, const real *k,
                    size_t k_stride, const real *v, size_t v_stride);
// o (E) = output of token i.
void reference_row(AttentionReference *reference, size_t i, double *o);
// Adds the gradients of Σ_e d_o[e]·o_i[e] to those held for this load.
void reference_row_backward(AttentionReference *reference, size_t i, const real *d_o);
// dq, dk (T,D), dv (T,E) += the gradients held, taken through the bounds. Strides in elements.
void reference_gradients(const AttentionReference *reference, double *dq, size_t q_stride, double *dk, size_t k_stride,
                         double *dv, size_t v_stride);

#endif
