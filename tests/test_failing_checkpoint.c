// Checkpoints of a model when memory, files or disk fail at any one call: a message with the file and the reason, nothing
// kept, and a directory that reads back as what was saved or not at all.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/files.h"
#include "model/checkpoint.h"
#include "model/safetensors.h"
#include "tests/failing/calls.h"
#include "tests/support/toy_model.h"

enum { PATH = 4096, MOMENTS = 2 };

typedef struct Case {
    const char *directory;
    Model *model, *other; // what is saved, what is loaded
    json_t *rope_c;
    real *moments[MOMENTS];
} Case;

static const char *const prefixes[MOMENTS] = {"first.", "second."};

static const char *in(const Case *c, const char *name) {
    static char path[PATH];
    assert_true(path_join(path, sizeof path, c->directory, name, NULL));
    return path;
}

static size_t bytes(const Case *c) { return model_tensors(c->model)->elements * sizeof(real); }

static void set_up(Case *c) {
    ModelSettings settings = toy_settings(1, 8);
    settings.config.layers = 1;
    *c = (Case){.directory = temporary_directory(), .model = toy_create(&settings), .other = toy_create(&settings)};
    toy_fill(c->model, 5);
    c->rope_c = json_pack("{s:s}", "attention.method", "exact");
    for (size_t i = 0; i < MOMENTS; i++) {
        c->moments[i] = calloc(1, bytes(c)); // what lies between tensors is zero in models too
        assert_non_null(c->moments[i]);
    }
}

static void tear_down(Case *c) {
    for (size_t i = 0; i < MOMENTS; i++) free(c->moments[i]);
    json_decref(c->rope_c);
    model_destroy(c->model);
    model_destroy(c->other);
}

static void start_empty(void *context) {
    const Case *c = context;
    assert_true(directory_remove(c->directory, NULL) && directory_make(c->directory, NULL));
}

static bool save(void *context, Error *error) {
    const Case *c = context;
    return checkpoint_write(c->directory, c->model, &(CheckpointInfo){c->rope_c, 1, 2}, error);
}

static bool load(void *context, Error *error) {
    const Case *c = context;
    ModelConfig config;
    json_t *rope_c = NULL;
    memset(model_parameters(c->other), 0, bytes(c));
    bool good = checkpoint_read_config(c->directory, &config, &rope_c, error);
    if (good && config.vocabulary != model_settings(c->model)->config.vocabulary) fail_msg("another configuration");
    if (good && !json_equal(rope_c, c->rope_c)) fail_msg("other settings");
    json_decref(rope_c);
    return good && checkpoint_read_weights(c->directory, c->other, error);
}

static void same_weights(const Case *c) {
    check_same_bits("weights that came through", model_parameters(c->other), model_parameters(c->model), bytes(c));
}

static void whole_or_refused(void *context, bool good, const Error *error) {
    (void)error;
    Error why = {0};
    if (load(context, &why)) return same_weights(context);
    if (good) fail_msg("saved, but: %s", why.message);
    assert_true(why.kind != ERROR_NONE && *why.message);
}

static void loaded(void *context, bool good, const Error *error) {
    (void)error;
    if (good) same_weights(context);
}

static void test_save(void **state) {
    (void)state;
    Case c;
    set_up(&c);
    const Attempt attempt = {
        "checkpoints saved under failures", start_empty, save, whole_or_refused, &c, .named = c.directory};
    fail_each_call(&attempt, CALL_MEMORY, ENOMEM);
    fail_each_call(&attempt, CALL_DISK, EIO);
    fail_each_call(&attempt, CALL_WRITE, ENOSPC);
    interrupt_each_call(&attempt, CALL_OPEN | CALL_WRITE | CALL_SYNC | CALL_CLOSE);
    tear_down(&c);
}

static void test_load(void **state) {
    (void)state;
    Case c;
    Error error = {0};
    set_up(&c);
    if (!save(&c, &error)) fail_msg("%s", error.message);
    const Attempt attempt = {"checkpoints loaded under failures", NULL, load, loaded, &c, .named = c.directory};
    fail_each_call(&attempt, CALL_MEMORY, ENOMEM);
    fail_each_call(&attempt, CALL_OPEN | CALL_READ, EIO);
    interrupt_each_call(&attempt, CALL_READ);
    tear_down(&c);
}

// ---- in several files ------------------------------------------------------------------------------------------------

// The tensors in turn to one of two files, with an index, as others write large models.
static void write_shards(const Case *c) {
    static const char *const names[] = {"model-1.safetensors", "model-2-with-a-name-longer-than-the-index.safetensors"};
    const TensorTable *table = model_tensors(c->model);
    SafetensorsItem *items = calloc(table->count, sizeof *items);
    json_t *map = json_object();
    assert_non_null(items);
    Error error = {0};
    for (size_t file = 0; file < 2; file++) {
        size_t count = 0;
        for (size_t i = file; i < table->count; i += 2) {
            const Tensor *tensor = &table->tensors[i];
            items[count++] = (SafetensorsItem){tensor->name,
                                               (size_t)tensor->rank,
                                               {tensor->rank == 1 ? tensor->columns : tensor->rows, tensor->columns},
                                               model_parameters(c->model) + tensor->offset};
            json_object_set_new(map, tensor->name, json_string(names[file]));
        }
        if (!safetensors_write(in(c, names[file]), items, count, NULL, &error)) fail_msg("%s", error.message);
    }
    free(items);
    json_t *index = json_pack("{s:o}", "weight_map", map);
    assert_int_equal(json_dump_file(index, in(c, "model.safetensors.index.json"), 0), 0);
    json_decref(index);
    assert_int_equal(unlink(in(c, "model.safetensors")), 0);
}

static void test_load_shards(void **state) {
    (void)state;
    Case c;
    Error error = {0};
    set_up(&c);
    if (!save(&c, &error)) fail_msg("%s", error.message);
    write_shards(&c);
    const Attempt attempt = {"sharded checkpoints loaded under failures", NULL, load, loaded, &c, .named = c.directory};
    fail_each_call(&attempt, CALL_MEMORY, ENOMEM);
    fail_each_call(&attempt, CALL_OPEN | CALL_READ, EIO);
    tear_down(&c);
}

// ---- moments ---------------------------------------------------------------------------------------------------------

static bool save_moments(void *context, Error *error) {
    const Case *c = context;
    const real *const arrays[MOMENTS] = {model_parameters(c->model), model_parameters(c->model)};
    return checkpoint_write_flat(in(c, "optimizer.safetensors"), model_tensors(c->model), prefixes, arrays, MOMENTS,
                                 error);
}

static bool load_moments(void *context, Error *error) {
    const Case *c = context;
    return checkpoint_read_flat(in(c, "optimizer.safetensors"), model_tensors(c->model), prefixes, c->moments, MOMENTS,
                                error);
}

static void moments_loaded(void *context, bool good, const Error *error) {
    const Case *c = context;
    (void)error;
    for (size_t i = 0; good && i < MOMENTS; i++)
        check_same_bits("moments that came through", c->moments[i], model_parameters(c->model), bytes(c));
}

static void moments_whole_or_refused(void *context, bool good, const Error *error) {
    (void)error;
    Error why = {0};
    const bool whole = load_moments(context, &why);
    if (good && !whole) fail_msg("saved, but: %s", why.message);
    moments_loaded(context, whole, NULL);
}

static void test_moments(void **state) {
    (void)state;
    Case c;
    set_up(&c);
    const Attempt saving = {"moments saved under failures", start_empty, save_moments,
                            moments_whole_or_refused,       &c,          .named = "optimizer.safetensors"};
    fail_each_call(&saving, CALL_MEMORY, ENOMEM);
    fail_each_call(&saving, CALL_DISK, EIO);
    Error error = {0};
    if (!save_moments(&c, &error)) fail_msg("%s", error.message);
    const Attempt loading = {"moments loaded under failures", NULL, load_moments, moments_loaded, &c,
                             .named = "optimizer.safetensors"};
    fail_each_call(&loading, CALL_MEMORY, ENOMEM);
    fail_each_call(&loading, CALL_DISK, EIO);
    tear_down(&c);
}

// ---- large tensors ---------------------------------------------------------------------------------------------------

// More than the writer's buffer holds, so that writes fail before the file is closed.
enum { LARGE = 200000 };

static bool save_large(void *context, Error *error) {
    const Case *c = context;
    static real numbers[LARGE];
    for (size_t i = 0; i < LARGE; i++) numbers[i] = (real)i;
    const SafetensorsItem items[] = {{"a", 2, {LARGE / 2, 2}, numbers}, {"b", 1, {LARGE}, numbers}};
    return safetensors_write(in(c, "large"), items, 2, NULL, error);
}

static void large_whole_or_refused(void *context, bool good, const Error *error) {
    const Case *c = context;
    static real numbers[LARGE];
    Error why = {0};
    (void)error;
    Safetensors *file = safetensors_open(in(c, "large"), &why);
    const bool whole = file && safetensors_read(file, "b", 1, (const size_t[]){LARGE}, numbers, &why);
    safetensors_close(file);
    if (good && !whole) fail_msg("saved, but: %s", why.message);
    for (size_t i = 0; whole && i < LARGE; i++) assert_true(numbers[i] == (real)i);
}

static void test_large(void **state) {
    (void)state;
    Case c;
    set_up(&c);
    const Attempt attempt = {"large tensors saved under failures",
                             start_empty,
                             save_large,
                             large_whole_or_refused,
                             &c,
                             .named = c.directory};
    fail_each_call(&attempt, CALL_DISK, ENOSPC);
    interrupt_each_call(&attempt, CALL_WRITE);
    tear_down(&c);
}

// ---- paths that are too long -----------------------------------------------------------------------------------------

// A folder behind so many slashes that the names in it pass the limit one by one, the longest first: that is named, and
// shorter ones are read. The same for an index, whose shards have names as long as it likes.
static void test_long_paths(void **state) {
    (void)state;
    enum { TRIES = 100 };
    Case c;
    Error error = {0};
    set_up(&c);
    if (!save(&c, &error)) fail_msg("%s", error.message);
    const char *folder = c.directory;
    for (size_t sharded = 0; sharded < 2; sharded++) {
        if (sharded) write_shards(&c);
        size_t loaded = 0;
        for (size_t length = PATH - TRIES; length < PATH; length++) {
            char path[PATH];
            Error errors[3] = {0};
            memset(path, '/', length);
            strcpy(path + length - strlen(folder), folder);
            c.directory = path;
            const bool fine[] = {load(&c, &errors[0]), checkpoint_read_weights(path, c.other, &errors[1]),
                                 sharded || save(&c, &errors[2])};
            loaded += fine[0];
            for (size_t i = 0; i < 3; i++)
                if (!fine[i] && (errors[i].kind != ERROR_USER || !strstr(errors[i].message, "is too long.")))
                    fail_msg("%zu characters: %s", length, errors[i].message);
            check_count("paths around the limit", 3);
        }
        assert_true(loaded > 9 && loaded < TRIES - 9);
        c.directory = folder;
    }
    tear_down(&c);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_save),    cmocka_unit_test(test_load),  cmocka_unit_test(test_load_shards),
    cmocka_unit_test(test_moments), cmocka_unit_test(test_large), cmocka_unit_test(test_long_paths),
};
TEST_MAIN(tests)
