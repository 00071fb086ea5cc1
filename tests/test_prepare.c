// rope prepare's engine from text to batches: what is in the shards is the text, byte for byte; refusals; interruption.
#include "tests/support/check.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/files.h"
#include "core/random.h"
#include "data/data.h"
#include "data/shards.h"
#include "data/text.h"
#include "data/tokenizer.h"

enum { PATH = 512 };

static const char *directory;

static int new_directory(void **state) {
    (void)state;
    directory = temporary_directory();
    return 0;
}

static void in_directory(char *path, const char *name) {
    assert_true(snprintf(path, PATH, "%s/%s", directory, name) < PATH);
}

static const char *const words[] = {"the",
                                    "king",
                                    "and",
                                    "queen",
                                    "spoke",
                                    "of",
                                    "water\xE2\x96\x81",
                                    "na\xC3\xAFve",
                                    "\xFF\xFE",
                                    "\tfield",
                                    "morning",
                                    "\xF0\x9F\x98\x80",
                                    "harvest",
                                    "people",
                                    "came",
                                    "to"};

// About `size` bytes of lines, some hard, always the same for a seed.
static char *make_text(uint64_t seed, size_t *size, const char *line_end) {
    char *text = malloc(*size + 256);
    size_t used = 0;
    for (uint64_t i = 0; used < *size; i++) {
        Random random = {.seed = seed, .stream = RANDOM_TEST, .step = i};
        for (uint64_t w = 0; w < 3 + i % 9; w++)
            used += (size_t)sprintf(text + used, "%s%s", w ? " " : "", words[random_below(random, w, 16)]);
        used += (size_t)sprintf(text + used, "%s", line_end);
    }
    *size = used;
    return text;
}

static void write_file(const char *path, const char *text, size_t size) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, size, file), size);
    fclose(file);
}

// Decodes a whole shard.
static char *decode_shard(const char *path, const Tokenizer *tokenizer, size_t *size, uint64_t *count, int32_t **ids) {
    Shard shard;
    Error error = {0};
    char *text;
    if (!shard_open(&shard, path, &error)) fail_msg("%s", error.message);
    *count = shard.count;
    assert_int_equal(shard.vocabulary, tokenizer_vocabulary(tokenizer));
    *ids = malloc(shard.count * sizeof **ids);
    assert_true(shard_read(&shard, 0, shard.count, shard.vocabulary, *ids, &error));
    assert_true(tokenizer_decode(tokenizer, *ids, shard.count, &text, size, &error));
    shard_close(&shard);
    return text;
}

// The definition, summed token by token.
static double unigram_reference(const int32_t *train, uint64_t train_count, const int32_t *val, uint64_t val_count,
                                size_t vocabulary) {
    double sum = 0.0;
    for (uint64_t i = 0; i < val_count; i++) {
        uint64_t same = 0;
        for (uint64_t j = 0; j < train_count; j++) same += train[j] == val[i];
        sum -= log((double)(same + 1) / (double)(train_count + vocabulary));
    }
    return sum / (double)val_count;
}

static PrepareSettings settings_for(const char *const *inputs, size_t count, const char *out, const char *type) {
    return (PrepareSettings){.inputs = inputs,
                             .input_count = count,
                             .out = out,
                             .type = type,
                             .vocabulary = 300,
                             .validation_share = 0.1,
                             .quiet = true};
}

// Everything that must hold of a prepared directory whose text was `text`.
static void check_prepared(const char *out, const char *text, size_t size, const PrepareResult *result,
                           bool has_lines) {
    char path[PATH + 32];
    Error error = {0};
    snprintf(path, sizeof path, "%s/tokenizer.model", out);
    Tokenizer *tokenizer = tokenizer_load(path, &error);
    if (!tokenizer) fail_msg("%s", error.message);
    assert_int_equal(result->vocabulary, tokenizer_vocabulary(tokenizer));
    size_t train_size, val_size;
    uint64_t train_count, val_count;
    int32_t *train_ids, *val_ids;
    snprintf(path, sizeof path, "%s/train.bin", out);
    char *train = decode_shard(path, tokenizer, &train_size, &train_count, &train_ids);
    snprintf(path, sizeof path, "%s/val.bin", out);
    char *val = decode_shard(path, tokenizer, &val_size, &val_count, &val_ids);
    assert_int_equal(train_size + val_size, size);
    check_same_bits("bytes of prepared text", train, text, train_size);
    check_same_bits("bytes of prepared text", val, text + train_size, val_size);
    assert_int_equal(result->train_bytes, train_size);
    assert_int_equal(result->val_bytes, val_size);
    assert_int_equal(result->train_tokens, train_count);
    assert_int_equal(result->val_tokens, val_count);
    if (has_lines) {
        assert_int_equal(train[train_size - 1], '\n');
        assert_in_range(val_size, size / 10 - 300, size / 10 + 300);
        int32_t *whole; // reading in pieces changes no token
        size_t whole_count;
        assert_true(tokenizer_encode(tokenizer, train, train_size, &whole, &whole_count, &error));
        assert_int_equal(whole_count, train_count);
        check_same_bits("ids of text read in pieces", whole, train_ids, train_count * sizeof *whole);
        free(whole);
    }
    if (train_count < 30000)
        assert_true(fabs(result->unigram_loss -
                         unigram_reference(train_ids, train_count, val_ids, val_count, result->vocabulary)) < 1e-9);
    assert_int_equal(result->lossy_bytes, 0);
    PrepareResult meta;
    if (!data_read_meta(out, &meta, &error)) fail_msg("%s", error.message);
    assert_memory_equal(&meta, result, sizeof meta);
    free(train);
    free(val);
    free(train_ids);
    free(val_ids);
    tokenizer_free(tokenizer);
    check_count("prepared folders", 1);
}

static void test_types_and_line_ends(void **state) {
    (void)state;
    static const char *const types[] = {"bpe", "unigram", "char"}, *const line_ends[] = {"\n", "\r\n"};
    char input[PATH], out[PATH];
    in_directory(input, "text.txt");
    in_directory(out, "deep/out");
    for (size_t t = 0; t < 3; t++)
        for (size_t e = 0; e < 2; e++) { // into the same folder each time: it is replaced
            size_t size = 40000;
            char *text = make_text(t, &size, line_ends[e]);
            write_file(input, text, size);
            const char *inputs[] = {input};
            PrepareSettings settings = settings_for(inputs, 1, out, types[t]);
            PrepareResult result;
            Error error = {0};
            if (!data_prepare(&settings, &result, &error)) fail_msg("%s: %s", types[t], error.message);
            check_prepared(out, text, size, &result, true);
            free(text);
        }
    char leftover[PATH + 32];
    static const char *const names[] = {"tokenizer.model.new", "train.bin.new", "val.bin.new"};
    for (size_t i = 0; i < 3; i++) {
        snprintf(leftover, sizeof leftover, "%s/%s", out, names[i]);
        assert_int_not_equal(access(leftover, F_OK), 0);
    }
}

// Several files and standard input in between, larger than a piece; the same bytes as one file.
static void test_many_inputs(void **state) {
    (void)state;
    size_t size = 3000000;
    char *text = make_text(5, &size, "\n"), paths[3][PATH], out[PATH], whole_out[PATH], whole[PATH];
    const size_t cuts[] = {0, size / 3 + 1, size / 2, size};
    for (size_t i = 0; i < 3; i++) {
        char name[16];
        snprintf(name, sizeof name, "part%zu", i);
        in_directory(paths[i], name);
        write_file(paths[i], text + cuts[i], cuts[i + 1] - cuts[i]);
    }
    in_directory(out, "parts_out");
    in_directory(whole_out, "whole_out");
    in_directory(whole, "whole.txt");
    write_file(whole, text, size);
    int saved = dup(STDIN_FILENO), piped = open(paths[1], O_RDONLY);
    assert_true(saved >= 0 && dup2(piped, STDIN_FILENO) == STDIN_FILENO);
    const char *inputs[] = {paths[0], "-", paths[2]}, *one[] = {whole};
    PrepareSettings settings = settings_for(inputs, 3, out, "bpe"),
                    whole_settings = settings_for(one, 1, whole_out, "bpe");
    PrepareResult result, whole_result;
    Error error = {0};
    if (!data_prepare(&settings, &result, &error)) fail_msg("%s", error.message);
    dup2(saved, STDIN_FILENO);
    close(saved);
    close(piped);
    check_prepared(out, text, size, &result, true);
    assert_true(data_prepare(&whole_settings, &whole_result, &error));
    assert_memory_equal(&result, &whole_result, sizeof result);
    check_count("several inputs against one", 1);
    free(text);
}

static void test_texts_without_lines(void **state) {
    (void)state;
    char input[PATH], out[PATH];
    in_directory(input, "text.txt");
    in_directory(out, "out");
    size_t size = 2500000;
    char *spaced = make_text(1, &size, " "), *solid = malloc(size);
    for (size_t i = 0; i < size; i++) solid[i] = (char)('a' + random_below((Random){.stream = RANDOM_TEST}, i, 26));
    // the last ones: NUL bytes, all kinds of line ends, and bytes that are not UTF-8, first, last and in between
    const char *texts[] = {spaced,
                           solid,
                           "ab",
                           "ab\n",
                           "a\nb\n",
                           "x y z",
                           "\0a\0\0b\n\0c\0",
                           "a\r\nb\rc\n\r\r\n\nd\r",
                           "\xFF\xC0\x80 a\n\xED\xA0\x80\xF4\x90\x80\x80\xE2\x96 b\0\r\n\xF0\x9F\x98"};
    const size_t sizes[] = {size, size, 2, 3, 4, 5, 9, 13, 23};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        write_file(input, texts[i], sizes[i]);
        const char *inputs[] = {input};
        PrepareSettings settings = settings_for(inputs, 1, out, "char");
        PrepareResult result;
        Error error = {0};
        if (!data_prepare(&settings, &result, &error)) fail_msg("%s", error.message);
        check_prepared(out, texts[i], sizes[i], &result, false);
    }
    free(spaced);
    free(solid);
}

// The held-out part begins at the nearest line start, unless that is further off than half of the smaller part.
static void test_long_lines(void **state) {
    (void)state;
    enum { SIZE = 30000, LINES = 3 };
    // Where newlines are, the share to hold out, and how many bytes are. Spaces are every 10 bytes, at 9, 19...
    static const struct {
        uint64_t newlines[LINES];
        double share;
        uint64_t held;
    } cases[] = {
        {{9}, 0.05, 1500},                  // one record, then one long line
        {{9999, 19999, 29999}, 0.05, 1500}, // three long lines
        {{28504}, 0.05, 1500 - 5},          // behind the wanted place, which is no line start
        {{28404}, 0.05, 1500 + 95},         // before it
        {{28449, 28550}, 0.05, 1500 + 50},  // on both sides: the nearer one
        {{28448, 28550}, 0.05, 1500 - 51},  //
        {{28449, 28549}, 0.05, 1500 - 50},  // as near: the later one
        {{28499, 28500}, 0.05, 1500},       // at the place itself
        {{27749, 29999}, 0.05, 1500 + 750}, // half of it off
        {{27748, 29250}, 0.05, 1500},       // further off, on both sides
        {{29249}, 0.05, 1500 - 750},        // half of it off
        {{28494, 28504}, 4.0 / SIZE, 4},    // so little is held out that only a character is looked at
        {{29995}, 1.0 / SIZE, 4},           //
        {{9}, 0.9, 27000},                  // the smaller part is the other one
        {{1499}, 0.9, 27000 + 1500},        //
    };
    char input[PATH], out[PATH], text[SIZE];
    in_directory(input, "text.txt");
    in_directory(out, "out");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (size_t b = 0; b < SIZE; b++) text[b] = b % 10 == 9 ? ' ' : (char)('a' + b % 7);
        for (size_t k = 0; k < LINES; k++)
            if (cases[i].newlines[k]) text[cases[i].newlines[k]] = '\n';
        write_file(input, text, SIZE);
        const char *inputs[] = {input};
        PrepareSettings settings = settings_for(inputs, 1, out, "char");
        settings.validation_share = cases[i].share;
        PrepareResult result;
        Error error = {0};
        if (!data_prepare(&settings, &result, &error)) fail_msg("%s", error.message);
        if (result.val_bytes != cases[i].held)
            fail_msg("case %zu: %llu bytes are held out", i, (unsigned long long)result.val_bytes);
        check_prepared(out, text, SIZE, &result, false);
    }
}

// Only part of a long text trains the tokenizer, held-out text never does.
static void test_given_tokenizer_and_held_out(void **state) {
    (void)state;
    char input[PATH], out[PATH], other[PATH], model[PATH + 32];
    in_directory(input, "text.txt");
    in_directory(out, "out");
    in_directory(other, "other");
    size_t size = 0;
    char *text = malloc(100000);
    for (int i = 0; i < 900; i++) size += (size_t)sprintf(text + size, "plain words in lines %d\n", i);
    for (int i = 0; i < 100; i++) size += (size_t)sprintf(text + size, "%s", "zzzzzzzzzz zzzzzzzzzzzz\n");
    write_file(input, text, size);
    const char *inputs[] = {input};
    PrepareSettings settings = settings_for(inputs, 1, out, "bpe");
    settings.validation_share = (100.0 * 24) / (double)size;
    PrepareResult result, again;
    Error error = {0};
    if (!data_prepare(&settings, &result, &error)) fail_msg("%s", error.message);
    assert_int_equal(result.val_bytes, 2400);
    assert_true(result.val_tokens >= 2400); // no piece for z: bytes
    snprintf(model, sizeof model, "%s/tokenizer.model", out);
    settings.tokenizer = model;
    settings.out = other;
    settings.type = NULL;
    if (!data_prepare(&settings, &again, &error)) fail_msg("%s", error.message);
    assert_memory_equal(&again, &result, sizeof result);
    settings.out = out; // a tokenizer that lies in the output folder
    if (!data_prepare(&settings, &again, &error)) fail_msg("%s", error.message);
    assert_memory_equal(&again, &result, sizeof result);
    check_count("given tokenizers", 2);
    free(text);
}

// A SentencePiece model made elsewhere: a unigram one of a few characters without bytes, which normalises nothing.
static void write_model(const char *path, bool space_prefix, bool newline) {
    static const char *const pieces[] = {"<unk>", "<s>", "</s>", "\xE2\x96\x81", "a", "b", "\n"};
    static const char types[] = {2, 3, 3, 1, 1, 1, 1};
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    for (size_t i = 0; i < (newline ? 7 : 6); i++) { // text, score -1, type
        int length = (int)strlen(pieces[i]);
        fprintf(file, "\n%c\n%c%s\x15%c%c\x80\xBF\x18%c", length + 9, length, pieces[i], 0, 0, types[i]);
    }
    fprintf(file, "\x12\x02\x18\x01\x1A\x06\x18%c\x20%c\x28\x01", space_prefix, 0);
    assert_int_equal(fclose(file), 0);
}

// What a given tokenizer does not give back is counted, in lines that differ from the first to the last such byte.
static void test_lossy_tokenizers(void **state) {
    (void)state;
    static const struct {
        bool space_prefix, newline;
        const char *line;
        uint64_t lost; // in a line
    } cases[] = {
        {false, true, "ab  ba a \n", 0},
        {true, true, "ab  ba a\n", 0}, // the space in front is added to the text, nothing is lost
        {true, true, " ab\n", 0},
        {false, false, "ab ba\n", 1},
        {true, false, "ab ba\n", 1},
        {false, true, "ab c ba\n", 1},
        {true, true, "ab c ba\n", 1},
        {false, true, "cab abx\n", 7}, // from c to x
        {false, true,
         "a\xE2\x96\x81"
         "b\n",
         3}, // U+2581, whose bytes it has no pieces for
        {true, false, "c\n", 2},
    };
    enum { LINES = 100 };
    char input[PATH], out[PATH], model[PATH];
    in_directory(input, "text.txt");
    in_directory(out, "out");
    in_directory(model, "foreign.model");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[LINES * 16] = "";
        for (size_t k = 0; k < LINES; k++) strcat(text, cases[i].line);
        write_file(input, text, strlen(text));
        write_model(model, cases[i].space_prefix, cases[i].newline);
        const char *inputs[] = {input};
        PrepareSettings settings = settings_for(inputs, 1, out, NULL);
        settings.tokenizer = model;
        PrepareResult result, meta;
        Error error = {0};
        if (!data_prepare(&settings, &result, &error)) fail_msg("%s", error.message);
        if (result.lossy_bytes != LINES * cases[i].lost)
            fail_msg("case %zu: %llu bytes are lost", i, (unsigned long long)result.lossy_bytes);
        assert_true(data_read_meta(out, &meta, &error));
        assert_memory_equal(&meta, &result, sizeof meta);
        check_count("texts under tokenizers that lose some", 1);
    }
}

static void expect_refused(const PrepareSettings *settings, ErrorKind kind, const char *message) {
    PrepareResult result;
    Error error = {0};
    char path[PATH + 32];
    assert_false(data_prepare(settings, &result, &error));
    if (!strstr(error.message, message)) fail_msg("\"%s\" does not say \"%s\"", error.message, message);
    assert_int_equal(error.kind, kind);
    static const char *const names[] = {"train.bin",           "val.bin",      "meta.json", "tokenizer.model",
                                        "tokenizer.model.new", "train.bin.new"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", settings->out, names[i]);
        assert_int_not_equal(access(path, F_OK), 0);
    }
    check_count("refused preparations that left nothing behind", 1);
}

// Texts that change while they are read are refused, unless what is read is the old one; "a" is open, "b" was and will be.
static void test_changing_texts(void **state) {
    (void)state;
    enum { APPEND, WRITE, CUT, RENAME, REMOVE, CHANGES };
    const struct timespec long_ago[2] = {{1000000000, 0}, {1000000000, 0}};
    for (int change = 0; change < CHANGES; change++) {
        for (int opened = 0; opened < 2; opened++) {
            char paths[2][PATH], other[PATH], buffer[8];
            const char *inputs[2] = {paths[0], paths[1]};
            Error error = {0};
            in_directory(other, "other");
            for (int i = 0; i < 2; i++) {
                in_directory(paths[i], i ? "b" : "a");
                write_file(paths[i], "12345678", 8);
                assert_int_equal(utimensat(AT_FDCWD, paths[i], long_ago, 0), 0);
            }
            Text *text = text_open(inputs, 2, directory, &error);
            assert_true(text && text_read(text, 8, buffer, 8, &error) && text_read(text, 0, buffer, 8, &error));
            assert_true(text_check(text, &error));
            const char *path = paths[opened ? 0 : 1];
            write_file(other, "abcdefgh", 8);
            const int file = open(path, change == APPEND ? O_WRONLY | O_APPEND : O_WRONLY);
            if (change == APPEND || change == WRITE) assert_int_equal(write(file, "x", 1), 1);
            if (change == CUT) assert_int_equal(ftruncate(file, 4), 0);
            if (change == RENAME) assert_int_equal(rename(other, path), 0);
            if (change == REMOVE) assert_int_equal(unlink(path), 0);
            close(file);
            const bool fine = text_check(text, &error), old = opened && change >= RENAME;
            if (fine != old) fail_msg("change %d of a text: %s", change, error.message);
            if (!fine) assert_true(error.kind != ERROR_USER && strstr(error.message, path));
            error_clear(&error);
            if (text_read(text, opened ? 0 : 8, buffer, 8, &error) != old) fail_msg("change %d is read", change);
            if (old) assert_memory_equal(buffer, "12345678", 8);
            text_close(text);
            check_count("texts that change while they are read", 1);
        }
    }
}

static void test_refusals(void **state) {
    (void)state;
    char input[PATH], out[PATH];
    in_directory(input, "text.txt");
    in_directory(out, "out");
    const char *inputs[] = {input};
    PrepareSettings good = settings_for(inputs, 1, out, "bpe"), bad = good;
    expect_refused(&good, ERROR_USER, "No such file");
    write_file(input, "", 0);
    expect_refused(&good, ERROR_USER, "empty");
    write_file(input, "x", 1);
    expect_refused(&good, ERROR_USER, "too small");
    write_file(input, "\n\n\n\n\n\n\n\n\n\n", 10);
    expect_refused(&good, ERROR_USER, "only line ends");
    write_file(input, "\xFF\xFE\n\t\0\n\xC0\x80\n\n", 10);
    expect_refused(&good, ERROR_USER, "or bytes that are no UTF-8");
    size_t size = 5000;
    char *text = make_text(3, &size, "\n");
    write_file(input, text, size);
    free(text);
    bad.vocabulary = 100000;
    expect_refused(&bad, ERROR_USER, "largest possible");
    bad.vocabulary = 3;
    expect_refused(&bad, ERROR_USER, "out of range");
    bad = good;
    bad.type = "wordpiece";
    expect_refused(&bad, ERROR_USER, "choose bpe");
    bad = good;
    static const double shares[] = {0.0, 1.0, -0.1, NAN, INFINITY};
    for (size_t i = 0; i < 5; i++) {
        bad.validation_share = shares[i];
        expect_refused(&bad, ERROR_USER, "between 0 and 1");
    }
    bad = good;
    bad.input_count = 0;
    expect_refused(&bad, ERROR_USER, "no text given");
    inputs[0] = directory;
    expect_refused(&good, ERROR_USER, "folder");
    inputs[0] = input;
    bad = good;
    bad.tokenizer = input;
    expect_refused(&bad, ERROR_CORRUPT, "/text.txt: not a SentencePiece model");
    bad = good;
    bad.out = input; // a file where the folder should be
    PrepareResult result;
    Error error = {0};
    assert_false(data_prepare(&bad, &result, &error));
    assert_non_null(strstr(error.message, input));
    bad.out = "/proc/rope";
    error_clear(&error);
    assert_false(data_prepare(&bad, &result, &error));
    assert_non_null(strstr(error.message, "/proc"));
    check_count("folders that cannot be written", 2);
}

static void test_meta_refusals(void **state) {
    (void)state;
    char path[PATH];
    in_directory(path, "meta.json");
    PrepareResult meta;
    Error error = {0};
    assert_false(data_read_meta(directory, &meta, &error));
    assert_int_equal(error.kind, ERROR_USER);
    static const char *const texts[] = {"",
                                        "{",
                                        "[]",
                                        "{}",
                                        "null",
                                        "{\"version\": 1, \"version\": 1}",
                                        "{\"version\":1,\"vocabulary\":0,\"train\":{\"bytes\":1,\"tokens\":1},"
                                        "\"validation\":{\"bytes\":1,\"tokens\":1},\"unigram_loss\":1}",
                                        "{\"version\":1,\"vocabulary\":9,\"train\":{\"bytes\":1,\"tokens\":-1},"
                                        "\"validation\":{\"bytes\":1,\"tokens\":1},\"unigram_loss\":1}",
                                        "{\"version\":1,\"vocabulary\":2147483648,\"train\":{\"bytes\":1,\"tokens\":1},"
                                        "\"validation\":{\"bytes\":1,\"tokens\":1},\"unigram_loss\":1}",
                                        "{\"version\":1,\"vocabulary\":9,\"train\":{\"bytes\":0,\"tokens\":1},"
                                        "\"validation\":{\"bytes\":1,\"tokens\":1},\"unigram_loss\":1}",
                                        "{\"version\":1,\"vocabulary\":9,\"train\":{\"bytes\":1,\"tokens\":1},"
                                        "\"validation\":{\"bytes\":0,\"tokens\":1},\"unigram_loss\":1}",
                                        "{\"version\":1,\"vocabulary\":9,\"train\":{\"bytes\":1,\"tokens\":1},"
                                        "\"validation\":{\"bytes\":1,\"tokens\":0},\"unigram_loss\":1}",
                                        "{\"version\":1,\"vocabulary\":9,\"train\":{\"bytes\":1,\"tokens\":1},"
                                        "\"validation\":{\"bytes\":1,\"tokens\":1},\"unigram_loss\":-1}",
                                        "{\"version\":1,\"vocabulary\":9,\"train\":{\"bytes\":1,\"tokens\":1},"
                                        "\"validation\":{\"bytes\":1,\"tokens\":1},\"unigram_loss\":1,"
                                        "\"lossy_bytes\":-1}",
                                        "{\"version\":2,\"vocabulary\":9,\"train\":{\"bytes\":1,\"tokens\":1},"
                                        "\"validation\":{\"bytes\":1,\"tokens\":1},\"unigram_loss\":1}",
                                        "{\"version\":1,\"vocabulary\":\"9\",\"train\":{\"bytes\":1,\"tokens\":1},"
                                        "\"validation\":{\"bytes\":1,\"tokens\":1},\"unigram_loss\":1}"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        write_file(path, texts[i], strlen(texts[i]));
        error_clear(&error);
        assert_false(data_read_meta(directory, &meta, &error));
        assert_int_equal(error.kind, ERROR_CORRUPT);
        assert_non_null(strstr(error.message, path));
    }
    check_count("meta.json refused", 1 + sizeof texts / sizeof *texts);
}

// Shards beside the two that are written would be trained on with them; what has other names is left alone.
static void test_other_shards(void **state) {
    (void)state;
    static const struct {
        const char *name;
        bool refused;
    } cases[] = {{"train_000001.bin", true}, {"val_2.bin", true},  {"validation.bin", true}, {"train.bin.bin", true},
                 {"train.bin", false},       {"val.bin", false},   {"train.txt", false},     {"train.bin.new", false},
                 {"my_train.bin", false},    {"train_bin", false}, {"meta.json.new", false}};
    char input[PATH], out[PATH], path[PATH + 32], text[2000];
    in_directory(input, "others.txt");
    for (size_t i = 0; i < sizeof text; i++) text[i] = i % 40 == 39 ? '\n' : (char)('a' + i % 7);
    write_file(input, text, sizeof text);
    const char *inputs[] = {input};
    PrepareSettings settings = settings_for(inputs, 1, out, "char");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char name[32], kept[8];
        snprintf(name, sizeof name, "others_%zu", i);
        in_directory(out, name);
        assert_int_equal(mkdir(out, 0777), 0);
        snprintf(path, sizeof path, "%s/%s", out, cases[i].name);
        write_file(path, "theirs", 6);
        PrepareResult result;
        Error error = {0};
        if (cases[i].refused) {
            expect_refused(&settings, ERROR_USER, path);
            FILE *file = fopen(path, "rb");
            assert_non_null(file);
            assert_int_equal(fread(kept, 1, 8, file), 6);
            assert_memory_equal(kept, "theirs", 6);
            fclose(file);
            assert_int_equal(unlink(path), 0);
        }
        if (!data_prepare(&settings, &result, &error)) fail_msg("%s: %s", cases[i].name, error.message);
        check_prepared(out, text, sizeof text, &result, false);
    }
}

// A preparation that was stopped among its renames has left the next meta.json under its first name, and no other.
static void test_stopped(void **state) {
    (void)state;
    char input[PATH], text[2000], out[PATH], path[PATH + 32];
    in_directory(input, "stopped.txt");
    in_directory(out, "stopped");
    for (size_t i = 0; i < sizeof text; i++) text[i] = i % 40 == 39 ? '\n' : (char)('a' + i % 7);
    write_file(input, text, sizeof text);
    const char *inputs[] = {input};
    PrepareSettings settings = settings_for(inputs, 1, out, "char");
    PrepareResult result;
    Error error = {0};
    if (!data_prepare(&settings, &result, &error)) fail_msg("%s", error.message);
    for (size_t split = 0; split < 2; split++) {
        DataSettings loading = {.path = out, .split = split ? "val" : "train", .batch = 1, .tokens = 8};
        for (size_t stopped = 0; stopped < 3; stopped++) { // meta.json: there, beside the next one, replaced by it
            char meta[PATH + 32];
            snprintf(path, sizeof path, "%s/meta.json.new", out);
            snprintf(meta, sizeof meta, "%s/meta.json", out);
            if (stopped == 1) write_file(path, "{}", 2);
            if (stopped == 2) assert_int_equal(rename(meta, path), 0);
            error_clear(&error);
            Loader *loader = loader_open(&loading, &error);
            PrepareResult read;
            if (stopped < 2) {
                if (!loader) fail_msg("%s", error.message);
                loader_close(loader);
                assert_true(data_read_meta(out, &read, &error));
            } else {
                assert_null(loader);
                assert_int_equal(error.kind, ERROR_USER);
                assert_non_null(strstr(error.message, out));
                error_clear(&error);
                assert_false(data_read_meta(out, &read, &error));
                assert_non_null(strstr(error.message, "stopped"));
                assert_int_equal(rename(path, meta), 0);
            }
            check_count("states of a folder", 1);
        }
    }
    snprintf(path, sizeof path, "%s/meta.json.new", out); // an unfinished one is prepared again
    char meta[PATH + 32];
    snprintf(meta, sizeof meta, "%s/meta.json", out);
    assert_int_equal(rename(meta, path), 0);
    if (!data_prepare(&settings, &result, &error)) fail_msg("%s", error.message);
    check_prepared(out, text, sizeof text, &result, false);
    assert_int_not_equal(access(path, F_OK), 0);
    snprintf(path, sizeof path, "%s/meta.json", out); // without either, shards were made elsewhere, which is fine
    assert_int_equal(unlink(path), 0);
    DataSettings loading = {.path = out, .split = "train", .batch = 1, .tokens = 8};
    error_clear(&error);
    Loader *loader = loader_open(&loading, &error);
    if (!loader) fail_msg("%s", error.message);
    loader_close(loader);
    check_count("states of a folder", 1);
}

int main(int argc, char **argv) {
    (void)argc;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_types_and_line_ends, new_directory),
        cmocka_unit_test_setup(test_many_inputs, new_directory),
        cmocka_unit_test_setup(test_texts_without_lines, new_directory),
        cmocka_unit_test_setup(test_long_lines, new_directory),
        cmocka_unit_test_setup(test_given_tokenizer_and_held_out, new_directory),
        cmocka_unit_test_setup(test_lossy_tokenizers, new_directory),
        cmocka_unit_test_setup(test_changing_texts, new_directory),
        cmocka_unit_test_setup(test_refusals, new_directory),
        cmocka_unit_test_setup(test_meta_refusals, new_directory),
        cmocka_unit_test_setup(test_other_shards, new_directory),
        cmocka_unit_test_setup(test_stopped, new_directory),
    };
    test_begin(argv);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    check_report();
    return failed != 0;
}
