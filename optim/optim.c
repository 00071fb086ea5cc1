// The registry of optimizers, and what they share: settings, moments, and the cut of the parameters into blocks of
// fixed size that threads take, so that an update is the same bits for any number of threads.

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "core/threads.h"
#include "optim/method.h"

// Elements per block: with two moments and a gradient, 256 KiB in single precision, so that a block is long enough to
// stream and there are enough of them to share out.
enum { BLOCK = 16384 };

static const OptimMethod *const methods[] = {&optim_adamw};
enum { METHOD_COUNT = sizeof methods / sizeof *methods };

struct Optim {
    OptimSettings settings;
    const OptimMethod *method;
    OptimGroup *blocks; // groups cut into pieces of at most BLOCK elements
    size_t block_count, elements;
    Arena moments;
    real *states[OPTIM_MAX_STATES];
    uint64_t steps;
};

static const OptimMethod *method_find(const char *name) {
    for (size_t i = 0; i < METHOD_COUNT; i++)
        if (name && strcmp(methods[i]->name, name) == 0) return methods[i];
    return NULL;
}

const char *optim_method_name(size_t index) { return index < METHOD_COUNT ? methods[index]->name : NULL; }

static void take_states(const OptimMethod *method, size_t elements, Arena *arena, real **states) {
    for (size_t i = 0; i < method->state_count; i++) states[i] = ARENA_TAKE(arena, real, elements);
}

size_t optim_state_bytes(const OptimSettings *settings, size_t elements) {
    const OptimMethod *method = method_find(settings->method);
    if (!method) return 0;
    Arena measure = arena_measure("moments");
    real *states[OPTIM_MAX_STATES];
    take_states(method, elements, &measure, states);
    return measure.overflowed ? SIZE_MAX : measure.used;
}

bool optim_check(const OptimSettings *settings, Error *error) {
    const OptimMethod *method = method_find(settings->method);
    if (!method)
        return error_set(error, ERROR_USER, "Optimizer '%s' is unknown; there is %s.",
                         settings->method ? settings->method : "", methods[0]->name);
    // Negated comparisons, so that NaN is refused as well.
    if (!(settings->learning_rate > 0 && settings->learning_rate <= 1e6))
        return error_set(error, ERROR_USER, "optim.learning_rate = %g must be above 0 and at most 1e6.",
                         settings->learning_rate);
    if (!(settings->clip >= 0) || isinf(settings->clip))
        return error_set(error, ERROR_USER, "optim.clip = %g must be a norm above 0, or 0 for no clipping.",
                         settings->clip);
    if (!(settings->weight_decay >= 0 && settings->weight_decay * settings->learning_rate < 1))
        return error_set(error, ERROR_USER,
                         "optim.weight_decay = %g must be 0 or more, and below 1 / optim.learning_rate, or weights "
                         "change sign.",
                         settings->weight_decay);
    return method->check(settings, error);
}

// Writes the blocks if `blocks` is not NULL; returns their number.
static size_t cut_groups(const OptimGroup *groups, size_t group_count, OptimGroup *blocks) {
    size_t count = 0;
    for (size_t g = 0; g < group_count; g++)
        for (size_t done = 0; done < groups[g].count; done += BLOCK, count++) {
            size_t left = groups[g].count - done;
            if (blocks)
                blocks[count] = (OptimGroup){groups[g].offset + done, left < BLOCK ? left : BLOCK, groups[g].decay};
        }
    return count;
}

Optim *optim_create(const OptimSettings *settings, const OptimGroup *groups, size_t group_count, size_t elements,
                    Error *error) {
    if (!optim_check(settings, error)) return NULL;
    size_t end = 0; // groups in order and apart: threads must never share an element
    for (size_t g = 0; g < group_count; g++) {
        REQUIRE(groups[g].offset >= end && groups[g].offset <= elements);
        REQUIRE(groups[g].count <= elements - groups[g].offset);
        end = groups[g].offset + groups[g].count;
    }
    Optim *optim = calloc(1, sizeof *optim);
    if (!optim) {
        error_set(error, ERROR_MEMORY, "There is no memory for the optimizer.");
        return NULL;
    }
    optim->settings = *settings;
    optim->method = method_find(settings->method);
    optim->settings.method = optim->method->name;
    optim->elements = elements;
    optim->block_count = cut_groups(groups, group_count, NULL);
    optim->blocks = calloc(optim->block_count + 1, sizeof *optim->blocks);
    if (!optim->blocks) {
        error_set(error, ERROR_MEMORY, "There is no memory for %zu blocks of the optimizer.", optim->block_count);
        optim_destroy(optim);
        return NULL;
    }
    cut_groups(groups, group_count, optim->blocks);
    size_t bytes = optim_state_bytes(settings, elements);
    if (!arena_create(&optim->moments, "moments", bytes, error)) { // SIZE_MAX is refused there
        optim_destroy(optim);
        return NULL;
    }
    take_states(optim->method, elements, &optim->moments, optim->states);
    return optim;
}

real *optim_state(Optim *optim, size_t state, const char **name) {
    if (state >= optim->method->state_count) return NULL;
    if (name) *name = optim->method->state_names[state];
    return optim->states[state];
}

uint64_t optim_step_count(const Optim *optim) { return optim->steps; }
void optim_set_step_count(Optim *optim, uint64_t steps) { optim->steps = steps; }

void optim_update(Optim *optim, real *parameters, const real *gradient, double learning_rate, double gradient_scale) {
    optim->steps++;
    const OptimStep step = {&optim->settings, optim->steps, learning_rate, gradient_scale};
#pragma omp parallel for schedule(static)
    for (size_t b = 0; b < optim->block_count; b++) {
        const OptimGroup *range = &optim->blocks[b];
        OptimBlock block = {parameters + range->offset, gradient + range->offset, {NULL}, range->count, range->decay};
        for (size_t i = 0; i < optim->method->state_count; i++) block.states[i] = optim->states[i] + range->offset;
        optim->method->update(&step, &block);
    }
    // the gradient is read; parameters and states are read and written
    const double moved = 1 + 2 * (1 + (double)optim->method->state_count);
    phase_count(0, moved * (double)optim->elements * sizeof(real));
}

void optim_destroy(Optim *optim) {
    if (!optim) return;
    arena_destroy(&optim->moments);
    free(optim->blocks);
    free(optim);
}
