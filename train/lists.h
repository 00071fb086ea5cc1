// Lists on the command line.
#ifndef ROPE_TRAIN_LISTS_H
#define ROPE_TRAIN_LISTS_H

#include <stddef.h>

// "512,1024,4K": ascending numbers from 1 to 2^24, K = 1024. Returns how many; 0 if that is not what the text is, or if
// they are more than `capacity`.
size_t list_lengths(const char *text, size_t *lengths, size_t capacity);
// Splits `text` at commas in place. Returns how many words, 0 if they are more than `capacity`.
size_t list_words(char *text, const char **words, size_t capacity);

#endif
