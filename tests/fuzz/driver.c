// libFuzzer's entry: $FUZZ_TARGET names the target. `--seeds DIRECTORY` writes the seed corpora of all targets there,
// and beside each a dictionary of the words in it.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/files.h"
#include "tests/fuzz/targets.h"

int LLVMFuzzerInitialize(int *count, char ***arguments);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const FuzzTarget *target;

typedef struct SeedFolder {
    char path[512];
    size_t count;
    FILE *words; // FOLDER.words: the dictionary
} SeedFolder;

static void write_word(FILE *words, const char *word, size_t length) {
    enum { SHORTEST = 3, LONGEST = 64 };
    if (length >= SHORTEST && length <= LONGEST) fprintf(words, "\"%.*s\"\n", (int)length, word);
}

// Every word of the seed, such as a key of the file; libFuzzer drops those that come again.
static void write_words(FILE *words, const char *text, size_t size) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-";
    for (size_t at = 0, end; at < size; at = end + 1) {
        for (end = at; end < size && text[end] && strchr(letters, text[end]); end++) continue;
        write_word(words, text + at, end - at);
    }
}

static void write_seed(void *context, const void *bytes, size_t size, bool taken) {
    (void)taken;
    SeedFolder *folder = context;
    char path[600];
    snprintf(path, sizeof path, "%s/seed-%zu", folder->path, ++folder->count);
    FILE *file = fopen(path, "wb");
    REQUIRE(file && fwrite(bytes, 1, size, file) == size && fclose(file) == 0);
    write_words(folder->words, bytes, size);
}

static void write_seeds(const FuzzTarget *of, const char *corpus) {
    SeedFolder folder = {.count = 0};
    char path[600];
    snprintf(folder.path, sizeof folder.path, "%s/%s", corpus, of->name);
    snprintf(path, sizeof path, "%s.words", folder.path);
    REQUIRE(directory_make(folder.path, NULL) && (folder.words = fopen(path, "wb")));
    fputs("# words of the seeds\n", folder.words); // an empty dictionary is refused
    fuzz_each_seed(of, write_seed, &folder);
    REQUIRE(fclose(folder.words) == 0);
}

int LLVMFuzzerInitialize(int *count, char ***arguments) {
    for (int i = 1; i + 1 < *count; i++)
        if (!strcmp((*arguments)[i], "--seeds")) {
            for (size_t t = 0; t < fuzz_target_count; t++) write_seeds(fuzz_targets[t], (*arguments)[i + 1]);
            exit(0);
        }
    const char *name = getenv("FUZZ_TARGET");
    target = name ? fuzz_find(name) : NULL;
    if (target) {
        target->run((const uint8_t *)"", 0); // what is made once takes longer than a run may, and forks
        return 0;
    }
    fprintf(stderr, "FUZZ_TARGET names one of:");
    for (size_t t = 0; t < fuzz_target_count; t++) fprintf(stderr, " %s", fuzz_targets[t]->name);
    fprintf(stderr, "\n");
    exit(2);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    target->run(data, size);
    return 0;
}
