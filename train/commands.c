// The commands, one row each: rope --help, the dispatch in main.c and each command's own --help read this table.
#include <stdio.h>
#include <string.h>

#include "train/command.h"
#include "train/words.h"

static const Command commands[] = {
    {"prepare", "TEXT... --out DIR", "text to tokenizer and token shards", command_prepare},
    {"train", "[RUN]", "train a model; --resume goes on with a run", command_train},
    {"eval", "CHECKPOINT", "held-out loss, perplexity, bits per byte, loss by position", command_eval},
    {"sample", "CHECKPOINT", "write text with a model", command_sample},
    {"export", "CHECKPOINT --format F --out PATH", "a model in another program's format: gguf, llama2.c, bf16",
     command_export},
    {"ab", "", "train two settings side by side: speed, learning, fidelity", command_ab},
    {"profile", "", "what a training step costs, by phase and context length", command_profile},
    {"bench", "attention|gemm|step", "kernels against this machine's matrix products", command_bench},
    {"verify", "", "the papers' problems, ARAttC and ARAttLGC, exact and fast", command_verify},
    {"doctor", "", "this machine: what would slow training down", command_doctor},
};
enum { COMMANDS = sizeof commands / sizeof commands[0] };

const Command *command_find(const char *name) {
    for (size_t i = 0; i < COMMANDS; i++)
        if (!strcmp(name, commands[i].name)) return &commands[i];
    return NULL;
}

void command_usage(FILE *out) {
    fprintf(out, "Usage: rope COMMAND [OPTION...]\n\n");
    for (size_t i = 0; i < COMMANDS; i++) fprintf(out, "  %-9s %s\n", commands[i].name, commands[i].summary);
    fprintf(out, "\nrope COMMAND --help lists a command's options. Settings come from --config=FILE, then from\n"
                 "--section.key=value; --print-config shows each with its value, origin and meaning.\n");
}

int command_unknown(const char *name) {
    char names[256] = "", nearest[64];
    for (size_t i = 0; i < COMMANDS; i++) words_append(names, sizeof names, commands[i].name);
    if (words_nearest(name, names, nearest, sizeof nearest))
        fprintf(stderr, "rope: There is no command %s; did you mean %s?\n", name, nearest);
    else
        fprintf(stderr, "rope: There is no command %s; rope --help lists them.\n", name);
    return 2;
}
