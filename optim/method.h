// What a row of the registry in optim.c provides. Sees one block of one group at a time: memory, threads, groups and
// step counting are optim.c's.
#ifndef ROPE_OPTIM_METHOD_H
#define ROPE_OPTIM_METHOD_H

#include "optim/optim.h"

enum { OPTIM_MAX_STATES = 4 };

// One update, the same for all blocks.
typedef struct OptimStep {
    const OptimSettings *settings;
    uint64_t number;       // 1 for the first update
    double learning_rate, gradient_scale;
} OptimStep;

// A range of the flat arrays.
typedef struct OptimBlock {
    real *parameters;                // (count) updated
    const real *gradient;            // (count)
    real *states[OPTIM_MAX_STATES];  // (count) each, updated
    size_t count;
    bool decay;
} OptimBlock;

typedef struct OptimMethod {
    const char *name;
    size_t state_count;                       // numbers kept per parameter
    const char *state_names[OPTIM_MAX_STATES];
    // Refuses settings of its own that make no sense: ERROR_USER naming the setting.
    bool (*check)(const OptimSettings *settings, Error *error);
    // Elementwise, so that the result does not depend on how the arrays are cut.
    void (*update)(const OptimStep *step, const OptimBlock *block);
} OptimMethod;

extern const OptimMethod optim_adamw;

#endif
