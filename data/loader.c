// Shards to batches. A window is `tokens` inputs and the same shifted by one as targets; windows start `tokens` apart
// within a shard and never cross its end. The order of an epoch is a random permutation of all windows that is a pure
// function of (seed, epoch), computed element by element: no table, nothing to save but the position.
// Cost per batch: one pread per window. Nothing is allocated after loader_open.
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/descriptor.h"
#include "core/files.h"
#include "core/random.h"
#include "data/data.h"
#include "data/meta.h"
#include "data/shards.h"

struct Loader {
    size_t batch, tokens;
    uint64_t seed;
    bool shuffle;
    size_t limit; // ids must be below
    Shard *shards;
    uint64_t *first; // (shard_count + 1) index of each shard's first window; the last is the total
    size_t shard_count;
    DataPosition position;
    int32_t *window; // (tokens + 1)
    PrepareResult meta; // see loader_meta
};

static bool add_shard(Loader *loader, const char *path, size_t vocabulary, Error *error) {
    Shard *grown = reallocarray(loader->shards, loader->shard_count + 1, sizeof *grown);
    if (!grown) return error_set(error, ERROR_MEMORY, "%s: out of memory", path);
    loader->shards = grown;
    Shard *shard = &grown[loader->shard_count];
    if (!shard_open(shard, path, error)) return false;
    loader->shard_count++;
    if (vocabulary > 0 && shard->vocabulary > vocabulary)
        return error_set(error, ERROR_USER,
                         "%s: made with a vocabulary of %zu; the model has %zu: name other data or set model.vocabulary",
                         path, shard->vocabulary, vocabulary);
    if (shard->vocabulary > 0 && shard->vocabulary < loader->limit) loader->limit = shard->vocabulary;
    return true;
}

// Every shard of the split, in the order of their names.
static bool add_shards(Loader *loader, const DataSettings *settings, const DirectoryList *list, Error *error) {
    char path[4096];
    for (size_t i = 0; i < list->count; i++) {
        const char *name = list->entries[i]->d_name;
        if (!shard_is_name(name, settings->split)) continue;
        if (!path_join(path, sizeof path, settings->path, name, error) ||
            !add_shard(loader, path, settings->vocabulary, error))
            return false;
    }
    return loader->shard_count > 0 ||
           error_set(error, ERROR_USER, "%s: no %s*.bin there; make it with `rope prepare TEXT --out %s`",
                     settings->path, settings->split, settings->path);
}

static bool check_tokenizer(const char *folder, uint32_t described, Error *error) {
    char path[4096];
    uint32_t crc;
    if (!path_join(path, sizeof path, folder, "tokenizer.model", error)) return false;
    if (!described || access(path, F_OK) != 0) return true;
    if (!file_checksum(path, &crc, error)) return false;
    return crc == described ||
           error_set(error, ERROR_CORRUPT,
                     "%s: it is not the tokenizer that meta.json beside it speaks of, so the shards' tokens mean "
                     "something else; make them all again with `rope prepare`",
                     path);
}

// A folder that was copied in part, or into another, has files that its meta.json does not speak of. More shards than the
// one that prepare makes were put there on purpose: meta.json speaks of none of them then.
static bool check_described(Loader *loader, const char *folder, const char *split, Error *error) {
    PrepareResult meta;
    if (!data_find_meta(folder, &meta, error) || !check_tokenizer(folder, meta.tokenizer_crc, error)) return false;
    if (loader->shard_count != 1) return true;
    const Shard *shard = &loader->shards[0];
    const bool train = !strcmp(split, "train");
    const uint32_t crc = train ? meta.train_crc : meta.val_crc;
    if (crc && shard->summed && crc != shard->crc)
        return error_set(
            error, ERROR_CORRUPT,
            "%s: it is not the file that meta.json beside it speaks of; make both again with `rope prepare`",
            shard->path);
    if ((!crc || shard->summed) && shard->count == (train ? meta.train_tokens : meta.val_tokens)) loader->meta = meta;
    return true;
}

// A shard that is named itself is no better than its folder.
static bool open_shard(Loader *loader, const DataSettings *settings, Error *error) {
    char folder[PATH_MAX];
    const char *slash = strrchr(settings->path, '/'), *name = slash ? slash + 1 : settings->path;
    const bool train = !strcmp(name, "train.bin"), prepared = train || !strcmp(name, "val.bin");
    PrepareResult meta;
    Error why = {0};
    if (!descriptor_parent(settings->path, folder, error) || (prepared && !meta_check_whole(folder, error)) ||
        !add_shard(loader, settings->path, settings->vocabulary, error))
        return false;
    if (prepared) return check_described(loader, folder, train ? "train" : "val", error);
    if (data_find_meta(folder, &meta, &why)) return check_tokenizer(folder, meta.tokenizer_crc, error);
    return why.kind != ERROR_MEMORY || error_set(error, why.kind, "%s", why.message); // a meta.json of another kind
}

static bool open_shards(Loader *loader, const DataSettings *settings, Error *error) {
    struct stat status;
    if (stat(settings->path, &status) != 0)
        return error_set(error, ERROR_USER, "%s: %s", settings->path, strerror(errno));
    if (!S_ISDIR(status.st_mode)) return open_shard(loader, settings, error);
    DirectoryList list = {0};
    bool good = meta_check_whole(settings->path, error) && directory_list(&list, settings->path, error) &&
                add_shards(loader, settings, &list, error) &&
                check_described(loader, settings->path, settings->split, error);
    directory_list_free(&list);
    return good;
}

// Counts windows; a shard of fewer than tokens + 1 ids has none. Nothing of size `tokens` is allocated before it is
// known to fit.
static bool count_windows(Loader *loader, const DataSettings *settings, Error *error) {
    loader->first = calloc(loader->shard_count + 1, sizeof *loader->first);
    if (!loader->first) return error_set(error, ERROR_MEMORY, "%s: out of memory", settings->path);
    uint64_t longest = 0;
    for (size_t i = 0; i < loader->shard_count; i++) {
        uint64_t count = loader->shards[i].count;
        loader->first[i + 1] = loader->first[i] + (count - 1) / loader->tokens;
        if (count > longest) longest = count;
    }
    if (loader_windows(loader) == 0)
        return error_set(
            error, ERROR_USER,
            "%s: a window of %zu tokens needs one more than that in a shard; the longest %s shard has %llu: lower "
            "model.tokens, or prepare a longer text",
            settings->path, loader->tokens, settings->split, (unsigned long long)longest);
    loader->window = malloc((loader->tokens + 1) * sizeof *loader->window); // at most a shard
    if (!loader->window) return error_set(error, ERROR_MEMORY, "%s: out of memory", settings->path);
    return true;
}

Loader *loader_open(const DataSettings *settings, Error *error) {
    if (settings->batch == 0 || settings->tokens == 0) {
        error_set(error, ERROR_USER, "%s: batch (%zu) and tokens (%zu) must be at least 1", settings->path,
                  settings->batch, settings->tokens);
        return NULL;
    }
    Loader *loader = calloc(1, sizeof *loader);
    if (!loader) {
        error_set(error, ERROR_MEMORY, "%s: out of memory", settings->path);
        return NULL;
    }
    *loader = (Loader){.batch = settings->batch,
                       .tokens = settings->tokens,
                       .seed = settings->seed,
                       .shuffle = settings->shuffle,
                       .limit = settings->vocabulary > 0 ? settings->vocabulary : INT32_MAX};
    if (open_shards(loader, settings, error) && count_windows(loader, settings, error)) return loader;
    loader_close(loader);
    return NULL;
}

// The shard that holds a window: the last whose first window is not above it. Shards without windows are passed over.
static size_t shard_of(const Loader *loader, uint64_t window) {
    size_t low = 0, high = loader->shard_count - 1;
    while (low < high) {
        size_t middle = low + (high - low + 1) / 2;
        if (loader->first[middle] <= window)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

static void advance(Loader *loader, DataPosition *position) {
    if (++position->window < loader_windows(loader)) return;
    position->window = 0;
    position->epoch++;
}

bool loader_next(Loader *loader, int32_t *inputs, int32_t *targets, Error *error) {
    DataPosition position = loader->position; // moves on only when the whole batch was read
    for (size_t b = 0; b < loader->batch; b++) {
        Random order = {.seed = loader->seed, .stream = RANDOM_SHUFFLE, .step = position.epoch};
        uint64_t window =
            loader->shuffle ? random_permute(order, position.window, loader_windows(loader)) : position.window;
        size_t index = shard_of(loader, window);
        uint64_t start = (window - loader->first[index]) * loader->tokens;
        if (!shard_read(&loader->shards[index], start, loader->tokens + 1, loader->limit, loader->window, error))
            return false;
        memcpy(inputs + b * loader->tokens, loader->window, loader->tokens * sizeof *inputs);
        memcpy(targets + b * loader->tokens, loader->window + 1, loader->tokens * sizeof *targets);
        advance(loader, &position);
    }
    loader->position = position;
    return true;
}

uint64_t loader_windows(const Loader *loader) { return loader->first[loader->shard_count]; }

uint64_t loader_tokens(const Loader *loader) {
    uint64_t total = 0;
    for (size_t i = 0; i < loader->shard_count; i++) total += loader->shards[i].count;
    return total;
}

const PrepareResult *loader_meta(const Loader *loader) { return &loader->meta; }

uint32_t loader_checksum(const Loader *loader) {
    uint32_t crc = 0;
    for (size_t i = 0; i < loader->shard_count; i++) {
        const Shard *shard = &loader->shards[i];
        const uint64_t words[] = {shard->count, shard->width, shard->vocabulary, shard->crc};
        crc = checksum(crc, words, sizeof words);
    }
    return crc;
}

DataPosition loader_position(const Loader *loader) { return loader->position; }

void loader_seek(Loader *loader, DataPosition position) {
    // A position from a run on other data may lie beyond the epoch's end: it goes on in a later epoch.
    uint64_t windows = loader_windows(loader);
    loader->position = (DataPosition){position.epoch + position.window / windows, position.window % windows};
}

void loader_close(Loader *loader) {
    if (!loader) return;
    for (size_t i = 0; i < loader->shard_count; i++) shard_close(&loader->shards[i]);
    free(loader->shards);
    free(loader->first);
    free(loader->window);
    free(loader);
}
