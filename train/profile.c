// rope profile: measuring (profile.h). At each context length every method has a trainer of its own and their steps take
// turns, so that a busy machine slows all alike; medians are kept. A method is given up once its next step would take
// longer than the limit or its memory would not fit, and the report says so.
#include "train/profile.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/blas.h"
#include "core/files.h"
#include "core/threads.h"
#include "train/command.h"
#include "train/lists.h"
#include "train/signals.h"
#include "train/snapshot.h"
#include "train/statistics.h"

enum { STEPS = 7, CLOCK_CALLS = 100000, SGEMM_SIZE = 2048 };
static const size_t copy_bytes = (size_t)256 << 20;

typedef struct Limits {
    double step_seconds;  // give a method up when a step would take longer
    double cell_seconds;  // fewer repeats when they would take longer together
} Limits;

static double clock_cost(void) {
    PhaseTimes discarded;
    double start = clock_seconds();
    for (size_t i = 0; i < CLOCK_CALLS; i++) phase_enter(i % 2 ? PHASE_NORM : PHASE_PROJECTION);
    double cost = (clock_seconds() - start) / CLOCK_CALLS;
    phase_enter(PHASE_OTHER);
    phase_take(&discarded);
    return cost;
}

// Time of the next step at `tokens`, from the two lengths before (quadratic growth where only one is known).
static double expected_seconds(const Profile *profile, size_t length, size_t method) {
    if (length == 0 || !profile->cells[length - 1][method].measured) return 0;
    const ProfileCell *last = &profile->cells[length - 1][method];
    double growth = (double)profile->lengths[length] / (double)profile->lengths[length - 1], exponent = 2;
    if (length > 1 && profile->cells[length - 2][method].measured) {
        double before = (double)profile->lengths[length - 1] / (double)profile->lengths[length - 2];
        exponent = fmin(2, log(last->step_seconds / profile->cells[length - 2][method].step_seconds) / log(before));
    }
    return last->step_seconds * pow(growth, exponent);
}

static bool make_config(const Config *base, const char *method, size_t tokens, size_t batch, Config *config,
                        Error *error) {
    char text[CONFIG_TEXT];
    *config = *base;
    const char *const keys[] = {"attention.method", "model.tokens", "train.batch"};
    for (size_t i = 0; i < 3; i++) {
        if (i == 0) snprintf(text, sizeof text, "%s=%s", keys[0], method);
        else snprintf(text, sizeof text, "%s=%zu", keys[i], i == 1 ? tokens : batch);
        if (!config_set(config, text, ORIGIN_COMMAND_LINE, error)) return false;
    }
    return config_resolve(config, error);
}

// One timed step; adds to the cell's sums.
static bool timed_step(Trainer *trainer, ProfileCell *cell, double *seconds, bool counted, Error *error) {
    StepResult result;
    PhaseTimes phases;
    phase_take(&phases); // what ran in between
    double start = clock_seconds();
    if (!trainer_step(trainer, &result, error)) return false;
    *seconds = clock_seconds() - start;
    phase_take(&phases);
    if (!counted) return true;
    cell->steps++;
    cell->phase_entries = phases.entries;
    for (size_t p = 0; p < PHASE_COUNT; p++) {
        cell->phases.seconds[p] += phases.seconds[p];
        cell->phases.flops[p] += phases.flops[p];
        cell->phases.bytes[p] += phases.bytes[p];
    }
    return true;
}

static bool timed_checkpoint(Trainer *trainer, const char *out, ProfileCell *cell, Error *error) {
    char path[RUN_PATH];
    if (!path_join(path, sizeof path, out, "profile_checkpoint", error)) return false;
    double start = clock_seconds();
    bool saved = snapshot_save(path, trainer, NULL, error);
    cell->checkpoint_seconds = clock_seconds() - start;
    return saved && directory_remove(path, error);
}

// Rounds of one step each over the methods that run at this length.
static bool measure_length(Profile *profile, size_t length, Config *configs, const Limits *limits, const char *out,
                           Error *error) {
    Trainer trainers[PROFILE_MAX_METHODS] = {0};
    double seconds[PROFILE_MAX_METHODS][STEPS];
    size_t rounds = STEPS;
    bool fine = true;
    for (size_t m = 0; fine && m < profile->method_count; m++) {
        ProfileCell *cell = &profile->cells[length][m];
        if (cell->left_out) continue;
        double first;
        fine = trainer_create(&trainers[m], &configs[m], false, error) &&
               timed_step(&trainers[m], cell, &first, false, error); // warms caches and pages
        if (fine && first * (double)rounds > limits->cell_seconds)
            rounds = (size_t)fmax(1, limits->cell_seconds / first);
    }
    for (size_t r = 0; fine && r < rounds; r++)
        for (size_t m = 0; fine && m < profile->method_count; m++)
            if (trainers[m].model)
                fine = timed_step(&trainers[m], &profile->cells[length][m], &seconds[m][r], true, error);
    for (size_t m = 0; m < profile->method_count; m++) {
        ProfileCell *cell = &profile->cells[length][m];
        if (trainers[m].model && fine) {
            cell->measured = true;
            cell->step_seconds = median(seconds[m], rounds);
            for (size_t p = 0; p < PHASE_COUNT; p++) {
                cell->phases.seconds[p] /= (double)cell->steps;
                cell->phases.flops[p] /= (double)cell->steps;
                cell->phases.bytes[p] /= (double)cell->steps;
            }
            fine = timed_checkpoint(&trainers[m], out, cell, error);
        }
        trainer_destroy(&trainers[m]);
    }
    return fine;
}

// Leaves out, with the reason, what would not fit in memory or time at this length.
static bool plan_length(Profile *profile, size_t length, const Config *base, Config *configs, const Limits *limits,
                        Error *error) {
    size_t total = 0;
    for (size_t m = 0; m < profile->method_count; m++) {
        ProfileCell *cell = &profile->cells[length][m];
        if (!make_config(base, profile->methods[m], profile->lengths[length], profile->batch, &configs[m], error) ||
            !estimate_memory(&configs[m], &cell->estimate, error))
            return false;
        bool given_up = length > 0 && profile->cells[length - 1][m].left_out;
        if (given_up) cell->left_out = profile->cells[length - 1][m].left_out;
        else if (total + cell->estimate.total_bytes > cell->estimate.available_bytes) cell->left_out = "memory";
        else if (expected_seconds(profile, length, m) > limits->step_seconds) cell->left_out = "time";
        if (!cell->left_out) total += cell->estimate.total_bytes;
        else if (!given_up)
            fprintf(stderr, "%s stops before T=%zu: %s (expected %.0f s a step, %.2f GiB)\n", profile->methods[m],
                    profile->lengths[length], cell->left_out, expected_seconds(profile, length, m),
                    (double)cell->estimate.total_bytes / (1 << 30));
    }
    return true;
}

static bool measure(Profile *profile, const Config *base, const Limits *limits, Error *error) {
    Config *configs = calloc(PROFILE_MAX_METHODS, sizeof *configs);
    REQUIRE(configs);
    profile->sgemm_rate = 1e9 * blas_library_rate(SGEMM_SIZE, 3);
    profile->copy_rate = copy_rate(copy_bytes, 3);
    profile->clock_cost = clock_cost();
    bool fine = directory_make(base->out, error);
    for (size_t length = 0; fine && length < profile->length_count && !signals_stop; length++) {
        fine = plan_length(profile, length, base, configs, limits, error) &&
               measure_length(profile, length, configs, limits, base->out, error);
        for (size_t m = 0; fine && m < profile->method_count; m++)
            if (profile->cells[length][m].measured)
                fprintf(stderr, "T=%-7zu %-10s %10.1f ms a step, %8.0f tokens/s\n", profile->lengths[length],
                        profile->methods[m], 1e3 * profile->cells[length][m].step_seconds,
                        (double)(profile->batch * profile->lengths[length]) / profile->cells[length][m].step_seconds);
    }
    free(configs);
    return fine;
}

static int finish(const Profile *profile, const Config *config, bool json, Error *error) {
    char path[RUN_PATH], json_path[RUN_PATH];
    json_t *document = profile_document(profile);
    bool fine = path_join(path, sizeof path, config->out, "profile.html", error) &&
                path_join(json_path, sizeof json_path, config->out, "profile.json", error);
    json_object_set_new(document, "report", json_string(fine ? path : ""));
    char *text = json_dumps(document, JSON_INDENT(1));
    fine = fine && profile_write_report(profile, document, config, path, error) &&
           file_write_atomic(json_path, text, strlen(text), error);
    free(text);
    profile_print(profile, document);
    if (fine) fprintf(stderr, "report: %s\n", path);
    if (json) command_print_json(document);
    else json_decref(document);
    return fine ? 0 : command_fail(error);
}

int command_profile(int argc, char **argv) {
    enum { TOKENS, METHODS, BATCH, LIMIT, OPTIONS };
    static const CommandOption options[] = {
        {"tokens", 't', "LIST", "context lengths, ascending (512,1K,2K,4K,8K,16K,32K,64K)"},
        {"methods", 'm', "LIST", "attention methods (exact,lowrank)"},
        {"batch", 'b', "N", "sequences in a step (1)"},
        {"limit", 'l', "SECONDS", "give a method up where a step would take longer (60)"},
        {NULL, 0, NULL, NULL},
    };
    const char *values[OPTIONS];
    static CommandLine line;
    static Profile profile;
    Error error = {0};
    command_parse(command_find("profile"), options, values, argc, argv, &line);
    char *methods = strdup(values[METHODS] ? values[METHODS] : "exact,lowrank");
    REQUIRE(methods);
    profile.length_count =
        list_lengths(values[TOKENS] ? values[TOKENS] : "512,1K,2K,4K,8K,16K,32K,64K", profile.lengths,
                     PROFILE_MAX_LENGTHS);
    profile.method_count = list_words(methods, profile.methods, PROFILE_MAX_METHODS);
    profile.batch = (size_t)command_integer("batch", values[BATCH], 1, 1, 1 << 20);
    Limits limits = {.step_seconds = command_number("limit", values[LIMIT], 60, 1e-3, 1e6)};
    limits.cell_seconds = limits.step_seconds;
    int code;
    if (!profile.length_count) {
        error_set(&error, ERROR_USER, "--tokens: '%s' is not a list of ascending lengths such as 512,1K,4K.",
                  values[TOKENS]);
        code = command_fail(&error);
    } else {
        signals_catch();
        code = measure(&profile, &line.config, &limits, &error) ? finish(&profile, &line.config, line.json, &error)
                                                                : command_fail(&error);
    }
    free(methods);
    return code;
}
