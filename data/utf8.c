// UTF-8 by the table of the Unicode standard (section 3.9, table 3-7): only the second byte has a range that depends on
// the first. One pass, no allocation.
#include "data/utf8.h"

#include <string.h>

static bool in_range(unsigned char byte, unsigned char low, unsigned char high) { return byte >= low && byte <= high; }

size_t utf8_length(const char *text, size_t size) {
    const unsigned char *s = (const unsigned char *)text;
    if (size == 0) return 0;
    if (s[0] < 0x80) return 1;
    size_t length = in_range(s[0], 0xC2, 0xDF)   ? 2
                    : in_range(s[0], 0xE0, 0xEF) ? 3
                    : in_range(s[0], 0xF0, 0xF4) ? 4
                                                 : 0;
    if (length == 0 || size < length) return 0;
    unsigned char low = s[0] == 0xE0 ? 0xA0 : s[0] == 0xF0 ? 0x90 : 0x80;  // below: overlong
    unsigned char high = s[0] == 0xED ? 0x9F : s[0] == 0xF4 ? 0x8F : 0xBF; // above: surrogates, beyond U+10FFFF
    if (!in_range(s[1], low, high)) return 0;
    for (size_t i = 2; i < length; i++)
        if (!in_range(s[i], 0x80, 0xBF)) return 0;
    return length;
}

size_t utf8_cut(const char *text, size_t size) {
    const char *newline = memrchr(text, '\n', size);
    if (newline) return (size_t)(newline - text) + 1;
    const char *space = memrchr(text, ' ', size);
    if (space) return (size_t)(space - text) + 1;
    // Step back over at most one unfinished character; bytes that are none may be cut anywhere.
    for (size_t back = 1; back <= 3 && back < size; back++) {
        unsigned char lead = (unsigned char)text[size - back];
        if (lead >= 0xC2) return utf8_length(text + size - back, back) == back ? size : size - back;
        if (lead < 0x80) break;
    }
    return size;
}
