// Attention of one head by its definition, in double (attention/reference.h). Source: fast RoPE attention,
// Definition 1.1; gradient of softmax attention in closed form (gradient paper, Section 4: γ = A∘(dO Vᵀ - δ)/Z).
#include "attention/reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attention/bound.h"
#include "attention/position.h"
#include "attention/table.h"
#include "core/arena.h"

// q and k as one field (near or far) sees them, with the gradients of those values.
typedef struct Field {
    AttentionBound bound;
    size_t first_pair;       // dimensions of pairs below are zero in this field
    double *q, *k, *dq, *dk; // (T, D)
} Field;

struct AttentionReference {
    AttentionSettings settings;
    double limit; // B of clip, or r of the ball
    bool near_far;
    ReferenceFar far;
    size_t head;
    double *cosine, *sine; // (T, D/2) of lag·frequency, rotations only
    PositionTable table;   // a table file's kernel
    double *raw_q, *raw_k; // (T, D) as loaded
    double *v, *dv;        // (T, E)
    Field near, distant;
    double *weight, *slope; // (T) of one row: A and dA/dx
    double *turned;         // (D) W_{i-j} kᵀ or W_{i-j}ᵀ qᵀ
};

static bool is_kernel(const AttentionReference *reference, const char *name) {
    return strcmp(reference->settings.kernel, name) == 0;
}

static bool rotates(const AttentionReference *reference) {
    return is_kernel(reference, "rope") || is_kernel(reference, "rope-decay") || is_kernel(reference, "rope-window");
}

static double *new_doubles(size_t rows, size_t columns, Error *error) {
    size_t total;
    double *values = size_multiply(rows, columns, &total) ? calloc(total ? total : 1, sizeof(double)) : NULL;
    if (!values) error_set(error, ERROR_MEMORY, "There is no memory for a reference of %zu × %zu.", rows, columns);
    return values;
}

static bool create_field(Field *field, AttentionBound bound, size_t first_pair, size_t tokens, size_t size,
                         Error *error) {
    *field = (Field){bound,
                     first_pair,
                     new_doubles(tokens, size, error),
                     new_doubles(tokens, size, error),
                     new_doubles(tokens, size, error),
                     new_doubles(tokens, size, error)};
    return field->q && field->k && field->dq && field->dk;
}

static void destroy_field(Field *field) {
    free(field->q);
    free(field->k);
    free(field->dq);
    free(field->dk);
}

AttentionReference *reference_create(const AttentionSettings *settings, bool near_far, const ReferenceFar *far,
                                     Error *error) {
    AttentionReference *reference = calloc(1, sizeof *reference);
    if (!reference) {
        error_set(error, ERROR_MEMORY, "There is no memory for a reference.");
        return NULL;
    }
    const size_t tokens = settings->tokens, size = settings->qk_size;
    reference->settings = *settings;
    if (settings->logit_scale == 0.0) reference->settings.logit_scale = 1.0 / sqrt((double)size);
    if (settings->logit_scale < 0.0) reference->settings.logit_scale = 1.0 / (double)size;
    reference->limit = bound_make(&reference->settings).limit;
    reference->near_far = near_far;
    if (far) reference->far = *far;
    const bool table = !rotates(reference) && !is_kernel(reference, "alibi");
    const bool some = near_far && settings->far_size > 0 && settings->far_size < size && rotates(reference);
    const size_t hidden = some ? (size - settings->far_size) / 2 : 0;
    const AttentionBound near_bound =
        near_far && settings->near_bound == NEAR_BOUND_NONE ? BOUND_NONE : settings->bound;
    bool created = create_field(&reference->near, near_bound, 0, tokens, size, error) &&
                   create_field(&reference->distant, settings->bound, hidden, tokens, size, error) &&
                   (reference->raw_q = new_doubles(tokens, size, error)) &&
                   (reference->raw_k = new_doubles(tokens, size, error)) &&
                   (reference->v = new_doubles(tokens, settings->v_size, error)) &&
                   (reference->dv = new_doubles(tokens, settings->v_size, error)) &&
                   (reference->weight = new_doubles(tokens, 1, error)) &&
                   (reference->slope = new_doubles(tokens, 1, error)) &&
                   (reference->turned = new_doubles(size, 1, error)) &&
                   (reference->cosine = new_doubles(tokens, size / 2, error)) &&
                   (reference->sine = new_doubles(tokens, size / 2, error)) &&
                   (!table || table_read(&reference->table, settings->kernel, size, tokens, settings->causal, error));
    if (!created) {
        reference_destroy(reference);
        return NULL;
    }
    for (size_t t = 0; t < tokens; t++)
        for (size_t p = 0; p < size / 2; p++) {
            const double angle = (double)t * pow(settings->rope_theta, -2.0 * (double)p / (double)size);
            reference->cosine[t * (size / 2) + p] = cos(angle);
            reference->sine[t * (size / 2) + p] = sin(angle);
        }
    return reference;
}

void reference_destroy(AttentionReference *reference) {
    if (!reference) return;
    destroy_field(&reference->near);
    destroy_field(&reference->distant);
    double *const arrays[] = {reference->raw_q, reference->raw_k,  reference->v,      reference->dv,  reference->weight,
                              reference->slope, reference->turned, reference->cosine, reference->sine};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) free(arrays[i]);
    table_free(&reference->table);
    free(reference);
}

// Whether dimension a of q and k counts in a field that shows the pairs from first_pair on.
static bool shown(size_t a, size_t size, size_t first_pair) { return first_pair == 0 || a % (size / 2) >= first_pair; }

static double shown_length(const double *x, size_t size, size_t first_pair) {
    double square = 0.0;
    for (size_t a = 0; a < size; a++) square += shown(a, size, first_pair) ? x[a] * x[a] : 0.0;
    return sqrt(square);
}

// out (T, D) = the field's view of raw rows.
static void bound_rows(const AttentionReference *reference, const Field *field, double *out, const double *raw) {
    const size_t size = reference->settings.qk_size;
    const double limit = reference->limit;
    for (size_t t = 0; t < reference->settings.tokens; t++, out += size, raw += size) {
        const double length = shown_length(raw, size, field->first_pair);
        for (size_t a = 0; a < size; a++) {
            double x = shown(a, size, field->first_pair) ? raw[a] : 0.0;
            if (field->bound == BOUND_CLIP) x = fmax(-limit, fmin(limit, x));
            if (field->bound == BOUND_BALL && length > limit) x *= limit / length;
            out[a] = x;
        }
    }
}

// d_raw (T, D) += gradient d of the field's view, taken back through the bound.
static void unbound_rows(const AttentionReference *reference, const Field *field, double *d_raw, size_t stride,
                         const double *d, const double *raw) {
    const size_t size = reference->settings.qk_size;
    const double limit = reference->limit;
    for (size_t t = 0; t < reference->settings.tokens; t++, d_raw += stride, d += size, raw += size) {
        const double length = shown_length(raw, size, field->first_pair);
        const bool outside = field->bound == BOUND_BALL && length > limit;
        double radial = 0.0;
        for (size_t a = 0; a < size; a++) radial += shown(a, size, field->first_pair) ? raw[a] * d[a] : 0.0;
        for (size_t a = 0; a < size; a++) {
            if (!shown(a, size, field->first_pair) || (field->bound == BOUND_CLIP && fabs(raw[a]) > limit)) continue;
            d_raw[a] += outside ? limit / length * (d[a] - radial * raw[a] / (length * length)) : d[a];
        }
    }
}

static void load_rows(double *out, const real *in, size_t stride, size_t rows, size_t size) {
    for (size_t t = 0; t < rows; t++)
        for (size_t a = 0; a < size; a++) out[t * size + a] = (double)in[t * stride + a];
}

void reference_load(AttentionReference *reference, size_t head, const real *q, size_t q_stride, const real *k,
                    size_t k_stride, const real *v, size_t v_stride) {
    const size_t tokens = reference->settings.tokens, size = reference->settings.qk_size,
                 v_size = reference->settings.v_size;
    reference->head = head;
    load_rows(reference->raw_q, q, q_stride, tokens, size);
    load_rows(reference->raw_k, k, k_stride, tokens, size);
    load_rows(reference->v, v, v_stride, tokens, v_size);
    Field *const fields[] = {&reference->near, &reference->distant};
    for (size_t f = 0; f < 2; f++) {
        bound_rows(reference, fields[f], fields[f]->q, reference->raw_q);
        bound_rows(reference, fields[f], fields[f]->k, reference->raw_k);
        memset(fields[f]->dq, 0, tokens * size * sizeof(double));
        memset(fields[f]->dk, 0, tokens * size * sizeof(double));
    }
    memset(reference->dv, 0, tokens * v_size * sizeof(double));
}

// γ^|t| or the window of the scalar kernels.
static double kernel_factor(const AttentionReference *reference, size_t distance) {
    if (is_kernel(reference, "rope-decay")) return pow(reference->settings.kernel_decay, (double)distance);
    if (is_kernel(reference, "rope-window")) return distance < reference->settings.kernel_window ? 1.0 : 0.0;
    return 1.0;
}

// out (D) = W_{i-j} kᵀ, or its transpose W_{i-j}ᵀ qᵀ.
static void apply_kernel(const AttentionReference *reference, double *out, const double *in, size_t i, size_t j,
                         bool transposed) {
    const size_t size = reference->settings.qk_size, half = size / 2, distance = i > j ? i - j : j - i;
    if (rotates(reference)) {
        const double factor = kernel_factor(reference, distance), sign = (i > j) != transposed ? 1.0 : -1.0;
        const double *c = reference->cosine + distance * half, *s = reference->sine + distance * half;
        for (size_t p = 0; p < half; p++) {
            out[p] = factor * (c[p] * in[p] + sign * s[p] * in[p + half]);
            out[p + half] = factor * (c[p] * in[p + half] - sign * s[p] * in[p]);
        }
    } else if (is_kernel(reference, "alibi")) {
        memcpy(out, in, size * sizeof(double));
    } else {
        const PositionTable *table = &reference->table;
        const size_t lag = (size_t)((ptrdiff_t)i - (ptrdiff_t)j - table->first_lag);
        memset(out, 0, size * sizeof(double));
        for (size_t e = 0; e < table->entries; e++) {
            const PositionEntry entry = table->entry[e];
            const double w = table->weight[e * table->lags + lag];
            if (transposed)
                out[entry.column] += w * in[entry.row];
            else
                out[entry.row] += w * in[entry.column];
        }
    }
}

static double bias(const AttentionReference *reference, size_t i, size_t j) {
    const double lag = (double)i - (double)j;
    if (is_kernel(reference, "alibi")) return -position_slope(reference->settings.heads, reference->head) * fabs(lag);
    const PositionTable *table = &reference->table;
    return table->bias ? table->bias[(ptrdiff_t)i - (ptrdiff_t)j - table->first_lag] : 0.0;
}

static const Field *field_of(const AttentionReference *reference, size_t i, size_t j) {
    const bool near = !reference->near_far || (i > j ? i - j : j - i) < reference->settings.near;
    return near ? &reference->near : &reference->distant;
}

static double logit(const AttentionReference *reference, const Field *field, size_t i, size_t j) {
    const size_t size = reference->settings.qk_size;
    double sum = 0.0;
    apply_kernel(reference, reference->turned, field->k + j * size, i, j, false);
    for (size_t a = 0; a < size; a++) sum += field->q[i * size + a] * reference->turned[a];
    return reference->settings.logit_scale * sum;
}

// log A of a pair with logit x; -Inf where it has no weight.
static double log_weight(const AttentionReference *reference, bool near, double x, double b) {
    const ReferenceFar *far = &reference->far;
    if (near || reference->settings.far == FAR_EXACT) return x + b;
    return reference->settings.far == FAR_POLYNOMIAL ? log(fabs(far->value(far->context, x))) + b : -INFINITY;
}

// value·exp(shift), where 0 stays 0 beside weights so low that exp(shift) is infinite.
static double lifted(double value, double shift) { return value == 0.0 ? 0.0 : value * exp(shift); }

// Fills weight and slope (dA/dx) of row i; returns Σ A. All weights carry a common factor by which the largest is 1.
static double row_weights(const AttentionReference *reference, size_t i, size_t count) {
    const AttentionFar far = reference->settings.far;
    double *weight = reference->weight, *slope = reference->slope, top = -INFINITY, sum = 0.0;
    for (size_t j = 0; j < count; j++) {
        const Field *field = field_of(reference, i, j);
        slope[j] = logit(reference, field, i, j);
        weight[j] = bias(reference, i, j);
        top = fmax(top, log_weight(reference, field == &reference->near, slope[j], weight[j]));
    }
    for (size_t j = 0; j < count; j++) {
        const bool near = field_of(reference, i, j) == &reference->near;
        const double x = slope[j], shift = weight[j] - top;
        weight[j] = slope[j] = near || far == FAR_EXACT ? exp(x + shift) : 0.0;
        if (!near && far == FAR_POLYNOMIAL) {
            weight[j] = lifted(reference->far.value(reference->far.context, x), shift);
            slope[j] = lifted(reference->far.slope(reference->far.context, x), shift);
        }
        sum += weight[j];
    }
    return sum;
}

static size_t row_length(const AttentionReference *reference, size_t i) {
    return reference->settings.causal ? i + 1 : reference->settings.tokens;
}

void reference_row(AttentionReference *reference, size_t i, double *o) {
    const size_t v_size = reference->settings.v_size, count = row_length(reference, i);
    const double sum = row_weights(reference, i, count);
    memset(o, 0, v_size * sizeof(double));
    for (size_t j = 0; j < count; j++)
        for (size_t e = 0; e < v_size; e++) o[e] += reference->weight[j] / sum * reference->v[j * v_size + e];
}

void reference_row_backward(AttentionReference *reference, size_t i, const real *d_o) {
    const size_t size = reference->settings.qk_size, v_size = reference->settings.v_size,
                 count = row_length(reference, i);
    const double sum = row_weights(reference, i, count), scale = reference->settings.logit_scale;
    double inner = 0.0; // do·o
    for (size_t j = 0; j < count; j++)
        for (size_t e = 0; e < v_size; e++)
            inner += (double)d_o[e] * reference->weight[j] / sum * reference->v[j * v_size + e];
    for (size_t j = 0; j < count; j++) {
        const Field *field = field_of(reference, i, j);
        double along = 0.0; // do·v_j
        for (size_t e = 0; e < v_size; e++) {
            along += (double)d_o[e] * reference->v[j * v_size + e];
            reference->dv[j * v_size + e] += reference->weight[j] / sum * (double)d_o[e];
        }
        const double dx = reference->slope[j] * (along - inner) / sum * scale;
        apply_kernel(reference, reference->turned, field->k + j * size, i, j, false);
        for (size_t a = 0; a < size; a++) field->dq[i * size + a] += dx * reference->turned[a];
        apply_kernel(reference, reference->turned, field->q + i * size, i, j, true);
        for (size_t a = 0; a < size; a++) field->dk[j * size + a] += dx * reference->turned[a];
    }
}

void reference_gradients(const AttentionReference *reference, double *dq, size_t q_stride, double *dk, size_t k_stride,
                         double *dv, size_t v_stride) {
    const Field *const fields[] = {&reference->near, &reference->distant};
    for (size_t f = 0; f < 2; f++) {
        unbound_rows(reference, fields[f], dq, q_stride, fields[f]->dq, reference->raw_q);
        unbound_rows(reference, fields[f], dk, k_stride, fields[f]->dk, reference->raw_k);
    }
    const size_t v_size = reference->settings.v_size;
    for (size_t t = 0; t < reference->settings.tokens; t++)
        for (size_t e = 0; e < v_size; e++) dv[t * v_stride + e] += reference->dv[t * v_size + e];
}
