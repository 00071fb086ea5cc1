// A run's directory when memory, files or disk fail at any one call: saving leaves the old checkpoint or the new one,
// whole, and the trainer as it was; loading takes one that is whole, or says why there is none.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/files.h"
#include "core/threads.h"
#include "tests/failing/calls.h"
#include "tests/support/toy_trainer.h"
#include "train/run_directory.h"
#include "train/snapshot.h"
#include "train/state.h"

enum { PATH = 512 };

typedef struct Case {
    const char *directory;
    Config config;
    Trainer trainer, other; // what is saved, what is loaded into
    RunDirectory run;
    Tokenizer *tokenizer;
    char saved[RUN_PATH]; // what run_save said was saved
} Case;

static size_t bytes(const Trainer *trainer) { return model_tensors(trainer->model)->elements * sizeof(real); }

static bool next(void *context, const char **text, size_t *size) {
    bool *given = context;
    *text = "the hares and the foxes\n";
    *size = *given ? 0 : strlen(*text);
    *given = true;
    return true;
}

// The data that the settings name, of which only the tokenizer matters here.
static Tokenizer *make_tokenizer(Config *config) {
    char path[2 * CONFIG_TEXT];
    Error error = {0};
    bool given = false;
    snprintf(config->data_dir, CONFIG_TEXT, "%s", temporary_directory());
    snprintf(path, sizeof path, "%s/tokenizer.model", config->data_dir);
    const TokenizerTraining training = {
        .type = "char", .vocabulary = 280, .model_path = path, .next = next, .context = &given, .sample_bytes = 1000};
    if (!tokenizer_train(&training, &error)) fail_msg("%s", error.message);
    Tokenizer *tokenizer = tokenizer_load(path, &error);
    if (!tokenizer) fail_msg("%s", error.message);
    return tokenizer;
}

static void set_up(Case *c) {
    static const char *const common[] = {
        "data.task=induction", "model.layers=1", "model.width=8", "model.heads=2",    "model.tokens=8",
        "model.vocabulary=16", "train.batch=1",  "train.keep=2",  "train.steps=1000", NULL};
    threads_set(1);
    *c = (Case){.directory = temporary_directory(), .config = toy_settings(common, NULL), .run.lock = -1};
    toy_trainer_create(&c->trainer, &c->config);
    toy_trainer_create(&c->other, &c->config);
    c->tokenizer = make_tokenizer(&c->config);
}

static void tear_down(Case *c) {
    run_close(&c->run);
    tokenizer_free(c->tokenizer);
    trainer_destroy(&c->trainer);
    trainer_destroy(&c->other);
}

static const char *in(const Case *c, const char *name) {
    static char path[PATH];
    assert_true(snprintf(path, sizeof path, "%s/%s", c->directory, name) < PATH);
    return path;
}

static bool there(const Case *c, const char *name) {
    struct stat status;
    return lstat(in(c, name), &status) == 0;
}

static void open_run(Case *c) {
    Error error = {0};
    run_close(&c->run);
    if (!run_open(&c->run, c->directory, &error)) fail_msg("%s", error.message);
}

static void save_now(Case *c) {
    char saved[RUN_PATH];
    Error error = {0};
    if (!run_save(&c->run, &c->trainer, c->tokenizer, saved, &error)) fail_msg("%s", error.message);
}

static void same_trainers(const Case *c) {
    const char *name;
    check_same_bits("weights that came through", model_parameters(c->other.model), model_parameters(c->trainer.model),
                    bytes(&c->trainer));
    for (size_t i = 0; i < 2; i++)
        check_same_bits("moments that came through", optim_state(c->other.optim, i, &name),
                        optim_state(c->trainer.optim, i, &name), bytes(&c->trainer));
    assert_int_equal(c->other.state.step, c->trainer.state.step);
    assert_int_equal(optim_step_count(c->other.optim), optim_step_count(c->trainer.optim));
}

// ---- saving ----------------------------------------------------------------------------------------------------------

// Checkpoints of steps 1 and 2, and one step more that is not saved yet. One worse held-out loss keeps step 1 as the best.
static void two_saved(void *context) {
    Case *c = context;
    assert_true(directory_remove(c->directory, NULL));
    open_run(c);
    c->trainer.state = (RunState){.step = 1, .best_step = 1, .best_loss = 2};
    save_now(c);
    c->trainer.state.step = 2;
    save_now(c);
    c->trainer.state.step = 3;
}

static bool save(void *context, Error *error) {
    Case *c = context;
    snprintf(c->saved, sizeof c->saved, "step_00000002");
    bool anew;
    return run_keep_place(&c->run, c->trainer.config, c->saved, &anew, error) &&
           run_save(&c->run, &c->trainer, c->tokenizer, c->saved, error);
}

// Step 2 or step 3, whole, and nothing half-made once the run has been opened again.
static void old_or_new(void *context, bool good, const Error *error) {
    Case *c = context;
    (void)error;
    Error why = {0};
    bool found;
    assert_int_equal(c->trainer.state.step, 3);
    open_run(c);
    assert_false(there(c, "step_00000003.tmp") || there(c, "latest.tmp") || there(c, "best.tmp"));
    if (!run_load_latest(&c->run, &c->other, &found, &why)) fail_msg("%s", why.message);
    assert_true(found && (c->other.state.step == 3 || (!good && c->other.state.step == 2)));
    assert_true(there(c, "step_00000001/config.json")); // the best
    const uint64_t step = c->other.state.step;
    if (strstr(c->saved, "step_00000003")) // what is called safe is there
        assert_int_equal(step, 3);
    else if (good)
        fail_msg("saved, but called %s", c->saved);
    c->other.state.step = c->trainer.state.step;
    same_trainers(c);
    char target[40] = "", wanted[40];
    snprintf(wanted, sizeof wanted, "step_%08llu", (unsigned long long)step);
    assert_true(readlink(in(c, "latest"), target, sizeof target - 1) > 0);
    assert_string_equal(target, wanted);
}

static void test_save(void **state) {
    (void)state;
    Case c;
    set_up(&c);
    Attempt attempt = {"runs saved under failures", two_saved, save, old_or_new, &c, .named = c.directory};
    fail_each_call(&attempt, CALL_DISK & ~CALL_NAME & ~CALL_OPEN & ~CALL_READ, EIO);
    attempt.stride = 11; // most are for the model's tensors, each of which fails in test_failing_checkpoint
    fail_each_call(&attempt, CALL_MEMORY, ENOMEM);
    attempt.stride = 1;
    attempt.named = "/"; // or it is a folder above it that could not be made, or the tokenizer that could not be read
    fail_each_call(&attempt, CALL_NAME | CALL_OPEN | CALL_READ, EIO);
    tear_down(&c);
}

// ---- loading ---------------------------------------------------------------------------------------------------------

static bool load(void *context, Error *error) {
    Case *c = context;
    bool found = false;
    c->other.state = (RunState){0};
    if (!run_load_latest(&c->run, &c->other, &found, error)) return false;
    if (!found) fail_msg("the checkpoints are there, and none was found");
    return true;
}

// What a failure passes over is not the newest; it must be whole all the same.
static void whole(void *context, bool good, const Error *error) {
    Case *c = context;
    (void)error;
    if (!good) return;
    assert_true(c->other.state.step == 2 || c->other.state.step == 1);
    c->other.state.step = c->trainer.state.step;
    same_trainers(c);
}

static void test_load(void **state) {
    (void)state;
    Case c;
    set_up(&c);
    two_saved(&c);
    Attempt attempt = {"runs loaded under failures", NULL, load, whole, &c, .named = c.directory,
                       .or_kind = ERROR_CORRUPT};
    fail_each_call(&attempt, CALL_OPEN | CALL_READ | CALL_LIST | CALL_STATUS | CALL_NAME, EIO);
    attempt.stride = 7;
    fail_each_call(&attempt, CALL_MEMORY, ENOMEM);
    tear_down(&c);
}

// ---- opening ---------------------------------------------------------------------------------------------------------

static void left_behind(void *context) {
    Case *c = context;
    run_close(&c->run);
    assert_true(directory_make(in(c, "step_00000009.tmp/inside"), NULL) &&
                directory_make(in(c, "step_00000008.old"), NULL));
}

static bool open_it(void *context, Error *error) {
    Case *c = context;
    const bool good = run_open(&c->run, c->directory, error);
    if (good) {
        const bool listed = run_may_use(c->directory, USE_RUN, true, error);
        run_close(&c->run); // before files are counted
        return listed;
    }
    assert_int_equal(c->run.lock, -1);
    return false;
}

static void swept(void *context, bool good, const Error *error) {
    Case *c = context;
    (void)error;
    if (good) assert_false(there(c, "step_00000009.tmp") || there(c, "step_00000008.old"));
}

static void test_open(void **state) {
    (void)state;
    Case c;
    set_up(&c);
    Attempt attempt = {"runs opened under failures", left_behind, open_it, swept, &c, .named = "/"};
    fail_each_call(&attempt, CALL_MEMORY, ENOMEM);
    fail_each_call(&attempt, CALL_DISK & ~CALL_LOCK, EIO);
    fail_each_call(&attempt, CALL_LOCK, ENOLCK); // a file system without locks: there is nothing to wait for
    Error error = {0};
    check_write_file(in(&c, "file"), "", 0);
    assert_false(run_open(&c.run, in(&c, "file"), &error));
    assert_int_equal(error.kind, ERROR_USER);
    tear_down(&c);
}

static const RunState sealed = {.step = 7, .updates = 6, .tokens = 99, .loss_sum = 0.1, .best_loss = 3, .best_step = 5};

// `folder` behind so many slashes that it has `length` characters.
static const char *behind_slashes(const char *folder, size_t length) {
    static char path[RUN_PATH];
    assert_true(length < sizeof path && length > strlen(folder));
    memset(path, '/', length);
    strcpy(path + length - strlen(folder), folder);
    return path;
}

// Names in a folder pass the limit one by one, the longest first.
static void test_long_paths(void **state) {
    (void)state;
    enum { TRIES = 40, WAYS = 5 };
    Case c;
    set_up(&c);
    two_saved(&c);
    char folder[PATH], found[RUN_PATH];
    snprintf(folder, sizeof folder, "%s/step_00000002", c.directory);
    size_t good[WAYS] = {0};
    for (size_t length = RUN_PATH - TRIES; length < RUN_PATH; length++) {
        Error errors[WAYS] = {0};
        const char *path = behind_slashes(folder, length);
        bool fine[WAYS] = {snapshot_check(path, NULL, &errors[0]), snapshot_load(path, &c.other, &errors[1]),
                           snapshot_save(path, &c.trainer, c.tokenizer, &errors[2])};
        fine[4] = state_write(path, &sealed, c.config.seed, 6, config_fingerprint(&c.config), &errors[4]);
        fine[3] = run_find_checkpoint(behind_slashes(c.directory, length), found, &errors[3]);
        for (size_t i = 0; i < WAYS; i++) {
            good[i] += fine[i];
            if (fine[i]) continue;
            assert_int_equal(errors[i].kind, ERROR_USER);
            if (!strstr(errors[i].message, "too long") && i != 3) fail_msg("%zu: %s", i, errors[i].message);
        }
    }
    for (size_t i = 0; i < WAYS; i++)
        if (good[i] < 5 || good[i] > TRIES - 5) fail_msg("%zu of %d went well", good[i], TRIES);
    check_count("paths around the limit", WAYS * TRIES);
    Error error = {0};
    run_close(&c.run);
    assert_false(run_open(&c.run, behind_slashes(c.directory, RUN_PATH - 100), &error)); // names in it would not fit
    assert_int_equal(error.kind, ERROR_USER);
    tear_down(&c);
}

// ---- weights alone ---------------------------------------------------------------------------------------------------

static bool load_weights(void *context, Error *error) {
    Case *c = context;
    return snapshot_load_weights(in(c, "step_00000002"), &c->other, error);
}

static void same_weights(void *context, bool good, const Error *error) {
    const Case *c = context;
    (void)error;
    if (good)
        check_same_bits("weights that came through", model_parameters(c->other.model),
                        model_parameters(c->trainer.model), bytes(&c->trainer));
}

static void test_load_weights(void **state) {
    (void)state;
    Case c;
    Error error = {0};
    set_up(&c);
    two_saved(&c);
    Attempt attempt = {
        "weights loaded under failures", NULL, load_weights, same_weights, &c, .named = c.directory, .stride = 7};
    fail_each_call(&attempt, CALL_MEMORY, ENOMEM);
    attempt.stride = 1;
    fail_each_call(&attempt, CALL_OPEN | CALL_READ | CALL_STATUS, EIO);
    // Damage is found by the seal, and without one by the weights' own checksums.
    check_write_file(in(&c, "step_00000002/tokenizer.model"), "another", 7);
    assert_false(load_weights(&c, &error));
    assert_int_equal(error.kind, ERROR_CORRUPT);
    assert_int_equal(unlink(in(&c, "step_00000002/state.json")), 0);
    if (!load_weights(&c, (error_clear(&error), &error))) fail_msg("%s", error.message);
    check_write_file(in(&c, "step_00000002/config.json"), "{}", 2);
    assert_false(load_weights(&c, &error));
    assert_int_equal(error.kind, ERROR_CORRUPT);
    check_count("weights refused", 2);
    tear_down(&c);
}

// ---- state.json ------------------------------------------------------------------------------------------------------

static void two_files(void *context) {
    const Case *c = context;
    assert_true(directory_remove(c->directory, NULL) && directory_make(c->directory, NULL));
    check_write_file(in(c, "config.json"), "{}", 2);
    check_write_file(in(c, "weights"), "1234", 4);
    check_write_file(in(c, "state.json"), "an older one", 12);
}

static bool seal(void *context, Error *error) {
    const Case *c = context;
    return state_write(c->directory, &sealed, 1, 6, 0xabcd, error);
}

static bool unseal(void *context, Error *error) {
    Case *c = context;
    uint64_t seed = 0, steps = 0;
    uint32_t fingerprint = 0;
    if (!state_read(c->directory, &c->other.state, &seed, &steps, &fingerprint, error)) return false;
    assert_true(c->other.state.step == sealed.step && c->other.state.best_loss == sealed.best_loss);
    assert_true(seed == 1 && steps == 6 && fingerprint == 0xabcd);
    return true;
}

// A seal that stands covers every file.
static void sealed_or_not(void *context, bool good, const Error *error) {
    Case *c = context;
    (void)error;
    Error why = {0};
    const bool stands = unseal(c, &why);
    if (good && !stands) fail_msg("%s", why.message);
    if (!stands) return;
    static const char *const names[] = {"config.json", "weights"};
    for (size_t i = 0; i < 2; i++) {
        two_files(c);
        assert_true(seal(c, &why));
        check_write_file(in(c, names[i]), "12345", 5);
        assert_false(unseal(c, &why));
        assert_int_equal(why.kind, ERROR_CORRUPT);
        assert_non_null(strstr(why.message, names[i]));
        error_clear(&why);
    }
}

static void anything(void *context, bool good, const Error *error) { (void)context, (void)good, (void)error; }

static void test_seal(void **state) {
    (void)state;
    Case c;
    Error error = {0};
    set_up(&c);
    const Attempt sealing = {"seals set under failures", two_files, seal, sealed_or_not, &c, .named = c.directory};
    fail_each_call(&sealing, CALL_MEMORY, ENOMEM);
    fail_each_call(&sealing, CALL_DISK, EIO);
    interrupt_each_call(&sealing, CALL_READ | CALL_WRITE | CALL_SYNC | CALL_CLOSE);
    two_files(&c);
    if (!seal(&c, &error)) fail_msg("%s", error.message);
    const Attempt reading = {"seals read under failures", NULL, unseal, anything, &c, .named = c.directory};
    fail_each_call(&reading, CALL_MEMORY, ENOMEM);
    fail_each_call(&reading, CALL_OPEN | CALL_READ, EIO);
    interrupt_each_call(&reading, CALL_READ);
    tear_down(&c);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_open), cmocka_unit_test(test_long_paths), cmocka_unit_test(test_load_weights),
    cmocka_unit_test(test_seal), cmocka_unit_test(test_save),       cmocka_unit_test(test_load),
};
TEST_MAIN(tests)
