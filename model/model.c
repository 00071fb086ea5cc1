// A model's life: settings are checked, every arena is laid out on a measuring arena, then allocated and laid out again
// by the same functions. After model_create nothing allocates.
#include "model/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/internal.h"

// A block of logits should stay in the shared cache between the product that makes it and the two that use it, and have
// enough rows that the two reads and one write of the output matrix and its gradient per block cost little.
enum { LOGIT_BYTES = 8 << 20, FEWEST_LOGIT_ROWS = 128 };

static const double initial_deviation = 0.02;

static size_t largest(size_t a, size_t b) { return a > b ? a : b; }

// ---- Layout ---------------------------------------------------------------------------------------------------------

static void take_layer(const Model *model, LayerActivations *a, size_t saved_bytes, Arena *arena) {
    const size_t rows = model->rows, width = model->settings.config.width;
    a->input_normed = ARENA_TAKE(arena, real, rows * width);
    a->qkv = ARENA_TAKE(arena, real, rows * model->qkv_width);
    a->heads_out = ARENA_TAKE(arena, real, rows * model->heads_width);
    a->middle = ARENA_TAKE(arena, real, rows * width);
    a->middle_normed = ARENA_TAKE(arena, real, rows * width);
    a->gate_up = ARENA_TAKE(arena, real, rows * 2 * model->settings.config.ffn);
    a->attention_saved = arena_take(arena, saved_bytes, 1);
}

static void take_report(AttentionReport *report, size_t heads, Arena *arena) {
    double **arrays[] = {&report->logit_bound, &report->output_bound, &report->dq_bound,  &report->dk_bound,
                         &report->dv_bound,    &report->clipped,      &report->fell_back, &report->method_used};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) *arrays[i] = ARENA_TAKE(arena, double, heads);
}

// Training keeps every layer's activations, or with recompute only its input; else one layer's serve all in turn.
static void lay_out_activations(Model *model, Arena *arena) {
    const ModelSettings *settings = &model->settings;
    const size_t layers = settings->config.layers, values = model->rows * settings->config.width;
    const bool keep = settings->training && !settings->recompute;
    size_t saved = 0;
    for (size_t layer = 0; layer < layers; layer++)
        saved = largest(saved, attention_needs(model->plans[layer]).saved_bytes);
    for (size_t layer = 0; layer < layers; layer++) {
        LayerActivations *a = &model->layers[layer];
        if (layer == 0 || keep)
            take_layer(model, a, keep ? attention_needs(model->plans[layer]).saved_bytes : saved, arena);
        else
            *a = model->layers[0];
        if (layer == 0 || settings->training) a->input = ARENA_TAKE(arena, real, values);
    }
    model->last = ARENA_TAKE(arena, real, values);
    model->last_normed = ARENA_TAKE(arena, real, values);
    AttentionReport *reports = ARENA_TAKE(arena, AttentionReport, layers);
    AttentionReport measured;
    for (size_t layer = 0; layer < layers; layer++)
        take_report(reports ? &reports[layer] : &measured, settings->config.heads, arena);
    model->reports = reports;
}

LayerScratch layer_scratch_take(const Model *model, Arena *arena) {
    const ModelConfig *config = &model->settings.config;
    LayerScratch scratch = {0};
    scratch.wide = ARENA_TAKE(arena, real, model->rows * largest(config->ffn, model->heads_width));
    if (config->qk_norm) scratch.normed = ARENA_TAKE(arena, real, model->rows * model->qkv_width);
    if (model->settings.training) scratch.dqkv = ARENA_TAKE(arena, real, model->rows * model->qkv_width);
    scratch.attention = arena_take(arena, model->attention_scratch, 1);
    return scratch;
}

OutputScratch output_scratch_take(const Model *model, Arena *arena) {
    OutputScratch scratch = {0};
    scratch.logits = ARENA_TAKE(arena, real, model->logit_rows * model->settings.config.vocabulary);
    scratch.losses = ARENA_TAKE(arena, double, model->rows);
    scratch.hits = ARENA_TAKE(arena, unsigned char, model->rows);
    scratch.asked = ARENA_TAKE(arena, size_t, model->rows);
    scratch.packed = ARENA_TAKE(arena, real, model->logit_rows * model->settings.config.width);
    scratch.d_packed = ARENA_TAKE(arena, real, model->logit_rows * model->settings.config.width);
    return scratch;
}

EmbeddingScratch embedding_scratch_take(const Model *model, Arena *arena) {
    EmbeddingScratch scratch = {0};
    scratch.starts = ARENA_TAKE(arena, size_t, model->settings.config.vocabulary + 1);
    scratch.rows = ARENA_TAKE(arena, size_t, model->rows);
    return scratch;
}

// What lives as long as the model stays taken; the stages of a step take and release the rest.
static void lay_out_scratch(Model *model, Arena *arena) {
    const ModelConfig *config = &model->settings.config;
    model->delta = ARENA_TAKE(arena, real, model->rows * config->width);
    if (!model->settings.training) return;
    model->dx = ARENA_TAKE(arena, real, model->rows * config->width);
    model->partials = ARENA_TAKE(arena, real, row_blocks(model) * largest(config->width, 2 * config->qk_size));
}

static void measure_stages(const Model *model, Arena *arena) {
    size_t mark = arena_mark(arena);
    layer_scratch_take(model, arena);
    arena_release(arena, mark);
    output_scratch_take(model, arena);
    arena_release(arena, mark);
    if (model->settings.training) embedding_scratch_take(model, arena);
    arena_release(arena, mark);
}

// ---- Planning -------------------------------------------------------------------------------------------------------

static bool check_settings(const ModelSettings *settings, Error *error) {
    const ModelConfig *config = &settings->config;
    size_t rows;
    if (!model_config_check(config, error)) return false;
    if (settings->batch == 0) return error_set(error, ERROR_USER, "train.batch is 0; it must be at least 1.");
    if (!size_multiply(settings->batch, config->tokens, &rows) || rows > INT32_MAX)
        return error_set(error, ERROR_USER, "train.batch = %zu times model.tokens = %zu is too large; the limit is %d.",
                         settings->batch, config->tokens, INT32_MAX);
    if (settings->method_count != 1 && settings->method_count != config->layers)
        return error_set(error, ERROR_USER,
                         "attention.method lists %zu methods; give one for all layers, or one for each of the %zu.",
                         settings->method_count, config->layers);
    for (size_t i = 0; i < settings->method_count; i++) REQUIRE(settings->methods[i]);
    return true;
}

AttentionSettings model_attention_settings(const ModelSettings *settings) {
    const ModelConfig *config = &settings->config;
    AttentionSettings attention = settings->attention;
    attention.batch = settings->batch;
    attention.tokens = config->tokens;
    attention.heads = config->heads;
    attention.kv_heads = config->kv_heads;
    attention.qk_size = config->qk_size;
    attention.v_size = config->v_size;
    attention.rope_theta = config->rope_theta;
    attention.causal = true;
    return attention;
}

static void set_shape(Model *model) {
    ModelSettings *settings = &model->settings;
    const ModelConfig *config = &settings->config;
    settings->attention = model_attention_settings(settings);
    model->rows = settings->batch * config->tokens;
    model->query_width = config->heads * config->qk_size;
    model->key_width = config->kv_heads * config->qk_size;
    model->value_width = config->kv_heads * config->v_size;
    model->qkv_width = model->query_width + model->key_width + model->value_width;
    model->heads_width = config->heads * config->v_size;
    size_t fitting = largest(LOGIT_BYTES / sizeof(real) / config->vocabulary, FEWEST_LOGIT_ROWS);
    model->logit_rows = fitting < model->rows ? fitting : model->rows;
}

static bool plan_attention(Model *model, Error *error) {
    const ModelSettings *settings = &model->settings;
    for (size_t layer = 0; layer < settings->config.layers; layer++) {
        const AttentionMethod *method = settings->methods[settings->method_count == 1 ? 0 : layer];
        for (size_t other = 0; other < layer && !model->plans[layer]; other++)
            if (attention_plan_method(model->plans[other]) == method) model->plans[layer] = model->plans[other];
        if (model->plans[layer]) continue;
        model->plans[layer] = attention_create(method, &settings->attention, error);
        if (!model->plans[layer]) {
            error_context(error, "layer %zu", layer);
            return false;
        }
        model->attention_scratch =
            largest(model->attention_scratch, attention_needs(model->plans[layer]).scratch_bytes);
    }
    return true;
}

// Matrices that every row is multiplied by; the embedding is looked up, and counts only where it is the output matrix.
static double multiplied_weights(const Model *model) {
    double weights = 0;
    for (size_t i = 0; i < model->table.count; i++) {
        const Tensor *tensor = &model->table.tensors[i];
        if (tensor->rank == 2 && (tensor->role != TENSOR_EMBEDDING || model->settings.config.tie))
            weights += (double)tensor->rows * (double)tensor->columns;
    }
    return weights;
}

static bool measure(Model *model, ModelNeeds *needs, Error *error) {
    Arena activations = arena_measure("activations"), scratch = arena_measure("scratch");
    lay_out_activations(model, &activations);
    lay_out_scratch(model, &scratch);
    measure_stages(model, &scratch);
    Arena parameters = arena_measure("parameters");
    arena_take(&parameters, model->table.elements, sizeof(real));
    if (activations.overflowed || scratch.overflowed || parameters.overflowed)
        return error_set(error, ERROR_USER,
                         "The model does not fit in memory: train.batch, model.tokens or model.width are too large.");

    double weights = multiplied_weights(model) * (double)model->rows;
    *needs = (ModelNeeds){
        .parameters = model->table.parameters,
        .parameter_bytes = parameters.peak,
        .gradient_bytes = model->settings.training ? parameters.peak : 0,
        .activation_bytes = activations.peak,
        .scratch_bytes = scratch.peak,
        .decoder_bytes = decoder_bytes(model),
        .forward_flops = 2 * weights,
        .backward_flops = 4 * weights,
    };
    for (size_t layer = 0; layer < model->settings.config.layers; layer++) {
        AttentionNeeds attention = attention_needs(model->plans[layer]);
        needs->forward_flops += attention.forward_flops;
        needs->backward_flops += attention.backward_flops;
        bool shared = false;
        for (size_t other = 0; other < layer; other++) shared |= model->plans[other] == model->plans[layer];
        needs->plan_bytes += shared ? 0 : attention.plan_bytes;
    }
    needs->useful_flops = needs->forward_flops + needs->backward_flops;
    needs->row_output_flops = 6.0 * (double)model->settings.config.vocabulary * (double)model->settings.config.width;
    if (model->settings.training && model->settings.recompute) { // all but the last product of a layer, and the output
        const ModelConfig *config = &model->settings.config;
        const double once = (double)(config->layers * config->ffn + config->vocabulary) * (double)config->width;
        needs->backward_flops += needs->forward_flops - 2 * once * (double)model->rows;
    }
    return true;
}

// Everything but the memory. NULL with *error set on failure.
static Model *plan(const ModelSettings *settings, ModelNeeds *needs, Error *error) {
    if (!check_settings(settings, error)) return NULL;
    Model *model = calloc(1, sizeof *model);
    if (!model) {
        error_set(error, ERROR_MEMORY, "Out of memory for a model's description.");
        return NULL;
    }
    model->settings = *settings;
    set_shape(model);
    if (tensor_table_create(&model->table, &settings->config, error) && plan_attention(model, error) &&
        measure(model, needs, error))
        return model;
    model_destroy(model);
    return NULL;
}

// ---- Life -----------------------------------------------------------------------------------------------------------

bool model_needs(const ModelSettings *settings, ModelNeeds *needs, Error *error) {
    Model *model = plan(settings, needs, error);
    if (!model) return false;
    model_destroy(model);
    return true;
}

Model *model_create(const ModelSettings *settings, Error *error) {
    ModelNeeds needs;
    Model *model = plan(settings, &needs, error);
    if (!model) return NULL;
    if (!arena_create(&model->parameter_arena, "parameters", needs.parameter_bytes, error) ||
        (settings->training && !arena_create(&model->gradient_arena, "gradients", needs.gradient_bytes, error)) ||
        !arena_create(&model->activation_arena, "activations", needs.activation_bytes, error) ||
        !arena_create(&model->scratch_arena, "scratch", needs.scratch_bytes, error)) {
        model_destroy(model);
        return NULL;
    }
    model->parameters = ARENA_TAKE(&model->parameter_arena, real, model->table.elements);
    if (settings->training) model->gradients = ARENA_TAKE(&model->gradient_arena, real, model->table.elements);
    lay_out_activations(model, &model->activation_arena);
    lay_out_scratch(model, &model->scratch_arena);
    return model;
}

void model_destroy(Model *model) {
    if (!model) return;
    for (size_t layer = 0; layer < model->settings.config.layers; layer++) {
        bool shared = false;
        for (size_t other = 0; other < layer; other++) shared = shared || model->plans[other] == model->plans[layer];
        if (model->plans[layer] && !shared) attention_destroy(model->plans[layer]);
    }
    tensor_table_destroy(&model->table);
    arena_destroy(&model->parameter_arena);
    arena_destroy(&model->gradient_arena);
    arena_destroy(&model->activation_arena);
    arena_destroy(&model->scratch_arena);
    free(model);
}

// Drawn by role and layer, not by position in the table: models that differ in one tensor share all others.
static void initialise_tensor(const Model *model, const Tensor *tensor, uint64_t seed) {
    real *values = model->parameters + tensor->offset;
    const size_t count = tensor->rows * tensor->columns;
    const double residual_deviation = initial_deviation / sqrt(2.0 * (double)model->settings.config.layers);
    Random random = {seed, RANDOM_INIT, (uint64_t)(tensor->layer + 1) << 8 | tensor->role};
    switch (tensor->init) {
    case INIT_NORMAL: random_fill_normal(values, count, initial_deviation, random); break;
    case INIT_RESIDUAL: random_fill_normal(values, count, residual_deviation, random); break;
    case INIT_ONES:
        for (size_t i = 0; i < count; i++) values[i] = 1;
        break;
    case INIT_ZEROS: memset(values, 0, count * sizeof(real)); break;
    case INIT_RAMP:
        for (size_t i = 0; i < count; i++) values[i] = (real)(((double)i + 0.5) / (double)count);
        break;
    }
}

void model_initialise(Model *model, uint64_t seed) {
    for (size_t i = 0; i < model->table.count; i++) initialise_tensor(model, &model->table.tensors[i], seed);
}

void model_zero_gradients(Model *model) {
    if (model->gradients) memset(model->gradients, 0, model->table.elements * sizeof(real));
}

size_t model_count_targets(const int32_t *targets, size_t count) {
    size_t counted = 0;
    for (size_t i = 0; i < count; i++) counted += targets[i] != -1;
    return counted;
}

void model_logits(const Model *model, size_t row, size_t position, real *out) {
    const ModelConfig *config = &model->settings.config;
    REQUIRE(row < model->settings.batch && position < config->tokens);
    const real *x = model->last_normed + (row * config->tokens + position) * config->width;
    matrix_vector_parallel(out, model_weight(model, model_output_role(model), -1), x, config->vocabulary,
                           config->width);
}

// ---- Access ---------------------------------------------------------------------------------------------------------

const ModelSettings *model_settings(const Model *model) { return &model->settings; }
const TensorTable *model_tensors(const Model *model) { return &model->table; }
real *model_parameters(Model *model) { return model->parameters; }
real *model_gradients(Model *model) { return model->gradients; }
void model_enable_report(Model *model, ModelReport report) { model->report = report; }
void model_observe(Model *model, ModelObserver observer, void *context) {
    model->observer = observer;
    model->observer_context = context;
}
const AttentionReport *model_report(const Model *model, size_t layer) {
    REQUIRE(layer < model->settings.config.layers);
    return &model->reports[layer];
}
const AttentionPlan *model_attention(const Model *model, size_t layer) {
    REQUIRE(layer < model->settings.config.layers);
    return model->plans[layer];
}
