// Updates: AdamW, its schedules, gradient norm and clipping. Sees flat arrays and groups, never the model.
#ifndef ROPE_OPTIM_OPTIM_H
#define ROPE_OPTIM_OPTIM_H

#include <stdbool.h>

#include "core/arena.h"
#include "core/error.h"
#include "core/real.h"

// A contiguous range of the flat parameter array with one decay.
typedef struct OptimGroup {
    size_t offset, count;
    bool decay;
} OptimGroup;

typedef struct OptimSettings {
    const char *method;        // "adamw" (registry in optim.c)
    double learning_rate, beta1, beta2, epsilon, weight_decay;
    double clip;               // largest global gradient norm; 0: no clipping
} OptimSettings;

typedef struct Optim Optim;

const char *optim_method_name(size_t index); // NULL beyond the last
// Refuses values that make no sense (NaN included): ERROR_USER naming the setting and the value.
bool optim_check(const OptimSettings *settings, Error *error);
// Bytes of the moments; SIZE_MAX if the size wraps, 0 for an unknown method.
size_t optim_state_bytes(const OptimSettings *settings, size_t elements);
// Checks the settings and copies the groups, which must be in order and must not overlap. Elements of no group are
// never touched. Moments are zero. NULL on failure: ERROR_USER or ERROR_MEMORY.
Optim *optim_create(const OptimSettings *settings, const OptimGroup *groups, size_t group_count, size_t elements,
                    Error *error);
// Moments in flat order of the parameters, for checkpoints. state 0: first moment, 1: second; NULL beyond.
real *optim_state(Optim *optim, size_t state, const char **name);
uint64_t optim_step_count(const Optim *optim);
void optim_set_step_count(Optim *optim, uint64_t steps);
// Global 2-norm of the gradient in double over a fixed tree: NaN or Inf if any element is.
double optim_gradient_norm(const real *gradient, size_t elements);
// One update at the given learning rate, with gradients scaled by gradient_scale (clipping) on the fly. One pass over
// memory. Decoupled decay: p -= lr·wd·p for groups with decay.
void optim_update(Optim *optim, real *parameters, const real *gradient, double learning_rate, double gradient_scale);
void optim_destroy(Optim *optim);

// Learning-rate schedules: factor in [0, 1] at step (0-based) of `steps`, after `warmup` linear steps (formulas:
// schedule.c). warmup < steps; a run of one step has factor 1; steps beyond the last keep its factor.
typedef struct Schedule {
    const char *name;     // cosine, linear, wsd, constant
    size_t steps, warmup;
    double floor;         // smallest factor (min_lr / lr)
    double decay_share;   // wsd: share of the steps that decay at the end, rounded
} Schedule;
// ERROR_USER naming the setting and the value. schedule_factor is for schedules that passed.
bool schedule_check(const Schedule *schedule, Error *error);
double schedule_factor(const Schedule *schedule, size_t step);
const char *const *schedule_names(void); // NULL-terminated

#endif
