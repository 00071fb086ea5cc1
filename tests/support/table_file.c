#include "tests/support/table_file.h"

#include <math.h>
#include <stdio.h>

#include "tests/support/check.h"

const char *table_file_write(const char *name, size_t size, size_t tokens, bool bias) {
    return table_file_write_scaled(name, size, tokens, bias, 1.0);
}

const char *table_file_write_scaled(const char *name, size_t size, size_t tokens, bool bias, double scale) {
    static const char *directory;
    static char path[512];
    if (!directory) directory = temporary_directory();
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fprintf(file, "rope-table 1 # made by a test\nsize %zu\nlags %ld %ld\nsupport", size, 1 - (long)tokens,
            (long)tokens - 1);
    for (size_t a = 0; a < size; a++) fprintf(file, " %zu:%zu", a, a);
    for (size_t a = 1; a < size; a++) fprintf(file, " %zu:%zu", a, a - 1);
    fprintf(file, "\n%sdata\n", bias ? "bias\n" : "");
    for (long t = 1 - (long)tokens; t < (long)tokens; t++) {
        fprintf(file, "%ld", t);
        for (size_t e = 0; e < 2 * size - 1; e++)
            fprintf(file, " %.17g",
                    scale * 0.9 * cos(0.3 * (double)e + 0.07 * (double)t * (double)(e + 1)) *
                        exp(-0.002 * fabs((double)t)));
        if (bias) fprintf(file, " %.17g", -0.5 + 0.5 * sin(0.2 * (double)t));
        fprintf(file, "\n");
    }
    fprintf(file, "end\n");
    assert_int_equal(fclose(file), 0);
    return path;
}

const char *table_file_write_constant(size_t size, size_t tokens, bool dense, double weight, const double *bias) {
    static const char *directory;
    static char path[512];
    if (!directory) directory = temporary_directory();
    snprintf(path, sizeof path, "%s/table", directory);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    const size_t entries = dense ? size * size : size;
    fprintf(file, "rope-table 1\nsize %zu\nlags 0 %zu\n%s", size, tokens - 1, bias ? "bias\n" : "");
    for (size_t e = 0; e < entries; e++)
        fprintf(file, "%s %zu:%zu%s", e % 64 ? "" : "support", dense ? e / size : e, dense ? e % size : e,
                e % 64 == 63 || e + 1 == entries ? "\n" : "");
    fprintf(file, "data\n");
    for (size_t t = 0; t < tokens; t++) {
        fprintf(file, "%zu", t);
        for (size_t e = 0; e < entries; e++) fprintf(file, " %.17g", weight);
        if (bias) fprintf(file, " %.17g", bias[t]);
        fprintf(file, "\n");
    }
    fprintf(file, "end\n");
    assert_int_equal(fclose(file), 0);
    return path;
}
