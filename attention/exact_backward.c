// Backward of method `exact`: five products per tile, weights recomputed from the saved log-sum-exp.
//
//     P_ij = exp(x_ij - lse_i),  dP = dO Vᵀ,  dX_ij = P_ij (dP_ij - do_i·o_i)       the papers' γ
//     dV = Pᵀ dO,   dQ = s dX K,   dK = s dXᵀ Q;  then the rotation is undone and the bound's Jacobian applied
//
// Cost per head: 2.5 T²(D+E) operations (causal), no memory that grows with T beyond the gradients themselves.
// Source: gradient of fast RoPE attention, Section 4 (the closed form of the gradient); tiles after FlashAttention.
//
// Parallel without copies of dQ and with the same sums for any number of threads: the sequence is cut in `segments`.
// A task is (queries of segment w + r, keys of segment w) of one key/value head; in round r no two tasks share queries
// or keys, so each adds to dQ, dK and dV in place, and rounds follow one another in a fixed order. Gradients of rotated
// q and k accumulate in the outputs; a last pass takes them back to q and k.
#include <string.h>

#include "attention/exact.h"
#include "attention/position_kernels.h"
#include "attention/softmax_kernels.h"
#include "core/threads.h"

#define LOG2_E 1.4426950408889634

enum { BACKWARD_BLOCK = 480 }; // queries held in scratch: q, do, dq stay in the second cache level

typedef struct BackwardScratch {
    real *q, *dq;             // (BACKWARD_BLOCK, D)
    real *d_o;                // (BACKWARD_BLOCK, E)
    real *delta;              // (BACKWARD_BLOCK)
    real *k, *kt, *dk, *dkt;  // (KEY_TILE, D); kt, dkt transposed
    real *v, *vt, *dv;        // (KEY_TILE, E); vt transposed
    real *s, *ds;             // (QUERY_TILE, KEY_TILE)
} BackwardScratch;

static BackwardScratch take_scratch(const ExactPlan *plan, Arena *arena) {
    const size_t qk_size = plan->base.settings.qk_size, v_size = plan->base.settings.v_size;
    return (BackwardScratch){
        .q = ARENA_TAKE(arena, real, BACKWARD_BLOCK * qk_size),
        .dq = ARENA_TAKE(arena, real, BACKWARD_BLOCK * qk_size),
        .d_o = ARENA_TAKE(arena, real, BACKWARD_BLOCK * v_size),
        .delta = ARENA_TAKE(arena, real, BACKWARD_BLOCK),
        .k = ARENA_TAKE(arena, real, KEY_TILE * qk_size),
        .kt = ARENA_TAKE(arena, real, KEY_TILE * qk_size),
        .dk = ARENA_TAKE(arena, real, KEY_TILE * qk_size),
        .dkt = ARENA_TAKE(arena, real, KEY_TILE * qk_size),
        .v = ARENA_TAKE(arena, real, KEY_TILE * v_size),
        .vt = ARENA_TAKE(arena, real, KEY_TILE * v_size),
        .dv = ARENA_TAKE(arena, real, KEY_TILE * v_size),
        .s = ARENA_TAKE(arena, real, QUERY_TILE * KEY_TILE),
        .ds = ARENA_TAKE(arena, real, QUERY_TILE * KEY_TILE),
    };
}

size_t exact_backward_bytes(const ExactPlan *plan) {
    Arena arena = arena_measure("attention");
    take_scratch(plan, &arena);
    return arena.used;
}

// Enough tasks for many cores where batch and heads are few; segments long enough that a task outweighs its packing.
size_t exact_segments(const AttentionSettings *settings) {
    const size_t rows = settings->batch * settings->kv_heads, longest = settings->tokens / 256;
    const size_t wanted = smaller(rows < 64 ? 64 / rows : 1, 64);
    return wanted < longest ? wanted : longest > 0 ? longest : 1;
}

// Gradients of one tile of logits of a table kernel.
static void table_gradients(const ExactPlan *plan, BackwardScratch *scratch, size_t first, size_t rows, size_t columns,
                            size_t i, size_t j) {
    const Position *position = &plan->position;
    const size_t size = plan->base.settings.qk_size;
    memset(scratch->dkt, 0, size * KEY_TILE * sizeof(real));
    for (size_t e = 0; e < position->table.entries; e++) {
        const PositionEntry entry = position->table.entry[e];
        position_kernels()->table_gradients(
            scratch->dq + first * size + entry.row, size, scratch->dkt + entry.column * KEY_TILE, scratch->ds, KEY_TILE,
            scratch->q + first * size + entry.row, size, scratch->kt + entry.column * KEY_TILE,
            exact_lags(plan, position->table_weight + e * position->lag_count, i, j), rows, columns);
    }
    for (size_t c = 0; c < columns; c++)
        for (size_t a = 0; a < size; a++) scratch->dk[c * size + a] += scratch->dkt[a * KEY_TILE + c];
}

// Queries at block rows first … (positions i …) against `keys` keys of the loaded tile, from position j on.
static void attend(const ExactPlan *plan, BackwardScratch *scratch, const real *lse, size_t first, size_t rows,
                   size_t keys, ptrdiff_t diagonal, size_t head, size_t i, size_t j) {
    const size_t qk_size = plan->base.settings.qk_size, v_size = plan->base.settings.v_size, columns = exact_pad(keys);
    const TileKernels *tile = tile_kernels();
    real *s = scratch->s, *ds = scratch->ds, *q = scratch->q + first * qk_size, *dq = scratch->dq + first * qk_size;
    const real *d_o = scratch->d_o + first * v_size;
    exact_logits(plan, s, q, rows, scratch->kt, columns, head, i, j);
    tile->multiply(ds, KEY_TILE, d_o, v_size, 1, scratch->vt, KEY_TILE, rows, columns, v_size, false);
    softmax_kernels()->backward(s, ds, KEY_TILE, rows, keys, diagonal, lse + first, scratch->delta + first);
    tile->multiply(scratch->dv, v_size, s, 1, KEY_TILE, d_o, v_size, columns, v_size, rows, true);
    if (plan->position.factor)
        position_kernels()->apply_lags(ds, KEY_TILE, rows, columns, exact_lags(plan, plan->position.factor, i, j), NULL, 0);
    if (plan->position.kind == POSITION_TABLE) {
        table_gradients(plan, scratch, first, rows, columns, i, j);
        return;
    }
    tile->multiply(scratch->dk, qk_size, ds, 1, KEY_TILE, q, qk_size, columns, qk_size, rows, true);
    tile->multiply(dq, qk_size, ds, KEY_TILE, 1, scratch->k, qk_size, rows, qk_size, columns, true);
}

// All queries of the block against the loaded tile of keys.
static void attend_tile(const ExactPlan *plan, BackwardScratch *scratch, const real *lse, size_t begin, size_t count,
                        size_t keys, size_t head, size_t j) {
    for (size_t first = 0; first < count;) {
        const ExactStrip strip = exact_strip(plan, begin, first, count, j, keys, 2 * QUERY_STRIP);
        if (strip.keys > 0)
            attend(plan, scratch, lse, first, strip.rows, strip.keys, strip.diagonal, head, begin + first, j);
        first += strip.rows;
    }
}

// Copies rows between a strided array and a packed one.
static void copy_rows(real *out, size_t out_stride, const real *in, size_t in_stride, size_t rows, size_t size) {
    for (size_t t = 0; t < rows; t++) memcpy(out + t * out_stride, in + t * in_stride, size * sizeof(real));
}

// One block of queries of one head against the keys begin … end - 1.
static void backward_block(const ExactPlan *plan, const AttentionBackward *io, BackwardScratch *scratch, size_t b, size_t h,
                           size_t query, size_t count, size_t begin, size_t end) {
    const AttentionSettings *settings = &plan->base.settings;
    const size_t tokens = settings->tokens, qk_size = settings->qk_size, v_size = settings->v_size;
    const size_t g = h / (settings->heads / settings->kv_heads), row = b * tokens + query;
    real *dq = io->dq + row * io->q_stride + h * qk_size;
    const real *d_o = io->d_o + row * io->o_stride + h * v_size;
    const real *lse = (const real *)io->saved + (b * settings->heads + h) * tokens + query;
    exact_load(plan, scratch->q, io->q + row * io->q_stride + h * qk_size, io->q_stride, query, count,
               (real)(settings->logit_scale * LOG2_E));
    copy_rows(scratch->dq, qk_size, dq, io->q_stride, count, qk_size);
    copy_rows(scratch->d_o, v_size, d_o, io->o_stride, count, v_size);
    softmax_kernels()->delta(scratch->delta, d_o, io->o + row * io->o_stride + h * v_size, io->o_stride, count, v_size);
    for (size_t j = begin; j < end && !(settings->causal && j >= query + count); j += KEY_TILE) {
        const size_t keys = smaller(KEY_TILE, end - j), at = b * tokens + j;
        real *dk = io->dk + at * io->k_stride + g * qk_size, *dv = io->dv + at * io->v_stride + g * v_size;
        const size_t columns = exact_load_keys(plan, scratch->k, scratch->kt, io->k + at * io->k_stride + g * qk_size,
                                               io->k_stride, j, keys);
        exact_load_values(scratch->v, v_size, io->v + at * io->v_stride + g * v_size, io->v_stride, keys);
        tile_kernels()->transpose(scratch->vt, KEY_TILE, scratch->v, v_size, columns, v_size);
        copy_rows(scratch->dk, qk_size, dk, io->k_stride, keys, qk_size);
        copy_rows(scratch->dv, v_size, dv, io->v_stride, keys, v_size);
        memset(scratch->dk + keys * qk_size, 0, (columns - keys) * qk_size * sizeof(real));
        memset(scratch->dv + keys * v_size, 0, (columns - keys) * v_size * sizeof(real));
        attend_tile(plan, scratch, lse, query, count, keys, h, j);
        copy_rows(dk, io->k_stride, scratch->dk, qk_size, keys, qk_size);
        copy_rows(dv, io->v_stride, scratch->dv, v_size, keys, v_size);
    }
    copy_rows(dq, io->q_stride, scratch->dq, qk_size, count, qk_size);
}

static void zero_rows(real *out, size_t stride, size_t rows, size_t size) {
    for (size_t t = 0; t < rows; t++) memset(out + t * stride, 0, size * sizeof(real));
}

static size_t segment_begin(const ExactPlan *plan, size_t segment) {
    return plan->base.settings.tokens * segment / plan->segments;
}

// Round 0 comes first for every segment: it clears the gradients of its queries and keys.
static void clear_segment(const ExactPlan *plan, const AttentionBackward *io, size_t b, size_t g, size_t segment) {
    const AttentionSettings *settings = &plan->base.settings;
    const size_t begin = segment_begin(plan, segment), rows = segment_begin(plan, segment + 1) - begin;
    const size_t group = settings->heads / settings->kv_heads, row = b * settings->tokens + begin;
    zero_rows(io->dq + row * io->q_stride + g * group * settings->qk_size, io->q_stride, rows, group * settings->qk_size);
    zero_rows(io->dk + row * io->k_stride + g * settings->qk_size, io->k_stride, rows, settings->qk_size);
    zero_rows(io->dv + row * io->v_stride + g * settings->v_size, io->v_stride, rows, settings->v_size);
}

static void backward_task(const ExactPlan *plan, const AttentionBackward *io, BackwardScratch *scratch, size_t b, size_t g,
                          size_t query_segment, size_t key_segment) {
    const size_t group = plan->base.settings.heads / plan->base.settings.kv_heads;
    const size_t begin = segment_begin(plan, key_segment), end = segment_begin(plan, key_segment + 1);
    const size_t last = segment_begin(plan, query_segment + 1);
    for (size_t query = segment_begin(plan, query_segment); query < last; query += BACKWARD_BLOCK)
        for (size_t h = g * group; h < (g + 1) * group; h++)
            backward_block(plan, io, scratch, b, h, query, smaller(BACKWARD_BLOCK, last - query), begin, end);
}

// Gradients of rotated, scaled rows become those of the rows as they came. K met queries that carried s·log2 e.
static void finish_segment(const ExactPlan *plan, const AttentionBackward *io, size_t b, size_t g, size_t segment) {
    const AttentionSettings *settings = &plan->base.settings;
    const size_t begin = segment_begin(plan, segment), rows = segment_begin(plan, segment + 1) - begin;
    const size_t group = settings->heads / settings->kv_heads, size = settings->qk_size;
    for (size_t h = g * group; h < (g + 1) * group; h++) {
        const size_t at = (b * settings->tokens + begin) * io->q_stride + h * size;
        position_unrotate(&plan->position, io->dq + at, io->q_stride, io->dq + at, io->q_stride, begin, rows,
                          (real)settings->logit_scale);
        bound_backward(plan->bound, io->dq + at, io->q_stride, io->q + at, io->q_stride, rows, size);
    }
    const size_t at = (b * settings->tokens + begin) * io->k_stride + g * size;
    position_unrotate(&plan->position, io->dk + at, io->k_stride, io->dk + at, io->k_stride, begin, rows,
                      (real)(1.0 / LOG2_E));
    bound_backward(plan->bound, io->dk + at, io->k_stride, io->k + at, io->k_stride, rows, size);
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
    const size_t segments = plan->segments, pairs = settings->batch * settings->kv_heads;
#pragma omp parallel num_threads(smaller(plan->threads, threads_count()))
    {
        Arena arena = {.name = "attention", .base = (unsigned char *)io->scratch + threads_here() * plan->thread_bytes,
                       .capacity = plan->thread_bytes};
        BackwardScratch scratch = take_scratch(plan, &arena);
        for (size_t round = 0; round <= segments; round++) { // the last one finishes
            const size_t tasks = round == segments || !settings->causal ? segments : segments - round;
#pragma omp for schedule(dynamic)
            for (size_t task = 0; task < tasks * pairs; task++) {
                const size_t segment = task / pairs, b = task % pairs / settings->kv_heads, g = task % settings->kv_heads;
                if (io->active && !io->active[g]) continue;
                if (round == segments) {
                    finish_segment(plan, io, b, g, segment);
                    continue;
                }
                if (round == 0) clear_segment(plan, io, b, g, segment);
                backward_task(plan, io, &scratch, b, g, (segment + round) % segments, segment);
            }
        }
    }
    if (io->report) report(settings, io);
}
