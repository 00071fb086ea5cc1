// OUT/progress.json: all that was measured so far, so that an interruption loses nothing (ab.h).
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/files.h"
#include "core/json_text.h"
#include "train/ab.h"
#include "train/figures.h"
#include "train/state.h"

static const size_t progress_limit = (size_t)1 << 32;

bool ab_record_make(Ab *ab, Error *error) {
    ab->tracks = calloc(ab->seed_count * AB_ARMS, sizeof *ab->tracks);
    ab->fidelity = json_array();
    ab->gradients = json_array();
    ab->sessions = json_array();
    bool fine = starts_make(&ab->starts, error);
    fine = fine && ab->tracks && ab->fidelity && ab->gradients && ab->sessions;
    for (size_t i = 0; fine && i < ab->seed_count * AB_ARMS; i++) {
        AbTrack *track = &ab->tracks[i];
        double **arrays[] = {&track->loss, &track->seconds, &track->eval_step, &track->eval_loss, &track->eval_seconds};
        for (size_t k = 0; k < sizeof arrays / sizeof *arrays; k++)
            fine = (*arrays[k] = calloc(ab->steps + 1, sizeof **arrays[k])) && fine;
    }
    return fine || error_set(error, ERROR_MEMORY, "Out of memory for the record of %zu steps.", ab->steps);
}

void ab_record_free(Ab *ab) {
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
    json_decref(ab->sessions);
    starts_free(&ab->starts);
}

static json_t *doubles(const double *values, size_t count) {
    json_t *array = json_array();
    for (size_t i = 0; i < count; i++) json_array_append_new(array, figure_json(values[i]));
    return array;
}

// Reads `count` numbers at most; returns how many there were.
static size_t read_doubles(const json_t *array, double *values, size_t count) {
    size_t size = json_array_size(array);
    if (size > count) size = count;
    for (size_t i = 0; i < size; i++) values[i] = figure_number(json_array_get(array, i));
    return size;
}

static json_t *counts(const uint64_t *values, size_t count) {
    json_t *array = json_array();
    for (size_t i = 0; i < count; i++) json_array_append_new(array, json_integer((json_int_t)values[i]));
    return array;
}

static void read_counts(const json_t *array, uint64_t *values, size_t count) {
    for (size_t i = 0; i < count; i++) values[i] = (uint64_t)json_integer_value(json_array_get(array, i));
}

static json_t *evaluation_json(const Evaluation *final) {
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "loss", figure_json(final->loss), "accuracy",
                     figure_json(final->accuracy), "bucket_loss", doubles(final->bucket_loss, final->buckets),
                     "bucket_accuracy", doubles(final->bucket_accuracy, final->buckets), "bucket_targets",
                     counts(final->bucket_targets, final->buckets), "distance_loss",
                     doubles(final->distance_loss, final->distances), "distance_accuracy",
                     doubles(final->distance_accuracy, final->distances), "distance_targets",
                     counts(final->distance_targets, final->distances));
}

static void read_evaluation(const json_t *object, Evaluation *final) {
    enum { BUCKETS = EVALUATION_BUCKETS };
    final->loss = figure_of(object, "loss");
    final->accuracy = figure_of(object, "accuracy");
    final->buckets = read_doubles(json_object_get(object, "bucket_loss"), final->bucket_loss, BUCKETS);
    read_doubles(json_object_get(object, "bucket_accuracy"), final->bucket_accuracy, BUCKETS);
    read_counts(json_object_get(object, "bucket_targets"), final->bucket_targets, final->buckets);
    final->distances = read_doubles(json_object_get(object, "distance_loss"), final->distance_loss, BUCKETS);
    read_doubles(json_object_get(object, "distance_accuracy"), final->distance_accuracy, BUCKETS);
    read_counts(json_object_get(object, "distance_targets"), final->distance_targets, final->distances);
}

static json_t *track_json(const AbTrack *track, size_t steps) {
    size_t evaluations = track->evaluations;
    return json_pack(
        "{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "loss", doubles(track->loss, steps), "seconds",
        doubles(track->seconds, steps), "eval_step", doubles(track->eval_step, evaluations), "eval_loss",
        doubles(track->eval_loss, evaluations), "eval_seconds", doubles(track->eval_seconds, evaluations),
        "phase_seconds", doubles(track->phases.seconds, PHASE_COUNT), "phase_flops",
        doubles(track->phases.flops, PHASE_COUNT), "phase_bytes", doubles(track->phases.bytes, PHASE_COUNT),
        "bits_per_byte", figure_json(track->bits_per_byte), "final", evaluation_json(&track->final));
}

// False when an array is not as long as the record says: then the numbers would not be what they seem.
static bool read_track(const json_t *object, AbTrack *track, size_t steps) {
    bool whole = read_doubles(json_object_get(object, "loss"), track->loss, steps) == steps &&
                 read_doubles(json_object_get(object, "seconds"), track->seconds, steps) == steps;
    size_t evaluations = read_doubles(json_object_get(object, "eval_step"), track->eval_step, steps);
    whole = whole && read_doubles(json_object_get(object, "eval_loss"), track->eval_loss, steps) == evaluations &&
            read_doubles(json_object_get(object, "eval_seconds"), track->eval_seconds, steps) == evaluations;
    track->evaluations = evaluations;
    read_doubles(json_object_get(object, "phase_seconds"), track->phases.seconds, PHASE_COUNT);
    read_doubles(json_object_get(object, "phase_flops"), track->phases.flops, PHASE_COUNT);
    read_doubles(json_object_get(object, "phase_bytes"), track->phases.bytes, PHASE_COUNT);
    track->bits_per_byte = figure_of(object, "bits_per_byte");
    read_evaluation(json_object_get(object, "final"), &track->final);
    return whole;
}

// Evaluations follow one another, all arms have the same ones, and a seed that is done ends with one.
static bool evaluations_fit(const Ab *ab, size_t seed) {
    const AbTrack *first = ab_track(ab, seed, 0);
    double last = 0;
    for (size_t e = 0; e < first->evaluations; last = first->eval_step[e++])
        if (!(first->eval_step[e] > last && first->eval_step[e] <= (double)ab->steps)) return false;
    for (size_t i = 1; i < ab->arm_count; i++) {
        const AbTrack *track = ab_track(ab, seed, i);
        if (track->evaluations != first->evaluations ||
            memcmp(track->eval_step, first->eval_step, first->evaluations * sizeof *track->eval_step))
            return false;
    }
    return seed == ab->seed || last == (double)ab->steps;
}

// Every measurement has a row for each layer of b, the last one first, and each of its heads.
static bool fidelity_fits(const Ab *ab) {
    const size_t layers = ab->arms[1].config.layers, heads = ab->arms[1].config.heads;
    size_t index;
    json_t *row;
    json_array_foreach(ab->fidelity, index, row) {
        const json_t *layer = json_object_get(row, "layer"), *head = json_object_get(row, "head");
        if (!json_is_integer(layer) || json_integer_value(layer) != (json_int_t)(layers - 1 - index / heads % layers) ||
            !json_is_integer(head) || json_integer_value(head) != (json_int_t)(index % heads))
            return false;
    }
    return json_array_size(ab->fidelity) % (layers * heads) == 0;
}

// The settings that the arms' numbers depend on, as checksums.
static json_t *fingerprints(const Ab *ab) {
    json_t *array = json_array();
    for (size_t i = 0; i < ab->arm_count; i++)
        json_array_append_new(array, json_integer(config_fingerprint(&ab->arms[i].config)));
    return array;
}

// Of method auto, 0 without it: seconds per GFLOP, as measured when the comparison began.
static json_t *costs(const Ab *ab) {
    json_t *array = json_array();
    for (size_t i = 0; i < ab->arm_count; i++)
        json_array_append_new(array,
                              json_pack("[f, f]", ab->arms[i].config.cost_exact, ab->arms[i].config.cost_lowrank));
    return array;
}

static bool take_costs(Ab *ab, const json_t *array) {
    for (size_t i = 0; i < ab->arm_count; i++) {
        Config *config = &ab->arms[i].config;
        const json_t *pair = json_array_get(array, i);
        const double exact = json_real_value(json_array_get(pair, 0)),
                     lowrank = json_real_value(json_array_get(pair, 1));
        if (!pair) return json_array_size(array) == 0; // a record from before they were kept
        if (!(exact >= 0 && lowrank >= 0 && (exact > 0) == (config->cost_exact > 0) &&
              (lowrank > 0) == (config->cost_lowrank > 0)))
            return false;
        config->cost_exact = exact;
        config->cost_lowrank = lowrank;
    }
    return json_array_size(array) == ab->arm_count;
}

bool ab_progress_save(const Ab *ab, Error *error) {
    char path[RUN_PATH];
    json_watch();
    json_t *tracks = json_array();
    for (size_t s = 0; s <= ab->seed && s < ab->seed_count; s++)
        for (size_t i = 0; i < ab->arm_count; i++)
            json_array_append_new(tracks, track_json(ab_track(ab, s, i), s < ab->seed ? ab->steps : ab->step));
    const DataIdentity *data = &ab->data;
    json_t *document =
        json_pack("{s:I, s:I, s:I, s:[I, I], s:o, s:O, s:o, s:o, s:O, s:O, s:O}", "seed", (json_int_t)ab->seed, "step",
                  (json_int_t)ab->step, "seeds", (json_int_t)ab->seed_count, "data", (json_int_t)data->train,
                  (json_int_t)data->held_out, "arms", fingerprints(ab), "init", ab->starts.record, "costs", costs(ab),
                  "tracks", tracks, "fidelity", ab->fidelity, "gradients", ab->gradients, "sessions", ab->sessions);
    char *text = json_print(document, JSON_COMPACT | JSON_REAL_PRECISION(17));
    json_decref(document);
    if (!text) return error_set(error, ERROR_MEMORY, "Out of memory for the record of the comparison.");
    bool saved = path_join(path, sizeof path, ab->run.path, "progress.json", error) &&
                 file_write_atomic(path, text, strlen(text), error);
    free(text);
    return saved;
}

static bool take(Ab *ab, const json_t *document, const char *path, Error *error) {
    json_t *expected = fingerprints(ab), *tracks = json_object_get(document, "tracks");
    bool same = json_equal(expected, json_object_get(document, "arms"));
    json_decref(expected);
    if (!json_whole()) return error_set(error, ERROR_MEMORY, "Out of memory while reading %s.", path);
    if (!same)
        return error_set(error, ERROR_USER, "%s is of other settings: give those it was made with, or another --out.",
                         path);
    if (!batches_same_data(json_object_get(document, "data"), &ab->data))
        return error_set(error, ERROR_USER,
                         "%s is of other data: losses of both cannot be compared. Give it those it was made with, or another "
                         "--out.",
                         path);
    size_t seed = (size_t)json_integer_value(json_object_get(document, "seed"));
    size_t step = (size_t)json_integer_value(json_object_get(document, "step"));
    if (seed >= ab->seed_count || step > ab->steps || json_array_size(tracks) != (seed + 1) * ab->arm_count)
        return error_set(error, ERROR_USER, "%s is of a comparison with %lld seeds: give --seeds as it was, or more.",
                         path, (long long)json_integer_value(json_object_get(document, "seeds")));
    if (!starts_recall(&ab->starts, json_object_get(document, "init"), error)) return false;
    ab->seed = seed;
    ab->step = step;
    bool whole = take_costs(ab, json_object_get(document, "costs"));
    for (size_t s = 0; s <= seed; s++)
        for (size_t i = 0; i < ab->arm_count; i++)
            whole = read_track(json_array_get(tracks, s * ab->arm_count + i), ab_track(ab, s, i),
                               s < seed ? ab->steps : step) &&
                    whole;
    for (size_t s = 0; s <= seed; s++) whole = whole && evaluations_fit(ab, s);
    json_array_extend(ab->fidelity, json_object_get(document, "fidelity"));
    json_array_extend(ab->gradients, json_object_get(document, "gradients"));
    json_array_extend(ab->sessions, json_object_get(document, "sessions"));
    if (!json_whole()) return error_set(error, ERROR_MEMORY, "Out of memory while reading %s.", path);
    whole = whole && fidelity_fits(ab);
    return whole || error_set(error, ERROR_CORRUPT, "%s is incomplete: remove it, or choose another --out.", path);
}

bool ab_progress_load(Ab *ab, bool resume, bool *found, Error *error) {
    char path[RUN_PATH];
    size_t size;
    *found = false;
    if (!path_join(path, sizeof path, ab->run.path, "progress.json", error)) return false;
    if (!run_may_use(ab->run.path, USE_COMPARISON, resume, error)) return false;
    if (access(path, F_OK) != 0) return true;
    char *text = file_read_all(path, progress_limit, &size, error);
    if (!text) return false;
    json_t *document = json_parse(path, "contents", text, size, error);
    free(text);
    *found = document != NULL;
    bool fine = *found && take(ab, document, path, error);
    json_decref(document);
    return fine;
}
