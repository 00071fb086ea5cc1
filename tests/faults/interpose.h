// Fault injection from within: the test program defines malloc and the system calls that change files itself, so that
// the library, jansson, SentencePiece and libc's own strdup all run through here. A child process arms one fault and runs
// a command of the program. Beside failing, calls can be recorded (every change of a file, for replay.c), and memory can
// be tracked (which blocks are still allocated when the command has returned).
#ifndef ROPE_TESTS_FAULTS_INTERPOSE_H
#define ROPE_TESTS_FAULTS_INTERPOSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum CallKind {
    CALL_OPEN = 1 << 0,
    CALL_READ = 1 << 1, // read, pread
    CALL_WRITE = 1 << 2, // write, pwrite, writev
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
    bool in_children; // counts and strikes in processes that the command starts, not in its own
} Fault;

enum { FAULT_KILLED = 137 };

extern Fault fault;         // armed by the child; FAULT_NONE counts only
extern bool fault_counting; // calls are counted from now on

typedef struct FaultShared { // in memory that all processes share
    size_t calls; // of fault.calls so far
    bool foreign; // the process crashed in SentencePiece's own code
    bool refused; // SentencePiece asked for memory and got none
} FaultShared;
extern FaultShared *fault_shared;

// The process that calls it is the command's own. Notes foreign crashes before the process ends by a signal, as it would.
void fault_begin(void);

// ---- memory ----------------------------------------------------------------------------------------------------------

typedef struct Leaks {
    size_t own, foreign; // blocks; foreign: allocated within SentencePiece
} Leaks;

// From now on blocks are remembered until they are freed. With `traces`, also who allocated them: slow.
void fault_track(bool traces);
// Ends that. Without traces all blocks count as our own; with them, each of our own is shown on standard error.
Leaks fault_leaks(void);

// ---- recording -------------------------------------------------------------------------------------------------------

typedef enum ChangeKind {
    CHANGE_OPEN, // path, flags; descriptor
    CHANGE_CLOSE,
    CHANGE_WRITE, // data, offset; descriptor
    CHANGE_TRUNCATE, // offset is the size
    CHANGE_SYNC,
    CHANGE_RENAME,   // path to other
    CHANGE_EXCHANGE, // path and other
    CHANGE_MKDIR,
    CHANGE_REMOVE, // a file, a link or an empty directory
    CHANGE_LINK,   // other is a symbolic link to path
} ChangeKind;

// One successful call, followed in the record by its paths, each with a NUL, and its data.
typedef struct Change {
    uint32_t kind;
    int32_t descriptor, flags;
    uint32_t path_size, other_size; // with the NUL; 0: none
    int64_t offset;                 // -1: at the end
    uint64_t data_size;
} Change;

extern int fault_record; // descriptor that changes of this process are written to; -1: none

#endif
