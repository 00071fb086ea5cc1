// rope ab: training the arms, their steps taking turns, and what is saved on the way (ab.h).
#include <stdlib.h>

#include "core/files.h"
#include "train/ab.h"
#include "train/signals.h"
#include "train/snapshot.h"

// OUT/seed_1/a and so on: each a run directory of its own, for rope eval.
static bool arm_directory(const Ab *ab, size_t arm, char path[RUN_PATH], Error *error) {
    char name[64];
    snprintf(name, sizeof name, "seed_%zu/%s", ab->seed + 1, ab->arms[arm].key);
    return path_join(path, RUN_PATH, ab->run.path, name, error);
}

static void note_safe(Ab *ab) {
    ab->safe = true;
    ab->safe_seed = ab->seed;
    ab->safe_step = ab->step;
}

// Checkpoints first, the record last: a record always has its checkpoints. Nothing of it goes into a directory that has
// taken the place of ours: the lock is on ours, and what is there may be another comparison.
static bool save(Ab *ab, Trainer *trainers, Error *error) {
    if (!run_check_place(&ab->run, error)) return false;
    for (size_t i = 0; i < ab->arm_count; i++) {
        char path[RUN_PATH], saved[RUN_PATH];
        RunDirectory run;
        if (!arm_directory(ab, i, path, error) || !run_open(&run, path, error)) return false;
        bool fine = run_save(&run, &trainers[i], ab->tokenizer, saved, error);
        run_close(&run);
        if (!fine) return false;
    }
    if (!ab_progress_save(ab, error)) return false;
    note_safe(ab);
    return true;
}

static bool load(Ab *ab, Trainer *trainers, Error *error) {
    for (size_t i = 0; i < ab->arm_count; i++) {
        char path[RUN_PATH], checkpoint[RUN_PATH], name[64];
        snprintf(name, sizeof name, "step_%08zu", ab->step);
        if (!arm_directory(ab, i, path, error) || !path_join(checkpoint, sizeof checkpoint, path, name, error) ||
            !snapshot_load(checkpoint, &trainers[i], error))
            return false;
    }
    note_safe(ab);
    return true;
}

bool ab_timed(const Ab *ab, size_t seed, size_t step) {
    size_t index;
    json_t *session;
    json_array_foreach(ab->sessions, index, session) {
        size_t start = (size_t)json_integer_value(json_array_get(session, 1));
        if ((size_t)json_integer_value(json_array_get(session, 0)) == seed && step >= start && step < start + AB_WARMUP)
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
    if (!ab_timed(ab, ab->seed, ab->step)) return true;
    phase_add(&track->phases, &phases, 1);
    return true;
}

// The step at hand asks for an evaluation that the tracks do not have: so it is also after an interruption in one.
static bool evaluation_due(const Ab *ab) {
    const AbTrack *track = ab_track(ab, ab->seed, 0);
    size_t every = ab->arms[0].config.eval_every ? ab->arms[0].config.eval_every : ab->steps;
    if (ab->step == 0 || (ab->step % every && ab->step != ab->steps)) return false;
    return track->evaluations == 0 || track->eval_step[track->evaluations - 1] != (double)ab->step;
}

// Arms of other batches or contexts are judged by as many tokens of the held-out data as train.eval_batches of a are:
// further on the text may be harder. Examples of a task are counted as such.
static uint64_t held_out_sequences(const Ab *ab, const Trainer *trainers, size_t arm) {
    const Config *a = &ab->arms[0].config, *config = &ab->arms[arm].config;
    if (a->eval_batches == 0) return 0;
    uint64_t wanted = trainer_held_out_sequences(&trainers[0]);
    if (config->tokens == a->tokens || *config->task) return wanted;
    wanted = wanted * a->tokens / config->tokens; // it fits: below 2^31 tokens for each of a shard's
    return wanted ? wanted : 1;
}

// A stop signal leaves the evaluation due.
static bool evaluate_arms(Ab *ab, Trainer *trainers, Error *error) {
    Evaluation evaluations[AB_ARMS];
    for (size_t i = 0; i < ab->arm_count; i++) {
        if (!evaluate(trainers[i].model, trainers[i].held_out, held_out_sequences(ab, trainers, i), &signals_stop,
                      &evaluations[i], error))
            return false;
        if (evaluations[i].stopped) return true;
    }
    if (!ab_fidelity(ab, &trainers[0], &trainers[1], error)) return false;
    for (size_t i = 0; i < ab->arm_count; i++) {
        AbTrack *track = ab_track(ab, ab->seed, i);
        double spent = 0;
        for (size_t s = 0; s < ab->step; s++) spent += track->seconds[s];
        track->final = evaluations[i];
        track->eval_step[track->evaluations] = (double)ab->step;
        track->eval_loss[track->evaluations] = track->final.loss;
        track->eval_seconds[track->evaluations] = spent;
        track->evaluations++;
        track->bits_per_byte = bits_per_byte(track->final.loss, &trainers[i].meta);
    }
    return true;
}

static void show(const Ab *ab) {
    fprintf(stderr, "seed %zu/%zu  step %zu/%zu", ab->seed + 1, ab->seed_count, ab->step, ab->steps);
    for (size_t i = 0; i < ab->arm_count; i++) {
        const AbTrack *track = ab_track(ab, ab->seed, i);
        fprintf(stderr, "  %s: held out %.4f", ab->arms[i].key, track->final.loss);
        if (*ab->arms[i].config.task) fprintf(stderr, " (%.1f %% right)", 100 * track->final.accuracy);
        fprintf(stderr, ", %.0f ms", 1e3 * track->seconds[ab->step - 1]);
    }
    fputc('\n', stderr);
}

static bool step_arms(Ab *ab, Trainer *trainers, Error *error) {
    for (size_t i = 0; i < ab->arm_count; i++) {
        size_t arm = ab->step % 2 ? ab->arm_count - 1 - i : i;
        if (!step_arm(ab, arm, &trainers[arm], error)) return false;
    }
    ab->step++;
    return true;
}

static bool seed_finished(const Ab *ab) { return ab->step == ab->steps && !evaluation_due(ab); }

// All steps and evaluations of one seed from ab->step on. Returns true as well when a signal stopped it.
static bool run_steps(Ab *ab, Trainer *trainers, Error *error) {
    while (!seed_finished(ab) && !signals_stop) {
        if (!evaluation_due(ab)) {
            if (!step_arms(ab, trainers, error)) return false;
            continue;
        }
        if (!evaluate_arms(ab, trainers, error)) return false;
        if (evaluation_due(ab)) break;
        show(ab);
        if (!save(ab, trainers, error)) return false;
    }
    return !signals_stop || save(ab, trainers, error);
}

static bool run_seed(Ab *ab, Error *error) {
    Trainer trainers[AB_ARMS] = {0};
    Config *configs = malloc(AB_ARMS * sizeof *configs);
    bool fine = configs || error_set(error, ERROR_MEMORY, "Out of memory for the arms' settings.");
    for (size_t i = 0; fine && i < ab->arm_count; i++) {
        configs[i] = ab->arms[i].config;
        configs[i].seed = ab_seed(ab, ab->seed);
        // While the arms' checkpoints are being replaced one by one, the record still speaks of the ones before.
        if (configs[i].keep < 2) configs[i].keep = 2;
        fine = (ab->step > 0 || starts_find(&ab->starts, &configs[i], error)) &&
               trainer_create(&trainers[i], &configs[i], true, error) &&
               (ab->step > 0 || run_initialise(&trainers[i], (char[RUN_PATH]){0}, error));
        if (!fine) error_context(error, "Arm %s", ab->arms[i].key);
    }
    if (fine && ab->step > 0) fine = load(ab, trainers, error);
    if (fine && json_array_append_new(ab->sessions, json_pack("[I, I]", (json_int_t)ab->seed, (json_int_t)ab->step)))
        fine = error_set(error, ERROR_MEMORY, "Out of memory for the record of the comparison.");
    fine = fine && run_steps(ab, trainers, error);
    for (size_t i = 0; i < ab->arm_count; i++) trainer_destroy(&trainers[i]);
    free(configs);
    return fine;
}

static bool run_seeds(Ab *ab, Error *error) {
    while (ab->seed < ab->seed_count && !signals_stop) {
        if (!seed_finished(ab) && !run_seed(ab, error)) return false;
        if (!seed_finished(ab)) break;
        ab->seed++;
        ab->step = 0;
    }
    return true;
}

bool ab_run(Ab *ab, Error *error) {
    if (seed_finished(ab)) note_safe(ab); // as it was loaded: no checkpoint is needed to go on from there
    ab->tokenizer = snapshot_data_tokenizer(ab->arms[0].config.data_dir, error);
    const bool fine = error->kind == ERROR_NONE && run_seeds(ab, error);
    if (ab->tokenizer) tokenizer_free(ab->tokenizer);
    ab->tokenizer = NULL;
    return fine;
}
