// GGUF version 3, little-endian (specification: docs/gguf.md of ggml): "GGUF", the version, the number of tensors, the
// number of pairs; pairs of key, type and value; of each tensor its name, lengths (the innermost first), type and
// offset; then, at a multiple of 32, the tensors, each padded to one. All lengths are 64 bits. Keys and names of
// tensors are those that llama.cpp looks for in architectures llama and qwen3.
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "model/checkpoint.h"
#include "model/export_internal.h"

enum { ALIGNMENT = 32, VERSION = 3, F32_TENSOR = 0, ALL_F32 = 0 };
typedef enum ValueType { UINT32 = 4, INT32 = 5, FLOAT32 = 6, BOOL = 7, STRING = 8, ARRAY = 9 } ValueType;

typedef struct Gguf {
    FileWriter *writer;
    uint64_t at;              // bytes so far
    uint64_t pairs;           // so far
    const char *architecture; // in front of the model's keys
    Model *model;
} Gguf;

// ---- values: a failure stays with the writer ------------------------------------------------------------------------

static void put(Gguf *gguf, const void *data, size_t size) {
    file_writer_write(gguf->writer, data, size);
    gguf->at += size;
}
static void put_u32(Gguf *gguf, uint32_t value) { put(gguf, &value, sizeof value); }
static void put_u64(Gguf *gguf, uint64_t value) { put(gguf, &value, sizeof value); }
static void put_f32(Gguf *gguf, float value) { put(gguf, &value, sizeof value); }

static void put_text(Gguf *gguf, const char *text) {
    put_u64(gguf, strlen(text));
    put(gguf, text, strlen(text));
}

// Readers turn U+2581 back into spaces where a piece is normal; those of the user they look for in texts as they are.
static void put_piece(Gguf *gguf, const ExportPiece *piece) {
    static const char space[] = "\xE2\x96\x81";
    const size_t length = sizeof space - 1;
    if (piece->type != EXPORT_USER_DEFINED) return put_text(gguf, piece->text);
    size_t spaces = 0;
    for (const char *at = piece->text; (at = strstr(at, space)); at += length) spaces++;
    put_u64(gguf, strlen(piece->text) - spaces * (length - 1));
    const char *text = piece->text;
    for (const char *at; (at = strstr(text, space)); text = at + length) {
        put(gguf, text, (size_t)(at - text));
        put(gguf, " ", 1);
    }
    put(gguf, text, strlen(text));
}

static void pad(Gguf *gguf) {
    static const char zeros[ALIGNMENT];
    put(gguf, zeros, (ALIGNMENT - gguf->at % ALIGNMENT) % ALIGNMENT);
}

// A key that begins with a dot belongs to the architecture.
static void put_key(Gguf *gguf, const char *key, ValueType type) {
    char whole[128];
    snprintf(whole, sizeof whole, "%s%s", *key == '.' ? gguf->architecture : "", key);
    put_text(gguf, whole);
    put_u32(gguf, type);
    gguf->pairs++;
}
static void pair_number(Gguf *gguf, const char *key, size_t value) {
    put_key(gguf, key, UINT32);
    put_u32(gguf, (uint32_t)value); // all are below 2^31: model_config_check
}
static void pair_real(Gguf *gguf, const char *key, double value) {
    put_key(gguf, key, FLOAT32);
    put_f32(gguf, (float)value);
}
static void pair_flag(Gguf *gguf, const char *key, bool value) {
    put_key(gguf, key, BOOL);
    put(gguf, &(unsigned char){value}, 1);
}
static void pair_text(Gguf *gguf, const char *key, const char *value) {
    put_key(gguf, key, STRING);
    put_text(gguf, value);
}
static void begin_array(Gguf *gguf, const char *key, ValueType type, size_t count) {
    put_key(gguf, key, ARRAY);
    put_u32(gguf, type);
    put_u64(gguf, count);
}

// ---- pairs ----------------------------------------------------------------------------------------------------------

static void put_hyperparameters(Gguf *gguf, const char *name) {
    const ModelConfig *config = &model_settings(gguf->model)->config;
    pair_text(gguf, "general.architecture", gguf->architecture);
    pair_text(gguf, "general.type", "model");
    pair_text(gguf, "general.name", name);
    pair_number(gguf, "general.alignment", ALIGNMENT);
    pair_number(gguf, "general.file_type", ALL_F32);
    pair_number(gguf, ".vocab_size", config->vocabulary);
    pair_number(gguf, ".context_length", config->tokens);
    pair_number(gguf, ".embedding_length", config->width);
    pair_number(gguf, ".block_count", config->layers);
    pair_number(gguf, ".feed_forward_length", config->ffn);
    pair_number(gguf, ".attention.head_count", config->heads);
    pair_number(gguf, ".attention.head_count_kv", config->kv_heads);
    pair_number(gguf, ".attention.key_length", config->qk_size);
    pair_number(gguf, ".attention.value_length", config->v_size);
    pair_real(gguf, ".attention.layer_norm_rms_epsilon", config->norm_epsilon);
    pair_number(gguf, ".rope.dimension_count", config->qk_size);
    pair_real(gguf, ".rope.freq_base", config->rope_theta);
}

static void put_vocabulary(Gguf *gguf, const ExportVocabulary *vocabulary) {
    const size_t count = model_settings(gguf->model)->config.vocabulary;
    if (!vocabulary) return pair_text(gguf, "tokenizer.ggml.model", "none");
    pair_text(gguf, "tokenizer.ggml.model", "llama"); // SentencePiece, pieces merged by score
    pair_text(gguf, "tokenizer.ggml.pre", "default");
    begin_array(gguf, "tokenizer.ggml.tokens", STRING, count);
    for (size_t i = 0; i < count; i++) put_piece(gguf, &vocabulary->pieces[i]);
    begin_array(gguf, "tokenizer.ggml.scores", FLOAT32, count);
    for (size_t i = 0; i < count; i++) put_f32(gguf, vocabulary->pieces[i].score);
    begin_array(gguf, "tokenizer.ggml.token_type", INT32, count);
    for (size_t i = 0; i < count; i++) put_u32(gguf, (uint32_t)vocabulary->pieces[i].type);
    // Readers take 1, 2 and 0 where these are absent.
    if (vocabulary->bos >= 0) pair_number(gguf, "tokenizer.ggml.bos_token_id", (size_t)vocabulary->bos);
    if (vocabulary->eos >= 0) pair_number(gguf, "tokenizer.ggml.eos_token_id", (size_t)vocabulary->eos);
    if (vocabulary->unknown >= 0) pair_number(gguf, "tokenizer.ggml.unknown_token_id", (size_t)vocabulary->unknown);
    pair_flag(gguf, "tokenizer.ggml.add_space_prefix", vocabulary->space_prefix);
    pair_flag(gguf, "tokenizer.ggml.add_bos_token", vocabulary->bos_prefix); // readers take true where it is absent
    pair_flag(gguf, "tokenizer.ggml.add_eos_token", false);
}

// ---- tensors --------------------------------------------------------------------------------------------------------

static const char *const names[TENSOR_ROLE_COUNT] = {
    [TENSOR_EMBEDDING] = "token_embd",
    [TENSOR_INPUT_NORM] = "attn_norm",
    [TENSOR_QUERY] = "attn_q",
    [TENSOR_KEY] = "attn_k",
    [TENSOR_VALUE] = "attn_v",
    [TENSOR_QUERY_NORM] = "attn_q_norm",
    [TENSOR_KEY_NORM] = "attn_k_norm",
    [TENSOR_ATTENTION_OUTPUT] = "attn_output",
    [TENSOR_MIDDLE_NORM] = "ffn_norm",
    [TENSOR_GATE] = "ffn_gate",
    [TENSOR_UP] = "ffn_up",
    [TENSOR_DOWN] = "ffn_down",
    [TENSOR_FINAL_NORM] = "output_norm",
    [TENSOR_OUTPUT] = "output",
};

static uint64_t padded_bytes(const Tensor *tensor) {
    uint64_t bytes = (uint64_t)tensor->rows * tensor->columns * sizeof(float);
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static void put_tensor_facts(Gguf *gguf) {
    const TensorTable *table = model_tensors(gguf->model);
    uint64_t offset = 0;
    for (size_t i = 0; i < table->count; i++) {
        const Tensor *tensor = &table->tensors[i];
        char name[64];
        REQUIRE(names[tensor->role]);
        if (tensor->layer < 0)
            snprintf(name, sizeof name, "%s.weight", names[tensor->role]);
        else
            snprintf(name, sizeof name, "blk.%d.%s.weight", tensor->layer, names[tensor->role]);
        put_text(gguf, name);
        put_u32(gguf, (uint32_t)tensor->rank);
        put_u64(gguf, tensor->columns);
        if (tensor->rank == 2) put_u64(gguf, tensor->rows);
        put_u32(gguf, F32_TENSOR);
        put_u64(gguf, offset);
        offset += padded_bytes(tensor);
    }
}

static void put_tensors(Gguf *gguf) {
    const TensorTable *table = model_tensors(gguf->model);
    const ModelConfig *config = &model_settings(gguf->model)->config;
    for (size_t i = 0; i < table->count; i++) {
        const Tensor *tensor = &table->tensors[i];
        pad(gguf);
        if (!config->qk_norm && (tensor->role == TENSOR_QUERY || tensor->role == TENSOR_KEY))
            export_interleaved(gguf->writer, gguf->model, tensor, config->qk_size);
        else
            export_tensor(gguf->writer, gguf->model, tensor);
        gguf->at += (uint64_t)tensor->rows * tensor->columns * sizeof(float);
    }
    pad(gguf);
}

static bool write_gguf(const char *path, Model *model, const ExportVocabulary *vocabulary, const char *name,
                       Error *error) {
    const char *architecture = model_settings(model)->config.qk_norm ? "qwen3" : "llama";
    Gguf gguf = {.writer = file_writer_open(path, error), .architecture = architecture, .model = model};
    if (!gguf.writer) return false;
    put(&gguf, "GGUF", 4);
    put_u32(&gguf, VERSION);
    put_u64(&gguf, model_tensors(model)->count);
    const uint64_t place = gguf.at; // of the number of pairs, known when they are written
    put_u64(&gguf, 0);
    put_hyperparameters(&gguf, name);
    put_vocabulary(&gguf, vocabulary);
    put_tensor_facts(&gguf);
    put_tensors(&gguf);
    file_writer_write_at(gguf.writer, place, &gguf.pairs, sizeof gguf.pairs);
    return file_writer_close(gguf.writer, error);
}

bool export_gguf(const char *path, Model *model, const ExportVocabulary *vocabulary, const char *name, Error *error) {
    char temporary[PATH_MAX];
    REQUIRE(!checkpoint_inexpressible(model_settings(model)));
    if (!file_begin(path, temporary, sizeof temporary, error)) return false;
    if (write_gguf(temporary, model, vocabulary, name, error)) return file_commit(temporary, path, error);
    unlink(temporary);
    return false;
}
