// Models in other programs' formats, read back by readers written here from the formats' descriptions and run by a
// plain Llama in double precision that rotates neighbours, as those programs do. Checkpoints in BF16: test_bf16.c.
#include "tests/support/checkpoint_files.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/export.h"

// ---- a plain Llama --------------------------------------------------------------------------------------------------

enum { LAYERS = 2, TOKENS = 8 };

typedef struct Llama {
    size_t width, ffn, layers, heads, kv_heads, head_size, vocabulary, tokens;
    double theta, epsilon;
    bool halves; // rotates (j, j + D/2) instead of (2j, 2j + 1)
    const float *embedding, *final_norm, *output;
    struct {
        const float *norm, *q, *k, *v, *o, *ffn_norm, *gate, *up, *down, *q_norm, *k_norm; // the last two: NULL
    } layer[LAYERS];
} Llama;

// out (rows) = matrix (rows, columns) · in
static void multiply(double *out, const float *matrix, const double *in, size_t rows, size_t columns) {
    for (size_t r = 0; r < rows; r++) {
        out[r] = 0;
        for (size_t c = 0; c < columns; c++) out[r] += (double)matrix[r * columns + c] * in[c];
    }
}

static void norm(double *out, const double *in, const float *weight, size_t size, double epsilon) {
    double sum = 0;
    for (size_t i = 0; i < size; i++) sum += in[i] * in[i];
    const double scale = 1 / sqrt(sum / (double)size + epsilon);
    for (size_t i = 0; i < size; i++) out[i] = in[i] * scale * (double)weight[i];
}

// One head's vector, normed first if there is a norm.
static void rotate(const Llama *llama, double *head, const float *head_norm, size_t position) {
    const size_t size = llama->head_size;
    if (head_norm) norm(head, head, head_norm, size, llama->epsilon);
    for (size_t j = 0; j < size / 2; j++) {
        double *a = &head[llama->halves ? j : 2 * j], *b = &head[llama->halves ? j + size / 2 : 2 * j + 1];
        const double angle = (double)position * pow(llama->theta, -2.0 * (double)j / (double)size), x = *a, y = *b;
        *a = x * cos(angle) - y * sin(angle);
        *b = x * sin(angle) + y * cos(angle);
    }
}

enum { MOST = 512 }; // numbers of the widest activation

// out (heads·D) of the last of `count` positions
static void attend(const Llama *llama, double *out, const double *q, double (*k)[MOST], double (*v)[MOST],
                   size_t count) {
    const size_t size = llama->head_size, group = llama->heads / llama->kv_heads;
    for (size_t h = 0; h < llama->heads; h++) {
        double weight[TOKENS], sum = 0, *head = out + h * size;
        const size_t at = h / group * size;
        for (size_t t = 0; t < count; t++) {
            double logit = 0;
            for (size_t i = 0; i < size; i++) logit += q[h * size + i] * k[t][at + i];
            sum += weight[t] = exp(logit / sqrt((double)size));
        }
        for (size_t i = 0; i < size; i++) {
            head[i] = 0;
            for (size_t t = 0; t < count; t++) head[i] += weight[t] / sum * v[t][at + i];
        }
    }
}

// logits (count, vocabulary) =
static void forward(const Llama *llama, const int32_t *tokens, size_t count, double *logits) {
    static double k[LAYERS][TOKENS][MOST], v[LAYERS][TOKENS][MOST];
    double x[MOST], y[MOST], q[MOST], heads[MOST], gate[MOST], up[MOST];
    const size_t width = llama->width, size = llama->head_size;
    for (size_t t = 0; t < count; t++) {
        for (size_t i = 0; i < width; i++) x[i] = (double)llama->embedding[(size_t)tokens[t] * width + i];
        for (size_t l = 0; l < llama->layers; l++) {
            norm(y, x, llama->layer[l].norm, width, llama->epsilon);
            multiply(q, llama->layer[l].q, y, llama->heads * size, width);
            multiply(k[l][t], llama->layer[l].k, y, llama->kv_heads * size, width);
            multiply(v[l][t], llama->layer[l].v, y, llama->kv_heads * size, width);
            for (size_t h = 0; h < llama->heads; h++) rotate(llama, q + h * size, llama->layer[l].q_norm, t);
            for (size_t h = 0; h < llama->kv_heads; h++) rotate(llama, k[l][t] + h * size, llama->layer[l].k_norm, t);
            attend(llama, heads, q, k[l], v[l], t + 1);
            multiply(y, llama->layer[l].o, heads, width, llama->heads * size);
            for (size_t i = 0; i < width; i++) x[i] += y[i];
            norm(y, x, llama->layer[l].ffn_norm, width, llama->epsilon);
            multiply(gate, llama->layer[l].gate, y, llama->ffn, width);
            multiply(up, llama->layer[l].up, y, llama->ffn, width);
            for (size_t i = 0; i < llama->ffn; i++) gate[i] *= up[i] / (1 + exp(-gate[i]));
            multiply(y, llama->layer[l].down, gate, width, llama->ffn);
            for (size_t i = 0; i < width; i++) x[i] += y[i];
        }
        norm(y, x, llama->final_norm, width, llama->epsilon);
        multiply(logits + t * llama->vocabulary, llama->output, y, llama->vocabulary, width);
    }
}

// The model's token i is token place[i] of the Llama; NULL: the same.
static void check_logits(const char *what, Model *model, const Llama *llama, const size_t *place) {
    const size_t vocabulary = llama->vocabulary;
    int32_t tokens[TOKENS], targets[TOKENS], theirs[TOKENS];
    toy_batch(model_settings(model), 3, 0, tokens, targets);
    for (size_t t = 0; t < TOKENS; t++) theirs[t] = place ? (int32_t)place[tokens[t]] : tokens[t];
    model_step(model, tokens, targets, 0, NULL, NULL);
    double *expected = malloc(TOKENS * vocabulary * sizeof *expected), *ordered = malloc(vocabulary * sizeof *ordered);
    real *logits = guarded_new(vocabulary);
    assert_true(expected && ordered && vocabulary == model_settings(model)->config.vocabulary);
    forward(llama, theirs, TOKENS, expected);
    for (size_t t = 0; t < TOKENS; t++) {
        for (size_t i = 0; i < vocabulary; i++) ordered[i] = expected[t * vocabulary + (place ? place[i] : i)];
        model_logits(model, 0, t, logits);
        check_close(what, logits, ordered, vocabulary, 1e-4, 1e-5);
    }
    free(expected), free(ordered);
    guarded_free(logits);
}

// ---- vocabularies ---------------------------------------------------------------------------------------------------

#define SPACE "\xE2\x96\x81" // how SentencePiece spells it
enum { VOCABULARY = 270 };   // <unk>, <s>, </s>, a newline, 256 bytes, others

// As `rope prepare` makes them: the newline stands before the bytes.
static ExportVocabulary vocabulary_new(void) {
    static const char *const others[] = {SPACE, "a",         "b", SPACE "a", "\xC3\xA9",
                                         "ab",  SPACE SPACE, "c", "d",       SPACE "ab" SPACE};
    static ExportPiece pieces[VOCABULARY] = {{"<unk>", 0, EXPORT_UNKNOWN},
                                             {"<s>", 0, EXPORT_CONTROL},
                                             {"</s>", 0, EXPORT_CONTROL},
                                             {"\n", 0, EXPORT_USER_DEFINED}};
    static char bytes[256][8];
    for (size_t i = 0; i < 256; i++) {
        snprintf(bytes[i], sizeof bytes[i], "<0x%02X>", (unsigned)i);
        pieces[4 + i] = (ExportPiece){bytes[i], 0, EXPORT_BYTE};
    }
    for (size_t i = 260; i < VOCABULARY; i++)
        pieces[i] = (ExportPiece){others[i - 260], -(float)i / 8, i == 269 ? EXPORT_UNUSED : EXPORT_NORMAL};
    return (ExportVocabulary){.pieces = pieces, .bos = 1, .eos = 2, .unknown = 0};
}

// ---- GGUF -----------------------------------------------------------------------------------------------------------

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
    assert_true(llama.layers == LAYERS && NUMBER("rope.dimension_count") == llama.head_size &&
                NUMBER("attention.value_length") == llama.head_size);
#undef NUMBER
#undef REAL
    const size_t width = llama.width, q = llama.heads * llama.head_size, kv = llama.kv_heads * llama.head_size;
    for (size_t l = 0; l < LAYERS; l++) {
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
    check_logits("logits of GGUF files", model, &llama, NULL);
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
    settings.config.vocabulary = VOCABULARY;
    Model *model = filled(&settings);
    ExportVocabulary vocabulary = vocabulary_new();
    Gguf gguf = export_and_read(model, &vocabulary);
    assert_true(is_text(&gguf, "tokenizer.ggml.model", "llama") && is_text(&gguf, "tokenizer.ggml.pre", "default"));
    find_array(&gguf, "tokenizer.ggml.tokens", 8, VOCABULARY);
    for (size_t i = 0; i < VOCABULARY; i++) assert_true(take_text(&gguf, vocabulary.pieces[i].text));
    find_array(&gguf, "tokenizer.ggml.scores", 6, VOCABULARY);
    for (size_t i = 0; i < VOCABULARY; i++) assert_memory_equal(take(&gguf, 4), &vocabulary.pieces[i].score, 4);
    find_array(&gguf, "tokenizer.ggml.token_type", 5, VOCABULARY);
    for (size_t i = 0; i < VOCABULARY; i++) assert_int_equal(take_u32(&gguf), vocabulary.pieces[i].type);
    check_count("pieces in GGUF files", VOCABULARY);
    assert_int_equal(number(&gguf, "tokenizer.ggml.bos_token_id"), 1);
    assert_int_equal(number(&gguf, "tokenizer.ggml.eos_token_id"), 2);
    assert_int_equal(number(&gguf, "tokenizer.ggml.unknown_token_id"), 0);
    assert_false(flag(&gguf, "tokenizer.ggml.add_space_prefix") || flag(&gguf, "tokenizer.ggml.add_bos_token") ||
                 flag(&gguf, "tokenizer.ggml.add_eos_token"));
    const Llama llama = gguf_llama(&gguf, "llama");
    check_logits("logits of GGUF files", model, &llama, NULL);
    free(gguf.bytes);

    vocabulary.bos = vocabulary.eos = vocabulary.unknown = -1, vocabulary.space_prefix = true;
    gguf = export_and_read(model, &vocabulary);
    assert_true(flag(&gguf, "tokenizer.ggml.add_space_prefix") && !find_key(&gguf, "tokenizer.ggml.bos_token_id", 4));
    assert_false(find_key(&gguf, "tokenizer.ggml.eos_token_id", 4));
    assert_false(find_key(&gguf, "tokenizer.ggml.unknown_token_id", 4));
    free(gguf.bytes);
    model_destroy(model);
}

// ---- llama2.c -------------------------------------------------------------------------------------------------------

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
    for (size_t l = 0; l < LAYERS; l++) llama.layer[l].member = next(&at, count)

static Llama llama2_read(const char *bytes, size_t size) {
    int32_t header[7];
    assert_true(size > sizeof header);
    memcpy(header, bytes, sizeof header);
    const size_t width = (size_t)header[0], ffn = (size_t)header[1], vocabulary = (size_t)abs(header[5]);
    const size_t head_size = width / (size_t)header[3], kv = (size_t)header[4] * head_size;
    assert_int_equal(header[2], LAYERS);
    Llama llama = {.width = width,
                   .ffn = ffn,
                   .layers = LAYERS,
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

// place (VOCABULARY) =: where each piece stands in tokenizer.bin, found by its text.
static void read_places(const char *path, const ExportVocabulary *vocabulary, size_t *place) {
    size_t size;
    char *bytes = read_bytes(path, &size), *at = bytes + 4, spelled[VOCABULARY][40];
    int32_t longest, length, most = 0;
    float scores[VOCABULARY];
    memcpy(&longest, bytes, 4);
    for (size_t i = 0; i < VOCABULARY; i++) {
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
    for (size_t i = 0; i < VOCABULARY; i++) {
        char wanted[40] = "", *end = wanted;
        for (const char *text = vocabulary->pieces[i].text; *text;) {
            const bool space = !strncmp(text, SPACE, strlen(SPACE));
            *end++ = space ? ' ' : *text;
            text += space ? strlen(SPACE) : 1;
        }
        *end = 0;
        if (i == 1) strcpy(wanted, "\n<s>\n");
        if (i == 2) strcpy(wanted, "\n</s>\n");
        for (place[i] = 0; place[i] < VOCABULARY && strcmp(spelled[place[i]], wanted); place[i]++) {}
        assert_true(place[i] < VOCABULARY && scores[place[i]] == vocabulary->pieces[i].score);
        if (vocabulary->pieces[i].type == EXPORT_BYTE) assert_int_equal(place[i], 3 + i - 4); // where run.c has them
        if (i < 3) assert_int_equal(place[i], i);
    }
    check_count("pieces in tokenizer.bin", VOCABULARY);
    free(bytes);
}

static void check_llama2(const ModelSettings *settings, const ExportVocabulary *vocabulary) {
    Error error = {0};
    Model *model = filled(settings);
    const char *directory = directory_new("llama2");
    assert_null(export_llama2_inexpressible(settings, vocabulary));
    if (!export_llama2(directory, model, vocabulary, &error)) fail_msg("%s", error.message);
    size_t size, place[VOCABULARY];
    char *bytes = read_bytes(join(directory, "model.bin"), &size);
    const Llama llama = llama2_read(bytes, size);
    assert_int_equal(llama.tokens, settings->config.tokens);
    assert_true((llama.output == llama.embedding) == settings->config.tie);
    assert_int_equal(access(join(directory, "tokenizer.bin"), F_OK) == 0, vocabulary != NULL);
    if (vocabulary) read_places(join(directory, "tokenizer.bin"), vocabulary, place);
    check_logits("logits of llama2.c files", model, &llama, vocabulary ? place : NULL);
    free(bytes);
    model_destroy(model);
}

static void test_llama2(void **state) {
    (void)state;
    ModelSettings settings = llama2_settings();
    check_llama2(&settings, NULL);
    settings.config.tie = true, settings.config.kv_heads = 1;
    check_llama2(&settings, NULL);
    settings.config.vocabulary = VOCABULARY;
    const ExportVocabulary vocabulary = vocabulary_new();
    check_llama2(&settings, &vocabulary);
    settings.config.tie = false;
    check_llama2(&settings, &vocabulary);
}

// Without all bytes, or with one where a control piece should be, tokens stay where they are.
static void test_llama2_order(void **state) {
    (void)state;
    ModelSettings settings = llama2_settings();
    settings.config.vocabulary = VOCABULARY;
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
        check_logits("logits of llama2.c files", model, &llama, NULL);
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

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_gguf),         cmocka_unit_test(test_gguf_vocabulary), cmocka_unit_test(test_llama2),
    cmocka_unit_test(test_llama2_order), cmocka_unit_test(test_llama2_refusals),
};
TEST_MAIN(tests)
