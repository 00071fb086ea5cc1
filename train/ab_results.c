// What a comparison found: the JSON document of product.md and its verdict (ab.h). ab_report.c shows it to people.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/json_text.h"
#include "train/ab.h"
#include "train/figures.h"
#include "train/statistics.h"

// Steps done under a seed (index).
static size_t steps_of(const Ab *ab, size_t seed) {
    return seed < ab->seed ? ab->steps : seed == ab->seed ? ab->step : 0;
}

// The timed steps of an arm over all seeds: seconds (seed_count · steps at most) =. Returns their number.
static size_t timed_steps(const Ab *ab, size_t arm, double *seconds) {
    size_t count = 0;
    for (size_t s = 0; s < ab->seed_count; s++)
        for (size_t i = 0; i < steps_of(ab, s); i++)
            if (ab_timed(ab, s, i)) seconds[count++] = ab_track(ab, s, arm)->seconds[i];
    return count;
}

// A figure of these times is NaN though they are times: then there was no memory to find it.
static bool found(double figure, const double *seconds, size_t count) {
    bool times = count > 0;
    for (size_t i = 0; i < count; i++) times = times && seconds[i] > 0;
    return !times || !isnan(figure);
}

static double step_tokens(const Config *config) {
    return (double)config->batch * (double)config->accumulate * (double)config->tokens;
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

// The settings in which arms differ, by the texts of their values.
static json_t *differences_json(const Ab *ab) {
    json_t *rows = json_array();
    for (size_t i = 0; i < config_key_count(); i++) {
        char name[64], values[AB_ARMS][CONFIG_TEXT];
        bool same = true;
        config_key_name(i, name);
        for (size_t arm = 0; arm < ab->arm_count; arm++) {
            config_value(&ab->arms[arm].config, i, values[arm]);
            same = same && !strcmp(values[arm], values[0]);
        }
        if (same) continue;
        json_t *row = json_pack("{s:s}", "setting", name);
        for (size_t arm = 0; arm < ab->arm_count; arm++)
            json_object_set_new(row, ab->arms[arm].key, json_string(values[arm]));
        json_array_append_new(rows, row);
    }
    return rows;
}

// Figures after training are means over seeds that trained equally long: a seed that is still under way, behind one that
// is done, does not count.
static bool counts(const Ab *ab, size_t seed) {
    const AbTrack *first = ab_track(ab, 0, 0), *it = ab_track(ab, seed, 0);
    return it->evaluations && it->eval_step[it->evaluations - 1] == first->eval_step[first->evaluations - 1];
}

// Mean of a figure over the seeds that count; NaN without one.
static double over_seeds(const Ab *ab, size_t arm, double (*figure)(const AbTrack *)) {
    double sum = 0;
    size_t count = 0;
    for (size_t s = 0; s < ab->seed_count; s++) {
        if (!counts(ab, s)) continue;
        sum += figure(ab_track(ab, s, arm));
        count++;
    }
    return count ? sum / (double)count : NAN;
}
static double held_out_loss(const AbTrack *track) { return track->final.loss; }
static double accuracy(const AbTrack *track) { return track->final.accuracy; }
static double bits(const AbTrack *track) { return track->bits_per_byte; }

static void set_arm(json_t *row, const char *arm, const char *suffix, double value) {
    char key[64];
    snprintf(key, sizeof key, "%s%s", arm, suffix);
    json_object_set_new(row, key, figure_json(value));
}

// Milliseconds of the median step by phase: its time, divided as the time of all steps is. Means would not add up to it,
// for a few steps that something else held up weigh heavily in them.
static json_t *phases_json(const Ab *ab, size_t arm, double step) {
    double seconds[PHASE_COUNT] = {0}, all = 0;
    for (size_t p = 0; p < PHASE_COUNT; p++)
        for (size_t s = 0; s < ab->seed_count; s++) {
            seconds[p] += ab_track(ab, s, arm)->phases.seconds[p];
            all += ab_track(ab, s, arm)->phases.seconds[p];
        }
    json_t *phases = json_object();
    for (size_t p = 0; p < PHASE_COUNT; p++)
        if (seconds[p] > 0 && step > 0)
            json_object_set_new(phases, phase_name((Phase)p), json_real(1e3 * step * seconds[p] / all));
    return phases;
}

static json_t *curves_json(const Ab *ab, size_t arm) {
    json_t *curves = json_array();
    for (size_t s = 0; s < ab->seed_count && steps_of(ab, s); s++) {
        const AbTrack *track = ab_track(ab, s, arm);
        json_t *loss = json_array(), *seconds = json_array(), *evaluations = json_array();
        for (size_t i = 0; i < steps_of(ab, s); i++) {
            json_array_append_new(loss, figure_json(track->loss[i]));
            json_array_append_new(seconds, json_real(track->seconds[i]));
        }
        for (size_t i = 0; i < track->evaluations; i++)
            json_array_append_new(evaluations,
                                  json_pack("{s:I, s:o, s:f}", "step", (json_int_t)track->eval_step[i], "held_out_loss",
                                            figure_json(track->eval_loss[i]), "seconds", track->eval_seconds[i]));
        json_array_append_new(curves, json_pack("{s:I, s:o, s:o, s:o}", "seed", (json_int_t)ab_seed(ab, s), "loss",
                                                loss, "step_seconds", seconds, "evaluations", evaluations));
    }
    return curves;
}

// Every seed's figures after training, one row each.
static json_t *seeds_json(const Ab *ab) {
    json_t *rows = json_array();
    for (size_t s = 0; s < ab->seed_count; s++) {
        if (!ab_track(ab, s, 0)->evaluations) continue;
        const AbTrack *first = ab_track(ab, s, 0);
        json_t *row = json_pack("{s:I, s:I}", "seed", (json_int_t)ab_seed(ab, s), "step",
                                (json_int_t)first->eval_step[first->evaluations - 1]);
        for (size_t i = 0; i < ab->arm_count; i++) {
            const Evaluation *final = &ab_track(ab, s, i)->final;
            set_arm(row, ab->arms[i].key, "", final->loss);
            set_arm(row, ab->arms[i].key, "_accuracy", final->accuracy);
        }
        json_array_append_new(rows, row);
    }
    return rows;
}

// NULL without memory; `seconds` is for timed_steps.
static json_t *arm_json(const Ab *ab, size_t arm, double *seconds) {
    const AbArm *it = &ab->arms[arm];
    const size_t count = timed_steps(ab, arm, seconds);
    double step = median(seconds, count);
    double tokens = step_tokens(&it->config);
    double loss = over_seeds(ab, arm, held_out_loss);
    if (!found(step, seconds, count)) return NULL;
    json_t *object = json_pack(
        "{s:s, s:o, s:o, s:o, s:o, s:o, s:I, s:o, s:o}", "name", it->name, "settings", settings_json(&it->config),
        "held_out_loss", figure_json(loss), "accuracy", figure_json(over_seeds(ab, arm, accuracy)), "step_ms",
        figure_json(1e3 * step), "tokens_per_s", figure_json(tokens / step), "peak_bytes",
        (json_int_t)(it->estimate.total_bytes - it->estimate.program_bytes), "phases", phases_json(ab, arm, step),
        "curves", curves_json(ab, arm));
    if (*it->config.task) return object; // few of a task's tokens are asked for: what follows would say nothing
    json_object_set_new(object, "perplexity", figure_json(exp(loss)));
    double per_byte = over_seeds(ab, arm, bits);
    if (per_byte > 0) json_object_set_new(object, "bits_per_byte", json_real(per_byte));
    return object;
}

// The buckets of an evaluation, by position in the context or by distance to the answer.
typedef struct Buckets {
    size_t count;
    const double *loss, *accuracy;
    const uint64_t *targets;
} Buckets;

static Buckets buckets_of(const Evaluation *final, bool by_distance) {
    if (by_distance)
        return (Buckets){final->distances, final->distance_loss, final->distance_accuracy, final->distance_targets};
    return (Buckets){final->buckets, final->bucket_loss, final->bucket_accuracy, final->bucket_targets};
}

// Mean loss and accuracy of an arm in bucket b over the seeds that count.
static void add_bucket(const Ab *ab, size_t arm, size_t b, bool by_distance, json_t *row) {
    double loss = 0, hits = 0, seeds = 0;
    for (size_t s = 0; s < ab->seed_count; s++) {
        Buckets buckets = buckets_of(&ab_track(ab, s, arm)->final, by_distance);
        if (!counts(ab, s) || b >= buckets.count || !buckets.targets[b]) continue;
        loss += buckets.loss[b];
        hits += buckets.accuracy[b];
        seeds++;
    }
    set_arm(row, ab->arms[arm].key, "", seeds > 0 ? loss / seeds : NAN);
    set_arm(row, ab->arms[arm].key, "_accuracy", seeds > 0 ? hits / seeds : NAN);
}

static json_t *buckets_json(const Ab *ab, bool by_distance) {
    json_t *rows = json_array();
    for (size_t b = 0; b < EVALUATION_BUCKETS; b++) {
        uint64_t targets = 0;
        for (size_t i = 0; i < ab->arm_count; i++) {
            Buckets buckets = buckets_of(&ab_track(ab, 0, i)->final, by_distance);
            if (b < buckets.count) targets += buckets.targets[b];
        }
        if (!targets) continue;
        json_t *row = json_pack("{s:I, s:I}", "from", (json_int_t)evaluation_bucket_start(b), "to",
                                (json_int_t)evaluation_bucket_start(b + 1) - 1);
        for (size_t i = 0; i < ab->arm_count; i++) add_bucket(ab, i, b, by_distance, row);
        json_array_append_new(rows, row);
    }
    return rows;
}

// Heads × sequences of b that ran exact where fidelity was measured.
static double fallbacks(const Ab *ab) {
    double fell_back = 0;
    size_t index;
    json_t *row;
    json_array_foreach(ab->fidelity, index, row) fell_back += json_number_value(json_object_get(row, "fell_back"));
    return fell_back;
}

// Rows with their largest errors, and how many exceeded their certificate.
static json_t *fidelity_json(const Ab *ab) {
    static const char *const quantities[] = {"output", "dq", "dk", "dv"};
    json_t *fidelity = json_object(), *row;
    size_t index, checked = 0, violated = 0;
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
    }
    if (!json_array_size(ab->fidelity) && ab_track(ab, 0, 0)->evaluations)
        json_object_set_new(fidelity, "skipped",
                            json_string("The arms differ in the shapes of their weights, in model.tokens or in "
                                        "train.batch, so there is no batch that both can run on with the same weights: "
                                        "fidelity is not measured."));
    json_object_set(fidelity, "rows", ab->fidelity);
    json_object_set(fidelity, "gradients", ab->gradients);
    json_object_set_new(fidelity, "certificates_checked", json_integer((json_int_t)checked));
    json_object_set_new(fidelity, "certificates_violated", json_integer((json_int_t)violated));
    json_object_set_new(fidelity, "fell_back", json_real(fallbacks(ab)));
    return fidelity;
}

// Within five per cent for sure, or not the same but for two decimals; an interval that holds 1 and much else says nothing.
static bool as_fast(Interval ratio) {
    const bool holds_one = ratio.low <= 1 && ratio.high >= 1;
    return holds_one ? ratio.low >= 0.95 && ratio.high <= 1.05 : fabs(ratio.value - 1) < 0.005;
}

static void say_speed(FILE *out, const Ab *ab, Interval ratio) {
    const Config *of_a = &ab->arms[0].config, *of_b = &ab->arms[1].config;
    const char *a = ab->arms[0].name, *b = ab->arms[1].name;
    const char *per = step_tokens(of_a) == step_tokens(of_b) ? "step" : "token";
    fprintf(out, "B (%s) ", b);
    if (!isfinite(ratio.value))
        fprintf(out, "against A (%s): no step was timed yet", a);
    else if (isnan(ratio.low))
        fprintf(out, "against A (%s): too few timed steps to tell which is faster", a);
    else if (as_fast(ratio))
        fprintf(out, "is as fast per %s as A (%s)", per, a);
    else if (ratio.low <= 1 && ratio.high >= 1)
        fprintf(out, "cannot be told from A (%s) in speed per %s", a, per);
    else if (ratio.value > 1)
        fprintf(out, "is %.2f times faster per %s than A (%s)", ratio.value, per, a);
    else
        fprintf(out, "is %.2f times slower per %s than A (%s)", 1 / ratio.value, per, a);
    fprintf(out, " at T=%zu", of_a->tokens);
    if (of_a->tokens != of_b->tokens) fprintf(out, " against T=%zu", of_b->tokens);
    if (isfinite(ratio.low))
        fprintf(out, " (ratio %.2f, 95 %% interval %.2f to %.2f)", ratio.value, ratio.low, ratio.high);
    else if (isfinite(ratio.value))
        fprintf(out, " (ratio %.2f)", ratio.value);
}

// "0.40 % higher (2.0480 against 2.0398; by seed 0.21 to 0.55 %)"
static void say_loss(FILE *out, const Ab *ab, double a, double b) {
    double low = INFINITY, high = -INFINITY;
    size_t seeds = 0;
    for (size_t s = 0; s < ab->seed_count; s++) {
        if (!counts(ab, s)) continue;
        double change = 100 * (ab_track(ab, s, 1)->final.loss / ab_track(ab, s, 0)->final.loss - 1);
        low = fmin(low, change);
        high = fmax(high, change);
        seeds++;
    }
    if (a == b)
        fprintf(out, "; held-out losses are identical (%.4f", a);
    else
        fprintf(out, "; its held-out loss is %.2f %% %s (%.4f against %.4f", 100 * fabs(b / a - 1),
                b > a ? "higher" : "lower", b, a);
    if (seeds > 1) fprintf(out, "; %zu seeds: %+.2f to %+.2f %%", seeds, low, high);
    if (ab->arm_count > 2) fprintf(out, "; the window alone reaches %.4f", over_seeds(ab, 2, held_out_loss));
    fputc(')', out);
}

static void say_accuracy(FILE *out, const Ab *ab) {
    fprintf(out, "; it answers %.1f %% right against %.1f %%", 100 * over_seeds(ab, 1, accuracy),
            100 * over_seeds(ab, 0, accuracy));
    if (ab->arm_count > 2) fprintf(out, " (the window alone %.1f %%)", 100 * over_seeds(ab, 2, accuracy));
}

// The share of b's heads × sequences that did: then b's speed is not its method's.
static double fallback_share(const Ab *ab) {
    const double all = (double)json_array_size(ab->fidelity) * (double)ab->arms[1].config.batch;
    return all > 0 ? fallbacks(ab) / all : 0;
}

static void say_fallbacks(FILE *out, double percent) {
    if (percent == 0) return;
    if (percent < 0.1)
        fputs(", though less than 0.1 %", out);
    else if (percent < 100) // few and nearly all are not none and all
        fprintf(out, ", though %.*f %%", percent < 10 || percent > 99 ? 1 : 0, fmin(percent, 99.9));
    else
        fputs(", though all", out);
    fputs(" of its heads fell back to exact", out);
}

// One sentence; malloc'd, NULL without memory. Tasks are judged by accuracy: the ratio of two losses near zero says
// nothing.
static char *verdict(const Ab *ab, Interval ratio) {
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    if (!out) return NULL;
    double a = over_seeds(ab, 0, held_out_loss), b = over_seeds(ab, 1, held_out_loss);
    say_speed(out, ab, ratio);
    say_fallbacks(out, 100 * fallback_share(ab));
    if (!ab_track(ab, 0, 0)->evaluations)
        fputs("; there is no evaluation yet", out);
    else if (!isfinite(a) || !isfinite(b))
        fprintf(out, "; the held-out loss of %s is not finite", isfinite(b) ? "A" : isfinite(a) ? "B" : "A and of B");
    else if (*ab->arms[0].config.task)
        say_accuracy(out, ab);
    else
        say_loss(out, ab, a, b);
    fputc('.', out);
    const bool whole = !ferror(out);
    if (fclose(out) == 0 && whole) return text;
    free(text);
    return NULL;
}

// A's time over b's, per token, step by step. False without memory; `seconds` is for both arms' timed_steps.
static bool speed_ratio(const Ab *ab, double *seconds, Interval *ratio) {
    double *a = seconds, *b = seconds + ab->seed_count * ab->steps;
    const size_t count = timed_steps(ab, 0, a);
    timed_steps(ab, 1, b); // as many
    double tokens = step_tokens(&ab->arms[1].config) / step_tokens(&ab->arms[0].config);
    *ratio = paired_ratio(a, b, count);
    const bool whole = found(ratio->value, a, count) || found(ratio->value, b, count);
    *ratio = (Interval){tokens * ratio->value, tokens * ratio->low, tokens * ratio->high};
    return whole;
}

// Everything but what is measured of each arm. NULL without memory.
static json_t *comparison_json(const Ab *ab, Interval ratio) {
    const Config *config = &ab->arms[0].config;
    const bool complete = ab->seed == ab->seed_count;
    char *sentence = verdict(ab, ratio);
    if (!sentence) return NULL;
    json_t *document = json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:b, s:o, s:[o, o], s:o, s:o, s:o, s:s}", "tokens", (json_int_t)config->tokens,
        "batch", (json_int_t)config->batch, "steps", (json_int_t)ab->steps, "steps_done",
        (json_int_t)(complete ? ab->steps : ab->step), "seeds", (json_int_t)ab->seed_count, "complete", complete,
        "ratio", figure_json(ratio.value), "ratio_interval", figure_json(ratio.low), figure_json(ratio.high), "by_seed",
        seeds_json(ab), "positions", buckets_json(ab, false), "fidelity", fidelity_json(ab), "verdict", sentence);
    free(sentence);
    json_object_set_new(document, "differences", differences_json(ab));
    if (*config->task) json_object_set_new(document, "distances", buckets_json(ab, true));
    return document;
}

json_t *ab_document(const Ab *ab) {
    double *seconds = malloc((2 * ab->seed_count * ab->steps + 1) * sizeof *seconds);
    if (!seconds) return NULL;
    json_watch();
    Interval ratio;
    bool fine = speed_ratio(ab, seconds, &ratio);
    json_t *document = comparison_json(ab, ratio);
    for (size_t i = 0; i < ab->arm_count; i++)
        fine = json_object_set_new(document, ab->arms[i].key, arm_json(ab, i, seconds)) == 0 && fine;
    free(seconds);
    if (fine && json_whole()) return document;
    json_decref(document);
    return NULL;
}
