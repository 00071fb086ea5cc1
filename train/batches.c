// Where batches come from. A second source is one more member of Batches and one more branch in each verb.
#include "train/batches.h"

#include <stdlib.h>

struct Batches {
    Loader *loader;
};

Batches *batches_open(const Config *config, BatchesPart part, size_t batch, Error *error) {
    if (!*config->data_dir) {
        error_set(error, ERROR_USER, "There are no data: set data.dir to a directory made by rope prepare.");
        return NULL;
    }
    Batches *batches = calloc(1, sizeof *batches);
    if (!batches) {
        error_set(error, ERROR_MEMORY, "Out of memory while opening the data.");
        return NULL;
    }
    DataSettings settings = {.path = config->data_dir, .split = part == BATCHES_TRAIN ? "train" : "val",
                             .batch = batch, .tokens = config->tokens, .seed = config->seed,
                             .shuffle = part == BATCHES_TRAIN, .vocabulary = config->vocabulary};
    batches->loader = loader_open(&settings, error);
    if (batches->loader) return batches;
    free(batches);
    return NULL;
}

bool batches_next(Batches *batches, int32_t *inputs, int32_t *targets, Error *error) {
    return loader_next(batches->loader, inputs, targets, error);
}

uint64_t batches_windows(const Batches *batches) { return loader_windows(batches->loader); }
DataPosition batches_position(const Batches *batches) { return loader_position(batches->loader); }
void batches_seek(Batches *batches, DataPosition position) { loader_seek(batches->loader, position); }

void batches_close(Batches *batches) {
    if (!batches) return;
    loader_close(batches->loader);
    free(batches);
}
