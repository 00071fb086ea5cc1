// Lists on the command line (lists.h).
#include "train/lists.h"

#include <stdlib.h>
#include <string.h>

enum { LONGEST = 1 << 24 };

size_t list_lengths(const char *text, size_t *lengths, size_t capacity) {
    size_t count = 0;
    while (count < capacity) {
        char *end;
        if (*text < '0' || *text > '9') return 0; // strtoull takes spaces and signs, and "-1" for the largest number
        unsigned long long number = strtoull(text, &end, 10);
        if (number > LONGEST) return 0; // before it is multiplied: the product could wrap
        if (*end == 'K' || *end == 'k') {
            number *= 1024;
            end++;
        }
        if (number == 0 || number > LONGEST || (count && number <= lengths[count - 1])) return 0;
        lengths[count++] = (size_t)number;
        if (!*end) return count;
        if (*end != ',') return 0;
        text = end + 1;
    }
    return 0;
}

size_t list_words(char *text, const char **words, size_t capacity) {
    size_t count = 0;
    for (char *rest = text, *word; (word = strsep(&rest, ",")); words[count++] = word)
        if (count == capacity) return 0;
    return count;
}
