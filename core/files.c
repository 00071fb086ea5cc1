// Reading files whole or in parts, appending lines, joining paths (see files.h).
#include "core/files.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
#include <zlib.h>

#include "core/descriptor.h"

bool file_append_line(int descriptor, const char *line, size_t size, Error *error) {
    bool ended = size > 0 && line[size - 1] == '\n';
    size_t total = size + !ended, done = 0;
    while (done < total) {
        struct iovec parts[2] = {{(void *)(line + (done < size ? done : size)), done < size ? size - done : 0},
                                 {(void *)"\n", !ended}};
        ssize_t written = writev(descriptor, parts, 2);
        if (written < 0 && errno == EINTR) continue;
        if (written == 0) errno = ENOSPC;
        if (written <= 0) return error_errno(error, "Cannot append a line of %zu bytes", total);
        done += (size_t)written;
    }
    return true;
}

static bool read_growing(int descriptor, const char *path, size_t limit, char **data, size_t *size, Error *error) {
    size_t capacity = 0, used = 0;
    struct stat status;
    // The size is a first guess: pipes and /proc have none, and a file may grow while it is read.
    if (fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode) && (uint64_t)status.st_size <= limit)
        capacity = (size_t)status.st_size + 2; // a NUL, and room for the read that finds the end
    for (;;) {
        if (!*data || used + 1 == capacity) {
            if (*data || capacity == 0) capacity = 2 * capacity + 65536;
            char *grown = realloc(*data, capacity);
            if (!grown) return error_set(error, ERROR_MEMORY, "There is no memory to read %s.", path);
            *data = grown;
        }
        ssize_t done = read(descriptor, *data + used, capacity - 1 - used);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return error_errno(error, "Cannot read %s", path);
        if (done == 0) break;
        used += (size_t)done;
        if (used > limit)
            return error_set(error, ERROR_USER, "%s is larger than the %zu bytes that such a file may have.", path,
                             limit);
    }
    (*data)[used] = '\0';
    *size = used;
    return true;
}

bool file_sync(int descriptor, const char *path, Error *error) { return descriptor_sync(descriptor, path, error); }

char *file_read_all(const char *path, size_t limit, size_t *size, Error *error) {
    REQUIRE(limit < SIZE_MAX / 4);
    int descriptor = descriptor_open_to_read(path);
    if (descriptor < 0) {
        if (errno == ENOENT || errno == ENOTDIR) error_set(error, ERROR_USER, "There is no file %s.", path);
        error_errno(error, "Cannot open %s", path);
        return NULL;
    }
    char *data = NULL;
    if (!read_growing(descriptor, path, limit, &data, size, error)) {
        free(data);
        data = NULL;
    }
    close(descriptor);
    return data;
}

bool file_read_at(int descriptor, const char *path, void *data, size_t size, uint64_t offset, Error *error) {
    unsigned char *to = data;
    if (offset > INT64_MAX || size > INT64_MAX - offset)
        return error_set(error, ERROR_CORRUPT, "%s names a place beyond any file (offset %llu).", path,
                         (unsigned long long)offset);
    while (size > 0) {
        ssize_t done = pread(descriptor, to, size < SSIZE_MAX ? size : SSIZE_MAX, (off_t)offset);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return error_errno(error, "Cannot read %s", path);
        if (done == 0)
            return error_set(error, ERROR_CORRUPT, "%s is truncated: %zu bytes are missing at offset %llu.", path, size,
                             (unsigned long long)offset);
        to += done;
        size -= (size_t)done;
        offset += (uint64_t)done;
    }
    return true;
}

uint32_t checksum(uint32_t running, const void *data, size_t size) { return (uint32_t)crc32_z(running, data, size); }

bool file_checksum(const char *path, uint32_t *crc, Error *error) {
    unsigned char block[1 << 16];
    int descriptor = descriptor_open_to_read(path);
    if (descriptor < 0) return error_errno(error, "Opening %s", path);
    ssize_t got = 1;
    for (*crc = 0; got > 0 || (got < 0 && errno == EINTR);) {
        got = read(descriptor, block, sizeof block);
        if (got > 0) *crc = checksum(*crc, block, (size_t)got);
    }
    if (got < 0) error_errno(error, "Reading %s", path);
    close(descriptor);
    return got == 0;
}

bool file_same(const char *a, const char *b) {
    struct stat of_a, of_b;
    return stat(a, &of_a) == 0 && stat(b, &of_b) == 0 && of_a.st_dev == of_b.st_dev && of_a.st_ino == of_b.st_ino;
}

bool path_join(char *out, size_t out_size, const char *directory, const char *name, Error *error) {
    size_t length = strlen(directory);
    const char *slash = length == 0 || directory[length - 1] == '/' ? "" : "/";
    int wanted = snprintf(out, out_size, "%s%s%s", directory, slash, name);
    if (wanted >= 0 && (size_t)wanted < out_size) return true;
    return error_set(error, ERROR_USER, "The path %.100s.../%.100s is too long.", directory, name);
}
