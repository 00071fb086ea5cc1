// Bounding of q and k before they meet (attention.md, section 1): the papers assume entries of at most B; we make it
// true. Applied to q and k as the projections made them; a rotation afterwards keeps the length of every vector (‖W‖ is
// 1), a table's W need not.
//
//     clip   y_a = min(max(x_a, -B), B)           |x_ij| ≤ s·D·B²‖W‖; the gradient passes where |x_a| ≤ B
//     ball   y = x·min(1, r/‖x‖), s·r² = Λ        |x_ij| ≤ Λ‖W‖;   dx = r/‖x‖ · (dy - x (x·dy)/‖x‖²) outside the ball
#ifndef ROPE_ATTENTION_BOUND_H
#define ROPE_ATTENTION_BOUND_H

#include "attention/attention.h"

typedef struct Bound {
    AttentionBound kind;
    double limit; // B, or r: a number of type real
} Bound;

// From settings whose logit_scale is resolved. The radius is made smaller by four units of rounding, so that rounding
// of the scaled vector cannot leave the interval that Λ promises. B and the radius are then rounded down to `real`: an
// entry or a row at the very bound is on the same side of it wherever, and in whatever precision, it is compared.
Bound bound_make(const AttentionSettings *settings);
// Λ as a polynomial for these settings takes it, where ‖W_t‖ ≤ weight_norm: a hair above what they say or the bound
// guarantees, so that rounding at the bound is inside. 0 only if they say so, or W is 0.
double bound_interval(const AttentionSettings *settings, double weight_norm);
// out (rows, size) = bounded in (rows, size); out may be in. Returns how many entries (clip) or rows (ball) changed.
size_t bound_apply(Bound bound, real *out, size_t out_stride, const real *in, size_t in_stride, size_t rows,
                   size_t size);
// r/‖x‖ of the ball, for a row outside of it; NaN where `real` does not hold it: no row is that long but by mistake.
real bound_ball_factor(double radius, double length);
// d (rows, size) *=: on entry the gradient of the bounded rows, on return that of `in`.
void bound_backward(Bound bound, real *d, size_t d_stride, const real *in, size_t in_stride, size_t rows, size_t size);
// What bound_apply's count is a share of: entries (clip) or rows (ball), 0 for none.
size_t bound_units(Bound bound, size_t rows, size_t size);

#endif
