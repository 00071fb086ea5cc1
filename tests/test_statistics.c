// The numbers that reports stand on: medians and their intervals, exponents, crossovers; and lists of lengths.
#include "train/statistics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/random.h"
#include "tests/support/check.h"
#include "train/lists.h"

static void test_median(void **state) {
    (void)state;
    static const struct {
        double values[6];
        size_t count;
        double expected;
    } cases[] = {
        {{5}, 1, 5},
        {{5, 1}, 2, 3},
        {{9, 1, 5}, 3, 5},
        {{4, 4, 1, 9}, 4, 4},
        {{1e300, -1e300, 7, 8, 9}, 5, 8},
        {{6, 5, 4, 3, 2, 1}, 6, 3.5},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double copy[6];
        memcpy(copy, cases[i].values, sizeof copy);
        assert_true(median(copy, cases[i].count) == cases[i].expected);
        assert_memory_equal(copy, cases[i].values, sizeof copy); // values are left as they are
    }
    assert_true(isnan(median(NULL, 0)));
    check_count("medians", sizeof cases / sizeof *cases + 1);
}

// Pairs that share the machine's mood, which doubles and halves, and have noise of their own.
static void make_pairs(double *a, double *b, size_t count, double ratio, uint64_t trial) {
    Random random = {trial, RANDOM_TEST, 1};
    for (size_t i = 0; i < count; i++) {
        double mood = exp(random_normal(random, 3 * i));
        a[i] = ratio * mood * exp(0.05 * random_normal(random, 3 * i + 1));
        b[i] = mood * exp(0.05 * random_normal(random, 3 * i + 2));
    }
}

static void test_middle_places(void **state) {
    (void)state;
    static const struct {
        double values[5];
        size_t count, places[2];
    } cases[] = {
        {{5}, 1, {0, 0}},       {{5, 1}, 2, {1, 0}},       {{1, 5}, 2, {0, 1}},       {{9, 1, 5}, 3, {2, 2}},
        {{4, 4, 4}, 3, {1, 1}}, {{2, 2, 1, 2}, 4, {0, 1}}, {{3, 9, 1, 2}, 4, {3, 0}}, {{5, 4, 3, 2, 1}, 5, {2, 2}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t places[2] = {99, 99};
        const double *values = cases[i].values;
        middle_places(values, cases[i].count, places);
        assert_true(places[0] == cases[i].places[0] && places[1] == cases[i].places[1]);
        assert_true((values[places[0]] + values[places[1]]) / 2 == median(values, cases[i].count));
    }
    check_count("places in the middle", sizeof cases / sizeof *cases);
}

static void test_paired_ratio(void **state) {
    (void)state;
    enum { PAIRS = 41, TRIALS = 1000 };
    static const size_t counts[] = {6, 7, 8, 12, 41};
    double a[PAIRS], b[PAIRS], width = 0;
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
        size_t covered = 0;
        width = 0;
        for (uint64_t trial = 0; trial < TRIALS; trial++) {
            make_pairs(a, b, counts[c], 1.7, trial);
            Interval ratio = paired_ratio(a, b, counts[c]);
            assert_true(ratio.low <= ratio.value && ratio.value <= ratio.high);
            covered += ratio.low <= 1.7 && 1.7 <= ratio.high;
            width += (ratio.high - ratio.low) / TRIALS;
        }
        // At least 95 % of the intervals hold the truth: of 1000, 929 and more with probability above 0.998.
        if (covered < 929) fail_msg("%zu of %d intervals of %zu pairs hold the ratio", covered, TRIALS, counts[c]);
    }
    // Not by being wide: the noise of one pair is 0.07·1.7, that of a median of 41 about a fifth of it, and an interval
    // spans four of those.
    assert_true(width > 0.04 && width < 0.16);
    check_count("intervals", TRIALS * sizeof counts / sizeof *counts);
}

// The largest p with C(n, 0) + … + C(n, p) at most 2^n / 40, in whole numbers: as many are left out on either side.
static size_t left_out(unsigned n) {
    uint64_t choose = 1, sum = 1;
    size_t most = 0;
    while (40 * (sum + choose * (n - most) / (most + 1)) <= (uint64_t)1 << n) {
        choose = choose * (n - most) / (most + 1);
        sum += choose;
        most++;
    }
    return most;
}

// Ratios 1, 2, …, count in another order: the ends of the interval are their places.
static void test_interval_places(void **state) {
    (void)state;
    enum { MOST = 50, MANY = 20001 };
    static double a[MANY], b[MANY];
    for (size_t i = 0; i < MANY; i++) b[i] = 1;
    for (unsigned count = INTERVAL_PAIRS; count <= MOST; count++) {
        for (size_t i = 0; i < count; i++) a[i] = (double)((i * 53) % count + 1); // 53 is prime and above MOST
        const Interval interval = paired_ratio(a, b, count);
        assert_true(interval.value == (count + 1) / 2.0);
        assert_true(interval.low == (double)(left_out(count) + 1));
        assert_true(interval.high == (double)(count - left_out(count)));
    }
    for (size_t i = 0; i < MANY; i++) a[i] = (double)i; // the normal law: 1.96 deviations of sqrt(MANY) / 2
    const Interval interval = paired_ratio(a, b, MANY);
    assert_true(fabs(interval.high - interval.low - 1.96 * sqrt(MANY)) < 3);
    check_count("places of intervals", 2 * (MOST - INTERVAL_PAIRS + 2));
}

static void test_paired_ratio_edges(void **state) {
    (void)state;
    const double one[] = {3, 3, 3, 3, 3, 3}, two[] = {2, 2, 2, 2, 2, 2};
    Interval same = paired_ratio(one, one, 6), exact = paired_ratio(one, two, 6);
    assert_true(same.value == 1 && same.low == 1 && same.high == 1);
    assert_true(exact.value == 1.5 && exact.low == 1.5 && exact.high == 1.5);
    assert_true(isnan(paired_ratio(one, two, 0).value));
    for (size_t count = 1; count < INTERVAL_PAIRS; count++) { // too few for 95 %
        Interval few = paired_ratio(one, two, count);
        assert_true(few.value == 1.5 && isnan(few.low) && isnan(few.high));
    }
}

static void test_growth_exponent(void **state) {
    (void)state;
    static const double exponents[] = {-1, 0, 0.5, 1, 1.03, 2};
    double x[8], y[8];
    for (size_t e = 0; e < sizeof exponents / sizeof *exponents; e++) {
        for (size_t i = 0; i < 8; i++) {
            x[i] = 512.0 * (double)(1 << i);
            y[i] = 3e-7 * pow(x[i], exponents[e]);
        }
        for (size_t count = 2; count <= 8; count++)
            assert_true(fabs(growth_exponent(x, y, count) - exponents[e]) < 1e-12);
    }
    assert_true(isnan(growth_exponent(x, y, 1)) && isnan(growth_exponent(x, y, 0)));
    const double same[] = {4, 4};
    assert_true(isnan(growth_exponent(same, y, 2)));
    check_count("exponents", 7 * sizeof exponents / sizeof *exponents + 3);
}

static void test_crossover(void **state) {
    (void)state;
    double x[8], quadratic[8], linear[8];
    size_t cases = 0;
    for (double at = 600; at < 60000; at *= 1.37, cases++) { // x² and at·x cross at `at`
        for (size_t i = 0; i < 8; i++) {
            x[i] = 512.0 * (double)(1 << i);
            quadratic[i] = x[i] * x[i];
            linear[i] = at * x[i];
        }
        assert_true(fabs(crossover(x, quadratic, linear, 8) / at - 1) < 1e-9);
        assert_true(isnan(crossover(x, linear, quadratic, 8)) || crossover(x, linear, quadratic, 8) == 0);
    }
    for (size_t i = 0; i < 8; i++) linear[i] = 2 * quadratic[i];
    assert_true(isnan(crossover(x, quadratic, linear, 8))); // a always below b
    assert_true(crossover(x, linear, quadratic, 8) == 0);   // b wins from the start
    assert_true(isnan(crossover(x, linear, quadratic, 0)));
    check_count("crossovers", 2 * cases + 3);
}

// What is asked is from where on b wins for good: being ahead once, at the first length or later, does not count.
static void test_crossover_for_good(void **state) {
    (void)state;
    static const double x[] = {1, 2, 4, 16};
    static const struct {
        double ratios[4]; // b over a
        double expected;  // log₂ of it; 0: everywhere; NaN: not at the last
    } cases[] = {
        {{.99, 2.2, 1.1, .5}, 2 + 2 * 0.0953101798043249 / (0.0953101798043249 + 0.6931471805599453)},
        {{.99, 2.2, 1.1, 1}, 4},
        {{.99, 2, .5, .5}, 1.5},
        {{2, .5, 2, .125}, 2.5},
        {{2, .5, .25, .125}, .5},
        {{.99, 2.2, 4.4, 8}, NAN},
        {{4, .5, .5, 1.01}, NAN},
        {{1, 1, 1, 1}, 0},
        {{.5, 1, .99, .25}, 0},
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        double a[4] = {1, 3, 2, 7}, b[4];
        for (size_t i = 0; i < 4; i++) b[i] = a[i] * cases[c].ratios[i];
        const double found = crossover(x, a, b, 4), expected = cases[c].expected;
        if (isnan(expected) || expected == 0)
            assert_true(isnan(expected) ? isnan(found) : found == 0);
        else
            assert_true(fabs(log2(found) - expected) < 1e-12);
    }
    check_count("crossovers of curves that cross more than once", sizeof cases / sizeof *cases);
}

static void test_lists(void **state) {
    (void)state;
    size_t lengths[4];
    assert_int_equal(list_lengths("512,1K,2k,4096", lengths, 4), 4);
    assert_true(lengths[0] == 512 && lengths[1] == 1024 && lengths[2] == 2048 && lengths[3] == 4096);
    static const char *const wrong[] = {"",   "0",  "-1",  "2,1",       "1,1",      "1,",
                                        ",1", "1x", "1K2", "1,2,3,4,5", "16777217", "x"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) assert_int_equal(list_lengths(wrong[i], lengths, 4), 0);
    char text[] = "exact,lowrank,,auto";
    const char *words[4];
    assert_int_equal(list_words(text, words, 4), 4);
    assert_string_equal(words[1], "lowrank");
    assert_string_equal(words[2], "");
    check_count("lists", 2 + sizeof wrong / sizeof *wrong);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_median),
    cmocka_unit_test(test_middle_places),
    cmocka_unit_test(test_paired_ratio),
    cmocka_unit_test(test_interval_places),
    cmocka_unit_test(test_paired_ratio_edges),
    cmocka_unit_test(test_growth_exponent),
    cmocka_unit_test(test_crossover),
    cmocka_unit_test(test_crossover_for_good),
    cmocka_unit_test(test_lists),
};
TEST_MAIN(tests)
