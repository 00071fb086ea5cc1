// What files.c, file_writer.c and directories.c share with those who keep descriptors themselves: system calls that go on
// after EINTR and short writes, and whose errors name the path.
#ifndef ROPE_CORE_DESCRIPTOR_H
#define ROPE_CORE_DESCRIPTOR_H

#include <limits.h>
#include <stdint.h>

#include "core/error.h"

int descriptor_open(const char *path, int flags); // close-on-exec, mode 0666; negative with errno on failure
int descriptor_open_to_read(const char *path);    // does not wait for a pipe's writer
// Locks what was opened under that path, for directory_lock and file_begin_alone; closes it if that fails, and returns -1.
int descriptor_lock(int descriptor, const char *path, const char *what, Error *error);
bool descriptor_write(int descriptor, const char *path, const void *data, size_t size, uint64_t offset, Error *error);
bool descriptor_sync(int descriptor, const char *path, Error *error);
bool descriptor_close(int descriptor, const char *path, Error *error);
bool descriptor_parent(const char *path, char folder[PATH_MAX], Error *error); // the folder that holds the name
// A new or renamed file is on disk when the folder that holds its name is.
bool descriptor_sync_parent(const char *path, Error *error);

#endif
