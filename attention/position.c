// Position kernels: rotations, factors and biases by lag, tables (attention/position.h).
// Memory T·D reals for rotations, 2T per lag table, 2T·|S| for a table file. Source: fast RoPE attention, Definition 1.1
// and Section 3 (W_t supported on S, |S| = O(D)); Su et al., RoFormer; Press et al., ALiBi.
#include "attention/position.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "attention/position_kernels.h"
#include "attention/table.h"
#include "core/arena.h"

static const char *const kernel_names[] = {"rope", "rope-decay", "rope-window", "alibi"};

PositionKind position_kind(const char *kernel) {
    size_t kind = 0;
    while (kind < sizeof kernel_names / sizeof *kernel_names && strcmp(kernel, kernel_names[kind]) != 0) kind++;
    return (PositionKind)kind; // in the order of the names; POSITION_TABLE comes last
}

static real *new_reals(size_t count, size_t rows, Error *error) {
    size_t total, bytes;
    real *values = NULL;
    if (size_multiply(count, rows, &total) && size_multiply(total, sizeof(real), &bytes))
        values = calloc(total, sizeof(real));
    if (!values)
        error_set(error, ERROR_MEMORY, "There is no memory for the position kernel's tables (%zu × %zu).", rows, count);
    return values;
}

static bool create_rotation(Position *position, Error *error) {
    const size_t half = position->qk_size / 2;
    position->cosine = new_reals(half, position->tokens, error);
    position->sine = new_reals(half, position->tokens, error);
    if (!position->cosine || !position->sine) return false;
    for (size_t p = 0; p < half; p++) {
        const double frequency = position_frequency(position, p);
        for (size_t t = 0; t < position->tokens; t++) {
            position->cosine[t * half + p] = (real)cos((double)t * frequency);
            position->sine[t * half + p] = (real)sin((double)t * frequency);
        }
    }
    return true;
}

static ptrdiff_t lag_at(const Position *position, size_t index) {
    return (ptrdiff_t)position->tokens - 1 - (ptrdiff_t)index;
}

static bool create_lags(Position *position, Error *error) {
    const bool factor = position->kind == POSITION_ROPE_DECAY || position->kind == POSITION_ROPE_WINDOW;
    const bool bias = position->kind == POSITION_ALIBI || position->table.bias;
    if (factor && !(position->factor = new_reals(position->lag_count, 1, error))) return false;
    if (bias && !(position->bias = new_reals(position->lag_count, 1, error))) return false;
    if (bias && !(position->slope = calloc(position->heads, sizeof(double))))
        return error_set(error, ERROR_MEMORY, "There is no memory for the slopes of %zu heads.", position->heads);
    for (size_t h = 0; bias && h < position->heads; h++)
        position->slope[h] = position->kind == POSITION_ALIBI ? position_slope(position->heads, h) : 1.0;
    for (size_t i = 0; i < 2 * position->tokens - 1; i++) {
        const ptrdiff_t lag = lag_at(position, i);
        if (factor) position->factor[i] = (real)position_factor(position, lag);
        if (bias) position->bias[i] = (real)(position_bias(position, 0, lag) / position->slope[0]);
    }
    return true;
}

static bool create_table(Position *position, Error *error) {
    position->table_weight = new_reals(position->lag_count, position->table.entries, error);
    if (!position->table_weight) return false;
    for (size_t e = 0; e < position->table.entries; e++)
        for (size_t i = 0; i < 2 * position->tokens - 1; i++)
            position->table_weight[e * position->lag_count + i] =
                (real)position_weight(position, e, lag_at(position, i));
    return true;
}

bool position_create(Position *position, const AttentionSettings *settings, Error *error) {
    *position = (Position){
        .kind = position_kind(settings->kernel),
        .tokens = settings->tokens,
        .qk_size = settings->qk_size,
        .heads = settings->heads,
        .rope_theta = settings->rope_theta,
        .decay = settings->kernel_decay,
        .window = settings->kernel_window,
        .lag_count = 2 * settings->tokens - 1 + POSITION_LAG_PADDING,
    };
    position->rotates = position->kind <= POSITION_ROPE_WINDOW;
    bool created = true;
    if (position->kind == POSITION_TABLE && access(settings->kernel, F_OK) != 0 && errno == ENOENT)
        created = error_set(error, ERROR_USER,
                            "attention.kernel=%s is neither rope, rope-decay, rope-window nor alibi, and there is no "
                            "table file of that name.",
                            settings->kernel);
    else if (position->kind == POSITION_TABLE)
        created = table_read(&position->table, settings->kernel, position->qk_size, position->tokens, settings->causal,
                             error);
    created = created && (!position->rotates || create_rotation(position, error)) && create_lags(position, error) &&
              (position->kind != POSITION_TABLE || create_table(position, error));
    if (!created) position_destroy(position);
    return created;
}

void position_destroy(Position *position) {
    free(position->cosine);
    free(position->sine);
    free(position->factor);
    free(position->bias);
    free(position->slope);
    table_free(&position->table);
    free(position->table_weight);
    *position = (Position){0};
}

size_t position_bytes(const Position *position) {
    const size_t lag_tables = (position->factor != NULL) + (position->bias != NULL) + position->table.entries;
    const size_t rotations = position->rotates ? position->tokens * (position->qk_size / 2 * 2) : 0;
    return (rotations + lag_tables * position->lag_count) * sizeof(real) +
           (position->table.entries + (position->table.bias != NULL)) * position->table.lags * sizeof(double);
}

bool position_is_rotation(const Position *position) { return position->kind <= POSITION_ROPE_DECAY; }

double position_frequency(const Position *position, size_t pair) {
    return pow(position->rope_theta, -2.0 * (double)pair / (double)position->qk_size);
}

double position_factor(const Position *position, ptrdiff_t lag) {
    const double distance = fabs((double)lag);
    if (position->kind == POSITION_ROPE_DECAY) return pow(position->decay, distance);
    if (position->kind == POSITION_ROPE_WINDOW) return distance < (double)position->window ? 1.0 : 0.0;
    return 1.0;
}

// The value of a table over lags (lags values from first_lag), zero outside.
static double table_value(const PositionTable *table, const double *values, ptrdiff_t lag) {
    const ptrdiff_t index = lag - table->first_lag;
    return index >= 0 && index < (ptrdiff_t)table->lags ? values[index] : 0.0;
}

double position_bias(const Position *position, size_t head, ptrdiff_t lag) {
    if (position->kind == POSITION_ALIBI) return -position_slope(position->heads, head) * fabs((double)lag);
    return position->table.bias ? table_value(&position->table, position->table.bias, lag) : 0.0;
}

double position_slope(size_t heads, size_t head) {
    size_t power = 1;
    while (2 * power <= heads) power *= 2;
    if (head < power) return pow(2.0, -8.0 * (double)(head + 1) / (double)power);
    return pow(2.0, -8.0 * (double)(2 * (head - power) + 1) / (double)(2 * power));
}

size_t position_support(const Position *position) {
    if (position->kind == POSITION_TABLE) return position->table.entries;
    return position->rotates ? 2 * position->qk_size : position->qk_size;
}

// Rotations: four entries per pair, in the order (p, p), (p, p + D/2), (p + D/2, p), (p + D/2, p + D/2).
PositionEntry position_entry(const Position *position, size_t entry) {
    if (position->kind == POSITION_TABLE) return position->table.entry[entry];
    if (!position->rotates) return (PositionEntry){entry, entry};
    const size_t half = position->qk_size / 2, pair = entry / 4;
    return (PositionEntry){pair + (entry & 2 ? half : 0), pair + (entry & 1 ? half : 0)};
}

double position_weight(const Position *position, size_t entry, ptrdiff_t lag) {
    if (position->kind == POSITION_TABLE)
        return table_value(&position->table, position->table.weight + entry * position->table.lags, lag);
    if (!position->rotates) return 1.0;
    const double angle = (double)lag * position_frequency(position, entry / 4), factor = position_factor(position, lag);
    switch (entry % 4) { // R_iᵀ R_j = R_{j-i}, by rows
    case 1: return factor * sin(angle);
    case 2: return -factor * sin(angle);
    default: return factor * cos(angle);
    }
}

static void turn(const Position *position, real *out, size_t out_stride, const real *in, size_t in_stride, size_t first,
                 size_t count, real scale, real direction) {
    const size_t half = position->qk_size / 2;
    if (position->rotates) {
        position_kernels()->rotate(out, out_stride, in, in_stride, position->cosine + first * half,
                                   position->sine + first * half, half, count, scale, direction);
        return;
    }
    for (size_t t = 0; t < count; t++)
        for (size_t a = 0; a < position->qk_size; a++) out[t * out_stride + a] = in[t * in_stride + a] * scale;
}

void position_rotate(const Position *position, real *out, size_t out_stride, const real *in, size_t in_stride,
                     size_t first, size_t count, real scale) {
    turn(position, out, out_stride, in, in_stride, first, count, scale, 1);
}

void position_unrotate(const Position *position, real *out, size_t out_stride, const real *in, size_t in_stride,
                       size_t first, size_t count, real scale) {
    turn(position, out, out_stride, in, in_stride, first, count, scale, -1);
}
