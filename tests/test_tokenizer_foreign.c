// Tokenizer models made elsewhere, written here piece by piece (sentencepiece_model.proto): what of them can be encoded
// word by word, and what they cannot encode at all.
#include "tests/support/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/tokenizer.h"

typedef enum PieceType { NORMAL = 1, UNKNOWN = 2, CONTROL = 3 } PieceType;

typedef struct Piece {
    const char *text;
    PieceType type;
} Piece;

typedef struct Spec {
    const char *what;
    bool dummy_prefix;
    Piece pieces[5]; // behind <unk>, <s>, </s>, U+2581, a and b
    bool characters; // every character by itself, not the likeliest pieces
    bool removes_spaces, maps; // several spaces to one; by a table of characters, here one that changes none
} Spec;

// A message in a message: tag, length in two digits, bytes.
static size_t put(unsigned char *out, unsigned field, const void *data, size_t size) {
    assert_true(size < 1 << 14 && field < 16);
    out[0] = (unsigned char)(field << 3 | 2);
    out[1] = (unsigned char)(size | 0x80);
    out[2] = (unsigned char)(size >> 7);
    memcpy(out + 3, data, size);
    return size + 3;
}

// The size of a trie, the trie with room for every first byte, and no text.
static size_t put_map(unsigned char *out) {
    unsigned char map[4 + 1024 + 1] = {0, 4};
    return put(out, 2, map, sizeof map);
}

static size_t put_piece(unsigned char *out, const Piece *piece) {
    unsigned char message[120];
    // Longer pieces score higher, so that unigram models take them where they can.
    const float score = (float)strlen(piece->text) - 20;
    size_t size = put(message, 1, piece->text, strlen(piece->text));
    message[size++] = 2 << 3 | 5;
    memcpy(message + size, &score, sizeof score);
    size += sizeof score;
    message[size++] = 3 << 3;
    message[size++] = (unsigned char)piece->type;
    return put(out, 1, message, size);
}

// The model with other bytes in front. NULL: refused.
static Tokenizer *load_behind(const Spec *spec, const void *front, size_t size, Error *error) {
    static const Piece common[] = {{"<unk>", UNKNOWN},       {"<s>", CONTROL}, {"</s>", CONTROL},
                                   {"\xE2\x96\x81", NORMAL}, {"a", NORMAL},    {"b", NORMAL}};
    const unsigned char trainer[] = {3 << 3, spec->characters ? 4 : 1}; // model_type: char or unigram
    unsigned char normalizer[2000] = {3 << 3, spec->dummy_prefix, 4 << 3, spec->removes_spaces, 5 << 3, 1};
    const size_t normalizer_size = 6 + (spec->maps ? put_map(normalizer + 6) : 0);
    unsigned char model[3000];
    memcpy(model, front, size);
    for (size_t i = 0; i < sizeof common / sizeof *common; i++) {
        bool replaced = false;
        for (size_t k = 0; k < 5 && spec->pieces[k].text; k++)
            replaced |= !strcmp(common[i].text, spec->pieces[k].text);
        if (!replaced) size += put_piece(model + size, &common[i]);
    }
    for (size_t i = 0; i < 5 && spec->pieces[i].text; i++) size += put_piece(model + size, &spec->pieces[i]);
    size += put(model + size, 2, trainer, sizeof trainer);
    size += put(model + size, 3, normalizer, normalizer_size);
    char path[512];
    static const char *directory;
    if (!directory) directory = temporary_directory();
    snprintf(path, sizeof path, "%s/foreign.model", directory);
    check_write_file(path, model, size);
    return tokenizer_load(path, error);
}

static Tokenizer *load(const Spec *spec) {
    Error error = {0};
    Tokenizer *tokenizer = load_behind(spec, "", 0, &error);
    if (!tokenizer) fail_msg("%s: %s", spec->what, error.message);
    return tokenizer;
}

// Encodes the text and compares what its ids stand for, one by one with a | between them.
static void check_pieces(const Tokenizer *tokenizer, const char *what, const char *text, const char *wanted) {
    Error error = {0};
    int32_t *ids;
    size_t count, size;
    char found[200] = "";
    if (!tokenizer_encode(tokenizer, text, strlen(text), &ids, &count, &error)) fail_msg("%s: %s", what, error.message);
    for (size_t i = 0; i < count; i++) {
        char *piece;
        if (!tokenizer_decode(tokenizer, ids + i, 1, &piece, &size, &error)) fail_msg("%s: %s", what, error.message);
        snprintf(found + strlen(found), sizeof found - strlen(found), "%s%s", i ? "|" : "", piece);
        free(piece);
    }
    free(ids);
    if (strcmp(found, wanted)) fail_msg("%s: \"%s\" became \"%s\" instead of \"%s\"", what, text, found, wanted);
    check_count("texts in pieces", 1);
}

#define LOST "\xEF\xBF\xBD" // what decodes from an id that stands for something unknown

static void test_pieces(void **state) {
    (void)state;
    static const struct {
        Spec spec;
        const char *text, *wanted;
    } cases[] = {
        {{"no newline", false, {{0}}, .characters = false}, "a b\na", "a| |b|" LOST "|a"},
        {{"words and newlines apart", false, {{"\n", NORMAL}}, .characters = false}, "ab b\n\nab", "a|b| |b|\n|\n|a|b"},
        {{"pieces over words",
          false,
          {{"\n", NORMAL},
           {"a\xE2\x96\x81"
            "b",
            NORMAL}},
          .characters = false},
         "a ba b\na b",
         "a b|a b|\n|a b"},
        {{"pieces over lines", false, {{"\n", NORMAL}, {"b\na", NORMAL}}, .characters = false}, "ab\nab", "a|b\na|b"},
        {{"a space in front", true, {{"\n", NORMAL}}, .characters = false}, "ab\na", " |a|b|\n|a"},
        {{"hidden bytes", false, {{"\n", NORMAL}}, .characters = false},
         "a\xff"
         "b",
         "a|" LOST "|b"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Tokenizer *tokenizer = load(&cases[i].spec);
        assert_true(tokenizer_space_prefix(tokenizer) == cases[i].spec.dummy_prefix && !tokenizer_merges(tokenizer));
        assert_false(tokenizer_spells_bytes(tokenizer));
        assert_string_equal(tokenizer_piece(tokenizer, 0).text, "<unk>");
        assert_int_equal(tokenizer_piece(tokenizer, 0).type, PIECE_UNKNOWN);
        check_pieces(tokenizer, cases[i].spec.what, cases[i].text, cases[i].wanted);
        tokenizer_free(tokenizer);
    }
}

// A control piece that is also a letter: SentencePiece finds text that its pieces do not cover.
static void test_cannot_encode(void **state) {
    (void)state;
    const Spec spec = {"a control letter", false, {{"\n", NORMAL}, {"b", CONTROL}}, .characters = true};
    Tokenizer *tokenizer = load(&spec);
    Error error = {0};
    int32_t *ids;
    size_t count;
    assert_true(tokenizer_merges(tokenizer));
    check_pieces(tokenizer, spec.what, "a a", "a| |a");
    assert_false(tokenizer_encode(tokenizer, "a b", 3, &ids, &count, &error));
    assert_true(error.kind == ERROR_SYSTEM && strstr(error.message, "cannot encode") && !ids && !count);
    check_count("texts that cannot be encoded", 1);
    tokenizer_free(tokenizer);
}

// Other programs take texts as they are.
static void test_normalised(void **state) {
    (void)state;
    static const Spec specs[] = {
        {"a char model that removes spaces", false, {{"\n", NORMAL}}, .characters = true, .removes_spaces = true},
        {"a char model with a map", false, {{"\n", NORMAL}}, .characters = true, .maps = true},
        {"a char model of texts as they are", false, {{"\n", NORMAL}}, .characters = true},
    };
    for (size_t i = 0; i < sizeof specs / sizeof specs[0]; i++) {
        Tokenizer *tokenizer = load(&specs[i]);
        assert_true(tokenizer_merges(tokenizer) == (!specs[i].removes_spaces && !specs[i].maps));
        check_pieces(tokenizer, specs[i].what, "ab  a", specs[i].removes_spaces ? "a|b| |a" : "a|b| | |a");
        tokenizer_free(tokenizer);
    }
}

// What the library passes over: a number where pieces are, then a group (field 9), behind which nothing would be found.
static void test_unknown_fields(void **state) {
    (void)state;
    static const unsigned char number[] = {1 << 3, 1}, group[] = {9 << 3 | 3, 9 << 3 | 4};
    const Spec spec = {"unknown fields", false, {{"\n", NORMAL}}, .characters = false};
    Error error = {0};
    Tokenizer *tokenizer = load_behind(&spec, number, sizeof number, &error);
    if (!tokenizer) fail_msg("%s", error.message);
    static const TokenizerPieceType types[] = {PIECE_UNKNOWN, PIECE_CONTROL, PIECE_CONTROL, PIECE_NORMAL};
    for (int32_t id = 0; id < 4; id++) assert_int_equal(tokenizer_piece(tokenizer, id).type, types[id]);
    tokenizer_free(tokenizer);
    assert_null(load_behind(&spec, group, sizeof group, &error));
    assert_true(error.kind == ERROR_CORRUPT && strstr(error.message, "not a SentencePiece model"));
    check_count("models with unknown fields", 2);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_pieces),
    cmocka_unit_test(test_cannot_encode),
    cmocka_unit_test(test_normalised),
    cmocka_unit_test(test_unknown_fields),
};
TEST_MAIN(tests)
