// Method `auto`: softmax attention, only faster where that is proven. For every key/value head and step it takes the
// cheapest of `exact` and `lowrank` at several degrees and intervals whose certified error is within `tolerance`.
//
//     certified   |ô - o| ≤ κ(Λ̂)·(range of v), κ = sup |1 - e^x/P| over the measured |x| ≤ Λ̂   (certificate.c)
//     cost        operations of forward and backward (attention.md, section 5) times calibrated seconds per GFLOP
//
// Both functions must be the same softmax: so all dimensions are in the far field, and where q and k are bounded they
// are bounded nearby too. The choice depends on norms and costs alone. Decoding is exact's.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attention/lowrank.h"
#include "core/clock.h"

enum { INTERVALS = 4, CALIBRATION_TOKENS = 512 };

typedef struct Candidate {
    AttentionPlan *plan;
    double cost;        // seconds per step
    double largest;     // Λ̂ up to which κ is within the tolerance
} Candidate;

typedef struct AutoPlan {
    AttentionPlan base;
    Candidate exact;
    Candidate candidate[POLYNOMIAL_MAX_DEGREE]; // lowrank, cheapest first, each next reaching further; one per degree
    size_t count;
    size_t group;
} AutoPlan;

// ---- costs ---------------------------------------------------------------------------------------------------------

// Seconds per GFLOP of one method's forward on a small problem with these head sizes: the best of a few runs.
static double calibrate(const AttentionMethod *method, const AttentionSettings *settings) {
    AttentionSettings s = *settings;
    s.batch = 1, s.heads = s.kv_heads = 1, s.degree = s.degree < 2 ? s.degree : 2;
    if (s.tokens > CALIBRATION_TOKENS) s.tokens = CALIBRATION_TOKENS;
    AttentionPlan *plan = attention_create(method, &s, NULL);
    if (!plan) return 0.1;
    const AttentionNeeds needs = attention_needs(plan);
    const size_t q = s.tokens * s.qk_size, v = s.tokens * s.v_size, count = 2 * q + 2 * v;
    real *values = calloc(count, sizeof(real));
    void *saved = aligned_alloc(ARENA_ALIGNMENT, (needs.saved_bytes / ARENA_ALIGNMENT + 1) * ARENA_ALIGNMENT);
    void *scratch = aligned_alloc(ARENA_ALIGNMENT, (needs.scratch_bytes / ARENA_ALIGNMENT + 1) * ARENA_ALIGNMENT);
    double best = INFINITY;
    for (int run = 0; values && saved && scratch && run < 4; run++) {
        const double start = clock_seconds();
        attention_forward(plan, &(AttentionForward){
            .q = values, .k = values + q, .v = values + 2 * q, .o = values + 2 * q + v, .q_stride = s.qk_size,
            .k_stride = s.qk_size, .v_stride = s.v_size, .o_stride = s.v_size, .saved = saved, .scratch = scratch});
        best = fmin(best, clock_seconds() - start);
    }
    free(values);
    free(saved);
    free(scratch);
    attention_destroy(plan);
    return isfinite(best) && best > 0 ? best / (needs.forward_flops * 1e-9) : 0.1;
}

static double cost_of(const AttentionPlan *plan, double seconds_per_gflop) {
    return (plan->needs.forward_flops + plan->needs.backward_flops) * 1e-9 * seconds_per_gflop;
}

// ---- creation ------------------------------------------------------------------------------------------------------

// Largest Λ̂ on the polynomial's grid at which κ is within the tolerance; 0 if none.
static double largest_within(const Polynomial *p, double tolerance) {
    size_t cells = 0;
    for (; cells < POLYNOMIAL_CELLS; cells++) {
        const double below = p->below[cells], error = p->error[cells];
        if (!(below < 1 && fmax(below / (1 - below), error / (1 + error)) <= tolerance)) break;
    }
    return p->interval * (double)cells / POLYNOMIAL_CELLS / (1 + 128 * REAL_EPSILON);
}

// Whether b is never chosen where there is a: it costs no less and reaches no further.
static bool makes_needless(const Candidate *a, const Candidate *b) {
    return a->cost <= b->cost && a->largest >= b->largest;
}

static void add_candidate(AutoPlan *plan, size_t degree, double interval) {
    AttentionSettings settings = plan->base.settings;
    settings.degree = degree;
    AttentionPlan *made = lowrank_create(&settings, interval, exact_position(plan->exact.plan), NULL);
    if (!made) return; // what does not fit is no candidate
    const Candidate candidate = {made, cost_of(made, settings.cost_lowrank),
                                 largest_within(&((LowrankPlan *)made)->polynomial, settings.tolerance)};
    bool needless = candidate.largest <= 0 || candidate.cost >= plan->exact.cost;
    for (size_t i = 0; i < plan->count; i++) needless |= makes_needless(&plan->candidate[i], &candidate);
    if (needless) {
        attention_destroy(made);
        return;
    }
    size_t kept = 0;
    for (size_t i = 0; i < plan->count; i++)
        if (makes_needless(&candidate, &plan->candidate[i]))
            attention_destroy(plan->candidate[i].plan);
        else
            plan->candidate[kept++] = plan->candidate[i];
    for (plan->count = kept + 1; kept > 0 && plan->candidate[kept - 1].cost > candidate.cost; kept--)
        plan->candidate[kept] = plan->candidate[kept - 1];
    plan->candidate[kept] = candidate;
}

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

static size_t aligned(size_t bytes) { return (bytes + ARENA_ALIGNMENT - 1) / ARENA_ALIGNMENT * ARENA_ALIGNMENT; }

// saved: which candidate each key/value head took, exact's, and one region for all lowrank plans, whose layout does not
// depend on degree or interval and whose heads are disjoint.
static size_t choice_bytes(const AutoPlan *plan) { return aligned(plan->base.settings.kv_heads * sizeof(size_t)); }

static size_t norm_bytes(const AutoPlan *plan) {
    const AttentionSettings *s = &plan->base.settings;
    return aligned(s->batch * s->heads * sizeof(double)) + aligned(s->kv_heads * sizeof(bool));
}

static void fill_needs(AutoPlan *plan) {
    AttentionNeeds *needs = &plan->base.needs;
    *needs = plan->exact.plan->needs;
    const size_t exact_saved = aligned(needs->saved_bytes);
    for (size_t i = 0; i < plan->count; i++) {
        const AttentionNeeds *other = &plan->candidate[i].plan->needs;
        needs->scratch_bytes = larger(needs->scratch_bytes, other->scratch_bytes);
        needs->state_bytes = larger(needs->state_bytes, other->state_bytes);
        needs->features = larger(needs->features, other->features);
        needs->plan_bytes += other->plan_bytes;
        needs->saved_bytes = larger(needs->saved_bytes, exact_saved + other->saved_bytes);
    }
    needs->saved_bytes += choice_bytes(plan);
    needs->scratch_bytes += norm_bytes(plan);
}

static void destroy(AttentionPlan *base) {
    AutoPlan *plan = (AutoPlan *)base;
    for (size_t i = 0; i < plan->count; i++) attention_destroy(plan->candidate[i].plan); // they read exact's tables
    attention_destroy(plan->exact.plan);
    free(plan);
}

static AttentionPlan *create(const AttentionSettings *settings, Error *error) {
    AutoPlan *plan = calloc(1, sizeof *plan);
    if (!plan) {
        error_set(error, ERROR_MEMORY, "There is no memory for an attention plan.");
        return NULL;
    }
    AttentionSettings *s = &plan->base.settings;
    *s = *settings;
    s->far_size = 0;
    s->far = FAR_POLYNOMIAL;
    if (s->bound != BOUND_NONE) s->near_bound = NEAR_BOUND_SAME;
    plan->group = s->heads / s->kv_heads;
    plan->exact.plan = attention_create(&attention_exact, s, error);
    if (!plan->exact.plan) {
        free(plan);
        return NULL;
    }
    if (s->cost_exact <= 0) s->cost_exact = calibrate(&attention_exact, s);
    if (s->cost_lowrank <= 0) s->cost_lowrank = calibrate(&attention_lowrank, s);
    plan->exact.cost = cost_of(plan->exact.plan, s->cost_exact);
    plan->exact.largest = INFINITY;
    for (size_t degree = 1; degree <= s->degree && degree <= POLYNOMIAL_MAX_DEGREE; degree++) {
        if (s->polynomial == POLYNOMIAL_POWER) break; // carries no certificate
        // q and k are bounded as the settings say, whatever the interval: only the measured logits must be inside
        double interval = bound_interval(s, 1);
        for (size_t i = 0; i < INTERVALS; i++, interval /= 2) add_candidate(plan, degree, interval);
    }
    fill_needs(plan);
    return &plan->base;
}

// ---- running -------------------------------------------------------------------------------------------------------

typedef struct Memory {
    size_t *choice; // (G) index of a candidate; plan->count: exact
    void *exact_saved, *lowrank_saved;
    double *measured; // (B,H)
    bool *active;     // (G)
    void *scratch;
} Memory;

static Memory memory_at(const AutoPlan *plan, const void *saved, void *scratch) {
    const AttentionSettings *s = &plan->base.settings;
    unsigned char *kept = (unsigned char *)saved, *work = scratch;
    return (Memory){
        .choice = (size_t *)kept, .exact_saved = kept + choice_bytes(plan),
        .lowrank_saved = kept + choice_bytes(plan) + aligned(plan->exact.plan->needs.saved_bytes),
        .measured = (double *)work, .active = (bool *)(work + aligned(s->batch * s->heads * sizeof(double))),
        .scratch = work + norm_bytes(plan),
    };
}

static void choose(const AutoPlan *plan, const AttentionForward *io, const Memory *memory) {
    const AttentionSettings *s = &plan->base.settings;
    if (plan->count > 0) {
        AttentionForward inner = *io;
        inner.scratch = memory->scratch;
        lowrank_measure_logits(plan->candidate[0].plan, &inner, memory->measured);
    }
    for (size_t g = 0; g < s->kv_heads; g++) {
        if (io->active && !io->active[g]) continue;
        double most = 0;
        for (size_t row = 0; plan->count > 0 && row < s->batch * plan->group; row++) {
            const double here = memory->measured[row / plan->group * s->heads + g * plan->group + row % plan->group];
            most = larger_or_nan(most, here); // NaN is within nothing
        }
        size_t best = 0;
        while (best < plan->count && !(most <= plan->candidate[best].largest)) best++;
        memory->choice[g] = best;
    }
}

// Marks the key/value heads that took choice `index`; false if there are none.
static bool heads_of(const AutoPlan *plan, const Memory *memory, const bool *active, size_t index) {
    bool any = false;
    for (size_t g = 0; g < plan->base.settings.kv_heads; g++) {
        memory->active[g] = (!active || active[g]) && memory->choice[g] == index;
        any |= memory->active[g];
    }
    return any;
}

static void forward(const AttentionPlan *base, const AttentionForward *io) {
    const AutoPlan *plan = (const AutoPlan *)base;
    const Memory memory = memory_at(plan, io->saved, io->scratch);
    choose(plan, io, &memory);
    for (size_t i = 0; i <= plan->count; i++) {
        if (!heads_of(plan, &memory, io->active, i)) continue;
        AttentionForward inner = *io;
        inner.active = memory.active;
        inner.scratch = memory.scratch;
        inner.saved = i < plan->count ? memory.lowrank_saved : memory.exact_saved;
        attention_forward(i < plan->count ? plan->candidate[i].plan : plan->exact.plan, &inner);
    }
}

static void backward(const AttentionPlan *base, const AttentionBackward *io) {
    const AutoPlan *plan = (const AutoPlan *)base;
    const Memory memory = memory_at(plan, io->saved, io->scratch);
    for (size_t i = 0; i <= plan->count; i++) {
        if (!heads_of(plan, &memory, io->active, i)) continue;
        AttentionBackward inner = *io;
        inner.active = memory.active;
        inner.scratch = memory.scratch;
        inner.saved = i < plan->count ? memory.lowrank_saved : memory.exact_saved;
        attention_backward(i < plan->count ? plan->candidate[i].plan : plan->exact.plan, &inner);
    }
}

static void decode_begin(const AttentionPlan *base, void *state) {
    attention_decode_begin(((const AutoPlan *)base)->exact.plan, state);
}

static void decode(const AttentionPlan *base, void *state, real *o, const real *q, const real *k, const real *v,
                   size_t position, void *scratch) {
    attention_decode(((const AutoPlan *)base)->exact.plan, state, o, q, k, v, position, scratch);
}

static void explain(const AttentionPlan *base, char *text, size_t size) {
    const AutoPlan *plan = (const AutoPlan *)base;
    int used = snprintf(text, size, "auto: exact %.4g s", plan->exact.cost);
    for (size_t i = 0; i < plan->count && used > 0 && (size_t)used < size; i++) {
        const LowrankPlan *lowrank = (const LowrankPlan *)plan->candidate[i].plan;
        used += snprintf(text + used, size - (size_t)used, "; degree %zu %.4g s for |logit| <= %.3g",
                         lowrank->features.degree, plan->candidate[i].cost, plan->candidate[i].largest);
    }
    if (used > 0 && (size_t)used < size)
        snprintf(text + used, size - (size_t)used, plan->count ? " (error within %g of the range of v)"
                 : "; no polynomial is cheaper within %g", base->settings.tolerance);
}

const AttentionMethod attention_auto = {
    .name = "auto",
    .summary = "per head and step the cheapest of exact and lowrank whose certified error is within tolerance",
    .create = create,
    .forward = forward,
    .backward = backward,
    .decode_begin = decode_begin,
    .decode = decode,
    .explain = explain,
    .destroy = destroy,
};
