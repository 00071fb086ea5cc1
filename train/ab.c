// rope ab: the comparison's loop (ab.h).
#include "train/ab.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "core/files.h"
#include "core/threads.h"
#include "train/command.h"
#include "train/signals.h"
#include "train/snapshot.h"

static bool apply(Config *config, const char *assignment, Error *error) {
    return config_set(config, assignment, ORIGIN_COMMAND_LINE, error);
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
    }
}

// The arms: unbounded exact attention, lowrank, and for the control lowrank without its far field; then the overrides.
static bool make_arms(Ab *ab, const Config *base, const char *const *overrides, const size_t *counts, bool control,
                      Error *error) {
    static const char *const keys[AB_ARMS] = {"a", "b", "control"};
    ab->arm_count = control ? AB_ARMS : 2;
    for (size_t i = 0; i < ab->arm_count; i++) {
        AbArm *arm = &ab->arms[i];
        size_t from = i == 0 ? 0 : 1; // the control has b's overrides
        arm->key = keys[i];
        arm->config = *base;
        if (i == 0 && (!apply(&arm->config, "attention.method=exact", error) ||
                       !apply(&arm->config, "attention.bound=none", error)))
            return false;
        if (i > 0 && !apply(&arm->config, "attention.method=lowrank", error)) return false;
        for (size_t k = 0; k < counts[from]; k++)
            if (!apply(&arm->config, overrides[from * COMMAND_REPEATS + k], error)) return false;
        if (i == 2 && !apply(&arm->config, "attention.far=none", error)) return false;
        if (!config_resolve(&arm->config, error)) {
            error_context(error, "Arm %s", arm->key);
            return false;
        }
        name_arm(arm);
    }
    tell_apart(ab, overrides, counts);
    ab->steps = ab->arms[0].config.steps;
    ab->evaluation_limit = ab->arms[0].config.eval_batches;
    for (size_t i = 1; i < ab->arm_count; i++)
        if (ab->arms[i].config.steps != ab->steps || ab->arms[i].config.seed != ab->arms[0].config.seed)
            return error_set(error, ERROR_USER, "train.steps and train.seed are the same for all arms: set them once.");
    return true;
}

// All arms are in memory at once.
static bool check_memory(Ab *ab, Error *error) {
    size_t total = 0;
    for (size_t i = 0; i < ab->arm_count; i++) {
        Estimate *estimate = &ab->arms[i].estimate;
        if (!estimate_memory(&ab->arms[i].config, estimate, error)) return false;
        total += estimate->total_bytes;
        fprintf(stderr, "%-8s %s: %.3f M parameters, %.0f MiB, %.1f GFLOP a step\n", ab->arms[i].key, ab->arms[i].name,
                (double)estimate->model.parameters / 1e6, (double)estimate->total_bytes / (1 << 20),
                estimate->step_flops / 1e9);
    }
    size_t available = ab->arms[0].estimate.available_bytes;
    return total <= available ||
           error_set(error, ERROR_USER, "The arms need %.2f GiB together and %.2f GiB are available. Lower train.batch "
                     "or model.tokens.", (double)total / (1 << 30), (double)available / (1 << 30));
}

static bool make_tracks(Ab *ab, Error *error) {
    ab->tracks = calloc(ab->seed_count * AB_ARMS, sizeof *ab->tracks);
    ab->fidelity = json_array();
    ab->gradients = json_array();
    bool fine = ab->tracks && ab->fidelity && ab->gradients;
    for (size_t i = 0; fine && i < ab->seed_count * AB_ARMS; i++) {
        AbTrack *track = &ab->tracks[i];
        double **arrays[] = {&track->loss, &track->seconds, &track->eval_step, &track->eval_loss, &track->eval_seconds};
        for (size_t k = 0; k < sizeof arrays / sizeof *arrays; k++)
            fine = (*arrays[k] = calloc(ab->steps + 1, sizeof **arrays[k])) && fine;
    }
    return fine || error_set(error, ERROR_MEMORY, "Out of memory for the record of %zu steps.", ab->steps);
}

static void destroy(Ab *ab) {
    for (size_t i = 0; ab->tracks && i < ab->seed_count * AB_ARMS; i++) {
        AbTrack *track = &ab->tracks[i];
        free(track->loss);
        free(track->seconds);
        free(track->eval_step);
        free(track->eval_loss);
        free(track->eval_seconds);
    }
    free(ab->tracks);
    json_decref(ab->fidelity);
    json_decref(ab->gradients);
    free(ab);
}

// OUT/seed_1/a and so on: each a run directory of its own, for rope eval and rope sample.
static bool arm_directory(const Ab *ab, size_t arm, char path[RUN_PATH], Error *error) {
    char name[64];
    snprintf(name, sizeof name, "seed_%zu/%s", ab->seed + 1, ab->arms[arm].key);
    return path_join(path, RUN_PATH, ab->out, name, error);
}

// Checkpoints first, the record last: a record always has its checkpoints.
static bool save(const Ab *ab, Trainer *trainers, Error *error) {
    for (size_t i = 0; i < ab->arm_count; i++) {
        char path[RUN_PATH], saved[RUN_PATH];
        RunDirectory run;
        if (!arm_directory(ab, i, path, error) || !run_open(&run, path, error)) return false;
        bool fine = run_save(&run, &trainers[i], NULL, saved, error);
        run_close(&run);
        if (!fine) return false;
    }
    return ab_progress_save(ab, error);
}

static bool load(const Ab *ab, Trainer *trainers, Error *error) {
    for (size_t i = 0; i < ab->arm_count; i++) {
        char path[RUN_PATH], checkpoint[RUN_PATH], name[64];
        snprintf(name, sizeof name, "step_%08zu", ab->step);
        if (!arm_directory(ab, i, path, error) || !path_join(checkpoint, sizeof checkpoint, path, name, error) ||
            !snapshot_load(checkpoint, &trainers[i], error))
            return false;
    }
    return true;
}

static bool step_arm(Ab *ab, size_t arm, Trainer *trainer, Error *error) {
    AbTrack *track = ab_track(ab, ab->seed, arm);
    StepResult result;
    PhaseTimes phases;
    phase_take(&phases); // discard what ran in between
    double start = clock_seconds();
    if (!trainer_step(trainer, &result, error)) return false;
    track->seconds[ab->step] = clock_seconds() - start;
    track->loss[ab->step] = result.loss;
    phase_take(&phases);
    if (ab->step < AB_WARMUP) return true;
    for (size_t p = 0; p < PHASE_COUNT; p++) {
        track->phases.seconds[p] += phases.seconds[p];
        track->phases.flops[p] += phases.flops[p];
        track->phases.bytes[p] += phases.bytes[p];
    }
    return true;
}

static bool evaluate_arms(Ab *ab, Trainer *trainers, Error *error) {
    for (size_t i = 0; i < ab->arm_count; i++) {
        AbTrack *track = ab_track(ab, ab->seed, i);
        if (!evaluate(trainers[i].model, trainers[i].held_out, ab->evaluation_limit, NULL, &track->final, error))
            return false;
        double spent = 0;
        for (size_t s = 0; s < ab->step; s++) spent += track->seconds[s];
        track->eval_step[track->evaluations] = (double)ab->step;
        track->eval_loss[track->evaluations] = track->final.loss;
        track->eval_seconds[track->evaluations] = spent;
        track->evaluations++;
        track->bits_per_byte = bits_per_byte(track->final.loss, &trainers[i].meta);
    }
    return ab_fidelity(ab, &trainers[0], &trainers[1], error);
}

static void show(const Ab *ab) {
    fprintf(stderr, "seed %zu/%zu  step %zu/%zu", ab->seed + 1, ab->seed_count, ab->step, ab->steps);
    for (size_t i = 0; i < ab->arm_count; i++) {
        const AbTrack *track = ab_track(ab, ab->seed, i);
        fprintf(stderr, "  %s: loss %.4f, held out %.4f, %.0f ms", ab->arms[i].key, track->loss[ab->step - 1],
                track->final.loss, 1e3 * track->seconds[ab->step - 1]);
    }
    fputc('\n', stderr);
}

// Trains all arms under one seed from ab->step on. Returns true as well when a signal stopped it.
static bool run_seed(Ab *ab, Trainer *trainers, Error *error) {
    size_t every = ab->arms[0].config.eval_every ? ab->arms[0].config.eval_every : ab->steps;
    while (ab->step < ab->steps && !signals_stop) {
        for (size_t i = 0; i < ab->arm_count; i++) {
            size_t arm = ab->step % 2 ? ab->arm_count - 1 - i : i;
            if (!step_arm(ab, arm, &trainers[arm], error)) return false;
        }
        ab->step++;
        if (ab->step % every && ab->step != ab->steps) continue;
        if (!evaluate_arms(ab, trainers, error)) return false;
        show(ab);
        if (!save(ab, trainers, error)) return false;
    }
    return !signals_stop || save(ab, trainers, error);
}

static bool run(Ab *ab, bool resumed, Error *error) {
    for (; ab->seed < ab->seed_count && !signals_stop; ab->seed++, ab->step = 0) {
        if (ab->step == ab->steps) continue; // a finished seed that was loaded
        Trainer trainers[AB_ARMS] = {0};
        bool fine = true;
        for (size_t i = 0; fine && i < ab->arm_count; i++) {
            ab->arms[i].config.seed = ab->arms[0].config.seed;
            fine = trainer_create(&trainers[i], &ab->arms[i].config, true, error);
        }
        if (fine && resumed && ab->step > 0) fine = load(ab, trainers, error);
        fine = fine && run_seed(ab, trainers, error);
        for (size_t i = 0; i < ab->arm_count; i++) trainer_destroy(&trainers[i]);
        if (!fine) return false;
        if (signals_stop) break;
        for (size_t i = 0; i < ab->arm_count; i++) ab->arms[i].config.seed++;
    }
    return true;
}

static int compare(Ab *ab, bool resume, bool json, Error *error) {
    bool found = false;
    if (!directory_make(ab->out, error) || !check_memory(ab, error) || !make_tracks(ab, error)) return 2;
    if (resume && !ab_progress_load(ab, &found, error)) return 2;
    if (found) fprintf(stderr, "resuming %s at seed %zu, step %zu\n", ab->out, ab->seed + 1, ab->step);
    for (size_t i = 0; i < ab->arm_count; i++) ab->arms[i].config.seed += ab->seed;
    signals_catch();
    bool fine = run(ab, found, error);
    for (size_t i = 0; i < ab->arm_count; i++) ab->arms[i].config.seed = ab->arms[i].config.seed - ab->seed;
    if (ab->seed == 0 && ab->step == 0) return error_exit_code(error);
    // Whatever ended it, what was measured so far is reported.
    char path[RUN_PATH], json_path[RUN_PATH];
    Error late = {0};
    json_t *document = ab_document(ab);
    bool written = path_join(path, sizeof path, ab->out, "report.html", &late) &&
                   path_join(json_path, sizeof json_path, ab->out, "report.json", &late);
    json_object_set_new(document, "report", json_string(path));
    char *text = json_dumps(document, JSON_INDENT(1));
    written = written && ab_write_report(ab, document, path, &late) &&
              file_write_atomic(json_path, text, strlen(text), &late);
    free(text);
    ab_print(ab, document);
    if (written) fprintf(stderr, "report: %s\n", path);
    else if (fine) *error = late;
    if (signals_stop) fprintf(stderr, "rope: Stopped, as asked. Go on with the same command and --resume.\n");
    if (json) command_print_json(document);
    else json_decref(document);
    return error_exit_code(error);
}

int command_ab(int argc, char **argv) {
    enum { A, B, CONTROL, SEEDS, OUT, RESUME, OPTIONS };
    static const CommandOption options[] = {
        {"a", 'a', "K=V", "a setting of arm a (may be given again); default: exact, unbounded"},
        {"b", 'b', "K=V", "a setting of arm b (may be given again); default: lowrank"},
        {"control", 0, NULL, "a third arm: b without its far field, the window alone"},
        {"seeds", 's', "N", "repeat with N seeds, train.seed and those after it (1)"},
        {"out", 'o', "DIR", "where checkpoints and the report go (train.out)"},
        {"resume", 'r', NULL, "go on with the comparison in DIR"},
        {NULL, 0, NULL, NULL},
    };
    const char *values[OPTIONS];
    static CommandLine line;
    Error error = {0};
    command_parse(command_find("ab"), options, values, argc, argv, &line);
    Ab *ab = calloc(1, sizeof *ab);
    REQUIRE(ab);
    const char *overrides[2 * COMMAND_REPEATS];
    size_t counts[2] = {command_repeated(&line, "a", overrides), command_repeated(&line, "b", overrides + COMMAND_REPEATS)};
    ab->seed_count = (size_t)command_integer("seeds", values[SEEDS], 1, 1, 1000);
    snprintf(ab->out, sizeof ab->out, "%s", values[OUT] ? values[OUT] : line.config.out);
    int code = 2;
    if (make_arms(ab, &line.config, overrides, counts, values[CONTROL] != NULL, &error)) {
        threads_set(ab->arms[0].config.threads);
        code = compare(ab, values[RESUME] != NULL, line.json, &error);
    }
    destroy(ab);
    return error.kind == ERROR_NONE ? code : command_fail(&error);
}
