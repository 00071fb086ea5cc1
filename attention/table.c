// Reader of position tables (table.h has the layout). Everything that can be wrong with a file is refused with file
// and line; nothing is guessed or repaired. O(bytes of the file).
#include "attention/table.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/arena.h"
#include "core/files.h"

typedef struct Reader {
    const char *path;
    char *next;  // first byte of the line after the current one, NULL at the end
    char *word;  // rest of the current line
    size_t line; // counted from 1
    Error *error;
    size_t expected; // D that the settings ask for
    bool has_size, has_lags, has_bias, in_data;
    size_t capacity; // entries that there is room for
} Reader;

static bool refuse(const Reader *reader, const char *format, ...) __attribute__((format(printf, 2, 3)));
static bool refuse(const Reader *reader, const char *format, ...) {
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return error_set(reader->error, ERROR_USER, "%s:%zu: %s", reader->path, reader->line, text);
}

// Cuts the next line with something on it out of the text: comment and end of line removed. False at the end.
static bool next_line(Reader *reader) {
    while (reader->next) {
        char *line = reader->next;
        char *end = strchr(line, '\n');
        reader->next = end ? end + 1 : NULL;
        if (end) *end = 0;
        // a last line without a newline is only a line if something is on it
        if (!end && !*line) return false;
        reader->line++;
        line[strcspn(line, "#")] = 0;
        line += strspn(line, " \t\r");
        if (*line) {
            reader->word = line;
            return true;
        }
    }
    return false;
}

// The next word of the current line, or NULL.
static char *next_word(Reader *reader) {
    char *word = reader->word + strspn(reader->word, " \t\r");
    if (!*word) return NULL;
    size_t length = strcspn(word, " \t\r");
    reader->word = word + length;
    if (*reader->word) *reader->word++ = 0;
    return word;
}

static bool parse_long(const char *word, long *value) {
    char *end;
    errno = 0;
    *value = strtol(word, &end, 10);
    return end != word && !*end && errno == 0;
}

static bool read_number(Reader *reader, const char *what, double limit, double *value) {
    const char *word = next_word(reader);
    if (!word) return refuse(reader, "the line ends where %s should be", what);
    char *end;
    *value = strtod(word, &end);
    if (end == word || *end) return refuse(reader, "'%.40s' is not a number (%s)", word, what);
    if (!isfinite(*value)) return refuse(reader, "%s is %s: every number must be finite", what, word);
    if (fabs(*value) > limit)
        return refuse(reader, "%s is %s, outside [-%g, %g]%s", what, word, limit, limit,
                      limit == 1.0 ? " (put a common scale into attention.logit_scale)" : "");
    return true;
}

static bool read_long(Reader *reader, const char *what, long low, long high, long *value) {
    const char *word = next_word(reader);
    if (!word) return refuse(reader, "the line ends where %s should be", what);
    if (!parse_long(word, value)) return refuse(reader, "'%.40s' is not an integer (%s)", word, what);
    if (*value < low || *value > high) return refuse(reader, "%s is %ld, outside [%ld, %ld]", what, *value, low, high);
    return true;
}

static bool end_of_line(Reader *reader) {
    const char *word = next_word(reader);
    return !word || refuse(reader, "unexpected '%.40s' after the end of what this line says", word);
}

static bool add_entry(Reader *reader, PositionTable *table, const char *word) {
    char *end;
    unsigned long row = strtoul(word, &end, 10);
    bool good = end != word && *end == ':' && word[0] != '-' && word[0] != '+';
    const char *second = end + 1;
    unsigned long column = good ? strtoul(second, &end, 10) : 0;
    if (!good || end == second || *end || *second == '-' || *second == '+')
        return refuse(reader, "'%.40s' is not row:column", word);
    if (row >= reader->expected || column >= reader->expected)
        return refuse(reader, "entry %.40s is outside the %zu × %zu matrix (rows and columns count from 0)", word,
                      reader->expected, reader->expected);
    for (size_t e = 0; e < table->entries; e++)
        if (table->entry[e].row == row && table->entry[e].column == column)
            return refuse(reader, "entry %.40s is in the support twice", word);
    if (table->entries == reader->capacity) {
        size_t capacity = reader->capacity ? 2 * reader->capacity : 64;
        PositionEntry *entry = realloc(table->entry, capacity * sizeof *entry);
        if (!entry) return error_set(reader->error, ERROR_MEMORY, "no memory for %s", reader->path);
        table->entry = entry;
        reader->capacity = capacity;
    }
    table->entry[table->entries++] = (PositionEntry){row, column};
    return true;
}

static bool read_header_line(Reader *reader, PositionTable *table, size_t tokens, bool causal) {
    const char *word = next_word(reader);
    long value, first, last;
    if (!strcmp(word, "size")) {
        if (reader->has_size) return refuse(reader, "size is given twice");
        if (!read_long(reader, "the size", 1, LONG_MAX, &value)) return false;
        if ((size_t)value != reader->expected)
            return refuse(reader, "the table is for size %ld, but model.qk_size is %zu", value, reader->expected);
        reader->has_size = true;
    } else if (!strcmp(word, "lags")) {
        long most = (long)(TABLE_MAX_BYTES / sizeof(double)), first_wanted = causal ? 0 : 1 - (long)tokens;
        if (reader->has_lags) return refuse(reader, "lags are given twice");
        if (!read_long(reader, "the first lag", -most, most, &first) ||
            !read_long(reader, "the last lag", -most, most, &last))
            return false;
        if (first > last) return refuse(reader, "the first lag %ld is above the last, %ld", first, last);
        if (first > first_wanted || last < (long)tokens - 1)
            return refuse(reader, "lags %ld … %ld do not cover %ld … %ld, which %zu tokens of %s attention need", first,
                          last, first_wanted, (long)tokens - 1, tokens, causal ? "causal" : "non-causal");
        table->first_lag = first;
        table->lags = (size_t)(last - first) + 1;
        reader->has_lags = true;
    } else if (!strcmp(word, "support")) {
        size_t before = table->entries;
        while ((word = next_word(reader)))
            if (!add_entry(reader, table, word)) return false;
        if (table->entries == before) return refuse(reader, "support without a row:column");
    } else if (!strcmp(word, "bias")) {
        if (reader->has_bias) return refuse(reader, "bias is given twice");
        reader->has_bias = true;
    } else if (!strcmp(word, "data")) {
        reader->in_data = true;
    } else {
        return refuse(reader, "'%.40s' is none of size, lags, support, bias, data", word);
    }
    return end_of_line(reader);
}

static bool read_header(Reader *reader, PositionTable *table, size_t tokens, bool causal) {
    const char *word = next_line(reader) ? next_word(reader) : NULL;
    if (!word || strcmp(word, "rope-table"))
        return refuse(reader, "not a position table: the first line should be 'rope-table 1'");
    long version;
    if (!read_long(reader, "the version", 1, 1, &version) || !end_of_line(reader)) return false;
    while (!reader->in_data) {
        if (!next_line(reader)) return refuse(reader, "the file ends before 'data'");
        if (!read_header_line(reader, table, tokens, causal)) return false;
    }
    if (!reader->has_size) return refuse(reader, "no size before 'data'");
    if (!reader->has_lags) return refuse(reader, "no lags before 'data'");
    if (!table->entries) return refuse(reader, "no support before 'data'");
    return true;
}

// In single precision the numbers of a table that has none larger would have few digits left, or be 0.
static bool check_scale(Reader *reader, const PositionTable *table) {
    double largest = 0;
    for (size_t n = 0; n < table->lags * table->entries; n++) largest = fmax(largest, fabs(table->weight[n]));
    return largest == 0 || largest >= REAL_NORMAL_MIN ||
           refuse(reader,
                  "the largest weight is %g, below %g, the smallest number that " REAL_NAME
                  " has all digits of (put a common scale into attention.logit_scale)",
                  largest, (double)REAL_NORMAL_MIN);
}

static bool read_data(Reader *reader, PositionTable *table) {
    size_t lags = table->lags, numbers, bytes;
    if (!size_multiply(lags, table->entries + 1, &numbers) || !size_multiply(numbers, sizeof(double), &bytes) ||
        bytes > TABLE_MAX_BYTES)
        return refuse(reader, "%zu lags of %zu entries are too large: at most %zu MiB of numbers", lags, table->entries,
                      TABLE_MAX_BYTES >> 20);
    table->weight = malloc(lags * table->entries * sizeof(double));
    if (reader->has_bias) table->bias = malloc(lags * sizeof(double));
    if (!table->weight || (reader->has_bias && !table->bias))
        return error_set(reader->error, ERROR_MEMORY, "no memory for the %zu MiB of %s", bytes >> 20, reader->path);
    for (size_t index = 0; index < lags; index++) {
        long wanted = (long)table->first_lag + (long)index, lag;
        if (!next_line(reader)) return refuse(reader, "the file ends where lag %ld should be: truncated?", wanted);
        if (!strncmp(reader->word, "end", 3)) return refuse(reader, "'end' comes before lag %ld", wanted);
        if (!read_long(reader, "the lag", LONG_MIN, LONG_MAX, &lag)) return false;
        if (lag < wanted) return refuse(reader, "lag %ld again: lags ascend by one, %ld is next", lag, wanted);
        if (lag > wanted) return refuse(reader, "lag %ld comes where %ld should be: a lag is missing", lag, wanted);
        for (size_t e = 0; e < table->entries; e++)
            if (!read_number(reader, "a weight", 1.0, &table->weight[e * lags + index])) return false;
        if (reader->has_bias && !read_number(reader, "the bias", TABLE_MAX_BIAS, &table->bias[index])) return false;
        if (!end_of_line(reader)) return false;
    }
    if (!next_line(reader)) return refuse(reader, "the file ends without 'end': truncated?");
    const char *word = next_word(reader);
    if (strcmp(word, "end")) return refuse(reader, "'%.40s' comes where 'end' should be", word);
    if (!end_of_line(reader)) return false;
    if (next_line(reader)) return refuse(reader, "something follows after 'end'");
    return true;
}

bool table_read(PositionTable *table, const char *path, size_t size, size_t tokens, bool causal, Error *error) {
    *table = (PositionTable){0};
    size_t bytes;
    char *text = file_read_all(path, TABLE_MAX_BYTES, &bytes, error);
    if (!text) return false;
    Reader reader = {.path = path, .next = text, .error = error, .expected = size};
    bool good = memchr(text, 0, bytes) == NULL;
    if (!good) {
        reader.line = 1;
        refuse(&reader, "not a text file: it holds a zero byte");
    }
    good = good && read_header(&reader, table, tokens, causal) && read_data(&reader, table) &&
           check_scale(&reader, table);
    free(text);
    if (!good) table_free(table);
    return good;
}

void table_free(PositionTable *table) {
    free(table->entry);
    free(table->weight);
    free(table->bias);
    *table = (PositionTable){0};
}
