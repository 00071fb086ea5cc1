// What attention methods stand on: position kernels in their two views, powers of two in softmax tiles, and settings that
// no method may accept. Built in single and (double_attention_parts.c) in double precision.

#include <malloc.h>
#include <math.h>
#include <string.h>

#include "attention/position.h"
#include "attention/reference.h"
#include "attention/softmax_kernels.h"
#include "tests/support/check.h"

static AttentionSettings make_settings(size_t tokens, size_t qk_size) {
    AttentionSettings s = attention_defaults();
    s.batch = 1;
    s.tokens = tokens;
    s.heads = 4;
    s.kv_heads = 2;
    s.qk_size = qk_size;
    s.v_size = 4;
    s.far_size = 0;
    s.kernel_decay = 0.9;
    s.kernel_window = 7;
    s.cost_exact = s.cost_lowrank = 1e-2; // auto: no measurements in tests
    return s;
}

// Each change makes settings that no method may accept.
static void test_refusals(void **state) {
    (void)state;
    const size_t huge[] = {0, SIZE_MAX, (size_t)1 << 31, (size_t)1 << 32, (size_t)1 << 63};
    for (size_t m = 0; m < attention_method_count(); m++)
        for (size_t field = 0; field < 6; field++)
            for (size_t value = 0; value < 5; value++) {
                AttentionSettings s = make_settings(8, 4);
                size_t *const fields[] = {&s.batch, &s.tokens, &s.heads, &s.kv_heads, &s.qk_size, &s.v_size};
                *fields[field] = huge[value];
                if (value == 2 && field == 1) continue; // 2³¹ tokens can be addressed; nobody asks here for the memory
                if (value == 2 || value == 3) s.batch *= 1 << 20; // must be refused by their product
                if (value == 2 || value == 3) s.v_size *= 1 << 10;
                Error error = {0};
                assert_null(attention_create(attention_method_at(m), &s, &error));
                assert_int_equal(error.kind, ERROR_USER);
                check_count("wrong sizes", 1);
            }
    for (size_t m = 0; m < attention_method_count(); m++) { // what can be addressed and does not fit, before any table
        AttentionSettings s = make_settings(8, 4);
        s.tokens = (size_t)1 << 42;
        Error error = {0};
        assert_null(attention_create(attention_method_at(m), &s, &error));
        assert_int_equal(error.kind, ERROR_USER);
        assert_non_null(strstr(error.message, "are available"));
        check_count("wrong sizes", 1);
    }
    AttentionSettings bad[12];
    for (size_t i = 0; i < 12; i++) bad[i] = make_settings(8, 4);
    bad[0].kv_heads = 3;
    bad[1].qk_size = 5;
    bad[2].rope_theta = 0.0;
    bad[3].rope_theta = NAN;
    bad[4].logit_scale = INFINITY;
    bad[5].kernel = "";
    bad[6].kernel = "/no/such/table";
    bad[7].bound = BOUND_CLIP;
    bad[7].entry_bound = 0.0;
    bad[8].logit_bound = -1.0;
    bad[9].kernel = "rope-decay";
    bad[9].kernel_decay = 1.5;
    bad[10].kernel = "rope-window";
    bad[10].kernel_window = 0;
    bad[11].logit_bound = NAN;
    for (size_t m = 0; m < attention_method_count(); m++)
        for (size_t i = 0; i < 12; i++) {
            Error error = {0};
            assert_null(attention_create(attention_method_at(m), &bad[i], &error));
            assert_true(error.kind != ERROR_NONE);
            check_count("wrong settings", 1);
        }
    assert_null(attention_method_find("no such method"));
}

// A scale of logits that is 0 as `real`, or has lost digits, is refused and named: all logits would be wrong in silence.
// One that is infinite is not: that is found in what comes out.
static void test_scales(void **state) {
    (void)state;
    const struct {
        double scale;
        bool good;
    } cases[] = {{5e-324, false}, {REAL_NORMAL_MIN * (1.0 - 1e-3), false}, {REAL_NORMAL_MIN, true}, {1e300, true}};
    for (size_t m = 0; m < attention_method_count(); m++)
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            AttentionSettings s = make_settings(8, 4);
            s.logit_scale = cases[i].scale;
            Error error = {0};
            AttentionPlan *plan = attention_create(attention_method_at(m), &s, &error);
            assert_true((plan != NULL) == cases[i].good);
            attention_destroy(plan);
            if (!cases[i].good) assert_true(error.kind == ERROR_USER && strstr(error.message, "logit_scale = "));
            check_count("scales of logits", 1);
        }
}

// Slopes of Press et al. for 8 heads are 1/2, 1/4, …; for 6 heads those of 4, then every other one of 8.
static void test_slopes(void **state) {
    (void)state;
    const double eight[] = {0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625};
    const double six[] = {0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125};
    for (size_t h = 0; h < 8; h++) assert_float_equal(position_slope(8, h), eight[h], 1e-15);
    for (size_t h = 0; h < 6; h++) assert_float_equal(position_slope(6, h), six[h], 1e-15);
    check_count("slopes", 14);
}

// The lag tables by their definitions, near and at the window's end.
static void test_factors(void **state) {
    (void)state;
    AttentionSettings s = make_settings(16, 6);
    s.kernel_window = 5;
    s.kernel_decay = 0.75;
    for (size_t kernel = 0; kernel < 3; kernel++) {
        static const char *const names[] = {"rope", "rope-decay", "rope-window"};
        Position position;
        s.kernel = names[kernel];
        assert_true(position_create(&position, &s, NULL));
        for (ptrdiff_t lag = -8; lag <= 8; lag++) {
            double expected[] = {1.0, 1.0, lag > -5 && lag < 5 ? 1.0 : 0.0};
            for (ptrdiff_t n = lag < 0 ? -lag : lag; n > 0; n--) expected[1] *= 0.75;
            const real factor = (real)position_factor(&position, lag);
            check_close("factors by lag", &factor, &expected[kernel], 1, 4 * REAL_EPSILON, 0.0);
        }
        position_destroy(&position);
    }
}

// Definition 1.1's tables against rotation of q and k: both are views of one kernel.
static void test_weights(void **state) {
    (void)state;
    for (size_t kernel = 0; kernel < 4; kernel++) {
        AttentionSettings s = make_settings(90, 6);
        static const char *const kernels[] = {"rope", "rope-decay", "rope-window", "alibi"};
        s.kernel = kernels[kernel];
        Position position;
        assert_true(position_create(&position, &s, NULL));
        const real q[] = {1, -2, 3, (real)0.5, (real)-1.5, 2}, k[] = {(real)0.7, 1, -1, 2, (real)0.25, -3};
        for (size_t i = 0; i < 90; i += 7)
            for (size_t j = 0; j < 90; j += 11) {
                real turned[2][6];
                position_rotate(&position, turned[0], 6, q, 6, i, 1, 1);
                position_rotate(&position, turned[1], 6, k, 6, j, 1, 1);
                const ptrdiff_t lag = (ptrdiff_t)i - (ptrdiff_t)j;
                double expected = 0.0, sum = 0.0;
                for (size_t e = 0; e < position_support(&position); e++) {
                    const PositionEntry at = position_entry(&position, e);
                    expected += q[at.row] * position_weight(&position, e, lag) * k[at.column];
                }
                for (size_t a = 0; a < 6; a++) sum += (double)turned[0][a] * (double)turned[1][a];
                const real actual = (real)(sum * position_factor(&position, lag));
                check_close("tables of the kernels", &actual, &expected, 1, 60 * REAL_EPSILON, 0.0);
            }
        position_destroy(&position);
    }
}

#ifndef ROPE_DOUBLE
// 2^x of the softmax tiles, through a row whose maximum is already 0: error in units of the last place.
static void test_exponential(void **state) {
    (void)state;
    double worst = 0.0;
    size_t count = 0;
    real s[16], o[1] = {0};
    for (double x = 0.0; x > -125.9; x -= 1.9e-4) {
        for (size_t c = 0; c < 16; c++) s[c] = (real)(x - 1.1e-5 * (double)c);
        real given[16], maximum = 0, sum = 0;
        memcpy(given, s, sizeof s);
        softmax_kernels()->forward(s, 16, 1, 16, 16, &maximum, &sum, o, 1);
        for (size_t c = 0; c < 16; c++, count++) {
            const double exact = exp2((double)given[c]);
            int exponent;
            frexp(exact, &exponent);
            worst = fmax(worst, fabs((double)s[c] - exact) / ldexp(1.0, exponent - 24));
        }
    }
    print_message("2^x: largest error %.3f ULP\n", worst);
    assert_true(worst < 2.0);
    check_count("powers of two", count);
    const real tiny[] = {-127.5f, -1000.0f, -3e38f, -INFINITY};
    for (size_t i = 0; i < 4; i++) {
        real maximum = 0, sum = 0, row[16] = {tiny[i]};
        softmax_kernels()->forward(row, 16, 1, 1, 16, &maximum, &sum, o, 1);
        assert_true(row[0] == 0 && sum == 0);
    }
}
#endif

static size_t heap_bytes(void) {
    const struct mallinfo2 heap = mallinfo2();
    return heap.uordblks + heap.hblkhd;
}

// What a plan holds is what its needs say, so that a run's estimate can hold it: tables over tokens and lags, spectra.
static void test_plan_bytes(void **state) {
    (void)state;
    if (CHECK_SANITIZER) return; // its own malloc says nothing
    const char *const kernels[] = {"rope", "rope-decay", "alibi"};
    size_t compared = 0;
    for (size_t m = 0; m < attention_method_count(); m++)
        for (size_t kernel = 0; kernel < 3; kernel++) {
            AttentionSettings s = make_settings(5000, 4);
            s.kernel = kernels[kernel];
            s.logit_bound = 0.5, s.near = 16, s.degree = 2;
            const size_t before = heap_bytes();
            AttentionPlan *plan = attention_create(attention_method_at(m), &s, NULL);
            if (!plan) continue; // no method has all kernels
            const double held = (double)(heap_bytes() - before), said = (double)attention_needs(plan).plan_bytes;
            // besides: what FFTW keeps for its transforms, and a plan's own tables of its polynomial
            if (!(fabs(held - said) < 0.4 * held + 110e3))
                fail_msg("%s, %s: %g bytes instead of %g", attention_method_name(attention_method_at(m)), s.kernel, held,
                         said);
            attention_destroy(plan);
            compared++;
        }
    check_count("memory of plans", compared);
}

static double taylor(const void *context, double x) { return *(const double *)context * (1.0 + x + x * x / 2.0); }
static double taylor_slope(const void *context, double x) { return *(const double *)context * (1.0 + x); }

// Σ weights·v / Σ weights of the last token, in numbers of a range that no logit here leaves; alibi has no rotations.
static double last_output(const AttentionSettings *s, const real *q, const real *k, const real *v, double share) {
    const size_t i = s->tokens - 1;
    long double sum = 0, total = 0;
    for (size_t j = 0; j <= i; j++) {
        long double x = 0;
        for (size_t a = 0; a < s->qk_size; a++) x += (long double)q[i * s->qk_size + a] * k[j * s->qk_size + a];
        x *= (long double)s->logit_scale;
        const long double bias = -(long double)position_slope(s->heads, 0) * (long double)(i - j);
        const long double weight =
            i - j < s->near ? expl(x + bias) : (long double)share * (1 + x + x * x / 2) * expl(bias);
        sum += weight * v[j];
        total += weight;
    }
    return (double)(sum / total);
}

// The reference where exp of the near logits is 0 or infinite in double precision, beside far weights of a polynomial
// that are 1, 1e-300 or 0 themselves.
static void test_reference_range(void **state) {
    (void)state;
    const double logits[] = {-800, 800, -740, 0}, shares[] = {1, 1e-300, 0};
    AttentionSettings s = make_settings(12, 2);
    s.kernel = "alibi", s.bound = BOUND_NONE, s.near = 2, s.v_size = 1, s.logit_scale = 1;
    for (size_t n = 0; n < 4 * 3; n++) {
        real q[24], k[24], v[12], d_o = 1;
        for (size_t i = 0; i < 24; i++) q[i] = 1, k[i] = (real)(i % 7) / 7;
        for (size_t i = 20; i < 24; i++) k[i] = (real)(logits[n % 4] / 2);
        for (size_t i = 0; i < 12; i++) v[i] = (real)(i % 5);
        const ReferenceFar far = {taylor, taylor_slope, &shares[n / 4]};
        AttentionReference *reference = reference_create(&s, true, &far, NULL);
        assert_non_null(reference);
        reference_load(reference, 0, q, 2, k, 2, v, 1);
        double o, dq[24] = {0}, dk[24] = {0}, dv[12] = {0}, sum = 0.0;
        reference_row(reference, 11, &o);
        if (!(fabs(o - last_output(&s, q, k, v, shares[n / 4])) < 1e-12))
            fail_msg("near logits of %g, far weights times %g: %g", logits[n % 4], shares[n / 4], o);
        reference_row_backward(reference, 11, &d_o);
        reference_gradients(reference, dq, 2, dk, 2, dv, 1);
        for (size_t i = 0; i < 12; i++) sum += dv[i]; // of all weights
        assert_true(fabs(sum - 1.0) < 1e-12 && isfinite(dq[22]) && isfinite(dk[0]) && isfinite(dk[22]));
        reference_destroy(reference);
        check_count("rows of the reference", 1);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_refusals),        cmocka_unit_test(test_scales),  cmocka_unit_test(test_slopes),
    cmocka_unit_test(test_factors),         cmocka_unit_test(test_weights), cmocka_unit_test(test_plan_bytes),
    cmocka_unit_test(test_reference_range),
#ifndef ROPE_DOUBLE
    cmocka_unit_test(test_exponential),
#endif
};

TEST_MAIN(tests)
