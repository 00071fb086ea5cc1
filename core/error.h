// Three kinds of error (see README.md of this folder): the user's and the system's carry a message and an exit code
// through an Error; the programmer's stop the program in REQUIRE, which survives NDEBUG; the numbers' are data (a
// counted, skipped step) and live in train/.
#ifndef ROPE_CORE_ERROR_H
#define ROPE_CORE_ERROR_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ErrorKind {
    ERROR_NONE = 0,
    ERROR_USER,    // a file, an option, a value: exit 2, the message names it and says what to do
    ERROR_SYSTEM,  // disk, permission, descriptor: exit 1, carries strerror
    ERROR_MEMORY,  // an allocation failed, or would not fit: exit 1
    ERROR_CORRUPT, // a checksum or a format does not hold: exit 1, names file and section
} ErrorKind;

enum { ERROR_MESSAGE_SIZE = 1024 };

typedef struct Error {
    ErrorKind kind;
    char message[ERROR_MESSAGE_SIZE]; // one or more complete sentences, no trailing newline
} Error;

// Sets *error (may be NULL) unless it already holds one: the first cause wins. Always returns false, so that a failing
// function can `return error_set(...)`.
bool error_set(Error *error, ErrorKind kind, const char *format, ...) __attribute__((format(printf, 3, 4)));
// The same with ": strerror(errno)" appended, kind ERROR_SYSTEM (ERROR_MEMORY for ENOMEM).
bool error_errno(Error *error, const char *format, ...) __attribute__((format(printf, 2, 3)));
// Puts "context: " in front of the message.
void error_context(Error *error, const char *format, ...) __attribute__((format(printf, 2, 3)));
void error_clear(Error *error);
// The process exit code for a kind: 0, 2 for the user's, else 1.
int error_exit_code(const Error *error);

// The programmer's error: prints file, line and condition, then aborts. Cheap conditions only.
#define REQUIRE(condition)                                                                                             \
    do {                                                                                                               \
        if (!(condition)) error_require_failed(#condition, __FILE__, __LINE__);                                        \
    } while (0)
void error_require_failed(const char *condition, const char *file, int line) __attribute__((noreturn));

#ifdef __cplusplus
}
#endif
#endif
