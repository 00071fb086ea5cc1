// libFuzzer's entry: $FUZZ_TARGET names the target. `--seeds DIRECTORY` writes the seed corpora of all targets there.
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
} SeedFolder;

static void write_seed(void *context, const void *bytes, size_t size) {
    SeedFolder *folder = context;
    char path[600];
    snprintf(path, sizeof path, "%s/seed-%zu", folder->path, ++folder->count);
    FILE *file = fopen(path, "wb");
    REQUIRE(file && fwrite(bytes, 1, size, file) == size && fclose(file) == 0);
}

int LLVMFuzzerInitialize(int *count, char ***arguments) {
    for (int i = 1; i + 1 < *count; i++)
        if (!strcmp((*arguments)[i], "--seeds")) {
            for (size_t t = 0; t < fuzz_target_count; t++) {
                SeedFolder folder = {.count = 0};
                snprintf(folder.path, sizeof folder.path, "%s/%s", (*arguments)[i + 1], fuzz_targets[t].name);
                REQUIRE(directory_make(folder.path, NULL));
                fuzz_each_seed(&fuzz_targets[t], write_seed, &folder);
            }
            exit(0);
        }
    const char *name = getenv("FUZZ_TARGET");
    target = name ? fuzz_find(name) : NULL;
    if (target) {
        target->run((const uint8_t *)"", 0); // what is made once takes longer than a run may, and forks
        return 0;
    }
    fprintf(stderr, "FUZZ_TARGET names one of:");
    for (size_t t = 0; t < fuzz_target_count; t++) fprintf(stderr, " %s", fuzz_targets[t].name);
    fprintf(stderr, "\n");
    exit(2);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    target->run(data, size);
    return 0;
}
