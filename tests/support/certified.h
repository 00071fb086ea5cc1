// Certificates of a run beside its errors against the true exp in double precision.
#ifndef ROPE_TESTS_SUPPORT_CERTIFIED_H
#define ROPE_TESTS_SUPPORT_CERTIFIED_H

#include "tests/support/attention_reference.h"

typedef enum Quantity { OUTPUT, DQ, DK, DV, QUANTITIES } Quantity;
extern const char *const quantity_names[QUANTITIES];
enum { CERTIFIED_HEADS = 32 }; // at most

// Of each query head; dk and dv are those of its key/value head.
typedef struct Certified {
    double bound[QUANTITIES][CERTIFIED_HEADS]; // the certificates
    double error[QUANTITIES][CERTIFIED_HEADS]; // largest, against softmax with exp near and far; 0 unless measured
    double fell_back[CERTIFIED_HEADS], logit_bound[CERTIFIED_HEADS];
} Certified;

// Two query heads that share a key/value head, one batch row: E = 4, near 8, degree 2 for logits up to 1, all dimensions.
AttentionSettings certified_settings(size_t tokens, size_t qk_size);

// Forward and backward of one batch row, tokens without gaps between them; the second finds the errors too.
Certified certified_run(AttentionProblem *problem, const AttentionPlan *plan);
Certified certified_measure(AttentionProblem *problem, const AttentionPlan *plan);
// Fails where an error is above its certificate, with the name of the case. Heads that fell back have none for o and dq,
// groups that did as a whole none at all.
void certified_check(const char *tally, const char *case_name, const AttentionSettings *settings,
                     const Certified *certified);
// Measures and checks.
Certified certified_verify(const char *tally, const char *case_name, AttentionProblem *problem,
                           const AttentionPlan *plan);
// No certificate is NaN or negative, and none is finite of what is not. Returns how many there were of such numbers.
size_t certified_check_known(const char *case_name, const AttentionProblem *problem, const Certified *certified);

#endif
