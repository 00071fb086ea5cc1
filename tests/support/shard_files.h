// Shards in a directory of the running test's own, and what the loader makes of them. A header, because only tests of data
// need it.
#ifndef ROPE_TESTS_SUPPORT_SHARD_FILES_H
#define ROPE_TESTS_SUPPORT_SHARD_FILES_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/files.h"
#include "data/data.h"
#include "tests/support/check.h"

enum { PATH = 512, HEADER = 1024 };

static const char *directory; // a new one for every test

static inline int new_directory(void **state) {
    (void)state;
    directory = temporary_directory();
    return 0;
}

static inline const char *in_directory(const char *name) {
    static char path[PATH];
    assert_true(snprintf(path, sizeof path, "%s/%s", directory, name) < PATH);
    return path;
}

// A shard whose ids are first, first+1, …
static inline void write_shard(const char *name, size_t vocabulary, int32_t first, size_t count) {
    Error error = {0};
    ShardWriter *writer = shard_create(in_directory(name), vocabulary, &error);
    assert_non_null(writer);
    for (size_t i = 0; i < count; i++) {
        int32_t id = first + (int32_t)i;
        assert_true(shard_append(writer, &id, 1, &error));
    }
    uint64_t written;
    uint32_t crc;
    if (!shard_finish(writer, &written, &crc, &error)) fail_msg("%s", error.message);
    assert_int_equal(written, count);
}

// As llm.c writes it: nothing in the header but magic, version and count.
static inline void write_foreign(const char *name, uint32_t magic, uint32_t version, uint32_t count, const void *ids,
                                 size_t bytes) {
    uint32_t header[256] = {magic, version, count};
    char *file = malloc(HEADER + bytes);
    Error error = {0};
    memcpy(file, header, HEADER);
    if (bytes > 0) memcpy(file + HEADER, ids, bytes);
    assert_true(file_write_atomic(in_directory(name), file, HEADER + bytes, &error));
    free(file);
}

static inline DataSettings settings_for(const char *path, size_t batch, size_t tokens) {
    return (DataSettings){.path = path, .split = "train", .batch = batch, .tokens = tokens, .seed = 1, .shuffle = true};
}

static inline Loader *open_good(const DataSettings *settings) {
    Error error = {0};
    Loader *loader = loader_open(settings, &error);
    if (!loader) fail_msg("%s", error.message);
    return loader;
}

static inline void expect_refused(const DataSettings *settings, ErrorKind kind, const char *message) {
    Error error = {0};
    assert_null(loader_open(settings, &error));
    if (!strstr(error.message, message)) fail_msg("\"%s\" does not say \"%s\"", error.message, message);
    if (!strstr(error.message, settings->path)) fail_msg("\"%s\" does not name the file", error.message);
    assert_int_equal(error.kind, kind);
    check_count("refused shards and settings", 1);
}

#endif
