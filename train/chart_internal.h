// Shared by the two ways of drawing a chart.
#ifndef ROPE_TRAIN_CHART_INTERNAL_H
#define ROPE_TRAIN_CHART_INTERNAL_H

#include "train/chart.h"

// Finite, and positive where the axis is logarithmic.
bool chart_drawable(const Chart *chart, double x, double y);
// The axes that all drawable points span; false when there are none.
bool chart_ranges(const Chart *chart, ChartAxis *x_axis, ChartAxis *y_axis);

#endif
