// What the program finds out about the machine, and the mending of a misread BLAS kernel, played by this program
// itself.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/cpu.h"
#include "tests/support/check.h"

// Runs this program again as described by `mode` and returns what it says about its kernels.
static void ask_child(const char *mode, char *answer, size_t size) {
    char command[512], program[256];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    assert_true(length > 0);
    program[length] = '\0';
    snprintf(command, sizeof command, "env -u OPENBLAS_CORETYPE -u ROPE_BLAS_MENDED %s '%s' 2>&1", mode, program);
    FILE *child = popen(command, "r");
    assert_non_null(child);
    size_t used = fread(answer, 1, size - 1, child);
    answer[used] = '\0';
    assert_int_equal(pclose(child), 0);
}

static void test_blas_is_mended_once(void **state) {
    (void)state;
    char answer[1024];
    ask_child("ROPE_TEST_CORE=Zen", answer, sizeof answer); // a good kernel: not started again, nothing said
    assert_string_equal(answer, "Zen\n");
    if (cpu_isa() < ISA_AVX2) skip();
    const char *wanted = cpu_isa() == ISA_AVX512 ? "SkylakeX" : "Haswell";
    char expected[256];
    ask_child("ROPE_TEST_CORE=Prescott", answer, sizeof answer); // misread: one line, then the right one
    snprintf(expected, sizeof expected,
             "rope: OpenBLAS misread this CPU and uses its slow Prescott kernels; starting again with %s\n%s\n", wanted,
             wanted);
    assert_string_equal(answer, expected);
    ask_child("ROPE_TEST_CORE=Prescott OPENBLAS_CORETYPE=Nehalem", answer, sizeof answer); // the user's choice stands
    assert_string_equal(answer, "Nehalem\n");
    ask_child("ROPE_TEST_CORE=Prescott ROPE_BLAS_MENDED=1", answer, sizeof answer); // never twice
    assert_string_equal(answer, "Prescott\n");
    check_count("kernel mendings", 4);
}

static void test_cpu_info(void **state) {
    (void)state;
    CpuInfo info;
    cpu_info(&info);
    assert_true(info.cores >= 1 && info.openmp_threads >= 1 && info.blas_threads >= 1);
    assert_true(info.memory_total >= (64u << 20) && info.memory_available <= info.memory_total);
    assert_true(*info.model && *info.blas_core && strstr(info.blas_config, "OpenBLAS"));
    assert_true(info.blas_misread == (info.blas_wanted != NULL));
    assert_string_equal(cpu_isa_name(ISA_AVX512), "avx512");
    check_count("machine facts", 8);
}

static void write_file(const char *folder, const char *name, const char *text) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "w");
    assert_true(file && fputs(text, file) >= 0 && fclose(file) == 0);
}

// The file memory.stat of either version: bytes of these kinds, of what is no file, and what is in the other version's.
static void write_counters(const char *folder, bool second, size_t inactive, size_t active, size_t slab) {
    char text[256];
    if (second)
        snprintf(text, sizeof text,
                 "anon 100\ninactive_anon 70\ninactive_file %zu\nactive_file %zu\nslab_reclaimable %zu\nshmem 9\n",
                 inactive, active, slab);
    else // without the groups below, and with them; its use does not hold slabs
        snprintf(text, sizeof text,
                 "cache 8\ninactive_file 77\nactive_file 7\ntotal_inactive_anon 70\ntotal_inactive_file %zu\n"
                 "total_active_file %zu\n",
                 inactive, active + slab);
    write_file(folder, "memory.stat", text);
}

// Copies of the files of control groups: limits of every level count, and pages of files do not count as used.
static void test_memory_of_groups(void **state) {
    (void)state;
    static const struct {
        const char *max, *current; // NULL: not there
        bool counters;
        size_t inactive, active, slab, total, available;
    } cases[] = {
        {"max\n", "300\n", true, 5, 0, 0, 1000, 900},
        {"600\n", "200\n", false, 0, 0, 0, 600, 400},
        {"600\n", "590\n", true, 400, 60, 30, 600, 500},
        {"600\n", "590\n", true, 0, 0, 0, 600, 10},
        {"600\n", "590\n", true, 9000, 0, 0, 600, 600},   // counters are not of one moment
        {"600\n", "700\n", true, 50, 0, 0, 600, 1},       // its limit was lowered: nothing, which is not unknown
        {"600\n", NULL, true, 50, 0, 0, 600, 900},        // what is used is not known
        {"5000\n", "4500\n", true, 100, 0, 0, 1000, 600}, // a limit above the machine's
        {"\n", "200\n", false, 0, 0, 0, 1000, 900},
        {NULL, NULL, false, 0, 0, 0, 1000, 900},
    };
    static const char *const levels[] = {"", "/a", "/a/b"}, *const versions[] = {"9:memory:/a/b\n", "0::/a/b\n"};
    for (size_t second = 0; second < 2; second++)
        for (size_t level = 0; level < 3; level++)
            for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
                char root[] = "/tmp/rope-groups-XXXXXX", folder[128], self[128], command[128];
                assert_non_null(mkdtemp(root));
                snprintf(command, sizeof command, "mkdir -p %s/memory/a/b %s/a/b", root, root);
                assert_int_equal(system(command), 0);
                snprintf(folder, sizeof folder, "%s%s%s", root, second ? "" : "/memory", levels[level]);
                if (cases[i].max) write_file(folder, second ? "memory.max" : "memory.limit_in_bytes", cases[i].max);
                if (cases[i].current)
                    write_file(folder, second ? "memory.current" : "memory.usage_in_bytes", cases[i].current);
                if (cases[i].counters)
                    write_counters(folder, second, cases[i].inactive, cases[i].active, cases[i].slab);
                write_file(root, "self", versions[second]);
                snprintf(self, sizeof self, "%s/self", root);
                size_t total = 1000, available = 900;
                cpu_memory_of_groups(self, root, &total, &available);
                if (total != cases[i].total || available != cases[i].available)
                    fail_msg("case %zu, level %zu: %zu and %zu", i, level, total, available);
                snprintf(command, sizeof command, "rm -r %s", root);
                assert_int_equal(system(command), 0);
            }
    check_count("memory of groups", 2 * 3 * (sizeof cases / sizeof *cases));
}

// This definition comes before the library's: it plays an OpenBLAS that reads the CPU as $ROPE_TEST_CORE until told.
char *openblas_get_corename(void);
char *openblas_get_corename(void) {
    static char unknown[] = "Zen";
    char *told = getenv("OPENBLAS_CORETYPE"), *played = getenv("ROPE_TEST_CORE");
    return told ? told : played ? played : unknown;
}

int main(int argc, char **argv) {
    (void)argc;
    test_begin(argv);
    if (getenv("ROPE_TEST_CORE")) return puts(openblas_get_corename()) < 0; // a child of ask_child
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blas_is_mended_once),
        cmocka_unit_test(test_cpu_info),
        cmocka_unit_test(test_memory_of_groups),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    check_report();
    return failed != 0;
}
