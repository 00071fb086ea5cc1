// Guarded buffers, comparisons with a tally, temporary directories (see check.h).
#include "tests/support/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/arena.h"
#include "core/cpu.h"
#include "core/files.h"

enum { GUARD_WORDS = 8 }; // 64 bytes on each side keep the values aligned
static const uint64_t guard_word = 0xFEEDC0DEDEADBEA7u;

// In front of the values: their count, then guard words; behind them GUARD_WORDS more.
typedef struct GuardedHeader {
    uint64_t count;
    uint64_t guard[GUARD_WORDS - 1];
} GuardedHeader;

static GuardedHeader *header_of(const real *values) {
    return (GuardedHeader *)((uintptr_t)values - sizeof(GuardedHeader));
}

real *guarded_new(size_t count) {
    size_t bytes;
    assert_true(size_multiply(count, sizeof(real), &bytes) && bytes < SIZE_MAX - 1024);
    size_t total = sizeof(GuardedHeader) + bytes + GUARD_WORDS * sizeof guard_word;
    unsigned char *block = aligned_alloc(64, (total + 63) / 64 * 64);
    assert_non_null(block);
    GuardedHeader *header = (GuardedHeader *)block;
    real *values = (void *)(block + sizeof *header);
    header->count = count;
    for (size_t i = 0; i < GUARD_WORDS - 1; i++) header->guard[i] = guard_word;
    for (size_t i = 0; i < count; i++) values[i] = (real)NAN;
    for (size_t i = 0; i < GUARD_WORDS; i++)
        memcpy(block + sizeof *header + bytes + i * sizeof guard_word, &guard_word, sizeof guard_word);
    return values;
}

void guarded_check(const real *values) {
    const GuardedHeader *header = header_of(values);
    for (size_t i = 0; i < GUARD_WORDS - 1; i++)
        if (header->guard[i] != guard_word) fail_msg("a buffer was written to in front of its first element");
    const unsigned char *behind = (const unsigned char *)(values + header->count);
    for (size_t i = 0; i < GUARD_WORDS; i++)
        if (memcmp(behind + i * sizeof guard_word, &guard_word, sizeof guard_word) != 0)
            fail_msg("a buffer of %zu elements was written to behind its last one", (size_t)header->count);
}

void guarded_free(real *values) {
    if (!values) return;
    guarded_check(values);
    free(header_of(values));
}

enum { TALLIES = 256, TALLY_NAME = 96 };
static struct Tally {
    char name[TALLY_NAME];
    size_t count;
    double worst; // largest error as a share of its tolerance; negative if nothing was measured
} tallies[TALLIES];
static size_t tally_count;

static struct Tally *tally(const char *what) {
    for (size_t i = 0; i < tally_count; i++)
        if (strncmp(tallies[i].name, what, TALLY_NAME - 1) == 0) return &tallies[i];
    if (tally_count == TALLIES) return &tallies[TALLIES - 1]; // too many names: the last one takes the rest
    struct Tally *fresh = &tallies[tally_count++];
    snprintf(fresh->name, sizeof fresh->name, "%s", what);
    fresh->worst = -1.0;
    return fresh;
}

double check_close(const char *what, const real *actual, const double *expected, size_t count, double absolute,
                   double relative) {
    if (count == 0) fail_msg("%s: nothing to compare", what);
    size_t wrong = 0, first = 0;
    double largest = 0.0, worst = 0.0;
    for (size_t i = 0; i < count; i++) {
        double value = actual[i], wanted = expected[i];
        if (value == wanted) continue; // equal infinities too, whose difference is no number
        double error = fabs(value - wanted), tolerance = absolute + relative * fabs(wanted);
        if (!(error <= tolerance) || isinf(wanted)) { // NaN fails every comparison
            if (wrong == 0) first = i;
            wrong++;
        }
        if (error > largest) largest = error;
        if (tolerance > 0.0 && error / tolerance > worst) worst = error / tolerance;
    }
    if (wrong > 0)
        fail_msg("%s: %zu of %zu are off; the first is [%zu]: %.9g instead of %.9g (allowed: %.3g + %.3g relative)",
                 what, wrong, count, first, (double)actual[first], expected[first], absolute, relative);
    struct Tally *entry = tally(what);
    entry->count += count;
    if (worst > entry->worst) entry->worst = worst;
    return largest;
}

void check_same_bits(const char *what, const void *a, const void *b, size_t bytes) {
    if (bytes == 0) fail_msg("%s: nothing to compare", what);
    const unsigned char *x = a, *y = b;
    for (size_t i = 0; i < bytes; i++)
        if (x[i] != y[i]) fail_msg("%s: byte %zu of %zu differs (%02x, %02x)", what, i, bytes, x[i], y[i]);
    tally(what)->count += bytes;
}

void check_count(const char *what, size_t cases) {
    if (cases == 0) fail_msg("%s: no cases", what);
    tally(what)->count += cases;
}

void check_report(void) {
    for (size_t i = 0; i < tally_count; i++) {
        printf("  %s: %zu compared", tallies[i].name, tallies[i].count);
        if (tallies[i].worst >= 0.0) printf(", at most %.2g of what is allowed", tallies[i].worst);
        printf("\n");
    }
    fflush(stdout);
    if (tally_count > 0) return;
    fprintf(stderr, "This program compared nothing.\n");
    exit(1);
}

static char temporary_root[256];
static pid_t temporary_owner; // a forked child that exits must not remove its parent's files

static void remove_temporary(void) {
    if (getpid() == temporary_owner) directory_remove(temporary_root, NULL);
}

const char *temporary_directory(void) {
    static char paths[64][sizeof temporary_root + 8];
    static size_t used;
    if (used == 0) {
        const char *base = getenv("TMPDIR");
        snprintf(temporary_root, sizeof temporary_root, "%s/rope-test-XXXXXX", base && *base ? base : "/tmp");
        if (!mkdtemp(temporary_root)) fail_msg("cannot create %s", temporary_root);
        temporary_owner = getpid();
        atexit(remove_temporary);
    }
    assert_true(used < sizeof paths / sizeof *paths);
    char *path = paths[used];
    snprintf(path, sizeof paths[0], "%s/%zu", temporary_root, used++);
    assert_true(directory_make(path, NULL));
    return path;
}

size_t check_share(void) {
    const char *text = getenv("TEST_SHARE");
    const size_t share = text ? strtoul(text, NULL, 10) : 1;
    if (share == 0) fail_msg("TEST_SHARE=%s is no number of cases", text);
    return share;
}

void test_begin(char **argv) {
    cpu_mend_blas(argv);
    const char *filter = getenv("TEST_FILTER"), *skip = getenv("TEST_SKIP");
    if (filter) cmocka_set_test_filter(filter);
    if (skip) cmocka_set_skip_filter(skip);
}

void check_write_file(const char *path, const void *data, size_t size) {
    unlink(path); // writing over a file makes some file systems flush it at once, which takes long thousands of times
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}
