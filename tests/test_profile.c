// What rope profile, rope bench step and the estimate of a run say of a step's operations, held against what its phases
// counted; and rope profile's document.
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "tests/support/check.h"
#include "train/estimate.h"
#include "train/trainer.h"

static Config config;

static void set(const char *assignment) {
    Error error = {0};
    if (!config_set(&config, assignment, ORIGIN_COMMAND_LINE, &error)) fail_msg("%s", error.message);
}

static void prepare(void) {
    config_defaults(&config);
    const char *const settings[] = {"model.heads=2",         "model.width=32", "model.qk_size=16",
                                    "model.v_size=16",       "model.layers=2", "model.tokens=64",
                                    "model.vocabulary=3000", "train.batch=2",  "attention.method=exact"};
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) set(settings[i]);
}

// Operations that a step's phases counted, and the step's targets.
static double counted_flops(size_t *targets) {
    Error error = {0};
    Trainer trainer;
    StepResult result;
    PhaseTimes phases;
    double flops = 0;
    if (!config_resolve(&config, &error) || !trainer_create(&trainer, &config, false, &error))
        fail_msg("%s", error.message);
    phase_take(&phases);
    assert_true(trainer_step(&trainer, &result, &error));
    phase_take(&phases);
    for (size_t p = 0; p < PHASE_COUNT; p++) flops += phases.flops[p];
    *targets = result.targets;
    trainer_destroy(&trainer);
    return flops;
}

static const struct {
    const char *settings[3];
    size_t targets;
} tasks[] = {
    {{"data.task=mqar", "data.pairs=4", "train.accumulate=1"}, 2 * 4},
    {{"data.task=mqar", "data.pairs=4", "train.accumulate=3"}, 3 * 2 * 4},
    {{"data.task=needle", "data.pairs=2", "train.accumulate=1"}, 2 * 2},
    {{"data.task=copy", "data.pairs=4", "train.accumulate=1"}, 2 * 32},
};
enum { TASKS = sizeof tasks / sizeof *tasks };

// The output matrix, most of this model, is run for rows with a target only; what recompute runs again is no work done.
// The phases also count the elementwise work, and what is run again.
static void test_useful_operations(void **state) {
    (void)state;
    for (size_t t = 0; t < TASKS; t++) {
        double useful[2], counted[2];
        for (size_t recompute = 0; recompute < 2; recompute++) {
            Estimate estimate;
            Error error = {0};
            size_t targets;
            prepare();
            for (size_t i = 0; i < 3; i++) set(tasks[t].settings[i]);
            set(recompute ? "train.recompute=true" : "train.recompute=false");
            counted[recompute] = counted_flops(&targets);
            assert_true(estimate_memory(&config, &estimate, &error));
            assert_int_equal(targets, tasks[t].targets);
            useful[recompute] = trainer_step_flops(&config, &estimate.model, targets);
            // The estimate of a step has what is run again, too.
            if (!(estimate.step_flops < counted[recompute] && estimate.step_flops > 0.85 * counted[recompute]))
                fail_msg("%s: a step is estimated at %g of %g operations", tasks[t].settings[0], estimate.step_flops,
                         counted[recompute]);
        }
        assert_true(useful[0] == useful[1]);
        assert_true(useful[0] < counted[0] && useful[0] > 0.85 * counted[0] && counted[1] > 1.1 * counted[0]);
    }
    check_count("steps of tasks whose operations add up", 2 * TASKS);
}

// What the probe scales by: the share of a task's tokens that have a target, and all of a text's.
static void test_asked_share(void **state) {
    (void)state;
    for (size_t t = 0; t < TASKS; t++) {
        Error error = {0};
        Estimate estimate;
        prepare();
        for (size_t i = 0; i < 3; i++) set(tasks[t].settings[i]);
        assert_true(config_resolve(&config, &error) && estimate_memory(&config, &estimate, &error));
        assert_true(estimate.asked * (double)(2 * 64 * config.accumulate) == (double)tasks[t].targets);
        if (t == 0) assert_true(estimate_probe(&config, &estimate, &error) && estimate.step_seconds > 0);
        config.task[0] = 0;
        assert_true(estimate_memory(&config, &estimate, &error) && estimate.asked == 1);
    }
    check_count("shares of asked tokens", 2 * TASKS);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_useful_operations),
    cmocka_unit_test(test_asked_share),
};
TEST_MAIN(tests)
