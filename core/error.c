// Errors that travel: a kind, which decides the exit code, and a message for people. No allocation, so that running out
// of memory can be reported like anything else.
#include "core/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Cuts a message that does not fit visibly, so that nobody takes half a path for a path.
static void mark_cut(char *message, size_t size, int wanted) {
    if (wanted >= 0 && (size_t)wanted >= size) memcpy(message + size - 4, "...", 4);
}

bool error_set(Error *error, ErrorKind kind, const char *format, ...) {
    if (!error || error->kind != ERROR_NONE) return false;
    va_list arguments;
    va_start(arguments, format);
    int wanted = vsnprintf(error->message, sizeof error->message, format, arguments);
    va_end(arguments);
    mark_cut(error->message, sizeof error->message, wanted);
    error->kind = kind;
    return false;
}

bool error_errno(Error *error, const char *format, ...) {
    int cause = errno; // before anything here can change it
    char what[ERROR_MESSAGE_SIZE];
    va_list arguments;
    va_start(arguments, format);
    int wanted = vsnprintf(what, sizeof what - 128, format, arguments); // leaves room for the cause
    va_end(arguments);
    mark_cut(what, sizeof what - 128, wanted);
    error_set(error, cause == ENOMEM ? ERROR_MEMORY : ERROR_SYSTEM, "%s: %s", what, strerror(cause));
    errno = cause;
    return false;
}

void error_context(Error *error, const char *format, ...) {
    if (!error || error->kind == ERROR_NONE) return;
    char context[ERROR_MESSAGE_SIZE], message[ERROR_MESSAGE_SIZE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(context, sizeof context, format, arguments);
    va_end(arguments);
    memcpy(message, error->message, sizeof message);
    int wanted = snprintf(error->message, sizeof error->message, "%s: %s", context, message);
    mark_cut(error->message, sizeof error->message, wanted);
}

void error_clear(Error *error) {
    if (!error) return;
    error->kind = ERROR_NONE;
    error->message[0] = '\0';
}

int error_exit_code(const Error *error) {
    switch (error->kind) {
    case ERROR_NONE: return 0;
    case ERROR_USER: return 2;
    default: return 1;
    }
}

void error_require_failed(const char *condition, const char *file, int line) {
    fprintf(stderr, "%s:%d: this must hold and does not: %s\nThis is a mistake in rope, not in what you gave it.\n",
            file, line, condition);
    abort();
}
