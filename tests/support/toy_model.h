// Models of a few hundred numbers for tests, with weights large enough that every part of them matters.
#ifndef ROPE_TESTS_SUPPORT_TOY_MODEL_H
#define ROPE_TESTS_SUPPORT_TOY_MODEL_H

#include <math.h>
#include <stdlib.h>

#include "model/model.h"
#include "tests/support/check.h"

// width 12, 2 layers, 4 heads of 6, values of 6, ffn 20 (240 weights: no padding, gate and up join), vocabulary 17
static inline ModelSettings toy_settings(size_t batch, size_t tokens) {
    ModelSettings settings = {
        .config = {.vocabulary = 17, .layers = 2, .width = 12, .heads = 4, .kv_heads = 4, .qk_size = 6, .v_size = 6,
                   .ffn = 20, .tokens = tokens, .rope_theta = 100, .norm_epsilon = 1e-5},
        .batch = batch,
        .training = true,
        .method_count = 1,
        .methods = {attention_method_find("exact")},
        .attention = attention_defaults(),
    };
    return settings;
}

// Prints the reason and fails the running test if the model cannot be made.
static inline Model *toy_create(const ModelSettings *settings) {
    Error error = {0};
    Model *model = model_create(settings, &error);
    if (!model) fail_msg("%s", error.message);
    return model;
}

// Matrices normal with deviation 0.35, vectors 1 or a ramp plus 0.2 of noise. Padding stays zero.
static inline void toy_fill(Model *model, uint64_t seed) {
    const TensorTable *table = model_tensors(model);
    model_initialise(model, seed);
    for (size_t i = 0; i < table->count; i++) {
        const Tensor *tensor = &table->tensors[i];
        real *values = model_parameters(model) + tensor->offset;
        for (size_t j = 0; j < tensor->rows * tensor->columns; j++) {
            double noise = random_normal((Random){seed, RANDOM_TEST, i}, j);
            values[j] = (real)(tensor->rank == 2 ? 0.35 * noise : values[j] + 0.2 * noise);
        }
    }
}

// tokens and targets (B,T); one target in `ignored_every` is -1 (0: none)
static inline void toy_batch(const ModelSettings *settings, uint64_t seed, size_t ignored_every, int32_t *tokens,
                             int32_t *targets) {
    for (size_t i = 0; i < settings->batch * settings->config.tokens; i++) {
        tokens[i] = (int32_t)random_below((Random){seed, RANDOM_TEST, 1000}, i, settings->config.vocabulary);
        targets[i] = (int32_t)random_below((Random){seed, RANDOM_TEST, 1001}, i, settings->config.vocabulary);
        if (ignored_every && i % ignored_every == ignored_every - 1) targets[i] = -1;
    }
}

#endif
