// A comparison for people: a table and charts in the terminal, and the HTML page (ab.h).
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "train/ab.h"
#include "train/figures.h"
#include "train/report.h"

static const char *const arm_keys[AB_ARMS] = {"a", "b", "control"};

// Points of a curve, taken from the document so that page and JSON cannot differ.
typedef struct Points {
    double *x, *y;
    size_t count;
} Points;

static Points points_new(size_t capacity) {
    double *memory = calloc(2 * (capacity + 1), sizeof *memory);
    REQUIRE(memory);
    return (Points){memory, memory + capacity + 1, 0};
}

static void points_add(Points *points, double x, double y) {
    points->x[points->count] = x;
    points->y[points->count++] = y;
}

// Training loss of the first seed, as means over at most 200 equal stretches.
static Points loss_curve(const json_t *arm) {
    json_t *loss = json_object_get(json_array_get(json_object_get(arm, "curves"), 0), "loss");
    size_t count = json_array_size(loss), stretch = count / 200 + 1;
    Points points = points_new(count / stretch + 1);
    for (size_t from = 0; from < count; from += stretch) {
        size_t to = from + stretch < count ? from + stretch : count;
        double sum = 0;
        for (size_t i = from; i < to; i++) sum += figure_number(json_array_get(loss, i));
        points_add(&points, (double)(from + to) / 2, sum / (double)(to - from));
    }
    return points;
}

static Points held_out_curve(const json_t *arm, const char *over) {
    json_t *rows = json_object_get(json_array_get(json_object_get(arm, "curves"), 0), "evaluations"), *row;
    size_t index;
    Points points = points_new(json_array_size(rows));
    json_array_foreach(rows, index, row) points_add(&points, figure_of(row, over), figure_of(row, "held_out_loss"));
    return points;
}

// A column over the buckets of positions (counted from 1) or distances.
static Points bucket_curve(const json_t *rows, const char *arm, bool accuracy) {
    char key[64];
    json_t *row;
    size_t index;
    Points points = points_new(json_array_size(rows));
    snprintf(key, sizeof key, "%s%s", arm, accuracy ? "_accuracy" : "");
    json_array_foreach(rows, index, row)
        points_add(&points, figure_of(row, "from") + (accuracy ? 0 : 1), figure_of(row, key) * (accuracy ? 100 : 1));
    return points;
}

typedef enum Curve { CURVE_LOSS, CURVE_HELD_OUT, CURVE_HELD_OUT_SECONDS, CURVE_POSITION, CURVE_DISTANCE, CURVES } Curve;

static const Chart curve_charts[CURVES] = {
    {.title = "Training loss over steps",
     .caption = "Mean of neighbouring steps, first seed.",
     .x_label = "step",
     .y_label = "nats per token"},
    {.title = "Held-out loss over steps",
     .caption = "First seed; every arm saw the same batches.",
     .x_label = "step",
     .y_label = "nats per token"},
    {.title = "Held-out loss over seconds",
     .caption = "Seconds of training steps of each arm alone, first seed.",
     .x_label = "seconds",
     .y_label = "nats per token"},
    {.title = "Held-out loss by position in the context",
     .caption = "Where attention to far tokens helps, the curve goes on falling. Mean over seeds.",
     .x_label = "position (first of its bucket, from 1)",
     .y_label = "nats per token",
     .log_x = true},
    {.title = "Right answers by distance",
     .caption = "How far back the answer lies that a question asks for. Mean over seeds.",
     .x_label = "distance in tokens (first of its bucket)",
     .y_label = "right answers, %",
     .log_x = true},
};

static Points curve_points(const json_t *document, const char *key, Curve which) {
    const json_t *arm = json_object_get(document, key);
    switch (which) {
    case CURVE_LOSS: return loss_curve(arm);
    case CURVE_POSITION: return bucket_curve(json_object_get(document, "positions"), key, false);
    case CURVE_DISTANCE: return bucket_curve(json_object_get(document, "distances"), key, true);
    default: return held_out_curve(arm, which == CURVE_HELD_OUT ? "step" : "seconds");
    }
}

// Text is judged by position, tasks by distance.
static bool has_curve(const json_t *document, Curve which) {
    bool task = json_object_get(document, "distances") != NULL;
    return which == CURVE_POSITION ? !task : which == CURVE_DISTANCE ? task : true;
}

// Calls draw with the finished chart.
static void with_curve(const json_t *document, Curve which, void (*draw)(void *, const Chart *), void *context) {
    ChartSeries series[AB_ARMS];
    Points points[AB_ARMS];
    size_t count = 0;
    for (size_t i = 0; i < AB_ARMS; i++) {
        json_t *arm = json_object_get(document, arm_keys[i]);
        if (!arm) continue;
        points[count] = curve_points(document, arm_keys[i], which);
        series[count] = (ChartSeries){json_string_value(json_object_get(arm, "name")), points[count].x, points[count].y,
                                      points[count].count, false};
        count++;
    }
    Chart chart = curve_charts[which];
    chart.series = series;
    chart.series_count = count;
    draw(context, &chart);
    for (size_t i = 0; i < count; i++) free(points[i].x);
}

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
        if (json_object_get(document, arm_keys[i])) fprintf(stderr, " %9s", arm_keys[i]);
    fputc('\n', stderr);
    json_array_foreach(rows, index, row) {
        fprintf(stderr, "%11.0f to %-10.0f", figure_of(row, "from"), figure_of(row, "to"));
        for (size_t i = 0; i < AB_ARMS; i++) {
            char key[64];
            snprintf(key, sizeof key, "%s_accuracy", arm_keys[i]);
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
        json_t *arm = json_object_get(document, arm_keys[i]);
        fprintf(stderr, "%-24.24s %12.1f %12.0f %12.4f %12.2f %12.0f\n", ab->arms[i].name, figure_of(arm, "step_ms"),
                figure_of(arm, "tokens_per_s"), figure_of(arm, "held_out_loss"),
                task ? 100 * figure_of(arm, "accuracy") : figure_of(arm, "perplexity"),
                figure_of(arm, "peak_bytes") / (1 << 20));
    }
    print_distances(document);
    if (isatty(2))
        for (Curve which = CURVE_LOSS; which < CURVES; which++)
            if (which != CURVE_HELD_OUT_SECONDS && has_curve(document, which))
                with_curve(document, which, draw_text, NULL);
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
    json_t *rows = json_array();
    for (size_t i = 0; i < ab->arm_count; i++) json_array_append(rows, json_object_get(document, arm_keys[i]));
    report_table(report, "The arms. Losses are means over seeds; bytes are what each arm's arenas take.", rows, columns,
                 headings, json_object_get(document, "distances") ? 6 : 8);
    json_decref(rows);
}

// A table of which each arm has a loss and an accuracy column.
static void add_columns(Report *report, const Ab *ab, const char *caption, const json_t *rows, const char *const *first,
                        const char *const *first_headings, size_t first_count) {
    enum { COLUMNS = 2 + 2 * AB_ARMS };
    const char *columns[COLUMNS], *headings[COLUMNS];
    char accuracies[AB_ARMS][32], loss_headings[AB_ARMS][32], accuracy_headings[AB_ARMS][32];
    size_t count = 0;
    for (; count < first_count; count++) {
        columns[count] = first[count];
        headings[count] = first_headings[count];
    }
    for (size_t i = 0; i < ab->arm_count; i++) {
        snprintf(loss_headings[i], sizeof loss_headings[i], "loss, %s", arm_keys[i]);
        snprintf(accuracies[i], sizeof accuracies[i], "%s_accuracy", arm_keys[i]);
        snprintf(accuracy_headings[i], sizeof accuracy_headings[i], "accuracy, %s", arm_keys[i]);
        columns[count] = arm_keys[i];
        headings[count++] = loss_headings[i];
        columns[count] = accuracies[i];
        headings[count++] = accuracy_headings[i];
    }
    if (json_array_size(rows)) report_table(report, caption, rows, columns, headings, count);
}

static void add_learning(Report *report, const Ab *ab, const json_t *document) {
    static const char *const seed[] = {"seed", "step"}, *const bucket[] = {"from", "to"};
    report_section(report, "Learning", NULL);
    for (Curve which = 0; which < CURVES; which++)
        if (has_curve(document, which)) with_curve(document, which, draw_page, report);
    add_columns(report, ab, "Held-out figures of each seed.", json_object_get(document, "by_seed"), seed, seed, 2);
    add_columns(report, ab, "By position in the context, counted from 0; means over seeds.",
                json_object_get(document, "positions"), bucket, bucket, 2);
    add_columns(report, ab, "By distance back to the answer; means over seeds.", json_object_get(document, "distances"),
                bucket, bucket, 2);
}

static void add_phases(Report *report, const Ab *ab, const json_t *document) {
    const char *bars[AB_ARMS], *parts[PHASE_COUNT];
    double values[AB_ARMS * PHASE_COUNT];
    for (size_t p = 0; p < PHASE_COUNT; p++) parts[p] = phase_name((Phase)p);
    for (size_t i = 0; i < ab->arm_count; i++) {
        json_t *phases = json_object_get(json_object_get(document, arm_keys[i]), "phases");
        bars[i] = ab->arms[i].name;
        for (size_t p = 0; p < PHASE_COUNT; p++) {
            double ms = figure_of(phases, parts[p]);
            values[i * PHASE_COUNT + p] = isfinite(ms) ? ms : 0;
        }
    }
    report_bars(report, &(ChartBars){"Where a step goes", "Mean milliseconds by phase.", "ms", bars, parts, values,
                                     ab->arm_count, PHASE_COUNT});
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

static void add_certificates(Report *report, const json_t *rows) {
    static const char *const keys[] = {"output_error", "output_bound", "dq_error", "dq_bound", "dk_error", "dk_bound"};
    static const char *const names[] = {"output error",   "output certificate", "dq error",
                                        "dq certificate", "dk error",           "dk certificate"};
    enum { SERIES = 6 };
    Points points[SERIES];
    ChartSeries series[SERIES];
    for (size_t i = 0; i < SERIES; i++) {
        points[i] = largest_by_step(rows, keys[i]);
        series[i] = (ChartSeries){names[i], points[i].x, points[i].y, points[i].count, i % 2 == 1};
    }
    report_chart(report, &(Chart){"Error against certificate",
                                  "Largest over layers and heads on b's weights, against the "
                                  "same far field with the true exp; dashed: what is certified.",
                                  "step", "max-norm error", false, true, series, SERIES});
    for (size_t i = 0; i < SERIES; i++) free(points[i].x);
}

static void add_heat(Report *report, const Ab *ab, const json_t *rows) {
    size_t layers = ab->arms[1].config.layers, heads = ab->arms[1].config.heads, index;
    json_t *row, *last = json_array_get(rows, json_array_size(rows) - 1);
    double *values = malloc(layers * heads * sizeof *values);
    REQUIRE(values);
    for (size_t i = 0; i < layers * heads; i++) values[i] = NAN;
    json_array_foreach(rows, index, row) {
        if (figure_of(row, "step") != figure_of(last, "step") || figure_of(row, "seed") != figure_of(last, "seed"))
            continue;
        size_t cell = (size_t)figure_of(row, "layer") * heads + (size_t)figure_of(row, "head");
        if (cell < layers * heads) values[cell] = figure_of(row, "output_relative");
    }
    report_heat(report, &(ChartHeat){"Output of b's attention against a's, by layer and head",
                                     "Relative difference ‖ô − o‖ / ‖o‖ on the same weights at the last measurement.",
                                     "layer", "head", values, layers, heads, true});
    free(values);
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
    if (isfinite(figure_of(json_array_get(rows, 0), "output_error"))) add_certificates(report, rows);
    add_heat(report, ab, rows);
    report_table(report, "Gradients of all weights by b's attention against a's, on the weights of b.",
                 json_object_get(fidelity, "gradients"), columns, headings, 7);
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
    for (size_t i = 0; i < ab->arm_count; i++) {
        char *text = config_text(&ab->arms[i].config);
        report_settings(report, ab->arms[i].name, text ? text : "");
        free(text);
    }
    return report_write(report, path, document, error);
}
