// The same charts in a terminal: each series a mark on a grid of characters (chart.h).
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "train/chart.h"
#include "train/chart_internal.h"

static size_t cell(const ChartAxis *axis, double value, size_t cells) {
    double position = axis->logarithmic ? log10(value) : value;
    double share = (position - axis->low) / (axis->high - axis->low);
    long index = lround(share * (double)(cells - 1));
    return index < 0 ? 0 : (size_t)index >= cells ? cells - 1 : (size_t)index;
}

// Marks every column between two neighbouring points, so that a line shows as one.
static void draw_segment(unsigned char *grid, size_t width, size_t x0, size_t y0, size_t x1, size_t y1,
                         unsigned char mark) {
    size_t steps = (x1 > x0 ? x1 - x0 : x0 - x1), rise = (y1 > y0 ? y1 - y0 : y0 - y1);
    if (rise > steps) steps = rise;
    for (size_t i = 0; i <= steps; i++) {
        double share = steps ? (double)i / (double)steps : 0;
        size_t x = (size_t)lround((double)x0 + ((double)x1 - (double)x0) * share);
        size_t y = (size_t)lround((double)y0 + ((double)y1 - (double)y0) * share);
        grid[y * width + x] = mark;
    }
}

void chart_text(FILE *out, const Chart *chart, size_t width, size_t height, bool unicode) {
    static const char *const marks_unicode[CHART_MAX_SERIES] = {"●", "○", "◆", "◇", "■", "□", "▲", "△"};
    static const char *const marks_ascii[CHART_MAX_SERIES] = {"*", "o", "+", "x", "#", "@", "%", "="};
    const char *const *marks = unicode ? marks_unicode : marks_ascii;
    ChartAxis x_axis, y_axis;
    unsigned char *grid = calloc(width * height, 1);
    if (!grid || !chart_ranges(chart, &x_axis, &y_axis)) {
        free(grid);
        return;
    }
    for (size_t s = 0; s < chart->series_count; s++) {
        const ChartSeries *series = &chart->series[s];
        size_t last_x = 0, last_y = 0;
        bool pen_down = false;
        for (size_t i = 0; i < series->count; i++) {
            bool here = chart_drawable(chart, series->x[i], series->y[i]);
            if (here) {
                size_t x = cell(&x_axis, series->x[i], width), y = height - 1 - cell(&y_axis, series->y[i], height);
                draw_segment(grid, width, pen_down ? last_x : x, pen_down ? last_y : y, x, y, (unsigned char)(s + 1));
                last_x = x;
                last_y = y;
            }
            pen_down = here;
        }
    }
    char low[32], high[32];
    fprintf(out, "  %s (%s over %s)\n", chart->title, chart->y_label, chart->x_label);
    chart_tick(high, sizeof high, y_axis.logarithmic ? pow(10, y_axis.high) : y_axis.high);
    chart_tick(low, sizeof low, y_axis.logarithmic ? pow(10, y_axis.low) : y_axis.low);
    for (size_t y = 0; y < height; y++) {
        fprintf(out, "%10s %s", y == 0 ? high : y == height - 1 ? low : "", unicode ? "│" : "|");
        for (size_t x = 0; x < width; x++) fputs(grid[y * width + x] ? marks[grid[y * width + x] - 1] : " ", out);
        fputc('\n', out);
    }
    chart_tick(low, sizeof low, x_axis.logarithmic ? pow(10, x_axis.low) : x_axis.low);
    chart_tick(high, sizeof high, x_axis.logarithmic ? pow(10, x_axis.high) : x_axis.high);
    fprintf(out, "%10s %s", "", unicode ? "└" : "+");
    for (size_t x = 0; x < width; x++) fputs(unicode ? "─" : "-", out);
    fprintf(out, "\n%12s%-*s%s\n           ", "", (int)(width > strlen(high) ? width - strlen(high) : 1), low, high);
    for (size_t s = 0; s < chart->series_count; s++) fprintf(out, "  %s %s", marks[s], chart->series[s].name);
    fputc('\n', out);
    free(grid);
}
