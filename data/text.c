// See text.h. Memory does not depend on the size of the texts; one descriptor is open at a time, and one for each
// spooled input.
#include "data/text.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/descriptor.h"
#include "core/files.h"
#include "data/stamp.h"

typedef struct Part {
    const char *path; // the caller's
    int descriptor;   // -1: not open at the moment
    bool spooled;     // the descriptor cannot be opened again
    bool regular;     // a file that may be there under another name, too
    uint64_t start, size;
    Stamp stamp; // of what is regular
} Part;

struct Text {
    Part *parts;
    size_t count;
    uint64_t size;
    Part *opened; // the regular file that is open, or NULL
};

static bool is_standard_input(const char *path) { return strcmp(path, "-") == 0; }

static bool open_input(const char *path, int *descriptor, struct stat *status, Error *error) {
    *descriptor = is_standard_input(path) ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC);
    if (*descriptor < 0 && (errno == ENOENT || errno == ENOTDIR || errno == EACCES))
        return error_set(error, ERROR_USER, "%s: %s", path, strerror(errno));
    if (*descriptor < 0 || fstat(*descriptor, status) != 0) return error_errno(error, "%s: cannot open", path);
    if (S_ISDIR(status->st_mode)) return error_set(error, ERROR_USER, "%s: is a folder; name its files", path);
    return true;
}

// Copies all of `in` to the file `out`.
static bool copy(int in, const char *path, int out, const char *directory, uint64_t *size, Error *error) {
    char buffer[1 << 16];
    for (;;) {
        ssize_t got = read(in, buffer, sizeof buffer);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return error_errno(error, "%s: cannot read", path);
        if (got == 0) return true;
        if (!descriptor_write(out, directory, buffer, (size_t)got, *size, error)) return false;
        *size += (uint64_t)got;
    }
}

// For a file system that makes no nameless files (FAT, NFS and others): one that has a name for a moment. Only a program
// that is killed right then leaves it, or a disk that keeps the name although it was removed.
static int open_unlinked(const char *directory, Error *error) {
    enum { NAMES = 100 };
    char file[32], name[4096];
    int out = -1;
    for (int i = 0; i < NAMES && out < 0; i++) { // never somebody's file, nor through a link
        snprintf(file, sizeof file, "input.%d.tmp", i);
        if (!path_join(name, sizeof name, directory, file, error)) return -1;
        out = descriptor_open(name, O_RDWR | O_CREAT | O_EXCL);
        if (out < 0 && errno != EEXIST) break;
    }
    if (out < 0) {
        error_errno(error, "%s: cannot write there", directory);
    } else if (unlink(name) != 0) {
        error_errno(error, "%s: cannot remove the name of a copy", name);
        close(out);
        return -1;
    }
    return out;
}

// The descriptor of a new file in the directory, or -1. It lives as long as its descriptor, whatever happens to this
// program.
static int open_nameless(const char *directory, Error *error) {
    const int out = descriptor_open(directory, O_RDWR | O_TMPFILE);
    if (out < 0 && (errno == EOPNOTSUPP || errno == EISDIR)) return open_unlinked(directory, error);
    if (out < 0) error_errno(error, "%s: cannot write there", directory);
    return out;
}

// Copies all of `in` to a nameless file in the directory; its descriptor, or -1.
static int spool(int in, const char *path, const char *directory, uint64_t *size, Error *error) {
    const int out = open_nameless(directory, error);
    if (out < 0 || copy(in, path, out, directory, size, error)) return out;
    close(out);
    return -1;
}

// Files of /proc and their like say that they are empty.
static bool size_is_unknown(int descriptor, const struct stat *status) {
    char byte;
    return status->st_size == 0 && pread(descriptor, &byte, 1, 0) > 0;
}

static bool add_part(Text *text, const char *path, const char *spool_directory, Error *error) {
    Part *part = &text->parts[text->count];
    *part = (Part){.path = path, .descriptor = -1, .start = text->size};
    int descriptor;
    struct stat status;
    bool good = open_input(path, &descriptor, &status, error);
    part->regular = good && S_ISREG(status.st_mode);
    if (part->regular) part->stamp = stamp_of(&status);
    part->spooled = good && (is_standard_input(path) || !part->regular || size_is_unknown(descriptor, &status));
    if (part->spooled) {
        part->descriptor = spool(descriptor, path, spool_directory, &part->size, error);
        good = part->descriptor >= 0;
    } else if (good) {
        part->size = (uint64_t)status.st_size;
    }
    if (descriptor >= 0) close(descriptor);
    text->count++;
    text->size += part->size;
    return good;
}

static int by_file(const void *left, const void *right) {
    const Stamp *a = &(*(const Part *const *)left)->stamp, *b = &(*(const Part *const *)right)->stamp;
    if (a->device != b->device) return a->device < b->device ? -1 : 1;
    return a->inode < b->inode ? -1 : a->inode > b->inode;
}

static bool check_different(const Text *text, Error *error) {
    const Part **sorted = calloc(text->count, sizeof *sorted);
    size_t count = 0;
    bool good = sorted || error_set(error, ERROR_MEMORY, "out of memory for the names of %zu texts", text->count);
    for (size_t i = 0; good && i < text->count; i++)
        if (text->parts[i].regular) sorted[count++] = &text->parts[i];
    if (good) qsort(sorted, count, sizeof *sorted, by_file);
    for (size_t i = 1; good && i < count; i++)
        if (by_file(&sorted[i - 1], &sorted[i]) == 0)
            good = error_set(error, ERROR_USER,
                             "%s: is there twice; what is held out would be trained on as well. Name each text once",
                             sorted[i]->path);
    free(sorted);
    return good;
}

Text *text_open(const char *const *paths, size_t count, const char *spool_directory, Error *error) {
    Text *text = calloc(1, sizeof *text);
    Part *parts = calloc(count + 1, sizeof *parts);
    if (!text || !parts) {
        error_set(error, ERROR_MEMORY, "out of memory for the names of %zu texts", count);
        free(text);
        free(parts);
        return NULL;
    }
    text->parts = parts;
    for (size_t i = 0; i < count; i++) {
        if (add_part(text, paths[i], spool_directory, error)) continue;
        text_close(text);
        return NULL;
    }
    if (check_different(text, error)) return text;
    text_close(text);
    return NULL;
}

bool text_includes(const Text *text, const char *path) {
    struct stat status;
    bool found = false;
    if (stat(path, &status) != 0) return false;
    for (size_t i = 0; i < text->count && !found; i++) {
        const Part *part = &text->parts[i];
        found = !part->spooled && part->stamp.device == status.st_dev && part->stamp.inode == status.st_ino;
    }
    return found;
}

uint64_t text_size(const Text *text) { return text->size; }

// Is what was opened or looked up still what text_open found?
static bool check_part(const Part *part, const struct stat *status, Error *error) {
    return stamp_holds(&part->stamp, status) ||
           error_set(
               error, ERROR_CORRUPT,
               "%s: it was changed or replaced while it was read; try again, or with a copy if it goes on changing",
               part->path);
}

static bool check_opened(const Part *part, Error *error) {
    struct stat status;
    if (part->spooled) return true; // nobody else has it
    if (fstat(part->descriptor, &status) != 0) return error_errno(error, "%s: cannot look at it", part->path);
    return check_part(part, &status, error);
}

static void close_opened(Text *text) {
    if (!text->opened) return;
    close(text->opened->descriptor);
    text->opened->descriptor = -1;
    text->opened = NULL;
}

static bool open_part(Text *text, Part *part, Error *error) {
    if (part->descriptor >= 0) return true;
    close_opened(text);
    part->descriptor = open(part->path, O_RDONLY | O_CLOEXEC);
    if (part->descriptor < 0) return error_errno(error, "%s: cannot open", part->path);
    text->opened = part;
    return true;
}

bool text_read(Text *text, uint64_t offset, char *buffer, size_t size, Error *error) {
    REQUIRE(offset <= text->size && size <= text->size - offset);
    for (size_t i = 0; i < text->count && size > 0; i++) {
        Part *part = &text->parts[i];
        if (offset >= part->start + part->size) continue;
        uint64_t left = part->start + part->size - offset;
        size_t chunk = left < size ? (size_t)left : size;
        Error why = {0};
        if (!open_part(text, part, error)) return false;
        const bool read = file_read_at(part->descriptor, part->path, buffer, chunk, offset - part->start, &why);
        if (!check_opened(part, error)) return false;
        if (!read) return error_set(error, why.kind, "%s", why.message);
        buffer += chunk;
        offset += chunk;
        size -= chunk;
    }
    return true;
}

bool text_check(const Text *text, Error *error) {
    for (size_t i = 0; i < text->count; i++) {
        const Part *part = &text->parts[i];
        struct stat status;
        if (part->descriptor >= 0) {
            if (!check_opened(part, error)) return false;
        } else {
            if (stat(part->path, &status) != 0) return error_errno(error, "%s: cannot look at it again", part->path);
            if (!check_part(part, &status, error)) return false;
        }
    }
    return true;
}

void text_close(Text *text) {
    if (!text) return;
    for (size_t i = 0; i < text->count; i++)
        if (text->parts[i].descriptor >= 0) close(text->parts[i].descriptor);
    free(text->parts);
    free(text);
}
