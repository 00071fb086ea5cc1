// Models in the formats of other programs: GGUF (llama.cpp and what reads its files) and llama2.c. Both rotate
// neighbours (2j, 2j+1) where Hugging Face, and so our checkpoints, rotates halves (j, j + D/2); rows of q and k are
// put in the order that makes it the same rotation. GGUF's qwen3 rotates halves too, and its rows stay where they are.
//
// Vocabularies come from above, as the model knows nothing of tokenizers.
#ifndef ROPE_MODEL_EXPORT_H
#define ROPE_MODEL_EXPORT_H

#include "model/model.h"

enum { EXPORT_NORMAL = 1, EXPORT_UNKNOWN, EXPORT_CONTROL, EXPORT_USER_DEFINED, EXPORT_UNUSED, EXPORT_BYTE };

typedef struct ExportPiece {
    const char *text; // UTF-8; spaces are U+2581, bytes <0xNN>
    float score;
    int type; // EXPORT_NORMAL, …: SentencePiece's and GGUF's numbers
} ExportPiece;

typedef struct ExportVocabulary {
    const ExportPiece *pieces; // (vocabulary of the model)
    int32_t bos, eos, unknown; // -1: none
    bool space_prefix;         // a space is put in front of every text
    bool bos_prefix;           // and bos, as the model was trained; GGUF alone says so, and run.c puts it there always
} ExportVocabulary;

// One GGUF file (version 3, F32) that appears whole or not at all. `name`: UTF-8, what the model is called. vocabulary
// NULL: the file has no tokenizer, only the vocabulary's size. The model is one that transformers can express, and so
// llama.cpp: checkpoint_inexpressible is NULL (REQUIREd).
bool export_gguf(const char *path, Model *model, const ExportVocabulary *vocabulary, const char *name, Error *error);

// NULL if llama2.c's run.c can run the model, which has constants where we have settings; else a sentence naming the
// setting in the way. vocabulary NULL: not looked at.
const char *export_llama2_inexpressible(const ModelSettings *settings, const ExportVocabulary *vocabulary);
// DIRECTORY/model.bin (version 0) and, unless vocabulary is NULL, DIRECTORY/tokenizer.bin; the directory exists. run.c
// spells a byte as token 3 + byte: where the pieces <0x00>, … are at other places, tokens are put in another order, in
// both files alike. The model is not inexpressible (REQUIREd).
bool export_llama2(const char *directory, Model *model, const ExportVocabulary *vocabulary, Error *error);

#endif
