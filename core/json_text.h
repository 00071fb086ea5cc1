// JSON from text and to text, for files. jansson 2.14 goes on when memory runs out in the middle of a text: it drops
// characters, the quote at the end of a string among them, then reads and writes past its buffers, or reports a broken
// text, or nothing at all. Here it is stopped at once, and that is always found.
#ifndef ROPE_CORE_JSON_TEXT_H
#define ROPE_CORE_JSON_TEXT_H

#include <jansson.h>
#include <stdbool.h>

#include "core/error.h"

// A new reference, or NULL: ERROR_CORRUPT "PATH: SECTION: …" for text that is not JSON, names a key twice or goes on
// after its end; ERROR_MEMORY.
json_t *json_parse(const char *path, const char *section, const char *text, size_t size, Error *error);
// As json_loadb, but NULL if memory runs out, which json_whole tells from a broken text; after json_watch.
json_t *json_read(const char *text, size_t size, size_t flags, json_error_t *where);
// As json_dumps: malloc'd, or NULL if `json` is NULL or memory ran out since json_watch.
char *json_print(const json_t *json, size_t flags);
// Before a document is put together or read: from here on json_print and json_whole tell whether memory ran out for a
// part of it.
void json_watch(void);
bool json_whole(void);

#endif
