// One allocation, handed out front to back. Measuring and taking run the same arithmetic, so they cannot disagree.
#include "core/arena.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/cpu.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ARENA_POISON 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define ARENA_POISON 1
#endif

// Under the address sanitizer, what is not taken may not be touched: scratch used after its release is found.
#ifdef ARENA_POISON
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#endif

enum { HUGE_PAGE = 2 << 20 };

bool size_multiply(size_t a, size_t b, size_t *product) { return !__builtin_mul_overflow(a, b, product); }

bool size_add(size_t a, size_t b, size_t *sum) { return !__builtin_add_overflow(a, b, sum); }

Arena arena_measure(const char *name) { return (Arena){.name = name, .capacity = SIZE_MAX}; }

static size_t round_up(size_t bytes, size_t multiple) { return (bytes + multiple - 1) / multiple * multiple; }

static size_t alignment_of(size_t bytes) { return bytes >= HUGE_PAGE ? HUGE_PAGE : ARENA_ALIGNMENT; }

size_t arena_bytes(size_t bytes) {
    size_t alignment = alignment_of(bytes);
    return bytes <= SIZE_MAX - alignment ? round_up(bytes ? bytes : 1, alignment) : SIZE_MAX;
}

bool arena_create(Arena *arena, const char *name, size_t bytes, Error *error) {
    *arena = (Arena){.name = name};
    size_t alignment = alignment_of(bytes);
    size_t total, available;
    cpu_memory(&total, &available);
    // Every page is touched below: what this machine never has would end in SIGKILL instead of a message.
    bool fits = bytes <= (total ? total : PTRDIFF_MAX - HUGE_PAGE);
    size_t rounded = fits ? arena_bytes(bytes) : 0;
    unsigned char *base = fits ? aligned_alloc(alignment, rounded) : NULL;
    if (!base)
        return error_set(
            error, ERROR_MEMORY,
            "There is no memory for the %s (%.1f MiB; the machine has %.1f). Use a smaller model, batch or "
            "context length.",
            name, (double)bytes / 1048576.0, (double)total / 1048576.0);
    if (alignment == HUGE_PAGE) madvise(base, rounded, MADV_HUGEPAGE); // advice only: failing costs speed
    // Touching every page now means that running out of memory shows here and not in the middle of a run.
    memset(base, 0, rounded);
    ASAN_POISON_MEMORY_REGION(base, rounded);
    arena->base = base;
    arena->capacity = round_up(bytes, ARENA_ALIGNMENT);
    return true;
}

void *arena_take(Arena *arena, size_t count, size_t size) {
    size_t bytes, end;
    bool fits = size_multiply(count, size, &bytes) && bytes <= SIZE_MAX - ARENA_ALIGNMENT &&
                size_add(arena->used, round_up(bytes, ARENA_ALIGNMENT), &end);
    if (!arena->base) {
        REQUIRE(arena->capacity == SIZE_MAX); // neither measured nor created
        if (!fits) arena->overflowed = true;
        if (arena->overflowed) { // a total that arena_create refuses
            arena->used = arena->peak = SIZE_MAX;
            return NULL;
        }
    } else {
        REQUIRE(fits && end <= arena->capacity);
    }
    void *taken = arena->base ? arena->base + arena->used : NULL;
    if (taken) ASAN_UNPOISON_MEMORY_REGION(taken, bytes);
    arena->used = end;
    if (end > arena->peak) arena->peak = end;
    return taken;
}

size_t arena_mark(const Arena *arena) { return arena->used; }

void arena_release(Arena *arena, size_t mark) {
    REQUIRE(mark <= arena->used);
    if (arena->base) ASAN_POISON_MEMORY_REGION(arena->base + mark, arena->used - mark);
    if (!arena->overflowed) arena->used = mark;
}

void arena_destroy(Arena *arena) {
    if (arena->base) ASAN_UNPOISON_MEMORY_REGION(arena->base, arena->capacity);
    free(arena->base);
    *arena = (Arena){.name = arena->name};
}
