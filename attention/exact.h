// What the files of method `exact` share: exact.c (plan, forward, decode) and exact_backward.c. Private to them.
#ifndef ROPE_ATTENTION_EXACT_H
#define ROPE_ATTENTION_EXACT_H

#include "attention/bound.h"
#include "attention/method.h"
#include "attention/position.h"
#include "core/arena.h"
#include "core/tile.h"

enum {
    KEY_TILE = 128,      // keys per tile of logits; a multiple of 16
    QUERY_TILE = 48,     // queries per tile: with the keys' tiles, one tile of each operand stays near
    QUERY_STRIP = 12,    // queries per product where the causal mask crosses a tile: less masked work
    ROUND_TOKENS = 16384 // key/value heads × tokens that are packed at a time: bounds the scratch
};

// Work runs in rounds over a few (batch row, key/value head) pairs: their rows are bounded, rotated, transposed and
// packed into tiles once, then every task reads the packed tiles.
typedef struct ExactPlan {
    AttentionPlan base;
    Position position;
    Bound bound;
    size_t threads;      // that scratch is cut for
    size_t block;        // queries per forward task
    size_t segments;     // backward: parts of the sequence that run side by side (exact_backward.c)
    size_t tiles;        // of KEY_TILE tokens in the sequence
    size_t round;        // pairs in a round
    size_t shared_bytes; // scratch of a round, in front of the threads' own
    size_t thread_bytes; // scratch of one thread
} ExactPlan;

// The next product of a block of queries with a tile of keys: whole where every query sees every key, a strip where the
// causal mask crosses.
typedef struct ExactStrip {
    size_t rows;        // queries
    size_t keys;        // keys that the last of them sees, 0: none
    ptrdiff_t diagonal; // the first sees the keys c ≤ diagonal, each next one more
} ExactStrip;

// For the queries begin + first … of a block of `count`, and `keys` keys from j on. `strip` is the size of a strip.
ExactStrip exact_strip(const ExactPlan *plan, size_t begin, size_t first, size_t count, size_t j, size_t keys,
                       size_t strip);

// Rows count at positions first, … of one head, bounded, rotated and scaled into out (count, D).
void exact_load(const ExactPlan *plan, real *out, const real *in, size_t in_stride, size_t first, size_t count,
                real scale);
// One tile of keys: k (KEY_TILE, D) bounded and rotated, kt (D, KEY_TILE) its transpose; rows from count up to the
// next multiple of 16 are zero.
void exact_load_keys(const ExactPlan *plan, real *k, real *kt, const real *in, size_t in_stride, size_t first,
                     size_t count);
// The same for values: v (KEY_TILE, E).
void exact_load_values(real *v, size_t v_size, const real *in, size_t in_stride, size_t count);
// s (rows, columns; stride KEY_TILE) = base-2 logits of queries i, i+1, … (q: loaded rows) against keys j, j+1, …
void exact_logits(const ExactPlan *plan, real *s, const real *q, size_t rows, const real *kt, size_t columns,
                  size_t head, size_t i, size_t j);
// Table of factor or bias as rows at query i and column at key j read it; NULL stays NULL.
const real *exact_lags(const ExactPlan *plan, const real *table, size_t i, size_t j);

// The scratch of the calling thread as an arena.
Arena exact_thread_arena(const ExactPlan *plan, void *scratch);

size_t exact_segments(const AttentionSettings *settings);
size_t exact_backward_shared_bytes(const ExactPlan *plan); // scratch of a round
size_t exact_backward_thread_bytes(const ExactPlan *plan);
void exact_backward(const AttentionPlan *plan, const AttentionBackward *io);

static inline size_t exact_pad(size_t keys) { return (keys + 15) / 16 * 16; } // columns of a tile
static inline size_t smaller(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t larger(size_t a, size_t b) { return a > b ? a : b; }

#endif
