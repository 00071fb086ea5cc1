// Polynomials near exp, with proofs of how near: Remez exchange for the weighted minimax problem
//
//     min over P of degree g of  max over |x| ≤ Λ of |P(x)e^{-x} - 1|
//
// and cell-wise Taylor bounds for the suprema. Everything in long double, once per plan; cost negligible.
// Source: forward paper, lemma on polynomial approximation (Aggarwal-Alman); the weight is ours (attention.md, 2.5).
#include "attention/polynomial.h"

#include <math.h>

typedef long double Wide;
enum { MAX_POINTS = POLYNOMIAL_MAX_DEGREE + 2, GRID = 4096, EXCHANGES = 60, MAX_INTERVAL = 64 };

// ---- evaluation --------------------------------------------------------------------------------------------------

static Wide horner(const double *c, size_t degree, Wide x) {
    Wide sum = c[degree];
    for (size_t t = degree; t-- > 0;) sum = sum * x + c[t];
    return sum;
}

double polynomial_value(const Polynomial *polynomial, double x) {
    return (double)horner(polynomial->coefficient, polynomial->degree, x);
}

double polynomial_derivative(const Polynomial *polynomial, double x) {
    Wide sum = 0;
    for (size_t t = polynomial->degree; t > 0; t--) sum = sum * x + t * (Wide)polynomial->coefficient[t];
    return (double)sum;
}

double polynomial_magnitude(const Polynomial *polynomial, double x) {
    Wide sum = 0;
    for (size_t t = polynomial->degree + 1; t-- > 0;) sum = sum * x + fabsl(polynomial->coefficient[t]);
    return (double)sum;
}

static double cell_lookup(const Polynomial *polynomial, const double *table, double limit) {
    if (!(limit <= polynomial->interval)) return INFINITY; // NaN too
    double cell = ceil(limit / polynomial->interval * POLYNOMIAL_CELLS * (1 + 1e-14));
    size_t index = cell < 1 ? 0 : (size_t)cell - 1;
    return table[index < POLYNOMIAL_CELLS ? index : POLYNOMIAL_CELLS - 1];
}

double polynomial_error(const Polynomial *polynomial, double limit) {
    return cell_lookup(polynomial, polynomial->error, limit);
}

double polynomial_slope_error(const Polynomial *polynomial, double limit) {
    return cell_lookup(polynomial, polynomial->slope_error, limit);
}

double polynomial_below(const Polynomial *polynomial, double limit) {
    return cell_lookup(polynomial, polynomial->below, limit);
}

// ---- minimax -----------------------------------------------------------------------------------------------------

// Solves the n×n system a·x = b in place by elimination with row pivots; the answer is left in b.
static bool solve(Wide a[MAX_POINTS][MAX_POINTS], Wide *b, size_t n) {
    for (size_t k = 0; k < n; k++) {
        size_t pivot = k;
        for (size_t i = k + 1; i < n; i++)
            if (fabsl(a[i][k]) > fabsl(a[pivot][k])) pivot = i;
        if (a[pivot][k] == 0) return false;
        for (size_t j = 0; j < n; j++) {
            Wide swap = a[k][j];
            a[k][j] = a[pivot][j];
            a[pivot][j] = swap;
        }
        Wide swap = b[k];
        b[k] = b[pivot];
        b[pivot] = swap;
        for (size_t i = k + 1; i < n; i++) {
            Wide factor = a[i][k] / a[k][k];
            for (size_t j = k; j < n; j++) a[i][j] -= factor * a[k][j];
            b[i] -= factor * b[k];
        }
    }
    for (size_t k = n; k-- > 0;) {
        for (size_t j = k + 1; j < n; j++) b[k] -= a[k][j] * b[j];
        b[k] /= a[k][k];
    }
    return true;
}

// P (as Chebyshev coefficients in x/Λ, for conditioning) with P(x_i)e^{-x_i} - 1 = (-1)^i·level at the degree+2 points.
static bool interpolate(const Wide *points, size_t degree, Wide interval, Wide *chebyshev) {
    Wide a[MAX_POINTS][MAX_POINTS], b[MAX_POINTS];
    size_t n = degree + 2;
    for (size_t i = 0; i < n; i++) {
        Wide u = points[i] / interval, weight = expl(-points[i]);
        for (size_t t = 0; t <= degree; t++)
            a[i][t] = weight * (t == 0 ? 1 : t == 1 ? u : 2 * u * a[i][t - 1] / weight - a[i][t - 2] / weight);
        a[i][degree + 1] = i % 2 ? 1 : -1;
        b[i] = 1;
    }
    if (!solve(a, b, n)) return false;
    for (size_t t = 0; t <= degree; t++) chebyshev[t] = b[t];
    return true;
}

static Wide relative_error(const Wide *chebyshev, size_t degree, Wide interval, Wide x) {
    Wide u = x / interval, above = 0, above2 = 0; // Clenshaw
    for (size_t t = degree; t > 0; t--) {
        Wide next = 2 * u * above - above2 + chebyshev[t];
        above2 = above;
        above = next;
    }
    return (u * above - above2 + chebyshev[0]) * expl(-x) - 1;
}

// The largest |error| of each run of equal sign, sharpened by golden-section search. Returns the number of runs.
static size_t find_extrema(const Wide *chebyshev, size_t degree, Wide interval, Wide *points, Wide *values) {
    size_t runs = 0;
    for (size_t i = 0; i <= GRID; i++) {
        Wide x = -interval * cosl((Wide)M_PI * i / GRID), e = relative_error(chebyshev, degree, interval, x);
        if (runs == 0 || (e > 0) != (values[runs - 1] > 0)) {
            if (runs == MAX_POINTS) return MAX_POINTS + 1;
            points[runs] = x;
            values[runs++] = e;
        } else if (fabsl(e) > fabsl(values[runs - 1])) {
            points[runs - 1] = x;
            values[runs - 1] = e;
        }
    }
    const Wide ratio = 0.6180339887498948482L;
    for (size_t r = 0; r < runs; r++) {
        Wide reach = 2 * interval * (Wide)M_PI / GRID, sign = values[r] > 0 ? 1 : -1;
        Wide low = fmaxl(points[r] - reach, -interval), high = fminl(points[r] + reach, interval);
        for (int step = 0; step < 80; step++) {
            Wide a = high - ratio * (high - low), b = low + ratio * (high - low);
            if (sign * relative_error(chebyshev, degree, interval, a) <
                sign * relative_error(chebyshev, degree, interval, b)) low = a;
            else high = b;
        }
        Wide x = (low + high) / 2, e = relative_error(chebyshev, degree, interval, x);
        if (sign * e > sign * values[r]) {
            points[r] = x;
            values[r] = e;
        }
    }
    return runs;
}

static void chebyshev_to_monomials(const Wide *chebyshev, size_t degree, Wide interval, double *coefficient) {
    Wide last[MAX_POINTS] = {1}, here[MAX_POINTS] = {0, 1}, sum[MAX_POINTS] = {0}; // T_0, T_1 in u
    for (size_t t = 0; t <= degree; t++) {
        const Wide *term = t == 0 ? last : here;
        for (size_t i = 0; i <= degree; i++) sum[i] += chebyshev[t] * term[i];
        if (t == 0 || t == degree) continue;
        Wide next[MAX_POINTS] = {0};
        for (size_t i = 0; i <= degree; i++) next[i] = (i > 0 ? 2 * here[i - 1] : 0) - last[i];
        for (size_t i = 0; i <= degree; i++) {
            last[i] = here[i];
            here[i] = next[i];
        }
    }
    Wide power = 1;
    for (size_t i = 0; i <= degree; i++, power *= interval) coefficient[i] = (double)(sum[i] / power);
}

static bool fit_minimax(Polynomial *polynomial, Error *error) {
    size_t degree = polynomial->degree, n = degree + 2;
    Wide interval = polynomial->interval, points[MAX_POINTS], found[MAX_POINTS], values[MAX_POINTS];
    Wide chebyshev[MAX_POINTS] = {0};
    for (size_t i = 0; i < n; i++) points[i] = -interval * cosl((Wide)M_PI * i / (n - 1));
    for (int exchange = 0; exchange < EXCHANGES; exchange++) {
        if (!interpolate(points, degree, interval, chebyshev)) break;
        size_t runs = find_extrema(chebyshev, degree, interval, found, values);
        if (runs != n) break;
        Wide largest = 0, smallest = INFINITY;
        for (size_t i = 0; i < n; i++) {
            points[i] = found[i];
            largest = fmaxl(largest, fabsl(values[i]));
            smallest = fminl(smallest, fabsl(values[i]));
        }
        polynomial->alternations = runs; // neighbouring runs have opposite signs by construction
        polynomial->spread = (double)(1 - smallest / largest);
        if (polynomial->spread > 1e-9 + 1e-16 / (double)largest) continue; // long double noise in tiny errors
        chebyshev_to_monomials(chebyshev, degree, interval, polynomial->coefficient);
        return true;
    }
    return error_set(error, ERROR_USER,
                     "attention.degree=%zu with attention.logit_bound=%g: no equioscillating polynomial was found "
                     "(extrema %zu of %zu, spread %.2e). An error below 1e-16 cannot be represented: lower the degree.",
                     degree, polynomial->interval, polynomial->alternations, n, polynomial->spread);
}

// ---- suprema -----------------------------------------------------------------------------------------------------

// Coefficients of u ↦ p(middle + u).
static void taylor_shift(const Wide *p, size_t degree, Wide middle, Wide *shifted) {
    for (size_t i = 0; i <= degree; i++) shifted[i] = p[i];
    for (size_t i = 0; i < degree; i++)
        for (size_t j = degree; j-- > i;) shifted[j] += middle * shifted[j + 1];
}

// Bounds p(x)e^{-x} over [middle - half, middle + half]. With f = p·e^{-x}: f' = (p' - p)e^{-x}, and p' - p is bounded
// over the cell by the absolute values of its Taylor coefficients at the middle; so |f - f(middle)| ≤ half·sup|f'|.
// At an extremum p' - p vanishes and the margin is of second order in the cell's width.
static void bound_cell(const Wide *p, size_t degree, Wide middle, Wide half, double *low, double *high) {
    Wide slope[MAX_POINTS] = {0}, at[MAX_POINTS], value = 0;
    for (size_t t = 0; t <= degree; t++) slope[t] = (t < degree ? (t + 1) * p[t + 1] : 0) - p[t];
    taylor_shift(slope, degree, middle, at);
    Wide steepest = 0, power = 1;
    for (size_t t = 0; t <= degree; t++, power *= half) steepest += fabsl(at[t]) * power;
    for (size_t t = degree + 1; t-- > 0;) value = value * middle + p[t];
    value *= expl(-middle);
    Wide margin = half * steepest * expl(half - middle) + 1e-17L * fabsl(value);
    *low = (double)(value - margin) - 1e-16;
    *high = (double)(value + margin) + 1e-16;
}

static void fill_suprema(Polynomial *polynomial) {
    size_t degree = polynomial->degree;
    Wide p[MAX_POINTS] = {0}, dp[MAX_POINTS] = {0}, half = polynomial->interval / (2.0L * POLYNOMIAL_CELLS);
    for (size_t t = 0; t <= degree; t++) p[t] = polynomial->coefficient[t];
    for (size_t t = 0; t < degree; t++) dp[t] = (t + 1) * p[t + 1];
    double below = -INFINITY, error = 0, slope_error = 0;
    for (size_t i = 0; i < POLYNOMIAL_CELLS; i++) {
        for (int side = -1; side <= 1; side += 2) {
            Wide middle = side * (Wide)(2 * i + 1) * half;
            double low, high;
            bound_cell(p, degree, middle, half, &low, &high);
            below = fmax(below, 1 - low);
            error = fmax(error, fmax(1 - low, high - 1));
            bound_cell(dp, degree, middle, half, &low, &high);
            slope_error = fmax(slope_error, fmax(1 - low, high - 1));
        }
        polynomial->below[i] = below;
        polynomial->error[i] = error;
        polynomial->slope_error[i] = slope_error;
    }
}

// ---- creation ----------------------------------------------------------------------------------------------------

static void set_series(Polynomial *polynomial) {
    Wide term = 1; // Taylor: 1/t!; power: binomial(g, t)/g^t, which tends to it
    for (size_t t = 0; t <= polynomial->degree; t++) {
        polynomial->coefficient[t] = (double)term;
        term /= t + 1;
        if (polynomial->kind == POLYNOMIAL_POWER) term *= (Wide)(polynomial->degree - t) / polynomial->degree;
    }
}

bool polynomial_create(Polynomial *polynomial, PolynomialKind kind, size_t degree, double interval, Error *error) {
    *polynomial = (Polynomial){.kind = kind, .degree = degree, .interval = interval};
    if (degree < 1 || degree > POLYNOMIAL_MAX_DEGREE)
        return error_set(error, ERROR_USER, "attention.degree=%zu: must be 1 to %d.", degree, POLYNOMIAL_MAX_DEGREE);
    if (kind == POLYNOMIAL_POWER && degree % 2 == 1)
        return error_set(error, ERROR_USER, "attention.degree=%zu: polynomial=power needs an even degree, because only "
                         "then is (1 + x/g)^g never negative.", degree);
    if (kind == POLYNOMIAL_POWER) polynomial->interval = interval = interval > 0 ? fmin(interval, MAX_INTERVAL) : 1;
    if (!(interval > 0 && interval <= MAX_INTERVAL))
        return error_set(error, ERROR_USER,
                         "attention.logit_bound=%g: must be above 0 and at most %d, but for polynomial=power.", interval,
                         MAX_INTERVAL);
    if (kind == POLYNOMIAL_MINIMAX) {
        if (!fit_minimax(polynomial, error)) return false;
    } else {
        set_series(polynomial);
    }
    fill_suprema(polynomial);
    if (kind != POLYNOMIAL_POWER && !(polynomial->below[POLYNOMIAL_CELLS - 1] < 1))
        return error_set(error, ERROR_USER,
                         "attention.degree=%zu with attention.logit_bound=%g: the polynomial cannot be shown to be "
                         "positive on the interval, so attention weights could be negative. Raise the degree or lower "
                         "the bound.", degree, interval);
    return true;
}
