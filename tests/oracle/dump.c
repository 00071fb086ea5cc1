// What rope.c computes for a checkpoint directory, as raw doubles for compare.py. Linked with both libraries.
//
//     dump DIRECTORY BATCH OUT    loss, logits, decoder's logits and all gradients of one batch
//     dump DIRECTORY --save OUT   loads the checkpoint and writes it again
//     dump DIRECTORY --gguf OUT   the same as a GGUF file without a tokenizer
//     dump DIRECTORY --bf16 OUT   the same as a checkpoint in BF16
//
// BATCH: int32 B, T, then B·T tokens, then B·T targets (-1: ignored). OUT gets loss.bin (1), logits.bin (B,T,V),
// decoded.bin (T,V: the first row, token by token), gradients.bin, and its tensors.txt (name, rank, rows, columns).

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/cpu.h"
#include "core/files.h"
#include "model/checkpoint.h"
#include "model/export.h"

_Noreturn static void stop(const char *what) {
    fprintf(stderr, "dump: %s\n", what);
    exit(1);
}

static Model *load(const char *directory, size_t batch, size_t tokens) {
    Error error = {0};
    ModelSettings settings = {.batch = batch,
                              .training = true,
                              .method_count = 1,
                              .methods = {attention_method_find("exact")},
                              .attention = attention_defaults()};
    settings.attention.bound = BOUND_NONE;
    if (!checkpoint_read_config(directory, &settings.config, NULL, &error)) stop(error.message);
    if (tokens) settings.config.tokens = tokens;
    Model *model = model_create(&settings, &error);
    if (!model || !checkpoint_read_weights(directory, model, &error)) stop(error.message);
    return model;
}

static FILE *out_file(const char *directory, const char *name) {
    char path[4096];
    Error error = {0};
    if (!path_join(path, sizeof path, directory, name, &error)) stop(error.message);
    FILE *file = fopen(path, "wb");
    if (!file) stop(strerror(errno));
    return file;
}

static void put(FILE *file, const real *values, size_t count) {
    for (size_t i = 0; i < count; i++) {
        double value = (double)values[i];
        if (fwrite(&value, sizeof value, 1, file) != 1) stop(strerror(errno));
    }
}

static void finish(FILE *file) {
    if (fclose(file) != 0) stop(strerror(errno));
}

static void dump_logits(Model *model, const int32_t *tokens, size_t batch, size_t length, const char *out) {
    size_t vocabulary = model_settings(model)->config.vocabulary;
    real *logits = malloc(vocabulary * sizeof *logits);
    if (!logits) stop("no memory");
    FILE *file = out_file(out, "logits.bin");
    for (size_t row = 0; row < batch; row++)
        for (size_t position = 0; position < length; position++) {
            model_logits(model, row, position, logits);
            put(file, logits, vocabulary);
        }
    finish(file);
    free(logits);
    Error error = {0};
    Decoder *decoder = decoder_create(model, &error);
    if (!decoder) stop(error.message);
    file = out_file(out, "decoded.bin");
    for (size_t position = 0; position < length; position++)
        put(file, decoder_feed(decoder, tokens[position]), vocabulary);
    finish(file);
    decoder_destroy(decoder);
}

static void dump_gradients(Model *model, const char *out) {
    const TensorTable *table = model_tensors(model);
    FILE *file = out_file(out, "gradients.bin"), *names = out_file(out, "tensors.txt");
    for (size_t i = 0; i < table->count; i++) {
        const Tensor *tensor = &table->tensors[i];
        put(file, model_gradients(model) + tensor->offset, tensor->rows * tensor->columns);
        fprintf(names, "%s %d %zu %zu\n", tensor->name, tensor->rank, tensor->rows, tensor->columns);
    }
    finish(file);
    finish(names);
}

// Writes the model of a directory in another way.
static void convert(const char *directory, const char *how, const char *out) {
    const CheckpointInfo info = {NULL, 1, 2};
    Error error = {0};
    Model *model = load(directory, 1, 0);
    const Dtype *dtype = dtype_find(strcmp(how, "--bf16") == 0 ? "BF16" : "F32");
    bool good = strcmp(how, "--gguf") == 0 ? export_gguf(out, model, NULL, "oracle", &error)
                                           : checkpoint_write_as(out, dtype, model, &info, &error);
    if (!good) stop(error.message);
    model_destroy(model);
}

int main(int argc, char **argv) {
    cpu_mend_blas(argv);
    if (argc != 4) stop("usage: dump DIRECTORY BATCH|--save|--gguf|--bf16 OUT");
    Error error = {0};
    if (strncmp(argv[2], "--", 2) == 0) {
        convert(argv[1], argv[2], argv[3]);
        return 0;
    }
    size_t size;
    char *bytes = file_read_all(argv[2], 1 << 28, &size, &error);
    if (!bytes || size < 8) stop(error.message);
    const int32_t *numbers = (const int32_t *)bytes, *tokens = numbers + 2;
    size_t batch = (size_t)numbers[0], length = (size_t)numbers[1], count = batch * length;
    if (size != (2 + 2 * count) * sizeof *numbers) stop("the batch has another size than it says");
    const int32_t *targets = tokens + count;
    Model *model = load(argv[1], batch, length);
    model_zero_gradients(model);
    double loss = model_step(model, tokens, targets, 1.0 / (double)model_count_targets(targets, count), NULL, NULL);
    FILE *file = out_file(argv[3], "loss.bin");
    if (fwrite(&loss, sizeof loss, 1, file) != 1) stop(strerror(errno));
    finish(file);
    dump_gradients(model, argv[3]);
    dump_logits(model, tokens, batch, length, argv[3]);
    model_destroy(model);
    free(bytes);
    return 0;
}
