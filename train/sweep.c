// rope train --sweep optim.learning_rate=1e-3,2e-3: one run after another below train.out, one for every combination of
// the listed values, then a table with the best by held-out loss. OUT/sweep.json holds the runs that are finished, and
// what the one that was started is made of, so that an interrupted sweep goes on where it was, and only as it was. A run
// whose loss explodes is a result too: it is marked, and the sweep goes on.
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/files.h"
#include "core/json_text.h"
#include "core/threads.h"
#include "train/command.h"
#include "train/figures.h"
#include "train/lists.h"
#include "train/signals.h"
#include "train/starts.h"
#include "train/state.h"
#include "train/train.h"

enum { SWEEP_AXES = 8, SWEEP_VALUES = 64, SWEEP_RUNS = 4096, NAME_SIZE = 200 };
static const size_t record_limit = (size_t)1 << 26;

typedef struct Axis {
    char *text;        // "key\0value\0value": owned
    const char *key;   // "optim.learning_rate"
    const char *label; // what names runs: "learning_rate", or the key where that is not enough
    const char *values[SWEEP_VALUES];
    size_t count;
} Axis;

typedef struct Sweep {
    Axis axes[SWEEP_AXES];
    size_t axis_count, run_count;
    const Config *base;
    RunDirectory place;    // OUT, locked: two sweeps at one record would lose each other's rows
    char record[RUN_PATH]; // OUT/sweep.json
    json_t *rows;          // by name of the run: "finished", "diverged" and "started" ones
    Starts starts;         // train.init of the runs
    double costs[2];       // of method auto, where runs share them: exact, lowrank, as the first measured them; 0: not yet
} Sweep;

// "key=v1,v2" to an axis; the values are checked when runs are made of them.
static bool add_axis(Sweep *sweep, const char *list, Error *error) {
    if (sweep->axis_count == SWEEP_AXES)
        return error_set(error, ERROR_USER, "--sweep can be given %d times.", SWEEP_AXES);
    size_t key = strcspn(list, "=");
    if (!list[key] || !list[key + 1])
        return error_set(error, ERROR_USER, "--sweep takes KEY=VALUE,VALUE..., such as optim.learning_rate=1e-3,2e-3.");
    Axis *axis = &sweep->axes[sweep->axis_count++];
    if (!(axis->text = strdup(list))) return error_set(error, ERROR_MEMORY, "Out of memory.");
    axis->text[key] = 0;
    axis->key = axis->text;
    axis->label = strchr(axis->key, '.') ? strchr(axis->key, '.') + 1 : axis->key;
    axis->count = list_words(axis->text + key + 1, axis->values, SWEEP_VALUES);
    if (!axis->count) return error_set(error, ERROR_USER, "--sweep %s: at most %d values.", axis->key, SWEEP_VALUES);
    if (!strcmp(axis->key, "train.out"))
        return error_set(error, ERROR_USER,
                         "train.out cannot be swept: the runs' directories follow from their values.");
    for (size_t a = 0; a + 1 < sweep->axis_count; a++) {
        if (!strcmp(sweep->axes[a].key, axis->key))
            return error_set(error, ERROR_USER, "--sweep %s is given twice: list its values once.", axis->key);
        if (!strcmp(sweep->axes[a].label, axis->label)) axis->label = axis->key; // model.tokens and train.tokens
    }
    return true;
}

static bool make_axes(Sweep *sweep, const char *const *lists, size_t count, Error *error) {
    sweep->run_count = 1;
    for (size_t i = 0; i < count; i++) {
        if (!add_axis(sweep, lists[i], error)) return false;
        if (!size_multiply(sweep->run_count, sweep->axes[i].count, &sweep->run_count) || sweep->run_count > SWEEP_RUNS)
            return error_set(error, ERROR_USER, "These lists make more than %d runs.", SWEEP_RUNS);
    }
    return true;
}

// The value of an axis in a run; the last axis changes fastest.
static const char *value_of(const Sweep *sweep, size_t run, size_t axis) {
    for (size_t a = sweep->axis_count; --a > axis;) run /= sweep->axes[a].count;
    return sweep->axes[axis].values[run % sweep->axes[axis].count];
}

// "learning_rate=1e-3,width=64": what the table and the directory call it.
static bool run_name(const Sweep *sweep, size_t run, char name[NAME_SIZE], Error *error) {
    size_t used = 0;
    for (size_t a = 0; a < sweep->axis_count; a++) {
        used += (size_t)snprintf(name + used, NAME_SIZE - used, "%s%s=%s", a ? "," : "", sweep->axes[a].label,
                                 value_of(sweep, run, a));
        if (used >= NAME_SIZE) return error_set(error, ERROR_USER, "--sweep: the values are too long for a directory.");
    }
    for (char *at = name; *at; at++)
        if (*at == '/') *at = '_';
    return true;
}

// The resolved configuration of a run, or what is wrong with it.
static bool run_config(const Sweep *sweep, size_t run, char name[NAME_SIZE], Config *config, Error *error) {
    char assignment[2 * CONFIG_TEXT];
    *config = *sweep->base;
    if (!run_name(sweep, run, name, error)) return false;
    for (size_t a = 0; a < sweep->axis_count; a++) {
        if (snprintf(assignment, sizeof assignment, "%s=%s", sweep->axes[a].key, value_of(sweep, run, a)) >=
            (int)sizeof assignment)
            return error_set(error, ERROR_USER, "--sweep: the value is too long.");
        if (!config_set(config, assignment, ORIGIN_COMMAND_LINE, error)) return false;
        if (!strcmp(sweep->axes[a].key, "train.steps")) config->train_tokens = 0; // would make all of them alike
    }
    if (snprintf(config->out, sizeof config->out, "%s/%s", sweep->base->out, name) >= (int)sizeof config->out)
        return error_set(error, ERROR_USER, "The path %s/%s is too long.", sweep->base->out, name);
    if (config_resolve(config, error)) return true;
    error_context(error, "%s", name);
    return false;
}

// The values of a run as the settings have them: 1e-3 and 0.001 are the same. Malloc'd; NULL without memory.
static char *values_text(const Sweep *sweep, const Config *config) {
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    for (size_t a = 0; out && a < sweep->axis_count; a++) {
        char value[CONFIG_TEXT];
        config_value(config, config_key(sweep->axes[a].key), value);
        fprintf(out, "%s\n", value);
    }
    const bool whole = out && !ferror(out);
    if (out && fclose(out) == 0 && whole) return text;
    free(text);
    return NULL;
}

static bool check_new(const Sweep *sweep, const char *name, const Config *config, json_t *names, Error *error) {
    char *values = values_text(sweep, config);
    bool fine = values || error_set(error, ERROR_MEMORY, "Out of memory.");
    const char *before = fine ? json_string_value(json_object_get(names, values)) : NULL;
    if (before)
        fine = strcmp(before, name) ? error_set(error, ERROR_USER, "--sweep: %s is the same as %s.", name, before)
                                    : error_set(error, ERROR_USER, "--sweep lists %s twice.", name);
    const char *other;
    json_t *named;
    json_object_foreach(names, other, named)
        if (fine && !strcmp(json_string_value(named), name)) // of other values: a name has no slashes
            fine = error_set(error, ERROR_USER, "--sweep: two runs would have the directory %s.", name);
    if (fine && json_object_set_new(names, values, json_string(name)) != 0)
        fine = error_set(error, ERROR_MEMORY, "Out of memory.");
    free(values);
    return fine;
}

// Every run makes sense, has data and fits before the first one starts.
static bool check_runs(const Sweep *sweep, Config *config, Error *error) {
    json_t *names = json_object();
    Estimate estimate;
    char name[NAME_SIZE];
    DataIdentity first = {0};
    bool more = false, others = false, warned = false;
    bool fine = names || error_set(error, ERROR_MEMORY, "Out of memory.");
    for (size_t run = 0; fine && run < sweep->run_count; run++) {
        fine = run_config(sweep, run, name, config, error) && check_new(sweep, name, config, names, error);
        if (fine && (!batches_check(config, error) || !estimate_memory(config, &estimate, error) ||
                     !estimate_fits(config, &estimate, error))) {
            error_context(error, "%s", name);
            fine = false;
        }
        if (!fine) break;
        warned = warned || config_warn_of_no_window(config);
        const DataIdentity data = batches_judge(config);
        if (run == 0) first = data;
        others = others || data.held_out != first.held_out;
        more = more || data.judging != first.judging;
    }
    if (fine && others)
        fprintf(stderr, "rope: The runs' held-out losses will be of different data, so the lowest does not tell which run "
                        "is best.\n");
    else if (fine && more)
        fprintf(stderr, "rope: The runs' held-out losses will be of more or less of the data, for train.eval_batches "
                        "counts batches; with train.eval_batches=0 they can be compared.\n");
    json_decref(names);
    return fine;
}

// Another sweep may have begun there, and ended too, while the runs were looked at.
static bool take_place(Sweep *sweep, bool resume, Error *error) {
    const char *out = sweep->base->out;
    if (!directory_make(out, error)) return false;
    snprintf(sweep->place.path, sizeof sweep->place.path, "%s", out);
    sweep->place.lock = directory_lock(out, "swept", error);
    return sweep->place.lock >= 0 && run_may_use(out, USE_SWEEP, resume, error);
}

static bool open_record(Sweep *sweep, Error *error) {
    size_t size;
    if (!path_join(sweep->record, sizeof sweep->record, sweep->base->out, "sweep.json", error)) return false;
    if (access(sweep->record, F_OK) != 0) {
        sweep->rows = json_object();
        return sweep->rows || error_set(error, ERROR_MEMORY, "Out of memory.");
    }
    char *text = file_read_all(sweep->record, record_limit, &size, error);
    sweep->rows = text ? json_parse(sweep->record, "contents", text, size, error) : NULL;
    free(text);
    bool whole = json_is_object(sweep->rows);
    const char *name;
    json_t *row;
    json_object_foreach(sweep->rows, name, row) {
        whole = whole && json_is_string(json_object_get(row, "name")) && json_is_string(json_object_get(row, "state"));
        if (!starts_recall(&sweep->starts, json_object_get(row, "init"), error)) return false;
        for (size_t i = 0; i < 2; i++) {
            const double cost = json_real_value(json_array_get(json_object_get(row, "costs"), i));
            if (cost > 0) sweep->costs[i] = cost;
        }
    }
    return whole || error_set(error, ERROR_CORRUPT, "%s is not a sweep's.", sweep->record);
}

static bool save_record(const Sweep *sweep, Error *error) {
    char *text = json_print(sweep->rows, JSON_INDENT(1) | JSON_REAL_PRECISION(17));
    if (!text) return error_set(error, ERROR_MEMORY, "Out of memory for %s.", sweep->record);
    bool saved = file_write_atomic(sweep->record, text, strlen(text), error);
    free(text);
    return saved;
}

// A run that is started and what it is made of; with `outcome`, what it came to as well.
static json_t *row_json(const Sweep *sweep, size_t run, const char *name, const Config *config,
                        const DataIdentity *data, const TrainOutcome *outcome) {
    json_t *settings = json_object();
    for (size_t a = 0; a < sweep->axis_count; a++)
        json_object_set_new(settings, sweep->axes[a].key, json_string(value_of(sweep, run, a)));
    json_t *row = json_pack("{s:s, s:o, s:s, s:I, s:[I, I], s:s}", "name", name, "settings", settings, "out",
                            config->out, "fingerprint", (json_int_t)config_fingerprint(config), "data",
                            (json_int_t)data->train, (json_int_t)data->held_out, "state",
                            outcome ? outcome->diverged ? "diverged" : "finished" : "started");
    json_t *start = json_object_get(sweep->starts.record, config->init);
    if (start) json_object_set_new(row, "init", json_pack("{s:O}", config->init, start));
    if (sweep->costs[0] > 0) json_object_set_new(row, "costs", json_pack("[f, f]", sweep->costs[0], sweep->costs[1]));
    if (!outcome) return row;
    json_t *figures =
        json_pack("{s:I, s:o, s:o, s:o, s:o, s:o, s:f}", "step", (json_int_t)outcome->step, "loss",
                  figure_json(outcome->loss), "held_out_loss", figure_json(outcome->held_out_loss), "perplexity",
                  figure_json(exp(outcome->held_out_loss)), "accuracy", figure_json(outcome->accuracy), "step_ms",
                  figure_json(1e3 * outcome->step_seconds), "seconds", outcome->seconds);
    json_object_update(row, figures); // json_print tells of a failure
    json_decref(figures);
    return row;
}

static bool is_started(const json_t *row) {
    return !strcmp(json_string_value(json_object_get(row, "state")), "started");
}

// What the newest checkpoint says of itself: somebody may have gone on with the run by hand, or it is not of this sweep. One
// that is not whole tells nothing, and is passed over when it is resumed.
static bool is_of_others(const Config *config, const DataIdentity *data, bool *other_data) {
    char checkpoint[RUN_PATH];
    uint32_t fingerprint;
    RunState state;
    *other_data = false;
    if (!run_find_checkpoint(config->out, checkpoint, NULL) || !state_read(checkpoint, &state, NULL, NULL, &fingerprint, NULL))
        return false;
    *other_data = state.data_checksum && data->train && state.data_checksum != data->train;
    return fingerprint != config_fingerprint(config);
}

// Whether an earlier session has done the run. Fails where it did, or began to, with other settings or on other data.
static bool check_done(const Sweep *sweep, const char *name, const Config *config, const DataIdentity *data, bool resume,
                       bool *done, Error *error) {
    const json_t *row = json_object_get(sweep->rows, name);
    *done = row && !is_started(row);
    // One without a checkpoint begins anew, with whatever it is given.
    if (!*done && run_may_use(config->out, USE_RUN, false, NULL)) return true;
    if (!row && !resume) return run_may_use(config->out, USE_RUN, false, error);
    bool other_data = false;
    const bool others = !*done && is_of_others(config, data, &other_data);
    if (other_data || (row && !batches_same_data(json_object_get(row, "data"), data)))
        return error_set(error, ERROR_USER,
                         "%s was run on other data: a sweep's losses must be of the same. Give it those it was made with, or "
                         "another --train.out.",
                         config->out);
    const bool same = !row || json_integer_value(json_object_get(row, "fingerprint")) == (json_int_t)config_fingerprint(config);
    if (same && !others) return true;
    return error_set(error, ERROR_USER,
                     "%s was run with other settings: give those it was made with, or another --train.out.",
                     config->out);
}

static const char go_on[] = " Go on with the same command and --resume.";

// Takes the reference.
static bool record(const Sweep *sweep, const char *name, json_t *row, Error *error) {
    json_object_set_new(sweep->rows, name, row); // save_record tells of a failure
    // What is there now may be another sweep's.
    if (!run_check_place(&sweep->place, error)) return false;
    Error why = {0};
    if (save_record(sweep, &why)) return true;
    return error_set(error, why.kind, "%s. The sweep ends at %s.%s", why.message, name, go_on);
}

// Runs that measured for themselves could choose otherwise, and would not be of one function. Those whose attention differs
// have costs of their own.
static bool settle_costs(Sweep *sweep, Config *config, Error *error) {
    bool alike = true;
    for (size_t a = 0; a < sweep->axis_count; a++) {
        const char *key = sweep->axes[a].key;
        alike &= strncmp(key, "model.", 6) && strncmp(key, "attention.", 10) && strcmp(key, "train.batch") &&
                 strcmp(key, "train.threads");
    }
    if (!alike || !config_needs_costs(config)) return true;
    if (sweep->costs[0] > 0 && sweep->costs[1] > 0) {
        config_take_costs(config, sweep->costs[0], sweep->costs[1]);
        return true;
    }
    if (!config_measure_costs(config, error)) return false;
    sweep->costs[0] = config->cost_exact;
    sweep->costs[1] = config->cost_lowrank;
    return true;
}

// Every run that is still to be done. True as well when a signal stopped it.
static bool run_all(Sweep *sweep, bool resume, Config *config, TrainOutcome *outcome, Error *error) {
    char name[NAME_SIZE];
    for (size_t run = 0; run < sweep->run_count && !signals_stop; run++) {
        bool done;
        if (!run_config(sweep, run, name, config, error)) return false;
        const DataIdentity data = batches_identity(config);
        if (!check_done(sweep, name, config, &data, resume, &done, error)) return false;
        if (done) continue;
        const bool begins = run_may_use(config->out, USE_RUN, false, NULL);
        if (begins && (!starts_find(&sweep->starts, config, error) || !settle_costs(sweep, config, error))) return false;
        fprintf(stderr, "\n== %s (%zu of %zu)\n", name, run + 1, sweep->run_count);
        threads_set(config->threads);
        json_watch();
        if (!record(sweep, name, row_json(sweep, run, name, config, &data, NULL), error)) return false;
        Error ended = {0};
        if (!train_run(config, resume, outcome, &ended) && !outcome->diverged)
            return error_set(error, ended.kind, "The sweep ends at %s.%s", name, go_on);
        if (!outcome->finished && !outcome->diverged) return true; // a signal
        json_watch();
        if (!record(sweep, name, row_json(sweep, run, name, config, &data, outcome), error)) return false;
    }
    return true;
}

// The table's rows in the order of the runs, with the best marked; runs that are still to be done are left out.
static json_t *sweep_document(const Sweep *sweep) {
    json_t *rows = json_array(), *best = NULL;
    char name[NAME_SIZE];
    for (size_t run = 0; run < sweep->run_count; run++) {
        json_t *row = run_name(sweep, run, name, NULL) ? json_object_get(sweep->rows, name) : NULL;
        if (!row || is_started(row)) continue;
        double loss = figure_of(row, "held_out_loss");
        if (isfinite(loss) && strcmp(json_string_value(json_object_get(row, "state")), "diverged") &&
            (!best || loss < figure_of(best, "held_out_loss")))
            best = row;
        json_array_append(rows, row);
    }
    return json_pack("{s:s, s:I, s:b, s:o, s:O?}", "out", sweep->base->out, "runs", (json_int_t)sweep->run_count,
                     "complete", json_array_size(rows) == sweep->run_count, "rows", rows, "best",
                     json_object_get(best, "name"));
}

static void print_table(const json_t *document) {
    json_t *rows = json_object_get(document, "rows"), *row;
    const char *best = json_string_value(json_object_get(document, "best"));
    size_t index;
    int width = 8;
    json_array_foreach(rows, index, row) {
        int length = (int)json_string_length(json_object_get(row, "name"));
        if (length > width) width = length;
    }
    fprintf(stderr, "\n  %-*s %10s %10s %10s %10s\n", width, "run", "training", "held out", "accuracy", "step ms");
    json_array_foreach(rows, index, row) {
        const char *name = json_string_value(json_object_get(row, "name"));
        fprintf(stderr, "%s %-*s", best && !strcmp(name, best) ? "*" : " ", width, name);
        if (!strcmp(json_string_value(json_object_get(row, "state")), "diverged"))
            fprintf(stderr, "   diverged at step %.0f\n", figure_of(row, "step"));
        else
            fprintf(stderr, " %10.4f %10.4f %8.2f %% %10.1f\n", figure_of(row, "loss"), figure_of(row, "held_out_loss"),
                    100 * figure_of(row, "accuracy"), figure_of(row, "step_ms"));
    }
    if (best) fprintf(stderr, "* lowest held-out loss: %s\n", best);
}

// What each run would need, without running it.
static void list_runs(const Sweep *sweep, Config *config, bool json, Error *error) {
    json_t *rows = json_array();
    double minutes = 0;
    char name[NAME_SIZE];
    fprintf(stderr, "%zu runs below %s:\n", sweep->run_count, sweep->base->out);
    for (size_t run = 0; run < sweep->run_count; run++) {
        Estimate estimate;
        if (!run_config(sweep, run, name, config, error) || !estimate_memory(config, &estimate, error) ||
            !estimate_probe(config, &estimate, error)) {
            json_decref(rows);
            return;
        }
        double own = estimate.step_seconds * (double)config->steps / 60;
        minutes += own;
        fprintf(stderr, "  %s: %.3f M parameters, %.0f MiB, about %.1f min\n", name,
                (double)estimate.model.parameters / 1e6, (double)estimate.total_bytes / (1 << 20), own);
        json_array_append_new(
            rows, json_pack("{s:s, s:s, s:o}", "name", name, "out", config->out, "estimate", estimate_json(&estimate)));
    }
    fprintf(stderr, "about %.1f min in all\n", minutes);
    command_give_json(json_pack("{s:s, s:o}", "out", sweep->base->out, "rows", rows), json, error);
}

static void run_sweep(Sweep *sweep, bool resume, bool json, Config *config, Error *error) {
    static TrainOutcome outcome;
    if (!take_place(sweep, resume, error) || !open_record(sweep, error)) return;
    bool fine = run_all(sweep, resume, config, &outcome, error);
    json_t *document = sweep_document(sweep);
    if (json_array_size(json_object_get(document, "rows"))) print_table(document);
    if (signals_stop) fprintf(stderr, "rope: The sweep stops here.%s\n", go_on);
    command_give_json(document, json && fine, error);
}

int train_sweep(const Config *base, const char *const *lists, size_t count, bool resume, bool dry_run, bool json) {
    Error error = {0};
    Sweep *sweep = calloc(1, sizeof *sweep);
    Config *config = malloc(sizeof *config);
    if (!sweep || !config) {
        error_set(&error, ERROR_MEMORY, "Out of memory.");
    } else {
        sweep->base = base;
        sweep->place.lock = -1;
        if (starts_make(&sweep->starts, &error) && make_axes(sweep, lists, count, &error) &&
            run_may_use(base->out, USE_SWEEP, resume, &error) && check_runs(sweep, config, &error)) {
            if (dry_run)
                list_runs(sweep, config, json, &error);
            else
                run_sweep(sweep, resume, json, config, &error);
        }
        for (size_t a = 0; a < sweep->axis_count; a++) free(sweep->axes[a].text);
        json_decref(sweep->rows);
        starts_free(&sweep->starts);
        run_close(&sweep->place);
    }
    free(config);
    free(sweep);
    return error.kind == ERROR_NONE ? 0 : command_fail(&error);
}
