// Whether an open file is still what it was: texts and shards stay open for hours, and other programs may write to them.
#ifndef ROPE_DATA_STAMP_H
#define ROPE_DATA_STAMP_H

#include <stdbool.h>
#include <sys/stat.h>

typedef struct Stamp {
    dev_t device;
    ino_t inode;
    off_t size;
    struct timespec modified;
} Stamp;

Stamp stamp_of(const struct stat *status);
// The file with that status is the same one, and nobody wrote to it since, as far as its time of modification tells: two
// changes within one tick of the file system's clock (4 ms, on some network file systems a second) have the same.
bool stamp_holds(const Stamp *stamp, const struct stat *status);

#endif
