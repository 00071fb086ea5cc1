// Time, and where it goes: phases of a step, accumulated by the thread that runs the step's script.
#ifndef ROPE_CORE_CLOCK_H
#define ROPE_CORE_CLOCK_H

#include <stddef.h>
#include <stdint.h>

double clock_seconds(void); // monotonic

// Phases partition a training step: phase_enter ends the running phase and starts the next, so they add up to the whole.
typedef enum Phase {
    PHASE_OTHER = 0,
    PHASE_LOADER,
    PHASE_EMBEDDING,
    PHASE_NORM,
    PHASE_PROJECTION, // q, k, v and output projections, forward and backward
    PHASE_ATTENTION_FORWARD,
    PHASE_ATTENTION_BACKWARD,
    PHASE_FEED_FORWARD,
    PHASE_OUTPUT,    // output matrix and cross-entropy
    PHASE_OPTIMIZER, // gradient norm, clip, update
    PHASE_CHECKPOINT,
    PHASE_COUNT
} Phase;

typedef struct PhaseTimes {
    double seconds[PHASE_COUNT];
    double flops[PHASE_COUNT]; // counted by the code that runs the phase
    double bytes[PHASE_COUNT]; // least memory traffic of the phase
    size_t entries;            // calls of phase_enter: what measuring cost
} PhaseTimes;

const char *phase_name(Phase phase);          // "attention_forward", as in JSON
Phase phase_enter(Phase phase);               // returns the phase that was running, to go back to
void phase_count(double flops, double bytes); // adds to the running phase
// *sum += weight · *times: seconds, flops and bytes; entries are not summed.
void phase_add(PhaseTimes *sum, const PhaseTimes *times, double weight);
void phase_take(PhaseTimes *times); // copies and resets the accumulated times (closes the running span)

#endif
