// metrics.jsonl, one JSON object per line, and what people see while it trains.
//
// Lines are a function of the run alone, but for the object under "time": a run that was stopped and resumed writes the
// same lines as one that was not.
#ifndef ROPE_TRAIN_METRICS_H
#define ROPE_TRAIN_METRICS_H

#include "train/run_directory.h"
#include "train/trainer.h"

typedef struct Metrics {
    int descriptor;
    double before;                  // seconds that earlier sessions trained
    double start;                   // clock of this session
    double loss, step_seconds;      // of the last line of a step, whichever session wrote it; NaN: there is none
    double last, last_tokens_per_s; // of the progress display
    double interval_seconds;        // steps since the last line
    uint64_t interval_steps;
    uint64_t first_step; // of this session
    bool terminal, live; // standard error is a terminal; a live line is on it
} Metrics;

// Opens OUT/metrics.jsonl and drops every line after `step`, which a resumed run will write again, and a torn last one;
// also an evaluation of that step, if it is still due.
bool metrics_open(Metrics *metrics, const RunDirectory *run, uint64_t step, bool eval_due, Error *error);
// The directory was made anew: all lines until now go into it.
bool metrics_move(Metrics *metrics, const RunDirectory *run, Error *error);
// Appends the line of a step (mean loss and time since the last line, then reset), or of an evaluation.
bool metrics_step(Metrics *metrics, Trainer *trainer, const StepResult *result, Error *error);
bool metrics_evaluation(Metrics *metrics, const Trainer *trainer, const Evaluation *evaluation, Error *error);
bool metrics_flush(Metrics *metrics, Error *error); // fsync: called before a checkpoint is written
void metrics_close(Metrics *metrics);

// Progress on standard error: a live line on a terminal, plain lines (only where `logged`) elsewhere.
void metrics_show(Metrics *metrics, const Trainer *trainer, const StepResult *result, double step_seconds, bool logged);
// A line for people that stays, above the live line.
void metrics_say(Metrics *metrics, const char *format, ...) __attribute__((format(printf, 2, 3)));
double metrics_seconds(const Metrics *metrics); // trained so far, all sessions

#endif
