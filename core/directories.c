// Directories and what is in them (see files.h). Those that appear whole are written under a temporary name, flushed file
// by file, then renamed.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/descriptor.h"
#include "core/files.h"

bool directory_make(const char *path, Error *error) {
    char partial[PATH_MAX];
    size_t length = strlen(path);
    if (length == 0 || length >= sizeof partial)
        return error_set(error, ERROR_USER, "\"%.100s\" cannot be the path of a folder.", path);
    for (size_t i = 1; i <= length; i++) {
        if (path[i] != '/' && path[i] != '\0') continue;
        snprintf(partial, sizeof partial, "%.*s", (int)i, path);
        if (mkdir(partial, 0777) == 0) {
            if (!descriptor_sync_parent(partial, error)) return false;
        } else if (errno != EEXIST && errno != EISDIR) {
            return error_errno(error, "Cannot create the folder %s", partial);
        }
    }
    struct stat status;
    if (stat(path, &status) < 0) return error_errno(error, "Cannot create the folder %s", path);
    if (!S_ISDIR(status.st_mode)) return error_set(error, ERROR_USER, "%s exists and is not a folder.", path);
    return true;
}

int directory_lock(const char *path, const char *what, Error *error) {
    const int descriptor = descriptor_open(path, O_RDONLY | O_DIRECTORY);
    return descriptor_lock(descriptor, path, what, error);
}

bool directory_make_parent(const char *path, Error *error) {
    char folder[PATH_MAX];
    return descriptor_parent(path, folder, error) && directory_make(folder, error);
}

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *position) {
    (void)status, (void)type, (void)position;
    return remove(path) == 0 || errno == ENOENT ? 0 : -1;
}

enum { OPEN_FOLDERS = 16 }; // descriptors that nftw may hold

bool directory_remove(const char *path, Error *error) {
    if (nftw(path, remove_entry, OPEN_FOLDERS, FTW_DEPTH | FTW_PHYS) == 0 || errno == ENOENT) return true;
    return error_errno(error, "Cannot remove %s", path);
}

static int is_visible(const struct dirent *entry) { return entry->d_name[0] != '.'; }

// By bytes, whatever the locale.
static int by_name(const struct dirent **left, const struct dirent **right) {
    return strcmp((*left)->d_name, (*right)->d_name);
}

bool directory_list(DirectoryList *list, const char *path, Error *error) {
    *list = (DirectoryList){0};
    const int count = scandir(path, &list->entries, is_visible, by_name);
    if (count < 0) return error_errno(error, "Cannot list %s", path);
    list->count = (size_t)count;
    return true;
}

void directory_list_free(DirectoryList *list) {
    for (size_t i = 0; i < list->count; i++) free(list->entries[i]);
    free(list->entries);
    *list = (DirectoryList){0};
}

// "runs/a/step_1/" names the same directory as "runs/a/step_1", but not with a suffix behind it.
static int without_slashes(const char *path) {
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/') length--;
    return (int)length;
}

static bool name_beside(const char *path, const char *suffix, char *name, size_t size, Error *error) {
    const int wanted = snprintf(name, size, "%.*s%s", without_slashes(path), path, suffix);
    return (wanted >= 0 && (size_t)wanted < size) ||
           error_set(error, ERROR_USER, "The path %.100s... is too long.", path);
}

bool directory_begin(const char *final_path, char *temporary, size_t temporary_size, Error *error) {
    if (!name_beside(final_path, ".tmp", temporary, temporary_size, error)) return false;
    // What is there now was left by a program that was stopped while it wrote.
    return directory_remove(temporary, error) && directory_make(temporary, error);
}

static bool is_one_of(const struct dirent *entry, const char *const *names) {
    const char *name = entry->d_name;
    const size_t size = strlen(name), length = size > 4 && !strcmp(name + size - 4, ".tmp") ? size - 4 : size;
    if (!strcmp(name, ".") || !strcmp(name, "..")) return true;
    if (entry->d_type != DT_REG && entry->d_type != DT_UNKNOWN) return false;
    for (; *names; names++)
        if (strlen(*names) == length && !strncmp(*names, name, length)) return true;
    return false;
}

// Nothing but files of these names is in it.
static bool is_leftover(const char *path, const char *const *names, Error *error) {
    struct dirent **entries = NULL;
    const int count = scandir(path, &entries, NULL, NULL);
    bool ours = count >= 0;
    for (int i = 0; i < count; i++) {
        ours = ours && is_one_of(entries[i], names);
        free(entries[i]);
    }
    free(entries);
    if (count < 0) return error_errno(error, "Cannot list %s", path);
    return ours || error_set(error, ERROR_USER,
                             "%s is in the way, and is nothing that an interrupted program left there: move it away, or "
                             "choose another path.",
                             path);
}

int directory_begin_alone(const char *final_path, const char *const *names, char *temporary, size_t temporary_size,
                          Error *error) {
    if (!name_beside(final_path, ".tmp", temporary, temporary_size, error) ||
        !directory_make_parent(final_path, error))
        return -1;
    struct stat status;
    if (lstat(temporary, &status) == 0) { // left by a program that was stopped, or another is at it
        const int lock = directory_lock(temporary, "written", error);
        const bool removed = lock >= 0 && is_leftover(temporary, names, error) && directory_remove(temporary, error);
        if (lock >= 0) close(lock);
        if (!removed) return -1;
    }
    if (mkdir(temporary, 0777) == 0) return directory_lock(temporary, "written", error);
    error_errno(error, "Cannot create the folder %s", temporary);
    return -1;
}

static _Thread_local Error *sync_error; // nftw passes nothing through to its callback

static int sync_entry(const char *path, const struct stat *status, int type, struct FTW *position) {
    (void)status, (void)position;
    if (type != FTW_F && type != FTW_DP) return 0; // links have nothing of their own to flush
    int descriptor = descriptor_open(path, O_RDONLY);
    if (descriptor < 0) {
        error_errno(sync_error, "Cannot open %s", path);
        return -1;
    }
    bool good = descriptor_sync(descriptor, path, sync_error);
    return descriptor_close(descriptor, path, sync_error) && good ? 0 : -1;
}

// Where two directories cannot change names in one step (some network file systems), the old one steps aside first: a
// power cut between the two renames leaves it as PATH.old.
static bool replace_by_two_renames(const char *temporary, const char *final_path, Error *error) {
    char old[PATH_MAX];
    if (!name_beside(final_path, ".old", old, sizeof old, error) || !directory_remove(old, error)) return false;
    if (rename(final_path, old) < 0) return error_errno(error, "Cannot rename %s to %s", final_path, old);
    if (rename(temporary, final_path) < 0) {
        error_errno(error, "Cannot rename %s to %s", temporary, final_path);
        rename(old, final_path); // best effort: the message is about the rename that failed first
        return false;
    }
    return descriptor_sync_parent(final_path, error) && directory_remove(old, error);
}

bool directory_commit(const char *temporary, const char *final_path, Error *error) {
    Error local = {0};
    sync_error = error ? error : &local;
    if (nftw(temporary, sync_entry, OPEN_FOLDERS, FTW_DEPTH | FTW_PHYS) != 0)
        return error_errno(error, "Cannot flush %s to disk", temporary); // if sync_entry left no better message
    if (rename(temporary, final_path) == 0) return descriptor_sync_parent(final_path, error);
    if (errno != ENOTEMPTY && errno != EEXIST)
        return error_errno(error, "Cannot rename %s to %s", temporary, final_path);
    // There is an older one: change names in one step, so that a whole directory has the name at every moment.
    if (renameat2(AT_FDCWD, temporary, AT_FDCWD, final_path, RENAME_EXCHANGE) < 0) {
        if (errno == EINVAL || errno == ENOSYS || errno == ENOTSUP)
            return replace_by_two_renames(temporary, final_path, error);
        return error_errno(error, "Cannot exchange %s and %s", temporary, final_path);
    }
    return descriptor_sync_parent(final_path, error) && directory_remove(temporary, error);
}
