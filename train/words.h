// Words for people: the nearest known word to a mistyped one, and UTF-8 that is cut only between characters.
#ifndef ROPE_TRAIN_WORDS_H
#define ROPE_TRAIN_WORDS_H

#include <stdbool.h>
#include <stddef.h>

// Insertions, deletions, substitutions and swaps of neighbours between two words (below 64 bytes; longer: 64).
size_t words_distance(const char *a, const char *b);
// Whether a word at that distance is worth suggesting.
bool words_close(const char *typed, size_t distance);
// The nearest entry of a comma-separated list, copied to out; false if none is close.
bool words_nearest(const char *typed, const char *list, char *out, size_t out_size);
// Appends `word` to the comma-separated list, as far as it fits.
void words_append(char *list, size_t size, const char *word);

// Bytes of the longest prefix that does not end within a character; what cannot begin one counts as one of its own.
size_t text_whole(const char *text, size_t size);
bool text_valid(const char *text, size_t size); // strict UTF-8 throughout

#endif
