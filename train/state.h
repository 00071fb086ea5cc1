// state.json: where a run is, sealed. Every byte of it is covered by its own checksum, every other file of the
// checkpoint by a checksum in it, so that a checkpoint is either whole or refused.
#ifndef ROPE_TRAIN_STATE_H
#define ROPE_TRAIN_STATE_H

#include "train/trainer.h"

// Writes directory/state.json over the files that are already there. `fingerprint` is config_fingerprint.
bool state_write(const char *directory, const RunState *state, uint64_t seed, uint64_t optimizer_steps,
                 uint32_t fingerprint, Error *error);
// Reads and checks it and every file that it names: ERROR_CORRUPT naming the file. Any output may be NULL.
bool state_read(const char *directory, RunState *state, uint64_t *seed, uint64_t *optimizer_steps,
                uint32_t *fingerprint, Error *error);
// Checksum of the settings that a run's numbers depend on: not of threads, names of directories, or how often it saves.
uint32_t config_fingerprint(const Config *config);

#endif
