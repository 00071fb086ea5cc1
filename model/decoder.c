// Decoding one sequence: each token goes through all layers alone, attention keeps its own state per layer. Every
// product is a matrix times one vector, so a token costs one reading of the weights.
#include <stdlib.h>
#include <string.h>

#include "model/internal.h"
#include "model/layer_kernels.h"

struct Decoder {
    const Model *model;
    Arena arena;
    size_t position;
    const real *previous; // embedding of the last token (token shift); NULL at the start
    real *x;              // (W) residual stream
    real *sum;            // (W) the next one
    real *normed;         // (W)
    real *qkv;            // (qkv width)
    real *heads_out;      // (H·E)
    real *delta;          // (W)
    real *gate_up;        // (2F)
    real *ffn;            // (F)
    real *logits;         // (V)
    void *scratch;        // attention's
    void *states[MODEL_MAX_LAYERS];
};

// A decoder owns its scratch, so that several may decode from one model, and while it trains between steps.
static void lay_out(Decoder *decoder, const Model *model, Arena *arena) {
    const ModelConfig *config = &model->settings.config;
    decoder->x = ARENA_TAKE(arena, real, config->width);
    decoder->sum = ARENA_TAKE(arena, real, config->width);
    decoder->normed = ARENA_TAKE(arena, real, config->width);
    decoder->qkv = ARENA_TAKE(arena, real, model->qkv_width);
    decoder->heads_out = ARENA_TAKE(arena, real, model->heads_width);
    decoder->delta = ARENA_TAKE(arena, real, config->width);
    decoder->gate_up = ARENA_TAKE(arena, real, 2 * config->ffn);
    decoder->ffn = ARENA_TAKE(arena, real, config->ffn);
    decoder->logits = ARENA_TAKE(arena, real, config->vocabulary);
    decoder->scratch = arena_take(arena, model->attention_scratch, 1);
    for (size_t layer = 0; layer < config->layers; layer++)
        decoder->states[layer] = arena_take(arena, attention_needs(model->plans[layer]).decode_bytes, 1);
}

size_t decoder_bytes(const Model *model) {
    Decoder decoder;
    Arena arena = arena_measure("decoder");
    lay_out(&decoder, model, &arena);
    return arena.overflowed ? SIZE_MAX : arena.peak;
}

Decoder *decoder_create(const Model *model, Error *error) {
    Decoder *decoder = calloc(1, sizeof *decoder);
    if (!decoder) {
        error_set(error, ERROR_MEMORY, "Out of memory for a decoder.");
        return NULL;
    }
    decoder->model = model;
    if (!arena_create(&decoder->arena, "decoder", decoder_bytes(model), error)) {
        decoder_destroy(decoder);
        return NULL;
    }
    lay_out(decoder, model, &decoder->arena);
    decoder_reset(decoder);
    return decoder;
}

void decoder_destroy(Decoder *decoder) {
    if (!decoder) return;
    arena_destroy(&decoder->arena);
    free(decoder);
}

void decoder_reset(Decoder *decoder) {
    const Model *model = decoder->model;
    decoder->position = 0;
    decoder->previous = NULL;
    for (size_t layer = 0; layer < model->settings.config.layers; layer++)
        attention_decode_begin(model->plans[layer], decoder->states[layer]);
}

size_t decoder_position(const Decoder *decoder) { return decoder->position; }

// Below this many weights a product is over before other threads have woken up.
enum { PARALLEL_WEIGHTS = 1 << 17, VECTOR_ROWS = 32 };

void matrix_vector_parallel(real *out, const real *matrix, const real *x, size_t rows, size_t columns) {
    const LayerKernels *kernels = layer_kernels();
    const size_t blocks = (rows + VECTOR_ROWS - 1) / VECTOR_ROWS;
#pragma omp parallel for schedule(static) if (rows * columns >= PARALLEL_WEIGHTS)
    for (size_t block = 0; block < blocks; block++) {
        size_t first = block * VECTOR_ROWS, left = rows - first;
        kernels->matrix_vector(out + first, matrix + first * columns, x, left < VECTOR_ROWS ? left : VECTOR_ROWS,
                               columns);
    }
}

static void multiply(const Decoder *decoder, TensorRole role, int layer, real *out, const real *x) {
    const Tensor *tensor = tensor_of(&decoder->model->table, role, layer);
    matrix_vector_parallel(out, decoder->model->parameters + tensor->offset, x, tensor->rows, tensor->columns);
}

// normed = norm(x + delta), and x += delta
static void norm(Decoder *decoder, TensorRole role, int layer, const real *delta) {
    const ModelConfig *config = &decoder->model->settings.config;
    layer_kernels()->rms_norm(decoder->normed, decoder->sum, decoder->x, delta,
                              model_weight(decoder->model, role, layer), 1, config->width, (real)config->norm_epsilon);
    if (!delta) return;
    real *sum = decoder->sum;
    decoder->sum = decoder->x;
    decoder->x = sum;
}

static void head_norm(const Decoder *decoder, TensorRole role, int layer, real *heads, size_t count) {
    const ModelConfig *config = &decoder->model->settings.config;
    layer_kernels()->head_norm(heads, heads, model_weight(decoder->model, role, layer), 1, 0, count, config->qk_size,
                               (real)config->norm_epsilon);
}

// The half layers leave in delta what is to be added to x.
static void attend(Decoder *decoder, int layer) {
    const Model *model = decoder->model;
    const ModelConfig *config = &model->settings.config;
    real *q = decoder->qkv, *k = q + model->query_width, *v = k + model->key_width;
    multiply(decoder, TENSOR_QUERY, layer, q, decoder->normed);
    multiply(decoder, TENSOR_KEY, layer, k, decoder->normed);
    multiply(decoder, TENSOR_VALUE, layer, v, decoder->normed);
    if (config->qk_norm) {
        head_norm(decoder, TENSOR_QUERY_NORM, layer, q, config->heads);
        head_norm(decoder, TENSOR_KEY_NORM, layer, k, config->kv_heads);
    }
    attention_decode(model->plans[layer], decoder->states[layer], decoder->heads_out, q, k, v, decoder->position,
                     decoder->scratch);
    multiply(decoder, TENSOR_ATTENTION_OUTPUT, layer, decoder->delta, decoder->heads_out);
}

static void feed_forward(Decoder *decoder, int layer) {
    const size_t ffn = decoder->model->settings.config.ffn;
    multiply(decoder, TENSOR_GATE, layer, decoder->gate_up, decoder->normed);
    multiply(decoder, TENSOR_UP, layer, decoder->gate_up + ffn, decoder->normed);
    layer_kernels()->swiglu(decoder->ffn, decoder->gate_up, 1, ffn);
    multiply(decoder, TENSOR_DOWN, layer, decoder->delta, decoder->ffn);
}

static void embed(Decoder *decoder, int32_t token) {
    const Model *model = decoder->model;
    const size_t width = model->settings.config.width;
    const real *embedding = model_weight(model, TENSOR_EMBEDDING, -1) + (size_t)token * width;
    const real *mix = model_weight(model, TENSOR_SHIFT, -1);
    if (mix)
        layer_kernels()->shift(decoder->x, embedding, decoder->previous, mix, width);
    else
        memcpy(decoder->x, embedding, width * sizeof(real));
    decoder->previous = embedding;
}

const real *decoder_feed(Decoder *decoder, int32_t token) {
    const ModelConfig *config = &decoder->model->settings.config;
    REQUIRE(token >= 0 && (size_t)token < config->vocabulary);
    embed(decoder, token);
    const real *delta = NULL;
    for (int layer = 0; layer < (int)config->layers; layer++) {
        norm(decoder, TENSOR_INPUT_NORM, layer, delta);
        attend(decoder, layer);
        norm(decoder, TENSOR_MIDDLE_NORM, layer, decoder->delta);
        feed_forward(decoder, layer);
        delta = decoder->delta;
    }
    norm(decoder, TENSOR_FINAL_NORM, -1, delta);
    multiply(decoder, model_output_role(decoder->model), -1, decoder->logits, decoder->normed);
    decoder->position++;
    return decoder->logits;
}
