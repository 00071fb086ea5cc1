// Backward of method `exact`: five products per tile, weights recomputed from the saved log-sum-exp.
//
//     P_ij = exp(x_ij - lse_i),  dP = dO Vᵀ,  dX_ij = P_ij (dP_ij - do_i·o_i)       the papers' γ
//     dV = Pᵀ dO,   dQ = s dX K,   dK = s dXᵀ Q;  then the rotation is undone and the bound's Jacobian applied
//
// Cost per head: 2.5 T²(D+E) operations (causal); scratch of (5D + 3E) numbers per token of a round.
// Source: gradient of fast RoPE attention, Section 4 (the closed form of the gradient); tiles after FlashAttention.
//
// Parallel without copies of dQ and with the same sums for any number of threads: the sequence is cut in `segments`.
// A task is (queries of segment w + r, keys of segment w) of one key/value head; in step r no two tasks share queries
// or keys, so each adds to dQ, dK and dV in place, and steps follow one another in a fixed order.
#include <string.h>

#include "attention/exact.h"
#include "attention/position_kernels.h"
#include "attention/softmax_kernels.h"
#include "core/threads.h"

#define LOG2_E 1.4426950408889634

enum {
    BACKWARD_BLOCK = 8 * QUERY_TILE
}; // queries that meet one tile of keys: q, do, dq stay in the second cache level

// A round's rows, packed; slot p of the round is one pair. T' = tiles·KEY_TILE. Gradients are those of rotated rows.
typedef struct BackwardShared {
    real *q, *dq;  // (round, H/G, T', D)
    real *d_o;     // (round, H/G, T', E)
    real *delta;   // (round, H/G, T')
    real *k, *kt;  // (round·tiles, KEY_TILE, D) and transposed
    real *vt;      // (round·tiles, E, KEY_TILE)
    real *dk, *dv; // (round·tiles, KEY_TILE, D), (…, E)
} BackwardShared;

typedef struct BackwardScratch {
    real *s, *ds; // (QUERY_TILE, KEY_TILE)
    real *v;      // (KEY_TILE, E)
    real *dkt;    // (D, KEY_TILE)
} BackwardScratch;

static BackwardShared take_shared(const ExactPlan *plan, Arena *arena) {
    const AttentionSettings *settings = &plan->base.settings;
    const size_t keys = plan->round * plan->tiles * KEY_TILE, queries = keys * (settings->heads / settings->kv_heads);
    return (BackwardShared){
        .q = ARENA_TAKE(arena, real, queries * settings->qk_size),
        .dq = ARENA_TAKE(arena, real, queries * settings->qk_size),
        .d_o = ARENA_TAKE(arena, real, queries * settings->v_size),
        .delta = ARENA_TAKE(arena, real, queries),
        .k = ARENA_TAKE(arena, real, keys * settings->qk_size),
        .kt = ARENA_TAKE(arena, real, keys * settings->qk_size),
        .vt = ARENA_TAKE(arena, real, keys * settings->v_size),
        .dk = ARENA_TAKE(arena, real, keys * settings->qk_size),
        .dv = ARENA_TAKE(arena, real, keys * settings->v_size),
    };
}

static BackwardScratch take_scratch(const ExactPlan *plan, Arena *arena) {
    return (BackwardScratch){
        .s = ARENA_TAKE(arena, real, QUERY_TILE * KEY_TILE),
        .ds = ARENA_TAKE(arena, real, QUERY_TILE * KEY_TILE),
        .v = ARENA_TAKE(arena, real, KEY_TILE * plan->base.settings.v_size),
        .dkt = ARENA_TAKE(arena, real, KEY_TILE * plan->base.settings.qk_size),
    };
}

size_t exact_backward_shared_bytes(const ExactPlan *plan) {
    Arena arena = arena_measure("attention");
    take_shared(plan, &arena);
    return arena.used;
}

size_t exact_backward_thread_bytes(const ExactPlan *plan) {
    Arena arena = arena_measure("attention");
    take_scratch(plan, &arena);
    return arena.used;
}

// Enough tasks for many cores where batch and heads are few; segments of at least two tiles.
size_t exact_segments(const AttentionSettings *settings) {
    const size_t rows = settings->batch * settings->kv_heads, longest = settings->tokens / (2 * KEY_TILE);
    return larger(1, smaller(rows < 64 ? 64 / rows : 1, longest));
}

// What a task works on: one head, its rows in the packed arrays.
typedef struct Head {
    const real *q, *d_o, *delta, *lse;
    real *dq;
    size_t index;
} Head;

// Gradients of one tile of logits of a table kernel.
static void table_gradients(const ExactPlan *plan, const BackwardShared *shared, const BackwardScratch *scratch,
                            const Head *head, size_t key_row, size_t rows, size_t columns, size_t i, size_t j) {
    const Position *position = &plan->position;
    const size_t size = plan->base.settings.qk_size;
    memset(scratch->dkt, 0, size * KEY_TILE * sizeof(real));
    for (size_t e = 0; e < position->table.entries; e++) {
        const PositionEntry entry = position->table.entry[e];
        position_kernels()->table_gradients(
            head->dq + i * size + entry.row, size, scratch->dkt + entry.column * KEY_TILE, scratch->ds, KEY_TILE,
            head->q + i * size + entry.row, size, shared->kt + key_row * size + entry.column * KEY_TILE,
            exact_lags(plan, position->table_weight + e * position->lag_count, i, j), rows, columns);
    }
    real *dk = shared->dk + key_row * size;
    for (size_t c = 0; c < columns; c++)
        for (size_t a = 0; a < size; a++) dk[c * size + a] += scratch->dkt[a * KEY_TILE + c];
}

// Queries i … against the keys of one tile, j …, which stand at key_row of the packed arrays.
static void attend(const ExactPlan *plan, const BackwardShared *shared, const BackwardScratch *scratch,
                   const Head *head, ExactStrip strip, size_t i, size_t j, size_t key_row) {
    const size_t qk_size = plan->base.settings.qk_size, v_size = plan->base.settings.v_size;
    const size_t rows = strip.rows, columns = exact_pad(strip.keys);
    const TileKernels *tile = tile_kernels();
    const real *q = head->q + i * qk_size, *d_o = head->d_o + i * v_size;
    real *s = scratch->s, *ds = scratch->ds;
    exact_logits(plan, s, q, rows, shared->kt + key_row * qk_size, columns, head->index, i, j);
    tile->multiply(ds, KEY_TILE, d_o, v_size, 1, shared->vt + key_row * v_size, KEY_TILE, rows, columns, v_size, false);
    softmax_kernels()->backward(s, ds, KEY_TILE, rows, strip.keys, strip.diagonal, head->lse + i, head->delta + i);
    tile->multiply(shared->dv + key_row * v_size, v_size, s, 1, KEY_TILE, d_o, v_size, columns, v_size, rows, true);
    if (plan->position.factor)
        position_kernels()->apply_lags(ds, KEY_TILE, rows, columns, exact_lags(plan, plan->position.factor, i, j), NULL,
                                       0);
    if (plan->position.kind == POSITION_TABLE) {
        table_gradients(plan, shared, scratch, head, key_row, rows, columns, i, j);
        return;
    }
    tile->multiply(shared->dk + key_row * qk_size, qk_size, ds, 1, KEY_TILE, q, qk_size, columns, qk_size, rows, true);
    tile->multiply(head->dq + i * qk_size, qk_size, ds, KEY_TILE, 1, shared->k + key_row * qk_size, qk_size, rows,
                   qk_size, columns, true);
}

static size_t segment_begin(const ExactPlan *plan, size_t segment) {
    return smaller(plan->base.settings.tokens, plan->tiles * segment / plan->segments * KEY_TILE);
}

// One block of queries of one head against the keys of a segment.
static void backward_block(const ExactPlan *plan, const BackwardShared *shared, const BackwardScratch *scratch,
                           const Head *head, size_t slot, size_t query, size_t count, size_t begin, size_t end) {
    const size_t limit = plan->base.settings.causal ? smaller(end, query + count) : end;
    for (size_t j = begin; j < limit; j += KEY_TILE)
        for (size_t first = 0; first < count;) {
            const ExactStrip strip =
                exact_strip(plan, query, first, count, j, smaller(KEY_TILE, end - j), 2 * QUERY_STRIP);
            if (strip.keys > 0)
                attend(plan, shared, scratch, head, strip, query + first, j, slot * plan->tiles * KEY_TILE + j);
            first += strip.rows;
        }
}

static Head head_of(const ExactPlan *plan, const BackwardShared *shared, const real *saved, size_t pair, size_t slot,
                    size_t member) {
    const AttentionSettings *settings = &plan->base.settings;
    const size_t group = settings->heads / settings->kv_heads, index = pair % settings->kv_heads * group + member;
    const size_t rows = (slot * group + member) * plan->tiles * KEY_TILE;
    return (Head){
        .q = shared->q + rows * settings->qk_size,
        .d_o = shared->d_o + rows * settings->v_size,
        .delta = shared->delta + rows,
        .lse = saved + (pair / settings->kv_heads * settings->heads + index) * settings->tokens,
        .dq = shared->dq + rows * settings->qk_size,
        .index = index,
    };
}

static void backward_task(const ExactPlan *plan, const AttentionBackward *io, const BackwardShared *shared, size_t pair,
                          size_t slot, size_t query_segment, size_t key_segment) {
    Arena arena = exact_thread_arena(plan, io->scratch);
    const BackwardScratch scratch = take_scratch(plan, &arena);
    const size_t group = plan->base.settings.heads / plan->base.settings.kv_heads;
    const size_t begin = segment_begin(plan, key_segment), end = segment_begin(plan, key_segment + 1);
    const size_t last = segment_begin(plan, query_segment + 1);
    for (size_t query = segment_begin(plan, query_segment); query < last; query += BACKWARD_BLOCK)
        for (size_t member = 0; member < group; member++) {
            const Head head = head_of(plan, shared, io->saved, pair, slot, member);
            backward_block(plan, shared, &scratch, &head, slot, query, smaller(BACKWARD_BLOCK, last - query), begin,
                           end);
        }
}

// Packs one tile of tokens of a pair: its keys, values, and the queries and do of its group; clears their gradients.
static void pack(const ExactPlan *plan, const AttentionBackward *io, const BackwardShared *shared, size_t pair,
                 size_t slot, size_t tile) {
    const AttentionSettings *settings = &plan->base.settings;
    const size_t D = settings->qk_size, E = settings->v_size, g = pair % settings->kv_heads;
    const size_t first = tile * KEY_TILE, count = smaller(KEY_TILE, settings->tokens - first);
    const size_t row = pair / settings->kv_heads * settings->tokens + first,
                 packed = (slot * plan->tiles + tile) * KEY_TILE;
    Arena arena = exact_thread_arena(plan, io->scratch);
    const BackwardScratch scratch = take_scratch(plan, &arena);
    exact_load_keys(plan, shared->k + packed * D, shared->kt + packed * D, io->k + row * io->k_stride + g * D,
                    io->k_stride, first, count);
    exact_load_values(scratch.v, E, io->v + row * io->v_stride + g * E, io->v_stride, count);
    tile_kernels()->transpose(shared->vt + packed * E, KEY_TILE, scratch.v, E, exact_pad(count), E);
    memset(shared->dk + packed * D, 0, KEY_TILE * D * sizeof(real));
    memset(shared->dv + packed * E, 0, KEY_TILE * E * sizeof(real));
    const size_t group = settings->heads / settings->kv_heads;
    for (size_t member = 0; member < group; member++) {
        const size_t h = g * group + member, at = (slot * group + member) * plan->tiles * KEY_TILE + first;
        const real *d_o = io->d_o + row * io->o_stride + h * E;
        exact_load(plan, shared->q + at * D, io->q + row * io->q_stride + h * D, io->q_stride, first, count,
                   (real)(settings->logit_scale * LOG2_E));
        memset(shared->dq + at * D, 0, KEY_TILE * D * sizeof(real));
        for (size_t t = 0; t < count; t++) memcpy(shared->d_o + (at + t) * E, d_o + t * io->o_stride, E * sizeof(real));
        softmax_kernels()->delta(shared->delta + at, d_o, io->o + row * io->o_stride + h * E, io->o_stride, count, E);
    }
}

// Gradients of packed rows become those of the rows as they came. Keys met queries that carried s·log2 e.
static void unpack(const ExactPlan *plan, const AttentionBackward *io, const BackwardShared *shared, size_t pair,
                   size_t slot, size_t tile) {
    const AttentionSettings *settings = &plan->base.settings;
    const size_t D = settings->qk_size, E = settings->v_size, g = pair % settings->kv_heads;
    const size_t first = tile * KEY_TILE, count = smaller(KEY_TILE, settings->tokens - first);
    const size_t row = pair / settings->kv_heads * settings->tokens + first,
                 packed = (slot * plan->tiles + tile) * KEY_TILE;
    const size_t group = settings->heads / settings->kv_heads;
    for (size_t member = 0; member < group; member++) {
        const size_t at = (slot * group + member) * plan->tiles * KEY_TILE + first;
        const size_t to = row * io->q_stride + (g * group + member) * D;
        position_unrotate(&plan->position, io->dq + to, io->q_stride, shared->dq + at * D, D, first, count,
                          (real)settings->logit_scale);
        bound_backward(plan->bound, io->dq + to, io->q_stride, io->q + to, io->q_stride, count, D);
    }
    const size_t to = row * io->k_stride + g * D;
    position_unrotate(&plan->position, io->dk + to, io->k_stride, shared->dk + packed * D, D, first, count,
                      (real)(1.0 / LOG2_E));
    bound_backward(plan->bound, io->dk + to, io->k_stride, io->k + to, io->k_stride, count, D);
    for (size_t t = 0; t < count; t++)
        memcpy(io->dv + (row + t) * io->v_stride + g * E, shared->dv + (packed + t) * E, E * sizeof(real));
}

static void report(const AttentionSettings *settings, const AttentionBackward *io) {
    double *const bounds[] = {io->report->dq_bound, io->report->dk_bound, io->report->dv_bound};
    const size_t group = settings->heads / settings->kv_heads;
    for (size_t h = 0; h < settings->heads; h++)
        for (size_t i = 0; i < 3; i++)
            if (bounds[i] && !(io->active && !io->active[h / group])) bounds[i][h] = 0.0;
}

void exact_backward(const AttentionPlan *base, const AttentionBackward *io) {
    const ExactPlan *plan = (const ExactPlan *)base;
    const AttentionSettings *settings = &base->settings;
    const size_t segments = plan->segments, kv_heads = settings->kv_heads, pairs = settings->batch * kv_heads;
    Arena arena = {.name = "attention", .base = io->scratch, .capacity = plan->shared_bytes};
    const BackwardShared shared = take_shared(plan, &arena);
#pragma omp parallel num_threads(smaller(plan->threads, threads_count()))
    for (size_t pair = 0; pair < pairs; pair += plan->round) {
        const size_t count = smaller(plan->round, pairs - pair);
#pragma omp for schedule(static)
        for (size_t task = 0; task < count * plan->tiles; task++) {
            const size_t slot = task % count;
            if (io->active && !io->active[(pair + slot) % kv_heads]) continue;
            pack(plan, io, &shared, pair + slot, slot, task / count);
        }
        for (size_t step = 0; step < segments; step++) {
            const size_t tasks = settings->causal ? segments - step : segments;
#pragma omp for schedule(dynamic)
            for (size_t task = 0; task < count * tasks; task++) {
                const size_t slot = task % count, segment = task / count;
                if (io->active && !io->active[(pair + slot) % kv_heads]) continue;
                backward_task(plan, io, &shared, pair + slot, slot, (segment + step) % segments, segment);
            }
        }
#pragma omp for schedule(static)
        for (size_t task = 0; task < count * plan->tiles; task++) {
            const size_t slot = task % count;
            if (io->active && !io->active[(pair + slot) % kv_heads]) continue;
            unpack(plan, io, &shared, pair + slot, slot, task / count);
        }
    }
    if (io->report) report(settings, io);
}
