// One checkpoint directory: config.json, model.safetensors and tokenizer.model, which transformers loads as they are,
// next to optimizer.safetensors and state.json for resuming. It appears whole or not at all.
#ifndef ROPE_TRAIN_SNAPSHOT_H
#define ROPE_TRAIN_SNAPSHOT_H

#include <jansson.h>

#include "data/tokenizer.h"
#include "train/trainer.h"

bool snapshot_save(const char *directory, Trainer *trainer, const Tokenizer *tokenizer, Error *error);
// Weights, moments and state. Nothing of the trainer is relied upon after a failure; ERROR_USER if the checkpoint is
// of another model or seed than the configuration says.
bool snapshot_load(const char *directory, Trainer *trainer, Error *error);
// A checkpoint of ours is checked against its checksums; one made elsewhere has nothing to check it by. *data_checksum
// (may be NULL) = of the data that it was trained on, 0 if that is not known.
bool snapshot_check(const char *directory, uint32_t *data_checksum, Error *error);
// Weights alone, from a checkpoint of the same shape: context length, rope_theta and norm_epsilon may differ.
bool snapshot_load_weights(const char *directory, Trainer *trainer, Error *error);

// ERROR_USER if both have a tokenizer.model, and not the same one: the data's ids mean something else to the weights.
bool snapshot_check_data(const char *directory, const char *data_dir, Error *error);
// The tokenizer that the data were made with; NULL without an error if they are a task's or say none.
Tokenizer *snapshot_data_tokenizer(const char *data_dir, Error *error);
// Writes tokenizer.model into that directory, with an fsync: as it was loaded, whatever became of its file.
bool snapshot_write_tokenizer(const char *directory, const Tokenizer *tokenizer, Error *error);

// The settings that config.json carries under "rope_c": [attention], [data] and train.seed. A new reference, or
// NULL when memory runs out.
json_t *snapshot_settings(const Config *config);
// Applies them; unknown ones are ERROR_USER.
bool snapshot_apply_settings(const json_t *rope_c, Config *config, Error *error);

#endif
