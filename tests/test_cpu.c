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
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    check_report();
    return failed != 0;
}
