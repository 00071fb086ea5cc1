// Rows of q and k on their way into the far and the near field of method lowrank, and gradients on their way out:
//
//     far   the F slowest dimensions, bounded, rotated, times √s         near   all D, bounded if asked, rotated, times s
//
// Cost O(D) per token. The far dimensions of a row are the pairs [far_pair, D/2): two runs of F/2.
#include <math.h>
#include <string.h>

#include "attention/lowrank.h"

typedef struct FarRows {
    const real *row;
    size_t stride;
} FarRows;

// The far dimensions of rows of q or k, side by side: where they are if they are all, else copied to out.
static FarRows gather_far(const LowrankPlan *plan, real *out, const real *in, size_t stride, size_t count) {
    const size_t half = plan->far_size / 2, offset = plan->base.settings.qk_size / 2;
    if (plan->far_pair == 0) return (FarRows){in, stride};
    for (size_t r = 0; r < count; r++) {
        const real *from = in + r * stride + plan->far_pair;
        for (size_t a = 0; a < half; a++) { // runs of a few elements: a call of memcpy each would cost more
            out[r * 2 * half + a] = from[a];
            out[r * 2 * half + half + a] = from[offset + a];
        }
    }
    return (FarRows){out, plan->far_size};
}

static void rotate_far(const LowrankPlan *plan, real *out, FarRows from, const real *factor, size_t first, size_t count,
                       real direction) {
    const size_t pairs = plan->base.settings.qk_size / 2, at = first * pairs + plan->far_pair, far = plan->far_size;
    lowrank_kernels()->rotate(out, far, from.row, from.stride, count, far / 2, plan->position.cosine + at,
                              plan->position.sine + at, pairs, factor, plan->far_scale, direction);
}

void lowrank_far_rows(const LowrankPlan *plan, real *far, real *raw, const real *in, size_t stride,
                      const real *factor, size_t first, size_t count) {
    FarRows from = gather_far(plan, raw, in, stride, count);
    const bool measured = plan->far_bound.kind == BOUND_BALL && factor;
    if (plan->far_bound.kind != BOUND_NONE && !measured) {
        bound_apply(plan->far_bound, far, plan->far_size, from.row, from.stride, count, plan->far_size);
        from = (FarRows){far, plan->far_size};
    }
    rotate_far(plan, far, from, measured ? factor + first : NULL, first, count, 1);
    for (size_t r = 0; r < count; r++) real_mark_overflow(far + r * plan->far_size, plan->far_size);
}

static void rotate_near(const LowrankPlan *plan, real *out, const real *in, size_t stride, size_t first, size_t count,
                        real scale, real direction) {
    const size_t size = plan->base.settings.qk_size, pairs = size / 2, at = first * pairs;
    lowrank_kernels()->rotate(out, size, in, stride, count, pairs, plan->position.cosine + at,
                              plan->position.sine + at, pairs, NULL, scale, direction);
}

void lowrank_near_rows(const LowrankPlan *plan, real *near, const real *in, size_t stride, size_t first, size_t count,
                       real scale) {
    const size_t size = plan->base.settings.qk_size;
    const bool bounded = plan->near_bound.kind != BOUND_NONE;
    if (bounded) bound_apply(plan->near_bound, near, size, in, stride, count, size);
    rotate_near(plan, near, bounded ? near : in, bounded ? size : stride, first, count, scale, 1);
    for (size_t r = 0; r < count; r++) real_mark_overflow(near + r * size, size);
}

void lowrank_rows_backward(const LowrankPlan *plan, real *out, size_t out_stride, bool accumulate, real *d_near,
                           real near_scale, real *d_far, real *raw, const real *in, size_t stride,
                           const real *factor, size_t first, size_t count) {
    const size_t size = plan->base.settings.qk_size, far = plan->far_size, half = far / 2;
    if (d_near) {
        rotate_near(plan, d_near, d_near, size, first, count, near_scale, -1);
        bound_backward(plan->near_bound, d_near, size, in, stride, count, size);
    }
    for (size_t r = 0; r < count; r++)
        for (size_t a = 0; a < size; a++)
            out[r * out_stride + a] = (accumulate ? out[r * out_stride + a] : 0) + (d_near ? d_near[r * size + a] : 0);
    if (!d_far) return;
    rotate_far(plan, d_far, (FarRows){d_far, far}, NULL, first, count, -1);
    const FarRows from = gather_far(plan, raw, in, stride, count);
    if (plan->far_bound.kind == BOUND_BALL)
        lowrank_kernels()->unshrink(d_far, from.row, from.stride, factor + first, 1 / plan->far_bound.limit, count, far);
    else
        bound_backward(plan->far_bound, d_far, far, from.row, from.stride, count, far);
    for (size_t r = 0; r < count; r++) {
        real *to = out + r * out_stride + plan->far_pair;
        for (size_t a = 0; a < half; a++) to[a] += d_far[r * far + a];
        for (size_t a = 0; a < half; a++) to[size / 2 + a] += d_far[r * far + half + a];
    }
}

double lowrank_square(const real *row, size_t size) {
    double sum = 0;
    for (size_t a = 0; a < size; a++) sum += (double)row[a] * (double)row[a];
    return sum;
}

// What the ball shortens a row by, and the largest square of a row after it; returns how many it shortens.
static size_t measure_ball(double radius, real *factor, double *most, const double *square, size_t rows) {
    size_t changed = 0;
    for (size_t r = 0; r < rows; r++) {
        const bool outside = square[r] > radius * radius;
        const real scale = outside ? bound_ball_factor(radius, sqrt(square[r])) : 1;
        const double here = square[r] * (double)scale * (double)scale;
        if (factor) factor[r] = scale;
        *most = larger_or_nan(*most, here);
        changed += outside;
    }
    return changed;
}

void lowrank_measure(const LowrankPlan *plan, LowrankNorms *norms, real *factor, real *rows, const real *in,
                     size_t stride, size_t first, size_t last) {
    const size_t far = plan->far_size, size = plan->base.settings.qk_size;
    const bool ball = plan->far_bound.kind == BOUND_BALL, same = plan->near_bound.kind == plan->far_bound.kind;
    double most_far = 0, most_near = 0, square[KEY_TILE];
    size_t changed = 0;
    for (size_t at = first; at < last; at += KEY_TILE) {
        const size_t count = last - at < KEY_TILE ? last - at : KEY_TILE;
        FarRows from = gather_far(plan, rows, in + at * stride, stride, count);
        if (plan->far_bound.kind == BOUND_CLIP) {
            changed += bound_apply(plan->far_bound, rows, far, from.row, from.stride, count, far);
            from = (FarRows){rows, far};
        }
        lowrank_kernels()->row_squares(square, from.row, from.stride, count, far);
        changed += measure_ball(ball ? plan->far_bound.limit : INFINITY, factor ? factor + at : NULL, &most_far, square,
                                count);
        if (far < size || plan->far_bound.kind == BOUND_CLIP)
            lowrank_kernels()->row_squares(square, in + at * stride, stride, count, size);
        for (size_t r = 0; r < count; r++) most_near = larger_or_nan(most_near, square[r]);
    }
    *norms = (LowrankNorms){most_far, far == size && same ? most_far : most_near, (double)changed};
}

void lowrank_prefetch(const LowrankPlan *plan, const real *rows, size_t stride, size_t columns, size_t first) {
    enum { LINE = 64 / sizeof(real) };
    const size_t tokens = plan->base.settings.tokens;
    const size_t last = first + plan->chunk < tokens ? first + plan->chunk : tokens;
    for (size_t row = first; row < last; row++)
        for (size_t c = 0; c < columns; c += LINE) __builtin_prefetch(rows + row * stride + c, 0, 2);
}

void lowrank_pack(real *out, const real *in, size_t stride, size_t count, size_t columns) {
    for (size_t r = 0; r < count; r++) memcpy(out + r * columns, in + r * stride, columns * sizeof(real));
}

const real *lowrank_window_values(const LowrankTask *task, size_t first) {
    return task->work.value + (first - task->window_first) * task->plan->base.settings.v_size;
}

void lowrank_window_advance(LowrankTask *task, const real *k, size_t k_stride, const real *v, size_t v_stride,
                            size_t chunk_first, bool with_gradients) {
    const LowrankPlan *plan = task->plan;
    LowrankWork *work = &task->work;
    const size_t size = plan->base.settings.qk_size, far = plan->far_size, value = plan->base.settings.v_size;
    const size_t tokens = plan->base.settings.tokens;
    const size_t last = chunk_first + plan->chunk < tokens ? chunk_first + plan->chunk : tokens;
    size_t first = lowrank_block_first(plan, chunk_first), kept = 0; // at the start of a segment the window is empty
    if (task->window_last > first && last - task->window_first <= plan->window_rows) {
        first = task->window_first; // there is room behind: rows that are done with stay until there is none
        kept = task->window_last - first;
    } else if (task->window_last > first) {
        const size_t drop = first - task->window_first;
        kept = task->window_last - first;
        memmove(work->near_key, work->near_key + drop * size, kept * size * sizeof(real));
        memmove(work->far_key, work->far_key + drop * far, kept * far * sizeof(real));
        memmove(work->value, work->value + drop * value, kept * value * sizeof(real));
        if (task->certify) memmove(work->key_bound, work->key_bound + drop * 2, kept * 2 * sizeof(real));
        if (with_gradients) {
            memmove(work->d_near_key, work->d_near_key + drop * size, kept * size * sizeof(real));
            memmove(work->d_far_key, work->d_far_key + drop * far, kept * far * sizeof(real));
            memmove(work->d_value, work->d_value + drop * value, kept * value * sizeof(real));
        }
    }
    const size_t fresh = first + kept, count = last - fresh;
    lowrank_near_rows(plan, work->near_key + kept * size, k + fresh * k_stride, k_stride, fresh, count, 1);
    lowrank_pack(work->value + kept * value, v + fresh * v_stride, v_stride, count, value);
    if (plan->far_field)
        lowrank_far_rows(plan, work->far_key + kept * far, work->rows, k + fresh * k_stride, k_stride,
                         task->key_factor, fresh, count);
    if (with_gradients) {
        memset(work->d_near_key + kept * size, 0, count * size * sizeof(real));
        memset(work->d_far_key + kept * far, 0, count * far * sizeof(real));
        memset(work->d_value + kept * value, 0, count * value * sizeof(real));
        memset(work->key_bound + kept * 2, 0, count * 2 * sizeof(real));
    }
    task->window_first = first;
    task->window_last = last;
}

void lowrank_to_lanes(size_t lanes, real *out, const real *in, size_t stride, size_t count, size_t columns) {
    tile_kernels()->transpose(out, lanes, in, stride, count, columns);
    for (size_t c = 0; count < lanes && c < columns; c++)
        memset(out + c * lanes + count, 0, (lanes - count) * sizeof(real));
}

void lowrank_near_queries(LowrankTask *task, const real *q, size_t q_stride, size_t chunk_first, size_t count) {
    const LowrankPlan *plan = task->plan;
    LowrankWork *work = &task->work;
    const size_t size = plan->base.settings.qk_size;
    lowrank_near_rows(plan, work->near_query, q + chunk_first * q_stride, q_stride, chunk_first, count,
                      (real)plan->base.settings.logit_scale);
    lowrank_to_lanes(work->lanes, work->near_query_t, work->near_query, size, count, size);
}

void lowrank_far_queries(LowrankTask *task, const real *q, size_t q_stride, const real *factor, size_t chunk_first,
                         size_t count) {
    const LowrankPlan *plan = task->plan;
    LowrankWork *work = &task->work;
    lowrank_far_rows(plan, work->far_query, work->rows, q + chunk_first * q_stride, q_stride, factor, chunk_first,
                     count);
    lowrank_to_lanes(work->lanes, work->far_query_t, work->far_query, plan->far_size, count, plan->far_size);
}
