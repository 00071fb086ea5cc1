// What a model is made of. Private to model/: transformer.c, passes.c, embedding.c, output.c, decoder.c, model.c.
//
// N = B·T rows of a batch, W width, F ffn, V vocabulary.
#ifndef ROPE_MODEL_INTERNAL_H
#define ROPE_MODEL_INTERNAL_H

#include "model/model.h"

// What backward needs from one layer's forward, and nothing more: the inputs of the products (for the weights'
// gradients) and of the norms. The norms' outputs are kept although they could be made again from their inputs: they
// are 2 of about 13 rows of W, and forward has to write them anyway, so keeping them saves a pass over memory.
// Left out are the norms' scales (made again in the same pass), the normed q and k (qk_norm; one pass), and the SwiGLU
// output, which backward writes over its own gradient. settings.recompute keeps `input` alone.
typedef struct LayerActivations {
    real *input;          // (N,W) the residual stream before the layer
    real *input_normed;   // (N,W)
    real *qkv;            // (N,H·D+G·D+G·E)
    real *heads_out;      // (N,H·E)
    real *middle;         // (N,W) the residual stream after attention
    real *middle_normed;  // (N,W)
    real *gate_up;        // (N,2F); backward turns it into its gradient
    void *attention_saved;
} LayerActivations;

// Taken from the scratch arena while layers run.
typedef struct LayerScratch {
    real *wide;   // (N,max(F,H·E)): SwiGLU output; in backward its gradient, then the gradient of heads_out
    real *normed; // (N,qkv width), q and k after their norms, NULL without qk_norm
    real *dqkv;   // (N,qkv width), NULL unless training
    void *attention;
} LayerScratch;

// Taken while the output runs.
typedef struct OutputScratch {
    real *logits;        // (logit_rows,V)
    double *losses;      // (N)
    unsigned char *hits; // (N)
    size_t *asked;       // (N) rows that have a target, in order
    real *packed;        // (logit_rows,W): such rows side by side, where there are others between them
    real *d_packed;      // (logit_rows,W)
} OutputScratch;

// Taken while the embedding's gradient is added up.
typedef struct EmbeddingScratch {
    size_t *starts; // (V+1): where a token's rows start in `rows`
    size_t *rows;   // (N) rows of the batch, by token
} EmbeddingScratch;

struct Model {
    ModelSettings settings;
    TensorTable table;
    size_t rows;                                    // N
    size_t query_width, key_width, value_width;     // H·D, G·D, G·E
    size_t qkv_width, heads_width;                  // their sum; H·E
    size_t logit_rows;                              // rows of one block of logits
    AttentionPlan *plans[MODEL_MAX_LAYERS];         // layers with the same method share one
    size_t attention_scratch;                       // bytes, the largest of the plans

    Arena parameter_arena, gradient_arena, activation_arena, scratch_arena;
    real *parameters, *gradients;                   // (table.elements)
    LayerActivations layers[MODEL_MAX_LAYERS];
    real *last, *last_normed;                       // (N,W) the residual stream after all layers, and its norm
    AttentionReport *reports;                       // (layers)
    ModelReport report;
    ModelObserver observer;                         // NULL: none
    void *observer_context;
    real *delta;    // (N,W) what a half layer adds to the residual stream; in backward the gradient of a norm's output
    real *dx;       // (N,W) gradient of the residual stream
    real *partials; // (blocks of rows, max(W, 2D)) for gradients of vectors
};

static inline const real *model_weight(const Model *model, TensorRole role, int layer) {
    const Tensor *tensor = tensor_of(&model->table, role, layer);
    return tensor ? model->parameters + tensor->offset : NULL;
}
static inline real *model_gradient(const Model *model, TensorRole role, int layer) {
    const Tensor *tensor = tensor_of(&model->table, role, layer);
    return tensor ? model->gradients + tensor->offset : NULL;
}
// The output matrix (V,W): the embedding if tied.
static inline TensorRole model_output_role(const Model *model) {
    return model->settings.config.tie ? TENSOR_EMBEDDING : TENSOR_OUTPUT;
}

// Shows what has just been written to the observer, if there is one.
static inline void show(const Model *model, ModelView view) {
    if (model->observer) model->observer(model->observer_context, &view);
}

// model.c: scratch of a stage; the same calls measure it at create. Give back with arena_release.
LayerScratch layer_scratch_take(const Model *model, Arena *arena);
OutputScratch output_scratch_take(const Model *model, Arena *arena);
EmbeddingScratch embedding_scratch_take(const Model *model, Arena *arena);

// passes.c: the elementwise parts over all N rows. Rows are cut into blocks of ROW_BLOCK whatever the threads do;
// gradients of vectors are added up per block and then over blocks in order.
enum { ROW_BLOCK = 64 };
size_t row_blocks(const Model *model);
// sum (N,W) = x + delta, out (N,W) = norm of it by the weight `role` (delta NULL: of x, sum is not written)
void pass_norm(Model *model, TensorRole role, int layer, real *out, real *sum, const real *x, const real *delta);
// dx (N,W) = or +=; the weight's gradient +=
void pass_norm_backward(Model *model, TensorRole role, int layer, real *dx, const real *dy, const real *x,
                        bool accumulate);
// out (N,qkv width): q and k of qkv after their norms; the columns of v are left as they are
void pass_head_norm(Model *model, int layer, real *out, const real *qkv);
// dqkv (N,qkv width): q and k in place
void pass_head_norm_backward(Model *model, int layer, real *dqkv, const real *qkv);
void pass_swiglu(Model *model, real *out, const real *gate_up);
void pass_swiglu_backward(Model *model, real *d_out, real *gate_up); // both in place: see layer_kernels.h

// embedding.c: x (N,W) = embedding of the tokens, shifted if configured; backward adds to the embedding's gradient
// (and the shift's), in a fixed order.
void embedding_forward(Model *model, real *x, const int32_t *tokens);
void embedding_backward(Model *model, const real *dx, const int32_t *tokens);

// output.c: sum of the losses of last_normed (N,W) against targets. gradient_weight ≠ 0: also d_normed (N,W) =, and
// the output matrix's gradient +=.
double output_loss(Model *model, real *d_normed, const int32_t *targets, double gradient_weight, real *position_loss,
                   unsigned char *correct);

// out (rows) = matrix (rows,columns) · x, over all threads if it is worth it (decoder.c)
void matrix_vector_parallel(real *out, const real *matrix, const real *x, size_t rows, size_t columns);

#endif
