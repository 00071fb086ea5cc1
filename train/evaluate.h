// Held-out figures of a model: mean loss, accuracy, and both by position in the context and by distance.
#ifndef ROPE_TRAIN_EVALUATE_H
#define ROPE_TRAIN_EVALUATE_H

#include <jansson.h>
#include <signal.h>

#include "model/model.h"
#include "train/batches.h"

enum { EVALUATION_BUCKETS = 40 };

typedef struct Evaluation {
    double loss;     // nats per counted target
    double accuracy; // share of counted targets that are the largest logit, the first of equal ones
    uint64_t targets;
    // Positions [2^(b-1), 2^b) in bucket b; position 0 in bucket 0.
    size_t buckets;
    double bucket_loss[EVALUATION_BUCKETS], bucket_accuracy[EVALUATION_BUCKETS];
    uint64_t bucket_targets[EVALUATION_BUCKETS];
    // The same buckets of the distance to what a task's target asks for; none for text.
    size_t distances;
    double distance_loss[EVALUATION_BUCKETS], distance_accuracy[EVALUATION_BUCKETS];
    uint64_t distance_targets[EVALUATION_BUCKETS];
    bool stopped; // *stop was raised before the end: the figures cover less
} Evaluation;

// How many sequences an evaluation of so many (0: all) is made of: no more than there are.
uint64_t evaluation_sequences(const Batches *held_out, uint64_t wanted);
// Runs over the first `sequences` of the held-out data (0: all), each once; attention reports nothing from here on. Fails
// on read errors.
bool evaluate(Model *model, Batches *held_out, uint64_t sequences, const volatile sig_atomic_t *stop,
              Evaluation *evaluation, Error *error);
// First position of a bucket.
size_t evaluation_bucket_start(size_t bucket);
// nats per token to bits per byte of the text, by the counts of meta.json; 0 if those are unknown.
double bits_per_byte(double loss, const PrepareResult *meta);

#endif
