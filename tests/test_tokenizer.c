// decode(encode(x)) == x for every type and any bytes; errors of training and loading.
#include "tests/support/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/files.h"
#include "core/random.h"
#include "data/tokenizer.h"
#include "data/utf8.h"

static const char *const types[] = {"bpe", "unigram", "char"};
enum { TYPES = 3 };
static Tokenizer *tokenizers[TYPES];
static const char *directory;

static const char *const words[] = {"and", "the",   "lord",  "of",    "Israel", "said",      "unto", "him",   "behold",
                                    "a",   "great", "naïve", "число", "水",     "multitude", "came", "forth", "saying"};

typedef struct Memory {
    const char *text;
    size_t size, piece;
} Memory;

static bool next_piece(void *context, const char **text, size_t *size) {
    Memory *memory = context;
    *text = memory->text;
    *size = memory->size < memory->piece ? memory->size : memory->piece;
    memory->text += *size;
    memory->size -= *size;
    return true;
}

static bool train(const char *type, size_t vocabulary, const char *path, const char *text, size_t size, Error *error) {
    Memory memory = {text, size, 1000};
    TokenizerTraining training = {.type = type,
                                  .vocabulary = vocabulary,
                                  .model_path = path,
                                  .next = next_piece,
                                  .context = &memory,
                                  .sample_bytes = 1 << 20};
    return tokenizer_train(&training, error);
}

// Lines of random words, always the same.
static char *make_text(size_t lines, size_t *size) {
    char *text = malloc(lines * 256);
    Random random = {.seed = 7, .stream = RANDOM_TEST};
    *size = 0;
    for (size_t line = 0; line < lines; line++) {
        for (size_t i = 0; i < 10; i++) {
            uint64_t word = random_below(random, line * 10 + i, sizeof words / sizeof *words);
            *size += (size_t)sprintf(text + *size, "%s%s", i ? " " : line % 5 ? "" : "    ", words[word]);
        }
        text[(*size)++] = '\n';
    }
    return text;
}

static void model_path(char *path, size_t size, const char *type) {
    assert_true(snprintf(path, size, "%s/%s.model", directory, type) < (int)size);
}

static int set_up(void **state) {
    (void)state;
    directory = temporary_directory();
    size_t size;
    char *text = make_text(400, &size);
    for (size_t t = 0; t < TYPES; t++) {
        char path[512];
        Error error = {0};
        model_path(path, sizeof path, types[t]);
        if (!train(types[t], 330, path, text, size, &error)) fail_msg("%s: %s", types[t], error.message);
        tokenizers[t] = tokenizer_load(path, &error);
        if (!tokenizers[t]) fail_msg("%s: %s", types[t], error.message);
    }
    free(text);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    for (size_t t = 0; t < TYPES; t++) tokenizer_free(tokenizers[t]);
    return 0;
}

static size_t round_trip(const Tokenizer *tokenizer, const char *text, size_t size) {
    int32_t *ids;
    char *back;
    size_t count, back_size;
    Error error = {0};
    if (!tokenizer_encode(tokenizer, text, size, &ids, &count, &error)) fail_msg("%s", error.message);
    for (size_t i = 0; i < count; i++) assert_in_range(ids[i], 0, tokenizer_vocabulary(tokenizer) - 1);
    if (!tokenizer_decode(tokenizer, ids, count, &back, &back_size, &error)) fail_msg("%s", error.message);
    assert_int_equal(back_size, size);
    assert_memory_equal(back, text, size);
    assert_int_equal(back[back_size], 0);
    free(ids);
    free(back);
    return count;
}

static void test_hard_texts(void **state) {
    (void)state;
#define TEXT(literal)                                                                                                  \
    { literal, sizeof(literal) - 1 }
    static const struct {
        const char *text;
        size_t size;
    } texts[] = {
        TEXT(""),
        TEXT(" "),
        TEXT("  "),
        TEXT("\n"),
        TEXT("\n\n\n"),
        TEXT("\r\n\r\n"),
        TEXT("\t\ta\t"),
        TEXT("\0"),
        TEXT("a\0b\0\0"),
        TEXT("   leading"),
        TEXT("trailing   "),
        TEXT("a  b   c    d"),
        TEXT(" \n \n  x"),
        TEXT("the lord\nof Israel\n"),
        TEXT("\xE2\x96\x81"),
        TEXT("a\xE2\x96\x81\xE2\x96\x81 b \xE2\x96\x81"),
        TEXT("\xE2\x96\x85 \xE2\x81\x87"),
        TEXT("\xF0\x9F\x98\x80\xF0\x9F\x91\xA8\xE2\x80\x8D\xF0\x9F\x91\xA9"),
        TEXT("e\xCC\x81 \xC3\xA9 \xEF\xAC\x81 \xE2\x84\xAB"),
        TEXT("\xEF\xBF\xBD"),
        TEXT("\xEF\xBB\xBF"
             "bom"),
        TEXT("\xEF\xBF\xBE\xEF\xBF\xBF"),
        TEXT("\xFF\xFE"),
        TEXT("\xC0\x80"),
        TEXT("\xED\xA0\x80"),
        TEXT("\xF4\x90\x80\x80"),
        TEXT("\xE2\x96"),
        TEXT("\xE2"),
        TEXT("abc\xF0\x9F\x98"),
        TEXT("<s></s><unk><pad>"),
        TEXT("<0x41><0x0A>"),
        TEXT("\xE3\x80\x80\xC2\xA0\xE2\x80\x8B"),
        TEXT("\x01\x02\x1B[0m\x7F"),
        TEXT("\xE6\xB0\xB4\xE6\xB0\xB4 \xD1\x87\xD0\xB8\xD1\x81\xD0\xBB\xD0\xBE na\xC3\xAFve"),
        TEXT(" the the  the\n the\n\nthe "),
    };
#undef TEXT
    for (size_t t = 0; t < TYPES; t++)
        for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
            round_trip(tokenizers[t], texts[i].text, texts[i].size);
    check_count("tokenizer round trips of hard texts", TYPES * sizeof texts / sizeof *texts);
}

// Fragments that are hard together: words, spaces, breaks, half characters, raw bytes.
static size_t random_text(char *text, size_t fragments, Random random) {
    static const char *const parts[] = {
        " ",        "  ",   "\n",           "\r\n", "\t",     "\xE2\x96\x81", "\xE2\x96", "\xF0\x9F\x98\x80",
        "\xC3\xA9", "\xFF", "\xED\xA0\x80", "<s>",  "<0x00>", "and",          " the",     "lord",
        "水",       "."};
    size_t size = 0;
    for (size_t i = 0; i < fragments; i++) {
        uint64_t kind = random_below(random, 2 * i, sizeof parts / sizeof *parts + 4);
        if (kind < sizeof parts / sizeof *parts)
            size += (size_t)sprintf(text + size, "%s", parts[kind]);
        else
            text[size++] = (char)random_bits(random, 2 * i + 1);
    }
    return size;
}

static void test_random_texts(void **state) {
    (void)state;
    enum { CASES = 3000, FRAGMENTS = 40 };
    char text[FRAGMENTS * 8];
    for (size_t t = 0; t < TYPES; t++)
        for (uint64_t i = 0; i < CASES; i++) {
            Random random = {.seed = t, .stream = RANDOM_TEST, .step = i};
            round_trip(tokenizers[t], text, random_text(text, 1 + i % FRAGMENTS, random));
        }
    check_count("tokenizer round trips of random fragments", (size_t)TYPES * CASES);
}

static void test_random_bytes(void **state) {
    (void)state;
    enum { CASES = 2000, SIZE = 64 };
    char bytes[SIZE];
    for (size_t t = 0; t < TYPES; t++)
        for (uint64_t i = 0; i < CASES; i++) {
            Random random = {.seed = t + 10, .stream = RANDOM_TEST, .step = i};
            for (size_t b = 0; b < SIZE; b++) bytes[b] = (char)random_bits(random, b);
            round_trip(tokenizers[t], bytes, i % (SIZE + 1));
        }
    check_count("tokenizer round trips of random bytes", (size_t)TYPES * CASES);
}

// Every code point, and every byte pair, in one text each.
static void test_all_characters(void **state) {
    (void)state;
    char *text = malloc(1 << 20);
    for (uint32_t first = 0; first < 0x110000; first += 0x10000) {
        size_t size = 0;
        // every character of the first plane, a tenth of the others, surrogates included: they are invalid bytes
        for (uint32_t c = first; c < first + 0x10000; c += first ? 10 : 1) {
            if (c >= 0x10000) text[size++] = (char)(0xF0 | c >> 18);
            if (c >= 0x800)
                text[size++] = (char)((c >= 0x10000 ? 0x80 : 0xE0) | (c >> 12 & (c >= 0x10000 ? 0x3F : 0x0F)));
            if (c >= 0x80) text[size++] = (char)((c >= 0x800 ? 0x80 : 0xC0) | (c >> 6 & (c >= 0x800 ? 0x3F : 0x1F)));
            text[size++] = (char)(c < 0x80 ? c : 0x80 | (c & 0x3F));
        }
        for (size_t t = 0; t < TYPES; t++) round_trip(tokenizers[t], text, size);
        check_count("tokenizer round trips of whole planes", TYPES);
    }
    size_t size = 0;
    for (size_t pair = 0; pair < 65536; pair++) {
        text[size++] = (char)(pair >> 8);
        text[size++] = (char)pair;
    }
    for (size_t t = 0; t < TYPES; t++) round_trip(tokenizers[t], text, size);
    free(text);
}

// Cutting a text where a line ends changes no token: prepare relies on it.
static void test_cut_at_lines(void **state) {
    (void)state;
    size_t size, compared = 0;
    char *text = make_text(40, &size);
    for (size_t t = 0; t < TYPES; t++) {
        size_t whole = round_trip(tokenizers[t], text, size);
        assert_true(whole < size || t == 2); // something was learnt
        for (size_t cut = 1; cut < size; cut++) {
            if (text[cut - 1] != '\n') continue;
            size_t parts = round_trip(tokenizers[t], text, cut) + round_trip(tokenizers[t], text + cut, size - cut);
            assert_int_equal(parts, whole);
            compared++;
        }
    }
    free(text);
    check_count("texts cut at a line end", compared);
}

static void test_training_is_repeatable(void **state) {
    (void)state;
    size_t size;
    char *text = make_text(400, &size);
    for (size_t t = 0; t < TYPES; t++) {
        char first_path[512], again_path[512];
        Error error = {0};
        size_t first_size, again_size;
        model_path(first_path, sizeof first_path, types[t]);
        model_path(again_path, sizeof again_path, "again");
        assert_true(train(types[t], 330, again_path, text, size, &error));
        char *first = file_read_all(first_path, 1 << 24, &first_size, &error);
        char *again = file_read_all(again_path, 1 << 24, &again_size, &error);
        if (!first || !again) fail_msg("%s", error.message);
        assert_int_equal(first_size, again_size);
        check_same_bits("tokenizer models trained twice", first, again, first_size);
        free(first);
        free(again);
    }
    free(text);
}

static void expect_refusal(const char *type, size_t vocabulary, const char *text, size_t size, const char *message) {
    char path[512];
    Error error = {0};
    model_path(path, sizeof path, "refused");
    assert_false(train(type, vocabulary, path, text, size, &error));
    assert_int_equal(error.kind, ERROR_USER);
    if (!strstr(error.message, message)) fail_msg("\"%s\" does not say \"%s\"", error.message, message);
    assert_int_not_equal(access(path, F_OK), 0);
    check_count("refused tokenizer trainings", 1);
}

static void test_refusals(void **state) {
    (void)state;
    size_t size;
    char *text = make_text(100, &size);
    expect_refusal("wordpiece", 300, text, size, "choose bpe, unigram or char");
    expect_refusal("bpe", 0, text, size, "out of range");
    expect_refusal("bpe", 260, text, size, "out of range");
    expect_refusal("bpe", SIZE_MAX, text, size, "out of range");
    expect_refusal("bpe", 262, text, size, "too small");
    expect_refusal("bpe", 50000, text, size, "the largest possible is ");
    expect_refusal("unigram", 50000, text, size, "the largest possible is ");
    expect_refusal("bpe", 300, text, 0, "no text");
    expect_refusal("bpe", 300, "\xFF\xFF\n\0\n", 5, "no text");
    expect_refusal("unigram", 300, "aaaaaaaaaaaaaaaaaaaaaaaa\n", 25, "too short or too repetitive");
    free(text);
}

static void check_named_size(const char *type, size_t asked, const char *before, const char *text, size_t size) {
    char path[512];
    Error error = {0};
    model_path(path, sizeof path, "named");
    assert_false(train(type, asked, path, text, size, &error));
    const char *named = strstr(error.message, before);
    if (!named) fail_msg("\"%s\" does not say \"%s\"", error.message, before);
    size_t vocabulary = strtoul(named + strlen(before), NULL, 10);
    error_clear(&error);
    if (!train(type, vocabulary, path, text, size, &error)) fail_msg("%s: %s", type, error.message);
    Tokenizer *tokenizer = tokenizer_load(path, &error);
    assert_int_equal(tokenizer_vocabulary(tokenizer), vocabulary);
    tokenizer_free(tokenizer);
    check_count("vocabularies that a refusal named", 1);
}

// The largest and the least vocabulary that a refusal names are ones that work.
static void test_named_vocabularies(void **state) {
    (void)state;
    size_t size;
    char *text = make_text(100, &size);
    for (size_t t = 0; t < 2; t++) {
        check_named_size(types[t], 50000, "possible is ", text, size);
        check_named_size(types[t], 262, "characters; ", text, size);
    }
    free(text);
}

// More characters than the vocabulary holds: the rare ones are spelled in bytes.
static void test_many_characters(void **state) {
    (void)state;
    char path[512], *text = malloc(100000);
    size_t size = 0;
    for (unsigned i = 0; i < 200; i++) size += (size_t)sprintf(text + size, "common words fill the lines\n");
    for (unsigned c = 0; c < 100; c++)
        size += (size_t)sprintf(text + size, "%c%c%c", 0xE4, 0xB8 + c / 64, 0x80 + c % 64);
    model_path(path, sizeof path, "many");
    for (size_t t = 0; t < TYPES; t++) {
        Error error = {0};
        if (!train(types[t], 290, path, text, size, &error)) fail_msg("%s: %s", types[t], error.message);
        Tokenizer *tokenizer = tokenizer_load(path, &error);
        assert_int_equal(tokenizer_vocabulary(tokenizer), 290);
        round_trip(tokenizer, text, size);
        tokenizer_free(tokenizer);
    }
    free(text);
    check_count("vocabularies smaller than the alphabet", TYPES);
}

static bool cannot_read(void *context, const char **text, size_t *size) {
    (void)context, (void)text, (void)size;
    return false;
}

// The sample ends where it is said to, even within a piece of text, and a text that cannot be read is an error.
static void test_samples(void **state) {
    (void)state;
    char paths[2][512];
    size_t size, model_sizes[2];
    char *text = make_text(100, &size), *models[2];
    Error error = {0};
    for (size_t i = 0; i < 2; i++) { // 2500 bytes of all of it, and all of 2500 bytes
        Memory memory = {text, i ? 2500 : size, 1000};
        model_path(paths[i], sizeof paths[i], i ? "prefix" : "sample");
        const TokenizerTraining training = {.type = "bpe",
                                            .vocabulary = 290,
                                            .model_path = paths[i],
                                            .next = next_piece,
                                            .context = &memory,
                                            .sample_bytes = i ? (size_t)1 << 20 : 2500};
        if (!tokenizer_train(&training, &error)) fail_msg("%s", error.message);
        models[i] = file_read_all(paths[i], 1 << 20, &model_sizes[i], &error);
    }
    assert_int_equal(model_sizes[0], model_sizes[1]);
    check_same_bits("models of a sample and of a text as long", models[0], models[1], model_sizes[0]);
    model_path(paths[0], sizeof paths[0], "unread");
    const TokenizerTraining training = {
        .type = "bpe", .vocabulary = 290, .model_path = paths[0], .next = cannot_read, .sample_bytes = 1000};
    assert_false(tokenizer_train(&training, &error));
    assert_true(error.kind == ERROR_SYSTEM && access(paths[0], F_OK) != 0);
    check_count("texts that cannot be read", 1);
    for (size_t i = 0; i < 2; i++) free(models[i]);
    free(text);
}

// Characters that SentencePiece has uses of its own for are in the text that it learns from.
static void test_reserved_characters(void **state) {
    (void)state;
    static const char line[] = "the\xE2\x96\x81lord\tand \xE2\x96\x85 said\xFF unto \xE2\x81\x87 him <s> behold\n";
    char path[512];
    size_t size;
    char *text = realloc(make_text(400, &size), 400 * 256 + 40 * sizeof line);
    assert_non_null(text);
    for (size_t i = 0; i < 40; i++, size += sizeof line) memcpy(text + size, line, sizeof line); // with its NUL
    model_path(path, sizeof path, "reserved");
    for (size_t t = 0; t < TYPES; t++) {
        Error error = {0};
        if (!train(types[t], 330, path, text, size, &error)) fail_msg("%s: %s", types[t], error.message);
        Tokenizer *tokenizer = tokenizer_load(path, &error);
        if (!tokenizer) fail_msg("%s: %s", types[t], error.message);
        round_trip(tokenizer, text, size);
        tokenizer_free(tokenizer);
    }
    free(text);
    check_count("texts with reserved characters", TYPES);
}

static void test_special_ids_and_errors(void **state) {
    (void)state;
    for (size_t t = 0; t < TYPES; t++) {
        int32_t specials[] = {tokenizer_bos(tokenizers[t]), tokenizer_eos(tokenizers[t])};
        assert_true(specials[0] >= 0 && specials[1] >= 0 && specials[0] != specials[1]);
        char *text;
        size_t size;
        Error error = {0};
        assert_true(tokenizer_decode(tokenizers[t], specials, 2, &text, &size, &error));
        assert_int_equal(size, 0);
        free(text);
        int32_t wrong[] = {-1, (int32_t)tokenizer_vocabulary(tokenizers[t]), INT32_MAX, INT32_MIN};
        for (size_t i = 0; i < 4; i++) {
            error_clear(&error);
            assert_false(tokenizer_decode(tokenizers[t], wrong + i, 1, &text, &size, &error));
            assert_int_equal(error.kind, ERROR_USER);
            assert_null(text);
        }
        check_count("special and wrong ids", 6);
    }
    char path[512];
    Error error = {0};
    model_path(path, sizeof path, "absent");
    assert_null(tokenizer_load(path, &error));
    assert_non_null(strstr(error.message, path));
    for (size_t i = 0; i < 2; i++) {
        error_clear(&error);
        assert_true(file_write_atomic(path, "no model at all\n", i ? 16 : 0, &error));
        assert_null(tokenizer_load(path, &error));
        assert_int_equal(error.kind, ERROR_CORRUPT);
        assert_non_null(strstr(error.message, path));
    }
    check_count("files that are no models", 3);
}

// What other programs are told of our models.
static void test_pieces(void **state) {
    (void)state;
    for (size_t t = 0; t < TYPES; t++) {
        const Tokenizer *tokenizer = tokenizers[t];
        size_t bytes = 0, newlines = 0;
        assert_int_equal(tokenizer_piece(tokenizer, tokenizer_unknown(tokenizer)).type, PIECE_UNKNOWN);
        assert_int_equal(tokenizer_piece(tokenizer, tokenizer_bos(tokenizer)).type, PIECE_CONTROL);
        assert_string_equal(tokenizer_piece(tokenizer, tokenizer_eos(tokenizer)).text, "</s>");
        assert_false(tokenizer_space_prefix(tokenizer));
        assert_true(tokenizer_merges(tokenizer) == (strcmp(types[t], "unigram") != 0));
        assert_true(tokenizer_spells_bytes(tokenizer));
        for (int32_t id = 0; id < (int32_t)tokenizer_vocabulary(tokenizer); id++) {
            const TokenizerPiece piece = tokenizer_piece(tokenizer, id);
            char spelled[8];
            snprintf(spelled, sizeof spelled, "<0x%02X>", (unsigned)bytes);
            if (piece.type == PIECE_BYTE) assert_string_equal(piece.text, spelled);
            if (piece.type == PIECE_USER_DEFINED) assert_string_equal(piece.text, "\n");
            assert_true(piece.type != PIECE_UNUSED && (piece.type == PIECE_NORMAL || piece.score == 0));
            bytes += piece.type == PIECE_BYTE;
            newlines += piece.type == PIECE_USER_DEFINED;
        }
        assert_true(bytes == 256 && newlines == 1);
        check_count("pieces", tokenizer_vocabulary(tokenizer));
    }
}

static void test_utf8(void **state) {
    (void)state;
    assert_int_equal(utf8_cut("ab\ncd ef", 8), 3);
    assert_int_equal(utf8_cut("abcd ef", 7), 5);
    assert_int_equal(utf8_cut("abcdef", 6), 6);
    assert_int_equal(utf8_cut("ab\xE6\xB0\xB4", 5), 5);
    assert_int_equal(utf8_cut("ab\xE6\xB0\xB4", 4), 2);
    assert_int_equal(utf8_cut("ab\xE6\xB0\xB4", 3), 2);
    assert_int_equal(utf8_cut("\xE6\xB0", 2), 2);
    assert_int_equal(utf8_cut("\xF0\x9F\x98\x80", 4), 4);
    check_count("places to cut", 8);
}

int main(int argc, char **argv) {
    (void)argc;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_hard_texts),
        cmocka_unit_test(test_random_texts),
        cmocka_unit_test(test_random_bytes),
        cmocka_unit_test(test_all_characters),
        cmocka_unit_test(test_cut_at_lines),
        cmocka_unit_test(test_training_is_repeatable),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_named_vocabularies),
        cmocka_unit_test(test_many_characters),
        cmocka_unit_test(test_samples),
        cmocka_unit_test(test_reserved_characters),
        cmocka_unit_test(test_special_ids_and_errors),
        cmocka_unit_test(test_pieces),
    };
    test_begin(argv);
    int failed = cmocka_run_group_tests(tests, set_up, tear_down);
    check_report();
    return failed != 0;
}
