// The running state of method lowrank: H (R,E) = Σ_j φ_k(j) v_jᵀ and z (R) = Σ_j φ_k(j), stored as rows [H_r, z_r].
//
// Four products of 2·R·E operations per token carry the method: absorb keys, read by queries, and in the backward
// dφ = state·[V,1]ᵀ. They run in slabs of features, so that a slab of φ and of the state stay in the first cache levels
// (attention.md, section 3; the gradient paper's low-rank products, sections 5 and 6, with monomials in place of
// Kronecker factors).
//
// With rope-decay every logit carries γ^lag: far rows are faded on their way to the state, and the state ages
// (lowrank.h).
#include <string.h>

#include "attention/lowrank.h"

enum { SLAB = 96 }; // rows of features per product

// out (count, E) = or += phiᵀ · H
static void read_values(const LowrankPlan *plan, const LowrankWork *work, real *out, size_t stride, size_t count,
                        bool accumulate) {
    for (size_t r = 0; r < plan->features.count; r += SLAB) {
        const size_t rows = plan->features.count - r < SLAB ? plan->features.count - r : SLAB;
        tile_kernels()->multiply(out, stride, work->phi + r * work->lanes, 1, work->lanes,
                                 work->state + r * plan->state_stride, plan->state_stride, count,
                                 plan->base.settings.v_size, rows, accumulate || r > 0);
    }
}

// state += phi (R, count) · [right (count, E), weightᵀ]; weight (weights, lanes) is zero beyond count
static void add_to_state(const LowrankPlan *plan, const LowrankWork *work, const real *right, const real *weight,
                         size_t weights, size_t count) {
    const size_t values = plan->base.settings.v_size;
    for (size_t r = 0; r < plan->features.count; r += SLAB) {
        const size_t rows = plan->features.count - r < SLAB ? plan->features.count - r : SLAB;
        real *slab = work->state + r * plan->state_stride;
        const real *features = work->phi + r * work->lanes;
        tile_kernels()->multiply(slab, plan->state_stride, features, work->lanes, 1, right, values, rows, values,
                                 count, true);
        for (size_t c = 0; c < weights; c++)
            feature_kernels()->row_dots(slab + values + c, plan->state_stride, features, weight + c * work->lanes, rows,
                                        work->lanes);
    }
}

// d_phi (R, lanes) = state · right_t (E+1, lanes)
static void pull_features(const LowrankPlan *plan, const LowrankWork *work) {
    tile_kernels()->multiply(work->d_phi, work->lanes, work->state, plan->state_stride, 1, work->right_t, work->lanes,
                             plan->features.count, work->lanes, plan->base.settings.v_size + 1, false);
}

// ---- rope-decay ----------------------------------------------------------------------------------------------------

void lowrank_state_age(const LowrankPlan *plan, real *state, const real *decay) {
    const Features *features = &plan->features;
    for (size_t t = 1; plan->decay && t <= features->degree; t++) // the constant row has no logit that could fade
        for (size_t r = features->degree_start[t]; r < features->degree_start[t + 1]; r++)
            for (size_t c = 0; c < plan->state_stride; c++) state[r * plan->state_stride + c] *= decay[t];
}

// Rows of the far field, (F, lanes), on their way to the state or from it: out = in · γ^lag in the first `count` lanes,
// which have the lags first_lag, first_lag + step, …, and zero in the others.
static void fade_lanes(const LowrankTask *task, real *out, const real *in, size_t first_lag, ptrdiff_t step,
                       size_t count) {
    const size_t lanes = task->work.lanes;
    const real *decay = task->plan->decay + first_lag;
    for (size_t f = 0; f < task->plan->far_size; f++, in += lanes, out += lanes) {
        for (size_t lane = 0; lane < count; lane++) out[lane] = in[lane] * decay[step * (ptrdiff_t)lane];
        memset(out + count, 0, (lanes - count) * sizeof(real));
    }
}

// The chunk's far queries as the state at its first token sees them.
static const real *queries_from_state(LowrankTask *task, size_t count) {
    if (!task->plan->decay || task->one_position) return task->work.far_query_t;
    fade_lanes(task, task->work.faded_t, task->work.far_query_t, 0, 1, count);
    return task->work.faded_t;
}

// ---- the state -----------------------------------------------------------------------------------------------------

void lowrank_state_absorb(LowrankTask *task, const real *far_key, const real *v, size_t count, size_t lag) {
    const LowrankPlan *plan = task->plan;
    LowrankWork *work = &task->work;
    if (count == 0) return;
    real *key_t = work->d_far_t, *ones = work->weight;
    lowrank_to_lanes(work->lanes, key_t, far_key, plan->far_size, count, plan->far_size);
    if (plan->decay) fade_lanes(task, key_t, key_t, lag, -1, count);
    for (size_t lane = 0; lane < work->lanes; lane++) ones[lane] = lane < count;
    feature_kernels()->build(&plan->features, plan->features.key_ratio, work->phi, key_t, work->lanes);
    add_to_state(plan, work, v, ones, 1, count);
}

void lowrank_state_read(LowrankTask *task, size_t count) {
    const LowrankPlan *plan = task->plan;
    LowrankWork *work = &task->work;
    feature_kernels()->build(&plan->features, plan->features.query_ratio, work->phi, queries_from_state(task, count),
                             work->lanes);
    read_values(plan, work, work->sum, plan->base.settings.v_size, count, false);
    feature_kernels()->combine(work->denominator, work->state + plan->base.settings.v_size, plan->state_stride,
                               work->phi, plan->features.count, work->lanes);
}

void lowrank_state_read_backward(LowrankTask *task, size_t count) {
    const LowrankPlan *plan = task->plan;
    LowrankWork *work = &task->work;
    const real *query = queries_from_state(task, count);
    real *d_query = plan->decay ? work->d_faded_t : work->d_far_t;
    feature_kernels()->build(&plan->features, plan->features.query_ratio, work->phi, query, work->lanes);
    pull_features(plan, work);
    if (plan->decay) memset(d_query, 0, plan->far_size * work->lanes * sizeof(real));
    feature_kernels()->backward(&plan->features, plan->features.query_ratio, d_query, work->d_phi, work->phi, query,
                                work->lanes);
    if (!plan->decay) return;
    fade_lanes(task, d_query, d_query, 0, 1, count);
    for (size_t i = 0; i < plan->far_size * work->lanes; i++) work->d_far_t[i] += d_query[i];
}

void lowrank_state_absorb_queries(LowrankTask *task, size_t count) {
    const LowrankPlan *plan = task->plan;
    LowrankWork *work = &task->work;
    feature_kernels()->build(&plan->features, plan->features.query_ratio, work->phi, queries_from_state(task, count),
                             work->lanes);
    add_to_state(plan, work, work->right, work->right_t + plan->base.settings.v_size * work->lanes,
                 task->certify ? 3 : 1, count);
}

void lowrank_state_read_keys(LowrankTask *task, const real *v, real *dv, size_t v_stride, real *bound, size_t count,
                             size_t lag) {
    const LowrankPlan *plan = task->plan;
    LowrankWork *work = &task->work;
    const size_t values = plan->base.settings.v_size, lanes = work->lanes;
    lowrank_to_lanes(work->lanes, work->right_t, v, v_stride, count, values);
    for (size_t lane = 0; lane < lanes; lane++) work->right_t[values * lanes + lane] = 1;
    real *key = work->far_query_t;
    if (plan->decay) fade_lanes(task, key, key, lag, -1, count);
    feature_kernels()->build(&plan->features, plan->features.key_ratio, work->phi, key, lanes);
    read_values(plan, work, dv, v_stride, count, true);
    for (size_t n = 0; task->certify && n < 2; n++) {
        feature_kernels()->combine(work->weight, work->state + values + 1 + n, plan->state_stride, work->phi,
                                   plan->features.count, lanes);
        for (size_t r = 0; r < count; r++) bound[2 * r + n] += work->weight[r];
    }
    pull_features(plan, work);
    memset(work->d_far_t, 0, plan->far_size * lanes * sizeof(real));
    feature_kernels()->backward(&plan->features, plan->features.key_ratio, work->d_far_t, work->d_phi, work->phi, key,
                                lanes);
    if (plan->decay) fade_lanes(task, work->d_far_t, work->d_far_t, lag, -1, count);
}

void lowrank_state_prefix(const LowrankPlan *plan, real *segment_state, bool from_last) {
    const size_t rows = plan->base.settings.batch * plan->base.settings.kv_heads, size = plan->state_size;
    const Features *features = &plan->features;
    for (size_t row = 0; row < rows; row++) {
        real *states = segment_state + row * plan->segments * size;
        for (size_t t = 0; plan->polynomial_far && t <= features->degree; t++) {
            const size_t first = features->degree_start[t] * plan->state_stride;
            const size_t last = features->degree_start[t + 1] * plan->state_stride;
            const real decay = plan->decay ? plan->segment_decay[t] : 1;
#pragma omp parallel for schedule(static)
            for (size_t i = first; i < last; i++) {
                real running = 0;
                for (size_t n = 0; n < plan->segments; n++) {
                    real *here = states + (from_last ? plan->segments - 1 - n : n) * size + i, total = *here;
                    *here = running;
                    running = running * decay + total;
                }
            }
        }
    }
}
