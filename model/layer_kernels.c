// RMSNorm, SwiGLU, cross-entropy, token shift and the matrix-vector product on vectors of `real`. The formulas are in
// layer_kernels.h. Sums within a row run over the lanes of one vector and are then folded by a fixed tree, so a row's
// result depends on the row alone.
#include "model/layer_kernels.h"

#include "core/vector_math.h"

// 1 / rms of a row with this sum of squares. Where that overflows (numbers of 1e19) NaN, not the zero that it would round
// to: a row of zeros passes for a finite one, and a run that has diverged for one that predicts nothing.
static inline real row_scale(real squares, size_t n, real epsilon) {
    const real mean = squares / (real)n + epsilon;
    return isfinite(mean) ? 1 / (real)sqrt(mean) : (real)NAN;
}

// out = (x + delta) ⊙ weight / rms(x + delta); sum as in rms_norm.
static inline void norm_row(real *out, real *sum, const real *x, const real *delta, const real *weight, size_t n,
                            real epsilon) {
    Vector squares = {0};
    real tail = 0;
    size_t i = 0;
    if (delta) {
        for (; i + LANES <= n; i += LANES) {
            Vector value = vector_load(x + i) + vector_load(delta + i);
            vector_store(sum + i, value);
            squares += value * value;
        }
        for (; i < n; i++) {
            sum[i] = x[i] + delta[i];
            tail += sum[i] * sum[i];
        }
        x = sum;
    } else {
        for (; i + LANES <= n; i += LANES) squares += vector_load(x + i) * vector_load(x + i);
        for (; i < n; i++) tail += x[i] * x[i];
    }
    real scale = row_scale(vector_sum(squares) + tail, n, epsilon);
    for (i = 0; i + LANES <= n; i += LANES)
        vector_store(out + i, vector_load(x + i) * vector_set(scale) * vector_load(weight + i));
    for (; i < n; i++) out[i] = x[i] * scale * weight[i];
}

// dx may be dy. With c = mean(g ⊙ x)·scale², dx = scale·(g − x·c), and x̂ = scale·x.
static inline void norm_row_backward(real *dx, real *dweight, const real *dy, const real *x, const real *weight,
                                     size_t n, real epsilon, bool accumulate) {
    Vector squares = {0}, products = {0};
    real square_tail = 0, product_tail = 0;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        Vector value = vector_load(x + i);
        squares += value * value;
        products += value * vector_load(dy + i) * vector_load(weight + i);
    }
    for (; i < n; i++) {
        square_tail += x[i] * x[i];
        product_tail += x[i] * dy[i] * weight[i];
    }
    real scale = row_scale(vector_sum(squares) + square_tail, n, epsilon);
    real along = (vector_sum(products) + product_tail) / (real)n * scale * scale;
    for (i = 0; i + LANES <= n; i += LANES) {
        Vector value = vector_load(x + i), d = vector_load(dy + i);
        Vector out = vector_set(scale) * (d * vector_load(weight + i) - value * vector_set(along));
        vector_store(dweight + i, vector_load(dweight + i) + d * value * vector_set(scale));
        vector_store(dx + i, accumulate ? vector_load(dx + i) + out : out);
    }
    for (; i < n; i++) {
        real d = dy[i], out = scale * (d * weight[i] - x[i] * along);
        dweight[i] += d * x[i] * scale;
        dx[i] = accumulate ? dx[i] + out : out;
    }
}

static void rms_norm(real *out, real *sum, const real *x, const real *delta, const real *weight, size_t rows, size_t n,
                     real epsilon) {
    for (size_t row = 0; row < rows; row++)
        norm_row(out + row * n, delta ? sum + row * n : NULL, x + row * n, delta ? delta + row * n : NULL, weight, n,
                 epsilon);
}

static void rms_norm_backward(real *dx, real *dweight, const real *dy, const real *x, const real *weight, size_t rows,
                              size_t n, real epsilon, bool accumulate) {
    for (size_t row = 0; row < rows; row++)
        norm_row_backward(dx + row * n, dweight, dy + row * n, x + row * n, weight, n, epsilon, accumulate);
}

static void head_norm(real *out, const real *x, const real *weight, size_t rows, size_t stride, size_t heads, size_t n,
                      real epsilon) {
    for (size_t row = 0; row < rows; row++)
        for (size_t head = 0; head < heads; head++) {
            size_t at = row * stride + head * n;
            norm_row(out + at, NULL, x + at, NULL, weight, n, epsilon);
        }
}

static void head_norm_backward(real *d, real *dweight, const real *x, const real *weight, size_t rows, size_t stride,
                               size_t heads, size_t n, real epsilon) {
    for (size_t row = 0; row < rows; row++)
        for (size_t head = 0; head < heads; head++) {
            size_t at = row * stride + head * n;
            norm_row_backward(d + at, dweight, d + at, x + at, weight, n, epsilon, false);
        }
}

static inline Vector sigmoid(Vector x) { return vector_set(1) / (vector_set(1) + vector_exp(-x)); }

// The last, partial vector of a row goes through the same arithmetic, padded with zeros.
static inline Vector load_part(const real *p, size_t count) {
    Vector v = {0};
    memcpy(&v, p, count * sizeof(real));
    return v;
}
static inline void store_part(real *p, Vector v, size_t count) { memcpy(p, &v, count * sizeof(real)); }

static void swiglu(real *out, const real *gate_up, size_t rows, size_t n) {
    for (size_t row = 0; row < rows; row++, out += n, gate_up += 2 * n) {
        const real *gate = gate_up, *up = gate_up + n;
        size_t i = 0;
        for (; i + LANES <= n; i += LANES) {
            Vector g = vector_load(gate + i);
            vector_store(out + i, g * sigmoid(g) * vector_load(up + i));
        }
        if (i < n) {
            Vector g = load_part(gate + i, n - i);
            store_part(out + i, g * sigmoid(g) * load_part(up + i, n - i), n - i);
        }
    }
}

// silu(g) = g·σ, silu'(g) = σ·(1 + g·(1 − σ))
static inline void swiglu_gradient(Vector *d_out, Vector *gate, Vector *up) {
    Vector g = *gate, u = *up, d = *d_out, s = sigmoid(g), silu = g * s;
    *d_out = silu * u;
    *up = d * silu;
    *gate = d * u * s * (vector_set(1) + g * (vector_set(1) - s));
}

static void swiglu_backward(real *d_out, real *gate_up, size_t rows, size_t n) {
    for (size_t row = 0; row < rows; row++, d_out += n, gate_up += 2 * n) {
        real *gate = gate_up, *up = gate_up + n;
        size_t i = 0;
        for (; i + LANES <= n; i += LANES) {
            Vector d = vector_load(d_out + i), g = vector_load(gate + i), u = vector_load(up + i);
            swiglu_gradient(&d, &g, &u);
            vector_store(d_out + i, d);
            vector_store(gate + i, g);
            vector_store(up + i, u);
        }
        if (i < n) {
            Vector d = load_part(d_out + i, n - i), g = load_part(gate + i, n - i), u = load_part(up + i, n - i);
            swiglu_gradient(&d, &g, &u);
            store_part(d_out + i, d, n - i);
            store_part(gate + i, g, n - i);
            store_part(up + i, u, n - i);
        }
    }
}

// NaN if a value is -Inf, whose exponential would be 0 and nothing else.
static real largest(const real *values, size_t n) {
    Vector most = vector_set(values[0]), least = most;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const Vector value = vector_load(values + i);
        most = vector_max(value, most);
        least = vector_min(value, least);
    }
    real m = vector_largest(most), l = -vector_largest(-least);
    for (; i < n; i++) {
        m = values[i] > m ? values[i] : m;
        l = values[i] < l ? values[i] : l;
    }
    return l == -(real)INFINITY ? (real)NAN : m;
}

// Σ exp(x − shift) in pieces of EXP_PIECE, the pieces in double: a vocabulary of 10⁵ would cost digits in a float.
// store: writes the exponentials over the logits. NaN and Inf in a logit reach the sum, and so the loss (-Inf through
// the shift).
enum { EXP_PIECE = 32 * LANES };
static double sum_exponentials(real *logits, size_t n, real shift, bool store) {
    double total = 0;
    for (size_t start = 0; start < n; start += EXP_PIECE) {
        size_t end = n - start < EXP_PIECE ? n : start + EXP_PIECE, i = start;
        Vector sum = {0};
        for (; i + LANES <= end; i += LANES) {
            Vector e = vector_exp(vector_load(logits + i) - vector_set(shift));
            if (store) vector_store(logits + i, e);
            sum += e;
        }
        total += vector_sum(sum);
        if (i < end) {
            Vector e = vector_exp(load_part(logits + i, end - i) - vector_set(shift));
            if (store) store_part(logits + i, e, end - i);
            for (size_t lane = 0; lane < end - i; lane++) total += e[lane];
        }
    }
    return total;
}

// Whether the target is the first of the logits that are `most`, the one that a greedy reader takes: where all logits
// are equal, not every target is right.
static bool is_answer(const real *logits, size_t target, real most) {
    if (logits[target] != most) return false;
    size_t i = 0;
    while (logits[i] != most) i++;
    return i == target;
}

static double cross_entropy(real *logits, size_t n, size_t target, real gradient_weight, unsigned char *correct) {
    real most = largest(logits, n), at_target = logits[target];
    *correct = is_answer(logits, target, most);
    double sum = sum_exponentials(logits, n, most, gradient_weight != 0);
    if (gradient_weight != 0) {
        real scale = (real)(gradient_weight / sum);
        size_t i = 0;
        for (; i + LANES <= n; i += LANES) vector_store(logits + i, vector_load(logits + i) * vector_set(scale));
        for (; i < n; i++) logits[i] *= scale;
        logits[target] -= gradient_weight;
    }
    return log(sum) + (double)most - (double)at_target;
}

// The loops below are plain: the compiler vectorises them for each instruction set as they are.

static void shift(real *out, const real *current, const real *previous, const real *mix, size_t n) {
    if (previous)
        for (size_t i = 0; i < n; i++) out[i] = current[i] + mix[i] * (previous[i] - current[i]);
    else
        for (size_t i = 0; i < n; i++) out[i] = current[i] - mix[i] * current[i];
}

static void shift_backward_mix(real *d_mix, const real *dx, const real *current, const real *previous, size_t n) {
    if (previous)
        for (size_t i = 0; i < n; i++) d_mix[i] += dx[i] * (previous[i] - current[i]);
    else
        for (size_t i = 0; i < n; i++) d_mix[i] -= dx[i] * current[i];
}

static void shift_backward(real *d_embedding, const real *dx, const real *dx_next, const real *mix, size_t n) {
    if (!mix)
        for (size_t i = 0; i < n; i++) d_embedding[i] += dx[i];
    else if (!dx_next)
        for (size_t i = 0; i < n; i++) d_embedding[i] += (1 - mix[i]) * dx[i];
    else
        for (size_t i = 0; i < n; i++) d_embedding[i] += (1 - mix[i]) * dx[i] + mix[i] * dx_next[i];
}

enum { PARTIAL_COLUMNS = 64 };
static void add_partials(real *out, const real *partials, size_t blocks, size_t n) {
    for (size_t start = 0; start < n; start += PARTIAL_COLUMNS) {
        size_t count = n - start < PARTIAL_COLUMNS ? n - start : PARTIAL_COLUMNS;
        double total[PARTIAL_COLUMNS] = {0};
        for (size_t block = 0; block < blocks; block++)
            for (size_t i = 0; i < count; i++) total[i] += partials[block * n + start + i];
        for (size_t i = 0; i < count; i++) out[start + i] += (real)total[i];
    }
}

// Four accumulators of one row hide the latency of the additions.
static void matrix_vector(real *out, const real *matrix, const real *x, size_t rows, size_t n) {
    for (size_t row = 0; row < rows; row++, matrix += n) {
        Vector sums[4] = {{0}};
        size_t i = 0;
        for (; i + 4 * LANES <= n; i += 4 * LANES)
            for (size_t u = 0; u < 4; u++)
                sums[u] += vector_load(matrix + i + u * LANES) * vector_load(x + i + u * LANES);
        for (; i + LANES <= n; i += LANES) sums[0] += vector_load(matrix + i) * vector_load(x + i);
        real tail = 0;
        for (; i < n; i++) tail += matrix[i] * x[i];
        out[row] = vector_sum((sums[0] + sums[1]) + (sums[2] + sums[3])) + tail;
    }
}

const LayerKernels ISA_NAME(layer_kernels) = {
    .rms_norm = rms_norm,
    .rms_norm_backward = rms_norm_backward,
    .head_norm = head_norm,
    .head_norm_backward = head_norm_backward,
    .swiglu = swiglu,
    .swiglu_backward = swiglu_backward,
    .cross_entropy = cross_entropy,
    .shift = shift,
    .shift_backward_mix = shift_backward_mix,
    .shift_backward = shift_backward,
    .add_partials = add_partials,
    .matrix_vector = matrix_vector,
};
