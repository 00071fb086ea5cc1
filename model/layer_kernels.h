// The parts of a layer that are not matrix products, each one pass over memory: a row is read into the first cache
// level once and everything that it needs is done there. Compiled per instruction set (core/simd.h). The callers in
// passes.c and output.c cut the rows among threads.
#ifndef ROPE_MODEL_LAYER_KERNELS_H
#define ROPE_MODEL_LAYER_KERNELS_H

#include <stdbool.h>

#include "core/simd.h"

typedef struct LayerKernels {
    // Residual and RMSNorm: sum (rows,n) = x + delta, out (rows,n) = sum ⊙ weight / rms(sum), where
    // rms(x) = sqrt(mean(x²) + epsilon). delta = NULL: norms x itself, sum is not written.
    void (*rms_norm)(real *out, real *sum, const real *x, const real *delta, const real *weight, size_t rows, size_t n,
                     real epsilon);
    // With x̂ = x/rms(x) and g = dy ⊙ weight: dx (rows,n) = or += (g − x̂·mean(g ⊙ x̂))/rms(x) and
    // dweight (n) += Σ dy ⊙ x̂. dx may be dy.
    void (*rms_norm_backward)(real *dx, real *dweight, const real *dy, const real *x, const real *weight, size_t rows,
                              size_t n, real epsilon, bool accumulate);
    // The same per head of a wider row: heads vectors of n, one after another, rows `stride` apart. out may be x.
    void (*head_norm)(real *out, const real *x, const real *weight, size_t rows, size_t stride, size_t heads, size_t n,
                      real epsilon);
    // d (rows,stride): in = dy, out = dx. dweight (n) += over rows and heads.
    void (*head_norm_backward)(real *d, real *dweight, const real *x, const real *weight, size_t rows, size_t stride,
                               size_t heads, size_t n, real epsilon);
    // out (rows,n) = silu(gate) ⊙ up, gate_up (rows,2n): gate in the first half of a row. silu(x) = x/(1 + e^-x)
    void (*swiglu)(real *out, const real *gate_up, size_t rows, size_t n);
    // d_out (rows,n): in = the output's gradient, out = the output itself, made again for the weights' gradient.
    // gate_up (rows,2n): in = gate and up, out = their gradients.
    void (*swiglu_backward)(real *d_out, real *gate_up, size_t rows, size_t n);
    // Cross-entropy of one row of n logits: returns log Σ exp(x) − x_target; *correct = the target's logit is the
    // largest, or the first of those. gradient_weight ≠ 0: logits = gradient_weight · (softmax − onehot(target)).
    double (*cross_entropy)(real *logits, size_t n, size_t target, real gradient_weight, unsigned char *correct);
    // Token shift of one row: out (n) = current + mix ⊙ (previous − current); previous = NULL is a row of zeros.
    void (*shift)(real *out, const real *current, const real *previous, const real *mix, size_t n);
    // d_mix (n) += dx ⊙ (previous − current)
    void (*shift_backward_mix)(real *d_mix, const real *dx, const real *current, const real *previous, size_t n);
    // d_embedding (n) += (1 − mix) ⊙ dx + mix ⊙ dx_next; without mix (NULL) += dx; dx_next may be NULL.
    void (*shift_backward)(real *d_embedding, const real *dx, const real *dx_next, const real *mix, size_t n);
    // out (n) += Σ over blocks of partials (blocks,n), summed in order in double.
    void (*add_partials)(real *out, const real *partials, size_t blocks, size_t n);
    // out (rows) = matrix (rows,n) · x (n): one token's product, bound by reading the matrix once, where a packed
    // matrix product would write and read it again.
    void (*matrix_vector)(real *out, const real *matrix, const real *x, size_t rows, size_t n);
} LayerKernels;

ISA_TABLE(LayerKernels, layer_kernels)

#endif
