// Models as files of llama2.c, read back by a reader written here from its run.c's description and run by a plain Llama.
#include "tests/support/checkpoint_files.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/support/plain_llama.h"

static ModelSettings llama2_settings(void) {
    ModelSettings settings = plain_settings();
    settings.config.heads = settings.config.kv_heads = 2; // of 6 in a width of 12
    settings.config.rope_theta = 10000;
    settings.config.norm_epsilon = 1e-5;
    return settings;
}

static const float *next(const float **at, size_t count) {
    *at += count;
    return *at - count;
}

// Tensors of all layers lie side by side, one kind after another.
#define EACH_LAYER(member, count)                                                                                      \
    for (size_t l = 0; l < LLAMA_LAYERS; l++) llama.layer[l].member = next(&at, count)

static Llama llama2_read(const char *bytes, size_t size) {
    int32_t header[7];
    assert_true(size > sizeof header);
    memcpy(header, bytes, sizeof header);
    const size_t width = (size_t)header[0], ffn = (size_t)header[1], vocabulary = (size_t)abs(header[5]);
    const size_t head_size = width / (size_t)header[3], kv = (size_t)header[4] * head_size;
    assert_int_equal(header[2], LLAMA_LAYERS);
    Llama llama = {.width = width,
                   .ffn = ffn,
                   .layers = LLAMA_LAYERS,
                   .heads = (size_t)header[3],
                   .kv_heads = (size_t)header[4],
                   .head_size = head_size,
                   .vocabulary = vocabulary,
                   .tokens = (size_t)header[6],
                   .theta = 10000,
                   .epsilon = 1e-5};
    const float *at = (const float *)(const void *)(bytes + sizeof header);
    llama.embedding = next(&at, vocabulary * width);
    EACH_LAYER(norm, width);
    EACH_LAYER(q, width * width);
    EACH_LAYER(k, kv * width);
    EACH_LAYER(v, kv * width);
    EACH_LAYER(o, width * width);
    EACH_LAYER(ffn_norm, width);
    EACH_LAYER(gate, ffn * width);
    EACH_LAYER(down, width * ffn);
    EACH_LAYER(up, ffn * width);
    llama.final_norm = next(&at, width);
    const float *cosines = next(&at, llama.tokens * head_size / 2), *sines = next(&at, llama.tokens * head_size / 2);
    for (size_t i = 0; i < llama.tokens * head_size / 2; i++) {
        const size_t t = i / (head_size / 2), j = i % (head_size / 2);
        const double angle = (double)t / pow(10000, 2 * (double)j / (double)head_size);
        assert_true(fabs((double)cosines[i] - cos(angle)) < 1e-6 && fabs((double)sines[i] - sin(angle)) < 1e-6);
    }
    llama.output = header[5] > 0 ? llama.embedding : next(&at, vocabulary * width);
    assert_ptr_equal(at, bytes + size); // nothing is left
    return llama;
}

// place (VOCABULARY_PIECES) =: where each piece stands in tokenizer.bin, found by its text.
static void read_places(const char *path, const ExportVocabulary *vocabulary, size_t *place) {
    size_t size;
    char *bytes = read_bytes(path, &size), *at = bytes + 4, spelled[VOCABULARY_PIECES][40];
    int32_t longest, length, most = 0;
    float scores[VOCABULARY_PIECES];
    memcpy(&longest, bytes, 4);
    for (size_t i = 0; i < VOCABULARY_PIECES; i++) {
        memcpy(&scores[i], at, 4);
        memcpy(&length, at + 4, 4);
        assert_in_range(length, 1, sizeof spelled[i] - 1);
        memcpy(spelled[i], at + 8, (size_t)length);
        spelled[i][length] = 0;
        at += 8 + length;
        if (length > most) most = length;
    }
    assert_ptr_equal(at, bytes + size);
    assert_int_equal(longest, most);
    for (size_t i = 0; i < VOCABULARY_PIECES; i++) {
        char wanted[40] = "", *end = wanted;
        for (const char *text = vocabulary->pieces[i].text; *text;) {
            const bool space = !strncmp(text, SPACE, strlen(SPACE));
            *end++ = space ? ' ' : *text;
            text += space ? strlen(SPACE) : 1;
        }
        *end = 0;
        if (i == 1) strcpy(wanted, "\n<s>\n");
        if (i == 2) strcpy(wanted, "\n</s>\n");
        for (place[i] = 0; place[i] < VOCABULARY_PIECES && strcmp(spelled[place[i]], wanted); place[i]++) {}
        assert_true(place[i] < VOCABULARY_PIECES && scores[place[i]] == vocabulary->pieces[i].score);
        if (vocabulary->pieces[i].type == EXPORT_BYTE) assert_int_equal(place[i], 3 + i - 4); // where run.c has them
        if (i < 3) assert_int_equal(place[i], i);
    }
    check_count("pieces in tokenizer.bin", VOCABULARY_PIECES);
    free(bytes);
}

static void check_llama2(const ModelSettings *settings, const ExportVocabulary *vocabulary) {
    Error error = {0};
    Model *model = filled(settings);
    const char *directory = directory_new("llama2");
    assert_null(export_llama2_inexpressible(settings, vocabulary));
    if (!export_llama2(directory, model, vocabulary, &error)) fail_msg("%s", error.message);
    size_t size, place[VOCABULARY_PIECES];
    char *bytes = read_bytes(join(directory, "model.bin"), &size);
    const Llama llama = llama2_read(bytes, size);
    assert_int_equal(llama.tokens, settings->config.tokens);
    assert_true((llama.output == llama.embedding) == settings->config.tie);
    assert_int_equal(access(join(directory, "tokenizer.bin"), F_OK) == 0, vocabulary != NULL);
    if (vocabulary) read_places(join(directory, "tokenizer.bin"), vocabulary, place);
    llama_check_logits("logits of llama2.c files", model, &llama, vocabulary ? place : NULL);
    free(bytes);
    model_destroy(model);
}

static void test_llama2(void **state) {
    (void)state;
    ModelSettings settings = llama2_settings();
    check_llama2(&settings, NULL);
    settings.config.tie = true, settings.config.kv_heads = 1;
    check_llama2(&settings, NULL);
    settings.config.vocabulary = VOCABULARY_PIECES;
    const ExportVocabulary vocabulary = vocabulary_new();
    check_llama2(&settings, &vocabulary);
    settings.config.tie = false;
    check_llama2(&settings, &vocabulary);
}

// Without all bytes, or with one where a control piece should be, tokens stay where they are.
static void test_llama2_order(void **state) {
    (void)state;
    ModelSettings settings = llama2_settings();
    settings.config.vocabulary = VOCABULARY_PIECES;
    Model *model = filled(&settings);
    for (size_t odd = 0; odd < 2; odd++) {
        Error error = {0};
        const ExportVocabulary vocabulary = vocabulary_new();
        ExportPiece *pieces = (ExportPiece *)vocabulary.pieces, kept = pieces[100];
        if (odd)
            pieces[100] = pieces[2], pieces[2] = kept;
        else
            pieces[100] = (ExportPiece){"e", 0, EXPORT_NORMAL};
        const char *directory = directory_new("llama2");
        if (!export_llama2(directory, model, &vocabulary, &error)) fail_msg("%s", error.message);
        size_t size;
        char *bytes = read_bytes(join(directory, "model.bin"), &size);
        const Llama llama = llama2_read(bytes, size);
        llama_check_logits("logits of llama2.c files", model, &llama, NULL);
        free(bytes);
    }
    model_destroy(model);
}

#define INEXPRESSIBLE(word, change)                                                                                    \
    do {                                                                                                               \
        ModelSettings settings = llama2_settings();                                                                    \
        ExportVocabulary vocabulary = vocabulary_new();                                                                \
        assert_null(export_llama2_inexpressible(&settings, &vocabulary));                                              \
        change;                                                                                                        \
        const char *reason = export_llama2_inexpressible(&settings, &vocabulary);                                      \
        if (!reason || !strstr(reason, word)) fail_msg("'%s' does not name %s", reason ? reason : "", word);           \
        check_count("settings that llama2.c lacks, named", 1);                                                         \
    } while (0)

static void test_llama2_refusals(void **state) {
    (void)state;
    INEXPRESSIBLE("model.rope_theta", settings.config.rope_theta = 10001);
    INEXPRESSIBLE("model.norm_epsilon", settings.config.norm_epsilon = 1e-6);
    INEXPRESSIBLE("model.qk_size", settings.config.qk_size = settings.config.v_size = 8);
    INEXPRESSIBLE("model.qk_norm", settings.config.qk_norm = true);
    INEXPRESSIBLE("model.token_shift", settings.config.token_shift = true);
    INEXPRESSIBLE("attention.method", settings.methods[0] = attention_method_find("lowrank"));
    INEXPRESSIBLE("tokenizer.model", vocabulary.bos = 0);
    INEXPRESSIBLE("tokenizer.model", vocabulary.bos = -1);
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(test_llama2), cmocka_unit_test(test_llama2_order),
                                          cmocka_unit_test(test_llama2_refusals)};
TEST_MAIN(tests)
