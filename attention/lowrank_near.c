// Pairs that method lowrank evaluates one by one: the boundary block (exp where i - j < near, P(x̄) where not), and all
// earlier keys of a head whose far field is exact. The paper's γ_ij = A_ij (do_i·v_j - do_i·o_i)/Z_i lives here.
//
// Tiles of at most KEY_TILE keys by NEAR_LANES queries; cost 2·(D+E) operations per pair forward, 2.5 times that
// backward, about near + (chunk + NEAR_LANES)/2 pairs per token.
#include <string.h>

#include "attention/lowrank.h"

typedef struct Pairs {
    size_t key, rows;          // first key position, keys
    size_t lane, lanes, valid; // first query lane, lanes of the tile, those that hold queries
    const real *near_key, *far_key, *value;
    size_t value_stride;
    real *d_near_key, *d_far_key, *d_value, *key_bound; // backward only
    size_t d_value_stride;
} Pairs;

static size_t clamp_rows(size_t above, size_t below, size_t rows) {
    size_t difference = above > below ? above - below : 0;
    return difference < rows ? difference : rows;
}

void lowrank_fade(const LowrankPlan *plan, real *values, size_t ld, size_t rows, size_t lanes, ptrdiff_t lag,
                  bool one_position) {
    for (size_t row = 0; plan->decay && row < rows; row++) {
        const real *decay = plan->decay + (lag - (ptrdiff_t)row);
        for (size_t lane = 0; lane < lanes; lane++) values[row * ld + lane] *= decay[one_position ? 0 : lane];
    }
}

// γ^lag of all near and far values of a tile: of its logits, or of their gradients.
static void fade_tile(const LowrankPlan *plan, const LowrankTile *tile, real *near, real *far) {
    lowrank_fade(plan, near + tile->near_first * tile->ld, tile->ld, tile->rows - tile->near_first, tile->lanes,
                 tile->lag - (ptrdiff_t)tile->near_first, false);
    lowrank_fade(plan, far, tile->ld, tile->far_rows, tile->lanes, tile->lag, false);
}

// Describes the tile to the kernels and computes its logits.
static LowrankTile logits(LowrankTask *task, const LowrankHead *head, const Pairs *pairs, size_t chunk_first) {
    const LowrankPlan *plan = task->plan;
    const LowrankWork *work = &task->work;
    const size_t size = plan->base.settings.qk_size, first = chunk_first + pairs->lane, last = first + pairs->valid;
    LowrankTile tile = {
        .near = work->near_logit, .far = work->far_logit, .d = work->d_weight,
        .ld = pairs->lanes, .rows = pairs->rows, .lanes = pairs->lanes,
        .near_first = plan->near == 0 ? pairs->rows : clamp_rows(first + 1, plan->near + pairs->key, pairs->rows),
        .far_rows = plan->far_field ? clamp_rows(last, plan->near + pairs->key, pairs->rows) : 0,
        .lag = (ptrdiff_t)first - (ptrdiff_t)pairs->key, .near_size = plan->near,
        .sum = work->denominator + pairs->lane, .far_sum = work->far_sum + pairs->lane,
        .far_exact = head->exact_far, .degree = plan->polynomial.degree, .coefficient = plan->coefficient,
    };
    if (tile.near_first < tile.rows)
        tile_kernels()->multiply(tile.near + tile.near_first * tile.ld, tile.ld,
                                 pairs->near_key + tile.near_first * size, size, 1, work->near_query_t + pairs->lane,
                                 plan->lanes, tile.rows - tile.near_first, tile.lanes, size, false);
    tile_kernels()->multiply(tile.far, tile.ld, pairs->far_key, plan->far_size, 1, work->far_query_t + pairs->lane,
                             plan->lanes, tile.far_rows, tile.lanes, plan->far_size, false);
    fade_tile(plan, &tile, tile.near, tile.far);
    return tile;
}

static void forward_tile(LowrankTask *task, const LowrankHead *head, const Pairs *pairs, size_t chunk_first) {
    LowrankWork *work = &task->work;
    const size_t values = task->plan->base.settings.v_size;
    LowrankTile tile = logits(task, head, pairs, chunk_first);
    lowrank_kernels()->forward(&tile, work->largest + pairs->lane, work->rescale);
    real *sum = work->sum + pairs->lane * values;
    bool raised = false;
    for (size_t lane = 0; lane < tile.lanes; lane++) raised |= work->rescale[lane] != 1;
    if (raised) lowrank_kernels()->scale_rows(sum, values, sum, values, work->rescale, pairs->valid, values);
    tile_kernels()->multiply(sum, values, tile.near, 1, tile.ld, pairs->value, pairs->value_stride, pairs->valid,
                             values, tile.rows, true);
}

static void backward_tile(LowrankTask *task, const LowrankHead *head, const Pairs *pairs, size_t chunk_first) {
    const LowrankPlan *plan = task->plan;
    LowrankWork *work = &task->work;
    const TileKernels *tiles = tile_kernels();
    const size_t values = plan->base.settings.v_size, size = plan->base.settings.qk_size, far = plan->far_size;
    const size_t lane = pairs->lane;
    LowrankTile tile = logits(task, head, pairs, chunk_first);
    tiles->multiply(tile.d, tile.ld, pairs->value, pairs->value_stride, 1, work->right_t + lane, plan->lanes,
                    tile.rows, tile.lanes, values, false);
    lowrank_kernels()->backward(&tile, work->log_sum + lane, work->weight + lane, work->delta + lane);
    tiles->multiply(pairs->d_value, pairs->d_value_stride, tile.near, tile.ld, 1,
                    work->right + lane * values, values, tile.rows, values, pairs->valid, true);
    if (task->certify)
        lowrank_kernels()->pair_bounds(&tile, pairs->key_bound, work->near_dk + lane, work->near_dv + lane,
                                       work->far_dk + lane, work->far_dv + lane);
    fade_tile(plan, &tile, tile.d, tile.far);
    const size_t near_first = tile.near_first, near_rows = tile.rows - near_first;
    const real *d_near = tile.d + near_first * tile.ld;
    if (near_rows > 0) {
        tiles->multiply(work->d_near + lane * size, size, d_near, 1, tile.ld, pairs->near_key + near_first * size, size,
                        pairs->valid, size, near_rows, true);
        tiles->multiply(pairs->d_near_key + near_first * size, size, d_near, tile.ld, 1,
                        work->near_query + lane * size, size, near_rows, size, pairs->valid, true);
    }
    tiles->multiply(work->d_far_t + lane, plan->lanes, pairs->far_key, 1, far, tile.far, tile.ld, far, tile.lanes,
                    tile.far_rows, true);
    tiles->multiply(pairs->d_far_key, far, tile.far, tile.ld, 1, work->far_query + lane * far, far, tile.far_rows, far,
                    pairs->valid, true);
}

// The lanes [lane, lane + lanes) of a chunk as one tile's queries.
static Pairs query_lanes(const LowrankPlan *plan, size_t lane, size_t count) {
    const size_t lanes = plan->lanes - lane < NEAR_LANES ? plan->lanes - lane : NEAR_LANES;
    return (Pairs){.lane = lane, .lanes = lanes, .valid = count - lane < lanes ? count - lane : lanes};
}

// Points the tile at `rows` keys of the window.
static void window_keys(const LowrankTask *task, Pairs *pairs, size_t key, size_t rows) {
    const LowrankPlan *plan = task->plan;
    const LowrankWork *work = &task->work;
    const size_t at = key - task->window_first;
    pairs->key = key;
    pairs->rows = rows;
    pairs->near_key = work->near_key + at * plan->base.settings.qk_size;
    pairs->far_key = work->far_key + at * plan->far_size;
    pairs->value = lowrank_window_values(task, key);
    pairs->value_stride = plan->base.settings.v_size;
    pairs->d_near_key = work->d_near_key + at * plan->base.settings.qk_size;
    pairs->d_far_key = work->d_far_key + at * plan->far_size;
    pairs->d_value = work->d_value + at * plan->base.settings.v_size;
    pairs->d_value_stride = plan->base.settings.v_size;
    pairs->key_bound = work->key_bound + at * 2;
}

// First key of the boundary block that the queries from `first` on can see.
static size_t boundary_first(const LowrankPlan *plan, size_t chunk_first, size_t first) {
    if (plan->far_field) return lowrank_far_end(plan, chunk_first);
    return first + 1 > plan->near ? first + 1 - plan->near : 0;
}

// Keys before the window are made on the spot.
static void earlier_keys(LowrankTask *task, Pairs *pairs, const real *k, size_t k_stride, const real *v,
                         size_t v_stride, size_t key, size_t rows) {
    lowrank_far_rows(task->plan, task->work.tile_key, task->work.rows, k + key * k_stride, k_stride,
                     task->key_factor, key, rows);
    pairs->key = key;
    pairs->rows = rows;
    pairs->far_key = task->work.tile_key;
    pairs->value = v + key * v_stride;
    pairs->value_stride = v_stride;
}

static size_t tile_rows(size_t key, size_t end) { return end - key < KEY_TILE ? end - key : KEY_TILE; }

void lowrank_pairs_forward(LowrankTask *task, const LowrankHead *head, const real *k, size_t k_stride, const real *v,
                           size_t v_stride, size_t chunk_first, size_t count) {
    const LowrankPlan *plan = task->plan;
    const size_t boundary = lowrank_far_end(plan, chunk_first);
    for (size_t key = 0; head->exact_far && key < boundary; key += KEY_TILE) {
        Pairs keys = {0};
        earlier_keys(task, &keys, k, k_stride, v, v_stride, key, tile_rows(key, boundary));
        for (size_t lane = 0; lane < count; lane += NEAR_LANES) {
            Pairs pairs = query_lanes(plan, lane, count);
            keys.lane = pairs.lane, keys.lanes = pairs.lanes, keys.valid = pairs.valid;
            forward_tile(task, head, &keys, chunk_first);
        }
    }
    for (size_t lane = 0; lane < count; lane += NEAR_LANES) {
        Pairs pairs = query_lanes(plan, lane, count);
        const size_t end = chunk_first + lane + pairs.valid;
        for (size_t key = boundary_first(plan, chunk_first, chunk_first + lane); key < end; key += KEY_TILE) {
            window_keys(task, &pairs, key, tile_rows(key, end));
            forward_tile(task, head, &pairs, chunk_first);
        }
    }
}

void lowrank_pairs_backward(LowrankTask *task, const LowrankHead *head, size_t chunk_first, size_t count) {
    const LowrankPlan *plan = task->plan;
    for (size_t lane = 0; lane < count; lane += NEAR_LANES) {
        Pairs pairs = query_lanes(plan, lane, count);
        const size_t end = chunk_first + lane + pairs.valid;
        for (size_t key = boundary_first(plan, chunk_first, chunk_first + lane); key < end; key += KEY_TILE) {
            window_keys(task, &pairs, key, tile_rows(key, end));
            backward_tile(task, head, &pairs, chunk_first);
        }
    }
}

void lowrank_earlier_backward(LowrankTask *task, const real *k, size_t k_stride, const real *v, size_t v_stride,
                              real *dk, real *dv, real *bound, size_t chunk_first, size_t count) {
    static const LowrankHead exact = {.exact_far = true};
    const LowrankPlan *plan = task->plan;
    LowrankWork *work = &task->work;
    const size_t boundary = lowrank_far_end(plan, chunk_first);
    for (size_t key = 0; key < boundary; key += KEY_TILE) {
        Pairs keys = {0};
        earlier_keys(task, &keys, k, k_stride, v, v_stride, key, tile_rows(key, boundary));
        keys.d_far_key = work->tile_grad;
        keys.d_value = dv + key * v_stride;
        keys.d_value_stride = v_stride;
        keys.key_bound = bound + key * 2;
        memset(work->tile_grad, 0, keys.rows * plan->far_size * sizeof(real));
        for (size_t lane = 0; lane < count; lane += NEAR_LANES) {
            Pairs pairs = query_lanes(plan, lane, count);
            keys.lane = pairs.lane, keys.lanes = pairs.lanes, keys.valid = pairs.valid;
            backward_tile(task, &exact, &keys, chunk_first);
        }
        lowrank_rows_backward(plan, dk + key * k_stride, k_stride, true, NULL, 0, work->tile_grad, work->rows,
                              k + key * k_stride, k_stride, task->key_factor, key, keys.rows);
    }
}
