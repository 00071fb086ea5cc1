// See stamp.h.
#include "data/stamp.h"

Stamp stamp_of(const struct stat *status) {
    return (Stamp){status->st_dev, status->st_ino, status->st_size, status->st_mtim};
}

bool stamp_holds(const Stamp *stamp, const struct stat *status) {
    return stamp->device == status->st_dev && stamp->inode == status->st_ino && stamp->size == status->st_size &&
           stamp->modified.tv_sec == status->st_mtim.tv_sec && stamp->modified.tv_nsec == status->st_mtim.tv_nsec;
}
