// Method `lowrank`: RoPE attention in O(T·R·E), forward and backward (attention.md, sections 2 to 5).
//
//     o_i = ( Σ_{i-near<j≤i} e^{x_ij} v_j + Σ_{j≤i-near} P(x̄_ij) v_j ) / the same with v_j = 1
//
// x are the logits of the rotated q and k; x̄ those of the far field: the F slowest dimensions, bounded so that
// |x̄| ≤ Λ. P of a dot product is a dot product of R = C(F+g, g) monomials, so the far sum is a running state.
// Sources: Definition 1.1 and the polynomial method of fast RoPE attention; the backward of the gradient paper
// (sections 4 to 6) in the form of attention.md, section 2.3. Kernels are rotations, with or without a decay.
//
// This file: the plan, its memory, and the loop over tasks.
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

#include "attention/lowrank.h"
#include "core/threads.h"

// Cutting the sequence gives more cores something to do where heads are few, but sums states twice, a sixth of the work:
// so into no more segments than make MIN_TASKS tasks, and none shorter than MIN_SEGMENT_CHUNKS.
enum { MAX_FEATURES = 1 << 20, MIN_TASKS = 4, MIN_SEGMENT_CHUNKS = 8, VECTOR_PAD = 8 };

// ---- memory --------------------------------------------------------------------------------------------------------

LowrankWork lowrank_work_at(const LowrankPlan *plan, Arena *arena) {
    const AttentionSettings *s = &plan->base.settings;
    const size_t lanes = plan->lanes, far = plan->far_size, features = plan->features.count, rows = plan->window_rows;
    const size_t raw_rows = rows > KEY_TILE ? rows : KEY_TILE;
    LowrankWork work = {.lanes = lanes};
    work.state = ARENA_TAKE(arena, real, plan->state_size);
    work.phi = ARENA_TAKE(arena, real, features * plan->state_lanes);
    work.d_phi = ARENA_TAKE(arena, real, features * plan->state_lanes);
    work.near_key = ARENA_TAKE(arena, real, rows * s->qk_size);
    work.far_key = ARENA_TAKE(arena, real, rows * far);
    work.value = ARENA_TAKE(arena, real, rows * s->v_size);
    work.d_near_key = ARENA_TAKE(arena, real, rows * s->qk_size);
    work.d_far_key = ARENA_TAKE(arena, real, rows * far);
    work.d_value = ARENA_TAKE(arena, real, rows * s->v_size);
    work.key_bound = ARENA_TAKE(arena, real, rows * 2);
    work.near_query = ARENA_TAKE(arena, real, lanes * s->qk_size);
    work.far_query = ARENA_TAKE(arena, real, lanes * far);
    work.near_query_t = ARENA_TAKE(arena, real, s->qk_size * lanes);
    work.far_query_t = ARENA_TAKE(arena, real, far * lanes);
    work.d_near = ARENA_TAKE(arena, real, lanes * s->qk_size);
    work.d_far_t = ARENA_TAKE(arena, real, far * lanes);
    work.faded_t = ARENA_TAKE(arena, real, plan->decay ? far * lanes : 0);
    work.d_faded_t = ARENA_TAKE(arena, real, plan->decay ? far * lanes : 0);
    work.rows = ARENA_TAKE(arena, real, (raw_rows > lanes ? raw_rows : lanes) * s->qk_size);
    work.tile_key = ARENA_TAKE(arena, real, KEY_TILE * far);
    work.tile_grad = ARENA_TAKE(arena, real, KEY_TILE * far);
    work.sum = ARENA_TAKE(arena, real, lanes * s->v_size);
    work.output_t = ARENA_TAKE(arena, real, s->v_size * lanes);
    work.right_t = ARENA_TAKE(arena, real, (s->v_size + 3) * lanes);
    work.right = ARENA_TAKE(arena, real, lanes * s->v_size);
    work.near_logit = ARENA_TAKE(arena, real, KEY_TILE * NEAR_LANES);
    work.far_logit = ARENA_TAKE(arena, real, KEY_TILE * NEAR_LANES);
    work.d_weight = ARENA_TAKE(arena, real, KEY_TILE * NEAR_LANES);
    work.largest = ARENA_TAKE(arena, real, lanes);
    work.denominator = ARENA_TAKE(arena, real, lanes);
    work.rescale = ARENA_TAKE(arena, real, lanes);
    work.log_sum = ARENA_TAKE(arena, real, lanes);
    work.weight = ARENA_TAKE(arena, real, lanes);
    work.delta = ARENA_TAKE(arena, real, lanes);
    work.far_sum = ARENA_TAKE(arena, real, lanes);
    work.near_dk = ARENA_TAKE(arena, real, lanes);
    work.near_dv = ARENA_TAKE(arena, real, lanes);
    work.far_dk = ARENA_TAKE(arena, real, lanes);
    work.far_dv = ARENA_TAKE(arena, real, lanes);
    return work;
}

Arena lowrank_arena_over(void *memory) {
    Arena arena = arena_measure("attention");
    arena.base = memory;
    return arena;
}

LowrankSaved lowrank_saved_at(const LowrankPlan *plan, void *saved, size_t *bytes) {
    const AttentionSettings *s = &plan->base.settings;
    Arena arena = lowrank_arena_over(saved);
    LowrankSaved at = {
        .head = ARENA_TAKE(&arena, LowrankHead, s->batch * s->heads),
        .log_sum = ARENA_TAKE(&arena, real, s->batch * s->heads * s->tokens),
        .far_share = ARENA_TAKE(&arena, real, s->batch * s->heads * s->tokens),
        .query_factor = ARENA_TAKE(&arena, real, s->batch * s->heads * s->tokens),
        .key_factor = ARENA_TAKE(&arena, real, s->batch * s->kv_heads * s->tokens),
    };
    if (bytes) *bytes = arena.overflowed ? SIZE_MAX : arena.used;
    return at;
}

LowrankShared lowrank_shared_at(const LowrankPlan *plan, void *scratch, size_t *bytes) {
    const AttentionSettings *s = &plan->base.settings;
    const size_t rows = s->batch * s->kv_heads * plan->segments, cut = plan->segments > 1;
    Arena slot = arena_measure("attention slot"), arena = lowrank_arena_over(scratch);
    lowrank_work_at(plan, &slot);
    LowrankShared at = {
        .norms = ARENA_TAKE(&arena, LowrankNorms, s->batch * (s->heads + s->kv_heads) * plan->segments),
        .values = ARENA_TAKE(&arena, LowrankValues, rows),
        .value_range = ARENA_TAKE(&arena, real, rows * 2 * s->v_size),
        .certificate = ARENA_TAKE(&arena, Certificate, s->batch * s->heads),
        .value_low = ARENA_TAKE(&arena, real, s->batch * s->kv_heads * s->v_size),
        .value_high = ARENA_TAKE(&arena, real, s->batch * s->kv_heads * s->v_size),
        .value_center = ARENA_TAKE(&arena, real, s->batch * s->kv_heads * s->v_size),
        .bounds = ARENA_TAKE(&arena, LowrankBounds, s->batch * s->heads * plan->segments),
        .far_dk = ARENA_TAKE(&arena, real, s->batch * s->heads * s->tokens),
        .far_dv = ARENA_TAKE(&arena, real, s->batch * s->heads * s->tokens),
        .key_bound = ARENA_TAKE(&arena, real, s->batch * s->kv_heads * s->tokens * 2),
        .segment_state = ARENA_TAKE(&arena, real, cut * rows * plan->state_size),
        .spill = ARENA_TAKE(&arena, real, cut * rows * plan->near * (s->qk_size + s->v_size + 2)),
        .delta = ARENA_TAKE(&arena, real, s->batch * s->heads * s->tokens),
        .slot = ARENA_TAKE(&arena, unsigned char, plan->slots * slot.used),
        .slot_bytes = slot.used,
    };
    if (bytes) *bytes = slot.overflowed || arena.overflowed ? SIZE_MAX : arena.used;
    return at;
}

size_t lowrank_state_index(const LowrankPlan *plan, size_t batch, size_t kv_head, size_t segment) {
    return (batch * plan->base.settings.kv_heads + kv_head) * plan->segments + segment;
}

// ---- tasks ---------------------------------------------------------------------------------------------------------

void lowrank_each_task(const LowrankPlan *plan, void *scratch, const bool *active, size_t segments, LowrankBody body,
                       void *context) {
    const AttentionSettings *s = &plan->base.settings;
    const LowrankShared shared = lowrank_shared_at(plan, scratch, NULL);
    const size_t count = s->batch * s->kv_heads * segments, most = threads_count();
    const size_t threads = most < plan->slots ? most : plan->slots, share = (count + threads - 1) / threads;
    // Each thread begins in a stretch of its own: heads that are neighbours in memory would fetch each other's lines.
#pragma omp parallel for schedule(dynamic, 1) num_threads((int)threads)
    for (size_t turn = 0; turn < share * threads; turn++) {
        const size_t n = turn % threads * share + turn / threads;
        if (n >= count) continue;
        LowrankTask task = {.plan = plan, .segment = n % segments, .kv_head = n / segments % s->kv_heads,
                            .batch = n / segments / s->kv_heads};
        if (active && !active[task.kv_head]) continue;
        Arena arena = lowrank_arena_over(shared.slot + (size_t)omp_get_thread_num() * shared.slot_bytes);
        task.work = lowrank_work_at(plan, &arena);
        task.first = task.segment * plan->segment_tokens;
        task.last = segments == 1 ? s->tokens : task.first + plan->segment_tokens;
        if (task.last > s->tokens) task.last = s->tokens;
        if (segments == 1) task.first = 0;
        body(context, &task);
    }
}

// ---- the plan ------------------------------------------------------------------------------------------------------

// Operations that a token costs forward and backward if the polynomial is evaluated for each of its pairs (products over
// F and E, and P, P' and masks at a quarter of their speed), or through R features.
static double pair_cost(const LowrankPlan *plan) {
    const AttentionSettings *s = &plan->base.settings;
    return (double)s->tokens / 2 * (7 * (double)(plan->far_size + s->v_size) + 12 * (double)(s->degree + 6));
}
static double feature_cost(const LowrankPlan *plan) {
    return (double)plan->features.count * (14 * (double)(plan->base.settings.v_size + 1) + 30);
}

// Below about 1000 tokens features cost more than the pairs that they save.
static bool pairs_are_cheaper(const LowrankPlan *plan) {
    const AttentionSettings *s = &plan->base.settings;
    return plan->polynomial_far && plan->near > 0 && s->batch * s->kv_heads >= MIN_TASKS &&
           pair_cost(plan) < feature_cost(plan);
}

// Tokens per chunk: long enough that reading and writing the state is paid for by products with it, short enough that
// the boundary block stays small beside them.
static size_t choose_chunk(const LowrankPlan *plan) {
    if (pairs_are_cheaper(plan)) return plan->base.settings.tokens;
    size_t chunk = !plan->polynomial_far ? 64 : plan->features.count <= 256 ? 32 : plan->features.count <= 1024 ? 64 : 128;
    const size_t tokens = plan->base.settings.tokens;
    return chunk < tokens ? chunk : tokens;
}

static void cut_work(LowrankPlan *plan) {
    const AttentionSettings *s = &plan->base.settings;
    plan->chunk = s->chunk == 0 ? choose_chunk(plan) : s->chunk < s->tokens ? s->chunk : s->tokens;
    plan->lanes = (plan->chunk + LANE_UNIT - 1) / LANE_UNIT * LANE_UNIT;
    plan->all_pairs = plan->chunk == s->tokens && plan->near > 0;
    plan->state_lanes = plan->all_pairs ? LANE_UNIT : plan->lanes;
    const size_t rows = s->batch * s->kv_heads, chunks = (s->tokens + plan->chunk - 1) / plan->chunk;
    size_t wanted = rows >= MIN_TASKS ? 1 : (MIN_TASKS + rows - 1) / rows;
    if (wanted > chunks / MIN_SEGMENT_CHUNKS) wanted = chunks / MIN_SEGMENT_CHUNKS;
    if (wanted < 1) wanted = 1;
    const size_t per_segment = (chunks + wanted - 1) / wanted;
    plan->segments = (chunks + per_segment - 1) / per_segment;
    plan->segment_tokens = per_segment * plan->chunk;
    plan->window_rows = s->tokens - plan->near > 4 * plan->chunk ? plan->near + 4 * plan->chunk : s->tokens;
    const size_t tasks = rows * plan->segments, threads = threads_count();
    plan->slots = tasks < threads ? tasks : threads;
}

// What time does to the state under rope-decay.
static void choose_decay(LowrankPlan *plan) {
    const AttentionSettings *s = &plan->base.settings;
    if (plan->position.kind != POSITION_ROPE_DECAY) return;
    plan->decay = plan->position.factor + (s->tokens - 1);
    for (size_t t = 0; t <= POLYNOMIAL_MAX_DEGREE; t++) {
        plan->token_decay[t] = (real)pow(s->kernel_decay, (double)t);
        plan->chunk_decay[t] = (real)pow(s->kernel_decay, (double)(t * plan->chunk));
        plan->segment_decay[t] = (real)pow(s->kernel_decay, (double)(t * plan->segment_tokens));
    }
}

static bool choose_features(LowrankPlan *plan, double interval, Error *error) {
    const AttentionSettings *s = &plan->base.settings;
    size_t count;
    if (!features_count(plan->far_size, s->degree, &count) || count > MAX_FEATURES)
        return error_set(error, ERROR_USER,
                         "attention.degree=%zu over %zu dimensions makes C(%zu, %zu) features, more than %d. Lower the "
                         "degree or set attention.far_size.", s->degree, plan->far_size, plan->far_size + s->degree,
                         s->degree, (int)MAX_FEATURES);
    if (!polynomial_create(&plan->polynomial, s->polynomial, s->degree, interval, error)) return false;
    for (size_t t = 0; t <= s->degree; t++) plan->coefficient[t] = (real)plan->polynomial.coefficient[t];
    return features_create(&plan->features, plan->far_size, &plan->polynomial, error);
}

static bool check_settings(const LowrankPlan *plan, Error *error) {
    const AttentionSettings *s = &plan->base.settings;
    if (!s->causal) return error_set(error, ERROR_USER, "attention.method=lowrank is causal only: use exact.");
    if (!position_is_rotation(&plan->position))
        return error_set(error, ERROR_USER, "attention.kernel=%s is not a rotation, so attention.method=lowrank cannot "
                         "factor it: use toeplitz or exact.", s->kernel);
    if (s->far_size % 2 != 0)
        return error_set(error, ERROR_USER, "attention.far_size=%zu: must be even (rotary pairs).", s->far_size);
    if (s->far == FAR_NONE && s->near == 0)
        return error_set(error, ERROR_USER, "attention.far=none with attention.near=0 leaves nothing to attend to.");
    return true;
}

static bool check_memory(const LowrankPlan *plan, Error *error) {
    const AttentionNeeds *needs = &plan->base.needs;
    CpuInfo info;
    cpu_info(&info);
    if (needs->scratch_bytes <= info.memory_available && needs->saved_bytes <= info.memory_available) return true;
    return error_set(error, ERROR_USER,
                     "attention.method=lowrank with %zu features needs %.1f MB of scratch (%.1f MB of running state per "
                     "batch row and key/value head); %.1f MB are available. Lower attention.degree or set "
                     "attention.far_size.", needs->features, (double)needs->scratch_bytes / 1e6,
                     (double)needs->state_bytes / 1e6, (double)info.memory_available / 1e6);
}

static void fill_needs(LowrankPlan *plan) {
    const AttentionSettings *s = &plan->base.settings;
    AttentionNeeds *needs = &plan->base.needs;
    const double pairs = (double)s->batch * (double)s->tokens, columns = (double)(s->v_size + 1);
    const double features = (double)plan->features.count, heads = (double)s->heads, kv_heads = (double)s->kv_heads;
    lowrank_saved_at(plan, NULL, &needs->saved_bytes);
    lowrank_shared_at(plan, NULL, &needs->scratch_bytes);
    needs->features = plan->features.count;
    needs->plan_bytes = 2 * plan->features.count * sizeof(real); // their ratios
    if (!plan->lent) needs->plan_bytes += position_bytes(&plan->position);
    needs->state_bytes = plan->state_size * sizeof(real);
    needs->decode_bytes = lowrank_decode_bytes(plan);
    const double near = 2 * (double)(plan->near < s->tokens ? plan->near : s->tokens) *
                        (double)(s->qk_size + s->v_size) * pairs * heads;
    needs->forward_flops = 2 * features * columns * pairs * (heads + kv_heads) + near;
    needs->backward_flops = 2 * features * columns * pairs * (2 * heads + 3 * kv_heads) + 2.5 * near;
    if (!plan->all_pairs || !plan->far_field) return;
    const double beyond = fmax((double)s->tokens / 2 - (double)plan->near, 0); // far keys of a token, on average
    const double far = 2 * beyond * (double)(plan->far_size + s->v_size) * pairs * heads;
    needs->forward_flops = far + near;
    needs->backward_flops = 2.5 * (far + near);
}

static void destroy(AttentionPlan *base) {
    LowrankPlan *plan = (LowrankPlan *)base;
    features_destroy(&plan->features);
    if (!plan->lent) position_destroy(&plan->position);
    free(plan);
}

// The interval is the polynomial's alone: the radius of the ball is as the settings say. Its own tables where `position`
// is NULL.
static AttentionPlan *make(const AttentionSettings *settings, double interval, const Position *position, Error *error) {
    LowrankPlan *plan = calloc(1, sizeof *plan);
    if (!plan) {
        error_set(error, ERROR_MEMORY, "There is no memory for an attention plan.");
        return NULL;
    }
    plan->base.settings = *settings;
    const AttentionSettings *s = &plan->base.settings;
    plan->far_size = s->far_size == 0 || s->far_size > s->qk_size ? s->qk_size : s->far_size;
    plan->far_pair = (s->qk_size - plan->far_size) / 2;
    plan->far_scale = (real)sqrt(s->logit_scale);
    plan->far_bound = bound_make(s);
    plan->near_bound = s->near_bound == NEAR_BOUND_SAME ? plan->far_bound : (Bound){BOUND_NONE, 0};
    plan->near = s->near < s->tokens ? s->near : s->tokens;
    plan->group = s->heads / s->kv_heads;
    plan->far_field = s->far != FAR_NONE;
    plan->polynomial_far = s->far == FAR_POLYNOMIAL;
    plan->guaranteed = s->polynomial == POLYNOMIAL_POWER || (s->bound == BOUND_BALL && s->logit_bound <= interval) ||
                       (s->bound == BOUND_CLIP &&
                        s->logit_scale * (double)plan->far_size * s->entry_bound * s->entry_bound <= interval);
    plan->lent = position != NULL;
    if (plan->lent) plan->position = *position;
    if ((!plan->lent && !position_create(&plan->position, s, error)) || !check_settings(plan, error) ||
        (plan->polynomial_far && !choose_features(plan, interval, error))) {
        destroy(&plan->base);
        return NULL;
    }
    plan->state_stride = (s->v_size + 3 + VECTOR_PAD - 1) / VECTOR_PAD * VECTOR_PAD;
    plan->state_size = plan->features.count * plan->state_stride;
    cut_work(plan);
    choose_decay(plan);
    fill_needs(plan);
    if (!check_memory(plan, error)) {
        destroy(&plan->base);
        return NULL;
    }
    return &plan->base;
}

static AttentionPlan *create(const AttentionSettings *settings, Error *error) {
    return make(settings, bound_interval(settings, 1), NULL, error);
}

AttentionPlan *lowrank_create(const AttentionSettings *settings, double interval, const Position *position,
                              Error *error) {
    AttentionPlan *plan = make(settings, interval, position, error);
    if (plan) plan->method = &attention_lowrank;
    return plan;
}

static void explain(const AttentionPlan *base, char *text, size_t size) {
    const LowrankPlan *plan = (const LowrankPlan *)base;
    const AttentionSettings *s = &base->settings;
    if (!plan->polynomial_far) {
        snprintf(text, size, "lowrank: near field of %zu tokens, far field %s", plan->near,
                 plan->far_field ? "by true exp over the bounded dimensions" : "none (window alone)");
        return;
    }
    if (plan->all_pairs) {
        snprintf(text, size,
                 "lowrank: degree %zu over %zu of %zu dimensions, evaluated pair by pair: %zu tokens are too few for %zu "
                 "features to pay, |logit| <= %.3g with relative error %.2g, near field %zu",
                 plan->features.degree, plan->far_size, s->qk_size, s->tokens, plan->features.count,
                 plan->polynomial.interval, polynomial_error(&plan->polynomial, plan->polynomial.interval), plan->near);
        return;
    }
    snprintf(text, size,
             "lowrank: degree %zu over %zu of %zu dimensions, %zu features, |logit| <= %.3g with relative error %.2g, "
             "near field %zu, chunks of %zu, %zu segments, state %.1f kB",
             plan->features.degree, plan->far_size, s->qk_size, plan->features.count, plan->polynomial.interval,
             polynomial_error(&plan->polynomial, plan->polynomial.interval), plan->near, plan->chunk, plan->segments,
             (double)base->needs.state_bytes / 1e3);
}

const AttentionMethod attention_lowrank = {
    .name = "lowrank",
    .summary = "near field exact, far field by polynomial features of the slow rotary dimensions; linear in tokens",
    .create = create,
    .forward = lowrank_forward,
    .backward = lowrank_backward,
    .decode_begin = lowrank_decode_begin,
    .decode = lowrank_decode,
    .explain = explain,
    .destroy = destroy,
};
