// Configuration files when memory or disk fail at any one call.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/files.h"
#include "tests/failing/calls.h"
#include "tests/support/check.h"
#include "train/config.h"

enum { PATH = 512 };

typedef struct Case {
    const char *directory;
    char path[PATH];
    Config config, read;
} Case;

static void set_up(Case *c) {
    *c = (Case){.directory = temporary_directory()};
    snprintf(c->path, PATH, "%s/config.ini", c->directory);
    config_defaults(&c->config);
    assert_true(config_set(&c->config, "model.width=96", ORIGIN_COMMAND_LINE, NULL));
}

static bool write_file(void *context, Error *error) {
    const Case *c = context;
    return config_write(&c->config, c->path, error);
}

// There is an old file, with another width.
static void old_file(void *context) {
    Case *c = context;
    static const char text[] = "[model]\nwidth = 64\n";
    check_write_file(c->path, text, sizeof text - 1);
}

static bool read_file(void *context, Error *error) {
    Case *c = context;
    config_defaults(&c->read);
    return config_read(&c->read, c->path, error);
}

static void old_or_new(void *context, bool good, const Error *error) {
    Case *c = context;
    Error why = {0};
    (void)error;
    if (!read_file(c, &why)) fail_msg("%s", why.message);
    assert_true(c->read.width == 96 || (!good && c->read.width == 64));
    char temporary[PATH + 8];
    snprintf(temporary, sizeof temporary, "%s.tmp", c->path);
    assert_int_not_equal(access(temporary, F_OK), 0);
}

static void test_write(void **state) {
    (void)state;
    Case c;
    Error error = {0};
    set_up(&c);
    old_file(&c);
    if (!read_file(&c, &error)) fail_msg("%s", error.message); // the name is kept from now on
    const Attempt attempt = {
        "configurations written under failures", old_file, write_file, old_or_new, &c, .named = c.directory};
    fail_each_call(&attempt, CALL_MEMORY, ENOMEM);
    fail_each_call(&attempt, CALL_OPEN | CALL_WRITE | CALL_SYNC, ENOSPC);
    fail_each_call(&attempt, CALL_STREAM, ENOMEM);
}

static void width_read(void *context, bool good, const Error *error) {
    const Case *c = context;
    (void)error;
    if (good) assert_int_equal(c->read.width, 96);
}

// A name that is to be kept for the origins of settings, and for which there is no memory.
static void another_name(void *context) {
    Case *c = context;
    Error error = {0};
    static int number;
    snprintf(c->path, PATH, "%s/config%d.ini", c->directory, number++);
    if (!write_file(c, &error)) fail_msg("%s", error.message);
}

static void test_read(void **state) {
    (void)state;
    Case c;
    set_up(&c);
    Attempt attempt = {"configurations read under failures",
                       another_name,
                       read_file,
                       width_read,
                       &c,
                       .named = c.directory,
                       .keeps = 1};
    fail_each_call(&attempt, CALL_MEMORY, ENOMEM);
    attempt.or_kind = ERROR_USER; // who named a file that cannot be opened
    fail_each_call(&attempt, CALL_OPEN, EIO);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_write),
    cmocka_unit_test(test_read),
};
TEST_MAIN(tests)
