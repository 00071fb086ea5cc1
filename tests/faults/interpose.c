// See interpose.h. The definitions here win over libc's, for the program and for every shared library.
#include "tests/faults/interpose.h"

#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

Fault fault;
bool fault_counting;
size_t fault_calls;
bool *fault_foreign;

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *old, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

// $FAULT_TRACE: where the fault strikes, for addr2line.
static void trace(void) {
    void *frames[32];
    if (!getenv("FAULT_TRACE")) return;
    fault_counting = false;
    backtrace_symbols_fd(frames, backtrace(frames, 32), 2);
    fault_counting = true;
}

// True if this call is to be hit.
static bool hit(CallKind kind) {
    if (!fault_counting || !(fault.calls & kind)) return false;
    size_t call = __atomic_add_fetch(&fault_calls, 1, __ATOMIC_RELAXED);
    if (fault.effect == FAULT_NONE || call < fault.at || (call > fault.at && !fault.lasting)) return false;
    if (call == fault.at) trace();
    return true;
}

_Noreturn static void end(void) {
    syscall(SYS_exit_group, FAULT_KILLED);
    __builtin_unreachable();
}

// ---- memory --------------------------------------------------------------------------------------------------------

// Looks for the library among the callers. The stack is walked with counting off: the walk may allocate.
static void note_foreign(void) {
    void *frames[64];
    Dl_info where;
    fault_counting = false;
    for (int i = backtrace(frames, 64); i-- > 0 && !*fault_foreign;)
        *fault_foreign = dladdr(frames[i], &where) && strstr(where.dli_fname, "sentencepiece");
    fault_counting = true;
}

static bool no_memory(void) {
    if (!hit(CALL_ALLOCATE)) return false;
    if (fault_foreign && !*fault_foreign) note_foreign();
    errno = ENOMEM;
    return true;
}

void *malloc(size_t size) { return no_memory() ? NULL : __libc_malloc(size); }
void *calloc(size_t count, size_t size) { return no_memory() ? NULL : __libc_calloc(count, size); }
void *realloc(void *old, size_t size) { return no_memory() ? NULL : __libc_realloc(old, size); }
void *aligned_alloc(size_t alignment, size_t size) { return no_memory() ? NULL : __libc_memalign(alignment, size); }
void *memalign(size_t alignment, size_t size) { return no_memory() ? NULL : __libc_memalign(alignment, size); }
int posix_memalign(void **out, size_t alignment, size_t size) {
    return no_memory() || !(*out = __libc_memalign(alignment, size)) ? ENOMEM : 0;
}

// ---- calls that move bytes -------------------------------------------------------------------------------------------

// number: of the system call; offset < 0: it takes none.
static ssize_t transfer(CallKind kind, long number, int descriptor, void *data, size_t size, off_t offset) {
    const bool now = hit(kind);
    if (now && fault.effect == FAULT_ERRNO) {
        errno = fault.number;
        return -1;
    }
    if (now && fault.effect == FAULT_KILL_BEFORE) end();
    if (now && (fault.effect == FAULT_SHORT || fault.effect == FAULT_KILL_TORN) && size > 1) size /= 2;
    ssize_t moved = syscall(number, descriptor, data, size, offset);
    if (now && fault.effect >= FAULT_KILL_AFTER) end();
    return moved;
}

ssize_t write(int descriptor, const void *data, size_t size) {
    return transfer(CALL_WRITE, SYS_write, descriptor, (void *)(uintptr_t)data, size, 0);
}
ssize_t pwrite(int descriptor, const void *data, size_t size, off_t offset) {
    return transfer(CALL_WRITE, SYS_pwrite64, descriptor, (void *)(uintptr_t)data, size, offset);
}
ssize_t read(int descriptor, void *data, size_t size) {
    return transfer(CALL_READ, SYS_read, descriptor, data, size, 0);
}
ssize_t pread(int descriptor, void *data, size_t size, off_t offset) {
    return transfer(CALL_READ, SYS_pread64, descriptor, data, size, offset);
}

// ---- all others ------------------------------------------------------------------------------------------------------

// False: the call failed or the process is gone. The caller then returns -1.
static bool before(CallKind kind, bool *now) {
    *now = hit(kind);
    if (*now && fault.effect == FAULT_KILL_BEFORE) end();
    if (*now && fault.effect == FAULT_ERRNO && kind != CALL_CLOSE) {
        errno = fault.number;
        return false;
    }
    return true;
}

static long after(bool now, long result) {
    if (now && fault.effect >= FAULT_KILL_AFTER) end();
    return result;
}

int open(const char *path, int flags, ...) {
    bool now;
    va_list arguments;
    va_start(arguments, flags);
    const int mode = flags & O_CREAT ? va_arg(arguments, int) : 0;
    va_end(arguments);
    return before(CALL_OPEN, &now) ? (int)after(now, syscall(SYS_openat, AT_FDCWD, path, flags, mode)) : -1;
}
int fsync(int descriptor) {
    bool now;
    return before(CALL_SYNC, &now) ? (int)after(now, syscall(SYS_fsync, descriptor)) : -1;
}
int close(int descriptor) {
    bool now;
    before(CALL_CLOSE, &now);
    const int result = (int)after(now, syscall(SYS_close, descriptor));
    if (!now || fault.effect != FAULT_ERRNO) return result;
    errno = fault.number;
    return -1;
}
int rename(const char *from, const char *to) {
    bool now;
    return before(CALL_RENAME, &now) ? (int)after(now, syscall(SYS_rename, from, to)) : -1;
}
int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
    bool now;
    return before(CALL_RENAME, &now)
               ? (int)after(now, syscall(SYS_renameat2, from_folder, from, to_folder, to, flags)) : -1;
}
int mkdir(const char *path, mode_t mode) {
    bool now;
    return before(CALL_NAME, &now) ? (int)after(now, syscall(SYS_mkdir, path, mode)) : -1;
}
int symlink(const char *target, const char *path) {
    bool now;
    return before(CALL_NAME, &now) ? (int)after(now, syscall(SYS_symlink, target, path)) : -1;
}
int unlink(const char *path) {
    bool now;
    return before(CALL_NAME, &now) ? (int)after(now, syscall(SYS_unlink, path)) : -1;
}
int remove(const char *path) {
    bool now;
    if (!before(CALL_NAME, &now)) return -1;
    long result = syscall(SYS_unlink, path);
    if (result < 0 && (errno == EISDIR || errno == EPERM)) result = syscall(SYS_rmdir, path);
    return (int)after(now, result);
}
int ftruncate(int descriptor, off_t size) {
    bool now;
    return before(CALL_TRUNCATE, &now) ? (int)after(now, syscall(SYS_ftruncate, descriptor, size)) : -1;
}
