// See calls.h.
#include "tests/failing/calls.h"

#include <dirent.h>
#include <errno.h>
#include <execinfo.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <ini.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include "tests/support/check.h"

bool calls_throw_otherwise;

static struct {
    unsigned kinds;    // 0: nothing fails and nothing is counted
    size_t at, *count; // in memory that children share
    bool lasting;
    int number;
    pid_t process; // the only one in which calls count, or, in_child, the only one in which they do not
    bool in_child;
} armed;
static long live_blocks; // that our own code has and has not freed

// True if this call is to fail; errno is set then.
static bool fails(unsigned kinds) {
    if (!(armed.kinds & kinds) || (getpid() == armed.process) == armed.in_child) return false;
    const size_t call = ++*armed.count;
    if (call < armed.at || (call > armed.at && !armed.lasting)) return false;
    errno = armed.number;
    return true;
}

// ---- memory ----------------------------------------------------------------------------------------------------------

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
void *__real_reallocarray(void *old, size_t count, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
char *__real_strdup(const char *text);
FILE *__real_open_memstream(char **text, size_t *size);
void __real_free(void *block);
void *__real__Znwm(size_t size);
_Noreturn void throw_no_memory(void) __asm__("_ZSt17__throw_bad_allocv");
_Noreturn void throw_length(const char *what) __asm__("_ZSt20__throw_length_errorPKc");

void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *old, size_t size);
void *__wrap_reallocarray(void *old, size_t count, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);
char *__wrap_strdup(const char *text);
int __wrap_asprintf(char **text, const char *format, ...);
FILE *__wrap_open_memstream(char **text, size_t *size);
void __wrap_free(void *block);
void *__wrap__Znwm(size_t size);

static void *counted(void *block) {
    live_blocks += block != NULL;
    return block;
}

void *__wrap_malloc(size_t size) { return fails(CALL_MEMORY) ? NULL : counted(__real_malloc(size)); }
void *__wrap_calloc(size_t count, size_t size) {
    return fails(CALL_MEMORY) ? NULL : counted(__real_calloc(count, size));
}
void *__wrap_realloc(void *old, size_t size) { return __wrap_reallocarray(old, 1, size); }
void *__wrap_reallocarray(void *old, size_t count, size_t size) {
    if (fails(CALL_MEMORY)) return NULL;
    void *block = __real_reallocarray(old, count, size);
    return old ? block : counted(block);
}
void *__wrap_aligned_alloc(size_t alignment, size_t size) {
    return fails(CALL_MEMORY) ? NULL : counted(__real_aligned_alloc(alignment, size));
}
char *__wrap_strdup(const char *text) { return fails(CALL_MEMORY) ? NULL : counted(__real_strdup(text)); }
int __wrap_asprintf(char **text, const char *format, ...) {
    if (fails(CALL_MEMORY)) return -1;
    va_list arguments;
    va_start(arguments, format);
    const int size = vasprintf(text, format, arguments);
    va_end(arguments);
    counted(size < 0 ? NULL : *text);
    return size;
}
// The text is the caller's to free once the stream is closed.
FILE *__wrap_open_memstream(char **text, size_t *size) {
    return fails(CALL_MEMORY) ? NULL : counted(__real_open_memstream(text, size));
}
void __wrap_free(void *block) {
    live_blocks -= block != NULL;
    __real_free(block);
}

// Templates that SentencePiece and we both use may have one body between them.
static bool called_by_sentencepiece(void) {
    void *frames[64];
    Dl_info where;
    for (int i = backtrace(frames, 64); i-- > 0;)
        if (dladdr(frames[i], &where) && where.dli_fname && strstr(where.dli_fname, "libsentencepiece")) return true;
    return false;
}

// No block of C++ is counted: the standard library's strings take and leave memory inside and outside of our code.
void *__wrap__Znwm(size_t size) {
    if (!(armed.kinds & CALL_MEMORY) || called_by_sentencepiece() || !fails(CALL_MEMORY)) return __real__Znwm(size);
    if (calls_throw_otherwise) throw_length("an object of the test");
    throw_no_memory();
}

// What inih takes while it reads, which is one block.
int __real_ini_parse_stream(ini_reader reader, void *stream, ini_handler handler, void *user);
int __wrap_ini_parse_stream(ini_reader reader, void *stream, ini_handler handler, void *user);
int __wrap_ini_parse_stream(ini_reader reader, void *stream, ini_handler handler, void *user) {
    return fails(CALL_MEMORY) ? -2 : __real_ini_parse_stream(reader, stream, handler, user);
}

// ---- files and processes ---------------------------------------------------------------------------------------------

// A call that fails with -1: its name, kind, parameters and arguments.
#define CALL(result, name, kind, parameters, arguments)                                                                \
    result __real_##name parameters;                                                                                   \
    result __wrap_##name parameters;                                                                                   \
    result __wrap_##name parameters { return fails(kind) ? (result)-1 : __real_##name arguments; }

CALL(ssize_t, read, CALL_READ, (int file, void *data, size_t size), (file, data, size))
CALL(ssize_t, pread, CALL_READ, (int file, void *data, size_t size, off_t offset), (file, data, size, offset))
CALL(ssize_t, write, CALL_WRITE, (int file, const void *data, size_t size), (file, data, size))
CALL(ssize_t, pwrite, CALL_WRITE, (int file, const void *data, size_t size, off_t offset), (file, data, size, offset))
CALL(int, rename, CALL_NAME, (const char *from, const char *to), (from, to))
CALL(int, renameat2, CALL_NAME, (int from, const char *old, int to, const char *new, unsigned flags),
     (from, old, to, new, flags))
CALL(int, mkdir, CALL_NAME, (const char *path, mode_t mode), (path, mode))
CALL(int, unlink, CALL_NAME, (const char *path), (path))
CALL(int, remove, CALL_NAME, (const char *path), (path))
CALL(int, symlink, CALL_NAME, (const char *target, const char *path), (target, path))
CALL(int, stat, CALL_STATUS, (const char *path, struct stat *status), (path, status))
CALL(int, fstat, CALL_STATUS, (int file, struct stat *status), (file, status))
CALL(int, access, CALL_STATUS, (const char *path, int mode), (path, mode))
CALL(int, flock, CALL_LOCK, (int file, int operation), (file, operation))
CALL(int, pipe, CALL_PROCESS, (int ends[2]), (ends))
CALL(pid_t, waitpid, CALL_WAIT, (pid_t child, int *status, int options), (child, status, options))
CALL(int, atexit, CALL_BEGIN, (void (*function)(void)), (function))

// Nothing is flushed, which would take most of the time: the power stays on here.
int __wrap_fsync(int file);
int __wrap_fsync(int file) { return fails(CALL_SYNC) ? -1 : fcntl(file, F_GETFD) < 0 ? -1 : 0; }

// cmocka's handlers would go on with the next test in a child that crashes.
pid_t __real_fork(void);
pid_t __wrap_fork(void);
pid_t __wrap_fork(void) {
    if (fails(CALL_PROCESS)) return -1;
    const pid_t child = __real_fork();
    static const int numbers[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
    for (size_t i = 0; child == 0 && i < sizeof numbers / sizeof *numbers; i++) signal(numbers[i], SIG_DFL);
    return child;
}

int __real_open(const char *path, int flags, ...);
int __real_close(int file);
int __real_scandir(const char *path, struct dirent ***entries, int (*wanted)(const struct dirent *),
                   int (*order)(const struct dirent **, const struct dirent **));
FILE *__real_fopen(const char *path, const char *mode);
int __real_fclose(FILE *stream);
FILE *__real_freopen(const char *path, const char *mode, FILE *stream);
int __wrap_open(const char *path, int flags, ...);
int __wrap_close(int file);
int __wrap_scandir(const char *path, struct dirent ***entries, int (*wanted)(const struct dirent *),
                   int (*order)(const struct dirent **, const struct dirent **));
FILE *__wrap_fopen(const char *path, const char *mode);
int __wrap_fclose(FILE *stream);
FILE *__wrap_freopen(const char *path, const char *mode, FILE *stream);

int __wrap_open(const char *path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    const int mode = flags & O_CREAT ? va_arg(arguments, int) : 0;
    va_end(arguments);
    return fails(CALL_OPEN) ? -1 : __real_open(path, flags, mode);
}
int __wrap_close(int file) {
    const int result = __real_close(file);
    return fails(CALL_CLOSE) ? -1 : result;
}
// Memory for the entries is the caller's to free.
int __wrap_scandir(const char *path, struct dirent ***entries, int (*wanted)(const struct dirent *),
                   int (*order)(const struct dirent **, const struct dirent **)) {
    if (fails(CALL_LIST | CALL_MEMORY)) return -1;
    const int count = __real_scandir(path, entries, wanted, order);
    if (count >= 0) live_blocks += count + (*entries != NULL);
    return count;
}
FILE *__wrap_fopen(const char *path, const char *mode) { return fails(CALL_OPEN) ? NULL : __real_fopen(path, mode); }
int __wrap_fclose(FILE *stream) {
    const int result = __real_fclose(stream);
    return fails(CALL_STREAM) ? EOF : result;
}
FILE *__wrap_freopen(const char *path, const char *mode, FILE *stream) {
    return fails(CALL_BEGIN) ? NULL : __real_freopen(path, mode, stream);
}

// ---- cases -----------------------------------------------------------------------------------------------------------

static int open_files(void) {
    int count = 0;
    for (int i = 0; i < 256; i++) count += fcntl(i, F_GETFD) >= 0;
    return count;
}

static void check_error(const Attempt *attempt, size_t at, const Error *error, int number) {
    const char *message = error->message;
    const ErrorKind kind = number == ENOMEM ? ERROR_MEMORY : ERROR_SYSTEM;
    const bool other = attempt->or_kind && error->kind == attempt->or_kind;
    if ((error->kind != kind && !other) || !*message)
        fail_msg("%s, call %zu: error of kind %d, \"%s\"", attempt->what, at, (int)error->kind, message);
    if (attempt->named && !strstr(message, attempt->named))
        fail_msg("%s, call %zu: %s is not named: \"%s\"", attempt->what, at, attempt->named, message);
    if (error->kind == ERROR_SYSTEM && number && !strstr(message, strerror(number)))
        fail_msg("%s, call %zu: the reason is not named: \"%s\"", attempt->what, at, message);
}

// False: there are fewer than `at` such calls.
static bool try_call(const Attempt *attempt, unsigned kinds, int number, size_t at, bool lasting, bool must_succeed) {
    Error error = {0};
    if (!armed.count)
        armed.count = mmap(NULL, sizeof *armed.count, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(armed.count != MAP_FAILED);
    if (attempt->before) attempt->before(attempt->context);
    const long blocks = live_blocks;
    const int files = open_files();
    *armed.count = 0, armed.at = at, armed.lasting = lasting, armed.number = number;
    armed.process = getpid(), armed.in_child = attempt->in_child;
    armed.kinds = kinds;
    const bool good = attempt->run(attempt->context, &error);
    armed.kinds = 0;
    const bool hit = *armed.count >= at;
    if (!good && (!hit || must_succeed)) fail_msg("%s, call %zu: %s", attempt->what, at, error.message);
    if (!good) check_error(attempt, at, &error, number);
    if (good && error.kind != ERROR_NONE)
        fail_msg("%s, call %zu: \"%s\", and success", attempt->what, at, error.message);
    attempt->after(attempt->context, good, &error);
    if (live_blocks < blocks || live_blocks > blocks + attempt->keeps || open_files() != files)
        fail_msg("%s, call %zu: %ld blocks are still allocated, %d files open (\"%s\")", attempt->what, at,
                 live_blocks - blocks, open_files() - files, error.message);
    return hit;
}

static void try_each(const Attempt *attempt, unsigned kinds, int number, bool lasting, bool must_succeed) {
    size_t at = 1, cases = 0, stride = attempt->stride ? attempt->stride : 1;
    for (; try_call(attempt, kinds, number, at, lasting, must_succeed); at += stride) cases++;
    check_count(attempt->what, cases);
}

void fail_each_call(const Attempt *attempt, unsigned kinds, int number) {
    try_call(attempt, 0, number, 1, false, true); // what is set up once and kept
    try_each(attempt, kinds, number, false, false);
    try_each(attempt, kinds, number, true, false);
}

void interrupt_each_call(const Attempt *attempt, unsigned kinds) { try_each(attempt, kinds, EINTR, false, true); }
