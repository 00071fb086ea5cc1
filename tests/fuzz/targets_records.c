// Records that an interrupted comparison or sweep goes on from: progress.json and sweep.json.
#include <stdlib.h>
#include <string.h>

#include "core/files.h"
#include "core/json_text.h"
#include "tests/fuzz/inputs.h"
#include "train/ab.h"
#include "train/figures.h"
#include "train/signals.h"
#include "train/state.h"
#include "train/train.h"

static void configure(Config *config, const char *const *settings, size_t count) {
    Error error = {0};
    config_defaults(config);
    for (size_t i = 0; i < count; i++) REQUIRE(config_set(config, settings[i], ORIGIN_COMMAND_LINE, &error));
    REQUIRE(config_resolve(config, &error));
}

// ---- progress.json --------------------------------------------------------------------------------------------------

enum { STEPS = 4, SEEDS = 2, ARMS = 2 };

static void ab_begin(Ab *ab) {
    static const char *const settings[] = {"data.task=induction", "model.layers=1",        "model.width=8",
                                           "model.heads=2",       "model.tokens=16",       "model.vocabulary=32",
                                           "train.batch=1",       "attention.method=exact"};
    static const char *const keys[] = {"a", "b"}, *const names[] = {"exact", "<b>"};
    *ab = (Ab){.arm_count = ARMS,
               .steps = STEPS,
               .seed_count = SEEDS,
               .run.lock = -1};
    snprintf(ab->run.path, sizeof ab->run.path, MEMORY "/progress");
    for (size_t i = 0; i < ARMS; i++) {
        ab->arms[i].key = keys[i];
        snprintf(ab->arms[i].name, sizeof ab->arms[i].name, "%s", names[i]);
        configure(&ab->arms[i].config, settings, sizeof settings / sizeof *settings - i);
    }
    Error error = {0};
    REQUIRE(ab_record_make(ab, &error));
}

static char *saved_progress(const Ab *ab) {
    Error error = {0};
    size_t size;
    char path[RUN_PATH];
    REQUIRE(ab_progress_save(ab, &error) && path_join(path, sizeof path, ab->run.path, "progress.json", &error));
    char *text = file_read_all(path, 1 << 24, &size, &error);
    REQUIRE(text);
    return text;
}

// What a finished comparison shows of it.
static void show(Ab *ab) {
    Error error = {0};
    const size_t seed = ab->seed;
    ab->seed = ab->step == ab->steps ? seed + 1 : seed; // as ab_run leaves it
    json_t *document = ab_document(ab);
    REQUIRE(document);
    quiet_begin();
    ab_print(ab, document);
    quiet_end();
    REQUIRE(ab_write_report(ab, document, MEMORY "/progress/report.html", &error));
    json_decref(document);
    ab->seed = seed;
}

// What was taken is shown; saved and taken again it is the same, to the byte.
static bool run_progress(const uint8_t *data, size_t size) {
    static Ab ab, again;
    Error error = {0};
    bool found;
    ab_begin(&ab);
    memory_put(MEMORY "/progress/progress.json", data, size);
    const bool taken = ab_progress_load(&ab, true, &found, &error);
    require_reason(taken, &error);
    if (taken) {
        REQUIRE(found);
        show(&ab);
        char *text = saved_progress(&ab);
        ab_begin(&again);
        REQUIRE(ab_progress_load(&again, true, &found, &error));
        char *text_again = saved_progress(&again);
        REQUIRE(strcmp(text, text_again) == 0);
        ab_record_free(&again);
        free(text);
        free(text_again);
    }
    ab_record_free(&ab);
    return taken;
}

static void add_rows(Ab *ab, size_t step) {
    for (size_t h = 0; h < ab->arms[1].config.heads; h++)
        json_array_append_new(ab->fidelity,
                              json_pack("{s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:n, s:f, s:f}", "seed", (json_int_t)1,
                                        "step", (json_int_t)step, "layer", (json_int_t)0, "head", (json_int_t)h,
                                        "output_relative", 0.5, "output_error", 0.25, "output_bound", 0.75,
                                        "output_cosine", "clipped", 0.0, "fell_back", 1.0));
    json_array_append_new(ab->gradients, json_pack("{s:I, s:I, s:f, s:n}", "seed", (json_int_t)1, "step",
                                                   (json_int_t)step, "loss_a", 3.5, "relative"));
}

// The record with the first of these words replaced by the other, as long: no record of this comparison.
static void seed_damaged(const char *text, const char *word, const char *other) {
    char *copy = strdup(text), *found = copy ? strstr(copy, word) : NULL;
    REQUIRE(found && strlen(word) == strlen(other));
    memcpy(found, other, strlen(other));
    seed_refused(copy, strlen(copy));
    free(copy);
}

// A seed that is half done, then two that are done.
static void seeds_progress(void) {
    static Ab ab;
    for (size_t step = 2; step <= STEPS; step += 2) {
        ab_begin(&ab);
        ab.seed = step / 2 - 1;
        ab.step = step;
        json_array_append_new(ab.sessions, json_pack("[i, i]", 0, 0));
        for (size_t s = 0; s <= ab.seed; s++)
            for (size_t i = 0; i < ARMS; i++) {
                AbTrack *track = ab_track(&ab, s, i);
                for (size_t k = 0; k < STEPS; k++) track->loss[k] = 4 - (double)k, track->seconds[k] = 0.5;
                for (track->evaluations = 0; track->evaluations < (s < ab.seed ? STEPS : step) / 2;
                     track->evaluations++) {
                    track->eval_step[track->evaluations] = 2 * (double)track->evaluations + 2;
                    track->eval_loss[track->evaluations] = NAN;
                }
                track->final = (Evaluation){.loss = 3.5,
                                            .accuracy = 0.5,
                                            .buckets = 2,
                                            .bucket_targets = {4, 5},
                                            .distances = 3,
                                            .distance_targets = {0, 7, 1}};
                track->phases.seconds[0] = 1;
            }
        for (size_t at = 2; at <= step; at += 2) add_rows(&ab, at);
        char *text = saved_progress(&ab);
        seed_text(text);
        seed_damaged(text, "\"layer\":0", "\"layer\":7");
        seed_damaged(text, "\"head\":1", "\"head\":0");
        seed_damaged(text, "\"eval_step\":[2.0", "\"eval_step\":[9.0");
        seed_damaged(text, "\"eval_step\":", "\"eval_left\":");
        free(text);
        ab_record_free(&ab);
    }
}

const FuzzTarget fuzz_progress = {"progress", run_progress, seeds_progress};

// ---- sweep.json -----------------------------------------------------------------------------------------------------

static const char *const sweep_settings[] = {"data.task=induction", "model.layers=1",  "model.width=8",
                                             "model.heads=2",       "model.tokens=16", "model.vocabulary=32",
                                             "train.batch=1"};

// The runs of the record are listed; none is started, as after a signal.
static bool run_sweep(const uint8_t *data, size_t size) {
    static const char *const lists[] = {"optim.learning_rate=1e-3,2e-3"};
    static Config config;
    if (!config.layers) configure(&config, sweep_settings, sizeof sweep_settings / sizeof *sweep_settings);
    snprintf(config.out, sizeof config.out, MEMORY "/sweep");
    memory_put(MEMORY "/sweep/sweep.json", data, size);
    signals_stop = 1;
    quiet_begin();
    const int code = train_sweep(&config, lists, 1, true, false, true);
    quiet_end();
    signals_stop = 0;
    REQUIRE(code == 0 || code == 1 || code == 2);
    return code == 0;
}

static void seeds_sweep(void) {
    seed_text("{}");
    seed_text(
        "{\"learning_rate=1e-3\":{\"name\":\"learning_rate=1e-3\",\"settings\":{\"optim.learning_rate\":\"1e-3\"},"
        "\"out\":\"sweep/learning_rate=1e-3\",\"fingerprint\":1,\"state\":\"finished\",\"step\":4,\"loss\":3.5,"
        "\"held_out_loss\":3.25,\"perplexity\":25.8,\"accuracy\":0.5,\"step_ms\":1.5,\"seconds\":2.0},"
        "\"learning_rate=2e-3\":{\"name\":\"learning_rate=2e-3\",\"settings\":{},\"state\":\"diverged\",\"step\":3,"
        "\"held_out_loss\":null}}");
    static const char *const others[] = {"[]", "{\"learning_rate=1e-3\":{}}",
                                         "{\"learning_rate=2e-3\":{\"name\":\"x\",\"held_out_loss\":1.5}}"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) seed_refused(others[i], strlen(others[i]));
}

const FuzzTarget fuzz_sweep = {"sweep", run_sweep, seeds_sweep};
