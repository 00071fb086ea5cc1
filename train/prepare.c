// rope prepare: text files to a tokenizer and token shards (data/prepare.c does the work).
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "data/data.h"
#include "train/command.h"
#include "train/evaluate.h"

static json_t *report(const PrepareSettings *settings, const PrepareResult *result) {
    json_t *document =
        json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:f}", "out", settings->out, "type",
                  settings->tokenizer ? "given" : settings->type, "vocabulary", (json_int_t)result->vocabulary,
                  "train_tokens", (json_int_t)result->train_tokens, "val_tokens", (json_int_t)result->val_tokens,
                  "train_bytes", (json_int_t)result->train_bytes, "val_bytes", (json_int_t)result->val_bytes,
                  "lossy_bytes", (json_int_t)result->lossy_bytes, "unigram_loss", result->unigram_loss);
    if (!result->lossy_bytes)
        json_object_set_new(document, "unigram_bits_per_byte", json_real(bits_per_byte(result->unigram_loss, result)));
    return document;
}

// Tokenizers made elsewhere may lose text: Llama's do not, but those that normalise it, or know no bytes, do.
static void warn_of_loss(const PrepareSettings *settings, const PrepareResult *result) {
    const uint64_t bytes = result->train_bytes + result->val_bytes;
    if (result->lossy_bytes)
        fprintf(stderr,
                "rope: %llu of %llu bytes (%.3g %%) do not come back from %s's tokens. No model has to predict "
                "them, so bits per byte are not reported.\n",
                (unsigned long long)result->lossy_bytes, (unsigned long long)bytes,
                100.0 * (double)result->lossy_bytes / (double)bytes, settings->tokenizer);
}

static void print_report(const PrepareSettings *settings, const PrepareResult *result) {
    double train = result->train_bytes ? (double)result->train_tokens / (double)result->train_bytes : 0;
    fprintf(stderr,
            "%s: %zu tokens in the vocabulary; %llu tokens to train on from %llu bytes (%.4f tokens per byte), "
            "%llu held out from %llu bytes\n",
            settings->out, result->vocabulary, (unsigned long long)result->train_tokens,
            (unsigned long long)result->train_bytes, train, (unsigned long long)result->val_tokens,
            (unsigned long long)result->val_bytes);
    char bits[64] = "";
    if (!result->lossy_bytes)
        snprintf(bits, sizeof bits, " (%.4f bits per byte)", bits_per_byte(result->unigram_loss, result));
    fprintf(stderr, "a unigram model's held-out loss is %.4f%s: what training has to beat\n", result->unigram_loss,
            bits);
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
    size_t streams = 0;
    for (size_t i = 0; i < settings.input_count; i++) streams += !strcmp(settings.inputs[i], "-");
    if (streams > 1)
        error_set(&error, ERROR_USER, "- is named twice, and standard input can be read once.");
    else if (!settings.input_count)
        error_set(&error, ERROR_USER, "prepare takes text files, or - for standard input.");
    else if (!settings.out || !*settings.out)
        error_set(&error, ERROR_USER, "prepare needs --out DIR.");
    else if (settings.tokenizer && (values[VOCAB] || values[TYPE]))
        error_set(&error, ERROR_USER, "--tokenizer comes with its vocabulary and type: leave --vocab and --type out.");
    else
        data_prepare(&settings, &result, &error);
    if (error.kind != ERROR_NONE) return command_fail(&error);
    warn_of_loss(&settings, &result);
    if (!line.json)
        print_report(&settings, &result);
    else if (!command_print_json(report(&settings, &result), &error))
        return command_fail(&error);
    return 0;
}
