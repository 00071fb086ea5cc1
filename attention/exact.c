// Method `exact`: softmax attention in tiles with a running maximum; never a T×T matrix.
//
//     o_i = Σ_{j≤i} exp(x_ij - m_i) v_j / Σ_{j≤i} exp(x_ij - m_i),   m_i the largest logit seen so far
//
// Cost per head: T²(D+E) operations (causal) and T²/2 exponentials; memory T log-sum-exps per head for the backward.
// Supports every position kernel, with and without the causal mask. With bound ≠ none, bounded q and k are used for all
// logits, whatever `near` says: the papers' setting. Far-field settings do not apply.
//
// Source: fast RoPE attention, Definition 1.1; tiles with a running maximum after Milakov and Gimelshein, "Online
// normalizer calculation for softmax", and Dao et al., FlashAttention.
//
// A task is one block of queries of one head; it goes over the packed tiles of keys, each of which meets all queries of
// the block. Where the mask crosses a tile, queries come in strips, each with only the columns it can see.
#include "attention/exact.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attention/position_kernels.h"
#include "attention/softmax_kernels.h"
#include "core/threads.h"

#define LOG2_E 1.4426950408889634

void exact_load(const ExactPlan *plan, real *out, const real *in, size_t in_stride, size_t first, size_t count,
                real scale) {
    const size_t size = plan->base.settings.qk_size;
    const bool bounded = plan->bound.kind != BOUND_NONE;
    if (bounded) bound_apply(plan->bound, out, size, in, in_stride, count, size);
    position_rotate(&plan->position, out, size, bounded ? out : in, bounded ? size : in_stride, first, count, scale);
    for (size_t r = 0; r < count; r++) real_mark_overflow(out + r * size, size);
}

void exact_load_keys(const ExactPlan *plan, real *k, real *kt, const real *in, size_t in_stride, size_t first,
                     size_t count) {
    const size_t size = plan->base.settings.qk_size, columns = exact_pad(count);
    exact_load(plan, k, in, in_stride, first, count, 1);
    memset(k + count * size, 0, (columns - count) * size * sizeof(real));
    tile_kernels()->transpose(kt, KEY_TILE, k, size, columns, size);
}

void exact_load_values(real *v, size_t v_size, const real *in, size_t in_stride, size_t count) {
    for (size_t t = 0; t < count; t++) memcpy(v + t * v_size, in + t * in_stride, v_size * sizeof(real));
    memset(v + count * v_size, 0, (exact_pad(count) - count) * v_size * sizeof(real));
}

ExactStrip exact_strip(const ExactPlan *plan, size_t begin, size_t first, size_t count, size_t j, size_t keys,
                       size_t strip) {
    const size_t i = begin + first;
    if (!plan->base.settings.causal || i + 1 >= j + keys)
        return (ExactStrip){smaller(QUERY_TILE, count - first), keys, (ptrdiff_t)keys};
    const size_t rows = smaller(strip, count - first);
    return (ExactStrip){rows, i + rows > j ? smaller(keys, i + rows - j) : 0, (ptrdiff_t)i - (ptrdiff_t)j};
}

const real *exact_lags(const ExactPlan *plan, const real *table, size_t i, size_t j) {
    return table ? table + (plan->position.tokens - 1 - i) + j : NULL;
}

void exact_logits(const ExactPlan *plan, real *s, const real *q, size_t rows, const real *kt, size_t columns,
                  size_t head, size_t i, size_t j) {
    const Position *position = &plan->position;
    const size_t size = plan->base.settings.qk_size;
    if (position->kind == POSITION_TABLE) {
        for (size_t r = 0; r < rows; r++) memset(s + r * KEY_TILE, 0, columns * sizeof(real));
        for (size_t e = 0; e < position->table.entries; e++) {
            const PositionEntry entry = position->table.entry[e];
            const real *weight = exact_lags(plan, position->table_weight + e * position->lag_count, i, j);
            position_kernels()->table_logits(s, KEY_TILE, q + entry.row, size, kt + entry.column * KEY_TILE, weight,
                                             rows, columns);
        }
    } else {
        tile_kernels()->multiply(s, KEY_TILE, q, size, 1, kt, KEY_TILE, rows, columns, size, false);
    }
    if (position->factor || position->bias)
        position_kernels()->apply_lags(s, KEY_TILE, rows, columns, exact_lags(plan, position->factor, i, j),
                                       exact_lags(plan, position->bias, i, j),
                                       position->slope ? (real)(position->slope[head] * LOG2_E) : 0);
}

// Packed keys and values of a round: tile t of the round's pair p is tile p·tiles + t.
typedef struct ForwardShared {
    real *kt, *v; // (round·tiles, D, KEY_TILE), (round·tiles, KEY_TILE, E)
} ForwardShared;

// Scratch of one thread for a block of queries (decoding: one query).
typedef struct ForwardScratch {
    real *q, *o;         // (block, D), (block, E)
    real *maximum, *sum; // (block)
    real *k;             // (KEY_TILE, D)
    real *s;             // (QUERY_TILE, KEY_TILE)
} ForwardScratch;

static ForwardShared take_shared(const ExactPlan *plan, Arena *arena) {
    const size_t rows = plan->round * plan->tiles * KEY_TILE;
    return (ForwardShared){
        .kt = ARENA_TAKE(arena, real, rows * plan->base.settings.qk_size),
        .v = ARENA_TAKE(arena, real, rows * plan->base.settings.v_size),
    };
}

static ForwardScratch take_scratch(const ExactPlan *plan, Arena *arena) {
    const AttentionSettings *settings = &plan->base.settings;
    return (ForwardScratch){
        .q = ARENA_TAKE(arena, real, plan->block * settings->qk_size),
        .o = ARENA_TAKE(arena, real, plan->block * settings->v_size),
        .maximum = ARENA_TAKE(arena, real, plan->block),
        .sum = ARENA_TAKE(arena, real, plan->block),
        .k = ARENA_TAKE(arena, real, KEY_TILE * settings->qk_size),
        .s = ARENA_TAKE(arena, real, QUERY_TILE * KEY_TILE),
    };
}

Arena exact_thread_arena(const ExactPlan *plan, void *scratch) {
    unsigned char *own = (unsigned char *)scratch + plan->shared_bytes + threads_here() * plan->thread_bytes;
    return (Arena){.name = "attention", .base = own, .capacity = plan->thread_bytes};
}

static ForwardScratch thread_scratch(const ExactPlan *plan, void *scratch) {
    Arena arena = exact_thread_arena(plan, scratch);
    return take_scratch(plan, &arena);
}

// Queries at block rows first …, at positions i …, take in `keys` keys of a tile from position j on.
static void attend(const ExactPlan *plan, ForwardScratch *scratch, size_t first, size_t rows, const real *kt,
                   const real *v, size_t keys, ptrdiff_t diagonal, size_t head, size_t i, size_t j) {
    const size_t v_size = plan->base.settings.v_size, columns = exact_pad(keys);
    real *o = scratch->o + first * v_size;
    exact_logits(plan, scratch->s, scratch->q + first * plan->base.settings.qk_size, rows, kt, columns, head, i, j);
    softmax_kernels()->forward(scratch->s, KEY_TILE, rows, keys, diagonal, scratch->maximum + first,
                               scratch->sum + first, o, v_size);
    tile_kernels()->multiply(o, v_size, scratch->s, KEY_TILE, 1, v, v_size, rows, v_size, columns, true);
}

// All queries of the block (positions begin … begin + count - 1) against one tile of keys from j on.
static void attend_tile(const ExactPlan *plan, ForwardScratch *scratch, const real *kt, const real *v, size_t begin,
                        size_t count, size_t keys, size_t head, size_t j) {
    for (size_t first = 0; first < count;) {
        const ExactStrip strip = exact_strip(plan, begin, first, count, j, keys, QUERY_STRIP);
        if (strip.keys > 0)
            attend(plan, scratch, first, strip.rows, kt, v, strip.keys, strip.diagonal, head, begin + first, j);
        first += strip.rows;
    }
}

// Divides by the sums, writes o and the log-sum-exps (base 2).
static void finish(const ForwardScratch *scratch, real *o, size_t o_stride, real *lse, size_t count, size_t v_size) {
    for (size_t t = 0; t < count; t++) {
        const real inverse = 1 / scratch->sum[t];
        for (size_t e = 0; e < v_size; e++) o[t * o_stride + e] = scratch->o[t * v_size + e] * inverse;
        if (lse) lse[t] = scratch->maximum[t] + (real)log2((double)scratch->sum[t]);
    }
}

static void clear(ForwardScratch *scratch, size_t count, size_t v_size) {
    memset(scratch->o, 0, count * v_size * sizeof(real));
    memset(scratch->sum, 0, count * sizeof(real));
    for (size_t t = 0; t < count; t++) scratch->maximum[t] = -INFINITY;
}

static void pack(const ExactPlan *plan, const AttentionForward *io, const ForwardShared *shared, size_t pair,
                 size_t slot, size_t tile) {
    const AttentionSettings *settings = &plan->base.settings;
    const size_t qk_size = settings->qk_size, v_size = settings->v_size, g = pair % settings->kv_heads;
    const size_t first = tile * KEY_TILE, keys = smaller(KEY_TILE, settings->tokens - first);
    const size_t row = pair / settings->kv_heads * settings->tokens + first,
                 rows = (slot * plan->tiles + tile) * KEY_TILE;
    ForwardScratch scratch = thread_scratch(plan, io->scratch);
    exact_load_keys(plan, scratch.k, shared->kt + rows * qk_size, io->k + row * io->k_stride + g * qk_size,
                    io->k_stride, first, keys);
    exact_load_values(shared->v + rows * v_size, v_size, io->v + row * io->v_stride + g * v_size, io->v_stride, keys);
}

static void forward_block(const ExactPlan *plan, const AttentionForward *io, const ForwardShared *shared, size_t b,
                          size_t h, size_t slot, size_t begin) {
    const AttentionSettings *settings = &plan->base.settings;
    const size_t tokens = settings->tokens, qk_size = settings->qk_size, v_size = settings->v_size;
    const size_t count = smaller(plan->block, tokens - begin), end = settings->causal ? begin + count : tokens;
    ForwardScratch scratch = thread_scratch(plan, io->scratch);
    clear(&scratch, count, v_size);
    const real *q = io->q + (b * tokens + begin) * io->q_stride + h * qk_size;
    exact_load(plan, scratch.q, q, io->q_stride, begin, count, (real)(settings->logit_scale * LOG2_E));
    for (size_t j = 0; j < end; j += KEY_TILE) {
        const size_t row = slot * plan->tiles * KEY_TILE + j;
        attend_tile(plan, &scratch, shared->kt + row * qk_size, shared->v + row * v_size, begin, count,
                    smaller(KEY_TILE, end - j), h, j);
    }
    real *lse = (real *)io->saved + (b * settings->heads + h) * tokens + begin;
    finish(&scratch, io->o + (b * tokens + begin) * io->o_stride + h * v_size, io->o_stride, lse, count, v_size);
}

// Largest length of the bounded rows of one head, and how many units the bound changed.
static double measure(const ExactPlan *plan, const real *in, size_t stride, real *row, size_t *changed) {
    const AttentionSettings *settings = &plan->base.settings;
    double largest = 0.0;
    for (size_t t = 0; t < settings->batch * settings->tokens; t++) {
        *changed += bound_apply(plan->bound, row, 0, in + t * stride, 0, 1, settings->qk_size);
        double square = 0.0;
        for (size_t a = 0; a < settings->qk_size; a++) square += (double)row[a] * (double)row[a];
        largest = larger_or_nan(largest, square);
    }
    return sqrt(largest);
}

static void set(double *array, size_t index, double value) {
    if (array) array[index] = value;
}

// Λ is s·max‖q‖·max‖k‖ over the batch; everything that speaks of an approximation is 0.
static void report(const ExactPlan *plan, const AttentionForward *io) {
    const AttentionSettings *settings = &plan->base.settings;
    const size_t group = settings->heads / settings->kv_heads, rows = settings->batch * settings->tokens;
    const size_t units = 2 * bound_units(plan->bound, rows, settings->qk_size);
#pragma omp parallel for schedule(static) num_threads(smaller(plan->threads, threads_count()))
    for (size_t g = 0; g < settings->kv_heads; g++) {
        if (io->active && !io->active[g]) continue;
        ForwardScratch scratch = thread_scratch(plan, io->scratch);
        size_t changed_k = 0;
        const double k = measure(plan, io->k + g * settings->qk_size, io->k_stride, scratch.k, &changed_k);
        for (size_t h = g * group; h < (g + 1) * group; h++) {
            size_t changed = changed_k;
            const double q = measure(plan, io->q + h * settings->qk_size, io->q_stride, scratch.k, &changed);
            set(io->report->logit_bound, h, settings->logit_scale * q * k);
            set(io->report->clipped, h, units ? (double)changed / (double)units : 0.0);
            set(io->report->output_bound, h, 0.0);
            set(io->report->fell_back, h, 0.0);
        }
    }
}

static void forward(const AttentionPlan *base, const AttentionForward *io) {
    const ExactPlan *plan = (const ExactPlan *)base;
    const AttentionSettings *settings = &base->settings;
    const size_t blocks = (settings->tokens + plan->block - 1) / plan->block, kv_heads = settings->kv_heads;
    const size_t group = settings->heads / kv_heads, pairs = settings->batch * kv_heads;
    Arena arena = {.name = "attention", .base = io->scratch, .capacity = plan->shared_bytes};
    const ForwardShared shared = take_shared(plan, &arena);
#pragma omp parallel num_threads(smaller(plan->threads, threads_count()))
    for (size_t pair = 0; pair < pairs; pair += plan->round) {
        const size_t count = smaller(plan->round, pairs - pair), rows = count * group;
#pragma omp for schedule(static)
        for (size_t task = 0; task < count * plan->tiles; task++) {
            const size_t slot = task / plan->tiles;
            if (io->active && !io->active[(pair + slot) % kv_heads]) continue;
            pack(plan, io, &shared, pair + slot, slot, task % plan->tiles);
        }
        // Late blocks see the most keys: they go first, so that the last tasks are short.
#pragma omp for schedule(dynamic)
        for (size_t task = 0; task < blocks * rows; task++) {
            const size_t slot = task % rows / group, g = (pair + slot) % kv_heads, h = g * group + task % group;
            if (io->active && !io->active[g]) continue;
            const size_t block = blocks - 1 - task / rows;
            forward_block(plan, io, &shared, (pair + slot) / kv_heads, h, slot, block * plan->block);
        }
    }
    if (io->report) report(plan, io);
}

// The cache of one sequence: per key/value head, tiles of KEY_TILE tokens: kt (D, KEY_TILE), then v (KEY_TILE, E).
static size_t cache_tile(const AttentionSettings *settings) {
    return KEY_TILE * (settings->qk_size + settings->v_size);
}

static size_t cache_head(const AttentionSettings *settings) {
    return (settings->tokens + KEY_TILE - 1) / KEY_TILE * cache_tile(settings);
}

static void decode_begin(const AttentionPlan *base, void *state) { memset(state, 0, base->needs.decode_bytes); }

static void decode_head(const ExactPlan *plan, real *cache, real *o, const real *q, const real *k, const real *v,
                        size_t g, size_t position, void *memory) {
    const AttentionSettings *settings = &plan->base.settings;
    const size_t qk_size = settings->qk_size, v_size = settings->v_size, group = settings->heads / settings->kv_heads;
    ForwardScratch scratch = thread_scratch(plan, memory);
    real *last = cache + position / KEY_TILE * cache_tile(settings);
    exact_load(plan, scratch.k, k + g * qk_size, 0, position, 1, 1);
    for (size_t a = 0; a < qk_size; a++) last[a * KEY_TILE + position % KEY_TILE] = scratch.k[a];
    memcpy(last + KEY_TILE * qk_size + position % KEY_TILE * v_size, v + g * v_size, v_size * sizeof(real));
    for (size_t h = g * group; h < (g + 1) * group; h++) {
        clear(&scratch, 1, v_size);
        exact_load(plan, scratch.q, q + h * qk_size, 0, position, 1, (real)(settings->logit_scale * LOG2_E));
        for (size_t j = 0; j <= position; j += KEY_TILE) {
            const real *kt = cache + j / KEY_TILE * cache_tile(settings);
            attend(plan, &scratch, 0, 1, kt, kt + KEY_TILE * qk_size, smaller(KEY_TILE, position + 1 - j), KEY_TILE, h,
                   position, j);
        }
        finish(&scratch, o + h * v_size, 0, NULL, 1, v_size);
    }
}

static void decode(const AttentionPlan *base, void *state, real *o, const real *q, const real *k, const real *v,
                   size_t position, void *scratch) {
    const ExactPlan *plan = (const ExactPlan *)base;
    REQUIRE(position < base->settings.tokens);
#pragma omp parallel for schedule(static)                                                                              \
    num_threads(smaller(plan->threads, threads_count())) if (position * base->settings.heads > 2048)
    for (size_t g = 0; g < base->settings.kv_heads; g++)
        decode_head(plan, (real *)state + g * cache_head(&base->settings), o, q, k, v, g, position, scratch);
}

static void explain(const AttentionPlan *base, char *text, size_t size) {
    const char *const bounds[] = {"unbounded", "entries clipped", "q and k in a ball"};
    snprintf(text, size, "exact softmax, kernel %s, %s, %zu tokens: %.3g GFLOP forward", base->settings.kernel,
             bounds[base->settings.bound], base->settings.tokens, base->needs.forward_flops * 1e-9);
}

const Position *exact_position(const AttentionPlan *base) { return &((const ExactPlan *)base)->position; }

static void destroy(AttentionPlan *base) {
    ExactPlan *plan = (ExactPlan *)base;
    position_destroy(&plan->position);
    free(plan);
}

// Short enough for 64 tasks, so that many cores have work, and to keep a block's q and o near.
static size_t choose_block(const AttentionSettings *settings) {
    const size_t rows = settings->batch * settings->heads;
    size_t block = 8 * QUERY_TILE;
    while (block > 2 * QUERY_TILE && rows * ((settings->tokens + block - 1) / block) < 64) block -= QUERY_TILE;
    return block;
}

static void count_scratch(ExactPlan *plan) {
    Arena shared = arena_measure("attention"), own = arena_measure("attention");
    take_shared(plan, &shared);
    take_scratch(plan, &own);
    plan->shared_bytes = larger(shared.used, exact_backward_shared_bytes(plan));
    plan->thread_bytes = larger(own.used, exact_backward_thread_bytes(plan));
}

static AttentionNeeds count_needs(const ExactPlan *plan) {
    const AttentionSettings *settings = &plan->base.settings;
    const double tokens = (double)settings->tokens, rows = (double)(settings->batch * settings->heads);
    const double forward = rows * tokens * tokens * (double)(settings->qk_size + settings->v_size);
    return (AttentionNeeds){
        .saved_bytes = settings->batch * settings->heads * settings->tokens * sizeof(real),
        .scratch_bytes = plan->shared_bytes + plan->threads * plan->thread_bytes,
        .decode_bytes = settings->kv_heads * cache_head(settings) * sizeof(real),
        .plan_bytes = position_bytes(&plan->position),
        .forward_flops = settings->causal ? forward : 2.0 * forward,
        .backward_flops = settings->causal ? 2.5 * forward : 5.0 * forward,
    };
}

static AttentionPlan *create(const AttentionSettings *settings, Error *error) {
    ExactPlan *plan = calloc(1, sizeof *plan);
    if (!plan) {
        error_set(error, ERROR_MEMORY, "There is no memory for an attention plan.");
        return NULL;
    }
    plan->base.settings = *settings;
    plan->bound = bound_make(settings);
    plan->threads = threads_count();
    plan->block = choose_block(settings);
    plan->segments = exact_segments(settings);
    plan->tiles = (settings->tokens + KEY_TILE - 1) / KEY_TILE;
    plan->round = larger(1, smaller(settings->batch * settings->kv_heads, ROUND_TOKENS / settings->tokens));
    count_scratch(plan);
    if (!position_create(&plan->position, settings, error)) {
        free(plan);
        return NULL;
    }
    plan->base.needs = count_needs(plan);
    return &plan->base;
}

const AttentionMethod attention_exact = {
    .name = "exact",
    .summary = "softmax attention in tiles, time T²: the reference",
    .create = create,
    .forward = forward,
    .backward = exact_backward,
    .decode_begin = decode_begin,
    .decode = decode,
    .explain = explain,
    .destroy = destroy,
};
