// One arena per lifetime: parameters, gradients, moments, activations, scratch. The same layout code runs twice: first
// on a measuring arena (no memory behind it; arena_take returns NULL and counts), then on a real one of that size. So
// the total is known, and refused if it does not fit, before anything is allocated.
#ifndef ROPE_CORE_ARENA_H
#define ROPE_CORE_ARENA_H

#include "core/error.h"

enum { ARENA_ALIGNMENT = 64 }; // bytes: a cache line, and the widest vector register

typedef struct Arena {
    const char *name;    // static string, shown in memory reports
    unsigned char *base; // NULL while measuring
    size_t capacity;     // bytes; SIZE_MAX while measuring
    size_t used;         // bytes taken
    size_t peak;         // highest `used` ever
    bool overflowed;     // a size wrapped while measuring: `used` stays SIZE_MAX, which arena_create refuses
} Arena;

// A measuring arena: takes nothing, counts everything.
Arena arena_measure(const char *name);
// Allocates `bytes` (zeroed, touched, aligned, huge pages advised when large). Fails with ERROR_MEMORY, at once when
// the machine (or its control group) has less.
bool arena_create(Arena *arena, const char *name, size_t bytes, Error *error);
// The bytes that arena_create takes from the system for an arena of this size: large ones are whole huge pages.
size_t arena_bytes(size_t bytes);
// count*size bytes, aligned to ARENA_ALIGNMENT. NULL while measuring. Exceeding a real arena's capacity is the
// programmer's error (the measuring pass sized it).
void *arena_take(Arena *arena, size_t count, size_t size);
#define ARENA_TAKE(arena, type, count) ((type *)arena_take((arena), (count), sizeof(type)))
// Stack discipline for scratch: remember `used`, give back everything taken since.
size_t arena_mark(const Arena *arena);
void arena_release(Arena *arena, size_t mark);
void arena_destroy(Arena *arena);

// a*b or a+b, false when the result does not fit in size_t. For sizes that come from files and settings.
bool size_multiply(size_t a, size_t b, size_t *product);
bool size_add(size_t a, size_t b, size_t *sum);

#endif
