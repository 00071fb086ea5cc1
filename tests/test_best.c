// The best checkpoint of a run that goes on: what it is compared with, and how long it is kept.
#include "tests/support/check.h"
#include "tests/support/toy_run.h"

#include <math.h>

#include "train/state.h"
#include "train/train.h"

// Settings of a run that evaluates and saves after each step; `more` as in settings().
static Config judged_settings(const char *directory, const char *const *more) {
    char out[2 * PATH];
    snprintf(out, sizeof out, "train.out=%s", directory);
    const char *all[16] = {"data.task=mqar",     "data.pairs=2",       "train.eval_batches=4",
                           "train.eval_every=1", "train.save_every=1", out};
    for (size_t i = 0; more && more[i]; i++) all[6 + i] = more[i];
    return settings(all);
}

static void run_on(const char *directory, bool resume, const char *const *more) {
    const Config config = judged_settings(directory, more);
    static TrainOutcome outcome;
    Error error = {0};
    if (!train_run(&config, resume, &outcome, &error)) fail_msg("%s", error.message);
}

static RunState state_of(const char *directory) {
    RunState state;
    Error error = {0};
    if (!state_read(below(directory, "latest"), &state, NULL, NULL, NULL, &error)) fail_msg("%s", error.message);
    return state;
}

static const double unbeatable = 1e-9;

static void make_best(double loss, const char *directory, bool known) {
    RunState state;
    uint64_t seed, steps;
    uint32_t fingerprint;
    Error error = {0};
    const char *latest = below(directory, "latest");
    assert_true(state_read(latest, &state, &seed, &steps, &fingerprint, &error) && state.best_step > 0);
    state.best_loss = loss;
    if (!known) state.judged_by = 0; // as versions before there was that wrote it
    assert_true(state_write(latest, &state, seed, steps, fingerprint, &error));
}

// Held-out losses are compared where they are of the same sequences, and only there: of others the first is the best.
static void test_best_is_judged_alike(void **unused) {
    (void)unused;
    static const struct {
        const char *changes[3];
        bool others, unknown; // other sequences are held out; of the best so far nobody knows by which it was judged
    } cases[] = {{.changes = {NULL}},
                 {.changes = {"train.eval_batches=3"}, .unknown = true},
                 {.changes = {"train.eval_batches=3"}, .others = true},
                 {.changes = {"train.eval_batches=0"}, .others = true},
                 {.changes = {"train.eval_batches=100000"}, .others = true},
                 {.changes = {"train.batch=2"}, .others = true},
                 {.changes = {"train.batch=2", "train.eval_batches=2"}},
                 {.changes = {"data.pairs=3"}, .others = true},
                 {.changes = {"data.gap_power=0.5"}, .others = true},
                 {.changes = {"data.filler=distinct"}, .others = true},
                 {.changes = {"data.task=copy"}, .others = true},
                 {.changes = {"optim.learning_rate=0.1"}},
                 {.changes = {"attention.method=lowrank", "attention.bound=clip"}}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *directory = temporary_directory(), *const *changes = cases[i].changes;
        run_on(directory, false, (const char *const[]){"train.steps=2", NULL});
        make_best(unbeatable, directory, !cases[i].unknown);
        const uint64_t best = state_of(directory).best_step;
        run_on(directory, true, (const char *const[]){"train.steps=3", changes[0], changes[1], NULL});
        const RunState state = state_of(directory);
        const uint64_t expected = cases[i].others ? 3 : best;
        if (state.best_step != expected || (state.best_loss > unbeatable) != cases[i].others)
            fail_msg("%s: the best is step %llu, %g", changes[0], (unsigned long long)state.best_step, state.best_loss);
        char target[32];
        snprintf(target, sizeof target, "step_%08llu", (unsigned long long)expected);
        check_link(directory, "best", target);
        check_count("runs judged by other data or the same", 1);
    }
}

// Until there is another, the checkpoint that was the best is kept, over saves and further resumes, and is compared with
// again where its own sequences are held out.
static void test_best_to_be_found_anew(void **unused) {
    (void)unused;
    const char *directory = temporary_directory();
    static const char *const change[] = {"train.eval_batches=3", "train.keep=1", "train.steps=9", NULL};
    run_on(directory, false, (const char *const[]){"train.steps=2", NULL});
    make_best(unbeatable, directory, true);
    const uint64_t best = state_of(directory).best_step;
    char target[32];
    snprintf(target, sizeof target, "step_%08llu", (unsigned long long)best);
    const Config config = judged_settings(directory, change);
    for (uint64_t step = 3; step <= 5; step++) {
        Trainer trainer;
        RunDirectory run;
        Error error = {0};
        bool found;
        if (!trainer_create(&trainer, &config, true, &error) || !run_open(&run, directory, &error) ||
            !run_load_latest(&run, &trainer, &found, &error))
            fail_msg("%s", error.message);
        assert_true(trainer.state.best_step == best && trainer.state.best_loss == unbeatable);
        toy_trainer_step(&trainer);
        save(&run, &trainer);
        trainer_destroy(&trainer);
        run_close(&run);
        const RunState state = state_of(directory);
        assert_true(state.step == step && state.best_step == best && state.best_loss == unbeatable);
        check_link(directory, "best", target);
        assert_true(there(directory, target));
        check_count("saves before the next evaluation", 1);
    }
    run_on(directory, true, (const char *const[]){"train.keep=1", "train.steps=7", NULL});
    assert_true(state_of(directory).best_step == best && there(directory, target));
    run_on(directory, true, change);
    const RunState state = state_of(directory);
    assert_true(state.best_step > 7 && state.best_loss > unbeatable);
    assert_false(there(directory, target));
}

// A best step without a loss, as an earlier version wrote it where other data were held out: any loss is lower.
static void test_best_without_loss(void **unused) {
    (void)unused;
    const char *directory = temporary_directory();
    run_on(directory, false, (const char *const[]){"train.steps=2", NULL});
    make_best(INFINITY, directory, true);
    assert_true(isinf(state_of(directory).best_loss));
    run_on(directory, true, (const char *const[]){"train.steps=3", NULL});
    assert_true(state_of(directory).best_step == 3 && isfinite(state_of(directory).best_loss));
    check_count("best steps without a loss", 1);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_best_is_judged_alike),
    cmocka_unit_test(test_best_to_be_found_anew),
    cmocka_unit_test(test_best_without_loss),
};
TEST_MAIN(tests)
