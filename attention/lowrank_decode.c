// Decoding with method lowrank, token by token: the far state and a ring of the last `near` keys and values, so memory
// and time per token do not depend on the position. Cost 4·R·E per query head.
//
// Where nothing guarantees |x̄| ≤ Λ (bound = none, or far = exact) the ring holds all tokens instead, and a head whose
// norms have left the interval takes the true exp over them, as forward does. Forward decides by all tokens of the
// sequence, decode by those seen so far.
#include <math.h>
#include <string.h>

#include "attention/lowrank.h"

typedef struct DecodeState {
    double *largest_query; // (H) largest ‖far q‖² so far
    double *largest_key;   // (G)
    real *state;           // (G, R, state_stride)
    real *near_key, *far_key, *value; // (G, ring, D), (G, ring, F), (G, ring, E)
} DecodeState;

static size_t ring_size(const LowrankPlan *plan) {
    if (plan->far_field && !(plan->polynomial_far && plan->guaranteed)) return plan->base.settings.tokens;
    return plan->near > 0 ? plan->near : 1;
}

static DecodeState state_at(const LowrankPlan *plan, void *memory, size_t *bytes) {
    const AttentionSettings *s = &plan->base.settings;
    const size_t ring = ring_size(plan) * s->kv_heads;
    Arena arena = lowrank_arena_over(memory);
    DecodeState at = {
        .largest_query = ARENA_TAKE(&arena, double, s->heads),
        .largest_key = ARENA_TAKE(&arena, double, s->kv_heads),
        .state = ARENA_TAKE(&arena, real, s->kv_heads * plan->state_size),
        .near_key = ARENA_TAKE(&arena, real, ring * s->qk_size),
        .far_key = ARENA_TAKE(&arena, real, ring * plan->far_size),
        .value = ARENA_TAKE(&arena, real, ring * s->v_size),
    };
    if (bytes) *bytes = arena.overflowed ? SIZE_MAX : arena.used;
    return at;
}

size_t lowrank_decode_bytes(const LowrankPlan *plan) {
    size_t bytes;
    state_at(plan, NULL, &bytes);
    return bytes;
}

void lowrank_decode_begin(const AttentionPlan *base, void *state) {
    const LowrankPlan *plan = (const LowrankPlan *)base;
    memset(state, 0, lowrank_decode_bytes(plan));
}

// One head's ring.
typedef struct Ring {
    real *near_key, *far_key, *value;
    size_t size;
} Ring;

static Ring ring_at(const LowrankPlan *plan, const DecodeState *state, size_t kv_head) {
    const size_t size = ring_size(plan), at = kv_head * size;
    return (Ring){state->near_key + at * plan->base.settings.qk_size, state->far_key + at * plan->far_size,
                  state->value + at * plan->base.settings.v_size, size};
}

// Puts the token's key into the ring, after the key that leaves the near field has gone into the state.
static void take_key(LowrankTask *task, const DecodeState *state, const Ring *ring, const real *k, const real *v,
                     size_t position) {
    const LowrankPlan *plan = task->plan;
    const size_t size = plan->base.settings.qk_size, far = plan->far_size, values = plan->base.settings.v_size;
    const size_t slot = position % ring->size;
    if (plan->polynomial_far) lowrank_state_age(plan, task->work.state, plan->token_decay);
    if (plan->polynomial_far && plan->near > 0 && position >= plan->near) {
        const size_t leaving = (position - plan->near) % ring->size;
        lowrank_state_absorb(task, ring->far_key + leaving * far, ring->value + leaving * values, 1, plan->near);
    }
    lowrank_near_rows(plan, ring->near_key + slot * size, k, size, position, 1, 1);
    lowrank_far_rows(plan, ring->far_key + slot * far, task->work.rows, k, size, NULL, position, 1);
    memcpy(ring->value + slot * values, v, values * sizeof(real));
    double *largest = &state->largest_key[task->kv_head];
    *largest = larger_or_nan(*largest, lowrank_square(ring->far_key + slot * far, far));
    if (plan->polynomial_far && plan->near == 0)
        lowrank_state_absorb(task, ring->far_key + slot * far, ring->value + slot * values, 1, 0);
}

// Adds `rows` keys of the ring from `slot` on, all near or all far (true exp), to the sums of `count` lanes. The first
// key is `lag` tokens old.
static void add_pairs(LowrankTask *task, const Ring *ring, size_t count, size_t slot, size_t rows, size_t lag,
                      bool near) {
    const LowrankPlan *plan = task->plan;
    LowrankWork *work = &task->work;
    const size_t values = plan->base.settings.v_size, lanes = work->lanes;
    const size_t size = near ? plan->base.settings.qk_size : plan->far_size;
    const real *keys = (near ? ring->near_key : ring->far_key) + slot * size;
    LowrankTile tile = { // every lag is on the side that was asked for
        .near = work->near_logit, .far = work->far_logit, .ld = lanes, .rows = rows, .lanes = lanes,
        .near_first = near ? 0 : rows, .far_rows = near ? 0 : rows, .lag = (ptrdiff_t)rows,
        .near_size = near ? (size_t)1 << 20 : 0, .far_exact = true,
        .sum = work->denominator, .far_sum = work->far_sum,
    };
    tile_kernels()->multiply(near ? tile.near : tile.far, lanes, keys, size, 1,
                             near ? work->near_query_t : work->far_query_t, lanes, rows, lanes, size, false);
    lowrank_fade(plan, near ? tile.near : tile.far, lanes, rows, lanes, (ptrdiff_t)lag, true);
    lowrank_kernels()->forward(&tile, work->largest, work->rescale);
    lowrank_kernels()->scale_rows(work->sum, values, work->sum, values, work->rescale, count, values);
    tile_kernels()->multiply(work->sum, values, tile.near, 1, lanes, ring->value + slot * values, values, count, values,
                             rows, true);
}

// The keys of positions [first, last), for queries at `position`.
static void add_all(LowrankTask *task, const Ring *ring, size_t count, size_t first, size_t last, size_t position,
                    bool near) {
    for (size_t at = first; at < last;) {
        const size_t slot = at % ring->size, whole = ring->size - slot < KEY_TILE ? ring->size - slot : KEY_TILE;
        const size_t rows = last - at < whole ? last - at : whole;
        add_pairs(task, ring, count, slot, rows, position - at, near);
        at += rows;
    }
}

// The queries of up to `lanes` heads of one group, a head per lane.
static void load_queries(LowrankTask *task, const DecodeState *state, const real *q, size_t first_head, size_t count,
                         size_t position) {
    const LowrankPlan *plan = task->plan;
    LowrankWork *work = &task->work;
    const size_t size = plan->base.settings.qk_size, far = plan->far_size;
    for (size_t n = 0; n < count; n++) {
        const real *row = q + (first_head + n) * size;
        lowrank_near_rows(plan, work->near_query + n * size, row, size, position, 1,
                          (real)plan->base.settings.logit_scale);
        lowrank_far_rows(plan, work->far_query + n * far, work->rows, row, size, NULL, position, 1);
        double *largest = &state->largest_query[first_head + n];
        *largest = larger_or_nan(*largest, lowrank_square(work->far_query + n * far, far));
    }
    lowrank_to_lanes(work->lanes, work->near_query_t, work->near_query, size, count, size);
    lowrank_to_lanes(work->lanes, work->far_query_t, work->far_query, far, count, far);
}

static void attend(LowrankTask *task, const DecodeState *state, const Ring *ring, real *o, size_t first_head,
                   size_t count, size_t position) {
    const LowrankPlan *plan = task->plan;
    LowrankWork *work = &task->work;
    const size_t values = plan->base.settings.v_size, lanes = work->lanes;
    const size_t near_first = position + 1 > plan->near ? position + 1 - plan->near : 0;
    // far rows carry √s on both sides, so the product of their lengths is the logit bound itself
    bool inside = plan->polynomial_far;
    for (size_t n = 0; inside && !plan->guaranteed && n < count; n++)
        inside = sqrt(state->largest_query[first_head + n] * state->largest_key[task->kv_head]) <=
                 plan->polynomial.interval;
    const bool polynomial = inside && near_first > 0;
    for (size_t lane = 0; lane < lanes; lane++) work->largest[lane] = polynomial ? 0 : LOWRANK_NO_MAXIMUM;
    if (polynomial) {
        lowrank_state_read(task, count);
    } else {
        memset(work->sum, 0, count * values * sizeof(real));
        memset(work->denominator, 0, lanes * sizeof(real));
    }
    if (plan->far_field && !inside) add_all(task, ring, count, 0, near_first, position, false);
    add_all(task, ring, count, near_first, position + 1, position, true);
    for (size_t n = 0; n < count; n++)
        for (size_t e = 0; e < values; e++)
            o[(first_head + n) * values + e] = work->sum[n * values + e] / work->denominator[n];
}

void lowrank_decode(const AttentionPlan *base, void *memory, real *o, const real *q, const real *k, const real *v,
                    size_t position, void *scratch) {
    const LowrankPlan *plan = (const LowrankPlan *)base;
    const AttentionSettings *s = &base->settings;
    const DecodeState state = state_at(plan, memory, NULL);
    const LowrankShared shared = lowrank_shared_at(plan, scratch, NULL);
    REQUIRE(position < s->tokens);
    for (size_t g = 0; g < s->kv_heads; g++) {
        Arena arena = lowrank_arena_over(shared.slot);
        LowrankTask task = {.plan = plan, .work = lowrank_work_at(plan, &arena), .kv_head = g,
                            .one_position = true};
        task.work.lanes = LANE_UNIT;
        task.work.state = state.state + g * plan->state_size;
        const Ring ring = ring_at(plan, &state, g);
        take_key(&task, &state, &ring, k + g * s->qk_size, v + g * s->v_size, position);
        const size_t together = plan->guaranteed ? LANE_UNIT : 1; // a head that falls back does so alone
        for (size_t m = 0; m < plan->group; m += together) {
            const size_t count = plan->group - m < together ? plan->group - m : together;
            load_queries(&task, &state, q, g * plan->group + m, count, position);
            attend(&task, &state, &ring, o, g * plan->group + m, count, position);
        }
    }
}
