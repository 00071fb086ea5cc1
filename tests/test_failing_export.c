// Exported models when memory, files or disk fail at any one call: a message with the file and the reason, and under
// the file's name the whole of it or nothing.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/files.h"
#include "model/export.h"
#include "tests/failing/calls.h"
#include "tests/support/toy_model.h"

enum { PATH = 4096, VOCABULARY = 17 };

typedef struct Case {
    const char *directory;
    char path[PATH], temporary[PATH + 8];
    Model *model;
    ExportVocabulary vocabulary;
    char *bytes; // of a file written without failures
    size_t size;
    bool may_leave; // the temporary file, where removing it fails too
} Case;

static bool export_to_gguf(void *context, Error *error) {
    Case *c = context;
    return export_gguf(c->path, c->model, &c->vocabulary, "failing", error);
}

static bool export_to_llama2(void *context, Error *error) {
    Case *c = context;
    return export_llama2(c->directory, c->model, &c->vocabulary, error);
}

static void start_empty(void *context) {
    const Case *c = context;
    assert_true(directory_remove(c->directory, NULL) && directory_make(c->directory, NULL));
}

static void set_up(Case *c) {
    static ExportPiece pieces[VOCABULARY];
    ModelSettings settings = toy_settings(1, 8);
    Error error = {0};
    settings.attention.bound = BOUND_NONE;
    settings.config.layers = 1, settings.config.heads = settings.config.kv_heads = 2;
    settings.config.rope_theta = 10000;
    for (size_t i = 0; i < VOCABULARY; i++) pieces[i] = (ExportPiece){"piece", 0, EXPORT_NORMAL};
    *c = (Case){.directory = temporary_directory(), .model = toy_create(&settings)};
    c->vocabulary = (ExportVocabulary){.pieces = pieces, .bos = 1, .eos = 2};
    snprintf(c->path, sizeof c->path, "%s/model.gguf", c->directory);
    snprintf(c->temporary, sizeof c->temporary, "%s.tmp", c->path);
    toy_fill(c->model, 5);
    if (!export_to_gguf(c, &error) || !(c->bytes = file_read_all(c->path, 1 << 24, &c->size, &error)))
        fail_msg("%s", error.message);
}

static void tear_down(Case *c) {
    free(c->bytes);
    model_destroy(c->model);
}

static void whole_or_nothing(void *context, bool good, const Error *error) {
    const Case *c = context;
    (void)error;
    size_t size;
    char *bytes = access(c->path, F_OK) == 0 ? file_read_all(c->path, 1 << 24, &size, NULL) : NULL;
    assert_true(bytes || !good);
    if (bytes) assert_int_equal(size, c->size);
    if (bytes) check_same_bits("exported files that came through", bytes, c->bytes, size);
    if (!c->may_leave) assert_int_not_equal(access(c->temporary, F_OK), 0);
    free(bytes);
}

// Both are there if it says so; the command removes the directory if not.
static void both(void *context, bool good, const Error *error) {
    const Case *c = context;
    (void)error;
    char path[PATH];
    for (size_t i = 0; good && i < 2; i++) {
        assert_true(path_join(path, sizeof path, c->directory, i ? "tokenizer.bin" : "model.bin", NULL));
        assert_int_equal(access(path, F_OK), 0);
    }
}

static void test_gguf(void **state) {
    (void)state;
    Case c;
    set_up(&c);
    Attempt attempt = {
        "models exported under failures", start_empty, export_to_gguf, whole_or_nothing, &c, .named = c.directory};
    fail_each_call(&attempt, CALL_MEMORY, ENOMEM);
    fail_each_call(&attempt, CALL_DISK & ~CALL_NAME, EIO);
    fail_each_call(&attempt, CALL_WRITE, ENOSPC);
    interrupt_each_call(&attempt, CALL_OPEN | CALL_WRITE | CALL_SYNC | CALL_CLOSE);
    c.may_leave = true;
    attempt.named = "/"; // a folder above it, where making that fails
    fail_each_call(&attempt, CALL_NAME, EIO);
    tear_down(&c);
}

static void test_llama2(void **state) {
    (void)state;
    Case c;
    set_up(&c);
    const Attempt attempt = {
        "models exported under failures", start_empty, export_to_llama2, both, &c, .named = c.directory};
    fail_each_call(&attempt, CALL_MEMORY, ENOMEM);
    fail_each_call(&attempt, CALL_DISK, EIO);
    tear_down(&c);
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(test_gguf), cmocka_unit_test(test_llama2)};
TEST_MAIN(tests)
