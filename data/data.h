// Batches of tokens, whatever they come from: shards on disk or synthetic tasks.
#ifndef ROPE_DATA_DATA_H
#define ROPE_DATA_DATA_H

#include <stdint.h>

#include "core/error.h"

// A position in the data: everything that is needed to go on exactly where a run stopped.
typedef struct DataPosition {
    uint64_t epoch;
    uint64_t window; // windows already served in this epoch
} DataPosition;

typedef struct DataSettings {
    const char *path;  // a directory with train*.bin or val*.bin (split), or one shard file
    const char *split; // "train" or "val"
    size_t batch, tokens;
    uint64_t seed;
    bool shuffle;      // false: in order (evaluation)
    size_t vocabulary; // ids at or above are refused; 0: not checked
} DataSettings;

typedef struct Loader Loader;

Loader *loader_open(const DataSettings *settings, Error *error);
// inputs, targets (batch, tokens): the next windows of the epoch's order, targets one token later. Checks every id.
// At the end of an epoch goes on with the next one. Fails on read errors and corrupt data, naming file and offset.
bool loader_next(Loader *loader, int32_t *inputs, int32_t *targets, Error *error);
uint64_t loader_windows(const Loader *loader); // per epoch; `tokens` apart, the last, partial one is dropped
uint64_t loader_tokens(const Loader *loader);  // in all shards
// What meta.json says of exactly these shards: all 0 if it speaks of others, or if there is none.
const struct PrepareResult *loader_meta(const Loader *loader);
// Of the tokens in all shards.
uint32_t loader_checksum(const Loader *loader);
DataPosition loader_position(const Loader *loader);
void loader_seek(Loader *loader, DataPosition position);
void loader_close(Loader *loader);

// Shards: llm.c's layout (256 int32 header {20240520, 1, count}, then u16 ids), and version 2 of it for vocabularies
// above 65536 (u32 ids). Header words that llm.c leaves zero hold: [3] vocabulary, [4] crc32 of the ids, [5] crc32 of
// words 0 to 4. Where all three are zero the file is llm.c's own and is read as it is. The header is written last: an
// unfinished shard has none, and is refused. At most 2^31-1 ids a shard.
typedef struct ShardWriter ShardWriter;
ShardWriter *shard_create(const char *path, size_t vocabulary, Error *error);
bool shard_append(ShardWriter *writer, const int32_t *ids, size_t count, Error *error);
bool shard_finish(ShardWriter *writer, uint64_t *count, uint32_t *crc, Error *error); // frees in every case
void shard_abandon(ShardWriter *writer);

// rope prepare: text files (or "-") → DIR/{tokenizer.model,train.bin,val.bin,meta.json}. Streams; progress to stderr.
typedef struct PrepareSettings {
    const char *const *inputs;
    size_t input_count;
    const char *out;
    const char *type; // bpe, unigram, char
    size_t vocabulary;
    double validation_share; // the last share of the text (by bytes, at a line end if one is near) is held out
    const char *tokenizer;   // an existing tokenizer.model instead of training one, or NULL
    bool quiet;
} PrepareSettings;
typedef struct PrepareResult {
    uint64_t train_tokens, val_tokens, train_bytes, val_bytes;
    size_t vocabulary;
    uint64_t lossy_bytes; // of both parts, that the tokens do not give back; 0 for tokenizers that prepare trained
    uint32_t train_crc, val_crc; // crc32 of the ids, as in the shards' headers; 0: unknown
    uint32_t tokenizer_crc;      // crc32 of tokenizer.model; 0: unknown
    double unigram_loss;  // nats per held-out token of the add-one smoothed unigram model of the training tokens
} PrepareResult;
bool data_prepare(const PrepareSettings *settings, PrepareResult *result, Error *error);
// Reads DIR/meta.json. Absent file: ERROR_USER.
bool data_read_meta(const char *directory, PrepareResult *meta, Error *error);
// The same, but *meta = 0 for shards that were made elsewhere, without one.
bool data_find_meta(const char *directory, PrepareResult *meta, Error *error);

#endif
