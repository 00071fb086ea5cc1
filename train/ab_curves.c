// The curves of a comparison, for the terminal and for the page (ab_curves.h).
#include "train/ab_curves.h"

#include <stdlib.h>
#include <string.h>

#include "train/figures.h"

const char *const ab_arm_keys[AB_ARMS] = {"a", "b", "control"};

Points points_new(size_t capacity) {
    double *memory = calloc(2 * (capacity + 1), sizeof *memory);
    return (Points){memory, memory ? memory + capacity + 1 : NULL, 0};
}

void points_add(Points *points, double x, double y) {
    if (!points->x) return;
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

static bool same_batches(const json_t *document) {
    const json_t *rows = json_object_get(document, "differences"), *row;
    size_t index;
    json_array_foreach(rows, index, row) {
        const char *name = json_string_value(json_object_get(row, "setting"));
        if (name && (!strcmp(name, "train.batch") || !strcmp(name, "train.accumulate") || !strcmp(name, "model.tokens")))
            return false;
    }
    return true;
}

// Calls draw with the finished chart. False if memory was out for it.
static bool with_curve(const json_t *document, Curve which, void (*draw)(void *, const Chart *), void *context) {
    ChartSeries series[AB_ARMS];
    Points points[AB_ARMS];
    size_t count = 0;
    bool whole = true;
    for (size_t i = 0; i < AB_ARMS; i++) {
        json_t *arm = json_object_get(document, ab_arm_keys[i]);
        if (!arm) continue;
        points[count] = curve_points(document, ab_arm_keys[i], which);
        whole = whole && points[count].x;
        series[count] = (ChartSeries){json_string_value(json_object_get(arm, "name")),
                                      points[count].x,
                                      points[count].y,
                                      points[count].count,
                                      false,
                                      0};
        count++;
    }
    Chart chart = curve_charts[which];
    if (which == CURVE_HELD_OUT && !same_batches(document)) chart.caption = "First seed; the arms saw other batches.";
    chart.series = series;
    chart.series_count = count;
    draw(context, &chart);
    for (size_t i = 0; i < count; i++) free(points[i].x);
    return whole;
}

bool ab_draw_curves(const json_t *document, bool brief, void (*draw)(void *, const Chart *), void *context) {
    bool whole = true;
    for (Curve which = 0; which < CURVES; which++)
        if (has_curve(document, which) && !(brief && which == CURVE_HELD_OUT_SECONDS))
            whole = with_curve(document, which, draw, context) && whole;
    return whole;
}
