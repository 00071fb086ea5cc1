// Sizes that make no sense, at every door through which a person gives one: settings (each alone, and all pairs of them
// at their largest) and options of the commands. A value is refused by name, or it is taken as it is and read back; what
// a run with it would need is refused as too much before it is allocated. What files say of sizes: test_safetensors.c,
// test_checkpoint.c, test_data.c, test_shards.c, test_prepare_refused.c; the floors below: test_model.c,
// test_attention_parts.c, test_core.c.
#include "tests/support/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/cpu.h"
#include "train/command.h"
#include "train/config_table.h"
#include "train/estimate.h"

static const char *const hostile[] = {"0",
                                      "-1",
                                      "2147483648",                               // 2^31
                                      "4294967296",                               // 2^32
                                      "4294967297",                               // 2^32 + 1: 1, if cut to 32 bits
                                      "9223372036854775808",                      // 2^63
                                      "18446744073709551615",                     // 2^64 - 1: -1, as it were
                                      "18446744073709551616",                     // 2^64
                                      "18446744073709551617",                     // 2^64 + 1: 1, if it wraps
                                      "340282366920938463463374607431768211457"}; // 2^128 + 1
enum { HOSTILE = sizeof hostile / sizeof *hostile, MEBIBYTE = 1 << 20 };

static bool is_size(const ConfigKey *key) { return key->type == KEY_SIZE || key->type == KEY_INTEGER; }

// A toy run; costs are given, so that `auto` measures nothing.
static Config toy(const char *method) {
    static const char *const common[] = {"model.layers=2",  "model.width=16",         "model.heads=2",
                                         "model.tokens=16", "model.vocabulary=64",    "data.task=copy",
                                         "train.batch=2",   "attention.cost_exact=1", "attention.cost_lowrank=1"};
    Config config;
    char assignment[64];
    config_defaults(&config);
    for (size_t i = 0; i < sizeof common / sizeof *common; i++)
        assert_true(config_set(&config, common[i], ORIGIN_COMMAND_LINE, NULL));
    snprintf(assignment, sizeof assignment, "attention.method=%s", method);
    assert_true(config_set(&config, assignment, ORIGIN_COMMAND_LINE, NULL));
    return config;
}

static bool set(Config *config, size_t key, const char *value, Error *error) {
    char name[64], assignment[128];
    config_key_name(key, name);
    snprintf(assignment, sizeof assignment, "%s=%s", name, value);
    return config_set(config, assignment, ORIGIN_COMMAND_LINE, error);
}

// Whether a run with these settings would begin, judged as `rope train` does. Taking memory to find out is a failure.
static bool would_begin(Config *config, const char *what) {
    Estimate estimate;
    Error error = {0};
    const size_t before = peak_bytes();
    const bool fine = config_resolve(config, &error) && estimate_memory(config, &estimate, &error) &&
                      estimate_fits(config, &estimate, &error);
    if (!fine && error.kind != ERROR_USER) fail_msg("%s: refused as no mistake of the user: %s", what, error.message);
    if (peak_bytes() - before > 256 * MEBIBYTE)
        fail_msg("%s: %zu MiB were taken to find out", what, (peak_bytes() - before) / MEBIBYTE);
    return fine;
}

static void test_settings(void **state) {
    (void)state;
    size_t refused = 0, kept = 0, too_much = 0;
    for (size_t key = 0; key < config_keys_count; key++) {
        if (!is_size(&config_keys[key])) continue;
        for (size_t v = 0; v < HOSTILE; v++) {
            Config config = toy("exact");
            char name[64], before[CONFIG_TEXT], after[CONFIG_TEXT];
            Error error = {0};
            config_key_name(key, name);
            config_value(&config, key, before);
            const bool accepted = set(&config, key, hostile[v], &error);
            config_value(&config, key, after);
            if (strcmp(after, accepted ? hostile[v] : before)) fail_msg("%s=%s became %s", name, hostile[v], after);
            if (!accepted) {
                if (error.kind != ERROR_USER || !strstr(error.message, name)) fail_msg("%s", error.message);
                refused++;
                continue;
            }
            const double value = strtod(hostile[v], NULL);
            if (value < config_keys[key].low || value > config_keys[key].high)
                fail_msg("%s=%s is outside of its range", name, hostile[v]);
            if (would_begin(&config, name))
                kept++;
            else
                too_much++;
        }
    }
    check_count("sizes in settings refused by name", refused);
    check_count("sizes in settings taken as they are", kept);
    check_count("sizes in settings that a run has no room for", too_much);
}

// Sizes of arrays: the shape of the model and of attention, and how much of it at once.
static bool is_dimension(const ConfigKey *key) {
    return is_size(key) && (!strcmp(key->section, "model") || !strcmp(key->section, "attention") ||
                            !strcmp(key->key, "batch") || !strcmp(key->key, "accumulate"));
}

// Sets it to its largest value, or to 2^16, where products of two wrap 32 bits, and notes that in `what`.
static void set_large(Config *config, size_t key, bool largest, char what[192]) {
    char value[64], name[64];
    const double high = config_keys[key].high;
    snprintf(value, sizeof value, "%.0f", largest || high < 65536 ? high : 65536);
    config_key_name(key, name);
    assert_true(set(config, key, value, NULL));
    snprintf(what + strlen(what), 192 - strlen(what), "%s=%s ", name, value);
}

// All pairs of large dimensions. auto and toeplitz only with many tokens: their tables for wide heads are large, take
// their time, and would fit.
static void test_products(void **state) {
    (void)state;
    static const char *const methods[] = {"exact", "lowrank", "auto", "toeplitz"};
    const size_t tokens = config_key("model.tokens");
    size_t begun = 0, refused = 0, total, available;
    cpu_memory(&total, &available);
    if (available >> 30 > 128) skip(); // where a billion tokens fit, their tables are made
    for (size_t m = 0; m < sizeof methods / sizeof *methods; m++)
        for (size_t a = 0; a < config_keys_count; a++)
            for (size_t b = a + 1; b < config_keys_count; b++)
                for (int largest = m >= 2; largest < 2; largest++) {
                    if (!is_dimension(&config_keys[a]) || !is_dimension(&config_keys[b])) continue;
                    if (m >= 2 && a != tokens && b != tokens) continue;
                    Config config = toy(methods[m]);
                    char what[192];
                    snprintf(what, sizeof what, "%s with ", methods[m]);
                    set_large(&config, a, largest, what);
                    set_large(&config, b, largest, what);
                    if (would_begin(&config, what))
                        begun++;
                    else
                        refused++;
                }
    check_count("pairs of large dimensions refused before allocation", refused);
    check_count("pairs of large dimensions that a run has room for", begun);
}

// ---- options of commands --------------------------------------------------------------------------------------------

// argp leaves by exit(): not by way of the handlers of an OpenMP runtime whose threads the child does not have.
static void leave_at_once(int status, void *unused) {
    (void)unused;
    _exit(status);
}

// Runs a command as a child. Returns its exit code; what it said is in `said`.
static int run_command(const char *command, const char *option, const char *value, char said[1024]) {
    int ends[2], status;
    char argument[128];
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        on_exit(leave_at_once, NULL);
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        snprintf(argument, sizeof argument, "--%s=%s", option, value);
        const bool alone = !strcmp(command, "verify") || !strcmp(command, "ab") || !strcmp(command, "profile");
        char name[16], positional[] = "attention"; // what bench measures, and for others a file
        snprintf(name, sizeof name, "%s", command);
        char *arguments[] = {name, argument, alone ? NULL : positional, NULL};
        _exit(command_find(command)->run(arguments[2] ? 3 : 2, arguments));
    }
    close(ends[1]);
    size_t used = 0;
    for (ssize_t got; used < 1023 && (got = read(ends[0], said + used, 1023 - used)) > 0;) used += (size_t)got;
    said[used] = 0;
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void test_options(void **state) {
    (void)state;
    static const struct {
        const char *command, *option;
        long double low, high;
    } options[] = {
        {"prepare", "vocab", 1, 1 << 30},
        {"eval", "batches", 0, 1099511627776.0}, // 2^40
        {"sample", "tokens", 0, 1099511627776.0},
        {"sample", "top-k", 0, 2147483648.0},
        {"sample", "seed", 0, 18446744073709551615.0L},
        {"ab", "seeds", 1, 1000},
        {"profile", "batch", 1, 1 << 20},
        {"profile", "tokens", 1, 1 << 24},
        {"bench", "batch", 1, 1 << 20},
        {"bench", "rounds", 1, 1 << 20},
        {"bench", "tokens", 1, 1 << 24},
        {"verify", "size", 0, 256},
        {"verify", "degree", 0, 64},
        {"verify", "rounds", 1, 15},
        {"verify", "seed", 0, 18446744073709551615.0L},
        {"verify", "tokens", 1, 1 << 24},
    };
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        for (size_t v = 0; v < HOSTILE; v++) {
            const long double value = strtold(hostile[v], NULL);               // 64 bits, so that 2^64 is not 2^64 - 1
            if (value >= options[i].low && value <= options[i].high) continue; // a number that the option may have
            char said[1024], option[64];
            const int code = run_command(options[i].command, options[i].option, hostile[v], said);
            snprintf(option, sizeof option, "--%s: '%s'", options[i].option, hostile[v]);
            if (code != 2 || !strstr(said, option))
                fail_msg("rope %s --%s=%s: exit code %d, and it said: %s", options[i].command, options[i].option,
                         hostile[v], code, said);
            check_count("sizes in options refused by name", 1);
        }
}

// The largest numbers that there are, and zeros in front of them, are taken.
static void test_largest_options(void **state) {
    (void)state;
    static const char *const values[] = {"9999999999999999999", "18446744073709551615", "0018446744073709551615",
                                         "000000000000000000000000"};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        char said[1024];
        const int code = run_command("sample", "seed", values[i], said); // of a checkpoint that is not there
        if (code != 2 || strstr(said, "--seed") || !strstr(said, "attention"))
            fail_msg("rope sample --seed=%s: exit code %d, and it said: %s", values[i], code, said);
        check_count("large numbers in options taken", 1);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_largest_options), // these two first: children of a program without threads
    cmocka_unit_test(test_options),
    cmocka_unit_test(test_settings),
    cmocka_unit_test(test_products),
};
TEST_MAIN(tests)
