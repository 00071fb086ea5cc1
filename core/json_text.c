// JSON from text and to text (see json_text.h): jansson allocates through functions that remember a failure, and while it
// reads a text do not come back from one.
#include "core/json_text.h"

#include <setjmp.h>
#include <stdlib.h>

static _Thread_local bool out_of_memory;

static _Thread_local struct Reading {
    bool active;
    jmp_buf refused;
    void **blocks; // what jansson holds of the text that is being read
    size_t count, capacity;
} reading;

static bool hold(void *block) {
    if (reading.count == reading.capacity) {
        const size_t capacity = 2 * reading.capacity + 64;
        void **blocks = reallocarray(reading.blocks, capacity, sizeof *blocks);
        if (!blocks) return false;
        reading.blocks = blocks;
        reading.capacity = capacity;
    }
    reading.blocks[reading.count++] = block;
    return true;
}

static void *noting_malloc(size_t size) {
    void *block = malloc(size);
    if (block && (!reading.active || hold(block))) return block;
    free(block);
    out_of_memory = true;
    if (reading.active) longjmp(reading.refused, 1);
    return NULL;
}

static void noting_free(void *block) {
    if (reading.active && block) {
        size_t at = reading.count - 1; // what is freed while a text is read is nearly always the newest
        while (reading.blocks[at] != block) at--;
        reading.blocks[at] = reading.blocks[--reading.count];
    }
    free(block);
}

void json_watch(void) {
    json_set_alloc_funcs(noting_malloc, noting_free); // for the whole process, and the same every time
    out_of_memory = false;
}

json_t *json_read(const char *text, size_t size, size_t flags, json_error_t *where) {
    json_t *volatile json = NULL;
    reading = (struct Reading){.active = true};
    if (setjmp(reading.refused) == 0)
        json = json_loadb(text, size, flags, where);
    else
        while (reading.count > 0) free(reading.blocks[--reading.count]);
    reading.active = false;
    free(reading.blocks);
    return json;
}

json_t *json_parse(const char *path, const char *section, const char *text, size_t size, Error *error) {
    json_error_t where;
    json_watch();
    json_t *json = json_read(text, size, JSON_REJECT_DUPLICATES, &where);
    if (json) return json;
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
