// The sentence that a comparison ends with, from records made up: what it says of speed, fallbacks and learning.
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/check.h"
#include "train/ab.h"

enum { STEPS = 40 };

// Two arms after STEPS steps of `seeds` seeds. B takes 1 / ratio of A's time, spread by so much from step to step.
static void make_record(Ab *ab, size_t seeds, double ratio, double spread) {
    Error error = {0};
    *ab = (Ab){.arm_count = 2, .steps = STEPS, .seed_count = seeds, .seed = seeds};
    for (size_t i = 0; i < ab->arm_count; i++) {
        ab->arms[i].key = i ? "b" : "a";
        snprintf(ab->arms[i].name, sizeof ab->arms[i].name, "%s", i ? "fast" : "slow");
        config_defaults(&ab->arms[i].config);
        ab->arms[i].config.tokens = 512;
        ab->arms[i].config.batch = 4;
    }
    if (!ab_record_make(ab, &error)) fail_msg("%s", error.message);
    for (size_t s = 0; s < seeds; s++)
        for (size_t i = 0; i < ab->arm_count; i++) {
            AbTrack *track = ab_track(ab, s, i);
            for (size_t step = 0; step < STEPS; step++) {
                const double noise = spread * ((double)(step * 7 % STEPS) / (STEPS - 1) - 0.5);
                track->seconds[step] = i ? 1 : ratio * exp(noise);
            }
            track->evaluations = 1;
            track->eval_step[0] = STEPS;
            track->final.loss = i ? 2.02 : 2;
        }
}

static void expect(const Ab *ab, const char *part) {
    json_t *document = ab_document(ab);
    assert_non_null(document);
    const char *verdict = json_string_value(json_object_get(document, "verdict"));
    if (!strstr(verdict, part)) fail_msg("\"%s\" is not in \"%s\"", part, verdict);
    check_count("verdicts", 1);
    json_decref(document);
}

static void test_speed(void **state) {
    (void)state;
    static const struct {
        double ratio, spread;
        const char *said;
    } cases[] = {
        {2, 0.1, "B (fast) is 2.00 times faster per step than A (slow) at T=512 (ratio 2.00, 95 % interval "},
        {0.5, 0.1, "B (fast) is 2.00 times slower per step than A (slow) at T=512 (ratio 0.50, 95 % interval "},
        {1.02, 0.01, "is 1.02 times faster"}, // few per cent, and certain
        {1.004, 0.001, "is as fast per step as A (slow)"}, // certain too, and nothing
        {1.01, 0.1, "is as fast per step as A (slow)"},
        {1.01, 1, "cannot be told from A (slow) in speed per step at T=512 (ratio 1.01, 95 % interval 0."},
        {1.3, 3, "cannot be told from A (slow)"},
        {1, 1, "cannot be told from A (slow)"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Ab ab;
        make_record(&ab, 1, cases[i].ratio, cases[i].spread);
        expect(&ab, cases[i].said);
        ab_record_free(&ab);
    }
}

static void test_few_steps(void **state) {
    (void)state;
    Ab ab;
    make_record(&ab, 1, 2, 0);
    ab.seed = 0; // under way
    ab.step = 5;
    expect(&ab, "against A (slow): too few timed steps to tell which is faster at T=512 (ratio 2.00);");
    ab.step = 0;
    expect(&ab, "against A (slow): no step was timed yet at T=512;");
    ab_track(&ab, 0, 0)->evaluations = ab_track(&ab, 0, 1)->evaluations = 0;
    expect(&ab, "; there is no evaluation yet.");
    ab_record_free(&ab);
    make_record(&ab, 1, 2, 0); // B does half as much a step
    ab.arms[1].config.tokens = 256;
    expect(&ab, "is as fast per token as A (slow) at T=512 against T=256");
    ab_record_free(&ab);
}

static void test_fallbacks(void **state) {
    (void)state;
    enum { ROWS = 600 }; // heads, of batches of 4
    static const struct {
        double fell_back;
        const char *said;
    } cases[] = {
        {0, "interval 2.00 to 2.00); "},          {1, "), though less than 0.1 % of its heads fell back to exact;"},
        {120, "), though 5.0 % of its heads"},    {600, "), though 25 % of its heads"},
        {2399, "), though 99.9 % of its heads"},  {2399.5, "), though 99.9 % of its heads"},
        {2400, "), though all of its heads"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Ab ab;
        make_record(&ab, 1, 2, 0);
        for (size_t row = 0; row < ROWS; row++)
            json_array_append_new(ab.fidelity, json_pack("{s:f}", "fell_back", cases[i].fell_back / ROWS));
        expect(&ab, cases[i].said);
        ab_record_free(&ab);
    }
}

static void test_learning(void **state) {
    (void)state;
    Ab ab;
    make_record(&ab, 2, 2, 0);
    ab_track(&ab, 1, 1)->final.loss = 1.99;
    expect(&ab, "; its held-out loss is 0.25 % higher (2.0050 against 2.0000; 2 seeds: -0.50 to +1.00 %).");
    ab_track(&ab, 0, 1)->final.loss = 1.99;
    expect(&ab, "; its held-out loss is 0.50 % lower (1.9900 against 2.0000; 2 seeds: -0.50 to -0.50 %).");
    ab_track(&ab, 1, 1)->eval_step[0] = ab_track(&ab, 1, 0)->eval_step[0] = STEPS / 2; // under way: it does not count
    ab_track(&ab, 1, 1)->final.loss = 9;
    expect(&ab, "; its held-out loss is 0.50 % lower (1.9900 against 2.0000).");
    ab_track(&ab, 0, 1)->final.loss = 2;
    expect(&ab, "; held-out losses are identical (2.0000).");
    ab_track(&ab, 0, 1)->final.loss = NAN;
    expect(&ab, "; the held-out loss of B is not finite.");
    ab_track(&ab, 0, 0)->final.loss = INFINITY;
    expect(&ab, "; the held-out loss of A and of B is not finite.");
    for (size_t i = 0; i < 2; i++) {
        snprintf(ab.arms[i].config.task, sizeof ab.arms[i].config.task, "mqar");
        ab_track(&ab, 0, i)->final.loss = 1;
        ab_track(&ab, 0, i)->final.accuracy = i ? 0.75 : 0.5;
    }
    expect(&ab, "; it answers 75.0 % right against 50.0 %.");
    ab_record_free(&ab);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_speed),
    cmocka_unit_test(test_few_steps),
    cmocka_unit_test(test_fallbacks),
    cmocka_unit_test(test_learning),
};
TEST_MAIN(tests)
