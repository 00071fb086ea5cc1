// Files that are either the old one or the new one, whole. Every write loops over EINTR and short writes, is followed
// by fsync, and reports ENOSPC and EIO with the path.
#ifndef ROPE_CORE_FILES_H
#define ROPE_CORE_FILES_H

#include <stdint.h>

#include "core/error.h"

#ifdef __cplusplus
extern "C" {
#endif

// A buffered writer. Open, write, then close (flush, fsync, close); on any failure the writer stays
// failed, later calls return false, and close reports the first cause. file_writer_abandon drops it without an fsync.
typedef struct FileWriter FileWriter;
FileWriter *file_writer_open(const char *path, Error *error); // creates or truncates; not through a symbolic link
bool file_writer_write(FileWriter *writer, const void *data, size_t size);
bool file_writer_write_at(FileWriter *writer, uint64_t offset, const void *data, size_t size); // patches a header
bool file_writer_close(FileWriter *writer, Error *error); // frees in every case
void file_writer_abandon(FileWriter *writer);

// Files that appear whole: written and closed under the temporary name (path.tmp), then committed, which renames over path
// and fsyncs the folder. What cannot be renamed is removed.
bool file_begin(const char *path, char *temporary, size_t temporary_size, Error *error); // the name alone
// For a path that several programs may write: makes the temporary file, locked until the descriptor is closed; -1 if
// another holds it, or after another failure. What is there under the temporary name is written over only if it begins
// as such files do, with `magic`; else it is somebody's, and that is the user's error.
int file_begin_alone(const char *path, const char *magic, char *temporary, size_t temporary_size, Error *error);
bool file_commit(const char *temporary, const char *path, Error *error);
// All of that.
bool file_write_atomic(const char *path, const void *data, size_t size, Error *error);
// Appends the line, and a newline unless it ends with one, in one system call where possible. `descriptor` was opened
// with O_APPEND, or stands at the end.
bool file_append_line(int descriptor, const char *line, size_t size, Error *error);
// fsync, gone on with after an interruption. Pipes and terminals, which have nothing to flush to, are fine.
bool file_sync(int descriptor, const char *path, Error *error);
// The whole file in malloc'd memory with a NUL appended; refuses more than `limit` bytes. *size excludes the NUL.
// No such file, or too large a one, is the user's error. Reads pipes too; one that nobody writes to is empty.
char *file_read_all(const char *path, size_t limit, size_t *size, Error *error);
// Exactly `size` bytes at `offset`; a short file is ERROR_CORRUPT "truncated". No mmap: a file cut short must not be
// SIGBUS.
bool file_read_at(int descriptor, const char *path, void *data, size_t size, uint64_t offset, Error *error);

// Directories that appear whole: write into the temporary one (FINAL.tmp, empty, parents made; a leftover is removed),
// then commit (fsync all in it, rename or exchange with the one that is there, fsync the parent).
bool directory_make(const char *path, Error *error); // mkdir -p
bool directory_make_parent(const char *path, Error *error); // of the folder that holds the path's last part
bool directory_begin(const char *final_path, char *temporary, size_t temporary_size, Error *error);
// As file_begin_alone; what is there is removed only if it holds nothing but files of these names (NULL at the end), with
// or without .tmp behind them.
int directory_begin_alone(const char *final_path, const char *const *names, char *temporary, size_t temporary_size,
                          Error *error);
bool directory_commit(const char *temporary, const char *final_path, Error *error); // replaces an existing directory
// Opens a directory and keeps others out that do the same, until the descriptor is closed. -1 if that fails; what
// another program holds is the user's error, "PATH is being WHAT by another process." File systems without locks keep
// nobody out.
int directory_lock(const char *path, const char *what, Error *error);
bool directory_remove(const char *path, Error *error); // recursive, does not follow links; fine if it is gone
// What is in it but for names that begin with a dot, sorted by their bytes. A listing that breaks off is an error, and not
// a shorter listing. Freed by directory_list_free, which also takes what a failure leaves.
typedef struct DirectoryList {
    struct dirent **entries;
    size_t count;
} DirectoryList;
bool directory_list(DirectoryList *list, const char *path, Error *error);
void directory_list_free(DirectoryList *list);

uint32_t checksum(uint32_t running, const void *data, size_t size); // zlib crc32; start with 0
// The crc32 of a file. ERROR_SYSTEM if it cannot be read.
bool file_checksum(const char *path, uint32_t *crc, Error *error);
bool file_same(const char *a, const char *b); // one file or directory, by whatever names; false if either is not there
bool path_join(char *out, size_t out_size, const char *directory, const char *name, Error *error);

#ifdef __cplusplus
}
#endif
#endif
