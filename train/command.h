// One file per command, one row per command in commands.c.
#ifndef ROPE_TRAIN_COMMAND_H
#define ROPE_TRAIN_COMMAND_H

#include <stdio.h>

#include "train/config.h"

typedef struct Command {
    const char *name;
    const char *arguments;             // "CHECKPOINT [--data DIR]"
    const char *summary;               // one line
    int (*run)(int argc, char **argv); // argv[0] is the command's name; returns the exit code
} Command;

int command_prepare(int argc, char **argv);
int command_train(int argc, char **argv);
int command_eval(int argc, char **argv);
int command_sample(int argc, char **argv);
int command_export(int argc, char **argv);
int command_bench(int argc, char **argv);
int command_ab(int argc, char **argv);
int command_profile(int argc, char **argv);
int command_verify(int argc, char **argv);
int command_doctor(int argc, char **argv);

// An option of one command, besides --config, --section.key=value, --json, --print-config and --help, which all have.
typedef struct CommandOption {
    const char *name;     // long name without dashes
    char letter;          // or 0
    const char *argument; // NULL: a flag
    const char *help;
} CommandOption;

typedef struct CommandLine {
    Config config;     // defaults, then --config files, then overrides in order; not yet resolved
    bool json;         // --json
    bool print_config; // --print-config: config_print and exit 0
    const char **positional; // (positional_count), in argv
    size_t positional_count;
    struct {
        const char *name, *value;
    } given[64]; // the command's own options in order, for those that may be given again
    size_t given_count;
} CommandLine;

// The value of an option as a number within [low, high]; NULL gives `preset`. On a mistake prints it and exits 2.
double command_number(const char *option, const char *value, double preset, double low, double high);
uint64_t command_integer(const char *option, const char *value, uint64_t preset, uint64_t low, uint64_t high);

// Parses argv by glibc argp. `options` ends with a NULL name; values[i] receives the last value of options[i] ("" for a
// flag that is present), NULL if absent. On --help prints and exits 0; on a mistake prints the error with the nearest
// option or key and exits 2.
void command_parse(const Command *command, const CommandOption *options, const char **values, int argc, char **argv,
                   CommandLine *line);
// Every value that the own option `name` was given, in order: out (COMMAND_REPEATS at most) =. Returns their number.
enum { COMMAND_REPEATS = 64 };
size_t command_repeated(const CommandLine *line, const char *name, const char **out);
// The value of an own option; where it is absent, of the setting that means the same, if that was given on the command
// line (text holds it then); else `preset`.
const char *command_value(const CommandLine *line, const char *value, const char *setting, const char *preset,
                          char text[CONFIG_TEXT]);
const Command *command_find(const char *name); // NULL if there is none
void command_usage(FILE *out);                 // all commands, one line each
int command_unknown(const char *name);         // says so, with the nearest command; returns 2

// Prints "rope: message" to standard error and returns the exit code.
int command_fail(const Error *error);
// Prints a JSON document, and nothing else, to standard output. Steals the reference. ERROR_MEMORY also if memory ran out
// for a part of it (since json_watch, which command_parse calls); ERROR_SYSTEM where it cannot be written.
struct json_t;
bool command_print_json(struct json_t *document, Error *error);
// The same if `wanted`; else only the reference is taken.
bool command_give_json(struct json_t *document, bool wanted, Error *error);

#endif
