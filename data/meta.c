// Writing and reading meta.json with jansson.
#include "data/meta.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/files.h"
#include "core/json_text.h"

enum { META_BYTES_LIMIT = 1 << 24, META_VERSION = 1 };

static json_t *describe_inputs(const PrepareSettings *settings) {
    json_t *inputs = json_array();
    for (size_t i = 0; i < settings->input_count; i++) {
        json_t *name = json_string(settings->inputs[i]);
        json_array_append_new(inputs, name ? name : json_string("(a name that is not UTF-8)"));
    }
    return inputs;
}

static json_t *describe_shard(const char *file, uint64_t bytes, uint64_t tokens, uint32_t crc) {
    return json_pack("{s:s, s:I, s:I, s:I}", "file", file, "bytes", (json_int_t)bytes, "tokens", (json_int_t)tokens,
                     "crc32", (json_int_t)crc);
}

static json_t *describe(const PrepareSettings *settings, const PrepareResult *result, size_t sample_bytes) {
    double tokens = (double)(result->train_tokens + result->val_tokens);
    double bytes = (double)(result->train_bytes + result->val_bytes);
    json_t *train = describe_shard("train.bin", result->train_bytes, result->train_tokens, result->train_crc);
    json_t *validation = describe_shard("val.bin", result->val_bytes, result->val_tokens, result->val_crc);
    json_t *tokenizer =
        json_pack("{s:s, s:s, s:I}", "file", "tokenizer.model", "type", settings->tokenizer ? "given" : settings->type,
                  "crc32", (json_int_t)result->tokenizer_crc);
    json_t *made_with = json_pack("{s:o, s:I, s:f, s:I}", "inputs", describe_inputs(settings), "vocabulary",
                                  (json_int_t)settings->vocabulary, "validation_share", settings->validation_share,
                                  "sample_bytes", (json_int_t)sample_bytes);
    return json_pack("{s:s, s:i, s:I, s:o, s:o, s:o, s:I, s:f, s:f, s:o}", "format", "rope.c data", "version",
                     META_VERSION, "vocabulary", (json_int_t)result->vocabulary, "train", train, "validation",
                     validation, "tokenizer", tokenizer, "lossy_bytes", (json_int_t)result->lossy_bytes,
                     "tokens_per_byte", tokens / bytes, "unigram_loss", result->unigram_loss, "settings", made_with);
}

bool meta_write(const char *path, const PrepareSettings *settings, const PrepareResult *result, size_t sample_bytes,
                Error *error) {
    json_watch();
    json_t *meta = describe(settings, result, sample_bytes);
    char *text = json_print(meta, JSON_INDENT(2));
    json_decref(meta);
    if (!text) return error_set(error, ERROR_MEMORY, "%s: out of memory", path);
    bool good = file_write_atomic(path, text, strlen(text), error);
    free(text);
    return good;
}

static bool parse(const char *path, const char *text, size_t size, PrepareResult *meta, Error *error) {
    json_error_t problem;
    json_t *root = json_parse(path, "contents", text, size, error);
    int version = 0;
    json_int_t vocabulary = 0, train_bytes = 0, train_tokens = 0, val_bytes = 0, val_tokens = 0;
    json_int_t lossy_bytes = 0, train_crc = 0, val_crc = 0, tokenizer_crc = 0; // some files do not speak of them
    double unigram_loss = 0.0;
    if (!root) return false;
    bool good = json_unpack_ex(root, &problem, 0, "{s:i, s:I, s:{s:I, s:I, s?I}, s:{s:I, s:I, s?I}, s:F, s?I, s?{s?I}}",
                               "version", &version, "vocabulary", &vocabulary, "train", "bytes", &train_bytes, "tokens",
                               &train_tokens, "crc32", &train_crc, "validation", "bytes", &val_bytes, "tokens",
                               &val_tokens, "crc32", &val_crc, "unigram_loss", &unigram_loss, "lossy_bytes",
                               &lossy_bytes, "tokenizer", "crc32", &tokenizer_crc) == 0;
    json_decref(root);
    if (!good && !json_whole()) return error_set(error, ERROR_MEMORY, "%s: out of memory", path);
    if (!good) return error_set(error, ERROR_CORRUPT, "%s: line %d: %s", path, problem.line, problem.text);
    if (version != META_VERSION)
        return error_set(error, ERROR_CORRUPT, "%s: version %d; version %d is known", path, version, META_VERSION);
    if (vocabulary < 1 || vocabulary > INT32_MAX || train_bytes < 1 || train_tokens < 1 || val_bytes < 1 ||
        val_tokens < 1 || lossy_bytes < 0 || !(unigram_loss >= 0.0))
        return error_set(error, ERROR_CORRUPT, "%s: a count is out of range", path);
    *meta = (PrepareResult){.train_tokens = (uint64_t)train_tokens,
                            .val_tokens = (uint64_t)val_tokens,
                            .train_bytes = (uint64_t)train_bytes,
                            .val_bytes = (uint64_t)val_bytes,
                            .vocabulary = (size_t)vocabulary,
                            .lossy_bytes = (uint64_t)lossy_bytes,
                            .train_crc = (uint32_t)train_crc,
                            .val_crc = (uint32_t)val_crc,
                            .tokenizer_crc = (uint32_t)tokenizer_crc,
                            .unigram_loss = unigram_loss};
    return true;
}

bool meta_check_whole(const char *directory, Error *error) {
    char meta[4096], unfinished[4096];
    if (!path_join(meta, sizeof meta, directory, "meta.json", error) ||
        !path_join(unfinished, sizeof unfinished, directory, META_UNFINISHED, error))
        return false;
    if (access(unfinished, F_OK) != 0 || access(meta, F_OK) == 0) return true;
    return error_set(error, ERROR_USER,
                     "%s: `rope prepare` was stopped there before all files were in place; run it again", directory);
}

bool data_read_meta(const char *directory, PrepareResult *meta, Error *error) {
    char path[4096];
    size_t size = 0;
    if (!path_join(path, sizeof path, directory, "meta.json", error) || !meta_check_whole(directory, error))
        return false;
    if (access(path, F_OK) != 0 && errno != EACCES)
        return error_set(error, ERROR_USER, "%s: not there; make it with `rope prepare TEXT --out %s`", path,
                         directory);
    char *text = file_read_all(path, META_BYTES_LIMIT, &size, error);
    bool good = text && parse(path, text, size, meta, error);
    free(text);
    return good;
}

bool data_find_meta(const char *directory, PrepareResult *meta, Error *error) {
    Error own = {0};
    *meta = (PrepareResult){0};
    if (data_read_meta(directory, meta, &own) || own.kind == ERROR_USER) return true;
    return error_set(error, own.kind, "%s", own.message);
}
