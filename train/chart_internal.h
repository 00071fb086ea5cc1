// Shared by the ways of drawing charts.
#ifndef ROPE_TRAIN_CHART_INTERNAL_H
#define ROPE_TRAIN_CHART_INTERNAL_H

#include "train/chart.h"

// Finite, and positive where the axis is logarithmic.
bool chart_drawable(const Chart *chart, double x, double y);
// The axes that all drawable points span; false when there are none.
bool chart_ranges(const Chart *chart, ChartAxis *x_axis, ChartAxis *y_axis);

enum { CHART_WIDTH = 720, CHART_RIGHT = 16 }; // of every SVG, in its own units; its right margin
void chart_open_svg(FILE *out, const char *title, const char *caption, double height);
// anchor: "start", "middle", "end"
void chart_text_at(FILE *out, double x, double y, const char *class, const char *anchor, const char *text);
// One entry of a legend: what it looks like (style classes kind + colour, look), and its name.
void chart_legend_entry(FILE *out, const char *kind, size_t colour, const char *look, const char *name);

#endif
