// A comparison for people: a table and charts in the terminal, and the HTML page (ab.h).
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "train/ab_curves.h"
#include "train/figures.h"
#include "train/report.h"

static void draw_text(void *context, const Chart *chart) {
    (void)context;
    chart_text(stderr, chart, 64, 12, true);
}
static void draw_page(void *context, const Chart *chart) { report_chart(context, chart); }

// Right answers by distance in the terminal: one line for each bucket.
static void print_distances(const json_t *document) {
    json_t *rows = json_object_get(document, "distances"), *row;
    size_t index;
    if (!json_array_size(rows)) return;
    fprintf(stderr, "\n%-24s", "right answers by distance");
    for (size_t i = 0; i < AB_ARMS; i++)
        if (json_object_get(document, ab_arm_keys[i])) fprintf(stderr, " %9s", ab_arm_keys[i]);
    fputc('\n', stderr);
    json_array_foreach(rows, index, row) {
        fprintf(stderr, "%11.0f to %-10.0f", figure_of(row, "from"), figure_of(row, "to"));
        for (size_t i = 0; i < AB_ARMS; i++) {
            char key[64];
            snprintf(key, sizeof key, "%s_accuracy", ab_arm_keys[i]);
            if (json_object_get(row, key)) fprintf(stderr, " %7.1f %%", 100 * figure_of(row, key));
        }
        fputc('\n', stderr);
    }
}

void ab_print(const Ab *ab, const json_t *document) {
    bool task = json_object_get(document, "distances") != NULL;
    fprintf(stderr, "\n%-24s %12s %12s %12s %12s %12s\n", "arm", "step ms", "tokens/s", "held out",
            task ? "right, %" : "perplexity", "memory MiB");
    for (size_t i = 0; i < ab->arm_count; i++) {
        json_t *arm = json_object_get(document, ab_arm_keys[i]);
        fprintf(stderr, "%-24.24s %12.1f %12.0f %12.4f %12.2f %12.0f\n", ab->arms[i].name, figure_of(arm, "step_ms"),
                figure_of(arm, "tokens_per_s"), figure_of(arm, "held_out_loss"),
                task ? 100 * figure_of(arm, "accuracy") : figure_of(arm, "perplexity"),
                figure_of(arm, "peak_bytes") / (1 << 20));
    }
    print_distances(document);
    if (isatty(2)) ab_draw_curves(document, true, draw_text, NULL);
    const char *skipped = json_string_value(json_object_get(json_object_get(document, "fidelity"), "skipped"));
    if (skipped) fprintf(stderr, "\n%s\n", skipped);
    fprintf(stderr, "\n%s\n", json_string_value(json_object_get(document, "verdict")));
}

// One row for each arm, so that the table is made like every other.
static void add_arms(Report *report, const Ab *ab, const json_t *document) {
    static const char *const columns[] = {"name",          "step_ms",  "tokens_per_s", "peak_bytes",
                                          "held_out_loss", "accuracy", "perplexity",   "bits_per_byte"};
    static const char *const headings[] = {"arm",        "step, ms (median)",   "tokens/s",
                                           "peak bytes", "held-out loss, nats", "accuracy",
                                           "perplexity", "bits per byte"};
    report_table(report, document,
                 &(ReportTable){"The arms. Losses are means over seeds; bytes are what each arm takes at most, without the program.",
                                ab_arm_keys, ab->arm_count, columns, headings,
                                json_object_get(document, "distances") ? 6 : 8});
}

// A table of which each arm has a loss and an accuracy column.
static void add_columns(Report *report, const Ab *ab, const json_t *document, const char *caption, const char *path,
                        const char *const first[2]) {
    enum { COLUMNS = 2 + 2 * AB_ARMS };
    const char *columns[COLUMNS], *headings[COLUMNS];
    char accuracies[AB_ARMS][32], loss_headings[AB_ARMS][32], accuracy_headings[AB_ARMS][32];
    size_t count = 0;
    if (!json_array_size(json_object_get(document, path))) return;
    for (; count < 2; count++) columns[count] = headings[count] = first[count];
    for (size_t i = 0; i < ab->arm_count; i++) {
        snprintf(loss_headings[i], sizeof loss_headings[i], "loss, %s", ab_arm_keys[i]);
        snprintf(accuracies[i], sizeof accuracies[i], "%s_accuracy", ab_arm_keys[i]);
        snprintf(accuracy_headings[i], sizeof accuracy_headings[i], "accuracy, %s", ab_arm_keys[i]);
        columns[count] = ab_arm_keys[i];
        headings[count++] = loss_headings[i];
        columns[count] = accuracies[i];
        headings[count++] = accuracy_headings[i];
    }
    report_table(report, document, &(ReportTable){caption, &path, 1, columns, headings, count});
}

static void add_learning(Report *report, const Ab *ab, const json_t *document) {
    static const char *const seed[] = {"seed", "step"}, *const bucket[] = {"from", "to"};
    report_section(report, "Learning", NULL);
    if (!ab_draw_curves(document, false, draw_page, report)) report_incomplete(report);
    add_columns(report, ab, document, "Held-out figures of each seed.", "by_seed", seed);
    add_columns(report, ab, document, "By position in the context, counted from 0; means over seeds.", "positions",
                bucket);
    add_columns(report, ab, document, "By distance back to the answer; means over seeds.", "distances", bucket);
}

static void add_phases(Report *report, const Ab *ab, const json_t *document) {
    const char *bars[AB_ARMS], *parts[PHASE_COUNT];
    double values[AB_ARMS * PHASE_COUNT];
    for (size_t p = 0; p < PHASE_COUNT; p++) parts[p] = phase_name((Phase)p);
    for (size_t i = 0; i < ab->arm_count; i++) {
        json_t *phases = json_object_get(json_object_get(document, ab_arm_keys[i]), "phases");
        bars[i] = ab->arms[i].name;
        for (size_t p = 0; p < PHASE_COUNT; p++) {
            double ms = figure_of(phases, parts[p]);
            values[i * PHASE_COUNT + p] = isfinite(ms) ? ms : 0;
        }
    }
    report_bars(report, &(ChartBars){"Where a step goes", "The median step, divided as the time of all steps is.", "ms",
                                     bars, parts, values, ab->arm_count, PHASE_COUNT});
}

// Largest value of a key over the rows of each step of the first seed.
static Points largest_by_step(const json_t *rows, const char *key) {
    json_t *row;
    size_t index;
    Points points = points_new(json_array_size(rows));
    json_array_foreach(rows, index, row) {
        double x = figure_of(row, "step"), y = figure_of(row, key);
        if (figure_of(row, "seed") != figure_of(json_array_get(rows, 0), "seed") || !isfinite(y)) continue;
        if (points.count && points.x[points.count - 1] == x)
            points.y[points.count - 1] = fmax(points.y[points.count - 1], y);
        else
            points_add(&points, x, y);
    }
    return points;
}

static void add_certificates(Report *report, const json_t *document) {
    static const char *const columns[] = {"certificates_checked", "certificates_violated", "fell_back"};
    static const char *const headings[] = {"certificates checked", "exceeded", "fallbacks to exact, heads × sequences"};
    const json_t *rows = json_object_get(json_object_get(document, "fidelity"), "rows");
    static const char *const keys[] = {"output_error", "output_bound", "dq_error", "dq_bound",
                                       "dk_error",     "dk_bound",     "dv_error", "dv_bound"};
    static const char *const names[] = {"output error", "output certificate", "dq error", "dq certificate",
                                        "dk error",     "dk certificate",     "dv error", "dv certificate"};
    enum { SERIES = 8 };
    Points points[SERIES];
    ChartSeries series[SERIES];
    for (size_t i = 0; i < SERIES; i++) {
        points[i] = largest_by_step(rows, keys[i]);
        if (!points[i].x) report_incomplete(report);
        series[i] = (ChartSeries){names[i], points[i].x, points[i].y, points[i].count, i % 2 == 1, i / 2 * 2 + 1};
    }
    report_chart(report, &(Chart){"Error against certificate",
                                  "Largest over layers and heads on b's weights, first seed, against the "
                                  "same far field with the true exp; dashed: what is certified.",
                                  "step", "max-norm error", false, true, series, SERIES});
    for (size_t i = 0; i < SERIES; i++) free(points[i].x);
    report_table(report, document,
                 &(ReportTable){"Certificates over all measurements, layers and heads.", &(const char *){"fidelity"}, 1,
                                columns, headings, 3});
}

// The cells of the last measurement: values by layer and head, and where their rows are in the document.
typedef struct Heads {
    size_t layers, heads;
    double *values;
    const char **paths;
    char (*texts)[40];
} Heads;

// Every measurement adds one row for each layer and head, last layer first.
static void find_heads(const Heads *it, const json_t *rows) {
    const size_t cells = it->layers * it->heads;
    REQUIRE(json_array_size(rows) >= cells);
    const size_t first = json_array_size(rows) - cells;
    for (size_t i = 0; i < cells; i++) {
        const json_t *row = json_array_get(rows, first + i);
        size_t cell = (size_t)figure_of(row, "layer") * it->heads + (size_t)figure_of(row, "head");
        REQUIRE(cell < cells);
        it->values[cell] = figure_of(row, "output_relative");
        snprintf(it->texts[cell], sizeof it->texts[cell], "fidelity/rows/%zu", first + i);
        it->paths[cell] = it->texts[cell];
    }
}

static void show_heads(Report *report, const Heads *it, const json_t *document) {
    static const char *const columns[] = {"layer",        "head",         "output_relative", "output_cosine",
                                          "output_error", "output_bound", "dq_relative",     "dk_relative",
                                          "dv_relative",  "logit_bound",  "clipped"};
    static const char *const headings[] = {"layer",        "head",          "output, relative", "cosine",
                                           "error",        "certificate",   "dq, relative",     "dk, relative",
                                           "dv, relative", "largest logit", "clipped"};
    report_heat(report, &(ChartHeat){"Output of b's attention against a's, by layer and head",
                                     "Relative difference ‖ô − o‖ / ‖o‖ on the same weights at the last measurement.",
                                     "layer", "head", it->values, it->layers, it->heads, true});
    report_fold(report, "The last measurement in numbers");
    report_table(report, document,
                 &(ReportTable){"By layer and head; error and certificate in the max norm, against the true exp.",
                                it->paths, it->layers * it->heads, columns, headings, 11});
    report_fold_end(report);
}

// The last measurement as a heat map, and as a table that can be unfolded.
static void add_heads(Report *report, const Ab *ab, const json_t *document) {
    const size_t layers = ab->arms[1].config.layers, heads = ab->arms[1].config.heads, cells = layers * heads;
    Heads it = {layers, heads, malloc(cells * sizeof *it.values), malloc(cells * sizeof *it.paths),
                malloc(cells * sizeof *it.texts)};
    if (it.values && it.paths && it.texts) {
        find_heads(&it, json_object_get(json_object_get(document, "fidelity"), "rows"));
        show_heads(report, &it, document);
    } else {
        report_incomplete(report);
    }
    free(it.texts);
    free(it.paths);
    free(it.values);
}

static void add_fidelity(Report *report, const Ab *ab, const json_t *document) {
    static const char *const columns[] = {"seed", "step", "loss_a", "loss_b", "difference", "relative", "cosine"};
    static const char *const headings[] = {
        "seed", "step", "loss by a", "loss by b", "largest difference", "relative difference", "cosine"};
    json_t *fidelity = json_object_get(document, "fidelity"), *rows = json_object_get(fidelity, "rows");
    if (!json_array_size(rows)) {
        const char *skipped = json_string_value(json_object_get(fidelity, "skipped"));
        report_section(report, "Fidelity", skipped ? skipped : "There is no evaluation yet.");
        return;
    }
    report_section(report, "Fidelity", "On the weights of b and one held-out batch.");
    if (json_integer_value(json_object_get(fidelity, "certificates_checked"))) add_certificates(report, document);
    add_heads(report, ab, document);
    report_table(report, document,
                 &(ReportTable){"Gradients of all weights by b's attention against a's, on the weights of b.",
                                &(const char *){"fidelity/gradients"}, 1, columns, headings, 7});
}

static void add_differences(Report *report, const Ab *ab, const json_t *document) {
    static const char *const columns[] = {"setting", "a", "b", "control"};
    static const char *const path = "differences";
    if (!json_array_size(json_object_get(document, path))) return;
    report_table(
        report, document,
        &(ReportTable){"Settings that are not the same in all arms.", &path, 1, columns, columns, 1 + ab->arm_count});
}

bool ab_write_report(const Ab *ab, const json_t *document, const char *path, Error *error) {
    char title[2 * CONFIG_TEXT + 64];
    snprintf(title, sizeof title, "A/B: %s against %s, T=%zu", ab->arms[0].name, ab->arms[1].name,
             ab->arms[0].config.tokens);
    Report *report = report_new(title, json_string_value(json_object_get(document, "verdict")));
    if (!report) return error_set(error, ERROR_MEMORY, "Out of memory for the report.");
    report_section(report, "Result", NULL);
    add_arms(report, ab, document);
    report_section(report, "Speed", "Steps of the arms alternate in one process.");
    add_phases(report, ab, document);
    add_learning(report, ab, document);
    add_fidelity(report, ab, document);
    report_section(report, "Settings", NULL);
    add_differences(report, ab, document);
    for (size_t i = 0; i < ab->arm_count; i++) {
        char *text = config_text(&ab->arms[i].config);
        if (!text) report_incomplete(report);
        report_settings(report, ab->arms[i].name, text ? text : "");
        free(text);
    }
    return report_write(report, path, document, error);
}
