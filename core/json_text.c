// JSON from text and to text (see json_text.h): jansson allocates through functions that remember a failure.
#include "core/json_text.h"

#include <stdlib.h>

static _Thread_local bool out_of_memory;

static void *noting_malloc(size_t size) {
    void *memory = malloc(size);
    if (!memory) out_of_memory = true;
    return memory;
}

void json_watch(void) {
    json_set_alloc_funcs(noting_malloc, free); // for the whole process, and the same every time
    out_of_memory = false;
}

json_t *json_parse(const char *path, const char *section, const char *text, size_t size, Error *error) {
    json_error_t where;
    json_watch();
    json_t *json = json_loadb(text, size, JSON_REJECT_DUPLICATES, &where);
    if (json && !out_of_memory) return json;
    json_decref(json);
    if (out_of_memory)
        error_set(error, ERROR_MEMORY, "There is no memory for the %s of %s.", section, path);
    else
        error_set(error, ERROR_CORRUPT, "%s: %s: it is not valid JSON: line %d: %s.", path, section, where.line,
                  where.text);
    return NULL;
}

bool json_whole(void) { return !out_of_memory; }

char *json_print(const json_t *json, size_t flags) {
    char *text = json ? json_dumps(json, flags) : NULL;
    if (!out_of_memory) return text;
    free(text);
    return NULL;
}
