// See plain_llama.h.
#include "tests/support/plain_llama.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/support/toy_model.h"

enum { LAYERS = LLAMA_LAYERS, TOKENS = LLAMA_TOKENS, VOCABULARY = VOCABULARY_PIECES };

// out (rows) = matrix (rows, columns) · in
static void multiply(double *out, const float *matrix, const double *in, size_t rows, size_t columns) {
    for (size_t r = 0; r < rows; r++) {
        out[r] = 0;
        for (size_t c = 0; c < columns; c++) out[r] += (double)matrix[r * columns + c] * in[c];
    }
}

static void norm(double *out, const double *in, const float *weight, size_t size, double epsilon) {
    double sum = 0;
    for (size_t i = 0; i < size; i++) sum += in[i] * in[i];
    const double scale = 1 / sqrt(sum / (double)size + epsilon);
    for (size_t i = 0; i < size; i++) out[i] = in[i] * scale * (double)weight[i];
}

// One head's vector, normed first if there is a norm.
static void rotate(const Llama *llama, double *head, const float *head_norm, size_t position) {
    const size_t size = llama->head_size;
    if (head_norm) norm(head, head, head_norm, size, llama->epsilon);
    for (size_t j = 0; j < size / 2; j++) {
        double *a = &head[llama->halves ? j : 2 * j], *b = &head[llama->halves ? j + size / 2 : 2 * j + 1];
        const double angle = (double)position * pow(llama->theta, -2.0 * (double)j / (double)size), x = *a, y = *b;
        *a = x * cos(angle) - y * sin(angle);
        *b = x * sin(angle) + y * cos(angle);
    }
}

enum { MOST = 512 }; // numbers of the widest activation

// out (heads·D) of the last of `count` positions
static void attend(const Llama *llama, double *out, const double *q, double (*k)[MOST], double (*v)[MOST],
                   size_t count) {
    const size_t size = llama->head_size, group = llama->heads / llama->kv_heads;
    for (size_t h = 0; h < llama->heads; h++) {
        double weight[TOKENS], sum = 0, *head = out + h * size;
        const size_t at = h / group * size;
        for (size_t t = 0; t < count; t++) {
            double logit = 0;
            for (size_t i = 0; i < size; i++) logit += q[h * size + i] * k[t][at + i];
            sum += weight[t] = exp(logit / sqrt((double)size));
        }
        for (size_t i = 0; i < size; i++) {
            head[i] = 0;
            for (size_t t = 0; t < count; t++) head[i] += weight[t] / sum * v[t][at + i];
        }
    }
}

// logits (count, vocabulary) =
static void forward(const Llama *llama, const int32_t *tokens, size_t count, double *logits) {
    static double k[LAYERS][TOKENS][MOST], v[LAYERS][TOKENS][MOST];
    double x[MOST], y[MOST], q[MOST], heads[MOST], gate[MOST], up[MOST];
    const size_t width = llama->width, size = llama->head_size;
    for (size_t t = 0; t < count; t++) {
        for (size_t i = 0; i < width; i++) x[i] = (double)llama->embedding[(size_t)tokens[t] * width + i];
        for (size_t l = 0; l < llama->layers; l++) {
            norm(y, x, llama->layer[l].norm, width, llama->epsilon);
            multiply(q, llama->layer[l].q, y, llama->heads * size, width);
            multiply(k[l][t], llama->layer[l].k, y, llama->kv_heads * size, width);
            multiply(v[l][t], llama->layer[l].v, y, llama->kv_heads * size, width);
            for (size_t h = 0; h < llama->heads; h++) rotate(llama, q + h * size, llama->layer[l].q_norm, t);
            for (size_t h = 0; h < llama->kv_heads; h++) rotate(llama, k[l][t] + h * size, llama->layer[l].k_norm, t);
            attend(llama, heads, q, k[l], v[l], t + 1);
            multiply(y, llama->layer[l].o, heads, width, llama->heads * size);
            for (size_t i = 0; i < width; i++) x[i] += y[i];
            norm(y, x, llama->layer[l].ffn_norm, width, llama->epsilon);
            multiply(gate, llama->layer[l].gate, y, llama->ffn, width);
            multiply(up, llama->layer[l].up, y, llama->ffn, width);
            for (size_t i = 0; i < llama->ffn; i++) gate[i] *= up[i] / (1 + exp(-gate[i]));
            multiply(y, llama->layer[l].down, gate, width, llama->ffn);
            for (size_t i = 0; i < width; i++) x[i] += y[i];
        }
        norm(y, x, llama->final_norm, width, llama->epsilon);
        multiply(logits + t * llama->vocabulary, llama->output, y, llama->vocabulary, width);
    }
}

void llama_check_logits(const char *what, Model *model, const Llama *llama, const size_t *place) {
    const size_t vocabulary = llama->vocabulary;
    int32_t tokens[TOKENS], targets[TOKENS], theirs[TOKENS];
    toy_batch(model_settings(model), 3, 0, tokens, targets);
    for (size_t t = 0; t < TOKENS; t++) theirs[t] = place ? (int32_t)place[tokens[t]] : tokens[t];
    model_step(model, tokens, targets, 0, NULL, NULL);
    double *expected = malloc(TOKENS * vocabulary * sizeof *expected), *ordered = malloc(vocabulary * sizeof *ordered);
    real *logits = guarded_new(vocabulary);
    assert_true(expected && ordered && vocabulary == model_settings(model)->config.vocabulary);
    forward(llama, theirs, TOKENS, expected);
    for (size_t t = 0; t < TOKENS; t++) {
        for (size_t i = 0; i < vocabulary; i++) ordered[i] = expected[t * vocabulary + (place ? place[i] : i)];
        model_logits(model, 0, t, logits);
        check_close(what, logits, ordered, vocabulary, 1e-4, 1e-5);
    }
    free(expected), free(ordered);
    guarded_free(logits);
}

// The newline stands before the bytes.
ExportVocabulary vocabulary_new(void) {
    static const char *const others[] = {SPACE, "a",         "b", SPACE "a", "\xC3\xA9",
                                         "ab",  SPACE SPACE, "c", "d",       SPACE "ab" SPACE};
    static ExportPiece pieces[VOCABULARY] = {{"<unk>", 0, EXPORT_UNKNOWN},
                                             {"<s>", 0, EXPORT_CONTROL},
                                             {"</s>", 0, EXPORT_CONTROL},
                                             {"\n", 0, EXPORT_USER_DEFINED}};
    static char bytes[256][8];
    for (size_t i = 0; i < 256; i++) {
        snprintf(bytes[i], sizeof bytes[i], "<0x%02X>", (unsigned)i);
        pieces[4 + i] = (ExportPiece){bytes[i], 0, EXPORT_BYTE};
    }
    for (size_t i = 260; i < VOCABULARY; i++)
        pieces[i] = (ExportPiece){others[i - 260], -(float)i / 8, i == 269 ? EXPORT_UNUSED : EXPORT_NORMAL};
    return (ExportVocabulary){.pieces = pieces, .bos = 1, .eos = 2, .unknown = 0};
}
