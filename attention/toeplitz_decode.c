// Decoding with method `toeplitz`: keys and values are kept, and each token evaluates P(x) (or exp, near and where the
// polynomial does not reach) for every earlier one: O(T·(|S| + E)) per token, no transforms. State: the cached rows.
#include <math.h>
#include <string.h>

#include "attention/toeplitz_plan.h"

// State of one sequence: near keys (T,G,D), far keys (T,G,F), values (T,G,E), largest ‖far key‖ so far (G).
typedef struct DecodeState {
    real *near_key, *far_key, *value;
    double *norm;
} DecodeState;

static DecodeState state_at(const ToeplitzPlan *plan, void *state, size_t *bytes) {
    const AttentionSettings *settings = &plan->base.settings;
    const size_t rows = settings->tokens * settings->kv_heads;
    Arena arena =
        state ? (Arena){.name = "attention", .base = state, .capacity = SIZE_MAX} : arena_measure("attention");
    DecodeState parts = {
        .near_key = ARENA_TAKE(&arena, real, rows * settings->qk_size),
        .far_key = ARENA_TAKE(&arena, real, rows * plan->far_size),
        .value = ARENA_TAKE(&arena, real, rows * settings->v_size),
        .norm = ARENA_TAKE(&arena, double, settings->kv_heads),
    };
    if (bytes) *bytes = arena.used;
    return parts;
}

size_t toeplitz_decode_bytes(const ToeplitzPlan *plan) {
    size_t bytes;
    state_at(plan, NULL, &bytes);
    return bytes;
}

void toeplitz_decode_begin(const AttentionPlan *base, void *state) {
    const ToeplitzPlan *plan = (const ToeplitzPlan *)base;
    const DecodeState parts = state_at(plan, state, NULL);
    for (size_t g = 0; g < base->settings.kv_heads; g++) parts.norm[g] = 0.0;
}

// near (D) and far (F) = the row as the two fields see it. Returns ‖far‖.
static double split_row(const ToeplitzPlan *plan, real *near, real *far, const real *in) {
    const AttentionSettings *settings = &plan->base.settings;
    const size_t size = settings->qk_size;
    const Bound none = {BOUND_NONE, 0.0};
    bound_apply(settings->near_bound == NEAR_BOUND_SAME ? plan->bound : none, near, size, in, size, 1, size);
    for (size_t f = 0; f < plan->far_size; f++) far[f] = in[plan->dimension[f]];
    bound_apply(plan->bound, far, plan->far_size, far, plan->far_size, 1, plan->far_size);
    double square = 0.0;
    for (size_t f = 0; f < plan->far_size; f++) square += (double)far[f] * (double)far[f];
    return sqrt(square);
}

// x - b_t of the pair at `lag`, in double: one sum of |S| products.
static double near_logit(const ToeplitzPlan *plan, const real *q, const real *k, size_t lag) {
    const real *weight = plan->weight + plan->base.settings.tokens - 1 - lag;
    double sum = 0.0;
    for (size_t e = 0; e < plan->support; e++)
        sum += (double)q[plan->entry[e].row] * (double)weight[e * plan->position.lag_count] *
               (double)k[plan->entry[e].column];
    return plan->base.settings.logit_scale * sum;
}

static double far_logit(const ToeplitzPlan *plan, const real *q, const real *k, size_t lag) {
    const real *weight = plan->weight + plan->base.settings.tokens - 1 - lag;
    double sum = 0.0;
    for (size_t e = 0; e < plan->far_entries; e++)
        sum += (double)q[plan->far_place[e].row] * (double)weight[plan->far_entry[e] * plan->position.lag_count] *
               (double)k[plan->far_place[e].column];
    return plan->base.settings.logit_scale * sum;
}

typedef struct Sums { // weights relative to exp(shift)
    double shift, total;
    double *value; // (E)
    size_t size;
} Sums;

// Adds weight·exp(exponent) times a value.
static void add(Sums *sums, double weight, double exponent, const real *v) {
    if (!(exponent <= sums->shift)) {
        const double factor = exp(sums->shift - exponent);
        for (size_t e = 0; e < sums->size; e++) sums->value[e] *= factor;
        sums->total *= factor;
        sums->shift = exponent;
    }
    weight *= exp(exponent - sums->shift);
    sums->total += weight;
    for (size_t e = 0; e < sums->size; e++) sums->value[e] += weight * (double)v[e];
}

static void decode_head(const ToeplitzPlan *plan, const DecodeState *state, real *o, const real *q, size_t head,
                        size_t position, void *scratch) {
    const AttentionSettings *settings = &plan->base.settings;
    const size_t g = head / plan->group, size = settings->qk_size;
    real *near = scratch, *far = near + size;
    Sums sums = {-INFINITY, 0.0, (double *)scratch + 2 * size, settings->v_size};
    memset(sums.value, 0, sums.size * sizeof(double));
    const double length = split_row(plan, near, far, q + head * size);
    const double measured = settings->logit_scale * plan->weight_norm * length * state->norm[g];
    const bool within =
        measured * (1.0 + 64.0 * REAL_EPSILON) <= plan->polynomial.interval || settings->polynomial == POLYNOMIAL_POWER;
    const bool polynomial = plan->expands && within;
    for (size_t j = 0; j <= position; j++) {
        const size_t lag = position - j, row = j * settings->kv_heads + g;
        const real *v = state->value + row * settings->v_size;
        const double bias = plan->position.bias ? position_bias(&plan->position, head, (ptrdiff_t)lag) : 0.0;
        if (toeplitz_is_near(plan, (ptrdiff_t)lag)) {
            add(&sums, 1.0, bias + near_logit(plan, near, state->near_key + row * size, lag), v);
        } else if (settings->far != FAR_NONE) {
            const double x = far_logit(plan, far, state->far_key + row * plan->far_size, lag);
            if (polynomial)
                add(&sums, polynomial_value(&plan->polynomial, x), bias, v);
            else
                add(&sums, 1.0, bias + x, v);
        }
    }
    for (size_t e = 0; e < sums.size; e++) o[e] = (real)(sums.value[e] / sums.total);
}

void toeplitz_decode(const AttentionPlan *base, void *state, real *o, const real *q, const real *k, const real *v,
                     size_t position, void *scratch) {
    const ToeplitzPlan *plan = (const ToeplitzPlan *)base;
    const AttentionSettings *settings = &base->settings;
    REQUIRE(position < settings->tokens);
    const DecodeState parts = state_at(plan, state, NULL);
    for (size_t g = 0; g < settings->kv_heads; g++) {
        const size_t row = position * settings->kv_heads + g;
        const double length = split_row(plan, parts.near_key + row * settings->qk_size,
                                        parts.far_key + row * plan->far_size, k + g * settings->qk_size);
        parts.norm[g] = larger_or_nan(parts.norm[g], length);
        memcpy(parts.value + row * settings->v_size, v + g * settings->v_size, settings->v_size * sizeof(real));
    }
    for (size_t head = 0; head < settings->heads; head++)
        decode_head(plan, &parts, o + head * settings->v_size, q, head, position, scratch);
}
