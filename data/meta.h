// meta.json: what `rope prepare` made, and from what. It is written last, so its presence says that the rest is whole.
#ifndef ROPE_DATA_META_H
#define ROPE_DATA_META_H

#include "data/data.h"

// The name of the next meta.json while the files that it speaks of take the place of older ones.
#define META_UNFINISHED "meta.json.new"

// False if the folder holds files of two different preparations, or an incomplete one: `rope prepare` was stopped while
// it put them in their places. Folders with no sign of `rope prepare` are fine.
bool meta_check_whole(const char *directory, Error *error);

// Writes path atomically. sample_bytes: the limit of text that the tokenizer was trained on.
bool meta_write(const char *path, const PrepareSettings *settings, const PrepareResult *result, size_t sample_bytes,
                Error *error);

#endif
