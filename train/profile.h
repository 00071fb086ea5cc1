// rope profile: what a whole training step costs, by phase, over context lengths and methods. Private to profile*.c.
#ifndef ROPE_TRAIN_PROFILE_H
#define ROPE_TRAIN_PROFILE_H

#include "core/clock.h"
#include "train/estimate.h"
#include "train/run_directory.h"
#include "train/trainer.h"

enum { PROFILE_MAX_METHODS = 8, PROFILE_MAX_LENGTHS = 24 };

// One method at one context length.
typedef struct ProfileCell {
    bool measured;
    double step_seconds; // of the step in the middle (mean of two, if there are two)
    double checkpoint_seconds;
    double sgemm_rate; // FLOP/s of the library between this length's steps: machines drift over the minutes of a run
    size_t steps;      // counted ones
    double flops;      // useful ones of that step (trainer_step_flops)
    double fell_back;  // layers × heads × batch rows that ran the exact far field, in the step that had the most
    PhaseTimes phases; // of that step, so that they add up to it
    Estimate estimate;
    const char *left_out; // why it was not measured: "memory", "time", "data", "stopped"
} ProfileCell;

typedef struct Profile {
    const char *methods[PROFILE_MAX_METHODS];
    size_t method_count;
    size_t lengths[PROFILE_MAX_LENGTHS];
    size_t length_count;
    ProfileCell cells[PROFILE_MAX_LENGTHS][PROFILE_MAX_METHODS];
    double sgemm_rate; // FLOP/s, the library's own, 2048³, before the first length
    double copy_rate;  // bytes/s
    double clock_cost; // seconds of one phase_enter
    size_t batch;
    const char *data; // where the tokens come from: a directory, or a task
} Profile;

json_t *profile_document(const Profile *profile);
void profile_print(const Profile *profile, const json_t *document);
bool profile_write_report(const Profile *profile, const json_t *document, const Config *config, const char *path,
                          Error *error);

#endif
