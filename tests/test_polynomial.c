// The polynomials of the far field: the table of attention.md, equioscillation, suprema that no sampled point exceeds,
// and refusals.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "attention/polynomial.h"
#include "core/random.h"
#include "tests/support/check.h"

static Polynomial *made(PolynomialKind kind, size_t degree, double interval) {
    static Polynomial polynomial;
    Error error = {0};
    if (!polynomial_create(&polynomial, kind, degree, interval, &error)) fail_msg("%s", error.message);
    return &polynomial;
}

static void test_table(void **state) {
    (void)state;
    const double bounds[] = {0.5, 1, 2, 3, 4};
    const size_t degrees[] = {1, 2, 3, 4, 6, 8};
    const double expected[5][6] = {
        {6.2e-2, 5.1e-3, 3.2e-4, 1.6e-5, 2.4e-8, 2.1e-11}, {2.3e-1, 4.0e-2, 5.0e-3, 5.0e-4, 3.0e-6, 1.1e-8},
        {6.8e-1, 2.7e-1, 7.1e-2, 1.4e-2, 3.6e-4, 5.0e-6}, {9.2e-1, 6.4e-1, 2.9e-1, 9.2e-2, 5.3e-3, 1.7e-4},
        {9.9e-1, 8.9e-1, 6.2e-1, 3.0e-1, 3.3e-2, 2.0e-3}};
    for (size_t i = 0; i < 5; i++)
        for (size_t j = 0; j < 6; j++) {
            const double error = polynomial_error(made(POLYNOMIAL_MINIMAX, degrees[j], bounds[i]), bounds[i]);
            char found[16], table[16]; // the table has two digits
            snprintf(found, sizeof found, "%.1e", error);
            snprintf(table, sizeof table, "%.1e", expected[i][j]);
            if (strcmp(found, table) != 0) fail_msg("bound %g, degree %zu: %s, not %s", bounds[i], degrees[j], found, table);
        }
    check_count("table of attention.md", 30);
    // attention.md, section 2.5: Taylor is far worse
    assert_true(fabs(polynomial_error(made(POLYNOMIAL_TAYLOR, 2, 1), 1) - 0.36) < 0.01);
}

static void test_equioscillation(void **state) {
    (void)state;
    size_t cases = 0;
    for (size_t degree = 1; degree <= POLYNOMIAL_MAX_DEGREE; degree++)
        for (double bound = 0.5; bound <= 8; bound *= 2, cases++) {
            const Polynomial *p = made(POLYNOMIAL_MINIMAX, degree, bound);
            assert_int_equal(p->alternations, degree + 2);
            const double error = polynomial_error(p, bound);
            assert_true(p->spread < 1e-8 + 1e-15 / error);
            size_t signs = 0; // counted again, from the rounded coefficients
            double last = 0, level = 0.99 * error - 4e-16;
            for (int i = 0; level > 0 && i <= 20000; i++) {
                const double x = -bound * cos(M_PI * i / 20000), e = polynomial_value(p, x) * exp(-x) - 1;
                if (fabs(e) > level && e * last <= 0) signs++, last = e;
            }
            if (error > 1e-13) assert_int_equal(signs, degree + 2);
        }
    check_count("equioscillating polynomials", cases);
}

static void test_suprema(void **state) {
    (void)state;
    size_t cases = 0;
    for (int kind = POLYNOMIAL_MINIMAX; kind <= POLYNOMIAL_POWER; kind++)
        for (size_t degree = 2; degree <= 10; degree += 2)
            for (double bound = 0.5; bound <= 4; bound *= 2) {
                if (kind == POLYNOMIAL_TAYLOR && bound > 1) continue;
                const Polynomial *p = made(kind, degree, bound);
                double most = 0;
                for (uint64_t i = 0; i < 2000; i++, cases++) {
                    const double limit = bound * random_uniform((Random){1, RANDOM_TEST, degree}, 2 * i);
                    const double x = limit * (2 * random_uniform((Random){1, RANDOM_TEST, degree}, 2 * i + 1) - 1);
                    const double value = polynomial_value(p, x) * exp(-x) - 1, noise = 1e-15;
                    const double slope = polynomial_derivative(p, x) * exp(-x) - 1;
                    assert_true(fabs(value) <= polynomial_error(p, limit) + noise);
                    assert_true(-value <= polynomial_below(p, limit) + noise);
                    assert_true(fabs(slope) <= polynomial_slope_error(p, limit) + noise);
                }
                for (int i = 0; i <= 4000; i++) {
                    const double x = bound * (i - 2000) / 2000;
                    most = fmax(most, fabs(polynomial_value(p, x) * exp(-x) - 1));
                }
                assert_true(most > 0.99 * polynomial_error(p, bound) - 1e-15); // the bounds are not idle
                assert_true(isinf(polynomial_error(p, bound * 1.001)) && isinf(polynomial_error(p, NAN)));
                assert_true(fabs(polynomial_magnitude(p, bound)) >= polynomial_value(p, bound) - 1e-12);
            }
    check_count("points below the suprema", cases);
}

static void test_power(void **state) {
    (void)state;
    const double intervals[] = {0, 4, 65, 1e6, INFINITY}; // its tables' alone: no number is too much
    for (size_t i = 0; i < 5; i++) {
        const Polynomial *p = made(POLYNOMIAL_POWER, 4, intervals[i]);
        for (double x = -20; x <= 20; x += 0.125) {
            assert_true(fabs(polynomial_value(p, x) - pow(1 + x / 4, 4)) <= 1e-12 * (1 + pow(1 + x / 4, 4)));
            assert_true(polynomial_value(p, x) >= 0);
        }
        assert_true(isinf(polynomial_error(p, p->interval * 1.001))); // of what the tables do not cover nothing is said
        check_count("points of (1 + x/4)^4", 321);
    }
}

static void test_refusals(void **state) {
    (void)state;
    static Polynomial polynomial;
    const struct { PolynomialKind kind; size_t degree; double bound; } wrong[] = {
        {POLYNOMIAL_MINIMAX, 0, 1}, {POLYNOMIAL_MINIMAX, 11, 1}, {POLYNOMIAL_MINIMAX, 2, 0},
        {POLYNOMIAL_MINIMAX, 2, -1}, {POLYNOMIAL_MINIMAX, 2, NAN}, {POLYNOMIAL_MINIMAX, 2, INFINITY},
        {POLYNOMIAL_TAYLOR, 1, 1}, {POLYNOMIAL_TAYLOR, 3, 2}, // negative at -1 and -2
        {POLYNOMIAL_POWER, 3, 1}, {POLYNOMIAL_MINIMAX, 10, 0.01}, // error below what double can hold
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        Error error = {0};
        assert_false(polynomial_create(&polynomial, wrong[i].kind, wrong[i].degree, wrong[i].bound, &error));
        assert_int_equal(error.kind, ERROR_USER);
        assert_true(error.message[0] != '\0');
    }
    check_count("refusals", sizeof wrong / sizeof *wrong);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_table), cmocka_unit_test(test_equioscillation), cmocka_unit_test(test_suprema),
    cmocka_unit_test(test_power), cmocka_unit_test(test_refusals),
};
TEST_MAIN(tests)
