// The table of tensors: one row each, in the order in which they lie in memory. Everything else about a tensor follows
// from its row. Names are Hugging Face's for Llama and Qwen3; weights are (out, in).
//
// Rows that a single product reads stay next to each other (query, key, value; gate, up): when no padding separates
// them, transformer.c multiplies by all of them at once.
#include "model/tensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"

typedef enum Length { ONE, WIDTH, VOCABULARY, FFN, QUERIES, KEYS, VALUES, OUTPUTS, QK_SIZE, LENGTH_COUNT } Length;
typedef enum Place { BEFORE_LAYERS, IN_LAYER, AFTER_LAYERS } Place;
typedef enum Condition { ALWAYS, IF_UNTIED, IF_QK_NORM, IF_TOKEN_SHIFT } Condition;

typedef struct TensorRow {
    TensorRole role;
    const char *name; // after "model.layers.N." for tensors of a layer
    Place place;
    Length rows, columns;
    TensorInit init;
    bool decay;
    Condition condition;
} TensorRow;

static const TensorRow tensor_rows[] = {
    {TENSOR_EMBEDDING, "model.embed_tokens.weight", BEFORE_LAYERS, VOCABULARY, WIDTH, INIT_NORMAL, true, ALWAYS},
    {TENSOR_SHIFT, "model.token_shift.weight", BEFORE_LAYERS, ONE, WIDTH, INIT_RAMP, false, IF_TOKEN_SHIFT},
    {TENSOR_INPUT_NORM, "input_layernorm.weight", IN_LAYER, ONE, WIDTH, INIT_ONES, false, ALWAYS},
    {TENSOR_QUERY, "self_attn.q_proj.weight", IN_LAYER, QUERIES, WIDTH, INIT_NORMAL, true, ALWAYS},
    {TENSOR_KEY, "self_attn.k_proj.weight", IN_LAYER, KEYS, WIDTH, INIT_NORMAL, true, ALWAYS},
    {TENSOR_VALUE, "self_attn.v_proj.weight", IN_LAYER, VALUES, WIDTH, INIT_NORMAL, true, ALWAYS},
    {TENSOR_QUERY_NORM, "self_attn.q_norm.weight", IN_LAYER, ONE, QK_SIZE, INIT_ONES, false, IF_QK_NORM},
    {TENSOR_KEY_NORM, "self_attn.k_norm.weight", IN_LAYER, ONE, QK_SIZE, INIT_ONES, false, IF_QK_NORM},
    {TENSOR_ATTENTION_OUTPUT, "self_attn.o_proj.weight", IN_LAYER, WIDTH, OUTPUTS, INIT_RESIDUAL, true, ALWAYS},
    {TENSOR_MIDDLE_NORM, "post_attention_layernorm.weight", IN_LAYER, ONE, WIDTH, INIT_ONES, false, ALWAYS},
    {TENSOR_GATE, "mlp.gate_proj.weight", IN_LAYER, FFN, WIDTH, INIT_NORMAL, true, ALWAYS},
    {TENSOR_UP, "mlp.up_proj.weight", IN_LAYER, FFN, WIDTH, INIT_NORMAL, true, ALWAYS},
    {TENSOR_DOWN, "mlp.down_proj.weight", IN_LAYER, WIDTH, FFN, INIT_RESIDUAL, true, ALWAYS},
    {TENSOR_FINAL_NORM, "model.norm.weight", AFTER_LAYERS, ONE, WIDTH, INIT_ONES, false, ALWAYS},
    {TENSOR_OUTPUT, "lm_head.weight", AFTER_LAYERS, VOCABULARY, WIDTH, INIT_NORMAL, true, IF_UNTIED},
};
enum { ROW_COUNT = sizeof tensor_rows / sizeof *tensor_rows, OFFSET_MULTIPLE = 16 };

// Products fit: model_config_check bounds each one by 2³¹.
static void lengths_of(const ModelConfig *config, size_t lengths[LENGTH_COUNT]) {
    lengths[ONE] = 1;
    lengths[WIDTH] = config->width;
    lengths[VOCABULARY] = config->vocabulary;
    lengths[FFN] = config->ffn;
    lengths[QUERIES] = config->heads * config->qk_size;
    lengths[KEYS] = config->kv_heads * config->qk_size;
    lengths[VALUES] = config->kv_heads * config->v_size;
    lengths[OUTPUTS] = config->heads * config->v_size;
    lengths[QK_SIZE] = config->qk_size;
}

static bool wanted(Condition condition, const ModelConfig *config) {
    switch (condition) {
    case IF_UNTIED: return !config->tie;
    case IF_QK_NORM: return config->qk_norm;
    case IF_TOKEN_SHIFT: return config->token_shift;
    default: return true;
    }
}

// Appends the tensor of a row; false when the sizes wrap.
static bool append(TensorTable *table, const TensorRow *row, const size_t lengths[LENGTH_COUNT], int layer) {
    Tensor *tensor = &table->tensors[table->count];
    if (layer < 0)
        snprintf(tensor->name, sizeof tensor->name, "%s", row->name);
    else
        snprintf(tensor->name, sizeof tensor->name, "model.layers.%d.%s", layer, row->name);
    tensor->rows = lengths[row->rows];
    tensor->columns = lengths[row->columns];
    tensor->rank = row->rows == ONE ? 1 : 2;
    tensor->offset = table->elements;
    tensor->init = row->init;
    tensor->decay = row->decay;
    tensor->layer = layer;
    tensor->role = row->role;
    table->index[(size_t)(layer + 1) * TENSOR_ROLE_COUNT + row->role] = (int)table->count++;

    size_t size, end, padded;
    if (!size_multiply(tensor->rows, tensor->columns, &size) || !size_add(table->elements, size, &end) ||
        !size_add(end, OFFSET_MULTIPLE - 1, &padded))
        return false;
    table->elements = padded / OFFSET_MULTIPLE * OFFSET_MULTIPLE;
    table->parameters += size;
    return true;
}

static bool append_all(TensorTable *table, const ModelConfig *config, Place place, int layer) {
    size_t lengths[LENGTH_COUNT];
    lengths_of(config, lengths);
    for (size_t i = 0; i < ROW_COUNT; i++)
        if (tensor_rows[i].place == place && wanted(tensor_rows[i].condition, config) &&
            !append(table, &tensor_rows[i], lengths, layer))
            return false;
    return true;
}

bool tensor_table_create(TensorTable *table, const ModelConfig *config, Error *error) {
    *table = (TensorTable){0};
    if (!model_config_check(config, error)) return false;
    size_t places = (config->layers + 1) * TENSOR_ROLE_COUNT;
    table->tensors = calloc(places, sizeof *table->tensors);
    table->index = malloc(places * sizeof *table->index);
    if (!table->tensors || !table->index) {
        tensor_table_destroy(table);
        return error_set(error, ERROR_MEMORY, "Out of memory for a table of %zu tensors.", places);
    }
    for (size_t i = 0; i < places; i++) table->index[i] = -1;

    bool fits = append_all(table, config, BEFORE_LAYERS, -1);
    for (size_t layer = 0; fits && layer < config->layers; layer++)
        fits = append_all(table, config, IN_LAYER, (int)layer);
    fits = fits && append_all(table, config, AFTER_LAYERS, -1) && table->elements <= SIZE_MAX / sizeof(real);
    if (fits) return true;
    tensor_table_destroy(table);
    return error_set(error, ERROR_USER, "The model's parameters do not fit in memory: model.width, model.ffn, "
                                        "model.vocabulary or the heads are too large.");
}

void tensor_table_destroy(TensorTable *table) {
    free(table->tensors);
    free(table->index);
    *table = (TensorTable){0};
}

const Tensor *tensor_of(const TensorTable *table, TensorRole role, int layer) {
    int index = table->index[(size_t)(layer + 1) * TENSOR_ROLE_COUNT + role];
    return index < 0 ? NULL : &table->tensors[index];
}

const Tensor *tensor_find(const TensorTable *table, const char *name) {
    for (size_t i = 0; i < table->count; i++)
        if (strcmp(table->tensors[i].name, name) == 0) return &table->tensors[i];
    return NULL;
}
