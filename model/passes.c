// The elementwise passes of a layer over all rows of a batch: each reads and writes its tensors once, in one parallel
// loop over fixed blocks of rows (N·W numbers; cost linear in T). A single block starts no threads.
#include <string.h>

#include "core/clock.h"
#include "model/internal.h"
#include "model/layer_kernels.h"

size_t row_blocks(const Model *model) { return (model->rows + ROW_BLOCK - 1) / ROW_BLOCK; }

static inline size_t rows_of_block(const Model *model, size_t block) {
    size_t left = model->rows - block * ROW_BLOCK;
    return left < ROW_BLOCK ? left : ROW_BLOCK;
}

static void count(const Model *model, double flops_per_number, double numbers_moved, size_t columns) {
    double numbers = (double)model->rows * (double)columns;
    phase_count(flops_per_number * numbers, numbers_moved * numbers * sizeof(real));
}

void pass_norm(Model *model, TensorRole role, int layer, real *out, real *sum, const real *x, const real *delta) {
    const LayerKernels *kernels = layer_kernels();
    const real *weight = model_weight(model, role, layer);
    const size_t width = model->settings.config.width, blocks = row_blocks(model);
    const real epsilon = (real)model->settings.config.norm_epsilon;
#pragma omp parallel for schedule(static) if (blocks > 1)
    for (size_t block = 0; block < blocks; block++) {
        size_t at = block * ROW_BLOCK * width;
        kernels->rms_norm(out + at, delta ? sum + at : NULL, x + at, delta ? delta + at : NULL, weight,
                          rows_of_block(model, block), width, epsilon);
    }
    count(model, delta ? 5 : 4, delta ? 4 : 2, width);
}

void pass_norm_backward(Model *model, TensorRole role, int layer, real *dx, const real *dy, const real *x,
                        bool accumulate) {
    const LayerKernels *kernels = layer_kernels();
    const real *weight = model_weight(model, role, layer);
    const size_t width = model->settings.config.width, blocks = row_blocks(model);
    const real epsilon = (real)model->settings.config.norm_epsilon;
#pragma omp parallel for schedule(static) if (blocks > 1)
    for (size_t block = 0; block < blocks; block++) {
        size_t at = block * ROW_BLOCK * width;
        real *partial = model->partials + block * width;
        memset(partial, 0, width * sizeof(real));
        kernels->rms_norm_backward(dx + at, partial, dy + at, x + at, weight, rows_of_block(model, block), width,
                                   epsilon, accumulate);
    }
    kernels->add_partials(model_gradient(model, role, layer), model->partials, blocks, width);
    count(model, accumulate ? 13 : 12, accumulate ? 4 : 3, width);
}

void pass_head_norm(Model *model, int layer, real *out, const real *qkv) {
    const LayerKernels *kernels = layer_kernels();
    const ModelConfig *config = &model->settings.config;
    const real *query_weight = model_weight(model, TENSOR_QUERY_NORM, layer);
    const real *key_weight = model_weight(model, TENSOR_KEY_NORM, layer);
    const size_t stride = model->qkv_width, blocks = row_blocks(model);
    const real epsilon = (real)config->norm_epsilon;
#pragma omp parallel for schedule(static) if (blocks > 1)
    for (size_t block = 0; block < blocks; block++) {
        size_t at = block * ROW_BLOCK * stride, keys = at + model->query_width, rows = rows_of_block(model, block);
        kernels->head_norm(out + at, qkv + at, query_weight, rows, stride, config->heads, config->qk_size, epsilon);
        kernels->head_norm(out + keys, qkv + keys, key_weight, rows, stride, config->kv_heads, config->qk_size,
                           epsilon);
    }
    count(model, 4, 2, model->query_width + model->key_width);
}

void pass_head_norm_backward(Model *model, int layer, real *dqkv, const real *qkv) {
    const LayerKernels *kernels = layer_kernels();
    const ModelConfig *config = &model->settings.config;
    const real *query_weight = model_weight(model, TENSOR_QUERY_NORM, layer);
    const real *key_weight = model_weight(model, TENSOR_KEY_NORM, layer);
    const size_t stride = model->qkv_width, blocks = row_blocks(model), size = config->qk_size;
    const real epsilon = (real)config->norm_epsilon;
    real *key_partials = model->partials + blocks * size; // after those of the queries
#pragma omp parallel for schedule(static) if (blocks > 1)
    for (size_t block = 0; block < blocks; block++) {
        size_t at = block * ROW_BLOCK * stride, keys = at + model->query_width, rows = rows_of_block(model, block);
        memset(model->partials + block * size, 0, size * sizeof(real));
        memset(key_partials + block * size, 0, size * sizeof(real));
        kernels->head_norm_backward(dqkv + at, model->partials + block * size, qkv + at, query_weight, rows, stride,
                                    config->heads, size, epsilon);
        kernels->head_norm_backward(dqkv + keys, key_partials + block * size, qkv + keys, key_weight, rows, stride,
                                    config->kv_heads, size, epsilon);
    }
    kernels->add_partials(model_gradient(model, TENSOR_QUERY_NORM, layer), model->partials, blocks, size);
    kernels->add_partials(model_gradient(model, TENSOR_KEY_NORM, layer), key_partials, blocks, size);
    count(model, 12, 3, model->query_width + model->key_width);
}

void pass_swiglu(Model *model, real *out, const real *gate_up) {
    const LayerKernels *kernels = layer_kernels();
    const size_t ffn = model->settings.config.ffn, blocks = row_blocks(model);
#pragma omp parallel for schedule(static) if (blocks > 1)
    for (size_t block = 0; block < blocks; block++) {
        size_t at = block * ROW_BLOCK * ffn;
        kernels->swiglu(out + at, gate_up + 2 * at, rows_of_block(model, block), ffn);
    }
    count(model, 5, 3, ffn); // the exponential counted as one
}

void pass_swiglu_backward(Model *model, real *d_out, real *gate_up) {
    const LayerKernels *kernels = layer_kernels();
    const size_t ffn = model->settings.config.ffn, blocks = row_blocks(model);
#pragma omp parallel for schedule(static) if (blocks > 1)
    for (size_t block = 0; block < blocks; block++) {
        size_t at = block * ROW_BLOCK * ffn;
        kernels->swiglu_backward(d_out + at, gate_up + 2 * at, rows_of_block(model, block), ffn);
    }
    count(model, 12, 6, ffn);
}
