// A comparison for people: a table and charts in the terminal, and the HTML page (ab.h).
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "train/ab.h"
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

static double value(const json_t *object, const char *key) {
    json_t *found = json_object_get(object, key);
    return json_is_number(found) ? json_number_value(found) : NAN;
}

// Training loss of the first seed, as means over at most 200 equal stretches.
static Points loss_curve(const json_t *arm) {
    json_t *loss = json_object_get(json_array_get(json_object_get(arm, "curves"), 0), "loss");
    size_t count = json_array_size(loss), stretch = count / 200 + 1;
    Points points = points_new(count / stretch + 1);
    for (size_t from = 0; from < count; from += stretch) {
        size_t to = from + stretch < count ? from + stretch : count;
        double sum = 0;
        for (size_t i = from; i < to; i++) sum += json_number_value(json_array_get(loss, i));
        points_add(&points, (double)(from + to) / 2, sum / (double)(to - from));
    }
    return points;
}

static Points held_out_curve(const json_t *arm, const char *over) {
    json_t *rows = json_object_get(json_array_get(json_object_get(arm, "curves"), 0), "evaluations"), *row;
    size_t index;
    Points points = points_new(json_array_size(rows));
    json_array_foreach(rows, index, row) points_add(&points, value(row, over), value(row, "held_out_loss"));
    return points;
}

static Points position_curve(const json_t *document, const char *key) {
    json_t *rows = json_object_get(document, "positions"), *row;
    size_t index;
    Points points = points_new(json_array_size(rows));
    json_array_foreach(rows, index, row) points_add(&points, value(row, "from") + 1, value(row, key));
    return points;
}

typedef enum Curve { CURVE_LOSS, CURVE_HELD_OUT, CURVE_HELD_OUT_SECONDS, CURVE_POSITION, CURVES } Curve;

static const Chart curve_charts[CURVES] = {
    {.title = "Training loss over steps", .caption = "Mean of neighbouring steps, first seed.", .x_label = "step",
     .y_label = "nats per token"},
    {.title = "Held-out loss over steps", .caption = "First seed; every arm saw the same batches.", .x_label = "step",
     .y_label = "nats per token"},
    {.title = "Held-out loss over seconds", .caption = "Seconds of training steps of each arm alone, first seed.",
     .x_label = "seconds", .y_label = "nats per token"},
    {.title = "Held-out loss by position in the context",
     .caption = "Where attention to far tokens helps, the curve goes on falling. Mean over seeds.",
     .x_label = "position (first of its bucket, from 1)", .y_label = "nats per token", .log_x = true},
};

// Calls draw with the finished chart.
static void with_curve(const json_t *document, Curve which, void (*draw)(void *, const Chart *), void *context) {
    ChartSeries series[AB_ARMS];
    Points points[AB_ARMS];
    size_t count = 0;
    for (size_t i = 0; i < AB_ARMS; i++) {
        json_t *arm = json_object_get(document, arm_keys[i]);
        if (!arm) continue;
        points[count] = which == CURVE_LOSS       ? loss_curve(arm)
                        : which == CURVE_POSITION ? position_curve(document, arm_keys[i])
                                                  : held_out_curve(arm, which == CURVE_HELD_OUT ? "step" : "seconds");
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

void ab_print(const Ab *ab, const json_t *document) {
    fprintf(stderr, "\n%-24s %12s %12s %12s %12s %12s\n", "arm", "step ms", "tokens/s", "held out", "perplexity",
            "memory MiB");
    for (size_t i = 0; i < ab->arm_count; i++) {
        json_t *arm = json_object_get(document, arm_keys[i]);
        fprintf(stderr, "%-24.24s %12.1f %12.0f %12.4f %12.2f %12.0f\n", ab->arms[i].name, value(arm, "step_ms"),
                value(arm, "tokens_per_s"), value(arm, "held_out_loss"), value(arm, "perplexity"),
                value(arm, "peak_bytes") / (1 << 20));
    }
    if (isatty(2))
        for (Curve which = CURVE_LOSS; which <= CURVE_HELD_OUT; which++) with_curve(document, which, draw_text, NULL);
    fprintf(stderr, "\n%s\n", json_string_value(json_object_get(document, "verdict")));
}

// One row for each arm, so that the table is made like every other.
static void add_arms(Report *report, const Ab *ab, const json_t *document) {
    static const char *const columns[] = {"name", "step_ms", "tokens_per_s", "held_out_loss", "perplexity",
                                          "bits_per_byte", "accuracy", "peak_bytes"};
    static const char *const headings[] = {"arm", "step, ms (median)", "tokens/s", "held-out loss, nats", "perplexity",
                                           "bits per byte", "accuracy", "peak bytes"};
    json_t *rows = json_array();
    for (size_t i = 0; i < ab->arm_count; i++) json_array_append(rows, json_object_get(document, arm_keys[i]));
    report_table(report, "The arms; losses are means over seeds.", rows, columns, headings, 8);
    json_decref(rows);
}

static void add_phases(Report *report, const Ab *ab, const json_t *document) {
    const char *bars[AB_ARMS], *parts[PHASE_COUNT];
    double values[AB_ARMS * PHASE_COUNT];
    for (size_t p = 0; p < PHASE_COUNT; p++) parts[p] = phase_name((Phase)p);
    for (size_t i = 0; i < ab->arm_count; i++) {
        json_t *phases = json_object_get(json_object_get(document, arm_keys[i]), "phases");
        bars[i] = ab->arms[i].name;
        for (size_t p = 0; p < PHASE_COUNT; p++) {
            double ms = value(phases, parts[p]);
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
        double x = value(row, "step"), y = value(row, key);
        if (value(row, "seed") != 0 || !isfinite(y)) continue;
        if (points.count && points.x[points.count - 1] == x)
            points.y[points.count - 1] = fmax(points.y[points.count - 1], y);
        else
            points_add(&points, x, y);
    }
    return points;
}

static void add_certificates(Report *report, const json_t *rows) {
    static const char *const keys[] = {"output_error", "output_bound", "dq_error", "dq_bound", "dk_error", "dk_bound"};
    static const char *const names[] = {"output error", "output certificate", "dq error", "dq certificate", "dk error",
                                        "dk certificate"};
    enum { SERIES = 6 };
    Points points[SERIES];
    ChartSeries series[SERIES];
    for (size_t i = 0; i < SERIES; i++) {
        points[i] = largest_by_step(rows, keys[i]);
        series[i] = (ChartSeries){names[i], points[i].x, points[i].y, points[i].count, i % 2 == 1};
    }
    report_chart(report, &(Chart){"Error against certificate", "Largest over layers and heads on b's weights, against the "
                                  "same far field with the true exp; dashed: what is certified.", "step",
                                  "max-norm error", false, true, series, SERIES});
    for (size_t i = 0; i < SERIES; i++) free(points[i].x);
}

static void add_heat(Report *report, const Ab *ab, const json_t *rows) {
    size_t layers = ab->arms[1].config.layers, heads = ab->arms[1].config.heads, index;
    json_t *row, *last = json_array_get(rows, json_array_size(rows) - 1);
    double *values = malloc(layers * heads * sizeof *values);
    REQUIRE(values);
    for (size_t i = 0; i < layers * heads; i++) values[i] = NAN;
    json_array_foreach(rows, index, row) {
        if (value(row, "step") != value(last, "step") || value(row, "seed") != value(last, "seed")) continue;
        size_t cell = (size_t)value(row, "layer") * heads + (size_t)value(row, "head");
        if (cell < layers * heads) values[cell] = value(row, "output_relative");
    }
    report_heat(report, &(ChartHeat){"Output of b's attention against a's, by layer and head",
                                     "Relative difference ‖ô − o‖ / ‖o‖ on the same weights at the last measurement.",
                                     "layer", "head", values, layers, heads, true});
    free(values);
}

static void add_fidelity(Report *report, const Ab *ab, const json_t *document) {
    static const char *const columns[] = {"seed", "step", "loss_a", "loss_b", "difference", "relative", "cosine"};
    static const char *const headings[] = {"seed", "step", "loss by a", "loss by b", "largest difference",
                                           "relative difference", "cosine"};
    json_t *fidelity = json_object_get(document, "fidelity"), *rows = json_object_get(fidelity, "rows");
    if (!json_array_size(rows)) {
        report_section(report, "Fidelity", "The arms' models have different shapes, so there are no shared weights.");
        return;
    }
    report_section(report, "Fidelity", "On the weights of b and one held-out batch.");
    if (isfinite(value(json_array_get(rows, 0), "output_error"))) add_certificates(report, rows);
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
    report_section(report, "Learning", NULL);
    for (Curve which = 0; which < CURVES; which++) with_curve(document, which, draw_page, report);
    add_fidelity(report, ab, document);
    report_section(report, "Settings", NULL);
    for (size_t i = 0; i < ab->arm_count; i++) {
        char *text = config_text(&ab->arms[i].config);
        report_settings(report, ab->arms[i].name, text ? text : "");
        free(text);
    }
    return report_write(report, path, document, error);
}
