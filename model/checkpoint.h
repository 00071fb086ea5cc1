// A checkpoint is a directory that Hugging Face transformers loads: config.json, model.safetensors (sharded ones with
// model.safetensors.index.json are read, not written), tokenizer.model. Llama, or Qwen3 when qk_norm is on.
#ifndef ROPE_MODEL_CHECKPOINT_H
#define ROPE_MODEL_CHECKPOINT_H

#include <jansson.h>

#include "model/dtype.h"
#include "model/model.h"

// NULL if transformers can express the model; else a sentence naming the setting in the way: a shape (v_size ≠ qk_size,
// token_shift) or a way of attending (kernel, logit_scale, bound, method, …). Such a model is still saved, with
// "architectures": ["RopeC"], which transformers refuses instead of computing something else.
const char *checkpoint_inexpressible(const ModelSettings *settings);

// What config.json says besides the model's shape.
typedef struct CheckpointInfo {
    const json_t *rope_c; // borrowed, stored under that key; NULL: none
    int32_t bos, eos;     // ids of the tokenizer's control tokens, -1: none
} CheckpointInfo;

// Writes config.json and model.safetensors, each followed by fsync, into an existing directory (core/files.h has the
// directory that appears whole). Weights with a NaN or an infinity are refused: ERROR_CORRUPT naming the tensor.
bool checkpoint_write(const char *directory, Model *model, const CheckpointInfo *info, Error *error);
// The same with the weights in another format that is written (dtype.h): BF16, half the size, rounded to nearest.
bool checkpoint_write_as(const char *directory, const Dtype *dtype, Model *model, const CheckpointInfo *info,
                         Error *error);
// Reads config.json, ours or a Llama's or Qwen3's made elsewhere. *rope_c (may be NULL) receives a new reference, or
// NULL if the file has none. Unsupported settings (rope scaling, attention bias, …): ERROR_USER naming them. The
// headers of the weights are compared with the configuration here, before anybody allocates a model of that size.
bool checkpoint_read_config(const char *directory, ModelConfig *config, json_t **rope_c, Error *error);
// Reads the weights into a model of that configuration; every tensor of the table must be there, nothing else may be
// (from elsewhere: but for rotary inv_freq, and a tied model's lm_head, which transformers ignores too). NaN or
// infinity in a weight is ERROR_CORRUPT.
bool checkpoint_read_weights(const char *directory, Model *model, Error *error);
// Flat arrays in the layout of the tensor table (moments), named prefix + tensor name.
bool checkpoint_write_flat(const char *path, const TensorTable *table, const char *const *prefixes,
                           const real *const *arrays, size_t count, Error *error);
// The file must hold those tensors and no others.
bool checkpoint_read_flat(const char *path, const TensorTable *table, const char *const *prefixes, real *const *arrays,
                          size_t count, Error *error);

#endif
