// A plain Llama in double precision, for models in other programs' formats: those rotate neighbours, or halves, as they
// say. It shares no code with the model. And a vocabulary such as `rope prepare` makes.
#ifndef ROPE_TESTS_PLAIN_LLAMA_H
#define ROPE_TESTS_PLAIN_LLAMA_H

#include <stdbool.h>
#include <stddef.h>

#include "model/export.h"
#include "model/model.h"

enum { LLAMA_LAYERS = 2, LLAMA_TOKENS = 8 };

typedef struct Llama {
    size_t width, ffn, layers, heads, kv_heads, head_size, vocabulary, tokens;
    double theta, epsilon;
    bool halves; // rotates (j, j + D/2) instead of (2j, 2j + 1)
    const float *embedding, *final_norm, *output;
    struct {
        const float *norm, *q, *k, *v, *o, *ffn_norm, *gate, *up, *down, *q_norm, *k_norm; // the last two: NULL
    } layer[LLAMA_LAYERS];
} Llama;

// A batch through both: the logits agree. The model's token i is token place[i] of the Llama; NULL: the same.
void llama_check_logits(const char *what, Model *model, const Llama *llama, const size_t *place);

#define SPACE "\xE2\x96\x81"      // how SentencePiece spells it
enum { VOCABULARY_PIECES = 270 }; // <unk>, <s>, </s>, a newline, 256 bytes, others

// Its pieces are the same array each time, made anew.
ExportVocabulary vocabulary_new(void);

#endif
