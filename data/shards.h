// Reading token shards: used by the loader and by tests. The layout is in data/data.h.
#ifndef ROPE_DATA_SHARDS_H
#define ROPE_DATA_SHARDS_H

#include <stdint.h>

#include "core/error.h"
#include "data/stamp.h"

typedef struct Shard {
    int descriptor;
    char *path;        // owned
    uint64_t count;    // ids
    size_t width;      // bytes of an id: 2 or 4
    size_t vocabulary; // from the header; 0 in llm.c's own files
    bool summed;       // the header has a checksum of the ids, which was checked; llm.c's own files have none
    uint32_t crc;      // of the ids
    Stamp stamp; // of when the ids were last known to be those
} Shard;

// Is a file of this name in a folder of data one of the split's shards: train*.bin, val*.bin?
bool shard_is_name(const char *name, const char *split);
// Opens and checks everything that the file says about itself: magic, version, size against count, checksums where
// there are any. Reads the whole file, streaming. Corrupt or truncated: ERROR_CORRUPT naming the file; absent:
// ERROR_USER. On failure nothing is left open.
bool shard_open(Shard *shard, const char *path, Error *error);
// ids (count) = those from `first` on, which must lie within the shard. Ids at or above `limit` are ERROR_USER, naming
// file and offset. A file that was written to since shard_open is ERROR_CORRUPT, unless its ids have the same checksum; one
// that was replaced by another is still read.
bool shard_read(Shard *shard, uint64_t first, size_t count, size_t limit, int32_t *ids, Error *error);
void shard_close(Shard *shard);

#endif
