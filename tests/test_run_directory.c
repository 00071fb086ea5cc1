// Runs on disk: which checkpoint a run goes on from, what is kept and what is swept away. Models of a few hundred numbers
// on a synthetic task.
#include "tests/support/check.h"
#include "tests/support/toy_run.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "core/files.h"
#include "core/threads.h"
#include "train/snapshot.h"
#include "train/state.h"

// The last two and the best stay; both links point to what is there; what a killed run left is swept, and no more.
static void test_keeps(void **unused) {
    (void)unused;
    const char *directory = temporary_directory();
    Config config = settings(NULL);
    Trainer trainer;
    RunDirectory run;
    Error error = {0};
    toy_trainer_create(&trainer, &config);
    assert_int_equal(mkdir(below(directory, "step_00000009.tmp"), 0777), 0);
    assert_int_equal(mkdir(below(directory, "step_00000009.old"), 0777), 0);
    static const char *const strangers[] = {"notes.txt",     "step_1",   "step_00000001x", "step_0000000000000000001",
                                            "tmp",           "mine.tmp", "config.ini.old", "step_1.tmp",
                                            "step_000000009"};
    enum { STRANGERS = sizeof strangers / sizeof strangers[0] };
    for (size_t i = 0; i < STRANGERS; i++) write_file(directory, strangers[i], "mine");
    if (!run_open(&run, directory, &error)) fail_msg("%s", error.message);
    assert_false(there(directory, "step_00000009.tmp") || there(directory, "step_00000009.old"));
    assert_true(run_may_use(directory, USE_RUN, false, &error));
    for (size_t k = 1; k <= 5; k++) {
        toy_trainer_step(&trainer);
        if (k == 2) trainer.state.best_step = 2, trainer.state.best_loss = 1;
        save(&run, &trainer);
    }
    assert_false(run_may_use(directory, USE_RUN, false, NULL));
    static const char *const names[] = {"step_00000001", "step_00000002", "step_00000003", "step_00000004",
                                        "step_00000005"};
    for (size_t i = 0; i < 5; i++) {
        if (there(directory, names[i]) != (i == 1 || i >= 3)) fail_msg("%s: kept or removed by mistake", names[i]);
        check_count("files kept or removed", 1);
    }
    for (size_t i = 0; i < STRANGERS; i++) {
        if (!there(directory, strangers[i])) fail_msg("%s was removed", strangers[i]);
        check_count("files kept or removed", 1);
    }
    check_link(directory, "latest", "step_00000005");
    check_link(directory, "best", "step_00000002");
    trainer_destroy(&trainer);
    run_close(&run);
}

// What is left of a run without its checkpoints: metrics that a new one would write over, unless there is nothing in them
// or no sign that there ever was a checkpoint.
static void test_remains(void **unused) {
    (void)unused;
    const char *directory = temporary_directory();
    Config config = settings(NULL);
    Trainer trainer;
    RunDirectory run;
    Error error = {0};
    toy_trainer_create(&trainer, &config);
    assert_true(run_open(&run, directory, &error) && run_check_gone(&run, &error));
    write_file(directory, "metrics.jsonl", "{}\n");
    assert_true(run_check_gone(&run, &error)); // killed before its first checkpoint
    save(&run, &trainer);
    assert_true(run_check_gone(&run, &error));
    assert_true(directory_remove(below(directory, "step_00000000"), &error));
    assert_false(run_check_gone(&run, &error));
    assert_true(error.kind == ERROR_USER && strstr(error.message, "/metrics.jsonl is of a run whose checkpoints are gone"));
    error_clear(&error);
    write_file(directory, "metrics.jsonl", "");
    assert_true(run_check_gone(&run, &error));
    assert_true(unlink(below(directory, "metrics.jsonl")) == 0 && run_check_gone(&run, &error));

    // The best is gone, and the link to it; where it cannot go, that is said.
    for (int k = 0; k < 2; k++) {
        toy_trainer_step(&trainer);
        if (k == 0) trainer.state.best_step = 1, trainer.state.best_loss = 1;
        save(&run, &trainer);
    }
    check_link(directory, "best", "step_00000001");
    assert_true(directory_remove(below(directory, "step_00000001"), &error));
    bool found = false;
    assert_true(run_load_latest(&run, &trainer, &found, &error) && found);
    assert_true(trainer.state.best_step == 0 && !there(directory, "best"));
    assert_true(mkdir(below(directory, "best"), 0777) == 0 && !run_load_latest(&run, &trainer, &found, &error));
    if (error.kind != ERROR_SYSTEM || !strstr(error.message, "/best")) fail_msg("%s", error.message);
    trainer_destroy(&trainer);
    run_close(&run);
    check_count("remains of runs", 8);
}

// The newest whole checkpoint is what a run goes on from. A newer one that is damaged is passed over, and is gone once
// the run has saved again, lest it be taken for the newest; without a whole one the run says so.
static void test_goes_on(void **unused) {
    (void)unused;
    const char *directory = temporary_directory();
    Config config = settings((const char *const[]){"train.keep=9", NULL});
    Trainer trainer;
    RunDirectory run;
    Error error = {0};
    bool found;
    toy_trainer_create(&trainer, &config);
    if (!run_open(&run, directory, &error)) fail_msg("%s", error.message);
    assert_true(run_load_latest(&run, &trainer, &found, &error));
    assert_false(found);
    for (size_t k = 1; k <= 4; k++) {
        toy_trainer_step(&trainer);
        save(&run, &trainer);
    }
    write_file(directory, "step_00000004/model.safetensors", "damage");
    static const char *const damages[] = {"{}", "", NULL}; // NULL: its removal was begun and cut short
    for (size_t i = 0; i < 3; i++) {
        if (damages[i])
            write_file(directory, "step_00000003/state.json", damages[i]);
        else
            assert_int_equal(remove(below(directory, "step_00000003/state.json")), 0);
        if (!run_load_latest(&run, &trainer, &found, &error)) fail_msg("%s", error.message);
        assert_true(found);
        assert_int_equal(trainer.state.step, 2);
        check_link(directory, "latest", "step_00000002");
    }
    save(&run, &trainer);
    assert_true(there(directory, "step_00000001") && there(directory, "step_00000002"));
    assert_false(there(directory, "step_00000003") || there(directory, "step_00000004"));
    write_file(directory, "step_00000001/state.json", "");
    write_file(directory, "step_00000002/config.json", "{");
    assert_false(run_load_latest(&run, &trainer, &found, &error));
    assert_int_equal(error.kind, ERROR_CORRUPT);
    assert_non_null(strstr(error.message, directory));
    check_count("runs gone on with", 5);
    RunDirectory second;
    error_clear(&error);
    assert_false(run_open(&second, directory, &error)); // locked
    assert_int_equal(error.kind, ERROR_USER);
    run_close(&run);
    char name[RUN_PATH + 10];
    memset(name, 'n', sizeof name);
    name[sizeof name - 1] = 0;
    static const char *const none = "";
    const char *paths[] = {none, name};
    for (size_t i = 0; i < 2; i++) {
        error_clear(&error);
        assert_false(run_open(&second, paths[i], &error));
        assert_int_equal(error.kind, ERROR_USER);
    }
    check_count("directories refused", 3);
    trainer_destroy(&trainer);
}

static void test_finds(void **unused) {
    (void)unused;
    const char *directory = temporary_directory();
    char path[RUN_PATH], run[PATH];
    Error error = {0};
    assert_int_equal(mkdir(below(directory, "run"), 0777), 0);
    snprintf(run, sizeof run, "%s/run", directory);
    assert_int_equal(mkdir(below(run, "step"), 0777), 0);
    write_file(run, "step/config.json", "{}");
    write_file(run, "file", "");
    static const struct {
        const char *name, *link;
        bool good;
    } cases[] = {{"missing", NULL, false}, {"file", NULL, false}, {"", NULL, false},     {"step", NULL, true},
                 {"", "best", true},       {"", "latest", true},  {"latest", NULL, true}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (cases[i].link) assert_int_equal(symlink("step", below(run, cases[i].link)), 0);
        char argument[PATH + 40];
        snprintf(argument, sizeof argument, "%.511s%s%s", run, *cases[i].name ? "/" : "", cases[i].name);
        error_clear(&error);
        if (run_find_checkpoint(argument, path, &error) != cases[i].good)
            fail_msg("case %zu, %s: %s", i, argument, error.message);
        if (!cases[i].good) assert_int_equal(error.kind, ERROR_USER);
        if (cases[i].good) assert_string_equal(path, below(run, "step")); // links may be turned while it is read
        check_count("names of checkpoints", 1);
    }
}

// What is being read stays, however old, and goes once it is not; only a future that the run has gone back from goes all
// the same. What is going is not begun to be read.
static void test_held_by_a_reader(void **unused) {
    (void)unused;
    const char *directory = temporary_directory();
    char path[RUN_PATH];
    Config config = settings((const char *const[]){"train.keep=1", NULL});
    Trainer trainer;
    RunDirectory run;
    Error error = {0};
    int held, other;
    toy_trainer_create(&trainer, &config);
    assert_true(run_open(&run, directory, &error));
    save(&run, &trainer);
    assert_true(run_hold_checkpoint(directory, path, &held, &error) && held >= 0);
    assert_string_equal(path, below(directory, "step_00000000"));
    assert_true(run_hold_checkpoint(directory, path, &other, &error) && other >= 0); // readers do not mind each other
    toy_trainer_step(&trainer);
    save(&run, &trainer);
    assert_true(there(directory, "step_00000000") && there(directory, "step_00000001"));
    close(held);
    toy_trainer_step(&trainer);
    save(&run, &trainer);
    assert_true(there(directory, "step_00000000") && !there(directory, "step_00000001"));
    close(other);
    toy_trainer_step(&trainer);
    save(&run, &trainer);
    assert_true(!there(directory, "step_00000000") && there(directory, "step_00000003"));

    assert_true(run_hold_checkpoint(directory, path, &held, &error));
    trainer.state.step = 2;
    save(&run, &trainer);
    assert_false(there(directory, "step_00000003"));
    close(held);
    assert_true((held = open(below(directory, "step_00000002"), O_RDONLY | O_DIRECTORY)) >= 0);
    assert_int_equal(flock(held, LOCK_EX), 0); // as the run does that removes it
    assert_false(run_hold_checkpoint(directory, path, &other, &error));
    assert_true(other < 0 && error.kind == ERROR_USER && strstr(error.message, "step_00000002 is being removed"));
    close(held);
    check_count("checkpoints that are read or going", 8);
    run_close(&run);
    trainer_destroy(&trainer);
}

// A run whose directory is moved goes on where it is; one that is removed is made again; another run that has taken its
// place is left alone.
static void test_moved_away(void **unused) {
    (void)unused;
    const char *directory = temporary_directory();
    char path[PATH], moved[PATH], saved[RUN_PATH];
    Config config = settings(NULL);
    Trainer trainer;
    RunDirectory run, other;
    Error error = {0};
    bool anew;
    snprintf(path, sizeof path, "%s/run", directory);
    snprintf(moved, sizeof moved, "%s/moved", directory);
    toy_trainer_create(&trainer, &config);
    assert_true(run_open(&run, path, &error));
    save(&run, &trainer);
    snprintf(saved, sizeof saved, "%s/step_00000000", path);
    assert_int_equal(rename(path, moved), 0);
    assert_true(run_keep_place(&run, &config, saved, &anew, &error) && !anew);
    assert_true(strstr(run.path, "/moved") && strstr(saved, "/moved/step_00000000"));
    toy_trainer_step(&trainer);
    save(&run, &trainer);
    assert_true(there(moved, "step_00000000") && there(moved, "step_00000001") && !there(directory, "run"));
    check_link(moved, "latest", "step_00000001");

    *saved = 0; // nothing was saved
    assert_int_equal(rename(moved, path), 0);
    assert_true(run_keep_place(&run, &config, saved, &anew, &error) && !anew && !*saved && strstr(run.path, "/run"));
    assert_true(run_check_place(&run, &error));
    assert_int_equal(rename(path, moved), 0);
    assert_false(run_check_place(&run, &error));
    assert_true(error.kind == ERROR_USER && strstr(error.message, "what is there now is not written to"));
    error_clear(&error);
    assert_true(run_keep_place(&run, &config, saved, &anew, &error) && !anew && run_check_place(&run, &error));

    assert_true(directory_remove(moved, &error));
    assert_true(run_keep_place(&run, &config, saved, &anew, &error) && anew && !*saved);
    save(&run, &trainer);
    assert_true(there(moved, "step_00000001") && there(moved, "config.ini") && !there(moved, "step_00000000"));
    assert_false(run_open(&other, moved, &error)); // the new directory is locked as the old one was
    assert_int_equal(error.kind, ERROR_USER);

    assert_true(directory_remove(moved, NULL) && mkdir(moved, 0777) == 0);
    assert_int_equal(mkdir(below(moved, "step_00000000"), 0777), 0);
    error_clear(&error);
    snprintf(saved, sizeof saved, "%s/step_00000001", moved);
    assert_false(run_keep_place(&run, &config, saved, &anew, &error));
    assert_true(error.kind == ERROR_USER && strstr(error.message, "something else is there now") && !*saved);
    assert_true(there(moved, "step_00000000") && !there(moved, "config.ini"));
    assert_true(directory_remove(moved, NULL) && run_open(&other, moved, NULL)); // a run that has written nothing yet
    error_clear(&error);
    assert_false(run_keep_place(&run, &config, saved, &anew, &error));
    assert_true(error.kind == ERROR_USER && strstr(error.message, "is being trained by another process"));
    run_close(&other);
    assert_true(directory_remove(moved, NULL));
    write_file(directory, "moved", "somebody's");
    error_clear(&error);
    assert_false(run_keep_place(&run, &config, saved, &anew, &error));
    if (error.kind != ERROR_SYSTEM || !strstr(error.message, "/moved")) fail_msg("%s", error.message);
    snprintf(run.path, sizeof run.path, "%s/moved/run", directory); // through a file
    error_clear(&error);
    assert_false(run_keep_place(&run, &config, saved, &anew, &error));
    if (error.kind != ERROR_SYSTEM || !strstr(error.message, "/moved/run")) fail_msg("%s", error.message);
    run_close(&run);
    error_clear(&error);
    assert_false(run_check_place(&run, &error));
    assert_int_equal(error.kind, ERROR_SYSTEM);
    trainer_destroy(&trainer);
    check_count("directories that were moved or removed", 8);
}

// Between the two renames that take a checkpoint's place, neither the old one nor the new one has its name: one of them
// must come back. A checkpoint under another's name, and a file in the place of a link, are named.
static void test_names_that_are_not_theirs(void **unused) {
    (void)unused;
    const char *directory = temporary_directory();
    char step[2 * PATH], other[2 * PATH];
    Config config = settings(NULL);
    Trainer trainer;
    RunDirectory run;
    Error error = {0};
    bool found;
    toy_trainer_create(&trainer, &config);
    assert_true(run_open(&run, directory, &error));
    toy_trainer_step(&trainer);
    save(&run, &trainer);
    run_close(&run);
    snprintf(step, sizeof step, "%s", below(directory, "step_00000001"));
    snprintf(other, sizeof other, "%s", below(directory, "step_00000001.old"));
    assert_int_equal(rename(step, other), 0);
    assert_int_equal(mkdir(below(directory, "step_00000001.tmp"), 0777), 0);
    assert_true(run_open(&run, directory, &error));
    if (!run_load_latest(&run, &trainer, &found, &error)) fail_msg("%s", error.message);
    assert_true(found && trainer.state.step == 1);
    assert_false(there(directory, "step_00000001.old") || there(directory, "step_00000001.tmp"));

    run_close(&run);
    assert_int_equal(mkdir(below(directory, "step_00000001.old"), 0777), 0); // what was begun to be removed
    assert_true(run_open(&run, directory, &error));
    assert_true(there(directory, "step_00000001/state.json") && !there(directory, "step_00000001.old"));

    snprintf(other, sizeof other, "%s", below(directory, "step_00000100"));
    assert_int_equal(rename(step, other), 0);
    assert_false(run_load_latest(&run, &trainer, &found, &error));
    assert_true(error.kind == ERROR_USER && strstr(error.message, "step_00000100 is the checkpoint of step 1"));
    run_close(&run);

    write_file(directory, "best", "mine"); // a link until now, to nothing
    assert_int_equal(remove(below(directory, "latest")), 0);
    write_file(directory, "latest", "mine");
    error_clear(&error);
    assert_false(run_open(&run, directory, &error));
    assert_true(error.kind == ERROR_USER && strstr(error.message, "/latest is a file in the place of a link"));
    trainer_destroy(&trainer);
    check_count("names that are not theirs", 4);
}

// Copies that followed the links: a whole checkpoint in the place of a link goes to its step, anything else is named.
static void test_copied_links(void **unused) {
    (void)unused;
    const char *directory = temporary_directory();
    Config config = settings(NULL);
    Trainer trainer;
    RunDirectory run;
    Error error = {0};
    bool found;
    toy_trainer_create(&trainer, &config);
    assert_true(run_open(&run, directory, &error));
    for (int i = 0; i < 3; i++) toy_trainer_step(&trainer);
    save(&run, &trainer);
    run_close(&run);
    assert_int_equal(unlink(below(directory, "latest")), 0);
    char step[2 * PATH];
    snprintf(step, sizeof step, "%s", below(directory, "step_00000003"));
    assert_int_equal(rename(step, below(directory, "latest")), 0);
    assert_true(run_open(&run, directory, &error));
    assert_true(there(directory, "step_00000003") && !there(directory, "latest"));
    if (!run_load_latest(&run, &trainer, &found, &error)) fail_msg("%s", error.message);
    assert_true(found && trainer.state.step == 3);
    check_link(directory, "latest", "step_00000003");
    run_close(&run);

    assert_int_equal(mkdir(below(directory, "best"), 0777), 0);
    assert_false(run_open(&run, directory, &error));
    assert_true(error.kind == ERROR_USER && strstr(error.message, "/best is a directory in the place of a link"));
    assert_true(there(directory, "best") && there(directory, "step_00000003/state.json"));
    trainer_destroy(&trainer);
    check_count("directories in the place of links", 2);
}

// Writes `text`, whose crc32 is zeros, with the right one: only the contents are wrong then.
static void seal(const char *directory, const char *text) {
    char sealed[4096], digits[16];
    const size_t size = strlen(text);
    assert_true(size < sizeof sealed && size > 11);
    memcpy(sealed, text, size + 1);
    snprintf(digits, sizeof digits, "%08x", checksum(0, text, size));
    memcpy(sealed + size - 11, digits, 8);
    write_file(directory, "state.json", sealed);
}

// A state.json with a right checksum and wrong contents: from another version, or by another hand.
static void test_sealed_nonsense(void **unused) {
    (void)unused;
    const char *directory = temporary_directory();
    static const char *const names[] = {"version", "step", "epoch", "window", "seed", "optimizer_steps"};
    static const char *const files[] = {"{}",
                                        "{\"config.json\": 1}",
                                        "{\"config.json\": \"00000000\"}",
                                        "{\"../config.json\": \"00000000\"}",
                                        "{\"missing\": \"00000000\"}",
                                        "[]",
                                        "7"};
    write_file(directory, "config.json", "{}");
    char good[64], text[2048];
    snprintf(good, sizeof good, "{\"config.json\": \"%08x\"}", checksum(0, "{}", 2));
    const size_t values = sizeof names / sizeof *names, lists = sizeof files / sizeof *files;
    for (size_t i = 0; i <= values + lists; i++) {
        int v[6] = {1, 3, 0, 3, 1, 3};
        if (i < values) v[i] = i ? -1 : 2;
        snprintf(
            text, sizeof text,
            "{\"version\": %d, \"step\": %d, \"updates\": 3, \"tokens\": 48, \"skipped\": 0, \"skipped_in_row\": 0, "
            "\"fell_back\": 0, \"optimizer_steps\": %d, \"data\": {\"epoch\": %d, \"window\": %d}, \"seed\": %d, "
            "\"loss_sum\": 1.5, \"loss_count\": 1, \"best_loss\": null, \"best_step\": 0, \"eval_due\": false, "
            "\"settings\": \"00000000\", \"files\": %s, \"crc32\": \"00000000\"}\n",
            v[0], v[1], v[5], v[2], v[3], v[4], i >= values && i < values + lists ? files[i - values] : good);
        seal(directory, text);
        RunState state;
        Error error = {0};
        const bool whole = i == values + lists, read = state_read(directory, &state, NULL, NULL, NULL, &error);
        if (read != whole) fail_msg("case %zu: %s", i, read ? "accepted" : error.message);
        if (!whole && error.kind != ERROR_CORRUPT) fail_msg("case %zu: kind %d", i, (int)error.kind);
        check_count("sealed states", 1);
    }
}

// Runs, comparisons and sweeps do not write into each other's directories, and go on only where that is asked for.
static void test_what_a_directory_is_for(void **unused) {
    (void)unused;
    static const char *const holds[] = {"", "step_00000007", "progress.json", "sweep.json"}, // nothing, or what USE has
        *const names[] = {"run", "comparison", "sweep"}, *const out[] = {"train.out", "--out", "train.out"};
    for (size_t held = 0; held < 4; held++)
        for (RunUse use = USE_RUN; use < RUN_USES; use++)
            for (int resume = 0; resume < 2; resume++) {
                const char *directory = temporary_directory();
                char expected[PATH] = "";
                Error error = {0};
                if (held == 1)
                    assert_int_equal(mkdir(below(directory, holds[held]), 0777), 0);
                else if (held)
                    write_file(directory, holds[held], "{}");
                if (held == (size_t)use + 1 && !resume)
                    snprintf(expected, sizeof expected,
                             "%s holds a %s already: --resume goes on with it; for a new one choose another %s or "
                             "remove it.",
                             directory, names[use], out[use]);
                else if (held && held != (size_t)use + 1)
                    snprintf(expected, sizeof expected, "%s holds a %s: for a %s choose another %s.", directory,
                             names[held - 1], names[use], out[use]);
                if (run_may_use(directory, use, resume, &error) != !*expected || strcmp(error.message, expected))
                    fail_msg("expected \"%s\", got \"%s\"", expected, error.message);
                assert_true(!*expected || error.kind == ERROR_USER);
                check_count("directories for a use", 1);
            }
    const char *directory = temporary_directory();
    Error error = {0};
    assert_true(run_may_use(below(directory, "not there yet"), USE_SWEEP, false, &error));
    write_file(directory, "file", "");
    assert_false(run_may_use(below(directory, "file"), USE_SWEEP, true, &error));
    assert_true(error.kind == ERROR_USER && strstr(error.message, "file exists and is not a folder."));
}

static int one_thread(void **unused) {
    (void)unused;
    threads_set(1);
    return 0;
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup(test_keeps, one_thread),
    cmocka_unit_test(test_remains),
    cmocka_unit_test(test_goes_on),
    cmocka_unit_test(test_finds),
    cmocka_unit_test(test_held_by_a_reader),
    cmocka_unit_test(test_moved_away),
    cmocka_unit_test(test_names_that_are_not_theirs),
    cmocka_unit_test(test_copied_links),
    cmocka_unit_test(test_sealed_nonsense),
    cmocka_unit_test(test_what_a_directory_is_for),
};
TEST_MAIN(tests)
