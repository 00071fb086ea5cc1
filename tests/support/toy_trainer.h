// Trainers of toy runs, whose mistakes fail the running test. A header, because only tests of the program link trainers.
#ifndef ROPE_TESTS_SUPPORT_TOY_TRAINER_H
#define ROPE_TESTS_SUPPORT_TOY_TRAINER_H

#include <stdlib.h>
#include <string.h>

#include "tests/support/check.h"
#include "train/trainer.h"

// The defaults, then `common`, then `more` (may be NULL): assignments "section.key=value", NULL at the end. Resolved.
static inline Config toy_settings(const char *const *common, const char *const *more) {
    Config config;
    Error error = {0};
    config_defaults(&config);
    bool good = true;
    for (size_t i = 0; good && common[i]; i++) good = config_set(&config, common[i], ORIGIN_COMMAND_LINE, &error);
    for (size_t i = 0; good && more && more[i]; i++) good = config_set(&config, more[i], ORIGIN_COMMAND_LINE, &error);
    if (!good || !config_resolve(&config, &error)) fail_msg("%s", error.message);
    return config;
}

static inline void toy_trainer_create(Trainer *trainer, const Config *config) {
    Error error = {0};
    if (!trainer_create(trainer, config, false, &error)) fail_msg("%s", error.message);
}

static inline StepResult toy_trainer_step(Trainer *trainer) {
    StepResult result;
    Error error = {0};
    if (!trainer_step(trainer, &result, &error)) fail_msg("%s", error.message);
    return result;
}

// ---- weights and moments --------------------------------------------------------------------------------------------

static inline size_t elements(const Trainer *trainer) { return model_tensors(trainer->model)->elements; }

typedef struct Copy {
    real *values[3]; // parameters, moments
} Copy;

static inline Copy numbers_of(Trainer *trainer) {
    return (Copy){
        {model_parameters(trainer->model), optim_state(trainer->optim, 0, NULL), optim_state(trainer->optim, 1, NULL)}};
}

static inline Copy copy_of(Trainer *trainer) {
    Copy copy, from = numbers_of(trainer);
    for (size_t i = 0; i < 3; i++) {
        copy.values[i] = malloc(elements(trainer) * sizeof(real));
        assert_non_null(copy.values[i]);
        memcpy(copy.values[i], from.values[i], elements(trainer) * sizeof(real));
    }
    return copy;
}

static inline void put_back(Trainer *trainer, const Copy *copy) {
    const Copy to = numbers_of(trainer);
    for (size_t i = 0; i < 3; i++) memcpy(to.values[i], copy->values[i], elements(trainer) * sizeof(real));
}

static inline void free_copy(Copy *copy) {
    for (size_t i = 0; i < 3; i++) free(copy->values[i]);
}

static inline bool same_numbers(Trainer *trainer, const Copy *copy) {
    const Copy now = numbers_of(trainer);
    for (size_t i = 0; i < 3; i++)
        if (memcmp(now.values[i], copy->values[i], elements(trainer) * sizeof(real))) return false;
    return true;
}

#endif
