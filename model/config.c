// What a model's shape must satisfy before anything is computed from it. Sizes may come from files: nothing is trusted.
#include "model/config.h"

#include <math.h>

#include "core/arena.h"

// BLAS indexes with 32-bit integers, so no side of a matrix may reach 2³¹.
static bool check_size(const char *name, size_t value, Error *error) {
    if (value == 0) return error_set(error, ERROR_USER, "model.%s is 0; it must be at least 1.", name);
    if (value > INT32_MAX)
        return error_set(error, ERROR_USER, "model.%s = %zu is too large; the limit is %d.", name, value, INT32_MAX);
    return true;
}

static bool check_product(const char *name, size_t a, size_t b, Error *error) {
    size_t product;
    if (size_multiply(a, b, &product) && product <= INT32_MAX) return true;
    return error_set(error, ERROR_USER, "model.%s = %zu × %zu is too large; the limit is %d.", name, a, b, INT32_MAX);
}

bool model_config_check(const ModelConfig *config, Error *error) {
    const struct {
        const char *name;
        size_t value;
    } sizes[] = {{"vocabulary", config->vocabulary}, {"layers", config->layers},     {"width", config->width},
                 {"heads", config->heads},           {"kv_heads", config->kv_heads}, {"qk_size", config->qk_size},
                 {"v_size", config->v_size},         {"ffn", config->ffn},           {"tokens", config->tokens}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (!check_size(sizes[i].name, sizes[i].value, error)) return false;
    if (config->layers > MODEL_MAX_LAYERS)
        return error_set(error, ERROR_USER, "model.layers = %zu; the limit is %d.", config->layers, MODEL_MAX_LAYERS);
    if (config->heads % config->kv_heads != 0)
        return error_set(error, ERROR_USER, "model.heads = %zu is not a multiple of model.kv_heads = %zu.",
                         config->heads, config->kv_heads);
    if (config->qk_size % 2 != 0)
        return error_set(error, ERROR_USER, "model.qk_size = %zu is odd; the rotation turns pairs of dimensions.",
                         config->qk_size);
    // q, k and v share one matrix of at most heads·(2·qk_size + v_size) rows, gate and up one of 2·ffn
    if (!check_product("heads·(2·qk_size + v_size)", config->heads, 2 * config->qk_size + config->v_size, error) ||
        !check_product("ffn, with gate and up,", 2, config->ffn, error))
        return false;
    if (!(config->rope_theta > 0) || !isfinite(config->rope_theta))
        return error_set(error, ERROR_USER, "model.rope_theta = %g; it must be positive.", config->rope_theta);
    if (!(config->norm_epsilon > 0) || !isfinite(config->norm_epsilon))
        return error_set(error, ERROR_USER, "model.norm_epsilon = %g; it must be positive.", config->norm_epsilon);
    return true;
}
