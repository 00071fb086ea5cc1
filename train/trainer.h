// A model being trained: weights, moments, data, and the few numbers that say where it is. One step at a time; what
// happens between steps (metrics, checkpoints, signals) is train.c's.
#ifndef ROPE_TRAIN_TRAINER_H
#define ROPE_TRAIN_TRAINER_H

#include "train/batches.h"
#include "train/evaluate.h"

// Everything but weights and moments that a run needs to go on bit for bit. Saved in state.json.
typedef struct RunState {
    uint64_t step;    // steps done, skipped ones included
    uint64_t updates; // steps that changed the weights
    uint64_t tokens;  // tokens read
    uint64_t skipped; // steps without an update, because loss or gradient was not finite
    uint64_t skipped_in_row;
    uint64_t fell_back; // heads × batch rows that ran the exact far field, all steps
    DataPosition data;
    uint64_t data_checksum; // batches_checksum of the training data; 0: unknown
    double loss_sum;        // of the steps since the last line of metrics
    uint64_t loss_count;
    double best_loss; // held-out; meaningful if best_step > 0
    uint64_t best_step;
    uint32_t judged_by; // trainer_judge of best_loss; 0: unknown
    bool eval_due; // the held-out evaluation of `step` is still to be done
} RunState;

typedef struct StepResult {
    double loss, gradient_norm, learning_rate;
    size_t targets; // that counted
    bool skipped;
} StepResult;

// What attention reported in a step, over layers and heads. Zero for exact attention.
typedef struct AttentionSummary {
    bool present;
    double logit_bound;                                // largest
    double output_bound, dq_bound, dk_bound, dv_bound; // largest certificates; zero at steps that are not logged
    double clipped;                                    // mean share
    double fell_back;                                  // sum
} AttentionSummary;

typedef struct Trainer {
    const Config *config; // outlives the trainer
    Model *model;
    Optim *optim;
    Batches *train, *held_out;
    PrepareResult meta; // of the data; zero if there is no meta.json
    Schedule schedule;
    bool reporting; // attention is not plain softmax: its certificates and clipping are in the metrics
    RunState state;
    AttentionReport *reports;  // (layers) of the last step, of all its batches together; method_used is not kept
    int32_t *inputs, *targets; // (accumulate, batch, tokens)
} Trainer;

// Initial weights from config->seed, moments zero, data at the start. The configuration must be resolved. Without
// held_out only the training data are opened.
bool trainer_create(Trainer *trainer, const Config *config, bool held_out, Error *error);
void trainer_destroy(Trainer *trainer);
// One update from accumulate × batch sequences: the gradient of the mean loss over all their targets. A loss, gradient
// norm or moment that is not finite leaves weights and moments as they were and is counted. Fails only on data.
bool trainer_step(Trainer *trainer, StepResult *result, Error *error);
AttentionSummary trainer_attention(const Trainer *trainer);
// Whether the step-th step (from 1) has a line in metrics.jsonl: every log_every-th and the last. Certificates are made
// then only: at 128 tokens they took a twentieth of a step.
bool trainer_logs(const Config *config, uint64_t step);
// True if every weight and moment is finite: what is saved over a good checkpoint must be.
bool trainer_finite(Trainer *trainer);
// Useful operations of a step with so many targets, where a batch needs `needs`: products and attention. What recompute
// runs again is no work done, and the output matrix is multiplied only by rows that have a target.
double trainer_step_flops(const Config *config, const ModelNeeds *needs, size_t targets);
// How many of the held-out sequences an evaluation is made of.
uint64_t trainer_held_out_sequences(const Trainer *trainer);
// Checksum of these sequences. Losses with the same one can be compared.
uint32_t trainer_judge(const Trainer *trainer);
// Whether the best loss so far is known to be of other sequences than these.
bool trainer_judge_differs(const Trainer *trainer);
// Bytes of the buffers that trainer_create takes besides model and moments.
size_t trainer_buffer_bytes(const Config *config);

#endif
