// One table describes the tensors: name, shape, initialiser, weight decay. The parameters' layout in memory, the
// checkpoint, the optimizer's groups and the gradient tests are derived from it. To add a tensor, add a row in
// tensors.c and use it in transformer.c.
#ifndef ROPE_MODEL_TENSORS_H
#define ROPE_MODEL_TENSORS_H

#include "model/config.h"

typedef enum TensorInit { INIT_NORMAL, INIT_RESIDUAL, INIT_ONES, INIT_ZEROS } TensorInit;

typedef struct Tensor {
    char name[96];      // Hugging Face's: "model.layers.3.self_attn.q_proj.weight"
    size_t rows, columns; // weights are (out, in); vectors are (1, n), rank 1
    int rank;           // 1 or 2: as written to files
    size_t offset;      // in the parameter arena, in elements; multiples of 16
    TensorInit init;
    bool decay;         // weight decay applies (matrices yes, norms no)
    int layer;          // -1: not of a layer
} Tensor;

typedef struct TensorTable {
    size_t count;
    Tensor *tensors;
    size_t elements;    // of the whole arena, padding included (padding is zero and stays zero)
    size_t parameters;  // without padding
} TensorTable;

bool tensor_table_create(TensorTable *table, const ModelConfig *config, Error *error);
void tensor_table_destroy(TensorTable *table);
const Tensor *tensor_find(const TensorTable *table, const char *name); // NULL if absent

#endif
