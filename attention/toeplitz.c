// Method `toeplitz`: Definition 1.1 of fast RoPE attention as it is written, for any W_t on a support S.
//
//     N_i = Σ_q-monomials μ(q_i) Σ_k-monomials (C_μκ * (κ(k)·v))_i,   Z_i likewise with v = 1,   o_i = N_i / Z_i
//
// where C_μκ[t] is a polynomial in the sequences W_t[a][b], times exp(b_t), and zero for t < 0 (the causal mask) and
// for |t| < near (whose pairs are added one by one, with the true exp; those of tokens whose far sums the rounding of
// the transforms would drown are added so too, with the polynomial: toeplitz_spectra.c). Every product with a C is a circular one of a good length
// (Lemma 3.9 and C.2; toeplitz_terms.h and toeplitz_plan.h say how terms and lengths are organised).
//
// Cost per head: (keys + queries)·(E+1) real transforms forward, twice as many backward, of 2.33 T points in all.
// For a plain rotation `lowrank` computes the same function without transforms and is much faster.
#include <math.h>
#include <string.h>

#include "attention/toeplitz_kernels.h"
#include "attention/toeplitz_plan.h"
#include "core/threads.h"

ToeplitzSaved toeplitz_saved_at(const ToeplitzPlan *plan, void *saved, size_t *bytes) {
    const AttentionSettings *settings = &plan->base.settings;
    const size_t heads = settings->batch * settings->heads;
    Arena arena =
        saved ? (Arena){.name = "attention", .base = saved, .capacity = SIZE_MAX} : arena_measure("attention");
    ToeplitzSaved parts = {
        .shift = ARENA_TAKE(&arena, real, heads * settings->tokens),
        .inverse = ARENA_TAKE(&arena, real, heads * settings->tokens),
        .far_share = ARENA_TAKE(&arena, real, heads * settings->tokens),
        .measured = ARENA_TAKE(&arena, double, heads),
        .exact_far = ARENA_TAKE(&arena, unsigned char, heads),
    };
    if (bytes) *bytes = arena.used;
    return parts;
}

static void take_unit(const ToeplitzPlan *plan, Arena *arena, ToeplitzUnit *unit) {
    const AttentionSettings *settings = &plan->base.settings;
    const size_t far = plan->far_size * plan->stride, columns = (settings->v_size + 1) * plan->stride;
    unit->query = ARENA_TAKE(arena, real, plan->group * far);
    unit->key = ARENA_TAKE(arena, real, far);
    unit->near_key = ARENA_TAKE(arena, real, settings->qk_size * plan->stride);
    unit->value = ARENA_TAKE(arena, real, columns);
    unit->sum = ARENA_TAKE(arena, real, plan->group * columns);
    unit->d_value = ARENA_TAKE(arena, real, columns);
    unit->d_query = ARENA_TAKE(arena, real, plan->slices * plan->group * far);
    unit->d_key = ARENA_TAKE(arena, real, plan->slices * far);
    unit->norm = ARENA_TAKE(arena, double, plan->group + 1);
    unit->changed = ARENA_TAKE(arena, double, plan->group + 1);
    unit->exact_far = ARENA_TAKE(arena, unsigned char, plan->group);
}

static void take_work(const ToeplitzPlan *plan, Arena *arena, ToeplitzWork *work) {
    const AttentionSettings *settings = &plan->base.settings;
    const size_t keys = plan->terms.most_keys, queries = plan->terms.most_queries, tile = TOEPLITZ_TILE;
    const size_t size = settings->qk_size, wide = size > settings->v_size ? size : settings->v_size;
    work->key_rows = ARENA_TAKE(arena, real, keys * plan->stride);
    work->d_key_rows = ARENA_TAKE(arena, real, keys * plan->stride);
    work->query_rows = ARENA_TAKE(arena, real, plan->group * queries * plan->stride);
    work->d_query_rows = ARENA_TAKE(arena, real, plan->group * queries * plan->stride);
    work->key_spectra = ARENA_TAKE(arena, real, keys * plan->most_stride);
    work->back_spectra = ARENA_TAKE(arena, real, keys * plan->most_stride);
    work->query_spectra = ARENA_TAKE(arena, real, queries * plan->most_stride);
    work->signal = ARENA_TAKE(arena, real, plan->most_length);
    work->near_query = ARENA_TAKE(arena, real, tile * size);
    work->far_query = ARENA_TAKE(arena, real, tile * size);
    work->d_near = ARENA_TAKE(arena, real, tile * size);
    work->d_far = ARENA_TAKE(arena, real, tile * size);
    work->d_near_key = ARENA_TAKE(arena, real, tile * size);
    work->d_far_key = ARENA_TAKE(arena, real, tile * size);
    work->near = ARENA_TAKE(arena, real, tile * tile);
    work->far = ARENA_TAKE(arena, real, tile * tile);
    work->d_weight = ARENA_TAKE(arena, real, tile * tile);
    work->sum = ARENA_TAKE(arena, real, tile * settings->v_size);
    work->rows = ARENA_TAKE(arena, real, tile * wide);
    work->raw = ARENA_TAKE(arena, real, tile * size);
    work->shift = ARENA_TAKE(arena, real, tile);
    work->total = ARENA_TAKE(arena, real, tile);
}

ToeplitzScratch toeplitz_scratch_at(const ToeplitzPlan *plan, void *scratch, size_t *bytes) {
    Arena arena =
        scratch ? (Arena){.name = "attention", .base = scratch, .capacity = SIZE_MAX} : arena_measure("attention");
    ToeplitzUnit no_unit;
    ToeplitzWork no_work;
    ToeplitzScratch parts = {.unit = ARENA_TAKE(&arena, ToeplitzUnit, plan->wave),
                             .work = ARENA_TAKE(&arena, ToeplitzWork, plan->workers)};
    for (size_t u = 0; u < plan->wave; u++) take_unit(plan, &arena, scratch ? &parts.unit[u] : &no_unit);
    for (size_t w = 0; w < plan->workers; w++) take_work(plan, &arena, scratch ? &parts.work[w] : &no_work);
    if (bytes) *bytes = arena.overflowed ? SIZE_MAX : arena.used;
    return parts;
}

size_t toeplitz_wave(const ToeplitzPlan *plan, ToeplitzScratch *scratch, const bool *active, size_t *next) {
    const size_t kv_heads = plan->base.settings.kv_heads, all = plan->base.settings.batch * kv_heads;
    size_t units = 0;
    for (; *next < all && units < plan->wave; ++*next) {
        if (active && !active[*next % kv_heads]) continue;
        scratch->unit[units].batch = *next / kv_heads;
        scratch->unit[units++].kv_head = *next % kv_heads;
    }
    return units;
}

// out (F, stride) = bounded far dimensions of one head's rows, times far_scale; the largest length without it, and the
// count of what was bounded.
static void load_far(const ToeplitzPlan *plan, ToeplitzWork *work, real *out, const real *in, size_t in_stride,
                     double *norm, double *changed) {
    const size_t size = plan->far_size, tokens = plan->base.settings.tokens;
    const real scale = (real)plan->far_scale;
    double longest = 0.0;
    size_t bounded = 0;
    for (size_t first = 0; first < tokens; first += TOEPLITZ_TILE) {
        const size_t count = toeplitz_least(TOEPLITZ_TILE, tokens - first);
        for (size_t r = 0; r < count; r++)
            for (size_t f = 0; f < size; f++)
                work->rows[r * size + f] = in[(first + r) * in_stride + plan->dimension[f]];
        bounded += bound_apply(plan->bound, work->rows, size, work->rows, size, count, size);
        for (size_t r = 0; r < count; r++) {
            double square = 0.0;
            for (size_t f = 0; f < size; f++) {
                const real x = work->rows[r * size + f];
                square += (double)x * (double)x;
                out[f * plan->stride + first + r] = scale * x;
            }
            longest = larger_or_nan(longest, square);
        }
    }
    // tiles of pairs read beyond the last token, and multiply what they find there by zero
    for (size_t f = 0; f < size; f++) memset(out + f * plan->stride + tokens, 0, (plan->stride - tokens) * sizeof *out);
    *norm = sqrt(longest);
    *changed = (double)bounded;
}

// out (columns, stride) = in (tokens, columns)ᵀ, bounded as the near field wants it if `bound`.
static void load_columns(const ToeplitzPlan *plan, ToeplitzWork *work, real *out, const real *in, size_t in_stride,
                         size_t columns, bool bound) {
    const size_t tokens = plan->base.settings.tokens;
    const Bound none = {BOUND_NONE, 0.0};
    for (size_t first = 0; first < tokens; first += TOEPLITZ_TILE) {
        const size_t count = toeplitz_least(TOEPLITZ_TILE, tokens - first);
        bound_apply(bound ? plan->bound : none, work->rows, columns, in + first * in_stride, in_stride, count, columns);
        for (size_t r = 0; r < count; r++)
            for (size_t c = 0; c < columns; c++) out[c * plan->stride + first + r] = work->rows[r * columns + c];
    }
    for (size_t c = 0; c < columns; c++)
        memset(out + c * plan->stride + tokens, 0, (plan->stride - tokens) * sizeof *out);
}

// Part `part` of a unit: query heads, then keys, then values.
static void load_part(const ToeplitzPlan *plan, ToeplitzWork *work, ToeplitzUnit *unit, size_t part, const real *q,
                      size_t q_stride, const real *k, size_t k_stride, const real *v, size_t v_stride) {
    const AttentionSettings *settings = &plan->base.settings;
    const size_t row = unit->batch * settings->tokens, size = settings->qk_size;
    if (part < plan->group) {
        const size_t head = unit->kv_head * plan->group + part;
        load_far(plan, work, unit->query + part * plan->far_size * plan->stride, q + row * q_stride + head * size,
                 q_stride, &unit->norm[part], &unit->changed[part]);
    } else if (part == plan->group) {
        const real *keys = k + row * k_stride + unit->kv_head * size;
        load_far(plan, work, unit->key, keys, k_stride, &unit->norm[part], &unit->changed[part]);
        load_columns(plan, work, unit->near_key, keys, k_stride, size, settings->near_bound == NEAR_BOUND_SAME);
    } else {
        const size_t columns = settings->v_size;
        load_columns(plan, work, unit->value, v + row * v_stride + unit->kv_head * columns, v_stride, columns, false);
        for (size_t t = 0; t < settings->tokens; t++) unit->value[columns * plan->stride + t] = 1;
    }
}

void toeplitz_load(const ToeplitzPlan *plan, ToeplitzScratch *scratch, size_t units, const real *q, size_t q_stride,
                   const real *k, size_t k_stride, const real *v, size_t v_stride) {
    const size_t parts = plan->group + 2;
#pragma omp parallel for schedule(dynamic) num_threads((int)plan->workers)
    for (size_t task = 0; task < units * parts; task++)
        load_part(plan, &scratch->work[threads_here()], &scratch->unit[task / parts], task % parts, q, q_stride, k,
                  k_stride, v, v_stride);
}

// Decides, for every head of the wave, whether the polynomial covers its logits.
static void judge(const ToeplitzPlan *plan, ToeplitzUnit *unit, const ToeplitzSaved *saved, AttentionReport *report) {
    const AttentionSettings *settings = &plan->base.settings;
    for (size_t member = 0; member < plan->group; member++) {
        const size_t head = unit->kv_head * plan->group + member, at = unit->batch * settings->heads + head;
        const double measured =
            settings->logit_scale * plan->weight_norm * unit->norm[member] * unit->norm[plan->group];
        // a NaN is not within the bound either; the true exp lets it through to where it is found
        const bool within = measured * (1.0 + 64.0 * REAL_EPSILON) <= plan->polynomial.interval ||
                            settings->polynomial == POLYNOMIAL_POWER;
        unit->exact_far[member] = settings->far == FAR_EXACT || (plan->expands && !within);
        saved->measured[at] = measured;
        saved->exact_far[at] = unit->exact_far[member];
        if (report) toeplitz_report_bounds(plan, unit, member, measured, report);
    }
}

void toeplitz_slice(const ToeplitzPlan *plan, size_t slice, size_t *first, size_t *last) {
    const size_t columns = plan->base.settings.v_size + 1;
    *first = slice * columns / plan->slices;
    *last = (slice + 1) * columns / plan->slices;
}

// sum (columns of the slice) = Σ over components, rungs and columns.
static void sum_slice(const ToeplitzPlan *plan, const ToeplitzUnit *unit, ToeplitzWork *work, size_t slice) {
    const AttentionSettings *settings = &plan->base.settings;
    const size_t stride = plan->stride, columns = settings->v_size + 1, tokens = settings->tokens;
    const size_t most = plan->terms.most_queries;
    size_t first, last;
    if (!toeplitz_expands(plan, unit)) return;
    toeplitz_slice(plan, slice, &first, &last);
    for (size_t m = 0; m < plan->group; m++)
        for (size_t c = first; c < last; c++) memset(unit->sum + (m * columns + c) * stride, 0, tokens * sizeof(real));
    for (size_t n = 0; n < plan->terms.components; n++) {
        const Component *component = &plan->terms.component[n];
        if (component->pairs == 0) continue;
        toeplitz_component_rows(plan, unit, work, component);
        for (size_t r = 0; r < plan->rungs; r++) {
            const Rung *rung = &plan->rung[r];
            for (size_t c = first; c < last; c++) {
                for (size_t i = 0; i < component->keys; i++)
                    toeplitz_transform_product(rung, work->key_spectra + i * plan->most_stride, work->signal,
                                               work->key_rows + i * stride, unit->value + c * stride, 0, rung->inputs);
                for (size_t m = 0; m < plan->group; m++) {
                    if (unit->exact_far[m]) continue;
                    toeplitz_mix(plan, rung, unit->kv_head * plan->group + m, component, work->query_spectra,
                                 work->key_spectra);
                    real *sum = unit->sum + (m * columns + c) * stride + rung->first;
                    for (size_t i = 0; i < component->queries; i++) {
                        transform_inverse(&rung->transform, work->signal, work->query_spectra + i * plan->most_stride);
                        toeplitz_kernels()->multiply_add(sum, work->query_rows + (m * most + i) * stride + rung->first,
                                                         work->signal + rung->first, rung->last - rung->first);
                    }
                }
            }
        }
    }
}

void toeplitz_forward(const AttentionPlan *base, const AttentionForward *io) {
    const ToeplitzPlan *plan = (const ToeplitzPlan *)base;
    const size_t blocks = (base->settings.tokens + TOEPLITZ_TILE - 1) / TOEPLITZ_TILE;
    const ToeplitzSaved saved = toeplitz_saved_at(plan, io->saved, NULL);
    ToeplitzScratch scratch = toeplitz_scratch_at(plan, io->scratch, NULL);
    if (io->report) toeplitz_report_clear(plan, io->report, io->active);
    for (size_t next = 0, units; (units = toeplitz_wave(plan, &scratch, io->active, &next));) {
        toeplitz_load(plan, &scratch, units, io->q, io->q_stride, io->k, io->k_stride, io->v, io->v_stride);
        for (size_t u = 0; u < units; u++) judge(plan, &scratch.unit[u], &saved, io->report);
#pragma omp parallel for schedule(dynamic) num_threads((int)plan->workers)
        for (size_t task = 0; task < units * plan->slices; task++)
            sum_slice(plan, &scratch.unit[task / plan->slices], &scratch.work[threads_here()], task % plan->slices);
#pragma omp parallel for schedule(dynamic) num_threads((int)plan->workers)
        for (size_t task = 0; task < units * plan->group * blocks; task++)
            toeplitz_rows_forward(plan, &scratch.unit[task / (plan->group * blocks)], &scratch.work[threads_here()], io,
                                  &saved, task / blocks % plan->group, task % blocks * TOEPLITZ_TILE);
        for (size_t u = 0; io->report && u < units; u++) toeplitz_report_forward(plan, &scratch.unit[u], &saved, io);
    }
}
