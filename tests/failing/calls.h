// Calls that fail on demand, within a unit test: each call for memory, to the disk or for a process that the code under
// test makes fails in turn, and after each the test says what must hold.
//
// The linker puts these functions in the place of libc's (--wrap; CALLS_THAT_FAIL in tests/reliability.mk), in our own
// code only: what libraries ask for by themselves never fails, which SentencePiece would not survive, but what jansson
// asks for does (core/json_text.c). So it works under the sanitizers too. Whole commands with everything failing, and
// killed processes: tests/faults.
#ifndef ROPE_TESTS_FAILING_CALLS_H
#define ROPE_TESTS_FAILING_CALLS_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>

#include "core/error.h"

typedef enum CallKind {
    CALL_MEMORY = 1 << 0, // malloc and its like, strdup, asprintf; operator new, which throws
    CALL_OPEN = 1 << 1,
    CALL_READ = 1 << 2,
    CALL_LIST = 1 << 3, // what is in a folder
    CALL_WRITE = 1 << 4,
    CALL_SYNC = 1 << 5,
    CALL_CLOSE = 1 << 6,  // closes all the same
    CALL_NAME = 1 << 7,   // rename, mkdir, unlink, remove, symlink
    CALL_STATUS = 1 << 8, // stat, fstat, access
    CALL_LOCK = 1 << 9,
    CALL_PROCESS = 1 << 10, // pipe, fork
    CALL_WAIT = 1 << 11,    // for the end of a child
    CALL_BEGIN = 1 << 12,   // what a child begins with: atexit, freopen
    CALL_STREAM = 1 << 13,  // fclose, which writes what is left
    CALL_DISK =
        CALL_OPEN | CALL_READ | CALL_LIST | CALL_WRITE | CALL_SYNC | CALL_CLOSE | CALL_NAME | CALL_STATUS | CALL_LOCK,
} CallKind;

typedef struct Attempt {
    const char *what;                         // for the tally
    void (*before)(void *context);            // makes the state that each case starts from; may be NULL
    bool (*run)(void *context, Error *error); // calls fail here only
    // What must hold after it: good says what it returned, and error what it said.
    void (*after)(void *context, bool good, const Error *error);
    void *context;
    const char *named; // what a message must hold: the file, the folder; NULL: only a reason
    ErrorKind or_kind; // right too, besides ERROR_SYSTEM and, for ENOMEM, ERROR_MEMORY
    long keeps;        // blocks that may stay allocated for the life of the program
    size_t stride;     // every so-many-th call only; 0: every one
    bool in_child;     // calls fail in a process that it starts, instead of its own
} Attempt;

// The attempt once for every call of these kinds: that one fails with errno `number` (0: no reason is expected), and, in a
// second round, all that follow it. Demands for each that it fails with the right kind of error and a message with name
// and reason, or comes back with success (which `after` must not take on trust), and leaves no memory allocated and no
// file open.
void fail_each_call(const Attempt *attempt, unsigned kinds, int number);
// Each of these calls is interrupted (EINTR), once: it must succeed.
void interrupt_each_call(const Attempt *attempt, unsigned kinds);

// operator new throws something else than the lack of memory.
extern bool calls_throw_otherwise;

#endif
