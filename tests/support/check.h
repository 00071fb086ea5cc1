// What every test stands on: buffers that tell when they are overrun or left unwritten, and comparisons that say how
// many elements they compared (none is a failure).
#ifndef ROPE_TESTS_SUPPORT_CHECK_H
#define ROPE_TESTS_SUPPORT_CHECK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
// cmocka.h wants the four above before it
#include <cmocka.h>

#include "core/real.h"

// 1 under a sanitizer that has malloc, or threads, of its own. gcc defines a macro, clang has a feature.
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define CHECK_SANITIZER 1
#endif
#endif
#if !defined(CHECK_SANITIZER) && (defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__))
#define CHECK_SANITIZER 1
#endif
#ifndef CHECK_SANITIZER
#define CHECK_SANITIZER 0
#endif

// count reals, 64-byte aligned, all NaN, with guard words on both sides.
real *guarded_new(size_t count);
// Fails the running test if a guard word changed.
void guarded_check(const real *values);
void guarded_free(real *values); // checks, then frees

// Every |actual - expected| ≤ absolute + relative·|expected|, no NaN; count > 0. Returns the largest error and adds
// count to the program's tally, which check_report prints.
double check_close(const char *what, const real *actual, const double *expected, size_t count, double absolute,
                   double relative);
void check_same_bits(const char *what, const void *a, const void *b, size_t bytes);
// Free-form cases (fuzzed inputs, refusals, …): adds `cases` to the named tally.
void check_count(const char *what, size_t cases);
void check_report(void); // "what: N compared" lines; every test program calls it last

// Where everything is a hundred times slower, $TEST_SHARE=n has the longest tests try one in n of their cases (else 1).
size_t check_share(void);

// A fresh directory below $TMPDIR or /tmp, removed at exit.
const char *temporary_directory(void);

// The whole content of a file; a failure fails the running test.
void check_write_file(const char *path, const void *data, size_t size);

// main of every test program: mends BLAS (re-executes), runs the group (of it what $TEST_FILTER matches and $TEST_SKIP
// does not), prints the report.
#define TEST_MAIN(tests)                                                                                               \
    int main(int argc, char **argv) {                                                                                  \
        (void)argc;                                                                                                    \
        test_begin(argv);                                                                                              \
        int failed = cmocka_run_group_tests(tests, NULL, NULL);                                                        \
        check_report();                                                                                                \
        return failed != 0;                                                                                            \
    }
void test_begin(char **argv);

#endif
