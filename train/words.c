// Edit distance with swaps (Damerau's, restricted): a full table, for words are short.
#include "train/words.h"

#include <stdio.h>
#include <string.h>

#include "data/utf8.h"

enum { WORD_MAX = 64 };

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

size_t words_distance(const char *a, const char *b) {
    size_t m = strlen(a), n = strlen(b);
    if (m >= WORD_MAX || n >= WORD_MAX) return WORD_MAX;
    unsigned char cost[WORD_MAX + 1][WORD_MAX + 1];
    for (size_t i = 0; i <= m; i++) cost[i][0] = (unsigned char)i;
    for (size_t j = 0; j <= n; j++) cost[0][j] = (unsigned char)j;
    for (size_t i = 1; i <= m; i++)
        for (size_t j = 1; j <= n; j++) {
            size_t best = smaller(cost[i - 1][j], cost[i][j - 1]) + 1;
            best = smaller(best, cost[i - 1][j - 1] + (size_t)(a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                best = smaller(best, cost[i - 2][j - 2] + (size_t)1);
            cost[i][j] = (unsigned char)best;
        }
    return cost[m][n];
}

bool words_close(const char *typed, size_t distance) {
    size_t length = strlen(typed);
    return distance <= (length < 4 ? 1 : length < 9 ? 2 : length / 3);
}

bool words_nearest(const char *typed, const char *list, char *out, size_t out_size) {
    size_t best = WORD_MAX;
    while (*list) {
        size_t length = strcspn(list, ",");
        char word[WORD_MAX];
        snprintf(word, sizeof word, "%.*s", (int)length, list);
        size_t distance = words_distance(typed, word);
        if (distance < best) {
            best = distance;
            snprintf(out, out_size, "%s", word);
        }
        list += length + (list[length] == ',');
    }
    return best < WORD_MAX && words_close(typed, best);
}

void words_append(char *list, size_t size, const char *word) {
    const size_t used = strlen(list);
    snprintf(list + used, size - used, "%s%s", used ? "," : "", word);
}

size_t text_whole(const char *text, size_t size) {
    for (size_t back = 1; back <= 3 && back <= size; back++) {
        unsigned char byte = (unsigned char)text[size - back];
        if ((byte & 0xc0) == 0x80) continue; // inside a character: its first byte is further back
        size_t length = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
        return length > back ? size - back : size;
    }
    return size;
}

bool text_valid(const char *text, size_t size) {
    for (size_t i = 0, length; i < size; i += length) {
        length = utf8_length(text + i, size - i);
        if (length == 0) return false;
    }
    return true;
}
