// rope verify as a user runs it: errors within ε and certificates give exit 0, a polynomial too poor for ε gives 1, and
// --json prints one document with the rows and fits it promises.
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/check.h"
#include "tests/support/table_file.h"
#include "train/command.h"

// Exit code of the command in a child process, its standard output in `path`.
static int run(const char *path, int count, char **arguments) {
    fflush(NULL);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (!freopen(path, "w", stdout) || !freopen("/dev/null", "w", stderr)) _exit(99);
        const int code = command_verify(count, arguments);
        fflush(NULL);
        _exit(code);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    check_count("runs of rope verify", 1);
    return WEXITSTATUS(status);
}

static void test_rows(void **state) {
    (void)state;
    char path[512];
    snprintf(path, sizeof path, "%s/verify.json", temporary_directory());
    char *arguments[] = {"verify", "--tokens=17,64,100", "--rounds=1", "--size=4", "--json", NULL};
    assert_int_equal(run(path, 5, arguments), 0);
    json_t *document = json_load_file(path, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(document);
    assert_true(json_is_true(json_object_get(document, "passed")));
    const json_t *rows = json_object_get(document, "rows");
    assert_int_equal(json_array_size(rows), 6);
    static const char *const keys[] = {"n",
                                       "d",
                                       "bound",
                                       "logit_bound",
                                       "degree",
                                       "method",
                                       "output_error",
                                       "output_certified",
                                       "gradient_error",
                                       "gradient_certified",
                                       "exact_ms",
                                       "fast_ms"};
    for (size_t r = 0; r < json_array_size(rows); r++) {
        const json_t *row = json_array_get(rows, r);
        for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
            if (!json_object_get(row, keys[i])) fail_msg("row %zu has no %s", r, keys[i]);
        const double error = json_number_value(json_object_get(row, "output_error"));
        assert_true(error > 0.0 && error <= json_number_value(json_object_get(row, "output_certified")));
        const double gradient = json_number_value(json_object_get(row, "gradient_error"));
        assert_true(gradient > 0.0 && gradient <= json_number_value(json_object_get(row, "gradient_certified")));
        assert_true(json_number_value(json_object_get(row, "logit_bound")) <= 1.0); // s·d·B²
    }
    const json_t *fits = json_object_get(document, "fits");
    assert_int_equal(json_array_size(fits), 2);
    assert_non_null(json_object_get(json_array_get(fits, 0), "fast_exponent"));
    json_decref(document);
}

static double number_of(const json_t *object, const char *key) { return json_number_value(json_object_get(object, key)); }

// --limit is of all that a row runs, which is once more than --rounds: rounds are given up first, then the row.
static void test_limit(void **state) {
    (void)state;
    char path[512], limit[64] = "--limit=1e6";
    snprintf(path, sizeof path, "%s/limit.json", temporary_directory());
    char *arguments[] = {"verify", "--tokens=1024,2048", "--rounds=15", "--method=lowrank", "--json", limit, NULL};
    const double shares[] = {0.0, 4.0, 1.0}; // of what one run of both sides is expected to take; first no limit
    for (size_t turn = 0; turn < 3; turn++) {
        assert_int_equal(run(path, 6, arguments), 0);
        json_t *document = json_load_file(path, JSON_REJECT_DUPLICATES, NULL);
        assert_non_null(document);
        const json_t *rows = json_object_get(document, "rows"), *first = json_array_get(rows, 0);
        const json_t *second = json_array_get(rows, 1);
        const double allowed = strtod(strchr(limit, '=') + 1, NULL);
        const double expected = 1e-3 * (4.0 * number_of(first, "exact_ms") + 1.5 * 2.0 * number_of(first, "fast_ms"));
        assert_true(number_of(first, "rounds") == 15.0);
        const double rounds = number_of(second, "rounds");
        if (json_object_get(second, "left_out"))
            assert_true(2.0 * expected > 0.999 * allowed);
        else if (!(rounds >= 1.0 && (rounds + 1.0) * expected <= 1.001 * allowed))
            fail_msg("%g rounds and one more of %g s each are more than %g s", rounds, expected, allowed);
        if (turn == 0) assert_true(rounds == 15.0);
        json_decref(document);
        if (turn < 2) snprintf(limit, sizeof limit, "--limit=%.6g", fmax(0.01, shares[turn + 1] * expected));
    }
}

// A table whose matrices make vectors longer: Λ and the degree are of its logits, and nothing falls back. One of zeros.
static void test_table(void **state) {
    (void)state;
    char path[512], kernel[600], zeros[512];
    snprintf(path, sizeof path, "%s/table.json", temporary_directory());
    snprintf(zeros, sizeof zeros, "%s/zeros", temporary_directory());
    FILE *file = fopen(zeros, "w");
    assert_non_null(file);
    fprintf(file, "rope-table 1\nsize 4\nlags -63 63\nsupport 0:0\ndata\n");
    for (int t = -63; t < 64; t++) fprintf(file, "%d 0\n", t);
    fprintf(file, "end\n");
    assert_int_equal(fclose(file), 0);
    const char *const kernels[] = {"rope", table_file_write("verify", 4, 64, false), zeros};
    double bounds[2];
    for (size_t n = 0; n < 3; n++) {
        snprintf(kernel, sizeof kernel, "--attention.kernel=%s", kernels[n]);
        char *arguments[] = {"verify", "--tokens=20,64", "--rounds=1", "--size=4", "--method=toeplitz",
                             kernel,   "--json",         NULL};
        assert_int_equal(run(path, 7, arguments), 0);
        json_t *document = json_load_file(path, JSON_REJECT_DUPLICATES, NULL);
        const json_t *rows = json_object_get(document, "rows");
        assert_int_equal(json_array_size(rows), 2);
        for (size_t r = 0; r < 2; r++) {
            const json_t *row = json_array_get(rows, r);
            assert_true(json_is_false(json_object_get(row, "fell_back")));
            assert_true(json_is_true(json_object_get(row, "within")));
            const double bound = json_number_value(json_object_get(row, "logit_bound"));
            if (n == 0) bounds[r] = bound;
            assert_true(n != 1 || bound > 1.1 * bounds[r]);
        }
        json_decref(document);
    }
}

static void test_exit_codes(void **state) {
    (void)state;
    char *poor[] = {"verify", "--tokens=64", "--rounds=1", "--degree=1", "--bound=2", "--epsilon=1e-5", NULL};
    assert_int_equal(run("/dev/null", 6, poor), 1);
    char *method[] = {"verify", "--tokens=64", "--method=exact", NULL};
    assert_int_equal(run("/dev/null", 3, method), 2);
    char *lengths[] = {"verify", "--tokens=64,12", NULL};
    assert_int_equal(run("/dev/null", 2, lengths), 2);
    char *odd[] = {"verify", "--tokens=64", "--size=3", NULL};
    assert_int_equal(run("/dev/null", 3, odd), 2);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_rows),
    cmocka_unit_test(test_limit),
    cmocka_unit_test(test_table),
    cmocka_unit_test(test_exit_codes),
};
TEST_MAIN(tests)
