// What rope profile, rope bench step and the estimate of a run say of a step's operations, held against what its phases
// counted; and rope profile's document.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/check.h"
#include "train/figures.h"
#include "train/profile.h"

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

// Three lengths of exact, as T² in seconds, on a machine that slows down as T^-½, and of another method that is faster
// from the second on.
static Profile *make_profile(void) {
    static Profile profile;
    profile = (Profile){.methods = {"exact", "lowrank"},
                        .method_count = 2,
                        .lengths = {4096, 8192, 16384},
                        .length_count = 3,
                        .sgemm_rate = 1e11,
                        .copy_rate = 1e10,
                        .batch = 1,
                        .data = "a task"};
    for (size_t l = 0; l < 3; l++)
        for (size_t m = 0; m < 2; m++) {
            const double longer = (double)profile.lengths[l] / 4096;
            ProfileCell *cell = &profile.cells[l][m];
            *cell = (ProfileCell){.measured = true, .sgemm_rate = 1e11 / sqrt(longer), .flops = 1e9, .steps = 3};
            cell->step_seconds = m ? 1.5 * pow(longer, 1.25) : longer * longer;
            cell->phases.seconds[PHASE_ATTENTION_FORWARD] = cell->step_seconds / 4;
            cell->phases.flops[PHASE_ATTENTION_FORWARD] = 1e8;
            cell->phases.seconds[PHASE_OUTPUT] = cell->step_seconds / 2;
            cell->phases.flops[PHASE_OUTPUT] = 2e8;
        }
    return &profile;
}

static json_t *row_of(const json_t *document, size_t length, size_t method) {
    return json_array_get(json_object_get(document, "rows"), 2 * length + method);
}

static json_t *fit_of(const json_t *document, size_t method) {
    return json_array_get(json_object_get(document, "fits"), method);
}

// The text of the page; the caller frees it.
static char *page_of(const Profile *profile, const json_t *document) {
    char path[512], *page;
    Error error = {0};
    prepare();
    snprintf(path, sizeof path, "%s/profile.html", temporary_directory());
    if (!profile_write_report(profile, document, &config, path, &error)) fail_msg("%s", error.message);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    const size_t size = (size_t)ftell(file);
    rewind(file);
    page = calloc(size + 1, 1);
    assert_true(page && fread(page, 1, size, file) == size);
    fclose(file);
    return page;
}

// The chart's legend has the exponent of the table: that of times in units of sgemm's.
static void test_one_exponent(void **state) {
    (void)state;
    Profile *profile = make_profile();
    json_t *document = profile_document(profile);
    char *page = page_of(profile, document);
    assert_true(fabs(figure_of(fit_of(document, 0), "step_exponent") - 1.5) < 1e-9);
    assert_true(fabs(figure_of(fit_of(document, 1), "step_exponent") - 0.75) < 1e-9);
    assert_non_null(strstr(page, "exact (slope 1.50)"));
    assert_non_null(strstr(page, "lowrank (slope 0.75)"));
    assert_true(fabs(figure_of(fit_of(document, 1), "crossover_tokens") / 4096 - pow(1.5, 1 / 0.75)) < 1e-9);
    check_count("exponents that are the same in page and JSON", 2);
    free(page);
    json_decref(document);
}

// A step whose attention fell back to exact is not one of the method.
static void test_fallbacks(void **state) {
    (void)state;
    Profile *profile = make_profile();
    profile->cells[2][1].fell_back = 12;
    json_t *document = profile_document(profile), *phase;
    assert_true(figure_of(row_of(document, 2, 1), "fell_back") == 12);
    assert_true(json_is_null(json_object_get(row_of(document, 2, 1), "sgemm_share")));
    size_t index;
    json_array_foreach(json_object_get(row_of(document, 2, 1), "phases"), index, phase)
        assert_true(json_is_null(json_object_get(phase, "sgemm_share")) == (index == 0)); // attention, output
    for (size_t i = 0; i < 5; i++) {
        json_t *row = row_of(document, i / 2, i % 2);
        assert_true(figure_of(row, "fell_back") == 0 && figure_of(row, "sgemm_share") > 0);
    }
    assert_true(fabs(figure_of(fit_of(document, 1), "step_exponent") - 0.75) < 1e-9); // of the two that are left
    check_count("rows of a profile with a fallback", 6);
    json_decref(document);

    profile->cells[1][1].fell_back = 1; // one is left: no exponent, and no crossover, as it is slower there
    document = profile_document(profile);
    assert_true(json_is_null(json_object_get(fit_of(document, 1), "step_exponent")));
    assert_true(json_is_null(json_object_get(fit_of(document, 1), "crossover_tokens")));
    assert_true(fabs(figure_of(fit_of(document, 0), "step_exponent") - 1.5) < 1e-9);
    char *page = page_of(profile, document);
    assert_null(strstr(page, "lowrank (slope"));
    free(page);
    json_decref(document);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_useful_operations),
    cmocka_unit_test(test_asked_share),
    cmocka_unit_test(test_one_exponent),
    cmocka_unit_test(test_fallbacks),
};
TEST_MAIN(tests)
