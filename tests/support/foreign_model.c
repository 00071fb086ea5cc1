// The protobuf of a model, by hand (foreign_model.h).
#include "tests/support/foreign_model.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "tests/support/check.h"

// A precompiled map of characters that maps a line end to nothing: the bytes of a double-array trie, and behind it the
// texts that are mapped to, here an empty one.
static void write_map(FILE *file) {
    enum { UNITS = 256, BASE = 16, LEAF = 1, HAS_LEAF = 1 << 8, OFFSET = 10 };
    uint32_t trie[UNITS] = {BASE << OFFSET};
    const uint32_t size = sizeof trie, node = BASE ^ '\n';
    trie[node] = '\n' | HAS_LEAF | LEAF << OFFSET;
    trie[node ^ LEAF] = 0x80000000; // where the text begins
    fwrite(&size, sizeof size, 1, file);
    fwrite(trie, sizeof trie, 1, file);
    fputc(0, file);
}

void write_foreign_model(const char *path, bool space_prefix, ForeignNewline newline) {
    static const char *const pieces[] = {"<unk>", "<s>", "</s>", "\xE2\x96\x81", "a", "b", "\n"};
    static const char types[] = {2, 3, 3, 1, 1, 1, 1};
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    for (size_t i = 0; i < (newline == NEWLINE_PIECE ? 7 : 6); i++) { // text, score -1, type
        int length = (int)strlen(pieces[i]);
        fprintf(file, "\n%c\n%c%s\x15%c%c\x80\xBF\x18%c", length + 9, length, pieces[i], 0, 0, types[i]);
    }
    fprintf(file, "\x12\x02\x18\x01\x1A"); // a unigram model; how it normalises
    if (newline == NEWLINE_DROPPED) {
        fprintf(file, "\x8E\x08\x12\x85\x08");
        write_map(file);
    } else {
        fputc(6, file);
    }
    fprintf(file, "\x18%c\x20%c\x28\x01", space_prefix ? 1 : 0, 0);
    assert_int_equal(fclose(file), 0);
}
