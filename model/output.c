// The output matrix and cross-entropy together, in blocks of rows:
//
//     logits = X Wᵀ,  loss_i = log Σ_v exp(logits_iv) − logits_i,target
//     dlogits = w·(softmax(logits) − onehot(target)),  dX = dlogits W,  dW += dlogitsᵀ X
//
// One sweep: a block of logits is made, turned into its loss and, in place, into its gradient, and used for dX and dW
// while it is still in cache. N × V logits never exist. Cost 2·N·V·W forward, 4·N·V·W backward, where N counts the rows
// that have a target: tasks ask at a few positions only.
#include <string.h>

#include "core/blas.h"
#include "core/clock.h"
#include "core/threads.h"
#include "model/internal.h"
#include "model/layer_kernels.h"

enum { PARALLEL_LOGITS = 1 << 14 }; // fewer are done before other threads have woken up

// Rows of the batch that make one block of logits.
typedef struct Block {
    const size_t *asked; // which they are
    size_t rows;
    const real *x;       // (rows,W)
    real *dx;            // (rows,W)
    bool packed;         // x and dx are copies
} Block;

// Lists the rows that have a target; the others' loss, hit and (d_normed not NULL) gradient are zero.
static size_t find_asked(const Model *model, OutputScratch scratch, const int32_t *targets, real *d_normed) {
    const size_t width = model->settings.config.width;
    size_t count = 0;
    for (size_t row = 0; row < model->rows; row++) {
        if (targets[row] >= 0) {
            scratch.asked[count++] = row;
            continue;
        }
        scratch.losses[row] = 0;
        scratch.hits[row] = 0;
        if (d_normed) memset(d_normed + row * width, 0, width * sizeof(real));
    }
    return count;
}

static Block load_block(const Model *model, OutputScratch scratch, const size_t *asked, size_t rows, real *d_normed) {
    const size_t width = model->settings.config.width, first = asked[0];
    Block block = {asked, rows, scratch.packed, scratch.d_packed, asked[rows - 1] - first != rows - 1};
    if (!block.packed) {
        block.x = model->last_normed + first * width;
        block.dx = d_normed ? d_normed + first * width : NULL;
        return block;
    }
    for (size_t i = 0; i < rows; i++)
        memcpy(scratch.packed + i * width, model->last_normed + asked[i] * width, width * sizeof(real));
    return block;
}

// losses, hits and, with a weight, logits (rows,V) in place, of one block.
static void cross_entropy_block(const Model *model, OutputScratch scratch, Block block, const int32_t *targets,
                                real gradient_weight) {
    const LayerKernels *kernels = layer_kernels();
    const size_t vocabulary = model->settings.config.vocabulary;
#pragma omp parallel for schedule(static) if (block.rows * vocabulary >= PARALLEL_LOGITS)
    for (size_t i = 0; i < block.rows; i++) {
        const size_t row = block.asked[i];
        scratch.losses[row] = kernels->cross_entropy(scratch.logits + i * vocabulary, vocabulary, (size_t)targets[row],
                                                     gradient_weight, &scratch.hits[row]);
    }
}

double output_loss(Model *model, real *d_normed, const int32_t *targets, double gradient_weight, real *position_loss,
                   unsigned char *correct) {
    const size_t vocabulary = model->settings.config.vocabulary, width = model->settings.config.width;
    const TensorRole role = model_output_role(model);
    const real *weight = model_weight(model, role, -1);
    size_t mark = arena_mark(&model->scratch_arena);
    OutputScratch scratch = output_scratch_take(model, &model->scratch_arena);

    const size_t asked = find_asked(model, scratch, targets, gradient_weight != 0 ? d_normed : NULL);
    for (size_t first = 0; first < asked; first += model->logit_rows) {
        const size_t rows = asked - first < model->logit_rows ? asked - first : model->logit_rows;
        const Block block = load_block(model, scratch, scratch.asked + first, rows, d_normed);
        gemm_parallel(false, true, rows, vocabulary, width, 1, block.x, width, weight, width, 0, scratch.logits,
                      vocabulary);
        const ModelView logits = {"logits", -1, scratch.logits, rows, vocabulary, vocabulary, sizeof(real), NULL};
        show(model, logits);
        cross_entropy_block(model, scratch, block, targets, (real)gradient_weight);
        if (gradient_weight == 0) continue;
        ModelView d_logits = logits;
        d_logits.name = "d_logits";
        show(model, d_logits);
        gemm_parallel(false, false, rows, width, vocabulary, 1, scratch.logits, vocabulary, weight, width, 0, block.dx,
                      width);
        gemm_parallel(true, false, vocabulary, width, rows, 1, scratch.logits, vocabulary, block.x, width, 1,
                      model_gradient(model, role, -1), width);
        for (size_t i = 0; block.packed && i < rows; i++)
            memcpy(d_normed + block.asked[i] * width, block.dx + i * width, width * sizeof(real));
    }
    show(model, (ModelView){"losses", -1, scratch.losses, model->rows, 1, 1, sizeof(double), NULL});
    double loss = sum_pairwise(scratch.losses, model->rows);
    if (position_loss)
        for (size_t row = 0; row < model->rows; row++) position_loss[row] = (real)scratch.losses[row];
    if (correct) memcpy(correct, scratch.hits, model->rows);
    arena_release(&model->scratch_arena, mark);

    // least traffic: X, W and their gradients once; the logits stay in cache
    double products = gradient_weight != 0 ? 3 : 1;
    double rows = (double)asked, v = (double)vocabulary, w = (double)width;
    phase_count(products * 2 * rows * v * w + 4 * rows * v,
                sizeof(real) * (gradient_weight != 0 ? 2 * rows * w + 3 * v * w : rows * w + v * w));
    return loss;
}
