// Pairs of tokens one by one: the near field with the true exp, and, where it must be, the far field too: of a head that
// fell back with the true exp, of single tokens of other heads with the polynomial, as exp(log P). Tiles of 64 × 64,
// logits over the support S as Definition 1.1 writes them, numerator and denominator in common with what the transforms
// gave. O(T·near·(|S| + E)), and O(T) per token whose far field is met so.
#include <math.h>
#include <string.h>

#include "attention/position_kernels.h"
#include "attention/toeplitz_kernels.h"
#include "attention/toeplitz_plan.h"
#include "core/blas.h"

enum { TILE = TOEPLITZ_TILE };

typedef struct Tile {
    const ToeplitzPlan *plan;
    const ToeplitzUnit *unit;
    ToeplitzWork *work;
    size_t head, member;
    bool exact_far;                   // of the whole head
    bool meets_far;                   // it is, or that of a row of the tile
    size_t i, rows, j, keys, columns; // queries from i, keys from j; columns: keys padded to what the kernels take
    bool has_near, has_far;
} Tile;

static Tile make_tile(const ToeplitzPlan *plan, const ToeplitzUnit *unit, ToeplitzWork *work, size_t member) {
    return (Tile){.plan = plan,
                  .unit = unit,
                  .work = work,
                  .member = member,
                  .head = unit->kv_head * plan->group + member,
                  .exact_far = unit->exact_far[member]};
}

// near_query and far_query = rows i … of the tile's head, times s; the far keys have a part of it already.
static void load_queries(Tile *tile, const real *q, size_t q_stride, size_t i) {
    const ToeplitzPlan *plan = tile->plan;
    const AttentionSettings *settings = &plan->base.settings;
    const size_t size = settings->qk_size;
    const Bound none = {BOUND_NONE, 0.0};
    const real scale = (real)settings->logit_scale, rest = (real)plan->logit_rest;
    tile->i = i;
    tile->rows = toeplitz_least(TILE, settings->tokens - i);
    tile->meets_far = tile->exact_far;
    for (size_t r = 0; r < tile->rows; r++) tile->meets_far |= toeplitz_is_pair_by_pair(plan, i + r);
    bound_apply(settings->near_bound == NEAR_BOUND_SAME ? plan->bound : none, tile->work->near_query, size,
                q + (tile->unit->batch * settings->tokens + i) * q_stride + tile->head * size, q_stride, tile->rows,
                size);
    for (size_t n = 0; n < tile->rows * size; n++) tile->work->near_query[n] *= scale;
    for (size_t r = 0; r < tile->rows; r++) real_mark_overflow(tile->work->near_query + r * size, size);
    const real *far = tile->unit->query + tile->member * plan->far_size * plan->stride;
    for (size_t r = 0; r < tile->rows; r++)
        for (size_t f = 0; f < plan->far_size; f++)
            tile->work->far_query[r * plan->far_size + f] = rest * far[f * plan->stride + i + r];
    for (size_t r = 0; r < tile->rows; r++)
        real_mark_overflow(tile->work->far_query + r * plan->far_size, plan->far_size);
}

// Where row 0 and column 0 of the tile read a reversed table over lags.
static size_t lag_offset(const Tile *tile) { return tile->plan->base.settings.tokens - 1 - tile->i + tile->j; }

// Whether a pair counts, and as what.
typedef enum PairKind { PAIR_NONE, PAIR_NEAR, PAIR_FAR } PairKind;
static PairKind pair_kind(const Tile *tile, size_t r, size_t c) {
    const ptrdiff_t lag = (ptrdiff_t)(tile->i + r) - (ptrdiff_t)(tile->j + c);
    if (c >= tile->keys || (tile->plan->base.settings.causal && lag < 0)) return PAIR_NONE;
    if (toeplitz_is_near(tile->plan, lag)) return PAIR_NEAR;
    return tile->exact_far || toeplitz_is_pair_by_pair(tile->plan, tile->i + r) ? PAIR_FAR : PAIR_NONE;
}

// The far field of row r is met one by one, and the weights are those of the polynomial.
static bool row_expands(const Tile *tile, size_t r) {
    return !tile->exact_far && toeplitz_is_pair_by_pair(tile->plan, tile->i + r);
}

// work->near (rows, TILE) = logits of the tile with keys from j on, -Inf where a pair does not count. False if none does.
static bool tile_logits(Tile *tile, size_t j) {
    const ToeplitzPlan *plan = tile->plan;
    const AttentionSettings *settings = &plan->base.settings;
    const size_t lags = plan->position.lag_count;
    tile->j = j;
    tile->keys = toeplitz_least(TILE, settings->tokens - j);
    tile->columns = (tile->keys + 15) / 16 * 16;
    const ptrdiff_t low = (ptrdiff_t)tile->i - (ptrdiff_t)(j + tile->keys - 1), near = (ptrdiff_t)settings->near;
    const ptrdiff_t high = (ptrdiff_t)(tile->i + tile->rows - 1) - (ptrdiff_t)j;
    if (settings->causal && high < 0) return false;
    tile->has_near = low < near && high > -near;
    tile->has_far = tile->meets_far && (high >= near || (!settings->causal && low <= -near));
    if (!tile->has_near && !tile->has_far) return false;
    real *near_logits = tile->work->near, *far_logits = tile->work->far;
    memset(near_logits, 0, tile->rows * TILE * sizeof(real));
    memset(far_logits, 0, tile->rows * TILE * sizeof(real));
    for (size_t e = 0; tile->has_near && e < plan->support; e++)
        position_kernels()->table_logits(near_logits, TILE, tile->work->near_query + plan->entry[e].row,
                                         settings->qk_size,
                                         tile->unit->near_key + plan->entry[e].column * plan->stride + j,
                                         plan->weight + e * lags + lag_offset(tile), tile->rows, tile->columns);
    for (size_t e = 0; tile->has_far && e < plan->far_entries; e++)
        position_kernels()->table_logits(far_logits, TILE, tile->work->far_query + plan->far_place[e].row,
                                         plan->far_size, tile->unit->key + plan->far_place[e].column * plan->stride + j,
                                         plan->weight + plan->far_entry[e] * lags + lag_offset(tile), tile->rows,
                                         tile->columns);
    for (size_t r = 0; r < tile->rows; r++)
        for (size_t c = 0; c < tile->columns; c++) {
            const PairKind kind = pair_kind(tile, r, c);
            real *logit = &near_logits[r * TILE + c];
            if (kind == PAIR_NEAR) continue;
            *logit = kind == PAIR_FAR ? far_logits[r * TILE + c] : -INFINITY;
            if (kind == PAIR_FAR && row_expands(tile, r))
                *logit = (real)log(polynomial_value(&plan->polynomial, (double)*logit));
        }
    if (plan->position.bias)
        position_kernels()->apply_lags(near_logits, TILE, tile->rows, tile->columns, NULL,
                                       plan->position.bias + lag_offset(tile), (real)plan->position.slope[tile->head]);
    return true;
}

// Keys [first, last) that queries [i, i + rows) meet pair by pair; rounded to tiles.
static void key_range(const Tile *tile, size_t *first, size_t *last) {
    const AttentionSettings *settings = &tile->plan->base.settings;
    const size_t reach = tile->meets_far ? settings->tokens : settings->near, end = tile->i + tile->rows;
    *first = tile->i + 1 > reach ? (tile->i + 1 - reach) / TILE * TILE : 0;
    *last = reach == 0 ? *first : settings->causal ? end : toeplitz_least(settings->tokens, end + reach - 1);
}

// Adds the tile to sum, total (weights exp(x - shift)), raising the shift of rows where it must. far (rows): likewise the
// weights of the polynomial alone, of rows that meet them here.
static void attend(Tile *tile, const real *v, size_t v_stride, real *far) {
    ToeplitzWork *work = tile->work;
    const size_t size = tile->plan->base.settings.v_size;
    for (size_t r = 0; r < tile->rows; r++) {
        real *logits = work->near + r * TILE;
        const real most = toeplitz_kernels()->largest(logits, tile->keys);
        if (most == -INFINITY) {
            memset(logits, 0, tile->keys * sizeof *logits);
            continue;
        }
        if (!(most <= work->shift[r])) { // also when it is NaN, which must not be lost
            const real factor = (real)exp((double)(work->shift[r] - most));
            for (size_t e = 0; e < size; e++) work->sum[r * size + e] *= factor;
            work->total[r] *= factor;
            work->shift[r] = most;
            if (row_expands(tile, r)) far[r] *= factor;
        }
        work->total[r] += toeplitz_kernels()->exponentials(logits, logits, work->shift[r], tile->keys);
        for (size_t c = 0; row_expands(tile, r) && c < tile->keys; c++)
            far[r] += pair_kind(tile, r, c) == PAIR_FAR ? logits[c] : 0;
    }
    gemm(false, false, tile->rows, size, tile->keys, 1, work->near, TILE, v, v_stride, 1, work->sum, size);
}

void toeplitz_rows_forward(const ToeplitzPlan *plan, const ToeplitzUnit *unit, ToeplitzWork *work,
                           const AttentionForward *io, const ToeplitzSaved *saved, size_t member, size_t first) {
    const AttentionSettings *settings = &plan->base.settings;
    const size_t size = settings->v_size, row = unit->batch * settings->tokens;
    Tile tile = make_tile(plan, unit, work, member);
    load_queries(&tile, io->q, io->q_stride, first);
    const bool polynomial = plan->expands && !tile.exact_far;
    const real *sums = unit->sum + member * (size + 1) * plan->stride + first;
    for (size_t r = 0; r < tile.rows; r++) {
        const bool transformed = polynomial && toeplitz_sees_far(plan, first + r);
        for (size_t e = 0; e < size; e++) work->sum[r * size + e] = transformed ? sums[e * plan->stride + r] : 0;
        work->total[r] = transformed ? sums[size * plan->stride + r] : 0;
        work->shift[r] = transformed ? (real)plan->shift[tile.head] : -INFINITY;
    }
    const size_t at = (unit->batch * settings->heads + tile.head) * settings->tokens + first;
    for (size_t r = 0; r < tile.rows; r++) saved->far_share[at + r] = work->total[r]; // on its way to a share
    size_t j, last;
    for (key_range(&tile, &j, &last); j < last; j += TILE)
        if (tile_logits(&tile, j))
            attend(&tile, io->v + (row + j) * io->v_stride + unit->kv_head * size, io->v_stride, saved->far_share + at);
    for (size_t r = 0; r < tile.rows; r++) {
        const real inverse = 1 / work->total[r];
        real *o = io->o + (row + first + r) * io->o_stride + tile.head * size;
        for (size_t e = 0; e < size; e++) o[e] = work->sum[r * size + e] * inverse;
        if (saved->far_share[at + r] != 0) // 0·exp(…) could be 0·Inf
            saved->far_share[at + r] *=
                inverse * (row_expands(&tile, r) ? 1 : (real)exp(plan->shift[tile.head] - (double)work->shift[r]));
        saved->shift[at + r] = work->shift[r];
        saved->inverse[at + r] = inverse;
    }
}

// From logits in work->near: near = weights A/Z, then the gradients of the near logits into work->near and of the far
// ones into work->far. dv (keys, E; NULL: not wanted) += weightsᵀ·do.
static void tile_gradients(Tile *tile, const AttentionBackward *io, const ToeplitzSaved *saved, real *dv) {
    const AttentionSettings *settings = &tile->plan->base.settings;
    ToeplitzWork *work = tile->work;
    const size_t size = settings->v_size, row = tile->unit->batch * settings->tokens;
    const size_t at = (tile->unit->batch * settings->heads + tile->head) * settings->tokens + tile->i;
    const real *d_o = io->d_o + (row + tile->i) * io->o_stride + tile->head * size;
    const real *o = io->o + (row + tile->i) * io->o_stride + tile->head * size;
    const real *v = io->v + (row + tile->j) * io->v_stride + tile->unit->kv_head * size;
    for (size_t r = 0; r < tile->rows; r++) {
        real *weight = work->near + r * TILE;
        toeplitz_kernels()->exponentials(weight, weight, saved->shift[at + r], tile->keys);
        for (size_t c = 0; c < tile->keys; c++) weight[c] *= saved->inverse[at + r];
    }
    if (dv) gemm(true, false, tile->keys, size, tile->rows, 1, work->near, TILE, d_o, io->o_stride, 1, dv, size);
    gemm(false, true, tile->rows, tile->keys, size, 1, d_o, io->o_stride, v, io->v_stride, 0, work->d_weight, TILE);
    for (size_t r = 0; r < tile->rows; r++) {
        real delta = real_zero_if_finite(saved->shift[at + r]); // +Inf would make all weights 0
        for (size_t e = 0; e < size; e++) delta += d_o[r * io->o_stride + e] * o[r * io->o_stride + e];
        for (size_t c = 0; c < tile->columns; c++) {
            const PairKind kind = pair_kind(tile, r, c);
            const size_t n = r * TILE + c;
            const real d = kind == PAIR_NONE ? 0 : work->near[n] * (work->d_weight[n] - delta);
            double slope = 1.0; // of log P; a weight of 0, as power may have, has none
            if (kind == PAIR_FAR && row_expands(tile, r) && d != 0)
                slope = polynomial_derivative(&tile->plan->polynomial, (double)work->far[n]) /
                        polynomial_value(&tile->plan->polynomial, (double)work->far[n]);
            work->near[n] = kind == PAIR_NEAR ? d : 0;
            work->far[n] = kind == PAIR_FAR ? (real)(slope * (double)d) : 0;
        }
    }
}

// d_near, d_far (rows) and d_near_key, d_far_key (dimensions, TILE) += what the tile's logits say.
static void tile_inputs(Tile *tile) {
    const ToeplitzPlan *plan = tile->plan;
    ToeplitzWork *work = tile->work;
    const size_t lags = plan->position.lag_count, size = plan->base.settings.qk_size;
    for (size_t e = 0; tile->has_near && e < plan->support; e++) {
        const PositionEntry place = plan->entry[e];
        position_kernels()->table_gradients(work->d_near + place.row, size, work->d_near_key + place.column * TILE,
                                            work->near, TILE, work->near_query + place.row, size,
                                            tile->unit->near_key + place.column * plan->stride + tile->j,
                                            plan->weight + e * lags + lag_offset(tile), tile->rows, tile->columns);
    }
    for (size_t e = 0; tile->has_far && e < plan->far_entries; e++) {
        const PositionEntry place = plan->far_place[e];
        position_kernels()->table_gradients(
            work->d_far + place.row, plan->far_size, work->d_far_key + place.column * TILE, work->far, TILE,
            work->far_query + place.row, plan->far_size, tile->unit->key + place.column * plan->stride + tile->j,
            plan->weight + plan->far_entry[e] * lags + lag_offset(tile), tile->rows, tile->columns);
    }
}

// out (count, D) = d_near and d_far (which are used up; the latter of rows times far_scale) taken back through the bound
// to the projection `in`.
static void unbound(const ToeplitzPlan *plan, ToeplitzWork *work, real *out, size_t stride, const real *in,
                    size_t in_stride, size_t count) {
    const size_t size = plan->base.settings.qk_size, far = plan->far_size;
    const real scale = (real)plan->far_scale;
    for (size_t r = 0; r < count; r++)
        for (size_t f = 0; f < far; f++) {
            work->raw[r * far + f] = in[r * in_stride + plan->dimension[f]];
            work->d_far[r * far + f] *= scale;
        }
    bound_backward(plan->bound, work->d_far, far, work->raw, far, count, far);
    if (plan->base.settings.near_bound == NEAR_BOUND_SAME)
        bound_backward(plan->bound, work->d_near, size, in, in_stride, count, size);
    for (size_t r = 0; r < count; r++) {
        memcpy(out + r * stride, work->d_near + r * size, size * sizeof *out);
        for (size_t f = 0; f < far; f++) out[r * stride + plan->dimension[f]] += work->d_far[r * far + f];
    }
}

static void clear_gradients(const ToeplitzPlan *plan, ToeplitzWork *work) {
    const size_t numbers = TILE * plan->base.settings.qk_size;
    memset(work->d_near, 0, numbers * sizeof(real));
    memset(work->d_far, 0, numbers * sizeof(real));
    memset(work->d_near_key, 0, numbers * sizeof(real));
    memset(work->d_far_key, 0, numbers * sizeof(real));
}

void toeplitz_rows_backward(const ToeplitzPlan *plan, const ToeplitzUnit *unit, ToeplitzWork *work,
                            const AttentionBackward *io, const ToeplitzSaved *saved, size_t member, size_t first) {
    const AttentionSettings *settings = &plan->base.settings;
    const size_t size = settings->qk_size, far = plan->far_size;
    const real scale = (real)settings->logit_scale, rest = (real)plan->logit_rest;
    Tile tile = make_tile(plan, unit, work, member);
    load_queries(&tile, io->q, io->q_stride, first);
    clear_gradients(plan, work);
    size_t j, last;
    for (key_range(&tile, &j, &last); j < last; j += TILE) {
        if (!tile_logits(&tile, j)) continue;
        tile_gradients(&tile, io, saved, NULL);
        tile_inputs(&tile);
    }
    for (size_t n = 0; n < tile.rows * size; n++) work->d_near[n] *= scale;
    for (size_t n = 0; n < tile.rows * far; n++) work->d_far[n] *= rest;
    for (size_t s = 0; plan->expands && !tile.exact_far && s < plan->slices; s++) {
        const real *part = unit->d_query + (s * plan->group + member) * far * plan->stride + first;
        for (size_t r = 0; r < tile.rows; r++)
            for (size_t f = 0; f < far; f++) work->d_far[r * far + f] += part[f * plan->stride + r];
    }
    const size_t row = unit->batch * settings->tokens + first;
    unbound(plan, work, io->dq + row * io->q_stride + tile.head * size, io->q_stride,
            io->q + row * io->q_stride + tile.head * size, io->q_stride, tile.rows);
}

static bool any_pair_by_pair(const ToeplitzPlan *plan, size_t i) {
    bool any = false;
    for (size_t r = 0; r < TILE; r++) any |= toeplitz_is_pair_by_pair(plan, i + r);
    return any;
}

void toeplitz_keys_backward(const ToeplitzPlan *plan, const ToeplitzUnit *unit, ToeplitzWork *work,
                            const AttentionBackward *io, const ToeplitzSaved *saved, size_t first) {
    const AttentionSettings *settings = &plan->base.settings;
    const size_t size = settings->qk_size, far = plan->far_size, columns = settings->v_size;
    const size_t keys = toeplitz_least(TILE, settings->tokens - first);
    clear_gradients(plan, work);
    memset(work->sum, 0, TILE * columns * sizeof(real));
    for (size_t m = 0; m < plan->group; m++) {
        Tile tile = make_tile(plan, unit, work, m);
        const size_t reach = tile.exact_far ? settings->tokens : settings->near;
        const size_t begin = settings->causal ? first : first + 1 > reach ? (first + 1 - reach) / TILE * TILE : 0;
        const size_t end = reach == 0 ? begin : toeplitz_least(settings->tokens, first + keys + reach - 1);
        const size_t met_end = end < plan->pair_by_pair_end ? plan->pair_by_pair_end : end;
        for (size_t i = plan->pair_by_pair && !settings->causal ? 0 : begin; i < met_end; i += TILE) {
            if ((i < begin || i >= end) && !any_pair_by_pair(plan, i)) continue;
            load_queries(&tile, io->q, io->q_stride, i);
            if (!tile_logits(&tile, first)) continue;
            tile_gradients(&tile, io, saved, work->sum);
            tile_inputs(&tile);
        }
    }
    // what reached d_near and d_far here belongs to the queries, whose own tasks compute it; keys take their place
    for (size_t r = 0; r < keys; r++) {
        for (size_t a = 0; a < size; a++) work->d_near[r * size + a] = work->d_near_key[a * TILE + r];
        for (size_t f = 0; f < far; f++) {
            real d = work->d_far_key[f * TILE + r];
            for (size_t s = 0; plan->expands && s < plan->slices; s++)
                d += unit->d_key[(s * far + f) * plan->stride + first + r];
            work->d_far[r * far + f] = d;
        }
    }
    const size_t row = unit->batch * settings->tokens + first, head = unit->kv_head;
    unbound(plan, work, io->dk + row * io->k_stride + head * size, io->k_stride,
            io->k + row * io->k_stride + head * size, io->k_stride, keys);
    for (size_t r = 0; r < keys; r++)
        for (size_t e = 0; e < columns; e++)
            io->dv[(row + r) * io->v_stride + head * columns + e] =
                work->sum[r * columns + e] + (plan->expands ? unit->d_value[e * plan->stride + first + r] : 0);
}
