// The kernels of a layer, for every instruction set that this CPU has, against plain double references: the error stays
// below 16 unit roundoffs of the sum of the absolute terms (reliability.md, row 2). Sizes straddle the vector widths.
#include <stdlib.h>

#include "core/random.h"
#include "model/layer_kernels.h"
#include "tests/support/check.h"

enum { ROWS = 3 };
static const double epsilon = 1e-5;
static const double underflow = 1e-33; // exp is 0 where its result would be subnormal; times two factors of up to 200
static const size_t sizes[] = {1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 33, 64, 100, 257};
enum { SIZES = sizeof sizes / sizeof *sizes };

static const LayerKernels *const tables[] = {&layer_kernels_portable, &layer_kernels_avx2, &layer_kernels_avx512};

static real *random_values(size_t count, double deviation, uint64_t step) {
    real *values = guarded_new(count);
    random_fill_normal(values, count, deviation, (Random){1, RANDOM_TEST, step});
    return values;
}

static real *copy_of(const real *values, size_t count) {
    real *copy = guarded_new(count);
    for (size_t i = 0; i < count; i++) copy[i] = values[i];
    return copy;
}

// What a result should be, and the sum of the absolute terms that make it.
typedef struct Expected {
    double *value, *terms;
    size_t count;
} Expected;

static Expected expect(size_t count) {
    Expected e = {calloc(count, sizeof(double)), calloc(count, sizeof(double)), count};
    assert_true(e.value && e.terms);
    return e;
}

static void add(Expected *e, size_t i, double term) {
    e->value[i] += term;
    e->terms[i] += fabs(term);
}

// Checks, and frees the expectation.
static void compare(const char *what, const real *actual, Expected e) {
    real *share = malloc(e.count * sizeof *share);
    double *zero = calloc(e.count, sizeof *zero);
    assert_true(share && zero);
    for (size_t i = 0; i < e.count; i++)
        share[i] = (real)((actual[i] - e.value[i]) / (16 * REAL_EPSILON / 2 * e.terms[i] + underflow));
    check_close(what, share, zero, e.count, 1, 0);
    free(share);
    free(zero);
    free(e.value);
    free(e.terms);
}

static double inverse_rms(const real *x, const real *delta, size_t n) {
    double squares = 0;
    for (size_t i = 0; i < n; i++) {
        double value = x[i] + (delta ? (double)delta[i] : 0);
        squares += value * value;
    }
    return 1 / sqrt(squares / (double)n + epsilon);
}

static void check_norm(const LayerKernels *kernels, size_t n) {
    size_t count = ROWS * n;
    real *x = random_values(count, 1, 1), *delta = random_values(count, 1, 2), *weight = random_values(n, 1, 3);
    real *out = guarded_new(count), *sum = guarded_new(count), *alone = guarded_new(count);
    kernels->rms_norm(out, sum, x, delta, weight, ROWS, n, (real)epsilon);
    kernels->rms_norm(alone, NULL, x, NULL, weight, ROWS, n, (real)epsilon);
    Expected with_delta = expect(count), summed = expect(count), without = expect(count);
    for (size_t i = 0; i < count; i++) {
        size_t start = i - i % n;
        double scale = inverse_rms(x + start, delta + start, n) * weight[i % n];
        add(&summed, i, x[i]);
        add(&summed, i, delta[i]);
        add(&with_delta, i, x[i] * scale);
        add(&with_delta, i, delta[i] * scale);
        add(&without, i, x[i] * inverse_rms(x + start, NULL, n) * weight[i % n]);
    }
    compare("rms_norm with residual", out, with_delta);
    compare("residual", sum, summed);
    compare("rms_norm", alone, without);
    real *buffers[] = {x, delta, weight, out, sum, alone};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) guarded_free(buffers[i]);
}

// dx = r·g − r·x̂·mean(g ⊙ x̂) of `rows` vectors of n, dweight = Σ dy ⊙ x̂; both on top of what they hold.
static void norm_backward_reference(Expected *dx, Expected *dweight, const real *dy, const real *x, const real *weight,
                                    size_t rows, size_t n) {
    for (size_t row = 0; row < rows; row++, x += n, dy += n) {
        double r = inverse_rms(x, NULL, n), mean = 0, mean_terms = 0;
        for (size_t i = 0; i < n; i++) {
            double product = (double)dy[i] * weight[i] * x[i] * r / (double)n;
            mean += product;
            mean_terms += fabs(product);
            add(dweight, i, dy[i] * (x[i] * r));
        }
        for (size_t i = 0; i < n; i++) {
            size_t at = row * n + i;
            add(dx, at, r * dy[i] * weight[i]);
            dx->value[at] -= r * (x[i] * r) * mean;
            dx->terms[at] += fabs(r * (x[i] * r)) * mean_terms;
        }
    }
}

static void check_norm_backward(const LayerKernels *kernels, size_t n) {
    size_t count = ROWS * n;
    real *x = random_values(count, 1, 4), *dy = random_values(count, 1, 5), *weight = random_values(n, 1, 6);
    real *dx = random_values(count, 1, 7), *dweight = random_values(n, 1, 8), *heads_dweight = copy_of(dweight, n);
    real *heads = copy_of(dy, count);
    Expected sum = expect(count), alone = expect(count), weights = expect(n), heads_weights = expect(n);
    for (size_t i = 0; i < count; i++) add(&sum, i, dx[i]);
    for (size_t i = 0; i < n; i++) add(&weights, i, dweight[i]);
    for (size_t i = 0; i < n; i++) add(&heads_weights, i, dweight[i]);
    norm_backward_reference(&sum, &weights, dy, x, weight, ROWS, n);
    norm_backward_reference(&alone, &heads_weights, dy, x, weight, ROWS, n);
    kernels->rms_norm_backward(dx, dweight, dy, x, weight, ROWS, n, (real)epsilon, true);
    kernels->head_norm_backward(heads, heads_dweight, x, weight, 1, ROWS * n, ROWS, n, (real)epsilon);
    compare("rms_norm backward", dx, sum);
    compare("rms_norm backward, weight", dweight, weights);
    compare("head_norm backward", heads, alone);
    compare("head_norm backward, weight", heads_dweight, heads_weights);
    real *buffers[] = {x, dy, weight, dx, dweight, heads_dweight, heads};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) guarded_free(buffers[i]);
}

// Heads in a wider row: what lies between them and the next row stays as it is.
static void check_head_norm(const LayerKernels *kernels, size_t n) {
    enum { HEADS = 2 };
    size_t stride = HEADS * n + 3, count = (ROWS - 1) * stride + HEADS * n;
    real *x = random_values(count, 1, 9), *weight = random_values(n, 1, 10), *out = copy_of(x, count);
    kernels->head_norm(out, x, weight, ROWS, stride, HEADS, n, (real)epsilon);
    Expected e = expect(count);
    for (size_t i = 0; i < count; i++) {
        size_t column = i % stride, start = i - column % n;
        bool of_head = column < HEADS * n;
        add(&e, i, of_head ? x[i] * inverse_rms(x + start, NULL, n) * weight[column % n] : (double)x[i]);
    }
    compare("head_norm", out, e);
    guarded_free(x);
    guarded_free(weight);
    guarded_free(out);
}

static void check_swiglu(const LayerKernels *kernels, size_t n, double deviation) {
    size_t count = ROWS * n;
    real *gate_up = random_values(2 * count, deviation, 11), *d_out = random_values(count, 1, 12);
    real *out = guarded_new(count), *d_gate_up = copy_of(gate_up, 2 * count), *again = copy_of(d_out, count);
    Expected product = expect(count), remade = expect(count), gradient = expect(2 * count);
    for (size_t i = 0; i < count; i++) {
        size_t gate = i / n * 2 * n + i % n, up = gate + n;
        double g = gate_up[gate], u = gate_up[up], d = d_out[i], s = 1 / (1 + exp(-g));
        add(&product, i, g * s * u);
        add(&remade, i, g * s * u);
        gradient.value[gate] = d * u * s * (1 + g * (1 - s));
        gradient.terms[gate] = fabs(d * u * s) * (1 + fabs(g));
        add(&gradient, up, d * g * s);
    }
    kernels->swiglu(out, gate_up, ROWS, n);
    kernels->swiglu_backward(again, d_gate_up, ROWS, n);
    compare("swiglu", out, product);
    compare("swiglu made again", again, remade);
    compare("swiglu backward", d_gate_up, gradient);
    real *buffers[] = {gate_up, d_out, out, d_gate_up, again};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) guarded_free(buffers[i]);
}

static void check_cross_entropy(const LayerKernels *kernels, size_t n, double deviation) {
    const double w = 0.25;
    real *logits = random_values(n, deviation, 13), *gradient = copy_of(logits, n);
    size_t target = n / 2, best = 0;
    double sum = 0, at_target = logits[target];
    for (size_t i = 1; i < n; i++) best = logits[i] > logits[best] ? i : best;
    for (size_t i = 0; i < n; i++) sum += exp((double)logits[i] - logits[best]);
    Expected loss = expect(1), e = expect(n);
    add(&loss, 0, log(sum) + 1); // 1: an error of one term in the sum is one in its logarithm
    add(&loss, 0, logits[best] - 1.0);
    add(&loss, 0, -at_target);
    for (size_t i = 0; i < n; i++) {
        double below = (double)logits[best] - logits[i], p = w * exp(-below) / sum;
        e.value[i] = p - (i == target ? w : 0);
        e.terms[i] = p * (1 + below) + (i == target ? w : 0); // rounding x − max, then exp
    }
    unsigned char correct[2];
    real losses[2] = {(real)kernels->cross_entropy(logits, n, target, 0, &correct[0]),
                      (real)kernels->cross_entropy(gradient, n, target, (real)w, &correct[1])};
    assert_true(correct[0] == (best == target) && correct[1] == correct[0]);
    check_same_bits("cross-entropy with and without gradient", &losses[0], &losses[1], sizeof(real));
    compare("cross-entropy", losses, loss);
    compare("cross-entropy gradient", gradient, e);
    guarded_free(logits);
    guarded_free(gradient);
}

static void check_sums(const LayerKernels *kernels, size_t n) {
    enum { BLOCKS = 5 };
    real *matrix = random_values(BLOCKS * n, 1, 14), *x = random_values(n, 1, 15), *sums = random_values(n, 1, 16);
    real *out = guarded_new(BLOCKS);
    Expected product = expect(BLOCKS), columns = expect(n);
    for (size_t i = 0; i < n; i++) add(&columns, i, sums[i]);
    for (size_t i = 0; i < BLOCKS * n; i++) {
        add(&product, i / n, (double)matrix[i] * x[i % n]);
        add(&columns, i % n, matrix[i]);
    }
    kernels->matrix_vector(out, matrix, x, BLOCKS, n);
    kernels->add_partials(sums, matrix, BLOCKS, n);
    compare("matrix_vector", out, product);
    compare("add_partials", sums, columns);
    real *buffers[] = {matrix, x, sums, out};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) guarded_free(buffers[i]);
}

static void check_shift(const LayerKernels *kernels, size_t n, bool first, bool last) {
    real *current = random_values(n, 1, 17), *previous = random_values(n, 1, 18), *mix = random_values(n, 1, 19);
    real *dx = random_values(n, 1, 20), *next = random_values(n, 1, 21), *out = guarded_new(n);
    real *d_mix = random_values(n, 1, 22), *d_embedding = copy_of(d_mix, n);
    Expected value = expect(n), of_mix = expect(n), of_embedding = expect(n);
    for (size_t i = 0; i < n; i++) {
        double m = mix[i], before = first ? 0 : previous[i];
        add(&value, i, current[i]);
        add(&value, i, -m * current[i]);
        add(&value, i, m * before);
        add(&of_mix, i, d_mix[i]);
        add(&of_mix, i, dx[i] * before);
        add(&of_mix, i, -(double)dx[i] * current[i]);
        add(&of_embedding, i, d_mix[i]);
        add(&of_embedding, i, dx[i]);
        add(&of_embedding, i, -m * dx[i]);
        add(&of_embedding, i, last ? 0 : m * next[i]);
    }
    kernels->shift(out, current, first ? NULL : previous, mix, n);
    kernels->shift_backward_mix(d_mix, dx, current, first ? NULL : previous, n);
    kernels->shift_backward(d_embedding, dx, last ? NULL : next, mix, n);
    compare("token shift", out, value);
    compare("token shift backward, mix", d_mix, of_mix);
    compare("token shift backward, embedding", d_embedding, of_embedding);
    real *buffers[] = {current, previous, mix, dx, next, out, d_mix, d_embedding};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) guarded_free(buffers[i]);
}

static void test_against_references(void **state) {
    (void)state;
    for (Isa isa = ISA_PORTABLE; isa <= cpu_isa(); isa++)
        for (size_t i = 0; i < SIZES; i++) {
            const LayerKernels *kernels = tables[isa];
            check_norm(kernels, sizes[i]);
            check_norm_backward(kernels, sizes[i]);
            check_head_norm(kernels, sizes[i]);
            check_swiglu(kernels, sizes[i], 2);
            check_swiglu(kernels, sizes[i], 50); // far into both ends of the sigmoid
            check_cross_entropy(kernels, sizes[i], 1);
            check_cross_entropy(kernels, sizes[i], 30);
            check_sums(kernels, sizes[i]);
            check_shift(kernels, sizes[i], false, false);
            check_shift(kernels, sizes[i], true, true);
        }
    check_cross_entropy(layer_kernels(), 100003, 1);
}

// A NaN or Inf anywhere in a row must reach the loss: the trainer looks for it there.
static void test_not_finite(void **state) {
    (void)state;
    const double bad[] = {NAN, INFINITY, -INFINITY};
    size_t cases = 0;
    for (Isa isa = ISA_PORTABLE; isa <= cpu_isa(); isa++)
        for (size_t kind = 0; kind < sizeof bad / sizeof *bad; kind++)
            for (size_t at = 0; at < 67; at++, cases++) {
                real *logits = random_values(67, 1, 23);
                unsigned char correct;
                logits[at] = (real)bad[kind];
                double loss = tables[isa]->cross_entropy(logits, 67, 5, cases % 2 ? (real)0.5 : 0, &correct);
                assert_false(isfinite(loss));
                guarded_free(logits);
            }
    check_count("logits that are not finite, seen in the loss", cases);
}

// Of equally large logits one is the answer, the first: a model whose logits are all equal is right once in n, not always.
static void test_equal_logits(void **state) {
    (void)state;
    size_t cases = 0;
    for (Isa isa = ISA_PORTABLE; isa <= cpu_isa(); isa++)
        for (size_t from = 0; from < 67; from += 3)
            for (size_t target = 0; target < 67; target++, cases++) {
                real *logits = guarded_new(67);
                unsigned char correct;
                for (size_t i = 0; i < 67; i++) logits[i] = i < from ? (real)-1 : (real)0.5;
                tables[isa]->cross_entropy(logits, 67, target, cases % 2 ? (real)0.5 : 0, &correct);
                assert_int_equal(correct, target == from);
                guarded_free(logits);
            }
    check_count("targets among equal logits", cases);
}

// Numbers whose squares overflow are finite, and so would zeros be: rows of them must not pass for good ones.
static void test_overflowing_rows(void **state) {
    (void)state;
    const real huge = sizeof(real) == 4 ? (real)1e25 : (real)1e200;
    size_t cases = 0;
    for (Isa isa = ISA_PORTABLE; isa <= cpu_isa(); isa++)
        for (size_t n = 1; n < 70; n += 4, cases += 4) {
            const LayerKernels *kernels = tables[isa];
            real *x = random_values(n, 1, 1), *weight = random_values(n, 1, 2), *dy = random_values(n, 1, 3);
            real *out = guarded_new(n), *sum = guarded_new(n), *dweight = random_values(n, 1, 4);
            x[n / 2] = huge;
            kernels->rms_norm(out, NULL, x, NULL, weight, 1, n, (real)epsilon);
            for (size_t i = 0; i < n; i++) assert_true(isnan(out[i]));
            kernels->rms_norm(out, sum, dy, x, weight, 1, n, (real)epsilon);
            for (size_t i = 0; i < n; i++) assert_true(isnan(out[i]) && isfinite(sum[i]));
            kernels->head_norm(out, x, weight, 1, n, 1, n, (real)epsilon);
            for (size_t i = 0; i < n; i++) assert_true(isnan(out[i]));
            kernels->rms_norm_backward(out, dweight, dy, x, weight, 1, n, (real)epsilon, false);
            for (size_t i = 0; i < n; i++) assert_true(isnan(out[i]) && isnan(dweight[i]));
            real *buffers[] = {x, weight, dy, out, sum, dweight};
            for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) guarded_free(buffers[i]);
        }
    check_count("rows whose squares overflow", cases);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_overflowing_rows),
    cmocka_unit_test(test_against_references),
    cmocka_unit_test(test_equal_logits),
    cmocka_unit_test(test_not_finite),
};

TEST_MAIN(tests)
