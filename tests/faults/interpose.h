// Fault injection from within: the test program defines malloc and the system calls that change files itself, so that
// the library, jansson, SentencePiece and libc's own strdup all run through here. A child process arms one fault and runs
// a command of the program.
#ifndef ROPE_TESTS_FAULTS_INTERPOSE_H
#define ROPE_TESTS_FAULTS_INTERPOSE_H

#include <stdbool.h>
#include <stddef.h>

typedef enum CallKind {
    CALL_OPEN = 1 << 0,
    CALL_READ = 1 << 1, // read, pread
    CALL_WRITE = 1 << 2, // write, pwrite
    CALL_SYNC = 1 << 3,
    CALL_CLOSE = 1 << 4,
    CALL_RENAME = 1 << 5, // rename, renameat2
    CALL_NAME = 1 << 6, // mkdir, unlink, rmdir, remove, symlink
    CALL_TRUNCATE = 1 << 7,
    CALL_ALLOCATE = 1 << 8, // malloc, calloc, realloc, aligned_alloc
} CallKind;

typedef enum FaultEffect {
    FAULT_NONE,
    FAULT_ERRNO,       // fails with `number`; a failing close closes all the same
    FAULT_SHORT,       // reads and writes move half of the bytes, at least one
    FAULT_KILL_BEFORE, // the process ends as by SIGKILL
    FAULT_KILL_AFTER,
    FAULT_KILL_TORN,   // a write moves half of its bytes before that
} FaultEffect;

typedef struct Fault {
    FaultEffect effect;
    int calls;        // CallKinds that count
    size_t at;        // the first call that is hit, from 1
    bool lasting;     // every later one too
    int number;       // errno
} Fault;

enum { FAULT_KILLED = 137 };

extern Fault fault;         // armed by the child; FAULT_NONE counts only
extern bool fault_counting; // calls are counted from now on
extern size_t fault_calls;  // calls of fault.calls so far
extern bool *fault_foreign; // in shared memory: set when SentencePiece, which does not survive it, was refused memory

#endif
