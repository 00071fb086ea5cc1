// What is fuzzed: everything that reads bytes from outside. Each target takes any bytes and aborts when a promise is
// broken (a round trip that is not exact, an error without a message); the sanitizers find the rest.
//
// To add one: a run and its seeds in the file of its subject, a name in inputs.h and in the table of targets.c.
#ifndef ROPE_TESTS_FUZZ_TARGETS_H
#define ROPE_TESTS_FUZZ_TARGETS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct FuzzTarget {
    const char *name;
    bool (*run)(const uint8_t *data, size_t size); // whether the bytes were taken for what they should be
    void (*seeds)(void);                           // gives well-formed inputs, and near misses
} FuzzTarget;

extern const FuzzTarget *const fuzz_targets[];
extern const size_t fuzz_target_count;

const FuzzTarget *fuzz_find(const char *name); // NULL: there is none
// Calls give for every seed of the target; `taken`: what its run must return.
typedef void (*FuzzGive)(void *context, const void *bytes, size_t size, bool taken);
void fuzz_each_seed(const FuzzTarget *target, FuzzGive give, void *context);

#endif
