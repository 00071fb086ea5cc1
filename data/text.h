// Input texts as one long sequence of bytes that can be read at any place: files are read where they lie, what can be
// read only once (standard input, pipes) is first copied to a temporary file without a name. Several texts follow each
// other without anything between them, as with cat.
#ifndef ROPE_DATA_TEXT_H
#define ROPE_DATA_TEXT_H

#include <stdint.h>

#include "core/error.h"

typedef struct Text Text;

// paths: files, or "-" for standard input. Temporary files go to spool_directory. Files that are absent, unreadable,
// folders or there twice (what is held out of one would be trained on in the other): ERROR_USER naming them.
Text *text_open(const char *const *paths, size_t count, const char *spool_directory, Error *error);
// Whether the file with that path, by whatever name, is one of those that are read where they lie.
bool text_includes(const Text *text, const char *path);
uint64_t text_size(const Text *text); // bytes
// Exactly size bytes at offset; offset + size must not exceed text_size. A file that was changed or replaced since
// text_open: ERROR_CORRUPT.
bool text_read(Text *text, uint64_t offset, char *buffer, size_t size, Error *error);
// The same of all files: where this holds, everything that was read until now is of one text.
bool text_check(const Text *text, Error *error);
void text_close(Text *text);

#endif
