// rope prepare's engine from text to batches: what is in the shards is the text, byte for byte, and where it is cut.
#include "tests/support/check.h"
#include "tests/support/foreign_model.h"
#include "tests/support/prepared_files.h"

#include <fcntl.h>
#include <unistd.h>

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
    check_same_result(&result, &whole_result);
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
    check_same_result(&again, &result);
    settings.out = out; // a tokenizer that lies in the output folder
    if (!data_prepare(&settings, &again, &error)) fail_msg("%s", error.message);
    check_same_result(&again, &result);
    check_count("given tokenizers", 2);
    free(text);
}

// What a given tokenizer does not give back is counted, in lines that differ from the first to the last such byte.
static void test_lossy_tokenizers(void **state) {
    (void)state;
    static const struct {
        bool space_prefix;
        ForeignNewline newline;
        const char *line;
        uint64_t lost; // in a line
    } cases[] = {
        {false, NEWLINE_PIECE, "ab  ba a \n", 0},
        {true, NEWLINE_PIECE, "ab  ba a\n", 0}, // the space in front is added to the text, nothing is lost
        {true, NEWLINE_PIECE, " ab\n", 0},
        {false, NEWLINE_UNKNOWN, "ab ba\n", 1},
        {true, NEWLINE_UNKNOWN, "ab ba\n", 1},
        {false, NEWLINE_PIECE, "ab c ba\n", 1},
        {true, NEWLINE_PIECE, "ab c ba\n", 1},
        {false, NEWLINE_PIECE, "cab abx\n", 7}, // from c to x
        {false, NEWLINE_PIECE,
         "a\xE2\x96\x81"
         "b\n",
         3}, // U+2581, whose bytes it has no pieces for
        {true, NEWLINE_UNKNOWN, "c\n", 2},
        {false, NEWLINE_DROPPED, "ab ba\n", 1},
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
        write_foreign_model(model, cases[i].space_prefix, cases[i].newline);
        const char *inputs[] = {input};
        PrepareSettings settings = settings_for(inputs, 1, out, NULL);
        settings.tokenizer = model;
        PrepareResult result, meta;
        Error error = {0};
        if (!data_prepare(&settings, &result, &error)) fail_msg("%s", error.message);
        if (result.lossy_bytes != LINES * cases[i].lost)
            fail_msg("case %zu: %llu bytes are lost", i, (unsigned long long)result.lossy_bytes);
        assert_true(data_read_meta(out, &meta, &error));
        check_same_result(&meta, &result);
        check_count("texts under tokenizers that lose some", 1);
    }
}

// Line ends alone are held out, and the tokenizer has none.
static void test_no_token_held_out(void **state) {
    (void)state;
    char input[PATH], out[PATH], model[PATH];
    in_directory(input, "text.txt");
    in_directory(out, "out");
    in_directory(model, "foreign.model");
    static const char text[] = "ab ba\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n";
    write_file(input, text, sizeof text - 1);
    write_foreign_model(model, false, NEWLINE_DROPPED);
    const char *inputs[] = {input};
    PrepareSettings settings = settings_for(inputs, 1, out, NULL);
    settings.tokenizer = model;
    PrepareResult result;
    Error error = {0};
    assert_false(data_prepare(&settings, &result, &error));
    assert_int_equal(error.kind, ERROR_USER);
    if (!strstr(error.message, "no token of the text that is to be held out")) fail_msg("%s", error.message);
    check_count("texts without a token", 1);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup(test_types_and_line_ends, new_directory),
    cmocka_unit_test_setup(test_many_inputs, new_directory),
    cmocka_unit_test_setup(test_texts_without_lines, new_directory),
    cmocka_unit_test_setup(test_long_lines, new_directory),
    cmocka_unit_test_setup(test_given_tokenizer_and_held_out, new_directory),
    cmocka_unit_test_setup(test_lossy_tokenizers, new_directory),
    cmocka_unit_test_setup(test_no_token_held_out, new_directory),
};
TEST_MAIN(tests)
