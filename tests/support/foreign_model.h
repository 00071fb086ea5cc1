// A SentencePiece model made elsewhere: a unigram one of a few characters without bytes.
#ifndef ROPE_TESTS_FOREIGN_MODEL_H
#define ROPE_TESTS_FOREIGN_MODEL_H

#include <stdbool.h>

typedef enum ForeignNewline { NEWLINE_PIECE, NEWLINE_UNKNOWN, NEWLINE_DROPPED } ForeignNewline;

// Pieces <unk>, <s>, </s>, U+2581, a, b and maybe a line end, which is otherwise unknown or, by normalising, dropped.
void write_foreign_model(const char *path, bool space_prefix, ForeignNewline newline);

#endif
