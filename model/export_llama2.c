// The first format of llama2.c, version 0, and its tokenizer.bin (source: export.py, tokenizer.py and run.c of that
// project). Seven int32: width, ffn, layers, heads, kv_heads, vocabulary (negative if the output has a matrix of its
// own), tokens. Then F32: the embedding; over all layers each of the norms before attention, q, k, v, o, the norms
// before the feed-forward part, gate, down, up; the last norm; cosines and sines (tokens, D/2), which run.c skips
// nowadays; the output.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/checkpoint.h"
#include "model/export_internal.h"

enum { PATH_SIZE = 4096, BOS = 1, FIRST_BYTE = 3, BYTES = 256 }; // run.c's numbers of tokens

const char *export_llama2_inexpressible(const ModelSettings *settings, const ExportVocabulary *vocabulary) {
    const ModelConfig *config = &settings->config;
    const char *reason = checkpoint_inexpressible(settings);
    if (reason) return reason;
    if (config->qk_norm) return "model.qk_norm is on; llama2.c has no norms of q and k.";
    if (config->heads * config->qk_size != config->width)
        return "model.qk_size is not model.width / model.heads, the only one that llama2.c has.";
    if (config->rope_theta != 10000) return "model.rope_theta is not 10000, the only one that llama2.c has.";
    if (fabs(config->norm_epsilon / 1e-5 - 1) > 1e-6)
        return "model.norm_epsilon is not 1e-5, the only one that llama2.c has.";
    if (vocabulary && vocabulary->bos != BOS)
        return "tokenizer.model does not begin texts with token 1, as llama2.c does.";
    return NULL;
}

// order (vocabulary) =: the token that becomes token i. The pieces of bytes go to the places where run.c looks for
// them, if there are all of them, none among the first three; else everything stays where it is.
static void order_tokens(const ExportVocabulary *vocabulary, size_t count, size_t *order) {
    size_t bytes = 0, others = FIRST_BYTE + BYTES;
    for (size_t i = 0; i < count; i++) order[i] = i;
    for (size_t i = 0; vocabulary && i < count; i++) bytes += vocabulary->pieces[i].type == EXPORT_BYTE;
    if (bytes != BYTES) return;
    for (size_t i = 0; i < FIRST_BYTE; i++)
        if (vocabulary->pieces[i].type == EXPORT_BYTE) return;
    for (size_t i = FIRST_BYTE; i < count; i++) {
        const ExportPiece *piece = &vocabulary->pieces[i]; // of a byte: <0x0A>
        bool byte = piece->type == EXPORT_BYTE;
        order[byte ? FIRST_BYTE + strtoul(piece->text + 3, NULL, 16) % BYTES : others++] = i;
    }
}

static void put_layers(FileWriter *writer, Model *model, TensorRole role) {
    const ModelConfig *config = &model_settings(model)->config;
    for (int layer = 0; layer < (int)config->layers; layer++) {
        const Tensor *tensor = tensor_of(model_tensors(model), role, layer);
        if (role == TENSOR_QUERY || role == TENSOR_KEY)
            export_interleaved(writer, model, tensor, config->qk_size);
        else
            export_tensor(writer, model, tensor);
    }
}

static void put_rotations(FileWriter *writer, const ModelConfig *config, double (*function)(double)) {
    for (size_t t = 0; t < config->tokens; t++)
        for (size_t j = 0; j < config->qk_size / 2; j++) {
            double frequency = pow(config->rope_theta, -2.0 * (double)j / (double)config->qk_size);
            float value = (float)function((double)t * frequency);
            file_writer_write(writer, &value, sizeof value);
        }
}

static bool write_model(const char *path, Model *model, const size_t *order, Error *error) {
    static const TensorRole roles[] = {
        TENSOR_INPUT_NORM,  TENSOR_QUERY, TENSOR_KEY,  TENSOR_VALUE, TENSOR_ATTENTION_OUTPUT,
        TENSOR_MIDDLE_NORM, TENSOR_GATE,  TENSOR_DOWN, TENSOR_UP};
    const ModelConfig *config = &model_settings(model)->config;
    const TensorTable *table = model_tensors(model);
    const int32_t vocabulary = (int32_t)config->vocabulary;
    const int32_t header[] = {(int32_t)config->width, (int32_t)config->ffn,      (int32_t)config->layers,
                              (int32_t)config->heads, (int32_t)config->kv_heads, config->tie ? vocabulary : -vocabulary,
                              (int32_t)config->tokens};
    FileWriter *writer = file_writer_open(path, error);
    if (!writer) return false;
    file_writer_write(writer, header, sizeof header);
    export_ordered(writer, model, tensor_of(table, TENSOR_EMBEDDING, -1), order);
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) put_layers(writer, model, roles[i]);
    export_tensor(writer, model, tensor_of(table, TENSOR_FINAL_NORM, -1));
    put_rotations(writer, config, cos);
    put_rotations(writer, config, sin);
    if (!config->tie) export_ordered(writer, model, tensor_of(table, TENSOR_OUTPUT, -1), order);
    return file_writer_close(writer, error);
}

// What run.c prints for a piece, and finds it by: text (size) =, at least as long as the piece; returns its length.
static size_t spell(const ExportVocabulary *vocabulary, size_t id, char *text, size_t size) {
    static const char space[] = "\xE2\x96\x81"; // U+2581
    const char *piece = vocabulary->pieces[id].text;
    if ((int32_t)id == vocabulary->bos || (int32_t)id == vocabulary->eos)
        return (size_t)snprintf(text, size, "\n%s\n", (int32_t)id == vocabulary->bos ? "<s>" : "</s>");
    size_t used = 0;
    while (*piece) {
        bool is_space = !strncmp(piece, space, sizeof space - 1);
        text[used++] = is_space ? ' ' : *piece;
        piece += is_space ? sizeof space - 1 : 1;
    }
    return used;
}

// max_token_length, then of each token its score, its length and its bytes.
static bool write_vocabulary(const char *path, const ExportVocabulary *vocabulary, size_t count, const size_t *order,
                             Error *error) {
    size_t room = 16; // "\n</s>\n" and a NUL
    for (size_t i = 0; i < count; i++)
        if (strlen(vocabulary->pieces[i].text) >= room) room = strlen(vocabulary->pieces[i].text) + 1;
    char *text = malloc(room);
    if (!text) return error_set(error, ERROR_MEMORY, "There is no memory to write %s.", path);
    FileWriter *writer = file_writer_open(path, error);
    int32_t longest = 0;
    if (writer) file_writer_write(writer, &longest, sizeof longest);
    for (size_t i = 0; writer && i < count; i++) {
        int32_t length = (int32_t)spell(vocabulary, order[i], text, room);
        file_writer_write(writer, &vocabulary->pieces[order[i]].score, sizeof(float));
        file_writer_write(writer, &length, sizeof length);
        file_writer_write(writer, text, (size_t)length);
        if (length > longest) longest = length;
    }
    free(text);
    if (!writer) return false;
    file_writer_write_at(writer, 0, &longest, sizeof longest);
    return file_writer_close(writer, error);
}

bool export_llama2(const char *directory, Model *model, const ExportVocabulary *vocabulary, Error *error) {
    const size_t count = model_settings(model)->config.vocabulary;
    char path[PATH_SIZE], vocabulary_path[PATH_SIZE];
    REQUIRE(!export_llama2_inexpressible(model_settings(model), vocabulary));
    if (!path_join(path, sizeof path, directory, "model.bin", error) ||
        !path_join(vocabulary_path, sizeof vocabulary_path, directory, "tokenizer.bin", error))
        return false;
    size_t *order = malloc(count * sizeof *order);
    if (!order) return error_set(error, ERROR_MEMORY, "There is no memory to write %s.", path);
    order_tokens(vocabulary, count, order);
    bool good = write_model(path, model, order, error) &&
                (!vocabulary || write_vocabulary(vocabulary_path, vocabulary, count, order, error));
    free(order);
    return good;
}
