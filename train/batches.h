// Batches of tokens, whatever they come from: shards on disk or a synthetic task. Everything that trains or evaluates
// reads through here.
#ifndef ROPE_TRAIN_BATCHES_H
#define ROPE_TRAIN_BATCHES_H

#include <jansson.h>

#include "data/data.h"
#include "train/config.h"

typedef enum BatchesPart { BATCHES_TRAIN, BATCHES_HELD_OUT } BatchesPart;
typedef struct Batches Batches;

// The part of config's data (data.dir or data.task) in batches of (batch, config->tokens). Training data come in an
// order drawn from config->seed, held-out data as they lie. ERROR_USER without data.
Batches *batches_open(const Config *config, BatchesPart part, size_t batch, Error *error);
// Whether there are both parts, long enough for such batches; true as well where no data are named at all.
bool batches_check(const Config *config, Error *error);
// inputs, targets (batch, tokens) =. Targets that do not count are -1.
bool batches_next(Batches *batches, int32_t *inputs, int32_t *targets, Error *error);
// How far back lies what each target of the last batch asks for: (batch, tokens), 0 where nothing is asked. NULL for
// text.
const int32_t *batches_distances(const Batches *batches);
uint64_t batches_windows(const Batches *batches);  // sequences in one pass over the data, or in a task's held-out set
uint32_t batches_checksum(const Batches *batches); // of all their tokens; of a task, of what they are made from
// What `rope prepare` said of exactly these data; all 0 if it said nothing of them, and for tasks.
PrepareResult batches_meta(const Batches *batches);
DataPosition batches_position(const Batches *batches);
void batches_seek(Batches *batches, DataPosition position);
void batches_close(Batches *batches);

// What a run of these settings is trained on and judged by, before there is one.
typedef struct DataIdentity {
    uint32_t train, held_out; // batches_checksum; 0: they cannot be read
    uint64_t judging;         // tokens of held-out data that an evaluation takes; 0: all, or they cannot be read
} DataIdentity;
DataIdentity batches_identity(const Config *config);
// The same without `train`, which may be much to read.
DataIdentity batches_judge(const Config *config);
// Whether a record's [train, held_out] may be of the same; not to be known, or not there in older records, it may.
bool batches_same_data(const json_t *recorded, const DataIdentity *data);

#endif
