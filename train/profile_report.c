// A profile as JSON, as text and as a page (profile.h).
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "train/figures.h"
#include "train/profile.h"
#include "train/report.h"
#include "train/statistics.h"

enum { FIT_FROM = 4096 }; // exponents are fitted from this length on, where fixed costs no longer show

// One row for each phase that took time.
static json_t *phases_json(const Profile *profile, const ProfileCell *cell) {
    json_t *phases = json_array();
    for (size_t p = 0; p < PHASE_COUNT; p++) {
        double seconds = cell->phases.seconds[p], flops = cell->phases.flops[p], bytes = cell->phases.bytes[p];
        if (seconds <= 0) continue;
        const bool attention = p == PHASE_ATTENTION_FORWARD || p == PHASE_ATTENTION_BACKWARD;
        if (attention && cell->fell_back > 0) flops = NAN; // the method's count is not what ran
        json_array_append_new(phases,
                              json_pack("{s:s, s:o, s:o, s:o, s:o, s:o}", "phase", phase_name((Phase)p), "ms",
                                        figure_json(1e3 * seconds), "share", figure_json(seconds / cell->step_seconds),
                                        "gflops", figure_json(1e-9 * flops / seconds), "sgemm_share",
                                        figure_json(flops / seconds / cell->sgemm_rate), "bandwidth_share",
                                        figure_json(bytes / seconds / profile->copy_rate)));
    }
    return phases;
}

static json_t *bytes_json(const Estimate *estimate) {
    const ModelNeeds *needs = &estimate->model;
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "parameters", (json_int_t)needs->parameter_bytes,
                     "gradients", (json_int_t)needs->gradient_bytes, "moments", (json_int_t)estimate->moment_bytes,
                     "activations", (json_int_t)needs->activation_bytes, "scratch", (json_int_t)needs->scratch_bytes,
                     "tables", (json_int_t)needs->plan_bytes, "batches", (json_int_t)estimate->buffer_bytes, "program",
                     (json_int_t)estimate->program_bytes);
}

static double phase_sum(const ProfileCell *cell) {
    double sum = 0;
    for (size_t p = 0; p < PHASE_COUNT; p++) sum += cell->phases.seconds[p];
    return sum;
}

// The share of a step that the clocks between its phases take.
static double measuring_share(const Profile *profile, const ProfileCell *cell) {
    return (double)cell->phases.entries * profile->clock_cost / cell->step_seconds;
}

// Not the time of the exact attention that the method fell back to.
static bool is_own_time(const ProfileCell *cell) { return cell->measured && !(cell->fell_back > 0); }

static double sgemm_share(const ProfileCell *cell) {
    return is_own_time(cell) ? cell->flops / cell->step_seconds / cell->sgemm_rate : NAN;
}

static json_t *row_json(const Profile *profile, size_t length, size_t method) {
    const ProfileCell *cell = &profile->cells[length][method];
    json_t *row = json_pack("{s:s, s:I, s:I}", "method", profile->methods[method], "tokens",
                            (json_int_t)profile->lengths[length], "batch", (json_int_t)profile->batch);
    if (!cell->measured) {
        json_object_set_new(row, "left_out", json_string(cell->left_out ? cell->left_out : "stopped"));
        return row;
    }
    double step = cell->step_seconds;
    const struct {
        const char *key;
        double value;
    } figures[] = {
        {"step_ms", 1e3 * step},
        {"tokens_per_s", (double)(profile->batch * profile->lengths[length]) / step},
        {"attention_forward_ms", 1e3 * cell->phases.seconds[PHASE_ATTENTION_FORWARD]},
        {"attention_backward_ms", 1e3 * cell->phases.seconds[PHASE_ATTENTION_BACKWARD]},
        {"sgemm_share", sgemm_share(cell)},
        {"phase_sum_ms", 1e3 * phase_sum(cell)},
        {"phase_sum_share", phase_sum(cell) / step},
        {"measuring_share", measuring_share(profile, cell)},
        {"checkpoint_ms", 1e3 * cell->checkpoint_seconds},
    };
    for (size_t i = 0; i < sizeof figures / sizeof *figures; i++)
        json_object_set_new(row, figures[i].key, figure_json(figures[i].value));
    json_object_set_new(row, "fell_back", json_integer((json_int_t)cell->fell_back));
    json_object_set_new(row, "steps", json_integer((json_int_t)cell->steps));
    json_object_set_new(row, "total_bytes", json_integer((json_int_t)cell->estimate.total_bytes));
    json_object_set_new(row, "bytes", bytes_json(&cell->estimate));
    json_object_set_new(row, "phases", phases_json(profile, cell));
    return row;
}

static double time_of(const ProfileCell *cell, int which) {
    return which == 0   ? cell->step_seconds
           : which == 1 ? cell->phases.seconds[PHASE_ATTENTION_FORWARD]
                        : cell->phases.seconds[PHASE_ATTENTION_BACKWARD];
}

// Growth of one method's times from FIT_FROM on. which: 0 step, 1 attention forward, 2 backward. They are taken in
// units of sgemm's at that length, so that a machine which slows down meanwhile bends no slope.
static double exponent(const Profile *profile, size_t method, int which) {
    double x[PROFILE_MAX_LENGTHS], y[PROFILE_MAX_LENGTHS];
    size_t count = 0;
    for (size_t l = 0; l < profile->length_count; l++) {
        const ProfileCell *cell = &profile->cells[l][method];
        if (!is_own_time(cell) || profile->lengths[l] < FIT_FROM) continue;
        x[count] = (double)profile->lengths[l];
        y[count++] = time_of(cell, which) * cell->sgemm_rate;
    }
    return growth_exponent(x, y, count);
}

// From where on a method is faster than the first, by the lengths at which both ran as themselves.
static double crossing_of(const Profile *profile, size_t method) {
    double x[PROFILE_MAX_LENGTHS], first[PROFILE_MAX_LENGTHS], own[PROFILE_MAX_LENGTHS];
    size_t count = 0;
    for (size_t l = 0; l < profile->length_count; l++) {
        const ProfileCell *cells = profile->cells[l];
        if (!is_own_time(&cells[0]) || !is_own_time(&cells[method])) continue;
        x[count] = (double)profile->lengths[l];
        first[count] = cells[0].step_seconds;
        own[count++] = cells[method].step_seconds;
    }
    return method ? crossover(x, first, own, count) : NAN;
}

static json_t *fit_json(const Profile *profile, size_t method) {
    static const char *const keys[] = {"step_exponent", "attention_forward_exponent", "attention_backward_exponent"};
    json_t *fit = json_pack("{s:s}", "method", profile->methods[method]);
    for (int which = 0; which < 3; which++)
        json_object_set_new(fit, keys[which], figure_json(exponent(profile, method, which)));
    json_object_set_new(fit, "crossover_tokens", figure_json(crossing_of(profile, method)));
    return fit;
}

json_t *profile_document(const Profile *profile) {
    json_t *rows = json_array(), *fits = json_array();
    for (size_t l = 0; l < profile->length_count; l++)
        for (size_t m = 0; m < profile->method_count; m++) json_array_append_new(rows, row_json(profile, l, m));
    for (size_t m = 0; m < profile->method_count; m++) json_array_append_new(fits, fit_json(profile, m));
    return json_pack("{s:o, s:o, s:I, s:s, s:o, s:o}", "sgemm_gflops", figure_json(1e-9 * profile->sgemm_rate),
                     "copy_gb_per_s", figure_json(1e-9 * profile->copy_rate), "batch", (json_int_t)profile->batch,
                     "data", profile->data ? profile->data : "", "rows", rows, "fits", fits);
}

// One method's times in milliseconds, and the line of growth through those from FIT_FROM on.
typedef struct Curve {
    char name[64];
    double x[PROFILE_MAX_LENGTHS], y[PROFILE_MAX_LENGTHS], fit_x[2], fit_y[2];
    size_t count, fitted; // fitted: 2, or 0 without enough lengths
} Curve;

static void make_curve(const Profile *profile, size_t method, Curve *curve) {
    const double slope = exponent(profile, method, 0);
    double level = 0;
    size_t fitted = 0;
    *curve = (Curve){0};
    snprintf(curve->name, sizeof curve->name, "%.40s", profile->methods[method]);
    const size_t used = strlen(curve->name);
    if (isfinite(slope)) snprintf(curve->name + used, sizeof curve->name - used, " (slope %.2f)", slope);
    for (size_t l = 0; l < profile->length_count; l++) {
        const ProfileCell *cell = &profile->cells[l][method];
        const double x = (double)profile->lengths[l], y = 1e3 * cell->step_seconds;
        if (!cell->measured) continue;
        curve->x[curve->count] = x;
        curve->y[curve->count++] = y;
        if (!isfinite(slope) || !is_own_time(cell) || x < FIT_FROM) continue;
        level += log(y) - slope * log(x);
        curve->fit_x[fitted++ > 0] = x;
    }
    if (!fitted) return;
    curve->fitted = 2;
    for (size_t i = 0; i < 2; i++) curve->fit_y[i] = exp(level / (double)fitted + slope * log(curve->fit_x[i]));
}

static void with_times(const Profile *profile, void (*draw)(void *, const Chart *), void *context) {
    Curve curves[PROFILE_MAX_METHODS];
    ChartSeries series[CHART_MAX_SERIES];
    size_t count = profile->method_count;
    for (size_t m = 0; m < profile->method_count; m++) {
        make_curve(profile, m, &curves[m]);
        series[m] = (ChartSeries){curves[m].name, curves[m].x, curves[m].y, curves[m].count, false, 0};
    }
    for (size_t m = 0; m < profile->method_count && count < CHART_MAX_SERIES; m++)
        if (curves[m].fitted)
            series[count++] = (ChartSeries){"its fit", curves[m].fit_x, curves[m].fit_y, 2, true, m + 1};
    draw(context,
         &(Chart){"Time of a training step over context length",
                  "Median milliseconds; both axes are logarithmic, so a slope of 1 is linear growth. Slopes are "
                  "fitted from 4K tokens on (dashed).",
                  "context length, tokens", "milliseconds", true, true, series, count});
}

static void draw_text(void *context, const Chart *chart) {
    (void)context;
    chart_text(stderr, chart, 64, 14, true);
}
static void draw_page(void *context, const Chart *chart) { report_chart(context, chart); }

static void print_fit(const Profile *profile, const json_t *fit) {
    double slope = figure_of(fit, "step_exponent"), crossing = figure_of(fit, "crossover_tokens");
    fprintf(stderr, "%s:", json_string_value(json_object_get(fit, "method")));
    if (isfinite(slope))
        fprintf(stderr, " grows as T^%.2f from %d tokens on", slope, FIT_FROM);
    else
        fprintf(stderr, " no exponent (fewer than two lengths from %d tokens on)", FIT_FROM);
    if (crossing > 0)
        fprintf(stderr, "; faster than %s from %.0f tokens on", profile->methods[0], crossing);
    else if (crossing == 0)
        fprintf(stderr, "; faster than %s from the first length on", profile->methods[0]);
    fputc('\n', stderr);
}

void profile_print(const Profile *profile, const json_t *document) {
    json_t *fit;
    size_t index;
    fprintf(stderr, "\nsgemm %.0f GFLOP/s, copy %.1f GB/s\n", 1e-9 * profile->sgemm_rate, 1e-9 * profile->copy_rate);
    fprintf(stderr, "%-10s %8s %10s %10s %9s %10s %10s %9s %9s\n", "method", "tokens", "step ms", "attention",
            "of sgemm", "phases ms", "MiB", "measuring", "fell back");
    for (size_t l = 0; l < profile->length_count; l++)
        for (size_t m = 0; m < profile->method_count; m++) {
            const ProfileCell *cell = &profile->cells[l][m];
            if (!cell->measured) continue;
            const double *seconds = cell->phases.seconds;
            char share[16] = "-";
            if (is_own_time(cell)) snprintf(share, sizeof share, "%.0f%%", 100 * sgemm_share(cell));
            fprintf(stderr, "%-10s %8zu %10.1f %10.1f %9s %10.1f %10.0f %8.2f%% %9.0f\n", profile->methods[m],
                    profile->lengths[l], 1e3 * cell->step_seconds,
                    1e3 * (seconds[PHASE_ATTENTION_FORWARD] + seconds[PHASE_ATTENTION_BACKWARD]), share,
                    1e3 * phase_sum(cell), (double)cell->estimate.total_bytes / (1 << 20),
                    100 * measuring_share(profile, cell), cell->fell_back);
        }
    json_array_foreach(json_object_get(document, "fits"), index, fit) print_fit(profile, fit);
    if (isatty(2)) with_times(profile, draw_text, NULL);
}

// Phases of the methods at one length.
static bool add_bars(Report *report, const Profile *profile, size_t length) {
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
    if (!count) return false;
    snprintf(title, sizeof title, "Where a step goes at T=%zu", profile->lengths[length]);
    report_bars(report, &(ChartBars){title, "Milliseconds by phase, of the step in the middle.", "ms", bars, parts,
                                     values, count, PHASE_COUNT});
    return true;
}

// The same in numbers: a table for each method.
static void add_phases(Report *report, const Profile *profile, const json_t *document, size_t length) {
    static const char *const columns[] = {"phase", "ms", "share", "gflops", "sgemm_share", "bandwidth_share"};
    static const char *const headings[] = {
        "phase", "ms", "share of the step", "GFLOP/s", "share of sgemm", "share of bandwidth"};
    char summary[64], path[64], caption[128];
    snprintf(summary, sizeof summary, "T=%zu in numbers", profile->lengths[length]);
    report_fold(report, summary);
    for (size_t m = 0; m < profile->method_count; m++) {
        if (!profile->cells[length][m].measured) continue;
        snprintf(path, sizeof path, "rows/%zu/phases", length * profile->method_count + m);
        snprintf(caption, sizeof caption, "%.64s at T=%zu", profile->methods[m], profile->lengths[length]);
        report_table(report, document, &(ReportTable){caption, &(const char *){path}, 1, columns, headings, 6});
    }
    report_fold_end(report);
}

static void add_lengths(Report *report, const Profile *profile, const json_t *document) {
    static const char *const columns[] = {
        "method",      "tokens",    "step_ms", "tokens_per_s", "attention_forward_ms", "attention_backward_ms",
        "sgemm_share", "fell_back", "left_out"};
    static const char *const headings[] = {"method",
                                           "tokens",
                                           "step, ms (median)",
                                           "tokens/s",
                                           "attention forward, ms",
                                           "attention backward, ms",
                                           "share of sgemm",
                                           "fell back to exact",
                                           "left out for"};
    static const char *const fit_columns[] = {"method", "step_exponent", "attention_forward_exponent",
                                              "attention_backward_exponent", "crossover_tokens"};
    static const char *const fit_headings[] = {"method", "step", "attention forward", "attention backward",
                                               "crossover, tokens"};
    static const char *const rows = "rows", *const fits = "fits";
    report_section(report, "Over context lengths", NULL);
    with_times(profile, draw_page, report);
    report_table(
        report, document,
        &(ReportTable){
            "Every measurement. Fallbacks are counted in layers × heads × sequences, of the step with the most; where "
            "there are any, the time is not the method's own, and enters no exponent or crossover.",
            &rows, 1, columns, headings, 9});
    report_table(report, document,
                 &(ReportTable){"Exponents of time over context length, fitted from 4K tokens on in units of sgemm's "
                                "time at that length; from where on a method is "
                                "faster than the first (0: everywhere).",
                                &fits, 1, fit_columns, fit_headings, 5});
}

static void add_memory(Report *report, const json_t *document) {
    static const char *const columns[] = {"method",          "tokens",        "total_bytes",       "bytes/parameters",
                                          "bytes/gradients", "bytes/moments", "bytes/activations", "bytes/scratch",
                                          "bytes/tables",    "bytes/batches", "bytes/program"};
    static const char *const headings[] = {"method",      "tokens",  "in all", "parameters", "gradients", "moments",
                                           "activations", "scratch", "tables", "batches",    "program"};
    static const char *const rows = "rows";
    report_section(report, "Memory", NULL);
    report_table(report, document, &(ReportTable){"Bytes by arena.", &rows, 1, columns, headings, 11});
}

static void add_checks(Report *report, const json_t *document) {
    static const char *const columns[] = {"method",          "tokens",          "steps",
                                          "phase_sum_share", "measuring_share", "checkpoint_ms"};
    static const char *const headings[] = {"method",           "tokens",           "steps",
                                           "phases over step", "clocks over step", "checkpoint, ms"};
    static const char *const rows = "rows";
    report_section(report, "How it was measured",
                   "Steps of the methods take turns; after one that is not counted, the "
                   "one in the middle is kept, with its phases. A checkpoint is not part of a step.");
    report_table(report, document,
                 &(ReportTable){"Phases add up to the step; what the clocks between them cost.", &rows, 1, columns,
                                headings, 6});
}

bool profile_write_report(const Profile *profile, const json_t *document, const Config *config, const char *path,
                          Error *error) {
    char lead[512];
    snprintf(lead, sizeof lead,
             "Training steps of %zu layers of width %zu, batch %zu, tokens from %.200s, on a machine "
             "whose sgemm runs at %.0f GFLOP/s and whose memory copies at %.1f GB/s.",
             config->layers, config->width, profile->batch, profile->data ? profile->data : "?",
             1e-9 * profile->sgemm_rate, 1e-9 * profile->copy_rate);
    Report *report = report_new("Profile of a training step", lead);
    if (!report) return error_set(error, ERROR_MEMORY, "Out of memory for the report.");
    add_lengths(report, profile, document);
    report_section(report, "By phase", NULL);
    for (size_t l = 0; l < profile->length_count; l++) {
        if (!add_bars(report, profile, l)) continue;
        add_phases(report, profile, document, l);
    }
    add_memory(report, document);
    add_checks(report, document);
    report_section(report, "Settings", NULL);
    char *text = config_text(config);
    report_settings(report, "The configuration, before method and length", text ? text : "");
    free(text);
    return report_write(report, path, document, error);
}
