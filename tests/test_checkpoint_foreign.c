// Checkpoints as others make them: Llama and Qwen3, half and bfloat16, sharded, tied, with the settings and the weights
// that must be refused.
#include "tests/support/checkpoint_files.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/random.h"
#include "model/dtype.h"

typedef struct Foreign {
    const char *directory;
    const char *dtype; // F16 or BF16
    size_t shards;     // 0: one model.safetensors
    const char *extra; // name of a tensor (1, width) more than the model has, or NULL
    size_t without;    // index of a tensor that is left out, or SIZE_MAX
} Foreign;

// Finite numbers of moderate size.
static uint16_t draw_bits(const char *dtype, size_t tensor, size_t i) {
    uint32_t bits = random_bits((Random){5, RANDOM_TEST, tensor}, i);
    return (uint16_t)(dtype[0] == 'F' ? bits & 0xbfff : (bits & 0x807f) | 0x3f00);
}
static float value_of(const char *dtype, uint16_t bits) {
    return dtype[0] == 'F' ? float_from_half(bits) : float_from_bfloat(bits);
}

static void write_one(const Foreign *foreign, const Model *model, const char *name, size_t begin, size_t end, bool last,
                      json_t *map) {
    const TensorTable *table = model_tensors(model);
    json_t *header = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    uint16_t *data = NULL;
    size_t count = 0;
    for (size_t t = begin; t < end + (last && foreign->extra); t++) {
        const Tensor *tensor = t < end ? &table->tensors[t] : NULL;
        const char *key = tensor ? tensor->name : foreign->extra;
        size_t size = tensor ? tensor->rows * tensor->columns : 4;
        if (t == foreign->without) continue;
        data = realloc(data, (count + size) * sizeof *data);
        for (size_t i = 0; i < size; i++) data[count + i] = draw_bits(foreign->dtype, t, i);
        json_t *shape = json_array();
        if (tensor && tensor->rank == 2) json_array_append_new(shape, json_integer((json_int_t)tensor->rows));
        json_array_append_new(shape, json_integer((json_int_t)(tensor ? tensor->columns : size)));
        json_object_set_new(header, key,
                            json_pack("{s:s, s:o, s:[I,I]}", "dtype", foreign->dtype, "shape", shape, "data_offsets",
                                      (json_int_t)(2 * count), (json_int_t)(2 * (count + size))));
        if (map) json_object_set_new(map, key, json_string(name));
        count += size;
    }
    char *text = json_dumps(header, 0);
    uint64_t length = strlen(text);
    FILE *file = fopen(join(foreign->directory, name), "wb");
    assert_true(fwrite(&length, 8, 1, file) == 1 && fwrite(text, length, 1, file) == 1);
    assert_true(fwrite(data, sizeof *data, count, file) == count && fclose(file) == 0);
    json_decref(header);
    free(text), free(data);
}

// The weights of `model`'s table, drawn anew, in one file or in shards with an index.
static void write_foreign(const Foreign *foreign, const Model *model) {
    size_t count = model_tensors(model)->count;
    if (foreign->shards == 0) {
        write_one(foreign, model, "model.safetensors", 0, count, true, NULL);
        return;
    }
    json_t *map = json_object();
    for (size_t s = 0; s < foreign->shards; s++) {
        char name[64];
        snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", s + 1, foreign->shards);
        write_one(foreign, model, name, s * count / foreign->shards, (s + 1) * count / foreign->shards,
                  s + 1 == foreign->shards, map);
    }
    json_t *index = json_pack("{s:{s:i}, s:o}", "metadata", "total_size", 1, "weight_map", map);
    assert_int_equal(json_dump_file(index, join(foreign->directory, "model.safetensors.index.json"), 0), 0);
    json_decref(index);
}

static void check_weights(const Foreign *foreign, Model *model) {
    const TensorTable *table = model_tensors(model);
    for (size_t t = 0; t < table->count; t++)
        for (size_t i = 0; i < table->tensors[t].rows * table->tensors[t].columns; i++) {
            double expected = (double)value_of(foreign->dtype, draw_bits(foreign->dtype, t, i));
            assert_true((double)model_parameters(model)[table->tensors[t].offset + i] == expected);
        }
    check_count("foreign numbers loaded", table->parameters);
}

// config.json as those classes write it; versions 4 and 5 of transformers differ in the rotation.
static json_t *foreign_config(const ModelConfig *config, bool version5) {
    json_t *json = json_pack(
        "{s:[s], s:s, s:b, s:n, s:i, s:i, s:s, s:i, s:f, s:i, s:i, s:i, s:i, s:i, s:f, s:b, s:s, s:s, s:b, s:i}",
        "architectures", config->qk_norm ? "Qwen3ForCausalLM" : "LlamaForCausalLM", "model_type",
        config->qk_norm ? "qwen3" : "llama", "attention_bias", 0, "pad_token_id", "bos_token_id", 1, "eos_token_id", 2,
        "hidden_act", "silu", "hidden_size", (int)config->width, "initializer_range", 0.02, "intermediate_size",
        (int)config->ffn, "max_position_embeddings", (int)config->tokens, "num_attention_heads", (int)config->heads,
        "num_hidden_layers", (int)config->layers, "num_key_value_heads", (int)config->kv_heads, "rms_norm_eps",
        config->norm_epsilon, "tie_word_embeddings", config->tie, "torch_dtype", "bfloat16", "transformers_version",
        "4.51.0", "use_cache", 1, "vocab_size", (int)config->vocabulary);
    assert_non_null(json);
    if (version5)
        json_object_set_new(json, "rope_parameters",
                            json_pack("{s:s, s:f}", "rope_type", "default", "rope_theta", config->rope_theta));
    else
        json_object_set_new(json, "rope_theta", json_real(config->rope_theta));
    if (!version5) json_object_set_new(json, "rope_scaling", json_null());
    if (config->qk_norm) {
        json_object_set_new(json, "head_dim", json_integer((json_int_t)config->qk_size));
        json_object_set_new(json, "use_sliding_window", json_false());
        json_object_set_new(json, "sliding_window", version5 ? json_null() : json_integer(4096));
        if (version5) json_object_set_new(json, "layer_types", json_pack("[s,s]", "full_attention", "full_attention"));
    }
    return json;
}

static void write_config(const char *directory, json_t *json) {
    assert_int_equal(json_dump_file(json, join(directory, "config.json"), JSON_INDENT(2)), 0);
    json_decref(json);
}

// Llama's head_dim is derived here: 12 / 2.
static ModelSettings foreign_settings(bool qwen3, bool tie) {
    ModelSettings settings = plain_settings();
    settings.config.qk_norm = qwen3, settings.config.tie = tie;
    if (!qwen3) settings.config.heads = settings.config.kv_heads = 2;
    return settings;
}

static void test_foreign(void **state) {
    (void)state;
    static const char *const extras[] = {NULL, "model.layers.0.self_attn.rotary_emb.inv_freq", "lm_head.weight"};
    for (int variant = 0; variant < 2 * 2 * 2 * 2 * 2 * 3; variant++) {
        bool qwen3 = variant & 1, tie = variant & 2, version5 = variant & 4;
        const char *extra = extras[variant / 32];
        if (variant / 32 == 2 && !tie) continue; // there it is a weight
        const ModelSettings settings = foreign_settings(qwen3, tie);
        Model *model = toy_create(&settings);
        const Foreign foreign = {directory_new("foreign"), variant & 8 ? "F16" : "BF16", variant & 16 ? 3 : 0, extra,
                                 SIZE_MAX};
        write_foreign(&foreign, model);
        write_config(foreign.directory, foreign_config(&settings.config, version5));
        Error error = {0};
        ModelConfig config;
        json_t *rope_c = json_true();
        if (!checkpoint_read_config(foreign.directory, &config, &rope_c, &error)) fail_msg("%s", error.message);
        assert_null(rope_c);
        check_same_config(&config, &settings.config);
        if (!checkpoint_read_weights(foreign.directory, model, &error)) fail_msg("%s", error.message);
        check_weights(&foreign, model);
        model_destroy(model);
        check_count("foreign directories loaded", 1);
    }
}

// Replaces one key of a good configuration; NULL value: removes it.
static void write_changed(const char *directory, const ModelConfig *config, const char *key, const char *value) {
    json_t *json = foreign_config(config, false);
    if (value) {
        json_t *changed = json_loads(value, JSON_DECODE_ANY, NULL);
        assert_non_null(changed);
        json_object_set_new(json, key, changed);
    } else {
        json_object_del(json, key);
    }
    write_config(directory, json);
}

typedef struct Change {
    const char *key, *value;
} Change;

static void test_foreign_settings(void **state) {
    (void)state;
    static const Change refused[] = {
        {"architectures", "[\"MistralForCausalLM\"]"},
        {"architectures", "[]"},
        {"architectures", "\"LlamaForCausalLM\""},
        {"architectures", "[\"LlamaForCausalLM\", \"Qwen3ForCausalLM\"]"},
        {"architectures", "[1]"},
        {"rope_scaling", "{\"rope_type\":\"llama3\",\"factor\":8.0}"},
        {"rope_scaling", "{\"type\":\"linear\",\"factor\":2}"},
        {"rope_scaling", "{}"},
        {"rope_scaling", "2"},
        {"rope_scaling", "{\"rope_type\":1}"},
        {"rope_parameters", "{\"rope_type\":\"yarn\"}"},
        {"rope_parameters", "{\"full_attention\":{}}"},
        {"rope_parameters", "{\"rope_type\":\"default\",\"rope_theta\":7}"}, // against rope_theta outside
        {"rope_parameters", "{\"rope_type\":\"default\",\"partial_rotary_factor\":0.25}"},
        {"rope_parameters", "{\"rope_type\":\"default\",\"rope_theta\":\"7\"}"},
        {"rope_parameters", "{\"rope_type\":\"default\",\"partial_rotary_factor\":\"1\"}"},
        {"partial_rotary_factor", "0.5"},
        {"partial_rotary_factor", "true"},
        {"attention_bias", "true"},
        {"attention_bias", "1"},
        {"mlp_bias", "true"},
        {"hidden_act", "\"gelu\""},
        {"hidden_act", "1"},
        {"use_sliding_window", "true"},
        {"layer_types", "[\"full_attention\",\"sliding_attention\"]"},
        {"layer_types", "\"full_attention\""},
        {"layer_types", "[1]"},
        {"quantization_config", "{\"bits\":4}"},
        {"tie_word_embeddings", "1"},
        {"tie_word_embeddings", "\"true\""},
        {"rms_norm_eps", "\"1e-5\""},
        {"rms_norm_eps", "0"},
        {"rms_norm_eps", "-1"},
        {"rope_theta", "0"},
        {"rope_theta", "-1.0"},
        {"rope_theta", "\"1e4\""},
        {"num_attention_heads", "5"},
        {"num_key_value_heads", "3"},
        {"head_dim", "5"},
        {"num_hidden_layers", "257"},
        {"vocab_size", NULL},
        {"hidden_size", NULL},
        {"intermediate_size", NULL},
        {"num_hidden_layers", NULL},
        {"num_attention_heads", NULL},
        {"num_attention_heads", "2147483647"},
    };
    static const char *const sizes[] = {
        "vocab_size",          "hidden_size",         "intermediate_size", "num_hidden_layers",
        "num_attention_heads", "num_key_value_heads", "head_dim",          "max_position_embeddings"};
    static const char *const bad_sizes[] = {
        "0",     "-1",   "2147483648", "4294967296", "9223372036854775807", "-9223372036854775808", "1.5", "8.0",
        "\"8\"", "true", "[8]",        "{}"};
    static const Change accepted[] = {
        {"rope_scaling", "{\"rope_type\":\"default\"}"},
        {"rope_scaling", "{\"type\":\"default\"}"},
        {"rope_scaling", NULL},
        {"num_key_value_heads", "null"},
        {"num_key_value_heads", NULL},
        {"head_dim", "null"},
        {"head_dim", "6"},
        {"sliding_window", "4096"},
        {"hidden_act", NULL},
        {"tie_word_embeddings", NULL},
        {"architectures", NULL},
        {"architectures", "null"},
        {"layer_types", "null"},
        {"quantization_config", "null"},
        {"pretraining_tp", "2"},
        {"mlp_bias", "null"},
        {"partial_rotary_factor", "1"},
        {"max_position_embeddings", "1000000"},
        {"rms_norm_eps", NULL},
        {"rope_theta", NULL},
        {"rope_theta", "10000"},
        {"unknown_key", "[1,2,{}]"},
    };
    const ModelSettings settings = foreign_settings(false, false);
    Model *model = toy_create(&settings);
    const Foreign foreign = {directory_new("settings"), "BF16", 0, NULL, SIZE_MAX};
    write_foreign(&foreign, model);
    size_t cases = 0;
    for (size_t i = 0; i < sizeof refused / sizeof *refused + 8 * 12; i++) {
        size_t k = i - sizeof refused / sizeof *refused;
        Change change = i < sizeof refused / sizeof *refused ? refused[i] : (Change){sizes[k / 12], bad_sizes[k % 12]};
        write_changed(foreign.directory, &settings.config, change.key, change.value);
        Error error = {0};
        ModelConfig config;
        if (checkpoint_read_config(foreign.directory, &config, NULL, &error))
            fail_msg("%s = %s was accepted", change.key, change.value ? change.value : "(absent)");
        if (error.kind != ERROR_USER || !strstr(error.message, "config.json"))
            fail_msg("%s = %s: kind %d, '%s'", change.key, change.value, error.kind, error.message);
        // The message names the key, or the same thing in our words (model.heads, …).
        if (!strstr(error.message, change.key) && !strstr(error.message, "model."))
            fail_msg("%s = %s: '%s' does not name it", change.key, change.value, error.message);
        cases++;
    }
    check_count("foreign settings refused by name", cases);
    for (size_t i = 0; i < sizeof accepted / sizeof *accepted; i++) {
        write_changed(foreign.directory, &settings.config, accepted[i].key, accepted[i].value);
        Error error = {0};
        if (!load(foreign.directory, model, &error))
            fail_msg("%s = %s: %s", accepted[i].key, accepted[i].value, error.message);
    }
    check_count("foreign settings accepted", sizeof accepted / sizeof *accepted);

    // Sizes that are possible but are not those of the weights: refused by comparing headers, before allocation.
    for (size_t i = 0; i < 7; i++) {
        const char *value = i == 4 || i == 5 ? "1" : i == 3 ? "200" : "1048576";
        write_changed(foreign.directory, &settings.config, sizes[i], value);
        Error error = {0};
        ModelConfig config;
        if (checkpoint_read_config(foreign.directory, &config, NULL, &error))
            fail_msg("another %s was accepted", sizes[i]);
    }
    check_count("sizes other than the weights' refused", 7);
    static const char *const texts[] = {"",
                                        "{",
                                        "[]",
                                        "null",
                                        "{\"a\":1,\"a\":1}",
                                        "{\"hidden_size\":9223372036854775808}",
                                        "{\"rope_theta\":NaN}",
                                        "{\"rope_theta\":1e999}",
                                        "{} {}",
                                        "\xff\xfe"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        check_write_file(join(foreign.directory, "config.json"), texts[i], strlen(texts[i]));
        Error error = {0};
        ModelConfig config;
        assert_false(checkpoint_read_config(foreign.directory, &config, NULL, &error));
        if (error.kind != ERROR_CORRUPT || !strstr(error.message, "contents"))
            fail_msg("%s: %s", texts[i], error.message);
    }
    check_count("texts that are no configuration refused", sizeof texts / sizeof *texts);
    model_destroy(model);
}

static void refuse_foreign(const Foreign *foreign, Model *model, const char *word) {
    Error error = {0};
    if (load(foreign->directory, model, &error)) fail_msg("accepted instead of naming %s", word);
    if (error.kind != ERROR_CORRUPT || !strstr(error.message, word))
        fail_msg("'%s' does not name %s", error.message, word);
    check_count("foreign weights refused", 1);
}

static void test_foreign_weights(void **state) {
    (void)state;
    const ModelSettings settings = foreign_settings(true, false);
    Model *model = toy_create(&settings);
    const TensorTable *table = model_tensors(model);
    for (size_t shards = 0; shards < 4; shards += 3) {
        Foreign foreign = {directory_new("weights"), "BF16", shards, NULL, SIZE_MAX};
        write_config(foreign.directory, foreign_config(&settings.config, true));
        for (foreign.without = 0; foreign.without < table->count; foreign.without++) {
            write_foreign(&foreign, model);
            refuse_foreign(&foreign, model, table->tensors[foreign.without].name);
        }
        foreign.without = SIZE_MAX;
        foreign.extra = "model.layers.2.mlp.up_proj.weight";
        write_foreign(&foreign, model);
        refuse_foreign(&foreign, model, foreign.extra);
    }
    // Indices: paths that lead elsewhere, tensors in other files than it says, shards that are gone.
    Foreign foreign = {directory_new("weights"), "F16", 2, NULL, SIZE_MAX};
    write_config(foreign.directory, foreign_config(&settings.config, true));
    write_foreign(&foreign, model);
    const char *path = join(foreign.directory, "model.safetensors.index.json");
    json_t *index = json_load_file(path, 0, NULL), *map = json_object_get(index, "weight_map");
    static const char *const names[] = {"\"../x.safetensors\"",
                                        "\"/etc/passwd\"",
                                        "\"\"",
                                        "\".\"",
                                        "1",
                                        "null",
                                        "\"model-00002-of-00002.safetensors\""};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        json_t *good = json_deep_copy(map);
        json_object_set_new(map, "model.embed_tokens.weight", json_loads(names[i], JSON_DECODE_ANY, NULL));
        json_dump_file(index, path, 0);
        refuse_foreign(&foreign, model, "model.embed_tokens.weight");
        json_object_update(map, good);
        json_decref(good);
    }
    json_dump_file(index, path, 0);
    Error error = {0};
    assert_true(load(foreign.directory, model, &error));
    assert_int_equal(unlink(join(foreign.directory, "model-00002-of-00002.safetensors")), 0);
    assert_false(load(foreign.directory, model, &error));
    assert_non_null(strstr(error.message, "model-00002-of-00002"));
    json_object_del(index, "weight_map");
    json_dump_file(index, path, 0);
    refuse_foreign(&foreign, model, "weight_map");
    json_decref(index);
    model_destroy(model);
}

// Of tensors with the right names: another rank, another length of either axis.
static void test_foreign_shapes(void **state) {
    (void)state;
    const ModelSettings settings = foreign_settings(true, false);
    Model *model = toy_create(&settings);
    const Foreign foreign = {directory_new("shapes"), "BF16", 0, NULL, SIZE_MAX};
    static const struct {
        const char *name;
        size_t rank, rows, columns;
    } shapes[] = {{"model.embed_tokens.weight", 1, 0, 17 * 12},
                  {"model.embed_tokens.weight", 2, 12, 17},
                  {"model.embed_tokens.weight", 2, 17, 11},
                  {"model.norm.weight", 2, 1, 12},
                  {"model.norm.weight", 1, 0, 13}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        // The tensor alone, first in the file, is enough to be refused.
        char header[300];
        uint64_t length = (uint64_t)snprintf(
            header, sizeof header, "{\"%s\":{\"dtype\":\"BF16\",\"shape\":[%.*s%zu],\"data_offsets\":[0,%zu]}}",
            shapes[i].name, shapes[i].rank == 2 ? 3 : 0,
            shapes[i].rows == 17   ? "17,"
            : shapes[i].rows == 12 ? "12,"
                                   : "1,",
            shapes[i].columns, 2 * shapes[i].columns * (shapes[i].rows ? shapes[i].rows : 1));
        FILE *file = fopen(join(foreign.directory, "model.safetensors"), "wb");
        static const char zeros[2 * 17 * 12];
        const size_t bytes = 2 * shapes[i].columns * (shapes[i].rows ? shapes[i].rows : 1);
        assert_true(file && fwrite(&length, 8, 1, file) == 1 && fwrite(header, length, 1, file) == 1);
        assert_true(fwrite(zeros, 1, bytes, file) == bytes && fclose(file) == 0);
        write_config(foreign.directory, foreign_config(&settings.config, true));
        refuse_foreign(&foreign, model, "shape");
    }
    model_destroy(model);
}

// What only Qwen3's class and our own know.
static void test_classes(void **state) {
    (void)state;
    const ModelSettings settings = foreign_settings(true, false);
    Model *model = toy_create(&settings);
    const Foreign foreign = {directory_new("classes"), "BF16", 0, NULL, SIZE_MAX};
    write_foreign(&foreign, model);
    static const struct {
        const char *class, *key, *value;
        bool good;
    } cases[] = {{"Qwen3ForCausalLM", "head_dim", "6", true},
                 {"Qwen3ForCausalLM", "head_dim", NULL, false}, // 128 there
                 {"Qwen3ForCausalLM", "head_dim", "null", false},
                 {"Qwen3ForCausalLM", "num_key_value_heads", NULL, false}, // 32 there
                 {"RopeC", "qk_norm", "true", true},
                 {"RopeC", "qk_norm", "1", false},
                 {"RopeC", "token_shift", "\"on\"", false},
                 {"RopeC", "v_head_dim", "0", false},
                 {"RopeC", "v_head_dim", "8", false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *json = foreign_config(&settings.config, true);
        Error error = {0};
        json_object_set_new(json, "architectures", json_pack("[s]", cases[i].class));
        json_object_set_new(json, "qk_norm", json_true());
        if (cases[i].value)
            json_object_set_new(json, cases[i].key, json_loads(cases[i].value, JSON_DECODE_ANY, NULL));
        else
            json_object_del(json, cases[i].key);
        write_config(foreign.directory, json);
        if (load(foreign.directory, model, &error) != cases[i].good)
            fail_msg("%s, %s = %s: %s", cases[i].class, cases[i].key, cases[i].value ? cases[i].value : "(absent)",
                     error.message);
        check_count("settings of classes", 1);
    }
    model_destroy(model);
}

// A NaN in a foreign weight is found when it is loaded.
static void test_foreign_nan(void **state) {
    (void)state;
    const ModelSettings settings = foreign_settings(false, true);
    Model *model = toy_create(&settings);
    const Foreign foreign = {directory_new("nan"), "F16", 0, NULL, SIZE_MAX};
    write_foreign(&foreign, model);
    write_config(foreign.directory, foreign_config(&settings.config, true));
    size_t size;
    const char *path = join(foreign.directory, "model.safetensors");
    char *bytes = read_bytes(path, &size);
    bytes[size - 1] = 0x7e; // the last number of model.norm.weight
    check_write_file(path, bytes, size);
    refuse_foreign(&foreign, model, "model.norm.weight");
    free(bytes);
    model_destroy(model);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_foreign),         cmocka_unit_test(test_foreign_settings),
    cmocka_unit_test(test_foreign_weights), cmocka_unit_test(test_foreign_shapes),
    cmocka_unit_test(test_classes),         cmocka_unit_test(test_foreign_nan),
};
TEST_MAIN(tests)
