// The command line: settings (--section.key=value) are taken out first, then glibc argp parses what is left.
#include "train/command.h"

#include <argp.h>
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "core/json_text.h"
#include "core/threads.h"
#include "train/words.h"

enum { COMMON_CONFIG = 0x100, COMMON_JSON, COMMON_PRINT_CONFIG, OWN_OPTION = 0x200, MAX_OPTIONS = 40 };

static const CommandOption common[] = {
    {"config", 'c', "FILE", "read settings from an INI file (may be given again)"},
    {"json", 0, NULL, "print one JSON document on standard output, nothing else"},
    {"print-config", 0, NULL, "show every setting with its value, origin and meaning, then stop"},
    {"help", '?', NULL, "show this help"},
    {"usage", 0, NULL, "show a short form of it"},
    {NULL, 0, NULL, NULL},
};

typedef struct Parsing {
    const Command *command;
    const CommandOption *options;
    const char **values;
    CommandLine *line;
} Parsing;

_Noreturn static void mistake(const Command *command, const char *message, int code) {
    fprintf(stderr, "rope %s: %s\n", command->name, message);
    exit(code);
}

static const CommandOption *find_long(const CommandOption *options, const char *name, size_t length) {
    for (; options->name; options++)
        if (strlen(options->name) == length && !memcmp(options->name, name, length)) return options;
    return NULL;
}

// Names the nearest option, when there is one.
_Noreturn static void unknown_option(const Parsing *parsing, const char *typed, size_t length) {
    char word[64], names[1024] = "", nearest[64], message[256];
    snprintf(word, sizeof word, "%.*s", (int)length, typed);
    const CommandOption *lists[] = {parsing->options, common};
    for (size_t l = 0; l < 2; l++)
        for (const CommandOption *option = lists[l]; option->name; option++) {
            size_t used = strlen(names);
            snprintf(names + used, sizeof names - used, "%s%s", used ? "," : "", option->name);
        }
    if (words_nearest(word, names, nearest, sizeof nearest))
        snprintf(message, sizeof message, "There is no option --%s; did you mean --%s?", word, nearest);
    else
        snprintf(message, sizeof message, "There is no option --%s; rope %s --help lists them.", word,
                 parsing->command->name);
    mistake(parsing->command, message, 2);
}

// True if the option at argv[i] takes the next argument as its value.
static bool takes_next(const Parsing *parsing, const char *argument) {
    const CommandOption *lists[] = {parsing->options, common};
    if (argument[1] == '-') {
        size_t length = strcspn(argument + 2, "=");
        for (size_t l = 0; l < 2; l++) {
            const CommandOption *option = find_long(lists[l], argument + 2, length);
            if (option) return option->argument && !argument[2 + length];
        }
        unknown_option(parsing, argument + 2, length);
    }
    for (size_t l = 0; l < 2 && argument[1]; l++)
        for (const CommandOption *option = lists[l]; option->name; option++)
            if (option->letter == argument[1]) return option->argument && !argument[2];
    return false;
}

// Is it --section.key...? A dot before any '=' is in no option's name.
static bool is_setting(const char *argument) {
    return !strncmp(argument, "--", 2) && argument[2 + strcspn(argument + 2, ".=")] == '.';
}

// Moves settings from argv to `settings`; returns the argc that is left. Unknown long options end the program here.
static int split(const Parsing *parsing, int argc, char **argv, const char **settings, size_t *count) {
    int kept = 1;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--")) {
            while (i < argc) argv[kept++] = argv[i++];
            break;
        }
        if (is_setting(argv[i])) {
            settings[(*count)++] = argv[i] + 2;
            continue;
        }
        bool next = argv[i][0] == '-' && takes_next(parsing, argv[i]);
        argv[kept++] = argv[i];
        if (next && i + 1 < argc) argv[kept++] = argv[++i];
    }
    argv[kept] = NULL;
    return kept;
}

static void give(Parsing *parsing, size_t option, const char *argument) {
    CommandLine *line = parsing->line;
    parsing->values[option] = argument ? argument : "";
    if (line->given_count == sizeof line->given / sizeof line->given[0])
        mistake(parsing->command, "There are too many options.", 2);
    line->given[line->given_count].name = parsing->options[option].name;
    line->given[line->given_count++].value = parsing->values[option];
}

size_t command_repeated(const CommandLine *line, const char *name, const char **out) {
    size_t count = 0;
    for (size_t i = 0; i < line->given_count; i++)
        if (!strcmp(line->given[i].name, name)) out[count++] = line->given[i].value;
    return count;
}

const char *command_value(const CommandLine *line, const char *value, const char *setting, const char *preset,
                          char text[CONFIG_TEXT]) {
    if (value) return value;
    if (config_origin(&line->config, setting) != ORIGIN_COMMAND_LINE) return preset;
    config_value(&line->config, config_key(setting), text);
    return text;
}

static error_t take_option(int key, char *argument, struct argp_state *state) {
    Parsing *parsing = state->input;
    CommandLine *line = parsing->line;
    if (key == 'c' || key == COMMON_CONFIG) {
        Error error = {0};
        if (!config_read(&line->config, argument, &error)) exit(command_fail(&error));
    } else if (key == COMMON_JSON) {
        line->json = true;
    } else if (key == COMMON_PRINT_CONFIG) {
        line->print_config = true;
    } else if (key >= OWN_OPTION && key < OWN_OPTION + MAX_OPTIONS) {
        give(parsing, (size_t)(key - OWN_OPTION), argument);
    } else if (key == ARGP_KEY_ARG) {
        line->positional[line->positional_count++] = argument;
    } else if (key > 0 && key < 256) { // a letter of an own option
        for (size_t i = 0; parsing->options[i].name; i++)
            if (parsing->options[i].letter == key) {
                give(parsing, i, argument);
                return 0;
            }
        return ARGP_ERR_UNKNOWN;
    } else {
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

// The settings, for --help: one line for each section.
static char *settings_help(const Command *command) {
    char *text = NULL, section[64] = "";
    size_t size;
    FILE *out = open_memstream(&text, &size);
    if (!out) return NULL;
    fprintf(out, "%s\vSettings, in a file or as --section.key=value (--print-config explains them):\n",
            command->summary);
    for (size_t i = 0; i < config_key_count(); i++) {
        char name[64];
        config_key_name(i, name);
        size_t dot = strcspn(name, ".");
        name[dot] = 0;
        if (strcmp(section, name)) fprintf(out, "\n[%s]", name);
        memcpy(section, name, dot + 1);
        fprintf(out, " %s", name + dot + 1);
    }
    if (fclose(out) == 0) return text;
    free(text);
    return NULL;
}

static void fill_options(const CommandOption *options, struct argp_option rows[MAX_OPTIONS + 8]) {
    size_t count = 0;
    for (size_t i = 0; options[i].name; i++) {
        REQUIRE(i < MAX_OPTIONS);
        int key = options[i].letter ? options[i].letter : OWN_OPTION + (int)i;
        rows[count++] = (struct argp_option){options[i].name, key, options[i].argument, 0, options[i].help, 0};
    }
    for (size_t i = 0; i < 3; i++)
        rows[count++] =
            (struct argp_option){common[i].name,     common[i].letter ? common[i].letter : COMMON_CONFIG + (int)i,
                                 common[i].argument, 0,
                                 common[i].help,     1};
}

static const char output_failed[] = "Writing to standard output failed.";

// JSON is UTF-8, and reports name what they are about.
static void check_names(const Command *command, const CommandLine *line) {
    bool valid = true;
    for (size_t i = 0; i < line->positional_count; i++)
        valid &= text_valid(line->positional[i], strlen(line->positional[i]));
    for (size_t i = 0; i < line->given_count; i++)
        valid &= strcmp(line->given[i].name, "out") || text_valid(line->given[i].value, strlen(line->given[i].value));
    if (!valid) mistake(command, "With --json names must be UTF-8.", 2);
}

void command_parse(const Command *command, const CommandOption *options, const char **values, int argc, char **argv,
                   CommandLine *line) {
    Parsing parsing = {command, options, values, line};
    for (size_t i = 0; options[i].name; i++) values[i] = NULL;
    *line = (CommandLine){0};
    config_defaults(&line->config);

    const char **settings = calloc((size_t)argc + 1, sizeof *settings);
    line->positional = calloc((size_t)argc + 1, sizeof *line->positional);
    if (!settings || !line->positional) mistake(command, "Out of memory.", 1);
    size_t setting_count = 0;
    argc = split(&parsing, argc, argv, settings, &setting_count);

    struct argp_option rows[MAX_OPTIONS + 8] = {{0}};
    fill_options(options, rows);
    char name[64];
    snprintf(name, sizeof name, "rope %s", command->name);
    argv[0] = name;
    char *help = settings_help(command);
    struct argp argp = {.options = rows, .parser = take_option, .args_doc = command->arguments, .doc = help};
    argp_err_exit_status = 2;
    // It leaves by itself at a mistake; without memory it returns, and has looked at no option.
    if (argp_parse(&argp, argc, argv, 0, NULL, &parsing) != 0) mistake(command, "Out of memory.", 1);
    free(help);
    // In the place of the arguments, which nobody reads any more: nothing is left to be freed.
    memcpy(argv + 1, line->positional, line->positional_count * sizeof *argv);
    free(line->positional);
    line->positional = (const char **)(argv + 1);

    Error error = {0};
    for (size_t i = 0; i < setting_count; i++)
        if (!config_set(&line->config, settings[i], ORIGIN_COMMAND_LINE, &error)) exit(command_fail(&error));
    free(settings);
    json_watch();
    threads_set(line->config.threads);
    if (line->json) check_names(command, line);
    if (line->json && line->print_config) mistake(command, "--print-config prints a file of settings, not JSON.", 2);
    const bool of_run = !strcmp(command->arguments, "[RUN]") || !strncmp(command->arguments, "CHECKPOINT", 10);
    if (line->print_config && line->positional_count && of_run) {
        error_set(&error, ERROR_USER,
                  "--print-config shows what files and the command line set, not the settings of %s: name its config.ini "
                  "with --config.",
                  line->positional[0]);
        exit(command_fail(&error));
    }
    if (line->print_config) {
        Config resolved = line->config;
        bool fine = config_resolve(&resolved, &error);
        config_print(fine ? &resolved : &line->config, stdout, true);
        if (fflush(stdout) != 0 || ferror(stdout)) fine = error_set(&error, ERROR_SYSTEM, output_failed);
        exit(fine ? 0 : command_fail(&error));
    }
}

double command_number(const char *option, const char *value, double preset, double low, double high) {
    if (!value) return preset;
    char *end;
    double number = strtod(value, &end);
    if (end != value && !*end && number >= low && number <= high) return number;
    fprintf(stderr, "rope: --%s: '%s' is not a number from %g to %g.\n", option, value, low, high);
    exit(2);
}

uint64_t command_integer(const char *option, const char *value, uint64_t preset, uint64_t low, uint64_t high) {
    if (!value) return preset;
    size_t digits = strspn(value, "0123456789"); // strtoull takes blanks and signs
    errno = 0;
    unsigned long long number = strtoull(value, NULL, 10);
    if (digits && !value[digits] && errno == 0 && number >= low && number <= high) return number;
    fprintf(stderr, "rope: --%s: '%s' is not a whole number from %llu to %llu.\n", option, value,
            (unsigned long long)low, (unsigned long long)high);
    exit(2);
}

int command_fail(const Error *error) {
    fprintf(stderr, "rope: %s\n", error->message);
    return error_exit_code(error);
}

bool command_print_json(json_t *document, Error *error) {
    char *text = json_print(document, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
    REQUIRE(text || !json_whole()); // every other figure can be printed
    json_decref(document);
    bool fine = text ? puts(text) != EOF && fflush(stdout) == 0
                     : error_set(error, ERROR_MEMORY, "Out of memory for the figures of --json.");
    free(text);
    return fine || error_set(error, ERROR_SYSTEM, output_failed);
}

bool command_give_json(json_t *document, bool wanted, Error *error) {
    if (wanted) return command_print_json(document, error);
    json_decref(document);
    return true;
}
