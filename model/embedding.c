// The token embedding and the token shift: x_t = e_t + mix ⊙ (e_{t-1} − e_t), where e_{-1} = 0 and mix (W) is learned,
// from 0 in the first channel to 1 in the last at the start: some channels see the token, some the one before it, and
// one layer of attention can match a token with what followed it (attention.md, section 7). Cost N·W.
#include <string.h>

#include "core/clock.h"
#include "model/internal.h"
#include "model/layer_kernels.h"

// Embedding of the token before row, NULL for the first of a sequence.
static const real *previous_embedding(const Model *model, const int32_t *tokens, size_t row, const real *embedding) {
    const ModelConfig *config = &model->settings.config;
    return row % config->tokens == 0 ? NULL : embedding + (size_t)tokens[row - 1] * config->width;
}

void embedding_forward(Model *model, real *x, const int32_t *tokens) {
    const LayerKernels *kernels = layer_kernels();
    const size_t width = model->settings.config.width, rows = model->rows;
    const real *embedding = model_weight(model, TENSOR_EMBEDDING, -1), *mix = model_weight(model, TENSOR_SHIFT, -1);
#pragma omp parallel for schedule(static) if (rows > ROW_BLOCK)
    for (size_t row = 0; row < rows; row++) {
        const real *current = embedding + (size_t)tokens[row] * width;
        if (mix)
            kernels->shift(x + row * width, current, previous_embedding(model, tokens, row, embedding), mix, width);
        else
            memcpy(x + row * width, current, width * sizeof(real));
    }
    double numbers = (double)rows * (double)width;
    phase_count(mix ? 3 * numbers : 0, (mix ? 3 : 2) * numbers * sizeof(real));
}

static void shift_gradient(Model *model, const real *dx, const int32_t *tokens) {
    const LayerKernels *kernels = layer_kernels();
    const size_t width = model->settings.config.width, blocks = row_blocks(model);
    const real *embedding = model_weight(model, TENSOR_EMBEDDING, -1);
#pragma omp parallel for schedule(static) if (blocks > 1)
    for (size_t block = 0; block < blocks; block++) {
        size_t end = (block + 1) * ROW_BLOCK < model->rows ? (block + 1) * ROW_BLOCK : model->rows;
        real *partial = model->partials + block * width;
        memset(partial, 0, width * sizeof(real));
        for (size_t row = block * ROW_BLOCK; row < end; row++)
            kernels->shift_backward_mix(partial, dx + row * width, embedding + (size_t)tokens[row] * width,
                                        previous_embedding(model, tokens, row, embedding), width);
    }
    kernels->add_partials(model_gradient(model, TENSOR_SHIFT, -1), model->partials, blocks, width);
}

// Rows of the batch sorted by token, in order within a token (counting sort).
static void sort_rows(const Model *model, EmbeddingScratch sorted, const int32_t *tokens) {
    size_t vocabulary = model->settings.config.vocabulary, next = 0;
    memset(sorted.starts, 0, (vocabulary + 1) * sizeof *sorted.starts);
    for (size_t row = 0; row < model->rows; row++) sorted.starts[tokens[row]]++;
    for (size_t token = 0; token <= vocabulary; token++) {
        size_t count = sorted.starts[token];
        sorted.starts[token] = next;
        next += count;
    }
    // filling moves every start to its end, which is the next token's start
    for (size_t row = 0; row < model->rows; row++) sorted.rows[sorted.starts[tokens[row]]++] = row;
}

void embedding_backward(Model *model, const real *dx, const int32_t *tokens) {
    const LayerKernels *kernels = layer_kernels();
    const size_t width = model->settings.config.width, context = model->settings.config.tokens;
    const size_t vocabulary = model->settings.config.vocabulary;
    const real *mix = model_weight(model, TENSOR_SHIFT, -1);
    real *gradient = model_gradient(model, TENSOR_EMBEDDING, -1);
    if (mix) shift_gradient(model, dx, tokens);

    size_t mark = arena_mark(&model->scratch_arena);
    EmbeddingScratch sorted = embedding_scratch_take(model, &model->scratch_arena);
    sort_rows(model, sorted, tokens);
    // each row of the gradient is written by one thread, its terms in the order of the batch
#pragma omp parallel for schedule(dynamic, 16) if (model->rows > ROW_BLOCK)
    for (size_t token = 0; token < vocabulary; token++) {
        size_t start = token ? sorted.starts[token - 1] : 0;
        for (size_t i = start; i < sorted.starts[token]; i++) {
            size_t row = sorted.rows[i];
            const real *next = mix && (row + 1) % context != 0 ? dx + (row + 1) * width : NULL;
            kernels->shift_backward(gradient + token * width, dx + row * width, next, mix, width);
        }
    }
    arena_release(&model->scratch_arena, mark);
    double numbers = (double)model->rows * (double)width;
    phase_count((mix ? 7 : 1) * numbers, (mix ? 6 : 3) * numbers * sizeof(real));
}
