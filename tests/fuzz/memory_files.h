// Files in memory for the fuzz targets. A run takes microseconds, and the kernel's part of opening, writing and reading
// files took half of it; so the linker puts functions of memory_files.c in the place of libc's (--wrap; CALLS_IN_MEMORY
// in tests/reliability.mk), in our own code, and paths below MEMORY never reach the kernel. A folder is there as soon as
// its name is used. What libraries open by themselves, and folders that are renamed or walked through, stay on disk.
#ifndef ROPE_TESTS_FUZZ_MEMORY_FILES_H
#define ROPE_TESTS_FUZZ_MEMORY_FILES_H

#include <stddef.h>

#define MEMORY "/memory"

// The file (a path below MEMORY) holds these bytes now. Not while it is open.
void memory_put(const char *path, const void *data, size_t size);
// Removes every file whose path begins with this.
void memory_clear(const char *beginning);

#endif
