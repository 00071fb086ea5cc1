// Directories with checkpoints of toy models, for tests of what is in them.
#ifndef ROPE_TESTS_SUPPORT_CHECKPOINT_FILES_H
#define ROPE_TESTS_SUPPORT_CHECKPOINT_FILES_H

#include "core/files.h"
#include "model/checkpoint.h"
#include "tests/support/toy_model.h"

enum { CHECKPOINT_PATH = 4096 };

// A fresh directory of that name.
static inline const char *directory_new(const char *name) {
    static char path[CHECKPOINT_PATH];
    static const char *root;
    Error error = {0};
    if (!root) root = temporary_directory();
    assert_true(path_join(path, sizeof path, root, name, &error));
    directory_remove(path, NULL);
    assert_true(directory_make(path, &error));
    return path;
}

static inline const char *join(const char *directory, const char *name) {
    static char paths[4][CHECKPOINT_PATH];
    static size_t next;
    char *path = paths[next++ % 4];
    Error error = {0};
    assert_true(path_join(path, CHECKPOINT_PATH, directory, name, &error));
    return path;
}

static inline char *read_bytes(const char *path, size_t *size) {
    Error error = {0};
    char *bytes = file_read_all(path, 1 << 24, size, &error);
    if (!bytes) fail_msg("%s", error.message);
    return bytes;
}

// What transformers can express.
static inline ModelSettings plain_settings(void) {
    ModelSettings settings = toy_settings(1, 8);
    settings.attention.bound = BOUND_NONE;
    return settings;
}

// Numbers that single precision holds, whatever the build.
static inline Model *filled(const ModelSettings *settings) {
    Model *model = toy_create(settings);
    toy_fill(model, 11);
    for (size_t i = 0; i < model_tensors(model)->elements; i++)
        model_parameters(model)[i] = (real)(float)model_parameters(model)[i];
    return model;
}

static inline bool load(const char *directory, Model *model, Error *error) {
    ModelConfig config;
    return checkpoint_read_config(directory, &config, NULL, error) && checkpoint_read_weights(directory, model, error);
}

static inline void check_same_config(const ModelConfig *a, const ModelConfig *b) {
    assert_true(a->vocabulary == b->vocabulary && a->layers == b->layers && a->width == b->width);
    assert_true(a->heads == b->heads && a->kv_heads == b->kv_heads && a->qk_size == b->qk_size);
    assert_true(a->v_size == b->v_size && a->ffn == b->ffn && a->tokens == b->tokens);
    assert_true(a->rope_theta == b->rope_theta && a->norm_epsilon == b->norm_epsilon);
    assert_true(a->tie == b->tie && a->qk_norm == b->qk_norm && a->token_shift == b->token_shift);
}

#endif
