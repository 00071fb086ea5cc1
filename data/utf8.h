// Strict UTF-8 (RFC 3629): no overlong forms, no surrogates, nothing above U+10FFFF.
#ifndef ROPE_DATA_UTF8_H
#define ROPE_DATA_UTF8_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

// Bytes of the character that starts at text, 1 to 4; 0 when the bytes there are no character (or size is 0).
size_t utf8_length(const char *text, size_t size);

// The largest prefix of text, at most size bytes, that ends where a line ends; without a line end, after a space;
// without either, between characters. Never 0 for size > 0, so that a reader who cuts here always moves on.
size_t utf8_cut(const char *text, size_t size);

#ifdef __cplusplus
}
#endif
#endif
