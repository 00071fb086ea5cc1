// What a run will need, before it allocates: memory by arena, operations, and time per step from a short probe.
#ifndef ROPE_TRAIN_ESTIMATE_H
#define ROPE_TRAIN_ESTIMATE_H

#include <jansson.h>

#include "train/config.h"

typedef struct Estimate {
    ModelNeeds model;
    size_t moment_bytes;  // optimizer
    size_t buffer_bytes;  // batches and the held-out figures
    size_t program_bytes; // libraries, BLAS work space
    size_t total_bytes;
    size_t available_bytes; // memory that the machine has left for us
    double asked;           // share of a step's tokens that have a target: all of a text's, few of a task's
    double step_flops;      // one update, all its batches, with what recompute runs again
    double probe_flops_per_s;
    double step_seconds; // 0: not probed
} Estimate;

// Sizes only; nothing large is allocated.
bool estimate_memory(const Config *config, Estimate *estimate, Error *error);
// ERROR_USER with the numbers when it does not fit.
bool estimate_fits(const Config *config, const Estimate *estimate, Error *error);
// Times a model of one layer per method on a short context, and scales by operations.
bool estimate_probe(const Config *config, Estimate *estimate, Error *error);
void estimate_print(const Config *config, const Estimate *estimate, FILE *out);
json_t *estimate_json(const Estimate *estimate);
size_t resident_bytes(void); // of this process now, from /proc
// The highest since peak_begin, or where there is no /proc since the program began.
void peak_begin(void);
size_t peak_bytes(void);

#endif
