// SentencePiece behind a C API. Only tokenizer*.cc see C++; no exception crosses this border. Model files are trusted
// input (SentencePiece before 0.2.1 can be made to corrupt memory by a hostile one: CVE-2026-1260).
#ifndef ROPE_DATA_TOKENIZER_H
#define ROPE_DATA_TOKENIZER_H

#include <stdint.h>

#include "core/error.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Tokenizer Tokenizer;

typedef struct TokenizerTraining {
    const char *type; // bpe, unigram, char
    size_t vocabulary;
    const char *model_path; // where tokenizer.model is written
    // Next piece of text, at most a few MB; *size = 0 at the end. Returns false on a read error.
    bool (*next)(void *context, const char **text, size_t *size);
    void *context;
    size_t sample_bytes; // text used for training at most: `next` is not called again after that
} TokenizerTraining;

// Lossless settings (byte fallback, identity normalisation, newline as a symbol): decode(encode(x)) == x for any bytes.
// Characters are spelled in bytes when they are too rare for the vocabulary. A vocabulary larger than the text can fill
// is ERROR_USER, naming the largest possible; char models stop there by themselves. Trains in a child process, because
// SentencePiece may end the process; call it before threads are started. The model depends on the text alone.
bool tokenizer_train(const TokenizerTraining *training, Error *error);
// Any SentencePiece model; lossless only where the model is (ours are). Absent or unreadable: ERROR_SYSTEM; no model:
// ERROR_CORRUPT.
Tokenizer *tokenizer_load(const char *path, Error *error);
void tokenizer_free(Tokenizer *tokenizer);
// The bytes of the file as it was when it was loaded; they are the tokenizer's.
const char *tokenizer_model(const Tokenizer *tokenizer, size_t *size);
size_t tokenizer_vocabulary(const Tokenizer *tokenizer);
int32_t tokenizer_bos(const Tokenizer *tokenizer); // -1 if none
int32_t tokenizer_eos(const Tokenizer *tokenizer);
int32_t tokenizer_unknown(const Tokenizer *tokenizer);
// Puts a space in front of every text, as most models made elsewhere do; ours do not.
bool tokenizer_space_prefix(const Tokenizer *tokenizer);
// Takes texts as they are and joins neighbours by score until none are left (bpe), or never (char), unlike unigram models,
// which look for the most probable pieces of a whole text, and models that normalise texts.
bool tokenizer_merges(const Tokenizer *tokenizer);
bool tokenizer_spells_bytes(const Tokenizer *tokenizer); // has a piece for each byte: nothing is unknown to it

// SentencePiece's own numbers, and GGUF's.
typedef enum TokenizerPieceType {
    PIECE_NORMAL = 1,
    PIECE_UNKNOWN = 2,
    PIECE_CONTROL = 3,
    PIECE_USER_DEFINED = 4,
    PIECE_UNUSED = 5,
    PIECE_BYTE = 6,
} TokenizerPieceType;

typedef struct TokenizerPiece {
    const char *text; // as the model spells it: spaces are U+2581, bytes <0xNN>; NUL-terminated, the tokenizer's
    float score;
    TokenizerPieceType type;
} TokenizerPiece;

TokenizerPiece tokenizer_piece(const Tokenizer *tokenizer, int32_t id); // id below the vocabulary's size

// Encodes any bytes (invalid UTF-8 and NUL included). *ids is malloc'd, the caller frees.
bool tokenizer_encode(const Tokenizer *tokenizer, const char *text, size_t size, int32_t **ids, size_t *count,
                      Error *error);
// The concatenation of what each id stands for (nothing for <s> and </s>, raw bytes for byte pieces), so ids may be
// decoded one by one as they come. *text is malloc'd with a NUL appended (not counted in *size). Ids out of range:
// ERROR_USER.
bool tokenizer_decode(const Tokenizer *tokenizer, const int32_t *ids, size_t count, char **text, size_t *size,
                      Error *error);

#ifdef __cplusplus
}
#endif
#endif
