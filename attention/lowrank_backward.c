// Backward of method lowrank: the exact gradient of what forward computed, from the same states (attention.md, section
// 3; the gradient paper's γ, sections 4 to 6). With dN_i = do_i/Z_i and dZ_i = -(do_i·o_i)/Z_i:
//
//     forward sweep    dφ_q = [dN,dZ] [H,z]ᵀ with the states rebuilt, and the pairs of the boundary block: all of dq,
//                      and their share of dk, dv
//     reverse sweep    dH += φ_qᵀ[dN,dZ];  dv += dH φ_k,  dφ_k = [V,1] dHᵀ:  the state's share of dk, dv
//
// then heads whose far field was exact add their earlier pairs. Memory O(T), independent of R. A segment's first pairs
// reach keys of the segment before: those gradients spill into a buffer that is added when all segments are done.
#include <string.h>

#include "attention/lowrank.h"

typedef struct Backward {
    const AttentionBackward *io;
    bool certify;
    LowrankSaved saved;
    LowrankShared shared;
} Backward;

// Where a task's rows are.
typedef struct Rows {
    const real *k, *v;
    real *dk, *dv;
} Rows;

static Rows task_rows(const LowrankTask *task, const AttentionBackward *io) {
    const AttentionSettings *s = &task->plan->base.settings;
    const size_t k = task->batch * s->tokens * io->k_stride + task->kv_head * s->qk_size;
    const size_t v = task->batch * s->tokens * io->v_stride + task->kv_head * s->v_size;
    return (Rows){io->k + k, io->v + v, io->dk + k, io->dv + v};
}

typedef struct Query {
    const LowrankHead *head;
    const real *q, *d_o, *o; // first row of the batch row
    real *dq;
    const real *log_sum;     // (T)
    const real *factor;      // (T)
    real *delta;             // (T)
} Query;

static Query query_rows(const LowrankTask *task, const Backward *backward, size_t member) {
    const AttentionSettings *s = &task->plan->base.settings;
    const AttentionBackward *io = backward->io;
    const size_t h = task->kv_head * task->plan->group + member, index = task->batch * s->heads + h;
    const size_t q = task->batch * s->tokens * io->q_stride + h * s->qk_size;
    const size_t o = task->batch * s->tokens * io->o_stride + h * s->v_size;
    return (Query){backward->saved.head + index, io->q + q, io->d_o + o, io->o + o, io->dq + q,
                   backward->saved.log_sum + index * s->tokens, backward->saved.query_factor + index * s->tokens,
                   backward->shared.delta + index * s->tokens};
}

static size_t chunk_count(const LowrankTask *task, size_t chunk_first) {
    return task->last - chunk_first < task->plan->chunk ? task->last - chunk_first : task->plan->chunk;
}

static size_t task_chunks(const LowrankTask *task) {
    return (task->last - task->first + task->plan->chunk - 1) / task->plan->chunk;
}

// log_sum L, weight exp(-L) and delta do·o of the chunk's queries in lanes, zero in those beyond count. L = +Inf would
// make all weights 0: delta says so.
static void load_lanes(LowrankTask *task, const Query *query, size_t chunk_first, size_t count) {
    LowrankWork *work = &task->work;
    const size_t lanes = task->plan->lanes;
    memset(work->log_sum, 0, lanes * sizeof(real));
    memset(work->delta, 0, lanes * sizeof(real));
    memcpy(work->log_sum, query->log_sum + chunk_first, count * sizeof(real));
    for (size_t lane = 0; lane < count; lane++)
        work->delta[lane] = query->delta[chunk_first + lane] + real_zero_if_finite(work->log_sum[lane]);
    lowrank_kernels()->exp_negative(work->weight, work->log_sum, lanes);
    memset(work->weight + count, 0, (lanes - count) * sizeof(real));
}

// Row E of right_t: dZ.
static void denominator_gradient(LowrankTask *task) {
    LowrankWork *work = &task->work;
    real *row = work->right_t + task->plan->base.settings.v_size * task->plan->lanes;
    for (size_t lane = 0; lane < task->plan->lanes; lane++) row[lane] = -work->delta[lane] * work->weight[lane];
}

// Rows E+1 and E+2 of right_t: what the queries may add to the errors of dk and dv, per e^{-L}-scaled weight.
static void certificate_columns(LowrankTask *task, const LowrankShared *shared, size_t member, size_t chunk_first,
                                size_t count) {
    const LowrankPlan *plan = task->plan;
    const size_t h = task->kv_head * plan->group + member;
    const size_t at = (task->batch * plan->base.settings.heads + h) * plan->base.settings.tokens + chunk_first;
    real *dk = task->work.right_t + (plan->base.settings.v_size + 1) * plan->lanes, *dv = dk + plan->lanes;
    for (size_t lane = 0; lane < plan->lanes; lane++) {
        dk[lane] = lane < count ? shared->far_dk[at + lane] * task->work.weight[lane] : 0;
        dv[lane] = lane < count ? shared->far_dv[at + lane] * task->work.weight[lane] : 0;
    }
}

// ---- forward sweep -------------------------------------------------------------------------------------------------

// right = do, right_t = doᵀ, and do·o for everybody who needs it later.
static void load_output_gradient(LowrankTask *task, const Query *query, size_t o_stride, size_t chunk_first,
                                 size_t count) {
    const LowrankPlan *plan = task->plan;
    LowrankWork *work = &task->work;
    const size_t values = plan->base.settings.v_size, at = chunk_first * o_stride;
    lowrank_kernels()->row_dots(query->delta + chunk_first, query->o + at, query->d_o + at, o_stride, count, values);
    lowrank_pack(work->right, query->d_o + at, o_stride, count, values);
    lowrank_to_lanes(work->lanes, work->right_t, work->right, values, count, values);
    load_lanes(task, query, chunk_first, count);
}

static void write_query_gradient(LowrankTask *task, const Query *query, size_t q_stride, size_t chunk_first,
                                 size_t count) {
    const LowrankPlan *plan = task->plan;
    LowrankWork *work = &task->work;
    const size_t far = plan->far_size, at = chunk_first * q_stride;
    tile_kernels()->transpose(work->far_query, far, work->d_far_t, plan->lanes, far, count);
    lowrank_rows_backward(plan, query->dq + at, q_stride, false, work->d_near,
                          (real)plan->base.settings.logit_scale, plan->far_field ? work->far_query : NULL, work->rows,
                          query->q + at, q_stride, query->factor, chunk_first, count);
}

static void sweep_queries(LowrankTask *task, const Backward *backward, size_t member, size_t chunk_first) {
    const LowrankPlan *plan = task->plan;
    const AttentionBackward *io = backward->io;
    LowrankWork *work = &task->work;
    const size_t count = chunk_count(task, chunk_first), values = plan->base.settings.v_size;
    const Query query = query_rows(task, backward, member);
    lowrank_near_queries(task, query.q, io->q_stride, chunk_first, count);
    if (plan->far_field) lowrank_far_queries(task, query.q, io->q_stride, query.factor, chunk_first, count);
    load_output_gradient(task, &query, io->o_stride, chunk_first, count);
    lowrank_prefetch(plan, query.q, io->q_stride, plan->base.settings.qk_size, chunk_first + plan->chunk);
    lowrank_prefetch(plan, query.dq, io->q_stride, plan->base.settings.qk_size, chunk_first);
    lowrank_prefetch(plan, query.o, io->o_stride, values, chunk_first + plan->chunk);
    lowrank_prefetch(plan, query.d_o, io->o_stride, values, chunk_first + plan->chunk);
    if (task->certify) {
        const size_t h = task->kv_head * plan->group + member, row = task->batch * plan->base.settings.heads + h;
        lowrank_certify_gradient(task, &backward->saved, &backward->shared, h,
                                 backward->shared.bounds + row * plan->segments + task->segment, chunk_first, count);
    }
    memset(work->d_near, 0, plan->base.settings.qk_size * plan->lanes * sizeof(real));
    memset(work->d_far_t, 0, plan->far_size * plan->lanes * sizeof(real));
    lowrank_pairs_backward(task, query.head, chunk_first, count);
    if (plan->far_field && !query.head->exact_far && lowrank_far_end(plan, chunk_first) > 0) {
        lowrank_kernels()->scale_lanes(work->right_t, plan->lanes, work->weight, values, plan->lanes);
        denominator_gradient(task);
        lowrank_state_read_backward(task, count);
    }
    write_query_gradient(task, &query, io->q_stride, chunk_first, count);
}

static real *spill_at(const LowrankPlan *plan, const LowrankShared *shared, const LowrankTask *task, size_t segment) {
    const size_t row = plan->base.settings.qk_size + plan->base.settings.v_size + 2;
    return shared->spill + lowrank_state_index(plan, task->batch, task->kv_head, segment) * plan->near * row;
}

// Certificates of dk and dv of the task's keys, two per token.
static real *key_bound_at(const LowrankPlan *plan, const LowrankShared *shared, const LowrankTask *task) {
    const AttentionSettings *s = &plan->base.settings;
    return shared->key_bound + (task->batch * s->kv_heads + task->kv_head) * s->tokens * 2;
}

// Writes the finished gradients of the window's keys [first, last): to the spill if they belong to another segment.
static void flush_keys(LowrankTask *task, const Backward *backward, const Rows *rows, size_t first, size_t last) {
    const LowrankPlan *plan = task->plan;
    const AttentionBackward *io = backward->io;
    const size_t size = plan->base.settings.qk_size, values = plan->base.settings.v_size, far = plan->far_size;
    if (first < task->first && last > task->first) {
        flush_keys(task, backward, rows, first, task->first);
        first = task->first;
    }
    if (first >= last) return;
    LowrankWork *work = &task->work;
    const size_t at = first - task->window_first, count = last - first;
    real *dk = rows->dk + first * io->k_stride, *dv = rows->dv + first * io->v_stride;
    real *bound = key_bound_at(plan, &backward->shared, task) + first * 2;
    size_t k_stride = io->k_stride, v_stride = io->v_stride, bound_stride = 2;
    if (first < task->first) {
        k_stride = v_stride = bound_stride = size + values + 2;
        dk = spill_at(plan, &backward->shared, task, task->segment) +
             (first - lowrank_far_end(plan, task->first)) * k_stride;
        dv = dk + size;
        bound = dv + values;
    }
    lowrank_rows_backward(plan, dk, k_stride, false, work->d_near_key + at * size, 1,
                          plan->far_field ? work->d_far_key + at * far : NULL, work->rows,
                          rows->k + first * io->k_stride, io->k_stride, task->key_factor, first, count);
    for (size_t r = 0; r < count; r++)
        memcpy(dv + r * v_stride, work->d_value + (at + r) * values, values * sizeof(real));
    for (size_t r = 0; task->certify && r < count; r++)
        memcpy(bound + r * bound_stride, work->key_bound + (at + r) * 2, 2 * sizeof(real));
}

static void start_state(LowrankTask *task, const LowrankShared *shared) {
    const LowrankPlan *plan = task->plan;
    if (plan->segments > 1)
        task->work.state = shared->segment_state +
                           lowrank_state_index(plan, task->batch, task->kv_head, task->segment) * plan->state_size;
    else
        memset(task->work.state, 0, plan->state_size * sizeof(real));
}

static void forward_sweep(void *context, LowrankTask *task) {
    const Backward *backward = context;
    const LowrankPlan *plan = task->plan;
    const AttentionBackward *io = backward->io;
    const Rows rows = task_rows(task, io);
    const bool state = lowrank_uses_state(task, backward->saved.head);
    task->certify = backward->certify;
    task->key_factor = lowrank_key_factor(&backward->saved, task);
    start_state(task, &backward->shared);
    for (size_t at = task->first; at < task->last; at += plan->chunk) {
        const size_t block = lowrank_block_first(plan, at), boundary = lowrank_far_end(plan, at);
        lowrank_window_advance(task, rows.k, io->k_stride, rows.v, io->v_stride, at, true);
        lowrank_prefetch(plan, rows.k, io->k_stride, plan->base.settings.qk_size, at + plan->chunk);
        lowrank_prefetch(plan, rows.v, io->v_stride, plan->base.settings.v_size, at + plan->chunk);
        lowrank_prefetch(plan, rows.dk, io->k_stride, plan->base.settings.qk_size, boundary);
        lowrank_prefetch(plan, rows.dv, io->v_stride, plan->base.settings.v_size, boundary);
        if (state) {
            lowrank_state_age(plan, task->work.state, plan->chunk_decay);
            lowrank_state_absorb(task, task->work.far_key + (block - task->window_first) * plan->far_size,
                                 lowrank_window_values(task, block), boundary - block, at - block);
        }
        for (size_t m = 0; m < plan->group; m++) sweep_queries(task, backward, m, at);
        // keys that no later chunk of this segment pairs with; with near = 0 the boundary is one past the chunk's first
        const size_t next = at + plan->chunk, kept = next < task->last ? lowrank_far_end(plan, next) : task->last;
        flush_keys(task, backward, &rows, boundary < at ? boundary : at, kept < next ? kept : next);
    }
}

// ---- spills --------------------------------------------------------------------------------------------------------

static void add_spills(void *context, LowrankTask *task) {
    const Backward *backward = context;
    const LowrankPlan *plan = task->plan;
    const size_t size = plan->base.settings.qk_size, values = plan->base.settings.v_size;
    const Rows rows = task_rows(task, backward->io);
    for (size_t n = 1; n < plan->segments; n++) {
        const real *spill = spill_at(plan, &backward->shared, task, n);
        const size_t end = n * plan->segment_tokens;
        for (size_t key = lowrank_far_end(plan, end); key < end; key++, spill += size + values + 2) {
            real *dk = rows.dk + key * backward->io->k_stride, *dv = rows.dv + key * backward->io->v_stride;
            for (size_t a = 0; a < size; a++) dk[a] += spill[a];
            for (size_t e = 0; e < values; e++) dv[e] += spill[size + e];
            real *bound = key_bound_at(plan, &backward->shared, task) + key * 2;
            for (size_t c = 0; backward->certify && c < 2; c++) bound[c] += spill[size + values + c];
        }
    }
}

// ---- reverse sweep -------------------------------------------------------------------------------------------------

// dstate, aged by the chunk that it goes back, += the chunk's queries of all heads that read the state.
static void absorb_chunk(LowrankTask *task, const Backward *backward, size_t chunk_first) {
    const LowrankPlan *plan = task->plan;
    LowrankWork *work = &task->work;
    const size_t count = chunk_count(task, chunk_first), values = plan->base.settings.v_size;
    lowrank_state_age(plan, work->state, plan->chunk_decay);
    for (size_t m = 0; m < plan->group; m++) {
        const Query query = query_rows(task, backward, m);
        if (query.head->exact_far) continue;
        lowrank_far_queries(task, query.q, backward->io->q_stride, query.factor, chunk_first, count);
        load_lanes(task, &query, chunk_first, count);
        denominator_gradient(task);
        if (task->certify) certificate_columns(task, &backward->shared, m, chunk_first, count);
        lowrank_kernels()->scale_rows(work->right, values, query.d_o + chunk_first * backward->io->o_stride,
                                      backward->io->o_stride, work->weight, count, values);
        if (chunk_first >= plan->chunk) {
            const size_t next = chunk_first - plan->chunk;
            lowrank_prefetch(plan, query.q, backward->io->q_stride, plan->base.settings.qk_size, next);
            lowrank_prefetch(plan, query.d_o, backward->io->o_stride, values, next);
        }
        lowrank_state_absorb_queries(task, count);
    }
}

static void reverse_total(void *context, LowrankTask *task) {
    const Backward *backward = context;
    const LowrankPlan *plan = task->plan;
    task->certify = backward->certify;
    start_state(task, &backward->shared);
    memset(task->work.state, 0, plan->state_size * sizeof(real));
    if (task->first == 0 || !lowrank_uses_state(task, backward->saved.head)) return; // nobody needs the first total
    for (size_t n = task_chunks(task); n-- > 0;) absorb_chunk(task, backward, task->first + n * plan->chunk);
}

// dk, dv of the keys that entered the state before the chunk, from the dstate of it and all later chunks.
static void read_block(LowrankTask *task, const Backward *backward, const Rows *rows, size_t first, size_t count,
                       size_t lag) {
    const LowrankPlan *plan = task->plan;
    const AttentionBackward *io = backward->io;
    LowrankWork *work = &task->work;
    const size_t far = plan->far_size;
    lowrank_far_queries(task, rows->k, io->k_stride, task->key_factor, first, count); // keys and queries are made alike
    lowrank_state_read_keys(task, rows->v + first * io->v_stride, rows->dv + first * io->v_stride, io->v_stride,
                            key_bound_at(plan, &backward->shared, task) + first * 2, count, lag);
    tile_kernels()->transpose(work->far_query, far, work->d_far_t, plan->lanes, far, count);
    lowrank_rows_backward(plan, rows->dk + first * io->k_stride, io->k_stride, true, NULL, 0, work->far_query,
                          work->rows, rows->k + first * io->k_stride, io->k_stride, task->key_factor, first, count);
}

static void reverse_sweep(void *context, LowrankTask *task) {
    const Backward *backward = context;
    const LowrankPlan *plan = task->plan;
    const AttentionBackward *io = backward->io;
    if (!lowrank_uses_state(task, backward->saved.head)) return;
    const Rows rows = task_rows(task, io);
    task->certify = backward->certify;
    task->key_factor = lowrank_key_factor(&backward->saved, task);
    start_state(task, &backward->shared);
    for (size_t n = task_chunks(task); n-- > 0;) {
        const size_t at = task->first + n * plan->chunk, block = lowrank_block_first(plan, at);
        const size_t count = lowrank_far_end(plan, at) - block;
        lowrank_prefetch(plan, rows.k, io->k_stride, plan->base.settings.qk_size, block);
        lowrank_prefetch(plan, rows.v, io->v_stride, plan->base.settings.v_size, block);
        lowrank_prefetch(plan, rows.dk, io->k_stride, plan->base.settings.qk_size, block);
        lowrank_prefetch(plan, rows.dv, io->v_stride, plan->base.settings.v_size, block);
        absorb_chunk(task, backward, at);
        if (count > 0) read_block(task, backward, &rows, block, count, at - block);
    }
}

// ---- exact far fields ----------------------------------------------------------------------------------------------

static void earlier_pairs(void *context, LowrankTask *task) {
    const Backward *backward = context;
    const LowrankPlan *plan = task->plan;
    const AttentionBackward *io = backward->io;
    LowrankWork *work = &task->work;
    const Rows rows = task_rows(task, io);
    real *bound = key_bound_at(plan, &backward->shared, task);
    task->key_factor = lowrank_key_factor(&backward->saved, task);
    // a group without a polynomial has no certificates
    task->certify = backward->certify && lowrank_uses_state(task, backward->saved.head);
    for (size_t m = 0; m < plan->group; m++) {
        const Query query = query_rows(task, backward, m);
        if (!query.head->exact_far) continue;
        const size_t head = task->kv_head * plan->group + m;
        for (size_t at = 0; at < task->last; at += plan->chunk) {
            const size_t count = chunk_count(task, at);
            if (lowrank_far_end(plan, at) == 0) continue;
            lowrank_far_queries(task, query.q, io->q_stride, query.factor, at, count);
            load_output_gradient(task, &query, io->o_stride, at, count);
            LowrankBounds counted = {0}; // by the forward sweep: only the shares of keys are wanted here
            if (task->certify)
                lowrank_certify_gradient(task, &backward->saved, &backward->shared, head, &counted, at, count);
            memset(work->d_far_t, 0, plan->far_size * plan->lanes * sizeof(real));
            lowrank_earlier_backward(task, rows.k, io->k_stride, rows.v, io->v_stride, rows.dk, rows.dv, bound, at,
                                     count);
            tile_kernels()->transpose(work->far_query, plan->far_size, work->d_far_t, plan->lanes, plan->far_size,
                                      count);
            lowrank_rows_backward(plan, query.dq + at * io->q_stride, io->q_stride, true, NULL, 0, work->far_query,
                                  work->rows, query.q + at * io->q_stride, io->q_stride, query.factor, at, count);
        }
    }
}

static void find_not_finite(void *context, LowrankTask *task) {
    const Backward *backward = context;
    lowrank_certify_finite(task, &backward->shared, backward->io);
}

void lowrank_backward(const AttentionPlan *base, const AttentionBackward *io) {
    const LowrankPlan *plan = (const LowrankPlan *)base;
    const AttentionSettings *s = &base->settings;
    const AttentionReport *report = io->report;
    Backward backward = {io, report && (report->dq_bound || report->dk_bound || report->dv_bound),
                         lowrank_saved_at(plan, (void *)io->saved, NULL), lowrank_shared_at(plan, io->scratch, NULL)};
    if (backward.certify)
        lowrank_certificates(plan, &backward.saved, io->active, io->v, io->v_stride, io->scratch);
    lowrank_segment_states(plan, &backward.saved, io->active, io->k, io->k_stride, io->v, io->v_stride,
                           io->scratch);
    lowrank_each_task(plan, io->scratch, io->active, plan->segments, forward_sweep, &backward);
    if (plan->segments > 1) {
        lowrank_each_task(plan, io->scratch, io->active, 1, add_spills, &backward);
        lowrank_each_task(plan, io->scratch, io->active, plan->segments, reverse_total, &backward);
        lowrank_state_prefix(plan, backward.shared.segment_state, true);
    }
    lowrank_each_task(plan, io->scratch, io->active, plan->segments, reverse_sweep, &backward);
    bool any_exact = false;
    for (size_t n = 0; n < s->batch * s->heads; n++)
        if (!io->active || io->active[n % s->heads / plan->group]) any_exact |= backward.saved.head[n].exact_far;
    if (any_exact) lowrank_each_task(plan, io->scratch, io->active, 1, earlier_pairs, &backward);
    if (backward.certify) {
        lowrank_each_task(plan, io->scratch, io->active, plan->segments, find_not_finite, &backward);
        lowrank_report_gradient(plan, &backward.shared, io->active, report);
    }
}
