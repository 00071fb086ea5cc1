// train.init of several runs (starts.h).
#include "train/starts.h"

#include <string.h>
#include <unistd.h>

#include "core/files.h"
#include "train/run_directory.h"

typedef struct Found {
    char path[RUN_PATH];
    char crc[9]; // of its weights; "": unknown
    int held;
} Found;

bool starts_make(Starts *starts, Error *error) {
    *starts = (Starts){.record = json_object()};
    return starts->record || error_set(error, ERROR_MEMORY, "Out of memory.");
}

void starts_free(Starts *starts) {
    for (size_t i = 0; i < starts->count; i++)
        if (starts->held[i] >= 0) close(starts->held[i]);
    json_decref(starts->record);
    *starts = (Starts){0};
}

bool starts_recall(Starts *starts, json_t *record, Error *error) {
    if (!json_is_object(record) || json_object_update_missing(starts->record, record) == 0) return true;
    return error_set(error, ERROR_MEMORY, "Out of memory.");
}

// Weights in several files are known by their index.
static void find_checksum(Found *found) {
    static const char *const names[] = {"model.safetensors", "model.safetensors.index.json"};
    char path[RUN_PATH];
    uint32_t crc;
    *found->crc = '\0';
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (!path_join(path, sizeof path, found->path, names[i], NULL) || access(path, F_OK) != 0) continue;
        if (file_checksum(path, &crc, NULL)) snprintf(found->crc, sizeof found->crc, "%08x", (unsigned)crc);
        return;
    }
}

// What cannot be read, for which the checksum stands, is refused when it is loaded.
static bool same_weights(const Found *found, const char *crc) {
    return !crc || !*crc || !*found->crc || !strcmp(found->crc, crc);
}

static bool refuse(const char *path, const char *before, const char *now_crc, const char *crc, Error *error) {
    return error_set(error, ERROR_USER,
                     "%s has not the weights of %s that others here started from (crc32 %s instead of %s). Put those "
                     "back, or begin in another directory.",
                     path, before, now_crc, crc);
}

static bool look_at(const char *name, Found *found, Error *error) {
    if (!run_hold_checkpoint(name, found->path, &found->held, error)) return false;
    find_checksum(found);
    return true;
}

// Where it was before, if those weights are still there; else where the setting leads to now.
static bool look_up(const char *init, const json_t *before, Found *found, Error *error) {
    const char *path = json_string_value(json_object_get(before, "checkpoint")),
               *crc = json_string_value(json_object_get(before, "crc32"));
    if (path && look_at(path, found, NULL)) {
        if (same_weights(found, crc)) return true;
        if (found->held >= 0) close(found->held);
    }
    if (!look_at(init, found, error)) return false;
    if (!path || same_weights(found, crc)) return true;
    if (found->held >= 0) close(found->held);
    return refuse(found->path, path, found->crc, crc, error);
}

static bool is_found(const Starts *starts, const char *init) {
    bool found = false;
    for (size_t i = 0; i < starts->count; i++) found |= !strcmp(starts->found[i], init);
    return found;
}

static bool find(Starts *starts, const char *init, Error *error) {
    Found found;
    REQUIRE(starts->count < STARTS);
    if (!look_up(init, json_object_get(starts->record, init), &found, error)) {
        error_context(error, "train.init");
        return false;
    }
    json_t *entry = json_pack("{s:s, s:s}", "checkpoint", found.path, "crc32", found.crc);
    if (json_object_set_new(starts->record, init, entry) != 0) {
        if (found.held >= 0) close(found.held);
        return error_set(error, ERROR_MEMORY, "Out of memory.");
    }
    starts->held[starts->count] = found.held;
    starts->found[starts->count++] = json_object_iter_key(json_object_iter_at(starts->record, init));
    return true;
}

// What was found may have been written over since.
static bool check_again(const json_t *entry, Error *error) {
    const char *path = json_string_value(json_object_get(entry, "checkpoint")),
               *crc = json_string_value(json_object_get(entry, "crc32"));
    Found now;
    snprintf(now.path, sizeof now.path, "%s", path);
    find_checksum(&now);
    if (same_weights(&now, crc)) return true;
    refuse(path, path, now.crc, crc, error);
    error_context(error, "train.init");
    return false;
}

bool starts_find(Starts *starts, Config *config, Error *error) {
    if (!*config->init) return true;
    const bool before = is_found(starts, config->init);
    if (!before && !find(starts, config->init, error)) return false;
    const json_t *entry = json_object_get(starts->record, config->init);
    if (before && !check_again(entry, error)) return false;
    config->init_at = json_string_value(json_object_get(entry, "checkpoint"));
    return true;
}
