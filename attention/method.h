// What a method's file implements: the same verbs for every method. Private to attention/.
#ifndef ROPE_ATTENTION_METHOD_H
#define ROPE_ATTENTION_METHOD_H

#include "attention/attention.h"

struct AttentionMethod {
    const char *name;
    const char *summary;
    // Settings are validated as far as all methods agree. Copies them into plan->settings, fills plan->needs; the rest
    // of AttentionPlan is filled in by attention_create.
    AttentionPlan *(*create)(const AttentionSettings *settings, Error *error);
    void (*forward)(const AttentionPlan *plan, const AttentionForward *io);
    void (*backward)(const AttentionPlan *plan, const AttentionBackward *io);
    void (*decode_begin)(const AttentionPlan *plan, void *state);
    void (*decode)(const AttentionPlan *plan, void *state, real *o, const real *q, const real *k, const real *v,
                   size_t position, void *scratch);
    void (*explain)(const AttentionPlan *plan, char *text, size_t size); // may be NULL
    void (*destroy)(AttentionPlan *plan);
};

// First member of every method's plan.
struct AttentionPlan {
    const AttentionMethod *method;
    AttentionSettings settings; // as create received them: s resolved, so that logit_scale > 0
    char *kernel;               // what settings.kernel points to; owned by attention_create and attention_destroy
    AttentionNeeds needs;
};

extern const AttentionMethod attention_exact;
extern const AttentionMethod attention_lowrank;
extern const AttentionMethod attention_toeplitz;
extern const AttentionMethod attention_auto;

// The position tables of a plan of `exact`, which lends them to plans that do not outlive it.
struct Position;
const struct Position *exact_position(const AttentionPlan *plan);

#endif
