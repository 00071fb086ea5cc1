// What a comparison found: the JSON document of product.md and its verdict (ab.h). ab_report.c shows it to people.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "train/ab.h"
#include "train/statistics.h"

static json_t *number(double value) { return isfinite(value) ? json_real(value) : json_null(); }

// Steps done under a seed (index).
static size_t steps_of(const Ab *ab, size_t seed) {
    return seed < ab->seed ? ab->steps : seed == ab->seed ? ab->step : 0;
}

// The timed steps of an arm over all seeds; *count of them. The caller frees.
static double *timed_steps(const Ab *ab, size_t arm, size_t *count) {
    double *seconds = malloc((ab->seed_count * ab->steps + 1) * sizeof *seconds);
    REQUIRE(seconds);
    *count = 0;
    for (size_t s = 0; s < ab->seed_count; s++)
        for (size_t i = AB_WARMUP; i < steps_of(ab, s); i++) seconds[(*count)++] = ab_track(ab, s, arm)->seconds[i];
    return seconds;
}

static json_t *settings_json(const Config *config) {
    json_t *settings = json_object();
    for (size_t i = 0; i < config_key_count(); i++) {
        char name[64], value[CONFIG_TEXT];
        config_key_name(i, name);
        config_value(config, i, value);
        json_object_set_new(settings, name, json_string(value));
    }
    return settings;
}

// Mean of a figure over the seeds that have an evaluation; NaN without one.
static double over_seeds(const Ab *ab, size_t arm, double (*figure)(const AbTrack *)) {
    double sum = 0;
    size_t count = 0;
    for (size_t s = 0; s < ab->seed_count; s++) {
        const AbTrack *track = ab_track(ab, s, arm);
        if (!track->evaluations) continue;
        sum += figure(track);
        count++;
    }
    return count ? sum / (double)count : NAN;
}
static double held_out_loss(const AbTrack *track) { return track->final.loss; }
static double accuracy(const AbTrack *track) { return track->final.accuracy; }
static double bits(const AbTrack *track) { return track->bits_per_byte; }

static json_t *phases_json(const Ab *ab, size_t arm, size_t timed) {
    json_t *phases = json_object();
    for (size_t p = 0; p < PHASE_COUNT; p++) {
        double seconds = 0;
        for (size_t s = 0; s < ab->seed_count; s++) seconds += ab_track(ab, s, arm)->phases.seconds[p];
        if (seconds > 0) json_object_set_new(phases, phase_name((Phase)p), json_real(1e3 * seconds / (double)timed));
    }
    return phases;
}

static json_t *curves_json(const Ab *ab, size_t arm) {
    json_t *curves = json_array();
    for (size_t s = 0; s < ab->seed_count && steps_of(ab, s); s++) {
        const AbTrack *track = ab_track(ab, s, arm);
        json_t *loss = json_array(), *seconds = json_array(), *evaluations = json_array();
        for (size_t i = 0; i < steps_of(ab, s); i++) {
            json_array_append_new(loss, number(track->loss[i]));
            json_array_append_new(seconds, json_real(track->seconds[i]));
        }
        for (size_t i = 0; i < track->evaluations; i++)
            json_array_append_new(evaluations, json_pack("{s:f, s:f, s:f}", "step", track->eval_step[i], "held_out_loss",
                                                         track->eval_loss[i], "seconds", track->eval_seconds[i]));
        json_array_append_new(curves, json_pack("{s:I, s:o, s:o, s:o, s:f}", "seed", (json_int_t)s, "loss", loss,
                                                "step_seconds", seconds, "evaluations", evaluations, "held_out_loss",
                                                track->final.loss));
    }
    return curves;
}

static json_t *arm_json(const Ab *ab, size_t arm) {
    const AbArm *it = &ab->arms[arm];
    size_t count;
    double *seconds = timed_steps(ab, arm, &count), step = median(seconds, count);
    double tokens = (double)(it->config.batch * it->config.accumulate * it->config.tokens);
    double loss = over_seeds(ab, arm, held_out_loss);
    free(seconds);
    json_t *object = json_pack("{s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:I, s:o, s:o}", "name", it->name, "settings",
                               settings_json(&it->config), "held_out_loss", number(loss), "perplexity", number(exp(loss)),
                               "accuracy", number(over_seeds(ab, arm, accuracy)), "step_ms", number(1e3 * step),
                               "tokens_per_s", number(tokens / step), "peak_bytes",
                               (json_int_t)it->estimate.total_bytes, "phases", phases_json(ab, arm, count), "curves",
                               curves_json(ab, arm));
    double per_byte = over_seeds(ab, arm, bits);
    if (per_byte > 0) json_object_set_new(object, "bits_per_byte", json_real(per_byte));
    return object;
}

// Loss and accuracy by position in the context, mean over seeds.
static json_t *positions_json(const Ab *ab) {
    json_t *rows = json_array();
    size_t buckets = ab_track(ab, 0, 0)->final.buckets;
    for (size_t b = 0; b < buckets; b++) {
        json_t *row = json_pack("{s:I, s:I}", "from", (json_int_t)evaluation_bucket_start(b), "to",
                                (json_int_t)evaluation_bucket_start(b + 1) - 1);
        for (size_t i = 0; i < ab->arm_count; i++) {
            double loss = 0, hits = 0, seeds = 0;
            for (size_t s = 0; s < ab->seed_count; s++) {
                const Evaluation *final = &ab_track(ab, s, i)->final;
                if (b >= final->buckets || !final->bucket_targets[b]) continue;
                loss += final->bucket_loss[b];
                hits += final->bucket_accuracy[b];
                seeds++;
            }
            char key[64];
            json_object_set_new(row, ab->arms[i].key, number(seeds > 0 ? loss / seeds : NAN));
            snprintf(key, sizeof key, "%s_accuracy", ab->arms[i].key);
            json_object_set_new(row, key, number(seeds > 0 ? hits / seeds : NAN));
        }
        json_array_append_new(rows, row);
    }
    return rows;
}

// Rows with their largest errors, and how many exceeded their certificate.
static json_t *fidelity_json(const Ab *ab) {
    static const char *const quantities[] = {"output", "dq", "dk", "dv"};
    json_t *fidelity = json_object(), *row;
    size_t index, checked = 0, violated = 0;
    double fell_back = 0;
    json_array_foreach(ab->fidelity, index, row) {
        for (size_t i = 0; i < 4; i++) {
            char error_key[32], bound_key[32];
            snprintf(error_key, sizeof error_key, "%s_error", quantities[i]);
            snprintf(bound_key, sizeof bound_key, "%s_bound", quantities[i]);
            json_t *error = json_object_get(row, error_key), *bound = json_object_get(row, bound_key);
            if (!json_is_number(error) || !json_is_number(bound)) continue;
            checked++;
            violated += json_number_value(error) > json_number_value(bound);
        }
        fell_back += json_number_value(json_object_get(row, "fell_back"));
    }
    json_object_set(fidelity, "rows", ab->fidelity);
    json_object_set(fidelity, "gradients", ab->gradients);
    json_object_set_new(fidelity, "certificates_checked", json_integer((json_int_t)checked));
    json_object_set_new(fidelity, "certificates_violated", json_integer((json_int_t)violated));
    json_object_set_new(fidelity, "fell_back", json_real(fell_back));
    return fidelity;
}

static void say_speed(FILE *out, const Ab *ab, Interval ratio) {
    const char *a = ab->arms[0].name, *b = ab->arms[1].name;
    size_t tokens = ab->arms[1].config.tokens;
    if (ratio.low <= 1 && ratio.high >= 1)
        fprintf(out, "B (%s) is as fast per step as A (%s) at T=%zu (ratio %.2f, interval %.2f to %.2f)", b, a, tokens,
                ratio.value, ratio.low, ratio.high);
    else if (ratio.value > 1)
        fprintf(out, "B (%s) is %.2f times faster per step than A (%s) at T=%zu (interval %.2f to %.2f)", b, ratio.value,
                a, tokens, ratio.low, ratio.high);
    else
        fprintf(out, "B (%s) is %.2f times slower per step than A (%s) at T=%zu (interval %.2f to %.2f)", b,
                1 / ratio.value, a, tokens, 1 / ratio.high, 1 / ratio.low);
}

// One sentence, two for tasks; malloc'd.
static char *verdict(const Ab *ab, Interval ratio) {
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    REQUIRE(out);
    double a = over_seeds(ab, 0, held_out_loss), b = over_seeds(ab, 1, held_out_loss);
    say_speed(out, ab, ratio);
    if (!isfinite(a)) fputs("; there is no evaluation yet.", out);
    else if (a == b) fprintf(out, "; held-out losses are identical (%.4f", a);
    else fprintf(out, "; its held-out loss is %.2f %% %s (%.4f against %.4f", 100 * fabs(b / a - 1),
                 b > a ? "higher" : "lower", b, a);
    if (isfinite(a) && ab->arm_count > 2)
        fprintf(out, "; the window alone reaches %.4f", over_seeds(ab, 2, held_out_loss));
    if (isfinite(a)) fputs(").", out);
    if (isfinite(a) && *ab->arms[0].config.task) {
        fprintf(out, " Accuracy is %.1f %% against %.1f %%", 100 * over_seeds(ab, 1, accuracy),
                100 * over_seeds(ab, 0, accuracy));
        if (ab->arm_count > 2) fprintf(out, " (window alone %.1f %%)", 100 * over_seeds(ab, 2, accuracy));
        fputc('.', out);
    }
    REQUIRE(fclose(out) == 0);
    return text;
}

json_t *ab_document(const Ab *ab) {
    size_t count_a, count_b;
    double *a = timed_steps(ab, 0, &count_a), *b = timed_steps(ab, 1, &count_b);
    Interval ratio = paired_ratio(a, b, count_a < count_b ? count_a : count_b, ab->arms[0].config.seed);
    free(a);
    free(b);
    char *sentence = verdict(ab, ratio);
    const Config *config = &ab->arms[0].config;
    json_t *document = json_pack("{s:I, s:I, s:I, s:I, s:I, s:b, s:o, s:[o, o], s:o, s:o, s:s}", "tokens",
                                 (json_int_t)config->tokens, "batch", (json_int_t)config->batch, "steps",
                                 (json_int_t)ab->steps, "steps_done",
                                 (json_int_t)(ab->seed == ab->seed_count ? ab->steps : ab->step), "seeds",
                                 (json_int_t)ab->seed_count, "complete", ab->seed == ab->seed_count, "ratio",
                                 number(ratio.value), "ratio_interval", number(ratio.low), number(ratio.high),
                                 "positions", positions_json(ab), "fidelity", fidelity_json(ab), "verdict", sentence);
    free(sentence);
    for (size_t i = 0; i < ab->arm_count; i++) json_object_set_new(document, ab->arms[i].key, arm_json(ab, i));
    return document;
}
