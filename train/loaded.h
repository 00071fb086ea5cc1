// A checkpoint ready to be used: eval and sample begin here.
#ifndef ROPE_TRAIN_LOADED_H
#define ROPE_TRAIN_LOADED_H

#include "train/run_directory.h"

typedef struct Loaded {
    char path[RUN_PATH]; // the checkpoint directory
    int held;            // descriptor: its run does not remove it meanwhile; 0 or less: none
    bool own;            // made by rope.c, which leaves its settings in config.json
    uint32_t trained_on; // checksum of its run's training data; 0: unknown
    char data_dir[CONFIG_TEXT]; // where those were; config has what the user says
    Config config;       // resolved: the checkpoint's shape and settings, then the user's
    Model *model;        // for evaluation; its settings point into config
} Loaded;

// `argument` is a checkpoint or run directory. `overrides` may change [attention], [data], [train], and of [model] only
// tokens, rope_theta and norm_epsilon: ERROR_USER otherwise. A checkpoint of ours is checked whole first; Llama and
// Qwen3 directories made elsewhere have nothing to check it by. The model takes `batch` sequences at a time; 0:
// config.batch, or fewer where so many do not fit and were not asked for. Close in every case.
bool loaded_open(Loaded *loaded, const char *argument, const Config *overrides, size_t batch, Error *error);
// Its file: path (RUN_PATH) =, the checkpoint's own, else that of data.dir, which is said on standard error. False if
// there is none.
bool loaded_tokenizer_path(const Loaded *loaded, char *path);
// The checkpoint's own tokenizer, else that of data.dir. NULL with an error if there is none.
Tokenizer *loaded_tokenizer(const Loaded *loaded, Error *error);
void loaded_close(Loaded *loaded);

#endif
