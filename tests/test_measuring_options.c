// rope bench, profile and verify as a user runs them: what was set on the command line is measured, or it is said that
// it is not.
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/check.h"
#include "train/command.h"
#include "train/signals.h"

enum { MOST_ARGUMENTS = 24, SAID = 4096 };

static const char *directory(void) {
    static const char *made;
    if (!made) made = temporary_directory();
    return made;
}

static const char *in_directory(const char *name, char path[512]) {
    snprintf(path, 512, "%s/%s", directory(), name);
    return path;
}

// Runs the command as a child, so that this process never has threads. Its standard output is in `out`, what it says in
// `said`. The exit code.
static int run(const char *command, const char *const *more, char said[SAID]) {
    char setting[640], out[512], said_path[512], *arguments[MOST_ARGUMENTS];
    const char *const common[] = {"--model.heads=2",
                                  "--model.width=16",
                                  "--model.layers=2",
                                  "--model.vocabulary=64",
                                  "--train.threads=1",
                                  "--json",
                                  setting};
    int count = 0, status;
    snprintf(setting, sizeof setting, "--train.out=%s", directory());
    in_directory("out", out);
    in_directory("said", said_path);
    arguments[count++] = (char *)(uintptr_t)command;
    for (size_t i = 0; more[i]; i++) arguments[count++] = (char *)(uintptr_t)more[i];
    for (size_t i = 0; i < sizeof common / sizeof *common; i++) arguments[count++] = (char *)(uintptr_t)common[i];
    arguments[count] = NULL;
    assert_true(count < MOST_ARGUMENTS);
    fflush(NULL);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (!freopen(out, "w", stdout) || !freopen(said_path, "w", stderr)) _exit(99);
        const int code = command_find(command)->run(count, arguments);
        fflush(NULL);
        _exit(code);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    FILE *file = fopen(said_path, "r");
    assert_non_null(file);
    said[fread(said, 1, SAID - 1, file)] = 0;
    fclose(file);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void run_well(const char *command, const char *const *more, char said[SAID]) {
    if (run(command, more, said) != 0) fail_msg("rope %s: %s", command, said);
}

static void test_settings_are_defaults(void **state) {
    (void)state;
    static const struct {
        const char *command, *more[8];
        const char *methods[2];
        json_int_t tokens, batch;
    } cases[] = {
        {"profile", {"--attention.method=exact", "--model.tokens=48", "--train.batch=3"}, {"exact"}, 48, 3},
        {"profile",
         {"--attention.method=exact,lowrank", "--tokens=32"},
         {"exact,lowrank"},
         32,
         1}, // one for each layer
        {"bench",
         {"attention", "--attention.method=lowrank", "--model.tokens=48", "--train.batch=3", "--rounds=1"},
         {"lowrank"},
         48,
         3},
        {"bench",
         {"attention", "--attention.method=lowrank", "--method=exact,lowrank", "--tokens=32", "--rounds=1"},
         {"exact", "lowrank"},
         32,
         1},
    };
    char said[SAID], out[512];
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        run_well(cases[c].command, cases[c].more, said);
        json_error_t why;
        json_t *document = json_load_file(in_directory("out", out), 0, &why), *row;
        if (!document) fail_msg("%s", why.text);
        json_t *rows = json_object_get(document, "rows");
        assert_int_equal(json_array_size(rows), cases[c].methods[1] ? 2 : 1);
        assert_int_equal(json_integer_value(json_object_get(document, "batch")), cases[c].batch);
        size_t index;
        json_array_foreach(rows, index, row) {
            assert_string_equal(json_string_value(json_object_get(row, "method")), cases[c].methods[index]);
            assert_int_equal(json_integer_value(json_object_get(row, "tokens")), cases[c].tokens);
        }
        json_decref(document);
    }
    check_count("commands that measure what was set", sizeof cases / sizeof *cases);
}

static void test_verify_names_what_it_does_not_use(void **state) {
    (void)state;
    char said[SAID];
    run_well("verify",
        (const char *const[]){"--tokens=32", "--rounds=1", "--attention.kernel_decay=0.9", "--attention.method=lowrank",
                              "--attention.degree=7", NULL},
        said);
    assert_non_null(strstr(said, "attention.method, attention.degree"));
    assert_non_null(strstr(said, "does not use"));
    assert_null(strstr(said, "kernel_decay"));
    assert_null(strstr(said, "train.threads"));
    check_count("settings of verify that are named", 2);
}

// An exact run's settings say bound = none; a method that the command line puts in the place of exact has its own.
static void test_bound_of_a_method(void **state) {
    (void)state;
    char path[512], config[640], said[SAID], out[512];
    FILE *file = fopen(in_directory("exact.ini", path), "w");
    assert_true(file && fputs("[attention]\nmethod = exact\nbound = none\nlogit_bound = 0.01\n", file) > 0 &&
                fclose(file) == 0);
    snprintf(config, sizeof config, "--config=%s", path);
    static const char *const methods[] = {"--methods=lowrank", "--attention.method=lowrank"};
    for (size_t i = 0; i < 2; i++) {
        run_well("profile", (const char *const[]){config, methods[i], "--tokens=256", "--attention.near=16", NULL}, said);
        json_t *document = json_load_file(in_directory("out", out), 0, NULL);
        json_t *row = json_array_get(json_object_get(document, "rows"), 0);
        assert_string_equal(json_string_value(json_object_get(row, "method")), "lowrank");
        if (json_number_value(json_object_get(row, "fell_back")) != 0) fail_msg("%s: it has no bound", methods[i]);
        json_decref(document);
    }
    check_count("bounds of a method on the command line", 2);
}

// What is timed has no end: a schedule that a run of so many tokens could not have is none of its business.
static void test_schedule_of_a_run(void **state) {
    (void)state;
    char path[512], config[640], said[SAID];
    FILE *file = fopen(in_directory("short.ini", path), "w");
    assert_true(file &&
                fputs("[optim]\nwarmup = 100\nschedule = wsd\nwsd_decay_share = 1\n[train]\ntokens = 4096\n", file) >
                    0 &&
                fclose(file) == 0);
    snprintf(config, sizeof config, "--config=%s", path);
    run_well("profile", (const char *const[]){config, "--methods=exact", "--tokens=16,64,256", NULL}, said);
    run_well("bench", (const char *const[]){"step", config, "--model.tokens=256", "--rounds=1", NULL}, said);
    assert_null(strstr(said, "warmup"));
    run_well("bench", (const char *const[]){"attention", config, "--tokens=256", "--rounds=1", NULL}, said);
    check_count("measurements of a run with a long warm-up", 3);
}

// Exit code 0 would promise a document.
static void test_profile_stopped_at_once(void **state) {
    (void)state;
    char said[SAID];
    signals_stop = 1;
    const int code = run("profile", (const char *const[]){"--tokens=32", NULL}, said);
    signals_stop = 0;
    assert_true(code != 0);
    assert_non_null(strstr(said, "there is no report"));
    check_count("profiles that end before they begin", 1);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_settings_are_defaults),
    cmocka_unit_test(test_bound_of_a_method),
    cmocka_unit_test(test_schedule_of_a_run),
    cmocka_unit_test(test_profile_stopped_at_once),
    cmocka_unit_test(test_verify_names_what_it_does_not_use),
};
TEST_MAIN(tests)
