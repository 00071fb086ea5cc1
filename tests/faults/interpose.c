// See interpose.h. The definitions here win over libc's, for the program and for every shared library.
#include "tests/faults/interpose.h"

#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

Fault fault;
bool fault_counting;
FaultShared *fault_shared;
int fault_record = -1;
static pid_t command_process;

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *old, size_t size);
void *__libc_memalign(size_t alignment, size_t size);
void __libc_free(void *block);

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
    if (!fault_counting || !(fault.calls & kind) || fault.in_children == (getpid() == command_process)) return false;
    size_t call = __atomic_add_fetch(&fault_shared->calls, 1, __ATOMIC_RELAXED);
    if (fault.effect == FAULT_NONE || call < fault.at || (call > fault.at && !fault.lasting)) return false;
    if (call == fault.at) trace();
    return true;
}

_Noreturn static void end(void) {
    syscall(SYS_exit_group, FAULT_KILLED);
    __builtin_unreachable();
}

// ---- crashes ---------------------------------------------------------------------------------------------------------

static bool is_sentencepiece(const void *address) {
    Dl_info where;
    return dladdr(address, &where) && strstr(where.dli_fname, "sentencepiece");
}

// The innermost frame that is neither libc's nor the C++ runtime's says whose crash it is.
static void note_crash(int number) {
    static Dl_info own, where;
    void *frames[64];
    fault_counting = false;
    dladdr((void *)(uintptr_t)note_crash, &own);
    const int count = backtrace(frames, 64);
    for (int i = 1; i < count; i++) { // the first one is this function
        if (is_sentencepiece(frames[i])) fault_shared->foreign = true;
        if (is_sentencepiece(frames[i]) || (dladdr(frames[i], &where) && where.dli_fbase == own.dli_fbase)) break;
    }
    signal(number, SIG_DFL);
    raise(number);
}

void fault_begin(void) {
    command_process = getpid();
    static const int numbers[] = {SIGSEGV, SIGABRT, SIGBUS, SIGFPE, SIGILL};
    void *frames[4];
    backtrace(frames, 4); // loads what it needs, which it could not in a process without memory
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) signal(numbers[i], note_crash);
}

// ---- memory --------------------------------------------------------------------------------------------------------

enum { BLOCKS = 1 << 18, FRAMES = 24 }; // a power of two: the table is a hash of addresses, probed linearly

typedef struct Block {
    void *address; // NULL: free
    void **frames; // (FRAMES), NULL without traces
} Block;

static Block blocks[BLOCKS];
static size_t block_count;
static bool tracking, tracing;
static char table_lock;

static size_t home_of(const void *address) { return ((uintptr_t)address >> 4) * 0x9e3779b97f4a7c15u >> 46; }

static void lock_table(void) {
    while (__atomic_test_and_set(&table_lock, __ATOMIC_ACQUIRE)) continue;
}

static void *remember(void *address) {
    if (!tracking || !address) return address;
    Block block = {address, NULL};
    if (tracing) {
        const bool counting = fault_counting;
        tracking = fault_counting = false;
        block.frames = __libc_calloc(FRAMES, sizeof(void *));
        backtrace(block.frames, FRAMES);
        fault_counting = counting;
        tracking = true;
    }
    lock_table();
    size_t at = home_of(address);
    if (++block_count == BLOCKS) abort();
    while (blocks[at].address) at = (at + 1) % BLOCKS;
    blocks[at] = block;
    __atomic_clear(&table_lock, __ATOMIC_RELEASE);
    return address;
}

// Blocks from before are not in the table. Those that stand behind the gap and were pushed past it move into it.
static void forget(const void *address) {
    if (!tracking || !address) return;
    lock_table();
    size_t at = home_of(address);
    while (blocks[at].address && blocks[at].address != address) at = (at + 1) % BLOCKS;
    if (blocks[at].address) {
        __libc_free(blocks[at].frames);
        block_count--;
        blocks[at] = (Block){0};
        for (size_t next = (at + 1) % BLOCKS; blocks[next].address; next = (next + 1) % BLOCKS) {
            const size_t home = home_of(blocks[next].address);
            if ((next - home) % BLOCKS < (next - at) % BLOCKS) continue;
            blocks[at] = blocks[next];
            blocks[next] = (Block){0};
            at = next;
        }
    }
    __atomic_clear(&table_lock, __ATOMIC_RELEASE);
}

void fault_track(bool traces) {
    void *frames[4];
    backtrace(frames, 4); // what it loads is not to be counted
    tracing = traces;
    tracking = true;
}

Leaks fault_leaks(void) {
    Leaks leaks = {0};
    tracking = false;
    for (size_t i = 0; i < BLOCKS; i++) {
        void **frames = blocks[i].frames;
        bool foreign = false;
        for (size_t k = 0; frames && k < FRAMES && frames[k]; k++) foreign |= is_sentencepiece(frames[k]);
        if (!blocks[i].address) continue;
        *(foreign ? &leaks.foreign : &leaks.own) += 1;
        if (!frames || foreign) continue;
        fprintf(stderr, "still allocated:\n");
        backtrace_symbols_fd(frames, FRAMES, 2);
    }
    return leaks;
}

// The stack is walked with counting off: the walk may allocate.
static void note_refusal(void) {
    void *frames[64];
    const bool was_tracking = tracking;
    fault_counting = tracking = false;
    for (int i = backtrace(frames, 64); i-- > 0 && !fault_shared->refused;)
        fault_shared->refused = is_sentencepiece(frames[i]);
    fault_counting = true;
    tracking = was_tracking;
}

static bool no_memory(void) {
    if (!hit(CALL_ALLOCATE)) return false;
    if (!fault_shared->refused) note_refusal();
    errno = ENOMEM;
    return true;
}

void *malloc(size_t size) { return no_memory() ? NULL : remember(__libc_malloc(size)); }
void *calloc(size_t count, size_t size) { return no_memory() ? NULL : remember(__libc_calloc(count, size)); }
void *realloc(void *old, size_t size) {
    if (no_memory()) return NULL;
    forget(old); // before another thread can be given its address
    void *moved = __libc_realloc(old, size);
    if (!moved && size > 0) remember(old);
    return remember(moved);
}
void *aligned_alloc(size_t alignment, size_t size) {
    return no_memory() ? NULL : remember(__libc_memalign(alignment, size));
}
void *memalign(size_t alignment, size_t size) { return aligned_alloc(alignment, size); }
int posix_memalign(void **out, size_t alignment, size_t size) {
    return (*out = aligned_alloc(alignment, size)) ? 0 : ENOMEM;
}
void free(void *block) {
    forget(block);
    __libc_free(block);
}

// ---- recording -------------------------------------------------------------------------------------------------------

// In one write, which the file position of the record makes the next one. A record that fails is worth nothing.
static void record_data(Change change, const char *path, const char *other, const void *data, size_t size) {
    if (fault_record < 0 || getpid() != command_process) return; // children have descriptors of their own
    if (path) change.path_size = (uint32_t)strlen(path) + 1;
    if (other) change.other_size = (uint32_t)strlen(other) + 1;
    change.data_size = size;
    struct iovec parts[] = {{&change, sizeof change},
                            {(void *)(uintptr_t)path, change.path_size},
                            {(void *)(uintptr_t)other, change.other_size},
                            {(void *)(uintptr_t)data, size}};
    const size_t total = sizeof change + change.path_size + change.other_size + size;
    if (syscall(SYS_writev, fault_record, parts, 4) != (long)total) end();
}

static void record(ChangeKind kind, int descriptor, const char *path, const char *other) {
    const int cause = errno;
    record_data((Change){.kind = kind, .descriptor = descriptor}, path, other, NULL, 0);
    errno = cause;
}

// ---- calls that move bytes -------------------------------------------------------------------------------------------

// number: of the system call; offset -1: it takes none.
static ssize_t transfer(CallKind kind, long number, int descriptor, void *data, size_t size, off_t offset) {
    const bool now = hit(kind);
    if (now && fault.effect == FAULT_ERRNO) {
        errno = fault.number;
        return -1;
    }
    if (now && fault.effect == FAULT_KILL_BEFORE) end();
    if (now && (fault.effect == FAULT_SHORT || fault.effect == FAULT_KILL_TORN) && size > 1) size /= 2;
    ssize_t moved = syscall(number, descriptor, data, size, offset);
    if (kind == CALL_WRITE && moved > 0)
        record_data((Change){.kind = CHANGE_WRITE, .descriptor = descriptor, .offset = offset}, NULL, NULL, data,
                    (size_t)moved);
    if (now && fault.effect >= FAULT_KILL_AFTER) end();
    return moved;
}

ssize_t write(int descriptor, const void *data, size_t size) {
    return transfer(CALL_WRITE, SYS_write, descriptor, (void *)(uintptr_t)data, size, -1);
}
ssize_t pwrite(int descriptor, const void *data, size_t size, off_t offset) {
    return transfer(CALL_WRITE, SYS_pwrite64, descriptor, (void *)(uintptr_t)data, size, offset);
}
ssize_t read(int descriptor, void *data, size_t size) {
    return transfer(CALL_READ, SYS_read, descriptor, data, size, -1);
}
ssize_t pread(int descriptor, void *data, size_t size, off_t offset) {
    return transfer(CALL_READ, SYS_pread64, descriptor, data, size, offset);
}
// The program gathers lines of metrics with it, which are short: they go as one write that can be cut anywhere.
ssize_t writev(int descriptor, const struct iovec *parts, int count) {
    static _Thread_local char line[1 << 16];
    size_t used = 0;
    for (int i = 0; i < count; i++) {
        if (parts[i].iov_len > sizeof line - used) abort();
        memcpy(line + used, parts[i].iov_base, parts[i].iov_len);
        used += parts[i].iov_len;
    }
    return write(descriptor, line, used);
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

// A call that changes names, which is recorded if it went well.
static int named(bool now, long result, ChangeKind kind, const char *path, const char *other) {
    if (result == 0) record(kind, -1, path, other);
    return (int)after(now, result);
}

int open(const char *path, int flags, ...) {
    bool now;
    va_list arguments;
    va_start(arguments, flags);
    const int mode = flags & O_CREAT ? va_arg(arguments, int) : 0;
    va_end(arguments);
    if (!before(CALL_OPEN, &now)) return -1;
    const int descriptor = (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    if (descriptor >= 0)
        record_data((Change){.kind = CHANGE_OPEN, .descriptor = descriptor, .flags = flags}, path, NULL, NULL, 0);
    return (int)after(now, descriptor);
}
int fsync(int descriptor) {
    bool now;
    if (!before(CALL_SYNC, &now)) return -1;
    const int result = (int)syscall(SYS_fsync, descriptor);
    if (result == 0) record(CHANGE_SYNC, descriptor, NULL, NULL);
    return (int)after(now, result);
}
int close(int descriptor) {
    bool now;
    before(CALL_CLOSE, &now);
    record(CHANGE_CLOSE, descriptor, NULL, NULL);
    const int result = (int)after(now, syscall(SYS_close, descriptor));
    if (!now || fault.effect != FAULT_ERRNO) return result;
    errno = fault.number;
    return -1;
}
int rename(const char *from, const char *to) {
    bool now;
    return before(CALL_RENAME, &now) ? named(now, syscall(SYS_rename, from, to), CHANGE_RENAME, from, to) : -1;
}
int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
    bool now;
    return before(CALL_RENAME, &now) ? named(now, syscall(SYS_renameat2, from_folder, from, to_folder, to, flags),
                                             CHANGE_EXCHANGE, from, to)
                                     : -1;
}
int mkdir(const char *path, mode_t mode) {
    bool now;
    return before(CALL_NAME, &now) ? named(now, syscall(SYS_mkdir, path, mode), CHANGE_MKDIR, path, NULL) : -1;
}
int symlink(const char *target, const char *path) {
    bool now;
    return before(CALL_NAME, &now) ? named(now, syscall(SYS_symlink, target, path), CHANGE_LINK, target, path) : -1;
}
int unlink(const char *path) {
    bool now;
    return before(CALL_NAME, &now) ? named(now, syscall(SYS_unlink, path), CHANGE_REMOVE, path, NULL) : -1;
}
int remove(const char *path) {
    bool now;
    if (!before(CALL_NAME, &now)) return -1;
    long result = syscall(SYS_unlink, path);
    if (result < 0 && (errno == EISDIR || errno == EPERM)) result = syscall(SYS_rmdir, path);
    return named(now, result, CHANGE_REMOVE, path, NULL);
}
int ftruncate(int descriptor, off_t size) {
    bool now;
    if (!before(CALL_TRUNCATE, &now)) return -1;
    const int result = (int)syscall(SYS_ftruncate, descriptor, size);
    if (result == 0)
        record_data((Change){.kind = CHANGE_TRUNCATE, .descriptor = descriptor, .offset = size}, NULL, NULL, NULL, 0);
    return (int)after(now, result);
}
