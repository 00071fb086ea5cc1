// rope train: the loop around the steps. Each step is followed by what is due, in this order: metrics, evaluation,
// sample, checkpoint. A run that stops between any two of them goes on with the next one.
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/files.h"
#include "core/threads.h"
#include "train/command.h"
#include "train/figures.h"
#include "train/metrics.h"
#include "train/sampler.h"
#include "train/signals.h"
#include "train/snapshot.h"
#include "train/statistics.h"
#include "train/train.h"

enum { SKIPS_IN_ROW = 10, SAMPLE_TOKENS = 60, TIMED_STEPS = 1024 };
static const size_t settings_limit = (size_t)1 << 24;

typedef struct Run {
    Config settings;
    const Config *config; // those settings
    RunDirectory directory;
    Trainer trainer;
    Metrics metrics;
    Tokenizer *tokenizer; // NULL: synthetic data, or shards without one
    TrainOutcome *outcome;
    double step_seconds[TIMED_STEPS]; // of the last steps, in a ring
    uint64_t session_steps;
} Run;

static bool save(Run *run, Error *error) {
    Phase before = phase_enter(PHASE_CHECKPOINT);
    char *checkpoint = run->outcome->checkpoint;
    bool anew;
    bool saved = run_keep_place(&run->directory, run->config, checkpoint, &anew, error) &&
                 (!anew || metrics_move(&run->metrics, &run->directory, error)) &&
                 metrics_flush(&run->metrics, error) &&
                 run_save(&run->directory, &run->trainer, run->tokenizer, checkpoint, error);
    phase_enter(before);
    return saved;
}

// *evaluation.stopped: a signal came first.
static bool find_figures(Run *run, Evaluation *evaluation, Error *error) {
    Trainer *trainer = &run->trainer;
    if (!evaluate(trainer->model, trainer->held_out, trainer_held_out_sequences(trainer), &signals_stop, evaluation,
                  error))
        return false;
    if (evaluation->stopped) return true;
    run->outcome->held_out_step = trainer->state.step;
    run->outcome->held_out_loss = evaluation->loss;
    run->outcome->accuracy = evaluation->accuracy;
    run->outcome->bits_per_byte = bits_per_byte(evaluation->loss, &trainer->meta);
    return true;
}

// Sets *improved when this step is the best so far. A stop signal leaves the evaluation due.
static bool run_evaluation(Run *run, bool *improved, Error *error) {
    RunState *state = &run->trainer.state;
    Evaluation evaluation;
    if (!find_figures(run, &evaluation, error)) return false;
    if (evaluation.stopped) return true;
    state->eval_due = false;
    const bool comparable = state->best_step && !trainer_judge_differs(&run->trainer);
    *improved =
        isfinite(evaluation.loss) && !state->skipped_in_row && (!comparable || evaluation.loss < state->best_loss);
    if (*improved) {
        state->best_loss = evaluation.loss;
        state->best_step = state->step;
        state->judged_by = trainer_judge(&run->trainer);
    }
    metrics_say(&run->metrics, "held out at step %llu: loss %.4f, perplexity %.2f, accuracy %.2f %%%s",
                (unsigned long long)state->step, unsigned_nan(evaluation.loss), unsigned_nan(exp(evaluation.loss)),
                100 * evaluation.accuracy, *improved ? ", the best so far" : "");
    return metrics_evaluation(&run->metrics, &run->trainer, &evaluation, error);
}

static void write_to_error(void *context, const char *text, size_t size) {
    (void)context;
    fwrite(text, 1, size, stderr);
}

static bool asked_to_stop(void) { return signals_stop != 0; }

static void show_sample(Run *run) {
    if (!run->tokenizer) return;
    SamplerSettings settings = {.temperature = 0.8, .top_k = 40, .top_p = 1, .seed = run->trainer.state.step};
    Writing writing = {
        .sampling = &settings, .prompt = "", .tokens = SAMPLE_TOKENS, .write = write_to_error, .stop = asked_to_stop};
    metrics_say(&run->metrics, "sample at step %llu:", (unsigned long long)run->trainer.state.step);
    Error why = {0}; // a run does not end for want of a sample
    bool fine = write_text(run->trainer.model, run->tokenizer, &writing, &why);
    fputc('\n', stderr);
    if (!fine) metrics_say(&run->metrics, "rope: The sample ends here: %s", why.message);
}

static bool due(uint64_t step, size_t every) { return every && step % every == 0; }

static bool run_step(Run *run, Error *error) {
    Trainer *trainer = &run->trainer;
    RunState *state = &trainer->state;
    StepResult result;
    double start = clock_seconds();
    if (!trainer_step(trainer, &result, error)) return false;
    double seconds = clock_seconds() - start;
    run->step_seconds[run->session_steps++ % TIMED_STEPS] = seconds;
    bool last = state->step == run->config->steps, logged = trainer_logs(run->config, state->step);
    metrics_show(&run->metrics, trainer, &result, seconds, logged);
    if (result.skipped)
        metrics_say(&run->metrics,
                    "rope: Step %llu is skipped: loss %g, gradient norm %g. Weights and moments are as "
                    "they were.",
                    (unsigned long long)state->step, unsigned_nan(result.loss), unsigned_nan(result.gradient_norm));
    run->outcome->diverged = state->skipped_in_row >= SKIPS_IN_ROW;
    if (run->outcome->diverged)
        return error_set(error, ERROR_CORRUPT,
                         "%d steps in a row had no finite loss and gradient, so the run stops at "
                         "step %llu. A lower optim.learning_rate, a longer optim.warmup or optim.clip help.",
                         SKIPS_IN_ROW, (unsigned long long)state->step);
    state->eval_due = last || due(state->step, run->config->eval_every);
    return !logged || metrics_step(&run->metrics, trainer, &result, error);
}

static bool end_unsaved(Run *run, Error *error) {
    run->outcome->diverged = true;
    return error_set(error, ERROR_CORRUPT,
                     "The last %llu of %zu steps had no finite loss and gradient, nor have the held-out data, so the "
                     "weights are not saved. A lower optim.learning_rate, a longer optim.warmup or optim.clip help.",
                     (unsigned long long)run->trainer.state.skipped_in_row, run->config->steps);
}

static bool run_steps(Run *run, Error *error) {
    RunState *state = &run->trainer.state;
    size_t steps = run->config->steps;
    bool late = false; // a checkpoint was due in a step that was skipped
    while (state->step < steps || state->eval_due) {
        bool improved = false;
        if (!state->eval_due && !run_step(run, error)) return false;
        if (state->eval_due && !run_evaluation(run, &improved, error)) return false;
        bool stop = signals_stop != 0;
        if (!stop && due(state->step, run->config->sample_every)) show_sample(run);
        bool ended = state->step == steps && !state->eval_due;
        bool wanted = stop || improved || late || due(state->step, run->config->save_every) || state->step == steps;
        // While steps are being skipped the last good checkpoint stays the last one, unless held-out data show at the
        // end that the weights are good.
        bool sound = !state->skipped_in_row || (ended && isfinite(run->outcome->held_out_loss));
        if (wanted && sound && !save(run, error)) return false;
        if (ended && !sound) return end_unsaved(run, error);
        late = wanted && !sound;
        // A run that is asked to stop while steps are being skipped goes on until one is not, which can be saved, or until
        // they are too many; but for an evaluation, which waits for its end.
        if (stop && (sound || state->eval_due)) break;
    }
    return true;
}

// Says what is safe and what to do, whatever ended the run.
static void explain_end(Run *run, const Error *error) {
    const char *path = run->directory.path, *saved = run->outcome->checkpoint;
    if (error->kind == ERROR_NONE && run->outcome->finished) {
        double mib = 1 << 20;
        metrics_say(&run->metrics, "done in %.1f s; saved in %s; peak memory %.0f MiB, %.0f MiB were estimated",
                    metrics_seconds(&run->metrics), saved, (double)peak_bytes() / mib,
                    (double)run->outcome->estimate.total_bytes / mib);
        return;
    }
    if (error->kind != ERROR_NONE)
        metrics_say(&run->metrics, "rope: %s", error->message);
    else
        metrics_say(&run->metrics, "rope: Stopped after step %llu of %zu, as asked.",
                    (unsigned long long)run->trainer.state.step, run->config->steps);
    if (!*saved)
        metrics_say(&run->metrics, "rope: No checkpoint was written yet; rope train starts the run again.");
    else
        metrics_say(&run->metrics, "rope: Safe is %s. Go on with: rope train --resume %s", saved, path);
}

json_t *train_outcome_json(const TrainOutcome *outcome) {
    json_t *document = json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:o, s:f, s:o, s:I, s:o}", "out", outcome->out,
                                 "checkpoint", outcome->checkpoint, "step", (json_int_t)outcome->step, "steps",
                                 (json_int_t)outcome->steps, "tokens", (json_int_t)outcome->tokens, "skipped",
                                 (json_int_t)outcome->skipped, "loss", figure_json(outcome->loss), "seconds",
                                 outcome->seconds, "step_ms", figure_json(1e3 * outcome->step_seconds), "peak_bytes",
                                 (json_int_t)peak_bytes(), "estimate", estimate_json(&outcome->estimate));
    if (isnan(outcome->accuracy)) return document; // there was no evaluation
    json_object_set_new(document, "held_out_step", json_integer((json_int_t)outcome->held_out_step));
    json_object_set_new(document, "held_out_loss", figure_json(outcome->held_out_loss));
    json_object_set_new(document, "perplexity", figure_json(exp(outcome->held_out_loss)));
    json_object_set_new(document, "accuracy", figure_json(outcome->accuracy));
    if (outcome->bits_per_byte > 0) json_object_set_new(document, "bits_per_byte", figure_json(outcome->bits_per_byte));
    return document;
}

// config.ini is written into the run directory; a file there that somebody wrote by hand would be lost, or one of another
// program.
static bool check_settings_file(const Config *config, const char *path, Error *error) {
    static Config read;
    Error why = {0};
    if (access(path, F_OK) != 0) return true;
    config_defaults(&read);
    if (!config_read(&read, path, &why))
        return error_set(error, why.kind, "It would be written over, and is no run's; choose another train.out: %s",
                         why.message);
    for (size_t i = 0; i < CONFIG_MAX_FILES && config->read[i]; i++) {
        const char *file = config->read[i];
        if (file_same(file, path))
            return error_set(error, ERROR_USER,
                             "%s would be written over with the settings of this run: give it another name, or choose "
                             "another train.out.",
                             file);
    }
    return true;
}

// train.tokens are those of the whole run. Steps of another size than before are as many as it takes from here on.
static void keep_token_budget(Run *run) {
    const RunState *state = &run->trainer.state;
    Config *config = &run->settings;
    if (!config->train_tokens) return;
    const uint64_t per_step = (uint64_t)config->batch * config->accumulate * config->tokens;
    const uint64_t left = state->tokens < config->train_tokens ? config->train_tokens - state->tokens : 0;
    const size_t steps = (size_t)(state->step + left / per_step + (left % per_step != 0));
    if (steps == config->steps) return;
    fprintf(stderr, "rope: %llu of train.tokens = %llu are done, so it ends at step %zu.\n",
            (unsigned long long)state->tokens, (unsigned long long)config->train_tokens, steps);
    config->steps = steps;
    run->trainer.schedule = config_schedule(config);
}

// Data without one, copied in part perhaps, do not take the tokenizer from a model that has one.
static bool keep_tokenizer(Run *run, const char *checkpoint, Error *error) {
    if (run->tokenizer || *run->config->task || !*checkpoint) return true;
    run->tokenizer = snapshot_data_tokenizer(checkpoint, error);
    if (run->tokenizer)
        fprintf(stderr, "rope: %s has no tokenizer.model; that of %s is kept.\n", run->config->data_dir, checkpoint);
    return error->kind == ERROR_NONE;
}

// Our own config.ini has no comments. One that has some was written by hand, and the first that a run writes would be the
// end of them.
static bool check_comments(const char *path, Error *error) {
    size_t size;
    char *text = file_read_all(path, settings_limit, &size, error);
    bool comments = false;
    for (const char *at = text; text && *at && !comments; at++)
        comments = strchr("#;", *at) && (at == text || strchr(" \t\n", at[-1]));
    free(text);
    if (!text) return false;
    return !comments || error_set(error, ERROR_USER,
                                  "%s would be written over, with the comments in it: give it another name, and start without "
                                  "--resume.",
                                  path);
}

// Opens or continues the run directory; after it, trainer and metrics stand at the same step.
static bool begin(Run *run, bool resume, Error *error) {
    bool found = false;
    char file[RUN_PATH];
    if (!run_open(&run->directory, run->config->out, error)) return false;
    const char *path = run->directory.path;
    if (!path_join(file, sizeof file, path, "config.ini", error) ||
        (!resume && !check_settings_file(run->config, file, error)) || !run_may_use(path, USE_RUN, resume, error))
        return false;
    if (!trainer_create(&run->trainer, run->config, true, error)) return false;
    run->tokenizer = snapshot_data_tokenizer(run->config->data_dir, error);
    if (error->kind != ERROR_NONE) return false;
    if (resume && !run_load_latest(&run->directory, &run->trainer, &found, error)) return false;
    if (!found && !run_check_gone(&run->directory, error)) return false;
    if (!found && resume && access(file, F_OK) == 0 && !check_comments(file, error)) return false;
    uint64_t step = run->trainer.state.step;
    if (found) {
        snprintf(run->outcome->checkpoint, RUN_PATH, "%.*s/step_%08llu", RUN_PATH - 32, path, (unsigned long long)step);
        fprintf(stderr, "resuming %s at step %llu\n", path, (unsigned long long)step);
    } else if (resume) {
        fprintf(stderr, "rope: %s has no checkpoint to resume from; starting at step 0.\n", path);
    }
    if (found && *run->config->init && config_origin(run->config, "train.init") == ORIGIN_COMMAND_LINE)
        fprintf(stderr, "rope: train.init is where a new run begins; this one goes on from its own weights.\n");
    if (found) keep_token_budget(run);
    if (found && step > run->config->steps)
        fprintf(stderr, "rope: %s is past train.steps = %zu already: there is nothing left to do.\n", path,
                run->config->steps);
    char from[RUN_PATH];
    if (found)
        strcpy(from, run->outcome->checkpoint);
    else if (!run_initialise(&run->trainer, from, error))
        return false;
    return keep_tokenizer(run, from, error) &&
           metrics_open(&run->metrics, &run->directory, step, run->trainer.state.eval_due, error) &&
           config_write(run->config, file, error);
}

// The figures of a run that has come to its end, or not.
static void conclude(Run *run, Error *error) {
    const RunState *state = &run->trainer.state;
    TrainOutcome *outcome = run->outcome;
    outcome->finished = error->kind == ERROR_NONE && state->step >= run->config->steps && !state->eval_due;
    memcpy(outcome->out, run->directory.path, sizeof outcome->out);
    outcome->step = state->step;
    outcome->steps = run->config->steps;
    outcome->tokens = state->tokens;
    outcome->skipped = state->skipped;
    outcome->seconds = metrics_seconds(&run->metrics);
    // Resumed with nothing left to do, a run still has figures.
    outcome->loss = run->metrics.loss;
    outcome->step_seconds =
        run->session_steps
            ? median(run->step_seconds, run->session_steps < TIMED_STEPS ? run->session_steps : TIMED_STEPS)
            : run->metrics.step_seconds;
    Evaluation evaluation = {.stopped = false};
    if (outcome->finished && isnan(outcome->accuracy))
        outcome->finished = find_figures(run, &evaluation, error) && !evaluation.stopped;
}

bool train_estimate(const Config *config, Estimate *estimate, Error *error) {
    bool fine = estimate_memory(config, estimate, error) && estimate_fits(config, estimate, error) &&
                estimate_probe(config, estimate, error);
    if (fine)
        estimate_print(config, estimate, stderr);
    else
        command_fail(error);
    return fine;
}

static void run_to_end(Run *run, bool resume, Error *error) {
    if (begin(run, resume, error)) {
        signals_catch("Finishing this step and saving", "Stopped at once; the last saved checkpoint is whole");
        signals_catch_pipe();
        run_steps(run, error);
        conclude(run, error);
        explain_end(run, error);
    } else {
        command_fail(error);
    }
    metrics_close(&run->metrics);
    trainer_destroy(&run->trainer);
    if (run->tokenizer) tokenizer_free(run->tokenizer);
    run_close(&run->directory);
}

// Of method auto, as the run measured them when it began: its settings may have come from another file.
static void take_costs(Config *config) {
    static Config read;
    char path[RUN_PATH];
    if (!config_needs_costs(config) || !path_join(path, sizeof path, config->out, "config.ini", NULL)) return;
    config_defaults(&read);
    if (config_read(&read, path, NULL) && read.cost_exact > 0 && read.cost_lowrank > 0)
        config_take_costs(config, read.cost_exact, read.cost_lowrank);
}

bool train_run(const Config *config, bool resume, TrainOutcome *outcome, Error *error) {
    *outcome = (TrainOutcome){.loss = NAN, .held_out_loss = NAN, .accuracy = NAN, .step_seconds = NAN};
    Run *run = calloc(1, sizeof *run);
    if (!run) {
        error_set(error, ERROR_MEMORY, "Out of memory.");
        command_fail(error);
        return false;
    }
    peak_begin();
    *run = (Run){
        .settings = *config, .config = &run->settings, .outcome = outcome, .directory.lock = -1,
        .metrics.descriptor = -1};
    if (resume) take_costs(&run->settings);
    if (!config_measure_costs(&run->settings, error))
        command_fail(error);
    else if (train_estimate(run->config, &outcome->estimate, error))
        run_to_end(run, resume, error);
    free(run);
    return error->kind == ERROR_NONE;
}

// The run's own config.ini is what a resumed run starts from, unless a file was given.
static bool find_settings(CommandLine *line, bool resume, bool sweep, Config *config, Error *error) {
    char path[RUN_PATH];
    bool from_file = false;
    if (line->positional_count > 1) return error_set(error, ERROR_USER, "Name one run directory.");
    if (line->positional_count && !resume)
        return error_set(error, ERROR_USER, "A run directory (%s) goes with --resume.", line->positional[0]);
    for (size_t i = 0; i < config_key_count(); i++) from_file |= line->config.origin[i] == ORIGIN_FILE;
    *config = line->config;
    if (line->positional_count && config_origin(config, "train.out") == ORIGIN_COMMAND_LINE &&
        strcmp(config->out, line->positional[0]))
        return error_set(error, ERROR_USER,
                         "train.out is %s, but a run goes on in its own directory, %s. For another copy it first, or begin "
                         "a new run from its weights with train.init.",
                         config->out, line->positional[0]);
    if (line->positional_count) {
        char assignment[CONFIG_TEXT + 16]; // a name that config.ini could not give back is refused
        if (snprintf(assignment, sizeof assignment, "train.out=%s", line->positional[0]) >= (int)sizeof assignment)
            return error_set(error, ERROR_USER, "The path %s is too long.", line->positional[0]);
        if (!config_set(config, assignment, ORIGIN_COMMAND_LINE, error)) return false;
    }
    if (!resume || sweep || from_file) return true; // a sweep's own directory holds no settings, its runs' do
    char out[CONFIG_TEXT];
    memcpy(out, config->out, sizeof out);
    if (!path_join(path, sizeof path, out, "config.ini", error)) return false;
    if (access(path, F_OK) != 0)
        return error_set(error, ERROR_USER, "%s has no config.ini: name the run directory, or its --config.", out);
    config_defaults(config);
    if (!config_read(config, path, error)) return false;
    config_overlay(config, &line->config);
    memcpy(config->out, out, sizeof out);
    return true;
}

// What the run would need, unless it could not begin.
static bool dry(const Config *config, bool resume, Estimate *estimate, Error *error) {
    if (!run_may_use(config->out, USE_RUN, resume, error) || !batches_check(config, error)) {
        command_fail(error);
        return false;
    }
    if (!*config->data_dir && !*config->task) fprintf(stderr, "rope: Neither data.dir nor data.task is set yet.\n");
    return train_estimate(config, estimate, error);
}

static int train(const Config *config, bool resume, bool dry_run, bool json) {
    static TrainOutcome outcome;
    Error error = {0};
    bool fine =
        dry_run ? dry(config, resume, &outcome.estimate, &error) : train_run(config, resume, &outcome, &error);
    if (fine && json &&
        !command_print_json(dry_run ? estimate_json(&outcome.estimate) : train_outcome_json(&outcome), &error))
        return command_fail(&error);
    return error_exit_code(&error);
}

int command_train(int argc, char **argv) {
    enum { RESUME, DRY_RUN, SWEEP, OPTIONS };
    static const CommandOption options[] = {
        {"resume", 'r', NULL, "go on with the run in RUN (or train.out) from its last whole checkpoint"},
        {"dry-run", 'n', NULL, "print what the run would need, then stop"},
        {"sweep", 's', "K=V,V...", "a run for each value, one after another; given again: for each combination"},
        {NULL, 0, NULL, NULL},
    };
    const char *values[OPTIONS], *lists[COMMAND_REPEATS];
    static CommandLine line;
    static Config config;
    Error error = {0};
    command_parse(command_find("train"), options, values, argc, argv, &line);
    bool resume = values[RESUME], dry_run = values[DRY_RUN];
    if (!find_settings(&line, resume, values[SWEEP] != NULL, &config, &error)) return command_fail(&error);
    if (values[SWEEP])
        return train_sweep(&config, lists, command_repeated(&line, "sweep", lists), resume, dry_run, line.json);
    if (!config_resolve(&config, &error)) return command_fail(&error);
    threads_set(config.threads);
    config_warn_of_no_window(&config);
    return train(&config, resume, dry_run, line.json);
}
