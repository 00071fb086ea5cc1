// What is fuzzed: everything that reads bytes from outside. Each target takes any bytes and aborts when a promise is
// broken (a round trip that is not exact, an error without a message); the sanitizers find the rest.
#ifndef ROPE_TESTS_FUZZ_TARGETS_H
#define ROPE_TESTS_FUZZ_TARGETS_H

#include <stddef.h>
#include <stdint.h>

typedef struct FuzzTarget {
    const char *name;
    void (*run)(const uint8_t *data, size_t size);
    void (*seeds)(void); // makes well-formed inputs with fuzz_seed
} FuzzTarget;

extern const FuzzTarget fuzz_targets[];
extern const size_t fuzz_target_count;

const FuzzTarget *fuzz_find(const char *name); // NULL: there is none
// Calls give(context, bytes, size) for every seed of the target.
void fuzz_each_seed(const FuzzTarget *target, void (*give)(void *context, const void *bytes, size_t size), void *context);

#endif
