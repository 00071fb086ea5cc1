// Synthetic recall tasks, made on the fly: every example is a pure function of (settings, example index), by Philox, so
// nothing is stored, any run can be resumed, and results do not depend on batch size or threads.
//
// A target is the token to be predicted at that position, or -1 where nothing is asked. Its distance is how many
// positions back the token lies that gives the answer away (the value that followed the key, the token to be copied).
#ifndef ROPE_DATA_TASKS_H
#define ROPE_DATA_TASKS_H

#include <stdint.h>

#include "core/error.h"

// What stands between pairs and queries.
typedef enum TaskFiller {
    TASK_FILLER_RANDOM, // any token, as in Zoology; now and then one of the example's keys, with another token after it
    TASK_FILLER_DISTINCT, // any token but 0 and the example's keys: every query has one answer
    TASK_FILLER_BLANK,    // token 0
    TASK_FILLER_COUNT
} TaskFiller;
extern const char *const task_filler_names[TASK_FILLER_COUNT]; // "random", "distinct", "blank"

typedef struct TaskSettings {
    // mqar:      k1 v1 k2 v2 …, then queries k at positions drawn from a power law, among filler (Arora et al.,
    //            Zoology: Measuring and improving recall in efficient language models, 2023). Each pair is asked once.
    //            The gap before a query is i steps of two with probability ∝ i^(a-1).
    // needle:    pairs hidden anywhere in filler, one in each of `pairs` equal stretches; queries are the last tokens.
    // induction: different tokens, then blocks of four of them again, in another order: what followed last time?
    // copy:      a sequence, a separator (token 0), the sequence again.
    const char *name;
    size_t batch, tokens, vocabulary;
    size_t pairs;          // mqar, needle
    double gap_power;      // mqar: a above, 0 < a ≤ 1; Zoology takes 0.01
    TaskFiller filler;     // mqar, needle
    size_t least_distance; // needle: no answer is nearer than this
    uint64_t seed;
    bool held_out; // examples from a stream that training never draws from
} TaskSettings;

const char *task_name(size_t index); // of the index-th task; NULL behind the last

// Whether such examples exist; ERROR_USER naming the setting that is in the way. Keys are tokens of [1, V/2), values of
// [V/2, V).
bool task_check(const TaskSettings *settings, Error *error);
// inputs, targets, distances (batch, tokens) = examples first_example, first_example + 1, … (below 2^60). distances may
// be NULL; it is 0 where targets is -1. The settings must have passed task_check. Cost: O(tokens) draws per example.
void task_batch(const TaskSettings *settings, uint64_t first_example, int32_t *inputs, int32_t *targets,
                int32_t *distances);

#endif
