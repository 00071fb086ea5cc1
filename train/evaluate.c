// Sums run over sequences and positions in order, in double, so the figures do not depend on threads.
#include "train/evaluate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct Buffers {
    int32_t *inputs, *targets;
    real *losses;
    unsigned char *correct;
} Buffers;

static bool buffers_create(Buffers *buffers, size_t count, Error *error) {
    *buffers = (Buffers){malloc(count * sizeof(int32_t)), malloc(count * sizeof(int32_t)), malloc(count * sizeof(real)),
                         malloc(count)};
    if (buffers->inputs && buffers->targets && buffers->losses && buffers->correct) return true;
    return error_set(error, ERROR_MEMORY, "Out of memory for the held-out batch.");
}

static void buffers_destroy(Buffers *buffers) {
    free(buffers->inputs);
    free(buffers->targets);
    free(buffers->losses);
    free(buffers->correct);
}

size_t evaluation_bucket_start(size_t bucket) { return bucket == 0 ? 0 : (size_t)1 << (bucket - 1); }

static size_t bucket_of(size_t position) {
    size_t bucket = 0;
    while (evaluation_bucket_start(bucket + 1) <= position) bucket++;
    return bucket;
}

static void add_batch(Evaluation *evaluation, const Buffers *buffers, const int32_t *distances, size_t batch,
                      size_t tokens) {
    for (size_t row = 0; row < batch; row++)
        for (size_t t = 0; t < tokens; t++) {
            size_t i = row * tokens + t, bucket = bucket_of(t);
            if (buffers->targets[i] < 0) continue;
            evaluation->bucket_loss[bucket] += (double)buffers->losses[i];
            evaluation->bucket_accuracy[bucket] += buffers->correct[i];
            evaluation->bucket_targets[bucket]++;
            if (!distances) continue;
            size_t far = bucket_of((size_t)distances[i]);
            evaluation->distance_loss[far] += (double)buffers->losses[i];
            evaluation->distance_accuracy[far] += buffers->correct[i];
            evaluation->distance_targets[far]++;
            if (far >= evaluation->distances) evaluation->distances = far + 1;
        }
}

static void divide(double *loss, double *accuracy, const uint64_t *targets, size_t buckets) {
    for (size_t b = 0; b < buckets; b++) {
        if (!targets[b]) continue;
        loss[b] /= (double)targets[b];
        accuracy[b] /= (double)targets[b];
    }
}

static void sum_up(Evaluation *evaluation) {
    for (size_t b = 0; b < evaluation->buckets; b++) {
        evaluation->loss += evaluation->bucket_loss[b];
        evaluation->accuracy += evaluation->bucket_accuracy[b];
        evaluation->targets += evaluation->bucket_targets[b];
    }
    divide(evaluation->bucket_loss, evaluation->bucket_accuracy, evaluation->bucket_targets, evaluation->buckets);
    divide(evaluation->distance_loss, evaluation->distance_accuracy, evaluation->distance_targets,
           evaluation->distances);
    if (!evaluation->targets) return;
    evaluation->loss /= (double)evaluation->targets;
    evaluation->accuracy /= (double)evaluation->targets;
}

uint64_t evaluation_sequences(const Batches *held_out, uint64_t wanted) {
    const uint64_t there = batches_windows(held_out);
    return wanted && wanted < there ? wanted : there;
}

bool evaluate(Model *model, Batches *held_out, uint64_t sequences, const volatile sig_atomic_t *stop,
              Evaluation *evaluation, Error *error) {
    size_t batch = model_settings(model)->batch, tokens = model_settings(model)->config.tokens;
    uint64_t windows = evaluation_sequences(held_out, sequences), served = 0;
    *evaluation = (Evaluation){.buckets = bucket_of(tokens - 1) + 1};
    if (windows == 0)
        return error_set(error, ERROR_USER, "The held-out data are shorter than one context of %zu tokens.", tokens);
    Buffers buffers;
    bool fine = buffers_create(&buffers, batch * tokens, error);
    batches_seek(held_out, (DataPosition){0});
    model_enable_report(model, MODEL_REPORT_NONE); // a logged step's certificates would be made for every batch here
    while (fine && served < windows) {
        if (stop && *stop) {
            evaluation->stopped = true;
            break;
        }
        fine = batches_next(held_out, buffers.inputs, buffers.targets, error);
        if (!fine) break;
        // The last batch may run over, also into the next pass: those sequences do not count.
        for (size_t row = 0; row < batch; row++)
            if (served + row >= windows) memset(buffers.targets + row * tokens, 0xff, tokens * sizeof(int32_t));
        model_step(model, buffers.inputs, buffers.targets, 0, buffers.losses, buffers.correct);
        add_batch(evaluation, &buffers, batches_distances(held_out), batch, tokens);
        served += batch;
    }
    buffers_destroy(&buffers);
    sum_up(evaluation);
    return fine;
}

double bits_per_byte(double loss, const PrepareResult *meta) {
    if (!meta->val_bytes || meta->lossy_bytes) return 0; // bytes that no token stands for would flatter the model
    return loss / M_LN2 * (double)meta->val_tokens / (double)meta->val_bytes;
}
