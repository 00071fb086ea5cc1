// Texts in a directory of the running test's own, and all that must hold of what rope prepare makes of them. A header,
// because only tests of prepare need it.
#ifndef ROPE_TESTS_SUPPORT_PREPARED_FILES_H
#define ROPE_TESTS_SUPPORT_PREPARED_FILES_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/files.h"
#include "core/random.h"
#include "data/data.h"
#include "data/shards.h"
#include "data/tokenizer.h"
#include "tests/support/check.h"

enum { PATH = 512 };

static const char *directory;

static inline int new_directory(void **state) {
    (void)state;
    directory = temporary_directory();
    return 0;
}

static inline void in_directory(char *path, const char *name) {
    assert_true(snprintf(path, PATH, "%s/%s", directory, name) < PATH);
}

static const char *const words[] = {"the",
                                    "king",
                                    "and",
                                    "queen",
                                    "spoke",
                                    "of",
                                    "water\xE2\x96\x81",
                                    "na\xC3\xAFve",
                                    "\xFF\xFE",
                                    "\tfield",
                                    "morning",
                                    "\xF0\x9F\x98\x80",
                                    "harvest",
                                    "people",
                                    "came",
                                    "to"};

// About `size` bytes of lines, some hard, always the same for a seed.
static inline char *make_text(uint64_t seed, size_t *size, const char *line_end) {
    char *text = malloc(*size + 256);
    size_t used = 0;
    for (uint64_t i = 0; used < *size; i++) {
        Random random = {.seed = seed, .stream = RANDOM_TEST, .step = i};
        for (uint64_t w = 0; w < 3 + i % 9; w++)
            used += (size_t)sprintf(text + used, "%s%s", w ? " " : "", words[random_below(random, w, 16)]);
        used += (size_t)sprintf(text + used, "%s", line_end);
    }
    *size = used;
    return text;
}

static inline void write_file(const char *path, const char *text, size_t size) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, size, file), size);
    fclose(file);
}

// Decodes a whole shard.
static inline char *decode_shard(const char *path, const Tokenizer *tokenizer, size_t *size, uint64_t *count,
                                 int32_t **ids) {
    Shard shard;
    Error error = {0};
    char *text;
    if (!shard_open(&shard, path, &error)) fail_msg("%s", error.message);
    *count = shard.count;
    assert_int_equal(shard.vocabulary, tokenizer_vocabulary(tokenizer));
    *ids = malloc(shard.count * sizeof **ids);
    assert_true(shard_read(&shard, 0, shard.count, shard.vocabulary, *ids, &error));
    assert_true(tokenizer_decode(tokenizer, *ids, shard.count, &text, size, &error));
    shard_close(&shard);
    return text;
}

// The definition, summed token by token.
static inline double unigram_reference(const int32_t *train, uint64_t train_count, const int32_t *val,
                                       uint64_t val_count, size_t vocabulary) {
    double sum = 0.0;
    for (uint64_t i = 0; i < val_count; i++) {
        uint64_t same = 0;
        for (uint64_t j = 0; j < train_count; j++) same += train[j] == val[i];
        sum -= log((double)(same + 1) / (double)(train_count + vocabulary));
    }
    return sum / (double)val_count;
}

static inline PrepareSettings settings_for(const char *const *inputs, size_t count, const char *out, const char *type) {
    return (PrepareSettings){.inputs = inputs,
                             .input_count = count,
                             .out = out,
                             .type = type,
                             .vocabulary = 300,
                             .validation_share = 0.1,
                             .quiet = true};
}

static inline void check_same_result(const PrepareResult *a, const PrepareResult *b) {
    assert_true(a->train_tokens == b->train_tokens && a->val_tokens == b->val_tokens);
    assert_true(a->train_bytes == b->train_bytes && a->val_bytes == b->val_bytes);
    assert_true(a->vocabulary == b->vocabulary && a->lossy_bytes == b->lossy_bytes);
    assert_true(a->train_crc == b->train_crc && a->val_crc == b->val_crc && a->tokenizer_crc == b->tokenizer_crc);
    assert_true(a->unigram_loss == b->unigram_loss);
}

// Everything that must hold of a prepared directory whose text was `text`.
static inline void check_prepared(const char *out, const char *text, size_t size, const PrepareResult *result,
                                  bool has_lines) {
    char path[PATH + 32];
    Error error = {0};
    snprintf(path, sizeof path, "%s/tokenizer.model", out);
    Tokenizer *tokenizer = tokenizer_load(path, &error);
    if (!tokenizer) fail_msg("%s", error.message);
    assert_int_equal(result->vocabulary, tokenizer_vocabulary(tokenizer));
    size_t train_size, val_size;
    uint64_t train_count, val_count;
    int32_t *train_ids, *val_ids;
    snprintf(path, sizeof path, "%s/train.bin", out);
    char *train = decode_shard(path, tokenizer, &train_size, &train_count, &train_ids);
    snprintf(path, sizeof path, "%s/val.bin", out);
    char *val = decode_shard(path, tokenizer, &val_size, &val_count, &val_ids);
    assert_int_equal(train_size + val_size, size);
    check_same_bits("bytes of prepared text", train, text, train_size);
    check_same_bits("bytes of prepared text", val, text + train_size, val_size);
    assert_int_equal(result->train_bytes, train_size);
    assert_int_equal(result->val_bytes, val_size);
    assert_int_equal(result->train_tokens, train_count);
    assert_int_equal(result->val_tokens, val_count);
    if (has_lines) {
        assert_int_equal(train[train_size - 1], '\n');
        assert_in_range(val_size, size / 10 - 300, size / 10 + 300);
        int32_t *whole; // reading in pieces changes no token
        size_t whole_count;
        assert_true(tokenizer_encode(tokenizer, train, train_size, &whole, &whole_count, &error));
        assert_int_equal(whole_count, train_count);
        check_same_bits("ids of text read in pieces", whole, train_ids, train_count * sizeof *whole);
        free(whole);
    }
    if (train_count < 30000)
        assert_true(fabs(result->unigram_loss -
                         unigram_reference(train_ids, train_count, val_ids, val_count, result->vocabulary)) < 1e-9);
    assert_int_equal(result->lossy_bytes, 0);
    PrepareResult meta;
    if (!data_read_meta(out, &meta, &error)) fail_msg("%s", error.message);
    check_same_result(&meta, result);
    free(train);
    free(val);
    free(train_ids);
    free(val_ids);
    tokenizer_free(tokenizer);
    check_count("prepared folders", 1);
}

#endif
