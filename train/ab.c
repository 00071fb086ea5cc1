// rope ab: the command: arms from settings, what they need, the report (ab.h). The loop is in ab_run.c.
#include "train/ab.h"

#include <stdlib.h>
#include <string.h>

#include "core/files.h"
#include "core/threads.h"
#include "train/command.h"
#include "train/report.h"
#include "train/signals.h"
#include "train/words.h"

static bool apply(AbArm *arm, const char *assignment, Error *error) {
    if (config_set(&arm->config, assignment, ORIGIN_COMMAND_LINE, error)) return true;
    error_context(error, "Arm %s", arm->key);
    return false;
}

// "lowrank", "window" for far = none; the overrides themselves where that does not tell the arms apart.
static void name_arm(AbArm *arm) {
    bool window = !strcmp(arm->config.far, "none") && strcmp(arm->config.method, "exact");
    snprintf(arm->name, sizeof arm->name, "%s", window ? "window" : arm->config.method);
}

static void tell_apart(Ab *ab, const char *const *overrides, const size_t *counts) {
    if (strcmp(ab->arms[0].name, ab->arms[1].name)) return;
    for (size_t i = 0; i < 2; i++) {
        char *name = ab->arms[i].name;
        size_t used = strlen(name);
        for (size_t k = 0; k < counts[i]; k++) {
            int more = snprintf(name + used, CONFIG_TEXT - used, " %s", overrides[i * COMMAND_REPEATS + k]);
            used = used + (size_t)more < CONFIG_TEXT ? used + (size_t)more : CONFIG_TEXT - 1;
        }
        name[text_whole(name, used)] = 0;
    }
}

static bool same_data(const Config *a, const Config *b, Error *error) {
    for (size_t i = 0; i < config_key_count(); i++) {
        char name[64], values[2][CONFIG_TEXT];
        config_key_name(i, name);
        config_value(a, i, values[0]);
        config_value(b, i, values[1]);
        if (strncmp(name, "data.", 5) || !strcmp(values[0], values[1])) continue;
        return error_set(error, ERROR_USER,
                         "%s is '%s' for arm a and '%s' for arm b: losses on different data cannot be compared. Set it "
                         "once, outside of --a and --b.",
                         name, values[0], values[1]);
    }
    return true;
}

// The seeds after train.seed are settings of runs too, and must be ones that a file of settings can give back.
static bool check_seeds(const Ab *ab, Error *error) {
    char assignment[64];
    Config last = ab->arms[0].config;
    Error why = {0};
    snprintf(assignment, sizeof assignment, "train.seed=%llu", (unsigned long long)ab_seed(ab, ab->seed_count - 1));
    if (config_set(&last, assignment, ORIGIN_COMMAND_LINE, &why)) return true;
    return error_set(error, ERROR_USER, "train.seed = %llu leaves no room for %zu seeds: %s",
                     (unsigned long long)ab_seed(ab, 0), ab->seed_count, why.message);
}

// Finds out what would make the comparison meaningless.
static bool check_arms(Ab *ab, Error *error) {
    const Config *a = &ab->arms[0].config, *b = &ab->arms[1].config;
    for (size_t i = 1; i < ab->arm_count; i++) {
        const Config *other = &ab->arms[i].config;
        if (other->steps != a->steps || other->seed != a->seed || other->eval_every != a->eval_every ||
            other->eval_batches != a->eval_batches || other->threads != a->threads)
            return error_set(error, ERROR_USER,
                             "train.steps, seed, eval_every, eval_batches and threads are the same for all arms: set "
                             "them once, outside of --a and --b.");
    }
    if (!same_data(a, b, error) || !check_seeds(ab, error)) return false;
    if (ab->arm_count > 2 && !strstr(b->method, "lowrank"))
        return error_set(error, ERROR_USER,
                         "--control is b without its far field, and attention.method=%s of b has none: it goes with "
                         "lowrank.",
                         b->method);
    return true;
}

static bool is_overridden(const char *const *overrides, size_t count, const char *start) {
    bool found = false;
    for (size_t k = 0; k < count; k++) found = found || !strncmp(overrides[k], start, strlen(start));
    return found;
}

// The arms: unbounded exact attention, lowrank (or the method given), and for the control lowrank without its far field;
// then the overrides.
static bool make_arms(Ab *ab, const Config *base, const char *const *overrides, const size_t *counts, bool control,
                      Error *error) {
    static const char *const keys[AB_ARMS] = {"a", "b", "control"};
    // A method on the command line, outside of --a and --b, is what exact attention is to be compared with.
    const bool given =
        config_origin(base, "attention.method") == ORIGIN_COMMAND_LINE && strcmp(base->method, "exact") != 0;
    ab->arm_count = control ? AB_ARMS : 2;
    for (size_t i = 0; i < ab->arm_count; i++) {
        AbArm *arm = &ab->arms[i];
        size_t from = i == 0 ? 0 : 1; // the control has b's overrides
        arm->key = keys[i];
        arm->config = *base;
        if (i == 0 && !apply(arm, "attention.method=exact", error)) return false;
        if (i > 0 && !given && !config_set_method(&arm->config, "lowrank", error)) return false;
        for (size_t k = 0; k < counts[from]; k++)
            if (!apply(arm, overrides[from * COMMAND_REPEATS + k], error)) return false;
        if (i == 0 && !strcmp(arm->config.method, "exact") && !is_overridden(overrides, counts[0], "attention.bound=") &&
            !apply(arm, "attention.bound=none", error))
            return false;
        if (i == 2 && !apply(arm, "attention.far=none", error)) return false;
        // All layers, seeds and sessions of an arm choose by the same costs, else a resumed one could choose otherwise.
        if (!config_resolve(&arm->config, error) || !config_measure_costs(&arm->config, error)) {
            error_context(error, "Arm %s", arm->key);
            return false;
        }
        name_arm(arm);
    }
    tell_apart(ab, overrides, counts);
    ab->steps = ab->arms[0].config.steps;
    return check_arms(ab, error);
}

// All arms are in memory at once, and for a while what fidelity takes: at most b's attention and scratch twice more.
static bool check_needs(Ab *ab, Error *error) {
    size_t total = 0;
    double seconds = 0;
    for (size_t i = 0; i < ab->arm_count; i++) {
        Estimate *estimate = &ab->arms[i].estimate;
        if (!estimate_memory(&ab->arms[i].config, estimate, error)) return false;
        const ModelNeeds *model = &estimate->model;
        total += estimate->total_bytes;
        if (i == 1) total += 2 * (model->activation_bytes / ab->arms[i].config.layers + model->scratch_bytes);
    }
    size_t available = ab->arms[0].estimate.available_bytes;
    if (total > available)
        return error_set(error, ERROR_USER,
                         "The arms need %.2f GiB together and %.2f GiB are available. Lower train.batch or "
                         "model.tokens.",
                         (double)total / (1 << 30), (double)available / (1 << 30));
    for (size_t i = 0; i < ab->arm_count; i++) {
        Estimate *estimate = &ab->arms[i].estimate;
        Estimate probed = *estimate; // a copy: the program as the probe leaves it is not the arm's
        if (!estimate_probe(&ab->arms[i].config, &probed, error)) return false;
        estimate->step_seconds = probed.step_seconds;
        seconds += probed.step_seconds * (double)(ab->steps * ab->seed_count);
        fprintf(stderr, "%-8s %s: %.3f M parameters, %.0f MiB, %.1f GFLOP a step\n", ab->arms[i].key, ab->arms[i].name,
                (double)estimate->model.parameters / 1e6, (double)estimate->total_bytes / (1 << 20),
                estimate->step_flops / 1e9);
    }
    fprintf(stderr, "%zu steps of each arm, %zu seed%s: about %.1f min, and the evaluations\n", ab->steps,
            ab->seed_count, ab->seed_count == 1 ? "" : "s", seconds / 60);
    return true;
}

static bool print_needs(const Ab *ab, const char *out, Error *error) {
    json_t *arms = json_array();
    for (size_t i = 0; i < ab->arm_count; i++)
        json_array_append_new(arms, json_pack("{s:s, s:s, s:o}", "arm", ab->arms[i].key, "name", ab->arms[i].name,
                                              "estimate", estimate_json(&ab->arms[i].estimate)));
    return command_print_json(json_pack("{s:s, s:I, s:I, s:o}", "out", out, "steps", (json_int_t)ab->steps, "seeds",
                                        (json_int_t)ab->seed_count, "arms", arms),
                              error);
}

static void destroy(Ab *ab) {
    ab_record_free(ab);
    run_close(&ab->run);
    free(ab);
}

// What was measured so far, as a page, as JSON and in words, whatever ended it.
static bool report(const Ab *ab, bool json, Error *error) {
    char path[RUN_PATH];
    json_t *document = ab_document(ab);
    bool fine = run_check_place(&ab->run, error) && path_join(path, sizeof path, ab->run.path, "report.html", error);
    if (json_object_set_new(document, "report", json_string(fine ? path : "")) != 0) {
        json_decref(document);
        return error_set(error, ERROR_MEMORY, "Out of memory for the report in %s.", ab->run.path);
    }
    fine = fine && ab_write_report(ab, document, path, error) &&
           report_write_json(ab->run.path, "report.json", document, error);
    ab_print(ab, document);
    if (fine) fprintf(stderr, "report: %s\n", path);
    return command_give_json(document, json, error) && fine;
}

// The directory is not where it was.
static void explain_away(const Ab *ab) {
    if (ab->safe)
        fprintf(stderr,
                "rope: Safe is what was %s, if it was moved, up to seed %zu, step %zu. Go on with the same command, "
                "its new name for --out, and --resume.\n",
                ab->run.path, ab->safe_seed + 1, ab->safe_step);
    else
        fprintf(stderr, "rope: What was %s is as it was, if it was moved.\n", ab->run.path);
}

// Says what is safe and what to do, whatever ended the comparison.
static int explain_end(const Ab *ab, bool found, const Error *error) {
    static const char again[] = "Go on with the same command and --resume.";
    if (error->kind == ERROR_NONE) {
        if (signals_stop) fprintf(stderr, "rope: Stopped, as asked. %s\n", again);
        return 0;
    }
    const int code = command_fail(error);
    Error why = {0};
    if (!run_check_place(&ab->run, &why))
        explain_away(ab);
    else if (ab->safe)
        fprintf(stderr, "rope: Safe is %s up to seed %zu, step %zu. %s\n", ab->run.path, ab->safe_seed + 1,
                ab->safe_step, again);
    else if (found)
        fprintf(stderr, "rope: %s is as it was, but for its report.\n", ab->run.path);
    else
        fprintf(stderr, "rope: No evaluation was saved yet; the same command starts the comparison again.\n");
    return code;
}

static int compare(Ab *ab, const char *out, bool resume, bool json, Error *error) {
    bool found = false;
    ab->data = batches_identity(&ab->arms[0].config);
    if (!ab_record_make(ab, error) || !run_open(&ab->run, out, error) || !ab_progress_load(ab, resume, &found, error))
        return command_fail(error);
    if (found) fprintf(stderr, "resuming %s at seed %zu, step %zu\n", out, ab->seed + 1, ab->step);
    if (!found && resume) fprintf(stderr, "rope: %s has no comparison to resume; starting at step 0.\n", out);
    signals_catch("Finishing this step and saving", "Stopped at once; the last saved checkpoint is whole");
    signals_catch_pipe();
    bool fine = ab_run(ab, error);
    bool any = ab->seed > 0 || ab->step > 0;
    Error late = {0};
    if (any && !report(ab, json, &late) && fine) *error = late;
    return explain_end(ab, found, error);
}

int command_ab(int argc, char **argv) {
    enum { A, B, CONTROL, SEEDS, OUT, RESUME, DRY_RUN, OPTIONS };
    static const CommandOption options[] = {
        {"a", 'a', "K=V", "a setting of arm a (may be given again); default: exact, unbounded"},
        {"b", 'b', "K=V", "a setting of arm b (may be given again); default: lowrank"},
        {"control", 0, NULL, "a third arm: b without its far field, the window alone"},
        {"seeds", 's', "N", "repeat with N seeds, train.seed and those after it (1)"},
        {"out", 'o', "DIR", "where checkpoints and the report go (train.out)"},
        {"resume", 'r', NULL, "go on with the comparison in DIR"},
        {"dry-run", 'n', NULL, "print what the comparison would need, then stop"},
        {NULL, 0, NULL, NULL},
    };
    const char *values[OPTIONS];
    static CommandLine line;
    Error error = {0};
    command_parse(command_find("ab"), options, values, argc, argv, &line);
    Ab *ab = calloc(1, sizeof *ab);
    if (!ab) {
        error_set(&error, ERROR_MEMORY, "Out of memory.");
        return command_fail(&error);
    }
    ab->run.lock = -1;
    const char *overrides[2 * COMMAND_REPEATS];
    size_t counts[2] = {command_repeated(&line, "a", overrides),
                        command_repeated(&line, "b", overrides + COMMAND_REPEATS)};
    ab->seed_count = (size_t)command_integer("seeds", values[SEEDS], 1, 1, 1000);
    const char *out = values[OUT] ? values[OUT] : line.config.out;
    if (line.positional_count)
        error_set(&error, ERROR_USER, "ab takes no arguments, only options: --a and --b are its arms.");
    else if (!text_valid(out, strlen(out))) // the report, which names it, could not be written
        error_set(&error, ERROR_USER, "--out: The path is not UTF-8.");
    bool fine =
        error.kind == ERROR_NONE && make_arms(ab, &line.config, overrides, counts, values[CONTROL] != NULL, &error);
    if (fine) threads_set(ab->arms[0].config.threads);
    if (fine && values[DRY_RUN]) fine = run_may_use(out, USE_COMPARISON, values[RESUME] != NULL, &error);
    for (size_t i = 0; fine && values[DRY_RUN] && i < ab->arm_count; i++)
        fine = batches_check(&ab->arms[i].config, &error);
    fine = fine && check_needs(ab, &error);
    int code = 0;
    if (!fine)
        code = command_fail(&error);
    else if (!values[DRY_RUN])
        code = compare(ab, out, values[RESUME] != NULL, line.json, &error);
    else if (line.json && !print_needs(ab, out, &error))
        code = command_fail(&error);
    destroy(ab);
    return code;
}
