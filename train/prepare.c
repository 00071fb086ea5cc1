// rope prepare: text files to a tokenizer and token shards (data/prepare.c does the work).
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "data/data.h"
#include "train/command.h"
#include "train/evaluate.h"

static json_t *report(const PrepareSettings *settings, const PrepareResult *result) {
    return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:f, s:f}", "out", settings->out, "type",
                     settings->tokenizer ? "given" : settings->type, "vocabulary", (json_int_t)result->vocabulary,
                     "train_tokens", (json_int_t)result->train_tokens, "val_tokens", (json_int_t)result->val_tokens,
                     "train_bytes", (json_int_t)result->train_bytes, "val_bytes", (json_int_t)result->val_bytes,
                     "unigram_loss", result->unigram_loss, "unigram_bits_per_byte",
                     bits_per_byte(result->unigram_loss, result));
}

static void print_report(const PrepareSettings *settings, const PrepareResult *result) {
    double train = result->train_bytes ? (double)result->train_tokens / (double)result->train_bytes : 0;
    fprintf(stderr,
            "%s: %zu tokens in the vocabulary; %llu tokens to train on from %llu bytes (%.4f tokens per byte), "
            "%llu held out from %llu bytes\n",
            settings->out, result->vocabulary, (unsigned long long)result->train_tokens,
            (unsigned long long)result->train_bytes, train, (unsigned long long)result->val_tokens,
            (unsigned long long)result->val_bytes);
    fprintf(stderr, "a unigram model's held-out loss is %.4f (%.4f bits per byte): what training has to beat\n",
            result->unigram_loss, bits_per_byte(result->unigram_loss, result));
}

int command_prepare(int argc, char **argv) {
    enum { OUT, VOCAB, TYPE, VALIDATION, TOKENIZER, QUIET, OPTIONS };
    static const CommandOption options[] = {
        {"out", 'o', "DIR", "where tokenizer.model, train.bin, val.bin and meta.json go"},
        {"vocab", 'v', "N", "size of the vocabulary (default 4096)"},
        {"type", 't', "T", "bpe, unigram or char (default bpe)"},
        {"validation", 0, "X", "share of the text, at its end, that is held out (default 0.05)"},
        {"tokenizer", 0, "FILE", "use this tokenizer.model instead of training one"},
        {"quiet", 'q', NULL, "no progress bar"},
        {NULL, 0, NULL, NULL},
    };
    const char *values[OPTIONS];
    static CommandLine line;
    Error error = {0};
    command_parse(command_find("prepare"), options, values, argc, argv, &line);
    PrepareSettings settings = {
        .inputs = line.positional,
        .input_count = line.positional_count,
        .out = values[OUT],
        .type = values[TYPE] ? values[TYPE] : "bpe",
        .vocabulary = (size_t)command_integer("vocab", values[VOCAB], 4096, 1, 1u << 30),
        .validation_share = command_number("validation", values[VALIDATION], 0.05, 1e-9, 0.9),
        .tokenizer = values[TOKENIZER],
        .quiet = values[QUIET] != NULL,
    };
    PrepareResult result;
    if (!settings.input_count)
        error_set(&error, ERROR_USER, "prepare takes text files, or - for standard input.");
    else if (!settings.out || !*settings.out)
        error_set(&error, ERROR_USER, "prepare needs --out DIR.");
    else if (settings.tokenizer && (values[VOCAB] || values[TYPE]))
        error_set(&error, ERROR_USER, "--tokenizer comes with its vocabulary and type: leave --vocab and --type out.");
    else
        data_prepare(&settings, &result, &error);
    if (error.kind != ERROR_NONE) return command_fail(&error);
    if (!line.json)
        print_report(&settings, &result);
    else if (!command_print_json(report(&settings, &result), &error))
        return command_fail(&error);
    return 0;
}
