// One training run, from its start or its last checkpoint to its end: what `rope train` does once and a sweep many times.
#ifndef ROPE_TRAIN_TRAIN_H
#define ROPE_TRAIN_TRAIN_H

#include "train/estimate.h"
#include "train/run_directory.h"

// What a run came to. Figures are NaN where they are not known.
typedef struct TrainOutcome {
    bool finished; // all steps are done, and the last evaluation
    bool diverged; // it ended because too many steps in a row had no finite loss and gradient
    uint64_t step, tokens, skipped;
    size_t steps; // that it was to have
    double loss; // training loss, mean of the last train.log_every steps
    uint64_t held_out_step; // of the last evaluation:
    double held_out_loss, accuracy;
    double bits_per_byte; // 0: unknown
    double step_seconds;  // median of the last steps; where this session made none, as metrics.jsonl has it
    double seconds;       // all sessions
    char out[RUN_PATH], checkpoint[RUN_PATH]; // where the run is, which may have moved
    Estimate estimate;
} TrainOutcome;

// Both say on standard error what goes wrong; *error is for the exit code.
// Memory and time that a run of this resolved configuration needs, printed for people; ERROR_USER when it does not fit.
bool train_estimate(const Config *config, Estimate *estimate, Error *error);
// The run directory is left as it should be, whatever ended the run. A stop signal is no error: *outcome is not finished
// then.
bool train_run(const Config *config, bool resume, TrainOutcome *outcome, Error *error);
json_t *train_outcome_json(const TrainOutcome *outcome);

// rope train --sweep: a run below config->out for every combination of the values of `lists` ("optim.learning_rate=1e-3,
// 2e-3"), then a table. `base` is not resolved yet. Returns the exit code.
int train_sweep(const Config *base, const char *const *lists, size_t count, bool resume, bool dry_run, bool json);

#endif
