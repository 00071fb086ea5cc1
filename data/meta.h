// meta.json: what `rope prepare` made, and from what. It is written last, so its presence says that the rest is whole.
#ifndef ROPE_DATA_META_H
#define ROPE_DATA_META_H

#include "data/data.h"

typedef struct MetaChecksums {
    uint32_t train, val; // crc32 of the ids, as in the shards' headers
    uint32_t tokenizer;  // crc32 of tokenizer.model
} MetaChecksums;

// Writes path atomically. sample_bytes: the limit of text that the tokenizer was trained on.
bool meta_write(const char *path, const PrepareSettings *settings, const PrepareResult *result,
                const MetaChecksums *checksums, size_t sample_bytes, Error *error);

#endif
