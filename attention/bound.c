// Bounding of q and k, and its exact backward (attention/bound.h). One pass over memory.
#include "attention/bound.h"

#include <string.h>
#include <tgmath.h> // nextafter in the precision of real

// The largest real that is not above x > 0.
static double round_down(double x) {
    const real nearest = (real)x;
    return (double)((double)nearest > x ? nextafter(nearest, (real)0) : nearest);
}

Bound bound_make(const AttentionSettings *settings) {
    Bound bound = {settings->bound, 0.0};
    if (bound.kind == BOUND_CLIP) bound.limit = round_down(settings->entry_bound);
    if (bound.kind == BOUND_BALL)
        bound.limit = round_down(sqrt(settings->logit_bound / settings->logit_scale) * (1.0 - 4.0 * REAL_EPSILON));
    return bound;
}

double bound_interval(const AttentionSettings *settings, double weight_norm) {
    const bool some = settings->far_size && settings->far_size < settings->qk_size;
    const double far = (double)(some ? settings->far_size : settings->qk_size);
    double interval = settings->logit_bound;
    if (settings->bound == BOUND_CLIP) {
        const double guaranteed =
            settings->logit_scale * far * settings->entry_bound * settings->entry_bound * weight_norm;
        if (!(interval > 0.0 && interval < guaranteed)) interval = guaranteed;
    }
    // the ball is around q and k, before W_t makes them longer or shorter
    if (settings->bound == BOUND_BALL) interval *= weight_norm;
    return interval * (1.0 + 128.0 * REAL_EPSILON);
}

size_t bound_units(Bound bound, size_t rows, size_t size) {
    return bound.kind == BOUND_CLIP ? rows * size : bound.kind == BOUND_BALL ? rows : 0;
}

static double dot(const real *a, const real *b, size_t size) {
    double sums[4] = {0}; // four chains, so that additions do not wait for one another
    size_t i = 0;
    for (; i + 4 <= size; i += 4)
        for (size_t n = 0; n < 4; n++) sums[n] += (double)a[i + n] * (double)b[i + n];
    for (; i < size; i++) sums[0] += (double)a[i] * (double)b[i];
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

static size_t clip_row(real *out, const real *in, size_t size, real limit) {
    size_t changed = 0;
    for (size_t i = 0; i < size; i++) { // comparisons let NaN through, so that it is found later; Inf becomes NaN
        const real x = in[i];
        changed += (x > limit) | (x < -limit);
        out[i] = (x > limit ? limit : x < -limit ? -limit : x) + real_zero_if_finite(x);
    }
    return changed;
}

real bound_ball_factor(double radius, double length) {
    const double factor = radius / length;
    return factor >= REAL_NORMAL_MIN || radius == 0 ? (real)factor : (real)NAN; // also if it is NaN
}

static size_t shrink_row(real *out, const real *in, size_t size, double radius) {
    const double length = sqrt(dot(in, in, size));
    const bool outside = length > radius;
    const real scale = outside ? bound_ball_factor(radius, length) : 1;
    for (size_t i = 0; i < size; i++) out[i] = in[i] * scale;
    return outside;
}

size_t bound_apply(Bound bound, real *out, size_t out_stride, const real *in, size_t in_stride, size_t rows,
                   size_t size) {
    size_t changed = 0;
    for (size_t t = 0; t < rows; t++) {
        real *to = out + t * out_stride;
        const real *from = in + t * in_stride;
        switch (bound.kind) {
        case BOUND_CLIP: changed += clip_row(to, from, size, (real)bound.limit); break;
        case BOUND_BALL: changed += shrink_row(to, from, size, bound.limit); break;
        default:
            if (to != from) memcpy(to, from, size * sizeof(real));
        }
    }
    return changed;
}

static void unshrink_row(real *d, const real *in, size_t size, double radius) {
    const double square = dot(in, in, size), length = sqrt(square);
    if (!(length > radius)) return;
    const double scale = radius / length, radial = dot(in, d, size) / square;
    for (size_t i = 0; i < size; i++) d[i] = (real)(scale * ((double)d[i] - radial * (double)in[i]));
}

void bound_backward(Bound bound, real *d, size_t d_stride, const real *in, size_t in_stride, size_t rows, size_t size) {
    if (bound.kind == BOUND_NONE) return;
    for (size_t t = 0; t < rows; t++) {
        real *gradient = d + t * d_stride;
        const real *x = in + t * in_stride;
        if (bound.kind == BOUND_BALL) {
            unshrink_row(gradient, x, size, bound.limit);
            continue;
        }
        const real limit = (real)bound.limit;
        for (size_t i = 0; i < size; i++) gradient[i] = (x[i] > limit || x[i] < -limit) ? 0 : gradient[i];
    }
}
