// Charts: series of points on linear or logarithmic axes, stacked bars, heat maps; drawn once as SVG for a report and
// once as text for a terminal. Drawing keeps no references to its inputs.
#ifndef ROPE_TRAIN_CHART_H
#define ROPE_TRAIN_CHART_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

enum { CHART_MAX_SERIES = 8 };

typedef struct ChartSeries {
    const char *name;
    const double *x, *y; // count each; points that are not finite (or ≤ 0 on a log axis) are left out
    size_t count;
    bool dashed;   // bounds, fits: drawn without markers
    size_t colour; // 0: its own; n: that of the n-th series, whose bound or fit it is
} ChartSeries;

typedef struct Chart {
    const char *title;
    const char *caption; // one sentence that says what the chart shows; read by screen readers
    const char *x_label, *y_label;
    bool log_x, log_y;
    const ChartSeries *series;
    size_t series_count; // at most CHART_MAX_SERIES
} Chart;

// Horizontal stacked bars: values (bars × parts), ≥ 0.
typedef struct ChartBars {
    const char *title, *caption, *unit;
    const char *const *bars, *const *parts;
    const double *values;
    size_t bar_count, part_count; // parts: at most 12
} ChartBars;

// A grid of values (rows × columns); NaN cells are left blank. Colour by value on a log scale if log_scale.
typedef struct ChartHeat {
    const char *title, *caption, *row_label, *column_label;
    const double *values;
    size_t rows, columns;
    bool log_scale;
} ChartHeat;

void chart_svg(FILE *out, const Chart *chart);
void chart_bars_svg(FILE *out, const ChartBars *bars);
void chart_heat_svg(FILE *out, const ChartHeat *heat);
// For terminals: width × height character cells with a legend below; Unicode where `unicode`, else ASCII.
void chart_text(FILE *out, const Chart *chart, size_t width, size_t height, bool unicode);
// Writes text with &, <, > and quotes escaped.
void chart_escape(FILE *out, const char *text);

// The axis of a chart: range and round tick values. Exposed for tests.
typedef struct ChartAxis {
    double low, high; // what the axis spans (log10 of it when logarithmic)
    double ticks[16];
    size_t tick_count;
    bool logarithmic;
} ChartAxis;
ChartAxis chart_axis(double low, double high, bool logarithmic);
// A short label: 0.001, 250, 1.5M, and 4K, 64K for powers of two (K = 1024), which context lengths are.
void chart_tick(char *text, size_t size, double value);

#endif
