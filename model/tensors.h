// One table describes the tensors: name, shape, initialiser, weight decay. The parameters' layout in memory, the
// checkpoint, the optimizer's groups and the gradient tests are derived from it. To add a tensor, add a row in
// tensors.c and use it in transformer.c.
#ifndef ROPE_MODEL_TENSORS_H
#define ROPE_MODEL_TENSORS_H

#include "model/config.h"

typedef enum TensorInit {
    INIT_NORMAL,   // deviation 0.02
    INIT_RESIDUAL, // 0.02/sqrt(2·layers): what adds into the residual stream
    INIT_ONES,
    INIT_ZEROS,
    INIT_RAMP,     // from 0 to 1 along the columns
} TensorInit;

// What a tensor is for, whatever its name: how transformer.c asks for it, and the row of the table in tensors.c. New
// roles go at the end: initial weights are drawn by role and layer, so that a new tensor changes no other's.
typedef enum TensorRole {
    TENSOR_EMBEDDING,        // (V, width)
    TENSOR_INPUT_NORM,       // (width), before attention
    TENSOR_QUERY,            // (H·D, width)
    TENSOR_KEY,              // (G·D, width)
    TENSOR_VALUE,            // (G·E, width)
    TENSOR_ATTENTION_OUTPUT, // (width, H·E)
    TENSOR_MIDDLE_NORM,      // (width), before the feed-forward part
    TENSOR_GATE,             // (ffn, width)
    TENSOR_UP,               // (ffn, width)
    TENSOR_DOWN,             // (width, ffn)
    TENSOR_FINAL_NORM,       // (width)
    TENSOR_OUTPUT,           // (V, width), absent if tied
    TENSOR_QUERY_NORM,       // (D), with qk_norm
    TENSOR_KEY_NORM,         // (D), with qk_norm
    TENSOR_SHIFT,            // (width), with token_shift
    TENSOR_ROLE_COUNT
} TensorRole;

typedef struct Tensor {
    char name[96];      // Hugging Face's: "model.layers.3.self_attn.q_proj.weight"
    size_t rows, columns; // weights are (out, in); vectors are (1, n), rank 1
    int rank;           // 1 or 2: as written to files
    size_t offset;      // in the parameter arena, in elements; multiples of 16
    TensorInit init;
    bool decay;         // weight decay applies (matrices yes, norms no)
    int layer;          // -1: not of a layer
    TensorRole role;
} Tensor;

typedef struct TensorTable {
    size_t count;
    Tensor *tensors;
    size_t elements;    // of the whole arena, padding included (padding is zero and stays zero)
    size_t parameters;  // without padding
    int *index;         // (layers + 1, TENSOR_ROLE_COUNT): position in tensors, -1 if absent; layer -1 comes first
} TensorTable;

// Fails with ERROR_USER if the configuration makes no sense (model_config_check) or its sizes do not fit in size_t.
bool tensor_table_create(TensorTable *table, const ModelConfig *config, Error *error);
void tensor_table_destroy(TensorTable *table);
// The tensor with this role in a layer (-1: of the model); NULL if the model has none.
const Tensor *tensor_of(const TensorTable *table, TensorRole role, int layer);
const Tensor *tensor_find(const TensorTable *table, const char *name); // NULL if absent

#endif
