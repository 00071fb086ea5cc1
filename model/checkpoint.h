// A checkpoint is a directory that Hugging Face transformers loads: config.json, model.safetensors (sharded ones with
// model.safetensors.index.json are read, not written), tokenizer.model. Llama, or Qwen3 when qk_norm is on.
#ifndef ROPE_MODEL_CHECKPOINT_H
#define ROPE_MODEL_CHECKPOINT_H

#include <jansson.h>

#include "model/model.h"

// NULL if transformers can express the model; else a sentence naming the setting in the way (v_size ≠ qk_size,
// token_shift, …). Such a model is still saved, with "architectures": ["RopeC"].
const char *checkpoint_inexpressible(const ModelConfig *config);
// Writes config.json (with `rope_c`, borrowed, under that key) and model.safetensors into an existing directory.
bool checkpoint_write(const char *directory, Model *model, const json_t *rope_c, Error *error);
// Reads config.json, ours or a Llama's or Qwen3's made elsewhere. *rope_c (may be NULL) receives a new reference, or
// NULL if the file has none. Unsupported settings (rope scaling, attention bias, …): ERROR_USER naming them.
bool checkpoint_read_config(const char *directory, ModelConfig *config, json_t **rope_c, Error *error);
// Reads the weights into a model of that configuration; every tensor of the table must be there, nothing else may be.
bool checkpoint_read_weights(const char *directory, Model *model, Error *error);
// Flat arrays in the layout of the tensor table (moments), named prefix + tensor name.
bool checkpoint_write_flat(const char *path, const TensorTable *table, const char *const *prefixes,
                           const real *const *arrays, size_t count, Error *error);
bool checkpoint_read_flat(const char *path, const TensorTable *table, const char *const *prefixes, real *const *arrays,
                          size_t count, Error *error);

#endif
