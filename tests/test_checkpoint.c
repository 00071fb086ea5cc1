// Checkpoints of our own: round trips, every damage to a small one, what transformers can express, numbers and tensors
// that do not belong there.
#include "tests/support/checkpoint_files.h"

#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/safetensors.h"

static ModelSettings tiny_settings(void) {
    ModelSettings settings = plain_settings();
    ModelConfig *config = &settings.config;
    config->vocabulary = 3, config->layers = 1, config->width = 2, config->heads = 1, config->kv_heads = 1;
    config->qk_size = config->v_size = config->ffn = 2;
    return settings;
}

// Saves, loads into another model, compares every number and the configuration; saving again gives the same bytes.
static void round_trip(const ModelSettings *settings, const char *architecture) {
    Error error = {0};
    Model *model = filled(settings), *other = toy_create(settings);
    json_t *rope_c = json_pack("{s:s, s:f, s:[i,i]}", "attention.method", "exact", "number", 0.1, "list", 1, 2);
    const CheckpointInfo info = {rope_c, 1, -1};
    const char *directory = directory_new("round");
    if (!checkpoint_write(directory, model, &info, &error)) fail_msg("%s", error.message);
    ModelConfig config;
    json_t *read = NULL;
    if (!checkpoint_read_config(directory, &config, &read, &error)) fail_msg("%s", error.message);
    check_same_config(&config, &settings->config);
    assert_true(json_equal(rope_c, read));
    if (!checkpoint_read_weights(directory, other, &error)) fail_msg("%s", error.message);
    check_same_bits("numbers saved and loaded", model_parameters(model), model_parameters(other),
                    model_tensors(model)->elements * sizeof(real));

    json_t *json = json_load_file(join(directory, "config.json"), 0, NULL);
    assert_string_equal(json_string_value(json_array_get(json_object_get(json, "architectures"), 0)), architecture);
    assert_int_equal(json_integer_value(json_object_get(json, "bos_token_id")), 1);
    assert_true(json_is_null(json_object_get(json, "eos_token_id")));
    json_decref(json);
    size_t sizes[4];
    char *bytes[4];
    for (int i = 0; i < 2; i++) {
        bytes[2 * i] = read_bytes(join(directory, "config.json"), &sizes[2 * i]);
        bytes[2 * i + 1] = read_bytes(join(directory, "model.safetensors"), &sizes[2 * i + 1]);
        assert_true(checkpoint_write(directory, other, &info, &error));
    }
    for (int i = 0; i < 2; i++) {
        assert_int_equal(sizes[i], sizes[i + 2]);
        check_same_bits("bytes saved twice", bytes[i], bytes[i + 2], sizes[i]);
    }
    for (int i = 0; i < 4; i++) free(bytes[i]);
    json_decref(rope_c), json_decref(read);
    model_destroy(model), model_destroy(other);
}

static void test_round_trips(void **state) {
    (void)state;
    ModelSettings settings = plain_settings();
    round_trip(&settings, "LlamaForCausalLM");
    settings.config.tie = true, settings.config.kv_heads = 2, settings.config.rope_theta = 500000.123456789;
    round_trip(&settings, "LlamaForCausalLM");
    settings.config.qk_norm = true;
    round_trip(&settings, "Qwen3ForCausalLM");
    settings.config.width = 14; // Qwen3 has no quarrel with a width that the heads do not divide
    round_trip(&settings, "Qwen3ForCausalLM");
    settings.config.qk_norm = false;
    round_trip(&settings, "RopeC");
    settings = plain_settings();
    settings.config.v_size = 10, settings.config.qk_norm = true;
    round_trip(&settings, "RopeC");
    settings.config.token_shift = true, settings.config.qk_norm = false;
    round_trip(&settings, "RopeC");
    settings = tiny_settings();
    round_trip(&settings, "LlamaForCausalLM");
}

#define INEXPRESSIBLE(word, change)                                                                                    \
    do {                                                                                                               \
        ModelSettings settings = plain_settings();                                                                     \
        change;                                                                                                        \
        const char *reason = checkpoint_inexpressible(&settings);                                                      \
        if (!reason || !strstr(reason, word)) fail_msg("'%s' does not name %s", reason ? reason : "", word);           \
        check_count("inexpressible settings named", 1);                                                                \
    } while (0)

static void test_inexpressible(void **state) {
    (void)state;
    ModelSettings plain = plain_settings();
    assert_null(checkpoint_inexpressible(&plain));
    plain.attention.logit_scale = 1 / sqrt(6.0);
    assert_null(checkpoint_inexpressible(&plain));
    plain.methods[0] = attention_method_find("auto"); // exact, within its tolerance
    assert_null(checkpoint_inexpressible(&plain));
    INEXPRESSIBLE("model.v_size", settings.config.v_size = 8);
    INEXPRESSIBLE("model.token_shift", settings.config.token_shift = true);
    INEXPRESSIBLE("model.width", settings.config.width = 14);
    INEXPRESSIBLE("attention.kernel", settings.attention.kernel = "alibi");
    INEXPRESSIBLE("attention.logit_scale", settings.attention.logit_scale = -1);
    INEXPRESSIBLE("attention.logit_scale", settings.attention.logit_scale = 0.5);
    INEXPRESSIBLE("attention.bound", settings.attention.bound = BOUND_CLIP);
    for (size_t i = 0; i < attention_method_count(); i++) {
        const char *name = attention_method_name(attention_method_at(i));
        if (strcmp(name, "exact") == 0 || strcmp(name, "auto") == 0) continue;
        INEXPRESSIBLE("attention.method", settings.methods[0] = attention_method_at(i));
    }
}

static void must_refuse(const char *directory, const char *file, Model *model, const char *what, size_t where) {
    Error error = {0};
    if (load(directory, model, &error)) fail_msg("%s: %s at byte %zu was accepted", file, what, where);
    bool section = strstr(error.message, "header") || strstr(error.message, "tensor") ||
                   strstr(error.message, "data") || strstr(error.message, "contents");
    if (error.kind != ERROR_CORRUPT || !strstr(error.message, file) || !section)
        fail_msg("%s: %s at byte %zu: '%s' names no file and section", file, what, where, error.message);
}

// Every byte of both files: 8 bit flips, 00, FF, every truncation, bytes appended.
static void test_every_damage(void **state) {
    (void)state;
    Error error = {0};
    const ModelSettings settings = tiny_settings();
    Model *model = filled(&settings);
    const char *directory = directory_new("damage");
    json_t *rope_c = json_pack("{s:s}", "attention.method", "exact");
    assert_true(checkpoint_write(directory, model, &(CheckpointInfo){rope_c, 1, 2}, &error));
    json_decref(rope_c);
    static const char *const files[] = {"config.json", "model.safetensors"};
    for (size_t f = 0; f < 2; f++) {
        size_t size, cases = 0;
        const char *path = join(directory, files[f]);
        char *bytes = read_bytes(path, &size);
        int file = open(path, O_RDWR);
        for (size_t i = 0; i < size; i++) {
            for (int change = 0; change < 10; change++) {
                char byte = (char)(change < 8 ? bytes[i] ^ (1 << change) : change == 8 ? 0 : 0xff);
                if (byte == bytes[i]) continue;
                assert_int_equal(pwrite(file, &byte, 1, (off_t)i), 1);
                must_refuse(directory, files[f], model, "a changed byte", i);
                cases++;
            }
            assert_int_equal(pwrite(file, &bytes[i], 1, (off_t)i), 1);
        }
        for (size_t more = 1; more <= 16; more++, cases++) {
            assert_int_equal(pwrite(file, "\n", 1, (off_t)(size + more - 1)), 1);
            must_refuse(directory, files[f], model, "appended bytes", size + more);
        }
        for (size_t cut = size; cut-- > 0; cases++) {
            assert_int_equal(ftruncate(file, (off_t)cut), 0);
            must_refuse(directory, files[f], model, "truncation", cut);
        }
        close(file);
        check_write_file(path, bytes, size);
        assert_true(load(directory, model, &error)); // and undamaged it is accepted
        free(bytes);
        check_count(f ? "damaged model.safetensors refused" : "damaged config.json refused", cases);
    }
    // A config.json of another checkpoint of the same shape; files that are gone.
    ModelSettings warmer = settings;
    warmer.config.rope_theta = 200;
    Model *other = filled(&warmer);
    size_t size;
    char *bytes = read_bytes(join(directory, "config.json"), &size);
    assert_true(checkpoint_write(directory, other, NULL, &error));
    check_write_file(join(directory, "config.json"), bytes, size);
    must_refuse(directory, "config.json", model, "another's", 0);
    free(bytes);
    assert_int_equal(unlink(join(directory, "config.json")), 0);
    assert_false(load(directory, model, &error));
    assert_non_null(strstr(error.message, "config.json"));
    model_destroy(model), model_destroy(other);
}

static void test_not_finite(void **state) {
    (void)state;
    const ModelSettings settings = tiny_settings();
    Model *model = filled(&settings);
    const char *directory = directory_new("numbers");
    static const double bad[] = {NAN, INFINITY, -INFINITY};
    const TensorTable *table = model_tensors(model);
    for (size_t t = 0; t < table->count; t++)
        for (size_t i = 0; i < 3; i++) {
            real *number = model_parameters(model) + table->tensors[t].offset + i % 2, kept = *number;
            Error error = {0};
            *number = (real)bad[i];
            assert_false(checkpoint_write(directory, model, NULL, &error));
            assert_int_equal(error.kind, ERROR_CORRUPT);
            assert_non_null(strstr(error.message, table->tensors[t].name));
            *number = kept;
        }
    assert_int_not_equal(access(join(directory, "model.safetensors"), F_OK), 0); // nothing was begun
    check_count("NaN and infinity not saved", 3 * table->count);
    model_destroy(model);
}

static void test_flat(void **state) {
    (void)state;
    const ModelSettings settings = plain_settings();
    Model *model = filled(&settings);
    const TensorTable *table = model_tensors(model);
    real *first = calloc(table->elements, sizeof *first), *second = calloc(table->elements, sizeof *second);
    const char *path = join(directory_new("flat"), "optimizer.safetensors");
    static const char *const names[] = {"first_moment.", "second_moment."}, *const others[] = {"first_moment.", "x."};
    const real *const arrays[] = {model_parameters(model), model_parameters(model)};
    Error error = {0};
    assert_true(checkpoint_write_flat(path, table, names, arrays, 2, &error));
    assert_true(checkpoint_read_flat(path, table, names, (real *const[]){first, second}, 2, &error));
    check_same_bits("moments saved and loaded", first, arrays[0], table->elements * sizeof(real));
    check_same_bits("moments saved and loaded", second, arrays[1], table->elements * sizeof(real));
    assert_false(checkpoint_read_flat(path, table, names, (real *const[]){first}, 1, &error)); // more than asked for
    error_clear(&error);
    assert_false(checkpoint_read_flat(path, table, others, (real *const[]){first, second}, 2, &error));
    assert_non_null(strstr(error.message, "x."));
    error_clear(&error);
    ModelSettings wider = settings;
    wider.config.ffn = 22;
    Model *other = toy_create(&wider);
    assert_false(checkpoint_read_flat(path, model_tensors(other), names, (real *const[]){first, second}, 2, &error));
    assert_non_null(strstr(error.message, "shape"));
    // Moments are no checkpoint, even under its name.
    const char *directory = directory_new("numbers");
    error_clear(&error);
    assert_true(checkpoint_write(directory, model, NULL, &error));
    path = join(directory, "model.safetensors");
    assert_true(checkpoint_write_flat(path, table, (const char *[]){""}, arrays, 1, &error));
    assert_false(load(directory, model, &error));
    assert_int_equal(error.kind, ERROR_CORRUPT);
    check_count("flat files refused", 4);
    free(first), free(second);
    model_destroy(model), model_destroy(other);
}

// What is passed over in files of others is an error in ours: a tied model's checkpoint with an output matrix.
static void test_surplus_in_ours(void **state) {
    (void)state;
    ModelSettings settings = plain_settings();
    Model *untied = filled(&settings);
    settings.config.tie = true;
    Model *tied = filled(&settings);
    const char *directory = directory_new("surplus");
    Error error = {0};
    assert_true(checkpoint_write(directory, tied, NULL, &error));
    size_t size;
    char *text = read_bytes(join(directory, "config.json"), &size), sum[9];
    snprintf(sum, sizeof sum, "%08x", checksum(0, text, size));
    free(text);
    const TensorTable *table = model_tensors(untied);
    SafetensorsItem *items = calloc(table->count, sizeof *items);
    for (size_t i = 0; i < table->count; i++) {
        const Tensor *tensor = &table->tensors[i];
        items[i] = (SafetensorsItem){tensor->name,
                                     (size_t)tensor->rank,
                                     {tensor->rows, tensor->columns},
                                     model_parameters(untied) + tensor->offset};
        if (tensor->rank == 1) items[i].shape[0] = tensor->columns;
    }
    const char *metadata[] = {"config.crc32", sum, NULL}, *path = join(directory, "model.safetensors");
    for (size_t surplus = 0; surplus < 2; surplus++) { // lm_head comes last in the table
        assert_true(safetensors_write(path, items, table->count - 1 + surplus, metadata, &error));
        assert_true(load(directory, tied, &error) == !surplus);
    }
    assert_non_null(strstr(error.message, "lm_head.weight"));
    check_count("surplus tensors refused", 1);
    free(items);
    model_destroy(untied), model_destroy(tied);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_round_trips), cmocka_unit_test(test_inexpressible), cmocka_unit_test(test_every_damage),
    cmocka_unit_test(test_not_finite),  cmocka_unit_test(test_flat),          cmocka_unit_test(test_surplus_in_ours),
};
TEST_MAIN(tests)
