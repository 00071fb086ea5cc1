// JSON from text and to text (see json_text.h): jansson allocates through functions that remember a failure, and while it
// reads a text do not come back from one.
#include "core/json_text.h"

#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>

static _Thread_local bool out_of_memory;

// What jansson holds of the text that is being read, as a table of addresses: it frees a broken document in the order
// in which it was read, so a list that is searched from its end would take the square of its length.
static _Thread_local struct Reading {
    bool active;
    jmp_buf refused;
    void **blocks; // (1 << bits), at most half of them taken, the others NULL; NULL: none yet
    size_t count;
    unsigned bits;
} reading;

static size_t next_place(size_t at) { return (at + 1) & (((size_t)1 << reading.bits) - 1); }

// Where the block is, or would be put.
static size_t place_of(const void *block) {
    size_t at = (size_t)(((uint64_t)(uintptr_t)block * UINT64_C(0x9E3779B97F4A7C15)) >> (64 - reading.bits));
    while (reading.blocks[at] && reading.blocks[at] != block) at = next_place(at);
    return at;
}

static bool grow(void) {
    const struct Reading old = reading;
    const unsigned bits = old.bits ? old.bits + 1 : 7;
    void **blocks = calloc((size_t)1 << bits, sizeof *blocks);
    if (!blocks) return false;
    reading.blocks = blocks;
    reading.bits = bits;
    for (size_t i = 0; old.blocks && i < (size_t)1 << old.bits; i++)
        if (old.blocks[i]) blocks[place_of(old.blocks[i])] = old.blocks[i];
    free(old.blocks);
    return true;
}

static bool hold(void *block) {
    if (2 * (reading.count + 1) > (reading.bits ? (size_t)1 << reading.bits : 0) && !grow()) return false;
    reading.blocks[place_of(block)] = block;
    reading.count++;
    return true;
}

// Those that had to go on to a later place because of this one find theirs again.
static void release(const void *block) {
    size_t at = place_of(block);
    reading.blocks[at] = NULL;
    reading.count--;
    for (void *moved; (moved = reading.blocks[at = next_place(at)]);) {
        reading.blocks[at] = NULL;
        reading.blocks[place_of(moved)] = moved;
    }
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
    if (reading.active && block) release(block);
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
        for (size_t i = 0; reading.blocks && i < (size_t)1 << reading.bits; i++) free(reading.blocks[i]);
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
