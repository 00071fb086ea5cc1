// Models as GGUF files, read back by a reader written here from the format's description and run by a plain Llama.
#include "tests/support/checkpoint_files.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/plain_llama.h"

typedef struct Gguf {
    unsigned char *bytes;
    size_t size, at; // at: read so far
    uint64_t tensors, pairs;
    size_t first_pair, first_tensor, data; // where they begin
} Gguf;

static const void *take(Gguf *gguf, size_t size) {
    assert_true(size <= gguf->size - gguf->at);
    gguf->at += size;
    return gguf->bytes + gguf->at - size;
}
static uint32_t take_u32(Gguf *gguf) {
    uint32_t value;
    memcpy(&value, take(gguf, sizeof value), sizeof value);
    return value;
}
static uint64_t take_u64(Gguf *gguf) {
    uint64_t value;
    memcpy(&value, take(gguf, sizeof value), sizeof value);
    return value;
}
// Whether the next text is that one.
static bool take_text(Gguf *gguf, const char *text) {
    const size_t size = take_u64(gguf);
    return memcmp(take(gguf, size), text, strlen(text) < size ? strlen(text) : size) == 0 && size == strlen(text);
}

static void skip_value(Gguf *gguf, uint32_t type) {
    static const size_t sizes[] = {[0] = 1, [1] = 1, [4] = 4, [5] = 4, [6] = 4, [7] = 1};
    if (type == 9) {
        const uint32_t inner = take_u32(gguf);
        for (uint64_t count = take_u64(gguf); count > 0; count--) skip_value(gguf, inner);
    } else if (type == 8) {
        take(gguf, take_u64(gguf));
    } else {
        assert_true(type < sizeof sizes / sizeof *sizes && sizes[type]);
        take(gguf, sizes[type]);
    }
}

// Stands at the value of a key, which must have that type; false if there is none.
static bool find_key(Gguf *gguf, const char *key, uint32_t type) {
    gguf->at = gguf->first_pair;
    for (uint64_t i = 0; i < gguf->pairs; i++) {
        const bool found = take_text(gguf, key);
        const uint32_t its_type = take_u32(gguf);
        if (found) assert_int_equal(its_type, type);
        if (found) return true;
        skip_value(gguf, its_type);
    }
    return false;
}
static size_t number(Gguf *gguf, const char *key) {
    if (!find_key(gguf, key, 4)) fail_msg("%s is missing", key);
    return take_u32(gguf);
}
static double real_number(Gguf *gguf, const char *key) {
    float value;
    if (!find_key(gguf, key, 6)) fail_msg("%s is missing", key);
    memcpy(&value, take(gguf, sizeof value), sizeof value);
    return (double)value;
}
static bool is_text(Gguf *gguf, const char *key, const char *text) {
    return find_key(gguf, key, 8) && take_text(gguf, text);
}
static bool flag(Gguf *gguf, const char *key) {
    if (!find_key(gguf, key, 7)) fail_msg("%s is missing", key);
    const unsigned char value = *(const unsigned char *)take(gguf, 1);
    assert_true(value < 2);
    return value;
}
// Stands at the first element.
static void find_array(Gguf *gguf, const char *key, uint32_t type, size_t count) {
    if (!find_key(gguf, key, 9)) fail_msg("%s is missing", key);
    assert_int_equal(take_u32(gguf), type);
    assert_int_equal(take_u64(gguf), count);
}

// rows 0: a vector. NULL if there is no tensor of that name; else it has these lengths, in F32.
static const float *tensor(Gguf *gguf, const char *name, size_t rows, size_t columns) {
    gguf->at = gguf->first_tensor;
    for (uint64_t i = 0; i < gguf->tensors; i++) {
        const bool found = take_text(gguf, name);
        uint64_t lengths[2] = {0, 0};
        const uint32_t rank = take_u32(gguf);
        assert_in_range(rank, 1, 2);
        for (uint32_t d = 0; d < rank; d++) lengths[d] = take_u64(gguf);
        const uint32_t type = take_u32(gguf);
        const uint64_t offset = take_u64(gguf);
        if (!found) continue;
        assert_true(type == 0 && offset % 32 == 0 && lengths[0] == columns && lengths[1] == rows);
        assert_true(gguf->data + offset + columns * (rows ? rows : 1) * sizeof(float) <= gguf->size);
        return (const float *)(const void *)(gguf->bytes + gguf->data + offset);
    }
    return NULL;
}
static const float *layer_tensor(Gguf *gguf, size_t layer, const char *name, size_t rows, size_t columns) {
    char whole[64];
    snprintf(whole, sizeof whole, "blk.%zu.%s.weight", layer, name);
    return tensor(gguf, whole, rows, columns);
}

static Gguf gguf_read(const char *path) {
    Gguf gguf = {0};
    gguf.bytes = (unsigned char *)read_bytes(path, &gguf.size);
    assert_memory_equal(take(&gguf, 4), "GGUF", 4);
    assert_int_equal(take_u32(&gguf), 3);
    gguf.tensors = take_u64(&gguf);
    gguf.pairs = take_u64(&gguf);
    gguf.first_pair = gguf.at;
    assert_false(find_key(&gguf, "no.such.key", 0)); // walks over all
    gguf.first_tensor = gguf.at;
    assert_null(tensor(&gguf, "no such tensor", 0, 0));
    gguf.data = (gguf.at + 31) / 32 * 32;
    assert_int_equal(gguf.size % 32, 0);
    assert_int_equal(number(&gguf, "general.alignment"), 32);
    assert_int_equal(number(&gguf, "general.file_type"), 0);
    return gguf;
}

static Llama gguf_llama(Gguf *gguf, const char *architecture) {
    char key[80];
#define NUMBER(name) (snprintf(key, sizeof key, "%s." name, architecture), number(gguf, key))
#define REAL(name) (snprintf(key, sizeof key, "%s." name, architecture), real_number(gguf, key))
    assert_true(is_text(gguf, "general.architecture", architecture));
    Llama llama = {.width = NUMBER("embedding_length"),
                   .ffn = NUMBER("feed_forward_length"),
                   .layers = NUMBER("block_count"),
                   .heads = NUMBER("attention.head_count"),
                   .kv_heads = NUMBER("attention.head_count_kv"),
                   .head_size = NUMBER("attention.key_length"),
                   .vocabulary = NUMBER("vocab_size"),
                   .tokens = NUMBER("context_length"),
                   .theta = REAL("rope.freq_base"),
                   .epsilon = REAL("attention.layer_norm_rms_epsilon"),
                   .halves = !strcmp(architecture, "qwen3")};
    assert_true(llama.layers == LLAMA_LAYERS && NUMBER("rope.dimension_count") == llama.head_size &&
                NUMBER("attention.value_length") == llama.head_size);
#undef NUMBER
#undef REAL
    const size_t width = llama.width, q = llama.heads * llama.head_size, kv = llama.kv_heads * llama.head_size;
    for (size_t l = 0; l < LLAMA_LAYERS; l++) {
        llama.layer[l].norm = layer_tensor(gguf, l, "attn_norm", 0, width);
        llama.layer[l].q = layer_tensor(gguf, l, "attn_q", q, width);
        llama.layer[l].k = layer_tensor(gguf, l, "attn_k", kv, width);
        llama.layer[l].v = layer_tensor(gguf, l, "attn_v", kv, width);
        llama.layer[l].o = layer_tensor(gguf, l, "attn_output", width, q);
        llama.layer[l].q_norm = layer_tensor(gguf, l, "attn_q_norm", 0, llama.head_size);
        llama.layer[l].k_norm = layer_tensor(gguf, l, "attn_k_norm", 0, llama.head_size);
        llama.layer[l].ffn_norm = layer_tensor(gguf, l, "ffn_norm", 0, width);
        llama.layer[l].gate = layer_tensor(gguf, l, "ffn_gate", llama.ffn, width);
        llama.layer[l].up = layer_tensor(gguf, l, "ffn_up", llama.ffn, width);
        llama.layer[l].down = layer_tensor(gguf, l, "ffn_down", width, llama.ffn);
    }
    llama.embedding = tensor(gguf, "token_embd.weight", llama.vocabulary, width);
    llama.final_norm = tensor(gguf, "output_norm.weight", 0, width);
    llama.output = tensor(gguf, "output.weight", llama.vocabulary, width);
    if (!llama.output) llama.output = llama.embedding; // as readers do
    return llama;
}

static Gguf export_and_read(Model *model, const ExportVocabulary *vocabulary) {
    Error error = {0};
    const char *path = join(directory_new("gguf"), "model.gguf");
    if (!export_gguf(path, model, vocabulary, "a model", &error)) fail_msg("%s", error.message);
    Gguf gguf = gguf_read(path);
    assert_true(is_text(&gguf, "general.name", "a model"));
    return gguf;
}

static void check_gguf(const ModelSettings *settings, const char *architecture) {
    Model *model = filled(settings);
    Gguf gguf = export_and_read(model, NULL);
    assert_int_equal(gguf.tensors, model_tensors(model)->count);
    assert_true(is_text(&gguf, "tokenizer.ggml.model", "none") && !find_key(&gguf, "tokenizer.ggml.tokens", 9));
    const Llama llama = gguf_llama(&gguf, architecture);
    assert_int_equal(llama.tokens, settings->config.tokens);
    assert_true((llama.output == llama.embedding) == settings->config.tie);
    llama_check_logits("logits of GGUF files", model, &llama, NULL);
    free(gguf.bytes);
    model_destroy(model);
}

static void test_gguf(void **state) {
    (void)state;
    ModelSettings settings = plain_settings();
    check_gguf(&settings, "llama");
    settings.config.tie = true, settings.config.kv_heads = 2, settings.config.norm_epsilon = 0.1;
    check_gguf(&settings, "llama");
    settings.config.qk_norm = true, settings.config.kv_heads = 1;
    check_gguf(&settings, "qwen3");
    settings.config.tie = false, settings.config.width = 14, settings.config.vocabulary = 19; // padding between tensors
    check_gguf(&settings, "qwen3");
}

static void test_gguf_vocabulary(void **state) {
    (void)state;
    ModelSettings settings = plain_settings();
    settings.config.vocabulary = VOCABULARY_PIECES;
    Model *model = filled(&settings);
    ExportVocabulary vocabulary = vocabulary_new();
    enum { OF_SPACES = 266 };
    static ExportPiece pieces[VOCABULARY_PIECES];
    memcpy(pieces, vocabulary.pieces, sizeof pieces);
    pieces[OF_SPACES].type = EXPORT_USER_DEFINED; // which readers look for in texts as they are
    vocabulary.pieces = pieces;
    Gguf gguf = export_and_read(model, &vocabulary);
    assert_true(is_text(&gguf, "tokenizer.ggml.model", "llama") && is_text(&gguf, "tokenizer.ggml.pre", "default"));
    find_array(&gguf, "tokenizer.ggml.tokens", 8, VOCABULARY_PIECES);
    for (size_t i = 0; i < VOCABULARY_PIECES; i++)
        assert_true(take_text(&gguf, i == OF_SPACES ? "  " : vocabulary.pieces[i].text));
    find_array(&gguf, "tokenizer.ggml.scores", 6, VOCABULARY_PIECES);
    for (size_t i = 0; i < VOCABULARY_PIECES; i++) assert_memory_equal(take(&gguf, 4), &vocabulary.pieces[i].score, 4);
    find_array(&gguf, "tokenizer.ggml.token_type", 5, VOCABULARY_PIECES);
    for (size_t i = 0; i < VOCABULARY_PIECES; i++) assert_int_equal(take_u32(&gguf), vocabulary.pieces[i].type);
    check_count("pieces in GGUF files", VOCABULARY_PIECES);
    assert_int_equal(number(&gguf, "tokenizer.ggml.bos_token_id"), 1);
    assert_int_equal(number(&gguf, "tokenizer.ggml.eos_token_id"), 2);
    assert_int_equal(number(&gguf, "tokenizer.ggml.unknown_token_id"), 0);
    assert_false(flag(&gguf, "tokenizer.ggml.add_space_prefix") || flag(&gguf, "tokenizer.ggml.add_bos_token") ||
                 flag(&gguf, "tokenizer.ggml.add_eos_token"));
    const Llama llama = gguf_llama(&gguf, "llama");
    llama_check_logits("logits of GGUF files", model, &llama, NULL);
    free(gguf.bytes);

    vocabulary.bos = vocabulary.eos = vocabulary.unknown = -1, vocabulary.space_prefix = true;
    vocabulary.bos_prefix = true;
    gguf = export_and_read(model, &vocabulary);
    assert_true(flag(&gguf, "tokenizer.ggml.add_bos_token") && !flag(&gguf, "tokenizer.ggml.add_eos_token"));
    assert_true(flag(&gguf, "tokenizer.ggml.add_space_prefix") && !find_key(&gguf, "tokenizer.ggml.bos_token_id", 4));
    assert_false(find_key(&gguf, "tokenizer.ggml.eos_token_id", 4));
    assert_false(find_key(&gguf, "tokenizer.ggml.unknown_token_id", 4));
    free(gguf.bytes);
    model_destroy(model);
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(test_gguf), cmocka_unit_test(test_gguf_vocabulary)};
TEST_MAIN(tests)
