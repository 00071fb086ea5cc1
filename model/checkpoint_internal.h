// Private to checkpoint.c, checkpoint_config.c, checkpoint_weights.c.
#ifndef ROPE_MODEL_CHECKPOINT_INTERNAL_H
#define ROPE_MODEL_CHECKPOINT_INTERNAL_H

#include "model/checkpoint.h"
#include "model/dtype.h"

enum { CHECKPOINT_PATH = 4096, CHECKPOINT_JSON_LIMIT = 64 << 20 }; // bytes
#define CHECKPOINT_CONFIG "config.json"
#define CHECKPOINT_WEIGHTS "model.safetensors"
#define CHECKPOINT_INDEX "model.safetensors.index.json"
#define CHECKPOINT_CONFIG_CHECKSUM "config.crc32" // metadata of our model.safetensors: crc32 of config.json's bytes

// checkpoint_config.c: the text of config.json for weights in that format (malloc'd; NULL when memory runs out), and
// back.
char *checkpoint_config_text(const ModelSettings *settings, const CheckpointInfo *info, const Dtype *dtype);
bool checkpoint_config_parse(const char *path, const json_t *json, ModelConfig *config, Error *error);

// checkpoint_weights.c. Every tensor of the table must be in the directory with its shape, and nothing else. With
// parameters NULL only headers are looked at.
bool checkpoint_weights(const char *directory, const TensorTable *table, real *parameters, Error *error);
// checkpoint_write_flat in a format, with metadata: NULL-terminated pairs for safetensors_metadata, or NULL.
bool checkpoint_write_tensors(const char *path, const Dtype *dtype, const TensorTable *table,
                              const char *const *prefixes, const real *const *arrays, size_t count,
                              const char *const *metadata, Error *error);
// ERROR_CORRUPT naming the tensor if a number of it is NaN or infinite, or becomes so in the format that it is written
// in (NULL: none).
bool checkpoint_finite(const char *path, const Tensor *tensor, const real *values, const Dtype *dtype, Error *error);

#endif
