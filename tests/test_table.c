// Position table files: a good one reads back to the bit, and every way of being wrong is refused with file and line.
#include "attention/table.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/random.h"
#include "tests/support/check.h"
#include "tests/support/table_file.h"

static const char *file_with(const char *text, size_t size) {
    static char path[512];
    if (!path[0]) snprintf(path, sizeof path, "%s/table", temporary_directory());
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
    return path;
}

static void test_good(void **state) {
    (void)state;
    static const char text[] = "# a comment\n\n  rope-table 1 # version\nbias\r\nlags -1 2\nsupport 0:1\nsize 2\n"
                               "support 1:1 0:0\ndata\n -1 0.25 -1 1 -3.5\n0 0 1e-3 .5 0\n\n1 -0 0.1 0.2 1000\n"
                               "2\t1 1 1 -1000 # last\nend";
    const double expected[] = {0.25, 0, -0.0, 1, -1, 1e-3, 0.1, 1, 1, 0.5, 0.2, 1}, bias[] = {-3.5, 0, 1000, -1000};
    PositionTable table;
    Error error = {0};
    if (!table_read(&table, file_with(text, strlen(text)), 2, 2, false, &error)) fail_msg("%s", error.message);
    assert_int_equal(table.entries, 3);
    assert_int_equal(table.lags, 4);
    assert_int_equal(table.first_lag, -1);
    assert_int_equal(table.entry[0].row, 0);
    assert_int_equal(table.entry[0].column, 1);
    assert_int_equal(table.entry[2].row, 0);
    check_same_bits("weights", table.weight, expected, sizeof expected);
    check_same_bits("biases", table.bias, bias, sizeof bias);
    table_free(&table);
    // without a bias, and for causal attention of more tokens
    const char *path = table_file_write("table", 4, 50, false);
    assert_true(table_read(&table, path, 4, 50, true, &error) && table.bias == NULL);
    assert_true(table.weight[7 * 99 - 1] == 0.9 * cos(0.3 * 6 + 0.07 * 49 * 7) * exp(-0.002 * 49));
    table_free(&table);
}

typedef struct WrongFile {
    const char *text;
    size_t line;         // that the message must name
    const char *message; // that it must contain
} WrongFile;

#define HEAD "rope-table 1\nsize 2\nlags 0 2\nsupport 0:0 1:1\n"
#define ROWS "data\n0 1 1\n1 0.5 0.5\n2 0 0\n"

static const WrongFile wrong[] = {
    {"", 0, "rope-table 1"},
    {"\n\n# nothing\n", 3, "rope-table 1"},
    {"NUMPY\n", 1, "rope-table 1"},
    {"rope-table\n", 1, "version"},
    {"rope-table 2\n", 1, "version is 2"},
    {"rope-table one\n", 1, "not an integer"},
    {"rope-table 1 1\n", 1, "unexpected"},
    {"rope-table 1\n", 1, "before 'data'"},
    {"rope-table 1\nrope-table 1\n", 2, "none of size"},
    {"rope-table 1\nsizes 2\n", 2, "'sizes'"},
    {"rope-table 1\nsize\n", 2, "the size"},
    {"rope-table 1\nsize 3\n", 2, "model.qk_size is 2"},
    {"rope-table 1\nsize 0\n", 2, "outside"},
    {"rope-table 1\nsize 2.0\n", 2, "not an integer"},
    {"rope-table 1\nsize 99999999999999999999999\n", 2, "not an integer"},
    {"rope-table 1\nsize 2 2\n", 2, "unexpected '2'"},
    {"rope-table 1\nsize 2\nsize 2\n", 3, "twice"},
    {"rope-table 1\nlags 0\n", 2, "the last lag"},
    {"rope-table 1\nlags 2 0\n", 2, "above the last"},
    {"rope-table 1\nlags 0 1\n", 2, "do not cover"},
    {"rope-table 1\nlags 1 9\n", 2, "do not cover"},
    {"rope-table 1\nlags 0 9223372036854775807\n", 2, "outside"},
    {"rope-table 1\nlags 0 4 1\n", 2, "unexpected '1'"},
    {"rope-table 1\nlags 0 2\nlags 0 2\n", 3, "twice"},
    {"rope-table 1\nsupport\n", 2, "without a row:column"},
    {"rope-table 1\nsupport 0:2\n", 2, "outside the 2"},
    {"rope-table 1\nsupport 2:0\n", 2, "outside the 2"},
    {"rope-table 1\nsupport 0:-1\n", 2, "not row:column"},
    {"rope-table 1\nsupport -1:0\n", 2, "not row:column"},
    {"rope-table 1\nsupport 0,0\n", 2, "not row:column"},
    {"rope-table 1\nsupport 0:\n", 2, "not row:column"},
    {"rope-table 1\nsupport :0\n", 2, "not row:column"},
    {"rope-table 1\nsupport 0:0:0\n", 2, "not row:column"},
    {"rope-table 1\nsupport 18446744073709551615:0\n", 2, "outside the 2"},
    {"rope-table 1\nsupport 0:0 0:0\n", 2, "twice"},
    {"rope-table 1\nsupport 0:0\nsupport 1:0 0:0\n", 3, "twice"},
    {"rope-table 1\nbias\nbias\n", 3, "twice"},
    {"rope-table 1\nbias yes\n", 2, "unexpected 'yes'"},
    {"rope-table 1\nlags 0 2\nsupport 0:0\ndata\n", 4, "no size"},
    {"rope-table 1\nsize 2\nsupport 0:0\ndata\n", 4, "no lags"},
    {"rope-table 1\nsize 2\nlags 0 2\ndata\n", 4, "no support"},
    {"rope-table 1\nsize 2\nlags 0 134217728\nsupport 0:0 1:1\ndata\n", 5, "too large"},
    {HEAD "data 0\n", 5, "unexpected '0'"},
    {HEAD "data\n", 5, "truncated"},
    {HEAD "data\n0 1 1\n1 0.5", 7, "the line ends"},
    {HEAD "data\n0 1 1\n1 0.5 0.5\n", 7, "truncated"},
    {HEAD ROWS, 8, "without 'end'"},
    {HEAD ROWS "en", 9, "'en' comes where"},
    {HEAD ROWS "3 0 0\nend\n", 9, "'3' comes where 'end'"},
    {HEAD ROWS "end\n0 1 1\n", 10, "after 'end'"},
    {HEAD ROWS "end of it\n", 9, "unexpected 'of'"},
    {HEAD "data\nend\n", 6, "'end' comes before lag 0"},
    {HEAD "data\n0 1 1\n2 0 0\nend\n", 7, "a lag is missing"},
    {HEAD "data\n0 1 1\n0 1 1\n", 7, "lag 0 again"},
    {HEAD "data\n1 1 1\n", 6, "a lag is missing"},
    {HEAD "data\n-1 1 1\n", 6, "lag -1 again"},
    {HEAD "data\n0.0 1 1\n", 6, "not an integer"},
    {HEAD "data\n0 nan 1\n", 6, "finite"},
    {HEAD "data\n0 1 inf\n", 6, "finite"},
    {HEAD "data\n0 1 -1e999\n", 6, "finite"},
    {HEAD "data\n0 1 1.0001\n", 6, "outside [-1, 1] (put a common scale"},
    {HEAD "data\n0 -1.5 1\n", 6, "outside [-1, 1]"},
    {HEAD "data\n0 1e-39 0\n1 0 -1e-40\n2 0 0\nend\n", 9, "the largest weight is 1e-39, below 1.17549e-38"},
    {HEAD "data\n0 1 one\n", 6, "not a number"},
    {HEAD "data\n0 1 1,0\n", 6, "not a number"},
    {HEAD "data\n0 1 1 1\n", 6, "unexpected '1'"},
    {HEAD "bias\ndata\n0 1 1\n", 7, "where the bias should be"},
    {HEAD "bias\ndata\n0 1 1 1001\n", 7, "outside [-1000, 1000]"},
    {HEAD "bias\ndata\n0 1 1 nan\n", 7, "finite"},
    {HEAD "bias\ndata\n0 1 1 0 0\n", 7, "unexpected '0'"},
};

static void expect_refusal(const char *text, size_t size, size_t line, const char *message) {
    const char *path = file_with(text, size);
    PositionTable table;
    Error error = {0};
    if (table_read(&table, path, 2, 3, true, &error)) fail_msg("accepted:\n%s", text);
    char where[600];
    snprintf(where, sizeof where, "%s:%zu: ", path, line);
    if (error.kind != ERROR_USER || strncmp(error.message, where, strlen(where)) || !strstr(error.message, message))
        fail_msg("expected '%s' in line %zu of\n%s\nbut got: %s", message, line, text, error.message);
    assert_null(table.entry);
    assert_null(table.weight);
    assert_null(table.bias);
}

static void test_wrong(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        expect_refusal(wrong[i].text, strlen(wrong[i].text), wrong[i].line, wrong[i].message);
    check_count("wrong files refused", sizeof wrong / sizeof *wrong);
    static const char zero[] = HEAD "data\n0 1\0 1\n";
    expect_refusal(zero, sizeof zero - 1, 1, "zero byte");
    PositionTable table;
    Error error = {0};
    assert_false(table_read(&table, "/nonexistent/table", 2, 3, true, &error));
    assert_non_null(strstr(error.message, "/nonexistent/table"));
    error_clear(&error);
    assert_false(table_read(&table, "/", 2, 3, true, &error));
    // a negative lag is needed without the mask
    error_clear(&error);
    assert_false(table_read(&table, file_with(HEAD ROWS "end\n", strlen(HEAD ROWS "end\n")), 2, 3, false, &error));
    assert_non_null(strstr(error.message, "-2 … 2"));
}

// Every cut and thousands of random changes of a good file: refused or read, never worse (run under the sanitizers).
static void test_mangled(void **state) {
    (void)state;
    static const char good[] = HEAD "bias\ndata\n0 1 1 0\n1 0.5 0.5 -1\n2 0 0 -2 # c\nend\n";
    const size_t size = sizeof good - 1;
    char text[sizeof good];
    size_t refused = 0, tried = 0;
    PositionTable table;
    for (size_t cut = 0; cut < size; cut++, tried++) {
        Error error = {0};
        if (table_read(&table, file_with(good, cut), 2, 3, true, &error)) {
            assert_true(cut + 1 >= size); // only the last newline may be missing
            table_free(&table);
        } else
            refused++;
    }
    const Random random = {5, RANDOM_TEST, 1};
    for (size_t n = 0; n < 3000; n++, tried++) {
        memcpy(text, good, sizeof good);
        for (size_t c = 0; c <= n % 3; c++)
            text[random_below(random, 9 * n + 2 * c, size)] = (char)random_below(random, 9 * n + 2 * c + 1, 128);
        Error error = {0};
        if (table_read(&table, file_with(text, size), 2, 3, true, &error)) {
            for (size_t i = 0; i < table.entries * table.lags; i++) assert_true(fabs(table.weight[i]) <= 1.0);
            table_free(&table);
        } else
            refused++;
    }
    assert_true(refused > tried / 2);
    check_count("mangled files", tried);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_good),
    cmocka_unit_test(test_wrong),
    cmocka_unit_test(test_mangled),
};
TEST_MAIN(tests)
