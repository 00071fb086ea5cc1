// The checkpoints that several runs start from (train.init), each found once: the run that it names may go on
// meanwhile, and what is its newest checkpoint for one of them would be another for the next.
#ifndef ROPE_TRAIN_STARTS_H
#define ROPE_TRAIN_STARTS_H

#include <jansson.h>

#include "train/config.h"

enum { STARTS = 64 };

typedef struct Starts {
    json_t *record; // {train.init: {"checkpoint": PATH, "crc32": of its weights, "" if unknown}}, all sessions
    const char *found[STARTS]; // of this session: keys of the record
    int held[STARTS];          // and what keeps each from being removed
    size_t count;
} Starts;

bool starts_make(Starts *starts, Error *error);
void starts_free(Starts *starts); // also where it is all zero
// What a session before this one has recorded; NULL: nothing.
bool starts_recall(Starts *starts, json_t *record, Error *error);
// config->init_at = the checkpoint of config->init, if that is set. Fails where its weights are not those on record.
bool starts_find(Starts *starts, Config *config, Error *error);

#endif
