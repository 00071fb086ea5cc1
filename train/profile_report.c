// A profile as JSON, as text and as a page (profile.h).
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "train/profile.h"
#include "train/report.h"
#include "train/statistics.h"

enum { FIT_FROM = 4096 }; // exponents are fitted from this length on, where fixed costs no longer show

static json_t *number(double value) { return isfinite(value) ? json_real(value) : json_null(); }

static json_t *phases_json(const Profile *profile, const ProfileCell *cell) {
    json_t *phases = json_object();
    for (size_t p = 0; p < PHASE_COUNT; p++) {
        double seconds = cell->phases.seconds[p], flops = cell->phases.flops[p], bytes = cell->phases.bytes[p];
        if (seconds <= 0) continue;
        json_object_set_new(phases, phase_name((Phase)p),
                            json_pack("{s:f, s:f, s:f, s:f}", "ms", 1e3 * seconds, "gflops", 1e-9 * flops / seconds,
                                      "sgemm_share", flops / seconds / profile->sgemm_rate, "bandwidth_share",
                                      bytes / seconds / profile->copy_rate));
    }
    return phases;
}

static json_t *row_json(const Profile *profile, size_t length, size_t method) {
    const ProfileCell *cell = &profile->cells[length][method];
    const ModelNeeds *needs = &cell->estimate.model;
    json_t *row = json_pack("{s:s, s:I, s:I}", "method", profile->methods[method], "tokens",
                            (json_int_t)profile->lengths[length], "batch", (json_int_t)profile->batch);
    if (!cell->measured) {
        json_object_set_new(row, "left_out", json_string(cell->left_out ? cell->left_out : "stopped"));
        return row;
    }
    double sum = 0, step = cell->step_seconds;
    for (size_t p = 0; p < PHASE_COUNT; p++) sum += cell->phases.seconds[p];
    json_object_update_new(
        row, json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:I, s:o, s:o}", "step_ms", 1e3 * step, "tokens_per_s",
                       (double)(profile->batch * profile->lengths[length]) / step, "attention_forward_ms",
                       1e3 * cell->phases.seconds[PHASE_ATTENTION_FORWARD], "attention_backward_ms",
                       1e3 * cell->phases.seconds[PHASE_ATTENTION_BACKWARD], "sgemm_share",
                       cell->estimate.step_flops / step / profile->sgemm_rate, "phase_sum_ms", 1e3 * sum,
                       "measuring_share", (double)cell->phase_entries * profile->clock_cost / step, "checkpoint_ms",
                       1e3 * cell->checkpoint_seconds, "total_bytes", (json_int_t)cell->estimate.total_bytes, "bytes",
                       json_pack("{s:I, s:I, s:I, s:I, s:I}", "parameters", (json_int_t)needs->parameter_bytes,
                                 "gradients", (json_int_t)needs->gradient_bytes, "moments",
                                 (json_int_t)cell->estimate.moment_bytes, "activations",
                                 (json_int_t)needs->activation_bytes, "scratch", (json_int_t)needs->scratch_bytes),
                       "phases", phases_json(profile, cell)));
    return row;
}

// Lengths and times of one method where measured, from `first` tokens on. which: 0 step, 1 attention forward, 2 backward.
static size_t times(const Profile *profile, size_t method, size_t first, int which, double *x, double *y) {
    size_t count = 0;
    for (size_t l = 0; l < profile->length_count; l++) {
        const ProfileCell *cell = &profile->cells[l][method];
        if (!cell->measured || profile->lengths[l] < first) continue;
        x[count] = (double)profile->lengths[l];
        y[count++] = which == 0   ? cell->step_seconds
                     : which == 1 ? cell->phases.seconds[PHASE_ATTENTION_FORWARD]
                                  : cell->phases.seconds[PHASE_ATTENTION_BACKWARD];
    }
    return count;
}

static json_t *fit_json(const Profile *profile, size_t method) {
    static const char *const keys[] = {"step_exponent", "attention_forward_exponent", "attention_backward_exponent"};
    double x[PROFILE_MAX_LENGTHS], y[PROFILE_MAX_LENGTHS], first[PROFILE_MAX_LENGTHS];
    json_t *fit = json_pack("{s:s}", "method", profile->methods[method]);
    for (int which = 0; which < 3; which++) {
        size_t count = times(profile, method, FIT_FROM, which, x, y);
        json_object_set_new(fit, keys[which], number(growth_exponent(x, y, count)));
    }
    // The first method is the yardstick: where it stops being the faster one.
    size_t count = times(profile, 0, 0, 0, x, first), own = times(profile, method, 0, 0, x, y);
    double crossing = method ? crossover(x, first, y, count < own ? count : own) : NAN;
    json_object_set_new(fit, "crossover_tokens", number(crossing));
    return fit;
}

json_t *profile_document(const Profile *profile) {
    json_t *rows = json_array(), *fits = json_array();
    for (size_t l = 0; l < profile->length_count; l++)
        for (size_t m = 0; m < profile->method_count; m++) json_array_append_new(rows, row_json(profile, l, m));
    for (size_t m = 0; m < profile->method_count; m++) json_array_append_new(fits, fit_json(profile, m));
    return json_pack("{s:f, s:f, s:I, s:o, s:o}", "sgemm_gflops", 1e-9 * profile->sgemm_rate, "copy_gb_per_s",
                     1e-9 * profile->copy_rate, "batch", (json_int_t)profile->batch, "rows", rows, "fits", fits);
}

static void with_times(const Profile *profile, void (*draw)(void *, const Chart *), void *context) {
    double x[PROFILE_MAX_METHODS][PROFILE_MAX_LENGTHS], y[PROFILE_MAX_METHODS][PROFILE_MAX_LENGTHS];
    char names[PROFILE_MAX_METHODS][64];
    ChartSeries series[PROFILE_MAX_METHODS];
    for (size_t m = 0; m < profile->method_count; m++) {
        double fit_x[PROFILE_MAX_LENGTHS], fit_y[PROFILE_MAX_LENGTHS];
        size_t count = times(profile, m, 0, 0, x[m], y[m]), fitted = times(profile, m, FIT_FROM, 0, fit_x, fit_y);
        double slope = growth_exponent(fit_x, fit_y, fitted);
        for (size_t i = 0; i < count; i++) y[m][i] *= 1e3;
        if (isfinite(slope)) snprintf(names[m], sizeof names[m], "%.40s (slope %.2f)", profile->methods[m], slope);
        else snprintf(names[m], sizeof names[m], "%.60s", profile->methods[m]);
        series[m] = (ChartSeries){names[m], x[m], y[m], count, false};
    }
    draw(context, &(Chart){"Time of a training step over context length",
                           "Median milliseconds; both axes are logarithmic, so a slope of 1 is linear growth. Slopes are "
                           "fitted from 4K tokens on.",
                           "context length, tokens", "milliseconds", true, true, series, profile->method_count});
}

static void draw_text(void *context, const Chart *chart) {
    (void)context;
    chart_text(stderr, chart, 64, 14, true);
}
static void draw_page(void *context, const Chart *chart) { report_chart(context, chart); }

void profile_print(const Profile *profile, const json_t *document) {
    json_t *fit;
    size_t index;
    fprintf(stderr, "\nsgemm %.0f GFLOP/s, copy %.1f GB/s\n", 1e-9 * profile->sgemm_rate, 1e-9 * profile->copy_rate);
    fprintf(stderr, "%-10s %8s %10s %10s %9s %10s %10s %9s\n", "method", "tokens", "step ms", "attention", "of sgemm",
            "phases ms", "MiB", "measuring");
    for (size_t l = 0; l < profile->length_count; l++)
        for (size_t m = 0; m < profile->method_count; m++) {
            const ProfileCell *cell = &profile->cells[l][m];
            if (!cell->measured) continue;
            double attention = cell->phases.seconds[PHASE_ATTENTION_FORWARD] + cell->phases.seconds[PHASE_ATTENTION_BACKWARD];
            double sum = 0;
            for (size_t p = 0; p < PHASE_COUNT; p++) sum += cell->phases.seconds[p];
            fprintf(stderr, "%-10s %8zu %10.1f %10.1f %8.0f%% %10.1f %10.0f %8.2f%%\n", profile->methods[m],
                    profile->lengths[l], 1e3 * cell->step_seconds, 1e3 * attention,
                    100 * cell->estimate.step_flops / cell->step_seconds / profile->sgemm_rate, 1e3 * sum,
                    (double)cell->estimate.total_bytes / (1 << 20),
                    100 * (double)cell->phase_entries * profile->clock_cost / cell->step_seconds);
        }
    json_array_foreach(json_object_get(document, "fits"), index, fit) {
        json_t *slope = json_object_get(fit, "step_exponent"), *crossing = json_object_get(fit, "crossover_tokens");
        fprintf(stderr, "%s:", profile->methods[index]);
        if (json_is_number(slope)) fprintf(stderr, " grows as T^%.2f from %d tokens on", json_number_value(slope), FIT_FROM);
        else fprintf(stderr, " no exponent (fewer than two lengths from %d tokens on)", FIT_FROM);
        if (json_is_number(crossing))
            fprintf(stderr, "; faster than %s from %.0f tokens on", profile->methods[0], json_number_value(crossing));
        fputc('\n', stderr);
    }
    if (isatty(2)) with_times(profile, draw_text, NULL);
}

// Phases of the methods at one length.
static void add_bars(Report *report, const Profile *profile, size_t length) {
    const char *bars[PROFILE_MAX_METHODS], *parts[PHASE_COUNT];
    double values[PROFILE_MAX_METHODS * PHASE_COUNT];
    char title[64];
    size_t count = 0;
    for (size_t p = 0; p < PHASE_COUNT; p++) parts[p] = phase_name((Phase)p);
    for (size_t m = 0; m < profile->method_count; m++) {
        const ProfileCell *cell = &profile->cells[length][m];
        if (!cell->measured) continue;
        bars[count] = profile->methods[m];
        for (size_t p = 0; p < PHASE_COUNT; p++) values[count * PHASE_COUNT + p] = 1e3 * cell->phases.seconds[p];
        count++;
    }
    if (!count) return;
    snprintf(title, sizeof title, "Where a step goes at T=%zu", profile->lengths[length]);
    report_bars(report, &(ChartBars){title, "Mean milliseconds by phase.", "ms", bars, parts, values, count, PHASE_COUNT});
}

bool profile_write_report(const Profile *profile, const json_t *document, const Config *config, const char *path,
                          Error *error) {
    static const char *const columns[] = {"method", "tokens", "step_ms", "tokens_per_s", "attention_forward_ms",
                                          "attention_backward_ms", "sgemm_share", "total_bytes", "left_out"};
    static const char *const headings[] = {"method", "tokens", "step, ms (median)", "tokens/s", "attention forward, ms",
                                           "attention backward, ms", "share of sgemm", "bytes", "left out for"};
    static const char *const fit_columns[] = {"method", "step_exponent", "attention_forward_exponent",
                                              "attention_backward_exponent", "crossover_tokens"};
    static const char *const fit_headings[] = {"method", "step", "attention forward", "attention backward",
                                               "crossover, tokens"};
    char lead[256];
    snprintf(lead, sizeof lead, "Training steps of %zu layers of width %zu, batch %zu, on a machine whose sgemm runs at "
             "%.0f GFLOP/s and whose memory copies at %.1f GB/s.", config->layers, config->width, profile->batch,
             1e-9 * profile->sgemm_rate, 1e-9 * profile->copy_rate);
    Report *report = report_new("Profile of a training step", lead);
    if (!report) return error_set(error, ERROR_MEMORY, "Out of memory for the report.");
    report_section(report, "Over context lengths", NULL);
    with_times(profile, draw_page, report);
    report_table(report, "Every measurement.", json_object_get(document, "rows"), columns, headings, 9);
    report_table(report, "Exponents of time over context length, fitted from 4K tokens on; where a method overtakes the "
                 "first.", json_object_get(document, "fits"), fit_columns, fit_headings, 5);
    report_section(report, "By phase", NULL);
    for (size_t l = 0; l < profile->length_count; l++) add_bars(report, profile, l);
    report_section(report, "Settings", NULL);
    char *text = config_text(config);
    report_settings(report, "The configuration, before method and length", text ? text : "");
    free(text);
    return report_write(report, path, document, error);
}
