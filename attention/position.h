// The position kernel W_t and additive bias b_t of Definition 1.1, as every method sees them.
//
//     x_ij = s · q_i W_{i-j} k_jᵀ + b_{i-j}
//
//     rope         W_t = R_t, the rotation of the pairs (p, p + D/2) by t·θ^(-2p/D)
//     rope-decay   W_t = γ^|t| R_t
//     rope-window  W_t = R_t for |t| < window, else 0: then x = 0 and A = exp(0) = 1, as in Definition 1.1. A zero
//                  kernel is not a mask.
//     alibi        W_t = I, b_t = -m_h |t| with the slopes m_h of position_slope()
//     a path       W_t and b_t from a table file (attention/table.h)
//
// The first four are a dot product of rotated (or plain) q and k, times a factor and plus a bias that depend on the lag
// t = i - j alone; `exact` runs them so. Every kernel is also a table W_t[a][b] over a support S of pairs (a, b), for
// methods that take Definition 1.1 as it is written: position_support(), position_weight().
#ifndef ROPE_ATTENTION_POSITION_H
#define ROPE_ATTENTION_POSITION_H

#include "attention/attention.h"

// Numbers behind the last lag of a table: a tile may read this far (attention/exact.h: KEY_TILE).
enum { POSITION_LAG_PADDING = 512 };

typedef enum PositionKind {
    POSITION_ROPE,
    POSITION_ROPE_DECAY,
    POSITION_ROPE_WINDOW,
    POSITION_ALIBI,
    POSITION_TABLE,
} PositionKind;

typedef struct PositionEntry {
    size_t row, column; // a of q, b of k
} PositionEntry;

// A kernel from a file: W_t[a][b] for the entries of S and the lags first_lag … first_lag + lags - 1, zero elsewhere.
typedef struct PositionTable {
    size_t entries;
    PositionEntry *entry; // (entries)
    ptrdiff_t first_lag;  // ≤ 0
    size_t lags;
    double *weight; // (entries, lags)
    double *bias;   // (lags), or NULL
} PositionTable;

typedef struct Position {
    PositionKind kind;
    size_t tokens, qk_size, heads;
    double rope_theta, decay;
    size_t window;
    // rotations by position, computed in double so that position 65535 is as exact as position 1
    bool rotates;
    real *cosine, *sine; // (T, D/2), or NULL
    // Tables over lags, reversed so that a row of logits reads them forwards: element (T-1) - i + j belongs to lag
    // i - j. lag_count = 2T-1 plus padding for one tile.
    size_t lag_count;
    real *factor;  // (lag_count) scalar that multiplies the dot product, or NULL where it is 1
    real *bias;    // (lag_count) added to the logit after multiplication by bias_scale[head], or NULL
    double *slope; // (H) bias_scale, or NULL
    PositionTable table;
    real *table_weight; // (entries, lag_count) of POSITION_TABLE, or NULL
} Position;

// Of attention.kernel: what is none of the names is the path of a table.
PositionKind position_kind(const char *kernel);
// settings are validated (attention_create). ERROR_USER for an unknown kernel or a wrong table file, ERROR_MEMORY.
bool position_create(Position *position, const AttentionSettings *settings, Error *error);
void position_destroy(Position *position);
size_t position_bytes(const Position *position); // of its tables

// True when x_ij is a dot product of rotated q and k, times γ^(i-j) at most, which factors too (γ^(i-a)·γ^(a-j)): what
// the polynomial features need.
bool position_is_rotation(const Position *position);
// Angle per token of pair p in [0, D/2). Frequencies fall with p: the last pairs are the slowest.
double position_frequency(const Position *position, size_t pair);
double position_factor(const Position *position, ptrdiff_t lag);            // 1, γ^|t|, or 0 beyond the window
double position_bias(const Position *position, size_t head, ptrdiff_t lag); // b_t
// m_h, falling geometrically over the heads: 2^(-8(h+1)/H) for H a power of two; else the slopes of the power of two
// below H, then every other one of the power of two above (Press, Smith, Lewis: ALiBi).
double position_slope(size_t heads, size_t head);

// Support S of W_t: the number of entries, and where each one is. Rotations have 2D entries, alibi D.
size_t position_support(const Position *position);
PositionEntry position_entry(const Position *position, size_t entry);
// W_t[a][b] of that entry in double, factor included.
double position_weight(const Position *position, size_t entry, ptrdiff_t lag);

// out (count, D) = scale · rotation of rows in (count, D) that stand at positions first, first + 1, …; a scaled copy
// when the kernel does not rotate. out may be in.
void position_rotate(const Position *position, real *out, size_t out_stride, const real *in, size_t in_stride,
                     size_t first, size_t count, real scale);
// The transpose of position_rotate: takes gradients of rotated rows back.
void position_unrotate(const Position *position, real *out, size_t out_stride, const real *in, size_t in_stride,
                       size_t first, size_t count, real scale);

#endif
