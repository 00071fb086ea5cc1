// Elementwise loops of method lowrank: weights of pairs and their gradients, lanes along query tokens.
#include "attention/lowrank.h"

#include "core/vector_math.h"

static inline Vector lane_index(void) {
    Vector index;
    for (size_t lane = 0; lane < LANES; lane++) index[lane] = (real)lane;
    return index;
}

static inline Vector evaluate(const LowrankTile *tile, Vector x) { // Horner
    Vector value = vector_set(tile->coefficient[tile->degree]);
    for (size_t t = tile->degree; t-- > 0;) value = value * x + vector_set(tile->coefficient[t]);
    return value;
}

static inline Vector evaluate_slope(const LowrankTile *tile, Vector x) {
    Vector value = {0};
    for (size_t t = tile->degree; t > 0; t--) value = value * x + vector_set((real)t * tile->coefficient[t]);
    return value;
}

// Which lanes of a vector whose first lane has lag t0 are near, and which are far.
typedef struct Reach {
    bool any_near, any_far;
    VectorInt near, far;
} Reach;

static inline Reach reach_of(const LowrankTile *tile, ptrdiff_t t0, Vector index) {
    const ptrdiff_t near = (ptrdiff_t)tile->near_size;
    Vector t = vector_set((real)t0) + index, zero = {0}, edge = vector_set((real)near);
    return (Reach){t0 < near && t0 + (ptrdiff_t)LANES > 0, t0 + (ptrdiff_t)LANES > near, (t >= zero) & (t < edge),
                   (t >= edge) & (t >= zero)};
}

static Vector largest_exponent(const LowrankTile *tile, size_t lane, Vector index, Vector largest) {
    for (size_t row = tile->near_first; row < tile->rows; row++) {
        Reach at = reach_of(tile, tile->lag + (ptrdiff_t)lane - (ptrdiff_t)row, index);
        if (!at.any_near) continue;
        Vector x = vector_load(tile->near + row * tile->ld + lane);
        largest = vector_select(at.near & (x > largest), x, largest);
    }
    for (size_t row = 0; tile->far_exact && row < tile->far_rows; row++) {
        Reach at = reach_of(tile, tile->lag + (ptrdiff_t)lane - (ptrdiff_t)row, index);
        if (!at.any_far) continue;
        Vector x = vector_load(tile->far + row * tile->ld + lane);
        largest = vector_select(at.far & (x > largest), x, largest);
    }
    return largest;
}

static void forward(const LowrankTile *tile, real *largest, real *rescale) {
    const Vector index = lane_index(), zero = {0};
    for (size_t lane = 0; lane < tile->lanes; lane += LANES) {
        Vector before = vector_load(largest + lane), after = largest_exponent(tile, lane, index, before);
        vector_store(largest + lane, after);
        Vector far_weight = tile->far_exact ? zero : vector_exp(-after);
        const Vector kept = vector_exp(before - after);
        Vector sum = vector_load(tile->sum + lane) * kept, far_sum = vector_load(tile->far_sum + lane) * kept;
        for (size_t row = 0; row < tile->rows; row++) {
            Reach at = reach_of(tile, tile->lag + (ptrdiff_t)lane - (ptrdiff_t)row, index);
            Vector value = zero;
            if (row >= tile->near_first && at.any_near)
                value = vector_select(at.near, vector_exp(vector_load(tile->near + row * tile->ld + lane) - after), zero);
            if (row < tile->far_rows && at.any_far) {
                Vector x = vector_load(tile->far + row * tile->ld + lane);
                Vector far = tile->far_exact ? vector_exp(x - after) : evaluate(tile, x) * far_weight;
                value = vector_select(at.far, far, value);
                far_sum += vector_select(at.far, far, zero);
            }
            sum += value;
            vector_store(tile->near + row * tile->ld + lane, value);
        }
        vector_store(rescale + lane, kept);
        vector_store(tile->sum + lane, sum);
        vector_store(tile->far_sum + lane, far_sum);
    }
}

static void backward(const LowrankTile *tile, const real *log_sum, const real *weight, const real *delta) {
    const Vector index = lane_index(), zero = {0};
    for (size_t lane = 0; lane < tile->lanes; lane += LANES) {
        const Vector sum = vector_load(log_sum + lane), far_weight = vector_load(weight + lane);
        const Vector mean = vector_load(delta + lane);
        for (size_t row = 0; row < tile->rows; row++) {
            const size_t at_row = row * tile->ld + lane;
            Reach at = reach_of(tile, tile->lag + (ptrdiff_t)lane - (ptrdiff_t)row, index);
            Vector value = zero, d_near = zero, d_far = zero, slope = vector_load(tile->d + at_row) - mean;
            if (row >= tile->near_first && at.any_near) {
                value = vector_select(at.near, vector_exp(vector_load(tile->near + at_row) - sum), zero);
                d_near = value * slope;
            }
            if (row < tile->far_rows) {
                if (at.any_far) {
                    Vector x = vector_load(tile->far + at_row), far, d;
                    if (tile->far_exact) {
                        far = vector_exp(x - sum);
                        d = far * slope;
                    } else {
                        far = evaluate(tile, x) * far_weight;
                        d = evaluate_slope(tile, x) * far_weight * slope;
                    }
                    value = vector_select(at.far, far, value);
                    d_far = vector_select(at.far, d, zero);
                }
                vector_store(tile->far + at_row, d_far);
            }
            vector_store(tile->near + at_row, value);
            vector_store(tile->d + at_row, d_near);
        }
    }
}

static void pair_bounds(const LowrankTile *tile, real *out, const real *near_dk, const real *near_dv,
                        const real *far_dk, const real *far_dv) {
    const Vector index = lane_index();
    for (size_t row = 0; row < tile->rows; row++) {
        Vector dk = {0}, dv = {0};
        for (size_t lane = 0; lane < tile->lanes; lane += LANES) {
            Reach at = reach_of(tile, tile->lag + (ptrdiff_t)lane - (ptrdiff_t)row, index);
            Vector weight = vector_load(tile->near + row * tile->ld + lane);
            dk += weight * vector_select(at.near, vector_load(near_dk + lane), vector_load(far_dk + lane));
            dv += weight * vector_select(at.near, vector_load(near_dv + lane), vector_load(far_dv + lane));
        }
        out[2 * row] += vector_sum(dk);
        out[2 * row + 1] += vector_sum(dv);
    }
}

// As larger_or_nan, and its counterpart: what was NaN once stays so.
static inline Vector vector_larger_or_nan(Vector most, Vector value) {
    return vector_select((value > most) | (value != value), value, most);
}
static inline Vector vector_smaller_or_nan(Vector least, Vector value) {
    return vector_select((value < least) | (value != value), value, least);
}

static void reach(real *out, const real *x, size_t ld, const real *low, const real *high, size_t rows, size_t lanes) {
    for (size_t lane = 0; lane < lanes; lane += LANES) {
        Vector most = {0};
        for (size_t row = 0; row < rows; row++) {
            Vector at = vector_load(x + row * ld + lane);
            most = vector_larger_or_nan(most, vector_set(high[row]) - at);
            most = vector_larger_or_nan(most, at - vector_set(low[row]));
        }
        vector_store(out + lane, most);
    }
}

static void lane_largest(real *out, const real *x, size_t ld, size_t rows, size_t lanes) {
    for (size_t lane = 0; lane < lanes; lane += LANES) {
        Vector most = {0};
        for (size_t row = 0; row < rows; row++) {
            Vector at = vector_load(x + row * ld + lane);
            most = vector_larger_or_nan(most, vector_select(at < 0, -at, at));
        }
        vector_store(out + lane, most);
    }
}

static void row_dots(real *out, const real *a, const real *b, size_t stride, size_t rows, size_t columns) {
    for (size_t row = 0; row < rows; row++, a += stride, b += stride) {
        Vector sum = {0};
        size_t c = 0;
        for (; c + LANES <= columns; c += LANES) sum += vector_load(a + c) * vector_load(b + c);
        real total = vector_sum(sum);
        for (; c < columns; c++) total += a[c] * b[c];
        out[row] = total;
    }
}

static void scale_lanes(real *x, size_t ld, const real *factor, size_t rows, size_t lanes) {
    for (size_t row = 0; row < rows; row++)
        for (size_t lane = 0; lane < lanes; lane += LANES)
            vector_store(x + row * ld + lane, vector_load(x + row * ld + lane) * vector_load(factor + lane));
}

static void scale_rows(real *out, size_t out_stride, const real *in, size_t in_stride, const real *factor, size_t rows,
                       size_t columns) {
    for (size_t row = 0; row < rows; row++)
        for (size_t c = 0; c < columns; c++) out[row * out_stride + c] = in[row * in_stride + c] * factor[row];
}

static void exp_negative(real *out, const real *x, size_t lanes) {
    for (size_t lane = 0; lane < lanes; lane += LANES) vector_store(out + lane, vector_exp(-vector_load(x + lane)));
}

enum { HALF = LANES / 2 };
typedef real Narrow __attribute__((vector_size(HALF * sizeof(real))));
typedef double Wide __attribute__((vector_size(HALF * sizeof(double))));

// `half` is a constant where it matters: in a row of one vector the loops would cost more than the arithmetic.
static inline __attribute__((always_inline)) void rotate_rows(real *out, size_t out_stride, const real *in,
                                                              size_t in_stride, size_t rows, const size_t half,
                                                              const real *cosine, const real *sine,
                                                              size_t table_stride, const real *factor, real scale,
                                                              real direction) {
    for (size_t row = 0; row < rows; row++) {
        const real here = factor ? factor[row] * scale : scale;
        const real *a = in + row * in_stride, *b = a + half, *c = cosine + row * table_stride;
        const real *s = sine + row * table_stride;
        real *to_a = out + row * out_stride, *to_b = to_a + half;
        size_t p = 0;
#define TURN(Type, size)                                                                                               \
    for (; p + (size) <= half; p += (size)) {                                                                          \
        Type x, y, keep, turn;                                                                                         \
        memcpy(&x, a + p, sizeof x), memcpy(&y, b + p, sizeof y);                                                      \
        memcpy(&keep, c + p, sizeof keep), memcpy(&turn, s + p, sizeof turn);                                          \
        x *= here, y *= here, turn *= direction;                                                                       \
        const Type first = x * keep - y * turn, second = y * keep + x * turn;                                          \
        memcpy(to_a + p, &first, sizeof first), memcpy(to_b + p, &second, sizeof second);                              \
    }
        TURN(Vector, LANES)
        TURN(Narrow, HALF)
        TURN(real, 1)
#undef TURN
    }
}

static void rotate(real *out, size_t out_stride, const real *in, size_t in_stride, size_t rows, size_t half,
                   const real *cosine, const real *sine, size_t table_stride, const real *factor, real scale,
                   real direction) {
#define ROTATE(half)                                                                                                   \
    rotate_rows(out, out_stride, in, in_stride, rows, half, cosine, sine, table_stride, factor, scale, direction)
    if (half == LANES)
        ROTATE(LANES);
    else if (half == HALF)
        ROTATE(HALF);
    else
        ROTATE(half);
#undef ROTATE
}

// a·b in double, half a vector at a time
static inline double wide_dot(const real *a, const real *b, size_t size) {
    Wide sum = {0};
    size_t at = 0;
    for (; at + HALF <= size; at += HALF) {
        Narrow x, y;
        memcpy(&x, a + at, sizeof x);
        memcpy(&y, b + at, sizeof y);
        sum += __builtin_convertvector(x, Wide) * __builtin_convertvector(y, Wide);
    }
    double total = 0;
    for (; at < size; at++) total += (double)a[at] * (double)b[at];
    for (size_t lane = 0; lane < HALF; lane++) total += sum[lane];
    return total;
}

// Σ_row a[row]·x[row] in double, of half a vector of lanes; a NULL: Σ_row x[row]².
static inline Wide lane_dot(const real *a, const real *x, size_t ld, size_t rows) {
    Wide sum = {0};
    for (size_t row = 0; row < rows; row++) {
        Narrow part;
        memcpy(&part, x + row * ld, sizeof part);
        const Wide at = __builtin_convertvector(part, Wide);
        sum += a ? at * (double)a[row] : at * at;
    }
    return sum;
}

static void lane_products(double *square, double *along, const real *center, const real *x, size_t ld, size_t rows,
                          size_t lanes) {
    for (size_t lane = 0; lane < lanes; lane += HALF) {
        const Wide squares = lane_dot(NULL, x + lane, ld, rows), products = lane_dot(center, x + lane, ld, rows);
        memcpy(square + lane, &squares, sizeof squares);
        memcpy(along + lane, &products, sizeof products);
    }
}

static double column_range(real *low, real *high, const real *x, size_t stride, size_t rows, size_t columns) {
    double most = 0;
    for (size_t row = 0; row < rows; row++) {
        const real *at = x + row * stride;
        size_t c = 0;
        for (; c + LANES <= columns; c += LANES) {
            Vector value = vector_load(at + c);
            vector_store(low + c, vector_smaller_or_nan(vector_load(low + c), value));
            vector_store(high + c, vector_larger_or_nan(vector_load(high + c), value));
        }
        for (; c < columns; c++) {
            low[c] = at[c] < low[c] || at[c] != at[c] ? at[c] : low[c];
            high[c] = at[c] > high[c] || at[c] != at[c] ? at[c] : high[c];
        }
        const double square = wide_dot(at, at, columns);
        most = larger_or_nan(most, square);
    }
    return most;
}

static void row_squares(double *out, const real *in, size_t stride, size_t rows, size_t size) {
    for (size_t row = 0; row < rows; row++) out[row] = wide_dot(in + row * stride, in + row * stride, size);
}

static void unshrink(real *d, const real *in, size_t in_stride, const real *factor, double inverse, size_t rows,
                     size_t size) {
    for (size_t row = 0; row < rows; row++, d += size, in += in_stride) {
        if (!(factor[row] < 1)) continue;
        const double shorter = (double)factor[row];
        // in·direction is of length 1: d over the length of a long row might be below the smallest number
        const real keep = factor[row], direction = (real)(shorter * inverse),
                   radial = (real)(wide_dot(in, d, size) * shorter * shorter * inverse);
        for (size_t a = 0; a < size; a++) d[a] = keep * d[a] - radial * (in[a] * direction);
    }
}

const LowrankKernels ISA_NAME(lowrank_kernels) = {
    forward, backward, pair_bounds, reach, lane_largest, column_range, lane_products, row_dots,
    scale_lanes, scale_rows, exp_negative, rotate,
    row_squares, unshrink,
};
