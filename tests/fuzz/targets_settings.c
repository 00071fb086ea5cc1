// Configuration files, command lines, tables of attention.kernel.
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include "attention/table.h"
#include "tests/fuzz/inputs.h"
#include "train/command.h"
#include "train/lists.h"

enum { MOST_ARGUMENTS = 32 };

// ---- files ----------------------------------------------------------------------------------------------------------

static bool run_settings(const uint8_t *data, size_t size) {
    static Config config, again;
    Error error = {0};
    config_defaults(&config);
    bool good = config_read(&config, file_of(data, size), &error);
    require_reason(good, &error);
    if (!good) return false;
    char *text = config_text(&config);
    REQUIRE(text);
    config_defaults(&again);
    if (!config_read(&again, file_of(text, strlen(text)), &error)) {
        fprintf(stderr, "%s\n%s\n", error.message, text);
        REQUIRE(!"what was printed is read back");
    }
    free(text);
    for (size_t i = 0; i < config_key_count(); i++) {
        char before[CONFIG_TEXT], after[CONFIG_TEXT];
        config_value(&config, i, before);
        config_value(&again, i, after);
        REQUIRE(strcmp(before, after) == 0);
    }
    if (config.data_dir[0] || strchr(config.kernel, '/')) return true; // resolving reads files that the input names
    require_reason(config_resolve(&config, &error), &error);
    return true;
}

static void seeds_settings(void) {
    seed_text(
        "; comment\n[model]\nlayers = 2\nwidth = 64 ; more\nheads = 4\n[attention]\nmethod = exact,lowrank\n"
        "logit_scale = 1/sqrt(d)\nbound = ball\nlogit_bound = 4\nfar_size=8\ndegree : 4\n[optim]\nbetas = 0.9,0.95\n"
        "[train]\ntokens = 1000000\nseed = 9000000000000000\n");
    static Config config;
    config_defaults(&config);
    char *text = config_text(&config);
    REQUIRE(text);
    seed_text(text);
    free(text);
    seed_text("[data]\ntask = induction\nfiller = distinct\n[attention]\nlogit_scale = 1/d\n[train]\nrecompute = on\n"
              "tokens = 1000000\n[model]\nwidth = 65536\n");
}

const FuzzTarget fuzz_settings = {"settings", run_settings, seeds_settings};

// ---- command lines --------------------------------------------------------------------------------------------------

// The leak sanitizer, where there is one (gcc and clang both link these with -fsanitize=address).
__attribute__((weak)) void __lsan_disable(void);
__attribute__((weak)) void __lsan_enable(void);
static void leaks_ignore(void) {
    if (__lsan_disable) __lsan_disable();
}
static void leaks_report(void) {
    if (__lsan_enable) __lsan_enable();
}

// command_parse ends the program on mistakes and after --help. libc runs the handlers of atexit then: ours jumps back.
static jmp_buf after_exit;
static bool parsing;
static void jump_back(void) {
    if (parsing) longjmp(after_exit, 1);
}

static bool run_command_line(const uint8_t *data, size_t size) {
    static const CommandOption options[] = {{"resume", 'r', NULL, "a flag"},
                                            {"out", 'o', "DIR", "a value"},
                                            {"vocab", 0, "N", "a number"},
                                            {"a", 0, "KEY=VALUE", "again"},
                                            {NULL, 0, NULL, NULL}};
    static char text[4096];
    static CommandLine line;
    char *arguments[MOST_ARGUMENTS + 1] = {"train"};
    const char *values[5], *repeats[COMMAND_REPEATS];
    int count = 1;
    size = size < sizeof text - 1 ? size : sizeof text - 1;
    memcpy(text, data, size);
    text[size] = 0;
    for (char *word = text; count < MOST_ARGUMENTS && word < text + size; word += strlen(word) + 1) {
        word[strcspn(word, "\n")] = 0;
        if (!strncmp(word, "--config", 8) || !strncmp(word, "-c", 2)) continue; // files are run_settings' part
        arguments[count++] = word;
    }
    size_t lengths[8];
    for (int i = 1; i < count; i++) {
        const size_t listed = list_lengths(arguments[i], lengths, 8);
        for (size_t k = 0; k < listed; k++) REQUIRE(lengths[k] > (k ? lengths[k - 1] : 0));
    }
    static volatile bool taken;
    taken = false;
    quiet_begin();
    REQUIRE(atexit(jump_back) == 0);
    parsing = true;
    leaks_ignore(); // what the parser holds when it calls exit() is the program's to the end; here the jump drops it
    if (!setjmp(after_exit)) {
        command_parse(command_find("train"), options, values, count, arguments, &line);
        REQUIRE(line.positional_count < (size_t)count && command_repeated(&line, "a", repeats) <= COMMAND_REPEATS);
        taken = true;
        exit(0); // the handler must not stay
    }
    parsing = false;
    leaks_report();
    quiet_end();
    return taken;
}

static void seeds_command_line(void) {
    seed_text("--model.layers=3\n--resume\n-o\ndir\nfile\n--json\n--a\nx.y=1\n--a=z.w=2\n--\n--not-an-option");
    seed_text("--vocab=12\n-rodir\n--out\n--optim.betas=0.9,0.99\n1K,4K,16k");
    static const char *const ending[] = {"--help", "--print-config\n--attention.bound=clip\n--train.out=", "--usage",
                                         "--resum", "--model.layer=3"}; // what is shown, and mistakes
    for (size_t i = 0; i < sizeof ending / sizeof *ending; i++) seed_refused(ending[i], strlen(ending[i]));
}

const FuzzTarget fuzz_command_line = {"command_line", run_command_line, seeds_command_line};

// ---- tables ---------------------------------------------------------------------------------------------------------

static bool run_table(const uint8_t *data, size_t size) {
    bool taken = false;
    for (int causal = 0; causal < 2; causal++) {
        Error error = {0};
        PositionTable table;
        bool good = table_read(&table, file_of(data, size), 4, 3, causal, &error);
        require_reason(good, &error);
        if (good) REQUIRE(table.entries > 0 && table.lags >= 3);
        table_free(&table);
        taken = taken || good;
    }
    return taken;
}

static void seeds_table(void) {
    seed_text(
        "rope-table 1\nsize 4\nlags -2 2\nsupport 0:0 1:1\nsupport 2:3\nbias\ndata\n-2 0.5 1 -1 0\n-1 .25 1 -1 -3\n"
        "0 1 1e-3 0 0 # middle\n\n1 0 0 0 1000\n2 1 -1 0 0x1p-3\nend\n");
    seed_text("rope-table 1\r\nsize 4\r\nsupport 3:0\r\nlags 0 2\r\ndata\r\n0 1\r\n1 1\r\n2 1\r\nend");
}

const FuzzTarget fuzz_table = {"table", run_table, seeds_table};
