// rope sample: text from a checkpoint, written as it is drawn.
#include <stdlib.h>
#include <string.h>

#include "data/utf8.h"
#include "train/command.h"
#include "train/figures.h"
#include "train/loaded.h"
#include "train/sampler.h"
#include "train/signals.h"

#include <jansson.h>

static void write_to_output(void *context, const char *text, size_t size) {
    (void)context;
    fwrite(text, 1, size, stdout);
    fflush(stdout);
}

// JSON strings are UTF-8: a byte that is no part of a character becomes U+FFFD.
static void write_to_stream(void *context, const char *text, size_t size) {
    for (size_t i = 0, length; i < size; i += length) {
        length = utf8_length(text + i, size - i);
        if (length)
            fwrite(text + i, 1, length, context);
        else
            fputs("\xef\xbf\xbd", context);
        length += !length;
    }
}

static bool asked_to_stop(void) { return signals_stop != 0; }

static bool write_json(const Loaded *loaded, const Tokenizer *tokenizer, Writing *writing, Error *error) {
    char *text = NULL, *prompt = NULL;
    size_t size, prompt_size;
    FILE *prompt_out = open_memstream(&prompt, &prompt_size), *out = open_memstream(&text, &size);
    bool fine = prompt_out && out;
    if (!fine) error_set(error, ERROR_MEMORY, "Out of memory for the text.");
    writing->write = write_to_stream;
    writing->context = out;
    fine = fine && write_text(loaded->model, tokenizer, writing, error);
    if (fine) write_to_stream(prompt_out, writing->prompt, writing->prompt_size);
    bool whole = !prompt_out || fclose(prompt_out) == 0;
    whole = (!out || fclose(out) == 0) && whole;
    if (!whole || !prompt || !text) // glibc's fclose is content with a text for which there is no memory
        fine = error_set(error, ERROR_MEMORY, "Out of memory for the text.");
    if (fine)
        fine = command_print_json(json_pack("{s:s, s:s, s:s%, s:I, s:I, s:o}", "checkpoint", loaded->path, "prompt",
                                            prompt, "text", text, size, "prompt_tokens",
                                            (json_int_t)writing->prompt_tokens, "tokens", (json_int_t)writing->drawn,
                                            "tokens_per_s", figure_json(writing->per_second)),
                                  error);
    free(prompt);
    free(text);
    return fine;
}

static bool run(Loaded *loaded, const CommandLine *line, Writing *writing, Error *error) {
    if (!loaded_open(loaded, line->positional[0], &line->config, 1, error)) return false;
    Tokenizer *tokenizer = loaded_tokenizer(loaded, error);
    if (!tokenizer) return false;
    signals_catch("Stopping after this token", "Stopped at once; the text is not whole");
    writing->from_bos = !loaded->own;
    bool fine;
    if (!write_check(loaded->model, tokenizer, error)) {
        fine = false; // before the prompt is shown
    } else if (line->json) {
        fine = write_json(loaded, tokenizer, writing, error);
    } else {
        writing->write = write_to_output;
        write_to_output(NULL, writing->prompt, writing->prompt_size);
        fine = write_text(loaded->model, tokenizer, writing, error);
        putchar('\n');
        if (fine && (fflush(stdout) != 0 || ferror(stdout)))
            fine = error_set(error, ERROR_SYSTEM, "Writing to standard output failed.");
    }
    tokenizer_free(tokenizer);
    return fine;
}

int command_sample(int argc, char **argv) {
    enum { PROMPT, TOKENS, TEMPERATURE, TOP_K, TOP_P, MIN_P, SEED, OPTIONS };
    static const CommandOption options[] = {
        {"prompt", 'p', "S", "text to go on from"},
        {"tokens", 'n', "N", "tokens to write (default 200)"},
        {"temperature", 't', "X", "0: always the likeliest token (default 0.8)"},
        {"top-k", 'k', "N", "draw from the N likeliest tokens; 0: all (default 50)"},
        {"top-p", 0, "X", "draw from the likeliest tokens that share X of the probability (default 1)"},
        {"min-p", 0, "X", "draw from tokens at least X times as likely as the likeliest (default 0)"},
        {"seed", 's', "N", "same seed, same text (default 1)"},
        {NULL, 0, NULL, NULL},
    };
    const char *values[OPTIONS];
    static CommandLine line;
    static Loaded loaded;
    Error error = {0};
    command_parse(command_find("sample"), options, values, argc, argv, &line);
    if (line.positional_count != 1) {
        error_set(&error, ERROR_USER, "sample takes one checkpoint or run directory.");
        return command_fail(&error);
    }
    SamplerSettings sampling = {
        .temperature = command_number("temperature", values[TEMPERATURE], 0.8, 0, 1e3),
        .top_k = (size_t)command_integer("top-k", values[TOP_K], 50, 0, 1u << 31),
        .top_p = command_number("top-p", values[TOP_P], 1, 1e-9, 1),
        .min_p = command_number("min-p", values[MIN_P], 0, 0, 1),
        .seed = command_integer("seed", values[SEED], 1, 0, UINT64_MAX),
    };
    const char *prompt = values[PROMPT] ? values[PROMPT] : "";
    Writing writing = {.sampling = &sampling,
                       .prompt = prompt,
                       .prompt_size = strlen(prompt),
                       .stop = asked_to_stop,
                       .tokens = (size_t)command_integer("tokens", values[TOKENS], 200, 0, (uint64_t)1 << 40)};
    bool fine = run(&loaded, &line, &writing, &error);
    loaded_close(&loaded);
    return fine ? 0 : command_fail(&error);
}
