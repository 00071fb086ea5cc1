// A buffered writer that remembers its first failure, and the files that it makes whole or not at all (see files.h).
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/descriptor.h"
#include "core/files.h"

enum { WRITER_BUFFER = 1 << 16 }; // larger blocks come from mmap, and cost a page fault for each 4 KiB

struct FileWriter {
    int descriptor;
    char *path;
    Error error;      // the first cause; once set, nothing more is written
    uint64_t written; // bytes in the file, without those in the buffer
    size_t used;
    unsigned char buffer[WRITER_BUFFER];
};

FileWriter *file_writer_open(const char *path, Error *error) {
    FileWriter *writer = malloc(sizeof *writer);
    char *copy = strdup(path);
    if (!writer || !copy) {
        error_set(error, ERROR_MEMORY, "There is no memory to write %s.", path);
    } else if ((writer->descriptor = descriptor_open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW)) < 0) {
        error_errno(error, "Cannot create %s", path);
    } else {
        writer->path = copy;
        writer->written = 0;
        writer->used = 0;
        error_clear(&writer->error);
        return writer;
    }
    free(copy);
    free(writer);
    return NULL;
}

static bool flush(FileWriter *writer) {
    if (writer->error.kind != ERROR_NONE) return false;
    if (!descriptor_write(writer->descriptor, writer->path, writer->buffer, writer->used, writer->written,
                          &writer->error))
        return false;
    writer->written += writer->used;
    writer->used = 0;
    return true;
}

bool file_writer_write(FileWriter *writer, const void *data, size_t size) {
    if (writer->error.kind != ERROR_NONE) return false;
    if (size > WRITER_BUFFER - writer->used && !flush(writer)) return false;
    if (size >= WRITER_BUFFER) { // larger than the buffer, which is empty now: straight to the file
        if (!descriptor_write(writer->descriptor, writer->path, data, size, writer->written, &writer->error))
            return false;
        writer->written += size;
    } else if (size > 0) {
        memcpy(writer->buffer + writer->used, data, size);
        writer->used += size;
    }
    return true;
}

bool file_writer_write_at(FileWriter *writer, uint64_t offset, const void *data, size_t size) {
    if (writer->error.kind != ERROR_NONE) return false;
    REQUIRE(offset <= writer->written + writer->used && size <= writer->written + writer->used - offset);
    return flush(writer) && descriptor_write(writer->descriptor, writer->path, data, size, offset, &writer->error);
}

bool file_writer_close(FileWriter *writer, Error *error) {
    bool good = flush(writer) && descriptor_sync(writer->descriptor, writer->path, &writer->error);
    good = descriptor_close(writer->descriptor, writer->path, &writer->error) && good;
    if (!good) error_set(error, writer->error.kind, "%s", writer->error.message);
    free(writer->path);
    free(writer);
    return good;
}

void file_writer_abandon(FileWriter *writer) {
    close(writer->descriptor);
    free(writer->path);
    free(writer);
}

bool file_begin(const char *path, char *temporary, size_t temporary_size, Error *error) {
    const int wanted = snprintf(temporary, temporary_size, "%s.tmp", path);
    return (wanted >= 0 && (size_t)wanted < temporary_size) ||
           error_set(error, ERROR_USER, "The path %.100s... is too long.", path);
}

// Empty, or cut short within the magic; after a loss of power there may be zeros in its place.
static bool is_leftover(int descriptor, const char *magic, const char *path, Error *error) {
    struct stat status;
    char first[16] = {0};
    const size_t length = strlen(magic);
    REQUIRE(length <= sizeof first);
    if (fstat(descriptor, &status) != 0) return error_errno(error, "Cannot look at %s", path);
    const size_t size = (uint64_t)status.st_size < length ? (size_t)status.st_size : length;
    if (S_ISREG(status.st_mode) && !file_read_at(descriptor, path, first, size, 0, error)) return false;
    if (S_ISREG(status.st_mode) && (!memcmp(first, magic, size) || !memcmp(first, (char[16]){0}, size))) return true;
    return error_set(error, ERROR_USER,
                     "%s is in the way, and is nothing that an interrupted program left there: move it away, or choose "
                     "another path.",
                     path);
}

int file_begin_alone(const char *path, const char *magic, char *temporary, size_t temporary_size, Error *error) {
    if (!file_begin(path, temporary, temporary_size, error) || !directory_make_parent(path, error)) return -1;
    const int opened = descriptor_open(temporary, O_RDWR | O_CREAT | O_NOFOLLOW);
    const int descriptor = descriptor_lock(opened, temporary, "written", error);
    if (descriptor < 0 || is_leftover(descriptor, magic, temporary, error)) return descriptor;
    close(descriptor);
    return -1;
}

bool file_commit(const char *temporary, const char *path, Error *error) {
    if (rename(temporary, path) == 0) return descriptor_sync_parent(path, error);
    error_errno(error, "Cannot rename %s to %s", temporary, path);
    unlink(temporary);
    return false;
}

bool file_write_atomic(const char *path, const void *data, size_t size, Error *error) {
    char temporary[PATH_MAX];
    if (!file_begin(path, temporary, sizeof temporary, error)) return false;
    FileWriter *writer = file_writer_open(temporary, error);
    if (!writer) return false;
    file_writer_write(writer, data, size); // a failure stays in the writer; close reports it
    if (file_writer_close(writer, error)) return file_commit(temporary, path, error);
    unlink(temporary);
    return false;
}
