// System calls in their loops (see descriptor.h).
#include "core/descriptor.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

int descriptor_open(const char *path, int flags) {
    int descriptor;
    do descriptor = open(path, flags | O_CLOEXEC, 0666);
    while (descriptor < 0 && errno == EINTR);
    return descriptor;
}

// Without O_NONBLOCK a pipe that nobody writes to stops the program here; with it, reading one that is written to would
// not wait.
int descriptor_open_to_read(const char *path) {
    const int descriptor = descriptor_open(path, O_RDONLY | O_NONBLOCK);
    if (descriptor >= 0) fcntl(descriptor, F_SETFL, 0);
    return descriptor;
}

bool descriptor_write(int descriptor, const char *path, const void *data, size_t size, uint64_t offset, Error *error) {
    const unsigned char *from = data;
    while (size > 0) {
        ssize_t done = pwrite(descriptor, from, size < SSIZE_MAX ? size : SSIZE_MAX, (off_t)offset);
        if (done < 0 && errno == ESPIPE) done = write(descriptor, from, size); // pipes and terminals have no offsets
        if (done < 0 && errno == EINTR) continue;
        if (done == 0) errno = ENOSPC; // a device that takes nothing and says nothing
        if (done <= 0) return error_errno(error, "Cannot write %s", path);
        from += done;
        size -= (size_t)done;
        offset += (uint64_t)done;
    }
    return true;
}

// EINVAL, ENOTSUP: pipes, terminals and some devices have nothing to flush to.
bool descriptor_sync(int descriptor, const char *path, Error *error) {
    int status;
    do status = fsync(descriptor);
    while (status < 0 && errno == EINTR);
    if (status < 0 && errno != EINVAL && errno != ENOTSUP) return error_errno(error, "Cannot flush %s to disk", path);
    return true;
}

// After EINTR the descriptor is gone all the same (Linux), and fsync has already reported what matters.
bool descriptor_close(int descriptor, const char *path, Error *error) {
    if (close(descriptor) == 0 || errno == EINTR) return true;
    return error_errno(error, "Cannot close %s", path);
}

int descriptor_lock(int descriptor, const char *path, const char *what, Error *error) {
    struct stat locked, named = {0};
    if (descriptor < 0) {
        error_errno(error, "Opening %s", path);
        return -1;
    }
    const bool held = flock(descriptor, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    // Whoever held it a moment ago may have removed or renamed it, and another may have made it again.
    if (!held && (fstat(descriptor, &locked) != 0 || (stat(path, &named) != 0 && errno != ENOENT)))
        error_errno(error, "Cannot look for %s", path);
    else if (!held && locked.st_dev == named.st_dev && locked.st_ino == named.st_ino)
        return descriptor;
    error_set(error, ERROR_USER, "%s is being %s by another process.", path, what);
    close(descriptor);
    return -1;
}

bool descriptor_parent(const char *path, char folder[PATH_MAX], Error *error) {
    if (snprintf(folder, PATH_MAX, "%s", path) >= PATH_MAX)
        return error_set(error, ERROR_USER, "The path %.100s... is too long.", path);
    size_t length = strlen(folder);
    while (length > 0 && folder[length - 1] == '/') length--; // "a/b/" is b in a
    while (length > 0 && folder[length - 1] != '/') length--;
    while (length > 1 && folder[length - 1] == '/') length--;
    if (length == 0) folder[length++] = '.';
    folder[length] = '\0';
    return true;
}

// A rename is on disk when the folder that holds the name is.
bool descriptor_sync_parent(const char *path, Error *error) {
    char folder[PATH_MAX];
    if (!descriptor_parent(path, folder, error)) return false;
    int descriptor = descriptor_open(folder, O_RDONLY | O_DIRECTORY);
    if (descriptor < 0) return error_errno(error, "Cannot open the folder %s", folder);
    bool good = descriptor_sync(descriptor, folder, error);
    return descriptor_close(descriptor, folder, error) && good;
}
