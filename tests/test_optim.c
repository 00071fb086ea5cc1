// AdamW against its textbook formula in double, schedules at every boundary, the gradient norm at the ends of the
// number range, and refusals. Built in single and (through double_optim.c) in double precision.

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/random.h"
#include "core/threads.h"
#include "optim/optim.h"
#include "tests/support/check.h"

static OptimSettings usual(void) {
    return (OptimSettings){"adamw", .learning_rate = 1e-3, .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8,
                           .weight_decay = 0.1, .clip = 1};
}

static void draw(real *out, size_t count, double deviation, uint64_t step) {
    random_fill_normal(out, count, deviation, (Random){7, RANDOM_TEST, step});
}

// Textbook form: bias-corrected moments, decay first (Loshchilov and Hutter, algorithm 2).
static void reference_update(double *p, double *m, double *v, const real *g, size_t begin, size_t end, bool decay,
                             const OptimSettings *s, double lr, double scale, int step) {
    for (size_t i = begin; i < end; i++) {
        double gradient = (double)g[i] * scale;
        if (decay) p[i] -= lr * s->weight_decay * p[i];
        m[i] = s->beta1 * m[i] + (1 - s->beta1) * gradient;
        v[i] = s->beta2 * v[i] + (1 - s->beta2) * gradient * gradient;
        double m_hat = m[i] / (1 - pow(s->beta1, step)), v_hat = v[i] / (1 - pow(s->beta2, step));
        p[i] -= lr * m_hat / (sqrt(v_hat) + s->epsilon);
    }
}

// Three groups with gaps, ragged ends, more than one block, with and without decay.
enum { ELEMENTS = 40000 };
static const OptimGroup groups[] = {{0, 17001, true}, {17008, 3, false}, {17024, 22900, true}};
enum { GROUPS = sizeof groups / sizeof *groups };

static void run_against_reference(OptimSettings settings, int steps, double gradient_size) {
    Error error = {0};
    Optim *optim = optim_create(&settings, groups, GROUPS, ELEMENTS, &error);
    assert_non_null(optim);
    real *p = guarded_new(ELEMENTS), *g = guarded_new(ELEMENTS);
    double *expected = calloc(ELEMENTS, sizeof *expected), *m = calloc(ELEMENTS, sizeof *m),
           *v = calloc(ELEMENTS, sizeof *v);
    draw(p, ELEMENTS, 0.5, 0);
    for (size_t i = 0; i < ELEMENTS; i++) expected[i] = (double)p[i];
    for (int step = 1; step <= steps; step++) {
        draw(g, ELEMENTS, gradient_size, (uint64_t)step);
        double lr = settings.learning_rate * step / steps, scale = step % 3 ? 1 : 0.37;
        optim_update(optim, p, g, lr, scale);
        for (size_t k = 0; k < GROUPS; k++)
            reference_update(expected, m, v, g, groups[k].offset, groups[k].offset + groups[k].count, groups[k].decay,
                             &settings, lr, scale, step);
        guarded_check(p);
    }
    // Each step rounds p a few times, and an update of about lr a few times more.
    double tolerance = 4 * steps * (double)REAL_EPSILON;
    check_close("AdamW parameters", p, expected, ELEMENTS, tolerance * 0.1, tolerance);
    const char *name = NULL;
    check_close("AdamW first moment", optim_state(optim, 0, &name), m, ELEMENTS, tolerance * gradient_size, tolerance);
    assert_string_equal(name, "first_moment");
    check_close("AdamW second moment", optim_state(optim, 1, &name), v, ELEMENTS, 0, tolerance);
    assert_string_equal(name, "second_moment");
    assert_null(optim_state(optim, 2, &name));
    assert_int_equal(optim_step_count(optim), steps);
    free(expected), free(m), free(v);
    guarded_free(p), guarded_free(g);
    optim_destroy(optim);
}

static void test_adamw_reference(void **state) {
    (void)state;
    run_against_reference(usual(), 60, 1);
    run_against_reference(usual(), 1, 1e-3);
    OptimSettings settings = usual();
    settings.beta1 = 0; // no momentum: the bias correction must be 1, not NaN
    run_against_reference(settings, 5, 1e-2);
    settings = usual();
    settings.beta2 = 0.9999, settings.weight_decay = 0;
    run_against_reference(settings, 20, 1e-4);
}

// The second moment forgets so slowly at the largest beta2 that is taken that single precision shows: it is the square of a
// gradient that stays what it is but for 1.5 %, which is three roundings (of beta2, its product and the sum) over 1 - beta2.
static void test_slowest_moment(void **state) {
    (void)state;
    enum { SLOW = 64 };
    OptimSettings settings = usual();
    settings.beta2 = 0.99999;
    Error error = {0};
    const OptimGroup group = {0, SLOW, false};
    Optim *optim = optim_create(&settings, &group, 1, SLOW, &error);
    assert_non_null(optim);
    real p[SLOW], g[SLOW];
    double squares[SLOW];
    for (size_t i = 0; i < SLOW; i++) {
        p[i] = 1;
        g[i] = (real)exp2((double)i / 16);
        squares[i] = (double)g[i] * (double)g[i];
    }
    threads_set(1); // for the speed of so many small steps
    for (int step = 0; step < 2000000; step++) optim_update(optim, p, g, 1e-9, 1);
    threads_set(0);
    check_close("AdamW second moment, slowest", optim_state(optim, 1, &(const char *){NULL}), squares, SLOW, 0, 0.015);
    optim_destroy(optim);
}

// The first step of Adam is lr·sign(g), whatever the size of g; a gap between groups is never touched.
static void test_first_step_and_gaps(void **state) {
    (void)state;
    OptimSettings settings = usual();
    settings.weight_decay = 0;
    Error error = {0};
    Optim *optim = optim_create(&settings, groups, GROUPS, ELEMENTS, &error);
    assert_non_null(optim);
    real *p = guarded_new(ELEMENTS), *g = guarded_new(ELEMENTS), *before = guarded_new(ELEMENTS);
    draw(p, ELEMENTS, 0.5, 0);
    memcpy(before, p, ELEMENTS * sizeof *p);
    for (size_t i = 0; i < ELEMENTS; i++) g[i] = i % 2 ? (real)1e3 : (real)-1e-2;
    optim_update(optim, p, g, 0.25, 1);
    size_t touched = 0;
    for (size_t i = 0; i < ELEMENTS; i++) {
        bool inside = false;
        for (size_t k = 0; k < GROUPS; k++)
            inside |= i >= groups[k].offset && i < groups[k].offset + groups[k].count;
        double moved = (double)p[i] - (double)before[i];
        assert_true(inside ? fabs(moved + (i % 2 ? 0.25 : -0.25)) < 1e-5 : moved == 0);
        touched += inside;
    }
    assert_int_equal(touched, 17001 + 3 + 22900);
    check_count("AdamW first steps are lr·sign(g)", ELEMENTS);
    guarded_free(p), guarded_free(g), guarded_free(before);
    optim_destroy(optim);
}

// A parameter that never had a gradient only decays: 0/(0 + ε), not 0/0.
static void test_zero_gradient(void **state) {
    (void)state;
    OptimSettings settings = usual();
    settings.epsilon = (double)FLT_MIN;
    Error error = {0};
    const OptimGroup group = {0, 32, true};
    Optim *optim = optim_create(&settings, &group, 1, 32, &error);
    real p[32], g[32] = {0};
    for (size_t i = 0; i < 32; i++) p[i] = 2;
    for (int step = 0; step < 10; step++) optim_update(optim, p, g, 0.5, 1);
    double expected[32];
    for (size_t i = 0; i < 32; i++) expected[i] = 2 * pow(1 - 0.5 * 0.1, 10);
    check_close("decay alone", p, expected, 32, 0, 32 * (double)REAL_EPSILON);
    optim_destroy(optim);
}

// Saving moments and step count and putting them into a new optimizer continues with the same bits.
static void test_resume(void **state) {
    (void)state;
    OptimSettings settings = usual();
    Error error = {0};
    real *p = guarded_new(ELEMENTS), *q = guarded_new(ELEMENTS), *g = guarded_new(ELEMENTS);
    draw(p, ELEMENTS, 0.5, 0);
    Optim *first = optim_create(&settings, groups, GROUPS, ELEMENTS, &error), *second = NULL;
    for (int step = 1; step <= 6; step++) {
        if (step == 4) {
            second = optim_create(&settings, groups, GROUPS, ELEMENTS, &error);
            for (size_t i = 0; i < 2; i++)
                memcpy(optim_state(second, i, NULL), optim_state(first, i, NULL), ELEMENTS * sizeof(real));
            optim_set_step_count(second, optim_step_count(first));
            memcpy(q, p, ELEMENTS * sizeof *p);
        }
        draw(g, ELEMENTS, 1, (uint64_t)step);
        optim_update(first, p, g, 1e-3, 1);
        if (second) optim_update(second, q, g, 1e-3, 1);
    }
    check_same_bits("AdamW resumed", p, q, ELEMENTS * sizeof *p);
    optim_destroy(first), optim_destroy(second);
    guarded_free(p), guarded_free(q), guarded_free(g);
}

static void test_threads(void **state) {
    (void)state;
    enum { COUNT = 1000003 };
    static const size_t threads[] = {1, 2, 3, 4, 8};
    OptimSettings settings = usual();
    const OptimGroup group = {0, COUNT, true};
    real *g = guarded_new(COUNT), *first = guarded_new(COUNT), *p = guarded_new(COUNT);
    draw(g, COUNT, 1, 1);
    double norm = 0;
    for (size_t k = 0; k < sizeof threads / sizeof *threads; k++) {
        threads_set(threads[k]);
        Error error = {0};
        Optim *optim = optim_create(&settings, &group, 1, COUNT, &error);
        draw(p, COUNT, 0.5, 0);
        for (int step = 0; step < 3; step++) optim_update(optim, p, g, 1e-3, 0.9);
        double now = optim_gradient_norm(g, COUNT);
        if (k == 0) {
            norm = now;
            memcpy(first, p, COUNT * sizeof *p);
        }
        check_same_bits("AdamW, 1 to 8 threads", first, p, COUNT * sizeof *p);
        check_same_bits("norm, 1 to 8 threads", &norm, &now, sizeof norm);
        optim_destroy(optim);
    }
    threads_set(0);
    guarded_free(g), guarded_free(first), guarded_free(p);
}

static void test_norm(void **state) {
    (void)state;
    static const size_t counts[] = {1, 2, 15, 16, 17, 4095, 4096, 4097, 70001, 4200000};
    for (size_t k = 0; k < sizeof counts / sizeof *counts; k++) {
        size_t count = counts[k];
        real *g = guarded_new(count);
        draw(g, count, 3, k);
        long double sum = 0;
        for (size_t i = 0; i < count; i++) sum += (long double)g[i] * (long double)g[i];
        double expected = (double)sqrtl(sum);
        assert_true(fabs(optim_gradient_norm(g, count) - expected) <= 1e-13 * expected);
        // Every element counts: the largest and the smallest alone in a field of zeros.
        size_t where = (size_t)random_below((Random){7, RANDOM_TEST, 99}, k, count);
        memset(g, 0, count * sizeof *g);
        g[where] = (real)FLT_MAX;
        assert_true(fabs(optim_gradient_norm(g, count) / (double)FLT_MAX - 1) < 1e-15);
        g[where] = (real)1e-45; // the smallest subnormal
        assert_true(fabs(optim_gradient_norm(g, count) / (double)g[where] - 1) < 1e-15);
        g[where] = (real)NAN;
        assert_true(isnan(optim_gradient_norm(g, count)));
        g[where] = (real)-INFINITY;
        assert_true(isinf(optim_gradient_norm(g, count)));
        g[where] = 0;
        assert_true(optim_gradient_norm(g, count) == 0);
        guarded_free(g);
    }
    assert_true(optim_gradient_norm(NULL, 0) == 0);
    // Inf next to NaN, and all elements at the largest number: neither is hidden, and the sum does not overflow.
    real g[64];
    for (size_t i = 0; i < 64; i++) g[i] = (real)FLT_MAX;
    assert_true(fabs(optim_gradient_norm(g, 64) / (8 * (double)FLT_MAX) - 1) < 1e-15);
    g[3] = (real)INFINITY, g[40] = (real)NAN;
    assert_true(isnan(optim_gradient_norm(g, 64)));
    check_count("gradient norms", 6 * sizeof counts / sizeof *counts + 3);

    // A NaN at every single place is found, tails included.
    enum { PLACES = 4099 };
    real *line = guarded_new(PLACES);
    draw(line, PLACES, 1, 5);
    for (size_t i = 0; i < PLACES; i++) {
        real kept = line[i];
        line[i] = (real)NAN;
        assert_true(isnan(optim_gradient_norm(line, PLACES)));
        line[i] = kept;
    }
    check_count("NaN in one element found", PLACES);
    guarded_free(line);
}

typedef struct Expected {
    Schedule schedule;
    size_t step;
    double factor;
} Expected;

static void test_schedule_values(void **state) {
    (void)state;
    const Schedule cosine = {"cosine", 111, 10, 0.1, 0}, linear = {"linear", 111, 10, 0.1, 0};
    const Schedule wsd = {"wsd", 100, 10, 0.1, 0.2}, constant = {"constant", 100, 4, 0.1, 0};
    const Schedule one_cosine = {"cosine", 1, 0, 0.1, 0}, one_linear = {"linear", 1, 0, 0.1, 0};
    const Schedule one_wsd = {"wsd", 1, 0, 0.1, 0.2}, one_constant = {"constant", 1, 0, 0.1, 0};
    const Schedule tight = {"cosine", 5, 4, 0, 0}, flat = {"wsd", 10, 0, 0, 0}, sloped = {"wsd", 4, 0, 0, 1};
    const Expected cases[] = {
        {cosine, 0, 1.0 / 11}, {cosine, 9, 10.0 / 11}, {cosine, 10, 1}, {cosine, 60, 0.55}, {cosine, 110, 0.1},
        {cosine, 35, 0.1 + 0.9 * (1 + M_SQRT1_2) / 2}, {cosine, 111, 0.1}, {cosine, SIZE_MAX, 0.1},
        {linear, 0, 1.0 / 11}, {linear, 9, 10.0 / 11}, {linear, 10, 1}, {linear, 60, 0.55}, {linear, 110, 0.1},
        {linear, 35, 0.775}, {linear, 111, 0.1}, {linear, SIZE_MAX, 0.1},
        {wsd, 0, 1.0 / 11}, {wsd, 9, 10.0 / 11}, {wsd, 10, 1}, {wsd, 79, 1}, {wsd, 80, 1 - 0.9 / 20},
        {wsd, 89, 0.55}, {wsd, 99, 0.1}, {wsd, 100, 0.1},
        {constant, 0, 0.2}, {constant, 3, 0.8}, {constant, 4, 1}, {constant, 99, 1}, {constant, 1000, 1},
        {one_cosine, 0, 1}, {one_linear, 0, 1}, {one_wsd, 0, 1}, {one_constant, 0, 1}, {one_cosine, 1, 1},
        {tight, 0, 0.2}, {tight, 3, 0.8}, {tight, 4, 1}, {flat, 0, 1}, {flat, 9, 1},
        {sloped, 0, 0.75}, {sloped, 3, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Error error = {0};
        assert_true(schedule_check(&cases[i].schedule, &error));
        double factor = schedule_factor(&cases[i].schedule, cases[i].step);
        if (!(fabs(factor - cases[i].factor) < 1e-14))
            fail_msg("%s at step %zu: %.17g, not %.17g", cases[i].schedule.name, cases[i].step, factor,
                     cases[i].factor);
    }
    check_count("schedule values", sizeof cases / sizeof *cases);
}

// Over whole runs: in [0, 1], rising in warm-up, never rising after it, above 0 before the last step.
static void test_schedule_shapes(void **state) {
    (void)state;
    size_t compared = 0;
    for (const char *const *name = schedule_names(); *name; name++)
        for (size_t steps = 1; steps < 40; steps++)
            for (size_t warmup = 0; warmup < steps; warmup++)
                for (int floor = 0; floor < 3; floor++) {
                    Schedule schedule = {*name, steps, warmup, floor / 2.0, 0.3};
                    Error error = {0};
                    if (!schedule_check(&schedule, &error)) {
                        assert_int_equal(error.kind, ERROR_USER); // wsd whose decay would begin in the warm-up
                        continue;
                    }
                    double last = 0;
                    for (size_t step = 0; step < steps; step++, compared++) {
                        double factor = schedule_factor(&schedule, step);
                        assert_true(factor >= 0 && factor <= 1);
                        assert_true(step < warmup ? factor > last : step == warmup || factor <= last);
                        assert_true(step + 1 == steps || factor > 0);
                        last = factor;
                    }
                }
    check_count("schedule steps in order", compared);
}

static void refuse_schedule(Schedule schedule, const char *word) {
    Error error = {0};
    assert_false(schedule_check(&schedule, &error));
    assert_int_equal(error.kind, ERROR_USER);
    if (!strstr(error.message, word)) fail_msg("'%s' does not name '%s'", error.message, word);
    check_count("settings refused by name", 1);
}

static void refuse(OptimSettings settings, const char *word) {
    Error error = {0};
    const OptimGroup group = {0, 16, true};
    assert_null(optim_create(&settings, &group, 1, 16, &error));
    assert_int_equal(error.kind, ERROR_USER);
    if (!strstr(error.message, word)) fail_msg("'%s' does not name '%s'", error.message, word);
    check_count("settings refused by name", 1);
}

#define REFUSE(field, value)                                                                                           \
    do {                                                                                                               \
        OptimSettings settings = usual();                                                                              \
        settings.field = value;                                                                                        \
        refuse(settings, #field);                                                                                      \
    } while (0)

static void test_refusals(void **state) {
    (void)state;
    refuse_schedule((Schedule){"cosin", 10, 0, 0, 0}, "cosin");
    refuse_schedule((Schedule){NULL, 10, 0, 0, 0}, "unknown");
    refuse_schedule((Schedule){"cosine", 0, 0, 0, 0}, "steps");
    refuse_schedule((Schedule){"cosine", 10, 10, 0, 0}, "warmup");
    refuse_schedule((Schedule){"cosine", 10, SIZE_MAX, 0, 0}, "warmup");
    refuse_schedule((Schedule){"cosine", 10, 0, -0.1, 0}, "smallest");
    refuse_schedule((Schedule){"cosine", 10, 0, 1.1, 0}, "smallest");
    refuse_schedule((Schedule){"linear", 10, 0, NAN, 0}, "smallest");
    refuse_schedule((Schedule){"wsd", 10, 0, 0, NAN}, "wsd");
    refuse_schedule((Schedule){"wsd", 10, 0, 0, 1.5}, "wsd");
    refuse_schedule((Schedule){"wsd", 10, 6, 0, 0.5}, "wsd");
    static const double bad[] = {0, -1e-3, INFINITY, -INFINITY, NAN};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        REFUSE(learning_rate, bad[i]);
        REFUSE(epsilon, bad[i]);
        if (bad[i] == 0) continue;
        REFUSE(beta1, bad[i]);
        REFUSE(beta2, bad[i]);
        REFUSE(clip, bad[i]);
        REFUSE(weight_decay, bad[i]);
    }
    REFUSE(beta1, 1);
    REFUSE(beta2, 1);
    REFUSE(beta2, 1 - 1e-17);
    REFUSE(epsilon, 1e-320);
    REFUSE(weight_decay, 1001);
    OptimSettings settings = usual();
    settings.method = "sgd";
    refuse(settings, "sgd");
    settings.method = NULL;
    refuse(settings, "unknown");
}
#undef REFUSE

static void test_sizes(void **state) {
    (void)state;
    OptimSettings settings = usual();
    assert_true(optim_state_bytes(&settings, 1000) >= 2000 * sizeof(real));
    assert_true(optim_state_bytes(&settings, 1000) <= 2000 * sizeof(real) + 128);
    assert_true(optim_state_bytes(&settings, SIZE_MAX / 2) == SIZE_MAX);
    Error error = {0};
    assert_null(optim_create(&settings, NULL, 0, SIZE_MAX / 2, &error));
    assert_int_equal(error.kind, ERROR_MEMORY);
    error_clear(&error);
    Optim *none = optim_create(&settings, NULL, 0, 0, &error);
    assert_non_null(none);
    optim_update(none, NULL, NULL, 1e-3, 1);
    optim_destroy(none);
    assert_string_equal(optim_method_name(0), "adamw");
    assert_null(optim_method_name(1));
    check_count("sizes", 5);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_adamw_reference), cmocka_unit_test(test_first_step_and_gaps),
    cmocka_unit_test(test_zero_gradient),   cmocka_unit_test(test_resume),
    cmocka_unit_test(test_threads),         cmocka_unit_test(test_norm),
    cmocka_unit_test(test_schedule_values), cmocka_unit_test(test_schedule_shapes),
    cmocka_unit_test(test_refusals),        cmocka_unit_test(test_sizes),
    cmocka_unit_test(test_slowest_moment),
};

TEST_MAIN(tests)
