// rope bench attention|gemm|step: options and dispatch (bench.h).
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "train/bench.h"
#include "train/command.h"
#include "train/lists.h"

// What is measured is chosen otherwise elsewhere: a figure of something else than was asked for is worse than none.
static bool check_options(const char *what, const char *const *values, const CommandOption *table, Error *error) {
    for (size_t i = 0; table[i].name; i++) {
        if (!values[i] || strncmp(table[i].help, "attention:", 10)) continue;
        if (!strcmp(what, "gemm"))
            return error_set(error, ERROR_USER, "--%s is of bench attention; bench gemm has sizes of its own.",
                             table[i].name);
        if (!strcmp(what, "step"))
            return error_set(error, ERROR_USER,
                             "--%s is of bench attention; bench step measures what the settings say: --model.tokens, "
                             "--train.batch, --attention.method.",
                             table[i].name);
    }
    return true;
}

int command_bench(int argc, char **argv) {
    enum { TOKENS, METHOD, BATCH, ROUNDS, LIMIT, OPTIONS };
    static const CommandOption table[] = {
        {"tokens", 't', "LIST", "attention: context lengths, ascending (--model.tokens, else 1K,4K,16K,64K)"},
        {"method", 'm', "LIST",
         "attention: methods to compare, the first is the yardstick (--attention.method, else exact,lowrank)"},
        {"batch", 'b', "N", "attention: batch rows (--train.batch, else 1)"},
        {"rounds", 'r', "N", "medians over N interleaved rounds (5)"},
        {"limit", 'l', "SECONDS", "attention: leave out what would take longer forward and backward (20)"},
        {NULL, 0, NULL, NULL},
    };
    const char *values[OPTIONS];
    char method_text[CONFIG_TEXT], length_text[CONFIG_TEXT], batch_text[CONFIG_TEXT];
    static CommandLine line;
    static BenchOptions options;
    Error error = {0};
    command_parse(command_find("bench"), table, values, argc, argv, &line);
    const char *lengths = command_value(&line, values[TOKENS], "model.tokens", "1K,4K,16K,64K", length_text);
    const char *batch = command_value(&line, values[BATCH], "train.batch", NULL, batch_text);
    char *methods = strdup(command_value(&line, values[METHOD], "attention.method", "exact,lowrank", method_text));
    if (!methods) {
        error_set(&error, ERROR_MEMORY, "Out of memory for the list of methods.");
        return command_fail(&error);
    }
    options.length_count = list_lengths(lengths, options.lengths, BENCH_MAX_LENGTHS);
    options.method_count = list_words(methods, options.methods, BENCH_MAX_METHODS);
    options.batch = (size_t)command_integer("batch", batch, 1, 1, 1 << 20);
    options.rounds = (size_t)command_integer("rounds", values[ROUNDS], 5, 1, BENCH_MAX_ROUNDS);
    options.limit = command_number("limit", values[LIMIT], 20, 1e-3, 1e6);
    const char *what = line.positional_count == 1 ? line.positional[0] : "";
    json_t *document = NULL;
    if (!check_options(what, values, table, &error))
        document = NULL;
    else if (!options.method_count)
        error_set(&error, ERROR_USER, "--method: at most %d methods.", BENCH_MAX_METHODS);
    else if (!options.length_count)
        error_set(&error, ERROR_USER, "--tokens: '%s' is not a list of ascending lengths such as 512,1K,4K.", lengths);
    else if (strcmp(what, "attention") == 0)
        document = bench_attention(&line.config, &options, &error);
    else if (strcmp(what, "gemm") == 0)
        document = bench_gemm(&options, &error);
    else if (strcmp(what, "step") == 0)
        document = bench_step(&line.config, &options, &error);
    else
        error_set(&error, ERROR_USER, "Say what to measure: rope bench attention, rope bench gemm or rope bench step.");
    free(methods);
    if (!document) return command_fail(&error);
    if (!command_give_json(document, line.json, &error)) return command_fail(&error);
    return 0;
}
