// What a step of method `toeplitz` reports per head: measured Λ, shares of bounded entries, fallbacks, and certificates
// (certificate.h) against the true exp over the same fields. A certificate is never NaN: it is +Inf where nothing is
// known, and where an output or gradient is not finite.
//
// Rounding of the transforms. A product with a kernel C of a column x errs by about ε·√log₂N·‖C‖₂‖x‖₂ at every output:
// transforms spread their errors evenly. No bound of that size can be proved (a worst case is √N times larger), so
// certificates allow TOEPLITZ_ROUNDING·ε·log₂N·‖C‖₂‖x‖₂, several times what tests find; the rest of a certificate is
// proved. ‖C‖₂ ≤ ‖exp(b)‖₂ over the rung's lags, ‖x‖₂ ≤ √inputs·max|v|, and the monomials add up to at most
// Σ|c_t|(s‖|W|‖‖q‖‖k‖)^t.
//
// Rounding of pairs. A logit is one chain over the |S| entries of W, whose magnitudes add up to at most
// s‖|W|‖‖q‖‖k‖ = absolute_share·s‖W‖‖q‖‖k‖, each with four roundings of its own. A gradient of a key is one chain over
// the entries of its column of W, over the queries that see it and over the heads of its group. Tokens whose far keys
// are met one by one have the rounding of a near field that is longer, and no transforms.
#include <math.h>

#include "attention/certificate.h"
#include "attention/toeplitz_plan.h"

// Sets array[head] = value for the heads that run.
static void fill(const ToeplitzPlan *plan, double *array, double value, const bool *active) {
    for (size_t h = 0; array && h < plan->base.settings.heads; h++)
        if (!active || active[h / plan->group]) array[h] = value;
}

static void raise(double *array, size_t head, double value) {
    if (array) array[head] = larger_or_nan(array[head], value);
}

void toeplitz_report_clear(const ToeplitzPlan *plan, const AttentionReport *report, const bool *active) {
    double *const arrays[] = {report->logit_bound, report->output_bound, report->clipped, report->fell_back};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) fill(plan, arrays[i], 0.0, active);
}

void toeplitz_report_clear_gradients(const ToeplitzPlan *plan, const AttentionReport *report, const bool *active) {
    double *const arrays[] = {report->dq_bound, report->dk_bound, report->dv_bound};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) fill(plan, arrays[i], 0.0, active);
}

void toeplitz_report_bounds(const ToeplitzPlan *plan, const ToeplitzUnit *unit, size_t member, double measured,
                            const AttentionReport *report) {
    const AttentionSettings *settings = &plan->base.settings;
    const size_t head = unit->kv_head * plan->group + member;
    raise(report->logit_bound, head, measured);
    if (report->fell_back) report->fell_back[head] += plan->expands && unit->exact_far[member];
    const double share = (double)bound_units(plan->bound, settings->tokens, plan->far_size);
    if (report->clipped && share > 0.0) // of the entries of q and k together, over all batch rows
        report->clipped[head] +=
            (unit->changed[member] + unit->changed[plan->group]) / (2.0 * share * (double)settings->batch);
}

// One head of one batch row, and what its certificates start from.
typedef struct Head {
    const ToeplitzPlan *plan;
    const ToeplitzUnit *unit;
    const ToeplitzSaved *saved;
    size_t head, at; // at: of the head's first token in saved
    Certificate certificate;
    double noise[TOEPLITZ_RUNGS]; // rounding of a rung's sums per unit of exp(shift)·max|v|
    double rung_norm;             // largest ‖exp(b - shift)‖₂ of a rung
} Head;

static double row_length(const real *row, size_t stride, size_t size) {
    double square = 0.0;
    for (size_t a = 0; a < size; a++) square += (double)row[a * stride] * (double)row[a * stride];
    return sqrt(square);
}

// Smallest and largest value of a column of V; NaN if one of them is.
static void value_range(const ToeplitzUnit *unit, size_t column, size_t stride, size_t tokens, double *low,
                        double *high) {
    const real *v = unit->value + column * stride;
    *low = *high = (double)v[0];
    for (size_t t = 1; t < tokens; t++) {
        *low = -larger_or_nan(-*low, -(double)v[t]);
        *high = larger_or_nan(*high, (double)v[t]);
    }
}

static CertificateFacts gather(const Head *head, const real *q, size_t q_stride) {
    const ToeplitzPlan *plan = head->plan;
    const AttentionSettings *settings = &plan->base.settings;
    const size_t member = head->head % plan->group, size = settings->qk_size, tokens = settings->tokens;
    CertificateFacts facts = {
        .logit_scale = settings->logit_scale * plan->weight_norm, // γ meets W before it meets k: ‖Wk‖ ≤ ‖W‖‖k‖
        .plain_scale = settings->logit_scale * fmax(1.0, plan->weight_norm),
        .products = (double)plan->support,
        .measured = head->saved->measured[head->unit->batch * settings->heads + head->head],
        .far_query = head->unit->norm[member],
        .far_key = head->unit->norm[plan->group],
        .features = plan->terms.queries,
        .degree = settings->degree,
        .qk_size = size,
        .v_size = settings->v_size,
        .logit_roundings = ((double)plan->support / 2.0 + 2.0) * plan->absolute_share + 4.0,
        .chunk = TOEPLITZ_TILE,
        .group = plan->group,
        .polynomial = plan->expands && !head->saved->exact_far[head->unit->batch * settings->heads + head->head],
    };
    for (size_t m = 0; m < plan->group; m++) facts.exact_group += head->unit->exact_far[m];
    // certificate.c allows 6u·A for each pair of |γ| ≤ 2A, where a number of the chain needs u/2·‖|W|‖ of these 2A
    const double sides = settings->causal ? 1.0 : 2.0, numbers = (double)plan->line * sides;
    const double most = fmax(1.0, numbers * plan->absolute_share / 6.0);
    // keys that one query meets pair by pair at most, and queries that one key does
    const size_t all = settings->causal ? plan->pair_by_pair_end : tokens;
    facts.near = (size_t)ceil(most * (double)(settings->near + (plan->pair_by_pair ? all : 0)));
    facts.tokens = facts.polynomial ? tokens : (size_t)ceil(most * (double)tokens);
    if (settings->near == 0) { // no near pair: lengths of the far ones keep infinite certificates infinite, not 0·Inf
        facts.near_key = facts.far_key;
        facts.near_query = facts.far_query;
    }
    // the unbounded rows are longer than the bounded ones, so they serve for near_bound = same too
    for (size_t t = 0; settings->near > 0 && t < tokens; t++) {
        facts.near_key = larger_or_nan(facts.near_key, row_length(head->unit->near_key + t, plan->stride, size));
        facts.near_query = larger_or_nan(facts.near_query, row_length(q + t * q_stride, 1, size));
    }
    for (size_t t = 0; t < tokens; t++)
        facts.value_norm =
            larger_or_nan(facts.value_norm, row_length(head->unit->value + t, plan->stride, settings->v_size));
    for (size_t c = 0; c < settings->v_size; c++) {
        double low, high;
        value_range(head->unit, c, plan->stride, tokens, &low, &high);
        facts.value_range = larger_or_nan(facts.value_range, high - low);
        facts.value_largest = larger_or_nan(larger_or_nan(facts.value_largest, -low), high);
    }
    facts.value_radius = facts.value_norm;
    return facts;
}

static Head make_head(const ToeplitzPlan *plan, const ToeplitzUnit *unit, const ToeplitzSaved *saved, size_t member,
                      const real *q, size_t q_stride) {
    const AttentionSettings *settings = &plan->base.settings;
    Head head = {.plan = plan, .unit = unit, .saved = saved, .head = unit->kv_head * plan->group + member};
    head.at = (unit->batch * settings->heads + head.head) * settings->tokens;
    const CertificateFacts facts = gather(&head, q, q_stride);
    head.certificate = certificate_make(&facts, facts.polynomial ? &plan->polynomial : NULL);
    head.certificate.depth = 0; // the transforms' rounding stands in for a chain's: set per token below
    const double magnitude = polynomial_magnitude(&plan->polynomial, facts.measured * plan->absolute_share);
    for (size_t r = 0; facts.polynomial && r < plan->rungs; r++) {
        const Rung *rung = &plan->rung[r];
        const double norm = toeplitz_bias_norm(plan, head.head, rung);
        head.rung_norm = fmax(head.rung_norm, norm);
        head.noise[r] = toeplitz_noise(rung, norm, magnitude);
    }
    return head;
}

static size_t rung_of(const ToeplitzPlan *plan, size_t token) {
    size_t r = 0;
    while (r < plan->rungs && token < plan->rung[r].first) r++;
    return r;
}

// Token i as certificates see it; sets the certificate's rounding to that of i's rung.
static CertificateToken make_token(Head *head, size_t i) {
    const ToeplitzPlan *plan = head->plan;
    const double log_sum = (double)head->saved->shift[head->at + i] - log((double)head->saved->inverse[head->at + i]);
    CertificateToken token = {.far_share = (double)head->saved->far_share[head->at + i], .log_sum = log_sum};
    head->certificate.far_rounding = 0;
    if (!head->certificate.facts.polynomial) return token;
    token.far_keys = (double)toeplitz_far_keys(plan, i);
    if (!toeplitz_sees_far(plan, i)) return token;
    token.log_far = log_sum - plan->shift[head->head]; // never apart: either may be too large for exp alone
    // far_rounding·n²·Σ|c_t|Λ̂^t is what certificate.c makes of it
    head->certificate.far_rounding = head->noise[rung_of(plan, i)] /
                                     (token.far_keys * token.far_keys * head->certificate.magnitude);
    return token;
}

void toeplitz_report_forward(const ToeplitzPlan *plan, const ToeplitzUnit *unit, const ToeplitzSaved *saved,
                             const AttentionForward *io) {
    const AttentionSettings *settings = &plan->base.settings;
    const size_t row = unit->batch * settings->tokens, size = settings->v_size;
    for (size_t m = 0; io->report->output_bound && m < plan->group; m++) {
        const size_t h = unit->kv_head * plan->group + m;
        if (!certificate_exists(io->o + row * io->o_stride + h * size, io->o_stride, settings->tokens, size)) {
            raise(io->report->output_bound, h, INFINITY);
            continue;
        }
        Head head = make_head(plan, unit, saved, m, io->q + row * io->q_stride + h * settings->qk_size, io->q_stride);
        if (!head.certificate.facts.polynomial) continue; // exact: nothing but rounding
        for (size_t i = 0; i < settings->tokens; i++) {
            const CertificateToken token = make_token(&head, i);
            // |v_jc - o_c| ≤ range, whatever o_c, which is (nearly) between the smallest and largest
            const double bound = certificate_output(&head.certificate, &token, head.certificate.facts.value_range);
            raise(io->report->output_bound, h, bound);
        }
    }
}

// Bounds of dk and dv of a key/value head: sums over its query heads.
typedef struct KeyBounds {
    double dk, dv;
} KeyBounds;

// The lengths of do_i that certificates ask for, and what bounds |do·(v_j - ô)|.
typedef struct Gradient {
    double norm, largest, sum;
} Gradient;

static Gradient measure_gradient(const real *d_o, size_t size) {
    Gradient measured = {0};
    for (size_t e = 0; e < size; e++) {
        const double d = fabs((double)d_o[e]);
        measured.norm += d * d;
        measured.sum += d;
        measured.largest = larger_or_nan(measured.largest, d);
    }
    measured.norm = sqrt(measured.norm);
    return measured;
}

static CertificateGradient token_gradient(const Head *head, const CertificateToken *token, const Gradient *measured) {
    return certificate_gradient(&head->certificate, token, measured->norm, measured->largest,
                                measured->sum * head->certificate.facts.value_range);
}

// A head whose far field is exact, of a group in which another's is not: rounding of all pairs, of weight 1 at most.
static void add_exact_head(Head *head, const AttentionBackward *io, const real *d_o, KeyBounds *bounds) {
    const AttentionSettings *settings = &head->plan->base.settings;
    CertificateSums sums = {0};
    for (size_t i = 0; i < settings->tokens; i++) {
        const CertificateToken token = make_token(head, i);
        const Gradient measured = measure_gradient(d_o + i * io->o_stride, settings->v_size);
        const CertificateGradient gradient = token_gradient(head, &token, &measured);
        bounds->dk += gradient.near_dk;
        bounds->dv += gradient.near_dv;
        sums.most = larger_or_nan(sums.most, measured.norm);
    }
    bounds->dk += certificate_key_rounding(&head->certificate, &sums);
    bounds->dv += certificate_value_rounding(&head->certificate, &sums);
}

// weight·share, and of a share that is unknown nothing is known, whatever the weight.
static double weighted(double weight, double share) { return isfinite(share) ? weight * share : INFINITY; }

static void add_head(Head *head, const AttentionBackward *io, const real *d_o, KeyBounds *bounds) {
    const ToeplitzPlan *plan = head->plan;
    const AttentionSettings *settings = &plan->base.settings;
    const CertificateFacts *facts = &head->certificate.facts;
    const double most_weight = // in the measure of log_far
        exp(facts->measured) * (1.0 + polynomial_error(&plan->polynomial, facts->measured));
    CertificateSums sums = {0};
    double far_dk = 0.0, far_dv = 0.0, near_dk = 0.0, near_dv = 0.0, met_dk = 0.0, met_dv = 0.0;
    for (size_t i = 0; i < settings->tokens; i++) {
        const CertificateToken token = make_token(head, i);
        const Gradient measured = measure_gradient(d_o + i * io->o_stride, settings->v_size);
        const CertificateGradient gradient = token_gradient(head, &token, &measured);
        raise(io->report->dq_bound, head->head, gradient.dq);
        // Â_ij ≤ (1+δ)e^{b + Λ̂ - L_i}, b ≤ shift, for far keys, and a near key has at most 2·near queries. Without transforms
        // there is no sum of theirs to round, and L may be so low that e^{-L} is infinite.
        const double inverse = toeplitz_sees_far(plan, i) ? exp(-token.log_far) : 0.0;
        const double weight = toeplitz_is_pair_by_pair(plan, i) ? 1.0 : fmin(1.0, most_weight * inverse);
        far_dk += weighted(weight, gradient.far_dk);
        far_dv += weighted(weight, gradient.far_dv);
        near_dk = larger_or_nan(near_dk, gradient.near_dk);
        near_dv = larger_or_nan(near_dv, gradient.near_dv);
        if (toeplitz_is_pair_by_pair(plan, i)) { // every key may be one that it meets
            met_dk += gradient.near_dk;
            met_dv += gradient.near_dv;
        }
        sums.most = larger_or_nan(sums.most, measured.norm);
        sums.norm += inverse * measured.norm;
        sums.largest += inverse * measured.largest;
        sums.far_dk += weighted(inverse, gradient.far_dk);
        sums.far_dv += weighted(inverse, gradient.far_dv);
    }
    const double reach = (double)settings->near * (settings->causal ? 1.0 : 2.0);
    // certificate.c multiplies by the number of tokens and Σ|c_t|Λ̂^t
    const double magnitude = polynomial_magnitude(&plan->polynomial, facts->measured * plan->absolute_share);
    head->certificate.far_rounding = TOEPLITZ_ROUNDING * REAL_EPSILON * log2((double)plan->most_length) *
                                     head->rung_norm * magnitude / head->certificate.magnitude /
                                     (double)settings->tokens;
    bounds->dk += far_dk + met_dk + certificate_key_rounding(&head->certificate, &sums);
    bounds->dv += far_dv + met_dv + certificate_value_rounding(&head->certificate, &sums);
    if (reach > 0.0) { // without a near field its shares may be infinite
        bounds->dk += reach * near_dk;
        bounds->dv += reach * near_dv;
    }
}

void toeplitz_report_backward(const ToeplitzPlan *plan, const ToeplitzUnit *unit, const ToeplitzSaved *saved,
                              const AttentionBackward *io) {
    const AttentionSettings *settings = &plan->base.settings;
    const size_t row = unit->batch * settings->tokens;
    KeyBounds bounds = {0};
    const bool approximate = toeplitz_expands(plan, unit); // a group of exact heads alone: nothing but rounding
    for (size_t m = 0; approximate && m < plan->group; m++) {
        const size_t h = unit->kv_head * plan->group + m;
        const real *d_o = io->d_o + row * io->o_stride + h * settings->v_size;
        Head head = make_head(plan, unit, saved, m, io->q + row * io->q_stride + h * settings->qk_size, io->q_stride);
        (head.certificate.facts.polynomial ? add_head : add_exact_head)(&head, io, d_o, &bounds);
    }
    const size_t size = settings->qk_size, values = settings->v_size, tokens = settings->tokens;
    if (!certificate_exists(io->dk + row * io->k_stride + unit->kv_head * size, io->k_stride, tokens, size))
        bounds.dk = INFINITY;
    if (!certificate_exists(io->dv + row * io->v_stride + unit->kv_head * values, io->v_stride, tokens, values))
        bounds.dv = INFINITY;
    for (size_t m = 0; m < plan->group; m++) {
        const size_t h = unit->kv_head * plan->group + m;
        if (!certificate_exists(io->dq + row * io->q_stride + h * size, io->q_stride, tokens, size))
            raise(io->report->dq_bound, h, INFINITY);
        raise(io->report->dk_bound, h, bounds.dk);
        raise(io->report->dv_bound, h, bounds.dv);
    }
}
