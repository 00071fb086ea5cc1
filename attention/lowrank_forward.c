// Forward of method lowrank: measure the logit bound of every head, then sweep the chunks (attention.md, section 3).
//
//     for each chunk: absorb the keys that leave the boundary block; for each query head: read the state, add the pairs
//     of the boundary block with a running maximum m, o = N/Z, and save L = m + log Z
//
// With few heads the sequence is cut into segments: their totals first, then prefix sums, then all segments at once.
#include <tgmath.h> // log in the precision of real
#include <string.h>

#include "attention/lowrank.h"

typedef struct Forward {
    const LowrankPlan *plan;
    const AttentionForward *io;
    LowrankSaved saved;
    LowrankShared shared;
} Forward;

// ---- measuring -----------------------------------------------------------------------------------------------------

static LowrankNorms *norms_at(const LowrankPlan *plan, const LowrankShared *shared, size_t batch, size_t head,
                              size_t segment) {
    const size_t heads = plan->base.settings.heads + plan->base.settings.kv_heads;
    return shared->norms + (batch * heads + head) * plan->segments + segment;
}

static void measure_task(void *context, LowrankTask *task) {
    const Forward *forward = context;
    const LowrankPlan *plan = task->plan;
    const AttentionForward *io = forward->io;
    const AttentionSettings *s = &plan->base.settings;
    const size_t row = task->batch * s->tokens;
    for (size_t m = 0; m < plan->group; m++) {
        const size_t head = task->kv_head * plan->group + m;
        real *factor = forward->saved.query_factor
                           ? forward->saved.query_factor + (task->batch * s->heads + head) * s->tokens : NULL;
        lowrank_measure(plan, norms_at(plan, &forward->shared, task->batch, head, task->segment), factor,
                        task->work.rows, io->q + row * io->q_stride + head * s->qk_size, io->q_stride, task->first,
                        task->last);
    }
    real *factor = forward->saved.key_factor
                       ? forward->saved.key_factor + (task->batch * s->kv_heads + task->kv_head) * s->tokens : NULL;
    lowrank_measure(plan, norms_at(plan, &forward->shared, task->batch, s->heads + task->kv_head, task->segment),
                    factor, task->work.rows, io->k + row * io->k_stride + task->kv_head * s->qk_size, io->k_stride,
                    task->first, task->last);
}

static LowrankNorms merge_segments(const LowrankPlan *plan, const LowrankShared *shared, size_t batch, size_t head) {
    LowrankNorms merged = {0};
    for (size_t n = 0; n < plan->segments; n++) {
        const LowrankNorms *norms = norms_at(plan, shared, batch, head, n);
        merged.far = larger_or_nan(merged.far, norms->far);
        merged.near = larger_or_nan(merged.near, norms->near);
        merged.changed += norms->changed;
    }
    return merged;
}

// Decides for every batch row and head whether the polynomial may stand in for exp.
static void decide_heads(Forward *forward) {
    const LowrankPlan *plan = forward->plan;
    const AttentionSettings *s = &plan->base.settings;
    for (size_t b = 0; b < s->batch; b++)
        for (size_t h = 0; h < s->heads; h++) {
            if (forward->io->active && !forward->io->active[h / plan->group]) continue;
            LowrankHead *head = &forward->saved.head[b * s->heads + h];
            const LowrankNorms query = merge_segments(plan, &forward->shared, b, h);
            const LowrankNorms key = merge_segments(plan, &forward->shared, b, s->heads + h / plan->group);
            const double units = 2 * (double)bound_units(plan->far_bound, s->tokens, plan->far_size);
            head->measured = s->logit_scale * sqrt(query.far * key.far);
            head->clipped = units > 0 ? (query.changed + key.changed) / units : 0;
            const bool inside = s->polynomial == POLYNOMIAL_POWER ||
                                head->measured * (1 + 64 * REAL_EPSILON) <= plan->polynomial.interval;
            head->exact_far = plan->far_field && !(plan->polynomial_far && inside); // NaN: exact
            head->facts = (CertificateFacts){
                .far_query = sqrt(query.far), .far_key = sqrt(key.far), .near_query = sqrt(query.near),
                .near_key = sqrt(key.near),
            };
        }
}

static void fill_report(const Forward *forward) {
    const LowrankPlan *plan = forward->plan;
    const AttentionSettings *s = &plan->base.settings;
    const AttentionReport *report = forward->io->report;
    if (!report) return;
    for (size_t h = 0; h < s->heads; h++) {
        if (forward->io->active && !forward->io->active[h / plan->group]) continue;
        double measured = 0, clipped = 0, fell_back = 0;
        for (size_t b = 0; b < s->batch; b++) {
            const LowrankHead *head = &forward->saved.head[b * s->heads + h];
            measured = larger_or_nan(measured, head->measured);
            clipped += head->clipped / (double)s->batch;
            fell_back += head->exact_far && plan->polynomial_far;
        }
        if (report->logit_bound) report->logit_bound[h] = measured;
        if (report->clipped) report->clipped[h] = clipped;
        if (report->fell_back) report->fell_back[h] = fell_back;
    }
}

// ---- states at the starts of segments ------------------------------------------------------------------------------

typedef struct SegmentTotals {
    const LowrankSaved *saved;
    const real *k, *v;
    size_t k_stride, v_stride;
    real *segment_state;
} SegmentTotals;

bool lowrank_uses_state(const LowrankTask *task, const LowrankHead *heads) {
    const LowrankPlan *plan = task->plan;
    if (!plan->polynomial_far || plan->all_pairs) return false;
    for (size_t m = 0; m < plan->group; m++)
        if (!heads[task->batch * plan->base.settings.heads + task->kv_head * plan->group + m].exact_far) return true;
    return false;
}

static void total_task(void *context, LowrankTask *task) {
    const SegmentTotals *totals = context;
    const LowrankPlan *plan = task->plan;
    const AttentionSettings *s = &plan->base.settings;
    const size_t row = task->batch * s->tokens;
    const real *k = totals->k + row * totals->k_stride + task->kv_head * s->qk_size;
    const real *v = totals->v + row * totals->v_stride + task->kv_head * s->v_size;
    task->work.state = totals->segment_state +
                       lowrank_state_index(plan, task->batch, task->kv_head, task->segment) * plan->state_size;
    memset(task->work.state, 0, plan->state_size * sizeof(real));
    if (task->last == s->tokens || !lowrank_uses_state(task, totals->saved->head)) return; // the last one is not needed
    for (size_t at = task->first; at < task->last; at += plan->chunk) {
        const size_t first = lowrank_block_first(plan, at), count = lowrank_far_end(plan, at) - first;
        lowrank_state_age(plan, task->work.state, plan->chunk_decay);
        if (count == 0) continue;
        lowrank_far_rows(plan, task->work.far_query, task->work.rows, k + first * totals->k_stride, totals->k_stride,
                         lowrank_key_factor(totals->saved, task), first, count);
        lowrank_pack(task->work.right, v + first * totals->v_stride, totals->v_stride, count, s->v_size);
        lowrank_state_absorb(task, task->work.far_query, task->work.right, count, at - first);
    }
}

void lowrank_segment_states(const LowrankPlan *plan, const LowrankSaved *saved, const bool *active, const real *k,
                            size_t k_stride, const real *v, size_t v_stride, void *scratch) {
    if (plan->segments == 1 || !plan->polynomial_far) return;
    const LowrankShared shared = lowrank_shared_at(plan, scratch, NULL);
    SegmentTotals totals = {saved, k, v, k_stride, v_stride, shared.segment_state};
    lowrank_each_task(plan, scratch, active, plan->segments, total_task, &totals);
    lowrank_state_prefix(plan, shared.segment_state, false);
}

// ---- the sweep -----------------------------------------------------------------------------------------------------

// Numerator, denominator and maximum before the first pair: what the state says, relative to exp(0).
static void start_sums(LowrankTask *task, const LowrankHead *head, size_t chunk_first, size_t count) {
    const LowrankPlan *plan = task->plan;
    LowrankWork *work = &task->work;
    const bool state = plan->far_field && !head->exact_far;
    for (size_t lane = 0; lane < plan->lanes; lane++)
        work->largest[lane] = state && chunk_first + lane >= plan->near ? 0 : LOWRANK_NO_MAXIMUM;
    if (state && lowrank_far_end(plan, chunk_first) > 0) {
        lowrank_state_read(task, count);
    } else {
        memset(work->sum, 0, plan->lanes * plan->base.settings.v_size * sizeof(real));
        memset(work->denominator, 0, plan->lanes * sizeof(real));
    }
    memcpy(work->far_sum, work->denominator, plan->lanes * sizeof(real));
}

static void finish_sums(LowrankTask *task, real *o, size_t o_stride, real *log_sum, real *far_share, size_t count) {
    const LowrankPlan *plan = task->plan;
    LowrankWork *work = &task->work;
    const size_t values = plan->base.settings.v_size;
    for (size_t lane = 0; lane < plan->lanes; lane++) {
        work->rescale[lane] = lane < count ? 1 / work->denominator[lane] : 0;
        if (lane >= count) continue;
        log_sum[lane] = work->largest[lane] + log(work->denominator[lane]);
        far_share[lane] = work->far_sum[lane] * work->rescale[lane];
    }
    lowrank_kernels()->scale_rows(o, o_stride, work->sum, values, work->rescale, count, values);
}

static void forward_task(void *context, LowrankTask *task) {
    const Forward *forward = context;
    const LowrankPlan *plan = task->plan;
    const AttentionForward *io = forward->io;
    const AttentionSettings *s = &plan->base.settings;
    const size_t row = task->batch * s->tokens, far = plan->far_size;
    const real *k = io->k + row * io->k_stride + task->kv_head * s->qk_size;
    const real *v = io->v + row * io->v_stride + task->kv_head * s->v_size;
    const bool state = lowrank_uses_state(task, forward->saved.head);
    task->key_factor = lowrank_key_factor(&forward->saved, task);
    if (plan->segments > 1)
        task->work.state = forward->shared.segment_state +
                           lowrank_state_index(plan, task->batch, task->kv_head, task->segment) * plan->state_size;
    else
        memset(task->work.state, 0, plan->state_size * sizeof(real));
    for (size_t at = task->first; at < task->last; at += plan->chunk) {
        const size_t count = task->last - at < plan->chunk ? task->last - at : plan->chunk;
        const size_t block = lowrank_block_first(plan, at);
        lowrank_window_advance(task, k, io->k_stride, v, io->v_stride, at, false);
        lowrank_prefetch(plan, k, io->k_stride, s->qk_size, at + plan->chunk);
        lowrank_prefetch(plan, v, io->v_stride, s->v_size, at + plan->chunk);
        if (state) {
            lowrank_state_age(plan, task->work.state, plan->chunk_decay);
            lowrank_state_absorb(task, task->work.far_key + (block - task->window_first) * far,
                                 lowrank_window_values(task, block), lowrank_far_end(plan, at) - block, at - block);
        }
        for (size_t m = 0; m < plan->group; m++) {
            const size_t h = task->kv_head * plan->group + m, index = task->batch * s->heads + h;
            const real *q = io->q + row * io->q_stride + h * s->qk_size;
            lowrank_near_queries(task, q, io->q_stride, at, count);
            if (plan->far_field)
                lowrank_far_queries(task, q, io->q_stride, forward->saved.query_factor + index * s->tokens, at, count);
            lowrank_prefetch(plan, q, io->q_stride, s->qk_size, at + plan->chunk);
            lowrank_prefetch(plan, io->o + row * io->o_stride + h * s->v_size, io->o_stride, s->v_size, at);
            start_sums(task, &forward->saved.head[index], at, count);
            lowrank_pairs_forward(task, &forward->saved.head[index], k, io->k_stride, v, io->v_stride, at, count);
            real *o = io->o + (row + at) * io->o_stride + h * s->v_size;
            finish_sums(task, o, io->o_stride,
                        forward->saved.log_sum + index * s->tokens + at,
                        forward->saved.far_share + index * s->tokens + at, count);
            if (io->report && io->report->output_bound)
                lowrank_certify_output(task, &forward->saved, &forward->shared, o, io->o_stride, h,
                                       forward->shared.bounds + index * plan->segments + task->segment, at, count);
        }
    }
}

void lowrank_measure_logits(const AttentionPlan *base, const AttentionForward *io, double *measured) {
    const LowrankPlan *plan = (const LowrankPlan *)base;
    const AttentionSettings *s = &base->settings;
    Forward forward = {plan, io, {0}, lowrank_shared_at(plan, io->scratch, NULL)};
    lowrank_each_task(plan, io->scratch, io->active, plan->segments, measure_task, &forward);
    for (size_t row = 0; row < s->batch * s->heads; row++) {
        const size_t b = row / s->heads, h = row % s->heads, g = h / plan->group;
        if (io->active && !io->active[g]) continue;
        const double query = merge_segments(plan, &forward.shared, b, h).far;
        measured[row] = s->logit_scale * sqrt(query * merge_segments(plan, &forward.shared, b, s->heads + g).far);
    }
}

void lowrank_forward(const AttentionPlan *base, const AttentionForward *io) {
    const LowrankPlan *plan = (const LowrankPlan *)base;
    Forward forward = {plan, io, lowrank_saved_at(plan, io->saved, NULL), lowrank_shared_at(plan, io->scratch, NULL)};
    lowrank_each_task(plan, io->scratch, io->active, plan->segments, measure_task, &forward);
    decide_heads(&forward);
    if (io->report && io->report->output_bound)
        lowrank_certificates(plan, &forward.saved, io->active, io->v, io->v_stride, io->scratch);
    lowrank_segment_states(plan, &forward.saved, io->active, io->k, io->k_stride, io->v, io->v_stride, io->scratch);
    lowrank_each_task(plan, io->scratch, io->active, plan->segments, forward_task, &forward);
    fill_report(&forward);
    if (io->report) lowrank_report_output(plan, &forward.shared, io->active, io->report);
}
