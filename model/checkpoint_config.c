// config.json as transformers writes and reads it, versions 4 (rope_theta, rope_scaling) and 5 (rope_parameters), for
// LlamaForCausalLM, Qwen3ForCausalLM and our own RopeC. Absent keys take the defaults of those classes. A setting that
// would make the model compute something that ours does not is refused by its name, never passed over.

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/checkpoint_internal.h"
#include "core/json_text.h"

typedef enum Architecture { LLAMA, QWEN3, ROPE_C, ARCHITECTURE_COUNT } Architecture;
static const struct {
    const char *name, *model_type;
    size_t key_value_heads, head_size, tokens; // defaults of the class; 0: derived
} architectures[ARCHITECTURE_COUNT] = {
    [LLAMA] = {"LlamaForCausalLM", "llama", 0, 0, 2048},
    [QWEN3] = {"Qwen3ForCausalLM", "qwen3", 32, 128, 32768},
    [ROPE_C] = {"RopeC", "rope_c", 0, 0, 2048},
};

// Why the attention is not plain softmax over rotated dot products; NULL if it is.
static const char *inexpressible_attention(const ModelSettings *settings) {
    const AttentionSettings *attention = &settings->attention;
    double plain = 1 / sqrt((double)settings->config.qk_size);
    if (strcmp(attention->kernel, "rope") != 0)
        return "attention.kernel is not rope; transformers' Llama and Qwen3 only rotate.";
    if (attention->logit_scale != 0 && !(fabs(attention->logit_scale / plain - 1) < 1e-12))
        return "attention.logit_scale is not 1/sqrt(d), the only one that transformers' Llama and Qwen3 have.";
    if (attention->bound != BOUND_NONE)
        return "attention.bound is not none; transformers' Llama and Qwen3 do not bound q and k.";
    for (size_t i = 0; i < settings->method_count; i++) {
        const char *name = attention_method_name(settings->methods[i]);
        if (strcmp(name, "exact") != 0 && strcmp(name, "auto") != 0)
            return "attention.method is neither exact nor auto; transformers' Llama and Qwen3 compute exact softmax.";
    }
    return NULL;
}

const char *checkpoint_inexpressible(const ModelSettings *settings) {
    const ModelConfig *config = &settings->config;
    if (config->v_size != config->qk_size)
        return "model.v_size differs from model.qk_size; transformers' Llama and Qwen3 have one head_dim for both.";
    if (config->token_shift) return "model.token_shift is on; transformers' Llama and Qwen3 have nothing like it.";
    if (!config->qk_norm && config->width % config->heads != 0)
        return "model.width is not a multiple of model.heads; transformers' Llama insists on that.";
    return inexpressible_attention(settings);
}

static void set(json_t *object, const char *key, json_t *value, bool *good) {
    if (json_object_set_new(object, key, value) != 0) *good = false;
}
static void set_size(json_t *object, const char *key, size_t value, bool *good) {
    set(object, key, json_integer((json_int_t)value), good);
}
static void set_id(json_t *object, const char *key, int32_t id, bool *good) {
    set(object, key, id < 0 ? json_null() : json_integer(id), good);
}

// transformers' name of a number format; only those that are written have one.
static const char *torch_dtype(const Dtype *dtype) { return strcmp(dtype->name, "BF16") ? "float32" : "bfloat16"; }

static json_t *config_json(const ModelSettings *settings, const CheckpointInfo *info, const Dtype *dtype) {
    const ModelConfig *config = &settings->config;
    const char *reason = checkpoint_inexpressible(settings);
    Architecture architecture = reason ? ROPE_C : config->qk_norm ? QWEN3 : LLAMA;
    bool good = true;
    json_watch();
    json_t *json = json_object();
    set(json, "architectures", json_pack("[s]", architectures[architecture].name), &good);
    set(json, "model_type", json_string(architectures[architecture].model_type), &good);
    set_size(json, "vocab_size", config->vocabulary, &good);
    set_size(json, "hidden_size", config->width, &good);
    set_size(json, "intermediate_size", config->ffn, &good);
    set_size(json, "num_hidden_layers", config->layers, &good);
    set_size(json, "num_attention_heads", config->heads, &good);
    set_size(json, "num_key_value_heads", config->kv_heads, &good);
    set_size(json, "head_dim", config->qk_size, &good);
    set_size(json, "max_position_embeddings", config->tokens, &good);
    set(json, "rms_norm_eps", json_real(config->norm_epsilon), &good);
    set(json, "rope_theta", json_real(config->rope_theta), &good);
    set(json, "rope_parameters", json_pack("{s:s, s:f}", "rope_type", "default", "rope_theta", config->rope_theta),
        &good);
    set(json, "tie_word_embeddings", json_boolean(config->tie), &good);
    set(json, "hidden_act", json_string("silu"), &good);
    set(json, "attention_bias", json_false(), &good);
    set(json, "attention_dropout", json_real(0), &good);
    set(json, "initializer_range", json_real(0.02), &good);
    set(json, "use_cache", json_true(), &good);
    set(json, "torch_dtype", json_string(torch_dtype(dtype)), &good);
    set_id(json, "bos_token_id", info ? info->bos : -1, &good);
    set_id(json, "eos_token_id", info ? info->eos : -1, &good);
    if (architecture == LLAMA) set(json, "mlp_bias", json_false(), &good);
    if (architecture == QWEN3) set(json, "use_sliding_window", json_false(), &good);
    if (architecture == ROPE_C) {
        set_size(json, "v_head_dim", config->v_size, &good);
        set(json, "qk_norm", json_boolean(config->qk_norm), &good);
        set(json, "token_shift", json_boolean(config->token_shift), &good);
        set(json, "not_for_transformers", json_string(reason), &good);
    }
    if (info && info->rope_c && json_object_set(json, "rope_c", (json_t *)info->rope_c) != 0) good = false;
    if (good) return json;
    json_decref(json);
    return NULL;
}

char *checkpoint_config_text(const ModelSettings *settings, const CheckpointInfo *info, const Dtype *dtype) {
    json_t *json = config_json(settings, info, dtype), *again = NULL;
    char *text = NULL;
    // The fewest digits that give every number back: 1e-05, not 1.0000000000000001e-05.
    for (size_t digits = 6; json && digits <= 17 && !json_equal(json, again); digits++) {
        free(text);
        json_decref(again);
        text = json_print(json, JSON_INDENT(2) | JSON_REAL_PRECISION(digits));
        again = text ? json_parse(CHECKPOINT_CONFIG, "contents", text, strlen(text), NULL) : NULL;
    }
    bool same = json && json_equal(json, again);
    json_decref(json);
    json_decref(again);
    if (same) return text;
    free(text);
    return NULL;
}

// Where values are read from, for messages.
typedef struct Source {
    const char *path, *inside; // "" or "rope_parameters."
    const json_t *json;
    Error *error;
} Source;

static bool refuse(const Source *source, const char *setting, const char *why) {
    return error_set(source->error, ERROR_USER, "%s: %s%s: %s.", source->path, source->inside, setting, why);
}

static bool given(const Source *source, const char *key) {
    const json_t *value = json_object_get(source->json, key);
    return value && !json_is_null(value);
}

// fallback 0: the key must be there
static bool get_size(const Source *source, const char *key, size_t fallback, size_t *size) {
    const json_t *value = json_object_get(source->json, key);
    *size = fallback;
    if (!given(source, key)) return fallback > 0 || refuse(source, key, "it is missing");
    if (!json_is_integer(value) || json_integer_value(value) < 1 || json_integer_value(value) > INT32_MAX)
        return refuse(source, key, "it must be an integer from 1 to 2147483647");
    *size = (size_t)json_integer_value(value);
    return true;
}

static bool get_number(const Source *source, const char *key, double fallback, double *number) {
    const json_t *value = json_object_get(source->json, key);
    *number = given(source, key) ? json_number_value(value) : fallback;
    return (!given(source, key) || json_is_number(value)) || refuse(source, key, "it must be a number");
}

static bool get_flag(const Source *source, const char *key, bool *flag) {
    const json_t *value = json_object_get(source->json, key);
    *flag = json_is_true(value);
    return !given(source, key) || json_is_boolean(value) || refuse(source, key, "it must be true or false");
}

static bool must_be_off(const Source *source, const char *key) {
    bool on;
    return get_flag(source, key, &on) && (!on || refuse(source, key, "this is not supported"));
}

static bool get_architecture(const Source *source, Architecture *architecture) {
    const json_t *list = json_object_get(source->json, "architectures");
    const char *name = json_string_value(json_array_get(list, 0));
    const char *model_type = json_string_value(json_object_get(source->json, "model_type"));
    bool by_name = given(source, "architectures");
    for (int i = 0; i < ARCHITECTURE_COUNT; i++) {
        *architecture = (Architecture)i;
        if (by_name ? name && json_array_size(list) == 1 && strcmp(name, architectures[i].name) == 0
                    : model_type && strcmp(model_type, architectures[i].model_type) == 0)
            return true;
    }
    return error_set(source->error, ERROR_USER,
                     "%s: architectures: '%.100s' is not supported; there are LlamaForCausalLM, Qwen3ForCausalLM and "
                     "RopeC.",
                     source->path, name ? name : model_type ? model_type : "");
}

// The base of the rotation, from rope_theta (version 4) or rope_parameters (version 5); no scaling of any kind.
static bool get_rotation(const Source *source, double *theta) {
    static const char *const objects[] = {"rope_scaling", "rope_parameters"};
    static const char *const insides[] = {"rope_scaling.", "rope_parameters."};
    if (!get_number(source, "rope_theta", 10000, theta)) return false;
    double partial;
    if (!get_number(source, "partial_rotary_factor", 1, &partial)) return false;
    if (partial != 1) return refuse(source, "partial_rotary_factor", "only 1 is supported");
    for (size_t i = 0; i < sizeof objects / sizeof *objects; i++) {
        if (!given(source, objects[i])) continue;
        const Source inner = {source->path, insides[i], json_object_get(source->json, objects[i]), source->error};
        if (!json_is_object(inner.json)) return refuse(source, objects[i], "it must be an object");
        const json_t *type = json_object_get(inner.json, given(&inner, "rope_type") ? "rope_type" : "type");
        if (!json_is_string(type) || strcmp(json_string_value(type), "default") != 0)
            return error_set(source->error, ERROR_USER, "%s: %s: rope_type '%.100s' is not supported, only default.",
                             source->path, objects[i], json_is_string(type) ? json_string_value(type) : "");
        double inner_theta;
        if (!get_number(&inner, "rope_theta", *theta, &inner_theta) ||
            !get_number(&inner, "partial_rotary_factor", 1, &partial))
            return false;
        if (partial != 1) return refuse(&inner, "partial_rotary_factor", "only 1 is supported");
        if (given(source, "rope_theta") && inner_theta != *theta)
            return refuse(source, objects[i], "its rope_theta differs from the one outside");
        *theta = inner_theta;
    }
    return true;
}

static bool check_supported(const Source *source) {
    const json_t *act = json_object_get(source->json, "hidden_act");
    if (act && (!json_is_string(act) || strcmp(json_string_value(act), "silu") != 0))
        return refuse(source, "hidden_act", "only silu is supported");
    if (given(source, "quantization_config"))
        return refuse(source, "quantization_config", "quantised weights are not supported");
    const json_t *types = json_object_get(source->json, "layer_types");
    if (given(source, "layer_types") && !json_is_array(types))
        return refuse(source, "layer_types", "it must be a list");
    for (size_t i = 0; i < json_array_size(types); i++) {
        const char *type = json_string_value(json_array_get(types, i));
        if (!type || strcmp(type, "full_attention") != 0)
            return refuse(source, "layer_types", "only full_attention is supported");
    }
    return must_be_off(source, "attention_bias") && must_be_off(source, "mlp_bias") &&
           must_be_off(source, "use_sliding_window");
}

// A size whose absence means the class's default, and whose null means the derived one.
static bool get_defaulted(const Source *source, const char *key, size_t class_default, size_t derived, size_t *size) {
    bool absent = !json_object_get(source->json, key);
    return get_size(source, key, absent && class_default ? class_default : derived, size);
}

static bool get_head_size(const Source *source, Architecture architecture, ModelConfig *config) {
    bool given_or_class = given(source, "head_dim") ||
                          (architectures[architecture].head_size && !json_object_get(source->json, "head_dim"));
    if (!given_or_class && config->width % config->heads != 0)
        return refuse(source, "num_attention_heads", "hidden_size is no multiple of it, and head_dim is missing");
    return get_defaulted(source, "head_dim", architectures[architecture].head_size, config->width / config->heads,
                         &config->qk_size);
}

bool checkpoint_config_parse(const char *path, const json_t *json, ModelConfig *config, Error *error) {
    const Source source = {path, "", json, error};
    Architecture architecture;
    *config = (ModelConfig){0};
    if (!json_is_object(json)) return error_set(error, ERROR_CORRUPT, "%s: contents: it is not a JSON object.", path);
    if (!get_architecture(&source, &architecture) || !check_supported(&source) ||
        !get_size(&source, "vocab_size", 0, &config->vocabulary) ||
        !get_size(&source, "hidden_size", 0, &config->width) ||
        !get_size(&source, "intermediate_size", 0, &config->ffn) ||
        !get_size(&source, "num_hidden_layers", 0, &config->layers) ||
        !get_size(&source, "num_attention_heads", 0, &config->heads) ||
        !get_defaulted(&source, "num_key_value_heads", architectures[architecture].key_value_heads, config->heads,
                       &config->kv_heads) ||
        !get_head_size(&source, architecture, config) ||
        !get_size(&source, "max_position_embeddings", architectures[architecture].tokens, &config->tokens) ||
        !get_number(&source, "rms_norm_eps", 1e-6, &config->norm_epsilon) ||
        !get_rotation(&source, &config->rope_theta) || !get_flag(&source, "tie_word_embeddings", &config->tie))
        return false;
    config->v_size = config->qk_size;
    config->qk_norm = architecture == QWEN3;
    if (architecture == ROPE_C && (!get_size(&source, "v_head_dim", config->qk_size, &config->v_size) ||
                                   !get_flag(&source, "qk_norm", &config->qk_norm) ||
                                   !get_flag(&source, "token_shift", &config->token_shift)))
        return false;
    if (model_config_check(config, error)) return true;
    error_context(error, "%s", path);
    return false;
}
