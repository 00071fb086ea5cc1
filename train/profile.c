// rope profile: measuring (profile.h). At each context length every method has a trainer of its own and their steps take
// turns, so that a busy machine slows all alike; the middle step is kept. A method is given up once its next step would
// take longer than the limit, its memory would not fit, or the data are shorter, and the report says so.
#include "train/profile.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/blas.h"
#include "core/files.h"
#include "core/json_text.h"
#include "core/threads.h"
#include "train/command.h"
#include "train/lists.h"
#include "train/report.h"
#include "train/signals.h"
#include "train/snapshot.h"
#include "train/statistics.h"

enum { STEPS = 7, CLOCK_CALLS = 100000, SGEMM_SIZE = 2048 };
static const size_t copy_bytes = (size_t)256 << 20;

typedef struct Limits {
    double step_seconds; // give a method up when a step would take longer
    double cell_seconds; // fewer repeats when they would take longer together
} Limits;

// What a cell's steps were, in their order.
typedef struct Steps {
    double seconds[STEPS];
    PhaseTimes phases[STEPS];
    double flops[STEPS];
    double fell_back; // most of a step
    size_t count;
} Steps;

static double clock_cost(void) {
    PhaseTimes discarded;
    double start = clock_seconds();
    for (size_t i = 0; i < CLOCK_CALLS; i++) phase_enter(i % 2 ? PHASE_NORM : PHASE_PROJECTION);
    double cost = (clock_seconds() - start) / CLOCK_CALLS;
    phase_enter(PHASE_OTHER);
    phase_take(&discarded);
    return cost;
}

// Time of a step at lengths[length]: at the length before, scaled by the method's own operations. Before the first
// measurement: from a short probe.
static double expected_seconds(const Profile *profile, size_t length, size_t method) {
    const ProfileCell *cell = &profile->cells[length][method];
    if (length == 0) return cell->estimate.step_seconds;
    const ProfileCell *last = &profile->cells[length - 1][method];
    const double longer = (double)profile->lengths[length] / (double)profile->lengths[length - 1];
    const double growth = cell->estimate.step_flops / last->estimate.step_flops;
    return last->step_seconds * (last->fell_back > 0 ? longer * longer : growth); // exact's, where it fell back
}

static bool make_config(const Config *base, const char *method, size_t tokens, size_t batch, Config *config,
                        Error *error) {
    char text[CONFIG_TEXT];
    *config = *base;
    config_without_end(config);
    // A step is --batch sequences in one batch: several would be counted as one, and cost as many times its time.
    const char *const keys[] = {"model.tokens", "train.batch", "train.accumulate"};
    const size_t sizes[] = {tokens, batch, 1};
    if (!config_set_method(config, method, error)) return false;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        snprintf(text, sizeof text, "%s=%zu", keys[i], sizes[i]);
        if (!config_set(config, text, ORIGIN_COMMAND_LINE, error)) return false;
    }
    // Without data the tokens are a task's: any vocabulary and every length can be had.
    if (!*config->data_dir && !*config->task) {
        if (config->vocabulary == 0 && !config_set(config, "model.vocabulary=4096", ORIGIN_COMMAND_LINE, error))
            return false;
        if (!config_set(config, "data.task=copy", ORIGIN_COMMAND_LINE, error)) return false;
    }
    return config_resolve(config, error);
}

static bool timed_step(Trainer *trainer, double *seconds, PhaseTimes *phases, StepResult *result, Error *error) {
    phase_take(phases); // what ran in between
    double start = clock_seconds();
    if (!trainer_step(trainer, result, error)) return false;
    *seconds = clock_seconds() - start;
    phase_take(phases);
    return true;
}

// The step in the middle, or the mean of the two there.
static void take_middle(const Steps *steps, ProfileCell *cell) {
    size_t middle[2] = {0};
    middle_places(steps->seconds, steps->count, middle);
    for (size_t i = 0; i < 2; i++) {
        const PhaseTimes *phases = &steps->phases[middle[i]];
        cell->step_seconds += steps->seconds[middle[i]] / 2;
        cell->flops += steps->flops[middle[i]] / 2;
        cell->phases.entries = phases->entries;
        phase_add(&cell->phases, phases, 0.5);
    }
    cell->steps = steps->count;
    cell->fell_back = steps->fell_back;
    cell->measured = true;
}

static bool timed_checkpoint(Trainer *trainer, const char *out, ProfileCell *cell, Error *error) {
    char path[RUN_PATH];
    if (!path_join(path, sizeof path, out, "profile_checkpoint", error)) return false;
    double start = clock_seconds();
    bool saved = snapshot_save(path, trainer, NULL, error);
    cell->checkpoint_seconds = clock_seconds() - start;
    return saved && directory_remove(path, error);
}

// Trainers of the methods that run at this length, each with one step done, which warms caches and pages. *rounds: how
// many more the limit leaves time for.
static bool make_trainers(const Profile *profile, size_t length, const Config *configs, const Limits *limits,
                          Trainer *trainers, size_t *rounds, Error *error) {
    *rounds = STEPS;
    for (size_t m = 0; m < profile->method_count && !signals_stop; m++) {
        double first;
        PhaseTimes discarded;
        StepResult result;
        if (profile->cells[length][m].left_out) continue;
        if (!trainer_create(&trainers[m], &configs[m], false, error) ||
            !timed_step(&trainers[m], &first, &discarded, &result, error))
            return false;
        if (first * (double)*rounds > limits->cell_seconds) *rounds = (size_t)fmax(1, limits->cell_seconds / first);
    }
    return true;
}

// Rounds of one step each over the methods that run at this length.
static bool measure_length(Profile *profile, size_t length, const Config *configs, const Limits *limits,
                           const char *out, Error *error) {
    Trainer trainers[PROFILE_MAX_METHODS] = {0};
    Steps *steps = calloc(PROFILE_MAX_METHODS, sizeof *steps);
    double rates[STEPS];
    size_t rounds = 0;
    bool fine = steps || error_set(error, ERROR_MEMORY, "Out of memory for the record of steps.");
    fine = fine && make_trainers(profile, length, configs, limits, trainers, &rounds, error);
    for (size_t r = 0; fine && r < rounds && !signals_stop; r++) {
        rates[r] = 1e9 * blas_library_rate(SGEMM_SIZE, 1);
        for (size_t m = 0; fine && m < profile->method_count; m++)
            if (trainers[m].model) {
                StepResult result;
                fine = timed_step(&trainers[m], &steps[m].seconds[r], &steps[m].phases[r], &result, error);
                steps[m].flops[r] =
                    trainer_step_flops(&configs[m], &profile->cells[length][m].estimate.model, result.targets);
                steps[m].fell_back = fmax(steps[m].fell_back, trainer_attention(&trainers[m]).fell_back);
                steps[m].count = r + 1;
            }
    }
    for (size_t m = 0; m < profile->method_count; m++) {
        ProfileCell *cell = &profile->cells[length][m];
        if (fine && steps[m].count) {
            take_middle(&steps[m], cell);
            cell->sgemm_rate = median(rates, steps[m].count);
            fine = timed_checkpoint(&trainers[m], out, cell, error);
        }
        trainer_destroy(&trainers[m]);
    }
    free(steps);
    return fine;
}

static double gib(size_t bytes) { return (double)bytes / (1 << 30); }

// Why a method does not run at this length, said on standard error; NULL: it does. *total: memory of those that do.
static const char *find_obstacle(const Profile *profile, size_t length, size_t method, const Config *config,
                                 const Limits *limits, size_t *total) {
    const Estimate *estimate = &profile->cells[length][method].estimate;
    const char *name = profile->methods[method];
    size_t tokens = profile->lengths[length], needed = *total + estimate->total_bytes;
    double seconds = expected_seconds(profile, length, method);
    if (needed > estimate->available_bytes) {
        fprintf(stderr, "%s stops before T=%zu: it needs %.2f GiB, and %.2f GiB are left\n", name, tokens,
                gib(estimate->total_bytes), gib(estimate->available_bytes - *total));
        return "memory";
    }
    if (seconds > limits->step_seconds) {
        fprintf(stderr, "%s stops before T=%zu: a step would take about %.3g s (--limit %g)\n", name, tokens, seconds,
                limits->step_seconds);
        return "time";
    }
    Error why = {0};
    Batches *batches = batches_open(config, BATCHES_TRAIN, profile->batch, &why);
    batches_close(batches);
    if (!batches)
        fprintf(stderr, "%s stops before T=%zu: %s\n", name, tokens, why.message);
    else
        *total = needed;
    return batches ? NULL : "data";
}

// Leaves out, with the reason, what would not fit in memory, time or data at this length.
static bool plan_length(Profile *profile, size_t length, const Config *base, Config *configs, const Limits *limits,
                        Error *error) {
    size_t total = 0;
    for (size_t m = 0; m < profile->method_count; m++) {
        ProfileCell *cell = &profile->cells[length][m];
        cell->left_out = length > 0 ? profile->cells[length - 1][m].left_out : NULL;
        if (!make_config(base, profile->methods[m], profile->lengths[length], profile->batch, &configs[m], error) ||
            !estimate_memory(&configs[m], &cell->estimate, error))
            return false;
        if (cell->left_out) continue;
        if (length == 0) {
            if (!estimate_fits(&configs[m], &cell->estimate, error)) return false;
            Estimate probed = cell->estimate;
            if (!estimate_probe(&configs[m], &probed, error)) return false;
            cell->estimate.step_seconds = probed.step_seconds;
        }
        cell->left_out = find_obstacle(profile, length, m, &configs[m], limits, &total);
    }
    return true;
}

static void show_length(const Profile *profile, size_t length) {
    for (size_t m = 0; m < profile->method_count; m++) {
        const ProfileCell *cell = &profile->cells[length][m];
        if (cell->measured)
            fprintf(stderr, "T=%-7zu %-10s %10.1f ms a step, %8.0f tokens/s\n", profile->lengths[length],
                    profile->methods[m], 1e3 * cell->step_seconds,
                    (double)(profile->batch * profile->lengths[length]) / cell->step_seconds);
    }
}

static bool measure(Profile *profile, const Config *base, const Limits *limits, Error *error) {
    Config *configs = calloc(PROFILE_MAX_METHODS, sizeof *configs);
    if (!configs) return error_set(error, ERROR_MEMORY, "Out of memory for the settings of the methods.");
    profile->sgemm_rate = 1e9 * blas_library_rate(SGEMM_SIZE, 3);
    profile->copy_rate = copy_rate(copy_bytes, 3);
    profile->clock_cost = clock_cost();
    bool fine = directory_make(base->out, error);
    for (size_t length = 0; fine && length < profile->length_count && !signals_stop; length++) {
        fine = plan_length(profile, length, base, configs, limits, error) &&
               measure_length(profile, length, configs, limits, base->out, error);
        if (length == 0 && fine) profile->data = strdup(*configs[0].task ? configs[0].task : configs[0].data_dir);
        if (fine) show_length(profile, length);
    }
    free(configs);
    return fine;
}

static bool any_measured(const Profile *profile) {
    for (size_t m = 0; m < profile->method_count; m++)
        if (profile->cells[0][m].measured) return true;
    return false;
}

// What was measured until the end, or until something ended it.
static bool finish(const Profile *profile, const Config *config, bool json, Error *error) {
    char path[RUN_PATH];
    json_watch();
    json_t *document = profile_document(profile);
    bool fine = path_join(path, sizeof path, config->out, "profile.html", error);
    json_object_set_new(document, "report", json_string(fine ? path : ""));
    fine = fine && profile_write_report(profile, document, config, path, error) &&
           report_write_json(config->out, "profile.json", document, error);
    profile_print(profile, document);
    if (fine) fprintf(stderr, "report: %s\n", path);
    return command_give_json(document, json, error) && fine;
}

static bool profile_run(Profile *profile, const Config *config, const Limits *limits, bool json, Error *error) {
    signals_catch("Finishing this measurement, then the report", "Stopped at once, without a report");
    bool fine = measure(profile, config, limits, error);
    if (!any_measured(profile)) {
        if (fine)
            error_set(error, ERROR_USER,
                      signals_stop ? "Stopped before anything was measured: there is no report."
                                   : "There is no length at which a method could run.");
        return false;
    }
    Error late = {0};
    if (!finish(profile, config, json, &late) && fine) *error = late;
    return error->kind == ERROR_NONE;
}

int command_profile(int argc, char **argv) {
    enum { TOKENS, METHODS, BATCH, LIMIT, OUT, OPTIONS };
    static const CommandOption options[] = {
        {"tokens", 't', "LIST", "context lengths, ascending (--model.tokens, else 512,1K,2K,4K,8K,16K,32K,64K)"},
        {"methods", 'm', "LIST", "attention methods (--attention.method, else exact,lowrank)"},
        {"batch", 'b', "N", "sequences in a step (--train.batch, else 1)"},
        {"limit", 'l', "SECONDS", "give a method up where a step would take longer (60)"},
        {"out", 'o', "DIR", "where the report goes (train.out)"},
        {NULL, 0, NULL, NULL},
    };
    const char *values[OPTIONS];
    char method_text[CONFIG_TEXT], length_text[CONFIG_TEXT], batch_text[CONFIG_TEXT];
    static CommandLine line;
    static Profile profile;
    Error error = {0};
    command_parse(command_find("profile"), options, values, argc, argv, &line);
    const char *wanted = command_value(&line, values[METHODS], "attention.method", "exact,lowrank", method_text);
    const char *lengths =
        command_value(&line, values[TOKENS], "model.tokens", "512,1K,2K,4K,8K,16K,32K,64K", length_text);
    const char *batch = command_value(&line, values[BATCH], "train.batch", NULL, batch_text);
    char *methods = strdup(wanted);
    if (!methods) {
        error_set(&error, ERROR_MEMORY, "Out of memory for the list of methods.");
        return command_fail(&error);
    }
    profile.length_count = list_lengths(lengths, profile.lengths, PROFILE_MAX_LENGTHS);
    profile.methods[0] = methods; // of the setting a list is one method for each layer
    profile.method_count = wanted == method_text ? 1 : list_words(methods, profile.methods, PROFILE_MAX_METHODS);
    profile.batch = (size_t)command_integer("batch", batch, 1, 1, 1 << 20);
    Limits limits = {.step_seconds = command_number("limit", values[LIMIT], 60, 1e-3, 1e6)};
    limits.cell_seconds = limits.step_seconds;
    bool fine = true;
    if (values[OUT]) {
        char assignment[CONFIG_TEXT + 16];
        snprintf(assignment, sizeof assignment, "train.out=%s", values[OUT]);
        fine = config_set(&line.config, assignment, ORIGIN_COMMAND_LINE, &error);
    }
    if (line.positional_count)
        fine = error_set(&error, ERROR_USER, "profile takes no arguments, only options.");
    else if (!profile.method_count)
        fine = error_set(&error, ERROR_USER, "--methods: at most %d methods.", PROFILE_MAX_METHODS);
    else if (!profile.length_count)
        fine = error_set(&error, ERROR_USER, "--tokens: '%s' is not a list of ascending lengths such as 512,1K,4K.",
                         lengths);
    fine = fine && profile_run(&profile, &line.config, &limits, line.json, &error);
    free(methods);
    return fine ? 0 : command_fail(&error);
}
