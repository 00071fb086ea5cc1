// The fuzz targets without a fuzzer: inputs that once broke something (tests/fuzz/regressions/TARGET/), the seeds, and
// seeds changed at random. Coverage-guided runs: `make fuzz`. $FUZZ_RUNS: changed seeds for each target (1000).
#include "tests/support/check.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/files.h"
#include "core/random.h"
#include "tests/fuzz/targets.h"

enum { LARGEST = 1 << 16, NAME = 320 };

typedef struct Mutation {
    const FuzzTarget *target;
    size_t seeds, runs, seed; // runs: of each seed
    unsigned char bytes[LARGEST];
    size_t size;
} Mutation;

// One of: a bit, a byte, a word of all ones or zeros, a piece moved, removed or doubled, a cut.
static void change(Mutation *m, Random random, uint64_t draw) {
    static const unsigned char bytes[] = {0, 1, 0x7F, 0x80, 0xFF, '"', '\\', '0', '9', '-', '.', ',', '{', '[', '\n', ' '};
    if (m->size == 0) return;
    size_t at = random_below(random, draw, m->size), length = 1 + random_below(random, draw + 1, 16);
    if (length > m->size - at) length = m->size - at;
    switch (random_below(random, draw + 2, 7)) {
    case 0: m->bytes[at] ^= (unsigned char)(1 << random_below(random, draw + 3, 8)); break;
    case 1: m->bytes[at] = bytes[random_below(random, draw + 3, sizeof bytes)]; break;
    case 2: memset(m->bytes + at, random_below(random, draw + 3, 2) ? 0xFF : 0, length < 8 ? length : 8); break;
    case 3: memmove(m->bytes + at, m->bytes + random_below(random, draw + 3, m->size - length + 1), length); break;
    case 4:
        memmove(m->bytes + at, m->bytes + at + length, m->size - at - length);
        m->size -= length;
        break;
    case 5:
        if (m->size + length > LARGEST) break;
        memmove(m->bytes + at + length, m->bytes + at, m->size - at);
        m->size += length;
        break;
    default:
        if (random_below(random, draw + 3, 4) == 0) m->size = at;
    }
}

static void count_seed(void *context, const void *bytes, size_t size, bool taken) {
    (void)bytes, (void)size, (void)taken;
    ((Mutation *)context)->seeds++;
}

static void run_seed(void *context, const void *bytes, size_t size, bool taken) {
    Mutation *m = context;
    if (m->target->run(bytes, size) != taken)
        fail_msg("%s: seed %zu is %s by mistake", m->target->name, m->seed + 1, taken ? "refused" : "taken");
    if (size > LARGEST) return;
    Random random = {m->seed++, RANDOM_TEST, 0};
    for (size_t run = 0; run < m->runs; run++) {
        random.step = run;
        memcpy(m->bytes, bytes, size);
        m->size = size;
        const size_t changes = 1 + random_below(random, 0, 6);
        for (size_t i = 0; i < changes; i++) change(m, random, 4 * i + 4);
        m->target->run(m->bytes, m->size);
    }
    char name[64];
    snprintf(name, sizeof name, "%.40s: changed seeds", m->target->name);
    check_count(name, m->runs + 1);
}

static void test_changed_seeds(void **unused) {
    (void)unused;
    const char *wanted = getenv("FUZZ_RUNS");
    Mutation *mutation = calloc(1, sizeof *mutation);
    assert_non_null(mutation);
    for (size_t t = 0; t < fuzz_target_count; t++) {
        mutation->target = fuzz_targets[t];
        mutation->seeds = mutation->seed = 0;
        fuzz_each_seed(mutation->target, count_seed, mutation);
        mutation->runs = (wanted ? strtoul(wanted, NULL, 10) : 1000) / mutation->seeds;
        fuzz_each_seed(mutation->target, run_seed, mutation);
    }
    free(mutation);
}

static void test_regressions(void **unused) {
    (void)unused;
    for (size_t t = 0; t < fuzz_target_count; t++) {
        char folder[NAME], path[2 * NAME];
        snprintf(folder, sizeof folder, "tests/fuzz/regressions/%s", fuzz_targets[t]->name);
        DIR *listing = opendir(folder);
        for (struct dirent *entry; listing && (entry = readdir(listing));) {
            if (entry->d_name[0] == '.') continue;
            Error error = {0};
            size_t size;
            snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
            char *bytes = file_read_all(path, LARGEST, &size, &error);
            if (!bytes) fail_msg("%s", error.message);
            fuzz_targets[t]->run((const uint8_t *)bytes, size);
            free(bytes);
            check_count("inputs that were once found", 1);
        }
        if (listing) closedir(listing);
    }
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(test_regressions), cmocka_unit_test(test_changed_seeds)};
TEST_MAIN(tests)
