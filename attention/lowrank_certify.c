// Certificates of method lowrank: gathers the facts of a batch, feeds them to certificate.c token by token, and merges
// what comes back into the report. Cost O(E) per token, only when the report asks for it.
#include <math.h>
#include <string.h>

#include "attention/lowrank.h"

// ---- values --------------------------------------------------------------------------------------------------------

typedef struct Values {
    const LowrankShared *shared;
    const real *v;
    size_t v_stride;
} Values;

static void measure_values(void *context, LowrankTask *task) {
    const Values *measured = context;
    const LowrankPlan *plan = task->plan;
    const size_t values = plan->base.settings.v_size, v_stride = measured->v_stride;
    const size_t index = lowrank_state_index(plan, task->batch, task->kv_head, task->segment);
    const LowrankShared *shared = measured->shared;
    const real *v = measured->v + task->batch * plan->base.settings.tokens * v_stride + task->kv_head * values;
    real *low = shared->value_range + index * 2 * values, *high = low + values;
    for (size_t e = 0; e < values; e++) low[e] = high[e] = v[task->first * v_stride + e];
    shared->values[index].norm = lowrank_kernels()->column_range(low, high, v + task->first * v_stride, v_stride,
                                                                 task->last - task->first, values);
}

typedef struct ValueFacts {
    double largest, range, norm, radius;
} ValueFacts;

// Range of v over all segments, and the better of two centers: zero, or the middle of the box that holds all v_j.
static ValueFacts merge_values(const LowrankPlan *plan, const LowrankShared *shared, size_t batch, size_t kv_head) {
    const size_t values = plan->base.settings.v_size, row = batch * plan->base.settings.kv_heads + kv_head;
    real *low = shared->value_low + row * values, *high = shared->value_high + row * values;
    real *center = shared->value_center + row * values;
    ValueFacts facts = {0};
    double box = 0, norm = 0;
    for (size_t n = 0; n < plan->segments; n++) {
        const real *from = shared->value_range + (row * plan->segments + n) * 2 * values;
        for (size_t e = 0; e < values; e++) {
            low[e] = n == 0 ? from[e] : (real)-larger_or_nan(-(double)low[e], -(double)from[e]);
            high[e] = n == 0 ? from[values + e] : (real)larger_or_nan((double)high[e], (double)from[values + e]);
        }
        norm = larger_or_nan(norm, shared->values[row * plan->segments + n].norm);
    }
    for (size_t e = 0; e < values; e++) {
        const double range = (double)high[e] - (double)low[e];
        facts.largest = larger_or_nan(facts.largest, fabs((double)low[e]));
        facts.largest = larger_or_nan(facts.largest, fabs((double)high[e]));
        facts.range = larger_or_nan(facts.range, range);
        box += range * range / 4;
    }
    facts.norm = sqrt(norm) * (1 + (double)values * REAL_EPSILON);
    const bool zero = facts.norm <= sqrt(box);
    for (size_t e = 0; e < values; e++) center[e] = zero ? 0 : low[e] / 2 + high[e] / 2;
    facts.radius = zero ? facts.norm : sqrt(box) + 4 * REAL_EPSILON * facts.norm;
    return facts;
}

void lowrank_certificates(const LowrankPlan *plan, const LowrankSaved *saved, const bool *active, const real *v,
                          size_t v_stride, void *scratch) {
    const AttentionSettings *s = &plan->base.settings;
    const LowrankShared shared = lowrank_shared_at(plan, scratch, NULL);
    lowrank_each_task(plan, scratch, active, plan->segments, measure_values, &(Values){&shared, v, v_stride});
    for (size_t b = 0; b < s->batch; b++)
        for (size_t g = 0; g < s->kv_heads; g++) {
            if (active && !active[g]) continue;
            const ValueFacts values = merge_values(plan, &shared, b, g);
            size_t exact = 0;
            for (size_t m = 0; m < plan->group; m++)
                exact += plan->far_field && saved->head[b * s->heads + g * plan->group + m].exact_far;
            for (size_t m = 0; m < plan->group; m++) {
                const size_t row = b * s->heads + g * plan->group + m;
                const LowrankHead *head = &saved->head[row];
                CertificateFacts facts = head->facts;
                facts.logit_scale = facts.plain_scale = s->logit_scale;
                facts.products = 2 * (double)s->qk_size;
                facts.measured = head->measured;
                facts.value_largest = values.largest;
                facts.value_range = values.range;
                facts.value_norm = values.norm;
                facts.value_radius = values.radius;
                facts.features = plan->features.count;
                facts.degree = plan->features.degree;
                facts.qk_size = s->qk_size;
                facts.v_size = s->v_size;
                facts.near = plan->near;
                facts.chunk = plan->chunk;
                facts.tokens = s->tokens;
                facts.group = plan->group;
                facts.exact_group = exact;
                facts.decays = plan->decay;
                facts.polynomial = plan->polynomial_far && !head->exact_far;
                shared.certificate[row] = certificate_make(&facts, &plan->polynomial);
            }
        }
}

// ---- tokens --------------------------------------------------------------------------------------------------------

static CertificateToken token_at(const LowrankPlan *plan, const LowrankSaved *saved, size_t row, size_t position) {
    const size_t at = row * plan->base.settings.tokens + position;
    return (CertificateToken){
        .far_share = (double)saved->far_share[at], .log_sum = (double)saved->log_sum[at],
        .log_far = (double)saved->log_sum[at],
        .far_keys = plan->far_field && position + 1 > plan->near ? (double)(position + 1 - plan->near) : 0,
    };
}

void lowrank_certify_output(LowrankTask *task, const LowrankSaved *saved, const LowrankShared *shared, const real *o,
                            size_t o_stride, size_t head, LowrankBounds *bounds, size_t chunk_first, size_t count) {
    const LowrankPlan *plan = task->plan;
    LowrankWork *work = &task->work;
    const AttentionSettings *s = &plan->base.settings;
    const size_t values = s->v_size, row = task->batch * s->heads + head;
    const size_t kv_row = (task->batch * s->kv_heads + task->kv_head) * values;
    real *reach = work->delta;
    lowrank_to_lanes(plan->lanes, work->output_t, o, o_stride, count, values);
    lowrank_kernels()->reach(reach, work->output_t, plan->lanes, shared->value_low + kv_row,
                             shared->value_high + kv_row, values, plan->lanes);
    if (chunk_first == task->first) *bounds = (LowrankBounds){0};
    for (size_t lane = 0; lane < count; lane++) {
        const CertificateToken token = token_at(plan, saved, row, chunk_first + lane);
        const double bound = certificate_output(&shared->certificate[row], &token, (double)reach[lane]);
        bounds->output = larger_or_nan(bounds->output, bound);
        bounds->broken |= !isfinite((double)reach[lane]);
    }
}

// What certificates need to know of the do of LANE_UNIT queries.
typedef struct Gradients {
    double norm[LANE_UNIT], spread[LANE_UNIT]; // ‖do‖; a bound of |do·(v_j - ô)| for all j
    real largest[LANE_UNIT];                   // ‖do‖∞
} Gradients;

static Gradients measure_gradients(const LowrankTask *task, const real *center, double radius, size_t lane) {
    const LowrankWork *work = &task->work;
    const size_t values = task->plan->base.settings.v_size;
    Gradients of;
    lowrank_kernels()->lane_products(of.norm, of.spread, center, work->right_t + lane, work->lanes, values, LANE_UNIT);
    lowrank_kernels()->lane_largest(of.largest, work->right_t + lane, work->lanes, values, LANE_UNIT);
    for (size_t n = 0; n < LANE_UNIT; n++) {
        of.norm[n] = sqrt(of.norm[n]) * (1 + (double)values * REAL_EPSILON);
        of.spread[n] = fabs(of.spread[n] - (double)work->delta[lane + n]) + of.norm[n] * radius;
    }
    return of;
}

// One query's part in the bounds of its segment; returns its part in those of the keys.
static CertificateGradient add_query(const Certificate *certificate, const CertificateToken *token, double norm,
                                     double largest, double spread, LowrankBounds *bounds) {
    CertificateGradient part = certificate_gradient(certificate, token, norm, largest, spread);
    bounds->dq = larger_or_nan(bounds->dq, part.dq);
    bounds->sums.most = larger_or_nan(bounds->sums.most, norm);
    // infinite columns would turn the state into NaN: such a head is marked instead
    if (!(part.far_dk < 1e30 && part.far_dv < 1e30 && part.near_dk < 1e30 && part.near_dv < 1e30)) {
        bounds->unknown = true;
        part = (CertificateGradient){0};
    }
    if (token->far_keys > 0) {
        const double weight = exp(-token->log_sum);
        bounds->sums.norm += weight * norm;
        bounds->sums.largest += weight * largest;
        bounds->sums.far_dk += weight * part.far_dk;
        bounds->sums.far_dv += weight * part.far_dv;
    }
    return part;
}

void lowrank_certify_gradient(LowrankTask *task, const LowrankSaved *saved, const LowrankShared *shared, size_t head,
                              LowrankBounds *bounds, size_t chunk_first, size_t count) {
    const LowrankPlan *plan = task->plan;
    LowrankWork *work = &task->work;
    const AttentionSettings *s = &plan->base.settings;
    const size_t row = task->batch * s->heads + head, kv_row = task->batch * s->kv_heads + task->kv_head;
    const Certificate *certificate = &shared->certificate[row];
    Gradients of = {0};
    if (chunk_first == task->first) *bounds = (LowrankBounds){0};
    for (size_t lane = 0; lane < plan->lanes; lane++) {
        const size_t n = lane % LANE_UNIT;
        CertificateGradient part = {0};
        if (n == 0)
            of = measure_gradients(task, shared->value_center + kv_row * s->v_size, certificate->facts.value_radius,
                                   lane);
        if (lane < count) {
            const CertificateToken token = token_at(plan, saved, row, chunk_first + lane);
            part = add_query(certificate, &token, of.norm[n], (double)of.largest[n], of.spread[n], bounds);
            shared->far_dk[row * s->tokens + chunk_first + lane] = (real)part.far_dk;
            shared->far_dv[row * s->tokens + chunk_first + lane] = (real)part.far_dv;
        }
        work->near_dk[lane] = (real)part.near_dk;
        work->near_dv[lane] = (real)part.near_dv;
        work->far_dk[lane] = (real)part.far_dk;
        work->far_dv[lane] = (real)part.far_dv;
    }
}

void lowrank_certify_finite(const LowrankTask *task, const LowrankShared *shared, const AttentionBackward *io) {
    const LowrankPlan *plan = task->plan;
    const AttentionSettings *s = &plan->base.settings;
    const size_t at = task->batch * s->tokens + task->first, rows = task->last - task->first;
    const real *dk = io->dk + at * io->k_stride + task->kv_head * s->qk_size;
    const real *dv = io->dv + at * io->v_stride + task->kv_head * s->v_size;
    const bool keys = certificate_exists(dk, io->k_stride, rows, s->qk_size) && certificate_exists(dv, io->v_stride, rows, s->v_size);
    for (size_t m = 0; m < plan->group; m++) {
        const size_t h = task->kv_head * plan->group + m;
        LowrankBounds *bounds = shared->bounds + (task->batch * s->heads + h) * plan->segments + task->segment;
        bounds->broken = !certificate_exists(io->dq + at * io->q_stride + h * s->qk_size, io->q_stride, rows, s->qk_size);
        bounds->broken_keys = !keys;
    }
}

// ---- reports -------------------------------------------------------------------------------------------------------

static LowrankBounds merge_bounds(const LowrankPlan *plan, const LowrankShared *shared, size_t row) {
    LowrankBounds merged = {0};
    for (size_t n = 0; n < plan->segments; n++) {
        const LowrankBounds *part = &shared->bounds[row * plan->segments + n];
        merged.output = larger_or_nan(merged.output, part->output);
        merged.dq = larger_or_nan(merged.dq, part->dq);
        merged.unknown |= part->unknown;
        merged.broken |= part->broken;
        merged.broken_keys |= part->broken_keys;
        merged.sums.norm += part->sums.norm;
        merged.sums.largest += part->sums.largest;
        merged.sums.far_dk += part->sums.far_dk;
        merged.sums.far_dv += part->sums.far_dv;
        merged.sums.most = larger_or_nan(merged.sums.most, part->sums.most);
    }
    return merged;
}

// A certificate that is not a number bounds nothing.
static void raise(double *array, size_t head, double value) {
    if (array && !(value <= array[head])) array[head] = isnan(value) ? INFINITY : value;
}

static void clear(double *array, const LowrankPlan *plan, const bool *active) {
    for (size_t h = 0; array && h < plan->base.settings.heads; h++)
        if (!active || active[h / plan->group]) array[h] = 0;
}

void lowrank_report_output(const LowrankPlan *plan, const LowrankShared *shared,
                           const bool *active, const AttentionReport *report) {
    const AttentionSettings *s = &plan->base.settings;
    clear(report->output_bound, plan, active);
    if (!report->output_bound) return;
    for (size_t row = 0; row < s->batch * s->heads; row++) {
        const size_t h = row % s->heads;
        if (active && !active[h / plan->group]) continue;
        const LowrankBounds merged = merge_bounds(plan, shared, row);
        if (merged.broken) raise(report->output_bound, h, INFINITY);
        if (shared->certificate[row].facts.polynomial) raise(report->output_bound, h, merged.output);
    }
}

// dk and dv of a key/value head are sums over its query heads, so their certificates are too.
static void report_keys(const LowrankPlan *plan, const LowrankShared *shared, size_t batch,
                        size_t kv_head, const AttentionReport *report) {
    const AttentionSettings *s = &plan->base.settings;
    const real *bound = shared->key_bound + (batch * s->kv_heads + kv_head) * s->tokens * 2;
    double dk = 0, dv = 0, more_dk = 0, more_dv = 0;
    bool any = false;
    for (size_t t = 0; t < s->tokens; t++) {
        dk = larger_or_nan(dk, (double)bound[2 * t]);
        dv = larger_or_nan(dv, (double)bound[2 * t + 1]);
    }
    for (size_t m = 0; m < plan->group; m++) {
        const size_t row = batch * s->heads + kv_head * plan->group + m;
        const Certificate *certificate = &shared->certificate[row];
        const LowrankBounds merged = merge_bounds(plan, shared, row);
        const bool unknown = merged.unknown || merged.broken_keys;
        any |= certificate->facts.polynomial || merged.broken_keys;
        more_dk += unknown ? INFINITY : certificate_key_rounding(certificate, &merged.sums);
        more_dv += unknown ? INFINITY : certificate_value_rounding(certificate, &merged.sums);
    }
    for (size_t m = 0; any && m < plan->group; m++) {
        raise(report->dk_bound, kv_head * plan->group + m, 1.001 * dk + more_dk);
        raise(report->dv_bound, kv_head * plan->group + m, 1.001 * dv + more_dv);
    }
}

void lowrank_report_gradient(const LowrankPlan *plan, const LowrankShared *shared,
                             const bool *active, const AttentionReport *report) {
    const AttentionSettings *s = &plan->base.settings;
    clear(report->dq_bound, plan, active);
    clear(report->dk_bound, plan, active);
    clear(report->dv_bound, plan, active);
    for (size_t b = 0; b < s->batch; b++)
        for (size_t g = 0; g < s->kv_heads; g++) {
            if (active && !active[g]) continue;
            for (size_t m = 0; m < plan->group; m++) {
                const size_t h = g * plan->group + m, row = b * s->heads + h;
                const LowrankBounds merged = merge_bounds(plan, shared, row);
                if (merged.broken) raise(report->dq_bound, h, INFINITY);
                if (shared->certificate[row].facts.polynomial) raise(report->dq_bound, h, merged.dq);
            }
            report_keys(plan, shared, b, g, report);
        }
}
