// The shape of a model: the [model] section of the configuration and the numbers of config.json.
#ifndef ROPE_MODEL_CONFIG_H
#define ROPE_MODEL_CONFIG_H

#include "attention/attention.h"

enum { MODEL_MAX_LAYERS = 256 };

typedef struct ModelConfig {
    size_t vocabulary, layers, width, heads, kv_heads, qk_size, v_size, ffn;
    size_t tokens;       // context length T
    double rope_theta, norm_epsilon;
    bool tie;            // output matrix = embedding
    bool qk_norm;        // RMSNorm per head on q and k, before the rotation (Qwen3)
    bool token_shift;    // mixes the previous token's embedding in
} ModelConfig;

#endif
