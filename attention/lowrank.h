// What the files of method `lowrank` share: the plan, one task's workspace, and the steps on a chunk. Private.
//
// Work is cut into tasks (batch row, key/value head, segment of whole chunks) by shape alone; a task walks its chunks in
// order and owns all it writes. Positions of a chunk [c0, c1):
//
//     [0, far_end(c0))        keys in the running state when the chunk is read: all j ≤ c0 - near
//     [far_end(c0), c1)       the boundary block: evaluated pair by pair, exp where i - j < near, P where not
//     [far_end(c0-C), far_end(c0))   the block of keys that enters the state just before the chunk is read
//
// rope-decay multiplies the logit of lag t by γ^t, so a monomial of degree n by γ^(n·t). The state before chunk c0 then
// holds Σ_j γ^(n(c0-j)) φ(k_j): it ages by γ^(n·C) from chunk to chunk, keys enter it times γ^(c0-j) ≤ 1 and queries read
// it times γ^(i-c0) ≤ 1, so nothing ever grows. Pairs take γ^(i-j) from the table over lags.
//
// Everything between tokens is computed with query tokens along the vector lanes: features are (R, lanes), logits are
// (keys, lanes). Sums over keys have tokens in rows, as outputs do: (lanes, E), and the denominators beside them.
#ifndef ROPE_ATTENTION_LOWRANK_H
#define ROPE_ATTENTION_LOWRANK_H

#include "attention/bound.h"
#include "attention/certificate.h"
#include "attention/features.h"
#include "attention/method.h"
#include "attention/position.h"
#include "core/arena.h"
#include "core/tile.h"

enum { LANE_UNIT = 16, NEAR_LANES = 16, KEY_TILE = 128 };
#define LOWRANK_NO_MAXIMUM ((real)-1e30) // of no logits; finite, so that differences of two of them are numbers

typedef struct LowrankPlan {
    AttentionPlan base;
    Position position;
    bool lent;            // position's tables belong to another plan
    Polynomial polynomial;
    Features features;
    real coefficient[POLYNOMIAL_MAX_DEGREE + 1]; // P as the boundary block evaluates it
    Bound near_bound, far_bound;
    bool far_field;       // settings.far is not FAR_NONE
    bool polynomial_far;  // there is a running state
    bool guaranteed;      // the bound keeps |x̄| in the interval of P, or P needs none: no head ever falls back
    size_t far_size;      // F
    size_t far_pair;      // the far dimensions are pairs [far_pair, D/2) of the rotation
    real far_scale;       // √s, on both sides, so that monomials of q and k have like magnitudes
    size_t group;         // H/G
    const real *decay;    // γ^|t| at lags t = -(T-1) … T-1 (element 0 is lag 0), NULL without rope-decay
    real token_decay[POLYNOMIAL_MAX_DEGREE + 1], chunk_decay[POLYNOMIAL_MAX_DEGREE + 1],
        segment_decay[POLYNOMIAL_MAX_DEGREE + 1]; // what a row of the state of that degree loses over one of these
    size_t near, chunk, lanes; // lanes: chunk rounded up to LANE_UNIT
    size_t segments, segment_tokens;
    bool all_pairs;       // one chunk holds all tokens: every pair is evaluated by itself, and the state stays empty
    size_t state_lanes;   // lanes of features: those of the chunk, or of decode alone if there is no other use
    size_t state_stride, state_size; // a row of the state: H_r (E), z_r, certificates of dk and dv, padding
    size_t window_rows;   // near + 4·chunk, at most T
    size_t slots;         // tasks that may run at once
} LowrankPlan;

// What a head does in this step (saved by forward for backward).
typedef struct LowrankHead {
    double measured;   // Λ̂ of this batch row and head
    double clipped;    // entries or rows that the bound changed, as a share
    bool exact_far;    // true exp over the far field: settings.far = exact, or measured > Λ
    CertificateFacts facts; // norms of q and k
} LowrankHead;

typedef struct LowrankSaved {
    LowrankHead *head; // (B,H)
    real *log_sum;     // (B,H,T) L_i = m_i + log Z_i, so that a normalised weight is exp(x - L_i)
    real *far_share;   // (B,H,T) share of the far field in Z_i
    real *query_factor, *key_factor; // (B,H,T), (B,G,T) what the ball shortens the far rows by
} LowrankSaved;

// What one segment says about a head of q or k, and about a head of v.
typedef struct LowrankNorms {
    double far, near; // largest ‖·‖² of the bounded far part, and of the whole row
    double changed;   // entries or rows that the bound changed
} LowrankNorms;

typedef struct LowrankValues {
    double norm; // largest ‖v_j‖²
} LowrankValues;

typedef struct LowrankBounds {
    double output, dq; // largest over the segment's tokens
    bool unknown;      // some token has no finite certificate
    bool broken;       // o (forward) or dq (backward) is not all finite: exact heads have no certificate but this
    bool broken_keys;  // the same of dk and dv
    CertificateSums sums;
} LowrankBounds;

// Scratch of all tasks together.
typedef struct LowrankShared {
    LowrankNorms *norms;  // (B,H+G,segments) of q and k
    LowrankValues *values;       // (B,G,segments)
    real *value_range;    // (B,G,segments,2,E) smallest and largest entries of v
    Certificate *certificate; // (B,H) these six only when a report asks for them
    real *value_low, *value_high, *value_center; // (B,G,E) range of v, and the center that distances are taken from
    LowrankBounds *bounds; // (B,H,segments) of one forward or backward
    real *far_dk, *far_dv; // (B,H,T) certificates: what far queries may contribute, per unit of weight
    real *key_bound;      // (B,G,T,2) certificates of dk, dv so far
    real *segment_state;  // (B,G,segments) states, when segments > 1
    real *spill;          // (B,G,segments,near,D+E+2): gradients and certificates for keys of an earlier segment
    real *delta;          // (B,H,T) do·o
    unsigned char *slot;  // slots · slot_bytes
    size_t slot_bytes;
} LowrankShared;

typedef struct LowrankWork {
    size_t lanes;         // row length of everything below that is (…, lanes): of the plan, or fewer in decode
    real *state;          // (R, state_stride)
    real *phi, *d_phi;    // (R, lanes)
    // keys of the window [window_first, …): rotated and scaled; and their gradients before unrotation
    real *near_key, *far_key;                // (window_rows, D), (window_rows, F)
    real *value;                             // (window_rows, E), side by side: strided rows would share cache sets
    real *d_near_key, *d_far_key, *d_value;  // (window_rows, D), (window_rows, F), (window_rows, E)
    real *key_bound;                         // (window_rows, 2)
    // the chunk's queries, tokens in rows and tokens in lanes
    real *near_query, *far_query;     // (lanes, D) times s, (lanes, F) times √s
    real *near_query_t, *far_query_t; // (D, lanes), (F, lanes)
    real *d_near, *d_far_t;           // (lanes, D), (F, lanes)
    real *faded_t, *d_faded_t;        // (F, lanes) far rows times their γ^lag to the state, and their gradients
    real *rows;                       // (max(window_rows, KEY_TILE, lanes), D): raw rows on their way in or out
    real *tile_key, *tile_grad;       // (KEY_TILE, F): far keys outside the window (exact far field)
    real *tile_value;                 // (KEY_TILE, E)
    real *sum;                        // (lanes, E) numerators
    real *output_t;                   // (E, lanes) outputs, for certificates
    real *right_t;                    // (E+3, lanes): [V,1] or [dN,dZ] with tokens in lanes; certificates of dk, dv
    real *right;                      // (lanes, E): do or dN with tokens in rows
    real *near_logit, *far_logit, *d_weight; // (KEY_TILE, lanes)
    real *largest, *denominator, *rescale, *log_sum, *weight, *delta, *far_sum; // (lanes)
    real *near_dk, *near_dv, *far_dk, *far_dv;                    // (lanes) certificates per unit of weight
} LowrankWork;

typedef struct LowrankTask {
    const LowrankPlan *plan;
    LowrankWork work;
    size_t batch, kv_head, segment;
    bool certify;           // backward: carry the certificates of dk and dv along
    bool one_position;      // decode: lanes are heads at one position, not successive tokens
    size_t first, last;     // tokens of the segment
    const real *key_factor; // (T) of the keys
    size_t window_first, window_last; // positions held in the window
} LowrankTask;

// ---- lowrank.c -----------------------------------------------------------------------------------------------------
// A plan with a polynomial for |x̄| ≤ interval, which reads the tables of `position` and does not outlive them. For method
// auto, whose settings have passed attention_create.
AttentionPlan *lowrank_create(const AttentionSettings *settings, double interval, const Position *position,
                              Error *error);
LowrankSaved lowrank_saved_at(const LowrankPlan *plan, void *saved, size_t *bytes);
LowrankShared lowrank_shared_at(const LowrankPlan *plan, void *scratch, size_t *bytes);
size_t lowrank_state_index(const LowrankPlan *plan, size_t batch, size_t kv_head, size_t segment);

// Runs body(context, task) for every (batch row, active key/value head, segment of `segments`), in parallel.
// segments is plan->segments, or 1 for tasks that span all tokens.
typedef void (*LowrankBody)(void *context, LowrankTask *task);
void lowrank_each_task(const LowrankPlan *plan, void *scratch, const bool *active, size_t segments, LowrankBody body,
                       void *context);

static inline size_t lowrank_far_end(const LowrankPlan *plan, size_t chunk_first) {
    return chunk_first + 1 > plan->near ? chunk_first + 1 - plan->near : 0;
}
// First key that enters the state before the chunk at chunk_first.
static inline size_t lowrank_block_first(const LowrankPlan *plan, size_t chunk_first) {
    return chunk_first < plan->chunk ? 0 : lowrank_far_end(plan, chunk_first - plan->chunk);
}

// ---- lowrank_rows.c: from projections to bounded, rotated, scaled rows, and back -------------------------------------
// far (count, F) = bounded, rotated, √s-scaled far dimensions of in (count rows at positions first, …). factor (T): the
// ball's factor of every position as lowrank_measure found it, NULL: not measured.
void lowrank_far_rows(const LowrankPlan *plan, real *far, real *raw, const real *in, size_t stride,
                      const real *factor, size_t first, size_t count);
// near (count, D) = rotated rows, times scale, bounded if near_bound = same.
void lowrank_near_rows(const LowrankPlan *plan, real *near, const real *in, size_t stride, size_t first, size_t count,
                       real scale);
// out (count, D) = or += what the gradients of near rows (NULL: none) and far rows (NULL: none), which are used up, are
// in terms of the projection `in`. factor (T) as of lowrank_far_rows.
void lowrank_rows_backward(const LowrankPlan *plan, real *out, size_t out_stride, bool accumulate, real *d_near,
                           real near_scale, real *d_far, real *raw, const real *in, size_t stride,
                           const real *factor, size_t first, size_t count);
double lowrank_square(const real *row, size_t size); // ‖row‖²
// Asks for rows [first, first + chunk) below T ahead of their use: a head's rows are too far apart for the hardware to
// foresee, and their misses would otherwise be waited for.
void lowrank_prefetch(const LowrankPlan *plan, const real *rows, size_t stride, size_t columns, size_t first);
// Norms over rows [first, last) of one head of q or k, and the ball's factors of these rows (NULL: not kept).
void lowrank_measure(const LowrankPlan *plan, LowrankNorms *norms, real *factor, real *rows, const real *in,
                     size_t stride, size_t first, size_t last);
// out (columns, lanes) = in (count, columns)ᵀ, zero in the lanes beyond count.
void lowrank_to_lanes(size_t lanes, real *out, const real *in, size_t stride, size_t count, size_t columns);
// Extends the window so that it holds the keys and values of [lowrank_block_first, chunk end), dropping older ones when
// it is full; gradients of new rows are zero when with_gradients.
void lowrank_window_advance(LowrankTask *task, const real *k, size_t k_stride, const real *v, size_t v_stride,
                            size_t chunk_first, bool with_gradients);
// The window's values from token `first` on, (…, E).
const real *lowrank_window_values(const LowrankTask *task, size_t first);
// out (count, columns) = in, side by side.
void lowrank_pack(real *out, const real *in, size_t stride, size_t count, size_t columns);
// The chunk's queries: near_query and near_query_t, far_query and far_query_t.
void lowrank_near_queries(LowrankTask *task, const real *q, size_t q_stride, size_t chunk_first, size_t count);
void lowrank_far_queries(LowrankTask *task, const real *q, size_t q_stride, const real *factor, size_t chunk_first,
                         size_t count);

// ---- lowrank_near.c: pairs evaluated one by one ------------------------------------------------------------------
// values (rows, lanes), a row per key: times γ^lag, where lag belongs to the first row and lane and falls from key to
// key; it rises from lane to lane unless they are at one position. Nothing without rope-decay.
void lowrank_fade(const LowrankPlan *plan, real *values, size_t ld, size_t rows, size_t lanes, ptrdiff_t lag,
                  bool one_position);
// sum, denominator, largest += pairs of the chunk with the boundary block, and with all earlier keys if the far field is
// exact.
void lowrank_pairs_forward(LowrankTask *task, const LowrankHead *head, const real *k, size_t k_stride, const real *v,
                           size_t v_stride, size_t chunk_first, size_t count);
// Gradients of the boundary block, from do in right and right_t: d_near, d_far_t += and the window's d_near_key,
// d_far_key, d_value +=.
void lowrank_pairs_backward(LowrankTask *task, const LowrankHead *head, size_t chunk_first, size_t count);
// Gradients of the pairs before the boundary block (exact far field): d_far_t +=; dk, dv += directly, and bound (T, 2)
// += their certificates when the task certifies.
void lowrank_earlier_backward(LowrankTask *task, const real *k, size_t k_stride, const real *v, size_t v_stride,
                              real *dk, real *dv, real *bound, size_t chunk_first, size_t count);

// ---- lowrank_state.c: features and the running state ----------------------------------------------------------------
// Lets a state grow older by one token, chunk or segment (the plan's decay of it): nothing without rope-decay.
void lowrank_state_age(const LowrankPlan *plan, real *state, const real *decay);
// state += Φ_k(block)ᵀ[V,1] for `count` ≤ chunk rows of far keys and their values (count, E), the first of which lies
// `lag` before the position that the state stands at. Uses d_far_t and weight.
void lowrank_state_absorb(LowrankTask *task, const real *far_key, const real *v, size_t count, size_t lag);
// sum, denominator = Φ_qᵀ[H,z] of the chunk's first `count` far queries.
void lowrank_state_read(LowrankTask *task, size_t count);
// d_far_t += what [dN,dZ] (right_t) says about the far queries through the state.
void lowrank_state_read_backward(LowrankTask *task, size_t count);
// dstate += Φ_q(chunk)ᵀ[dN,dZ], from right, right_t and far_query_t.
void lowrank_state_absorb_queries(LowrankTask *task, size_t count);
// For the block of `count` keys with values v whose rows are in far_query_t (lag as of lowrank_state_absorb): dv += and
// d_far_t = the gradient of the far keys, both from the dstate in `state`; bound (count, 2) += the certificates' columns
// of it when the task certifies.
void lowrank_state_read_keys(LowrankTask *task, const real *v, real *dv, size_t v_stride, real *bound, size_t count,
                             size_t lag);

// Exclusive sums of the segments' states of every batch row and key/value head, from the first or from the last on, each
// aged to where the next begins.
void lowrank_state_prefix(const LowrankPlan *plan, real *segment_state, bool from_last);

// ---- lowrank_forward.c, lowrank_backward.c, lowrank_decode.c ---------------------------------------------------------
void lowrank_forward(const AttentionPlan *plan, const AttentionForward *io);
// measured (B,H) = Λ̂ of every active head, from norms alone.
void lowrank_measure_logits(const AttentionPlan *plan, const AttentionForward *io, double *measured);
// The states at which every segment starts, into shared.segment_state; nothing if there is one segment.
void lowrank_segment_states(const LowrankPlan *plan, const LowrankSaved *saved, const bool *active, const real *k,
                            size_t k_stride, const real *v, size_t v_stride, void *scratch);
static inline const real *lowrank_key_factor(const LowrankSaved *saved, const LowrankTask *task) {
    const AttentionSettings *s = &task->plan->base.settings;
    return saved->key_factor + (task->batch * s->kv_heads + task->kv_head) * s->tokens;
}
// Whether any query head of the task's group reads the running state.
bool lowrank_uses_state(const LowrankTask *task, const LowrankHead *heads);
void lowrank_backward(const AttentionPlan *plan, const AttentionBackward *io);
void lowrank_decode_begin(const AttentionPlan *plan, void *state);
void lowrank_decode(const AttentionPlan *plan, void *state, real *o, const real *q, const real *k, const real *v,
                    size_t position, void *scratch);
size_t lowrank_decode_bytes(const LowrankPlan *plan);
LowrankWork lowrank_work_at(const LowrankPlan *plan, Arena *arena);
Arena lowrank_arena_over(void *memory); // memory given by the caller, laid out by the code that measures it

// ---- lowrank_certify.c: certificates of a batch, from certificate.h ------------------------------------------------
// Measures v and makes the certificate of every head, in scratch: once per forward or backward that reports bounds.
void lowrank_certificates(const LowrankPlan *plan, const LowrankSaved *saved, const bool *active, const real *v,
                          size_t v_stride, void *scratch);
// After the chunk's outputs o.
void lowrank_certify_output(LowrankTask *task, const LowrankSaved *saved, const LowrankShared *shared, const real *o,
                            size_t o_stride, size_t head, LowrankBounds *bounds, size_t chunk_first, size_t count);
// After the chunk's do, in right_t; delta is do·ô. Fills near_dk … far_dv and the far columns of shared.
void lowrank_certify_gradient(LowrankTask *task, const LowrankSaved *saved, const LowrankShared *shared, size_t head,
                              LowrankBounds *bounds, size_t chunk_first, size_t count);
// After all gradients of the task's tokens: notes which are not finite.
void lowrank_certify_finite(const LowrankTask *task, const LowrankShared *shared, const AttentionBackward *io);
void lowrank_report_output(const LowrankPlan *plan, const LowrankShared *shared,
                           const bool *active, const AttentionReport *report);
void lowrank_report_gradient(const LowrankPlan *plan, const LowrankShared *shared,
                             const bool *active, const AttentionReport *report);

// ---- lowrank_kernels.c ----------------------------------------------------------------------------------------------
// A tile of pairs: keys in rows, queries in lanes. t = i - j = lag + lane - row.
typedef struct LowrankTile {
    real *near, *far;       // (rows, ld) logits; near is read from row near_first on, far up to row far_rows
    real *d;                // (rows, ld) backward: do·v
    size_t ld, rows, lanes, near_first, far_rows;
    ptrdiff_t lag;
    size_t near_size;       // exp of the near logit where 0 ≤ t < near_size, far field where t ≥ near_size
    bool far_exact;         // exp of the far logit instead of P
    size_t degree;
    const real *coefficient;
    real *sum, *far_sum;    // (lanes) forward: denominator, far part of it
} LowrankTile;

typedef struct LowrankKernels {
    // near = weights relative to exp(largest) (0 where t < 0); largest (lanes) raised to cover the tile's exponents,
    // rescale (lanes) = exp(old largest - new largest). The sums are rescaled and added to.
    void (*forward)(const LowrankTile *tile, real *largest, real *rescale);
    // near = normalised weights A/Z; d = gradient of the near logits, far = gradient of the far logits.
    // log_sum L, weight exp(-L), delta do·o: all (lanes).
    void (*backward)(const LowrankTile *tile, const real *log_sum, const real *weight, const real *delta);
    // out (rows, 2) += Σ_lane weight·(near or far factor by lag), for dk and dv: certificates of a tile's keys.
    void (*pair_bounds)(const LowrankTile *tile, real *out, const real *near_dk, const real *near_dv,
                        const real *far_dk, const real *far_dv);
    // What is NaN stays NaN in these three.
    // out (lanes) = largest |x[row] - low[row]|, |high[row] - x[row]| over rows
    void (*reach)(real *out, const real *x, size_t ld, const real *low, const real *high, size_t rows, size_t lanes);
    // out (lanes) = largest |x[row]|
    void (*lane_largest)(real *out, const real *x, size_t ld, size_t rows, size_t lanes);
    // low, high (columns) = smallest and largest of each column of x, from what is there on; returns the largest
    // ‖row‖², in double, because squares leave the range of float long before the numbers do.
    double (*column_range)(real *low, real *high, const real *x, size_t stride, size_t rows, size_t columns);
    // square (lanes) = Σ_row x[row]², along (lanes) = Σ_row center[row]·x[row], in double too
    void (*lane_products)(double *square, double *along, const real *center, const real *x, size_t ld, size_t rows,
                          size_t lanes);
    // out (rows) = the dot products of rows
    void (*row_dots)(real *out, const real *a, const real *b, size_t stride, size_t rows, size_t columns);
    // x (rows, ld) *= factor (lanes)
    void (*scale_lanes)(real *x, size_t ld, const real *factor, size_t rows, size_t lanes);
    // out (rows, columns) = in, row by row times factor (rows)
    void (*scale_rows)(real *out, size_t out_stride, const real *in, size_t in_stride, const real *factor, size_t rows,
                       size_t columns);
    // out (lanes) = exp(-x)
    void (*exp_negative)(real *out, const real *x, size_t lanes);
    // Rotates pairs (p, p + half) of rows by ±angle and scales, also by factor (rows) unless NULL; cosine, sine: rows
    // `table_stride` apart.
    void (*rotate)(real *out, size_t out_stride, const real *in, size_t in_stride, size_t rows, size_t half,
                   const real *cosine, const real *sine, size_t table_stride, const real *factor, real scale,
                   real direction);
    // out (rows) = ‖row‖² in double
    void (*row_squares)(double *out, const real *in, size_t stride, size_t rows, size_t size);
    // d = gradient of in, where d was that of rows shortened to length 1/inverse by factor (rows); 1: not shortened
    void (*unshrink)(real *d, const real *in, size_t in_stride, const real *factor, double inverse, size_t rows,
                     size_t size);
} LowrankKernels;

ISA_TABLE(LowrankKernels, lowrank_kernels)

#endif
