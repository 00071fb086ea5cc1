// Runs that go on: what is refused because it belongs to another run, what may differ, and what is kept or said then.
// Which checkpoint is the best of such a run is in test_best.c.
#include "tests/support/check.h"
#include "tests/support/table_file.h"
#include "tests/support/toy_run.h"

#include <jansson.h>
#include <math.h>

#include "core/files.h"
#include "model/checkpoint.h"
#include "train/batches.h"
#include "train/metrics.h"
#include "train/signals.h"
#include "train/loaded.h"
#include "train/snapshot.h"
#include "train/state.h"
#include "train/train.h"

// Each setting that shapes the model, and the seed, which orders the data: with another value a run is not continued,
// and the trainer keeps its numbers.
static void test_other_runs(void **unused) {
    (void)unused;
    const char *directory = temporary_directory();
    static const char *const shared[] = {"model.qk_size=4", "model.v_size=4", "model.ffn=16", NULL};
    static const char *const others[] = {"model.vocabulary=33",
                                         "model.layers=2",
                                         "model.width=12",
                                         "model.heads=1",
                                         "model.kv_heads=2",
                                         "model.qk_size=6",
                                         "model.v_size=6",
                                         "model.ffn=24",
                                         "model.tokens=18",
                                         "model.rope_theta=500",
                                         "model.norm_epsilon=1e-4",
                                         "model.tie=false",
                                         "model.qk_norm=true",
                                         "model.token_shift=true",
                                         "train.seed=77"};
    Config config = settings(shared);
    Trainer trainer;
    char path[PATH];
    Error error = {0};
    toy_trainer_create(&trainer, &config);
    snprintf(path, sizeof path, "%s/saved", directory);
    if (!snapshot_save(path, &trainer, NULL, &error)) fail_msg("%s", error.message);
    if (!snapshot_load(path, &trainer, &error)) fail_msg("%s", error.message);
    trainer_destroy(&trainer);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        const char *more[] = {shared[0], shared[1], shared[2], others[i], NULL};
        Config other = settings(more);
        toy_trainer_create(&trainer, &other);
        const size_t bytes = model_tensors(trainer.model)->elements * sizeof(real);
        real *before = malloc(bytes);
        assert_non_null(before);
        memcpy(before, model_parameters(trainer.model), bytes);
        error_clear(&error);
        if (snapshot_load(path, &trainer, &error)) fail_msg("%s: accepted", others[i]);
        assert_int_equal(error.kind, ERROR_USER);
        check_same_bits("weights after a refusal", model_parameters(trainer.model), before, bytes);
        check_count("checkpoints of other runs refused", 1);
        free(before);
        trainer_destroy(&trainer);
    }
}

// Weights alone go into a model of the same shape, whatever its context; a run goes on under other settings of training,
// and not under those that its order of data or its shape depends on.
static void test_settings_that_may_differ(void **unused) {
    (void)unused;
    static const struct {
        const char *setting;
        bool weights, run;
    } cases[] = {{"optim.learning_rate=0.5", true, true}, {"model.tokens=18", true, false},
                 {"model.rope_theta=500", true, false},   {"model.norm_epsilon=1e-4", true, false},
                 {"train.seed=77", true, false},          {"model.vocabulary=33", false, false}};
    const char *directory = temporary_directory();
    Config config = settings(NULL);
    Trainer trainer;
    RunDirectory run;
    Error error = {0};
    toy_trainer_create(&trainer, &config);
    trainer.state.step = 1;
    if (!run_open(&run, directory, &error)) fail_msg("%s", error.message);
    save(&run, &trainer);
    trainer_destroy(&trainer);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Config other = settings((const char *const[]){cases[i].setting, NULL});
        bool found;
        toy_trainer_create(&trainer, &other);
        Error weights = {0}, whole = {0};
        if (snapshot_load_weights(below(directory, "step_00000001"), &trainer, &weights) != cases[i].weights)
            fail_msg("%s: weights: %s", cases[i].setting, weights.message);
        if (run_load_latest(&run, &trainer, &found, &whole) != cases[i].run || found != cases[i].run)
            fail_msg("%s: the run: %s", cases[i].setting, whole.message);
        if (!cases[i].weights) assert_int_equal(weights.kind, ERROR_USER);
        if (!cases[i].run) assert_true(whole.kind == ERROR_USER && strstr(whole.message, directory));
        check_count("settings that differ", 2);
        trainer_destroy(&trainer);
    }
    run_close(&run);
}

// Settings that travel in config.json come from outside: what is not known there is refused.
static void test_carried_settings(void **unused) {
    (void)unused;
    Config config = settings(NULL);
    Error error = {0};
    json_t *carried = snapshot_settings(&config);
    assert_true(json_object_size(carried) > 5);
    if (!snapshot_apply_settings(carried, &config, &error)) fail_msg("%s", error.message);
    json_decref(carried);
    if (!snapshot_apply_settings(NULL, &config, &error)) fail_msg("%s", error.message);
    char many[CONFIG_TEXT + 100];
    memset(many, '1', sizeof many);
    many[sizeof many - 1] = 0;
    const struct {
        const char *name;
        json_t *value;
    } cases[] = {{"train.out", json_string("elsewhere")}, {"attention.degree", json_integer(4)},
                 {"attention.degree", json_string(many)}, {"attention.degree", json_string("many")},
                 {"attention.unknown", json_string("1")}, {"train.batch", json_string("0")},
                 {"train.batch", json_integer(2)},        {"train.batch", json_string("1048577")},
                 {"train.batch", json_string("many")},    {"data.unknown", json_null()}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *object = json_object();
        json_object_set_new(object, cases[i].name, cases[i].value);
        error_clear(&error);
        if (snapshot_apply_settings(object, &config, &error)) fail_msg("case %zu: accepted", i);
        assert_int_equal(error.kind, ERROR_USER);
        json_decref(object);
        check_count("settings in checkpoints refused", 1);
    }
}

// Writes a checkpoint with this train.batch; NULL: without, as versions did before it was carried.
static void write_with_batch(const char *checkpoint, Trainer *trainer, const char *value) {
    json_t *carried = snapshot_settings(trainer->config);
    Error error = {0};
    assert_int_equal(json_object_del(carried, "train.batch"), 0);
    if (value) json_object_set_new(carried, "train.batch", json_string(value));
    if (!checkpoint_write(checkpoint, trainer->model, &(CheckpointInfo){carried, -1, -1}, &error))
        fail_msg("%s", error.message);
    json_decref(carried);
}

// A checkpoint knows the batches of its run, by which held-out data are counted. How many sequences the model takes at a
// time is another matter: where the run's do not fit there are fewer, and what needs one takes one.
static void test_batch_of_a_run(void **unused) {
    (void)unused;
    static const struct {
        const char *carried, *asked, *tokens;
        size_t given, batch, at_a_time; // batch 0: refused
    } cases[] = {{"3", NULL, "16", 0, 3, 3},
                 {"3", NULL, "16", 1, 3, 1},
                 {"3", "2", "16", 0, 2, 2},
                 {NULL, NULL, "16", 0, 8, 8},
                 {NULL, "2", "16", 0, 2, 2},
                 {"1048576", NULL, "16", 1, 1 << 20, 1},
                 {"1048576", NULL, "4096", 0, 1 << 20, 8},
                 {"3", "1048576", "4096", 0, 0, 0},
                 {"0", NULL, "16", 0, 0, 0},
                 {"0", NULL, "16", 1, 0, 0},
                 {"1e3", NULL, "16", 0, 0, 0}};
    const char *directory = temporary_directory();
    char checkpoint[PATH];
    Config config = settings((const char *const[]){"train.batch=3", NULL});
    Trainer trainer;
    Error error = {0};
    toy_trainer_create(&trainer, &config);
    snprintf(checkpoint, sizeof checkpoint, "%s/saved", directory);
    if (!snapshot_save(checkpoint, &trainer, NULL, &error)) fail_msg("%s", error.message);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        static Config overrides;
        static Loaded loaded;
        char assignment[64];
        error_clear(&error);
        config_defaults(&overrides);
        snprintf(assignment, sizeof assignment, "model.tokens=%s", cases[i].tokens);
        assert_true(config_set(&overrides, assignment, ORIGIN_COMMAND_LINE, &error));
        snprintf(assignment, sizeof assignment, "train.batch=%s", cases[i].asked ? cases[i].asked : "8");
        if (cases[i].asked) assert_true(config_set(&overrides, assignment, ORIGIN_COMMAND_LINE, &error));
        if (i == 1) assert_int_equal(unlink(below(checkpoint, "state.json")), 0); // the first is as it was saved
        if (i > 0) write_with_batch(checkpoint, &trainer, cases[i].carried);
        const bool taken = loaded_open(&loaded, checkpoint, &overrides, cases[i].given, &error);
        if (taken != (cases[i].batch > 0)) fail_msg("case %zu: %s", i, taken ? "accepted" : error.message);
        if (taken) {
            assert_int_equal(loaded.config.batch, cases[i].batch);
            assert_int_equal(model_settings(loaded.model)->batch, cases[i].at_a_time);
        } else {
            assert_int_equal(error.kind, ERROR_USER);
        }
        loaded_close(&loaded);
        check_count("batches of checkpoints", 1);
    }
    trainer_destroy(&trainer);
}

// A run that begins with another's weights has them to the bit, and moments of its own; what does not fit is refused.
static void test_starts_from_weights(void **unused) {
    (void)unused;
    const char *directory = temporary_directory();
    Config config = settings(NULL);
    Trainer trained, trainer;
    RunDirectory run;
    Error error = {0};
    toy_trainer_create(&trained, &config);
    toy_trainer_step(&trained);
    if (!run_open(&run, directory, &error)) fail_msg("%s", error.message);
    save(&run, &trained);
    static const struct {
        const char *name, *setting, *refusal; // below the run; refusal NULL: it is taken
    } cases[] = {{"", "train.seed=5", NULL},
                 {"latest", "train.seed=5", NULL},
                 {"latest///", "train.seed=5", NULL},
                 {"step_00000001", "model.tokens=18", NULL},
                 {"step_00000001", "model.width=12", "a model of another shape"},
                 {"step_00000002", "train.seed=5", "cannot be read"},
                 {"config.ini", "train.seed=5", "cannot be read"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char init[2 * PATH], from[RUN_PATH];
        snprintf(init, sizeof init, "train.init=%s/%s", directory, cases[i].name);
        Config other = settings((const char *const[]){init, cases[i].setting, NULL});
        toy_trainer_create(&trainer, &other);
        error_clear(&error);
        const bool taken = run_initialise(&trainer, from, &error);
        if (taken != !cases[i].refusal) fail_msg("%s, %s: %s", cases[i].name, cases[i].setting, error.message);
        assert_true(!taken || strstr(from, "/step_00000001"));
        if (taken)
            check_same_bits("weights begun with", model_parameters(trainer.model), model_parameters(trained.model),
                            elements(&trained) * sizeof(real));
        else
            assert_true(error.kind == ERROR_USER && strstr(error.message, "train.init") &&
                        strstr(error.message, cases[i].refusal));
        for (size_t k = 1; k < 3; k++)
            for (size_t e = 0; e < elements(&trainer); e++) assert_true(numbers_of(&trainer).values[k][e] == 0);
        check_count("weights to begin with", 1);
        trainer_destroy(&trainer);
    }
    toy_trainer_create(&trainer, &config); // nothing to begin with
    Copy before = copy_of(&trainer);
    char from[RUN_PATH] = "from";
    assert_true(run_initialise(&trainer, from, &error) && !*from && same_numbers(&trainer, &before));
    free_copy(&before);
    trainer_destroy(&trainer);
    trainer_destroy(&trained);
    run_close(&run);
}

// What a table of attention.kernel was is known again: an edited one is refused, unless that is asked for.
static void test_tables_that_change(void **unused) {
    (void)unused;
    const char *directory = temporary_directory(), *table = table_file_write("table", 4, 16, false);
    char kernel[2 * PATH], crc[64];
    snprintf(kernel, sizeof kernel, "attention.kernel=%s", table);
    Config config = settings((const char *const[]){kernel, NULL}), edited = config;
    Error error = {0};
    assert_int_equal(strlen(config.kernel_crc32), 8);
    assert_int_equal(config_origin(&config, "attention.kernel_crc32"), ORIGIN_DERIVED);
    assert_true(config_resolve(&edited, &error) && !strcmp(config.kernel_crc32, edited.kernel_crc32));

    FILE *file = fopen(table, "a");
    assert_true(file && fputs("# another\n", file) >= 0 && fclose(file) == 0);
    assert_false(config_resolve(&edited, &error));
    assert_true(error.kind == ERROR_USER && strstr(error.message, "is not the table that this was trained with"));
    const char *asked = strstr(error.message, "kernel_crc32=");
    assert_non_null(asked);
    snprintf(crc, sizeof crc, "attention.%.21s", asked);
    error_clear(&error);
    assert_true(config_set(&edited, crc, ORIGIN_COMMAND_LINE, &error) && config_resolve(&edited, &error));
    assert_string_not_equal(edited.kernel_crc32, config.kernel_crc32);

    // Another kernel has nothing to do with it; what is not a file that can be read says so when it is read.
    static const char *const others[] = {"rope", "/dev/null", "missing.table"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        Config over, now = config;
        config_defaults(&over);
        snprintf(kernel, sizeof kernel, "attention.kernel=%s", i ? others[i] : "rope");
        assert_true(config_set(&over, kernel, ORIGIN_COMMAND_LINE, &error));
        config_overlay(&now, &over);
        if (!config_resolve(&now, &error) || *now.kernel_crc32) fail_msg("%s: %s", others[i], error.message);
        check_count("kernels in the place of a table", 1);
    }
    assert_true(rename(table, below(directory, "moved")) == 0 && mkdir(table, 0777) == 0);
    edited = config;
    assert_true(config_resolve(&edited, &error) && !strcmp(config.kernel_crc32, edited.kernel_crc32));
}

// Data of another tokenizer are no data for a model; without tokenizers nobody knows.
static void test_data_of_another_tokenizer(void **unused) {
    (void)unused;
    static const struct {
        const char *model, *data;
        bool taken;
    } cases[] = {{NULL, NULL, true}, {NULL, "a", true}, {"a", NULL, true}, {"a", "a", true}, {"a", "b", false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *checkpoint = temporary_directory(), *data = temporary_directory();
        Error error = {0};
        if (cases[i].model) write_file(checkpoint, "tokenizer.model", cases[i].model);
        if (cases[i].data) write_file(data, "tokenizer.model", cases[i].data);
        if (snapshot_check_data(checkpoint, data, &error) != cases[i].taken) fail_msg("case %zu: %s", i, error.message);
        if (!cases[i].taken) assert_true(error.kind == ERROR_USER && strstr(error.message, data));
        assert_true(snapshot_check_data(checkpoint, "", &error)); // a task
        char shard[PATH], before[PATH]; // a shard stands for its folder, also where that is this one
        write_file(data, "train.bin", "");
        snprintf(shard, sizeof shard, "%s/train.bin", data);
        assert_true(getcwd(before, sizeof before) && chdir(data) == 0);
        for (size_t n = 0; n < 2; n++)
            if (snapshot_check_data(checkpoint, n ? "train.bin" : shard, &error) != cases[i].taken)
                fail_msg("case %zu, %s: %s", i, n ? "train.bin" : shard, error.message);
        assert_int_equal(chdir(before), 0);
        check_count("tokenizers of models and data", 4);
    }
}

// The costs of attention that the settings of a run hold after it has run to `steps`.
static void run_with_costs(const char *directory, const char *steps, bool resume, double costs[2]) {
    char out[2 * PATH];
    snprintf(out, sizeof out, "train.out=%s", directory);
    const char *const more[] = {
        "attention.method=auto", "train.eval_batches=1", "train.save_every=1", steps, out, NULL};
    Config config = settings(more);
    static TrainOutcome outcome;
    Error error = {0};
    if (resume) {
        config_defaults(&config);
        assert_true(config_read(&config, below(directory, "config.ini"), &error));
        assert_true(config_set(&config, steps, ORIGIN_COMMAND_LINE, &error) && config_resolve(&config, &error));
    }
    if (!train_run(&config, resume, &outcome, &error)) fail_msg("%s", error.message);
    config_defaults(&config);
    if (!config_read(&config, below(directory, "config.ini"), &error)) fail_msg("%s", error.message);
    costs[0] = config.cost_exact;
    costs[1] = config.cost_lowrank;
}

// Method auto measures what attention costs once in the life of a run: measured again, it could choose otherwise.
static void test_costs_are_kept(void **unused) {
    (void)unused;
    const char *directory = temporary_directory();
    double first[2], resumed[2];
    run_with_costs(directory, "train.steps=1", false, first);
    assert_true(first[0] > 0 && first[1] > 0);
    run_with_costs(directory, "train.steps=2", true, resumed);
    check_same_bits("costs of a resumed run", first, resumed, sizeof first);
}

// Resumed with nothing left to train, a run has the figures of its end: of the last line of a step, though lines of
// evaluations follow it.
static void test_figures_of_a_finished_run(void **unused) {
    (void)unused;
    const char *directory = temporary_directory();
    char out[2 * PATH];
    snprintf(out, sizeof out, "train.out=%s", directory);
    const Config config =
        settings((const char *const[]){"train.steps=5", "train.log_every=2", "train.eval_batches=2", out, NULL});
    static TrainOutcome first, again;
    Error error = {0};
    if (!train_run(&config, false, &first, &error)) fail_msg("%s", error.message);
    assert_true(isfinite(first.loss) && first.step_seconds > 0);
    for (int evaluated = 1; evaluated >= 0; evaluated--) { // interrupted in its last evaluation, it has that to do
        RunState state;
        uint64_t seed, steps;
        uint32_t fingerprint;
        assert_true(state_read(below(directory, "latest"), &state, &seed, &steps, &fingerprint, &error));
        state.eval_due = !evaluated;
        assert_true(state_write(below(directory, "latest"), &state, seed, steps, fingerprint, &error));
        signals_stop = 1; // it ends before its last evaluation, and without that it is not finished
        if (!train_run(&config, true, &again, &error)) fail_msg("%s", error.message);
        signals_stop = 0;
        assert_true(!again.finished && again.step == 5 && isnan(again.held_out_loss));
        if (!train_run(&config, true, &again, &error)) fail_msg("%s", error.message);
        assert_true(again.finished && again.step == 5 && again.step_seconds > 0 && isfinite(again.step_seconds));
        check_same_bits("losses of a finished run", &again.loss, &first.loss, sizeof first.loss);
        check_same_bits("held-out losses of a finished run", &again.held_out_loss, &first.held_out_loss,
                        sizeof first.held_out_loss);
    }
    write_file(directory, "metrics.jsonl", ""); // lost: there are no figures, and none are made up
    if (!train_run(&config, true, &again, &error)) fail_msg("%s", error.message);
    assert_true(again.finished && isnan(again.loss) && isnan(again.step_seconds) && isfinite(again.held_out_loss));
}

// The line of an evaluation that is still due goes with those of later steps: it comes again. A directory that is made
// anew has all lines until then.
static void test_lines_of_evaluations(void **unused) {
    (void)unused;
    static const char lines[] = "{\"step\":4,\"loss\":1}\n{\"step\":4,\"held_out_loss\":2}\n{\"step\":5,\"loss\":1}\n";
    const char *directory = temporary_directory();
    const size_t step = strcspn(lines, "\n") + 1, evaluation = step + strcspn(lines + step, "\n") + 1;
    for (int due = 0; due < 2; due++) {
        RunDirectory run = {.lock = -1};
        Metrics metrics;
        Error error = {0};
        size_t size;
        snprintf(run.path, sizeof run.path, "%s", directory);
        write_file(directory, "metrics.jsonl", lines);
        if (!metrics_open(&metrics, &run, 4, due, &error)) fail_msg("%s", error.message);
        snprintf(run.path, sizeof run.path, "%s", below(directory, due ? "due" : "done"));
        assert_true(directory_make(run.path, &error) && metrics_move(&metrics, &run, &error));
        assert_true(file_append_line(metrics.descriptor, "{}", 2, &error));
        metrics_close(&metrics);
        char *text = file_read_all(below(run.path, "metrics.jsonl"), 1 << 10, &size, &error);
        assert_int_equal(size, (due ? step : evaluation) + 3);
        check_same_bits("lines of metrics", text, lines, size - 3);
        assert_string_equal(text + size - 3, "{}\n");
        free(text);
    }
}

// A token whose embedding is so large that no step with it is sound: a run that is asked to stop in such a step goes on to
// the next one without it, and saves that.
static void test_stopped_while_skipping(void **unused) {
    (void)unused;
    const char *directory = temporary_directory();
    char out[2 * PATH];
    snprintf(out, sizeof out, "train.out=%s", directory);
    const Config config = settings((const char *const[]){"model.tie=false", "train.steps=40", "train.eval_every=0",
                                                         "train.eval_batches=1", "train.save_every=0", out, NULL});
    Trainer trainer;
    RunDirectory run;
    Error error = {0};
    enum { STEPS = 8 };
    int32_t inputs[16], targets[16];
    bool has[32][STEPS] = {{false}};
    Batches *batches = batches_open(&config, BATCHES_TRAIN, 1, &error);
    assert_non_null(batches);
    for (size_t step = 0; step < STEPS; step++) {
        assert_true(batches_next(batches, inputs, targets, &error));
        for (size_t t = 0; t < 16; t++) has[inputs[t]][step] = true;
    }
    batches_close(batches);
    size_t token = 0, sound = 0; // one that is in the first step, and not in all
    for (; token < 32 && !sound; token++)
        for (size_t step = 1; step < STEPS && !sound && has[token][0]; step++) sound = has[token][step] ? 0 : step + 1;
    assert_true(sound);
    toy_trainer_create(&trainer, &config);
    real *embedding = model_parameters(trainer.model) + tensor_of(model_tensors(trainer.model), TENSOR_EMBEDDING, -1)->offset;
    for (size_t i = 0; i < config.width; i++) embedding[(token - 1) * config.width + i] = (real)1e25;
    assert_true(run_open(&run, directory, &error));
    save(&run, &trainer);
    run_close(&run);
    trainer_destroy(&trainer);
    static TrainOutcome outcome;
    signals_stop = 1;
    const bool fine = train_run(&config, true, &outcome, &error);
    signals_stop = 0;
    if (!fine) fail_msg("%s", error.message);
    assert_int_equal(outcome.step, sound);
    assert_int_equal(outcome.skipped, sound - 1);
    char saved[40];
    snprintf(saved, sizeof saved, "step_%08zu", sound);
    assert_true(strstr(outcome.checkpoint, saved) && there(directory, saved));
    check_link(directory, "latest", saved);
    check_count("runs stopped while steps are skipped", 1);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_batch_of_a_run),
    cmocka_unit_test(test_other_runs),
    cmocka_unit_test(test_settings_that_may_differ),
    cmocka_unit_test(test_carried_settings),
    cmocka_unit_test(test_starts_from_weights),
    cmocka_unit_test(test_tables_that_change),
    cmocka_unit_test(test_data_of_another_tokenizer),
    cmocka_unit_test(test_costs_are_kept),
    cmocka_unit_test(test_figures_of_a_finished_run),
    cmocka_unit_test(test_lines_of_evaluations),
    cmocka_unit_test(test_stopped_while_skipping),
};
TEST_MAIN(tests)
