// See memory_files.h. Descriptors of files in memory are numbers that the kernel does not give out, so a call that is not
// among these fails on them (EBADF) instead of doing something else.
#include "tests/fuzz/memory_files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "core/error.h"

enum { FILES = 32, OPEN_FILES = 32, FIRST_DESCRIPTOR = 1 << 24, NAME = 128 };

static struct File {
    char path[NAME]; // "": none
    char *bytes;     // kept when the file goes, for the next one
    size_t size, room;
} files[FILES];

static struct Open {
    bool used, append;
    struct File *file; // NULL: a folder
    size_t at;
} opened[OPEN_FILES];

static bool in_memory(const char *path) { return strncmp(path, MEMORY "/", sizeof MEMORY) == 0; }

static struct File *find(const char *path) {
    for (size_t i = 0; i < FILES; i++)
        if (strcmp(files[i].path, path) == 0) return &files[i];
    return NULL;
}

static struct File *find_or_make(const char *path) {
    struct File *file = find(path);
    if (file) return file;
    file = find("");
    REQUIRE(file && strlen(path) < NAME);
    strcpy(file->path, path);
    file->size = 0;
    return file;
}

static void resize(struct File *file, size_t size) {
    if (size > file->room) {
        file->room = size;
        file->bytes = realloc(file->bytes, file->room);
        REQUIRE(file->bytes);
    }
    if (size > file->size) memset(file->bytes + file->size, 0, size - file->size);
    file->size = size;
}

void memory_put(const char *path, const void *data, size_t size) {
    REQUIRE(in_memory(path));
    struct File *file = find_or_make(path);
    resize(file, size);
    if (size) memcpy(file->bytes, data, size);
}

static size_t below(const char *folder, const char *path) { // length of "FOLDER/", 0: not below it
    const size_t length = strlen(folder);
    return strncmp(path, folder, length) == 0 && path[length] == '/' ? length + 1 : 0;
}

void memory_clear(const char *beginning) {
    for (size_t i = 0; i < FILES; i++)
        if (strncmp(files[i].path, beginning, strlen(beginning)) == 0) *files[i].path = 0;
}

static struct Open *of(int descriptor) {
    const int at = descriptor - FIRST_DESCRIPTOR;
    return at >= 0 && at < OPEN_FILES && opened[at].used ? &opened[at] : NULL;
}

static int fails_with(int number) {
    errno = number;
    return -1;
}

static int open_file(const char *path, int flags) {
    struct File *file = flags & O_DIRECTORY ? NULL : flags & O_CREAT ? find_or_make(path) : find(path);
    const bool folder = (flags & O_ACCMODE) == O_RDONLY && !strchr(path + sizeof MEMORY, '/'); // MEMORY/FOLDER
    if (!file && !folder) return fails_with(ENOENT);
    if (file && flags & O_TRUNC) resize(file, 0);
    for (int i = 0; i < OPEN_FILES; i++) {
        if (opened[i].used) continue;
        opened[i] = (struct Open){.used = true, .append = flags & O_APPEND, .file = file};
        return FIRST_DESCRIPTOR + i;
    }
    REQUIRE(!"a descriptor is left");
    return -1;
}

static ssize_t read_at(const struct Open *from, void *data, size_t size, size_t at) {
    if (!from->file) return fails_with(EISDIR);
    const size_t left = at < from->file->size ? from->file->size - at : 0, bytes = size < left ? size : left;
    if (bytes) memcpy(data, from->file->bytes + at, bytes);
    return (ssize_t)bytes;
}

static ssize_t write_at(const struct Open *to, const void *data, size_t size, size_t at) {
    if (!to->file) return fails_with(EBADF);
    if (size && at + size > to->file->size) resize(to->file, at + size);
    if (size) memcpy(to->file->bytes + at, data, size);
    return (ssize_t)size;
}

static int status_of(const struct File *file, struct stat *status) {
    *status = (struct stat){.st_mode = file ? S_IFREG | 0644 : S_IFDIR | 0755, .st_size = file ? (off_t)file->size : 0};
    return 0;
}

// ---- in the place of libc's ------------------------------------------------------------------------------------------

// A call on a path or a descriptor of ours has this result.
#define CALL(result, name, ours, parameters, arguments, here)                                                          \
    result __real_##name parameters;                                                                                   \
    result __wrap_##name parameters;                                                                                   \
    result __wrap_##name parameters { return ours ? here : __real_##name arguments; }

CALL(ssize_t, pread, of(file), (int file, void *data, size_t size, off_t at), (file, data, size, at),
     read_at(of(file), data, size, (size_t)at))
CALL(ssize_t, pwrite, of(file), (int file, const void *data, size_t size, off_t at), (file, data, size, at),
     write_at(of(file), data, size, (size_t)at))
CALL(int, fsync, of(file), (int file), (file), 0)
CALL(int, close, of(file), (int file), (file), (of(file)->used = false, 0))
CALL(int, ftruncate, of(file), (int file, off_t size), (file, size), (resize(of(file)->file, (size_t)size), 0))
CALL(int, fstat, of(file), (int file, struct stat *status), (file, status), status_of(of(file)->file, status))
CALL(int, stat, in_memory(path), (const char *path, struct stat *status), (path, status),
     find(path) || !strchr(path + sizeof MEMORY, '/') ? status_of(find(path), status) : fails_with(ENOENT))
CALL(int, access, in_memory(path), (const char *path, int mode), (path, mode), find(path) ? 0 : fails_with(ENOENT))
CALL(int, mkdir, in_memory(path) || !strcmp(path, MEMORY), (const char *path, mode_t mode), (path, mode),
     fails_with(EEXIST))

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    const mode_t mode = flags & O_CREAT ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    return in_memory(path) ? open_file(path, flags) : __real_open(path, flags, mode);
}

int __real_fcntl(int file, int command, ...);
int __wrap_fcntl(int file, int command, ...);
int __wrap_fcntl(int file, int command, ...) {
    va_list arguments;
    va_start(arguments, command);
    const int argument = va_arg(arguments, int);
    va_end(arguments);
    return of(file) ? 0 : __real_fcntl(file, command, argument);
}

ssize_t __real_read(int file, void *data, size_t size);
ssize_t __wrap_read(int file, void *data, size_t size);
ssize_t __wrap_read(int file, void *data, size_t size) {
    struct Open *from = of(file);
    if (!from) return __real_read(file, data, size);
    const ssize_t done = read_at(from, data, size, from->at);
    from->at += done > 0 ? (size_t)done : 0;
    return done;
}

int __real_rename(const char *from, const char *to);
int __wrap_rename(const char *from, const char *to);
int __wrap_rename(const char *from, const char *to) {
    struct File *file = find(from);
    if (!in_memory(from)) return __real_rename(from, to);
    if (!file || strlen(to) >= NAME) return fails_with(ENOENT);
    memory_clear(to);
    strcpy(file->path, to);
    return 0;
}

FILE *__real_fopen(const char *path, const char *mode);
FILE *__wrap_fopen(const char *path, const char *mode);
FILE *__wrap_fopen(const char *path, const char *mode) {
    const struct File *file = find(path);
    if (!in_memory(path)) return __real_fopen(path, mode);
    if (file && file->size) return fmemopen(file->bytes, file->size, mode);
    if (file) return __real_fopen("/dev/null", mode);
    errno = ENOENT;
    return NULL;
}

typedef int Filter(const struct dirent *);
typedef int Compare(const struct dirent **, const struct dirent **);
int __real_scandir(const char *path, struct dirent ***entries, Filter *filter, Compare *compare);
int __wrap_scandir(const char *path, struct dirent ***entries, Filter *filter, Compare *compare);
int __wrap_scandir(const char *path, struct dirent ***entries, Filter *filter, Compare *compare) {
    if (!in_memory(path)) return __real_scandir(path, entries, filter, compare);
    struct dirent **list = calloc(FILES, sizeof *list);
    int count = 0;
    for (size_t i = 0; i < FILES; i++) {
        const size_t name = below(path, files[i].path);
        if (!name) continue;
        list[count] = calloc(1, sizeof **list);
        snprintf(list[count]->d_name, sizeof list[count]->d_name, "%s", files[i].path + name);
        if (filter(list[count]))
            count++;
        else
            free(list[count]);
    }
    qsort(list, (size_t)count, sizeof *list, (int (*)(const void *, const void *))compare);
    *entries = list;
    return count;
}
