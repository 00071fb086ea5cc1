// The output matrix and cross-entropy together, in blocks of rows:
//
//     logits = X Wᵀ,  loss_i = log Σ_v exp(logits_iv) − logits_i,target
//     dlogits = w·(softmax(logits) − onehot(target)),  dX = dlogits W,  dW += dlogitsᵀ X
//
// One sweep: a block of logits is made, turned into its loss and, in place, into its gradient, and used for dX and dW
// while it is still in cache. N × V logits never exist. Cost 2·N·V·W forward, 4·N·V·W backward.
#include <string.h>

#include "core/blas.h"
#include "core/clock.h"
#include "core/threads.h"
#include "model/internal.h"
#include "model/layer_kernels.h"

enum { PARALLEL_LOGITS = 1 << 14 }; // fewer are done before other threads have woken up

typedef struct Block {
    size_t first, rows; // of the batch
} Block;

// losses, hits and, with a weight, logits (rows,V) in place, of one block.
static void cross_entropy_block(const Model *model, OutputScratch scratch, Block block, const int32_t *targets,
                                real gradient_weight) {
    const LayerKernels *kernels = layer_kernels();
    const size_t vocabulary = model->settings.config.vocabulary;
#pragma omp parallel for schedule(static) if (block.rows * vocabulary >= PARALLEL_LOGITS)
    for (size_t i = 0; i < block.rows; i++) {
        size_t row = block.first + i;
        real *logits = scratch.logits + i * vocabulary;
        if (targets[row] >= 0) {
            scratch.losses[row] = kernels->cross_entropy(logits, vocabulary, (size_t)targets[row], gradient_weight,
                                                         &scratch.hits[row]);
        } else {
            scratch.losses[row] = 0;
            scratch.hits[row] = 0;
            if (gradient_weight != 0) memset(logits, 0, vocabulary * sizeof(real));
        }
    }
}

double output_loss(Model *model, real *d_normed, const int32_t *targets, double gradient_weight, real *position_loss,
                   unsigned char *correct) {
    const size_t vocabulary = model->settings.config.vocabulary, width = model->settings.config.width;
    const TensorRole role = model_output_role(model);
    const real *weight = model_weight(model, role, -1);
    size_t mark = arena_mark(&model->scratch_arena);
    OutputScratch scratch = output_scratch_take(model, &model->scratch_arena);

    for (size_t first = 0; first < model->rows; first += model->logit_rows) {
        size_t left = model->rows - first;
        Block block = {first, left < model->logit_rows ? left : model->logit_rows};
        const real *x = model->last_normed + first * width;
        gemm_parallel(false, true, block.rows, vocabulary, width, 1, x, width, weight, width, 0, scratch.logits,
                      vocabulary);
        cross_entropy_block(model, scratch, block, targets, (real)gradient_weight);
        if (gradient_weight == 0) continue;
        gemm_parallel(false, false, block.rows, width, vocabulary, 1, scratch.logits, vocabulary, weight, width, 0,
                      d_normed + first * width, width);
        gemm_parallel(true, false, vocabulary, width, block.rows, 1, scratch.logits, vocabulary, x, width, 1,
                      model_gradient(model, role, -1), width);
    }
    double loss = sum_pairwise(scratch.losses, model->rows);
    if (position_loss)
        for (size_t row = 0; row < model->rows; row++) position_loss[row] = (real)scratch.losses[row];
    if (correct) memcpy(correct, scratch.hits, model->rows);
    arena_release(&model->scratch_arena, mark);

    // least traffic: X, W and their gradients once; the logits stay in cache
    double products = gradient_weight != 0 ? 3 : 1;
    double rows = (double)model->rows, v = (double)vocabulary, w = (double)width;
    phase_count(products * 2 * rows * v * w + 4 * rows * v,
                sizeof(real) * (gradient_weight != 0 ? 2 * rows * w + 3 * v * w : rows * w + v * w));
    return loss;
}
