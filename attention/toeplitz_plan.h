// What the files of method `toeplitz` share. Private.
//
// Rungs. One circular product of length 2T would give every output the rounding noise of the largest sums: the first
// tokens' sums are T times smaller than the last ones', and would drown. So outputs are cut into rungs [T/4, T),
// [T/16, T/4), …; a rung reads the inputs before its end only, and its transforms have length 2·end - 1 - start or more
// (outputs below start may be polluted: nobody reads them). All rungs together cost 7/4·4/3 = 2.33 T instead of 2 T,
// and the noise of every output is that of sums at most four times its own. Without the causal mask all sums have like
// sizes, and one rung of length ≥ 2T - 1 does.
//
// Units and slices. A unit is one (batch row, key/value head) with its H/G query heads; a slice is a range of the E+1
// columns of [V, 1]. Columns are independent, so (unit, slice) is a task that owns its outputs; what sums over columns
// (gradients of monomials) is kept per slice and added in the order of slices. Units run in waves, to bound memory.
#ifndef ROPE_ATTENTION_TOEPLITZ_PLAN_H
#define ROPE_ATTENTION_TOEPLITZ_PLAN_H

#include "attention/bound.h"
#include "attention/method.h"
#include "attention/position.h"
#include "attention/toeplitz_terms.h"
#include "attention/toeplitz_transform.h"
#include "core/arena.h"

enum {
    TOEPLITZ_RUNG_RATIO = 4,
    TOEPLITZ_RUNG_LAST = 32, // a rung that ends here or earlier starts at 0
    TOEPLITZ_RUNGS = 34,
    TOEPLITZ_SLICES = 8,
    TOEPLITZ_TILE = 64, // queries and keys of a tile of pairs
    TOEPLITZ_ROUNDING = 1, // of ε·log₂N·‖C‖₂‖x‖₂: what certificates allow the transforms (toeplitz_report.c)
    TOEPLITZ_MIX_BLOCK = 1024, // numbers of a spectrum that are mixed at a time: all operands in the second cache level
};

typedef struct Rung {
    size_t first, last; // outputs [first, last); inputs [0, last)
    size_t inputs;      // T without the mask, else last
    Transform transform;
    size_t stride; // numbers from one spectrum to the next
    real *spectra; // (bias_heads, kernels, stride), divided by N
} Rung;

typedef struct ToeplitzPlan {
    AttentionPlan base;
    Position position;
    Bound bound;
    Polynomial polynomial;
    Terms terms;
    bool expands;         // settings.far is FAR_POLYNOMIAL: there are terms and rungs
    size_t far_size;      // F
    size_t *dimension;    // (F) dimensions of q and k that the far field sees
    size_t support;       // |S| of all dimensions
    PositionEntry *entry; // (support)
    size_t line;          // most entries of S in one row or column
    size_t far_entries;
    size_t *far_entry;        // (far_entries) which of them are between far dimensions
    PositionEntry *far_place; // (far_entries) row and column as places among the far dimensions
    real *weight;             // (support, position.lag_count) W_t, reversed as position.h's tables
    double weight_norm;       // ‖W_t‖₂ ≤ this for all lags
    double absolute_share;    // ‖|W_t|‖₂ / weight_norm at most, with absolute values of the entries: for rounding
    size_t bias_heads;        // heads with a bias of their own: H, or 1
    double *shift;            // (H) largest bias of the far field's lags: kernels hold exp(b_t - shift)
    bool *pair_by_pair;       // (T) tokens whose far sums the transforms' rounding would drown; NULL: none
    size_t pair_by_pair_end;  // behind the last of them
    size_t pair_by_pair_count;
    double pair_by_pair_keys; // far keys that they meet, in all
    size_t rungs;
    Rung rung[TOEPLITZ_RUNGS]; // longest first
    size_t spectra_bytes;
    size_t group;  // H/G
    size_t stride; // T padded: rows of feature-major arrays, readable one tile beyond T
    size_t slices, wave, workers;
    size_t most_stride, most_length;
    // Far rows of q and k are multiplied by far_scale, W_t in the terms is divided by weight_unit, both powers of two, so
    // that nothing is rounded by them; what is left of s, logit_rest = s/far_scale², times weight_unit is about 1. Powers
    // of s and W up to the degree would leave the range of `real` where those of the logits do not.
    double far_scale, weight_unit, logit_rest;
} ToeplitzPlan;

// What forward leaves for backward.
typedef struct ToeplitzSaved {
    real *shift;              // (B,H,T) m_i: weights were exp(x - m_i)
    real *inverse;            // (B,H,T) 1/Z_i
    real *far_share;          // (B,H,T) share of the transformed sum in Z_i
    double *measured;         // (B,H) Λ
    unsigned char *exact_far; // (B,H) the far field is the true exp
} ToeplitzSaved;

typedef struct ToeplitzUnit {
    size_t batch, kv_head;
    real *query;              // (group, F, stride) bounded, times far_scale
    real *key;                // (F, stride) bounded, times far_scale
    real *near_key;           // (D, stride) as the near field sees it
    real *value;              // (E+1, stride): columns of V, then ones
    real *sum;                // (group, E+1, stride): numerator and denominator; backward: dN and dZ
    real *d_value;            // (E+1, stride)
    real *d_query;            // (slices, group, F, stride) of `query` as it is here
    real *d_key;              // (slices, F, stride) likewise
    double *norm;             // (group + 1) largest length of a far query of each head; of a far key
    double *changed;          // (group + 1) entries or rows that the bound changed
    unsigned char *exact_far; // (group)
} ToeplitzUnit;

typedef struct ToeplitzWork {         // of one thread
    real *key_rows, *d_key_rows;      // (most_keys, stride) monomials
    real *query_rows, *d_query_rows;  // (group, most_queries, stride)
    real *key_spectra, *back_spectra; // (most_keys, most_stride)
    real *query_spectra;              // (most_queries, most_stride)
    real *signal;                     // (most_length)
    // tiles of pairs (toeplitz_pairs.c)
    real *near_query, *far_query; // (TILE, D) times s, (TILE, F) times s/far_scale
    real *d_near, *d_far;         // (TILE, D), (TILE, F)
    real *d_near_key, *d_far_key; // (D, TILE), (F, TILE)
    real *near, *far, *d_weight;  // (TILE, TILE) logits, then weights
    real *sum;                    // (TILE, E)
    real *rows;                   // (TILE, max(D, E))
    real *raw;                    // (TILE, D)
    real *shift, *total;          // (TILE)
} ToeplitzWork;

typedef struct ToeplitzScratch {
    ToeplitzUnit *unit; // (wave)
    ToeplitzWork *work; // (workers)
} ToeplitzScratch;

// ---- toeplitz_plan.c ---------------------------------------------------------------------------------------------
AttentionPlan *toeplitz_create(const AttentionSettings *settings, Error *error);
void toeplitz_destroy(AttentionPlan *plan);
void toeplitz_explain(const AttentionPlan *plan, char *text, size_t size);
// Sets needs, and refuses with the numbers what does not fit into memory. Terms and rungs are known, spectra not made.
bool toeplitz_check_memory(ToeplitzPlan *plan, Error *error);
// ---- toeplitz_spectra.c: S, W_t and exp(b_t) as sequences, kernels and their spectra -------------------------------
bool toeplitz_support_create(ToeplitzPlan *plan, Error *error);
bool toeplitz_terms_create(ToeplitzPlan *plan, Error *error);
// ‖exp(b_t - shift)‖₂ over the far field's lags of the rung.
double toeplitz_bias_norm(const ToeplitzPlan *plan, size_t head, const Rung *rung);
// Rounding of the rung's sums per unit of exp(shift)·max|v|, where monomials add up to `magnitude` (toeplitz_report.c).
double toeplitz_noise(const Rung *rung, double bias_norm, double magnitude);
// ---- toeplitz.c: workspace, forward --------------------------------------------------------------------------------
ToeplitzSaved toeplitz_saved_at(const ToeplitzPlan *plan, void *saved, size_t *bytes);
ToeplitzScratch toeplitz_scratch_at(const ToeplitzPlan *plan, void *scratch, size_t *bytes);
// Next units after (batch, kv_head) number `next`, skipping heads that are not active. Returns how many were filled.
size_t toeplitz_wave(const ToeplitzPlan *plan, ToeplitzScratch *scratch, const bool *active, size_t *next);
// Bounded far rows, near keys and values of the wave's units, feature-major; norms measured.
void toeplitz_slice(const ToeplitzPlan *plan, size_t slice, size_t *first, size_t *last); // its columns
void toeplitz_load(const ToeplitzPlan *plan, ToeplitzScratch *scratch, size_t units, const real *q, size_t q_stride,
                   const real *k, size_t k_stride, const real *v, size_t v_stride);
void toeplitz_forward(const AttentionPlan *plan, const AttentionForward *io);
// ---- toeplitz_mix.c: steps on one component and one rung ------------------------------------------------------------
// out (count) = the monomial of `features` (rows `stride` apart)
void toeplitz_monomial(real *out, const Monomial *monomial, const real *features, size_t stride, size_t count);
// key_rows of the work, and query_rows of all heads of the unit, for one component.
void toeplitz_component_rows(const ToeplitzPlan *plan, const ToeplitzUnit *unit, ToeplitzWork *work,
                             const Component *component);
// d (rows of factors) += what d_monomial (count) says about the features.
void toeplitz_monomial_backward(real *d, const real *d_monomial, const Monomial *monomial, const real *features,
                                size_t stride, size_t count);
// spectrum = transform of a·b on [first, last), zero elsewhere
void toeplitz_transform_product(const Rung *rung, real *spectrum, real *signal, const real *a, const real *b,
                                size_t first, size_t last);
// query spectra = Σ_pairs kernel · key spectra; with transpose: key spectra = or += Σ conj(kernel) · query spectra
void toeplitz_mix(const ToeplitzPlan *plan, const Rung *rung, size_t head, const Component *component,
                  real *query_spectra, const real *key_spectra);
void toeplitz_mix_transposed(const ToeplitzPlan *plan, const Rung *rung, size_t head, const Component *component,
                             real *key_spectra, const real *query_spectra, bool accumulate);
// ---- toeplitz_backward.c -------------------------------------------------------------------------------------------
void toeplitz_backward(const AttentionPlan *plan, const AttentionBackward *io);
// ---- toeplitz_pairs.c: near field, and exact far field, pair by pair -------------------------------------------------
void toeplitz_rows_forward(const ToeplitzPlan *plan, const ToeplitzUnit *unit, ToeplitzWork *work,
                           const AttentionForward *io, const ToeplitzSaved *saved, size_t member, size_t first);
void toeplitz_rows_backward(const ToeplitzPlan *plan, const ToeplitzUnit *unit, ToeplitzWork *work,
                            const AttentionBackward *io, const ToeplitzSaved *saved, size_t member, size_t first);
void toeplitz_keys_backward(const ToeplitzPlan *plan, const ToeplitzUnit *unit, ToeplitzWork *work,
                            const AttentionBackward *io, const ToeplitzSaved *saved, size_t first);
// ---- toeplitz_report.c: certificates and counts ----------------------------------------------------------------------
void toeplitz_report_clear(const ToeplitzPlan *plan, const AttentionReport *report, const bool *active);
void toeplitz_report_clear_gradients(const ToeplitzPlan *plan, const AttentionReport *report, const bool *active);
void toeplitz_report_bounds(const ToeplitzPlan *plan, const ToeplitzUnit *unit, size_t member, double measured,
                            const AttentionReport *report);
void toeplitz_report_forward(const ToeplitzPlan *plan, const ToeplitzUnit *unit, const ToeplitzSaved *saved,
                             const AttentionForward *io);
void toeplitz_report_backward(const ToeplitzPlan *plan, const ToeplitzUnit *unit, const ToeplitzSaved *saved,
                              const AttentionBackward *io);
// ---- toeplitz_decode.c ------------------------------------------------------------------------------------------------
size_t toeplitz_decode_bytes(const ToeplitzPlan *plan);
void toeplitz_decode_begin(const AttentionPlan *plan, void *state);
void toeplitz_decode(const AttentionPlan *plan, void *state, real *o, const real *q, const real *k, const real *v,
                     size_t position, void *scratch);

// A key at lag t is in the near field.
static inline bool toeplitz_is_near(const ToeplitzPlan *plan, ptrdiff_t lag) {
    return (lag < 0 ? -lag : lag) < (ptrdiff_t)plan->base.settings.near;
}
// Query i meets the keys of its far field one by one: toeplitz_spectra.c says which must.
static inline bool toeplitz_is_pair_by_pair(const ToeplitzPlan *plan, size_t i) {
    return i < plan->pair_by_pair_end && plan->pair_by_pair[i];
}
// Keys in the far field of query i.
static inline size_t toeplitz_far_keys(const ToeplitzPlan *plan, size_t i) {
    const AttentionSettings *settings = &plan->base.settings;
    const size_t near = settings->near, after = settings->tokens - 1 - i;
    const size_t before = i + 1 > near ? i + 1 - near : 0; // and i itself, if near is 0
    return before + (!settings->causal && after >= near ? after - (near > 0 ? near - 1 : 0) : 0);
}
// Query i takes its far field from the transforms. They leave rounding noise where a token has no key in the far field,
// or none of weight; it must not be used.
static inline bool toeplitz_sees_far(const ToeplitzPlan *plan, size_t i) {
    return toeplitz_far_keys(plan, i) > 0 && !toeplitz_is_pair_by_pair(plan, i);
}
// Some head of the unit takes its far field from the transforms; else its sums are not read.
static inline bool toeplitz_expands(const ToeplitzPlan *plan, const ToeplitzUnit *unit) {
    bool any = false;
    for (size_t m = 0; m < plan->group; m++) any |= !unit->exact_far[m];
    return plan->expands && any;
}
static inline size_t toeplitz_spectrum_head(const ToeplitzPlan *plan, size_t head) {
    return plan->bias_heads > 1 ? head : 0;
}
static inline size_t toeplitz_least(size_t a, size_t b) { return a < b ? a : b; }

#endif
