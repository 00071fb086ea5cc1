// OUT/progress.json: all that was measured so far, so that an interruption loses nothing (ab.h).
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/files.h"
#include "train/ab.h"
#include "train/state.h"

static const size_t progress_limit = (size_t)1 << 32;

static json_t *doubles(const double *values, size_t count) {
    json_t *array = json_array();
    for (size_t i = 0; i < count; i++) json_array_append_new(array, json_real(values[i]));
    return array;
}

// Reads `count` numbers at most; returns how many there were.
static size_t read_doubles(const json_t *array, double *values, size_t count) {
    size_t size = json_array_size(array);
    if (size > count) size = count;
    for (size_t i = 0; i < size; i++) values[i] = json_number_value(json_array_get(array, i));
    return size;
}

static json_t *track_json(const AbTrack *track, size_t steps) {
    const Evaluation *final = &track->final;
    json_t *targets = json_array();
    for (size_t i = 0; i < final->buckets; i++)
        json_array_append_new(targets, json_integer((json_int_t)final->bucket_targets[i]));
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:f, s:f, s:f, s:o, s:o, s:o}", "loss",
                     doubles(track->loss, steps), "seconds", doubles(track->seconds, steps), "eval_step",
                     doubles(track->eval_step, track->evaluations), "eval_loss",
                     doubles(track->eval_loss, track->evaluations), "eval_seconds",
                     doubles(track->eval_seconds, track->evaluations), "phase_seconds",
                     doubles(track->phases.seconds, PHASE_COUNT), "phase_flops", doubles(track->phases.flops, PHASE_COUNT),
                     "phase_bytes", doubles(track->phases.bytes, PHASE_COUNT), "held_out_loss", final->loss, "accuracy",
                     final->accuracy, "bits_per_byte", track->bits_per_byte, "bucket_loss",
                     doubles(final->bucket_loss, final->buckets), "bucket_accuracy",
                     doubles(final->bucket_accuracy, final->buckets), "bucket_targets", targets);
}

static void read_track(const json_t *object, AbTrack *track, size_t steps) {
    Evaluation *final = &track->final;
    read_doubles(json_object_get(object, "loss"), track->loss, steps);
    read_doubles(json_object_get(object, "seconds"), track->seconds, steps);
    track->evaluations = read_doubles(json_object_get(object, "eval_step"), track->eval_step, steps + 1);
    read_doubles(json_object_get(object, "eval_loss"), track->eval_loss, steps + 1);
    read_doubles(json_object_get(object, "eval_seconds"), track->eval_seconds, steps + 1);
    read_doubles(json_object_get(object, "phase_seconds"), track->phases.seconds, PHASE_COUNT);
    read_doubles(json_object_get(object, "phase_flops"), track->phases.flops, PHASE_COUNT);
    read_doubles(json_object_get(object, "phase_bytes"), track->phases.bytes, PHASE_COUNT);
    track->bits_per_byte = json_number_value(json_object_get(object, "bits_per_byte"));
    final->loss = json_number_value(json_object_get(object, "held_out_loss"));
    final->accuracy = json_number_value(json_object_get(object, "accuracy"));
    final->buckets = read_doubles(json_object_get(object, "bucket_loss"), final->bucket_loss, EVALUATION_BUCKETS);
    read_doubles(json_object_get(object, "bucket_accuracy"), final->bucket_accuracy, EVALUATION_BUCKETS);
    for (size_t i = 0; i < final->buckets; i++)
        final->bucket_targets[i] =
            (uint64_t)json_integer_value(json_array_get(json_object_get(object, "bucket_targets"), i));
}

// The settings that the arms' numbers depend on, as checksums.
static json_t *fingerprints(const Ab *ab) {
    json_t *array = json_array();
    for (size_t i = 0; i < ab->arm_count; i++) {
        Config config = ab->arms[i].config;
        config.seed = 0; // counted up from seed to seed
        json_array_append_new(array, json_integer(config_fingerprint(&config)));
    }
    return array;
}

bool ab_progress_save(const Ab *ab, Error *error) {
    char path[RUN_PATH];
    json_t *tracks = json_array();
    for (size_t s = 0; s <= ab->seed && s < ab->seed_count; s++)
        for (size_t i = 0; i < ab->arm_count; i++)
            json_array_append_new(tracks, track_json(ab_track(ab, s, i), s < ab->seed ? ab->steps : ab->step));
    json_t *document = json_pack("{s:I, s:I, s:I, s:o, s:o, s:O, s:O}", "seed", (json_int_t)ab->seed, "step",
                                 (json_int_t)ab->step, "seeds", (json_int_t)ab->seed_count, "arms", fingerprints(ab),
                                 "tracks", tracks, "fidelity", ab->fidelity, "gradients", ab->gradients);
    char *text = document ? json_dumps(document, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(document);
    if (!text) return error_set(error, ERROR_MEMORY, "Out of memory for the record of the comparison.");
    bool saved = path_join(path, sizeof path, ab->out, "progress.json", error) &&
                 file_write_atomic(path, text, strlen(text), error);
    free(text);
    return saved;
}

static bool take(Ab *ab, const json_t *document, const char *path, Error *error) {
    json_t *expected = fingerprints(ab), *tracks = json_object_get(document, "tracks");
    bool same = json_equal(expected, json_object_get(document, "arms"));
    json_decref(expected);
    if (!same)
        return error_set(error, ERROR_USER, "%s is of other settings: give those it was made with, or another --out.",
                         path);
    size_t seed = (size_t)json_integer_value(json_object_get(document, "seed"));
    size_t step = (size_t)json_integer_value(json_object_get(document, "step"));
    if (seed >= ab->seed_count || step > ab->steps || json_array_size(tracks) != (seed + 1) * ab->arm_count)
        return error_set(error, ERROR_USER, "%s is of a comparison with %lld seeds: give --seeds as it was, or more.",
                         path, (long long)json_integer_value(json_object_get(document, "seeds")));
    ab->seed = seed;
    ab->step = step;
    for (size_t s = 0; s <= seed; s++)
        for (size_t i = 0; i < ab->arm_count; i++)
            read_track(json_array_get(tracks, s * ab->arm_count + i), ab_track(ab, s, i), ab->steps);
    json_array_extend(ab->fidelity, json_object_get(document, "fidelity"));
    json_array_extend(ab->gradients, json_object_get(document, "gradients"));
    return true;
}

bool ab_progress_load(Ab *ab, bool *found, Error *error) {
    char path[RUN_PATH];
    size_t size;
    *found = false;
    if (!path_join(path, sizeof path, ab->out, "progress.json", error)) return false;
    if (access(path, F_OK) != 0) return true;
    char *text = file_read_all(path, progress_limit, &size, error);
    if (!text) return false;
    json_t *document = json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL);
    free(text);
    *found = json_is_object(document);
    bool fine = *found ? take(ab, document, path, error)
                       : error_set(error, ERROR_CORRUPT, "%s is not the record of a comparison.", path);
    json_decref(document);
    return fine;
}
