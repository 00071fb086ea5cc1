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
    bool token_shift;    // mixes the previous token's embedding in: x_t = e_t + mix ⊙ (e_{t-1} - e_t), mix learned
} ModelConfig;

// ERROR_USER naming the setting that makes no sense: a size of 0 or one that BLAS cannot index (2³¹), heads not a
// multiple of kv_heads, an odd qk_size, a base or epsilon that is not positive.
bool model_config_check(const ModelConfig *config, Error *error);

#endif
