// A decoder-only transformer: embedding, layers of (RMSNorm, attention, residual, RMSNorm, SwiGLU, residual), RMSNorm,
// output matrix, cross-entropy. Forward and backward by hand. The model never knows which attention method runs.
#ifndef ROPE_MODEL_MODEL_H
#define ROPE_MODEL_MODEL_H

#include "core/arena.h"
#include "core/random.h"
#include "model/config.h"
#include "model/tensors.h"

typedef struct Model Model;

// What the model takes, by arena, known before anything is allocated.
typedef struct ModelNeeds {
    size_t parameters;        // count of numbers
    size_t parameter_bytes, gradient_bytes, activation_bytes, scratch_bytes;
    size_t plan_bytes;        // held by attention's plans
    size_t decoder_bytes;     // of one decoder, not part of the model
    double forward_flops, backward_flops; // one batch of B·T tokens: 2 and 4 per weight and token, plus attention
    double useful_flops;                  // of both together, without what recompute runs again
    double row_output_flops;              // of all these: the output matrix for one row, which needs a target to be run
} ModelNeeds;

typedef struct ModelSettings {
    ModelConfig config;
    size_t batch;                           // B
    bool training;                          // false: no gradients, activations of one layer only
    bool recompute;                         // training keeps only each layer's input, and runs it again in backward:
                                            // (N,W) per layer instead of about 13 times that, for a quarter more time
    size_t method_count;                    // attention methods: one for all layers, or one for each
    const AttentionMethod *methods[MODEL_MAX_LAYERS];
    AttentionSettings attention;            // shape fields: model_attention_settings
} ModelSettings;

// settings->attention with the shape of settings->config, as every layer's plan gets it.
AttentionSettings model_attention_settings(const ModelSettings *settings);

// Sizes and validates without allocating tensors. ERROR_USER names the setting that makes no sense.
bool model_needs(const ModelSettings *settings, ModelNeeds *needs, Error *error);
Model *model_create(const ModelSettings *settings, Error *error);
void model_destroy(Model *model);

const ModelSettings *model_settings(const Model *model);
const TensorTable *model_tensors(const Model *model);
real *model_parameters(Model *model); // (P), laid out by the tensor table
real *model_gradients(Model *model);  // (P)
// Normal with deviation 0.02 (projections into the residual: 0.02/sqrt(2·layers)), norms 1; a function of seed alone,
// tensor by tensor, so that models which share a shape share weights.
void model_initialise(Model *model, uint64_t seed);

// One batch: tokens, targets (B,T), ids below the vocabulary (REQUIREd); target -1 is ignored. Returns the mean
// cross-entropy (nats per counted target) of this batch. If training and gradient_weight ≠ 0: *adds* gradient_weight ×
// d(Σ loss)/dparameter to the gradients, where the sum is over counted targets — so that accumulation with
// gradient_weight = 1 / (all targets of the step) equals one large batch.
// position_loss, if not NULL: (B,T) = loss of each target (0 where ignored). correct, if not NULL: (B,T) = 1 where the
// largest logit, the first of equal ones, is the target.
double model_step(Model *model, const int32_t *tokens, const int32_t *targets, double gradient_weight,
                  real *position_loss, unsigned char *correct);
void model_zero_gradients(Model *model);
// Number of counted targets (≠ -1).
size_t model_count_targets(const int32_t *targets, size_t count);
// Logits (B,T,V) of the last model_step's batch for one batch row and position: out (V) =. For tests and oracles.
void model_logits(const Model *model, size_t row, size_t position, real *out);

// What attention reports of every model_step: nothing; what it knows anyway (logit bound, clipped share, fallbacks); or
// certificates too, which take a few passes over v and do, and columns in the state.
typedef enum ModelReport { MODEL_REPORT_NONE, MODEL_REPORT_COUNTS, MODEL_REPORT_CERTIFICATES } ModelReport;
void model_enable_report(Model *model, ModelReport report);
// Of the last step, arrays over heads; zero where nothing was reported.
const AttentionReport *model_report(const Model *model, size_t layer);
const AttentionPlan *model_attention(const Model *model, size_t layer);

// What a pass of model_step has just written: (rows, columns) numbers, rows `stride` numbers apart.
typedef struct ModelView {
    const char *name; // as in LayerActivations, gradients with d_ in front
    int layer;        // -1: of no layer
    void *values;
    size_t rows, columns, stride;
    size_t size; // of a number in bytes: sizeof(real); sizeof(double) for losses; 1: what only the method can read
    const AttentionBackward *attention; // with the view of dv: all that went into attention_backward and came out
} ModelView;

// Shown every such view, in the order and on the thread of model_step: for those who compare methods on a model's own
// activations, and for tests, which may also write to it. NULL: none.
typedef void (*ModelObserver)(void *context, const ModelView *view);
void model_observe(Model *model, ModelObserver observer, void *context);

// Decoding one sequence token by token. The model must outlive its decoders and may train in between; a decoder owns
// its state and scratch. Feeding more tokens than config.tokens is for methods whose state is constant in length.
typedef struct Decoder Decoder;
Decoder *decoder_create(const Model *model, Error *error); // shares the model's parameters
size_t decoder_bytes(const Model *model);
void decoder_reset(Decoder *decoder);
// Logits (V) after feeding `token` at the next position; owned by the decoder, valid until the next call.
const real *decoder_feed(Decoder *decoder, int32_t token);
size_t decoder_position(const Decoder *decoder);
void decoder_destroy(Decoder *decoder);

#endif
