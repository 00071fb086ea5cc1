// Trainers of toy runs, whose mistakes fail the running test. A header, because only tests of the program link trainers.
#ifndef ROPE_TESTS_SUPPORT_TOY_TRAINER_H
#define ROPE_TESTS_SUPPORT_TOY_TRAINER_H

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

#endif
