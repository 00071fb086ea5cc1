// What the layers below want to know of the configuration, and a checkpoint's shape as configuration.
#include "train/config_table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// The table's choices admit no other word.
static size_t place(const char *word, const char *const *words) {
    size_t i = 0;
    while (strcmp(words[i], word)) REQUIRE(words[++i]);
    return i;
}

static AttentionSettings attention_settings(const Config *config) {
    // In the order of the enumerations of attention.h.
    static const char *const bounds[] = {"none", "clip", "ball", NULL};
    static const char *const near_bounds[] = {"none", "same", NULL};
    static const char *const fars[] = {"polynomial", "exact", "none", NULL};
    static const char *const polynomials[] = {"minimax", "taylor", "power", NULL};
    AttentionSettings settings = attention_defaults();
    settings.kernel = config->kernel;
    settings.rope_theta = config->rope_theta;
    settings.kernel_decay = config->kernel_decay;
    settings.kernel_window = config->kernel_window;
    settings.logit_scale = !strcmp(config->logit_scale, "1/sqrt(d)") ? 0
                           : !strcmp(config->logit_scale, "1/d")     ? -1
                                                                     : strtod(config->logit_scale, NULL);
    settings.bound = (AttentionBound)place(config->bound, bounds);
    settings.entry_bound = config->entry_bound;
    settings.logit_bound = config->logit_bound;
    settings.near_bound = (AttentionNearBound)place(config->near_bound, near_bounds);
    settings.far = (AttentionFar)place(config->far, fars);
    settings.far_size = config->far_size;
    settings.near = config->near;
    settings.chunk = config->chunk;
    settings.degree = config->degree;
    settings.polynomial = (PolynomialKind)place(config->polynomial, polynomials);
    settings.tolerance = config->tolerance;
    settings.cost_exact = config->cost_exact;
    settings.cost_lowrank = config->cost_lowrank;
    return settings;
}

bool config_warn_of_no_window(const Config *config) {
    if (strcmp(config->far, "none") || strstr(config->method, "lowrank") || strstr(config->method, "toeplitz") ||
        !config_is_given(config, "attention.far"))
        return false;
    fprintf(stderr,
            "rope: attention.far=none changes nothing: attention.method=%s has no far field to leave out. The window "
            "alone is --attention.method=lowrank --attention.far=none.\n",
            config->method);
    return true;
}

void config_model(const Config *config, size_t batch, bool training, ModelSettings *settings) {
    *settings = (ModelSettings){
        .config = {.vocabulary = config->vocabulary,
                   .layers = config->layers,
                   .width = config->width,
                   .heads = config->heads,
                   .kv_heads = config->kv_heads,
                   .qk_size = config->qk_size,
                   .v_size = config->v_size,
                   .ffn = config->ffn,
                   .tokens = config->tokens,
                   .rope_theta = config->rope_theta,
                   .norm_epsilon = config->norm_epsilon,
                   .tie = config->tie,
                   .qk_norm = config->qk_norm,
                   .token_shift = config->token_shift},
        .batch = batch,
        .training = training,
        .recompute = config->recompute,
        .attention = attention_settings(config),
    };
    const char *at = config->method;
    while (*at) {
        char word[64];
        size_t length = strcspn(at, ",");
        snprintf(word, sizeof word, "%.*s", (int)length, at);
        // A list with an unknown name, or with more of them than there can be layers, has not become a setting.
        const AttentionMethod *method = attention_method_find(word);
        REQUIRE(method && settings->method_count < MODEL_MAX_LAYERS);
        settings->methods[settings->method_count++] = method;
        at += length + (at[length] == ',');
    }
}

bool config_needs_costs(const Config *config) {
    ModelSettings settings;
    const AttentionMethod *automatic = attention_method_find("auto");
    bool used = false;
    config_model(config, config->batch, true, &settings);
    for (size_t i = 0; i < settings.method_count; i++) used |= settings.methods[i] == automatic;
    return used && !(config->cost_exact > 0 && config->cost_lowrank > 0);
}

void config_take_costs(Config *config, double exact, double lowrank) {
    const char *const names[] = {"attention.cost_exact", "attention.cost_lowrank"};
    config->cost_exact = exact;
    config->cost_lowrank = lowrank;
    for (size_t i = 0; i < 2; i++) config->origin[config_key(names[i])] = ORIGIN_DERIVED;
}

bool config_measure_costs(Config *config, Error *error) {
    ModelSettings settings;
    if (!config_needs_costs(config)) return true;
    config_model(config, config->batch, true, &settings);
    settings.attention = model_attention_settings(&settings);
    AttentionPlan *plan = attention_create(attention_method_find("auto"), &settings.attention, error);
    if (!plan) return false;
    config_take_costs(config, attention_plan_settings(plan)->cost_exact, attention_plan_settings(plan)->cost_lowrank);
    attention_destroy(plan);
    return true;
}

void config_take_model(Config *config, const ModelConfig *model, ConfigOrigin origin) {
    config->vocabulary = model->vocabulary;
    config->layers = model->layers;
    config->width = model->width;
    config->heads = model->heads;
    config->kv_heads = model->kv_heads;
    config->qk_size = model->qk_size;
    config->v_size = model->v_size;
    config->ffn = model->ffn;
    config->tokens = model->tokens;
    config->rope_theta = model->rope_theta;
    config->norm_epsilon = model->norm_epsilon;
    config->tie = model->tie;
    config->qk_norm = model->qk_norm;
    config->token_shift = model->token_shift;
    for (size_t i = 0; i < config_keys_count; i++)
        if (!strcmp(config_keys[i].section, "model")) config->origin[i] = (unsigned char)origin;
}
