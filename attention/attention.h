// Causal self-attention of T tokens behind one interface, whatever the method (attention.md, section 3).
//
//     x_ij = s · q_i W_{i-j} k_jᵀ,   A_ij = exp(x_ij + b_{i-j}) for j ≤ i,   o_i = Σ_j A_ij v_j / Σ_j A_ij
//                                                              (fast RoPE attention, Definition 1.1: ARAttC)
//
// Inputs are q, k, v as the projections made them: the position kernel W (a rotation, unless settings say otherwise)
// belongs to attention and is applied here. Bounding of entries (clip, ball) belongs here too.
//
// Letters: B batch rows, T tokens, H query heads, G key/value heads (H a multiple of G; query head h reads key/value
// head h / (H/G)), D query/key head size, E value head size.
//
// Life of a method: plan = attention_create(settings): validates, sizes, may fail. After that nothing can fail and
// nothing allocates: the caller provides `saved` (what backward needs from forward, one per layer) and `scratch`
// (shared by all layers), of the sizes that attention_needs() reports.
#ifndef ROPE_ATTENTION_ATTENTION_H
#define ROPE_ATTENTION_ATTENTION_H

#include <stdbool.h>

#include "core/error.h"
#include "core/real.h"

typedef enum AttentionBound { BOUND_NONE, BOUND_CLIP, BOUND_BALL } AttentionBound;
typedef enum AttentionNearBound { NEAR_BOUND_NONE, NEAR_BOUND_SAME } AttentionNearBound;
typedef enum AttentionFar { FAR_POLYNOMIAL, FAR_EXACT, FAR_NONE } AttentionFar;
typedef enum PolynomialKind { POLYNOMIAL_MINIMAX, POLYNOMIAL_TAYLOR, POLYNOMIAL_POWER } PolynomialKind;

typedef struct AttentionSettings {
    // shape
    size_t batch, tokens, heads, kv_heads, qk_size, v_size;
    bool causal; // false only in `rope verify` and tests (the papers' problems); `exact` and `toeplitz` support it
    // position kernel: "rope", "rope-decay", "rope-window", "alibi", or the path of a table file
    const char *kernel;
    double rope_theta;   // rotary base: pair p of D/2 turns by θ^(-2p/D) per token; rotate-half pairs (p, p + D/2)
    double kernel_decay; // rope-decay: γ in (0, 1]
    size_t kernel_window;// rope-window: W_t = 0 for t ≥ this many tokens
    // logits
    double logit_scale;  // s; 0 means 1/sqrt(D), negative means 1/D (configuration words `1/sqrt(d)`, `1/d`)
    AttentionBound bound;
    double entry_bound;  // B, for BOUND_CLIP
    double logit_bound;  // Λ: the interval [-Λ, Λ] the polynomial is made for; the ball's guarantee. Times ‖W‖ of a table
    AttentionNearBound near_bound;
    AttentionFar far;
    size_t far_size;     // dimensions with the lowest rotary frequencies that the far field sees; 0 or ≥ D: all. Even.
    size_t near;         // token i sees j with |i - j| < near exactly (under the mask j in (i - near, i]); 0: all is far
    size_t chunk;        // tokens per chunk, a tuning knob without effect on the function computed; 0: chosen
    size_t degree;       // g
    PolynomialKind polynomial;
    // auto
    double tolerance;    // relative error of the output by truncation that `auto` accepts; rounding comes on top
    double cost_exact, cost_lowrank; // calibrated seconds per GFLOP; 0: measure at create
} AttentionSettings;

// The defaults of every field but the shape: what configs start from.
AttentionSettings attention_defaults(void);

// What a plan takes. Bytes are for the whole (B, T) problem of one layer.
typedef struct AttentionNeeds {
    size_t saved_bytes;    // per layer, written by forward, read by backward
    size_t scratch_bytes;  // one for all layers and both directions
    size_t decode_bytes;   // state of one sequence in one layer, for `tokens` of context
    size_t plan_bytes;     // what the plan itself holds while it lives: tables over positions, spectra
    size_t state_bytes;    // running state H, z of one batch row and key/value head (0 for exact)
    size_t features;       // R (0 for exact)
    double forward_flops;  // the method's own count (attention.md, section 5), per call
    double backward_flops;
} AttentionNeeds;

// What one forward (and its backward) saw, per head, merged over batch rows by maximum (counts by sum). Arrays of
// length H, owned by the caller; NULL pointers are skipped. Certificates are absolute bounds in the max norm, valid for
// that very batch; 0 where the method is exact, +Inf where none is known (polynomial = power, a fallback that the
// settings do not allow, or numbers that are not finite). Never NaN.
typedef struct AttentionReport {
    double *logit_bound;      // measured Λ of the far field: s·max‖q‖·max‖k‖ after bounding
    double *output_bound;     // ‖ô − o‖∞
    double *dq_bound, *dk_bound, *dv_bound; // filled by backward; dk, dv of a key/value head are given to its query heads
    double *clipped;          // share of clipped entries of q and k (clip), or of rescaled vectors (ball), in [0, 1]
    double *fell_back;        // batch rows of this head that ran the exact far field in this step
    double *method_used;      // index in attention_methods() that ran (auto), else the method's own
} AttentionReport;

// Row strides are in elements from one token to the next; head h starts at h·D (q, k) or h·E (v, o); batch rows follow
// one another, T rows each.
typedef struct AttentionForward {
    real *o;              // (B,T,H,E) =
    const real *q;        // (B,T,H,D)
    const real *k;        // (B,T,G,D)
    const real *v;        // (B,T,G,E)
    size_t o_stride, q_stride, k_stride, v_stride;
    const bool *active;   // (G) key/value heads to run, NULL: all; the others' outputs are left untouched
    AttentionReport *report; // may be NULL
    void *saved, *scratch;
} AttentionForward;

typedef struct AttentionBackward {
    real *dq, *dk, *dv;   // (B,T,H,D) =, (B,T,G,D) =, (B,T,G,E) =; strides as of q, k, v
    const real *d_o;      // (B,T,H,E), stride of o
    const real *o, *q, *k, *v; // as forward saw and wrote them
    size_t o_stride, q_stride, k_stride, v_stride;
    const bool *active;
    AttentionReport *report;
    const void *saved;
    void *scratch;
} AttentionBackward;

// The backward that belongs to a forward which has run: the same tensors, strides and memory.
static inline AttentionBackward attention_backward_after(const AttentionForward *forward, const real *d_o, real *dq,
                                                         real *dk, real *dv) {
    return (AttentionBackward){
        .dq = dq, .dk = dk, .dv = dv,
        .d_o = d_o,
        .o = forward->o, .q = forward->q, .k = forward->k, .v = forward->v,
        .o_stride = forward->o_stride, .q_stride = forward->q_stride, .k_stride = forward->k_stride,
        .v_stride = forward->v_stride,
        .active = forward->active,
        .report = forward->report,
        .saved = forward->saved,
        .scratch = forward->scratch,
    };
}

typedef struct AttentionPlan AttentionPlan; // opaque; each method embeds it first in its own struct

// Registry. A fifth method is one new file and one row in registry.c.
typedef struct AttentionMethod AttentionMethod;
size_t attention_method_count(void);
const AttentionMethod *attention_method_at(size_t index);
const AttentionMethod *attention_method_find(const char *name); // NULL if unknown
const char *attention_method_name(const AttentionMethod *method);
const char *attention_method_summary(const AttentionMethod *method); // one line for --help

// Fails with ERROR_USER naming the setting and the numbers (features, bytes) when the settings make no sense or do not
// fit; ERROR_MEMORY when memory for the plan is missing. The plan copies the settings. Free with attention_destroy.
AttentionPlan *attention_create(const AttentionMethod *method, const AttentionSettings *settings, Error *error);
const AttentionMethod *attention_plan_method(const AttentionPlan *plan);
const AttentionSettings *attention_plan_settings(const AttentionPlan *plan);
AttentionNeeds attention_needs(const AttentionPlan *plan);
void attention_forward(const AttentionPlan *plan, const AttentionForward *io);
void attention_backward(const AttentionPlan *plan, const AttentionBackward *io);
// One line for people: what the plan will do and why (auto: the choice with its costs). Writes at most size bytes.
void attention_explain(const AttentionPlan *plan, char *text, size_t size);
void attention_destroy(AttentionPlan *plan);

// Decoding one sequence (batch row), token by token: state of needs.decode_bytes, aligned to 64.
void attention_decode_begin(const AttentionPlan *plan, void *state);
// o (H,E) = attention of the token at `position` (0, 1, 2, … without gaps, below settings.tokens: position tables end there
// whatever the method's state) over itself and all before it. q (H,D), k (G,D), v (G,E) of that token.
void attention_decode(const AttentionPlan *plan, void *state, real *o, const real *q, const real *k, const real *v,
                      size_t position, void *scratch);

#endif
